#include "io/stream.h"

#include "io/reader_engine.h"
#include "io/stream_engine.h"
#include "runtime/base/cpu.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Looks of a waiting thread before it goes to sleep: a few microseconds, for reads that are about to end. A drive needs many times
 * that, and the core may be the one on which the lane wants to run. */
#define SPINS 100

/* ---- creating ---------------------------------------------------------------------------------------------------- */

static sg_status start_engine(sg_stream *s, const sg_stream_options *o, sg_error *err) {
    if (o->engine == SG_IO_FAULT) {
        s->engine = &sg_stream_fault;
        SG_TRY(s->engine->create(s, o, &s->impl, err));
        sg_log_line(&s->log, SG_LOG_INFO, "streaming with faults");
        return SG_OK;
    }
    char why[SG_ERROR_MESSAGE_SIZE] = "";
    if (o->engine != SG_IO_PREAD && sg_reader_uring_probe(why, sizeof why)) {
        sg_error e;
        s->engine = &sg_stream_uring;
        if (s->engine->create(s, o, &s->impl, &e) == SG_OK) {
            sg_log_line(&s->log, SG_LOG_INFO, "streaming with %s", s->engine->name);
            return SG_OK;
        }
        memcpy(why, e.message, sizeof why - 1); /* `why` stays terminated: its last byte is zero */
    }
    s->engine = &sg_stream_pread;
    SG_TRY(s->engine->create(s, o, &s->impl, err));
    if (*why)
        sg_log_line(&s->log, o->engine == SG_IO_URING ? SG_LOG_WARN : SG_LOG_INFO, "streaming with pread: io_uring: %s", why);
    else
        sg_log_line(&s->log, SG_LOG_INFO, "streaming with %s", s->engine->name);
    return SG_OK;
}

static void release(sg_stream *s) {
    if (s->impl) s->engine->destroy(s->impl);
    sg_stream_close_files(s);
    pthread_cond_destroy(&s->news);
    pthread_mutex_destroy(&s->news_lock);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

sg_status sg_stream_create(const sg_stream_options *o, const sg_log *log, sg_stream **out, sg_error *err) {
    *out = NULL;
    if (o->engine != SG_IO_AUTO && o->engine != SG_IO_URING && o->engine != SG_IO_PREAD && o->engine != SG_IO_FAULT)
        return sg_fail(err, SG_E_ARG, "I/O engine %d does not exist", (int)o->engine);
    sg_stream *const s = calloc(1, sizeof *s);
    if (!s) return sg_fail(err, SG_E_NOMEM, "out of memory for streaming");
    if (log) s->log = *log;
    s->buffered = o->buffered;
    s->align = 1;
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->news_lock, NULL);
    pthread_cond_init(&s->news, NULL);
    atomic_init(&s->ended, 0);
    atomic_init(&s->waiters, 0);
    const sg_status status = start_engine(s, o, err);
    if (status != SG_OK) {
        release(s);
        return status;
    }
    *out = s;
    return SG_OK;
}

sg_status sg_stream_open(sg_stream *s, const char *const *paths, uint32_t n, sg_error *err) {
    if (s->files) return sg_fail(err, SG_E_INTERNAL, "a stream opens its files once");
    SG_TRY(sg_stream_open_files(s, paths, n, err));
    if (s->engine->opened) s->engine->opened(s->impl);
    return SG_OK;
}

void sg_stream_destroy(sg_stream **stream) {
    sg_stream *const s = *stream;
    if (!s) return;
    sg_stream_drain(s);
    release(s);
    *stream = NULL;
}

const char *sg_stream_engine_name(const sg_stream *s) { return s->engine->name; }
uint32_t sg_stream_align(const sg_stream *s) { return s->align; }

uint64_t sg_stream_memory(const sg_stream *s) {
    return sizeof *s + s->n_files * sizeof *s->files + s->engine->memory(s->impl);
}

void sg_stream_register(sg_stream *s, void *base, size_t size) {
    if (s->engine->remember && size) s->engine->remember(s->impl, base, size);
}

void sg_stream_set_trace(sg_stream *s, sg_trace *t) {
    pthread_mutex_lock(&s->lock);
    s->trace = t;
    pthread_mutex_unlock(&s->lock);
}

/* ---- queues ------------------------------------------------------------------------------------------------------ */

static void append(sg_fetch_list *q, sg_fetch *f) {
    f->next = NULL;
    f->prev = q->tail;
    *(q->tail ? &q->tail->next : &q->head) = f;
    q->tail = f;
}

/* Engines see only what can be read: false, with the failure set, for what the caller must not ask for. */
static bool check(sg_stream *s, const sg_fetch *f) {
    const uint64_t mask = s->align - 1;
    uint64_t end;
    const char *wrong = NULL;
    if (f->file >= s->n_files)
        wrong = "there is no such file";
    else if (__builtin_add_overflow(f->offset, f->size + mask, &end) || end > INT64_MAX)
        wrong = "that lies beyond every file";
    else if ((end & ~mask) - (f->offset & ~mask) > SG_STREAM_MOST)
        wrong = "that is too long";
    else if (!f->dst || ((uintptr_t)f->dst & mask))
        wrong = "the destination is not aligned";
    if (wrong && s->failure.code == SG_OK)
        sg_fail(&s->failure, SG_E_INTERNAL, "fetch of %u bytes at offset %" PRIu64 " of file %u: %s", f->size, f->offset, f->file,
                wrong);
    return !wrong;
}

/* Something came into a queue. */
static void start(sg_stream *s) {
    if (s->engine->submit) s->engine->submit(s->impl);
    else s->engine->wake(s->impl);
}

void sg_stream_submit(sg_stream *s, sg_fetch *const *fetches, size_t n, bool prefetch) {
    uint32_t ended = 0;
    bool wake = false;
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < n; i++) {
        sg_fetch *const f = fetches[i];
        f->prefetch = prefetch;
        f->next = f->prev = f->part = NULL;
        if (s->failure.code != SG_OK || (f->size && !check(s, f)) || f->size == 0) {
            const unsigned state = s->failure.code == SG_OK ? SG_FETCH_DONE : SG_FETCH_FAILED;
            atomic_store_explicit(&f->state, state, memory_order_release);
            ended++;
        } else {
            atomic_store_explicit(&f->state, SG_FETCH_QUEUED, memory_order_relaxed);
            append(&s->queue[prefetch], f);
            wake = true;
        }
    }
    wake = wake && (s->engine->submit || s->engine->sleeps(s->impl, prefetch));
    pthread_mutex_unlock(&s->lock);
    if (wake) start(s);
    if (ended) sg_stream_news(s, ended);
}

static bool is_queued(const sg_fetch *f) {
    return atomic_load_explicit(&f->state, memory_order_relaxed) == SG_FETCH_QUEUED;
}

void sg_stream_promote(sg_stream *s, sg_fetch *f) {
    bool wake = false;
    pthread_mutex_lock(&s->lock);
    if (is_queued(f) && f->prefetch) {
        sg_fetch_unlink(&s->queue[1], f);
        f->prefetch = false;
        append(&s->queue[0], f);
        wake = s->engine->submit || s->engine->sleeps(s->impl, false);
    }
    pthread_mutex_unlock(&s->lock);
    if (wake) start(s);
}

void sg_stream_drop(sg_stream *s) {
    uint32_t n = 0;
    pthread_mutex_lock(&s->lock);
    for (sg_fetch *f = s->queue[1].head, *next; f; f = next, n++) {
        next = f->next;
        atomic_store_explicit(&f->state, SG_FETCH_DROPPED, memory_order_release);
    }
    s->queue[1] = (sg_fetch_list){ NULL, NULL };
    s->counts.dropped += n;
    pthread_mutex_unlock(&s->lock);
    if (n) sg_stream_news(s, n);
}

void sg_stream_cancel(sg_stream *s, sg_fetch *fetches, size_t n) {
    uint32_t dropped = 0;
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < n; i++) {
        if (!is_queued(&fetches[i]) || !fetches[i].prefetch) continue;
        sg_fetch_unlink(&s->queue[1], &fetches[i]);
        atomic_store_explicit(&fetches[i].state, SG_FETCH_DROPPED, memory_order_release);
        dropped++;
    }
    s->counts.dropped += dropped;
    pthread_mutex_unlock(&s->lock);
    if (dropped) sg_stream_news(s, dropped);
}

/* ---- waiting ----------------------------------------------------------------------------------------------------- */

/* Most of the time nobody waits, and then this is two atomic additions. A thread that is about to wait adds itself before its last
 * look: either it is seen here, or its addition comes later and it sees what was stored before. */
void sg_stream_news(sg_stream *s, uint32_t n) {
    atomic_fetch_add_explicit(&s->ended, n, memory_order_acq_rel);
    if (atomic_fetch_add_explicit(&s->waiters, 0, memory_order_acq_rel) == 0) return;
    pthread_mutex_lock(&s->news_lock);
    pthread_cond_broadcast(&s->news);
    pthread_mutex_unlock(&s->news_lock);
}

/* Until `f` ended, or with NULL until the count is not `seen`. */
static bool over(const sg_stream *s, const sg_fetch *f, uint32_t seen) {
    return f ? !sg_fetch_pending(f) : sg_stream_count(s) != seen;
}

/* With news_lock held. Who waits for the lead hears when it is free. */
static void lead(sg_stream *s, bool wait) {
    s->led = true;
    pthread_mutex_unlock(&s->news_lock);
    s->engine->lead(s->impl, wait);
    pthread_mutex_lock(&s->news_lock);
    s->led = false;
    if (atomic_load_explicit(&s->waiters, memory_order_relaxed) > 0) pthread_cond_broadcast(&s->news);
}

/* One of those that wait brings in what ends, for all: leader and followers. */
static void wait_leading(sg_stream *s, const sg_fetch *f, uint32_t seen) {
    pthread_mutex_lock(&s->news_lock);
    while (!over(s, f, seen)) {
        if (!s->led) {
            lead(s, true);
            continue;
        }
        pthread_mutex_unlock(&s->news_lock);
        bool done = false;
        for (int i = 0; i < SG_STREAM_LOOKS && !(done = over(s, f, seen)); i++) sg_cpu_relax();
        pthread_mutex_lock(&s->news_lock);
        if (done) break;
        atomic_fetch_add_explicit(&s->waiters, 1, memory_order_acq_rel);
        while (s->led && !over(s, f, seen)) pthread_cond_wait(&s->news, &s->news_lock);
        atomic_fetch_sub_explicit(&s->waiters, 1, memory_order_acq_rel);
    }
    pthread_mutex_unlock(&s->news_lock);
}

void sg_stream_poll(sg_stream *s) {
    if (!s->engine->lead || pthread_mutex_trylock(&s->news_lock) != 0) return;
    if (!s->led) lead(s, false);
    pthread_mutex_unlock(&s->news_lock);
}

static void wait_until(sg_stream *s, const sg_fetch *f, uint32_t seen) {
    if (s->engine->lead) {
        wait_leading(s, f, seen);
        return;
    }
    for (int i = 0; i < SPINS; i++) {
        if (over(s, f, seen)) return;
        sg_cpu_relax();
    }
    pthread_mutex_lock(&s->news_lock);
    atomic_fetch_add_explicit(&s->waiters, 1, memory_order_acq_rel);
    while (!over(s, f, seen)) pthread_cond_wait(&s->news, &s->news_lock);
    atomic_fetch_sub_explicit(&s->waiters, 1, memory_order_acq_rel);
    pthread_mutex_unlock(&s->news_lock);
}

uint32_t sg_stream_count(const sg_stream *s) { return atomic_load_explicit(&s->ended, memory_order_acquire); }
void sg_stream_wait_news(sg_stream *s, uint32_t seen) { wait_until(s, NULL, seen); }

void sg_stream_wait(sg_stream *s, sg_fetch *f) {
    if (is_queued(f)) sg_stream_promote(s, f);
    wait_until(s, f, 0);
}

void sg_stream_drain(sg_stream *s) {
    sg_stream_drop(s);
    for (;;) {
        const uint32_t seen = sg_stream_count(s);
        pthread_mutex_lock(&s->lock);
        const bool idle = !s->queue[0].head && !s->queue[1].head && s->flying[0] + s->flying[1] == 0;
        pthread_mutex_unlock(&s->lock);
        if (idle) return;
        wait_until(s, NULL, seen);
    }
}

/* ---- what happened ----------------------------------------------------------------------------------------------- */

sg_status sg_stream_failure(sg_stream *s, sg_error *err) {
    pthread_mutex_lock(&s->lock);
    const sg_status code = s->failure.code;
    if (err && code != SG_OK) *err = s->failure;
    pthread_mutex_unlock(&s->lock);
    return code;
}

void sg_stream_recover(sg_stream *s) {
    pthread_mutex_lock(&s->lock);
    s->failure = (sg_error){ 0 };
    pthread_mutex_unlock(&s->lock);
}

sg_stream_counts sg_stream_get_counts(sg_stream *s) {
    pthread_mutex_lock(&s->lock);
    sg_stream_counts c = s->counts;
    if (s->flying[0] + s->flying[1] > 0) c.busy += sg_trace_now() - s->busy_since;
    pthread_mutex_unlock(&s->lock);
    return c;
}
