/* The experts of a layer that are not all in RAM.
 *
 *   gates and ups of those in slots                                  reads of the others are under way
 *   activations
 *   downs of those, then (of a batch behind a barrier) gates and ups of the first group that is read, as its pieces arrive
 *   activations, downs of these, gates and ups of the next group ... */
#include <string.h>

#include "neuron_engine/experts.h"

#define ITEM_BYTES ((size_t)128 << 10)

uint32_t sg_experts_item_rows(size_t row_bytes) {
    const size_t clusters = ITEM_BYTES / (row_bytes * SG_ROW_CLUSTER);
    return (clusters > 0 ? (uint32_t)clusters : 1) * SG_ROW_CLUSTER;
}

/* Positions of the store (expert_store.h). */
typedef struct group {
    uint32_t lo, hi;
} group;

static size_t row_bytes(const sg_matrix *w) { return (size_t)sg_dtype_bytes(sg_dtype_get(w->kernel->type), w->k); }
static uint32_t items(const sg_matrix *w) {
    const uint32_t rows = sg_experts_item_rows(row_bytes(w));
    return (w->rows + rows - 1) / rows;
}

/* Rows row0 .. row0 + n - 1 of a matrix of the expert at a position, packed: in its slot, in the thread's scratch memory if it has none. NULL: a read
 * failed. */
static const void *rows_of(const sg_experts_turn *t, const sg_experts_product *m, uint32_t p, uint32_t row0, uint32_t n) {
    const sg_experts *e = t->e;
    sg_expert_store *s = t->l->home->store;
    const size_t row = row_bytes(m->w), at = sg_matrix_bytes(m->w->kernel, row0, m->w->k);
    uint8_t *dst = s->slot[p] != SG_SLOT_NONE ? sg_expert_in_slot(t->l->home, s->slot[p], m->slice) + at : e->scratch + t->thread * e->item_bytes;
    if (!s->read[p]) return dst;
    double waited = 0;
    const uint8_t *raw = sg_expert_get(s, p, m->slice, row0 * row, (row0 + n) * row, &waited);
    if (waited > 0) {
        const double end = sg_trace_now();
        e->waited[t->thread].seconds += waited;
        sg_trace_add(e->trace, SG_TRACE_WAIT, NULL, t->thread, end - waited, end, 0);
    }
    if (!raw) return NULL;
    if (m->w->kernel->pack) m->w->kernel->pack(dst, raw, n, m->w->k);
    else memcpy(dst, raw, n * row);
    return dst;
}

static void multiply(const sg_experts_turn *t, const sg_experts_product *m, uint32_t p, uint32_t item) {
    const uint32_t expert = t->l->home->store->expert[p], first = t->e->start[expert], rows = sg_experts_item_rows(row_bytes(m->w));
    const uint32_t row0 = item * rows, n = m->w->rows - row0 < rows ? m->w->rows - row0 : rows;
    const sg_matrix w = { .kernel = m->w->kernel, .data = rows_of(t, m, p, row0, n), .rows = n, .k = m->w->k };
    sg_stream_poll(t->l->home->store->stream);
    if (!w.data) return; /* the run ends with an error, see sg_stream_failure */
    const sg_acts a = sg_experts_input(t, m, expert);
    sg_matrix_mul(&w, m->bias ? m->bias + (size_t)expert * m->w->rows + row0 : NULL, &a, m->y + first * m->ldy + row0, m->ldy, 0, sg_matrix_clusters(&w));
}

/* The downs of one group, then the gates and ups of another, in the order in which they are read. */
static void products(const sg_experts_turn *t, group down, group first) {
    /* gate and up may be of different types, and so have other items */
    const uint32_t gates = items(t->first[0].w), per_first = gates + items(t->first[1].w), per_down = items(t->second.w);
    const uint32_t n_down = (down.hi - down.lo) * per_down, total = n_down + per_first * (first.hi - first.lo);
    uint32_t i;
    while (sg_team_next(t->team, total, &i)) {
        if (i < n_down) {
            multiply(t, &t->second, down.lo + i / per_down, i % per_down);
            continue;
        }
        const uint32_t at = i - n_down, in_expert = at % per_first, up = in_expert >= gates;
        multiply(t, &t->first[up], first.lo + at / per_first, up ? in_expert - gates : in_expert);
    }
}

/* The next group as all threads see it, behind a barrier. */
static bool next_group(const sg_experts_turn *t, group *g) {
    sg_expert_store *s = t->l->home->store;
    if (t->thread == 0) s->more = sg_expert_group(s);
    sg_team_barrier(t->team);
    *g = (group) { s->lo, s->hi };
    return s->more;
}

static void activate(const sg_experts_turn *t, group g) {
    sg_experts_activate(t, t->l->home->store->expert + g.lo, g.hi - g.lo);
    sg_team_barrier(t->team);
}

void sg_experts_run_away(const sg_experts_turn *t) {
    sg_expert_store *s = t->l->home->store;
    group before = { 0, s->n_here }, now;
    if (s->n_here > 0) {
        sg_experts_in_ram(t, t->first, 2, s->expert, s->slot, s->n_here);
        sg_team_barrier(t->team);
        activate(t, before);
    }
    if (s->n_here == s->n || s->n_tokens > 1) { /* of a batch those in slots are done with first: what is used more may have the slots of others */
        sg_experts_in_ram(t, &t->second, 1, s->expert, s->slot, s->n_here);
        sg_team_barrier(t->team);
        if (t->thread == 0) sg_expert_done(s, 0, s->n_here);
        before = (group) { 0, 0 };
    }
    while (next_group(t, &now)) {
        products(t, before, now);
        sg_team_barrier(t->team);
        if (t->thread == 0) sg_expert_done(s, before.lo, before.hi);
        activate(t, now);
        before = now;
    }
    if (s->n_here < s->n) {
        products(t, before, (group) { 0, 0 });
        sg_team_barrier(t->team);
    }
    if (t->thread == 0) sg_expert_end(s);
}
