/* Decoders that differ from each other in little: with experts OLMoE, GLM 4.5, ERNIE 4.5; dense OLMo 2. */
#include "models/hf.h"

static const sg_hf_key olmoe_keys[] = {
    SG_HF_SIZES, SG_HF_FF, SG_HF_HEADS(0), SG_HF_RMS_EPS, SG_HF_ATT_BIAS(0), SG_HF_MOE_KEYS("num_experts", "num_experts_per_tok"),
    SG_HF_ONLY(SG_HK_BOOL, "norm_topk_prob", 0), SG_HF_ONLY(SG_HK_F32, "clip_qkv", 0),
};
static const sg_hf_key olmo2_keys[] = { SG_HF_DECODER, SG_HF_ATT_BIAS(0) };
static const sg_hf_key glm_keys[] = {
    SG_HF_SIZES, SG_HF_FF, SG_HF_HEADS(0), SG_HF_RMS_EPS, SG_HF_FLAG(SG_H_QKV_BIAS, "attention_bias", 0, NULL),
    SG_HF_FLAG(SG_H_QK_NORM, "use_qk_norm", 0, NULL), SG_HF_MOE_KEYS("n_routed_experts", "num_experts_per_tok"),
    SG_HF_REQ(SG_H_EXPERT_FF, "moe_intermediate_size", "expert_feed_forward_length"),
    SG_HF_OPT(SG_H_DENSE, "first_k_dense_replace", 1, "!leading_dense_block_count"),
    SG_HF_OPT(SG_H_SHARED, "n_shared_experts", 1, "expert_shared_count"),
    SG_HF_CALC(SG_H_SHARED_FF, MUL, SG_H_SHARED, SG_H_EXPERT_FF, NULL),
    SG_HF_NUM(SG_H_NONE, "routed_scaling_factor", 1, "expert_weights_scale"),
    SG_HF_FLAG(SG_H_NONE, "norm_topk_prob", 1, "!expert_weights_norm"), SG_HF_PUT(SG_H_TWO, SG_HK_U32, "expert_gating_func"),
    SG_HF_ONLY(SG_HK_U32, "n_group", 1), SG_HF_OPT(SG_H_NEXTN, "num_nextn_predict_layers", 0, NULL),
};
static const sg_hf_key ernie_keys[] = {
    SG_HF_SIZES, SG_HF_FF, SG_HF_HEADS(0), SG_HF_RMS_EPS, SG_HF_ONLY(SG_HK_BOOL, "use_bias", 0),
    SG_HF_MOE_KEYS("moe_num_experts", "moe_k"), SG_HF_REQ(SG_H_EXPERT_FF, "moe_intermediate_size", "expert_feed_forward_length"),
    SG_HF_OPT(SG_H_SHARED, "moe_num_shared_experts", 0, NULL),
    SG_HF_CALC(SG_H_SHARED_FF, MUL, SG_H_SHARED, SG_H_EXPERT_FF, "expert_shared_feed_forward_length"),
    SG_HF_OPT(SG_H_DENSE, "moe_layer_start_index", 1, "!leading_dense_block_count"),
    SG_HF_OPT(SG_H_STEP, "moe_layer_interval", 1, "interleave_moe_layer_step"),
    /* the last layer with experts must be the last one; -1 stands for it */
    SG_HF_NUM(SG_H_T0, "moe_layer_end_index", -1, NULL), SG_HF_CALC(SG_H_T0, ADD, SG_H_T0, SG_H_ONE, NULL),
    SG_HF_CALC(SG_H_T0, OR, SG_H_T0, SG_H_LAYERS, NULL),
    { .kind = SG_HK_SAME, .a = SG_H_T0, .b = SG_H_LAYERS, .json = "moe_layer_end_index" },
};

#define BEFORE SG_HF_EMBEDDING, SG_HF_NORM("input_layernorm", "attn_norm", 0), SG_HF_QKVO
#define EXPERTS(ff) SG_HF_ROUTER("mlp.gate"), SG_HF_EXPERTS("mlp.experts", "gate_proj", "up_proj", "down_proj", ff)

static const sg_hf_tensor olmoe_tensors[] = {
    BEFORE, SG_HF_VECTOR("self_attn.q_norm.weight", "attn_q_norm.weight", SG_H_Q),
    SG_HF_VECTOR("self_attn.k_norm.weight", "attn_k_norm.weight", SG_H_K), SG_HF_NORM("post_attention_layernorm", "ffn_norm", 0),
    EXPERTS(SG_H_FF), SG_HF_OUTPUT(0),
};
static const sg_hf_tensor olmo2_tensors[] = {
    SG_HF_EMBEDDING, SG_HF_QKVO, SG_HF_VECTOR("self_attn.q_norm.weight", "attn_q_norm.weight", SG_H_Q),
    SG_HF_VECTOR("self_attn.k_norm.weight", "attn_k_norm.weight", SG_H_K), SG_HF_NORM("post_attention_layernorm", "post_attention_norm", 0),
    SG_HF_GATED, SG_HF_NORM("post_feedforward_layernorm", "post_ffw_norm", 0), SG_HF_OUTPUT(0),
};
static const sg_hf_tensor glm_tensors[] = {
    BEFORE, SG_HF_VECTOR("self_attn.q_norm.weight", "attn_q_norm.weight", SG_H_HEAD, .flag = SG_H_QK_NORM),
    SG_HF_VECTOR("self_attn.k_norm.weight", "attn_k_norm.weight", SG_H_HEAD, .flag = SG_H_QK_NORM),
    SG_HF_NORM("post_attention_layernorm", "post_attention_norm", 0), SG_HF_GATED, EXPERTS(SG_H_EXPERT_FF),
    SG_HF_VECTOR("mlp.gate.e_score_correction_bias", "exp_probs_b.bias", SG_H_EXPERTS, .when = SG_HF_MOE),
    SG_HF_SHARED_EXPERT("mlp.shared_experts", SG_H_SHARED), SG_HF_OUTPUT(0),
};
/* Rotary pairs are neighbours here as in GGUF. */
static const sg_hf_tensor ernie_tensors[] = {
    BEFORE, SG_HF_NORM("post_attention_layernorm", "ffn_norm", 0), SG_HF_GATED, EXPERTS(SG_H_EXPERT_FF),
    SG_HF_VECTOR("mlp.moe_statics.e_score_correction_bias", "exp_probs_b.bias", SG_H_EXPERTS, .when = SG_HF_MOE,
                 .shape = { SG_H_ONE, SG_H_EXPERTS }),
    SG_HF_SHARED_EXPERT("mlp.shared_experts", SG_H_SHARED), SG_HF_OUTPUT(0),
};

static const sg_hf_arch archs[] = {
    { .name = "OlmoeForCausalLM", .gguf = "olmoe", .prefix = "model.", .act = "silu", .keys = olmoe_keys,
      .n_keys = sizeof olmoe_keys / sizeof *olmoe_keys, .tensors = olmoe_tensors, .n_tensors = sizeof olmoe_tensors / sizeof *olmoe_tensors },
    { .name = "Olmo2ForCausalLM", .gguf = "olmo2", .prefix = "model.", .act = "silu", .keys = olmo2_keys,
      .n_keys = sizeof olmo2_keys / sizeof *olmo2_keys, .tensors = olmo2_tensors, .n_tensors = sizeof olmo2_tensors / sizeof *olmo2_tensors },
    { .name = "Glm4MoeForCausalLM", .gguf = "glm4moe", .prefix = "model.", .act = "silu", .flags = SG_HF_PARTIAL, .partial = 0.5,
      .keys = glm_keys, .n_keys = sizeof glm_keys / sizeof *glm_keys, .tensors = glm_tensors,
      .n_tensors = sizeof glm_tensors / sizeof *glm_tensors },
    { .name = "Ernie4_5_MoeForCausalLM", .gguf = "ernie4_5-moe", .prefix = "model.", .act = "silu", .flags = SG_HF_TIED, .theta = 500000,
      .ignore = "mtp", .keys = ernie_keys, .n_keys = sizeof ernie_keys / sizeof *ernie_keys, .tensors = ernie_tensors,
      .n_tensors = sizeof ernie_tensors / sizeof *ernie_tensors },
};
const sg_hf_family sg_hf_moe = { SG_HF_N(archs) };
