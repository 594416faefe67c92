/* Phi-3 and Phi-4-mini: queries, keys and values in one matrix, gate and up in another, as GGUF has them too. */
#include "models/hf.h"

static const sg_hf_key keys[] = { SG_HF_DECODER, SG_HF_ONLY(SG_HK_BOOL, "attention_bias", 0) };

static const sg_hf_tensor tensors[] = {
    SG_HF_EMBEDDING, SG_HF_NORM("input_layernorm", "attn_norm", 0), SG_HF_MATRIX("self_attn.qkv_proj", "attn_qkv", SG_H_EMBD, SG_H_QKV),
    SG_HF_MATRIX("self_attn.o_proj", "attn_output", SG_H_Q, SG_H_EMBD), SG_HF_NORM("post_attention_layernorm", "ffn_norm", 0),
    SG_HF_MATRIX("mlp.gate_up_proj", "ffn_up", SG_H_EMBD, SG_H_FF2), SG_HF_MATRIX("mlp.down_proj", "ffn_down", SG_H_FF, SG_H_EMBD),
    SG_HF_OUTPUT(0),
};

static const sg_hf_arch archs[] = {
    { .name = "Phi3ForCausalLM", .gguf = "phi3", .prefix = "model.", .act = "silu", .flags = SG_HF_PARTIAL | SG_HF_LONGROPE | SG_HF_CLIPS,
      .keys = keys, .n_keys = sizeof keys / sizeof *keys, .tensors = tensors, .n_tensors = sizeof tensors / sizeof *tensors },
};
const sg_hf_family sg_hf_phi3 = { SG_HF_N(archs) };
