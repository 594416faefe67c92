/* Layers of random keys, values and queries, fed into a cache in batches and evaluated in tiles; for the tests of attention and of
 * its cache. */
#ifndef SG_TESTS_ATTENTION_FIXTURE_H
#define SG_TESTS_ATTENTION_FIXTURE_H

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "neuron_engine/attention.h"

static uint32_t state = 7;
static float noise(void) {
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / 8388608.0f - 1.0f;
}

/* One layer. */
typedef struct layer {
    sg_attention a;
    float *k, *v, *q, *sinks; /* k, v: [position][kv head][dim], q: [position][head][q_stride] */
} layer;

typedef struct model {
    sg_kv_type type;
    uint32_t n_ctx, n_layer;
    layer layers[4];
    sg_attention att[4]; /* of the layers */
} model;

static float *noise_array(size_t n, float scale) {
    float *x = malloc((n ? n : 1) * sizeof *x);
    ck_assert_ptr_nonnull(x);
    for (size_t i = 0; i < n; i++) x[i] = scale * noise();
    return x;
}

/* Adds a layer like `a`, with sinks when has_sinks: the first head's is -inf, which is none. */
static void add_layer(model *m, sg_attention a, bool has_sinks) {
    layer *l = &m->layers[m->n_layer];
    l->a = a;
    l->k = noise_array((size_t)m->n_ctx * a.n_head_kv * a.head_dim_k, 2);
    l->v = noise_array((size_t)m->n_ctx * a.n_head_kv * a.head_dim_v, 1);
    l->q = noise_array((size_t)m->n_ctx * a.n_head * (a.q_stride ? a.q_stride : a.head_dim_k), 1);
    l->sinks = noise_array(a.n_head, 3);
    if (has_sinks) l->sinks[0] = -INFINITY;
    if (has_sinks) l->a.sinks = l->sinks;
    m->att[m->n_layer++] = l->a;
}

static void free_model(model *m) {
    for (uint32_t i = 0; i < m->n_layer; i++) {
        free(m->layers[i].k);
        free(m->layers[i].v);
        free(m->layers[i].q);
        free(m->layers[i].sinks);
    }
}

static const float *at(const layer *l, const float *x, uint32_t dim, uint32_t pos, uint32_t kv_head) {
    return x + ((size_t)pos * l->a.n_head_kv + kv_head) * dim;
}

static const float *query(const layer *l, uint32_t pos, uint32_t h) {
    return l->q + ((size_t)pos * l->a.n_head + h) * (l->a.q_stride ? l->a.q_stride : l->a.head_dim_k);
}

static void init_cache(const model *m, sg_kv_cache *c, const sg_kernels *kernels, uint32_t n_ctx, uint32_t n_batch) {
    sg_error err = { 0 };
    ck_assert_msg(sg_kv_init(c, m->type, kernels, m->att, m->n_layer, n_ctx, n_batch, &err) == SG_OK, "%s", err.message);
    ck_assert_uint_eq(sg_kv_bytes(m->type, m->att, m->n_layer, n_ctx, n_batch), c->k.size + c->v.size);
}

static void store(const model *m, sg_kv_cache *c, const sg_kernels *kernels, uint32_t pos, uint32_t n) {
    for (uint32_t i = 0; i < m->n_layer; i++)
        for (uint32_t p = pos; p < pos + n; p++)
            for (uint32_t h = 0; m->att[i].n_head && h < m->att[i].n_head_kv; h++) {
                const layer *l = &m->layers[i];
                sg_kv_store(&l->a, c, &kernels->vec, i, p, h, at(l, l->k, l->a.head_dim_k, p, h), at(l, l->v, l->a.head_dim_v, p, h));
            }
}

/* Values of one token in the outputs of all layers. */
static size_t width_of(const model *m) {
    size_t n = 0;
    for (uint32_t i = 0; i < m->n_layer; i++) n += (size_t)m->att[i].n_head * m->att[i].head_dim_v;
    return n;
}

/* Layer i of tokens pos .. pos + n-1, which are in the cache, by tiles of up to `tile` tokens (1: in parts); out[n][ldo]. */
static void run_layer(const model *m, const sg_kv_cache *c, const sg_kernels *kernels, uint32_t i, uint32_t pos, uint32_t n, uint32_t tile,
                      float *out, size_t ldo) {
    const sg_attention *a = &m->att[i];
    const size_t ldq = (size_t)a->n_head * (a->q_stride ? a->q_stride : a->head_dim_k);
    const size_t n_parts = (size_t)sg_attention_most_segments(a, m->n_ctx) * sg_attention_part_floats(a) * a->n_head;
    sg_attention_scratch s;
    void *memory = sg_aligned_calloc(64, sg_attention_scratch_init(&s, m->att, m->n_layer, NULL), 1);
    float *parts = malloc((n_parts ? n_parts : 1) * sizeof *parts);
    sg_attention_scratch_init(&s, m->att, m->n_layer, memory);
    if (tile > sg_attention_unit_tokens(a)) tile = sg_attention_unit_tokens(a);
    for (uint32_t u = 0; u < sg_attention_units(a); u++)
        for (uint32_t t = 0; t < n; t += tile) {
            const uint32_t p = pos + t, left = n - t < tile ? n - t : tile;
            if (tile > 1) {
                sg_attention_run(a, c, &kernels->vec, &s, i, u, p, left, query(&m->layers[i], p, 0), ldq, out + t * ldo, ldo);
                continue;
            }
            for (uint32_t g = sg_attention_segments(a, p); g-- > 0;) /* in any order */
                sg_attention_part(a, c, &kernels->vec, &s, i, u, p, g, query(&m->layers[i], p, 0), parts);
            sg_attention_join(a, &kernels->vec, &s, u, p, parts, out + t * ldo);
        }
    free(parts);
    free(memory);
}

/* Feeds positions pos .. end-1 in batches; the outputs of those from `from` on go to out[position - from][width_of]. */
static void feed(const model *m, sg_kv_cache *c, const sg_kernels *kernels, uint32_t pos, uint32_t end, uint32_t batch, uint32_t tile,
                 uint32_t from, float *out) {
    const size_t width = width_of(m);
    for (uint32_t n; pos < end; pos += n) {
        n = end - pos < batch ? end - pos : batch;
        store(m, c, kernels, pos, n);
        const uint32_t skip = pos >= from ? 0 : from - pos < n ? from - pos : n;
        size_t column = 0;
        for (uint32_t i = 0; i < m->n_layer && skip < n; column += (size_t)m->att[i].n_head * m->att[i].head_dim_v, i++)
            run_layer(m, c, kernels, i, pos + skip, n - skip, tile, out + (pos + skip - from) * width + column, width);
    }
}

#endif
