#include "runtime/text/tok_spm.h"

#include "runtime/base/utf8.h"

#include <string.h>

#define SPACE "\xE2\x96\x81" /* U+2581, SentencePiece's visible space */

typedef struct spm {
    const sg_vocab *v;
    const char *text;
} spm;

static bool pair(const void *arg, const sg_symbol *a, const sg_symbol *b, double *order, int32_t *id) {
    const spm *s = arg;
    const int32_t t = sg_vocab_find_plain(s->v, s->text + a->start, (size_t)a->len + b->len);
    if (t < 0) return false;
    *id = t;
    *order = -(double)s->v->score[t];
    return true;
}

/* Copies the text with its spaces made visible. */
static void escape(const char *text, size_t n, bool prefix, sg_str *out) {
    out->len = 0;
    if (prefix) sg_str_puts(out, SPACE);
    while (n > 0) {
        const char *space = memchr(text, ' ', n);
        const size_t run = space ? (size_t)(space - text) : n;
        sg_str_append(out, text, run);
        if (!space) break;
        sg_str_puts(out, SPACE);
        text += run + 1;
        n -= run + 1;
    }
}

static void emit(const sg_vocab *v, const char *text, const sg_symbol *s, int32_t unk, sg_ids *out) {
    const int32_t id = s->id >= 0 ? s->id : sg_vocab_find_plain(v, text + s->start, s->len);
    if (id >= 0) {
        sg_ids_push(out, id);
        return;
    }
    for (uint32_t i = 0; i < s->len; i++) {
        const int32_t byte = v->byte_id[(uint8_t)text[s->start + i]];
        if (byte >= 0 || unk >= 0) sg_ids_push(out, byte >= 0 ? byte : unk);
    }
}

sg_status sg_spm_encode(const sg_vocab *v, const char *text, size_t n, bool prefix, int32_t unk, sg_merger *m,
                        sg_str *scratch, sg_ids *out, sg_error *err) {
    if (n > INT32_MAX / 4) return sg_fail(err, SG_E_ARG, "text of %zu bytes is too long for the tokenizer", n);
    escape(text, n, prefix, scratch);
    if (scratch->failed) return sg_fail(err, SG_E_NOMEM, "out of memory for tokenizing %zu bytes", n);
    const char *s = scratch->data;
    const size_t len = scratch->len;
    size_t count = 0;
    for (size_t i = 0; i < len; i++) count += ((uint8_t)s[i] & 0xC0) != 0x80;
    SG_TRY(sg_merger_begin(m, count, err));
    for (size_t i = 0; i < len;) {
        const size_t c = sg_utf8_next(s + i, len - i, NULL);
        sg_merger_add(m, (uint32_t)i, (uint32_t)c, -1);
        i += c;
    }
    sg_merger_run(m, pair, &(const spm) { v, s });
    for (int32_t i = m->n ? 0 : -1; i >= 0; i = m->symbols[i].next) emit(v, s, &m->symbols[i], unk, out);
    return SG_OK;
}
