/* Metadata keys of the decoder families to hyper-parameters. */
#include "models/model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Larger than any model, small enough that products of three of them cannot overflow 64 bits. */
#define MAX_DIM (1u << 20)

typedef struct keys {
    const sg_gguf *g;
    const char *prefix; /* "llama" */
    char key[160];
} keys;

static const char *key(keys *k, const char *suffix) {
    snprintf(k->key, sizeof k->key, "%s.%s", k->prefix, suffix);
    return k->key;
}

/* An integer that must be there (`fallback` == 0) or has a default, and lies in 1 .. max. */
static sg_status dim(keys *k, const char *suffix, uint32_t fallback, uint32_t max, uint32_t *out, sg_error *err) {
    *out = fallback;
    SG_TRY(sg_gguf_get_u32(k->g, key(k, suffix), out, err));
    const char *path = sg_gguf_path(k->g, 0);
    if (*out == 0 && !sg_gguf_find(k->g, k->key)) return sg_fail(err, SG_E_FORMAT, "%s: key %s is missing", path, k->key);
    if (*out == 0 || *out > max)
        return sg_fail(err, SG_E_FORMAT, "%s: %s = %u is not between 1 and %u", path, k->key, *out, max);
    return SG_OK;
}

static sg_status positive(keys *k, const char *suffix, float fallback, float *out, sg_error *err) {
    *out = fallback;
    SG_TRY(sg_gguf_get_f32(k->g, key(k, suffix), out, err));
    if (!(*out > 0)) return sg_fail(err, SG_E_FORMAT, "%s: %s = %g is not above 0", sg_gguf_path(k->g, 0), k->key, *out);
    return SG_OK;
}

static sg_status read_rope(keys *k, const sg_arch *arch, sg_hparams *hp, sg_error *err) {
    sg_rope_params *r = &hp->rope;
    const char *path = sg_gguf_path(k->g, 0);
    r->pairing = arch->rope_pairing;
    SG_TRY(dim(k, "rope.dimension_count", hp->head_dim_k, hp->head_dim_k, &r->n_rot, err));
    if (r->n_rot % 2) return sg_fail(err, SG_E_FORMAT, "%s: rope.dimension_count = %u is odd", path, r->n_rot);
    SG_TRY(positive(k, "rope.freq_base", 10000.0f, &r->freq_base, err));
    /* llama.cpp's rule: a factor without a type is linear. */
    const char *kind = "linear";
    SG_TRY(sg_gguf_get_str(k->g, key(k, "rope.scaling.type"), &kind, err));
    /* Files from before rope.scaling.* give a linear factor alone. */
    float old_factor = 1.0f;
    SG_TRY(positive(k, "rope.scale_linear", 1.0f, &old_factor, err));
    SG_TRY(positive(k, "rope.scaling.factor", old_factor, &r->factor, err));
    if (strcmp(kind, "yarn") == 0) r->scaling = SG_ROPE_YARN;
    else if (strcmp(kind, "linear") == 0) r->scaling = SG_ROPE_LINEAR;
    else if (strcmp(kind, "none") == 0) r->scaling = SG_ROPE_PLAIN;
    else return sg_fail(err, SG_E_UNSUPPORTED, "%s: rope.scaling.type \"%s\" is not known (none, linear, yarn)", path, kind);
    if (r->scaling == SG_ROPE_YARN && r->factor < 1.0f)
        return sg_fail(err, SG_E_FORMAT, "%s: YaRN factor %g is below 1", path, r->factor);
    SG_TRY(dim(k, "rope.scaling.original_context_length", hp->n_ctx_train, UINT32_MAX, &r->n_ctx_orig, err));
    SG_TRY(positive(k, "rope.scaling.yarn_beta_fast", 32.0f, &r->beta_fast, err));
    SG_TRY(positive(k, "rope.scaling.yarn_beta_slow", 1.0f, &r->beta_slow, err));
    SG_TRY(positive(k, "rope.scaling.yarn_ext_factor", 1.0f, &r->ext_factor, err));
    SG_TRY(positive(k, "rope.scaling.attn_factor", 1.0f, &r->attn_factor, err));
    return SG_OK;
}

static sg_status read_activation(keys *k, const sg_arch *arch, sg_hparams *hp, sg_error *err) {
    static const struct { const char *name; sg_ffn_act act; } acts[] = { { "silu", SG_FFN_SILU },
                                                                         { "relu", SG_FFN_RELU },
                                                                         { "drelu", SG_FFN_DRELU },
                                                                         { "fatrelu", SG_FFN_FATRELU },
                                                                         { "relu2", SG_FFN_RELU2 } };
    const char *name = acts[arch->ffn_act].name; /* the table is in the order of the enumeration */
    SG_TRY(sg_gguf_get_str(k->g, "sparsegen.ffn_activation", &name, err));
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++) {
        if (strcmp(acts[i].name, name) == 0) {
            hp->ffn_act = acts[i].act;
            return SG_OK;
        }
    }
    return sg_fail(err, SG_E_UNSUPPORTED, "%s: sparsegen.ffn_activation \"%s\" is not known (silu, relu, drelu, fatrelu, relu2)",
                   sg_gguf_path(k->g, 0), name);
}

sg_status sg_hparams_read(const sg_gguf *g, const sg_arch *arch, sg_hparams *hp, sg_error *err) {
    keys k = { .g = g, .prefix = arch->name };
    const char *path = sg_gguf_path(g, 0);
    *hp = (sg_hparams){ 0 };
    uint32_t n_expert = 0;
    SG_TRY(sg_gguf_get_u32(g, key(&k, "expert_count"), &n_expert, err));
    if (n_expert > 0)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: %s with %u experts cannot be run yet, dense models only", path, arch->name,
                       n_expert);
    SG_TRY(dim(&k, "context_length", 2048, INT32_MAX, &hp->n_ctx_train, err));
    SG_TRY(dim(&k, "embedding_length", 0, MAX_DIM, &hp->n_embd, err));
    SG_TRY(dim(&k, "block_count", 0, 4096, &hp->n_layer, err));
    SG_TRY(dim(&k, "feed_forward_length", 0, MAX_DIM, &hp->n_ff, err));
    SG_TRY(dim(&k, "attention.head_count", 0, 65536, &hp->n_head, err));
    SG_TRY(dim(&k, "attention.head_count_kv", hp->n_head, hp->n_head, &hp->n_head_kv, err));
    if (hp->n_head % hp->n_head_kv)
        return sg_fail(err, SG_E_FORMAT, "%s: %u heads are no multiple of %u key/value heads", path, hp->n_head, hp->n_head_kv);
    if (hp->n_embd % hp->n_head && !sg_gguf_find(g, key(&k, "attention.key_length")))
        return sg_fail(err, SG_E_FORMAT, "%s: embedding length %u is no multiple of %u heads", path, hp->n_embd, hp->n_head);
    const uint32_t head = hp->n_embd / hp->n_head;
    SG_TRY(dim(&k, "attention.key_length", head, 65536, &hp->head_dim_k, err));
    SG_TRY(dim(&k, "attention.value_length", head, 65536, &hp->head_dim_v, err));
    SG_TRY(positive(&k, "attention.layer_norm_rms_epsilon", 1e-5f, &hp->norm_eps, err));
    SG_TRY(read_rope(&k, arch, hp, err));
    return read_activation(&k, arch, hp, err);
}

uint64_t sg_dim_value(const sg_hparams *hp, sg_dim d) {
    switch (d) {
    case SG_D_ONE: return 1;
    case SG_D_VOCAB: return hp->n_vocab;
    case SG_D_EMBD: return hp->n_embd;
    case SG_D_FF: return hp->n_ff;
    case SG_D_Q: return (uint64_t)hp->n_head * hp->head_dim_k;
    case SG_D_K: return (uint64_t)hp->n_head_kv * hp->head_dim_k;
    case SG_D_V: return (uint64_t)hp->n_head_kv * hp->head_dim_v;
    case SG_D_ATT: return (uint64_t)hp->n_head * hp->head_dim_v;
    case SG_D_HEAD: return hp->head_dim_k;
    case SG_D_ROT: return hp->rope.n_rot / 2;
    }
    return 0;
}
