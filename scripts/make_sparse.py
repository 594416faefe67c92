#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Write a GGUF model of a real shape whose ReLU neurons fire at chosen rates, for measuring speed only.

The text such a model makes means nothing, and nothing about quality can be learned from it. A program that does not know the
key sparsegen.ffn_activation runs the same file as a dense SiLU model of that shape.

How a neuron gets its rate. The first 32 values of the residual stream are 1 for every token: the embeddings have 1 there, and
the matrices that write to the stream have zero rows there. So the first block of a gate or up row, 32 equal weights, is the
neuron's bias. The other values of an embedding are B z, B a fixed random matrix with --rank columns and z normal, plus a
little white noise: a gate product is normal with a spread known from its row, and the bias sets how often it is positive. The
inputs of every layer lie near the same space of --rank dimensions, so a predictor of that rank can name the neurons that fire.
The layers write little (0.02 of the variance in all), so the rates hold in all layers.

Rates: neuron n is active (its activation is not 0) with probability p_n = cdf(a + s z_n), z_n normal: the mean is --active, and s
is such that --skew of the activations come from the hottest 26 % of the neurons (0.80: PowerInfer's figure for OPT-30B, arXiv
2312.12456) where --active is at most 0.1; the same s is kept above, where the hottest cannot fire that much more often. The
neurons lie in random order. relu: the gate decides. drelu: gate and up products must both be positive; as in
models/demo/stories-drelu-5M.gguf the gate is positive with probability p_n ** --gate-power (0.52 was measured over 300 tokens with
gguf_forward.py: 0.45 to 0.54), and gate and up products have a correlation of 0.26 (0.23 to 0.32).

Tokens have topics, topic = id modulo sparsegen.synthetic.topics: z = sqrt(--persistence) * topic + sqrt(1 - --persistence) * own.
Successors of the same topic keep a part of the active neurons, others do so by chance only. --check N measures rates and overlaps.
Types: one of q4_0, q8_0, f16 for every matrix. Norms are F32. Needs numpy.
"""
import argparse
import math
import sys

import numpy as np

import gguf_forward
import make_synthetic as base

KINDS = {"q4_0": 2, "q8_0": 8, "f16": 1}
BIAS = 32           # values of the stream that stay 1: one quantisation block
HOTTEST = 0.26      # share of the neurons that --skew speaks of
SKEW_AT = 0.1       # --active from which on the spread of the rates stays as it is
MOST = 0.9999       # no product is positive more often: the bias stays finite
GATE_POWER = 0.52   # default of --gate-power, the demo model's, see above
CORRELATION = 0.26
NOISE = 0.02        # share of the variance of an embedding that is white noise
WRITTEN = 0.02      # variance that all layers together add to the stream, whose own is 1
TOPICS = 256
NODES = 32          # of the quadratures over a gate product

GRID = np.linspace(-8, 8, 4097)
CDF = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in GRID])


def cdf(x):
    """Standard normal distribution function."""
    return np.interp(x, GRID, CDF)


def quantile(p):
    """Inverse of cdf; p up to MOST."""
    return np.interp(p, CDF, GRID)


def bisect(rises, low, high, steps=50):
    """Where the function `rises` (increasing, of numbers or arrays) passes 0 between low and high."""
    for _ in range(steps):
        middle = (low + high) / 2
        below = rises(middle) < 0
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


# ---- rates ----

def rates_of(n, active, spread):
    """Rates of n neurons with mean `active`, rising: p = cdf(a + spread * z) at the middles of n equal parts of z."""
    z = quantile((np.arange(n) + 0.5) / n)
    return cdf(quantile(min(active, MOST)) * math.hypot(1, spread) + spread * z)


def share_of_hottest(rates):
    """Share of the activations that the hottest neurons give."""
    rates = np.sort(rates)[::-1]
    return rates[:round(HOTTEST * len(rates))].sum() / rates.sum()


def spread_for(active, skew):
    """The spread with which the hottest give `skew` of the activations."""
    return float(bisect(lambda s: share_of_hottest(rates_of(4096, min(active, SKEW_AT), float(s))) - skew, 0.0, 8.0))


# ---- rows ----

def quantise(kind, x):
    """Rows of float32 [n, width] as bytes [n, width / 32, bytes of 32 weights], the way ggml rounds."""
    x = np.ascontiguousarray(x, np.float32).reshape(len(x), -1, 32)
    if kind == "f16":
        return x.astype("<f2").view(np.uint8).reshape(*x.shape[:2], 64)
    at = np.abs(x).argmax(-1)[..., None]
    largest = np.take_along_axis(x, at, -1)
    d = largest / np.float32(-8) if kind == "q4_0" else np.abs(largest) / np.float32(127)
    inverse = np.divide(np.float32(1), d, out=np.zeros_like(d), where=d != 0)
    y = x * inverse
    if kind == "q4_0":
        q = np.minimum(15, (y + np.float32(8.5)).astype(np.int8)).view(np.uint8)
        q = q[..., :16] | q[..., 16:] << 4
    else:
        q = np.trunc(y + np.copysign(np.float32(0.5), y)).astype(np.int8).view(np.uint8)
    return np.concatenate([d.astype("<f2").view(np.uint8), q], -1)


def unpack(kind, rows):
    """Float32 [n, width] of rows of bytes."""
    return gguf_forward.unpack(rows.reshape(-1), KINDS[kind]).reshape(len(rows), -1)


def random_rows(kind, rng, n, width, spread):
    """n rows of random weights, as bytes like those of quantise."""
    made = base.MAKERS[kind](rng, n * width // base.QUANTS[kind][1], spread)
    return made.view(np.uint8).reshape(n, width // 32, -1)


def share_codes(kind, rng, rows, other):
    """Replace a random CORRELATION of the codes of `rows` by those of `other`."""
    code = np.uint16 if kind == "f16" else np.uint8
    mine, theirs = rows[..., kind != "f16" and 2:].view(code), other[..., kind != "f16" and 2:].view(code)
    np.copyto(mine, theirs, where=base.random_bytes(rng, *mine.shape) < round(256 * CORRELATION))


def set_bias(kind, rows, bias):
    """Make the first block of each row 32 equal weights that add up to its bias [n], exact but for the half in the file."""
    weight = bias / BIAS
    if kind == "f16":
        rows[:, 0] = base.as_bytes(np.repeat(weight, 32)).reshape(-1, 64)
    else:
        rows[:, 0, :2] = base.as_bytes(weight / (-8 if kind == "q4_0" else 127))
        rows[:, 0, 2:] = 0 if kind == "q4_0" else 127  # q4_0: code 0 stands for -8


# ---- the model ----

class Maker:
    """Writes the tensors of one model, in the order of the file."""

    def __init__(self, args, layers):
        self.kind, self.act, self.layers = args.type, args.act, layers
        self.rng = np.random.Generator(np.random.SFC64(args.seed))
        _, self.width, self.ffn, _, _, self.vocab, _, _, _ = base.SHAPES[args.shape]
        self.active, self.persistence, self.gate_power = args.active, args.persistence, args.gate_power
        self.spread = spread_for(args.active, args.skew)
        self.topics = min(TOPICS, self.vocab // 8)
        normal = self.rng.standard_normal((self.width - BIAS, args.rank), np.float32)
        self.mix = normal * np.float32(math.sqrt((1 - NOISE) / args.rank))  # B; z has variance 1
        self.noise = 0.0  # variance of an embedding's values apart from B z, quantisation included
        self.rates = rates_of(self.ffn, self.active, self.spread)  # of every layer, which has them in an order of its own
        self.up = self.h_spread = None

    def write(self, f, name, dims, quant, spread):
        """Write one tensor. The gate comes before the up and down matrices of its layer."""
        width, rows = dims[0], dims[-1]
        if name == "token_embd.weight":
            self.write_embeddings(f)
        elif "ffn_gate" in name:
            self.write_neurons(f, int(name.split(".")[1]), spread)
        elif "ffn_up" in name:
            f.write(self.up.data)
        elif "attn_output" in name:
            self.write_writer(f, rows, width, width ** -0.5)
        elif "ffn_down" in name:
            self.write_writer(f, rows, width, width ** -0.5 / self.h_spread)
        else:
            return base.write_tensor(f, self.rng, dims, quant, spread)
        return f.write(base.padding(base.tensor_bytes(dims, quant)))

    def gate_rates(self, rate):
        """How often the gates of neurons of these rates are positive."""
        return np.minimum(rate ** self.gate_power if self.act == "drelu" else rate, MOST)

    def chunks(self, rows, width):
        """Ranges of rows that are made at a time."""
        step = max(1, base.CHUNK // width)
        return ((i, min(step, rows - i)) for i in range(0, rows, step))

    def write_embeddings(self, f):
        topics = self.rng.standard_normal((self.topics, self.mix.shape[1]), np.float32)
        wrong = 0.0
        for first, n in self.chunks(self.vocab, self.width):
            own = self.rng.standard_normal((n, self.mix.shape[1]), np.float32)
            z = math.sqrt(self.persistence) * topics[np.arange(first, first + n) % self.topics]
            told = (z + math.sqrt(1 - self.persistence) * own).astype(np.float32) @ self.mix.T
            x = np.ones((n, self.width), np.float32)
            noise = self.rng.standard_normal(told.shape, np.float32)
            x[:, BIAS:] = told + np.float32(math.sqrt(NOISE)) * noise
            rows = quantise(self.kind, x)
            wrong += float(((unpack(self.kind, rows)[:, BIAS:] - told) ** 2).sum(dtype=np.float64))
            f.write(rows.data)
        self.noise = wrong / (self.vocab * (self.width - BIAS))

    def write_writer(self, f, rows, width, spread):
        """A matrix that writes to the stream. Its rows get `spread` times what keeps the sum of all of them small."""
        spread *= math.sqrt(WRITTEN / (2 * self.layers))
        for first, n in self.chunks(rows, width):
            made = random_rows(self.kind, self.rng, n, width, spread)
            zero = made[:max(0, BIAS - first)]
            zero[...] = 0
            if self.kind == "q4_0":
                zero[..., 2:] = 0x88
            f.write(made.data)

    def write_neurons(self, f, layer, spread):
        """The gate rows of a layer; its up rows are kept for `write`."""
        noise = self.noise + WRITTEN * (2 * layer + 1) / (2 * self.layers)
        rate = self.rng.permutation(self.rates)
        gate_rate = self.gate_rates(rate)
        up_rate = np.minimum(rate / gate_rate, MOST) if self.act == "drelu" else None
        ups, h_variance = [], 0.0
        for first, n in self.chunks(self.ffn, self.width):
            part = slice(first, first + n)
            gate, up = (random_rows(self.kind, self.rng, n, self.width, spread).copy() for _ in range(2))
            share_codes(self.kind, self.rng, up, gate)
            g_spread, u_spread, both = self.spreads(gate, up, noise)
            g_bias = quantile(gate_rate[part])
            u_bias, h = self.solve(gate_rate[part], g_bias, None if up_rate is None else up_rate[part], both)
            set_bias(self.kind, gate, g_bias * g_spread)
            set_bias(self.kind, up, u_bias * u_spread)
            h_variance += float((h * (g_spread * u_spread) ** 2).sum())
            f.write(gate.data)
            ups.append(up)
        self.up = np.concatenate(ups)
        self.h_spread = math.sqrt(h_variance / self.ffn)

    def spreads(self, gate, up, noise):
        """Standard deviations over the tokens of the gate and up products of rows, and their correlations; [n] each."""
        g, u = unpack(self.kind, gate)[:, BIAS:], unpack(self.kind, up)[:, BIAS:]
        gm, um = g @ self.mix, u @ self.mix

        def covariance(am, bm, a, b):
            return np.einsum("ij,ij->i", am, bm) + noise * np.einsum("ij,ij->i", a, b)

        g_spread, u_spread = np.sqrt(covariance(gm, gm, g, g)), np.sqrt(covariance(um, um, u, u))
        return g_spread, u_spread, covariance(gm, um, g, u) / (g_spread * u_spread)

    @staticmethod
    def solve(gate_rate, g_bias, up_rate, both):
        """Biases of the up products in their standard deviations, so that of the tokens with a positive gate the share up_rate
        has a positive up product too (None: 0); and the mean square of the activations where both spreads are 1. [n] each."""
        middles = (np.arange(NODES) + 0.5) / NODES
        g = -quantile(gate_rate[:, None] * middles)  # equally likely values of a gate product that is positive with its bias
        rest = np.sqrt(1 - both ** 2)[:, None]
        slope = both[:, None] * g / rest
        if up_rate is None:
            bias = np.zeros(len(both))
            square = (slope ** 2 + 1) * rest ** 2
        else:
            bias = bisect(lambda b: cdf(slope + b[:, None] / rest).mean(1) - up_rate, np.full(len(both), -9.0),
                          np.full(len(both), 9.0), 20)
            m = slope + bias[:, None] / rest
            square = ((m * m + 1) * cdf(m) + m * np.exp(-m * m / 2) / math.sqrt(2 * math.pi)) * rest ** 2
        return bias, gate_rate * ((g + g_bias[:, None]) ** 2 * square).mean(1)


def metadata(args, layers, maker):
    """The key-value part of the file: that of a synthetic model, and how this one was made."""
    pairs = base.gguf_metadata(args.shape, layers, args.type, f"synthetic sparse {args.shape} {args.type}",
                               f"Synthetic: random weights in a real shape, made so that {args.active:g} of the {args.act} neurons are "
                               "active. For measuring speed only, the text it makes means nothing. Made by sparsegen's "
                               f"make_sparse.py, seed {args.seed}.")
    made = {"active": args.active, "gate_power": args.gate_power, "gate_positive": float(maker.gate_rates(maker.rates).mean()), "skew": args.skew,
            "persistence": args.persistence, "noise": NOISE}
    counts = {"rank": args.rank, "topics": maker.topics, "bias_values": BIAS}
    return (pairs + [base.gguf_pair("sparsegen.ffn_activation", "str", args.act)]
            + [base.gguf_pair("sparsegen.synthetic." + key, "f32", value) for key, value in made.items()]
            + [base.gguf_pair("sparsegen.synthetic." + key, "u32", value) for key, value in counts.items()]
            + [base.gguf_pair("sparsegen.synthetic.seed", "str", str(args.seed)),
               base.gguf_pair("sparsegen.synthetic.topic_rule", "str", "topic = token id modulo sparsegen.synthetic.topics")])


def write_model(path, args, layers):
    """Write the model to `path`; returns the number of parameters and of bytes."""
    maker = Maker(args, layers)
    tensors = base.list_tensors(args.shape, layers, args.type)
    with open(path, "wb") as f:
        base.write_header(f, tensors, metadata(args, layers, maker))
        for tensor in tensors:
            maker.write(f, *tensor)
        print(f"intended: active {maker.rates.mean():.2%}, gate fires {maker.gate_rates(maker.rates).mean():.2%}, "
              f"{share_of_hottest(maker.rates):.0%} of the activations from {HOTTEST:.0%} of the neurons")
        return base.count_weights(tensors), f.tell()


# ---- looking at what was made ----

def tokens_in_pairs(rng, n, vocabulary, topics):
    """n token ids: 0 and 1, 2 and 3, ... of the same topic, pairs of different topics."""
    ids, last = [], None
    while len(ids) < n:
        topic = int(rng.integers(topics))
        if topic != last:
            ids += [topic + topics * int(k) for k in rng.choice((vocabulary - topic + topics - 1) // topics, 2, replace=False)]
            last = topic
    return ids[:n]


def measure(path, n, seed=1):
    """Rates of every layer over n tokens, as gguf_forward.describe gives them, with the shares of a token's active neurons
    that are active for the next token too: "same" topic, "other" topic."""
    model = gguf_forward.Forward(gguf_forward.Gguf(path))
    vocabulary = model.g.tensors["token_embd.weight"][0][1]
    ids = tokens_in_pairs(np.random.default_rng(seed), n, vocabulary, model.g.keys["sparsegen.synthetic.topics"])
    layers = []

    def look(_, gate, up, h):
        live = h != 0
        kept = (live[1:] & live[:-1]).sum(1)
        overlap = {name: float(kept[at::2].sum() / max(1, live[:-1][at::2].sum())) for at, name in ((0, "same"), (1, "other"))}
        layers.append({**gguf_forward.describe(gate, up, h), **overlap})

    model.run(ids, look)
    return layers


def main():
    """Read the command line, write the file, look at it when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("shape", choices=base.SHAPES, help="the model whose sizes to use")
    add("type", choices=KINDS, help="type of the weights")
    add("out", metavar="OUT.gguf", help="file to write")
    add("--active", type=float, default=0.10, metavar="A", help="share of the neurons that are active (default %(default)s)")
    add("--skew", type=float, default=0.80, metavar="S",
        help="share of the activations that the hottest 26 %% of the neurons give (default %(default)s)")
    add("--persistence", type=float, default=0.5, metavar="P", help="what tokens of a topic share, 0 to 1 (default %(default)s)")
    add("--gate-power", type=float, default=GATE_POWER, metavar="E",
        help="drelu: a neuron of rate p has a positive gate at the rate p ** E; 1: whenever the gate is, the neuron is active "
             "(default %(default)s, as in the demo model)")
    add("--rank", type=int, default=128, metavar="R", help="dimensions of the layers' inputs (default %(default)s)")
    add("--act", choices=["drelu", "relu"], default="drelu", help="activation of the gate (default %(default)s)")
    add("--layers", type=int, metavar="N", help="write only N layers (default: all of the shape)")
    add("--seed", type=int, default=1, metavar="S", help="seed of the weights (default %(default)s)")
    add("--check", type=int, default=0, metavar="N", help="measure the rates over N tokens with numpy afterwards (slow)")
    args = parser.parse_args()
    layers = base.SHAPES[args.shape][0] if args.layers is None else args.layers
    if layers < 1 or args.seed < 0 or args.check < 0:
        parser.error("--layers must be at least 1, --seed and --check not negative")
    if not 0 < args.active <= 1 or not HOTTEST <= args.skew <= 0.99 or not 0 <= args.persistence <= 1:
        parser.error(f"--active must be above 0 and at most 1, --skew {HOTTEST:g} to 0.99, --persistence 0 to 1")
    if not 0 < args.gate_power <= 1:
        parser.error("--gate-power must be above 0 and at most 1")
    if not 1 <= args.rank <= base.SHAPES[args.shape][1] - BIAS:
        parser.error(f"--rank must be 1 to {base.SHAPES[args.shape][1] - BIAS}")
    base.write_whole(args.out, lambda path: write_model(path, args, layers))
    if not args.check:
        return
    for i, d in enumerate(measure(args.out, max(3, args.check))):
        print(f"layer {i}: active {d['active']:.2%}, gate fires {d['gate']:.2%}, correlation {d['correlation']:.2f}, kept by a "
              f"successor of the same topic {d['same']:.0%}, of another {d['other']:.0%}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
