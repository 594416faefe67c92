#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/calibrate/calibrate.h"

void sg_cal_pred_finish(sg_cal_pred *p) {
    free(p->a);
    free(p->b);
    free(p->scale);
    free(p->bias);
    *p = (sg_cal_pred){ 0 };
}

size_t sg_cal_pred_bytes(const sg_cal_pred *p, uint32_t n_ff) {
    return p->a_bytes + p->b_bytes + (p->scale ? n_ff * sizeof *p->scale : 0) + (p->bias ? n_ff * sizeof *p->bias : 0);
}

uint32_t sg_cal_score_bin(float score) {
    uint32_t u;
    score += 0.0f; /* one zero */
    memcpy(&u, &score, sizeof u);
    u = u >> 31 ? ~u : u | 0x80000000u; /* now ordered as the values are */
    return u >> 16;
}

float sg_cal_bin_threshold(uint32_t bin) {
    uint32_t u = (bin << 16) - 1; /* the last key of the bin below */
    if (bin <= 0x0080) return -3.402823466e38f; /* below are minus infinity and NaN */
    if (bin > 0xff80) u = 0xff7fffffu;          /* the largest finite value */
    if (bin == 0x8000) u = 0x7ffffffeu;         /* below zero */
    u = u >> 31 ? u & 0x7fffffffu : ~u;
    float v;
    memcpy(&v, &u, sizeof v);
    return v;
}

/* ---- measuring ---------------------------------------------------------------------------------------------------- */

typedef struct worker {
    sg_acts x, z;
    float *scores;
    void *memory;
    sg_cal_hist *hist;       /* one of these */
    sg_cal_moments *moments;
    double seconds;
    uint64_t tokens;
} worker;

typedef struct measure {
    const sg_cal *c;
    const sg_cal_layer *l;
    sg_predictor p;
    void *packed[2];
    uint32_t s0, s1;
    bool want_moments;
    worker *workers;
} measure;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void lay_acts(sg_acts *a, sg_carver *c, uint32_t k) {
    *a = (sg_acts){ .n = 1, .k = k, .n_blocks = k / 32 };
    a->x = sg_carve(c, k, sizeof *a->x);
    a->q = sg_carve(c, k, 1);
    a->d = sg_carve(c, a->n_blocks, sizeof *a->d);
    a->sums = sg_carve(c, a->n_blocks, 2 * sizeof *a->sums);
    a->dsum = sg_carve(c, a->n_blocks, sizeof *a->dsum);
}

static bool init_worker(worker *w, const measure *m) {
    for (int turn = 0; turn < 2; turn++) {
        sg_carver c = { w->memory, 0 };
        lay_acts(&w->x, &c, m->c->k);
        lay_acts(&w->z, &c, m->p.rank ? m->p.rank : 32);
        w->scores = sg_carve(&c, m->c->n_ff, sizeof *w->scores);
        if (turn == 0 && !(w->memory = sg_aligned_calloc(SG_CACHE_LINE, c.used, 1))) return false;
    }
    if (m->want_moments) w->moments = calloc(m->c->n_ff, sizeof *w->moments);
    else w->hist = calloc(1, sizeof *w->hist);
    return w->hist || w->moments;
}

static bool pack(const sg_cal *c, const uint8_t *rows, sg_dtype type, uint32_t n, uint32_t k, sg_matrix *out, void **memory) {
    const sg_mat_kernel *kernel = c->kernels->mat[type];
    const size_t bytes = sg_matrix_bytes(kernel, n, k);
    if (!(*memory = sg_aligned_calloc(SG_CACHE_LINE, bytes, 1))) return false;
    if (kernel->pack) kernel->pack(*memory, rows, n, k);
    else memcpy(*memory, rows, bytes);
    *out = (sg_matrix){ kernel, *memory, n, k };
    return true;
}

static bool make_predictor(measure *m, const sg_cal_pred *p) {
    const sg_cal *c = m->c;
    m->p = (sg_predictor){ .kind = p->kind, .k = c->k, .rank = p->rank, .n_neurons = c->n_ff, .scale = p->scale, .bias = p->bias };
    if (p->kind == SG_PRED_SIGN) {
        m->p.signs = p->a;
        return true;
    }
    return pack(c, p->a, p->type, p->rank, c->k, &m->p.a, &m->packed[0]) && pack(c, p->b, p->type, c->n_ff, p->rank, &m->p.b, &m->packed[1]);
}

static void note_scores(const measure *m, worker *w, uint32_t s) {
    const uint64_t *bits = m->l->bits + (size_t)s * m->c->words;
    for (uint32_t i = 0; i < m->c->n_ff; i++) {
        const uint32_t is_active = bits[i / 64] >> (i % 64) & 1;
        if (m->want_moments) {
            sg_cal_moments *o = &w->moments[i];
            o->n[is_active]++;
            o->sum[is_active] += (double)w->scores[i];
            o->squares[is_active] += (double)w->scores[i] * (double)w->scores[i];
        } else {
            const uint32_t bin = sg_cal_score_bin(w->scores[i]);
            w->hist->all[bin]++;
            w->hist->active[bin] += is_active;
        }
    }
}

static void score_sample(const measure *m, worker *w, uint32_t s) {
    const sg_cal *c = m->c;
    const sg_vec_fns *vec = &c->kernels->vec;
    float *x = (float *)(uintptr_t)w->x.x, *z = (float *)(uintptr_t)w->z.x; /* our own memory */
    for (uint32_t i = 0; i < c->k; i++) x[i] = sg_f16_to_f32(m->l->x[(size_t)s * c->k + i]);
    if (c->k % 32 == 0) vec->quantize_acts(&w->x, 0); /* the layer has it anyway */
    const double start = now();
    const uint32_t clusters = sg_predictor_clusters(&m->p);
    if (clusters) {
        sg_predictor_project(&m->p, &w->x, z, 0, clusters);
        if (m->p.b.kernel->acts_q8) vec->quantize_acts(&w->z, 0);
    }
    sg_predictor_scores(&m->p, &w->x, &w->z, w->scores, 0, c->n_ff);
    w->seconds += now() - start;
    w->tokens++;
    note_scores(m, w, s);
}

static void run(void *arg, uint32_t thread) {
    measure *m = arg;
    uint32_t lo, hi;
    while (sg_team_take(m->c->team, m->s1 - m->s0, 1, &lo, &hi))
        for (; lo < hi; lo++) score_sample(m, &m->workers[thread], m->s0 + lo);
    sg_team_barrier(m->c->team); /* all is taken: the next run begins anew */
}

/* What one thread has noted joins the result. */
static void join(const measure *m, const worker *w, sg_cal_hist *out, sg_cal_moments *moments) {
    for (uint32_t i = 0; out && i < SG_CAL_SCORE_BINS; i++) {
        out->all[i] += w->hist->all[i];
        out->active[i] += w->hist->active[i];
    }
    for (uint32_t i = 0; !out && i < m->c->n_ff; i++)
        for (int a = 0; a < 2; a++) {
            moments[i].n[a] += w->moments[i].n[a];
            moments[i].sum[a] += w->moments[i].sum[a];
            moments[i].squares[a] += w->moments[i].squares[a];
        }
}

sg_status sg_cal_measure(const sg_cal *c, const sg_cal_layer *l, const sg_cal_pred *p, uint32_t s0, uint32_t s1, sg_cal_hist *out,
                         sg_cal_moments *moments, double *micros, sg_error *err) {
    measure m = { .c = c, .l = l, .s0 = s0, .s1 = s1, .want_moments = !out };
    const uint32_t threads = sg_team_size(c->team);
    if (out) memset(out, 0, sizeof *out);
    else memset(moments, 0, c->n_ff * sizeof *moments);
    m.workers = calloc(threads, sizeof *m.workers);
    bool ok = m.workers && make_predictor(&m, p);
    for (uint32_t t = 0; ok && t < threads; t++) ok = init_worker(&m.workers[t], &m);
    if (ok && s1 > s0) sg_team_run(c->team, run, &m);
    double seconds = 0;
    uint64_t tokens = 0;
    for (uint32_t t = 0; m.workers && t < threads; t++) {
        worker *w = &m.workers[t];
        if (ok) join(&m, w, out, moments);
        seconds += w->seconds;
        tokens += w->tokens;
        free(w->hist);
        free(w->moments);
        free(w->memory);
    }
    *micros = tokens ? 1e6 * seconds / (double)tokens : 0;
    free(m.workers);
    free(m.packed[0]);
    free(m.packed[1]);
    return ok ? SG_OK : sg_fail(err, SG_E_NOMEM, "%s: out of memory to measure predictors", c->path);
}

/* Observations that a neuron borrows from all. */
#define PRIOR 8.0

void sg_cal_log_odds(const sg_cal_moments *m, uint32_t n, float *scale, float *bias) {
    double all = 0, fired = 0, distance = 0, weight = 0;
    for (uint32_t i = 0; i < n; i++) {
        all += m[i].n[0] + m[i].n[1];
        fired += m[i].n[1];
    }
    const double share = all > 0 && fired > 0 ? fired / all : 0.5;
    for (int turn = 0; turn < 2; turn++) /* first the mean distance of the two means, in standard deviations */
        for (uint32_t i = 0; i < n; i++) {
            const double n0 = m[i].n[0], n1 = m[i].n[1], sum = n0 + n1, p = (n1 + PRIOR * share) / (sum + PRIOR);
            const double m0 = n0 > 0 ? m[i].sum[0] / n0 : 0, m1 = n1 > 0 ? m[i].sum[1] / n1 : 0;
            double v = sum > 0 ? (m[i].squares[0] + m[i].squares[1] - n0 * m0 * m0 - n1 * m1 * m1) / sum : 0;
            if (!(v > 1e-30)) v = 1e-30;
            const double d = n0 > 0 && n1 > 0 ? (m1 - m0) / sqrt(v) : 0, w = n1 < n0 ? n1 : n0;
            if (turn == 0) {
                distance += w * d;
                weight += w;
                continue;
            }
            const double mean = weight > 0 ? distance / weight : 0, used = fmax((w * d + PRIOR * mean) / (w + PRIOR), 0);
            const double slope = used / sqrt(v), base = n0 > 0 ? m0 : m1 - used * sqrt(v);
            scale[i] = (float)slope;
            bias[i] = (float)(log(p / (1 - p)) - slope * (base + 0.5 * used * sqrt(v)));
        }
}

/* ---- judging ------------------------------------------------------------------------------------------------------ */

/* The highest bin with at least `wanted` in it and above. */
static uint32_t bin_for(const uint64_t *bins, double wanted) {
    double above = 0;
    uint32_t b = SG_CAL_SCORE_BINS;
    while (b > 0 && above < wanted) above += (double)bins[--b];
    return b;
}

static uint64_t above(const uint64_t *bins, uint32_t bin) {
    uint64_t n = 0;
    for (uint32_t b = bin; b < SG_CAL_SCORE_BINS; b++) n += bins[b];
    return n;
}

void sg_cal_judge(const sg_cal_hist *train, const sg_cal_hist *test, sg_cal_score *out) {
    const double active = (double)above(train->active, 0), tested = (double)above(test->active, 0);
    for (uint32_t i = 0; i < SG_CAL_RECALLS; i++) {
        const uint32_t bin = bin_for(train->active, sg_cal_recalls[i] * active);
        const double hits = (double)above(test->active, bin), named = (double)above(test->all, bin);
        out->threshold[i] = sg_cal_bin_threshold(bin);
        out->recall[i] = tested > 0 ? hits / tested : 0;
        out->precision[i] = named > 0 ? hits / named : 0;
    }
    const uint32_t twice = bin_for(train->all, 2 * active);
    out->recall_twice = tested > 0 ? (double)above(test->active, twice) / tested : 0;
}
