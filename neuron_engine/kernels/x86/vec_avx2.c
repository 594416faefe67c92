#include <immintrin.h>

#include "neuron_engine/kernels/x86/x86.h"

#define LOAD_F16(p) load_halves(p)
#define STORE_F16(p, v) store_halves(p, v)
typedef float v16 __attribute__((vector_size(64)));
typedef struct pair {
    __m256 lo, hi;
} pair;

static inline __attribute__((always_inline)) v16 load_halves(const uint16_t *p) {
    const pair t = { _mm256_cvtph_ps(_mm_loadu_si128((const void *)p)),
                     _mm256_cvtph_ps(_mm_loadu_si128((const void *)(p + 8))) };
    v16 v;
    __builtin_memcpy(&v, &t, sizeof v);
    return v;
}

static inline __attribute__((always_inline)) void store_halves(uint16_t *p, v16 v) {
    pair t;
    __builtin_memcpy(&t, &v, sizeof t);
    _mm_storeu_si128((void *)p, _mm256_cvtps_ph(t.lo, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((void *)(p + 8), _mm256_cvtps_ph(t.hi, _MM_FROUND_TO_NEAREST_INT));
}

#define VEC_TABLE sg_vec_avx2
#include "neuron_engine/kernels/vec_tmpl.h"
