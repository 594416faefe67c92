#!/usr/bin/env python3
"""Checks `sparsegen convert` on Hugging Face folders against Hugging Face transformers.

Makes tiny models with random weights, computes their logits with transformers (F32, eager attention), converts each
folder with sparsegen, runs `sparsegen logits --tokens --kv f32` and `sparsegen tokenize` on the result, and compares:
NMSE of the logits below --bound for F32, ids equal. Development only: needs torch, transformers, tokenizers,
safetensors.

  check_convert_hf.py --sparsegen build/runtime/cli/sparsegen     check every case
  check_convert_hf.py --fixtures tests/data/hf                    (re)write the small fixtures that the tests use
  check_convert_hf.py --make DIR                                  only make the folders and the expected results
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors,
                        trainers)
from transformers import (LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config,
                          Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)

TEXT = "Once upon a time, there was a little girl named Lily. She had 42 toys; it's true!"
CORPUS = [TEXT, "The little dog ran to the park with the girl and they played all day.",
          "One day she said that she would like to see the big red ball there."]
QWEN2_WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
               r"|\s+(?!\S)|\s+")
LLAMA3_WORDS = QWEN2_WORDS.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 64}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def sentencepiece_like(n_vocab):
    """Llama-2 style: byte fallback, a leading U+2581."""
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    text = "".join(CORPUS).replace(" ", "\u2581")
    pieces += sorted(set(text))
    merges = []
    words = [list(w) for w in text.replace("\u2581", " \u2581").split()]
    while len(pieces) < n_vocab - 1:
        count = {}
        for w in words:
            for pair in zip(w, w[1:]):
                count[pair] = count.get(pair, 0) + 1
        if not count:
            break
        best = max(sorted(count), key=lambda p: count[p])
        merges.append(best)
        pieces.append("".join(best))
        for w in words:
            i = 0
            while i + 1 < len(w):
                if (w[i], w[i + 1]) == best:
                    w[i:i + 2] = ["".join(best)]
                i += 1
    t = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=merges, unk_token="<unk>",
                             fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                   decoders.Strip(" ", 1, 0)])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in ("<unk>", "<s>", "</s>")])
    return t, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}


def byte_level(n_vocab, words, specials, normalizer=None, bos=None):
    t = Tokenizer(models.BPE(ignore_merges=bos is not None))
    t.normalizer = normalizer
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(words), "isolated"),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=n_vocab - len(specials) - 1, show_progress=False,
                                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
    byte = processors.ByteLevel(trim_offsets=False)
    t.post_processor = byte if not bos else processors.Sequence(
        [byte, processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, t.token_to_id(bos))])])
    return t, {"eos_token": specials[-1]} | ({"bos_token": bos} if bos else {"bos_token": None, "add_bos_token": False})


def qwen_tokenizer(n_vocab):
    t, config = byte_level(n_vocab, QWEN2_WORDS, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], normalizers.NFC())
    return t, config | {"chat_template": TEMPLATE}


def llama3_tokenizer(n_vocab):
    return byte_level(n_vocab, LLAMA3_WORDS, ["<|begin_of_text|>", "<|eot_id|>"], bos="<|begin_of_text|>")


def case(cls, config, tokenizer, dtype="float32", shard="1GB", **kw):
    base = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                vocab_size=320, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=False,
                rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    return dict(cls=cls, config=config(**(base | kw)), tokenizer=tokenizer, dtype=dtype, shard=shard)


CASES = {
    # the first three are the fixtures of the test suite, kept small
    "llama": lambda: case(LlamaForCausalLM, LlamaConfig, sentencepiece_like, "bfloat16", tie_word_embeddings=True,
                          rope_parameters=LLAMA3_ROPE, vocab_size=304),
    "qwen2": lambda: case(Qwen2ForCausalLM, Qwen2Config, qwen_tokenizer, "float16", "24KB", hidden_size=24,
                          intermediate_size=32, vocab_size=288),
    "qwen3": lambda: case(Qwen3ForCausalLM, Qwen3Config, qwen_tokenizer, hidden_size=16, intermediate_size=32,
                          num_attention_heads=2, num_key_value_heads=1, head_dim=16, tie_word_embeddings=True,
                          vocab_size=272),
    "llama-mha": lambda: case(LlamaForCausalLM, LlamaConfig, sentencepiece_like, num_key_value_heads=4),
    "llama-bias": lambda: case(LlamaForCausalLM, LlamaConfig, sentencepiece_like, attention_bias=True),
    "llama-head-dim": lambda: case(LlamaForCausalLM, LlamaConfig, sentencepiece_like, head_dim=12),
    "llama-relu": lambda: case(LlamaForCausalLM, LlamaConfig, sentencepiece_like, hidden_act="relu"),
    "llama3-bpe": lambda: case(LlamaForCausalLM, LlamaConfig, llama3_tokenizer, rope_parameters=LLAMA3_ROPE),
    "llama-yarn": lambda: case(LlamaForCausalLM, LlamaConfig, sentencepiece_like, rope_parameters=YARN_ROPE),
    "llama-yarn-factor": lambda: case(LlamaForCausalLM, LlamaConfig, sentencepiece_like,
                                      rope_parameters=YARN_ROPE | {"attention_factor": 0.8, "beta_fast": 16.0}),
    "llama-linear": lambda: case(LlamaForCausalLM, LlamaConfig, sentencepiece_like, rope_parameters=LINEAR_ROPE),
    "mistral": lambda: case(MistralForCausalLM, MistralConfig, sentencepiece_like, sliding_window=None),
    "qwen2-tied": lambda: case(Qwen2ForCausalLM, Qwen2Config, qwen_tokenizer, "bfloat16", tie_word_embeddings=True),
    "qwen3-untied": lambda: case(Qwen3ForCausalLM, Qwen3Config, qwen_tokenizer, head_dim=16),
}


def randomise(model, seed):
    """Weights far from neutral, so that a lost norm, bias or wrong order shows in the logits."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            r = torch.randn(p.shape, generator=g)
            if "norm" in name:
                p.copy_(1 + 0.3 * r)
            elif p.dim() == 1:
                p.copy_(0.5 * r)
            else:
                p.copy_(r * (1.5 / p.shape[1] ** 0.5))


def make(name, root, seed=1):
    c = CASES[name]()
    folder = pathlib.Path(root) / name
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    model = c["cls"](c["config"])
    randomise(model, seed)
    model.to(getattr(torch, c["dtype"])).save_pretrained(folder, max_shard_size=c["shard"])
    (folder / "generation_config.json").unlink(missing_ok=True)
    for file in folder.iterdir():
        file.chmod(0o644)
    tokenizer, config = c["tokenizer"](c["config"].vocab_size)
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    ids = tokenizer.encode(TEXT).ids[:24]
    ids += [3] * (12 - len(ids))
    # read again: .to() also rounds the rotary frequencies, which are no weights
    model = c["cls"].from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].numpy()
    logits.astype("<f4").tofile(folder / "expected.f32")
    expected = {"text": TEXT, "text_ids": tokenizer.encode(TEXT).ids, "ids": ids, "rows": len(ids),
                "n_vocab": logits.shape[1]}
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")
    return folder


def run(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


def check(folder, sparsegen, bound):
    expected = json.loads((folder / "expected.json").read_text())
    want = np.fromfile(folder / "expected.f32", "<f4").reshape(expected["rows"], -1)
    gguf, out = folder / "model.gguf", folder / "out.f32"
    run(sparsegen, "convert", folder, "-o", gguf, "--type", "f32", "-f")
    run(sparsegen, "logits", "-m", gguf, "--tokens", " ".join(map(str, expected["ids"])), "-o", out, "--kv", "f32")
    got = np.fromfile(out, "<f4")
    if got.size != want.size:
        return f"{got.size} logits, {want.size} expected"
    got = got.reshape(want.shape).astype(np.float64)
    nmse = ((got - want) ** 2).sum() / (want.astype(np.float64) ** 2).sum()
    ids = list(map(int, run(sparsegen, "tokenize", "-m", gguf, "-p", TEXT).split()))
    print(f"{folder.name:20} NMSE {nmse:.1e}, logits' deviation {want.std():.2f}, {len(ids)} tokens")
    if not nmse <= bound:
        return f"NMSE {nmse:.2e} is above {bound:.0e}"
    if ids != expected["text_ids"]:
        return f"tokens {ids}, expected {expected['text_ids']}"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparsegen", type=pathlib.Path, help="the program to check")
    parser.add_argument("--bound", type=float, default=1e-8, help="largest NMSE of the logits")
    parser.add_argument("--make", metavar="DIR", help="make the folders there and stop")
    parser.add_argument("--fixtures", metavar="DIR", help="write the three fixtures there and stop")
    parser.add_argument("cases", nargs="*", help=f"default: all ({', '.join(CASES)})")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    names = args.cases or (["llama", "qwen2", "qwen3"] if args.fixtures else list(CASES))
    if args.fixtures or args.make:
        for name in names:
            print(make(name, args.fixtures or args.make))
        return 0
    if not args.sparsegen:
        parser.error("--sparsegen is needed")
    failures = 0
    with tempfile.TemporaryDirectory() as root:
        for name in names:
            try:
                problem = check(make(name, root), args.sparsegen.resolve(), args.bound)
            except RuntimeError as e:
                problem = str(e)
            if problem:
                failures += 1
                print(f"FAILED {name}: {problem}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
