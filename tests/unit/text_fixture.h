/* Small vocabularies written in memory as GGUF, shared by the tests of runtime/text and their fuzzer. */
#ifndef SG_TEST_TEXT_FIXTURE_H
#define SG_TEST_TEXT_FIXTURE_H

#include "runtime/text/tokenizer.h"
#include "runtime/text/vocab.h"

#include <stdlib.h>
#include <stdio.h>
#include <string.h>

/* A GGUF image without tensors that grows entry by entry. */
typedef struct fixture {
    sg_str image;
    uint64_t n_kv;
} fixture;

static inline void fx_raw(fixture *f, const void *p, size_t n) { sg_str_append(&f->image, p, n); }
static inline void fx_u32(fixture *f, uint32_t v) { fx_raw(f, &v, sizeof v); }
static inline void fx_u64(fixture *f, uint64_t v) { fx_raw(f, &v, sizeof v); }

static inline void fx_text(fixture *f, const char *s, size_t n) {
    fx_u64(f, n);
    fx_raw(f, s, n);
}

static inline void fx_begin(fixture *f) {
    *f = (fixture) { 0 };
    fx_raw(f, "GGUF", 4);
    fx_u32(f, 3);
    fx_u64(f, 0);
    fx_u64(f, 0);
}

static inline void fx_key(fixture *f, const char *key, uint32_t type) {
    f->n_kv++;
    fx_text(f, key, strlen(key));
    fx_u32(f, type);
}

static inline void fx_str(fixture *f, const char *key, const char *value) {
    fx_key(f, key, SG_GGUF_STRING);
    fx_text(f, value, strlen(value));
}

static inline void fx_number(fixture *f, const char *key, uint32_t value) {
    fx_key(f, key, SG_GGUF_U32);
    fx_u32(f, value);
}

static inline void fx_bool(fixture *f, const char *key, bool value) {
    fx_key(f, key, SG_GGUF_BOOL);
    fx_raw(f, &(uint8_t) { value }, 1);
}

static inline void fx_array(fixture *f, const char *key, uint32_t type, uint64_t n) {
    fx_key(f, key, SG_GGUF_ARRAY);
    fx_u32(f, type);
    fx_u64(f, n);
}

/* Tokens with their types and scores, before they are written. */
typedef struct fx_vocab {
    char text[1024][48];
    int32_t type[1024];
    float score[1024];
    size_t n;
} fx_vocab;

static inline size_t fx_token(fx_vocab *v, const char *text, int32_t type, float score) {
    snprintf(v->text[v->n], sizeof v->text[0], "%s", text);
    v->type[v->n] = type;
    v->score[v->n] = score;
    return v->n++;
}

static inline void fx_write_vocab(fixture *f, const fx_vocab *v) {
    fx_array(f, "tokenizer.ggml.tokens", SG_GGUF_STRING, v->n);
    for (size_t i = 0; i < v->n; i++) fx_text(f, v->text[i], strlen(v->text[i]));
    fx_array(f, "tokenizer.ggml.token_type", SG_GGUF_I32, v->n);
    fx_raw(f, v->type, v->n * sizeof v->type[0]);
    fx_array(f, "tokenizer.ggml.scores", SG_GGUF_F32, v->n);
    fx_raw(f, v->score, v->n * sizeof v->score[0]);
}

static inline void fx_strings(fixture *f, const char *key, const char *const *list, size_t n) {
    fx_array(f, key, SG_GGUF_STRING, n);
    for (size_t i = 0; i < n; i++) fx_text(f, list[i], strlen(list[i]));
}

/* Opens the image as a tokenizer and releases it; *t is NULL after a failure. */
static inline sg_status fx_open(fixture *f, const sg_log *log, sg_tokenizer **t, sg_error *err) {
    *t = NULL;
    memcpy(f->image.data + 16, &f->n_kv, sizeof f->n_kv);
    sg_gguf *g = NULL;
    sg_status st = sg_gguf_open_memory(f->image.data, f->image.len, "vocabulary", &g, err);
    if (st == SG_OK) st = sg_tokenizer_create(g, log, t, err);
    sg_gguf_close(&g);
    free(f->image.data);
    *f = (fixture) { 0 };
    return st;
}

/* SentencePiece: specials, 256 bytes, some pieces. Longer pieces have better scores, but for "_lo", which comes last.
 */
static inline void fx_spm(fx_vocab *v) {
    v->n = 0;
    fx_token(v, "<unk>", SG_TOKEN_UNKNOWN, 0);
    fx_token(v, "<s>", SG_TOKEN_CONTROL, 0);
    fx_token(v, "</s>", SG_TOKEN_CONTROL, 0);
    for (int b = 0; b < 256; b++) {
        static const char digits[] = "0123456789ABCDEF";
        const char name[] = { '<', '0', 'x', digits[b >> 4], digits[b & 15], '>', 0 };
        fx_token(v, name, SG_TOKEN_BYTE, 0);
    }
    static const char *const pieces[] = {
        "\xE2\x96\x81",
        "h",
        "e",
        "l",
        "o",
        "w",
        "r",
        "d",
        "\xC3\xA9",
        "he",
        "ll",
        "hell",
        "hello",
        "\xE2\x96\x81hello",
        "\xE2\x96\x81w",
        "or",
        "\xE2\x96\x81wor",
        "ld",
        "\xE2\x96\x81world",
        "lo",
        "\xE2\x96\x81\xE2\x96\x81",
    };
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        const float score = strcmp(pieces[i], "lo") == 0 ? -100.0f : (float)strlen(pieces[i]) - 50.0f;
        fx_token(v, pieces[i], SG_TOKEN_NORMAL, score);
    }
    fx_token(v, "<", SG_TOKEN_NORMAL, -50);
    fx_token(v, "/", SG_TOKEN_NORMAL, -50);
    fx_token(v, "s", SG_TOKEN_NORMAL, -50);
    fx_token(v, ">", SG_TOKEN_NORMAL, -50);
    fx_token(v, "</", SG_TOKEN_NORMAL, -40);
    fx_token(v, "s>", SG_TOKEN_NORMAL, -40);
    fx_token(v, "<0", SG_TOKEN_NORMAL, -39); /* with "x0A>" the name of a byte token */
    fx_token(v, "x0", SG_TOKEN_NORMAL, -38);
    fx_token(v, "x0A", SG_TOKEN_NORMAL, -37);
    fx_token(v, "x0A>", SG_TOKEN_NORMAL, -36);
    fx_token(v, "<|user|>", SG_TOKEN_CONTROL, 0);
    fx_token(v, "<|user|><|x|>", SG_TOKEN_CONTROL, 0);
    fx_token(v, "<tag>", SG_TOKEN_USER_DEFINED, 0);
}

/* Byte level: 256 bytes (id = byte), merged pieces from 256 on, then specials. Fills `merges`, returns their number. */
static inline size_t fx_bpe(fx_vocab *v, const char *merges[16]) {
    v->n = 0;
    for (int b = 0; b < 256; b++) {
        char t[8] = { 0 };
        char *end = t;
        const uint32_t cp = sg_byte_to_char((uint8_t)b);
        if (cp < 0x80) {
            *end = (char)cp;
        } else {
            *end++ = (char)(0xC0 | cp >> 6);
            *end = (char)(0x80 | (cp & 0x3F));
        }
        fx_token(v, t, SG_TOKEN_NORMAL, 0);
    }
    static const char *const list[] = {
        "h e",          "l l", "he ll",          "hell o", "\xC4\xA0 w",        "o r",
        "\xC4\xA0w or", "l d", "\xC4\xA0wor ld", "1 2",    "\xC4\xA0 \xC4\xA0", "\xC3\x83 \xC2\xA9",
    };
    const size_t n = sizeof list / sizeof *list;
    for (size_t i = 0; i < n; i++) {
        merges[i] = list[i];
        char joined[48] = { 0 };
        const char *space = strchr(list[i], ' ');
        memcpy(joined, list[i], (size_t)(space - list[i]));
        strcat(joined, space + 1);
        fx_token(v, joined, SG_TOKEN_NORMAL, 0);
    }
    fx_token(v, "whole", SG_TOKEN_NORMAL, 0); /* in the vocabulary, but no merge makes it */
    fx_token(v, "<|endoftext|>", SG_TOKEN_CONTROL, 0);
    fx_token(v, "<|im_start|>", SG_TOKEN_CONTROL, 0);
    fx_token(v, "<think>", SG_TOKEN_USER_DEFINED, 0);
    return n;
}

static inline void fx_begin_bpe(fixture *f, const char *pre) {
    fx_vocab v;
    const char *merges[16];
    const size_t n = fx_bpe(&v, merges);
    fx_begin(f);
    fx_str(f, "tokenizer.ggml.model", "gpt2");
    if (pre) fx_str(f, "tokenizer.ggml.pre", pre);
    fx_write_vocab(f, &v);
    fx_strings(f, "tokenizer.ggml.merges", merges, n);
}

static inline void fx_begin_spm(fixture *f) {
    fx_vocab v;
    fx_spm(&v);
    fx_begin(f);
    fx_str(f, "tokenizer.ggml.model", "llama");
    fx_write_vocab(f, &v);
}

#endif
