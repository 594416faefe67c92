/* Nemotron 3 and 4: LayerNorm whose weight is stored without the 1 that is added to it, no gate. */
#include "models/hf.h"

static const sg_hf_key keys[] = {
    SG_HF_SIZES, SG_HF_FF, SG_HF_HEADS(0), SG_HF_NO_MLP_BIAS, SG_HF_ATT_BIAS(0),
    SG_HF_EPSILON("norm_eps|layer_norm_eps", "attention.layer_norm_epsilon"),
};

#define NORM(from, to) { from ".weight", to ".weight", { SG_H_EMBD }, .op = SG_HF_PLUS_ONE }, { from ".bias", to ".bias", { SG_H_EMBD } }

static const sg_hf_tensor tensors[] = {
    SG_HF_EMBEDDING, NORM("layers.#.input_layernorm", "blk.#.attn_norm"), SG_HF_QKVO,
    NORM("layers.#.post_attention_layernorm", "blk.#.ffn_norm"), SG_HF_MATRIX("mlp.up_proj", "ffn_up", SG_H_EMBD, SG_H_FF),
    SG_HF_MATRIX("mlp.down_proj", "ffn_down", SG_H_FF, SG_H_EMBD), NORM("norm", "output_norm"),
    { "/lm_head.weight", "output.weight", { SG_H_EMBD, SG_H_VOCAB }, .flag = SG_H_UNTIED },
};

static const sg_hf_arch archs[] = {
    { .name = "NemotronForCausalLM", .gguf = "nemotron", .prefix = "model.", .act = "relu2", .flags = SG_HF_PARTIAL, .partial = 0.5,
      .keys = keys, .n_keys = sizeof keys / sizeof *keys, .tensors = tensors, .n_tensors = sizeof tensors / sizeof *tensors },
};
const sg_hf_family sg_hf_nemotron = { SG_HF_N(archs) };
