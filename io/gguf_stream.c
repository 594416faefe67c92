/* Reading a header from front to back, and the memory that it is kept in. The file is read, not mapped: a file that
 * shrinks under a mapping kills the process. */
#include "io/gguf_private.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WINDOW_BYTES ((size_t)256 << 10)
#define ARENA_BYTES ((size_t)64 << 10)

struct sg_arena_block {
    sg_arena_block *next;
    size_t used, size; /* of data */
    _Alignas(8) unsigned char data[];
};

void *sg_arena_alloc(sg_arena *a, size_t n) {
    if (n > SIZE_MAX / 2) return NULL;
    n = (n + 7) & ~(size_t)7;
    sg_arena_block *b = a->blocks;
    if (!b || b->size - b->used < n) {
        const bool large = n > ARENA_BYTES / 4;
        const size_t size = large ? n : ARENA_BYTES;
        sg_arena_block *fresh = malloc(sizeof *fresh + size);
        if (!fresh) return NULL;
        *fresh = (sg_arena_block) { .size = size };
        if (large && b) { /* keep filling the current block afterwards */
            fresh->next = b->next;
            b->next = fresh;
        } else {
            fresh->next = b;
            a->blocks = fresh;
        }
        b = fresh;
    }
    void *p = b->data + b->used;
    b->used += n;
    return p;
}

void sg_arena_release(sg_arena *a) {
    while (a->blocks) {
        sg_arena_block *next = a->blocks->next;
        free(a->blocks);
        a->blocks = next;
    }
}

sg_status sg_gguf_stream_open(sg_gguf_stream *s, const char *path, sg_error *err) {
    *s = (sg_gguf_stream) { .label = path, .fd = -1 };
    /* O_NONBLOCK: a FIFO must not make the open wait; it has no effect on regular files */
    s->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (s->fd < 0) return sg_fail_errno(err, errno, path, "cannot open");
    struct stat st;
    if (fstat(s->fd, &st) != 0) return sg_fail_errno(err, errno, path, "cannot stat");
    if (S_ISDIR(st.st_mode)) return sg_fail(err, SG_E_ACCESS, "%s: is a directory, not a GGUF file", path);
    if (!S_ISREG(st.st_mode)) return sg_fail(err, SG_E_ACCESS, "%s: is not a regular file", path);
    s->size = (uint64_t)st.st_size;
    s->window = malloc(WINDOW_BYTES);
    if (!s->window) return sg_fail(err, SG_E_NOMEM, "%s: no memory to read the header", path);
    return SG_OK;
}

void sg_gguf_stream_release(sg_gguf_stream *s) {
    if (s->fd >= 0) close(s->fd);
    free(s->window);
    s->fd = -1;
    s->window = NULL;
}

static sg_status fill_window(sg_gguf_stream *s, sg_error *err) {
    const uint64_t left = sg_gguf_stream_left(s);
    const size_t want = left < WINDOW_BYTES ? (size_t)left : WINDOW_BYTES;
    s->window_at = s->pos;
    s->window_len = 0;
    while (s->window_len == 0) {
        const ssize_t r = pread(s->fd, s->window, want, (off_t)s->pos);
        if (r > 0)
            s->window_len = (size_t)r;
        else if (r == 0)
            return sg_fail(err, SG_E_IO, "%s: byte %" PRIu64 ": the file shrank while it was read", s->label, s->pos);
        else if (errno != EINTR && errno != EAGAIN)
            return sg_fail_errno(err, errno, s->label, "cannot read the header");
    }
    return SG_OK;
}

sg_status sg_gguf_stream_need(const sg_gguf_stream *s, uint64_t n, const char *what, sg_error *err) {
    const uint64_t left = sg_gguf_stream_left(s);
    if (n > left)
        return sg_fail(err, SG_E_FORMAT,
                       "%s: byte %" PRIu64 ": truncated inside %s: %" PRIu64 " bytes needed, %" PRIu64 " are left",
                       s->label, s->pos, what, n, left);
    if (s->pos + n > SG_GGUF_MAX_HEADER)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: byte %" PRIu64 ": the header is larger than %d MiB", s->label,
                       s->pos, (int)(SG_GGUF_MAX_HEADER >> 20));
    return SG_OK;
}

sg_status sg_gguf_stream_read(sg_gguf_stream *s, void *dst, size_t n, const char *what, sg_error *err) {
    SG_TRY(sg_gguf_stream_need(s, n, what, err));
    if (s->mem) {
        if (n) memcpy(dst, s->mem + s->pos, n);
        s->pos += n;
        return SG_OK;
    }
    for (uint8_t *d = dst; n > 0;) {
        if (s->pos < s->window_at || s->pos - s->window_at >= s->window_len) SG_TRY(fill_window(s, err));
        const size_t at = (size_t)(s->pos - s->window_at);
        const size_t part = s->window_len - at < n ? s->window_len - at : n;
        memcpy(d, s->window + at, part);
        d += part;
        n -= part;
        s->pos += part;
    }
    return SG_OK;
}

bool sg_gguf_grow(void **list, size_t *cap, size_t n, size_t size) {
    if (n < *cap) return true;
    const size_t want = *cap ? *cap * 2 : 16;
    if (want > SIZE_MAX / size) return false;
    void *p = realloc(*list, want * size);
    if (!p) return false;
    *list = p;
    *cap = want;
    return true;
}
