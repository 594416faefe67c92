#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Write a mixture-of-experts GGUF of a real shape with random weights whose routers choose as a trained model's do, for measuring speed.

    make_moe.py qwen3-30b-a3b q4_0 OUT.gguf --ids 4096 OUT.ids
    sparsegen bench -m OUT.gguf --ids OUT.ids --route-log OUT.csv -r 1 -p 0 -n 156 && replay_cache.py show OUT.csv

The text such a model makes means nothing, and nothing about quality can be learned from it. What is meant to be real: how unevenly
experts are used, how many of a token's experts the next token keeps, and how that fades: what decides about a cache of experts.

How. The stream that the layers read is 1 in its first 32 values for every token; the matrices that write to the stream have zero rows
there. The rest of an embedding is a sum along fixed directions: one for the token's topic, one for its subtopic, some with normal factors
of its own, and a little white noise. topic = id modulo the topics, subtopic = id / topics modulo the subtopics. The layers write little
(0.02 of the variance in all). A router's row is read off these: its first 32 values, all alike, give the expert's bias, the part along a topic's
direction what that topic adds, and so on. So the score of an expert is

    SCALE (gain (bias + topic) + sqrt(gain) subtopic + own),    each normal, independent for all experts and layers.

A gain belongs to a layer and is small in the first ones: in the trace early layers choose almost evenly. In the ids of --ids a topic stays
for --topic-length tokens in the mean and a subtopic for two. The constants of Router were fitted by simulating such scores to a trace of
Qwen3-30B-A3B (BigMoeOnEdge, docs/bench-data/2026-07-15-route-trace): 6 of 128 experts, a prompt of 28 tokens and 128 of the answer.

--pregate adds a pre-gate (docs/model_bin.md), the rows of all routers. As the layers write little, the embedding says nearly what they will. With
--pregate-routes the layers have no routers of their own: the pre-gate is the router, and what it names comes true.

smallthinker: its ReLU neurons fire at the mean rate --active, hot and cold ones in every expert, as in make_sparse.py. All matrices have one
type; norms and routers are F32. Needs numpy.
"""
import argparse
import math
import os
import random
import sys
from dataclasses import dataclass, replace

import numpy as np

import make_sparse as sparse
import make_synthetic as base

BIAS, WRITTEN, NOISE = sparse.BIAS, sparse.WRITTEN, sparse.NOISE
SKEW = 0.80          # of the neurons of an expert, see make_sparse.py
SUBTOPIC_LENGTH = 2  # tokens, in the mean
PARTS = {"topic": 0.3, "subtopic": 0.2, "own": 0.5 - NOISE}  # of the variance of an embedding


@dataclass
class Router:
    """Spreads of the parts of a score in those of its own part; gain of the first layer, layers over which it rises to 1, its spread."""
    bias: float = 1.295
    topic: float = 1.05
    subtopic: float = 1.162
    first: float = 0.288
    depth: float = 1.5
    vary: float = 0.25
    scale: float = 0.45  # so that the weights of the chosen experts fall off as in the trace


@dataclass
class Shape:
    """expert: neurons of an expert; head: values of a head; own: directions with a token's own factors; window: of three layers in four;
    offset: of all scores, keeps sigmoids off their ends."""
    arch: str
    layers: int
    experts: int
    used: int
    width: int
    expert: int
    heads: int
    kv_heads: int
    head: int
    vocab: int
    context: int
    rope: float
    topics: int = 64
    subtopics: int = 64
    own: int = 128
    window: int = 0
    offset: float = 0.0


SHAPES = {
    "qwen3-30b-a3b": Shape("qwen3moe", 48, 128, 8, 2048, 768, 32, 4, 128, 151936, 40960, 1e6),
    "smallthinker-21b": Shape("smallthinker", 52, 64, 6, 2560, 768, 28, 4, 128, 151936, 16384, 1.5e6, window=4096, offset=-5.0),
    # for tests
    "tiny-qwen3moe": Shape("qwen3moe", 2, 32, 4, 256, 64, 4, 2, 32, 2048, 4096, 1e6, 16, 8, 64),
    "tiny-smallthinker": Shape("smallthinker", 2, 16, 4, 256, 64, 4, 2, 32, 2048, 4096, 1.5e6, 16, 8, 64, 4096, -5.0),
}


def topic_ids(shape, n, topic_length, seed):
    """n ids: a topic stays for a geometric number of tokens with mean topic_length, a subtopic with mean SUBTOPIC_LENGTH."""
    numbers, ids, topic, sub = random.Random(seed), [], None, None
    for _ in range(n):
        if topic is None or numbers.random() * topic_length < 1:
            topic = numbers.randrange(shape.topics)
        if sub is None or numbers.random() * SUBTOPIC_LENGTH < 1:
            sub = numbers.randrange(shape.subtopics)
        first, step = topic + shape.topics * sub, shape.topics * shape.subtopics
        ids.append(first + step * numbers.randrange((shape.vocab - first + step - 1) // step))
    return ids


def list_tensors(s, layers, kind, pregate=False, routers=True):
    """The tensors as (name, dimensions with the row length first, type)."""
    q, kv, d = s.heads * s.head, s.kv_heads * s.head, s.width
    out = [("token_embd.weight", (d, s.vocab), kind), ("output_norm.weight", (d,), "f32"), ("output.weight", (d, s.vocab), kind)]
    for i in range(layers):
        layer = [("attn_norm", (d,), "f32"), ("attn_q", (d, q), kind), ("attn_k", (d, kv), kind), ("attn_v", (d, kv), kind),
                 ("attn_output", (q, d), kind)]
        if s.arch == "qwen3moe":
            layer += [("attn_q_norm", (s.head,), "f32"), ("attn_k_norm", (s.head,), "f32")]
        layer += [("ffn_norm", (d,), "f32"), ("ffn_gate_inp", (d, s.experts), "f32"), ("ffn_gate_exps", (d, s.expert, s.experts), kind),
                  ("ffn_up_exps", (d, s.expert, s.experts), kind), ("ffn_down_exps", (s.expert, d, s.experts), kind)]
        out += [(f"blk.{i}.{name}.weight", dims, quant) for name, dims, quant in layer if routers or name != "ffn_gate_inp"]
    return out + [("sparsegen.pregate.weight", (d, s.experts * layers), "f32")] * pregate


class Maker:
    """Makes the tensors of one model, some thousands of rows at a time."""

    def __init__(self, args, shape, layers):
        self.kind, self.seed, self.s, self.router = args.type, args.seed, shape, Router()
        self.rng = np.random.Generator(np.random.SFC64(args.seed))
        self.relu = shape.arch == "smallthinker"
        self.write_scale = math.sqrt(WRITTEN / (2 * layers))
        n = shape.width - BIAS
        self.sizes = (shape.topics, shape.subtopics, shape.own)
        directions, _ = np.linalg.qr(self.rng.standard_normal((n, sum(self.sizes))))
        self.directions = (directions.T * math.sqrt(n)).astype(np.float32)  # rows; a coordinate of 1 along one has a mean square of 1
        self.gains = (1 - (1 - self.router.first) * np.exp(-np.arange(layers) / self.router.depth)) * np.exp(
            self.router.vary * self.rng.standard_normal(layers))
        self.rates = sparse.rates_of(shape.expert, args.active, sparse.spread_for(args.active, SKEW))  # of every expert
        if self.relu:
            b = sparse.quantile(self.rates)
            self.h_spread = math.sqrt(((b * b + 1) * sparse.cdf(b) + b * np.exp(-b * b / 2) / math.sqrt(2 * math.pi)).mean())
        else:
            self.h_spread = 0.6  # root of the mean square of SiLU of a normal number

    def rows(self, name, first, n, width):
        """Rows first .. first + n - 1 of a matrix, as bytes [n, blocks of a row, bytes of 32 weights]."""
        if name == "token_embd":
            return self.embeddings(first, n)
        spread = width ** -0.5
        if name in ("attn_output", "ffn_down_exps"):
            made = sparse.random_rows(self.kind, self.rng, n, width, spread * self.write_scale / (self.h_spread if "down" in name else 1))
            zero = (first + np.arange(n)) % self.s.width < BIAS
            made[zero] = 0
            if self.kind == "q4_0":
                made[zero, :, 2:] = 0x88
            return made
        made = sparse.random_rows(self.kind, self.rng, n, width, spread)
        if name == "ffn_gate_exps" and self.relu:
            self.set_rates(made)
        return made

    def embeddings(self, first, n):
        ids = np.arange(first, first + n)
        z = np.zeros((n, sum(self.sizes)), np.float32)
        z[np.arange(n), ids % self.s.topics] = math.sqrt(PARTS["topic"])
        z[np.arange(n), self.s.topics + ids // self.s.topics % self.s.subtopics] = math.sqrt(PARTS["subtopic"])
        z[:, -self.s.own:] = self.rng.standard_normal((n, self.s.own), np.float32) * np.float32(math.sqrt(PARTS["own"] / self.s.own))
        x = np.ones((n, self.s.width), np.float32)
        x[:, BIAS:] = z @ self.directions + np.float32(math.sqrt(NOISE)) * self.rng.standard_normal((n, self.s.width - BIAS), np.float32)
        return sparse.quantise(self.kind, x)

    def set_rates(self, gate):
        """Gives gate rows, which begin with a whole expert, their biases. What a row spreads over the tokens is known from its scales."""
        if self.kind == "f16":
            spread = np.sqrt((gate[:, 1:].reshape(len(gate), -1).view("<f2").astype(np.float32) ** 2).sum(1))
        else:
            scale = np.ascontiguousarray(gate[:, 1:, :2]).view("<f2").astype(np.float32)[..., 0]
            code = (base.NIBBLE - 8.0).std() if self.kind == "q4_0" else 73.5
            spread = np.sqrt((scale ** 2).sum(1) * 32) * code
        rates = np.concatenate([self.rng.permutation(self.rates) for _ in range(len(gate) // self.s.expert)])
        sparse.set_bias(self.kind, gate, sparse.quantile(np.minimum(rates, sparse.MOST)) * spread)

    def routers(self, layer):
        """Rows of a router, float32 [experts, width]: what is said at the top, solved for the coordinates of the directions."""
        s, r, gain, e = self.s, self.router, self.gains[layer], self.s.experts
        rng = np.random.Generator(np.random.SFC64([self.seed, layer]))  # of its own: the same whatever the width of the experts
        factors = np.concatenate([
            gain * r.topic / math.sqrt(PARTS["topic"]) * rng.standard_normal((e, s.topics)),
            math.sqrt(gain) * r.subtopic / math.sqrt(PARTS["subtopic"]) * rng.standard_normal((e, s.subtopics)),
            rng.standard_normal((e, s.own)) / math.sqrt(PARTS["own"])], axis=1)
        out = np.empty((e, s.width), np.float32)
        out[:, :BIAS] = r.scale / BIAS * (s.offset + gain * r.bias * rng.standard_normal((e, 1)))
        out[:, BIAS:] = r.scale / (s.width - BIAS) * factors @ self.directions
        return out

    def write(self, f, tensor, dims, quant):
        name = tensor.split(".")[-2]
        if name == "ffn_gate_inp":
            f.write(self.routers(int(tensor.split(".")[1])).data)
        elif name == "pregate":
            for layer in range(dims[1] // self.s.experts):  # times the weights of the norm before the router, which are 1 here
                f.write(self.routers(layer).data)
        elif quant == "f32":
            f.write(np.ones(dims[0], "<f4").data)
        else:
            width, count = dims[0], int(np.prod(dims[1:]))
            step = max(1, base.CHUNK // width)
            if name == "ffn_gate_exps":
                step = max(1, step // self.s.expert) * self.s.expert  # whole experts
            for first in range(0, count, step):
                f.write(np.ascontiguousarray(self.rows(name, first, min(step, count - first), width)).data)
        f.write(base.padding(base.tensor_bytes(dims, quant)))


def metadata(args, s, layers):
    """The key-value part of the file."""
    pieces, scores, kinds = base.make_vocabulary(s.vocab)
    pairs = [("general.architecture", "str", s.arch), ("general.name", "str", f"synthetic {args.shape} {args.type}"),
             ("general.description", "str", "Synthetic: random weights in a real shape, with routers that choose as unevenly and steadily as "
              f"a trained model's. For measuring speed only, the text it makes means nothing. Made by sparsegen's make_moe.py, seed {args.seed}."),
             ("general.file_type", "u32", base.FILE_TYPE[args.type]), ("general.quantization_version", "u32", 2)]
    sizes = {"block_count": layers, "context_length": s.context, "embedding_length": s.width, "vocab_size": s.vocab,
             "feed_forward_length": s.expert, "expert_feed_forward_length": s.expert, "expert_count": s.experts, "expert_used_count": s.used,
             "attention.head_count": s.heads, "attention.head_count_kv": s.kv_heads, "attention.key_length": s.head,
             "attention.value_length": s.head, "rope.dimension_count": s.head}
    if s.arch == "smallthinker":
        sizes |= {"expert_gating_func": 2, "attention.sliding_window": s.window}
    pairs += [(f"{s.arch}.{key}", "u32", value) for key, value in sizes.items()]
    pairs += [(f"{s.arch}.attention.layer_norm_rms_epsilon", "f32", 1e-6), (f"{s.arch}.rope.freq_base", "f32", s.rope),
              ("tokenizer.ggml.model", "str", "llama"), ("tokenizer.ggml.tokens", "str", pieces), ("tokenizer.ggml.scores", "f32", scores),
              ("tokenizer.ggml.token_type", "i32", kinds), ("tokenizer.ggml.bos_token_id", "u32", 1), ("tokenizer.ggml.eos_token_id", "u32", 2),
              ("tokenizer.ggml.unknown_token_id", "u32", 0), ("tokenizer.ggml.add_bos_token", "bool", True),
              ("sparsegen.synthetic.topics", "u32", s.topics), ("sparsegen.synthetic.subtopics", "u32", s.subtopics),
              ("sparsegen.synthetic.topic_length", "f32", args.topic_length), ("sparsegen.synthetic.seed", "str", str(args.seed))]
    if s.arch == "smallthinker":
        pairs.append(("sparsegen.synthetic.active", "f32", args.active))
    return [base.gguf_pair(*pair) for pair in pairs]


def write_model(path, args, shape, layers):
    """Write the model to `path`; returns the number of parameters and of bytes."""
    maker = Maker(args, shape, layers)
    tensors = list_tensors(shape, layers, args.type, args.pregate or args.pregate_routes, not args.pregate_routes)
    with open(path, "wb") as f:
        base.write_header(f, [(*tensor, None) for tensor in tensors], metadata(args, shape, layers))
        for tensor in tensors:
            maker.write(f, *tensor)
        f.write(b"\0" * (-f.tell() % 4096))  # a loop device has whole sectors
        return base.count_weights(tensors), f.tell()


def main():
    """Read the command line, write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("shape", choices=SHAPES, help="the model whose sizes to use")
    add("type", choices=sparse.KINDS, help="type of the weights")
    add("out", metavar="OUT.gguf", help="file to write")
    add("--ids", nargs=2, metavar=("N", "FILE"), help="also write N token ids to feed, separated by blanks")
    add("--topic-length", type=float, default=200, metavar="N", help="mean tokens of a topic in these ids (default %(default)s)")
    add("--active", type=float, default=0.4, metavar="A", help="smallthinker: mean share of an expert's neurons that fire (default %(default)s)")
    add("--layers", type=int, metavar="N", help="write only N layers (default: all of the shape)")
    add("--experts", type=int, metavar="N", help="write only N experts in a layer (default: all of the shape)")
    add("--expert-width", type=int, metavar="N", help="write only N neurons of an expert: to see the same routes with little memory")
    add("--pregate", action="store_true", help="add a pre-gate: the routers of all layers, for the embedding")
    add("--pregate-routes", action="store_true", help="leave out the layers' own routers: the pre-gate is the router of all")
    add("--seed", type=int, default=1, metavar="S", help="seed of weights and ids (default %(default)s)")
    args = parser.parse_args()
    shape = SHAPES[args.shape]
    layers = shape.layers if args.layers is None else args.layers
    shape = replace(shape, experts=shape.experts if args.experts is None else args.experts,
                    expert=shape.expert if args.expert_width is None else args.expert_width)
    if layers < 1 or args.seed < 0 or args.topic_length < 1 or not 0 < args.active <= 1:
        parser.error("--layers and --topic-length must be at least 1, --seed not negative, --active above 0 and at most 1")
    if shape.experts < shape.used or shape.expert < 32 or shape.expert % 32:
        parser.error(f"--experts must be at least {shape.used}, those that a token uses, --expert-width a multiple of 32")
    if args.ids and not (args.ids[0].isdigit() and int(args.ids[0])):
        parser.error("--ids takes a number of at least 1 and a file")
    base.write_whole(args.out, lambda path: write_model(path, args, shape, layers))
    if args.ids:
        try:
            with open(args.ids[1], "w", encoding="utf-8") as f:
                f.write(" ".join(map(str, topic_ids(shape, int(args.ids[0]), args.topic_length, args.seed))) + "\n")
        except OSError as error:
            sys.exit(f"{os.path.splitext(os.path.basename(sys.argv[0]))[0]}: cannot write {args.ids[1]}: {error.strerror}")


if __name__ == "__main__":
    main()
