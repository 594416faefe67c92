/* Finding devices: a driver that crashes, hangs or is absent must cost a sentence, never the process. */
#include <check.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gpu/gpu.h"

static size_t list_two(sg_gpu_device *out, size_t cap, char *why, size_t why_size) {
    (void)why, (void)why_size;
    ck_assert_uint_ge(cap, 2);
    out[0] = (sg_gpu_device){ .api = SG_GPU_VULKAN, .kind = SG_GPU_DISCRETE, .name = "one", .memory = 1 };
    out[1] = (sg_gpu_device){ .api = SG_GPU_OPENCL, .kind = SG_GPU_SOFTWARE, .name = "two", .max_buffer = 2 };
    return 2;
}

static size_t list_crash(sg_gpu_device *out, size_t cap, char *why, size_t why_size) {
    (void)out, (void)cap, (void)why, (void)why_size;
    signal(SIGSEGV, SIG_DFL);
    raise(SIGSEGV);
    return 0;
}

static size_t list_hang(sg_gpu_device *out, size_t cap, char *why, size_t why_size) {
    (void)out, (void)cap, (void)why, (void)why_size;
    for (;;) pause();
    return 0;
}

static size_t list_exit(sg_gpu_device *out, size_t cap, char *why, size_t why_size) {
    (void)out, (void)cap, (void)why, (void)why_size;
    _exit(3);
}

START_TEST(devices_come_back) {
    sg_gpu_device d[4];
    char why[160];
    ck_assert_uint_eq(sg_gpu_discover(list_two, d, 4, 20000, why, sizeof why), 2);
    ck_assert_str_eq(d[0].name, "one");
    ck_assert_uint_eq(d[1].max_buffer, 2);
    ck_assert_uint_eq(sg_gpu_discover(list_two, d, 1, 20000, why, sizeof why), 1);
}
END_TEST

START_TEST(broken_drivers) {
    sg_gpu_device d[4];
    char why[160];
    ck_assert_uint_eq(sg_gpu_discover(list_crash, d, 4, 20000, why, sizeof why), 0);
    ck_assert_msg(strstr(why, "crashed") != NULL, "%s", why);
    ck_assert_uint_eq(sg_gpu_discover(list_hang, d, 4, 50, why, sizeof why), 0);
    ck_assert_msg(strstr(why, "did not answer") != NULL, "%s", why);
    ck_assert_uint_eq(sg_gpu_discover(list_exit, d, 4, 20000, why, sizeof why), 0);
    ck_assert_msg(strstr(why, "exit code 3") != NULL, "%s", why);
}
END_TEST

START_TEST(absent_library) {
    static const char *const names[] = { "libsparsegen-no-such-library.so.9", NULL };
    char why[160] = "";
    ck_assert_ptr_null(sg_gpu_open_library(names, why, sizeof why));
    ck_assert_uint_gt(strlen(why), 0);
}
END_TEST

START_TEST(real_list) {
    sg_gpu_device *d = NULL;
    size_t n = 0;
    sg_error err = { 0 };
    ck_assert_int_eq(sg_gpu_list(&d, &n, NULL, NULL, &err), SG_OK);
    for (size_t i = 0; i < n; i++) ck_assert_uint_gt(strlen(d[i].name), 0);
    sg_free(d);
    ck_assert_int_eq(sg_gpu_list(NULL, &n, NULL, NULL, &err), SG_E_ARG);
}
END_TEST

int main(void) {
    Suite *s = suite_create("discover");
    TCase *t = tcase_create("discover");
    tcase_set_timeout(t, 0);
    tcase_add_test(t, devices_come_back);
    tcase_add_test(t, broken_drivers);
    tcase_add_test(t, absent_library);
    tcase_add_test(t, real_list);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
