/* Neurons in slots: what is in use or in flight never goes, hot ones stay over cold ones, and both tables say the same. */
#include "neuron_engine/ffn_home.h"
#include "neuron_engine/neuron_cache.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static uint64_t rnd(uint64_t *state) { /* xorshift64, Marsaglia 2003 */
    *state ^= *state << 13;
    *state ^= *state >> 7;
    return *state ^= *state << 17;
}

static sg_neuron_cache make(uint32_t n_slots, uint32_t n_places) {
    sg_neuron_cache c = { .n_slots = n_slots, .n_places = n_places };
    sg_carver carver = { 0 };
    sg_neuron_cache_lay_out(&c, &carver);
    char *memory = sg_aligned_calloc(SG_CACHE_LINE, carver.used + 1, 1);
    ck_assert_ptr_nonnull(memory);
    carver = (sg_carver){ memory, 0 };
    sg_neuron_cache_lay_out(&c, &carver);
    ck_assert_ptr_eq(c.slot_of, memory);
    sg_neuron_cache_clear(&c);
    return c;
}

static void drop(sg_neuron_cache *c) { free(c->slot_of); }

/* An assertion of the framework costs a system call: in loops only what is wrong makes one. */
#define must(cond, ...)                                                                                                \
    do {                                                                                                               \
        if (!(cond)) ck_abort_msg(__VA_ARGS__);                                                                        \
    } while (0)

/* Each table says of the other what the other says of it. */
static void check(const sg_neuron_cache *c) {
    for (uint32_t place = 0; place < c->n_places; place++) {
        const uint32_t slot = sg_neuron_cache_find(c, place);
        must(slot == SG_SLOT_NONE || (slot < c->n_slots && c->place_of[slot] == place), "slot %u does not hold place %u", slot, place);
    }
    for (uint32_t slot = 0; slot < c->n_slots; slot++) {
        const uint32_t place = c->place_of[slot];
        must(place == SG_SLOT_NONE || (place < c->n_places && c->slot_of[place] == slot), "place %u is not in slot %u", place, slot);
    }
    must(c->free_from <= c->n_slots && (c->n_slots == 0 || c->hand < c->n_slots), "hand %u, free from %u", c->hand, c->free_from);
}

/* Fills all slots with places 0 .. n_slots - 1, in this run. */
static void fill(sg_neuron_cache *c, uint32_t run) {
    for (uint32_t i = 0; i < c->n_slots; i++) ck_assert_uint_eq(sg_neuron_cache_take(c, i, run, true), i);
}

START_TEST(in_use_never_goes) {
    sg_neuron_cache c = make(20, 100);
    fill(&c, 1);
    ck_assert_uint_eq(sg_neuron_cache_take(&c, 50, 1, true), SG_SLOT_NONE);
    ck_assert_uint_eq(sg_neuron_cache_take(&c, 50, 1, false), SG_SLOT_NONE);
    ck_assert_uint_eq(sg_neuron_cache_find(&c, 50), SG_SLOT_NONE);
    ck_assert_uint_eq(c.heat[50], 0);
    check(&c);
    /* the next run: all but one are used again, and that one is the hottest */
    for (uint32_t i = 0; i < 20; i++)
        if (i != 13) sg_neuron_cache_use(&c, i, 2);
    c.heat[13] = 255;
    ck_assert_uint_eq(sg_neuron_cache_take(&c, 50, 2, true), 13);
    ck_assert_uint_eq(sg_neuron_cache_find(&c, 13), SG_SLOT_NONE);
    ck_assert_uint_eq(sg_neuron_cache_take(&c, 51, 2, true), SG_SLOT_NONE);
    check(&c);
    drop(&c);
}
END_TEST

/* What is only expected counts as used too, until the next run, but is no warmer for it. */
START_TEST(expected_stays_for_its_run) {
    sg_neuron_cache c = make(2, 10);
    ck_assert_uint_eq(sg_neuron_cache_take(&c, 0, 1, false), 0);
    ck_assert_uint_eq(c.heat[0], 0);
    ck_assert_uint_eq(sg_neuron_cache_take(&c, 1, 1, true), 1);
    ck_assert_uint_eq(c.heat[1], SG_HEAT_USE);
    ck_assert_uint_eq(sg_neuron_cache_take(&c, 2, 1, true), SG_SLOT_NONE);
    ck_assert_uint_eq(sg_neuron_cache_take(&c, 2, 2, true), 0);
    check(&c);
    drop(&c);
}
END_TEST

START_TEST(in_flight_never_goes) {
    sg_neuron_cache c = make(12, 100);
    fill(&c, 1);
    for (uint32_t i = 0; i < 12; i++) c.flight[i] = (uint16_t)(i + 1);
    ck_assert_uint_eq(sg_neuron_cache_take(&c, 50, 2, true), SG_SLOT_NONE);
    c.flight[7] = 0;
    c.heat[7] = 255;
    ck_assert_uint_eq(sg_neuron_cache_take(&c, 50, 2, true), 7);
    ck_assert_uint_eq(sg_neuron_cache_take(&c, 51, 3, true), 7);
    sg_neuron_cache_forget(&c, 3); /* the read failed */
    ck_assert_uint_eq(c.flight[3], 0);
    ck_assert_uint_eq(sg_neuron_cache_take(&c, 52, 3, true), 3);
    check(&c);
    drop(&c);
}
END_TEST

/* Among SG_HEAT_LOOK slots the coldest goes. */
START_TEST(cold_ones_go_first) {
    sg_neuron_cache c = make(SG_HEAT_LOOK, 100);
    fill(&c, 1);
    for (uint32_t i = 0; i < SG_HEAT_LOOK; i++) c.heat[i] = (uint8_t)(200 - i * 5 % 8 * 20);
    for (uint32_t n = 0; n < SG_HEAT_LOOK; n++) {
        uint32_t want = SG_SLOT_NONE;
        for (uint32_t i = 0; i < SG_HEAT_LOOK; i++)
            if (c.used[i] != 2 && (want == SG_SLOT_NONE || c.heat[i] < c.heat[want])) want = i;
        ck_assert_uint_eq(sg_neuron_cache_take(&c, 20 + n, 2, true), want);
        check(&c);
    }
    ck_assert_uint_eq(sg_neuron_cache_take(&c, 50, 2, true), SG_SLOT_NONE);
    drop(&c);
}
END_TEST

/* A half that is used in every run stays through a stream of others that are used once. */
START_TEST(hot_ones_stay) {
    enum { SLOTS = 64, HOT = 32, PLACES = 4000 };
    sg_neuron_cache c = make(SLOTS, PLACES);
    uint64_t seed = 3;
    uint32_t lost = 0;
    for (uint32_t run = 1; run < 400; run++) {
        sg_neuron_cache_begin(&c);
        for (uint32_t k = 0; k < 6 + HOT; k++) { /* the others first, while nothing is in use yet */
            const uint32_t place = k < 6 ? HOT + (uint32_t)(rnd(&seed) % (PLACES - HOT)) : k - 6, slot = sg_neuron_cache_find(&c, place);
            lost += k >= 6 && slot == SG_SLOT_NONE && run > 40;
            if (slot == SG_SLOT_NONE) must(sg_neuron_cache_take(&c, place, run, true) != SG_SLOT_NONE, "run %u: no slot", run);
            else sg_neuron_cache_use(&c, slot, run);
        }
        check(&c);
    }
    ck_assert_uint_le(lost, 60); /* of 11488 uses: 8 slots in a row may be hot once in a while */
    drop(&c);
}
END_TEST

/* The coldest of all, wherever the hand is; of equals the one used longest ago, then the first. */
START_TEST(exact_finds_the_coldest) {
    enum { SLOTS = 3 * SG_HEAT_LOOK };
    sg_neuron_cache c = make(SLOTS, 200);
    c.exact = true;
    fill(&c, 1);
    for (uint32_t i = 0; i < SLOTS; i++) {
        c.heat[i] = (uint8_t)(40 + i * 7 % 5); /* many equals */
        c.used[i] = 2 + i * 5 % 3; /* of which some are of one age */
    }
    for (uint32_t n = 0; n < SLOTS; n++) {
        uint32_t want = SG_SLOT_NONE;
        for (uint32_t i = 0; i < SLOTS; i++) {
            if (c.used[i] == 20) continue;
            if (want == SG_SLOT_NONE || c.heat[i] < c.heat[want] || (c.heat[i] == c.heat[want] && c.used[i] < c.used[want])) want = i;
        }
        must(sg_neuron_cache_take(&c, 100 + n, 20, true) == want, "not slot %u", want);
        check(&c);
    }
    ck_assert_uint_eq(c.heat[199], 0);
    ck_assert_uint_eq(sg_neuron_cache_take(&c, 199, 20, false), SG_SLOT_NONE);
    ck_assert_uint_eq(c.heat[199], 0);
    ck_assert_uint_eq(sg_neuron_cache_take(&c, 199, 20, true), SG_SLOT_NONE); /* used without a slot: warmer, too */
    ck_assert_uint_eq(c.heat[199], SG_HEAT_USE);
    ck_assert_uint_eq(c.hand, 0);
    drop(&c);
}
END_TEST

/* What must stay does, and an empty slot goes before a cold one. */
START_TEST(exact_keeps_what_must_stay) {
    sg_neuron_cache c = make(12, 100);
    c.exact = true;
    fill(&c, 1);
    for (uint32_t i = 0; i < 12; i++) c.heat[i] = (uint8_t)(i == 9 ? 255 : i);
    for (uint32_t i = 0; i < 12; i++)
        if (i != 9 && i != 4) c.flight[i] = 1;
    c.used[4] = 2;
    ck_assert_uint_eq(sg_neuron_cache_take(&c, 50, 2, true), 9);
    ck_assert_uint_eq(sg_neuron_cache_take(&c, 51, 2, true), SG_SLOT_NONE);
    c.flight[0] = 0;
    c.used[0] = 0; /* as cold and as long ago as can be */
    c.heat[0] = 0;
    sg_neuron_cache_forget(&c, 6);
    ck_assert_uint_eq(sg_neuron_cache_take(&c, 52, 2, true), 6);
    ck_assert_uint_eq(sg_neuron_cache_take(&c, 53, 2, true), 0);
    check(&c);
    drop(&c);
}
END_TEST

/* Whoever is needed least soon goes first, heat and age decide among equals; where nothing is known, they alone. */
START_TEST(needed_soon_stays) {
    enum { SLOTS = 12 };
    sg_neuron_cache c = make(SLOTS, 100);
    uint16_t soon[100] = { 0 };
    c.exact = true;
    fill(&c, 1);
    for (uint32_t i = 0; i < SLOTS; i++) {
        soon[i] = (uint16_t)(i * 7 % 5 == 4 ? 65535 : i * 7 % 5);
        c.heat[i] = (uint8_t)(255 - 20 * (i * 5 % 7)); /* the coldest is needed most */
    }
    c.soon = soon;
    for (uint32_t n = 0; n < SLOTS; n++) {
        uint32_t want = SG_SLOT_NONE;
        for (uint32_t i = 0; i < SLOTS; i++) {
            if (c.used[i] == 20) continue;
            if (want == SG_SLOT_NONE || soon[i] < soon[want] || (soon[i] == soon[want] && c.heat[i] < c.heat[want])) want = i;
        }
        ck_assert_uint_eq(sg_neuron_cache_coldest(&c, 20), want);
        ck_assert_uint_eq(sg_neuron_cache_take(&c, 50 + n, 20, true), want);
        check(&c);
    }
    c.soon = NULL;
    ck_assert_uint_eq(sg_neuron_cache_soon(&c, 3), 0);
    c.heat[53] = 0;
    ck_assert_uint_eq(sg_neuron_cache_coldest(&c, 21), c.slot_of[53]);
    drop(&c);
}
END_TEST

START_TEST(halved_when_the_owner_says) {
    sg_neuron_cache c = make(2, 4);
    c.halve_after = SG_HEAT_TOKENS_EXPERTS;
    c.heat[3] = 101;
    for (uint32_t n = 1; n < SG_HEAT_TOKENS_EXPERTS; n++) sg_neuron_cache_begin(&c);
    ck_assert_uint_eq(c.heat[3], 101);
    sg_neuron_cache_begin(&c);
    ck_assert_uint_eq(c.heat[3], 50);
    for (uint32_t n = 0; n < SG_HEAT_TOKENS_EXPERTS; n++) sg_neuron_cache_begin(&c);
    ck_assert_uint_eq(c.heat[3], 25);
    drop(&c);
}
END_TEST

START_TEST(heat_is_halved) {
    sg_neuron_cache c = make(4, 300);
    for (uint32_t i = 0; i < 4; i++) ck_assert_uint_eq(sg_neuron_cache_take(&c, i, 1, false), i);
    for (uint32_t n = 1; n < 40; n++) { /* it grows to the most that it can hold, and no further */
        sg_neuron_cache_use(&c, 2, n);
        ck_assert_uint_eq(c.heat[2], n * SG_HEAT_USE > 255 ? 255 : n * SG_HEAT_USE);
    }
    c.heat[299] = 101; /* also without a slot, and the last */
    for (uint32_t n = 1; n < SG_HEAT_TOKENS; n++) sg_neuron_cache_begin(&c);
    ck_assert_uint_eq(c.heat[2], 255);
    sg_neuron_cache_begin(&c);
    ck_assert_uint_eq(c.heat[2], 127);
    ck_assert_uint_eq(c.heat[299], 50);
    for (uint32_t n = 0; n < 8 * SG_HEAT_TOKENS; n++) sg_neuron_cache_begin(&c);
    ck_assert_uint_eq(c.heat[2], 0);
    drop(&c);
}
END_TEST

START_TEST(what_is_forgotten) {
    sg_neuron_cache c = make(9, 40);
    fill(&c, 1);
    c.heat[4] = 77;
    sg_neuron_cache_forget(&c, 4);
    ck_assert_uint_eq(sg_neuron_cache_find(&c, 4), SG_SLOT_NONE);
    ck_assert_uint_eq(c.heat[4], 77); /* what it was is still known */
    check(&c);
    sg_neuron_cache_forget(&c, 4); /* again: nothing happens */
    check(&c);
    ck_assert_uint_eq(sg_neuron_cache_take(&c, 4, 1, true), 4); /* the only one that may go */
    ck_assert_uint_eq(sg_neuron_cache_take(&c, 30, 1, true), SG_SLOT_NONE);
    check(&c);

    sg_neuron_cache_clear(&c);
    ck_assert_uint_eq(c.heat[4], 77 + SG_HEAT_USE);
    for (uint32_t place = 0; place < 40; place++) ck_assert_uint_eq(sg_neuron_cache_find(&c, place), SG_SLOT_NONE);
    check(&c);
    fill(&c, 1);
    drop(&c);
}
END_TEST

/* The replays of scripts/replay_cache.py do the same, use for use: tests/scripts/test_replay_cache.py has the same sets and sums. */
START_TEST(as_replayed) {
    static const struct {
        uint32_t n_slots;
        bool exact;
        uint32_t hits, sum;
    } cases[] = { { 20, false, 1589, 2970208076u }, { 20, true, 1615, 2617773166u }, { 3, false, 341, 3735969173u }, { 3, true, 341, 3189681766u } };
    sg_neuron_cache c = make(cases[_i].n_slots, 64);
    c.exact = cases[_i].exact;
    c.halve_after = c.exact ? SG_HEAT_TOKENS_EXPERTS : 0;
    uint64_t seed = 7;
    uint32_t hits = 0, sum = 0;
    for (uint32_t run = 1; run <= 500; run++) {
        bool set[64] = { false };
        sg_neuron_cache_begin(&c);
        for (uint32_t i = 0; i < 6; i++) { /* low ones more often; all shift with time */
            const uint64_t a = rnd(&seed) % 64, b = rnd(&seed) % 64;
            set[(a * b / 64 + run / 100 * 10) % 64] = true;
        }
        for (uint32_t place = 0; place < 64; place++) {
            const uint32_t slot = sg_neuron_cache_find(&c, place);
            if (!set[place] || slot == SG_SLOT_NONE) continue;
            sg_neuron_cache_use(&c, slot, run);
            set[place] = false;
            hits++;
        }
        for (uint32_t place = 0; place < 64; place++)
            if (set[place]) (void)sg_neuron_cache_take(&c, place, run, true);
        for (uint32_t place = 0; place < 64; place++) sum = sum * 31 + c.heat[place] + (sg_neuron_cache_find(&c, place) != SG_SLOT_NONE);
    }
    ck_assert_uint_eq(hits, cases[_i].hits);
    ck_assert_uint_eq(sum, cases[_i].sum);
    drop(&c);
}
END_TEST

START_TEST(no_slots) {
    sg_neuron_cache c = make(0, 40);
    sg_neuron_cache_begin(&c);
    ck_assert_uint_eq(sg_neuron_cache_take(&c, 3, 1, true), SG_SLOT_NONE);
    ck_assert_uint_eq(sg_neuron_cache_find(&c, 3), SG_SLOT_NONE);
    check(&c);
    drop(&c);
}
END_TEST

/* Takes a slot: it is refused only when none may go, what must stay stays, and no other slot changes. */
static uint32_t take(sg_neuron_cache *c, uint32_t place, uint32_t run, bool sure, bool *evicted) {
    uint32_t before[200];
    bool any = c->free_from < c->n_slots;
    for (uint32_t i = 0; i < c->n_slots; i++) any = any || (c->used[i] != run && c->flight[i] == 0);
    memcpy(before, c->place_of, c->n_slots * sizeof *before);
    const bool fresh = c->free_from < c->n_slots;
    uint32_t busy[200];
    for (uint32_t i = 0; i < c->n_slots; i++) busy[i] = c->used[i] == run || c->flight[i] != 0;
    const uint32_t slot = sg_neuron_cache_take(c, place, run, sure);
    must((slot != SG_SLOT_NONE) == any, "a slot was there: %d, was given: %d", any, !any);
    for (uint32_t i = 0; i < c->n_slots; i++) must(i == slot || c->place_of[i] == before[i], "slot %u changed", i);
    *evicted = false;
    if (slot == SG_SLOT_NONE) return slot;
    must(fresh || !busy[slot], "slot %u had to stay", slot);
    must(c->place_of[slot] == place && c->used[slot] == run, "slot %u is not what was asked for", slot);
    *evicted = before[slot] != SG_SLOT_NONE;
    return slot;
}

START_TEST(random_operations) {
    static const uint32_t shapes[][2] = { { 1, 5 }, { 7, 7 }, { 8, 64 }, { 40, 200 }, { 40, 41 }, { 200, 100 } };
    const uint32_t n_slots = shapes[_i / 2][0], n_places = shapes[_i / 2][1];
    sg_neuron_cache c = make(n_slots, n_places);
    c.exact = _i % 2;
    if (c.exact) c.halve_after = SG_HEAT_TOKENS_EXPERTS;
    uint64_t seed = 42 + (uint64_t)_i;
    uint32_t run = 1, refused = 0, evictions = 0;
    for (int step = 0; step < 40000; step++) {
        const uint32_t what = (uint32_t)(rnd(&seed) % 100), place = (uint32_t)(rnd(&seed) % n_places), slot = sg_neuron_cache_find(&c, place);
        const uint32_t other = (uint32_t)(rnd(&seed) % n_slots);
        bool evicted;
        if (what == 0) {
            run++;
            sg_neuron_cache_begin(&c);
        } else if (what < 5) { /* reads end, well or not */
            if (what == 1 && c.flight[other] != 0) sg_neuron_cache_forget(&c, other);
            else c.flight[other] = 0;
        } else if (what == 5 && step % 50 == 0) {
            sg_neuron_cache_clear(&c);
        } else if (slot != SG_SLOT_NONE) {
            sg_neuron_cache_use(&c, slot, run);
        } else {
            const uint32_t got = take(&c, place, run, what % 2, &evicted);
            refused += got == SG_SLOT_NONE;
            evictions += evicted;
            if (got != SG_SLOT_NONE && what < 30) c.flight[got] = (uint16_t)(1 + what);
        }
        check(&c);
    }
    if (n_slots < n_places) ck_assert(refused > 100 && evictions > 100); /* else it showed nothing */
    drop(&c);
}
END_TEST

/* Reading ahead rests after a trial in which too little came true, and only then. */
START_TEST(trials_of_reading_ahead) {
    sg_ffn_home none = { 0 };
    sg_ffn_store s = { .homes = &none };
    sg_ffn_store_begin(&s, true);
    ck_assert(!s.ahead.rests);
    for (int i = 0; i < 3 * (int)SG_AHEAD_TRIAL; i++) { /* nothing was predicted: no reason to rest */
        sg_ffn_store_begin(&s, true);
        ck_assert(!s.ahead.rests);
    }
    unsigned rested = 0, tried = 0;
    for (unsigned i = 0; i < 2 * (SG_AHEAD_TRIAL + SG_AHEAD_REST); i++) {
        if (!s.ahead.rests) {
            s.finds.predicted += 10;
            s.finds.ahead += 4;
            s.finds.late += 2;
        }
        sg_ffn_store_begin(&s, true);
        *(s.ahead.rests ? &rested : &tried) += 1;
    }
    ck_assert_uint_eq(tried, 2 * SG_AHEAD_TRIAL);
    ck_assert_uint_eq(rested, 2 * SG_AHEAD_REST);
    const unsigned before = s.run;
    while (s.ahead.rests) sg_ffn_store_begin(&s, true);
    ck_assert_uint_le(s.run - before, SG_AHEAD_REST);
    for (unsigned i = 0; i < 4 * SG_AHEAD_TRIAL; i++) { /* 7 of 10 */
        s.finds.predicted += 10;
        s.finds.ahead += 7;
        sg_ffn_store_begin(&s, true);
        ck_assert(!s.ahead.rests);
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("neuron_cache");
    TCase *tc = tcase_create("slots");
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, in_use_never_goes);
    tcase_add_test(tc, trials_of_reading_ahead);
    tcase_add_test(tc, expected_stays_for_its_run);
    tcase_add_test(tc, in_flight_never_goes);
    tcase_add_test(tc, cold_ones_go_first);
    tcase_add_test(tc, hot_ones_stay);
    tcase_add_test(tc, exact_finds_the_coldest);
    tcase_add_test(tc, exact_keeps_what_must_stay);
    tcase_add_test(tc, needed_soon_stays);
    tcase_add_test(tc, halved_when_the_owner_says);
    tcase_add_test(tc, heat_is_halved);
    tcase_add_test(tc, what_is_forgotten);
    tcase_add_loop_test(tc, as_replayed, 0, 4);
    tcase_add_test(tc, no_slots);
    tcase_add_loop_test(tc, random_operations, 0, 12);
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    const int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
