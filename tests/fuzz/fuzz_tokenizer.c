/* Tokenizers and detokenizer on any bytes. The first byte chooses what the rest is: text for one of the built-in
 * vocabularies, or a GGUF file that holds a vocabulary. The second byte is flags for the first case. */
#include "tests/unit/text_fixture.h"

#include "runtime/base/utf8.h"

static const char *const pres[] = {
    "default",        "gpt-2",     "llama-bpe", "dbrx",       "qwen2",       "qwen35",
    "starcoder",      "falcon",    "gpt-4o",    "tekken",     "deepseek-v3", "deepseek-llm",
    "deepseek-coder", "poro-chat", "viking",    "bailingmoe", "seed-coder",
};
#define N_PRES (sizeof pres / sizeof *pres)
enum { SPM = N_PRES, SPM_NO_PREFIX, FROM_FILE, N_MODES };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok) {
    if (!ok) abort();
}

/* The built-in tokenizers are made once. */
static const sg_tokenizer *builtin(unsigned mode) {
    static sg_tokenizer *made[FROM_FILE];
    if (!made[mode]) {
        fixture f;
        if (mode < N_PRES) {
            fx_begin_bpe(&f, pres[mode]);
        } else {
            fx_begin_spm(&f);
            if (mode == SPM_NO_PREFIX) fx_bool(&f, "tokenizer.ggml.add_space_prefix", false);
        }
        require(fx_open(&f, NULL, &made[mode], NULL) == SG_OK);
    }
    return made[mode];
}

static bool contains(const char *text, size_t n, const char *what) {
    return memmem(text, n, what, strlen(what)) != NULL;
}

static void check_utf8(const sg_str *s) { require(!s->failed && sg_utf8_check(s->data, s->len) == s->len); }

static void decode(const sg_tokenizer *t, const sg_ids *ids, bool show_special, sg_str *out) {
    sg_detok d;
    sg_str_puts(out, "");
    sg_detok_init(&d, t, true, show_special);
    for (size_t i = 0; i < ids->len; i++) {
        sg_detok_feed(&d, ids->data[i], out);
        if (i < 64) check_utf8(out); /* never half a character */
    }
    sg_detok_finish(&d, out);
    check_utf8(out);
}

/* Text to tokens and back. */
static void run_text(unsigned mode, unsigned flags, const char *text, size_t n) {
    const sg_tokenizer *t = builtin(mode);
    sg_ids ids = { 0 };
    sg_str back = { 0 };
    const sg_status st = sg_tokenizer_encode(t, text, n, flags & 3, &ids, NULL);
    require(st == (sg_utf8_check(text, n) == n ? SG_OK : SG_E_UTF8));
    if (st == SG_OK) {
        for (size_t i = 0; i < ids.len; i++)
            require(ids.data[i] >= 0 && (uint32_t)ids.data[i] < sg_tokenizer_n_vocab(t));
        decode(t, &ids, flags & 4, &back);
        /* what cannot come back: hidden or doubled special tokens; SentencePiece's own space, and its space after <tag>
         */
        const bool faithful =
            (flags & 3) == 0 && (mode < N_PRES || (!contains(text, n, "\xE2\x96\x81") && !contains(text, n, "<tag>")));
        if (faithful) require(back.len == n && (n == 0 || memcmp(back.data, text, n) == 0));
    }
    free(ids.data);
    free(back.data);
}

/* The same bytes as token ids, two bytes each: any sequence of tokens decodes to valid UTF-8. */
static void run_ids(unsigned mode, const uint8_t *data, size_t n, bool show_special) {
    const sg_tokenizer *t = builtin(mode);
    sg_ids ids = { 0 };
    sg_str out = { 0 };
    for (size_t i = 0; i + 1 < n; i += 2)
        sg_ids_push(&ids, (data[i] | data[i + 1] << 8) % (int32_t)(sg_tokenizer_n_vocab(t) + 3) - 1);
    decode(t, &ids, show_special, &out);
    free(ids.data);
    free(out.data);
}

static void run_file(const uint8_t *data, size_t n) {
    static const char text[] = "Hello world, <s><|im_start|>\n 1234 \xC3\xA9\xE4\xB8\xAD\xF0\x9F\x98\x80  abcabcabc";
    sg_gguf *g = NULL;
    sg_tokenizer *t = NULL;
    if (sg_gguf_open_memory(data, n, "fuzz", &g, NULL) == SG_OK && sg_tokenizer_create(g, NULL, &t, NULL) == SG_OK) {
        sg_ids ids = { 0 };
        sg_str out = { 0 };
        for (unsigned flags = 0; flags < 4; flags++)
            require(sg_tokenizer_encode(t, text, sizeof text - 1, flags, &ids, NULL) == SG_OK);
        for (size_t i = 0; i < ids.len; i++)
            require(ids.data[i] >= 0 && (uint32_t)ids.data[i] < sg_tokenizer_n_vocab(t));
        for (uint32_t i = 0; i < sg_tokenizer_n_vocab(t) && i < 5000; i++) {
            sg_ids_push(&ids, (int32_t)i);
            sg_tokenizer_is_eog(t, (int32_t)i);
        }
        decode(t, &ids, true, &out);
        free(ids.data);
        free(out.data);
    }
    sg_tokenizer_destroy(&t);
    sg_gguf_close(&g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    const unsigned mode = data[0] % N_MODES, flags = data[1];
    if (mode == FROM_FILE) {
        run_file(data + 1, size - 1);
    } else {
        run_text(mode, flags, (const char *)data + 2, size - 2);
        if (flags & 8) run_ids(mode, data + 2, size - 2, flags & 4);
    }
    return 0;
}
