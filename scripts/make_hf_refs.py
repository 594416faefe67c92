#!/usr/bin/env python3
"""Tiny Hugging Face folders with the logits of transformers, for tests/golden/test_hf.py.

One model per class: random weights far from neutral (biases, norms, sinks, router biases, scales), windows and context factors
shorter than the prompt, so that leaving one out shows; BF16 values, which F32 holds exactly. Development only: needs torch,
transformers, tokenizers, safetensors. A class that the installed transformers lacks is passed over.

  make_hf_refs.py DIR [CASE ...]     write DIR/CASE (default: all)
  make_hf_refs.py --list             names of the cases
"""
import argparse
import json
import pathlib
import sys

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import check_convert_hf as base

TEXT = "Once upon a time, there was a girl named Lily. She had 4217 toys; it's true!"
ROWS = 16
# Merges are learned without cutting words, so that they reach over every edge that a pre-tokenizer should see.
MERGES = 20 * ["42"] + 12 * ["4217"] + 8 * [" 4217 t"] + 6 * ["toys; it's", "y. S"] + 4 * ["it's", "time, t", " girl", "Lily. "]
GPT4O_WORDS = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
               r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
               r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN35_WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+"
                r"|\s+(?!\S)|\s+")
DEEPSEEK_WORDS = (r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
                  r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def split(words):
    return pre_tokenizers.Split(Regex(words), "isolated")


def raw(**kw):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, **kw)


BYTES = raw(use_regex=False)


def byte_level(pre, specials=("<|endoftext|>", "<|end|>"), bos=None, normalizer=None):
    """A byte-level BPE with these pre-tokenizers."""
    def make(n_vocab):
        t = Tokenizer(models.BPE())
        t.pre_tokenizer = BYTES
        t.train_from_iterator(MERGES, trainers.BpeTrainer(
            vocab_size=n_vocab - len(specials) - 1, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
        whole = len(t.encode(TEXT).ids)
        t.normalizer = normalizer
        t.pre_tokenizer = pre_tokenizers.Sequence(pre) if len(pre) > 1 else pre[0]
        t.decoder = decoders.ByteLevel()
        assert len(t.encode(TEXT).ids) > whole, "the pre-tokenizer shows nowhere"
        t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
        if bos:
            t.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, t.token_to_id(bos))])
        else:
            t.post_processor = processors.ByteLevel(trim_offsets=False)
        return t, {"bos_token": bos, "eos_token": specials[-1]}
    return make


GPT2 = byte_level([raw(use_regex=True)])
OPT = byte_level([raw(use_regex=True)], ("<pad>", "</s>"), bos="</s>")
QWEN2 = byte_level([split(base.QWEN2_WORDS), BYTES], normalizer=normalizers.NFC())
QWEN35 = byte_level([split(QWEN35_WORDS), BYTES], normalizer=normalizers.NFC())
LLAMA3 = byte_level([split(base.LLAMA3_WORDS), BYTES], ("<|begin_of_text|>", "<|eot_id|>"), bos="<|begin_of_text|>")
GLM4 = byte_level([split(base.LLAMA3_WORDS), BYTES])
GPT4O = byte_level([split(GPT4O_WORDS), BYTES])
STARCODER = byte_level([pre_tokenizers.Digits(individual_digits=True), raw(use_regex=True)])
DEEPSEEK = byte_level([split(r"\p{N}{1,3}"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"), split(DEEPSEEK_WORDS), BYTES],
                      ("<|begin|>", "<|end|>"), bos="<|begin|>")
FALCON = byte_level([pre_tokenizers.Punctuation("contiguous"), raw(use_regex=True), pre_tokenizers.Digits(individual_digits=False),
                     split("[0-9][0-9][0-9]")])
SPM = base.sentencepiece_like


def gemma(n_vocab):
    """SentencePiece-like without a space in front."""
    t, config = base.sentencepiece_like(n_vocab)
    t.normalizer = normalizers.Replace(" ", "\u2581")
    t.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return t, config


COMMON = dict(hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=272,
              max_position_embeddings=128)
MLA = dict(num_key_value_heads=4, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, kv_lora_rank=16, qk_nope_head_dim=8,
           qk_rope_head_dim=8, v_head_dim=12, n_shared_experts=2, first_k_dense_replace=1, n_group=1, topk_group=1)
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 16}
LINEAR = dict(linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=8, linear_value_head_dim=8, head_dim=16, intermediate_size=16,
              num_hidden_layers=4, num_experts=3, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=16)
EXPERTS = dict(num_experts=3, num_experts_per_tok=2)
SCALES = dict(embedding_multiplier=3.0, residual_multiplier=0.5, logits_scaling=2.0, attention_multiplier=0.3)


def theta(base_=700.0, **kw):
    return {"rope_type": "default", "rope_theta": base_} | kw


# name: class, configuration class, tokenizer, what differs from COMMON
CASES = {
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", SPM, dict(vocab_size=304, intermediate_size=32, num_local_experts=3, num_experts_per_tok=2, sliding_window=None)),
    "arcee": ("ArceeForCausalLM", "ArceeConfig", LLAMA3, dict()),
    "qwen2moe": ("Qwen2MoeForCausalLM", "Qwen2MoeConfig", QWEN2,
                 EXPERTS | dict(moe_intermediate_size=16, shared_expert_intermediate_size=24, decoder_sparse_step=1)),
    "qwen3moe": ("Qwen3MoeForCausalLM", "Qwen3MoeConfig", QWEN2,
                 EXPERTS | dict(moe_intermediate_size=16, head_dim=16, norm_topk_prob=True, decoder_sparse_step=1)),
    "qwen3next": ("Qwen3NextForCausalLM", "Qwen3NextConfig", QWEN2, LINEAR | dict(rope_parameters=theta(partial_rotary_factor=0.25))),
    "qwen35moe": ("Qwen3_5MoeForCausalLM", "Qwen3_5MoeTextConfig", QWEN35,
                  LINEAR | dict(rope_parameters=theta(partial_rotary_factor=0.25))),
    "olmoe": ("OlmoeForCausalLM", "OlmoeConfig", GPT2, EXPERTS | dict(intermediate_size=32, num_key_value_heads=4, eos_token_id=3)),
    "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", GPT2, dict(intermediate_size=40, num_key_value_heads=2, eos_token_id=3)),
    "gpt-oss": ("GptOssForCausalLM", "GptOssConfig", GPT4O,
                dict(intermediate_size=32, num_local_experts=3, num_experts_per_tok=2, head_dim=16, sliding_window=6, rope_parameters=YARN)),
    "deepseek2": ("DeepseekV2ForCausalLM", "DeepseekV2Config", DEEPSEEK, MLA | dict(q_lora_rank=None, routed_scaling_factor=1.5)),
    "deepseek3": ("DeepseekV3ForCausalLM", "DeepseekV3Config", DEEPSEEK,
                  MLA | dict(q_lora_rank=20, rope_parameters=YARN | {"mscale": 0.7, "mscale_all_dim": 0.7})),
    "lfm2": ("Lfm2ForCausalLM", "Lfm2Config", LLAMA3,
             dict(num_hidden_layers=3, layer_types=["conv", "full_attention", "conv"], intermediate_size=100, block_multiple_of=8)),
    "lfm2moe": ("Lfm2MoeForCausalLM", "Lfm2MoeConfig", LLAMA3,
                EXPERTS | dict(num_hidden_layers=3, layer_types=["conv", "conv", "full_attention"], num_dense_layers=1,
                               moe_intermediate_size=16)),
    "granite": ("GraniteForCausalLM", "GraniteConfig", STARCODER, SCALES),
    "granitemoe": ("GraniteMoeForCausalLM", "GraniteMoeConfig", STARCODER, SCALES | dict(intermediate_size=24, num_local_experts=3, num_experts_per_tok=2)),
    "granitemoe-shared": ("GraniteMoeSharedForCausalLM", "GraniteMoeSharedConfig", STARCODER,
                          SCALES | dict(intermediate_size=24, num_local_experts=3, num_experts_per_tok=2, shared_intermediate_size=24)),
    "glm4moe": ("Glm4MoeForCausalLM", "Glm4MoeConfig", GLM4,
                dict(n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, head_dim=16, first_k_dense_replace=1,
                     use_qk_norm=True, attention_bias=True, n_shared_experts=1, routed_scaling_factor=1.7, eos_token_id=[3, 4],
                     rope_parameters=theta(partial_rotary_factor=0.5))),
    "ernie4_5-moe": ("Ernie4_5_MoeForCausalLM", "Ernie4_5_MoeConfig", SPM,
                     dict(moe_num_experts=4, moe_k=2, moe_intermediate_size=16, moe_num_shared_experts=2, moe_layer_start_index=1,
                          vocab_size=304)),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", SPM, dict(pad_token_id=0, eos_token_id=2, vocab_size=304)),
    "phi3-long": ("Phi3ForCausalLM", "Phi3Config", SPM,
                  dict(pad_token_id=0, eos_token_id=2, vocab_size=304, original_max_position_embeddings=64,
                       rope_parameters=theta(rope_type="longrope", short_factor=[1.1, 1.3, 1.7, 2.0], long_factor=[1.5, 2.5, 4.0, 6.0],
                                             original_max_position_embeddings=64))),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", gemma, dict(head_dim=16, num_key_value_heads=1, vocab_size=304)),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", gemma,
               dict(head_dim=16, query_pre_attn_scalar=40, sliding_window=6, attn_logit_softcapping=4.0, final_logit_softcapping=7.0,
                    vocab_size=304)),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", gemma,
               dict(head_dim=16, query_pre_attn_scalar=24, sliding_window=6, num_hidden_layers=6, intermediate_size=24, vocab_size=304)),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2, dict(n_embd=32, n_head=4, n_layer=2, n_positions=64, n_inner=56, vocab_size=272,
                                                         bos_token_id=3, eos_token_id=3)),
    "opt": ("OPTForCausalLM", "OPTConfig", OPT, dict(ffn_dim=48, word_embed_proj_dim=32, num_hidden_layers=2, hidden_size=32,
                                                     num_attention_heads=4, vocab_size=272, max_position_embeddings=64)),
    "falcon": ("FalconForCausalLM", "FalconConfig", FALCON,
               dict(num_kv_heads=2, new_decoder_architecture=True, ffn_hidden_size=56, bos_token_id=3, eos_token_id=3)),
    "falcon-mqa": ("FalconForCausalLM", "FalconConfig", FALCON,
                   dict(new_decoder_architecture=False, multi_query=True, activation="relu", bos_token_id=3, eos_token_id=3)),
    # As PowerInfer converts it: four times the width, the usual rotary base.
    "falcon-relu": ("FalconForCausalLM", "FalconConfig", FALCON,
                    dict(num_kv_heads=2, new_decoder_architecture=True, activation="relu", bos_token_id=3, eos_token_id=3,
                         rope_parameters=theta(10000.0))),
    "nemotron": ("NemotronForCausalLM", "NemotronConfig", GPT2, dict(norm_eps=0.01, rope_parameters=theta(partial_rotary_factor=0.5))),
}
WHOLE = ("gpt2", "opt")  # their configurations know other names than COMMON's


def randomise(model, seed):
    g = torch.Generator().manual_seed(seed)
    stored = set(model.state_dict())
    plus_one = type(model).__name__.startswith(("Gemma", "Qwen3Next", "Qwen3_5", "Nemotron"))
    with torch.no_grad():
        for name, p in list(model.named_parameters()) + list(model.named_buffers()):
            if name not in stored or not p.is_floating_point():
                continue
            r = torch.randn(p.shape, generator=g)
            last = name.split(".")[-1]
            if "A_log" in name:
                p.copy_(0.5 * r)
            elif ("norm" in name or ".ln_" in name) and last == "weight":
                centre = 0.0 if plus_one and "linear_attn.norm" not in name else 1.0
                p.copy_(centre + 0.3 * r)
            elif p.dim() == 1 or "bias" in last or last in ("sinks",):
                p.copy_(0.5 * r)
            elif "conv" in name and p.dim() == 3:
                p.copy_(0.6 * r)
            elif "embed" in name or ".wte" in name or ".wpe" in name:
                p.copy_(0.3 * r)
            elif name.endswith("gate.weight") or "router" in name:
                p.copy_(r * (3.0 / p.shape[-1] ** 0.5))
            else:
                n_in = p.shape[1] if p.dim() == 3 and last in ("gate_up_proj", "down_proj") and "GptOss" in type(model).__name__ \
                    else p.shape[0] if ".c_" in name else p.shape[-1]
                p.copy_(r * (1.4 / n_in ** 0.5))


def logits_of(cls, folder, ids):
    model = cls.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0].float().numpy()


def write_expected(folder, tokenizer, ids, logits):
    logits.astype("<f4").tofile(folder / "expected.f32")
    expected = {"text": TEXT, "text_ids": tokenizer.encode(TEXT).ids, "ids": ids, "rows": len(ids), "n_vocab": logits.shape[1]}
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")


def prompt(tokenizer):
    ids = tokenizer.encode(TEXT).ids
    return (ids + [3] * ROWS)[:ROWS]


def make(name, root, seed=1):
    cls_name, config_name, tokenizer_of, extra = CASES[name]
    cls, config_cls = getattr(transformers, cls_name, None), getattr(transformers, config_name, None)
    if not cls or not config_cls:
        return None
    kw = dict(extra) if name in WHOLE else COMMON | dict(rope_parameters=theta(), tie_word_embeddings=False) | extra
    if name in ("gemma", "gemma2", "gemma3", "falcon", "falcon-mqa", "falcon-relu", "lfm2", "lfm2moe", "ernie4_5-moe"):
        kw["tie_word_embeddings"] = True
    if name == "gemma3":
        kw["rope_parameters"] = {"full_attention": theta(900.0), "sliding_attention": theta(10000.0)}
    folder = pathlib.Path(root) / name
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    model = cls(config_cls(**kw))
    randomise(model, seed)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    tokenizer, config = tokenizer_of(kw["vocab_size"])
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    ids = prompt(tokenizer)
    write_expected(folder, tokenizer, ids, logits_of(cls, folder, ids))
    for file in folder.iterdir():
        file.chmod(0o644)
    return folder


CODES = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]


def make_mxfp4(root):
    """gpt-oss with its experts as MXFP4 blocks; the logits are those of the values that the blocks stand for."""
    plain = make("gpt-oss", root)
    if not plain:
        return None
    folder = pathlib.Path(root) / "gpt-oss-mxfp4"
    folder.mkdir(exist_ok=True)
    tensors, rng = load_file(plain / "model.safetensors"), np.random.default_rng(5)
    packed = {}
    d, ff, n = 32, 32, 3
    for name in list(tensors):
        if name.endswith(("gate_up_proj", "down_proj")):
            rows, cols = (2 * ff, d) if name.endswith("gate_up_proj") else (d, ff)
            codes = rng.integers(0, 16, (n, rows, cols))
            scales = rng.integers(122, 125, (n, rows, cols // 32))
            values = np.take(CODES, codes) * np.repeat(2.0 ** (scales - 127.0), 32, axis=-1)
            tensors[name] = torch.tensor(values, dtype=torch.bfloat16).transpose(1, 2).contiguous()
            pairs = codes.reshape(n, rows, cols // 32, 16, 2)
            packed[name + "_blocks"] = torch.tensor(pairs[..., 0] | pairs[..., 1] << 4, dtype=torch.uint8)
            packed[name + "_scales"] = torch.tensor(scales, dtype=torch.uint8)
        elif name.endswith("gate_up_proj_bias"):
            tensors[name] = tensors[name][:, :2 * ff].contiguous()
    config = json.loads((plain / "config.json").read_text()) | {"intermediate_size": ff}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    ids = json.loads((plain / "expected.json").read_text())["ids"]
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).write_text((plain / file).read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    write_expected(folder, tokenizer, ids, logits_of(transformers.GptOssForCausalLM, folder, ids))
    for name in packed:
        tensors.pop(name[:-len("_blocks")], None)
    save_file(tensors | packed, folder / "model.safetensors", {"format": "pt"})
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("root", nargs="?")
    parser.add_argument("cases", nargs="*")
    args = parser.parse_args()
    if args.list or not args.root:
        print(" ".join(list(CASES) + ["gpt-oss-mxfp4"]))
        return 0
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    for name in args.cases or list(CASES) + ["gpt-oss-mxfp4"]:
        folder = make_mxfp4(args.root) if name == "gpt-oss-mxfp4" else make(name, args.root)
        if not folder:
            print(f"{name}: this transformers has no {CASES.get(name, ['GptOssForCausalLM'])[0]}", file=sys.stderr)
            continue
        size = sum(f.stat().st_size for f in folder.iterdir())
        print(f"{name}: {size // 1024} KiB, logits' deviation {np.fromfile(folder / 'expected.f32', '<f4').std():.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
