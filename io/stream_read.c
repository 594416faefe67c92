/* What the stream does for the lanes of an engine: choosing the next read, short reads, retries, ends. */
#include "io/input.h"
#include "io/stream_engine.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>

#define EIO_RETRIES 2u
#define PAGE 4096u

/* ---- taking ------------------------------------------------------------------------------------------------------ */

void sg_fetch_unlink(sg_fetch_list *q, sg_fetch *f) {
    *(f->prev ? &f->prev->next : &q->head) = f->next;
    *(f->next ? &f->next->prev : &q->tail) = f->prev;
    f->next = f->prev = NULL;
}

static void add_piece(sg_stream_read *r, sg_fetch *f, uint32_t bytes) {
    r->piece[r->n++] = (struct iovec){ f->dst, bytes };
    r->need = (uint32_t)(f->offset + f->size - r->begin);
    r->total += bytes;
    f->part = NULL;
    atomic_store_explicit(&f->state, SG_FETCH_FLYING, memory_order_relaxed);
}

bool sg_stream_take(sg_stream *s, sg_stream_read *r, uint32_t skip) {
    const bool prefetch = !s->queue[0].head;
    sg_fetch_list *const q = &s->queue[prefetch];
    sg_fetch *f = q->head;
    if (!f || s->flying_bytes[0] + s->flying_bytes[1] >= SG_STREAM_FLYING || (prefetch && s->flying[1] >= s->most_prefetches)) return false;
    while (skip-- && f->next) f = f->next;

    const uint64_t mask = s->align - 1;
    *r = (sg_stream_read){ .first = f, .begin = f->offset & ~mask, .prefetch = prefetch };
    r->started = s->trace ? sg_trace_now() : 0;
    uint64_t end = (f->offset + f->size + mask) & ~mask;
    sg_fetch *next = f->next, *last = f;
    sg_fetch_unlink(q, f);
    add_piece(r, f, (uint32_t)(end - r->begin));
    /* Neighbours: both sides of the seam lie on a whole block, so no byte has two destinations. */
    while (next && next->file == f->file && next->offset == last->offset + last->size && (next->offset & mask) == 0 &&
           r->n < SG_STREAM_PARTS) {
        end = (next->offset + next->size + mask) & ~mask;
        if (end - r->begin > SG_STREAM_MERGE) break;
        sg_fetch *const part = next;
        next = part->next;
        sg_fetch_unlink(q, part);
        add_piece(r, part, (uint32_t)(end - part->offset));
        last->part = part;
        last = part;
    }
    if (s->flying[0] + s->flying[1] == 0) s->busy_since = sg_trace_now();
    s->flying[prefetch]++;
    s->flying_bytes[prefetch] += r->total;
    sg_stream_counts *const c = &s->counts;
    *(prefetch ? &c->prefetch_bytes : &c->demand_bytes) += r->total;
    *(prefetch ? &c->prefetch_reads : &c->demand_reads) += 1;
    *(prefetch ? &c->prefetch_fetches : &c->demand_fetches) += r->n;
    return true;
}

/* ---- trying ------------------------------------------------------------------------------------------------------ */

static void advance(sg_stream_read *r, uint32_t bytes) {
    r->done += bytes;
    while (bytes) {
        struct iovec *const p = &r->piece[r->at];
        const size_t part = bytes < p->iov_len ? bytes : p->iov_len;
        p->iov_base = (char *)p->iov_base + part;
        p->iov_len -= part;
        bytes -= (uint32_t)part;
        if (p->iov_len == 0) r->at++;
    }
}

bool sg_stream_tried(const sg_stream *s, sg_stream_read *r, ssize_t result) {
    /* cancelled: the kernel does that to reads of a thread that ends, and the others want them */
    if (result == -EINTR || result == -EAGAIN || result == -ECANCELED) return true;
    if (result == -EIO && r->retried < EIO_RETRIES) {
        r->retried++;
        return true;
    }
    if (result < 0) {
        r->error = (int)-result;
        return false;
    }
    const uint32_t end = r->done + (uint32_t)result;
    if (end >= r->need) return false; /* what was rounded up may lie behind the end of the file */
    /* A read on goes from a whole block. Nothing new: that was the end of the file. */
    if (end <= r->seen) {
        r->error = -1;
        return false;
    }
    r->seen = end;
    advance(r, (end & ~(s->align - 1)) - r->done);
    return true;
}

/* ---- ending ------------------------------------------------------------------------------------------------------ */

/* The sentence is about the fetch in which it happened, so that it does not depend on what was merged. Keeps the first. Whatever
 * waits fails too; returns how many fetches that were. */
static uint32_t note_failure(sg_stream *s, const sg_stream_read *r) {
    const uint64_t at = r->begin + r->seen;
    const sg_fetch *f = r->first;
    while (f->part && f->offset + f->size <= at) f = f->part;
    const sg_stream_file *const file = &s->files[f->file];
    sg_error e;
    if (r->error < 0)
        (void)sg_input_truncated(file->plain, file->path, f->offset, f->size, at > f->offset ? at : f->offset, &e);
    else
        (void)sg_input_failed(file->path, f->offset, f->size, r->error, &e);

    pthread_mutex_lock(&s->lock);
    if (s->failure.code == SG_OK) s->failure = e;
    uint32_t n = 0;
    for (int q = 0; q < 2; q++) {
        for (sg_fetch *w = s->queue[q].head, *next; w; w = next, n++) {
            next = w->next;
            atomic_store_explicit(&w->state, SG_FETCH_FAILED, memory_order_release);
        }
        s->queue[q] = (sg_fetch_list){ NULL, NULL };
    }
    pthread_mutex_unlock(&s->lock);
    return n;
}

void sg_stream_end(sg_stream *s, sg_stream_read *r, sg_stream_ended *sum) {
    const sg_stream_file *const file = &s->files[r->first->file];
    if (s->trace)
        sg_trace_add(s->trace, r->prefetch ? SG_TRACE_PREFETCH : SG_TRACE_READ, NULL, SG_TRACE_READS + r->slot, r->started,
                     sg_trace_now(), r->total);
    if (file->fd == file->plain) { /* whole pages only are given back */
        const uint64_t from = r->begin & ~(uint64_t)(PAGE - 1), to = (r->begin + r->total + PAGE - 1) & ~(uint64_t)(PAGE - 1);
        posix_fadvise(file->plain, (off_t)from, (off_t)(to - from), POSIX_FADV_DONTNEED);
    }
    if (r->error) sum->fetches += note_failure(s, r);
    const unsigned state = r->error ? SG_FETCH_FAILED : SG_FETCH_DONE;
    for (sg_fetch *f = r->first, *next; f; f = next) {
        next = f->part;
        atomic_store_explicit(&f->state, state, memory_order_release);
    }
    sum->reads[r->prefetch]++;
    sum->bytes[r->prefetch] += r->total;
    sum->fetches += r->n;
    sum->retried += r->retried;
}

void sg_stream_settle(sg_stream *s, sg_stream_ended *sum) {
    if (sum->fetches == 0) return;
    pthread_mutex_lock(&s->lock);
    for (int q = 0; q < 2; q++) {
        s->flying[q] -= sum->reads[q];
        s->flying_bytes[q] -= sum->bytes[q];
    }
    if (s->flying[0] + s->flying[1] == 0) s->counts.busy += sg_trace_now() - s->busy_since;
    s->counts.retried += sum->retried;
    atomic_fetch_add_explicit(&s->ended, sum->fetches, memory_order_acq_rel); /* none flies that is not counted: who drains can tell */
    pthread_mutex_unlock(&s->lock);
    sg_stream_news(s, 0);
    *sum = (sg_stream_ended){ 0 };
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

#if defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define LARGE_FRAMES 1
#endif
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LARGE_FRAMES 1
#endif

bool sg_stream_thread(pthread_t *id, void *(*run)(void *), void *arg) {
    /* Signals are the application's: its handlers must not run on these threads. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int e = -1;
#ifndef LARGE_FRAMES
    pthread_attr_t attr;
    if (pthread_attr_init(&attr) == 0) {
        if (pthread_attr_setstacksize(&attr, SG_STREAM_STACK) == 0) e = pthread_create(id, &attr, run, arg);
        pthread_attr_destroy(&attr);
    }
#endif
    if (e != 0) e = pthread_create(id, NULL, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return e == 0;
}
