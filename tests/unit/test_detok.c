/* Streaming detokenizer: text comes out whole characters at a time and is the same however it is cut. */
#include "tests/unit/text_fixture.h"

#include "runtime/base/utf8.h"

#include <check.h>

static sg_tokenizer *make(bool spm) {
    fixture f;
    if (spm)
        fx_begin_spm(&f);
    else
        fx_begin_bpe(&f, "gpt-2");
    sg_tokenizer *t;
    sg_error err;
    ck_assert_msg(fx_open(&f, NULL, &t, &err) == SG_OK, "%s", err.message);
    return t;
}

static uint32_t next_random(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* What the bytes stand for as text: Unicode's way, U+FFFD for each longest beginning of a character that stays
 * unfinished. */
static void expect(const uint8_t *b, size_t n, sg_str *out) {
    for (size_t i = 0; i < n;) {
        size_t len = sg_utf8_next((const char *)b + i, n - i, NULL);
        if (len > 0) {
            sg_str_append(out, (const char *)b + i, len);
        } else {
            for (len = 1; i + len < n && sg_utf8_missing((const char *)b + i, len + 1) > 0;) len++;
            sg_str_puts(out, "\xEF\xBF\xBD");
        }
        i += len;
    }
}

/* Bytes as tokens of one byte each: with GPT-2's alphabet id = byte. */
START_TEST(never_half_a_character) {
    sg_tokenizer *t = make(false);
    static const uint8_t edge[] = { 'a',  ' ',  0x80, 0xBF, 0xC3, 0xA9, 0xE2, 0x82, 0xAC,
                                    0xF0, 0x9F, 0x98, 0xED, 0xA0, 0xF4, 0x90, 0xFF };
    uint32_t seed = 1;
    for (int round = 0; round < 20000; round++) {
        uint8_t bytes[12];
        const size_t n = next_random(&seed) % sizeof bytes;
        sg_str want = { 0 }, got = { 0 };
        sg_detok d;
        sg_detok_init(&d, t, false, false);
        for (size_t i = 0; i < n; i++) {
            bytes[i] = edge[next_random(&seed) % sizeof edge];
            sg_detok_feed(&d, bytes[i], &got);
            ck_assert_uint_eq(sg_utf8_check(got.data ? got.data : "", got.len), got.len);
            ck_assert_uint_lt(d.n_pending, 4);
        }
        sg_detok_finish(&d, &got);
        ck_assert_uint_eq(d.n_pending, 0);
        expect(bytes, n, &want);
        ck_assert_uint_eq(got.len, want.len);
        if (want.len) ck_assert_mem_eq(got.data, want.data, want.len);
        free(want.data);
        free(got.data);
    }
    sg_tokenizer_destroy(&t);
}
END_TEST

START_TEST(pieces_that_span_tokens) {
    sg_tokenizer *t = make(false);
    sg_detok d;
    sg_str s = { 0 };
    sg_detok_init(&d, t, true, false);
    /* U+1F600, one byte per token: nothing comes before the last one */
    static const uint8_t smile[] = { 0xF0, 0x9F, 0x98, 0x80 };
    for (int i = 0; i < 4; i++) {
        ck_assert_uint_eq(s.len, 0);
        sg_detok_feed(&d, smile[i], &s);
    }
    ck_assert_str_eq(s.data, "\xF0\x9F\x98\x80");
    /* an unfinished one before a whole piece */
    sg_detok_feed(&d, 0xE2, &s);
    sg_detok_feed(&d, sg_tokenizer_find(t, "hello"), &s);
    ck_assert_str_eq(s.data, "\xF0\x9F\x98\x80\xEF\xBF\xBDhello");
    sg_detok_feed(&d, 0xC3, &s);
    sg_detok_finish(&d, &s);
    sg_detok_finish(&d, &s);
    ck_assert_str_eq(s.data, "\xF0\x9F\x98\x80\xEF\xBF\xBDhello\xEF\xBF\xBD");
    free(s.data);
    sg_tokenizer_destroy(&t);
}
END_TEST

static void check_detok(const sg_tokenizer *t, const char *const *pieces, size_t n, bool at_start, bool special,
                        const char *want) {
    sg_detok d;
    sg_str s = { 0 };
    sg_str_puts(&s, "");
    sg_detok_init(&d, t, at_start, special);
    for (size_t i = 0; i < n; i++) {
        const int32_t id = sg_tokenizer_find(t, pieces[i]);
        ck_assert_int_ge(id, 0);
        sg_detok_feed(&d, id, &s);
    }
    sg_detok_finish(&d, &s);
    ck_assert_str_eq(s.data, want);
    free(s.data);
}

START_TEST(first_space_and_specials) {
    sg_tokenizer *t = make(true);
    static const char *const text[] = { "<s>", "\xE2\x96\x81hello", "<|user|>", "\xE2\x96\x81world", "<0xC3>", "<0xA9>",
                                        "</s>" };
    check_detok(t, text, 7, true, false, "hello world\xC3\xA9");
    check_detok(t, text, 7, false, false, " hello world\xC3\xA9");
    check_detok(t, text, 7, false, true, "<s> hello<|user|> world\xC3\xA9</s>");
    static const char *const spaces[] = { "\xE2\x96\x81\xE2\x96\x81", "h" };
    check_detok(t, spaces, 2, true, false, " h"); /* only one of them was put there */
    static const char *const user[] = { "<tag>", "\xE2\x96\x81", "h" };
    check_detok(t, user, 3, true, false, "<tag> h");
    sg_detok d;
    sg_str s = { 0 };
    sg_detok_init(&d, t, true, true);
    sg_detok_feed(&d, -1, &s); /* ids outside the vocabulary give nothing */
    sg_detok_feed(&d, INT32_MAX, &s);
    sg_detok_feed(&d, INT32_MIN, &s);
    ck_assert_uint_eq(s.len, 0);
    sg_tokenizer_destroy(&t);
}
END_TEST

int main(void) {
    Suite *s = suite_create("detok");
    TCase *tc = tcase_create("detok");
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, never_half_a_character);
    tcase_add_test(tc, pieces_that_span_tokens);
    tcase_add_test(tc, first_space_and_specials);
    suite_add_tcase(s, tc);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
