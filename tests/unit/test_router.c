/* Which experts a token uses: every form against plain code, ties, groups, and products that are no numbers; what is given up of a route, against plain
 * code that works with the same floats. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "neuron_engine/router.h"

#define MOST 64

static sg_kernels kernels;

static float noise(void) { return (float)rand() / (float)RAND_MAX * 6 - 3; }

/* In double, by definition. */
static void reference(const sg_router *r, const float *products, const float *bias, uint32_t *expert, double *weight) {
    double score[MOST], sum = 0, top = -INFINITY;
    bool open[MOST], taken[MOST] = { false };
    for (uint32_t i = 0; i < r->n_expert; i++) top = fmax(top, (double)products[i]);
    for (uint32_t i = 0; i < r->n_expert; i++) sum += exp((double)products[i] - top);
    for (uint32_t i = 0; i < r->n_expert; i++) {
        const double x = (double)products[i];
        score[i] = r->kind == SG_ROUTER_SIGMOID ? 1 / (1 + exp(-x)) : r->kind == SG_ROUTER_SOFTMAX ? exp(x - top) / sum : x;
        open[i] = true;
    }
    for (uint32_t g = r->n_group; r->n_group && g > r->n_group_used; g--) { /* the worst group goes */
        const uint32_t size = r->n_expert / r->n_group;
        uint32_t worst = 0;
        double least = INFINITY;
        for (uint32_t k = 0; k < r->n_group; k++) {
            double a = -INFINITY, b = -INFINITY;
            if (!open[k * size]) continue;
            for (uint32_t i = k * size; i < (k + 1) * size; i++) {
                const double v = score[i] + (bias ? (double)bias[i] : 0);
                if (v > a) b = a, a = v;
                else if (v > b) b = v;
            }
            if (a + b < least) least = a + b, worst = k;
        }
        for (uint32_t i = worst * size; i < (worst + 1) * size; i++) open[i] = false;
    }
    for (uint32_t n = 0; n < r->n_used; n++) {
        uint32_t best = MOST;
        for (uint32_t i = 0; i < r->n_expert; i++)
            if (open[i] && !taken[i] &&
                (best == MOST || score[i] + (bias ? (double)bias[i] : 0) > score[best] + (bias ? (double)bias[best] : 0))) best = i;
        taken[best] = true;
    }
    uint32_t n = 0;
    double all = 0, exps = 0;
    for (uint32_t i = 0; i < r->n_expert; i++)
        if (taken[i]) expert[n] = i, weight[n++] = score[i];
    if (r->kind == SG_ROUTER_SOFTMAX_CHOSEN) {
        for (n = 0; n < r->n_used; n++) exps += exp(weight[n]);
        for (n = 0; n < r->n_used; n++) weight[n] = exp(weight[n]) / exps;
    }
    for (n = 0; n < r->n_used; n++) all += weight[n];
    for (n = 0; n < r->n_used; n++) weight[n] = weight[n] / (r->normalise ? all : 1) * (double)r->scale;
}

START_TEST(forms) {
    srand(7 + (unsigned)_i);
    for (int round = 0; round < 300; round++) {
        const bool groups = round % 3 == 2;
        const uint32_t n = groups ? 32 : 3 + (uint32_t)rand() % 60;
        sg_router r = { (sg_router_kind)_i, n, 1 + (uint32_t)rand() % (groups ? 8 : n), groups ? 8 : 0, groups ? 2 + (uint32_t)rand() % 6 : 0,
                        round % 2 == 0, round % 5 == 0 ? 2.5f : 1 };
        float products[MOST], bias[MOST], weight[MOST], scratch[3 * MOST];
        double want[MOST];
        uint32_t expert[MOST], want_expert[MOST];
        for (uint32_t i = 0; i < n; i++) {
            products[i] = noise();
            bias[i] = noise() / 10;
        }
        const float *select = round % 4 == 1 ? bias : NULL;
        reference(&r, products, select, want_expert, want);
        sg_route(&r, &kernels.vec, products, select, NULL, expert, weight, scratch);
        ck_assert_mem_eq(expert, want_expert, r.n_used * sizeof *expert);
        for (uint32_t i = 0; i < r.n_used; i++) ck_assert_msg(fabs((double)weight[i] - want[i]) < 2e-6 * (1 + fabs(want[i])), "weight %u", i);
    }
}
END_TEST

/* Of equal scores the lower number; whatever the products are, there are n_used different experts below n_expert. */
START_TEST(extremes) {
    const sg_router r = { SG_ROUTER_SIGMOID, 8, 3, 0, 0, true, 1 };
    float equal[8] = { 1, 1, 1, 1, 1, 1, 1, 1 }, odd[8] = { NAN, -INFINITY, NAN, INFINITY, NAN, NAN, NAN, NAN }, weight[8], scratch[32];
    uint32_t expert[8];
    sg_route(&r, &kernels.vec, equal, NULL, NULL, expert, weight, scratch);
    for (uint32_t i = 0; i < 3; i++) {
        ck_assert_uint_eq(expert[i], i);
        ck_assert_float_eq_tol(weight[i], 1.0f / 3, 1e-6f);
    }
    for (int kind = 0; kind < 3; kind++) {
        sg_router strange = r;
        float copy[8];
        strange.kind = (sg_router_kind)kind;
        strange.n_used = 8;
        memcpy(copy, odd, sizeof copy);
        sg_route(&strange, &kernels.vec, copy, NULL, NULL, expert, weight, scratch);
        for (uint32_t i = 0; i < 8; i++) ck_assert_uint_eq(expert[i], i);
    }
    sg_router grouped = r;
    grouped.n_group = 4;
    grouped.n_group_used = 2;
    float nan[8] = { NAN, NAN, NAN, NAN, NAN, NAN, 1, 2 };
    sg_route(&grouped, &kernels.vec, nan, NULL, NULL, expert, weight, scratch);
    ck_assert(expert[0] < expert[1] && expert[1] < expert[2] && expert[1] == 6 && expert[2] == 7);
}
END_TEST

/* ---- what is given up ---- */

typedef struct given_up {
    sg_router r;
    float products[MOST], bias[MOST];
    const float *select;
    uint8_t resident[MOST];
    sg_route_policy policy;
} given_up;

/* An expert of `open` that is ordered highest, the lower number of equal ones; `open` loses it. */
static uint32_t best_of(const float *order, bool *open, uint32_t n) {
    uint32_t best = MOST;
    for (uint32_t i = 0; i < n; i++)
        if (open[i] && (best == MOST || order[i] > order[best])) best = i;
    open[best] = false;
    return best;
}

/* The definition again: the SG_ROUTE_KEEP best of the lossless route's order, the others by order and bonus; then weights, then drops. The scores, the
 * lossless choice and its groups are those of sg_route, tested above. */
static void given_up_reference(const given_up *g, uint32_t *expert, float *weight) {
    const sg_router *r = &g->r;
    sg_router all = *r;
    float scores[MOST], choice[MOST], order[MOST], scratch[3 * MOST], ignored[MOST], sum = 0;
    uint32_t ids[MOST];
    bool open[MOST] = { false }, taken[MOST] = { false };
    memcpy(scores, g->products, sizeof scores);
    all.n_used = r->n_group ? r->n_expert / r->n_group * r->n_group_used : r->n_expert; /* what groups leave open */
    sg_route(&all, &kernels.vec, scores, g->select, NULL, ids, ignored, scratch);
    for (uint32_t i = 0; i < all.n_used; i++) open[ids[i]] = true;
    for (uint32_t i = 0; i < r->n_expert; i++) {
        choice[i] = g->select ? scores[i] + g->select[i] : scores[i];
        order[i] = g->select ? choice[i] : g->products[i];
        if (g->policy.prefer > 0 && g->resident[i]) order[i] = (float)((double)order[i] + (double)g->policy.prefer * g->policy.range);
    }
    for (uint32_t i = 0; i < r->n_used; i++) taken[best_of(g->policy.prefer > 0 && i >= SG_ROUTE_KEEP ? order : choice, open, r->n_expert)] = true;
    for (uint32_t i = 0, n = 0; i < r->n_expert; i++)
        if (taken[i]) expert[n++] = i;
    for (uint32_t i = 0; i < r->n_used; i++) weight[i] = scores[expert[i]];
    if (r->kind == SG_ROUTER_SOFTMAX_CHOSEN) kernels.vec.softmax(weight, r->n_used);
    for (uint32_t i = 0; i < r->n_used; i++) sum += weight[i];
    for (uint32_t i = 0; i < r->n_used; i++) weight[i] = weight[i] / (r->normalise ? sum : 1) * r->scale;
    /* sorted by weight, those that are away go while they fit */
    float total = 0, dropped = 0, rest = 0;
    uint32_t away[MOST], n = 0;
    for (uint32_t i = 0; i < r->n_used; i++) {
        total += weight[i];
        if (!g->resident[expert[i]]) away[n++] = i;
    }
    for (uint32_t i = 1; i < n; i++)
        for (uint32_t k = i; k > 0 && weight[away[k]] < weight[away[k - 1]]; k--) {
            const uint32_t t = away[k];
            away[k] = away[k - 1];
            away[k - 1] = t;
        }
    uint32_t count = 0;
    for (uint32_t i = 0; i < n && i + 1 < r->n_used && g->policy.drop > 0; i++) {
        if (dropped + weight[away[i]] > g->policy.drop * total) break;
        dropped += weight[away[i]];
        weight[away[i]] = 0;
        count++;
    }
    for (uint32_t i = 0; i < r->n_used; i++) rest += weight[i];
    for (uint32_t i = 0; count > 0 && (r->normalise || r->kind == SG_ROUTER_SOFTMAX_CHOSEN) && i < r->n_used; i++) weight[i] *= total / rest;
}

static given_up *random_choice(int kind, int round) {
    given_up *g = calloc(1, sizeof *g);
    const bool groups = round % 3 == 2;
    const uint32_t n = groups ? 32 : 3 + (uint32_t)rand() % 60;
    g->r = (sg_router) { (sg_router_kind)kind, n, 1 + (uint32_t)rand() % (groups ? 8 : n), groups ? 8 : 0, groups ? 2 + (uint32_t)rand() % 6 : 0,
                         round % 2 == 0, round % 5 == 0 ? 2.5f : 1 };
    for (uint32_t i = 0; i < n; i++) {
        g->products[i] = round % 7 == 3 ? (float)(rand() % 4) : noise(); /* many equal ones */
        g->bias[i] = noise() / 10;
        g->resident[i] = rand() % 4 < round % 5; /* none .. all */
    }
    g->select = round % 4 == 1 ? g->bias : NULL;
    static const float drops[] = { 0, 0.02f, 0.1f, 0.3f, 0.7f, 0.9999f }, prefers[] = { 0, 0.05f, 0.3f, 1 };
    g->policy = (sg_route_policy) { g->resident, drops[rand() % 6], prefers[rand() % 4], (double)(rand() % 9) };
    return g;
}

START_TEST(gives_up_as_defined) {
    int dropped = 0, other = 0, scaled = 0;
    srand(70 + (unsigned)_i);
    for (int round = 0; round < 3000; round++) {
        given_up *g = random_choice(_i, round);
        float x[MOST], lossless[MOST], weight[MOST], want[MOST], scratch[3 * MOST], all = 0;
        uint32_t expert[MOST], want_expert[MOST], best[MOST];
        memcpy(x, g->products, sizeof x);
        sg_route(&g->r, &kernels.vec, x, g->select, NULL, best, lossless, scratch);
        memcpy(x, g->products, sizeof x);
        sg_route(&g->r, &kernels.vec, x, g->select, &g->policy, expert, weight, scratch);
        given_up_reference(g, want_expert, want);
        ck_assert_mem_eq(expert, want_expert, g->r.n_used * sizeof *expert);
        ck_assert_mem_eq(weight, want, g->r.n_used * sizeof *weight);
        if (g->policy.prefer == 0) ck_assert_mem_eq(expert, best, g->r.n_used * sizeof *expert);
        other += memcmp(expert, best, g->r.n_used * sizeof *expert) != 0;
        for (uint32_t i = 0; i < g->r.n_used; i++) {
            all += weight[i];
            dropped += weight[i] == 0;
            ck_assert(weight[i] != 0 || !g->resident[expert[i]]);
        }
        if (g->r.normalise) ck_assert_float_eq_tol(all, g->r.scale, 1e-5f);
        scaled += g->r.normalise && g->policy.drop > 0;
        free(g);
    }
    ck_assert_int_gt(dropped, 1000);
    ck_assert_int_gt(other, 200);
    ck_assert_int_gt(scaled, 200);
}
END_TEST

/* Off, or with everything in memory, or with nothing to prefer: the lossless route to the bit. */
START_TEST(gives_nothing_up) {
    srand(90 + (unsigned)_i);
    for (int round = 0; round < 1000; round++) {
        given_up *g = random_choice(_i, round);
        float x[MOST], want[MOST], weight[MOST], scratch[3 * MOST];
        uint32_t expert[MOST], best[MOST];
        memcpy(x, g->products, sizeof x);
        sg_route(&g->r, &kernels.vec, x, g->select, NULL, best, want, scratch);
        if (round % 3 == 0) g->policy.resident = NULL;
        if (round % 3 == 1) g->policy.drop = g->policy.prefer = 0;
        if (round % 3 == 2) memset(g->resident, 1, sizeof g->resident), g->policy.prefer = 0;
        memcpy(x, g->products, sizeof x);
        sg_route(&g->r, &kernels.vec, x, g->select, &g->policy, expert, weight, scratch);
        ck_assert_mem_eq(expert, best, g->r.n_used * sizeof *expert);
        ck_assert_mem_eq(weight, want, g->r.n_used * sizeof *weight);
        free(g);
    }
}
END_TEST

/* Whatever the products: different experts, ascending, below n_expert, and one of them at least that is computed. */
START_TEST(gives_up_extremes) {
    static const float odd[] = { NAN, INFINITY, -INFINITY, 3.4e38f, -3.4e38f, 0, -0.0f, 1e-42f, 100, -200 };
    srand(7);
    for (int round = 0; round < 20000; round++) {
        given_up *g = random_choice(round % 3, round);
        float x[MOST], weight[MOST], scratch[3 * MOST];
        uint32_t expert[MOST];
        bool computed = false;
        for (uint32_t i = 0; i < g->r.n_expert; i++) g->products[i] = odd[rand() % 10];
        if (round % 11 == 0) g->r.scale = 0;
        g->policy.range = sg_route_spread(&g->r, &kernels.vec, g->products, g->select, scratch);
        ck_assert(g->policy.range == -1 || (g->policy.range >= 0 && g->policy.range <= 6e38));
        memcpy(x, g->products, sizeof x);
        sg_route(&g->r, &kernels.vec, x, g->select, &g->policy, expert, weight, scratch);
        for (uint32_t i = 0; i < g->r.n_used; i++) {
            ck_assert(expert[i] < g->r.n_expert && (i == 0 || expert[i] > expert[i - 1]));
            computed = computed || weight[i] != 0;
        }
        ck_assert(computed || g->policy.drop == 0);
        free(g);
    }
    /* nine tenths of so little are all of it */
    const uint8_t away[2] = { 0, 0 };
    const sg_router tiny = { SG_ROUTER_SIGMOID, 2, 1, 0, 0, false, 0x1p-148f };
    const sg_route_policy policy = { .resident = away, .drop = 0.9f };
    float x[2] = { 200, 0 }, weight[1], scratch[4];
    uint32_t expert[1];
    sg_route(&tiny, &kernels.vec, x, NULL, &policy, expert, weight, scratch);
    ck_assert(expert[0] == 0 && weight[0] == 0x1p-148f);
}
END_TEST

START_TEST(ranges) {
    const sg_router r = { SG_ROUTER_SIGMOID, 5, 2, 0, 0, true, 1 };
    const float x[5] = { 1, -2, NAN, 3.5f, INFINITY }, none[5] = { NAN, NAN, INFINITY, -INFINITY, NAN }, bias[5] = { 0, 0, 0, 10, NAN };
    float scratch[5];
    sg_route_range range = { 0 };
    ck_assert(sg_route_range_mean(&range) == 0);
    ck_assert(sg_route_spread(&r, &kernels.vec, x, NULL, scratch) == 5.5);
    ck_assert(sg_route_spread(&r, &kernels.vec, none, NULL, scratch) == -1);
    /* with a bias: of scores and bias */
    const double want = 10 + 1 / (1 + exp(-3.5)) - 1 / (1 + exp(2.0));
    ck_assert(fabs(sg_route_spread(&r, &kernels.vec, x, bias, scratch) - want) < 1e-5);
    sg_route_range_add(&range, 5.5);
    sg_route_range_add(&range, -1);
    sg_route_range_add(&range, 0.5);
    ck_assert(sg_route_range_mean(&range) == 3 && range.n == 2);
}
END_TEST

/* Pairs by expert, without those of weight 0 where they are to be left out. */
START_TEST(index_of_a_route) {
    const uint32_t expert[8] = { 1, 3, 0, 3, 3, 4, 0, 1 }, want_all[8] = { 2, 6, 0, 7, 1, 3, 4, 5 }, want[5] = { 6, 7, 1, 4, 5 };
    const float weight[8] = { 0, 1, -0.0f, 0, -1, NAN, 1e-45f, 2 };
    uint32_t start[7], entry[8], hit[6];
    ck_assert_uint_eq(sg_route_index(expert, NULL, 8, 6, start, entry, hit), 4);
    ck_assert_mem_eq(entry, want_all, sizeof want_all);
    ck_assert(start[0] == 0 && start[1] == 2 && start[2] == 4 && start[3] == 4 && start[4] == 7 && start[5] == 8 && start[6] == 8);
    ck_assert(hit[0] == 0 && hit[1] == 1 && hit[2] == 3 && hit[3] == 4);
    ck_assert_uint_eq(sg_route_index(expert, weight, 8, 6, start, entry, hit), 4);
    ck_assert_mem_eq(entry, want, sizeof want);
    ck_assert(start[1] == 1 && start[2] == 2 && start[4] == 4 && start[5] == 5 && start[6] == 5);
}
END_TEST

int main(void) {
    sg_kernels_init(&kernels, sg_cpu_detect());
    Suite *s = suite_create("router");
    TCase *t = tcase_create("router");
    tcase_add_loop_test(t, forms, 0, 3);
    tcase_add_test(t, extremes);
    tcase_add_loop_test(t, gives_up_as_defined, 0, 3);
    tcase_add_loop_test(t, gives_nothing_up, 0, 3);
    tcase_add_test(t, gives_up_extremes);
    tcase_add_test(t, ranges);
    tcase_add_test(t, index_of_a_route);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
