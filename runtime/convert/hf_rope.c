/* Rotary positions of a Hugging Face configuration. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/convert/file.h"
#include "runtime/convert/hf_config.h"

#define FACTOR_MAX 1e6

typedef struct rope {
    const sg_hf_json *f;
    const cJSON *json; /* the rotary parameters, or NULL */
    sg_hf_config *c;
    sg_conv_model *m;
    float base;
    uint32_t n_rot;
} rope;

/* A tensor of n factors, owned by the model. */
static float *add_factors(rope *r, int slot, uint32_t n, const char *name) {
    float *v = calloc(n, sizeof *v);
    sg_conv_tensor *t = v ? sg_conv_add_tensor(r->m, n, 0, 0, "%s", name) : NULL;
    if (!t) {
        free(v);
        return NULL;
    }
    r->m->owned[slot] = v;
    t->one.values = v;
    return v;
}

/* Llama 3.1: low frequencies are divided by `factor`, high ones kept, those between blended. Method: llama-models,
 * reference model.py, apply_scaling; the result is stored as a divisor for each frequency (rope_freqs.weight), as
 * llama.cpp does. */
static sg_status llama3_freqs(rope *r, sg_error *err) {
    const char *path = r->f->path;
    float factor = 8, low = 1, high = 4;
    uint32_t original = 8192;
    SG_TRY(sg_json_f32(r->json, path, "factor", 1, FACTOR_MAX, true, &factor, err));
    SG_TRY(sg_json_f32(r->json, path, "low_freq_factor", 1e-6, FACTOR_MAX, false, &low, err));
    SG_TRY(sg_json_f32(r->json, path, "high_freq_factor", 1e-6, FACTOR_MAX, false, &high, err));
    SG_TRY(sg_json_u32(r->json, path, "original_max_position_embeddings", 1, INT32_MAX, false, &original, err));
    if (high <= low)
        return sg_fail(err, SG_E_FORMAT, "%s: high_freq_factor %g is not above low_freq_factor %g", path, high, low);
    const uint32_t n = r->n_rot / 2;
    float *freqs = add_factors(r, 0, n, "rope_freqs.weight");
    if (!freqs) return sg_fail(err, SG_E_NOMEM, "%s: no memory", path);
    for (uint32_t i = 0; i < n; i++) {
        const double freq = pow(r->base, -2.0 * i / r->n_rot), wavelength = 2 * 3.14159265358979323846 / freq;
        const double smooth = (original / wavelength - low) / ((double)high - low);
        double divisor = 1;
        if (wavelength > original / (double)low)
            divisor = factor;
        else if (wavelength >= original / (double)high)
            divisor = 1 / ((1 - smooth) / factor + smooth);
        freqs[i] = (float)divisor;
    }
    return SG_OK;
}

static void set_positive(sg_conv_hparams *hp, const char *name, float v) {
    if (v > 0) sg_conv_set_f32(hp, name, v);
}

/* YaRN scales cos and sin by attention_factor, 0.1 ln(factor) + 1 unless the file says otherwise (arXiv 2309.00071,
 * equation 22). In GGUF that default is implied and attn_factor multiplies it. Latent attention scales the scores instead,
 * by the square of 0.1 mscale_all_dim ln(factor) + 1. */
static sg_status read_yarn(rope *r, sg_error *err) {
    const char *path = r->f->path;
    sg_conv_hparams *hp = &r->m->hp;
    float factor = 1, fast = 0, slow = 0, attention = 0, mscale = 0, mscale_all = 0;
    uint32_t original = (uint32_t)r->c->v[SG_H_CTX];
    bool truncate = true;
    SG_TRY(sg_json_f32(r->json, path, "factor", 1, FACTOR_MAX, true, &factor, err));
    SG_TRY(sg_json_u32(r->json, path, "original_max_position_embeddings", 1, INT32_MAX, false, &original, err));
    SG_TRY(sg_json_f32(r->json, path, "beta_fast", 1e-3, FACTOR_MAX, false, &fast, err));
    SG_TRY(sg_json_f32(r->json, path, "beta_slow", 1e-3, FACTOR_MAX, false, &slow, err));
    SG_TRY(sg_json_f32(r->json, path, "attention_factor", 1e-3, FACTOR_MAX, false, &attention, err));
    SG_TRY(sg_json_f32(r->json, path, "mscale", 0, FACTOR_MAX, false, &mscale, err));
    SG_TRY(sg_json_f32(r->json, path, "mscale_all_dim", 0, FACTOR_MAX, false, &mscale_all, err));
    SG_TRY(sg_json_bool(r->json, path, "truncate", &truncate, err));
    if (!truncate && !(r->c->arch->flags & SG_HF_LOOSE_YARN))
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: YaRN with truncate = false is not known", path);
    if (!truncate) sg_log_line(r->f->log, SG_LOG_INFO, "%s: the ends of the YaRN ramp are rounded, as GGUF means it", path);
    const float step = 0.1f * logf(factor);
    if (attention == 0 && mscale > 0 && mscale_all > 0) attention = (mscale * step + 1) / (mscale_all * step + 1);
    sg_conv_set_str(hp, "rope.scaling.type", "yarn");
    sg_conv_set_f32(hp, "rope.scaling.factor", factor);
    sg_conv_set_u32(hp, "rope.scaling.original_context_length", original);
    set_positive(hp, "rope.scaling.yarn_beta_fast", fast);
    set_positive(hp, "rope.scaling.yarn_beta_slow", slow);
    if (!(r->c->arch->flags & SG_HF_MLA_YARN)) {
        set_positive(hp, "rope.scaling.attn_factor", attention / (step + 1));
        return SG_OK;
    }
    if (attention != 1)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: YaRN with mscale %g and mscale_all_dim %g is not known, only the same for both",
                       path, mscale, mscale_all);
    sg_conv_set_f32(hp, "rope.scaling.yarn_log_multiplier", 0.1f * mscale_all);
    return SG_OK;
}

static sg_status read_factors(rope *r, const char *key, int slot, const char *name, sg_error *err) {
    const cJSON *list = sg_json_get(r->json, key), *e;
    const uint32_t n = r->n_rot / 2;
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != (int)n)
        return sg_fail(err, SG_E_FORMAT, "%s: \"%s\" is no list of %u numbers", r->f->path, key, n);
    float *v = add_factors(r, slot, n, name);
    if (!v) return sg_fail(err, SG_E_NOMEM, "%s: no memory", r->f->path);
    cJSON_ArrayForEach(e, list) {
        if (!cJSON_IsNumber(e) || !(e->valuedouble >= 1e-6 && e->valuedouble <= FACTOR_MAX))
            return sg_fail(err, SG_E_FORMAT, "%s: \"%s\" holds something that is no positive number", r->f->path, key);
        *v++ = (float)e->valuedouble;
    }
    return SG_OK;
}

/* LongRoPE (arXiv 2402.13753): a factor per frequency, one set while the context is short, another when it is long. */
static sg_status read_longrope(rope *r, sg_error *err) {
    const char *path = r->f->path;
    const uint32_t ctx = (uint32_t)r->c->v[SG_H_CTX];
    uint32_t original = ctx;
    float factor = 0, attention = 0;
    SG_TRY(sg_json_u32(r->f->text, path, "original_max_position_embeddings", 2, INT32_MAX, false, &original, err));
    SG_TRY(sg_json_u32(r->json, path, "original_max_position_embeddings", 2, INT32_MAX, false, &original, err));
    SG_TRY(sg_json_f32(r->json, path, "factor", 1e-3, FACTOR_MAX, false, &factor, err));
    SG_TRY(sg_json_f32(r->json, path, "attention_factor", 1e-3, FACTOR_MAX, false, &attention, err));
    SG_TRY(read_factors(r, "long_factor", 0, "rope_factors_long.weight", err));
    SG_TRY(read_factors(r, "short_factor", 1, "rope_factors_short.weight", err));
    const double scale = factor > 0 ? factor : (double)ctx / original;
    if (attention == 0) attention = scale > 1 ? (float)sqrt(1 + log(scale) / log(original)) : 1;
    sg_conv_set_u32(&r->m->hp, "rope.scaling.original_context_length", original);
    sg_conv_set_f32(&r->m->hp, "rope.scaling.attn_factor", attention);
    return SG_OK;
}

static sg_status read_scaling(rope *r, sg_error *err) {
    const char *type = sg_json_str(r->json, "rope_type");
    if (!type) type = sg_json_str(r->json, "type");
    if (!type || strcmp(type, "default") == 0) return SG_OK;
    if (strcmp(type, "llama3") == 0) return llama3_freqs(r, err);
    if ((strcmp(type, "longrope") == 0 || strcmp(type, "su") == 0) && (r->c->arch->flags & SG_HF_LONGROPE))
        return read_longrope(r, err);
    if (strcmp(type, "yarn") == 0) return read_yarn(r, err);
    if (strcmp(type, "linear") == 0) {
        float factor = 1;
        SG_TRY(sg_json_f32(r->json, r->f->path, "factor", 1e-3, FACTOR_MAX, true, &factor, err));
        sg_conv_set_str(&r->m->hp, "rope.scaling.type", "linear");
        sg_conv_set_f32(&r->m->hp, "rope.scaling.factor", factor);
        return SG_OK;
    }
    return sg_fail(err, SG_E_UNSUPPORTED, "%s: the rotary scaling %.40s is not known (default, linear, yarn, llama3%s)",
                   r->f->path, type, r->c->arch->flags & SG_HF_LONGROPE ? ", longrope" : "");
}

/* Windowed layers that turn by a base of their own: GGUF has no key for it, 10000 is meant. */
static sg_status check_local(rope *r, const cJSON *local, sg_error *err) {
    float base = 10000;
    SG_TRY(sg_json_f32(r->f->text, r->f->path, "rope_local_base_freq", 1, 1e12, false, &base, err));
    SG_TRY(sg_json_f32(local, r->f->path, "rope_theta", 1, 1e12, false, &base, err));
    const char *type = sg_json_str(local, "rope_type");
    if (base == 10000 && (!type || strcmp(type, "default") == 0)) return SG_OK;
    return sg_fail(err, SG_E_UNSUPPORTED, "%s: windowed layers with rotary base %g and scaling %.40s are not known (10000, default)",
                   r->f->path, base, type ? type : "default");
}

static sg_status read_size(rope *r, sg_error *err) {
    const sg_hf_arch *a = r->c->arch;
    float partial = a->partial > 0 ? (float)a->partial : 1;
    SG_TRY(sg_json_f32(r->f->text, r->f->path, "partial_rotary_factor", 0, 1, false, &partial, err));
    SG_TRY(sg_json_f32(r->json, r->f->path, "partial_rotary_factor", 0, 1, false, &partial, err));
    if (partial != 1 && !(a->flags & SG_HF_PARTIAL))
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: partial_rotary_factor %g is not known, only 1", r->f->path, partial);
    r->n_rot = (uint32_t)r->c->v[SG_H_ROT];
    if (r->n_rot == 0) r->n_rot = (uint32_t)(r->c->v[SG_H_HEAD] * partial);
    if (r->n_rot == 0 || r->n_rot % 2)
        return sg_fail(err, SG_E_FORMAT, "%s: %u values of a head would turn, an even number above 0 can", r->f->path, r->n_rot);
    r->c->v[SG_H_ROT] = r->n_rot;
    sg_conv_set_u32(&r->m->hp, "rope.dimension_count", r->n_rot);
    return SG_OK;
}

/* Up to version 4 of the library: rope_theta and rope_scaling; from 5 on both in rope_parameters. */
sg_status sg_hf_rope_read(const sg_hf_json *f, sg_hf_config *c, sg_conv_model *m, sg_error *err) {
    if (c->arch->flags & SG_HF_NO_ROPE) return SG_OK;
    rope r = { .f = f, .json = sg_json_get(f->text, "rope_parameters"), .c = c, .m = m };
    if (!r.json) r.json = sg_json_get(f->text, "rope_scaling");
    if (r.json && !cJSON_IsObject(r.json))
        return sg_fail(err, SG_E_FORMAT, "%s: the rotary parameters are no object", f->path);
    const cJSON *full = sg_json_get(r.json, "full_attention");
    if (c->arch->flags & SG_HF_LOCAL_ROPE) SG_TRY(check_local(&r, sg_json_get(r.json, "sliding_attention"), err));
    if (cJSON_IsObject(full)) r.json = full;
    r.base = c->arch->theta > 0 ? (float)c->arch->theta : 10000.0f;
    SG_TRY(sg_json_f32(f->text, f->path, "rope_theta", 1, 1e12, false, &r.base, err));
    SG_TRY(sg_json_f32(r.json, f->path, "rope_theta", 1, 1e12, false, &r.base, err));
    sg_conv_set_f32(&m->hp, "rope.freq_base", r.base);
    SG_TRY(read_size(&r, err));
    return read_scaling(&r, err);
}
