/* OLMoE: experts without shared ones, weights as the softmax gives them; Q and K are normalised as a whole. Source: arXiv 2409.02060.
 * OLMo 2: dense, and what both halves of a layer give is normalised instead of what they get. Source: arXiv 2501.00656. */
#include "models/rules.h"

#define WHOLE_NORMS                                                            \
    SG_VEC(SG_L_Q_NORM, "blk.%u.attn_q_norm.weight", SG_D_Q, SG_IN_ATTENTION), \
    SG_VEC(SG_L_K_NORM, "blk.%u.attn_k_norm.weight", SG_D_K, SG_IN_ATTENTION)

static const sg_tensor_rule olmoe_tensors[] = { SG_TENSORS_EMBEDDING, SG_TENSORS_ATTENTION, WHOLE_NORMS, SG_TENSORS_FFN_NORM, SG_TENSORS_EXPERTS };
static const sg_tensor_rule olmo2_tensors[] = { SG_TENSORS_EMBEDDING, SG_TENSORS_QKVO, WHOLE_NORMS, SG_TENSORS_GATED, SG_TENSORS_POST_NORMS };

const sg_arch sg_arch_olmoe = { .name = "olmoe", SG_ARCH_TENSORS(olmoe_tensors), .rope_pairing = SG_ROPE_HALVES };
const sg_arch sg_arch_olmo2 = { .name = "olmo2", SG_ARCH_TENSORS(olmo2_tensors), .rope_pairing = SG_ROPE_HALVES };
