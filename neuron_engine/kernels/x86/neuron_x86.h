/* Neuron kernels in 256-bit vectors: eight lanes of 32 bits are what the rule for neurons (neuron.h) is made for. Included once
 * per tier after TIER is defined; with __AVXVNNI__, or __AVX512VNNI__ and __AVX512VL__, the integer products of the dot rows are
 * VPDPBUSD's. Needs AVX2, FMA and F16C. */
#include <immintrin.h>
#include <string.h>

#include "neuron_engine/kernels/kernels.h"
#include "neuron_engine/kernels/tile.h"

#define INL static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#define GROUP ((size_t)SG_LANES * SG_BLOCK) /* activation bytes of a group of blocks */
#define ROWS 4                              /* computed together: as many chains of sums, and streams from memory */
#define TOKENS 4                            /* of a prompt that share the codes of a row */

#if defined(__AVXVNNI__)
#define DPBUSD(s, c, x) _mm256_dpbusd_avx_epi32(s, c, x)
#elif defined(__AVX512VNNI__)
#define DPBUSD(s, c, x) _mm256_dpbusd_epi32(s, c, x)
#endif

INL __m256i load(const void *p) { return _mm256_loadu_si256(p); }
INL __m256 halves(const uint8_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p)); }
INL const uint8_t *row_at(const uint8_t *w, size_t stride, const uint32_t *rows, uint32_t i) { return w + (rows ? rows[i] : i) * stride; }

INL float sum_lanes(__m256 acc) {
    const __m128 s = _mm_add_ps(_mm256_castps256_ps128(acc), _mm256_extractf128_ps(acc, 1)); /* 0+4 1+5 2+6 3+7 */
    const __m128 t = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(t, _mm_shuffle_ps(t, t, 1)));
}

/* ---- dot rows ---- */

INL uint32_t group_bytes(sg_dtype type) { return SG_LANES * sg_block_bytes(type); }

/* The codes of a group as the products want them: Q4_0 unsigned, 8 too large; Q8_0 signed, or 128 too large for VPDPBUSD. */
INL void decode(sg_dtype type, const uint8_t *group, __m256i c[8]) {
    const uint8_t *codes = group + 2 * SG_LANES;
    const __m256i low = _mm256_set1_epi8(15);
    if (type == SG_DTYPE_Q4_0) {
        UNROLL for (int g = 0; g < 4; g++) {
            const __m256i v = load(codes + 32 * g);
            c[g] = _mm256_and_si256(v, low);
            c[g + 4] = _mm256_and_si256(_mm256_srli_epi16(v, 4), low);
        }
        return;
    }
    UNROLL for (int g = 0; g < 8; g++) {
        c[g] = load(codes + 32 * g);
#ifdef DPBUSD
        c[g] = _mm256_xor_si256(c[g], _mm256_set1_epi8(-128));
#endif
    }
}

/* Sums of the blocks of a group, exact. */
INL __m256i block_sums(sg_dtype type, const __m256i c[8], const int8_t *q, const int32_t *sum) {
    const __m256i total = load(sum);
#ifdef DPBUSD
    __m256i s = _mm256_setzero_si256(), s1 = s; /* two chains */
    UNROLL for (int g = 0; g < 8; g += 2) {
        s = DPBUSD(s, c[g], load(q + 32 * g));
        s1 = DPBUSD(s1, c[g + 1], load(q + 32 * g + 32));
    }
    return _mm256_sub_epi32(_mm256_add_epi32(s, s1), _mm256_slli_epi32(total, type == SG_DTYPE_Q4_0 ? 3 : 7));
#else
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i s;
    if (type == SG_DTYPE_Q4_0) { /* 8 groups of two products of at most 15 * 127 fit into 16 bits */
        UNROLL for (int g = 0; g < 8; g++) {
            const __m256i p = _mm256_maddubs_epi16(c[g], load(q + 32 * g));
            s = g ? _mm256_add_epi16(s, p) : p;
        }
        return _mm256_sub_epi32(_mm256_madd_epi16(s, ones), _mm256_slli_epi32(total, 3));
    }
    UNROLL for (int g = 0; g < 8; g++) { /* |c| * 127 * 2 just fits */
        const __m256i p = _mm256_maddubs_epi16(_mm256_abs_epi8(c[g]), _mm256_sign_epi8(load(q + 32 * g), c[g]));
        const __m256i wide = _mm256_madd_epi16(p, ones);
        s = g ? _mm256_add_epi32(s, wide) : wide;
    }
    return s;
#endif
}

INL __m256 add_group(sg_dtype type, __m256 acc, const uint8_t *group, const __m256i c[8], const sg_lane_acts *a, size_t at) {
    const __m256i s = block_sums(type, c, a->q + at * GROUP, a->sum + at * SG_LANES);
    const __m256 d = _mm256_mul_ps(halves(group), _mm256_loadu_ps(a->d + at * SG_LANES));
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(s), d, acc);
}

/* n rows and one token. `ahead`: rows that come next, or NULL; the system's own prefetching does not know them. */
INL void dot_blocks(sg_dtype type, int n, float *y, const uint8_t *const *row, const uint8_t *const *ahead, const sg_lane_acts *a, uint32_t t) {
    const size_t at = (size_t)t * a->n_groups, step = group_bytes(type);
    __m256 acc[ROWS];
    UNROLL for (int i = 0; i < n; i++) acc[i] = _mm256_setzero_ps();
    for (size_t g = 0, off = 0; g < a->n_groups; g++, off += step) {
        UNROLL for (int i = 0; i < n; i++) {
            __m256i c[8];
            if (ahead)
                for (size_t line = 0; line < step; line += 64) _mm_prefetch((const char *)ahead[i] + off + line, _MM_HINT_T1);
            decode(type, row[i] + off, c);
            acc[i] = add_group(type, acc[i], row[i] + off, c, a, at + g);
        }
    }
    UNROLL for (int i = 0; i < n; i++) y[i] = sum_lanes(acc[i]);
}

/* One row, n tokens from t on. */
INL void dot_block_tokens(sg_dtype type, int n, float *y, size_t ldy, const uint8_t *row, const sg_lane_acts *a, uint32_t t) {
    const size_t at = (size_t)t * a->n_groups;
    __m256 acc[TOKENS];
    UNROLL for (int i = 0; i < n; i++) acc[i] = _mm256_setzero_ps();
    for (size_t g = 0; g < a->n_groups; g++, row += group_bytes(type)) {
        __m256i c[8];
        decode(type, row, c);
        UNROLL for (int i = 0; i < n; i++) acc[i] = add_group(type, acc[i], row, c, a, at + i * (size_t)a->n_groups + g);
    }
    UNROLL for (int i = 0; i < n; i++) y[i * ldy] = sum_lanes(acc[i]);
}

INL __m256 float_lanes(sg_dtype type, const uint8_t *row, size_t k) {
    return type == SG_DTYPE_F16 ? halves(row + 2 * k) : _mm256_loadu_ps((const float *)(const void *)row + k);
}

INL void dot_floats(sg_dtype type, int n, float *y, const uint8_t *const *row, const sg_lane_acts *a, uint32_t t) {
    const float *x = a->x + (size_t)t * a->k;
    const uint32_t whole = a->k / SG_LANES * SG_LANES;
    __m256 acc[ROWS];
    UNROLL for (int i = 0; i < n; i++) acc[i] = _mm256_setzero_ps();
    for (uint32_t k = 0; k < whole; k += SG_LANES)
        UNROLL for (int i = 0; i < n; i++) acc[i] = _mm256_fmadd_ps(float_lanes(type, row[i], k), _mm256_loadu_ps(x + k), acc[i]);
    if (whole < a->k) {
        float last[SG_LANES] = { 0 };
        memcpy(last, x + whole, (a->k - whole) * sizeof *x);
        UNROLL for (int i = 0; i < n; i++) acc[i] = _mm256_fmadd_ps(float_lanes(type, row[i], whole), _mm256_loadu_ps(last), acc[i]);
    }
    UNROLL for (int i = 0; i < n; i++) y[i] = sum_lanes(acc[i]);
}

INL void dot_rows(sg_dtype type, bool quantised, int n, float *y, const uint8_t *const *row, const uint8_t *const *ahead, const sg_lane_acts *a,
                  uint32_t t) {
    if (quantised) dot_blocks(type, n, y, row, ahead, a, t);
    else dot_floats(type, n, y, row, a, t);
}

/* Listed rows, ROWS at a time, while the next ones are fetched. */
INL void dot_list(sg_dtype type, bool quantised, float *y, const uint8_t *w, size_t stride, const uint32_t *rows, uint32_t n,
                  const sg_lane_acts *a, uint32_t t) {
    const uint8_t *row[ROWS], *next[ROWS];
    uint32_t i = 0;
    for (uint32_t j = 0; j < ROWS && j < n; j++) next[j] = row_at(w, stride, rows, j);
    for (; i + ROWS <= n; i += ROWS) {
        for (uint32_t j = 0; j < ROWS; j++) row[j] = next[j];
        for (uint32_t j = 0; j < ROWS; j++) next[j] = i + ROWS + j < n ? row_at(w, stride, rows, i + ROWS + j) : row[j];
        dot_rows(type, quantised, ROWS, y + i, row, next, a, t);
    }
    for (; i < n; i++) {
        row[0] = row_at(w, stride, rows, i);
        dot_rows(type, quantised, 1, y + i, row, NULL, a, t);
    }
}

/* Neighbouring rows and one token: ROWS far apart from each other, as long streams from memory (see gemv_avx2.h). */
INL void dot_streams(sg_dtype type, bool quantised, float *y, const uint8_t *w, size_t stride, uint32_t n, const sg_lane_acts *a) {
    const uint32_t apart = n / ROWS;
    for (uint32_t i = 0; i < apart; i++) {
        const uint8_t *row[ROWS];
        float r[ROWS];
        for (uint32_t j = 0; j < ROWS; j++) row[j] = w + (j * apart + i) * stride;
        dot_rows(type, quantised, ROWS, r, row, NULL, a, 0);
        for (uint32_t j = 0; j < ROWS; j++) y[j * apart + i] = r[j];
    }
    for (uint32_t i = apart * ROWS; i < n; i++) {
        const uint8_t *row = w + i * stride;
        dot_rows(type, quantised, 1, y + i, &row, NULL, a, 0);
    }
}

/* ---- down rows ---- */

#define PIECE 128u /* blocks whose factors are kept at a time */
#define PAIRS 4    /* pairs of neurons that go over the sums together */

/* Factors of two neurons for blocks b0 .. b1 - 1, as pairs of 16-bit numbers, and their sum into bias. */
INL void factors(uint32_t *pair, int32_t *bias, const uint8_t *d0, const uint8_t *d1, float h0, float h1, uint32_t n) {
    uint32_t b = 0;
    for (; b + 8 <= n; b += 8) {
        const __m256i a0 = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_set1_ps(h0), halves(d0 + 2 * b)));
        const __m256i a1 = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_set1_ps(h1), halves(d1 + 2 * b)));
        const __m256i both = _mm256_blend_epi16(a0, _mm256_slli_epi32(a1, 16), 0xaa);
        _mm256_storeu_si256((void *)(pair + b), both);
        if (bias) _mm256_storeu_si256((void *)(bias + b), _mm256_add_epi32(load(bias + b), _mm256_add_epi32(a0, a1)));
    }
    for (; b < n; b++) {
        uint16_t h[2];
        memcpy(&h[0], d0 + 2 * b, 2);
        memcpy(&h[1], d1 + 2 * b, 2);
        const int32_t a0 = _mm_cvtss_si32(_mm_set_ss(h0 * _cvtsh_ss(h[0]))), a1 = _mm_cvtss_si32(_mm_set_ss(h1 * _cvtsh_ss(h[1])));
        pair[b] = ((uint32_t)a0 & 0xffff) | (uint32_t)a1 << 16;
        if (bias) bias[b] += a0 + a1;
    }
}

/* Codes of one block of two neurons as pairs of 16-bit numbers; p[0] holds the values 0-3 and 8-11, p[1] 4-7 and 12-15, p[2] and
 * p[3] the same of the upper half: what unpacking gives. Q4_0: 8 too large. */
INL void code_pairs(sg_dtype type, const uint8_t *c0, const uint8_t *c1, __m256i p[4]) {
    if (type == SG_DTYPE_Q4_0) {
        const __m256i v0 = _mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)c0)), v1 = _mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)c1));
        const __m256i low = _mm256_unpacklo_epi16(v0, v1), high = _mm256_unpackhi_epi16(v0, v1), mask = _mm256_set1_epi16(15);
        p[0] = _mm256_and_si256(low, mask);
        p[1] = _mm256_and_si256(high, mask);
        p[2] = _mm256_srli_epi16(low, 4);
        p[3] = _mm256_srli_epi16(high, 4);
        return;
    }
    UNROLL for (int half = 0; half < 2; half++) {
        const __m256i v0 = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(c0 + 16 * half)));
        const __m256i v1 = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(c1 + 16 * half)));
        p[2 * half] = _mm256_unpacklo_epi16(v0, v1);
        p[2 * half + 1] = _mm256_unpackhi_epi16(v0, v1);
    }
}

INL __m256i madd_add(__m256i s, __m256i c, __m256i a) {
#if defined(__AVX512VNNI__)
    return _mm256_dpwssd_epi32(s, c, a);
#elif defined(__AVXVNNI__)
    return _mm256_dpwssd_avx_epi32(s, c, a);
#else
    return _mm256_add_epi32(s, _mm256_madd_epi16(c, a));
#endif
}

/* 2 * pairs rows over n blocks; code[i]: their codes from the first block on, next[i] (or NULL): part of the rows to come. */
INL void add_pairs(sg_dtype type, int pairs, int32_t *sum, const uint8_t *const *code, const uint8_t *const *next, uint32_t (*a)[PIECE],
                   uint32_t n) {
    const size_t size = sg_block_bytes(type) - 2;
    for (uint32_t b = 0; b < n; b++, sum += SG_BLOCK) {
        __m256i s[4];
        UNROLL for (int j = 0; j < 4; j++) s[j] = _mm256_load_si256((const void *)(sum + 8 * j));
        UNROLL for (int i = 0; i < pairs; i++) {
            const __m256i factor = _mm256_set1_epi32((int)a[i][b]);
            __m256i p[4];
            code_pairs(type, code[2 * i] + b * size, code[2 * i + 1] + b * size, p);
            UNROLL for (int j = 0; j < 4; j++) s[j] = madd_add(s[j], p[j], factor);
        }
        UNROLL for (int j = 0; j < 4; j++) _mm256_store_si256((void *)(sum + 8 * j), s[j]);
        if (!next || b * (size + 2) % 64 >= size + 2) continue; /* a line begins within this block's share of a row */
        UNROLL for (int i = 0; i < 2 * pairs; i++) _mm_prefetch((const char *)next[i] + b * (size + 2), _MM_HINT_T1);
    }
}

INL void down_add(sg_dtype type, int32_t *sum, const uint8_t *w, size_t stride, const uint32_t *rows, const float *hs, uint32_t n, uint32_t k) {
    const uint32_t blocks = k / SG_BLOCK;
    const size_t size = sg_block_bytes(type) - 2;
    int32_t *bias = sum + k;
    for (uint32_t i = 0; i < n; i += 2 * PAIRS) {
        const uint8_t *row[2 * PAIRS], *code[2 * PAIRS], *next[2 * PAIRS];
        float h[2 * PAIRS];
        const uint32_t here = n - i < 2 * PAIRS ? n - i : 2 * PAIRS;
        const bool more = n - i >= 4 * PAIRS; /* a whole set of rows comes next */
        for (uint32_t j = 0; j < 2 * PAIRS; j++) { /* places that are left stand for a row times 0 */
            row[j] = row_at(w, stride, rows, i + (j < here ? j : 0));
            h[j] = j < here ? hs[i + j] : 0;
        }
        for (uint32_t b = 0; b < blocks; b += PIECE) {
            const uint32_t some = blocks - b < PIECE ? blocks - b : PIECE;
            uint32_t a[PAIRS][PIECE];
            for (uint32_t j = 0; j < 2 * PAIRS; j++) {
                code[j] = row[j] + 2 * (size_t)blocks + b * size;
                next[j] = more ? row_at(w, stride, rows, i + 2 * PAIRS + j) + b * (size + 2) : NULL;
            }
            const uint32_t pairs = (here + 1) / 2;
            for (uint32_t j = 0; j < pairs; j++)
                factors(a[j], type == SG_DTYPE_Q4_0 ? bias + b : NULL, row[2 * j] + 2 * b, row[2 * j + 1] + 2 * b, h[2 * j], h[2 * j + 1], some);
            int32_t *at = sum + (size_t)b * SG_BLOCK;
            if (pairs == PAIRS) add_pairs(type, PAIRS, at, code, more ? next : NULL, a, some);
            else
                for (uint32_t j = 0; j < pairs; j++) add_pairs(type, 1, at, code + 2 * j, NULL, a + j, some);
        }
    }
}

INL void down_end(sg_dtype type, float *y, const int32_t *sum, size_t apart, uint32_t parts, uint32_t k, uint32_t b0, uint32_t b1, float scale) {
    const __m256 factor = _mm256_set1_ps(scale);
    for (uint32_t b = b0; b < b1; b++) {
        __m256i s[4] = { 0 }, bias = _mm256_setzero_si256();
        for (uint32_t p = 0; p < parts; p++) {
            const int32_t *part = sum + p * apart;
            for (int j = 0; j < 4; j++) s[j] = _mm256_add_epi32(s[j], load(part + b * SG_BLOCK + 8 * j));
            if (type == SG_DTYPE_Q4_0) bias = _mm256_add_epi32(bias, _mm256_set1_epi32(part[k + b]));
        }
        bias = _mm256_slli_epi32(bias, 3);
        for (int j = 0; j < 4; j += 2) {
            const __m256i v0 = _mm256_sub_epi32(s[j], bias), v1 = _mm256_sub_epi32(s[j + 1], bias);
            float *out = y + (size_t)b * SG_BLOCK + 8 * j;
            _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_permute2x128_si256(v0, v1, 0x20)), factor));
            _mm256_storeu_ps(out + 8, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_permute2x128_si256(v0, v1, 0x31)), factor));
        }
    }
}

/* The bits of non-negative halves order like the halves. */
static float down_max(const uint8_t *row, uint32_t k) {
    const uint32_t n = k / SG_BLOCK;
    __m128i top = _mm_setzero_si128();
    uint32_t b = 0;
    for (; b + 8 <= n; b += 8)
        top = _mm_max_epu16(top, _mm_and_si128(_mm_loadu_si128((const void *)(row + 2 * b)), _mm_set1_epi16(0x7fff)));
    uint16_t most = (uint16_t)~_mm_cvtsi128_si32(_mm_minpos_epu16(_mm_xor_si128(top, _mm_set1_epi16(-1))));
    for (; b < n; b++) {
        const uint16_t bits = (uint16_t)(row[2 * b] | (row[2 * b + 1] & 0x7f) << 8);
        if (bits > most) most = bits;
    }
    return _cvtsh_ss(most);
}

INL void down_floats(sg_dtype type, float *y, const uint8_t *w, size_t stride, const uint32_t *rows, const float *h, uint32_t n, uint32_t i0,
                     uint32_t i1) {
    for (uint32_t j = 0; j < n; j += ROWS) {
        const int here = n - j < ROWS ? (int)(n - j) : ROWS;
        const uint8_t *row[ROWS];
        for (int r = 0; r < here; r++) row[r] = row_at(w, stride, rows, j + (uint32_t)r);
        uint32_t i = i0;
        for (; i + 8 <= i1; i += 8) {
            __m256 v = _mm256_loadu_ps(y + i);
            for (int r = 0; r < here; r++) v = _mm256_fmadd_ps(float_lanes(type, row[r], i), _mm256_set1_ps(h[j + (uint32_t)r]), v);
            _mm256_storeu_ps(y + i, v);
        }
        for (; i < i1; i++)
            for (int r = 0; r < here; r++) {
                float f;
                if (type == SG_DTYPE_F16) {
                    uint16_t bits;
                    memcpy(&bits, row[r] + 2 * (size_t)i, 2);
                    f = _cvtsh_ss(bits);
                } else {
                    memcpy(&f, row[r] + 4 * (size_t)i, 4);
                }
                y[i] = __builtin_fmaf(f, h[j + (uint32_t)r], y[i]);
            }
    }
}

/* ---- records ---- */

#define STRING(x) STRING_(x)
#define STRING_(x) #x

#define DOT(type_, lower, quant)                                                                                                     \
    static void dot_##lower(float *restrict y, const uint8_t *restrict w, size_t stride, const uint32_t *restrict rows, uint32_t n,  \
                            const sg_lane_acts *restrict a, uint32_t t) {                                                            \
        dot_list(type_, quant, y, w, stride, rows, n, a, t);                                                                         \
    }

#define BLOCK_KERNEL(type_, lower)                                                                                                   \
    DOT(type_, lower, true)                                                                                                          \
    static void dot_tokens_##lower(float *restrict y, size_t ldy, const uint8_t *restrict w, size_t stride, uint32_t n,              \
                                   const sg_lane_acts *restrict a) {                                                                 \
        if (a->n == 1) {                                                                                                             \
            dot_streams(type_, true, y, w, stride, n, a);                                                                            \
            return;                                                                                                                  \
        }                                                                                                                            \
        uint32_t t = 0;                                                                                                              \
        for (; t + TOKENS <= a->n; t += TOKENS)                                                                                      \
            for (uint32_t i = 0; i < n; i++) dot_block_tokens(type_, TOKENS, y + t * ldy + i, ldy, w + i * stride, a, t);            \
        for (; t < a->n; t++)                                                                                                        \
            for (uint32_t i = 0; i < n; i++) dot_block_tokens(type_, 1, y + t * ldy + i, ldy, w + i * stride, a, t);                 \
    }                                                                                                                                \
    static void down_add_##lower(int32_t *restrict sum, const uint8_t *restrict w, size_t stride, const uint32_t *restrict rows,     \
                                 const float *restrict hs, uint32_t n, uint32_t k) {                                                 \
        down_add(type_, sum, w, stride, rows, hs, n, k);                                                                             \
    }                                                                                                                                \
    static void down_end_##lower(float *restrict y, const int32_t *restrict sum, size_t apart, uint32_t parts, uint32_t k,           \
                                 uint32_t b0, uint32_t b1, float scale) {                                                            \
        down_end(type_, y, sum, apart, parts, k, b0, b1, scale);                                                                     \
    }                                                                                                                                \
    static const sg_neuron_kernel kernel_##lower = { .name = #lower "_" STRING(TIER), .type = type_, .quantised = true,              \
                                                     .dot = dot_##lower, .dot_tokens = dot_tokens_##lower, .down_max = down_max,     \
                                                     .down_add = down_add_##lower, .down_end = down_end_##lower };

#define FLOAT_KERNEL(type_, lower)                                                                                                   \
    DOT(type_, lower, false)                                                                                                         \
    static void dot_tokens_##lower(float *restrict y, size_t ldy, const uint8_t *restrict w, size_t stride, uint32_t n,              \
                                   const sg_lane_acts *restrict a) {                                                                 \
        for (uint32_t t = 0; t < a->n; t++) dot_list(type_, false, y + t * ldy, w, stride, NULL, n, a, t);                           \
    }                                                                                                                                \
    static void down_float_##lower(float *restrict y, const uint8_t *restrict w, size_t stride, const uint32_t *restrict rows,       \
                                   const float *restrict h, uint32_t n, uint32_t i0, uint32_t i1) {                                  \
        down_floats(type_, y, w, stride, rows, h, n, i0, i1);                                                                        \
    }                                                                                                                                \
    static const sg_neuron_kernel kernel_##lower = { .name = #lower "_" STRING(TIER), .type = type_, .dot = dot_##lower,             \
                                                     .dot_tokens = dot_tokens_##lower, .down_float = down_float_##lower };

FLOAT_KERNEL(SG_DTYPE_F32, f32)
FLOAT_KERNEL(SG_DTYPE_F16, f16)
BLOCK_KERNEL(SG_DTYPE_Q8_0, q8_0)
BLOCK_KERNEL(SG_DTYPE_Q4_0, q4_0)

static void set_neuron_kernels(const sg_neuron_kernel *neuron[SG_DTYPE_LIMIT]) {
    neuron[SG_DTYPE_F32] = &kernel_f32;
    neuron[SG_DTYPE_F16] = &kernel_f16;
    neuron[SG_DTYPE_Q8_0] = &kernel_q8_0;
    neuron[SG_DTYPE_Q4_0] = &kernel_q4_0;
}
