/* The vector operations of tile_tmpl.h in AVX-512 F, BW, DQ, VL and VNNI. */
#ifndef SG_SIMD_AVX512VNNI_H
#define SG_SIMD_AVX512VNNI_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define INL static inline __attribute__((always_inline))
#define MR 16
#define NT 8
#define TIER avx512vnni
#define SIGNED_BIAS 128 /* vpdpbusd takes unsigned codes */

typedef uint32_t vu __attribute__((vector_size(64)));
typedef int32_t vi __attribute__((vector_size(64)));
typedef float vf __attribute__((vector_size(64)));

INL vf fma_v(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INL vf halves(const void *p) { return (vf)_mm512_cvtph_ps(_mm256_loadu_si256(p)); }
INL vu bytes(const void *p) { return (vu)_mm512_cvtepu8_epi32(_mm_loadu_si128(p)); }
INL vu words16(const void *p) { return (vu)_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)); }
INL vu lookup(vu table, vu i) { return (vu)_mm512_shuffle_epi8((__m512i)table, (__m512i)i); }
/* vpdpwssd instead of vpmaddwd, since it takes a broadcast operand from memory. */
INL vi madd16(vu a, vu b) { return (vi)_mm512_dpwssd_epi32(_mm512_setzero_si512(), (__m512i)b, (__m512i)a); }

INL vu broadcast(const void *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return (vu)_mm512_set1_epi32(v);
}

INL vi dot(const vu c[8], const int8_t *x, int from, int to, int top, vi init) {
    __m512i acc = (__m512i)init;
#pragma GCC unroll 8
    for (int g = from; g < to; g++) acc = _mm512_dpbusd_epi32(acc, (__m512i)c[g], (__m512i)broadcast(x + 4 * g));
    return (vi)acc;
}

#endif
