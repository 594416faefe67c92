/* The second half of a sparse layer: the down rows of the live neurons, each times its h, added up. */
#include "neuron_engine/ffn.h"

#include <math.h>
#include <string.h>

/* Neurons handed to a kernel at a time; rows of some hundred bytes to some KiB, so that they stay in the first caches. */
#define LIST 64u
/* Tokens of a prompt that share one walk over the down rows: at least so many per piece. */
#define TOKENS_LEAST 8u
/* Bytes of down rows that several tokens walk over together, about half of a second-level cache. */
#define GROUP_BYTES ((size_t)256 << 10)
/* Values of y per piece for float rows, blocks per piece of the last step for quantised ones. */
#define SLICE 256u
#define END_BLOCKS 16u

float sg_down_unit(const float *peak, const float *mass, uint32_t n, sg_dtype type) {
    float top = 0, sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (!(peak[i] <= top)) top = peak[i];
        sum += mass[i];
    }
    if (!(top < INFINITY) || !(sum < INFINITY)) return NAN;
    if (top == 0) return 0;
    /* |sum of a * q| <= (mass * unit + half a unit each) * |q|; |q| is 8 or 128 at most. The rest up to 2^31 is room for the
     * halves (2^20 neurons of 0.5 * 128) and for rounding. */
    const float q = type == SG_DTYPE_Q4_0 ? 8 : 128, unit = 32000.0f / top, by_sum = 2.0e9f / q / sum;
    const float least = unit < by_sum ? unit : by_sum;
    return least < 1e30f ? least : 1e30f; /* all h next to nothing: the product must not overflow */
}

static float unit_of(const sg_ffn *f, const sg_ffn_task *k, uint32_t t) {
    const size_t from = (size_t)t * f->ld_cluster;
    return sg_down_unit(f->peak + from, f->mass + from, k->n_clusters, k->l->bundle.l.down_type);
}

/* Lists of neighbouring clusters as lists of up to LIST neurons, their down rows counted from one base. */
typedef struct gather {
    const uint8_t *base;
    uint32_t at[LIST], n;
    float h[LIST];
} gather;

static void add_list(const sg_bundle *b, gather *g, int32_t *sum) {
    if (g->n > 0) b->down->down_add(sum, g->base, 1, g->at, g->h, g->n, b->l.k);
    g->n = 0;
}

/* The live neurons lo .. hi - 1 of cluster c of token t, times unit, into sum; g holds what is not yet handed on. */
static void add_cluster(const sg_ffn *f, const sg_ffn_task *k, uint32_t t, uint32_t c, uint32_t lo, uint32_t hi, gather *g, int32_t *sum) {
    const sg_bundle *b = &k->l->bundle;
    const float unit = f->unit[t];
    const uint8_t *base = sg_ffn_place(f, k, t, c).base;
    const size_t from = (size_t)t * f->ld + c * b->l.per_cluster;
    if (base != g->base) add_list(b, g, sum);
    g->base = base;
    for (uint32_t i = lo; i < hi; i++) {
        if (f->at[from + i] == SG_AWAY) continue; /* sg_ffn_down_away adds it */
        g->at[g->n] = f->at[from + i];
        g->h[g->n] = f->h[from + i] * unit;
        if (++g->n == LIST) add_list(b, g, sum);
    }
}

static void fail_token(const sg_bundle *b, float unit, float *y, uint32_t i0, uint32_t i1) {
    for (uint32_t i = i0; i < i1 && i < b->l.k; i++) y[i] = unit == 0 ? 0 : NAN;
}

/* The down biases of token t, values i0 .. i1 - 1. */
static void add_bias(const sg_ffn_task *k, uint32_t t, float *restrict y, uint32_t i0, uint32_t i1) {
    const uint32_t n_used = k->l->bundle.l.n_expert ? k->route->n_used : 1, end = i1 < k->l->bundle.l.k ? i1 : k->l->bundle.l.k;
    if (!k->l->down_bias) return;
    for (size_t s = (size_t)t * n_used; s < ((size_t)t + 1) * n_used; s++) {
        if (k->route && sg_route_skips(k->route, s)) continue;
        const float weight = k->route ? k->route->weight[s] : 1;
        const float *bias = k->l->down_bias + (k->l->bundle.l.n_expert ? (size_t)k->route->expert[s] * k->l->bundle.l.k : 0);
        for (uint32_t i = i0; i < end; i++) y[i] += weight * bias[i];
    }
}

/* One token: its live neurons in clusters c0 .. c1 - 1 are numbered through, and the threads help themselves. */
static void down_one(sg_ffn *f, const sg_ffn_task *k, uint32_t c0, uint32_t c1, sg_team *team) {
    int32_t *sum = f->sums + k->thread * f->sum_words;
    uint32_t total = 0, lo, hi;
    for (uint32_t c = c0; c < c1; c++) total += f->live[c];
    if (!(f->unit[0] > 0)) total = 0;
    while (sg_team_take(team, (total + LIST - 1) / LIST, 1, &lo, &hi)) {
        const uint32_t from = lo * LIST, to = hi * LIST < total ? hi * LIST : total;
        gather g = { .n = 0 };
        for (uint32_t c = c0, at = 0; at < to; at += f->live[c++]) {
            const uint32_t end = at + f->live[c];
            if (end <= from) continue;
            add_cluster(f, k, 0, c, from > at ? from - at : 0, (to < end ? to : end) - at, &g, sum);
        }
        add_list(&k->l->bundle, &g, sum);
    }
}

/* Clusters c0 .. c1 - 1 of token t. */
static void add_clusters(sg_ffn *f, const sg_ffn_task *k, uint32_t t, uint32_t c0, uint32_t c1) {
    int32_t *sum = f->sums + t * f->sum_words;
    gather g = { .n = 0 };
    if (!(f->unit[t] > 0)) return;
    for (uint32_t c = c0; c < c1; c++) add_cluster(f, k, t, c, 0, f->live[(size_t)t * f->ld_cluster + c], &g, sum);
    add_list(&k->l->bundle, &g, sum);
}

/* The expert's clusters for those of the tokens lo .. hi - 1 that use it. */
static void down_expert(sg_ffn *f, const sg_ffn_task *k, uint32_t expert, uint32_t lo, uint32_t hi, uint32_t group) {
    const uint32_t per = k->l->bundle.l.per_expert, n_used = k->route->n_used;
    uint32_t from = f->entry_of[expert], to = from;
    while (from < f->entry_of[expert + 1] && f->entries[from] / n_used < lo) from++;
    for (to = from; to < f->entry_of[expert + 1] && f->entries[to] / n_used < hi;) to++;
    for (uint32_t c0 = 0; from < to && c0 < per; c0 += group) {
        const uint32_t c1 = per - c0 < group ? per : c0 + group;
        for (uint32_t i = from; i < to; i++) {
            const uint32_t t = f->entries[i] / n_used, v = f->entries[i] % n_used * per;
            add_clusters(f, k, t, v + c0, v + c1);
        }
    }
}

/* Several tokens: a thread takes some of them, and walks over the clusters in groups that a cache holds, expert by expert. */
static void down_many(sg_ffn *f, const sg_ffn_task *k, uint32_t first, uint32_t last, sg_team *team) {
    const sg_bundle *b = &k->l->bundle;
    const uint32_t group = 1 + (uint32_t)(GROUP_BYTES / (b->l.per_cluster * b->l.down_row));
    uint32_t lo, hi;
    while (sg_team_take(team, k->n, TOKENS_LEAST, &lo, &hi)) {
        for (uint32_t i = b->l.n_expert ? *f->hit_lo : 0; b->l.n_expert && i < *f->hit_hi; i++) down_expert(f, k, f->hit[i], lo, hi, group);
        for (uint32_t c0 = first; !b->l.n_expert && c0 < last; c0 += group)
            for (uint32_t t = lo; t < hi; t++) add_clusters(f, k, t, c0, last - c0 < group ? last : c0 + group);
    }
}

/* Float rows: a sum in the order of the neurons, so a thread takes a slice of y and goes through all of them, of several tokens with experts
 * through those of experts that are in memory. */
static void down_floats(sg_ffn *f, const sg_ffn_task *k, uint32_t c0, uint32_t c1, float *y, size_t ldy, sg_team *team) {
    const sg_bundle *b = &k->l->bundle;
    const uint32_t slices = (b->l.k + SLICE - 1) / SLICE;
    const bool some = b->l.n_expert > 0 && k->n > 1, begins = c0 == 0 && (!some || *f->hit_lo == 0);
    const bool ends = c1 == k->n_clusters && (!some || *f->hit_hi == *f->n_hit);
    const uint32_t first = some ? f->hit[*f->hit_lo] : 0, last = some ? f->hit[*f->hit_hi - 1] : 0;
    uint32_t lo, hi;
    while (sg_team_take(team, slices * k->n, 1, &lo, &hi)) {
        for (; lo < hi; lo++) {
            const uint32_t t = lo / slices, i0 = lo % slices * SLICE, i1 = i0 + SLICE < b->l.k ? i0 + SLICE : b->l.k;
            float *out = y + t * ldy;
            if (begins) memset(out + i0, 0, (i1 - i0) * sizeof *out);
            for (uint32_t c = c0; c < c1; c++) {
                const size_t from = (size_t)t * f->ld + c * b->l.per_cluster;
                const uint32_t m = f->live[(size_t)t * f->ld_cluster + c], expert = some ? sg_ffn_cluster(k, t, c) / b->l.per_expert : 0;
                if (m > 0 && expert >= first && expert <= last) b->down->down_float(out, sg_ffn_place(f, k, t, c).base, 1, f->at + from, f->h + from, m, i0, i1);
            }
            if (ends) add_bias(k, t, out, i0, i1);
        }
    }
}

void sg_ffn_down_begin(sg_ffn *f, const sg_ffn_task *k, sg_team *team) {
    if (!k->l->bundle.down->quantised) return;
    if (k->n == 1) {
        if (k->thread == 0) f->unit[0] = unit_of(f, k, 0);
        memset(f->sums + k->thread * f->sum_words, 0, f->sum_words * sizeof *f->sums);
    } else {
        for (uint32_t t = k->thread; t < k->n; t += sg_team_size(team)) {
            f->unit[t] = unit_of(f, k, t);
            memset(f->sums + t * f->sum_words, 0, f->sum_words * sizeof *f->sums);
        }
    }
    sg_team_barrier(team);
}

void sg_ffn_down_clusters(sg_ffn *f, const sg_ffn_task *k, uint32_t c0, uint32_t c1, float *y, size_t ldy, sg_team *team) {
    if (!k->l->bundle.down->quantised) down_floats(f, k, c0, c1, y, ldy, team);
    else if (k->n == 1) down_one(f, k, c0, c1, team);
    else down_many(f, k, c0, c1, team);
}

void sg_ffn_down_end(sg_ffn *f, const sg_ffn_task *k, float *y, size_t ldy, sg_team *team) {
    const sg_bundle *b = &k->l->bundle;
    if (!b->down->quantised) return;
    const uint32_t n_blocks = b->l.k / 32, pieces = (n_blocks + END_BLOCKS - 1) / END_BLOCKS;
    const uint32_t parts = k->n == 1 ? sg_team_size(team) : 1;
    uint32_t lo, hi;
    sg_team_barrier(team);
    while (sg_team_take(team, pieces * k->n, 1, &lo, &hi))
        for (; lo < hi; lo++) {
            const uint32_t t = lo / pieces, b0 = lo % pieces * END_BLOCKS, b1 = b0 + END_BLOCKS < n_blocks ? b0 + END_BLOCKS : n_blocks;
            const float unit = f->unit[t];
            if (unit > 0) b->down->down_end(y + t * ldy, f->sums + t * f->sum_words, f->sum_words, parts, b->l.k, b0, b1, 1 / unit);
            else fail_token(b, unit, y + t * ldy, 32 * b0, 32 * b1);
            add_bias(k, t, y + t * ldy, 32 * b0, 32 * b1);
        }
}

void sg_ffn_down(sg_ffn *f, const sg_ffn_task *k, float *y, size_t ldy, sg_team *team) {
    sg_ffn_down_begin(f, k, team);
    sg_ffn_down_clusters(f, k, 0, k->n_clusters, y, ldy, team);
    sg_ffn_down_end(f, k, y, ldy, team);
}
