#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Look into the feed-forward layers of a llama GGUF: a small forward pass in numpy, float32, one sequence.

    gguf_forward.py MODEL.gguf [--tokens ID ID ...]

prints for every layer how many neurons are active, how often a neuron whose gate fires is active (with dReLU the up product
must be positive too), and the correlation of a neuron's gate and up products. Types: F32, F16, Q8_0, Q4_0; activations are not
rounded, unlike in sparsegen. make_sparse.py checks with it what it made. Needs numpy.
"""
import argparse
import struct
import sys

import numpy as np

from gguf_file import BLOCKS, GgufFile

UNPACKED = (0, 1, 2, 8)  # types that `unpack` knows
ROWS = 1024  # of a matrix, unpacked at a time: bounds the memory used


def unpack(raw, kind):
    """The values of whole blocks, as float32 of shape (n,). raw: uint8."""
    if kind == 0:
        return raw.view("<f4")
    if kind == 1:
        return raw.view("<f2").astype(np.float32)
    blocks = raw.reshape(-1, BLOCKS[kind][1])
    scale = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
    if kind == 8:
        return (np.ascontiguousarray(blocks[:, 2:]).view(np.int8) * scale).reshape(-1)
    values = np.empty((len(blocks), 32), np.float32)
    values[:, :16] = blocks[:, 2:] & 15
    values[:, 16:] = blocks[:, 2:] >> 4
    values -= 8
    values *= scale
    return values.reshape(-1)


class Gguf(GgufFile):
    """A GGUF file whose tensors are read as float32."""

    def rows(self, name, first, count):
        """Rows first .. first + count - 1 of a tensor as float32 [count, values of a row]."""
        dims, kind, offset = self.tensors[name]
        if kind not in UNPACKED:
            raise ValueError(f"{name} has type {kind}; only F32, F16, Q8_0 and Q4_0 can be unpacked")
        values, size = BLOCKS[kind]
        row = dims[0] // values * size
        raw = np.frombuffer(self.map, np.uint8, count * row, self.data + offset + first * row)
        return unpack(raw, kind).reshape(count, dims[0])

    def times(self, name, x):
        """x [n, inputs] times the transposed matrix: [n, outputs]."""
        outputs = self.tensors[name][0][1]
        return np.concatenate([x @ self.rows(name, i, min(ROWS, outputs - i)).T for i in range(0, outputs, ROWS)], axis=1)


def rotate(x, base):
    """Rotary embedding of x [n, heads, size] at the positions 0 .. n - 1; neighbours are the pairs, as in llama."""
    n, _, size = x.shape
    angle = np.arange(n)[:, None] * base ** (-np.arange(0, size, 2) / size)
    cos, sin = np.cos(angle)[:, None].astype(np.float32), np.sin(angle)[:, None].astype(np.float32)
    even, odd = x[..., ::2], x[..., 1::2]
    return np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)


def attend(q, k, v):
    """Causal grouped-query attention: q [n, heads, size], k and v [n, kv heads, size] -> [n, heads * size]."""
    n, heads, size = q.shape
    k, v = (np.repeat(a, heads // a.shape[1], axis=1) for a in (k, v))
    scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(size)
    scores[:, np.triu(np.ones((n, n), bool), 1)] = -np.inf
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    scores /= scores.sum(-1, keepdims=True)
    return np.einsum("hij,jhd->ihd", scores, v).reshape(n, heads * size)


class Forward:
    """The llama architecture over one sequence of token ids."""

    def __init__(self, gguf):
        self.g = gguf
        keys = gguf.keys
        if keys.get("general.architecture") != "llama":
            raise ValueError("the architecture is not llama")
        self.layers = keys["llama.block_count"]
        self.heads = keys["llama.attention.head_count"]
        self.kv_heads = keys.get("llama.attention.head_count_kv", self.heads)
        self.eps = keys["llama.attention.layer_norm_rms_epsilon"]
        self.base = keys.get("llama.rope.freq_base", 1e4)
        self.act = keys.get("sparsegen.ffn_activation", "silu")

    def norm(self, name, x):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.g.rows(name, 0, 1)[0]

    def attention(self, i, x):
        x = self.norm(f"blk.{i}.attn_norm.weight", x)
        q, k, v = (self.g.times(f"blk.{i}.attn_{name}.weight", x) for name in "qkv")
        q = rotate(q.reshape(len(x), self.heads, -1), self.base)
        k = rotate(k.reshape(len(x), self.kv_heads, -1), self.base)
        return self.g.times(f"blk.{i}.attn_output.weight", attend(q, k, v.reshape(len(x), self.kv_heads, -1)))

    def activate(self, gate, up):
        if self.act == "silu":
            return gate / (1 + np.exp(-gate)) * up
        return np.maximum(gate, 0) * (np.maximum(up, 0) if self.act == "drelu" else up)

    def run(self, ids, look):
        """Evaluates the ids; look(layer, gate, up, h) sees each layer's products, [n, neurons] each. Returns the residual
        stream behind the last layer."""
        x = np.concatenate([self.g.rows("token_embd.weight", i, 1) for i in ids])
        for i in range(self.layers):
            x = x + self.attention(i, x)
            y = self.norm(f"blk.{i}.ffn_norm.weight", x)
            gate, up = self.g.times(f"blk.{i}.ffn_gate.weight", y), self.g.times(f"blk.{i}.ffn_up.weight", y)
            h = self.activate(gate, up)
            look(i, gate, up, h)
            x = x + self.g.times(f"blk.{i}.ffn_down.weight", h)
        return x


def describe(gate, up, h):
    """Figures of one layer over all tokens: shares of active neurons, of firing gates, and the correlation of gate and up."""
    active, fires = (h != 0).mean(), (gate > 0).mean()
    g, u = gate - gate.mean(0), up - up.mean(0)
    spread = np.sqrt((g * g).sum(0) * (u * u).sum(0))
    return {"active": float(active), "gate": float(fires), "active_of_gate": float(active / max(fires, 1e-9)),
            "up": float((up > 0).mean()), "correlation": float(((g * u).sum(0) / np.maximum(spread, 1e-9)).mean())}


def main():
    """Read the command line, print a line per layer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL.gguf", help="file to look into")
    parser.add_argument("--tokens", type=int, nargs="+", metavar="ID", default=[1],
                        help="token ids to evaluate (default %(default)s)")
    args = parser.parse_args()

    def look(i, gate, up, h):
        d = describe(gate, up, h)
        print(f"layer {i}: active {d['active']:.2%}, gate fires {d['gate']:.2%}, active of those {d['active_of_gate']:.2%}, "
              f"up positive {d['up']:.2%}, correlation {d['correlation']:.3f}")

    try:
        model = Forward(Gguf(args.model))
        vocabulary = model.g.tensors["token_embd.weight"][0][1]
        if not all(0 <= i < vocabulary for i in args.tokens):
            sys.exit(f"gguf_forward: token ids go from 0 to {vocabulary - 1}")
        model.run(args.tokens, look)
    except OSError as error:
        sys.exit(f"gguf_forward: cannot read {args.model}: {error.strerror}")
    except (ValueError, KeyError, struct.error, IndexError) as error:
        sys.exit(f"gguf_forward: {args.model}: {error}")


if __name__ == "__main__":
    main()
