#include "runtime/text/vocab.h"

#include "runtime/base/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* The alphabet keeps the printable characters of Latin-1 and gives the other 68 bytes U+0100 .. U+0143 in order
 * (bytes_to_unicode in https://github.com/openai/gpt-2/blob/master/src/encoder.py). */
static bool keeps_itself(uint32_t b) {
    return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
}

uint32_t sg_byte_to_char(uint8_t byte) {
    if (keeps_itself(byte)) return byte;
    if (byte <= 0x20) return 0x100u + byte;
    if (byte <= 0xA0) return 0x121u + byte - 0x7F;
    return 0x143u; /* 0xAD */
}

int sg_char_to_byte(uint32_t cp) {
    if (cp < 0x100) return keeps_itself(cp) ? (int)cp : -1;
    if (cp <= 0x120) return (int)(cp - 0x100);
    if (cp <= 0x142) return (int)(cp - 0x121 + 0x7F);
    return cp == 0x143 ? 0xAD : -1;
}

static uint64_t hash_text(uint64_t seed, const char *s, size_t n) {
    uint64_t h = seed ^ n, w;
    for (; n >= 8; s += 8, n -= 8) {
        memcpy(&w, s, 8);
        h = sg_hash_mix(h, w ^ seed);
    }
    w = 0;
    if (n) memcpy(&w, s, n);
    return sg_hash_mix(h, w ^ ~seed);
}

int32_t sg_vocab_find(const sg_vocab *v, const char *text, size_t len) {
    if (len == 0 || len > v->max_len) return -1;
    for (uint32_t i = (uint32_t)hash_text(v->seed, text, len) & v->mask; v->table[i]; i = (i + 1) & v->mask) {
        const uint32_t id = v->table[i] - 1;
        size_t n;
        const char *t = sg_vocab_text(v, id, &n);
        if (n == len && memcmp(t, text, len) == 0) return (int32_t)id;
    }
    return -1;
}

int32_t sg_vocab_find_plain(const sg_vocab *v, const char *text, size_t len) {
    const int32_t id = sg_vocab_find(v, text, len);
    if (id < 0) return -1;
    const uint8_t type = v->type[id];
    return type == SG_TOKEN_CONTROL || type == SG_TOKEN_UNKNOWN || type == SG_TOKEN_BYTE ? -1 : id;
}

static sg_status build_table(sg_vocab *v, sg_error *err) {
    uint64_t size = 16;
    while (size < 2 * (uint64_t)v->n) size *= 2;
    v->table = calloc(size, sizeof *v->table);
    if (!v->table) return sg_fail(err, SG_E_NOMEM, "out of memory for the vocabulary");
    v->mask = (uint32_t)(size - 1);
    if (getrandom(&v->seed, sizeof v->seed, GRND_NONBLOCK) != (ssize_t)sizeof v->seed)
        v->seed = sg_hash_mix((uintptr_t)v->table, (uintptr_t)v);
    for (uint32_t id = 0; id < v->n; id++) {
        size_t len;
        const char *t = sg_vocab_text(v, id, &len);
        if (len == 0) continue;
        uint32_t i = (uint32_t)hash_text(v->seed, t, len) & v->mask;
        for (; v->table[i]; i = (i + 1) & v->mask) {
            size_t n;
            const char *u = sg_vocab_text(v, v->table[i] - 1, &n);
            if (n == len && memcmp(t, u, len) == 0) break;
        }
        v->table[i] = id + 1;
    }
    return SG_OK;
}

static sg_status load_texts(sg_vocab *v, const sg_gguf *g, sg_error *err) {
    const sg_gguf_kv *kv = sg_gguf_find(g, "tokenizer.ggml.tokens");
    if (!kv) return sg_fail(err, SG_E_FORMAT, "%s: tokenizer.ggml.tokens is missing", sg_gguf_path(g, 0));
    if (!kv->is_array || kv->type != SG_GGUF_STRING || !kv->strings)
        return sg_fail(err, SG_E_FORMAT, "%s: tokenizer.ggml.tokens is not an array of strings", sg_gguf_path(g, 0));
    if (kv->n == 0) return sg_fail(err, SG_E_FORMAT, "%s: tokenizer.ggml.tokens is empty", sg_gguf_path(g, 0));
    if (kv->n > INT32_MAX / 2)
        return sg_fail(err, SG_E_FORMAT, "%s: tokenizer.ggml.tokens has too many entries", sg_gguf_path(g, 0));
    uint64_t total = 0;
    for (uint64_t i = 0; i < kv->n; i++)
        if (__builtin_add_overflow(total, kv->strings[i].len, &total) || total > SIZE_MAX / 4)
            return sg_fail(err, SG_E_FORMAT, "%s: tokenizer.ggml.tokens is too large", sg_gguf_path(g, 0));
    v->n = (uint32_t)kv->n;
    v->text = malloc(total + 1);
    v->text_at = malloc(((size_t)v->n + 1) * sizeof *v->text_at);
    if (!v->text || !v->text_at) return sg_fail(err, SG_E_NOMEM, "out of memory for the vocabulary");
    size_t at = 0;
    for (uint32_t i = 0; i < v->n; i++) {
        const size_t len = kv->strings[i].len;
        v->text_at[i] = at;
        if (len) memcpy(v->text + at, kv->strings[i].text, len);
        at += len;
        if (len > v->max_len) v->max_len = len;
    }
    v->text_at[v->n] = at;
    v->text[at] = 0;
    return SG_OK;
}

/* A numeric array of the vocabulary's length, or NULL when the file has none. llama.cpp accepts longer ones, so they
 * are. */
static sg_status find_numbers(const sg_vocab *v, const sg_gguf *g, const char *key, const sg_gguf_kv **out,
                              sg_error *err) {
    const sg_gguf_kv *kv = sg_gguf_find(g, key);
    *out = kv;
    if (!kv) return SG_OK;
    if (!kv->is_array || kv->type == SG_GGUF_STRING)
        return sg_fail(err, SG_E_FORMAT, "%s: %s is not an array of numbers", sg_gguf_path(g, 0), key);
    if (kv->n < v->n)
        return sg_fail(err, SG_E_FORMAT, "%s: %s has %llu entries for %u tokens", sg_gguf_path(g, 0), key,
                       (unsigned long long)kv->n, v->n);
    return SG_OK;
}

static sg_status load_numbers(sg_vocab *v, const sg_gguf *g, sg_error *err) {
    v->type = malloc(v->n);
    v->flags = calloc(v->n, 1);
    v->score = calloc(v->n, sizeof *v->score);
    if (!v->type || !v->flags || !v->score) return sg_fail(err, SG_E_NOMEM, "out of memory for the vocabulary");
    const sg_gguf_kv *types, *scores;
    SG_TRY(find_numbers(v, g, "tokenizer.ggml.token_type", &types, err));
    SG_TRY(find_numbers(v, g, "tokenizer.ggml.scores", &scores, err));
    for (uint32_t i = 0; i < v->n; i++) {
        v->type[i] = SG_TOKEN_NORMAL;
        if (types) {
            const double t = sg_gguf_kv_number(types, i);
            v->type[i] = t >= SG_TOKEN_NORMAL && t <= SG_TOKEN_BYTE ? (uint8_t)t : SG_TOKEN_UNUSED;
        }
        if (scores) {
            v->score[i] = (float)sg_gguf_kv_number(scores, i);
            if (isnan(v->score[i]))
                return sg_fail(err, SG_E_FORMAT, "%s: tokenizer.ggml.scores[%u] is not a number", sg_gguf_path(g, 0),
                               i);
        }
    }
    return SG_OK;
}

static int hex(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
}

int sg_byte_token(const char *t, size_t n) {
    if (n != 6 || memcmp(t, "<0x", 3) != 0 || t[5] != '>') return -1;
    const int hi = hex(t[3]), lo = hex(t[4]);
    return hi < 0 || lo < 0 ? -1 : hi * 16 + lo;
}

/* Writes what a normal token's text stands for; never more than n bytes. Returns the number written. */
static size_t decode(const sg_vocab *v, const char *t, size_t n, char *out) {
    size_t o = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t len = sg_utf8_next(t + i, n - i, &cp);
        if (len == 0) {
            out[o++] = t[i++];
            continue;
        }
        const int b = v->byte_level ? sg_char_to_byte(cp) : cp == 0x2581 ? ' ' : -1;
        if (b >= 0) {
            out[o++] = (char)b;
        } else {
            memcpy(out + o, t + i, len);
            o += len;
        }
        i += len;
    }
    return o;
}

static sg_status load_pieces(sg_vocab *v, sg_error *err) {
    v->piece = malloc(v->text_at[v->n] + 1);
    v->piece_at = malloc(((size_t)v->n + 1) * sizeof *v->piece_at);
    if (!v->piece || !v->piece_at) return sg_fail(err, SG_E_NOMEM, "out of memory for the vocabulary");
    size_t o = 0;
    for (uint32_t i = 0; i < v->n; i++) {
        size_t n;
        const char *t = sg_vocab_text(v, i, &n);
        v->piece_at[i] = o;
        const int byte = v->type[i] == SG_TOKEN_BYTE ? sg_byte_token(t, n) : -1;
        if (byte >= 0) {
            v->piece[o++] = (char)byte;
        } else if (v->type[i] == SG_TOKEN_NORMAL || v->type[i] == SG_TOKEN_BYTE) {
            o += decode(v, t, n, v->piece + o);
        } else if (v->type[i] != SG_TOKEN_UNUSED && n) {
            memcpy(v->piece + o, t, n);
            o += n;
        }
    }
    v->piece_at[v->n] = o;
    v->piece[o] = 0;
    return SG_OK;
}

static void find_bytes(sg_vocab *v) {
    static const char digits[] = "0123456789ABCDEF";
    for (int b = 0; b < 256; b++) {
        char t[8];
        size_t n;
        if (v->byte_level) {
            n = sg_utf8_put(sg_byte_to_char((uint8_t)b), t);
        } else {
            const char name[] = { '<', '0', 'x', digits[b >> 4], digits[b & 15], '>' };
            memcpy(t, name, n = sizeof name);
        }
        v->byte_id[b] = sg_vocab_find(v, t, n);
    }
}

sg_status sg_vocab_load(sg_vocab *v, const sg_gguf *g, bool byte_level, sg_error *err) {
    v->byte_level = byte_level;
    SG_TRY(load_texts(v, g, err));
    SG_TRY(load_numbers(v, g, err));
    SG_TRY(load_pieces(v, err));
    SG_TRY(build_table(v, err));
    find_bytes(v);
    return SG_OK;
}

typedef struct named {
    const char *text;
    size_t len;
    uint32_t id;
} named;

static int compare_named(const void *pa, const void *pb) {
    const named *a = pa, *b = pb;
    const int c = memcmp(a->text, b->text, a->len < b->len ? a->len : b->len);
    return c ? c : (a->len > b->len) - (a->len < b->len);
}

static bool is_special(const sg_vocab *v, uint32_t id) {
    const uint8_t type = v->type[id];
    if (type != SG_TOKEN_CONTROL && type != SG_TOKEN_USER_DEFINED && type != SG_TOKEN_UNKNOWN) return false;
    size_t len;
    const char *t = sg_vocab_text(v, id, &len);
    if (len > SG_SPECIAL_MAX_LEN) return false;
    /* Text is cut where special tokens stand; one of half a character would cut characters in two, and what is left would no
     * longer be the UTF-8 that the encoders rely on. */
    if (sg_utf8_check(t, len) < len) return false;
    return sg_vocab_find(v, t, len) == (int32_t)id; /* neither empty nor hidden by a later token of the same text */
}

sg_status sg_vocab_index_special(sg_vocab *v, sg_error *err) {
    size_t n = 0;
    for (uint32_t i = 0; i < v->n; i++) n += is_special(v, i);
    named *list = malloc((n + 1) * sizeof *list);
    v->special = malloc((n + 1) * sizeof *v->special);
    if (!list || !v->special) {
        free(list);
        return sg_fail(err, SG_E_NOMEM, "out of memory for the special tokens");
    }
    n = 0;
    for (uint32_t i = 0; i < v->n; i++) {
        if (!is_special(v, i)) continue;
        list[n].text = sg_vocab_text(v, i, &list[n].len);
        list[n].id = i;
        v->special_first[(uint8_t)list[n].text[0]] = true;
        if (v->type[i] == SG_TOKEN_USER_DEFINED) v->user_first[(uint8_t)list[n].text[0]] = true;
        n++;
    }
    qsort(list, n, sizeof *list, compare_named);
    for (size_t i = 0; i < n; i++) v->special[i] = list[i].id;
    v->n_special = (uint32_t)n;
    free(list);
    return SG_OK;
}

/* First entry of special[lo..hi) whose byte `d` is >= c. All of them share their first d bytes; one that ends there
 * comes first and counts as smaller than any byte. */
static uint32_t lower_bound(const sg_vocab *v, uint32_t lo, uint32_t hi, size_t d, int c) {
    while (lo < hi) {
        const uint32_t mid = lo + (hi - lo) / 2;
        size_t n;
        const char *t = sg_vocab_text(v, v->special[mid], &n);
        if (n <= d || (uint8_t)t[d] < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

int32_t sg_vocab_special_at(const sg_vocab *v, const char *s, size_t n, bool all, size_t *len) {
    if (n == 0 || !(all ? v->special_first : v->user_first)[(uint8_t)s[0]]) return -1;
    int32_t best = -1;
    uint32_t lo = 0, hi = v->n_special;
    for (size_t d = 0; d < n && lo < hi; d++) {
        lo = lower_bound(v, lo, hi, d, (uint8_t)s[d]);
        hi = lower_bound(v, lo, hi, d, (uint8_t)s[d] + 1);
        if (lo == hi) break;
        const uint32_t id = v->special[lo];
        if (v->text_at[id + 1] - v->text_at[id] == d + 1 && (all || v->type[id] == SG_TOKEN_USER_DEFINED)) {
            best = (int32_t)id;
            *len = d + 1;
        }
    }
    return best;
}

void sg_vocab_free(sg_vocab *v) {
    free(v->text);
    free(v->text_at);
    free(v->piece);
    free(v->piece_at);
    free(v->type);
    free(v->flags);
    free(v->score);
    free(v->table);
    free(v->special);
    *v = (sg_vocab) { 0 };
}
