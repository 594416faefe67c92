/* Phi-3: a llama with Q, K and V in one matrix, gate and up in another, and for long contexts a second set of rotary divisors.
 * Source: arXiv 2404.14219; LongRoPE, arXiv 2402.13753. */
#include "models/rules.h"

static const sg_tensor_rule phi3_tensors[] = {
    SG_TENSORS_EMBEDDING, SG_TENSORS_FUSED_ATTENTION, SG_TENSORS_FFN_NORM,
    SG_OPT_VEC(SG_T_ROPE_LONG, "rope_factors_long.weight", SG_D_ROT, SG_ALWAYS),
    SG_OPT_VEC(SG_T_ROPE_SHORT, "rope_factors_short.weight", SG_D_ROT, SG_ALWAYS),
    SG_MAT(SG_L_GATE_UP, "blk.%u.ffn_up.weight", SG_D_EMBD, SG_D_FF2, SG_IN_DENSE),
    SG_MAT(SG_L_DOWN, "blk.%u.ffn_down.weight", SG_D_FF, SG_D_EMBD, SG_IN_DENSE),
};

const sg_arch sg_arch_phi3 = { .name = "phi3", SG_ARCH_TENSORS(phi3_tensors), .rope_pairing = SG_ROPE_HALVES, .window = { .used = true } };
