/* The part of vec_tmpl.h that attention needs: an online softmax over blocks of scores, and sums of values weighted by it.
 * The values of a key lie side by side, so a lane holds a dimension; a tile of rows x vectors of sums stays in registers while
 * the keys pass, and each value that is loaded (and widened) serves all rows of the tile. */

static float attend_softmax(float *s, size_t n, float *max, float *sum) {
    const float before = *max, top = max_of(s, n), now = top > before ? top : before;
    if (now == -INFINITY) {
        memset(s, 0, n * sizeof *s);
        return 1;
    }
    vf acc[PARTS] = { 0 };
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) FOR_PARTS {
            const vf e = exp_v(load(s + i + p * W) - now);
            store(s + i + p * W, e);
            acc[p] += e;
        }
    if (i < n) FOR_PARTS {
            const size_t m = left(n, i, p);
            const vf e = exp_v(load_n(s + i + p * W, m, -INFINITY) - now); /* the padding gives 0 */
            store_n(s + i + p * W, e, m);
            acc[p] += e;
        }
    float keep = 1; /* e^0 */
    if (before != now) {
        float t[W];
        store(t, exp_v(splat(before - now)));
        keep = t[0];
    }
    *max = now;
    *sum = *sum * keep + sum_lanes(acc);
    return keep;
}

#define Q8_0_BYTES 34 /* F16 scale, 32 codes */

INL size_t value_row_bytes(int type, size_t dim) {
    return type == SG_KV_F32 ? 4 * dim : type == SG_KV_F16 ? 2 * dim : dim / 32 * Q8_0_BYTES;
}

/* Values i .. i + W-1 of a key, which lie in one block of Q8_0. */
INL vf load_values(int type, const char *row, size_t i) {
    if (type == SG_KV_F32) return load((const float *)(const void *)row + i);
    if (type == SG_KV_F16) return LOAD_F16((const uint16_t *)(const void *)row + i);
    const char *block = row + i / 32 * Q8_0_BYTES;
    uint16_t d;
    memcpy(&d, block, sizeof d);
    return LOAD_CODES((const int8_t *)block + 2 + i % 32) * HALF(d);
}

/* rows x vecs vectors of sums from dimension i on. */
INL void weigh_tile(int type, int rows, int vecs, float *acc, const float *keep, const float *p, size_t ldp, const char *v,
                    uint32_t n_keys, size_t dim, size_t i) {
    const size_t step = value_row_bytes(type, dim);
    vf a[4][8];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int c = 0; c < vecs; c++) a[r][c] = load(acc + r * dim + i + c * W) * keep[r];
    for (uint32_t j = 0; j < n_keys; j++, v += step) {
        vf x[8];
        UNROLL for (int c = 0; c < vecs; c++) x[c] = load_values(type, v, i + c * W);
        UNROLL for (int r = 0; r < rows; r++) {
            const vf w = splat(p[r * ldp + j]);
            UNROLL for (int c = 0; c < vecs; c++) a[r][c] = FMA(w, x[c], a[r][c]);
        }
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int c = 0; c < vecs; c++) store(acc + r * dim + i + c * W, a[r][c]);
}

/* Dimensions that fill no vector. */
static void weigh_rest(int type, float *acc, float keep, const float *p, const char *v, uint32_t n_keys, size_t dim, size_t i) {
    const size_t step = value_row_bytes(type, dim);
    for (; i < dim; i++) {
        float a = acc[i] * keep;
        for (uint32_t j = 0; j < n_keys; j++) {
            float x;
            uint16_t h;
            if (type == SG_KV_F32) {
                memcpy(&x, v + j * step + 4 * i, sizeof x);
            } else { /* Q8_0 has whole vectors only */
                memcpy(&h, v + j * step + 2 * i, sizeof h);
                x = sg_f16_to_f32(h);
            }
            a = fmaf(p[j], x, a);
        }
        acc[i] = a;
    }
}

/* Vectors of a tile by its number of rows: as many sums as registers allow, and enough to hide the latency of the fma. */
#define VECS_4 (W == 8 ? 2 : 4)
#define VECS_2 4
#define VECS_1 (W == 16 ? 4 : 8)

#define WEIGH_ROWS(type, rows, most)                                                                                   \
    {                                                                                                                  \
        size_t i = 0;                                                                                                  \
        for (; i + (most) * W <= dim; i += (most) * W)                                                                 \
            weigh_tile(type, rows, most, acc, keep, p, ldp, v, n_keys, dim, i);                                        \
        for (; i + W <= dim; i += W) weigh_tile(type, rows, 1, acc, keep, p, ldp, v, n_keys, dim, i);                  \
        if (i < dim)                                                                                                   \
            for (int r = 0; r < rows; r++) weigh_rest(type, acc + r * dim, keep[r], p + r * ldp, v, n_keys, dim, i);   \
    }

#define WEIGH(type, name)                                                                                              \
    static void name(float *acc, const float *keep, const float *p, size_t ldp, uint32_t rows, const void *values,     \
                     uint32_t n_keys, uint32_t width) {                                                                \
        const char *v = values;                                                                                        \
        const size_t dim = width;                                                                                      \
        for (uint32_t at = 0, n; at < rows; at += n, acc += n * dim, keep += n, p += n * ldp) {                        \
            n = rows - at >= 4 ? 4 : rows - at >= 2 ? 2 : 1;                                                           \
            if (n == 4) WEIGH_ROWS(type, 4, VECS_4)                                                                    \
            else if (n == 2) WEIGH_ROWS(type, 2, VECS_2)                                                               \
            else WEIGH_ROWS(type, 1, VECS_1)                                                                           \
        }                                                                                                              \
    }

WEIGH(SG_KV_F16, weigh_f16)
WEIGH(SG_KV_F32, weigh_f32)
WEIGH(SG_KV_Q8_0, weigh_q8_0)
