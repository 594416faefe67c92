/* Architectures as data: hyper-parameters from metadata, the table of tensors with their shapes, what each block does.
 * Nothing here computes; runtime/plan.c turns a description into the steps of one token. */
#ifndef SG_MODELS_MODEL_H
#define SG_MODELS_MODEL_H

#include "io/gguf.h"

/* Activations of the feed-forward block: out = down(act(gate x, up x)), g and u its two products; without a gate act(up x), u being 1. */
typedef enum sg_ffn_act {
    SG_FFN_SILU = 0, /* silu(g) * u */
    SG_FFN_RELU,     /* max(g, 0) * u: a neuron is inactive when g <= 0 */
    SG_FFN_DRELU,    /* max(g, 0) * max(u, 0) (TurboSparse, arXiv 2406.05955): inactive when either is <= 0 */
    SG_FFN_FATRELU,  /* g * u where g > t, else 0 (ProSparse, arXiv 2402.13516); t: sg_model_desc.ffn_threshold */
    SG_FFN_RELU2,    /* max(g, 0)^2 (* u): squared ReLU (arXiv 2109.08668), mostly without a gate: max(u, 0)^2 */
    SG_FFN_GELU,     /* gelu(g) * u, the tanh form (arXiv 1606.08415, section 2) */
    SG_FFN_GELU_ERF, /* g * Phi(g) * u, the exact form */
    SG_FFN_OAI,      /* g' sigmoid(1.702 g') * (u' + 1), g' = min(g, 7), u' = u within -7 .. 7 (gpt-oss, arXiv 2508.10925) */
    SG_FFN_ACTS
} sg_ffn_act;

typedef enum sg_norm_kind { SG_NORM_RMS = 0, SG_NORM_LAYER /* mean and bias as well */ } sg_norm_kind;

/* What mixes the tokens in a layer. */
typedef enum sg_mixer {
    SG_MIX_ATTENTION = 0,
    SG_MIX_LATENT, /* attention over compressed keys and values (DeepSeek-V2, arXiv 2405.04434, section 2.1) */
    SG_MIX_CONV,   /* gated short convolution (LFM2) */
    SG_MIX_DELTA   /* gated delta net (arXiv 2412.06464) */
} sg_mixer;

/* Which layers of an architecture have a mixer that is not attention. */
typedef enum sg_mixer_rule {
    SG_MIXERS_ATTENTION = 0, /* none */
    SG_MIXERS_LATENT,        /* every layer is SG_MIX_LATENT */
    SG_MIXERS_CONV,          /* SG_MIX_CONV where attention.head_count_kv is 0 */
    SG_MIXERS_DELTA          /* SG_MIX_DELTA but in every full_attention_interval-th layer */
} sg_mixer_rule;

/* Which values of a head turn together. */
typedef enum sg_rope_pairing {
    SG_ROPE_ADJACENT = 0, /* (2i, 2i+1) */
    SG_ROPE_HALVES,       /* (i, i + n_rot/2) */
    SG_ROPE_NONE          /* nothing turns: positions are learned (position_embd) or not told */
} sg_rope_pairing;

typedef enum sg_rope_scaling { SG_ROPE_PLAIN = 0, SG_ROPE_LINEAR, SG_ROPE_YARN } sg_rope_scaling;

typedef struct sg_rope_params {
    sg_rope_pairing pairing;
    sg_rope_scaling scaling;
    uint32_t n_rot;         /* values of a head that turn, from its beginning (SG_MIX_LATENT: its end); even */
    float freq_base;        /* base of the geometric series of frequencies */
    float factor;           /* context extension; positions (LINEAR) or low frequencies (YARN, >= 1) are divided by it */
    uint32_t n_ctx_orig;    /* context before extension */
    float beta_fast, beta_slow, ext_factor; /* YARN, arXiv 2309.00071 section 3 */
    float magnitude;        /* cos and sin are multiplied by it */
} sg_rope_params;

/* How experts are chosen: scores from the router's products, the n_expert_used best (score + selection bias, if the file has one; within
 * the best groups, where there are groups), weights from their scores. */
typedef enum sg_router_scores {
    SG_SCORES_SOFTMAX = 0,   /* over all experts */
    SG_SCORES_SIGMOID,
    SG_SCORES_SOFTMAX_CHOSEN /* products as scores; weights are their softmax over the chosen ones */
} sg_router_scores;

/* Sliding windows: layer l sees the whole context when l % period == full, else the window. period 0: every layer sees the window that
 * the file names, if it names one. */
typedef struct sg_window_rule {
    bool used;
    uint32_t period, full;
    bool full_without_rope; /* layers that see all have no rotary embedding, if there is a window at all (SmallThinker) */
    float rope_base;        /* of window layers, without scaling; 0: as in the others */
} sg_window_rule;

typedef struct sg_hparams {
    uint32_t n_vocab, n_ctx_train, n_embd, n_layer;
    uint32_t n_layer_left_out; /* layers of the file behind the others, which guess tokens further ahead */
    uint32_t n_head, n_head_kv; /* n_head is a multiple of n_head_kv; n_head_kv: the most of a layer */
    uint32_t head_dim_k, head_dim_v;
    uint32_t n_ff; /* of dense layers */
    float norm_eps;
    sg_ffn_act ffn_act;
    sg_rope_params rope;
    uint32_t window;        /* of the layers with a window; 0: none */
    float window_rope_base; /* 0: as rope */
    float attn_scale;       /* of the scores */
    float attn_softcap, final_softcap; /* cap * tanh(x / cap) on scores and on logits; 0: none */
    float embd_scale, residual_scale, logit_scale; /* factors of embeddings, of both branches, of logits */
    /* experts; n_expert 0: none */
    uint32_t n_expert, n_expert_used, n_ff_exp, n_ff_shexp, n_expert_group, n_expert_group_used;
    uint32_t n_expert_layer; /* layers that have them */
    sg_router_scores scores;
    bool weights_norm;      /* weights are divided by their sum */
    float weights_scale;    /* and multiplied by this */
    /* SG_MIX_LATENT: ranks of the compressed queries (0: not compressed) and of keys and values; head_dim_k = values without rotary + n_rot */
    uint32_t n_q_lora, n_kv_lora;
    uint32_t n_taps;        /* of convolutions */
    uint32_t n_key_heads, n_value_heads, delta_dim_k, delta_dim_v; /* SG_MIX_DELTA */
} sg_hparams;

/* What differs from layer to layer. */
typedef struct sg_layer_params {
    sg_mixer mixer;
    uint32_t n_head_kv; /* attention */
    uint32_t window;    /* 0: the whole context */
    bool rope, window_rope; /* rotary embedding at all; with the base of window layers */
    bool experts;       /* else a dense feed-forward block */
} sg_layer_params;

/* Tensors that a model has once. */
typedef enum sg_global_slot {
    SG_T_TOKEN_EMBD, SG_T_POS_EMBD /* [n_ctx_train rows] */, SG_T_OUTPUT_NORM, SG_T_OUTPUT_NORM_BIAS, SG_T_OUTPUT, SG_T_OUTPUT_BIAS,
    SG_T_ROPE_FREQS, SG_T_ROPE_LONG, SG_T_ROPE_SHORT, /* divisors of the frequencies: always, beyond rope.n_ctx_orig, up to it */
    SG_T_PREGATE, SG_T_PREGATE_BIAS, /* says of an embedding what the routers of all layers will, one behind the other (docs/model_bin.md) */
    SG_T_GLOBALS
} sg_global_slot;

/* Tensors of one layer. Matrices are [n_in, n_out] in GGUF order: n_out rows of n_in values; of experts and heads one behind the other. */
typedef enum sg_layer_slot {
    SG_L_ATTN_NORM, SG_L_ATTN_NORM_BIAS, /* before the mixer */
    SG_L_ATTN_POST_NORM,                 /* of its output, before it is added */
    SG_L_QKV, SG_L_QKV_BIAS,             /* rows of Q, then K, then V; of SG_MIX_DELTA likewise */
    SG_L_Q, SG_L_K, SG_L_V, SG_L_Q_BIAS, SG_L_K_BIAS, SG_L_V_BIAS,
    SG_L_Q_NORM, SG_L_K_NORM,            /* before rotary, per head or of the whole projection: as long as the tensor is */
    SG_L_SINKS,                          /* a logit per head, without a value */
    SG_L_O, SG_L_O_BIAS,
    SG_L_Q_A, SG_L_Q_A_NORM, SG_L_Q_B, SG_L_KV_A, SG_L_KV_A_NORM, /* SG_MIX_LATENT */
    SG_L_K_B, SG_L_V_B,                  /* per head; or both in one, per head rows of K, then of V: */
    SG_L_KV_B,
    SG_L_CONV_IN, SG_L_CONV, SG_L_CONV_OUT, /* SG_MIX_CONV; the second also of SG_MIX_DELTA: n_taps values per channel */
    SG_L_DELTA_Z, SG_L_DELTA_BA, SG_L_DELTA_B, SG_L_DELTA_ALPHA, SG_L_DELTA_DT, SG_L_DELTA_A, SG_L_DELTA_NORM, SG_L_DELTA_OUT,
    SG_L_FFN_NORM, SG_L_FFN_NORM_BIAS, SG_L_FFN_POST_NORM,
    SG_L_GATE, SG_L_UP, SG_L_DOWN, SG_L_GATE_BIAS, SG_L_UP_BIAS, SG_L_DOWN_BIAS,
    SG_L_GATE_UP,                        /* rows of gate, then of up */
    SG_L_ROUTER, SG_L_ROUTER_BIAS, SG_L_ROUTER_SELECT /* added to the scores only to choose */,
    SG_L_AHEAD, SG_L_AHEAD_BIAS,         /* what look-ahead asks instead of the router, one layer of experts before (docs/model_bin.md) */
    SG_L_GATE_EXPS, SG_L_UP_EXPS, SG_L_DOWN_EXPS, SG_L_GATE_EXPS_BIAS, SG_L_UP_EXPS_BIAS, SG_L_DOWN_EXPS_BIAS,
    SG_L_GATE_SHEXP, SG_L_UP_SHEXP, SG_L_DOWN_SHEXP,
    SG_L_SHARED_GATE, /* the shared experts' output is multiplied by sigmoid of its product */
    SG_L_SLOTS
} sg_layer_slot;

/* Dimensions by name; sg_dim_value gives the number. */
typedef enum sg_dim {
    SG_D_ONE = 0, SG_D_VOCAB, SG_D_EMBD, SG_D_CTX, SG_D_FF, SG_D_FF2 /* 2 n_ff */, SG_D_Q /* n_head * head_dim_k */, SG_D_Q2 /* twice that */,
    SG_D_K /* the layer's n_head_kv * head_dim_k */, SG_D_V /* likewise head_dim_v */, SG_D_QKV /* Q + K + V */,
    SG_D_ATT /* n_head * head_dim_v */, SG_D_HEAD /* head_dim_k */, SG_D_HEADS /* n_head */, SG_D_ROT /* n_rot / 2 */,
    SG_D_Q_LORA, SG_D_KV_LORA, SG_D_KV_A /* kv_lora + n_rot */, SG_D_NOPE /* head_dim_k - n_rot */, SG_D_VALUE /* head_dim_v */,
    SG_D_KV_B /* n_head * (nope + value) */,
    SG_D_EXPERTS, SG_D_ROUTES /* experts of all layers */, SG_D_FF_EXP, SG_D_FF_SHEXP,
    SG_D_TAPS, SG_D_CONV3 /* 3 n_embd */,
    SG_D_DELTA_QKV, SG_D_DELTA_V /* value heads * dim */, SG_D_DELTA_VDIM, SG_D_DELTA_HEADS /* value heads */, SG_D_DELTA_HEADS2 /* twice */,
    SG_DIMS
} sg_dim;

/* Which layers have a tensor. */
typedef enum sg_when { SG_ALWAYS = 0, SG_IN_ATTENTION, SG_IN_LATENT, SG_IN_CONV, SG_IN_DELTA, SG_IN_DENSE, SG_IN_EXPERTS } sg_when;

typedef struct sg_tensor_rule {
    uint32_t slot;    /* sg_global_slot, or sg_layer_slot when `name` holds %u */
    const char *name; /* GGUF name; %u stands for the layer */
    sg_dim ne[3];     /* as in GGUF; those not named are 1 */
    sg_when when;
    bool values;      /* numbers that are used as F32; else a matrix, multiplied or looked up */
    bool optional;
} sg_tensor_rule;

/* One architecture. A family file in this folder holds nothing else. Zero: as in llama. */
typedef struct sg_arch {
    const char *name; /* general.architecture, prefix of its metadata keys */
    const sg_tensor_rule *tensors;
    size_t n_tensors;
    sg_rope_pairing rope_pairing;
    sg_norm_kind norm;
    sg_ffn_act ffn_act; /* unless the file's sparsegen.ffn_activation says something else */
    sg_mixer_rule mixers;
    sg_window_rule window;
    sg_router_scores scores; /* unless expert_gating_func says something else */
    bool weights_norm;       /* unless expert_weights_norm */
    bool router_before;      /* the router reads what the layer gets, before its attention and norm (SmallThinker) */
    bool parallel;           /* the feed-forward block reads what attention reads, and both are added (Falcon, GPT-J) */
    bool gated_attention;    /* per head Q, then a gate whose sigmoid multiplies the output (Qwen3-Next) */
    bool value_heads_mod;    /* delta net: value head h uses key head h % n_key_heads, else h / (n_value_heads / n_key_heads) */
    bool embd_sqrt;          /* embeddings times sqrt(n_embd) */
    bool yarn_scores;        /* YaRN changes the scale of the scores, by yarn_log_multiplier, instead of cos and sin */
    uint32_t wide_layers;    /* a model of so many layers has scores times 1 / sqrt(n_embd / n_head) (Gemma 2 and 3 27B) */
} sg_arch;

#define SG_ARCH_TENSORS(table) .tensors = table, .n_tensors = sizeof table / sizeof *table

/* By name; NULL when unknown. sg_arch_names: all of them for messages, "arcee, ..."; owned by the library. */
const sg_arch *sg_arch_find(const char *name);
const char *sg_arch_names(void);

/* Of a model.bin: the format that is read and written, the key that names it, the tensor of its checksums. */
#define SG_BIN_VERSION 1u
#define SG_BIN_VERSION_KEY "sparsegen.format_version"
#define SG_BIN_CHECKSUMS "sparsegen.checksums"

/* The feed-forward part of one layer of a model.bin, or its shared experts (docs/model_bin.md). Pointers reach into the gguf handle. */
typedef struct sg_bundle_desc {
    const sg_tensor_info *clusters; /* NULL: no shared experts in this layer */
    const sg_tensor_info *pred_a, *pred_b; /* the latter two NULL without a predictor, pred_b with `sign` */
    const sg_tensor_info *pred_scale, *pred_bias;     /* NULL: ones, zeros */
    const sg_tensor_info *counts;                     /* how often neurons were active, by place; NULL: not counted */
    const sg_tensor_info *order;                      /* the neuron of the source at each place, NULL: as in the source */
    const char *predictor;                            /* its kind, "none" without one */
    uint32_t per_cluster;
    uint32_t n_neurons, n_expert;                     /* of the layer or of one expert, 0: the file does not say; 0: no experts */
    bool gated;
    sg_dtype gate_type, up_type, down_type;
} sg_bundle_desc;

/* Rising values x[n] and for each layer a threshold per value, [n_layer][n]; both owned. n == 0: the file has none. */
typedef struct sg_threshold_grid {
    uint32_t n;
    float *x, *thresholds;
} sg_threshold_grid;

/* A model file described: which tensor of the file is which. Pointers reach into the gguf handle. */
typedef struct sg_model_desc {
    const sg_arch *arch;
    sg_hparams hp;
    const sg_tensor_info *globals[SG_T_GLOBALS];
    const sg_tensor_info *(*layers)[SG_L_SLOTS]; /* [n_layer], owned */
    sg_layer_params *layer;                      /* [n_layer], owned */
    sg_bundle_desc *bundles;                     /* [n_layer], owned; NULL: the file holds gate, up and down as matrices */
    sg_bundle_desc *bundles_shexp;               /* [n_layer], owned: shared experts; NULL: no layer has any */
    float *ffn_threshold;                        /* [n_layer], owned: of FATRELU, else NULL */
    sg_threshold_grid shares;                    /* of neurons: magnitudes of the activated gate below which they lie */
    sg_threshold_grid recalls;                   /* of the predictors: scores above which a neuron is predicted */
    uint64_t calibration_tokens;                 /* that `counts` were taken over; 0: the neurons were not counted */
    bool pregate_routes;                         /* no layer has a router: the pre-gate is the router of all */
    bool pred_residual;                          /* predictors read the residual stream instead of the normalised input */
} sg_model_desc;

/* Reads the metadata, checks it, finds every tensor and checks its shape. A tensor of the file that the architecture does not
 * know is an error too: leaving one out would give wrong text. Errors: SG_E_FORMAT, SG_E_UNSUPPORTED. */
SG_NODISCARD sg_status sg_model_describe(const sg_gguf *g, sg_model_desc *out, sg_error *err);
void sg_model_desc_finish(sg_model_desc *d);

/* Parts of sg_model_describe. */
SG_NODISCARD sg_status sg_bundles_describe(const sg_gguf *g, sg_model_desc *d, size_t *n_bound, sg_error *err);
bool sg_bundles_know(const sg_model_desc *d, const char *tensor); /* a tensor that sg_bundles_describe looks for */
SG_NODISCARD sg_status sg_hparams_read(const sg_gguf *g, const sg_arch *arch, sg_hparams *hp, sg_error *err);
/* layer[hp->n_layer] from metadata; sets hp->n_head_kv. */
SG_NODISCARD sg_status sg_layers_read(const sg_gguf *g, const sg_arch *arch, sg_hparams *hp, sg_layer_params *layer, sg_error *err);
/* l: of a layer's dimensions; NULL for globals. */
uint64_t sg_dim_value(const sg_hparams *hp, const sg_layer_params *l, sg_dim d);
/* What the architecture's table says of a tensor; NULL when it has no such slot. */
const sg_tensor_rule *sg_arch_rule(const sg_arch *arch, bool per_layer, uint32_t slot);

#endif
