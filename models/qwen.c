/* Qwen2 / Qwen2.5: a llama layer with biases on Q, K and V; Qwen3 drops the biases and normalises each head of Q and K before
 * rotary. Both turn halves of a head. Sources: arXiv 2407.10671, arXiv 2505.09388. */
#include "models/decoder_tensors.h"

static const sg_tensor_rule qwen2_tensors[] = { SG_DECODER_TENSORS };

static const sg_tensor_rule qwen3_tensors[] = {
    SG_DECODER_TENSORS,
    { SG_L_Q_NORM, "blk.%u.attn_q_norm.weight", SG_D_HEAD, SG_D_ONE, false },
    { SG_L_K_NORM, "blk.%u.attn_k_norm.weight", SG_D_HEAD, SG_D_ONE, false },
};

const sg_arch sg_arch_qwen2 = { "qwen2", SG_ROPE_HALVES, SG_FFN_SILU, qwen2_tensors, sizeof qwen2_tensors / sizeof *qwen2_tensors };
const sg_arch sg_arch_qwen3 = { "qwen3", SG_ROPE_HALVES, SG_FFN_SILU, qwen3_tensors, sizeof qwen3_tensors / sizeof *qwen3_tensors };
