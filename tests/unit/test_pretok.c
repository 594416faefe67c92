/* How each pre-tokenizer cuts one text with something of everything. The expected lengths were made with Hugging Face's
 * tokenizers 0.23.3 from the models' pre_tokenizer sections ("default": from llama.cpp's four expressions). */
#include "runtime/text/pretok.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char text[] =
    "Hello  world's I'LL DON'T\n\n\t 12345 x1\r\n  n\xC3\xA9"
    "e e\xCC\x81te\xCC\x81 \xE4\xB8\xAD\xE6\x96\x87\xE5\xAD\x97\xE3\x81\xB2\xE3\x82\x89\xE3\x82\xAB\xE3\x82\xBF "
    "\xEA\xB0\x80\xEB\x82\x98 \xE0\xA4\x95\xE0\xA5\x8D\xE0\xA4\xB7\xE0\xA4\xBF "
    "\xD0\x9F\xD1\x80\xD0\xB8\xD0\xB2\xD0\xB5\xD1\x82 \xCE\x91\xCE\x92\xCE\xB3 \xEF\xBC\x81\xEF\xBC\x9F a_b/c//\n "
    "\xC2\xABq\xC2\xBB \xE2\x82\xAC$+`= ... \xF0\x9F\x98\x80\xF0\x9F\x91\x8D\xF0\x9F\x8F\xBD "
    "\xC2\xA0\xE3\x80\x80\xE1\xA0\x8E HTTPServer iPhone \xC2\xB2\xD9\xA3\xE2\x85\xA7"
    "12 y   ";

static const struct {
    const char *name, *lengths; /* bytes of the words */
} expected[] = {
    { "default", "5 1 6 1 1 2 1 2 4 1 1 3 1 3 2 2 1 3 5 2 2 2 2 22 7 4 3 3 3 13 7 1 6 2 1 1 1 1 2 2 2 1 2 4 2 1 1 1 3 "
                 "13 3 3 3 11 7 1 9 2 3" },
    { "gpt-2",
      "5 1 6 2 2 1 2 4 1 1 3 6 2 1 3 5 2 2 2 2 22 7 4 3 3 3 13 7 7 2 1 1 1 1 2 1 3 1 2 8 4 13 3 3 3 11 7 10 2 3" },
    { "llama-bpe",
      "5 1 6 2 2 3 4 2 2 1 1 3 2 2 1 2 1 5 2 4 2 22 7 4 6 3 13 7 7 2 2 2 3 3 1 2 8 4 13 3 3 3 11 7 1 7 2 2 3" },
    { "qwen2", "5 1 6 2 2 3 4 2 2 1 1 1 1 1 1 1 2 1 2 1 5 2 4 2 22 7 4 6 3 13 7 7 2 2 2 3 3 1 2 8 4 13 3 3 3 11 7 1 2 "
               "2 3 1 1 2 3" },
    { "qwen35",
      "5 1 6 2 2 3 4 2 2 1 1 1 1 1 1 1 2 1 2 1 5 8 22 7 13 13 7 7 2 2 2 3 3 1 2 8 4 13 3 3 3 11 7 1 2 2 3 1 1 2 3" },
    { "starcoder", "5 1 6 2 2 1 2 4 1 1 4 1 1 1 1 1 2 1 3 5 2 2 2 2 22 7 4 3 3 3 13 7 7 2 1 1 1 1 2 1 3 1 2 8 4 13 3 3 "
                   "3 11 7 1 2 2 3 1 1 2 3" },
    { "falcon", "5 1 6 1 1 2 1 2 4 1 1 3 1 3 2 2 1 3 5 2 2 2 2 22 7 4 3 3 3 13 7 1 6 2 1 1 1 1 2 2 2 1 2 4 4 1 3 13 3 "
                "3 3 11 7 10 2 3" },
    { "gpt-4o", "5 1 8 5 6 2 1 1 3 2 2 1 2 1 5 8 22 7 13 13 7 7 2 2 2 3 3 1 2 8 4 13 3 3 3 11 2 5 1 7 2 2 3" },
    { "tekken",
      "5 1 6 2 2 3 4 2 2 1 1 1 1 1 1 1 2 1 2 1 5 8 22 7 13 13 7 7 2 2 2 3 3 1 2 8 4 13 3 3 3 11 2 5 1 2 2 3 1 1 2 3" },
    { "deepseek-v3", "5 1 6 2 2 3 4 2 2 2 3 2 2 1 2 1 5 8 1 21 7 13 13 7 7 2 2 2 3 3 1 2 8 4 13 3 3 3 11 7 1 7 2 2 3" },
    { "deepseek-llm", "5 1 6 1 1 2 1 2 4 1 1 1 1 2 5 2 1 1 1 1 2 2 1 2 2 2 3 21 1 6 1 12 13 7 7 2 1 1 1 1 2 1 3 1 3 3 "
                      "4 4 13 1 2 3 3 11 7 1 4 3 2 2 3" },
    { "deepseek-coder", "5 1 6 1 1 2 1 2 4 1 1 1 1 2 1 1 1 1 1 2 1 1 1 1 5 2 2 2 2 1 21 1 6 1 3 3 3 3 13 7 7 2 1 1 1 1 "
                        "2 1 3 1 2 1 3 4 4 16 6 11 7 1 2 2 3 1 1 2 3" },
    { "bloom", "5 1 8 5 6 3 6 3 3 5 8 22 7 13 13 7 7 8 1 6 8 4 13 6 3 11 7 10 2 3" },
    { "viking", "5 1 8 5 6 3 1 1 1 1 1 1 2 1 3 5 8 22 7 13 13 7 7 8 1 6 8 4 13 6 3 11 7 1 2 2 3 1 1 2 3" },
    { "bailingmoe", "5 1 6 2 2 3 4 2 2 1 1 1 1 1 1 1 2 1 2 1 5 2 4 2 22 7 4 6 3 13 7 7 2 2 2 3 3 1 2 8 4 13 3 3 3 11 7 "
                    "1 2 2 3 1 1 2 3" },
    { "seed-coder", "5 1 6 2 2 3 4 2 2 1 1 1 1 1 1 1 2 1 2 1 5 2 4 2 22 7 4 6 3 13 7 7 2 2 2 2 1 3 1 2 8 4 13 3 3 3 11 "
                    "7 1 2 2 3 1 1 2 3" },
};
#define N_EXPECTED ((int)(sizeof expected / sizeof *expected))

static sg_pretok *make(const char *name) {
    sg_pretok *p;
    sg_error err;
    ck_assert_msg(sg_pretok_create(name, NULL, &p, &err) == SG_OK, "%s", err.message);
    return p;
}

/* Lengths of the words as text; they must lie side by side and fill the text. */
static char *cut(const sg_pretok *p, const char *s, size_t n) {
    sg_pretok_work w = { 0 };
    sg_error err;
    sg_str out = { 0 };
    size_t at = 0;
    sg_str_puts(&out, "");
    ck_assert(sg_pretok_split(p, s, n, &w, &err) == SG_OK);
    for (size_t i = 0; i < w.n; i++) {
        ck_assert_uint_eq(w.spans[i].start, at);
        ck_assert_uint_gt(w.spans[i].len, 0);
        at += w.spans[i].len;
        sg_str_printf(&out, i ? " %zu" : "%zu", w.spans[i].len);
    }
    ck_assert_uint_eq(at, n);
    sg_pretok_work_free(&w);
    return out.data;
}

START_TEST(words) {
    sg_pretok *p = make(expected[_i].name);
    char *got = cut(p, text, sizeof text - 1);
    ck_assert_msg(strcmp(got, expected[_i].lengths) == 0, "%s: %s", expected[_i].name, got);
    free(got);
    char *nothing = cut(p, "", 0);
    ck_assert_str_eq(nothing, "");
    free(nothing);
    sg_pretok_destroy(&p);
    sg_pretok_destroy(&p);
}
END_TEST

START_TEST(names) {
    static const char *const known[] = { "llama3", "llama-v3", "smollm", "glm4", "poro-chat",
                                         "lfm2",   "jais",     "refact", "olmo" };
    static const char *const unknown[] = { "", " ", "gpt", "2", "gpt-2 phi-2", "llama", "Llama3", "kimi-k2" };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) ck_assert_msg(sg_pretok_known(known[i]), "%s", known[i]);
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
        ck_assert_msg(!sg_pretok_known(unknown[i]), "'%s'", unknown[i]);
    sg_pretok *p = make("llama-bpe");
    ck_assert(sg_pretok_ignores_merges(p) && sg_pretok_adds_bos(p));
    sg_pretok_destroy(&p);
    p = make("qwen2");
    ck_assert(!sg_pretok_ignores_merges(p) && !sg_pretok_adds_bos(p));
    sg_pretok_destroy(&p);
}
END_TEST

int main(void) {
    Suite *s = suite_create("pretok");
    TCase *tc = tcase_create("pretok");
    tcase_add_loop_test(tc, words, 0, N_EXPECTED);
    tcase_add_test(tc, names);
    suite_add_tcase(s, tc);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
