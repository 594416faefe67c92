/* Which experts are read before their layer asks for them, and whether that pays. What is read then, and when, is in test_expert_store.c and
 * test_expert_reads.c. */
#include "tests/unit/expert_fixture.h"

static void open_with(shelf *h, uint32_t n_reads) {
    const sg_stream_options o = { .engine = SG_IO_PREAD };
    shelf_open(h, &o, n_reads, 1);
}

/* ---- trust ---- */

/* What was expected wrongly is not trusted any more, until a probe finds that it comes true again; nor is anything where all is in slots. */
START_TEST(trust) {
    shelf *h = shelf_create();
    const size_t bytes[] = { 100, 100, 100 };
    static const uint32_t one[] = { 1 }, two[] = { 2 };
    shelf_layer(h, 4, 0, bytes, 0, false);
    shelf_layer(h, 4, 1, bytes, 0, false);
    open_with(h, 2);
    sg_expert_home *e = &h->home[0];
    sg_expert_begin(&h->s, false);
    ck_assert(sg_expert_looks_ahead(&h->s, e, 1));
    uint32_t runs = 0;
    for (; sg_expert_looks_ahead(&h->s, e, 1) && runs < 200; runs++) {
        sg_expert_expect(&h->s, e, 1, one, 1);
        shelf_run(h, 0, two, 1, NULL, 1);
        sg_expert_begin(&h->s, false);
    }
    ck_assert(runs >= 5 && runs <= 8);
    ck_assert_uint_eq(e->finds.right, 0);
    for (uint32_t k = 0; k < SG_EXPERT_PROBE && !sg_expert_looks_ahead(&h->s, e, 1); k++) sg_expert_begin(&h->s, false);
    ck_assert_uint_eq(h->s.run % SG_EXPERT_PROBE, 0);
    ck_assert(sg_expert_looks_ahead(&h->s, e, 1));
    for (runs = 0; runs < 100; runs++) {
        sg_expert_expect(&h->s, e, 1, two, 1);
        shelf_run(h, 0, two, 1, NULL, 1);
        sg_expert_begin(&h->s, false);
    }
    ck_assert(sg_expert_looks_ahead(&h->s, e, 1));
    ck_assert_uint_eq(e->finds.right, 100);
    h->s.no_ahead = true;
    ck_assert(!sg_expert_looks_ahead(&h->s, e, 1));
    h->s.no_ahead = false;
    ck_assert(sg_expert_looks_ahead(&h->s, e, 1));
    e->apart = true; /* batches only */
    ck_assert(!sg_expert_looks_ahead(&h->s, e, 1));
    sg_expert_begin(&h->s, true);
    ck_assert(sg_expert_looks_ahead(&h->s, e, 1));
    e->apart = false;
    sg_expert_begin(&h->s, false);
    sg_expert_home *kept = &h->home[1];
    for (runs = 0; sg_expert_looks_ahead(&h->s, kept, 1) && runs < 200; runs++) {
        shelf_run(h, 1, two, 1, NULL, 1);
        sg_expert_begin(&h->s, false);
    }
    ck_assert(runs > 10 && runs < 100);
    shelf_close(h);
}
END_TEST

/* Who is asked later, and is more right, is listened to; who is asked earlier where he is nearly as right. */
START_TEST(earlier_or_later) {
    static const uint32_t one[] = { 1 }, two[] = { 2 };
    for (int near_right = 0; near_right < 2; near_right++)
        for (int far_right = 0; far_right < 2; far_right++) {
            shelf *h = shelf_create();
            const size_t bytes[] = { 100, 100, 100 };
            shelf_layer(h, 4, 0, bytes, 0, false);
            open_with(h, 2);
            sg_expert_home *e = &h->home[0];
            for (uint32_t run = 1; run < SG_EXPERT_PROBE - 1; run++) {
                sg_expert_begin(&h->s, true);
                const bool asks = sg_expert_looks_ahead(&h->s, e, 2);
                /* every fourth time those that are right are not: 0.75 is not nearly 1 */
                if (asks) sg_expert_expect(&h->s, e, 2, far_right && run % 4 > 0 ? two : one, 1);
                const bool early = e->n_named > 0;
                e->n_named = e->named_at = 0;
                if (sg_expert_looks_ahead(&h->s, e, 1)) sg_expert_expect(&h->s, e, 1, near_right ? two : one, 1);
                const bool late = e->n_named > 0;
                if (run > SG_EXPERT_PROBE / 2) {
                    ck_assert_int_eq(asks, far_right && !near_right);
                    ck_assert_int_eq(early, far_right && !near_right);
                    ck_assert_int_eq(late, near_right);
                }
                shelf_run(h, 0, two, 1, NULL, 1);
            }
            h->s.run = SG_EXPERT_PROBE - 1; /* a probe asks everybody, and reads nothing of those who are not believed */
            sg_expert_begin(&h->s, true);
            ck_assert(sg_expert_looks_ahead(&h->s, e, 1) && sg_expert_looks_ahead(&h->s, e, 2));
            sg_expert_expect(&h->s, e, 2, one, 1);
            ck_assert_int_eq(e->n_named > 0, far_right && !near_right);
            ck_assert_uint_eq(e->finds.right, near_right ? e->finds.guessed : 0); /* of the nearest alone */
            shelf_close(h);
        }
}
END_TEST

/* ---- whether it pays ---- */

static shelf *open_for_trial(void) {
    shelf *h = shelf_create();
    const size_t bytes[] = { 100, 100, 100 };
    shelf_layer(h, 8, 0, bytes, 0, false);
    open_with(h, 2);
    h->s.always_ahead = false;
    return h;
}

/* A single token, which takes so long with look-ahead and without it: whether it had it. */
static bool token(shelf *h, double with, double without) {
    sg_expert_begin(&h->s, true);
    const bool ahead = h->s.ahead.on;
    ck_assert_int_eq(sg_expert_looks_ahead(&h->s, &h->home[0], 1), ahead || h->s.ahead.phase == SG_EXPERT_LOOK);
    sg_expert_time(&h->s, ahead ? with : without);
    return ahead;
}

static uint32_t tokens(shelf *h, uint32_t n, double with, double without) {
    uint32_t ahead = 0;
    for (uint32_t i = 0; i < n; i++) ahead += token(h, with, without);
    return ahead;
}

/* Tokens that need three experts, of which `right` are named, and so many others; the drive is busy for this share of their time. Nothing is read ahead. */
static void look(shelf *h, double share, uint32_t right, uint32_t wrong) {
    static const uint32_t need[] = { 1, 2, 3 }, named[] = { 1, 2, 3 }, other[] = { 4, 5, 6, 7 };
    sg_expert_home *e = &h->home[0];
    const uint64_t before = e->finds.expected;
    for (uint32_t i = 0; i < SG_EXPERT_LOOK_TOKENS; i++) {
        uint32_t list[8], n = 0;
        for (uint32_t k = 0; k < right; k++) list[n++] = named[k];
        for (uint32_t k = 0; k < wrong; k++) list[n++] = other[k];
        sg_expert_begin(&h->s, true);
        ck_assert_int_eq(h->s.ahead.phase, SG_EXPERT_LOOK);
        if (sg_expert_looks_ahead(&h->s, e, 1)) sg_expert_expect(&h->s, e, 1, list, n);
        shelf_run(h, 0, need, 3, NULL, 1);
        if (i + 1 == SG_EXPERT_LOOK_TOKENS) h->s.ahead.busy = share * SG_EXPERT_LOOK_TOKENS;
        sg_expert_time(&h->s, 1e9); /* real reads are nothing compared with that */
    }
    ck_assert_uint_eq(e->finds.expected, before);
}

static void look_and_begin(shelf *h) {
    look(h, 0.5, 3, 0);
    h->s.ahead.usual = 0; /* of seconds that were no real ones */
    ck_assert_int_eq(h->s.ahead.phase, SG_EXPERT_TRIAL);
}

/* Where the drive would have no time for what is read in vain, or nothing comes true, tokens go without; the former is tried all the same after a while. */
START_TEST(nothing_to_gain) {
    const struct {
        double share;
        uint32_t right, wrong;
        bool hopeless;
    } cases[] = { { 0.89, 3, 0, false }, { 0.91, 3, 0, true },
                  { 0.66, 3, 1, false }, { 0.69, 3, 1, true }, /* a third more to read */
                  { 0.52, 3, 2, false }, { 0.56, 3, 2, true }, { 0, 0, 3, true }, { 0, 1, 4, true }, { 0, 0, 0, true } };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        shelf *h = open_for_trial();
        look(h, cases[k].share, cases[k].right, cases[k].wrong);
        if (cases[k].hopeless) {
            for (uint32_t i = 0; i < SG_EXPERT_HOPELESS; i++) {
                ck_assert(!token(h, 1, 1));
                if (i % 50 > 0) continue;
                h->home[0].misses = 1;
                sg_expert_begin(&h->s, false); /* batches look ahead as before */
                ck_assert_int_eq(sg_expert_looks_ahead(&h->s, &h->home[0], 1), cases[k].right == 3 || cases[k].wrong == 0 || h->s.run % SG_EXPERT_PROBE == 0);
            }
            if (cases[k].right == 3) {
                ck_assert(token(h, 1, 1) && !token(h, 1, 1));
            } else { /* what was wrong at the first look does not count any more */
                h->home[0].namer[1].trust = 1;
                look(h, 0.6, 3, 0);
                ck_assert_int_eq(h->s.ahead.phase, SG_EXPERT_TRIAL);
            }
        } else {
            ck_assert_int_eq(h->s.ahead.phase, SG_EXPERT_TRIAL);
            ck_assert(token(h, 1, 1) && !token(h, 1, 1));
        }
        shelf_close(h);
    }
}
END_TEST

/* The share of the time that reads are under way is that of the stream. */
START_TEST(busy_drive) {
    for (int busy = 0; busy < 2; busy++) {
        shelf *h = open_for_trial();
        static const uint32_t need[] = { 1, 2, 3 };
        double seconds = 0, sum = 0;
        for (uint32_t i = 0; i < SG_EXPERT_LOOK_TOKENS; i++) {
            sg_expert_begin(&h->s, false); /* what others read between tokens does not count */
            shelf_run(h, 0, need, 3, NULL, 1);
            sg_stream_drain(h->stream);
            const double before = sg_stream_get_counts(h->stream).busy, began = sg_trace_now();
            sg_expert_begin(&h->s, true);
            sg_expert_expect(&h->s, &h->home[0], 1, need, 3);
            shelf_run(h, 0, need, 3, NULL, 1);
            sg_stream_drain(h->stream);
            const double all = sg_trace_now() - began, share = sg_stream_get_counts(h->stream).busy - before;
            ck_assert(share > 0 && share <= all);
            seconds += share;
            sg_expert_time(&h->s, busy ? 1e-12 : 2 * all);
            if (i + 1 == SG_EXPERT_LOOK_TOKENS) break;
            sum += busy ? 1 : share / (2 * all);
            ck_assert(h->s.ahead.busy > sum - 1e-9 && h->s.ahead.busy < sum + 1e-9);
        }
        ck_assert(seconds > 0);
        sg_stream_drain(h->stream); /* nothing is under way, and no time passes */
        ck_assert(sg_stream_get_counts(h->stream).busy == sg_stream_get_counts(h->stream).busy);
        ck_assert_int_eq(h->s.ahead.phase, busy ? SG_EXPERT_REST : SG_EXPERT_TRIAL);
        shelf_close(h);
    }
}
END_TEST

#define ROUND 4

/* Single tokens go with and without it in turns, half of each; from then on as it was faster, for longer when that is said again. Where it was slower,
 * there is another look first. */
START_TEST(trial) {
    for (int faster = 0; faster < 2; faster++) {
        shelf *h = open_for_trial();
        const double with = faster ? 2 : 3, without = faster ? 3 : 2;
        uint32_t rest = SG_EXPERT_REST_TOKENS;
        for (int trials = 0; trials < 6; trials++) {
            if (trials == 0 || !faster) look_and_begin(h);
            for (uint32_t i = 0; i < SG_EXPERT_ROUNDS * ROUND; i++) ck_assert_int_eq(token(h, with, without), i % 4 % 3 == 0);
            for (uint32_t i = 0; i < rest; i++) {
                ck_assert_int_eq(token(h, with, without), faster);
                if (i % 5 > 0) continue;
                sg_expert_begin(&h->s, false); /* batches in between change nothing, and look ahead always */
                ck_assert(sg_expert_looks_ahead(&h->s, &h->home[0], 1));
            }
            if (rest < SG_EXPERT_MOST_REST) rest *= 2;
        }
        ck_assert_uint_eq(rest, SG_EXPERT_MOST_REST);
        /* now it is the other way round */
        for (int trials = 0; trials < 2; trials++) {
            if (trials == 0 ? !faster : faster) look_and_begin(h);
            ck_assert_uint_eq(tokens(h, SG_EXPERT_ROUNDS * ROUND, without, with), SG_EXPERT_ROUNDS * ROUND / 2);
            ck_assert_uint_eq(tokens(h, SG_EXPERT_REST_TOKENS * (1 + trials), without, with), faster ? 0 : SG_EXPERT_REST_TOKENS * (1 + trials));
        }
        shelf_close(h);
    }
}
END_TEST

/* What is not clear is tried for longer, and again as soon as before. */
START_TEST(trial_of_what_is_not_clear) {
    shelf *h = open_for_trial();
    const uint32_t n = SG_EXPERT_MOST_ROUNDS * ROUND;
    uint32_t ahead = 0;
    look_and_begin(h);
    for (uint32_t i = 0; i < n; i++) ahead += token(h, 1000 + i, 1000 + i); /* what grows with time favours neither */
    ck_assert_uint_eq(ahead, n / 2);
    ck_assert_uint_eq(tokens(h, SG_EXPERT_REST_TOKENS, 1000, 1000), SG_EXPERT_REST_TOKENS);
    for (int worse = 1; worse >= 0; worse--)
        for (int again = 0; again < 3; again++) {
            if (h->s.ahead.at == h->s.ahead.rest && !h->s.ahead.better) look_and_begin(h);
            for (uint32_t i = ahead = 0; i < n; i++) ahead += token(h, (i / ROUND % 2 ? 900 : 1100) + (worse ? 5 : -5), 1000); /* its standard error is 18 */
            ck_assert_uint_eq(ahead, n / 2);
            ck_assert_uint_eq(tokens(h, SG_EXPERT_REST_TOKENS, 1000, 1000), worse ? 0 : SG_EXPERT_REST_TOKENS);
        }
    shelf_close(h);
}
END_TEST

/* A token that took a thousand times as long as others says little. */
START_TEST(trial_with_stalls) {
    shelf *h = open_for_trial();
    look_and_begin(h);
    uint32_t n = 0;
    for (; h->s.ahead.phase == SG_EXPERT_TRIAL; n++) (void)token(h, n % 16 == 3 ? 3000 : 2, 3.5);
    ck_assert_uint_le(n, SG_EXPERT_MOST_ROUNDS * ROUND);
    ck_assert_uint_eq(tokens(h, SG_EXPERT_REST_TOKENS, 2, 3.5), SG_EXPERT_REST_TOKENS);
    shelf_close(h);
}
END_TEST

/* The pre-gate is believed by layer as it proves, of what is not in slots; look-ahead is not asked where it is nearly as good, but for a probe, and reads
 * alone where it is not. */
START_TEST(trust_of_the_pregate) {
    shelf *h = shelf_create();
    const size_t bytes[] = { 100, 100, 100 };
    static const uint32_t one[] = { 1 }, two[] = { 2 }, both[] = { 1, 2 };
    shelf_layer(h, 4, 0, bytes, 0, false);
    shelf_layer(h, 4, 0, bytes, 0, false);
    open_with(h, 4);
    sg_expert_store *s = &h->s;
    sg_expert_home *bad = &h->home[0], *half = &h->home[1];
    sg_expert_namer *worst = &bad->namer[SG_EXPERT_PREGATE], *far = &half->namer[SG_EXPERT_PREGATE], *near = &half->namer[1];
    const uint32_t runs = 63;
    uint32_t believed = 0;
    for (uint32_t run = 1; run <= runs; run++) {
        sg_expert_begin(s, true);
        const bool probe = s->run % SG_EXPERT_PROBE == 0, was = worst->trust > SG_EXPERT_TRUE;
        ck_assert_int_eq(sg_expert_looks_ahead(s, half, 1), near->trust > SG_EXPERT_TRUE || probe); /* nothing was said yet */
        believed += was;
        ck_assert_int_eq(sg_expert_foresees(s, bad), was || probe);
        sg_expert_foresee(bad, one, 1, one, 1);
        ck_assert_uint_eq(bad->n_named, was); /* a probe reads nothing */
        const bool leads = near->judged == 0 || far->trust >= 0.95f * near->trust, asks = sg_expert_foresees(s, half);
        ck_assert_int_eq(asks, leads || probe);
        sg_expert_foresee(half, both, 2, both, 2);
        ck_assert_uint_eq(half->n_named, leads ? 2 : 0);
        if (far->trust >= 0.95f * near->trust) ck_assert_int_eq(sg_expert_looks_ahead(s, half, 1), probe);
        if (sg_expert_looks_ahead(s, half, 1)) sg_expert_expect(s, half, 1, one, 1);
        sg_expert_judge_foreseen(s, bad, two, 1);
        shelf_run(h, 0, two, 1, NULL, 1);
        sg_expert_judge_foreseen(s, half, two, 1);
        shelf_run(h, 1, two, 1, NULL, 1);
        ck_assert_int_eq(sg_expert_weighs(s, half, false), true);
        ck_assert_int_eq(sg_expert_weighs(s, bad, false), worst->trust > SG_EXPERT_TRUE);
        ck_assert_int_eq(sg_expert_weighs(s, bad, true), worst->trust > SG_EXPERT_TRUE || probe);
        sg_expert_weighed(s, bad);
        sg_expert_weighed(s, half);
        ck_assert(half->cache.soon == half->soon && bad->cache.soon == (worst->trust > SG_EXPERT_TRUE ? bad->soon : NULL));
    }
    ck_assert(believed > 3 && believed < 10);
    ck_assert(worst->trust < SG_EXPERT_TRUE && far->trust > SG_EXPERT_TRUE && far->trust < 0.7f);
    ck_assert_uint_eq(bad->finds.foreseen, runs);
    ck_assert_uint_eq(bad->finds.came, 0);
    ck_assert_uint_eq(half->finds.foreseen, 2 * runs);
    ck_assert_uint_eq(half->finds.came, runs);
    ck_assert(half->finds.guessed > 3 && half->finds.right == 0); /* it was asked, and is worse */
    ck_assert(near->trust < far->trust);
    near->trust = 0; /* even so: a probe */
    for (uint32_t k = 0; k < SG_EXPERT_PROBE + 3; k++) {
        sg_expert_begin(s, true);
        sg_expert_foresee(half, both, 2, both, 2);
        ck_assert_int_eq(sg_expert_looks_ahead(s, half, 1), s->run % SG_EXPERT_PROBE == 0);
    }
    near->trust = 1; /* it is better */
    sg_expert_begin(s, true);
    ck_assert(!sg_expert_foresees(s, half));
    sg_expert_foresee(half, both, 2, both, 2); /* since other layers are asked about */
    ck_assert_uint_eq(half->n_named, 0);
    ck_assert(sg_expert_looks_ahead(s, half, 1));
    near->trust = 0;
    sg_expert_begin(s, false); /* in batches it names for the first token only */
    sg_expert_foresee(half, both, 2, both, 0);
    near->trust = 0.41f;
    ck_assert(sg_expert_looks_ahead(s, half, 1));
    sg_expert_begin(s, true);
    s->no_ahead = true; /* reads nothing, and counts all the same */
    ck_assert(!sg_expert_foresees(s, half));
    ck_assert(sg_expert_weighs(s, half, false));
    s->no_cache = true;
    ck_assert(!sg_expert_weighs(s, half, false));
    shelf_close(h);
}
END_TEST

int main(void) {
    Suite *s = suite_create("expert_ahead");
    TCase *t = tcase_create("ahead");
    tcase_set_timeout(t, 0);
    tcase_add_test(t, trust);
    tcase_add_test(t, earlier_or_later);
    tcase_add_test(t, trust_of_the_pregate);
    tcase_add_test(t, nothing_to_gain);
    tcase_add_test(t, busy_drive);
    tcase_add_test(t, trial);
    tcase_add_test(t, trial_of_what_is_not_clear);
    tcase_add_test(t, trial_with_stalls);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK); /* OpenMP teams do not survive a fork */
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
