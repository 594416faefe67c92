#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "neuron_engine/quant.h"
#include "runtime/calibrate/calibrate.h"

const float sg_cal_shares[SG_CAL_SHARES] = { 0.05f, 0.1f,  0.15f, 0.2f,  0.25f, 0.3f,  0.35f, 0.4f,  0.45f, 0.5f,  0.55f,
                                             0.6f,  0.65f, 0.7f,  0.75f, 0.8f,  0.85f, 0.9f,  0.95f, 0.97f, 0.98f, 0.99f };
const float sg_cal_recalls[SG_CAL_RECALLS] = { 0.80f, 0.90f, 0.95f, 0.98f, 0.99f };

size_t sg_cal_sample_bytes(const sg_cal *c) {
    const size_t one = (c->predictors ? c->k * sizeof(uint16_t) : 0) + c->words * sizeof(uint64_t) + sizeof(uint32_t);
    return c->most_samples * one + SG_CAL_BINS * sizeof(uint64_t) + sg_cal_route_bytes(&c->routes);
}

sg_status sg_cal_begin(sg_cal *c, uint32_t first, uint32_t end, sg_error *err) {
    c->first = first;
    c->end = end;
    for (uint32_t i = first; i < end; i++) {
        sg_cal_layer *l = &c->layers[i];
        l->counts = calloc((size_t)l->n_expert * l->n, sizeof *l->counts);
        l->order = calloc((size_t)l->n_expert * l->n, sizeof *l->order);
        l->magnitudes = calloc(SG_CAL_BINS, sizeof *l->magnitudes);
        if (c->predictors) l->x = malloc((size_t)c->most_samples * c->k * sizeof *l->x);
        l->bits = malloc((size_t)c->most_samples * c->words * sizeof *l->bits);
        l->expert = malloc(c->most_samples * sizeof *l->expert);
        if (!l->counts || !l->order || !l->magnitudes || (c->predictors && !l->x) || !l->bits || !l->expert)
            return sg_fail(err, SG_E_NOMEM, "%s: out of memory for the samples of layer %u", c->path, i);
    }
    return sg_cal_routes_begin(&c->routes, first, end, err);
}

void sg_cal_end_samples(sg_cal *c) {
    for (uint32_t i = c->first; i < c->end; i++) {
        sg_cal_layer *l = &c->layers[i];
        free(l->x);
        free(l->bits);
        free(l->expert);
        free(l->magnitudes);
        l->x = NULL;
        l->bits = NULL;
        l->expert = NULL;
        l->magnitudes = NULL;
    }
    sg_cal_routes_end_samples(&c->routes, c->first, c->end);
}

/* |act(g)| of n values, n at most SG_CLUSTER_MAX: what --lossy threshold compares (ffn_up.c, choose). */
static void magnitudes(const sg_cal *c, uint32_t layer, const float *g, float *out, uint32_t n) {
    sg_neuron_activate(c->kernels, c->act, c->fat_threshold ? c->fat_threshold[layer] : 0, g, out, n);
    for (uint32_t i = 0; i < n; i++) out[i] = fabsf(out[i]);
}

/* gate[n], h[n] of a token in a unit, or in one of its experts, whose counts are counts[n]; NULL: only magnitudes are wanted. */
static void count_use(const sg_cal *c, uint32_t layer, const float *gate, const float *h, uint32_t n_neurons, uint32_t *counts) {
    sg_cal_layer *l = &c->layers[layer];
    for (uint32_t i = 0; i < n_neurons; i += SG_CLUSTER_MAX) {
        const uint32_t n = n_neurons - i < SG_CLUSTER_MAX ? n_neurons - i : SG_CLUSTER_MAX;
        float a[SG_CLUSTER_MAX];
        magnitudes(c, layer, gate + i, a, n);
        for (uint32_t j = 0; j < n; j++) {
            uint32_t bits, is_active = h[i + j] != 0;
            memcpy(&bits, &a[j], sizeof bits);
            const uint32_t bin = bits >> SG_CAL_SHIFT;
            l->magnitudes[bin < SG_CAL_BINS ? bin : SG_CAL_BINS - 1]++;
            if (!counts) continue;
            counts[i + j] += is_active;
            l->active += is_active;
            l->positive += gate[i + j] > 0;
        }
    }
}

static void keep_use(const sg_cal *c, sg_cal_layer *l, const float *x, const float *h, uint32_t expert) {
    uint64_t *bits = l->bits + (size_t)l->n_samples * c->words;
    if (l->x) c->kernels->vec.f32_to_f16(l->x + (size_t)l->n_samples * c->k, x, c->k);
    memset(bits, 0, c->words * sizeof *bits);
    for (uint32_t i = 0; i < l->n; i++) bits[i / 64] |= (uint64_t)(h[i] != 0) << (i % 64);
    l->expert[l->n_samples++] = expert;
    if (l->tokens < c->n_train) l->n_train = l->n_samples;
}

void sg_cal_observe(void *user, const sg_ffn_sample *s) {
    sg_cal *c = user;
    const sg_cal_unit unit = c->units[s->unit];
    if (s->expert) sg_cal_see_stream(&c->routes, unit.layer, s->residual, s->k, s->n);
    if (unit.layer < c->first || unit.layer >= c->end) return;
    sg_cal_layer *l = &c->layers[unit.layer];
    for (uint32_t t = 0; t < s->n; t++) {
        /* of a token that is taken each of its experts in turns */
        const bool keep = unit.main && sg_cal_takes(l->tokens, c->n_tokens, l->n_samples, c->most_samples);
        const uint32_t which = l->n_samples % s->n_used;
        for (uint32_t u = 0; u < s->n_used; u++) {
            const size_t at = (size_t)t * s->ld + (size_t)u * s->apart;
            const uint32_t e = s->expert ? s->expert[(size_t)t * s->n_used + u] : 0;
            count_use(c, unit.layer, s->gate + at, s->h + at, s->n_neurons, unit.main ? l->counts + (size_t)e * l->n : NULL);
            if (keep && u == which) keep_use(c, l, s->x + (size_t)t * s->k, s->h + at, e);
        }
        if (!unit.main) continue;
        l->tokens++;
        l->uses += s->n_used;
    }
}

typedef struct ranked {
    uint32_t count, place;
} ranked;

static int hotter(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->count != y->count) return x->count < y->count ? 1 : -1;
    return x->place < y->place ? -1 : x->place > y->place;
}

void sg_cal_order(const uint32_t *counts, uint32_t n, uint32_t *order) {
    ranked *r = malloc(n * sizeof *r);
    for (uint32_t i = 0; i < n; i++) order[i] = i; /* without memory the order stays, which is slower and not wrong */
    if (!r) return;
    for (uint32_t i = 0; i < n; i++) r[i] = (ranked){ counts[i], i };
    qsort(r, n, sizeof *r, hotter);
    for (uint32_t i = 0; i < n; i++) order[i] = r[i].place;
    free(r);
}

static float value_of(uint32_t bits) {
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

float sg_cal_quantile(const uint64_t *bins, double share) {
    uint64_t total = 0, below = 0;
    for (uint32_t i = 0; i < SG_CAL_BINS; i++) total += bins[i];
    const double wanted = share * (double)total;
    uint32_t b = 0;
    while (b + 1 < SG_CAL_BINS && (double)(below + bins[b]) < wanted) below += bins[b++];
    /* In bin 0 there are zeros, and what is next to nothing. */
    if (b == 0 || bins[b] == 0) return 0;
    if (b == SG_CAL_BINS - 1) return value_of((SG_CAL_BINS - 1) * (1u << SG_CAL_SHIFT) - 1);
    const float lo = value_of(b << SG_CAL_SHIFT), hi = value_of(((b + 1) << SG_CAL_SHIFT) - 1);
    return lo + (hi - lo) * (float)((wanted - (double)below) / (double)bins[b]);
}
