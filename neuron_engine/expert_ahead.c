/* Experts that will probably be needed. */
#include <string.h>

#include "neuron_engine/expert_store_private.h"

/* How fast home->trust and far_trust follow. */
#define TRUST_KEEP 0.96875f

/* What a token's time counts for at most, in usual ones: the machine may have done something else. */
#define STALL 4
#define USUAL_KEEP 0.9375

/* ---- the trial ---- */

void sg_expert_judge_ahead(sg_expert_store *s) {
    if (s->ahead.at == s->ahead.rest && !s->ahead.trial) {
        s->ahead.trial = true;
        s->ahead.at = s->ahead.rounds = 0;
        s->ahead.saved = s->ahead.squares = s->ahead.seconds[0] = s->ahead.seconds[1] = 0;
    }
    /* to and fro, so that a cache that fills, or a text that changes, favours neither */
    if (s->ahead.trial) s->ahead.on = s->ahead.at / SG_EXPERT_TURN % 4 == 0 || s->ahead.at / SG_EXPERT_TURN % 4 == 3;
    s->ahead.at++;
}

/* Whether the rounds so far differ by more than chance would have it: the mean against the standard error of the mean. */
static bool is_clear(const sg_expert_store *s) {
    const double n = s->ahead.rounds, mean = s->ahead.saved / n, spread = s->ahead.squares - n * mean * mean;
    return mean * mean * n * (n - 1) > SG_EXPERT_CLEAR * SG_EXPERT_CLEAR * spread;
}

static void end_round(sg_expert_store *s) {
    const double *t = s->ahead.seconds, both = t[0] + t[1], saved = both > 0 ? (t[0] - t[1]) / both : 0;
    s->ahead.rounds++;
    s->ahead.saved += saved;
    s->ahead.squares += saved * saved;
    s->ahead.seconds[0] = s->ahead.seconds[1] = 0;
    if (s->ahead.rounds < SG_EXPERT_ROUNDS) return;
    const bool clear = is_clear(s), better = s->ahead.saved >= 0, again = clear && better == s->ahead.better && s->ahead.rest >= SG_EXPERT_REST;
    if (!clear && s->ahead.rounds < SG_EXPERT_MOST_ROUNDS) return;
    s->ahead.trial = false;
    s->ahead.on = s->ahead.better = better;
    s->ahead.at = 0;
    s->ahead.rest = !again ? SG_EXPERT_REST : s->ahead.rest < SG_EXPERT_MOST_REST ? 2 * s->ahead.rest : s->ahead.rest;
}

void sg_expert_time(sg_expert_store *s, double seconds) {
    const double usual = s->ahead.usual > 0 ? s->ahead.usual : seconds, counts = seconds < STALL * usual ? seconds : STALL * usual;
    s->ahead.usual = USUAL_KEEP * usual + (1 - USUAL_KEEP) * counts;
    if (!s->ahead.trial) return;
    s->ahead.seconds[s->ahead.on] += counts;
    if (s->ahead.at % (4 * SG_EXPERT_TURN) == 0) end_round(s);
}

/* ---- look-ahead ---- */

static void follow(float *trust, uint32_t named, uint32_t right) {
    for (uint32_t i = 0; i < named; i++) *trust = *trust * TRUST_KEEP + (i < right ? 1 - TRUST_KEEP : 0);
}

/* How many of the experts that were named and not in slots are needed. */
void sg_expert_judge_guess(sg_expert_store *s, const uint32_t *hit, uint32_t n) {
    sg_expert_home *h = s->home;
    uint32_t named = 0, right = 0;
    if (h->guessed != s->run) return;
    for (uint32_t e = 0; e < h->n_expert; e++) {
        h->finds.guessed += h->guess[e];
        named += h->guess[e] && sg_neuron_cache_find(&h->cache, e) == SG_SLOT_NONE;
    }
    for (uint32_t i = 0; i < n; i++) {
        h->finds.right += h->guess[hit[i]];
        right += h->guess[hit[i]] && sg_neuron_cache_find(&h->cache, hit[i]) == SG_SLOT_NONE;
    }
    follow(&h->trust, named, right);
}

/* Whether to read what is named for a layer by somebody who is trusted so far. */
static bool reads_ahead(const sg_expert_store *s, const sg_expert_home *h, float trust) {
    const bool trusted = trust > SG_EXPERT_TRUE || s->run % SG_EXPERT_PROBE == 0;
    return !s->no_ahead && (s->single ? s->ahead.on : !h->apart) && h->misses > SG_EXPERT_FEW && trusted;
}

bool sg_expert_looks_ahead(const sg_expert_store *s, const sg_expert_home *h) { return reads_ahead(s, h, h->trust); }

void sg_expert_forget_named(sg_expert_store *s, const sg_expert_home *upto) {
    for (sg_expert_home *h = s->homes; h < s->homes + s->n_homes && (!upto || h <= upto); h++) h->n_named = h->named_at = 0;
}

/* The nearest layer of which something was named and not yet looked at; NULL: there is none. */
static sg_expert_home *nearest(const sg_expert_store *s) {
    for (sg_expert_home *h = s->home ? s->home : s->homes; h < s->homes + s->n_homes; h++)
        if (h->named_at < h->n_named) return h;
    return NULL;
}

bool sg_expert_idle(const sg_expert_store *s) { return s->started == s->n && !nearest(s); }

void sg_expert_start_named(sg_expert_store *s) {
    sg_expert_home *h;
    while (s->started == s->n && (h = nearest(s))) {
        const uint32_t expert = h->named[h->named_at];
        if (sg_neuron_cache_find(&h->cache, expert) == SG_SLOT_NONE && !sg_expert_find(s, h, expert)) {
            sg_expert_read *r = sg_expert_free_area(s, h);
            if (!r) r = sg_expert_displace(s, h);
            if (!r) return;
            sg_expert_start(s, r, h, expert, true);
            h->finds.expected++;
        }
        h->named_at++;
    }
}

static void set_named(sg_expert_home *h, const uint32_t *named, uint32_t n) {
    if (n > 0) memcpy(h->named, named, n * sizeof *named);
    h->n_named = n;
    h->named_at = 0;
}

void sg_expert_expect(sg_expert_store *s, sg_expert_home *h, const uint32_t *named, uint32_t n) {
    memset(h->guess, 0, h->n_expert);
    h->guessed = s->run;
    for (uint32_t i = 0; i < n; i++) h->guess[named[i]] = 1;
    set_named(h, named, n);
    sg_expert_start_named(s);
}

/* ---- the pre-gate ---- */

bool sg_expert_foresees(const sg_expert_store *s, const sg_expert_home *h) { return reads_ahead(s, h, h->far_trust); }

void sg_expert_foresee(sg_expert_home *h, const uint32_t *first, uint32_t n_first, const uint32_t *named, uint32_t n) {
    memset(h->foreseen, 0, h->n_expert);
    h->foresaw = h->store->run;
    for (uint32_t i = 0; i < n_first; i++) h->foreseen[first[i]] = 1;
    set_named(h, named, n);
}

void sg_expert_judge_foreseen(const sg_expert_store *s, sg_expert_home *h, const uint32_t *used, uint32_t n) {
    uint32_t named = 0, right = 0;
    if (h->foresaw != s->run) return;
    for (uint32_t e = 0; e < h->n_expert; e++) {
        h->finds.foreseen += h->foreseen[e];
        named += h->foreseen[e] && sg_neuron_cache_find(&h->cache, e) == SG_SLOT_NONE;
    }
    for (uint32_t i = 0; i < n; i++) {
        h->finds.came += h->foreseen[used[i]];
        right += h->foreseen[used[i]] && sg_neuron_cache_find(&h->cache, used[i]) == SG_SLOT_NONE;
    }
    follow(&h->far_trust, named, right);
}

bool sg_expert_is_foreseen(const sg_expert_store *s, const sg_expert_home *h) {
    return s->single && h->foresaw == s->run && h->far_trust >= h->trust && s->run % SG_EXPERT_PROBE != 0;
}

bool sg_expert_weighs(const sg_expert_store *s, const sg_expert_home *h, bool probing) {
    return !s->no_cache && h->misses > SG_EXPERT_FEW && (h->far_trust > SG_EXPERT_TRUE || (probing && s->run % SG_EXPERT_PROBE == 0));
}

void sg_expert_weighed(const sg_expert_store *s, sg_expert_home *h) {
    if (sg_expert_weighs(s, h, false)) h->cache.soon = h->soon;
}
