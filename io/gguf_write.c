/* Writer: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3. The header is collected in memory, the
 * tensor data streams through; see gguf_file.c for the file under its temporary name. */
#include "io/gguf_file.h"
#include "io/gguf_private.h"
#include "runtime/base/mem.h"
#include "runtime/base/utf8.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sg_gguf_writer {
    sg_out_file file;
    uint32_t alignment;
    sg_error failure; /* the first one; code SG_OK while there is none */
    sg_arena names;
    sg_str kv; /* encoded entries */
    sg_gguf_name *keys;
    size_t n_keys, cap_keys;
    sg_tensor_info *tensors; /* offset counts from the beginning of the data */
    size_t n_tensors, cap_tensors;
    uint64_t data_end; /* of the tensors declared, padded */
    bool in_data, finished;
    size_t current;        /* tensor being written */
    uint64_t current_done; /* bytes of it */
    sg_gguf_tap_fn tap;
    void *tap_user;
};

/* The first failure stays; later calls repeat it. */
static __attribute__((format(printf, 3, 4))) void fail(sg_gguf_writer *w, sg_status code, const char *fmt, ...) {
    if (w->failure.code != SG_OK) return;
    va_list ap;
    va_start(ap, fmt);
    w->failure.code = code;
    vsnprintf(w->failure.message, sizeof w->failure.message, fmt, ap);
    va_end(ap);
}

static sg_status report(const sg_gguf_writer *w, sg_error *err) {
    return w->failure.code == SG_OK ? SG_OK : sg_fail(err, w->failure.code, "%s", w->failure.message);
}

sg_status sg_gguf_writer_create(const char *path, uint32_t alignment, bool overwrite, sg_gguf_writer **out,
                                sg_error *err) {
    *out = NULL;
    if (alignment == 0) alignment = SG_GGUF_DEFAULT_ALIGNMENT;
    if (alignment < 8 || (alignment & (alignment - 1)) != 0)
        return sg_fail(err, SG_E_ARG, "%s: alignment %" PRIu32 " is not a power of two of at least 8", path, alignment);
    sg_gguf_writer *w = calloc(1, sizeof *w);
    if (!w) return sg_fail(err, SG_E_NOMEM, "%s: no memory for the writer", path);
    const sg_status status = sg_out_file_create(&w->file, path, overwrite, err);
    if (status != SG_OK) {
        free(w);
        return status;
    }
    w->alignment = alignment;
    if (alignment != SG_GGUF_DEFAULT_ALIGNMENT) sg_gguf_writer_u32(w, "general.alignment", alignment);
    *out = w;
    return SG_OK;
}

void sg_gguf_writer_abort(sg_gguf_writer **writer) {
    sg_gguf_writer *w = *writer;
    *writer = NULL;
    if (!w) return;
    sg_out_file_release(&w->file);
    sg_arena_release(&w->names);
    free(w->kv.data);
    free(w->keys);
    free(w->tensors);
    free(w);
}

/* The rules of the reader, so that what was written can be read. */
static bool name_is_valid(const char *name, size_t max) {
    const size_t n = strlen(name);
    if (n == 0 || n > max || sg_utf8_check(name, n) != n) return false;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f) return false;
    return true;
}

static const char *keep_name(sg_gguf_writer *w, const char *name) {
    const size_t n = strlen(name) + 1;
    char *copy = sg_arena_alloc(&w->names, n);
    return copy ? memcpy(copy, name, n) : NULL;
}

static void put_u32(sg_str *s, uint32_t v) { sg_str_append(s, (const char *)&v, sizeof v); }
static void put_u64(sg_str *s, uint64_t v) { sg_str_append(s, (const char *)&v, sizeof v); }

static void put_string(sg_str *s, const char *text, uint64_t n) {
    put_u64(s, n);
    sg_str_append(s, text, (size_t)n);
}

/* Key and types of an entry; false when the writer has failed. */
static bool begin_kv(sg_gguf_writer *w, const char *key, sg_gguf_type type, bool is_array, uint64_t n) {
    if (w->failure.code != SG_OK) return false;
    if (w->in_data) fail(w, SG_E_ARG, "%s: key %.80s comes after the header", w->file.path, key);
    if (!name_is_valid(key, SG_GGUF_MAX_KEY)) fail(w, SG_E_ARG, "%s: a key is empty or no plain UTF-8", w->file.path);
    const char *kept = keep_name(w, key);
    if (!kept || !sg_gguf_grow((void **)&w->keys, &w->cap_keys, w->n_keys, sizeof *w->keys))
        fail(w, SG_E_NOMEM, "%s: no memory for the header", w->file.path);
    if (w->failure.code != SG_OK) return false;
    w->keys[w->n_keys] = (sg_gguf_name) { kept, (uint32_t)w->n_keys };
    w->n_keys++;
    put_string(&w->kv, key, strlen(key));
    put_u32(&w->kv, is_array ? SG_GGUF_ARRAY : type);
    if (is_array) {
        put_u32(&w->kv, type);
        put_u64(&w->kv, n);
    }
    return true;
}

static void put_numbers(sg_gguf_writer *w, const char *key, sg_gguf_type type, bool is_array, const void *data,
                        uint64_t n) {
    const size_t size = sg_gguf_type_size(type);
    if (size == 0 || n > SG_GGUF_MAX_HEADER / size) {
        fail(w, SG_E_ARG, "%s: key %.80s cannot hold %" PRIu64 " values of type %s", w->file.path, key, n,
             sg_gguf_type_name(type));
        return;
    }
    if (begin_kv(w, key, type, is_array, n)) sg_str_append(&w->kv, data, (size_t)n * size);
}

static void put_strings(sg_gguf_writer *w, const char *key, bool is_array, const sg_gguf_string *v, uint64_t n) {
    if (!is_array && (strlen(v->text) != v->len || sg_utf8_check(v->text, (size_t)v->len) != v->len)) {
        fail(w, SG_E_UTF8, "%s: the value of key %.80s is not valid UTF-8", w->file.path, key);
        return;
    }
    if (!begin_kv(w, key, SG_GGUF_STRING, is_array, n)) return;
    for (uint64_t i = 0; i < n; i++) put_string(&w->kv, v[i].text, v[i].len);
}

void sg_gguf_writer_u32(sg_gguf_writer *w, const char *key, uint32_t v) {
    put_numbers(w, key, SG_GGUF_U32, false, &v, 1);
}
void sg_gguf_writer_u64(sg_gguf_writer *w, const char *key, uint64_t v) {
    put_numbers(w, key, SG_GGUF_U64, false, &v, 1);
}
void sg_gguf_writer_f32(sg_gguf_writer *w, const char *key, float v) { put_numbers(w, key, SG_GGUF_F32, false, &v, 1); }

void sg_gguf_writer_bool(sg_gguf_writer *w, const char *key, bool v) {
    const uint8_t byte = v;
    put_numbers(w, key, SG_GGUF_BOOL, false, &byte, 1);
}

void sg_gguf_writer_str(sg_gguf_writer *w, const char *key, const char *v) {
    const sg_gguf_string s = { v, strlen(v) };
    put_strings(w, key, false, &s, 1);
}

void sg_gguf_writer_array(sg_gguf_writer *w, const char *key, sg_gguf_type type, const void *data, uint64_t n) {
    put_numbers(w, key, type, true, data, n);
}

void sg_gguf_writer_strings(sg_gguf_writer *w, const char *key, const sg_gguf_string *v, uint64_t n) {
    put_strings(w, key, true, v, n);
}

void sg_gguf_writer_copy(sg_gguf_writer *w, const sg_gguf_kv *kv) {
    if (strcmp(kv->key, "general.alignment") == 0 || strncmp(kv->key, "split.", 6) == 0) return;
    if (kv->strings)
        put_strings(w, kv->key, kv->is_array, kv->strings, kv->n);
    else
        put_numbers(w, kv->key, kv->type, kv->is_array, kv->data, kv->n);
}

void sg_gguf_writer_tensor(sg_gguf_writer *w, const char *name, sg_dtype type, uint32_t n_dims, const uint64_t *ne) {
    if (w->failure.code != SG_OK) return;
    if (w->in_data) fail(w, SG_E_ARG, "%s: tensor %.64s comes after the header", w->file.path, name);
    if (!name_is_valid(name, SG_GGUF_MAX_NAME))
        fail(w, SG_E_ARG, "%s: tensor name %.80s is empty, too long or no plain UTF-8", w->file.path, name);
    if (!sg_dtype_get(type) || n_dims < 1 || n_dims > 4)
        fail(w, SG_E_ARG, "%s: tensor %.64s has no valid type or dimension count", w->file.path, name);
    if (w->failure.code != SG_OK) return;
    sg_tensor_info t = { .name = keep_name(w, name), .type = type, .n_dims = n_dims, .offset = w->data_end };
    memcpy(t.ne, ne, n_dims * sizeof *ne);
    const char *why;
    uint64_t end = 0;
    if (!sg_gguf_tensor_shape(&t, &why))
        fail(w, SG_E_ARG, "%s: tensor %.64s has %s", w->file.path, name, why);
    else if (__builtin_add_overflow(w->data_end, t.n_bytes + w->alignment - 1, &end) || end > INT64_MAX)
        fail(w, SG_E_ARG, "%s: tensor %.64s makes the file too large", w->file.path, name);
    else if (!t.name || !sg_gguf_grow((void **)&w->tensors, &w->cap_tensors, w->n_tensors, sizeof *w->tensors))
        fail(w, SG_E_NOMEM, "%s: no memory for the header", w->file.path);
    if (w->failure.code != SG_OK) return;
    w->data_end = end - end % w->alignment;
    w->tensors[w->n_tensors++] = t;
}

static void check_names(sg_gguf_writer *w) {
    const sg_gguf_name *twice = sg_gguf_names_sort(w->keys, w->n_keys);
    if (twice) fail(w, SG_E_ARG, "%s: duplicate key %.80s", w->file.path, twice->name);
    sg_gguf_name *names = malloc((w->n_tensors + 1) * sizeof *names);
    if (!names) {
        fail(w, SG_E_NOMEM, "%s: no memory for the header", w->file.path);
        return;
    }
    for (size_t i = 0; i < w->n_tensors; i++) names[i] = (sg_gguf_name) { w->tensors[i].name, (uint32_t)i };
    twice = sg_gguf_names_sort(names, w->n_tensors);
    if (twice) fail(w, SG_E_ARG, "%s: duplicate tensor %s", w->file.path, twice->name);
    free(names);
}

void sg_gguf_writer_tap(sg_gguf_writer *w, sg_gguf_tap_fn tap, void *user) {
    w->tap = tap;
    w->tap_user = user;
}

static void put_bytes(sg_gguf_writer *w, const void *bytes, size_t n) {
    if (w->tap) w->tap(w->tap_user, bytes, n);
    (void)!sg_out_file_write(&w->file, bytes, n, &w->failure);
}

/* Zeros up to the next multiple of the alignment. */
static void pad(sg_gguf_writer *w) {
    static const char zeros[4096];
    uint64_t n = (w->alignment - w->file.size % w->alignment) % w->alignment;
    while (n > 0 && w->failure.code == SG_OK) {
        const size_t part = n < sizeof zeros ? (size_t)n : sizeof zeros;
        if (w->in_data) (void)!sg_out_file_write(&w->file, zeros, part, &w->failure);
        else put_bytes(w, zeros, part);
        n -= part;
    }
}

sg_status sg_gguf_writer_begin_data(sg_gguf_writer *w, sg_error *err) {
    if (w->in_data) fail(w, SG_E_ARG, "%s: the header was written already", w->file.path);
    check_names(w);
    if (w->failure.code != SG_OK) return report(w, err);
    sg_str preamble = { 0 }, infos = { 0 };
    sg_str_append(&preamble, SG_GGUF_MAGIC, 4);
    put_u32(&preamble, 3);
    put_u64(&preamble, w->n_tensors);
    put_u64(&preamble, w->n_keys);
    for (size_t i = 0; i < w->n_tensors; i++) {
        const sg_tensor_info *t = &w->tensors[i];
        put_string(&infos, t->name, strlen(t->name));
        put_u32(&infos, t->n_dims);
        for (uint32_t d = 0; d < t->n_dims; d++) put_u64(&infos, t->ne[d]);
        put_u32(&infos, t->type);
        put_u64(&infos, t->offset);
    }
    const sg_str *const parts[] = { &preamble, &w->kv, &infos };
    for (size_t i = 0; i < 3 && w->failure.code == SG_OK; i++) {
        if (parts[i]->failed)
            fail(w, SG_E_NOMEM, "%s: no memory for the header", w->file.path);
        else
            put_bytes(w, parts[i]->data, parts[i]->len);
    }
    free(preamble.data);
    free(infos.data);
    pad(w);
    w->in_data = true;
    return report(w, err);
}

sg_status sg_gguf_writer_data(sg_gguf_writer *w, const void *bytes, size_t n, sg_error *err) {
    if (!w->in_data) fail(w, SG_E_ARG, "%s: data comes before the header", w->file.path);
    if (w->failure.code == SG_OK && n > 0 && w->current == w->n_tensors)
        fail(w, SG_E_ARG, "%s: data after the last tensor", w->file.path);
    if (w->failure.code != SG_OK) return report(w, err);
    if (n == 0) return SG_OK;
    const sg_tensor_info *t = &w->tensors[w->current];
    if (n > t->n_bytes - w->current_done) {
        fail(w, SG_E_ARG, "%s: more than the %" PRIu64 " bytes of tensor %s", w->file.path, t->n_bytes, t->name);
        return report(w, err);
    }
    put_bytes(w, bytes, n);
    w->current_done += n;
    if (w->current_done == t->n_bytes) {
        w->current++;
        w->current_done = 0;
        pad(w);
    }
    return report(w, err);
}

sg_status sg_gguf_writer_finish(sg_gguf_writer *w, sg_error *err) {
    if (w->failure.code == SG_OK && !w->in_data) (void)!sg_gguf_writer_begin_data(w, NULL);
    if (w->finished)
        fail(w, SG_E_ARG, "%s: the file was finished already", w->file.path);
    else if (w->current < w->n_tensors)
        fail(w, SG_E_ARG, "%s: tensor %s got %" PRIu64 " of its %" PRIu64 " bytes", w->file.path,
             w->tensors[w->current].name, w->current_done, w->tensors[w->current].n_bytes);
    if (w->failure.code == SG_OK) (void)!sg_out_file_finish(&w->file, &w->failure);
    w->finished = w->failure.code == SG_OK;
    return report(w, err);
}
