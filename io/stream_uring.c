/* The engine for Linux: one thread owns a ring and keeps many reads in the kernel. Interface: io_uring(7); liburing 2.0 and newer.
 *
 * The thread fills the submission queue from the stream's queues, then submits and waits for completions in one system call, until
 * something flies or is queued; else it sleeps in the same call, on a read of an eventfd that is always in the ring. Before it
 * waits it says what would be news to it (`wants`), and only then a submitter writes to the eventfd. */
#include "io/stream_engine.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define DEPTH 128u
#define MOST_DEPTH 4096u
#define MOST_BUFFERS 64u
#define BUFFER_BYTES ((size_t)1 << 30) /* the kernel's limit for one */
#define PATIENCE 1000u                 /* milliseconds of a kernel short of memory before it is given up */

enum { WANTS_DEMANDS = 1, WANTS_PREFETCHES = 2 };

typedef struct uring {
    sg_stream *s;
    struct io_uring ring;
    pthread_t thread;
    int event;
    uint64_t event_value;
    bool event_armed; /* a read of it is in the ring */
    bool fixed_files;
    bool lost; /* there is no ring any more */
    uint32_t n_buffers;
    struct iovec buffers[MOST_BUFFERS]; /* registered */
    uint32_t depth, n_free, n_again;
    uint32_t *free_slots; /* that hold no read */
    uint32_t *again;      /* that hold a read that goes back into the submission queue */
    bool *busy;
    sg_stream_read *slots;

    /* What other threads ask of this one, guarded by the stream's lock; the kernel lets only it change the ring. */
    pthread_cond_t done; /* a chore */
    atomic_uint wants; /* but this thread takes it back without the lock */
    bool quit;
    enum { NOTHING, SET_UP, FILES, BUFFERS } chore;
    struct iovec chore_region;
    int chore_result;
} uring;

static void uring_wake(void *impl) {
    const uint64_t one = 1;
    (void)!write(((uring *)impl)->event, &one, sizeof one);
}

/* ---- the ring ---------------------------------------------------------------------------------------------------- */

/* Completions are handled when this thread asks for them, where the kernel knows that; else without interrupting it. */
static int set_up(uring *u) {
    static const unsigned flags[] = {
#if defined(IORING_SETUP_SINGLE_ISSUER) && defined(IORING_SETUP_DEFER_TASKRUN)
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
#endif
#ifdef IORING_SETUP_COOP_TASKRUN
        IORING_SETUP_COOP_TASKRUN,
#endif
        0,
    };
    int e = -EINVAL;
    for (size_t i = 0; i < sizeof flags / sizeof *flags && e == -EINVAL; i++)
        e = io_uring_queue_init(u->depth + 1, &u->ring, flags[i]);
    return e;
}

static void register_files(uring *u) {
    const uint32_t n = u->s->n_files;
    int *const fds = malloc((n ? n : 1) * sizeof *fds);
    if (!fds) return;
    for (uint32_t i = 0; i < n; i++) fds[i] = u->s->files[i].fd;
    u->fixed_files = n && io_uring_register_files(&u->ring, fds, n) == 0;
    free(fds);
}

/* The kernel takes one table of all; refused (RLIMIT_MEMLOCK), what was there before is registered again. */
static void register_buffers(uring *u, struct iovec region) {
    const uint32_t before = u->n_buffers;
    uint32_t n = before;
    for (char *at = region.iov_base; region.iov_len && n < MOST_BUFFERS; n++) {
        const size_t size = region.iov_len < BUFFER_BYTES ? region.iov_len : BUFFER_BYTES;
        u->buffers[n] = (struct iovec){ at, size };
        at += size;
        region.iov_len -= size;
    }
    if (before) io_uring_unregister_buffers(&u->ring);
    u->n_buffers = 0;
    if (io_uring_register_buffers(&u->ring, u->buffers, n) == 0)
        u->n_buffers = n;
    else if (before && io_uring_register_buffers(&u->ring, u->buffers, before) == 0)
        u->n_buffers = before;
}

static void do_chore(uring *u) {
    sg_stream *const s = u->s;
    if (u->chore == SET_UP) u->chore_result = set_up(u);
    if (u->chore == FILES && !u->lost) register_files(u);
    if (u->chore == BUFFERS && !u->lost) register_buffers(u, u->chore_region);
    pthread_mutex_lock(&s->lock);
    u->chore = NOTHING;
    pthread_cond_broadcast(&u->done);
    pthread_mutex_unlock(&s->lock);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static int buffer_of(const uring *u, const struct iovec *p) {
    for (uint32_t i = 0; i < u->n_buffers; i++) {
        const size_t at = (size_t)((uintptr_t)p->iov_base - (uintptr_t)u->buffers[i].iov_base);
        if (at < u->buffers[i].iov_len && p->iov_len <= u->buffers[i].iov_len - at) return (int)i;
    }
    return -1;
}

static void prepare(uring *u, struct io_uring_sqe *sqe, uint32_t slot) {
    const sg_stream_read *const r = &u->slots[slot];
    const uint32_t file = r->first->file;
    const int fd = u->fixed_files ? (int)file : u->s->files[file].fd;
    const struct iovec *const p = &r->piece[r->at];
    const uint64_t offset = r->begin + r->done;
    const int buffer = r->n - r->at == 1 ? buffer_of(u, p) : -1;
    if (buffer >= 0)
        io_uring_prep_read_fixed(sqe, fd, p->iov_base, (unsigned)p->iov_len, offset, buffer);
    else if (r->n - r->at == 1)
        io_uring_prep_read(sqe, fd, p->iov_base, (unsigned)p->iov_len, offset);
    else
        io_uring_prep_readv(sqe, fd, p, r->n - r->at, offset);
    if (u->fixed_files) sqe->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data(sqe, (void *)(uintptr_t)slot);
}

static void want(uring *u, unsigned what) { atomic_store_explicit(&u->wants, what, memory_order_relaxed); }

/* Fills the submission queue, which has room for all slots and the event. Says what would be news during the wait that follows. */
static void fill(uring *u) {
    sg_stream *const s = u->s;
    while (u->n_again) {
        const uint32_t slot = u->again[--u->n_again];
        prepare(u, io_uring_get_sqe(&u->ring), slot);
    }
    pthread_mutex_lock(&s->lock);
    while (u->n_free) {
        const uint32_t slot = u->free_slots[u->n_free - 1];
        if (!sg_stream_take(s, &u->slots[slot], 0)) break;
        u->slots[slot].slot = slot;
        u->busy[slot] = true;
        u->n_free--;
        prepare(u, io_uring_get_sqe(&u->ring), slot);
    }
    want(u, u->n_free == 0 ? 0 : WANTS_DEMANDS | (s->flying[1] < s->most_prefetches ? WANTS_PREFETCHES : 0));
    pthread_mutex_unlock(&s->lock);
    if (!u->event_armed) {
        struct io_uring_sqe *const sqe = io_uring_get_sqe(&u->ring);
        io_uring_prep_read(sqe, u->event, &u->event_value, sizeof u->event_value, 0);
        io_uring_sqe_set_data(sqe, (void *)(uintptr_t)u->depth);
        u->event_armed = true;
    }
}

static void free_slot(uring *u, uint32_t slot, sg_stream_ended *sum) {
    sg_stream_end(u->s, &u->slots[slot], sum);
    u->busy[slot] = false;
    u->free_slots[u->n_free++] = slot;
}

/* Takes every completion that is there. */
static void reap(uring *u) {
    sg_stream_ended sum = { 0 };
    struct io_uring_cqe *cqe;
    unsigned head, n = 0;
    io_uring_for_each_cqe(&u->ring, head, cqe) {
        const uint32_t slot = (uint32_t)(uintptr_t)io_uring_cqe_get_data(cqe);
        n++;
        if (slot == u->depth)
            u->event_armed = false;
        else if (sg_stream_tried(u->s, &u->slots[slot], cqe->res))
            u->again[u->n_again++] = slot;
        else
            free_slot(u, slot, &sum);
    }
    io_uring_cq_advance(&u->ring, n);
    sg_stream_settle(u->s, &sum);
}

/* ---- without a ring ---------------------------------------------------------------------------------------------- */

static void sleep_1ms(void) { nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL); }

static void read_slot(uring *u, uint32_t slot) {
    sg_stream_ended sum = { 0 };
    while (sg_stream_tried(u->s, &u->slots[slot], sg_stream_preadv(u->s, &u->slots[slot]))) {}
    free_slot(u, slot, &sum);
    sg_stream_settle(u->s, &sum);
}

/* The kernel does not take reads any more, which should never happen. Those that it has are waited for, the others are read here. */
static void lose_ring(uring *u) {
    uring_wake(u); /* ends the read of the event */
    for (;;) {
        uint32_t held = u->event_armed;
        for (uint32_t i = 0; i < u->depth; i++) held += u->busy[i];
        if (held == u->n_again + io_uring_sq_ready(&u->ring)) break;
        struct io_uring_cqe *cqe;
        /* A wait that fails must not turn into a return while memory is in use: look again. */
        if (io_uring_wait_cqe(&u->ring, &cqe) < 0) sleep_1ms();
        reap(u);
    }
    io_uring_queue_exit(&u->ring);
    u->lost = true;
    u->n_again = 0;
    for (uint32_t i = 0; i < u->depth; i++)
        if (u->busy[i]) read_slot(u, i);
}

static void read_without_ring(uring *u) {
    sg_stream *const s = u->s;
    const uint32_t slot = u->free_slots[u->n_free - 1];
    pthread_mutex_lock(&s->lock);
    const bool any = sg_stream_take(s, &u->slots[slot], 0);
    want(u, any ? 0 : WANTS_DEMANDS | WANTS_PREFETCHES);
    pthread_mutex_unlock(&s->lock);
    if (any) {
        u->slots[slot].slot = slot;
        u->busy[slot] = true;
        u->n_free--;
        read_slot(u, slot);
    } else {
        uint64_t value;
        (void)!read(u->event, &value, sizeof value);
    }
}

/* ---- the thread -------------------------------------------------------------------------------------------------- */

static void submit_and_reap(uring *u, unsigned *patience) {
    fill(u);
    const int got = io_uring_submit_and_wait(&u->ring, 1);
    want(u, 0); /* it will look anyway */
    if (got == -EAGAIN || got == -EBUSY) { /* short of memory, or of room for completions: it gets time */
        if (--*patience) sleep_1ms();
    } else if (got >= 0 || got == -EINTR) {
        *patience = PATIENCE;
    } else {
        *patience = 0;
    }
    reap(u);
    if (*patience == 0) lose_ring(u);
}

static void *run(void *arg) {
    uring *const u = arg;
    unsigned patience = PATIENCE;
    do_chore(u); /* SET_UP */
    if (u->chore_result < 0) return NULL;
    for (;;) {
        pthread_mutex_lock(&u->s->lock);
        const bool chore = u->chore != NOTHING, quit = u->quit;
        pthread_mutex_unlock(&u->s->lock);
        if (chore) do_chore(u);
        if (quit) break; /* nothing is under way */
        if (u->lost)
            read_without_ring(u);
        else
            submit_and_reap(u, &patience);
    }
    if (!u->lost) io_uring_queue_exit(&u->ring);
    return NULL;
}

/* ---- for other threads ------------------------------------------------------------------------------------------- */

static bool uring_sleeps(void *impl, bool prefetch) {
    uring *const u = impl;
    const bool sleeps = atomic_load_explicit(&u->wants, memory_order_relaxed) & (prefetch ? WANTS_PREFETCHES : WANTS_DEMANDS);
    if (sleeps) want(u, 0);
    return sleeps;
}

static void ask(uring *u, int chore, struct iovec region) {
    pthread_mutex_lock(&u->s->lock);
    while (u->chore != NOTHING) pthread_cond_wait(&u->done, &u->s->lock);
    u->chore = chore;
    u->chore_region = region;
    uring_wake(u);
    while (u->chore != NOTHING) pthread_cond_wait(&u->done, &u->s->lock);
    pthread_mutex_unlock(&u->s->lock);
}

static void uring_opened(void *impl) { ask(impl, FILES, (struct iovec){ 0 }); }
static void uring_remember(void *impl, void *base, size_t size) { ask(impl, BUFFERS, (struct iovec){ base, size }); }

static void release(uring *u) {
    if (u->event >= 0) close(u->event);
    pthread_cond_destroy(&u->done);
    free(u->free_slots);
    free(u->again);
    free(u->busy);
    free(u->slots);
    free(u);
}

static void uring_destroy(void *impl) {
    uring *const u = impl;
    pthread_mutex_lock(&u->s->lock);
    u->quit = true;
    pthread_mutex_unlock(&u->s->lock);
    uring_wake(u);
    pthread_join(u->thread, NULL);
    release(u);
}

static sg_status uring_create(sg_stream *s, const sg_stream_options *o, void **impl, sg_error *err) {
    if (o->depth > MOST_DEPTH) return sg_fail(err, SG_E_ARG, "%u reads in flight are too many (%u at most)", o->depth, MOST_DEPTH);
    uring *const u = calloc(1, sizeof *u);
    if (!u) return sg_fail(err, SG_E_NOMEM, "out of memory for streaming");
    u->s = s;
    u->depth = o->depth ? o->depth : DEPTH;
    u->chore = SET_UP;
    u->event = eventfd(0, EFD_CLOEXEC);
    u->free_slots = malloc(u->depth * sizeof *u->free_slots);
    u->again = malloc(u->depth * sizeof *u->again);
    u->busy = calloc(u->depth, sizeof *u->busy);
    u->slots = malloc(u->depth * sizeof *u->slots);
    pthread_cond_init(&u->done, NULL);
    while (u->free_slots && u->n_free < u->depth) {
        u->free_slots[u->n_free] = u->depth - 1 - u->n_free;
        u->n_free++;
    }
    sg_status status = SG_OK;
    if (!u->free_slots || !u->again || !u->busy || !u->slots)
        status = sg_fail(err, SG_E_NOMEM, "out of memory for streaming");
    else if (u->event < 0)
        status = sg_fail(err, SG_E_IO, "eventfd: %s", strerror(errno));
    else if (!sg_stream_thread(&u->thread, run, u))
        status = sg_fail(err, SG_E_NOMEM, "cannot start a thread for reading");
    if (status != SG_OK) {
        release(u);
        return status;
    }
    pthread_mutex_lock(&s->lock);
    s->most_prefetches = sg_stream_reserve(u->depth);
    while (u->chore != NOTHING) pthread_cond_wait(&u->done, &s->lock);
    pthread_mutex_unlock(&s->lock);
    if (u->chore_result < 0) {
        pthread_join(u->thread, NULL);
        status = sg_fail(err, SG_E_IO, "ring setup: %s", strerror(-u->chore_result));
        release(u);
        return status;
    }
    *impl = u;
    return SG_OK;
}

static uint64_t uring_memory(const void *impl) {
    const uring *const u = impl;
    const uint64_t slot = sizeof *u->slots + sizeof *u->again + sizeof *u->free_slots + sizeof *u->busy;
    /* entries of 64 bytes, completions of 16, twice as many */
    return sizeof *u + SG_STREAM_STACK + u->depth * (slot + 64 + 2 * 16);
}

const sg_stream_engine sg_stream_uring = { "io_uring",   uring_create, uring_destroy,  uring_sleeps,
                                           uring_wake, uring_opened, uring_remember, uring_memory };
