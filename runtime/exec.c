#include "runtime/exec_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "neuron_engine/matrix.h"

typedef sg_exec_turn run;

static float *row(const sg_exec *e, sg_buf b, uint32_t t) { return sg_exec_row(e, b, t); }

/* First token that a step works on. */
static uint32_t first(const run *r, const sg_step *s) { return s->last_only ? r->n - r->n_keep : 0; }

/* The row of a token that is kept, or NULL. */
static const float *kept_row(const sg_exec *e, int32_t token) {
    for (uint32_t i = 0; i < e->n_kept; i++)
        if (e->kept[i] == token) return e->kept_rows + (size_t)i * e->m.hp->n_embd;
    return NULL;
}

/* Rows of the table from the file; each is read once, by the run before if that looked for it. A failure shows in sg_stream_failure. */
static void rows_away(sg_exec *e, const sg_matrix *table, const int32_t *tokens, uint32_t n, float *out, size_t ld) {
    for (uint32_t t = 0, end; t < n; t = end) {
        const float *kept = kept_row(e, tokens[t]);
        end = t + 1;
        if (kept) {
            memcpy(out + t * ld, kept, table->k * sizeof *out);
            continue;
        }
        while (end < n && !kept_row(e, tokens[end])) end++;
        (void)sg_streaming_rows(e->m.streaming, table, tokens + t, end - t, e->rows, out + t * ld, ld);
    }
}

static void keep_rows(sg_exec *e, const int32_t *tokens, uint32_t n, const float *rows, size_t ld) {
    e->n_kept = n < SG_EXPECT_TOKENS ? n : SG_EXPECT_TOKENS;
    for (uint32_t i = 0; i < e->n_kept; i++) {
        e->kept[i] = tokens[i];
        memcpy(e->kept_rows + (size_t)i * e->m.hp->n_embd, rows + i * ld, e->m.hp->n_embd * sizeof *rows);
    }
}

void sg_exec_embed(const sg_exec_turn *r, const int32_t *tokens, uint32_t n, uint32_t pos, float *out, size_t ld, bool keep, uint32_t thread) {
    sg_exec *e = r->e;
    const sg_vec_fns *vec = &e->m.kernels->vec;
    const sg_hparams *hp = e->m.hp;
    const sg_matrix *table = &e->m.weights->globals[SG_T_TOKEN_EMBD].m, *positions = &e->m.weights->globals[SG_T_POS_EMBD].m;
    if (table->away) {
        if (thread == 0) rows_away(e, table, tokens, n, out, ld);
        if (thread == 0 && keep) keep_rows(e, tokens, n, out, ld);
        sg_team_barrier(e->team);
    }
    for (uint32_t t = thread; t < n; t += sg_team_size(e->team)) {
        float *x = out + t * ld;
        if (!table->away) sg_matrix_row(table, (uint32_t)tokens[t], x);
        if (hp->embd_scale != 1) vec->scale(x, hp->n_embd, hp->embd_scale);
        if (!positions->kernel) continue;
        sg_matrix_row(positions, pos + t, row(e, SG_BUF_BRANCH, t));
        vec->add(x, row(e, SG_BUF_BRANCH, t), hp->n_embd);
    }
}

void sg_exec_norm(const sg_exec *e, float *out, const float *x, const float *w, const float *b, uint32_t n) {
    const sg_vec_fns *vec = &e->m.kernels->vec;
    if (!w) memcpy(out, x, n * sizeof *out);
    else if (e->m.norm == SG_NORM_LAYER) vec->layernorm(out, x, w, b, n, e->m.hp->norm_eps);
    else vec->rmsnorm(out, x, w, n, e->m.hp->norm_eps);
}

/* What waits is added to the residual stream. */
static void add_branch(const run *r, const sg_step *s, sg_buf branch, uint32_t t) {
    sg_exec *e = r->e;
    const sg_vec_fns *vec = &e->m.kernels->vec;
    float *x = row(e, SG_BUF_X, t), *y = row(e, branch, t);
    if (s->post_norm) sg_exec_norm(e, y, y, s->post_norm, NULL, s->n);
    if (e->m.hp->residual_scale != 1) vec->axpy(x, y, s->n, e->m.hp->residual_scale);
    else vec->add(x, y, s->n);
}

static void norm(const run *r, const sg_step *s, uint32_t thread, uint32_t threads) {
    sg_exec *e = r->e;
    const sg_vec_fns *vec = &e->m.kernels->vec;
    sg_acts out = sg_exec_acts(e, s->out, s->width, r->n);
    for (uint32_t t = first(r, s) + thread; t < r->n; t += threads) {
        if (s->add) add_branch(r, s, SG_BUF_BRANCH, t);
        if (s->add_both) add_branch(r, s, SG_BUF_BRANCH2, t);
        if (s->plain) vec->rmsnorm(sg_exec_acts_row(&out, t), row(e, s->in, t) + s->at, e->ones, s->n, e->m.hp->norm_eps);
        else sg_exec_norm(e, sg_exec_acts_row(&out, t), row(e, s->in, t) + s->at, s->norm, s->norm_bias, s->n);
        if (s->quantise) sg_acts_quantise(vec, &out, t);
        if (s->quantise_x) sg_acts_quantise(vec, &e->acts[SG_BUF_X], t);
        if (s->lanes) sg_lane_acts_fill_both(&e->ffn.x, &out, t);
    }
}

/* Where the product of a matrix goes. Logits have a row per kept token only, other buffers one per token of the batch. */
static float *target(const run *r, const sg_product *p, uint32_t t0) {
    return (p->out == SG_BUF_LOGITS ? r->e->f32[p->out] : row(r->e, p->out, t0)) + p->at;
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
        const uint8_t *raw = sg_ffn_get(&e->ffn, &e->m.streaming->store, s->layer, thread, item);
        if (raw)
            sg_matrix_mul_item(&p->w->m, p->bias, a, target(r, p, t0), e->m.plan->width[p->out], at, raw, e->scratch + thread * e->scratch_bytes);
        sg_belt_release(belt, item);
    }
}

/* The matrices of a step stand one behind the other in one range of row clusters, from which the threads help themselves. */
static void matmul(const run *r, const sg_step *s, uint32_t thread) {
    sg_exec *e = r->e;
    const uint32_t t0 = first(r, s);
    const sg_acts all = sg_exec_acts(e, s->in, s->product[0].w->m.k, r->n), a = sg_acts_rows(&all, t0, r->n - t0);
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
            sg_matrix_mul(&p->w->m, p->bias, &a, target(r, p, t0), e->m.plan->width[p->out], lo > start ? lo - start : 0,
                          (hi < end ? hi : end) - start);
        }
    }
    if (!away) return;
    sg_team_barrier(e->team);
    matmul_away(r, s, &a, t0, thread);
}

/* Logits handed to a thread at a time. */
#define LOGIT_PIECE 4096u

static void logits(const run *r, uint32_t thread, uint32_t threads) {
    sg_exec *e = r->e;
    const sg_hparams *hp = e->m.hp;
    const uint32_t pieces = (hp->n_vocab + LOGIT_PIECE - 1) / LOGIT_PIECE;
    for (uint32_t i = thread; i < r->n_keep * pieces; i += threads) {
        const uint32_t at = i % pieces * LOGIT_PIECE, n = hp->n_vocab - at < LOGIT_PIECE ? hp->n_vocab - at : LOGIT_PIECE;
        float *x = e->f32[SG_BUF_LOGITS] + (size_t)(i / pieces) * hp->n_vocab + at;
        if (hp->logit_scale != 1) e->m.kernels->vec.scale(x, n, hp->logit_scale);
        if (hp->final_softcap > 0) e->m.kernels->vec.softcap(x, n, hp->final_softcap);
    }
}

static const char *const op_names[] = {
    [SG_OP_EMBED] = "embed",         [SG_OP_NORM] = "norm",       [SG_OP_MATMUL] = "matmul",   [SG_OP_ROPE] = "rope",
    [SG_OP_LATENT] = "latent",       [SG_OP_HEADS] = "heads",     [SG_OP_ATTENTION] = "attention", [SG_OP_CONV] = "convolution",
    [SG_OP_DELTA] = "delta net",     [SG_OP_ACTIVATE] = "activate", [SG_OP_ROUTE] = "route",   [SG_OP_EXPERTS] = "experts",
    [SG_OP_COMBINE] = "combine",     [SG_OP_AHEAD] = "look ahead", [SG_OP_EXPECT] = "expect experts", [SG_OP_PREGATE] = "pre-gate",
    [SG_OP_FFN] = "feed-forward",    [SG_OP_LOGITS] = "logits",
};

static bool failed(const sg_exec *e) { return e->m.streaming && sg_stream_failure(e->m.streaming->stream, NULL) != SG_OK; }

static void step(const run *r, const sg_step *s, uint32_t thread, uint32_t threads) {
    switch (s->op) {
    case SG_OP_EMBED: sg_exec_embed(r, r->tokens, r->n, r->pos, row(r->e, SG_BUF_X, 0), r->e->m.plan->width[SG_BUF_X], false, thread); break;
    case SG_OP_NORM: norm(r, s, thread, threads); break;
    case SG_OP_MATMUL: matmul(r, s, thread); break;
    case SG_OP_ROPE: sg_exec_rope(r, s, thread, threads); break;
    case SG_OP_LATENT: sg_exec_latent(r, s, thread, threads); break;
    case SG_OP_HEADS: sg_exec_heads(r, s, thread, threads); break;
    case SG_OP_ATTENTION: sg_exec_attention(r, s, thread, threads); break;
    case SG_OP_CONV: sg_exec_conv(r, s, thread, threads); break;
    case SG_OP_DELTA: sg_exec_delta(r, s, thread, threads); break;
    case SG_OP_ACTIVATE: sg_exec_activate(r, s, thread, threads); break;
    case SG_OP_ROUTE: sg_exec_route(r, s, thread, threads); break;
    case SG_OP_EXPERTS: sg_exec_experts(r, s, thread); break;
    case SG_OP_COMBINE: sg_exec_combine(r, s, thread, threads); break;
    case SG_OP_AHEAD: sg_exec_look_ahead(r, s, thread); break;
    case SG_OP_EXPECT: sg_exec_expect(r, s, thread); break;
    case SG_OP_PREGATE: sg_exec_pregate(r, s, thread); break;
    case SG_OP_FFN: sg_exec_ffn(r, s, thread); break;
    case SG_OP_LOGITS: logits(r, thread, threads); break;
    }
}

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
        step(r, s, thread, threads);
        sg_trace_add(trace, SG_TRACE_STEP, op_names[s->op], thread, begin, trace ? sg_trace_now() : 0, s->layer);
        if (thread == 0) r->stop[i % 2] = (s->op == SG_OP_NORM && atomic_load(r->cancel)) || failed(e);
        sg_team_barrier(e->team);
        if (s->op == SG_OP_EMBED && e->on_rows && thread == 0) /* the step behind it only reads the stream */
            e->on_rows(e->on_rows_user, SG_SEEN_EMBEDDED, 0, row(e, SG_BUF_X, 0), p->width[SG_BUF_X], r->n);
        if (r->stop[i % 2]) break;
    }
}

sg_status sg_exec_run(sg_exec *e, sg_kv_cache *kv, sg_recurrent_state *state, const int32_t *tokens, uint32_t n, uint32_t pos, uint32_t n_keep,
                      float *logits, atomic_bool *cancel, sg_error *err) {
    for (int i = 0; i < 2; i++)
        for (uint32_t t = 0; e->rope[i]->n_rot > 0 && t < n; t++)
            sg_rope_table(e->rope[i], pos + t, e->rope_table[i] + (size_t)t * 2 * e->rope[i]->n_rot);
    e->f32[SG_BUF_LOGITS] = logits;
    run r = { e, kv, state, tokens, n, pos, n_keep, cancel, SG_WAY_CLUSTERS, { false, false } };
    sg_streaming *st = e->m.streaming;
    if (n == 1 && e->m.weights->ffn && sg_ffn_by_neurons(&e->ffn)) r.way = SG_WAY_NEURONS;
    if (st) sg_streaming_begin(st, r.way, n == 1, n_keep > 0);
    if (st) e->experts.trace = st->trace;
    const double begin = sg_trace_now();
    sg_team_run(e->team, walk, &r);
    e->f32[SG_BUF_LOGITS] = NULL;
    const bool stopped = r.stop[0] || r.stop[1];
    if (stopped) e->n_kept = 0; /* a row may have failed */
    if (st) {
        sg_trace_add(st->trace, SG_TRACE_TOKEN, NULL, 0, begin, sg_trace_now(), pos);
        SG_TRY(sg_streaming_end(st, stopped, err));
    }
    if (stopped) return sg_fail(err, SG_E_CANCELLED, "evaluation was cancelled");
    return SG_OK;
}
