#include "io/input.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* O_NONBLOCK keeps the open of a FIFO or a device from waiting; it is taken off again, since io_uring would answer EAGAIN
 * for whatever is not cached. */
sg_status sg_input_open(const char *path, int extra, int *out, sg_error *err) {
    int fd;
    do {
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | extra);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) return sg_fail_errno(err, errno, path, "cannot be opened");
    sg_status s = SG_OK;
    struct stat st;
    const int flags = fcntl(fd, F_GETFL);
    if (fstat(fd, &st) != 0)
        s = sg_fail_errno(err, errno, path, "cannot be examined");
    else if (S_ISDIR(st.st_mode))
        s = sg_fail(err, SG_E_ACCESS, "%s: is a directory, not a file", path);
    else if (!S_ISREG(st.st_mode))
        s = sg_fail(err, SG_E_ACCESS, "%s: is not a regular file", path);
    else if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) != 0)
        s = sg_fail_errno(err, errno, path, "cannot be set up for reading");
    if (s != SG_OK) {
        close(fd);
        return s;
    }
    *out = fd;
    return SG_OK;
}

sg_status sg_input_truncated(int fd, const char *path, uint64_t offset, uint64_t size, uint64_t at, sg_error *err) {
    uint64_t from = at;
    struct stat st;
    if (fstat(fd, &st) == 0 && st.st_size >= 0 && (uint64_t)st.st_size < from)
        from = (uint64_t)st.st_size > offset ? (uint64_t)st.st_size : offset;
    return sg_fail(err, SG_E_IO, "%s is truncated: %" PRIu64 " bytes at offset %" PRIu64 " are missing", path,
                   offset + size - from, from);
}

sg_status sg_input_failed(const char *path, uint64_t offset, uint64_t size, int errno_value, sg_error *err) {
    return sg_fail(err, SG_E_IO, "%s: reading %" PRIu64 " bytes at offset %" PRIu64 ": %s", path, size, offset,
                   strerror(errno_value));
}
