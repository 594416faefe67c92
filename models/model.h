/* Architectures as data: hyper-parameters from metadata, the table of tensors with their shapes, what each block does.
 * Nothing here computes; runtime/plan.c turns a description into the steps of one token. */
#ifndef SG_MODELS_MODEL_H
#define SG_MODELS_MODEL_H

#include "io/gguf.h"

/* Gate activations of the feed-forward block: out = down(act(gate x, up x)). */
typedef enum sg_ffn_act {
    SG_FFN_SILU = 0, /* silu(g) * u */
    SG_FFN_RELU,     /* max(g, 0) * u: a neuron is inactive when g <= 0 */
    SG_FFN_DRELU,    /* max(g, 0) * max(u, 0) (TurboSparse, arXiv 2406.05955): inactive when either is <= 0 */
    SG_FFN_FATRELU,  /* g * u where g > t, else 0 (ProSparse, arXiv 2402.13516); t: sg_model_desc.ffn_threshold */
    SG_FFN_RELU2     /* max(g, 0)^2 (* u): squared ReLU (arXiv 2109.08668), mostly without a gate: max(u, 0)^2 */
} sg_ffn_act;

/* Which values of a head turn together. */
typedef enum sg_rope_pairing {
    SG_ROPE_ADJACENT = 0, /* (2i, 2i+1) */
    SG_ROPE_HALVES        /* (i, i + n_rot/2) */
} sg_rope_pairing;

typedef enum sg_rope_scaling { SG_ROPE_PLAIN = 0, SG_ROPE_LINEAR, SG_ROPE_YARN } sg_rope_scaling;

typedef struct sg_rope_params {
    sg_rope_pairing pairing;
    sg_rope_scaling scaling;
    uint32_t n_rot;         /* values of a head that turn, from its beginning; even */
    float freq_base;        /* base of the geometric series of frequencies */
    float factor;           /* context extension, >= 1; positions (LINEAR) or low frequencies (YARN) are divided by it */
    uint32_t n_ctx_orig;    /* YARN: context before extension */
    float beta_fast, beta_slow, ext_factor, attn_factor; /* YARN, arXiv 2309.00071 section 3 */
} sg_rope_params;

typedef struct sg_hparams {
    uint32_t n_vocab, n_ctx_train, n_embd, n_layer;
    uint32_t n_head, n_head_kv; /* n_head is a multiple of n_head_kv */
    uint32_t head_dim_k, head_dim_v;
    uint32_t n_ff;
    float norm_eps;
    sg_ffn_act ffn_act;
    sg_rope_params rope;
} sg_hparams;

/* Tensors that a model has once. */
typedef enum sg_global_slot { SG_T_TOKEN_EMBD, SG_T_OUTPUT_NORM, SG_T_OUTPUT, SG_T_ROPE_FREQS, SG_T_GLOBALS } sg_global_slot;

/* Tensors of one layer. Matrices are [n_in, n_out] in GGUF order: n_out rows of n_in values. */
typedef enum sg_layer_slot {
    SG_L_ATTN_NORM, SG_L_Q, SG_L_K, SG_L_V, SG_L_Q_BIAS, SG_L_K_BIAS, SG_L_V_BIAS,
    SG_L_Q_NORM, SG_L_K_NORM, /* per head, before rotary */
    SG_L_O, SG_L_O_BIAS,
    SG_L_FFN_NORM, SG_L_GATE, SG_L_UP, SG_L_DOWN,
    SG_L_SLOTS
} sg_layer_slot;

/* Dimensions by name; sg_dim_value gives the number. */
typedef enum sg_dim {
    SG_D_ONE = 0, SG_D_VOCAB, SG_D_EMBD, SG_D_FF, SG_D_Q /* n_head * head_dim_k */, SG_D_K /* n_head_kv * head_dim_k */,
    SG_D_V /* n_head_kv * head_dim_v */, SG_D_ATT /* n_head * head_dim_v */, SG_D_HEAD /* head_dim_k */, SG_D_ROT /* n_rot / 2 */
} sg_dim;

typedef struct sg_tensor_rule {
    uint32_t slot;      /* sg_global_slot, or sg_layer_slot when `name` holds %u */
    const char *name;   /* GGUF name; %u stands for the layer */
    sg_dim ne0, ne1;    /* ne1 == SG_D_ONE: a vector */
    bool optional;
} sg_tensor_rule;

/* One architecture. A family file in this folder holds nothing else. */
typedef struct sg_arch {
    const char *name; /* general.architecture, prefix of its metadata keys */
    sg_rope_pairing rope_pairing;
    sg_ffn_act ffn_act; /* unless the file's sparsegen.ffn_activation says something else */
    const sg_tensor_rule *tensors;
    size_t n_tensors;
} sg_arch;

extern const sg_arch sg_arch_arcee, sg_arch_llama, sg_arch_qwen2, sg_arch_qwen3;

/* By name; NULL when unknown. `known` (may be NULL) receives the list of names for error messages. */
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
    sg_bundle_desc *bundles;                     /* [n_layer], owned; NULL: the file holds gate, up and down as matrices */
    sg_bundle_desc *bundles_shexp;               /* [n_layer], owned: shared experts; NULL: no layer has any */
    float *ffn_threshold;                        /* [n_layer], owned: of FATRELU, else NULL */
    sg_threshold_grid shares;                    /* of neurons: magnitudes of the activated gate below which they lie */
    sg_threshold_grid recalls;                   /* of the predictors: scores above which a neuron is predicted */
    uint64_t calibration_tokens;                 /* that `counts` were taken over; 0: the neurons were not counted */
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
uint64_t sg_dim_value(const sg_hparams *hp, sg_dim d);

#endif
