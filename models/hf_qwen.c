/* Qwen 2 and 3, dense and with experts. */
#include "models/hf.h"

#define QWEN_MOE \
    SG_HF_MOE_KEYS("num_experts|num_local_experts", "num_experts_per_tok"), \
    SG_HF_REQ(SG_H_EXPERT_FF, "moe_intermediate_size", "expert_feed_forward_length"), SG_HF_ONLY(SG_HK_U32, "decoder_sparse_step", 1)

static const sg_hf_key qwen2_keys[] = { SG_HF_DECODER, SG_HF_CALC(SG_H_QKV_BIAS, OR, SG_H_ONE, SG_H_NONE, NULL) };
static const sg_hf_key qwen3_keys[] = { SG_HF_SIZES, SG_HF_FF, SG_HF_HEADS(128), SG_HF_RMS_EPS, SG_HF_NO_MLP_BIAS, SG_HF_ATT_BIAS(0) };
static const sg_hf_key qwen2moe_keys[] = {
    SG_HF_DECODER, SG_HF_FLAG(SG_H_QKV_BIAS, "qkv_bias", 1, NULL), QWEN_MOE,
    SG_HF_REQ(SG_H_SHARED_FF, "shared_expert_intermediate_size", "expert_shared_feed_forward_length"),
    SG_HF_ONLY(SG_HK_BOOL, "norm_topk_prob", 0),
};
/* transformers takes norm_topk_prob as false when it is not said; the models say true. */
static const sg_hf_key qwen3moe_keys[] = {
    SG_HF_SIZES, SG_HF_FF, SG_HF_HEADS(128), SG_HF_RMS_EPS, SG_HF_ATT_BIAS(0), QWEN_MOE, SG_HF_ONLY(SG_HK_BOOL, "norm_topk_prob", 1),
};

#define BEFORE SG_HF_EMBEDDING, SG_HF_NORM("input_layernorm", "attn_norm", 0), SG_HF_QKVO
#define FFN_NORM SG_HF_NORM("post_attention_layernorm", "ffn_norm", 0)
#define MOE SG_HF_ROUTER("mlp.gate"), SG_HF_EXPERTS("mlp.experts", "gate_proj", "up_proj", "down_proj", SG_H_EXPERT_FF)

static const sg_hf_tensor qwen2_tensors[] = { BEFORE, FFN_NORM, SG_HF_GATED, SG_HF_OUTPUT(0) };
static const sg_hf_tensor qwen3_tensors[] = { BEFORE, SG_HF_QK_NORMS("q_norm", "k_norm", 0), FFN_NORM, SG_HF_GATED, SG_HF_OUTPUT(0) };
static const sg_hf_tensor qwen2moe_tensors[] = {
    BEFORE, FFN_NORM, MOE,
    SG_HF_VECTOR("mlp.shared_expert_gate.weight", "ffn_gate_inp_shexp.weight", SG_H_EMBD, .shape = { SG_H_ONE, SG_H_EMBD }),
    SG_HF_SHARED_EXPERT("mlp.shared_expert", 0), SG_HF_OUTPUT(0),
};
static const sg_hf_tensor qwen3moe_tensors[] = { BEFORE, SG_HF_QK_NORMS("q_norm", "k_norm", 0), FFN_NORM, MOE, SG_HF_OUTPUT(0) };

#define QWEN(class, gguf_, keys_, tensors_) \
    { .name = class, .gguf = gguf_, .prefix = "model.", .act = "silu", .flags = SG_HF_CLIPS_IF_USED, \
      .keys = keys_, .n_keys = sizeof keys_ / sizeof *keys_, .tensors = tensors_, .n_tensors = sizeof tensors_ / sizeof *tensors_ }

static const sg_hf_arch archs[] = {
    QWEN("Qwen2ForCausalLM", "qwen2", qwen2_keys, qwen2_tensors),
    QWEN("Qwen3ForCausalLM", "qwen3", qwen3_keys, qwen3_tensors),
    QWEN("Qwen2MoeForCausalLM", "qwen2moe", qwen2moe_keys, qwen2moe_tensors),
    QWEN("Qwen3MoeForCausalLM", "qwen3moe", qwen3moe_keys, qwen3moe_tensors),
};
const sg_hf_family sg_hf_qwen = { SG_HF_N(archs) };
