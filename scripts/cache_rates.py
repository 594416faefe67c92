# SPDX-License-Identifier: MIT
"""Hit rates of the policies of cache_policies.py on a trace of cache_trace.py, for caches of so many slots or bytes. Needs numpy."""
import numpy as np

import cache_policies as p

GIB = 1 << 30
BEST = "Belady, bypass"
NEURONS, EXPERTS = "program, neurons", "program, experts"
IN_BYTES = [BEST, "LRU", "LFU", "LFU, halved every 16", "S3-FIFO", "decay 8", NEURONS, EXPERTS]  # what is shown for sizes in bytes


def policies():
    """Name to a function of (units, slots, uses in the warm part, uses in all) that makes the cache."""
    def plain(kind, *args, **kw):
        return lambda units, slots, warm, whole: kind(units, slots, *args, **kw)

    def split(share, kind, *args, **kw):
        return lambda units, slots, warm, whole: p.Static(units, slots, warm, share, lambda u, s: kind(u, s, *args, **kw))

    table = {BEST: plain(p.Belady, bypass=True), "Belady": plain(p.Belady), "FIFO": plain(p.Fifo), "LRU": plain(p.Lru),
             "CLOCK": plain(p.Clock), "CLOCK, marks to 3": plain(p.Clock, 3), "CLOCK, marks to 15": plain(p.Clock, 15),
             "SLRU": plain(p.Slru), "S3-FIFO": plain(p.S3Fifo), "LFU": plain(p.Lfu, 0)}
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
    table[NEURONS], table[EXPERTS] = plain(p.Slots), plain(p.Slots, 8, 0)
    table[EXPERTS + ", hottest first"] = plain(p.Slots, 8, 0, hottest_first=True)
    for every, look in ((4, 0), (12, 0), (16, 0), (32, 0), (8, 8)):
        table[f"program, halved every {every}, {f'{look} looks' if look else 'exact'}"] = plain(p.Slots, every, look)
    table["static, first quarter"] = lambda units, slots, warm, whole: p.Static(units, slots, warm)
    table["static, whole trace"] = lambda units, slots, warm, whole: p.Static(units, slots, whole)
    for share in (0.25, 0.5, 0.75):
        table[f"static {share:.0%} + LRU"] = split(share, p.Lru)
        table[f"static {share:.0%} + hand +8"] = split(share, p.Hand, 16, 8, 4, 1 / 8)
    return table


def run(trace, make, slots):
    """How many units each step finds, and the caches. slots: of each layer's cache, a list; or of one cache for all, a number."""
    warm, whole = trace.uses(trace.first), trace.uses(trace.tokens)
    one = np.ndim(slots) == 0
    if one:
        caches = [make(trace.units * trace.layers, slots, warm.reshape(-1), whole.reshape(-1))] * trace.layers
    else:
        caches = [make(trace.units, n, warm[i], whole[i]) for i, n in enumerate(slots)]
    ids, following = trace.keys if one else trace.ids, trace.following()
    starts, found = trace.starts.tolist(), np.zeros(len(trace.counts), np.int64)
    for step in range(len(trace.counts)):
        part = slice(starts[step], starts[step + 1])
        found[step] = caches[step % trace.layers].touch(step // trace.layers, ids[part], following[part])
    return found, caches


def replay(trace, make, slots, one):
    """Hit rate after the warm part, and how many slots a hand looked at per eviction (0: none did); slots: of a layer; one: one
    cache for all layers."""
    found, caches = run(trace, make, slots * trace.layers if one else [slots] * trace.layers)
    first = trace.first * trace.layers
    looked, evicted = (sum(getattr(cache, name, 0) for cache in caches) for name in ("looked", "evicted"))
    return found[first:].sum() / max(1, trace.counts[first:].sum()), looked / max(1, evicted)


# ---- sizes in bytes ----

def parse_size(text):
    """As the program's --ram: 512M, 2G."""
    shift = 10 * ("KMGT".find(text[-1:].upper()) + 1) if text[-1:].isalpha() else 0
    digits = text[:-1] if shift else text
    if not digits.isdecimal():
        raise ValueError(f"{text} is no size such as 512M or 2G")
    return int(digits) << shift


def shares(trace, size):
    """Slots of each layer: equal shares of the bytes; what is over gives the first layers one more. Layers that use no units have none."""
    live = trace.most > 0
    slots = np.where(live, size // max(1, live.sum()) // np.maximum(trace.bytes, 1), 0)
    left = size - int((slots * trace.bytes).sum())
    for i in np.flatnonzero(live):
        if left >= trace.bytes[i]:
            slots[i] += 1
            left -= int(trace.bytes[i])
    return np.minimum(slots, trace.units).tolist()


def mean_bytes(trace):
    """Bytes of a unit in a cache for all layers, whose slots are as large as the mean of what is used."""
    used = trace.most
    return (used * trace.bytes).sum() / used.sum()


def pool(trace, size):
    """Slots of one cache for all layers."""
    return int(size // mean_bytes(trace))


def floor(trace):
    """What a token uses, in units and bytes: layers x experts used x bytes of an expert. A global LRU below it may hit nothing."""
    used = trace.most
    return int(used.sum()), int((used * trace.bytes).sum())


def cliff(trace):
    """The fewest slots with which one LRU for all layers hits anything at all, measured; 0: it never does."""
    made = policies()["LRU"]

    def hits(slots):
        return run(trace, made, slots)[0].any()
    low, high = 0, trace.units * trace.layers
    if not hits(high):
        return 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if hits(middle) else (middle, high)
    return high


def rate(trace, make, size, one, which, drive):
    """Hit rate in percent for a cache of so many bytes, and the most tokens per second that a drive of `drive` bytes per second allows."""
    found, _ = run(trace, make, pool(trace, size) if one else shares(trace, size))
    counted = trace.counted(which)
    found, counts = (x.reshape(-1, trace.layers)[counted] for x in (found, trace.counts))
    missed = ((counts - found) * trace.bytes).sum() / max(1, len(counts))
    return 100 * found.sum() / max(1, counts.sum()), drive / missed if missed else float("inf")
