/* The vector functions of one tier: this file is included once per tier and compiled with that tier's flags. It is
 * written in 16-lane vectors of the GCC/clang extension, which the compiler cuts into the registers it has: everything
 * is elementwise with the reduction order of kernels.h, no contraction (-ffp-contract=off), no libm but the exact sqrt.
 * So the bits are the same in every tier.
 *
 * Before inclusion: VEC_TABLE, the name of the table to define, and optionally LOAD_F16(p) -> v16 and STORE_F16(p, v),
 * 16 halves at an unaligned address; the conversions of quant.h else. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "neuron_engine/kernels/kernels.h"
#include "neuron_engine/quant.h"

#define LANES 16
#define INL static inline __attribute__((always_inline))

typedef float v16 __attribute__((vector_size(64)));
typedef int32_t v16i __attribute__((vector_size(64)));
typedef uint32_t v16u __attribute__((vector_size(64)));

/* Every helper that passes a vector is inlined, so the calling convention of wide vectors, which differs between
 * targets, does not matter (the build passes -Wno-psabi). */
/* Vectors in memory: any alignment, any type. Not memcpy, which makes GCC keep the vector itself in memory. */
typedef v16 v16_mem __attribute__((aligned(1), may_alias));

INL v16 load(const float *p) { return *(const v16_mem *)p; }
INL void store(float *p, v16 v) { *(v16_mem *)p = v; }

/* The first n < 16 values, `fill` behind them. */
INL v16 load_n(const float *p, size_t n, float fill) {
    float t[LANES];
    for (size_t i = 0; i < LANES; i++) t[i] = i < n ? p[i] : fill;
    return load(t);
}

INL void store_n(float *p, v16 v, size_t n) {
    float t[LANES];
    store(t, v);
    memcpy(p, t, n * sizeof *p);
}

#ifndef LOAD_F16
INL v16 load_f16(const uint16_t *p) {
    float t[LANES];
    for (int i = 0; i < LANES; i++) {
        uint16_t h;
        memcpy(&h, p + i, sizeof h);
        t[i] = sg_f16_to_f32(h);
    }
    return load(t);
}
#define LOAD_F16(p) load_f16(p)
#endif
#ifndef STORE_F16
INL void store_f16(uint16_t *p, v16 v) {
    float t[LANES];
    store(t, v);
    for (int i = 0; i < LANES; i++) {
        const uint16_t h = sg_f32_to_f16(t[i]);
        memcpy(p + i, &h, sizeof h);
    }
}
#define STORE_F16(p, v) store_f16(p, v)
#endif

INL v16 load_f16_n(const uint16_t *p, size_t n) {
    uint16_t t[LANES] = { 0 };
    memcpy(t, p, n * sizeof *p);
    return LOAD_F16(t);
}

INL v16 splat(float f) { return f - (v16) { 0 }; } /* -0 + 0 would lose the sign */
INL v16 select_v(v16i mask, v16 a, v16 b) { return (v16)((mask & (v16i)a) | (~mask & (v16i)b)); }
INL v16 max_v(v16 a, v16 b) { return select_v(a > b, a, b); }

/* The fixed tree over the 16 lanes: (0+8)(1+9).., +4, +2, +1. */
INL float sum_lanes(v16 v) {
    float t[LANES];
    store(t, v);
    for (int w = 8; w > 0; w /= 2)
        for (int i = 0; i < w; i++) t[i] += t[i + w];
    return t[0];
}

INL float max_lanes(v16 v) {
    float t[LANES];
    store(t, v);
    for (int w = 8; w > 0; w /= 2)
        for (int i = 0; i < w; i++) t[i] = t[i] > t[i + w] ? t[i] : t[i + w];
    return t[0];
}

/* e^x, within 1 ulp, NaN to NaN. x = n ln2 + r with |r| <= ln2 / 2: ln2 is taken in two parts, the first of few bits,
 * so that n * LN2_HI is exact (Cody and Waite). The polynomial is the Taylor series to r^7: its rest is below 2^-28 of
 * the result. */
INL v16 exp_v(v16 x) {
    const float LOG2E = 0x1.715476p+0f, LN2_HI = 0x1.62ep-1f, LN2_LO = 0x1.0bfbe8p-15f, MAGIC = 0x1.8p+23f;
    x = select_v(x > 89.0f, splat(89.0f), x);     /* gives infinity */
    x = select_v(x < -104.0f, splat(-104.0f), x); /* gives 0 */
    const v16 shifted = x * LOG2E + MAGIC;        /* the low bits of the sum are round(x / ln2) */
    const v16 n = shifted - MAGIC;
    const v16i ni = (v16i)((v16u)shifted - 0x4b400000u);
    const v16 r = (x - n * LN2_HI) - n * LN2_LO;
    v16 p = splat(1.0f / 5040);
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = (p * r) * r + r + 1.0f;
    /* 2^n in two factors: n reaches from -150 to 128, and only the last product may round (to a subnormal). */
    const v16i half = ni >> 1, rest = ni - half;
    return p * (v16)((v16u)(half + 127) << 23) * (v16)((v16u)(rest + 127) << 23);
}

static void rmsnorm(float *out, const float *x, const float *w, size_t n, float eps) {
    v16 acc = { 0 };
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const v16 v = load(x + i);
        acc += v * v;
    }
    if (i < n) {
        const v16 v = load_n(x + i, n - i, 0);
        acc += v * v;
    }
    const float scale = 1.0f / sqrtf(sum_lanes(acc) / (float)n + eps);
    for (i = 0; i + LANES <= n; i += LANES) {
        const v16 v = load(x + i) * scale;
        store(out + i, w ? v * load(w + i) : v);
    }
    for (; i < n; i++) out[i] = w ? x[i] * scale * w[i] : x[i] * scale;
}

static float dot_f32(const float *a, const float *b, size_t n) {
    v16 acc = { 0 };
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) acc += load(a + i) * load(b + i);
    if (i < n) acc += load_n(a + i, n - i, 0) * load_n(b + i, n - i, 0);
    return sum_lanes(acc);
}

static float dot_f16(const float *a, const uint16_t *b, size_t n) {
    v16 acc = { 0 };
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) acc += load(a + i) * LOAD_F16(b + i);
    if (i < n) acc += load_n(a + i, n - i, 0) * load_f16_n(b + i, n - i);
    return sum_lanes(acc);
}

static void axpy_f32(float *y, float s, const float *x, size_t n) {
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) store(y + i, load(y + i) + load(x + i) * s);
    for (; i < n; i++) y[i] += s * x[i];
}

static void axpy_f16(float *y, float s, const uint16_t *x, size_t n) {
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) store(y + i, load(y + i) + LOAD_F16(x + i) * s);
    if (i < n) store_n(y + i, load_n(y + i, n - i, 0) + load_f16_n(x + i, n - i) * s, n - i);
}

static void add(float *y, const float *x, size_t n) {
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) store(y + i, load(y + i) + load(x + i));
    for (; i < n; i++) y[i] += x[i];
}

static float max_of(const float *x, size_t n) {
    v16 m = splat(-INFINITY);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) m = max_v(load(x + i), m);
    if (i < n) m = max_v(load_n(x + i, n - i, -INFINITY), m);
    return max_lanes(m);
}

static void softmax(float *x, size_t n) {
    const float max = max_of(x, n);
    if (max == -INFINITY) { /* nothing is allowed: no weight anywhere */
        memset(x, 0, n * sizeof *x);
        return;
    }
    v16 acc = { 0 };
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const v16 e = exp_v(load(x + i) - max);
        store(x + i, e);
        acc += e;
    }
    if (i < n) {
        const v16 e = exp_v(load_n(x + i, n - i, -INFINITY) - max); /* the padding gives 0 */
        store_n(x + i, e, n - i);
        acc += e;
    }
    const float sum = sum_lanes(acc);
    for (i = 0; i + LANES <= n; i += LANES) store(x + i, load(x + i) / sum);
    for (; i < n; i++) x[i] /= sum;
}

INL v16 silu(v16 g) { return g / (1.0f + exp_v(-g)); }
INL v16 relu(v16 g) { return (v16)(~(g <= 0) & (v16i)g); } /* NaN stays */

static void silu_mul(float *out, const float *gate, const float *up, size_t n) {
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) store(out + i, silu(load(gate + i)) * load(up + i));
    if (i < n) store_n(out + i, silu(load_n(gate + i, n - i, 0)) * load_n(up + i, n - i, 0), n - i);
}

static void relu_mul(float *out, const float *gate, const float *up, size_t n) {
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) store(out + i, relu(load(gate + i)) * load(up + i));
    if (i < n) store_n(out + i, relu(load_n(gate + i, n - i, 0)) * load_n(up + i, n - i, 0), n - i);
}

static void drelu_mul(float *out, const float *gate, const float *up, size_t n) {
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) store(out + i, relu(load(gate + i)) * relu(load(up + i)));
    if (i < n) store_n(out + i, relu(load_n(gate + i, n - i, 0)) * relu(load_n(up + i, n - i, 0)), n - i);
}

static void f32_to_f16(uint16_t *out, const float *x, size_t n) {
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) STORE_F16(out + i, load(x + i));
    if (i < n) {
        uint16_t t[LANES];
        STORE_F16(t, load_n(x + i, n - i, 0));
        memcpy(out + i, t, (n - i) * sizeof *out);
    }
}

/* NaN to 0, infinities to the largest float. */
INL v16 only_finite(v16 v) {
    v = (v16)((v == v) & (v16i)v);
    v = select_v(v > FLT_MAX, splat(FLT_MAX), v);
    return select_v(v < -FLT_MAX, splat(-FLT_MAX), v);
}

/* 16 codes and their sum. Adding 1.5 * 2^23 rounds to even; the clamp is for scales so small that x / d passes 127. */
INL int quantize_16(int8_t *q, v16 v, float d) {
    v16 s = v / d;
    s = select_v(s > 127.0f, splat(127.0f), s);
    s = select_v(s < -127.0f, splat(-127.0f), s);
    const v16i code = (v16i)((v16u)(s + 0x1.8p+23f) - 0x4b400000u);
    int sum = 0;
    for (int j = 0; j < LANES; j++) {
        q[j] = (int8_t)code[j];
        sum += code[j];
    }
    return sum;
}

static void quantize_acts(sg_acts *a, uint32_t t) {
    const float *x = a->x + (size_t)t * a->k;
    for (uint32_t b = 0; b < a->n_blocks; b++, x += 32) {
        const size_t i = (size_t)t * a->n_blocks + b;
        const v16 lo = only_finite(load(x)), hi = only_finite(load(x + LANES));
        const v16 top = max_v((v16)((v16i)lo & 0x7fffffff), (v16)((v16i)hi & 0x7fffffff));
        const float d = max_lanes(top) / 127.0f;
        a->d[i] = d;
        if (d == 0) {
            memset(a->q + i * 32, 0, 32);
            a->sums[2 * i] = a->sums[2 * i + 1] = 0;
            continue;
        }
        a->sums[2 * i] = (int16_t)quantize_16(a->q + i * 32, lo, d);
        a->sums[2 * i + 1] = (int16_t)quantize_16(a->q + i * 32 + LANES, hi, d);
    }
}

const sg_vec_fns VEC_TABLE = {
    .rmsnorm = rmsnorm,
    .dot_f32 = dot_f32,
    .dot_f16 = dot_f16,
    .axpy_f32 = axpy_f32,
    .axpy_f16 = axpy_f16,
    .add = add,
    .softmax = softmax,
    .silu_mul = silu_mul,
    .relu_mul = relu_mul,
    .drelu_mul = drelu_mul,
    .f32_to_f16 = f32_to_f16,
    .quantize_acts = quantize_acts,
};
