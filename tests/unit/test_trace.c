/* Traces: what is written, what does not fit, threads. */
#include "runtime/base/trace.h"

#include "tests/io/expect.h"
#include "tests/io/temp.h"

#include <cjson/cJSON.h>
#include <check.h>
#include <pthread.h>

static temp_dir dir;

static void make_dir(void) { temp_open(&dir); }
static void remove_dir(void) { temp_close(&dir); }

static cJSON *written(const sg_trace *t) {
    const char *path = temp_path(&dir, "trace.json");
    ok(sg_trace_write(t, path, err));
    size_t n;
    char *text = (char *)temp_read(path, &n);
    ck_assert_ptr_nonnull(text);
    text[n] = 0;
    cJSON *j = cJSON_Parse(text);
    ck_assert_msg(j != NULL, "no JSON: %s", text);
    free(text);
    return j;
}

static const char *str(const cJSON *e, const char *key) { return cJSON_GetStringValue(cJSON_GetObjectItem(e, key)); }
static double num(const cJSON *e, const char *key) { return cJSON_GetNumberValue(cJSON_GetObjectItem(e, key)); }

/* The i-th event of phase `ph`, NULL when there are fewer. */
static const cJSON *event(const cJSON *j, const char *ph, int i) {
    const cJSON *e;
    cJSON_ArrayForEach(e, cJSON_GetObjectItem(j, "traceEvents")) if (strcmp(str(e, "ph"), ph) == 0 && i-- == 0) return e;
    return NULL;
}

static double left_out(const cJSON *j) { return num(cJSON_GetObjectItem(j, "otherData"), "left_out"); }

START_TEST(spans) {
    sg_trace *t = sg_trace_create(8);
    ck_assert_uint_ge(sg_trace_bytes(t), 8 * 32);
    sg_trace_add(t, SG_TRACE_STEP, "a \"quoted\" step", 3, 100.5, 100.50025, 7);
    sg_trace_add(t, SG_TRACE_READ, NULL, SG_TRACE_READS + 2, 100.25, 101, 4608);
    cJSON *j = written(t);
    const cJSON *a = event(j, "X", 0), *b = event(j, "X", 1);
    ck_assert_str_eq(str(a, "name"), "a \"quoted\" step");
    ck_assert_str_eq(str(a, "cat"), "step");
    ck_assert_double_eq_tol(num(a, "ts"), 250000, 0.002); /* counted from the first that begins */
    ck_assert_double_eq_tol(num(a, "dur"), 250, 0.002);
    ck_assert_double_eq(num(a, "tid"), 3);
    ck_assert_double_eq(num(cJSON_GetObjectItem(a, "args"), "layer"), 7);
    ck_assert_str_eq(str(b, "name"), "read");
    ck_assert_double_eq(num(b, "ts"), 0);
    ck_assert_double_eq(num(cJSON_GetObjectItem(b, "args"), "bytes"), 4608);
    ck_assert_ptr_null(event(j, "X", 2));
    ck_assert_double_eq(left_out(j), 0);
    /* the process, then a name and a place for each lane */
    ck_assert_str_eq(str(cJSON_GetObjectItem(event(j, "M", 1), "args"), "name"), "thread 3");
    ck_assert_str_eq(str(cJSON_GetObjectItem(event(j, "M", 3), "args"), "name"), "read 2");
    ck_assert_ptr_null(event(j, "M", 5));
    cJSON_Delete(j);

    sg_trace_clear(t);
    j = written(t);
    ck_assert_ptr_null(event(j, "X", 0));
    cJSON_Delete(j);
    sg_trace_destroy(&t);
    ck_assert_ptr_null(t);
}
END_TEST

START_TEST(what_does_not_fit) {
    sg_trace *t = sg_trace_create(2);
    for (int i = 0; i < 5; i++) sg_trace_add(t, SG_TRACE_TOKEN, NULL, 0, i, i + 1, (uint64_t)i);
    cJSON *j = written(t);
    ck_assert_ptr_nonnull(event(j, "X", 1));
    ck_assert_ptr_null(event(j, "X", 2));
    ck_assert_double_eq(left_out(j), 3);
    cJSON_Delete(j);
    fails(sg_trace_write(t, temp_path(&dir, "none/trace.json"), err), SG_E_IO, "none/trace.json: cannot be written: ");
    sg_trace_destroy(&t);
    ck_assert_ptr_null(sg_trace_create(SIZE_MAX / 8));
}
END_TEST

START_TEST(none) {
    sg_trace *t = NULL;
    sg_trace_add(t, SG_TRACE_WAIT, NULL, 0, 0, 1, 0);
    sg_trace_clear(t);
    ck_assert_uint_eq(sg_trace_bytes(t), 0);
    ok(sg_trace_write(t, "/nowhere/at/all", err));
    sg_trace_destroy(&t);
    const double a = sg_trace_now(), b = sg_trace_now();
    ck_assert(b >= a);
}
END_TEST

enum { THREADS = 4, EACH = 1000 };

static void *add_some(void *arg) {
    for (int i = 0; i < EACH; i++) sg_trace_add(arg, SG_TRACE_PREFETCH, NULL, 1, 0, 1, 1);
    return NULL;
}

START_TEST(threads) {
    sg_trace *t = sg_trace_create(THREADS * EACH);
    pthread_t ids[THREADS];
    for (int i = 0; i < THREADS; i++) ck_assert_int_eq(pthread_create(&ids[i], NULL, add_some, t), 0);
    for (int i = 0; i < THREADS; i++) pthread_join(ids[i], NULL);
    cJSON *j = written(t);
    double sum = 0;
    int n = 0;
    const cJSON *e;
    cJSON_ArrayForEach(e, cJSON_GetObjectItem(j, "traceEvents")) {
        if (strcmp(str(e, "ph"), "X") != 0) continue;
        sum += num(cJSON_GetObjectItem(e, "args"), "bytes");
        n++;
    }
    ck_assert_int_eq(n, THREADS * EACH);
    ck_assert_double_eq(sum, THREADS * EACH);
    ck_assert_double_eq(left_out(j), 0);
    cJSON_Delete(j);
    sg_trace_destroy(&t);
}
END_TEST

int main(void) {
    Suite *s = suite_create("trace");
    TCase *tc = tcase_create("trace");
    tcase_add_unchecked_fixture(tc, make_dir, remove_dir);
    tcase_add_test(tc, spans);
    tcase_add_test(tc, what_does_not_fit);
    tcase_add_test(tc, none);
    tcase_add_test(tc, threads);
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    const int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
