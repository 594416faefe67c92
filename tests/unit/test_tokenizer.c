/* Both tokenizers on small vocabularies made here. */
#include "tests/unit/text_fixture.h"

#include "runtime/base/utf8.h"

#include <check.h>
#include <math.h>
#include <stdio.h>

static int n_warnings;
static char last_warning[512];

static void count_line(void *user, sg_log_level level, const char *line) {
    (void)user;
    if (level == SG_LOG_WARN) n_warnings++;
    snprintf(last_warning, sizeof last_warning, "%s", line);
}

static sg_tokenizer *make(fixture *f) {
    sg_tokenizer *t;
    sg_error err;
    const sg_log log = { count_line, NULL };
    n_warnings = 0;
    ck_assert_msg(fx_open(f, &log, &t, &err) == SG_OK, "%s", err.message);
    return t;
}

static sg_tokenizer *make_spm(void) {
    fixture f;
    fx_begin_spm(&f);
    return make(&f);
}

static sg_tokenizer *make_bpe(const char *pre) {
    fixture f;
    fx_begin_bpe(&f, pre);
    return make(&f);
}

static sg_ids encode(const sg_tokenizer *t, const char *text, size_t n, unsigned flags) {
    sg_ids ids = { 0 };
    sg_error err;
    ck_assert_msg(sg_tokenizer_encode(t, text, n, flags, &ids, &err) == SG_OK, "%s", err.message);
    return ids;
}

/* The tokens of `text` as their vocabulary entries, separated by blanks. */
static void check_tokens(const sg_tokenizer *t, const char *text, unsigned flags, const char *want) {
    sg_ids ids = encode(t, text, strlen(text), flags);
    char copy[512];
    snprintf(copy, sizeof copy, "%s", want);
    size_t i = 0;
    for (char *save, *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save), i++) {
        const int32_t id = sg_tokenizer_find(t, w);
        ck_assert_msg(id >= 0, "'%s' is not in the vocabulary", w);
        ck_assert_msg(i < ids.len && ids.data[i] == id, "'%s': token %zu is %d, not %d ('%s')", text, i,
                      i < ids.len ? ids.data[i] : -1, id, w);
    }
    ck_assert_msg(i == ids.len, "'%s' gives %zu tokens, not %zu", text, ids.len, i);
    free(ids.data);
}

#define SP "\xE2\x96\x81"
#define G "\xC4\xA0"

START_TEST(byte_tokens) {
    static const struct {
        const char *text;
        int byte;
    } cases[] = { { "<0x00>", 0 },   { "<0x0A>", 10 },  { "<0xfF>", 255 }, { "<0x 1>", -1 }, { "<0x+1>", -1 },
                  { "<0x-1>", -1 },  { "<0x1>", -1 },   { "<0x0G>", -1 },  { "<0X0A>", -1 }, { "<0x0A)", -1 },
                  { "<0x0A>a", -1 }, { " <0x0A>", -1 }, { "<0x00A>", -1 }, { "<0x0A", -1 },  { "", -1 } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        ck_assert_msg(sg_byte_token(cases[i].text, strlen(cases[i].text)) == cases[i].byte, "%s", cases[i].text);
}
END_TEST

START_TEST(spm_pieces) {
    sg_tokenizer *t = make_spm();
    ck_assert_str_eq(sg_tokenizer_model(t), "llama");
    ck_assert_str_eq(sg_tokenizer_pre(t), "");
    check_tokens(t, "", 0, "");
    check_tokens(t, "", SG_TOKENIZE_SPECIAL, "<s>");
    check_tokens(t, "hello world", 0, SP "hello " SP "world");
    check_tokens(t, "hello world", SG_TOKENIZE_SPECIAL, "<s> " SP "hello " SP "world");
    check_tokens(t, " hello", 0, SP SP " hello"); /* two spaces have the better score */
    check_tokens(t, "  ", 0, SP SP " " SP);
    check_tokens(t, "loll", 0, SP " lo ll");
    check_tokens(t, "\xC3\xA9\xC3\xBC", 0, SP " \xC3\xA9 <0xC3> <0xBC>"); /* e acute is a piece, u umlaut is not */
    check_tokens(t, "\n", 0, SP " <0x0A>");
    sg_ids ids = encode(t, "h\0e", 3, 0); /* a zero byte is a character like others */
    ck_assert_uint_eq(ids.len, 4);
    ck_assert_int_eq(ids.data[2], sg_tokenizer_find(t, "<0x00>"));
    free(ids.data);
    sg_tokenizer_destroy(&t);
    ck_assert_ptr_null(t);
    sg_tokenizer_destroy(&t);
}
END_TEST

START_TEST(spm_specials) {
    sg_tokenizer *t = make_spm();
    /* plain text that looks like a control token */
    sg_ids ids = encode(t, "<|user|>", 8, 0);
    for (size_t i = 0; i < ids.len; i++) ck_assert_int_ne(ids.data[i], sg_tokenizer_find(t, "<|user|>"));
    free(ids.data);
    check_tokens(t, "</s>", 0, SP " </ s>"); /* not even where its pieces meet */
    check_tokens(t, "<0x0A>", 0, SP " <0 x0A>");
    check_tokens(t, "</s>", SG_TOKENIZE_PARSE_SPECIAL, "</s>");
    const unsigned parse = SG_TOKENIZE_PARSE_SPECIAL;
    check_tokens(t, "<|user|>hello", parse, "<|user|> " SP "hello");
    check_tokens(t, "hello<|user|> world</s>", parse, SP "hello <|user|> " SP SP " w or ld </s>");
    check_tokens(t, "<|user|><|x|>h", parse, "<|user|><|x|> " SP " h"); /* the longest */
    check_tokens(t, "<|user|><|user|>", parse, "<|user|> <|user|>");
    check_tokens(t, "<unk>", parse, "<unk>");
    check_tokens(t, "h<tag>e", 0, SP " h <tag> " SP " e"); /* user-defined: always */
    check_tokens(t, "<s>", parse | SG_TOKENIZE_SPECIAL, "<s> <s>");
    sg_tokenizer_destroy(&t);
}
END_TEST

START_TEST(spm_options) {
    fixture f;
    fx_begin_spm(&f);
    fx_bool(&f, "tokenizer.ggml.add_space_prefix", false);
    fx_bool(&f, "tokenizer.ggml.add_bos_token", false);
    fx_bool(&f, "tokenizer.ggml.add_eos_token", true);
    sg_tokenizer *t = make(&f);
    check_tokens(t, "hello world", SG_TOKENIZE_SPECIAL, "hello " SP "world </s>");
    ck_assert(!sg_tokenizer_adds_bos(t));
    ck_assert_int_eq(sg_tokenizer_bos(t), 1);
    ck_assert_int_eq(sg_tokenizer_eos(t), 2);
    ck_assert(!sg_tokenizer_drops_space(t, sg_tokenizer_find(t, SP "hello")));
    sg_tokenizer_destroy(&t);

    fx_begin_spm(&f); /* a space after Phi-3's special tokens goes with them */
    fx_str(&f, "general.name", "Some Phi-3 model");
    t = make(&f);
    check_tokens(t, "<|user|> \n hello", SG_TOKENIZE_PARSE_SPECIAL, "<|user|> " SP "hello");
    check_tokens(t, "<s> hello", SG_TOKENIZE_PARSE_SPECIAL, "<s> " SP SP " hello");
    sg_tokenizer_destroy(&t);

    fx_begin_spm(&f); /* no token for BOS: nothing is added, and the file's fault is told */
    fx_number(&f, "tokenizer.ggml.bos_token_id", 100000);
    t = make(&f);
    ck_assert_int_eq(n_warnings, 1);
    ck_assert_int_eq(sg_tokenizer_bos(t), -1);
    check_tokens(t, "hello", SG_TOKENIZE_SPECIAL, SP "hello");
    sg_tokenizer_destroy(&t);
}
END_TEST

START_TEST(bpe_merges) {
    sg_tokenizer *t = make_bpe("gpt-2");
    ck_assert_int_eq(n_warnings, 0);
    ck_assert_str_eq(sg_tokenizer_model(t), "gpt2");
    ck_assert_str_eq(sg_tokenizer_pre(t), "gpt-2");
    check_tokens(t, "", SG_TOKENIZE_SPECIAL, "");
    check_tokens(t, "hello world", SG_TOKENIZE_SPECIAL, "hello " G "world");
    check_tokens(t, "hell", 0, "hell");
    check_tokens(t, "1212", 0, "12 12");
    check_tokens(t, "whole", 0, "w h o l e");           /* no merge leads there */
    check_tokens(t, "   hello", 0, G G " " G " hello"); /* "  " is cut off, " hello" has no piece */
    check_tokens(t, "\xC3\xA9", 0, "\xC3\x83\xC2\xA9");
    check_tokens(t, "<think>h", 0, "<think> h");
    check_tokens(t, "<|im_start|>h", SG_TOKENIZE_PARSE_SPECIAL, "<|im_start|> h");
    ck_assert_int_eq(sg_tokenizer_bos(t), -1);
    sg_tokenizer_destroy(&t);

    t = make_bpe("llama-bpe");
    check_tokens(t, "whole", 0, "whole"); /* whole words are taken without merges */
    sg_tokenizer_destroy(&t);
    t = make_bpe("qwen2");
    check_tokens(t, "1212", 0, "1 2 1 2"); /* digits one by one */
    sg_tokenizer_destroy(&t);
    t = make_bpe(NULL);
    ck_assert_str_eq(sg_tokenizer_pre(t), "default");
    ck_assert_int_eq(n_warnings, 0);
    check_tokens(t, "hello world", 0, "hello " G "world");
    sg_tokenizer_destroy(&t);
    t = make_bpe("no-such-thing");
    ck_assert_int_eq(n_warnings, 1);
    ck_assert_msg(strstr(last_warning, "no-such-thing"), "%s", last_warning);
    sg_tokenizer_destroy(&t);
}
END_TEST

START_TEST(end_of_generation) {
    sg_tokenizer *t = make_bpe("gpt-2");
    ck_assert(sg_tokenizer_is_eog(t, sg_tokenizer_find(t, "<|endoftext|>")));
    ck_assert(!sg_tokenizer_is_eog(t, sg_tokenizer_find(t, "<|im_start|>")));
    ck_assert(!sg_tokenizer_is_eog(t, -1));
    ck_assert(!sg_tokenizer_is_eog(t, INT32_MAX));
    sg_tokenizer_destroy(&t);

    fixture f;
    fx_vocab v;
    fx_spm(&v);
    const size_t other = fx_token(&v, "<|over|>", SG_TOKEN_CONTROL, 0),
                 end = fx_token(&v, "<|end|>", SG_TOKEN_NORMAL, 0);
    fx_begin(&f);
    fx_str(&f, "tokenizer.ggml.model", "llama");
    fx_write_vocab(&f, &v);
    fx_number(&f, "tokenizer.ggml.eot_token_id", (uint32_t)other);
    t = make(&f);
    ck_assert(sg_tokenizer_is_eog(t, (int32_t)other));
    ck_assert(sg_tokenizer_is_eog(t, 2));
    ck_assert(sg_tokenizer_is_eog(t, (int32_t)end));
    size_t len;
    sg_tokenizer_piece(t, (int32_t)end, false, &len);
    ck_assert_uint_eq(len, 0); /* is treated as a control token although the file calls it normal */
    sg_tokenizer_destroy(&t);

    fx_token(&v, "<|return|>", SG_TOKEN_CONTROL, 0); /* harmony: <|end|> closes a message, not the answer */
    fx_token(&v, "<|call|>", SG_TOKEN_CONTROL, 0);
    fx_begin(&f);
    fx_str(&f, "tokenizer.ggml.model", "llama");
    fx_write_vocab(&f, &v);
    t = make(&f);
    ck_assert(!sg_tokenizer_is_eog(t, (int32_t)end));
    ck_assert(sg_tokenizer_is_eog(t, sg_tokenizer_find(t, "<|return|>")));
    sg_tokenizer_destroy(&t);
}
END_TEST

START_TEST(doubles) {
    fixture f;
    fx_vocab v;
    fx_spm(&v);
    const size_t last = fx_token(&v, SP "hello", SG_TOKEN_NORMAL, 0);
    fx_token(&v, "", SG_TOKEN_CONTROL, 0);
    fx_token(&v, "", SG_TOKEN_NORMAL, 0);
    fx_begin(&f);
    fx_str(&f, "tokenizer.ggml.model", "llama");
    fx_write_vocab(&f, &v);
    sg_tokenizer *t = make(&f);
    ck_assert_int_eq(sg_tokenizer_find(t, SP "hello"), (int32_t)last);
    sg_ids ids = encode(t, "hello", 5, SG_TOKENIZE_PARSE_SPECIAL);
    ck_assert_uint_eq(ids.len, 1);
    ck_assert_int_eq(ids.data[0], (int32_t)last);
    free(ids.data);
    ck_assert_int_eq(sg_tokenizer_find(t, ""), -1);
    ck_assert_uint_eq(sg_tokenizer_n_vocab(t), v.n);
    sg_tokenizer_destroy(&t);
}
END_TEST

/* Special tokens made of parts of a character must not cut the text inside characters. */
START_TEST(special_halves) {
    fixture f;
    fx_vocab v;
    fx_spm(&v);
    fx_token(&v, "\xA9", SG_TOKEN_USER_DEFINED, 0);
    fx_token(&v, "\xE2\x96", SG_TOKEN_USER_DEFINED, 0);
    fx_token(&v, "\x96\x81", SG_TOKEN_CONTROL, 0);
    fx_begin(&f);
    fx_str(&f, "tokenizer.ggml.model", "llama");
    fx_write_vocab(&f, &v);
    sg_tokenizer *t = make(&f);
    const char text[] = "\xC3\xA9" SP "h" SP SP "\xC3\xA9\xC3\xA9\xC3\xA9";
    sg_ids ids = encode(t, text, sizeof text - 1, SG_TOKENIZE_PARSE_SPECIAL);
    ck_assert_uint_gt(ids.len, 0);
    sg_str back = { 0 };
    for (size_t i = 0; i < ids.len; i++) {
        ck_assert_uint_lt((uint32_t)ids.data[i], v.n - 3);
        size_t len;
        const char *piece = sg_tokenizer_piece(t, ids.data[i], true, &len);
        sg_str_append(&back, piece, len);
    }
    ck_assert_str_eq(back.data, " \xC3\xA9 h  \xC3\xA9\xC3\xA9\xC3\xA9");
    free(back.data);
    free(ids.data);
    sg_tokenizer_destroy(&t);
}
END_TEST

START_TEST(invalid_text) {
    sg_tokenizer *t = make_spm();
    sg_ids ids = { 0 };
    sg_error err;
    ck_assert_int_eq(sg_tokenizer_encode(t, "ab\xC3(", 4, 0, &ids, &err), SG_E_UTF8);
    ck_assert_msg(strstr(err.message, "byte 2"), "%s", err.message);
    ck_assert_uint_eq(ids.len, 0);
    sg_tokenizer_destroy(&t);
}
END_TEST

/* ---- files that are wrong ---------------------------------------------------------------------------------------- */

static void refused(fixture *f, sg_status code, const char *words) {
    sg_tokenizer *t;
    sg_error err = { 0 };
    ck_assert_int_eq(fx_open(f, NULL, &t, &err), code);
    ck_assert_msg(strstr(err.message, words), "%s", err.message);
    ck_assert_ptr_null(t);
}

START_TEST(refuses) {
    fixture f;
    static const char *const list[] = { "a", "b", "c" };
    static const int32_t types[] = { 1, 1, 1 };
    static const float scores[] = { 0, NAN, 0 };
    fx_begin(&f);
    refused(&f, SG_E_FORMAT, "tokenizer.ggml.model is missing");
    fx_begin(&f);
    fx_str(&f, "tokenizer.ggml.model", "bert");
    refused(&f, SG_E_UNSUPPORTED, "'bert'");
    fx_begin(&f);
    fx_str(&f, "tokenizer.ggml.model", "llama");
    refused(&f, SG_E_FORMAT, "tokenizer.ggml.tokens is missing");
    fx_begin(&f);
    fx_str(&f, "tokenizer.ggml.model", "llama");
    fx_str(&f, "tokenizer.ggml.tokens", "a");
    refused(&f, SG_E_FORMAT, "tokenizer.ggml.tokens is not an array");
    fx_begin(&f);
    fx_str(&f, "tokenizer.ggml.model", "llama");
    fx_strings(&f, "tokenizer.ggml.tokens", list, 0);
    refused(&f, SG_E_FORMAT, "tokenizer.ggml.tokens is empty");
    for (int kind = 0; kind < 5; kind++) {
        fx_begin(&f);
        fx_str(&f, "tokenizer.ggml.model", kind == 4 ? "gpt2" : "llama");
        fx_strings(&f, "tokenizer.ggml.tokens", list, 3);
        if (kind == 0) {
            fx_array(&f, "tokenizer.ggml.token_type", SG_GGUF_I32, 2);
            fx_raw(&f, types, 8);
            refused(&f, SG_E_FORMAT, "tokenizer.ggml.token_type has 2 entries for 3 tokens");
        } else if (kind == 1) {
            fx_array(&f, "tokenizer.ggml.scores", SG_GGUF_F32, 1);
            fx_raw(&f, scores, 4);
            refused(&f, SG_E_FORMAT, "tokenizer.ggml.scores has 1 entries for 3 tokens");
        } else if (kind == 2) {
            fx_array(&f, "tokenizer.ggml.scores", SG_GGUF_F32, 3);
            fx_raw(&f, scores, sizeof scores);
            refused(&f, SG_E_FORMAT, "tokenizer.ggml.scores[1]");
        } else if (kind == 3) {
            fx_strings(&f, "tokenizer.ggml.scores", list, 3);
            refused(&f, SG_E_FORMAT, "tokenizer.ggml.scores is not an array of numbers");
        } else {
            refused(&f, SG_E_FORMAT, "tokenizer.ggml.merges is missing");
        }
    }
    fx_begin(&f);
    fx_str(&f, "tokenizer.ggml.model", "gpt2");
    fx_strings(&f, "tokenizer.ggml.tokens", list, 3);
    fx_str(&f, "tokenizer.ggml.merges", "a b");
    refused(&f, SG_E_FORMAT, "tokenizer.ggml.merges is not an array");
}
END_TEST

START_TEST(odd_merges_are_skipped) {
    static const char *const list[] = { "a", "b", "ab", "c", "bc" };
    static const char *const merges[] = { "a c", "x y", "", " ", "a", "a ", "ab", "a b", "b c", "a b" };
    fixture f;
    fx_begin(&f);
    fx_str(&f, "tokenizer.ggml.model", "gpt2");
    fx_strings(&f, "tokenizer.ggml.tokens", list, 5);
    fx_strings(&f, "tokenizer.ggml.merges", merges, 10);
    sg_tokenizer *t = make(&f);
    ck_assert_int_eq(n_warnings, 2);        /* skipped merges, and bytes that no token has */
    check_tokens(t, "abcab", 0, "ab c ab"); /* of equal merges the first one counts */
    check_tokens(t, "axb", 0, "a b");       /* x is lost */
    sg_tokenizer_destroy(&t);
}
END_TEST

/* ---- against the definition -------------------------------------------------------------------------------------- */

static uint32_t seed = 7;
static uint32_t next_random(void) {
    seed = seed * 1664525u + 1013904223u;
    return seed >> 8;
}

/* A vocabulary of strings over "abc" with random scores. */
static void random_vocab(fx_vocab *v) {
    v->n = 0;
    fx_token(v, "<unk>", SG_TOKEN_UNKNOWN, 0);
    fx_token(v, "a", SG_TOKEN_NORMAL, -100);
    fx_token(v, "b", SG_TOKEN_NORMAL, -100);
    fx_token(v, "c", SG_TOKEN_NORMAL, -100);
    for (int i = 0; i < 40; i++) {
        char text[8] = { 0 };
        const uint32_t n = 2 + next_random() % 4;
        for (uint32_t k = 0; k < n; k++) text[k] = (char)('a' + next_random() % 3);
        bool there = false;
        for (size_t k = 0; k < v->n; k++) there |= strcmp(v->text[k], text) == 0;
        if (!there) fx_token(v, text, SG_TOKEN_NORMAL, -(float)(next_random() % 10)); /* with ties */
    }
}

static int find(const fx_vocab *v, const char *s, size_t n) {
    for (size_t k = 0; k < v->n; k++)
        if (strlen(v->text[k]) == n && memcmp(v->text[k], s, n) == 0) return (int)k;
    return -1;
}

/* Joins the best pair, the leftmost of equals, until there is none: the definition, in O(n^3). `order` NULL: by score.
 */
static size_t slow_merge(const fx_vocab *v, const int (*order)[64], const char *text, int *ids) {
    char part[64][64];
    size_t n = strlen(text);
    for (size_t i = 0; i < n; i++) {
        part[i][0] = text[i];
        part[i][1] = 0;
    }
    for (;;) {
        double best = INFINITY;
        size_t at = n;
        for (size_t i = 0; i + 1 < n; i++) {
            char joined[128];
            snprintf(joined, sizeof joined, "%s%s", part[i], part[i + 1]);
            const int id = find(v, joined, strlen(joined));
            if (id < 0) continue;
            double o = -v->score[id];
            if (order) {
                const int rank = order[find(v, part[i], strlen(part[i]))][find(v, part[i + 1], strlen(part[i + 1]))];
                if (rank == 0) continue;
                o = rank;
            }
            if (o < best) {
                best = o;
                at = i;
            }
        }
        if (at == n) break;
        char joined[128];
        snprintf(joined, sizeof joined, "%s%s", part[at], part[at + 1]);
        memcpy(part[at], joined, strlen(joined) + 1);
        memmove(part[at + 1], part[at + 2], (n - at - 2) * sizeof part[0]);
        n--;
    }
    for (size_t i = 0; i < n; i++) ids[i] = find(v, part[i], strlen(part[i]));
    return n;
}

static void compare(const sg_tokenizer *t, const fx_vocab *v, const int (*order)[64]) {
    for (int i = 0; i < 30; i++) {
        char text[64] = { 0 };
        int want[64];
        const uint32_t len = 1 + next_random() % 40;
        for (uint32_t k = 0; k < len; k++) text[k] = (char)('a' + next_random() % 3);
        const size_t n = slow_merge(v, order, text, want);
        sg_ids got = encode(t, text, len, 0);
        ck_assert_msg(got.len == n && memcmp(got.data, want, n * sizeof *want) == 0, "'%s' differs", text);
        free(got.data);
    }
}

START_TEST(agrees_with_definition) {
    fx_vocab v;
    for (int round = 0; round < 60; round++) {
        random_vocab(&v);
        fixture f;
        fx_begin(&f);
        fx_str(&f, "tokenizer.ggml.model", "llama");
        fx_bool(&f, "tokenizer.ggml.add_space_prefix", false);
        fx_write_vocab(&f, &v);
        sg_tokenizer *t = make(&f);
        compare(t, &v, NULL);
        sg_tokenizer_destroy(&t);

        /* merges of random pairs, whose union is in the vocabulary */
        static int order[64][64];
        char text[64][16];
        const char *merges[64];
        size_t n = 0;
        memset(order, 0, sizeof order);
        for (int tries = 0; tries < 3000 && n < 60; tries++) {
            const size_t a = 1 + next_random() % (v.n - 1), b = 1 + next_random() % (v.n - 1);
            char joined[32];
            snprintf(joined, sizeof joined, "%.12s%.12s", v.text[a], v.text[b]);
            if (order[a][b] || find(&v, joined, strlen(joined)) < 0) continue;
            snprintf(text[n], sizeof text[n], "%.7s %.7s", v.text[a], v.text[b]);
            merges[n] = text[n];
            order[a][b] = (int)++n;
        }
        fx_begin(&f);
        fx_str(&f, "tokenizer.ggml.model", "gpt2");
        fx_str(&f, "tokenizer.ggml.pre", "gpt-2");
        fx_write_vocab(&f, &v);
        fx_strings(&f, "tokenizer.ggml.merges", merges, n);
        t = make(&f);
        compare(t, &v, (const int(*)[64])order);
        sg_tokenizer_destroy(&t);
    }
}
END_TEST

/* ---- long texts: everything is linear or nearly so; with a quadratic step these would run into the time limit ------
 */

static void round_trip(const sg_tokenizer *t, const char *text, size_t n) {
    sg_ids ids = encode(t, text, n, 0);
    sg_str s = { 0 };
    sg_detok d;
    sg_str_puts(&s, "");
    sg_detok_init(&d, t, true, false);
    for (size_t i = 0; i < ids.len; i++) sg_detok_feed(&d, ids.data[i], &s);
    sg_detok_finish(&d, &s);
    ck_assert_uint_eq(s.len, n);
    ck_assert_int_eq(memcmp(s.data, text, n), 0);
    free(s.data);
    free(ids.data);
}

static const char *const pres[] = {
    "default",        "gpt-2",     "llama-bpe", "dbrx",       "qwen2",       "qwen35",
    "starcoder",      "falcon",    "gpt-4o",    "tekken",     "deepseek-v3", "deepseek-llm",
    "deepseek-coder", "poro-chat", "viking",    "bailingmoe", "seed-coder",
};
#define N_PRES ((int)(sizeof pres / sizeof *pres))

START_TEST(long_texts) {
    static const char *const units[] = {
        "a",        "A",  " ",         "\n",  "\t", "1",           "!",  "'", "\xE4\xB8\xAD",
        "\xCC\x81", " a", "A\xCC\x81", "\n ", "he", "<|im_start|", "a1",
    };
    sg_tokenizer *t = _i < N_PRES ? make_bpe(pres[_i]) : make_spm();
    if (_i < N_PRES) ck_assert_int_eq(n_warnings, 0);
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        sg_str s = { 0 };
        while (s.len < 100000) sg_str_puts(&s, units[u]);
        sg_str_puts(&s, "x");
        round_trip(t, s.data, s.len);
        free(s.data);
    }
    sg_tokenizer_destroy(&t);
}
END_TEST

/* Random characters from all over Unicode come back as they were. */
START_TEST(random_texts) {
    static const uint32_t start[] = { 0,      0x20,   0x30,  0x41,    0x61,     0xA0,  0x2000,
                                      0x3040, 0x4E00, 0x300, 0x1F600, 0x10FF00, 0x5D0, 0x900 };
    sg_tokenizer *t = _i < N_PRES ? make_bpe(pres[_i]) : make_spm();
    for (int round = 0; round < 300; round++) {
        sg_str s = { 0 };
        sg_str_puts(&s, "");
        for (uint32_t n = next_random() % 40; n > 0; n--) {
            char c[4];
            sg_str_append(&s, c,
                          sg_utf8_put(start[next_random() % (sizeof start / sizeof *start)] + next_random() % 60, c));
        }
        if (_i < N_PRES || !strstr(s.data, SP))
            round_trip(t, s.data, s.len); /* SentencePiece cannot tell U+2581 from a space */
        free(s.data);
    }
    sg_tokenizer_destroy(&t);
}
END_TEST

int main(void) {
    Suite *s = suite_create("tokenizer");
    TCase *tc = tcase_create("tokenizer");
    tcase_set_timeout(tc, 100);
    tcase_add_test(tc, byte_tokens);
    tcase_add_test(tc, spm_pieces);
    tcase_add_test(tc, spm_specials);
    tcase_add_test(tc, spm_options);
    tcase_add_test(tc, bpe_merges);
    tcase_add_test(tc, end_of_generation);
    tcase_add_test(tc, doubles);
    tcase_add_test(tc, special_halves);
    tcase_add_test(tc, invalid_text);
    tcase_add_test(tc, refuses);
    tcase_add_test(tc, odd_merges_are_skipped);
    tcase_add_test(tc, agrees_with_definition);
    tcase_add_loop_test(tc, long_texts, 0, N_PRES + 1);
    tcase_add_loop_test(tc, random_texts, 0, N_PRES + 1);
    suite_add_tcase(s, tc);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
