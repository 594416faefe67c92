/* Rotary embedding and attention against plain double-precision computations written apart from them. */
#include "neuron_engine/quant.h"
#include "neuron_engine/rope.h"
#include "tests/unit/attention_fixture.h"

static void check_rope(bool adjacent, uint32_t n_rot, uint32_t head, uint32_t pos, double base, double scale, const float *factors) {
    const sg_rope_config c = { .n_rot = n_rot, .adjacent = adjacent, .freq_base = base, .scale = scale, .magnitude = 1, .factors = factors };
    sg_rope r;
    sg_error err = { 0 };
    ck_assert_int_eq(sg_rope_init(&r, &c, &err), SG_OK);
    float table[512], x[256], y[256];
    for (uint32_t i = 0; i < head; i++) x[i] = y[i] = noise();
    sg_rope_table(&r, pos, table);
    sg_kernels kernels;
    sg_kernels_init(&kernels, sg_cpu_detect());
    kernels.vec.rope(y, table, table + n_rot, n_rot, adjacent);
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
 * between them a ramp; cos and sin grow by 1 + 0.1 ln(scale), which the caller says. */
START_TEST(rope_yarn) {
    const sg_rope_config c = { .n_rot = 128, .adjacent = false, .freq_base = 10000, .scale = 4, .yarn = true, .beta_fast = 32,
                               .beta_slow = 1, .ext_factor = 1, .magnitude = (float)(1 + 0.1 * log(4)), .n_ctx_orig = 4096 };
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

#define MOST_DIM 576

static model plain_model(uint32_t heads, uint32_t kv_heads, uint32_t dk, uint32_t dv, sg_kv_type type, uint32_t n_ctx) {
    model m = { .type = type, .n_ctx = n_ctx };
    const sg_attention a = { heads, kv_heads, dk, dv, dk > 256 ? 0.1f : 0.3f, 0, 0, NULL, 0 };
    add_layer(&m, a, false);
    add_layer(&m, a, false);
    return m;
}

/* x as the cache returns it. */
static void round_trip(sg_kv_type type, const float *x, double *y, uint32_t n) {
    uint8_t bytes[4 * MOST_DIM];
    float f[MOST_DIM];
    const sg_dtype d = type == SG_KV_F16 ? SG_DTYPE_F16 : type == SG_KV_F32 ? SG_DTYPE_F32 : SG_DTYPE_Q8_0;
    sg_quantize(d, x, bytes, n);
    sg_dequantize(d, bytes, f, n);
    for (uint32_t i = 0; i < n; i++) y[i] = f[i];
}

/* The query as the scores use it: in 8 bit against 8-bit keys. */
static void round_query(const layer *l, sg_kv_type type, const sg_vec_fns *vec, const float *q, double *y) {
    const uint32_t n = l->a.head_dim_k;
    float x[MOST_DIM], d[MOST_DIM / 32], dsum[MOST_DIM / 32];
    int8_t codes[MOST_DIM];
    int16_t sums[MOST_DIM / 16];
    for (uint32_t i = 0; i < n; i++) y[i] = x[i] = q[i] * l->a.scale;
    if (type != SG_KV_Q8_0) return;
    sg_acts acts = { 1, n, n / 32, x, codes, d, sums, dsum };
    vec->quantize_acts(&acts, 0);
    for (uint32_t i = 0; i < n; i++) y[i] = (double)codes[i] * d[i / 32];
}

static void check_row(const layer *l, sg_kv_type type, const sg_vec_fns *vec, uint32_t pos, uint32_t h, const float *out) {
    const sg_attention *a = &l->a;
    const uint32_t dk = a->head_dim_k, dv = a->head_dim_v, g = h / (a->n_head / a->n_head_kv);
    const uint32_t from = a->window && pos + 1 > a->window ? pos + 1 - a->window : 0;
    double *s = malloc((pos + 1) * sizeof *s), q[MOST_DIM], x[MOST_DIM], want[MOST_DIM] = { 0 }, max = a->sinks ? a->sinks[h] : -1e300;
    round_query(l, type, vec, query(l, pos, h), q);
    for (uint32_t j = from; j <= pos; j++) {
        round_trip(type, at(l, l->k, dk, j, g), x, dk);
        s[j] = 0;
        for (uint32_t i = 0; i < dk; i++) s[j] += q[i] * x[i];
        if (a->softcap != 0) s[j] = a->softcap * tanh(s[j] / a->softcap);
        max = fmax(max, s[j]);
    }
    double sum = a->sinks ? exp(a->sinks[h] - max) : 0;
    for (uint32_t j = from; j <= pos; j++) sum += s[j] = exp(s[j] - max);
    for (uint32_t j = from; j <= pos; j++) {
        round_trip(type, at(l, l->v, dv, j, g), x, dv);
        for (uint32_t i = 0; i < dv; i++) want[i] += s[j] / sum * x[i];
    }
    for (uint32_t i = 0; i < dv; i++) ck_assert_float_eq_tol(out[i], (float)want[i], 6e-6f);
    free(s);
}

/* Positions from `from` on: some against double precision; then batches and tiles of other sizes and the reference kernels, each
 * with a cache of its own (whose rings are as large as the batches want), to the bit. */
static void check_model(const model *m, uint32_t from) {
    sg_kernels best, ref;
    sg_kernels_init(&best, sg_cpu_detect());
    sg_kernels_init(&ref, 0);
    const uint32_t n = m->n_ctx - from, all = m->n_ctx;
    const struct { const sg_kernels *kernels; uint32_t batch, tile; } ways[] = {
        { &best, 1, 1 }, { &best, 7, 7 }, { &best, all, 32 }, { &best, all, 1 }, { &best, 45, 3 }, { &best, 2, 2 }, { &ref, 7, 5 } };
    const size_t width = width_of(m);
    float *want = malloc(n * width * sizeof *want), *got = malloc(n * width * sizeof *got);
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        sg_kv_cache c;
        init_cache(m, &c, ways[w].kernels, m->n_ctx, ways[w].batch);
        feed(m, &c, ways[w].kernels, 0, m->n_ctx, ways[w].batch, ways[w].tile, from, w ? got : want);
        sg_kv_finish(&c);
        ck_assert_msg(w == 0 || memcmp(want, got, n * width * sizeof *got) == 0, "batches of %u in tiles of %u tokens differ (%s)",
                      ways[w].batch, ways[w].tile, ways[w].kernels->tier);
    }
    const float *out = want;
    for (uint32_t i = 0; i < m->n_layer; out += (size_t)m->att[i].n_head * m->att[i].head_dim_v, i++)
        for (uint32_t t = 0; t < n; t += 1 + n / 7)
            for (uint32_t h = 0; h < m->att[i].n_head; h += 1 + m->att[i].n_head / 12)
                check_row(&m->layers[i], m->type, &best.vec, from + t, h, out + t * width + h * m->att[i].head_dim_v);
    free(want);
    free(got);
}

static void check_plain(uint32_t heads, uint32_t kv_heads, uint32_t dk, uint32_t dv, sg_kv_type type, uint32_t n_ctx, uint32_t from) {
    model m = plain_model(heads, kv_heads, dk, dv, type, n_ctx);
    check_model(&m, from);
    free_model(&m);
}

START_TEST(attention_kinds) {
    const sg_kv_type type = (sg_kv_type)_i;
    check_plain(6, 2, 64, 32, type, 150, 0);
    check_plain(8, 1, 128, 96, type, 70, 50);
    check_plain(3, 3, 32, 64, type, 65, 0);
    check_plain(40, 1, 32, 32, type, 80, 60);  /* groups larger than a tile */
    check_plain(66, 2, 32, 64, type, 80, 60);  /* of unequal parts */
    if (type != SG_KV_Q8_0) check_plain(6, 2, 24, 20, type, 130, 0);
    if (type != SG_KV_Q8_0) check_plain(5, 5, 257 - 1, 3, type, 20, 0);
}
END_TEST

/* The shapes of latent attention, whose key and value are the same for all heads. */
START_TEST(attention_latent) {
    const sg_kv_type type = (sg_kv_type)_i;
    check_plain(16, 1, 576, 512, type, 70, 60);
    check_plain(128, 1, 576, 512, type, 67, 62);
    const sg_attention a = { 128, 1, 576, 512, 1, 0, 0, NULL, 0 };
    ck_assert_uint_eq(sg_attention_units(&a), 4);
    ck_assert_uint_eq(sg_attention_unit_tokens(&a), 1);
}
END_TEST

/* Without window, cap and sinks the bits are those that the first release gave. */
START_TEST(attention_bits) {
    static const uint64_t bits[SG_KV_TYPES] = { 0x4caf4f13a7bc7e9e, 0x223f0b1a7e4459e4, 0x2f5d217dbe32f786 };
    enum { FROM = 900, N = 200 };
    sg_kernels kernels;
    sg_kernels_init(&kernels, sg_cpu_detect());
    state = 7;
    model m = { .type = (sg_kv_type)_i, .n_ctx = FROM + N };
    const sg_attention a = { 6, 2, 64, 32, 0.3f, 0, 0, NULL, 0 };
    /* The arrays of the two layers were drawn together. */
    float *k = noise_array((size_t)2 * m.n_ctx * 2 * 64, 2), *v = noise_array((size_t)2 * m.n_ctx * 2 * 32, 1);
    float *q = noise_array((size_t)m.n_ctx * 6 * 64, 1), out[N * 6 * 32];
    add_layer(&m, a, false);
    memcpy(m.layers[0].k, k + (size_t)m.n_ctx * 2 * 64, (size_t)m.n_ctx * 2 * 64 * sizeof *k);
    memcpy(m.layers[0].v, v + (size_t)m.n_ctx * 2 * 32, (size_t)m.n_ctx * 2 * 32 * sizeof *v);
    memcpy(m.layers[0].q, q, (size_t)m.n_ctx * 6 * 64 * sizeof *q);
    sg_kv_cache c;
    init_cache(&m, &c, &kernels, m.n_ctx, m.n_ctx);
    feed(&m, &c, &kernels, 0, m.n_ctx, m.n_ctx, 32, FROM, out);
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < N * 6 * 32; i++) {
        uint32_t word;
        memcpy(&word, &out[i], sizeof word);
        hash = (hash ^ word) * 1099511628211u;
    }
    ck_assert_uint_eq(hash, bits[_i]);
    sg_kv_finish(&c);
    free(k);
    free(v);
    free(q);
    free_model(&m);
}
END_TEST

/* Against counting. */
START_TEST(attention_segments) {
    const uint32_t s = SG_KEY_SEGMENT, windows[] = { 0, 1, 2, 100, s - 1, s, s + 1, s + 2, 2 * s, 2 * s + 1, 5 * s, UINT32_MAX };
    for (size_t i = 0; i < sizeof windows / sizeof *windows; i++) {
        const sg_attention a = { 2, 1, 32, 32, 1, windows[i], 0, NULL, 0 };
        uint32_t most = 0;
        for (uint32_t pos = 0; pos < 4 * s; pos++) {
            const uint32_t first = windows[i] && pos >= windows[i] ? pos - windows[i] + 1 : 0, n = sg_attention_segments(&a, pos);
            ck_assert_uint_eq(n, pos / s - first / s + 1);
            most = n > most ? n : most;
            if (pos % 97 == 0 || pos + 3 > 4 * s) ck_assert_uint_ge(sg_attention_most_segments(&a, pos + 1), most);
        }
        ck_assert_uint_eq(sg_attention_most_segments(&a, 4 * s), most);
    }
    check_plain(4, 2, 32, 32, (sg_kv_type)_i, 2 * s + 40, 2 * s - 30);
}
END_TEST

/* Windows that cut blocks in all ways, over many turns of the ring. */
START_TEST(attention_windows) {
    const uint32_t windows[] = { 1, 2, 5, 63, 64, 65, 100, 193 };
    for (size_t i = 0; i < sizeof windows / sizeof *windows; i++) {
        model m = { .type = (sg_kv_type)_i, .n_ctx = 900 };
        add_layer(&m, (sg_attention){ 6, 2, 32, 64, 0.3f, windows[i], 0, NULL, 0 }, i % 2);
        check_model(&m, i == 6 ? 0 : 700);
        free_model(&m);
    }
}
END_TEST

/* Windows longer than segments. */
START_TEST(attention_long_windows) {
    const uint32_t s = SG_KEY_SEGMENT, windows[] = { s + 76, 2 * s - 33 };
    for (size_t i = 0; i < 2; i++) {
        model m = { .type = (sg_kv_type)_i, .n_ctx = 3 * s + 50 };
        add_layer(&m, (sg_attention){ 4, 1, 32, 32, 0.3f, windows[i], i ? 8.0f : 0, NULL, 0 }, true);
        check_model(&m, 3 * s - 60);
        free_model(&m);
    }
}
END_TEST

/* Layers of other shapes in one cache, one without attention among them; queries with something else between the heads. */
START_TEST(attention_unlike_layers) {
    model m = { .type = (sg_kv_type)_i, .n_ctx = 600 };
    add_layer(&m, (sg_attention){ 8, 2, 64, 32, 0.2f, 70, 0, NULL, 128 }, true);
    add_layer(&m, (sg_attention){ 0 }, false);
    add_layer(&m, (sg_attention){ 4, 4, 32, 96, 0.3f, 0, 5.0f, NULL, 40 }, true);
    add_layer(&m, (sg_attention){ 35, 1, 96, 32, 0.2f, 300, 2.0f, NULL, 0 }, false);
    check_model(&m, 520);
    free_model(&m);
}
END_TEST

/* Keys that are not seen must not matter, whatever they are: behind a token's own position a cut-off timeline may have left NaN,
 * and before a window there may be anything. */
START_TEST(attention_ignores_other_keys) {
    enum { N = 150, FROM = 100, TO = 140, WINDOW = 30, WIDTH = 4 * 32 };
    sg_kernels kernels;
    sg_kernels_init(&kernels, sg_cpu_detect());
    model m = { .type = (sg_kv_type)_i, .n_ctx = N };
    add_layer(&m, (sg_attention){ 4, 2, 32, 32, 0.3f, WINDOW, 0, NULL, 0 }, false);
    float clean[(TO - FROM) * WIDTH], dirty[(TO - FROM) * WIDTH], bad[32];
    for (int tile = 1; tile <= 16; tile *= 4) {
        sg_kv_cache c;
        init_cache(&m, &c, &kernels, N, N);
        store(&m, &c, &kernels, 0, N);
        run_layer(&m, &c, &kernels, 0, FROM, TO - FROM, (uint32_t)tile, clean, WIDTH);
        for (int i = 0; i < 32; i++) bad[i] = m.type == SG_KV_Q8_0 ? 1e30f : NAN;
        for (uint32_t pos = 0; pos < N; pos++)
            if (pos + WINDOW <= FROM || pos >= TO)
                for (uint32_t h = 0; h < 2; h++) sg_kv_store(&m.att[0], &c, &kernels.vec, 0, pos, h, bad, bad);
        run_layer(&m, &c, &kernels, 0, FROM, TO - FROM, (uint32_t)tile, dirty, WIDTH);
        ck_assert(memcmp(clean, dirty, sizeof clean) == 0);
        sg_kv_finish(&c);
    }
    free_model(&m);
}
END_TEST

/* Scores of -inf everywhere, with and without sinks: zeros, not NaN. */
START_TEST(attention_no_weight) {
    sg_kernels kernels;
    sg_kernels_init(&kernels, sg_cpu_detect());
    model m = { .type = SG_KV_F32, .n_ctx = 70 };
    add_layer(&m, (sg_attention){ 4, 2, 32, 32, 0.3f, 20, 0, NULL, 0 }, _i);
    for (uint32_t i = 0; i < m.n_ctx * 4; i++) m.layers[0].q[i * 32] = 1;
    for (uint32_t i = 0; i < m.n_ctx * 2; i++) m.layers[0].k[i * 32] = -INFINITY;
    for (uint32_t tile = 1; tile <= 16; tile *= 4) {
        float out[70 * 128];
        sg_kv_cache c;
        init_cache(&m, &c, &kernels, m.n_ctx, m.n_ctx);
        feed(&m, &c, &kernels, 0, m.n_ctx, m.n_ctx, tile, 0, out);
        for (size_t i = 0; i < sizeof out / sizeof *out; i++) ck_assert(out[i] == 0);
        sg_kv_finish(&c);
    }
    free_model(&m);
}
END_TEST

/* A kernel that counts the keys that it is given. */
static sg_mat_kernel counting, counted;
static uint64_t n_keys;
static void count_gemv(float *restrict y, size_t ldy, const void *restrict w, const sg_acts *restrict a, uint32_t row0, uint32_t row1) {
    n_keys += row1 - row0;
    counted.gemv(y, ldy, w, a, row0, row1);
}
static void count_gemm(float *restrict y, size_t ldy, const void *restrict w, const sg_acts *restrict a, uint32_t row0, uint32_t row1) {
    n_keys += row1 - row0;
    counted.gemm(y, ldy, w, a, row0, row1);
}

/* The work for a token depends on its window, not on its position. */
START_TEST(attention_work) {
    sg_kernels kernels;
    sg_kernels_init(&kernels, sg_cpu_detect());
    model m = { .type = SG_KV_F16, .n_ctx = 5000 };
    add_layer(&m, (sg_attention){ 2, 1, 32, 32, 0.3f, 100, 0, NULL, 0 }, false);
    float out[16 * 64];
    sg_kv_cache c;
    init_cache(&m, &c, &kernels, m.n_ctx, 16);
    ck_assert_uint_eq(c.layers[0].capacity, 256);
    counted = counting = *c.kernel;
    counting.gemv = count_gemv;
    counting.gemm = count_gemm;
    c.kernel = &counting;
    store(&m, &c, &kernels, 0, 4984);
    for (uint32_t tile = 1; tile <= 16; tile += 15) {
        n_keys = 0;
        run_layer(&m, &c, &kernels, 0, 4968, 16, tile, out, 64);
        const uint64_t runs = 16 / tile;
        ck_assert_uint_ge(n_keys, runs * 100);
        ck_assert_uint_le(n_keys, runs * (100 + 64 + 16 + c.kernel->mr));
    }
    sg_kv_finish(&c);
    free_model(&m);
}
END_TEST

int main(void) {
    Suite *s = suite_create("attention");
    TCase *t = tcase_create("attention");
    tcase_set_timeout(t, 0);
    tcase_add_test(t, rope_kinds);
    tcase_add_test(t, rope_yarn);
    tcase_add_loop_test(t, attention_kinds, 0, SG_KV_TYPES);
    tcase_add_loop_test(t, attention_latent, 0, SG_KV_TYPES);
    tcase_add_loop_test(t, attention_bits, 0, SG_KV_TYPES);
    tcase_add_loop_test(t, attention_segments, 0, SG_KV_TYPES);
    tcase_add_loop_test(t, attention_windows, 0, SG_KV_TYPES);
    tcase_add_loop_test(t, attention_long_windows, 0, SG_KV_TYPES);
    tcase_add_loop_test(t, attention_unlike_layers, 0, SG_KV_TYPES);
    tcase_add_loop_test(t, attention_ignores_other_keys, 0, SG_KV_TYPES);
    tcase_add_loop_test(t, attention_no_weight, 0, 2);
    tcase_add_test(t, attention_work);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
