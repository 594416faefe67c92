/* Memory: aligned blocks and a growable byte string. */
#ifndef SG_BASE_MEM_H
#define SG_BASE_MEM_H

#include "runtime/base/error.h"

#define SG_CACHE_LINE 64

/* `size` bytes, zeroed, aligned to `align` (a power of two >= 16). NULL when there is no memory or the size overflows.
 * Release with free(). */
void *sg_aligned_calloc(size_t align, size_t n, size_t size);

/* Large region for weights: page-aligned anonymous mapping, zero-filled on first touch. */
typedef struct sg_region {
    void *data;
    size_t size;
} sg_region;
SG_NODISCARD sg_status sg_region_create(sg_region *r, size_t size, const char *what, sg_error *err);
/* Asks the system for large pages, for regions that are read from end to end again and again: fewer translations, and the
 * processor's prefetching is not stopped at every 4 KiB. A hint; before the first touch. */
void sg_region_large_pages(const sg_region *r);
void sg_region_destroy(sg_region *r); /* accepts a zeroed region */

/* Hands out 64-byte aligned pieces of one block of memory; a first pass with base NULL only measures. */
typedef struct sg_carver {
    char *base;
    size_t used; /* SIZE_MAX once it overflowed */
} sg_carver;
/* n values of `size` bytes; NULL while measuring. */
void *sg_carve(sg_carver *c, size_t n, size_t size);

/* Growable byte string; always zero-terminated once anything was appended. A failed append sets `failed` and later
 * appends do nothing, so that one check at the end is enough. Release with free(data). */
typedef struct sg_str {
    char *data;
    size_t len, cap;
    bool failed;
} sg_str;
void sg_str_append(sg_str *s, const char *bytes, size_t n);
void sg_str_puts(sg_str *s, const char *text);
void sg_str_printf(sg_str *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Growable list of token ids, same failure rule. Release with free(data). */
typedef struct sg_ids {
    int32_t *data;
    size_t len, cap;
    bool failed;
} sg_ids;
void sg_ids_push(sg_ids *v, int32_t id);

/* a * b + c, or false on overflow. */
static inline bool sg_mul_add(uint64_t a, uint64_t b, uint64_t c, uint64_t *out) {
    uint64_t m;
    return !__builtin_mul_overflow(a, b, &m) && !__builtin_add_overflow(m, c, out);
}

#endif
