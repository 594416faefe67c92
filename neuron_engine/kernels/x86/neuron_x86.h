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

INL void dot_any(sg_dtype type, float *y, const uint8_t *w, size_t stride, const uint32_t *rows, uint32_t n, const sg_lane_acts *a,
                 uint32_t t) {
    if (rows) dot_list(type, y, w, stride, rows, n, a, t);
    else dot_streams(type, y, w, stride, n, a, t);
}

#ifdef DPBUSD
#define FLOATS 0
#else
#define FLOATS 1
#endif
#include "neuron_engine/kernels/neuron_records.h"
