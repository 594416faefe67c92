/* Experts that will probably be needed. */
#include <string.h>

#include "neuron_engine/expert_store_private.h"

/* Names that were judged before these weigh as much as one of the last 32; at first there were some good ones. */
#define TRUST_NAMES 32u
#define TRUST_FIRST 4u

/* Who says it earlier need not be quite as right. */
#define NEARLY 0.95f

/* What a token's time counts for at most, in usual ones: the machine may have done something else. */
#define STALL 4
#define USUAL_KEEP 0.9375

/* ---- whether it pays ---- */

static void begin_phase(sg_expert_store *s, sg_expert_phase phase) {
    s->ahead.phase = phase;
    s->ahead.at = s->ahead.rounds = s->ahead.missing = 0;
    s->ahead.busy = s->ahead.saved = s->ahead.squares = s->ahead.seconds[0] = s->ahead.seconds[1] = 0;
    if (phase != SG_EXPERT_LOOK) return;
    s->ahead.on = false;
    for (sg_expert_home *h = s->homes; h < s->homes + s->n_homes; h++)
        for (uint32_t k = 0; k < SG_EXPERT_NAMERS; k++) h->namer[k].right = h->namer[k].wrong = 0;
}

static void rest(sg_expert_store *s, bool on, uint32_t tokens) {
    begin_phase(s, SG_EXPERT_REST);
    s->ahead.on = on;
    s->ahead.rest = tokens;
}

void sg_expert_judge_ahead(sg_expert_store *s) {
    if (s->always_ahead) {
        rest(s, true, UINT32_MAX);
        return;
    }
    if (s->ahead.phase == SG_EXPERT_REST && s->ahead.at == s->ahead.rest)
        begin_phase(s, s->ahead.better || s->ahead.looked ? SG_EXPERT_TRIAL : SG_EXPERT_LOOK);
    /* to and fro, so that a cache that fills, or a text that changes, favours neither */
    if (s->ahead.phase == SG_EXPERT_TRIAL) s->ahead.on = s->ahead.at % 4 == 0 || s->ahead.at % 4 == 3;
    if (s->ahead.phase == SG_EXPERT_LOOK) s->ahead.busy_before = sg_stream_get_counts(s->stream).busy;
    s->ahead.at++;
}

static bool trusted(const sg_expert_namer *n) { return n->trust > SG_EXPERT_TRUE; }

/* Nearly as right as all who will be asked later about the layer, if they ever are. */
static bool leads(const sg_expert_home *h, uint32_t namer) {
    for (uint32_t later = namer == SG_EXPERT_PREGATE ? SG_EXPERT_DEPTH : namer - 1; later > 0; later--)
        if (h->namer[later].judged > 0 && h->namer[namer].trust < NEARLY * h->namer[later].trust) return false;
    return true;
}

/* Whose names would be read first; NULL: nobody's. */
static const sg_expert_namer *leader(const sg_expert_home *h) {
    static const uint32_t order[] = { SG_EXPERT_PREGATE, 2, 1 };
    _Static_assert(sizeof order / sizeof *order == SG_EXPERT_NAMERS, "");
    for (uint32_t i = 0; i < SG_EXPERT_NAMERS; i++) {
        const sg_expert_namer *n = &h->namer[order[i]];
        if (n->judged > 0 && trusted(n) && leads(h, order[i])) return n;
    }
    return NULL;
}

/* The drive has to read what is missing, and in vain what is named wrongly. */
static void end_look(sg_expert_store *s) {
    const double share = s->ahead.busy / SG_EXPERT_LOOK_TOKENS;
    uint32_t right = 0, wrong = 0;
    for (const sg_expert_home *h = s->homes; h < s->homes + s->n_homes; h++) {
        const sg_expert_namer *n = leader(h);
        if (!n) continue;
        right += n->right;
        wrong += n->wrong;
    }
    s->ahead.looked = right > 0;
    if (right == 0 || share * (s->ahead.missing + wrong) >= SG_EXPERT_ROOM * s->ahead.missing) rest(s, false, SG_EXPERT_HOPELESS);
    else begin_phase(s, SG_EXPERT_TRIAL);
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
    const bool clear = is_clear(s), better = s->ahead.saved >= 0, again = clear && s->ahead.tried > 0 && better == s->ahead.better;
    if (!clear && s->ahead.rounds < SG_EXPERT_MOST_ROUNDS) return;
    s->ahead.tried = !again ? SG_EXPERT_REST_TOKENS : s->ahead.tried < SG_EXPERT_MOST_REST ? 2 * s->ahead.tried : s->ahead.tried;
    s->ahead.better = better;
    s->ahead.looked = false;
    rest(s, better, s->ahead.tried);
}

void sg_expert_time(sg_expert_store *s, double seconds) {
    const double usual = s->ahead.usual > 0 ? s->ahead.usual : seconds, counts = seconds < STALL * usual ? seconds : STALL * usual;
    s->ahead.usual = USUAL_KEEP * usual + (1 - USUAL_KEEP) * counts;
    if (s->ahead.phase == SG_EXPERT_LOOK) {
        const double busy = sg_stream_get_counts(s->stream).busy - s->ahead.busy_before;
        s->ahead.busy += busy < seconds ? busy / seconds : 1;
        if (s->ahead.at == SG_EXPERT_LOOK_TOKENS) end_look(s);
    } else if (s->ahead.phase == SG_EXPERT_TRIAL) {
        s->ahead.seconds[s->ahead.on] += counts;
        if (s->ahead.at % 4 == 0) end_round(s);
    }
}

/* ---- look-ahead ---- */

static void trust(sg_expert_namer *n, uint32_t named, uint32_t right) {
    for (uint32_t i = 0; i < named; i++) {
        if (n->judged < TRUST_NAMES - TRUST_FIRST) n->judged++;
        n->trust += ((i < right) - n->trust) / (float)(n->judged + TRUST_FIRST);
    }
    n->right += right;
    n->wrong += named - right;
}

/* Experts used[n] of the layer are needed: how good were the names? All of them and those that came true are added to *named, *right. */
static void judge(const sg_expert_store *s, const sg_expert_home *h, sg_expert_namer *namer, const uint32_t *used, uint32_t n, uint64_t *named, uint64_t *right) {
    uint32_t named_missing = 0, right_missing = 0;
    if (namer->run != s->run) return;
    for (uint32_t e = 0; e < h->n_expert; e++) {
        *named += namer->named[e];
        named_missing += namer->named[e] && sg_neuron_cache_find(&h->cache, e) == SG_SLOT_NONE;
    }
    for (uint32_t i = 0; i < n; i++) {
        *right += namer->named[used[i]];
        right_missing += namer->named[used[i]] && sg_neuron_cache_find(&h->cache, used[i]) == SG_SLOT_NONE;
    }
    trust(namer, named_missing, right_missing);
}

void sg_expert_judge_guess(sg_expert_store *s, const uint32_t *hit, uint32_t n) {
    sg_expert_home *h = s->home;
    uint64_t others[2] = { 0 };
    for (uint32_t k = 1; k < SG_EXPERT_NAMERS; k++) judge(s, h, &h->namer[k], hit, n, k == 1 ? &h->finds.guessed : others, k == 1 ? &h->finds.right : others + 1);
}

/* Whether to ask somebody about a layer. */
static bool asks(const sg_expert_store *s, const sg_expert_home *h, uint32_t namer) {
    const bool open = s->single ? s->ahead.on || s->ahead.phase == SG_EXPERT_LOOK : !h->apart;
    if (s->no_ahead || !open || h->misses <= SG_EXPERT_FEW) return false;
    return s->run % SG_EXPERT_PROBE == 0 || (trusted(&h->namer[namer]) && leads(h, namer));
}

/* Whether to read what he named. */
static bool reads(const sg_expert_store *s, const sg_expert_home *h, uint32_t namer) {
    return trusted(&h->namer[namer]) && leads(h, namer) && (!s->single || s->ahead.on);
}

/* The pre-gate spoke, and is nearly as right. */
static bool is_foreseen(const sg_expert_store *s, const sg_expert_home *h, uint32_t distance) {
    const sg_expert_namer *p = &h->namer[SG_EXPERT_PREGATE];
    return s->single && p->run == s->run && p->trust >= NEARLY * h->namer[distance].trust && s->run % SG_EXPERT_PROBE != 0;
}

bool sg_expert_looks_ahead(const sg_expert_store *s, const sg_expert_home *h, uint32_t distance) {
    return asks(s, h, distance) && !is_foreseen(s, h, distance);
}

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

/* In the place of what was named before. */
static void set_named(sg_expert_home *h, const uint32_t *named, uint32_t n) {
    if (n > 0) memcpy(h->named, named, n * sizeof *named);
    h->n_named = n;
    h->named_at = 0;
}

static void note(sg_expert_home *h, uint32_t namer, const uint32_t *named, uint32_t n) {
    sg_expert_namer *p = &h->namer[namer];
    memset(p->named, 0, h->n_expert);
    p->run = h->store->run;
    for (uint32_t i = 0; i < n; i++) p->named[named[i]] = 1;
}

void sg_expert_expect(sg_expert_store *s, sg_expert_home *h, uint32_t distance, const uint32_t *named, uint32_t n) {
    note(h, distance, named, n);
    if (!reads(s, h, distance)) return;
    set_named(h, named, n);
    sg_expert_start_named(s);
}

/* ---- the pre-gate ---- */

bool sg_expert_foresees(const sg_expert_store *s, const sg_expert_home *h) { return asks(s, h, SG_EXPERT_PREGATE); }

void sg_expert_foresee(sg_expert_home *h, const uint32_t *first, uint32_t n_first, const uint32_t *named, uint32_t n) {
    note(h, SG_EXPERT_PREGATE, first, n_first);
    set_named(h, named, reads(h->store, h, SG_EXPERT_PREGATE) ? n : 0);
}

void sg_expert_judge_foreseen(const sg_expert_store *s, sg_expert_home *h, const uint32_t *used, uint32_t n) {
    judge(s, h, &h->namer[SG_EXPERT_PREGATE], used, n, &h->finds.foreseen, &h->finds.came);
}

bool sg_expert_weighs(const sg_expert_store *s, const sg_expert_home *h, bool probing) {
    return !s->no_cache && h->misses > SG_EXPERT_FEW && (trusted(&h->namer[SG_EXPERT_PREGATE]) || (probing && s->run % SG_EXPERT_PROBE == 0));
}

void sg_expert_weighed(const sg_expert_store *s, sg_expert_home *h) {
    if (sg_expert_weighs(s, h, false)) h->cache.soon = h->soon;
}
