/* SmallThinker: the router reads the input of the layer; experts with ReLU. */
#include "models/hf.h"

static const sg_hf_key keys[] = {
    SG_HF_SIZES, SG_HF_REQ(SG_H_FF, "moe_ffn_hidden_size", "feed_forward_length"), SG_HF_HEADS(128), SG_HF_RMS_EPS,
    SG_HF_PUT(SG_H_FF, SG_HK_U32, "expert_feed_forward_length"),
    SG_HF_MOE_KEYS("moe_num_primary_experts|num_experts", "moe_num_active_primary_experts|num_experts_per_tok"),
    SG_HF_FLAG(SG_H_T0, "moe_primary_router_apply_softmax", 0, NULL), SG_HF_CALC(SG_H_T1, SUB, SG_H_TWO, SG_H_T0, NULL),
    SG_HF_PUT(SG_H_T1, SG_HK_U32, "expert_gating_func"), SG_HF_ONLY(SG_HK_BOOL, "norm_topk_prob", 1),
    SG_HF_ONLY(SG_HK_BOOL, "moe_enable_early_router", 1), SG_HF_ONLY(SG_HK_BOOL, "moe_enable_secondary_experts", 0),
};

static const sg_hf_tensor tensors[] = {
    SG_HF_EMBEDDING, SG_HF_NORM("input_layernorm", "attn_norm", 0), SG_HF_QKVO, SG_HF_NORM("post_attention_layernorm", "ffn_norm", 0),
    SG_HF_ROUTER("block_sparse_moe.primary_router"), SG_HF_EXPERTS("block_sparse_moe.experts", "gate", "up", "down", SG_H_FF),
    SG_HF_OUTPUT(0),
};

#define SMALLTHINKER(class) \
    { .name = class, .gguf = "smallthinker", .prefix = "model.", .act = "relu", .flags = SG_HF_LAYOUTS, .theta = 1500000, \
      .keys = keys, .n_keys = sizeof keys / sizeof *keys, .tensors = tensors, .n_tensors = sizeof tensors / sizeof *tensors }

static const sg_hf_arch archs[] = { SMALLTHINKER("SmallThinkerForCausalLM"), SMALLTHINKER("SmallthinkerForCausalLM") };
const sg_hf_family sg_hf_smallthinker = { SG_HF_N(archs) };
