#include "neuron_engine/expert_store.h"

#include <string.h>

#define BLOCK ((size_t)SG_STREAM_BLOCK)
/* How fast home->misses follows. */
#define MISSES_KEEP 0.9375f
/* And home->trust. */
#define TRUST_KEEP 0.96875f

static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

/* ---- memory ---- */

size_t sg_expert_home_init(sg_expert_home *h) {
    size_t slot = 0, land = 0;
    for (int i = 0; i < SG_EXPERT_SLICES; i++) {
        sg_expert_slice *s = &h->slice[i];
        if (s->bytes == 0) continue;
        s->slot_at = slot;
        s->land_at = land;
        slot += round_up(s->packed, SG_CACHE_LINE);
        land += round_up(s->bytes, BLOCK) + BLOCK; /* it may begin anywhere in a block */
    }
    h->slot_bytes = slot;
    return land;
}

void sg_expert_store_lay_out(sg_expert_store *s, sg_carver *c) {
    s->n_pieces = (uint32_t)(s->land_bytes / SG_EXPERT_PIECE) + 2 * SG_EXPERT_SLICES;
    s->n_expert = 0;
    for (uint32_t i = 0; i < s->n_homes; i++) {
        sg_expert_home *h = &s->homes[i];
        if (h->n_expert > s->n_expert) s->n_expert = h->n_expert;
        h->cache.n_places = h->n_expert;
        sg_neuron_cache_lay_out(&h->cache, c);
        h->resident = sg_carve(c, h->n_expert, 1);
        h->guess = sg_carve(c, h->n_expert, 1);
        h->slot_memory = h->in_place ? sg_carve(c, h->cache.n_slots, sizeof *h->slot_memory) : NULL;
        h->at = h->in_place ? sg_carve(c, h->n_expert, sizeof *h->at) : NULL;
    }
    s->reads = sg_carve(c, s->n_reads, sizeof *s->reads);
    sg_fetch *pieces = sg_carve(c, (size_t)s->n_reads * s->n_pieces, sizeof *pieces);
    for (uint32_t i = 0; s->reads && i < s->n_reads; i++) s->reads[i].piece = pieces + (size_t)i * s->n_pieces;
    s->list = sg_carve(c, s->n_pieces, sizeof *s->list);
    s->expert = sg_carve(c, s->n_expert, sizeof *s->expert);
    s->slot = sg_carve(c, s->n_expert, sizeof *s->slot);
    s->index = sg_carve(c, s->n_expert, sizeof *s->index);
    s->read = sg_carve(c, s->n_expert, sizeof *s->read);
}

void sg_expert_store_clear(sg_expert_store *s) {
    for (uint32_t i = 0; i < s->n_homes; i++) {
        sg_expert_home *h = &s->homes[i];
        h->store = s;
        sg_neuron_cache_clear(&h->cache);
        memset(h->resident, 0, h->n_expert);
        h->trust = 1;
        for (uint32_t slot = 0; h->in_place && slot < h->cache.n_slots; slot++) h->slot_memory[slot] = h->arena + slot * h->slot_bytes;
    }
    s->home = NULL;
}

/* ---- one read ---- */

static bool pending(const sg_expert_read *r) {
    for (uint32_t i = 0; i < r->first[SG_EXPERT_SLICES]; i++)
        if (sg_fetch_pending(&r->piece[i])) return true;
    return false;
}

static uint64_t slice_offset(const sg_expert_read *r, int slice) {
    const sg_expert_slice *s = &r->home->slice[slice];
    return s->offset + r->expert * s->apart;
}

/* The reads of a slice: cut where blocks begin, so that the pieces lie side by side in memory as they do in the file. */
static uint32_t cut(const sg_expert_store *s, sg_expert_read *r, int slice, uint32_t n) {
    const sg_expert_slice *sl = &r->home->slice[slice];
    const uint64_t align = sg_stream_align(s->stream);
    uint64_t at = slice_offset(r, slice);
    const uint64_t end = at + sl->bytes, base = at / align * align;
    while (at < end) {
        const uint64_t most = at / BLOCK * BLOCK + SG_EXPERT_PIECE, to = most < end ? most : end;
        r->piece[n++] = (sg_fetch) { .offset = at, .file = sl->file, .size = (uint32_t)(to - at),
                                     .dst = r->memory + sl->land_at + (at / align * align - base) };
        at = to;
    }
    return n;
}

static void start(sg_expert_store *s, sg_expert_read *r, sg_expert_home *h, uint32_t expert, bool prefetch) {
    r->home = h;
    r->expert = expert;
    r->slot = SG_SLOT_NONE;
    r->wanted = !prefetch;
    r->due = s->run;
    r->first[0] = 0;
    for (int i = 0; i < SG_EXPERT_SLICES; i++) r->first[i + 1] = cut(s, r, i, r->first[i]);
    const uint32_t n = r->first[SG_EXPERT_SLICES];
    for (uint32_t i = 0; i < n; i++) s->list[i] = &r->piece[i];
    sg_stream_submit(s->stream, s->list, n, prefetch);
}

/* What was only expected is needed: in front of the queue, and once more if it was given up. */
static void claim(sg_expert_store *s, sg_expert_read *r) {
    const uint32_t n = r->first[SG_EXPERT_SLICES];
    uint32_t again = 0;
    r->wanted = true;
    for (uint32_t i = 0; i < n; i++) {
        const sg_fetch_state state = sg_fetch_get(&r->piece[i]);
        if (state == SG_FETCH_QUEUED) sg_stream_promote(s->stream, &r->piece[i]);
        if (state == SG_FETCH_DROPPED) s->list[again++] = &r->piece[i];
    }
    if (again > 0) sg_stream_submit(s->stream, s->list, again, false);
}

static sg_expert_read *find(const sg_expert_store *s, const sg_expert_home *h, uint32_t expert) {
    for (uint32_t i = 0; i < s->n_reads; i++)
        if (s->reads[i].home == h && s->reads[i].expert == expert) return &s->reads[i];
    return NULL;
}

/* Nobody will ask for it any more in this run. */
static bool over(const sg_expert_store *s, const sg_expert_read *r) { return r->due != s->run || r->home <= s->home; }

/* An area that nobody needs and nothing is being read into; else NULL. A demand may have what is expected of a later layer, too, when nothing
 * else is there. */
static sg_expert_read *free_area(const sg_expert_store *s, bool for_demand) {
    sg_expert_read *best = NULL;
    for (uint32_t i = 0; i < s->n_reads; i++) {
        sg_expert_read *r = &s->reads[i];
        if (!r->home) return r;
        if (r->wanted || pending(r) || (!for_demand && !over(s, r))) continue;
        if (!best || (over(s, r) && !over(s, best))) best = r;
    }
    if (best) best->home->finds.unused++;
    return best;
}

/* For a demand: waits until something that is not wanted is there; NULL: everything is. */
static sg_expert_read *wait_for_area(const sg_expert_store *s) {
    uint32_t which = 0;
    while (which < s->n_reads && s->reads[which].wanted) which++;
    if (which == s->n_reads) return NULL;
    sg_expert_read *r = &s->reads[which];
    const uint32_t n = r->first[SG_EXPERT_SLICES];
    sg_stream_cancel(s->stream, r->piece, n);
    for (uint32_t i = 0; i < n; i++) sg_stream_wait(s->stream, &r->piece[i]);
    return r;
}

/* ---- a run, a layer ---- */

/* With and without look-ahead in turns for some tokens, then as it was faster. */
static void judge_ahead(sg_expert_store *s) {
    const uint32_t at = s->ahead.tokens++ % SG_EXPERT_PERIOD;
    if (at == 0) memset(s->ahead.seconds, 0, sizeof s->ahead.seconds);
    s->ahead.trial = at < SG_EXPERT_TRIAL;
    if (s->ahead.trial) s->ahead.on = at / SG_EXPERT_TURN % 2 == 0;
    else if (at == SG_EXPERT_TRIAL) s->ahead.on = s->ahead.seconds[1] <= s->ahead.seconds[0];
}

void sg_expert_time(sg_expert_store *s, double seconds) {
    if (s->ahead.trial) s->ahead.seconds[s->ahead.on] += seconds;
}

void sg_expert_begin(sg_expert_store *s, bool single) {
    s->run++;
    s->home = NULL;
    if (single) judge_ahead(s);
    s->ahead.trial = s->ahead.trial && single;
    for (uint32_t i = 0; i < s->n_homes; i++) {
        sg_neuron_cache_begin(&s->homes[i].cache);
        if (s->no_cache) sg_neuron_cache_clear(&s->homes[i].cache);
    }
}

void sg_expert_recover(sg_expert_store *s) {
    for (uint32_t i = 0; i < s->n_reads; i++) s->reads[i].home = NULL;
    for (uint32_t i = 0; i < s->n_homes; i++) {
        sg_expert_home *h = &s->homes[i];
        for (uint32_t slot = 0; slot < h->cache.n_slots; slot++)
            if (h->cache.flight[slot]) sg_neuron_cache_forget(&h->cache, slot);
    }
    s->home = NULL;
}

/* Looks for a slot for the expert at a position, which is about to be read. */
static void place(sg_expert_store *s, uint32_t p) {
    sg_expert_home *h = s->home;
    const uint32_t expert = s->expert[p], slot = sg_neuron_cache_take(&h->cache, expert, s->run, true);
    s->slot[p] = slot;
    if (slot == SG_SLOT_NONE) return;
    h->cache.flight[slot] = 1;
    h->finds.kept++;
}

static void note_place(const sg_expert_store *s, const sg_expert_read *r) {
    if (r->home->in_place) r->home->at[r->expert] = r->memory + r->home->slice[0].offset % sg_stream_align(s->stream);
}

/* Reads for as many positions as there are areas. */
static void start_some(sg_expert_store *s) {
    sg_expert_home *h = s->home;
    for (; s->started < s->n; s->started++) {
        if (s->read[s->started]) {
            note_place(s, s->read[s->started]);
            continue;
        }
        sg_expert_read *r = free_area(s, true);
        if (!r) r = wait_for_area(s);
        if (!r) return;
        start(s, r, h, s->expert[s->started], false);
        s->read[s->started] = r;
        note_place(s, r);
    }
}

/* Reads of other experts of this layer, which were expected: those that did not begin do not. */
static void give_up(sg_expert_store *s) {
    for (uint32_t i = 0; i < s->n_reads; i++) {
        sg_expert_read *r = &s->reads[i];
        if (r->home == s->home && !r->wanted) sg_stream_cancel(s->stream, r->piece, r->first[SG_EXPERT_SLICES]);
    }
}

/* How many of the experts that look-ahead named and that were not in slots are needed. */
static void judge_guess(sg_expert_store *s, const uint32_t *hit, uint32_t n) {
    sg_expert_home *h = s->home;
    uint32_t named = 0, right = 0;
    if (h->guessed != s->run) return;
    for (uint32_t e = 0; e < h->n_expert; e++) named += h->guess[e] && sg_neuron_cache_find(&h->cache, e) == SG_SLOT_NONE;
    for (uint32_t i = 0; i < n; i++) {
        h->finds.right += h->guess[hit[i]];
        right += h->guess[hit[i]] && sg_neuron_cache_find(&h->cache, hit[i]) == SG_SLOT_NONE;
    }
    for (uint32_t i = 0; i < named; i++) h->trust = h->trust * TRUST_KEEP + (i < right ? 1 - TRUST_KEEP : 0);
}

void sg_expert_demand(sg_expert_store *s, sg_expert_home *h, const uint32_t *hit, uint32_t n, const uint32_t *count, uint32_t n_tokens) {
    uint32_t missing = 0;
    s->home = h;
    s->n = n;
    s->n_here = 0;
    s->count = count;
    s->n_tokens = n_tokens;
    judge_guess(s, hit, n);
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
            sg_expert_read *r = find(s, h, hit[i]);
            if ((r != NULL) != (expected == 1)) continue;
            if (r) {
                *(pending(r) ? &h->finds.late : &h->finds.ahead) += 1;
                claim(s, r);
            } else h->finds.missed++;
            s->expert[s->n_here + missing] = hit[i];
            s->index[s->n_here + missing] = i;
            s->read[s->n_here + missing++] = r;
        }
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
}

void sg_expert_end(sg_expert_store *s) {
    sg_expert_home *h = s->home;
    const bool good = sg_stream_failure(s->stream, NULL) == SG_OK;
    sg_expert_done(s, s->n_here, s->n);
    for (uint32_t p = s->n_here; good && p < s->n; p++)
        if (s->slot[p] != SG_SLOT_NONE) h->cache.flight[s->slot[p]] = 0;
    for (uint32_t i = 0; i < h->n_expert; i++) h->resident[i] = sg_neuron_cache_find(&h->cache, i) != SG_SLOT_NONE;
}

/* ---- the bytes ---- */

const uint8_t *sg_expert_get(sg_expert_store *s, uint32_t position, int slice, size_t from, size_t to, double *waited) {
    sg_expert_read *r = s->read[position];
    const uint64_t at = slice_offset(r, slice);
    for (uint32_t i = r->first[slice]; i < r->first[slice + 1]; i++) {
        sg_fetch *f = &r->piece[i];
        if (f->offset >= at + to) break;
        if (f->offset + f->size <= at + from) continue;
        if (sg_fetch_pending(f)) {
            const double begin = sg_trace_now();
            sg_stream_wait(s->stream, f);
            *waited += sg_trace_now() - begin;
        }
        if (sg_fetch_get(f) != SG_FETCH_DONE) return NULL;
    }
    return r->memory + r->home->slice[slice].land_at + at % sg_stream_align(s->stream) + from;
}

/* ---- look-ahead ---- */

bool sg_expert_looks_ahead(const sg_expert_store *s, const sg_expert_home *h) {
    const bool trusted = h->trust > SG_EXPERT_TRUE || s->run % SG_EXPERT_PROBE == 0;
    return !s->no_ahead && s->ahead.on && h->misses > SG_EXPERT_FEW && trusted;
}

void sg_expert_expect(sg_expert_store *s, sg_expert_home *h, const uint32_t *named, uint32_t n) {
    memset(h->guess, 0, h->n_expert);
    h->guessed = s->run;
    h->finds.guessed += n;
    for (uint32_t i = 0; i < n; i++) {
        h->guess[named[i]] = 1;
        if (sg_neuron_cache_find(&h->cache, named[i]) != SG_SLOT_NONE || find(s, h, named[i])) continue;
        sg_expert_read *r = s->started < s->n ? NULL : free_area(s, false);
        if (!r) continue;
        start(s, r, h, named[i], true);
        h->finds.expected++;
    }
}
