"""Tiny Hugging Face folders (tests/data/hf): every tensor and the important keys of what `convert` makes of them, against a
computation of their own from the safetensors. Needs numpy. Which of them also run is what test_hf.py checks.

The rules here are written from the modelling code of transformers and from how llama.cpp's GGUF files look, not from the tables
of models/hf_*.c.
"""
import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile

try:
    import numpy as np
except ImportError:
    print("numpy is not there")
    sys.exit(77)

ROOT = pathlib.Path(os.environ["SG_SOURCE_ROOT"])
sys.path.insert(0, str(ROOT / "scripts"))
sys.dont_write_bytecode = True
from gguf_file import GgufFile  # noqa: E402
from hf_folders import copy, move_scales  # noqa: E402

EXE = os.environ["SG_BIN"]
FOLDERS = ROOT / "tests" / "data" / "hf"


class Source:
    """Tensors of a folder as F32 (U8 as it is), and its configuration."""

    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        self.tensors, self.used = {}, set()
        for file in sorted(folder.glob("*.safetensors")):
            raw = file.read_bytes()
            n, = struct.unpack_from("<Q", raw)
            for name, t in json.loads(raw[8:8 + n]).items():
                if name == "__metadata__":
                    continue
                part = raw[8 + n + t["data_offsets"][0]:8 + n + t["data_offsets"][1]]
                if t["dtype"] == "BF16":
                    v = (np.frombuffer(part, "<u2").astype(np.uint32) << 16).view(np.float32)
                else:
                    v = np.frombuffer(part, {"F32": "<f4", "F16": "<f2", "U8": "u1"}[t["dtype"]])
                    v = v if t["dtype"] == "U8" else v.astype(np.float32)
                self.tensors[name] = v.reshape(t["shape"])

    def __getitem__(self, name):
        self.used.add(name)
        return self.tensors[name]

    def get(self, key, default=None):
        value = self.config.get(key)
        return default if value is None else value

    @property
    def head(self):
        return self.get("head_dim") or self.config["hidden_size"] // self.config["num_attention_heads"]


def halves_to_neighbours(w, heads):
    return w.reshape(heads, 2, -1, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def simple(table, s, out, src, dst, op=lambda x: x):
    """Renames what is there: pairs of names, each with .weight and .bias."""
    for a, b in table.items():
        for end in (".weight", ".bias"):
            if src + a + end in s.tensors:
                out[dst + b + end] = op(s[src + a + end]) if end == ".weight" else s[src + a + end]


def stack(s, base, name):
    n = len([t for t in s.tensors if re.fullmatch(re.escape(base) + r"\.\d+\." + re.escape(name) + r"\.weight", t)])
    return np.stack([s[f"{base}.{e}.{name}.weight"] for e in range(n)])


def globals_of(s, out, embed, norm, plus=0, norm_to="output_norm"):
    out["token_embd.weight"] = s[embed]
    for end in (".weight", ".bias"):
        if norm + end in s.tensors:
            out[norm_to + end] = s[norm + end] + (plus if end == ".weight" else 0)
    if "lm_head.weight" in s.tensors:
        out["output.weight"] = s["lm_head.weight"]


def attention(s, out, src, dst, pairs, names=("q_proj", "k_proj", "v_proj", "o_proj")):
    for name, to in zip(names, ("attn_q", "attn_k", "attn_v", "attn_output")):
        for end in (".weight", ".bias"):
            w = f"{src}self_attn.{name}{end}"
            if w not in s.tensors:
                continue
            v = s[w]
            if pairs and to in ("attn_q", "attn_k"):
                v = halves_to_neighbours(v, s.config["num_attention_heads" if to == "attn_q" else "num_key_value_heads"])
            out[f"{dst}{to}{end}"] = v


def experts(s, out, base, dst, names=("gate_proj", "up_proj", "down_proj")):
    for name, to in zip(names, ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")):
        out[f"{dst}{to}.weight"] = stack(s, base, name)


GATED = {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
SHARED = {"gate_proj": "ffn_gate_shexp", "up_proj": "ffn_up_shexp", "down_proj": "ffn_down_shexp"}


def decoder(s, pairs=False, plus=0, norms=None, layer=None, moe=None, attend=attention, norm="model.norm",
            norm_to="output_norm"):
    """A decoder whose names are model.layers.N.*; `layer` adds what it has besides, `moe` the experts."""
    out = {}
    globals_of(s, out, "model.embed_tokens.weight", norm, plus, norm_to)
    norms = norms or {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    for n in range(s.config["num_hidden_layers"]):
        src, dst = f"model.layers.{n}.", f"blk.{n}."
        simple(norms, s, out, src, dst, lambda x: x + plus)
        if attend:
            attend(s, out, src, dst, pairs)
        simple(GATED, s, out, src, dst)
        if moe and any(t.startswith(src) and ("expert" in t or "sparse_moe" in t) for t in s.tensors):
            moe(s, out, src, dst)
        if layer:
            layer(s, out, src, dst, n)
    return out


def head_norms(s, out, src, dst, n, plus=0):
    simple({"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}, s, out, src, dst, lambda x: x + plus)


def mixtral_moe(s, out, src, dst):
    out[dst + "ffn_gate_inp.weight"] = s[src + "block_sparse_moe.gate.weight"]
    experts(s, out, src + "block_sparse_moe.experts", dst, ("w1", "w3", "w2"))


def plain_moe(s, out, src, dst):
    out[dst + "ffn_gate_inp.weight"] = s[src + "mlp.gate.weight"]
    experts(s, out, src + "mlp.experts", dst)
    for bias in ("mlp.gate.e_score_correction_bias", "mlp.moe_statics.e_score_correction_bias"):
        if src + bias in s.tensors:
            out[dst + "exp_probs_b.bias"] = s[src + bias].reshape(-1)
    simple({f"mlp.shared_expert{plural}.{a}": b for plural in ("", "s") for a, b in SHARED.items()}, s, out, src, dst)
    if src + "mlp.shared_expert_gate.weight" in s.tensors:
        out[dst + "ffn_gate_inp_shexp.weight"] = s[src + "mlp.shared_expert_gate.weight"].reshape(-1)


def granite_moe(s, out, src, dst):
    out[dst + "ffn_gate_inp.weight"] = s[src + "block_sparse_moe.router.layer.weight"]
    fused = s[src + "block_sparse_moe.input_linear.weight"]
    ff = fused.shape[1] // 2
    out[dst + "ffn_gate_exps.weight"], out[dst + "ffn_up_exps.weight"] = fused[:, :ff], fused[:, ff:]
    out[dst + "ffn_down_exps.weight"] = s[src + "block_sparse_moe.output_linear.weight"]
    if src + "shared_mlp.input_linear.weight" in s.tensors:
        both = s[src + "shared_mlp.input_linear.weight"]
        out[dst + "ffn_gate_shexp.weight"], out[dst + "ffn_up_shexp.weight"] = np.split(both, 2)
        out[dst + "ffn_down_shexp.weight"] = s[src + "shared_mlp.output_linear.weight"]


FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def mxfp4(s, name):
    blocks, scales = s[name + "_blocks"], s[name + "_scales"].astype(np.float32)
    values = np.stack([FP4[blocks & 15], FP4[blocks >> 4]], axis=-1).reshape(*blocks.shape[:-1], 32)
    return (values * 2.0 ** (scales[..., None] - 127)).reshape(*blocks.shape[:-2], -1).astype(np.float32)


def gpt_oss_layer(s, out, src, dst, n):
    e = src + "mlp.experts."
    out[dst + "attn_sinks.weight"] = s[src + "self_attn.sinks"]
    simple({"mlp.router": "ffn_gate_inp"}, s, out, src, dst)
    if e + "gate_up_proj_blocks" in s.tensors:
        both, down = mxfp4(s, e + "gate_up_proj"), mxfp4(s, e + "down_proj")
    else:
        both, down = s[e + "gate_up_proj"].swapaxes(1, 2), s[e + "down_proj"].swapaxes(1, 2)
    out[dst + "ffn_gate_exps.weight"], out[dst + "ffn_up_exps.weight"] = both[:, ::2], both[:, 1::2]
    out[dst + "ffn_down_exps.weight"] = down
    bias = s[e + "gate_up_proj_bias"]
    out[dst + "ffn_gate_exps.bias"], out[dst + "ffn_up_exps.bias"] = bias[:, ::2], bias[:, 1::2]
    out[dst + "ffn_down_exps.bias"] = s[e + "down_proj_bias"]


def latent(s, out, src, dst, pairs):
    simple({"self_attn.q_proj": "attn_q", "self_attn.q_a_proj": "attn_q_a", "self_attn.q_a_layernorm": "attn_q_a_norm",
            "self_attn.q_b_proj": "attn_q_b", "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
            "self_attn.kv_a_layernorm": "attn_kv_a_norm", "self_attn.o_proj": "attn_output"}, s, out, src, dst)
    nope, r = s.config["qk_nope_head_dim"], s.config["kv_lora_rank"]
    b = s[src + "self_attn.kv_b_proj.weight"].reshape(s.config["num_attention_heads"], -1, r)
    out[dst + "attn_k_b.weight"], out[dst + "attn_v_b.weight"] = b[:, :nope].swapaxes(1, 2), b[:, nope:]


def lfm2(s):
    def layer(s, out, src, dst, n):
        simple({"feed_forward.w1": "ffn_gate", "feed_forward.w3": "ffn_up", "feed_forward.w2": "ffn_down",
                "self_attn.q_layernorm": "attn_q_norm", "self_attn.k_layernorm": "attn_k_norm",
                "conv.in_proj": "shortconv.in_proj", "conv.out_proj": "shortconv.out_proj"}, s, out, src, dst)
        if src + "conv.conv.weight" in s.tensors:
            out[dst + "shortconv.conv.weight"] = s[src + "conv.conv.weight"][:, 0]
        if src + "feed_forward.gate.weight" in s.tensors:
            out[dst + "ffn_gate_inp.weight"] = s[src + "feed_forward.gate.weight"]
            out[dst + "exp_probs_b.bias"] = s[src + "feed_forward.expert_bias"]
            experts(s, out, src + "feed_forward.experts", dst, ("w1", "w3", "w2"))
    return decoder(s, norms={"operator_norm": "attn_norm", "ffn_norm": "ffn_norm"}, layer=layer, norm="model.embedding_norm",
                   norm_to="token_embd_norm", attend=lambda *a: attention(*a, names=("q_proj", "k_proj", "v_proj", "out_proj")))


def delta(s, out, src, dst, n):
    """A delta-net layer of Qwen3-Next or Qwen3.5; value head h of the latter goes to place (h % R) * NK + h // R."""
    head_norms(s, out, src, dst, n, plus=1)
    a = src + "linear_attn."
    if a + "A_log" not in s.tensors:
        return
    c = s.config
    nk, nv, hk, hv = (c["linear_" + k] for k in ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim"))
    r = nv // nk
    simple({"norm": "ssm_norm"}, s, out, a, dst)
    conv, decay, step, last = s[a + "conv1d.weight"][:, 0], -np.exp(s[a + "A_log"]), s[a + "dt_bias"], s[a + "out_proj.weight"]
    if a + "in_proj_qkvz.weight" in s.tensors:
        w = s[a + "in_proj_qkvz.weight"]
        w = w.reshape(nk, -1, w.shape[-1])
        q, k, v, z = np.split(w, [hk, 2 * hk, 2 * hk + r * hv], axis=1)
        out[dst + "attn_qkv.weight"] = np.concatenate([x.reshape(-1, w.shape[-1]) for x in (q, k, v)])
        out[dst + "attn_gate.weight"] = z.reshape(-1, w.shape[-1])
        out[dst + "ssm_ba.weight"] = s[a + "in_proj_ba.weight"]
    else:
        order = np.array([h for j in range(r) for h in range(j, nv, r)])
        rows = (order[:, None] * hv + np.arange(hv)).reshape(-1)
        both = np.concatenate([np.arange(2 * nk * hk), 2 * nk * hk + rows])
        out[dst + "attn_qkv.weight"] = s[a + "in_proj_qkv.weight"][both]
        out[dst + "attn_gate.weight"] = s[a + "in_proj_z.weight"][rows]
        out[dst + "ssm_beta.weight"], out[dst + "ssm_alpha.weight"] = s[a + "in_proj_b.weight"][order], s[a + "in_proj_a.weight"][order]
        conv, decay, step, last = conv[both], decay[order], step[order], last[:, rows]
    out[dst + "ssm_conv1d.weight"], out[dst + "ssm_a"], out[dst + "ssm_dt.bias"], out[dst + "ssm_out.weight"] = conv, decay, step, last


QWEN_NEXT = {"norms": {"input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm"}, "plus": 1, "moe": plain_moe,
             "layer": delta}
GEMMA_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
               "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm"}
OLMO2_NORMS = {"post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm"}


def gpt2(s):
    out = {}
    globals_of(s, out, "transformer.wte.weight", "transformer.ln_f")
    out["position_embd.weight"] = s["transformer.wpe.weight"]
    for n in range(s.config["n_layer"]):
        src, dst = f"transformer.h.{n}.", f"blk.{n}."
        simple({"ln_1": "attn_norm", "ln_2": "ffn_norm"}, s, out, src, dst)
        simple({"attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}, s, out, src,
               dst, lambda x: x.T)
    return out


def opt(s):
    out, top = {}, "model.decoder."
    globals_of(s, out, top + "embed_tokens.weight", top + "final_layer_norm")
    out["position_embd.weight"] = s[top + "embed_positions.weight"][2:]
    for n in range(s.config["num_hidden_layers"]):
        src, dst = f"{top}layers.{n}.", f"blk.{n}."
        attention(s, out, src, dst, False, ("q_proj", "k_proj", "v_proj", "out_proj"))
        simple({"self_attn_layer_norm": "attn_norm", "final_layer_norm": "ffn_norm", "fc1": "ffn_up", "fc2": "ffn_down"}, s, out, src, dst)
    return out


def falcon(s):
    out, c = {}, s.config
    globals_of(s, out, "transformer.word_embeddings.weight", "transformer.ln_f")
    heads, d = c["num_attention_heads"], c["hidden_size"]
    groups = c["num_kv_heads"] if c["new_decoder_architecture"] else 1
    for n in range(c["num_hidden_layers"]):
        src, dst = f"transformer.h.{n}.", f"blk.{n}."
        w = s[src + "self_attention.query_key_value.weight"].reshape(groups, heads // groups + 2, d // heads, d)
        out[dst + "attn_qkv.weight"] = np.concatenate([x.reshape(-1, d) for x in (w[:, :-2], w[:, -2], w[:, -1])])
        simple({"ln_attn": "attn_norm_2", "ln_mlp": "attn_norm", "input_layernorm": "attn_norm", "self_attention.dense": "attn_output",
                "mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down"}, s, out, src, dst)
    return out


def nemotron_layer(s, out, src, dst, n):
    for name in ("attn_norm", "ffn_norm"):  # decoder() adds one to weights only, but names end in both
        assert f"{dst}{name}.bias" in out


def phi3_layer(s, out, src, dst, n):
    simple({"self_attn.qkv_proj": "attn_qkv", "self_attn.o_proj": "attn_output", "mlp.gate_up_proj": "ffn_up"}, s, out, src, dst)


def phi3(s):
    out = decoder(s, layer=phi3_layer, attend=None)
    rope = s.config["rope_parameters"]
    for name in ("short", "long"):
        if name + "_factor" in rope:
            out[f"rope_factors_{name}.weight"] = np.array(rope[name + "_factor"], np.float32)
    return out


# GGUF architecture, expected tensors, some keys (without the architecture).
CASES = {
    "mixtral": ("llama", lambda s: decoder(s, pairs=True, moe=mixtral_moe),
                {"expert_count": 3, "expert_used_count": 2, "feed_forward_length": 32, "rope.dimension_count": 8}),
    "arcee": ("arcee", lambda s: decoder(s, pairs=True), {"feed_forward_length": 40}),
    "qwen2moe": ("qwen2moe", lambda s: decoder(s, moe=plain_moe),
                 {"expert_feed_forward_length": 16, "expert_shared_feed_forward_length": 24}),
    "qwen3moe": ("qwen3moe", lambda s: decoder(s, moe=plain_moe, layer=head_norms), {"attention.key_length": 16}),
    "qwen3next": ("qwen3next", lambda s: decoder(s, **QWEN_NEXT),
                  {"rope.dimension_count": 4, "full_attention_interval": 4, "ssm.inner_size": 32, "ssm.state_size": 8, "ssm.conv_kernel": 4,
                   "ssm.time_step_rank": 4, "ssm.group_count": 2, "rope.freq_base": 700.0}),
    "qwen35moe": ("qwen35moe", lambda s: decoder(s, **QWEN_NEXT), {"rope.dimension_count": 4, "ssm.inner_size": 32}),
    "olmoe": ("olmoe", lambda s: decoder(s, moe=plain_moe, layer=head_norms), {"expert_used_count": 2}),
    "olmo2": ("olmo2", lambda s: decoder(s, norms=OLMO2_NORMS, layer=head_norms), {"feed_forward_length": 40}),
    "gpt-oss": ("gpt-oss", lambda s: decoder(s, norms=QWEN_NEXT["norms"], layer=gpt_oss_layer),
                {"attention.sliding_window": 6, "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
                 "rope.scaling.original_context_length": 16, "expert_feed_forward_length": 32}),
    "gpt-oss-mxfp4": ("gpt-oss", lambda s: decoder(s, norms=QWEN_NEXT["norms"], layer=gpt_oss_layer), {"expert_count": 3}),
    "deepseek2": ("deepseek2", lambda s: decoder(s, attend=latent, moe=plain_moe),
                  {"attention.kv_lora_rank": 16, "attention.head_count_kv": 1, "attention.key_length": 24, "attention.value_length": 16,
                   "attention.key_length_mla": 16, "attention.value_length_mla": 12, "rope.dimension_count": 8, "expert_gating_func": 1,
                   "expert_weights_norm": False, "expert_weights_scale": 1.5, "leading_dense_block_count": 1, "expert_shared_count": 2,
                   "attention.q_lora_rank": None, "expert_group_count": None}),
    "deepseek3": ("deepseek2", lambda s: decoder(s, attend=latent, moe=plain_moe),
                  {"attention.q_lora_rank": 20, "expert_gating_func": 2, "expert_weights_norm": True, "expert_weights_scale": 2.5,
                   "rope.scaling.yarn_log_multiplier": 0.07, "rope.scaling.attn_factor": None}),
    "lfm2": ("lfm2", lfm2, {"attention.head_count_kv": [0, 2, 0], "shortconv.l_cache": 3, "feed_forward_length": 72}),
    "lfm2moe": ("lfm2moe", lfm2, {"attention.head_count_kv": [0, 0, 2], "expert_gating_func": 2, "leading_dense_block_count": 1}),
    "granite": ("granite", lambda s: decoder(s, pairs=True),
                {"embedding_scale": 3.0, "residual_scale": 0.5, "logit_scale": 2.0, "attention.scale": 0.3}),
    "granitemoe": ("granitemoe", lambda s: decoder(s, pairs=True, moe=granite_moe), {"feed_forward_length": 24}),
    "granitemoe-shared": ("granitemoe", lambda s: decoder(s, pairs=True, moe=granite_moe), {"expert_shared_feed_forward_length": 24}),
    "glm4moe": ("glm4moe", lambda s: decoder(s, norms=QWEN_NEXT["norms"], moe=plain_moe, layer=head_norms),
                {"rope.dimension_count": 8, "expert_weights_scale": 1.7, "expert_weights_norm": True, "expert_gating_func": 2}),
    "ernie4_5-moe": ("ernie4_5-moe", lambda s: decoder(s, moe=plain_moe),
                     {"expert_shared_feed_forward_length": 32, "leading_dense_block_count": 1, "interleave_moe_layer_step": 1}),
    "phi3": ("phi3", phi3, {"rope.scaling.attn_factor": None}),
    "phi3-long": ("phi3", phi3, {"rope.scaling.attn_factor": (1 + np.log(2) / np.log(64)) ** 0.5,
                                 "rope.scaling.original_context_length": 64}),
    "gemma": ("gemma", lambda s: decoder(s, plus=1), {"attention.key_length": 16, "attention.scale": None}),
    "gemma2": ("gemma2", lambda s: decoder(s, plus=1, norms=GEMMA_NORMS),
               {"attention.scale": 40 ** -0.5, "attention.sliding_window": 6, "attn_logit_softcapping": 4.0, "final_logit_softcapping": 7.0}),
    "gemma3": ("gemma3", lambda s: decoder(s, plus=1, norms=GEMMA_NORMS, layer=lambda *a: head_norms(*a, plus=1)),
               {"attention.scale": 24 ** -0.5, "rope.freq_base": 900.0, "attention.sliding_window": 6}),
    "gpt2": ("gpt2", gpt2, {"context_length": 64, "feed_forward_length": 56, "rope.dimension_count": None}),
    "opt": ("opt", opt, {"context_length": 64, "feed_forward_length": 48, "attention.layer_norm_epsilon": 1e-5}),
    "falcon": ("falcon", falcon, {"attention.head_count_kv": 2, "feed_forward_length": 56}),
    "falcon-relu": ("falcon", falcon, {"attention.head_count_kv": 2, "feed_forward_length": 128}),
    "falcon-mqa": ("falcon", falcon, {"attention.head_count_kv": 1, "feed_forward_length": 128}),
    "nemotron": ("nemotron", lambda s: decoder(s, plus=1, layer=nemotron_layer),
                 {"attention.layer_norm_epsilon": 0.01, "rope.dimension_count": 4}),
}
# sparsegen.ffn_activation; None: the architecture's own
ACTIVATIONS = {"falcon": "gelu_erf", "falcon-mqa": "relu", "falcon-relu": "relu"}
ABOUT = ("ssm_a",)  # an exponential: not to the last bit


def convert(folder, out, *options):
    done = subprocess.run([EXE, "convert", folder, "-o", out, "-f", *options], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"{folder.name}: exit {done.returncode}: {done.stderr.decode()}")
    return GgufFile(out)


def values(g, name, kinds=None):
    dims, kind, at = g.tensors[name]
    n = int(np.prod(dims))
    if kind == 0:
        v = np.frombuffer(g.map, "<f4", n, g.data + at)
    else:  # MXFP4
        raw = np.frombuffer(g.map, "u1", n // 32 * 17, g.data + at).reshape(-1, 17)
        v = (np.concatenate([FP4[raw[:, 1:] & 15], FP4[raw[:, 1:] >> 4]], axis=1) * 2.0 ** (raw[:, :1].astype(np.float32) - 127)).astype("<f4")
    return v.reshape(dims[::-1])


def check_tensors(name, g, want):
    if set(g.tensors) != set(want):
        sys.exit(f"{name}: tensors {sorted(set(g.tensors) ^ set(want))} are on one side only")
    for tensor, v in want.items():
        got = values(g, tensor)
        if got.shape != v.shape:
            sys.exit(f"{name}: {tensor} is {got.shape}, {v.shape} expected")
        if not (np.allclose(got, v, 1e-6, 0) if tensor.split(".")[-1] in ABOUT else np.array_equal(got, v)):
            sys.exit(f"{name}: {tensor} differs in {np.sum(got != v)} of {v.size} values")


def check_keys(name, g, arch, keys):
    if g.keys["general.architecture"] != arch:
        sys.exit(f"{name}: architecture {g.keys['general.architecture']}, {arch} expected")
    for key, v in keys.items():
        got = g.keys.get(f"{arch}.{key}")
        same = got == v if not isinstance(v, float) or got is None else abs(got - v) <= 1e-6 * abs(v)
        if not same:
            sys.exit(f"{name}: {key} is {got}, {v} expected")
    if g.keys.get("sparsegen.ffn_activation") != ACTIVATIONS.get(name):
        sys.exit(f"{name}: the activation is {g.keys.get('sparsegen.ffn_activation')}, {ACTIVATIONS.get(name)} expected")


def refused(folder, words):
    done = subprocess.run([EXE, "convert", folder, "-o", folder / "out.gguf"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode == 0 or words not in done.stderr.decode() or (folder / "out.gguf").exists():
        sys.exit(f"{folder.name}: exit {done.returncode}, not refused with \"{words}\": {done.stderr.decode()}")


def main():
    there = {p.name for p in FOLDERS.iterdir() if p.is_dir()} - {"llama", "qwen2", "qwen3"}  # those three: tests/unit/test_convert.c
    if there != set(CASES):
        sys.exit(f"folders and cases differ: {sorted(there ^ set(CASES))}")
    with tempfile.TemporaryDirectory() as tmp:
        out = pathlib.Path(tmp) / "out.gguf"
        for name, (arch, expected, keys) in CASES.items():
            source = Source(FOLDERS / name)
            want = expected(source)
            left = set(source.tensors) - source.used
            if left:
                sys.exit(f"{name}: {sorted(left)} is expected nowhere")
            g = convert(FOLDERS / name, out, "--type", "f32")
            check_tensors(name, g, want)
            check_keys(name, g, arch, keys)
            print(f"{name}: {len(want)} tensors")
        name = "gpt-oss-mxfp4"  # blocks stay blocks when no type is named
        g = convert(FOLDERS / name, out)
        kept = {t: v for t, v in CASES[name][1](Source(FOLDERS / name)).items() if t.endswith("_exps.weight")}
        for tensor, v in kept.items():
            if g.tensors[tensor][1] != 39 or not np.array_equal(values(g, tensor), v):
                sys.exit(f"{name}: {tensor} is of type {g.tensors[tensor][1]} or differs")
        print(f"{name}: {len(kept)} tensors kept as MXFP4")
        apart = convert(move_scales(copy(FOLDERS / name, pathlib.Path(tmp) / "apart")), out)
        for tensor, v in kept.items():
            if not np.array_equal(values(apart, tensor), v):
                sys.exit(f"{name}: {tensor} differs when its scales are in another shard")
        refused(copy(FOLDERS / "lfm2", pathlib.Path(tmp) / "none", block_ff_dim=1, block_multiple_of=1), "leave nothing of tensor")
        refused(copy(FOLDERS / "deepseek3", pathlib.Path(tmp) / "nope", qk_nope_head_dim=9, v_head_dim=11, qk_rope_head_dim=7),
                "an even number above 0 can")
        refused(copy(FOLDERS / "qwen3next", pathlib.Path(tmp) / "types", layer_types=["full_attention"] * 4), "layer 0 is of type")


if __name__ == "__main__":
    main()
