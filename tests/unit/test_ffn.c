/* Layers of neuron bundles: against a computation in double; the same bits whatever the mode, the threads and the batches; and
 * neurons that do not fire might as well not be there. */
#include "tests/unit/ffn_reference.h"

/* ---- against double ---- */

START_TEST(is_what_double_gives) {
    net m = case_net(_i);
    sg_acts x = acts_make(TOKENS, K, 1);
    for (int act = 0; act < N_ACTS; act++) {
        setup s = { .act = (sg_neuron_act)act, .fat_threshold = 0.3f };
        float *y = ffn_run(&m, &s, &x);
        for (uint32_t t = 0; t < TOKENS; t++) check_token(&m, &s, &x, t, y + t * (size_t)(K + SPARE));
        free(y);
    }
    acts_free(&x);
    net_free(&m);
}
END_TEST

/* ---- one result ---- */

START_TEST(bits_do_not_depend_on_the_way) {
    net m = case_net(_i);
    sg_acts x = acts_make(TOKENS, K, 1);
    for (int act = 0; act < N_ACTS; act++) {
        setup s = { .act = (sg_neuron_act)act, .fat_threshold = 0.3f };
        same_every_way(&m, &s, &x, act);
    }
    acts_free(&x);
    net_free(&m);
}
END_TEST

/* Odd numbers of values, which float rows may have. */
START_TEST(float_rows_of_any_length) {
    for (uint32_t k = 1; k < 300; k += 1 + k / 3) {
        const sg_bundle_layout shape = { .k = k, .per_cluster = 32, .gated = true, .gate_type = SG_DTYPE_F16,
                                         .up_type = SG_DTYPE_F32, .down_type = SG_DTYPE_F16 };
        net m = net_make(shape, NULL, NULL, 70);
        sg_acts x = acts_make(TOKENS, k, 1);
        setup s = { .act = SG_ACT_RELU, .plain = true };
        float *want = ffn_run(&m, &s, &x);
        s.plain = false;
        s.threads = 2;
        s.batch = 3;
        float *y = ffn_run(&m, &s, &x);
        ck_assert_mem_eq(want, y, TOKENS * (k + SPARE) * sizeof *y);
        free(want);
        free(y);
        acts_free(&x);
        net_free(&m);
    }
}
END_TEST

/* ---- neurons that do not matter ---- */

/* What an observer sees: gates and h in the places of the neurons; and dead neurons might as well not be there. */
START_TEST(dead_neurons_change_nothing) {
    net m = case_net(_i);
    const uint32_t n = m.shape.n_neurons;
    sg_acts x = acts_make(TOKENS, K, 1);
    float *gate = malloc(TOKENS * n * sizeof *gate), *h = malloc(TOKENS * n * sizeof *h);
    for (int act = SG_ACT_RELU; act <= SG_ACT_RELU2; act++) {
        for (int mode = 0; mode < 6; mode++) {
            setup s = { .act = (sg_neuron_act)act, .fat_threshold = 0.3f, .gate = gate, .h = h, .threads = 2 };
            s.batch = mode % 2 ? 1 : 4;
            s.policy.mode = (sg_ffn_mode)(mode / 2);
            float *y = ffn_run(&m, &s, &x);
            uint32_t live[200], all = 0, lit = 0;
            for (uint32_t t = 0; t < TOKENS; t++) {
                uint32_t count = 0;
                for (uint32_t i = 0; i < n; i++) {
                    const size_t at = (size_t)t * n + i;
                    if (t % 3 == 0) { /* not all of them: it takes long */
                        const about g = product(m.shape.gate_type, m.raw[0] + i * m.row[0], &x, t), want = factor(&m, &s, &x, t, i, 1);
                        ck_assert(fabs((double)gate[at] - g.v) <= g.err);
                        ck_assert(fabs((double)h[at] - want.v) <= want.err);
                    }
                    lit += act == SG_ACT_FATRELU ? gate[at] > s.fat_threshold : gate[at] > 0;
                    if (h[at] != 0) live[count++] = i;
                }
                ck_assert_uint_lt(count, n * 4 / 5);
                all += count;
                same_as_some(&m, s, &x, t, live, count, y, "without the dead", act * 8 + mode);
            }
            ck_assert_uint_eq(s.count.neurons, n * TOKENS);
            ck_assert_uint_eq(s.count.gates, n * TOKENS);
            ck_assert_uint_eq(s.count.active, all);
            if (s.policy.mode == SG_FFN_SPARSE) ck_assert_uint_eq(s.count.ups, m.shape.gated ? lit : 0);
            if (s.policy.mode == SG_FFN_DENSE) ck_assert_uint_eq(s.count.ups, m.shape.gated ? n * TOKENS : 0);
            free(y);
        }
    }
    free(gate);
    free(h);
    acts_free(&x);
    net_free(&m);
}
END_TEST

/* Integers have no order: quantised down rows may come in any. */
START_TEST(order_of_neurons_is_free) {
    net m = case_net(_i);
    if (quantised(m.shape.down_type)) {
        sg_acts x = acts_make(TOKENS, K, 1);
        uint32_t order[200];
        for (uint32_t i = 0; i < m.shape.n_neurons; i++) order[i] = i * 50 % m.shape.n_neurons; /* 163 is prime */
        net turned = net_make(m.shape, &m, order, m.shape.n_neurons);
        for (int act = 0; act < N_ACTS; act++) {
            setup s = { .act = (sg_neuron_act)act, .threads = 2 };
            float *want = ffn_run(&m, &s, &x), *y = ffn_run(&turned, &s, &x);
            same_bits(want, y, TOKENS, "another order", act);
            free(want);
            free(y);
        }
        acts_free(&x);
        net_free(&turned);
    }
    net_free(&m);
}
END_TEST

/* No neuron fires: zeros, not what a sum would leave behind. */
START_TEST(nothing_live_gives_zeros) {
    net m = case_net(_i);
    sg_acts x = acts_make(TOKENS, K, 1);
    for (int way = 0; way < 12; way++) {
        setup s = { .act = SG_ACT_FATRELU, .fat_threshold = 1e9f, .threads = 1 + (uint32_t)way / 6, .batch = way % 2 ? 1 : 4 };
        s.policy.mode = (sg_ffn_mode)(way % 6 / 2);
        float *y = ffn_run(&m, &s, &x);
        for (uint32_t t = 0; t < TOKENS; t++)
            for (uint32_t j = 0; j < K; j++) ck_assert(y[t * (size_t)(K + SPARE) + j] == 0);
        ck_assert_uint_eq(s.count.active, 0);
        free(y);
    }
    acts_free(&x);
    net_free(&m);
}
END_TEST

/* As in the file, and as what stays in RAM is read: rows sorted within their cluster, the largest scales at hand. */
START_TEST(split_rows_give_the_same) {
    net m = case_net(_i);
    sg_acts x = acts_make(TOKENS, K, 1);
    setup s = { .act = SG_ACT_RELU };
    float *want = ffn_run(&m, &s, &x);
    const sg_bundle_layout file = m.shape;
    ck_assert(sg_bundle_split(&m.shape, m.data));
    float *max = calloc((size_t)file.n_clusters * file.per_cluster, sizeof *max);
    const sg_kernels kernels = kernels_of(false);
    const sg_neuron_kernel *down = kernels.neuron[file.down_type];
    for (uint32_t i = 0; down->quantised && i < file.n_neurons; i++)
        max[i] = down->down_max(m.data + i / file.per_cluster * file.cluster_bytes + m.shape.downs_at +
                                    i % file.per_cluster * m.shape.down_stride, K);
    if (file.gated) ck_assert_uint_lt(m.shape.up_stride, file.up_stride);
    for (int way = 0; way < 12; way++) {
        s.threads = 1 + (uint32_t)way / 6;
        s.batch = way % 2 ? 1 : TOKENS;
        s.policy.mode = (sg_ffn_mode)(way % 6 / 2);
        s.down_max = down->quantised && way % 4 < 2 ? max : NULL;
        float *y = ffn_run(&m, &s, &x);
        same_bits(want, y, TOKENS, "split, way", way);
        free(y);
    }
    free(want);
    free(max);
    acts_free(&x);
    net_free(&m);
}
END_TEST

int main(void) {
    Suite *s = suite_create("ffn");
    TCase *tc = tcase_create("ffn");
    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, is_what_double_gives, 0, CASES);
    tcase_add_loop_test(tc, bits_do_not_depend_on_the_way, 0, CASES);
    tcase_add_loop_test(tc, split_rows_give_the_same, 0, CASES);
    tcase_add_test(tc, float_rows_of_any_length);
    tcase_add_loop_test(tc, dead_neurons_change_nothing, 0, CASES);
    tcase_add_loop_test(tc, order_of_neurons_is_free, 0, CASES);
    tcase_add_loop_test(tc, nothing_live_gives_zeros, 0, CASES);
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    const int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
