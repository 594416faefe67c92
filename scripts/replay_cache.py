#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Replay what tokens touch against cache policies, and print hit rates beside the best that any policy could reach (Belady's).

    replay_cache.py record MODEL.gguf OUT.npz --ids FILE         the ids of a text, as `sparsegen tokenize` prints them
    replay_cache.py record MODEL.gguf OUT.npz --topic-length 64  ids made up for a model of make_sparse.py
    replay_cache.py show TRACE ...                               how many units a token touches, what the next one keeps
    replay_cache.py replay TRACE ... [--sizes 10 25 50] [--only REGEX]
    replay_cache.py replay TRACE ... --ram 2G 3G 4G 6G [--drive 1G]  caches of so many bytes, and what a drive allows
    replay_cache.py draw OUT.svg TRACE.csv ...                   hit rates over the bytes of the cache

A trace is a file that `record` wrote, a log of `sparsegen --route-log`, or a routing trace (route.csv) of BigMoeOnEdge, which has the same
form. A unit is an expert there, and in a recorded trace the up and down row of a neuron. --touch gate: the neurons whose gate fires, what
an exact run needs. --touch active: those whose activation is not 0, what a model with one product (ReLU) or a perfect predictor needs.

With --topic-length a topic stays for a geometric number of tokens with that mean, then another is drawn, all alike; within a topic ids are
drawn alike from those of the topic (id modulo the number of topics, see make_sparse.py).

Tokens come in order, within a token its layers in order; the set of a layer is needed at once. A cache is one for all layers (global),
or each layer has its own (layer), all of the same size; the slots are the same in both. Hits are counted after the first quarter of the
tokens; --count all: from the start; --count answer: of what was not a prompt. --batch N: up to N tokens of a prompt at a time, as they
are computed. Policies are described in cache_policies.py.

--ram is what units alone take (G: 2**30). Layers get equal shares of the bytes, a cache for all has slots of the mean size. The floor is what
one token uses: a global LRU that is smaller finds next to nothing, since each layer's units were displaced by those of the others; the
cliff is where it begins to find something. A cache per layer needs as many slots as a token uses there, to keep them. Needs numpy.
"""
import argparse
import re
import sys
import time

import numpy as np

import cache_chart
import cache_rates as rates
import gguf_forward
from cache_trace import Trace, load

HOTTEST = 0.26  # share of the units that `show` speaks of, as in make_sparse.py


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

def tabulate(trace, sizes, only):
    """A Markdown table: hit rates in percent, in brackets how much is missing to the best possible; `looked`: slots that a
    hand looks at per eviction, the most of all columns."""
    table = {name: make for name, make in rates.policies().items() if only.search(name) or name == rates.BEST}
    columns = [(size, one) for size in sizes for one in (False, True)]
    print("| policy | " + " | ".join(f"{size:g} % {'global' if one else 'layer'}" for size, one in columns) + " | looked |")
    print("|---|" + "---:|" * (len(columns) + 1))
    best = {}
    for name, make in table.items():
        cells, most = [], 0
        for size, one in columns:
            rate, looked = rates.replay(trace, make, max(1, round(trace.units * size / 100)), one)
            rate *= 100
            best.setdefault((size, one), rate)
            most = max(most, looked)
            cells.append(f"{rate:.1f} ({best[size, one] - rate:.1f})" if name != rates.BEST else f"{rate:.1f}")
        print(f"| {name} | " + " | ".join(cells) + (f" | {most:.1f} |" if most else " | |"), flush=True)


def words(size):
    """Bytes as people say them."""
    shift, unit = next(((s, u) for s, u in ((30, "GiB"), (20, "MiB"), (10, "KiB")) if size >= 1 << s), (0, "bytes"))
    return f"{size / (1 << shift):.4g} {unit}"


def about_sizes(trace, ram):
    """The sizes of a trace, its floor and its cliff, in words."""
    used, n_bytes = rates.floor(trace)
    slots, some, unit = rates.cliff(trace), trace.most, rates.mean_bytes(trace)
    layers, most = int((some > 0).sum()), int(some.max())
    measured = (f"measured: it hits nothing with less than {slots} slots, {words(slots * unit)}" if slots else "measured: it never hits")
    whole = words(trace.units * trace.bytes[some > 0].sum())
    print(f"A unit has {trace.bytes[some > 0].min()} to {trace.bytes.max()} bytes, mean {unit:.0f}; all of them {whole}.\n"
          f"Floor of a global LRU: {layers} layers x {most} used x {unit:.0f} bytes = {words(n_bytes)}, {used} slots; {measured}.\n"
          f"Floor of a layer: {most} slots. A layer has " + ", ".join(f"{slots_of(trace, size)} at {words(size)}" for size in ram) + ".\n")


def slots_of(trace, size):
    """How many slots layers have, in words."""
    slots = [n for n, used in zip(rates.shares(trace, size), trace.most) if used]
    return f"{min(slots)}" if min(slots) == max(slots) else f"{min(slots)} to {max(slots)}"


def tabulate_bytes(trace, ram, only, which, drive):
    """A Markdown table: hit rates in percent; in brackets how much is missing to the best possible with the same division; with a drive, how
    many tokens per second it allows if nothing is read ahead of its use."""
    about_sizes(trace, ram)
    table = {name: make for name, make in rates.policies().items()
             if (only.search(name) if only.pattern else name in rates.IN_BYTES) or name == rates.BEST}
    print("| policy | cache | " + " | ".join(words(size) for size in ram) + " |")
    print("|---|---|" + "---:|" * len(ram))
    best = {}
    for name, make in table.items():
        for one in (False, True):
            cells = []
            for size in ram:
                percent, speed = rates.rate(trace, make, size, one, which, drive or 0)
                best.setdefault((size, one), percent)
                gap = f" ({best[size, one] - percent:.1f})" if name != rates.BEST else ""
                cells.append(f"{percent:.1f}{gap}" + (f", {speed:.2f}/s" if drive else ""))
            print(f"| {name} | {'global' if one else 'layer'} | " + " | ".join(cells) + " |", flush=True)


def read(path):
    """A trace; ends the program when it is none."""
    try:
        return load(path)
    except OSError as error:
        sys.exit(f"replay_cache: {path}: {error.strerror or error}")
    except (ValueError, KeyError, IndexError) as error:
        sys.exit(f"replay_cache: {path}: no trace ({error})")


def with_bytes(trace, given):
    """The trace, with sizes of units: those of the file or the given one."""
    if given:
        trace.bytes = np.full(trace.layers, given)
    if trace.bytes is None or (trace.bytes[trace.most > 0] <= 0).any():
        sys.exit(f"replay_cache: {trace.name}: the trace does not say how large a unit is: --expert-bytes")
    return trace


def options():
    """The command line's."""
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
    size = {"type": rates.parse_size, "metavar": "SIZE"}
    for command, does in (("replay", "hit rates of policies"), ("draw", "a picture of them")):
        add = commands.add_parser(command, help=does).add_argument
        if command == "draw":
            add("out", metavar="OUT.svg")
        add("trace", nargs="+")
        add("--expert-bytes", **size, help="of a unit (default: what the trace says)")
        add("--count", choices=["warm", "all", "answer"], default="warm", help="which tokens (default: those after the first quarter)")
        add("--batch", type=int, default=1, metavar="N", help="tokens of a prompt that are computed together (default 1)")
        if command == "replay":
            add("--sizes", type=float, nargs="+", default=[10, 25, 50], metavar="PERCENT", help="of the units (default 10 25 50)")
            add("--ram", nargs="+", **size, help="of the cache, instead of --sizes")
            add("--drive", **size, help="bytes per second: how many tokens per second it allows")
            add("--only", type=re.compile, default=re.compile(""), metavar="REGEX", help="policies whose names match")
        else:
            add("--most", default=8 * rates.GIB, **size, help="where the picture ends (default 8G)")
    return parser.parse_args()


def main():
    """Read the command line, do it."""
    args = options()
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
    began = time.monotonic()
    traces = [read(path) for path in args.trace]
    if args.command == "draw":
        drawn = [cache_chart.lines(with_bytes(trace, args.expert_bytes).batched(args.batch), args.most, args.count) for trace in traces]
        with open(args.out, "w", encoding="utf-8") as f:
            f.write(cache_chart.svg(drawn, args.most))
        return
    for trace in traces:
        active, kept, hottest, ever = describe(trace)
        print(f"\n{trace.name}: {trace.tokens} tokens, {trace.layers} layers of {trace.units} units; a token touches {active:.1%}, "
              f"the next keeps {kept:.1%} of them; the hottest {HOTTEST:.0%} get {hottest:.1%} of the uses; ever used {ever:.1%}\n", flush=True)
        if args.command == "replay" and args.ram:
            tabulate_bytes(with_bytes(trace, args.expert_bytes).batched(args.batch), args.ram, args.only, args.count, args.drive)
        elif args.command == "replay":
            tabulate(trace, args.sizes, args.only)
    print(f"\n{time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
