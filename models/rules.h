/* Rows of tensor tables, and the groups of tensors that most families share. Names are those of GGUF files as llama.cpp writes them
 * (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#standardized-tensor-names). */
#ifndef SG_MODELS_RULES_H
#define SG_MODELS_RULES_H

#include "models/model.h"

/* A matrix of `out` rows of `in` values; N of them one behind the other; values: n, or n x m of them. OPT_: may be absent. */
#define SG_MAT(slot, name, in, out, when) { slot, name, { in, out }, when, false, false }
#define SG_OPT_MAT(slot, name, in, out, when) { slot, name, { in, out }, when, false, true }
#define SG_MATS(slot, name, in, out, n, when) { slot, name, { in, out, n }, when, false, false }
#define SG_OPT_MATS(slot, name, in, out, n, when) { slot, name, { in, out, n }, when, false, true }
#define SG_VEC(slot, name, n, when) { slot, name, { n }, when, true, false }
#define SG_OPT_VEC(slot, name, n, when) { slot, name, { n }, when, true, true }
#define SG_VECS(slot, name, n, m, when) { slot, name, { n, m }, when, true, false }
#define SG_OPT_VECS(slot, name, n, m, when) { slot, name, { n, m }, when, true, true }

#define SG_TENSORS_EMBEDDING                                                              \
    SG_MAT(SG_T_TOKEN_EMBD, "token_embd.weight", SG_D_EMBD, SG_D_VOCAB, SG_ALWAYS),       \
    SG_VEC(SG_T_OUTPUT_NORM, "output_norm.weight", SG_D_EMBD, SG_ALWAYS),                 \
    SG_OPT_MAT(SG_T_OUTPUT, "output.weight", SG_D_EMBD, SG_D_VOCAB, SG_ALWAYS),           \
    SG_OPT_VEC(SG_T_ROPE_FREQS, "rope_freqs.weight", SG_D_ROT, SG_ALWAYS)

#define SG_TENSORS_POSITIONS SG_MAT(SG_T_POS_EMBD, "position_embd.weight", SG_D_EMBD, SG_D_CTX, SG_ALWAYS)

#define SG_TENSORS_OUTPUT                                                                 \
    SG_MAT(SG_L_O, "blk.%u.attn_output.weight", SG_D_ATT, SG_D_EMBD, SG_IN_ATTENTION),    \
    SG_OPT_VEC(SG_L_O_BIAS, "blk.%u.attn_output.bias", SG_D_EMBD, SG_IN_ATTENTION)

#define SG_TENSORS_ATTENTION SG_VEC(SG_L_ATTN_NORM, "blk.%u.attn_norm.weight", SG_D_EMBD, SG_ALWAYS), SG_TENSORS_QKVO
#define SG_TENSORS_QKVO                                                                   \
    SG_MAT(SG_L_Q, "blk.%u.attn_q.weight", SG_D_EMBD, SG_D_Q, SG_IN_ATTENTION),           \
    SG_MAT(SG_L_K, "blk.%u.attn_k.weight", SG_D_EMBD, SG_D_K, SG_IN_ATTENTION),           \
    SG_MAT(SG_L_V, "blk.%u.attn_v.weight", SG_D_EMBD, SG_D_V, SG_IN_ATTENTION),           \
    SG_OPT_VEC(SG_L_Q_BIAS, "blk.%u.attn_q.bias", SG_D_Q, SG_IN_ATTENTION),               \
    SG_OPT_VEC(SG_L_K_BIAS, "blk.%u.attn_k.bias", SG_D_K, SG_IN_ATTENTION),               \
    SG_OPT_VEC(SG_L_V_BIAS, "blk.%u.attn_v.bias", SG_D_V, SG_IN_ATTENTION),               \
    SG_TENSORS_OUTPUT

/* Q, K and V in one matrix. */
#define SG_TENSORS_FUSED_ATTENTION                                                        \
    SG_VEC(SG_L_ATTN_NORM, "blk.%u.attn_norm.weight", SG_D_EMBD, SG_ALWAYS),              \
    SG_MAT(SG_L_QKV, "blk.%u.attn_qkv.weight", SG_D_EMBD, SG_D_QKV, SG_IN_ATTENTION),     \
    SG_OPT_VEC(SG_L_QKV_BIAS, "blk.%u.attn_qkv.bias", SG_D_QKV, SG_IN_ATTENTION),         \
    SG_TENSORS_OUTPUT

#define SG_TENSORS_HEAD_NORMS                                                             \
    SG_VEC(SG_L_Q_NORM, "blk.%u.attn_q_norm.weight", SG_D_HEAD, SG_IN_ATTENTION),         \
    SG_VEC(SG_L_K_NORM, "blk.%u.attn_k_norm.weight", SG_D_HEAD, SG_IN_ATTENTION)

#define SG_TENSORS_NORM_BIASES                                                            \
    SG_OPT_VEC(SG_T_OUTPUT_NORM_BIAS, "output_norm.bias", SG_D_EMBD, SG_ALWAYS),          \
    SG_OPT_VEC(SG_L_ATTN_NORM_BIAS, "blk.%u.attn_norm.bias", SG_D_EMBD, SG_ALWAYS),       \
    SG_OPT_VEC(SG_L_FFN_NORM_BIAS, "blk.%u.ffn_norm.bias", SG_D_EMBD, SG_ALWAYS)

#define SG_TENSORS_FFN_NORM SG_VEC(SG_L_FFN_NORM, "blk.%u.ffn_norm.weight", SG_D_EMBD, SG_ALWAYS)
/* Some families call the norm before the feed-forward block so. */
#define SG_TENSORS_FFN_NORM_POST_ATTENTION SG_VEC(SG_L_FFN_NORM, "blk.%u.post_attention_norm.weight", SG_D_EMBD, SG_ALWAYS)

/* Norms of what both halves of a layer give. */
#define SG_TENSORS_POST_NORMS                                                             \
    SG_VEC(SG_L_ATTN_POST_NORM, "blk.%u.post_attention_norm.weight", SG_D_EMBD, SG_ALWAYS), \
    SG_VEC(SG_L_FFN_POST_NORM, "blk.%u.post_ffw_norm.weight", SG_D_EMBD, SG_ALWAYS)

/* out = down(act(up x)), and with a gate; biases where a file has them. */
#define SG_TENSORS_UNGATED                                                                \
    SG_MAT(SG_L_UP, "blk.%u.ffn_up.weight", SG_D_EMBD, SG_D_FF, SG_IN_DENSE),             \
    SG_MAT(SG_L_DOWN, "blk.%u.ffn_down.weight", SG_D_FF, SG_D_EMBD, SG_IN_DENSE),         \
    SG_OPT_VEC(SG_L_UP_BIAS, "blk.%u.ffn_up.bias", SG_D_FF, SG_IN_DENSE),                 \
    SG_OPT_VEC(SG_L_DOWN_BIAS, "blk.%u.ffn_down.bias", SG_D_EMBD, SG_IN_DENSE)

#define SG_TENSORS_GATED                                                                  \
    SG_MAT(SG_L_GATE, "blk.%u.ffn_gate.weight", SG_D_EMBD, SG_D_FF, SG_IN_DENSE),         \
    SG_OPT_VEC(SG_L_GATE_BIAS, "blk.%u.ffn_gate.bias", SG_D_FF, SG_IN_DENSE),             \
    SG_TENSORS_UNGATED

/* Routers are not optional by themselves: describe.c. */
#define SG_TENSORS_EXPERTS                                                                                     \
    SG_OPT_MAT(SG_L_ROUTER, "blk.%u.ffn_gate_inp.weight", SG_D_EMBD, SG_D_EXPERTS, SG_IN_EXPERTS),             \
    SG_OPT_MAT(SG_T_PREGATE, "sparsegen.pregate.weight", SG_D_EMBD, SG_D_ROUTES, SG_ALWAYS),                   \
    SG_OPT_VEC(SG_T_PREGATE_BIAS, "sparsegen.pregate.bias", SG_D_ROUTES, SG_ALWAYS),                           \
    SG_OPT_MAT(SG_L_AHEAD, "blk.%u.sparsegen.ahead.weight", SG_D_EMBD, SG_D_EXPERTS, SG_IN_EXPERTS),           \
    SG_OPT_VEC(SG_L_AHEAD_BIAS, "blk.%u.sparsegen.ahead.bias", SG_D_EXPERTS, SG_IN_EXPERTS),                   \
    SG_MATS(SG_L_GATE_EXPS, "blk.%u.ffn_gate_exps.weight", SG_D_EMBD, SG_D_FF_EXP, SG_D_EXPERTS, SG_IN_EXPERTS), \
    SG_MATS(SG_L_UP_EXPS, "blk.%u.ffn_up_exps.weight", SG_D_EMBD, SG_D_FF_EXP, SG_D_EXPERTS, SG_IN_EXPERTS),   \
    SG_MATS(SG_L_DOWN_EXPS, "blk.%u.ffn_down_exps.weight", SG_D_FF_EXP, SG_D_EMBD, SG_D_EXPERTS, SG_IN_EXPERTS)

#define SG_TENSORS_SELECT SG_OPT_VEC(SG_L_ROUTER_SELECT, "blk.%u.exp_probs_b.bias", SG_D_EXPERTS, SG_IN_EXPERTS)

/* Experts that every token uses, as one block of n_ff_shexp neurons. */
#define SG_TENSORS_SHARED                                                                                  \
    SG_OPT_MAT(SG_L_GATE_SHEXP, "blk.%u.ffn_gate_shexp.weight", SG_D_EMBD, SG_D_FF_SHEXP, SG_IN_EXPERTS),  \
    SG_OPT_MAT(SG_L_UP_SHEXP, "blk.%u.ffn_up_shexp.weight", SG_D_EMBD, SG_D_FF_SHEXP, SG_IN_EXPERTS),      \
    SG_OPT_MAT(SG_L_DOWN_SHEXP, "blk.%u.ffn_down_shexp.weight", SG_D_FF_SHEXP, SG_D_EMBD, SG_IN_EXPERTS)

#define SG_TENSORS_SHARED_GATE SG_MAT(SG_L_SHARED_GATE, "blk.%u.ffn_gate_inp_shexp.weight", SG_D_EMBD, SG_D_ONE, SG_IN_EXPERTS)

#endif
