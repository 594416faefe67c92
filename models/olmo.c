/* OLMoE: experts without shared ones, weights as the softmax gives them; Q and K are normalised as a whole. Source: arXiv 2409.02060. */
#include "models/rules.h"

static const sg_tensor_rule olmoe_tensors[] = {
    SG_TENSORS_EMBEDDING, SG_TENSORS_ATTENTION, SG_TENSORS_FFN_NORM, SG_TENSORS_EXPERTS,
    SG_VEC(SG_L_Q_NORM, "blk.%u.attn_q_norm.weight", SG_D_Q, SG_IN_ATTENTION),
    SG_VEC(SG_L_K_NORM, "blk.%u.attn_k_norm.weight", SG_D_K, SG_IN_ATTENTION),
};

const sg_arch sg_arch_olmoe = { .name = "olmoe", SG_ARCH_TENSORS(olmoe_tensors), .rope_pairing = SG_ROPE_HALVES };
