/* The pread engine on a file system that interrupts, shortens and refuses: this program is linked with --wrap, so the engine's
 * pread is the one below. */
#include "io/reader.h"

#include <check.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SIZE ((size_t)3 * 1024 * 1024 + 11)
#define BAD ((uint64_t)2 * 1024 * 1024 + 4096) /* where EIO begins in `broken` mode */

static atomic_uint calls;
static atomic_bool broken;

ssize_t __wrap_pread(int fd, void *dst, size_t size, off_t offset);
ssize_t __wrap_pread64(int fd, void *dst, size_t size, off_t offset);

ssize_t __wrap_pread(int fd, void *dst, size_t size, off_t offset) {
    const unsigned n = atomic_fetch_add(&calls, 1);
    if (n % 5 == 1) errno = EINTR;
    if (n % 5 == 3) errno = EAGAIN;
    if (n % 5 == 1 || n % 5 == 3) return -1;
    if (atomic_load(&broken)) {
        if ((uint64_t)offset >= BAD) {
            errno = EIO;
            return -1;
        }
        if ((uint64_t)offset + size > BAD) size = (size_t)(BAD - (uint64_t)offset);
    }
    const size_t most = 1 + (n * 7919u) % 70001;
    return (ssize_t)syscall(SYS_pread64, fd, dst, size < most ? size : most, offset);
}

ssize_t __wrap_pread64(int fd, void *dst, size_t size, off_t offset) { return __wrap_pread(fd, dst, size, offset); }

static char path[300];

static void make_file(void) {
    const char *tmp = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/sg-faults-XXXXXX", tmp ? tmp : "/tmp");
    const int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    uint8_t *p = malloc(SIZE);
    for (size_t i = 0; i < SIZE; i++) p[i] = (uint8_t)(i * 2654435761u >> 13);
    ck_assert_int_eq(write(fd, p, SIZE), (ssize_t)SIZE);
    free(p);
    close(fd);
}

static void remove_file(void) { unlink(path); }

static sg_reader *open_reader(void) {
    sg_reader *r = NULL;
    uint32_t f;
    ck_assert_int_eq(sg_reader_create(SG_IO_PREAD, NULL, &r, NULL), SG_OK);
    ck_assert_int_eq(sg_reader_add_file(r, path, &f, NULL), SG_OK);
    return r;
}

START_TEST(short_reads_are_continued) {
    sg_reader *r = open_reader();
    uint8_t *p = calloc(1, SIZE);
    const sg_read read = { 0, 0, p, SIZE };
    sg_error err = { 0 };
    ck_assert_msg(sg_reader_read_all(r, &read, 1, NULL, NULL, &err) == SG_OK, "%s", err.message);
    for (size_t i = 0; i < SIZE; i++)
        if (p[i] != (uint8_t)(i * 2654435761u >> 13)) ck_abort_msg("byte %zu is wrong", i);
    ck_assert_uint_gt(atomic_load(&calls), 20); /* the engine does go through the wrapper */
    free(p);
    sg_reader_destroy(&r);
}
END_TEST

START_TEST(eio_names_the_place) {
    sg_reader *r = open_reader();
    uint8_t *p = calloc(1, SIZE);
    const sg_read read = { 0, 0, p, SIZE };
    sg_error err = { 0 };
    char want[400];
    atomic_store(&broken, true);
    ck_assert_int_eq(sg_reader_read_all(r, &read, 1, NULL, NULL, &err), SG_E_IO);
    /* of the pieces that failed (this one and the last, which lies wholly beyond) the first is named */
    snprintf(want, sizeof want, "%s: reading %zu bytes at offset %llu: %s", path, ((size_t)3 << 20) - (size_t)BAD,
             (unsigned long long)BAD, strerror(EIO));
    ck_assert_str_eq(err.message, want);
    atomic_store(&broken, false);
    ck_assert_int_eq(sg_reader_read_all(r, &read, 1, NULL, NULL, &err), SG_OK);
    free(p);
    sg_reader_destroy(&r);
}
END_TEST

int main(void) {
    Suite *s = suite_create("reader_faults");
    TCase *tc = tcase_create("pread");
    tcase_set_timeout(tc, 120);
    tcase_add_unchecked_fixture(tc, make_file, remove_file);
    tcase_add_test(tc, short_reads_are_continued);
    tcase_add_test(tc, eio_names_the_place);
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    const int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
