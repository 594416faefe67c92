/* Steps that mix tokens: rotary embedding and the cache, attention, recurrent layers. */
#include "runtime/exec_private.h"

#include <string.h>

/* What several threads have made is brought into 8 bits where a product wants it. */
static void quantise(const sg_exec_turn *r, const sg_step *s, sg_acts *out, uint32_t thread, uint32_t threads) {
    if (!s->quantise) return;
    sg_team_barrier(r->e->team);
    for (uint32_t t = thread; t < r->n; t += threads) sg_acts_quantise(&r->e->m.kernels->vec, out, t);
}

static const float *rope_table(const sg_exec *e, uint32_t layer, uint32_t t) {
    const bool window = e->m.layer[layer].window_rope;
    return e->rope_table[window] + (size_t)t * 2 * e->rope[window]->n_rot;
}

static void turn(const sg_exec *e, uint32_t layer, uint32_t t, float *x) {
    if (!e->m.layer[layer].rope) return;
    const sg_rope *rope = e->rope[e->m.layer[layer].window_rope];
    const float *table = rope_table(e, layer, t);
    e->m.kernels->vec.rope(x, table, table + rope->n_rot, rope->n_rot, rope->adjacent);
}

/* Heads that lie side by side in the projection are normalised by themselves, or all together before. */
void sg_exec_rope(const sg_exec_turn *r, const sg_step *s, uint32_t thread, uint32_t threads) {
    sg_exec *e = r->e;
    const sg_hparams *hp = e->m.hp;
    const sg_attention *a = &e->att[s->layer];
    const sg_vec_fns *vec = &e->m.kernels->vec;
    const uint32_t n_kv = a->n_head_kv, heads = a->n_head + n_kv, k_at = a->n_head * a->q_stride, v_at = k_at + n_kv * a->head_dim_k;
    if (s->norm_whole) {
        for (uint32_t t = thread; t < r->n; t += threads) {
            float *q = sg_exec_row(e, SG_BUF_PROJ, t), *k = q + k_at;
            if (s->q_norm) vec->rmsnorm(q, q, s->q_norm, k_at, hp->norm_eps);
            if (s->k_norm) vec->rmsnorm(k, k, s->k_norm, v_at - k_at, hp->norm_eps);
        }
        sg_team_barrier(e->team);
    }
    const uint64_t items = (uint64_t)r->n * heads;
    for (uint64_t i = thread; i < items; i += threads) {
        const uint32_t t = (uint32_t)(i / heads), h = (uint32_t)(i % heads);
        const bool is_q = h < a->n_head;
        const uint32_t kv_head = is_q ? 0 : h - a->n_head;
        float *token = sg_exec_row(e, SG_BUF_PROJ, t), *head = token + (is_q ? h * a->q_stride : k_at + kv_head * a->head_dim_k);
        const float *weight = is_q ? s->q_norm : s->k_norm;
        if (weight && !s->norm_whole) vec->rmsnorm(head, head, weight, a->head_dim_k, hp->norm_eps);
        turn(e, s->layer, t, head);
        if (!is_q) sg_kv_store(a, r->kv, vec, s->layer, r->pos + t, kv_head, head, token + v_at + kv_head * a->head_dim_v);
    }
}

/* The latent vector behind its norm and the rotary key are the key of all heads, the former is the value too; of a query the rotary part
 * goes behind the place where SG_OP_HEADS puts the rest. */
void sg_exec_latent(const sg_exec_turn *r, const sg_step *s, uint32_t thread, uint32_t threads) {
    sg_exec *e = r->e;
    const sg_hparams *hp = e->m.hp;
    const sg_attention *a = &e->att[s->layer];
    const sg_vec_fns *vec = &e->m.kernels->vec;
    const uint32_t latent = hp->n_kv_lora, n_rot = hp->rope.n_rot, nope = hp->head_dim_k - n_rot;
    const sg_acts out = sg_exec_acts(e, s->out, s->width, r->n);
    for (uint32_t t = thread; t < r->n; t += threads) {
        float *key = sg_exec_row(e, s->in, t) + s->at;
        vec->rmsnorm(key, key, s->k_norm, latent, hp->norm_eps);
        turn(e, s->layer, t, key + latent);
        sg_kv_store(a, r->kv, vec, s->layer, r->pos + t, 0, key, key);
        for (uint32_t h = 0; h < hp->n_head; h++) {
            float *q = sg_exec_row(e, SG_BUF_PROJ, t) + (size_t)h * hp->head_dim_k + nope;
            turn(e, s->layer, t, q);
            memcpy(sg_exec_acts_row(&out, t) + (size_t)h * a->head_dim_k + latent, q, n_rot * sizeof *q);
        }
    }
}

/* One head at a time: its inputs of all tokens side by side, then its matrix. */
void sg_exec_heads(const sg_exec_turn *r, const sg_step *s, uint32_t thread, uint32_t threads) {
    sg_exec *e = r->e;
    const sg_vec_fns *vec = &e->m.kernels->vec;
    sg_acts out = sg_exec_acts(e, s->out, s->width, r->n);
    const uint32_t ld = s->in == SG_BUF_PROJ ? e->m.plan->width[s->in] : s->head_in * s->w->m.n;
    sg_acts x = e->head_acts[thread];
    x.n = r->n;
    x.k = s->n;
    x.n_blocks = s->n / 32;
    uint32_t lo, hi;
    while (sg_team_take(e->team, s->w->m.n, 1, &lo, &hi))
        for (; lo < hi; lo++) {
            const sg_matrix w = sg_matrix_at(&s->w->m, lo);
            for (uint32_t t = 0; t < r->n; t++) {
                memcpy(sg_exec_acts_row(&x, t), e->f32[s->in] + (size_t)t * ld + (size_t)lo * s->head_in, s->n * sizeof(float));
                if (w.kernel->acts_q8) sg_acts_quantise(vec, &x, t);
            }
            sg_matrix_mul(&w, NULL, &x, sg_exec_acts_row(&out, 0) + (size_t)lo * s->head_out, s->width, 0, sg_matrix_clusters(&w));
        }
    quantise(r, s, &out, thread, threads);
}

/* ---- attention ---- */

/* Where queries lie, and from one token to the next. */
static const float *queries(const sg_exec *e, const sg_step *s, uint32_t t, size_t *ld) {
    *ld = s->in == SG_BUF_PROJ ? e->m.plan->width[s->in] : (size_t)e->att[s->layer].n_head * e->att[s->layer].q_stride;
    return e->f32[s->in] + t * *ld;
}

/* One token: the segments of its context are shared out, and joined behind a barrier. */
static void attention_one(const sg_exec_turn *r, const sg_step *s, sg_attention_scratch *scratch, float *out) {
    sg_exec *e = r->e;
    const sg_attention *a = &e->att[s->layer];
    const sg_vec_fns *vec = &e->m.kernels->vec;
    const uint32_t units = sg_attention_units(a), segments = sg_attention_segments(a, r->pos);
    uint32_t lo, hi;
    size_t ld;
    const float *q = queries(e, s, 0, &ld);
    while (sg_team_take(e->team, units * segments, 1, &lo, &hi))
        for (; lo < hi; lo++)
            sg_attention_part(a, r->kv, vec, scratch, s->layer, lo / segments, r->pos, lo % segments, q, e->attention_parts);
    sg_team_barrier(e->team);
    while (sg_team_take(e->team, units, 1, &lo, &hi))
        for (; lo < hi; lo++) sg_attention_join(a, vec, scratch, lo, r->pos, e->attention_parts, out);
}

/* Several tokens: tiles of tokens for one unit of heads, the last ones first, because they see the most keys. */
static void attention_many(const sg_exec_turn *r, const sg_step *s, sg_attention_scratch *scratch, float *out) {
    sg_exec *e = r->e;
    const sg_attention *a = &e->att[s->layer];
    const uint32_t units = sg_attention_units(a), per_tile = sg_attention_unit_tokens(a), tiles = (r->n + per_tile - 1) / per_tile;
    uint32_t lo, hi;
    size_t ld;
    while (sg_team_take(e->team, units * tiles, 1, &lo, &hi))
        for (; lo < hi; lo++) {
            const uint32_t t = (tiles - 1 - lo / units) * per_tile, n = r->n - t < per_tile ? r->n - t : per_tile;
            const float *q = queries(e, s, t, &ld);
            sg_attention_run(a, r->kv, &e->m.kernels->vec, scratch, s->layer, lo % units, r->pos + t, n, q, ld, out + (size_t)t * s->width, s->width);
        }
}

/* The values behind each head's query are a gate of what the head gives. */
static void gate_heads(const sg_exec *e, const sg_step *s, uint32_t t, float *out) {
    const sg_attention *a = &e->att[s->layer];
    const float *gate = sg_exec_row(e, SG_BUF_PROJ, t) + a->head_dim_k;
    for (uint32_t h = 0; h < a->n_head; h++, out += a->head_dim_v) e->m.kernels->vec.sigmoid_mul(out, gate + (size_t)h * a->q_stride, out, a->head_dim_v);
}

void sg_exec_attention(const sg_exec_turn *r, const sg_step *s, uint32_t thread, uint32_t threads) {
    sg_exec *e = r->e;
    sg_acts out = sg_exec_acts(e, s->out, s->width, r->n);
    (r->n == 1 ? attention_one : attention_many)(r, s, &e->attention[thread], sg_exec_acts_row(&out, 0));
    const bool gated = e->m.gated_attention && s->in == SG_BUF_PROJ;
    if (!s->quantise && !gated) return;
    sg_team_barrier(e->team); /* a token's heads come from several threads */
    for (uint32_t t = thread; t < r->n; t += threads) {
        if (gated) gate_heads(e, s, t, sg_exec_acts_row(&out, t));
        if (s->quantise) sg_acts_quantise(&e->m.kernels->vec, &out, t);
    }
}

/* ---- recurrent layers ---- */

/* Channels handed to a thread at a time. */
#define CHANNELS 64u

void sg_exec_conv(const sg_exec_turn *r, const sg_step *s, uint32_t thread, uint32_t threads) {
    sg_exec *e = r->e;
    const sg_vec_fns *vec = &e->m.kernels->vec;
    const sg_short_conv c = { s->width, e->m.hp->n_taps, e->m.weights->layers[s->layer][SG_L_CONV].v };
    sg_acts out = sg_exec_acts(e, s->out, s->width, r->n);
    uint32_t lo, hi;
    while (sg_team_take(e->team, (s->width + CHANNELS - 1) / CHANNELS, 1, &lo, &hi))
        sg_short_conv_run(&c, vec, r->state->layers[s->layer].conv, e->f32[SG_BUF_PROJ], e->m.plan->width[SG_BUF_PROJ], sg_exec_acts_row(&out, 0), s->width,
                          r->n, lo * CHANNELS, hi * CHANNELS < s->width ? hi * CHANNELS : s->width);
    quantise(r, s, &out, thread, threads);
}

sg_delta sg_exec_delta_of(const sg_exec_model *m, uint32_t layer) {
    const sg_hparams *hp = m->hp;
    const sg_weight *w = m->weights->layers[layer];
    return (sg_delta) { .n_key = hp->n_key_heads, .n_value = hp->n_value_heads, .dk = hp->delta_dim_k, .dv = hp->delta_dim_v, .taps = hp->n_taps,
                        .key_modulo = m->value_heads_mod, .eps = hp->norm_eps, .conv = w[SG_L_CONV].v, .a = w[SG_L_DELTA_A].v,
                        .dt_bias = w[SG_L_DELTA_DT].v, .norm = w[SG_L_DELTA_NORM].v };
}

/* b and a of a token, from one matrix per key head or from two. */
static void delta_gates(const sg_exec *e, const sg_delta *d, const sg_step *s, uint32_t t, sg_delta_io *io) {
    const float *side = sg_exec_row(e, SG_BUF_SIDE, t) + (size_t)d->n_value * d->dv;
    float *beta = io->beta + (size_t)t * d->n_value, *alpha = io->alpha + (size_t)t * d->n_value;
    if (e->m.weights->layers[s->layer][SG_L_DELTA_BA].m.kernel) {
        sg_delta_split_gates(d, side, beta, alpha, 1);
        return;
    }
    memcpy(beta, side, d->n_value * sizeof *beta);
    memcpy(alpha, side + d->n_value, d->n_value * sizeof *alpha);
}

void sg_exec_delta(const sg_exec_turn *r, const sg_step *s, uint32_t thread, uint32_t threads) {
    sg_exec *e = r->e;
    const sg_vec_fns *vec = &e->m.kernels->vec;
    const sg_delta d = sg_exec_delta_of(&e->m, s->layer);
    sg_acts out = sg_exec_acts(e, s->out, s->width, r->n);
    float *qkv = e->f32[SG_BUF_PROJ];
    const size_t ld = e->m.plan->width[SG_BUF_PROJ], ld_side = e->m.plan->width[SG_BUF_SIDE];
    sg_delta_io io = { .qkv = qkv, .alpha = e->delta_gates, .beta = e->delta_gates + (size_t)e->n_batch * d.n_value, .z = e->f32[SG_BUF_SIDE],
                       .out = sg_exec_acts_row(&out, 0), .ld_qkv = ld, .ld_z = ld_side, .ld_out = s->width };
    uint32_t lo, hi;
    for (uint32_t t = thread; t < r->n; t += threads) delta_gates(e, &d, s, t, &io);
    while (sg_team_take(e->team, sg_delta_parts(&d), 1, &lo, &hi))
        sg_delta_prepare(&d, vec, r->state->layers[s->layer].conv, qkv, ld, r->n, lo, hi);
    sg_team_barrier(e->team);
    while (sg_team_take(e->team, d.n_value, 1, &lo, &hi)) sg_delta_run(&d, vec, r->state->layers[s->layer].delta, &io, r->n, lo, hi);
    quantise(r, s, &out, thread, threads);
}
