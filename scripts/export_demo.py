#!/usr/bin/env python3
"""Turn a run of train_demo.py into GGUF files, figures and a test reference.

    python scripts/export_demo.py --run /tmp/drelu --text stories.txt ... --ship models/demo \\
        --reference tests/data/demo

Writes RUN/model-f32.gguf, RUN/model-q8.gguf and the shipped file (FFN Q4_0, other matrices
Q8_0, norms and router F32), reads each back, measures the held-out loss with the weights as
stored, prints everything as JSON and saves it as RUN/report.json.
"""

import argparse
import json
import math
import os
import sys

import numpy as np
import torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from demo_models import data, export  # noqa: E402
from demo_models.model import Config, Model  # noqa: E402
from train_demo import evaluate  # noqa: E402

TEXT = {
    "drelu": "Writes short children's stories. llama with FFN = down(relu(gate x) * relu(up x)), "
             "trained to keep most neurons at zero. Demo model of sparsegen, trained on TinyStories.",
    "moe": "Writes short children's stories. Mixture of ReGLU experts with a pre-attention "
           "sigmoid router. Demo model of sparsegen, trained on TinyStories.",
}
PROMPTS = ["Once upon a time", "One day, a little girl named Lily"]

REFERENCE_PROMPTS = [
    "Once upon a time, there was a little girl named Lily. She loved to",
    "Once upon a time, there was a boy named Tim. Tim had a",
    "One day, Tom and Lily went to the park. They saw a",
    "Lily was very sad. Her mom said,",
    "Once there was a big dog who lived in a",
    "The sun was warm and the birds were",
    "Ben wanted to help his friend, so he",
    "Sara and her mom went to the",
]


def reference(folder, name, model, sp):
    """32 greedy ids (end of text ignored) and the logits of the last 4 prompt positions, for
    the prompt whose greedy path has the clearest choices."""
    best = None
    for prompt in REFERENCE_PROMPTS:
        ids = [data.BOS] + sp.encode(prompt)
        greedy = model.generate(ids, 32, eos=None)
        with torch.no_grad():
            rows = model(torch.tensor([ids + greedy]))[0, len(ids) - 4: -1].float()
        top = rows[3:].topk(2, -1).values
        margin = float((top[:, 0] - top[:, 1]).min())
        if best is None or margin > best[0]:
            best = margin, prompt, ids, greedy, rows[:4]
    margin, prompt, ids, greedy, logits = best
    os.makedirs(folder, exist_ok=True)
    logits.numpy().astype("<f4").tofile(os.path.join(folder, name + ".f32"))
    ref = dict(model=f"models/demo/{name}.gguf", prompt=prompt, prompt_ids=ids, greedy_ids=greedy,
               greedy_text=sp.decode(greedy), greedy_min_margin=round(margin, 5),
               logits=dict(file=name + ".f32", dtype="<f4", rows=4, cols=model.c.vocab,
                           what="last 4 prompt positions, weights unpacked to F32, all in F32"))
    with open(os.path.join(folder, name + ".json"), "w") as f:
        json.dump(ref, f, indent=1)
        f.write("\n")
    return ref["greedy_min_margin"]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--run", required=True)
    p.add_argument("--text", nargs="+", required=True, help="the files of the training run")
    p.add_argument("--tokenizer", help="default RUN/tok.model")
    p.add_argument("--types", nargs="+", choices=export.TYPES, default=["f32", "q8", "q4q8"],
                   help="q4q8, the shipped one, must be the last")
    p.add_argument("--ship", help="folder of the shipped file")
    p.add_argument("--reference", help="folder of the test reference")
    p.add_argument("--threads", type=int, default=2)
    o = p.parse_args()
    torch.set_num_threads(o.threads)

    ck = torch.load(os.path.join(o.run, "best.pt"), weights_only=False)
    model = Model(Config(**ck["config"]))
    model.load_state_dict(ck["model"])
    model.eval()
    _, held_s = data.split_heldout(data.read_stories(o.text))
    sp = data.tokenizer(o.tokenizer or os.path.join(o.run, "tok.model"), [])
    held = data.encode(sp, held_s)
    n = sum(p.numel() for p in model.parameters())
    kind = model.c.kind
    name = f"stories-{kind}-{n / 1e6:.0f}M"
    rep = dict(name=name, parameters=n, config=ck["config"], step=ck["step"],
               minutes=round(ck["seconds"] / 60, 1), training_tokens=ck["tokens"],
               held_tokens=sum(len(s) - 1 for s in held), options=ck["options"], files={})
    for mix in o.types:
        path = os.path.join(o.run, f"model-{mix}.gguf")
        if mix == "q4q8" and o.ship:
            os.makedirs(o.ship, exist_ok=True)
            path = os.path.join(o.ship, name + ".gguf")
        export.write(path, model, sp, mix, name, TEXT[kind])
        loaded = export.read_into(path, Model(model.c)).eval()
        loss, active, share = evaluate(loaded, held)
        print(mix, loss, active, file=sys.stderr, flush=True)
        rep["files"][mix] = dict(bytes=os.path.getsize(path), loss=round(loss, 4),
                                 perplexity=round(math.exp(loss), 2),
                                 inactive=[round(1 - a, 4) for a in active])
        if model.c.n_expert:
            rep["files"][mix]["expert_share"] = [[round(x, 4) for x in row] for row in share]
    rep["samples"] = []
    for prompt in PROMPTS:
        ids = [data.BOS] + sp.encode(prompt)
        for temp in (0.0, 0.8):
            out = loaded.generate(ids, min(300, model.c.ctx - len(ids)), temp)
            rep["samples"].append(dict(prompt=prompt, temperature=temp, tokens=len(out),
                                       ended=out[-1] == data.EOS,
                                       text=sp.decode(ids[1:] + [i for i in out if i != data.EOS])))
    if o.reference:
        rep["greedy_min_margin"] = reference(o.reference, name, loaded, sp)
    with open(os.path.join(o.run, "report.json"), "w") as f:
        json.dump(rep, f, indent=1)
    print(json.dumps(rep, indent=1))


if __name__ == "__main__":
    main()
