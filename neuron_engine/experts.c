#include "neuron_engine/experts.h"

#include <string.h>

#include "neuron_engine/act.h"
#include "neuron_engine/router.h"

void sg_experts_lay_out(sg_experts *e, sg_carver *c) {
    const size_t pairs = (size_t)e->n_batch * e->n_used;
    e->start = sg_carve(c, e->n_expert + 1, sizeof *e->start);
    e->used = sg_carve(c, e->n_expert, sizeof *e->used);
    e->pair_of = sg_carve(c, pairs, sizeof *e->pair_of);
    e->entry = sg_carve(c, pairs, sizeof *e->entry);
    if (e->n_batch > 1) sg_acts_lay_out(&e->x, c, pairs, e->k, true, e->precise);
    e->gate_up = sg_carve(c, pairs, 2 * (size_t)e->n_ff * sizeof *e->gate_up);
    sg_acts_lay_out(&e->h, c, pairs, e->n_ff, true, e->precise);
    e->out = sg_carve(c, pairs, (size_t)e->k * sizeof *e->out);
    e->scratch = sg_carve(c, e->n_threads, e->item_bytes);
}

/* Numbers the pairs; by one thread. */
static void sort_pairs(sg_experts *e, const sg_ffn_route *route, uint32_t pairs) {
    e->n = sg_route_index(route->expert, route->lossy ? route->weight : NULL, pairs, e->n_expert, e->start, e->entry, e->used);
    for (uint32_t i = 0; i < e->start[e->n_expert]; i++) e->pair_of[e->entry[i]] = i;
}

void sg_experts_demand(sg_experts *e, sg_expert_home *home, const sg_ffn_route *route, uint32_t n) {
    sort_pairs(e, route, n * e->n_used);
    sg_expert_demand(home->store, home, e->used, e->n, n > 1 ? e->start : NULL, n);
}

static sg_matrix matrix_of(const sg_experts_layer *l, const sg_experts_product *m, uint32_t expert, const uint32_t *slot) {
    if (!slot) return sg_matrix_at(m->w, expert);
    return (sg_matrix) { .kernel = m->w->kernel, .data = sg_expert_in_slot(l->home, *slot, m->slice), .rows = m->w->rows, .k = m->w->k };
}

/* The row clusters of all of them stand one behind the other, and the threads help themselves. */
void sg_experts_in_ram(const sg_experts_turn *t, const sg_experts_product *m, uint32_t n_m, const uint32_t *expert, const uint32_t *slot, uint32_t n) {
    const sg_experts *e = t->e;
    uint32_t lo, hi;
    const uint32_t clusters = sg_matrix_clusters(m[0].w), per_expert = clusters * n_m; /* gate and up are of one shape */
    while (sg_team_take(t->team, n * per_expert, 1, &lo, &hi))
        while (lo < hi) {
            const uint32_t p = lo / per_expert, in_expert = lo % per_expert, which = in_expert / clusters, c = in_expert % clusters;
            const uint32_t end = clusters - c < hi - lo ? clusters : c + (hi - lo), first = e->start[expert[p]];
            const sg_matrix w = matrix_of(t->l, &m[which], expert[p], slot ? &slot[p] : NULL);
            const sg_acts a = sg_experts_input(t, &m[which], expert[p]);
            sg_matrix_mul(&w, m[which].bias ? m[which].bias + (size_t)expert[p] * w.rows : NULL, &a, m[which].y + first * m[which].ldy, m[which].ldy,
                          c, end);
            lo += end - c;
            if (slot) sg_stream_poll(t->l->home->store->stream); /* so that the drive is not idle meanwhile */
        }
}

void sg_experts_activate(const sg_experts_turn *t, const uint32_t *expert, uint32_t n) {
    sg_experts *e = t->e;
    const bool q8 = t->l->down->kernel->acts_q8;
    const uint32_t threads = sg_team_size(t->team);
    uint32_t at = 0; /* pairs before */
    for (uint32_t p = 0; p < n; p++) {
        const uint32_t first = e->start[expert[p]], end = e->start[expert[p] + 1];
        for (uint32_t i = first + (threads + t->thread - at % threads) % threads; i < end; i += threads) {
            const float *gate = e->gate_up + (size_t)i * 2 * e->n_ff;
            sg_act_mul(e->kernels, e->act, 0, (float *)(uintptr_t)e->h.x + (size_t)i * e->n_ff, gate, gate + e->n_ff, e->n_ff);
            if (q8) sg_acts_quantise_part(&e->kernels->vec, &e->h, i, 0, e->h.n_blocks * 32);
        }
        at += end - first;
    }
}

static void run_in_ram(const sg_experts_turn *t) {
    const sg_experts *e = t->e;
    sg_experts_in_ram(t, t->first, 2, e->used, NULL, e->n);
    sg_team_barrier(t->team);
    sg_experts_activate(t, e->used, e->n);
    sg_team_barrier(t->team);
    sg_experts_in_ram(t, &t->second, 1, e->used, NULL, e->n);
    sg_team_barrier(t->team);
}

/* y[t] from the pairs of a token. */
static void sum_up(const sg_experts *e, const sg_ffn_route *route, uint32_t n, float *y, size_t ldy, uint32_t thread, uint32_t threads) {
    for (uint32_t t = thread; t < n; t += threads) {
        float *out = y + t * ldy;
        memset(out, 0, e->k * sizeof *out);
        for (uint32_t s = 0; s < e->n_used; s++) {
            const size_t i = (size_t)t * e->n_used + s;
            if (!sg_route_skips(route, i))
                e->kernels->vec.axpy(out, e->out + (size_t)e->pair_of[i] * e->k, e->k, route->weight[i]);
        }
    }
}

void sg_experts_run(sg_experts *e, const sg_experts_layer *l, const sg_ffn_route *route, const sg_acts *x, float *y, size_t ldy, sg_team *team,
                    uint32_t thread) {
    const uint32_t n = x->n, threads = sg_team_size(team);
    const bool q8 = l->gate->kernel->acts_q8 || l->up->kernel->acts_q8;
    if (!l->home) {
        if (thread == 0) sort_pairs(e, route, n * e->n_used);
        sg_team_barrier(team);
    }
    for (uint32_t i = thread; n > 1 && i < e->start[e->n_expert]; i += threads) sg_acts_copy(&e->x, i, x, e->entry[i] / e->n_used, q8);
    if (n > 1) sg_team_barrier(team);
    const sg_acts *in = n > 1 ? &e->x : x;
    const sg_experts_turn t = { .e = e,
                                .l = l,
                                .first = { { l->gate, l->gate_bias, in, e->gate_up, 2 * (size_t)e->n_ff, SG_EXPERT_GATE },
                                           { l->up, l->up_bias, in, e->gate_up + e->n_ff, 2 * (size_t)e->n_ff, SG_EXPERT_UP } },
                                .second = { l->down, l->down_bias, &e->h, e->out, e->k, SG_EXPERT_DOWN },
                                .shared_input = n == 1,
                                .team = team,
                                .thread = thread };
    (l->home ? sg_experts_run_away : run_in_ram)(&t);
    sum_up(e, route, n, y, ldy, thread, threads);
}
