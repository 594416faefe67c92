/* Thread team: sharing, running, barrier. Must hold with fewer threads than asked for too (OMP_THREAD_LIMIT): Meson runs this
 * program a second time under a limit of two. */
#include "runtime/base/team.h"

#include <check.h>
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

START_TEST(share_covers_exactly) {
    static uint8_t seen[2000];
    const uint32_t totals[] = { 0, 1, 7, 8, 63, 64, 65, 1000, 1999 }, steps[] = { 1, 3, 8, 64 };
    for (size_t a = 0; a < sizeof totals / sizeof *totals; a++)
        for (size_t b = 0; b < sizeof steps / sizeof *steps; b++)
            for (uint32_t n = 1; n <= 17; n++) {
                const uint32_t units = (totals[a] + steps[b] - 1) / steps[b];
                memset(seen, 0, sizeof seen);
                uint32_t before = 0;
                for (uint32_t i = 0; i < n; i++) {
                    uint32_t lo, hi;
                    sg_share(totals[a], steps[b], i, n, &lo, &hi);
                    ck_assert_uint_le(lo, hi);
                    ck_assert_uint_le(hi, totals[a]);
                    ck_assert_uint_eq(lo, before); /* contiguous: no gap and nothing twice */
                    before = hi;
                    ck_assert(lo % steps[b] == 0 || lo == totals[a]);
                    ck_assert(hi % steps[b] == 0 || hi == totals[a]);
                    const uint32_t mine = (hi - lo + steps[b] - 1) / steps[b];
                    ck_assert_uint_ge(mine, units / n); /* near equal */
                    ck_assert_uint_le(mine, units / n + 1);
                    for (uint32_t k = lo; k < hi; k++) seen[k]++;
                }
                for (uint32_t k = 0; k < sizeof seen; k++) ck_assert_uint_eq(seen[k], k < totals[a]);
            }
    uint32_t lo, hi; /* no overflow at the far end */
    sg_share(UINT32_MAX, 64, 1023, 1024, &lo, &hi);
    ck_assert_uint_eq(hi, UINT32_MAX);
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

/* A job as the engine has them: every thread fills its share, then all sum the whole. */
typedef struct sums {
    sg_team *team;
    uint32_t values[1000];
    uint64_t sum[MOST];
} sums;

static void fill_and_sum(void *arg, uint32_t thread) {
    sums *s = arg;
    uint32_t lo, hi;
    sg_share(1000, 8, thread, sg_team_size(s->team), &lo, &hi);
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
    tcase_add_test(tc, share_covers_exactly);
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
