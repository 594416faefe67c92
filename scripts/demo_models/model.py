"""The two demo networks, computed the way the GGUF architectures of the same name are.

drelu: `llama` with FFN = down(relu(gate x) * relu(up x)), rotary pairs (2i, 2i+1).
moe:   `smallthinker` with FFN = down(relu(gate x) * (up x)) per expert, rotary pairs
       (i, i + n/2), and a sigmoid router that reads the layer input before attention.
"""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Config:
    kind: str = "drelu"
    vocab: int = 2048
    d_model: int = 256
    n_layer: int = 5
    n_head: int = 8
    n_kv: int = 4
    d_ff: int = 1024
    n_expert: int = 0
    top_k: int = 0
    ctx: int = 384
    rope_base: float = 10000.0
    eps: float = 1e-5
    dropout: float = 0.1

    @property
    def d_head(self):
        return self.d_model // self.n_head

    def to_dict(self):
        return asdict(self)


class RMSNorm(nn.Module):
    def __init__(self, n, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))
        self.eps = eps

    def forward(self, x):
        x = x.float()
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def rotary(x, cos, sin, interleaved):
    """x: rows, heads, positions, d_head."""
    if interleaved:
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.q = nn.Linear(c.d_model, c.n_head * c.d_head, bias=False)
        self.k = nn.Linear(c.d_model, c.n_kv * c.d_head, bias=False)
        self.v = nn.Linear(c.d_model, c.n_kv * c.d_head, bias=False)
        self.o = nn.Linear(c.n_head * c.d_head, c.d_model, bias=False)

    def forward(self, x, cos, sin):
        c, (b, t, _) = self.c, x.shape
        heads = lambda y, n: y.view(b, t, n, c.d_head).transpose(1, 2)
        inter = c.kind == "drelu"
        v = heads(self.v(x), c.n_kv)
        q = rotary(heads(self.q(x), c.n_head).float(), cos, sin, inter).to(v.dtype)
        k = rotary(heads(self.k(x), c.n_kv).float(), cos, sin, inter).to(v.dtype)
        k = k.repeat_interleave(c.n_head // c.n_kv, 1)
        v = v.repeat_interleave(c.n_head // c.n_kv, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(y.transpose(1, 2).reshape(b, t, -1))


def sparsity(h):
    """Penalty and share of active neurons of one activation. The penalty is
    L1 / L2, which scaling the activation does not change: only zeros lower it."""
    a = h.float().abs()
    penalty = a.mean() / (a.pow(2).mean() + 1e-12).sqrt()
    return penalty, (h != 0).float().mean().detach()


class DenseFFN(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate = nn.Linear(c.d_model, c.d_ff, bias=False)
        self.up = nn.Linear(c.d_model, c.d_ff, bias=False)
        self.down = nn.Linear(c.d_ff, c.d_model, bias=False)

    def forward(self, x, _router_in, st):
        h = F.relu(self.gate(x)) * F.relu(self.up(x))
        if st is not None:
            st.ffn(h)
        return self.down(h)


class ExpertFFN(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.router = nn.Linear(c.d_model, c.n_expert, bias=False)
        self.gate = nn.Parameter(torch.empty(c.n_expert, c.d_ff, c.d_model))
        self.up = nn.Parameter(torch.empty(c.n_expert, c.d_ff, c.d_model))
        self.down = nn.Parameter(torch.empty(c.n_expert, c.d_model, c.d_ff))

    def forward(self, x, router_in, st):
        c, shape = self.c, x.shape
        x = x.reshape(-1, c.d_model)
        with torch.autocast("cpu", enabled=False):
            logits = F.linear(router_in.reshape(-1, c.d_model).float(), self.router.weight)
        s = torch.sigmoid(logits)
        w, idx = s.topk(c.top_k, -1)
        w = w / w.sum(-1, keepdim=True)
        # Tokens sorted by expert, one run of rows for each.
        flat = idx.reshape(-1)
        order = flat.argsort(stable=True)
        token = order // c.top_k
        count = torch.bincount(flat, minlength=c.n_expert)
        xs = x[token]
        if torch.is_autocast_enabled("cpu"):
            xs = xs.to(torch.bfloat16)
        gate, up, down = self.gate.unbind(0), self.up.unbind(0), self.down.unbind(0)
        hs, ys = [], []
        for e, rows in enumerate(xs.split(count.tolist())):
            if rows.shape[0] == 0:
                continue
            h = F.relu(F.linear(rows, gate[e])) * F.linear(rows, up[e])
            hs.append(h)
            ys.append(F.linear(h, down[e]))
        y = torch.cat(ys).float() * w.reshape(-1)[order].unsqueeze(-1)
        out = torch.zeros_like(x, dtype=torch.float32).index_add_(0, token, y)
        if st is not None:
            share = count.float() / flat.numel()
            prob = (s / s.sum(-1, keepdim=True)).mean(0)
            st.ffn(torch.cat(hs))
            # The second term keeps the scores off the flat ends of the sigmoid.
            st.route(share, c.n_expert * (share * prob).sum() + 0.02 * logits.pow(2).mean())
        return out.view(shape)


class Stats:
    """What one forward pass says about sparsity and routing, per layer."""

    def __init__(self):
        self.penalty, self.active, self.share, self.balance = [], [], [], []

    def ffn(self, h):
        p, a = sparsity(h)
        self.penalty.append(p)
        self.active.append(a)

    def route(self, share, balance):
        self.share.append(share.detach())
        self.balance.append(balance)


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.attn_norm = RMSNorm(c.d_model, c.eps)
        self.attn = Attention(c)
        self.ffn_norm = RMSNorm(c.d_model, c.eps)
        self.ffn = ExpertFFN(c) if c.n_expert else DenseFFN(c)
        self.drop = nn.Dropout(c.dropout)

    def forward(self, x, cos, sin, st):
        router_in = x
        x = x + self.drop(self.attn(self.attn_norm(x), cos, sin))
        return x + self.drop(self.ffn(self.ffn_norm(x), router_in, st))


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.embed = nn.Embedding(c.vocab, c.d_model)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.n_layer))
        self.norm = RMSNorm(c.d_model, c.eps)
        self.drop = nn.Dropout(c.dropout)
        for name, p in self.named_parameters():
            if p.dim() >= 2:
                std = 0.05 if "embed" in name or "router" in name else p.shape[-1] ** -0.5
                if name.endswith(("down", "down.weight", "o.weight")):
                    std *= (2 * c.n_layer) ** -0.5
                nn.init.normal_(p, std=std)

    def forward(self, ids, stats=None):
        c = self.c
        pos = torch.arange(ids.shape[1], dtype=torch.float32)
        freq = c.rope_base ** (-torch.arange(0, c.d_head, 2, dtype=torch.float32) / c.d_head)
        angle = torch.outer(pos, freq)
        cos, sin = angle.cos(), angle.sin()
        x = self.drop(self.embed(ids)).float()
        for layer in self.layers:
            x = layer(x, cos, sin, stats)
        return F.linear(self.norm(x), self.embed.weight)

    @torch.no_grad()
    def generate(self, ids, n, temperature=0.0, top_p=0.95, eos=2, seed=0):
        """New ids after `ids`; temperature 0 is greedy, eos=None never stops."""
        g, ids = torch.Generator().manual_seed(seed), list(ids)
        first = len(ids)
        for _ in range(n):
            logits = self(torch.tensor([ids]))[0, -1].float()
            if temperature <= 0:
                new = int(logits.argmax())
            else:
                p, order = torch.softmax(logits / temperature, -1).sort(descending=True)
                p[(p.cumsum(0) - p) > top_p] = 0
                new = int(order[torch.multinomial(p, 1, generator=g)])
            ids.append(new)
            if new == eos:
                break
        return ids[first:]
