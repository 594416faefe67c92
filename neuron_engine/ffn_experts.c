/* Several tokens in a unit with experts: expert by expert. The tokens that use one are gathered, some at a time, so that its rows are read
 * once for all of them. */
#include <string.h>

#include "neuron_engine/ffn.h"
#include "neuron_engine/router.h"

/* The activations of the tokens side by side, in the memory of the thread. */
static void gather(const sg_ffn *f, const sg_ffn_task *k, sg_ffn_some *some) {
    const sg_lane_acts *from = &f->x;
    sg_lane_acts *a = &some->acts;
    const size_t groups = from->n_groups, first = (size_t)k->thread * SG_FFN_TILE, q = groups * SG_LANES * 32, lanes = groups * SG_LANES;
    const bool codes = from->q && f->tile.q, values = f->tile.x != NULL;
    *a = (sg_lane_acts) { .n = some->n, .k = from->k, .n_groups = from->n_groups };
    float *x = values ? (float *)(uintptr_t)f->tile.x + first * from->k : NULL; /* ours to fill */
    a->x = x;
    a->q = codes ? f->tile.q + first * q : NULL;
    a->d = codes ? f->tile.d + first * lanes : NULL;
    a->sum = codes ? f->tile.sum + first * lanes : NULL;
    const bool rest = codes && f->tile.rest_q && from->rest_q;
    a->rest_q = rest ? f->tile.rest_q + first * q : NULL;
    a->rest_d = rest ? f->tile.rest_d + first * lanes : NULL;
    a->rest_sum = rest ? f->tile.rest_sum + first * lanes : NULL;
    for (uint32_t i = 0; i < some->n; i++) {
        const size_t t = some->entry[i] / k->route->n_used;
        if (values) memcpy(x + (size_t)i * from->k, from->x + t * from->k, from->k * sizeof *x);
        if (!codes) continue;
        memcpy(a->q + i * q, from->q + t * q, q);
        memcpy(a->d + i * lanes, from->d + t * lanes, lanes * sizeof *a->d);
        memcpy(a->sum + i * lanes, from->sum + t * lanes, lanes * sizeof *a->sum);
        if (!rest) continue;
        memcpy(a->rest_q + i * q, from->rest_q + t * q, q);
        memcpy(a->rest_d + i * lanes, from->rest_d + t * lanes, lanes * sizeof *a->d);
        memcpy(a->rest_sum + i * lanes, from->rest_sum + t * lanes, lanes * sizeof *a->sum);
    }
}

/* The gates of cluster c of an expert for some of its tokens. */
static void gates(sg_ffn *f, const sg_ffn_task *k, const sg_ffn_some *some, uint32_t expert, uint32_t c) {
    const sg_bundle *b = &k->l->bundle;
    const uint32_t cluster = expert * b->l.per_expert + c, n = sg_bundle_neurons(&b->l, cluster);
    float *all = f->up + (size_t)k->thread * f->n_batch * SG_CLUSTER_MAX; /* not needed yet */
    sg_lane_dot_tokens(b->gate, all, SG_CLUSTER_MAX, sg_ffn_place_of(k->l, cluster).gates, b->l.gate_row, n, &some->acts);
    for (uint32_t i = 0; i < some->n; i++) {
        uint32_t v, t = sg_ffn_some_at(k, some, i, c, &v);
        float *g = f->gate + (size_t)t * f->ld + v * b->l.per_cluster;
        memcpy(g, all + (size_t)i * SG_CLUSTER_MAX, n * sizeof *g);
        sg_ffn_add_gate_bias(k->l, cluster, g, n);
    }
    sg_ffn_counts(f, k)->neurons += (uint64_t)n * some->n;
    sg_ffn_counts(f, k)->gates += (uint64_t)n * some->n;
}

void sg_ffn_visit(sg_ffn *f, const sg_ffn_task *k, uint32_t expert, uint32_t c, bool with_gates, bool with_ups) {
    const uint32_t end = f->entry_of[expert + 1];
    for (uint32_t from = f->entry_of[expert]; from < end; from += SG_FFN_TILE) {
        sg_ffn_some some = { .entry = f->entries + from, .n = end - from < SG_FFN_TILE ? end - from : SG_FFN_TILE };
        gather(f, k, &some);
        if (with_gates) gates(f, k, &some, expert, c);
        for (uint32_t i = 0; with_ups && i < some.n; i++) {
            uint32_t v, t = sg_ffn_some_at(k, &some, i, c, &v);
            sg_ffn_choose(f, k, t, v);
        }
        if (with_ups) sg_ffn_ups_of(f, k, &some, c);
    }
}

/* All clusters that somebody uses, for all who do. */
static void visit(sg_ffn *f, const sg_ffn_task *k, bool with_gates, bool with_ups, sg_team *team) {
    const uint32_t per = k->l->bundle.l.per_expert;
    uint32_t lo, hi;
    while (sg_team_take(team, *f->n_hit * per, 1, &lo, &hi))
        for (; lo < hi; lo++) sg_ffn_visit(f, k, f->hit[lo / per], lo % per, with_gates, with_ups);
    sg_team_barrier(team);
}

void sg_ffn_close_ranks(sg_ffn *f, const sg_ffn_route *route) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < route->n_used; i++) {
        if (sg_route_skips(route, i)) continue;
        f->one_expert[n] = route->expert[i];
        f->one_weight[n++] = route->weight[i];
    }
    *f->one = (sg_ffn_route) { n, f->one_expert, f->one_weight, false };
}

void sg_ffn_clear_skipped(sg_ffn *f, const sg_ffn_task *k, uint32_t threads) {
    const uint32_t n_used = k->route->n_used, per = k->l->bundle.l.per_expert;
    for (uint32_t i = k->thread; k->route->lossy && i < k->n * n_used; i += threads) {
        if (!sg_route_skips(k->route, i)) continue;
        for (size_t at = (size_t)(i / n_used) * f->ld_cluster + i % n_used * per, end = at + per; at < end; at++) {
            f->live[at] = 0;
            f->peak[at] = f->mass[at] = 0;
        }
    }
}

void sg_ffn_run_experts(sg_ffn *f, const sg_ffn_task *k, sg_team *team) {
    const bool top_k = f->policy.top_k > 0; /* needs all gates before the first up product */
    if (k->thread == 0) {
        *f->n_hit = sg_route_index(k->route->expert, k->route->lossy ? k->route->weight : NULL, k->n * k->route->n_used, k->l->bundle.l.n_expert,
                                   f->entry_of, f->entries, f->hit);
        *f->hit_lo = 0;
        *f->hit_hi = *f->n_hit;
    }
    sg_ffn_clear_skipped(f, k, sg_team_size(team));
    sg_team_barrier(team);
    if (top_k) {
        visit(f, k, true, false, team);
        sg_ffn_top_k(f, k, team);
    }
    visit(f, k, !top_k, true, team);
}
