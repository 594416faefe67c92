/* The belt, with every engine: whatever the program, the ring and the threads, each item's bytes are right from the get to the release.
 * Loop variable: the engine; pread, the faults by default, and io_uring where the machine has it. */
#include "tests/io/stream_fixture.h"

#include "io/belt.h"
#include "io/reader_engine.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#define FILE_BYTES ((size_t)7 * 1024 * 1024 + 1234)
#define MOST_ITEMS 700u
#define MOST_HELD 6u
#define MOST_THREADS 4u

static const sg_io_engine engines[3] = { SG_IO_PREAD, SG_IO_FAULT, SG_IO_URING };
static temp_dir dir;
static char path[600];
static uint8_t *bytes; /* of the file */

static void make(void) {
    const uint32_t file = 0;
    temp_open(&dir);
    snprintf(path, sizeof path, "%s/0", dir.path);
    bytes = malloc(FILE_BYTES);
    for (size_t i = 0; i < FILE_BYTES; i++) bytes[i] = byte_at(file, i);
    ck_assert(temp_write(path, bytes, FILE_BYTES));
}

static void clean(void) {
    free(bytes);
    temp_close(&dir);
}

/* ---- a belt with room around its ring ---- */

typedef struct rig {
    sg_stream *s;
    sg_belt *b;
    uint8_t *memory; /* a block of GUARD, the ring, a block of GUARD */
    size_t ring;
} rig;

static rig rig_open(int engine, const char *faults, size_t ring) {
    const sg_stream_options o = { .engine = engines[engine], .faults = faults };
    const char *list[1] = { path };
    rig r = { .ring = ring };
    ok(sg_stream_create(&o, NULL, &r.s, err));
    ok(sg_stream_open(r.s, list, 1, err));
    ck_assert_int_eq(posix_memalign((void **)&r.memory, SG_STREAM_BLOCK, ring + 2 * SG_STREAM_BLOCK), 0);
    memset(r.memory, GUARD, ring + 2 * SG_STREAM_BLOCK);
    ok(sg_belt_create(r.s, r.memory + SG_STREAM_BLOCK, ring, &r.b, err));
    return r;
}

static void rig_close(rig *r) {
    sg_belt_destroy(&r->b);
    ck_assert_ptr_null(r->b);
    sg_belt_destroy(&r->b);
    sg_stream_destroy(&r->s);
    for (size_t i = 0; i < SG_STREAM_BLOCK; i++)
        if (r->memory[i] != GUARD || r->memory[SG_STREAM_BLOCK + r->ring + i] != GUARD) ck_abort_msg("something was written outside the ring");
    free(r->memory);
}

/* ---- programs ---- */

/* Most items small, a few of several fetches; they may overlap. Returns the room of the largest. */
static size_t make_items(sg_belt_item *items, uint32_t n, size_t most, uint64_t *seed) {
    size_t room = 0;
    for (uint32_t i = 0; i < n; i++) {
        const uint64_t kind = rnd(seed) % 8;
        const size_t limit = kind == 0 ? most : kind < 3 ? 300000 : kind < 6 ? 20000 : 3;
        const size_t size = 1 + (size_t)(rnd(seed) % (limit < most ? limit : most));
        uint64_t offset = rnd(seed) % (FILE_BYTES - size + 1);
        if (kind % 2) offset = round_down(offset, SG_STREAM_BLOCK);
        items[i] = (sg_belt_item){ .offset = offset, .size = (uint32_t)size };
        if (sg_belt_room(size) > room) room = sg_belt_room(size);
    }
    return room;
}

/* ---- runs ---- */

/* A run of several threads. Items stay held for a while, though none that is `held` behind the newest, so that a ring with room for
 * held + 2 never stands still. */
typedef struct course {
    rig *r;
    const sg_belt_item *items;
    uint32_t n, held; /* takes items [0, n) */
    uint32_t total;   /* of the run; n < total breaks it off and keeps what is held */
    bool may_fail;
    atomic_uint next, good, bad;
    pthread_mutex_t lock; /* guards what follows */
    uint32_t newest, n_bag;
    struct {
        uint32_t item;
        const uint8_t *data;
    } bag[MOST_HELD + MOST_THREADS + 1];
    uint64_t seed;
} course;

static void check_item(const course *c, uint32_t i, const uint8_t *data, const char *when) {
    const sg_belt_item *item = &c->items[i];
    const uint8_t *ring = c->r->memory + SG_STREAM_BLOCK;
    if (data < ring || data + item->size > ring + c->r->ring) ck_abort_msg("item %u lies outside the ring", i);
    if (memcmp(data, bytes + item->offset, item->size) != 0)
        ck_abort_msg("item %u of %u: %u bytes at offset %llu are wrong %s", i, c->n, item->size, (unsigned long long)item->offset, when);
}

static void let_go(course *c, uint32_t k) {
    const uint32_t item = c->bag[k].item;
    if (c->bag[k].data) check_item(c, item, c->bag[k].data, "when they are released");
    c->bag[k] = c->bag[--c->n_bag];
    sg_belt_release(c->r->b, item);
}

static void *take_items(void *arg) {
    course *c = arg;
    for (;;) {
        const uint32_t i = atomic_fetch_add(&c->next, 1);
        if (i >= c->n) return NULL;
        double waited = 0;
        const uint8_t *data = sg_belt_get(c->r->b, i, &waited);
        if (data) check_item(c, i, data, "when they come");
        else if (!c->may_fail) ck_abort_msg("item %u of %u did not come", i, c->n);
        atomic_fetch_add(data ? &c->good : &c->bad, 1);
        pthread_mutex_lock(&c->lock);
        c->bag[c->n_bag].item = i;
        c->bag[c->n_bag++].data = data;
        if (i > c->newest) c->newest = i;
        for (uint32_t k = c->n_bag; k-- > 0;)
            if (c->bag[k].item + c->held <= c->newest || rnd(&c->seed) % 3 == 0) let_go(c, k);
        pthread_mutex_unlock(&c->lock);
    }
}

static void course_run(course *c, uint32_t n_threads) {
    pthread_t id[MOST_THREADS];
    atomic_init(&c->next, 0);
    atomic_init(&c->good, 0);
    atomic_init(&c->bad, 0);
    c->newest = c->n_bag = 0;
    pthread_mutex_init(&c->lock, NULL);
    sg_belt_begin(c->r->b, c->items, c->total);
    for (uint32_t i = 1; i < n_threads; i++) ck_assert_int_eq(pthread_create(&id[i], NULL, take_items, c), 0);
    take_items(c);
    for (uint32_t i = 1; i < n_threads; i++) pthread_join(id[i], NULL);
    while (c->n == c->total && c->n_bag > 0) let_go(c, (uint32_t)(rnd(&c->seed) % c->n_bag));
    sg_belt_end(c->r->b);
    pthread_mutex_destroy(&c->lock);
    ck_assert_uint_eq(c->good + c->bad, c->n);
}

static void run(rig *r, const sg_belt_item *items, uint32_t n, uint32_t held, uint32_t n_threads, uint64_t seed) {
    course c = { .r = r, .items = items, .n = n, .total = n, .held = held, .seed = seed };
    course_run(&c, n_threads);
}

/* A run that ends after `taken` of n items. */
static void break_off(rig *r, const sg_belt_item *items, uint32_t taken, uint32_t n, uint32_t held, uint32_t n_threads) {
    course c = { .r = r, .items = items, .n = taken, .total = n, .held = held, .seed = taken + 1 };
    course_run(&c, n_threads);
}

/* ---- tests ---- */

START_TEST(random_programs) {
    static const uint32_t lengths[] = { 1, 2, 3, 7, 40, 90 };
    static const size_t mosts[] = { 1, 5000, 400000, 3500000 };
    sg_belt_item items[90];
    uint64_t seed = 88172645463325252u + (uint64_t)_i;
    for (int turn = 0; turn < 32; turn++) {
        const uint32_t n = lengths[rnd(&seed) % 6], held = (uint32_t)turn % MOST_HELD;
        const size_t room = make_items(items, n, mosts[turn / 4 % 4], &seed);
        size_t all = 0;
        for (uint32_t i = 0; i < n; i++) all += sg_belt_room(items[i].size);
        /* the least; a block more; what holds the program, or more than that */
        const size_t least = (held + 2) * room, some[] = { least, least + SG_STREAM_BLOCK, all > least ? all : least, 2 * all + least };
        rig r = rig_open(_i, NULL, some[turn % 4]);
        for (uint32_t k = 0; k < 3; k++) run(&r, items, n, held, 1 + (uint32_t)(rnd(&seed) % MOST_THREADS), rnd(&seed));
        rig_close(&r);
    }
}
END_TEST

/* More small items than the belt keeps at a time, though the ring would have room for more. */
START_TEST(many_small_items) {
    static sg_belt_item items[MOST_ITEMS];
    uint64_t seed = 4711;
    const size_t room = make_items(items, MOST_ITEMS, 5000, &seed);
    rig r = rig_open(_i, "seed=3,short=20", (MOST_ITEMS + 2) * room);
    for (uint32_t k = 0; k < 3; k++) run(&r, items, MOST_ITEMS, k * 2, 1 + k, k + 1);
    rig_close(&r);
}
END_TEST

/* Items of several fetches that end just before, at and behind the end of one. */
START_TEST(parts) {
    sg_belt_item items[40];
    rig r = rig_open(_i, "seed=5,short=20", (size_t)12 << 20);
    for (uint32_t i = 0; i < 40; i++)
        items[i] = (sg_belt_item){ .offset = i / 4 * 4095, .size = 2 * (uint32_t)SG_STREAM_MOST + 2 - i % 4 };
    run(&r, items, 40, 2, 2, 9);
    run(&r, items, 40, 0, 1, 9);
    rig_close(&r);
}
END_TEST

/* Two lists by turns, and ends that move: 0 items, all of them, fewer than are read ahead, and back. */
START_TEST(programs_change) {
    enum { N = 24 };
    sg_belt_item items[2][N];
    uint64_t seed = 99 + (uint64_t)_i;
    size_t room = make_items(items[0], N, 60000, &seed);
    const size_t other = make_items(items[1], N, 60000, &seed);
    if (other > room) room = other;
    const size_t rings[] = { 2 * room, 6 * room, 60 * room };
    for (int k = 0; k < 3; k++) {
        const uint32_t held = k ? 3 : 0;
        rig r = rig_open(_i, NULL, rings[k]);
        static const uint32_t ends[] = { N, N, 5, 5, 6, N, 0, 0, N, 1, N, 1, 1, 2, N - 1, N, 0, 3 };
        for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) run(&r, items[0], ends[i], held, 1 + i % 3, rnd(&seed));
        for (int i = 0; i < 60; i++) {
            const uint64_t v = rnd(&seed);
            run(&r, items[v % 4 == 0], (uint32_t)(v >> 8) % (N + 1), held, 1 + (v >> 16) % MOST_THREADS, rnd(&seed));
        }
        rig_close(&r);
    }
}
END_TEST

/* What was read ahead stays when the list does: nothing is read twice. */
START_TEST(reads_ahead_over_the_end) {
    enum { N = 6, EACH = 40000 };
    sg_belt_item items[N];
    for (uint32_t i = 0; i < N; i++) items[i] = (sg_belt_item){ .offset = i * 50000, .size = EACH };
    const size_t room = sg_belt_room(EACH);
    rig r = rig_open(_i, "seed=1", 3 * room);
    uint32_t used = 0;
    for (uint32_t k = 0; k < 5; k++) {
        const uint32_t n = k % 2 ? N : N - 1;
        run(&r, items, n, 0, 1, k + 1);
        used += n;
        for (uint32_t seen; (seen = sg_stream_count(r.s)) < used + 3;) sg_stream_wait_news(r.s, seen);
    }
    const sg_stream_counts c = sg_stream_get_counts(r.s);
    ck_assert_uint_eq(c.demand_fetches + c.prefetch_fetches, used + 3);
    ck_assert_uint_eq(c.dropped, 0);
    rig_close(&r);
}
END_TEST

START_TEST(broken_off) {
    enum { N = 20 };
    sg_belt_item items[N];
    uint64_t seed = 1234 + (uint64_t)_i;
    const size_t room = make_items(items, N, 200000, &seed);
    for (uint32_t held = 0; held < 4; held += 3) {
        rig r = rig_open(_i, NULL, (held + 2) * room + 3 * SG_STREAM_BLOCK);
        for (uint32_t taken = 0; taken < N; taken += 1 + taken / 4) {
            const uint32_t n_threads = 1 + taken % MOST_THREADS;
            break_off(&r, items, taken, N, held, n_threads);
            if (taken % 2) break_off(&r, items, N - 1, N, held, n_threads);
            run(&r, items, N, held, n_threads, rnd(&seed));
        }
        break_off(&r, items, N / 2, N, held, 2);
        rig_close(&r); /* with items held */
    }
}
END_TEST

typedef struct dropper {
    sg_stream *s;
    atomic_bool over;
} dropper;

static void *drop(void *arg) {
    dropper *d = arg;
    while (!atomic_load(&d->over)) {
        sg_stream_drop(d->s);
        sched_yield();
    }
    return NULL;
}

/* Somebody drops prefetches all the time, as whoever ends a layer does while others wait for what comes next. */
START_TEST(drops_in_between) {
    enum { N = 60 };
    sg_belt_item items[N];
    uint64_t seed = 777 + (uint64_t)_i;
    const size_t room = make_items(items, N, 50000, &seed);
    rig r = rig_open(_i, "seed=2,delay=100", 4 * room);
    dropper d = { .s = r.s };
    pthread_t id;
    atomic_init(&d.over, false);
    ck_assert_int_eq(pthread_create(&id, NULL, drop, &d), 0);
    for (uint32_t k = 0; k < 40; k++) {
        run(&r, items, N, 2, 1 + k % MOST_THREADS, k + 1);
        if (k % 3) sg_belt_renew(r.b);
    }
    atomic_store(&d.over, true);
    pthread_join(id, NULL);
    rig_close(&r);
}
END_TEST

/* ---- failures ---- */

/* Byte DEAD of the file cannot be read. */
#define DEAD 1500000u
START_TEST(dead_place) {
    enum { N = 30 };
    sg_belt_item bad[N], good[N];
    char faults[64];
    snprintf(faults, sizeof faults, "seed=%d,delay=100,dead_at=%u", _i, DEAD);
    rig r = rig_open(1, faults, 8 * sg_belt_room(40000));
    for (uint32_t i = 0; i < N; i++) {
        good[i] = bad[i] = (sg_belt_item){ .offset = 2000000 + i * 50001, .size = 40000 - i * 1000 };
        if (i == (uint32_t)_i * 7) bad[i].offset = DEAD - 5000;
    }
    for (uint32_t n_threads = 1; n_threads <= MOST_THREADS; n_threads++) {
        /* everything is asked for and released; then: the run ends at the first that is missing */
        course c = { .r = &r, .items = bad, .n = N, .total = N, .held = 2, .seed = n_threads, .may_fail = true };
        course_run(&c, n_threads);
        ck_assert_uint_gt(c.bad, 0);
        fails(sg_stream_failure(r.s, err), SG_E_IO, "Input/output error");
        sg_belt_stop(r.b);
        sg_stream_recover(r.s);
        run(&r, good, N, 2, n_threads, n_threads);
        ok(sg_stream_failure(r.s, err));

        c.n = (uint32_t)_i * 7 + 1;
        course_run(&c, n_threads);
        ck_assert_uint_gt(c.bad, 0);
        sg_stream_recover(r.s);
        run(&r, good, N, 2, n_threads, n_threads);
    }
    rig_close(&r);
}
END_TEST

/* A read ahead of the next run fails after the last one has ended well; by then it can be read again. */
START_TEST(fails_between_runs) {
    const sg_belt_item items[2] = { { .offset = 5, .size = 30000 }, { .offset = 100000, .size = 30001 } };
    rig r = rig_open(_i, "seed=1", 2 * sg_belt_room(30001));
    double waited = 0;
    sg_belt_begin(r.b, items, 2);
    ck_assert_ptr_nonnull(sg_belt_get(r.b, 0, &waited));
    ck_assert_ptr_nonnull(sg_belt_get(r.b, 1, &waited));
    ck_assert(waited >= 0);
    ck_assert_int_eq(truncate(path, 0), 0);
    sg_belt_release(r.b, 0); /* makes room for item 0 of the next run */
    sg_belt_release(r.b, 1);
    sg_belt_end(r.b);
    for (;;) {
        const uint32_t seen = sg_stream_count(r.s);
        if (sg_stream_failure(r.s, NULL) != SG_OK) break;
        sg_stream_wait_news(r.s, seen);
    }
    sg_stream_drain(r.s);
    ck_assert(temp_write(path, bytes, FILE_BYTES));
    sg_stream_recover(r.s);
    run(&r, items, 2, 0, 1, 1);
    ok(sg_stream_failure(r.s, err));
    run(&r, items, 2, 0, 2, 1);
    rig_close(&r);
}
END_TEST

START_TEST(nothing) {
    rig r = rig_open(_i, NULL, 2 * SG_STREAM_BLOCK);
    ck_assert_uint_gt(sg_belt_overhead(), 0);
    sg_belt_stop(r.b);
    sg_belt_renew(r.b);
    run(&r, NULL, 0, 0, 1, 1);
    run(&r, NULL, 0, 0, 2, 1);
    const sg_belt_item one = { .offset = FILE_BYTES - 1, .size = 1 };
    run(&r, &one, 1, 0, 2, 1);
    run(&r, NULL, 0, 0, 1, 1);
    run(&r, &one, 1, 0, 1, 1);
    sg_belt_stop(r.b);
    sg_belt_stop(r.b);
    run(&r, &one, 1, 0, 1, 1);
    rig_close(&r);
}
END_TEST

int main(void) {
    char why[256] = "";
    const bool have_uring = sg_reader_uring_probe(why, sizeof why);
    if (!have_uring) printf("io_uring is not tested: %s\n", why);
    unsetenv("SPARSEGEN_FAULTS");
    Suite *s = suite_create("belt");
    TCase *tc = tcase_create("engines");
    const int n = have_uring ? 3 : 2;
    tcase_set_timeout(tc, 120);
    tcase_add_checked_fixture(tc, make, clean);
    tcase_add_loop_test(tc, random_programs, 0, n);
    tcase_add_loop_test(tc, many_small_items, 0, n);
    tcase_add_loop_test(tc, parts, 0, n);
    tcase_add_loop_test(tc, programs_change, 0, n);
    tcase_add_loop_test(tc, reads_ahead_over_the_end, 0, n);
    tcase_add_loop_test(tc, broken_off, 0, n);
    tcase_add_loop_test(tc, drops_in_between, 0, n);
    tcase_add_loop_test(tc, dead_place, 0, 4);
    tcase_add_loop_test(tc, fails_between_runs, 0, n);
    tcase_add_loop_test(tc, nothing, 0, n);
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    const int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
