/* A store of experts (neuron_engine/expert_store.h) over files with known bytes, and a driver that does with a layer what computing does
 * (experts_away.c, ffn_experts_away.c), without computing: every byte is compared with the file's, and what must hold between is looked at.
 *
 * Threads of a team must not end a test: what is wrong is noted by shelf_wrong and asserted once the team is done. */
#ifndef SG_TESTS_UNIT_EXPERT_FIXTURE_H
#define SG_TESTS_UNIT_EXPERT_FIXTURE_H

#include "neuron_engine/expert_store.h"
#include "runtime/base/team.h"
#include "tests/io/stream_fixture.h"

#include <pthread.h>
#include <stdarg.h>

#define SHELF_FILES 2
#define SHELF_LAYERS 32
#define SHELF_EXPERTS 32
#define SHELF_GUARD SG_STREAM_BLOCK /* bytes on both sides of an area */

typedef struct shelf {
    temp_dir dir;
    char path[SHELF_FILES][600];
    size_t size[SHELF_FILES];
    sg_stream *stream;
    sg_team *team;
    sg_expert_store s;
    sg_expert_home home[SHELF_LAYERS];
    void *tables, *arena, *landing;
    uint8_t *first_memory[SHELF_EXPERTS]; /* of areas */
    pthread_mutex_t lock;
    char message[400]; /* what went wrong first */
    /* the layer that the team works on */
    const uint32_t *hit, *count;
    uint32_t n, n_tokens;
    sg_expert_home *at;
    bool may_fail;         /* reads do */
    atomic_uint lost;      /* stretches that could not be read */
    uint32_t before, empty; /* positions of the group before; groups in a row that were empty */
    bool seen[SHELF_EXPERTS]; /* positions that came */
} shelf;

__attribute__((format(printf, 2, 3))) static inline void shelf_wrong(shelf *h, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    pthread_mutex_lock(&h->lock);
    if (!h->message[0]) vsnprintf(h->message, sizeof h->message, fmt, args);
    pthread_mutex_unlock(&h->lock);
    va_end(args);
}
#define shelf_must(h, cond, ...)                                                                                                                     \
    do {                                                                                                                                             \
        if (!(cond)) shelf_wrong(h, __VA_ARGS__);                                                                                                    \
    } while (0)
#define shelf_good(h) ck_assert_msg(!(h)->message[0], "%s", (h)->message)

/* ---- building ---- */

static inline shelf *shelf_create(void) {
    shelf *h = calloc(1, sizeof *h);
    ck_assert_ptr_nonnull(h);
    return h;
}

/* A layer whose slices of these sizes (0: none) follow each other in the files, each beginning `residue` bytes behind a block, its experts side by
 * side. In place: one slice, experts in whole blocks. Slices are in file 0, that of the down matrices in the last. */
static inline void shelf_layer(shelf *h, uint32_t n_expert, uint32_t n_slots, const size_t bytes[SG_EXPERT_SLICES], uint32_t residue, bool in_place) {
    sg_expert_home *e = &h->home[h->s.n_homes++];
    *e = (sg_expert_home) { .n_expert = n_expert, .in_place = in_place, .cache.n_slots = n_slots };
    for (int i = 0; i < SG_EXPERT_SLICES; i++) {
        if (bytes[i] == 0 || (in_place && i > 0)) continue;
        const uint32_t file = i == SG_EXPERT_DOWN ? SHELF_FILES - 1 : 0;
        const size_t apart = in_place ? round_up(bytes[i], SG_STREAM_BLOCK) : bytes[i];
        const uint64_t at = round_up(h->size[file], SG_STREAM_BLOCK) + residue;
        e->slice[i] = (sg_expert_slice) { .offset = at, .apart = apart, .bytes = bytes[i], .packed = bytes[i], .file = file };
        h->size[file] = (size_t)(at + (n_expert - 1) * apart + bytes[i]); /* the last byte of the file */
    }
    const size_t land = sg_expert_home_init(e);
    if (land > h->s.land_bytes) h->s.land_bytes = land;
}

/* After the layers: files, stream, memory. */
static inline void shelf_open(shelf *h, const sg_stream_options *o, uint32_t n_reads, uint32_t n_threads) {
    const char *list[SHELF_FILES];
    sg_expert_store *s = &h->s;
    temp_open(&h->dir);
    for (uint32_t i = 0; i < SHELF_FILES; i++) {
        snprintf(h->path[i], sizeof h->path[i], "%s/%u", h->dir.path, i);
        make_file(h->path[i], i, h->size[i]);
        list[i] = h->path[i];
    }
    ok(sg_stream_create(o, NULL, &h->stream, err));
    ok(sg_stream_open(h->stream, list, SHELF_FILES, err));
    ok(sg_team_create(n_threads, &h->team, err));
    pthread_mutex_init(&h->lock, NULL);
    s->stream = h->stream;
    s->homes = h->home;
    s->n_reads = n_reads;
    size_t slots = 0;
    for (uint32_t i = 0; i < s->n_homes; i++) {
        if (h->home[i].in_place) h->home[i].slot_bytes = s->land_bytes;
        slots += round_up(h->home[i].cache.n_slots * h->home[i].slot_bytes, SG_STREAM_BLOCK);
    }
    sg_carver c = { 0 };
    sg_expert_store_lay_out(s, &c);
    h->tables = sg_aligned_calloc(SG_CACHE_LINE, c.used, 1);
    h->arena = sg_aligned_calloc(SG_STREAM_BLOCK, slots + 1, 1);
    const size_t each = s->land_bytes + 2 * SHELF_GUARD;
    h->landing = sg_aligned_calloc(SG_STREAM_BLOCK, n_reads, each);
    ck_assert(h->tables && h->arena && h->landing && n_reads <= SHELF_EXPERTS);
    memset(h->landing, GUARD, n_reads * each);
    memset(h->arena, GUARD, slots);
    c = (sg_carver) { h->tables, 0 };
    sg_expert_store_lay_out(s, &c);
    uint8_t *at = h->arena;
    for (uint32_t i = 0; i < s->n_homes; i++) {
        h->home[i].arena = at;
        at += round_up(h->home[i].cache.n_slots * h->home[i].slot_bytes, SG_STREAM_BLOCK);
    }
    for (uint32_t i = 0; i < n_reads; i++) s->reads[i].memory = h->first_memory[i] = (uint8_t *)h->landing + i * each + SHELF_GUARD;
    sg_stream_register(h->stream, h->landing, n_reads * each);
    sg_expert_store_clear(s);
    s->always_ahead = true;
}

static inline void shelf_close(shelf *h) {
    sg_stream_destroy(&h->stream);
    for (uint32_t i = 0; i < h->s.n_reads; i++)
        for (size_t k = 0; k < SHELF_GUARD; k++) {
            ck_assert_msg(h->first_memory[i][-(ptrdiff_t)k - 1] == GUARD, "something was written %zu bytes in front of an area", k + 1);
            ck_assert_msg(h->first_memory[i][h->s.land_bytes + k] == GUARD, "something was written behind an area");
        }
    sg_team_destroy(&h->team);
    pthread_mutex_destroy(&h->lock);
    free(h->tables);
    free(h->arena);
    free(h->landing);
    temp_close(&h->dir);
    free(h);
}

/* ---- bytes ---- */

/* First byte from .. to - 1 of a slice of an expert that differs, or `to`. there: byte `from`. */
static inline size_t shelf_differs(const sg_expert_home *e, uint32_t expert, int slice, const uint8_t *there, size_t from, size_t to) {
    const sg_expert_slice *s = &e->slice[slice];
    for (size_t i = from; i < to; i++)
        if (there[i - from] != byte_at(s->file, s->offset + expert * s->apart + i)) return i;
    return to;
}

static inline const uint8_t *shelf_in_slot(const shelf *h, const sg_expert_home *e, uint32_t slot, int slice) {
    if (!e->in_place) return sg_expert_in_slot(e, slot, slice);
    return e->slot_memory[slot] + e->slice[0].offset % sg_stream_align(h->stream);
}

/* What is in slots is what the cache says. */
static inline void shelf_check_slots(shelf *h, const sg_expert_home *e) {
    uint32_t n = 0;
    for (uint32_t x = 0; x < e->n_expert; x++) {
        const uint32_t slot = e->cache.slot_of[x];
        shelf_must(h, e->resident[x] == (slot != SG_SLOT_NONE), "expert %u is said to be %s in RAM", x, e->resident[x] ? "" : "not");
        if (slot == SG_SLOT_NONE) continue;
        n++;
        if (slot >= e->cache.n_slots || e->cache.place_of[slot] != x) {
            shelf_wrong(h, "expert %u is in slot %u, which has another", x, slot);
            continue;
        }
        shelf_must(h, e->cache.flight[slot] == 0, "slot %u is still being read", slot);
        for (int i = 0; i < SG_EXPERT_SLICES; i++) {
            const size_t bytes = e->slice[i].bytes, at = shelf_differs(e, x, i, shelf_in_slot(h, e, slot, i), 0, bytes);
            shelf_must(h, at == bytes, "expert %u in slot %u: byte %zu of %zu of slice %d is wrong", x, slot, at, bytes, i);
        }
    }
    for (uint32_t slot = 0; slot < e->cache.n_slots; slot++) n -= e->cache.place_of[slot] != SG_SLOT_NONE;
    shelf_must(h, n == 0, "slots that hold nothing that is known");
}

/* No two areas have the same expert; as many are wanted as positions are being read. */
static inline void shelf_check_areas(shelf *h) {
    const sg_expert_store *s = &h->s;
    uint32_t wanted = 0, reads = 0;
    for (uint32_t i = 0; i < s->n_reads; i++) {
        const sg_expert_read *r = &s->reads[i];
        wanted += r->wanted;
        shelf_must(h, r->home || !r->wanted, "area %u is wanted and empty", i);
        for (uint32_t k = 0; k < i; k++)
            shelf_must(h, !r->home || r->home != s->reads[k].home || r->expert != s->reads[k].expert, "expert %u is read twice", r->expert);
    }
    for (uint32_t p = 0; p < s->n; p++) reads += s->read[p] != NULL;
    shelf_must(h, wanted == reads, "%u areas are wanted for %u positions", wanted, reads);
}

/* ---- computing ---- */

/* Bytes that are asked for at once: not the pieces. */
#define STRETCH ((size_t)100001)
static inline uint32_t stretches(const sg_expert_home *e, int slice) { return (uint32_t)((e->slice[slice].bytes + STRETCH - 1) / STRETCH); }

/* A stretch of a slice of the expert at a position: there, and right, and moved into the slot. */
static inline void shelf_use(shelf *h, uint32_t p, int slice, uint32_t stretch) {
    sg_expert_store *s = &h->s;
    sg_expert_home *e = h->at;
    const size_t from = stretch * STRETCH, bytes = e->slice[slice].bytes, to = bytes - from < STRETCH ? bytes : from + STRETCH;
    const uint32_t slot = s->slot[p];
    double waited = 0;
    const uint8_t *there = s->read[p] ? sg_expert_get(s, p, slice, from, to, &waited) : shelf_in_slot(h, e, slot, slice) + from;
    if (!there) {
        shelf_must(h, h->may_fail, "expert %u: nothing comes", s->expert[p]);
        atomic_fetch_add(&h->lost, 1);
        return;
    }
    if (e->in_place) shelf_must(h, there == e->at[s->expert[p]] + from, "expert %u is not where it is said to be", s->expert[p]);
    const size_t at = shelf_differs(e, s->expert[p], slice, there, from, to);
    /* of a read that fails only its own stretches are missing */
    shelf_must(h, at == to || (h->may_fail && !s->read[p]), "layer %d, expert %u, slice %d: byte %zu of %zu is wrong", (int)(e - h->home), s->expert[p], slice, at,
               bytes);
    if (s->read[p] && slot != SG_SLOT_NONE && !e->in_place) memcpy(sg_expert_in_slot(e, slot, slice) + from, there, to - from);
}

/* Slices lo .. hi - 1 of positions p0 .. p1 - 1. */
static inline void shelf_use_all(shelf *h, uint32_t p0, uint32_t p1, int lo, int hi) {
    uint32_t per = 0, i;
    for (int k = lo; k < hi; k++) per += stretches(h->at, k);
    while (sg_team_next(h->team, (p1 - p0) * per, &i)) {
        uint32_t left = i % per;
        int slice = lo;
        while (left >= stretches(h->at, slice)) left -= stretches(h->at, slice++);
        shelf_use(h, p0 + i / per, slice, left);
    }
    sg_team_barrier(h->team);
}

/* After sg_expert_demand, by one thread. */
static inline void shelf_demanded(shelf *h) {
    const sg_expert_store *s = &h->s;
    bool taken[SHELF_EXPERTS] = { false };
    shelf_must(h, s->n == h->n && s->n_here <= s->n && s->lo == s->n_here && s->hi == s->n_here, "%u positions, %u in slots, of %u", s->n, s->n_here, h->n);
    for (uint32_t p = 0; p < s->n; p++) {
        shelf_must(h, s->index[p] < h->n && h->hit[s->index[p]] == s->expert[p], "position %u: expert %u is not number %u", p, s->expert[p], s->index[p]);
        shelf_must(h, !taken[s->expert[p]], "expert %u comes twice", s->expert[p]);
        taken[s->expert[p]] = true;
        shelf_must(h, (h->at->cache.slot_of[s->expert[p]] != SG_SLOT_NONE) == (p < s->n_here), "position %u: not those in slots first", p);
    }
    h->before = 0;
    h->empty = 0;
    for (uint32_t p = 0; p < s->n; p++) h->seen[p] = p < s->n_here;
    shelf_check_areas(h);
}

/* After sg_expert_group, by one thread. False: it does not go on. */
static inline bool shelf_grouped(shelf *h) {
    const sg_expert_store *s = &h->s;
    for (uint32_t p = s->lo; p < s->hi; p++) {
        shelf_must(h, s->read[p] != NULL && !h->seen[p], "position %u is not being read, or comes twice", p);
        h->seen[p] = true;
    }
    for (uint32_t p = h->before; p < s->hi; p++)
        shelf_must(h, s->slot[p] == SG_SLOT_NONE || h->at->cache.slot_of[s->expert[p]] == s->slot[p], "expert %u had to leave its slot while in use",
                   s->expert[p]);
    h->empty = s->hi > s->lo ? 0 : h->empty + 1;
    shelf_must(h, h->empty < 2, "no group has anything: %u of %u positions came, %u are started", s->hi, s->n, s->started);
    shelf_check_areas(h);
    return h->empty < 2;
}

static inline void shelf_ended(shelf *h) {
    const sg_expert_store *s = &h->s;
    for (uint32_t p = 0; p < s->n && h->empty < 2; p++) shelf_must(h, h->seen[p], "position %u of %u never came", p, s->n);
    for (uint32_t i = 0; i < s->n_reads; i++) shelf_must(h, !s->reads[i].wanted, "area %u is still wanted", i);
}

static inline void shelf_groups(shelf *h, uint32_t thread) {
    sg_expert_store *s = &h->s;
    uint32_t lo = 0, hi = s->n_here;
    shelf_use_all(h, lo, hi, SG_EXPERT_GATE, SG_EXPERT_DOWN);
    for (;;) {
        if (thread == 0) s->more = sg_expert_group(s) && shelf_grouped(h);
        sg_team_barrier(h->team);
        const uint32_t now_lo = s->lo, now_hi = s->hi;
        const bool more = s->more;
        shelf_use_all(h, lo, hi, SG_EXPERT_DOWN, SG_EXPERT_SLICES);
        if (!more) break;
        shelf_use_all(h, now_lo, now_hi, SG_EXPERT_GATE, SG_EXPERT_DOWN);
        if (thread == 0) {
            sg_expert_done(s, lo, hi);
            shelf_check_areas(h);
            h->before = hi;
        }
        sg_team_barrier(h->team);
        lo = now_lo;
        hi = now_hi;
    }
    if (thread == 0) {
        sg_expert_end(s);
        shelf_ended(h);
    }
    sg_team_barrier(h->team);
}

/* In place: all that fit together, range by range. */
static inline void shelf_ranges(shelf *h, uint32_t thread) {
    sg_expert_store *s = &h->s;
    if (thread == 0) {
        (void)sg_expert_group(s);
        (void)shelf_grouped(h);
        shelf_must(h, s->hi == s->n, "only %u of %u positions are in memory together", s->hi, s->n);
    }
    sg_team_barrier(h->team);
    shelf_use_all(h, 0, s->n, 0, SG_EXPERT_SLICES);
    if (thread == 0) {
        sg_expert_end(s);
        shelf_ended(h);
    }
    sg_team_barrier(h->team);
}

static inline void shelf_work(void *arg, uint32_t thread) {
    shelf *h = arg;
    (h->at->in_place ? shelf_ranges : shelf_groups)(h, thread);
}

/* Experts hit[n] of a layer are needed by count[e + 1] - count[e] of n_tokens; NULL: one each. */
static inline void shelf_run(shelf *h, uint32_t layer, const uint32_t *hit, uint32_t n, const uint32_t *count, uint32_t n_tokens) {
    sg_expert_store *s = &h->s;
    h->at = &h->home[layer];
    h->count = count;
    h->n_tokens = n_tokens;
    for (uint32_t lo = 0, some; lo < n; lo += some) {
        const sg_expert_finds was = h->at->finds;
        some = h->at->in_place ? sg_expert_together(s, h->at, hit + lo, n - lo) : n;
        ck_assert_uint_ge(some, 1);
        h->hit = hit + lo;
        h->n = some;
        sg_expert_demand(s, h->at, h->hit, h->n, count, n_tokens);
        shelf_demanded(h);
        sg_team_run(h->team, shelf_work, h);
        shelf_good(h);
        const sg_expert_finds *now = &h->at->finds;
        ck_assert_uint_eq(now->slots + now->ahead + now->late + now->missed - was.slots - was.ahead - was.late - was.missed, some);
        if (h->may_fail) continue;
        shelf_check_slots(h, h->at);
        shelf_good(h);
    }
}

#endif
