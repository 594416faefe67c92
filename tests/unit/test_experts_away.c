/* Layers whose experts are not all in RAM (experts_away.c) against the same layers in RAM, bit for bit: weight types, batches, threads, slots and
 * landing areas, over files in which matrices begin at any multiple of 32. Loop variable: the types. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io/reader_engine.h"
#include "neuron_engine/experts.h"
#include "tests/io/expect.h"
#include "tests/io/temp.h"
#include "tests/kernels/harness.h"

enum { EXPERTS = 7, USED = 3, TOKENS = 14 };

static sg_kernels kernels;

/* k of gate and up, and of down; more rows than one item, more bytes than one piece, tails where the type allows them. */
typedef struct shape {
    sg_dtype gate, up, down;
    uint32_t k, n_ff;
} shape;
static const shape shapes[] = {
    { SG_DTYPE_F32, SG_DTYPE_F32, SG_DTYPE_F32, 150, 1001 },    { SG_DTYPE_F16, SG_DTYPE_F16, SG_DTYPE_F16, 150, 1001 },
    { SG_DTYPE_BF16, SG_DTYPE_BF16, SG_DTYPE_BF16, 149, 999 },  { SG_DTYPE_Q8_0, SG_DTYPE_Q8_0, SG_DTYPE_Q8_0, 160, 1632 },
    { SG_DTYPE_Q4_0, SG_DTYPE_Q4_0, SG_DTYPE_Q4_0, 160, 1632 }, { SG_DTYPE_Q4_1, SG_DTYPE_Q4_1, SG_DTYPE_Q4_1, 96, 1632 },
    { SG_DTYPE_Q5_0, SG_DTYPE_Q5_0, SG_DTYPE_Q5_0, 96, 1632 },  { SG_DTYPE_Q5_1, SG_DTYPE_Q5_1, SG_DTYPE_Q5_1, 96, 1632 },
    { SG_DTYPE_Q2_K, SG_DTYPE_Q2_K, SG_DTYPE_Q3_K, 256, 1792 }, { SG_DTYPE_Q3_K, SG_DTYPE_Q3_K, SG_DTYPE_Q5_K, 256, 1280 },
    { SG_DTYPE_Q4_K, SG_DTYPE_Q4_K, SG_DTYPE_Q6_K, 256, 1792 }, { SG_DTYPE_Q6_K, SG_DTYPE_Q6_K, SG_DTYPE_Q4_K, 512, 1280 },
    { SG_DTYPE_IQ4_NL, SG_DTYPE_IQ4_NL, SG_DTYPE_Q8_0, 160, 992 }, { SG_DTYPE_MXFP4, SG_DTYPE_MXFP4, SG_DTYPE_MXFP4, 160, 1952 },
    /* gate and up of different types have different items */
    { SG_DTYPE_F32, SG_DTYPE_Q4_0, SG_DTYPE_Q8_0, 160, 992 },   { SG_DTYPE_Q4_0, SG_DTYPE_F32, SG_DTYPE_F16, 160, 992 },
    { SG_DTYPE_Q4_K, SG_DTYPE_Q6_K, SG_DTYPE_Q4_K, 1024, 512 }, { SG_DTYPE_Q8_0, SG_DTYPE_Q5_1, SG_DTYPE_Q4_0, 640, 320 },
    /* many times the piece, few rows */
    { SG_DTYPE_Q8_0, SG_DTYPE_Q8_0, SG_DTYPE_Q8_0, 4096, 96 },  { SG_DTYPE_Q4_0, SG_DTYPE_Q4_0, SG_DTYPE_Q4_0, 64, 32 },
};
enum { SHAPES = sizeof shapes / sizeof *shapes };
static const uint32_t residues[] = { 32, 4064, 0, 96, 512, 3360, 1024, 2080 }; /* of matrices in the file */

typedef struct problem {
    const shape *s;
    sg_matrix m[SG_EXPERT_SLICES];   /* in RAM */
    sg_expert_slice in_file[SG_EXPERT_SLICES];
    float *bias[SG_EXPERT_SLICES];
    float *x, weight[TOKENS * USED];
    uint32_t expert[TOKENS * USED];
    temp_dir dir;
    char path[600];
} problem;

static uint32_t rows_of(const shape *s, int i) { return i == SG_EXPERT_DOWN ? s->k : s->n_ff; }
static uint32_t k_of(const shape *s, int i) { return i == SG_EXPERT_DOWN ? s->n_ff : s->k; }
static sg_dtype type_of(const shape *s, int i) { return i == SG_EXPERT_GATE ? s->gate : i == SG_EXPERT_UP ? s->up : s->down; }

/* The matrices of all experts as a file has them, and packed. */
static void make_matrix(problem *p, int i, FILE *f) {
    const sg_mat_kernel *kernel = kernels.mat[type_of(p->s, i)];
    const uint32_t rows = rows_of(p->s, i), k = k_of(p->s, i);
    const size_t raw_bytes = rows * (size_t)sg_dtype_bytes(sg_dtype_get(kernel->type), k);
    const size_t packed = sg_matrix_bytes(kernel, rows, k), apart = (packed + 63) / 64 * 64;
    uint8_t *data = sg_aligned_calloc(64, EXPERTS, apart), *raw = malloc(raw_bytes);
    const uint64_t at = ((uint64_t)ftell(f) + 4095) / 4096 * 4096 + residues[(size_t)(p->s - shapes + i) % 8];
    ck_assert(data && raw && fseek(f, (long)at, SEEK_SET) == 0);
    for (uint32_t e = 0; e < EXPERTS; e++) {
        h_blocks(kernel->type, raw, (size_t)rows * k, 0);
        if (kernel->pack) kernel->pack(data + e * apart, raw, rows, k);
        else memcpy(data + e * apart, raw, raw_bytes);
        ck_assert_uint_eq(fwrite(raw, 1, raw_bytes, f), raw_bytes);
    }
    free(raw);
    p->m[i] = (sg_matrix) { .kernel = kernel, .data = data, .rows = rows, .k = k, .n = EXPERTS, .apart = apart };
    p->in_file[i] = (sg_expert_slice) { .offset = at, .apart = raw_bytes, .bytes = raw_bytes, .packed = packed };
    p->bias[i] = malloc(EXPERTS * rows * sizeof *p->bias[i]);
    for (uint32_t r = 0; r < EXPERTS * rows; r++) p->bias[i][r] = h_normal();
}

static problem *create(const shape *s) {
    problem *p = calloc(1, sizeof *p);
    p->s = s;
    temp_open(&p->dir);
    snprintf(p->path, sizeof p->path, "%s/experts", p->dir.path);
    FILE *f = fopen(p->path, "wb");
    ck_assert_ptr_nonnull(f);
    for (int i = 0; i < SG_EXPERT_SLICES; i++) make_matrix(p, i, f); /* the last byte of the file is the last expert's */
    ck_assert_int_eq(fclose(f), 0);
    p->x = malloc(TOKENS * s->k * sizeof *p->x);
    for (uint32_t i = 0; i < TOKENS * s->k; i++) p->x[i] = h_normal();
    for (uint32_t t = 0; t < TOKENS; t++) {
        bool taken[EXPERTS] = { false };
        for (uint32_t n = 0; n < USED;) {
            const uint32_t e = h_below(t % 3 == 0 ? USED + 1 : EXPERTS); /* some are used often */
            n += !taken[e];
            taken[e] = true;
        }
        for (uint32_t e = 0, n = 0; e < EXPERTS; e++)
            if (taken[e]) p->expert[t * USED + n++] = e;
        for (uint32_t n = 0; n < USED; n++) p->weight[t * USED + n] = h_uniform(0.1f, 1);
    }
    return p;
}

static void destroy(problem *p) {
    for (int i = 0; i < SG_EXPERT_SLICES; i++) {
        free((void *)(uintptr_t)p->m[i].data);
        free(p->bias[i]);
    }
    free(p->x);
    temp_close(&p->dir);
    free(p);
}

/* ---- a layer away ---- */

typedef struct away {
    sg_expert_store s;
    sg_expert_home home;
    void *tables, *slots, *landing;
} away;

static void open_away(away *a, const problem *p, const sg_stream_options *o, uint32_t n_slots, uint32_t n_reads) {
    const char *const path = p->path;
    *a = (away) { .s = { .homes = &a->home, .n_homes = 1, .n_reads = n_reads }, .home = { .n_expert = EXPERTS, .cache.n_slots = n_slots } };
    memcpy(a->home.slice, p->in_file, sizeof a->home.slice);
    ok(sg_stream_create(o, NULL, &a->s.stream, err));
    ok(sg_stream_open(a->s.stream, &path, 1, err));
    a->s.land_bytes = sg_expert_home_init(&a->home);
    sg_carver c = { 0 };
    sg_expert_store_lay_out(&a->s, &c);
    a->tables = sg_aligned_calloc(64, c.used, 1);
    a->slots = sg_aligned_calloc(64, n_slots + 1, a->home.slot_bytes);
    a->landing = sg_aligned_calloc(4096, n_reads, a->s.land_bytes);
    ck_assert(a->tables && a->slots && a->landing);
    c = (sg_carver) { a->tables, 0 };
    sg_expert_store_lay_out(&a->s, &c);
    a->home.arena = a->slots;
    for (uint32_t i = 0; i < n_reads; i++) a->s.reads[i].memory = (uint8_t *)a->landing + i * a->s.land_bytes;
    sg_expert_store_clear(&a->s);
}

static void close_away(away *a) {
    sg_stream_destroy(&a->s.stream);
    free(a->tables);
    free(a->slots);
    free(a->landing);
}

/* ---- runs ---- */

typedef struct job {
    sg_experts *e;
    const sg_experts_layer *l;
    sg_ffn_route route;
    sg_acts x;
    float *y;
    size_t ldy;
    sg_team *team;
} job;

static void work(void *arg, uint32_t thread) {
    job *j = arg;
    if (j->l->home) {
        if (thread == 0) sg_experts_demand(j->e, j->l->home, &j->route, j->x.n);
        sg_team_barrier(j->team);
    }
    sg_experts_run(j->e, j->l, &j->route, &j->x, j->y, j->ldy, j->team, thread);
}

/* Working memory for a layer, and the layer itself; matrices that are away are nothing but kernel and shape. */
typedef struct bench {
    sg_experts e;
    sg_experts_layer l;
    sg_matrix m[SG_EXPERT_SLICES];
    sg_acts x;
    sg_waited waited[8];
    void *memory;
    sg_team *team;
} bench;

static void open_bench(bench *b, const problem *p, away *a, uint32_t batch, uint32_t threads, bool precise, bool biased) {
    *b = (bench) { .e = { .kernels = &kernels, .act = SG_ACT_SILU, .precise = precise, .n_expert = EXPERTS, .n_used = USED, .n_batch = batch, .k = p->s->k,
                          .n_ff = p->s->n_ff, .n_threads = threads, .waited = b->waited } };
    memcpy(b->m, p->m, sizeof b->m);
    for (int i = 0; a && i < SG_EXPERT_SLICES; i++) {
        const size_t bytes = sg_matrix_bytes(b->m[i].kernel, sg_experts_item_rows(p->in_file[i].bytes / b->m[i].rows), b->m[i].k);
        if (bytes > b->e.item_bytes) b->e.item_bytes = bytes;
        b->m[i].data = NULL;
        b->m[i].apart = 0;
    }
    b->l = (sg_experts_layer) { &b->m[0], &b->m[1], &b->m[2], biased ? p->bias[0] : NULL, biased ? p->bias[1] : NULL, biased ? p->bias[2] : NULL,
                                a ? &a->home : NULL };
    for (int pass = 0; pass < 2; pass++) {
        sg_carver c = { b->memory, 0 };
        sg_experts_lay_out(&b->e, &c);
        sg_acts_lay_out(&b->x, &c, batch, p->s->k, false, precise);
        if (pass == 0) b->memory = sg_aligned_calloc(64, c.used, 1);
        ck_assert_ptr_nonnull(b->memory);
    }
    ok(sg_team_create(threads, &b->team, err));
}

static void close_bench(bench *b) {
    sg_team_destroy(&b->team);
    free(b->memory);
}

/* Tokens from .. from + n - 1. */
static void run_some(bench *b, const problem *p, uint32_t from, uint32_t n, float *y) {
    job j = { &b->e, &b->l, { USED, p->expert + from * USED, p->weight + from * USED }, b->x, y + (size_t)from * p->s->k, p->s->k, b->team };
    j.x.n = n;
    j.x.x = p->x + (size_t)from * p->s->k;
    for (uint32_t i = 0; p->s->k % 32 == 0 && i < n; i++) sg_acts_quantise(&kernels.vec, &j.x, i);
    if (b->l.home) sg_expert_begin(b->l.home->store, n == 1);
    sg_team_run(b->team, work, &j);
}

static void run_all(bench *b, const problem *p, uint32_t batch, float *y) {
    memset(y, 0xff, TOKENS * p->s->k * sizeof *y);
    for (uint32_t t = 0; t < TOKENS; t += batch) run_some(b, p, t, TOKENS - t < batch ? TOKENS - t : batch, y);
}

static float *in_ram(const problem *p, bool precise, bool biased) {
    bench b;
    float *y = malloc(TOKENS * p->s->k * sizeof *y);
    open_bench(&b, p, NULL, TOKENS, 2, precise, biased);
    run_all(&b, p, TOKENS, y);
    close_bench(&b);
    for (uint32_t i = 0; i < TOKENS * p->s->k; i++)
        if (!isfinite(y[i])) ck_abort_msg("value %u is %g", i, (double)y[i]);
    return y;
}

static const struct {
    uint32_t batch, threads, n_slots, n_reads;
    sg_io_engine engine;
    bool buffered, precise, biased;
} ways[] = {
    { 1, 1, 0, 2, SG_IO_PREAD, false, false, true },  { 1, 2, 3, 2, SG_IO_FAULT, false, false, true },  { 1, 3, EXPERTS, 3, SG_IO_URING, false, true, true },
    { 3, 2, 2, 2, SG_IO_FAULT, true, false, true },   { 5, 4, 0, 3, SG_IO_PREAD, true, false, false },  { TOKENS, 1, 1, 2, SG_IO_URING, true, false, true },
    { TOKENS, 3, 4, EXPERTS, SG_IO_FAULT, false, true, true }, { 11, 2, EXPERTS, 4, SG_IO_URING, false, false, true }, { 2, 4, 1, 1, SG_IO_FAULT, false, false, true },
};

START_TEST(same_bits) {
    problem *p = create(&shapes[_i]);
    float *want[2][2], *y = malloc(TOKENS * p->s->k * sizeof *y);
    for (int i = 0; i < 4; i++) want[i / 2][i % 2] = in_ram(p, i / 2, i % 2);
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        away a;
        bench b;
        const sg_stream_options o = { .engine = ways[w].engine, .buffered = ways[w].buffered, .faults = "seed=3,delay=60,reorder=8,short=20,eio=10" };
        open_away(&a, p, &o, ways[w].n_slots, ways[w].n_reads);
        open_bench(&b, p, &a, ways[w].batch, ways[w].threads, ways[w].precise, ways[w].biased);
        for (int round = 0; round < 2; round++) { /* the second time some are in slots */
            run_all(&b, p, ways[w].batch, y);
            const float *right = want[ways[w].precise][ways[w].biased];
            for (uint32_t i = 0; i < TOKENS * p->s->k; i++)
                ck_assert_msg(memcmp(y + i, right + i, sizeof *y) == 0, "%s, %s, way %zu, round %d: token %u, value %u: %a, not %a", p->m[0].kernel->name,
                              p->m[2].kernel->name, w, round, i / p->s->k, i % p->s->k, (double)y[i], (double)right[i]);
        }
        ok(sg_stream_failure(a.s.stream, err));
        ck_assert_uint_gt(a.home.finds.missed, 0);
        ck_assert_uint_eq(a.home.finds.slots > 0, ways[w].n_slots > 0);
        close_bench(&b);
        close_away(&a);
    }
    for (int i = 0; i < 4; i++) free(want[i / 2][i % 2]);
    free(y);
    destroy(p);
}
END_TEST

/* A part of one expert that cannot be read: the run ends and says so; tokens that do without it are right before and after. */
START_TEST(unreadable) {
    problem *p = create(&shapes[_i]);
    float *want = in_ram(p, false, true), *y = malloc(TOKENS * p->s->k * sizeof *y);
    for (int slice = 0; slice < SG_EXPERT_SLICES; slice++)
        for (uint32_t threads = 1; threads < 4; threads++) {
            enum { BAD = 5 };
            away a;
            bench b;
            char faults[100];
            const sg_expert_slice *s = &p->in_file[slice];
            snprintf(faults, sizeof faults, "seed=3,delay=40,dead_at=%llu", (unsigned long long)(s->offset + BAD * s->apart + s->bytes * threads / 4));
            open_away(&a, p, &(sg_stream_options) { .engine = SG_IO_FAULT, .faults = faults }, 3, 2);
            open_bench(&b, p, &a, 2, threads, false, true);
            uint32_t failed = 0;
            for (uint32_t t = 0; t < TOKENS; t += 2) {
                bool needs = false;
                for (uint32_t i = 0; i < 2 * USED; i++) needs = needs || p->expert[t * USED + i] == BAD;
                run_some(&b, p, t, 2, y);
                sg_error e = { 0 };
                ck_assert_int_eq(sg_stream_failure(a.s.stream, &e), needs ? SG_E_IO : SG_OK);
                failed += needs;
                if (needs) {
                    ck_assert_msg(strstr(e.message, "Input/output error") != NULL, "%s", e.message);
                    sg_stream_drain(a.s.stream);
                    sg_expert_recover(&a.s);
                    sg_stream_recover(a.s.stream);
                } else ck_assert_int_eq(memcmp(y + (size_t)t * p->s->k, want + (size_t)t * p->s->k, 2 * p->s->k * sizeof *y), 0);
            }
            ck_assert(failed > 0 && failed < TOKENS / 2);
            close_bench(&b);
            close_away(&a);
        }
    free(want);
    free(y);
    destroy(p);
}
END_TEST

/* All slots are used by a batch, most of whose tokens use others: these have the slots afterwards, though they are read first. */
START_TEST(most_used_stay) {
    problem *p = create(&shapes[_i]);
    float *y = malloc(TOKENS * p->s->k * sizeof *y);
    away a;
    bench b;
    for (uint32_t i = 0; i < TOKENS * USED; i++) p->expert[i] = i / USED < 2 ? i % USED : EXPERTS - USED + i % USED; /* tokens 0 and 1: the first experts */
    open_away(&a, p, &(sg_stream_options) { .engine = SG_IO_PREAD }, USED, EXPERTS);
    open_bench(&b, p, &a, TOKENS, 2, false, true);
    run_some(&b, p, 0, 1, y);
    for (uint32_t e = 0; e < EXPERTS; e++) ck_assert_uint_eq(a.home.resident[e], e < USED);
    run_some(&b, p, 1, TOKENS - 1, y);
    for (uint32_t e = 0; e < EXPERTS; e++) ck_assert_uint_eq(a.home.resident[e], e >= EXPERTS - USED);
    close_bench(&b);
    close_away(&a);
    free(y);
    destroy(p);
}
END_TEST

int main(void) {
    h_init("experts_away");
    sg_kernels_init(&kernels, sg_cpu_detect());
    Suite *s = suite_create("experts_away");
    TCase *t = tcase_create("away");
    tcase_set_timeout(t, 0);
    tcase_add_loop_test(t, same_bits, 0, SHAPES);
    tcase_add_loop_test(t, unreadable, 3, 6);
    tcase_add_loop_test(t, most_used_stay, SHAPES - 1, SHAPES);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK); /* OpenMP teams do not survive a fork */
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
