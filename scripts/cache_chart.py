# SPDX-License-Identifier: MIT
"""Hit rates over the bytes of a cache, as SVG, without a library for drawing: what `replay_cache.py draw` writes."""
from xml.sax.saxutils import escape

import cache_rates as rates
import sparse_chart

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 400, 52, 16, 40, 48  # of a panel
LINE = 18                                                          # height of a row of the legend
MARKS = (2, 3, 4, 6)                                               # GiB
# Name, policy, one cache for all layers, colour, dashes.
LINES = (("best possible (Belady), per layer", rates.BEST, False, "#222222", "6 4"), ("best possible, global", rates.BEST, True, "#999999", "6 4"),
         ("experts' rule of the program, per layer", rates.EXPERTS, False, "#d62728", ""),
         ("neurons' rule of the program, per layer", rates.NEURONS, False, "#ff9896", ""),
         ("counts halved every 16 tokens, per layer", "LFU, halved every 16", False, "#9467bd", ""),
         ("LFU, per layer", "LFU", False, "#8c564b", ""), ("S3-FIFO, per layer", "S3-FIFO", False, "#2ca02c", ""),
         ("LRU, per layer", "LRU", False, "#1f77b4", ""), ("LRU, global", "LRU", True, "#17becf", ""))


def sizes(trace, most):
    """Bytes at which rates are drawn: eighths, quarters and halves of a GiB, and both sides of the cliff."""
    gib, unit = rates.GIB, rates.mean_bytes(trace)
    edge = rates.cliff(trace)
    out = {i * gib // 8 for i in range(1, 9)} | {i * gib // 4 for i in range(5, 9)} | {i * gib // 2 for i in range(5, 2 * most // gib + 1)}
    out |= {int(unit * edge) - 1, int(unit * edge) + 1} if edge > 1 else set()
    return sorted(size for size in out if 0 < size <= most)


def lines(trace, most, which):
    """(name of the trace, [(GiB, percent)] for each of LINES, the floor in GiB)."""
    table, drawn = rates.policies(), []
    for _, policy, one, _, _ in LINES:
        drawn.append([(size / rates.GIB, float(rates.rate(trace, table[policy], size, one, which, 0)[0])) for size in sizes(trace, most)])
    return trace.name, drawn, rates.floor(trace)[1] / rates.GIB


def text(x, y, words, anchor="middle", more=""):
    """One line of it."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(words)}</text>'


def panel(name, drawn, floor, most, left):
    """The elements of one trace's diagram."""
    width, height, bottom = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM, HEIGHT - BOTTOM

    def at(gib, percent):
        return left + LEFT + width * gib / most, bottom - height * percent / 100

    (x0, _), (x1, _) = at(0, 0), at(most, 0)
    out = [text((x0 + x1) / 2, 22, name, more=' font-size="15"')]
    for percent in range(0, 101, 20):
        _, y = at(0, percent)
        out += [f'<path d="M{x0:.1f} {y:.1f}H{x1:.1f}" stroke="#dddddd"/>', text(x0 - 6, y + 4, str(percent), "end")]
    for gib in sparse_chart.ticks(most):
        if gib <= most:
            x, _ = at(gib, 0)
            out += [f'<path d="M{x:.1f} {bottom}v5" stroke="#333333"/>', text(x, bottom + 20, f"{gib:g}")]
    for gib in MARKS:
        if gib <= most:
            x, _ = at(gib, 0)
            out.append(f'<path class="mark" d="M{x:.1f} {TOP}V{bottom}" stroke="#bbbbbb" stroke-dasharray="2 3"/>')
    x, _ = at(floor, 0)
    if floor <= most:
        out += [f'<path class="floor" d="M{x:.1f} {TOP}V{bottom}" stroke="#e6550d" stroke-dasharray="4 3"/>',
                text(x + 5, TOP + 12, f"one token's experts: {floor:.2f} GiB", "start", ' fill="#e6550d"')]
    out.append(f'<path d="M{x0:.1f} {TOP}V{bottom}H{x1:.1f}" fill="none" stroke="#333333"/>')
    for (_, _, _, color, dash), points in list(zip(LINES, drawn))[::-1]:  # what matters most on top
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in points))
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        out.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.6"{dashes}/>')
    out += [text((x0 + x1) / 2, HEIGHT - 8, "cache of experts, GiB"),
            text(0, 0, "found in the cache, %", more=f' transform="translate({left + 14} {TOP + height / 2:.1f}) rotate(-90)"')]
    return out


def svg(traces, most):
    """traces: what lines() gave, side by side; most: bytes. One legend below."""
    width = WIDTH * len(traces)
    columns = max(1, width // 360)
    rows = -(-len(LINES) // columns)
    height = HEIGHT + rows * LINE + 12
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">',
           f'<title>{escape("What caches of experts find: " + ", ".join(name for name, _, _ in traces))}</title>',
           f'<rect width="{width}" height="{height}" fill="#ffffff"/>']
    for i, (name, drawn, floor) in enumerate(traces):
        out += panel(name, drawn, floor, most / rates.GIB, i * WIDTH)
    for i, (name, _, _, color, dash) in enumerate(LINES):
        x, y = LEFT + i // rows * (width - LEFT) / columns, HEIGHT + 10 + i % rows * LINE
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        out += [f'<path class="legend" d="M{x:.1f} {y}h26" stroke="{color}" stroke-width="2"{dashes}/>', text(x + 32, y + 4, name, "start")]
    return "\n".join(out + ["</svg>"]) + "\n"
