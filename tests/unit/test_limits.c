/* That the limits are measured, by one thread and by more than there are cores. How high they are is the machine's
 * business. */
#include <check.h>
#include <math.h>
#include <stdlib.h>

#include "runtime/base/cpu.h"
#include "sparsegen.h"

static void measure(const char *mask, uint32_t threads) {
    sg_error err = { 0 };
    sg_limits l;
    ck_assert_msg(sg_limits_measure(mask, threads, &l, &err) == SG_OK, "%s", err.message);
    ck_assert_uint_ge(l.n_threads, 1);
    ck_assert_uint_le(l.n_threads, threads ? threads : sg_cpu_count());
    if (mask) ck_assert_str_eq(l.kernel_tier, mask);
    const double rates[] = { l.read, l.read_plain, l.read_median, l.int8, l.int8_sum, l.f32 };
    for (int i = 0; i < 6; i++) ck_assert_msg(isfinite(rates[i]) && rates[i] > 0, "rate %d is %g", i, rates[i]);
    ck_assert(l.read >= l.read_plain);
    ck_assert(l.read >= l.read_median);
}

START_TEST(measured) {
    measure("ref", 1);
    measure(NULL, sg_cpu_count() + 1);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("limits");
    TCase *t = tcase_create("limits");
    tcase_set_timeout(t, 200);
    tcase_add_test(t, measured);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
