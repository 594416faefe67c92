/* gpt-oss: experts with biases and a clamped gate, attention with sinks, every other layer with a window. Source: arXiv 2508.10925. */
#include "models/rules.h"

static const sg_tensor_rule gpt_oss_tensors[] = {
    SG_TENSORS_EMBEDDING, SG_TENSORS_ATTENTION, SG_TENSORS_FFN_NORM_POST_ATTENTION, SG_TENSORS_EXPERTS,
    SG_VEC(SG_L_SINKS, "blk.%u.attn_sinks.weight", SG_D_HEADS, SG_IN_ATTENTION),
    SG_OPT_VEC(SG_L_ROUTER_BIAS, "blk.%u.ffn_gate_inp.bias", SG_D_EXPERTS, SG_IN_EXPERTS),
    SG_VECS(SG_L_GATE_EXPS_BIAS, "blk.%u.ffn_gate_exps.bias", SG_D_FF_EXP, SG_D_EXPERTS, SG_IN_EXPERTS),
    SG_VECS(SG_L_UP_EXPS_BIAS, "blk.%u.ffn_up_exps.bias", SG_D_FF_EXP, SG_D_EXPERTS, SG_IN_EXPERTS),
    SG_VECS(SG_L_DOWN_EXPS_BIAS, "blk.%u.ffn_down_exps.bias", SG_D_EMBD, SG_D_EXPERTS, SG_IN_EXPERTS),
};

const sg_arch sg_arch_gpt_oss = { .name = "gpt-oss", SG_ARCH_TENSORS(gpt_oss_tensors), .rope_pairing = SG_ROPE_HALVES,
                                  .ffn_act = SG_FFN_OAI, .scores = SG_SCORES_SOFTMAX_CHOSEN,
                                  .window = { .used = true, .period = 2, .full = 1 } };
