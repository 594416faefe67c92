/* Neuron kernels in NEON: the eight lanes of the rule (neuron.h) are two vectors of four. Included once per tier after TIER is
 * defined; with __ARM_FEATURE_DOTPROD the integer products of the dot rows are SDOT's. */
#include <arm_neon.h>
#include <string.h>

#include "neuron_engine/kernels/kernels.h"
#include "neuron_engine/kernels/tile.h"
#include "neuron_engine/quant.h"

#define INL static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define GROUP ((size_t)SG_LANES * SG_BLOCK) /* activation bytes of a group of blocks */
#define ROWS 4                              /* computed together, or tokens */

typedef struct lanes_f {
    float32x4_t v[2];
} lanes_f;
typedef struct lanes_i {
    int32x4_t v[2];
} lanes_i;

/* Loads of any alignment. */
INL int8x16_t load_codes(const void *p) { return vreinterpretq_s8_u8(vld1q_u8(p)); }
INL float32x4_t load_floats(const void *p) { return vreinterpretq_f32_u8(vld1q_u8(p)); }
INL float32x4_t load_halves(const void *p) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p))); }
INL lanes_f halves(const uint8_t *p) { return (lanes_f) { { load_halves(p), load_halves(p + 8) } }; }
INL lanes_f float_lanes(sg_dtype type, const uint8_t *row, size_t k) {
    if (type == SG_DTYPE_F16) return halves(row + 2 * k);
    return (lanes_f) { { load_floats(row + 4 * k), load_floats(row + 4 * k + 16) } };
}
INL float half_at(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return sg_f16_to_f32(h);
}
INL const uint8_t *row_at(const uint8_t *w, size_t stride, const uint32_t *rows, uint32_t i) {
    return w + (rows ? rows[i] : i) * stride;
}
INL bool is_float(sg_dtype type) { return type == SG_DTYPE_F32 || type == SG_DTYPE_F16; }

#include "neuron_engine/kernels/arm/neuron_arm_dot.h"
#include "neuron_engine/kernels/arm/neuron_arm_down.h"

#define STRING(x) STRING_(x)
#define STRING_(x) #x

#define DOT(type_, lower)                                                                                              \
    static void dot_##lower(float *restrict y, const uint8_t *restrict w, size_t stride, const uint32_t *restrict rows, \
                            uint32_t n, const sg_lane_acts *restrict a, uint32_t t) {                                  \
        dot_list(type_, y, w, stride, rows, n, a, t);                                                                  \
    }                                                                                                                  \
    static void dot_tokens_##lower(float *restrict y, size_t ldy, const uint8_t *restrict w, size_t stride, uint32_t n, \
                                   const sg_lane_acts *restrict a) {                                                   \
        if (a->n == 1) dot_list(type_, y, w, stride, NULL, n, a, 0);                                                   \
        else dot_all_tokens(type_, y, ldy, w, stride, n, a);                                                           \
    }

#define BLOCK_KERNEL(type_, lower)                                                                                     \
    DOT(type_, lower)                                                                                                  \
    static void down_add_##lower(int32_t *restrict sum, const uint8_t *restrict w, size_t stride,                      \
                                 const uint32_t *restrict rows, const float *restrict hs, uint32_t n, uint32_t k) {    \
        down_add(type_, sum, w, stride, rows, hs, n, k);                                                               \
    }                                                                                                                  \
    static const sg_neuron_kernel kernel_##lower = {                                                                   \
        .name = #lower "_" STRING(TIER), .type = type_, .quantised = true, .dot = dot_##lower,                         \
        .dot_tokens = dot_tokens_##lower, .down_max = down_max, .down_add = down_add_##lower, .down_end = down_end     \
    };

BLOCK_KERNEL(SG_DTYPE_Q8_0, q8_0)
BLOCK_KERNEL(SG_DTYPE_Q4_0, q4_0)

#ifndef __ARM_FEATURE_DOTPROD /* the others gain nothing there */
#define FLOAT_KERNEL(type_, lower)                                                                                     \
    DOT(type_, lower)                                                                                                  \
    static void down_float_##lower(float *restrict y, const uint8_t *restrict w, size_t stride,                        \
                                   const uint32_t *restrict rows, const float *restrict h, uint32_t n, uint32_t i0,    \
                                   uint32_t i1) {                                                                      \
        down_floats(type_, y, w, stride, rows, h, n, i0, i1);                                                          \
    }                                                                                                                  \
    static const sg_neuron_kernel kernel_##lower = {                                                                   \
        .name = #lower "_" STRING(TIER), .type = type_, .dot = dot_##lower, .dot_tokens = dot_tokens_##lower,          \
        .down_float = down_float_##lower                                                                               \
    };

FLOAT_KERNEL(SG_DTYPE_F32, f32)
FLOAT_KERNEL(SG_DTYPE_F16, f16)
#endif

static void set_neuron_kernels(const sg_neuron_kernel *neuron[SG_DTYPE_LIMIT]) {
#ifndef __ARM_FEATURE_DOTPROD
    neuron[SG_DTYPE_F32] = &kernel_f32;
    neuron[SG_DTYPE_F16] = &kernel_f16;
#endif
    neuron[SG_DTYPE_Q8_0] = &kernel_q8_0;
    neuron[SG_DTYPE_Q4_0] = &kernel_q4_0;
}
