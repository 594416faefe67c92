#include "neuron_engine/ffn_home.h"

#include <math.h>
#include <string.h>
#include <time.h>

/* Clusters whose live neurons make one list, for one token. */
#define GROUP 8u

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

/* For units with experts, of which the largest has so many; quantised, floats: types of their gate and up rows. */
static void lay_out_experts(sg_ffn *f, sg_carver *c, uint32_t n_expert, uint32_t n_used, bool quantised, bool floats) {
    f->tile = (sg_lane_acts) { 0 };
    if (n_expert == 0) return;
    f->one = sg_carve(c, 1, sizeof *f->one);
    f->one_expert = sg_carve(c, n_used, sizeof *f->one_expert);
    f->one_weight = sg_carve(c, n_used, sizeof *f->one_weight);
    if (f->n_batch == 1) return;
    const size_t n = (size_t)f->n_threads * SG_FFN_TILE;
    f->entries = sg_carve(c, (size_t)f->n_batch * n_used, sizeof *f->entries);
    f->entry_of = sg_carve(c, (size_t)n_expert + 1, sizeof *f->entry_of);
    f->hit = sg_carve(c, n_expert, sizeof *f->hit);
    f->n_hit = sg_carve(c, 1, sizeof *f->n_hit);
    f->hit_lo = sg_carve(c, 1, sizeof *f->hit_lo);
    f->hit_hi = sg_carve(c, 1, sizeof *f->hit_hi);
    f->tile.n_groups = f->x.n_groups;
    if (quantised) sg_lane_acts_lay_out(&f->tile, c, n, f->precise);
    if (floats) f->tile.x = sg_carve(c, n * f->k, sizeof(float));
}

/* Sizes that follow from the units, and memory that depends on what kinds there are. */
static void measure_units(sg_ffn *f, sg_carver *c, uint32_t *rank) {
    bool quantised = false, tile_q = false, tile_x = false;
    uint32_t n_expert = 0, n_used = 0;
    f->ld = f->ld_cluster = *rank = 0;
    for (uint32_t i = 0; i < f->n_unit; i++) {
        const sg_ffn_layer *l = &f->layers[i];
        const sg_bundle_layout *b = &l->bundle.l;
        const uint32_t clusters = b->n_expert ? l->n_used * b->per_expert : b->n_clusters, places = clusters * b->per_cluster;
        const bool q = l->bundle.gate->quantised || l->bundle.up->quantised, x = !l->bundle.gate->quantised || !l->bundle.up->quantised;
        if (places > f->ld) f->ld = places;
        if (clusters > f->ld_cluster) f->ld_cluster = clusters;
        if (l->predictor.rank > *rank) *rank = l->predictor.rank;
        quantised = quantised || q;
        f->float_downs = f->float_downs || (b->n_expert == 0 && !l->bundle.down->quantised);
        if (b->n_expert == 0) continue;
        if (b->n_expert > n_expert) n_expert = b->n_expert;
        if (l->n_used > n_used) n_used = l->n_used;
        tile_q = tile_q || q;
        tile_x = tile_x || x;
    }
    f->x = (sg_lane_acts) { .n = f->n_batch, .k = f->k, .n_groups = (f->k / 32 + SG_LANES - 1) / SG_LANES };
    if (quantised) sg_lane_acts_lay_out(&f->x, c, f->n_batch, f->precise);
    lay_out_experts(f, c, n_expert, n_used, tile_q, tile_x);
}

bool sg_ffn_layer_valid(const sg_ffn_layer *l) {
    const sg_bundle_layout *b = &l->bundle.l;
    if ((uint64_t)b->per_expert * b->cluster_bytes > UINT32_MAX) return false;
    if (b->n_expert == 0) return l->n_used == 0;
    return l->n_used > 0 && l->n_used <= b->n_expert && (uint64_t)l->n_used * b->n_neurons <= 1u << 20 && !l->home &&
           l->predictor.kind == SG_PRED_NONE;
}

void sg_ffn_lay_out(sg_ffn *f, sg_carver *c) {
    uint32_t rank;
    measure_units(f, c, &rank);
    const size_t n = f->n_batch, values = n * f->ld, parts = f->n_threads > f->n_batch ? f->n_threads : f->n_batch;
    f->sum_words = ((size_t)f->k + f->k / 32 + 31) / 32 * 32;
    f->residual = (sg_acts) { .n = f->n_batch };
    if (f->pred_residual) sg_acts_lay_out(&f->residual, c, f->n_batch, f->k, false, false);
    sg_acts_lay_out(&f->z, c, f->n_batch, rank, false, false);
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
    f->counts = sg_carve(c, (size_t)f->n_threads * f->n_unit, sizeof *f->counts);
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
            const sg_acts one = sg_acts_rows(in, t, 1);
            sg_predictor_project(p, &one, z + (size_t)t * f->z.k, lo % clusters, lo % clusters + 1);
        }
    sg_team_barrier(team);
    if (p->b.kernel->acts_q8)
        for (uint32_t t = thread; t < x->n; t += threads) f->kernels->vec.quantize_acts(&f->z, t);
    sg_team_barrier(team);
    return in;
}

void sg_ffn_observe(sg_ffn *f, const sg_ffn_task *k, const sg_acts *x, const float *residual, sg_team *team) {
    const sg_bundle_layout *l = &k->l->bundle.l;
    if (!f->observe) return;
    const sg_ffn_sample s = { .unit = k->unit, .n = x->n, .k = x->k, .n_neurons = l->n_neurons, .ld = f->ld,
                              .expert = l->n_expert > 0 ? k->route->expert : NULL,
                              .n_used = l->n_expert > 0 ? k->route->n_used : 1,
                              .apart = l->per_expert * l->per_cluster,
                              .x = x->x, .residual = residual, .gate = f->gate, .h = f->observed };
    if (k->thread == 0) f->observe(f->observe_user, &s);
    sg_team_barrier(team);
}

/* Up to h; one token, or several in a dense unit. Ends with a barrier. */
static void run_clusters(sg_ffn *f, const sg_ffn_task *k, const sg_acts *seen, sg_team *team) {
    const uint32_t group = k->n == 1 ? GROUP : 1; /* several tokens: while the cluster is in a cache */
    uint32_t lo, hi;
    if (f->policy.top_k > 0) {
        while (sg_team_take(team, k->n_clusters, 1, &lo, &hi)) sg_ffn_gates(f, k, seen, lo, hi);
        sg_team_barrier(team);
        sg_ffn_top_k(f, k, team);
    }
    while (sg_team_take(team, k->n_clusters, 1, &lo, &hi))
        for (uint32_t c0 = lo; c0 < hi; c0 += group) {
            const uint32_t c1 = hi - c0 < group ? hi : c0 + group;
            if (f->policy.top_k == 0) sg_ffn_gates(f, k, seen, c0, c1);
            for (uint32_t c = c0; c < c1; c++)
                for (uint32_t t = 0; t < k->n; t++) sg_ffn_choose(f, k, t, c);
            sg_ffn_ups(f, k, c0, c1);
        }
    sg_team_barrier(team);
}

void sg_ffn_run(sg_ffn *f, uint32_t unit, const sg_acts *x, const float *residual, const sg_ffn_route *route, float *y, size_t ldy,
                sg_team *team, uint32_t thread) {
    const sg_ffn_layer *l = &f->layers[unit];
    const sg_bundle_layout *b = &l->bundle.l;
    if (b->n_expert > 0 && x->n == 1 && route->lossy) {
        if (thread == 0) sg_ffn_close_ranks(f, route);
        sg_team_barrier(team);
        route = f->one;
    }
    const sg_ffn_task k = { l, route, unit, thread, x->n, b->n_expert ? route->n_used * b->per_expert : b->n_clusters };
    const sg_acts *seen = x;
    if (f->policy.predict && l->predictor.kind != SG_PRED_NONE) seen = sg_ffn_project(f, l, x, residual, team, thread);
    if (l->home) {
        const bool by_neurons = x->n == 1 && sg_ffn_by_neurons(f);
        (by_neurons ? sg_ffn_run_neurons : sg_ffn_run_clusters)(f, &k, x, seen, residual, y, ldy, team);
        return;
    }
    if (l->experts) {
        sg_ffn_run_away(f, &k, seen, residual, y, ldy, team);
        return;
    }
    if (b->n_expert > 0 && x->n > 1) sg_ffn_run_experts(f, &k, team);
    else run_clusters(f, &k, seen, team);
    sg_ffn_observe(f, &k, x, residual, team);
    sg_ffn_down(f, &k, y, ldy, team);
}

static const uint8_t *ups(const sg_bundle *b, uint32_t c) {
    const sg_cluster_place at = sg_bundle_place(b, c);
    return at.base + at.ups;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Each pass in a unit of its own, lists in one half and whole clusters in the other, so that the rows come from memory. Lists of
 * every other row: a list of neighbours is read as fast as a whole cluster, and says nothing. The best of the passes: others may be
 * using the machine. */
void sg_ffn_measure(sg_ffn *f) {
    double list = INFINITY, whole = INFINITY; /* seconds for a row: units may differ in size */
    float y[SG_CLUSTER_MAX];
    uint32_t rows[SG_CLUSTER_MAX];
    sg_lane_acts acts = f->x;
    acts.n = 1;
    for (uint32_t i = 0; i < f->n_unit && i < 4; i++) {
        const sg_bundle *b = &f->layers[i].bundle;
        const uint32_t n = b->l.per_cluster, half = b->l.n_clusters / 2 < 64 ? b->l.n_clusters / 2 : 64;
        if (!b->l.gated || half == 0 || !b->data) return;
        for (uint32_t r = 0; r < n / 2; r++) rows[r] = 2 * r;
        const double t0 = now();
        for (uint32_t c = 0; c < half; c++) b->up->dot(y, ups(b, c), b->l.up_stride, rows, n / 2, &acts, 0);
        const double t1 = now();
        for (uint32_t c = 0; c < half; c++) b->up->dot_tokens(y, SG_CLUSTER_MAX, ups(b, half + c), b->l.up_stride, n, &acts);
        const double t2 = now();
        const double rows_read = (double)half * n;
        if (2 * (t1 - t0) / rows_read < list) list = 2 * (t1 - t0) / rows_read;
        if ((t2 - t1) / rows_read < whole) whole = (t2 - t1) / rows_read;
    }
    const double share = whole / list;
    f->dense_share = share < 0.3 ? 0.3f : share < 1 ? (float)share : 1;
}

sg_ffn_count sg_ffn_total(const sg_ffn *f) {
    sg_ffn_count sum = { 0 };
    for (uint32_t i = 0; i < f->n_threads * f->n_unit; i++) {
        sum.neurons += f->counts[i].neurons;
        sum.gates += f->counts[i].gates;
        sum.ups += f->counts[i].ups;
        sum.active += f->counts[i].active;
    }
    return sum;
}
