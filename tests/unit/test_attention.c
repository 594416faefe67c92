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

/* One attention problem: random keys, values and queries, and what a plain double-precision computation makes of them. */
typedef struct problem {
    sg_attention a;
    sg_kv_type type;
    uint32_t n_layer, n_ctx;
    float *k, *v, *q; /* [layer][position][head][dim]; q without layer */
} problem;

static float *noise_array(size_t n, float scale) {
    float *x = malloc(n * sizeof *x);
    ck_assert_ptr_nonnull(x);
    for (size_t i = 0; i < n; i++) x[i] = scale * noise();
    return x;
}

static problem make_problem(uint32_t heads, uint32_t kv_heads, uint32_t dk, uint32_t dv, sg_kv_type type, uint32_t n_ctx) {
    problem p = { { heads, kv_heads, dk, dv, 0.3f }, type, 2, n_ctx, NULL, NULL, NULL };
    const size_t positions = (size_t)p.n_layer * n_ctx * kv_heads;
    p.k = noise_array(positions * dk, 2);
    p.v = noise_array(positions * dv, 1);
    p.q = noise_array((size_t)n_ctx * heads * dk, 1);
    return p;
}

static void free_problem(problem *p) {
    free(p->k);
    free(p->v);
    free(p->q);
}

static const float *at(const problem *p, const float *x, uint32_t dim, uint32_t layer, uint32_t pos, uint32_t head) {
    return x + (((size_t)layer * p->n_ctx + pos) * p->a.n_head_kv + head) * dim;
}

/* x as the cache returns it. */
static void round_trip(sg_kv_type type, const float *x, double *y, uint32_t n) {
    uint8_t bytes[1024];
    float f[256];
    const sg_dtype d = type == SG_KV_F16 ? SG_DTYPE_F16 : type == SG_KV_F32 ? SG_DTYPE_F32 : SG_DTYPE_Q8_0;
    sg_quantize(d, x, bytes, n);
    sg_dequantize(d, bytes, f, n);
    for (uint32_t i = 0; i < n; i++) y[i] = f[i];
}

/* The query as the scores use it: in 8 bit against 8-bit keys. */
static void round_query(const problem *p, const sg_vec_fns *vec, const float *q, double *y) {
    const uint32_t n = p->a.head_dim_k;
    float x[256], d[8], dsum[8];
    int8_t codes[256];
    int16_t sums[16];
    for (uint32_t i = 0; i < n; i++) y[i] = x[i] = q[i] * p->a.scale;
    if (p->type != SG_KV_Q8_0) return;
    sg_acts acts = { 1, n, n / 32, x, codes, d, sums, dsum };
    vec->quantize_acts(&acts, 0);
    for (uint32_t i = 0; i < n; i++) y[i] = (double)codes[i] * d[i / 32];
}

static void check_row(const problem *p, const sg_vec_fns *vec, uint32_t layer, uint32_t pos, uint32_t h, const float *out) {
    const uint32_t dk = p->a.head_dim_k, dv = p->a.head_dim_v, g = h / (p->a.n_head / p->a.n_head_kv);
    double *s = malloc((pos + 1) * sizeof *s), q[256], x[256], want[256] = { 0 }, max = -1e300, sum = 0;
    round_query(p, vec, p->q + ((size_t)pos * p->a.n_head + h) * dk, q);
    for (uint32_t j = 0; j <= pos; j++) {
        round_trip(p->type, at(p, p->k, dk, layer, j, g), x, dk);
        s[j] = 0;
        for (uint32_t i = 0; i < dk; i++) s[j] += q[i] * x[i];
        max = fmax(max, s[j]);
    }
    for (uint32_t j = 0; j <= pos; j++) sum += s[j] = exp(s[j] - max);
    for (uint32_t j = 0; j <= pos; j++) {
        round_trip(p->type, at(p, p->v, dv, layer, j, g), x, dv);
        for (uint32_t i = 0; i < dv; i++) want[i] += s[j] / sum * x[i];
    }
    for (uint32_t i = 0; i < dv; i++) ck_assert_float_eq_tol(out[i], (float)want[i], 4e-6f);
    free(s);
}

static void fill_cache(const problem *p, sg_kv_cache *c, const sg_kernels *kernels) {
    sg_error err = { 0 };
    ck_assert_msg(sg_kv_init(c, p->type, kernels, &p->a, p->n_layer, p->n_ctx, &err) == SG_OK, "%s", err.message);
    for (uint32_t l = 0; l < p->n_layer; l++)
        for (uint32_t pos = 0; pos < p->n_ctx; pos++)
            for (uint32_t h = 0; h < p->a.n_head_kv; h++)
                sg_kv_store(&p->a, c, &kernels->vec, l, pos, h, at(p, p->k, p->a.head_dim_k, l, pos, h),
                            at(p, p->v, p->a.head_dim_v, l, pos, h));
}

/* Positions from .. from + n - 1 in tiles of `step` tokens (1: in parts), into out[n][n_head * dv]. */
static void run(const problem *p, const sg_kv_cache *c, const sg_kernels *kernels, uint32_t layer, uint32_t from, uint32_t n,
                uint32_t step, float *out) {
    sg_attention_scratch s;
    void *memory = NULL;
    ck_assert_int_eq(posix_memalign(&memory, 64, sg_attention_scratch_init(&s, &p->a, NULL)), 0);
    sg_attention_scratch_init(&s, &p->a, memory);
    const size_t ldq = (size_t)p->a.n_head * p->a.head_dim_k, ldo = (size_t)p->a.n_head * p->a.head_dim_v;
    float *parts = malloc(sg_attention_segments(p->n_ctx - 1) * sg_attention_part_floats(&p->a) * p->a.n_head * sizeof *parts);
    for (uint32_t t = 0; t < n; t += step)
        for (uint32_t h = 0; h < p->a.n_head_kv; h++) {
            const uint32_t pos = from + t, m = n - t < step ? n - t : step;
            const float *q = p->q + pos * ldq;
            if (step > 1) {
                sg_attention_run(&p->a, c, &kernels->vec, &s, layer, h, pos, m, q, ldq, out + t * ldo, ldo);
                continue;
            }
            for (uint32_t g = sg_attention_segments(pos); g-- > 0;) /* in any order */
                sg_attention_part(&p->a, c, &kernels->vec, &s, layer, h, pos, g, q, parts);
            sg_attention_join(&p->a, &kernels->vec, &s, h, pos, parts, out + t * ldo);
        }
    free(parts);
    free(memory);
}

/* Some positions of a context against double precision; tiles of other sizes, single tokens and the reference kernels to the
 * bit. */
static void check_attention(uint32_t heads, uint32_t kv_heads, uint32_t dk, uint32_t dv, sg_kv_type type, uint32_t n_ctx,
                            uint32_t from) {
    problem p = make_problem(heads, kv_heads, dk, dv, type, n_ctx);
    sg_kernels best, ref;
    sg_kernels_init(&best, sg_cpu_detect());
    sg_kernels_init(&ref, 0);
    sg_kv_cache c, c_ref;
    fill_cache(&p, &c, &best);
    fill_cache(&p, &c_ref, &ref);
    const uint32_t most = sg_attention_tokens(&p.a), n = n_ctx - from;
    const size_t width = (size_t)heads * dv;
    float *want = malloc(n * width * sizeof *want), *got = malloc(n * width * sizeof *got);
    for (uint32_t layer = 0; layer < p.n_layer; layer++) {
        run(&p, &c, &best, layer, from, n, 1, want);
        for (uint32_t t = 0; t < n; t += 1 + n / 5)
            for (uint32_t h = 0; h < heads; h++) check_row(&p, &best.vec, layer, from + t, h, want + t * width + h * dv);
        const uint32_t steps[] = { most, most > 2 ? most - 1 : most, 2 };
        for (size_t i = 0; i < 3; i++) {
            if (steps[i] > most) continue;
            run(&p, &c, &best, layer, from, n, steps[i], got);
            ck_assert_msg(memcmp(want, got, n * width * sizeof *got) == 0, "tiles of %u tokens differ", steps[i]);
        }
        run(&p, &c_ref, &ref, layer, from, n, most, got);
        ck_assert_msg(memcmp(want, got, n * width * sizeof *got) == 0, "the reference kernels differ");
    }
    free(want);
    free(got);
    sg_kv_finish(&c);
    sg_kv_finish(&c_ref);
    free_problem(&p);
}

START_TEST(attention_kinds) {
    for (int type = 0; type < SG_KV_TYPES; type++) {
        check_attention(6, 2, 64, 32, (sg_kv_type)type, 150, 0);
        check_attention(8, 1, 128, 96, (sg_kv_type)type, 70, 50);
        check_attention(3, 3, 32, 64, (sg_kv_type)type, 65, 0);
        check_attention(40, 1, 32, 32, (sg_kv_type)type, 80, 60); /* a group larger than a tile */
        if (type != SG_KV_Q8_0) check_attention(6, 2, 24, 20, (sg_kv_type)type, 130, 0);
        if (type != SG_KV_Q8_0) check_attention(5, 5, 257 - 1, 3, (sg_kv_type)type, 20, 0);
    }
}
END_TEST

START_TEST(attention_segments) {
    const uint32_t s = SG_KEY_SEGMENT;
    ck_assert_uint_eq(sg_attention_segments(s - 1), 1);
    ck_assert_uint_eq(sg_attention_segments(s), 2);
    for (int type = 0; type < SG_KV_TYPES; type++) check_attention(4, 2, 32, 32, (sg_kv_type)type, 2 * s + 40, 2 * s - 30);
}
END_TEST

/* Keys behind a token's own position must not matter, whatever they are: a cut-off timeline may have left NaN there. */
START_TEST(attention_ignores_later_keys) {
    problem p = make_problem(4, 2, 32, 32, SG_KV_F16, 40);
    sg_kernels kernels;
    sg_kernels_init(&kernels, sg_cpu_detect());
    sg_kv_cache c;
    float clean[40 * 128], dirty[40 * 128], nan[32];
    fill_cache(&p, &c, &kernels);
    run(&p, &c, &kernels, 0, 0, 20, sg_attention_tokens(&p.a), clean);
    for (int i = 0; i < 32; i++) nan[i] = NAN;
    for (uint32_t pos = 20; pos < 40; pos++) sg_kv_store(&p.a, &c, &kernels.vec, 0, pos, pos % 2, nan, nan);
    run(&p, &c, &kernels, 0, 0, 20, sg_attention_tokens(&p.a), dirty);
    ck_assert(memcmp(clean, dirty, 20 * 128 * sizeof *clean) == 0);
    sg_kv_finish(&c);
    free_problem(&p);
}
END_TEST

START_TEST(cache_refused) {
    sg_kv_cache c;
    sg_error err = { 0 };
    sg_kernels kernels;
    sg_kernels_init(&kernels, 0);
    const sg_attention large = { 1 << 20, 1 << 20, 1 << 12, 1 << 12, 1 }, odd = { 4, 4, 80, 80, 1 };
    ck_assert_int_eq(sg_kv_init(&c, SG_KV_F32, &kernels, &large, 4096, UINT32_MAX, &err), SG_E_NOMEM);
    ck_assert(strstr(err.message, "KV cache") != NULL);
    ck_assert_int_eq(sg_kv_init(&c, SG_KV_Q8_0, &kernels, &odd, 2, 64, &err), SG_E_ARG);
    ck_assert(strstr(err.message, "multiple of 32") != NULL);
}
END_TEST

int main(void) {
    Suite *s = suite_create("attention");
    TCase *t = tcase_create("attention");
    tcase_set_timeout(t, 0);
    tcase_add_test(t, rope_kinds);
    tcase_add_test(t, rope_yarn);
    tcase_add_test(t, attention_kinds);
    tcase_add_test(t, attention_segments);
    tcase_add_test(t, attention_ignores_later_keys);
    tcase_add_test(t, cache_refused);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
