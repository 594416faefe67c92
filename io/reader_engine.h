/* Private side of the reader: what reader.c hands to an engine, and what an engine must offer. An engine sees checked reads
 * only; cutting them up, error sentences and progress are written once, in reader.c. */
#ifndef SG_IO_READER_ENGINE_H
#define SG_IO_READER_ENGINE_H

#include "io/reader.h"

/* Large reads are cut at multiples of this many bytes of the file: large enough that a request costs nothing beside its
 * transfer, small enough that several are in flight and that a cancel is noticed soon. */
#define SG_IO_PIECE ((size_t)1 << 20)

typedef struct sg_io_file {
    int fd;
    char *path;
} sg_io_file;

/* One request: `size` > 0 bytes at `offset` of `fd` into `dst`. Engines move offset, dst and size forward on short reads. */
typedef struct sg_io_piece {
    size_t read; /* which of the batch's reads it is a part of */
    int fd;
    uint64_t offset;
    char *dst;
    size_t size;
} sg_io_piece;

/* The first failure (in the order of the pieces) that an engine met; `errno_value` 0 stands for the end of the file. */
typedef struct sg_io_fault {
    bool set;
    sg_io_piece at;
    int errno_value;
} sg_io_fault;

/* One call of sg_reader_read_all. Not thread-safe: an engine with threads guards it with its own lock. */
typedef struct sg_io_batch {
    const sg_io_file *files;
    const sg_read *reads;
    size_t n;
    size_t next_read, next_byte; /* where the next piece begins */
    uint64_t total;
    sg_progress_fn progress;
    void *user;
    sg_io_fault fault;
} sg_io_batch;

/* Takes the next piece; false when all are taken. */
bool sg_io_batch_next(sg_io_batch *b, sg_io_piece *out);
/* Notes that `at` failed; keeps the earlier one of two. */
void sg_io_batch_fault(sg_io_batch *b, const sg_io_piece *at, int errno_value);
/* Tells the caller's progress function; false: it wants to stop. Only on the thread that called read_all. */
bool sg_io_batch_progress(const sg_io_batch *b, uint64_t done);

typedef struct sg_reader_engine {
    const char *name;
    SG_NODISCARD sg_status (*create)(void **impl, sg_error *err);
    void (*destroy)(void *impl);
    /* Reads every piece. Returns only when nothing writes to any dst any more, whatever happened: SG_OK, SG_E_CANCELLED, or
     * another status with either b->fault set (reader.c then writes the sentence) or *err filled. */
    SG_NODISCARD sg_status (*run)(void *impl, sg_io_batch *b, sg_error *err);
} sg_reader_engine;

extern const sg_reader_engine sg_reader_pread; /* reader_pread.c */
extern const sg_reader_engine sg_reader_uring; /* reader_uring.c, or reader_uring_stub.c in builds without liburing */

/* True when a forked child could set up a ring and read through it: a seccomp filter may answer io_uring's system calls by
 * killing the process, as on Android. Else `why` (of `size` bytes) receives the reason. Thread-safe. */
bool sg_reader_uring_probe(char *why, size_t size);

#endif
