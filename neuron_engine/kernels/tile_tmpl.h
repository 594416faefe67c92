/* Matrix kernels on tiles (tile.h), written once over the vector operations of a tier. Included after a header that
 * defines
 *
 *     MR                    rows per tile = 32-bit lanes of a vector
 *     NT                    most tokens per pass over a tile, 8 or 4
 *     TIER                  name of the tier without quotes
 *     vu, vi, vf            uint32, int32, float vectors of MR lanes (GCC vector extension)
 *     SIGNED_BIAS           what must be added to signed codes before `dot` takes them, 0 or 128
 *     fma_v(a, b, c)        a * b + c, rounded once
 *     halves(p)             MR IEEE halves at p as floats
 *     bytes(p), words16(p)  MR bytes, 16-bit words at p, zero-extended
 *     broadcast(p)          the 4 bytes at p in every lane
 *     lookup(table, i)      byte-wise table[i], i < 16, the 16-byte table repeated in the vector
 *     madd16(a, b)          per lane the sum of two products of signed 16-bit numbers
 *     dot(c, x, from, to, top, init)
 *                           init + sum over groups g = from .. to-1 of the four products of bytes of c[g] and of
 *                           broadcast(x + 4g), x signed and not -128; c unsigned and <= top, or signed when top < 0.
 *                           Exact.
 *
 * and, where two tokens at once are cheaper than one by one, PAIRS and
 *
 *     pair_codes(c, bias)   c[g] - bias as signed bytes, in the order that dot_pair wants
 *     dot_pair(c, x0, x1, from, to, s)
 *                           s[0], s[1] = what `dot` gives from 0 for x0 and for x1, c from pair_codes. Exact.
 *
 * and, where kernels of their own serve quantised types, TILE_STREAMS (x86/gemv_avx2.h: one token) and TILE_PANELS
 * (x86/panel_avx2.h: more than two).
 *
 * A 32-value block of a tile is 8 vectors of codes, vector g holding values 4g .. 4g + 3 of each row. */
#include <string.h>

#include "neuron_engine/kernels/kernels.h"
#include "neuron_engine/kernels/tile.h"
#include "neuron_engine/quant_blocks.h"

#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* Tokens that share one walk through the tiles: their activations (64 KiB per 1024 values of k) stay in the
 * second-level cache, while each tile is read once per walk. */
#define TOKENS_PER_WALK 64

/* Vectors in memory: any alignment, any type. Not memcpy, which makes GCC keep the vector itself in memory. */
typedef vu vu_mem __attribute__((aligned(1), may_alias));
typedef vf vf_mem __attribute__((aligned(1), may_alias));

INL vu load_u(const uint8_t *p) { return *(const vu_mem *)p; }

INL vf splat_f(float f) { return f - (vf) { 0 }; } /* -0 + 0 would lose the sign */
INL vu splat_u(uint32_t u) { return (vu) { 0 } + u; }
INL vf to_float(vi v) { return __builtin_convertvector(v, vf); }

/* Codes and scales of one block of 32, as all tokens of a pass use them. Unused members cost nothing. */
typedef struct block {
    vu c[8];
    vf d, dm;      /* scale; minimum of Q4_1, Q5_1; K types: of the super-block, the factor of the minima with its sign */
    vf sub0, sub1; /* sub-scales of the two halves; sub0 for both in Q4_K, Q5_K */
    vi k0, k1;     /* the same as integers */
    vu mins;       /* Q2_K: pair of 16-bit factors of the two activation sums */
    vf min;        /* Q4_K, Q5_K: factor of dsum */
} block;

/* The sums of one token. K types: u and v of the super-block. */
typedef struct token_sums {
    vf acc, u, v;
} token_sums;

/* What the code needs to know of a type besides decode; folded at compile time. */
INL int is_k(int type) { return type >= SG_DTYPE_Q2_K && type <= SG_DTYPE_Q6_K; }
INL int has_min(int type) {
    return type == SG_DTYPE_Q4_1 || type == SG_DTYPE_Q5_1 || type == SG_DTYPE_Q2_K || type == SG_DTYPE_Q4_K ||
           type == SG_DTYPE_Q5_K;
}
INL int n_sub(int type) {
    return type == SG_DTYPE_Q4_K || type == SG_DTYPE_Q5_K                            ? 1
           : type == SG_DTYPE_Q2_K || type == SG_DTYPE_Q3_K || type == SG_DTYPE_Q6_K ? 2
                                                                                     : 0;
}
/* Stored code - bias = signed code. */
INL int bias_of(int type) {
    switch (type) {
    case SG_DTYPE_Q8_0:
    case SG_DTYPE_IQ4_NL: return SIGNED_BIAS;
    case SG_DTYPE_Q4_0: return 8;
    case SG_DTYPE_MXFP4: return 12;
    case SG_DTYPE_Q5_0: return 16;
    case SG_DTYPE_Q3_K: return 4;
    case SG_DTYPE_Q6_K: return 32;
    default: return 0;
    }
}
/* Largest stored code, -1 when signed. */
INL int top_of(int type) {
    switch (type) {
    case SG_DTYPE_Q8_0:
    case SG_DTYPE_IQ4_NL: return SIGNED_BIAS ? 255 : -1;
    case SG_DTYPE_MXFP4: return 24;
    case SG_DTYPE_Q5_0:
    case SG_DTYPE_Q5_1:
    case SG_DTYPE_Q5_K: return 31;
    case SG_DTYPE_Q2_K: return 3;
    case SG_DTYPE_Q3_K: return 7;
    case SG_DTYPE_Q6_K: return 63;
    default: return 15;
    }
}

/* Nibbles of a simple type: granule g holds group g in its low and group g + 4 in its high nibbles. */
INL void nibbles(vu c[8], const uint8_t *qs) {
    UNROLL for (int g = 0; g < 4; g++) {
        const vu v = load_u(qs + 4 * MR * g);
        c[g] = v & 0x0f0f0f0fu;
        c[g + 4] = v >> 4 & 0x0f0f0f0fu;
    }
}

/* Adds bit g of each byte of the transposed word as bit 4 of group g. */
INL void fifth_bits(vu c[8], const uint8_t *qh) {
    const vu h = load_u(qh);
    UNROLL for (int g = 0; g < 8; g++) c[g] |= (g < 4 ? h << (4 - g) : h >> (g - 4)) & 0x10101010u;
}

/* Codebooks as `lookup` wants them, with the bias added. */
#define FOUR_TIMES(...)                                                                                                \
    { __VA_ARGS__, __VA_ARGS__, __VA_ARGS__, __VA_ARGS__ }
#define B SIGNED_BIAS
static const uint8_t iq4_nl_table[64] = FOUR_TIMES(
    (uint8_t)(B - 127), (uint8_t)(B - 104), (uint8_t)(B - 83), (uint8_t)(B - 65), (uint8_t)(B - 49), (uint8_t)(B - 35),
    (uint8_t)(B - 22), (uint8_t)(B - 10), B + 1, B + 13, B + 25, B + 38, B + 53, B + 69, B + 89, B + 113);
#undef B
static const uint8_t mxfp4_table[64] = FOUR_TIMES(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0);

INL vf e8m0_half(const uint8_t *p) {
    const vu e = bytes(p), tiny = (vu)(e < 2u), small = splat_u(0x00200000u) << (e & 1u);
    return (vf)((tiny & small) | (~tiny & ((e - 1u) << 23)));
}

INL void decode_simple(int type, const uint8_t *w, block *b) {
    b->d = type == SG_DTYPE_MXFP4 ? e8m0_half(w) : halves(w);
    if (has_min(type)) b->dm = halves(w + MR * SG_T_Q4_1_M);
    switch (type) {
    case SG_DTYPE_Q8_0:
        UNROLL for (int g = 0; g < 8; g++) b->c[g] =
            load_u(w + MR * (SG_T_Q8_0_QS + 4 * g)) ^ (SIGNED_BIAS ? 0x80808080u : 0u);
        break;
    case SG_DTYPE_Q4_0: nibbles(b->c, w + MR * SG_T_Q4_0_QS); break;
    case SG_DTYPE_Q4_1: nibbles(b->c, w + MR * SG_T_Q4_1_QS); break;
    case SG_DTYPE_Q5_0:
        nibbles(b->c, w + MR * SG_T_Q5_0_QS);
        fifth_bits(b->c, w + MR * SG_T_Q5_0_QH);
        break;
    case SG_DTYPE_Q5_1:
        nibbles(b->c, w + MR * SG_T_Q5_1_QS);
        fifth_bits(b->c, w + MR * SG_T_Q5_1_QH);
        break;
    case SG_DTYPE_IQ4_NL:
    case SG_DTYPE_MXFP4: {
        const bool iq4 = type == SG_DTYPE_IQ4_NL;
        const vu table = load_u(iq4 ? iq4_nl_table : mxfp4_table);
        nibbles(b->c, w + MR * (iq4 ? SG_T_IQ4_NL_QS : SG_T_MXFP4_QS));
        UNROLL for (int g = 0; g < 8; g++) b->c[g] = lookup(table, b->c[g]);
        break;
    }
    default: break;
    }
}

INL void set_sub(block *b, vi k0, vi k1) {
    b->k0 = k0;
    b->k1 = k1;
    b->sub0 = to_float(k0);
    b->sub1 = to_float(k1);
}

/* Byte i (0..3) of every word, unsigned and signed. */
INL vu byte_u(vu w, int i) { return w >> (8 * i) & 0xffu; }
INL vi byte_s(vu w, int i) { return (vi)(w << (24 - 8 * i)) >> 24; }

/* Scale and minimum of sub-block j of Q4_K and Q5_K, four at a time in the bytes of words; see sg_k4_scales. */
INL void k4_scales(const uint8_t *s, int j, block *b) {
    const vu w0 = load_u(s), w1 = load_u(s + 4 * MR), w2 = load_u(s + 8 * MR);
    const vu scales = j < 4 ? w0 & 0x3f3f3f3fu : (w2 & 0x0f0f0f0fu) | (w0 >> 2 & 0x30303030u);
    const vu mins = j < 4 ? w1 & 0x3f3f3f3fu : (w2 >> 4 & 0x0f0f0f0fu) | (w1 >> 2 & 0x30303030u);
    set_sub(b, (vi)byte_u(scales, j & 3), (vi) { 0 });
    b->min = to_float((vi)byte_u(mins, j & 3));
}

/* Scale i (0..15) of Q3_K. */
INL vi q3_k_scale(const uint8_t *s, int i) {
    const vu low = load_u(s + 4 * MR * (i >> 2 & 1)) >> (8 * (i & 3) + (i < 8 ? 0 : 4)) & 15u;
    const vu high = load_u(s + 8 * MR) >> (8 * (i & 3) + 2 * (i >> 2)) & 3u;
    return (vi)(low | high << 4) - 32;
}

/* Sub-block j (32 values) of a super-block: codes, sub-scales, minima. */
INL void decode_k(int type, const uint8_t *w, int j, block *b) {
    if (type == SG_DTYPE_Q4_K || type == SG_DTYPE_Q5_K) {
        const uint8_t *qs = w + MR * ((type == SG_DTYPE_Q4_K ? SG_T_Q4_K_QS : SG_T_Q5_K_QS) + j / 2 * 32);
        const int shift = 4 * (j & 1);
        k4_scales(w + MR * SG_T_Q4_K_SCALES, j, b);
        UNROLL for (int g = 0; g < 8; g++) {
            b->c[g] = load_u(qs + 4 * MR * g) >> shift & 0x0f0f0f0fu;
            if (type == SG_DTYPE_Q5_K) b->c[g] |= (load_u(w + MR * (SG_T_Q5_K_QH + 4 * g)) >> j & 0x01010101u) << 4;
        }
        return;
    }
    const int half = j / 4, part = j & 3;
    if (type == SG_DTYPE_Q6_K) {
        const uint8_t *qh = w + MR * (SG_T_Q6_K_Q + half * 96), *ql = qh + MR * 4 * (1 + (part & 1));
        const int shift = 4 * (part >> 1), shift2 = 2 * part;
        const vu scales = load_u(w + MR * (SG_T_Q6_K_SCALES + j / 2 * 4));
        set_sub(b, byte_s(scales, 2 * (j & 1)), byte_s(scales, 2 * (j & 1) + 1));
        UNROLL for (int g = 0; g < 8; g++) {
            const vu low = load_u(ql + 12 * MR * g) >> shift & 0x0f0f0f0fu;
            b->c[g] = low | (load_u(qh + 12 * MR * g) >> shift2 & 0x03030303u) << 4;
        }
    } else if (type == SG_DTYPE_Q3_K) {
        const uint8_t *qs = w + MR * (SG_T_Q3_K_QS + half * 32);
        set_sub(b, q3_k_scale(w + MR * SG_T_Q3_K_SCALES, 2 * j), q3_k_scale(w + MR * SG_T_Q3_K_SCALES, 2 * j + 1));
        UNROLL for (int g = 0; g < 8; g++) {
            const vu high = load_u(w + MR * (SG_T_Q3_K_QH + 4 * g)) >> j & 0x01010101u;
            b->c[g] = (load_u(qs + 4 * MR * g) >> (2 * part) & 0x03030303u) | high << 2;
        }
    } else { /* Q2_K: scale in the low, minimum in the high nibble */
        const uint8_t *qs = w + MR * (SG_T_Q2_K_QS + half * 32);
        const vu scales = load_u(w + MR * (SG_T_Q2_K_SCALES + j / 2 * 4)) >> (16 * (j & 1));
        set_sub(b, (vi)(scales & 15u), (vi)(scales >> 8 & 15u));
        b->mins = (scales >> 4 & 15u) | (scales >> 12 & 15u) << 16;
        UNROLL for (int g = 0; g < 8; g++) b->c[g] = load_u(qs + 4 * MR * g) >> (2 * part) & 0x03030303u;
    }
}

/* The float lines of the rule in kernels.h for block i of the activations of one token, f being the float of s. */
INL void float_step(int type, const block *b, const sg_acts *a, size_t i, vf f, token_sums *to) {
    const float dx = a->d[i];
    if (!is_k(type)) {
        to->acc = fma_v(f, b->d * dx, to->acc);
        if (has_min(type)) to->acc = fma_v(b->dm, splat_f(a->dsum[i]), to->acc);
        return;
    }
    to->u = fma_v(f, splat_f(dx), to->u);
    if (type == SG_DTYPE_Q2_K) to->v = fma_v(to_float(madd16(broadcast(a->sums + 2 * i), b->mins)), splat_f(dx), to->v);
    else if (has_min(type)) to->v = fma_v(b->min, splat_f(a->dsum[i]), to->v);
}

/* The lines at the end of a super-block. */
INL void end_super(int type, const block *b, token_sums *to) {
    to->acc = fma_v(b->d, to->u, to->acc);
    if (has_min(type)) to->acc = fma_v(b->dm, to->v, to->acc);
    to->u = to->v = (vf) { 0 };
}

/* Block i of one token. The integers stay below 2^24, so a sub-scale may be multiplied in F32. That can make -0 of an integer
 * zero, which no result shows: u is never -0, since it starts as +0 and an integer times an F32 scale does not underflow. */
INL void token_step(int type, const block *b, const sg_acts *a, size_t i, token_sums *to) {
    const int bias = bias_of(type), top = top_of(type);
    const int8_t *q = a->q + i * SG_BLOCK;
    const vu s = broadcast(a->sums + 2 * i);
    vf f;
    if (n_sub(type) == 2) {
        const vi i0 = bias ? madd16(s, splat_u((uint32_t)-bias & 0xffff)) : (vi) { 0 };
        const vi i1 = bias ? madd16(s, splat_u((uint32_t)-bias << 16)) : (vi) { 0 };
        const vf f0 = to_float(dot(b->c, q, 0, 4, top, i0)), f1 = to_float(dot(b->c, q, 4, 8, top, i1));
        f = fma_v(f1, b->sub1, f0 * b->sub0);
    } else {
        const vi init = bias ? madd16(s, splat_u(((uint32_t)-bias & 0xffff) | (uint32_t)-bias << 16)) : (vi) { 0 };
        f = to_float(dot(b->c, q, 0, 8, top, init));
        if (n_sub(type) == 1) f *= b->sub0;
    }
    float_step(type, b, a, i, f, to);
}

#ifdef PAIRS
/* token_step for two tokens; the bias has left the codes. */
INL void pair_step(int type, const block *b, const sg_acts *a, size_t i, token_sums to[2]) {
    const size_t i1 = i + a->n_blocks;
    const int8_t *q = a->q + i * SG_BLOCK, *q1 = a->q + i1 * SG_BLOCK;
    vi s0[2], s1[2];
    dot_pair(b->c, q, q1, 0, n_sub(type) == 2 ? 4 : 8, s0);
    if (n_sub(type) == 2) dot_pair(b->c, q, q1, 4, 8, s1);
    UNROLL for (int t = 0; t < 2; t++) {
        vf f = to_float(s0[t]);
        if (n_sub(type) > 0) f *= b->sub0;
        if (n_sub(type) == 2) f = fma_v(to_float(s1[t]), b->sub1, f);
        float_step(type, b, a, t ? i1 : i, f, &to[t]);
    }
}
#endif

/* MR results of a tile, or the first `rows` of them. */
INL void store_rows(float *y, vf v, uint32_t rows) {
    if (rows == MR) {
        *(vf_mem *)y = v;
        return;
    }
    float t[MR];
    *(vf_mem *)t = v;
    for (uint32_t r = 0; r < rows; r++) y[r] = t[r];
}

/* Weights of one token come straight from memory. The processor's own prefetching stops at page borders and is led
 * astray by lines that are read twice, so each block asks for the bytes that lie PREFETCH_AHEAD behind its own. */
#define PREFETCH_AHEAD 4096
INL void prefetch(const uint8_t *w, size_t n) {
    UNROLL for (size_t i = 0; i < n; i += 64) __builtin_prefetch(w + PREFETCH_AHEAD + i);
}

INL void quant_tile(int type, int nt, float *y, size_t ldy, const uint8_t *w, const sg_acts *a, uint32_t t0,
                    uint32_t rows) {
    const size_t nb = a->n_blocks, first = (size_t)t0 * nb, step = MR * (size_t)sg_block_bytes(type);
    token_sums to[8];
    UNROLL for (int t = 0; t < nt; t++) to[t] = (token_sums) { { 0 }, { 0 }, { 0 } };
    block b = { 0 };
    for (size_t i = 0; i < nb; w += step) {
        if (is_k(type)) {
            b.d = halves(w);
            if (has_min(type)) b.dm = -halves(w + MR * SG_T_Q4_K_DMIN);
        }
        for (int j = 0; j < (is_k(type) ? 8 : 1); j++, i++) {
            if (nt == 1) prefetch(w + j * (step / 8), is_k(type) ? step / 8 : step);
            if (is_k(type)) decode_k(type, w, j, &b);
            else decode_simple(type, w, &b);
#ifdef PAIRS
            if (nt > 1) {
                pair_codes(b.c, bias_of(type));
                UNROLL for (int t = 0; t < nt; t += 2) pair_step(type, &b, a, first + t * nb + i, &to[t]);
                continue;
            }
#endif
            UNROLL for (int t = 0; t < nt; t++) token_step(type, &b, a, first + t * nb + i, &to[t]);
        }
        if (!is_k(type)) continue;
        UNROLL for (int t = 0; t < nt; t++) end_super(type, &b, &to[t]);
    }
    UNROLL for (int t = 0; t < nt; t++) store_rows(y + t * ldy, to[t].acc, rows);
}

/* A vector of weights of F32, F16, BF16. */
INL vf float_weights(int type, const uint8_t *p) {
    if (type == SG_DTYPE_F16) return halves(p);
    if (type == SG_DTYPE_BF16) return (vf)(words16(p) << 16);
    return (vf)load_u(p);
}

/* nt tokens on `tiles` tiles at once: several chains of sums hide the latency of the fma. rows: of all these tiles. */
INL void float_tiles(int type, int tiles, int nt, float *y, size_t ldy, const uint8_t *w, const sg_acts *a, uint32_t t0,
                     uint32_t rows) {
    const size_t size = type == SG_DTYPE_F32 ? 4 : 2, step = (size_t)a->k * MR * size, k = a->k;
    const float *x = a->x + t0 * k;
    vf acc[4][8];
    UNROLL for (int i = 0; i < tiles; i++) UNROLL for (int t = 0; t < nt; t++) acc[i][t] = (vf) { 0 };
    for (size_t j = 0; j < k; j++, w += MR * size) {
        UNROLL for (int i = 0; i < tiles; i++) {
            const vf v = float_weights(type, w + i * step);
            UNROLL for (int t = 0; t < nt; t++) acc[i][t] = fma_v(v, splat_f(x[t * k + j]), acc[i][t]);
        }
    }
    UNROLL for (int i = 0; i < tiles; i++) {
        const uint32_t left = rows - (uint32_t)i * MR;
        UNROLL for (int t = 0; t < nt; t++) store_rows(y + t * ldy + i * MR, acc[i][t], left < MR ? left : MR);
    }
}

/* The functions of one type. One function per number of tokens, kept out of line: each is a page of unrolled code. */
#define KERNEL_COMMON(type_, lower, q8)                                                                                \
    static size_t bytes_##lower(uint32_t rows, uint32_t k) { return sg_tile_bytes(type_, MR, rows, k); }               \
    static void pack_##lower(void *restrict dst, const void *restrict src, uint32_t rows, uint32_t k) {                \
        sg_tile_pack(type_, MR, dst, src, rows, k);                                                                    \
    }                                                                                                                  \
    static void unpack_##lower(float *restrict out, const void *restrict w, uint32_t row, uint32_t k) {                \
        sg_tile_unpack_row(type_, MR, out, w, row, k);                                                                 \
    }                                                                                                                  \
    static const sg_mat_kernel kernel_##lower = {                                                                      \
        #lower "_" STRING(TIER), type_,        q8,          MR, MR, bytes_##lower, pack_##lower,                       \
        unpack_##lower,          gemv_##lower, gemm_##lower                                                            \
    };
#define STRING(x) STRING_(x)
#define STRING_(x) #x

#define OUTLINE static __attribute__((noinline))
typedef void (*tile_fn)(float *y, size_t ldy, const uint8_t *w, const sg_acts *a, uint32_t t0, uint32_t rows);

#define QUANT_TILE(type_, lower, nt)                                                                                   \
    OUTLINE void tile_##lower##_##nt(float *y, size_t ldy, const uint8_t *w, const sg_acts *a, uint32_t t0,            \
                                     uint32_t rows) {                                                                  \
        quant_tile(type_, nt, y, ldy, w, a, t0, rows);                                                                 \
    }

/* All tokens of a walk against the tiles of a row range; fns for 1, 2, 4, 8 tokens. */
static void walk_tiles(const tile_fn fns[4], uint32_t tiles_at_once, size_t row_bytes, float *y, size_t ldy,
                       const void *w, const sg_acts *a, uint32_t row0, uint32_t row1) {
    const uint32_t rows_at_once = tiles_at_once * MR;
    for (uint32_t walk = 0; walk < a->n; walk += TOKENS_PER_WALK) {
        const uint32_t end = a->n - walk < TOKENS_PER_WALK ? a->n : walk + TOKENS_PER_WALK;
        for (uint32_t r = row0; r < row1; r += rows_at_once) {
            const uint32_t rows = row1 - r < rows_at_once ? row1 - r : rows_at_once;
            const uint8_t *tile = (const uint8_t *)w + r * row_bytes;
            for (uint32_t t = walk; t < end;) {
                const int step = NT == 8 && end - t >= 8 ? 3 : end - t >= 4 ? 2 : end - t >= 2 ? 1 : 0;
                fns[step](y + (size_t)t * ldy + r, ldy, tile, a, t, rows);
                t += 1u << step;
            }
        }
    }
}

#if NT == 8
#define TILE_8(type_, lower) QUANT_TILE(type_, lower, 8)
#define TILE_8_NAME(lower) tile_##lower##_8
#else
#define TILE_8(type_, lower)
#define TILE_8_NAME(lower) NULL
#endif

#ifdef TILE_STREAMS
#include "neuron_engine/kernels/x86/gemv_avx2.h"
#else
#define GEMV_KERNEL(type_, lower)                                                                                      \
    static void gemv_##lower(float *restrict y, size_t ldy, const void *restrict w, const sg_acts *restrict a,         \
                             uint32_t row0, uint32_t row1) {                                                           \
        gemm_##lower(y, ldy, w, a, row0, row1);                                                                        \
    }
#endif

#ifdef TILE_PANELS
#include "neuron_engine/kernels/x86/panel_avx2.h"
#define TILE_4(type_, lower)
#define TILE_4_NAME(lower) NULL
#else
#define PANEL_KERNEL(type_, lower)
#define PANEL_GEMM(lower)
#define TILE_4(type_, lower) QUANT_TILE(type_, lower, 4)
#define TILE_4_NAME(lower) tile_##lower##_4
#endif

#define QUANT_KERNEL(type_, lower)                                                                                     \
    QUANT_TILE(type_, lower, 1)                                                                                        \
    QUANT_TILE(type_, lower, 2)                                                                                        \
    TILE_4(type_, lower)                                                                                               \
    TILE_8(type_, lower)                                                                                               \
    PANEL_KERNEL(type_, lower)                                                                                         \
    static void gemm_##lower(float *restrict y, size_t ldy, const void *restrict w, const sg_acts *restrict a,         \
                             uint32_t row0, uint32_t row1) {                                                           \
        PANEL_GEMM(lower)                                                                                              \
        static const tile_fn fns[4] = { tile_##lower##_1, tile_##lower##_2, TILE_4_NAME(lower), TILE_8_NAME(lower) };  \
        walk_tiles(fns, 1, (size_t)a->n_blocks *SG_BLOCK / sg_block_values(type_) * sg_block_bytes(type_), y, ldy, w,  \
                   a, row0, row1);                                                                                     \
    }                                                                                                                  \
    GEMV_KERNEL(type_, lower)                                                                                          \
    KERNEL_COMMON(type_, lower, true)

/* Float types: 4 tiles at a time for one token, 2 for several, what is left over singly. */
#define FLOAT_TILE(type_, lower, tiles, nt)                                                                            \
    OUTLINE void tile_##lower##_##tiles##_##nt(float *y, size_t ldy, const uint8_t *w, const sg_acts *a, uint32_t t0,  \
                                               uint32_t rows) {                                                        \
        float_tiles(type_, tiles, nt, y, ldy, w, a, t0, rows);                                                         \
    }
#if NT == 8
#define FLOAT_TILE_8(type_, lower) FLOAT_TILE(type_, lower, 1, 8) FLOAT_TILE(type_, lower, 2, 8)
#define FLOAT_TILE_8_NAME(lower, tiles) tile_##lower##_##tiles##_8
#else
#define FLOAT_TILE_8(type_, lower)
#define FLOAT_TILE_8_NAME(lower, tiles) NULL
#endif
#define FLOAT_FNS(lower, tiles)                                                                                        \
    {                                                                                                                  \
        tile_##lower##_##tiles##_1, tile_##lower##_##tiles##_2, tile_##lower##_##tiles##_4,                            \
            FLOAT_TILE_8_NAME(lower, tiles)                                                                            \
    }
#define FLOAT_KERNEL(type_, lower)                                                                                     \
    FLOAT_TILE(type_, lower, 1, 1)                                                                                     \
    FLOAT_TILE(type_, lower, 2, 1)                                                                                     \
    FLOAT_TILE(type_, lower, 4, 1)                                                                                     \
    FLOAT_TILE(type_, lower, 1, 2)                                                                                     \
    FLOAT_TILE(type_, lower, 2, 2)                                                                                     \
    FLOAT_TILE(type_, lower, 1, 4)                                                                                     \
    FLOAT_TILE(type_, lower, 2, 4)                                                                                     \
    FLOAT_TILE_8(type_, lower)                                                                                         \
    static void gemv_##lower(float *restrict y, size_t ldy, const void *restrict w, const sg_acts *restrict a,         \
                             uint32_t row0, uint32_t row1) {                                                           \
        const size_t row_bytes = (size_t)a->k * sg_block_bytes(type_);                                                 \
        for (uint32_t r = row0, left; r < row1; r += left) {                                                           \
            const uint8_t *tile = (const uint8_t *)w + r * row_bytes;                                                  \
            left = row1 - r;                                                                                           \
            if (left > 3 * MR)                                                                                         \
                tile_##lower##_4_1(y + r, ldy, tile, a, 0, left = left < 4 * MR ? left : 4 * MR);                      \
            else if (left > MR)                                                                                        \
                tile_##lower##_2_1(y + r, ldy, tile, a, 0, left = left < 2 * MR ? left : 2 * MR);                      \
            else                                                                                                       \
                tile_##lower##_1_1(y + r, ldy, tile, a, 0, left);                                                      \
        }                                                                                                              \
    }                                                                                                                  \
    static void gemm_##lower(float *restrict y, size_t ldy, const void *restrict w, const sg_acts *restrict a,         \
                             uint32_t row0, uint32_t row1) {                                                           \
        static const tile_fn one[4] = FLOAT_FNS(lower, 1), two[4] = FLOAT_FNS(lower, 2);                               \
        const size_t row_bytes = (size_t)a->k * sg_block_bytes(type_);                                                 \
        const uint32_t odd = (row1 - row0) % (2 * MR), mid = odd > MR ? row1 : row1 - odd;                             \
        walk_tiles(two, 2, row_bytes, y, ldy, w, a, row0, mid);                                                        \
        walk_tiles(one, 1, row_bytes, y, ldy, w, a, mid, row1);                                                        \
    }                                                                                                                  \
    KERNEL_COMMON(type_, lower, false)

FLOAT_KERNEL(SG_DTYPE_F32, f32)
FLOAT_KERNEL(SG_DTYPE_F16, f16)
FLOAT_KERNEL(SG_DTYPE_BF16, bf16)
QUANT_KERNEL(SG_DTYPE_Q8_0, q8_0)
QUANT_KERNEL(SG_DTYPE_Q4_0, q4_0)
QUANT_KERNEL(SG_DTYPE_Q4_1, q4_1)
QUANT_KERNEL(SG_DTYPE_Q5_0, q5_0)
QUANT_KERNEL(SG_DTYPE_Q5_1, q5_1)
QUANT_KERNEL(SG_DTYPE_Q2_K, q2_k)
QUANT_KERNEL(SG_DTYPE_Q3_K, q3_k)
QUANT_KERNEL(SG_DTYPE_Q4_K, q4_k)
QUANT_KERNEL(SG_DTYPE_Q5_K, q5_k)
QUANT_KERNEL(SG_DTYPE_Q6_K, q6_k)
QUANT_KERNEL(SG_DTYPE_IQ4_NL, iq4_nl)
QUANT_KERNEL(SG_DTYPE_MXFP4, mxfp4)

/* Puts this tier's matrix kernels into the table. */
static void set_tile_kernels(const sg_mat_kernel *mat[SG_DTYPE_LIMIT]) {
    static const sg_mat_kernel *const all[] = {
        &kernel_f32,  &kernel_f16,  &kernel_bf16, &kernel_q8_0,   &kernel_q4_0,
        &kernel_q4_1, &kernel_q5_0, &kernel_q5_1, &kernel_q2_k,   &kernel_q3_k,
        &kernel_q4_k, &kernel_q5_k, &kernel_q6_k, &kernel_iq4_nl, &kernel_mxfp4
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) mat[all[i]->type] = all[i];
}
