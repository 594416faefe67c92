/* GPT-2 and OPT: learned positions, LayerNorm with biases, feed-forward blocks without a gate. */
#include "models/hf.h"

static const sg_hf_key gpt2_keys[] = {
    SG_HF_REQ(SG_H_EMBD, "n_embd|hidden_size", "embedding_length"),
    SG_HF_COUNT(SG_H_LAYERS, "n_layer|num_hidden_layers", 4096, "block_count"),
    SG_HF_COUNT(SG_H_HEADS, "n_head|num_attention_heads", 65536, "attention.head_count"),
    SG_HF_CALC(SG_H_KV_HEADS, OR, SG_H_HEADS, SG_H_NONE, "attention.head_count_kv"),
    SG_HF_COUNT(SG_H_VOCAB, "vocab_size", 16777216, "vocab_size"),
    SG_HF_REQ(SG_H_CTX, "n_positions|n_ctx|max_position_embeddings", NULL), SG_HF_CALC(SG_H_T0, MUL, SG_H_EMBD, SG_H_FOUR, NULL),
    SG_HF_OPT(SG_H_T1, "n_inner", 0, NULL), SG_HF_CALC(SG_H_FF, OR, SG_H_T1, SG_H_T0, "feed_forward_length"),
    SG_HF_NUM(SG_H_EPS, "layer_norm_epsilon", 1e-5, "attention.layer_norm_epsilon"), SG_HF_ONLY(SG_HK_BOOL, "scale_attn_weights", 1),
    SG_HF_ONLY(SG_HK_BOOL, "scale_attn_by_inverse_layer_idx", 0),
};

/* Its matrices (Conv1D) are stored as [n_in][n_out]. */
static const sg_hf_part turn_qkv[1] = { { "io", "oi", { SG_H_EMBD, SG_H_QKV } } }, turn_out[1] = { { "io", "oi", { SG_H_EMBD, SG_H_EMBD } } };
static const sg_hf_part turn_up[1] = { { "io", "oi", { SG_H_EMBD, SG_H_FF } } }, turn_down[1] = { { "io", "oi", { SG_H_FF, SG_H_EMBD } } };
#define TURNED(from, to, n_in, n_out, part) \
    { "h.#." from ".weight", "blk.#." to ".weight", { n_in, n_out }, .shape = { n_in, n_out }, .n_parts = 1, .parts = part }, \
    { "h.#." from ".bias", "blk.#." to ".bias", { n_out } }
#define BOTH(from, to) { from ".weight", to ".weight", { SG_H_EMBD } }, { from ".bias", to ".bias", { SG_H_EMBD } }

static const sg_hf_tensor gpt2_tensors[] = {
    { "wte.weight", "token_embd.weight", { SG_H_EMBD, SG_H_VOCAB } },
    { "wpe.weight", "position_embd.weight", { SG_H_EMBD, SG_H_CTX } },
    BOTH("h.#.ln_1", "blk.#.attn_norm"),
    TURNED("attn.c_attn", "attn_qkv", SG_H_EMBD, SG_H_QKV, turn_qkv),
    TURNED("attn.c_proj", "attn_output", SG_H_EMBD, SG_H_EMBD, turn_out),
    BOTH("h.#.ln_2", "blk.#.ffn_norm"),
    TURNED("mlp.c_fc", "ffn_up", SG_H_EMBD, SG_H_FF, turn_up),
    TURNED("mlp.c_proj", "ffn_down", SG_H_FF, SG_H_EMBD, turn_down),
    BOTH("ln_f", "output_norm"),
    { "/lm_head.weight", "output.weight", { SG_H_EMBD, SG_H_VOCAB }, .flag = SG_H_UNTIED },
};

static const sg_hf_arch gpt2[] = {
    { .name = "GPT2LMHeadModel", .gguf = "gpt2", .prefix = "transformer.|", .act = "gelu", .flags = SG_HF_NO_ROPE | SG_HF_TIED,
      .ignore = ".attn.bias|.attn.masked_bias", .keys = gpt2_keys, .n_keys = sizeof gpt2_keys / sizeof *gpt2_keys,
      .tensors = gpt2_tensors, .n_tensors = sizeof gpt2_tensors / sizeof *gpt2_tensors },
};
const sg_hf_family sg_hf_gpt2 = { SG_HF_N(gpt2) };

static const sg_hf_key opt_keys[] = {
    SG_HF_SIZES, SG_HF_REQ(SG_H_FF, "ffn_dim", "feed_forward_length"),
    SG_HF_CALC(SG_H_KV_HEADS, OR, SG_H_HEADS, SG_H_NONE, "attention.head_count_kv"),
    SG_HF_NUM(SG_H_EPS, "layer_norm_eps", 1e-5, "attention.layer_norm_epsilon"), SG_HF_ONLY(SG_HK_BOOL, "do_layer_norm_before", 1),
    SG_HF_ONLY(SG_HK_BOOL, "_remove_final_layer_norm", 0), SG_HF_ONLY(SG_HK_BOOL, "enable_bias", 1),
    SG_HF_ONLY(SG_HK_BOOL, "layer_norm_elementwise_affine", 1), SG_HF_OPT(SG_H_T0, "word_embed_proj_dim", 0, NULL),
    SG_HF_CALC(SG_H_T0, OR, SG_H_T0, SG_H_EMBD, NULL), { .kind = SG_HK_SAME, .a = SG_H_T0, .b = SG_H_EMBD, .json = "word_embed_proj_dim" },
    SG_HF_CALC(SG_H_T1, ADD, SG_H_CTX, SG_H_TWO, NULL),
};

/* The first two positions are never used. */
static const sg_hf_part positions[1] = { { "pd", "pd", { SG_H_T1, SG_H_EMBD }, 'p', SG_H_TWO, SG_H_CTX } };
#define LINEAR(from, to, n_in, n_out) \
    SG_HF_MATRIX(from, to, n_in, n_out), { "layers.#." from ".bias", "blk.#." to ".bias", { n_out } }

static const sg_hf_tensor opt_tensors[] = {
    SG_HF_EMBEDDING,
    { "embed_positions.weight", "position_embd.weight", { SG_H_EMBD, SG_H_CTX }, .shape = { SG_H_T1, SG_H_EMBD }, .n_parts = 1, .parts = positions },
    BOTH("layers.#.self_attn_layer_norm", "blk.#.attn_norm"),
    LINEAR("self_attn.q_proj", "attn_q", SG_H_EMBD, SG_H_Q),
    LINEAR("self_attn.k_proj", "attn_k", SG_H_EMBD, SG_H_K),
    LINEAR("self_attn.v_proj", "attn_v", SG_H_EMBD, SG_H_K),
    LINEAR("self_attn.out_proj", "attn_output", SG_H_Q, SG_H_EMBD),
    BOTH("layers.#.final_layer_norm", "blk.#.ffn_norm"),
    LINEAR("fc1", "ffn_up", SG_H_EMBD, SG_H_FF),
    LINEAR("fc2", "ffn_down", SG_H_FF, SG_H_EMBD),
    BOTH("final_layer_norm", "output_norm"),
    { "/lm_head.weight", "output.weight", { SG_H_EMBD, SG_H_VOCAB }, .flag = SG_H_UNTIED },
};

static const sg_hf_arch opt[] = {
    { .name = "OPTForCausalLM", .gguf = "opt", .prefix = "model.decoder.|decoder.", .act = "relu", .flags = SG_HF_NO_ROPE | SG_HF_TIED,
      .keys = opt_keys, .n_keys = sizeof opt_keys / sizeof *opt_keys, .tensors = opt_tensors,
      .n_tensors = sizeof opt_tensors / sizeof *opt_tensors },
};
const sg_hf_family sg_hf_opt = { SG_HF_N(opt) };
