/* The store of experts by itself: every byte of every slice, the groups, the slots. Loop variable: 2 * engine + (1: buffered); engines are
 * pread, the faults by default, and io_uring where the machine has it. What needs reads that stop or fail is in test_expert_reads.c. */
#include "tests/unit/expert_fixture.h"

#include "io/reader_engine.h"

static const sg_io_engine engines[3] = { SG_IO_PREAD, SG_IO_FAULT, SG_IO_URING };
#define FAULTS "seed=%d,delay=%d,reorder=8,short=20,eio=10"

static shelf *create(void) {
    shelf *h = calloc(1, sizeof *h);
    ck_assert_ptr_nonnull(h);
    return h;
}

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
    shelf *h = create();
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
    shelf *h = create();
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
        shelf *h = create();
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
        shelf *h = create();
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
    shelf *h = create();
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
    shelf *h = create();
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
            if (rnd(&seed) % 2) sg_expert_expect(&h->s, &h->home[k + 1], hit[k + 1], n[k + 1]);
            else sg_expert_expect(&h->s, &h->home[k + 1], named, choose(&seed, p->n_expert, p->most, named));
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

/* ---- looking ahead ---- */

/* What was expected wrongly is not trusted any more, until a probe finds that it comes true again; nor is anything where all is in slots. */
START_TEST(trust) {
    shelf *h = create();
    const size_t bytes[] = { 100, 100, 100 };
    static const uint32_t one[] = { 1 }, two[] = { 2 };
    shelf_layer(h, 4, 0, bytes, 0, false);
    shelf_layer(h, 4, 1, bytes, 0, false);
    open_with(h, _i, 2, 1);
    sg_expert_home *e = &h->home[0];
    sg_expert_begin(&h->s, false);
    ck_assert(sg_expert_looks_ahead(&h->s, e));
    uint32_t runs = 0;
    for (; sg_expert_looks_ahead(&h->s, e) && runs < 200; runs++) {
        sg_expert_expect(&h->s, e, one, 1);
        shelf_run(h, 0, two, 1, NULL, 1);
        sg_expert_begin(&h->s, false);
    }
    ck_assert(runs > 10 && runs < 100);
    ck_assert_uint_eq(e->finds.right, 0);
    for (uint32_t k = 0; k < SG_EXPERT_PROBE && !sg_expert_looks_ahead(&h->s, e); k++) sg_expert_begin(&h->s, false);
    ck_assert_uint_eq(h->s.run % SG_EXPERT_PROBE, 0);
    ck_assert(sg_expert_looks_ahead(&h->s, e));
    for (runs = 0; runs < 100; runs++) {
        sg_expert_expect(&h->s, e, two, 1);
        shelf_run(h, 0, two, 1, NULL, 1);
        sg_expert_begin(&h->s, false);
    }
    ck_assert(sg_expert_looks_ahead(&h->s, e));
    ck_assert_uint_eq(e->finds.right, 100);
    h->s.no_ahead = true;
    ck_assert(!sg_expert_looks_ahead(&h->s, e));
    h->s.no_ahead = false;
    ck_assert(sg_expert_looks_ahead(&h->s, e));
    e->apart = true; /* batches only */
    ck_assert(!sg_expert_looks_ahead(&h->s, e));
    sg_expert_begin(&h->s, true);
    ck_assert(sg_expert_looks_ahead(&h->s, e));
    e->apart = false;
    sg_expert_begin(&h->s, false);
    sg_expert_home *kept = &h->home[1];
    for (runs = 0; sg_expert_looks_ahead(&h->s, kept) && runs < 200; runs++) {
        shelf_run(h, 1, two, 1, NULL, 1);
        sg_expert_begin(&h->s, false);
    }
    ck_assert(runs > 10 && runs < 100);
    shelf_close(h);
}
END_TEST

static shelf *open_for_trial(int i) {
    shelf *h = create();
    const size_t bytes[] = { 100, 100, 100 };
    shelf_layer(h, 4, 0, bytes, 0, false);
    open_with(h, i, 2, 1);
    return h;
}

/* A single token, which takes so long with look-ahead and without it: whether it had it. */
static bool token(shelf *h, double with, double without) {
    sg_expert_begin(&h->s, true);
    const bool ahead = sg_expert_looks_ahead(&h->s, &h->home[0]);
    sg_expert_time(&h->s, ahead ? with : without);
    return ahead;
}

static uint32_t tokens(shelf *h, uint32_t n, double with, double without) {
    uint32_t ahead = 0;
    for (uint32_t i = 0; i < n; i++) ahead += token(h, with, without);
    return ahead;
}

#define ROUND (4 * SG_EXPERT_TURN)

/* Single tokens go with look-ahead at first, then with and without it in turns, half of each; from then on as it was faster, for longer when that is
 * said again. */
START_TEST(trial) {
    for (int faster = 0; faster < 2; faster++) {
        shelf *h = open_for_trial(_i);
        const double with = faster ? 2 : 3, without = faster ? 3 : 2;
        uint32_t rest = SG_EXPERT_REST;
        ck_assert_uint_eq(tokens(h, SG_EXPERT_FIRST, with, without), SG_EXPERT_FIRST);
        for (int trials = 0; trials < 6; trials++) {
            for (uint32_t i = 0; i < SG_EXPERT_ROUNDS * 4; i++) ck_assert_uint_eq(tokens(h, SG_EXPERT_TURN, with, without), i % 4 % 3 == 0 ? SG_EXPERT_TURN : 0);
            for (uint32_t i = 0; i < rest; i++) {
                ck_assert_int_eq(token(h, with, without), faster);
                if (i % 5 > 0) continue;
                sg_expert_begin(&h->s, false); /* batches in between change nothing, and look ahead always */
                ck_assert(sg_expert_looks_ahead(&h->s, &h->home[0]));
            }
            if (rest < SG_EXPERT_MOST_REST) rest *= 2;
        }
        ck_assert_uint_eq(rest, SG_EXPERT_MOST_REST);
        /* now it is the other way round */
        ck_assert_uint_eq(tokens(h, SG_EXPERT_ROUNDS * ROUND, without, with), SG_EXPERT_ROUNDS * ROUND / 2);
        ck_assert_uint_eq(tokens(h, SG_EXPERT_REST, without, with), faster ? 0 : SG_EXPERT_REST);
        ck_assert_uint_eq(tokens(h, SG_EXPERT_ROUNDS * ROUND, without, with), SG_EXPERT_ROUNDS * ROUND / 2);
        shelf_close(h);
    }
}
END_TEST

/* What is not clear is tried for longer, and again as soon as before. */
START_TEST(trial_of_what_is_not_clear) {
    shelf *h = open_for_trial(_i);
    const uint32_t n = SG_EXPERT_MOST_ROUNDS * ROUND;
    for (uint32_t i = 0; i < SG_EXPERT_FIRST; i++) (void)token(h, 1000, 1000);
    uint32_t ahead = 0;
    for (uint32_t i = 0; i < n; i++) ahead += token(h, 1000 + i, 1000 + i); /* what grows with time favours neither */
    ck_assert_uint_eq(ahead, n / 2);
    ck_assert_uint_eq(tokens(h, SG_EXPERT_REST, 1000, 1000), SG_EXPERT_REST);
    for (int worse = 1; worse >= 0; worse--)
        for (int again = 0; again < 3; again++) {
            for (uint32_t i = ahead = 0; i < n; i++) ahead += token(h, (i / ROUND % 2 ? 900 : 1100) + (worse ? 5 : -5), 1000); /* its standard error is 14 */
            ck_assert_uint_eq(ahead, n / 2);
            ck_assert_uint_eq(tokens(h, SG_EXPERT_REST, 1000, 1000), worse ? 0 : SG_EXPERT_REST);
        }
    shelf_close(h);
}
END_TEST

/* A token that took a thousand times as long as others says little. */
START_TEST(trial_with_stalls) {
    shelf *h = open_for_trial(_i);
    ck_assert_uint_eq(tokens(h, SG_EXPERT_FIRST, 2, 3), SG_EXPERT_FIRST);
    uint32_t n = 0;
    for (; h->s.ahead.at != 0 || n == 0; n++) (void)token(h, n % 16 == 1 ? 3000 : 2, 3.5);
    ck_assert_uint_le(n, SG_EXPERT_MOST_ROUNDS * ROUND);
    ck_assert_uint_eq(tokens(h, SG_EXPERT_REST, 2, 3.5), SG_EXPERT_REST);
    shelf_close(h);
}
END_TEST

/* The pre-gate is believed by layer as it proves, of what is not in slots; look-ahead is not asked where it is at least as good, but for a probe. */
START_TEST(trust_of_the_pregate) {
    shelf *h = create();
    const size_t bytes[] = { 100, 100, 100 };
    static const uint32_t one[] = { 1 }, two[] = { 2 }, both[] = { 1, 2 };
    shelf_layer(h, 4, 0, bytes, 0, false);
    shelf_layer(h, 4, 0, bytes, 0, false);
    open_with(h, _i, 4, 1);
    sg_expert_store *s = &h->s;
    sg_expert_home *bad = &h->home[0], *half = &h->home[1];
    const uint32_t runs = 63;
    uint32_t believed = 0;
    s->ahead.rest = runs; /* all with look-ahead */
    for (uint32_t run = 1; run <= runs; run++) {
        sg_expert_begin(s, true);
        ck_assert(!sg_expert_is_foreseen(s, half)); /* nothing was said yet */
        believed += sg_expert_foresees(s, bad);
        ck_assert(sg_expert_foresees(s, half));
        sg_expert_foresee(bad, one, 1, one, 1);
        sg_expert_foresee(half, both, 2, both, 2);
        const bool probe = s->run % SG_EXPERT_PROBE == 0;
        ck_assert_int_eq(sg_expert_is_foreseen(s, half), half->far_trust >= half->trust && !probe);
        if (!sg_expert_is_foreseen(s, half)) sg_expert_expect(s, half, one, 1);
        sg_expert_judge_foreseen(s, bad, two, 1);
        shelf_run(h, 0, two, 1, NULL, 1);
        sg_expert_judge_foreseen(s, half, two, 1);
        shelf_run(h, 1, two, 1, NULL, 1);
        ck_assert_int_eq(sg_expert_weighs(s, half, false), true);
        ck_assert_int_eq(sg_expert_weighs(s, bad, false), bad->far_trust > SG_EXPERT_TRUE);
        ck_assert_int_eq(sg_expert_weighs(s, bad, true), bad->far_trust > SG_EXPERT_TRUE || probe);
        sg_expert_weighed(s, bad);
        sg_expert_weighed(s, half);
        ck_assert(half->cache.soon == half->soon && bad->cache.soon == (bad->far_trust > SG_EXPERT_TRUE ? bad->soon : NULL));
    }
    ck_assert(believed > 10 && believed < 40);
    ck_assert(bad->far_trust < SG_EXPERT_TRUE && half->far_trust > SG_EXPERT_TRUE && half->far_trust < 0.7f);
    ck_assert_uint_eq(bad->finds.foreseen, runs);
    ck_assert_uint_eq(bad->finds.came, 0);
    ck_assert_uint_eq(half->finds.foreseen, 2 * runs);
    ck_assert_uint_eq(half->finds.came, runs);
    ck_assert(half->finds.guessed > 5 && half->finds.right == 0); /* it was asked, and is worse */
    ck_assert(half->trust < half->far_trust);
    s->ahead.rest = UINT32_MAX;
    half->trust = 0; /* even so: a probe */
    for (uint32_t k = 0; k < SG_EXPERT_PROBE + 3; k++) {
        sg_expert_begin(s, true);
        sg_expert_foresee(half, both, 2, both, 2);
        ck_assert_int_eq(sg_expert_is_foreseen(s, half), s->run % SG_EXPERT_PROBE != 0);
    }
    sg_expert_begin(s, false); /* in batches it names for the first token only */
    sg_expert_foresee(half, both, 2, both, 0);
    ck_assert(!sg_expert_is_foreseen(s, half));
    sg_expert_begin(s, true);
    s->no_ahead = true; /* reads nothing, and counts all the same */
    ck_assert(!sg_expert_foresees(s, half));
    ck_assert(sg_expert_weighs(s, half, false));
    s->no_cache = true;
    ck_assert(!sg_expert_weighs(s, half, false));
    shelf_close(h);
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
    shelf *h = create();
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
    shelf *h = create();
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
    tcase_add_loop_test(t, trust, 0, 1);
    tcase_add_loop_test(t, trial, 0, 1);
    tcase_add_loop_test(t, trial_of_what_is_not_clear, 0, 1);
    tcase_add_loop_test(t, trial_with_stalls, 0, 1);
    tcase_add_loop_test(t, trust_of_the_pregate, 0, 1);
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
