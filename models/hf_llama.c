/* Llama and its like: neighbours turn in GGUF, halves in the source. Mixtral, and Bamboo and TurboSparse, whose gate and up both
 * go through ReLU (arXiv 2406.05955). */
#include "models/hf.h"

static const sg_hf_key llama_keys[] = { SG_HF_DECODER, SG_HF_ATT_BIAS(0) };
static const sg_hf_key mixtral_keys[] = { SG_HF_DECODER, SG_HF_MOE_KEYS("num_local_experts", "num_experts_per_tok") };

#define ATTENTION SG_HF_NORM("input_layernorm", "attn_norm", 0), SG_HF_QKVO_PAIRS, SG_HF_NORM("post_attention_layernorm", "ffn_norm", 0)

static const sg_hf_tensor llama_tensors[] = { SG_HF_EMBEDDING, ATTENTION, SG_HF_GATED, SG_HF_OUTPUT(0) };
static const sg_hf_tensor mixtral_tensors[] = { SG_HF_EMBEDDING, ATTENTION, SG_HF_ROUTER("block_sparse_moe.gate"),
                                                SG_HF_EXPERTS("block_sparse_moe.experts", "w1", "w3", "w2", SG_H_FF),
                                                SG_HF_OUTPUT(0) };
static const sg_hf_tensor arcee_tensors[] = { SG_HF_EMBEDDING, ATTENTION,
                                              SG_HF_MATRIX("mlp.up_proj", "ffn_up", SG_H_EMBD, SG_H_FF),
                                              SG_HF_MATRIX("mlp.down_proj", "ffn_down", SG_H_FF, SG_H_EMBD), SG_HF_OUTPUT(0) };

#define LLAMA(class, gguf_, act_, flags_, keys_, tensors_) \
    { .name = class, .gguf = gguf_, .prefix = "model.", .act = act_, .flags = (flags_), \
      .keys = keys_, .n_keys = sizeof keys_ / sizeof *keys_, .tensors = tensors_, .n_tensors = sizeof tensors_ / sizeof *tensors_ }

static const sg_hf_arch archs[] = {
    LLAMA("LlamaForCausalLM", "llama", "silu", 0, llama_keys, llama_tensors),
    LLAMA("MistralForCausalLM", "llama", "silu", SG_HF_CLIPS, llama_keys, llama_tensors),
    LLAMA("MixtralForCausalLM", "llama", "silu", SG_HF_CLIPS, mixtral_keys, mixtral_tensors),
    LLAMA("ArceeForCausalLM", "arcee", "relu2", 0, llama_keys, arcee_tensors),
    LLAMA("BambooForCausalLM", "llama", "drelu", SG_HF_CLIPS | SG_HF_RENAMES_ACT, llama_keys, llama_tensors),
    LLAMA("TurboSparseMistralForCausalLM", "llama", "drelu", SG_HF_CLIPS | SG_HF_RENAMES_ACT, llama_keys, llama_tensors),
    LLAMA("TurboSparseMixtralForCausalLM", "llama", "drelu", SG_HF_CLIPS | SG_HF_RENAMES_ACT, mixtral_keys, mixtral_tensors),
};
const sg_hf_family sg_hf_llama = { SG_HF_N(archs) };
