/* Neuron kernels in 256-bit vectors: eight lanes of 32 bits are what the rule for neurons (neuron.h) is made for. Included once
 * per tier after TIER is defined; with __AVXVNNI__ or __AVX512VNNI__ the integer products are VPDPBUSD's and VPDPWSSD's. Needs
 * AVX2, FMA and F16C. */
#include <immintrin.h>
#include <string.h>

#include "neuron_engine/kernels/kernels.h"
#include "neuron_engine/kernels/tile.h"

#define INL static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#if defined(__AVXVNNI__)
#define DPBUSD(s, c, x) _mm256_dpbusd_avx_epi32(s, c, x)
#define DPWSSD(s, c, a) _mm256_dpwssd_avx_epi32(s, c, a)
#elif defined(__AVX512VNNI__)
#define DPBUSD(s, c, x) _mm256_dpbusd_epi32(s, c, x)
#define DPWSSD(s, c, a) _mm256_dpwssd_epi32(s, c, a)
#endif

/* To GCC a new value that lies in a register: what is loaded once is not loaded again for its second use, and sums are not put
 * into another order, which would keep all their terms alive at once and spill them. */
INL __m256i hold(__m256i v) {
    __asm__ volatile("" : "+x"(v));
    return v;
}
INL __m256i load(const void *p) { return _mm256_loadu_si256(p); }
INL __m256 halves(const uint8_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p)); }
INL __m256 float_lanes(sg_dtype type, const uint8_t *row, size_t k) {
    return type == SG_DTYPE_F16 ? halves(row + 2 * k) : _mm256_loadu_ps((const float *)(const void *)row + k);
}
INL const uint8_t *row_at(const uint8_t *w, size_t stride, const uint32_t *rows, uint32_t i) {
    return w + (rows ? rows[i] : i) * stride;
}
INL bool is_float(sg_dtype type) { return type == SG_DTYPE_F32 || type == SG_DTYPE_F16; }

#include "neuron_engine/kernels/x86/neuron_dot.h"
#include "neuron_engine/kernels/x86/neuron_down.h"

#define STRING(x) STRING_(x)
#define STRING_(x) #x

#define DOT(type_, lower)                                                                                              \
    static void dot_##lower(float *restrict y, const uint8_t *restrict w, size_t stride, const uint32_t *restrict rows, \
                            uint32_t n, const sg_lane_acts *restrict a, uint32_t t) {                                  \
        if (rows) dot_list(type_, y, w, stride, rows, n, a, t);                                                        \
        else dot_streams(type_, y, w, stride, n, a, t);                                                                \
    }                                                                                                                  \
    static void dot_tokens_##lower(float *restrict y, size_t ldy, const uint8_t *restrict w, size_t stride, uint32_t n, \
                                   const sg_lane_acts *restrict a) {                                                   \
        if (a->n == 1) dot_streams(type_, y, w, stride, n, a, 0);                                                      \
        else dot_panels(type_, y, ldy, w, stride, n, a);                                                               \
    }

#define BLOCK_KERNEL(type_, lower)                                                                                     \
    DOT(type_, lower)                                                                                                  \
    static void down_add_##lower(int32_t *restrict sum, const uint8_t *restrict w, size_t stride,                      \
                                 const uint32_t *restrict rows, const float *restrict hs, uint32_t n, uint32_t k) {    \
        down_add(type_, sum, w, stride, rows, hs, n, k);                                                               \
    }                                                                                                                  \
    static void down_end_##lower(float *restrict y, const int32_t *restrict sum, size_t apart, uint32_t parts, uint32_t k, \
                                 uint32_t b0, uint32_t b1, float scale) {                                              \
        down_end(type_, y, sum, apart, parts, k, b0, b1, scale);                                                       \
    }                                                                                                                  \
    static const sg_neuron_kernel kernel_##lower = {                                                                   \
        .name = #lower "_" STRING(TIER), .type = type_, .quantised = true, .dot = dot_##lower,                         \
        .dot_tokens = dot_tokens_##lower, .down_max = down_max, .down_add = down_add_##lower, .down_end = down_end_##lower \
    };

BLOCK_KERNEL(SG_DTYPE_Q8_0, q8_0)
BLOCK_KERNEL(SG_DTYPE_Q4_0, q4_0)

#ifndef DPBUSD /* the others gain nothing there */
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
#ifndef DPBUSD
    neuron[SG_DTYPE_F32] = &kernel_f32;
    neuron[SG_DTYPE_F16] = &kernel_f16;
#endif
    neuron[SG_DTYPE_Q8_0] = &kernel_q8_0;
    neuron[SG_DTYPE_Q4_0] = &kernel_q4_0;
}
