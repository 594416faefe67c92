/* Opening: single files, split sets, memory; and the accessors of an open handle. */
#include "io/gguf_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static sg_status add_file(sg_gguf *g, const char *path, sg_gguf_stream *s, sg_error *err) {
    size_t cap = g->cap_files;
    if (!sg_gguf_grow((void **)&g->files, &cap, g->n_files, sizeof *g->files))
        return sg_fail(err, SG_E_NOMEM, "%s: no memory for the header", path);
    g->cap_files = (uint32_t)cap;
    sg_gguf_file *f = &g->files[g->n_files];
    *f = (sg_gguf_file) { .path = strdup(path) };
    g->n_files++;
    if (!f->path) return sg_fail(err, SG_E_NOMEM, "%s: no memory for the header", path);
    return sg_gguf_parse(g, f, g->n_files - 1, s, err);
}

static sg_status add_path(sg_gguf *g, const char *path, sg_error *err) {
    sg_gguf_stream s;
    sg_status status = sg_gguf_stream_open(&s, path, err);
    if (status == SG_OK) status = add_file(g, path, &s, err);
    sg_gguf_stream_release(&s);
    return status;
}

/* The file's place in its split set; a file without split keys is 0 of 1. */
static sg_status split_place(const sg_gguf_file *f, uint32_t *no, uint32_t *count, sg_error *err) {
    *no = 0;
    *count = 1;
    SG_TRY(sg_gguf_file_u32(f, "split.no", no, err));
    SG_TRY(sg_gguf_file_u32(f, "split.count", count, err));
    if (*count == 0) *count = 1;
    if (*count > 65535)
        return sg_fail(err, SG_E_FORMAT, "%s: split.count is %" PRIu32 ", more than 65535", f->path, *count);
    if (*no >= *count)
        return sg_fail(err, SG_E_FORMAT, "%s: split.no is %" PRIu32 ", but split.count is %" PRIu32, f->path, *no,
                       *count);
    return SG_OK;
}

/* Length of PATH without its ending "-NNNNN-of-NNNNN.gguf" for part `no` (from 0) of `count`, or 0. */
static size_t split_stem(const char *path, uint32_t no, uint32_t count) {
    char ending[48];
    snprintf(ending, sizeof ending, "-%05" PRIu32 "-of-%05" PRIu32 ".gguf", no + 1, count);
    const size_t n = strlen(path), m = strlen(ending);
    return n > m && strcmp(path + n - m, ending) == 0 ? n - m : 0;
}

static char *split_path(const char *path, size_t stem, uint32_t no, uint32_t count) {
    const size_t size = stem + 48;
    char *out = malloc(size);
    if (out) snprintf(out, size, "%.*s-%05" PRIu32 "-of-%05" PRIu32 ".gguf", (int)stem, path, no + 1, count);
    return out;
}

static sg_status fail_not_first(const sg_gguf_file *f, uint32_t no, uint32_t count, sg_error *err) {
    const size_t stem = split_stem(f->path, no, count);
    char *first = stem ? split_path(f->path, stem, 0, count) : NULL;
    const sg_status status = sg_fail(
        err, SG_E_UNSUPPORTED, "%s: this is part %" PRIu32 " of %" PRIu32 " of a split model; open the first part%s%s",
        f->path, no + 1, count, first ? ": " : "", first ? first : "");
    free(first);
    return status;
}

static sg_status add_part(sg_gguf *g, const char *path, uint32_t part, uint32_t count, sg_error *err) {
    SG_TRY(add_path(g, path, err));
    uint32_t no, n;
    SG_TRY(split_place(&g->files[part], &no, &n, err));
    if (no != part || n != count)
        return sg_fail(err, SG_E_FORMAT,
                       "%s: split.no and split.count say part %" PRIu32 " of %" PRIu32 ", the name part %" PRIu32
                       " of %" PRIu32,
                       path, no + 1, n, part + 1, count);
    return SG_OK;
}

static sg_status add_split_set(sg_gguf *g, sg_error *err) {
    uint32_t no, count, total;
    SG_TRY(split_place(&g->files[0], &no, &count, err));
    if (no != 0) return fail_not_first(&g->files[0], no, count, err);
    if (count == 1) return SG_OK;
    const size_t stem = split_stem(g->files[0].path, 0, count);
    if (stem == 0)
        return sg_fail(err, SG_E_FORMAT,
                       "%s: part 1 of a split model of %" PRIu32 " files, but its name does not end in "
                       "-00001-of-%05" PRIu32 ".gguf, so the others cannot be found",
                       g->files[0].path, count, count);
    for (uint32_t i = 1; i < count; i++) {
        char *path = split_path(g->files[0].path, stem, i, count);
        if (!path) return sg_fail(err, SG_E_NOMEM, "%s: no memory for a path", g->files[0].path);
        const sg_status status = add_part(g, path, i, count, err);
        free(path);
        SG_TRY(status);
    }
    if (g->n_tensors > SG_GGUF_MAX_TENSORS)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: %zu tensors are too many", g->files[0].path, g->n_tensors);
    total = (uint32_t)g->n_tensors;
    SG_TRY(sg_gguf_file_u32(&g->files[0], "split.tensors.count", &total, err));
    if (total != g->n_tensors)
        return sg_fail(err, SG_E_FORMAT,
                       "%s: split.tensors.count is %" PRIu32 ", but the %" PRIu32 " files hold %zu tensors",
                       g->files[0].path, total, count, g->n_tensors);
    return SG_OK;
}

static sg_status index_tensors(sg_gguf *g, sg_error *err) {
    if (g->n_tensors == 0) return SG_OK;
    g->names = malloc(g->n_tensors * sizeof *g->names);
    if (!g->names) return sg_fail(err, SG_E_NOMEM, "%s: no memory for the header", g->files[0].path);
    for (size_t i = 0; i < g->n_tensors; i++) g->names[i] = (sg_gguf_name) { g->tensors[i].name, (uint32_t)i };
    const sg_gguf_name *twice = sg_gguf_names_sort(g->names, g->n_tensors);
    if (twice)
        return sg_fail(err, SG_E_FORMAT, "%s: duplicate tensor %s", g->files[g->tensors[twice->index].file].path,
                       twice->name);
    return SG_OK;
}

sg_status sg_gguf_open(const char *path, sg_gguf **out, sg_error *err) {
    *out = NULL;
    sg_gguf *g = calloc(1, sizeof *g);
    if (!g) return sg_fail(err, SG_E_NOMEM, "%s: no memory for the header", path);
    sg_status status = add_path(g, path, err);
    if (status == SG_OK) status = add_split_set(g, err);
    if (status == SG_OK) status = index_tensors(g, err);
    if (status == SG_OK)
        *out = g;
    else
        sg_gguf_close(&g);
    return status;
}

sg_status sg_gguf_open_memory(const void *data, size_t size, const char *label, sg_gguf **out, sg_error *err) {
    *out = NULL;
    sg_gguf *g = calloc(1, sizeof *g);
    if (!g) return sg_fail(err, SG_E_NOMEM, "%s: no memory for the header", label);
    sg_gguf_stream s = { .label = label, .mem = data, .fd = -1, .size = size };
    uint32_t no = 0, count = 1;
    sg_status status = add_file(g, label, &s, err);
    if (status == SG_OK) status = split_place(&g->files[0], &no, &count, err);
    if (status == SG_OK && count > 1)
        status = sg_fail(err, SG_E_UNSUPPORTED, "%s: part %" PRIu32 " of a split model cannot be opened from memory",
                         label, no + 1);
    if (status == SG_OK) status = index_tensors(g, err);
    if (status == SG_OK)
        *out = g;
    else
        sg_gguf_close(&g);
    return status;
}

void sg_gguf_close(sg_gguf **g) {
    sg_gguf *x = *g;
    *g = NULL;
    if (!x) return;
    for (uint32_t i = 0; i < x->n_files; i++) {
        free(x->files[i].path);
        free(x->files[i].kv);
        free(x->files[i].keys);
    }
    free(x->files);
    free(x->tensors);
    free(x->names);
    sg_arena_release(&x->arena);
    free(x);
}

uint32_t sg_gguf_version(const sg_gguf *g) { return g->files[0].version; }
bool sg_gguf_is_powerinfer(const sg_gguf *g) { return g->files[0].is_powerinfer; }
uint32_t sg_gguf_n_files(const sg_gguf *g) { return g->n_files; }
const char *sg_gguf_path(const sg_gguf *g, uint32_t file) { return g->files[file].path; }
uint64_t sg_gguf_file_size(const sg_gguf *g, uint32_t file) { return g->files[file].size; }
uint64_t sg_gguf_data_offset(const sg_gguf *g, uint32_t file) { return g->files[file].data_offset; }
uint64_t sg_gguf_alignment(const sg_gguf *g) { return g->files[0].alignment; }
size_t sg_gguf_n_kv(const sg_gguf *g) { return g->files[0].n_kv; }
const sg_gguf_kv *sg_gguf_kv_at(const sg_gguf *g, size_t i) { return &g->files[0].kv[i]; }
const sg_gguf_kv *sg_gguf_find(const sg_gguf *g, const char *key) { return sg_gguf_file_find(&g->files[0], key); }
size_t sg_gguf_n_tensors(const sg_gguf *g) { return g->n_tensors; }
const sg_tensor_info *sg_gguf_tensor_at(const sg_gguf *g, size_t i) { return &g->tensors[i]; }

const sg_tensor_info *sg_gguf_tensor(const sg_gguf *g, const char *name) {
    const sg_gguf_name *found = sg_gguf_names_find(g->names, g->n_tensors, name);
    return found ? &g->tensors[found->index] : NULL;
}
