#include "neuron_engine/recurrent.h"

#include <math.h>
#include <string.h>

/* A piece of n x m x k values: SIZE_MAX in c->used when they cannot be counted. */
static float *carve_floats(sg_carver *c, uint64_t n, uint64_t m, uint64_t k) {
    uint64_t rows, all;
    if (!sg_mul_add(n, m, 0, &rows) || !sg_mul_add(rows, k, 0, &all) || all > SIZE_MAX) {
        c->used = SIZE_MAX;
        return NULL;
    }
    float *p = sg_carve(c, (size_t)all, sizeof *p);
    return all ? p : NULL;
}

/* With base NULL only measures. */
static void lay_out(sg_recurrent_state *s, sg_carver *c, const sg_recurrent_shape *layers) {
    s->layers = sg_carve(c, s->n_layer, sizeof *s->layers);
    const size_t table = c->used;
    s->values = c->base ? (float *)(void *)(c->base + table) : NULL;
    for (uint32_t i = 0; i < s->n_layer; i++) {
        const sg_recurrent_shape *l = &layers[i];
        float *conv = carve_floats(c, l->taps ? l->taps - 1 : 0, l->channels, 1);
        float *delta = carve_floats(c, l->n_heads, l->dk, l->dv);
        if (c->base) s->layers[i] = (struct sg_recurrent_place){ conv, delta };
    }
    s->n_values = c->used == SIZE_MAX ? 0 : (c->used - table) / sizeof(float);
}

uint64_t sg_recurrent_bytes(const sg_recurrent_shape *layers, uint32_t n_layer) {
    sg_recurrent_state s = { .n_layer = n_layer };
    sg_carver c = { 0 };
    lay_out(&s, &c, layers);
    return c.used == SIZE_MAX ? UINT64_MAX : c.used;
}

sg_status sg_recurrent_init(sg_recurrent_state *s, const sg_recurrent_shape *layers, uint32_t n_layer, sg_error *err) {
    *s = (sg_recurrent_state){ .n_layer = n_layer };
    for (uint32_t i = 0; i < n_layer; i++)
        if (layers[i].taps > SG_CONV_TAPS_MAX || (layers[i].channels > 0 && layers[i].taps == 0))
            return sg_fail(err, SG_E_UNSUPPORTED, "layer %u: a convolution of %u taps (1 to %u are supported)", i, layers[i].taps,
                           SG_CONV_TAPS_MAX);
    sg_carver c = { 0 };
    lay_out(s, &c, layers);
    if (c.used == SIZE_MAX) return sg_fail(err, SG_E_NOMEM, "the state of the recurrent layers is too large");
    SG_TRY(sg_region_create(&s->memory, c.used, "the state of the recurrent layers", err));
    c = (sg_carver){ s->memory.data, 0 };
    lay_out(s, &c, layers);
    return SG_OK;
}

void sg_recurrent_finish(sg_recurrent_state *s) {
    sg_region_destroy(&s->memory);
    *s = (sg_recurrent_state){ 0 };
}

size_t sg_recurrent_flat_bytes(const sg_recurrent_state *s) { return s->n_values * sizeof *s->values; }

void sg_recurrent_clear(sg_recurrent_state *s) {
    if (s->n_values) memset(s->values, 0, sg_recurrent_flat_bytes(s));
}

void sg_recurrent_save(const sg_recurrent_state *s, void *flat) {
    if (s->n_values) memcpy(flat, s->values, sg_recurrent_flat_bytes(s));
}

void sg_recurrent_restore(sg_recurrent_state *s, const void *flat) {
    if (s->n_values) memcpy(s->values, flat, sg_recurrent_flat_bytes(s));
}

/* Channels from .. to-1 of `width`, in place. A convolution of one tap has no state. */
static void conv_in_place(const sg_vec_fns *vec, float *state, float *x, size_t ld, const float *w, size_t width, uint32_t taps,
                          uint32_t n, size_t from, size_t to, bool silu) {
    const sg_conv_args a = { .out = x + from, .x = x + from, .state = state ? state + from : NULL, .w = w + from * taps, .ld_out = ld, .ldx = ld,
                             .ld_state = width, .n = n, .channels = (uint32_t)(to - from), .taps = taps, .silu = silu };
    vec->conv(&a);
}

void sg_short_conv_run(const sg_short_conv *c, const sg_vec_fns *vec, float *state, float *bcx, size_t ld, float *out, size_t ld_out,
                       uint32_t n, uint32_t from, uint32_t to) {
    const size_t m = to - from;
    for (uint32_t t = 0; t < n; t++) {
        float *b = bcx + t * ld + from;
        vec->mul(b, b, b + 2 * (size_t)c->width, m);
    }
    conv_in_place(vec, state, bcx, ld, c->w, c->width, c->taps, n, from, to, false);
    for (uint32_t t = 0; t < n; t++) {
        const float *b = bcx + t * ld + from;
        vec->mul(out + t * ld_out + from, b, b + c->width, m);
    }
}

sg_recurrent_shape sg_delta_shape(const sg_delta *d) {
    return (sg_recurrent_shape){ d->taps, (uint32_t)sg_delta_channels(d), d->n_value, d->dk, d->dv };
}

/* Where a head, counted through, begins in a row of qkv; sg_delta_parts: the end. */
static size_t part_at(const sg_delta *d, uint32_t part) {
    const uint32_t keys = 2 * d->n_key;
    return part < keys ? (size_t)part * d->dk : (size_t)keys * d->dk + (size_t)(part - keys) * d->dv;
}

void sg_delta_prepare(const sg_delta *d, const sg_vec_fns *vec, float *state, float *qkv, size_t ld, uint32_t n, uint32_t from,
                      uint32_t to) {
    conv_in_place(vec, state, qkv, ld, d->conv, (size_t)sg_delta_channels(d), d->taps, n, part_at(d, from), part_at(d, to), true);
    const float by = 1.0f / sqrtf((float)d->dk);
    for (uint32_t p = from; p < to && p < 2 * d->n_key; p++)
        for (uint32_t t = 0; t < n; t++) {
            float *x = qkv + t * ld + part_at(d, p);
            vec->l2norm(x, x, d->dk, d->eps);
            if (p < d->n_key) vec->scale(x, d->dk, by);
        }
}

void sg_delta_split_gates(const sg_delta *d, const float *ba, float *beta, float *alpha, uint32_t n) {
    const uint32_t per_key = d->n_value / d->n_key;
    const size_t bytes = per_key * sizeof *ba;
    for (size_t i = 0; i < (size_t)n * d->n_key; i++, ba += 2 * per_key) {
        memcpy(beta + i * per_key, ba, bytes);
        memcpy(alpha + i * per_key, ba + per_key, bytes);
    }
}

/* alpha and beta become decay and sigmoid. */
static void open_gates(const sg_delta *d, const sg_vec_fns *vec, const sg_delta_io *io, uint32_t n, uint32_t from, uint32_t to) {
    const size_t m = to - from;
    for (uint32_t t = 0; t < n; t++) {
        float *x = io->alpha + (size_t)t * d->n_value + from, *beta = io->beta + (size_t)t * d->n_value + from;
        vec->add(x, d->dt_bias + from, m);
        vec->softplus(x, x, m);
        vec->mul(x, x, d->a + from, m);
        vec->exp(x, x, m);
        vec->sigmoid_mul(beta, beta, NULL, m);
    }
}

void sg_delta_run(const sg_delta *d, const sg_vec_fns *vec, float *state, const sg_delta_io *io, uint32_t n, uint32_t from, uint32_t to) {
    open_gates(d, vec, io, n, from, to);
    for (uint32_t h = from; h < to; h++) {
        const uint32_t key = d->key_modulo ? h % d->n_key : h / (d->n_value / d->n_key);
        const sg_delta_args a = { .state = state + (size_t)h * d->dk * d->dv, .out = io->out + (size_t)h * d->dv,
                                  .q = io->qkv + part_at(d, key), .k = io->qkv + part_at(d, d->n_key + key),
                                  .v = io->qkv + part_at(d, 2 * d->n_key + h), .decay = io->alpha + h, .beta = io->beta + h,
                                  .ld_out = io->ld_out, .ld_qk = io->ld_qkv, .ld_v = io->ld_qkv, .ld_gates = d->n_value, .n = n,
                                  .dk = d->dk, .dv = d->dv };
        vec->delta(&a);
        for (uint32_t t = 0; t < n; t++) {
            float *o = io->out + t * io->ld_out + (size_t)h * d->dv;
            vec->rmsnorm(o, o, d->norm, d->dv, d->eps);
            vec->silu_mul(o, io->z + t * io->ld_z + (size_t)h * d->dv, o, d->dv);
        }
    }
}
