/* Granite 3: a llama with four scales, with and without experts. */
#include "models/hf.h"

static const sg_hf_part shared_1st[1] = { { "sfd", "fd", { SG_H_TWO, SG_H_SHARED_FF, SG_H_EMBD }, 's', SG_H_NONE, SG_H_ONE } };
static const sg_hf_part shared_2nd[1] = { { "sfd", "fd", { SG_H_TWO, SG_H_SHARED_FF, SG_H_EMBD }, 's', SG_H_ONE, SG_H_ONE } };

#define SCALES \
    SG_HF_NUM(SG_H_NONE, "embedding_multiplier", 1, "embedding_scale"), SG_HF_NUM(SG_H_NONE, "residual_multiplier", 1, "residual_scale"), \
    SG_HF_NUM(SG_H_NONE, "logits_scaling", 1, "logit_scale"), SG_HF_NUM(SG_H_NONE, "attention_multiplier", 1, "attention.scale")
#define MOE_KEYS \
    SG_HF_DECODER, SG_HF_ATT_BIAS(0), SCALES, SG_HF_MOE_KEYS("num_local_experts", "num_experts_per_tok"), \
    SG_HF_CALC(SG_H_EXPERT_FF, OR, SG_H_FF, SG_H_NONE, NULL)

static const sg_hf_key dense_keys[] = { SG_HF_DECODER, SG_HF_ATT_BIAS(0), SCALES };
static const sg_hf_key moe_keys[] = { MOE_KEYS };
static const sg_hf_key shared_keys[] = {
    MOE_KEYS, SG_HF_REQ(SG_H_SHARED_FF, "shared_intermediate_size", "expert_shared_feed_forward_length"),
    SG_HF_CALC(SG_H_T0, MUL, SG_H_SHARED_FF, SG_H_TWO, NULL),
};

#define ATTENTION \
    SG_HF_EMBEDDING, SG_HF_NORM("input_layernorm", "attn_norm", 0), SG_HF_QKVO_PAIRS, SG_HF_NORM("post_attention_layernorm", "ffn_norm", 0)
#define HALF(name, part) \
    { "layers.#.block_sparse_moe.input_linear.weight", "blk.#." name ".weight", { SG_H_EMBD, SG_H_FF, SG_H_EXPERTS }, \
      .shape = { SG_H_EXPERTS, SG_H_FF2, SG_H_EMBD }, .n_parts = 1, .parts = part }
#define EXPERTS \
    SG_HF_ROUTER("block_sparse_moe.router.layer"), HALF("ffn_gate_exps", sg_hf_experts_1st), HALF("ffn_up_exps", sg_hf_experts_2nd), \
    { "layers.#.block_sparse_moe.output_linear.weight", "blk.#.ffn_down_exps.weight", { SG_H_FF, SG_H_EMBD, SG_H_EXPERTS } }
#define SHARED(name, part) \
    { "layers.#.shared_mlp.input_linear.weight", "blk.#." name ".weight", { SG_H_EMBD, SG_H_SHARED_FF }, .shape = { SG_H_T0, SG_H_EMBD }, \
      .n_parts = 1, .parts = part }

static const sg_hf_tensor dense_tensors[] = { ATTENTION, SG_HF_GATED, SG_HF_OUTPUT(0) };
static const sg_hf_tensor moe_tensors[] = { ATTENTION, EXPERTS, SG_HF_OUTPUT(0) };
static const sg_hf_tensor shared_tensors[] = {
    ATTENTION, EXPERTS, SHARED("ffn_gate_shexp", shared_1st), SHARED("ffn_up_shexp", shared_2nd),
    SG_HF_MATRIX("shared_mlp.output_linear", "ffn_down_shexp", SG_H_SHARED_FF, SG_H_EMBD), SG_HF_OUTPUT(0),
};

#define GRANITE(class, gguf_, keys_, tensors_) \
    { .name = class, .gguf = gguf_, .prefix = "model.", .act = "silu", \
      .keys = keys_, .n_keys = sizeof keys_ / sizeof *keys_, .tensors = tensors_, .n_tensors = sizeof tensors_ / sizeof *tensors_ }

static const sg_hf_arch archs[] = {
    GRANITE("GraniteForCausalLM", "granite", dense_keys, dense_tensors),
    GRANITE("GraniteMoeForCausalLM", "granitemoe", moe_keys, moe_tensors),
    GRANITE("GraniteMoeSharedForCausalLM", "granitemoe", shared_keys, shared_tensors),
};
const sg_hf_family sg_hf_granite = { SG_HF_N(archs) };
