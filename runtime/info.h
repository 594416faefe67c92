/* What sg_file_info gathers from a GGUF header, for its two writers (text and JSON). */
#ifndef SG_RUNTIME_INFO_H
#define SG_RUNTIME_INFO_H

#include "io/gguf.h"
#include "runtime/base/mem.h"

/* What a weight is for, judged by its name. */
typedef enum sg_info_part {
    SG_PART_EMBEDDING,
    SG_PART_ATTENTION,
    SG_PART_RECURRENT, /* state-space and convolution layers */
    SG_PART_FFN,       /* dense */
    SG_PART_EXPERTS,   /* chosen by a router */
    SG_PART_SHARED,    /* experts that every token uses */
    SG_PART_ROUTER,
    SG_PART_NORMS,
    SG_PART_OUTPUT,
    SG_PART_OTHER,
    SG_PART_COUNT
} sg_info_part;

typedef struct sg_info_sum {
    uint64_t n, values, bytes; /* tensors, their values, their bytes */
} sg_info_sum;

/* A hyper-parameter: one number, or one per layer, then lo and hi are the extremes. */
typedef struct sg_info_int {
    bool present;
    uint32_t lo, hi;
} sg_info_int;

struct sg_file_info {
    sg_gguf *g;
    const char *architecture, *name; /* "" when the file does not say */
    const char *tokenizer, *pre;     /* tokenizer.ggml.model and .pre; "" likewise */
    const char *rope_scaling;
    const char *chat_template; /* Jinja text, NULL when there is none */
    const char *chat_family;   /* "chatml", NULL when the template is none or of no known family */
    sg_info_int context, embedding, layers, nextn, heads, kv_heads, key_length, value_length, kv_lora, window;
    sg_info_int ff, expert_ff, experts, experts_used, experts_shared;
    sg_info_int rope_dims, bos, eos;
    bool has_rope_base, has_rope_factor;
    float rope_base, rope_factor;
    bool has_vocab;
    uint64_t n_vocab;
    sg_info_sum total, by_type[SG_DTYPE_LIMIT], by_part[SG_PART_COUNT];
    uint64_t active_values; /* weights that take part in one token: of the experts, only those used */
    bool tied_output;       /* no output matrix: the embedding is used again */
    uint64_t n_attention;   /* layers with a KV cache */
    uint64_t kv_bytes;      /* F16 keys and values of one token, all layers; 0: not known */
    bool kv_compressed;     /* multi-head latent attention: kv_bytes counts the latent vectors */
    uint64_t n_moe;         /* layers with a router */
    uint64_t expert_bytes;  /* one expert, mean over the layers */
    uint64_t routed_bytes;  /* experts that one token touches, all layers */
    uint64_t n_pregate;     /* layers of experts that a pre-gate names, docs/model_bin.md; 0: there is none */
    uint64_t n_ahead;       /* layers of experts with a correction for look-ahead */
    bool pregate_routes;    /* it is the router of all */
    /* model.bin (docs/model_bin.md): */
    sg_info_int bin_version; /* not present: an ordinary file, and all below is 0 */
    sg_info_int cluster, gate_type, up_type, down_type, calibrated;
    uint64_t n_bundles; /* layers cut into neurons */
    const char *activation, *predictor; /* "" when the file does not say; the predictor of the first layer that has one */
};

extern const char *const sg_info_part_names[SG_PART_COUNT]; /* "embedding" */

/* Takes g, also on failure. */
SG_NODISCARD sg_status sg_file_info_from_gguf(sg_gguf *g, sg_file_info **out, sg_error *err);

/* A number or an array of them; an absent key leaves *out as it is. */
SG_NODISCARD sg_status sg_info_int_of(const sg_gguf *g, const char *key, sg_info_int *out, sg_error *err);
/* Weights in a tensor: its values, but what a bundle was cut from, and none in predictors, orders, counts, checksums and what names experts ahead. */
uint64_t sg_info_weights(const sg_file_info *info, const sg_tensor_info *t);
/* Experts in the bundle of a layer; 0: none. */
uint64_t sg_info_bundle_experts(const sg_file_info *info, uint64_t layer);
/* The members for model.bin. */
SG_NODISCARD sg_status sg_info_gather_bin(sg_file_info *info, sg_error *err);
/* "Q4_0", "mixed" when the layers differ, "" when there is none. */
const char *sg_info_bundle_type(const sg_info_int *type);

/* Both append; memory failures show in out->failed. */
void sg_file_info_write_text(const sg_file_info *info, sg_str *out);
void sg_file_info_write_json(const sg_file_info *info, sg_str *out);

/* Appends text that may come from a stranger so that it is safe to print: well-formed UTF-8, control characters and
 * broken bytes as '?', at most `max` bytes of it. */
void sg_info_put_clean(sg_str *out, const char *text, size_t max);

#endif
