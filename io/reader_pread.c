/* The engine for everywhere: a few threads, each with one pread in flight. The pool lives as long as the reader. */
#include "io/reader_engine.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

/* Reads block, so the number of threads is the queue depth; four keep the flash of a phone and an NVMe drive's read-ahead
 * busy at 1 MiB a piece. */
#define N_WORKERS 4

typedef struct pool {
    pthread_mutex_t lock; /* guards everything below */
    pthread_cond_t work;  /* to workers: a batch is there, or quit */
    pthread_cond_t news;  /* to the caller: bytes arrived, or the last worker is done with the batch */
    sg_io_batch *batch;   /* NULL: nothing to take */
    uint64_t done;
    uint32_t busy; /* workers that hold a piece */
    bool quit;
    uint32_t n_threads;
    pthread_t threads[N_WORKERS];
} pool;

/* 0 when the whole piece was read; else `p` is left where it failed, and an errno value or -1 (end of file) is returned. */
static int read_piece(sg_io_piece *p) {
    while (p->size) {
        const ssize_t got = pread(p->fd, p->dst, p->size, (off_t)p->offset);
        if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (got < 0) return errno;
        if (got == 0) return -1;
        p->offset += (uint64_t)got;
        p->dst += got;
        p->size -= (size_t)got;
    }
    return 0;
}

static void *worker(void *arg) {
    pool *const w = arg;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        sg_io_piece p;
        if (w->quit) break;
        if (!w->batch || !sg_io_batch_next(w->batch, &p)) {
            pthread_cond_wait(&w->work, &w->lock);
            continue;
        }
        w->busy++;
        pthread_mutex_unlock(&w->lock);
        const size_t size = p.size;
        const int e = read_piece(&p);
        pthread_mutex_lock(&w->lock);
        w->busy--;
        if (e == 0) {
            w->done += size;
        } else {
            sg_io_batch_fault(w->batch, &p, e < 0 ? 0 : e);
            w->batch->next_read = w->batch->n; /* nobody takes more */
            w->batch->next_byte = 0;
        }
        pthread_cond_signal(&w->news);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static void pread_destroy(void *impl) {
    pool *const w = impl;
    pthread_mutex_lock(&w->lock);
    w->quit = true;
    pthread_cond_broadcast(&w->work);
    pthread_mutex_unlock(&w->lock);
    for (uint32_t i = 0; i < w->n_threads; i++) pthread_join(w->threads[i], NULL);
    pthread_cond_destroy(&w->work);
    pthread_cond_destroy(&w->news);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

static sg_status pread_create(void **impl, sg_error *err) {
    pool *const w = calloc(1, sizeof *w);
    if (!w) return sg_fail(err, SG_E_NOMEM, "out of memory for a file reader");
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->work, NULL);
    pthread_cond_init(&w->news, NULL);
    /* Signals are the application's: its handlers must not run on these threads. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (w->n_threads < N_WORKERS && pthread_create(&w->threads[w->n_threads], NULL, worker, w) == 0) w->n_threads++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (w->n_threads == 0) { /* fewer than N_WORKERS only read slower */
        pread_destroy(w);
        return sg_fail(err, SG_E_NOMEM, "cannot start a thread for reading");
    }
    *impl = w;
    return SG_OK;
}

static sg_status pread_run(void *impl, sg_io_batch *b, sg_error *err) {
    pool *const w = impl;
    sg_status s = SG_OK;
    uint64_t told = 0;
    pthread_mutex_lock(&w->lock);
    w->batch = b;
    w->done = 0;
    pthread_cond_broadcast(&w->work);
    while (w->done < b->total && (w->busy || b->next_read < b->n)) {
        if (w->done == told || s != SG_OK || b->fault.set) {
            pthread_cond_wait(&w->news, &w->lock);
            continue;
        }
        told = w->done;
        pthread_mutex_unlock(&w->lock); /* the callback may take its time */
        const bool go_on = sg_io_batch_progress(b, told);
        pthread_mutex_lock(&w->lock);
        if (!go_on) {
            s = SG_E_CANCELLED;
            b->next_read = b->n;
            b->next_byte = 0;
        }
    }
    const bool complete = w->done == b->total;
    w->batch = NULL;
    pthread_mutex_unlock(&w->lock);
    if (b->fault.set) return SG_E_IO;
    if (s == SG_OK && complete && told < b->total && !sg_io_batch_progress(b, b->total)) s = SG_E_CANCELLED;
    return s;
}

const sg_reader_engine sg_reader_pread = { "pread", pread_create, pread_destroy, pread_run };
