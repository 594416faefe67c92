/* Gemma: GELU, embeddings times sqrt(n_embd); Gemma 2 adds norms behind both halves, caps on scores and logits, and windows in every other
 * layer; Gemma 3 normalises the heads instead, and five of six layers have a window. Sources: arXiv 2403.08295, arXiv 2408.00118, arXiv
 * 2503.19786. */
#include "models/rules.h"

static const sg_tensor_rule gemma_tensors[] = { SG_TENSORS_EMBEDDING, SG_TENSORS_ATTENTION, SG_TENSORS_FFN_NORM, SG_TENSORS_GATED };
static const sg_tensor_rule gemma2_tensors[] = { SG_TENSORS_EMBEDDING, SG_TENSORS_ATTENTION, SG_TENSORS_FFN_NORM, SG_TENSORS_GATED,
                                                 SG_TENSORS_POST_NORMS };
static const sg_tensor_rule gemma3_tensors[] = { SG_TENSORS_EMBEDDING, SG_TENSORS_ATTENTION, SG_TENSORS_HEAD_NORMS, SG_TENSORS_FFN_NORM,
                                                 SG_TENSORS_GATED, SG_TENSORS_POST_NORMS };

const sg_arch sg_arch_gemma = { .name = "gemma", SG_ARCH_TENSORS(gemma_tensors), .rope_pairing = SG_ROPE_HALVES, .ffn_act = SG_FFN_GELU,
                                .embd_sqrt = true };
const sg_arch sg_arch_gemma2 = { .name = "gemma2", SG_ARCH_TENSORS(gemma2_tensors), .rope_pairing = SG_ROPE_HALVES,
                                 .ffn_act = SG_FFN_GELU, .embd_sqrt = true, .window = { .used = true, .period = 2, .full = 1 },
                                 .wide_layers = 46 };
const sg_arch sg_arch_gemma3 = { .name = "gemma3", SG_ARCH_TENSORS(gemma3_tensors), .rope_pairing = SG_ROPE_HALVES,
                                 .ffn_act = SG_FFN_GELU, .embd_sqrt = true,
                                 .window = { .used = true, .period = 6, .full = 5, .rope_base = 10000 }, .wide_layers = 62 };
