/* The llama family: Llama 1-3, Mistral 7B, TinyLlama, SmolLM, Yi and many fine-tunes. Pre-norm blocks with RMSNorm, rotary
 * grouped-query attention and a gated feed-forward block. Source: arXiv 2302.13971, GGUF naming as in llama.cpp. */
#include "models/decoder_tensors.h"

static const sg_tensor_rule llama_tensors[] = { SG_DECODER_TENSORS };

const sg_arch sg_arch_llama = { "llama", SG_ROPE_ADJACENT, SG_FFN_SILU, llama_tensors, sizeof llama_tensors / sizeof *llama_tensors };
