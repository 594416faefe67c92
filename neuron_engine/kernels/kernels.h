/* Kernel tables: what the engine calls, one implementation per instruction-set tier.
 *
 * THE RULE: the C reference defines the result, bit for bit, and every tier reproduces it: integer parts are exact, and each
 * output value is summed in one fixed order that does not depend on tile, thread, batch or tier. So the text of a model is the
 * same with any number of threads, whether a prompt is fed whole or token by token, and on other machines as far as their
 * C libraries agree about the rotary tables (rope.c).
 *
 * The order for one output row (one dot product of a weight row with an activation column), acc starting at +0:
 *   F32, F16, BF16 weights (activations F32):
 *       for k = 0, 1, ...: acc = fmaf(w[k], x[k], acc)
 *   quantised weights (activations: 8-bit blocks of 32, sg_acts): for every block b of 32 values in ascending order
 *       acc = fmaf((float)s, d, acc)   with s an exact int32 and d = dw * dx rounded once to F32
 *     where s = sum of q_w * q_x, q_w being the signed code (Q8_0: q; Q4_0: q-8; Q5_0: q-16; IQ4_NL, MXFP4: the integer of the
 *     codebook, MXFP4's doubled and the scale halved);
 *     then for Q4_1, Q5_1       acc = fmaf(F32(block m), dsum, acc)
 *   K-quants: for every super-block of 256 values in ascending order, u and v starting at +0, for each of its 8 blocks
 *       u = fmaf((float)s, dx, u)      with s the exact sum over the 16- or 32-wide sub-blocks of sub-scale * (sum of q_w * q_x)
 *       v = fmaf((float)min, dsum, v)  Q4_K, Q5_K
 *       v = fmaf((float)t, dx, v)      Q2_K, t being the exact sum over both sub-blocks of sub-min * (sum of q_x)
 *     and then
 *       acc = fmaf(F32(super-block d), u, acc)
 *       acc = fmaf(-F32(super-block dmin), v, acc)   for those with minima
 * A kernel that keeps one row per SIMD lane gets this order for free. Which NaN a result holds (sign, payload) is open. */
#ifndef SG_NE_KERNELS_H
#define SG_NE_KERNELS_H

#include "neuron_engine/kernels/neuron.h"
#include "runtime/base/cpu.h"
#include "runtime/base/dtype.h"

/* Activations of n tokens, k values each. The F32 form is always there; the 8-bit form only after vec.quantize_acts.
 * Block b of token t: values q[t*k + 32*b ..+32), scale d[t*n_blocks + b], sums of 16 values each in
 * sums[2*(t*n_blocks + b)], sums[.. + 1], and dsum[t*n_blocks + b] = d * the sum of all 32, rounded once. q, d, sums, dsum are
 * 64-byte aligned. k need not be a multiple of 32 for the F32 form. */
typedef struct sg_acts {
    uint32_t n, k, n_blocks; /* n_blocks = k / 32 */
    const float *x;          /* [n][k] */
    int8_t *q;               /* [n][k] */
    float *d;                /* [n][n_blocks] */
    int16_t *sums;           /* [n][n_blocks][2] */
    float *dsum;             /* [n][n_blocks] */
    /* what q leaves out, in the same form; NULL: not wanted. Kernels do not look at it (neuron_engine/acts.h) */
    int8_t *rest_q;
    float *rest_d;
    int16_t *rest_sums;
    float *rest_dsum;
} sg_acts;

/* y[t][r] = sum over k of W[r][k] * a[t][k], for row0 <= r < row1 and all tokens t of `a`.
 * W: packed weights of the whole matrix; y: [n][ldy], entry r of a token at y[t*ldy + r]. Rows outside stay untouched.
 * No aliasing. Thread-safe for disjoint row ranges; cannot fail. */
typedef void (*sg_matmul_fn)(float *restrict y, size_t ldy, const void *restrict w, const sg_acts *restrict a,
                             uint32_t row0, uint32_t row1);

/* Everything that must agree about one weight type in one tier: the packed layout and the functions that read it. */
typedef struct sg_mat_kernel {
    const char *name; /* "q4_0_avx2" */
    sg_dtype type;    /* of the unpacked (GGUF) rows */
    bool acts_q8;     /* reads the 8-bit form of the activations; else F32 */
    uint32_t mr;      /* rows per tile: row0 is a multiple of mr, row1 too unless it is the last row of the matrix */
    uint32_t layout;  /* identity of the packed layout: 0 = GGUF's own row-major blocks, else tiles of mr rows (tile.h) */
    /* Bytes of the packed form of `rows` rows; NULL: same as unpacked. */
    size_t (*packed_bytes)(uint32_t rows, uint32_t k);
    /* dst = packed form of src; NULL when layout == 0 (weights are used as they are). */
    void (*pack)(void *restrict dst, const void *restrict src, uint32_t rows, uint32_t k);
    /* out[k] = row `row` of the packed matrix as F32, exactly as sg_dequantize gives it; NULL when layout == 0. */
    void (*unpack_row)(float *restrict out, const void *restrict w, uint32_t row, uint32_t k);
    sg_matmul_fn gemv; /* n == 1 */
    sg_matmul_fn gemm; /* n >= 1 */
} sg_mat_kernel;

#define SG_KV_TYPES 3 /* of sg_kv_type */

/* The two halves of a block of attention behind its scores (attention.h). */
typedef struct sg_attend_fns {
    /* One row of scores s[n], n >= 1, joins an online softmax (arXiv 1805.02867, algorithm 3): *max becomes the new maximum, s
     * becomes exp(s - *max), *sum is rescaled and takes their sum. Returns the factor for what was summed up so far. While
     * all scores are -inf, s becomes 0 and nothing else changes. */
    float (*softmax)(float *s, size_t n, float *max, float *sum);
    /* For r < rows, i < dim: acc[r*dim + i] = acc[r*dim + i] * keep[r], then for j = 0 .. n_keys-1 ascending
     * acc = fmaf(p[r*ldp + j], v[j][i], acc). v: n_keys rows of `dim` values one behind the other, by sg_kv_type: F16, F32, or
     * blocks of Q8_0 (dim % 32 == 0), whose value is code * scale rounded once. */
    void (*weigh[SG_KV_TYPES])(float *acc, const float *keep, const float *p, size_t ldp, uint32_t rows, const void *v,
                               uint32_t n_keys, uint32_t dim);
} sg_attend_fns;

#define SG_CONV_TAPS_MAX 8

/* A causal depthwise convolution over n tokens: out[t][c] = sum over taps j = 0 .. taps-1 ascending, from +0, of
 * fmaf(input of token t - (taps-1) + j, w[c][j], acc), then SiLU if `silu`. Inputs of tokens before the first of this call are in
 * the state, the oldest first; afterwards it holds the last taps-1 inputs, so tokens may come in any portions. */
typedef struct sg_conv_args {
    float *out;             /* [n][ld_out]; may be x if ld_out is ldx */
    const float *x;         /* [n][ldx] */
    float *state;           /* [taps-1][ld_state] */
    const float *w;         /* [channels][taps] */
    size_t ld_out, ldx, ld_state;
    uint32_t n, channels, taps; /* 1 <= taps <= SG_CONV_TAPS_MAX */
    bool silu;
} sg_conv_args;

/* The gated delta rule (arXiv 2412.06464, section 3) for one head and n tokens one after the other. With S the state, decayed,
 * that is S[i][j] * decay, rounded: d[j] = (v[j] - sum over i ascending, from +0, of fmaf(S[i][j], k[i], acc)) * beta; then
 * S[i][j] = fmaf(k[i], d[j], S[i][j]); out[j] = sum over i ascending, from +0, of fmaf(S[i][j], q[i], acc). */
typedef struct sg_delta_args {
    float *state;              /* [dk][dv] */
    float *out;                /* [n][ld_out], dv values each; may be v if ld_out is ld_v */
    const float *q, *k;        /* [n][ld_qk], dk values each */
    const float *v;            /* [n][ld_v] */
    const float *decay, *beta; /* of token t at t * ld_gates */
    size_t ld_out, ld_qk, ld_v, ld_gates;
    uint32_t n, dk, dv;
} sg_delta_args;

/* Vector operations. The same rule holds: reductions run over 16 fixed lanes (value i goes to lane i % 16), which are then
 * added pairwise ((0+8)(1+9).. then +4, +2, +1); products and sums are rounded separately unless fmaf is written. Every pointer
 * may be unaligned; out may be any of the inputs. exp and what is computed from it are our own functions, within a few units in
 * the last place. */
typedef struct sg_vec_fns {
    /* out = x / sqrt(mean(x^2) + eps) * w; w may be NULL (ones). */
    void (*rmsnorm)(float *out, const float *x, const float *w, size_t n, float eps);
    /* out = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * w + b; w (ones) and b (zeros) may be NULL. */
    void (*layernorm)(float *out, const float *x, const float *w, const float *b, size_t n, float eps);
    void (*l2norm)(float *out, const float *x, size_t n, float eps);       /* x / max(sqrt(sum(x^2)), eps) */
    void (*add)(float *y, const float *x, size_t n);                       /* y += x */
    void (*axpy)(float *y, const float *x, size_t n, float factor);        /* y = fmaf(x, factor, y) */
    void (*scale)(float *x, size_t n, float factor);                       /* x *= factor */
    void (*mul)(float *out, const float *a, const float *b, size_t n);     /* a * b */
    /* In place: x = exp(x - max) / sum; n >= 1. -inf gives 0; all -inf gives 0 everywhere. */
    void (*softmax)(float *x, size_t n);
    /* Activations. `up` may be NULL: ones. (max(x,0)^2 is drelu_mul with x twice.) */
    void (*silu_mul)(float *out, const float *gate, const float *up, size_t n);     /* silu(gate) * up */
    void (*gelu_mul)(float *out, const float *gate, const float *up, size_t n);     /* gelu(gate) * up, the tanh form */
    void (*relu_mul)(float *out, const float *gate, const float *up, size_t n);     /* max(gate,0) * up */
    void (*drelu_mul)(float *out, const float *gate, const float *up, size_t n);    /* max(gate,0) * max(up,0) */
    void (*gelu_erf_mul)(float *out, const float *gate, const float *up, size_t n); /* gelu(gate) * up, the exact form */
    /* g sigmoid(1.702 g) (u + 1) with g = min(gate, 7), u = up within -7 .. 7 */
    void (*oai_mul)(float *out, const float *gate, const float *up, size_t n);
    void (*sigmoid_mul)(float *out, const float *gate, const float *x, size_t n); /* sigmoid(gate) * x; x as `up` */
    void (*softcap)(float *x, size_t n, float cap);                               /* x = cap * tanh(x / cap), cap > 0 */
    void (*exp)(float *out, const float *x, size_t n);
    void (*softplus)(float *out, const float *x, size_t n); /* log(1 + e^x) */
    void (*conv)(const sg_conv_args *a);
    void (*delta)(const sg_delta_args *a);
    void (*f32_to_f16)(uint16_t *out, const float *x, size_t n);
    /* Turns x[n], n even, in place: x[i] = x[i] * cos[i] + x[partner of i] * sin[i]; partners are i ^ 1 when `adjacent`,
     * else i + n/2 modulo n. cos, sin: [n], the sign of the rotation in sin. */
    void (*rope)(float *x, const float *cos, const float *sin, size_t n, bool adjacent);
    sg_attend_fns attend;
    /* Fills q, d, sums, dsum of token t from its F32 row: d = max|x| / 127, q = round to nearest even(x / d), 0 when d is 0, at
     * most 127 in size (a subnormal d is so coarse that x / d may pass it). a->k % 32 == 0. NaN counts as 0, infinities as the
     * largest float. */
    void (*quantize_acts)(sg_acts *a, uint32_t t);
} sg_vec_fns;

/* A tier: one table, immutable. */
typedef struct sg_kernels {
    const char *tier; /* "ref", "avx2", "avxvnni", "avx512", "avx512vnni", "neon", "dotprod", "i8mm" */
    sg_vec_fns vec;
    const sg_mat_kernel *mat[SG_DTYPE_LIMIT];       /* by sg_dtype; NULL for no such type */
    const sg_neuron_kernel *neuron[SG_DTYPE_LIMIT]; /* F32, F16, Q8_0, Q4_0; NULL for the others */
} sg_kernels;

/* Fills *out with the best functions for `flags` (sg_cpu_detect, perhaps masked): starts from the reference and lets each
 * tier that the flags allow overwrite what it does better. */
void sg_kernels_init(sg_kernels *out, uint32_t flags);

#endif
