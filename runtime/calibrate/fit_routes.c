/* Least squares for what names experts, and how well that does. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "neuron_engine/quant.h"
#include "runtime/calibrate/calibrate.h"

#define BLOCK 512u /* samples that are values at a time */

static const double ridges[] = { 1e-4, 1e-3, 1e-2, 1e-1, 1, 10 };
#define RIDGES (sizeof ridges / sizeof *ridges)

/* ---- sums ---- */

static void values(float *out, const uint16_t *x, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = sg_f16_to_f32(x[i]);
}

/* Means of the columns of x[n][k] and y[n][m]. */
static bool find_means(const uint16_t *x, const float *y, uint32_t n, sg_cal_normal *p) {
    double *sum = calloc(p->k + p->m, sizeof *sum);
    if (!sum) return false;
    for (uint32_t s = 0; s < n; s++) {
        for (uint32_t i = 0; i < p->k; i++) sum[i] += (double)sg_f16_to_f32(x[(size_t)s * p->k + i]);
        for (uint32_t i = 0; i < p->m; i++) sum[p->k + i] += (double)y[(size_t)s * p->m + i];
    }
    for (uint32_t i = 0; i < p->k; i++) p->mx[i] = (float)(sum[i] / n);
    for (uint32_t i = 0; i < p->m; i++) p->my[i] = (float)(sum[p->k + i] / n);
    free(sum);
    return true;
}

sg_status sg_cal_normal_make(const sg_linalg *la, const uint16_t *x, const float *y, uint32_t n, uint32_t k, uint32_t m, sg_cal_normal *out,
                             sg_error *err) {
    *out = (sg_cal_normal) { .k = k, .m = m, .a = calloc((size_t)k * k, sizeof(float)), .b = calloc((size_t)k * m, sizeof(float)),
                             .mx = malloc(k * sizeof(float)), .my = malloc(m * sizeof(float)) };
    float *bx = malloc((size_t)BLOCK * k * sizeof *bx), *by = malloc((size_t)BLOCK * m * sizeof *by);
    bool good = out->a && out->b && out->mx && out->my && bx && by && find_means(x, y, n, out);
    for (uint32_t at = 0; good && at < n; at += BLOCK) {
        const uint32_t here = n - at < BLOCK ? n - at : BLOCK;
        const int ik = (int)k, im = (int)m, in = (int)here;
        const float one = 1;
        values(bx, x + (size_t)at * k, (size_t)here * k);
        for (uint32_t s = 0; s < here; s++) {
            for (uint32_t i = 0; i < k; i++) bx[(size_t)s * k + i] -= out->mx[i];
            for (uint32_t i = 0; i < m; i++) by[(size_t)s * m + i] = y[(size_t)(at + s) * m + i] - out->my[i];
        }
        la->ssyrk("U", "N", &ik, &in, &one, bx, &ik, &one, out->a, &ik, 1, 1);
        la->sgemm("N", "T", &ik, &im, &in, &one, bx, &ik, by, &im, &one, out->b, &ik, 1, 1);
    }
    free(bx);
    free(by);
    if (good) return SG_OK;
    sg_cal_normal_finish(out);
    return sg_fail(err, SG_E_NOMEM, "out of memory to fit a router of %u experts over %u values", m, k);
}

void sg_cal_normal_finish(sg_cal_normal *p) {
    free(p->a);
    free(p->b);
    free(p->mx);
    free(p->my);
    *p = (sg_cal_normal) { 0 };
}

/* scratch: [k][k]. */
bool sg_cal_normal_solve(const sg_linalg *la, const sg_cal_normal *p, double ridge, float *rows, float *bias, float *scratch) {
    const uint32_t k = p->k;
    const int ik = (int)k, im = (int)p->m;
    const float one = 1;
    double trace = 0;
    int info = 0;
    memcpy(scratch, p->a, (size_t)k * k * sizeof *scratch);
    memcpy(rows, p->b, (size_t)k * p->m * sizeof *rows);
    for (uint32_t i = 0; i < k; i++) trace += (double)p->a[(size_t)i * k + i];
    if (!(trace > 0)) return false;
    for (uint32_t i = 0; i < k; i++) scratch[(size_t)i * k + i] += (float)(ridge * trace / k);
    la->spotrf("U", &ik, scratch, &ik, &info, 1);
    if (info != 0) return false;
    la->strsm("L", "U", "T", "N", &ik, &im, &one, scratch, &ik, rows, &ik, 1, 1, 1, 1);
    la->strsm("L", "U", "N", "N", &ik, &im, &one, scratch, &ik, rows, &ik, 1, 1, 1, 1);
    for (uint32_t e = 0; e < p->m; e++) {
        double at_mean = 0;
        for (uint32_t i = 0; i < k; i++) at_mean += (double)rows[(size_t)e * k + i] * (double)p->mx[i];
        bias[e] = (float)((double)p->my[e] - at_mean);
        if (!isfinite(bias[e])) return false;
    }
    return true;
}

sg_status sg_cal_apply(const sg_linalg *la, const float *rows, const float *bias, const uint16_t *x, uint32_t n, uint32_t k, uint32_t m, float *y,
                       sg_error *err) {
    float *bx = malloc((size_t)BLOCK * k * sizeof *bx);
    if (!bx) return sg_fail(err, SG_E_NOMEM, "out of memory to measure a router over %u values", k);
    for (uint32_t at = 0; at < n; at += BLOCK) {
        const uint32_t here = n - at < BLOCK ? n - at : BLOCK;
        const int ik = (int)k, im = (int)m, in = (int)here;
        const float one = 1;
        values(bx, x + (size_t)at * k, (size_t)here * k);
        float *to = y + (size_t)at * m;
        la->sgemm("T", "N", &im, &in, &ik, &one, rows, &ik, bx, &ik, &one, to, &im, 1, 1);
        for (uint32_t i = 0; bias && i < here * m; i++) to[i] += bias[i % m];
    }
    free(bx);
    return SG_OK;
}

/* ---- routes ---- */

/* The experts that products give to a token; scratch: as for sg_route and n_expert more. */
static void route(const sg_cal_routes *r, const sg_cal_route *l, const float *products, uint32_t *expert, float *weight, float *scratch) {
    memcpy(scratch, products, r->n_expert * sizeof *scratch);
    sg_route(&r->router, r->vec, scratch, l->select_bias, NULL, expert, weight, scratch + r->n_expert);
}

/* Share of the experts of tokens truth[n] that are among guess[n] (stays NULL: among fixed[n_used], ascending). counts[n_expert], if given:
 * how often each is used. */
static double named(const sg_cal_routes *r, const sg_cal_route *l, const float *truth, const float *guess, const uint32_t *fixed, uint32_t n,
                    uint32_t *counts) {
    const uint32_t n_used = r->router.n_used;
    uint32_t *expert = malloc(2 * n_used * sizeof *expert), *other = expert + n_used;
    float *scratch = malloc((r->n_expert + sg_route_scratch(&r->router) + n_used) * sizeof *scratch);
    uint64_t same = 0;
    bool good = expert && scratch;
    float *weight = good ? scratch + r->n_expert + sg_route_scratch(&r->router) : NULL;
    for (uint32_t t = 0; good && t < n; t++) {
        route(r, l, truth + (size_t)t * r->n_expert, expert, weight, scratch);
        if (guess) route(r, l, guess + (size_t)t * r->n_expert, other, weight, scratch);
        const uint32_t *also = guess ? other : fixed;
        for (uint32_t i = 0; i < n_used; i++) {
            if (counts) counts[expert[i]]++;
            for (uint32_t j = 0; also && j < n_used; j++) same += expert[i] == also[j];
        }
    }
    free(expert);
    free(scratch);
    return good && n > 0 ? (double)same / ((double)n * n_used) : -1;
}

double sg_cal_named(const sg_cal_routes *r, const sg_cal_route *l, const float *truth, const float *guess, uint32_t n) {
    return named(r, l, truth, guess, NULL, n, NULL);
}

/* The same for the experts that are used most in the samples for fitting. */
static double most_used(const sg_cal_routes *r, const sg_cal_route *l, uint32_t from) {
    const uint32_t n_used = r->router.n_used;
    uint32_t *counts = calloc(2 * (size_t)r->n_expert, sizeof *counts), *order = counts + r->n_expert;
    if (!counts) return -1;
    (void)named(r, l, l->logits, NULL, NULL, l->n_train, counts);
    sg_cal_order(counts, r->n_expert, order);
    const double share = n_used <= r->n_expert ? named(r, l, l->logits + (size_t)from * r->n_expert, NULL, order, l->n - from, NULL) : -1;
    free(counts);
    return share;
}

/* ---- fits ---- */

/* One fit: what is to be found from x, given what `base` says already. */
typedef struct fit {
    const sg_cal_routes *r;
    const sg_linalg *la;
    const sg_cal_route *l;
    const uint16_t *x;
    const float *base;      /* [n][n_expert] */
    const float *w, *b;     /* what gave it, [n_expert][k], [n_expert]; NULL: zeros */
    float *rows, *bias;     /* the best, with w and b in them */
    float *guess, *scratch; /* [n][n_expert], [k][k] */
} fit;

/* What rows and bias name of the samples from .. to - 1. */
static sg_status judge(const fit *f, const float *rows, const float *bias, const float *base, uint32_t from, uint32_t to, double *share, sg_error *err) {
    const sg_cal_routes *r = f->r;
    const uint32_t m = r->n_expert, n = to - from;
    if (base) memcpy(f->guess, base + (size_t)from * m, (size_t)n * m * sizeof *f->guess);
    else memset(f->guess, 0, (size_t)n * m * sizeof *f->guess);
    SG_TRY(sg_cal_apply(f->la, rows, bias, f->x + (size_t)from * r->k, n, r->k, m, f->guess, err));
    *share = sg_cal_named(r, f->l, f->l->logits + (size_t)from * m, f->guess, n);
    return SG_OK;
}

/* The best ridge's rows, into f->rows and bias. *best below 0: there are none. */
static sg_status search(fit *f, const sg_cal_normal *p, uint32_t mid, double *best, sg_error *err) {
    const size_t k = f->r->k, m = f->r->n_expert;
    float *rows = malloc(k * m * sizeof *rows), *bias = malloc(m * sizeof *bias);
    sg_status s = rows && bias ? SG_OK : sg_fail(err, SG_E_NOMEM, "%s: out of memory to fit a router", f->r->path);
    *best = -1;
    for (uint32_t i = 0; s == SG_OK && i < RIDGES; i++) {
        double share;
        if (!sg_cal_normal_solve(f->la, p, ridges[i], rows, bias, f->scratch)) continue;
        s = judge(f, rows, bias, f->base, f->l->n_train, mid, &share, err);
        if (s != SG_OK || !(share > *best)) continue;
        *best = share;
        memcpy(f->rows, rows, k * m * sizeof *rows);
        memcpy(f->bias, bias, m * sizeof *bias);
    }
    for (size_t i = 0; f->w && i < k * m; i++) f->rows[i] += f->w[i];
    for (size_t i = 0; f->b && i < m; i++) f->bias[i] += f->b[i];
    free(rows);
    free(bias);
    return s;
}

/* Fits, makes the rows what a file of that type would hold, and measures. */
static sg_status fit_rows(fit *f, uint32_t mid, sg_dtype type, sg_cal_hint *hint, double *share, sg_error *err) {
    const sg_cal_routes *r = f->r;
    const uint32_t m = r->n_expert;
    const size_t all = (size_t)f->l->n * m;
    sg_cal_normal p = { 0 };
    double best = -1;
    float *missing = malloc((size_t)f->l->n_train * m * sizeof *missing);
    f->guess = malloc(all * sizeof *f->guess);
    f->scratch = malloc((size_t)r->k * r->k * sizeof *f->scratch);
    sg_status s = missing && f->guess && f->scratch ? SG_OK : sg_fail(err, SG_E_NOMEM, "%s: out of memory to fit a router", r->path);
    for (size_t i = 0; s == SG_OK && i < (size_t)f->l->n_train * m; i++) missing[i] = f->l->logits[i] - (f->base ? f->base[i] : 0);
    if (s == SG_OK) s = sg_cal_normal_make(f->la, f->x, missing, f->l->n_train, r->k, m, &p, err);
    if (s == SG_OK) s = search(f, &p, mid, &best, err);
    *share = -1;
    if (s == SG_OK && best >= 0) {
        if (!sg_cal_hint_make(hint, type, f->rows, f->bias, m, r->k)) s = sg_fail(err, SG_E_NOMEM, "%s: out of memory for a router", r->path);
        else {
            sg_dequantize(type, hint->rows, f->rows, (size_t)m * r->k);
            s = judge(f, f->rows, f->bias, NULL, mid, f->l->n, share, err);
        }
    }
    sg_cal_normal_finish(&p);
    free(missing);
    free(f->guess);
    free(f->scratch);
    return s;
}

static sg_status fit_ahead(const sg_cal_routes *r, sg_cal_route *l, const sg_linalg *la, uint32_t mid, sg_error *err) {
    const size_t m = r->n_expert;
    float *base = calloc(l->n * m, sizeof *base), *rows = malloc(m * r->k * sizeof *rows), *bias = malloc(m * sizeof *bias);
    fit f = { .r = r, .la = la, .l = l, .x = l->x, .base = base, .w = l->w, .b = l->b, .rows = rows, .bias = bias };
    sg_status s = base && rows && bias ? SG_OK : sg_fail(err, SG_E_NOMEM, "%s: out of memory to fit a router", r->path);
    if (s == SG_OK) s = sg_cal_apply(la, l->w, l->b, l->x, l->n, r->k, r->n_expert, base, err);
    if (s == SG_OK) l->share[SG_CAL_GUESS_ROUTER] = sg_cal_named(r, l, l->logits + mid * m, base + mid * m, l->n - mid);
    if (s == SG_OK) s = fit_rows(&f, mid, sg_cal_hint_type(r->n_expert, r->k), &l->ahead, &l->share[SG_CAL_GUESS_AHEAD], err);
    free(base);
    free(rows);
    free(bias);
    return s;
}

static sg_status fit_pre(const sg_cal_routes *r, sg_cal_route *l, const sg_linalg *la, uint32_t mid, sg_error *err) {
    const size_t m = r->n_expert;
    sg_cal_hint hint = { 0 };
    l->pre = malloc(m * r->k * sizeof *l->pre);
    l->pre_bias = malloc(m * sizeof *l->pre_bias);
    if (!l->pre || !l->pre_bias) return sg_fail(err, SG_E_NOMEM, "%s: out of memory to fit a router", r->path);
    fit f = { .r = r, .la = la, .l = l, .x = r->e, .rows = l->pre, .bias = l->pre_bias };
    const sg_status s = fit_rows(&f, mid, sg_cal_hint_type(r->n * r->n_expert, r->k), &hint, &l->share[SG_CAL_GUESS_PRE], err);
    free(hint.rows);
    free(hint.bias);
    return s;
}

sg_status sg_cal_fit_layer(sg_cal_routes *r, uint32_t layer, const sg_linalg *la, sg_error *err) {
    for (uint32_t i = 0; la && i < r->n; i++) {
        sg_cal_route *l = &r->layer[i];
        if (l->layer != layer) continue;
        if (l->n_train == 0 || l->n < l->n_train + 4 || r->n_e != l->n || (l->follows && l->n_x != l->n)) return SG_OK;
        const uint32_t mid = l->n_train + (l->n - l->n_train) / 2;
        l->share[SG_CAL_GUESS_USED] = most_used(r, l, mid);
        if (l->follows) SG_TRY(fit_ahead(r, l, la, mid, err));
        return fit_pre(r, l, la, mid, err);
    }
    return SG_OK;
}
