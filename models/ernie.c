/* ERNIE 4.5 with experts (and shared ones) behind leading dense layers. Source: the ERNIE 4.5 technical report, section 2. */
#include "models/rules.h"

static const sg_tensor_rule ernie4_5_moe_tensors[] = { SG_TENSORS_EMBEDDING, SG_TENSORS_ATTENTION, SG_TENSORS_FFN_NORM, SG_TENSORS_GATED,
                                                       SG_TENSORS_EXPERTS, SG_TENSORS_SELECT, SG_TENSORS_SHARED };

const sg_arch sg_arch_ernie4_5_moe = { .name = "ernie4_5-moe", SG_ARCH_TENSORS(ernie4_5_moe_tensors), .weights_norm = true };
