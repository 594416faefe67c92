/* GGUF writer: files appear whole or not at all; misuse and failing disks are reported. */
#include "io/gguf.h"
#include "tests/io/expect.h"
#include "tests/io/temp.h"

#include <signal.h>
#include <sys/resource.h>

static temp_dir tmp;
static void setup(void) { temp_open(&tmp); }
static void teardown(void) { temp_close(&tmp); }

START_TEST(writer_leaves_nothing_or_all) {
    const char *path = temp_path(&tmp, "x.gguf");
    const uint64_t ne[] = { 8 };
    static const char eight[32] = { 1 };
    sg_gguf_writer *w = NULL;
    ok(sg_gguf_writer_create(path, 0, false, &w, err));
    sg_gguf_writer_tensor(w, "t", SG_DTYPE_F32, 1, ne);
    ok(sg_gguf_writer_begin_data(w, err));
    ck_assert_uint_eq(temp_count(&tmp), 1); /* the temporary file */
    ck_assert_int_ne(access(path, F_OK), 0);
    fails(sg_gguf_writer_finish(w, err), SG_E_ARG, "tensor t got 0 of its 32 bytes");
    sg_gguf_writer_abort(&w);
    ck_assert_uint_eq(temp_count(&tmp), 0);
    sg_gguf_writer_abort(&w);

    ck_assert(temp_write(path, "old", 3));
    fails(sg_gguf_writer_create(path, 0, false, &w, err), SG_E_EXISTS, "exists");
    ck_assert_ptr_null(w);
    ok(sg_gguf_writer_create(path, 0, true, &w, err));
    sg_gguf_writer_str(w, "k", "v");
    sg_gguf_writer_abort(&w); /* the old file is still there, alone */
    size_t n;
    uint8_t *bytes = temp_read(path, &n);
    ck_assert(n == 3 && memcmp(bytes, "old", 3) == 0);
    free(bytes);
    ck_assert_uint_eq(temp_count(&tmp), 1);
    ok(sg_gguf_writer_create(path, 0, true, &w, err));
    sg_gguf_writer_tensor(w, "t", SG_DTYPE_F32, 1, ne);
    ok(sg_gguf_writer_begin_data(w, err));
    ok(sg_gguf_writer_data(w, eight, 32, err));
    ok(sg_gguf_writer_finish(w, err));
    fails(sg_gguf_writer_finish(w, err), SG_E_ARG, "already");
    sg_gguf_writer_abort(&w);
    ck_assert_uint_eq(temp_count(&tmp), 1);
    sg_gguf *g = NULL;
    ok(sg_gguf_open(path, &g, err));
    sg_gguf_close(&g);

    /* a file that appears while another is written is not replaced */
    const char *late = temp_path(&tmp, "late.gguf");
    ok(sg_gguf_writer_create(late, 0, false, &w, err));
    ck_assert(temp_write(late, "mine", 4));
    fails(sg_gguf_writer_finish(w, err), SG_E_EXISTS, "exists");
    sg_gguf_writer_abort(&w);
    bytes = temp_read(late, &n);
    ck_assert(n == 4 && memcmp(bytes, "mine", 4) == 0);
    free(bytes);
    ck_assert_uint_eq(temp_count(&tmp), 2);
}
END_TEST

START_TEST(writer_refuses) {
    static const struct {
        const char *word;
        sg_status code;
    } cases[] = { { "duplicate key k", SG_E_ARG },
                  { "duplicate tensor t", SG_E_ARG },
                  { "key is empty", SG_E_ARG },
                  { "whole blocks", SG_E_ARG },
                  { "zero", SG_E_ARG },
                  { "overflow", SG_E_ARG },
                  { "dimension count", SG_E_ARG },
                  { "too long", SG_E_ARG },
                  { "not valid UTF-8", SG_E_UTF8 },
                  { "plain UTF-8", SG_E_ARG },
                  { "cannot hold", SG_E_ARG } };
    const uint64_t eight[] = { 8, 1 }, zero[] = { 8, 0 }, huge[] = { 1ull << 40, 1ull << 40 };
    char lengthy[66];
    memset(lengthy, 'a', 65);
    lengthy[65] = 0;
    sg_gguf_writer *w = NULL;
    ok(sg_gguf_writer_create(temp_path(&tmp, "x.gguf"), 0, false, &w, err));
    switch (_i) {
    case 0:
        sg_gguf_writer_u32(w, "k", 1);
        sg_gguf_writer_u64(w, "k", 2);
        break;
    case 1:
        for (int i = 0; i < 2; i++) sg_gguf_writer_tensor(w, "t", SG_DTYPE_F32, 1, eight);
        break;
    case 2: sg_gguf_writer_u32(w, "", 1); break;
    case 3: sg_gguf_writer_tensor(w, "t", SG_DTYPE_Q8_0, 1, eight); break;
    case 4: sg_gguf_writer_tensor(w, "t", SG_DTYPE_F32, 2, zero); break;
    case 5: sg_gguf_writer_tensor(w, "t", SG_DTYPE_F32, 2, huge); break;
    case 6: sg_gguf_writer_tensor(w, "t", SG_DTYPE_F32, 5, eight); break;
    case 7: sg_gguf_writer_tensor(w, lengthy, SG_DTYPE_F32, 1, eight); break;
    case 8: sg_gguf_writer_str(w, "k", "\xff"); break;
    case 9: sg_gguf_writer_f32(w, "k\n", 1); break;
    default: sg_gguf_writer_array(w, "k", SG_GGUF_STRING, eight, 1); break;
    }
    sg_gguf_writer_u32(w, "another", 1); /* after a failure: nothing happens, the first error stays */
    fails(sg_gguf_writer_begin_data(w, err), cases[_i].code, cases[_i].word);
    fails(sg_gguf_writer_data(w, eight, 8, err), cases[_i].code, cases[_i].word);
    fails(sg_gguf_writer_finish(w, err), cases[_i].code, cases[_i].word);
    sg_gguf_writer_abort(&w);
    ck_assert_uint_eq(temp_count(&tmp), 0);
}
END_TEST

START_TEST(writer_refuses_wrong_order) {
    const uint64_t ne[] = { 8 };
    static const char bytes[64] = { 0 };
    const char *path = temp_path(&tmp, "x.gguf");
    sg_gguf_writer *w = NULL;
    fails(sg_gguf_writer_create(path, 24, false, &w, err), SG_E_ARG, "power of two");
    fails(sg_gguf_writer_create(path, 4, false, &w, err), SG_E_ARG, "power of two");
    for (int i = 0; i < 5; i++) {
        ok(sg_gguf_writer_create(path, 0, false, &w, err));
        sg_gguf_writer_tensor(w, "t", SG_DTYPE_F32, 1, ne);
        if (i == 0) {
            fails(sg_gguf_writer_data(w, bytes, 32, err), SG_E_ARG, "before the header");
            sg_gguf_writer_abort(&w);
            continue;
        }
        ok(sg_gguf_writer_begin_data(w, err));
        if (i == 1) fails(sg_gguf_writer_data(w, bytes, 33, err), SG_E_ARG, "more than the 32 bytes of tensor t");
        if (i == 2) fails(sg_gguf_writer_begin_data(w, err), SG_E_ARG, "already");
        if (i == 3) {
            sg_gguf_writer_u32(w, "k", 1);
            fails(sg_gguf_writer_data(w, bytes, 32, err), SG_E_ARG, "after the header");
        }
        if (i == 4) {
            ok(sg_gguf_writer_data(w, bytes, 32, err));
            ok(sg_gguf_writer_data(w, bytes, 0, err));
            fails(sg_gguf_writer_data(w, bytes, 1, err), SG_E_ARG, "after the last");
        }
        sg_gguf_writer_abort(&w);
    }
    ck_assert_uint_eq(temp_count(&tmp), 0);
}
END_TEST

/* A file-size limit stands for a full disk. */
START_TEST(writer_reports_write_errors) {
    const uint64_t ne[] = { 1 << 20 };
    uint8_t *data = calloc(1, 4 << 20);
    const struct rlimit limit = { 100000, RLIM_INFINITY };
    sg_gguf_writer *w = NULL;
    signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    ok(sg_gguf_writer_create(temp_path(&tmp, "x.gguf"), 0, false, &w, err));
    sg_gguf_writer_tensor(w, "t", SG_DTYPE_F32, 1, ne);
    ok(sg_gguf_writer_begin_data(w, err));
    fails(sg_gguf_writer_data(w, data, 4 << 20, err), SG_E_IO, "x.gguf: cannot write");
    fails(sg_gguf_writer_finish(w, err), SG_E_IO, "cannot write");
    sg_gguf_writer_abort(&w);
    ck_assert_uint_eq(temp_count(&tmp), 0);
    free(data);
}
END_TEST

START_TEST(writer_refuses_places) {
    sg_gguf_writer *w = NULL;
    fails(sg_gguf_writer_create("/dev/full", 0, true, &w, err), SG_E_ACCESS,
          "/dev/full: is there and not a regular file");
    fails(sg_gguf_writer_create(tmp.path, 0, true, &w, err), SG_E_ACCESS, "not a regular file");
    fails(sg_gguf_writer_create(temp_path(&tmp, "none/x.gguf"), 0, false, &w, err), SG_E_NOT_FOUND, "none/x.gguf");
    ck_assert(temp_write(temp_path(&tmp, "plain"), "x", 1));
    fails(sg_gguf_writer_create(temp_path(&tmp, "plain/x.gguf"), 0, false, &w, err), SG_E_NOT_FOUND, "plain/x.gguf");
    ck_assert_ptr_null(w);
}
END_TEST

int main(void) {
    Suite *s = suite_create("gguf_write");
    TCase *t = tcase_create("gguf_write");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, writer_leaves_nothing_or_all);
    tcase_add_loop_test(t, writer_refuses, 0, 11);
    tcase_add_test(t, writer_refuses_wrong_order);
    tcase_add_test(t, writer_reports_write_errors);
    tcase_add_test(t, writer_refuses_places);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
