/* Messages stay one printable line whatever they quote. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/error.h"
#include "runtime/base/utf8.h"

START_TEST(hostile_text) {
    sg_error err;
    ck_assert_int_eq(sg_fail(&err, SG_E_FORMAT, "key \"%s\"", "a\x1b[2J\nb\xc2\x9b" "c\xff\x7f\xc3\xa9"), SG_E_FORMAT);
    ck_assert_str_eq(err.message, "key \"a?[2J?b?c??\xc3\xa9\"");
    ck_assert_int_eq(err.code, SG_E_FORMAT);
}
END_TEST

START_TEST(cut_character) {
    char text[SG_ERROR_MESSAGE_SIZE + 8] = "";
    for (int shift = 0; shift < 4; shift++) {
        memset(text, 'x', (size_t)shift);
        for (size_t i = (size_t)shift; i + 4 < sizeof text; i += 4) memcpy(text + i, "\xf0\x9f\x98\x80", 5);
        sg_error err;
        sg_fail(&err, SG_E_IO, "%s", text);
        const size_t n = strlen(err.message);
        ck_assert_uint_gt(n, SG_ERROR_MESSAGE_SIZE - 6);
        ck_assert_uint_eq(sg_utf8_check(err.message, n), n);
        ck_assert_ptr_null(strchr(err.message, '?'));
    }
}
END_TEST

static void keep(void *user, sg_log_level level, const char *line) {
    (void)level;
    strcpy(user, line);
}

START_TEST(log_lines) {
    char line[600] = "";
    const sg_log log = { keep, line };
    sg_log_line(&log, SG_LOG_WARN, "pre \"%s\"", "\r\x1b]0;title\x07");
    ck_assert_str_eq(line, "pre \"??]0;title?\"");
}
END_TEST

int main(void) {
    Suite *s = suite_create("error");
    TCase *t = tcase_create("error");
    tcase_add_test(t, hostile_text);
    tcase_add_test(t, cut_character);
    tcase_add_test(t, log_lines);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
