/* For tests of whatever streams: the pool of threads, but reads are late, out of order, short, or fail. Which ones, a generator
 * decides; with one lane the same seed gives the same faults. */
#include "io/stream_engine.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define BY_DEFAULT "seed=1,delay=300,reorder=8,short=10,eio=5"
#define NOWHERE UINT64_MAX

enum { SEED, DELAY, REORDER, SHORT, EIO_PERCENT, EIO_AT, DEAD_AT, N_KEYS };
static const struct {
    const char *name;
    uint64_t most;
} keys[N_KEYS] = {
    { "seed", UINT64_MAX }, { "delay", 10000000 }, { "reorder", 1000000 }, { "short", 100 },
    { "eio", 100 },         { "eio_at", NOWHERE }, { "dead_at", NOWHERE },
};

typedef struct faults {
    uint64_t value[N_KEYS];
    atomic_uint_least64_t state; /* of the generator */
    atomic_bool eio_over;
} faults;

/* SplitMix64 (Steele, Lea and Flood 2014): each call takes the next state, also when several threads call. */
static uint64_t draw(faults *f, uint64_t below) {
    uint64_t z = atomic_fetch_add_explicit(&f->state, 0x9e3779b97f4a7c15u, memory_order_relaxed) + 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return below ? z % below : 0;
}

static sg_status parse_one(faults *f, const char *text, const char *at, size_t n, sg_error *err) {
    for (int k = 0; k < N_KEYS; k++) {
        const size_t name = strlen(keys[k].name);
        if (n <= name || strncmp(at, keys[k].name, name) != 0 || at[name] != '=') continue;
        uint64_t v = 0;
        bool good = n > name + 1;
        for (size_t i = name + 1; i < n; i++)
            good = good && at[i] >= '0' && at[i] <= '9' && !__builtin_mul_overflow(v, (uint64_t)10, &v) &&
                   !__builtin_add_overflow(v, (uint64_t)(at[i] - '0'), &v);
        if (!good || v > keys[k].most)
            return sg_fail(err, SG_E_ARG, "faults \"%s\": %s is not a number from 0 to %" PRIu64, text, keys[k].name, keys[k].most);
        f->value[k] = v;
        return SG_OK;
    }
    return sg_fail(err, SG_E_ARG, "faults \"%s\": \"%.*s\" is none of seed, delay, reorder, short, eio, eio_at, dead_at with =NUMBER",
                   text, (int)(n < 100 ? n : 100), at);
}

static sg_status parse(faults *f, const char *text, sg_error *err) {
    *f = (faults){ .value[EIO_AT] = NOWHERE, .value[DEAD_AT] = NOWHERE };
    for (const char *at = text; *at;) {
        const size_t n = strcspn(at, ",");
        SG_TRY(parse_one(f, text, at, n, err));
        at += n;
        if (*at && !*++at) return sg_fail(err, SG_E_ARG, "faults \"%s\": nothing follows the last comma", text);
    }
    atomic_init(&f->state, f->value[SEED]);
    atomic_init(&f->eio_over, false);
    return SG_OK;
}

/* Whether byte `at` of file 0 is asked for, not only rounded to. */
static bool covers(const sg_stream_read *r, uint64_t at) {
    return r->first->file == 0 && at >= r->first->offset && at < r->begin + r->need;
}

static ssize_t faulty_read(void *user, const sg_stream *s, const sg_stream_read *r) {
    faults *const f = user;
    const uint64_t delay = draw(f, f->value[DELAY] + 1);
    if (delay) nanosleep(&(struct timespec){ (time_t)(delay / 1000000), (long)(delay % 1000000) * 1000 }, NULL);
    if (covers(r, f->value[DEAD_AT])) return -EIO;
    if (covers(r, f->value[EIO_AT]) && !atomic_exchange(&f->eio_over, true)) return -EIO;
    if (r->done == 0 && r->retried == 0 && draw(f, 100) < f->value[EIO_PERCENT]) return -EIO;
    const ssize_t got = sg_stream_preadv(s, r);
    /* Shortened by telling less: the bytes behind are there, and come again. A whole block is left, as a drive would. */
    if (got > (ssize_t)s->align && draw(f, 100) < f->value[SHORT])
        return (ssize_t)s->align + (ssize_t)draw(f, (uint64_t)(got - (ssize_t)s->align));
    return got;
}

static uint32_t faulty_order(void *user) {
    faults *const f = user;
    return (uint32_t)draw(f, f->value[REORDER]);
}

sg_status sg_stream_fault_create(sg_stream *s, const sg_stream_options *o, void **impl, sg_error *err) {
    const char *text = o->faults ? o->faults : getenv("SPARSEGEN_FAULTS");
    faults *const f = malloc(sizeof *f);
    if (!f) return sg_fail(err, SG_E_NOMEM, "out of memory for streaming");
    sg_status status = parse(f, text ? text : BY_DEFAULT, err);
    if (status == SG_OK)
        status = sg_stream_pool_create(s, o->lanes, &(sg_stream_hooks){ f, faulty_read, faulty_order }, impl, err);
    if (status != SG_OK) free(f);
    return status;
}
