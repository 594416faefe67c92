/* Gemma 1 to 3 (text): norm weights are stored without the 1 that is added to them. */
#include "models/hf.h"

#define SCALE /* scores are divided by the root of a number of its own */ \
    SG_HF_NUM(SG_H_T0, "query_pre_attn_scalar", 256, NULL), \
    { .kind = SG_HK_POWER, .value = SG_H_T1, .a = SG_H_T0, .fallback = -0.5, .gguf = "attention.scale" }
#define NO_BIAS SG_HF_ONLY(SG_HK_BOOL, "attention_bias", 0)

static const sg_hf_key gemma_keys[] = { SG_HF_SIZES, SG_HF_FF, SG_HF_HEADS(256), SG_HF_RMS_EPS, NO_BIAS };
static const sg_hf_key gemma2_keys[] = {
    SG_HF_SIZES, SG_HF_FF, SG_HF_HEADS(256), SG_HF_RMS_EPS, NO_BIAS, SCALE,
    SG_HF_OPT(SG_H_WINDOW, "sliding_window", 4096, "attention.sliding_window"),
    SG_HF_NUM(SG_H_NONE, "attn_logit_softcapping", 0, "attn_logit_softcapping"),
    SG_HF_NUM(SG_H_NONE, "final_logit_softcapping", 0, "final_logit_softcapping"),
};
/* Published files leave out what is the default. */
static const sg_hf_key gemma3_keys[] = {
    SG_HF_OPT(SG_H_EMBD, "hidden_size", 2304, "embedding_length"), SG_HF_OPT(SG_H_FF, "intermediate_size", 9216, "feed_forward_length"),
    SG_HF_COUNT_OR(SG_H_LAYERS, "num_hidden_layers", 4096, 26, "block_count"),
    SG_HF_COUNT_OR(SG_H_HEADS, "num_attention_heads", 65536, 8, "attention.head_count"),
    SG_HF_COUNT_OR(SG_H_KV_HEADS, "num_key_value_heads", 65536, 4, "attention.head_count_kv"),
    { .kind = SG_HK_U32, .value = SG_H_HEAD, .json = "head_dim", .lo = 1, .hi = 65536, .fallback = 256 },
    SG_HF_COUNT_OR(SG_H_VOCAB, "vocab_size", 16777216, 262208, "vocab_size"),
    { .kind = SG_HK_U32, .value = SG_H_CTX, .json = "max_position_embeddings", .lo = 1, .hi = 2147483647, .fallback = 131072 },
    { .kind = SG_HK_F32, .value = SG_H_EPS, .json = "rms_norm_eps", .lo = 1e-12, .hi = 1, .fallback = 1e-6,
      .gguf = "attention.layer_norm_rms_epsilon" },
    NO_BIAS, SCALE, SG_HF_OPT(SG_H_WINDOW, "sliding_window", 4096, "attention.sliding_window"),
    SG_HF_ONLY(SG_HK_F32, "attn_logit_softcapping", 0), SG_HF_ONLY(SG_HK_F32, "final_logit_softcapping", 0),
    SG_HF_ONLY(SG_HK_BOOL, "use_bidirectional_attention", 0),
};

#define NORM(from, to) SG_HF_NORM(from, to, SG_HF_PLUS_ONE)
#define BEFORE SG_HF_EMBEDDING, NORM("input_layernorm", "attn_norm"), SG_HF_QKVO
/* "post_attention" is behind attention here; in Gemma 1 the name stands for the norm before the feed-forward block. */
#define FOUR_NORMS \
    NORM("post_attention_layernorm", "post_attention_norm"), NORM("pre_feedforward_layernorm", "ffn_norm"), \
    NORM("post_feedforward_layernorm", "post_ffw_norm"), SG_HF_GATED, SG_HF_OUTPUT(SG_HF_PLUS_ONE)

static const sg_hf_tensor gemma_tensors[] = { BEFORE, NORM("post_attention_layernorm", "ffn_norm"), SG_HF_GATED,
                                              SG_HF_OUTPUT(SG_HF_PLUS_ONE) };
static const sg_hf_tensor gemma2_tensors[] = { BEFORE, FOUR_NORMS };
static const sg_hf_tensor gemma3_tensors[] = {
    BEFORE, SG_HF_VECTOR("self_attn.q_norm.weight", "attn_q_norm.weight", SG_H_HEAD, .op = SG_HF_PLUS_ONE),
    SG_HF_VECTOR("self_attn.k_norm.weight", "attn_k_norm.weight", SG_H_HEAD, .op = SG_HF_PLUS_ONE), FOUR_NORMS,
};

#define GEMMA(class, gguf_, pattern_, flags_, keys_, tensors_) \
    { .name = class, .gguf = gguf_, .prefix = "model.|language_model.model.|model.language_model.", .act = "gelu", \
      .flags = SG_HF_TIED | SG_HF_GELU_TANH | (flags_), .pattern = pattern_, .ignore = "vision_tower.|multi_modal_projector.", \
      .keys = keys_, .n_keys = sizeof keys_ / sizeof *keys_, .tensors = tensors_, .n_tensors = sizeof tensors_ / sizeof *tensors_ }

static const sg_hf_arch archs[] = {
    GEMMA("GemmaForCausalLM", "gemma", 0, 0, gemma_keys, gemma_tensors),
    GEMMA("Gemma2ForCausalLM", "gemma2", 2, 0, gemma2_keys, gemma2_tensors),
    GEMMA("Gemma3ForCausalLM", "gemma3", 6, SG_HF_LOCAL_ROPE, gemma3_keys, gemma3_tensors),
    GEMMA("Gemma3ForConditionalGeneration", "gemma3", 6, SG_HF_LOCAL_ROPE, gemma3_keys, gemma3_tensors),
};
const sg_hf_family sg_hf_gemma = { SG_HF_N(archs) };
