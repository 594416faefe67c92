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
    bool stop; /* written by thread 0 before the barrier that ends an attention step, read by all right after it */
} run;

static float *row(const sg_exec *e, sg_buf b, uint32_t t) { return e->f32[b] + (size_t)t * e->m.plan->width[b]; }

/* First token that a step works on. */
static uint32_t first(const run *r, const sg_step *s) { return s->last_only ? r->n - r->n_keep : 0; }

static void embed(const run *r, uint32_t thread, uint32_t threads) {
    for (uint32_t t = thread; t < r->n; t += threads)
        sg_matrix_row(&r->e->m.weights->globals[SG_T_TOKEN_EMBD].m, (uint32_t)r->tokens[t], row(r->e, SG_BUF_X, t));
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
    }
}

static void matmul(const run *r, const sg_step *s, uint32_t thread, uint32_t threads) {
    sg_exec *e = r->e;
    const uint32_t t0 = first(r, s);
    sg_acts a = e->acts[s->in];
    a.n = r->n - t0;
    a.x += (size_t)t0 * a.k;
    a.q += (size_t)t0 * a.k;
    a.d += (size_t)t0 * a.n_blocks;
    a.sums += (size_t)t0 * a.n_blocks * 2;
    for (uint32_t i = 0; i < s->n_products; i++) {
        const sg_product *p = &s->product[i];
        /* Logits have a row per kept token only, other buffers one per token of the batch. */
        float *y = p->out == SG_BUF_LOGITS ? e->f32[p->out] : row(e, p->out, t0);
        sg_matrix_mul_share(&p->w->m, p->bias, &a, y, e->m.plan->width[p->out], thread, threads);
    }
}

static void rope(const run *r, const sg_step *s, uint32_t thread, uint32_t threads) {
    sg_exec *e = r->e;
    const sg_hparams *hp = e->m.hp;
    const sg_vec_fns *vec = &e->m.kernels->vec;
    const uint32_t heads = hp->n_head + hp->n_head_kv;
    const uint64_t items = (uint64_t)r->n * heads;
    for (uint64_t i = thread; i < items; i += threads) {
        const uint32_t t = (uint32_t)(i / heads), h = (uint32_t)(i % heads);
        const bool is_q = h < hp->n_head;
        const uint32_t kv_head = is_q ? 0 : h - hp->n_head;
        float *head = is_q ? row(e, SG_BUF_Q, t) + h * hp->head_dim_k : row(e, SG_BUF_K, t) + kv_head * hp->head_dim_k;
        const float *weight = is_q ? s->q_norm : s->k_norm;
        if (weight) vec->rmsnorm(head, head, weight, hp->head_dim_k, hp->norm_eps);
        sg_rope_apply(e->m.rope, e->rope_table + (size_t)t * e->m.rope->n_rot, head);
        if (!is_q)
            sg_kv_store(&e->att, r->kv, vec, s->layer, r->pos + t, kv_head, head, row(e, SG_BUF_V, t) + kv_head * hp->head_dim_v);
    }
}

static void attention(const run *r, const sg_step *s, uint32_t thread, uint32_t threads) {
    sg_exec *e = r->e;
    const sg_hparams *hp = e->m.hp;
    float *scores = e->scores + (size_t)thread * e->n_ctx;
    /* Interleaved, because later tokens of a batch see more keys. */
    const uint64_t items = (uint64_t)r->n * hp->n_head;
    for (uint64_t i = thread; i < items; i += threads) {
        const uint32_t t = (uint32_t)(i / hp->n_head), h = (uint32_t)(i % hp->n_head);
        sg_attention_head(&e->att, r->kv, &e->m.kernels->vec, s->layer, r->pos + t, h,
                          row(e, SG_BUF_Q, t) + h * hp->head_dim_k, scores, row(e, s->out, t) + h * hp->head_dim_v);
    }
    if (!s->quantise) return;
    sg_team_barrier(e->team); /* a token's heads come from several threads */
    for (uint32_t t = thread; t < r->n; t += threads) e->m.kernels->vec.quantize_acts(&e->acts[s->out], t);
}

static void activate(const run *r, const sg_step *s, uint32_t thread, uint32_t threads) {
    sg_exec *e = r->e;
    const sg_vec_fns *vec = &e->m.kernels->vec;
    void (*const act)(float *, const float *, const float *, size_t) =
        e->m.hp->ffn_act == SG_FFN_RELU ? vec->relu_mul : e->m.hp->ffn_act == SG_FFN_DRELU ? vec->drelu_mul : vec->silu_mul;
    for (uint32_t t = thread; t < r->n; t += threads) {
        act(row(e, s->out, t), row(e, SG_BUF_GATE, t), row(e, SG_BUF_UP, t), e->m.hp->n_ff);
        if (s->quantise) vec->quantize_acts(&e->acts[s->out], t);
    }
}

static void walk(void *arg, uint32_t thread) {
    run *r = arg;
    sg_exec *e = r->e;
    const uint32_t threads = sg_team_size(e->team);
    const sg_plan *p = e->m.plan;
    for (uint32_t i = 0; i < p->n_steps; i++) {
        const sg_step *s = &p->steps[i];
        if (s->last_only && r->n_keep == 0) break;
        switch (s->op) {
        case SG_OP_EMBED: embed(r, thread, threads); break;
        case SG_OP_NORM: norm(r, s, thread, threads); break;
        case SG_OP_MATMUL: matmul(r, s, thread, threads); break;
        case SG_OP_ROPE: rope(r, s, thread, threads); break;
        case SG_OP_ATTENTION: attention(r, s, thread, threads); break;
        case SG_OP_ACTIVATE: activate(r, s, thread, threads); break;
        }
        if (thread == 0 && s->op == SG_OP_ATTENTION) r->stop = atomic_load(r->cancel);
        sg_team_barrier(e->team);
        /* Read only here: at any other step thread 0 might already have set it for a later one, and the team would part. */
        if (s->op == SG_OP_ATTENTION && r->stop) break;
    }
}

sg_status sg_exec_run(sg_exec *e, sg_kv_cache *kv, const int32_t *tokens, uint32_t n, uint32_t pos, uint32_t n_keep,
                      float *logits, atomic_bool *cancel, sg_error *err) {
    for (uint32_t t = 0; t < n; t++) sg_rope_table(e->m.rope, pos + t, e->rope_table + (size_t)t * e->m.rope->n_rot);
    e->f32[SG_BUF_LOGITS] = logits;
    run r = { e, kv, tokens, n, pos, n_keep, cancel, false };
    sg_team_run(e->team, walk, &r);
    e->f32[SG_BUF_LOGITS] = NULL;
    if (r.stop) return sg_fail(err, SG_E_CANCELLED, "evaluation was cancelled");
    return SG_OK;
}

/* Hands out pieces of the session's memory; a first pass with base NULL only measures. */
typedef struct carver {
    char *base;
    size_t used; /* SIZE_MAX once it overflowed */
} carver;

static void *carve(carver *c, size_t n, size_t size) {
    void *p = c->base ? c->base + c->used : NULL;
    uint64_t end;
    if (c->used > SIZE_MAX / 2 || !sg_mul_add(n, size, c->used + SG_CACHE_LINE - 1, &end) || end > SIZE_MAX / 2) c->used = SIZE_MAX;
    else c->used = (size_t)end / SG_CACHE_LINE * SG_CACHE_LINE;
    return p;
}

static size_t lay_out(sg_exec *e, char *base) {
    carver c = { base, 0 };
    for (int b = 0; b < SG_BUFS; b++) {
        if (b == SG_BUF_LOGITS) continue;
        const uint32_t width = e->m.plan->width[b];
        e->f32[b] = carve(&c, (size_t)e->n_batch * width, sizeof(float));
        if (b != SG_BUF_NORMED && b != SG_BUF_ATT && b != SG_BUF_HIDDEN) continue;
        sg_acts *a = &e->acts[b];
        *a = (sg_acts){ .n = e->n_batch, .k = width, .n_blocks = width / 32, .x = e->f32[b] };
        a->q = carve(&c, (size_t)e->n_batch * width, 1);
        a->d = carve(&c, (size_t)e->n_batch * a->n_blocks, sizeof *a->d);
        a->sums = carve(&c, (size_t)e->n_batch * a->n_blocks, 2 * sizeof *a->sums);
    }
    e->rope_table = carve(&c, (size_t)e->n_batch * e->m.rope->n_rot, sizeof(float));
    e->scores = carve(&c, (size_t)sg_team_size(e->team) * e->n_ctx, sizeof(float));
    return c.used;
}

sg_status sg_exec_init(sg_exec *e, const sg_exec_model *m, uint32_t n_threads, uint32_t n_batch, uint32_t n_ctx, sg_error *err) {
    *e = (sg_exec){ .m = *m, .n_batch = n_batch, .n_ctx = n_ctx };
    const sg_hparams *hp = m->hp;
    e->att = (sg_attention){ hp->n_head, hp->n_head_kv, hp->head_dim_k, hp->head_dim_v, 1.0f / sqrtf((float)hp->head_dim_k) };
    SG_TRY(sg_team_create(n_threads, &e->team, err));
    sg_status s = sg_region_create(&e->memory, lay_out(e, NULL), "the working buffers", err);
    if (s == SG_OK) lay_out(e, e->memory.data);
    else sg_exec_finish(e);
    return s;
}

void sg_exec_finish(sg_exec *e) {
    sg_team_destroy(&e->team);
    sg_region_destroy(&e->memory);
}
