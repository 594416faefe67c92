#include "runtime/exec.h"

#include <math.h>

#include "neuron_engine/matrix.h"

/* One run: the arguments of sg_exec_run as its threads see them. */
typedef struct run {
    sg_exec *e;
    sg_kv_cache *kv;
    const int32_t *tokens;
    uint32_t n, pos, n_keep;
    atomic_bool *cancel;
    sg_way way; /* of what is not in RAM */
    bool stop[2]; /* written by thread 0 before the barrier that ends a step, read by all right after it; two in turns, for thread 0 may
                   * already be at the end of the next step by then */
} run;

static float *row(const sg_exec *e, sg_buf b, uint32_t t) { return e->f32[b] + (size_t)t * e->m.plan->width[b]; }

/* First token that a step works on. */
static uint32_t first(const run *r, const sg_step *s) { return s->last_only ? r->n - r->n_keep : 0; }

/* The 8-bit form of values at .. at + n-1 of a token, at and n multiples of 32. */
static void quantise_part(const sg_vec_fns *vec, const sg_acts *acts, uint32_t t, uint32_t at, uint32_t n) {
    const size_t value = (size_t)t * acts->k + at, block = value / 32;
    sg_acts part = { 1, n, n / 32, acts->x + value, acts->q + value, acts->d + block, acts->sums + 2 * block, acts->dsum + block };
    vec->quantize_acts(&part, 0);
}

static void embed(const run *r, uint32_t thread, uint32_t threads) {
    sg_exec *e = r->e;
    const sg_matrix *table = &e->m.weights->globals[SG_T_TOKEN_EMBD].m;
    if (table->away) { /* a failure shows in sg_stream_failure */
        if (thread == 0) (void)sg_streaming_rows(e->m.streaming, table, r->tokens, r->n, e->rows, row(e, SG_BUF_X, 0), e->m.plan->width[SG_BUF_X]);
        return;
    }
    for (uint32_t t = thread; t < r->n; t += threads)
        sg_matrix_row(table, (uint32_t)r->tokens[t], row(e, SG_BUF_X, t));
}

static void norm(const run *r, const sg_step *s, uint32_t thread, uint32_t threads) {
    sg_exec *e = r->e;
    const sg_vec_fns *vec = &e->m.kernels->vec;
    const uint32_t n_embd = e->m.hp->n_embd;
    for (uint32_t t = first(r, s) + thread; t < r->n; t += threads) {
        float *x = row(e, SG_BUF_X, t);
        if (s->add) vec->add(x, row(e, SG_BUF_BRANCH, t), n_embd);
        vec->rmsnorm(row(e, s->out, t), x, s->norm, n_embd, e->m.hp->norm_eps);
        if (s->quantise) vec->quantize_acts(&e->acts[s->out], t);
        if (s->lanes) sg_lane_acts_fill(&e->ffn.x, &e->acts[s->out], t);
    }
}

/* Products with matrices that are away: piece by piece, in the order in which the pieces come. */
static void matmul_away(const run *r, const sg_step *s, const sg_acts *a, uint32_t t0, uint32_t thread) {
    sg_exec *e = r->e;
    sg_belt *belt = e->m.streaming->belt;
    uint32_t total = 0, at;
    for (uint32_t i = 0; i < s->n_products; i++)
        if (s->product[i].w->m.away) total += sg_matrix_items(&s->product[i].w->m);
    while (sg_team_next(e->team, total, &at)) {
        const sg_product *p = s->product;
        for (;; p++) {
            if (!p->w->m.away) continue;
            if (at < sg_matrix_items(&p->w->m)) break;
            at -= sg_matrix_items(&p->w->m);
        }
        const uint32_t item = p->w->m.away->item[r->way] + at;
        float *y = p->out == SG_BUF_LOGITS ? e->f32[p->out] : row(e, p->out, t0);
        const uint8_t *raw = sg_ffn_get(&e->ffn, &e->m.streaming->store, s->layer, thread, item);
        if (raw) sg_matrix_mul_item(&p->w->m, p->bias, a, y, e->m.plan->width[p->out], at, raw, e->scratch + thread * e->scratch_bytes);
        sg_belt_release(belt, item);
    }
}

/* The matrices of a step stand one behind the other in one range of row clusters, from which the threads help themselves. */
static void matmul(const run *r, const sg_step *s, uint32_t thread) {
    sg_exec *e = r->e;
    const uint32_t t0 = first(r, s);
    sg_acts a = e->acts[s->in];
    a.n = r->n - t0;
    a.x += (size_t)t0 * a.k;
    a.q += (size_t)t0 * a.k;
    a.d += (size_t)t0 * a.n_blocks;
    a.sums += (size_t)t0 * a.n_blocks * 2;
    a.dsum += (size_t)t0 * a.n_blocks;
    uint32_t total = 0, lo, hi;
    bool away = false;
    for (uint32_t i = 0; i < s->n_products; i++) {
        if (s->product[i].w->m.away) away = true;
        else total += sg_matrix_clusters(&s->product[i].w->m);
    }
    while (sg_team_take(e->team, total, 1, &lo, &hi)) {
        for (uint32_t i = 0, start = 0, end; i < s->n_products && start < hi; i++, start = end) {
            const sg_product *p = &s->product[i];
            end = p->w->m.away ? start : start + sg_matrix_clusters(&p->w->m);
            if (end <= lo || p->w->m.away) continue;
            /* Logits have a row per kept token only, other buffers one per token of the batch. */
            float *y = p->out == SG_BUF_LOGITS ? e->f32[p->out] : row(e, p->out, t0);
            sg_matrix_mul(&p->w->m, p->bias, &a, y, e->m.plan->width[p->out], lo > start ? lo - start : 0,
                          (hi < end ? hi : end) - start);
        }
    }
    if (!away) return;
    sg_team_barrier(e->team);
    matmul_away(r, s, &a, t0, thread);
}

static void rope(const run *r, const sg_step *s, uint32_t thread, uint32_t threads) {
    sg_exec *e = r->e;
    const sg_hparams *hp = e->m.hp;
    const sg_vec_fns *vec = &e->m.kernels->vec;
    const uint32_t heads = hp->n_head + hp->n_head_kv, n_rot = e->m.rope->n_rot;
    const uint64_t items = (uint64_t)r->n * heads;
    for (uint64_t i = thread; i < items; i += threads) {
        const uint32_t t = (uint32_t)(i / heads), h = (uint32_t)(i % heads);
        const bool is_q = h < hp->n_head;
        const uint32_t kv_head = is_q ? 0 : h - hp->n_head;
        float *head = is_q ? row(e, SG_BUF_Q, t) + h * hp->head_dim_k : row(e, SG_BUF_K, t) + kv_head * hp->head_dim_k;
        const float *weight = is_q ? s->q_norm : s->k_norm, *table = e->rope_table + (size_t)t * 2 * n_rot;
        if (weight) vec->rmsnorm(head, head, weight, hp->head_dim_k, hp->norm_eps);
        vec->rope(head, table, table + n_rot, n_rot, e->m.rope->adjacent);
        if (!is_q)
            sg_kv_store(&e->att, r->kv, vec, s->layer, r->pos + t, kv_head, head, row(e, SG_BUF_V, t) + kv_head * hp->head_dim_v);
    }
}

/* One token: the segments of its context are shared out, and joined behind a barrier. */
static void attention_one(const run *r, const sg_step *s, sg_attention_scratch *scratch) {
    sg_exec *e = r->e;
    const sg_vec_fns *vec = &e->m.kernels->vec;
    const uint32_t kv_heads = e->m.hp->n_head_kv, segments = sg_attention_segments(r->pos);
    uint32_t lo, hi;
    while (sg_team_take(e->team, kv_heads * segments, 1, &lo, &hi))
        for (; lo < hi; lo++)
            sg_attention_part(&e->att, r->kv, vec, scratch, s->layer, lo / segments, r->pos, lo % segments, row(e, SG_BUF_Q, 0),
                              e->attention_parts);
    sg_team_barrier(e->team);
    while (sg_team_take(e->team, kv_heads, 1, &lo, &hi))
        for (; lo < hi; lo++) sg_attention_join(&e->att, vec, scratch, lo, r->pos, e->attention_parts, row(e, s->out, 0));
}

/* Several tokens: tiles of tokens for one kv head, the last ones first, because they see the most keys. */
static void attention_many(const run *r, const sg_step *s, sg_attention_scratch *scratch) {
    sg_exec *e = r->e;
    const sg_plan *p = e->m.plan;
    const uint32_t kv_heads = e->m.hp->n_head_kv, per_tile = sg_attention_tokens(&e->att), tiles = (r->n + per_tile - 1) / per_tile;
    uint32_t lo, hi;
    while (sg_team_take(e->team, kv_heads * tiles, 1, &lo, &hi))
        for (; lo < hi; lo++) {
            const uint32_t t = (tiles - 1 - lo / kv_heads) * per_tile, n = r->n - t < per_tile ? r->n - t : per_tile;
            sg_attention_run(&e->att, r->kv, &e->m.kernels->vec, scratch, s->layer, lo % kv_heads, r->pos + t, n,
                             row(e, SG_BUF_Q, t), p->width[SG_BUF_Q], row(e, s->out, t), p->width[s->out]);
        }
}

static void attention(const run *r, const sg_step *s, uint32_t thread, uint32_t threads) {
    sg_exec *e = r->e;
    (r->n == 1 ? attention_one : attention_many)(r, s, &e->attention[thread]);
    if (!s->quantise) return;
    sg_team_barrier(e->team); /* a token's heads come from several threads */
    for (uint32_t t = thread; t < r->n; t += threads) e->m.kernels->vec.quantize_acts(&e->acts[s->out], t);
}

/* By pieces of tokens, which fit the 8-bit blocks. */
#define ACT_PIECE 1024u

/* Activations that no table of vector functions has with its product; up NULL: ungated. */
static void act_plain(const run *r, uint32_t layer, float *out, const float *gate, const float *up, uint32_t n) {
    const sg_exec_model *m = &r->e->m;
    sg_neuron_activate(m->kernels, sg_plan_act(m->hp->ffn_act), m->ffn_threshold ? m->ffn_threshold[layer] : 0, gate, out, n);
    for (uint32_t i = 0; up && i < n; i++) out[i] *= up[i];
}

static void activate(const run *r, const sg_step *s, uint32_t thread, uint32_t threads) {
    sg_exec *e = r->e;
    const sg_vec_fns *vec = &e->m.kernels->vec;
    const uint32_t n_ff = e->m.hp->n_ff, pieces = (n_ff + ACT_PIECE - 1) / ACT_PIECE;
    void (*const act)(float *, const float *, const float *, size_t) =
        !s->gated                           ? NULL
        : e->m.hp->ffn_act == SG_FFN_SILU  ? vec->silu_mul
        : e->m.hp->ffn_act == SG_FFN_RELU  ? vec->relu_mul
        : e->m.hp->ffn_act == SG_FFN_DRELU ? vec->drelu_mul
                                           : NULL;
    for (uint64_t i = thread; i < (uint64_t)r->n * pieces; i += threads) {
        const uint32_t t = (uint32_t)(i / pieces), at = (uint32_t)(i % pieces) * ACT_PIECE;
        const uint32_t n = n_ff - at < ACT_PIECE ? n_ff - at : ACT_PIECE;
        const float *up = row(e, SG_BUF_UP, t) + at, *gate = s->gated ? row(e, SG_BUF_GATE, t) + at : up;
        if (act) act(row(e, s->out, t) + at, gate, up, n);
        else act_plain(r, s->layer, row(e, s->out, t) + at, gate, s->gated ? up : NULL, n);
        if (s->quantise) quantise_part(vec, &e->acts[s->out], t, at, n);
    }
}

/* What layer s->layer's feed-forward part will see is guessed from the stream before its attention: only that is missing. */
static void look_ahead(const run *r, const sg_step *s, uint32_t thread) {
    sg_exec *e = r->e;
    if (r->way != SG_WAY_NEURONS || r->n != 1 || !e->ahead_cut || e->m.streaming->store.ahead.rests) return;
    const float *x = row(e, SG_BUF_X, 0);
    sg_acts a = e->ahead;
    if (e->m.pred_residual) a.x = x;
    if (thread == 0 && !e->m.pred_residual) {
        e->m.kernels->vec.rmsnorm((float *)(uintptr_t)a.x, x, s->norm, e->m.hp->n_embd, e->m.hp->norm_eps);
        e->m.kernels->vec.quantize_acts(&a, 0);
    }
    sg_team_barrier(e->team);
    sg_ffn_look_ahead(&e->ffn, s->layer, &a, e->ahead_cut[s->layer], e->team, thread);
}

static void ffn(const run *r, const sg_step *s, uint32_t thread) {
    sg_exec *e = r->e;
    sg_acts x = e->acts[s->in];
    x.n = r->n;
    sg_ffn_run(&e->ffn, s->layer, &x, e->f32[SG_BUF_X], NULL, e->f32[s->out], e->m.plan->width[s->out], e->team, thread);
}

static const char *const op_names[] = { [SG_OP_EMBED] = "embed",       [SG_OP_NORM] = "norm",         [SG_OP_MATMUL] = "matmul",
                                        [SG_OP_ROPE] = "rope",         [SG_OP_ATTENTION] = "attention", [SG_OP_ACTIVATE] = "activate",
                                        [SG_OP_AHEAD] = "look ahead",  [SG_OP_FFN] = "feed-forward" };

static bool failed(const sg_exec *e) { return e->m.streaming && sg_stream_failure(e->m.streaming->stream, NULL) != SG_OK; }

static void walk(void *arg, uint32_t thread) {
    run *r = arg;
    sg_exec *e = r->e;
    const uint32_t threads = sg_team_size(e->team);
    const sg_plan *p = e->m.plan;
    sg_trace *const trace = e->m.streaming ? e->m.streaming->trace : NULL;
    for (uint32_t i = 0; i < p->n_steps; i++) {
        const sg_step *s = &p->steps[i];
        if (s->last_only && r->n_keep == 0) break;
        const double begin = trace ? sg_trace_now() : 0;
        switch (s->op) {
        case SG_OP_EMBED: embed(r, thread, threads); break;
        case SG_OP_NORM: norm(r, s, thread, threads); break;
        case SG_OP_MATMUL: matmul(r, s, thread); break;
        case SG_OP_ROPE: rope(r, s, thread, threads); break;
        case SG_OP_ATTENTION: attention(r, s, thread, threads); break;
        case SG_OP_ACTIVATE: activate(r, s, thread, threads); break;
        case SG_OP_AHEAD: look_ahead(r, s, thread); break;
        case SG_OP_FFN: ffn(r, s, thread); break;
        }
        sg_trace_add(trace, SG_TRACE_STEP, op_names[s->op], thread, begin, trace ? sg_trace_now() : 0, s->layer);
        if (thread == 0) r->stop[i % 2] = (s->op == SG_OP_ATTENTION && atomic_load(r->cancel)) || failed(e);
        sg_team_barrier(e->team);
        if (r->stop[i % 2]) break;
    }
}

sg_status sg_exec_run(sg_exec *e, sg_kv_cache *kv, const int32_t *tokens, uint32_t n, uint32_t pos, uint32_t n_keep,
                      float *logits, atomic_bool *cancel, sg_error *err) {
    for (uint32_t t = 0; t < n; t++) sg_rope_table(e->m.rope, pos + t, e->rope_table + (size_t)t * 2 * e->m.rope->n_rot);
    e->f32[SG_BUF_LOGITS] = logits;
    run r = { e, kv, tokens, n, pos, n_keep, cancel, SG_WAY_CLUSTERS, { false, false } };
    sg_streaming *st = e->m.streaming;
    if (n == 1 && e->m.weights->ffn && sg_ffn_by_neurons(&e->ffn)) r.way = SG_WAY_NEURONS;
    if (st) sg_streaming_begin(st, r.way, n_keep > 0);
    const double begin = sg_trace_now();
    sg_team_run(e->team, walk, &r);
    e->f32[SG_BUF_LOGITS] = NULL;
    const bool stopped = r.stop[0] || r.stop[1];
    if (st) {
        sg_trace_add(st->trace, SG_TRACE_TOKEN, NULL, 0, begin, sg_trace_now(), pos);
        SG_TRY(sg_streaming_end(st, stopped, err));
    }
    if (stopped) return sg_fail(err, SG_E_CANCELLED, "evaluation was cancelled");
    return SG_OK;
}

/* What is needed besides when not all is in RAM. */
static void lay_out_away(sg_exec *e, sg_carver *c) {
    const sg_plan *p = e->m.plan;
    const sg_matrix *table = &e->m.weights->globals[SG_T_TOKEN_EMBD].m;
    const uint32_t threads = sg_team_size(e->team), k = p->width[SG_BUF_X];
    e->scratch_bytes = 0;
    for (uint32_t i = 0; i < p->n_steps; i++)
        for (uint32_t j = 0; j < p->steps[i].n_products; j++) {
            const sg_matrix *m = &p->steps[i].product[j].w->m;
            const uint32_t rows = sg_streaming_item_rows(e->m.weights, (size_t)sg_dtype_bytes(sg_dtype_get(m->kernel->type), m->k));
            const size_t bytes = sg_matrix_bytes(m->kernel, rows, m->k);
            if (bytes > e->scratch_bytes) e->scratch_bytes = (bytes + SG_CACHE_LINE - 1) / SG_CACHE_LINE * SG_CACHE_LINE;
        }
    e->scratch = sg_carve(c, threads, e->scratch_bytes);
    e->waited = sg_carve(c, threads, sizeof *e->waited);
    float *x = sg_carve(c, k, sizeof *x);
    e->ahead = (sg_acts){ .n = 1, .k = k, .n_blocks = k / 32, .x = x };
    e->ahead.q = sg_carve(c, k, 1);
    e->ahead.d = sg_carve(c, k / 32, sizeof *e->ahead.d);
    e->ahead.sums = sg_carve(c, k / 32, 2 * sizeof *e->ahead.sums);
    e->ahead.dsum = sg_carve(c, k / 32, sizeof *e->ahead.dsum);
    const size_t row_room = sg_belt_room((size_t)sg_dtype_bytes(sg_dtype_get(table->kernel->type), table->k));
    uint8_t *rows = sg_carve(c, SG_ROWS_AT_ONCE * row_room + SG_STREAM_BLOCK, 1);
    if (rows) e->rows = (uint8_t *)(((uintptr_t)rows + SG_STREAM_BLOCK - 1) / SG_STREAM_BLOCK * SG_STREAM_BLOCK);
    e->ffn.waited = e->waited;
    e->ffn.store = &e->m.streaming->store;
    for (uint32_t i = 0; e->m.weights->ffn && i < e->m.hp->n_layer; i++) {
        const size_t bytes = sg_ffn_slot_bytes(&e->m.weights->ffn[i].bundle.l, 1, SG_STREAM_BLOCK);
        if (bytes > e->ffn.slot_bytes) e->ffn.slot_bytes = bytes;
    }
}

static size_t lay_out(sg_exec *e, char *base) {
    sg_carver c = { base, 0 };
    for (int b = 0; b < SG_BUFS; b++) {
        if (b == SG_BUF_LOGITS) continue;
        const uint32_t width = e->m.plan->width[b];
        e->f32[b] = sg_carve(&c, (size_t)e->n_batch * width, sizeof(float));
        if (b != SG_BUF_NORMED && b != SG_BUF_ATT && b != SG_BUF_HIDDEN) continue;
        sg_acts *a = &e->acts[b];
        *a = (sg_acts){ .n = e->n_batch, .k = width, .n_blocks = width / 32, .x = e->f32[b] };
        a->q = sg_carve(&c, (size_t)e->n_batch * width, 1);
        a->d = sg_carve(&c, (size_t)e->n_batch * a->n_blocks, sizeof *a->d);
        a->sums = sg_carve(&c, (size_t)e->n_batch * a->n_blocks, 2 * sizeof *a->sums);
        a->dsum = sg_carve(&c, (size_t)e->n_batch * a->n_blocks, sizeof *a->dsum);
    }
    e->rope_table = sg_carve(&c, (size_t)e->n_batch * 2 * e->m.rope->n_rot, sizeof(float));
    const size_t heads = (size_t)e->att.n_head * sg_attention_segments(e->n_ctx - 1);
    e->attention_parts = sg_carve(&c, heads, sg_attention_part_floats(&e->att) * sizeof(float));
    e->attention = sg_carve(&c, sg_team_size(e->team), sizeof *e->attention);
    sg_attention_scratch measured;
    const size_t scratch = sg_attention_scratch_init(&measured, &e->att, NULL);
    for (uint32_t i = 0; i < sg_team_size(e->team); i++) {
        char *p = sg_carve(&c, scratch, 1);
        if (base) sg_attention_scratch_init(&e->attention[i], &e->att, p);
    }
    if (e->m.streaming) lay_out_away(e, &c);
    if (e->m.weights->ffn) {
        sg_ffn_lay_out(&e->ffn, &c);
        e->ffn.x.x = e->f32[SG_BUF_NORMED];
    }
    return c.used;
}

static sg_status begin(sg_exec *e, const sg_exec_model *m, const sg_exec_options *o, sg_error *err) {
    *e = (sg_exec){ .m = *m, .n_batch = o->n_batch, .n_ctx = o->n_ctx, .ahead_cut = o->ahead_cut };
    const sg_hparams *hp = m->hp;
    e->att = (sg_attention){ hp->n_head, hp->n_head_kv, hp->head_dim_k, hp->head_dim_v, 1.0f / sqrtf((float)hp->head_dim_k) };
    e->ffn = (sg_ffn){ .kernels = m->kernels, .layers = m->weights->ffn, .act = sg_plan_act(hp->ffn_act), .policy = o->policy,
                       .n_unit = hp->n_layer, .n_batch = o->n_batch, .n_threads = o->n_threads, .k = hp->n_embd,
                       .pred_residual = m->pred_residual };
    return sg_team_create(o->n_threads, &e->team, err);
}

uint64_t sg_exec_bytes(const sg_exec_model *m, const sg_exec_options *o) {
    sg_exec e;
    const uint64_t bytes = begin(&e, m, o, NULL) == SG_OK ? lay_out(&e, NULL) : 0;
    sg_exec_finish(&e);
    return bytes;
}

sg_status sg_exec_init(sg_exec *e, const sg_exec_model *m, const sg_exec_options *o, sg_error *err) {
    SG_TRY(begin(e, m, o, err));
    sg_status s = sg_region_create(&e->memory, lay_out(e, NULL), "the working buffers", err);
    if (s != SG_OK) {
        sg_exec_finish(e);
        return s;
    }
    lay_out(e, e->memory.data);
    if (m->weights->ffn) sg_ffn_measure(&e->ffn);
    return SG_OK;
}

void sg_exec_finish(sg_exec *e) {
    sg_team_destroy(&e->team);
    sg_region_destroy(&e->memory);
}
