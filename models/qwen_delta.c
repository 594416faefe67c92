/* Qwen3-Next and Qwen3.5 / 3.6 with experts: three layers of gated delta net (arXiv 2412.06464), then one of gated attention, and so on. */
#include "models/rules.h"

#define DELTA_TENSORS                                                                                                    \
    SG_TENSORS_EMBEDDING, SG_VEC(SG_L_ATTN_NORM, "blk.%u.attn_norm.weight", SG_D_EMBD, SG_ALWAYS),                       \
    SG_MAT(SG_L_Q, "blk.%u.attn_q.weight", SG_D_EMBD, SG_D_Q2, SG_IN_ATTENTION),                                         \
    SG_MAT(SG_L_K, "blk.%u.attn_k.weight", SG_D_EMBD, SG_D_K, SG_IN_ATTENTION),                                          \
    SG_MAT(SG_L_V, "blk.%u.attn_v.weight", SG_D_EMBD, SG_D_V, SG_IN_ATTENTION), SG_TENSORS_OUTPUT, SG_TENSORS_HEAD_NORMS, \
    SG_MAT(SG_L_QKV, "blk.%u.attn_qkv.weight", SG_D_EMBD, SG_D_DELTA_QKV, SG_IN_DELTA),                                  \
    SG_MAT(SG_L_DELTA_Z, "blk.%u.attn_gate.weight", SG_D_EMBD, SG_D_DELTA_V, SG_IN_DELTA),                               \
    SG_VECS(SG_L_CONV, "blk.%u.ssm_conv1d.weight", SG_D_TAPS, SG_D_DELTA_QKV, SG_IN_DELTA),                              \
    SG_VEC(SG_L_DELTA_DT, "blk.%u.ssm_dt.bias", SG_D_DELTA_HEADS, SG_IN_DELTA),                                          \
    SG_VEC(SG_L_DELTA_A, "blk.%u.ssm_a", SG_D_DELTA_HEADS, SG_IN_DELTA),                                                 \
    SG_VEC(SG_L_DELTA_NORM, "blk.%u.ssm_norm.weight", SG_D_DELTA_VDIM, SG_IN_DELTA),                                     \
    SG_MAT(SG_L_DELTA_OUT, "blk.%u.ssm_out.weight", SG_D_DELTA_V, SG_D_EMBD, SG_IN_DELTA),                               \
    SG_TENSORS_FFN_NORM_POST_ATTENTION, SG_TENSORS_EXPERTS, SG_TENSORS_SHARED, SG_TENSORS_SHARED_GATE

static const sg_tensor_rule qwen3next_tensors[] = {
    DELTA_TENSORS,
    SG_MAT(SG_L_DELTA_BA, "blk.%u.ssm_ba.weight", SG_D_EMBD, SG_D_DELTA_HEADS2, SG_IN_DELTA),
};
static const sg_tensor_rule qwen35moe_tensors[] = {
    DELTA_TENSORS,
    SG_MAT(SG_L_DELTA_B, "blk.%u.ssm_beta.weight", SG_D_EMBD, SG_D_DELTA_HEADS, SG_IN_DELTA),
    SG_MAT(SG_L_DELTA_ALPHA, "blk.%u.ssm_alpha.weight", SG_D_EMBD, SG_D_DELTA_HEADS, SG_IN_DELTA),
};

const sg_arch sg_arch_qwen3next = { .name = "qwen3next", SG_ARCH_TENSORS(qwen3next_tensors), .rope_pairing = SG_ROPE_HALVES,
                                    .mixers = SG_MIXERS_DELTA, .gated_attention = true, .weights_norm = true };
const sg_arch sg_arch_qwen35moe = { .name = "qwen35moe", SG_ARCH_TENSORS(qwen35moe_tensors), .rope_pairing = SG_ROPE_HALVES,
                                    .mixers = SG_MIXERS_DELTA, .gated_attention = true, .weights_norm = true, .value_heads_mod = true };
