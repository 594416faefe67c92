/* Predictors against the same sums in double precision, and by parts against the whole. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "neuron_engine/predictor.h"
#include "runtime/base/mem.h"

#define N 100u /* neurons; not a multiple of a cluster of rows */
#define MAX_K 2144u

static uint64_t state;

static float draw(void) { /* -1 .. 1 */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (float)(int32_t)(state >> 32) / 2147483648.0f;
}

/* Activations of one token with their 8-bit form. */
typedef struct column {
    sg_acts a;
    float *x;
} column;

static column make_column(const sg_kernels *kn, const float *values, uint32_t k) {
    column c = { .a = { .n = 1, .k = k, .n_blocks = k / 32 } };
    c.a.x = c.x = sg_aligned_calloc(64, k, sizeof(float));
    c.a.q = sg_aligned_calloc(64, k, 1);
    c.a.d = sg_aligned_calloc(64, k, sizeof(float));
    c.a.sums = sg_aligned_calloc(64, k, sizeof(int16_t));
    c.a.dsum = sg_aligned_calloc(64, k, sizeof(float));
    memcpy(c.x, values, k * sizeof(float));
    kn->vec.quantize_acts(&c.a, 0);
    return c;
}

static void drop_column(column *c) {
    free(c->x);
    free(c->a.q);
    free(c->a.d);
    free(c->a.sums);
    free(c->a.dsum);
}

/* value i as the kernel of a quantised matrix sees it */
static double seen(const sg_acts *a, bool q8, uint32_t i) { return q8 ? (double)a->q[i] * (double)a->d[i / 32] : (double)a->x[i]; }

/* A random matrix of `type`, packed, and the values that it stands for. */
static sg_matrix make_matrix(const sg_kernels *kn, sg_dtype type, uint32_t rows, uint32_t k, float **values, void **memory) {
    const sg_mat_kernel *kernel = kn->mat[type];
    const size_t n = (size_t)rows * k, bytes = sg_dtype_bytes(sg_dtype_get(type), n);
    float *v = malloc(n * sizeof *v);
    void *q = malloc(bytes);
    for (size_t i = 0; i < n; i++) v[i] = draw();
    sg_quantize(type, v, q, n);
    sg_dequantize(type, q, v, n);
    const size_t packed = sg_matrix_bytes(kernel, rows, k);
    *memory = sg_aligned_calloc(64, packed, 1);
    if (kernel->pack) kernel->pack(*memory, q, rows, k);
    else memcpy(*memory, q, bytes);
    free(q);
    *values = v;
    return (sg_matrix){ kernel, *memory, rows, k };
}

static void expect_parts(const sg_predictor *p, const sg_acts *x, const sg_acts *z, const float *whole) {
    for (uint32_t n0 = 0; n0 < N; n0 += 32)
        for (uint32_t n1 = n0 + 32; n1 < N + 32; n1 += 32) {
            const uint32_t end = n1 < N ? n1 : N;
            float part[N + 1];
            part[end - n0] = 1234;
            sg_predictor_scores(p, x, z, part, n0, end);
            ck_assert_msg(memcmp(part, whole + n0, (end - n0) * sizeof *part) == 0, "scores %u to %u depend on the range", n0, end);
            ck_assert(part[end - n0] == 1234);
        }
}

static void expect_near(double got, double want, double size, const char *what, uint32_t i) {
    ck_assert_msg(fabs(got - want) <= 1e-5 * size + 1e-6, "%s %u: %.9g, not %.9g", what, i, got, want);
}

static void check_pair(const sg_kernels *kn, sg_predictor_kind kind, sg_dtype type, uint32_t k, uint32_t rank, bool adjusted) {
    float *va, *vb, values[MAX_K], scale[N], bias[N], scores[N];
    void *ma, *mb;
    sg_predictor p = { .kind = kind, .k = k, .rank = rank, .n_neurons = N };
    p.a = make_matrix(kn, type, rank, k, &va, &ma);
    p.b = make_matrix(kn, type, N, rank, &vb, &mb);
    for (uint32_t i = 0; i < k; i++) values[i] = draw();
    for (uint32_t i = 0; i < N; i++) {
        scale[i] = draw();
        bias[i] = draw();
    }
    if (adjusted) {
        p.scale = scale;
        p.bias = bias;
    }
    column x = make_column(kn, values, k);
    float *z = calloc(rank, sizeof *z);
    ck_assert_uint_eq(sg_predictor_clusters(&p), rank / 32);
    for (uint32_t c = rank / 32; c > 0; c--) sg_predictor_project(&p, &x.a, z, c - 1, c);
    for (uint32_t r = 0; r < rank; r++) {
        double want = 0, size = 0;
        for (uint32_t i = 0; i < k; i++) {
            want += (double)va[(size_t)r * k + i] * seen(&x.a, p.a.kernel->acts_q8, i);
            size += fabs((double)va[(size_t)r * k + i] * seen(&x.a, p.a.kernel->acts_q8, i));
        }
        expect_near((double)z[r], kind == SG_PRED_MLP && want < 0 ? 0 : want, size, "projection", r);
    }
    column zc = make_column(kn, z, rank);
    sg_predictor_scores(&p, &x.a, &zc.a, scores, 0, N);
    for (uint32_t n = 0; n < N; n++) {
        double want = 0, size = 0;
        for (uint32_t r = 0; r < rank; r++) {
            want += (double)vb[(size_t)n * rank + r] * seen(&zc.a, p.b.kernel->acts_q8, r);
            size += fabs((double)vb[(size_t)n * rank + r] * seen(&zc.a, p.b.kernel->acts_q8, r));
        }
        if (adjusted) want = want * (double)scale[n] + (double)bias[n];
        expect_near((double)scores[n], want, size + 1, "score", n);
    }
    expect_parts(&p, &x.a, &zc.a, scores);
    drop_column(&x);
    drop_column(&zc);
    free(z);
    free(va);
    free(vb);
    free(ma);
    free(mb);
}

START_TEST(pairs) {
    static const uint32_t masks[] = { 0, UINT32_MAX };
    static const sg_dtype types[] = { SG_DTYPE_F32, SG_DTYPE_F16, SG_DTYPE_Q8_0, SG_DTYPE_Q4_0 };
    for (int m = 0; m < 2; m++) {
        sg_kernels kn;
        sg_kernels_init(&kn, sg_cpu_detect() & masks[m]);
        for (int t = 0; t < 4; t++)
            for (uint32_t rank = 32; rank <= 96; rank += 64) {
                state = 88172645463325252u + rank;
                check_pair(&kn, SG_PRED_LOWRANK, types[t], 160, rank, false);
                check_pair(&kn, SG_PRED_LOWRANK, types[t], 64, rank, true);
                check_pair(&kn, SG_PRED_MLP, types[t], 160, rank, false);
                check_pair(&kn, SG_PRED_MLP, types[t], 64, rank, true);
            }
    }
}
END_TEST

/* extreme: all codes -127 or 127, so that a sum of codes is as large as it can be. */
static void check_sign(const sg_kernels *kn, uint32_t k, bool extreme, bool adjusted) {
    float values[MAX_K], scores[N], again[N], scale[N], bias[N];
    uint8_t *signs = malloc((size_t)N * k / 8);
    for (size_t i = 0; i < (size_t)N * k / 8; i++) signs[i] = i < k / 8 ? 0xff : i < k / 4 ? 0 : (uint8_t)(draw() * 128 + 128);
    for (uint32_t i = 0; i < k; i++) values[i] = extreme ? (draw() < 0 ? -3.0f : 3.0f) : draw();
    for (uint32_t i = 0; i < 32 && extreme; i++) values[i] = -3.0f;
    for (uint32_t i = 0; i < N; i++) {
        scale[i] = draw();
        bias[i] = draw();
    }
    sg_predictor p = { .kind = SG_PRED_SIGN, .k = k, .n_neurons = N, .signs = signs };
    column x = make_column(kn, values, k);
    ck_assert_uint_eq(sg_predictor_clusters(&p), 0);
    sg_predictor_scores(&p, &x.a, NULL, scores, 0, N);
    for (uint32_t n = 0; n < N; n++) {
        double want = 0, size = 0;
        float exact = 0;
        for (uint32_t b = 0; b < k / 32; b++) {
            int32_t sum = 0;
            for (uint32_t i = 32 * b; i < 32 * b + 32; i++) {
                const bool negative = signs[(size_t)n * (k / 8) + i / 8] >> (i % 8) & 1;
                sum += negative ? -x.a.q[i] : x.a.q[i];
                want += (negative ? -1 : 1) * seen(&x.a, true, i);
                size += fabs(seen(&x.a, true, i));
            }
            exact = fmaf((float)sum, x.a.d[b], exact);
        }
        ck_assert_msg(memcmp(&scores[n], &exact, sizeof exact) == 0, "sign %u: %.9g, by definition %.9g", n, (double)scores[n], (double)exact);
        expect_near((double)scores[n], want, size, "sign", n);
    }
    if (adjusted) {
        p.scale = scale;
        p.bias = bias;
        sg_predictor_scores(&p, &x.a, NULL, again, 0, N);
        for (uint32_t n = 0; n < N; n++) ck_assert(again[n] == fmaf(scores[n], scale[n], bias[n]));
    }
    expect_parts(&p, &x.a, NULL, adjusted ? again : scores);
    drop_column(&x);
    free(signs);
}

START_TEST(signs) {
    sg_kernels kn;
    sg_kernels_init(&kn, sg_cpu_detect());
    static const uint32_t ks[] = { 32, 96, 1024, MAX_K };
    for (int i = 0; i < 4; i++) {
        state = 7046029254386353131u;
        check_sign(&kn, ks[i], false, false);
        check_sign(&kn, ks[i], false, true);
        check_sign(&kn, ks[i], true, false);
    }
}
END_TEST

START_TEST(names) {
    ck_assert_str_eq(sg_predictor_names[SG_PRED_NONE], "none");
    ck_assert_str_eq(sg_predictor_names[SG_PRED_MLP], "mlp");
    ck_assert_str_eq(sg_predictor_names[SG_PRED_SIGN], "sign");
    ck_assert_str_eq(sg_predictor_names[SG_PRED_LOWRANK], "lowrank");
}
END_TEST

int main(void) {
    Suite *s = suite_create("predictor");
    TCase *t = tcase_create("predictor");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, pairs);
    tcase_add_test(t, signs);
    tcase_add_test(t, names);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
