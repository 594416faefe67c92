/* One token in AVX2. Each weight is used once, so the time per byte is all there is: several tiles are walked at the same time,
 * which hides the latency of the sums and gives the memory as many streams; products are summed in 16 bits as long as they fit,
 * and sub-scales are applied by the vpmaddwd that widens them. Part of tile_tmpl.h. */

/* A pointer of which GCC knows nothing: what is loaded through it stays inside the loop over tiles instead of being spilled before
 * it. */
#define FRESH(p) __asm__ volatile("" : "+r"(p))

/* Groups whose 16-bit sums of products of codes up to `top` fit. */
INL int fit_of(int type) { return 32767 / (top_of(type) * 127 * 2); }

/* The walk of `tiles` tiles that lie `apart` bytes from each other. */
typedef struct gemv_walk {
    const uint8_t *w;
    size_t apart;
    const int8_t *q;
    const float *dx, *dsum;
    const int16_t *sums;
} gemv_walk;

#define FOR_TILES UNROLL for (int m = 0; m < tiles; m++)

/* Codes of groups g and g + 4, g < 4, of a block of a simple type. */
INL void group_pair(int type, const uint8_t *w, int g, vu *low, vu *high) {
    if (type == SG_DTYPE_Q8_0) {
        *low = hold(load_u(w + MR * (SG_T_Q8_0_QS + 4 * g)));
        *high = hold(load_u(w + MR * (SG_T_Q8_0_QS + 4 * (g + 4))));
        return;
    }
    const int qs = type == SG_DTYPE_Q4_0     ? SG_T_Q4_0_QS
                   : type == SG_DTYPE_Q4_1   ? SG_T_Q4_1_QS
                   : type == SG_DTYPE_Q5_0   ? SG_T_Q5_0_QS
                   : type == SG_DTYPE_Q5_1   ? SG_T_Q5_1_QS
                   : type == SG_DTYPE_IQ4_NL ? SG_T_IQ4_NL_QS
                                             : SG_T_MXFP4_QS;
    const vu v = hold(load_u(w + MR * (qs + 4 * g)));
    *low = v & 0x0f0f0f0fu;
    *high = v >> 4 & 0x0f0f0f0fu;
    if (type == SG_DTYPE_Q5_0 || type == SG_DTYPE_Q5_1) {
        const vu h = load_u(w + MR * (type == SG_DTYPE_Q5_0 ? SG_T_Q5_0_QH : SG_T_Q5_1_QH));
        *low |= h << (4 - g) & 0x10101010u;
        *high |= h >> g & 0x10101010u;
    } else if (type == SG_DTYPE_IQ4_NL || type == SG_DTYPE_MXFP4) {
        const vu table = load_u(type == SG_DTYPE_IQ4_NL ? iq4_nl_table : mxfp4_table);
        *low = lookup(table, *low);
        *high = lookup(table, *high);
    }
}

/* |c| times x with the sign of c; 128 * 127 * 2 fits into 16 bits. */
INL vi mul_signed(vu c, vu x) {
    return madd16(mul_bytes(magnitude(c), with_sign(x, c)), ones16());
}

/* One block of a simple type. */
INL void block_simple(int type, int tiles, const gemv_walk *k, vf acc[4]) {
    const bool is_signed = top_of(type) < 0, halves_apart = !is_signed && fit_of(type) < 8;
    vu low[4], high[4];
    vi s[4];
    UNROLL for (int g = 0; g < 4; g++) {
        const vu xl = hold(broadcast(k->q + 4 * g)), xh = hold(broadcast(k->q + 16 + 4 * g));
        FOR_TILES {
            vu cl, ch;
            group_pair(type, k->w + m * k->apart, g, &cl, &ch);
            if (is_signed) {
                s[m] = g ? add32(s[m], mul_signed(cl, xl)) : mul_signed(cl, xl);
                s[m] = add32(s[m], mul_signed(ch, xh));
            } else {
                const vu pl = mul_bytes(cl, xl), ph = mul_bytes(ch, xh);
                low[m] = g ? add16(low[m], pl) : pl;
                if (halves_apart) high[m] = g ? add16(high[m], ph) : ph;
                else low[m] = add16(low[m], ph);
            }
        }
    }
    const vu sums = broadcast(k->sums);
    const int bias = bias_of(type);
    const vi off = madd16(sums, splat_u(((uint32_t)-bias & 0xffff) | (uint32_t)-bias << 16));
    const vf dx = splat_f(*k->dx);
    FOR_TILES {
        const uint8_t *w = k->w + m * k->apart;
        if (!is_signed) s[m] = madd16(low[m], ones16());
        if (halves_apart) s[m] += madd16(high[m], ones16());
        if (bias) s[m] += off;
        const vf d = type == SG_DTYPE_MXFP4 ? e8m0_half(w) : halves(w);
        acc[m] = fma_v(to_float(s[m]), d * dx, acc[m]);
        if (has_min(type)) acc[m] = fma_v(halves(w + MR * SG_T_Q4_1_M), splat_f(*k->dsum), acc[m]);
    }
}

/* Byte i of every word as a pair of 16-bit numbers. */
INL vu byte_pair(vu w, int i) {
    const uint32_t c = 0x80008000u | (uint32_t)i | (uint32_t)i << 16;
    return (vu)_mm256_shuffle_epi8((__m256i)w, (__m256i)((vu) { c, c + 0x00040004u, c + 0x00080008u, c + 0x000c000cu, c, c + 0x00040004u,
                                                                c + 0x00080008u, c + 0x000c000cu }));
}

/* Byte i of every word as a word. */
INL vu byte_word(vu w, int i) {
    const uint32_t c = 0x80808000u | (uint32_t)i;
    return (vu)_mm256_shuffle_epi8((__m256i)w, (__m256i)((vu) { c, c + 4, c + 8, c + 12, c, c + 4, c + 8, c + 12 }));
}

/* One super-block of Q4_K or Q5_K of one tile: a word holds the codes of two sub-blocks. */
INL void block_k45(int type, const gemv_walk *k, vf *acc) {
    const bool five = type == SG_DTYPE_Q5_K;
    const uint8_t *w = k->w, *qs = w + MR * (five ? SG_T_Q5_K_QS : SG_T_Q4_K_QS), *at = w + MR * SG_T_Q4_K_SCALES;
    const vu w0 = hold(load_u(at)), w1 = hold(load_u(at + 4 * MR)), w2 = hold(load_u(at + 8 * MR)); /* see sg_k4_scales */
    const vu scales[2] = { w0 & 0x3f3f3f3fu, (w2 & 0x0f0f0f0fu) | (w0 >> 2 & 0x30303030u) };
    const vu mins[2] = { w1 & 0x3f3f3f3fu, (w2 >> 4 & 0x0f0f0f0fu) | (w1 >> 2 & 0x30303030u) };
    vf u = { 0 }, v = { 0 };
    UNROLL for (int j = 0; j < 8; j += 2) {
        const int8_t *q = k->q + 32 * j;
        vu sum[2];
        vi s[2];
        UNROLL for (int g = 0; g < 8; g++) {
            const vu x[2] = { hold(broadcast(q + 4 * g)), hold(broadcast(q + 32 + 4 * g)) };
            const vu codes = hold(load_u(qs + MR * (j / 2 * 32 + 4 * g)));
            vu c[2] = { codes & 0x0f0f0f0fu, codes >> 4 & 0x0f0f0f0fu };
            if (five) {
                const vu h = hold(load_u(w + MR * (SG_T_Q5_K_QH + 4 * g)));
                c[0] |= (j < 4 ? h << (4 - j) : h >> (j - 4)) & 0x10101010u;
                c[1] |= (j < 3 ? h << (3 - j) : h >> (j - 3)) & 0x10101010u;
            }
            UNROLL for (int i = 0; i < 2; i++) {
                const vu p = mul_bytes(c[i], x[i]);
                sum[i] = g == 0 || (five && g == 4) ? p : add16(sum[i], p); /* four groups of codes up to 31 fit */
                if (g != 7 && !(five && g == 3)) continue;
                const vi t = madd16(sum[i], byte_pair(scales[j / 4], (j & 3) + i));
                s[i] = five && g == 7 ? add32(s[i], t) : t;
            }
        }
        UNROLL for (int i = 0; i < 2; i++) {
            u = fma_v(to_float(s[i]), splat_f(k->dx[j + i]), u);
            v = fma_v(to_float((vi)byte_word(mins[j / 4], (j & 3) + i)), splat_f(k->dsum[j + i]), v);
        }
    }
    *acc = fma_v(halves(w), u, *acc);
    *acc = fma_v(-halves(w + MR * SG_T_Q4_K_DMIN), v, *acc);
}

/* Signed byte i of every word as a pair of 16-bit numbers. */
INL vu signed_pair(vu w, int i) {
    const uint32_t c = (uint32_t)i << 8 | (uint32_t)i << 24 | 0x00800080u;
    const vu at_top = (vu)_mm256_shuffle_epi8((__m256i)w, (__m256i)((vu) { c, c + 0x04000400u, c + 0x08000800u, c + 0x0c000c00u, c,
                                                                           c + 0x04000400u, c + 0x08000800u, c + 0x0c000c00u }));
    return (vu)_mm256_srai_epi16((__m256i)at_top, 8);
}

/* Half a super-block of Q6_K of one tile: four sub-blocks. u: the sum of the rule. */
INL void half_q6_k(const gemv_walk *k, int half, vf *u) {
    const int8_t *q = k->q + 128 * half;
    const uint8_t *scales_at = k->w + MR * (SG_T_Q6_K_SCALES + half * 8);
    vi s[4];
    vu sum[4];
    UNROLL for (int g = 0; g < 8; g++) {
        const uint8_t *w = k->w + MR * (SG_T_Q6_K_Q + (half * 8 + g) * 12);
        const vu h = hold(load_u(w));
        UNROLL for (int p = 0; p < 2; p++) {
            const vu v = hold(load_u(w + MR * 4 * (1 + p)));
            const vu cl = (v & 0x0f0f0f0fu) | (h << (4 - 2 * p) & 0x30303030u);
            const vu ch = (v >> 4 & 0x0f0f0f0fu) | (h >> 2 * p & 0x30303030u);
            const vu pl = mul_bytes(cl, broadcast(q + 32 * p + 4 * g)), ph = mul_bytes(ch, broadcast(q + 32 * (p + 2) + 4 * g));
            sum[p] = g % 2 ? add16(sum[p], pl) : pl; /* two groups of codes up to 63 fit */
            sum[p + 2] = g % 2 ? add16(sum[p + 2], ph) : ph;
        }
        if (g % 2 == 0) continue;
        const vu s01 = load_u(scales_at), s23 = load_u(scales_at + MR * 4);
        UNROLL for (int p = 0; p < 4; p++) {
            const vi t = madd16(sum[p], signed_pair(p < 2 ? s01 : s23, 2 * (p & 1) + g / 4));
            s[p] = g == 1 ? t : add32(s[p], t);
        }
    }
    UNROLL for (int p = 0; p < 4; p++) {
        const int j = 4 * half + p;
        const vu scales = load_u(k->w + MR * (SG_T_Q6_K_SCALES + j / 2 * 4));
        const vu a = signed_pair(scales, 2 * (j & 1)), b = signed_pair(scales, 2 * (j & 1) + 1);
        const vi off = madd16(broadcast(k->sums + 2 * j), (a & 0xffffu) | (b & 0xffff0000u)); /* codes are 32 too large */
        *u = fma_v(to_float(s[p] - (off << 5)), splat_f(k->dx[j]), *u);
    }
}

INL bool has_gemv(int type) { return !is_k(type) || type == SG_DTYPE_Q4_K || type == SG_DTYPE_Q5_K || type == SG_DTYPE_Q6_K; }

/* One token against STREAMS tiles that lie `stride` tiles from each other, all rows of which exist: as many long streams, which is
 * what makes the processor's own prefetching fetch most (software prefetch gets no further than the first-level cache's few
 * misses in flight). Registers decide how many tiles are computed together. */
#define STREAMS 4
#ifdef __clang__
#define APART _Pragma("clang loop unroll(disable)")
#else
#define APART _Pragma("GCC unroll 1")
#endif
INL void gemv_streams(int type, float *y, const uint8_t *w, const sg_acts *a, uint32_t stride) {
    const size_t nb = a->n_blocks, step = MR * (size_t)sg_block_bytes(type), blocks = sg_block_values(type) / SG_BLOCK;
    gemv_walk k = { w, stride * (nb / blocks) * step, a->q, a->d, a->dsum, a->sums };
    vf acc[STREAMS];
    UNROLL for (int m = 0; m < STREAMS; m++) acc[m] = (vf) { 0 };
    for (size_t i = 0; i < nb; i += blocks) {
        gemv_walk t = k;

        if (type == SG_DTYPE_Q6_K) {
            APART for (int m = 0; m < STREAMS; m++, t.w += t.apart) {
                FRESH(t.q);
                FRESH(t.dx);
                FRESH(t.sums);
                vf u = { 0 };
                UNROLL for (int half = 0; half < 2; half++) half_q6_k(&t, half, &u);
                acc[m] = fma_v(halves(t.w), u, acc[m]);
            }
        } else if (is_k(type)) {
            APART for (int m = 0; m < STREAMS; m++, t.w += t.apart) {
                FRESH(t.q);
                FRESH(t.dx);
                FRESH(t.dsum);
                block_k45(type, &t, &acc[m]);
            }
        } else if (type != SG_DTYPE_Q4_0 && type != SG_DTYPE_Q8_0 && type != SG_DTYPE_MXFP4) {
            APART for (int m = 0; m < STREAMS; m++, t.w += t.apart) block_simple(type, 1, &t, acc + m);
        } else {
            block_simple(type, STREAMS, &t, acc);
        }
        k.w += step;
        k.q += blocks * SG_BLOCK;
        k.dx += blocks;
        k.dsum += blocks;
        k.sums += 2 * blocks;
    }
    UNROLL for (int m = 0; m < STREAMS; m++) *(vf_mem *)(y + (size_t)m * stride * MR) = acc[m];
}

#define GEMV_KERNEL(type_, lower)                                                                                      \
    OUTLINE void streams_##lower(float *y, const uint8_t *w, const sg_acts *a, uint32_t stride) {                      \
        gemv_streams(type_, y, w, a, stride);                                                                          \
    }                                                                                                                  \
    static void gemv_##lower(float *restrict y, size_t ldy, const void *restrict w, const sg_acts *restrict a,         \
                             uint32_t row0, uint32_t row1) {                                                           \
        const size_t row_bytes = (size_t)a->n_blocks * SG_BLOCK / sg_block_values(type_) * sg_block_bytes(type_);      \
        const uint32_t stride = has_gemv(type_) ? (row1 - row0) / MR / STREAMS : 0;                                    \
        const uint32_t rest = row0 + stride * STREAMS * MR;                                                            \
        for (uint32_t r = row0; r < row0 + stride * MR; r += MR)                                                       \
            streams_##lower(y + r, (const uint8_t *)w + r * row_bytes, a, stride);                                     \
        if (rest < row1) gemm_##lower(y, ldy, w, a, rest, row1);                                                       \
    }
