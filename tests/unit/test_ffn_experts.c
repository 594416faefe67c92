/* Experts as neuron clusters, biases, factors of tokens: against a computation in double and, for floats, bit by bit; the same bits
 * whatever the mode, the threads and the batches; and experts are nothing but the neurons that they are made of. */
#include "tests/unit/ffn_reference.h"

#define EXPERTS 5u
#define USED 2u
#define N_FF 75u

/* Biases of rows and outputs. */
typedef struct biases {
    float *gate, *up, *down;
} biases;

static float *noises(size_t n, float size) {
    float *v = malloc(n * sizeof *v);
    for (size_t i = 0; i < n; i++) v[i] = size * noise();
    return v;
}

static biases biases_make(const sg_bundle_layout *l) {
    const uint32_t experts = l->n_expert ? l->n_expert : 1;
    return (biases) { noises(net_rows(l), 0.5f), noises(net_rows(l), 0.5f), noises((size_t)experts * l->k, 2) };
}

static void biases_free(biases *b) {
    free(b->gate);
    free(b->up);
    free(b->down);
}

static void use_biases(setup *s, const biases *b, bool gated) {
    s->gate_bias = gated ? b->gate : NULL;
    s->up_bias = b->up;
    s->down_bias = b->down;
}

/* Two of five, ascending: every expert is used, expert 4 by one token only, the first and the last ones too. */
static const uint32_t expert[TOKENS * USED] = { 0, 1, 1, 3, 0, 2, 2, 3, 0, 3, 1, 4, 0, 3 };
static const float weight[TOKENS * USED] = { 0.7f, 0.3f, 0.123f, 1.9f, -0.4f, 2.5f, 1, 1, 0.25f, 0.5f, 0.9f, 0.1f, 3, 0.01f };

static net expert_net(int i) {
    sg_bundle_layout shape = case_shape(i);
    shape.n_expert = EXPERTS;
    return net_make(shape, NULL, NULL, N_FF);
}

static setup routed(sg_neuron_act act) {
    return (setup) { .act = act, .fat_threshold = 0.3f, .n_used = USED, .expert = expert, .weight = weight };
}

START_TEST(is_what_double_gives) {
    net m = expert_net(_i);
    biases b = biases_make(&m.shape);
    sg_acts x = acts_make(TOKENS, K, 1);
    for (int act = 0; act < N_ACTS; act++)
        for (int with = 0; with < 2; with++) {
            setup s = routed((sg_neuron_act)act);
            if (with) use_biases(&s, &b, m.shape.gated);
            float *y = ffn_run(&m, &s, &x);
            for (uint32_t t = 0; t < TOKENS; t++) check_token(&m, &s, &x, t, y + t * (size_t)(K + SPARE));
            ck_assert_uint_eq(s.count.neurons, TOKENS * USED * N_FF);
            ck_assert_uint_eq(s.count.gates, TOKENS * USED * N_FF);
            free(y);
        }
    acts_free(&x);
    biases_free(&b);
    net_free(&m);
}
END_TEST

/* A dense unit: biases, and a factor for each token. */
START_TEST(dense_with_biases_and_factors) {
    net m = case_net(_i);
    biases b = biases_make(&m.shape);
    sg_acts x = acts_make(TOKENS, K, 1);
    for (int act = 0; act < N_ACTS; act++)
        for (int with = 1; with < 4; with++) {
            setup s = { .act = (sg_neuron_act)act, .fat_threshold = 0.3f, .threads = 1 + (uint32_t)with % 3, .batch = 1 + (uint32_t)act % 4 };
            s.policy.mode = (sg_ffn_mode)((with + act) % 3);
            if (with & 1) use_biases(&s, &b, m.shape.gated);
            if (with & 2) s.n_used = 1, s.weight = weight;
            float *y = ffn_run(&m, &s, &x);
            for (uint32_t t = 0; t < TOKENS; t++) check_token(&m, &s, &x, t, y + t * (size_t)(K + SPARE));
            free(y);
        }
    acts_free(&x);
    biases_free(&b);
    net_free(&m);
}
END_TEST

/* ---- floats, bit by bit ---- */

/* Row times token as the rule for neurons says. */
static float lanes(sg_dtype type, const uint8_t *raw, const float *x, uint32_t k) {
    float w[K], acc[8] = { 0 };
    sg_dequantize(type, raw, w, k);
    for (uint32_t j = 0; j < k; j++) acc[j % 8] = fmaf(w[j], x[j], acc[j % 8]);
    return ((acc[0] + acc[4]) + (acc[2] + acc[6])) + ((acc[1] + acc[5]) + (acc[3] + acc[7]));
}

/* Gate product (ungated: up product) and h of neuron i of the net, for token t and its expert p. */
static float defined_h(const net *m, const setup *s, const float *xt, uint32_t t, uint32_t p, uint32_t i, float *gate) {
    const sg_kernels kernels = kernels_of(true);
    const sg_bundle_layout *l = &m->shape;
    float h, g = lanes(l->gate_type, m->raw[0] + i * m->row[0], xt, l->k) + (l->gated ? s->gate_bias : s->up_bias)[i];
    *gate = g;
    sg_neuron_activate(&kernels, s->act, s->fat_threshold, &g, &h, 1);
    if (l->gated) {
        float u = lanes(l->up_type, m->raw[1] + i * m->row[1], xt, l->k) + s->up_bias[i];
        if (s->act == SG_ACT_DRELU) u = fmaxf(u, 0);
        if (s->act == SG_ACT_OAI) u = fminf(fmaxf(u, -7), 7) + 1;
        h *= u;
    }
    return h * weight[t * USED + p];
}

/* y of token t, and what an observer sees: gate and h [USED][n_neurons]. */
static void defined_token(const net *m, const setup *s, const sg_acts *x, uint32_t t, float *y, float *gate, float *seen) {
    const sg_bundle_layout *l = &m->shape;
    const float *xt = x->x + (size_t)t * l->k;
    memset(y, 0, l->k * sizeof *y);
    for (uint32_t p = 0; p < USED; p++)
        for (uint32_t i = expert[t * USED + p] * l->n_neurons, end = i + l->n_neurons; i < end; i++) {
            float down[K], h = *seen++ = defined_h(m, s, xt, t, p, i, gate++);
            sg_dequantize(l->down_type, m->raw[2] + i * m->row[2], down, l->k);
            for (uint32_t j = 0; h != 0 && j < l->k; j++) y[j] = fmaf(down[j], h, y[j]);
        }
    for (uint32_t p = 0; p < USED; p++)
        for (uint32_t j = 0; j < l->k; j++) y[j] += weight[t * USED + p] * s->down_bias[expert[t * USED + p] * l->k + j];
}

/* Also where n_embd is no multiple of 32. */
START_TEST(floats_are_as_defined) {
    static const uint32_t ks[] = { 1, 40, 77, 256, K };
    for (size_t i = 0; i < sizeof ks / sizeof *ks; i++) {
        const uint32_t k = ks[i];
        sg_bundle_layout shape = { .k = k, .per_cluster = 32, .gated = _i % 2 == 0, .gate_type = SG_DTYPE_F16, .n_expert = EXPERTS,
                                   .up_type = SG_DTYPE_F32, .down_type = _i < 2 ? SG_DTYPE_F32 : SG_DTYPE_F16 };
        net m = net_make(shape, NULL, NULL, 40 + k % 50);
        biases b = biases_make(&m.shape);
        sg_acts x = acts_make(TOKENS, k, 1);
        for (int act = 0; act < N_ACTS; act++) {
            setup s = routed((sg_neuron_act)act);
            float want[K], want_gate[USED * 2 * N_FF], want_h[USED * 2 * N_FF];
            const size_t n = USED * m.shape.n_neurons;
            use_biases(&s, &b, shape.gated);
            s.threads = 1 + (uint32_t)act % 3;
            s.batch = act % 2 ? 1 : TOKENS;
            s.gate = malloc(TOKENS * n * sizeof *s.gate);
            s.h = malloc(TOKENS * n * sizeof *s.h);
            float *y = ffn_run(&m, &s, &x);
            for (uint32_t t = 0; t < TOKENS; t++) {
                defined_token(&m, &s, &x, t, want, want_gate, want_h);
                for (size_t j = 0; j < n; j++) {
                    ck_assert(s.gate[t * n + j] == want_gate[j]);
                    ck_assert(s.h[t * n + j] == want_h[j]);
                }
                for (uint32_t j = 0; j < k; j++)
                    ck_assert_msg(want[j] == y[t * (size_t)(k + SPARE) + j], "k %u act %d token %u: y[%u] is %a, not %a", k, act, t, j,
                                  (double)y[t * (size_t)(k + SPARE) + j], (double)want[j]);
            }
            free(s.gate);
            free(s.h);
            free(y);
        }
        biases_free(&b);
        acts_free(&x);
        net_free(&m);
    }
}
END_TEST

/* ---- one result ---- */

START_TEST(bits_do_not_depend_on_the_way) {
    net m = expert_net(_i);
    biases b = biases_make(&m.shape);
    sg_acts x = acts_make(TOKENS, K, 1);
    for (int act = 0; act < N_ACTS; act++) {
        setup s = routed((sg_neuron_act)act);
        const float cut = 0.4f;
        if (act % 3) use_biases(&s, &b, m.shape.gated);
        s.policy.top_k = act % 4 == 1 ? 50 : 0;
        s.policy.cut = act % 4 == 2 ? &cut : NULL;
        same_every_way(&m, &s, &x, act);
        if (s.policy.top_k) ck_assert_uint_eq(s.count.active, TOKENS * 50); /* the places that no neuron fills do not count */
    }
    acts_free(&x);
    biases_free(&b);
    net_free(&m);
}
END_TEST

/* What a lossy route leaves out is as if it was not in the route, in everything: sums, biases, policies, counts; also where a token has one expert left,
 * and an expert no token. A route that is not lossy computes with weights that are 0. */
START_TEST(left_out_is_not_there) {
    static const float some[TOKENS * USED] = { 0.7f, 0.3f, 0, 1.9f, -0.4f, -0.0f, 1, 1, 0, 0.5f, 0.9f, 0, 3, 0 };
    net m = expert_net(_i);
    biases b = biases_make(&m.shape);
    sg_acts x = acts_make(TOKENS, K, 1);
    for (uint32_t j = 0; j < K; j++) b.down[4 * K + j] = NAN; /* of the expert that nobody uses */
    for (int act = 0; act < N_ACTS; act++) {
        setup s = routed((sg_neuron_act)act);
        const float cut = 0.4f;
        uint64_t neurons = 0;
        if (act % 2 == 0) use_biases(&s, &b, m.shape.gated);
        s.policy.top_k = act % 4 == 1 ? 50 : 0;
        s.policy.cut = act % 4 == 2 ? &cut : NULL;
        s.weight = some;
        s.lossy = true;
        same_every_way(&m, &s, &x, act);
        s.policy.mode = SG_FFN_AUTO;
        float *y = ffn_run(&m, &s, &x);
        const sg_ffn_count count = s.count;
        for (uint32_t t = 0; t < TOKENS; t++) {
            const uint32_t first = t * USED, left = (some[first] != 0) + (some[first + 1] != 0), at = some[first] != 0 ? first : first + 1;
            const sg_acts one = sg_acts_rows(&x, t, 1);
            setup alone = s;
            alone.n_used = left;
            alone.expert = expert + at;
            alone.weight = some + at;
            alone.lossy = false;
            float *want = ffn_run(&m, &alone, &one);
            same_bits(want, y + (size_t)t * (K + SPARE), 1, "without what was left out", act * 100 + (int)t);
            neurons += alone.count.neurons;
            free(want);
        }
        ck_assert_uint_eq(count.neurons, neurons);
        ck_assert_uint_eq(count.gates, neurons);
        free(y);
        s.lossy = false;
        y = ffn_run(&m, &s, &x);
        if (act % 2 == 0) ck_assert(isnan(y[5 * (size_t)(K + SPARE)])); /* 0 * NAN */
        free(y);
    }
    acts_free(&x);
    biases_free(&b);
    net_free(&m);
}
END_TEST

/* More tokens of one expert than are gathered at a time. */
START_TEST(many_tokens) {
    enum { MANY = 3 * SG_FFN_TILE + 5 };
    net m = expert_net(_i);
    sg_acts x = acts_make(MANY, K, 1);
    uint32_t chosen[MANY];
    float weights[MANY];
    for (uint32_t t = 0; t < MANY; t++) chosen[t] = t % 40 == 7 ? 4 : 2, weights[t] = noise();
    setup s = { .act = SG_ACT_RELU, .n_used = 1, .expert = chosen, .weight = weights, .batch = 1 };
    float *want = ffn_run(&m, &s, &x);
    s.batch = MANY;
    s.threads = 3;
    for (int mode = 0; mode < 3; mode++) {
        s.policy.mode = (sg_ffn_mode)mode;
        float *y = ffn_run(&m, &s, &x);
        same_bits(want, y, MANY, "many tokens, mode", mode);
        free(y);
    }
    free(want);
    acts_free(&x);
    net_free(&m);
}
END_TEST

/* As what stays in RAM is read: rows sorted within their cluster, the largest scales at hand. */
START_TEST(split_rows_give_the_same) {
    net m = expert_net(_i);
    sg_acts x = acts_make(TOKENS, K, 1);
    setup s = routed(SG_ACT_RELU);
    float *want = ffn_run(&m, &s, &x);
    ck_assert(sg_bundle_split(&m.shape, m.data));
    const sg_kernels kernels = kernels_of(false);
    const sg_neuron_kernel *down = kernels.neuron[m.shape.down_type];
    float *max = calloc((size_t)m.shape.n_clusters * m.shape.per_cluster, sizeof *max);
    for (uint32_t c = 0; down->quantised && c < m.shape.n_clusters; c++)
        for (uint32_t i = 0; i < m.shape.per_cluster; i++)
            max[c * m.shape.per_cluster + i] =
                down->down_max(m.data + c * m.shape.cluster_bytes + m.shape.downs_at + i * m.shape.down_stride, K);
    for (int way = 0; way < 6; way++) {
        s.threads = 1 + (uint32_t)way / 3;
        s.batch = way % 2 ? 1 : TOKENS;
        s.policy.mode = (sg_ffn_mode)(way % 3);
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

/* ---- nothing but neurons ---- */

/* The dense layer made of the neurons of a token's experts gives the same: also under a policy, which sees them all together. Experts are
 * whole clusters here, so that the scales are combined in the same order. */
START_TEST(experts_are_their_neurons) {
    enum { WHOLE = 64 };
    sg_bundle_layout shape = case_shape(_i);
    shape.n_expert = EXPERTS;
    net m = net_make(shape, NULL, NULL, WHOLE);
    sg_acts x = acts_make(TOKENS, K, 1);
    const float cut = 0.3f, ones[TOKENS * USED] = { [0 ... TOKENS * USED - 1] = 1 };
    for (int way = 0; way < 12; way++) {
        setup s = routed(way % 2 ? SG_ACT_RELU : SG_ACT_SILU);
        s.weight = ones;
        s.policy = (sg_ffn_policy) { .mode = (sg_ffn_mode)(way % 3), .top_k = way % 4 < 2 ? 0 : 37, .cut = way % 4 == 1 ? &cut : NULL };
        s.threads = 1 + (uint32_t)way / 6;
        s.batch = way % 4 ? TOKENS : 1;
        float *y = ffn_run(&m, &s, &x);
        if (s.policy.top_k) ck_assert_uint_le(s.count.active, TOKENS * 37);
        if (s.policy.top_k) ck_assert_uint_gt(s.count.active, TOKENS * 30);
        for (uint32_t t = 0; t < TOKENS; t++) {
            uint32_t list[USED * WHOLE];
            for (uint32_t i = 0; i < USED * WHOLE; i++) list[i] = expert[t * USED + i / WHOLE] * WHOLE + i % WHOLE;
            sg_bundle_layout dense = m.shape;
            dense.n_expert = 0;
            net some = net_make(dense, &m, list, USED * WHOLE);
            const sg_acts one = sg_acts_rows(&x, t, 1);
            setup d = { .act = s.act, .policy = s.policy };
            float *want = ffn_run(&some, &d, &one);
            same_bits(want, y + (size_t)t * (K + SPARE), 1, "the neurons of the experts", way);
            free(want);
            net_free(&some);
        }
        free(y);
    }
    acts_free(&x);
    net_free(&m);
}
END_TEST

/* No experts' neuron fires: the biases alone; and a token that is not finite spoils itself only. */
START_TEST(nothing_live_and_not_finite) {
    net m = expert_net(_i);
    biases b = biases_make(&m.shape);
    sg_acts x = acts_make(TOKENS, K, 1);
    float spoilt[TOKENS * USED];
    memcpy(spoilt, weight, sizeof spoilt);
    spoilt[5] = NAN; /* token 2 */
    for (int way = 0; way < 6; way++) {
        setup s = routed(SG_ACT_FATRELU);
        s.fat_threshold = 1e9f;
        s.down_bias = b.down;
        s.threads = 1 + (uint32_t)way / 3;
        s.batch = way % 2 ? 1 : TOKENS;
        s.policy.mode = (sg_ffn_mode)(way % 3);
        float *y = ffn_run(&m, &s, &x);
        for (uint32_t t = 0; t < TOKENS; t++)
            for (uint32_t j = 0; j < K; j++) {
                const uint32_t *e = expert + t * USED;
                const float first = weight[t * USED] * b.down[e[0] * K + j], second = weight[t * USED + 1] * b.down[e[1] * K + j];
                ck_assert(y[t * (size_t)(K + SPARE) + j] == first + second);
            }
        free(y);
        s.fat_threshold = 0.3f;
        y = ffn_run(&m, &s, &x);
        s.weight = spoilt;
        float *z = ffn_run(&m, &s, &x);
        for (uint32_t t = 0; t < TOKENS; t++)
            for (uint32_t j = 0; j < K; j++) {
                const float was = y[t * (size_t)(K + SPARE) + j], is = z[t * (size_t)(K + SPARE) + j];
                ck_assert(t == 2 ? isnan(is) : memcmp(&was, &is, sizeof is) == 0);
            }
        free(y);
        free(z);
    }
    acts_free(&x);
    biases_free(&b);
    net_free(&m);
}
END_TEST

/* ---- activations and shapes ---- */

START_TEST(activations) {
    const sg_kernels kernels = kernels_of(true);
    float g[700], a[700], single;
    for (int act = 0; act < N_ACTS; act++) {
        const setup s = { .act = (sg_neuron_act)act, .fat_threshold = 0.3f };
        for (int i = 0; i < 700; i++) g[i] = (float)(i - 350) / 16;
        sg_neuron_activate(&kernels, s.act, 0.3f, g, a, 700);
        for (int i = 0; i < 700; i++) {
            const about want = activated(&s, (about) { (double)g[i], 0 });
            ck_assert_msg(fabs((double)a[i] - want.v) <= want.err + 1e-6, "act %d of %g is %g", act, (double)g[i], (double)a[i]);
            sg_neuron_activate(&kernels, s.act, 0.3f, g + i, &single, 1);
            ck_assert(memcmp(&single, a + i, sizeof single) == 0);
        }
        g[0] = NAN;
        sg_neuron_activate(&kernels, s.act, 0.3f, g, a, 1);
        ck_assert(isnan(a[0]));
    }
    ck_assert(sg_neuron_up(SG_ACT_OAI, 9) == 8 && sg_neuron_up(SG_ACT_OAI, -9) == -6 && sg_neuron_up(SG_ACT_OAI, 2) == 3);
    ck_assert(isnan(sg_neuron_up(SG_ACT_OAI, NAN)) && isnan(sg_neuron_up(SG_ACT_DRELU, NAN)));
}
END_TEST

START_TEST(layouts) {
    sg_bundle_layout l = { .n_neurons = N_FF, .k = K, .per_cluster = 32, .gated = true, .gate_type = SG_DTYPE_F16, .up_type = SG_DTYPE_F16,
                           .down_type = SG_DTYPE_F16, .n_expert = EXPERTS };
    ck_assert(sg_bundle_layout_init(&l));
    ck_assert_uint_eq(l.per_expert, 3);
    ck_assert_uint_eq(l.n_clusters, 3 * EXPERTS);
    ck_assert_uint_eq(sg_bundle_neurons(&l, 3), 32);
    ck_assert_uint_eq(sg_bundle_neurons(&l, 5), N_FF - 64);
    sg_ffn_layer layer = { .bundle.l = l, .n_used = USED };
    ck_assert(sg_ffn_layer_valid(&layer));
    layer.n_used = 0;
    ck_assert(!sg_ffn_layer_valid(&layer));
    layer.n_used = EXPERTS + 1;
    ck_assert(!sg_ffn_layer_valid(&layer));
    layer.n_used = USED;
    layer.predictor.kind = SG_PRED_SIGN;
    ck_assert(!sg_ffn_layer_valid(&layer));
    l.n_expert = 1u << 17;
    ck_assert(!sg_bundle_layout_init(&l));
    l.n_expert = 1u << 16;
    l.n_neurons = 1u << 20;
    ck_assert(!sg_bundle_layout_init(&l));
    l.n_expert = 0;
    ck_assert(sg_bundle_layout_init(&l));
    layer = (sg_ffn_layer) { .bundle.l = l };
    ck_assert(sg_ffn_layer_valid(&layer));
    layer.bundle.l.k = 4096;
    ck_assert(sg_bundle_layout_init(&layer.bundle.l) && !sg_ffn_layer_valid(&layer)); /* 24 GiB */
}
END_TEST

int main(void) {
    Suite *s = suite_create("ffn_experts");
    TCase *tc = tcase_create("ffn_experts");
    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, is_what_double_gives, 0, CASES);
    tcase_add_loop_test(tc, dense_with_biases_and_factors, 0, CASES);
    tcase_add_loop_test(tc, floats_are_as_defined, 0, 4);
    tcase_add_loop_test(tc, bits_do_not_depend_on_the_way, 0, CASES);
    tcase_add_loop_test(tc, left_out_is_not_there, 0, CASES);
    tcase_add_loop_test(tc, many_tokens, 0, CASES);
    tcase_add_loop_test(tc, split_rows_give_the_same, 0, CASES);
    tcase_add_loop_test(tc, experts_are_their_neurons, 0, CASES);
    tcase_add_loop_test(tc, nothing_live_and_not_finite, 0, CASES);
    tcase_add_test(tc, activations);
    tcase_add_test(tc, layouts);
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    const int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
