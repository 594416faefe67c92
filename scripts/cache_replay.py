#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Replay what tokens touch against cache policies, and print hit rates beside the best that any policy could reach (Belady's).

    cache_replay.py record MODEL.gguf OUT.npz --ids FILE         the ids of a text, as `sparsegen tokenize` prints them
    cache_replay.py record MODEL.gguf OUT.npz --topic-length 64  ids made up for a model of make_sparse.py
    cache_replay.py show TRACE ...                               how many units a token touches, what the next one keeps
    cache_replay.py replay TRACE ... [--sizes 10 25 50] [--only REGEX]

A trace is a file that `record` wrote or a routing trace (route.csv) of BigMoeOnEdge. A unit is an expert there, and in a recorded
trace the up and down row of a neuron. --touch gate: the neurons whose gate fires, what an exact run needs. --touch active: those
whose activation is not 0, what a model with one product (ReLU) or a perfect predictor needs.

With --topic-length a topic stays for a geometric number of tokens with that mean, then another is drawn, all alike; within a topic ids are
drawn alike from those of the topic (id modulo the number of topics, see make_sparse.py).

Tokens come in order, within a token its layers in order; the set of a layer is needed at once. A cache is one for all layers (global),
or each layer has its own (layer), all of the same size; the slots are the same in both. Hits are counted after the first quarter of the
tokens. Policies are described in cache_policies.py. Needs numpy.
"""
import argparse
import csv
import re
import sys
import time

import numpy as np

import cache_policies as p
import gguf_forward

HOTTEST = 0.26   # share of the units that `show` speaks of, as in make_sparse.py
WARM = 0.25      # share of the tokens that are not counted, and that static policies are chosen from
NEVER = 1 << 40  # step of a next use that does not come


class Trace:
    """ids: the units of all steps, one after another; counts: how many of them each step has. Step = token * layers + layer."""

    def __init__(self, name, layers, units, ids, counts):
        self.name, self.layers, self.units = name, int(layers), int(units)
        self.ids, self.counts = np.asarray(ids, np.int64), np.asarray(counts, np.int64)
        self.tokens = len(self.counts) // self.layers
        self.starts = np.concatenate([[0], np.cumsum(self.counts)])
        self.steps = np.repeat(np.arange(len(self.counts)), self.counts)
        self.keys = self.steps % self.layers * self.units + self.ids  # unit among those of all layers
        self.first = int(self.tokens * WARM)

    def following(self):
        """For each access the step at which the unit is needed again."""
        order = np.argsort(self.keys, kind="stable")
        out = np.full(len(order), NEVER)
        same = self.keys[order[1:]] == self.keys[order[:-1]]
        out[order[:-1][same]] = self.steps[order[1:][same]]
        return out

    def uses(self, tokens):
        """How often each unit is used in the first `tokens` tokens, [layers, units]."""
        keys = self.keys[:self.starts[tokens * self.layers]]
        return np.bincount(keys, minlength=self.layers * self.units).reshape(self.layers, -1)

    def save(self, path):
        np.savez_compressed(path, name=self.name, layers=self.layers, units=self.units, ids=self.ids.astype(np.uint16),
                            counts=self.counts.astype(np.uint16))


def read_route(path):
    """A route.csv; every turn's prompt, token by token, then its answer."""
    with open(path, encoding="utf-8") as f:
        lines = f.readlines()
    facts = dict(re.findall(r"(\w+)=(\S+)", lines[1]))
    rows = [[int(row[key]) for key in ("turn", "phase", "step", "layer", "expert")]
            for row in csv.DictReader(line for line in lines if not line.startswith("#"))]
    rows = np.array(sorted(set(map(tuple, rows))))
    layers = int(facts["n_layer"])
    _, token = np.unique(rows[:, :3], axis=0, return_inverse=True)
    counts = np.bincount(token.reshape(-1) * layers + rows[:, 3], minlength=(token.max() + 1) * layers)
    return Trace(facts["model"].split("/")[-1], layers, facts["n_expert"], rows[:, 4], counts)


def load(path):
    if path.endswith(".csv"):
        return read_route(path)
    with np.load(path) as f:
        return Trace(str(f["name"]), f["layers"], f["units"], f["ids"], f["counts"])


# ---- recording ----

def topic_ids(rng, n, vocabulary, topics, length):
    """n ids whose topic stays for a geometric number of tokens with mean `length`."""
    topic = rng.integers(topics)
    ids = []
    for new in rng.random(n) < 1 / length:
        topic = rng.integers(topics) if new else topic
        ids.append(int(topic + topics * rng.integers((vocabulary - topic + topics - 1) // topics)))
    return ids


def record(path, ids, window, touch):
    """The trace of a model over ids, in windows that are evaluated alone."""
    model = gguf_forward.Forward(gguf_forward.Gguf(path))
    seen = []
    for at in range(0, len(ids), window):
        sets = []
        model.run(ids[at:at + window], lambda i, gate, up, h, sets=sets: sets.append((gate > 0) if touch == "gate" else h != 0))
        seen.append(np.stack(sets, axis=1))
    seen = np.concatenate(seen)  # [tokens, layers, neurons]
    return Trace(f"{model.g.keys.get('general.name', path)}, {touch}", seen.shape[1], seen.shape[2], np.nonzero(seen)[2],
                 seen.sum(2).reshape(-1))


# ---- looking at a trace ----

def describe(trace):
    """Share of the units that a token touches, share of those that the next token touches again, share of all uses by the hottest."""
    table = np.zeros((trace.tokens, trace.layers * trace.units), bool)
    table[trace.steps // trace.layers, trace.keys] = True
    kept = (table[1:] & table[:-1]).sum() / max(1, table[:-1].sum())
    uses = -np.sort(-trace.uses(trace.tokens), axis=1)
    hottest = uses[:, :round(HOTTEST * trace.units)].sum() / uses.sum()
    return table.mean(), kept, hottest, (uses > 0).mean()


# ---- replaying ----

def policies():
    """Name to a function of (units, slots, uses in the warm part, uses in all) that makes the cache."""
    def plain(kind, *args, **kw):
        return lambda units, slots, warm, whole: kind(units, slots, *args, **kw)

    def split(share, kind, *args, **kw):
        return lambda units, slots, warm, whole: p.Static(units, slots, warm, share, lambda u, s: kind(u, s, *args, **kw))

    table = {"Belady, bypass": plain(p.Belady, bypass=True), "Belady": plain(p.Belady), "FIFO": plain(p.Fifo), "LRU": plain(p.Lru),
             "CLOCK": plain(p.Clock), "CLOCK, marks to 3": plain(p.Clock, 3), "CLOCK, marks to 15": plain(p.Clock, 15),
             "SLRU": plain(p.Slru), "S3-FIFO": plain(p.S3Fifo)}
    for every in (16, 64, 256):
        table[f"LFU, halved every {every}"] = plain(p.Lfu, every)
    table["LFU, halved every 64, bypass"] = plain(p.Lfu, 64, bypass=True)
    for every in (16, 64):
        table[f"TinyLFU over LRU, halved every {every}"] = plain(p.TinyLfu, every)
    for half in (4, 8, 16, 32, 64, 256):
        table[f"decay {half}"] = plain(p.Decay, half)
    for half in (8, 16, 64):
        table[f"decay {half}, bypass"] = plain(p.Decay, half, bypass=True)
    for every, add, slack, fresh in ((8, 16, 0, 1), (16, 8, 0, 1), (32, 4, 2, 1), (8, 16, 8, 1), (16, 8, 4, 1), (16, 8, 4, 0), (16, 8, 4, 1 / 4),
                                     (16, 8, 4, 1 / 8), (8, 16, 8, 1 / 8)):
        table[f"hand +{add}, halved every {every}, slack {slack}, fresh {fresh:g}"] = plain(p.Hand, every, add, slack, fresh)
    table["hand of 16 bits, +1024, halved every 16, slack 512, fresh 0.125"] = plain(p.Hand, 16, 1024, 512, 1 / 8, bits=16)
    table["static, first quarter"] = lambda units, slots, warm, whole: p.Static(units, slots, warm)
    table["static, whole trace"] = lambda units, slots, warm, whole: p.Static(units, slots, whole)
    for share in (0.25, 0.5, 0.75):
        table[f"static {share:.0%} + LRU"] = split(share, p.Lru)
        table[f"static {share:.0%} + hand +8"] = split(share, p.Hand, 16, 8, 4, 1 / 8)
    return table


def replay(trace, make, slots, one):
    """Hit rate after the warm part, and how many slots a hand looked at per eviction (0: none did); slots: of a layer; one: one
    cache for all layers."""
    warm, whole = trace.uses(trace.first), trace.uses(trace.tokens)
    if one:
        caches = [make(trace.units * trace.layers, slots * trace.layers, warm.reshape(-1), whole.reshape(-1))] * trace.layers
    else:
        caches = [make(trace.units, slots, warm[i], whole[i]) for i in range(trace.layers)]
    ids, following = trace.keys if one else trace.ids, trace.following()
    starts, first, hits = trace.starts.tolist(), trace.first * trace.layers, 0
    for step in range(len(trace.counts)):
        part = slice(starts[step], starts[step + 1])
        got = caches[step % trace.layers].touch(step // trace.layers, ids[part], following[part])
        if step >= first:
            hits += got
    looked, evicted = (sum(getattr(cache, name, 0) for cache in caches) for name in ("looked", "evicted"))
    return hits / max(1, starts[-1] - starts[first]), looked / max(1, evicted)


def tabulate(trace, sizes, only):
    """A Markdown table: hit rates in percent, in brackets how much is missing to the best possible; `looked`: slots that a
    hand looks at per eviction, the most of all columns."""
    table = {name: make for name, make in policies().items() if only.search(name) or name == "Belady, bypass"}
    columns = [(size, one) for size in sizes for one in (False, True)]
    print("| policy | " + " | ".join(f"{size:g} % {'global' if one else 'layer'}" for size, one in columns) + " | looked |")
    print("|---|" + "---:|" * (len(columns) + 1))
    best = {}
    for name, make in table.items():
        cells, most = [], 0
        for size, one in columns:
            rate, looked = replay(trace, make, max(1, round(trace.units * size / 100)), one)
            rate *= 100
            best.setdefault((size, one), rate)
            most = max(most, looked)
            cells.append(f"{rate:.1f} ({best[size, one] - rate:.1f})" if name != "Belady, bypass" else f"{rate:.1f}")
        print(f"| {name} | " + " | ".join(cells) + (f" | {most:.1f} |" if most else " | |"), flush=True)


def main():
    """Read the command line, do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("record", help="make a trace of a model").add_argument
    add("model", metavar="MODEL.gguf")
    add("out", metavar="OUT.npz")
    add("--ids", metavar="FILE", help="token ids, separated by blanks")
    add("--topic-length", type=float, default=64, metavar="N", help="without --ids: mean tokens of a topic (default %(default)s)")
    add("--tokens", type=int, default=4096, metavar="N", help="at most so many (default %(default)s)")
    add("--window", type=int, default=384, metavar="N", help="tokens evaluated together (default %(default)s)")
    add("--touch", choices=["gate", "active"], default="gate", help="what counts as touched (default %(default)s)")
    add("--seed", type=int, default=1, metavar="S")
    add = commands.add_parser("show", help="figures of traces").add_argument
    add("trace", nargs="+")
    add = commands.add_parser("replay", help="hit rates of policies").add_argument
    add("trace", nargs="+")
    add("--sizes", type=float, nargs="+", default=[10, 25, 50], metavar="PERCENT", help="of the units (default 10 25 50)")
    add("--only", type=re.compile, default=re.compile(""), metavar="REGEX", help="policies whose names match")
    args = parser.parse_args()
    if args.command == "record":
        if args.ids:
            with open(args.ids, encoding="utf-8") as f:
                ids = [int(i) for i in f.read().split()][:args.tokens]
        else:
            g = gguf_forward.Gguf(args.model)
            ids = topic_ids(np.random.default_rng(args.seed), args.tokens, g.tensors["token_embd.weight"][0][1],
                            g.keys["sparsegen.synthetic.topics"], args.topic_length)
        record(args.model, ids, args.window, args.touch).save(args.out)
        return
    for path in args.trace:
        trace = load(path)
        active, kept, hottest, ever = describe(trace)
        print(f"\n{trace.name}: {trace.tokens} tokens, {trace.layers} layers of {trace.units} units; a token touches {active:.1%}, "
              f"the next keeps {kept:.1%} of them; the hottest {HOTTEST:.0%} get {hottest:.1%} of the uses; ever used {ever:.1%}\n", flush=True)
        if args.command == "replay":
            began = time.monotonic()
            tabulate(trace, args.sizes, args.only)
            print(f"\n{time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
