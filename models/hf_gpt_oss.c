/* gpt-oss: experts with interleaved gate and up columns, one value per row of x; or as MXFP4 blocks with rows of their own. */
#include "models/hf.h"

static const sg_hf_key keys[] = {
    SG_HF_SIZES, SG_HF_FF, SG_HF_HEADS(64), SG_HF_RMS_EPS, SG_HF_ATT_BIAS(1),
    SG_HF_OPT(SG_H_WINDOW, "sliding_window", 128, "attention.sliding_window"),
    SG_HF_MOE_KEYS("num_local_experts|num_experts", "num_experts_per_tok|experts_per_token"),
    SG_HF_PUT(SG_H_FF, SG_HK_U32, "expert_feed_forward_length"), SG_HF_ONLY(SG_HK_F32, "swiglu_limit", 7),
    SG_HF_ONLY(SG_HK_F32, "swiglu_alpha", 1.702),
};

/* Experts e, values d of the input, neurons f, s: gate or up. */
static const sg_hf_part gate[1] = { { "edfs", "efd", { SG_H_EXPERTS, SG_H_EMBD, SG_H_FF, SG_H_TWO }, 's', SG_H_NONE, SG_H_ONE } };
static const sg_hf_part up[1] = { { "edfs", "efd", { SG_H_EXPERTS, SG_H_EMBD, SG_H_FF, SG_H_TWO }, 's', SG_H_ONE, SG_H_ONE } };
static const sg_hf_part down[1] = { { "efd", "edf", { SG_H_EXPERTS, SG_H_FF, SG_H_EMBD } } };
static const sg_hf_part gate_bias[1] = { { "efs", "ef", { SG_H_EXPERTS, SG_H_FF, SG_H_TWO }, 's', SG_H_NONE, SG_H_ONE } };
static const sg_hf_part up_bias[1] = { { "efs", "ef", { SG_H_EXPERTS, SG_H_FF, SG_H_TWO }, 's', SG_H_ONE, SG_H_ONE } };
static const sg_hf_part gate_rows[1] = { { "efsd", "efd", { SG_H_EXPERTS, SG_H_FF, SG_H_TWO, SG_H_EMBD }, 's', SG_H_NONE, SG_H_ONE } };
static const sg_hf_part up_rows[1] = { { "efsd", "efd", { SG_H_EXPERTS, SG_H_FF, SG_H_TWO, SG_H_EMBD }, 's', SG_H_ONE, SG_H_ONE } };

#define GATE_UP(name, part, rows, bias) \
    { "layers.#.mlp.experts.gate_up_proj", "blk.#." name ".weight", { SG_H_EMBD, SG_H_FF, SG_H_EXPERTS }, .flag = SG_H_NO_BLOCKS, \
      .shape = { SG_H_EXPERTS, SG_H_EMBD, SG_H_FF2 }, .n_parts = 1, .parts = part }, \
    { "layers.#.mlp.experts.gate_up_proj", "blk.#." name ".weight", { SG_H_EMBD, SG_H_FF, SG_H_EXPERTS }, SG_HF_MXFP4, SG_H_BLOCKS, \
      .shape = { SG_H_EXPERTS, SG_H_FF2, SG_H_EMBD }, .n_parts = 1, .parts = rows }, \
    { "layers.#.mlp.experts.gate_up_proj_bias", "blk.#." name ".bias", { SG_H_FF, SG_H_EXPERTS }, SG_HF_F32, \
      .shape = { SG_H_EXPERTS, SG_H_FF2 }, .n_parts = 1, .parts = bias }

static const sg_hf_tensor tensors[] = {
    SG_HF_EMBEDDING, SG_HF_NORM("input_layernorm", "attn_norm", 0), SG_HF_QKVO,
    SG_HF_VECTOR("self_attn.sinks", "attn_sinks.weight", SG_H_HEADS), SG_HF_NORM("post_attention_layernorm", "post_attention_norm", 0),
    SG_HF_ROUTER("mlp.router"), SG_HF_VECTOR("mlp.router.bias", "ffn_gate_inp.bias", SG_H_EXPERTS),
    GATE_UP("ffn_gate_exps", gate, gate_rows, gate_bias), GATE_UP("ffn_up_exps", up, up_rows, up_bias),
    { "layers.#.mlp.experts.down_proj", "blk.#.ffn_down_exps.weight", { SG_H_FF, SG_H_EMBD, SG_H_EXPERTS }, .flag = SG_H_NO_BLOCKS,
      .shape = { SG_H_EXPERTS, SG_H_FF, SG_H_EMBD }, .n_parts = 1, .parts = down },
    { "layers.#.mlp.experts.down_proj", "blk.#.ffn_down_exps.weight", { SG_H_FF, SG_H_EMBD, SG_H_EXPERTS }, SG_HF_MXFP4, SG_H_BLOCKS },
    { "layers.#.mlp.experts.down_proj_bias", "blk.#.ffn_down_exps.bias", { SG_H_EMBD, SG_H_EXPERTS }, SG_HF_F32 },
    SG_HF_OUTPUT(0),
};

static const sg_hf_arch archs[] = {
    { .name = "GptOssForCausalLM", .gguf = "gpt-oss", .prefix = "model.", .act = "oai", .theta = 150000, .pattern = 2,
      .flags = SG_HF_LOOSE_YARN | SG_HF_KNOWS_MXFP4, .keys = keys, .n_keys = sizeof keys / sizeof *keys, .tensors = tensors,
      .n_tensors = sizeof tensors / sizeof *tensors },
};
const sg_hf_family sg_hf_gpt_oss = { SG_HF_N(archs) };
