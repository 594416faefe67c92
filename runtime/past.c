#include "runtime/past.h"

#include <stdlib.h>
#include <string.h>

/* What the layers are, for the two parts. */
typedef struct shapes {
    sg_attention *attention;
    sg_recurrent_shape *recurrent;
} shapes;

static sg_status get_shapes(const sg_exec_model *m, shapes *s, sg_error *err) {
    const uint32_t n_layer = m->hp->n_layer;
    *s = (shapes) { calloc(n_layer + 1, sizeof *s->attention), calloc(n_layer + 1, sizeof *s->recurrent) };
    if (!s->attention || !s->recurrent) {
        free(s->attention);
        free(s->recurrent);
        return sg_fail(err, SG_E_NOMEM, "out of memory");
    }
    sg_exec_attention_layers(m, s->attention);
    sg_exec_recurrent_layers(m, s->recurrent);
    return SG_OK;
}

static bool is_recurrent(const sg_exec_model *m) {
    for (uint32_t i = 0; i < m->hp->n_layer; i++)
        if (m->layer[i].mixer == SG_MIX_CONV || m->layer[i].mixer == SG_MIX_DELTA) return true;
    return false;
}

sg_status sg_past_need(const sg_exec_model *m, sg_kv_type type, uint32_t n_ctx, uint32_t n_batch, uint32_t n_copies, uint64_t *bytes, sg_error *err) {
    shapes s;
    SG_TRY(get_shapes(m, &s, err));
    *bytes = sg_kv_bytes(type, s.attention, m->hp->n_layer, n_ctx, n_batch);
    if (is_recurrent(m) && !sg_mul_add(sg_recurrent_bytes(s.recurrent, m->hp->n_layer), 1 + (uint64_t)n_copies, *bytes, bytes)) *bytes = UINT64_MAX / 2;
    free(s.attention);
    free(s.recurrent);
    return SG_OK;
}

static sg_status make_copies(sg_past *p, uint32_t n, sg_error *err) {
    const size_t bytes = (sg_recurrent_flat_bytes(&p->state) + SG_CACHE_LINE - 1) / SG_CACHE_LINE * SG_CACHE_LINE;
    if (n == 0 || bytes == 0) return SG_OK;
    if (bytes > SIZE_MAX / n) return sg_fail(err, SG_E_NOMEM, "%u copies of the recurrent state are too large", n);
    SG_TRY(sg_region_create(&p->memory, bytes * n, "copies of the recurrent state", err));
    p->copies = calloc(n, sizeof *p->copies);
    if (!p->copies) return sg_fail(err, SG_E_NOMEM, "out of memory");
    for (uint32_t i = 0; i < n; i++) p->copies[i].data = (uint8_t *)p->memory.data + i * bytes;
    p->n_copies = n;
    return SG_OK;
}

sg_status sg_past_init(sg_past *p, const sg_exec_model *m, sg_kv_type type, uint32_t n_ctx, uint32_t n_batch, uint32_t n_copies, sg_error *err) {
    *p = (sg_past) { .recurrent = is_recurrent(m) };
    shapes s;
    SG_TRY(get_shapes(m, &s, err));
    sg_status status = sg_kv_init(&p->kv, type, m->kernels, s.attention, m->hp->n_layer, n_ctx, n_batch, err);
    if (status == SG_OK && p->recurrent) status = sg_recurrent_init(&p->state, s.recurrent, m->hp->n_layer, err);
    if (status == SG_OK && p->recurrent) status = make_copies(p, n_copies, err);
    free(s.attention);
    free(s.recurrent);
    return status;
}

void sg_past_finish(sg_past *p) {
    sg_kv_finish(&p->kv);
    sg_recurrent_finish(&p->state);
    sg_region_destroy(&p->memory);
    free(p->copies);
    *p = (sg_past) { 0 };
}

uint64_t sg_past_bytes(const sg_past *p) { return p->kv.k.size + p->kv.v.size + p->state.memory.size + p->memory.size; }

/* ---- going back ---- */

static uint32_t begin_anew(sg_past *p) {
    if (p->recurrent) sg_recurrent_clear(&p->state);
    for (uint32_t i = 0; i < p->n_copies; i++) p->copies[i].when = 0;
    p->high = p->held = p->from = p->at = 0;
    return 0;
}

static bool can_go_on(const sg_past *p, uint32_t n) { return n > 0 && n >= p->from && sg_kv_can_rewind(&p->kv, p->high, n); }

/* A state goes on where it stands, or where a copy does; keys and values are there as far as either is. */
static uint32_t go_to_state(sg_past *p, uint32_t n) {
    if (p->at == n && can_go_on(p, n)) return n;
    const sg_past_copy *best = NULL;
    for (uint32_t i = 0; i < p->n_copies; i++) {
        const sg_past_copy *c = &p->copies[i];
        if (c->when > 0 && (!best || c->pos > best->pos) && can_go_on(p, c->pos)) best = c;
    }
    if (!best) return begin_anew(p);
    sg_recurrent_restore(&p->state, best->data);
    return p->at = best->pos;
}

uint32_t sg_past_go_to(sg_past *p, uint32_t n) {
    if (n == 0) return begin_anew(p);
    /* What lies behind is of another text from here on. */
    if (p->held > n) p->held = n;
    for (uint32_t i = 0; i < p->n_copies; i++)
        if (p->copies[i].pos > n) p->copies[i].when = 0;
    if (p->recurrent) return go_to_state(p, n);
    return can_go_on(p, p->held) ? p->held : begin_anew(p);
}

void sg_past_wrote(sg_past *p, uint32_t end, bool good) {
    if (end > p->high) p->high = end;
    if (good) p->held = end;
    p->at = good ? end : SG_PAST_LOST;
}

void sg_past_keep(sg_past *p) {
    if (p->n_copies == 0 || p->at == SG_PAST_LOST || p->at == 0) return;
    sg_past_copy *oldest = &p->copies[0];
    for (uint32_t i = 0; i < p->n_copies; i++) {
        if (p->copies[i].when > 0 && p->copies[i].pos == p->at) return;
        if (p->copies[i].when < oldest->when) oldest = &p->copies[i];
    }
    sg_recurrent_save(&p->state, oldest->data);
    oldest->pos = p->at;
    oldest->when = ++p->clock;
}

/* ---- saving ---- */

static bool has_windows(const sg_kv_cache *c) {
    for (uint32_t i = 0; i < c->n_layer; i++)
        if (c->layers[i].window > 0) return true;
    return false;
}

sg_past_mark sg_past_get_mark(const sg_past *p, uint32_t n) {
    sg_past_mark m = { n, 0, 0 };
    if (has_windows(&p->kv)) {
        const uint32_t intact = sg_kv_intact_from(&p->kv, p->high);
        m.from = n > SG_KV_SAVED ? n - SG_KV_SAVED : 0;
        if (m.from < intact) m.from = intact;
        if (m.from < p->from) m.from = p->from;
    }
    for (uint32_t i = 0; i < p->n_copies; i++) {
        const sg_past_copy *c = &p->copies[i];
        if (c->when > 0 && c->pos < n && c->pos > m.copy && can_go_on(p, c->pos)) m.copy = c->pos;
    }
    return m;
}

bool sg_past_mark_is_valid(const sg_past *p, const sg_past_mark *m) {
    const bool back = has_windows(&p->kv) ? m->from <= m->n && m->n - m->from <= SG_KV_SAVED : m->from == 0;
    return back && (m->copy == 0 || (p->recurrent && m->copy < m->n));
}

uint64_t sg_past_mark_bytes(const sg_past *p, const sg_past_mark *m) {
    const uint64_t state = p->recurrent ? sg_recurrent_flat_bytes(&p->state) : 0;
    return sg_kv_range_bytes(&p->kv, m->from, m->n) + (m->copy > 0 ? 2 : 1) * state;
}

uint64_t sg_past_layout(const sg_past *p) { return sg_kv_layout_id(&p->kv) * 31 + (p->recurrent ? sg_recurrent_flat_bytes(&p->state) : 0); }

bool sg_past_save(sg_past *p, const sg_past_mark *m, sg_kv_range_fn move, void *user) {
    const size_t state = sg_recurrent_flat_bytes(&p->state);
    if (!sg_kv_ranges(&p->kv, m->from, m->n, move, user)) return false;
    for (uint32_t i = 0; m->copy > 0 && i < p->n_copies; i++)
        if (p->copies[i].when > 0 && p->copies[i].pos == m->copy && !move(user, p->copies[i].data, state)) return false;
    return !p->recurrent || move(user, p->state.values, state);
}

/* The copy passes through the state, so that a past without places for copies reads it too. */
bool sg_past_load(sg_past *p, const sg_past_mark *m, sg_kv_range_fn move, void *user) {
    const size_t state = sg_recurrent_flat_bytes(&p->state);
    if (!sg_kv_ranges(&p->kv, m->from, m->n, move, user)) return false;
    if (m->copy > 0) {
        if (!move(user, p->state.values, state)) return false;
        p->at = m->copy;
        sg_past_keep(p);
    }
    if (p->recurrent && !move(user, p->state.values, state)) return false;
    p->high = p->held = p->at = m->n;
    p->from = m->from;
    return true;
}
