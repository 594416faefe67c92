/* Experts as matrices: y = sum over the chosen experts of weight * down(act(gate x, up x)), of files whose feed-forward weights are no
 * neuron bundles.
 *
 * A pair is a token and one of its experts. Pairs are ordered by expert, and by token within one, so that every expert is read once and
 * multiplied with all of its tokens: y[t] is summed over the token's experts in ascending order, y = fmaf(weight, out, y) from +0, whatever
 * else is in the batch. What a lossy route leaves out has no pair.
 *
 * Experts that are not all in RAM (expert_store.h) are computed with group by group: those in slots while the others are being read, then
 * those that were read, each piece as it arrives; nothing of the above changes, so the bits are the same. */
#ifndef SG_NE_EXPERTS_H
#define SG_NE_EXPERTS_H

#include "neuron_engine/expert_store.h"
#include "neuron_engine/ffn.h"
#include "neuron_engine/matrix.h"

/* The experts of one layer; n matrices each, and their biases [n][rows], or NULL. home: where they are; NULL: in the matrices, which else only
 * have kernel and shape. */
typedef struct sg_experts_layer {
    const sg_matrix *gate, *up, *down;
    const float *gate_bias, *up_bias, *down_bias;
    sg_expert_home *home;
} sg_experts_layer;

/* Working memory of a session. */
typedef struct sg_experts {
    const sg_kernels *kernels;
    sg_neuron_act act;
    bool precise; /* activations in 16 bits (acts.h) */
    uint32_t n_expert, n_used, n_batch, k, n_ff;
    uint32_t n_threads;    /* for what follows below */
    size_t item_bytes;     /* packed rows that are computed with at once, when some layer has a home; else 0 */
    uint32_t *start;       /* [n_expert + 1], first pair of each expert */
    uint32_t *pair_of;     /* [n_batch][n_used], number of the pair */
    uint32_t *entry;       /* [pairs], place of each in the route */
    uint32_t *used, n;     /* experts that have pairs */
    sg_acts x;             /* [pairs][k], inputs side by side; for more than one token */
    float *gate_up;        /* [pairs][2][n_ff] */
    sg_acts h;             /* [pairs][n_ff] */
    float *out;            /* [pairs][k] */
    uint8_t *scratch;      /* [n_threads][item_bytes] */
    sg_waited *waited;     /* [n_threads], set by the owner when there are homes */
    sg_trace *trace;       /* or NULL */
} sg_experts;

/* Sizes from the first members, memory from `c`: a measuring carver first. */
void sg_experts_lay_out(sg_experts *e, sg_carver *c);

/* Rows of a matrix that are computed with at once as they arrive. */
uint32_t sg_experts_item_rows(size_t row_bytes);

/* For layers with a home: which experts the route needs is known; starts the reads of those that are not in RAM. By one thread, before
 * sg_experts_run with the same route; a barrier in between. */
void sg_experts_demand(sg_experts *e, sg_expert_home *home, const sg_ffn_route *route, uint32_t n);

/* y[t][0 .. k) for the tokens of x (x->n; the 8-bit form where gate or up want it), route as in sg_ffn_run. Called by every thread of the
 * team; y is there after the next barrier. */
void sg_experts_run(sg_experts *e, const sg_experts_layer *l, const sg_ffn_route *route, const sg_acts *x, float *y, size_t ldy, sg_team *team,
                    uint32_t thread);

/* ---- parts ---- */

/* One matrix of several experts, over their pairs: in[pair] to y[pair * ldy ..]. */
typedef struct sg_experts_product {
    const sg_matrix *w;
    const float *bias;
    const sg_acts *in;
    float *y;
    size_t ldy;
    int slice; /* SG_EXPERT_GATE .. */
} sg_experts_product;

/* What all threads see of a layer. first: gate and up; shared_input: of one token, all pairs have the same. */
typedef struct sg_experts_turn {
    sg_experts *e;
    const sg_experts_layer *l;
    sg_experts_product first[2], second;
    bool shared_input;
    sg_team *team;
    uint32_t thread;
} sg_experts_turn;

/* The input of an expert's pairs. */
static inline sg_acts sg_experts_input(const sg_experts_turn *t, const sg_experts_product *m, uint32_t expert) {
    const uint32_t first = t->e->start[expert];
    return t->shared_input && m->slice != SG_EXPERT_DOWN ? sg_acts_rows(m->in, 0, 1) : sg_acts_rows(m->in, first, t->e->start[expert + 1] - first);
}
/* h of the pairs of experts expert[n]; no barrier. */
void sg_experts_activate(const sg_experts_turn *t, const uint32_t *expert, uint32_t n);
/* The products of experts that are all in RAM: of n_m matrices of the experts expert[n], in slots slot[n] or, NULL, in the matrices. */
void sg_experts_in_ram(const sg_experts_turn *t, const sg_experts_product *m, uint32_t n_m, const uint32_t *expert, const uint32_t *slot, uint32_t n);
/* All up to out of a layer with a home. Ends with a barrier (experts_away.c). */
void sg_experts_run_away(const sg_experts_turn *t);

#endif
