/* Qwen3-Next and the text part of Qwen3.5 with experts: gated delta-net layers, every fourth one with gated attention. Norm weights
 * are stored without the 1 that is added to them, but for the one inside a delta-net layer. */
#include "models/hf.h"

#define KEYS \
    SG_HF_SIZES, SG_HF_OPT(SG_H_FF, "intermediate_size", 0, NULL), SG_HF_HEADS(256), SG_HF_RMS_EPS, SG_HF_ATT_BIAS(0), \
    SG_HF_MOE_KEYS("num_experts", "num_experts_per_tok"), \
    SG_HF_REQ(SG_H_EXPERT_FF, "moe_intermediate_size", "expert_feed_forward_length"), \
    SG_HF_CALC(SG_H_FF, OR, SG_H_FF, SG_H_EXPERT_FF, "feed_forward_length"), \
    SG_HF_REQ(SG_H_SHARED_FF, "shared_expert_intermediate_size", "expert_shared_feed_forward_length"), \
    SG_HF_ONLY(SG_HK_BOOL, "norm_topk_prob", 1), SG_HF_ONLY(SG_HK_U32, "decoder_sparse_step", 1), \
    SG_HF_REQ(SG_H_CONV, "linear_conv_kernel_dim", "ssm.conv_kernel"), SG_HF_REQ(SG_H_HK, "linear_key_head_dim", "ssm.state_size"), \
    SG_HF_REQ(SG_H_HV, "linear_value_head_dim", NULL), SG_HF_REQ(SG_H_NK, "linear_num_key_heads", "ssm.group_count"), \
    SG_HF_REQ(SG_H_NV, "linear_num_value_heads", "ssm.time_step_rank"), \
    SG_HF_CALC(SG_H_T1, MUL, SG_H_HV, SG_H_NV, NULL), SG_HF_PUT(SG_H_T1, SG_HK_U32, "ssm.inner_size"), /* T1: of all values */ \
    SG_HF_OPT(SG_H_INTERVAL, "full_attention_interval", 4, "full_attention_interval"), \
    SG_HF_CALC(SG_H_R, DIV, SG_H_NV, SG_H_NK, NULL), \
    SG_HF_CALC(SG_H_T2, MUL, SG_H_HK, SG_H_TWO, NULL), SG_HF_CALC(SG_H_T3, MUL, SG_H_T2, SG_H_NK, NULL), /* all queries and keys */ \
    SG_HF_CALC(SG_H_T0, ADD, SG_H_T3, SG_H_T1, NULL) /* ... and values */

static const sg_hf_key next_keys[] = {
    KEYS, SG_HF_CALC(SG_H_T4, MUL, SG_H_R, SG_H_HV, NULL),            /* values of one key head */
    SG_HF_CALC(SG_H_T5, ADD, SG_H_T2, SG_H_T4, NULL), SG_HF_CALC(SG_H_T6, ADD, SG_H_T5, SG_H_T4, NULL), /* query, key, values; gate */
    SG_HF_CALC(SG_H_T7, MUL, SG_H_T6, SG_H_NK, NULL), SG_HF_CALC(SG_H_Q_LORA, MUL, SG_H_NV, SG_H_TWO, NULL),
};
static const sg_hf_key q35_keys[] = { KEYS };

#define NORM(from, to) SG_HF_NORM(from, to, SG_HF_PLUS_ONE)
#define ATTENTION \
    SG_HF_EMBEDDING, NORM("input_layernorm", "attn_norm"), \
    SG_HF_MATRIX("self_attn.q_proj", "attn_q", SG_H_EMBD, SG_H_Q2, .when = SG_HF_ATT), /* per head a query, then its gate */ \
    SG_HF_MATRIX("self_attn.k_proj", "attn_k", SG_H_EMBD, SG_H_K, .when = SG_HF_ATT), \
    SG_HF_MATRIX("self_attn.v_proj", "attn_v", SG_H_EMBD, SG_H_K, .when = SG_HF_ATT), \
    SG_HF_MATRIX("self_attn.o_proj", "attn_output", SG_H_Q, SG_H_EMBD, .when = SG_HF_ATT), \
    SG_HF_VECTOR("self_attn.q_norm.weight", "attn_q_norm.weight", SG_H_HEAD, .when = SG_HF_ATT, .op = SG_HF_PLUS_ONE), \
    SG_HF_VECTOR("self_attn.k_norm.weight", "attn_k_norm.weight", SG_H_HEAD, .when = SG_HF_ATT, .op = SG_HF_PLUS_ONE), \
    NORM("post_attention_layernorm", "post_attention_norm")
#define EXPERTS \
    SG_HF_ROUTER("mlp.gate"), SG_HF_FUSED_OR_EXPERTS("mlp.experts", "gate_proj", "up_proj", "down_proj"), \
    SG_HF_VECTOR("mlp.shared_expert_gate.weight", "ffn_gate_inp_shexp.weight", SG_H_EMBD, .shape = { SG_H_ONE, SG_H_EMBD }), \
    SG_HF_SHARED_EXPERT("mlp.shared_expert", 0), SG_HF_OUTPUT(SG_HF_PLUS_ONE)
#define REC(from, to, ...) { "layers.#.linear_attn." from, "blk.#." to, __VA_ARGS__ }

/* in_proj_qkvz holds, key head by key head, its query, its key, its values and their gates. */
#define CUT(at, n) { "kxd", "kxd", { SG_H_NK, SG_H_T6, SG_H_EMBD }, 'x', at, n }
static const sg_hf_part next_qkv[3] = { CUT(SG_H_NONE, SG_H_HK), CUT(SG_H_HK, SG_H_HK), CUT(SG_H_T2, SG_H_T4) };
static const sg_hf_part next_z[1] = { CUT(SG_H_T5, SG_H_T4) };

static const sg_hf_tensor next_tensors[] = {
    ATTENTION,
    REC("in_proj_qkvz.weight", "attn_qkv.weight", { SG_H_EMBD, SG_H_T0 }, SG_HF_REC, .shape = { SG_H_T7, SG_H_EMBD }, .n_parts = 3,
        .parts = next_qkv),
    REC("in_proj_qkvz.weight", "attn_gate.weight", { SG_H_EMBD, SG_H_T1 }, SG_HF_REC, .shape = { SG_H_T7, SG_H_EMBD }, .n_parts = 1, .parts = next_z),
    REC("conv1d.weight", "ssm_conv1d.weight", { SG_H_CONV, SG_H_T0 }, SG_HF_REC | SG_HF_F32, .shape = { SG_H_T0, SG_H_ONE, SG_H_CONV }),
    REC("dt_bias", "ssm_dt.bias", { SG_H_NV }, SG_HF_REC),
    REC("A_log", "ssm_a", { SG_H_NV }, SG_HF_REC, .op = SG_HF_NEG_EXP),
    REC("in_proj_ba.weight", "ssm_ba.weight", { SG_H_EMBD, SG_H_Q_LORA }, SG_HF_REC | SG_HF_F32),
    REC("norm.weight", "ssm_norm.weight", { SG_H_HV }, SG_HF_REC),
    REC("out_proj.weight", "ssm_out.weight", { SG_H_T1, SG_H_EMBD }, SG_HF_REC),
    EXPERTS,
};

/* Here value heads are regrouped for GGUF: of R value heads per key head the first ones of all key heads come first. k: key head,
 * r: which of its value heads, v: values of a head. */
static const sg_hf_part q35_qkv[2] = { { "xd", "xd", { SG_H_T0, SG_H_EMBD }, 'x', SG_H_NONE, SG_H_T3 },
                                       { "krvd", "rkvd", { SG_H_NK, SG_H_R, SG_H_HV, SG_H_EMBD }, .skip = SG_H_T3 } };
static const sg_hf_part q35_z[1] = { { "krvd", "rkvd", { SG_H_NK, SG_H_R, SG_H_HV, SG_H_EMBD } } };
static const sg_hf_part q35_conv[2] = { { "xc", "xc", { SG_H_T0, SG_H_CONV }, 'x', SG_H_NONE, SG_H_T3 },
                                        { "krvc", "rkvc", { SG_H_NK, SG_H_R, SG_H_HV, SG_H_CONV }, .skip = SG_H_T3 } };
static const sg_hf_part q35_head[1] = { { "kr", "rk", { SG_H_NK, SG_H_R } } };
static const sg_hf_part q35_rows[1] = { { "krd", "rkd", { SG_H_NK, SG_H_R, SG_H_EMBD } } };
static const sg_hf_part q35_out[1] = { { "dkrv", "drkv", { SG_H_EMBD, SG_H_NK, SG_H_R, SG_H_HV } } };

static const sg_hf_tensor q35_tensors[] = {
    ATTENTION,
    REC("in_proj_qkv.weight", "attn_qkv.weight", { SG_H_EMBD, SG_H_T0 }, SG_HF_REC, .n_parts = 2, .parts = q35_qkv),
    REC("in_proj_z.weight", "attn_gate.weight", { SG_H_EMBD, SG_H_T1 }, SG_HF_REC, .n_parts = 1, .parts = q35_z),
    REC("conv1d.weight", "ssm_conv1d.weight", { SG_H_CONV, SG_H_T0 }, SG_HF_REC | SG_HF_F32, .shape = { SG_H_T0, SG_H_ONE, SG_H_CONV },
        .n_parts = 2, .parts = q35_conv),
    REC("dt_bias", "ssm_dt.bias", { SG_H_NV }, SG_HF_REC, .n_parts = 1, .parts = q35_head),
    REC("A_log", "ssm_a", { SG_H_NV }, SG_HF_REC, .op = SG_HF_NEG_EXP, .n_parts = 1, .parts = q35_head),
    REC("in_proj_b.weight", "ssm_beta.weight", { SG_H_EMBD, SG_H_NV }, SG_HF_REC | SG_HF_F32, .n_parts = 1, .parts = q35_rows),
    REC("in_proj_a.weight", "ssm_alpha.weight", { SG_H_EMBD, SG_H_NV }, SG_HF_REC | SG_HF_F32, .n_parts = 1, .parts = q35_rows),
    REC("norm.weight", "ssm_norm.weight", { SG_H_HV }, SG_HF_REC),
    REC("out_proj.weight", "ssm_out.weight", { SG_H_T1, SG_H_EMBD }, SG_HF_REC, .n_parts = 1, .parts = q35_out),
    EXPERTS,
};

#define QWEN(class, gguf_, keys_, tensors_) \
    { .name = class, .gguf = gguf_, .prefix = "model.|model.language_model.", .act = "silu", .flags = SG_HF_PARTIAL, .partial = 0.25, \
      .recurrent = "linear_attention", .ignore = "mtp.|visual.", \
      .keys = keys_, .n_keys = sizeof keys_ / sizeof *keys_, .tensors = tensors_, .n_tensors = sizeof tensors_ / sizeof *tensors_ }

static const sg_hf_arch archs[] = {
    QWEN("Qwen3NextForCausalLM", "qwen3next", next_keys, next_tensors),
    QWEN("Qwen3_5MoeForCausalLM", "qwen35moe", q35_keys, q35_tensors),
    QWEN("Qwen3_5MoeForConditionalGeneration", "qwen35moe", q35_keys, q35_tensors),
};
const sg_hf_family sg_hf_qwen_next = { SG_HF_N(archs) };
