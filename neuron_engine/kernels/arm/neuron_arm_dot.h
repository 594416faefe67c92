/* Dot rows in NEON, part of neuron_arm.h: a pair of vectors of codes holds four values of each of eight blocks of one row, and the
 * activations lie the same way. */
INL float sum_lanes(lanes_f acc) {
    const float32x4_t s = vaddq_f32(acc.v[0], acc.v[1]); /* 0+4 1+5 2+6 3+7 */
    const float32x2_t t = vadd_f32(vget_low_f32(s), vget_high_f32(s));
    return vget_lane_f32(t, 0) + vget_lane_f32(t, 1);
}

INL size_t group_bytes(sg_dtype type) { return SG_LANES * (size_t)sg_block_bytes(type); }

/* The codes of half a group (four blocks): Q4_0 unsigned, 8 too large; Q8_0 signed. */
INL void code_vectors(sg_dtype type, const uint8_t *group, int half, int8x16_t c[8]) {
    const uint8_t *codes = group + 2 * SG_LANES + 16 * half;
    if (type == SG_DTYPE_Q8_0) {
        UNROLL for (int g = 0; g < 8; g++) c[g] = load_codes(codes + 32 * g);
        return;
    }
    UNROLL for (int g = 0; g < 4; g++) {
        const uint8x16_t v = vld1q_u8(codes + 32 * g);
        c[g] = vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(15)));
        c[g + 4] = vreinterpretq_s8_u8(vshrq_n_u8(v, 4));
    }
}

/* Sums of the products of four blocks. Without SDOT they are added in 16 bits where they fit: 8 products of at most 15 * 127 in
 * each half and then two such sums (30480); 2 of at most 128 * 127. */
INL int32x4_t products(sg_dtype type, const int8x16_t c[8], const int8_t *q) {
#ifdef __ARM_FEATURE_DOTPROD
    (void)type;
    int32x4_t s = vdupq_n_s32(0);
    UNROLL for (int g = 0; g < 8; g++) s = vdotq_s32(s, c[g], load_codes(q + 32 * g));
    return s;
#else
    int16x8_t low = vdupq_n_s16(0), high = low;
    int32x4_t s0 = vdupq_n_s32(0), s1 = s0;
    UNROLL for (int g = 0; g < 8; g++) {
        const int8x16_t x = load_codes(q + 32 * g);
        const bool first = type == SG_DTYPE_Q4_0 ? g == 0 : g % 2 == 0;
        low = first ? vmull_s8(vget_low_s8(c[g]), vget_low_s8(x)) : vmlal_s8(low, vget_low_s8(c[g]), vget_low_s8(x));
        high = first ? vmull_high_s8(c[g], x) : vmlal_high_s8(high, c[g], x);
        if (type == SG_DTYPE_Q4_0 || first) continue;
        s0 = vpadalq_s16(s0, low);
        s1 = vpadalq_s16(s1, high);
    }
    return type == SG_DTYPE_Q4_0 ? vpaddlq_s16(vpaddq_s16(low, high)) : vpaddq_s32(s0, s1);
#endif
}

/* acc + the products of half a group times its scales. */
INL float32x4_t add_half(sg_dtype type, float32x4_t acc, const int8x16_t c[8], float32x4_t dw, const sg_lane_acts *a, size_t at,
                         int half) {
    const size_t lane = at * SG_LANES + 4 * (size_t)half;
    int32x4_t s = products(type, c, a->q + at * GROUP + 16 * half);
    if (type == SG_DTYPE_Q4_0) s = vsubq_s32(s, vshlq_n_s32(vld1q_s32(a->sum + lane), 3));
    return vfmaq_f32(acc, vcvtq_f32_s32(s), vmulq_f32(dw, vld1q_f32(a->d + lane)));
}

/* n rows and one token, or one row and n tokens from t on (row[0] each time): n sums. */
INL void dot_blocks(sg_dtype type, int n, bool by_token, float *y, size_t ldy, const uint8_t *const *row, const sg_lane_acts *a,
                    uint32_t t) {
    lanes_f acc[ROWS];
    UNROLL for (int i = 0; i < n; i++) acc[i].v[0] = acc[i].v[1] = vdupq_n_f32(0);
    for (size_t g = 0, off = 0; g < a->n_groups; g++, off += group_bytes(type)) {
        UNROLL for (int half = 0; half < 2; half++) {
            int8x16_t c[8];
            float32x4_t d;
            UNROLL for (int i = 0; i < n; i++) {
                const uint8_t *group = row[by_token ? 0 : i] + off;
                if (!by_token || i == 0) {
                    code_vectors(type, group, half, c);
                    d = load_halves(group + 8 * half);
                }
                const size_t at = ((size_t)t + (by_token ? (size_t)i : 0)) * a->n_groups + g;
                acc[i].v[half] = add_half(type, acc[i].v[half], c, d, a, at, half);
            }
        }
    }
    UNROLL for (int i = 0; i < n; i++) y[(size_t)i * ldy] = sum_lanes(acc[i]);
}

INL lanes_f float_acts(const float *x, uint32_t n, size_t k) {
    if (k + SG_LANES <= n) return (lanes_f) { { vld1q_f32(x + k), vld1q_f32(x + k + 4) } };
    float last[SG_LANES] = { 0 };
    memcpy(last, x + k, (n - k) * sizeof *x);
    return (lanes_f) { { vld1q_f32(last), vld1q_f32(last + 4) } };
}

INL void dot_floats(sg_dtype type, int n, bool by_token, float *y, size_t ldy, const uint8_t *const *row, const sg_lane_acts *a,
                    uint32_t t) {
    lanes_f acc[ROWS], w, x;
    UNROLL for (int i = 0; i < n; i++) acc[i].v[0] = acc[i].v[1] = vdupq_n_f32(0);
    for (size_t k = 0; k < a->k; k += SG_LANES) {
        UNROLL for (int i = 0; i < n; i++) {
            if (!by_token || i == 0) w = float_lanes(type, row[by_token ? 0 : i], k);
            if (by_token || i == 0) x = float_acts(a->x + ((size_t)t + (size_t)i) * a->k, a->k, k);
            UNROLL for (int half = 0; half < 2; half++) acc[i].v[half] = vfmaq_f32(acc[i].v[half], w.v[half], x.v[half]);
        }
    }
    UNROLL for (int i = 0; i < n; i++) y[(size_t)i * ldy] = sum_lanes(acc[i]);
}

INL void dot_some(sg_dtype type, int n, bool by_token, float *y, size_t ldy, const uint8_t *const *row, const sg_lane_acts *a,
                  uint32_t t) {
    if (is_float(type)) dot_floats(type, n, by_token, y, ldy, row, a, t);
    else dot_blocks(type, n, by_token, y, ldy, row, a, t);
}

INL void dot_any(sg_dtype type, float *y, const uint8_t *w, size_t stride, const uint32_t *rows, uint32_t n,
                  const sg_lane_acts *a, uint32_t t) {
    const uint8_t *row[ROWS];
    uint32_t i = 0;
    for (; i + ROWS <= n; i += ROWS) {
        for (uint32_t j = 0; j < ROWS; j++) row[j] = row_at(w, stride, rows, i + j);
        dot_some(type, ROWS, false, y + i, 1, row, a, t);
    }
    for (; i < n; i++) {
        row[0] = row_at(w, stride, rows, i);
        dot_some(type, 1, false, y + i, 1, row, a, t);
    }
}

#define STRIP 32u /* rows that stay in the cache while all tokens pass */

INL void dot_all(sg_dtype type, float *y, size_t ldy, const uint8_t *w, size_t stride, uint32_t n, const sg_lane_acts *a) {
    for (uint32_t from = 0; from < n; from += STRIP) {
        const uint32_t to = n - from < STRIP ? n : from + STRIP;
        uint32_t t = 0;
        for (; t + ROWS <= a->n; t += ROWS)
            for (uint32_t i = from; i < to; i++) {
                const uint8_t *row = w + i * stride;
                dot_some(type, ROWS, true, y + (size_t)t * ldy + i, ldy, &row, a, t);
            }
        for (; t < a->n; t++) dot_any(type, y + (size_t)t * ldy + from, w + from * stride, stride, NULL, to - from, a, t);
    }
}
