#include <arm_neon.h>

#include "neuron_engine/kernels/arm/arm.h"

#define VEC_TABLE sg_vec_neon
#define W 4
#define LOAD_F16(p) load_halves(p)
#define STORE_F16(p, v) store_halves(p, (float32x4_t)(v))
#define STORE_CODES(p, v) store_bytes(p, (int32x4_t)(v))
#define LOAD_CODES(p) load_codes(p)
#define HALF(h) vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(h))), 0)
#define FMA(a, b, c) ((vf)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))

static inline float __attribute__((vector_size(16))) load_halves(const uint16_t *p) {
    uint16x4_t v;
    __builtin_memcpy(&v, p, sizeof v);
    return (float __attribute__((vector_size(16))))vcvt_f32_f16(vreinterpret_f16_u16(v));
}

static inline float __attribute__((vector_size(16))) load_codes(const int8_t *p) {
    int32_t word;
    __builtin_memcpy(&word, p, sizeof word);
    const int16x8_t w = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(word)));
    return (float __attribute__((vector_size(16))))vcvtq_f32_s32(vmovl_s16(vget_low_s16(w)));
}

static inline void store_halves(uint16_t *p, float32x4_t v) {
    const uint16x4_t h = vreinterpret_u16_f16(vcvt_f16_f32(v));
    __builtin_memcpy(p, &h, sizeof h);
}

static inline void store_bytes(int8_t *p, int32x4_t v) {
    const int16x4_t w = vmovn_s32(v);
    const int8x8_t b = vmovn_s16(vcombine_s16(w, w));
    __builtin_memcpy(p, &b, 4);
}

#include "neuron_engine/kernels/vec_tmpl.h"
