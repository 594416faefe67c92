/* Reads of file ranges into memory, many in flight: one interface, two engines (io_uring and a pool of pread threads).
 * Knows no model. A reader belongs to one thread. */
#ifndef SG_IO_READER_H
#define SG_IO_READER_H

#include "runtime/base/error.h"

typedef struct sg_reader sg_reader;

typedef struct sg_read {
    uint32_t file;   /* number given by sg_reader_add_file */
    uint64_t offset; /* bytes from the beginning of the file */
    void *dst;
    size_t size;
} sg_read;

/* `engine`: AUTO takes io_uring when a probe in a forked child could set one up, else pread; the choice and the reason of a
 * fallback go to `log` (one line). Asking for URING where there is none falls back the same way, with a warning. FAULT, which
 * is for stream.h, is PREAD here. */
SG_NODISCARD sg_status sg_reader_create(sg_io_engine engine, const sg_log *log, sg_reader **out, sg_error *err);
void sg_reader_destroy(sg_reader **r);
const char *sg_reader_engine_name(const sg_reader *r); /* "io_uring" or "pread" */

/* Opens PATH for reading (regular files only: SG_E_ACCESS for others, without waiting on a FIFO). Numbers count from 0. */
SG_NODISCARD sg_status sg_reader_add_file(sg_reader *r, const char *path, uint32_t *file, sg_error *err);

/* Performs all n reads, in any order, and returns when every byte is there. Large reads are cut into pieces, several in
 * flight. Short reads are continued; the end of the file inside a read is SG_E_IO ("FILE is truncated: N bytes at offset O
 * are missing"); EINTR and EAGAIN are retried. Destinations must not overlap. `progress` may be NULL; it is called on this
 * thread with growing byte counts from 0 to the sum of all sizes (not at all when that is 0); false gives SG_E_CANCELLED.
 * Whatever is returned, nothing writes to any `dst` afterwards; after a failure their contents are undefined. */
SG_NODISCARD sg_status sg_reader_read_all(sg_reader *r, const sg_read *reads, size_t n, sg_progress_fn progress, void *user,
                                          sg_error *err);

#endif
