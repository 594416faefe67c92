/* What policies leave out of a layer of neuron bundles is as if it were not there, and nothing else is left out; numbers that are
 * not finite; the unit of integer sums. */
#include "tests/unit/ffn_fixture.h"

/* act(g) as the engine has it. */
static void activated(sg_neuron_act act, const float *g, float *a, uint32_t n) {
    const sg_kernels kernels = kernels_of(true);
    for (uint32_t i = 0; i < n; i++) {
        const float one = 1;
        if (act == SG_ACT_SILU) kernels.vec.silu_mul(a + i, g + i, &one, 1);
        else a[i] = g[i] <= 0 ? 0 : act == SG_ACT_RELU2 ? g[i] * g[i] : g[i];
    }
}

static int falling(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* Runs the layer in several ways; each token must be what the neurons with |act(g)| above `cut` and among the top_k give. */
static void check_cut(const net *m, const sg_acts *x, sg_neuron_act act, uint32_t top_k, float cut) {
    const uint32_t n = m->shape.n_neurons;
    float *gate = malloc(TOKENS * n * sizeof *gate), *h = malloc(TOKENS * n * sizeof *h);
    for (int way = 0; way < 3; way++) {
        setup s = { .act = act, .gate = gate, .h = h, .threads = 1 + (uint32_t)way % 2, .batch = way ? 3 : 1 };
        s.policy.mode = (sg_ffn_mode)((way + (int)top_k) % 3);
        s.policy.top_k = top_k;
        s.policy.cut = cut > 0 ? &cut : NULL;
        float *y = ffn_run(m, &s, x), a[200], sorted[200];
        uint64_t kept = 0;
        for (uint32_t t = 0; t < TOKENS; t++) {
            uint32_t list[200], count = 0;
            activated(act, gate + t * n, a, n);
            for (uint32_t i = 0; i < n; i++) sorted[i] = fabsf(a[i]);
            qsort(sorted, n, sizeof *sorted, falling);
            const float least = top_k > 0 && top_k < n ? sorted[top_k - 1] : 0;
            for (uint32_t i = 0; i < n; i++)
                if (fabsf(a[i]) >= least && fabsf(a[i]) > cut) list[count++] = i;
            kept += count;
            same_as_some(m, s, x, t, list, count, y, "without what was cut", (int)top_k);
        }
        ck_assert_uint_eq(s.count.gates, n * TOKENS);
        ck_assert_uint_le(s.count.active, kept);
        if (s.policy.mode == SG_FFN_SPARSE && m->shape.gated) ck_assert_uint_eq(s.count.ups, kept);
        free(y);
    }
    free(gate);
    free(h);
}

START_TEST(top_k_keeps_the_largest) {
    static const uint32_t some[] = { 1, 31, 120, 163, 1000 };
    net m = case_net(_i);
    sg_acts x = acts_make(TOKENS, K, 1);
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        check_cut(&m, &x, i % 2 ? SG_ACT_SILU : SG_ACT_RELU, some[i], 0);
    }
    /* ties with the last are kept: two neurons out of three are the same */
    for (uint32_t i = 0; i < m.shape.n_neurons; i++)
        for (int part = 0; part < 2 && i % 3; part++)
            memcpy(m.raw[part] + i * m.row[part], m.raw[part] + m.row[part], m.row[part]);
    net_pack(&m);
    check_cut(&m, &x, SG_ACT_SILU, 40, 0);
    check_cut(&m, &x, SG_ACT_RELU2, 5, 0);
    acts_free(&x);
    net_free(&m);
}
END_TEST

START_TEST(cut_keeps_what_is_above) {
    net m = case_net(_i);
    sg_acts x = acts_make(TOKENS, K, 1);
    check_cut(&m, &x, SG_ACT_SILU, 0, 0.2f);
    check_cut(&m, &x, SG_ACT_RELU, 0, 0.5f);
    check_cut(&m, &x, SG_ACT_RELU2, 0, 1e9f);
    check_cut(&m, &x, SG_ACT_SILU, 20, 1.0f); /* both */
    check_cut(&m, &x, SG_ACT_SILU, 150, 0.3f);
    acts_free(&x);
    net_free(&m);
}
END_TEST

/* Signs of random weights as a predictor, its scores in double. */
static double sign_score(const uint8_t *signs, const sg_acts *x, uint32_t t, uint32_t i) {
    double score = 0;
    for (uint32_t j = 0; j < K; j++) {
        const double v = (double)x->q[(size_t)t * K + j] * (double)x->d[((size_t)t * K + j) / 32];
        score += signs[i * (K / 8) + j / 8] >> j % 8 & 1 ? -v : v;
    }
    return score;
}

START_TEST(only_predicted_neurons_count) {
    net m = case_net(_i);
    const uint32_t n = m.shape.n_neurons;
    sg_acts x = acts_make(TOKENS, K, 1), other = acts_make(TOKENS, K, 1);
    uint8_t signs[200 * K / 8];
    for (size_t i = 0; i < sizeof signs; i++) signs[i] = (uint8_t)(noise() * 1e6f);
    const sg_predictor p = { .kind = SG_PRED_SIGN, .k = K, .n_neurons = n, .signs = signs };
    for (int way = 0; way < 12; way++) {
        const sg_acts *seen = way >= 6 ? &other : &x; /* the residual stream */
        float cut = 2.5f;
        setup s = { .act = way % 2 ? SG_ACT_SILU : SG_ACT_RELU, .predictor = &p, .batch = way % 3 ? 4 : 1 };
        s.threads = 1 + (uint32_t)way / 3 % 2;
        s.residual = way >= 6 ? other.x : NULL;
        s.policy = (sg_ffn_policy) { .mode = (sg_ffn_mode)(way / 2 % 3), .predict = true, .score_cut = &cut };
        float *y = ffn_run(&m, &s, &x);
        uint64_t all = 0;
        for (uint32_t t = 0; t < TOKENS; t++) {
            uint32_t list[200], count = 0;
            for (uint32_t i = 0; i < n; i++) {
                const double score = sign_score(signs, seen, t, i);
                ck_assert(fabs(score - (double)cut) > 1e-4); /* else choose another seed */
                if (score > (double)cut) list[count++] = i;
            }
            all += count;
            ck_assert(count > 0 && count < n * 3 / 4);
            same_as_some(&m, s, &x, t, list, count, y, "of the predicted", way);
        }
        ck_assert_uint_ge(s.count.gates, all);
        if (s.batch == 1) ck_assert_uint_eq(s.count.gates, all);
        if (s.policy.mode == SG_FFN_SPARSE && m.shape.gated) ck_assert_uint_le(s.count.ups, all);
        free(y);
    }
    acts_free(&x);
    acts_free(&other);
    net_free(&m);
}
END_TEST

/* Predictors of two halves: one result whatever the way. */
START_TEST(projected_predictions_do_not_depend_on_the_way) {
    enum { RANK = 64, HALVES = 2 };
    const sg_dtype type = _i % 2 ? SG_DTYPE_Q8_0 : SG_DTYPE_F16;
    net m = net_make(case_shape(_i % (int)CASES), NULL, NULL, 163);
    sg_acts x = acts_make(TOKENS, K, 1);
    const uint32_t n = m.shape.n_neurons, rows[HALVES] = { RANK, n }, ks[HALVES] = { K, RANK };
    void *raw[HALVES], *packed[HALVES];
    for (int i = 0; i < HALVES; i++) {
        float *v = malloc(rows[i] * (size_t)ks[i] * sizeof *v);
        for (size_t j = 0; j < rows[i] * (size_t)ks[i]; j++) v[j] = 0.2f * noise();
        raw[i] = malloc(rows[i] * (size_t)ks[i] * 4);
        sg_quantize(type, v, raw[i], rows[i] * (size_t)ks[i]);
        free(v);
    }
    float *want = NULL, cut = 0.05f;
    for (int way = 0; way < 12; way++) {
        const sg_kernels kernels = kernels_of(way == 0);
        sg_predictor p = { .kind = _i / 2 % 2 ? SG_PRED_MLP : SG_PRED_LOWRANK, .k = K, .rank = RANK, .n_neurons = n };
        sg_matrix *const half[HALVES] = { &p.a, &p.b };
        for (int i = 0; i < HALVES; i++) {
            const sg_mat_kernel *kernel = kernels.mat[type];
            packed[i] = sg_aligned_calloc(64, 1, sg_matrix_bytes(kernel, rows[i], ks[i]));
            if (kernel->pack) kernel->pack(packed[i], raw[i], rows[i], ks[i]);
            else memcpy(packed[i], raw[i], sg_matrix_bytes(kernel, rows[i], ks[i]));
            *half[i] = (sg_matrix) { kernel, packed[i], rows[i], ks[i] };
        }
        setup s = { .act = SG_ACT_RELU, .predictor = &p, .plain = way == 0, .batch = way % 3 ? 4 : 1 };
        s.threads = 1 + (uint32_t)way / 3;
        s.policy = (sg_ffn_policy) { .mode = (sg_ffn_mode)(way % 3), .predict = true, .score_cut = &cut };
        s.policy.top_k = _i % 3 ? 0 : 20;
        float *y = ffn_run(&m, &s, &x);
        ck_assert_uint_gt(s.count.active, 0);
        ck_assert_uint_lt(s.count.active, n * TOKENS / 2);
        if (want) same_bits(want, y, TOKENS, "predictions another way", way);
        else want = y;
        if (y != want) free(y);
        for (int i = 0; i < HALVES; i++) free(packed[i]);
    }
    for (int i = 0; i < HALVES; i++) free(raw[i]);
    free(want);
    acts_free(&x);
    net_free(&m);
}
END_TEST

/* Token 2 is too large for a product of two: all of it is lost and nothing of the others. */
START_TEST(infinite_h_spoils_its_token_alone) {
    net m = case_net(_i);
    sg_acts x = acts_make(TOKENS, K, 1);
    float *values = (float *)(uintptr_t)x.x;
    for (uint32_t j = 0; j < K; j++) values[2 * K + j] *= 1e30f;
    acts_refresh(&x);
    float *alone[TOKENS];
    for (uint32_t t = 0; t < TOKENS; t++) {
        const sg_acts one = sg_acts_rows(&x, t, 1);
        setup s = { .act = SG_ACT_RELU2 };
        alone[t] = ffn_run(&m, &s, &one);
    }
    for (int way = 0; way < 12; way++) {
        setup s = { .act = SG_ACT_RELU2, .threads = 1 + (uint32_t)way % 2, .batch = way % 4 < 2 ? 1 : 4 };
        s.policy.mode = (sg_ffn_mode)(way / 4);
        float *y = ffn_run(&m, &s, &x);
        for (uint32_t t = 0; t < TOKENS; t++)
            for (uint32_t j = 0; j < K; j++) {
                const float v = y[t * (size_t)(K + SPARE) + j];
                if (t != 2) ck_assert(memcmp(&v, alone[t] + j, sizeof v) == 0 && isfinite(v));
                else if (quantised(m.shape.down_type)) ck_assert(isnan(v));
                else ck_assert(!isfinite(v));
            }
        free(y);
    }
    for (uint32_t t = 0; t < TOKENS; t++) free(alone[t]);
    acts_free(&x);
    net_free(&m);
}
END_TEST

/* NaN in an input or a weight that a live neuron has reaches the output. */
START_TEST(nan_is_not_lost) {
    net m = case_net(_i);
    sg_acts x = acts_make(1, K, 1);
    const bool floats = !quantised(m.shape.gate_type);
    const size_t size = (size_t)sg_dtype_get((uint32_t)m.shape.gate_type)->block_bytes;
    if (floats) memset(m.raw[0] + 40 * m.row[0] + 7 * size, 0xff, size); /* gate of neuron 40 */
    else { /* its down row's first scale, and a gate that fires */
        memset(m.raw[2] + 40 * m.row[2], 0xff, quantised(m.shape.down_type) ? 2 : size);
        for (uint32_t j = 0; j < K; j++) ((float *)(uintptr_t)x.x)[j] = fabsf(x.x[j]);
        float ones[K];
        for (uint32_t j = 0; j < K; j++) ones[j] = 1;
        sg_quantize(m.shape.gate_type, ones, m.raw[0] + 40 * m.row[0], K);
    }
    net_pack(&m);
    acts_refresh(&x);
    for (int act = 0; act < SG_ACT_RELU2 + 1; act++)
        for (int way = 0; way < 6; way++) {
            setup s = { .act = (sg_neuron_act)act, .threads = 2 };
            s.policy = (sg_ffn_policy) { .mode = (sg_ffn_mode)(way % 3), .top_k = way < 3 ? 0 : 30 };
            if (act == SG_ACT_DRELU && m.shape.gated && !floats) continue; /* max(u, 0) may be 0 */
            float *y = ffn_run(&m, &s, &x);
            for (uint32_t j = 0; j < (quantised(m.shape.down_type) ? K : 1); j++)
                ck_assert_msg(isnan(y[j]), "act %d way %d: y[%u] is %g", act, way, j, (double)y[j]);
            free(y);
        }
    acts_free(&x);
    net_free(&m);
}
END_TEST

/* ---- sg_down_unit ---- */

/* n neurons in clusters of 64, h[i] and d[i] by number, codes as large as can be: no sum leaves 32 bits, no |a| 16. */
static void check_unit(sg_dtype type, uint32_t n, float (*size_of)(uint32_t i), float d) {
    const uint32_t clusters = (n + 63) / 64;
    float *peak = calloc(clusters, sizeof *peak), *mass = calloc(clusters, sizeof *mass);
    for (uint32_t i = 0; i < n; i++) {
        const float size = fabsf(size_of(i)) * d;
        peak[i / 64] = fmaxf(peak[i / 64], size);
        mass[i / 64] += size;
    }
    const float unit = sg_down_unit(peak, mass, clusters, type);
    ck_assert_msg(unit > 0 && isfinite(unit) && isfinite(1 / unit), "unit %g for %u neurons", (double)unit, n);
    int64_t sum = 0, top = 0;
    for (uint32_t i = 0; i < n; i++) {
        const float hs = size_of(i) * unit, product = hs * d;
        const int64_t a = llabs(llrintf(product));
        top = a > top ? a : top;
        sum += a * (type == SG_DTYPE_Q4_0 ? 8 : 128);
    }
    ck_assert_msg(top <= 32767, "a is %lld", (long long)top);
    ck_assert_msg(sum <= INT32_MAX, "a sum is %lld with %u neurons", (long long)sum, n);
    /* and no more is given away than a few percent */
    ck_assert_msg(top > 31000 || sum > 1900000000 || unit >= 1e30f, "%lld, %lld of %u neurons are small", (long long)top,
                  (long long)sum, n);
    free(peak);
    free(mass);
}

static float same(uint32_t i) { (void)i; return 0.37f; }
static float falling_off(uint32_t i) { return -5.0f / (1 + (float)i); }
static float one_giant(uint32_t i) { return i == 77 ? 3e9f : 1e-3f; }
static float halves_up(uint32_t i) { return i == 0 ? 32000 : 0.50001f + (float)(i % 7); }
static float growing(uint32_t i) { return (float)((i * 2654435761u >> 8) + 1) * 1e-3f; }
static float enormous(uint32_t i) { return i == 0 ? 3e38f : 1; } /* finite, 128 times it is not */
static float tiny(uint32_t i) { (void)i; return 1e-36f; }

START_TEST(sums_stay_within_32_bits) {
    static const uint32_t some[] = { 1, 2, 63, 400, 488, 500, 4096, 7813, 14336, 100000, 1u << 20 };
    float (*const sizes[])(uint32_t) = { same, falling_off, one_giant, halves_up, growing, enormous, tiny };
    for (size_t i = 0; i < sizeof some / sizeof *some; i++)
        for (size_t j = 0; j < sizeof sizes / sizeof *sizes; j++) {
            check_unit(SG_DTYPE_Q8_0, some[i], sizes[j], 0.01f);
            check_unit(SG_DTYPE_Q4_0, some[i], sizes[j], 0.7f);
        }
}
END_TEST

START_TEST(unit_of_nothing_and_of_what_is_not_finite) {
    float peak[3] = { 0, 0, 0 }, mass[3] = { 0, 0, 0 };
    ck_assert(sg_down_unit(peak, mass, 3, SG_DTYPE_Q8_0) == 0);
    peak[1] = mass[1] = 1;
    ck_assert(sg_down_unit(peak, mass, 3, SG_DTYPE_Q8_0) > 0);
    for (int i = 0; i < 3; i++) {
        peak[i] = mass[i] = NAN;
        ck_assert(isnan(sg_down_unit(peak, mass, 3, SG_DTYPE_Q8_0)));
        peak[i] = mass[i] = INFINITY;
        ck_assert(isnan(sg_down_unit(peak, mass, 3, SG_DTYPE_Q4_0)));
        peak[i] = mass[i] = 1;
    }
}
END_TEST

/* Large but finite, times the codes no longer: the result is right all the same. */
START_TEST(large_h_is_no_reason_to_give_up) {
    sg_bundle_layout shape = { .k = K, .per_cluster = 32, .gate_type = SG_DTYPE_F32, .up_type = SG_DTYPE_F32 };
    shape.down_type = _i ? SG_DTYPE_Q8_0 : SG_DTYPE_Q4_0;
    net m = net_make(shape, NULL, NULL, 100);
    sg_acts x = acts_make(1, K, 1);
    setup s = { .act = SG_ACT_RELU };
    float *want = ffn_run(&m, &s, &x);
    const float factor = 0x1p125f; /* a power of two: only exponents change */
    for (uint32_t j = 0; j < K; j++) ((float *)(uintptr_t)x.x)[j] *= factor;
    float *y = ffn_run(&m, &s, &x);
    for (uint32_t j = 0; j < K; j++)
        ck_assert_msg(fabs((double)y[j] / (double)factor - (double)want[j]) <= 1e-6 * fabs((double)want[j]), "%g, not %g",
                      (double)y[j], (double)want[j] * (double)factor);
    free(want);
    free(y);
    acts_free(&x);
    net_free(&m);
}
END_TEST

START_TEST(measuring_stays_in_range) {
    net m = case_net(_i);
    const sg_kernels kernels = kernels_of(false);
    const sg_bundle_layout *l = &m.shape;
    const sg_neuron_kernel *const *of = kernels.neuron;
    sg_ffn_layer layer = { .bundle = { *l, m.data, of[l->gate_type], of[l->up_type], of[l->down_type] } };
    sg_ffn f = { .kernels = &kernels, .layers = &layer, .n_unit = 1, .n_batch = 1, .n_threads = 1, .k = K };
    sg_carver c = { 0 };
    sg_ffn_lay_out(&f, &c);
    c = (sg_carver) { .base = sg_aligned_calloc(64, 1, c.used) };
    char *memory = c.base;
    sg_ffn_lay_out(&f, &c);
    sg_acts x = acts_make(1, K, 1);
    f.x.x = x.x;
    sg_ffn_measure(&f);
    ck_assert(f.dense_share >= 0.3f && f.dense_share <= 1);
    free(memory);
    acts_free(&x);
    net_free(&m);
}
END_TEST

int main(void) {
    Suite *s = suite_create("ffn_policy");
    TCase *tc = tcase_create("ffn_policy");
    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, top_k_keeps_the_largest, 0, CASES);
    tcase_add_loop_test(tc, cut_keeps_what_is_above, 0, CASES);
    tcase_add_loop_test(tc, only_predicted_neurons_count, 0, CASES);
    tcase_add_loop_test(tc, projected_predictions_do_not_depend_on_the_way, 0, CASES);
    tcase_add_loop_test(tc, infinite_h_spoils_its_token_alone, 0, CASES);
    tcase_add_loop_test(tc, nan_is_not_lost, 0, CASES);
    tcase_add_test(tc, sums_stay_within_32_bits);
    tcase_add_test(tc, unit_of_nothing_and_of_what_is_not_finite);
    tcase_add_loop_test(tc, large_h_is_no_reason_to_give_up, 0, 2);
    tcase_add_loop_test(tc, measuring_stays_in_range, 0, CASES);
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    const int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
