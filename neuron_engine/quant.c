#include "neuron_engine/quant.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "neuron_engine/quant_blocks.h"
#include "neuron_engine/quant_k.h"

static uint32_t bits_of(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float float_of(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* The 16-bit conversions agree with what F16C and FCVT do, NaN included (quieted, payload kept). */
float sg_f16_to_f32(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 0x3ff;
    if (e == 31) return float_of(sign | 0x7f800000 | m << 13 | (m ? 0x400000 : 0));
    if (e == 0) { /* subnormal: m * 2^-24 is exact */
        const float v = (float)m * 0x1p-24f;
        return float_of(sign | bits_of(v));
    }
    return float_of(sign | (e + 112) << 23 | m << 13);
}

uint16_t sg_f32_to_f16(float f) {
    const uint32_t u = bits_of(f), a = u & 0x7fffffff;
    const uint16_t sign = (uint16_t)(u >> 16 & 0x8000);
    if (a > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x3ff));
    if (a >= 0x47800000) return (uint16_t)(sign | 0x7c00); /* 65536 and more */
    if (a < 0x38800000) {
        /* Subnormal half: adding 0.5 puts the last bit kept at 2^-24, so the addition itself rounds to even. */
        const float v = float_of(a) + 0.5f;
        return (uint16_t)(sign | (bits_of(v) - 0x3f000000));
    }
    const uint32_t r = a - (112u << 23) + 0xfff + (a >> 13 & 1); /* may carry into infinity, as it should */
    return (uint16_t)(sign | r >> 13);
}

float sg_bf16_to_f32(uint16_t h) { return float_of((uint32_t)h << 16); }

uint16_t sg_f32_to_bf16(float f) {
    const uint32_t u = bits_of(f);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | 64);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static void dequantize_f16(const void *src, float *y, size_t n) {
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i++) y[i] = sg_f16_to_f32((uint16_t)(p[2 * i] | p[2 * i + 1] << 8));
}

static void dequantize_bf16(const void *src, float *y, size_t n) {
    const uint8_t *p = src;
    for (size_t i = 0; i < n; i++) y[i] = sg_bf16_to_f32((uint16_t)(p[2 * i] | p[2 * i + 1] << 8));
}

static void dequantize_q8_0(const void *src, float *y, size_t n) {
    const sg_q8_0 *b = src;
    for (size_t i = 0; i < n / SG_BLOCK; i++) {
        const float d = sg_f16_to_f32(b[i].d);
        for (int j = 0; j < 32; j++) y[i * 32 + j] = (float)b[i].qs[j] * d;
    }
}

static void dequantize_q4_0(const void *src, float *y, size_t n) {
    const sg_q4_0 *b = src;
    for (size_t i = 0; i < n / SG_BLOCK; i++, y += 32) {
        const float d = sg_f16_to_f32(b[i].d);
        for (int j = 0; j < 16; j++) {
            y[j] = (float)((b[i].qs[j] & 15) - 8) * d;
            y[j + 16] = (float)((b[i].qs[j] >> 4) - 8) * d;
        }
    }
}

static void dequantize_q4_1(const void *src, float *y, size_t n) {
    const sg_q4_1 *b = src;
    for (size_t i = 0; i < n / SG_BLOCK; i++, y += 32) {
        const float d = sg_f16_to_f32(b[i].d), m = sg_f16_to_f32(b[i].m);
        for (int j = 0; j < 16; j++) {
            y[j] = (float)(b[i].qs[j] & 15) * d + m;
            y[j + 16] = (float)(b[i].qs[j] >> 4) * d + m;
        }
    }
}

/* Value j of a block with four low bits in qs and the fifth in qh. */
static int code5(const uint8_t qs[16], const uint8_t qh[4], int j) {
    const int low = j < 16 ? qs[j] & 15 : qs[j - 16] >> 4;
    return low | (qh[j / 8] >> (j % 8) & 1) << 4;
}

static void dequantize_q5_0(const void *src, float *y, size_t n) {
    const sg_q5_0 *b = src;
    for (size_t i = 0; i < n / SG_BLOCK; i++, y += 32) {
        const float d = sg_f16_to_f32(b[i].d);
        for (int j = 0; j < 32; j++) y[j] = (float)(code5(b[i].qs, b[i].qh, j) - 16) * d;
    }
}

static void dequantize_q5_1(const void *src, float *y, size_t n) {
    const sg_q5_1 *b = src;
    for (size_t i = 0; i < n / SG_BLOCK; i++, y += 32) {
        const float d = sg_f16_to_f32(b[i].d), m = sg_f16_to_f32(b[i].m);
        for (int j = 0; j < 32; j++) y[j] = (float)code5(b[i].qs, b[i].qh, j) * d + m;
    }
}

static void dequantize_codebook(const uint8_t qs[16], const int8_t values[16], float d, float *y) {
    for (int j = 0; j < 16; j++) {
        y[j] = (float)values[qs[j] & 15] * d;
        y[j + 16] = (float)values[qs[j] >> 4] * d;
    }
}

static void dequantize_iq4_nl(const void *src, float *y, size_t n) {
    const sg_iq4_nl *b = src;
    for (size_t i = 0; i < n / SG_BLOCK; i++)
        dequantize_codebook(b[i].qs, sg_iq4_nl_values, sg_f16_to_f32(b[i].d), y + i * 32);
}

static void dequantize_mxfp4(const void *src, float *y, size_t n) {
    const sg_mxfp4 *b = src;
    for (size_t i = 0; i < n / SG_BLOCK; i++)
        dequantize_codebook(b[i].qs, sg_mxfp4_values, sg_e8m0_half(b[i].e), y + i * 32);
}

void sg_dequantize(sg_dtype type, const void *src, float *y, size_t n) {
    switch (type) {
    case SG_DTYPE_F32:
        if (n) memcpy(y, src, n * sizeof *y);
        break;
    case SG_DTYPE_F16: dequantize_f16(src, y, n); break;
    case SG_DTYPE_BF16: dequantize_bf16(src, y, n); break;
    case SG_DTYPE_Q8_0: dequantize_q8_0(src, y, n); break;
    case SG_DTYPE_Q4_0: dequantize_q4_0(src, y, n); break;
    case SG_DTYPE_Q4_1: dequantize_q4_1(src, y, n); break;
    case SG_DTYPE_Q5_0: dequantize_q5_0(src, y, n); break;
    case SG_DTYPE_Q5_1: dequantize_q5_1(src, y, n); break;
    case SG_DTYPE_IQ4_NL: dequantize_iq4_nl(src, y, n); break;
    case SG_DTYPE_MXFP4: dequantize_mxfp4(src, y, n); break;
    case SG_DTYPE_Q2_K: sg_dequantize_q2_k(src, y, n); break;
    case SG_DTYPE_Q3_K: sg_dequantize_q3_k(src, y, n); break;
    case SG_DTYPE_Q4_K: sg_dequantize_q4_k(src, y, n); break;
    case SG_DTYPE_Q5_K: sg_dequantize_q5_k(src, y, n); break;
    case SG_DTYPE_Q6_K: sg_dequantize_q6_k(src, y, n); break;
    case SG_DTYPE_I8:
    case SG_DTYPE_I32: break; /* no weights; nobody asks */
    }
}

bool sg_can_quantize(sg_dtype type) {
    return type == SG_DTYPE_F32 || type == SG_DTYPE_F16 || type == SG_DTYPE_BF16 || type == SG_DTYPE_Q8_0 ||
           type == SG_DTYPE_Q4_0;
}

/* One block made finite: NaN to 0, infinities to the largest float. Returns the value of largest magnitude (the first).
 */
static float finite_block(const float *x, float out[32]) {
    float peak = 0;
    for (int j = 0; j < 32; j++) {
        const float v = x[j];
        out[j] = v != v ? 0 : v > FLT_MAX ? FLT_MAX : v < -FLT_MAX ? -FLT_MAX : v;
        if (fabsf(out[j]) > fabsf(peak)) peak = out[j];
    }
    return peak;
}

/* 1 / d; 0 where d is so small that its half is 0 anyway and the quotient would overflow. */
static float inverse(float d) { return fabsf(d) < 0x1p-127f ? 0 : 1.0f / d; }

/* A scale too large for F16 saturates instead of turning the whole block into infinities. */
static uint16_t scale_bits(float d) { return sg_f32_to_f16(d > 65504 ? 65504 : d < -65504 ? -65504 : d); }

static void quantize_q8_0(const float *x, void *dst, size_t n) {
    sg_q8_0 *b = dst;
    for (size_t i = 0; i < n / SG_BLOCK; i++) {
        float v[32];
        const float d = fabsf(finite_block(x + i * 32, v)) / 127, id = inverse(d);
        b[i].d = scale_bits(d);
        for (int j = 0; j < 32; j++) {
            const float s = v[j] * id, a = fabsf(s);
            int q = (int)a; /* a <= 127 but for rounding; halves go away from zero */
            if (a - (float)q >= 0.5f) q++;
            if (q > 127) q = 127;
            b[i].qs[j] = (int8_t)(s < 0 ? -q : q);
        }
    }
}

static int q4_0_code(float s) {
    const int q = (int)(s + 8.5f); /* -8 <= s <= 8 but for rounding */
    return q > 15 ? 15 : q < 0 ? 0 : q;
}

static void quantize_q4_0(const float *x, void *dst, size_t n) {
    sg_q4_0 *b = dst;
    for (size_t i = 0; i < n / SG_BLOCK; i++) {
        float v[32];
        const float d = finite_block(x + i * 32, v) / -8, id = inverse(d);
        b[i].d = scale_bits(d);
        for (int j = 0; j < 16; j++) b[i].qs[j] = (uint8_t)(q4_0_code(v[j] * id) | q4_0_code(v[j + 16] * id) << 4);
    }
}

static void quantize_16(const float *x, uint8_t *dst, size_t n, uint16_t (*convert)(float)) {
    for (size_t i = 0; i < n; i++) {
        const uint16_t h = convert(x[i]);
        dst[2 * i] = (uint8_t)h;
        dst[2 * i + 1] = (uint8_t)(h >> 8);
    }
}

void sg_quantize(sg_dtype type, const float *x, void *dst, size_t n) {
    switch (type) {
    case SG_DTYPE_F32:
        if (n) memcpy(dst, x, n * sizeof *x);
        break;
    case SG_DTYPE_F16: quantize_16(x, dst, n, sg_f32_to_f16); break;
    case SG_DTYPE_BF16: quantize_16(x, dst, n, sg_f32_to_bf16); break;
    case SG_DTYPE_Q8_0: quantize_q8_0(x, dst, n); break;
    case SG_DTYPE_Q4_0: quantize_q4_0(x, dst, n); break;
    default: break; /* sg_can_quantize says no */
    }
}

/* The integer codes of a block; false when the scale is no half. */
static bool block_codes(sg_dtype type, const uint8_t *block, uint16_t *d, int8_t q[SG_BLOCK]) {
    uint32_t high = 0;
    const uint8_t *qs = block + 2;
    memcpy(d, block, sizeof *d);
    if (type == SG_DTYPE_Q5_0) {
        memcpy(&high, block + 2, sizeof high);
        qs = block + 6;
    } else if (type == SG_DTYPE_MXFP4) {
        const float scale = sg_e8m0_half(block[0]);
        *d = sg_f32_to_f16(scale);
        if (sg_f16_to_f32(*d) != scale) return false;
        qs = block + 1;
    }
    for (int j = 0; j < SG_BLOCK; j++) {
        const int nibble = j < 16 ? qs[j] & 15 : qs[j - 16] >> 4;
        q[j] = (int8_t)(type == SG_DTYPE_Q4_0     ? nibble - 8
                        : type == SG_DTYPE_Q5_0   ? (nibble | (int)(high >> j & 1) << 4) - 16
                        : type == SG_DTYPE_IQ4_NL ? sg_iq4_nl_values[nibble]
                                                  : sg_mxfp4_values[nibble]);
    }
    return true;
}

bool sg_to_q8_0_exact(sg_dtype type, const void *src, void *dst, size_t n) {
    if (type != SG_DTYPE_Q4_0 && type != SG_DTYPE_Q5_0 && type != SG_DTYPE_IQ4_NL && type != SG_DTYPE_MXFP4) return false;
    const uint32_t size = sg_dtype_get((uint32_t)type)->block_bytes;
    sg_q8_0 *out = dst;
    for (size_t b = 0; b < n / SG_BLOCK; b++) {
        uint16_t d;
        int8_t q[SG_BLOCK];
        if (!block_codes(type, (const uint8_t *)src + b * size, &d, q)) return false;
        out[b].d = d;
        memcpy(out[b].qs, q, sizeof q);
    }
    return true;
}
