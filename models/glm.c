/* GLM-4.5 (Air): biases on Q, K and V, half of a head turns, leading dense layers, then experts beside a shared one. Source: arXiv
 * 2508.06471. */
#include "models/rules.h"

static const sg_tensor_rule glm4moe_tensors[] = {
    SG_TENSORS_EMBEDDING, SG_TENSORS_ATTENTION,
    SG_OPT_VEC(SG_L_Q_NORM, "blk.%u.attn_q_norm.weight", SG_D_HEAD, SG_IN_ATTENTION),
    SG_OPT_VEC(SG_L_K_NORM, "blk.%u.attn_k_norm.weight", SG_D_HEAD, SG_IN_ATTENTION),
    SG_TENSORS_FFN_NORM_POST_ATTENTION, SG_TENSORS_GATED, SG_TENSORS_EXPERTS, SG_TENSORS_SELECT, SG_TENSORS_SHARED,
};

const sg_arch sg_arch_glm4moe = { .name = "glm4moe", SG_ARCH_TENSORS(glm4moe_tensors), .rope_pairing = SG_ROPE_HALVES,
                                  .scores = SG_SCORES_SIGMOID, .weights_norm = true };
