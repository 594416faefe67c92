/* The steps of one token (or one batch of tokens): what a model description comes down to. The executor walks them in order,
 * with a barrier after each; it knows steps, not models. */
#ifndef SG_RUNTIME_PLAN_H
#define SG_RUNTIME_PLAN_H

#include "runtime/weights.h"

typedef enum sg_op {
    SG_OP_EMBED,    /* x = embedding of the tokens, times embd_scale, plus that of the positions, if they are learned */
    SG_OP_NORM,     /* x += residual_scale * branches (if add), each behind its own norm; out = norm of values of `in` */
    SG_OP_MATMUL,   /* some matrices over one input */
    SG_OP_ROPE,     /* per head: norm of q and k (if the model has one), rotary, k and v into the cache */
    SG_OP_LATENT,   /* the same for compressed keys and values: the latent vector is both */
    SG_OP_HEADS,    /* a matrix per head, each over its own part of the input */
    SG_OP_ATTENTION,
    SG_OP_CONV,     /* gated short convolution: att = c * conv(b * x) */
    SG_OP_DELTA,    /* gated delta net: att = norm(delta rule over conv(qkv)) * silu(z) */
    SG_OP_ACTIVATE, /* hidden = act(gate, up); ungated: act(up) */
    SG_OP_ROUTE,    /* which experts each token uses, from the router's products */
    SG_OP_EXPERTS,  /* branch = sum over the chosen experts; matrices */
    SG_OP_COMBINE,  /* branch += branch2, times the sigmoid of the shared gate, if there is one */
    SG_OP_AHEAD,    /* a guess of the layer's feed-forward input: reads of the neurons that its predictor names are started */
    SG_OP_EXPECT,   /* a guess of the layer's route, of one token: reads of the experts that its router names are started */
    SG_OP_PREGATE,  /* the pre-gate names the experts of all layers: reads are started; what the next batch will need is counted */
    SG_OP_FFN,      /* a feed-forward unit of neuron bundles */
    SG_OP_LOGITS,   /* scale and cap of the logits */
} sg_op;

/* Working buffers of a batch, [n][width] each. ACTS ones can also be held in 8 bit for quantised matrices. */
typedef enum sg_buf {
    SG_BUF_X,       /* acts: residual stream, n_embd */
    SG_BUF_BRANCH,  /* what a half of a layer adds, n_embd */
    SG_BUF_BRANCH2, /* of shared experts, or of attention where both halves run side by side */
    SG_BUF_PROJ,    /* q, k, v; or what a recurrent layer starts from */
    SG_BUF_SIDE,    /* besides: compressed q, then compressed k and v; or z, b, a of a delta net */
    SG_BUF_LATENT_Q, /* queries as the latent keys want them */
    SG_BUF_LATENT,  /* what attention over latent vectors gives */
    SG_BUF_GATE_UP, /* gate, up */
    SG_BUF_ROUTER,  /* products of the router; one more: of the shared gate */
    SG_BUF_PREGATE, /* of the pre-gate where it is the router, of all layers */
    SG_BUF_NORMED,  /* acts, n_embd */
    SG_BUF_SMALL,   /* acts, n_q_lora */
    SG_BUF_ATT,     /* acts, what the mixer gives, before its output matrix */
    SG_BUF_HIDDEN,  /* acts, neurons */
    SG_BUF_LOGITS,  /* n_vocab, the caller's */
    SG_BUFS
} sg_buf;

typedef struct sg_product {
    const sg_weight *w;
    const float *bias; /* or NULL */
    sg_buf out;
    uint32_t at; /* first value in a token's part of `out` */
} sg_product;

typedef struct sg_step {
    sg_op op;
    uint32_t layer;
    sg_buf in, out;
    uint32_t width;     /* values of a token in `out`, of steps that make acts; they lie without gaps */
    uint32_t at, n;     /* NORM, HEADS: first value of `in`, and how many (per head); ACTIVATE: neurons; EXPECT: layers of experts
                         * ahead; ROUTE: first value of `in` */
    bool quantise;      /* a matrix that reads `out` wants 8-bit activations */
    bool quantise_x;    /* NORM: one reads X itself */
    bool lanes;         /* neuron bundles read `out` (sg_lane_acts) */
    bool add, add_both; /* NORM: BRANCH; and BRANCH2 */
    bool plain;         /* NORM: divided by the root mean square, whatever the architecture */
    bool gated;         /* ACTIVATE: there is a gate. COMBINE: likewise */
    bool last_only;     /* only tokens whose logits are kept */
    const float *norm, *norm_bias; /* NORM, AHEAD, EXPECT; NULL: none */
    const float *post_norm;        /* NORM: of the branch that is added */
    const float *q_norm, *k_norm;  /* ROPE; LATENT: k_norm of the latent vector */
    bool norm_whole;               /* ROPE: of all heads together */
    const float *select_bias;      /* ROUTE, EXPECT; or NULL */
    const sg_weight *w;            /* HEADS; EXPECT: the router, or what stands for it; PREGATE */
    const float *bias;             /* of the latter two */
    uint32_t head_in, head_out;    /* HEADS: values from one head to the next in `in` and `out` */
    uint32_t unit;                 /* FFN */
    bool routed;
    sg_product product[4];
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
