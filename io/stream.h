/* Reads of model files while they are being computed with: asynchronous, in the order of their urgency, from several threads.
 *
 * One interface, engines behind it (stream_engine.h): io_uring (a deep queue in the kernel, served by those who submit and wait), a pool of
 * pread threads (everywhere; Android's choice), and a fault engine for tests, which delays, reorders, shortens and fails reads.
 *
 * A fetch is one read. Its owner fills it in, submits it, and may look at its state at any time; memory and fetch belong to the stream
 * from the submission until the state is DONE, FAILED or DROPPED. Demand fetches go before prefetches, whenever they come; a
 * prefetch that nobody has started can be dropped or made a demand. Fetches of one queue start in the order of submission;
 * they end in any order. Neighbours in a queue that are neighbours in the file become one read.
 *
 * Files are read past the page cache (O_DIRECT) where that returns the same bytes as a buffered read; else buffered, and what was
 * read is given back to the system (POSIX_FADV_DONTNEED). Reads go to whole blocks then, see sg_stream_align. */
#ifndef SG_IO_STREAM_H
#define SG_IO_STREAM_H

#include <stdatomic.h>

#include "runtime/base/error.h"
#include "runtime/base/trace.h"

typedef struct sg_stream sg_stream;

#define SG_STREAM_BLOCK 4096u         /* no file needs a larger alignment; destinations may have to be aligned so */
#define SG_STREAM_MOST ((size_t)1 << 20) /* bytes of a fetch at most, rounding included; longer reads are several fetches */

typedef enum sg_fetch_state {
    SG_FETCH_IDLE = 0, /* not submitted */
    SG_FETCH_QUEUED,
    SG_FETCH_FLYING,
    SG_FETCH_DONE,    /* the bytes are there (acquire) */
    SG_FETCH_FAILED,  /* see sg_stream_failure */
    SG_FETCH_DROPPED  /* a prefetch that was never started */
} sg_fetch_state;

/* The owner fills in file, offset, size and dst. The bytes from the largest multiple of sg_stream_align() not above `offset` up to
 * the smallest one not below offset + size go to dst (aligned likewise): byte `offset` lands at dst + offset % align. */
typedef struct sg_fetch {
    uint64_t offset;
    void *dst;
    uint32_t size, file;
    atomic_uint state;     /* sg_fetch_state */
    bool prefetch;         /* the stream's, from here on */
    struct sg_fetch *next, *prev, *part; /* in a queue; neighbours read together with this one */
} sg_fetch;

static inline sg_fetch_state sg_fetch_get(const sg_fetch *f) { return (sg_fetch_state)atomic_load_explicit(&f->state, memory_order_acquire); }
static inline bool sg_fetch_pending(const sg_fetch *f) {
    const sg_fetch_state s = sg_fetch_get(f);
    return s == SG_FETCH_QUEUED || s == SG_FETCH_FLYING;
}

typedef struct sg_stream_options {
    sg_io_engine engine; /* as in sg_reader_create, and SG_IO_FAULT */
    uint32_t lanes;      /* threads of the pread pool; 0: 8 */
    uint32_t depth;      /* reads in the kernel with io_uring; 0: 256 */
    bool buffered;       /* never O_DIRECT */
    const char *faults;  /* of the fault engine: "seed=N,delay=MICROSECONDS,reorder=N,short=PERCENT,eio=PERCENT,eio_at=OFFSET,dead_at=OFFSET",
                          * NULL: a seed, delays and reordering. eio: fails at first and succeeds when tried again; *_at: the
                          * read that covers this byte of file 0 fails once (eio_at) or for ever (dead_at) */
} sg_stream_options;

/* `log`: which engine and whether directly, and the reason of a fallback, one line each. Files are named as in reader.h. */
SG_NODISCARD sg_status sg_stream_create(const sg_stream_options *o, const sg_log *log, sg_stream **out, sg_error *err);
/* All files of the model, before the first fetch. */
SG_NODISCARD sg_status sg_stream_open(sg_stream *s, const char *const *paths, uint32_t n, sg_error *err);
/* Drops and waits for whatever is under way first. */
void sg_stream_destroy(sg_stream **s);
const char *sg_stream_engine_name(const sg_stream *s); /* "io_uring", "pread", "fault" */
uint32_t sg_stream_align(const sg_stream *s);          /* a power of two, 1 .. SG_STREAM_BLOCK; after sg_stream_open */
uint64_t sg_stream_memory(const sg_stream *s);         /* bytes that it holds itself */

/* Memory that fetches will write to, so that the kernel need not look it up each time (registered buffers); a hint, which may be refused
 * quietly. Pages are touched by it. */
void sg_stream_register(sg_stream *s, void *base, size_t size);
void sg_stream_set_trace(sg_stream *s, sg_trace *t); /* while nothing is under way */

/* Queues n fetches whose state is none of QUEUED and FLYING. Never blocks for I/O. After a failure fetches fail at once. */
void sg_stream_submit(sg_stream *s, sg_fetch *const *fetches, size_t n, bool prefetch);
/* A prefetch that waits in the queue becomes a demand; otherwise nothing happens. */
void sg_stream_promote(sg_stream *s, sg_fetch *f);
/* Every prefetch that waits in the queue becomes DROPPED; and those of fetches[n] only. */
void sg_stream_drop(sg_stream *s);
void sg_stream_cancel(sg_stream *s, sg_fetch *fetches, size_t n);
/* Until the fetch is neither QUEUED nor FLYING. A waiting prefetch is promoted. */
void sg_stream_wait(sg_stream *s, sg_fetch *f);
/* For waiting until one of several ends: read the count, look at the states, then wait until the count is another one. Counts fetches that
 * ended, whatever their state. */
uint32_t sg_stream_count(const sg_stream *s);
void sg_stream_wait_news(sg_stream *s, uint32_t seen);
/* Looks at once what has ended, and starts what waits for that, where no thread of the stream's own does. Never blocks for I/O. */
void sg_stream_poll(sg_stream *s);
/* Until nothing is queued or flying; prefetches that wait are dropped. */
void sg_stream_drain(sg_stream *s);

/* SG_OK, or the sentence of the first failure ("FILE: reading 4608 bytes at offset 12288: Input/output error", "FILE is
 * truncated: .."). Reads that fail with EIO are tried twice more first. */
SG_NODISCARD sg_status sg_stream_failure(sg_stream *s, sg_error *err);
/* Forgets the failure; while nothing is under way. */
void sg_stream_recover(sg_stream *s);
/* SG_E_IO when a file is not what it was at sg_stream_open: another size or time of last change ("FILE was changed while it was in
 * use"). A file that was replaced under its name is not that: the old one stays open and is read on. */
SG_NODISCARD sg_status sg_stream_check_files(sg_stream *s, sg_error *err);

/* Since the beginning. */
typedef struct sg_stream_counts {
    uint64_t demand_bytes, demand_reads, demand_fetches; /* reads: what the kernel was asked for, fetches: before merging */
    uint64_t prefetch_bytes, prefetch_reads, prefetch_fetches;
    uint64_t dropped, retried;
    double busy; /* seconds in which reads were under way, up to when somebody saw that they had ended */
} sg_stream_counts;
sg_stream_counts sg_stream_get_counts(sg_stream *s);

#endif
