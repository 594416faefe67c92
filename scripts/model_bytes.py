#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Sizes of well-known models in Q4_0, computed from their published dimensions: the table of docs/models.md.

    model_bytes.py                the table
    model_bytes.py --parameters   how many parameters each model has, to compare with what its authors say

The dimensions are those of each model's config.json. Matrices have 18 bytes for 32 values (Q4_0, embeddings and output too); norms,
biases, convolutions and the matrices of routers are F32, as converters to GGUF leave them. Layers that guess tokens further ahead
(GLM-4.5, Qwen3.5) are not counted, nor is what a file holds besides tensors: names, tokenizer, padding.

KV cache: F16, as neuron_engine/kv_cache.c lays it out for a context of 8192 tokens and batches of 128. States of recurrent layers: F32,
one copy. Plain Python, no packages.
"""
import argparse
from dataclasses import dataclass, field

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
CONTEXT, BATCH = 8192, 128
BLOCK, SLACK = 64, 128  # SG_KEY_BLOCK, SG_KV_SLACK of neuron_engine/attention.h


@dataclass
class Part:
    """Some weights: values of matrices, and values that stay F32."""
    matrix: int = 0
    f32: int = 0

    def __add__(self, other):
        return Part(self.matrix + other.matrix, self.f32 + other.f32)

    def times(self, n):
        return Part(self.matrix * n, self.f32 * n)

    def bytes(self):
        assert self.matrix % 32 == 0
        return self.matrix // 32 * 18 + self.f32 * 4


def matrix(n_in, n_out):
    """Rows are whole blocks."""
    assert n_in % 32 == 0
    return Part(n_in * n_out)


def values(n):
    return Part(0, n)


@dataclass
class Mixer:
    """What mixes the tokens in a layer: its weights, values of a position in the cache, the window (0: none), bytes of its state."""
    weights: Part
    cached: int = 0
    window: int = 0
    state: int = 0

    def kv(self):
        """Bytes in the cache. Rows of keys come in blocks, also those of a ring; the values of a whole context do not."""
        ring = -(-(self.window + BATCH + SLACK) // BLOCK) * BLOCK
        return 2 * self.cached * (ring if 0 < self.window and ring < CONTEXT else CONTEXT)


def attention(d, heads, kv_heads, size, window=0, gated=False, head_norms=False, whole_norms=False, biases="", sinks=False, no_v=False):
    """biases: letters of "qkvo". gated: Q with a gate of the same size. no_v: values are the keys before rotary, without a matrix."""
    q, kv = heads * size, kv_heads * size
    rows = {"q": 2 * q if gated else q, "k": kv, "v": 0 if no_v else kv, "o": d}
    w = matrix(d, rows["q"] + rows["k"] + rows["v"]) + matrix(q, d)
    w += values(sum(rows[b] for b in biases) + 2 * size * head_norms + (q + kv) * whole_norms + heads * sinks)
    return Mixer(w, cached=2 * kv, window=window)


def latent(d, heads, kv_rank, rot, nope, value):
    """Queries that are not compressed. The cache has the latent vector in the keys and once more as the value."""
    w = matrix(d, heads * (nope + rot)) + matrix(d, kv_rank + rot) + values(kv_rank)
    w += matrix(kv_rank, heads * (nope + value)) + matrix(heads * value, d)
    return Mixer(w, cached=kv_rank + rot + kv_rank)


def convolution(d, taps):
    return Mixer(matrix(d, 3 * d) + values(taps * d) + matrix(d, d), state=4 * (taps - 1) * d)


def delta_net(d, key_heads, value_heads, size, taps):
    channels, inner = 2 * key_heads * size + value_heads * size, value_heads * size
    w = matrix(d, channels + inner + 2 * value_heads) + matrix(inner, d) + values(taps * channels + 2 * value_heads + size)
    return Mixer(w, state=4 * ((taps - 1) * channels + value_heads * size * size))


def mamba2(d, heads, size, groups, state, taps):
    inner = heads * size
    channels = inner + 2 * groups * state
    w = matrix(d, inner + channels + heads) + matrix(inner, d) + values((taps + 1) * channels + 3 * heads + inner)
    return Mixer(w, state=4 * ((taps - 1) * channels + inner * state))


@dataclass
class Model:
    """layers: (how many, mixer); their order does not matter here. The first `dense` layers have no experts."""
    name: str
    arch: str  # of GGUF, "": not known to sparsegen yet
    d: int
    vocab: int
    layers: list
    experts: int
    used: int
    expert_ff: int
    dense: int = 0
    dense_ff: int = 0
    shared_ff: int = 0
    shared_gate: bool = False
    select: bool = False        # a bias for choosing experts
    biases: bool = False        # of the router and of every expert
    tied: bool = False          # the output matrix is the embedding table
    norms: int = 2              # of n_embd values, in a layer
    more: Part = field(default_factory=Part)  # in every layer

    def n_layers(self):
        return sum(n for n, _ in self.layers)

    def expert(self):
        return matrix(self.d, 2 * self.expert_ff) + matrix(self.expert_ff, self.d) + values((2 * self.expert_ff + self.d) * self.biases)

    def bank(self, of_each):
        """So many experts of each layer."""
        return self.expert().times(of_each * (self.n_layers() - self.dense))

    def router(self):
        return values(self.experts * (self.d + self.select + self.biases) + self.d * self.shared_gate)

    def embedding(self):
        return matrix(self.d, self.vocab)

    def resident(self):
        """All but the experts that a router chooses."""
        w = self.embedding() + values(self.d)
        if not self.tied:
            w += self.embedding()
        for n, mixer in self.layers:
            w += (mixer.weights + values(self.norms * self.d) + self.more).times(n)
        w += (matrix(self.d, 2 * self.dense_ff) + matrix(self.dense_ff, self.d) if self.dense else Part()).times(self.dense)
        shared = matrix(self.d, 2 * self.shared_ff) + matrix(self.shared_ff, self.d)
        return w + (shared + self.router()).times(self.n_layers() - self.dense)

    def read(self):
        """Bytes of the resident part that one token reads: of an embedding table of its own a single row."""
        if self.tied:
            return self.resident().bytes()
        return self.resident().bytes() - self.embedding().bytes() + matrix(self.d, 1).bytes()

    def parameters(self):
        all_of_it = self.resident() + self.bank(self.experts)
        return all_of_it.matrix + all_of_it.f32

    def kv_token(self):
        return sum(n * 2 * mixer.cached for n, mixer in self.layers)

    def kv_context(self):
        return sum(n * mixer.kv() for n, mixer in self.layers)

    def state(self):
        return sum(n * mixer.state for n, mixer in self.layers)


def gpt_oss(name, layers, experts):
    def att(window):
        return attention(2880, 64, 8, 64, window=window, biases="qkvo", sinks=True)
    return Model(name, "gpt-oss", 2880, 201088, [(layers // 2, att(128)), (layers // 2, att(0))], experts, 4, 2880, biases=True)


def qwen_delta(name, arch, layers, vocab, experts, used):
    mixers = [(layers * 3 // 4, delta_net(2048, 16, 32, 128, 4)), (layers // 4, attention(2048, 16, 2, 256, gated=True, head_norms=True))]
    return Model(name, arch, 2048, vocab, mixers, experts, used, 512, shared_ff=512, shared_gate=True)


def mixtral(name, vocab):
    return Model(name, "llama", 4096, vocab, [(32, attention(4096, 32, 8, 128))], 8, 2, 14336)


MODELS = [
    Model("OLMoE-1B-7B", "olmoe", 2048, 50304, [(16, attention(2048, 16, 16, 128, whole_norms=True))], 64, 8, 1024),
    Model("SmallThinker-4B-A0.6B", "smallthinker", 1536, 151936, [(32, attention(1536, 12, 2, 128))], 32, 4, 768, tied=True),
    Model("LFM2-8B-A1B", "lfm2moe", 2048, 65536, [(18, convolution(2048, 3)), (6, attention(2048, 32, 8, 64, head_norms=True))], 32, 4, 1792,
          dense=2, dense_ff=7168, select=True, tied=True),
    Model("DeepSeek-V2-Lite", "deepseek2", 2048, 102400, [(27, latent(2048, 16, 512, 64, 128, 128))], 64, 6, 1408, dense=1, dense_ff=10944,
          shared_ff=2 * 1408),
    gpt_oss("gpt-oss-20b", 24, 32),
    Model("SmallThinker-21B-A3B", "smallthinker", 2560, 151936,
          [(39, attention(2560, 28, 4, 128, window=4096)), (13, attention(2560, 28, 4, 128))], 64, 6, 768),
    Model("Qwen3-30B-A3B", "qwen3moe", 2048, 151936, [(48, attention(2048, 32, 4, 128, head_norms=True))], 128, 8, 768),
    qwen_delta("Qwen3.5-35B-A3B, 3.6", "qwen35moe", 40, 248320, 256, 8),
    mixtral("Mixtral-8x7B", 32000),
    mixtral("TurboSparse-Mixtral-47B", 57024),
    qwen_delta("Qwen3-Next-80B-A3B", "qwen3next", 48, 151936, 512, 10),
    Model("GLM-4.5-Air", "glm4moe", 4096, 151552, [(46, attention(4096, 96, 8, 128, biases="qkv"))], 128, 8, 1408, dense=1, dense_ff=10944,
          shared_ff=1408, select=True),
    gpt_oss("gpt-oss-120b", 36, 128),
    Model("Granite-4.0-H-Tiny", "", 1536, 100352, [(36, mamba2(1536, 48, 64, 1, 128, 4)), (4, attention(1536, 12, 4, 128))], 64, 6, 512,
          shared_ff=1024, tied=True),
    # Norms before and behind both halves, of the dense block and of the experts; of the router a scale per value and one per expert.
    Model("Gemma-4-26B-A4B", "", 2816, 262144, [(25, attention(2816, 16, 8, 256, window=1024, head_norms=True)),
                                                (5, attention(2816, 16, 2, 512, head_norms=True, no_v=True))], 128, 8, 704,
          shared_ff=2112, tied=True, norms=7, more=values(2816 + 128 + 1)),
]

HEAD = """| model | architecture | file, GiB | resident, GiB | read per token: resident, MiB | experts, MiB | KV cache, KiB per token | of 8K, MiB | state, MiB |
|---|---|---:|---:|---:|---:|---:|---:|---:|"""


def row(m):
    resident, bank = m.resident().bytes(), m.bank(m.experts).bytes()
    state = f"{m.state() / MIB:.1f}" if m.state() else "–"
    return (f"| {m.name} | {m.arch or 'not yet'} | {(resident + bank) / GIB:.1f} | {resident / GIB:.2f} | {m.read() / MIB:.0f} | "
            f"{m.bank(m.used).bytes() / MIB:.0f} | {m.kv_token() / KIB:.0f} | {m.kv_context() / MIB:.0f} | {state} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", action="store_true", help="names and numbers of parameters")
    if parser.parse_args().parameters:
        for m in MODELS:
            print(f"{m.name}: {m.parameters()}")
        return
    print(HEAD)
    for m in MODELS:
        print(row(m))


if __name__ == "__main__":
    main()
