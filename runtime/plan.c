#include "runtime/plan.h"

#include <stdlib.h>

#define STEPS_PER_LAYER 10
#define STEPS_AROUND 3 /* embedding, final norm, logits */

sg_neuron_act sg_plan_act(sg_ffn_act act) {
    switch (act) {
    case SG_FFN_SILU: return SG_ACT_SILU;
    case SG_FFN_RELU: return SG_ACT_RELU;
    case SG_FFN_DRELU: return SG_ACT_DRELU;
    case SG_FFN_FATRELU: return SG_ACT_FATRELU;
    case SG_FFN_RELU2: return SG_ACT_RELU2;
    }
    return SG_ACT_SILU;
}

static sg_step *next(sg_plan *p, sg_op op, uint32_t layer) {
    sg_step *s = &p->steps[p->n_steps++];
    *s = (sg_step){ .op = op, .layer = layer };
    return s;
}

static sg_step *norm(sg_plan *p, uint32_t layer, const float *weight, bool add) {
    sg_step *s = next(p, SG_OP_NORM, layer);
    s->out = SG_BUF_NORMED;
    s->norm = weight;
    s->add = add;
    return s;
}

/* Adds a product to a MATMUL step, and tells the step that makes its input which form is wanted. */
static void product(sg_step *s, sg_step *maker, const sg_weight *w, const float *bias, sg_buf out) {
    s->in = maker->out;
    s->product[s->n_products++] = (sg_product){ w, bias, out };
    if (w->m.kernel->acts_q8) maker->quantise = true;
}

/* One decoder layer: attention and feed-forward, each behind a norm and added to the residual stream. */
static void layer_steps(sg_plan *p, uint32_t l, const sg_weight *w, const sg_ffn_layer *ffn, bool first) {
    sg_step *maker = norm(p, l, w[SG_L_ATTN_NORM].v, !first);
    if (ffn && ffn->home && ffn->predictor.kind != SG_PRED_NONE) next(p, SG_OP_AHEAD, l)->norm = w[SG_L_FFN_NORM].v;
    sg_step *s = next(p, SG_OP_MATMUL, l);
    product(s, maker, &w[SG_L_Q], w[SG_L_Q_BIAS].v, SG_BUF_Q);
    product(s, maker, &w[SG_L_K], w[SG_L_K_BIAS].v, SG_BUF_K);
    product(s, maker, &w[SG_L_V], w[SG_L_V_BIAS].v, SG_BUF_V);

    s = next(p, SG_OP_ROPE, l);
    s->q_norm = w[SG_L_Q_NORM].v;
    s->k_norm = w[SG_L_K_NORM].v;
    maker = next(p, SG_OP_ATTENTION, l);
    maker->out = SG_BUF_ATT;
    s = next(p, SG_OP_MATMUL, l);
    product(s, maker, &w[SG_L_O], w[SG_L_O_BIAS].v, SG_BUF_BRANCH);

    maker = norm(p, l, w[SG_L_FFN_NORM].v, true);
    if (ffn) {
        s = next(p, SG_OP_FFN, l);
        s->in = maker->out;
        s->out = SG_BUF_BRANCH;
        const sg_predictor *pred = &ffn->predictor;
        maker->lanes = ffn->bundle.gate->quantised || ffn->bundle.up->quantised;
        maker->quantise = maker->lanes || pred->kind == SG_PRED_SIGN || (pred->a.kernel && pred->a.kernel->acts_q8);
        return;
    }
    s = next(p, SG_OP_MATMUL, l);
    if (w[SG_L_GATE].m.kernel) product(s, maker, &w[SG_L_GATE], NULL, SG_BUF_GATE);
    product(s, maker, &w[SG_L_UP], NULL, SG_BUF_UP);
    maker = next(p, SG_OP_ACTIVATE, l);
    maker->out = SG_BUF_HIDDEN;
    maker->gated = w[SG_L_GATE].m.kernel != NULL;
    s = next(p, SG_OP_MATMUL, l);
    product(s, maker, &w[SG_L_DOWN], NULL, SG_BUF_BRANCH);
}

static void set_widths(sg_plan *p, const sg_hparams *hp, bool bundled) {
    const uint32_t n_ff = bundled ? 0 : hp->n_ff; /* bundles have their own working memory */
    const uint32_t q = (uint32_t)sg_dim_value(hp, SG_D_Q), k = (uint32_t)sg_dim_value(hp, SG_D_K),
                   v = (uint32_t)sg_dim_value(hp, SG_D_V), att = (uint32_t)sg_dim_value(hp, SG_D_ATT);
    const uint32_t width[SG_BUFS] = {
        [SG_BUF_X] = hp->n_embd,      [SG_BUF_BRANCH] = hp->n_embd, [SG_BUF_Q] = q,
        [SG_BUF_K] = k,               [SG_BUF_V] = v,               [SG_BUF_GATE] = n_ff,
        [SG_BUF_UP] = n_ff,           [SG_BUF_NORMED] = hp->n_embd, [SG_BUF_ATT] = att,
        [SG_BUF_HIDDEN] = n_ff,       [SG_BUF_LOGITS] = hp->n_vocab,
    };
    for (int i = 0; i < SG_BUFS; i++) p->width[i] = width[i];
}

sg_status sg_plan_create(sg_plan *p, const sg_model_desc *d, const sg_weights *w, sg_error *err) {
    *p = (sg_plan){ 0 };
    p->steps = calloc((size_t)d->hp.n_layer * STEPS_PER_LAYER + STEPS_AROUND, sizeof *p->steps);
    if (!p->steps) return sg_fail(err, SG_E_NOMEM, "out of memory for the plan");
    set_widths(p, &d->hp, w->ffn != NULL);
    next(p, SG_OP_EMBED, 0)->out = SG_BUF_X;
    for (uint32_t l = 0; l < d->hp.n_layer; l++) layer_steps(p, l, w->layers[l], w->ffn ? &w->ffn[l] : NULL, l == 0);
    sg_step *last = norm(p, d->hp.n_layer, w->globals[SG_T_OUTPUT_NORM].v, true), *logits = next(p, SG_OP_MATMUL, d->hp.n_layer);
    /* Models with tied embeddings have no output matrix of their own. */
    const sg_weight *out = &w->globals[w->globals[SG_T_OUTPUT].m.kernel ? SG_T_OUTPUT : SG_T_TOKEN_EMBD];
    product(logits, last, out, NULL, SG_BUF_LOGITS);
    last->last_only = logits->last_only = true;
    return SG_OK;
}

void sg_plan_finish(sg_plan *p) {
    free(p->steps);
    *p = (sg_plan){ 0 };
}
