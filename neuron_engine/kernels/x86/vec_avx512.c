#include <immintrin.h>

#include "neuron_engine/kernels/x86/x86.h"

#define VEC_TABLE sg_vec_avx512
#define W 16
#define LOAD_F16(p) ((vf)_mm512_cvtph_ps(_mm256_loadu_si256((const void *)(p))))
#define STORE_F16(p, v) _mm256_storeu_si256((void *)(p), _mm512_cvtps_ph((__m512)(v), _MM_FROUND_TO_NEAREST_INT))
#define STORE_CODES(p, v) _mm_storeu_si128((void *)(p), _mm512_cvtepi32_epi8((__m512i)(v)))
typedef int8_t codes16 __attribute__((vector_size(16), aligned(1), may_alias));
#define LOAD_CODES(p) __builtin_convertvector(*(const codes16 *)(const void *)(p), vf)
#define HALF(h) _cvtsh_ss(h)
#define FMA(a, b, c) ((vf)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#include "neuron_engine/kernels/vec_tmpl.h"
