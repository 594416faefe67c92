/* Experts that will probably be needed. */
#include <string.h>

#include "neuron_engine/expert_store_private.h"

/* How fast home->trust follows. */
#define TRUST_KEEP 0.96875f

/* With and without look-ahead in turns for some tokens, then as it was faster. The turns go to and fro, so that a cache that fills, or a text that
 * changes, favours neither. */
void sg_expert_judge_ahead(sg_expert_store *s) {
    const uint32_t at = s->ahead.tokens++ % SG_EXPERT_PERIOD, in_trial = at - SG_EXPERT_FIRST;
    if (s->ahead.tokens == 1) s->ahead.on = true;
    if (at == SG_EXPERT_FIRST) memset(s->ahead.seconds, 0, sizeof s->ahead.seconds);
    s->ahead.trial = at >= SG_EXPERT_FIRST && in_trial < SG_EXPERT_TRIAL;
    if (s->ahead.trial) s->ahead.on = in_trial / SG_EXPERT_TURN % 4 == 0 || in_trial / SG_EXPERT_TURN % 4 == 3;
    else if (in_trial == SG_EXPERT_TRIAL) s->ahead.on = s->ahead.seconds[1] <= s->ahead.seconds[0];
}

void sg_expert_time(sg_expert_store *s, double seconds) {
    if (s->ahead.trial) s->ahead.seconds[s->ahead.on] += seconds;
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
    for (uint32_t i = 0; i < named; i++) h->trust = h->trust * TRUST_KEEP + (i < right ? 1 - TRUST_KEEP : 0);
}

bool sg_expert_looks_ahead(const sg_expert_store *s, const sg_expert_home *h) {
    const bool trusted = h->trust > SG_EXPERT_TRUE || s->run % SG_EXPERT_PROBE == 0;
    return !s->no_ahead && (s->single ? s->ahead.on : !h->apart) && h->misses > SG_EXPERT_FEW && trusted;
}

void sg_expert_forget_named(sg_expert_store *s, const sg_expert_home *upto) {
    for (uint32_t i = 0; i < SG_EXPERT_DEPTH; i++)
        if (!upto || s->named[i].home <= upto) s->named[i].home = NULL;
}

/* Of what was named and not yet looked at, the list of the nearest layer; SG_EXPERT_DEPTH: there is none. */
static uint32_t nearest(const sg_expert_store *s) {
    uint32_t best = SG_EXPERT_DEPTH;
    for (uint32_t i = 0; i < SG_EXPERT_DEPTH; i++) {
        const sg_expert_named *n = &s->named[i];
        if (n->home && n->at < n->n && (best == SG_EXPERT_DEPTH || n->home < s->named[best].home)) best = i;
    }
    return best;
}

bool sg_expert_idle(const sg_expert_store *s) { return s->started == s->n && nearest(s) == SG_EXPERT_DEPTH; }

void sg_expert_start_named(sg_expert_store *s) {
    uint32_t list;
    while (s->started == s->n && (list = nearest(s)) < SG_EXPERT_DEPTH) {
        sg_expert_named *n = &s->named[list];
        const uint32_t expert = n->expert[n->at];
        if (sg_neuron_cache_find(&n->home->cache, expert) == SG_SLOT_NONE && !sg_expert_find(s, n->home, expert)) {
            sg_expert_read *r = sg_expert_free_area(s, false);
            if (!r) return;
            sg_expert_start(s, r, n->home, expert, true);
            n->home->finds.expected++;
        }
        n->at++;
    }
}

/* The list of a layer: its own, which a later guess replaces, or one that is over. */
static sg_expert_named *list_of(sg_expert_store *s, const sg_expert_home *h) {
    sg_expert_named *best = &s->named[0];
    for (uint32_t i = 0; i < SG_EXPERT_DEPTH; i++) {
        if (s->named[i].home == h) return &s->named[i];
        if (!s->named[i].home) best = &s->named[i];
    }
    return best;
}

void sg_expert_expect(sg_expert_store *s, sg_expert_home *h, const uint32_t *named, uint32_t n) {
    sg_expert_named *list = list_of(s, h);
    memset(h->guess, 0, h->n_expert);
    h->guessed = s->run;
    list->home = h;
    list->n = n;
    list->at = 0;
    for (uint32_t i = 0; i < n; i++) {
        h->guess[named[i]] = 1;
        list->expert[i] = named[i];
    }
    sg_expert_start_named(s);
}
