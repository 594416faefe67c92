#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Write a GGUF model of a real shape with random weights, for measuring speed only.

The weights have zero mean and a spread of 1/sqrt(inputs), and the two matrices of a layer that write to the
residual stream are scaled down by 1/sqrt(2 * layers). Without this (plain uniform nibbles have a mean of -0.5)
the all-ones direction grows layer by layer and every token ends in the same hidden state.

Types: q4_0, q8_0 and f16 use that type for every matrix; q4_k is the Q4_K_M mix (Q6_K for the output matrix and
for attn_v and ffn_down of half of the layers, Q4_K for the rest). Norms are F32. Needs numpy.
"""
import argparse
import os
import struct
import sys
import time

import numpy as np

SHAPES = {  # layers, model width, FFN width, heads, KV heads, vocabulary, context, rope base, tied embeddings
    "tinyllama-1.1b": (22, 2048, 5632, 32, 4, 32000, 2048, 1e4, False),
    "llama-3.2-3b": (28, 3072, 8192, 24, 8, 128256, 131072, 5e5, True),
    "mistral-7b": (32, 4096, 14336, 32, 8, 32000, 32768, 1e6, False),
    "llama-7b": (32, 4096, 11008, 32, 32, 32000, 4096, 1e4, False),
    "llama-13b": (40, 5120, 13824, 40, 40, 32000, 4096, 1e4, False),
    "mixtral-47b": (32, 4096, 8 * 14336, 32, 8, 32000, 32768, 1e6, False),  # all experts of a layer as one sparse FFN
    "tiny": (2, 256, 1024, 8, 4, 512, 512, 1e4, False),  # for tests
}
ALIGN = 32
CHUNK = 1 << 22  # weights made at a time: bounds the memory used

# name: (number of the type in GGUF, weights in a block, bytes of a block)
QUANTS = {"f32": (0, 1, 4), "f16": (1, 1, 2), "q4_0": (2, 32, 18), "q8_0": (8, 32, 34),
          "q4_k": (12, 256, 144), "q6_k": (14, 256, 210)}
FILE_TYPE = {"f16": 1, "q4_0": 2, "q8_0": 7, "q4_k": 15}

# Sixteen equally likely levels, symmetric about 8 and roughly normal: a uniform nibble becomes a zero-mean weight.
NIBBLE = np.array([1, 3, 4, 5, 6, 6, 7, 8, 8, 9, 10, 10, 11, 12, 13, 15], np.uint8)
NIBBLE_PAIR = (NIBBLE[:, None] << 4 | NIBBLE[None, :]).reshape(256)


def random_bytes(rng, *shape):
    """A uint8 array of uniform random bytes."""
    return np.frombuffer(rng.bytes(int(np.prod(shape))), np.uint8).reshape(shape)


def as_bytes(f16):
    """The bytes of a column of halves, as an array of shape (n, 2)."""
    return f16.astype("<f2").view(np.uint8).reshape(-1, 2)


def spread_scales(rng, n, mean):
    """n block scales between 0.75 and 1.25 times `mean`."""
    return (mean * (0.75 + 0.5 * rng.random(n, dtype=np.float32))).astype(np.float16)


def make_q4_0(rng, n, std):
    """n blocks {half d; 16 bytes of nibbles}: weight = d * (nibble - 8)."""
    d = spread_scales(rng, n, std / (NIBBLE - 8.0).std())
    return np.concatenate([as_bytes(d), NIBBLE_PAIR[random_bytes(rng, n, 16)]], axis=1)


def make_q8_0(rng, n, std):
    """n blocks {half d; 32 int8}: weight = d * int8, with -128 (which has no positive partner) made 0."""
    q = random_bytes(rng, n, 32).copy()
    q[q == 128] = 0
    return np.concatenate([as_bytes(spread_scales(rng, n, std / 73.5)), q], axis=1)


def make_q4_k(rng, n, std):
    """n blocks {half d, dmin; 12 bytes of 6-bit scales and mins; 128 bytes of nibbles}.

    weight = d * scale * nibble - dmin * min. With min = scale and dmin = 7.5 d the mean is zero.
    """
    scale = rng.integers(32, 64, (n, 8), dtype=np.uint8)
    d = spread_scales(rng, n, std / (4.61 * 48))
    dmin = (7.5 * d.astype(np.float32)).astype(np.float16)
    low, high = scale[:, :4], scale[:, 4:]
    first = low | (high >> 4) << 6
    return np.concatenate([as_bytes(d), as_bytes(dmin), first, first, (high & 15) * 17, random_bytes(rng, n, 128)],
                          axis=1)


def make_q6_k(rng, n, std):
    """n blocks {128 bytes of low nibbles; 64 bytes of high pairs; 16 int8 scales; half d}.

    weight = d * scale * (6 bits - 32). The mean of the 6 bits is -0.5, so the scales get random signs.
    """
    scale = rng.integers(32, 64, (n, 16), dtype=np.int8) * rng.choice(np.array([-1, 1], np.int8), (n, 16))
    d = spread_scales(rng, n, std / (18.5 * 48))
    return np.concatenate([random_bytes(rng, n, 192), scale.view(np.uint8), as_bytes(d)], axis=1)


def make_f16(rng, n, std):
    """n normally distributed halves."""
    return (rng.standard_normal(n, dtype=np.float32) * np.float32(std)).astype("<f2")


MAKERS = {"f16": make_f16, "q4_0": make_q4_0, "q8_0": make_q8_0, "q4_k": make_q4_k, "q6_k": make_q6_k}


def list_tensors(shape, layers, kind):
    """The tensors of the model as (name, dimensions with the row length first, type, spread).

    The spread is the standard deviation of a matrix, and the value of a norm.
    """
    total, width, ffn, heads, kv_heads, vocab, _, _, tied = SHAPES[shape]
    kv_width = width // heads * kv_heads
    big = "q6_k" if kind == "q4_k" else kind
    writer = (2 * total) ** -0.5

    def matrix(name, inputs, outputs, quant=kind, scale=1.0):
        return name, (inputs, outputs), quant, scale * inputs ** -0.5

    out = [("token_embd.weight", (width, vocab), big if tied else kind, 1.0)]
    for i in range(layers):
        p = f"blk.{i}."
        eighth = layers // 8
        more = big if i < eighth or i >= 7 * layers // 8 or (i - eighth) % 3 == 2 else kind
        out += [(p + "attn_norm.weight", (width,), "f32", 1.0),
                matrix(p + "attn_q.weight", width, width),
                matrix(p + "attn_k.weight", width, kv_width),
                matrix(p + "attn_v.weight", width, kv_width, more),
                matrix(p + "attn_output.weight", width, width, scale=writer),
                (p + "ffn_norm.weight", (width,), "f32", 1.0),
                matrix(p + "ffn_gate.weight", width, ffn),
                matrix(p + "ffn_up.weight", width, ffn),
                matrix(p + "ffn_down.weight", ffn, width, more, writer)]
    # Tied embeddings serve as the output matrix too. Small ones would drown in what the layers write, and the tokens
    # would become alike: the output norm makes the logits small instead.
    out.append(("output_norm.weight", (width,), "f32", width ** -0.5 if tied else 1.0))
    if not tied:
        out.append(matrix("output.weight", width, vocab, big))
    return out


def make_vocabulary(size):
    """A SentencePiece-like vocabulary: three control tokens, 256 bytes, then words in order of length.

    Every prefix of a word is a word too, so the pairwise merges of a SentencePiece BPE tokenizer can reach all.
    """
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
    kinds = [2, 3, 3] + [6] * 256
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = list("\u2581" + letters)
    pieces += words
    while len(pieces) < size:
        words = [w + c for w in words for c in letters]
        pieces += words[:size - len(pieces)]
    kinds += [1] * (size - len(kinds))
    scores = [0.0] * 259 + [-float(i) for i in range(size - 259)]
    return pieces, scores, kinds


def gguf_string(text):
    """A GGUF string: 64-bit length and bytes."""
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def gguf_pair(key, code, value):
    """An encoded key-value pair; a list becomes an array."""
    codes = {"u32": (4, "<I"), "i32": (5, "<i"), "f32": (6, "<f"), "bool": (7, "<?"), "str": (8, None)}

    def encode(value):
        return gguf_string(value) if code == "str" else struct.pack(codes[code][1], value)

    if isinstance(value, list):
        body = struct.pack("<IIQ", 9, codes[code][0], len(value)) + b"".join(encode(v) for v in value)
    else:
        body = struct.pack("<I", codes[code][0]) + encode(value)
    return gguf_string(key) + body


def gguf_metadata(shape, layers, kind, name, description):
    """The key-value part of the file, as a list of encoded pairs."""
    _, width, ffn, heads, kv_heads, vocab, context, base, _ = SHAPES[shape]
    pairs = []

    def put(key, code, value):
        pairs.append(gguf_pair(key, code, value))

    pieces, scores, kinds = make_vocabulary(vocab)
    put("general.architecture", "str", "llama")
    put("general.name", "str", name)
    put("general.description", "str", description)
    put("general.file_type", "u32", FILE_TYPE[kind])
    put("general.quantization_version", "u32", 2)
    put("llama.block_count", "u32", layers)
    put("llama.context_length", "u32", context)
    put("llama.embedding_length", "u32", width)
    put("llama.feed_forward_length", "u32", ffn)
    put("llama.attention.head_count", "u32", heads)
    put("llama.attention.head_count_kv", "u32", kv_heads)
    put("llama.attention.layer_norm_rms_epsilon", "f32", 1e-5)
    put("llama.rope.dimension_count", "u32", width // heads)
    put("llama.rope.freq_base", "f32", base)
    put("llama.vocab_size", "u32", vocab)
    put("tokenizer.ggml.model", "str", "llama")
    put("tokenizer.ggml.tokens", "str", pieces)
    put("tokenizer.ggml.scores", "f32", scores)
    put("tokenizer.ggml.token_type", "i32", kinds)
    put("tokenizer.ggml.bos_token_id", "u32", 1)
    put("tokenizer.ggml.eos_token_id", "u32", 2)
    put("tokenizer.ggml.unknown_token_id", "u32", 0)
    put("tokenizer.ggml.add_bos_token", "bool", True)
    return pairs


def padding(n):
    """Zero bytes from n to the next aligned position."""
    return b"\0" * (-n % ALIGN)


def tensor_bytes(dims, quant):
    """Bytes of a tensor."""
    _, block, size = QUANTS[quant]
    return int(np.prod(dims, dtype=np.int64)) // block * size


def write_tensor(f, rng, dims, quant, spread):
    """Make one tensor in chunks and write it."""
    count = int(np.prod(dims, dtype=np.int64))
    if quant == "f32":
        f.write(np.full(count, spread, "<f4").data)
    else:
        block = QUANTS[quant][1]
        for start in range(0, count, CHUNK):
            f.write(np.ascontiguousarray(MAKERS[quant](rng, min(CHUNK, count - start) // block, spread)).data)
    f.write(padding(tensor_bytes(dims, quant)))


def write_header(f, tensors, pairs):
    """Write everything that comes before the data of the first tensor."""
    f.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs))
    offset = 0
    for name, dims, quant, _ in tensors:
        f.write(gguf_string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, QUANTS[quant][0], offset))
        size = tensor_bytes(dims, quant)
        offset += size + len(padding(size))
    f.write(padding(f.tell()))


def count_weights(tensors):
    """The number of parameters of all tensors."""
    return sum(int(np.prod(t[1], dtype=np.int64)) for t in tensors)


def write_model(path, shape, kind, layers, seed):
    """Write the model to `path`; returns the number of parameters and of bytes."""
    rng = np.random.Generator(np.random.SFC64(seed))
    tensors = list_tensors(shape, layers, kind)
    pairs = gguf_metadata(shape, layers, kind, f"synthetic {shape} {kind}",
                          "Random weights in a real shape: for measuring speed only, the text it makes means nothing. "
                          f"Made by sparsegen's make_synthetic.py, seed {seed}.")
    with open(path, "wb") as f:
        write_header(f, tensors, pairs)
        for _, dims, quant, spread in tensors:
            write_tensor(f, rng, dims, quant, spread)
        return count_weights(tensors), f.tell()


def write_whole(out, write):
    """Call write(temporary name), which returns parameters and bytes, rename the file when complete, say what it is."""
    start, part = time.monotonic(), out + ".part"
    try:
        params, size = write(part)
        os.replace(part, out)
    except OSError as error:
        program = os.path.splitext(os.path.basename(sys.argv[0]))[0]
        sys.exit(f"{program}: cannot write {out}: {error.strerror}")
    finally:
        if os.path.exists(part):
            os.unlink(part)
    print(f"{out}: {params / 1e9:.3f} billion parameters, {size} bytes, {time.monotonic() - start:.1f} s")


def main():
    """Read the command line, write the file under a temporary name, rename it when complete."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES, help="the model whose sizes to use")
    parser.add_argument("type", choices=FILE_TYPE, help="type of the weights")
    parser.add_argument("out", metavar="OUT.gguf", help="file to write")
    parser.add_argument("--layers", type=int, metavar="N", help="write only N layers (default: all of the shape)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="seed of the weights (default %(default)s)")
    args = parser.parse_args()
    layers = SHAPES[args.shape][0] if args.layers is None else args.layers
    if layers < 1:
        parser.error("--layers must be at least 1")
    if args.seed < 0:
        parser.error("--seed must not be negative")
    write_whole(args.out, lambda path: write_model(path, args.shape, args.type, layers, args.seed))


if __name__ == "__main__":
    main()
