# SPDX-License-Identifier: MIT
"""A line chart as SVG, without any library: what bench_sparse.py draws."""
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 460
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 44, 56  # margins; the names of the lines stand on the right
COLORS = {"dense": "#555555", "llama.cpp": "#d95f02", "lossless": "#1b9e77", "predicted": "#7570b3", "forced": "#a6761d"}


def ticks(top):
    """Values for the marks of an axis from 0 to about `top`: four to eight equal steps of 1, 2 or 5 times a power of ten."""
    step = 1e-3
    factors = (2, 2.5, 2)
    i = 0
    while top / step > 8:
        step *= factors[i % 3]
        i += 1
    return [step * k for k in range(int(top / step) + 2)]


def spread_labels(wanted, least):
    """Places near the wanted ones (a list), at least `least` apart, in the same order."""
    order, out = sorted(range(len(wanted)), key=lambda i: wanted[i]), list(wanted)
    for before, i in zip(order, order[1:]):
        out[i] = max(out[i], out[before] + least)
    return out


def svg(title, x_label, y_label, lines):
    """lines: name to a list of (x from 0 to 100, y >= 0), x rising. A line without a colour of its own is a dashed bound."""
    marks = ticks(max(y for points in lines.values() for _, y in points))
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(x, y):
        return LEFT + width * x / 100, HEIGHT - BOTTOM - height * y / marks[-1]

    def text(x, y, words, anchor="middle", more=""):
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(words)}</text>'

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
           f'<title>{escape(title)}</title>', f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
           text(LEFT + width / 2, 24, title, more=' font-size="15"')]
    for y in marks:
        (x0, py), (x1, _) = at(0, y), at(100, y)
        out += [f'<path d="M{x0:.1f} {py:.1f}H{x1:.1f}" stroke="#dddddd"/>', text(x0 - 8, py + 4, f"{y:g}", "end")]
    for x in range(0, 101, 10):
        px, py = at(x, 0)
        out += [f'<path d="M{px:.1f} {py:.1f}v5" stroke="#333333"/>', text(px, py + 20, str(x))]
    out += [f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{LEFT + width}" fill="none" stroke="#333333"/>',
            text(LEFT + width / 2, HEIGHT - 14, x_label),
            text(0, 0, y_label, more=f' transform="translate(18 {TOP + height / 2:.1f}) rotate(-90)"')]
    labels = spread_labels([at(*points[-1])[1] for points in lines.values()], 16)
    for (name, points), label in zip(lines.items(), labels):
        color = COLORS.get(name, "#999999")
        dash = "" if name in COLORS else ' stroke-dasharray="6 4"'
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*p) for p in points))
        out.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"{dash}/>')
        if not dash:
            for x, y in points:
                px, py = at(x, y)
                out.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{color}"><title>{escape(name)}: {x:g} %, {y:.2f}</title>'
                           '</circle>')
        out.append(text(LEFT + width + 8, label + 4, f"{name} {points[-1][1]:.2f}", "start", f' fill="{color}"'))
    return "\n".join(out + ["</svg>"]) + "\n"
