/* A layer is a mixer and a feed-forward block, each between norms and added to the residual stream. What exists decides what is done:
 * there is one list of steps for all architectures. */
#include "runtime/plan.h"

#include <stdlib.h>

#define STEPS_PER_LAYER 24
#define STEPS_AROUND 7 /* embedding, pre-gate, final norm, logits, their scale */

sg_neuron_act sg_plan_act(sg_ffn_act act) {
    switch (act) {
    case SG_FFN_SILU: return SG_ACT_SILU;
    case SG_FFN_RELU: return SG_ACT_RELU;
    case SG_FFN_DRELU: return SG_ACT_DRELU;
    case SG_FFN_FATRELU: return SG_ACT_FATRELU;
    case SG_FFN_RELU2: return SG_ACT_RELU2;
    case SG_FFN_GELU: return SG_ACT_GELU;
    case SG_FFN_GELU_ERF: return SG_ACT_GELU_ERF;
    case SG_FFN_OAI: return SG_ACT_OAI;
    case SG_FFN_ACTS: break;
    }
    return SG_ACT_SILU;
}

/* A layer being planned. */
typedef struct builder {
    sg_plan *p;
    const sg_model_desc *d;
    const sg_weights *weights;
    const sg_weight *w; /* of the layer */
    uint32_t l;
    sg_step *input;     /* that makes NORMED */
    bool both;          /* BRANCH2 waits to be added, too */
    const float *post;  /* norm of the branch that waits */
    uint32_t n_experts; /* layers of experts before this one */
} builder;

static uint64_t dim(const builder *b, sg_dim d) { return sg_dim_value(&b->d->hp, b->l < b->d->hp.n_layer ? &b->d->layer[b->l] : NULL, d); }

static sg_unit_of units_of(const builder *b) { return b->weights->ffn ? b->weights->units[b->l] : SG_NO_UNITS; }

static sg_step *next(builder *b, sg_op op) {
    sg_step *s = &b->p->steps[b->p->n_steps++];
    *s = (sg_step){ .op = op, .layer = b->l };
    return s;
}

static void widen(builder *b, sg_buf buf, uint64_t width) {
    if (width > b->p->width[buf]) b->p->width[buf] = (uint32_t)width;
}

/* s makes rows of `width` values in an acts buffer. */
static sg_step *makes(builder *b, sg_step *s, sg_buf out, uint64_t width) {
    s->out = out;
    s->width = (uint32_t)width;
    widen(b, out, width);
    return s;
}

/* The norm of the residual stream, after what waits was added to it. */
static sg_step *norm(builder *b, const sg_weight *weight, const sg_weight *bias, bool add) {
    sg_step *s = next(b, SG_OP_NORM);
    s->in = SG_BUF_X;
    s->n = b->d->hp.n_embd;
    makes(b, s, SG_BUF_NORMED, s->n);
    s->norm = weight ? weight->v : NULL;
    s->norm_bias = bias ? bias->v : NULL;
    s->add = add;
    s->add_both = add && b->both;
    s->post_norm = add ? b->post : NULL;
    if (add) {
        b->both = false;
        b->post = NULL;
    }
    return s;
}

/* Adds a product to a MATMUL step, and tells the step that makes its input which form is wanted. */
static void product(builder *b, sg_step *s, sg_step *maker, const sg_weight *w, const float *bias, sg_buf out, uint32_t at) {
    s->in = maker->out;
    s->product[s->n_products++] = (sg_product){ w, bias, out, at };
    widen(b, out, at + w->m.rows);
    if (w->m.kernel->acts_q8) maker->quantise = true;
}

/* ---- mixers ---- */

/* q, k, v into the cache, attention, output; `out`: BRANCH or BRANCH2. */
static void attention(builder *b, sg_buf out) {
    const sg_weight *w = b->w;
    sg_step *s = next(b, SG_OP_MATMUL);
    if (w[SG_L_QKV].m.kernel) {
        product(b, s, b->input, &w[SG_L_QKV], w[SG_L_QKV_BIAS].v, SG_BUF_PROJ, 0);
    } else {
        product(b, s, b->input, &w[SG_L_Q], w[SG_L_Q_BIAS].v, SG_BUF_PROJ, 0);
        product(b, s, b->input, &w[SG_L_K], w[SG_L_K_BIAS].v, SG_BUF_PROJ, w[SG_L_Q].m.rows);
        product(b, s, b->input, &w[SG_L_V], w[SG_L_V_BIAS].v, SG_BUF_PROJ, w[SG_L_Q].m.rows + w[SG_L_K].m.rows);
    }
    s = next(b, SG_OP_ROPE);
    s->q_norm = w[SG_L_Q_NORM].v;
    s->k_norm = w[SG_L_K_NORM].v;
    const sg_tensor_rule *rule = sg_arch_rule(b->d->arch, true, SG_L_Q_NORM);
    s->norm_whole = rule && rule->ne[0] != SG_D_HEAD;
    sg_step *maker = makes(b, next(b, SG_OP_ATTENTION), SG_BUF_ATT, dim(b, SG_D_ATT));
    maker->in = SG_BUF_PROJ;
    s = next(b, SG_OP_MATMUL);
    product(b, s, maker, &w[SG_L_O], w[SG_L_O_BIAS].v, out, 0);
}

/* A matrix for each head: of n inputs of head_in values that lie side by side, to head_out. */
static sg_step *heads(builder *b, sg_buf in, const sg_weight *w, uint32_t n, uint32_t head_in, uint32_t head_out) {
    sg_step *s = next(b, SG_OP_HEADS);
    s->in = in;
    s->w = w;
    s->n = n;
    s->head_in = head_in;
    s->head_out = head_out;
    return s;
}

/* Attention over latent vectors: queries are brought into their space, and what comes out is brought back (arXiv 2405.04434, section
 * 2.1.2: the two matrices of keys and values are absorbed). */
static void latent(builder *b, sg_buf out) {
    const sg_weight *w = b->w;
    const sg_hparams *hp = &b->d->hp;
    const uint32_t q_a = w[SG_L_Q_A].m.kernel ? w[SG_L_Q_A].m.rows : 0, latent_key = hp->n_kv_lora + hp->rope.n_rot;
    sg_step *s = next(b, SG_OP_MATMUL);
    if (q_a) product(b, s, b->input, &w[SG_L_Q_A], NULL, SG_BUF_SIDE, 0);
    else product(b, s, b->input, &w[SG_L_Q], NULL, SG_BUF_PROJ, 0);
    product(b, s, b->input, &w[SG_L_KV_A], NULL, SG_BUF_SIDE, q_a);
    if (q_a) {
        sg_step *maker = next(b, SG_OP_NORM);
        makes(b, maker, SG_BUF_SMALL, q_a);
        maker->in = SG_BUF_SIDE;
        maker->n = q_a;
        maker->norm = w[SG_L_Q_A_NORM].v;
        s = next(b, SG_OP_MATMUL);
        product(b, s, maker, &w[SG_L_Q_B], NULL, SG_BUF_PROJ, 0);
    }
    s = next(b, SG_OP_LATENT);
    s->in = SG_BUF_SIDE;
    s->at = q_a;
    s->k_norm = w[SG_L_KV_A_NORM].v;
    makes(b, s, SG_BUF_LATENT_Q, (uint64_t)hp->n_head * latent_key);
    s = heads(b, SG_BUF_PROJ, &w[SG_L_K_B], hp->head_dim_k - hp->rope.n_rot, hp->head_dim_k, latent_key);
    makes(b, s, SG_BUF_LATENT_Q, (uint64_t)hp->n_head * latent_key);
    sg_step *maker = makes(b, next(b, SG_OP_ATTENTION), SG_BUF_LATENT, (uint64_t)hp->n_head * hp->n_kv_lora);
    maker->in = SG_BUF_LATENT_Q;
    maker = heads(b, SG_BUF_LATENT, &w[SG_L_V_B], hp->n_kv_lora, hp->n_kv_lora, hp->head_dim_v);
    makes(b, maker, SG_BUF_ATT, dim(b, SG_D_ATT));
    s = next(b, SG_OP_MATMUL);
    product(b, s, maker, &w[SG_L_O], NULL, out, 0);
}

static void convolution(builder *b, sg_buf out) {
    const sg_weight *w = b->w;
    sg_step *s = next(b, SG_OP_MATMUL);
    product(b, s, b->input, &w[SG_L_CONV_IN], NULL, SG_BUF_PROJ, 0);
    sg_step *maker = makes(b, next(b, SG_OP_CONV), SG_BUF_ATT, b->d->hp.n_embd);
    s = next(b, SG_OP_MATMUL);
    product(b, s, maker, &w[SG_L_CONV_OUT], NULL, out, 0);
}

static void delta(builder *b, sg_buf out) {
    const sg_weight *w = b->w;
    const uint32_t z = w[SG_L_DELTA_Z].m.rows;
    sg_step *s = next(b, SG_OP_MATMUL);
    product(b, s, b->input, &w[SG_L_QKV], NULL, SG_BUF_PROJ, 0);
    product(b, s, b->input, &w[SG_L_DELTA_Z], NULL, SG_BUF_SIDE, 0);
    if (w[SG_L_DELTA_BA].m.kernel) {
        product(b, s, b->input, &w[SG_L_DELTA_BA], NULL, SG_BUF_SIDE, z);
    } else {
        product(b, s, b->input, &w[SG_L_DELTA_B], NULL, SG_BUF_SIDE, z);
        product(b, s, b->input, &w[SG_L_DELTA_ALPHA], NULL, SG_BUF_SIDE, z + w[SG_L_DELTA_B].m.rows);
    }
    sg_step *maker = makes(b, next(b, SG_OP_DELTA), SG_BUF_ATT, dim(b, SG_D_DELTA_V));
    s = next(b, SG_OP_MATMUL);
    product(b, s, maker, &w[SG_L_DELTA_OUT], NULL, out, 0);
}

static void mixer(builder *b, sg_buf out) {
    switch (b->d->layer[b->l].mixer) {
    case SG_MIX_ATTENTION: attention(b, out); break;
    case SG_MIX_LATENT: latent(b, out); break;
    case SG_MIX_CONV: convolution(b, out); break;
    case SG_MIX_DELTA: delta(b, out); break;
    }
}

/* ---- feed-forward blocks ---- */

/* A unit of neuron bundles. */
static void bundles(builder *b, uint32_t unit, bool routed, sg_buf out) {
    const sg_ffn_layer *ffn = &b->weights->ffn[unit];
    const sg_predictor *pred = &ffn->predictor;
    sg_step *s = next(b, SG_OP_FFN);
    s->in = SG_BUF_NORMED;
    s->out = out;
    s->unit = unit;
    s->routed = routed;
    widen(b, out, b->d->hp.n_embd);
    const bool lanes = ffn->bundle.gate->quantised || ffn->bundle.up->quantised;
    b->input->lanes = b->input->lanes || lanes;
    b->input->quantise = b->input->quantise || lanes || pred->kind == SG_PRED_SIGN || (pred->a.kernel && pred->a.kernel->acts_q8);
}

/* down(act(gate x, up x)) as matrices; dense, or shared experts. `first`: the step for the first products. */
static void matrices(builder *b, sg_step *first, const sg_weight *gate, const sg_weight *up, const sg_weight *down, const sg_weight *both,
                     const float *const bias[3], sg_buf out) {
    const uint32_t n = down->m.k;
    const bool gated = both->m.kernel || gate->m.kernel;
    if (both->m.kernel) product(b, first, b->input, both, NULL, SG_BUF_GATE_UP, 0);
    else {
        if (gated) product(b, first, b->input, gate, bias[0], SG_BUF_GATE_UP, 0);
        product(b, first, b->input, up, bias[1], SG_BUF_GATE_UP, gated ? n : 0);
    }
    sg_step *maker = makes(b, next(b, SG_OP_ACTIVATE), SG_BUF_HIDDEN, n);
    maker->gated = gated;
    maker->n = n;
    product(b, next(b, SG_OP_MATMUL), maker, down, bias[2], out, 0);
}

static void router(builder *b, sg_step *s, sg_step *maker) {
    if (!b->d->pregate_routes) product(b, s, maker, &b->w[SG_L_ROUTER], b->w[SG_L_ROUTER_BIAS].v, SG_BUF_ROUTER, 0);
}

static void route(builder *b) {
    sg_step *s = next(b, SG_OP_ROUTE);
    s->in = b->d->pregate_routes ? SG_BUF_PREGATE : SG_BUF_ROUTER;
    s->at = b->d->pregate_routes ? b->n_experts * b->d->hp.n_expert : 0;
    s->select_bias = b->w[SG_L_ROUTER_SELECT].v;
}

/* What will be routed, of all layers, from the embedding: for that itself, or to read ahead. */
static void pregate(builder *b) {
    const sg_weight *g = b->weights->globals, *w = &g[SG_T_PREGATE];
    if (!w->m.kernel) return;
    if (b->d->pregate_routes) {
        sg_step *s = next(b, SG_OP_NORM);
        s->in = SG_BUF_X;
        s->n = b->d->hp.n_embd;
        s->plain = true;
        makes(b, s, SG_BUF_NORMED, s->n);
        product(b, next(b, SG_OP_MATMUL), s, w, g[SG_T_PREGATE_BIAS].v, SG_BUF_PREGATE, 0);
    }
    if (!b->weights->experts) return;
    sg_step *s = next(b, SG_OP_PREGATE);
    s->in = b->d->pregate_routes ? SG_BUF_PREGATE : SG_BUF_X;
    s->w = w;
    s->bias = g[SG_T_PREGATE_BIAS].v;
}

/* The router of a later layer of experts over the stream of this one; of the next one what was fitted for that, if there is such a thing. */
static void expect(builder *b, uint32_t ahead) {
    uint32_t l = b->l + 1;
    for (uint32_t n = 0; l < b->d->hp.n_layer; l++)
        if (b->d->layer[l].experts && ++n == ahead) break;
    if (!b->weights->experts || b->d->pregate_routes || l >= b->d->hp.n_layer || !b->weights->experts[l]) return;
    const sg_weight *w = b->weights->layers[l];
    const bool fitted = ahead == 1 && w[SG_L_AHEAD].m.kernel;
    if (!fitted && w[SG_L_ROUTER].m.away) return;
    sg_step *s = next(b, SG_OP_EXPECT);
    s->layer = l;
    s->n = ahead;
    if (!b->d->arch->router_before) {
        s->norm = w[SG_L_FFN_NORM].v;
        s->norm_bias = w[SG_L_FFN_NORM_BIAS].v;
    }
    s->w = &w[fitted ? SG_L_AHEAD : SG_L_ROUTER];
    s->bias = w[fitted ? SG_L_AHEAD_BIAS : SG_L_ROUTER_BIAS].v;
    s->select_bias = w[SG_L_ROUTER_SELECT].v;
}

static void experts(builder *b) {
    const sg_weight *w = b->w, none = { 0 };
    const sg_hparams *hp = &b->d->hp;
    const sg_unit_of units = units_of(b);
    const bool shared_bundle = units.shared != SG_NO_UNIT, shared = shared_bundle || w[SG_L_UP_SHEXP].m.kernel;
    sg_step *s = next(b, SG_OP_MATMUL);
    if (!b->d->arch->router_before) router(b, s, b->input);
    if (w[SG_L_SHARED_GATE].m.kernel) product(b, s, b->input, &w[SG_L_SHARED_GATE], NULL, SG_BUF_ROUTER, hp->n_expert);
    if (w[SG_L_UP_SHEXP].m.kernel)
        matrices(b, s, &w[SG_L_GATE_SHEXP], &w[SG_L_UP_SHEXP], &w[SG_L_DOWN_SHEXP], &none, (const float *[3]) { 0 }, SG_BUF_BRANCH2);
    if (s->n_products == 0) b->p->n_steps--; /* the router was asked before */
    if (!b->d->arch->router_before) route(b);
    for (uint32_t ahead = 1; ahead <= SG_EXPERT_DEPTH; ahead++) expect(b, ahead);
    if (shared_bundle) bundles(b, units.shared, false, SG_BUF_BRANCH2);
    if (units.main != SG_NO_UNIT) {
        bundles(b, units.main, true, SG_BUF_BRANCH);
    } else {
        s = next(b, SG_OP_EXPERTS);
        s->in = SG_BUF_NORMED;
        s->out = SG_BUF_BRANCH;
        if (w[SG_L_GATE_EXPS].m.kernel->acts_q8 || w[SG_L_UP_EXPS].m.kernel->acts_q8) b->input->quantise = true;
    }
    if (shared) next(b, SG_OP_COMBINE)->gated = w[SG_L_SHARED_GATE].m.kernel != NULL;
    b->n_experts++;
}

static void feed_forward(builder *b) {
    const sg_weight *w = b->w;
    const sg_unit_of units = units_of(b);
    if (b->d->layer[b->l].experts) experts(b);
    else if (units.main != SG_NO_UNIT) bundles(b, units.main, false, SG_BUF_BRANCH);
    else
        matrices(b, next(b, SG_OP_MATMUL), &w[SG_L_GATE], &w[SG_L_UP], &w[SG_L_DOWN], &w[SG_L_GATE_UP],
                 (const float *[3]) { w[SG_L_GATE_BIAS].v, w[SG_L_UP_BIAS].v, w[SG_L_DOWN_BIAS].v }, SG_BUF_BRANCH);
}

/* ---- layers ---- */

static void look_ahead(builder *b) {
    const sg_unit_of units = units_of(b);
    const sg_ffn_layer *ffn = units.main != SG_NO_UNIT ? &b->weights->ffn[units.main] : NULL;
    if (!ffn || !ffn->home || ffn->predictor.kind == SG_PRED_NONE) return;
    sg_step *s = next(b, SG_OP_AHEAD);
    s->norm = b->w[SG_L_FFN_NORM].v;
    s->norm_bias = b->w[SG_L_FFN_NORM_BIAS].v;
    s->unit = units.main;
}

/* Both halves side by side, over one norm or one each. */
static void parallel_layer(builder *b) {
    const sg_weight *w = b->w;
    const bool two = w[SG_L_ATTN_NORM].v != NULL;
    b->input = norm(b, &w[two ? SG_L_ATTN_NORM : SG_L_FFN_NORM], &w[two ? SG_L_ATTN_NORM_BIAS : SG_L_FFN_NORM_BIAS], b->l > 0);
    look_ahead(b);
    mixer(b, SG_BUF_BRANCH2);
    if (two) b->input = norm(b, &w[SG_L_FFN_NORM], &w[SG_L_FFN_NORM_BIAS], false);
    feed_forward(b);
    b->both = true;
}

static void layer(builder *b) {
    const sg_weight *w = b->w;
    if (b->d->arch->parallel) {
        parallel_layer(b);
        return;
    }
    b->input = norm(b, &w[SG_L_ATTN_NORM], &w[SG_L_ATTN_NORM_BIAS], b->l > 0);
    if (b->d->layer[b->l].experts && b->d->arch->router_before) {
        if (!b->d->pregate_routes) {
            router(b, next(b, SG_OP_MATMUL), &(sg_step) { .out = SG_BUF_X });
            b->input->quantise_x = w[SG_L_ROUTER].m.kernel->acts_q8;
        }
        route(b);
    }
    look_ahead(b);
    mixer(b, SG_BUF_BRANCH);
    b->post = w[SG_L_ATTN_POST_NORM].v;
    b->input = norm(b, &w[SG_L_FFN_NORM], &w[SG_L_FFN_NORM_BIAS], true);
    feed_forward(b);
    b->post = w[SG_L_FFN_POST_NORM].v;
}

sg_status sg_plan_create(sg_plan *p, const sg_model_desc *d, const sg_weights *w, sg_error *err) {
    *p = (sg_plan){ 0 };
    p->steps = calloc((size_t)d->hp.n_layer * STEPS_PER_LAYER + STEPS_AROUND, sizeof *p->steps);
    if (!p->steps) return sg_fail(err, SG_E_NOMEM, "out of memory for the plan");
    builder b = { .p = p, .d = d, .weights = w };
    p->width[SG_BUF_X] = p->width[SG_BUF_BRANCH] = p->width[SG_BUF_NORMED] = d->hp.n_embd;
    next(&b, SG_OP_EMBED)->out = SG_BUF_X;
    pregate(&b);
    for (b.l = 0; b.l < d->hp.n_layer; b.l++) {
        b.w = w->layers[b.l];
        layer(&b);
    }
    sg_step *last = norm(&b, &w->globals[SG_T_OUTPUT_NORM], &w->globals[SG_T_OUTPUT_NORM_BIAS], true), *logits = next(&b, SG_OP_MATMUL);
    /* Models with tied embeddings have no output matrix of their own. */
    const sg_weight *out = &w->globals[w->globals[SG_T_OUTPUT].m.kernel ? SG_T_OUTPUT : SG_T_TOKEN_EMBD];
    product(&b, logits, last, out, w->globals[SG_T_OUTPUT_BIAS].v, SG_BUF_LOGITS, 0);
    last->last_only = logits->last_only = true;
    if (d->hp.logit_scale != 1 || d->hp.final_softcap > 0) next(&b, SG_OP_LOGITS)->last_only = true;
    return SG_OK;
}

void sg_plan_finish(sg_plan *p) {
    free(p->steps);
    *p = (sg_plan){ 0 };
}
