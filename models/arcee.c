/* Arcee (AFM): a llama layer whose feed-forward block has no gate, out = down(max(up x, 0)^2), so that its neurons are sparse by
 * nature. GGUF naming as in llama.cpp. */
#include "models/decoder_tensors.h"

static const sg_tensor_rule arcee_tensors[] = { SG_DECODER_TENSORS_UNGATED };

const sg_arch sg_arch_arcee = { "arcee", SG_ROPE_ADJACENT, SG_FFN_RELU2, arcee_tensors, sizeof arcee_tensors / sizeof *arcee_tensors };
