/* The store of experts while reads are under way, fail, or are given up: the linker sends preadv through the function below (-Wl,--wrap), which
 * holds reads and lets them fail. */
#include "tests/unit/expert_fixture.h"

#include <errno.h>
#include <sys/stat.h>
#include <sys/uio.h>

ssize_t __real_preadv(int fd, const struct iovec *p, int n, off_t offset);
ssize_t __wrap_preadv(int fd, const struct iovec *p, int n, off_t offset);
ssize_t __wrap_preadv64(int fd, const struct iovec *p, int n, off_t offset);

/* ---- the gate ---- */

#define NOWHERE ((off_t)-1)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t moved = PTHREAD_COND_INITIALIZER;
static bool closed;
static int arrived;                /* reads, since the gate was closed */
static off_t through = NOWHERE;    /* this read goes through all the same */
static off_t dead = NOWHERE;       /* reads that cover this byte of the file of dead_size bytes fail */
static off_t dead_size;
static int failures;

static off_t bytes_of(const struct iovec *p, int n) {
    size_t sum = 0;
    for (int i = 0; i < n; i++) sum += p[i].iov_len;
    return (off_t)sum;
}

ssize_t __wrap_preadv(int fd, const struct iovec *p, int n, off_t offset) {
    struct stat st;
    const bool there = fstat(fd, &st) == 0;
    pthread_mutex_lock(&lock);
    arrived++;
    pthread_cond_broadcast(&moved);
    while (closed && through != offset) pthread_cond_wait(&moved, &lock);
    const bool fails = there && st.st_size == dead_size && offset <= dead && dead < offset + bytes_of(p, n);
    failures += fails;
    pthread_mutex_unlock(&lock);
    if (!fails) return __real_preadv(fd, p, n, offset);
    errno = EIO;
    return -1;
}

ssize_t __wrap_preadv64(int fd, const struct iovec *p, int n, off_t offset) { return __wrap_preadv(fd, p, n, offset); }

static void set_gate(bool shut, off_t but) {
    pthread_mutex_lock(&lock);
    if (shut && !closed) arrived = 0;
    closed = shut;
    through = but;
    pthread_cond_broadcast(&moved);
    pthread_mutex_unlock(&lock);
}

static bool is_closed(void) {
    pthread_mutex_lock(&lock);
    const bool is = closed;
    pthread_mutex_unlock(&lock);
    return is;
}

static void wait_arrived(int n) {
    pthread_mutex_lock(&lock);
    while (arrived < n) pthread_cond_wait(&moved, &lock);
    pthread_mutex_unlock(&lock);
}

static void set_dead(const shelf *h, const sg_expert_slice *s, uint64_t at) {
    pthread_mutex_lock(&lock);
    dead = s ? (off_t)at : NOWHERE;
    dead_size = s ? (off_t)h->size[s->file] : 0;
    failures = 0;
    pthread_mutex_unlock(&lock);
}

/* Opens the gate while the test waits behind it. Whenever that is, the outcome is the same. */
static void *open_later(void *arg) {
    nanosleep(&(struct timespec) { .tv_nsec = 30000000 }, NULL);
    set_gate(false, NOWHERE);
    return NULL;
}

static pthread_t opener(void) {
    pthread_t id;
    ck_assert_int_eq(pthread_create(&id, NULL, open_later, NULL), 0);
    return id;
}

/* ---- helpers ---- */

/* Layers of experts of three slices that are no neighbours of each other. */
static shelf *make(uint32_t n_layer, uint32_t n_expert, uint32_t n_slots, uint32_t n_reads, uint32_t lanes, bool in_place) {
    shelf *h = shelf_create();
    set_gate(false, NOWHERE);
    set_dead(h, NULL, 0);
    static const size_t bytes[] = { 20000, 9000, 30000 };
    for (uint32_t i = 0; i < n_layer; i++) shelf_layer(h, n_expert, n_slots, bytes, 32, in_place);
    const sg_stream_options o = { .engine = SG_IO_PREAD, .lanes = lanes, .buffered = true };
    shelf_open(h, &o, n_reads, 2);
    return h;
}

static uint32_t areas(const shelf *h) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < h->s.n_reads; i++) n += h->s.reads[i].home != NULL;
    return n;
}

static void run_one(shelf *h, uint32_t layer, const uint32_t *hit, uint32_t n) {
    sg_expert_begin(&h->s, true);
    shelf_run(h, layer, hit, n, NULL, 1);
}

/* As after a run that failed or was broken off (runtime/streaming.c). */
static void recover(shelf *h) {
    sg_stream_drain(h->stream);
    sg_expert_recover(&h->s);
    sg_stream_recover(h->stream);
    ck_assert_uint_eq(areas(h), 0);
    for (uint32_t i = 0; i < h->s.n_homes; i++) shelf_check_slots(h, &h->home[i]);
    for (uint32_t i = 0; i < h->s.n_reads; i++) ck_assert(!h->s.reads[i].wanted);
    shelf_good(h);
}

static sg_fetch_state state_of(const sg_expert_read *r, uint32_t piece) { return sg_fetch_get(&r->piece[piece]); }

/* ---- what is expected ---- */

START_TEST(there) {
    shelf *h = make(2, 10, 0, 4, 2, _i);
    static const uint32_t named[] = { 2, 5 }, hit[] = { 2, 5, 8 };
    sg_expert_begin(&h->s, false);
    sg_expert_expect(&h->s, &h->home[1], 1, named, 2);
    sg_stream_drain(h->stream); /* drops what waits: nothing may */
    for (uint32_t i = 0; i < h->s.n_reads; i++)
        while (h->s.reads[i].home && sg_fetch_pending(&h->s.reads[i].piece[0])) sg_stream_wait(h->stream, &h->s.reads[i].piece[0]);
    shelf_run(h, 1, hit, 3, NULL, 1);
    const sg_expert_finds *f = &h->home[1].finds;
    ck_assert_uint_eq(f->ahead, 2);
    ck_assert_uint_eq(f->late, 0);
    ck_assert_uint_eq(f->missed, 1);
    ck_assert_uint_eq(f->expected, 2);
    ck_assert_uint_eq(f->right, 2);
    ck_assert_uint_eq(f->unused, 0);
    shelf_close(h);
}
END_TEST

START_TEST(late) {
    shelf *h = make(2, 10, 3, 4, 1, _i);
    static const uint32_t named[] = { 2, 5 }, hit[] = { 2, 5, 8 };
    set_gate(true, NOWHERE);
    sg_expert_begin(&h->s, false);
    sg_expert_expect(&h->s, &h->home[1], 1, named, 2);
    wait_arrived(1);
    ck_assert_int_eq(state_of(&h->s.reads[0], 0), SG_FETCH_FLYING);
    ck_assert_int_eq(state_of(&h->s.reads[1], 0), SG_FETCH_QUEUED);
    ck_assert(h->s.reads[1].piece[0].prefetch);
    sg_expert_demand(&h->s, &h->home[1], hit, 3, NULL, 1);
    ck_assert(!h->s.reads[1].piece[0].prefetch); /* it goes before what nobody waits for */
    const pthread_t id = opener();
    for (uint32_t p = 0; p < 3; p++)
        for (int i = 0; i < (_i ? 1 : SG_EXPERT_SLICES); i++) {
            const size_t bytes = h->home[1].slice[i].bytes;
            const uint8_t *got = sg_expert_get(&h->s, p, i, 0, bytes, &(double) { 0 });
            ck_assert_ptr_nonnull(got);
            ck_assert_uint_eq(shelf_differs(&h->home[1], h->s.expert[p], i, got, 0, bytes), bytes);
        }
    sg_expert_end(&h->s);
    pthread_join(id, NULL);
    const sg_expert_finds *f = &h->home[1].finds;
    ck_assert_uint_eq(f->ahead, 0);
    ck_assert_uint_eq(f->late, 2);
    ck_assert_uint_eq(f->missed, 1);
    shelf_close(h);
}
END_TEST

/* All areas have something else that is still being read when the layer comes. */
START_TEST(wrong_in_all_areas) {
    shelf *h = make(2, 10, 3, 2, 1, _i);
    static const uint32_t named[] = { 2, 5 }, hit[] = { 1, 4, 8 };
    set_gate(true, NOWHERE);
    sg_expert_begin(&h->s, true);
    sg_expert_expect(&h->s, &h->home[0], 1, named, 2);
    wait_arrived(1);
    ck_assert_uint_eq(areas(h), 2);
    const pthread_t id = opener();
    shelf_run(h, 0, hit, 3, NULL, 1);
    pthread_join(id, NULL);
    ck_assert_uint_eq(h->home[0].finds.unused, 2);
    ck_assert_uint_eq(h->home[0].finds.missed, 3);
    ck_assert_uint_eq(h->home[0].finds.right, 0);
    ck_assert_uint_gt(sg_stream_get_counts(h->stream).dropped, 0); /* of what had not begun nothing was read */
    run_one(h, 0, named, 2);
    shelf_close(h);
}
END_TEST

/* Expected, given up, and needed in the end: the pieces that were dropped are read after all, the others are not read twice. */
START_TEST(dropped_and_claimed) {
    shelf *h = make(1, 10, 2, 4, 1, _i);
    static const uint32_t named[] = { 2, 5 }, other[] = { 8 };
    set_gate(true, NOWHERE);
    sg_expert_begin(&h->s, true);
    sg_expert_expect(&h->s, &h->home[0], 1, named, 2);
    wait_arrived(1);
    const pthread_t id = opener();
    shelf_run(h, 0, other, 1, NULL, 1);
    pthread_join(id, NULL);
    sg_stream_drain(h->stream);
    ck_assert_int_eq(state_of(&h->s.reads[0], 0), SG_FETCH_DONE);
    ck_assert_int_eq(state_of(&h->s.reads[1], 0), SG_FETCH_DROPPED);
    const sg_stream_counts before = sg_stream_get_counts(h->stream);
    ck_assert_uint_eq(before.dropped, _i ? 1 : 5);
    run_one(h, 0, named, 2);
    sg_stream_drain(h->stream);
    ck_assert_uint_eq(sg_stream_get_counts(h->stream).demand_fetches - before.demand_fetches, before.dropped);
    ck_assert_uint_eq(h->home[0].finds.ahead, 2);
    ck_assert_uint_eq(h->home[0].finds.missed, 1);
    shelf_close(h);
}
END_TEST

/* The areas hold what will be needed, but behind something that is not there and that more tokens use. */
START_TEST(areas_of_later_ones) {
    shelf *h = make(1, 10, _i, 2, 2, false);
    static const uint32_t named[] = { 2, 5 }, hit[] = { 1, 2, 5, 7 }, count[] = { 0, 0, 9, 10, 10, 10, 12, 12, 20, 20, 20 };
    sg_expert_begin(&h->s, false);
    sg_expert_expect(&h->s, &h->home[0], 1, named, 2);
    shelf_run(h, 0, hit, 4, count, 12);
    ck_assert_uint_eq(h->home[0].finds.missed, 2);
    shelf_close(h);
}
END_TEST

/* What is named is read as areas become free, in the order in which it was named, and not before what the present layer needs. */
START_TEST(as_areas_become_free) {
    shelf *h = make(2, 10, 0, 3, 4, false);
    static const uint32_t hit[] = { 0, 2, 4, 6, 8 }, named[] = { 7, 3, 5, 9 };
    sg_expert_begin(&h->s, false);
    sg_expert_demand(&h->s, &h->home[0], hit, 5, NULL, 1);
    sg_expert_expect(&h->s, &h->home[1], 1, named, 4);
    const sg_expert_finds *f = &h->home[1].finds;
    ck_assert_uint_eq(f->expected, 0);
    uint32_t lo = 0;
    for (uint32_t hi = 0; sg_expert_group(&h->s); lo = hi) {
        hi = h->s.hi;
        ck_assert_uint_gt(hi, lo);
        for (uint32_t p = lo; p < hi; p++)
            for (int i = 0; i < SG_EXPERT_SLICES; i++) ck_assert_ptr_nonnull(sg_expert_get(&h->s, p, i, 0, h->home[0].slice[i].bytes, &(double) { 0 }));
        sg_expert_done(&h->s, lo, hi);
        const uint32_t free_areas = h->s.n_reads - (h->s.started - hi);
        ck_assert_uint_eq(f->expected, h->s.started < 5 ? 0 : free_areas);
        for (uint32_t i = 0, found; i < 4; i++) {
            found = 0;
            for (uint32_t k = 0; k < h->s.n_reads; k++) found += h->s.reads[k].home == &h->home[1] && h->s.reads[k].expert == named[i];
            ck_assert_uint_eq(found, i < f->expected);
        }
    }
    ck_assert_uint_eq(lo, 5);
    sg_expert_end(&h->s);
    ck_assert_uint_eq(f->expected, 3);
    static const uint32_t next[] = { 3, 5, 7, 9 };
    shelf_run(h, 1, next, 4, NULL, 1);
    ck_assert_uint_eq(f->ahead + f->late, 3);
    ck_assert_uint_eq(f->missed, 1);
    shelf_close(h);
}
END_TEST

/* ---- several layers ---- */

/* Areas that hold something of a layer; one expert of it: the area, or NULL. */
static uint32_t areas_of(const shelf *h, uint32_t layer) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < h->s.n_reads; i++) n += h->s.reads[i].home == &h->home[layer];
    return n;
}
static const sg_expert_read *area_of(const shelf *h, uint32_t layer, uint32_t expert) {
    for (uint32_t i = 0; i < h->s.n_reads; i++)
        if (h->s.reads[i].home == &h->home[layer] && h->s.reads[i].expert == expert) return &h->s.reads[i];
    return NULL;
}

/* Until nothing is under way; what waits is not dropped. */
static void settle(shelf *h) {
    set_gate(false, NOWHERE);
    for (uint32_t i = 0; i < h->s.n_reads; i++)
        for (uint32_t k = 0; h->s.reads[i].home && k < h->s.reads[i].first[SG_EXPERT_SLICES]; k++)
            if (sg_fetch_pending(&h->s.reads[i].piece[k])) sg_stream_wait(h->stream, &h->s.reads[i].piece[k]);
}

/* Two layers ahead: whichever is named first, the nearer one is read first; the drive is idle when all that is known has begun. */
START_TEST(two_layers_ahead) {
    shelf *h = make(3, 10, 0, 4, 1, _i);
    sg_expert_store *s = &h->s;
    static const uint32_t hit[] = { 0, 2, 4 }, near[] = { 3, 7, 8 }, far[] = { 6, 5 };
    sg_expert_begin(s, true);
    sg_expert_demand(s, &h->home[0], hit, 3, NULL, 1);
    ck_assert(sg_expert_idle(s));
    sg_expert_expect(s, &h->home[2], 1, far, 1); /* the one area that is left */
    ck_assert(sg_expert_idle(s));
    ck_assert_ptr_nonnull(area_of(h, 2, 6));
    sg_expert_expect(s, &h->home[2], 1, far, 2);
    ck_assert(!sg_expert_idle(s));
    settle(h);
    sg_expert_expect(s, &h->home[1], 1, near, 3); /* comes before it */
    ck_assert_ptr_null(area_of(h, 2, 6));
    ck_assert_ptr_nonnull(area_of(h, 1, 3));
    ck_assert_uint_eq(h->home[2].finds.unused, 1);
    ck_assert(sg_expert_group(s));
    for (uint32_t p = 0; p < 3; p++)
        for (int i = 0; i < (_i ? 1 : SG_EXPERT_SLICES); i++) ck_assert_ptr_nonnull(sg_expert_get(s, p, i, 0, h->home[0].slice[i].bytes, &(double) { 0 }));
    sg_expert_end(s);
    ck_assert_uint_eq(areas_of(h, 1), 3); /* all of the nearer one, and of the farther one what was not looked at yet */
    ck_assert_ptr_nonnull(area_of(h, 2, 5));
    ck_assert(sg_expert_idle(s));
    static const uint32_t all[] = { 3, 7, 8 }, other[] = { 5, 6 };
    shelf_run(h, 1, all, 3, NULL, 1);
    shelf_run(h, 2, other, 2, NULL, 1);
    ck_assert_uint_eq(h->home[1].finds.ahead + h->home[1].finds.late, 3);
    ck_assert_uint_eq(h->home[2].finds.ahead + h->home[2].finds.late, 1);
    ck_assert_uint_eq(h->home[2].finds.missed, 1);
    shelf_close(h);
}
END_TEST

/* A pre-gate names all layers before the first one: the nearest are read first, the others as areas become free, and what was right is there. */
START_TEST(all_layers_at_once) {
    enum { LAYERS = 5 };
    shelf *h = make(LAYERS, 10, 0, 5, 2, _i);
    sg_expert_store *s = &h->s;
    static const uint32_t hit[] = { 1, 4, 8 };
    sg_expert_begin(s, true);
    for (uint32_t k = LAYERS; k-- > 0;) sg_expert_foresee(&h->home[k], hit, 3, hit, 3);
    ck_assert_uint_eq(areas(h), 0);
    ck_assert(!sg_expert_idle(s));
    sg_expert_start_named(s);
    ck_assert_uint_eq(areas_of(h, 0), 3);
    ck_assert_uint_eq(areas_of(h, 1), 2);
    for (uint32_t k = 0; k < LAYERS; k++) {
        sg_expert_judge_foreseen(s, &h->home[k], hit, 3);
        shelf_run(h, k, hit, 3, NULL, 1);
        ck_assert_uint_eq(areas_of(h, k), 0);
        if (k + 1 < LAYERS) ck_assert_uint_eq(areas_of(h, k + 1), 3);
        if (k + 2 < LAYERS) ck_assert_uint_eq(areas_of(h, k + 2), 2);
        ck_assert_uint_eq(h->home[k].finds.ahead + h->home[k].finds.late, 3);
        ck_assert_uint_eq(h->home[k].finds.unused, 0);
        ck_assert_uint_eq(h->home[k].finds.came, 3);
        ck_assert(h->home[k].namer[SG_EXPERT_PREGATE].trust == 1);
    }
    for (uint32_t k = 0; k < LAYERS; k++) ck_assert_uint_eq(h->home[k].finds.missed, 0);
    /* what was named for one run is of no meaning in the next */
    sg_expert_foresee(&h->home[LAYERS - 1], hit, 3, hit, 3);
    sg_expert_begin(s, true);
    sg_expert_start_named(s);
    ck_assert_uint_eq(areas(h), 0);
    shelf_close(h);
}
END_TEST

/* Areas are few: what is expected of a farther layer leaves, the farthest first, for a demand and for a nearer layer; a nearer one never for a farther. */
START_TEST(nearer_ones_have_the_areas) {
    shelf *h = make(4, 10, 0, 3, 1, _i);
    sg_expert_store *s = &h->s;
    static const uint32_t a[] = { 1 }, b[] = { 2 }, c[] = { 3 }, d[] = { 4 }, e[] = { 5, 6 };
    sg_expert_begin(s, true);
    sg_expert_foresee(&h->home[1], a, 1, a, 1);
    sg_expert_foresee(&h->home[2], b, 1, b, 1);
    sg_expert_foresee(&h->home[3], c, 1, c, 1);
    sg_expert_start_named(s);
    settle(h);
    ck_assert(area_of(h, 1, 1) && area_of(h, 2, 2) && area_of(h, 3, 3));
    shelf_run(h, 0, d, 1, NULL, 1); /* a demand */
    ck_assert(area_of(h, 1, 1) && area_of(h, 2, 2) && !area_of(h, 3, 3));
    ck_assert_uint_eq(h->home[3].finds.unused, 1);
    sg_expert_expect(s, &h->home[3], 1, e, 2); /* a free one, and no other */
    ck_assert(area_of(h, 1, 1) && area_of(h, 2, 2) && area_of(h, 3, 5) && !area_of(h, 3, 6));
    settle(h);
    sg_expert_expect(s, &h->home[2], 1, e, 2); /* that of 3, and that of what is not named any more */
    ck_assert(area_of(h, 1, 1) && area_of(h, 2, 5) && area_of(h, 2, 6));
    settle(h);
    sg_expert_expect(s, &h->home[2], 1, e, 2); /* the same again: nothing changes */
    ck_assert(area_of(h, 1, 1) && area_of(h, 2, 5) && area_of(h, 2, 6));
    ck_assert_uint_eq(h->home[2].finds.unused, 1);
    shelf_run(h, 1, a, 1, NULL, 1);
    ck_assert_uint_eq(h->home[1].finds.ahead, 1);
    shelf_close(h);
}
END_TEST

/* The same while reads wait: what did not begin is taken back, what flies is left alone. */
START_TEST(far_reads_that_wait_give_way) {
    shelf *h = make(4, 10, 0, 2, 1, _i);
    sg_expert_store *s = &h->s;
    static const uint32_t far[] = { 1, 2 }, near[] = { 7, 8 }, hit[] = { 0 };
    set_gate(true, NOWHERE);
    sg_expert_begin(s, true);
    sg_expert_foresee(&h->home[2], far, 1, far, 1);
    sg_expert_foresee(&h->home[3], far + 1, 1, far + 1, 1);
    sg_expert_start_named(s);
    wait_arrived(1);
    ck_assert_int_eq(state_of(area_of(h, 2, 1), 0), SG_FETCH_FLYING);
    ck_assert_int_eq(state_of(area_of(h, 3, 2), 0), SG_FETCH_QUEUED);
    sg_expert_expect(s, &h->home[1], 1, near, 2);
    ck_assert(area_of(h, 2, 1) && !area_of(h, 3, 2) && area_of(h, 1, 7) && !area_of(h, 1, 8));
    ck_assert_uint_eq(h->home[3].finds.unused, 1);
    ck_assert_uint_eq(h->home[2].finds.unused, 0);
    const pthread_t id = opener();
    shelf_run(h, 0, hit, 1, NULL, 1);
    pthread_join(id, NULL);
    ck_assert_ptr_nonnull(area_of(h, 1, 7));
    static const uint32_t both[] = { 7, 8 };
    shelf_run(h, 1, both, 2, NULL, 1);
    shelf_run(h, 2, far, 2, NULL, 1);
    shelf_close(h);
}
END_TEST

/* ---- failures ---- */

/* In each slice of each expert, with nothing in slots and with some; then everything is right again. */
START_TEST(fails_and_is_right_again) {
    static const uint32_t hit[] = { 1, 3, 4, 6, 9 }, good[] = { 0, 4, 7 };
    for (uint32_t where = 0; where < 5 * SG_EXPERT_SLICES; where++) {
        shelf *h = make(2, 10, 6, 5, 2, _i);
        const int slice = _i ? 0 : (int)(where % SG_EXPERT_SLICES);
        const uint32_t bad = hit[where / SG_EXPERT_SLICES];
        const sg_expert_slice *s = &h->home[1].slice[slice];
        run_one(h, 1, good, 3); /* 4 is in a slot: it is not read, and its bytes are not asked for */
        run_one(h, 0, hit, 5);
        set_dead(h, s, s->offset + bad * s->apart + s->bytes / 2);
        h->may_fail = true;
        for (uint32_t again = 0; again < 2; again++) {
            atomic_store(&h->lost, 0);
            run_one(h, 1, hit, 5);
            sg_error e = { 0 };
            const sg_status status = sg_stream_failure(h->stream, &e);
            ck_assert_int_eq(status, bad == 4 ? SG_OK : SG_E_IO);
            ck_assert_uint_eq(atomic_load(&h->lost) > 0, bad != 4);
            if (bad == 4) break;
            ck_assert_uint_ne(failures, 0);
            ck_assert_uint_eq(h->home[1].cache.slot_of[bad] != SG_SLOT_NONE, 1); /* it got a slot, which is not to be trusted */
            recover(h);
            ck_assert_uint_eq(h->home[1].cache.slot_of[bad], SG_SLOT_NONE);
            ck_assert_uint_ne(h->home[1].cache.slot_of[4], SG_SLOT_NONE);
        }
        h->may_fail = false;
        set_dead(h, NULL, 0);
        run_one(h, 1, hit, 5);
        run_one(h, 0, hit, 5);
        run_one(h, 1, hit, 5);
        shelf_close(h);
    }
}
END_TEST

/* One piece fails while another of the same expert is under way, which nobody waits for: its area must not be used before that has ended. */
START_TEST(fails_while_others_fly) {
    shelf *h = calloc(1, sizeof *h);
    const size_t bytes[] = { SG_EXPERT_PIECE + 5000, 100, 100 };
    static const uint32_t hit[] = { 0, 2, 4 };
    set_gate(false, NOWHERE);
    set_dead(h, NULL, 0);
    shelf_layer(h, 6, 2, bytes, 0, _i);
    const sg_stream_options o = { .engine = SG_IO_PREAD, .lanes = 2, .buffered = true };
    shelf_open(h, &o, 3, 1);
    sg_expert_store *s = &h->s;
    const sg_expert_slice *sl = &h->home[0].slice[0];
    set_gate(true, NOWHERE);
    sg_expert_begin(s, true);
    sg_expert_demand(s, &h->home[0], hit, 3, NULL, 1);
    wait_arrived(2); /* the first piece and the rest of expert 0's first slice */
    sg_expert_read *r = s->read[0];
    sg_fetch *flying = &r->piece[1];
    ck_assert_uint_eq(s->expert[0], 0);
    ck_assert_int_eq(sg_fetch_get(flying), SG_FETCH_FLYING);
    const uint64_t offset = flying->offset;
    set_dead(h, sl, sl->offset);
    set_gate(true, (off_t)sl->offset);
    ck_assert(sg_expert_group(s));
    ck_assert_ptr_null(sg_expert_get(s, 0, 0, 0, sl->bytes, &(double) { 0 }));
    ck_assert_int_eq(sg_fetch_get(flying), SG_FETCH_FLYING);
    const pthread_t id = opener();
    sg_expert_end(s);
    if (!_i) sg_expert_expect(s, &h->home[0], 1, hit, 3); /* whoever looks for an area now */
    ck_assert_msg(!is_closed() || (flying->offset == offset && sg_fetch_get(flying) == SG_FETCH_FLYING), "an area is used that is being read into");
    run_one(h, 0, (const uint32_t[]) { 1 }, (h->may_fail = true, 1));
    ck_assert_msg(!is_closed() || (flying->offset == offset && sg_fetch_get(flying) == SG_FETCH_FLYING), "an area is used that is being read into");
    pthread_join(id, NULL);
    recover(h);
    set_dead(h, NULL, 0);
    h->may_fail = false;
    run_one(h, 0, hit, 3);
    shelf_close(h);
}
END_TEST

/* What nobody needed yet fails: the run fails, and nothing of it is trusted. */
START_TEST(fails_ahead) {
    shelf *h = make(2, 10, 6, 4, 1, _i);
    static const uint32_t hit[] = { 1, 3, 5 }, named[] = { 2, 7 };
    const sg_expert_slice *s = &h->home[1].slice[0];
    run_one(h, 0, hit, 3);
    set_dead(h, s, s->offset + 7 * s->apart);
    sg_expert_begin(&h->s, false);
    sg_expert_expect(&h->s, &h->home[1], 1, named, 2);
    while (sg_stream_failure(h->stream, NULL) == SG_OK) sg_stream_wait_news(h->stream, sg_stream_count(h->stream) - 1);
    h->may_fail = true;
    shelf_run(h, 0, hit, 3, NULL, 1); /* all in slots */
    shelf_run(h, 1, named, 2, NULL, 1);
    ck_assert_uint_gt(atomic_load(&h->lost), 0);
    recover(h);
    for (uint32_t i = 0; i < 3; i++) ck_assert_uint_ne(h->home[0].cache.slot_of[hit[i]], SG_SLOT_NONE);
    for (uint32_t i = 0; i < 10; i++) ck_assert_uint_eq(h->home[1].cache.slot_of[i], SG_SLOT_NONE);
    set_dead(h, NULL, 0);
    h->may_fail = false;
    run_one(h, 1, named, 2);
    shelf_close(h);
}
END_TEST

/* Broken off at any point of a layer, with reads that are held, queued, and done. */
START_TEST(broken_off) {
    static const uint32_t hit[] = { 1, 3, 4, 6, 9 }, named[] = { 2, 7 }, good[] = { 4, 5 };
    for (int where = 0; where < 8; where++) {
        shelf *h = make(2, 10, 4, 3, 2, false);
        sg_expert_store *s = &h->s;
        run_one(h, 0, good, 2);
        if (where % 2) set_gate(true, NOWHERE);
        const pthread_t id = opener();
        sg_expert_begin(s, true);
        if (where >= 2) sg_expert_demand(s, &h->home[0], hit, 5, NULL, 1);
        sg_expert_expect(s, &h->home[1], 1, named, 2);
        if (where >= 4) {
            ck_assert(sg_expert_group(s));
            if (where % 2) set_gate(false, NOWHERE);
            for (uint32_t p = s->lo; p < s->hi; p++)
                for (int i = 0; i < SG_EXPERT_SLICES; i++) ck_assert_ptr_nonnull(sg_expert_get(s, p, i, 0, h->home[0].slice[i].bytes, &(double) { 0 }));
        }
        if (where >= 6) {
            sg_expert_done(s, 0, s->hi);
            ck_assert(sg_expert_group(s));
        }
        recover(h);
        pthread_join(id, NULL);
        ck_assert_uint_ne(h->home[0].cache.slot_of[4], SG_SLOT_NONE);
        for (int round = 0; round < 2; round++) {
            sg_expert_begin(s, true);
            for (uint32_t k = 0; k < 2; k++) shelf_run(h, k, hit, 5, NULL, 1);
            for (uint32_t k = 0; k < 2; k++) run_one(h, k, named, 2);
        }
        shelf_close(h);
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("expert_reads");
    TCase *t = tcase_create("reads");
    tcase_set_timeout(t, 0);
    tcase_add_loop_test(t, there, 0, 2); /* 1: in place */
    tcase_add_loop_test(t, late, 0, 2);
    tcase_add_loop_test(t, wrong_in_all_areas, 0, 2);
    tcase_add_loop_test(t, dropped_and_claimed, 0, 2);
    tcase_add_loop_test(t, areas_of_later_ones, 0, 3); /* slots */
    tcase_add_test(t, as_areas_become_free);
    tcase_add_loop_test(t, two_layers_ahead, 0, 2);
    tcase_add_loop_test(t, all_layers_at_once, 0, 2);
    tcase_add_loop_test(t, nearer_ones_have_the_areas, 0, 2);
    tcase_add_loop_test(t, far_reads_that_wait_give_way, 0, 2);
    tcase_add_loop_test(t, fails_and_is_right_again, 0, 2);
    tcase_add_loop_test(t, fails_while_others_fly, 0, 2);
    tcase_add_loop_test(t, fails_ahead, 0, 2);
    tcase_add_test(t, broken_off);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK); /* OpenMP teams do not survive a fork */
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
