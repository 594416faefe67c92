#!/usr/bin/env python3
"""Writes the hand-made seeds of fuzz_tokenizer: seed_tokenizer.py FOLDER. Same bytes every time."""
import pathlib
import struct
import sys

U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
SPM, SPM_NO_PREFIX, FROM_FILE = 17, 18, 19  # as in fuzz_tokenizer.c
SPECIAL, PARSE, SHOW, IDS = 1, 2, 4, 8

MIXED = ("Hello  world's 12345\n\n\t DON'T hello<think>\r\n né 中文 ひらカタ 가나 😀👍🏽 क्षि ไทย "
         "e\u0301 \u00a0\u3000 !!! a_b/c// €$+ <|im_start|>whole <tag></s>   ").encode()


def text(s):
    b = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<Q", len(b)) + b


def value(kind, v):
    return text(v) if kind == STRING else struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<B"}[kind], v)


def entry(key, kind, v):
    if isinstance(v, list):
        return text(key) + struct.pack("<IIQ", ARRAY, kind, len(v)) + b"".join(value(kind, x) for x in v)
    return text(key) + struct.pack("<I", kind) + value(kind, v)


def vocabulary(model, tokens, types=None, scores=None, merges=None, *more):
    e = [("tokenizer.ggml.model", STRING, model), ("tokenizer.ggml.tokens", STRING, tokens)]
    e += [("tokenizer.ggml.token_type", I32, types)] if types else []
    e += [("tokenizer.ggml.scores", F32, scores)] if scores else []
    e += [("tokenizer.ggml.merges", STRING, merges)] if merges is not None else []
    e += [("tokenizer.ggml." + k, t, v) for k, t, v in more]
    return bytes([FROM_FILE]) + b"GGUF" + struct.pack("<IQQ", 3, 0, len(e)) + b"".join(entry(*x) for x in e)


SPM_TOKENS = ["<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "b", "ab", "c", "abc", "<|im_start|>"]
BPE_TOKENS = ["a", "b", "ab", "c", "abc", "<s>", "Ġ", "Ġa"]
SEEDS = {
    "ids": bytes([1, IDS | SHOW]) + bytes(range(256)),
    "spm_ids": bytes([SPM, IDS]) + bytes(range(256)),
    "invalid": bytes([1, 0]) + b"ok \xc3( \xf0\x9f\x98",
    "spm_parse": bytes([SPM, SPECIAL | PARSE | SHOW]) + b"<s> hello<|user|> world<|user|><|x|><tag></s>",
    "bpe_parse": bytes([4, SPECIAL | PARSE]) + b"<|im_start|>hello<|endoftext|><think>",
    "spaces": bytes([2, 0]) + b" " * 300 + b"x",
    "upper": bytes([8, 0]) + b"A" * 300 + b"1",
    "file_spm": vocabulary("llama", SPM_TOKENS, [2, 3, 3, 6, 1, 1, 1, 1, 1, 4, 3], [-float(i) for i in range(11)], None,
                           ("add_space_prefix", BOOL, 0), ("bos_token_id", U32, 1), ("add_eos_token", BOOL, 1)),
    "file_bpe": vocabulary("gpt2", BPE_TOKENS, [1, 1, 1, 1, 1, 3, 1, 1], None, ["a b", "ab c", "Ġ a", "x y", ""],
                           ("pre", STRING, "llama-bpe"), ("eot_token_id", U32, 5), ("bos_token_id", U32, 5)),
    "file_no_types": vocabulary("llama", SPM_TOKENS),
    "file_short_types": vocabulary("llama", SPM_TOKENS, [1, 1]),
    "file_nan": vocabulary("llama", SPM_TOKENS, None, [float("nan")] * 11),
    "file_doubles": vocabulary("llama", ["a", "a", "", "", "a"], [3, 4, 3, 4, 1]),
    "file_no_merges": vocabulary("gpt2", BPE_TOKENS),
    "file_bad_ids": vocabulary("llama", SPM_TOKENS, None, None, None, ("bos_token_id", U32, 99),
                               ("eos_token_id", U32, 2**32 - 1)),
    "file_bert": vocabulary("bert", ["a"]),
}
for mode in range(FROM_FILE):
    SEEDS[f"mixed_{mode:02}"] = bytes([mode, 0]) + MIXED


def main(folder):
    out = pathlib.Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    for name, data in SEEDS.items():
        (out / name).write_bytes(data)
    print(f"{len(SEEDS)} seeds")


if __name__ == "__main__":
    main(*sys.argv[1:])
