/* Products of several tokens in AVX2, part of tile_tmpl.h. A product of bytes takes two or three instructions there and 16
 * registers do not hold the codes of a tile beside its sums, so both sides are laid out first:
 *
 *   - a span of 8 blocks of the activations of all tokens of a walk, four tokens side by side (panel_x),
 *   - the same blocks of two tiles, decoded (panel_w): once for all tokens of the walk,
 *
 * and each step multiplies two tiles by four tokens: a register of codes serves four tokens, a broadcast of activations two
 * tiles, and eight chains of sums hide the latency of each. Between two spans the sums wait in y; the order of each sum stays
 * that of the rule.
 *
 * vpmaddubsw adds two products in 16 bits. Sums of 16 such products stay in 16 bits where |code| <= 16, sums of 8 where
 * |code| <= 32; the signed code is meant, since sums wrap around and the bias is taken off in 16 bits as well. vpmaddwd adds
 * up such sums to 32 bits and multiplies by the sub-scale on the way. */
#define SPAN 8 /* blocks: a super-block */
/* Bytes of the stack for the activations of a walk: 256 tokens of unsigned types, 152 of signed ones. They need not fit the
 * first-level cache, being read in order; the more tokens share the decoding, the better. Small, since some C libraries give a
 * thread no more than 128 KiB. */
#define WALK_BYTES (96 << 10)

/* A block of two tiles. */
typedef struct panel_w {
    vu c[8][2];     /* codes; of signed types values 0 and 2 of each four in 16 bits, */
    vu odd[8][2];   /* and values 1 and 3 */
    vu scale[2][2]; /* K types: sub-scale of each half, twice in 16 bits */
    vf d[2], dm[2]; /* K types: of the super-block, the same in each of its blocks */
    vu min[2];      /* Q2_K: two 16-bit factors of the two sums; Q4_K, Q5_K: floats */
} panel_w;

/* A span of four tokens. */
typedef struct panel_x {
    /* Two 16-bit numbers: -bias * (sum of values 0, 1 of every four; of values 2, 3) of each half, or first of all where halves
     * do not matter. */
    _Alignas(64) uint32_t init[SPAN][2][4];
    uint32_t sum[4][SPAN]; /* of the activations: dsum; Q2_K: two 16-bit numbers */
    float d[4][SPAN];
    int8_t q[]; /* see panel_q */
} panel_x;

INL bool has_sign(int type) { return top_of(type) < 0; }
/* Of a panel_x with its q; wide: of a signed type. */
INL size_t panel_x_bytes(bool wide) { return sizeof(panel_x) + SPAN * 4 * SG_BLOCK * (wide ? 2 : 1); }
/* Block i of token t: 32 bytes; for signed types in 16 bits, values 0 and 2 of each four and then values 1 and 3. */
INL const int8_t *panel_q(int type, const panel_x *x, size_t i, int t) {
    return x->q + (4 * i + (size_t)t) * SG_BLOCK * (has_sign(type) ? 2 : 1);
}
/* Even and odd bytes as signed 16-bit numbers. */
INL vu even16(vu v) { return (vu)_mm256_srai_epi16(_mm256_slli_epi16((__m256i)v, 8), 8); }
INL vu odd16(vu v) { return (vu)_mm256_srai_epi16((__m256i)v, 8); }
/* Whether the sums of both halves of a block must be kept apart. */
INL bool in_halves(int type) { return n_sub(type) == 2 || type == SG_DTYPE_Q5_1 || type == SG_DTYPE_Q5_K; }

INL void panel_put(int type, panel_w *p, int m, const block *b) {
    UNROLL for (int g = 0; g < 8; g++) {
        p->c[g][m] = has_sign(type) ? even16(b->c[g]) : b->c[g];
        if (has_sign(type)) p->odd[g][m] = odd16(b->c[g]);
    }
    p->d[m] = b->d;
    if (has_min(type)) {
        p->dm[m] = b->dm;
        if (is_k(type)) p->min[m] = type == SG_DTYPE_Q2_K ? b->mins : (vu)b->min;
    }
    if (n_sub(type)) p->scale[0][m] = ((vu)b->k0 & 0xffffu) | (vu)b->k0 << 16;
    if (n_sub(type) == 2) p->scale[1][m] = ((vu)b->k1 & 0xffffu) | (vu)b->k1 << 16;
}

/* n_blocks blocks of a tile into column m of a panel. */
INL void panel_decode(int type, panel_w *p, int m, const uint8_t *w, uint32_t n_blocks) {
    const size_t step = MR * (size_t)sg_block_bytes(type);
    block b = { 0 };
    if (is_k(type)) {
        for (; n_blocks; n_blocks -= 8, w += step) {
            b.d = halves(w);
            if (has_min(type)) b.dm = -halves(w + MR * SG_T_Q4_K_DMIN);
            UNROLL for (int j = 0; j < 8; j++) {
                decode_k(type, w, j, &b);
                panel_put(type, p++, m, &b);
            }
        }
    } else {
        for (; n_blocks; n_blocks--, w += step) {
            decode_simple(type, w, &b);
            panel_put(type, p++, m, &b);
        }
    }
}

/* Groups from .. to-1 of a block: part += the sums of products, with the sub-scale. */
INL void panel_groups(int type, const panel_w *w, const panel_x *x, size_t i, int from, int to, vi part[4][2]) {
    vu s[4][2], p[2];
    UNROLL for (int g = from; g < to; g++) {
        UNROLL for (int t = 0; t < 4; t++) {
            const vu v = broadcast(panel_q(type, x, i, t) + 4 * g);
            UNROLL for (int m = 0; m < 2; m++) p[m] = mul_bytes(w->c[g][m], v);
            const vu init = g == from && bias_of(type) ? broadcast(&x->init[i][from / 4][t]) : v;
            UNROLL for (int m = 0; m < 2; m++) {
                if (g > from) s[t][m] = add16(s[t][m], p[m]);
                else s[t][m] = bias_of(type) ? add16(p[m], init) : p[m];
            }
        }
    }
    UNROLL for (int t = 0; t < 4; t++) UNROLL for (int m = 0; m < 2; m++) {
        const vi sum = madd16(s[t][m], n_sub(type) ? w->scale[n_sub(type) == 2 ? from / 4 : 0][m] : ones16());
        part[t][m] = from ? part[t][m] + sum : sum;
    }
}

/* Signed codes and activations both in 16 bits: one vpmaddwd per two values of a row, and nothing saturates. By bytes it would
 * take |c|, the sign of c put on x, vpmaddubsw and a widening vpmaddwd each: more instructions for the same four values. */
INL void panel_signed(const panel_w *w, const panel_x *x, size_t i, vi part[4][2]) {
    UNROLL for (int g = 0; g < 8; g++) UNROLL for (int odd = 0; odd < 2; odd++) {
        const vu *const at = odd ? w->odd[g] : w->c[g], c0 = hold(at[0]), c1 = hold(at[1]);
        UNROLL for (int t = 0; t < 4; t++) {
            const vu v = hold(broadcast(panel_q(SG_DTYPE_Q8_0, x, i, t) + odd * SG_BLOCK + 4 * g));
            const vi p0 = madd16(c0, v), p1 = madd16(c1, v);
            part[t][0] = g || odd ? add32(part[t][0], p0) : p0;
            part[t][1] = g || odd ? add32(part[t][1], p1) : p1;
        }
    }
}

/* The end of a super-block: acc is u of the rule and becomes the new sum. */
INL void panel_end_super(int type, const float *y, size_t ldy, const panel_w *w, const panel_x *x, vf acc[4][2], bool first) {
    UNROLL for (int t = 0; t < 4; t++) UNROLL for (int m = 0; m < 2; m++) {
        const vf before = first ? (vf) { 0 } : (vf)load_u((const uint8_t *)(y + t * ldy + m * MR));
        acc[t][m] = fma_v(w->d[m], acc[t][m], before);
    }
    if (!has_min(type)) return;
    vf v[4][2];
    UNROLL for (int t = 0; t < 4; t++) UNROLL for (int m = 0; m < 2; m++) v[t][m] = (vf) { 0 };
    for (size_t i = 0; i < SPAN; i++) {
        UNROLL for (int t = 0; t < 4; t++) UNROLL for (int m = 0; m < 2; m++) {
            const vu sum = broadcast(&x->sum[t][i]), min = w[i].min[m];
            v[t][m] = type == SG_DTYPE_Q2_K ? fma_v(to_float(madd16(sum, min)), splat_f(x->d[t][i]), v[t][m])
                                            : fma_v((vf)min, (vf)sum, v[t][m]);
        }
    }
    UNROLL for (int t = 0; t < 4; t++) UNROLL for (int m = 0; m < 2; m++) acc[t][m] = fma_v(w->dm[m], v[t][m], acc[t][m]);
}

/* y[0..3][0..15] += products of n_blocks blocks; = when it is the first span. K types: of a super-block. */
INL void panel_multiply(int type, float *y, size_t ldy, const panel_w *w, const panel_x *x, uint32_t n_blocks, bool first) {
    vf acc[4][2]; /* K types: u, since a span is a super-block */
    UNROLL for (int t = 0; t < 4; t++) UNROLL for (int m = 0; m < 2; m++)
        acc[t][m] = first || is_k(type) ? (vf) { 0 } : (vf)load_u((const uint8_t *)(y + t * ldy + m * MR));
    const panel_w *const super = w;
    for (size_t i = 0; i < n_blocks; i++, w++) {
        vi part[4][2];
        if (has_sign(type)) {
            panel_signed(w, x, i, part);
        } else {
            panel_groups(type, w, x, i, 0, in_halves(type) ? 4 : 8, part);
            if (in_halves(type)) panel_groups(type, w, x, i, 4, 8, part);
        }
        UNROLL for (int t = 0; t < 4; t++) UNROLL for (int m = 0; m < 2; m++) {
            const vf dx = splat_f(x->d[t][i]), f = to_float(part[t][m]);
            acc[t][m] = is_k(type) ? fma_v(f, dx, acc[t][m]) : fma_v(f, w->d[m] * dx, acc[t][m]);
            if (has_min(type) && !is_k(type)) acc[t][m] = fma_v(w->dm[m], (vf)broadcast(&x->sum[t][i]), acc[t][m]);
        }
    }
    if (is_k(type)) panel_end_super(type, y, ldy, super, x, acc, first);
    UNROLL for (int t = 0; t < 4; t++) UNROLL for (int m = 0; m < 2; m++) *(vf_mem *)(y + t * ldy + m * MR) = acc[t][m];
}

/* The sums of each token's 32-bit lanes, taken as pairs of 16-bit numbers: token t to word t of both 128-bit halves. */
INL __m256i sum_lanes(const __m256i v[4]) {
    const __m256i v01 = _mm256_add_epi16(_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[0], v[1]));
    const __m256i v23 = _mm256_add_epi16(_mm256_unpacklo_epi32(v[2], v[3]), _mm256_unpackhi_epi32(v[2], v[3]));
    return _mm256_add_epi16(_mm256_unpacklo_epi64(v01, v23), _mm256_unpackhi_epi64(v01, v23));
}

/* What the loops around the kernels need to know of a type. */
typedef struct panel_type {
    void (*decode)(panel_w *p, int m, const uint8_t *w, uint32_t n_blocks);
    void (*multiply)(float *y, size_t ldy, const panel_w *w, const panel_x *x, uint32_t n_blocks, bool first);
    uint32_t block_values, block_bytes;
    int bias;
    bool halves, sum16, wide;
} panel_type;

/* Span b .. b + n_blocks-1 of tokens t0 .. t0 + n-1, n <= 4; the others become zero. */
static void panel_quad(panel_x *x, const sg_acts *a, uint32_t t0, uint32_t n, uint32_t b, uint32_t n_blocks,
                       const panel_type *type) {
    const __m256i biases = _mm256_set1_epi8((char)type->bias), zero = _mm256_setzero_si256();
    size_t at[4];
    for (uint32_t t = 0; t < 4; t++) {
        at[t] = (size_t)(t0 + (t < n ? t : 0)) * a->n_blocks + b;
        uint32_t i = 0;
        for (; i + 8 <= n_blocks; i += 8) {
            _mm256_store_ps(x->d[t] + i, _mm256_loadu_ps(a->d + at[t] + i));
            const void *sums = type->sum16 ? (const void *)(a->sums + 2 * (at[t] + i)) : a->dsum + at[t] + i;
            _mm256_store_si256((void *)(x->sum[t] + i), _mm256_loadu_si256(sums));
        }
        for (; i < n_blocks; i++) {
            x->d[t][i] = a->d[at[t] + i];
            memcpy(&x->sum[t][i], type->sum16 ? (const void *)(a->sums + 2 * (at[t] + i)) : a->dsum + at[t] + i, 4);
        }
    }
    for (uint32_t i = 0; i < n_blocks; i++) {
        __m256i v[4];
        UNROLL for (int t = 0; t < 4; t++) {
            const __m256i q = _mm256_loadu_si256((const void *)(a->q + (at[t] + i) * SG_BLOCK));
            int8_t *at_q = x->q + (4 * i + (uint32_t)t) * SG_BLOCK * (type->wide ? 2 : 1);
            if (type->wide) {
                *(vu *)(void *)at_q = even16((vu)q);
                *(vu *)(void *)(at_q + SG_BLOCK) = odd16((vu)q);
            } else {
                _mm256_store_si256((void *)at_q, q);
            }
            v[t] = _mm256_maddubs_epi16(biases, q);
        }
        if (type->bias == 0) continue;
        const __m256i sums = _mm256_sub_epi16(zero, sum_lanes(v));
        const __m128i lo = _mm256_castsi256_si128(sums), hi = _mm256_extracti128_si256(sums, 1);
        _mm_store_si128((void *)x->init[i][0], type->halves ? lo : _mm_add_epi16(lo, hi));
        _mm_store_si128((void *)x->init[i][1], hi);
    }
}

/* Fewer than 4 tokens or 16 rows: by way of a full set of sums. */
static void multiply_edge(const panel_type *type, float *y, size_t ldy, const panel_w *w, const panel_x *x, uint32_t n_blocks,
                          bool first, uint32_t tokens, uint32_t rows) {
    float full[4][2 * MR] = { { 0 } };
    for (uint32_t t = 0; t < tokens && !first; t++) memcpy(full[t], y + t * ldy, rows * sizeof *y);
    type->multiply(full[0], 2 * MR, w, x, n_blocks, first);
    for (uint32_t t = 0; t < tokens; t++) memcpy(y + t * ldy, full[t], rows * sizeof *y);
}

/* Bytes of n_blocks blocks of a tile. */
static size_t panel_bytes(const panel_type *type, size_t n_blocks) {
    return MR * (n_blocks * SG_BLOCK / type->block_values * type->block_bytes);
}

/* Span b .. b + blocks-1 of tokens t0 .. t0 + n-1, laid out in x, against rows row0 .. row1-1. */
static void panel_span(const panel_type *type, float *y, size_t ldy, const uint8_t *w, const sg_acts *a, const uint8_t *x,
                       uint32_t n, uint32_t row0, uint32_t row1, uint32_t b, uint32_t blocks) {
    panel_w p[SPAN];
    memset(p, 0, sizeof p);
    const size_t tile_bytes = panel_bytes(type, a->n_blocks), span_bytes = panel_bytes(type, blocks);
    const uint8_t *tile = w + row0 / MR * tile_bytes + panel_bytes(type, b);
    for (uint32_t r = row0; r < row1; r += 2 * MR, tile += 2 * tile_bytes) {
        const uint32_t rows = row1 - r < 2 * MR ? row1 - r : 2 * MR;
        type->decode(p, 0, tile, blocks);
        if (rows > MR) type->decode(p, 1, tile + tile_bytes, blocks);
        /* The next two tiles' spans are short pieces far apart, which the processor does not fetch by itself, and so are the sums
         * that wait in y: both are asked for here, a little at a time. */
        const uint8_t *ahead = tile + 2 * tile_bytes, *const end = ahead + (row1 - r > 2 * MR ? span_bytes : 0);
        for (uint32_t t = 0; t < n; t += 4) {
            float *at = y + (size_t)t * ldy + r;
            for (uint32_t i = t + 4; i < t + 8 && i < n; i++) __builtin_prefetch(y + (size_t)i * ldy + r, 1);
            for (int i = 0; i < 2 && ahead < end; i++, ahead += 64) {
                __builtin_prefetch(ahead);
                __builtin_prefetch(ahead + tile_bytes);
            }
            const panel_x *quad = (const void *)(x + t / 4 * panel_x_bytes(type->wide));
            if (rows == 2 * MR && n - t >= 4) type->multiply(at, ldy, p, quad, blocks, b == 0);
            else multiply_edge(type, at, ldy, p, quad, blocks, b == 0, n - t < 4 ? n - t : 4, rows);
        }
    }
}

static void panel_gemm(const panel_type *type, float *y, size_t ldy, const void *w, const sg_acts *a, uint32_t row0,
                       uint32_t row1) {
    _Alignas(64) uint8_t x[WALK_BYTES];
    const uint32_t most = (uint32_t)(WALK_BYTES / panel_x_bytes(type->wide)) * 4, walks = (a->n + most - 1) / most;
    const uint32_t per_walk = ((a->n + walks - 1) / walks + 3) / 4 * 4; /* walks of one length */
    for (uint32_t t0 = 0; t0 < a->n; t0 += per_walk) {
        const uint32_t n = a->n - t0 < per_walk ? a->n - t0 : per_walk;
        for (uint32_t b = 0; b < a->n_blocks; b += SPAN) {
            const uint32_t blocks = a->n_blocks - b < SPAN ? a->n_blocks - b : SPAN;
            for (uint32_t t = 0; t < n; t += 4)
                panel_quad((void *)(x + t / 4 * panel_x_bytes(type->wide)), a, t0 + t, n - t < 4 ? n - t : 4, b, blocks, type);
            panel_span(type, y + (size_t)t0 * ldy, ldy, w, a, x, n, row0, row1, b, blocks);
        }
    }
}

#define PANEL_KERNEL(type_, lower)                                                                                     \
    OUTLINE void decode_##lower(panel_w *p, int m, const uint8_t *w, uint32_t n_blocks) {                              \
        panel_decode(type_, p, m, w, n_blocks);                                                                        \
    }                                                                                                                  \
    OUTLINE void multiply_##lower(float *y, size_t ldy, const panel_w *w, const panel_x *x, uint32_t n_blocks,         \
                                  bool first) {                                                                        \
        panel_multiply(type_, y, ldy, w, x, n_blocks, first);                                                          \
    }                                                                                                                  \
    INL panel_type panel_##lower(void) {                                                                               \
        return (panel_type) { decode_##lower,        multiply_##lower, sg_block_values(type_),                         \
                              sg_block_bytes(type_), bias_of(type_),   in_halves(type_),                               \
                              type_ == SG_DTYPE_Q2_K,  has_sign(type_) };                                              \
    }

/* At the beginning of a gemm: everything above two tokens. */
#define PANEL_GEMM(lower)                                                                                              \
    if (a->n > 2) {                                                                                                    \
        const panel_type type = panel_##lower();                                                                       \
        panel_gemm(&type, y, ldy, w, a, row0, row1);                                                                   \
        return;                                                                                                        \
    }
