/* Qwen2 / Qwen2.5: a llama layer with biases on Q, K and V; Qwen3 drops the biases and normalises each head of Q and K before
 * rotary. Both turn halves of a head; both come with experts. Sources: arXiv 2407.10671, arXiv 2505.09388. */
#include "models/rules.h"

static const sg_tensor_rule qwen2_tensors[] = { SG_TENSORS_EMBEDDING, SG_TENSORS_ATTENTION, SG_TENSORS_FFN_NORM, SG_TENSORS_GATED };
static const sg_tensor_rule qwen2moe_tensors[] = { SG_TENSORS_EMBEDDING, SG_TENSORS_ATTENTION, SG_TENSORS_FFN_NORM, SG_TENSORS_EXPERTS,
                                                   SG_TENSORS_SHARED, SG_TENSORS_SHARED_GATE };
static const sg_tensor_rule qwen3_tensors[] = { SG_TENSORS_EMBEDDING, SG_TENSORS_ATTENTION, SG_TENSORS_HEAD_NORMS, SG_TENSORS_FFN_NORM,
                                                SG_TENSORS_GATED };
static const sg_tensor_rule qwen3moe_tensors[] = { SG_TENSORS_EMBEDDING, SG_TENSORS_ATTENTION, SG_TENSORS_HEAD_NORMS,
                                                   SG_TENSORS_FFN_NORM, SG_TENSORS_EXPERTS };

const sg_arch sg_arch_qwen2 = { .name = "qwen2", SG_ARCH_TENSORS(qwen2_tensors), .rope_pairing = SG_ROPE_HALVES };
const sg_arch sg_arch_qwen2moe = { .name = "qwen2moe", SG_ARCH_TENSORS(qwen2moe_tensors), .rope_pairing = SG_ROPE_HALVES };
const sg_arch sg_arch_qwen3 = { .name = "qwen3", SG_ARCH_TENSORS(qwen3_tensors), .rope_pairing = SG_ROPE_HALVES };
const sg_arch sg_arch_qwen3moe = { .name = "qwen3moe", SG_ARCH_TENSORS(qwen3moe_tensors), .rope_pairing = SG_ROPE_HALVES,
                                   .weights_norm = true };
