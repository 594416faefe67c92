#include "runtime/base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

sg_status sg_fail(sg_error *err, sg_status code, const char *fmt, ...) {
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        err->code = code;
        vsnprintf(err->message, sizeof err->message, fmt, ap);
        va_end(ap);
    }
    return code;
}

sg_status sg_fail_errno(sg_error *err, int errno_value, const char *path, const char *what) {
    sg_status code = SG_E_IO;
    switch (errno_value) {
    case ENOENT:
    case ENOTDIR: code = SG_E_NOT_FOUND; break;
    case EACCES:
    case EPERM:
    case EISDIR: code = SG_E_ACCESS; break;
    case EEXIST: code = SG_E_EXISTS; break;
    case ENOMEM: code = SG_E_NOMEM; break;
    default: break;
    }
    char text[128];
    /* The XSI and GNU forms of strerror_r differ in their return type; strerror's table is enough and thread-safe on
     * every libc that sparsegen targets (glibc, musl, bionic). */
    snprintf(text, sizeof text, "%s", strerror(errno_value));
    return sg_fail(err, code, "%s: %s: %s", path, what, text);
}

void sg_log_line(const sg_log *log, sg_log_level level, const char *fmt, ...) {
    if (!log || !log->fn) return;
    char line[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    log->fn(log->user, level, line);
}

const char *sg_status_str(sg_status status) {
    switch (status) {
    case SG_OK: return "success";
    case SG_E_NOMEM: return "out of memory";
    case SG_E_INTERNAL: return "internal error";
    case SG_E_CANCELLED: return "cancelled";
    case SG_E_ARG: return "invalid argument";
    case SG_E_CONTEXT: return "context is full";
    case SG_E_UTF8: return "text is not valid UTF-8";
    case SG_E_FORMAT: return "malformed file";
    case SG_E_UNSUPPORTED: return "unsupported model";
    case SG_E_IO: return "input/output error";
    case SG_E_NOT_FOUND: return "no such file";
    case SG_E_ACCESS: return "cannot be opened";
    case SG_E_EXISTS: return "output exists already";
    }
    return "unknown status";
}
