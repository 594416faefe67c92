/* The reader, same suite for both engines (loop variable 0: pread, 1: io_uring where the machine has it). */
#include "io/reader.h"

#include "io/reader_engine.h"

#include <check.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define N_FILES 5

static const size_t sizes[N_FILES] = { 5 * MIB + 123, 0, 1, MIB, 300 * 1024 + 7 };
static char dir[256], paths[N_FILES][300];

static uint8_t byte_at(uint32_t file, uint64_t offset) { return (uint8_t)((offset * 2654435761u >> 13) ^ file * 37); }

static uint64_t rnd(uint64_t *state) { /* xorshift64, Marsaglia 2003 */
    *state ^= *state << 13;
    *state ^= *state >> 7;
    return *state ^= *state << 17;
}

static void write_file(const char *path, uint32_t file, size_t size) {
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    uint8_t block[4096];
    for (size_t at = 0; at < size; at += sizeof block) {
        const size_t n = size - at < sizeof block ? size - at : sizeof block;
        for (size_t i = 0; i < n; i++) block[i] = byte_at(file, at + i);
        ck_assert_uint_eq(fwrite(block, 1, n, f), n);
    }
    ck_assert_int_eq(fclose(f), 0);
}

static void make_files(void) {
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/sg-reader-XXXXXX", tmp ? tmp : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    for (uint32_t i = 0; i < N_FILES; i++) {
        snprintf(paths[i], sizeof paths[i], "%s/%u", dir, i);
        write_file(paths[i], i, sizes[i]);
    }
}

static void remove_files(void) {
    for (uint32_t i = 0; i < N_FILES; i++) unlink(paths[i]);
    rmdir(dir);
}

/* Best effort: reads that must go to the drive are still in the kernel when others are done. */
static void forget_cached(const char *path) {
    const int fd = open(path, O_RDONLY);
    ck_assert_int_ge(fd, 0);
    fsync(fd);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
}

static sg_reader *open_reader(int which) {
    sg_reader *r = NULL;
    sg_error err;
    ck_assert_int_eq(sg_reader_create(which ? SG_IO_URING : SG_IO_PREAD, NULL, &r, &err), SG_OK);
    ck_assert_str_eq(sg_reader_engine_name(r), which ? "io_uring" : "pread");
    return r;
}

static uint32_t add(sg_reader *r, const char *path) {
    uint32_t file = 99;
    sg_error err = { 0 };
    ck_assert_msg(sg_reader_add_file(r, path, &file, &err) == SG_OK, "%s", err.message);
    return file;
}

static void check_bytes(const sg_read *r) {
    const uint8_t *p = r->dst;
    for (size_t i = 0; i < r->size; i++)
        if (p[i] != byte_at(r->file, r->offset + i))
            ck_abort_msg("file %u: byte %zu of %zu at offset %llu is wrong", r->file, i, r->size, (unsigned long long)r->offset);
}

/* Many ranges of several files, zero-length ones among them, each surrounded by bytes that must stay. */
START_TEST(random_ranges) {
    enum { N = 200, GUARD = 16 };
    sg_reader *r = open_reader(_i);
    for (uint32_t i = 0; i < N_FILES; i++) ck_assert_uint_eq(add(r, paths[i]), i);
    uint64_t seed = 88172645463325252u;
    for (int round = 0; round < 3; round++) {
        sg_read reads[N];
        for (int i = 0; i < N; i++) {
            const uint32_t f = (uint32_t)(rnd(&seed) % N_FILES);
            const uint64_t offset = rnd(&seed) % (sizes[f] + 1);
            size_t size = (size_t)(rnd(&seed) % (sizes[f] - offset + 1));
            if (i % 4) size = size < 5000 ? size : size % 5000; /* a few large, most small */
            uint8_t *buffer = malloc(size + 2 * GUARD);
            ck_assert_ptr_nonnull(buffer);
            memset(buffer, 0x5a, size + 2 * GUARD);
            reads[i] = (sg_read){ f, offset, buffer + GUARD, size };
        }
        sg_error err = { 0 };
        ck_assert_msg(sg_reader_read_all(r, reads, N, NULL, NULL, &err) == SG_OK, "%s", err.message);
        for (int i = 0; i < N; i++) {
            check_bytes(&reads[i]);
            uint8_t *buffer = (uint8_t *)reads[i].dst - GUARD;
            for (int g = 0; g < GUARD; g++) {
                ck_assert_uint_eq(buffer[g], 0x5a);
                ck_assert_uint_eq(buffer[GUARD + reads[i].size + (size_t)g], 0x5a);
            }
            free(buffer);
        }
    }
    sg_reader_destroy(&r);
    ck_assert_ptr_null(r);
    sg_reader_destroy(&r);
}
END_TEST

START_TEST(whole_files) {
    sg_reader *r = open_reader(_i);
    sg_read reads[N_FILES];
    for (uint32_t i = 0; i < N_FILES; i++)
        reads[i] = (sg_read){ add(r, paths[i]), 0, malloc(sizes[i] + 1), sizes[i] };
    sg_error err = { 0 };
    ck_assert_msg(sg_reader_read_all(r, reads, N_FILES, NULL, NULL, &err) == SG_OK, "%s", err.message);
    for (uint32_t i = 0; i < N_FILES; i++) {
        check_bytes(&reads[i]);
        free(reads[i].dst);
    }
    sg_reader_destroy(&r);
}
END_TEST

START_TEST(nothing_to_read) {
    sg_reader *r = open_reader(_i);
    const uint32_t f = add(r, paths[0]);
    const sg_read reads[2] = { { f, 17, NULL, 0 }, { f, UINT64_C(1) << 40, NULL, 0 } };
    ck_assert_int_eq(sg_reader_read_all(r, NULL, 0, NULL, NULL, NULL), SG_OK);
    ck_assert_int_eq(sg_reader_read_all(r, reads, 2, NULL, NULL, NULL), SG_OK);
    sg_reader_destroy(&r);
}
END_TEST

START_TEST(many_files) {
    enum { N = 100 };
    sg_reader *r = open_reader(_i);
    sg_read reads[N];
    static uint8_t got[N][64];
    for (uint32_t i = 0; i < N; i++) {
        ck_assert_uint_eq(add(r, paths[0]), i);
        reads[i] = (sg_read){ i, 1000 * i, got[i], sizeof got[i] };
    }
    ck_assert_int_eq(sg_reader_read_all(r, reads, N, NULL, NULL, NULL), SG_OK);
    for (uint32_t i = 0; i < N; i++)
        for (size_t k = 0; k < sizeof got[i]; k++) ck_assert_uint_eq(got[i][k], byte_at(0, 1000 * i + k));
    sg_reader_destroy(&r);
}
END_TEST

/* Whichever piece notices the end of the file first, the sentence names where the file ends. */
START_TEST(truncated) {
    sg_reader *r = open_reader(_i);
    const uint32_t f = add(r, paths[0]);
    uint8_t *p = malloc(64 * MIB);
    char want[512];
    sg_error err = { 0 };
    sg_read read = { f, 5 * MIB, p, 200 };
    snprintf(want, sizeof want, "%s is truncated: 77 bytes at offset %zu are missing", paths[0], sizes[0]);
    ck_assert_int_eq(sg_reader_read_all(r, &read, 1, NULL, NULL, &err), SG_E_IO);
    ck_assert_str_eq(err.message, want);

    read = (sg_read){ f, 100, p, 64 * MIB };
    snprintf(want, sizeof want, "%s is truncated: %zu bytes at offset %zu are missing", paths[0], 100 + 64 * MIB - sizes[0],
             sizes[0]);
    ck_assert_int_eq(sg_reader_read_all(r, &read, 1, NULL, NULL, &err), SG_E_IO);
    ck_assert_str_eq(err.message, want);

    read = (sg_read){ f, 6 * MIB, p, 3 };
    snprintf(want, sizeof want, "%s is truncated: 3 bytes at offset %zu are missing", paths[0], 6 * MIB);
    ck_assert_int_eq(sg_reader_read_all(r, &read, 1, NULL, NULL, &err), SG_E_IO);
    ck_assert_str_eq(err.message, want);

    read = (sg_read){ f, 0, p, sizes[0] }; /* the reader is as good as new */
    ck_assert_int_eq(sg_reader_read_all(r, &read, 1, NULL, NULL, &err), SG_OK);
    check_bytes(&read);
    free(p);
    sg_reader_destroy(&r);
}
END_TEST

/* /proc/self/mem: a regular file whose offsets are addresses. A range that runs into an unmapped page is a short read, which
 * must be continued, and then a real EIO (or EFAULT) of the kernel, at exactly that page. */
START_TEST(short_read_then_eio) {
    if (access("/proc/self/mem", R_OK) != 0) return;
    sg_reader *r = open_reader(_i);
    const uint32_t f = add(r, "/proc/self/mem");
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *map = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(map, MAP_FAILED);
    for (size_t i = 0; i < 2 * page; i++) map[i] = byte_at(7, i);
    ck_assert_int_eq(munmap(map + 2 * page, page), 0);
    uint8_t *got = calloc(4, page);
    char want[128];
    sg_error err = { 0 };
    sg_read read = { f, (uintptr_t)map, got, 2 * page };
    ck_assert_msg(sg_reader_read_all(r, &read, 1, NULL, NULL, &err) == SG_OK, "%s", err.message);
    ck_assert_mem_eq(got, map, 2 * page);

    memset(got, 0, 4 * page);
    read.size = 4 * page;
    ck_assert_int_eq(sg_reader_read_all(r, &read, 1, NULL, NULL, &err), SG_E_IO);
    /* Reads are cut into pieces at multiples of SG_IO_PIECE, and one may end between the last two pages. */
    const size_t at = (size_t)(uintptr_t)map + 2 * page, piece = SG_IO_PIECE - at % SG_IO_PIECE;
    snprintf(want, sizeof want, "/proc/self/mem: reading %zu bytes at offset %zu: ", piece < 2 * page ? piece : 2 * page, at);
    ck_assert_msg(strncmp(err.message, want, strlen(want)) == 0, "%s", err.message);
    ck_assert_mem_eq(got, map, 2 * page);
    free(got);
    munmap(map, 2 * page);
    munmap(map + 3 * page, page);
    sg_reader_destroy(&r);
}
END_TEST

/* The list of mappings of another, sleeping process: the kernel hands it out a page at a time, so every read of it is short,
 * and it does not change. */
START_TEST(short_reads) {
    enum { MAPS = 600 };
    int ready[2];
    ck_assert_int_eq(pipe(ready), 0);
    const pid_t pid = fork();
    if (pid == 0) {
        for (int i = 0; i < MAPS; i++) /* neighbours with different rights are not merged into one line */
            if (mmap(NULL, 4096, i % 2 ? PROT_READ : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED) _exit(1);
        if (write(ready[1], "", 1) == 1) pause();
        _exit(1);
    }
    char c, path[64];
    ck_assert_int_gt(pid, 0);
    close(ready[1]);
    ck_assert_int_eq(read(ready[0], &c, 1), 1);
    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    const size_t most = 1 << 20;
    char *want = malloc(most), *got = calloc(1, most);
    const int fd = open(path, O_RDONLY);
    if (fd >= 0) {
        size_t size = 0;
        for (ssize_t n; (n = read(fd, want + size, most - size)) > 0;) size += (size_t)n;
        close(fd);
        ck_assert_uint_gt(size, 4 * 4096);
        sg_reader *r = open_reader(_i);
        const sg_read read = { add(r, path), 0, got, size };
        sg_error err = { 0 };
        ck_assert_msg(sg_reader_read_all(r, &read, 1, NULL, NULL, &err) == SG_OK, "%s", err.message);
        ck_assert_mem_eq(got, want, size);
        sg_reader_destroy(&r);
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    close(ready[0]);
    free(want);
    free(got);
}
END_TEST

START_TEST(what_is_no_file) {
    sg_reader *r = open_reader(_i);
    uint32_t file = 7;
    sg_error err = { 0 };
    char fifo[300], want[400];
    snprintf(fifo, sizeof fifo, "%s/fifo", dir);
    ck_assert_int_eq(mkfifo(fifo, 0600), 0);
    ck_assert_int_eq(sg_reader_add_file(r, fifo, &file, &err), SG_E_ACCESS); /* nobody writes to it: must not wait */
    snprintf(want, sizeof want, "%s: is not a regular file", fifo);
    ck_assert_str_eq(err.message, want);
    unlink(fifo);
    ck_assert_int_eq(sg_reader_add_file(r, dir, &file, &err), SG_E_ACCESS);
    snprintf(want, sizeof want, "%s: is a directory, not a file", dir);
    ck_assert_str_eq(err.message, want);
    ck_assert_int_eq(sg_reader_add_file(r, "/dev/null", &file, &err), SG_E_ACCESS);
    ck_assert_int_eq(sg_reader_add_file(r, fifo, &file, &err), SG_E_NOT_FOUND);
    ck_assert_uint_eq(file, 7);
    sg_reader_destroy(&r);
}
END_TEST

START_TEST(bad_arguments) {
    sg_reader *r = open_reader(_i);
    const uint32_t f = add(r, paths[0]);
    uint8_t b[16];
    sg_read read = { f + 1, 0, b, 1 };
    ck_assert_int_eq(sg_reader_read_all(r, &read, 1, NULL, NULL, NULL), SG_E_ARG);
    read = (sg_read){ f, UINT64_MAX - 3, b, 8 };
    ck_assert_int_eq(sg_reader_read_all(r, &read, 1, NULL, NULL, NULL), SG_E_ARG);
    read = (sg_read){ f, INT64_MAX, b, 1 };
    ck_assert_int_eq(sg_reader_read_all(r, &read, 1, NULL, NULL, NULL), SG_E_ARG);
    read = (sg_read){ f, 0, NULL, 1 };
    ck_assert_int_eq(sg_reader_read_all(r, &read, 1, NULL, NULL, NULL), SG_E_ARG);
    sg_reader_destroy(&r);
    sg_error err = { 0 };
    ck_assert_int_eq(sg_reader_create((sg_io_engine)9, NULL, &r, &err), SG_E_ARG);
    ck_assert_ptr_null(r);
}
END_TEST

typedef struct meter {
    pthread_t caller;
    uint64_t last, total, calls, stop_at;
    bool ordered;
} meter;

static bool count(void *user, uint64_t done, uint64_t total) {
    meter *m = user;
    if (!pthread_equal(m->caller, pthread_self()) || done > total || total != m->total) m->ordered = false;
    if (m->calls++ == 0 ? done != 0 : done <= m->last) m->ordered = false;
    m->last = done;
    return done < m->stop_at;
}

START_TEST(progress) {
    sg_reader *r = open_reader(_i);
    const uint32_t f = add(r, paths[0]);
    uint8_t *p = malloc(2 * sizes[0]);
    const sg_read reads[2] = { { f, 0, p, sizes[0] }, { f, 1, p + sizes[0], sizes[0] - 1 } };
    meter m = { pthread_self(), 0, 2 * sizes[0] - 1, 0, UINT64_MAX, true };
    ck_assert_int_eq(sg_reader_read_all(r, reads, 2, count, &m, NULL), SG_OK);
    ck_assert(m.ordered);
    ck_assert_uint_eq(m.last, m.total);
    ck_assert_uint_ge(m.calls, 2);
    free(p);
    sg_reader_destroy(&r);
}
END_TEST

/* Once read_all has returned, nothing writes to the buffer any more; and the reader can be used again. */
START_TEST(cancel) {
    enum { N = 12 };
    const uint64_t stops[3] = { 0, 1, 3 * MIB };
    for (int round = 0; round < 3; round++) {
        sg_reader *r = open_reader(_i);
        const uint32_t f = add(r, paths[0]);
        uint8_t *p = malloc(N * sizes[0]);
        sg_read reads[N];
        for (size_t i = 0; i < N; i++) reads[i] = (sg_read){ f, 0, p + i * sizes[0], sizes[0] };
        meter m = { pthread_self(), 0, N * sizes[0], 0, stops[round], true };
        sg_error err = { 0 };
        forget_cached(paths[0]);
        ck_assert_int_eq(sg_reader_read_all(r, reads, N, count, &m, &err), SG_E_CANCELLED);
        memset(p, 0xaa, N * sizes[0]);
        ck_assert_str_eq(err.message, "reading was cancelled");
        ck_assert(m.ordered);
        ck_assert_uint_ge(m.last, m.stop_at); /* not called again after it said stop */
        if (round == 0) ck_assert_uint_eq(m.calls, 1);

        uint8_t *again = malloc(sizes[0]);
        const sg_read second = { f, 0, again, sizes[0] };
        ck_assert_int_eq(sg_reader_read_all(r, &second, 1, NULL, NULL, &err), SG_OK);
        check_bytes(&second);
        sg_reader_destroy(&r);
        for (size_t i = 0; i < N * sizes[0]; i++)
            if (p[i] != 0xaa) ck_abort_msg("byte %zu was written after the cancel", i);
        free(again);
        free(p);
    }
}
END_TEST

typedef struct lines {
    int n;
    sg_log_level level;
    char text[512];
} lines;

static void keep_line(void *user, sg_log_level level, const char *line) {
    lines *l = user;
    l->n++;
    l->level = level;
    snprintf(l->text, sizeof l->text, "%s", line);
}

START_TEST(choice_is_logged) {
    lines l = { 0 };
    const sg_log log = { keep_line, &l };
    sg_reader *r = NULL;
    ck_assert_int_eq(sg_reader_create(SG_IO_PREAD, &log, &r, NULL), SG_OK);
    ck_assert_int_eq(l.n, 1);
    ck_assert_str_eq(l.text, "reading with pread");
    sg_reader_destroy(&r);
    ck_assert_int_eq(sg_reader_create(SG_IO_AUTO, &log, &r, NULL), SG_OK);
    ck_assert_int_eq(l.n, 2);
    ck_assert_int_eq(l.level, SG_LOG_INFO);
    ck_assert_ptr_nonnull(strstr(l.text, sg_reader_engine_name(r)));
    sg_reader_destroy(&r);
    ck_assert_int_eq(sg_reader_create(SG_IO_FAULT, &log, &r, NULL), SG_OK);
    ck_assert_str_eq(l.text, "reading with pread");
    sg_reader_destroy(&r);
}
END_TEST

int main(void) {
    char why[256] = "";
    const bool have_uring = sg_reader_uring_probe(why, sizeof why);
    if (!have_uring) printf("io_uring is not tested: %s\n", why);
    Suite *s = suite_create("reader");
    TCase *tc = tcase_create("engines");
    const int n = have_uring ? 2 : 1;
    tcase_set_timeout(tc, 120);
    tcase_add_unchecked_fixture(tc, make_files, remove_files);
    tcase_add_loop_test(tc, random_ranges, 0, n);
    tcase_add_loop_test(tc, whole_files, 0, n);
    tcase_add_loop_test(tc, nothing_to_read, 0, n);
    tcase_add_loop_test(tc, many_files, 0, n);
    tcase_add_loop_test(tc, truncated, 0, n);
    tcase_add_loop_test(tc, short_reads, 0, n);
    tcase_add_loop_test(tc, short_read_then_eio, 0, n);
    tcase_add_loop_test(tc, what_is_no_file, 0, n);
    tcase_add_loop_test(tc, bad_arguments, 0, n);
    tcase_add_loop_test(tc, progress, 0, n);
    tcase_add_loop_test(tc, cancel, 0, n);
    tcase_add_test(tc, choice_is_logged);
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    const int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
