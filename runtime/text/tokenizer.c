#include "runtime/text/tokenizer.h"

#include "runtime/base/utf8.h"
#include "runtime/text/tok_bpe.h"
#include "runtime/text/tok_spm.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

struct sg_tokenizer {
    sg_vocab vocab;
    sg_bpe bpe;
    bool is_spm;
    bool add_bos, add_eos, add_space_prefix;
    int32_t bos, eos, unk; /* -1: none */
    char *pre;
};

/* Reads a token id; one outside the vocabulary is left out with a log line (llama.cpp does the same). */
static sg_status get_id(const sg_gguf *g, const char *key, uint32_t n, int32_t *id, const sg_log *log, sg_error *err) {
    uint32_t v = UINT32_MAX;
    if (!sg_gguf_find(g, key)) {
        if (*id >= 0 && (uint32_t)*id >= n) *id = -1;
        return SG_OK;
    }
    SG_TRY(sg_gguf_get_u32(g, key, &v, err));
    if (v >= n) {
        if (v != UINT32_MAX) /* some files write -1 for "none" */
            sg_log_line(log, SG_LOG_WARN, "%s is %u, but the vocabulary has %u tokens; ignored", key, v, n);
        *id = -1;
        return SG_OK;
    }
    *id = (int32_t)v;
    return SG_OK;
}

#define DEEPSEEK_EOS                                                                                                   \
    "<\xEF\xBD\x9C"                                                                                                    \
    "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>" /* with U+FF5C and U+2581 */

/* Texts of tokens that end a generation whatever the file says of them: the list that llama.cpp keeps
 * (llama-vocab.cpp). */
static const char *const eog_texts[] = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    DEEPSEEK_EOS,
    "[e~[",
    /* padding, repository and file marks of fill-in-the-middle */
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
};

static void mark_eog(sg_vocab *v, int32_t id) {
    if (id >= 0) v->flags[id] |= SG_TOKEN_EOG;
}

static sg_status collect_eog(sg_tokenizer *t, const sg_gguf *g, const sg_log *log, sg_error *err) {
    static const char *const keys[] = {
        "tokenizer.ggml.eot_token_id",     "tokenizer.ggml.eom_token_id",     "tokenizer.ggml.fim_pad_token_id",
        "tokenizer.ggml.fim_rep_token_id", "tokenizer.ggml.fim_sep_token_id",
    };
    sg_vocab *v = &t->vocab;
    for (size_t i = 0; i < sizeof eog_texts / sizeof *eog_texts; i++) {
        const int32_t id = sg_vocab_find(v, eog_texts[i], strlen(eog_texts[i]));
        if (id < 0) continue;
        mark_eog(v, id);
        v->type[id] =
            SG_TOKEN_CONTROL; /* some conversions give these another type, which would show them in the text */
    }
    /* In the harmony format of gpt-oss <|end|> closes one message of an answer, not the answer. */
    const int32_t end = sg_vocab_find(v, "<|end|>", 7);
    const bool harmony = sg_vocab_find(v, "<|return|>", 10) >= 0 && sg_vocab_find(v, "<|call|>", 8) >= 0;
    const bool solar = sg_vocab_find(v, "<|flush|>", 9) >= 0 && sg_vocab_find(v, "<|calls|>", 9) >= 0;
    if (end >= 0 && (harmony || solar)) v->flags[end] &= (uint8_t)~SG_TOKEN_EOG;
    mark_eog(v, t->eos);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        int32_t id = -1;
        SG_TRY(get_id(g, keys[i], v->n, &id, log, err));
        mark_eog(v, id);
    }
    return SG_OK;
}

static bool contains_nocase(const char *s, const char *what) {
    const size_t n = strlen(what);
    for (; *s; s++)
        if (strncasecmp(s, what, n) == 0) return true;
    return false;
}

/* The special tokens of Phi-3 swallow the white space after them; GGUF has no key for it, llama.cpp goes by the name
 * too. */
static sg_status set_rstrip(sg_vocab *v, const sg_gguf *g, sg_error *err) {
    static const char *const except[] = { "<unk>", "<s>", "<|endoftext|>" };
    const char *name = "";
    SG_TRY(sg_gguf_get_str(g, "general.name", &name, err));
    if (!contains_nocase(name, "phi-3") && !contains_nocase(name, "phi3")) return SG_OK;
    for (uint32_t i = 0; i < v->n; i++) {
        const uint8_t type = v->type[i];
        if (type == SG_TOKEN_CONTROL || type == SG_TOKEN_USER_DEFINED || type == SG_TOKEN_UNKNOWN)
            v->flags[i] |= SG_TOKEN_RSTRIP;
    }
    for (size_t i = 0; i < sizeof except / sizeof *except; i++) {
        const int32_t id = sg_vocab_find(v, except[i], strlen(except[i]));
        if (id >= 0) v->flags[id] &= (uint8_t)~SG_TOKEN_RSTRIP;
    }
    return SG_OK;
}

static sg_status load_ids(sg_tokenizer *t, const sg_gguf *g, const sg_log *log, sg_error *err) {
    const uint32_t n = t->vocab.n;
    t->bos = t->is_spm ? 1 : -1;
    t->eos = t->is_spm ? 2 : -1;
    t->unk = t->is_spm ? 0 : -1;
    SG_TRY(get_id(g, "tokenizer.ggml.bos_token_id", n, &t->bos, log, err));
    SG_TRY(get_id(g, "tokenizer.ggml.eos_token_id", n, &t->eos, log, err));
    SG_TRY(get_id(g, "tokenizer.ggml.unknown_token_id", n, &t->unk, log, err));
    SG_TRY(collect_eog(t, g, log, err));
    SG_TRY(set_rstrip(&t->vocab, g, err));
    return sg_vocab_index_special(&t->vocab, err);
}

static sg_status load_options(sg_tokenizer *t, const sg_gguf *g, sg_error *err) {
    t->add_bos = t->is_spm || sg_pretok_adds_bos(t->bpe.pretok);
    t->add_space_prefix = t->is_spm;
    SG_TRY(sg_gguf_get_bool(g, "tokenizer.ggml.add_bos_token", &t->add_bos, err));
    SG_TRY(sg_gguf_get_bool(g, "tokenizer.ggml.add_eos_token", &t->add_eos, err));
    if (t->is_spm) SG_TRY(sg_gguf_get_bool(g, "tokenizer.ggml.add_space_prefix", &t->add_space_prefix, err));
    t->add_bos = t->add_bos && t->bos >= 0;
    t->add_eos = t->add_eos && t->eos >= 0;
    return SG_OK;
}

static sg_status load(sg_tokenizer *t, const sg_gguf *g, const sg_log *log, sg_error *err) {
    const char *model = NULL, *pre = "";
    SG_TRY(sg_gguf_get_str(g, "tokenizer.ggml.model", &model, err));
    if (!model) return sg_fail(err, SG_E_FORMAT, "%s: tokenizer.ggml.model is missing", sg_gguf_path(g, 0));
    t->is_spm = strcmp(model, "llama") == 0;
    if (!t->is_spm && strcmp(model, "gpt2") != 0)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: tokenizer.ggml.model '%.64s' is not supported (llama and gpt2 are)",
                       sg_gguf_path(g, 0), model);
    if (!t->is_spm) {
        SG_TRY(sg_gguf_get_str(g, "tokenizer.ggml.pre", &pre, err));
        if (!*pre) pre = "default";
    }
    t->pre = strdup(pre);
    if (!t->pre) return sg_fail(err, SG_E_NOMEM, "out of memory for the tokenizer");
    SG_TRY(sg_vocab_load(&t->vocab, g, !t->is_spm, err));
    SG_TRY(load_ids(t, g, log, err)); /* before the merges, which must know the control tokens */
    if (!t->is_spm) SG_TRY(sg_bpe_load(&t->bpe, &t->vocab, g, pre, log, err));
    return load_options(t, g, err);
}

sg_status sg_tokenizer_create(const sg_gguf *g, const sg_log *log, sg_tokenizer **out, sg_error *err) {
    *out = NULL;
    sg_tokenizer *t = calloc(1, sizeof *t);
    if (!t) return sg_fail(err, SG_E_NOMEM, "out of memory for the tokenizer");
    const sg_status st = load(t, g, log, err);
    if (st != SG_OK)
        sg_tokenizer_destroy(&t);
    else
        *out = t;
    return st;
}

void sg_tokenizer_destroy(sg_tokenizer **t) {
    if (!*t) return;
    sg_bpe_free(&(*t)->bpe);
    sg_vocab_free(&(*t)->vocab);
    free((*t)->pre);
    free(*t);
    *t = NULL;
}

/* What one call of encode works with. */
typedef struct work {
    sg_merger merger;
    sg_bpe_work bpe;
    sg_str scratch;
    bool after_special; /* nothing or a special token came before */
} work;

static sg_status encode_plain(const sg_tokenizer *t, const char *text, size_t n, work *w, sg_ids *out, sg_error *err) {
    if (n == 0) return SG_OK;
    const bool prefix = t->add_space_prefix && w->after_special;
    w->after_special = false;
    return t->is_spm ? sg_spm_encode(&t->vocab, text, n, prefix, t->unk, &w->merger, &w->scratch, out, err)
                     : sg_bpe_encode(&t->bpe, &t->vocab, text, n, &w->merger, &w->bpe, out, err);
}

/* White space of the C locale, which is what Phi-3's special tokens swallow. */
static bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/* Special tokens are taken from left to right, the longest at each place. */
static sg_status encode_text(const sg_tokenizer *t, const char *text, size_t len, bool parse, work *w, sg_ids *out,
                             sg_error *err) {
    size_t plain = 0, i = 0;
    while (i < len) {
        size_t n;
        const int32_t id = sg_vocab_special_at(&t->vocab, text + i, len - i, parse, &n);
        if (id < 0) {
            i++;
            continue;
        }
        SG_TRY(encode_plain(t, text + plain, i - plain, w, out, err));
        sg_ids_push(out, id);
        w->after_special = true;
        i += n;
        if (t->vocab.flags[id] & SG_TOKEN_RSTRIP)
            while (i < len && is_blank(text[i])) i++;
        plain = i;
    }
    return encode_plain(t, text + plain, len - plain, w, out, err);
}

sg_status sg_tokenizer_encode(const sg_tokenizer *t, const char *text, size_t len, unsigned flags, sg_ids *out,
                              sg_error *err) {
    const size_t bad = sg_utf8_check(text, len);
    if (bad < len) return sg_fail(err, SG_E_UTF8, "text is not valid UTF-8 at byte %zu", bad);
    work w = { .after_special = true };
    if ((flags & (SG_TOKENIZE_SPECIAL | SG_TOKENIZE_BOS)) && t->add_bos) sg_ids_push(out, t->bos);
    sg_status st = encode_text(t, text, len, flags & SG_TOKENIZE_PARSE_SPECIAL, &w, out, err);
    if ((flags & SG_TOKENIZE_SPECIAL) && t->add_eos) sg_ids_push(out, t->eos);
    if (st == SG_OK && out->failed) st = sg_fail(err, SG_E_NOMEM, "out of memory for the tokens of %zu bytes", len);
    sg_merger_free(&w.merger);
    sg_bpe_work_free(&w.bpe);
    free(w.scratch.data);
    return st;
}

const char *sg_tokenizer_piece(const sg_tokenizer *t, int32_t id, bool show_special, size_t *len) {
    const sg_vocab *v = &t->vocab;
    *len = 0;
    if (id < 0 || (uint32_t)id >= v->n) return "";
    const bool hidden = v->type[id] == SG_TOKEN_CONTROL || v->type[id] == SG_TOKEN_UNKNOWN;
    if (hidden && !show_special) return "";
    *len = v->piece_at[id + 1] - v->piece_at[id];
    return v->piece + v->piece_at[id];
}

bool sg_tokenizer_drops_space(const sg_tokenizer *t, int32_t id) {
    return t->add_space_prefix && id >= 0 && (uint32_t)id < t->vocab.n && t->vocab.type[id] != SG_TOKEN_USER_DEFINED;
}

uint32_t sg_tokenizer_n_vocab(const sg_tokenizer *t) { return t->vocab.n; }
int32_t sg_tokenizer_bos(const sg_tokenizer *t) { return t->bos; }
int32_t sg_tokenizer_eos(const sg_tokenizer *t) { return t->eos; }
bool sg_tokenizer_adds_bos(const sg_tokenizer *t) { return t->add_bos; }

bool sg_tokenizer_is_eog(const sg_tokenizer *t, int32_t id) {
    return id >= 0 && (uint32_t)id < t->vocab.n && (t->vocab.flags[id] & SG_TOKEN_EOG);
}

int32_t sg_tokenizer_find(const sg_tokenizer *t, const char *piece) {
    return sg_vocab_find(&t->vocab, piece, strlen(piece));
}
const char *sg_tokenizer_model(const sg_tokenizer *t) { return t->is_spm ? "llama" : "gpt2"; }
const char *sg_tokenizer_pre(const sg_tokenizer *t) { return t->pre; }
