#!/usr/bin/env python3
"""Writes test vectors for tests/kernels/test_quant.c with the `gguf` package (pip install gguf), whose NumPy code is an
independent description of the block formats.

    scripts/make_quant_vectors.py OUT.bin [--blocks N] [--seed S] [MODEL.gguf ...]

tests/data/quant_vectors.bin is the output with the defaults. With more blocks and with model files (every tensor of a type
that sparsegen knows) the same program checks more: test_quant OUT.bin.

File: records of four little-endian uint32 {kind, type, n values, n block bytes}, then n float32, then the bytes.
kind 0: the bytes dequantise to the floats; kind 1: the floats quantise to the bytes. Ends with the file."""
import argparse
import struct

import numpy as np
from gguf import GGMLQuantizationType as T, GGUFReader
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize

TYPES = [T.F32, T.F16, T.BF16, T.Q8_0, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K, T.IQ4_NL,
         T.MXFP4]
# byte offsets of the half-precision fields of a block
HALVES = {T.Q8_0: [0], T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q2_K: [80, 82], T.Q3_K: [108],
          T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.IQ4_NL: [0]}


def random_blocks(rng, t, n):
    """n blocks of random bytes; scales are finite halves of every size, the first block all zero, the second all ones."""
    values, size = GGML_QUANT_SIZES[t]
    if t in (T.F32, T.F16, T.BF16):
        x = (rng.standard_normal(n * 32) * 10.0 ** rng.uniform(-9, 4, n * 32)).astype(np.float32)
        x[:4] = [0.0, -0.0, np.inf, -np.inf]
        return quantize(x, t).view(np.uint8).reshape(-1)
    b = rng.integers(0, 256, (n, size), dtype=np.uint8)
    b[0] = 0
    b[1] = 255
    for offset in HALVES.get(t, []):
        h = (rng.standard_normal(n) * 10.0 ** rng.uniform(-7, 3, n)).astype(np.float16)
        h[0] = 0
        b[:, offset:offset + 2] = h.view(np.uint8).reshape(n, 2)
    return b.reshape(-1)


def random_values(rng, t, n):
    x = (rng.standard_normal((n, 32)) * 10.0 ** rng.uniform(-6, 3, (n, 1))).astype(np.float32)
    x[0] = 0
    x[1] = np.round(x[1] * 8) / 8  # ties of the rounding
    x[2] = np.arange(32) - 16
    x[3] = np.float32(127) * (np.arange(32) % 2) + np.float32(0.5)
    x = x.reshape(-1)
    if t in (T.F16, T.BF16):
        x[:8] = [np.inf, -np.inf, 65519.0, 65520.0, 2.0**-24, 2.0**-25, 2.0**-14 - 2.0**-26, -0.0]
    return x


def record(out, kind, t, floats, raw):
    floats = np.ascontiguousarray(floats, dtype="<f4").reshape(-1)
    raw = np.ascontiguousarray(raw).view(np.uint8).reshape(-1)
    out.write(struct.pack("<4I", kind, int(t), floats.size, raw.size) + floats.tobytes() + raw.tobytes())


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    p.add_argument("models", nargs="*")
    p.add_argument("--blocks", type=int, default=4)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_intermixed_args()
    rng = np.random.default_rng(a.seed)
    with open(a.out, "wb") as out:
        for t in TYPES:
            raw = random_blocks(rng, t, a.blocks)
            record(out, 0, t, dequantize(raw.reshape(1, -1), t), raw)
        for t in (T.F32, T.F16, T.BF16, T.Q8_0, T.Q4_0):
            x = random_values(rng, t, 4 * a.blocks)
            with np.errstate(over="ignore"):
                record(out, 1, t, x, quantize(x.reshape(1, -1), t))
        for path in a.models:
            for tensor in GGUFReader(path).tensors:
                if tensor.tensor_type in TYPES:
                    record(out, 0, tensor.tensor_type, dequantize(tensor.data, tensor.tensor_type), tensor.data)


if __name__ == "__main__":
    main()
