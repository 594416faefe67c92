/* Experts as matrices: y = sum over the chosen experts of weight * down(act(gate x, up x)), of files whose feed-forward weights are no
 * neuron bundles.
 *
 * A pair is a token and one of its experts. Pairs are ordered by expert, and by token within one, so that every expert is read once and
 * multiplied with all of its tokens: y[t] is summed over the token's experts in ascending order, y = fmaf(weight, out, y) from +0, whatever
 * else is in the batch. */
#ifndef SG_NE_EXPERTS_H
#define SG_NE_EXPERTS_H

#include "neuron_engine/ffn.h"
#include "neuron_engine/matrix.h"

/* The experts of one layer; n matrices each, and their biases [n][rows], or NULL. */
typedef struct sg_experts_layer {
    const sg_matrix *gate, *up, *down;
    const float *gate_bias, *up_bias, *down_bias;
} sg_experts_layer;

/* Working memory of a session. */
typedef struct sg_experts {
    const sg_kernels *kernels;
    sg_neuron_act act;
    bool precise; /* activations in 16 bits (acts.h) */
    uint32_t n_expert, n_used, n_batch, k, n_ff;
    uint32_t *start;     /* [n_expert + 1], first pair of each expert */
    uint32_t *pair_of;   /* [n_batch][n_used], number of the pair */
    uint32_t *entry;     /* [pairs], place of each in the route */
    uint32_t *used, n;   /* experts that have pairs */
    sg_acts x;           /* [pairs][k], inputs side by side; for more than one token */
    float *gate_up;      /* [pairs][2][n_ff] */
    sg_acts h;           /* [pairs][n_ff] */
    float *out;          /* [pairs][k] */
} sg_experts;

/* Sizes from the first members, memory from `c`: a measuring carver first. */
void sg_experts_lay_out(sg_experts *e, sg_carver *c);

/* y[t][0 .. k) for the tokens of x (x->n; the 8-bit form where gate or up want it), route as in sg_ffn_run. Called by every thread of the
 * team; y is there after the next barrier. */
void sg_experts_run(sg_experts *e, const sg_experts_layer *l, const sg_ffn_route *route, const sg_acts *x, float *y, size_t ldy, sg_team *team,
                    uint32_t thread);

#endif
