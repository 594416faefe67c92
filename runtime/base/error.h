/* Errors inside the library: a status travels up by return value, its sentence is written once, where it is known. */
#ifndef SG_BASE_ERROR_H
#define SG_BASE_ERROR_H

#include "sparsegen.h"

/* Writes the sentence (no newline, no full stop needed) and returns `code`. err may be NULL. */
sg_status sg_fail(sg_error *err, sg_status code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Returns the status of `expr` from the calling function unless it is SG_OK. */
#define SG_TRY(expr)                        \
    do {                                    \
        const sg_status sg_try_ = (expr);   \
        if (sg_try_ != SG_OK) return sg_try_; \
    } while (0)

/* sg_fail with the meaning of `errno_value` for `path`: "PATH: what: No such file or directory". */
sg_status sg_fail_errno(sg_error *err, int errno_value, const char *path, const char *what);

/* Where log lines go; fn may be NULL. Copied by value. */
typedef struct sg_log {
    sg_log_fn fn;
    void *user;
} sg_log;
void sg_log_line(const sg_log *log, sg_log_level level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
