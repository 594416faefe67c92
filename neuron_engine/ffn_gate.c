/* The gates of a sparse layer, and what they alone decide. */
#include <math.h>
#include <string.h>

#include "neuron_engine/ffn.h"

/* Rows of a list at most: enough to have several on their way from memory all the time. */
#define LIST (2 * SG_CLUSTER_MAX)

/* Zeroes the gates of token t that are not predicted; returns how many are, their places in rows[]. */
static uint32_t predict(const sg_ffn *f, const sg_ffn_task *k, const sg_acts *seen, uint32_t c, uint32_t t, uint32_t *rows) {
    const sg_predictor *p = &k->l->predictor;
    const uint32_t at = c * k->l->bundle.l.per_cluster, n = sg_bundle_neurons(&k->l->bundle.l, c);
    float scores[SG_CLUSTER_MAX];
    const sg_acts xt = sg_acts_rows(seen, t, 1);
    sg_acts zt = sg_acts_rows(&f->z, t, 1);
    zt.k = p->rank; /* z has room for the largest rank of the model */
    zt.n_blocks = zt.k / 32;
    sg_predictor_scores(p, &xt, &zt, scores, at, at + n);
    float *g = f->gate + (size_t)t * f->ld + at;
    uint32_t m = 0;
    for (uint32_t i = 0; i < n; i++) {
        rows[m] = i;
        m += scores[i] > f->policy.score_cut[k->unit];
    }
    /* Zero where nothing was predicted, what was computed (if so) elsewhere. */
    for (uint32_t i = 0, next = 0; i < n; i++) {
        if (next < m && rows[next] == i) next++;
        else g[i] = 0;
    }
    return m;
}

static const float *gate_bias(const sg_ffn_layer *l, uint32_t cluster) {
    return sg_ffn_bias(&l->bundle.l, l->bundle.l.gated ? l->gate_bias : l->up_bias, cluster);
}

void sg_ffn_add_gate_bias(const sg_ffn_layer *l, uint32_t cluster, float *g, uint32_t n) {
    const float *bias = gate_bias(l, cluster);
    for (uint32_t i = 0; bias && i < n; i++) g[i] += bias[i];
}

/* One token: the gates that are predicted, of clusters c0 .. c1 - 1, as one list. */
static uint64_t listed_gates(sg_ffn *f, const sg_ffn_task *k, const sg_acts *seen, uint32_t c0, uint32_t c1) {
    const sg_bundle *b = &k->l->bundle;
    const float *bias = gate_bias(k->l, 0);
    uint32_t rows[LIST], place[LIST], in_cluster[SG_CLUSTER_MAX + 1], m = 0;
    float g[LIST];
    uint64_t all = 0;
    const uint8_t *base = NULL;
    for (uint32_t c = c0; c < c1; c++) {
        const sg_cluster_place at = sg_ffn_place(f, k, 0, c);
        const uint32_t named = predict(f, k, seen, c, 0, in_cluster);
        if (!base) base = at.gates;
        const size_t from = (size_t)(at.gates - base);
        for (uint32_t i = 0; i < named; i++, m++) {
            rows[m] = (uint32_t)(from + in_cluster[i] * b->l.gate_row);
            place[m] = c * b->l.per_cluster + in_cluster[i];
        }
        /* the next cluster in the same list, if it lies behind this one */
        if (c + 1 < c1 && m + SG_CLUSTER_MAX <= LIST) {
            const uint8_t *next = sg_ffn_place(f, k, 0, c + 1).gates;
            if (next >= base && (size_t)(next - base) < UINT32_MAX - b->l.cluster_bytes) continue;
        }
        sg_lane_dot(b->gate, g, base, 1, rows, m, &f->x, 0);
        base = NULL;
        for (uint32_t i = 0; i < m; i++) f->gate[place[i]] = bias ? g[i] + bias[place[i]] : g[i];
        all += m;
        m = 0;
    }
    return all;
}

void sg_ffn_gates(sg_ffn *f, const sg_ffn_task *k, const sg_acts *seen, uint32_t c0, uint32_t c1) {
    const sg_bundle *b = &k->l->bundle;
    const bool predicted = f->policy.predict && k->l->predictor.kind != SG_PRED_NONE;
    sg_ffn_count *count = sg_ffn_counts(f, k);
    sg_lane_acts acts = f->x;
    acts.n = k->n;
    for (uint32_t v = c0; v < c1; v++) {
        const uint32_t c = sg_ffn_cluster(k, 0, v), n = sg_bundle_neurons(&b->l, c);
        float *g = f->gate + v * b->l.per_cluster;
        uint32_t rows[SG_CLUSTER_MAX + 1];
        count->neurons += (uint64_t)n * k->n;
        if (predicted && k->n == 1) continue;
        sg_lane_dot_tokens(b->gate, g, f->ld, sg_ffn_place(f, k, 0, v).gates, b->l.gate_row, n, &acts);
        count->gates += (uint64_t)n * k->n;
        for (uint32_t t = 0; t < k->n; t++) sg_ffn_add_gate_bias(k->l, c, g + (size_t)t * f->ld, n);
        for (uint32_t t = 0; predicted && t < k->n; t++) (void)predict(f, k, seen, c, t, rows);
    }
    if (predicted && k->n == 1) count->gates += listed_gates(f, k, seen, c0, c1);
}

/* Magnitudes of act(g) of token t as words, which order like them; returns how many. */
static uint32_t magnitudes(const sg_ffn *f, const sg_ffn_task *k, uint32_t t, uint32_t *out) {
    const sg_bundle_layout *l = &k->l->bundle.l;
    uint32_t m = 0;
    for (uint32_t v = 0; v < k->n_clusters; v++) {
        if (k->route && k->route->lossy && sg_route_skips(k->route, sg_ffn_entry(k, t, v))) continue;
        const uint32_t n = sg_bundle_neurons(l, sg_ffn_cluster(k, t, v));
        float a[SG_CLUSTER_MAX];
        sg_neuron_activate(f->kernels, f->act, k->l->fat_threshold, f->gate + (size_t)t * f->ld + v * l->per_cluster, a, n);
        for (uint32_t j = 0; j < n; j++) {
            a[j] = fabsf(a[j]);
            memcpy(&out[m++], &a[j], sizeof *out);
        }
    }
    return m;
}

/* The cut of token t; scratch: [ld] words. */
static float top_k_cut(const sg_ffn *f, const sg_ffn_task *k, uint32_t t, uint32_t *scratch) {
    const sg_bundle_layout *l = &k->l->bundle.l;
    const uint32_t top = f->policy.top_k;
    if (top >= (uint64_t)l->n_neurons * (l->n_expert ? k->route->n_used : 1)) return 0;
    const uint32_t n = magnitudes(f, k, t, scratch);
    /* The K-th largest, bit by bit from the top: 31 counting passes, without a branch. */
    uint32_t bits = 0;
    for (int bit = 30; bit >= 0; bit--) {
        const uint32_t try = bits | 1u << bit;
        uint32_t above = 0;
        for (uint32_t i = 0; i < n; i++) above += scratch[i] >= try;
        if (above >= top) bits = try;
    }
    if (bits == 0) return 0;
    bits--; /* the largest magnitude that is cut off */
    float cut;
    memcpy(&cut, &bits, sizeof cut);
    return cut;
}

void sg_ffn_top_k(sg_ffn *f, const sg_ffn_task *k, sg_team *team) {
    /* at[] of the token is not needed yet */
    for (uint32_t t = k->thread; t < k->n; t += sg_team_size(team)) f->token_cut[t] = top_k_cut(f, k, t, f->at + (size_t)t * f->ld);
    sg_team_barrier(team);
}
