#include "runtime/base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/utf8.h"

/* Messages quote files that strangers made, and end up on terminals: control characters (escape sequences, line breaks) and
 * bytes that are no UTF-8 become '?'; a character that the buffer's end cut in two is dropped. In place. */
static void make_printable(char *text, bool cut) {
    size_t n = strlen(text);
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        const size_t len = sg_utf8_next(text + i, n - i, &cp);
        if (len == 0 && cut && sg_utf8_missing(text + i, n - i) > 0) {
            text[i] = 0;
            return;
        }
        if (len == 0 || cp < 0x20 || (cp >= 0x7f && cp < 0xa0)) {
            const size_t width = len ? len : 1;
            text[i] = '?';
            memmove(text + i + 1, text + i + width, n - i - width + 1);
            n -= width - 1;
            i++;
        } else {
            i += len;
        }
    }
}

sg_status sg_fail(sg_error *err, sg_status code, const char *fmt, ...) {
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        err->code = code;
        const int n = vsnprintf(err->message, sizeof err->message, fmt, ap);
        va_end(ap);
        make_printable(err->message, n >= (int)sizeof err->message);
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
    const int n = vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    make_printable(line, n >= (int)sizeof line);
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
