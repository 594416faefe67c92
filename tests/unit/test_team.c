/* Thread team: running, handing out work, barrier. Must hold with fewer threads than asked for too (OMP_THREAD_LIMIT): Meson runs this
 * program a second time under a limit of two. */
#include "runtime/base/team.h"

#include <check.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST 8
static const uint32_t widths[] = { 1, 2, 3, MOST };

static sg_team *make(uint32_t n) {
    sg_team *t = NULL;
    sg_error err = { 0 };
    ck_assert_msg(sg_team_create(n, &t, &err) == SG_OK, "%s", err.message);
    return t;
}

/* Threads that a team of n really gets. */
static uint32_t granted(uint32_t n) {
    const char *limit = getenv("OMP_THREAD_LIMIT");
    const uint32_t most = limit ? (uint32_t)strtoul(limit, NULL, 10) : MOST;
    return n < most ? n : most;
}

/* Ranges handed out between barriers: every unit exactly once, pieces no smaller than asked for but the last. */
typedef struct ranges {
    sg_team *team;
    atomic_uint seen[2000];
    atomic_uint small; /* pieces below `least` */
} ranges;

static const uint32_t totals[] = { 1, 0, 7, 8, 63, 64, 65, 1000, 1999 }, leasts[] = { 1, 3, 8, 64 };
enum { N_TOTALS = sizeof totals / sizeof *totals, N_LEASTS = sizeof leasts / sizeof *leasts };

static void take_all(void *arg, uint32_t thread) {
    (void)thread;
    ranges *r = arg;
    for (int a = 0; a < N_TOTALS; a++)
        for (int b = 0; b < N_LEASTS; b++) {
            uint32_t lo, hi;
            while (sg_team_take(r->team, totals[a], leasts[b], &lo, &hi)) {
                if (hi - lo < leasts[b] && hi < totals[a]) atomic_fetch_add(&r->small, 1);
                for (uint32_t i = lo; i < hi; i++) atomic_fetch_add(&r->seen[i], 1);
            }
            sg_team_barrier(r->team);
        }
}

START_TEST(ranges_are_taken_once) {
    ranges *r = calloc(1, sizeof *r);
    r->team = make(widths[_i]);
    for (int run = 0; run < 3; run++) sg_team_run(r->team, take_all, r);
    for (uint32_t i = 0; i < 2000; i++) {
        uint32_t want = 0;
        for (int a = 0; a < N_TOTALS; a++) want += 3 * N_LEASTS * (i < totals[a]);
        ck_assert_uint_eq(atomic_load(&r->seen[i]), want);
    }
    ck_assert_uint_eq(atomic_load(&r->small), 0);
    sg_team_destroy(&r->team);
    free(r);
}
END_TEST

/* Pinned: each thread on one core while it works, the caller free again after. */
typedef struct placed {
    sg_team *team;
    int cores[MOST]; /* that the thread may use */
} placed;

static int usable_cores(void) {
    cpu_set_t set;
    CPU_ZERO(&set);
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 0;
}

static void count_cores(void *arg, uint32_t thread) { ((placed *)arg)->cores[thread] = usable_cores(); }

START_TEST(pinning_is_undone) {
    const int all = usable_cores();
    if (all < 2) return;
    placed p = { .team = make((uint32_t)_i) };
    sg_team_pin(p.team, true);
    sg_team_run(p.team, count_cores, &p);
    for (uint32_t i = 0; i < sg_team_size(p.team); i++) ck_assert_int_eq(p.cores[i], 1);
    ck_assert_int_eq(usable_cores(), all);
    sg_team_pin(p.team, false);
    sg_team_run(p.team, count_cores, &p);
    for (uint32_t i = 0; i < sg_team_size(p.team); i++) ck_assert_int_eq(p.cores[i], all);
    sg_team_destroy(&p.team);
}
END_TEST

typedef struct visits {
    sg_team *team;
    atomic_uint count[MOST];
} visits;

static void visit(void *arg, uint32_t thread) {
    visits *v = arg;
    if (thread < MOST) atomic_fetch_add(&v->count[thread], 1);
}

START_TEST(every_thread_runs_once) {
    const uint32_t n = widths[_i], real = granted(n);
    visits v = { .team = make(n) };
    for (int run = 0; run < 20; run++) sg_team_run(v.team, visit, &v);
    for (uint32_t i = 0; i < MOST; i++) ck_assert_uint_eq(atomic_load(&v.count[i]), i < real ? 20 : 0);
    ck_assert_uint_eq(sg_team_size(v.team), real);
    sg_team_destroy(&v.team);
    ck_assert_ptr_null(v.team);
    sg_team_destroy(&v.team);
}
END_TEST

/* Plain (not atomic) memory, written before and read after a barrier: what the engine does with its buffers. */
typedef struct rounds {
    sg_team *team;
    uint32_t n_rounds;
    uint32_t cell[MOST][16]; /* one cache line each */
    atomic_uint wrong;
} rounds;

static void relay(void *arg, uint32_t thread) {
    rounds *r = arg;
    const uint32_t n = sg_team_size(r->team);
    for (uint32_t round = 1; round <= r->n_rounds; round++) {
        /* now and then one thread is much later than the others, so that these stop spinning and sleep */
        if (round % 32 == 0 && round / 32 % n == thread)
            for (volatile uint32_t k = 0; k < 100000; k++) {}
        r->cell[thread][0] = round;
        sg_team_barrier(r->team);
        for (uint32_t i = 0; i < n; i++)
            if (r->cell[i][0] != round) atomic_fetch_add(&r->wrong, 1);
        sg_team_barrier(r->team); /* nobody writes the next round while others read this one */
    }
}

START_TEST(barrier_keeps_rounds_apart) {
    rounds r = { .team = make(widths[_i]), .n_rounds = 200 };
    for (int run = 0; run < 2; run++) sg_team_run(r.team, relay, &r);
    ck_assert_uint_eq(atomic_load(&r.wrong), 0);
    for (uint32_t i = 0; i < sg_team_size(r.team); i++) ck_assert_uint_eq(r.cell[i][0], r.n_rounds);
    sg_team_destroy(&r.team);
}
END_TEST

/* A job as the engine has them: the threads fill what they take, then all sum the whole. */
typedef struct sums {
    sg_team *team;
    uint32_t values[1000];
    uint64_t sum[MOST];
} sums;

static void fill_and_sum(void *arg, uint32_t thread) {
    sums *s = arg;
    uint32_t lo, hi;
    while (sg_team_take(s->team, 1000, 8, &lo, &hi))
        for (uint32_t i = lo; i < hi; i++) s->values[i] += i;
    sg_team_barrier(s->team);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < 1000; i++) sum += s->values[i];
    s->sum[thread] = sum;
}

START_TEST(shares_meet_at_the_barrier) {
    sums s = { .team = make(widths[_i]) };
    for (uint64_t run = 1; run <= 10; run++) {
        sg_team_run(s.team, fill_and_sum, &s);
        for (uint32_t i = 0; i < sg_team_size(s.team); i++) ck_assert_uint_eq(s.sum[i], run * 499500);
    }
    sg_team_destroy(&s.team);
}
END_TEST

START_TEST(sizes_are_checked) {
    sg_team *t = NULL;
    sg_error err = { 0 };
    ck_assert_int_eq(sg_team_create(0, &t, &err), SG_E_ARG);
    ck_assert_int_eq(sg_team_create(1025, &t, &err), SG_E_ARG);
    ck_assert_str_eq(err.message, "number of threads 1025 is not between 1 and 1024");
    ck_assert_ptr_null(t);
}
END_TEST

int main(void) {
    Suite *s = suite_create("team");
    TCase *tc = tcase_create("team");
    const int n = sizeof widths / sizeof *widths;
    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, ranges_are_taken_once, 0, n);
    tcase_add_loop_test(tc, pinning_is_undone, 1, 3);
    tcase_add_loop_test(tc, every_thread_runs_once, 0, n);
    tcase_add_loop_test(tc, barrier_keeps_rounds_apart, 0, n);
    tcase_add_loop_test(tc, shares_meet_at_the_barrier, 0, n);
    tcase_add_test(tc, sizes_are_checked);
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    const int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
