#include "neuron_engine/router.h"

#include <math.h>
#include <string.h>

/* What experts are ordered by lies between these; NaN goes last. */
#define HUGE_VALUE 3e38f
/* The smallest sum that weights are divided by: the smallest normal half, as llama.cpp has it. */
#define LEAST_SUM 0x1p-14f

static void score(const sg_router *r, const sg_vec_fns *vec, float *x) {
    if (r->kind == SG_ROUTER_SOFTMAX) vec->softmax(x, r->n_expert);
    if (r->kind == SG_ROUTER_SIGMOID) vec->sigmoid_mul(x, x, NULL, r->n_expert);
}

/* The best of choice[0 .. n), which becomes -inf; n when all are. */
static uint32_t take_best(float *choice, uint32_t n) {
    uint32_t best = n;
    for (uint32_t i = 0; i < n; i++)
        if (choice[i] > -INFINITY && (best == n || choice[i] > choice[best])) best = i;
    if (best < n) choice[best] = -INFINITY;
    return best;
}

/* Takes the experts of all but the best groups out of the choice. */
static void best_groups(const sg_router *r, float *choice, float *group) {
    const uint32_t size = r->n_expert / r->n_group;
    for (uint32_t g = 0; g < r->n_group; g++) {
        float first = -INFINITY, second = -INFINITY;
        for (uint32_t i = g * size; i < (g + 1) * size; i++) {
            const float v = choice[i];
            if (v > first) {
                second = first;
                first = v;
            } else if (v > second) second = v;
        }
        group[g] = size > 1 ? first + second : first;
    }
    for (uint32_t g = r->n_group; g > r->n_group_used; g--) {
        uint32_t worst = 0; /* of equal groups the later one goes */
        bool found = false;
        for (uint32_t i = 0; i < r->n_group; i++) {
            if (group[i] == INFINITY) continue; /* gone */
            if (!found || !(group[i] > group[worst])) worst = i;
            found = true;
        }
        group[worst] = INFINITY;
        for (uint32_t i = worst * size; i < (worst + 1) * size; i++) choice[i] = -INFINITY;
    }
}

/* Sorts by number; there are few. */
static void sort(uint32_t *expert, uint32_t n) {
    for (uint32_t i = 1; i < n; i++)
        for (uint32_t k = i; k > 0 && expert[k - 1] > expert[k]; k--) {
            const uint32_t t = expert[k];
            expert[k] = expert[k - 1];
            expert[k - 1] = t;
        }
}

static float bounded(float v) { return v > -HUGE_VALUE ? v < HUGE_VALUE ? v : HUGE_VALUE : -HUGE_VALUE; }

double sg_route_spread(const sg_router *r, const sg_vec_fns *vec, const float *products, const float *select_bias, float *scratch) {
    float least = INFINITY, most = -INFINITY;
    memcpy(scratch, products, r->n_expert * sizeof *scratch);
    if (select_bias) score(r, vec, scratch);
    for (uint32_t i = 0; i < r->n_expert; i++) {
        const float v = select_bias ? scratch[i] + select_bias[i] : scratch[i];
        if (!(fabsf(v) < HUGE_VALUE)) continue;
        if (v < least) least = v;
        if (v > most) most = v;
    }
    return most >= least ? (double)most - (double)least : -1;
}

/* Those that are left in the choice, by order[] and what the policy adds for being in memory. */
static void prefer_resident(const sg_route_policy *p, const float *order, float *choice, uint32_t n) {
    const double bonus = (double)p->prefer * p->range;
    for (uint32_t i = 0; i < n; i++)
        if (choice[i] > -INFINITY) choice[i] = p->resident[i] ? bounded((float)((double)order[i] + bonus)) : order[i];
}

static float sum_of(const float *x, uint32_t n) {
    float sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += x[i];
    return sum;
}

/* Weights become 0, of the experts that are not in memory the least first. */
static void drop(const sg_router *r, const sg_route_policy *p, const uint32_t *expert, float *weight) {
    const float all = sum_of(weight, r->n_used), limit = p->drop * all;
    float dropped = 0;
    uint32_t left = r->n_used;
    for (; left > 1; left--) {
        uint32_t least = r->n_used;
        for (uint32_t i = 0; i < r->n_used; i++)
            if (!p->resident[expert[i]] && weight[i] > 0 && (least == r->n_used || weight[i] < weight[least])) least = i;
        if (least == r->n_used || !(dropped + weight[least] <= limit)) break;
        dropped += weight[least];
        weight[least] = 0;
    }
    const float rest = sum_of(weight, r->n_used), factor = all / rest;
    if (dropped > 0 && (r->normalise || r->kind == SG_ROUTER_SOFTMAX_CHOSEN) && isfinite(factor))
        for (uint32_t i = 0; i < r->n_used; i++) weight[i] *= factor;
    bool any = false;
    for (uint32_t i = 0; i < r->n_used; i++) any = any || weight[i] != 0;
    if (!any) weight[0] = 0x1p-149f; /* all were 0 before: a route without experts would be a case of its own everywhere */
}

void sg_route(const sg_router *r, const sg_vec_fns *vec, float *products, const float *select_bias, const sg_route_policy *policy, uint32_t *expert,
              float *weight, float *scratch) {
    const bool may = policy && policy->resident, prefers = may && policy->prefer > 0;
    const uint32_t kept = prefers && r->n_used > SG_ROUTE_KEEP ? SG_ROUTE_KEEP : r->n_used;
    float *choice = scratch, *order = scratch + r->n_expert + r->n_group;
    for (uint32_t i = 0; prefers && i < r->n_expert; i++) order[i] = bounded(products[i]);
    score(r, vec, products);
    for (uint32_t i = 0; i < r->n_expert; i++) choice[i] = bounded(select_bias ? products[i] + select_bias[i] : products[i]);
    if (prefers && select_bias) memcpy(order, choice, r->n_expert * sizeof *order);
    if (r->n_group > 0) best_groups(r, choice, scratch + r->n_expert);
    for (uint32_t i = 0; i < kept; i++) expert[i] = take_best(choice, r->n_expert);
    if (kept < r->n_used) prefer_resident(policy, order, choice, r->n_expert);
    for (uint32_t i = kept; i < r->n_used; i++) expert[i] = take_best(choice, r->n_expert);
    sort(expert, r->n_used);
    for (uint32_t i = 0; i < r->n_used; i++) weight[i] = products[expert[i]];
    if (r->kind == SG_ROUTER_SOFTMAX_CHOSEN) vec->softmax(weight, r->n_used);
    const float sum = sum_of(weight, r->n_used), divisor = !r->normalise ? 1 : sum < LEAST_SUM ? LEAST_SUM : sum;
    for (uint32_t i = 0; i < r->n_used; i++) weight[i] = weight[i] / divisor * r->scale;
    if (may && policy->drop > 0) drop(r, policy, expert, weight);
}

uint32_t sg_route_index(const uint32_t *expert, const float *weight, uint32_t n, uint32_t n_expert, uint32_t *start, uint32_t *entry, uint32_t *hit) {
    uint32_t n_hit = 0;
    memset(start, 0, ((size_t)n_expert + 1) * sizeof *start);
    for (uint32_t i = 0; i < n; i++)
        if (!weight || weight[i] != 0) start[expert[i] + 1]++;
    for (uint32_t e = 0; e < n_expert; e++) {
        if (start[e + 1] > 0) hit[n_hit++] = e;
        start[e + 1] += start[e];
    }
    for (uint32_t i = 0; i < n; i++)
        if (!weight || weight[i] != 0) entry[start[expert[i]]++] = i;
    memmove(start + 1, start, n_expert * sizeof *start); /* each has become the beginning of the next */
    start[0] = 0;
    return n_hit;
}
