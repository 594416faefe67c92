/* Included by the compiler's -include before the AVX-512 and AVX-VNNI tiers (scripts/test_kernels_emulated.sh): SIMDe computes
 * their intrinsics, AVX2, FMA and F16C are the processor's own. Below, what SIMDe lacks, has wrong in some release, or rounds
 * twice (fmadd). An intrinsic that neither has is a compiler error, since the flags allow no more than AVX2. */
#ifndef SG_TEST_EMULATED_H
#define SG_TEST_EMULATED_H

/* Here these macros say which tier is meant, not what the processor has. */
#pragma push_macro("__AVX512VNNI__")
#pragma push_macro("__AVXVNNI__")
#undef __AVX512VNNI__
#undef __AVXVNNI__
#include <immintrin.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#define SIMDE_NO_INLINE /* tiers are pages of unrolled code: inlined, the emulation takes minutes to compile */
#include <simde/x86/avx512.h>
#pragma pop_macro("__AVX512VNNI__")
#pragma pop_macro("__AVXVNNI__")

typedef union sg_halves_of_512 {
    __m512 f;
    __m512i i;
    __m256 half_f[2];
    __m256i half_i[2];
} sg_halves_of_512;

static inline __m512 sg_emulated_fmadd_ps(__m512 a, __m512 b, __m512 c) {
    const sg_halves_of_512 x = { a }, y = { b }, z = { c };
    sg_halves_of_512 r;
    for (int i = 0; i < 2; i++) r.half_f[i] = _mm256_fmadd_ps(x.half_f[i], y.half_f[i], z.half_f[i]);
    return r.f;
}

static inline __m512 sg_emulated_cvtph_ps(__m256i h) {
    sg_halves_of_512 r;
    r.half_f[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(h));
    r.half_f[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1));
    return r.f;
}

static inline __m256i sg_emulated_cvtps_ph(__m512 v) {
    const sg_halves_of_512 x = { v };
    return _mm256_setr_m128i(_mm256_cvtps_ph(x.half_f[0], _MM_FROUND_TO_NEAREST_INT),
                             _mm256_cvtps_ph(x.half_f[1], _MM_FROUND_TO_NEAREST_INT));
}

static inline __m512i sg_emulated_cvtepu8_epi32(__m128i v) {
    sg_halves_of_512 r;
    r.half_i[0] = _mm256_cvtepu8_epi32(v);
    r.half_i[1] = _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8));
    return r.i;
}

static inline __m512i sg_emulated_cvtepu16_epi32(__m256i v) {
    sg_halves_of_512 r;
    r.half_i[0] = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(v));
    r.half_i[1] = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(v, 1));
    return r.i;
}

static inline __m128i sg_emulated_cvtepi32_epi8(__m512i v) {
    const __m512i low = v & _mm512_set1_epi32(0xff);
    const sg_halves_of_512 x = { .i = low };
    const __m256i words = _mm256_packus_epi32(x.half_i[0], x.half_i[1]); /* 0-3 8-11 | 4-7 12-15 */
    const __m256i rising = _mm256_permute4x64_epi64(words, 0xd8);
    return _mm_packus_epi16(_mm256_castsi256_si128(rising), _mm256_extracti128_si256(rising, 1));
}

#undef _mm512_fmadd_ps
#undef _mm512_cvtph_ps
#undef _mm512_cvtps_ph
#undef _mm512_cvtepu8_epi32
#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtepi32_epi8
#undef _mm512_madd_epi16
#undef _mm256_dpbusd_avx_epi32
#undef _mm256_dpwssd_avx_epi32
#define _mm512_fmadd_ps(a, b, c) sg_emulated_fmadd_ps(a, b, c)
#define _mm512_cvtph_ps(h) sg_emulated_cvtph_ps(h)
#define _mm512_cvtps_ph(v, rounding) sg_emulated_cvtps_ph(v) /* the tiers round to nearest only */
#define _mm512_cvtepu8_epi32(v) sg_emulated_cvtepu8_epi32(v)
#define _mm512_cvtepu16_epi32(v) sg_emulated_cvtepu16_epi32(v)
#define _mm512_cvtepi32_epi8(v) sg_emulated_cvtepi32_epi8(v)
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16(a, b)
#define _mm256_dpbusd_avx_epi32(s, a, b) simde_mm256_dpbusd_epi32(s, a, b)
#define _mm256_dpwssd_avx_epi32(s, a, b) simde_mm256_dpwssd_epi32(s, a, b)

#endif
