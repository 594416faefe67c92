/* The executor's memory, and what it takes from the description. */
#include "runtime/exec_private.h"

#include <stdlib.h>

static bool is_acts(sg_buf b) { return b == SG_BUF_X || (b >= SG_BUF_NORMED && b <= SG_BUF_HIDDEN); }

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
    const sg_matrix *pregate = &e->m.weights->globals[SG_T_PREGATE].m;
    const uint32_t guesses = e->m.hp->n_expert > 0 && e->n_batch > 1 ? SG_EXPECT_TOKENS : 1;
    float *x = sg_carve(c, (size_t)guesses * k, sizeof *x);
    sg_acts_lay_out(&e->ahead, c, guesses, k, false, false);
    e->ahead.x = x;
    const size_t row_room = sg_belt_room((size_t)sg_dtype_bytes(sg_dtype_get(table->kernel->type), table->k));
    uint8_t *rows = sg_carve(c, SG_ROWS_AT_ONCE * row_room + SG_STREAM_BLOCK, 1);
    if (rows) e->rows = (uint8_t *)(((uintptr_t)rows + SG_STREAM_BLOCK - 1) / SG_STREAM_BLOCK * SG_STREAM_BLOCK);
    e->expect_scores = sg_carve(c, (size_t)guesses * e->m.hp->n_expert, sizeof *e->expect_scores);
    e->expect_weight = sg_carve(c, e->m.hp->n_expert_used, sizeof *e->expect_weight);
    e->expect_expert = sg_carve(c, e->m.hp->n_expert + e->m.hp->n_expert_used, sizeof *e->expect_expert);
    e->expect_uses = sg_carve(c, e->m.hp->n_expert, sizeof *e->expect_uses);
    if (pregate->kernel) {
        e->pregate = sg_carve(c, (size_t)guesses * pregate->rows, sizeof *e->pregate);
        e->pregate_scores = sg_carve(c, threads, (e->m.hp->n_expert + e->m.hp->n_expert_used) * sizeof *e->pregate_scores);
        e->pregate_experts = sg_carve(c, threads, (2 * e->m.hp->n_expert + e->m.hp->n_expert_used) * sizeof *e->pregate_experts);
        e->kept_rows = sg_carve(c, (size_t)guesses * k, sizeof *e->kept_rows);
    }
    e->ffn.waited = e->experts.waited = e->waited;
    e->ffn.store = &e->m.streaming->store;
    for (uint32_t i = 0; i < e->m.weights->n_units; i++) {
        if (e->m.weights->ffn[i].bundle.l.n_expert > 0) continue;
        const size_t bytes = sg_ffn_slot_bytes(&e->m.weights->ffn[i].bundle.l, 1, SG_STREAM_BLOCK);
        if (bytes > e->ffn.slot_bytes) e->ffn.slot_bytes = bytes;
    }
}

static void lay_out_attention(sg_exec *e, sg_carver *c, bool real) {
    size_t parts = 0;
    const uint32_t n_layer = e->m.hp->n_layer;
    for (uint32_t i = 0; i < n_layer; i++) {
        const sg_attention *a = &e->att[i];
        const size_t floats = a->n_head ? (size_t)a->n_head * sg_attention_most_segments(a, e->n_ctx) * sg_attention_part_floats(a) : 0;
        if (floats > parts) parts = floats;
    }
    e->attention_parts = sg_carve(c, parts, sizeof(float));
    e->attention = sg_carve(c, sg_team_size(e->team), sizeof *e->attention);
    sg_attention_scratch measured;
    const size_t scratch = sg_attention_scratch_init(&measured, e->att, n_layer, NULL);
    for (uint32_t i = 0; i < sg_team_size(e->team); i++) {
        char *p = sg_carve(c, scratch, 1);
        if (real) sg_attention_scratch_init(&e->attention[i], e->att, n_layer, p);
    }
}

/* Inputs of single heads, as wide as the widest. */
static void lay_out_heads(sg_exec *e, sg_carver *c) {
    uint32_t most = 0;
    for (uint32_t i = 0; i < e->m.plan->n_steps; i++)
        if (e->m.plan->steps[i].op == SG_OP_HEADS && e->m.plan->steps[i].n > most) most = e->m.plan->steps[i].n;
    if (most == 0) return;
    const uint32_t threads = sg_team_size(e->team);
    e->head_acts = sg_carve(c, threads, sizeof *e->head_acts);
    for (uint32_t i = 0; i < threads; i++) {
        sg_acts a;
        sg_acts_lay_out(&a, c, e->n_batch, most, true, e->precise);
        if (e->head_acts) e->head_acts[i] = a;
    }
}

/* Packed rows of an expert's matrix that are computed with at once. */
static size_t expert_item_bytes(const sg_exec *e) {
    static const sg_layer_slot slots[] = { SG_L_GATE_EXPS, SG_L_UP_EXPS, SG_L_DOWN_EXPS };
    size_t most = 0;
    for (uint32_t i = 0; i < 3 * e->m.hp->n_layer; i++) {
        const sg_matrix *m = &e->m.weights->layers[i / 3][slots[i % 3]].m;
        if (!m->kernel) continue;
        const size_t bytes = sg_matrix_bytes(m->kernel, sg_experts_item_rows((size_t)sg_dtype_bytes(sg_dtype_get(m->kernel->type), m->k)), m->k);
        if (bytes > most) most = bytes;
    }
    return (most + SG_CACHE_LINE - 1) / SG_CACHE_LINE * SG_CACHE_LINE;
}

static void lay_out_experts(sg_exec *e, sg_carver *c) {
    const sg_hparams *hp = e->m.hp;
    if (hp->n_expert == 0) return;
    e->route_expert = sg_carve(c, (size_t)e->n_batch * hp->n_expert_used, sizeof *e->route_expert);
    e->route_weight = sg_carve(c, (size_t)e->n_batch * hp->n_expert_used, sizeof *e->route_weight);
    e->route_scratch = sg_carve(c, sg_team_size(e->team), sg_route_scratch(&e->router) * sizeof *e->route_scratch);
    e->route_range = sg_carve(c, hp->n_layer, sizeof *e->route_range);
    e->route_spread = sg_carve(c, e->n_batch, sizeof *e->route_spread);
    for (uint32_t i = 0; i < e->m.plan->n_steps; i++)
        if (e->m.plan->steps[i].op == SG_OP_EXPERTS) {
            if (e->m.streaming) e->experts.item_bytes = expert_item_bytes(e);
            sg_experts_lay_out(&e->experts, c);
            return;
        }
}

/* The weight of the norm before the pre-gate. */
static void lay_out_ones(sg_exec *e, sg_carver *c) {
    if (!e->m.weights->globals[SG_T_PREGATE].m.kernel) return;
    float *ones = sg_carve(c, e->m.hp->n_embd, sizeof *ones);
    for (uint32_t i = 0; ones && i < e->m.hp->n_embd; i++) ones[i] = 1;
    e->ones = ones;
}

size_t sg_exec_lay_out(sg_exec *e, char *base) {
    sg_carver c = { base, 0 };
    for (int b = 0; b < SG_BUFS; b++) {
        if (b == SG_BUF_LOGITS) continue;
        const uint32_t width = e->m.plan->width[b];
        if (is_acts(b)) sg_acts_lay_out(&e->acts[b], &c, e->n_batch, width, false, e->precise);
        e->acts[b].x = e->f32[b] = sg_carve(&c, (size_t)e->n_batch * width, sizeof(float));
    }
    for (int i = 0; i < 2; i++) e->rope_table[i] = sg_carve(&c, (size_t)e->n_batch * 2 * e->rope[i]->n_rot, sizeof(float));
    lay_out_attention(e, &c, base != NULL);
    lay_out_heads(e, &c);
    e->delta_gates = sg_carve(&c, 2 * (size_t)e->n_batch * e->m.hp->n_value_heads, sizeof(float));
    lay_out_experts(e, &c);
    lay_out_ones(e, &c);
    if (e->m.streaming) lay_out_away(e, &c);
    if (e->m.weights->ffn) {
        sg_ffn_lay_out(&e->ffn, &c);
        e->ffn.x.x = e->f32[SG_BUF_NORMED];
    }
    return c.used;
}

void sg_exec_attention_layers(const sg_exec_model *m, sg_attention *out) {
    const sg_hparams *hp = m->hp;
    for (uint32_t i = 0; i < hp->n_layer; i++) {
        const sg_layer_params *p = &m->layer[i];
        out[i] = (sg_attention) { 0 };
        if (p->mixer == SG_MIX_ATTENTION)
            out[i] = (sg_attention) { .n_head = hp->n_head, .n_head_kv = p->n_head_kv, .head_dim_k = hp->head_dim_k, .head_dim_v = hp->head_dim_v,
                                      .q_stride = m->gated_attention ? 2 * hp->head_dim_k : hp->head_dim_k };
        else if (p->mixer == SG_MIX_LATENT)
            out[i] = (sg_attention) { .n_head = hp->n_head, .n_head_kv = 1, .head_dim_k = hp->n_kv_lora + hp->rope.n_rot, .head_dim_v = hp->n_kv_lora,
                                      .q_stride = hp->n_kv_lora + hp->rope.n_rot };
        else continue;
        out[i].scale = hp->attn_scale;
        out[i].softcap = hp->attn_softcap;
        out[i].window = p->window;
        out[i].sinks = m->weights->layers[i][SG_L_SINKS].v;
    }
}

void sg_exec_recurrent_layers(const sg_exec_model *m, sg_recurrent_shape *out) {
    const sg_hparams *hp = m->hp;
    for (uint32_t i = 0; i < hp->n_layer; i++) {
        out[i] = (sg_recurrent_shape) { 0 };
        if (m->layer[i].mixer == SG_MIX_CONV) out[i] = (sg_recurrent_shape) { .taps = hp->n_taps, .channels = hp->n_embd };
        if (m->layer[i].mixer == SG_MIX_DELTA) {
            const sg_delta d = sg_exec_delta_of(m, i);
            out[i] = sg_delta_shape(&d);
        }
    }
}

static sg_router_kind router_kind(sg_router_scores scores) {
    switch (scores) {
    case SG_SCORES_SOFTMAX: return SG_ROUTER_SOFTMAX;
    case SG_SCORES_SIGMOID: return SG_ROUTER_SIGMOID;
    case SG_SCORES_SOFTMAX_CHOSEN: return SG_ROUTER_SOFTMAX_CHOSEN;
    }
    return SG_ROUTER_SOFTMAX;
}

static sg_status begin(sg_exec *e, const sg_exec_model *m, const sg_exec_options *o, sg_error *err) {
    const sg_hparams *hp = m->hp;
    *e = (sg_exec){ .m = *m, .n_batch = o->n_batch, .n_ctx = o->n_ctx, .ahead_cut = o->ahead_cut, .precise = o->precise,
                    .route_drop = o->route_drop, .route_prefer = o->route_prefer };
    const bool is_long = o->n_ctx > hp->rope.n_ctx_orig && m->ropes[SG_ROPES_LONG].n_rot > 0;
    e->rope[0] = &m->ropes[is_long ? SG_ROPES_LONG : SG_ROPES_MAIN];
    e->rope[1] = &m->ropes[SG_ROPES_WINDOW];
    e->att = malloc((hp->n_layer + 1) * sizeof *e->att);
    if (!e->att) return sg_fail(err, SG_E_NOMEM, "out of memory");
    sg_exec_attention_layers(m, e->att);
    const uint32_t n_used = o->n_experts > 0 ? o->n_experts : hp->n_expert_used;
    e->router = (sg_router){ router_kind(hp->scores), hp->n_expert, n_used, hp->n_expert_group, hp->n_expert_group_used, hp->weights_norm, hp->weights_scale };
    e->experts = (sg_experts){ .kernels = m->kernels, .act = sg_plan_act(hp->ffn_act), .precise = o->precise, .n_expert = hp->n_expert, .n_used = n_used,
                               .n_batch = o->n_batch, .k = hp->n_embd, .n_ff = hp->n_ff_exp, .n_threads = o->n_threads };
    e->ffn = (sg_ffn){ .kernels = m->kernels, .layers = m->weights->ffn, .act = sg_plan_act(hp->ffn_act), .policy = o->policy,
                       .n_unit = m->weights->n_units, .n_batch = o->n_batch, .n_threads = o->n_threads, .k = hp->n_embd,
                       .pred_residual = m->pred_residual, .precise = o->precise };
    return sg_team_create(o->n_threads, &e->team, err);
}

uint64_t sg_exec_bytes(const sg_exec_model *m, const sg_exec_options *o) {
    sg_exec e;
    const uint64_t bytes = begin(&e, m, o, NULL) == SG_OK ? sg_exec_lay_out(&e, NULL) : 0;
    sg_exec_finish(&e);
    return bytes;
}

sg_status sg_exec_init(sg_exec *e, const sg_exec_model *m, const sg_exec_options *o, sg_error *err) {
    sg_status s = begin(e, m, o, err);
    if (s == SG_OK) s = sg_region_create(&e->memory, sg_exec_lay_out(e, NULL), "the working buffers", err);
    if (s != SG_OK) {
        sg_exec_finish(e);
        return s;
    }
    sg_exec_lay_out(e, e->memory.data);
    if (m->weights->ffn) sg_ffn_measure(&e->ffn);
    return SG_OK;
}

void sg_exec_finish(sg_exec *e) {
    free(e->att);
    e->att = NULL;
    sg_team_destroy(&e->team);
    sg_region_destroy(&e->memory);
}
