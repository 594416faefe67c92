/* Granite 3: a llama with factors on embeddings, both branches, scores and logits; with experts, and shared ones where the file has them.
 * Source: arXiv 2408.13359 and the models' configurations. */
#include "models/rules.h"

static const sg_tensor_rule granite_tensors[] = { SG_TENSORS_EMBEDDING, SG_TENSORS_ATTENTION, SG_TENSORS_FFN_NORM, SG_TENSORS_GATED };
static const sg_tensor_rule granitemoe_tensors[] = { SG_TENSORS_EMBEDDING, SG_TENSORS_ATTENTION, SG_TENSORS_FFN_NORM, SG_TENSORS_EXPERTS,
                                                     SG_TENSORS_SHARED };

const sg_arch sg_arch_granite = { .name = "granite", SG_ARCH_TENSORS(granite_tensors) };
const sg_arch sg_arch_granitemoe = { .name = "granitemoe", SG_ARCH_TENSORS(granitemoe_tensors), .weights_norm = true };
