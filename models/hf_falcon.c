/* Falcon with rotary positions: attention and feed-forward block side by side, with one norm or one for each. */
#include "models/hf.h"

static const sg_hf_key keys[] = {
    SG_HF_REQ(SG_H_EMBD, "hidden_size|n_embed", "embedding_length"),
    SG_HF_COUNT(SG_H_LAYERS, "num_hidden_layers|n_layer", 4096, "block_count"),
    SG_HF_COUNT(SG_H_HEADS, "num_attention_heads|n_head", 65536, "attention.head_count"),
    SG_HF_COUNT(SG_H_VOCAB, "vocab_size", 16777216, "vocab_size"),
    SG_HF_OPT(SG_H_CTX, "max_position_embeddings", 2048, NULL),
    SG_HF_NUM(SG_H_EPS, "layer_norm_epsilon", 1e-5, "attention.layer_norm_epsilon"), SG_HF_CALC(SG_H_T0, MUL, SG_H_EMBD, SG_H_FOUR, NULL),
    SG_HF_OPT(SG_H_FF, "ffn_hidden_size", 0, NULL), SG_HF_CALC(SG_H_FF, OR, SG_H_FF, SG_H_T0, "feed_forward_length"),
    SG_HF_ONLY(SG_HK_BOOL, "alibi", 0), SG_HF_ONLY(SG_HK_BOOL, "bias", 0), SG_HF_ONLY(SG_HK_BOOL, "parallel_attn", 1),
    /* Heads of keys: as said in the new architecture; else one (multi_query) or as many as of queries. */
    SG_HF_FLAG(SG_H_T0, "new_decoder_architecture", 0, NULL), SG_HF_FLAG(SG_H_T1, "multi_query", 1, NULL),
    SG_HF_CALC(SG_H_T2, NOT, SG_H_T0, SG_H_NONE, NULL), SG_HF_CALC(SG_H_T3, MUL, SG_H_T1, SG_H_T2, NULL),
    SG_HF_OPT(SG_H_KV_HEADS, "num_kv_heads|n_head_kv", 0, NULL), SG_HF_CALC(SG_H_KV_HEADS, OR, SG_H_KV_HEADS, SG_H_HEADS, NULL),
    SG_HF_CALC(SG_H_KV_HEADS, IF, SG_H_HEADS, SG_H_T2, NULL), SG_HF_CALC(SG_H_KV_HEADS, IF, SG_H_ONE, SG_H_T3, NULL),
    SG_HF_PUT(SG_H_KV_HEADS, SG_HK_U32, "attention.head_count_kv"),
    SG_HF_CALC(SG_H_R, DIV, SG_H_HEADS, SG_H_KV_HEADS, NULL), SG_HF_CALC(SG_H_T4, ADD, SG_H_R, SG_H_ONE, NULL),
    SG_HF_CALC(SG_H_T5, ADD, SG_H_R, SG_H_TWO, NULL),
    /* T6: there are two norms; T7: there is one */
    SG_HF_OPT(SG_H_T6, "num_ln_in_parallel_attn", 0, NULL), SG_HF_CALC(SG_H_T7, ADD, SG_H_T0, SG_H_ONE, NULL),
    SG_HF_CALC(SG_H_T6, OR, SG_H_T6, SG_H_T7, NULL), SG_HF_CALC(SG_H_T6, SUB, SG_H_T6, SG_H_ONE, NULL),
    SG_HF_CALC(SG_H_T7, NOT, SG_H_T6, SG_H_NONE, NULL),
};

/* Groups g of some heads of queries, one of keys and one of values; h and d: a head's rows and their values. */
#define CUT(at, n) { "gxhd", "gxhd", { SG_H_KV_HEADS, SG_H_T5, SG_H_HEAD, SG_H_EMBD }, 'x', at, n }
static const sg_hf_part qkv[3] = { CUT(SG_H_NONE, SG_H_R), CUT(SG_H_R, SG_H_ONE), CUT(SG_H_T4, SG_H_ONE) };

#define NORM(from, to, ...) { from ".weight", to ".weight", { SG_H_EMBD }, __VA_ARGS__ }, { from ".bias", to ".bias", { SG_H_EMBD }, __VA_ARGS__ }
#define MATRIX(from, to, n_in, n_out) { "h.#." from ".weight", "blk.#." to ".weight", { n_in, n_out } }

static const sg_hf_tensor tensors[] = {
    { "word_embeddings.weight", "token_embd.weight", { SG_H_EMBD, SG_H_VOCAB } },
    NORM("h.#.input_layernorm", "blk.#.attn_norm", .flag = SG_H_T7),
    NORM("h.#.ln_mlp", "blk.#.attn_norm", .flag = SG_H_T6),
    NORM("h.#.ln_attn", "blk.#.attn_norm_2", .flag = SG_H_T6),
    { "h.#.self_attention.query_key_value.weight", "blk.#.attn_qkv.weight", { SG_H_EMBD, SG_H_QKV }, .n_parts = 3, .parts = qkv },
    MATRIX("self_attention.dense", "attn_output", SG_H_EMBD, SG_H_EMBD),
    MATRIX("mlp.dense_h_to_4h", "ffn_up", SG_H_EMBD, SG_H_FF),
    MATRIX("mlp.dense_4h_to_h", "ffn_down", SG_H_FF, SG_H_EMBD),
    NORM("ln_f", "output_norm", .flag = SG_H_ONE),
    { "/lm_head.weight", "output.weight", { SG_H_EMBD, SG_H_VOCAB }, .flag = SG_H_UNTIED },
};

#define FALCON(class) \
    { .name = class, .gguf = "falcon", .prefix = "transformer.", .act = "gelu", .act_unsaid = "gelu", .flags = SG_HF_TIED, \
      .keys = keys, .n_keys = sizeof keys / sizeof *keys, .tensors = tensors, .n_tensors = sizeof tensors / sizeof *tensors }

static const sg_hf_arch archs[] = { FALCON("FalconForCausalLM"), FALCON("RWForCausalLM") };
const sg_hf_family sg_hf_falcon = { SG_HF_N(archs) };
