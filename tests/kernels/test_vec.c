/* Vector functions: every tier of this machine against the reference bit by bit, and the reference against double
 * precision or the words of kernels.h. Usage: test_vec [--bench] */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "neuron_engine/kernels/ref/ref.h"
#include "neuron_engine/quant.h"
#include "tests/kernels/check_vec.h"
#include "tests/kernels/harness.h"

#define MAX_N 300

/* Inputs of one round. Filled behind n too, so that a function that reads too far finds values that would show. */
typedef struct inputs {
    float *a, *b, *c; /* MAX_N + 1 values, 4 bytes off alignment */
    uint16_t *h;
    float s;
} inputs;

/* Values of kind 0: normal; 1: with zeros of both signs, infinities and subnormals; 2: wide range; 3: NaN among them.
 */
static void fill(float *x, int kind) {
    static const float special[] = { 0.0f,    -0.0f,   INFINITY, -INFINITY, 1e-45f,
                                     -1e-40f, FLT_MAX, -FLT_MAX, 88.7f,     -104.0f };
    for (int i = 0; i <= MAX_N; i++) {
        x[i] = h_normal();
        if (kind == 1 && h_below(8) == 0) x[i] = special[h_below(10)];
        if (kind == 2) x[i] = ldexpf(x[i], (int)h_below(200) - 100);
        if (kind == 3 && h_below(40) == 0) x[i] = NAN;
    }
}

static void fill_inputs(inputs *in, int kind) {
    fill(in->a, kind);
    fill(in->b, kind);
    fill(in->c, kind);
    for (int i = 0; i <= MAX_N; i++) in->h[i] = sg_f32_to_f16(in->c[i]);
    in->s = h_normal();
}

enum {
    RMSNORM, RMSNORM_ONES, ADD, SOFTMAX, SILU, GELU, RELU, DRELU, TO_F16, ROPE_HALVES, ROPE_ADJACENT, ATTEND_SOFTMAX,
    LAYERNORM, LAYERNORM_W, LAYERNORM_B, LAYERNORM_ONES, L2NORM, AXPY, SCALE, MUL, GELU_ERF, OAI, SIGMOID, SOFTCAP, EXP, SOFTPLUS,
    SILU_ONES, GELU_ONES, RELU_ONES, DRELU_ONES, GELU_ERF_ONES, OAI_ONES, SIGMOID_ONES, N_FNS
};
static const char *const fn_names[N_FNS] = {
    "rmsnorm", "rmsnorm (no w)", "add", "softmax", "silu_mul", "gelu_mul", "relu_mul", "drelu_mul", "f32_to_f16",
    "rope (halves)", "rope (pairs)", "attend.softmax", "layernorm", "layernorm (no b)", "layernorm (no w)",
    "layernorm (neither)", "l2norm", "axpy", "scale", "mul", "gelu_erf_mul", "oai_mul", "sigmoid_mul", "softcap", "exp",
    "softplus", "silu_mul (no up)", "gelu_mul (no up)", "relu_mul (no up)", "drelu_mul (no up)", "gelu_erf_mul (no up)",
    "oai_mul (no up)", "sigmoid_mul (no x)"
};

/* Runs function f on n values; out holds MAX_N + 1 values, of which those behind the result must not change. */
static void call(const sg_vec_fns *v, int f, const inputs *in, size_t n, float *out) {
    memcpy(out, in->a, (MAX_N + 1) * sizeof *out);
    uint16_t halves[MAX_N + 1];
    switch (f) {
    case RMSNORM: v->rmsnorm(out, in->a, in->b, n, 1e-5f); break;
    case RMSNORM_ONES: v->rmsnorm(out, out, NULL, n, 1e-5f); break; /* in place */
    case ADD: v->add(out, in->b, n); break;
    case SOFTMAX: v->softmax(out, n); break;
    case SILU: v->silu_mul(out, in->a, in->b, n); break;
    case GELU: v->gelu_mul(out, in->a, in->b, n); break;
    case RELU: v->relu_mul(out, in->a, in->b, n); break;
    case DRELU: v->drelu_mul(out, in->a, in->b, n); break;
    case TO_F16:
        memset(halves, 0x55, sizeof halves);
        v->f32_to_f16(halves, in->a, n);
        for (int i = 0; i <= MAX_N; i++) out[i] = sg_f16_to_f32(halves[i]);
        break;
    case ROPE_HALVES: v->rope(out, in->b, in->c, n / 2 * 2, false); break;
    case ROPE_ADJACENT: v->rope(out, in->b, in->c, n / 2 * 2, true); break;
    case ATTEND_SOFTMAX: {
        float max = in->s, sum = in->b[0];
        const float keep = v->attend.softmax(out, n, &max, &sum);
        if (n + 3 <= MAX_N) out[n] = max, out[n + 1] = sum, out[n + 2] = keep;
        break;
    }
    case LAYERNORM: v->layernorm(out, in->a, in->b, in->c, n, 1e-5f); break;
    case LAYERNORM_W: v->layernorm(out, in->a, in->b, NULL, n, 1e-5f); break;
    case LAYERNORM_B: v->layernorm(out, in->a, NULL, in->c, n, 1e-5f); break;
    case LAYERNORM_ONES: v->layernorm(out, out, NULL, NULL, n, 1e-5f); break;
    case L2NORM: v->l2norm(out, out, n, in->s > 0 ? 1e-6f : 30); break; /* shorter and longer than eps */
    case AXPY: v->axpy(out, in->b, n, in->s); break;
    case SCALE: v->scale(out, n, in->s); break;
    case MUL: v->mul(out, in->a, in->b, n); break;
    case GELU_ERF: v->gelu_erf_mul(out, in->a, in->b, n); break;
    case OAI: v->oai_mul(out, in->a, in->b, n); break;
    case SIGMOID: v->sigmoid_mul(out, in->b, out, n); break;
    case SOFTCAP: v->softcap(out, n, in->s > 0 ? 30 : 0.5f); break;
    case EXP: v->exp(out, in->a, n); break;
    case SOFTPLUS: v->softplus(out, out, n); break;
    case SILU_ONES: v->silu_mul(out, out, NULL, n); break;
    case GELU_ONES: v->gelu_mul(out, in->a, NULL, n); break;
    case RELU_ONES: v->relu_mul(out, in->a, NULL, n); break;
    case DRELU_ONES: v->drelu_mul(out, in->a, NULL, n); break;
    case GELU_ERF_ONES: v->gelu_erf_mul(out, in->a, NULL, n); break;
    case OAI_ONES: v->oai_mul(out, in->a, NULL, n); break;
    case SIGMOID_ONES: v->sigmoid_mul(out, in->a, NULL, n); break;
    default: break;
    }
}

/* Without `up` a gated function does what it does with ones. */
static void check_ones(const sg_vec_fns *v, inputs *in) {
    for (int round = 0; round < 40; round++) {
        const size_t n = 1 + h_below(MAX_N);
        fill_inputs(in, round % 4);
        for (size_t i = 0; i < n; i++) in->b[i] = 1;
        for (int f = SILU_ONES; f <= SIGMOID_ONES; f++) {
            static const int with[] = { SILU, GELU, RELU, DRELU, GELU_ERF, OAI };
            float want[MAX_N + 1], got[MAX_N + 1];
            if (f == SIGMOID_ONES) {
                memcpy(want, in->a, sizeof want);
                v->sigmoid_mul(want, in->a, in->b, n);
            } else {
                call(v, with[f - SILU_ONES], in, n, want);
            }
            call(v, f, in, n, got);
            h_check(h_differ(want, got, MAX_N + 1) > MAX_N, "%s n %zu is not as with ones", fn_names[f], n);
        }
    }
}

static void check_tier(const sg_kernels *tier, const sg_kernels *below, inputs *in) {
    float want[MAX_N + 1], got[MAX_N + 1];
    for (int round = 0; round < 120; round++) {
        const int kind = round % 4;
        const size_t n = round < 70 ? (size_t)round + 1 : 1 + h_below(MAX_N);
        fill_inputs(in, kind);
        for (int f = 0; f < N_FNS; f++) {
            call(&below->vec, f, in, n, want);
            call(&tier->vec, f, in, n, got);
            const size_t i = h_differ(want, got, MAX_N + 1);
            h_check(i > MAX_N, "%s %s n %zu (kind %d): value %zu is %a, not %a", tier->tier, fn_names[f], n, kind, i,
                    i <= MAX_N ? got[i] : 0, i <= MAX_N ? want[i] : 0);
        }
    }
}

static void check_acts(const sg_kernels *tier, const sg_kernels *ref) {
    for (int round = 0; round < 40; round++) {
        const uint32_t n = 1 + h_below(3), k = 32 * (1 + h_below(9));
        sg_acts a = h_acts(n, k, round % H_ACT_MODES, &ref->vec), b = a;
        float *x = (float *)a.x;
        if (round % 5 == 4) {
            x[h_below(k)] = NAN;
            x[h_below(k)] = INFINITY;
            x[h_below(k)] = -INFINITY;
        }
        const size_t blocks = (size_t)n * a.n_blocks;
        b.q = h_alloc((size_t)n * k, 0);
        b.d = h_alloc(blocks * sizeof *b.d, 0);
        b.sums = h_alloc(blocks * 2 * sizeof *b.sums, 0);
        b.dsum = h_alloc(blocks * sizeof *b.dsum, 0);
        for (uint32_t t = 0; t < n; t++) {
            ref->vec.quantize_acts(&a, t);
            tier->vec.quantize_acts(&b, t);
        }
        h_check(memcmp(a.q, b.q, (size_t)n * k) == 0 && memcmp(a.d, b.d, blocks * sizeof *a.d) == 0 &&
                    memcmp(a.sums, b.sums, 2 * blocks * sizeof *a.sums) == 0 &&
                    memcmp(a.dsum, b.dsum, blocks * sizeof *a.dsum) == 0,
                "%s quantize_acts differs (round %d)", tier->tier, round);
        for (size_t i = 0; i < blocks; i++) { /* the words of kernels.h, the slow way */
            float top = 0;
            int sums[2] = { 0 };
            for (int j = 0; j < 32; j++) {
                const float v = x[i * 32 + j];
                top = v == v && fabsf(v) > top ? fminf(fabsf(v), FLT_MAX) : top;
            }
            bool same = b.d[i] == top / 127;
            for (int j = 0; j < 32; j++) {
                float v = x[i * 32 + j];
                v = v != v || b.d[i] == 0 ? 0 : nearbyintf(fmaxf(fminf(v, FLT_MAX), -FLT_MAX) / b.d[i]);
                v = fmaxf(fminf(v, 127), -127);
                same &= (float)b.q[i * 32 + j] == v;
                sums[j / 16] += b.q[i * 32 + j];
            }
            h_check(same && sums[0] == b.sums[2 * i] && sums[1] == b.sums[2 * i + 1] &&
                        b.dsum[i] == b.d[i] * (float)(sums[0] + sums[1]),
                    "%s quantize_acts: block %zu is wrong", tier->tier, i);
        }
        h_free(b.q, 0);
        h_free(b.d, 0);
        h_free(b.sums, 0);
        h_free(b.dsum, 0);
        h_acts_free(&a);
    }
}

/* exp through softmax: with a first value of 0 (the maximum) and a sum that the others do not move, out[1] / out[0] =
 * e^x. */
static void check_exp(const sg_vec_fns *v) {
    double worst = 0;
    for (int i = 0; i < 200000; i++) {
        float x[2] = { 0, -17.5f - h_uniform(0, 69.5f) };
        const double want = exp((double)x[1]);
        v->softmax(x, 2);
        if (x[0] == 1) worst = fmax(worst, h_ulps(x[1], want));
    }
    h_check(worst <= 2, "e^x is off by %.2f ulp", worst);
    double worst_silu = 0;
    for (int i = 0; i < 200000; i++) {
        const float g = h_uniform(-80, 80), one = 1;
        float y;
        v->silu_mul(&y, &g, &one, 1);
        worst_silu = fmax(worst_silu, h_ulps(y, (double)g / (1 + exp(-(double)g))));
    }
    h_check(worst_silu <= 4, "silu is off by %.2f ulp", worst_silu);
    double worst_gelu = 0;
    for (int i = 0; i < 200000; i++) {
        const float g = h_uniform(-4, 6), one = 1;
        float y;
        v->gelu_mul(&y, &g, &one, 1);
        const double z = sqrt(2 / acos(-1)) * (g + 0.044715 * (double)g * g * g);
        worst_gelu = fmax(worst_gelu, fabs(y - 0.5 * g * (1 + tanh(z))) / (0.01 + fabs((double)g)));
    }
    h_check(worst_gelu <= 1e-6, "gelu is off by %.2g", worst_gelu);
    printf("e^x within %.3f ulp, silu within %.3f ulp, gelu within %.2g\n", worst, worst_silu, worst_gelu);
}

/* The reference against double precision. */
static void check_reference(const sg_vec_fns *v, inputs *in) {
    for (int round = 0; round < 60; round++) {
        const size_t n = 1 + h_below(MAX_N);
        fill_inputs(in, 0);
        double square = 0;
        for (size_t i = 0; i < n; i++) square += (double)in->a[i] * in->a[i];
        float out[MAX_N + 1];
        v->rmsnorm(out, in->a, in->b, n, 1e-5f);
        double off = 0;
        for (size_t i = 0; i < n; i++) {
            const double want = (double)in->a[i] / sqrt(square / (double)n + 1e-5) * in->b[i];
            off = fmax(off, fabs(out[i] - want) - fabs(want) * 4e-6);
        }
        h_check(off <= 0, "rmsnorm n %zu", n);
        double sum = 0, max = -1e30, total = 0;
        for (size_t i = 0; i < n; i++) max = fmax(max, (double)in->a[i]);
        for (size_t i = 0; i < n; i++) sum += exp((double)in->a[i] - max);
        memcpy(out, in->a, sizeof out);
        v->softmax(out, n);
        off = 0;
        for (size_t i = 0; i < n; i++) {
            off = fmax(off, fabs(out[i] - exp((double)in->a[i] - max) / sum));
            total += out[i];
        }
        h_check(off <= 1e-6 && fabs(total - 1) < 1e-5, "softmax n %zu: off by %g", n, off);
        bool same = true;
        for (int f = ADD; f <= TO_F16; f++) {
            if (f == SOFTMAX || f == SILU || f == GELU) continue;
            call(v, f, in, n, out);
            for (size_t i = 0; i < n; i++) {
                const float a = in->a[i], b = in->b[i], ra = a > 0 ? a : 0, rb = b > 0 ? b : 0;
                same &= out[i] == (f == ADD      ? a + b
                                   : f == RELU     ? ra * b
                                   : f == DRELU    ? ra * rb
                                                   : sg_f16_to_f32(sg_f32_to_f16(a)));
            }
            h_check(same, "%s n %zu", fn_names[f], n);
        }
    }
}

/* Turning and the online softmax against double precision. */
static void check_attention_parts(const sg_vec_fns *v, inputs *in) {
    for (int round = 0; round < 60; round++) {
        const size_t n = 2 * (1 + h_below(MAX_N / 2)), half = n / 2;
        float out[MAX_N + 1];
        fill_inputs(in, 0);
        for (int adjacent = 0; adjacent < 2; adjacent++) {
            call(v, adjacent ? ROPE_ADJACENT : ROPE_HALVES, in, n, out);
            double off = 0;
            for (size_t i = 0; i < n; i++) {
                const size_t j = adjacent ? i ^ 1 : (i + half) % n;
                const double x = (double)in->a[i] * in->b[i], y = (double)in->a[j] * in->c[i];
                off = fmax(off, fabs(out[i] - x - y) - (fabs(x) + fabs(y)) * 2e-7);
            }
            h_check(off <= 0, "%s n %zu", fn_names[adjacent ? ROPE_ADJACENT : ROPE_HALVES], n);
        }
        const size_t cut = 1 + h_below((uint32_t)n - 1); /* two blocks one after the other */
        float max = -INFINITY, sum = 0;
        memcpy(out, in->a, sizeof out);
        float keep = v->attend.softmax(out, cut, &max, &sum);
        h_check(keep == 0, "attend.softmax keeps %g of nothing", keep);
        keep = v->attend.softmax(out + cut, n - cut, &max, &sum);
        double top = -1e30, total = 0, off = 0;
        for (size_t i = 0; i < n; i++) top = fmax(top, (double)in->a[i]);
        for (size_t i = 0; i < n; i++) {
            const double e = exp((double)in->a[i] - top);
            off = fmax(off, fabs((i < cut ? out[i] * keep : out[i]) - e));
            total += e;
        }
        h_check(max == (float)top && off < 4e-7 && fabs(sum - total) < 1e-5 * total, "attend.softmax n %zu: off by %g", n, off);
    }
}

/* attend.weigh: against the reference tier to the bit, and that one against double precision. */
static void check_weigh(const sg_vec_fns *ref, const sg_vec_fns *v, const char *tier) {
    static const sg_dtype types[SG_KV_TYPES] = { [SG_KV_F16] = SG_DTYPE_F16, [SG_KV_F32] = SG_DTYPE_F32,
                                                 [SG_KV_Q8_0] = SG_DTYPE_Q8_0 };
    for (int round = 0; round < 120; round++) {
        const int type = round % SG_KV_TYPES;
        const uint32_t dim = type == SG_KV_Q8_0 ? 32 * (1 + h_below(5)) : 1 + h_below(200);
        const uint32_t rows = 1 + h_below(12), n_keys = 1 + h_below(64), ldp = 64 + h_below(3);
        const size_t sums = (size_t)rows * dim, bytes = (size_t)sg_dtype_bytes(sg_dtype_get(types[type]), (uint64_t)n_keys * dim);
        float *p = h_alloc((size_t)rows * ldp * 4, 4), *want = h_alloc(sums * 4, 4), *got = h_alloc(sums * 4, 4),
              *exact = h_alloc(sums * 4, 0), *values = h_alloc((size_t)n_keys * dim * 4, 0), keep[12];
        char *packed = h_alloc(bytes, 1);
        h_blocks(types[type], packed, (size_t)n_keys * dim, round % 7 == 6 ? 3 : 0);
        sg_dequantize(types[type], packed, values, (size_t)n_keys * dim);
        for (size_t i = 0; i < (size_t)rows * ldp; i++) p[i] = h_uniform(0, 1);
        for (uint32_t r = 0; r < rows; r++) keep[r] = h_uniform(0, 1);
        for (size_t i = 0; i < sums; i++) want[i] = got[i] = exact[i] = h_normal();
        ref->attend.weigh[type](want, keep, p, ldp, rows, packed, n_keys, dim);
        v->attend.weigh[type](got, keep, p, ldp, rows, packed, n_keys, dim);
        const size_t i = h_differ(want, got, sums);
        h_check(i == sums, "%s attend.weigh[%d] rows %u keys %u dim %u: value %zu is %a, not %a", tier, type, rows, n_keys, dim, i,
                i < sums ? got[i] : 0, i < sums ? want[i] : 0);
        bool close = true;
        for (size_t s = 0; s < sums; s++) {
            double y = (double)exact[s] * keep[s / dim], size = fabs(y);
            for (uint32_t j = 0; j < n_keys; j++) {
                const double x = (double)p[s / dim * ldp + j] * values[(size_t)j * dim + s % dim];
                y += x;
                size += fabs(x);
            }
            close &= fabs(want[s] - y) <= size * 0x1p-23 * 34;
        }
        h_check(close, "attend.weigh[%d] of the reference is off", type);
        h_free(p, 4), h_free(want, 4), h_free(got, 4), h_free(exact, 0), h_free(values, 0), h_free(packed, 1);
    }
}

static void check_softmax_limits(const sg_vec_fns *v, const char *tier) {
    float x[20];
    for (int i = 0; i < 20; i++) x[i] = -INFINITY;
    v->softmax(x, 20);
    bool zero = true;
    for (int i = 0; i < 20; i++) zero &= x[i] == 0;
    h_check(zero, "%s softmax of -inf only", tier);
    for (int i = 0; i < 20; i++) x[i] = i % 2 ? -INFINITY : 1000;
    v->softmax(x, 20);
    h_check(x[0] == 0.1f && x[19] == 0 && x[18] == 0.1f, "%s softmax with -inf: %g, %g", tier, x[0], x[19]);
}

/* Values that a first-level cache holds. In-place functions work on `out` again and again, which keeps them finite. */
enum { BENCH_N = 2048, BENCH_CALLS = 64, BENCH_ROWS = 8, BENCH_KEYS = 64, BENCH_DIM = 128 };
typedef struct bench_data {
    float a[BENCH_N], b[BENCH_N], c[BENCH_N], out[BENCH_N], scores[BENCH_ROWS * BENCH_KEYS];
    float keys[BENCH_KEYS * BENCH_DIM], d[BENCH_N / 32];
    uint16_t halves[BENCH_N];
    int16_t sums[BENCH_N / 16];
    float dsum[BENCH_N / 32];
    int8_t q[BENCH_N];
    sg_acts acts;
} bench_data;

/* Bytes that a value costs, read and written; 0: counted in operations, attend.weigh. */
static const struct {
    const char *name;
    double bytes;
} bench_fns[] = { { "rmsnorm", 16 },       { "add", 12 },          { "softmax", 12 },       { "silu_mul", 12 },
                  { "gelu_mul", 12 },      { "relu_mul", 12 },     { "drelu_mul", 12 },     { "f32_to_f16", 6 },
                  { "rope (halves)", 16 }, { "rope (pairs)", 16 }, { "attend.softmax", 8 }, { "quantize_acts", 9.25 },
                  { "weigh F16", 0 },      { "weigh F32", 0 },     { "weigh Q8_0", 0 } };
enum { N_BENCH_FNS = sizeof bench_fns / sizeof *bench_fns };

static void bench_call(const sg_vec_fns *v, int f, bench_data *x) {
    static const float keep[BENCH_ROWS];
    float max = -INFINITY, sum = 0;
    switch (f) {
    case 0: v->rmsnorm(x->out, x->a, x->b, BENCH_N, 1e-5f); break;
    case 1: v->add(x->out, x->b, BENCH_N); break;
    case 2: v->softmax(x->out, BENCH_N); break;
    case 3: v->silu_mul(x->out, x->a, x->b, BENCH_N); break;
    case 4: v->gelu_mul(x->out, x->a, x->b, BENCH_N); break;
    case 5: v->relu_mul(x->out, x->a, x->b, BENCH_N); break;
    case 6: v->drelu_mul(x->out, x->a, x->b, BENCH_N); break;
    case 7: v->f32_to_f16(x->halves, x->a, BENCH_N); break;
    case 8: v->rope(x->out, x->b, x->c, BENCH_N, false); break;
    case 9: v->rope(x->out, x->b, x->c, BENCH_N, true); break;
    case 10: v->attend.softmax(x->out, BENCH_N, &max, &sum); break;
    case 11: v->quantize_acts(&x->acts, 0); break;
    default: /* the bytes of the keys do not matter: floats are valid halves and codes as well */
        v->attend.weigh[f - 12 == 0   ? SG_KV_F16
                        : f - 12 == 1 ? SG_KV_F32
                                      : SG_KV_Q8_0](x->out, keep, x->scores, BENCH_KEYS, BENCH_ROWS, x->keys,
                                                    BENCH_KEYS, BENCH_DIM);
        break;
    }
}

static void bench(const sg_kernels *k) {
    bench_data *x = h_alloc(sizeof *x, 0);
    for (int i = 0; i < BENCH_N; i++) {
        const float angle = h_uniform(0, 6);
        x->a[i] = h_normal();
        x->b[i] = cosf(angle);
        x->c[i] = sinf(angle);
    }
    for (int i = 0; i < BENCH_KEYS * BENCH_DIM; i++) x->keys[i] = 0.5f;
    for (int i = 0; i < BENCH_ROWS * BENCH_KEYS; i++) x->scores[i] = h_uniform(0, 1);
    x->acts = (sg_acts){ .n = 1, .k = BENCH_N, .n_blocks = BENCH_N / 32, .x = x->a, .q = x->q, .d = x->d, .sums = x->sums, .dsum = x->dsum };
    const double peak = h_peak(k->tier, SG_PEAK_F32);
    for (int f = 0; f < N_BENCH_FNS; f++) {
        double best = 1e9;
        for (int run = 0; run < 100; run++) {
            memcpy(x->out, x->a, sizeof x->out);
            const double start = h_seconds();
            for (int i = 0; i < BENCH_CALLS; i++) bench_call(&k->vec, f, x);
            best = fmin(best, (h_seconds() - start) / BENCH_CALLS);
        }
        const double rate = BENCH_N / best, ops = 2.0 * BENCH_ROWS * BENCH_KEYS * BENCH_DIM / best;
        if (bench_fns[f].bytes > 0)
            printf("%-12s %-14s %7.2f Gvalues/s %7.1f GB/s\n", k->tier, bench_fns[f].name, rate * 1e-9,
                   rate * bench_fns[f].bytes * 1e-9);
        else
            printf("%-12s %-14s %7.1f GOP/s     %5.1f %% of the F32 peak\n", k->tier, bench_fns[f].name, ops * 1e-9,
                   100 * ops / peak);
    }
    h_free(x, 0);
}

int main(int argc, char **argv) {
    h_init("vec");
    sg_kernels tiers[H_MAX_TIERS];
    const int n_tiers = h_tiers(tiers);
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        for (int t = 0; t < n_tiers; t++) bench(&tiers[t]);
        return 0;
    }
    inputs in = { h_alloc((MAX_N + 1) * 4, 4), h_alloc((MAX_N + 1) * 4, 4), h_alloc((MAX_N + 1) * 4, 4),
                  h_alloc((MAX_N + 1) * 2, 2), 0 };
    check_reference(&tiers[0].vec, &in);
    check_exp(&tiers[0].vec);
    check_attention_parts(&tiers[0].vec, &in);
    check_ones(&tiers[0].vec, &in);
    check_functions(&tiers[0].vec);
    check_sums(&tiers[0].vec);
    for (int t = 0; t < n_tiers; t++) {
        check_softmax_limits(&tiers[t].vec, tiers[t].tier);
        check_acts(&tiers[t], &tiers[0]);
        check_weigh(&tiers[0].vec, &tiers[t].vec, tiers[t].tier);
        check_recurrent(&tiers[0].vec, &tiers[t].vec, tiers[t].tier);
        if (t > 0) check_tier(&tiers[t], &tiers[0], &in);
        printf("tier %s\n", tiers[t].tier);
    }
    h_free(in.a, 4);
    h_free(in.b, 4);
    h_free(in.c, 4);
    h_free(in.h, 2);
    return h_finish();
}
