/* Sampling against brute force, against an independent model (sampler_reference.py) and against itself. */
#include <check.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/sampler.h"

#define N 100       /* vocabulary of the goldens */
#define V 24        /* vocabulary of the brute-force tests */
#define DRAWS 40000 /* enough to see every token that is kept */

static const sg_sampler_options off = { sizeof off, 7, 1.0f, 0, 1.0f, 0.0f, 1.0f, 0.0f, 0.0f, 64 };

static sg_sampler *make(sg_sampler_options o, uint32_t n_vocab) {
    sg_sampler *s = NULL;
    sg_error err = { 0 };
    ck_assert_msg(sg_sampler_create(&o, n_vocab, &s, &err) == SG_OK, "%s", err.message);
    return s;
}

static int32_t sample_once(sg_sampler_options o, const float *logits, uint32_t n_vocab) {
    sg_sampler *s = make(o, n_vocab);
    const int32_t id = sg_sampler_sample(s, logits);
    sg_sampler_destroy(&s);
    ck_assert_ptr_null(s);
    return id;
}

/* ---- goldens ---- */

static const struct golden {
    const char *name;
    sg_sampler_options o;
    int32_t ids[16];
} goldens[] = {
    { "defaults",
      { sizeof(sg_sampler_options), UINT64_C(0), 0.8f, 40, 0.95f, 0.05f, 1.0f, 0.0f, 0.0f, 64 },
      { 11, 77, 6, 37, 19, 9, 37, 30, 87, 71, 6, 6, 44, 80, 36, 79 } },
    { "seed 42",
      { sizeof(sg_sampler_options), UINT64_C(42), 1.0f, 0, 1.0f, 0.0f, 1.0f, 0.0f, 0.0f, 64 },
      { 44, 62, 49, 3, 74, 29, 27, 79, 29, 73, 13, 3, 36, 90, 30, 99 } },
    { "large seed",
      { sizeof(sg_sampler_options), UINT64_C(18446744073709551615), 2.5f, 0, 1.0f, 0.0f, 1.0f, 0.0f, 0.0f, 64 },
      { 99, 21, 96, 9, 79, 92, 55, 21, 91, 30, 30, 69, 36, 54, 36, 32 } },
    { "top_k",
      { sizeof(sg_sampler_options), UINT64_C(1), 3.0f, 5, 1.0f, 0.0f, 1.0f, 0.0f, 0.0f, 64 },
      { 37, 97, 45, 79, 99, 6, 44, 6, 82, 83, 90, 82, 38, 99, 45, 38 } },
    { "top_p",
      { sizeof(sg_sampler_options), UINT64_C(2), 1.0f, 0, 0.5f, 0.0f, 1.0f, 0.0f, 0.0f, 64 },
      { 44, 89, 69, 38, 62, 69, 37, 6, 82, 38, 89, 45, 37, 37, 47, 44 } },
    { "min_p",
      { sizeof(sg_sampler_options), UINT64_C(3), 1.5f, 0, 1.0f, 0.2f, 1.0f, 0.0f, 0.0f, 64 },
      { 82, 78, 3, 97, 30, 59, 83, 10, 9, 79, 2, 30, 46, 54, 30, 44 } },
    { "penalties",
      { sizeof(sg_sampler_options), UINT64_C(4), 1.0f, 0, 1.0f, 0.0f, 1.3f, 0.4f, 0.6f, 6 },
      { 83, 2, 59, 42, 99, 39, 97, 10, 6, 37, 68, 37, 73, 13, 29, 38 } },
    { "all tokens",
      { sizeof(sg_sampler_options), UINT64_C(5), 0.0f, 0, 1.0f, 0.0f, 1.1f, 0.0f, 2.0f, -1 },
      { 44, 68, 6, 79, 97, 69, 83, 99, 45, 37, 90, 3, 38, 62, 82, 11 } },
};

/* As rows() of sampler_reference.py. */
static void fill_rows(float rows[3][N]) {
    uint32_t x = 12345;
    for (int r = 0; r < 3; r++) {
        for (int i = 0; i < N; i++) {
            x = x * 1664525u + 1013904223u;
            rows[r][i] = (float)((int)((x >> 8) % 641) - 320) / 64.0f;
        }
    }
}

START_TEST(golden_sequence) {
    const struct golden *g = &goldens[_i];
    float rows[3][N], copy[3][N];
    fill_rows(rows);
    memcpy(copy, rows, sizeof rows);
    for (int again = 0; again < 2; again++) {
        sg_sampler *s = make(g->o, N);
        for (int i = 0; i < 16; i++)
            ck_assert_msg(sg_sampler_sample(s, rows[i % 3]) == g->ids[i], "%s: token %d differs", g->name, i);
        sg_sampler_destroy(&s);
    }
    ck_assert_mem_eq(copy, rows, sizeof rows);
}
END_TEST

START_TEST(seed_matters) {
    float rows[3][N];
    fill_rows(rows);
    sg_sampler_options o = off;
    int differ = 0;
    sg_sampler *a = make(o, N);
    o.seed++;
    sg_sampler *b = make(o, N);
    for (int i = 0; i < 16; i++) differ += sg_sampler_sample(a, rows[i % 3]) != sg_sampler_sample(b, rows[i % 3]);
    ck_assert_int_gt(differ, 8);
    sg_sampler_destroy(&a);
    sg_sampler_destroy(&b);
}
END_TEST

/* ---- filters ---- */

/* Probabilities by the definitions, one candidate against all others, no sorting. */
static void brute_force(const sg_sampler_options *o, const float *logits, double p[V]) {
    double w[V], total = 0.0, kept = 0.0;
    int rank[V];
    for (int i = 0; i < V; i++) {
        rank[i] = 0;
        for (int j = 0; j < V; j++) rank[i] += logits[j] > logits[i] || (logits[j] == logits[i] && j < i);
    }
    double best = -INFINITY;
    for (int i = 0; i < V; i++) best = fmax(best, (double)logits[i]);
    for (int i = 0; i < V; i++) {
        w[i] = o->top_k == 0 || rank[i] < o->top_k ? exp(((double)logits[i] - best) / (double)o->temperature) : 0.0;
        total += w[i];
    }
    for (int i = 0; i < V; i++) {
        double above = 0.0; /* mass of those before i: i is needed as long as that is less than p */
        for (int j = 0; j < V; j++) above += rank[j] < rank[i] ? w[j] : 0.0;
        const bool in_top_p = o->top_p >= 1.0f || rank[i] == 0 || above < (double)o->top_p * total;
        p[i] = in_top_p && w[i] >= (double)o->min_p ? w[i] : 0.0;
        kept += p[i];
    }
    for (int i = 0; i < V; i++) p[i] /= kept;
}

static void compare(sg_sampler_options o, const float *logits) {
    double p[V];
    int count[V] = { 0 };
    brute_force(&o, logits, p);
    sg_sampler *s = make(o, V);
    for (int i = 0; i < DRAWS; i++) {
        const int32_t id = sg_sampler_sample(s, logits);
        ck_assert(id >= 0 && id < V);
        count[id]++;
    }
    sg_sampler_destroy(&s);
    for (int i = 0; i < V; i++) {
        const double sigma = sqrt(p[i] * (1.0 - p[i]) * DRAWS);
        ck_assert_msg(fabs(count[i] - p[i] * DRAWS) <= 5.0 * sigma,
                      "token %d: %d draws, probability %g (T %g k %d p %g min %g)", i, count[i], p[i],
                      (double)o.temperature, o.top_k, (double)o.top_p, (double)o.min_p);
        ck_assert((count[i] > 0) == (p[i] > 0.0));
    }
}

/* Flat enough that each token that is kept shows up; with ties. */
static void flat_logits(float *logits) {
    uint32_t x = 99;
    for (int i = 0; i < V; i++) {
        x = x * 1664525u + 1013904223u;
        logits[i] = (float)((int)((x >> 8) % 17) - 8) / 4.0f;
    }
}

START_TEST(filters) {
    static const int32_t top_k[] = { 0, 1, 5, V - 1, V, 1000 };
    static const float top_p[] = { 1.0f, 0.5f, 0.9f, 0.0f }, min_p[] = { 0.0f, 0.3f, 1.0f },
                       temperature[] = { 1.0f, 0.7f, 3.0f };
    float logits[V];
    flat_logits(logits);
    for (int k = 0; k < 6; k++) {
        for (int p = 0; p < 4; p++) {
            for (int m = 0; m < 3; m++) {
                sg_sampler_options o = off;
                o.top_k = top_k[k];
                o.top_p = top_p[p];
                o.min_p = min_p[m];
                o.temperature = temperature[(k + p + m) % 3];
                compare(o, logits);
            }
        }
    }
}
END_TEST

START_TEST(top_k_keeps_lower_ids_among_equals) {
    float logits[V];
    for (int i = 0; i < V; i++) logits[i] = i == 9 ? 1.0f : 0.5f;
    sg_sampler_options o = off;
    o.top_k = 3;
    o.temperature = 100.0f;
    sg_sampler *s = make(o, V);
    bool seen[V] = { false };
    for (int i = 0; i < 1000; i++) seen[sg_sampler_sample(s, logits)] = true;
    for (int i = 0; i < V; i++) ck_assert_int_eq(seen[i], i == 9 || i == 0 || i == 1);
    sg_sampler_destroy(&s);
}
END_TEST

/* Distances of 1e30 and more overflow nothing. */
START_TEST(cold_temperature) {
    float logits[V];
    flat_logits(logits);
    logits[5] = 3.0f;
    sg_sampler_options o = off;
    o.temperature = 1e-30f;
    ck_assert_int_eq(sample_once(o, logits, V), 5);
    o.temperature = 0.0f;
    ck_assert_int_eq(sample_once(o, logits, V), 5);
    logits[2] = 3.0f; /* among equals greedy takes the lowest id */
    ck_assert_int_eq(sample_once(o, logits, V), 2);
}
END_TEST

START_TEST(exponential) {
    for (int i = 0; i <= 200000; i++) {
        const double x = i < 100000 ? -708.0 * i / 100000.0 : -ldexp(i, -18 - i % 40);
        const long double want = expl((long double)x), got = (long double)sg_sampler_exp(x);
        ck_assert_msg(fabsl(got - want) <= 2.0L * 0x1p-52L * want, "e^%.17g: %.17Lg, not %.17Lg", x, got, want);
    }
    ck_assert(sg_sampler_exp(0.0) == 1.0 && sg_sampler_exp(-0.0) == 1.0);
    ck_assert(sg_sampler_exp(-709.0) == 0.0 && sg_sampler_exp(-INFINITY) == 0.0 && sg_sampler_exp(NAN) == 0.0);
}
END_TEST

START_TEST(not_finite) {
    float logits[V];
    sg_sampler_options greedy = off, warm = off;
    greedy.temperature = 0.0f;
    for (int i = 0; i < V; i++) logits[i] = NAN;
    ck_assert_int_eq(sample_once(greedy, logits, V), 0);
    compare(off, (const float[V]) { 0 }); /* all equal */
    for (int seed = 0; seed < 50; seed++) {
        warm.seed = (uint64_t)seed;
        const int32_t id = sample_once(warm, logits, V);
        ck_assert(id >= 0 && id < V);
    }
    for (int i = 0; i < V; i++) logits[i] = -INFINITY;
    ck_assert_int_eq(sample_once(greedy, logits, V), 0);
    logits[11] = -1e30f;
    logits[3] = NAN;
    ck_assert_int_eq(sample_once(greedy, logits, V), 11);
    ck_assert_int_eq(sample_once(warm, logits, V), 11);
    logits[4] = logits[17] = INFINITY;
    ck_assert_int_eq(sample_once(greedy, logits, V), 4);
    bool seen[V] = { false };
    for (int seed = 0; seed < 50; seed++) {
        warm.seed = (uint64_t)seed;
        seen[sample_once(warm, logits, V)] = true;
    }
    for (int i = 0; i < V; i++) ck_assert_int_eq(seen[i], i == 4 || i == 17);
}
END_TEST

/* ---- penalties ---- */

/* Greedy with penalties by recounting the window for each token. */
static int32_t greedy_by_hand(const sg_sampler_options *o, const float *logits, const int32_t *history, int n) {
    int32_t best = 0;
    float best_logit = -INFINITY;
    const int from = o->penalty_last_n < 0 || o->penalty_last_n > n ? 0 : n - o->penalty_last_n;
    for (int32_t i = 0; i < V; i++) {
        int count = 0;
        for (int j = from; j < n; j++) count += history[j] == i;
        float x = logits[i];
        if (count > 0) {
            x = x > 0.0f ? x / o->repeat_penalty : x * o->repeat_penalty;
            x -= (float)count * o->frequency_penalty + o->presence_penalty;
        }
        if (x > best_logit) {
            best = i;
            best_logit = x;
        }
    }
    return best;
}

START_TEST(penalties_follow_the_window) {
    static const int32_t last_n[] = { -1, 0, 1, 3, 64, 1 << 20 };
    static const float values[][3] = {
        { 1.5f, 0.0f, 0.0f }, { 1.0f, 0.7f, 0.0f }, { 1.0f, 0.0f, 0.3f }, { 1.2f, 0.2f, 0.1f }, { 0.5f, 0.0f, -1.0f }
    };
    float logits[V];
    flat_logits(logits);
    for (int w = 0; w < 6; w++) {
        for (int v = 0; v < 5; v++) {
            sg_sampler_options o = off;
            o.temperature = 0.0f;
            o.penalty_last_n = last_n[w];
            o.repeat_penalty = values[v][0];
            o.presence_penalty = values[v][1];
            o.frequency_penalty = values[v][2];
            sg_sampler *s = make(o, V);
            int32_t history[64];
            int n = 0;
            for (; n < 5; n++) {
                history[n] = n * 7 % V;
                sg_sampler_accept(s, history[n]);
            }
            sg_sampler_accept(s, -1); /* no tokens: ignored */
            sg_sampler_accept(s, V);
            for (; n < 64; n++) {
                history[n] = sg_sampler_sample(s, logits);
                ck_assert_int_eq(history[n], greedy_by_hand(&o, logits, history, n));
            }
            sg_sampler_destroy(&s);
        }
    }
}
END_TEST

/* ---- misuse ---- */

static void refused(sg_sampler_options o, uint32_t n_vocab, const char *word) {
    sg_sampler *s = (sg_sampler *)&o;
    sg_error err = { 0 };
    ck_assert_int_eq(sg_sampler_create(&o, n_vocab, &s, &err), SG_E_ARG);
    ck_assert_int_eq(err.code, SG_E_ARG);
    ck_assert_ptr_null(s);
    ck_assert_msg(strstr(err.message, word) != NULL, "'%s' lacks '%s'", err.message, word);
}

START_TEST(bad_options) {
    refused(off, 0, "vocabulary");
    refused(off, UINT32_MAX, "vocabulary");
#define REFUSE(field, value)                                                                                           \
    do {                                                                                                               \
        sg_sampler_options o = off;                                                                                    \
        o.field = value;                                                                                               \
        refused(o, V, #field);                                                                                         \
    } while (0)
    REFUSE(temperature, -0.1f);
    REFUSE(temperature, NAN);
    REFUSE(temperature, INFINITY);
    REFUSE(top_k, -1);
    REFUSE(top_p, -0.1f);
    REFUSE(top_p, 1.1f);
    REFUSE(top_p, NAN);
    REFUSE(min_p, NAN);
    REFUSE(min_p, 1.5f);
    REFUSE(repeat_penalty, 0.0f);
    REFUSE(repeat_penalty, INFINITY);
    REFUSE(presence_penalty, NAN);
    REFUSE(frequency_penalty, INFINITY);
    REFUSE(penalty_last_n, -2);
    REFUSE(penalty_last_n, INT32_MAX);
#undef REFUSE
    ck_assert_int_eq(sg_sampler_create(NULL, V, NULL, NULL), SG_E_ARG);
}
END_TEST

START_TEST(defaults_and_short_structs) {
    float rows[3][N];
    fill_rows(rows);
    sg_sampler *a = NULL, *b = NULL;
    sg_sampler_options o = SG_SAMPLER_OPTIONS_INIT;
    o.struct_size = offsetof(sg_sampler_options, temperature); /* a program built before the other fields were there */
    o.temperature = -5.0f;
    ck_assert_int_eq(sg_sampler_create(NULL, N, &a, NULL), SG_OK);
    ck_assert_int_eq(sg_sampler_create(&o, N, &b, NULL), SG_OK);
    for (int i = 0; i < 16; i++) {
        const int32_t id = sg_sampler_sample(a, rows[i % 3]);
        ck_assert_int_eq(id, goldens[0].ids[i]);
        ck_assert_int_eq(sg_sampler_sample(b, rows[i % 3]), id);
    }
    sg_sampler_destroy(&a);
    sg_sampler_destroy(&a);
    sg_sampler_destroy(&b);
    sg_sampler_destroy(NULL);
    sg_sampler_accept(NULL, 1);
    ck_assert_int_eq(sg_sampler_sample(NULL, rows[0]), -1);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("sampler");
    TCase *t = tcase_create("sampler");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, golden_sequence, 0, sizeof goldens / sizeof goldens[0]);
    tcase_add_test(t, seed_matters);
    tcase_add_test(t, filters);
    tcase_add_test(t, top_k_keeps_lower_ids_among_equals);
    tcase_add_test(t, cold_temperature);
    tcase_add_test(t, exponential);
    tcase_add_test(t, not_finite);
    tcase_add_test(t, penalties_follow_the_window);
    tcase_add_test(t, bad_options);
    tcase_add_test(t, defaults_and_short_structs);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
