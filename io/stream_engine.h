/* Private side of the stream: what it keeps, what it does for the lanes of an engine, and what an engine must offer.
 *
 * A lane is what performs reads: a thread of the pread pool, or a slot of the ring. It takes a read (a fetch and its neighbours), tries
 * it until it ended, and tells the stream. Queues, the reserve for demands, merging, short reads, retries, failures and counts are written
 * once, here and in stream.c, stream_read.c. */
#ifndef SG_IO_STREAM_ENGINE_H
#define SG_IO_STREAM_ENGINE_H

#include "io/stream.h"

#include <pthread.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

/* Neighbours are read together up to this many bytes and fetches. */
#define SG_STREAM_MERGE (256u << 10)
#define SG_STREAM_PARTS 16u
/* No more bytes than these are under way, unless it is one read: enough to keep a drive busy. More would come no sooner, and in a later order:
 * what is needed first should arrive first, and a demand should not wait behind reads ahead. */
#define SG_STREAM_FLYING (4u << 20)
/* Looks of a thread that waits for a ring, before it sleeps. */
#define SG_STREAM_LOOKS 1000

typedef struct sg_stream_file {
    char *path;
    int fd;    /* what is read from: one of the next two */
    int plain; /* through the page cache */
    int direct; /* past it, or -1 */
    uint64_t size;
    struct timespec changed; /* size and time of last change at opening */
} sg_stream_file;

/* One read: first .. its parts, at neighbouring places of a file. Positions are relative to `begin`. */
typedef struct sg_stream_read {
    sg_fetch *first;
    uint64_t begin;       /* in the file; `begin`, `total`: rounded to the alignment */
    uint32_t total, need; /* bytes to ask for; bytes without which it failed */
    uint32_t done, seen;  /* bytes that are there, in whole blocks; up to the byte */
    uint32_t n, at;       /* pieces; those that are there already */
    uint32_t retried;     /* after EIO */
    int error;            /* once it ended: 0, an errno value, or -1 for the end of the file */
    uint32_t slot;        /* the lane's own number, for traces; engines set it */
    bool prefetch;
    double started; /* 0 without a trace */
    struct iovec piece[SG_STREAM_PARTS]; /* what is left of them, from `at` on */
} sg_stream_read;

typedef struct sg_fetch_list {
    sg_fetch *head, *tail;
} sg_fetch_list;

typedef struct sg_stream_engine sg_stream_engine;

struct sg_stream {
    const sg_stream_engine *engine;
    void *impl;
    sg_log log;
    bool buffered; /* asked for */
    uint32_t align;
    sg_stream_file *files;
    uint32_t n_files;
    sg_trace *trace;

    pthread_mutex_t lock; /* guards what follows, and what engines say */
    sg_fetch_list queue[2]; /* demands, prefetches */
    uint32_t flying[2];     /* reads */
    uint64_t flying_bytes[2];
    uint32_t most_prefetches; /* that may fly; the rest is kept for demands */
    sg_error failure;       /* code SG_OK: none */
    sg_stream_counts counts;
    double busy_since;      /* while reads fly */

    pthread_mutex_t news_lock;
    pthread_cond_t news;
    bool led; /* a thread is in engine->lead; guarded by news_lock */
    atomic_uint ended;   /* fetches, see sg_stream_count */
    atomic_uint waiters; /* threads that wait for `news` or are about to */
};

/* ---- for lanes --------------------------------------------------------------------------------------------------- */

/* Takes the next read, demands first, and counts it as flying; false: there is none that may start. `skip`: as many fetches of
 * the queue are passed over, if it has more. With the lock held. */
bool sg_stream_take(sg_stream *s, sg_stream_read *r, uint32_t skip);

/* What a try returned, bytes or a negative errno value. True: try again with what is left: piece[at .. n) from byte
 * begin + done of the file on. False: it ended, see r->error. Without the lock, as what follows. */
bool sg_stream_tried(const sg_stream *s, sg_stream_read *r, ssize_t result);

/* What ended since the last sg_stream_settle. */
typedef struct sg_stream_ended {
    uint64_t bytes[2];
    uint32_t reads[2], fetches, retried;
} sg_stream_ended;
/* Sets the states of a read's fetches, which are their owner's from then on. */
void sg_stream_end(sg_stream *s, sg_stream_read *r, sg_stream_ended *sum);
/* Counts them as landed and wakes who waits. Once for a batch; clears `sum`. */
void sg_stream_settle(sg_stream *s, sg_stream_ended *sum);
void sg_fetch_unlink(sg_fetch_list *q, sg_fetch *f);
/* n more fetches ended, or some that are counted already: wakes who waits. */
void sg_stream_news(sg_stream *s, uint32_t n);

/* Starts a thread with a small stack that no signal reaches. */
bool sg_stream_thread(pthread_t *id, void *(*run)(void *), void *arg);
#define SG_STREAM_STACK ((size_t)64 << 10)

/* ---- engines ----------------------------------------------------------------------------------------------------- */

/* Either an engine has lanes that look at the queues (sleeps, wake), or those who submit and wait do the work (submit, lead). */
struct sg_stream_engine {
    const char *name;
    /* Starts the lanes and sets s->most_prefetches (sg_stream_reserve). */
    SG_NODISCARD sg_status (*create)(sg_stream *s, const sg_stream_options *o, void **impl, sg_error *err);
    void (*destroy)(void *impl); /* nothing is under way */
    /* Fetches came into a queue, with the lock held. True: a lane has to be woken, by `wake`, without the lock. */
    bool (*sleeps)(void *impl, bool prefetch);
    void (*wake)(void *impl);
    /* Fetches came into a queue; any thread, without the lock. Starts what it can. */
    void (*submit)(void *impl);
    /* Ends the reads that are over and starts others; one thread at a time. When there were none and `wait` is set, it waits for one, if any is
     * under way. */
    void (*lead)(void *impl, bool wait);
    void (*opened)(void *impl);                            /* the files are known; may be NULL */
    void (*remember)(void *impl, void *base, size_t size); /* sg_stream_register; may be NULL */
    uint64_t (*memory)(const void *impl);
};

extern const sg_stream_engine sg_stream_uring; /* stream_uring.c, or stream_uring_stub.c in builds without liburing */
extern const sg_stream_engine sg_stream_pread; /* stream_pread.c */
extern const sg_stream_engine sg_stream_fault; /* the same pool, see stream_fault.c */

/* How many of n reads in flight may be prefetches: a quarter is kept for demands, at least one if there are two. */
static inline uint32_t sg_stream_reserve(uint32_t n) { return n < 2 ? n : n - (n < 4 ? 1 : n / 4); }

/* The pool of threads, with what the fault engine does in other ways. */
typedef struct sg_stream_hooks {
    void *user; /* freed with the pool */
    ssize_t (*read)(void *user, const sg_stream *s, const sg_stream_read *r); /* one try, as for sg_stream_tried */
    uint32_t (*skip)(void *user);                                             /* for sg_stream_take, with the lock held */
} sg_stream_hooks;
SG_NODISCARD sg_status sg_stream_pool_create(sg_stream *s, uint32_t lanes, const sg_stream_hooks *hooks, void **impl,
                                             sg_error *err);
SG_NODISCARD sg_status sg_stream_fault_create(sg_stream *s, const sg_stream_options *o, void **impl, sg_error *err);
/* One try of a read by preadv: bytes or a negative errno value. */
ssize_t sg_stream_preadv(const sg_stream *s, const sg_stream_read *r);

/* ---- files (stream_file.c) --------------------------------------------------------------------------------------- */

/* Opens the files, chooses between direct and buffered, and sets align; says which in the log. */
SG_NODISCARD sg_status sg_stream_open_files(sg_stream *s, const char *const *paths, uint32_t n, sg_error *err);
void sg_stream_close_files(sg_stream *s);

#endif
