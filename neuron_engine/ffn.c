#include "neuron_engine/ffn_home.h"

#include <math.h>
#include <string.h>
#include <time.h>

/* Clusters whose live neurons make one list, for one token. */
#define GROUP 8u

/* The 8-bit form of n tokens of k values. */
static void lay_out_acts(sg_acts *a, sg_carver *c, size_t n, uint32_t k) {
    *a = (sg_acts) { .n = (uint32_t)n, .k = k, .n_blocks = k / 32 };
    a->q = sg_carve(c, n * k, 1);
    a->d = sg_carve(c, n * a->n_blocks, sizeof *a->d);
    a->sums = sg_carve(c, n * a->n_blocks, 2 * sizeof *a->sums);
    a->dsum = sg_carve(c, n * a->n_blocks, sizeof *a->dsum);
}

/* What layers with a home need besides. */
static void lay_out_away(sg_ffn *f, sg_carver *c) {
    f->places = sg_carve(c, f->ld_cluster, sizeof *f->places);
    f->u = sg_carve(c, f->ld, sizeof *f->u);
    f->row_max = sg_carve(c, f->ld, sizeof *f->row_max);
    f->up_at = sg_carve(c, f->ld, sizeof *f->up_at);
    f->down_at = sg_carve(c, f->ld, sizeof *f->down_at);
    f->wait_for = sg_carve(c, f->ld, sizeof *f->wait_for);
    f->pending = sg_carve(c, f->ld, sizeof *f->pending);
    f->n_pending = sg_carve(c, f->ld_cluster, sizeof *f->n_pending);
    f->group_state = sg_carve(c, f->ld_cluster, sizeof *f->group_state);
    f->pass_bytes = (SG_FFN_PASS * f->slot_bytes + SG_STREAM_BLOCK - 1) / SG_STREAM_BLOCK * SG_STREAM_BLOCK;
    uint8_t *pass = sg_carve(c, f->n_threads + 1, f->pass_bytes);
    if (pass) f->pass = (uint8_t *)(((uintptr_t)pass + SG_STREAM_BLOCK - 1) / SG_STREAM_BLOCK * SG_STREAM_BLOCK);
}

void sg_ffn_lay_out(sg_ffn *f, sg_carver *c) {
    uint32_t rank = 0;
    bool quantised = false;
    f->ld = f->ld_cluster = 0;
    for (uint32_t i = 0; i < f->n_layer; i++) {
        const sg_ffn_layer *l = &f->layers[i];
        const uint32_t places = l->bundle.l.n_clusters * l->bundle.l.per_cluster;
        if (places > f->ld) f->ld = places;
        if (l->bundle.l.n_clusters > f->ld_cluster) f->ld_cluster = l->bundle.l.n_clusters;
        if (l->predictor.rank > rank) rank = l->predictor.rank;
        f->float_downs = f->float_downs || !l->bundle.down->quantised;
        quantised = quantised || l->bundle.gate->quantised || l->bundle.up->quantised;
    }
    const size_t n = f->n_batch, values = n * f->ld, parts = f->n_threads > f->n_batch ? f->n_threads : f->n_batch;
    f->sum_words = ((size_t)f->k + f->k / 32 + 31) / 32 * 32;
    f->x = (sg_lane_acts) { .n = f->n_batch, .k = f->k, .n_groups = (f->k / 32 + SG_LANES - 1) / SG_LANES };
    if (quantised) {
        f->x.q = sg_carve(c, n * f->x.n_groups, SG_LANES * 32);
        f->x.d = sg_carve(c, n * f->x.n_groups, SG_LANES * sizeof(float));
        f->x.sum = sg_carve(c, n * f->x.n_groups, SG_LANES * sizeof(int32_t));
    }
    f->residual = (sg_acts) { .n = f->n_batch };
    if (f->pred_residual) lay_out_acts(&f->residual, c, f->n_batch, f->k);
    lay_out_acts(&f->z, c, f->n_batch, rank);
    f->z.x = sg_carve(c, n * rank, sizeof(float));
    f->gate = sg_carve(c, values, sizeof(float));
    f->h = sg_carve(c, values, sizeof(float));
    f->at = sg_carve(c, values, sizeof(uint32_t));
    f->live = sg_carve(c, n * f->ld_cluster, sizeof(uint32_t));
    f->peak = sg_carve(c, n * f->ld_cluster, sizeof(float));
    f->mass = sg_carve(c, n * f->ld_cluster, sizeof(float));
    f->up = sg_carve(c, f->n_threads * n, SG_CLUSTER_MAX * sizeof(float));
    f->token_cut = sg_carve(c, n, sizeof(float));
    f->unit = sg_carve(c, n, sizeof(float));
    f->sums = sg_carve(c, parts, f->sum_words * sizeof(int32_t));
    f->counts = sg_carve(c, (size_t)f->n_threads * f->n_layer, sizeof *f->counts);
    if (f->store) lay_out_away(f, c);
    f->dense_share = 1;
}

const sg_acts *sg_ffn_project(sg_ffn *f, const sg_ffn_layer *l, const sg_acts *x, const float *residual, sg_team *team, uint32_t thread) {
    const sg_predictor *p = &l->predictor;
    const uint32_t clusters = sg_predictor_clusters(p), threads = sg_team_size(team);
    const sg_acts *in = x;
    uint32_t lo, hi;
    if (f->pred_residual) {
        sg_acts r = f->residual;
        r.x = residual;
        for (uint32_t t = thread; t < x->n; t += threads) f->kernels->vec.quantize_acts(&r, t);
        if (thread == 0) f->residual.x = residual;
        in = &f->residual;
        sg_team_barrier(team);
    }
    if (clusters == 0) return in;
    float *z = (float *)(uintptr_t)f->z.x; /* ours to fill */
    while (sg_team_take(team, clusters * x->n, 1, &lo, &hi))
        for (; lo < hi; lo++) {
            const uint32_t t = lo / clusters;
            const sg_acts one = sg_acts_token(in, t);
            sg_predictor_project(p, &one, z + (size_t)t * f->z.k, lo % clusters, lo % clusters + 1);
        }
    sg_team_barrier(team);
    if (p->b.kernel->acts_q8)
        for (uint32_t t = thread; t < x->n; t += threads) f->kernels->vec.quantize_acts(&f->z, t);
    sg_team_barrier(team);
    return in;
}

void sg_ffn_observe(sg_ffn *f, uint32_t layer, const sg_acts *x, const float *residual, sg_team *team, uint32_t thread) {
    if (!f->observe) return;
    const sg_ffn_sample s = { layer, x->n, x->k, f->layers[layer].bundle.l.n_neurons, f->ld, x->x, residual, f->gate, f->observed };
    if (thread == 0) f->observe(f->observe_user, &s);
    sg_team_barrier(team);
}

void sg_ffn_run(sg_ffn *f, uint32_t layer, const sg_acts *x, const float *residual, float *y, size_t ldy, sg_team *team,
                uint32_t thread) {
    const sg_ffn_layer *l = &f->layers[layer];
    const uint32_t clusters = l->bundle.l.n_clusters, threads = sg_team_size(team);
    const uint32_t group = x->n == 1 ? GROUP : 1; /* several tokens: while the cluster is in a cache */
    uint32_t lo, hi;
    const sg_acts *seen = x;
    if (f->policy.predict && l->predictor.kind != SG_PRED_NONE) seen = sg_ffn_project(f, l, x, residual, team, thread);
    if (l->home) {
        const bool by_neurons = x->n == 1 && sg_ffn_by_neurons(f);
        (by_neurons ? sg_ffn_run_neurons : sg_ffn_run_clusters)(f, layer, x, seen, residual, y, ldy, team, thread);
        return;
    }
    if (f->policy.top_k > 0) {
        while (sg_team_take(team, clusters, 1, &lo, &hi))
            sg_ffn_gates(f, l, layer, x->n, seen, lo, hi, thread);
        sg_team_barrier(team);
        /* at[] of the token is not needed yet */
        for (uint32_t t = thread; t < x->n; t += threads) f->token_cut[t] = sg_ffn_top_k_cut(f, l, t, f->at + (size_t)t * f->ld);
        sg_team_barrier(team);
    }
    while (sg_team_take(team, clusters, 1, &lo, &hi))
        for (uint32_t c0 = lo; c0 < hi; c0 += group) {
            const uint32_t c1 = hi - c0 < group ? hi : c0 + group;
            if (f->policy.top_k == 0) sg_ffn_gates(f, l, layer, x->n, seen, c0, c1, thread);
            for (uint32_t c = c0; c < c1; c++) sg_ffn_choose(f, l, layer, x->n, c);
            sg_ffn_ups(f, l, layer, x->n, c0, c1, thread);
        }
    sg_team_barrier(team);
    sg_ffn_observe(f, layer, x, residual, team, thread);
    sg_ffn_down(f, l, x->n, y, ldy, team, thread);
}

static const uint8_t *ups(const sg_bundle *b, uint32_t c) { return b->data + sg_bundle_place(b, c).ups; }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Each pass in a layer of its own, lists in one half and whole clusters in the other, so that the rows come from memory. Lists of
 * every other row: a list of neighbours is read as fast as a whole cluster, and says nothing. The best of the passes: others may be
 * using the machine. */
void sg_ffn_measure(sg_ffn *f) {
    double list = INFINITY, whole = INFINITY; /* seconds for as many rows */
    float y[SG_CLUSTER_MAX];
    uint32_t rows[SG_CLUSTER_MAX];
    sg_lane_acts acts = f->x;
    acts.n = 1;
    for (uint32_t i = 0; i < f->n_layer && i < 4; i++) {
        const sg_bundle *b = &f->layers[i].bundle;
        const uint32_t n = b->l.per_cluster, half = b->l.n_clusters / 2 < 64 ? b->l.n_clusters / 2 : 64;
        if (!b->l.gated || half == 0 || f->layers[i].home) return;
        for (uint32_t r = 0; r < n / 2; r++) rows[r] = 2 * r;
        const double t0 = now();
        for (uint32_t c = 0; c < half; c++) b->up->dot(y, ups(b, c), b->l.up_stride, rows, n / 2, &acts, 0);
        const double t1 = now();
        for (uint32_t c = 0; c < half; c++) b->up->dot_tokens(y, SG_CLUSTER_MAX, ups(b, half + c), b->l.up_stride, n, &acts);
        const double t2 = now();
        if (2 * (t1 - t0) < list) list = 2 * (t1 - t0);
        if (t2 - t1 < whole) whole = t2 - t1;
    }
    const double share = whole / list;
    f->dense_share = share < 0.3 ? 0.3f : share < 1 ? (float)share : 1;
}

sg_ffn_count sg_ffn_total(const sg_ffn *f) {
    sg_ffn_count sum = { 0 };
    for (uint32_t i = 0; i < f->n_threads * f->n_layer; i++) {
        sum.neurons += f->counts[i].neurons;
        sum.gates += f->counts[i].gates;
        sum.ups += f->counts[i].ups;
        sum.active += f->counts[i].active;
    }
    return sum;
}
