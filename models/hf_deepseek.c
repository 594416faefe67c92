/* DeepSeek 2 and 3: latent attention in its absorbed form. Rotary pairs are neighbours here as in GGUF. */
#include "models/hf.h"

/* Scores: softmax (1) or sigmoid (2). */
#define KEYS(gating, scale, norm, dense) \
    SG_HF_SIZES, SG_HF_FF, SG_HF_RMS_EPS, SG_HF_ONLY(SG_HK_BOOL, "attention_bias", 0), \
    SG_HF_CALC(SG_H_KV_HEADS, OR, SG_H_ONE, SG_H_NONE, NULL), SG_HF_PUT(SG_H_ONE, SG_HK_U32, "attention.head_count_kv"), \
    SG_HF_OPT(SG_H_Q_LORA, "q_lora_rank", 0, "attention.q_lora_rank"), SG_HF_CALC(SG_H_T0, NOT, SG_H_Q_LORA, SG_H_NONE, NULL), \
    SG_HF_REQ(SG_H_KV_LORA, "kv_lora_rank", "attention.kv_lora_rank"), SG_HF_REQ(SG_H_NOPE, "qk_nope_head_dim", NULL), \
    SG_HF_REQ(SG_H_ROT, "qk_rope_head_dim", NULL), SG_HF_REQ(SG_H_V_HEAD, "v_head_dim", "attention.value_length_mla"), \
    SG_HF_CALC(SG_H_HEAD, ADD, SG_H_NOPE, SG_H_ROT, NULL), SG_HF_PUT(SG_H_HEAD, SG_HK_U32, "attention.key_length_mla"), \
    SG_HF_CALC(SG_H_KV_A, ADD, SG_H_KV_LORA, SG_H_ROT, NULL), SG_HF_PUT(SG_H_KV_A, SG_HK_U32, "attention.key_length"), \
    SG_HF_PUT(SG_H_KV_LORA, SG_HK_U32, "attention.value_length"), \
    SG_HF_CALC(SG_H_NOPE_V, ADD, SG_H_NOPE, SG_H_V_HEAD, NULL), SG_HF_CALC(SG_H_Q, MUL, SG_H_HEADS, SG_H_HEAD, NULL), \
    SG_HF_CALC(SG_H_T1, MUL, SG_H_HEADS, SG_H_NOPE_V, NULL), SG_HF_CALC(SG_H_T2, MUL, SG_H_HEADS, SG_H_V_HEAD, NULL), \
    SG_HF_MOE_KEYS("n_routed_experts", "num_experts_per_tok"), \
    SG_HF_REQ(SG_H_EXPERT_FF, "moe_intermediate_size", "expert_feed_forward_length"), \
    SG_HF_OPT(SG_H_DENSE, "first_k_dense_replace", dense, "!leading_dense_block_count"), SG_HF_ONLY(SG_HK_U32, "moe_layer_freq", 1), \
    SG_HF_OPT(SG_H_SHARED, "n_shared_experts", 0, "expert_shared_count"), \
    SG_HF_CALC(SG_H_SHARED_FF, MUL, SG_H_SHARED, SG_H_EXPERT_FF, NULL), \
    SG_HF_NUM(SG_H_NONE, "routed_scaling_factor", scale, "!expert_weights_scale"), \
    SG_HF_FLAG(SG_H_NONE, "norm_topk_prob", norm, "!expert_weights_norm"), SG_HF_PUT(gating, SG_HK_U32, "expert_gating_func"), \
    /* groups of experts, of which only some are chosen from; one group is none */ \
    SG_HF_OPT(SG_H_T3, "n_group", 1, NULL), SG_HF_OPT(SG_H_T4, "topk_group", 1, NULL), SG_HF_CALC(SG_H_T5, SUB, SG_H_T3, SG_H_ONE, NULL), \
    SG_HF_CALC(SG_H_T6, IF, SG_H_T3, SG_H_T5, NULL), SG_HF_PUT(SG_H_T6, SG_HK_U32, "expert_group_count"), \
    SG_HF_CALC(SG_H_T7, IF, SG_H_T4, SG_H_T5, NULL), SG_HF_PUT(SG_H_T7, SG_HK_U32, "expert_group_used_count"), \
    SG_HF_OPT(SG_H_NEXTN, "num_nextn_predict_layers", 0, NULL)

static const sg_hf_key v2_keys[] = { KEYS(SG_H_ONE, 1, 0, 0), SG_HF_NO_MLP_BIAS };
static const sg_hf_key v3_keys[] = { KEYS(SG_H_TWO, 2.5, 1, 3), SG_HF_ONLY(SG_HK_BOOL, "rope_interleave", 1) };

/* kv_b_proj holds, head by head, rows that make keys (x < nope) and rows that make values, from the latent r. */
static const sg_hf_part k_b[1] = { { "hxr", "hrx", { SG_H_HEADS, SG_H_NOPE_V, SG_H_KV_LORA }, 'x', SG_H_NONE, SG_H_NOPE } };
static const sg_hf_part v_b[1] = { { "hxr", "hxr", { SG_H_HEADS, SG_H_NOPE_V, SG_H_KV_LORA }, 'x', SG_H_NOPE, SG_H_V_HEAD } };

#define BEFORE_EXPERTS \
    SG_HF_EMBEDDING, SG_HF_NORM("input_layernorm", "attn_norm", 0), \
    SG_HF_MATRIX("self_attn.q_proj", "attn_q", SG_H_EMBD, SG_H_Q, .flag = SG_H_T0), \
    SG_HF_MATRIX("self_attn.q_a_proj", "attn_q_a", SG_H_EMBD, SG_H_Q_LORA, .flag = SG_H_Q_LORA), \
    SG_HF_VECTOR("self_attn.q_a_layernorm.weight", "attn_q_a_norm.weight", SG_H_Q_LORA, .flag = SG_H_Q_LORA), \
    SG_HF_MATRIX("self_attn.q_b_proj", "attn_q_b", SG_H_Q_LORA, SG_H_Q, .flag = SG_H_Q_LORA), \
    SG_HF_MATRIX("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa", SG_H_EMBD, SG_H_KV_A), \
    SG_HF_VECTOR("self_attn.kv_a_layernorm.weight", "attn_kv_a_norm.weight", SG_H_KV_LORA), \
    { "layers.#.self_attn.kv_b_proj.weight", "blk.#.attn_k_b.weight", { SG_H_NOPE, SG_H_KV_LORA, SG_H_HEADS }, \
      .shape = { SG_H_T1, SG_H_KV_LORA }, .n_parts = 1, .parts = k_b }, \
    { "layers.#.self_attn.kv_b_proj.weight", "blk.#.attn_v_b.weight", { SG_H_KV_LORA, SG_H_V_HEAD, SG_H_HEADS }, \
      .shape = { SG_H_T1, SG_H_KV_LORA }, .n_parts = 1, .parts = v_b }, \
    SG_HF_MATRIX("self_attn.o_proj", "attn_output", SG_H_T2, SG_H_EMBD), SG_HF_NORM("post_attention_layernorm", "ffn_norm", 0), \
    SG_HF_GATED, SG_HF_ROUTER("mlp.gate")
#define EXPERTS \
    SG_HF_EXPERTS("mlp.experts", "gate_proj", "up_proj", "down_proj", SG_H_EXPERT_FF), \
    SG_HF_SHARED_EXPERT("mlp.shared_experts", SG_H_SHARED), SG_HF_OUTPUT(0)

static const sg_hf_tensor v2_tensors[] = { BEFORE_EXPERTS, EXPERTS };
static const sg_hf_tensor v3_tensors[] = {
    BEFORE_EXPERTS, SG_HF_VECTOR("mlp.gate.e_score_correction_bias", "exp_probs_b.bias", SG_H_EXPERTS, .when = SG_HF_MOE), EXPERTS,
};

#define DEEPSEEK(class, keys_, tensors_) \
    { .name = class, .gguf = "deepseek2", .prefix = "model.", .act = "silu", .flags = SG_HF_MLA_YARN, \
      .keys = keys_, .n_keys = sizeof keys_ / sizeof *keys_, .tensors = tensors_, .n_tensors = sizeof tensors_ / sizeof *tensors_ }

static const sg_hf_arch archs[] = {
    DEEPSEEK("DeepseekV2ForCausalLM", v2_keys, v2_tensors),
    DEEPSEEK("DeepseekV3ForCausalLM", v3_keys, v3_tensors),
};
const sg_hf_family sg_hf_deepseek = { SG_HF_N(archs) };
