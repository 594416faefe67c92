/* The vector operations of tile_tmpl.h in AVX2, FMA and F16C; with __AVXVNNI__ the integer products by VPDPBUSD. */
#ifndef SG_SIMD_AVX2_H
#define SG_SIMD_AVX2_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define INL static inline __attribute__((always_inline))
#define MR 8
#define NT 4 /* 16 registers: 8 of codes, 4 sums, 4 for the rest */
#ifdef __AVXVNNI__
#define TIER avxvnni
#define SIGNED_BIAS 128 /* vpdpbusd takes unsigned codes */
#else
#define TIER avx2
#define SIGNED_BIAS 0
#define TILE_STREAMS
#define TILE_PANELS
#endif

typedef uint32_t vu __attribute__((vector_size(32)));
typedef int32_t vi __attribute__((vector_size(32)));
typedef float vf __attribute__((vector_size(32)));

INL vf fma_v(vf a, vf b, vf c) { return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
INL vf halves(const void *p) { return (vf)_mm256_cvtph_ps(_mm_loadu_si128(p)); }
INL vu bytes(const void *p) { return (vu)_mm256_cvtepu8_epi32(_mm_loadl_epi64(p)); }
INL vu words16(const void *p) { return (vu)_mm256_cvtepu16_epi32(_mm_loadu_si128(p)); }
INL vu lookup(vu table, vu i) { return (vu)_mm256_shuffle_epi8((__m256i)table, (__m256i)i); }
INL vi madd16(vu a, vu b) { return (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b); }

/* To GCC a new value that lies in a register: what is loaded once is not loaded again for its second use, and sums are not put
 * into another order, which would keep all their terms alive at once and spill them. */
INL vu hold(vu v) {
    __asm__ volatile("" : "+x"(v));
    return v;
}
INL vu add16(vu a, vu b) { return hold((vu)_mm256_add_epi16((__m256i)a, (__m256i)b)); }
INL vi add32(vi a, vi b) { return (vi)hold((vu)(a + b)); }
INL vu mul_bytes(vu c, vu x) { return (vu)_mm256_maddubs_epi16((__m256i)c, (__m256i)x); }
INL vu with_sign(vu x, vu c) { return (vu)_mm256_sign_epi8((__m256i)x, (__m256i)c); }
INL vu magnitude(vu c) { return (vu)_mm256_abs_epi8((__m256i)c); }
INL vu ones16(void) { return (vu)_mm256_set1_epi16(1); }

INL vu broadcast(const void *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return (vu)_mm256_set1_epi32(v);
}

#ifdef __AVXVNNI__
INL vi dot(const vu c[8], const int8_t *x, int from, int to, int top, vi init) {
    __m256i acc = (__m256i)init;
#pragma GCC unroll 8
    for (int g = from; g < to; g++) acc = _mm256_dpbusd_avx_epi32(acc, (__m256i)c[g], (__m256i)broadcast(x + 4 * g));
    return (vi)acc;
}
#else
/* vpmaddubsw adds two products in 16 bits with saturation: with codes up to `top` the sums of `fit` groups stay exact.
 * Signed codes: |c| times x with the sign of c; 128 * 127 * 2 fits. */
INL vi dot(const vu c[8], const int8_t *x, int from, int to, int top, vi init) {
    const int fit = top < 0 ? 1 : 32767 / (top * 127 * 2);
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i acc = (__m256i)init, s = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int g = from; g < to; g++) {
        const __m256i xv = (__m256i)broadcast(x + 4 * g), cv = (__m256i)c[g];
        const __m256i p = top < 0 ? _mm256_maddubs_epi16(_mm256_abs_epi8(cv), _mm256_sign_epi8(xv, cv))
                                  : _mm256_maddubs_epi16(cv, xv);
        s = (g - from) % fit ? _mm256_add_epi16(s, p) : p;
        if ((g - from) % fit == fit - 1 || g == to - 1) acc = _mm256_add_epi32(acc, _mm256_madd_epi16(s, ones));
    }
    return (vi)acc;
}
#endif

#endif
