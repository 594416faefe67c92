#include "neuron_engine/expert_store_private.h"

#include <string.h>

#define BLOCK ((size_t)SG_STREAM_BLOCK)

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
        h->cache.exact = true;
        h->cache.halve_after = SG_HEAT_TOKENS_EXPERTS;
        sg_neuron_cache_lay_out(&h->cache, c);
        h->resident = sg_carve(c, h->n_expert, 1);
        for (uint32_t k = 0; k < SG_EXPERT_NAMERS; k++) h->namer[k].named = sg_carve(c, h->n_expert, 1);
        h->named = sg_carve(c, h->n_expert, sizeof *h->named);
        h->soon = sg_carve(c, h->n_expert, sizeof *h->soon);
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
        h->misses = 1;
        for (uint32_t k = 0; k < SG_EXPERT_NAMERS; k++) h->namer[k].trust = 1;
        for (uint32_t slot = 0; h->in_place && slot < h->cache.n_slots; slot++) h->slot_memory[slot] = h->arena + slot * h->slot_bytes;
    }
    s->home = NULL;
}

/* ---- reads ---- */

bool sg_expert_pending(const sg_expert_read *r) {
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

void sg_expert_start(sg_expert_store *s, sg_expert_read *r, sg_expert_home *h, uint32_t expert, bool prefetch) {
    r->home = h;
    r->expert = expert;
    r->wanted = !prefetch;
    r->due = s->run;
    r->first[0] = 0;
    for (int i = 0; i < SG_EXPERT_SLICES; i++) r->first[i + 1] = cut(s, r, i, r->first[i]);
    const uint32_t n = r->first[SG_EXPERT_SLICES];
    for (uint32_t i = 0; i < n; i++) s->list[i] = &r->piece[i];
    sg_stream_submit(s->stream, s->list, n, prefetch);
}

void sg_expert_claim(sg_expert_store *s, sg_expert_read *r) {
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

sg_expert_read *sg_expert_find(const sg_expert_store *s, const sg_expert_home *h, uint32_t expert) {
    for (uint32_t i = 0; i < s->n_reads; i++)
        if (s->reads[i].home == h && s->reads[i].expert == expert) return &s->reads[i];
    return NULL;
}

/* Nobody will ask for it any more in this run. */
static bool over(const sg_expert_store *s, const sg_expert_read *r) { return r->due != s->run || r->home <= s->home; }

/* Of two that are only expected: a is of less use. */
static bool before(const sg_expert_store *s, const sg_expert_read *a, const sg_expert_read *b) {
    if (over(s, a) || over(s, b)) return over(s, a) && !over(s, b);
    return a->home > b->home;
}

static bool gives_way(const sg_expert_store *s, const sg_expert_read *r, const sg_expert_home *to) {
    if (!to || over(s, r) || r->home > to) return true;
    bool named = r->home < to;
    for (uint32_t i = 0; i < to->n_named && !named; i++) named = to->named[i] == r->expert;
    return !named;
}

sg_expert_read *sg_expert_free_area(const sg_expert_store *s, const sg_expert_home *expected) {
    sg_expert_read *best = NULL;
    for (uint32_t i = 0; i < s->n_reads; i++) {
        sg_expert_read *r = &s->reads[i];
        if (r->wanted || sg_expert_pending(r)) continue; /* also of those that are free: where a piece failed, nobody waits for the others */
        if (!r->home) return r;
        if (gives_way(s, r, expected) && (!best || before(s, r, best))) best = r;
    }
    if (best) best->home->finds.unused++;
    return best;
}

/* The least useful of those that are still being read, but for what is `expected`, and before it; NULL: there is none. */
static sg_expert_read *least_useful(const sg_expert_store *s, const sg_expert_home *expected) {
    sg_expert_read *best = NULL;
    for (uint32_t i = 0; i < s->n_reads; i++) {
        sg_expert_read *r = &s->reads[i];
        if (r->wanted || (!r->home && expected) || (r->home && !gives_way(s, r, expected))) continue;
        if (!best || !r->home || (best->home && before(s, r, best))) best = r;
    }
    return best;
}

sg_expert_read *sg_expert_displace(const sg_expert_store *s, const sg_expert_home *expected) {
    sg_expert_read *r = least_useful(s, expected);
    if (!r) return NULL;
    sg_stream_cancel(s->stream, r->piece, r->first[SG_EXPERT_SLICES]);
    if (sg_expert_pending(r)) return NULL; /* it began */
    r->home->finds.unused++;
    return r;
}

sg_expert_read *sg_expert_wait_for_area(const sg_expert_store *s) {
    sg_expert_read *r = least_useful(s, NULL);
    if (!r) return NULL;
    const uint32_t n = r->first[SG_EXPERT_SLICES];
    sg_stream_cancel(s->stream, r->piece, n);
    for (uint32_t i = 0; i < n; i++) sg_stream_wait(s->stream, &r->piece[i]);
    if (r->home) r->home->finds.unused++;
    return r;
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
