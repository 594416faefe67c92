/* Matrix kernels of the reference: for every type the dot product of one row with one activation column, written as the
 * rule in kernels.h states it, and plain loops around it. */
#include <math.h>
#include <string.h>

#include "neuron_engine/kernels/ref/ref.h"
#include "neuron_engine/quant.h"
#include "neuron_engine/quant_blocks.h"

/* The activation block b of token t. */
typedef struct act_block {
    const int8_t *q;
    const int16_t *sums;
    float d, dsum;
} act_block;

static act_block act_at(const sg_acts *a, uint32_t t, uint32_t b) {
    const size_t i = (size_t)t * a->n_blocks + b;
    return (act_block) { a->q + i * SG_BLOCK, a->sums + 2 * i, a->d[i], a->dsum[i] };
}

static float dot_f32(const void *row, const sg_acts *a, uint32_t t) {
    const float *x = a->x + (size_t)t * a->k;
    float acc = 0;
    for (uint32_t k = 0; k < a->k; k++) {
        float w;
        memcpy(&w, (const char *)row + k * sizeof w, sizeof w);
        acc = fmaf(w, x[k], acc);
    }
    return acc;
}

static float dot_16(const void *row, const sg_acts *a, uint32_t t, float (*convert)(uint16_t)) {
    const float *x = a->x + (size_t)t * a->k;
    float acc = 0;
    for (uint32_t k = 0; k < a->k; k++) {
        uint16_t h;
        memcpy(&h, (const char *)row + k * sizeof h, sizeof h);
        acc = fmaf(convert(h), x[k], acc);
    }
    return acc;
}

static float dot_f16(const void *row, const sg_acts *a, uint32_t t) { return dot_16(row, a, t, sg_f16_to_f32); }
static float dot_bf16(const void *row, const sg_acts *a, uint32_t t) { return dot_16(row, a, t, sg_bf16_to_f32); }

/* Codes of nibbles qs, shifted by `offset`, against a block of 32. */
static int32_t dot_nibbles(const uint8_t qs[16], const int8_t *x, int offset) {
    int32_t s = 0;
    for (int j = 0; j < 16; j++) s += ((qs[j] & 15) - offset) * x[j] + ((qs[j] >> 4) - offset) * x[j + 16];
    return s;
}

static int32_t dot_codebook(const uint8_t qs[16], const int8_t values[16], const int8_t *x) {
    int32_t s = 0;
    for (int j = 0; j < 16; j++) s += values[qs[j] & 15] * x[j] + values[qs[j] >> 4] * x[j + 16];
    return s;
}

static int32_t dot_5bit(const uint8_t qs[16], const uint8_t qh[4], const int8_t *x, int offset) {
    int32_t s = 0;
    for (int j = 0; j < 32; j++) {
        const int low = j < 16 ? qs[j] & 15 : qs[j - 16] >> 4;
        s += ((low | (qh[j / 8] >> (j % 8) & 1) << 4) - offset) * x[j];
    }
    return s;
}

static float dot_q4_0(const void *row, const sg_acts *a, uint32_t t) {
    const sg_q4_0 *w = row;
    float acc = 0;
    for (uint32_t b = 0; b < a->n_blocks; b++) {
        const act_block x = act_at(a, t, b);
        acc = fmaf((float)dot_nibbles(w[b].qs, x.q, 8), sg_f16_to_f32(w[b].d) * x.d, acc);
    }
    return acc;
}

static float dot_q4_1(const void *row, const sg_acts *a, uint32_t t) {
    const sg_q4_1 *w = row;
    float acc = 0;
    for (uint32_t b = 0; b < a->n_blocks; b++) {
        const act_block x = act_at(a, t, b);
        acc = fmaf((float)dot_nibbles(w[b].qs, x.q, 0), sg_f16_to_f32(w[b].d) * x.d, acc);
        acc = fmaf(sg_f16_to_f32(w[b].m), x.dsum, acc);
    }
    return acc;
}

static float dot_q5_0(const void *row, const sg_acts *a, uint32_t t) {
    const sg_q5_0 *w = row;
    float acc = 0;
    for (uint32_t b = 0; b < a->n_blocks; b++) {
        const act_block x = act_at(a, t, b);
        acc = fmaf((float)dot_5bit(w[b].qs, w[b].qh, x.q, 16), sg_f16_to_f32(w[b].d) * x.d, acc);
    }
    return acc;
}

static float dot_q5_1(const void *row, const sg_acts *a, uint32_t t) {
    const sg_q5_1 *w = row;
    float acc = 0;
    for (uint32_t b = 0; b < a->n_blocks; b++) {
        const act_block x = act_at(a, t, b);
        acc = fmaf((float)dot_5bit(w[b].qs, w[b].qh, x.q, 0), sg_f16_to_f32(w[b].d) * x.d, acc);
        acc = fmaf(sg_f16_to_f32(w[b].m), x.dsum, acc);
    }
    return acc;
}

static float dot_q8_0(const void *row, const sg_acts *a, uint32_t t) {
    const sg_q8_0 *w = row;
    float acc = 0;
    for (uint32_t b = 0; b < a->n_blocks; b++) {
        const act_block x = act_at(a, t, b);
        int32_t s = 0;
        for (int j = 0; j < 32; j++) s += w[b].qs[j] * x.q[j];
        acc = fmaf((float)s, sg_f16_to_f32(w[b].d) * x.d, acc);
    }
    return acc;
}

static float dot_iq4_nl(const void *row, const sg_acts *a, uint32_t t) {
    const sg_iq4_nl *w = row;
    float acc = 0;
    for (uint32_t b = 0; b < a->n_blocks; b++) {
        const act_block x = act_at(a, t, b);
        acc = fmaf((float)dot_codebook(w[b].qs, sg_iq4_nl_values, x.q), sg_f16_to_f32(w[b].d) * x.d, acc);
    }
    return acc;
}

static float dot_mxfp4(const void *row, const sg_acts *a, uint32_t t) {
    const sg_mxfp4 *w = row;
    float acc = 0;
    for (uint32_t b = 0; b < a->n_blocks; b++) {
        const act_block x = act_at(a, t, b);
        acc = fmaf((float)dot_codebook(w[b].qs, sg_mxfp4_values, x.q), sg_e8m0_half(w[b].e) * x.d, acc);
    }
    return acc;
}

/* Sum of 16 products of codes and activations. */
static int32_t dot_16_codes(const int8_t code[16], const int8_t *x) {
    int32_t s = 0;
    for (int j = 0; j < 16; j++) s += code[j] * x[j];
    return s;
}

/* The last lines of a super-block; u, and v unless it is NULL, start again. d, dmin: F16. */
static float end_super(uint16_t d, uint16_t dmin, float *u, float *v, float acc) {
    acc = fmaf(sg_f16_to_f32(d), *u, acc);
    if (v) acc = fmaf(-sg_f16_to_f32(dmin), *v, acc);
    *u = 0;
    if (v) *v = 0;
    return acc;
}

static float dot_q2_k(const void *row, const sg_acts *a, uint32_t t) {
    float acc = 0, u = 0, v = 0;
    for (uint32_t b = 0; b < a->n_blocks; b++) {
        const sg_q2_k *w = (const sg_q2_k *)row + b / 8;
        const act_block x = act_at(a, t, b);
        int32_t s = 0, m = 0;
        for (uint32_t h = 0; h < 2; h++) {
            int8_t code[16];
            for (uint32_t l = 0; l < 16; l++)
                code[l] = (int8_t)(w->qs[b % 8 / 4 * 32 + 16 * h + l] >> (2 * (b % 4)) & 3);
            const uint8_t scale = w->scales[b % 8 * 2 + h];
            s += (scale & 15) * dot_16_codes(code, x.q + 16 * h);
            m += (scale >> 4) * x.sums[h];
        }
        u = fmaf((float)s, x.d, u);
        v = fmaf((float)m, x.d, v);
        if (b % 8 == 7) acc = end_super(w->d, w->dmin, &u, &v, acc);
    }
    return acc;
}

static float dot_q3_k(const void *row, const sg_acts *a, uint32_t t) {
    float acc = 0, u = 0;
    for (uint32_t b = 0; b < a->n_blocks; b++) {
        const sg_q3_k *w = (const sg_q3_k *)row + b / 8;
        const act_block x = act_at(a, t, b);
        int32_t s = 0;
        for (uint32_t h = 0; h < 2; h++) {
            int8_t code[16];
            for (uint32_t l = 0; l < 16; l++) {
                const int low = w->qs[b % 8 / 4 * 32 + 16 * h + l] >> (2 * (b % 4)) & 3;
                code[l] = (int8_t)(low - (w->hmask[16 * h + l] >> (b % 8) & 1 ? 0 : 4));
            }
            s += sg_q3_k_scale(w->scales, (int)(b % 8 * 2 + h)) * dot_16_codes(code, x.q + 16 * h);
        }
        u = fmaf((float)s, x.d, u);
        if (b % 8 == 7) acc = end_super(w->d, 0, &u, NULL, acc);
    }
    return acc;
}

static float dot_q4_k(const void *row, const sg_acts *a, uint32_t t) {
    float acc = 0, u = 0, v = 0;
    for (uint32_t b = 0; b < a->n_blocks; b++) {
        const sg_q4_k *w = (const sg_q4_k *)row + b / 8;
        const act_block x = act_at(a, t, b);
        uint8_t scale, min;
        sg_k4_scales(w->scales, (int)(b % 8), &scale, &min);
        int32_t s = 0;
        for (uint32_t l = 0; l < 32; l++) s += (w->qs[b % 8 / 2 * 32 + l] >> (4 * (b % 2)) & 15) * x.q[l];
        u = fmaf((float)(scale * s), x.d, u);
        v = fmaf((float)min, x.dsum, v);
        if (b % 8 == 7) acc = end_super(w->d, w->dmin, &u, &v, acc);
    }
    return acc;
}

static float dot_q5_k(const void *row, const sg_acts *a, uint32_t t) {
    float acc = 0, u = 0, v = 0;
    for (uint32_t b = 0; b < a->n_blocks; b++) {
        const sg_q5_k *w = (const sg_q5_k *)row + b / 8;
        const act_block x = act_at(a, t, b);
        uint8_t scale, min;
        sg_k4_scales(w->scales, (int)(b % 8), &scale, &min);
        int32_t s = 0;
        for (uint32_t l = 0; l < 32; l++) {
            const int low = w->qs[b % 8 / 2 * 32 + l] >> (4 * (b % 2)) & 15;
            s += (low | (w->qh[l] >> (b % 8) & 1) << 4) * x.q[l];
        }
        u = fmaf((float)(scale * s), x.d, u);
        v = fmaf((float)min, x.dsum, v);
        if (b % 8 == 7) acc = end_super(w->d, w->dmin, &u, &v, acc);
    }
    return acc;
}

static float dot_q6_k(const void *row, const sg_acts *a, uint32_t t) {
    float acc = 0, u = 0;
    for (uint32_t b = 0; b < a->n_blocks; b++) {
        const sg_q6_k *w = (const sg_q6_k *)row + b / 8;
        const act_block x = act_at(a, t, b);
        const uint32_t half = b % 8 / 4, part = b % 4;
        int32_t s = 0;
        for (uint32_t h = 0; h < 2; h++) {
            int8_t code[16];
            for (uint32_t i = 0; i < 16; i++) {
                const uint32_t l = 16 * h + i;
                const int low = w->ql[half * 64 + (part & 1) * 32 + l] >> (4 * (part >> 1)) & 15;
                code[i] = (int8_t)((low | (w->qh[half * 32 + l] >> (2 * part) & 3) << 4) - 32);
            }
            s += w->scales[b % 8 * 2 + h] * dot_16_codes(code, x.q + 16 * h);
        }
        u = fmaf((float)s, x.d, u);
        if (b % 8 == 7) acc = end_super(w->d, 0, &u, NULL, acc);
    }
    return acc;
}

/* The kernel record of one type: loops over rows and tokens around its dot function. */
#define KERNEL(type_, lower, q8)                                                                                       \
    static void matmul_##lower(float *restrict y, size_t ldy, const void *restrict w, const sg_acts *restrict a,       \
                               uint32_t row0, uint32_t row1) {                                                         \
        const size_t row_bytes = sg_dtype_bytes(sg_dtype_get(type_), a->k);                                            \
        for (uint32_t r = row0; r < row1; r++)                                                                         \
            for (uint32_t t = 0; t < a->n; t++) y[t * ldy + r] = dot_##lower((const char *)w + r * row_bytes, a, t);   \
    }                                                                                                                  \
    static const sg_mat_kernel kernel_##lower = {                                                                      \
        .name = #lower "_ref", .type = type_, .acts_q8 = q8, .mr = 1, .gemv = matmul_##lower, .gemm = matmul_##lower   \
    };
KERNEL(SG_DTYPE_F32, f32, false)
KERNEL(SG_DTYPE_F16, f16, false)
KERNEL(SG_DTYPE_BF16, bf16, false)
KERNEL(SG_DTYPE_Q8_0, q8_0, true)
KERNEL(SG_DTYPE_Q4_0, q4_0, true)
KERNEL(SG_DTYPE_Q4_1, q4_1, true)
KERNEL(SG_DTYPE_Q5_0, q5_0, true)
KERNEL(SG_DTYPE_Q5_1, q5_1, true)
KERNEL(SG_DTYPE_Q2_K, q2_k, true)
KERNEL(SG_DTYPE_Q3_K, q3_k, true)
KERNEL(SG_DTYPE_Q4_K, q4_k, true)
KERNEL(SG_DTYPE_Q5_K, q5_k, true)
KERNEL(SG_DTYPE_Q6_K, q6_k, true)
KERNEL(SG_DTYPE_IQ4_NL, iq4_nl, true)
KERNEL(SG_DTYPE_MXFP4, mxfp4, true)

const sg_mat_kernel *const sg_mat_ref[SG_DTYPE_LIMIT] = {
    [SG_DTYPE_F32] = &kernel_f32,   [SG_DTYPE_F16] = &kernel_f16,       [SG_DTYPE_BF16] = &kernel_bf16,
    [SG_DTYPE_Q8_0] = &kernel_q8_0, [SG_DTYPE_Q4_0] = &kernel_q4_0,     [SG_DTYPE_Q4_1] = &kernel_q4_1,
    [SG_DTYPE_Q5_0] = &kernel_q5_0, [SG_DTYPE_Q5_1] = &kernel_q5_1,     [SG_DTYPE_Q2_K] = &kernel_q2_k,
    [SG_DTYPE_Q3_K] = &kernel_q3_k, [SG_DTYPE_Q4_K] = &kernel_q4_k,     [SG_DTYPE_Q5_K] = &kernel_q5_k,
    [SG_DTYPE_Q6_K] = &kernel_q6_k, [SG_DTYPE_IQ4_NL] = &kernel_iq4_nl, [SG_DTYPE_MXFP4] = &kernel_mxfp4,
};

void sg_kernels_ref(sg_kernels *out) {
    out->tier = "ref";
    out->vec = sg_vec_ref;
    memcpy(out->mat, sg_mat_ref, sizeof out->mat);
    memcpy(out->neuron, sg_neuron_ref, sizeof out->neuron);
}
