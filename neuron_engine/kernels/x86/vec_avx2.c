#include <immintrin.h>

#include "neuron_engine/kernels/x86/x86.h"

#define VEC_TABLE sg_vec_avx2
#define W 8
#define LOAD_F16(p) ((vf)_mm256_cvtph_ps(_mm_loadu_si128((const void *)(p))))
#define STORE_F16(p, v) _mm_storeu_si128((void *)(p), _mm256_cvtps_ph((__m256)(v), _MM_FROUND_TO_NEAREST_INT))
#include "neuron_engine/kernels/vec_tmpl.h"
