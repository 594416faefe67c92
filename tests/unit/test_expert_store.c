/* The store of experts by itself: every byte of every slice, the groups, the slots. Loop variable: 2 * engine + (1: buffered); engines are
 * pread, the faults by default, and io_uring where the machine has it. What needs reads that stop or fail is in test_expert_reads.c. */
#include "tests/unit/expert_fixture.h"

#include "io/reader_engine.h"

static const sg_io_engine engines[3] = { SG_IO_PREAD, SG_IO_FAULT, SG_IO_URING };
#define FAULTS "seed=%d,delay=%d,reorder=8,short=20,eio=10"

static void open_with(shelf *h, int i, uint32_t n_reads, uint32_t n_threads) {
    char faults[100];
    snprintf(faults, sizeof faults, FAULTS, i + (int)n_reads, 40);
    const sg_stream_options o = { .engine = engines[i / 2], .buffered = i % 2, .faults = faults };
    shelf_open(h, &o, n_reads, n_threads);
}

/* ---- bytes ---- */

/* Around blocks and pieces; one after the other, by layers. */
static const size_t sizes[] = { 1, 31, 64, 4064, 4095, 4096, 4097, 8191, SG_EXPERT_PIECE - 4096, SG_EXPERT_PIECE - 1, SG_EXPERT_PIECE, SG_EXPERT_PIECE + 1,
                                2 * SG_EXPERT_PIECE, 3 * SG_EXPERT_PIECE + 4097 };
static const uint32_t residues[] = { 0, 32, 4064, 512, 1, 4095, 3584, 96 };
enum { SIZES = sizeof sizes / sizeof *sizes, RESIDUES = sizeof residues / sizeof *residues };

START_TEST(every_byte) {
    shelf *h = shelf_create();
    static const uint32_t hit[] = { 0, 1, 2 };
    for (uint32_t i = 0; i < SIZES; i++) {
        const size_t bytes[] = { sizes[i], i % 5 == 4 ? 0 : sizes[(i + 3) % SIZES], sizes[(i + 7) % SIZES] };
        shelf_layer(h, 3, 1, bytes, residues[i % RESIDUES], false);
    }
    for (uint32_t i = 0; i < SIZES; i++) shelf_layer(h, 3, 1, (const size_t[SG_EXPERT_SLICES]) { sizes[i] }, residues[(i + 1) % RESIDUES], true);
    open_with(h, _i, 2, 1);
    for (int round = 0; round < 2; round++) {
        sg_expert_begin(&h->s, true);
        for (uint32_t i = 0; i < h->s.n_homes; i++) shelf_run(h, i, hit, 3, NULL, 1);
    }
    shelf_close(h);
}
END_TEST

/* Any part of a slice, the ends of pieces among them. */
START_TEST(any_part) {
    shelf *h = shelf_create();
    const size_t bytes[] = { 3 * SG_EXPERT_PIECE + 12345, 777, 2 * SG_EXPERT_PIECE };
    const uint32_t hit[] = { 1 };
    uint64_t seed = 1234567 + (uint64_t)_i;
    shelf_layer(h, 2, 0, bytes, 32, false);
    open_with(h, _i, 1, 1);
    for (int k = 0; k < 24; k++) {
        sg_expert_begin(&h->s, true);
        sg_expert_demand(&h->s, &h->home[0], hit, 1, NULL, 1);
        ck_assert(sg_expert_group(&h->s));
        const int slice = k % SG_EXPERT_SLICES;
        const size_t all = bytes[slice], base = (size_t)(h->home[0].slice[slice].offset + all) % SG_STREAM_BLOCK;
        for (int tries = 0; tries < 20; tries++) {
            size_t from = rnd(&seed) % (all + 1), to = from + rnd(&seed) % (all - from + 1);
            if (tries % 4 == 1 && all > SG_EXPERT_PIECE) from = SG_EXPERT_PIECE - base - tries % 3 + 1; /* expert 1 begins `base` behind a block */
            if (tries % 4 == 2 && all > SG_EXPERT_PIECE) to = SG_EXPERT_PIECE - base - tries % 3 + 1;
            if (from > to) from = to;
            double waited = 0;
            const uint8_t *there = sg_expert_get(&h->s, 0, slice, from, to, &waited);
            ck_assert_ptr_nonnull(there);
            ck_assert_uint_eq(shelf_differs(&h->home[0], 1, slice, there, from, to), to);
            ck_assert(waited >= 0 && waited < 60);
        }
        for (int i = 0; i < SG_EXPERT_SLICES; i++) ck_assert_ptr_nonnull(sg_expert_get(&h->s, 0, i, 0, bytes[i], &(double) { 0 }));
        sg_expert_end(&h->s);
    }
    shelf_close(h);
}
END_TEST

/* ---- slots ---- */

static uint32_t resident(const sg_expert_home *e) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < e->n_expert; i++) n += e->cache.slot_of[i] != SG_SLOT_NONE;
    return n;
}

static uint64_t fetches(shelf *h) {
    sg_stream_drain(h->stream);
    const sg_stream_counts c = sg_stream_get_counts(h->stream);
    return c.demand_fetches + c.prefetch_fetches;
}

START_TEST(slots_are_hit) {
    for (int in_place = 0; in_place < 2; in_place++) {
        shelf *h = shelf_create();
        const size_t bytes[] = { 5000, 5000, 7000 };
        static const uint32_t a[] = { 1, 4, 6 }, b[] = { 0, 4, 7 };
        shelf_layer(h, 8, 3, bytes, 32, in_place);
        shelf_layer(h, 8, 0, bytes, 64, in_place);
        open_with(h, _i, 4, 2);
        const sg_expert_home *first = &h->home[0], *second = &h->home[1];
        for (uint32_t round = 1; round <= 4; round++) {
            const uint64_t before = fetches(h);
            sg_expert_begin(&h->s, true);
            shelf_run(h, 0, a, 3, NULL, 1);
            ck_assert_uint_eq(resident(first), 3);
            ck_assert_uint_eq(fetches(h) == before, round > 1); /* nothing is read for what is there */
            shelf_run(h, 1, a, 3, NULL, 1);
            ck_assert_uint_eq(resident(second), 0);
            ck_assert_uint_eq(first->finds.slots, 3 * (round - 1));
            ck_assert_uint_eq(second->finds.slots, 0);
            ck_assert_uint_eq(second->finds.missed, 3 * round);
        }
        ck_assert_uint_eq(first->finds.kept, 3);
        /* 4 stays, it is used in this run; the two others go, as there are no more slots */
        sg_expert_begin(&h->s, true);
        shelf_run(h, 0, b, 3, NULL, 1);
        ck_assert_uint_eq(first->finds.slots, 10);
        ck_assert_uint_eq(first->finds.kept, 5);
        for (int i = 0; i < 3; i++) ck_assert_uint_ne(first->cache.slot_of[b[i]], SG_SLOT_NONE);
        /* without the cache nothing is there */
        h->s.no_cache = true;
        for (uint32_t round = 1; round <= 2; round++) {
            sg_expert_begin(&h->s, true);
            shelf_run(h, 0, b, 3, NULL, 1);
            ck_assert_uint_eq(first->finds.slots, 10);
        }
        sg_expert_begin(&h->s, true);
        shelf_check_slots(h, first);
        shelf_good(h);
        shelf_close(h);
    }
}
END_TEST

/* Fewer slots than a run uses: what found one keeps it to the end of the run, the others do without. */
START_TEST(too_few_slots) {
    for (int in_place = 0; in_place < 2; in_place++) {
        shelf *h = shelf_create();
        const size_t bytes[] = { 4500, 300, 9000 };
        static const uint32_t hit[] = { 0, 1, 2, 3, 5, 6, 8, 9, 11 };
        shelf_layer(h, 12, 4, bytes, 4064, in_place);
        open_with(h, _i, 9, 2);
        for (uint32_t round = 1; round <= 5; round++) {
            sg_expert_begin(&h->s, true);
            shelf_run(h, 0, hit, 9, NULL, 1);
            ck_assert_uint_eq(h->home[0].finds.slots, 4 * (round - 1));
            ck_assert_uint_eq(h->home[0].finds.missed, 5 * round + 4);
            ck_assert_uint_eq(h->home[0].finds.kept, 4);
        }
        shelf_close(h);
    }
}
END_TEST

/* Of a batch those get the slots that most tokens use, and they are read first; a hotter one in a later batch displaces a colder one. */
START_TEST(slots_of_batches) {
    shelf *h = shelf_create();
    const size_t bytes[] = { 4500, 300, 9000 };
    static const uint32_t hit[] = { 0, 1, 2, 3, 4, 5 }, count[] = { 0, 1, 9, 11, 19, 20, 32 }, again[] = { 0, 12, 13, 19, 21, 22, 23 };
    shelf_layer(h, 6, 2, bytes, 32, false);
    open_with(h, _i, 2, 2);
    sg_expert_begin(&h->s, false);
    shelf_run(h, 0, hit, 6, count, 16);
    static const uint32_t order[] = { 5, 1, 3, 2, 0, 4 }; /* 12, 8, 8, 2, 1, 1 tokens */
    for (uint32_t p = 0; p < 6; p++) ck_assert_uint_eq(h->s.expert[p], order[p]);
    ck_assert_uint_ne(h->home[0].cache.slot_of[5], SG_SLOT_NONE);
    ck_assert_uint_ne(h->home[0].cache.slot_of[1], SG_SLOT_NONE);
    sg_expert_begin(&h->s, false);
    shelf_run(h, 0, hit, 6, again, 16);
    ck_assert_uint_eq(h->home[0].finds.slots, 2);
    /* 12 and 6 tokens, more than those in slots have: one takes the slot of one that was used, as that is done with */
    ck_assert(h->home[0].cache.slot_of[0] != SG_SLOT_NONE || h->home[0].cache.slot_of[2] != SG_SLOT_NONE);
    ck_assert_uint_eq(resident(&h->home[0]), 2);
    shelf_close(h);
}
END_TEST

/* ---- anything ---- */

/* Some of n, ascending. */
static uint32_t choose(uint64_t *seed, uint32_t n, uint32_t most, uint32_t *out) {
    uint32_t found = 0;
    const uint32_t want = 1 + (uint32_t)(rnd(seed) % most);
    for (uint32_t i = 0; i < n; i++)
        if (rnd(seed) % (n - i) < want - found) out[found++] = i;
    return found;
}

typedef struct plan {
    uint32_t n_expert, n_slots, n_reads, n_threads, most; /* experts of a layer in a run */
    bool in_place;
} plan;
static const plan plans[] = { { 16, 4, 1, 1, 16, false }, { 16, 2, 2, 2, 16, false }, { 16, 7, 3, 3, 16, false }, { 9, 9, 5, 2, 4, false }, { 16, 0, 2, 3, 8, false },
                              { 32, 3, 16, 2, 32, false }, { 5, 2, 5, 1, 3, false }, { 16, 4, 3, 2, 16, true }, { 16, 16, 16, 3, 16, true }, { 16, 0, 2, 1, 6, true } };
enum { LAYERS = 3, PLANS = sizeof plans / sizeof *plans };

/* Runs of any number of tokens, with experts that are expected rightly and wrongly for later layers. */
static void anything(int i, const plan *p, int rounds) {
    shelf *h = shelf_create();
    static const size_t bytes[LAYERS][SG_EXPERT_SLICES] = { { 6000, 6000, 12345 }, { 12288, 1, 4096 }, { 33, 40000, 511 } };
    uint64_t seed = 99 + (uint64_t)(p - plans) * 7 + (uint64_t)i, used = 0;
    for (uint32_t k = 0; k < LAYERS; k++) shelf_layer(h, p->n_expert, p->n_slots, bytes[k], residues[(k + p->n_reads) % RESIDUES], p->in_place);
    open_with(h, i, p->n_reads, p->n_threads);
    for (int round = 0; round < rounds; round++) {
        const uint32_t n_tokens = round % 3 ? 1 + (uint32_t)(rnd(&seed) % 40) : 1;
        uint32_t hit[LAYERS][SHELF_EXPERTS], n[LAYERS], count[SHELF_EXPERTS + 1], named[SHELF_EXPERTS];
        for (uint32_t k = 0; k < LAYERS; k++) n[k] = choose(&seed, p->n_expert, p->most, hit[k]);
        h->s.no_cache = round % 11 == 10;
        sg_expert_begin(&h->s, n_tokens == 1);
        for (uint32_t k = 0; k < LAYERS; k++) {
            uint32_t right = 0;
            for (uint32_t e = 0; e < p->n_expert; e++) {
                const bool is = right < n[k] && hit[k][right] == e;
                right += is;
                count[e + 1] = (count[0] = 0, e > 0 ? count[e] : 0) + (is ? 1 + (uint32_t)(rnd(&seed) % n_tokens) : 0);
            }
            shelf_run(h, k, hit[k], n[k], n_tokens > 1 ? count : NULL, n_tokens);
            used += n[k];
            if (k + 1 == LAYERS || rnd(&seed) % 4 == 0) continue;
            if (rnd(&seed) % 2) sg_expert_expect(&h->s, &h->home[k + 1], 1 + rnd(&seed) % SG_EXPERT_DEPTH, hit[k + 1], n[k + 1]);
            else sg_expert_expect(&h->s, &h->home[k + 1], 1 + rnd(&seed) % SG_EXPERT_DEPTH, named, choose(&seed, p->n_expert, p->most, named));
        }
    }
    sg_expert_finds sum = { 0 };
    for (uint32_t k = 0; k < LAYERS; k++) {
        const sg_expert_finds *f = &h->home[k].finds;
        sum.slots += f->slots;
        sum.ahead += f->ahead + f->late;
        sum.missed += f->missed;
        sum.expected += f->expected;
        sum.unused += f->unused;
        ck_assert_uint_le(f->right, f->guessed);
        ck_assert_uint_le(resident(&h->home[k]), p->n_slots);
    }
    ck_assert_uint_eq(sum.slots + sum.ahead + sum.missed, used);
    ck_assert_uint_eq(sum.slots > 0, p->n_slots > 0);
    ck_assert_uint_gt(sum.ahead, 0);
    /* what was read because it was expected was used, or was not, or is there yet */
    uint32_t left = 0;
    for (uint32_t k = 0; k < p->n_reads; k++) left += h->s.reads[k].home != NULL;
    ck_assert_uint_eq(sum.expected, sum.ahead + sum.unused + left);
    shelf_close(h);
}

START_TEST(any_work) {
    for (const plan *p = plans; p < plans + PLANS; p++) anything(_i, p, 25);
}
END_TEST

/* Experts of a run that is hardly like the one before, as real ones; of batches with counts. */
static uint32_t next_run(uint64_t *seed, uint32_t n_expert, uint32_t n_tokens, uint32_t n_used, uint32_t round, uint16_t *uses) {
    uint32_t all = 0;
    memset(uses, 0, n_expert * sizeof *uses);
    for (uint32_t t = 0; t < n_tokens; t++)
        for (uint32_t i = 0; i < n_used;) {
            const uint64_t a = rnd(seed) % n_expert, b = rnd(seed) % n_expert;
            const uint32_t e = (uint32_t)(a * b / n_expert + round / 20 * 5) % n_expert;
            if (uses[e] > t) continue; /* at most once a token, about */
            uses[e]++;
            i++;
        }
    for (uint32_t e = 0; e < n_expert; e++) all += uses[e] > 0;
    return all;
}

/* Experts that had to be read in all runs, with the next one known or not. */
static uint64_t reads_of(int i, uint32_t n_slots, uint32_t n_tokens, bool in_place, bool known) {
    enum { N = 16, ROUNDS = 120 };
    shelf *h = shelf_create();
    const size_t bytes[] = { 64, 64, 64 };
    shelf_layer(h, N, n_slots, bytes, 0, in_place);
    open_with(h, i, in_place ? N : 4, 1);
    uint64_t seed = 17;
    uint16_t now[N], next[N];
    uint32_t n = next_run(&seed, N, n_tokens, 2, 0, now);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint32_t hit[N], count[N + 1] = { 0 }, at = 0;
        const uint32_t n_next = next_run(&seed, N, n_tokens, 2, round + 1, next);
        for (uint32_t e = 0; e < N; e++) {
            if (now[e]) hit[at++] = e;
            count[e + 1] = count[e] + now[e];
        }
        sg_expert_begin(&h->s, n_tokens == 1);
        ck_assert_ptr_null(h->home[0].cache.soon);
        if (known) {
            memcpy(h->home[0].soon, next, sizeof next);
            sg_expert_weighed(&h->s, &h->home[0]);
        }
        shelf_run(h, 0, hit, n, n_tokens > 1 ? count : NULL, n_tokens);
        memcpy(now, next, sizeof now);
        n = n_next;
    }
    const uint64_t missed = h->home[0].finds.missed;
    shelf_close(h);
    return missed;
}

/* Who is needed by the next batch stays: fewer reads, with any number of slots, whatever the batch. */
START_TEST(next_ones_stay) {
    for (int in_place = 0; in_place < 2; in_place++)
        for (uint32_t n_tokens = 1; n_tokens <= 9; n_tokens += 4)
            for (uint32_t n_slots = 1; n_slots < 16; n_slots += 2) {
                const uint64_t with = reads_of(_i, n_slots, n_tokens, in_place, true), without = reads_of(_i, n_slots, n_tokens, in_place, false);
                ck_assert_msg(with <= without, "%u tokens, %u slots: %llu reads, %llu without knowing", n_tokens, n_slots, (unsigned long long)with,
                              (unsigned long long)without);
                if (n_slots >= 3 && n_slots <= 9) ck_assert_msg(with < without, "%u tokens, %u slots: %llu reads either way", n_tokens, n_slots, (unsigned long long)with);
            }
}
END_TEST

/* Of a single token: what the next one is named to need is not displaced, not even by what this one uses, which is warmer for it all the same. */
START_TEST(needed_next_is_not_displaced) {
    shelf *h = shelf_create();
    const size_t bytes[] = { 100, 100, 100 };
    static const uint32_t a[] = { 0, 1 }, b[] = { 2, 3 };
    shelf_layer(h, 6, 2, bytes, 0, false);
    open_with(h, _i, 2, 1);
    sg_expert_home *e = &h->home[0];
    sg_expert_begin(&h->s, true);
    shelf_run(h, 0, a, 2, NULL, 1);
    for (uint32_t round = 0; round < 3; round++) {
        sg_expert_begin(&h->s, true);
        memset(e->soon, 0, 6 * sizeof *e->soon);
        e->soon[0] = 1;
        if (round == 1) e->soon[1] = 1;
        sg_expert_weighed(&h->s, e);
        if (round < 2) ck_assert_uint_ne(e->cache.slot_of[1], SG_SLOT_NONE);
        const uint8_t heat = e->cache.heat[2];
        shelf_run(h, 0, b, 2, NULL, 1);
        ck_assert_uint_gt(e->cache.heat[2], heat);
        ck_assert_uint_ne(e->cache.slot_of[0], SG_SLOT_NONE);
        if (round == 0) { /* 2 has the other slot; it gives it up again */
            ck_assert_uint_eq(e->cache.slot_of[1], SG_SLOT_NONE);
            sg_expert_begin(&h->s, true);
            shelf_run(h, 0, a, 2, NULL, 1);
        }
    }
    ck_assert_uint_eq(e->cache.slot_of[1], SG_SLOT_NONE);
    shelf_close(h);
}
END_TEST

int main(void) {
    const int n = sg_reader_uring_probe(NULL, 0) ? 6 : 4;
    Suite *s = suite_create("expert_store");
    TCase *t = tcase_create("store");
    tcase_set_timeout(t, 0);
    tcase_add_loop_test(t, every_byte, 0, n);
    tcase_add_loop_test(t, any_part, 0, n);
    tcase_add_loop_test(t, slots_are_hit, 0, n);
    tcase_add_loop_test(t, too_few_slots, 0, n);
    tcase_add_loop_test(t, slots_of_batches, 0, n);
    tcase_add_loop_test(t, any_work, 0, n);
    tcase_add_loop_test(t, next_ones_stay, 0, 1);
    tcase_add_loop_test(t, needed_next_is_not_displaced, 0, 1);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK); /* OpenMP teams do not survive a fork */
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
