/* Down rows in 256-bit vectors, part of neuron_x86.h. Two neurons at a time: a vpmaddwd (or VPDPWSSD) multiplies the codes of both
 * by the factors of both; four pairs go over the sums together, so that loading and storing these counts little. */
#define PIECE 128u /* blocks whose factors are kept at a time; even */
#define PAIRS 4    /* pairs of neurons that go over the sums together */

/* Factors of pairs of neurons for n blocks, as pairs of 16-bit numbers, and the sum of all of them into bias, if wanted. d: where
 * the scales of each neuron begin. */
INL void factors(uint32_t (*pair)[PIECE], int pairs, int32_t *bias, const uint8_t *const *d, const float *h, uint32_t n) {
    uint32_t b = 0;
    for (; b + 8 <= n; b += 8) {
        __m256i sum = bias ? load(bias + b) : _mm256_setzero_si256();
        UNROLL for (int i = 0; i < pairs; i++) {
            const __m256i a0 = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_set1_ps(h[2 * i]), halves(d[2 * i] + 2 * b)));
            const __m256i a1 = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_set1_ps(h[2 * i + 1]), halves(d[2 * i + 1] + 2 * b)));
            _mm256_storeu_si256((void *)(pair[i] + b), _mm256_blend_epi16(a0, _mm256_slli_epi32(a1, 16), 0xaa));
            sum = _mm256_add_epi32(sum, _mm256_add_epi32(a0, a1));
        }
        if (bias) _mm256_storeu_si256((void *)(bias + b), sum);
    }
    for (; b < n; b++)
        for (int i = 0; i < pairs; i++) {
            uint16_t half[2];
            memcpy(&half[0], d[2 * i] + 2 * b, 2);
            memcpy(&half[1], d[2 * i + 1] + 2 * b, 2);
            const int32_t a0 = _mm_cvtss_si32(_mm_set_ss(h[2 * i] * _cvtsh_ss(half[0])));
            const int32_t a1 = _mm_cvtss_si32(_mm_set_ss(h[2 * i + 1] * _cvtsh_ss(half[1])));
            pair[i][b] = ((uint32_t)a0 & 0xffff) | (uint32_t)a1 << 16;
            if (bias) bias[b] += a0 + a1;
        }
}

/* Which block of the two whose words lie in turns; the last may be without a neighbour. */
typedef enum block_place { FIRST, SECOND, ALONE } block_place;

/* Q4_0: the words of a block of two neurons side by side. */
INL __m256i word_pairs(const uint8_t *c0, const uint8_t *c1, block_place place) {
    if (place == ALONE) {
        const __m256i v0 = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)c0));
        return _mm256_or_si256(v0, _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)c1)), 16));
    }
    const __m256i v0 = load(c0), v1 = load(c1);
    if (place == FIRST) return _mm256_blend_epi16(v0, _mm256_slli_epi32(v1, 16), 0xaa);
    return _mm256_blend_epi16(_mm256_srli_epi32(v0, 16), v1, 0xaa);
}

/* Codes of block b of two neurons as pairs of 16-bit numbers. Q8_0: p[0] holds the values 0-3 and 8-11, p[1] 4-7 and 12-15, p[2]
 * and p[3] the same of the upper half: what unpacking gives. Q4_0: p[j] the values 8j to 8j + 7, with all that is above them in
 * their words, 16 times the next code and so on, and 8 too large up to p[2]: down_end takes it off, which is cheaper than a mask
 * here. */
INL void code_pairs(sg_dtype type, const uint8_t *c0, const uint8_t *c1, uint32_t b, block_place place, __m256i p[4]) {
    if (type == SG_DTYPE_Q4_0) {
        const size_t at = b / 2 * (size_t)32;
        p[0] = word_pairs(c0 + at, c1 + at, place);
        p[1] = _mm256_srai_epi16(p[0], 4);
        p[2] = _mm256_srai_epi16(p[0], 8);
        p[3] = _mm256_srai_epi16(p[0], 12);
        return;
    }
    UNROLL for (int half = 0; half < 2; half++) {
        const size_t at = 32 * (size_t)b + 16 * (size_t)half;
        const __m256i v0 = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(c0 + at)));
        const __m256i v1 = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(c1 + at)));
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

/* Block b of 2 * pairs rows. */
INL void add_block(sg_dtype type, int pairs, int32_t *sum, const uint8_t *const *code, uint32_t (*a)[PIECE], uint32_t b,
                   block_place place) {
    __m256i s[4];
    sum += (size_t)b * SG_BLOCK;
    UNROLL for (int j = 0; j < 4; j++) s[j] = _mm256_load_si256((const void *)(sum + 8 * j));
    UNROLL for (int i = 0; i < pairs; i++) {
        const __m256i factor = _mm256_set1_epi32((int)a[i][b]);
        __m256i p[4];
        code_pairs(type, code[2 * i], code[2 * i + 1], b, place, p);
        UNROLL for (int j = 0; j < 4; j++) s[j] = madd_add(s[j], p[j], factor);
    }
    UNROLL for (int j = 0; j < 4; j++) _mm256_store_si256((void *)(sum + 8 * j), s[j]);
}

/* 2 * pairs rows over n blocks; code[i]: their codes from the first block on, next[i] (or NULL): part of the rows to come. */
INL void add_pairs(sg_dtype type, int pairs, int32_t *sum, const uint8_t *const *code, const uint8_t *const *next,
                   uint32_t (*a)[PIECE], uint32_t n) {
    const size_t two = 2 * (size_t)sg_block_bytes(type);
    uint32_t b = 0;
    for (; b + 2 <= n; b += 2) {
        add_block(type, pairs, sum, code, a, b, FIRST);
        add_block(type, pairs, sum, code, a, b + 1, SECOND);
        if (!next || b / 2 * two % 64 >= two) continue; /* a line begins within the share of a row of these two blocks */
        UNROLL for (int i = 0; i < 2 * pairs; i++) _mm_prefetch((const char *)next[i] + b / 2 * two, _MM_HINT_T1);
    }
    if (b < n) add_block(type, pairs, sum, code, a, b, ALONE);
}

/* Rows of a list that are computed together lie far apart in it: of neighbouring rows these are as many long streams, which the
 * processor follows by itself (asking for them as well is slower: 13.5 against 16.5 GB/s on Zen 3). */
INL void down_add(sg_dtype type, int32_t *sum, const uint8_t *w, size_t stride, const uint32_t *rows, const float *hs, uint32_t n,
                  uint32_t k) {
    const uint32_t blocks = k / SG_BLOCK, sets = n / (2 * PAIRS);
    const size_t size = sg_block_bytes(type) - 2;
    int32_t *bias = type == SG_DTYPE_Q4_0 ? sum + k : NULL;
    for (uint32_t i = 0; i <= sets; i++) {
        const uint8_t *row[2 * PAIRS], *d[2 * PAIRS], *code[2 * PAIRS], *next[2 * PAIRS], *ahead[2 * PAIRS];
        float h[2 * PAIRS];
        const bool full = i < sets;
        const uint32_t here = full ? 2 * PAIRS : n % (2 * PAIRS), from = full ? i : n - here, apart = full ? sets : 1;
        if (here == 0) break;
        bool fetch = false; /* rows whose successors are not their neighbours */
        for (uint32_t j = 0; j < 2 * PAIRS; j++) { /* places that are left stand for a row times 0 */
            row[j] = row_at(w, stride, rows, from + (j < here ? j * apart : 0));
            h[j] = j < here ? hs[from + j * apart] : 0;
            ahead[j] = i + 1 < sets ? row_at(w, stride, rows, from + 1 + j * apart) : NULL;
            fetch = fetch || (ahead[j] && ahead[j] != row[j] + blocks * (size + 2));
        }
        for (uint32_t b = 0; b < blocks; b += PIECE) {
            const uint32_t some = blocks - b < PIECE ? blocks - b : PIECE;
            uint32_t a[PAIRS][PIECE];
            for (uint32_t j = 0; j < 2 * PAIRS; j++) {
                d[j] = row[j] + 2 * (size_t)b;
                code[j] = row[j] + 2 * (size_t)blocks + b * size;
                next[j] = fetch ? ahead[j] + b * (size + 2) : NULL;
            }
            int32_t *at = sum + (size_t)b * SG_BLOCK, *excess = bias ? bias + b : NULL;
            if (full) {
                factors(a, PAIRS, excess, d, h, some);
                add_pairs(type, PAIRS, at, code, fetch ? next : NULL, a, some);
                continue;
            }
            for (uint32_t j = 0; j < here; j += 2) {
                factors(a, 1, excess, d + j, h + j, some);
                add_pairs(type, 1, at, code + j, NULL, a, some);
            }
        }
    }
}

INL void store_floats(float *y, __m256i v, __m256 factor) { _mm256_storeu_ps(y, _mm256_mul_ps(_mm256_cvtepi32_ps(v), factor)); }

INL void down_end(sg_dtype type, float *y, const int32_t *sum, size_t apart, uint32_t parts, uint32_t k, uint32_t b0,
                  uint32_t b1, float scale) {
    const __m256 factor = _mm256_set1_ps(scale);
    for (uint32_t b = b0; b < b1; b++) {
        float *out = y + (size_t)b * SG_BLOCK;
        __m256i s[4] = { 0 }, bias = _mm256_setzero_si256();
        for (uint32_t p = 0; p < parts; p++) {
            const int32_t *part = sum + p * apart;
            for (int j = 0; j < 4; j++) s[j] = _mm256_add_epi32(s[j], load(part + b * SG_BLOCK + 8 * j));
            if (type == SG_DTYPE_Q4_0) bias = _mm256_add_epi32(bias, _mm256_set1_epi32(part[k + b]));
        }
        if (type == SG_DTYPE_Q4_0) {
            bias = _mm256_slli_epi32(bias, 3);
            for (int j = 0; j < 3; j++)
                store_floats(out + 8 * j, _mm256_sub_epi32(_mm256_sub_epi32(s[j], _mm256_slli_epi32(s[j + 1], 4)), bias), factor);
            store_floats(out + 24, s[3], factor);
            continue;
        }
        for (int j = 0; j < 4; j += 2) {
            store_floats(out + 8 * j, _mm256_permute2x128_si256(s[j], s[j + 1], 0x20), factor);
            store_floats(out + 8 * j + 8, _mm256_permute2x128_si256(s[j], s[j + 1], 0x31), factor);
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
