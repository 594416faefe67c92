#include "runtime/text/tok_bpe.h"

#include "runtime/base/utf8.h"

#include <stdlib.h>
#include <string.h>

typedef struct bpe {
    const sg_bpe *b;
    uint64_t seed;
} bpe;

static sg_bpe_merge *slot(const sg_bpe *b, uint64_t seed, uint32_t left, uint32_t right) {
    uint32_t i = (uint32_t)sg_hash_mix(seed, (uint64_t)left << 32 | right) & b->mask;
    while (b->table[i].rank && (b->table[i].left != left || b->table[i].right != right)) i = (i + 1) & b->mask;
    return &b->table[i];
}

static bool pair(const void *arg, const sg_symbol *x, const sg_symbol *y, double *order, int32_t *id) {
    const bpe *c = arg;
    if (x->id < 0 || y->id < 0) return false;
    const sg_bpe_merge *e = slot(c->b, c->seed, (uint32_t)x->id, (uint32_t)y->id);
    if (!e->rank) return false;
    *order = e->rank;
    *id = e->id;
    return true;
}

/* Ids of the two halves of "left right" and of their union; false when one of them is in no vocabulary. */
static bool resolve(const sg_vocab *v, const sg_gguf_string *s, char *joined, int32_t id[3]) {
    if (s->len < 3 || s->len > 2 * v->max_len + 1) return false;
    const char *space = memchr(s->text + 1, ' ', s->len - 1); /* the first byte may itself be a space */
    if (!space) return false;
    const size_t a = (size_t)(space - s->text), b = s->len - a - 1;
    memcpy(joined, s->text, a);
    memcpy(joined + a, space + 1, b);
    id[0] = sg_vocab_find(v, joined, a);
    id[1] = sg_vocab_find(v, joined + a, b);
    id[2] = sg_vocab_find_plain(v, joined, a + b);
    return id[0] >= 0 && id[1] >= 0 && id[2] >= 0;
}

static sg_status load_merges(sg_bpe *b, const sg_vocab *v, const sg_gguf *g, const sg_log *log, sg_error *err) {
    const sg_gguf_kv *kv = sg_gguf_find(g, "tokenizer.ggml.merges");
    if (!kv) return sg_fail(err, SG_E_FORMAT, "%s: tokenizer.ggml.merges is missing", sg_gguf_path(g, 0));
    if (!kv->is_array || (kv->n && (kv->type != SG_GGUF_STRING || !kv->strings)))
        return sg_fail(err, SG_E_FORMAT, "%s: tokenizer.ggml.merges is not an array of strings", sg_gguf_path(g, 0));
    if (kv->n > INT32_MAX / 2)
        return sg_fail(err, SG_E_FORMAT, "%s: tokenizer.ggml.merges has too many entries", sg_gguf_path(g, 0));
    uint64_t size = 16;
    while (size < 2 * kv->n) size *= 2;
    char *joined = malloc(2 * v->max_len + 1);
    b->table = calloc(size, sizeof *b->table);
    b->mask = (uint32_t)(size - 1);
    if (!joined || !b->table) {
        free(joined);
        return sg_fail(err, SG_E_NOMEM, "out of memory for the merges");
    }
    uint64_t skipped = 0;
    for (uint64_t i = 0; i < kv->n; i++) {
        int32_t id[3];
        if (!resolve(v, &kv->strings[i], joined, id)) {
            skipped++;
            continue;
        }
        sg_bpe_merge *e = slot(b, v->seed, (uint32_t)id[0], (uint32_t)id[1]);
        if (!e->rank) *e = (sg_bpe_merge) { (uint32_t)id[0], (uint32_t)id[1], (uint32_t)i + 1, id[2] };
    }
    free(joined);
    if (skipped)
        sg_log_line(log, SG_LOG_WARN,
                    "tokenizer.ggml.merges: %llu entries name tokens that are not in the vocabulary; skipped",
                    (unsigned long long)skipped);
    return SG_OK;
}

sg_status sg_bpe_load(sg_bpe *b, const sg_vocab *v, const sg_gguf *g, const char *pre, const sg_log *log,
                      sg_error *err) {
    SG_TRY(sg_pretok_create(pre, log, &b->pretok, err));
    SG_TRY(load_merges(b, v, g, log, err));
    int missing = 0;
    for (int i = 0; i < 256; i++) missing += v->byte_id[i] < 0;
    /* the 13 bytes 0xC0, 0xC1, 0xF5 .. 0xFF occur in no text */
    if (missing > 13)
        sg_log_line(log, SG_LOG_WARN,
                    "the vocabulary lacks %d of the 256 bytes; text with them cannot be tokenized whole", missing);
    return SG_OK;
}

void sg_bpe_free(sg_bpe *b) {
    sg_pretok_destroy(&b->pretok);
    free(b->table);
    *b = (sg_bpe) { 0 };
}

void sg_bpe_work_free(sg_bpe_work *w) {
    sg_pretok_work_free(&w->pretok);
    free(w->word.data);
    *w = (sg_bpe_work) { 0 };
}

/* Id of a whole word, -1 when it is no token. */
static int32_t find_word(const sg_vocab *v, const char *word, size_t n, sg_str *scratch) {
    if (n > v->max_len) return -1;
    scratch->len = 0;
    for (size_t i = 0; i < n; i++) {
        char c[4];
        sg_str_append(scratch, c, sg_utf8_put(sg_byte_to_char((uint8_t)word[i]), c));
    }
    return scratch->failed ? -1 : sg_vocab_find_plain(v, scratch->data, scratch->len);
}

static sg_status encode_word(const sg_bpe *b, const sg_vocab *v, const char *word, size_t n, sg_merger *m, sg_ids *out,
                             sg_error *err) {
    SG_TRY(sg_merger_begin(m, n, err));
    for (size_t i = 0; i < n; i++) sg_merger_add(m, (uint32_t)i, 1, v->byte_id[(uint8_t)word[i]]);
    sg_merger_run(m, pair, &(const bpe) { b, v->seed });
    for (int32_t i = n ? 0 : -1; i >= 0; i = m->symbols[i].next)
        if (m->symbols[i].id >= 0) sg_ids_push(out, m->symbols[i].id);
    return SG_OK;
}

sg_status sg_bpe_encode(const sg_bpe *b, const sg_vocab *v, const char *text, size_t n, sg_merger *m, sg_bpe_work *w,
                        sg_ids *out, sg_error *err) {
    SG_TRY(sg_pretok_split(b->pretok, text, n, &w->pretok, err));
    const bool whole_words = sg_pretok_ignores_merges(b->pretok);
    for (size_t i = 0; i < w->pretok.n; i++) {
        const sg_span s = w->pretok.spans[i];
        const int32_t id = whole_words ? find_word(v, text + s.start, s.len, &w->word) : -1;
        if (id >= 0)
            sg_ids_push(out, id);
        else
            SG_TRY(encode_word(b, v, text + s.start, s.len, m, out, err));
    }
    return w->word.failed ? sg_fail(err, SG_E_NOMEM, "out of memory for tokenizing") : SG_OK;
}
