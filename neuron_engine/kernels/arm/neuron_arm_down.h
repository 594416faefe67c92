/* Down rows in NEON, part of neuron_arm.h. The sums lie in natural order; codes are signed, so nothing is taken off at the end. */
#define PIECE 128u /* blocks whose factors are kept at a time; even */

/* Factors of a neuron for n blocks. */
INL void factors(int16_t *a, const uint8_t *d, float h, uint32_t n) {
    uint32_t b = 0;
    for (; b + 4 <= n; b += 4) vst1_s16(a + b, vmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(load_halves(d + 2 * b), h))));
    for (; b < n; b++) a[b] = (int16_t)vcvtns_s32_f32(h * half_at(d + 2 * b));
}

/* s[0..7] += a * 16-bit codes of a block, c[i] those of the values 8i to 8i + 7. */
INL void add_codes(int32x4_t s[8], const int16x8_t c[4], int16_t a) {
    UNROLL for (int i = 0; i < 4; i++) {
        s[2 * i] = vmlal_n_s16(s[2 * i], vget_low_s16(c[i]), a);
        s[2 * i + 1] = vmlal_high_n_s16(s[2 * i + 1], c[i], a);
    }
}

/* Codes of block b of n (of a piece). Q4_0: each nibble of a word is moved to the top, with its sign, and back. */
INL void block_codes(sg_dtype type, const uint8_t *codes, uint32_t b, uint32_t n, int16x8_t c[4]) {
    if (type == SG_DTYPE_Q4_0) {
        const uint8_t *from = codes + b / 2 * 32;
        const uint16x8_t w0 = vreinterpretq_u16_u8(vld1q_u8(from));
        uint16x8_t w = w0;
        if (b % 2 == 1 || b + 1 < n) { /* two blocks, word by word in turns */
            const uint16x8_t w1 = vreinterpretq_u16_u8(vld1q_u8(from + 16));
            w = b % 2 ? vuzp2q_u16(w0, w1) : vuzp1q_u16(w0, w1);
        }
        const int16x8_t v = vreinterpretq_s16_u16(veorq_u16(w, vdupq_n_u16(0x0888)));
        c[0] = vshrq_n_s16(vshlq_n_s16(v, 12), 12);
        c[1] = vshrq_n_s16(vshlq_n_s16(v, 8), 12);
        c[2] = vshrq_n_s16(vshlq_n_s16(v, 4), 12);
        c[3] = vshrq_n_s16(v, 12);
        return;
    }
    UNROLL for (int i = 0; i < 2; i++) {
        const int8x16_t v = load_codes(codes + 32 * b + 16 * i);
        c[2 * i] = vmovl_s8(vget_low_s8(v));
        c[2 * i + 1] = vmovl_high_s8(v);
    }
}

INL void down_add(sg_dtype type, int32_t *sum, const uint8_t *w, size_t stride, const uint32_t *rows, const float *hs, uint32_t n,
                  uint32_t k) {
    const uint32_t blocks = k / SG_BLOCK;
    const size_t size = sg_block_bytes(type) - 2;
    for (uint32_t j = 0; j < n; j += ROWS) {
        const uint32_t here = n - j < ROWS ? n - j : ROWS;
        for (uint32_t from = 0; from < blocks; from += PIECE) {
            const uint32_t some = blocks - from < PIECE ? blocks - from : PIECE;
            int16_t a[ROWS][PIECE];
            const uint8_t *codes[ROWS];
            for (uint32_t r = 0; r < here; r++) {
                const uint8_t *row = row_at(w, stride, rows, j + r);
                factors(a[r], row + 2 * (size_t)from, hs[j + r], some);
                codes[r] = row + 2 * (size_t)blocks + from * size;
            }
            for (uint32_t b = 0; b < some; b++) {
                int32_t *at = sum + (size_t)(from + b) * SG_BLOCK;
                int32x4_t s[8];
                UNROLL for (int i = 0; i < 8; i++) s[i] = vld1q_s32(at + 4 * i);
                for (uint32_t r = 0; r < here; r++) {
                    int16x8_t c[4];
                    block_codes(type, codes[r], b, some, c);
                    add_codes(s, c, a[r][b]);
                }
                UNROLL for (int i = 0; i < 8; i++) vst1q_s32(at + 4 * i, s[i]);
            }
        }
    }
}

INL void down_end(sg_dtype type, float *y, const int32_t *sum, size_t apart, uint32_t parts, uint32_t k, uint32_t b0, uint32_t b1,
                  float scale) {
    (void)type;
    (void)k;
    for (size_t i = (size_t)b0 * SG_BLOCK; i < (size_t)b1 * SG_BLOCK; i += 4) {
        int32x4_t s = vdupq_n_s32(0);
        for (uint32_t p = 0; p < parts; p++) s = vaddq_s32(s, vld1q_s32(sum + p * apart + i));
        vst1q_f32(y + i, vmulq_n_f32(vcvtq_f32_s32(s), scale));
    }
}

/* The bits of non-negative halves order like the halves. */
static float down_max(const uint8_t *row, uint32_t k) {
    const uint32_t n = k / SG_BLOCK;
    uint32_t b = 0;
    uint16x8_t top = vdupq_n_u16(0);
    for (; b + 8 <= n; b += 8) top = vmaxq_u16(top, vandq_u16(vreinterpretq_u16_u8(vld1q_u8(row + 2 * b)), vdupq_n_u16(0x7fff)));
    uint16_t most = vmaxvq_u16(top);
    for (; b < n; b++) {
        const uint16_t bits = (uint16_t)(row[2 * b] | (row[2 * b + 1] & 0x7f) << 8);
        if (bits > most) most = bits;
    }
    return sg_f16_to_f32(most);
}

INL void down_floats(sg_dtype type, float *y, const uint8_t *w, size_t stride, const uint32_t *rows, const float *h, uint32_t n,
                     uint32_t i0, uint32_t i1) {
    for (uint32_t j = 0; j < n; j += ROWS) {
        const uint32_t here = n - j < ROWS ? n - j : ROWS;
        const uint8_t *row[ROWS];
        for (uint32_t r = 0; r < here; r++) row[r] = row_at(w, stride, rows, j + r);
        uint32_t i = i0;
        for (; i + 8 <= i1; i += 8) {
            float32x4_t v0 = vld1q_f32(y + i), v1 = vld1q_f32(y + i + 4);
            for (uint32_t r = 0; r < here; r++) {
                const lanes_f f = float_lanes(type, row[r], i);
                v0 = vfmaq_n_f32(v0, f.v[0], h[j + r]);
                v1 = vfmaq_n_f32(v1, f.v[1], h[j + r]);
            }
            vst1q_f32(y + i, v0);
            vst1q_f32(y + i + 4, v1);
        }
        for (; i < i1; i++)
            for (uint32_t r = 0; r < here; r++) {
                float f;
                if (type == SG_DTYPE_F16) f = half_at(row[r] + 2 * (size_t)i);
                else memcpy(&f, row[r] + 4 * (size_t)i, 4);
                y[i] = __builtin_fmaf(f, h[j + r], y[i]);
            }
    }
}
