/* Streams, one suite for all engines and both ways to the drive. Loop variable: 2 * engine + (1: buffered); engines are pread, the
 * faults by default, and io_uring where the machine has it. */
#include "tests/io/stream_fixture.h"

#include "io/reader_engine.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#define N_FILES 4

static const size_t sizes[N_FILES] = { 700 * 1024 + 123, 0, 1, 512 * 1024 };
static const char *const engine_names[3] = { "pread", "fault", "io_uring" };
static const sg_io_engine engines[3] = { SG_IO_PREAD, SG_IO_FAULT, SG_IO_URING };
static temp_dir dir;
static char paths[N_FILES][600];
static const char *list[N_FILES];

static void make_files(void) {
    temp_open(&dir);
    for (uint32_t i = 0; i < N_FILES; i++) {
        snprintf(paths[i], sizeof paths[i], "%s/%u", dir.path, i);
        make_file(paths[i], i, sizes[i]);
        list[i] = paths[i];
    }
}

static void remove_files(void) { temp_close(&dir); }

static sg_stream *create(int i, const char *faults) {
    const sg_stream_options o = { .engine = engines[i / 2], .buffered = i % 2, .faults = faults };
    sg_stream *s = NULL;
    ok(sg_stream_create(&o, NULL, &s, err));
    ck_assert_str_eq(sg_stream_engine_name(s), engine_names[i / 2]);
    return s;
}

static sg_stream *open_all(int i, const char *faults) {
    sg_stream *s = create(i, faults);
    ok(sg_stream_open(s, list, N_FILES, err));
    const uint32_t align = sg_stream_align(s);
    ck_assert(align >= 1 && align <= SG_STREAM_BLOCK && (align & (align - 1)) == 0);
    if (i % 2) ck_assert_uint_eq(align, 1);
    return s;
}

/* Waits, and says what went wrong. */
static void wait_done(sg_stream *s, sg_fetch *f) {
    sg_stream_wait(s, f);
    sg_error e = { 0 };
    ck_assert_msg(sg_stream_failure(s, &e) == SG_OK, "%s", e.message);
    check_fetch(s, f);
}

START_TEST(random_fetches) {
    enum { N = 300 };
    sg_stream *s = open_all(_i, NULL);
    uint64_t seed = 88172645463325252u, asked = 0;
    sg_fetch f[N];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < N; i++) {
            const uint32_t file = (uint32_t)(rnd(&seed) % N_FILES);
            const uint64_t offset = rnd(&seed) % (sizes[file] + 1);
            size_t size = (size_t)(rnd(&seed) % (sizes[file] - offset + 1));
            if (i % 8) size %= 6000; /* a few large, most small */
            f[i] = make_fetch(s, file, offset, size);
            asked += size > 0;
        }
        submit_all(s, f, N / 2, false);
        submit_all(s, f + N / 2, N / 2, round == 1);
        for (int i = N; i-- > 0;) wait_done(s, &f[i]);
        for (int i = 0; i < N; i++) free_fetch(&f[i]);
    }
    sg_stream_drain(s); /* a read is counted after its fetches are there */
    const sg_stream_counts c = sg_stream_get_counts(s);
    ck_assert_uint_eq(c.demand_fetches + c.prefetch_fetches, asked);
    ck_assert_uint_eq(sg_stream_count(s), 3 * N);
    ck_assert_uint_eq(c.dropped, 0);
    ck_assert_uint_gt(sg_stream_memory(s), 0);
    sg_stream_destroy(&s);
    ck_assert_ptr_null(s);
    sg_stream_destroy(&s);
}
END_TEST

/* Registered memory, in two regions, and reads that lie in none or across the end of one. */
START_TEST(registered_memory) {
    enum { N = 64, EACH = 3 * 4096 };
    sg_stream *s = open_all(_i, NULL);
    uint8_t *p = NULL;
    ck_assert_int_eq(posix_memalign((void **)&p, 4096, (N + 2) * EACH), 0);
    memset(p, GUARD, (N + 2) * EACH);
    sg_stream_register(s, p, 10 * EACH);
    sg_stream_register(s, p + 30 * EACH, 10 * EACH + 4096);
    sg_fetch f[N];
    for (uint32_t i = 0; i < N; i++)
        f[i] = (sg_fetch){ .offset = 5000 * i + 100, .size = 4608, .dst = p + (i + 1) * EACH };
    submit_all(s, f, N, false);
    for (int i = 0; i < N; i++) wait_done(s, &f[i]);
    sg_stream_destroy(&s);
    free(p);
}
END_TEST

/* What the rounding asks for may lie behind the end of the file. */
START_TEST(end_of_file) {
    sg_stream *s = open_all(_i, NULL);
    sg_fetch f[4] = { make_fetch(s, 0, sizes[0] - 1, 1), make_fetch(s, 0, sizes[0] - 5000, 5000), make_fetch(s, 2, 0, 1),
                      make_fetch(s, 3, sizes[3] - 4096, 4096) };
    submit_all(s, f, 4, true);
    for (int i = 0; i < 4; i++) {
        wait_done(s, &f[i]);
        free_fetch(&f[i]);
    }
    sg_stream_destroy(&s);
}
END_TEST

START_TEST(truncated) {
    sg_stream *s = open_all(_i, NULL);
    char want[700];
    sg_fetch f[3] = { make_fetch(s, 0, 600000, 4608), make_fetch(s, 0, 400000 - 8, 4608), make_fetch(s, 0, 1000, 4608) };
    ck_assert_int_eq(truncate(paths[0], 400000), 0);
    submit_one(s, &f[1], false);
    sg_stream_wait(s, &f[1]);
    ck_assert_int_eq(sg_fetch_get(&f[1]), SG_FETCH_FAILED);
    snprintf(want, sizeof want, "%s is truncated: 4600 bytes at offset 400000 are missing", paths[0]);
    fails(sg_stream_failure(s, err), SG_E_IO, want);

    submit_all(s, f, 3, false); /* nothing is read any more */
    for (int i = 0; i < 3; i++) {
        sg_stream_wait(s, &f[i]);
        ck_assert_int_eq(sg_fetch_get(&f[i]), SG_FETCH_FAILED);
    }
    fails(sg_stream_failure(s, err), SG_E_IO, want);
    fails(sg_stream_check_files(s, err), SG_E_IO, "was changed while it was in use");

    sg_stream_recover(s);
    submit_one(s, &f[2], false);
    wait_done(s, &f[2]);
    submit_one(s, &f[0], true);
    sg_stream_wait(s, &f[0]);
    snprintf(want, sizeof want, "%s is truncated: 4608 bytes at offset 600000 are missing", paths[0]);
    fails(sg_stream_failure(s, err), SG_E_IO, want);
    sg_stream_destroy(&s);
    for (int i = 0; i < 3; i++) free_fetch(&f[i]);
}
END_TEST

START_TEST(changed_or_replaced) {
    sg_stream *s = open_all(_i, NULL);
    ok(sg_stream_check_files(s, err));
    char other[700], want[700];
    snprintf(other, sizeof other, "%s/other", dir.path);
    make_file(other, 9, sizes[0]);
    ck_assert_int_eq(rename(other, paths[0]), 0);
    sg_fetch f = make_fetch(s, 0, 12345, 4608);
    submit_one(s, &f, false);
    wait_done(s, &f); /* the old bytes */
    free_fetch(&f);
    ok(sg_stream_check_files(s, err));

    const struct timespec times[2] = { { 1, 0 }, { 1, 1 } };
    ck_assert_int_eq(utimensat(AT_FDCWD, paths[3], times, 0), 0);
    snprintf(want, sizeof want, "%s was changed while it was in use", paths[3]);
    fails(sg_stream_check_files(s, err), SG_E_IO, want);

    struct stat st; /* another size and the old time */
    sg_stream_destroy(&s);
    s = open_all(_i, NULL);
    ck_assert_int_eq(stat(paths[3], &st), 0);
    ck_assert_int_eq(truncate(paths[3], 1000), 0);
    ck_assert_int_eq(utimensat(AT_FDCWD, paths[3], (struct timespec[2]){ st.st_atim, st.st_mtim }, 0), 0);
    fails(sg_stream_check_files(s, err), SG_E_IO, want);
    sg_stream_destroy(&s);
}
END_TEST

/* One submission: whoever takes the first sees the others. */
START_TEST(neighbours_are_merged) {
    sg_stream *s = open_all(_i, "seed=1");
    const uint32_t align = sg_stream_align(s);
    sg_fetch f[20];
    for (uint32_t i = 0; i < 20; i++) f[i] = make_fetch(s, 0, 8192 + 4096 * i, 4096);
    submit_all(s, f, 20, false);
    for (int i = 0; i < 20; i++) wait_done(s, &f[i]);
    sg_stream_counts c = sg_stream_get_counts(s);
    ck_assert_uint_eq(c.demand_fetches, 20);
    ck_assert_uint_eq(c.demand_reads, 2); /* of 16 and 4 */
    ck_assert_uint_eq(c.demand_bytes, 20 * 4096);
    for (int i = 0; i < 20; i++) free_fetch(&f[i]);

    /* a first and a last that are rounded; 200 KiB and 100 KiB are too much; another file; a gap; a seam inside of a block */
    const struct { uint32_t file; uint64_t offset; size_t size; } p[] = {
        { 0, 100, 8092 }, { 0, 8192, 50 }, { 0, 16384, 200 << 10 }, { 0, 16384 + (200 << 10), 100 << 10 },
        { 3, 16384 + (300 << 10), 4096 }, { 3, 8192, 100 }, { 3, 8292, 100 },
    };
    for (int i = 0; i < 7; i++) f[i] = make_fetch(s, p[i].file, p[i].offset, p[i].size);
    submit_all(s, f, 7, true);
    for (uint32_t seen; (seen = sg_stream_count(s)) < 27;) sg_stream_wait_news(s, seen); /* sg_stream_wait would promote them */
    for (int i = 0; i < 7; i++) wait_done(s, &f[i]);
    c = sg_stream_get_counts(s);
    ck_assert_uint_eq(c.prefetch_fetches, 7);
    ck_assert_uint_eq(c.prefetch_reads, align == 1 ? 5 : 6);
    ck_assert_uint_eq(c.demand_reads, 2);
    for (int i = 0; i < 7; i++) free_fetch(&f[i]);
    sg_stream_destroy(&s);
}
END_TEST

enum { N_WAITERS = 4, N_SHARED = 200 };
typedef struct shared {
    sg_stream *s;
    sg_fetch f[N_SHARED];
    atomic_uint next;
} shared;

/* Each takes whatever has arrived and nobody took yet. */
static void *take_as_they_come(void *arg) {
    shared *const sh = arg;
    for (;;) {
        const uint32_t seen = sg_stream_count(sh->s);
        uint32_t done = 0;
        for (int i = 0; i < N_SHARED; i++) done += sg_fetch_get(&sh->f[i]) == SG_FETCH_DONE;
        atomic_fetch_add(&sh->next, 1);
        if (done == N_SHARED) return NULL;
        sg_stream_wait_news(sh->s, seen);
    }
}

static void *submit_and_wait(void *arg) {
    shared *const sh = arg;
    for (unsigned i; (i = atomic_fetch_add(&sh->next, 1)) < N_SHARED;) {
        submit_one(sh->s, &sh->f[i], i % 3 == 0);
        if (i % 2) sg_stream_wait(sh->s, &sh->f[i]);
        if (i % 5 == 0) sg_stream_promote(sh->s, &sh->f[i]);
    }
    return NULL;
}

START_TEST(several_threads) {
    shared *const sh = calloc(1, sizeof *sh);
    sh->s = open_all(_i, NULL);
    pthread_t ids[N_WAITERS];
    for (uint32_t i = 0; i < N_SHARED; i++) sh->f[i] = make_fetch(sh->s, 0, 3000 * i, 4608);
    for (int i = 0; i < N_WAITERS; i++) ck_assert_int_eq(pthread_create(&ids[i], NULL, submit_and_wait, sh), 0);
    for (int i = 0; i < N_WAITERS; i++) pthread_join(ids[i], NULL);
    for (int i = 0; i < N_SHARED; i++) wait_done(sh->s, &sh->f[i]);

    for (int i = 0; i < N_WAITERS; i++) ck_assert_int_eq(pthread_create(&ids[i], NULL, take_as_they_come, sh), 0);
    for (int i = 0; i < N_WAITERS; i++) pthread_join(ids[i], NULL);
    submit_all(sh->s, sh->f, N_SHARED, false);
    for (int i = 0; i < N_WAITERS; i++) ck_assert_int_eq(pthread_create(&ids[i], NULL, take_as_they_come, sh), 0);
    for (int i = 0; i < N_WAITERS; i++) pthread_join(ids[i], NULL);
    for (int i = 0; i < N_SHARED; i++) {
        check_fetch(sh->s, &sh->f[i]);
        free_fetch(&sh->f[i]);
    }
    sg_stream_drain(sh->s);
    ck_assert_uint_eq(sg_stream_count(sh->s), 2 * N_SHARED);
    sg_stream_destroy(&sh->s);
    free(sh);
}
END_TEST

/* Nothing writes after a drain or destroy, and no fetch is left in between. */
START_TEST(drain_and_destroy) {
    enum { N = 100 };
    sg_stream *s = open_all(_i, NULL);
    for (int round = 0; round < 4; round++) {
        sg_fetch f[2 * N];
        for (uint32_t i = 0; i < 2 * N; i++) f[i] = make_fetch(s, 0, 3000 * i + (i & 1) * 50000, 4608);
        submit_all(s, f, N, true);
        submit_all(s, f + N, N, false);
        if (round == 0) sg_stream_drop(s);
        if (round < 3)
            sg_stream_drain(s);
        else
            sg_stream_destroy(&s);
        uint64_t dropped = 0;
        for (int i = 0; i < 2 * N; i++) {
            const sg_fetch_state st = sg_fetch_get(&f[i]);
            ck_assert(st == SG_FETCH_DONE || (i < N && st == SG_FETCH_DROPPED));
            if (s && st == SG_FETCH_DONE) check_fetch(s, &f[i]);
            dropped += st == SG_FETCH_DROPPED;
            free_fetch(&f[i]); /* a write that comes now is seen by the sanitizers */
        }
        if (round == 0) ck_assert_uint_eq(sg_stream_get_counts(s).dropped, dropped);
    }
    ck_assert_ptr_null(s);
}
END_TEST

START_TEST(what_must_not_be_asked_for) {
    sg_stream *s = open_all(_i, NULL);
    sg_fetch good = make_fetch(s, 0, 0, 100);
    const sg_fetch bad[5] = {
        { .file = N_FILES, .size = 1, .dst = good.dst },
        { .offset = INT64_MAX, .size = 1, .dst = good.dst },
        { .size = (uint32_t)SG_STREAM_MOST + 1, .dst = good.dst },
        { .size = 1, .dst = NULL },
        { .size = 1, .dst = (char *)good.dst + 1 },
    };
    for (int i = 0; i < (sg_stream_align(s) == 1 ? 4 : 5); i++) {
        sg_fetch f = bad[i];
        submit_one(s, &f, false);
        ck_assert_int_eq(sg_fetch_get(&f), SG_FETCH_FAILED);
        fails(sg_stream_failure(s, err), SG_E_INTERNAL, "fetch of ");
        sg_stream_recover(s);
    }
    sg_fetch none = { .file = 99 };
    submit_one(s, &none, false);
    ck_assert_int_eq(sg_fetch_get(&none), SG_FETCH_DONE);
    submit_one(s, &good, false);
    wait_done(s, &good);
    fails(sg_stream_open(s, list, 1, err), SG_E_INTERNAL, "once");
    free_fetch(&good);
    sg_stream_destroy(&s);
}
END_TEST

START_TEST(what_is_no_file) {
    sg_stream *s = create(_i, NULL);
    char fifo[700];
    snprintf(fifo, sizeof fifo, "%s/fifo", dir.path);
    ck_assert_int_eq(mkfifo(fifo, 0600), 0);
    const char *names[2] = { paths[0], fifo };
    fails(sg_stream_open(s, names, 2, err), SG_E_ACCESS, "is not a regular file");
    unlink(fifo);
    fails(sg_stream_open(s, names, 2, err), SG_E_NOT_FOUND, "cannot be opened");
    ok(sg_stream_open(s, names, 1, err));
    sg_stream_destroy(&s);
}
END_TEST

START_TEST(traced) {
    sg_stream *s = open_all(_i, "seed=1");
    sg_trace *t = sg_trace_create(8);
    sg_stream_set_trace(s, t);
    sg_fetch f[2] = { make_fetch(s, 0, 0, 4096), make_fetch(s, 0, 65536, 8192) };
    submit_one(s, &f[0], false);
    wait_done(s, &f[0]);
    sg_stream_drain(s);
    submit_one(s, &f[1], true);
    sg_stream_wait_news(s, 1);
    sg_stream_set_trace(s, NULL);
    const char *path = temp_path(&dir, "trace");
    ok(sg_trace_write(t, path, err));
    size_t n = 0;
    char *text = (char *)temp_read(path, &n);
    ck_assert_ptr_nonnull(text);
    text[n] = 0;
    ck_assert_ptr_nonnull(strstr(text, "\"name\":\"read\""));
    ck_assert_ptr_nonnull(strstr(text, "\"bytes\":4096"));
    ck_assert_ptr_nonnull(strstr(text, "\"name\":\"prefetch\""));
    ck_assert_ptr_nonnull(strstr(text, "\"bytes\":8192"));
    free(text);
    sg_trace_destroy(&t);
    for (int i = 0; i < 2; i++) free_fetch(&f[i]);
    sg_stream_destroy(&s);
}
END_TEST

typedef struct lines {
    int n;
    char text[4][600];
} lines;

static void keep_line(void *user, sg_log_level level, const char *line) {
    lines *const l = user;
    if (l->n < 4) snprintf(l->text[l->n++], sizeof l->text[0], "%s", line);
}

START_TEST(choices_are_logged) {
    lines l = { 0 };
    const sg_log log = { keep_line, &l };
    char want[64];
    sg_stream *s = NULL;
    sg_stream_options o = { .engine = engines[_i / 2], .buffered = _i % 2 };
    ok(sg_stream_create(&o, &log, &s, err));
    ok(sg_stream_open(s, list, N_FILES, err));
    snprintf(want, sizeof want, "streaming with %s", _i / 2 == 1 ? "faults" : engine_names[_i / 2]);
    ck_assert_int_eq(l.n, 2);
    ck_assert_str_eq(l.text[0], want);
    if (_i % 2)
        ck_assert_str_eq(l.text[1], "streaming through the page cache, as asked for");
    else
        ck_assert_int_eq(strncmp(l.text[1], sg_stream_align(s) == 1 ? "streaming through" : "streaming past", 14), 0);
    sg_stream_destroy(&s);
    o.engine = (sg_io_engine)9;
    fails(sg_stream_create(&o, NULL, &s, err), SG_E_ARG, "9 does not exist");
    ck_assert_ptr_null(s);
    o = (sg_stream_options){ .engine = SG_IO_PREAD, .lanes = 1000000 };
    fails(sg_stream_create(&o, NULL, &s, err), SG_E_ARG, "too many");
}
END_TEST

/* ---- faults ------------------------------------------------------------------------------------------------------ */

/* Everything at once, and the bytes are right. */
START_TEST(faults_do_not_show) {
    const char *const all[5] = { "seed=7,short=100", "seed=7,eio=100", "seed=7,reorder=50", "eio_at=5000",
                                 "seed=9,delay=50,reorder=9,short=60,eio=60" };
    for (int k = 0; k < 5; k++) {
        sg_stream *s = open_all(2 + _i, all[k]);
        sg_fetch f[50];
        for (uint32_t i = 0; i < 50; i++) f[i] = make_fetch(s, 0, 12000 * i, i % 5 ? 4608 : 100000);
        submit_all(s, f, 50, false);
        for (int i = 0; i < 50; i++) {
            wait_done(s, &f[i]);
            free_fetch(&f[i]);
        }
        const uint64_t retried = sg_stream_get_counts(s).retried;
        ck_assert(k == 1 ? retried == 50 : k == 3 ? retried == 1 : k == 4 ? retried > 0 : retried == 0);
        sg_stream_destroy(&s);
    }
}
END_TEST

START_TEST(dead_place) {
    sg_stream *s = open_all(2 + _i, "seed=3,dead_at=100000,reorder=4");
    char want[700];
    sg_fetch f[60], other = make_fetch(s, 3, 98000, 4608); /* another file has no dead byte */
    submit_one(s, &other, false);
    wait_done(s, &other);
    for (uint32_t i = 0; i < 60; i++) f[i] = make_fetch(s, 0, 98000 + 4096 * i, 4608);
    submit_all(s, f, 60, true);
    sg_stream_wait(s, &f[0]);
    ck_assert_int_eq(sg_fetch_get(&f[0]), SG_FETCH_FAILED);
    snprintf(want, sizeof want, "%s: reading 4608 bytes at offset 98000: Input/output error", paths[0]);
    for (int i = 0; i < 60; i++) { /* nobody is left waiting */
        sg_stream_wait(s, &f[i]);
        const sg_fetch_state st = sg_fetch_get(&f[i]);
        ck_assert(st == SG_FETCH_FAILED || (i > 0 && st == SG_FETCH_DONE));
    }
    fails(sg_stream_failure(s, err), SG_E_IO, want);
    ck_assert_uint_ge(sg_stream_get_counts(s).retried, 2);
    submit_one(s, &other, false);
    ck_assert_int_eq(sg_fetch_get(&other), SG_FETCH_FAILED);
    sg_stream_drain(s);
    sg_stream_recover(s);
    ok(sg_stream_failure(s, err));
    submit_one(s, &other, false);
    wait_done(s, &other);
    submit_one(s, &f[0], false);
    sg_stream_wait(s, &f[0]);
    fails(sg_stream_failure(s, err), SG_E_IO, want);
    for (int i = 0; i < 60; i++) free_fetch(&f[i]);
    free_fetch(&other);
    sg_stream_destroy(&s);
}
END_TEST

START_TEST(words_of_faults) {
    static const char *const bad[] = { "sed=1", "seed", "seed=", "seed=x", "short=101", "eio=1,,", "seed=1,", "delay=1 ",
                                       "seed=18446744073709551616", "eio_at", "=", ",", "eio_atx=1" };
    sg_stream *s = NULL;
    sg_stream_options o = { .engine = SG_IO_FAULT };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        o.faults = bad[i];
        fails(sg_stream_create(&o, NULL, &s, err), SG_E_ARG, bad[i]);
        ck_assert_ptr_null(s);
    }
    o.faults = "";
    ok(sg_stream_create(&o, NULL, &s, err));
    sg_stream_destroy(&s);
    o.faults = NULL;
    setenv("SPARSEGEN_FAULTS", "nonsense", 1);
    fails(sg_stream_create(&o, NULL, &s, err), SG_E_ARG, "nonsense");
    o.faults = "seed=18446744073709551615,dead_at=18446744073709551615";
    ok(sg_stream_create(&o, NULL, &s, err));
    sg_stream_destroy(&s);
    unsetenv("SPARSEGEN_FAULTS");
}
END_TEST

int main(void) {
    char why[256] = "";
    const bool have_uring = sg_reader_uring_probe(why, sizeof why);
    if (!have_uring) printf("io_uring is not tested: %s\n", why);
    unsetenv("SPARSEGEN_FAULTS");
    Suite *s = suite_create("stream");
    TCase *tc = tcase_create("engines");
    const int n = have_uring ? 6 : 4;
    tcase_set_timeout(tc, 120);
    tcase_add_checked_fixture(tc, make_files, remove_files);
    tcase_add_loop_test(tc, random_fetches, 0, n);
    tcase_add_loop_test(tc, registered_memory, 0, n);
    tcase_add_loop_test(tc, end_of_file, 0, n);
    tcase_add_loop_test(tc, truncated, 0, n);
    tcase_add_loop_test(tc, changed_or_replaced, 0, n);
    tcase_add_loop_test(tc, neighbours_are_merged, 0, n);
    tcase_add_loop_test(tc, several_threads, 0, n);
    tcase_add_loop_test(tc, drain_and_destroy, 0, n);
    tcase_add_loop_test(tc, what_must_not_be_asked_for, 0, n);
    tcase_add_loop_test(tc, what_is_no_file, 0, n);
    tcase_add_loop_test(tc, traced, 0, n);
    tcase_add_loop_test(tc, choices_are_logged, 0, n);
    tcase_add_loop_test(tc, faults_do_not_show, 0, 2);
    tcase_add_loop_test(tc, dead_place, 0, 2);
    tcase_add_test(tc, words_of_faults);
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    const int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
