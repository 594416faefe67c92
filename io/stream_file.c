/* The stream's files: opening, and whether they can be read past the page cache. */
#include "io/input.h"
#include "io/stream_engine.h"
#include "sg_config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LEAST_ALIGN 512u

static bool same_file(const struct stat *a, const struct stat *b) { return a->st_dev == b->st_dev && a->st_ino == b->st_ino; }

static sg_status open_plain(sg_stream_file *f, const char *path, sg_error *err) {
    f->path = strdup(path);
    if (!f->path) return sg_fail(err, SG_E_NOMEM, "%s: out of memory", path);
    SG_TRY(sg_input_open(path, 0, &f->plain, err));
    struct stat st;
    if (fstat(f->plain, &st) != 0) return sg_fail_errno(err, errno, path, "cannot be examined");
    f->size = (uint64_t)st.st_size;
    f->changed = st.st_mtim;
    f->fd = f->plain;
    /* what is read next is known better here than from what was read last */
    posix_fadvise(f->plain, 0, 0, POSIX_FADV_RANDOM);
    return SG_OK;
}

/* ---- past the page cache ----------------------------------------------------------------------------------------- */

static ssize_t read_at(int fd, void *dst, size_t size, uint64_t offset) {
    ssize_t got;
    do {
        got = pread(fd, dst, size, (off_t)offset);
    } while (got < 0 && errno == EINTR);
    return got;
}

/* The alignment of offsets and memory that the file system asks for; 0: it does not say; larger than SG_STREAM_BLOCK: none will do. */
static uint32_t told_align(int fd) {
#if SG_HAVE_STATX_DIOALIGN
    struct statx sx;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 && (sx.stx_mask & STATX_DIOALIGN)) {
        const uint32_t a = sx.stx_dio_offset_align > sx.stx_dio_mem_align ? sx.stx_dio_offset_align : sx.stx_dio_mem_align;
        return sx.stx_dio_offset_align == 0 || (a & (a - 1)) ? UINT32_MAX : a;
    }
#endif
    return 0;
}

/* The smallest that works. `buffer` lies on a multiple of 2 * SG_STREAM_BLOCK; the memory read to is aligned to no more than what
 * is tried. */
static uint32_t tried_align(const sg_stream_file *f, char *buffer) {
    for (uint32_t a = LEAST_ALIGN; a <= SG_STREAM_BLOCK; a *= 2)
        if (read_at(f->direct, buffer + a, a, f->size > a ? a : 0) >= 0) return a;
    return UINT32_MAX;
}

/* One block, directly and buffered. */
static bool same_bytes(const sg_stream_file *f, uint32_t align, uint64_t offset, char *buffer) {
    char *const a = buffer + align, *const b = buffer + 2 * SG_STREAM_BLOCK;
    const ssize_t na = read_at(f->direct, a, align, offset), nb = read_at(f->plain, b, align, offset);
    return na >= 0 && na == nb && memcmp(a, b, (size_t)na) == 0;
}

/* Opens F->direct and finds what alignment it needs. NULL, or why it cannot be read directly. */
static const char *try_direct(sg_stream_file *f, char *buffer, uint32_t *align) {
    if (sg_input_open(f->path, O_DIRECT, &f->direct, NULL) != SG_OK) return "the file system has no direct reads";
    struct stat a, b;
    if (fstat(f->plain, &a) != 0 || fstat(f->direct, &b) != 0 || !same_file(&a, &b)) return "the file was replaced meanwhile";
    uint32_t need = told_align(f->direct);
    if (need == 0) need = tried_align(f, buffer);
    if (need > SG_STREAM_BLOCK) return "the file system's direct reads need another alignment";
    if (need > *align) *align = need;
    return NULL;
}

static const char *compare(const sg_stream_file *f, uint32_t align, char *buffer) {
    const uint64_t blocks = (f->size + align - 1) / align;
    if (blocks == 0) return NULL;
    const uint64_t at[3] = { 0, blocks / 2, blocks - 1 };
    for (int i = 0; i < 3; i++)
        if (!same_bytes(f, align, at[i] * align, buffer)) return "direct reads do not return the same bytes";
    return NULL;
}

static const char *choose_direct(sg_stream *s, uint32_t *align, uint32_t *which) {
    if (s->buffered) return "as asked for";
    void *buffer;
    if (posix_memalign(&buffer, 2 * SG_STREAM_BLOCK, 4 * SG_STREAM_BLOCK) != 0) return "out of memory for a test";
    const char *why = NULL;
    *align = 1;
    for (uint32_t i = 0; i < s->n_files && !why; i++) why = try_direct(&s->files[*which = i], buffer, align);
    for (uint32_t i = 0; i < s->n_files && !why; i++) why = compare(&s->files[*which = i], *align, buffer);
    free(buffer);
    return why;
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

sg_status sg_stream_open_files(sg_stream *s, const char *const *paths, uint32_t n, sg_error *err) {
    sg_stream_file *const files = calloc(n ? n : 1, sizeof *files);
    if (!files) return sg_fail(err, SG_E_NOMEM, "out of memory for streaming");
    s->files = files;
    for (uint32_t i = 0; i < n; i++) files[i].fd = files[i].plain = files[i].direct = -1;
    s->n_files = n;
    for (uint32_t i = 0; i < n; i++) {
        const sg_status status = open_plain(&files[i], paths[i], err);
        if (status == SG_OK) continue;
        sg_stream_close_files(s);
        return status;
    }
    uint32_t align = 1, which = 0;
    const char *const why = choose_direct(s, &align, &which);
    for (uint32_t i = 0; i < n; i++) {
        if (!why) {
            files[i].fd = files[i].direct;
        } else if (files[i].direct >= 0) {
            close(files[i].direct);
            files[i].direct = -1;
        }
    }
    s->align = why ? 1 : align;
    if (!why)
        sg_log_line(&s->log, SG_LOG_INFO, "streaming past the page cache, in blocks of %u bytes", align);
    else if (s->buffered)
        sg_log_line(&s->log, SG_LOG_INFO, "streaming through the page cache, %s", why);
    else
        sg_log_line(&s->log, SG_LOG_INFO, "streaming through the page cache: %s: %s", paths[which], why);
    return SG_OK;
}

void sg_stream_close_files(sg_stream *s) {
    for (uint32_t i = 0; i < s->n_files; i++) {
        if (s->files[i].direct >= 0) close(s->files[i].direct);
        if (s->files[i].plain >= 0) close(s->files[i].plain);
        free(s->files[i].path);
    }
    free(s->files);
    s->files = NULL;
    s->n_files = 0;
}

sg_status sg_stream_check_files(sg_stream *s, sg_error *err) {
    for (uint32_t i = 0; i < s->n_files; i++) {
        const sg_stream_file *const f = &s->files[i];
        struct stat st;
        if (fstat(f->plain, &st) != 0) return sg_fail_errno(err, errno, f->path, "cannot be examined");
        if ((uint64_t)st.st_size != f->size || st.st_mtim.tv_sec != f->changed.tv_sec ||
            st.st_mtim.tv_nsec != f->changed.tv_nsec)
            return sg_fail(err, SG_E_IO, "%s was changed while it was in use", f->path);
    }
    return SG_OK;
}
