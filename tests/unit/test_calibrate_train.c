/* Trained predictors on planted data: whether a neuron is active depends on few directions of the input, which its gate row shows
 * only among much else. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "neuron_engine/quant.h"
#include "runtime/calibrate/calibrate.h"

enum { K = 64, N = 100, WORDS = 2, DIRECTIONS = 6, RANK = 8, FIT = 3000, TEST = 1000 };

static uint16_t x[(FIT + TEST) * K];
static uint64_t bits[(FIT + TEST) * WORDS];
static float gate[N * K];
static sg_linalg la;
static sg_error err;

/* Sum of 12 uniform values: nearly normal, variance 1, the same on every machine. */
static float normal(uint64_t *state) {
    double sum = -6;
    for (int i = 0; i < 12; i++) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        sum += (double)(*state >> 40) / (double)(1 << 24);
    }
    return (float)sum;
}

static void setup(void) {
    static float direction[DIRECTIONS * K], part[N * DIRECTIONS];
    uint64_t state = 7;
    for (int i = 0; i < DIRECTIONS * K; i++) direction[i] = normal(&state) / sqrtf(K);
    for (int i = 0; i < N * DIRECTIONS; i++) part[i] = normal(&state);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < K; j++) {
            gate[i * K + j] = normal(&state) * 0.6f; /* other things, larger than what matters */
            for (int d = 0; d < DIRECTIONS; d++) gate[i * K + j] += part[i * DIRECTIONS + d] * direction[d * K + j];
        }
    memset(bits, 0, sizeof bits);
    for (int s = 0; s < FIT + TEST; s++) {
        double z[DIRECTIONS] = { 0 };
        for (int j = 0; j < K; j++) {
            const float v = normal(&state);
            x[s * K + j] = sg_f32_to_f16(v);
            for (int d = 0; d < DIRECTIONS; d++) z[d] += (double)v * direction[d * K + j];
        }
        for (int i = 0; i < N; i++) {
            double g = -1 - i * 0.03; /* some are active more often than others */
            for (int d = 0; d < DIRECTIONS; d++) g += part[i * DIRECTIONS + d] * z[d];
            bits[s * WORDS + i / 64] |= (uint64_t)(g > 0) << (i % 64);
        }
    }
}

static int falling(const void *a, const void *b) {
    const double p = *(const double *)a, q = *(const double *)b;
    return p < q ? 1 : p > q ? -1 : 0;
}

/* Share of the active neurons of the text for measuring among the highest scores, as many as there are active ones. */
static double recall(const sg_cal_factors *f, bool relu) {
    static double score[TEST * N], sorted[TEST * N];
    size_t active = 0, hits = 0;
    for (int s = 0; s < TEST; s++) {
        double z[RANK] = { 0 };
        for (uint32_t r = 0; r < f->rank; r++) {
            for (int j = 0; j < K; j++) z[r] += (double)f->a[r * K + j] * sg_f16_to_f32(x[(FIT + s) * K + j]);
            if (relu && z[r] < 0) z[r] = 0;
        }
        for (int i = 0; i < N; i++) {
            double v = f->bias ? f->bias[i] : 0;
            for (uint32_t r = 0; r < f->rank; r++) v += f->b[(uint32_t)i * f->rank + r] * z[r];
            score[s * N + i] = sorted[s * N + i] = v;
            active += bits[(FIT + s) * WORDS + i / 64] >> (i % 64) & 1;
        }
    }
    qsort(sorted, TEST * N, sizeof *sorted, falling);
    for (int s = 0; s < TEST; s++)
        for (int i = 0; i < N; i++) hits += score[s * N + i] >= sorted[active - 1] && (bits[(FIT + s) * WORDS + i / 64] >> (i % 64) & 1);
    return (double)hits / (double)active;
}

static sg_cal_factors closed_form(void) {
    sg_cal_factors f;
    float *g = malloc(sizeof gate);
    memcpy(g, gate, sizeof gate);
    ck_assert_msg(sg_cal_fit_lowrank(&la, g, NULL, N, K, x, FIT, RANK, &f, &err) == SG_OK, "%s", err.message);
    free(g);
    return f;
}

static sg_cal_factors trained(const sg_cal_factors *from, bool relu) {
    sg_cal_factors f;
    ck_assert_msg(sg_cal_train(&la, from, N, K, x, bits, FIT, RANK, relu, &f, &err) == SG_OK, "%s", err.message);
    ck_assert_uint_eq(f.rank, RANK);
    return f;
}

START_TEST(finds_what_matters) {
    sg_cal_factors from = closed_form(), f = trained(&from, false);
    const double before = recall(&from, false), after = recall(&f, false);
    ck_assert_msg(before < 0.7, "the closed form has a recall of %.3f, so this test shows nothing", before);
    ck_assert_msg(after > 0.9, "recall %.3f, before training %.3f", after, before);
    sg_cal_factors_finish(&from);
    sg_cal_factors_finish(&f);
}
END_TEST

START_TEST(with_relu) {
    sg_cal_factors from = closed_form(), f = trained(&from, true);
    const double after = recall(&f, true);
    ck_assert_msg(after > 0.75, "recall %.3f", after);
    const double without = recall(&f, false);
    ck_assert_msg(without < after - 0.02, "recall %.3f, and %.3f without max(z, 0), so it was not trained for it", after, without);
    sg_cal_factors_finish(&from);
    sg_cal_factors_finish(&f);
}
END_TEST

START_TEST(repeatable) {
    sg_cal_factors from = closed_form(), f = trained(&from, false), g = trained(&from, false);
    ck_assert(memcmp(f.a, g.a, RANK * K * sizeof *f.a) == 0);
    ck_assert(memcmp(f.b, g.b, N * RANK * sizeof *f.b) == 0);
    ck_assert(memcmp(f.bias, g.bias, N * sizeof *f.bias) == 0);
    sg_cal_factors_finish(&from);
    sg_cal_factors_finish(&f);
    sg_cal_factors_finish(&g);
}
END_TEST

/* Neurons that are never or always active have no finite log odds; the results must be. */
START_TEST(extremes) {
    for (int s = 0; s < FIT + TEST; s++) {
        bits[s * WORDS] &= ~(uint64_t)1;
        bits[s * WORDS] |= 2;
    }
    sg_cal_factors from = closed_form(), f = trained(&from, false);
    for (int i = 0; i < N * RANK; i++) ck_assert(isfinite(f.b[i]));
    for (int i = 0; i < N; i++) ck_assert(isfinite(f.bias[i]));
    ck_assert_msg(f.bias[0] < -3 && f.bias[1] > 3, "%g %g", f.bias[0], f.bias[1]);
    sg_cal_factors_finish(&from);
    sg_cal_factors_finish(&f);
}
END_TEST

START_TEST(nothing_to_train) {
    sg_cal_factors from = { .rank = RANK / 2 }, f;
    ck_assert_int_eq(sg_cal_train(&la, &from, N, K, x, bits, FIT, RANK, false, &f, &err), SG_E_INTERNAL);
    ck_assert_int_eq(sg_cal_train(&la, &from, N, K, x, bits, 0, RANK / 2, false, &f, &err), SG_E_INTERNAL);
    ck_assert_ptr_null(f.a);
}
END_TEST

int main(void) {
    if (!sg_linalg_open(&la, 1)) return 77; /* no OpenBLAS on this machine */
    Suite *s = suite_create("calibrate_train");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 120);
    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_test(t, finds_what_matters);
    tcase_add_test(t, with_relu);
    tcase_add_test(t, repeatable);
    tcase_add_test(t, extremes);
    tcase_add_test(t, nothing_to_train);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    sg_linalg_close(&la);
    return failed ? 1 : 0;
}
