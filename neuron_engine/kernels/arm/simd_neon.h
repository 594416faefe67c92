/* The vector operations of tile_tmpl.h in NEON; with __ARM_FEATURE_DOTPROD the integer products by SDOT, with
 * __ARM_FEATURE_MATMUL_INT8 those of two tokens by SMMLA. */
#ifndef SG_SIMD_NEON_H
#define SG_SIMD_NEON_H

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#define INL static inline __attribute__((always_inline))
#define MR 4
#define NT 8
#define SIGNED_BIAS 0

typedef uint32_t vu __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));
typedef float vf __attribute__((vector_size(16)));

INL vf fma_v(vf a, vf b, vf c) { return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
INL vu words16(const void *p) {
    uint16x4_t v;
    memcpy(&v, p, sizeof v);
    return (vu)vmovl_u16(v);
}
INL vf halves(const void *p) {
    uint16x4_t v;
    memcpy(&v, p, sizeof v);
    return (vf)vcvt_f32_f16(vreinterpret_f16_u16(v));
}
INL vu broadcast(const void *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return (vu)vdupq_n_u32(v);
}
INL vu bytes(const void *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return (vu)vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(v))));
}
INL vu lookup(vu table, vu i) { return (vu)vqtbl1q_u8((uint8x16_t)table, (uint8x16_t)i); }
INL vi madd16(vu a, vu b) {
    const int16x8_t x = (int16x8_t)a, y = (int16x8_t)b;
    return (vi)vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y));
}

/* All codes are below 128, so they pass as signed bytes. In plain NEON the two products of |c| <= 128 and |x| <= 127
 * that vpaddq adds stay within 16 bits. */
INL vi dot(const vu c[8], const int8_t *x, int from, int to, int top, vi init) {
    int32x4_t acc = (int32x4_t)init;
#pragma GCC unroll 8
    for (int g = from; g < to; g++) {
        const int8x16_t w = (int8x16_t)c[g], v = (int8x16_t)broadcast(x + 4 * g);
#ifdef __ARM_FEATURE_DOTPROD
        acc = vdotq_s32(acc, w, v);
#else
        acc = vpadalq_s16(acc, vpaddq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(v)), vmull_high_s8(w, v)));
#endif
    }
    return (vi)acc;
}

#ifdef __ARM_FEATURE_MATMUL_INT8
/* SMMLA multiplies two rows of eight bytes with two columns of eight. */
#define PAIRS

INL void pair_codes(vu c[8], int bias) {
    const int8x16_t off = vdupq_n_s8((int8_t)bias);
#pragma GCC unroll 4
    for (int g = 0; g < 8; g += 2) {
        const int32x4_t a = vreinterpretq_s32_s8(vsubq_s8((int8x16_t)c[g], off)),
                        b = vreinterpretq_s32_s8(vsubq_s8((int8x16_t)c[g + 1], off));
        c[g] = (vu)vzip1q_s32(a, b);     /* rows 0, 1 */
        c[g + 1] = (vu)vzip2q_s32(a, b); /* rows 2, 3 */
    }
}

INL void dot_pair(const vu c[8], const int8_t *x0, const int8_t *x1, int from, int to, vi s[2]) {
    int32x4_t low = vdupq_n_s32(0), high = low;
#pragma GCC unroll 2
    for (int g = from; g < to; g += 4) {
        const int64x2_t v0 = vreinterpretq_s64_s8(vld1q_s8(x0 + 4 * g)),
                        v1 = vreinterpretq_s64_s8(vld1q_s8(x1 + 4 * g));
        const int8x16_t x = vreinterpretq_s8_s64(vzip1q_s64(v0, v1)), y = vreinterpretq_s8_s64(vzip2q_s64(v0, v1));
        low = vmmlaq_s32(low, (int8x16_t)c[g], x);
        high = vmmlaq_s32(high, (int8x16_t)c[g + 1], x);
        low = vmmlaq_s32(low, (int8x16_t)c[g + 2], y);
        high = vmmlaq_s32(high, (int8x16_t)c[g + 3], y);
    }
    s[0] = (vi)vuzp1q_s32(low, high);
    s[1] = (vi)vuzp2q_s32(low, high);
}
#endif

#endif
