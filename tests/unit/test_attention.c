/* Rotary embedding and attention against plain double-precision computations written apart from them. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "neuron_engine/attention.h"
#include "neuron_engine/quant.h"
#include "neuron_engine/rope.h"

static uint32_t state = 7;
static float noise(void) {
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / 8388608.0f - 1.0f;
}

static void check_rope(bool adjacent, uint32_t n_rot, uint32_t head, uint32_t pos, double base, double scale, const float *factors) {
    const sg_rope_config c = { .n_rot = n_rot, .adjacent = adjacent, .freq_base = base, .scale = scale, .factors = factors };
    sg_rope r;
    sg_error err = { 0 };
    ck_assert_int_eq(sg_rope_init(&r, &c, &err), SG_OK);
    float table[256], x[256], y[256];
    for (uint32_t i = 0; i < head; i++) x[i] = y[i] = noise();
    sg_rope_table(&r, pos, table);
    sg_rope_apply(&r, table, y);
    for (uint32_t i = 0; i < n_rot / 2; i++) {
        const uint32_t a = adjacent ? 2 * i : i, b = adjacent ? 2 * i + 1 : i + n_rot / 2;
        const double angle = pos / scale / (factors ? factors[i] : 1) * pow(base, -2.0 * i / n_rot);
        ck_assert_float_eq_tol(y[a], (float)(x[a] * cos(angle) - x[b] * sin(angle)), 2e-6f);
        ck_assert_float_eq_tol(y[b], (float)(x[a] * sin(angle) + x[b] * cos(angle)), 2e-6f);
    }
    for (uint32_t i = n_rot; i < head; i++) ck_assert(x[i] == y[i]);
    sg_rope_finish(&r);
}

START_TEST(rope_kinds) {
    const float factors[32] = { [0] = 1, 1, 2, 4, 8, 8, 8, 8, 1, 1, 1, 1, 1, 1, 1, 1, 3, 3, 3, 3, 3, 3, 3, 3, 5, 5, 5, 5, 5, 5, 5, 5 };
    const uint32_t at[] = { 0, 1, 77, 4095, 131071 };
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        check_rope(true, 64, 64, at[i], 10000, 1, NULL);
        check_rope(false, 64, 64, at[i], 1000000, 1, NULL);
        check_rope(false, 32, 80, at[i], 10000, 4, NULL);
        check_rope(true, 64, 64, at[i], 500000, 1, factors);
    }
}
END_TEST

/* YaRN's promises (arXiv 2309.00071, section 3.2): pairs that turn often keep their frequency, slow ones are interpolated fully,
 * between them a ramp; cos and sin grow by 1 + 0.1 ln(scale). */
START_TEST(rope_yarn) {
    const sg_rope_config c = { .n_rot = 128, .adjacent = false, .freq_base = 10000, .scale = 4, .yarn = true, .beta_fast = 32,
                               .beta_slow = 1, .ext_factor = 1, .attn_factor = 1, .n_ctx_orig = 4096 };
    sg_rope r;
    sg_error err = { 0 };
    ck_assert_int_eq(sg_rope_init(&r, &c, &err), SG_OK);
    double last = 1;
    for (uint32_t i = 0; i < 64; i++) {
        const double plain = pow(10000, -2.0 * i / 128), turns = 4096 * plain / (2 * acos(-1)), share = r.inv_freq[i] / plain;
        if (turns > 40) ck_assert_double_eq_tol(share, 1.0, 1e-12);
        if (turns < 0.8) ck_assert_double_eq_tol(share, 0.25, 1e-12);
        ck_assert_double_le(share, last + 1e-12);
        last = share;
    }
    ck_assert_float_eq_tol(r.magnitude, (float)(1 + 0.1 * log(4)), 1e-6f);
    sg_rope_finish(&r);
}
END_TEST

START_TEST(attention_kinds) {
    sg_kernels kernels;
    sg_kernels_init(&kernels, sg_cpu_detect());
    enum { LAYERS = 2, CTX = 40, HEADS = 6, KV = 2, DK = 24, DV = 20 };
    const sg_attention a = { HEADS, KV, DK, DV, 0.3f };
    for (int type = 0; type < 2; type++) {
        sg_kv_cache c;
        sg_error err = { 0 };
        ck_assert_int_eq(sg_kv_init(&c, type ? SG_KV_F32 : SG_KV_F16, LAYERS, CTX, KV * DK, KV * DV, &err), SG_OK);
        static float k[LAYERS][CTX][KV][DK], v[LAYERS][CTX][KV][DV];
        for (int l = 0; l < LAYERS; l++)
            for (int p = 0; p < CTX; p++)
                for (int h = 0; h < KV; h++) {
                    /* values that F16 holds exactly, so both cache types have one right answer */
                    for (int i = 0; i < DK; i++) k[l][p][h][i] = sg_f16_to_f32(sg_f32_to_f16(4 * noise()));
                    for (int i = 0; i < DV; i++) v[l][p][h][i] = sg_f16_to_f32(sg_f32_to_f16(noise()));
                    sg_kv_store(&a, &c, &kernels.vec, l, p, h, k[l][p][h], v[l][p][h]);
                }
        for (int l = 0; l < LAYERS; l++)
            for (int h = 0; h < HEADS; h++)
                for (int pos = 0; pos < CTX; pos += 13) {
                    float q[DK], out[DV], scores[CTX];
                    for (int i = 0; i < DK; i++) q[i] = noise();
                    sg_attention_head(&a, &c, &kernels.vec, l, pos, h, q, scores, out);
                    double s[CTX], max = -1e300, sum = 0;
                    const int g = h / (HEADS / KV);
                    for (int j = 0; j <= pos; j++) {
                        s[j] = 0;
                        for (int i = 0; i < DK; i++) s[j] += (double)q[i] * k[l][j][g][i];
                        s[j] *= 0.3;
                        max = fmax(max, s[j]);
                    }
                    for (int j = 0; j <= pos; j++) sum += s[j] = exp(s[j] - max);
                    for (int i = 0; i < DV; i++) {
                        double want = 0;
                        for (int j = 0; j <= pos; j++) want += s[j] / sum * v[l][j][g][i];
                        ck_assert_float_eq_tol(out[i], (float)want, 3e-6f);
                    }
                }
        sg_kv_finish(&c);
    }
}
END_TEST

START_TEST(cache_too_large) {
    sg_kv_cache c;
    sg_error err = { 0 };
    ck_assert_int_eq(sg_kv_init(&c, SG_KV_F32, 4096, UINT32_MAX, UINT32_MAX, UINT32_MAX, &err), SG_E_NOMEM);
    ck_assert(strstr(err.message, "KV cache") != NULL);
}
END_TEST

int main(void) {
    Suite *s = suite_create("attention");
    TCase *t = tcase_create("attention");
    tcase_set_timeout(t, 0);
    tcase_add_test(t, rope_kinds);
    tcase_add_test(t, rope_yarn);
    tcase_add_test(t, attention_kinds);
    tcase_add_test(t, cache_too_large);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
