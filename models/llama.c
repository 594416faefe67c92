/* The llama family: Llama 1-3, Mistral 7B, TinyLlama, SmolLM, Yi and many fine-tunes; with experts Mixtral. Pre-norm blocks with
 * RMSNorm, rotary grouped-query attention and a gated feed-forward block. Sources: arXiv 2302.13971, arXiv 2401.04088.
 * Bamboo, TurboSparse and the ReLU llamas of PowerInfer are llamas with another activation (sparsegen.ffn_activation). */
#include "models/rules.h"

static const sg_tensor_rule llama_tensors[] = { SG_TENSORS_EMBEDDING, SG_TENSORS_ATTENTION, SG_TENSORS_FFN_NORM, SG_TENSORS_GATED,
                                                SG_TENSORS_EXPERTS };

const sg_arch sg_arch_llama = { .name = "llama", SG_ARCH_TENSORS(llama_tensors), .weights_norm = true };
