/* The order of a stream's reads, with its lanes stopped where the test wants them: the linker sends preadv and io_uring's submission
 * through the functions below (-Wl,--wrap). */
#include "tests/io/stream_fixture.h"

#include "io/reader_engine.h"
#include "io/stream_engine.h"
#include "sg_config.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/uio.h>

#if SG_HAVE_LIBURING
#include <liburing.h>
#endif

ssize_t __real_preadv(int fd, const struct iovec *p, int n, off_t offset);
ssize_t __wrap_preadv(int fd, const struct iovec *p, int n, off_t offset);
ssize_t __wrap_preadv64(int fd, const struct iovec *p, int n, off_t offset);

/* ---- the gate ---------------------------------------------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t moved = PTHREAD_COND_INITIALIZER;
static int arrived, passed, permits; /* lanes that came; that went on; that may go on. Read without the lock when none runs */
static off_t order[64];              /* offsets of reads, as they came */
static atomic_int preadvs, troubles;

static void pass_gate(off_t offset) {
    pthread_mutex_lock(&lock);
    if (arrived < 64) order[arrived] = offset;
    arrived++;
    pthread_cond_broadcast(&moved);
    while (passed >= permits) pthread_cond_wait(&moved, &lock);
    passed++;
    pthread_mutex_unlock(&lock);
}

static void wait_arrived(int n) {
    pthread_mutex_lock(&lock);
    while (arrived < n) pthread_cond_wait(&moved, &lock);
    pthread_mutex_unlock(&lock);
}

static void permit(int n) {
    pthread_mutex_lock(&lock);
    permits = n;
    pthread_cond_broadcast(&moved);
    pthread_mutex_unlock(&lock);
}

#define NO_GATE 1000000

/* troubles: 1: EINTR, EAGAIN and short reads in turn, 2: EIO from byte 65536 on */
ssize_t __wrap_preadv(int fd, const struct iovec *p, int n, off_t offset) {
    pass_gate(offset);
    const int call = atomic_fetch_add(&preadvs, 1);
    if (atomic_load(&troubles) == 1 && call % 4 < 2) {
        errno = call % 4 ? EINTR : EAGAIN;
        return -1;
    }
    if (atomic_load(&troubles) == 1 && call % 4 == 2) {
        const struct iovec first = { p->iov_base, p->iov_len < 1024 ? p->iov_len : 1024 };
        return __real_preadv(fd, &first, 1, offset);
    }
    if (atomic_load(&troubles) == 2 && offset >= 65536) {
        errno = EIO;
        return -1;
    }
    return __real_preadv(fd, p, n, offset);
}

ssize_t __wrap_preadv64(int fd, const struct iovec *p, int n, off_t offset) { return __wrap_preadv(fd, p, n, offset); }

#if SG_HAVE_LIBURING
int __real_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring);

static atomic_bool ring_full, ring_broken;
static bool submitted_first;

static void note_order(const struct io_uring *ring) {
    pthread_mutex_lock(&lock);
    for (unsigned i = ring->sq.sqe_head; i != ring->sq.sqe_tail && arrived < 64; i++)
        order[arrived++] = (off_t)ring->sq.sqes[i & *ring->sq.kring_mask].off;
    pthread_mutex_unlock(&lock);
}

int __wrap_io_uring_submit(struct io_uring *ring) {
    if (atomic_load(&ring_full)) return -EAGAIN;
    if (!atomic_load(&ring_broken)) {
        note_order(ring);
        return __real_io_uring_submit(ring);
    }
    if (submitted_first) __real_io_uring_submit(ring);
    return -EBADF;
}
#endif

/* ---- helpers ----------------------------------------------------------------------------------------------------- */

#define SIZE ((size_t)1 << 20)

static temp_dir dir;
static char path[600];

static void setup(void) {
    temp_open(&dir);
    snprintf(path, sizeof path, "%s/file", dir.path);
    make_file(path, 0, SIZE);
}

static void teardown(void) { temp_close(&dir); }

static sg_stream *open_one(sg_io_engine engine, uint32_t lanes, uint32_t depth) {
    const sg_stream_options o = { .engine = engine, .lanes = lanes, .depth = depth, .faults = "" };
    const char *const list = path;
    sg_stream *s = NULL;
    ok(sg_stream_create(&o, NULL, &s, err));
    ok(sg_stream_open(s, &list, 1, err));
    return s;
}

/* Far enough apart that none are neighbours. */
static void make_some(const sg_stream *s, sg_fetch *f, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) f[i] = make_fetch(s, 0, 16384 * i, 4096);
}

static void finish(sg_stream *s, sg_fetch *f, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) free_fetch(&f[i]);
    sg_stream_destroy(&s);
}

static int in_state(const sg_fetch *f, int n, sg_fetch_state st) {
    int k = 0;
    for (int i = 0; i < n; i++) k += sg_fetch_get(&f[i]) == st;
    return k;
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

/* One lane, stopped in its first read; loop variable: pread, fault. */
START_TEST(order_of_one_lane) {
    sg_stream *s = open_one(_i ? SG_IO_FAULT : SG_IO_PREAD, 1, 0);
    sg_fetch f[10];
    make_some(s, f, 10);
    submit_one(s, &f[0], true);
    wait_arrived(1);
    submit_all(s, f + 1, 5, true);
    submit_all(s, f + 6, 3, false);
    sg_stream_promote(s, &f[3]); /* behind the demands that are there */
    sg_stream_promote(s, &f[3]);
    sg_stream_promote(s, &f[0]); /* flying, queued as demand: nothing happens */
    sg_stream_promote(s, &f[7]);
    submit_one(s, &f[9], false);
    ck_assert_int_eq(in_state(f, 10, SG_FETCH_QUEUED), 9);
    permit(NO_GATE);
    for (int i = 0; i < 10; i++) {
        sg_stream_wait(s, &f[(i + 6) % 10]);
        check_fetch(s, &f[(i + 6) % 10]);
    }
    static const int first[6] = { 0, 6, 7, 8, 3, 9 };
    for (int i = 0; i < 6; i++) ck_assert_int_eq(order[i], 16384 * first[i]);
    const sg_stream_counts c = sg_stream_get_counts(s);
    ck_assert_uint_ge(c.demand_fetches, 5);
    ck_assert_uint_eq(c.demand_fetches + c.prefetch_fetches, 10);
    finish(s, f, 10);
}
END_TEST

static void *open_for_two(void *arg) {
    wait_arrived(2);
    permit(NO_GATE);
    return NULL;
}

/* Of two lanes one may read ahead, and that one stands: what is waited for only comes as a demand. */
START_TEST(waiting_promotes) {
    sg_stream *s = open_one(SG_IO_PREAD, 2, 0);
    sg_fetch f[3];
    pthread_t id;
    make_some(s, f, 3);
    submit_all(s, f, 3, true);
    wait_arrived(1);
    ck_assert_int_eq(pthread_create(&id, NULL, open_for_two, NULL), 0);
    sg_stream_wait(s, &f[2]);
    check_fetch(s, &f[2]);
    ck_assert_int_eq(order[1], 16384 * 2);
    pthread_join(id, NULL);
    for (int i = 0; i < 3; i++) sg_stream_wait(s, &f[i]);
    finish(s, f, 3);
}
END_TEST

/* From the first read to the last one, without the pause in which none is under way. */
START_TEST(busy_time) {
    sg_stream *s = open_one(SG_IO_PREAD, 2, 0);
    sg_fetch f[2];
    double least = 0, most = 0;
    make_some(s, f, 2);
    for (int round = 0; round < 2; round++) {
        const double from = sg_trace_now();
        permit(0);
        submit_one(s, &f[0], false);
        wait_arrived(2 * round + 1);
        const double first = sg_trace_now(), before = sg_stream_get_counts(s).busy;
        usleep(2000);
        submit_one(s, &f[1], false);
        wait_arrived(2 * round + 2);
        least += sg_trace_now() - first;
        ck_assert(sg_stream_get_counts(s).busy - before >= 0.002); /* also while they are under way */
        permit(NO_GATE);
        sg_stream_drain(s);
        most += sg_trace_now() - from;
        usleep(2000);
    }
    const double all = sg_stream_get_counts(s).busy;
    ck_assert_msg(all >= least && all <= most, "%g not from %g to %g", all, least, most);
    finish(s, f, 2);
}
END_TEST

START_TEST(dropping) {
    sg_stream *s = open_one(SG_IO_PREAD, 1, 0);
    sg_fetch f[8];
    make_some(s, f, 8);
    submit_all(s, f, 6, true);
    submit_all(s, f + 6, 2, false);
    wait_arrived(1); /* the lane is in one of f[0] and f[6] */
    sg_stream_drop(s);
    const int flying = in_state(f, 6, SG_FETCH_FLYING);
    ck_assert_int_eq(in_state(f, 6, SG_FETCH_DROPPED), 6 - flying);
    ck_assert_uint_eq(sg_stream_count(s), (uint32_t)(6 - flying)); /* news for who waits */
    ck_assert_uint_eq(sg_stream_get_counts(s).dropped, (uint64_t)(6 - flying));
    sg_stream_wait(s, &f[5]); /* returns at once */
    permit(NO_GATE);
    sg_stream_drain(s);
    ck_assert_int_eq(in_state(f + 6, 2, SG_FETCH_DONE), 2);
    submit_one(s, &f[5], true); /* again */
    sg_stream_wait(s, &f[5]);
    check_fetch(s, &f[5]);
    finish(s, f, 8);
}
END_TEST

/* Some of the prefetches that wait, and neither the others nor demands. */
START_TEST(cancelling) {
    sg_stream *s = open_one(SG_IO_PREAD, 1, 0);
    sg_fetch f[8];
    make_some(s, f, 8);
    submit_one(s, &f[0], false);
    wait_arrived(1); /* the lane is in f[0] */
    submit_all(s, f + 1, 5, true);
    submit_all(s, f + 6, 2, false);
    sg_stream_cancel(s, f, 4);
    sg_stream_cancel(s, f + 6, 2);
    ck_assert_int_eq(sg_fetch_get(&f[0]), SG_FETCH_FLYING);
    ck_assert_int_eq(in_state(f + 1, 3, SG_FETCH_DROPPED), 3);
    ck_assert_int_eq(in_state(f + 4, 4, SG_FETCH_QUEUED), 4);
    ck_assert_uint_eq(sg_stream_count(s), 3); /* news for who waits */
    ck_assert_uint_eq(sg_stream_get_counts(s).dropped, 3);
    sg_stream_wait(s, &f[1]); /* returns at once */
    permit(NO_GATE);
    for (int i = 4; i < 8; i++) sg_stream_wait(s, &f[i]);
    ck_assert_int_eq(in_state(f + 4, 4, SG_FETCH_DONE), 4);
    submit_one(s, &f[1], true); /* again */
    sg_stream_wait(s, &f[1]);
    check_fetch(s, &f[1]);
    finish(s, f, 8);
}
END_TEST

/* Prefetches that stand still leave a lane for demands. */
START_TEST(lanes_for_demands) {
    sg_stream *s = open_one(SG_IO_PREAD, 4, 0);
    sg_fetch f[12];
    make_some(s, f, 12);
    submit_all(s, f, 10, true);
    wait_arrived(3);
    ck_assert_int_eq(in_state(f, 10, SG_FETCH_FLYING), 3);
    submit_one(s, &f[10], false);
    wait_arrived(4);
    ck_assert_int_eq(sg_fetch_get(&f[10]), SG_FETCH_FLYING);
    ck_assert_int_eq(order[3], 16384 * 10);
    permit(NO_GATE);
    for (int i = 0; i < 11; i++) sg_stream_wait(s, &f[i]);
    finish(s, f, 12);
}
END_TEST

/* What waits when a read fails is never read. */
START_TEST(failure_empties_the_queues) {
    sg_stream *s = open_one(SG_IO_PREAD, 1, 0);
    sg_fetch f[9];
    make_some(s, f, 9);
    atomic_store(&troubles, 2);
    submit_one(s, &f[8], false);
    wait_arrived(1);
    submit_all(s, f, 4, false);
    submit_all(s, f + 4, 4, true);
    permit(NO_GATE);
    for (int i = 0; i < 8; i++) sg_stream_wait(s, &f[i]);
    ck_assert_int_eq(in_state(f, 9, SG_FETCH_FAILED), 9);
    sg_stream_drain(s);
    ck_assert_uint_eq(sg_stream_count(s), 9);
    ck_assert_int_eq(arrived, 3);
    sg_stream_recover(s);
    submit_one(s, &f[1], false);
    sg_stream_wait(s, &f[1]);
    check_fetch(s, &f[1]);
    ck_assert_int_eq(arrived, 4);
    finish(s, f, 9);
}
END_TEST

#if SG_HAVE_LIBURING
/* A kernel that is short of memory takes nothing for a while: what has a slot and what waits shows in the states. */
START_TEST(ring_reserve) {
    permit(NO_GATE);
    sg_stream *s = open_one(SG_IO_URING, 0, 8);
    sg_fetch f[30];
    make_some(s, f, 24);
    submit_one(s, &f[0], false);
    sg_stream_wait(s, &f[0]);
    atomic_store(&ring_full, true);
    submit_one(s, &f[1], false);
    submit_all(s, f + 2, 20, true);
    ck_assert_int_eq(in_state(f + 2, 20, SG_FETCH_FLYING), 6); /* of 8 slots */
    submit_all(s, f + 22, 2, false);
    ck_assert_int_eq(in_state(f + 1, 1, SG_FETCH_FLYING), 1);
    ck_assert_int_eq(in_state(f + 22, 2, SG_FETCH_FLYING), 1);
    sg_stream_poll(s); /* nothing has ended: nothing changes */
    ck_assert_int_eq(in_state(f + 1, 23, SG_FETCH_FLYING), 8);
    atomic_store(&ring_full, false);
    for (int i = 1; i < 24; i++) {
        sg_stream_wait(s, &f[i]);
        check_fetch(s, &f[i]);
    }
    for (int i = 0; i < arrived && order[i] != 16384 * 23; i++) ck_assert(order[i] < 16384 * 8 || order[i] == 16384 * 22); /* demands first */
    ck_assert_int_eq(arrived, 24);
    finish(s, f, 24);
}
END_TEST

/* Of large reads fewer are under way than there are slots for, and a demand is the next. */
START_TEST(few_bytes_fly) {
    permit(NO_GATE);
    sg_stream *s = open_one(SG_IO_URING, 0, 64);
    sg_fetch f[13];
    for (int i = 0; i < 12; i++) f[i] = make_fetch(s, 0, 0, SIZE);
    f[12] = make_fetch(s, 0, 0, 4096);
    atomic_store(&ring_full, true);
    submit_all(s, f, 12, true);
    ck_assert_int_eq(in_state(f, 12, SG_FETCH_FLYING), SG_STREAM_FLYING / SIZE);
    submit_one(s, &f[12], false);
    ck_assert_int_eq(sg_fetch_get(&f[12]), SG_FETCH_QUEUED);
    atomic_store(&ring_full, false);
    sg_stream_wait(s, &f[0]);
    ck_assert_int_ne(sg_fetch_get(&f[12]), SG_FETCH_QUEUED);
    for (int i = 0; i < 13; i++) {
        sg_stream_wait(s, &f[i]);
        check_fetch(s, &f[i]);
    }
    finish(s, f, 13);
}
END_TEST

typedef struct waiting {
    sg_stream *s;
    sg_fetch *f;
} waiting;

static void *wait_for_some(void *arg) {
    const waiting *w = arg;
    for (int i = 0; i < 8; i++) {
        sg_stream_wait(w->s, &w->f[i]);
        check_fetch(w->s, &w->f[i]);
    }
    return NULL;
}

/* One waiting thread brings in what ends for all; when it has its own, another one goes on. Slots are fewer than reads. */
START_TEST(ring_leads) {
    permit(NO_GATE);
    sg_stream *s = open_one(SG_IO_URING, 0, 2);
    for (int turn = 0; turn < 50; turn++) {
        sg_fetch f[32];
        waiting w[4];
        pthread_t id[4];
        make_some(s, f, 32);
        submit_all(s, f, 32, turn % 2);
        for (int i = 0; i < 4; i++) {
            w[i] = (waiting) { s, f + 8 * (turn % 3 ? i : 3 - i) };
            ck_assert_int_eq(pthread_create(&id[i], NULL, wait_for_some, &w[i]), 0);
        }
        for (int i = 0; i < 4; i++) pthread_join(id[i], NULL);
        for (int i = 0; i < 32; i++) free_fetch(&f[i]);
    }
    sg_stream_drain(s);
    ck_assert_uint_eq(sg_stream_count(s), 50 * 32);
    sg_stream_destroy(&s);
}
END_TEST

static void *submit_and_end(void *arg) {
    const waiting *w = arg;
    submit_all(w->s, w->f, 32, false);
    return NULL;
}

/* A thread that ends while its reads are under way, which the kernel may cancel then. */
START_TEST(ring_outlives_threads) {
    permit(NO_GATE);
    sg_stream *s = open_one(SG_IO_URING, 0, 64);
    for (int turn = 0; turn < 50; turn++) {
        sg_fetch f[32];
        pthread_t id;
        make_some(s, f, 32);
        waiting w = { s, f };
        ck_assert_int_eq(pthread_create(&id, NULL, submit_and_end, &w), 0);
        pthread_join(id, NULL);
        for (int i = 0; i < 32; i++) {
            sg_stream_wait(s, &f[i]);
            check_fetch(s, &f[i]);
            free_fetch(&f[i]);
        }
    }
    sg_stream_destroy(&s);
}
END_TEST

/* A kernel that takes nothing any more: reads go on without the ring. Loop variable: whether it took these last ones. */
START_TEST(ring_is_lost) {
    permit(NO_GATE);
    submitted_first = _i;
    sg_stream *s = open_one(SG_IO_URING, 0, 16);
    sg_fetch f[40];
    make_some(s, f, 40);
    submit_all(s, f, 10, false);
    for (int i = 0; i < 10; i++) sg_stream_wait(s, &f[i]);
    atomic_store(&ring_broken, true);
    submit_all(s, f + 10, 30, false);
    for (int i = 0; i < 40; i++) {
        sg_stream_wait(s, &f[i]);
        check_fetch(s, &f[i]);
    }
    submit_one(s, &f[0], true); /* and wakes again */
    sg_stream_wait(s, &f[0]);
    check_fetch(s, &f[0]);
    sg_stream_register(s, f, sizeof f);
    const int calls = atomic_load(&preadvs);
    ck_assert_int_gt(calls, 0);
    ck_assert_uint_eq(sg_stream_count(s), 41);
    finish(s, f, 40);
}
END_TEST

#endif

START_TEST(interrupted_and_short) {
    permit(NO_GATE);
    atomic_store(&troubles, 1);
    sg_stream *s = open_one(SG_IO_PREAD, 2, 0);
    sg_fetch f[20];
    for (uint32_t i = 0; i < 20; i++) f[i] = make_fetch(s, 0, 4096 * i, 4096); /* one read of 16, one of 4 */
    submit_all(s, f, 20, false);
    for (int i = 0; i < 20; i++) {
        sg_stream_wait(s, &f[i]);
        check_fetch(s, &f[i]);
    }
    ck_assert_uint_eq(sg_stream_get_counts(s).demand_reads, 2);
    const int calls = atomic_load(&preadvs);
    ck_assert_int_gt(calls, 4);
    finish(s, f, 20);
}
END_TEST

/* Of merged reads, the fetch in which it happened is named. */
START_TEST(eio_names_the_place) {
    sg_stream *s = open_one(SG_IO_PREAD, 1, 0);
    char want[700];
    sg_fetch f[2] = { make_fetch(s, 0, 65536 - 1024, 1024), make_fetch(s, 0, 65536, 1024) };
    atomic_store(&troubles, 1);
    atomic_store(&preadvs, 2); /* the first try gives 1024 bytes */
    submit_all(s, f, 2, false);
    permit(1);
    wait_arrived(2);
    atomic_store(&troubles, 2);
    permit(NO_GATE);
    for (int i = 0; i < 2; i++) sg_stream_wait(s, &f[i]);
    snprintf(want, sizeof want, "%s: reading 1024 bytes at offset 65536: %s", path, strerror(EIO));
    if (sg_stream_align(s) <= 1024) fails(sg_stream_failure(s, err), SG_E_IO, want);
    ck_assert_uint_eq(sg_stream_get_counts(s).retried, 2);
    finish(s, f, 2);
}
END_TEST

int main(void) {
    char why[256] = "";
    permit(NO_GATE); /* for the probe's child */
    const bool have_uring = sg_reader_uring_probe(why, sizeof why);
    permit(0);
    Suite *s = suite_create("stream_gate");
    TCase *tc = tcase_create("gate");
    tcase_set_timeout(tc, 120);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, order_of_one_lane, 0, 2);
    tcase_add_test(tc, waiting_promotes);
    tcase_add_test(tc, busy_time);
    tcase_add_test(tc, dropping);
    tcase_add_test(tc, cancelling);
    tcase_add_test(tc, lanes_for_demands);
    tcase_add_test(tc, failure_empties_the_queues);
    tcase_add_test(tc, interrupted_and_short);
    tcase_add_test(tc, eio_names_the_place);
#if SG_HAVE_LIBURING
    if (have_uring) {
        tcase_add_test(tc, ring_leads);
        tcase_add_test(tc, ring_outlives_threads);
        tcase_add_test(tc, few_bytes_fly);
        tcase_add_test(tc, ring_reserve);
        tcase_add_loop_test(tc, ring_is_lost, 0, 2);
    }
#endif
    if (!have_uring) printf("io_uring is not tested: %s\n", why);
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    const int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
