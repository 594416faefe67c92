/* The vector operations of tile_tmpl.h in AVX-512 F, BW, DQ, VL; with __AVX512VNNI__ the integer products by VPDPBUSD. */
#ifndef SG_SIMD_AVX512_H
#define SG_SIMD_AVX512_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define INL static inline __attribute__((always_inline))
#define MR 16
#define NT 8
#ifdef __AVX512VNNI__
#define TIER avx512vnni
#define SIGNED_BIAS 128 /* vpdpbusd takes unsigned codes */
#else
#define TIER avx512
#define SIGNED_BIAS 0
#endif

typedef uint32_t vu __attribute__((vector_size(64)));
typedef int32_t vi __attribute__((vector_size(64)));
typedef float vf __attribute__((vector_size(64)));

INL vf fma_v(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INL vf halves(const void *p) { return (vf)_mm512_cvtph_ps(_mm256_loadu_si256(p)); }
INL vu bytes(const void *p) { return (vu)_mm512_cvtepu8_epi32(_mm_loadu_si128(p)); }
INL vu words16(const void *p) { return (vu)_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)); }
INL vu lookup(vu table, vu i) { return (vu)_mm512_shuffle_epi8((__m512i)table, (__m512i)i); }
INL vu broadcast(const void *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return (vu)_mm512_set1_epi32(v);
}

#ifdef __AVX512VNNI__
/* vpdpwssd instead of vpmaddwd, since it takes a broadcast operand from memory. */
INL vi madd16(vu a, vu b) { return (vi)_mm512_dpwssd_epi32(_mm512_setzero_si512(), (__m512i)b, (__m512i)a); }

INL vi dot(const vu c[8], const int8_t *x, int from, int to, int top, vi init) {
    __m512i acc = (__m512i)init;
#pragma GCC unroll 8
    for (int g = from; g < to; g++) acc = _mm512_dpbusd_epi32(acc, (__m512i)c[g], (__m512i)broadcast(x + 4 * g));
    return (vi)acc;
}
#else
INL vi madd16(vu a, vu b) { return (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b); }

/* c * x in pairs of 16 bits, c signed: |c| times x with the sign of c, which vpsignb would give. */
INL __m512i signed_products(__m512i c, __m512i x) {
    const __m512i minus = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(c), _mm512_setzero_si512(), x);
    return _mm512_maddubs_epi16(_mm512_abs_epi8(c), minus);
}

/* vpmaddubsw adds two products in 16 bits with saturation: with codes up to `top` the sums of `fit` groups stay exact.
 * Signed codes: 128 * 127 * 2 fits. */
INL vi dot(const vu c[8], const int8_t *x, int from, int to, int top, vi init) {
    const int fit = top < 0 ? 1 : 32767 / (top * 127 * 2);
    const __m512i ones = _mm512_set1_epi16(1);
    __m512i acc = (__m512i)init, s = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int g = from; g < to; g++) {
        const __m512i xv = (__m512i)broadcast(x + 4 * g), cv = (__m512i)c[g];
        const __m512i p = top < 0 ? signed_products(cv, xv) : _mm512_maddubs_epi16(cv, xv);
        s = (g - from) % fit ? _mm512_add_epi16(s, p) : p;
        if ((g - from) % fit == fit - 1 || g == to - 1) acc = _mm512_add_epi32(acc, _mm512_madd_epi16(s, ones));
    }
    return (vi)acc;
}
#endif

#endif
