/* The limits of the machine for sg_limits_measure: the loops of kernels/peak.h on a team of threads. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "neuron_engine/kernels/kernels.h"
#include "neuron_engine/kernels/peak.h"
#include "runtime/base/cpu.h"
#include "runtime/base/mem.h"
#include "runtime/base/memavail.h"
#include "runtime/base/team.h"

/* The best of many short passes counts: a busy neighbour takes a core for whole slices of time and leaves gaps. */
enum {
    PASSES = 40,           /* of arithmetic */
    PARTS = 4,             /* of the memory, a pass each */
    ROUNDS = 30,           /* through all parts, each with one stream and with four */
    CHUNK_WORDS = 1 << 17, /* 1 MiB, read in one go */
    MIN_CHUNKS = 128,      /* in all; less might come from a cache */
    USUAL_CHUNKS = 512,    /* in all */
    OWN_CHUNKS = 64        /* of each thread, if that is more: every core may have a cache of its own */
};
#define PASS_SECONDS 4e-3 /* of arithmetic */

/* A thread's own words; a cache line each, so that counting does not slow the others. */
typedef struct probe_thread {
    _Alignas(SG_CACHE_LINE) atomic_uint next; /* first chunk of its share that nobody has taken */
    double best[SG_PEAKS];                    /* operations a second */
    uint64_t sum;
} probe_thread;

typedef struct probe {
    sg_team *team;
    const char *tier;
    uint32_t flags;
    uint64_t *words;
    uint32_t n_chunks; /* of each thread's share */
    double read[2][ROUNDS * PARTS]; /* bytes a second of all threads, by one stream and by four; written by thread 0 */
    probe_thread *threads;
} probe;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static uint64_t *chunk(const probe *p, uint32_t thread, uint32_t i) {
    return p->words + ((size_t)thread * p->n_chunks + i) * CHUNK_WORDS;
}

/* Reads chunks up to `end` of this thread's share, then helps those that are behind, so that a slow core does not hide
 * what the memory gives. */
static void read_pass(probe *p, uint32_t thread, uint32_t threads, uint32_t end, bool four) {
    for (uint32_t v = 0; v < threads; v++) {
        const uint32_t owner = (thread + v) % threads;
        for (uint32_t i; (i = atomic_fetch_add_explicit(&p->threads[owner].next, 1, memory_order_relaxed)) < end;)
            p->threads[thread].sum += sg_read_words(chunk(p, owner, i), CHUNK_WORDS, four, p->flags);
    }
}

static void read_job(void *arg, uint32_t thread) {
    probe *p = arg;
    const uint32_t threads = sg_team_size(p->team);
    /* The first touch puts a page near its owner. */
    memset(chunk(p, thread, 0), 1, (size_t)p->n_chunks * CHUNK_WORDS * sizeof(uint64_t));
    for (uint32_t pass = 0; pass < 2 * ROUNDS * PARTS; pass++) {
        const bool four = pass / PARTS % 2;
        const uint32_t n = pass / (2 * PARTS) * PARTS + pass % PARTS; /* passes of this kind before it */
        const uint32_t from = p->n_chunks * (pass % PARTS) / PARTS, end = p->n_chunks * (pass % PARTS + 1) / PARTS;
        atomic_store(&p->threads[thread].next, from);
        const double start = now(); /* not after the barrier: others may be ahead when this thread wakes up */
        sg_team_barrier(p->team);
        read_pass(p, thread, threads, end, four);
        sg_team_barrier(p->team);
        const double bytes = (double)threads * (end - from) * CHUNK_WORDS * sizeof(uint64_t);
        if (thread == 0) p->read[four][n] = bytes / (now() - start);
    }
}

/* Every thread by its own clock, all of them at the same time: cores may be of different speed. */
static void peak_job(void *arg, uint32_t thread) {
    probe *p = arg;
    for (sg_peak what = 0; what < SG_PEAKS; what++) {
        uint64_t rounds = 256;
        double seconds = 0;
        for (; seconds < PASS_SECONDS / 4 && rounds < UINT64_MAX / 4; rounds *= 2) {
            const double start = now();
            sg_peak_run(p->tier, what, rounds);
            seconds = now() - start;
        }
        for (int pass = 0; pass < PASSES; pass++) {
            sg_team_barrier(p->team);
            const double start = now();
            const double ops = (double)sg_peak_run(p->tier, what, rounds), rate = ops / (now() - start);
            if (rate > p->threads[thread].best[what]) p->threads[thread].best[what] = rate;
        }
    }
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static sg_status measure(probe *p, sg_limits *out, sg_error *err) {
    sg_team_run(p->team, peak_job, p); /* first, since OpenMP may shrink the team */
    const uint32_t threads = sg_team_size(p->team);
    const uint64_t chunk_bytes = CHUNK_WORDS * sizeof(uint64_t), chunks = sg_mem_available("") / 4 / chunk_bytes;
    if (chunks < MIN_CHUNKS || chunks < (uint64_t)threads * PARTS)
        return sg_fail(err, SG_E_NOMEM, "too little memory is available to measure how fast it is read");
    const uint64_t own = threads * OWN_CHUNKS, want = own > USUAL_CHUNKS ? own : USUAL_CHUNKS;
    p->n_chunks = (uint32_t)((want < chunks ? want : chunks) / threads);
    sg_region region;
    const size_t bytes = (size_t)(threads * p->n_chunks * chunk_bytes);
    SG_TRY(sg_region_create(&region, bytes, "measuring how fast it is read", err));
    sg_region_large_pages(&region); /* the limit is without the cost of small pages */
    p->words = region.data;
    sg_team_run(p->team, read_job, p);
    sg_region_destroy(&region);
    enum { N = ROUNDS * PARTS };
    for (int four = 0; four < 2; four++) qsort(p->read[four], N, sizeof p->read[four][0], by_value);
    const double *best = p->read[p->read[1][N - 1] > p->read[0][N - 1]];
    *out = (sg_limits) { p->tier, threads, .read = best[N - 1], .read_plain = p->read[0][N - 1] };
    out->read_median = (best[N / 2 - 1] + best[N / 2]) / 2;
    /* More threads than cores take turns, and each was timed while it had a core. */
    const uint32_t cores = sg_cpu_count();
    const double turns = threads > cores ? (double)cores / threads : 1;
    for (uint32_t t = 0; t < threads; t++) {
        out->int8 += turns * p->threads[t].best[SG_PEAK_INT8];
        out->int8_sum += turns * p->threads[t].best[SG_PEAK_INT8_SUM];
        out->f32 += turns * p->threads[t].best[SG_PEAK_F32];
    }
    return SG_OK;
}

sg_status sg_limits_measure(const char *cpu_mask, uint32_t n_threads, sg_limits *out, sg_error *err) {
    if (!out) return sg_fail(err, SG_E_ARG, "sg_limits_measure: out is NULL");
    *out = (sg_limits) { 0 };
    probe p = { .flags = sg_cpu_detect() };
    uint32_t allowed = p.flags;
    SG_TRY(sg_cpu_mask(&allowed, cpu_mask, err));
    sg_kernels kernels;
    sg_kernels_init(&kernels, allowed);
    p.tier = kernels.tier;
    if (n_threads == 0) n_threads = sg_cpu_count();
    SG_TRY(sg_team_create(n_threads, &p.team, err));
    p.threads = sg_aligned_calloc(SG_CACHE_LINE, n_threads, sizeof *p.threads);
    const sg_status s = p.threads ? measure(&p, out, err) : sg_fail(err, SG_E_NOMEM, "out of memory");
    free(p.threads);
    sg_team_destroy(&p.team);
    return s;
}
