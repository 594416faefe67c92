/* SmallThinker: the router reads a layer's input, so that experts can be fetched while attention runs; ReGLU experts, sparse by nature;
 * every fourth layer sees the whole context, without positions. Source: arXiv 2507.20984. */
#include "models/rules.h"

static const sg_tensor_rule smallthinker_tensors[] = { SG_TENSORS_EMBEDDING, SG_TENSORS_ATTENTION, SG_TENSORS_FFN_NORM, SG_TENSORS_EXPERTS };

const sg_arch sg_arch_smallthinker = { .name = "smallthinker", SG_ARCH_TENSORS(smallthinker_tensors), .rope_pairing = SG_ROPE_HALVES,
                                       .ffn_act = SG_FFN_RELU, .weights_norm = true, .router_before = true,
                                       .window = { .used = true, .period = 4, .full = 0, .full_without_rope = true } };
