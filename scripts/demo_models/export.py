"""Weights of a demo model as GGUF v3, and back."""

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as T

from .data import BOS, EOS, UNK

LAYER = {  # our name: (GGUF name, kind); kind ffn is cut finer than kind matrix
    "attn_norm.weight": ("attn_norm", "vector"),
    "attn.q.weight": ("attn_q", "matrix"),
    "attn.k.weight": ("attn_k", "matrix"),
    "attn.v.weight": ("attn_v", "matrix"),
    "attn.o.weight": ("attn_output", "matrix"),
    "ffn_norm.weight": ("ffn_norm", "vector"),
    "ffn.router.weight": ("ffn_gate_inp", "vector"),
    "ffn.gate.weight": ("ffn_gate", "ffn"),
    "ffn.up.weight": ("ffn_up", "ffn"),
    "ffn.down.weight": ("ffn_down", "ffn"),
    "ffn.gate": ("ffn_gate_exps", "ffn"),
    "ffn.up": ("ffn_up_exps", "ffn"),
    "ffn.down": ("ffn_down_exps", "ffn"),
}
# "q4q8" is what is shipped; the others are there for checks.
TYPES = {
    "f32": {"matrix": T.F32, "ffn": T.F32, "vector": T.F32},
    "q8": {"matrix": T.Q8_0, "ffn": T.Q8_0, "vector": T.F32},
    "q4q8": {"matrix": T.Q8_0, "ffn": T.Q4_0, "vector": T.F32},
}


def gguf_name(name):
    """GGUF tensor name and kind of one of our parameters."""
    if name == "embed.weight":
        return "token_embd.weight", "matrix"
    if name == "norm.weight":
        return "output_norm.weight", "vector"
    _, n, rest = name.split(".", 2)
    base, kind = LAYER[rest]
    return f"blk.{n}.{base}.weight", kind


def quantise_q4_0(a):
    """Q4_0 with the scale of each block of 32 searched for least squared error,
    around the one that maps the extreme value to -8. Same format, smaller error."""
    x = a.reshape(-1, 32).astype(np.float32)
    extreme = np.take_along_axis(x, np.abs(x).argmax(1)[:, None], 1)
    best_err = np.full((len(x), 1), np.inf, np.float32)
    best_d = np.zeros((len(x), 1), np.float32)
    best_q = np.full(x.shape, 8, np.uint8)
    for k in range(-8, 9):
        d = (extreme / (-8.0 + 0.1 * k)).astype(np.float16).astype(np.float32)
        inv = np.divide(1.0, d, out=np.zeros_like(d), where=d != 0)
        q = np.clip(np.rint(x * inv) + 8, 0, 15)
        # least squares scale for these integers
        z = q - 8
        den = (z * z).sum(1, keepdims=True)
        d = np.divide((x * z).sum(1, keepdims=True), den, out=np.zeros_like(den), where=den > 0)
        d = d.astype(np.float16).astype(np.float32)
        err = ((x - d * z) ** 2).sum(1, keepdims=True)
        better = err < best_err
        best_err = np.where(better, err, best_err)
        best_d = np.where(better, d, best_d)
        best_q = np.where(better, q.astype(np.uint8), best_q)
    nibbles = best_q[:, :16] | (best_q[:, 16:] << 4)
    blocks = np.concatenate([best_d.astype(np.float16).view(np.uint8).reshape(-1, 2), nibbles], 1)
    return blocks.reshape(*a.shape[:-1], a.shape[-1] // 32 * 18)


def quantise(a, t):
    if t == T.F32:
        return a
    if t == T.Q4_0:
        return quantise_q4_0(a)
    return gguf.quants.quantize(a, t)


def write(path, model, sp, mix, name, description):
    """Writes the GGUF file; `mix` is a key of TYPES."""
    c = model.c
    w = gguf.GGUFWriter(path, "llama" if c.kind == "drelu" else "smallthinker")
    w.add_name(name)
    w.add_description(description)
    w.add_license("MIT")
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    w.add_file_type({"f32": gguf.LlamaFileType.ALL_F32, "q8": gguf.LlamaFileType.MOSTLY_Q8_0,
                     "q4q8": gguf.LlamaFileType.MOSTLY_Q4_0}[mix])
    w.add_context_length(c.ctx)
    w.add_embedding_length(c.d_model)
    w.add_block_count(c.n_layer)
    w.add_head_count(c.n_head)
    w.add_head_count_kv(c.n_kv)
    w.add_layer_norm_rms_eps(c.eps)
    w.add_vocab_size(c.vocab)
    w.add_feed_forward_length(c.d_ff)
    w.add_rope_dimension_count(c.d_head)
    w.add_rope_freq_base(c.rope_base)
    if c.kind == "drelu":
        w.add_string("sparsegen.ffn_activation", "drelu")
    else:
        w.add_key_length(c.d_head)
        w.add_value_length(c.d_head)
        w.add_expert_count(c.n_expert)
        w.add_expert_used_count(c.top_k)
        w.add_expert_feed_forward_length(c.d_ff)
        w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    add_tokenizer(w, sp)
    for pname, p in model.state_dict().items():
        gname, kind = gguf_name(pname)
        a = np.ascontiguousarray(p.float().numpy())
        t = TYPES[mix][kind]
        w.add_tensor(gname, quantise(a, t), raw_dtype=t)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def add_tokenizer(w, sp):
    tokens, scores, types = [], [], []
    for i in range(sp.vocab_size()):
        kind = gguf.TokenType.NORMAL
        if sp.is_unknown(i):
            kind = gguf.TokenType.UNKNOWN
        elif sp.is_control(i):
            kind = gguf.TokenType.CONTROL
        elif sp.is_unused(i):
            kind = gguf.TokenType.UNUSED
        elif sp.is_byte(i):
            kind = gguf.TokenType.BYTE
        tokens.append(sp.id_to_piece(i).encode())
        scores.append(sp.get_score(i))
        types.append(kind)
    w.add_tokenizer_model("llama")
    w.add_tokenizer_pre("default")
    w.add_token_list(tokens)
    w.add_token_scores(scores)
    w.add_token_types(types)
    w.add_bos_token_id(BOS)
    w.add_eos_token_id(EOS)
    w.add_unk_token_id(UNK)
    w.add_add_bos_token(True)
    w.add_add_eos_token(False)
    w.add_add_space_prefix(True)


def read_into(path, model):
    """Sets the model's weights to those of the file, unpacked to F32."""
    tensors = {t.name: t for t in gguf.GGUFReader(path).tensors}
    state = {}
    for pname, p in model.state_dict().items():
        t = tensors.pop(gguf_name(pname)[0])
        a = t.data if t.tensor_type == T.F32 else gguf.quants.dequantize(t.data, t.tensor_type)
        state[pname] = torch.from_numpy(np.array(a, dtype=np.float32)).view(p.shape)
    assert not tensors, f"not used: {list(tensors)}"
    model.load_state_dict(state)
    return model
