/* Experts of the layer that is being computed: what is demanded, in which groups, what gets a slot. */
#include <string.h>

#include "neuron_engine/expert_store_private.h"

/* How fast home->misses follows. */
#define MISSES_KEEP 0.9375f

void sg_expert_begin(sg_expert_store *s, bool single) {
    s->run++;
    s->single = single;
    s->home = NULL;
    sg_expert_forget_named(s, NULL);
    if (single) sg_expert_judge_ahead(s);
    for (uint32_t i = 0; i < s->n_homes; i++) {
        sg_neuron_cache_begin(&s->homes[i].cache);
        s->homes[i].cache.soon = NULL;
        if (!s->no_cache) continue;
        sg_neuron_cache_clear(&s->homes[i].cache);
        memset(s->homes[i].resident, 0, s->homes[i].n_expert);
    }
}

static void note_residents(sg_expert_home *h) {
    for (uint32_t i = 0; i < h->n_expert; i++) h->resident[i] = sg_neuron_cache_find(&h->cache, i) != SG_SLOT_NONE;
}

void sg_expert_recover(sg_expert_store *s) {
    for (uint32_t i = 0; i < s->n_reads; i++) {
        s->reads[i].home = NULL;
        s->reads[i].wanted = false;
    }
    for (uint32_t i = 0; i < s->n_homes; i++) {
        sg_expert_home *h = &s->homes[i];
        for (uint32_t slot = 0; slot < h->cache.n_slots; slot++)
            if (h->cache.flight[slot]) sg_neuron_cache_forget(&h->cache, slot);
        note_residents(h);
    }
    s->home = NULL;
    s->n = s->started = 0;
    sg_expert_forget_named(s, NULL);
}

static uint32_t uses(const sg_expert_store *s, uint32_t expert) { return s->count ? s->count[expert + 1] - s->count[expert] : 1; }

/* A batch says more about the experts than what was before: the heat that a share of its tokens would give in the end. */
static void set_heat(const sg_expert_store *s) {
    uint8_t *heat = s->home->cache.heat;
    for (uint32_t e = 0; e < s->home->n_expert; e++) {
        const uint32_t level = 2 * SG_HEAT_TOKENS_EXPERTS * SG_HEAT_USE * uses(s, e) / s->n_tokens;
        heat[e] = level < 255 - SG_HEAT_USE ? (uint8_t)level : 255 - SG_HEAT_USE;
    }
}

/* Whether a slot's holder stays all the same: it is used more soon; or just as much, and of a batch only what is hotter displaces another. */
static bool holds(const sg_expert_store *s, uint32_t held, uint32_t expert) {
    const sg_neuron_cache *c = &s->home->cache;
    const uint32_t a = sg_neuron_cache_soon(c, held), b = sg_neuron_cache_soon(c, expert);
    return a != b ? a > b : s->n_tokens > 1 && c->heat[held] >= c->heat[expert];
}

/* Looks for a slot for the expert at a position, which is about to be read. */
static void place(sg_expert_store *s, uint32_t p) {
    sg_expert_home *h = s->home;
    const uint32_t expert = s->expert[p];
    if ((s->n_tokens > 1 || h->cache.soon) && h->cache.free_from == h->cache.n_slots) {
        const uint32_t slot = sg_neuron_cache_coldest(&h->cache, s->run), held = slot == SG_SLOT_NONE ? SG_SLOT_NONE : h->cache.place_of[slot];
        if (slot == SG_SLOT_NONE || (held != SG_SLOT_NONE && holds(s, held, expert))) {
            if (s->n_tokens == 1) sg_neuron_cache_warm(&h->cache, expert); /* used all the same */
            return;
        }
    }
    const uint32_t slot = s->slot[p] = sg_neuron_cache_take(&h->cache, expert, s->run, true);
    if (slot == SG_SLOT_NONE) return;
    h->cache.flight[slot] = 1;
    h->finds.kept++;
}

static void note_place(const sg_expert_store *s, const sg_expert_read *r) {
    if (r->home->in_place) r->home->at[r->expert] = r->memory + r->home->slice[0].offset % sg_stream_align(s->stream);
}

/* What is at position `from` goes in front of `to`. */
static void move(sg_expert_store *s, uint32_t from, uint32_t to) {
    const uint32_t expert = s->expert[from], index = s->index[from];
    sg_expert_read *const read = s->read[from];
    for (; from > to; from--) {
        s->expert[from] = s->expert[from - 1];
        s->index[from] = s->index[from - 1];
        s->read[from] = s->read[from - 1];
    }
    s->expert[to] = expert;
    s->index[to] = index;
    s->read[to] = read;
}

/* There is no area for what is next: what was expected, and has one, goes first. All areas could be taken by such that come later. */
static bool bring_forward(sg_expert_store *s) {
    for (uint32_t p = s->started; p < s->n; p++) {
        if (!s->read[p]) continue;
        move(s, p, s->started);
        return true;
    }
    return false;
}

/* Reads for as many positions as there are areas. */
static void start_some(sg_expert_store *s) {
    sg_expert_home *h = s->home;
    for (; s->started < s->n; s->started++) {
        sg_expert_read *r = NULL;
        if (!s->read[s->started]) {
            r = sg_expert_free_area(s, NULL);
            if (!r) r = sg_expert_wait_for_area(s);
            if (!r && !bring_forward(s)) return;
        }
        if (r) {
            sg_expert_start(s, r, h, s->expert[s->started], false);
            s->read[s->started] = r;
        }
        note_place(s, s->read[s->started]);
    }
}

/* Reads of other experts of this layer, which were expected: those that did not begin do not. */
static void give_up(sg_expert_store *s) {
    for (uint32_t i = 0; i < s->n_reads; i++) {
        sg_expert_read *r = &s->reads[i];
        if (r->home == s->home && !r->wanted) sg_stream_cancel(s->stream, r->piece, r->first[SG_EXPERT_SLICES]);
    }
}

/* Positions lo .. hi - 1, those that most tokens use first: they get the slots. */
static void sort_by_uses(sg_expert_store *s, uint32_t lo, uint32_t hi) {
    for (uint32_t i = lo + 1; i < hi; i++) {
        uint32_t k = i;
        while (k > lo && uses(s, s->expert[k - 1]) < uses(s, s->expert[i])) k--;
        move(s, i, k);
    }
}

void sg_expert_demand(sg_expert_store *s, sg_expert_home *h, const uint32_t *hit, uint32_t n, const uint32_t *count, uint32_t n_tokens) {
    uint32_t missing = 0;
    s->home = h;
    sg_expert_forget_named(s, h);
    s->n = n;
    s->n_here = 0;
    s->count = count;
    s->n_tokens = n_tokens;
    sg_expert_judge_guess(s, hit, n);
    if (count && n_tokens >= SG_HEAT_TOKENS_EXPERTS) set_heat(s);
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t slot = sg_neuron_cache_find(&h->cache, hit[i]);
        if (slot == SG_SLOT_NONE) continue;
        sg_neuron_cache_use(&h->cache, slot, s->run);
        s->expert[s->n_here] = hit[i];
        s->index[s->n_here] = i;
        s->slot[s->n_here] = slot;
        if (h->in_place) h->at[hit[i]] = h->slot_memory[slot] + h->slice[0].offset % sg_stream_align(s->stream);
        s->read[s->n_here++] = NULL;
    }
    h->finds.slots += s->n_here;
    /* what is on its way first */
    for (int expected = 1; expected >= 0; expected--)
        for (uint32_t i = 0; i < n; i++) {
            if (sg_neuron_cache_find(&h->cache, hit[i]) != SG_SLOT_NONE) continue;
            sg_expert_read *r = sg_expert_find(s, h, hit[i]);
            if ((r != NULL) != (expected == 1)) continue;
            if (r) {
                *(sg_expert_pending(r) ? &h->finds.late : &h->finds.ahead) += 1;
                sg_expert_claim(s, r);
            } else h->finds.missed++;
            s->expert[s->n_here + missing] = hit[i];
            s->index[s->n_here + missing] = i;
            s->read[s->n_here + missing++] = r;
        }
    s->ahead.missing += missing;
    if (count) sort_by_uses(s, s->n_here, n);
    give_up(s);
    for (uint32_t p = s->n_here; p < n; p++) s->slot[p] = SG_SLOT_NONE;
    h->misses = h->misses * MISSES_KEEP + (1 - MISSES_KEEP) * (float)missing / (float)n_tokens;
    s->started = s->n_here;
    s->lo = s->hi = s->n_here;
    start_some(s);
}

bool sg_expert_group(sg_expert_store *s) {
    s->lo = s->hi;
    if (s->lo == s->n) return false;
    if (s->started == s->lo) start_some(s);
    const uint32_t most = s->started - s->lo, half = s->n_reads > 1 ? s->n_reads / 2 : 1;
    s->hi = s->lo + (s->started < s->n && most > half ? half : most);
    for (uint32_t p = s->lo; p < s->hi; p++) place(s, p);
    return true;
}

uint32_t sg_expert_together(const sg_expert_store *s, const sg_expert_home *h, const uint32_t *hit, uint32_t n) {
    uint32_t missing = 0, i = 0;
    for (; i < n; i++) {
        missing += sg_neuron_cache_find(&h->cache, hit[i]) == SG_SLOT_NONE;
        if (missing > s->n_reads) break;
    }
    return i;
}

void sg_expert_done(sg_expert_store *s, uint32_t lo, uint32_t hi) {
    for (uint32_t p = lo; p < hi; p++) {
        sg_expert_read *r = s->read[p];
        if (p < s->n_here && s->n_tokens > 1 && !s->home->in_place) s->home->cache.used[s->slot[p]] = s->run - 1; /* may go now */
        if (!r) continue;
        if (s->home->in_place && s->slot[p] != SG_SLOT_NONE) {
            uint8_t *free_memory = s->home->slot_memory[s->slot[p]];
            s->home->slot_memory[s->slot[p]] = r->memory;
            r->memory = free_memory;
        }
        r->home = NULL;
        r->wanted = false;
        s->read[p] = NULL;
    }
    start_some(s);
    sg_expert_start_named(s);
}

void sg_expert_end(sg_expert_store *s) {
    sg_expert_home *h = s->home;
    const bool good = sg_stream_failure(s->stream, NULL) == SG_OK;
    sg_expert_done(s, s->n_here, s->n);
    for (uint32_t p = s->n_here; good && p < s->n; p++)
        if (s->slot[p] != SG_SLOT_NONE) h->cache.flight[s->slot[p]] = 0;
    note_residents(h);
}
