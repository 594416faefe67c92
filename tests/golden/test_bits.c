/* The promise of kernels.h on a whole model: logits are the same to the bit for 1 to 4 threads, for a prompt fed whole, in
 * batches or pieces of 1, 7 and 64 tokens, and in every tier; over more keys than one segment of attention holds, and for every
 * type of KV cache. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "neuron_engine/attention.h"
#include "runtime/base/cpu.h"
#include "tests/tiers.h"

#define TOKENS (SG_KEY_SEGMENT + 90)
#define KEPT 40 /* rows of logits compared, behind the border of the segments */

static sg_model *open_demo(const char *tier) {
    char path[1024];
    snprintf(path, sizeof path, "%s/models/demo/stories-drelu-5M.gguf", getenv("SG_SOURCE_ROOT"));
    sg_model_options o = SG_MODEL_OPTIONS_INIT;
    o.cpu_mask = tier;
    sg_model *m = NULL;
    sg_error err = { 0 };
    ck_assert_msg(sg_model_open(path, &o, &m, &err) == SG_OK, "%s", err.message);
    return m;
}

typedef struct way {
    uint32_t threads, batch;
    size_t chunk;
} way;

/* Logits of the last KEPT tokens, [KEPT][n_vocab], caller frees. */
static float *evaluate(sg_model *m, sg_kv_type kv, const way *w) {
    const size_t n_vocab = sg_model_get_info(m)->n_vocab;
    int32_t ids[TOKENS];
    for (uint32_t i = 0; i < TOKENS; i++) ids[i] = (int32_t)((i * 2654435761u >> 8) % n_vocab);
    sg_session_options o = SG_SESSION_OPTIONS_INIT;
    o.n_ctx = TOKENS;
    o.n_threads = w->threads;
    o.n_batch = w->batch;
    o.kv_type = kv;
    sg_session *s = NULL;
    sg_error err = { 0 };
    ck_assert_msg(sg_session_create(m, &o, &s, &err) == SG_OK, "%s", err.message);
    float *out = malloc(KEPT * n_vocab * sizeof *out);
    for (size_t at = 0, n; at < TOKENS; at += n) {
        n = TOKENS - at < w->chunk ? TOKENS - at : w->chunk;
        const size_t end = at + n, first = TOKENS - KEPT, keep = end <= first ? 1 : end - (at > first ? at : first);
        ck_assert_msg(sg_session_feed(s, ids + at, n, keep, &err) == SG_OK, "%s", err.message);
        if (end > first) memcpy(out + (end - keep - first) * n_vocab, sg_session_logits(s, 0), keep * n_vocab * sizeof *out);
    }
    sg_session_destroy(&s);
    return out;
}

static void check_ways(const char *tier, sg_kv_type kv, const way *ways, size_t n, float **want) {
    sg_model *m = open_demo(tier);
    const size_t bytes = KEPT * sg_model_get_info(m)->n_vocab * sizeof **want;
    for (size_t i = 0; i < n; i++) {
        float *out = evaluate(m, kv, &ways[i]);
        if (*want) {
            ck_assert_msg(memcmp(out, *want, bytes) == 0, "tier %s, KV type %d: logits differ with %u threads, batch %u, chunks of %zu",
                          sg_model_get_info(m)->kernel_tier, (int)kv, ways[i].threads, ways[i].batch, ways[i].chunk);
            free(out);
        } else {
            *want = out;
        }
    }
    sg_model_close(&m);
}

static const way all_ways[] = { { 1, 0, TOKENS },   { 2, 0, TOKENS },  { 3, 0, TOKENS }, { 4, 0, TOKENS }, { 2, 1, TOKENS },
                                { 3, 7, TOKENS },   { 1, 64, TOKENS }, { 4, 512, TOKENS }, { 1, 0, 1 },    { 4, 0, 1 },
                                { 2, 0, 7 },        { 3, 0, 64 } };

START_TEST(same_bits) {
    static const way tier_ways[] = { { 2, 0, 64 } };
    float *want = NULL;
    check_ways(NULL, (sg_kv_type)_i, all_ways, sizeof all_ways / sizeof *all_ways, &want);
    /* The reference is slow, and unit/attention compares all types with it. */
    for (size_t i = _i == SG_KV_F16 ? 0 : 1; i < N_TIER_NAMES; i++) {
        uint32_t flags = sg_cpu_detect();
        if (sg_cpu_mask(&flags, tier_names[i], NULL) == SG_OK) check_ways(tier_names[i], (sg_kv_type)_i, tier_ways, 1, &want);
    }
    free(want);
}
END_TEST

/* What the types of the cache cost: the relative squared error of the logits against F32. An 8-bit code of a block is off by at
 * most 1/254 of its largest value. */
START_TEST(kv_types_are_close) {
    sg_model *m = open_demo(NULL);
    const size_t n = KEPT * sg_model_get_info(m)->n_vocab;
    float *out[SG_KV_TYPES];
    for (int type = 0; type < SG_KV_TYPES; type++) out[type] = evaluate(m, (sg_kv_type)type, &all_ways[1]);
    double error[SG_KV_TYPES] = { 0 }, size = 0;
    for (size_t i = 0; i < n; i++) {
        size += (double)out[SG_KV_F32][i] * out[SG_KV_F32][i];
        for (int type = 0; type < SG_KV_TYPES; type++) {
            const double d = (double)out[type][i] - out[SG_KV_F32][i];
            error[type] += d * d;
        }
    }
    printf("NMSE against KV F32: F16 %.2g, Q8_0 %.2g\n", error[SG_KV_F16] / size, error[SG_KV_Q8_0] / size);
    ck_assert_double_le(error[SG_KV_F16], 1e-4 * size);
    ck_assert_double_le(error[SG_KV_Q8_0], 1e-4 * size);
    ck_assert_double_gt(error[SG_KV_F16], 0); /* else the option did nothing */
    ck_assert_double_gt(error[SG_KV_Q8_0], error[SG_KV_F16]);
    for (int type = 0; type < SG_KV_TYPES; type++) free(out[type]);
    sg_model_close(&m);
}
END_TEST

int main(void) {
    Suite *s = suite_create("bits");
    TCase *t = tcase_create("bits");
    tcase_set_timeout(t, 0);
    tcase_add_loop_test(t, same_bits, 0, SG_KV_TYPES);
    tcase_add_test(t, kv_types_are_close);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK); /* OpenMP teams do not survive a fork */
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
