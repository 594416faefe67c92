/* The engine for Linux: one io_uring, up to DEPTH reads in the kernel at a time, submitted together with the wait for the
 * first of them. Interface: io_uring(7); liburing 2.0 and newer. */
#include "io/reader_engine.h"

#include <errno.h>
#include <liburing.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define DEPTH 32

/* ---- reading ----------------------------------------------------------------------------------------------------- */

typedef struct uring {
    struct io_uring ring;
    sg_io_piece slots[DEPTH];
    unsigned free_slots[DEPTH], n_free; /* slots that hold no piece */
    unsigned again[DEPTH], n_again;     /* slots whose piece goes (back) into the submission queue */
    unsigned queued;                    /* in the submission queue, not seen by the kernel yet */
    unsigned in_kernel;                 /* submitted, not completed */
    bool broken;                        /* there is no ring any more */
} uring;

static void uring_destroy(void *impl) {
    uring *const u = impl;
    if (!u->broken) io_uring_queue_exit(&u->ring);
    free(u);
}

static sg_status uring_create(void **impl, sg_error *err) {
    uring *const u = calloc(1, sizeof *u);
    if (!u) return sg_fail(err, SG_E_NOMEM, "out of memory for a file reader");
    const int e = io_uring_queue_init(DEPTH, &u->ring, 0);
    if (e < 0) {
        free(u);
        return sg_fail(err, SG_E_IO, "ring setup: %s", strerror(-e));
    }
    *impl = u;
    return SG_OK;
}

/* Fills the submission queue: first what has to be read further, then new pieces. */
static void fill(uring *u, sg_io_batch *b) {
    for (;;) {
        if (u->n_again == 0) {
            if (u->n_free == 0 || !sg_io_batch_next(b, &u->slots[u->free_slots[u->n_free - 1]])) return;
            u->again[u->n_again++] = u->free_slots[--u->n_free];
        }
        struct io_uring_sqe *const sqe = io_uring_get_sqe(&u->ring);
        if (!sqe) return; /* full: later */
        const unsigned slot = u->again[--u->n_again];
        const sg_io_piece *const p = &u->slots[slot];
        io_uring_prep_read(sqe, p->fd, p->dst, (unsigned)p->size, p->offset);
        io_uring_sqe_set_data(sqe, (void *)(uintptr_t)slot);
        u->queued++;
    }
}

/* Takes every completion that is there; returns the bytes read. */
static uint64_t reap(uring *u, sg_io_batch *b) {
    uint64_t bytes = 0;
    struct io_uring_cqe *cqe;
    while (u->in_kernel && io_uring_peek_cqe(&u->ring, &cqe) == 0) {
        const unsigned slot = (unsigned)(uintptr_t)io_uring_cqe_get_data(cqe);
        const int res = cqe->res;
        io_uring_cqe_seen(&u->ring, cqe);
        u->in_kernel--;
        sg_io_piece *const p = &u->slots[slot];
        if (res > 0) {
            bytes += (uint64_t)res;
            p->offset += (uint64_t)res;
            p->dst += res;
            p->size -= (size_t)res;
        } else if (res != -EINTR && res != -EAGAIN) {
            sg_io_batch_fault(b, p, -res);
        }
        if (p->size)
            u->again[u->n_again++] = slot;
        else
            u->free_slots[u->n_free++] = slot;
    }
    return bytes;
}

static void sleep_1ms(void) { nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL); }

/* Waits until the kernel writes to no buffer any more, and leaves an empty ring. */
static void drain(uring *u, sg_io_batch *b) {
    while (u->in_kernel) {
        struct io_uring_cqe *cqe;
        /* A wait that fails (it never should) must not turn into a return while buffers are in use: look again. */
        if (io_uring_wait_cqe(&u->ring, &cqe) < 0) sleep_1ms();
        reap(u, b);
    }
    if (u->queued) { /* entries that point to this batch's buffers must not go out with the next one */
        io_uring_queue_exit(&u->ring);
        u->broken = io_uring_queue_init(DEPTH, &u->ring, 0) < 0;
    }
}

/* Hands the queue to the kernel and waits for one completion. A kernel that is short of memory or of room for completions
 * (EAGAIN, EBUSY) gets time; *patience runs out when nothing moves. */
static int submit(uring *u, unsigned *patience) {
    const int got = io_uring_submit_and_wait(&u->ring, 1);
    if (got >= 0) {
        u->queued -= (unsigned)got;
        u->in_kernel += (unsigned)got;
        *patience = 1000;
    } else if (got == -EAGAIN || got == -EBUSY) {
        if (--*patience == 0) return got;
        sleep_1ms();
    } else if (got != -EINTR) {
        return got;
    }
    return 0;
}

static sg_status uring_run(void *impl, sg_io_batch *b, sg_error *err) {
    uring *const u = impl;
    if (u->broken) return sg_fail(err, SG_E_IO, "io_uring was lost in an earlier failure");
    u->n_free = u->n_again = u->queued = u->in_kernel = 0;
    for (unsigned i = 0; i < DEPTH; i++) u->free_slots[u->n_free++] = DEPTH - 1 - i;
    sg_status s = SG_OK;
    uint64_t done = 0;
    unsigned patience = 1000;
    while (s == SG_OK && !b->fault.set) {
        fill(u, b);
        if (u->queued + u->in_kernel == 0) break;
        const int e = submit(u, &patience);
        if (e < 0) s = sg_fail(err, SG_E_IO, "io_uring: submitting reads: %s", strerror(-e));
        const uint64_t bytes = reap(u, b);
        done += bytes;
        if (s == SG_OK && bytes && !b->fault.set && !sg_io_batch_progress(b, done)) s = SG_E_CANCELLED;
    }
    drain(u, b);
    return b->fault.set ? SG_E_IO : s;
}

const sg_reader_engine sg_reader_uring = { "io_uring", uring_create, uring_destroy, uring_run };

/* ---- probe ------------------------------------------------------------------------------------------------------- */

/* What the child reports, in memory shared with the parent: an application that ignores SIGCHLD never sees an exit status. */
typedef struct probe_result {
    volatile int step; /* 0: died before it could say, 1: ring setup failed, 2: test read failed, 3: all is well */
    volatile int errno_value;
} probe_result;

/* Runs in the forked child, perhaps of a process with threads: only async-signal-safe calls. */
static void probe_child(probe_result *r) {
    struct rlimit no_core = { 0, 0 };
    setrlimit(RLIMIT_CORE, &no_core);
    /* The application's handlers (crash reporters) are not meant for what may come; an alarm ends a ring that hangs. */
    signal(SIGSYS, SIG_DFL);
    signal(SIGALRM, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    alarm(5);

    struct io_uring ring;
    r->errno_value = -io_uring_queue_init(2, &ring, 0);
    if (r->errno_value != 0) {
        r->step = 1;
        _exit(1);
    }
    static const char want[] = "sparsegen";
    char got[sizeof want] = "";
    struct io_uring_cqe *cqe = NULL;
    const int fd = (int)syscall(SYS_memfd_create, "probe", 0);
    int e = fd < 0 || write(fd, want, sizeof want) != (ssize_t)sizeof want ? errno : 0;
    struct io_uring_sqe *const sqe = io_uring_get_sqe(&ring);
    if (e == 0 && sqe) {
        io_uring_prep_read(sqe, fd, got, sizeof got, 0);
        const int n = io_uring_submit_and_wait(&ring, 1);
        e = n < 0 ? -n : io_uring_peek_cqe(&ring, &cqe) != 0 ? EIO : cqe->res < 0 ? -cqe->res : 0;
        if (e == 0 && memcmp(got, want, sizeof want) != 0) e = EIO;
    }
    r->errno_value = e;
    r->step = e || !sqe ? 2 : 3;
    _exit(0);
}

bool sg_reader_uring_probe(char *why, size_t size) {
    probe_result *const r = mmap(NULL, sizeof *r, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (r == MAP_FAILED) {
        snprintf(why, size, "no memory for a probe");
        return false;
    }
    const pid_t pid = fork();
    if (pid == 0) probe_child(r);
    bool ok = false;
    if (pid < 0) {
        snprintf(why, size, "cannot fork a probe: %s", strerror(errno));
    } else {
        int status = 0;
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
        ok = r->step == 3;
        if (r->step == 1 || r->step == 2)
            snprintf(why, size, "%s: %s", r->step == 1 ? "ring setup" : "test read", strerror(r->errno_value));
        else if (!ok && WIFSIGNALED(status))
            snprintf(why, size, "the probe was killed by signal %d%s", WTERMSIG(status),
                     WTERMSIG(status) == SIGSYS ? " (forbidden by a seccomp filter)" : "");
        else if (!ok)
            snprintf(why, size, "the probe died");
    }
    munmap(r, sizeof *r);
    return ok;
}
