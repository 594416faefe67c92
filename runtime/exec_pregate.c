/* The pre-gate: one product over a token's embedding says what the routers of all layers will say (a router apart from the layers, as in Read-ME,
 * arXiv 2410.19123). Here it is asked which experts to read: at the beginning of a token those of all layers; and, where the tokens that follow are
 * known, how many of them will use which, so that those stay in RAM. It changes nothing but the time. Where it is the router, its products are there
 * already (SG_BUF_PREGATE), and what it names comes true, in batches too. */
#include "runtime/exec_private.h"

#include <string.h>

/* Memory of a thread for the routes of a layer. */
typedef struct seer {
    float *scores, *weight, *scratch;
    uint32_t *uses, *named, *expert;
} seer;

static seer seer_of(const sg_exec *e, uint32_t thread) {
    const uint32_t n = e->m.hp->n_expert, used = e->m.hp->n_expert_used;
    float *f = e->pregate_scores + (size_t)thread * (n + used);
    uint32_t *u = e->pregate_experts + (size_t)thread * (2 * n + used);
    return (seer) { f, f + n, e->route_scratch + thread * sg_route_scratch(&e->router), u, u + n, u + 2 * n };
}

/* The next layer of experts from l on; *m: how many are before it. n_layer: there is none. */
static uint32_t next_experts(const sg_exec *e, uint32_t l, uint32_t *m) {
    while (l < e->m.hp->n_layer && !e->m.weights->experts[l]) l++;
    ++*m;
    return l;
}

/* Rows 0 .. n - 1 of e->ahead, embeddings, become e->pregate. */
static void ask(sg_exec *e, const sg_step *s, uint32_t n, uint32_t thread) {
    const sg_vec_fns *vec = &e->m.kernels->vec;
    sg_acts a = e->ahead;
    a.n = n;
    for (uint32_t t = thread; t < n; t += sg_team_size(e->team)) {
        float *x = sg_exec_acts_row(&a, t);
        vec->rmsnorm(x, x, e->ones, e->m.hp->n_embd, e->m.hp->norm_eps);
        if (s->w->m.kernel->acts_q8) vec->quantize_acts(&a, t);
    }
    sg_team_barrier(e->team);
    uint32_t lo, hi;
    while (sg_team_take(e->team, sg_matrix_clusters(&s->w->m), 1, &lo, &hi)) sg_matrix_mul(&s->w->m, s->bias, &a, e->pregate, s->w->m.rows, lo, hi);
    sg_team_barrier(e->team);
}

/* The experts of a token in a layer, in v->expert; what the session gives up is left out. Returns how many. */
static uint32_t route_one(const sg_exec *e, const seer *v, uint32_t layer, const float *products) {
    const sg_route_policy policy = sg_exec_route_policy(e, layer);
    const sg_ffn_route rt = { e->router.n_used, v->expert, v->weight, e->route_drop > 0 };
    uint32_t n = 0;
    memcpy(v->scores, products, e->router.n_expert * sizeof *products);
    sg_route(&e->router, &e->m.kernels->vec, v->scores, e->m.weights->layers[layer][SG_L_ROUTER_SELECT].v, &policy, v->expert, v->weight, v->scratch);
    for (uint32_t i = 0; i < e->router.n_used; i++)
        if (!sg_route_skips(&rt, i)) v->expert[n++] = v->expert[i];
    return n;
}

/* Names the experts of a layer for n tokens, whose products are `ld` apart; reads: not only to be judged. */
static void foresee(const sg_exec *e, const seer *v, uint32_t layer, const float *products, size_t ld, uint32_t n, bool reads) {
    sg_expert_home *h = e->m.weights->experts[layer];
    memset(v->uses, 0, e->router.n_expert * sizeof *v->uses);
    for (uint32_t t = n; t-- > 0;) { /* the first one last: it stays in v->expert */
        const uint32_t used = route_one(e, v, layer, products + t * ld);
        for (uint32_t i = 0; i < used; i++) v->uses[v->expert[i]]++;
        if (t > 0) continue;
        uint32_t named = reads ? sg_exec_by_uses(v->uses, e->router.n_expert, n, v->named) : 0;
        if (h->in_place && sg_expert_together(h->store, h, v->named, named) < named) named = 0; /* they come part by part: there is no room for more */
        sg_expert_foresee(h, v->expert, used, v->named, named);
    }
}

/* For the tokens of this run: all that are routed so, else the first. */
static void name_all(const sg_exec_turn *r, const sg_step *s, bool routes, uint32_t thread) {
    sg_exec *e = r->e;
    const uint32_t n_expert = e->router.n_expert, threads = sg_team_size(e->team);
    const sg_expert_store *x = e->m.streaming->experts;
    const seer v = seer_of(e, thread);
    if (!routes) {
        if (thread == 0) memcpy(sg_exec_acts_row(&e->ahead, 0), sg_exec_row(e, SG_BUF_X, 0), e->m.hp->n_embd * sizeof(float));
        sg_team_barrier(e->team);
        ask(e, s, 1, thread);
    }
    uint32_t m = 0;
    for (uint32_t l = next_experts(e, 0, &m); l < e->m.hp->n_layer; l = next_experts(e, l + 1, &m)) {
        if ((m - 1) % threads != thread) continue;
        const bool reads = sg_expert_foresees(x, e->m.weights->experts[l]) && (routes || r->n == 1);
        const float *products = (routes ? sg_exec_row(e, SG_BUF_PREGATE, 0) : e->pregate) + (size_t)(m - 1) * n_expert;
        foresee(e, &v, l, products, e->m.plan->width[SG_BUF_PREGATE], routes && reads ? r->n : 1, reads);
    }
    sg_team_barrier(e->team);
    if (thread == 0) sg_expert_start_named(e->m.streaming->experts);
}

/* Adds the experts of n tokens to what the next batch needs. */
static void count_next(const sg_exec *e, const seer *v, uint32_t layer, const float *products, size_t ld, uint32_t n) {
    uint16_t *soon = e->m.weights->experts[layer]->soon;
    for (uint32_t t = 0; t < n; t++) {
        const uint32_t used = route_one(e, v, layer, products + t * ld);
        for (uint32_t i = 0; i < used; i++) soon[v->expert[i]] += soon[v->expert[i]] < UINT16_MAX;
    }
}

/* For those of the next one, some at a time. */
static void weigh_all(const sg_exec_turn *r, const sg_step *s, uint32_t thread) {
    sg_exec *e = r->e;
    const uint32_t most = e->n_batch < SG_EXPECT_TOKENS ? e->n_batch : SG_EXPECT_TOKENS, threads = sg_team_size(e->team), k = e->m.hp->n_embd;
    const sg_expert_store *x = e->m.streaming->experts;
    const seer v = seer_of(e, thread);
    for (uint32_t from = 0, n; from < e->n_next; from += n) {
        const bool last = (n = e->n_next - from < most ? e->n_next - from : most) == e->n_next - from;
        sg_exec_embed(r, e->next + from, n, r->pos + r->n + from, sg_exec_acts_row(&e->ahead, 0), k, from == 0, thread);
        sg_team_barrier(e->team); /* also for those who still look at what was asked before */
        ask(e, s, n, thread);
        uint32_t m = 0;
        for (uint32_t l = next_experts(e, 0, &m); l < e->m.hp->n_layer; l = next_experts(e, l + 1, &m)) {
            sg_expert_home *h = e->m.weights->experts[l];
            if ((m - 1) % threads != thread || !sg_expert_weighs(x, h, false)) continue;
            if (from == 0) memset(h->soon, 0, h->n_expert * sizeof *h->soon);
            count_next(e, &v, l, e->pregate + (size_t)(m - 1) * e->router.n_expert, s->w->m.rows, n);
            if (last) sg_expert_weighed(x, h);
        }
    }
}

void sg_exec_pregate(const sg_exec_turn *r, const sg_step *s, uint32_t thread) {
    sg_exec *e = r->e;
    const sg_expert_store *x = e->m.streaming->experts;
    const bool routes = s->in == SG_BUF_PREGATE;
    bool names = false, judges = false, weighs = false;
    for (uint32_t i = 0; i < x->n_homes; i++) { /* nothing that this looks at changes before a barrier */
        names = names || ((routes || r->n == 1) && sg_expert_foresees(x, &x->homes[i]));
        judges = judges || (e->n_next > 0 && sg_expert_weighs(x, &x->homes[i], true));
        weighs = weighs || (e->n_next > 0 && sg_expert_weighs(x, &x->homes[i], false));
    }
    if (names || judges) name_all(r, s, routes, thread);
    if (weighs) weigh_all(r, s, thread);
}
