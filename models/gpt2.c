/* GPT-2 (Radford et al. 2019) and OPT (arXiv 2205.01068): learned positions, LayerNorm, biases everywhere, no gate. OPT has ReLU, so its
 * neurons are sparse by nature. */
#include "models/rules.h"

static const sg_tensor_rule gpt2_tensors[] = { SG_TENSORS_EMBEDDING, SG_TENSORS_POSITIONS, SG_TENSORS_FUSED_ATTENTION, SG_TENSORS_FFN_NORM,
                                               SG_TENSORS_NORM_BIASES, SG_TENSORS_UNGATED };
static const sg_tensor_rule opt_tensors[] = { SG_TENSORS_EMBEDDING, SG_TENSORS_POSITIONS, SG_TENSORS_ATTENTION, SG_TENSORS_FFN_NORM,
                                              SG_TENSORS_NORM_BIASES, SG_TENSORS_UNGATED };

const sg_arch sg_arch_gpt2 = { .name = "gpt2", SG_ARCH_TENSORS(gpt2_tensors), .rope_pairing = SG_ROPE_NONE, .norm = SG_NORM_LAYER,
                               .ffn_act = SG_FFN_GELU };
const sg_arch sg_arch_opt = { .name = "opt", SG_ARCH_TENSORS(opt_tensors), .rope_pairing = SG_ROPE_NONE, .norm = SG_NORM_LAYER,
                              .ffn_act = SG_FFN_RELU };
