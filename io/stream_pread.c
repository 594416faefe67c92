/* The engine for everywhere: a pool of threads, each with one preadv in flight. The pool lives as long as the stream. */
#include "io/stream_engine.h"

#include <errno.h>
#include <stdlib.h>

#define LANES 8u /* what the flash of a phone and an NVMe drive answer at once to good effect */
#define MOST_LANES 256u

typedef struct pool pool;

typedef struct lane {
    pool *pool;
    uint32_t slot;
    pthread_t id;
} lane;

struct pool {
    sg_stream *s; /* its lock guards what follows */
    sg_stream_hooks hooks;
    pthread_cond_t work; /* fetches came, or quit */
    uint32_t sleeping;
    bool quit;
    uint32_t n;
    lane lanes[];
};

ssize_t sg_stream_preadv(const sg_stream *s, const sg_stream_read *r) {
    const ssize_t got = preadv(s->files[r->first->file].fd, r->piece + r->at, (int)(r->n - r->at), (off_t)(r->begin + r->done));
    return got < 0 ? -errno : got;
}

static ssize_t read_plainly(void *user, const sg_stream *s, const sg_stream_read *r) { return sg_stream_preadv(s, r); }
static uint32_t in_order(void *user) { return 0; }

static void *run(void *arg) {
    const lane *const me = arg;
    pool *const p = me->pool;
    sg_stream *const s = p->s;
    sg_stream_ended sum = { 0 };
    pthread_mutex_lock(&s->lock);
    while (!p->quit) {
        sg_stream_read r;
        if (!sg_stream_take(s, &r, p->hooks.skip(p->hooks.user))) {
            p->sleeping++;
            pthread_cond_wait(&p->work, &s->lock);
            p->sleeping--;
            continue;
        }
        /* Who submits wakes one lane, and that one the next: so the submitter pays for one only. */
        const bool more = p->sleeping && (s->queue[0].head || s->queue[1].head);
        pthread_mutex_unlock(&s->lock);
        if (more) pthread_cond_signal(&p->work);
        r.slot = me->slot;
        while (sg_stream_tried(s, &r, p->hooks.read(p->hooks.user, s, &r))) {}
        sg_stream_end(s, &r, &sum);
        sg_stream_settle(s, &sum);
        pthread_mutex_lock(&s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static void pool_destroy(void *impl) {
    pool *const p = impl;
    pthread_mutex_lock(&p->s->lock);
    p->quit = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->s->lock);
    for (uint32_t i = 0; i < p->n; i++) pthread_join(p->lanes[i].id, NULL);
    pthread_cond_destroy(&p->work);
    free(p->hooks.user);
    free(p);
}

sg_status sg_stream_pool_create(sg_stream *s, uint32_t lanes, const sg_stream_hooks *hooks, void **impl, sg_error *err) {
    if (lanes > MOST_LANES) return sg_fail(err, SG_E_ARG, "%u reading threads are too many (%u at most)", lanes, MOST_LANES);
    const uint32_t most = lanes ? lanes : LANES;
    pool *const p = calloc(1, sizeof *p + most * sizeof(lane));
    if (!p) return sg_fail(err, SG_E_NOMEM, "out of memory for streaming");
    p->s = s;
    p->hooks = *hooks;
    pthread_cond_init(&p->work, NULL);
    while (p->n < most) {
        lane *const l = &p->lanes[p->n];
        *l = (lane){ .pool = p, .slot = p->n };
        if (!sg_stream_thread(&l->id, run, l)) break;
        p->n++;
    }
    if (p->n == 0) { /* fewer than were asked for only read slower */
        p->hooks.user = NULL;
        pool_destroy(p);
        return sg_fail(err, SG_E_NOMEM, "cannot start a thread for reading");
    }
    pthread_mutex_lock(&s->lock);
    s->most_prefetches = sg_stream_reserve(p->n);
    pthread_mutex_unlock(&s->lock);
    *impl = p;
    return SG_OK;
}

static sg_status pread_create(sg_stream *s, const sg_stream_options *o, void **impl, sg_error *err) {
    return sg_stream_pool_create(s, o->lanes, &(sg_stream_hooks){ NULL, read_plainly, in_order }, impl, err);
}

static bool pool_sleeps(void *impl, bool prefetch) { return ((pool *)impl)->sleeping > 0; }
static void pool_wake(void *impl) { pthread_cond_signal(&((pool *)impl)->work); }

static uint64_t pool_memory(const void *impl) {
    const pool *const p = impl;
    return sizeof *p + p->n * (sizeof(lane) + SG_STREAM_STACK);
}

const sg_stream_engine sg_stream_pread = { .name = "pread", .create = pread_create, .destroy = pool_destroy, .sleeps = pool_sleeps,
                                           .wake = pool_wake, .memory = pool_memory };
const sg_stream_engine sg_stream_fault = { .name = "fault", .create = sg_stream_fault_create, .destroy = pool_destroy, .sleeps = pool_sleeps,
                                           .wake = pool_wake, .memory = pool_memory };
