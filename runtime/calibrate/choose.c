/* Candidates of one layer: each kind in the forms that the budget allows. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "neuron_engine/quant.h"
#include "runtime/calibrate/calibrate.h"
#include "runtime/convert/file.h"

/* Samples that a candidate is measured with, for a threshold and for what it gives: enough for recalls within a percent. */
#define MEASURED 2048u
/* A predictor is good enough when it finds so many of the active neurons while it names twice as many as there are. */
#define GOOD_RECALL 0.95
/* Layers with more active neurons than this have nothing to predict. */
#define MOST_ACTIVE 0.5
/* Training with more operations than this takes half a minute or more, and is only done when one kind is asked for. */
#define MOST_FLOPS 2e11

size_t sg_cal_budget(const sg_cal *c, uint32_t layer) {
    const sg_bundle_layout *l = &c->layouts[layer];
    return (size_t)(c->budget * (double)l->n_clusters * (double)l->cluster_bytes);
}

static size_t row_bytes(sg_dtype type, uint32_t n) { return sg_dtype_bytes(sg_dtype_get((uint32_t)type), n); }

static size_t pair_bytes(uint32_t k, uint32_t n, sg_dtype type, uint32_t rank) {
    return rank * row_bytes(type, k) + n * (row_bytes(type, rank) + sizeof(float)); /* and a bias */
}

uint32_t sg_cal_rank(uint32_t k, uint32_t n, sg_dtype type, size_t bytes) {
    uint32_t rank = 0;
    while (rank + 32 <= k && pair_bytes(k, n, type, rank + 32) <= bytes) rank += 32;
    return rank;
}

sg_status sg_cal_rows(const sg_cal *c, uint32_t layer, bool up, float **out, sg_error *err) {
    const sg_bundle_layout *l = &c->layouts[layer];
    char name[64];
    snprintf(name, sizeof name, "blk.%" PRIu32 ".ffn_bundle", layer);
    const sg_tensor_info *t = sg_gguf_tensor(c->gguf, name);
    /* gate rows lie one behind the other, up rows each before a down row */
    const size_t stride = up ? l->record : l->gate_row, begin = up ? l->records_at : 0;
    const sg_dtype type = up ? l->up_type : l->gate_type;
    uint8_t *rows = malloc(l->per_cluster * stride);
    float *v = malloc((size_t)l->n_neurons * l->k * sizeof *v);
    int fd = -1;
    uint64_t size;
    sg_status s = t ? SG_OK : sg_fail(err, SG_E_FORMAT, "%s: tensor %s is missing", c->path, name);
    if (s == SG_OK && (!rows || !v)) s = sg_fail(err, SG_E_NOMEM, "%s: out of memory for the rows of layer %u", c->path, layer);
    if (s == SG_OK) s = sg_file_open(c->path, &fd, &size, err);
    for (uint32_t i = 0; s == SG_OK && i < l->n_neurons; i++) {
        const uint32_t in = i % l->per_cluster;
        const uint64_t at = t->offset + i / l->per_cluster * (uint64_t)l->cluster_bytes + begin;
        if (in == 0) s = sg_file_read_at(fd, c->path, rows, l->per_cluster * stride, at, err);
        if (s == SG_OK) sg_dot_row_unpack(type, v + (size_t)i * l->k, rows + in * stride, l->k);
    }
    if (fd >= 0) close(fd);
    free(rows);
    if (s != SG_OK) {
        free(v);
        v = NULL;
    }
    *out = v;
    return s;
}

/* The first `rank` components of a pair as rows of `type`. */
static bool store(const sg_cal *c, const sg_cal_factors *f, uint32_t rank, sg_cal_pred *p) {
    p->a_bytes = rank * row_bytes(p->type, c->k);
    p->b_bytes = c->n_ff * row_bytes(p->type, rank);
    p->rank = rank;
    p->a = malloc(p->a_bytes);
    p->b = malloc(p->b_bytes);
    if (f->bias && !(p->bias = malloc(c->n_ff * sizeof *p->bias))) return false;
    if (!p->a || !p->b) return false;
    if (f->bias) memcpy(p->bias, f->bias, c->n_ff * sizeof *p->bias);
    sg_quantize(p->type, f->a, p->a, (size_t)rank * c->k);
    for (uint32_t i = 0; i < c->n_ff; i++)
        sg_quantize(p->type, f->b + (size_t)i * f->rank, p->b + i * row_bytes(p->type, rank), rank);
    return true;
}

/* Makes log odds of the scores of p: a scale, which the rows of b take into themselves where there are some, and a bias. */
static sg_status make_comparable(const sg_cal *c, uint32_t layer, const sg_cal_factors *f, sg_cal_pred *p, sg_error *err) {
    const sg_cal_layer *l = &c->layers[layer];
    double micros;
    sg_cal_moments *m = malloc(c->n_ff * sizeof *m);
    float *scale = malloc(c->n_ff * sizeof *scale), *bias = malloc(c->n_ff * sizeof *bias);
    float *row = f ? malloc(p->rank * sizeof *row) : NULL;
    sg_status s = m && scale && bias && (row || !f) ? SG_OK : sg_fail(err, SG_E_NOMEM, "%s: out of memory to measure predictors", c->path);
    if (s == SG_OK) s = sg_cal_measure(c, l, p, 0, l->n_train, NULL, m, &micros, err);
    if (s == SG_OK) {
        sg_cal_log_odds(m, c->n_ff, scale, bias);
        for (uint32_t i = 0; f && i < c->n_ff; i++) {
            for (uint32_t r = 0; r < p->rank; r++) row[r] = f->b[(size_t)i * f->rank + r] * scale[i];
            sg_quantize(p->type, row, p->b + i * row_bytes(p->type, p->rank), p->rank);
        }
        if (!f) p->scale = scale;
        p->bias = bias;
    }
    if (s != SG_OK || f) free(scale);
    if (s != SG_OK) free(bias);
    free(row);
    free(m);
    return s;
}

/* Bytes that a token reads of the predictor and of the gate rows that it names. */
static double bytes_read(const sg_cal_score *s, double active, size_t gate_row) {
    const double precision = s->precision[SG_CAL_USUAL];
    return (double)s->bytes + (precision > 0 ? active * s->recall[SG_CAL_USUAL] / precision * (double)gate_row : INFINITY);
}

bool sg_cal_better(const sg_cal_score *s, const sg_cal_score *than, double active, size_t gate_row) {
    if (!s->fits || than->kind == SG_PRED_NONE) return s->fits;
    if (s->recall_twice >= GOOD_RECALL && than->recall_twice >= GOOD_RECALL)
        return bytes_read(s, active, gate_row) < bytes_read(than, active, gate_row);
    return s->recall_twice > than->recall_twice;
}

/* Measures p, notes the result, and keeps p when it is the best so far; takes p in any case. */
static sg_status consider(sg_cal *c, uint32_t layer, sg_cal_pred *p, bool trained, sg_error *err) {
    sg_cal_layer *l = &c->layers[layer];
    sg_cal_hist *train = malloc(2 * sizeof *train), *test = train + 1;
    sg_cal_score s = { .kind = p->kind, .type = p->type, .rank = p->rank, .trained = trained, .bytes = sg_cal_pred_bytes(p, c->n_ff) };
    s.fits = s.bytes <= sg_cal_budget(c, layer);
    /* Scores of the samples that it was fitted to are too good for a threshold: the others give it, one half for the other. */
    const uint32_t half = (l->n_samples - l->n_train) / 2, from = half > MEASURED ? l->n_train + half - MEASURED : l->n_train;
    const uint32_t mid = l->n_train + half, to = l->n_samples - mid > MEASURED ? mid + MEASURED : l->n_samples;
    sg_status status = train ? SG_OK : sg_fail(err, SG_E_NOMEM, "%s: out of memory to measure predictors", c->path);
    if (status == SG_OK) status = sg_cal_measure(c, l, p, from, mid, train, NULL, &s.micros, err);
    if (status == SG_OK) status = sg_cal_measure(c, l, p, mid, to, test, NULL, &s.micros, err);
    if (status == SG_OK) {
        sg_cal_judge(train, test, &s);
        if (l->n_scores < SG_CAL_CANDIDATES) l->scores[l->n_scores++] = s;
        if (sg_cal_better(&s, &l->chosen, sg_cal_density(l, l->active) * c->n_ff, c->layouts[layer].gate_row)) {
            sg_cal_pred_finish(&l->pred);
            l->pred = *p;
            l->chosen = s;
            *p = (sg_cal_pred){ 0 };
        }
    }
    free(train);
    sg_cal_pred_finish(p);
    return status;
}

/* The ranks of the two types that the budget allows; where not even the least one fits, that of the smaller type is measured all
 * the same, so that the report can say what a larger budget would bring. */
typedef struct pair_form {
    sg_dtype type;
    uint32_t rank;
} pair_form;

static uint32_t forms(const sg_cal *c, uint32_t layer, pair_form *out) {
    const size_t bytes = sg_cal_budget(c, layer);
    const sg_dtype types[2] = { c->k % 32 ? SG_DTYPE_F16 : SG_DTYPE_Q8_0, SG_DTYPE_Q4_0 };
    uint32_t n = 0;
    for (uint32_t i = 0; i < (c->k % 32 ? 1 : 2); i++) {
        const uint32_t rank = sg_cal_rank(c->k, c->n_ff, types[i], bytes);
        out[n++] = (pair_form){ types[i], rank ? rank : 32 };
    }
    return c->k < 32 ? 0 : n;
}

static sg_status consider_pair(sg_cal *c, uint32_t layer, sg_predictor_kind kind, const sg_cal_factors *f, pair_form form, bool trained,
                               sg_error *err) {
    sg_cal_pred p = { .kind = kind, .type = form.type };
    sg_status s = SG_OK;
    if (!store(c, f, form.rank, &p)) s = sg_fail(err, SG_E_NOMEM, "%s: out of memory for a predictor of layer %u", c->path, layer);
    if (s == SG_OK && !trained) s = make_comparable(c, layer, f, &p, err);
    if (s == SG_OK) return consider(c, layer, &p, trained, err);
    sg_cal_pred_finish(&p);
    return s;
}

static sg_status consider_sign(sg_cal *c, uint32_t layer, const float *g, sg_error *err) {
    sg_cal_pred p = { .kind = SG_PRED_SIGN, .type = SG_DTYPE_I8, .a_bytes = (size_t)c->n_ff * (c->k / 8) };
    if (!(p.a = malloc(p.a_bytes))) return sg_fail(err, SG_E_NOMEM, "%s: out of memory for a predictor of layer %u", c->path, layer);
    sg_cal_fit_sign(g, c->n_ff, c->k, p.a);
    const sg_status s = make_comparable(c, layer, NULL, &p, err);
    if (s == SG_OK) return consider(c, layer, &p, false, err);
    sg_cal_pred_finish(&p);
    return s;
}

static bool wanted(const sg_cal *c, sg_predictor_kind kind) { return c->only == SG_PRED_NONE || c->only == kind; }

/* Trained pairs, with max(z, 0) and without; forms of the same rank share them. */
static sg_status consider_trained(sg_cal *c, uint32_t layer, const sg_cal_factors *from, const pair_form *form, uint32_t n,
                                  const sg_linalg *la, sg_error *err) {
    const sg_cal_layer *l = &c->layers[layer];
    for (uint32_t i = 0; i < n; i++) {
        if (i > 0 && form[i].rank == form[i - 1].rank) continue;
        if (c->only == SG_PRED_NONE && sg_cal_train_flops(c->n_ff, c->k, l->n_train, form[i].rank) > MOST_FLOPS) continue;
        for (int relu = 0; relu < 2; relu++) {
            sg_cal_factors f = { 0 };
            if (!wanted(c, relu ? SG_PRED_MLP : SG_PRED_LOWRANK)) continue;
            SG_TRY(sg_cal_train(la, from, c->n_ff, c->k, l->x, l->bits, l->n_train, form[i].rank, relu, &f, err));
            sg_status s = SG_OK;
            for (uint32_t j = i; s == SG_OK && j < n && form[j].rank == form[i].rank; j++)
                s = consider_pair(c, layer, relu ? SG_PRED_MLP : SG_PRED_LOWRANK, &f, form[j], true, err);
            sg_cal_factors_finish(&f);
            SG_TRY(s);
        }
    }
    return SG_OK;
}

/* The candidate that was measured last. */
static bool good_enough(const sg_cal_layer *l) { return l->n_scores > 0 && l->scores[l->n_scores - 1].recall_twice >= GOOD_RECALL; }

/* Pairs of matrices: the closed form, and what training makes of it. */
static sg_status consider_pairs(sg_cal *c, uint32_t layer, float *g, float *u, const sg_linalg *la, sg_error *err) {
    const sg_cal_layer *l = &c->layers[layer];
    sg_cal_factors f = { 0 };
    pair_form form[2];
    uint32_t n = forms(c, layer, form), most = 0;
    for (uint32_t i = 0; i < n; i++) most = form[i].rank > most ? form[i].rank : most;
    if (n == 0) return SG_OK;
    SG_TRY(sg_cal_fit_lowrank(la, g, u, c->n_ff, c->k, l->x, l->n_train, most, &f, err));
    sg_status s = SG_OK;
    /* the first components of a pair are the best one of their rank: smaller ones cost no fit, as long as they are good */
    for (uint32_t i = 0; s == SG_OK && i < n && wanted(c, SG_PRED_LOWRANK); i++)
        for (pair_form p = form[i]; s == SG_OK && p.rank > 0; p.rank = good_enough(l) ? p.rank / 64 * 32 : 0)
            s = consider_pair(c, layer, SG_PRED_LOWRANK, &f, p, false, err);
    if (s == SG_OK) s = consider_trained(c, layer, &f, form, n, la, err);
    sg_cal_factors_finish(&f);
    return s;
}

sg_status sg_cal_choose(sg_cal *c, uint32_t layer, const sg_linalg *la, sg_error *err) {
    const sg_cal_layer *l = &c->layers[layer];
    if (l->n_train == 0 || l->n_samples < l->n_train + 2 || l->active == 0 ||
        (double)l->active > MOST_ACTIVE * (double)l->tokens * c->n_ff)
        return SG_OK;
    float *g = NULL, *u = NULL;
    sg_status s = sg_cal_rows(c, layer, false, &g, err);
    if (s == SG_OK && c->act == SG_ACT_DRELU && la) s = sg_cal_rows(c, layer, true, &u, err);
    if (s == SG_OK && c->k % 32 == 0 && wanted(c, SG_PRED_SIGN)) s = consider_sign(c, layer, g, err);
    if (s == SG_OK && la && c->only != SG_PRED_SIGN) s = consider_pairs(c, layer, g, u, la, err);
    free(g);
    free(u);
    return s;
}
