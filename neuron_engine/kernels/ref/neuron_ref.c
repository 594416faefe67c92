/* Neuron kernels of the reference: the rule for neurons (neuron.h) as it is written there, in plain C. */
#include <math.h>
#include <string.h>

#include "neuron_engine/kernels/ref/ref.h"
#include "neuron_engine/kernels/tile.h"
#include "neuron_engine/quant.h"

static const uint8_t *row_at(const uint8_t *w, size_t stride, const uint32_t *rows, uint32_t i) {
    return w + (rows ? rows[i] : i) * stride;
}

static float half_at(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return sg_f16_to_f32(h);
}

static float float_at(sg_dtype type, const uint8_t *row, uint32_t i) {
    float v;
    if (type == SG_DTYPE_F16) return half_at(row + 2 * (size_t)i);
    memcpy(&v, row + sizeof v * (size_t)i, sizeof v);
    return v;
}

static float sum_lanes(const float acc[SG_LANES]) {
    return ((acc[0] + acc[4]) + (acc[2] + acc[6])) + ((acc[1] + acc[5]) + (acc[3] + acc[7]));
}

static float dot_float(sg_dtype type, const uint8_t *row, const sg_lane_acts *a, uint32_t t) {
    const float *x = a->x + (size_t)t * a->k;
    const uint32_t padded = (a->k + SG_LANES - 1) / SG_LANES * SG_LANES;
    float acc[SG_LANES] = { 0 };
    for (uint32_t k = 0; k < padded; k++)
        acc[k % SG_LANES] = fmaf(float_at(type, row, k), k < a->k ? x[k] : 0, acc[k % SG_LANES]);
    return sum_lanes(acc);
}

/* Signed code of value v, v < 32, of block j of a group. */
static int dot_code(sg_dtype type, const uint8_t *group, uint32_t j, uint32_t v) {
    const uint8_t *codes = group + SG_LANES * (type == SG_DTYPE_Q8_0 ? SG_T_Q8_0_QS : SG_T_Q4_0_QS);
    if (type == SG_DTYPE_Q8_0) return (int8_t)codes[v / 4 * 32 + 4 * j + v % 4];
    const int byte = codes[v % 16 / 4 * 32 + 4 * j + v % 4];
    return (v < 16 ? byte & 15 : byte >> 4) - 8;
}

static float dot_blocks(sg_dtype type, const uint8_t *row, const sg_lane_acts *a, uint32_t t) {
    float acc[SG_LANES] = { 0 };
    for (uint32_t g = 0; g < a->n_groups; g++, row += SG_LANES * sg_block_bytes(type)) {
        const size_t at = (size_t)t * a->n_groups + g;
        const int8_t *q = a->q + at * SG_LANES * SG_BLOCK;
        for (uint32_t j = 0; j < SG_LANES; j++) {
            int32_t s = 0;
            for (uint32_t v = 0; v < SG_BLOCK; v++) s += dot_code(type, row, j, v) * q[v / 4 * 32 + 4 * j + v % 4];
            acc[j] = fmaf((float)s, half_at(row + 2 * j) * a->d[at * SG_LANES + j], acc[j]);
        }
    }
    return sum_lanes(acc);
}

static float dot_row(sg_dtype type, const uint8_t *row, const sg_lane_acts *a, uint32_t t) {
    return type == SG_DTYPE_F32 || type == SG_DTYPE_F16 ? dot_float(type, row, a, t) : dot_blocks(type, row, a, t);
}

static float down_max(const uint8_t *row, uint32_t k) {
    int most = 0;
    for (uint32_t b = 0; b < k / SG_BLOCK; b++) {
        const int bits = row[2 * b] | (row[2 * b + 1] & 0x7f) << 8;
        if (bits > most) most = bits;
    }
    return sg_f16_to_f32((uint16_t)most);
}

/* Signed code of value v of block b of n of a down row. */
static int down_code(sg_dtype type, const uint8_t *codes, uint32_t b, uint32_t n, uint32_t v) {
    if (type == SG_DTYPE_Q8_0) return (int8_t)codes[b * SG_BLOCK + v];
    const uint8_t *word = codes + sg_down_word(b, n, v % 8);
    return (int)((word[v / 16] >> (v / 8 % 2 * 4) & 15) ^ (v < 24 ? 0 : 8)) - 8;
}

/* The order of the sums is the natural one; codes are signed, so bias stays as it is. */
static void down_row(sg_dtype type, int32_t *sum, const uint8_t *row, float hs, uint32_t k) {
    const uint32_t n = k / SG_BLOCK;
    const uint8_t *codes = row + 2 * (size_t)n;
    for (uint32_t b = 0; b < n; b++, sum += SG_BLOCK) {
        const uint32_t a = (uint32_t)lrintf(hs * half_at(row + 2 * (size_t)b));
        for (uint32_t v = 0; v < SG_BLOCK; v++) sum[v] = (int32_t)((uint32_t)sum[v] + a * (uint32_t)down_code(type, codes, b, n, v));
    }
}

static void down_end(float *restrict y, const int32_t *restrict sum, size_t apart, uint32_t parts, uint32_t k, uint32_t b0,
                     uint32_t b1, float scale) {
    (void)k;
    for (size_t i = (size_t)b0 * SG_BLOCK; i < (size_t)b1 * SG_BLOCK; i++) {
        uint32_t s = 0;
        for (uint32_t p = 0; p < parts; p++) s += (uint32_t)sum[p * apart + i];
        y[i] = (float)(int32_t)s * scale;
    }
}

#define DOT(type_, lower)                                                                                              \
    static void dot_##lower(float *restrict y, const uint8_t *restrict w, size_t stride, const uint32_t *restrict rows, \
                            uint32_t n, const sg_lane_acts *restrict a, uint32_t t) {                                  \
        for (uint32_t i = 0; i < n; i++) y[i] = dot_row(type_, row_at(w, stride, rows, i), a, t);                      \
    }                                                                                                                  \
    static void dot_tokens_##lower(float *restrict y, size_t ldy, const uint8_t *restrict w, size_t stride, uint32_t n, \
                                   const sg_lane_acts *restrict a) {                                                   \
        for (uint32_t t = 0; t < a->n; t++) dot_##lower(y + t * ldy, w, stride, NULL, n, a, t);                        \
    }

#define FLOAT_KERNEL(type_, lower)                                                                                     \
    DOT(type_, lower)                                                                                                  \
    static void down_##lower(float *restrict y, const uint8_t *restrict w, size_t stride, const uint32_t *restrict rows, \
                             const float *restrict h, uint32_t n, uint32_t i0, uint32_t i1) {                          \
        for (uint32_t j = 0; j < n; j++)                                                                               \
            for (uint32_t i = i0; i < i1; i++) y[i] = fmaf(float_at(type_, row_at(w, stride, rows, j), i), h[j], y[i]); \
    }                                                                                                                  \
    static const sg_neuron_kernel kernel_##lower = {                                                                   \
        .name = #lower "_ref", .type = type_, .dot = dot_##lower, .dot_tokens = dot_tokens_##lower, .down_float = down_##lower \
    };

#define BLOCK_KERNEL(type_, lower)                                                                                     \
    DOT(type_, lower)                                                                                                  \
    static void down_##lower(int32_t *restrict sum, const uint8_t *restrict w, size_t stride, const uint32_t *restrict rows, \
                             const float *restrict hs, uint32_t n, uint32_t k) {                                       \
        for (uint32_t j = 0; j < n; j++) down_row(type_, sum, row_at(w, stride, rows, j), hs[j], k);                   \
    }                                                                                                                  \
    static const sg_neuron_kernel kernel_##lower = {                                                                   \
        .name = #lower "_ref", .type = type_, .quantised = true, .dot = dot_##lower, .dot_tokens = dot_tokens_##lower, \
        .down_max = down_max, .down_add = down_##lower, .down_end = down_end                                           \
    };

FLOAT_KERNEL(SG_DTYPE_F32, f32)
FLOAT_KERNEL(SG_DTYPE_F16, f16)
BLOCK_KERNEL(SG_DTYPE_Q8_0, q8_0)
BLOCK_KERNEL(SG_DTYPE_Q4_0, q4_0)

const sg_neuron_kernel *const sg_neuron_ref[SG_DTYPE_LIMIT] = {
    [SG_DTYPE_F32] = &kernel_f32, [SG_DTYPE_F16] = &kernel_f16, [SG_DTYPE_Q8_0] = &kernel_q8_0, [SG_DTYPE_Q4_0] = &kernel_q4_0
};
