/* Which experts a token uses: every form against plain code, ties, groups, and products that are no numbers. */
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
        float products[MOST], bias[MOST], weight[MOST], scratch[2 * MOST];
        double want[MOST];
        uint32_t expert[MOST], want_expert[MOST];
        for (uint32_t i = 0; i < n; i++) {
            products[i] = noise();
            bias[i] = noise() / 10;
        }
        const float *select = round % 4 == 1 ? bias : NULL;
        reference(&r, products, select, want_expert, want);
        sg_route(&r, &kernels.vec, products, select, expert, weight, scratch);
        ck_assert_mem_eq(expert, want_expert, r.n_used * sizeof *expert);
        for (uint32_t i = 0; i < r.n_used; i++) ck_assert_msg(fabs((double)weight[i] - want[i]) < 2e-6 * (1 + fabs(want[i])), "weight %u", i);
    }
}
END_TEST

/* Of equal scores the lower number; whatever the products are, there are n_used different experts below n_expert. */
START_TEST(extremes) {
    const sg_router r = { SG_ROUTER_SIGMOID, 8, 3, 0, 0, true, 1 };
    float equal[8] = { 1, 1, 1, 1, 1, 1, 1, 1 }, odd[8] = { NAN, -INFINITY, NAN, INFINITY, NAN, NAN, NAN, NAN }, weight[8], scratch[16];
    uint32_t expert[8];
    sg_route(&r, &kernels.vec, equal, NULL, expert, weight, scratch);
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
        sg_route(&strange, &kernels.vec, copy, NULL, expert, weight, scratch);
        for (uint32_t i = 0; i < 8; i++) ck_assert_uint_eq(expert[i], i);
    }
    sg_router grouped = r;
    grouped.n_group = 4;
    grouped.n_group_used = 2;
    float nan[8] = { NAN, NAN, NAN, NAN, NAN, NAN, 1, 2 };
    sg_route(&grouped, &kernels.vec, nan, NULL, expert, weight, scratch);
    ck_assert(expert[0] < expert[1] && expert[1] < expert[2] && expert[1] == 6 && expert[2] == 7);
}
END_TEST

int main(void) {
    sg_kernels_init(&kernels, sg_cpu_detect());
    Suite *s = suite_create("router");
    TCase *t = tcase_create("router");
    tcase_add_loop_test(t, forms, 0, 3);
    tcase_add_test(t, extremes);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
