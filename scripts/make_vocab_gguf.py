#!/usr/bin/env python3
"""Writes a GGUF file that holds nothing but a byte-level BPE vocabulary, from a published tokenizer.

  make_vocab_gguf.py qwen2 vocab.json merges.txt OUT.gguf
  make_vocab_gguf.py llama-bpe tokenizer.model OUT.gguf

The second reads tiktoken's form: lines of base64 bytes and rank, without a list of merges. There any two neighbours may
be joined whose union is a token, in the order of the unions' ranks, so every cut of a token into two tokens is a merge.
Tests use this to rebuild vocabularies; special tokens are not written.
"""
import base64
import json
import struct
import sys

STRING, ARRAY, I32 = 8, 9, 5


def byte_alphabet():
    """GPT-2's characters for the bytes 0 .. 255."""
    keep = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    chars = {b: chr(b) for b in keep}
    rest = [b for b in range(256) if b not in chars]
    chars.update({b: chr(256 + i) for i, b in enumerate(rest)})
    return chars


def read_tiktoken(path):
    ranks = {}
    with open(path, "rb") as f:
        for line in f:
            if line.strip():
                token, rank = line.split()
                ranks[base64.b64decode(token)] = int(rank)
    chars = byte_alphabet()

    def text(token):
        return "".join(chars[b] for b in token)

    tokens, merges = [], []
    for token, rank in sorted(ranks.items(), key=lambda e: e[1]):
        if rank != len(tokens):
            raise SystemExit(f"{path}: rank {len(tokens)} is missing")
        tokens.append(text(token))
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        cuts = [(a, b) for a, b in cuts if a in ranks and b in ranks]
        cuts.sort(key=lambda c: (ranks[c[0]], ranks[c[1]]))
        merges.extend(text(a) + " " + text(b) for a, b in cuts)
    return tokens, merges


def read_json(vocab_path, merges_path):
    with open(vocab_path, encoding="utf-8") as f:
        vocab = json.load(f)
    tokens = sorted(vocab, key=vocab.get)
    if [vocab[t] for t in tokens] != list(range(len(tokens))):
        raise SystemExit(f"{vocab_path}: ids are not 0 .. {len(tokens) - 1}")
    with open(merges_path, encoding="utf-8") as f:
        lines = f.read().split("\n")
    return tokens, [line for line in lines if line and not line.startswith("#version")]


def string(s):
    b = s.encode("utf-8")
    return struct.pack("<Q", len(b)) + b


def write(path, pre, tokens, merges):
    strings = [("general.architecture", "llama"), ("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", pre)]
    arrays = [("tokenizer.ggml.tokens", tokens), ("tokenizer.ggml.merges", merges)]
    with open(path, "wb") as f:
        f.write(b"GGUF" + struct.pack("<IQQ", 3, 0, len(strings) + len(arrays) + 1))
        for key, value in strings:
            f.write(string(key) + struct.pack("<I", STRING) + string(value))
        for key, values in arrays:
            f.write(string(key) + struct.pack("<IIQ", ARRAY, STRING, len(values)))
            f.write(b"".join(string(v) for v in values))
        types = struct.pack(f"<{len(tokens)}i", *([1] * len(tokens)))
        f.write(string("tokenizer.ggml.token_type") + struct.pack("<IIQ", ARRAY, I32, len(tokens)) + types)


def main(args):
    if len(args) == 4 and args[0] == "qwen2":
        tokens, merges = read_json(args[1], args[2])
    elif len(args) == 3 and args[0] == "llama-bpe":
        tokens, merges = read_tiktoken(args[1])
    else:
        raise SystemExit(__doc__)
    write(args[-1], args[0], tokens, merges)
    print(f"{args[-1]}: {len(tokens)} tokens, {len(merges)} merges")


if __name__ == "__main__":
    main(sys.argv[1:])
