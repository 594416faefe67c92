/* Samples for what names experts, and what is made of the fits. */
#include "runtime/calibrate/routes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "neuron_engine/quant.h"

#define LARGE ((size_t)4 << 20) /* bytes as F16 from which on Q8_0 is written */

static void hint_finish(sg_cal_hint *h) {
    free(h->rows);
    free(h->bias);
    *h = (sg_cal_hint) { 0 };
}

size_t sg_cal_route_bytes(const sg_cal_routes *r) {
    return r->n > 0 ? r->most_samples * (2 * r->k * sizeof(uint16_t) + r->n_expert * sizeof(float)) : 0;
}

sg_status sg_cal_routes_begin(sg_cal_routes *r, uint32_t first, uint32_t end, sg_error *err) {
    r->first = first;
    r->end = end;
    bool good = true;
    if (r->n > 0 && !r->e) {
        r->e = malloc((size_t)r->most_samples * r->k * sizeof *r->e);
        r->ones = malloc(r->k * sizeof *r->ones);
        r->row = malloc(r->k * sizeof *r->row);
        good = r->e && r->ones && r->row;
        for (uint32_t i = 0; good && i < r->k; i++) r->ones[i] = 1;
    }
    for (uint32_t i = 0; i < r->n; i++) {
        sg_cal_route *l = &r->layer[i];
        if (l->layer < first || l->layer >= end) continue;
        l->logits = malloc((size_t)r->most_samples * r->n_expert * sizeof *l->logits);
        if (l->follows) l->x = malloc((size_t)r->most_samples * r->k * sizeof *l->x);
        good = good && l->logits && (l->x || !l->follows);
    }
    return good ? SG_OK : sg_fail(err, SG_E_NOMEM, "%s: out of memory for the samples of routers", r->path);
}

void sg_cal_routes_end_samples(sg_cal_routes *r, uint32_t first, uint32_t end) {
    for (uint32_t i = 0; i < r->n; i++) {
        sg_cal_route *l = &r->layer[i];
        if (l->layer < first || l->layer >= end) continue;
        free(l->logits);
        free(l->x);
        l->logits = NULL;
        l->x = NULL;
    }
}

void sg_cal_routes_finish(sg_cal_routes *r) {
    sg_cal_routes_end_samples(r, 0, UINT32_MAX);
    for (uint32_t i = 0; i < r->n; i++) {
        sg_cal_route *l = &r->layer[i];
        hint_finish(&l->ahead);
        free(l->pre);
        free(l->pre_bias);
        free(l->w);
        free(l->b);
    }
    hint_finish(&r->pre);
    free(r->layer);
    free(r->ones);
    free(r->row);
    free(r->e);
    *r = (sg_cal_routes) { 0 };
}

/* ---- samples ---- */

static bool kept(const sg_cal_routes *r, uint64_t token, uint32_t n) { return sg_cal_takes(token, r->n_tokens, n, r->most_samples); }

static void see_embedded(sg_cal_routes *r, const float *rows, size_t ld, uint32_t n) {
    if (r->first > 0) return; /* they are there since the first pass */
    for (uint32_t t = 0; t < n; t++, r->embedded++) {
        if (!kept(r, r->embedded, r->n_e)) continue;
        r->vec->rmsnorm(r->row, rows + t * ld, r->ones, r->k, r->eps);
        r->vec->f32_to_f16(r->e + (size_t)r->n_e++ * r->k, r->row, r->k);
    }
}

static sg_cal_route *find(const sg_cal_routes *r, uint32_t layer) {
    for (uint32_t i = 0; i < r->n; i++)
        if (r->layer[i].layer == layer) return layer >= r->first && layer < r->end ? &r->layer[i] : NULL;
    return NULL;
}

void sg_cal_see_rows(void *user, sg_seen what, uint32_t layer, const float *rows, size_t ld, uint32_t n) {
    sg_cal_routes *r = user;
    if (what == SG_SEEN_EMBEDDED) {
        if (r->n > 0) see_embedded(r, rows, ld, n);
        return;
    }
    sg_cal_route *l = find(r, layer);
    for (uint32_t t = 0; l && t < n; t++, l->seen++) {
        if (!kept(r, l->seen, l->n)) continue;
        memcpy(l->logits + (size_t)l->n++ * r->n_expert, rows + t * ld, r->n_expert * sizeof *l->logits);
        if (l->seen < r->n_train) l->n_train = l->n;
    }
}

void sg_cal_see_stream(sg_cal_routes *r, uint32_t layer, const float *x, uint32_t k, uint32_t n) {
    sg_cal_route *l = find(r, layer + 1);
    if (!l || !l->x) return;
    for (uint32_t t = 0; t < n; t++, l->streams++) {
        const float *from = x + (size_t)t * k, *row = r->row;
        if (!kept(r, l->streams, l->n_x)) continue;
        if (!l->norm) row = from;
        else if (r->norm == SG_NORM_LAYER) r->vec->layernorm(r->row, from, l->norm, l->norm_bias, k, r->eps);
        else r->vec->rmsnorm(r->row, from, l->norm, k, r->eps);
        r->vec->f32_to_f16(l->x + (size_t)l->n_x++ * k, row, k);
    }
}

/* ---- what is to be written ---- */

/* Means over the layers that look-ahead reaches, and over the others. */
static void means(sg_cal_routes *r, uint32_t *n_ahead, uint32_t *n_first) {
    *n_ahead = *n_first = 0;
    for (uint32_t i = 0; i < r->n; i++) {
        const sg_cal_route *l = &r->layer[i];
        if (l->share[SG_CAL_GUESS_PRE] < 0) continue;
        if (l->follows) {
            r->pre_share += l->share[SG_CAL_GUESS_PRE];
            r->ahead_share += l->share[l->wanted ? SG_CAL_GUESS_AHEAD : SG_CAL_GUESS_ROUTER];
            ++*n_ahead;
        } else {
            r->pre_first += l->share[SG_CAL_GUESS_PRE];
            r->used_first += l->share[SG_CAL_GUESS_USED];
            ++*n_first;
        }
    }
    if (*n_ahead > 0) r->pre_share /= *n_ahead, r->ahead_share /= *n_ahead;
    if (*n_first > 0) r->pre_first /= *n_first, r->used_first /= *n_first;
}

sg_dtype sg_cal_hint_type(uint32_t rows, uint32_t k) {
    return k % 32 == 0 && (uint64_t)rows * k * sizeof(uint16_t) >= LARGE ? SG_DTYPE_Q8_0 : SG_DTYPE_F16;
}

bool sg_cal_hint_make(sg_cal_hint *h, sg_dtype type, const float *rows, const float *bias, uint32_t n, uint32_t k) {
    h->type = type;
    h->bytes = n * (size_t)sg_dtype_bytes(sg_dtype_get((uint32_t)type), k);
    h->rows = malloc(h->bytes);
    h->bias = malloc(n * sizeof *h->bias);
    if (!h->rows || !h->bias) {
        hint_finish(h);
        return false;
    }
    sg_quantize(type, rows, h->rows, (size_t)n * k);
    memcpy(h->bias, bias, n * sizeof *bias);
    return true;
}

sg_status sg_cal_choose_hints(sg_cal_routes *r, sg_error *err) {
    uint32_t n_ahead, n_first;
    for (uint32_t i = 0; i < r->n; i++) {
        sg_cal_route *l = &r->layer[i];
        l->wanted = l->ahead.rows && l->share[SG_CAL_GUESS_AHEAD] >= l->share[SG_CAL_GUESS_ROUTER] + SG_CAL_GAIN;
        if (!l->wanted) hint_finish(&l->ahead);
    }
    means(r, &n_ahead, &n_first);
    const bool first = n_first > 0 && r->pre_first >= SG_CAL_PRE_SHARE && r->pre_first >= r->used_first + SG_CAL_GAIN;
    const bool better = n_ahead > 0 && r->pre_share >= r->ahead_share + SG_CAL_GAIN;
    if (n_ahead + n_first < r->n || !(first || better)) return SG_OK;
    const size_t each = (size_t)r->n_expert * r->k;
    float *rows = malloc(r->n * each * sizeof *rows), *bias = malloc(r->n * r->n_expert * sizeof *bias);
    bool good = rows && bias;
    for (uint32_t i = 0; good && i < r->n; i++) {
        memcpy(rows + i * each, r->layer[i].pre, each * sizeof *rows);
        memcpy(bias + i * r->n_expert, r->layer[i].pre_bias, r->n_expert * sizeof *bias);
    }
    good = good && sg_cal_hint_make(&r->pre, sg_cal_hint_type(r->n * r->n_expert, r->k), rows, bias, r->n * r->n_expert, r->k);
    free(rows);
    free(bias);
    return good ? SG_OK : sg_fail(err, SG_E_NOMEM, "%s: out of memory for the pre-gate", r->path);
}

static bool measured(const sg_cal_route *l) { return l->share[SG_CAL_GUESS_USED] >= 0; }

static void share(const sg_cal_route *l, sg_cal_guess g, sg_str *out) {
    if (l->share[g] < 0) sg_str_puts(out, "         -");
    else sg_str_printf(out, "    %6.1f", 100 * l->share[g]);
}

void sg_cal_routes_report(const sg_cal_routes *r, sg_str *out) {
    uint64_t bytes = r->pre.bytes;
    bool any = false;
    for (uint32_t i = 0; i < r->n; i++) any = any || measured(&r->layer[i]);
    if (!any) return;
    sg_str_puts(out, "\nexperts of a layer that are named before: share of the used ones, %, on the last tenth of the text\n"
                     "layer  most used    router  corrected  pre-gate\n");
    for (uint32_t i = 0; i < r->n; i++) {
        const sg_cal_route *l = &r->layer[i];
        sg_str_printf(out, "%5u", l->layer);
        for (int g = 0; g < SG_CAL_GUESSES; g++) share(l, (sg_cal_guess)g, out);
        sg_str_puts(out, l->wanted ? "  correction written\n" : "\n");
        bytes += l->ahead.bytes;
    }
    sg_str_printf(out, "router, corrected: asked for the stream of the layer before. pre-gate: asked for the embedding%s\n"
                       "%.2f MiB written\n", r->pre.rows ? ", written" : ", not written", (double)bytes / (1 << 20));
}
