#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Draw one token of a trace that `sparsegen ... --trace FILE` wrote, as SVG.

    trace_picture.py TRACE.json OUT.svg [--token N]

Above one lane per thread: steps coloured by name, waits for reads hatched over them. Below the reads in flight, one thin lane each, and
how many there are: those that computing asked for, and those ahead of it. Neighbours of the same kind that lie closer together than
can be seen are drawn as one. N counts the tokens of the trace from 0; by default the one of median duration is drawn.
"""
import argparse
import json
import sys
from xml.sax.saxutils import escape

import sparse_chart

WIDTH, LEFT, RIGHT, TOP = 1100, 90, 20, 60
THREAD, READ, DEPTH, GAP = 34, 3, 90, 14  # heights
READS = 1000                              # lanes from here on are reads
NEAR = 0.3                                # pixels
STEPS = {"embed": "#8da0cb", "norm": "#bcbddc", "matmul": "#4c78a8", "rope": "#9ecae9", "attention": "#54a24b", "activate": "#b79a20",
         "look ahead": "#b279a2", "feed-forward": "#eeca3b"}
OTHER, WAIT, KINDS = "#bab0ac", "#d62728", {"read": "#e6550d", "prefetch": "#31a354"}
NAMES = {"read": "read on demand", "prefetch": "read ahead"}


def load(path):
    """The complete spans of a trace, times in ms: dicts of name, cat, lane, begin, end, args. ValueError when it is none."""
    with open(path) as f:
        try:
            events = json.load(f)["traceEvents"]
            return [{"name": e["name"], "cat": e.get("cat", ""), "lane": int(e["tid"]), "begin": e["ts"] / 1e3,
                     "end": (e["ts"] + e["dur"]) / 1e3, "args": e.get("args", {})} for e in events if e["ph"] == "X"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"no trace ({error!r})") from None


def choose(spans, number=None):
    """The span of a token by number, or that of median duration. ValueError when there is none."""
    tokens = sorted((s for s in spans if s["cat"] == "token"), key=lambda s: s["begin"])
    if number is None and tokens:
        return sorted(tokens, key=lambda s: s["end"] - s["begin"])[(len(tokens) - 1) // 2]
    if number is None or not 0 <= number < len(tokens):
        raise ValueError(f"there are {len(tokens)} tokens in the trace")
    return tokens[number]


def within(spans, token):
    """The parts of the other spans that lie in the token's time, which begins at 0."""
    zero, end = token["begin"], token["end"]
    return [{**s, "begin": max(s["begin"], zero) - zero, "end": min(s["end"], end) - zero}
            for s in spans if s["cat"] != "token" and s["end"] > zero and s["begin"] < end]


def merged(spans, near):
    """Spans of the same lane, kind and name that follow each other within `near` ms are one; "n" says how many it was."""
    out, last = [], {}
    for s in sorted(spans, key=lambda s: (s["lane"], s["begin"])):
        key = s["lane"], s["cat"] == "wait"
        before = last.get(key)
        if before and (before["cat"], before["name"]) == (s["cat"], s["name"]) and s["begin"] - before["end"] <= near:
            before["end"], before["n"] = max(before["end"], s["end"]), before["n"] + 1
        else:
            last[key] = {**s, "n": 1}
            out.append(last[key])
    return out


def depths(spans, total, columns):
    """Mean number of the spans under way in each of `columns` equal parts of `total` ms."""
    width, out = total / columns, [0.0] * columns
    for s in spans:
        first, last = int(s["begin"] / width), min(columns - 1, int(s["end"] / width))
        for i in range(first, last + 1):
            out[i] += max(0.0, min(s["end"], (i + 1) * width) - max(s["begin"], i * width)) / width
    return out


class Picture:
    """Collects the elements of the SVG."""

    def __init__(self, total):
        self.total, self.out, self.y = total, [], TOP

    def x(self, ms):
        return LEFT + (WIDTH - LEFT - RIGHT) * ms / self.total

    def text(self, x, y, words, anchor="start", more=""):
        self.out.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(words)}</text>')

    def bar(self, s, y, height, fill, kind):
        x0, x1 = self.x(s["begin"]), self.x(s["end"])
        said = ", ".join([s["name"]] + [f"{k} {v}" for k, v in s["args"].items()] * (s["n"] == 1) + [f"{s['n']} together"] * (s["n"] > 1))
        self.out.append(f'<rect class="{kind}" x="{x0:.2f}" y="{y:.1f}" width="{max(NEAR, x1 - x0):.2f}" height="{height}" fill="{fill}">'
                        f'<title>{escape(said)}, {s["end"] - s["begin"]:.3f} ms</title></rect>')

    def threads(self, spans):
        for lane in sorted({s["lane"] for s in spans if s["lane"] < READS}):
            self.text(LEFT - 8, self.y + THREAD / 2 + 4, f"thread {lane}", "end")
            for s in sorted((s for s in spans if s["lane"] == lane), key=lambda s: s["cat"] == "wait"):
                wait = s["cat"] == "wait"
                self.bar(s, self.y, THREAD, "url(#wait)" if wait else STEPS.get(s["name"], OTHER), "wait" if wait else "step")
            self.y += THREAD + 4
        self.y += GAP

    def reads(self, spans):
        lanes = sorted({s["lane"] for s in spans if s["lane"] >= READS})
        if lanes:
            self.text(LEFT - 8, self.y + len(lanes) * READ / 2 + 4, "reads", "end")
        for s in spans:
            if s["lane"] >= READS:
                self.bar(s, self.y + READ * lanes.index(s["lane"]), READ, KINDS.get(s["cat"], OTHER), s["cat"])
        self.y += len(lanes) * READ + GAP

    def depth(self, spans):
        """Two areas, one on the other."""
        columns = WIDTH - LEFT - RIGHT
        demand, ahead = (depths([s for s in spans if s["cat"] == kind], self.total, columns) for kind in KINDS)
        most = max(map(sum, zip(demand, ahead)))
        bottom, base = self.y + DEPTH, [0.0] * columns
        self.text(LEFT - 8, self.y + DEPTH / 2 - 4, "in flight", "end")
        if most > 0:
            self.text(LEFT - 8, self.y + DEPTH / 2 + 12, f"(top: {most:.0f})", "end")
            for kind, values in zip(KINDS, (demand, ahead)):
                tops = [b + v for b, v in zip(base, values)]
                line = [f"{LEFT + i + 0.5:.1f},{bottom - DEPTH * v / most:.1f}" for i, v in enumerate(tops)]
                back = [f"{LEFT + i + 0.5:.1f},{bottom - DEPTH * v / most:.1f}" for i, v in enumerate(base)]
                self.out.append(f'<polygon class="depth" points="{" ".join(line + back[::-1])}" fill="{KINDS[kind]}"/>')
                base = tops
        self.y = bottom + GAP

    def axis(self):
        self.out.append(f'<path d="M{LEFT} {self.y}H{WIDTH - RIGHT}" stroke="#333333"/>')
        for ms in sparse_chart.ticks(self.total):
            if ms <= self.total * 1.0001:
                self.out.append(f'<path d="M{self.x(ms):.1f} {TOP}V{self.y + 5}" stroke="#333333" stroke-opacity="0.15"/>')
                self.text(self.x(ms), self.y + 20, f"{ms:g}", "middle")
        self.text(WIDTH - RIGHT, self.y + 36, "ms", "end")
        self.y += 44

    def legend(self, spans):
        seen = {s["name"] for s in spans if s["cat"] == "step"}
        entries = [(name, color) for name, color in STEPS.items() if name in seen]
        entries += [("other steps", OTHER)] if seen - set(STEPS) else []
        entries += [("waiting for reads", "url(#wait)")] + [(NAMES[kind], color) for kind, color in KINDS.items()]
        x = LEFT
        for name, fill in entries:
            if x + 24 + 7 * len(name) > WIDTH - RIGHT:
                x, self.y = LEFT, self.y + 20
            self.out.append(f'<rect class="legend" x="{x}" y="{self.y - 11}" width="14" height="14" fill="{fill}"/>')
            self.text(x + 20, self.y, name)
            x += 36 + 7 * len(name)
        self.y += 20


def svg(spans, token, number):
    """The picture of a token. number: how it is called."""
    total = max(token["end"] - token["begin"], 1e-6)
    raw = within(spans, token)
    p = Picture(total)
    drawn = merged(raw, NEAR * total / (WIDTH - LEFT - RIGHT))
    p.threads(drawn)
    p.reads(drawn)
    p.depth(raw)
    p.axis()
    p.legend(raw)
    counts = {kind: [s["args"].get("bytes", 0) for s in raw if s["cat"] == kind] for kind in KINDS}
    title = f"Token {number}, {total:.1f} ms: " + ", ".join(f"{len(v)} x {NAMES[k]}, {sum(v) / 2**20:.1f} MiB" for k, v in counts.items())
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {p.y}" font-family="sans-serif" font-size="13">',
                      f"<title>{escape(title)}</title>",
                      '<defs><pattern id="wait" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
                      f'<rect class="hatch" width="5" height="5" fill="#ffffff" fill-opacity="0.7"/><path d="M1 0V5" stroke="{WAIT}" '
                      'stroke-width="2.5"/></pattern></defs>',
                      f'<rect class="paper" width="{WIDTH}" height="{p.y}" fill="#ffffff"/>',
                      f'<text x="{LEFT}" y="30" font-size="15">{escape(title)}</text>'] + p.out + ["</svg>"]) + "\n"


def main():
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", metavar="TRACE.json")
    parser.add_argument("out", metavar="OUT.svg")
    parser.add_argument("--token", type=int, metavar="N", help="which token, from 0 (default: the median one)")
    args = parser.parse_args()
    try:
        spans = load(args.trace)
        token = choose(spans, args.token)
        number = sorted(s["begin"] for s in spans if s["cat"] == "token").index(token["begin"])
        with open(args.out, "w") as f:
            f.write(svg(spans, token, number))
    except OSError as error:
        sys.exit(f"trace_picture: {error.filename}: {error.strerror}")
    except ValueError as error:
        sys.exit(f"trace_picture: {args.trace}: {error}")


if __name__ == "__main__":
    main()
