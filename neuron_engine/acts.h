/* Activations in memory, and their second half.
 *
 * Quantised weights are multiplied with activations in 8 bits. A session may ask for 16: what the 8 bits leave out, x - d * q (rounded once to
 * F32), is quantised once more, and the product with it is added: y = fl(y of q + y of the rest). It costs a second pass over weights that
 * are in a cache by then, and no kernel of its own. */
#ifndef SG_NE_ACTS_H
#define SG_NE_ACTS_H

#include "neuron_engine/kernels/kernels.h"
#include "runtime/base/mem.h"

/* Memory for n tokens of k values. values: the F32 form as well; rest: the second half. A measuring carver first. */
void sg_acts_lay_out(sg_acts *a, sg_carver *c, size_t n, uint32_t k, bool values, bool rest);
/* The same of lanes, without x; groups: n * n_groups. */
void sg_lane_acts_lay_out(sg_lane_acts *a, sg_carver *c, size_t n, bool rest);

/* Tokens from .. from + n - 1 of a alone. */
static inline sg_acts sg_acts_rows(const sg_acts *a, uint32_t from, uint32_t n) {
    const size_t v = (size_t)from * a->k, b = (size_t)from * a->n_blocks;
    sg_acts s = { n, a->k, a->n_blocks, a->x + v, a->q + v, a->d + b, a->sums + 2 * b, a->dsum + b, NULL, NULL, NULL, NULL };
    if (!a->rest_q) return s;
    s.rest_q = a->rest_q + v;
    s.rest_d = a->rest_d + b;
    s.rest_sums = a->rest_sums + 2 * b;
    s.rest_dsum = a->rest_dsum + b;
    return s;
}
/* The rest as activations of their own; its x is NULL. */
static inline sg_acts sg_acts_rest(const sg_acts *a) {
    return (sg_acts) { a->n, a->k, a->n_blocks, NULL, a->rest_q, a->rest_d, a->rest_sums, a->rest_dsum, NULL, NULL, NULL, NULL };
}
static inline sg_lane_acts sg_lane_acts_rest(const sg_lane_acts *a) {
    return (sg_lane_acts) { a->n, a->k, a->n_groups, NULL, a->rest_q, a->rest_d, a->rest_sum, NULL, NULL, NULL };
}

/* The 8-bit form of token t, and of its rest where there is room for it. */
void sg_acts_quantise(const sg_vec_fns *vec, sg_acts *a, uint32_t t);
/* Of values at .. at + n - 1 of token t, at and n multiples of 32. */
void sg_acts_quantise_part(const sg_vec_fns *vec, const sg_acts *a, uint32_t t, uint32_t at, uint32_t n);
/* Token `from_t` of another one with the same k; q8: the 8-bit form too. */
void sg_acts_copy(const sg_acts *to, uint32_t t, const sg_acts *from, uint32_t from_t, bool q8);
/* sg_lane_acts_fill with the rest. */
void sg_lane_acts_fill_both(sg_lane_acts *to, const sg_acts *from, uint32_t t);

/* sg_neuron_kernel.dot and .dot_tokens, with the rest where there is one. n <= SG_DOT_MOST. */
#define SG_DOT_MOST 512u
void sg_lane_dot(const sg_neuron_kernel *k, float *y, const uint8_t *w, size_t stride, const uint32_t *rows, uint32_t n, const sg_lane_acts *a,
                 uint32_t t);
void sg_lane_dot_tokens(const sg_neuron_kernel *k, float *y, size_t ldy, const uint8_t *w, size_t stride, uint32_t n, const sg_lane_acts *a);

#endif
