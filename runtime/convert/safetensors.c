#include "runtime/convert/safetensors.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/convert/file.h"

static const struct {
    const char *name;
    uint32_t bytes;
} dtypes[] = {
    { "F32", 4 }, { "F16", 2 }, { "BF16", 2 }, { "F64", 8 },     { "I64", 8 },
    { "U64", 8 }, { "I32", 4 }, { "U32", 4 },  { "I16", 2 },     { "U16", 2 },
    { "I8", 1 },  { "U8", 1 },  { "BOOL", 1 }, { "F8_E4M3", 1 }, { "F8_E5M2", 1 },
};

static uint32_t dtype_bytes(const char *name) {
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(dtypes[i].name, name) == 0) return dtypes[i].bytes;
    return 0;
}

/* A whole number that a double holds exactly. */
static bool whole(const cJSON *v, uint64_t *out) {
    if (!cJSON_IsNumber(v) || !(v->valuedouble >= 0 && v->valuedouble <= 9007199254740992.0)) return false;
    *out = (uint64_t)v->valuedouble;
    return (double)*out == v->valuedouble;
}

/* Fills t from its entry in the header; data begins at byte `base` of the file and has `room` bytes. */
static sg_status read_entry(const cJSON *e, uint64_t base, uint64_t room, const char *path, sg_st_tensor *t,
                            sg_error *err) {
    const char *name = e->string;
    const char *dtype = sg_json_str(e, "dtype");
    const uint32_t unit = dtype ? dtype_bytes(dtype) : 0;
    if (unit == 0)
        return sg_fail(err, dtype ? SG_E_UNSUPPORTED : SG_E_FORMAT, "%s: tensor %.100s has %s dtype %.20s", path, name,
                       dtype ? "the unknown" : "no", dtype ? dtype : "");
    strcpy(t->dtype, dtype);
    const cJSON *shape = sg_json_get(e, "shape");
    if (!cJSON_IsArray(shape)) return sg_fail(err, SG_E_FORMAT, "%s: tensor %.100s has no shape", path, name);
    uint64_t bytes = unit;
    const cJSON *d;
    cJSON_ArrayForEach(d, shape) {
        if (t->n_dims == SG_ST_MAX_DIMS)
            return sg_fail(err, SG_E_UNSUPPORTED, "%s: tensor %.100s has more than %d dimensions", path, name,
                           SG_ST_MAX_DIMS);
        uint64_t *dim = &t->dims[t->n_dims++];
        if (!whole(d, dim) || __builtin_mul_overflow(bytes, *dim, &bytes))
            return sg_fail(err, SG_E_FORMAT, "%s: tensor %.100s has an impossible shape", path, name);
    }
    const cJSON *offsets = sg_json_get(e, "data_offsets");
    uint64_t lo, hi;
    if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 || !whole(cJSON_GetArrayItem(offsets, 0), &lo) ||
        !whole(cJSON_GetArrayItem(offsets, 1), &hi) || lo > hi)
        return sg_fail(err, SG_E_FORMAT, "%s: tensor %.100s has no valid data_offsets", path, name);
    if (hi > room)
        return sg_fail(err, SG_E_FORMAT, "%s: tensor %.100s ends at byte %llu of the data, the file has only %llu",
                       path, name, (unsigned long long)hi, (unsigned long long)room);
    if (hi - lo != bytes)
        return sg_fail(err, SG_E_FORMAT, "%s: tensor %.100s has %llu bytes, its shape needs %llu", path, name,
                       (unsigned long long)(hi - lo), (unsigned long long)bytes);
    t->offset = base + lo;
    t->n_bytes = bytes;
    t->path = path;
    t->name = strdup(name);
    return t->name ? SG_OK : sg_fail(err, SG_E_NOMEM, "%s: no memory for tensor names", path);
}

static int by_offset(const void *pa, const void *pb) {
    const sg_st_tensor *a = pa, *b = pb;
    if (a->offset != b->offset) return a->offset < b->offset ? -1 : 1;
    return (a->n_bytes > b->n_bytes) - (a->n_bytes < b->n_bytes); /* empty ones first */
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const sg_st_tensor *)a)->name, ((const sg_st_tensor *)b)->name);
}

/* The tensors first .. n lie one after the other and fill base .. base + room, as the format asks. */
static sg_status check_layout(sg_st_set *set, size_t first, uint64_t base, uint64_t room, const char *path,
                              sg_error *err) {
    if (set->n > first) qsort(set->tensors + first, set->n - first, sizeof *set->tensors, by_offset);
    uint64_t at = base;
    for (size_t i = first; i < set->n; i++) {
        const sg_st_tensor *t = &set->tensors[i];
        if (t->offset != at)
            return sg_fail(err, SG_E_FORMAT, "%s: tensor %.100s %s", path, t->name,
                           t->offset < at ? "overlaps another one" : "follows a hole in the data");
        at += t->n_bytes;
    }
    if (at != base + room)
        return sg_fail(err, SG_E_FORMAT, "%s: has %llu bytes after its last tensor", path,
                       (unsigned long long)(base + room - at));
    return SG_OK;
}

static sg_status read_header(int fd, uint64_t size, const char *path, cJSON **out, uint64_t *header, sg_error *err) {
    uint8_t raw[8];
    if (size < 8) return sg_fail(err, SG_E_FORMAT, "%s: is too short for a safetensors file", path);
    SG_TRY(sg_file_read_at(fd, path, raw, sizeof raw, 0, err));
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--) n = n << 8 | raw[i];
    if (n > SG_ST_MAX_HEADER || n > size - 8)
        return sg_fail(err, SG_E_FORMAT, "%s: a header of %llu bytes is announced, %s", path, (unsigned long long)n,
                       n > SG_ST_MAX_HEADER ? "more than a safetensors file may have" : "the file is shorter");
    char *text = malloc(n + 1);
    if (!text) return sg_fail(err, SG_E_NOMEM, "%s: no memory for the header", path);
    sg_status status = sg_file_read_at(fd, path, text, n, 8, err);
    if (status == SG_OK) status = sg_json_parse(text, n, path, out, err);
    free(text);
    *header = 8 + n;
    return status;
}

static sg_status add_entries(sg_st_set *set, const cJSON *header, uint64_t base, uint64_t room, const char *path,
                             sg_error *err) {
    const cJSON *e;
    cJSON_ArrayForEach(e, header) {
        if (strcmp(e->string, "__metadata__") == 0) continue;
        if (!cJSON_IsObject(e)) return sg_fail(err, SG_E_FORMAT, "%s: the entry %.100s is no tensor", path, e->string);
        if (set->n == set->cap) {
            const size_t cap = set->cap ? set->cap * 2 : 64;
            sg_st_tensor *p = realloc(set->tensors, cap * sizeof *p);
            if (!p) return sg_fail(err, SG_E_NOMEM, "%s: no memory for the list of tensors", path);
            set->tensors = p;
            set->cap = cap;
        }
        set->tensors[set->n] = (sg_st_tensor) { 0 };
        SG_TRY(read_entry(e, base, room, path, &set->tensors[set->n], err));
        set->n++;
    }
    return SG_OK;
}

sg_status sg_st_add_file(sg_st_set *set, const char *file, sg_error *err) {
    char **paths = realloc(set->paths, (set->n_paths + 1) * sizeof *paths);
    if (paths) set->paths = paths;
    char *path = paths ? strdup(file) : NULL;
    if (!path) return sg_fail(err, SG_E_NOMEM, "%s: no memory", file);
    set->paths[set->n_paths++] = path;
    int fd;
    uint64_t size, header = 0;
    SG_TRY(sg_file_open(path, &fd, &size, err));
    cJSON *json = NULL;
    const size_t first = set->n;
    sg_status status = read_header(fd, size, path, &json, &header, err);
    close(fd);
    if (status == SG_OK) status = add_entries(set, json, header, size - header, path, err);
    if (status == SG_OK) status = check_layout(set, first, header, size - header, path, err);
    cJSON_Delete(json);
    return status;
}

sg_status sg_st_sort(sg_st_set *set, sg_error *err) {
    if (set->n == 0) return SG_OK;
    qsort(set->tensors, set->n, sizeof *set->tensors, by_name);
    for (size_t i = 1; i < set->n; i++) {
        const sg_st_tensor *a = &set->tensors[i - 1], *b = &set->tensors[i];
        if (strcmp(a->name, b->name) == 0)
            return sg_fail(err, SG_E_FORMAT, "%s: tensor %.100s is there twice", b->path, b->name);
    }
    return SG_OK;
}

sg_st_tensor *sg_st_find(const sg_st_set *set, const char *name) {
    size_t lo = 0, hi = set->n;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        const int c = strcmp(set->tensors[mid].name, name);
        if (c == 0) return &set->tensors[mid];
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

void sg_st_finish(sg_st_set *set) {
    for (size_t i = 0; i < set->n; i++) free(set->tensors[i].name);
    for (size_t i = 0; i < set->n_paths; i++) free(set->paths[i]);
    free(set->tensors);
    free(set->paths);
    *set = (sg_st_set) { 0 };
}
