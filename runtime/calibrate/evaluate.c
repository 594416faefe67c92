#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/calibrate/calibrate.h"

void sg_cal_pred_finish(sg_cal_pred *p) {
    free(p->a);
    free(p->b);
    *p = (sg_cal_pred){ 0 };
}

uint32_t sg_cal_score_bin(float score) {
    uint32_t u;
    memcpy(&u, &score, sizeof u);
    u = u >> 31 ? ~u : u | 0x80000000u; /* now ordered as the values are */
    return u >> 16;
}

float sg_cal_bin_threshold(uint32_t bin) {
    uint32_t u = (bin << 16) - 1; /* the last key of the bin below */
    if (bin <= 0x0080) return -3.402823466e38f; /* below are minus infinity and NaN */
    if (bin > 0xff80) u = 0xff7fffffu;          /* the largest finite value */
    if (bin == 0x8000) u = 0x7ffffffeu;         /* below both zeros, which compare as equal */
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
    sg_cal_hist *hist;
    double seconds;
    uint64_t tokens;
} worker;

typedef struct measure {
    const sg_cal *c;
    const sg_cal_layer *l;
    sg_predictor p;
    void *packed[2];
    uint32_t s0, s1;
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
    w->hist = calloc(1, sizeof *w->hist);
    return w->hist != NULL;
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
    m->p = (sg_predictor){ .kind = p->kind, .k = c->k, .rank = p->rank, .n_neurons = c->n_ff };
    if (p->kind == SG_PRED_SIGN) {
        m->p.signs = p->a;
        return true;
    }
    return pack(c, p->a, p->type, p->rank, c->k, &m->p.a, &m->packed[0]) && pack(c, p->b, p->type, c->n_ff, p->rank, &m->p.b, &m->packed[1]);
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
    const uint64_t *bits = m->l->bits + (size_t)s * c->words;
    for (uint32_t i = 0; i < c->n_ff; i++) {
        const uint32_t bin = sg_cal_score_bin(w->scores[i]);
        w->hist->all[bin]++;
        w->hist->active[bin] += bits[i / 64] >> (i % 64) & 1;
    }
}

static void run(void *arg, uint32_t thread) {
    measure *m = arg;
    uint32_t lo, hi;
    while (sg_team_take(m->c->team, m->s1 - m->s0, 1, &lo, &hi))
        for (; lo < hi; lo++) score_sample(m, &m->workers[thread], m->s0 + lo);
    sg_team_barrier(m->c->team); /* all is taken: the next run begins anew */
}

sg_status sg_cal_measure(const sg_cal *c, const sg_cal_layer *l, const sg_cal_pred *p, uint32_t s0, uint32_t s1, sg_cal_hist *out,
                         double *micros, sg_error *err) {
    measure m = { .c = c, .l = l, .s0 = s0, .s1 = s1 };
    const uint32_t threads = sg_team_size(c->team);
    memset(out, 0, sizeof *out);
    m.workers = calloc(threads, sizeof *m.workers);
    bool ok = m.workers && make_predictor(&m, p);
    for (uint32_t t = 0; ok && t < threads; t++) ok = init_worker(&m.workers[t], &m);
    if (ok && s1 > s0) sg_team_run(c->team, run, &m);
    double seconds = 0;
    uint64_t tokens = 0;
    for (uint32_t t = 0; m.workers && t < threads; t++) {
        worker *w = &m.workers[t];
        for (uint32_t i = 0; ok && i < SG_CAL_SCORE_BINS; i++) {
            out->all[i] += w->hist->all[i];
            out->active[i] += w->hist->active[i];
        }
        seconds += w->seconds;
        tokens += w->tokens;
        free(w->hist);
        free(w->memory);
    }
    *micros = tokens ? 1e6 * seconds / (double)tokens : 0;
    free(m.workers);
    free(m.packed[0]);
    free(m.packed[1]);
    return ok ? SG_OK : sg_fail(err, SG_E_NOMEM, "%s: out of memory to measure predictors", c->path);
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
