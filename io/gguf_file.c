#include "io/gguf_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUFFER_BYTES ((size_t)256 << 10)
#define WRITE_AT_ONCE ((size_t)64 << 20)
#define WINDOW_BYTES ((uint64_t)32 << 20)

/* What stands under the final name now decides whether to begin at all. */
static sg_status check_target(const char *path, bool overwrite, sg_error *err) {
    struct stat st;
    if (stat(path, &st) != 0)
        return errno == ENOENT ? SG_OK
                               : sg_fail_errno(err, errno, path, "cannot write"); /* ENOTDIR, EACCES, ELOOP, .. */
    if (!S_ISREG(st.st_mode)) return sg_fail(err, SG_E_ACCESS, "%s: is there and not a regular file", path);
    if (!overwrite) return sg_fail(err, SG_E_EXISTS, "%s: exists already", path);
    return SG_OK;
}

sg_status sg_out_file_create(sg_out_file *f, const char *path, bool overwrite, sg_error *err) {
    *f = (sg_out_file) { .fd = -1, .overwrite = overwrite };
    SG_TRY(check_target(path, overwrite, err));
    const size_t size = strlen(path) + 48;
    sg_status status = SG_OK;
    char *part = malloc(size);
    f->path = strdup(path);
    f->buffer = malloc(BUFFER_BYTES);
    if (!part || !f->path || !f->buffer) status = sg_fail(err, SG_E_NOMEM, "%s: no memory for the writer", path);
    for (unsigned i = 0; status == SG_OK && f->fd < 0; i++) {
        snprintf(part, size, "%s.part-%ld-%u", path, (long)getpid(), i);
        f->fd = open(part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (f->fd < 0 && (errno != EEXIST || i == 9999)) status = sg_fail_errno(err, errno, part, "cannot create");
    }
    if (status == SG_OK)
        f->part = part;
    else {
        free(part);
        sg_out_file_release(f);
    }
    return status;
}

/* A model is larger than RAM should be for it: every WINDOW_BYTES the system is told to begin writing what came, and the window
 * before that is waited for and leaves the page cache. So at most two windows of it are there, and the drive is never idle.
 * The wait takes the drive's errors, which fsync then does not see any more. */
static sg_status flush_behind(sg_out_file *f, size_t n, sg_error *err) {
    f->written += n;
#ifdef SYNC_FILE_RANGE_WRITE
    while (f->written - f->flushing >= WINDOW_BYTES) {
        sync_file_range(f->fd, (off_t)f->flushing, (off_t)WINDOW_BYTES, SYNC_FILE_RANGE_WRITE);
        if (f->flushing >= WINDOW_BYTES) {
            const off_t before = (off_t)(f->flushing - WINDOW_BYTES);
            const unsigned wait = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
            if (sync_file_range(f->fd, before, (off_t)WINDOW_BYTES, wait) != 0 &&
                (errno == EIO || errno == ENOSPC || errno == EDQUOT))
                return sg_fail_errno(err, errno, f->path, "cannot write");
            posix_fadvise(f->fd, before, (off_t)WINDOW_BYTES, POSIX_FADV_DONTNEED);
        }
        f->flushing += WINDOW_BYTES;
    }
#endif
    return SG_OK;
}

static sg_status write_all(sg_out_file *f, const uint8_t *bytes, size_t n, sg_error *err) {
    while (n > 0) {
        const ssize_t r = write(f->fd, bytes, n < WRITE_AT_ONCE ? n : WRITE_AT_ONCE);
        if (r > 0) {
            bytes += r;
            n -= (size_t)r;
            SG_TRY(flush_behind(f, (size_t)r, err));
        } else if (r == 0 || (errno != EINTR && errno != EAGAIN)) {
            return sg_fail_errno(err, r == 0 ? EIO : errno, f->path, "cannot write");
        }
    }
    return SG_OK;
}

static sg_status flush(sg_out_file *f, sg_error *err) {
    const size_t n = f->buffered;
    f->buffered = 0;
    return write_all(f, f->buffer, n, err);
}

sg_status sg_out_file_write(sg_out_file *f, const void *bytes, size_t n, sg_error *err) {
    f->size += n;
    if (n > BUFFER_BYTES - f->buffered) SG_TRY(flush(f, err));
    if (n >= BUFFER_BYTES) return write_all(f, bytes, n, err);
    if (n) memcpy(f->buffer + f->buffered, bytes, n);
    f->buffered += n;
    return SG_OK;
}

/* rename() would replace; link() refuses. File systems without hard links (FAT, Android's shared storage) get a check
 * and a rename, which leaves a moment in between. */
static sg_status name_without_replacing(sg_out_file *f, sg_error *err) {
    if (link(f->part, f->path) == 0) {
        unlink(f->part);
        return SG_OK;
    }
    if (errno == EEXIST) return sg_fail(err, SG_E_EXISTS, "%s: exists already", f->path);
    SG_TRY(check_target(f->path, false, err));
    return rename(f->part, f->path) == 0 ? SG_OK
                                         : sg_fail_errno(err, errno, f->path, "cannot rename to its final name");
}

sg_status sg_out_file_finish(sg_out_file *f, sg_error *err) {
    SG_TRY(flush(f, err));
    /* EINVAL: a file system that cannot sync */
    if (fsync(f->fd) != 0 && errno != EINVAL) return sg_fail_errno(err, errno, f->path, "cannot write");
    const int closed = close(f->fd);
    f->fd = -1;
    if (closed != 0 && errno != EINTR) return sg_fail_errno(err, errno, f->path, "cannot write");
    if (!f->overwrite)
        SG_TRY(name_without_replacing(f, err));
    else if (rename(f->part, f->path) != 0)
        return sg_fail_errno(err, errno, f->path, "cannot rename to its final name");
    free(f->part);
    f->part = NULL;
    return SG_OK;
}

void sg_out_file_release(sg_out_file *f) {
    if (f->fd >= 0) close(f->fd);
    if (f->part) unlink(f->part);
    free(f->part);
    free(f->path);
    free(f->buffer);
    *f = (sg_out_file) { .fd = -1 };
}
