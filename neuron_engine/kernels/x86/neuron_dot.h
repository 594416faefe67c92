/* Dot rows in 256-bit vectors, part of neuron_x86.h: a vector of codes holds four values of each of eight blocks of one row, and
 * the activations lie the same way, so the inner loops neither shuffle nor broadcast. */
#define GROUP ((size_t)SG_LANES * SG_BLOCK) /* activation bytes of a group of blocks */
#define ROWS 4                              /* computed together: as many chains of sums, and streams from memory */
#define SCATTERED 8                         /* rows of a list that are gone through together, ROWS at a time */

INL float sum_lanes(__m256 acc) {
    const __m128 s = _mm_add_ps(_mm256_castps256_ps128(acc), _mm256_extractf128_ps(acc, 1)); /* 0+4 1+5 2+6 3+7 */
    const __m128 t = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(t, _mm_shuffle_ps(t, t, 1)));
}

/* Activations k .. k + 7 of a token, zeros behind the last. */
INL __m256 float_acts(const float *x, uint32_t n, size_t k) {
    if (k + SG_LANES <= n) return _mm256_loadu_ps(x + k);
    const __m256i left = _mm256_sub_epi32(_mm256_set1_epi32((int)(n - k)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    return _mm256_maskload_ps(x + k, _mm256_cmpgt_epi32(left, _mm256_setzero_si256()));
}

INL size_t group_bytes(sg_dtype type) { return SG_LANES * (size_t)sg_block_bytes(type); }

/* Vectors g and g + 4, g < 4, of the codes of a group as the products want them: Q4_0 unsigned, 8 too large; Q8_0 signed, or 128
 * too large for VPDPBUSD. */
INL void code_vectors(sg_dtype type, const uint8_t *group, int g, __m256i *low, __m256i *high) {
    const uint8_t *codes = group + 2 * SG_LANES + 32 * g;
    if (type == SG_DTYPE_Q4_0) {
        const __m256i v = load(codes), mask = _mm256_set1_epi8(15);
        *low = _mm256_and_si256(v, mask);
        *high = _mm256_and_si256(_mm256_srli_epi16(v, 4), mask);
        return;
    }
    *low = load(codes);
    *high = load(codes + 128);
#ifdef DPBUSD
    *low = _mm256_xor_si256(*low, _mm256_set1_epi8(-128));
    *high = _mm256_xor_si256(*high, _mm256_set1_epi8(-128));
#endif
}

/* s + the products of a vector, or these alone when first. AVX2: Q4_0's in pairs of 16 bits, in which 8 groups of two products of
 * at most 15 * 127 fit; Q8_0: |c| times x with the sign of c, 128 * 127 * 2 just fits. */
INL __m256i add_products(sg_dtype type, __m256i s, __m256i c, __m256i x, bool first) {
#ifdef DPBUSD
    (void)type;
    return DPBUSD(first ? _mm256_setzero_si256() : s, c, x);
#else
    if (type == SG_DTYPE_Q4_0) {
        const __m256i p = _mm256_maddubs_epi16(c, x);
        return first ? p : hold(_mm256_add_epi16(s, p));
    }
    const __m256i p = _mm256_maddubs_epi16(_mm256_abs_epi8(c), _mm256_sign_epi8(x, c));
    const __m256i wide = _mm256_madd_epi16(p, _mm256_set1_epi16(1));
    return first ? wide : hold(_mm256_add_epi32(s, wide));
#endif
}

/* What the codes are too large by, for the blocks of a group of activations. */
INL __m256i excess(sg_dtype type, const int32_t *sum) {
#ifndef DPBUSD
    if (type == SG_DTYPE_Q8_0) return _mm256_setzero_si256();
#endif
    return _mm256_slli_epi32(load(sum), type == SG_DTYPE_Q4_0 ? 3 : 7);
}

/* acc + the exact sums of a group times d. */
INL __m256 add_group(sg_dtype type, __m256 acc, __m256i s, __m256i too_much, __m256 d) {
#ifndef DPBUSD
    if (type == SG_DTYPE_Q4_0) s = _mm256_madd_epi16(s, _mm256_set1_epi16(1));
    if (type == SG_DTYPE_Q8_0) return _mm256_fmadd_ps(_mm256_cvtepi32_ps(s), d, acc);
#else
    (void)type;
#endif
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(s, too_much)), d, acc);
}

#define FOR_ROWS UNROLL for (int i = 0; i < n; i++)

/* A group of n rows. */
INL void dot_group(sg_dtype type, int n, __m256 *acc, const uint8_t *const *row, size_t off, const int8_t *q, const float *dx,
                   const int32_t *sum) {
    __m256i s[ROWS];
    UNROLL for (int g = 0; g < 4; g++) {
        const __m256i xl = load(q + 32 * g), xh = load(q + 32 * g + 128);
        FOR_ROWS {
            __m256i low, high;
            code_vectors(type, row[i] + off, g, &low, &high);
            s[i] = add_products(type, s[i], low, xl, g == 0);
            s[i] = add_products(type, s[i], high, xh, false);
        }
    }
    const __m256i too_much = excess(type, sum);
    const __m256 d = _mm256_loadu_ps(dx);
    FOR_ROWS acc[i] = add_group(type, acc[i], s[i], too_much, _mm256_mul_ps(halves(row[i] + off), d));
}

/* n rows, ROWS of them at a time if more, and one token. `ahead`: rows that come next, or NULL; the processor's own prefetching does
 * not know them. */
INL void dot_blocks(sg_dtype type, int n, float *y, const uint8_t *const *row, const uint8_t *const *ahead, const sg_lane_acts *a,
                    uint32_t t) {
    const size_t step = group_bytes(type);
    const int8_t *q = a->q + (size_t)t * a->n_groups * GROUP;
    const float *dx = a->d + (size_t)t * a->n_groups * SG_LANES;
    const int32_t *sum = a->sum + (size_t)t * a->n_groups * SG_LANES;
    const size_t end = a->n_groups * step;
    __m256 acc[SCATTERED];
    FOR_ROWS acc[i] = _mm256_setzero_ps();
    for (size_t off = 0; off < end; off += step, q += GROUP, dx += SG_LANES, sum += SG_LANES) {
        if (n <= ROWS) dot_group(type, n, acc, row, off, q, dx, sum);
        else UNROLL for (int i = 0; i < n; i += ROWS) dot_group(type, ROWS, acc + i, row + i, off, q, dx, sum);
        if (!ahead) continue;
        FOR_ROWS {
            const char *from = (const char *)ahead[i] + off;
            for (size_t line = 0; line < step; line += 64) _mm_prefetch(from + line, _MM_HINT_T1);
        }
    }
    FOR_ROWS y[i] = sum_lanes(acc[i]);
}

INL void dot_floats(sg_dtype type, int n, float *y, const uint8_t *const *row, const uint8_t *const *ahead, const sg_lane_acts *a,
                    uint32_t t) {
    const size_t size = type == SG_DTYPE_F16 ? 2 : 4;
    const float *x = a->x + (size_t)t * a->k;
    __m256 acc[SCATTERED];
    FOR_ROWS acc[i] = _mm256_setzero_ps();
    for (size_t k = 0; k < a->k; k += SG_LANES) {
        const __m256 v = float_acts(x, a->k, k);
        FOR_ROWS acc[i] = _mm256_fmadd_ps(float_lanes(type, row[i], k), v, acc[i]);
        if (!ahead || k * size % 64 != 0) continue;
        FOR_ROWS _mm_prefetch((const char *)ahead[i] + k * size, _MM_HINT_T1);
    }
    FOR_ROWS y[i] = sum_lanes(acc[i]);
}

INL void dot_rows(sg_dtype type, int n, float *y, const uint8_t *const *row, const uint8_t *const *ahead, const sg_lane_acts *a,
                  uint32_t t) {
    if (is_float(type)) dot_floats(type, n, y, row, ahead, a, t);
    else dot_blocks(type, n, y, row, ahead, a, t);
}

/* Rows i to i + n - 1 of a list, while the n next ones are fetched. */
INL void dot_listed(sg_dtype type, int n, float *y, const uint8_t *w, size_t stride, const uint32_t *rows, uint32_t i, uint32_t end,
                    const sg_lane_acts *a, uint32_t t) {
    const uint8_t *row[SCATTERED], *next[SCATTERED];
    for (uint32_t j = 0; j < (uint32_t)n; j++) {
        const uint32_t later = i + (uint32_t)n + j;
        row[j] = row_at(w, stride, rows, i + j);
        next[j] = row_at(w, stride, rows, later < end ? later : end - 1);
    }
    dot_rows(type, n, y + i, row, next, a, t);
}

INL void dot_list(sg_dtype type, float *y, const uint8_t *w, size_t stride, const uint32_t *rows, uint32_t n,
                  const sg_lane_acts *a, uint32_t t) {
    uint32_t i = 0;
    for (; i + SCATTERED <= n; i += SCATTERED) dot_listed(type, SCATTERED, y, w, stride, rows, i, n, a, t);
    for (; i + ROWS <= n; i += ROWS) dot_listed(type, ROWS, y, w, stride, rows, i, n, a, t);
    for (; i < n; i++) {
        const uint8_t *row[1] = { row_at(w, stride, rows, i) };
        dot_rows(type, 1, y + i, row, NULL, a, t);
    }
}

/* Neighbouring rows and one token: ROWS far apart from each other, as long streams from memory (see gemv_avx2.h). */
INL void dot_streams(sg_dtype type, float *y, const uint8_t *w, size_t stride, uint32_t n, const sg_lane_acts *a, uint32_t t) {
    const size_t apart = n / ROWS;
    const uint8_t *row[ROWS];
    for (size_t i = 0; i < apart; i++) {
        float r[ROWS];
        for (size_t j = 0; j < ROWS; j++) row[j] = w + (j * apart + i) * stride;
        dot_rows(type, ROWS, r, row, NULL, a, t);
        for (size_t j = 0; j < ROWS; j++) y[j * apart + i] = r[j];
    }
    for (size_t i = apart * ROWS; i < n; i++) {
        row[0] = w + i * stride;
        dot_rows(type, 1, y + i, row, NULL, a, t);
    }
}

/* ---- several tokens ---- */

#define SPAN 64u   /* vectors of a row: 8 groups of quantised blocks */
#define TOKENS 4   /* computed together */
#define WALK 64u   /* tokens whose sums wait on the stack while a span of the rows is decoded */
#define PANELS 2u  /* of two rows each: what is fetched of the activations serves them all */

/* A span of two rows, decoded once for all tokens of a walk. Floats: the values. */
typedef struct panel {
    __m256i c[SPAN][2];
    __m256 d[SPAN / 8][2]; /* scales of a group */
} panel;

/* n vectors of two rows from vector v on. */
INL void panel_decode(sg_dtype type, panel *p, const uint8_t *const row[2], uint32_t v, uint32_t n) {
    UNROLL for (int m = 0; m < 2; m++) {
        if (is_float(type)) {
            for (uint32_t i = 0; i < n; i++)
                p->c[i][m] = _mm256_castps_si256(float_lanes(type, row[m], (size_t)(v + i) * SG_LANES));
            continue;
        }
        const uint8_t *group = row[m] + v / 8 * group_bytes(type);
        for (uint32_t i = 0; i < n; i += 8, group += group_bytes(type)) {
            p->d[i / 8][m] = halves(group);
            UNROLL for (int g = 0; g < 4; g++)
                code_vectors(type, group, g, &p->c[i + (uint32_t)g][m], &p->c[i + (uint32_t)g + 4][m]);
        }
    }
}

/* acc[token][row] += n vectors of two rows times those of `tokens` tokens from t on. */
INL void panel_blocks(sg_dtype type, int tokens, __m256 acc[][2 * PANELS], const panel *p, const sg_lane_acts *a, uint32_t t,
                      uint32_t v, uint32_t n) {
    const size_t at = (size_t)t * a->n_groups + v / 8, apart = a->n_groups;
    const int8_t *q[TOKENS];
    const float *dx = a->d + at * SG_LANES;
    const int32_t *sum = a->sum + at * SG_LANES;
    UNROLL for (int j = 0; j < tokens; j++) q[j] = a->q + (at + (size_t)j * apart) * GROUP;
    for (uint32_t i = 0; i < n; i += 8) {
        __m256i s[TOKENS][2];
        UNROLL for (int g = 0; g < 8; g++) {
            const __m256i c0 = hold(p->c[i + (uint32_t)g][0]), c1 = hold(p->c[i + (uint32_t)g][1]);
            UNROLL for (int j = 0; j < tokens; j++) {
                const __m256i x = hold(load(q[j] + 32 * g));
                s[j][0] = add_products(type, s[j][0], c0, x, g == 0);
                s[j][1] = add_products(type, s[j][1], c1, x, g == 0);
            }
        }
        UNROLL for (int j = 0; j < tokens; j++) {
            const size_t lane = (size_t)j * apart * SG_LANES;
            const __m256 d = _mm256_loadu_ps(dx + lane);
            const __m256i too_much = excess(type, sum + lane);
            UNROLL for (int m = 0; m < 2; m++)
                acc[j][m] = add_group(type, acc[j][m], s[j][m], too_much, _mm256_mul_ps(p->d[i / 8][m], d));
            q[j] += GROUP;
        }
        dx += SG_LANES;
        sum += SG_LANES;
    }
}

INL void panel_floats(int tokens, __m256 acc[][2 * PANELS], const panel *p, const sg_lane_acts *a, uint32_t t, uint32_t v,
                      uint32_t n) {
    const float *x = a->x + (size_t)t * a->k;
    __m256 s[TOKENS][2];
    UNROLL for (int j = 0; j < tokens; j++) UNROLL for (int m = 0; m < 2; m++) s[j][m] = acc[j][m];
    for (uint32_t i = 0; i < n; i++) {
        const __m256 c0 = _mm256_castsi256_ps(p->c[i][0]), c1 = _mm256_castsi256_ps(p->c[i][1]);
        UNROLL for (int j = 0; j < tokens; j++) {
            const __m256 xv = float_acts(x + (size_t)j * a->k, a->k, (size_t)(v + i) * SG_LANES);
            s[j][0] = _mm256_fmadd_ps(c0, xv, s[j][0]);
            s[j][1] = _mm256_fmadd_ps(c1, xv, s[j][1]);
        }
    }
    UNROLL for (int j = 0; j < tokens; j++) UNROLL for (int m = 0; m < 2; m++) acc[j][m] = s[j][m];
}

INL void panel_multiply(sg_dtype type, int tokens, __m256 acc[][2 * PANELS], const panel *p, const sg_lane_acts *a, uint32_t t,
                        uint32_t v, uint32_t n) {
    if (is_float(type)) panel_floats(tokens, acc, p, a, t, v, n);
    else panel_blocks(type, tokens, acc, p, a, t, v, n);
}

/* All tokens of a walk against up to four rows. */
INL void dot_walk(sg_dtype type, float *y, size_t ldy, const uint8_t *w, size_t stride, uint32_t rows, const sg_lane_acts *a,
                  uint32_t t0, uint32_t tokens) {
    const uint32_t vectors = is_float(type) ? (a->k + SG_LANES - 1) / SG_LANES : 8 * a->n_groups;
    const uint32_t panels = (rows + 1) / 2;
    __m256 acc[WALK][2 * PANELS];
    panel p[PANELS];
    for (uint32_t t = 0; t < tokens; t++) UNROLL for (uint32_t m = 0; m < 2 * PANELS; m++) acc[t][m] = _mm256_setzero_ps();
    for (uint32_t v = 0; v < vectors; v += SPAN) {
        const uint32_t n = vectors - v < SPAN ? vectors - v : SPAN;
        for (uint32_t i = 0; i < panels; i++) { /* an odd row is computed twice */
            const uint8_t *const pair[2] = { w + 2 * i * stride, w + (2 * i + 1 < rows ? 2 * i + 1 : 2 * i) * stride };
            panel_decode(type, p + i, pair, v, n);
        }
        uint32_t t = 0;
        for (; t + TOKENS <= tokens; t += TOKENS)
            for (uint32_t i = 0; i < panels; i++)
                panel_multiply(type, TOKENS, (void *)&acc[t][2 * i], p + i, a, t0 + t, v, n);
        for (; t < tokens; t++)
            for (uint32_t i = 0; i < panels; i++) panel_multiply(type, 1, (void *)&acc[t][2 * i], p + i, a, t0 + t, v, n);
    }
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t m = 0; m < rows; m++) y[t * ldy + m] = sum_lanes(acc[t][m]);
}

INL void dot_all(sg_dtype type, float *y, size_t ldy, const uint8_t *w, size_t stride, uint32_t n, const sg_lane_acts *a) {
    for (uint32_t t = 0; t < a->n; t += WALK) {
        const uint32_t tokens = a->n - t < WALK ? a->n - t : WALK;
        for (uint32_t i = 0; i < n; i += 2 * PANELS) {
            const uint32_t rows = n - i < 2 * PANELS ? n - i : 2 * PANELS;
            dot_walk(type, y + (size_t)t * ldy + i, ldy, w + i * stride, stride, rows, a, t, tokens);
        }
    }
}
