/* Look-ups by name and conversions of metadata values. */
#include "io/gguf_private.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int by_name(const void *a, const void *b) {
    const sg_gguf_name *x = a, *y = b;
    const int order = strcmp(x->name, y->name);
    return order ? order : (x->index > y->index) - (x->index < y->index);
}

const sg_gguf_name *sg_gguf_names_sort(sg_gguf_name *names, size_t n) {
    if (n > 1) qsort(names, n, sizeof *names, by_name);
    for (size_t i = 1; i < n; i++)
        if (strcmp(names[i - 1].name, names[i].name) == 0) return &names[i];
    return NULL;
}

const sg_gguf_name *sg_gguf_names_find(const sg_gguf_name *names, size_t n, const char *name) {
    size_t lo = 0, hi = n;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        const int order = strcmp(names[mid].name, name);
        if (order == 0) return &names[mid];
        if (order < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

static const struct {
    const char *name;
    size_t size;
} types[] = {
    [SG_GGUF_U8] = { "uint8", 1 },    [SG_GGUF_I8] = { "int8", 1 },    [SG_GGUF_U16] = { "uint16", 2 },
    [SG_GGUF_I16] = { "int16", 2 },   [SG_GGUF_U32] = { "uint32", 4 }, [SG_GGUF_I32] = { "int32", 4 },
    [SG_GGUF_F32] = { "float32", 4 }, [SG_GGUF_BOOL] = { "bool", 1 },  [SG_GGUF_STRING] = { "string", 0 },
    [SG_GGUF_ARRAY] = { "array", 0 }, [SG_GGUF_U64] = { "uint64", 8 }, [SG_GGUF_I64] = { "int64", 8 },
    [SG_GGUF_F64] = { "float64", 8 },
};
#define N_TYPES (sizeof types / sizeof types[0])

size_t sg_gguf_type_size(uint32_t type) { return type < N_TYPES ? types[type].size : 0; }
const char *sg_gguf_type_name(uint32_t type) { return type < N_TYPES ? types[type].name : "unknown"; }

const sg_gguf_kv *sg_gguf_file_find(const sg_gguf_file *f, const char *key) {
    const sg_gguf_name *found = f->keys ? sg_gguf_names_find(f->keys, f->n_kv, key) : NULL;
    return found ? &f->kv[found->index] : NULL;
}

/* Integer value of element i; false for other kinds. *negative with its magnitude lost: nobody needs it. */
static bool kv_integer(const sg_gguf_kv *kv, uint64_t i, uint64_t *value, bool *negative) {
    const size_t size = sg_gguf_type_size(kv->type);
    const uint8_t *at = (const uint8_t *)kv->data + i * size;
    int64_t s = 0;
    *value = 0;
    *negative = false;
    switch (kv->type) {
    case SG_GGUF_U8:
    case SG_GGUF_U16:
    case SG_GGUF_U32:
    case SG_GGUF_U64: memcpy(value, at, size); return true; /* little-endian */
    case SG_GGUF_I8: s = (int8_t)*at; break;
    case SG_GGUF_I16: {
        int16_t v;
        memcpy(&v, at, sizeof v);
        s = v;
        break;
    }
    case SG_GGUF_I32: {
        int32_t v;
        memcpy(&v, at, sizeof v);
        s = v;
        break;
    }
    case SG_GGUF_I64: memcpy(&s, at, sizeof s); break;
    default: return false;
    }
    *negative = s < 0;
    *value = (uint64_t)s;
    return true;
}

double sg_gguf_kv_number(const sg_gguf_kv *kv, uint64_t i) {
    uint64_t u;
    bool negative;
    float f;
    double d;
    if (!kv->data) return NAN;
    if (kv_integer(kv, i, &u, &negative)) return negative ? (double)(int64_t)u : (double)u;
    switch (kv->type) {
    case SG_GGUF_F32: memcpy(&f, (const char *)kv->data + i * sizeof f, sizeof f); return (double)f;
    case SG_GGUF_F64: memcpy(&d, (const char *)kv->data + i * sizeof d, sizeof d); return d;
    case SG_GGUF_BOOL: return ((const uint8_t *)kv->data)[i];
    default: return NAN;
    }
}

static sg_status wrong_kind(const sg_gguf_file *f, const sg_gguf_kv *kv, const char *wanted, sg_error *err) {
    return sg_fail(err, SG_E_FORMAT, "%s: key %.80s is %s%s, but %s is needed", f->path, kv->key,
                   kv->is_array ? "an array of " : "of type ", sg_gguf_type_name(kv->type), wanted);
}

sg_status sg_gguf_file_u32(const sg_gguf_file *f, const char *key, uint32_t *out, sg_error *err) {
    const sg_gguf_kv *kv = sg_gguf_file_find(f, key);
    if (!kv) return SG_OK;
    uint64_t v;
    bool negative;
    if (kv->is_array || !kv_integer(kv, 0, &v, &negative)) return wrong_kind(f, kv, "an integer", err);
    if (negative)
        return sg_fail(err, SG_E_FORMAT, "%s: key %.80s (%s) is negative: %" PRId64, f->path, key,
                       sg_gguf_type_name(kv->type), (int64_t)v);
    if (v > UINT32_MAX)
        return sg_fail(err, SG_E_FORMAT, "%s: key %.80s (%s) is out of range: %" PRIu64, f->path, key,
                       sg_gguf_type_name(kv->type), v);
    *out = (uint32_t)v;
    return SG_OK;
}

sg_status sg_gguf_get_u32(const sg_gguf *g, const char *key, uint32_t *out, sg_error *err) {
    return sg_gguf_file_u32(&g->files[0], key, out, err);
}

sg_status sg_gguf_get_f32(const sg_gguf *g, const char *key, float *out, sg_error *err) {
    const sg_gguf_file *f = &g->files[0];
    const sg_gguf_kv *kv = sg_gguf_file_find(f, key);
    if (!kv) return SG_OK;
    if (kv->is_array || kv->type == SG_GGUF_STRING || kv->type == SG_GGUF_BOOL)
        return wrong_kind(f, kv, "a number", err);
    const double v = sg_gguf_kv_number(kv, 0);
    if (!isfinite(v) || fabs(v) > FLT_MAX)
        return sg_fail(err, SG_E_FORMAT, "%s: key %.80s (%s) is %g, not a finite number of single precision", f->path,
                       key, sg_gguf_type_name(kv->type), v);
    *out = (float)v;
    return SG_OK;
}

sg_status sg_gguf_get_bool(const sg_gguf *g, const char *key, bool *out, sg_error *err) {
    const sg_gguf_file *f = &g->files[0];
    const sg_gguf_kv *kv = sg_gguf_file_find(f, key);
    if (!kv) return SG_OK;
    if (kv->is_array || kv->type != SG_GGUF_BOOL) return wrong_kind(f, kv, "a bool", err);
    *out = *(const uint8_t *)kv->data != 0;
    return SG_OK;
}

sg_status sg_gguf_get_str(const sg_gguf *g, const char *key, const char **out, sg_error *err) {
    const sg_gguf_file *f = &g->files[0];
    const sg_gguf_kv *kv = sg_gguf_file_find(f, key);
    if (!kv) return SG_OK;
    if (kv->is_array || kv->type != SG_GGUF_STRING) return wrong_kind(f, kv, "a string", err);
    *out = kv->strings[0].text;
    return SG_OK;
}
