#include "runtime/convert/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool sg_file_exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

char *sg_file_join(const char *dir, const char *name) {
    sg_str s = { 0 };
    const size_t n = strlen(dir);
    sg_str_printf(&s, "%s%s%s", dir, n && dir[n - 1] == '/' ? "" : "/", name);
    if (!s.failed) return s.data;
    free(s.data);
    return NULL;
}

sg_status sg_file_open(const char *path, int *fd, uint64_t *size, sg_error *err) {
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0) return sg_fail_errno(err, errno, path, "cannot be opened");
    struct stat st;
    sg_status status = SG_OK;
    if (fstat(*fd, &st) != 0)
        status = sg_fail_errno(err, errno, path, "cannot be examined");
    else if (!S_ISREG(st.st_mode))
        status = sg_fail(err, SG_E_ACCESS, "%s: is no regular file", path);
    if (status != SG_OK) {
        close(*fd);
        *fd = -1;
        return status;
    }
    *size = (uint64_t)st.st_size;
    return SG_OK;
}

sg_status sg_file_read_at(int fd, const char *path, void *dst, size_t n, uint64_t offset, sg_error *err) {
    char *p = dst;
    while (n > 0) {
        const ssize_t got = pread(fd, p, n, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return sg_fail_errno(err, errno, path, "reading failed");
        if (got == 0)
            return sg_fail(err, SG_E_FORMAT, "%s: ends at byte %llu, %zu more bytes are needed", path,
                           (unsigned long long)offset, n);
        p += got;
        n -= (size_t)got;
        offset += (uint64_t)got;
    }
    return SG_OK;
}

sg_status sg_file_read(const char *path, uint64_t limit, sg_str *out, sg_error *err) {
    int fd;
    uint64_t size;
    *out = (sg_str) { 0 };
    SG_TRY(sg_file_open(path, &fd, &size, err));
    sg_status status = SG_OK;
    if (size > limit) {
        status = sg_fail(err, SG_E_FORMAT, "%s: is %llu bytes long, more than the %llu that such a file may have", path,
                         (unsigned long long)size, (unsigned long long)limit);
        goto done;
    }
    out->data = malloc(size + 1);
    if (!out->data) {
        status = sg_fail(err, SG_E_NOMEM, "%s: no memory for %llu bytes", path, (unsigned long long)size);
        goto done;
    }
    status = sg_file_read_at(fd, path, out->data, size, 0, err);
    out->data[size] = 0;
    out->len = size;
    out->cap = size + 1;
done:
    close(fd);
    return status;
}
