/* The steps of one token (or one batch of tokens): what a model description comes down to. The executor walks them in order,
 * with a barrier after each; it knows steps, not models. */
#ifndef SG_RUNTIME_PLAN_H
#define SG_RUNTIME_PLAN_H

#include "runtime/weights.h"

typedef enum sg_op {
    SG_OP_EMBED,    /* x = embedding of the tokens */
    SG_OP_NORM,     /* x += branch (if add); out = rmsnorm(x) * norm */
    SG_OP_MATMUL,   /* up to 3 matrices over one input */
    SG_OP_ROPE,     /* per head: norm of q and k (if the model has one), rotary, k and v into the cache */
    SG_OP_ATTENTION,
    SG_OP_ACTIVATE, /* hidden = act(gate, up); ungated: act(up) */
    SG_OP_AHEAD,    /* a guess of the layer's feed-forward input: reads of the neurons that its predictor names are started */
    SG_OP_FFN,      /* a feed-forward layer of neuron bundles: branch = down(act(gate x, up x)) */
} sg_op;

/* Working buffers of a batch, [n][width] each. ACTS ones can also be held in 8 bit for quantised matrices. */
typedef enum sg_buf {
    SG_BUF_X,      /* residual stream, n_embd */
    SG_BUF_BRANCH, /* output of attention or feed-forward, n_embd */
    SG_BUF_Q, SG_BUF_K, SG_BUF_V, SG_BUF_GATE, SG_BUF_UP,
    SG_BUF_NORMED, /* acts, n_embd */
    SG_BUF_ATT,    /* acts, n_head * head_dim_v */
    SG_BUF_HIDDEN, /* acts, n_ff */
    SG_BUF_LOGITS, /* n_vocab, the caller's */
    SG_BUFS
} sg_buf;

typedef struct sg_product {
    const sg_weight *w;
    const float *bias; /* or NULL */
    sg_buf out;
} sg_product;

typedef struct sg_step {
    sg_op op;
    uint32_t layer;
    sg_buf in, out;     /* out: of NORM, ATTENTION, ACTIVATE */
    bool quantise;      /* a matrix that reads `out` wants 8-bit activations */
    bool lanes;         /* neuron bundles read `out` (sg_lane_acts) */
    bool add;           /* NORM */
    bool gated;         /* ACTIVATE: else there is no gate */
    bool last_only;     /* only tokens whose logits are kept */
    const float *norm;  /* NORM */
    const float *q_norm, *k_norm; /* ROPE, or NULL */
    sg_product product[3];
    uint32_t n_products;
} sg_step;

typedef struct sg_plan {
    sg_step *steps; /* owned */
    uint32_t n_steps;
    uint32_t width[SG_BUFS]; /* values per token of each buffer */
} sg_plan;

/* The activation of neuron bundles for a description's. */
sg_neuron_act sg_plan_act(sg_ffn_act act);

/* Steps for a model; pointers reach into d and w, which must outlive the plan. */
SG_NODISCARD sg_status sg_plan_create(sg_plan *p, const sg_model_desc *d, const sg_weights *w, sg_error *err);
void sg_plan_finish(sg_plan *p);

#endif
