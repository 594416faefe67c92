/* Nemotron-4 and Minitron: LayerNorm, half of a head turns, squared ReLU without a gate: sparse by nature. Source: arXiv 2402.16819. */
#include "models/rules.h"

static const sg_tensor_rule nemotron_tensors[] = { SG_TENSORS_EMBEDDING, SG_TENSORS_ATTENTION, SG_TENSORS_FFN_NORM, SG_TENSORS_NORM_BIASES,
                                                   SG_TENSORS_UNGATED };

const sg_arch sg_arch_nemotron = { .name = "nemotron", SG_ARCH_TENSORS(nemotron_tensors), .rope_pairing = SG_ROPE_HALVES,
                                   .norm = SG_NORM_LAYER, .ffn_act = SG_FFN_RELU2 };
