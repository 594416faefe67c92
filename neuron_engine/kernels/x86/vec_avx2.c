#include <immintrin.h>

#include "neuron_engine/kernels/x86/x86.h"

#define VEC_TABLE sg_vec_avx2
#define W 8
#define LOAD_F16(p) ((vf)_mm256_cvtph_ps(_mm_loadu_si128((const void *)(p))))
#define STORE_F16(p, v) _mm_storeu_si128((void *)(p), _mm256_cvtps_ph((__m256)(v), _MM_FROUND_TO_NEAREST_INT))
#define STORE_CODES(p, v) store_bytes(p, (__m256i)(v))
#define LOAD_CODES(p) ((vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)(p)))))
#define HALF(h) _cvtsh_ss(h)
#define FMA(a, b, c) ((vf)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))

static inline void store_bytes(int8_t *p, __m256i v) {
    const __m128i w = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    _mm_storel_epi64((void *)p, _mm_packs_epi16(w, w));
}

#include "neuron_engine/kernels/vec_tmpl.h"
