/* From the gates of a sparse layer to h: the lists of live neurons, their up products. */
#include <math.h>
#include <string.h>

#include "neuron_engine/ffn.h"

/* Rows of a list at most: enough to have several on their way from memory all the time. */
#define LIST (2 * SG_CLUSTER_MAX)

/* The live neurons of a cluster of token t: places to at[], act(g) to h[]. */
void sg_ffn_choose(sg_ffn *f, const sg_ffn_task *k, uint32_t t, uint32_t v) {
    const sg_bundle_layout *l = &k->l->bundle.l;
    const uint32_t n = sg_bundle_neurons(l, sg_ffn_cluster(k, t, v));
    const size_t from = (size_t)t * f->ld + v * l->per_cluster;
    uint32_t *at = f->at + from, m = 0;
    float *h = f->h + from, a[SG_CLUSTER_MAX], cut = f->policy.cut ? f->policy.cut[k->unit] : 0;
    if (f->policy.top_k > 0 && f->token_cut[t] > cut) cut = f->token_cut[t];
    sg_neuron_activate(f->kernels, f->act, k->l->fat_threshold, f->gate + from, a, n);
    if (f->policy.mode == SG_FFN_DENSE && cut == 0 && !f->policy.predict) {
        memcpy(h, a, n * sizeof *h);
        for (uint32_t i = 0; i < n; i++) at[i] = i;
        m = n;
    } else {
        for (uint32_t i = 0; i < n; i++) {
            at[m] = i;
            h[m] = a[i];
            m += !(fabsf(a[i]) <= cut);
        }
    }
    f->live[(size_t)t * f->ld_cluster + v] = m;
}

/* h of the m neurons of a list from act(g) in it, those that come out as zero dropped; at[] from places to the down rows: those of the
 * cluster's place, or found[], whose neurons have their row_max; see sg_ffn_finish_found. */
static void finish(const sg_ffn *f, const sg_ffn_task *k, uint32_t v, uint32_t t, uint32_t m, const float *u, uint32_t *found) {
    const sg_bundle *b = &k->l->bundle;
    const uint32_t cluster = sg_ffn_cluster(k, t, v), first = cluster * b->l.per_cluster;
    const sg_cluster_place place = sg_ffn_place(f, k, t, v);
    const size_t from = (size_t)t * f->ld + v * b->l.per_cluster;
    const bool keep_zeros = f->policy.mode == SG_FFN_DENSE;
    const float weight = k->route ? k->route->weight[sg_ffn_entry(k, t, v)] : 1, *bias = sg_ffn_bias(&b->l, k->l->up_bias, cluster);
    uint32_t *at = f->at + from, kept = 0;
    uint64_t active = 0;
    float *h = f->h + from, *seen = f->observe ? f->observed + from : NULL, peak = 0, mass = 0;
    if (seen) memset(seen, 0, sg_bundle_neurons(&b->l, cluster) * sizeof *seen);
    for (uint32_t i = 0; i < m; i++) {
        float x = h[i];
        if (u) x *= sg_neuron_up(f->act, bias ? u[i] + bias[at[i]] : u[i]);
        if (k->route) x *= weight;
        active += !(x == 0);
        if (seen) seen[at[i]] = x;
        if (x == 0 && !keep_zeros) continue;
        const uint32_t down = found ? found[i] : place.downs + at[i] * place.down_stride, neuron = first + at[i];
        if (b->down->quantised) {
            const float max = found ? f->row_max[from + i] : b->down_max ? b->down_max[neuron] : b->down->down_max(place.base + down, b->l.k);
            const float size = fabsf(x) * max;
            if (!(size <= peak)) peak = size;
            mass += size;
        }
        if (found && down == SG_AWAY) found[kept] = neuron;
        at[kept] = down;
        h[kept++] = x;
    }
    const size_t slot = (size_t)t * f->ld_cluster + v;
    f->peak[slot] = peak;
    f->mass[slot] = mass;
    f->live[slot] = kept;
    sg_ffn_counts(f, k)->active += active;
}

void sg_ffn_finish_found(sg_ffn *f, const sg_ffn_task *k, uint32_t c) {
    const uint32_t from = c * k->l->bundle.l.per_cluster;
    finish(f, k, c, 0, f->live[c], k->l->bundle.l.gated ? f->u + from : NULL, f->down_at + from);
}

static bool whole_cluster(const sg_ffn *f, const sg_bundle *b, uint64_t live, uint64_t all) {
    if (!b->l.gated || f->policy.mode == SG_FFN_SPARSE) return false;
    return f->policy.mode == SG_FFN_DENSE || (double)live >= (double)f->dense_share * (double)all;
}

/* The up products of all neurons of a cluster, and h of those that are live. */
static void whole_ups(sg_ffn *f, const sg_ffn_task *k, const sg_ffn_some *some, uint32_t c) {
    const sg_bundle *b = &k->l->bundle;
    uint32_t v, t = sg_ffn_some_at(k, some, 0, c, &v);
    const sg_cluster_place place = sg_ffn_place(f, k, t, v);
    const uint32_t rows = sg_bundle_neurons(&b->l, sg_ffn_cluster(k, t, v));
    float *all = f->up + (size_t)k->thread * f->n_batch * SG_CLUSTER_MAX, u[SG_CLUSTER_MAX];
    sg_lane_dot_tokens(b->up, all, SG_CLUSTER_MAX, place.base + place.ups, place.up_stride, rows, &some->acts);
    for (uint32_t j = 0; j < some->n; j++) {
        t = sg_ffn_some_at(k, some, j, c, &v);
        const uint32_t *at = f->at + (size_t)t * f->ld + v * b->l.per_cluster;
        const uint32_t m = f->live[(size_t)t * f->ld_cluster + v];
        for (uint32_t i = 0; i < m; i++) u[i] = all[(size_t)j * SG_CLUSTER_MAX + at[i]];
        finish(f, k, v, t, m, u, NULL);
    }
    sg_ffn_counts(f, k)->ups += (uint64_t)rows * some->n;
}

/* The up products of the live neurons of token t in clusters c0 .. c1 - 1, as many as a list can hold, and their h. Returns where
 * it ended. A cluster alone has few: the longer the list, the more rows are on their way from memory at a time. */
static uint32_t listed_ups(sg_ffn *f, const sg_ffn_task *k, uint32_t t, uint32_t c0, uint32_t c1) {
    const sg_bundle *b = &k->l->bundle;
    const uint32_t *live = f->live + (size_t)t * f->ld_cluster;
    const uint8_t *base = sg_ffn_place(f, k, t, c0).base;
    uint32_t rows[LIST], m = 0, end = c0;
    float u[LIST];
    if (!b->l.gated) {
        finish(f, k, c0, t, live[c0], NULL, NULL);
        return c0 + 1;
    }
    for (; end < c1 && m + live[end] <= LIST; end++) {
        const uint32_t *at = f->at + (size_t)t * f->ld + end * b->l.per_cluster;
        const sg_cluster_place place = sg_ffn_place(f, k, t, end);
        if (place.base != base) break;
        for (uint32_t i = 0; i < live[end]; i++) rows[m++] = place.ups + at[i] * place.up_stride;
    }
    if (m > 0) sg_lane_dot(b->up, u, base, 1, rows, m, &f->x, t);
    sg_ffn_counts(f, k)->ups += m;
    m = 0;
    for (uint32_t c = c0; c < end; c++) {
        const uint32_t here = live[c]; /* finish() leaves those that are not zero */
        finish(f, k, c, t, here, u + m, NULL);
        m += here;
    }
    return end;
}

void sg_ffn_ups_of(sg_ffn *f, const sg_ffn_task *k, const sg_ffn_some *some, uint32_t c) {
    const sg_bundle_layout *l = &k->l->bundle.l;
    uint64_t live = 0, all = 0;
    uint32_t v, t;
    for (uint32_t i = 0; i < some->n; i++) {
        t = sg_ffn_some_at(k, some, i, c, &v);
        live += f->live[(size_t)t * f->ld_cluster + v];
        all += sg_bundle_neurons(l, sg_ffn_cluster(k, t, v));
    }
    if (whole_cluster(f, &k->l->bundle, live, all)) {
        whole_ups(f, k, some, c);
        return;
    }
    for (uint32_t i = 0; i < some->n; i++) {
        t = sg_ffn_some_at(k, some, i, c, &v);
        (void)listed_ups(f, k, t, v, v + 1);
    }
}

/* One token: clusters with few live neurons make lists together. */
static void ups_of_one(sg_ffn *f, const sg_ffn_task *k, uint32_t c0, uint32_t c1) {
    const sg_bundle *b = &k->l->bundle;
    sg_ffn_some one = { .n = 1, .acts = f->x };
    one.acts.n = 1;
    for (uint32_t c = c0; c < c1;) {
        uint32_t end = c; /* clusters of a list */
        for (; end < c1; end++)
            if (whole_cluster(f, b, f->live[end], sg_bundle_neurons(&b->l, sg_ffn_cluster(k, 0, end)))) break;
        while (c < end) c = listed_ups(f, k, 0, c, end);
        if (c < c1) whole_ups(f, k, &one, c++);
    }
}

void sg_ffn_ups(sg_ffn *f, const sg_ffn_task *k, uint32_t c0, uint32_t c1) {
    if (k->n == 1) {
        ups_of_one(f, k, c0, c1);
        return;
    }
    sg_ffn_some all = { .n = k->n, .acts = f->x };
    all.acts.n = k->n;
    for (uint32_t c = c0; c < c1; c++) sg_ffn_ups_of(f, k, &all, c);
}
