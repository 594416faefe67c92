/* Steps of feed-forward blocks. */
#include "runtime/exec_private.h"

#include <string.h>

#include "neuron_engine/act.h"

/* By pieces of tokens, which fit the 8-bit blocks. */
#define ACT_PIECE 1024u

void sg_exec_activate(const sg_exec_turn *r, const sg_step *s, uint32_t thread, uint32_t threads) {
    sg_exec *e = r->e;
    const sg_acts acts = sg_exec_acts(e, s->out, s->width, r->n);
    const uint32_t pieces = (s->n + ACT_PIECE - 1) / ACT_PIECE;
    const float threshold = e->m.ffn_threshold ? e->m.ffn_threshold[s->layer] : 0;
    for (uint32_t i = thread; i < r->n * pieces; i += threads) {
        const uint32_t t = i / pieces, at = i % pieces * ACT_PIECE, n = s->n - at < ACT_PIECE ? s->n - at : ACT_PIECE;
        const float *gate = sg_exec_row(e, SG_BUF_GATE_UP, t) + at, *up = s->gated ? gate + s->n : NULL;
        sg_act_mul(e->m.kernels, sg_plan_act(e->m.hp->ffn_act), threshold, sg_exec_acts_row(&acts, t) + at, gate, up, n);
        if (s->quantise) sg_acts_quantise_part(&e->m.kernels->vec, &acts, t, at, n / 32 * 32);
    }
}

static sg_ffn_route route(const sg_exec *e) { return (sg_ffn_route) { e->router.n_used, e->route_expert, e->route_weight, e->route_drop > 0 }; }
static sg_expert_home *home_of(const sg_exec *e, uint32_t layer) { return e->m.weights->experts ? e->m.weights->experts[layer] : NULL; }

sg_route_policy sg_exec_route_policy(const sg_exec *e, uint32_t layer) {
    if (e->route_drop == 0 && e->route_prefer == 0) return (sg_route_policy) { 0 };
    const sg_expert_home *home = home_of(e, layer);
    return (sg_route_policy) { .resident = e->resident ? e->resident(e->resident_user, layer) : home ? home->resident : NULL,
                               .drop = e->route_drop,
                               .prefer = e->route_prefer,
                               .range = sg_route_range_mean(&e->route_range[layer]) };
}

static void route_tokens(const sg_exec_turn *r, const sg_step *s, uint32_t thread, uint32_t threads) {
    sg_exec *e = r->e;
    const sg_router *router = &e->router;
    const sg_vec_fns *vec = &e->m.kernels->vec;
    float *scratch = e->route_scratch + thread * sg_route_scratch(router);
    const bool ranges = e->route_prefer > 0;
    sg_route_policy policy = sg_exec_route_policy(e, s->layer);
    sg_route_range range = e->route_range[s->layer]; /* as it is when the token's turn comes, whichever thread has it */
    for (uint32_t t = thread; ranges && t < r->n; t += threads)
        e->route_spread[t] = sg_route_spread(router, vec, sg_exec_row(e, s->in, t) + s->at, s->select_bias, scratch);
    if (ranges) sg_team_barrier(e->team);
    for (uint32_t t = 0; t < r->n; t++) {
        if (ranges) sg_route_range_add(&range, e->route_spread[t]);
        if (t % threads != thread) continue;
        policy.range = sg_route_range_mean(&range);
        sg_route(router, vec, sg_exec_row(e, s->in, t) + s->at, s->select_bias, &policy, e->route_expert + (size_t)t * router->n_used,
                 e->route_weight + (size_t)t * router->n_used, scratch);
    }
    if (!ranges) return;
    sg_team_barrier(e->team);
    if (thread == 0) e->route_range[s->layer] = range;
}

void sg_exec_route(const sg_exec_turn *r, const sg_step *s, uint32_t thread, uint32_t threads) {
    sg_exec *e = r->e;
    if (e->on_rows) { /* before scores take the place of the products */
        if (thread == 0) e->on_rows(e->on_rows_user, SG_SEEN_ROUTER, s->layer, sg_exec_row(e, s->in, 0) + s->at, e->m.plan->width[s->in], r->n);
        sg_team_barrier(e->team);
    }
    route_tokens(r, s, thread, threads);
    sg_expert_home *home = home_of(e, s->layer);
    if (!home) return;
    sg_team_barrier(e->team);
    const sg_ffn_route rt = route(e);
    if (thread != 0) return;
    sg_expert_judge_foreseen(home->store, home, e->route_expert, e->router.n_used);
    if (home->in_place) sg_ffn_demand(&e->ffn, e->m.weights->units[s->layer].main, &rt, r->n);
    else sg_experts_demand(&e->experts, home, &rt, r->n);
}

uint32_t sg_exec_by_uses(const uint32_t *uses, uint32_t n_expert, uint32_t most, uint32_t *out) {
    uint32_t found = 0, below;
    for (uint32_t level = most; level > 0; level = below) {
        below = 0;
        for (uint32_t i = 0; i < n_expert; i++) {
            if (uses[i] == level) out[found++] = i;
            else if (uses[i] < level && uses[i] > below) below = uses[i];
        }
    }
    return found;
}

/* The experts that the routes of n tokens name, those that most of them name first; from scores. Returns how many. What the session gives up is not
 * read. */
static uint32_t name_experts(sg_exec *e, const sg_step *s, uint32_t n) {
    const uint32_t n_expert = e->router.n_expert, n_used = e->router.n_used;
    uint32_t *named = e->expect_expert, *expert = named + n_expert, *uses = e->expect_uses;
    const sg_route_policy policy = sg_exec_route_policy(e, s->layer);
    const sg_ffn_route rt = { n_used, expert, e->expect_weight, e->route_drop > 0 };
    memset(uses, 0, n_expert * sizeof *uses);
    for (uint32_t t = 0; t < n; t++) {
        sg_route(&e->router, &e->m.kernels->vec, e->expect_scores + (size_t)t * n_expert, s->select_bias, &policy, expert, e->expect_weight, e->route_scratch);
        for (uint32_t i = 0; i < n_used; i++) uses[expert[i]] += !sg_route_skips(&rt, i);
    }
    return sg_exec_by_uses(uses, n_expert, n, named);
}

/* What the next layer's router would say of this layer's stream, for some tokens of a batch. */
void sg_exec_expect(const sg_exec_turn *r, const sg_step *s, uint32_t thread) {
    sg_exec *e = r->e;
    sg_expert_home *home = home_of(e, s->layer);
    /* further ahead only a single token, and only where the drive would have nothing to do. Thread 0 changes neither here before a barrier */
    if (!sg_expert_looks_ahead(home->store, home, s->n) || (s->n > 1 && (r->n > 1 || !sg_expert_idle(home->store)))) return;
    const uint32_t n = r->n < SG_EXPECT_TOKENS ? r->n : SG_EXPECT_TOKENS, threads = sg_team_size(e->team);
    sg_acts a = e->ahead;
    a.n = n;
    for (uint32_t t = thread; t < n; t += threads) {
        const uint32_t from = (uint32_t)((uint64_t)t * r->n / n);
        sg_exec_norm(e, sg_exec_acts_row(&a, t), sg_exec_row(e, SG_BUF_X, from), s->norm, s->norm_bias, e->m.hp->n_embd);
        if (s->w->m.kernel->acts_q8) e->m.kernels->vec.quantize_acts(&a, t);
    }
    sg_team_barrier(e->team);
    uint32_t lo, hi;
    while (sg_team_take(e->team, sg_matrix_clusters(&s->w->m), 1, &lo, &hi)) sg_matrix_mul(&s->w->m, s->bias, &a, e->expect_scores, e->router.n_expert, lo, hi);
    sg_team_barrier(e->team);
    if (thread == 0) sg_expert_expect(home->store, home, s->n, e->expect_expert, name_experts(e, s, n));
}

void sg_exec_experts(const sg_exec_turn *r, const sg_step *s, uint32_t thread) {
    sg_exec *e = r->e;
    const sg_weight *w = e->m.weights->layers[s->layer];
    const sg_experts_layer l = { &w[SG_L_GATE_EXPS].m, &w[SG_L_UP_EXPS].m, &w[SG_L_DOWN_EXPS].m,
                                 w[SG_L_GATE_EXPS_BIAS].v, w[SG_L_UP_EXPS_BIAS].v, w[SG_L_DOWN_EXPS_BIAS].v,
                                 home_of(e, s->layer) };
    const sg_ffn_route rt = route(e);
    sg_acts x = e->acts[s->in];
    x.n = r->n;
    if (thread == 0 && e->on_route) e->on_route(e->on_route_user, s->layer, &rt);
    sg_experts_run(&e->experts, &l, &rt, &x, e->f32[s->out], e->m.plan->width[s->out], e->team, thread);
}

void sg_exec_combine(const sg_exec_turn *r, const sg_step *s, uint32_t thread, uint32_t threads) {
    sg_exec *e = r->e;
    const sg_vec_fns *vec = &e->m.kernels->vec;
    for (uint32_t t = thread; t < r->n; t += threads) {
        float factor = 1;
        if (s->gated) vec->sigmoid_mul(&factor, sg_exec_row(e, SG_BUF_ROUTER, t) + e->m.hp->n_expert, NULL, 1);
        vec->axpy(sg_exec_row(e, SG_BUF_BRANCH, t), sg_exec_row(e, SG_BUF_BRANCH2, t), e->m.hp->n_embd, factor);
    }
}

/* What layer s->layer's feed-forward part will see is guessed from the stream before its attention: only that is missing. */
void sg_exec_look_ahead(const sg_exec_turn *r, const sg_step *s, uint32_t thread) {
    sg_exec *e = r->e;
    if (r->way != SG_WAY_NEURONS || r->n != 1 || !e->ahead_cut || e->m.streaming->store.ahead.rests) return;
    const float *x = sg_exec_row(e, SG_BUF_X, 0);
    sg_acts a = e->ahead;
    if (e->m.pred_residual) a.x = x;
    if (thread == 0 && !e->m.pred_residual) {
        sg_exec_norm(e, (float *)(uintptr_t)a.x, x, s->norm, s->norm_bias, e->m.hp->n_embd);
        e->m.kernels->vec.quantize_acts(&a, 0);
    }
    sg_team_barrier(e->team);
    sg_ffn_look_ahead(&e->ffn, s->unit, &a, e->ahead_cut[s->layer], e->team, thread);
}

void sg_exec_ffn(const sg_exec_turn *r, const sg_step *s, uint32_t thread) {
    sg_exec *e = r->e;
    const sg_ffn_route rt = route(e);
    sg_acts x = e->acts[s->in];
    x.n = r->n;
    if (thread == 0 && s->routed && e->on_route) e->on_route(e->on_route_user, s->layer, &rt);
    sg_ffn_run(&e->ffn, s->unit, &x, e->f32[SG_BUF_X], s->routed ? &rt : NULL, e->f32[s->out], e->m.plan->width[s->out], e->team, thread);
}
