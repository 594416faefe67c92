/* Down rows in 256-bit vectors, part of neuron_x86.h. Two neurons at a time: a vpmaddwd (or VPDPWSSD) multiplies the codes of both
 * by the factors of both; four pairs go over the sums together, so that loading and storing these counts little. The sums lie in
 * the order that unpacking gives; down_end puts them right. */
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
        const int32_t a0 = _mm_cvtss_si32(_mm_set_ss(h0 * _cvtsh_ss(h[0])));
        const int32_t a1 = _mm_cvtss_si32(_mm_set_ss(h1 * _cvtsh_ss(h[1])));
        pair[b] = ((uint32_t)a0 & 0xffff) | (uint32_t)a1 << 16;
        if (bias) bias[b] += a0 + a1;
    }
}

/* Codes of one block of two neurons as pairs of 16-bit numbers; p[0] holds the values 0-3 and 8-11, p[1] 4-7 and 12-15, p[2] and
 * p[3] the same of the upper half: what unpacking gives. Q4_0: 8 too large, and in the lower half the whole bytes, that is, 16
 * times the upper half too large: down_end takes both off, which is cheaper than a mask here. */
INL void code_pairs(sg_dtype type, const uint8_t *c0, const uint8_t *c1, __m256i p[4]) {
    if (type == SG_DTYPE_Q4_0) {
        const __m256i v0 = _mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)c0));
        const __m256i v1 = _mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)c1));
        const __m256i low = _mm256_unpacklo_epi16(v0, v1), high = _mm256_unpackhi_epi16(v0, v1);
        p[0] = low;
        p[1] = high;
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
#ifdef DPWSSD
    return DPWSSD(s, c, a);
#else
    return _mm256_add_epi32(s, _mm256_madd_epi16(c, a));
#endif
}

/* 2 * pairs rows over n blocks; code[i]: their codes from the first block on, next[i] (or NULL): part of the rows to come. */
INL void add_pairs(sg_dtype type, int pairs, int32_t *sum, const uint8_t *const *code, const uint8_t *const *next,
                   uint32_t (*a)[PIECE], uint32_t n) {
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

INL void down_add(sg_dtype type, int32_t *sum, const uint8_t *w, size_t stride, const uint32_t *rows, const float *hs, uint32_t n,
                  uint32_t k) {
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
                factors(a[j], type == SG_DTYPE_Q4_0 ? bias + b : NULL, row[2 * j] + 2 * b, row[2 * j + 1] + 2 * b, h[2 * j],
                        h[2 * j + 1], some);
            int32_t *at = sum + (size_t)b * SG_BLOCK;
            if (pairs == PAIRS) add_pairs(type, PAIRS, at, code, more ? next : NULL, a, some);
            else
                for (uint32_t j = 0; j < pairs; j++) add_pairs(type, 1, at, code + 2 * j, NULL, a + j, some);
        }
    }
}

INL void down_end(sg_dtype type, float *y, const int32_t *sum, size_t apart, uint32_t parts, uint32_t k, uint32_t b0,
                  uint32_t b1, float scale) {
    const __m256 factor = _mm256_set1_ps(scale);
    for (uint32_t b = b0; b < b1; b++) {
        __m256i s[4] = { 0 }, bias = _mm256_setzero_si256();
        for (uint32_t p = 0; p < parts; p++) {
            const int32_t *part = sum + p * apart;
            for (int j = 0; j < 4; j++) s[j] = _mm256_add_epi32(s[j], load(part + b * SG_BLOCK + 8 * j));
            if (type == SG_DTYPE_Q4_0) bias = _mm256_add_epi32(bias, _mm256_set1_epi32(part[k + b]));
        }
        bias = _mm256_slli_epi32(bias, 3);
        for (int j = 0; type == SG_DTYPE_Q4_0 && j < 2; j++) s[j] = _mm256_sub_epi32(s[j], _mm256_slli_epi32(s[j + 2], 4));
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

INL void down_floats(sg_dtype type, float *y, const uint8_t *w, size_t stride, const uint32_t *rows, const float *h, uint32_t n,
                     uint32_t i0, uint32_t i1) {
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
