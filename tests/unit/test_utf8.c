/* UTF-8 as RFC 3629 has it. */
#include "runtime/base/utf8.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

/* Definition by arithmetic, apart from the table in the code: length of the character that s begins with, or 0. */
static size_t slow_next(const uint8_t *s, size_t n, uint32_t *cp) {
    static const uint32_t smallest[5] = { 0, 0, 0x80, 0x800, 0x10000 };
    if (n == 0) return 0;
    size_t len = 0;
    if (s[0] < 0x80) {
        *cp = s[0];
        return 1;
    }
    while (len < 8 && (s[0] & (0x80 >> len))) len++;
    if (len < 2 || len > 4 || len > n) return 0;
    uint32_t c = s[0] & (0x7Fu >> len);
    for (size_t i = 1; i < len; i++) {
        if ((s[i] & 0xC0) != 0x80) return 0;
        c = c * 64 + (s[i] & 0x3F);
    }
    if (c < smallest[len] || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) return 0;
    *cp = c;
    return len;
}

/* A plain condition: check's own macros are too slow for a million of them. */
static bool good(uint32_t cp) {
    char out[4];
    const size_t n = sg_utf8_put(cp, out);
    uint32_t back = 0;
    if (sg_utf8_next(out, n, &back) != n || back != (cp >= 0xD800 && cp <= 0xDFFF ? 0xFFFD : cp)) return false;
    for (size_t k = 1; k < n; k++)
        if (sg_utf8_next(out, k, NULL) != 0 || sg_utf8_missing(out, k) != n - k) return false;
    return sg_utf8_missing(out, n) == 0;
}

START_TEST(every_code_point) {
    for (uint32_t cp = 0; cp <= 0x10FFFF; cp++)
        if (!good(cp)) ck_abort_msg("U+%04X", cp);
    char out[4];
    ck_assert_uint_eq(sg_utf8_put(0x110000, out), 3);
    ck_assert_mem_eq(out, "\xEF\xBF\xBD", 3);
    ck_assert_uint_eq(sg_utf8_put(UINT32_MAX, out), 3);
}
END_TEST

/* All sequences of two bytes, and of four from the bytes where the rules change. */
START_TEST(agrees_with_definition) {
    static const uint8_t edge[] = { 0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF,
                                    0xE0, 0xE1, 0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xF8, 0xFF };
    const size_t n = sizeof edge;
    for (uint32_t i = 0; i < 65536 + n * n * n * n; i++) {
        uint8_t b[4] = { 0x80, 0x80, 0x80, 0x80 };
        if (i < 65536) {
            b[0] = (uint8_t)(i >> 8);
            b[1] = (uint8_t)i;
        } else {
            uint32_t k = i - 65536;
            for (int j = 0; j < 4; j++, k /= (uint32_t)n) b[j] = edge[k % n];
        }
        for (size_t len = 0; len <= 4; len++) {
            uint32_t want = 0, got = 0;
            const size_t w = slow_next(b, len, &want);
            const size_t g = sg_utf8_next((const char *)b, len, &got);
            if (w != g || (w && want != got))
                ck_abort_msg("%02x %02x %02x %02x, %zu: %zu %zu", b[0], b[1], b[2], b[3], len, w, g);
        }
    }
}
END_TEST

START_TEST(offset_of_fault) {
    static const struct {
        const char *s;
        size_t n, at;
    } t[] = {
        { "", 0, 0 },
        { "abc", 3, 3 },
        { "a\0b", 3, 3 },
        { "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80", 9, 9 },
        { "ab\xC3", 3, 2 },
        { "ab\xC3(", 4, 2 },
        { "\xE2\x82\xAC\x80", 4, 3 },
        { "x\xED\xA0\x80", 4, 1 },      /* surrogate */
        { "\xC0\x80", 2, 0 },           /* overlong zero */
        { "ok\xF4\x90\x80\x80", 6, 2 }, /* above U+10FFFF */
        { "\xE0\x9F\xBF", 3, 0 },       /* overlong */
        { "\xF0\x8F\xBF\xBF", 4, 0 },   /* overlong */
        { "abc\xFF", 4, 3 },
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) ck_assert_uint_eq(sg_utf8_check(t[i].s, t[i].n), t[i].at);
}
END_TEST

START_TEST(missing_bytes) {
    ck_assert_uint_eq(sg_utf8_missing("", 0), 0);
    ck_assert_uint_eq(sg_utf8_missing("a", 1), 0);
    ck_assert_uint_eq(sg_utf8_missing("\xC3", 1), 1);
    ck_assert_uint_eq(sg_utf8_missing("\xE2\x82", 2), 1);
    ck_assert_uint_eq(sg_utf8_missing("\xF0", 1), 3);
    ck_assert_uint_eq(sg_utf8_missing("\xE0\x80", 2), 0); /* can become nothing */
    ck_assert_uint_eq(sg_utf8_missing("\xF4\x90", 2), 0);
    ck_assert_uint_eq(sg_utf8_missing("\x80", 1), 0);
    ck_assert_uint_eq(sg_utf8_missing("\xE2(", 2), 0);
}
END_TEST

int main(void) {
    Suite *s = suite_create("utf8");
    TCase *tc = tcase_create("utf8");
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, every_code_point);
    tcase_add_test(tc, agrees_with_definition);
    tcase_add_test(tc, offset_of_fault);
    tcase_add_test(tc, missing_bytes);
    suite_add_tcase(s, tc);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
