/* Numbers and sizes as people type them. */
#include <check.h>
#include <stdlib.h>

#include "runtime/cli/args.h"

START_TEST(sizes) {
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = { { "0", 0 },
                 { "1", 1 },
                 { "4k", 4096 },
                 { "512M", 512u << 20 },
                 { "2G", UINT64_C(2) << 30 },
                 { "3t", UINT64_C(3) << 40 },
                 { "16777215T", UINT64_C(16777215) << 40 },
                 { "18446744073709551615", UINT64_MAX } };
    static const char *const bad[] = { "",     "G",   "-1", "+1",   " 1",        "1 ",
                                       "1.5G", "2GB", "2X", "0x10", "16777216T", "18446744073709551616",
                                       "1KK" };
    uint64_t v;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        ck_assert_msg(cli_parse_size(good[i].text, &v), "%s", good[i].text);
        ck_assert_uint_eq(v, good[i].bytes);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        ck_assert_msg(!cli_parse_size(bad[i], &v), "'%s' was taken", bad[i]);
}
END_TEST

START_TEST(numbers) {
    int64_t i;
    uint64_t u;
    double d;
    ck_assert(cli_parse_int("-1", &i) && i == -1);
    ck_assert(cli_parse_int("9223372036854775807", &i) && i == INT64_MAX);
    ck_assert(!cli_parse_int("9223372036854775808", &i) && !cli_parse_int("", &i) && !cli_parse_int("1x", &i) &&
              !cli_parse_int(" 1", &i));
    ck_assert(cli_parse_u64("18446744073709551615", &u) && u == UINT64_MAX);
    ck_assert(!cli_parse_u64("-1", &u) && !cli_parse_u64("", &u) && !cli_parse_u64("18446744073709551616", &u));
    ck_assert(cli_parse_real("0.25", &d) && d == 0.25);
    ck_assert(!cli_parse_real("nan", &d) && !cli_parse_real("inf", &d) && !cli_parse_real("1e999", &d) &&
              !cli_parse_real("", &d) && !cli_parse_real("0.5 ", &d));
}
END_TEST

int main(void) {
    Suite *suite = suite_create("args");
    TCase *t = tcase_create("args");
    tcase_add_test(t, sizes);
    tcase_add_test(t, numbers);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
