/* Experts as neuron bundles that are not all in RAM: those in slots while the others are being read, then those, cluster by cluster as they
 * arrive, the gates before their records.
 *
 * All experts of a token must be in memory until its down sums, whose scale depends on all of them. So must, of several tokens, all experts
 * that any of them uses, if there are landing areas for that; else they come range by range, up to h, and then once more for the down sums.
 * (lossy top-k needs all gates of a layer first: sessions with it evaluate tokens one by one.) */
#include "neuron_engine/ffn_home.h"
#include "neuron_engine/router.h"

/* Clusters whose live neurons make one list, for one token. */
#define GROUP 8u

static const sg_expert_store *store_of(const sg_ffn_task *k) { return k->l->experts->store; }

/* The experts from hit[lo] on that can be together. */
static void demand_range(sg_ffn *f, sg_expert_home *home, uint32_t lo, uint32_t n) {
    *f->hit_lo = lo;
    *f->hit_hi = lo + sg_expert_together(home->store, home, f->hit + lo, *f->n_hit - lo);
    sg_expert_demand(home->store, home, f->hit + lo, *f->hit_hi - lo, f->entry_of, n);
}

void sg_ffn_demand(sg_ffn *f, uint32_t unit, const sg_ffn_route *route, uint32_t n) {
    const sg_ffn_layer *l = &f->layers[unit];
    if (n == 1) {
        sg_ffn_close_ranks(f, route);
        sg_expert_demand(l->experts->store, l->experts, f->one_expert, f->one->n_used, NULL, 1);
        return;
    }
    *f->n_hit = sg_route_index(route->expert, route->lossy ? route->weight : NULL, n * route->n_used, l->bundle.l.n_expert, f->entry_of, f->entries,
                               f->hit);
    demand_range(f, l->experts, 0, n);
    l->experts->apart = *f->hit_hi < *f->n_hit;
}

/* Waits for a part of cluster c of the expert at a position. */
static bool await(sg_ffn *f, const sg_ffn_task *k, uint32_t p, uint32_t c, bool records) {
    const sg_bundle_layout *l = &k->l->bundle.l;
    sg_expert_store *s = k->l->experts->store;
    const size_t at = c * l->cluster_bytes;
    double waited = 0;
    if (!s->read[p]) return true;
    const uint8_t *there = sg_expert_get(s, p, 0, records ? at + l->records_at : at, records ? at + l->cluster_bytes : at + l->per_cluster * l->gate_row, &waited);
    if (waited > 0) sg_ffn_waited(f, f->store, k->unit, k->thread, sg_trace_now() - waited);
    return there != NULL;
}

/* A cluster that could not be read has no live neurons: the run ends with an error. */
static void none_live(sg_ffn *f, const sg_ffn_task *k, uint32_t p, uint32_t c) {
    const uint32_t per = k->l->bundle.l.per_expert, expert = store_of(k)->expert[p];
    if (k->n == 1) {
        f->live[store_of(k)->index[p] * per + c] = 0;
        return;
    }
    for (uint32_t i = f->entry_of[expert]; i < f->entry_of[expert + 1]; i++)
        f->live[(size_t)(f->entries[i] / k->route->n_used) * f->ld_cluster + f->entries[i] % k->route->n_used * per + c] = 0;
}

/* Clusters c0 .. c1 - 1 of the expert at a position, which are there. */
static void visit(sg_ffn *f, const sg_ffn_task *k, const sg_acts *seen, uint32_t p, uint32_t c0, uint32_t c1, bool with_gates, bool with_ups) {
    const uint32_t v = store_of(k)->index[p] * k->l->bundle.l.per_expert;
    if (k->n > 1) {
        for (uint32_t c = c0; c < c1; c++) sg_ffn_visit(f, k, store_of(k)->expert[p], c, with_gates, with_ups);
        return;
    }
    if (with_gates) sg_ffn_gates(f, k, seen, v + c0, v + c1);
    if (!with_ups) return;
    for (uint32_t c = c0; c < c1; c++) sg_ffn_choose(f, k, 0, v + c);
    sg_ffn_ups(f, k, v + c0, v + c1);
}

/* One that is read. */
static void visit_read(sg_ffn *f, const sg_ffn_task *k, const sg_acts *seen, uint32_t p, uint32_t c, bool with_gates, bool with_ups) {
    bool good = await(f, k, p, c, false);
    if (good && with_gates) visit(f, k, seen, p, c, c + 1, true, false);
    good = good && (!with_ups || await(f, k, p, c, true));
    if (good && with_ups) visit(f, k, seen, p, c, c + 1, false, true);
    if (!good) none_live(f, k, p, c);
}

/* All clusters of the experts that are, or will be, in memory. Ends with a barrier. */
static void visit_all(sg_ffn *f, const sg_ffn_task *k, const sg_acts *seen, bool with_gates, bool with_ups, sg_team *team) {
    const sg_expert_store *s = store_of(k);
    const uint32_t per = k->l->bundle.l.per_expert, group = k->n == 1 ? GROUP : 1;
    uint32_t lo, hi, i;
    while (sg_team_take(team, s->n_here * per, 1, &lo, &hi))
        for (uint32_t at = lo, end; at < hi; at = end) {
            end = (at / per + 1) * per;
            if (end > at + group) end = at + group;
            if (end > hi) end = hi;
            visit(f, k, seen, at / per, at % per, at % per + end - at, with_gates, with_ups);
        }
    sg_team_barrier(team);
    while (sg_team_next(team, (s->n - s->n_here) * per, &i)) visit_read(f, k, seen, s->n_here + i / per, i % per, with_gates, with_ups);
    sg_team_barrier(team);
}

/* Up to h. */
static void visit_range(sg_ffn *f, const sg_ffn_task *k, const sg_acts *seen, sg_team *team) {
    if (k->thread == 0) (void)sg_expert_group(k->l->experts->store); /* slots for those that are read */
    visit_all(f, k, seen, true, true, team);
}

/* Until the records of all that is read are there. */
static void await_records(sg_ffn *f, const sg_ffn_task *k, sg_team *team) {
    const sg_expert_store *s = store_of(k);
    const uint32_t per = k->l->bundle.l.per_expert;
    uint32_t i;
    while (sg_team_next(team, (s->n - s->n_here) * per, &i))
        if (!await(f, k, s->n_here + i / per, i % per, true)) none_live(f, k, s->n_here + i / per, i % per);
    sg_team_barrier(team);
}

/* The range that was just done gives way to the next one, or, again, to the first. True: there is one. */
static bool next_range(sg_ffn *f, const sg_ffn_task *k, bool again, sg_team *team) {
    sg_team_barrier(team);
    const uint32_t hi = again ? 0 : *f->hit_hi;
    const bool more = hi < *f->n_hit;
    sg_team_barrier(team);
    if (k->thread == 0 && (more || again)) {
        sg_expert_end(k->l->experts->store);
        demand_range(f, k->l->experts, hi, k->n);
    }
    sg_team_barrier(team);
    return more;
}

static void run_ranges(sg_ffn *f, const sg_ffn_task *k, const sg_acts *seen, const float *residual, float *y, size_t ldy, sg_team *team) {
    const bool together = *f->hit_hi == *f->n_hit;
    bool more = true;
    sg_ffn_clear_skipped(f, k, sg_team_size(team));
    for (; more; more = next_range(f, k, false, team)) visit_range(f, k, seen, team);
    sg_ffn_observe(f, k, seen, residual, team);
    sg_ffn_down_begin(f, k, team);
    if (together) {
        sg_ffn_down_clusters(f, k, 0, k->n_clusters, y, ldy, team);
    } else {
        for (more = next_range(f, k, true, team); more; more = next_range(f, k, false, team)) {
            await_records(f, k, team);
            sg_ffn_down_clusters(f, k, 0, k->n_clusters, y, ldy, team);
        }
    }
    sg_ffn_down_end(f, k, y, ldy, team);
}

void sg_ffn_run_away(sg_ffn *f, const sg_ffn_task *k, const sg_acts *seen, const float *residual, float *y, size_t ldy, sg_team *team) {
    if (k->n > 1) {
        run_ranges(f, k, seen, residual, y, ldy, team);
    } else {
        if (f->policy.top_k > 0) {
            visit_all(f, k, seen, true, false, team);
            sg_ffn_top_k(f, k, team);
        }
        if (k->thread == 0) (void)sg_expert_group(k->l->experts->store);
        visit_all(f, k, seen, f->policy.top_k == 0, true, team);
        sg_ffn_observe(f, k, seen, residual, team);
        sg_ffn_down(f, k, y, ldy, team);
    }
    sg_team_barrier(team);
    if (k->thread == 0) sg_expert_end(k->l->experts->store);
}
