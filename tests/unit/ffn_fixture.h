/* Layers of small random neuron bundles, run by a team as the executor does it. A bundle can be made again of some of its
 * neurons, in any order: what the engine leaves out must be as if it were not there. */
#ifndef SG_TESTS_FFN_FIXTURE_H
#define SG_TESTS_FFN_FIXTURE_H

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "neuron_engine/ffn.h"
#include "neuron_engine/quant.h"

#define SPARE 3u       /* values between the tokens of y, which must stay */
#define GUARD 12345.0f /* what they hold */

static uint32_t noise_state = 7;
static inline float noise(void) { /* even between -1 and 1 */
    noise_state = noise_state * 1664525u + 1013904223u;
    return (float)(noise_state >> 8) / 8388608.0f - 1.0f;
}

static inline sg_kernels kernels_of(bool plain) {
    sg_kernels k;
    sg_kernels_init(&k, plain ? 0 : sg_cpu_detect());
    return k;
}

/* One layer. raw: rows of k values as in GGUF, of all neurons, expert by expert: gate, up, down. */
typedef struct net {
    sg_bundle_layout shape;
    uint8_t *raw[3], *data;
    size_t row[3];
} net;

static inline sg_dtype net_type(const sg_bundle_layout *l, int part) {
    return part == 0 ? l->gate_type : part == 1 ? l->up_type : l->down_type;
}

/* Rows of each kind. */
static inline uint32_t net_rows(const sg_bundle_layout *l) { return l->n_neurons * (l->n_expert ? l->n_expert : 1); }

/* The bundle from the raw rows. */
static inline void net_pack(net *m) {
    const sg_bundle_layout *l = &m->shape;
    free(m->data);
    m->data = sg_aligned_calloc(64, l->n_clusters, l->cluster_bytes);
    ck_assert_ptr_nonnull(m->data);
    for (uint32_t i = 0; i < net_rows(l); i++) {
        const uint32_t at = i % l->n_neurons;
        uint8_t *cluster = m->data + (i / l->n_neurons * l->per_expert + at / l->per_cluster) * l->cluster_bytes;
        uint8_t *record = cluster + l->records_at + at % l->per_cluster * l->record;
        sg_dot_row_pack(l->gate_type, cluster + at % l->per_cluster * l->gate_row, m->raw[0] + i * m->row[0], l->k);
        if (l->gated) sg_dot_row_pack(l->up_type, record, m->raw[1] + i * m->row[1], l->k);
        sg_down_row_pack(l->down_type, record + l->up_row, m->raw[2] + i * m->row[2], l->k);
    }
}

/* A bundle of the `n` neurons of `list` of another, or (of == NULL) of n random ones, of each expert; shape: its first eight members. */
static inline net net_make(sg_bundle_layout shape, const net *of, const uint32_t *list, uint32_t n) {
    net m = { .shape = shape };
    m.shape.n_neurons = n;
    ck_assert(sg_bundle_layout_init(&m.shape));
    float *v = calloc(shape.k, sizeof *v);
    for (int part = 0; part < 3; part++) {
        m.row[part] = (size_t)sg_dtype_bytes(sg_dtype_get((uint32_t)net_type(&m.shape, part)), shape.k);
        m.raw[part] = malloc(net_rows(&m.shape) * m.row[part]);
        for (uint32_t i = 0; i < net_rows(&m.shape); i++) {
            if (of) {
                memcpy(m.raw[part] + i * m.row[part], of->raw[part] + list[i] * m.row[part], m.row[part]);
                continue;
            }
            for (uint32_t j = 0; j < shape.k; j++) v[j] = 0.2f * noise();
            sg_quantize(net_type(&m.shape, part), v, m.raw[part] + i * m.row[part], shape.k);
        }
    }
    free(v);
    net_pack(&m);
    return m;
}

static inline void net_free(net *m) {
    for (int part = 0; part < 3; part++) free(m->raw[part]);
    free(m->data);
    memset(m, 0, sizeof *m);
}

/* n tokens with their 8-bit form (k % 32 == 0). */
static inline sg_acts acts_make(uint32_t n, uint32_t k, float size) {
    sg_acts a = { .n = n, .k = k, .n_blocks = k / 32 };
    float *x = sg_aligned_calloc(64, (size_t)n * k, sizeof *x);
    for (size_t i = 0; i < (size_t)n * k; i++) x[i] = size * noise();
    a.x = x;
    a.q = sg_aligned_calloc(64, n, k);
    a.d = sg_aligned_calloc(64, (size_t)n * a.n_blocks + 1, sizeof *a.d);
    a.sums = sg_aligned_calloc(64, 2 * (size_t)n * a.n_blocks + 1, sizeof *a.sums);
    a.dsum = sg_aligned_calloc(64, (size_t)n * a.n_blocks + 1, sizeof *a.dsum);
    const sg_kernels kernels = kernels_of(false);
    for (uint32_t t = 0; t < n && k % 32 == 0; t++) kernels.vec.quantize_acts(&a, t);
    return a;
}

/* Quantises again after x has been changed. */
static inline void acts_refresh(sg_acts *a) {
    const sg_kernels kernels = kernels_of(false);
    for (uint32_t t = 0; t < a->n; t++) kernels.vec.quantize_acts(a, t);
}

static inline void acts_free(sg_acts *a) {
    free((void *)(uintptr_t)a->x);
    free(a->q);
    free(a->d);
    free(a->sums);
    free(a->dsum);
}

/* How a layer is computed. */
typedef struct setup {
    sg_neuron_act act;
    sg_ffn_policy policy;
    float fat_threshold, dense_share; /* 0: as laid out */
    uint32_t threads, batch;          /* tokens at a time; 0: all, and one thread */
    bool plain;                       /* the reference kernels */
    const float *down_max;            /* of the bundle */
    const sg_predictor *predictor;
    const float *residual; /* what predictors read, if given */
    float *gate, *h;       /* [n tokens][n_neurons], with experts [n tokens][n_used][n_neurons], if given: what an observer sees */
    const float *gate_bias, *up_bias, *down_bias;
    uint32_t n_used;        /* of the route, which there is when `weight` is set: of all tokens of x */
    const uint32_t *expert;
    const float *weight;
    bool lossy;             /* what has weight 0 is left out */
    sg_ffn_count count;    /* out */
} setup;

typedef struct ffn_job {
    sg_ffn f;
    const sg_acts *x;
    float *y;
    sg_team *team;
    uint32_t batch, at; /* at: first token of the batch, for the observer */
    setup *s;
} ffn_job;

static inline void keep_sample(void *user, const sg_ffn_sample *sample) {
    const ffn_job *j = user;
    const uint32_t used = sample->n_used;
    ck_assert_uint_eq(sample->unit, 0);
    ck_assert((sample->expert != NULL) == (j->s->expert != NULL));
    for (uint32_t i = 0; i < sample->n * used; i++) {
        const size_t to = ((size_t)j->at * used + i) * sample->n_neurons, from = (size_t)(i / used) * sample->ld + i % used * sample->apart;
        if (sample->expert) ck_assert_uint_eq(sample->expert[i], j->s->expert[(size_t)j->at * used + i]);
        memcpy(j->s->gate + to, sample->gate + from, sample->n_neurons * sizeof(float));
        memcpy(j->s->h + to, sample->h + from, sample->n_neurons * sizeof(float));
    }
}

static inline void ffn_work(void *arg, uint32_t thread) {
    ffn_job *j = arg;
    const sg_acts *x = j->x;
    for (uint32_t at = 0; at < x->n; at += j->batch) {
        sg_acts some = sg_acts_rows(x, at, 1);
        some.n = x->n - at < j->batch ? x->n - at : j->batch;
        for (uint32_t t = thread; j->f.x.q && t < some.n; t += sg_team_size(j->team)) sg_lane_acts_fill(&j->f.x, &some, t);
        if (thread == 0) {
            j->f.x.x = some.x;
            j->at = at;
        }
        sg_team_barrier(j->team);
        const size_t ldy = x->k + SPARE;
        const float *residual = j->s->residual ? j->s->residual + (size_t)at * x->k : some.x;
        const size_t first = (size_t)at * j->s->n_used;
        const sg_ffn_route route = { j->s->n_used, j->s->expert ? j->s->expert + first : NULL, j->s->weight ? j->s->weight + first : NULL, j->s->lossy };
        sg_ffn_run(&j->f, 0, &some, residual, j->s->weight ? &route : NULL, j->y + at * ldy, ldy, j->team, thread);
        sg_team_barrier(j->team);
    }
}

/* y of all tokens, [x->n][k + SPARE], to be freed by the caller. */
static inline float *ffn_run(const net *m, setup *s, const sg_acts *x) {
    const sg_kernels kernels = kernels_of(s->plain);
    const sg_bundle_layout *l = &m->shape;
    const sg_neuron_kernel *const *of = kernels.neuron;
    sg_ffn_layer layer = { .bundle = { *l, m->data, of[l->gate_type], of[l->up_type], of[l->down_type], s->down_max },
                           .fat_threshold = s->fat_threshold, .n_used = l->n_expert ? s->n_used : 0, .gate_bias = s->gate_bias,
                           .up_bias = s->up_bias, .down_bias = s->down_bias };
    ck_assert(sg_ffn_layer_valid(&layer));
    if (s->predictor) layer.predictor = *s->predictor;
    ffn_job j = { .x = x, .batch = s->batch ? s->batch : x->n, .s = s };
    sg_error err = { 0 };
    ck_assert_int_eq(sg_team_create(s->threads ? s->threads : 1, &j.team, &err), SG_OK);
    j.f = (sg_ffn) { .kernels = &kernels, .layers = &layer, .act = s->act, .policy = s->policy, .n_unit = 1, .n_batch = j.batch,
                     .n_threads = sg_team_size(j.team), .k = l->k, .pred_residual = s->residual != NULL };
    sg_carver c = { 0 };
    sg_ffn_lay_out(&j.f, &c);
    char *memory = sg_aligned_calloc(64, 1, c.used);
    ck_assert_ptr_nonnull(memory);
    memset(memory, 0xff, c.used); /* NaN: nothing may count on zeros but the counters */
    c = (sg_carver) { .base = memory };
    sg_ffn_lay_out(&j.f, &c);
    memset(j.f.counts, 0, j.f.n_threads * sizeof *j.f.counts);
    if (s->dense_share > 0) j.f.dense_share = s->dense_share;
    if (s->gate) {
        j.f.observe = keep_sample;
        j.f.observe_user = &j;
        j.f.observed = malloc((size_t)j.batch * j.f.ld * sizeof(float));
    }
    const size_t ldy = l->k + SPARE;
    j.y = malloc(x->n * ldy * sizeof *j.y);
    for (size_t i = 0; i < x->n * ldy; i++) j.y[i] = GUARD;
    sg_team_run(j.team, ffn_work, &j);
    for (size_t i = 0; i < x->n * ldy; i++)
        if (i % ldy >= l->k) ck_assert(j.y[i] == GUARD);
    s->count = sg_ffn_total(&j.f);
    if (s->gate) free(j.f.observed);
    sg_team_destroy(&j.team);
    free(memory);
    return j.y;
}

/* ---- what the tests share ---- */

#define K 288u
#define TOKENS 7u

static const sg_dtype types[][3] = { /* gate, up, down */
    { SG_DTYPE_F32, SG_DTYPE_F32, SG_DTYPE_F32 },    { SG_DTYPE_F16, SG_DTYPE_F16, SG_DTYPE_F16 },
    { SG_DTYPE_Q8_0, SG_DTYPE_Q8_0, SG_DTYPE_Q8_0 }, { SG_DTYPE_Q4_0, SG_DTYPE_Q4_0, SG_DTYPE_Q4_0 },
    { SG_DTYPE_Q8_0, SG_DTYPE_F32, SG_DTYPE_Q4_0 },  { SG_DTYPE_F16, SG_DTYPE_Q4_0, SG_DTYPE_Q8_0 },
};
enum { N_TYPES = sizeof types / sizeof *types, N_ACTS = SG_ACT_OAI + 1 };

/* Every test runs for all of types, gated and not. */
#define CASES (2 * N_TYPES)
static inline sg_bundle_layout case_shape(int i) {
    const sg_dtype *t = types[i / 2];
    return (sg_bundle_layout) { .k = K, .per_cluster = i % 4 < 2 ? 32 : 64, .gated = i % 2 == 0, .gate_type = t[0],
                                .up_type = t[1], .down_type = t[2] };
}
static inline net case_net(int i) { return net_make(case_shape(i), NULL, NULL, 163); }
static inline bool quantised(sg_dtype type) { return type == SG_DTYPE_Q8_0 || type == SG_DTYPE_Q4_0; }

static inline void same_bits(const float *a, const float *b, uint32_t n, const char *what, int i) {
    const size_t size = n * (size_t)(K + SPARE);
    for (size_t j = 0; j < size; j++)
        ck_assert_msg(memcmp(a + j, b + j, sizeof *a) == 0, "%s, case %d: value %zu is %a, not %a", what, i, j, (double)b[j],
                      (double)a[j]);
}

/* The reference kernels' bits and counts, whatever the mode, the threads and the batches. act: so that in the end every mode meets every
 * number of threads and tokens. */
static inline void same_every_way(const net *m, setup *s, const sg_acts *x, int act) {
    static const sg_ffn_mode modes[] = { SG_FFN_AUTO, SG_FFN_SPARSE, SG_FFN_DENSE };
    static const uint32_t batches[] = { 1, 3, TOKENS };
    s->plain = true;
    float *want = ffn_run(m, s, x);
    const sg_ffn_count count = s->count;
    s->plain = false;
    for (int way = 0; way < 12; way++) {
        s->policy.mode = modes[(way + way / 3 + act) % 3];
        s->batch = batches[way % 3];
        s->threads = 1 + (uint32_t)way / 3;
        s->dense_share = way % 2 ? 0.3f : 1; /* ReLU: about half of the neurons are live */
        float *y = ffn_run(m, s, x);
        same_bits(want, y, TOKENS, "another way", act * 100 + way);
        ck_assert_uint_eq(s->count.neurons, count.neurons);
        ck_assert_uint_eq(s->count.active, count.active);
        free(y);
    }
    free(want);
}

/* The layer made of the n neurons of `list` alone gives y for token t. */
static inline void same_as_some(const net *m, setup s, const sg_acts *x, uint32_t t, const uint32_t *list, uint32_t n,
                                const float *y, const char *what, int i) {
    const sg_acts one = sg_acts_rows(x, t, 1);
    if (n == 0) { /* there are no empty bundles */
        for (uint32_t j = 0; j < K; j++) ck_assert(y[(size_t)t * (K + SPARE) + j] == 0);
        return;
    }
    net some = net_make(m->shape, m, list, n);
    s.policy = (sg_ffn_policy) { 0 };
    s.predictor = NULL;
    s.gate = s.h = NULL;
    s.expert = NULL;
    s.weight = s.gate_bias = s.up_bias = s.down_bias = NULL;
    s.residual = NULL;
    s.batch = s.threads = 1;
    float *want = ffn_run(&some, &s, &one);
    same_bits(want, y + (size_t)t * (K + SPARE), 1, what, i);
    free(want);
    net_free(&some);
}

#endif
