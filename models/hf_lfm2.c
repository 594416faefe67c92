/* LFM2: most layers are a short convolution; with and without experts. */
#include "models/hf.h"

#define KEYS(scale_ff) \
    SG_HF_SIZES, SG_HF_OPT(SG_H_FF, "block_ff_dim|intermediate_size", 0, NULL), scale_ff, SG_HF_PUT(SG_H_FF, SG_HK_U32, "feed_forward_length"), \
    SG_HF_HEADS(0), \
    SG_HF_EPSILON("norm_eps|block_norm_eps", "attention.layer_norm_rms_epsilon"), \
    SG_HF_ONLY(SG_HK_BOOL, "conv_bias", 0), SG_HF_REQ(SG_H_CONV, "conv_L_cache", "shortconv.l_cache"), \
    SG_HF_CALC(SG_H_T7, MUL, SG_H_EMBD, SG_H_THREE, NULL)

/* The number in the configuration is two thirds more than what is built, unless it says otherwise. */
#define ADJUST \
    SG_HF_FLAG(SG_H_T0, "block_auto_adjust_ff_dim", 1, NULL), SG_HF_NUM(SG_H_T1, "block_ffn_dim_multiplier", 1, NULL), \
    SG_HF_OPT(SG_H_T2, "block_multiple_of", 256, NULL), SG_HF_CALC(SG_H_T3, MUL, SG_H_FF, SG_H_TWO, NULL), \
    SG_HF_CALC(SG_H_T3, FLOOR, SG_H_T3, SG_H_THREE, NULL), SG_HF_CALC(SG_H_T3, MUL, SG_H_T3, SG_H_T1, NULL), \
    SG_HF_CALC(SG_H_T3, FLOOR, SG_H_T3, SG_H_ONE, NULL), SG_HF_CALC(SG_H_T3, UP, SG_H_T3, SG_H_T2, NULL), \
    SG_HF_CALC(SG_H_FF, IF, SG_H_T3, SG_H_T0, NULL)

static const sg_hf_key dense_keys[] = { KEYS(ADJUST) };
static const sg_hf_key moe_keys[] = {
    KEYS(SG_HF_CALC(SG_H_T0, OR, SG_H_NONE, SG_H_NONE, NULL)),
    SG_HF_OPT(SG_H_DENSE, "num_dense_layers", 0, "!leading_dense_block_count"), SG_HF_MOE_KEYS("num_experts", "num_experts_per_tok"),
    SG_HF_REQ(SG_H_EXPERT_FF, "moe_intermediate_size", "expert_feed_forward_length"), SG_HF_PUT(SG_H_TWO, SG_HK_U32, "expert_gating_func"),
    SG_HF_ONLY(SG_HK_BOOL, "norm_topk_prob", 1), SG_HF_ONLY(SG_HK_F32, "routed_scaling_factor", 1),
    SG_HF_FLAG(SG_H_EXPERT_BIAS, "use_expert_bias", 1, NULL),
};

#define MIXER \
    SG_HF_EMBEDDING, SG_HF_NORM("operator_norm", "attn_norm", 0), \
    SG_HF_MATRIX("self_attn.q_proj", "attn_q", SG_H_EMBD, SG_H_Q, .when = SG_HF_ATT), \
    SG_HF_MATRIX("self_attn.k_proj", "attn_k", SG_H_EMBD, SG_H_K, .when = SG_HF_ATT), \
    SG_HF_MATRIX("self_attn.v_proj", "attn_v", SG_H_EMBD, SG_H_K, .when = SG_HF_ATT), \
    SG_HF_MATRIX("self_attn.out_proj", "attn_output", SG_H_Q, SG_H_EMBD, .when = SG_HF_ATT), \
    SG_HF_QK_NORMS("q_layernorm", "k_layernorm", SG_HF_ATT), \
    SG_HF_MATRIX("conv.conv", "shortconv.conv", SG_H_CONV, SG_H_EMBD, .when = SG_HF_REC | SG_HF_F32, .shape = { SG_H_EMBD, SG_H_ONE, SG_H_CONV }), \
    SG_HF_MATRIX("conv.in_proj", "shortconv.in_proj", SG_H_EMBD, SG_H_T7, .when = SG_HF_REC), \
    SG_HF_MATRIX("conv.out_proj", "shortconv.out_proj", SG_H_EMBD, SG_H_EMBD, .when = SG_HF_REC), \
    SG_HF_NORM("ffn_norm", "ffn_norm", 0), \
    SG_HF_MATRIX("feed_forward.w1", "ffn_gate", SG_H_EMBD, SG_H_FF, .when = SG_HF_MLP), \
    SG_HF_MATRIX("feed_forward.w3", "ffn_up", SG_H_EMBD, SG_H_FF, .when = SG_HF_MLP), \
    SG_HF_MATRIX("feed_forward.w2", "ffn_down", SG_H_FF, SG_H_EMBD, .when = SG_HF_MLP)
#define OUTPUT \
    { "embedding_norm.weight", "token_embd_norm.weight", { SG_H_EMBD } }, \
    { "/lm_head.weight", "output.weight", { SG_H_EMBD, SG_H_VOCAB }, .flag = SG_H_UNTIED }

static const sg_hf_tensor dense_tensors[] = { MIXER, OUTPUT };
static const sg_hf_tensor moe_tensors[] = {
    MIXER, SG_HF_ROUTER("feed_forward.gate"), SG_HF_EXPERTS("feed_forward.experts", "w1", "w3", "w2", SG_H_EXPERT_FF),
    SG_HF_VECTOR("feed_forward.expert_bias", "exp_probs_b.bias", SG_H_EXPERTS, .when = SG_HF_MOE, .flag = SG_H_EXPERT_BIAS), OUTPUT,
};

#define LFM2(class, gguf_, keys_, tensors_) \
    { .name = class, .gguf = gguf_, .prefix = "model.", .act = "silu", .flags = SG_HF_TIED | SG_HF_KV_LIST, .theta = 1000000, \
      .recurrent = "conv", \
      .keys = keys_, .n_keys = sizeof keys_ / sizeof *keys_, .tensors = tensors_, .n_tensors = sizeof tensors_ / sizeof *tensors_ }

static const sg_hf_arch archs[] = {
    LFM2("Lfm2ForCausalLM", "lfm2", dense_keys, dense_tensors),
    LFM2("Lfm2MoeForCausalLM", "lfm2moe", moe_keys, moe_tensors),
};
const sg_hf_family sg_hf_lfm2 = { SG_HF_N(archs) };
