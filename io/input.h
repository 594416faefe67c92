/* What both ways of reading (reader.h, stream.h) need: opening files that are regular, and the sentences of failures. */
#ifndef SG_IO_INPUT_H
#define SG_IO_INPUT_H

#include "runtime/base/error.h"

/* Opens PATH for reading, regular files only: SG_E_ACCESS for others, without waiting on a FIFO. `flags` are added to those of
 * open(2). */
SG_NODISCARD sg_status sg_input_open(const char *path, int flags, int *fd, sg_error *err);

/* SG_E_IO: the file ended inside a read of `size` bytes at `offset`; noticed at `at`, which need not be where it ended. */
sg_status sg_input_truncated(int fd, const char *path, uint64_t offset, uint64_t size, uint64_t at, sg_error *err);
/* SG_E_IO: a read of `size` bytes at `offset` failed. */
sg_status sg_input_failed(const char *path, uint64_t offset, uint64_t size, int errno_value, sg_error *err);

#endif
