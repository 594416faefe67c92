/* Parser of one GGUF header: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 * Numbers are little-endian; so are all machines that sparsegen targets, hence plain copies. */
#include "io/gguf_private.h"
#include "runtime/base/mem.h"
#include "runtime/base/utf8.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the GGUF reader copies little-endian numbers as they are"
#endif

/* Fewest bytes that an entry can have: key length, one byte of key, type, one byte of value is 14; the length of an
 * empty key is refused later, so 13 is safe. A tensor: name length, dimension count, one dimension, type, offset. */
#define MIN_KV_BYTES 13
#define MIN_TENSOR_BYTES 32

typedef struct parser {
    sg_gguf *g;
    sg_gguf_file *file;
    uint32_t file_index;
    sg_gguf_stream *s;
    sg_error *err;
} parser;

/* Fails with "PATH: byte N: sentence". */
#define FAIL_AT(p, at, code, fmt, ...)                                                                                 \
    sg_fail((p)->err, code, "%s: byte %" PRIu64 ": " fmt, (p)->s->label, (uint64_t)(at), __VA_ARGS__)

static sg_status no_memory(const parser *p) {
    return FAIL_AT(p, p->s->pos, SG_E_NOMEM, "no memory for the %s", "header");
}

static sg_status read_u32(parser *p, uint32_t *out, const char *what) {
    return sg_gguf_stream_read(p->s, out, sizeof *out, what, p->err);
}

static sg_status read_u64(parser *p, uint64_t *out, const char *what) {
    return sg_gguf_stream_read(p->s, out, sizeof *out, what, p->err);
}

/* A length and so many bytes, copied and zero-terminated. */
static sg_status read_bytes(parser *p, uint64_t max, sg_gguf_string *out, const char *what) {
    const uint64_t at = p->s->pos;
    uint64_t len;
    SG_TRY(read_u64(p, &len, what));
    if (len > max)
        return FAIL_AT(p, at, SG_E_FORMAT, "%s has a length of %" PRIu64 ", more than %" PRIu64, what, len, max);
    SG_TRY(sg_gguf_stream_need(p->s, len, what, p->err));
    char *text = sg_arena_alloc(&p->g->arena, (size_t)len + 1);
    if (!text) return no_memory(p);
    SG_TRY(sg_gguf_stream_read(p->s, text, (size_t)len, what, p->err));
    text[len] = 0;
    *out = (sg_gguf_string) { text, len };
    return SG_OK;
}

static sg_status check_text(const parser *p, const sg_gguf_string *s, const char *what) {
    const uint64_t begin = p->s->pos - s->len;
    const size_t bad = sg_utf8_check(s->text, (size_t)s->len);
    if (bad < s->len) return FAIL_AT(p, begin + bad, SG_E_FORMAT, "%s is not valid UTF-8", what);
    const size_t zero = strlen(s->text);
    if (zero < s->len) return FAIL_AT(p, begin + zero, SG_E_FORMAT, "%s has a zero byte inside", what);
    return SG_OK;
}

/* Keys and tensor names: text without control characters (they end up in messages and on terminals), not empty. */
static sg_status read_name(parser *p, uint64_t max, const char **out, const char *what) {
    const uint64_t at = p->s->pos;
    sg_gguf_string s = { 0 };
    SG_TRY(read_bytes(p, max, &s, what));
    if (s.len == 0) return FAIL_AT(p, at, SG_E_FORMAT, "%s is empty", what);
    SG_TRY(check_text(p, &s, what));
    for (uint64_t i = 0; i < s.len; i++) {
        const unsigned char c = (unsigned char)s.text[i];
        if (c < 0x20 || c == 0x7f)
            return FAIL_AT(p, at + 8 + i, SG_E_FORMAT, "%s has a control character inside", what);
    }
    *out = s.text;
    return SG_OK;
}

static sg_status read_strings(parser *p, sg_gguf_kv *kv) {
    if (kv->n > sg_gguf_stream_left(p->s) / 8)
        return FAIL_AT(p, p->s->pos, SG_E_FORMAT,
                       "truncated: key %.80s has %" PRIu64 " strings, but %" PRIu64 " bytes are left", kv->key, kv->n,
                       sg_gguf_stream_left(p->s));
    SG_TRY(sg_gguf_stream_need(p->s, kv->n * 8, "an array of strings", p->err));
    sg_gguf_string *list = sg_arena_alloc(&p->g->arena, (size_t)kv->n * sizeof *list);
    if (!list) return no_memory(p);
    for (uint64_t i = 0; i < kv->n; i++) SG_TRY(read_bytes(p, UINT64_MAX, &list[i], "a string value"));
    if (!kv->is_array) SG_TRY(check_text(p, &list[0], "a string value"));
    kv->strings = list;
    return SG_OK;
}

static sg_status read_numbers(parser *p, sg_gguf_kv *kv) {
    const size_t size = sg_gguf_type_size(kv->type);
    const uint64_t at = p->s->pos;
    if (kv->n > sg_gguf_stream_left(p->s) / size)
        return FAIL_AT(p, at, SG_E_FORMAT,
                       "truncated: key %.80s has %" PRIu64 " values of %s, but %" PRIu64 " bytes are left", kv->key,
                       kv->n, sg_gguf_type_name(kv->type), sg_gguf_stream_left(p->s));
    SG_TRY(sg_gguf_stream_need(p->s, kv->n * size, "a value", p->err));
    uint8_t *data = sg_arena_alloc(&p->g->arena, (size_t)kv->n * size);
    if (!data) return no_memory(p);
    SG_TRY(sg_gguf_stream_read(p->s, data, (size_t)kv->n * size, "a value", p->err));
    if (kv->type == SG_GGUF_BOOL) {
        for (uint64_t i = 0; i < kv->n; i++)
            if (data[i] > 1) return FAIL_AT(p, at + i, SG_E_FORMAT, "key %.80s: %u is no bool", kv->key, data[i]);
    }
    kv->data = data;
    return SG_OK;
}

static sg_status read_kv(parser *p) {
    sg_gguf_file *f = p->file;
    if (!sg_gguf_grow((void **)&f->kv, &f->cap_kv, f->n_kv, sizeof *f->kv)) return no_memory(p);
    sg_gguf_kv kv = { .n = 1 };
    SG_TRY(read_name(p, SG_GGUF_MAX_KEY, &kv.key, "a key"));
    uint64_t at = p->s->pos;
    uint32_t type;
    SG_TRY(read_u32(p, &type, "the type of a value"));
    if (type == SG_GGUF_ARRAY) {
        kv.is_array = true;
        at = p->s->pos;
        SG_TRY(read_u32(p, &type, "the type of an array"));
        SG_TRY(read_u64(p, &kv.n, "the length of an array"));
        if (type == SG_GGUF_ARRAY) return FAIL_AT(p, at, SG_E_UNSUPPORTED, "key %.80s holds nested arrays", kv.key);
    }
    if (type != SG_GGUF_STRING && sg_gguf_type_size(type) == 0)
        return FAIL_AT(p, at, SG_E_FORMAT, "key %.80s has the unknown type %" PRIu32, kv.key, type);
    kv.type = (sg_gguf_type)type;
    SG_TRY(type == SG_GGUF_STRING ? read_strings(p, &kv) : read_numbers(p, &kv));
    f->kv[f->n_kv++] = kv;
    return SG_OK;
}

static sg_status index_keys(parser *p) {
    sg_gguf_file *f = p->file;
    if (f->n_kv == 0) return SG_OK;
    f->keys = malloc(f->n_kv * sizeof *f->keys);
    if (!f->keys) return no_memory(p);
    for (size_t i = 0; i < f->n_kv; i++) f->keys[i] = (sg_gguf_name) { f->kv[i].key, (uint32_t)i };
    const sg_gguf_name *twice = sg_gguf_names_sort(f->keys, f->n_kv);
    if (twice) return sg_fail(p->err, SG_E_FORMAT, "%s: duplicate key %.80s", p->s->label, twice->name);
    return SG_OK;
}

static sg_status read_alignment(parser *p) {
    const sg_gguf_kv *kv = sg_gguf_file_find(p->file, "general.alignment");
    uint32_t a = SG_GGUF_DEFAULT_ALIGNMENT;
    if (kv) {
        if (kv->is_array || kv->type != SG_GGUF_U32)
            return sg_fail(p->err, SG_E_FORMAT, "%s: general.alignment is not a uint32", p->s->label);
        memcpy(&a, kv->data, sizeof a);
        if (a < 8 || (a & (a - 1)) != 0)
            return sg_fail(p->err, SG_E_FORMAT,
                           "%s: general.alignment is %" PRIu32 ", not a power of two of at least 8", p->s->label, a);
    }
    p->file->alignment = a;
    return SG_OK;
}

bool sg_gguf_tensor_shape(sg_tensor_info *t, const char **why) {
    const sg_dtype_info *type = sg_dtype_get(t->type);
    uint64_t n = 1, bytes;
    *why = NULL;
    for (uint32_t d = 0; d < 4; d++) {
        if (d >= t->n_dims) t->ne[d] = 1;
        if (t->ne[d] == 0)
            *why = "a dimension of zero";
        else if (__builtin_mul_overflow(n, t->ne[d], &n) || n > INT64_MAX)
            *why = "too many values (overflow)";
        if (*why) return false;
    }
    if (t->ne[0] % type->block_values != 0)
        *why = "rows that are no whole blocks of its type";
    else if (!sg_mul_add(n / type->block_values, type->block_bytes, 0, &bytes) || bytes > INT64_MAX)
        *why = "too many bytes (overflow)";
    if (*why) return false;
    t->n_values = n;
    t->n_bytes = bytes;
    return true;
}

/* t->offset counts from the beginning of the data until place_tensors. */
static sg_status read_tensor(parser *p) {
    sg_gguf *g = p->g;
    if (!sg_gguf_grow((void **)&g->tensors, &g->cap_tensors, g->n_tensors, sizeof *g->tensors)) return no_memory(p);
    sg_tensor_info t = { .file = p->file_index };
    SG_TRY(read_name(p, SG_GGUF_MAX_NAME, &t.name, "a tensor name"));
    uint64_t at = p->s->pos;
    SG_TRY(read_u32(p, &t.n_dims, "a dimension count"));
    if (t.n_dims < 1 || t.n_dims > 4)
        return FAIL_AT(p, at, SG_E_FORMAT, "tensor %s has %" PRIu32 " dimensions, not 1 to 4", t.name, t.n_dims);
    at = p->s->pos;
    SG_TRY(sg_gguf_stream_read(p->s, t.ne, t.n_dims * sizeof t.ne[0], "the dimensions of a tensor", p->err));
    uint32_t type;
    SG_TRY(read_u32(p, &type, "the type of a tensor"));
    if (!sg_dtype_get(type))
        return FAIL_AT(p, p->s->pos - 4, SG_E_UNSUPPORTED,
                       "tensor %s has type %" PRIu32 ", which sparsegen does not read", t.name, type);
    t.type = (sg_dtype)type;
    const char *why;
    if (!sg_gguf_tensor_shape(&t, &why)) return FAIL_AT(p, at, SG_E_FORMAT, "tensor %s has %s", t.name, why);
    at = p->s->pos;
    SG_TRY(read_u64(p, &t.offset, "the offset of a tensor"));
    if (t.offset % p->file->alignment != 0)
        return FAIL_AT(p, at, SG_E_FORMAT, "tensor %s has offset %" PRIu64 ", no multiple of the alignment %" PRIu64,
                       t.name, t.offset, p->file->alignment);
    g->tensors[g->n_tensors++] = t;
    return SG_OK;
}

static int by_offset(const void *a, const void *b) {
    const sg_tensor_info *const *x = a, *const *y = b;
    return (*x)->offset < (*y)->offset ? -1 : (*x)->offset > (*y)->offset;
}

/* Makes offsets count from the beginning of the file and checks that each tensor has its own bytes inside it. */
static sg_status place_tensors(parser *p, size_t first) {
    const size_t n = p->g->n_tensors - first;
    const uint64_t align = p->file->alignment;
    uint64_t begin = p->s->pos + (align - p->s->pos % align) % align;
    if (n == 0 && begin > p->file->size) begin = p->file->size; /* files without tensors may end without padding */
    p->file->data_offset = begin;
    if (n == 0) return SG_OK;
    const sg_tensor_info **sorted = malloc(n * sizeof *sorted);
    if (!sorted) return no_memory(p);
    sg_status status = SG_OK;
    for (size_t i = 0; i < n && status == SG_OK; i++) {
        sg_tensor_info *t = &p->g->tensors[first + i];
        uint64_t end;
        if (__builtin_add_overflow(t->offset, begin, &t->offset) || __builtin_add_overflow(t->offset, t->n_bytes, &end))
            status = sg_fail(p->err, SG_E_FORMAT, "%s: the offset of tensor %s is too large", p->s->label, t->name);
        else if (end > p->file->size)
            status = FAIL_AT(p, p->file->size, SG_E_FORMAT, "truncated: tensor %s ends at byte %" PRIu64, t->name, end);
        sorted[i] = t;
    }
    if (status == SG_OK) qsort(sorted, n, sizeof *sorted, by_offset);
    for (size_t i = 1; i < n && status == SG_OK; i++) {
        if (sorted[i]->offset - sorted[i - 1]->offset < sorted[i - 1]->n_bytes)
            status = FAIL_AT(p, sorted[i]->offset, SG_E_FORMAT, "tensors %s and %s overlap", sorted[i - 1]->name,
                             sorted[i]->name);
    }
    free(sorted);
    return status;
}

static sg_status read_preamble(parser *p, uint64_t *n_tensors, uint64_t *n_kv) {
    char magic[4];
    if (p->s->size == 0) return sg_fail(p->err, SG_E_FORMAT, "%s: the file is empty", p->s->label);
    SG_TRY(sg_gguf_stream_read(p->s, magic, sizeof magic, "the magic number", p->err));
    p->file->is_powerinfer = memcmp(magic, SG_POWERINFER_MAGIC, 4) == 0;
    if (!p->file->is_powerinfer && memcmp(magic, SG_GGUF_MAGIC, 4) != 0)
        return FAIL_AT(p, 0, SG_E_FORMAT, "not a GGUF file: it begins with %02x %02x %02x %02x instead of \"GGUF\"",
                       (unsigned char)magic[0], (unsigned char)magic[1], (unsigned char)magic[2],
                       (unsigned char)magic[3]);
    uint32_t v;
    SG_TRY(read_u32(p, &v, "the version"));
    if (v != 0 && (v & 0xffff) == 0)
        return FAIL_AT(p, 4, SG_E_UNSUPPORTED,
                       "a big-endian GGUF file (version %" PRIu32 "); only little-endian ones are read",
                       __builtin_bswap32(v));
    if (v != 2 && v != 3)
        return FAIL_AT(p, 4, SG_E_UNSUPPORTED, "GGUF version %" PRIu32 "; versions 2 and 3 are read", v);
    p->file->version = v;
    SG_TRY(read_u64(p, n_tensors, "the tensor count"));
    SG_TRY(read_u64(p, n_kv, "the key count"));
    if (*n_kv > sg_gguf_stream_left(p->s) / MIN_KV_BYTES)
        return FAIL_AT(p, 16, SG_E_FORMAT, "truncated: %" PRIu64 " keys cannot fit into the file", *n_kv);
    if (*n_tensors > sg_gguf_stream_left(p->s) / MIN_TENSOR_BYTES)
        return FAIL_AT(p, 8, SG_E_FORMAT, "truncated: %" PRIu64 " tensors cannot fit into the file", *n_tensors);
    if (*n_kv > SG_GGUF_MAX_KV) return FAIL_AT(p, 16, SG_E_UNSUPPORTED, "%" PRIu64 " keys are too many", *n_kv);
    if (*n_tensors > SG_GGUF_MAX_TENSORS)
        return FAIL_AT(p, 8, SG_E_UNSUPPORTED, "%" PRIu64 " tensors are too many", *n_tensors);
    return SG_OK;
}

sg_status sg_gguf_parse(sg_gguf *g, sg_gguf_file *file, uint32_t file_index, sg_gguf_stream *s, sg_error *err) {
    parser p = { g, file, file_index, s, err };
    const size_t first = g->n_tensors;
    uint64_t n_tensors, n_kv;
    file->size = s->size;
    SG_TRY(read_preamble(&p, &n_tensors, &n_kv));
    for (uint64_t i = 0; i < n_kv; i++) SG_TRY(read_kv(&p));
    SG_TRY(index_keys(&p));
    SG_TRY(read_alignment(&p));
    for (uint64_t i = 0; i < n_tensors; i++) SG_TRY(read_tensor(&p));
    return place_tensors(&p, first);
}
