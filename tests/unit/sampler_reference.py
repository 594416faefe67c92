#!/usr/bin/env python3
"""Independent model of runtime/sampler.c in plain Python; prints the golden sequences of test_sampler.c.

Written from the comments of sparsegen.h and the descriptions of the two generators (https://prng.di.unimi.it/), with the
exponential of Python's math module. The cases are chosen so that no draw falls within rounding of a border."""
import math
import struct

MASK = (1 << 64) - 1
N_VOCAB = 100


def f32(x):
    return struct.unpack('<f', struct.pack('<f', x))[0]


class Xoshiro256ss:
    def __init__(self, seed):
        self.s = []
        for _ in range(4):
            seed = (seed + 0x9e3779b97f4a7c15) & MASK
            z = seed
            z = ((z ^ (z >> 30)) * 0xbf58476d1ce4e5b9) & MASK
            z = ((z ^ (z >> 27)) * 0x94d049bb133111eb) & MASK
            self.s.append(z ^ (z >> 31))

    def uniform(self):
        s = self.s
        x = (s[1] * 5) & MASK
        result = ((((x << 7) | (x >> 57)) & MASK) * 9) & MASK
        t = (s[1] << 17) & MASK
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= t
        s[3] = ((s[3] << 45) | (s[3] >> 19)) & MASK
        return (result >> 11) / 2.0**53


def rows(n):
    """n rows of logits: three, over and over, so that penalties matter. Multiples of 1/64, exact in float32."""
    x, three = 12345, []
    for _ in range(3):
        row = []
        for _ in range(N_VOCAB):
            x = (x * 1664525 + 1013904223) & 0xffffffff
            row.append(((x >> 8) % 641 - 320) / 64.0)
        three.append(row)
    return [three[i % 3] for i in range(n)]


def sample(rng, logits, history, o):
    logits = list(logits)
    window = history if o['last_n'] < 0 else history[len(history) - min(o['last_n'], len(history)):]
    for t in set(window):
        x = logits[t]
        x = f32(x / f32(o['repeat'])) if x > 0 else f32(x * f32(o['repeat']))
        logits[t] = f32(x - f32(f32(window.count(t) * f32(o['frequency'])) + f32(o['presence'])))
    order = sorted(range(N_VOCAB), key=lambda i: (-logits[i], i))
    if o['temp'] == 0:
        return order[0]
    if o['top_k'] > 0:
        order = order[:o['top_k']]
    weights = [math.exp((logits[i] - logits[order[0]]) / f32(o['temp'])) for i in order]
    total = sum(weights)
    kept, cumulated = [], 0.0
    for i, w in zip(order, weights):
        if w < f32(o['min_p']):
            break
        kept.append((i, w))
        cumulated += w
        if o['top_p'] < 1 and cumulated >= f32(o['top_p']) * total:
            break
    target = rng.uniform() * sum(w for _, w in kept)
    for i, w in kept:
        if target < w:
            return i
        target -= w
    return kept[-1][0]


OFF = dict(seed=0, temp=1.0, top_k=0, top_p=1.0, min_p=0.0, repeat=1.0, presence=0.0, frequency=0.0, last_n=64)
CASES = [
    ('defaults', dict(OFF, temp=0.8, top_k=40, top_p=0.95, min_p=0.05)),
    ('seed 42', dict(OFF, seed=42)),
    ('large seed', dict(OFF, seed=MASK, temp=2.5)),
    ('top_k', dict(OFF, seed=1, top_k=5, temp=3.0)),
    ('top_p', dict(OFF, seed=2, top_p=0.5)),
    ('min_p', dict(OFF, seed=3, min_p=0.2, temp=1.5)),
    ('penalties', dict(OFF, seed=4, repeat=1.3, presence=0.4, frequency=0.6, last_n=6)),
    ('all tokens', dict(OFF, seed=5, temp=0.0, repeat=1.1, frequency=2.0, last_n=-1)),
]


def main():
    for name, o in CASES:
        rng, history = Xoshiro256ss(o['seed']), []
        for row in rows(16):
            history.append(sample(rng, row, history, o))
        print('    { "%s", { sizeof(sg_sampler_options), UINT64_C(%d), %sf, %d, %sf, %sf, %sf, %sf, %sf, %d },\n      { %s } },' % (
            name, o['seed'], o['temp'], o['top_k'], o['top_p'], o['min_p'], o['repeat'], o['presence'], o['frequency'], o['last_n'],
            ', '.join(map(str, history))))


if __name__ == '__main__':
    main()
