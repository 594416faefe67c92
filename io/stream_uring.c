/* The engine for Linux: a ring without a thread of its own (io_uring(7); liburing 2.0 and newer).
 *
 * Whoever submits fetches brings them into the kernel, as many as there are slots; whoever waits takes what has ended and brings in the
 * next ones. So the read of a neuron changes no threads: one whose only work was reading would be woken for every few kilobytes, on
 * the cores that compute.
 *
 * The submission queue has a lock. The completion queue belongs to one thread at a time, the one that stream.c lets in (sg_stream.led).
 * The table of slots is guarded by the stream's lock. */
#include "io/stream_engine.h"

#include "runtime/base/cpu.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH 256u
#define MOST_DEPTH 4096u
#define MOST_BUFFERS 64u
#define BUFFER_BYTES ((size_t)1 << 30) /* the kernel's limit for one */
#define PATIENCE 1000u                 /* milliseconds of a kernel short of memory before it is given up */

typedef struct uring {
    sg_stream *s;
    uint32_t depth;

    pthread_mutex_t submission; /* guards what follows */
    struct io_uring ring;       /* except its completions */
    bool fixed_files;
    bool lost; /* the kernel takes no reads any more */
    unsigned patience;
    uint32_t n_buffers;
    struct iovec buffers[MOST_BUFFERS]; /* registered */

    uint32_t n_free, n_again; /* guarded by the stream's lock, as what they count */
    uint32_t *free_slots;     /* that hold no read */
    uint32_t *again;          /* that hold a read that goes back into the submission queue */
    bool *busy;
    sg_stream_read *slots; /* a busy one belongs to who submits, then to who takes its completion */

    uint32_t *landed, *back; /* of who leads: slots that are free, or go back, once the lock is taken */
} uring;

/* ---- the ring ---------------------------------------------------------------------------------------------------- */

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

/* ---- submitting -------------------------------------------------------------------------------------------------- */

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

/* Fills the submission queue, which has room for all slots. With both locks held. */
static void fill(uring *u) {
    while (u->n_again) prepare(u, io_uring_get_sqe(&u->ring), u->again[--u->n_again]);
    while (u->n_free) {
        const uint32_t slot = u->free_slots[u->n_free - 1];
        if (!sg_stream_take(u->s, &u->slots[slot], 0)) break;
        u->slots[slot].slot = slot;
        u->busy[slot] = true;
        u->n_free--;
        prepare(u, io_uring_get_sqe(&u->ring), slot);
    }
}

static void sleep_1ms(void) { nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL); }

/* Into the kernel, as far as it takes them. *in_kernel: reads that it has then, if who leads asks. False: it takes none any more. */
static bool submit(uring *u, uint32_t *in_kernel) {
    bool starved = false;
    pthread_mutex_lock(&u->submission);
    if (!u->lost) {
        pthread_mutex_lock(&u->s->lock);
        fill(u);
        pthread_mutex_unlock(&u->s->lock);
        if (io_uring_sq_ready(&u->ring) > 0) {
            const int got = io_uring_submit(&u->ring);
            starved = got == -EAGAIN || got == -EBUSY; /* of memory, or of room for completions */
            if (got >= 0) u->patience = PATIENCE;
            else if (starved && u->patience > 0) u->patience--;
            else if (got != -EINTR) u->patience = 0;
            u->lost = u->patience == 0;
        }
    }
    if (in_kernel) {
        pthread_mutex_lock(&u->s->lock);
        const uint32_t taken = u->depth - u->n_free - u->n_again, ready = io_uring_sq_ready(&u->ring);
        *in_kernel = taken > ready ? taken - ready : 0; /* without the ring, what it did not take is read, and stays in the queue */
        pthread_mutex_unlock(&u->s->lock);
    }
    const bool lost = u->lost;
    pthread_mutex_unlock(&u->submission);
    if (starved) sleep_1ms();
    return !lost;
}

static void uring_submit(void *impl) { (void)submit(impl, NULL); /* if not, who waits reads */ }

/* ---- taking completions ------------------------------------------------------------------------------------------ */

/* Those that are there; how many. */
static uint32_t reap(uring *u) {
    sg_stream_ended sum = { 0 };
    struct io_uring_cqe *cqe;
    uint32_t n_landed = 0, n_back = 0;
    const unsigned ready = io_uring_cq_ready(&u->ring);
    unsigned head, n = 0;
    if (ready == 0) return 0;
    pthread_mutex_lock(&u->s->lock); /* what was written to the slots of these reads under it is seen now */
    pthread_mutex_unlock(&u->s->lock);
    io_uring_for_each_cqe(&u->ring, head, cqe) {
        const uint32_t slot = (uint32_t)(uintptr_t)io_uring_cqe_get_data(cqe);
        if (n++ == ready) break; /* came later */
        if (sg_stream_tried(u->s, &u->slots[slot], cqe->res)) {
            u->back[n_back++] = slot;
        } else {
            sg_stream_end(u->s, &u->slots[slot], &sum);
            u->landed[n_landed++] = slot;
        }
    }
    io_uring_cq_advance(&u->ring, ready);
    pthread_mutex_lock(&u->s->lock);
    while (n_back) u->again[u->n_again++] = u->back[--n_back];
    while (n_landed) {
        u->busy[u->landed[--n_landed]] = false;
        u->free_slots[u->n_free++] = u->landed[n_landed];
    }
    pthread_mutex_unlock(&u->s->lock);
    sg_stream_settle(u->s, &sum);
    return ready;
}

/* ---- without a ring ---------------------------------------------------------------------------------------------- */

static void read_slot(uring *u, uint32_t slot) {
    sg_stream_ended sum = { 0 };
    while (sg_stream_tried(u->s, &u->slots[slot], sg_stream_preadv(u->s, &u->slots[slot]))) {}
    sg_stream_end(u->s, &u->slots[slot], &sum);
    pthread_mutex_lock(&u->s->lock);
    u->busy[slot] = false;
    u->free_slots[u->n_free++] = slot;
    pthread_mutex_unlock(&u->s->lock);
    sg_stream_settle(u->s, &sum);
}

/* The kernel does not take reads any more, which should never happen. Those that it has, which cannot be taken back, are waited for; the
 * others are read here, one at a time. */
static void lead_without_ring(uring *u, uint32_t in_kernel) {
    struct io_uring_cqe *cqe;
    if (in_kernel > 0) {
        /* A wait that fails must not turn into a return while memory is in use: it is called again. */
        if (io_uring_wait_cqe(&u->ring, &cqe) < 0) sleep_1ms();
        reap(u);
        return;
    }
    pthread_mutex_lock(&u->s->lock);
    uint32_t slot = 0;
    while (slot < u->depth && !u->busy[slot]) slot++;
    bool any = slot < u->depth;
    u->n_again = 0;
    if (!any) {
        slot = u->free_slots[u->n_free - 1];
        any = u->busy[slot] = sg_stream_take(u->s, &u->slots[slot], 0);
        u->n_free -= any;
    }
    pthread_mutex_unlock(&u->s->lock);
    if (any) read_slot(u, slot);
}

/* ---- leading ----------------------------------------------------------------------------------------------------- */

/* A read of a few kilobytes takes a drive about as long as a core takes to fall asleep and wake. */
static bool look(const uring *u) {
    for (int i = 0; i < SG_STREAM_LOOKS; i++) {
        if (io_uring_cq_ready(&u->ring)) return true;
        sg_cpu_relax();
    }
    return false;
}

static void uring_lead(void *impl, bool wait) {
    uring *const u = impl;
    struct io_uring_cqe *cqe;
    uint32_t in_kernel;
    if (reap(u) > 0) {
        (void)submit(u, NULL); /* there is room now */
        return;
    }
    if (!wait) return;
    const bool there = submit(u, &in_kernel);
    if (!there) lead_without_ring(u, in_kernel);
    else if (in_kernel > 0 && (look(u) || io_uring_wait_cqe(&u->ring, &cqe) == 0) && reap(u) > 0) (void)submit(u, NULL);
}

/* ---- setting up -------------------------------------------------------------------------------------------------- */

static void uring_opened(void *impl) {
    uring *const u = impl;
    pthread_mutex_lock(&u->submission);
    if (!u->lost) register_files(u);
    pthread_mutex_unlock(&u->submission);
}

static void uring_remember(void *impl, void *base, size_t size) {
    uring *const u = impl;
    pthread_mutex_lock(&u->submission);
    if (!u->lost) register_buffers(u, (struct iovec){ base, size });
    pthread_mutex_unlock(&u->submission);
}

static void release(uring *u) {
    pthread_mutex_destroy(&u->submission);
    free(u->free_slots);
    free(u->again);
    free(u->busy);
    free(u->slots);
    free(u->landed);
    free(u->back);
    free(u);
}

static void uring_destroy(void *impl) {
    uring *const u = impl;
    io_uring_queue_exit(&u->ring);
    release(u);
}

static sg_status uring_create(sg_stream *s, const sg_stream_options *o, void **impl, sg_error *err) {
    if (o->depth > MOST_DEPTH) return sg_fail(err, SG_E_ARG, "%u reads in flight are too many (%u at most)", o->depth, MOST_DEPTH);
    uring *const u = calloc(1, sizeof *u);
    if (!u) return sg_fail(err, SG_E_NOMEM, "out of memory for streaming");
    pthread_mutex_init(&u->submission, NULL);
    u->s = s;
    u->patience = PATIENCE;
    u->depth = o->depth ? o->depth : DEPTH;
    u->free_slots = malloc(u->depth * sizeof *u->free_slots);
    u->again = malloc(u->depth * sizeof *u->again);
    u->landed = malloc(u->depth * sizeof *u->landed);
    u->back = malloc(u->depth * sizeof *u->back);
    u->busy = calloc(u->depth, sizeof *u->busy);
    u->slots = malloc(u->depth * sizeof *u->slots);
    if (!u->free_slots || !u->again || !u->landed || !u->back || !u->busy || !u->slots) {
        release(u);
        return sg_fail(err, SG_E_NOMEM, "out of memory for streaming");
    }
    for (; u->n_free < u->depth; u->n_free++) u->free_slots[u->n_free] = u->depth - 1 - u->n_free;
    const int e = io_uring_queue_init(u->depth, &u->ring, 0);
    if (e < 0) {
        release(u);
        return sg_fail(err, SG_E_IO, "ring setup: %s", strerror(-e));
    }
    s->most_prefetches = sg_stream_reserve(u->depth);
    *impl = u;
    return SG_OK;
}

static uint64_t uring_memory(const void *impl) {
    const uring *const u = impl;
    const uint64_t slot = sizeof *u->slots + sizeof *u->again + sizeof *u->free_slots + sizeof *u->busy + sizeof *u->landed + sizeof *u->back;
    /* entries of 64 bytes, completions of 16, twice as many */
    return sizeof *u + u->depth * (slot + 64 + 2 * 16);
}

const sg_stream_engine sg_stream_uring = { .name = "io_uring", .create = uring_create, .destroy = uring_destroy, .submit = uring_submit,
                                           .lead = uring_lead, .opened = uring_opened, .remember = uring_remember,
                                           .memory = uring_memory };
