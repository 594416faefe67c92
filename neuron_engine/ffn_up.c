/* The first half of a sparse layer: gates, the list of live neurons, their up products. */
#include "neuron_engine/ffn.h"

#include <math.h>
#include <string.h>

/* Rows of a list at most: enough to have several on their way from memory all the time. */
#define LIST (2 * SG_CLUSTER_MAX)

static uint32_t neurons_of(const sg_bundle_layout *l, uint32_t cluster) {
    const uint32_t at = cluster * l->per_cluster;
    return l->n_neurons - at < l->per_cluster ? l->n_neurons - at : l->per_cluster;
}

/* Zeroes the gates of token t that are not predicted; returns how many are, their places in rows[]. */
static uint32_t predict(const sg_ffn *f, const sg_ffn_layer *l, uint32_t layer, const sg_acts *seen, uint32_t c, uint32_t t,
                        uint32_t *rows) {
    const uint32_t at = c * l->bundle.l.per_cluster, n = neurons_of(&l->bundle.l, c);
    float scores[SG_CLUSTER_MAX];
    const sg_acts xt = sg_acts_token(seen, t);
    sg_acts zt = sg_acts_token(&f->z, t);
    zt.k = l->predictor.rank; /* z has room for the largest rank of the model */
    zt.n_blocks = zt.k / 32;
    sg_predictor_scores(&l->predictor, &xt, &zt, scores, at, at + n);
    float *g = f->gate + (size_t)t * f->ld + at;
    uint32_t m = 0;
    for (uint32_t i = 0; i < n; i++) {
        rows[m] = i;
        m += scores[i] > f->policy.score_cut[layer];
    }
    /* Zero where nothing was predicted, what was computed (if so) elsewhere. */
    for (uint32_t i = 0, next = 0; i < n; i++) {
        if (next < m && rows[next] == i) next++;
        else g[i] = 0;
    }
    return m;
}

/* One token: the gates that are predicted, of clusters c0 .. c1 - 1, as one list. */
static uint64_t listed_gates(sg_ffn *f, const sg_ffn_layer *l, uint32_t layer, const sg_acts *seen, uint32_t c0, uint32_t c1) {
    const sg_bundle *b = &l->bundle;
    uint32_t rows[LIST], place[LIST], in_cluster[SG_CLUSTER_MAX + 1], m = 0;
    float g[LIST];
    uint64_t all = 0;
    const uint8_t *base = NULL;
    for (uint32_t c = c0; c < c1; c++) {
        const sg_cluster_place at = sg_ffn_place(f, l, c);
        const uint32_t named = predict(f, l, layer, seen, c, 0, in_cluster);
        if (!base) base = at.gates;
        const size_t from = (size_t)(at.gates - base);
        for (uint32_t i = 0; i < named; i++, m++) {
            rows[m] = (uint32_t)(from + in_cluster[i] * b->l.gate_row);
            place[m] = c * b->l.per_cluster + in_cluster[i];
        }
        /* the next cluster in the same list, if it lies behind this one */
        if (c + 1 < c1 && m + SG_CLUSTER_MAX <= LIST) {
            const uint8_t *next = sg_ffn_place(f, l, c + 1).gates;
            if (next >= base && (size_t)(next - base) < UINT32_MAX - b->l.cluster_bytes) continue;
        }
        b->gate->dot(g, base, 1, rows, m, &f->x, 0);
        base = NULL;
        for (uint32_t i = 0; i < m; i++) f->gate[place[i]] = g[i];
        all += m;
        m = 0;
    }
    return all;
}

void sg_ffn_gates(sg_ffn *f, const sg_ffn_layer *l, uint32_t layer, uint32_t tokens, const sg_acts *seen, uint32_t c0, uint32_t c1,
                  uint32_t thread) {
    const sg_bundle *b = &l->bundle;
    const bool predicted = f->policy.predict && l->predictor.kind != SG_PRED_NONE;
    sg_ffn_count *count = &f->counts[(size_t)thread * f->n_layer + layer];
    sg_lane_acts acts = f->x;
    acts.n = tokens;
    for (uint32_t c = c0; c < c1; c++) count->neurons += (uint64_t)neurons_of(&b->l, c) * tokens;
    if (predicted && tokens == 1) {
        count->gates += listed_gates(f, l, layer, seen, c0, c1);
        return;
    }
    for (uint32_t c = c0; c < c1; c++) {
        const uint32_t n = neurons_of(&b->l, c);
        uint32_t rows[SG_CLUSTER_MAX + 1];
        b->gate->dot_tokens(f->gate + c * b->l.per_cluster, f->ld, sg_ffn_place(f, l, c).gates, b->l.gate_row, n, &acts);
        count->gates += (uint64_t)n * tokens;
        for (uint32_t t = 0; predicted && t < tokens; t++) (void)predict(f, l, layer, seen, c, t, rows);
    }
}

void sg_neuron_activate(const sg_kernels *kernels, sg_neuron_act act, float threshold, const float *g, float *a, size_t n) {
    if (act == SG_ACT_SILU) {
        static const float ones[SG_CLUSTER_MAX] = { [0 ... SG_CLUSTER_MAX - 1] = 1 };
        for (size_t i = 0; i < n; i += SG_CLUSTER_MAX)
            kernels->vec.silu_mul(a + i, g + i, ones, n - i < SG_CLUSTER_MAX ? n - i : SG_CLUSTER_MAX);
        return;
    }
    const float above = act == SG_ACT_FATRELU ? threshold : 0;
    for (size_t i = 0; i < n; i++) a[i] = g[i] <= above ? 0 : act == SG_ACT_RELU2 ? g[i] * g[i] : g[i];
}

float sg_ffn_top_k_cut(const sg_ffn *f, const sg_ffn_layer *l, uint32_t t, uint32_t *scratch) {
    const sg_bundle_layout *b = &l->bundle.l;
    const uint32_t k = f->policy.top_k;
    if (k >= b->n_neurons) return 0;
    for (uint32_t i = 0; i < b->n_neurons; i += SG_CLUSTER_MAX) {
        const uint32_t n = b->n_neurons - i < SG_CLUSTER_MAX ? b->n_neurons - i : SG_CLUSTER_MAX;
        float a[SG_CLUSTER_MAX];
        sg_neuron_activate(f->kernels, f->act, l->fat_threshold, f->gate + (size_t)t * f->ld + i, a, n);
        for (uint32_t j = 0; j < n; j++) {
            a[j] = fabsf(a[j]);
            memcpy(&scratch[i + j], &a[j], sizeof *scratch);
        }
    }
    /* Magnitudes order like their bits. The K-th largest, bit by bit from the top: 31 counting passes, without a branch. */
    uint32_t bits = 0;
    for (int bit = 30; bit >= 0; bit--) {
        const uint32_t try = bits | 1u << bit;
        uint32_t above = 0;
        for (uint32_t i = 0; i < b->n_neurons; i++) above += scratch[i] >= try;
        if (above >= k) bits = try;
    }
    if (bits == 0) return 0;
    bits--; /* the largest magnitude that is cut off */
    float cut;
    memcpy(&cut, &bits, sizeof cut);
    return cut;
}

/* The live neurons of token t: places to at[], act(g) to h[]; returns how many. */
static uint32_t choose(const sg_ffn *f, const sg_ffn_layer *l, uint32_t t, uint32_t first, uint32_t n, float cut) {
    const size_t from = (size_t)t * f->ld + first;
    uint32_t *at = f->at + from, m = 0;
    float *h = f->h + from, a[SG_CLUSTER_MAX];
    sg_neuron_activate(f->kernels, f->act, l->fat_threshold, f->gate + from, a, n);
    if (f->policy.mode == SG_FFN_DENSE && cut == 0 && !f->policy.predict) {
        memcpy(h, a, n * sizeof *h);
        for (uint32_t i = 0; i < n; i++) at[i] = i;
        return n;
    }
    for (uint32_t i = 0; i < n; i++) {
        at[m] = i;
        h[m] = a[i];
        m += !(fabsf(a[i]) <= cut);
    }
    return m;
}

/* h = act(g) * u for the m neurons of a list, those that come out as zero dropped; at[] from places to the down rows: those of the cluster's
 * place, or found[], whose neurons have their row_max; see sg_ffn_finish_found. */
static void finish(const sg_ffn *f, const sg_ffn_layer *l, uint32_t c, uint32_t t, uint32_t m, const float *u, uint32_t *found, uint64_t *active) {
    const sg_bundle *b = &l->bundle;
    const sg_cluster_place place = sg_ffn_place(f, l, c);
    const size_t from = (size_t)t * f->ld + c * b->l.per_cluster;
    const bool keep_zeros = f->policy.mode == SG_FFN_DENSE;
    uint32_t *at = f->at + from, kept = 0;
    float *h = f->h + from, *seen = f->observe ? f->observed + from : NULL, peak = 0, mass = 0;
    if (seen) memset(seen, 0, neurons_of(&b->l, c) * sizeof *seen);
    for (uint32_t i = 0; i < m; i++) {
        float v = h[i];
        if (u) v *= f->act == SG_ACT_DRELU && u[i] <= 0 ? 0 : u[i];
        *active += !(v == 0);
        if (seen) seen[at[i]] = v;
        if (v == 0 && !keep_zeros) continue;
        const uint32_t down = found ? found[i] : place.downs + at[i] * place.down_stride, neuron = c * b->l.per_cluster + at[i];
        if (b->down->quantised) {
            const float max = found ? f->row_max[from + i] : b->down_max ? b->down_max[neuron] : b->down->down_max(place.base + down, b->l.k);
            const float size = fabsf(v) * max;
            if (!(size <= peak)) peak = size;
            mass += size;
        }
        if (found && down == SG_AWAY) found[kept] = neuron;
        at[kept] = down;
        h[kept++] = v;
    }
    const size_t slot = (size_t)t * f->ld_cluster + c;
    f->peak[slot] = peak;
    f->mass[slot] = mass;
    f->live[slot] = kept;
}

void sg_ffn_finish_found(sg_ffn *f, const sg_ffn_layer *l, uint32_t c, uint64_t *active) {
    const uint32_t from = c * l->bundle.l.per_cluster;
    finish(f, l, c, 0, f->live[c], l->bundle.l.gated ? f->u + from : NULL, f->down_at + from, active);
}

static bool whole_cluster(const sg_ffn *f, const sg_bundle *b, uint64_t live, uint64_t all) {
    if (!b->l.gated || f->policy.mode == SG_FFN_SPARSE) return false;
    return f->policy.mode == SG_FFN_DENSE || (double)live >= (double)f->dense_share * (double)all;
}

void sg_ffn_choose(sg_ffn *f, const sg_ffn_layer *l, uint32_t layer, uint32_t n, uint32_t c) {
    const sg_bundle *b = &l->bundle;
    const uint32_t first = c * b->l.per_cluster, rows = neurons_of(&b->l, c);
    for (uint32_t t = 0; t < n; t++) {
        float cut = f->policy.cut ? f->policy.cut[layer] : 0;
        if (f->policy.top_k > 0 && f->token_cut[t] > cut) cut = f->token_cut[t];
        f->live[(size_t)t * f->ld_cluster + c] = choose(f, l, t, first, rows, cut);
    }
}

/* The up products of all neurons of a cluster, and h of those that are live. Returns how many products. */
static uint64_t whole_ups(sg_ffn *f, const sg_ffn_layer *l, uint32_t n, uint32_t c, uint32_t thread, uint64_t *active) {
    const sg_bundle *b = &l->bundle;
    const sg_cluster_place place = sg_ffn_place(f, l, c);
    const uint32_t rows = neurons_of(&b->l, c);
    float *all = f->up + (size_t)thread * f->n_batch * SG_CLUSTER_MAX, u[SG_CLUSTER_MAX];
    sg_lane_acts acts = f->x;
    acts.n = n;
    b->up->dot_tokens(all, SG_CLUSTER_MAX, place.base + place.ups, place.up_stride, rows, &acts);
    for (uint32_t t = 0; t < n; t++) {
        const uint32_t *at = f->at + (size_t)t * f->ld + c * b->l.per_cluster;
        const uint32_t m = f->live[(size_t)t * f->ld_cluster + c];
        for (uint32_t i = 0; i < m; i++) u[i] = all[(size_t)t * SG_CLUSTER_MAX + at[i]];
        finish(f, l, c, t, m, u, NULL, active);
    }
    return (uint64_t)rows * n;
}

/* The up products of the live neurons of token t in clusters c0 .. c1 - 1, as many as a list can hold, and their h. Returns where
 * it ended. A cluster alone has few: the longer the list, the more rows are on their way from memory at a time. */
static uint32_t listed_ups(sg_ffn *f, const sg_ffn_layer *l, uint32_t t, uint32_t c0, uint32_t c1, sg_ffn_count *count) {
    const sg_bundle *b = &l->bundle;
    const uint8_t *base = sg_ffn_place(f, l, c0).base;
    uint32_t rows[LIST], m = 0, end = c0;
    float u[LIST];
    const uint32_t *live = f->live + (size_t)t * f->ld_cluster;
    for (; end < c1 && m + live[end] <= LIST; end++) {
        const uint32_t *at = f->at + (size_t)t * f->ld + end * b->l.per_cluster;
        const sg_cluster_place place = sg_ffn_place(f, l, end);
        if (place.base != base) break;
        for (uint32_t i = 0; i < live[end]; i++) rows[m++] = place.ups + at[i] * place.up_stride;
    }
    if (m > 0) b->up->dot(u, base, 1, rows, m, &f->x, t);
    count->ups += m;
    m = 0;
    for (uint32_t c = c0; c < end; c++) {
        const uint32_t here = live[c]; /* finish() leaves those that are not zero */
        finish(f, l, c, t, here, u + m, NULL, &count->active);
        m += here;
    }
    return end;
}

void sg_ffn_ups(sg_ffn *f, const sg_ffn_layer *l, uint32_t layer, uint32_t n, uint32_t c0, uint32_t c1, uint32_t thread) {
    const sg_bundle *b = &l->bundle;
    sg_ffn_count *count = &f->counts[(size_t)thread * f->n_layer + layer];
    for (uint32_t c = c0; c < c1;) {
        uint32_t end = c; /* clusters of a list */
        for (; end < c1; end++) {
            uint64_t live = 0;
            for (uint32_t t = 0; t < n; t++) live += f->live[(size_t)t * f->ld_cluster + end];
            if (whole_cluster(f, b, live, (uint64_t)neurons_of(&b->l, end) * n)) break;
        }
        for (uint32_t t = 0; t < n; t++) {
            for (uint32_t i = c; b->l.gated && i < end;) i = listed_ups(f, l, t, i, end, count);
            for (uint32_t i = c; !b->l.gated && i < end; i++) finish(f, l, i, t, f->live[(size_t)t * f->ld_cluster + i], NULL, NULL, &count->active);
        }
        c = end;
        if (c < c1) count->ups += whole_ups(f, l, n, c++, thread, &count->active);
    }
}
