/* Experts as neuron bundles that are not all in RAM (ffn_experts_away.c) against the same layer in RAM, bit for bit: slots, areas, threads, batches, ranges;
 * and parts that cannot be read, whose clusters have no live neurons, so that the run ends with its error and nothing else. Loop variable: the case. */
#include <stdio.h>

#include "neuron_engine/ffn_home.h"
#include "tests/io/expect.h"
#include "tests/io/temp.h"
#include "tests/unit/ffn_fixture.h"

#define EXPERTS 6u
#define USED 2u
#define N_FF 75u
#define FAR 3u /* blocks before the layer in the file */

static const uint32_t expert[TOKENS * USED] = { 0, 1, 1, 3, 0, 2, 2, 5, 0, 3, 1, 4, 0, 3 };
static const float weight[TOKENS * USED] = { 0.7f, 0.3f, 0.123f, 1.9f, -0.4f, 2.5f, 1, 1, 0.25f, 0.5f, 0.9f, 0.1f, 3, 0.01f };

typedef struct away {
    net m;
    temp_dir dir;
    char path[600];
    sg_expert_store s;
    sg_expert_home home;
    sg_ffn_store ffn_store;
    sg_ffn_layer layer;
    sg_kernels kernels;
    sg_ffn f;
    sg_waited waited[4];
    sg_team *team;
    void *tables, *slots, *landing, *memory;
    sg_acts x;
    float *y;
    uint32_t at, n; /* tokens of the run */
} away;

static uint64_t offset_of(const away *a, uint32_t e, uint32_t c) {
    return FAR * SG_STREAM_BLOCK + (e * a->m.shape.per_expert + c) * a->m.shape.cluster_bytes;
}

static void open_store(away *a, const sg_stream_options *o, uint32_t n_slots, uint32_t n_reads) {
    const char *const path = a->path;
    const size_t bytes = a->m.shape.per_expert * a->m.shape.cluster_bytes;
    a->home = (sg_expert_home) { .n_expert = EXPERTS, .in_place = true, .cache.n_slots = n_slots };
    a->home.slice[0] = (sg_expert_slice) { .offset = offset_of(a, 0, 0), .apart = bytes, .bytes = bytes };
    a->s = (sg_expert_store) { .homes = &a->home, .n_homes = 1, .n_reads = n_reads };
    a->s.land_bytes = sg_expert_home_init(&a->home);
    a->home.slot_bytes = a->s.land_bytes;
    ok(sg_stream_create(o, NULL, &a->s.stream, err));
    ok(sg_stream_open(a->s.stream, &path, 1, err));
    sg_carver c = { 0 };
    sg_expert_store_lay_out(&a->s, &c);
    a->tables = sg_aligned_calloc(64, c.used, 1);
    a->slots = sg_aligned_calloc(SG_STREAM_BLOCK, n_slots + 1, a->s.land_bytes);
    a->landing = sg_aligned_calloc(SG_STREAM_BLOCK, n_reads, a->s.land_bytes);
    ck_assert(a->tables && a->slots && a->landing);
    c = (sg_carver) { a->tables, 0 };
    sg_expert_store_lay_out(&a->s, &c);
    a->home.arena = a->slots;
    for (uint32_t i = 0; i < n_reads; i++) a->s.reads[i].memory = (uint8_t *)a->landing + i * a->s.land_bytes;
    sg_expert_store_clear(&a->s);
}

static away *create(int i, const sg_stream_options *o, uint32_t n_slots, uint32_t n_reads, uint32_t threads) {
    away *a = calloc(1, sizeof *a);
    sg_bundle_layout shape = case_shape(i);
    shape.n_expert = EXPERTS;
    a->m = net_make(shape, NULL, NULL, N_FF);
    a->x = acts_make(TOKENS, K, 1);
    temp_open(&a->dir);
    snprintf(a->path, sizeof a->path, "%s/experts", a->dir.path);
    FILE *file = fopen(a->path, "wb");
    ck_assert(file && fseek(file, (long)offset_of(a, 0, 0), SEEK_SET) == 0);
    ck_assert_uint_eq(fwrite(a->m.data, a->m.shape.cluster_bytes, a->m.shape.n_clusters, file), a->m.shape.n_clusters);
    ck_assert_int_eq(fclose(file), 0);
    open_store(a, o, n_slots, n_reads);
    const sg_bundle_layout *l = &a->m.shape;
    a->kernels = kernels_of(false);
    const sg_neuron_kernel *const *of = a->kernels.neuron;
    a->layer = (sg_ffn_layer) { .bundle = { *l, NULL, of[l->gate_type], of[l->up_type], of[l->down_type], NULL }, .n_used = USED, .experts = &a->home };
    ok(sg_team_create(threads, &a->team, err));
    a->f = (sg_ffn) { .kernels = &a->kernels, .layers = &a->layer, .act = SG_ACT_RELU, .n_unit = 1, .n_batch = TOKENS, .n_threads = sg_team_size(a->team),
                      .k = K, .waited = a->waited, .store = &a->ffn_store };
    sg_carver c = { 0 };
    sg_ffn_lay_out(&a->f, &c);
    a->memory = sg_aligned_calloc(64, 1, c.used);
    memset(a->memory, 0xff, c.used); /* nothing may count on zeros but the counters */
    c = (sg_carver) { a->memory, 0 };
    sg_ffn_lay_out(&a->f, &c);
    memset(a->f.counts, 0, a->f.n_threads * sizeof *a->f.counts);
    a->y = malloc(TOKENS * (size_t)(K + SPARE) * sizeof *a->y);
    return a;
}

static void destroy(away *a) {
    sg_stream_destroy(&a->s.stream);
    sg_team_destroy(&a->team);
    net_free(&a->m);
    acts_free(&a->x);
    temp_close(&a->dir);
    free(a->tables);
    free(a->slots);
    free(a->landing);
    free(a->memory);
    free(a->y);
    free(a);
}

static void work(void *arg, uint32_t thread) {
    away *a = arg;
    sg_acts some = sg_acts_rows(&a->x, a->at, 1);
    some.n = a->n;
    const sg_ffn_route route = { USED, expert + a->at * USED, weight + a->at * USED, false };
    for (uint32_t t = thread; a->f.x.q && t < some.n; t += sg_team_size(a->team)) sg_lane_acts_fill(&a->f.x, &some, t);
    if (thread == 0) {
        a->f.x.x = some.x;
        sg_ffn_demand(&a->f, 0, &route, a->n);
    }
    sg_team_barrier(a->team);
    sg_ffn_run(&a->f, 0, &some, some.x, &route, a->y + (size_t)a->at * (K + SPARE), K + SPARE, a->team, thread);
}

static void run_some(away *a, uint32_t at, uint32_t n) {
    a->at = at;
    a->n = n;
    for (uint32_t t = at; t < at + n; t++)
        for (uint32_t j = 0; j < K + SPARE; j++) a->y[t * (size_t)(K + SPARE) + j] = GUARD;
    sg_expert_begin(&a->s, n == 1);
    sg_team_run(a->team, work, a);
}

static float *in_ram(const away *a) {
    setup s = { .act = SG_ACT_RELU, .n_used = USED, .expert = expert, .weight = weight };
    return ffn_run(&a->m, &s, &a->x);
}

static void check_tokens(const away *a, const float *want, uint32_t at, uint32_t n) {
    const size_t from = at * (size_t)(K + SPARE), count = n * (size_t)(K + SPARE);
    ck_assert_msg(memcmp(want + from, a->y + from, count * sizeof *want) == 0, "tokens %u to %u have other bits than in RAM", at, at + n - 1);
}

/* slots, areas, threads, tokens at a time; with fewer areas than a batch needs it comes range by range, and again for the down sums. */
static const uint32_t ways[][4] = { { 0, 2, 1, 1 }, { 2, 2, 2, 1 }, { 6, 3, 3, 1 }, { 0, 2, 2, TOKENS }, { 3, 6, 3, TOKENS }, { 1, 2, 1, 3 }, { 6, 2, 2, 2 } };

START_TEST(same_bits_as_in_ram) {
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        const sg_stream_options o = { .engine = SG_IO_FAULT, .faults = "seed=5,delay=40,reorder=8,short=20,eio=10" };
        away *a = create(_i, &o, ways[w][0], ways[w][1], ways[w][2]);
        float *want = in_ram(a);
        for (int round = 0; round < 2; round++)
            for (uint32_t t = 0, n; t < TOKENS; t += n) {
                n = TOKENS - t < ways[w][3] ? TOKENS - t : ways[w][3];
                run_some(a, t, n);
                check_tokens(a, want, t, n);
            }
        ok(sg_stream_failure(a->s.stream, err));
        free(want);
        destroy(a);
    }
}
END_TEST

/* A gate part or a record of each cluster of an expert: tokens that need it end with an error, whatever is in the working memory; the others are right
 * before and after. */
START_TEST(what_cannot_be_read_is_not_live) {
    enum { BAD = 3 };
    for (uint32_t where = 0; where < 2 * 2; where++)
        for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
            char faults[100];
            away *a = create(_i, &(sg_stream_options) { .engine = SG_IO_PREAD }, 0, 2, 1);
            const sg_bundle_layout l = a->m.shape;
            const uint64_t dead = offset_of(a, BAD, where / 2 % l.per_expert) + (where % 2 ? l.cluster_bytes - 1 : 0);
            destroy(a);
            snprintf(faults, sizeof faults, "seed=3,delay=40,dead_at=%llu", (unsigned long long)dead);
            a = create(_i, &(sg_stream_options) { .engine = SG_IO_FAULT, .faults = faults }, ways[w][0], ways[w][1], ways[w][2]);
            float *want = in_ram(a);
            uint32_t failed = 0, good = 0;
            for (uint32_t t = 0, n; t < TOKENS; t += n) {
                bool needs = false;
                n = TOKENS - t < ways[w][3] ? TOKENS - t : ways[w][3];
                for (uint32_t i = 0; i < n * USED; i++) needs = needs || expert[t * USED + i] == BAD;
                memset(a->f.live, 0xff, TOKENS * a->f.ld_cluster * sizeof *a->f.live);
                run_some(a, t, n);
                sg_error e = { 0 };
                ck_assert_int_eq(sg_stream_failure(a->s.stream, &e), needs ? SG_E_IO : SG_OK);
                failed += needs;
                good += !needs;
                if (!needs) {
                    check_tokens(a, want, t, n);
                    continue;
                }
                sg_stream_drain(a->s.stream);
                sg_expert_recover(&a->s);
                sg_stream_recover(a->s.stream);
            }
            ck_assert(failed > 0 && (good > 0 || ways[w][3] > 1));
            free(want);
            destroy(a);
        }
}
END_TEST

int main(void) {
    Suite *s = suite_create("ffn_experts_away");
    TCase *t = tcase_create("away");
    tcase_set_timeout(t, 0);
    tcase_add_loop_test(t, same_bits_as_in_ram, 0, CASES);
    tcase_add_loop_test(t, what_cannot_be_read_is_not_live, 0, CASES);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK); /* OpenMP teams do not survive a fork */
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
