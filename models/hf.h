/* Models as Hugging Face publishes them, as data: which keys of config.json become which metadata, which tensors become which.
 * A family file in this folder (hf_*.c) holds nothing else; runtime/convert/hf*.c carries the tables out. */
#ifndef SG_MODELS_HF_H
#define SG_MODELS_HF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Numbers by name: what config.json says and what follows from it. Flags are 0 or 1. */
typedef enum sg_hf_value {
    SG_H_NONE = 0, /* always 0 */
    SG_H_ONE, SG_H_TWO, SG_H_THREE, SG_H_FOUR,
    SG_H_VOCAB, SG_H_CTX, SG_H_EMBD, SG_H_LAYERS, SG_H_FF, SG_H_HEADS, SG_H_KV_HEADS, SG_H_HEAD, /* size of a head */
    SG_H_HALF_HEAD, SG_H_Q, SG_H_K,     /* heads times size, of queries, of keys */
    SG_H_Q2, SG_H_QKV, SG_H_FF2, SG_H_EXPERT_FF2, /* twice, or all three */
    SG_H_ROT,                           /* values of a head that turn; 0: no rotary positions */
    SG_H_EPS, SG_H_WINDOW,
    SG_H_EXPERTS, SG_H_USED, SG_H_EXPERT_FF, SG_H_SHARED, SG_H_SHARED_FF,
    SG_H_DENSE, SG_H_STEP, SG_H_MOE_END, /* layer l has experts: l >= dense, l <= end, (l + 1) % step == 0 */
    SG_H_NEXTN,                          /* layers behind the last one, for speculation: left out */
    SG_H_Q_LORA, SG_H_KV_LORA, SG_H_NOPE, SG_H_V_HEAD, SG_H_NOPE_V, SG_H_KV_A, /* latent attention */
    SG_H_CONV, SG_H_NK, SG_H_NV, SG_H_HK, SG_H_HV, SG_H_R, SG_H_INTERVAL, /* recurrent layers; R: value heads per key head */
    SG_H_T0, SG_H_T1, SG_H_T2, SG_H_T3, SG_H_T4, SG_H_T5, SG_H_T6, SG_H_T7, /* what a family needs besides */
    SG_H_QKV_BIAS, SG_H_O_BIAS, SG_H_QK_NORM, SG_H_EXPERT_BIAS,
    SG_H_UNTIED,                 /* the output has a matrix of its own */
    SG_H_BLOCKS, SG_H_NO_BLOCKS, /* experts are stored as MXFP4 */
    SG_H_VALUES
} sg_hf_value;

typedef enum sg_hf_kind {
    SG_HK_U32 = 0, SG_HK_F32, SG_HK_BOOL,                /* read from config.json */
    SG_HK_MUL, SG_HK_ADD, SG_HK_SUB, SG_HK_OR,           /* computed of a and b; OR: a unless it is 0, else b */
    SG_HK_DIV, SG_HK_FLOOR,                              /* a / b, which must leave no rest, and rounded down */
    SG_HK_UP,                                            /* a, rounded up to a multiple of b */
    SG_HK_NOT,                                           /* 1 when a is 0 */
    SG_HK_IF,                                            /* a when b is not 0; else nothing changes */
    SG_HK_SAME,                                          /* nothing: a and b must be equal, else `json` is refused */
    SG_HK_POWER,                                         /* a to the power of `fallback`; 0 for a = 0 */
    SG_HK_PUT                                            /* nothing new: only written */
} sg_hf_kind;

/* One line of the table, carried out in order. */
typedef struct sg_hf_key {
    sg_hf_kind kind;
    uint8_t value;     /* that is set */
    uint8_t a, b;
    bool required;
    bool only;         /* other values than `fallback` are refused */
    const char *json;  /* names in config.json, the first that is there counts: "num_experts|num_local_experts" */
    double lo, hi, fallback;
    const char *gguf;  /* written as ARCH.gguf when it is not 0, with a '!' in front always; NULL: not written */
    sg_hf_kind as;     /* of PUT: what is written */
} sg_hf_key;

#define SG_HF_MAX_DIM 1048576
#define SG_HF_REQ(v, name, to) { .kind = SG_HK_U32, .value = (v), .required = true, .json = (name), .lo = 1, .hi = SG_HF_MAX_DIM, .gguf = (to) }
#define SG_HF_OPT(v, name, def, to) { .kind = SG_HK_U32, .value = (v), .json = (name), .lo = 0, .hi = SG_HF_MAX_DIM, .fallback = (def), .gguf = (to) }
#define SG_HF_NUM(v, name, def, to) { .kind = SG_HK_F32, .value = (v), .json = (name), .lo = -1e9, .hi = 1e9, .fallback = (def), .gguf = (to) }
#define SG_HF_FLAG(v, name, def, to) { .kind = SG_HK_BOOL, .value = (v), .json = (name), .fallback = (def), .gguf = (to) }
/* From 1 to `most`; the latter with a default. */
#define SG_HF_COUNT(v, name, most, to) { .kind = SG_HK_U32, .value = (v), .required = true, .json = (name), .lo = 1, .hi = (most), .gguf = (to) }
#define SG_HF_COUNT_OR(v, name, most, def, to) \
    { .kind = SG_HK_U32, .value = (v), .json = (name), .lo = 1, .hi = (most), .fallback = (def), .gguf = (to) }
#define SG_HF_EPSILON(name, to) \
    { .kind = SG_HK_F32, .value = SG_H_EPS, .required = true, .json = (name), .lo = 1e-12, .hi = 1, .gguf = (to) }
/* Only one value is known. */
#define SG_HF_ONLY(k, name, x) { .kind = (k), .only = true, .json = (name), .lo = -1e9, .hi = 1e9, .fallback = (x) }
#define SG_HF_CALC(v, op, x, y, to) { .kind = SG_HK_##op, .value = (v), .a = (x), .b = (y), .gguf = (to) }
#define SG_HF_PUT(v, kind_, to) { .kind = SG_HK_PUT, .value = (v), .as = (kind_), .gguf = (to) }

/* Values of a tensor rearranged: `from` names the axes of the source by letters, outermost first, `to` their order in the
 * output, and `size` how long those of `from` are. Of one axis only `cut_n` places may be taken, from `cut_at` on; when it is
 * one place, `to` leaves the letter out. The source begins `skip` rows (of the last axis of `from`) behind its first value. */
#define SG_HF_AXES 5
typedef struct sg_hf_part {
    const char *from, *to;
    uint8_t size[SG_HF_AXES];
    char cut;
    uint8_t cut_at, cut_n;
    uint8_t skip;
} sg_hf_part;

/* When a tensor is there. A rule whose tensor the rule before has made already is passed over: with OPTIONAL, alternatives. */
enum {
    SG_HF_ATT = 1, SG_HF_REC = 2,   /* layers with attention, recurrent layers */
    SG_HF_MOE = 4, SG_HF_MLP = 8,   /* layers with experts, with one feed-forward block */
    SG_HF_OPTIONAL = 16,            /* need not be there */
    SG_HF_F32 = 32,                 /* small and delicate: stays F32 */
    SG_HF_MXFP4 = 64                /* "NAME_blocks" and "NAME_scales", MXFP4 of gpt-oss */
};
enum { SG_HF_COPY = 0, SG_HF_PLUS_ONE, SG_HF_NEG_EXP };

/* One of two halves that follow each other (rows "sf", matrices "esf"). */
extern const sg_hf_part sg_hf_experts_1st[1], sg_hf_experts_2nd[1]; /* of [experts][2][FF][EMBD] */

/* The order of rows (heads h; the half t of a head, place p in it; columns c) that lets neighbours turn together, where the
 * source turns places i and i + half. */
extern const sg_hf_part sg_hf_pairs_q[1], sg_hf_pairs_k[1], sg_hf_pairs_q_bias[1], sg_hf_pairs_k_bias[1];

typedef struct sg_hf_tensor {
    const char *hf;     /* name behind the prefix ('/' in front: the whole name); the first # is the layer, the second the expert */
    const char *gguf;   /* # is the layer */
    uint8_t ne[3];      /* of the output in GGUF's order, sg_hf_value; ne[1] NONE: a vector */
    uint8_t when;
    uint8_t flag;       /* sg_hf_value that must not be 0 */
    uint8_t op;
    uint8_t shape[4];   /* of the source, outermost first; all NONE: that of the output */
    uint8_t n_parts;
    const sg_hf_part *parts;
} sg_hf_tensor;

enum {
    SG_HF_PARTIAL = 1,       /* only a part of a head may turn */
    SG_HF_TIED = 2,          /* the output shares the embedding unless the configuration says no */
    SG_HF_CLIPS = 4,         /* a sliding window is not known here: the context ends where it does */
    SG_HF_CLIPS_IF_USED = 8, /* ... when use_sliding_window says so */
    SG_HF_LONGROPE = 16,
    SG_HF_LOCAL_ROPE = 32,   /* windowed layers turn with base 10000 */
    SG_HF_NO_ROPE = 64,
    SG_HF_GELU_TANH = 128,   /* "gelu" stands for its tanh form */
    SG_HF_MLA_YARN = 256,    /* YaRN scales the scores, not cos and sin */
    SG_HF_LOOSE_YARN = 512,  /* YaRN without rounding is taken as one with, as llama.cpp does */
    SG_HF_KNOWS_MXFP4 = 1024,
    SG_HF_KV_LIST = 2048,    /* head_count_kv is a list with 0 for recurrent layers */
    SG_HF_RENAMES_ACT = 4096, /* hidden_act does not count, `act` is always written */
    SG_HF_LAYOUTS = 8192      /* rope_layout and sliding_window_layout (SmallThinker) */
};

typedef struct sg_hf_arch {
    const char *name;   /* class, "LlamaForCausalLM" */
    const char *gguf;   /* GGUF architecture */
    const char *prefix; /* of tensor names, alternatives behind '|' */
    const char *act;    /* activation that the GGUF architecture has by itself; another one is written */
    const char *act_unsaid; /* hidden_act when nobody says; NULL: that of the GGUF architecture */
    unsigned flags;
    double partial;     /* share of a head that turns when nobody says; 0: all */
    double theta;       /* rotary base when nobody says; 0: 10000 */
    unsigned pattern;   /* layer l sees everything when (l + 1) % pattern == 0, the others a window; 0: no windows */
    const char *recurrent; /* name of recurrent layers in layer_types */
    const char *ignore; /* parts of names of tensors that text does not need, behind '|' */
    const sg_hf_key *keys;
    size_t n_keys;
    const sg_hf_tensor *tensors;
    size_t n_tensors;
} sg_hf_arch;

#define SG_HF_N(a) (a), sizeof(a) / sizeof *(a)

/* A family: its classes. */
typedef struct sg_hf_family {
    const sg_hf_arch *archs;
    size_t n;
} sg_hf_family;
extern const sg_hf_family sg_hf_llama, sg_hf_qwen, sg_hf_qwen_next, sg_hf_moe, sg_hf_deepseek, sg_hf_gpt_oss, sg_hf_gemma,
    sg_hf_granite, sg_hf_lfm2, sg_hf_gpt2, sg_hf_opt, sg_hf_falcon, sg_hf_nemotron, sg_hf_phi3, sg_hf_smallthinker;

/* The class, or NULL. */
const sg_hf_arch *sg_hf_find(const char *name);
/* Class number i, NULL behind the last. */
const sg_hf_arch *sg_hf_at(size_t i);

/* ---- what most decoders share ------------------------------------------------------------------------------------- */

/* Sizes of a decoder. The head's size may be set before (SG_H_HEAD). */
#define SG_HF_SIZES \
    SG_HF_REQ(SG_H_EMBD, "hidden_size", "embedding_length"), \
    SG_HF_COUNT(SG_H_LAYERS, "num_hidden_layers", 4096, "block_count"), \
    SG_HF_COUNT(SG_H_HEADS, "num_attention_heads", 65536, "attention.head_count"), \
    SG_HF_COUNT(SG_H_VOCAB, "vocab_size", 16777216, "vocab_size"), \
    { .kind = SG_HK_U32, .value = SG_H_CTX, .required = true, .json = "max_position_embeddings", .lo = 1, .hi = 2147483647 }
#define SG_HF_FF SG_HF_REQ(SG_H_FF, "intermediate_size", "feed_forward_length")
#define SG_HF_RMS_EPS \
    SG_HF_EPSILON("rms_norm_eps", "attention.layer_norm_rms_epsilon")
/* Heads: `size` is theirs when config.json gives none, 0: hidden_size / heads. */
#define SG_HF_HEADS(size) \
    { .kind = SG_HK_U32, .value = SG_H_KV_HEADS, .json = "num_key_value_heads", .lo = 1, .hi = 65536 }, \
    SG_HF_CALC(SG_H_KV_HEADS, OR, SG_H_KV_HEADS, SG_H_HEADS, "attention.head_count_kv"), \
    { .kind = SG_HK_U32, .value = SG_H_HEAD, .json = "head_dim", .lo = 1, .hi = 65536, .fallback = (size) }
#define SG_HF_NO_MLP_BIAS SG_HF_ONLY(SG_HK_BOOL, "mlp_bias", 0)
#define SG_HF_ATT_BIAS(def) \
    SG_HF_FLAG(SG_H_QKV_BIAS, "attention_bias", def, NULL), SG_HF_FLAG(SG_H_O_BIAS, "attention_bias", def, NULL)
#define SG_HF_DECODER SG_HF_SIZES, SG_HF_FF, SG_HF_HEADS(0), SG_HF_RMS_EPS, SG_HF_NO_MLP_BIAS

#define SG_HF_EMBEDDING { "embed_tokens.weight", "token_embd.weight", { SG_H_EMBD, SG_H_VOCAB } }
#define SG_HF_OUTPUT(op_) \
    { "norm.weight", "output_norm.weight", { SG_H_EMBD }, .op = (op_) }, \
    { "/lm_head.weight", "output.weight", { SG_H_EMBD, SG_H_VOCAB }, .flag = SG_H_UNTIED }
#define SG_HF_MATRIX(from, to, n_in, n_out, ...) { "layers.#." from ".weight", "blk.#." to ".weight", { n_in, n_out }, __VA_ARGS__ }
#define SG_HF_VECTOR(from, to, n, ...) { "layers.#." from, "blk.#." to, { n }, __VA_ARGS__ }
#define SG_HF_NORM(from, to, op_) SG_HF_VECTOR(from ".weight", to ".weight", SG_H_EMBD, .op = (op_))

/* Projections of attention with their biases; `pairs_*`: parts of Q and K, or NULL with n = 0. */
#define SG_HF_QKVO_AS(n, pq, pk, pqb, pkb, when_) \
    SG_HF_MATRIX("self_attn.q_proj", "attn_q", SG_H_EMBD, SG_H_Q, .when = (when_), .n_parts = (n), .parts = (pq)), \
    SG_HF_VECTOR("self_attn.q_proj.bias", "attn_q.bias", SG_H_Q, .when = (when_), .flag = SG_H_QKV_BIAS, .n_parts = (n), .parts = (pqb)), \
    SG_HF_MATRIX("self_attn.k_proj", "attn_k", SG_H_EMBD, SG_H_K, .when = (when_), .n_parts = (n), .parts = (pk)), \
    SG_HF_VECTOR("self_attn.k_proj.bias", "attn_k.bias", SG_H_K, .when = (when_), .flag = SG_H_QKV_BIAS, .n_parts = (n), .parts = (pkb)), \
    SG_HF_MATRIX("self_attn.v_proj", "attn_v", SG_H_EMBD, SG_H_K, .when = (when_)), \
    SG_HF_VECTOR("self_attn.v_proj.bias", "attn_v.bias", SG_H_K, .when = (when_), .flag = SG_H_QKV_BIAS), \
    SG_HF_MATRIX("self_attn.o_proj", "attn_output", SG_H_Q, SG_H_EMBD, .when = (when_)), \
    SG_HF_VECTOR("self_attn.o_proj.bias", "attn_output.bias", SG_H_EMBD, .when = (when_), .flag = SG_H_O_BIAS)
#define SG_HF_QKVO SG_HF_QKVO_AS(0, NULL, NULL, NULL, NULL, 0)
#define SG_HF_QKVO_PAIRS SG_HF_QKVO_AS(1, sg_hf_pairs_q, sg_hf_pairs_k, sg_hf_pairs_q_bias, sg_hf_pairs_k_bias, 0)
#define SG_HF_QK_NORMS(q, k, when_) \
    SG_HF_VECTOR("self_attn." q ".weight", "attn_q_norm.weight", SG_H_HEAD, .when = (when_)), \
    SG_HF_VECTOR("self_attn." k ".weight", "attn_k_norm.weight", SG_H_HEAD, .when = (when_))

/* Gated feed-forward block of any layer that is no MoE layer. */
#define SG_HF_GATED \
    SG_HF_MATRIX("mlp.gate_proj", "ffn_gate", SG_H_EMBD, SG_H_FF, .when = SG_HF_MLP), \
    SG_HF_MATRIX("mlp.up_proj", "ffn_up", SG_H_EMBD, SG_H_FF, .when = SG_HF_MLP), \
    SG_HF_MATRIX("mlp.down_proj", "ffn_down", SG_H_FF, SG_H_EMBD, .when = SG_HF_MLP)
#define SG_HF_ROUTER(from) \
    SG_HF_MATRIX(from, "ffn_gate_inp", SG_H_EMBD, SG_H_EXPERTS, .when = SG_HF_MOE | SG_HF_F32)
/* Experts as one tensor each. */
#define SG_HF_EXPERTS(base, gate, up, down, ff) \
    { "layers.#." base ".#." gate ".weight", "blk.#.ffn_gate_exps.weight", { SG_H_EMBD, ff, SG_H_EXPERTS }, .when = SG_HF_MOE }, \
    { "layers.#." base ".#." up ".weight", "blk.#.ffn_up_exps.weight", { SG_H_EMBD, ff, SG_H_EXPERTS }, .when = SG_HF_MOE }, \
    { "layers.#." base ".#." down ".weight", "blk.#.ffn_down_exps.weight", { ff, SG_H_EMBD, SG_H_EXPERTS }, .when = SG_HF_MOE }
/* Experts in one tensor for gate and up, one for down; else as SG_HF_EXPERTS. */
#define SG_HF_FUSED_OR_EXPERTS(base, gate, up, down) \
    { "layers.#." base ".gate_up_proj", "blk.#.ffn_gate_exps.weight", { SG_H_EMBD, SG_H_EXPERT_FF, SG_H_EXPERTS }, \
      SG_HF_MOE | SG_HF_OPTIONAL, .shape = { SG_H_EXPERTS, SG_H_EXPERT_FF2, SG_H_EMBD }, .n_parts = 1, .parts = sg_hf_experts_1st }, \
    { "layers.#." base ".#." gate ".weight", "blk.#.ffn_gate_exps.weight", { SG_H_EMBD, SG_H_EXPERT_FF, SG_H_EXPERTS }, SG_HF_MOE }, \
    { "layers.#." base ".gate_up_proj", "blk.#.ffn_up_exps.weight", { SG_H_EMBD, SG_H_EXPERT_FF, SG_H_EXPERTS }, \
      SG_HF_MOE | SG_HF_OPTIONAL, .shape = { SG_H_EXPERTS, SG_H_EXPERT_FF2, SG_H_EMBD }, .n_parts = 1, .parts = sg_hf_experts_2nd }, \
    { "layers.#." base ".#." up ".weight", "blk.#.ffn_up_exps.weight", { SG_H_EMBD, SG_H_EXPERT_FF, SG_H_EXPERTS }, SG_HF_MOE }, \
    { "layers.#." base ".down_proj", "blk.#.ffn_down_exps.weight", { SG_H_EXPERT_FF, SG_H_EMBD, SG_H_EXPERTS }, SG_HF_MOE | SG_HF_OPTIONAL }, \
    { "layers.#." base ".#." down ".weight", "blk.#.ffn_down_exps.weight", { SG_H_EXPERT_FF, SG_H_EMBD, SG_H_EXPERTS }, SG_HF_MOE }
#define SG_HF_SHARED_EXPERT(base, flag_) \
    SG_HF_MATRIX(base ".gate_proj", "ffn_gate_shexp", SG_H_EMBD, SG_H_SHARED_FF, .when = SG_HF_MOE, .flag = (flag_)), \
    SG_HF_MATRIX(base ".up_proj", "ffn_up_shexp", SG_H_EMBD, SG_H_SHARED_FF, .when = SG_HF_MOE, .flag = (flag_)), \
    SG_HF_MATRIX(base ".down_proj", "ffn_down_shexp", SG_H_SHARED_FF, SG_H_EMBD, .when = SG_HF_MOE, .flag = (flag_))
#define SG_HF_MOE_KEYS(experts, used) \
    SG_HF_COUNT(SG_H_EXPERTS, experts, 65536, "expert_count"), \
    SG_HF_COUNT(SG_H_USED, used, 65536, "expert_used_count")

#endif
