/* Neuron kernels: products with single rows of a neuron bundle (neuron_engine/bundle.h), in any selection.
 *
 * The kernels of kernels.h keep one row of a matrix per SIMD lane, so they compute tiles of neighbouring rows. A sparse layer
 * needs single ones. Here a lane holds every eighth block of one row instead, which needs no shuffling, no broadcast and no
 * neighbours; the order of the sum is another one, and so this is a rule of its own:
 *
 * THE RULE FOR NEURONS. Dot product of a row with an activation column. Eight lanes acc[j] start at +0; then
 *   F32, F16:    for k = 0, 1, ...:              acc[k % 8] = fmaf(w[k], x[k], acc[k % 8])
 *   Q8_0, Q4_0:  for every block b of 32 values: acc[b % 8] = fmaf((float)s, d, acc[b % 8])
 *                with s the exact sum of q_w * q_x and d = dw * dx rounded once to F32
 * The result is ((acc[0] + acc[4]) + (acc[2] + acc[6])) + ((acc[1] + acc[5]) + (acc[3] + acc[7])). A row is padded with zero
 * blocks (values) to a multiple of eight of them; they take part and change nothing.
 *
 * Down: y = sum over neurons n of h[n] * (down row of n). F32, F16: y[i] = fmaf(w[i], h[n], y[i]) in the order of the neurons.
 * Quantised types: integers, whose sum has no order, so that neurons may be shared out among threads and come in any order:
 *   a = the integer nearest (ties to even) to hs * d rounded to F32, d the scale of the block, hs = h * unit rounded to F32;
 *   |a| <= 32767
 *   sum[i] += a * q, mod 2^32; y[i] = (float)sum[i] * (1 / unit)
 * The caller chooses `unit` so that nothing overflows (sg_down_unit in ffn.h); for one unit the sum has no order.
 *
 * Neurons with h == 0 may be left out: neither sum changes, as long as the scales (values) of their rows are finite; of float rows only
 * the sign of a zero can differ. */
#ifndef SG_KERNELS_NEURON_H
#define SG_KERNELS_NEURON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/dtype.h"

struct sg_acts;

#define SG_LANES 8u /* blocks (values) of a row side by side */

/* Activations of n tokens for the dot products of rows. x is the caller's; the rest only for quantised rows, 64-byte aligned:
 * group G of eight blocks of token t lies at q[(t * n_groups + G) * 256], word g (the values 4g .. 4g + 3) of its block j at
 * 32 * g + 4 * j there. Blocks behind the last are zero, in q, d and sum. */
typedef struct sg_lane_acts {
    uint32_t n, k, n_groups; /* n_groups = (k / 32 + 7) / 8 */
    const float *x;          /* [n][k] */
    int8_t *q;               /* [n][n_groups][8][8][4] */
    float *d;                /* [n][n_groups][8], the scales */
    int32_t *sum;            /* [n][n_groups][8], sum of the 32 codes of a block */
    int8_t *rest_q;          /* likewise of what q leaves out; NULL: not wanted. Kernels do not look at it (neuron_engine/acts.h) */
    float *rest_d;
    int32_t *rest_sum;
} sg_lane_acts;

/* Fills token t of `to` from the 8-bit form of `from`, whose k is the same. */
void sg_lane_acts_fill(sg_lane_acts *to, const struct sg_acts *from, uint32_t t);

/* One weight type in one tier. Pointers to rows need no alignment. Lists of rows may be empty, in any order and name a row
 * twice; NULL stands for rows 0 .. n-1. Nothing here allocates, fails or keeps state.
 *
 * Form of a dot row (gate, up) of k values, `dot_bytes` long; quantised types in groups of eight blocks, each group like a tile
 * of eight rows in tile.h: Q4_0: 8 halves d; then 4 x 8 words, word g of block j holding the nibbles of the values 4g .. 4g + 3
 * (low) and 4g + 16 .. 4g + 19 (high). Q8_0: 8 halves d; 8 x 8 words of codes. F32, F16: the values, zeros up to a multiple
 * of eight.
 * Form of a down row: F32, F16: the k values. Quantised: the k / 32 halves d, then the codes of the blocks. Q8_0: as in GGUF. Q4_0:
 * eight words of 16 bits a block, word j of two neighbouring blocks in turns (a last block without a neighbour: its words alone);
 * nibble i of word j, from the lowest, is value 8i + j: i < 3: the code, which is 8 more than the value; i = 3: the value itself, so
 * that the word shifted to the right is one more signed number, from which a kernel need not mask the rest. */
typedef struct sg_neuron_kernel {
    const char *name; /* "q4_0_avx2" */
    sg_dtype type;
    bool quantised;

    /* y[i] = row rows[i] times token t, i < n. Row r lies at w + r * stride. */
    void (*dot)(float *restrict y, const uint8_t *restrict w, size_t stride, const uint32_t *restrict rows, uint32_t n,
                const sg_lane_acts *restrict a, uint32_t t);
    /* y[t * ldy + i] = row i times token t for all tokens of a and i < n. */
    void (*dot_tokens)(float *restrict y, size_t ldy, const uint8_t *restrict w, size_t stride, uint32_t n,
                       const sg_lane_acts *restrict a);

    /* Quantised down rows of k values. max: the largest |d| of a row; infinite or NaN when a d is. add: the row rows[i] times
     * hs[i], for i < n, into sum[k] and bias[k / 32], all zero at first, whose order and meaning are the tier's own (bias: the
     * sum of a, for tiers that take off at the end what their codes are too large by). end: y[k] of the rule in natural order,
     * scale = 1 / unit, from the `parts` sums that lie `apart` words from each other (each sum[k], then bias[k / 32]), for blocks
     * b0 .. b1 - 1 only, both even unless b1 is the last; so that threads can share it: the rest of y stays. k % 32 == 0; sum
     * 64-byte aligned. Float types: NULL. */
    float (*down_max)(const uint8_t *row, uint32_t k);
    void (*down_add)(int32_t *restrict sum, const uint8_t *restrict w, size_t stride, const uint32_t *restrict rows,
                     const float *restrict hs, uint32_t n, uint32_t k);
    void (*down_end)(float *restrict y, const int32_t *restrict sum, size_t apart, uint32_t parts, uint32_t k, uint32_t b0,
                     uint32_t b1, float scale);
    /* Float down rows: y[i] as the rule says for i0 <= i < i1, rows in the order of the list. Quantised types: NULL. */
    void (*down_float)(float *restrict y, const uint8_t *restrict w, size_t stride, const uint32_t *restrict rows,
                       const float *restrict h, uint32_t n, uint32_t i0, uint32_t i1);
} sg_neuron_kernel;

/* Bytes from the codes of a Q4_0 down row of n blocks to word j of block b. */
static inline size_t sg_down_word(uint32_t b, uint32_t n, uint32_t j) {
    const bool alone = b % 2 == 0 && b + 1 == n;
    return b / 2 * (size_t)32 + (alone ? 2 * j : 4 * j + b % 2 * 2);
}
/* Bytes of a row of k values; k % 32 == 0 for quantised types. 0 for types that bundles cannot hold. */
size_t sg_dot_row_bytes(sg_dtype type, uint32_t k);
size_t sg_down_row_bytes(sg_dtype type, uint32_t k);
/* A row in GGUF's form (as sg_quantize writes it) to a dot or down row, and a dot row and a down row back to values. */
void sg_dot_row_pack(sg_dtype type, void *dst, const void *src, uint32_t k);
void sg_down_row_pack(sg_dtype type, void *dst, const void *src, uint32_t k);
void sg_dot_row_unpack(sg_dtype type, float *out, const void *row, uint32_t k);
void sg_down_row_unpack(sg_dtype type, float *out, const void *row, uint32_t k);

#endif
