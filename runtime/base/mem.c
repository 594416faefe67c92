#include "runtime/base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

void *sg_aligned_calloc(size_t align, size_t n, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX - align) return NULL;
    bytes = (bytes + align - 1) / align * align;
    if (bytes == 0) bytes = align;
    void *p = NULL;
    if (posix_memalign(&p, align, bytes) != 0) return NULL;
    memset(p, 0, bytes);
    return p;
}

sg_status sg_region_create(sg_region *r, size_t size, const char *what, sg_error *err) {
    *r = (sg_region){ 0 };
    if (size == 0) return SG_OK;
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return sg_fail(err, SG_E_NOMEM, "cannot get %.1f MiB of memory for %s", (double)size / (1 << 20), what);
    r->data = p;
    r->size = size;
    return SG_OK;
}

void sg_region_large_pages(const sg_region *r) {
    if (r->data) (void)madvise(r->data, r->size, MADV_HUGEPAGE);
}

void sg_region_destroy(sg_region *r) {
    if (r->data) munmap(r->data, r->size);
    *r = (sg_region){ 0 };
}

void *sg_carve(sg_carver *c, size_t n, size_t size) {
    void *p = c->base ? c->base + c->used : NULL;
    uint64_t end;
    if (c->used > SIZE_MAX / 2 || !sg_mul_add(n, size, c->used + SG_CACHE_LINE - 1, &end) || end > SIZE_MAX / 2) c->used = SIZE_MAX;
    else c->used = (size_t)end / SG_CACHE_LINE * SG_CACHE_LINE;
    return p;
}

/* Makes room for `extra` more bytes and the terminating zero. */
static bool str_reserve(sg_str *s, size_t extra) {
    if (s->failed) return false;
    if (extra > SIZE_MAX / 2 - s->len - 1) {
        s->failed = true;
        return false;
    }
    const size_t need = s->len + extra + 1;
    if (need <= s->cap) return true;
    const size_t cap = need < 64 ? 64 : need + need / 2;
    char *p = realloc(s->data, cap);
    if (!p) {
        s->failed = true;
        return false;
    }
    s->data = p;
    s->cap = cap;
    return true;
}

void sg_str_append(sg_str *s, const char *bytes, size_t n) {
    if (!str_reserve(s, n)) return;
    if (n) memcpy(s->data + s->len, bytes, n);
    s->len += n;
    s->data[s->len] = 0;
}

void sg_str_puts(sg_str *s, const char *text) { sg_str_append(s, text, strlen(text)); }

void sg_str_printf(sg_str *s, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    const int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n >= 0 && str_reserve(s, (size_t)n)) {
        vsnprintf(s->data + s->len, (size_t)n + 1, fmt, again);
        s->len += (size_t)n;
    } else {
        s->failed = true;
    }
    va_end(again);
}

void sg_ids_push(sg_ids *v, int32_t id) {
    if (v->failed) return;
    if (v->len == v->cap) {
        const size_t cap = v->cap ? v->cap + v->cap / 2 : 64;
        int32_t *p = realloc(v->data, cap * sizeof *p);
        if (!p) {
            v->failed = true;
            return;
        }
        v->data = p;
        v->cap = cap;
    }
    v->data[v->len++] = id;
}

void sg_free(void *p) { free(p); }
