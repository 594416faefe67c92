/* The vector functions of one tier: this file is included once per tier and compiled with that tier's flags. It is
 * written in vectors of the GCC/clang extension, as wide as the tier's registers: everything is elementwise, the
 * reductions use the 16 lanes and the order of kernels.h in 16 / W vectors, nothing is contracted (-ffp-contract=off),
 * and of libm only the exact sqrt is used. So the bits are the same in every tier.
 *
 * Before inclusion: VEC_TABLE, the name of the table to define; W, lanes of a vector (4, 8 or 16); optionally
 * LOAD_F16(p) -> vf and STORE_F16(p, v), W halves at an unaligned address (the conversions of quant.h else);
 * STORE_CODES(p, v), the W values of v, -127..127, as bytes at an unaligned address; LOAD_CODES(p) -> vf, W signed bytes;
 * HALF(h), a half as float; FMA(a, b, c), a * b + c rounded once. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "neuron_engine/kernels/kernels.h"
#include "neuron_engine/quant.h"

#define LANES 16
#define PARTS (LANES / W)
#define INL static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define FOR_PARTS UNROLL for (size_t p = 0; p < PARTS; p++)

typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef uint32_t vu __attribute__((vector_size(4 * W)));

/* Vectors in memory: any alignment, any type. Not memcpy, which makes GCC keep the vector itself in memory. */
typedef vf vf_mem __attribute__((aligned(1), may_alias));
typedef vi vi_mem __attribute__((aligned(1), may_alias));

INL vf load(const float *p) { return *(const vf_mem *)p; }
INL void store(float *p, vf v) { *(vf_mem *)p = v; }

/* The first n values (W or more: all), `fill` behind them. */
INL vf load_n(const float *p, size_t n, float fill) {
    float t[W];
    for (size_t i = 0; i < W; i++) t[i] = i < n ? p[i] : fill;
    return load(t);
}

INL void store_n(float *p, vf v, size_t n) {
    float t[W];
    store(t, v);
    for (size_t i = 0; i < W && i < n; i++) p[i] = t[i];
}

#ifndef LOAD_F16
INL vf load_f16(const uint16_t *p) {
    float t[W];
    for (int i = 0; i < W; i++) {
        uint16_t h;
        memcpy(&h, p + i, sizeof h);
        t[i] = sg_f16_to_f32(h);
    }
    return load(t);
}
#define LOAD_F16(p) load_f16(p)
#endif
#ifndef STORE_F16
INL void store_f16(uint16_t *p, vf v) {
    float t[W];
    store(t, v);
    for (int i = 0; i < W; i++) {
        const uint16_t h = sg_f32_to_f16(t[i]);
        memcpy(p + i, &h, sizeof h);
    }
}
#define STORE_F16(p, v) store_f16(p, v)
#endif

#ifndef LOAD_CODES
INL vf load_codes(const int8_t *p) {
    float t[W];
    for (int i = 0; i < W; i++) t[i] = p[i];
    return load(t);
}
#define LOAD_CODES(p) load_codes(p)
#endif
#ifndef HALF
#define HALF(h) sg_f16_to_f32(h)
#endif
#ifndef FMA
INL vf fma_lanes(vf a, vf b, vf c) {
    float t[W];
    for (int i = 0; i < W; i++) t[i] = fmaf(a[i], b[i], c[i]);
    return load(t);
}
#define FMA(a, b, c) fma_lanes(a, b, c)
#endif

#ifndef STORE_CODES
INL void store_codes(int8_t *p, vi v) {
    for (int i = 0; i < W; i++) p[i] = (int8_t)v[i];
}
#define STORE_CODES(p, v) store_codes(p, v)
#endif

INL vf splat(float f) { return f - (vf) { 0 }; } /* -0 + 0 would lose the sign */
INL vf select_v(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }
INL vf max_v(vf a, vf b) { return select_v(a > b, a, b); }

/* Values left for part p of a group that starts at i of n. */
INL size_t left(size_t n, size_t i, size_t p) { return n > i + p * W ? n - i - p * W : 0; }

/* The fixed tree over the 16 lanes: (0+8)(1+9).., +4, +2, +1. */
INL float sum_lanes(const vf v[PARTS]) {
    float t[LANES];
    FOR_PARTS store(t + p * W, v[p]);
    for (int w = 8; w > 0; w /= 2)
        for (int i = 0; i < w; i++) t[i] += t[i + w];
    return t[0];
}

/* Reductions without an order: four lanes at a time, which every processor has. */
typedef float vf4 __attribute__((vector_size(16)));
typedef int32_t vi4 __attribute__((vector_size(16)));

INL float max_lanes(vf v) {
    vf4 t[W / 4];
    *(vf_mem *)t = v;
    vf4 m = t[0];
    UNROLL for (int i = 1; i < W / 4; i++) {
        const vi4 gt = t[i] > m;
        m = (vf4)((gt & (vi4)t[i]) | (~gt & (vi4)m));
    }
    const float a = m[0] > m[1] ? m[0] : m[1], b = m[2] > m[3] ? m[2] : m[3];
    return a > b ? a : b;
}

INL int16_t sum_codes(vi v) {
    vi4 t[W / 4];
    *(vi_mem *)t = v;
    vi4 s = t[0];
    UNROLL for (int i = 1; i < W / 4; i++) s += t[i];
    return (int16_t)(s[0] + s[1] + s[2] + s[3]);
}

/* e^x, within 2 ulp, NaN to NaN. x = n ln2 + r with |r| <= ln2 / 2: ln2 is taken in two parts, the first of few bits,
 * so that n * LN2_HI is exact (Cody and Waite). The polynomial is the Taylor series to r^7: its rest is below 2^-28 of
 * the result. */
INL vf exp_v(vf x) {
    const float LOG2E = 0x1.715476p+0f, LN2_HI = 0x1.62ep-1f, LN2_LO = 0x1.0bfbe8p-15f, MAGIC = 0x1.8p+23f;
    x = select_v(x > 89.0f, splat(89.0f), x);     /* gives infinity */
    x = select_v(x < -104.0f, splat(-104.0f), x); /* gives 0 */
    const vf shifted = x * LOG2E + MAGIC;         /* the low bits of the sum are round(x / ln2) */
    const vf n = shifted - MAGIC;
    const vi ni = (vi)((vu)shifted - 0x4b400000u);
    const vf r = (x - n * LN2_HI) - n * LN2_LO;
    vf p = splat(1.0f / 5040);
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = (p * r) * r + r + 1.0f;
    /* 2^n in two factors: n reaches from -150 to 128, and only the last product may round (to a subnormal). */
    const vi half = ni >> 1, rest = ni - half;
    return p * (vf)((vu)(half + 127) << 23) * (vf)((vu)(rest + 127) << 23);
}

static void rmsnorm(float *out, const float *x, const float *w, size_t n, float eps) {
    vf acc[PARTS] = { 0 };
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) FOR_PARTS {
            const vf v = load(x + i + p * W);
            acc[p] += v * v;
        }
    if (i < n) FOR_PARTS {
            const vf v = load_n(x + i + p * W, left(n, i, p), 0);
            acc[p] += v * v;
        }
    const float scale = 1.0f / sqrtf(sum_lanes(acc) / (float)n + eps);
    for (i = 0; i + W <= n; i += W) {
        const vf v = load(x + i) * scale;
        store(out + i, w ? v * load(w + i) : v);
    }
    for (; i < n; i++) out[i] = w ? x[i] * scale * w[i] : x[i] * scale;
}

static void add(float *y, const float *x, size_t n) {
    size_t i = 0;
    for (; i + W <= n; i += W) store(y + i, load(y + i) + load(x + i));
    for (; i < n; i++) y[i] += x[i];
}

static float max_of(const float *x, size_t n) {
    vf m = splat(-INFINITY);
    size_t i = 0;
    for (; i + W <= n; i += W) m = max_v(load(x + i), m);
    if (i < n) m = max_v(load_n(x + i, n - i, -INFINITY), m);
    return max_lanes(m);
}

#include "neuron_engine/kernels/attend_tmpl.h"

static void softmax(float *x, size_t n) {
    float max = -INFINITY, sum = 0;
    attend_softmax(x, n, &max, &sum);
    if (max == -INFINITY) return; /* nothing is allowed: no weight anywhere */
    size_t i = 0;
    for (; i + W <= n; i += W) store(x + i, load(x + i) / sum);
    for (; i < n; i++) x[i] /= sum;
}

/* tanh(z) = 1 - 2 / (1 + e^2z) */
INL vf capped(vf x, float cap) { return (1.0f - 2.0f / (1.0f + exp_v(x / cap * 2.0f))) * cap; }

static void softcap(float *x, size_t n, float cap) {
    size_t i = 0;
    for (; i + W <= n; i += W) store(x + i, capped(load(x + i), cap));
    if (i < n) store_n(x + i, capped(load_n(x + i, n - i, 0), cap), n - i);
}

INL vf silu(vf g) { return g / (1.0f + exp_v(-g)); }

/* 0.5 g (1 + tanh(z)) = g / (1 + e^-2z), z = sqrt(2/pi) (g + 0.044715 g^3) (arXiv 1606.08415, section 2). */
INL vf gelu(vf g) {
    const float SCALE = 0x1.988454p-1f;
    const vf z = (g + g * g * g * 0.044715f) * SCALE;
    return g / (1.0f + exp_v(z * -2.0f));
}
INL vf relu(vf g) { return (vf)(~(g <= 0) & (vi)g); } /* NaN stays */

/* out = EXPR of vectors g and u, for all n. */
#define GATED(EXPR)                                                                                                    \
    size_t i = 0;                                                                                                      \
    for (; i + W <= n; i += W) {                                                                                       \
        const vf g = load(gate + i), u = load(up + i);                                                                 \
        store(out + i, EXPR);                                                                                          \
    }                                                                                                                  \
    if (i < n) {                                                                                                       \
        const vf g = load_n(gate + i, n - i, 0), u = load_n(up + i, n - i, 0);                                         \
        store_n(out + i, EXPR, n - i);                                                                                 \
    }

static void silu_mul(float *out, const float *gate, const float *up, size_t n) { GATED(silu(g) * u) }
static void gelu_mul(float *out, const float *gate, const float *up, size_t n) { GATED(gelu(g) * u) }
static void relu_mul(float *out, const float *gate, const float *up, size_t n) { GATED(relu(g) * u) }
static void drelu_mul(float *out, const float *gate, const float *up, size_t n) { GATED(relu(g) * relu(u)) }

static void f32_to_f16(uint16_t *out, const float *x, size_t n) {
    size_t i = 0;
    for (; i + W <= n; i += W) STORE_F16(out + i, load(x + i));
    if (i < n) {
        uint16_t t[W];
        STORE_F16(t, load_n(x + i, n - i, 0));
        memcpy(out + i, t, (n - i) * sizeof *out);
    }
}

typedef uint64_t vl __attribute__((vector_size(4 * W)));
/* Neighbours change places: lanes (0 1)(2 3).. become (1 0)(3 2).. (as 64-bit numbers turned by half their width). */
INL vf swap_pairs(vf v) { return (vf)((vl)v >> 32 | (vl)v << 32); }

static void rope(float *x, const float *cosines, const float *sines, size_t n, bool adjacent) {
    if (adjacent) {
        size_t i = 0;
        for (; i + W <= n; i += W) {
            const vf v = load(x + i);
            store(x + i, v * load(cosines + i) + swap_pairs(v) * load(sines + i));
        }
        for (; i < n; i += 2) {
            const float a = x[i], b = x[i + 1];
            x[i] = a * cosines[i] + b * sines[i];
            x[i + 1] = b * cosines[i + 1] + a * sines[i + 1];
        }
        return;
    }
    const size_t half = n / 2;
    size_t i = 0;
    for (; i + W <= half; i += W) {
        const vf a = load(x + i), b = load(x + half + i);
        store(x + i, a * load(cosines + i) + b * load(sines + i));
        store(x + half + i, b * load(cosines + half + i) + a * load(sines + half + i));
    }
    for (; i < half; i++) {
        const float a = x[i], b = x[half + i];
        x[i] = a * cosines[i] + b * sines[i];
        x[half + i] = b * cosines[half + i] + a * sines[half + i];
    }
}

/* NaN to 0, infinities to the largest float. */
INL vf only_finite(vf v) {
    v = (vf)((v == v) & (vi)v);
    v = select_v(v > FLT_MAX, splat(FLT_MAX), v);
    return select_v(v < -FLT_MAX, splat(-FLT_MAX), v);
}

/* Codes of v. Adding 1.5 * 2^23 rounds to even; the clamp is for scales so small that x / d passes 127. */
INL vi codes_of(vf v, float d) {
    vf s = v / d;
    s = select_v(s > 127.0f, splat(127.0f), s);
    s = select_v(s < -127.0f, splat(-127.0f), s);
    return (vi)((vu)(s + 0x1.8p+23f) - 0x4b400000u);
}

static void quantize_acts(sg_acts *a, uint32_t t) {
    const float *x = a->x + (size_t)t * a->k;
    for (uint32_t b = 0; b < a->n_blocks; b++, x += 32) {
        const size_t i = (size_t)t * a->n_blocks + b;
        int8_t *q = a->q + i * 32;
        vf v[2 * PARTS], top = { 0 };
        UNROLL for (int p = 0; p < 2 * PARTS; p++) {
            v[p] = only_finite(load(x + p * W));
            top = max_v((vf)((vi)v[p] & 0x7fffffff), top);
        }
        const float d = max_lanes(top) / 127.0f;
        a->d[i] = d;
        if (d == 0) {
            memset(q, 0, 32);
            a->sums[2 * i] = a->sums[2 * i + 1] = 0;
            a->dsum[i] = 0;
            continue;
        }
        vi sums[2] = { 0 };
        UNROLL for (int p = 0; p < 2 * PARTS; p++) {
            const vi code = codes_of(v[p], d);
            STORE_CODES(q + p * W, code);
            sums[p / PARTS] += code;
        }
        a->sums[2 * i] = sum_codes(sums[0]);
        a->sums[2 * i + 1] = sum_codes(sums[1]);
        a->dsum[i] = d * (float)(a->sums[2 * i] + a->sums[2 * i + 1]);
    }
}

const sg_vec_fns VEC_TABLE = {
    .rmsnorm = rmsnorm,
    .add = add,
    .softmax = softmax,
    .softcap = softcap,
    .silu_mul = silu_mul,
    .gelu_mul = gelu_mul,
    .relu_mul = relu_mul,
    .drelu_mul = drelu_mul,
    .f32_to_f16 = f32_to_f16,
    .rope = rope,
    .attend = { attend_softmax, { [SG_KV_F16] = weigh_f16, [SG_KV_F32] = weigh_f32, [SG_KV_Q8_0] = weigh_q8_0 } },
    .quantize_acts = quantize_acts,
};
