# SPDX-License-Identifier: MIT
"""What tokens touch, layer by layer: the traces that replay_cache.py replays. Needs numpy."""
import csv
import re

import numpy as np

WARM = 0.25      # share of the tokens that are not counted, and that static policies are chosen from
NEVER = 1 << 40  # step of a next use that does not come


class Trace:
    """ids: the units of all steps, one after another; counts: how many of them each step has. Step = token * layers + layer.
    bytes: of a unit, layer by layer, or None. answer: which tokens were not part of a prompt (default: all)."""

    def __init__(self, name, layers, units, ids, counts, unit_bytes=None, answer=None):
        self.name, self.layers, self.units = name, int(layers), int(units)
        self.ids, self.counts = np.asarray(ids, np.int64), np.asarray(counts, np.int64)
        self.tokens = len(self.counts) // self.layers
        self.starts = np.concatenate([[0], np.cumsum(self.counts)])
        self.steps = np.repeat(np.arange(len(self.counts)), self.counts)
        self.keys = self.steps % self.layers * self.units + self.ids  # unit among those of all layers
        self.first = int(self.tokens * WARM)
        self.bytes = None if unit_bytes is None else np.asarray(unit_bytes, np.int64)
        self.most = self.counts.reshape(-1, self.layers).max(0)  # units that a token touches at most, layer by layer
        self.answer = np.ones(self.tokens, bool) if answer is None else np.asarray(answer, bool)

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

    def counted(self, which):
        """Which tokens are counted: "warm" (those after the first quarter), "all", or "answer"."""
        if which == "answer":
            return self.answer
        return np.arange(self.tokens) >= (self.first if which == "warm" else 0)

    def batched(self, n):
        """The same with up to n tokens of a prompt at a time: they touch together what any of them does."""
        run, runs, size = np.zeros(self.tokens, np.int64), -1, 0
        for token in range(self.tokens):
            joins = token > 0 and not self.answer[token] and not self.answer[token - 1] and size < n
            runs, size = (runs, size + 1) if joins else (runs + 1, 1)
            run[token] = runs
        steps = run[self.steps // self.layers] * self.layers + self.steps % self.layers
        both = np.unique(steps * self.units + self.ids)
        counts = np.bincount(both // self.units, minlength=(runs + 1) * self.layers)
        out = Trace(self.name, self.layers, self.units, both % self.units, counts, self.bytes, self.answer[np.unique(run, return_index=True)[1]])
        out.first, out.most = int(run[self.first]), self.most
        return out

    def save(self, path):
        np.savez_compressed(path, name=self.name, layers=self.layers, units=self.units, ids=self.ids.astype(np.uint16),
                            counts=self.counts.astype(np.uint16))


def read_route(path):
    """A route.csv; every turn's prompt, token by token, then its answer."""
    with open(path, encoding="utf-8") as f:
        lines = f.readlines()
    if len(lines) < 3 or not lines[0].startswith("# route_trace v1"):
        raise ValueError("no log of routes")
    facts = dict(re.findall(r"(\w+)=(\S+)", lines[1]))
    rows = [[int(row[key]) for key in ("turn", "phase", "step", "layer", "expert")]
            for row in csv.DictReader(line for line in lines if not line.startswith("#"))]
    rows = np.array(sorted(set(map(tuple, rows))))
    layers = int(facts["n_layer"])
    names, token = np.unique(rows[:, :3], axis=0, return_inverse=True)
    counts = np.bincount(token.reshape(-1) * layers + rows[:, 3], minlength=len(names) * layers)
    sizes = dict(re.findall(r"^# layer=(\d+) expert_bytes=(\d+)", "".join(lines), re.M))
    sizes = [int(sizes[str(i)]) for i in range(layers)] if len(sizes) == layers else None
    return Trace(facts["model"].split("/")[-1], layers, facts["n_expert"], rows[:, 4], counts, sizes, names[:, 1] == 1)


def load(path):
    if path.endswith(".csv"):
        return read_route(path)
    with np.load(path) as f:
        return Trace(str(f["name"]), f["layers"], f["units"], f["ids"], f["counts"])
