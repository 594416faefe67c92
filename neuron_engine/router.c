#include "neuron_engine/router.h"

#include <math.h>
#include <string.h>

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

void sg_route(const sg_router *r, const sg_vec_fns *vec, float *products, const float *select_bias, uint32_t *expert, float *weight,
              float *scratch) {
    float *choice = scratch;
    score(r, vec, products);
    for (uint32_t i = 0; i < r->n_expert; i++) {
        const float v = select_bias ? products[i] + select_bias[i] : products[i];
        choice[i] = v > -3e38f ? v < 3e38f ? v : 3e38f : -3e38f; /* NaN goes last */
    }
    if (r->n_group > 0) best_groups(r, choice, scratch + r->n_expert);
    for (uint32_t i = 0; i < r->n_used; i++) expert[i] = take_best(choice, r->n_expert);
    sort(expert, r->n_used);
    float sum = 0;
    for (uint32_t i = 0; i < r->n_used; i++) weight[i] = products[expert[i]];
    if (r->kind == SG_ROUTER_SOFTMAX_CHOSEN) vec->softmax(weight, r->n_used);
    for (uint32_t i = 0; i < r->n_used; i++) sum += weight[i];
    const float divisor = !r->normalise ? 1 : sum < LEAST_SUM ? LEAST_SUM : sum;
    for (uint32_t i = 0; i < r->n_used; i++) weight[i] = weight[i] / divisor * r->scale;
}

uint32_t sg_route_index(const uint32_t *expert, uint32_t n, uint32_t n_expert, uint32_t *start, uint32_t *entry, uint32_t *hit) {
    uint32_t n_hit = 0;
    memset(start, 0, ((size_t)n_expert + 1) * sizeof *start);
    for (uint32_t i = 0; i < n; i++) start[expert[i] + 1]++;
    for (uint32_t e = 0; e < n_expert; e++) {
        if (start[e + 1] > 0) hit[n_hit++] = e;
        start[e + 1] += start[e];
    }
    for (uint32_t i = 0; i < n; i++) entry[start[expert[i]]++] = i;
    memmove(start + 1, start, n_expert * sizeof *start); /* each has become the beginning of the next */
    start[0] = 0;
    return n_hit;
}
