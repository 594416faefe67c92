#!/usr/bin/env python3
"""Writes the hand-made seeds of fuzz_gguf: seed_gguf.py FOLDER. Same bytes every time."""
import pathlib
import struct
import sys

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMAT = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q", F64: "d"}
BLOCK = {0: (1, 4), 1: (1, 2), 8: (32, 34), 2: (32, 18), 12: (256, 144)}


def text(s):
    b = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<Q", len(b)) + b


def value(kind, v):
    return text(v) if kind == STRING else struct.pack("<" + FORMAT[kind], v)


def entry(key, kind, v):
    if isinstance(v, list):
        return text(key) + struct.pack("<IIQ", ARRAY, kind, len(v)) + b"".join(value(kind, x) for x in v)
    return text(key) + struct.pack("<I", kind) + value(kind, v)


def gguf(entries, tensors=(), version=3, alignment=32, shift=0):
    infos, data = b"", b""
    for name, kind, ne in tensors:
        values, size = 1, BLOCK[kind]
        for n in ne:
            values *= n
        infos += text(name) + struct.pack("<I", len(ne)) + b"".join(struct.pack("<Q", n) for n in ne)
        infos += struct.pack("<IQ", kind, len(data) - shift if data else 0)
        data += bytes(values // size[0] * size[1])
        data += bytes(-len(data) % alignment)
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(entries)) + b"".join(entry(*e) for e in entries) + infos
    return head + bytes(-len(head) % alignment) + data if tensors else head


def hyper(arch, **more):
    base = {"context_length": 64, "embedding_length": 32, "block_count": 1, "attention.head_count": 2, "attention.head_count_kv": 1,
            "feed_forward_length": 32}
    base.update(more)
    return [("general.architecture", STRING, arch)] + [(f"{arch}.{k}", U32, v) for k, v in base.items()]


VOCAB = [("tokenizer.ggml.model", STRING, "llama"), ("tokenizer.ggml.pre", STRING, "default"),
         ("tokenizer.ggml.tokens", STRING, ["<unk>", "<s>", "</s>", b"\xff\x00", "é"]), ("tokenizer.ggml.scores", F32, [0.0] * 5),
         ("tokenizer.ggml.token_type", I32, [2, 3, 3, 1, 1]), ("tokenizer.ggml.bos_token_id", U32, 1),
         ("tokenizer.ggml.eos_token_id", U32, 2), ("tokenizer.ggml.add_bos_token", BOOL, 1),
         ("tokenizer.chat_template", STRING, "{{ '<|im_start|>' + message['role'] }}")]
DENSE = [("token_embd.weight", 8, [32, 5]), ("blk.0.attn_norm.weight", 0, [32]), ("blk.0.attn_q.weight", 8, [32, 32]),
         ("blk.0.attn_k.weight", 8, [32, 16]), ("blk.0.attn_v.weight", 8, [32, 16]), ("blk.0.ffn_up.weight", 2, [32, 32]),
         ("output_norm.weight", 0, [32])]
MOE = [("token_embd.weight", 1, [32, 5]), ("blk.0.attn_kv_a_mqa.weight", 1, [32, 8]), ("blk.0.ffn_gate_inp.weight", 0, [32, 4]),
       ("blk.0.ffn_up_exps.weight", 8, [32, 8, 4]), ("blk.0.ffn_up_shexp.weight", 8, [32, 8]), ("blk.1.ffn_up.3.weight", 8, [32, 8]),
       ("blk.0.ssm_out.weight", 0, [4]), ("output.weight", 1, [32, 5]), ("rope_freqs.weight", 0, [4])]
KINDS = [("u8", U8, 255), ("i8", I8, -1), ("u16", U16, 65535), ("i16", I16, -1), ("u32", U32, 2**32 - 1), ("i32", I32, -1),
         ("f32", F32, float("nan")), ("bool", BOOL, 1), ("str", STRING, ""), ("u64", U64, 2**64 - 1), ("i64", I64, -1),
         ("f64", F64, 1e300), ("empty", F64, []), ("many", U16, list(range(9))), ("bools", BOOL, [0, 1]), ("names", STRING, ["", "a"])]

SEEDS = {
    "empty_header": gguf([]),
    "v2": gguf(hyper("llama"), DENSE[:2], version=2),
    "v1": gguf([], version=1),
    "big_endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "kinds": gguf(KINDS),
    "vocab": gguf(hyper("llama") + VOCAB),
    "dense": gguf(hyper("llama") + VOCAB, DENSE),
    "moe": gguf(hyper("deepseek2", expert_count=4, expert_used_count=2, expert_shared_count=1, block_count=3, nextn_predict_layers=1)
                + [("deepseek2.attention.kv_lora_rank", U32, 6), ("deepseek2.rope.dimension_count", U32, 2),
                   ("deepseek2.rope.freq_base", F32, 1e4), ("deepseek2.rope.scaling.type", STRING, "yarn"),
                   ("deepseek2.rope.scaling.factor", F32, 4.0)], MOE),
    "per_layer": gguf([("general.architecture", STRING, "lfm2"), ("lfm2.attention.head_count", U32, 2),
                       ("lfm2.attention.head_count_kv", I32, [0, 2, 1]), ("lfm2.embedding_length", U32, 32)],
                      [("blk.1.attn_k.weight", 0, [8]), ("blk.0.shortconv.conv.weight", 0, [8]), ("blk.2.attn_qkv.weight", 0, [8])]),
    "alignment": gguf([("general.alignment", U32, 64)], DENSE, alignment=64),
    "k_quant": gguf([], [("w", 12, [256, 2])]),
    "split": gguf([("split.no", U16, 0), ("split.count", U16, 2), ("split.tensors.count", I32, 3)]),
    "overlap": gguf([], DENSE, shift=32),
    "duplicate": gguf([("a", U8, 1), ("a", U8, 2)]),
    "nested": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("n") + struct.pack("<IIQIQ", ARRAY, ARRAY, 1, U8, 0),
}

if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in SEEDS.items():
        (folder / name).write_bytes(data)
