/* The cache of keys and values: its rings, going back in them, saving and restoring, sizes. */
#include "tests/unit/attention_fixture.h"

static model ring_model(sg_kv_type type) {
    model m = { .type = type, .n_ctx = 1000 };
    add_layer(&m, (sg_attention){ 2, 1, 32, 32, 0.3f, 40, 0, NULL, 0 }, false);
    add_layer(&m, (sg_attention){ 2, 2, 32, 32, 0.3f, 0, 0, NULL, 0 }, false);
    add_layer(&m, (sg_attention){ 4, 2, 32, 32, 0.3f, 150, 0, NULL, 0 }, true);
    add_layer(&m, (sg_attention){ 2, 1, 32, 32, 0.3f, 1, 0, NULL, 0 }, false);
    return m;
}

/* Against a list of the positions that are in the rows. */
START_TEST(rewind_rule) {
    sg_kernels kernels;
    sg_kernels_init(&kernels, 0);
    model m = ring_model(SG_KV_F32);
    sg_kv_cache c;
    init_cache(&m, &c, &kernels, m.n_ctx, 7);
    uint32_t *in = calloc(2000, sizeof *in);
    for (uint32_t high = 0; high <= m.n_ctx; high += high < 300 ? 1 : 37)
        for (uint32_t n = 0, lowest = UINT32_MAX; n <= high + 1; n++) {
            bool can = n <= high;
            for (uint32_t i = 0; i < m.n_layer && can; i++) {
                const uint32_t rows = (uint32_t)c.layers[i].capacity, window = m.att[i].window ? m.att[i].window : UINT32_MAX;
                for (uint32_t p = 0; p < high; p++) in[p % rows] = p;
                for (uint32_t p = n >= window ? n - window + 1 : 0; p < n; p++) can &= in[p % rows] == p;
            }
            ck_assert_msg(sg_kv_can_rewind(&c, high, n) == can, "from %u to %u", high, n);
            if (can && n > 0 && lowest == UINT32_MAX) {
                lowest = n;
                ck_assert_uint_eq(sg_kv_intact_from(&c, high) > 1 ? sg_kv_intact_from(&c, high) : 1, lowest);
            }
        }
    ck_assert_uint_ge(m.n_ctx - sg_kv_intact_from(&c, m.n_ctx), SG_KV_SLACK);
    free(in);
    sg_kv_finish(&c);
    sg_error err = { 0 };
    ck_assert_int_eq(sg_kv_init(&c, m.type, &kernels, &m.att[3], 1, m.n_ctx, 7, &err), SG_OK);
    ck_assert_uint_eq(m.att[3].window, 1); /* which looks back at nothing */
    ck_assert(c.layers[0].capacity < m.n_ctx && sg_kv_can_rewind(&c, m.n_ctx, 1));
    sg_kv_finish(&c);
    free_model(&m);
}
END_TEST

/* Going back as far as the rule allows, and on with another batch: what comes out is the same. */
START_TEST(rewind_bits) {
    enum { HIGH = 900 };
    sg_kernels kernels;
    sg_kernels_init(&kernels, sg_cpu_detect());
    model m = ring_model((sg_kv_type)_i);
    const size_t width = width_of(&m);
    sg_kv_cache c;
    init_cache(&m, &c, &kernels, m.n_ctx, 7);
    const uint32_t from = sg_kv_intact_from(&c, HIGH), n = HIGH - from;
    float *want = malloc(n * width * sizeof *want), *got = malloc(n * width * sizeof *got);
    feed(&m, &c, &kernels, 0, HIGH, 7, 7, from, want);
    feed(&m, &c, &kernels, from, HIGH, 3, 3, from, got);
    ck_assert(memcmp(want, got, n * width * sizeof *got) == 0);
    feed(&m, &c, &kernels, from, HIGH, 7, 7, from, got); /* and again, `high` being what it was */
    ck_assert(memcmp(want, got, n * width * sizeof *got) == 0);
    free(want);
    free(got);
    sg_kv_finish(&c);
    free_model(&m);
}
END_TEST

typedef struct tape {
    char *bytes;
    size_t at, end;
} tape;

static bool write_tape(void *user, void *p, size_t n) {
    tape *t = user;
    if (n > t->end - t->at) return false;
    memcpy(t->bytes + t->at, p, n);
    t->at += n;
    return true;
}

static bool read_tape(void *user, void *p, size_t n) {
    tape *t = user;
    if (n > t->end - t->at) return false;
    memcpy(p, t->bytes + t->at, n);
    t->at += n;
    return true;
}

/* A cache saved at n and restored into one of another context and batch, which has rings of another size, goes on to the bit, from the
 * lowest position that was asked for. */
static void check_restored(const model *m, const sg_kernels *kernels, uint32_t n) {
    const uint32_t more = 50, from = n > SG_KV_SAVED ? n - SG_KV_SAVED : 0;
    const size_t width = width_of(m), all = (n + more - from) * width;
    sg_kv_cache a, b;
    init_cache(m, &a, kernels, m->n_ctx, 70);
    init_cache(m, &b, kernels, m->n_ctx + 100, 1);
    ck_assert_uint_eq(sg_kv_layout_id(&a), sg_kv_layout_id(&b));
    ck_assert_uint_ne(a.layers[0].capacity, b.layers[0].capacity);
    float *want = malloc(all * sizeof *want), *got = malloc(all * sizeof *got);
    tape t = { .end = sg_kv_range_bytes(&a, from, n) };
    ck_assert_uint_eq(t.end, sg_kv_range_bytes(&b, from, n));
    t.bytes = malloc(t.end ? t.end : 1);
    feed(m, &a, kernels, 0, n, 70, 7, n, NULL);
    ck_assert(sg_kv_ranges(&a, from, n, write_tape, &t) && t.at == t.end);
    t.at = 0;
    memset(b.k.data, 0x7f, b.k.size); /* numbers that would show */
    memset(b.v.data, 0x7f, b.v.size);
    ck_assert(sg_kv_ranges(&b, from, n, read_tape, &t) && t.at == t.end);
    t.at = 1;
    ck_assert(n == 0 || !sg_kv_ranges(&b, from, n, write_tape, &t));
    feed(m, &a, kernels, from, n + more, 70, 7, from, want);
    feed(m, &b, kernels, n, n + more, 1, 1, n, got + (n - from) * width);
    ck_assert(memcmp(want + (n - from) * width, got + (n - from) * width, more * width * sizeof *got) == 0);
    if (from >= sg_kv_intact_from(&b, n + more)) feed(m, &b, kernels, from, n + more, 1, 1, from, got);
    else memcpy(got, want, (n - from) * width * sizeof *got); /* the ring went on */
    ck_assert(memcmp(want, got, all * sizeof *got) == 0);
    free(t.bytes);
    free(want);
    free(got);
    sg_kv_finish(&a);
    sg_kv_finish(&b);
}

START_TEST(save_and_restore) {
    const uint32_t at_n[] = { 0, 1, 13, 64, 192, 193, 450, 900 };
    sg_kernels kernels;
    sg_kernels_init(&kernels, sg_cpu_detect());
    model m = ring_model((sg_kv_type)_i);
    for (size_t i = 0; i < sizeof at_n / sizeof *at_n; i++) check_restored(&m, &kernels, at_n[i]);
    sg_kv_cache c, other;
    init_cache(&m, &c, &kernels, m.n_ctx, 7);
    /* Whole tiles of the keys, rows of the values; of a layer with a window what is seen from 870 on. */
    const uint64_t row = c.layers[0].k_row, n = 900, from = 870, mr = c.kernel->mr;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < m.n_layer; i++) {
        const uint64_t lo = m.att[i].window ? from - m.att[i].window + 1 : 0;
        bytes += m.att[i].n_head_kv * row * (n - lo + (n + mr - 1) / mr * mr - lo / mr * mr);
    }
    ck_assert_uint_eq(sg_kv_range_bytes(&c, (uint32_t)from, (uint32_t)n), bytes);
    m.att[0].window++;
    init_cache(&m, &other, &kernels, m.n_ctx, 7);
    ck_assert_uint_ne(sg_kv_layout_id(&c), sg_kv_layout_id(&other));
    sg_kv_finish(&other);
    m.att[0].window--;
    /* Rows of the same bytes, but of other values. */
    m.type = m.type == SG_KV_F16 ? SG_KV_F32 : SG_KV_F16;
    for (uint32_t i = 0; i < m.n_layer; i++) {
        m.att[i].head_dim_k = (uint32_t)c.layers[i].k_row / (m.type == SG_KV_F16 ? 2 : 4);
        m.att[i].head_dim_v = (uint32_t)c.layers[i].v_row / (m.type == SG_KV_F16 ? 2 : 4);
    }
    if (_i != SG_KV_Q8_0) {
        init_cache(&m, &other, &kernels, m.n_ctx, 7);
        ck_assert_uint_eq(other.k.size, c.k.size);
        ck_assert_uint_ne(sg_kv_layout_id(&c), sg_kv_layout_id(&other));
        sg_kv_finish(&other);
    }
    sg_kv_finish(&c);
    free_model(&m);
}
END_TEST

START_TEST(cache_sizes) {
    const sg_attention full = { 4, 2, 64, 32, 1, 0, 0, NULL, 0 }, none = { 0, 2, 64, 32, 1, 0, 0, NULL, 0 };
    sg_attention ring = full, layers[3] = { full, none, full };
    ring.window = 128;
    /* two heads, 64 values of keys in whole blocks and 32 of values, of 2 bytes */
    ck_assert_uint_eq(sg_kv_bytes(SG_KV_F16, &full, 1, 1000, 16), 2 * (1024 * 64 + 1000 * 32) * 2);
    ck_assert_uint_eq(sg_kv_bytes(SG_KV_F16, layers, 3, 1000, 16), 2 * sg_kv_bytes(SG_KV_F16, &full, 1, 1000, 16));
    ck_assert_uint_eq(sg_kv_bytes(SG_KV_F16, &ring, 1, 1000, 16), 2 * (320 * 64 + 320 * 32) * 2); /* 128 + 16 + 128, up to 320 */
    ck_assert_uint_eq(sg_kv_bytes(SG_KV_F16, &ring, 1, 100000, 16), sg_kv_bytes(SG_KV_F16, &ring, 1, 1000, 16));
    ring.window = 900; /* a ring would be longer than the context */
    ck_assert_uint_eq(sg_kv_bytes(SG_KV_F16, &ring, 1, 1000, 16), sg_kv_bytes(SG_KV_F16, &full, 1, 1000, 16));
    ring.window = UINT32_MAX;
    ck_assert_uint_eq(sg_kv_bytes(SG_KV_F16, &ring, 1, 1000, UINT32_MAX), sg_kv_bytes(SG_KV_F16, &full, 1, 1000, 16));
}
END_TEST

START_TEST(cache_refused) {
    sg_kv_cache c;
    sg_error err = { 0 };
    sg_kernels kernels;
    sg_kernels_init(&kernels, 0);
    const sg_attention large = { 1u << 31, 1u << 31, 1 << 20, 1 << 20, 1, 0, 0, NULL, 0 }, odd = { 4, 4, 80, 80, 1, 0, 0, NULL, 0 };
    const sg_attention fine = { 4, 4, 64, 64, 1, 0, 0, NULL, 0 }, many[2] = { fine, large }, last[2] = { fine, odd };
    ck_assert_int_eq(sg_kv_init(&c, SG_KV_F32, &kernels, many, 2, UINT32_MAX, 64, &err), SG_E_NOMEM);
    ck_assert(strstr(err.message, "KV cache") != NULL);
    ck_assert_uint_eq(sg_kv_bytes(SG_KV_F32, many, 2, UINT32_MAX, 64), UINT64_MAX / 2);
    const sg_attention keys = { 1 << 20, 1 << 20, 288, 32, 1, 0, 0, NULL, 0 }, values = { 1 << 20, 1 << 20, 32, 288, 1, 0, 0, NULL, 0 };
    ck_assert_uint_eq(sg_kv_bytes(SG_KV_F32, &keys, 1, UINT32_MAX, 64), UINT64_MAX / 2); /* more than 2^62 bytes */
    ck_assert_uint_eq(sg_kv_bytes(SG_KV_F32, &values, 1, UINT32_MAX, 64), UINT64_MAX / 2);
    ck_assert_int_eq(sg_kv_init(&c, SG_KV_Q8_0, &kernels, last, 2, 64, 64, &err), SG_E_ARG);
    ck_assert(strstr(err.message, "multiple of 32") != NULL);
    ck_assert(c.layers == NULL);
}
END_TEST

int main(void) {
    Suite *s = suite_create("kv_cache");
    TCase *t = tcase_create("kv_cache");
    tcase_set_timeout(t, 0);
    tcase_add_test(t, rewind_rule);
    tcase_add_loop_test(t, rewind_bits, 0, SG_KV_TYPES);
    tcase_add_loop_test(t, save_and_restore, 0, SG_KV_TYPES);
    tcase_add_test(t, cache_sizes);
    tcase_add_test(t, cache_refused);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
