/* Arcee (AFM): a llama layer whose feed-forward block has no gate, out = down(max(up x, 0)^2), so that its neurons are sparse by nature. */
#include "models/rules.h"

static const sg_tensor_rule arcee_tensors[] = { SG_TENSORS_EMBEDDING, SG_TENSORS_ATTENTION, SG_TENSORS_FFN_NORM, SG_TENSORS_UNGATED };

const sg_arch sg_arch_arcee = { .name = "arcee", SG_ARCH_TENSORS(arcee_tensors), .ffn_act = SG_FFN_RELU2 };
