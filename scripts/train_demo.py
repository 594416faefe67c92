#!/usr/bin/env python3
"""Train one of the two demo models on a CPU.

    python scripts/train_demo.py --model drelu --minutes 20 --out /tmp/drelu
    python scripts/train_demo.py --model moe   --minutes 30 --out /tmp/moe --init /tmp/drelu

Needs torch, sentencepiece, numpy; scripts/export_demo.py turns the result into GGUF.
The run can be stopped at any time and goes on from --out when started again;
--out/best.pt always holds the best weights so far.
"""

import argparse
import math
import os
import sys
import time

import torch
import torch.nn.functional as F

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from demo_models import data  # noqa: E402
from demo_models.model import Config, Model, Stats  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
DEFAULT_TEXT = [os.path.join(HERE, "../../shared/data/text", f)
                for f in ("tinystories_a.txt", "tinystories_10k.txt")]
PRESET = {
    "drelu": dict(n_layer=5, d_ff=1024),
    "moe": dict(n_layer=5, d_ff=256, n_expert=24, top_k=2),
}


def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--model", choices=PRESET, required=True)
    p.add_argument("--out", required=True, help="folder for checkpoints, tokenizer, log")
    p.add_argument("--text", nargs="+", default=[f for f in DEFAULT_TEXT if os.path.exists(f)],
                   help="story files (.txt) and GSM8K files (.jsonl, questions only)")
    p.add_argument("--init", help="for moe: begin with what a drelu run (its folder) has learnt")
    p.add_argument("--tokenizer", help="SentencePiece model; trained when absent (OUT/tok.model)")
    p.add_argument("--minutes", type=float, default=20, help="training time; sets the schedule")
    p.add_argument("--steps", type=int, help="schedule by steps instead of minutes")
    p.add_argument("--ctx", type=int, default=384)
    p.add_argument("--rows", type=int, default=8, help="rows of ctx tokens per step")
    p.add_argument("--lr", type=float, default=1.5e-3)
    p.add_argument("--muon-lr", type=float, default=0.01, help="2-D matrices; 0: AdamW for all")
    p.add_argument("--weight-decay", type=float, default=0.1)
    p.add_argument("--dropout", type=float, default=0.1)
    p.add_argument("--active", type=float, help="share of active neurons to aim at "
                   "(default 0.15 for drelu, 0.25 for moe)")
    p.add_argument("--balance", type=float, default=0.05, help="weight of the load balancing loss")
    for key in ("n-layer", "d-ff", "n-expert"):
        p.add_argument("--" + key, type=int)
    p.add_argument("--eval-every", type=int, default=150, help="steps")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--fp32", action="store_true", help="no bfloat16 autocast")
    p.add_argument("--seed", type=int, default=1)
    o = p.parse_args()
    if not o.text:
        p.error("no text found, name some with --text")
    if o.active is None:
        o.active = 0.15 if o.model == "drelu" else 0.25
    return o


@torch.no_grad()
def evaluate(model, held, autocast=False, rows=1):
    """Loss per token on held-out stories (each from its start, at most ctx tokens), share of
    active neurons per layer, share of tokens per expert and layer. With more than one row
    the shares count the padding too; the loss never does."""
    was, loss, tokens = model.training, 0.0, 0
    model.eval()
    active = torch.zeros(model.c.n_layer)
    share = torch.zeros(model.c.n_layer, max(model.c.n_expert, 1))
    for x, y in data.padded(held, model.c.ctx, rows):
        x, y = torch.from_numpy(x), torch.from_numpy(y)
        st = Stats()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = model(x, st)
        n = int((y >= 0).sum())
        loss += F.cross_entropy(logits.float().flatten(0, 1), y.flatten(), ignore_index=-1,
                                reduction="sum").item()
        tokens += n
        active += n * torch.stack(st.active)
        if st.share:
            share += n * torch.stack(st.share)
    model.train(was)
    return loss / tokens, (active / tokens).tolist(), (share / tokens).tolist()


@torch.no_grad()
def upcycle(model, dense):
    """Begins a moe model with a drelu model of the same width and depth: embedding, norms and
    attention as they are (rotary pairs moved), every expert a draw of the dense neurons."""
    c = model.c
    own = model.state_dict()
    for name, w in dense.items():
        if name.endswith(("attn.q.weight", "attn.k.weight")):
            # rows of a head: (0, 1), (2, 3), .. become (0, n/2), (1, n/2 + 1), ..
            w = w.view(-1, c.d_head // 2, 2, c.d_model).transpose(1, 2).reshape(w.shape)
        if name in own:
            own[name].copy_(w)
    for n in range(c.n_layer):
        at = f"layers.{n}.ffn."
        width = dense[at + "gate.weight"].shape[0]
        for e in range(c.n_expert):
            pick = torch.randperm(width)[: c.d_ff]
            own[at + "gate"][e] = dense[at + "gate.weight"][pick]
            own[at + "up"][e] = dense[at + "up.weight"][pick]
            own[at + "down"][e] = 2 * dense[at + "down.weight"][:, pick]


def optimizers(model, o):
    """Muon for the 2-D matrices of the layers, AdamW for the rest."""
    muon, decay, plain = [], [], []
    for name, p in model.named_parameters():
        if p.dim() == 2 and "layers" in name and "router" not in name and o.muon_lr > 0:
            muon.append(p)
        elif p.dim() >= 2:
            decay.append(p)
        else:
            plain.append(p)
    groups = [dict(params=decay, weight_decay=o.weight_decay), dict(params=plain, weight_decay=0.0)]
    opts = [torch.optim.AdamW(groups, lr=o.lr, betas=(0.9, 0.98), fused=True)]
    if muon:
        opts.append(torch.optim.Muon(muon, lr=o.muon_lr, weight_decay=o.weight_decay))
    for opt in opts:
        for g in opt.param_groups:
            g["base_lr"] = g["lr"]
    return opts


def schedule(progress):
    """Warm-up over 2 %, then a cosine down to 2 % of the rate."""
    if progress < 0.02:
        return progress / 0.02
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (progress - 0.02) / 0.98))


def target_active(progress, start, final):
    """Share of active neurons asked for: `start` (what random weights give), `final` from 60 % on."""
    return start + (final - start) * min(1.0, progress / 0.6)


def save(path, state):
    torch.save(state, path + ".part")
    os.replace(path + ".part", path)


def main():
    o = options()
    torch.set_num_threads(o.threads)
    torch.manual_seed(o.seed)
    os.makedirs(o.out, exist_ok=True)
    log_file = open(os.path.join(o.out, "log.txt"), "a", buffering=1)

    def log(msg):
        print(msg, flush=True)
        print(msg, file=log_file)

    train_s, held_s = data.split_heldout(data.read_stories(o.text))
    sp = data.tokenizer(o.tokenizer or os.path.join(o.out, "tok.model"), train_s)
    train, held = data.encode(sp, train_s), data.encode(sp, held_s)
    size = {k: getattr(o, k) for k in ("n_layer", "d_ff", "n_expert") if getattr(o, k)}
    c = Config(**{"kind": o.model, "vocab": sp.vocab_size(), "ctx": o.ctx, "dropout": o.dropout,
                  **PRESET[o.model], **size})
    model = Model(c)
    if o.init:
        upcycle(model, torch.load(os.path.join(o.init, "best.pt"), weights_only=False)["model"])
    opts = optimizers(model, o)
    batches = data.Batches(train, o.ctx, o.rows, o.seed)
    lam = torch.full((c.n_layer,), 1e-3)  # weight of the sparsity penalty, led per layer
    step, before, best = 0, 0.0, (False, float("-inf"))
    last = os.path.join(o.out, "last.pt")
    if os.path.exists(last):
        s = torch.load(last, weights_only=False)
        model.load_state_dict(s["model"])
        for opt, so in zip(opts, s["opts"]):
            opt.load_state_dict(so)
        lam, step, before, best = s["lam"], s["step"], s["seconds"], s["best"]
        batches.rng.seed(o.seed + step)
        log(f"resumed at step {step}")
    log(f"{len(train)} stories, {sum(map(len, train))} tokens; held out {len(held)} stories, "
        f"{sum(map(len, held))} tokens; {sum(p.numel() for p in model.parameters())} parameters")
    log(f"config {c.to_dict()} options {vars(o)}")

    model.train()
    start = 0.25 if o.model == "drelu" else 0.5
    t0, mean_loss, mean_act = time.time(), None, torch.full((c.n_layer,), start)
    while True:
        seconds = before + time.time() - t0
        progress = step / o.steps if o.steps else seconds / 60 / o.minutes
        done = progress >= 1
        if step % o.eval_every == 0 or done:
            loss, active, share = evaluate(model, held, not o.fp32, rows=16)
            sparse = max(active) <= (0.2 if o.model == "drelu" else 0.4)
            state = dict(model=model.state_dict(), config=c.to_dict(), step=step, seconds=seconds,
                         loss=loss, tokens=step * o.rows * o.ctx, options=vars(o))
            if step and (sparse, -loss) > best:
                best = (sparse, -loss)
                save(os.path.join(o.out, "best.pt"), state)
            if step:
                save(last, dict(state, opts=[opt.state_dict() for opt in opts], lam=lam, best=best))
            busy = max((max(x) for x in share), default=0) * max(c.n_expert, 1)
            log(f"step {step} epoch {batches.epoch} {seconds / 60:.1f} min, "
                f"train {mean_loss or 0:.4f} held {loss:.4f} best {-best[1]:.4f}, active "
                + " ".join(f"{a:.3f}" for a in active)
                + f", lam {lam.mean():.4f}" + (f", busiest x{busy:.2f}" if c.n_expert else ""))
        if done:
            break
        x, y = batches.next()
        st = Stats()
        with torch.autocast("cpu", torch.bfloat16, enabled=not o.fp32):
            logits = model(torch.from_numpy(x), st)
        ce = F.cross_entropy(logits.float().flatten(0, 1), torch.from_numpy(y).flatten())
        total = ce + (lam * torch.stack(st.penalty)).sum()
        if st.balance:
            total = total + o.balance * torch.stack(st.balance).sum()
        for opt in opts:
            for g in opt.param_groups:
                g["lr"] = g["base_lr"] * schedule(progress)
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        step += 1
        mean_loss = ce.item() if mean_loss is None else 0.98 * mean_loss + 0.02 * ce.item()
        mean_act = 0.9 * mean_act + 0.1 * torch.stack(st.active)
        # The controller: 3 % more where the layer is too busy, 3 % less where it is not.
        too_busy = (mean_act > target_active(progress, start, o.active)).float()
        lam = (lam * (0.97 + 0.06 * too_busy)).clamp(1e-3, 2.0)
    log(f"done: best held-out loss {-best[1]:.4f}")


if __name__ == "__main__":
    main()
