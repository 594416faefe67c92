#include "neuron_engine/quant_k.h"

#include "neuron_engine/quant.h"
#include "neuron_engine/quant_blocks.h"

/* In all of these the scale of a sub-block is rounded to F32 before it meets a code, and product and difference are
 * rounded separately: that is what the format's reference does, so the values are the same bit by bit. */

void sg_dequantize_q2_k(const void *src, float *y, size_t n) {
    const sg_q2_k *b = src;
    for (size_t i = 0; i < n / SG_SUPER; i++, y += SG_SUPER) {
        const float d = sg_f16_to_f32(b[i].d), dmin = sg_f16_to_f32(b[i].dmin);
        for (int j = 0; j < SG_SUPER; j++) {
            const uint8_t s = b[i].scales[j / 16];
            const int q = b[i].qs[j / 128 * 32 + j % 32] >> (2 * (j / 32 % 4)) & 3;
            y[j] = d * (float)(s & 15) * (float)q - dmin * (float)(s >> 4);
        }
    }
}

void sg_dequantize_q3_k(const void *src, float *y, size_t n) {
    const sg_q3_k *b = src;
    for (size_t i = 0; i < n / SG_SUPER; i++, y += SG_SUPER) {
        const float d = sg_f16_to_f32(b[i].d);
        for (int j = 0; j < SG_SUPER; j++) {
            const int low = b[i].qs[j / 128 * 32 + j % 32] >> (2 * (j / 32 % 4)) & 3;
            const int q = low - (b[i].hmask[j % 32] >> (j / 32) & 1 ? 0 : 4);
            y[j] = d * (float)sg_q3_k_scale(b[i].scales, j / 16) * (float)q;
        }
    }
}

void sg_dequantize_q4_k(const void *src, float *y, size_t n) {
    const sg_q4_k *b = src;
    for (size_t i = 0; i < n / SG_SUPER; i++) {
        const float d = sg_f16_to_f32(b[i].d), dmin = sg_f16_to_f32(b[i].dmin);
        for (int j = 0; j < 8; j++, y += 32) {
            uint8_t scale, min;
            sg_k4_scales(b[i].scales, j, &scale, &min);
            const float ds = d * (float)scale, dm = dmin * (float)min;
            const uint8_t *q = b[i].qs + j / 2 * 32;
            for (int l = 0; l < 32; l++) y[l] = ds * (float)(j % 2 ? q[l] >> 4 : q[l] & 15) - dm;
        }
    }
}

void sg_dequantize_q5_k(const void *src, float *y, size_t n) {
    const sg_q5_k *b = src;
    for (size_t i = 0; i < n / SG_SUPER; i++) {
        const float d = sg_f16_to_f32(b[i].d), dmin = sg_f16_to_f32(b[i].dmin);
        for (int j = 0; j < 8; j++, y += 32) {
            uint8_t scale, min;
            sg_k4_scales(b[i].scales, j, &scale, &min);
            const float ds = d * (float)scale, dm = dmin * (float)min;
            const uint8_t *q = b[i].qs + j / 2 * 32;
            for (int l = 0; l < 32; l++) {
                const int code = (j % 2 ? q[l] >> 4 : q[l] & 15) | (b[i].qh[l] >> j & 1) << 4;
                y[l] = ds * (float)code - dm;
            }
        }
    }
}

void sg_dequantize_q6_k(const void *src, float *y, size_t n) {
    const sg_q6_k *b = src;
    for (size_t i = 0; i < n / SG_SUPER; i++, y += SG_SUPER) {
        const float d = sg_f16_to_f32(b[i].d);
        for (int j = 0; j < SG_SUPER; j++) {
            const int half = j / 128, part = j / 32 % 4, l = j % 32;
            const int low = b[i].ql[half * 64 + (part & 1) * 32 + l] >> (4 * (part >> 1)) & 15;
            const int q = (low | (b[i].qh[half * 32 + l] >> (2 * part) & 3) << 4) - 32;
            y[j] = d * (float)b[i].scales[j / 16] * (float)q;
        }
    }
}
