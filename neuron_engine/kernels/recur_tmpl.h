/* The part of vec_tmpl.h that recurrent layers need (recurrent.h): channels and values of a head lie side by side, so a lane holds
 * one of them, and every sum runs in the lane, in the order of kernels.h. */

#define CONV_BLOCK 128 /* channels whose taps lie turned on the stack; their rows of 512 bytes are long enough for prefetching */

/* Channels [0, m) of one token; row[j]: the inputs of tap j. out may be one of the rows. */
INL void conv_token(float *out, const float *const *row, const float (*w)[CONV_BLOCK], size_t taps, size_t m, bool with_silu) {
    size_t i = 0;
    for (; i + W <= m; i += W) {
        vf acc = { 0 };
        for (size_t j = 0; j < taps; j++) acc = FMA(load(row[j] + i), load(w[j] + i), acc);
        store(out + i, with_silu ? silu(acc) : acc);
    }
    if (i == m) return;
    vf acc = { 0 };
    for (size_t j = 0; j < taps; j++) acc = FMA(load_n(row[j] + i, m - i, 0), load(w[j] + i), acc);
    store_n(out + i, with_silu ? silu(acc) : acc, m - i);
}

/* From the last token to the first, so that out may lie on x: a token's inputs are itself and those before it. */
INL void conv_block(const sg_conv_args *a, size_t at, size_t m, size_t taps) {
    float w[SG_CONV_TAPS_MAX][CONV_BLOCK], next[SG_CONV_TAPS_MAX][CONV_BLOCK];
    const size_t past = taps - 1;
    for (size_t j = 0; j < taps; j++) {
        for (size_t i = 0; i < m; i++) w[j][i] = a->w[(at + i) * taps + j];
        for (size_t i = m; i < (m + W - 1) / W * W; i++) w[j][i] = 0;
    }
    /* Input number i of those before and those of this call. */
#define CONV_INPUT(i) ((i) < past ? a->state + (i) * a->ld_state + at : a->x + ((i) - past) * a->ldx + at)
    for (size_t j = 0; j < past; j++) memcpy(next[j], CONV_INPUT(a->n + j), m * sizeof **next);
    for (size_t t = a->n; t-- > 0;) {
        const float *row[SG_CONV_TAPS_MAX];
        for (size_t j = 0; j < taps; j++) row[j] = CONV_INPUT(t + j);
        conv_token(a->out + t * a->ld_out + at, row, w, taps, m, a->silu);
    }
#undef CONV_INPUT
    for (size_t j = 0; j < past; j++) memcpy(a->state + j * a->ld_state + at, next[j], m * sizeof **next);
}

static void conv(const sg_conv_args *a) {
    for (size_t at = 0; at < a->channels; at += CONV_BLOCK) {
        const size_t m = a->channels - at < CONV_BLOCK ? a->channels - at : CONV_BLOCK;
        if (a->taps == 4) conv_block(a, at, m, 4);
        else if (a->taps == 3) conv_block(a, at, m, 3);
        else conv_block(a, at, m, a->taps);
    }
}

/* Values j .. j + vecs * W of all tokens: their part of the state is small enough to stay in the first-level cache. It is read
 * twice and written once per token; that it decays is computed twice rather than stored. */
INL void delta_tile(const sg_delta_args *a, size_t j, int vecs) {
    const size_t dk = a->dk, dv = a->dv;
    for (size_t t = 0; t < a->n; t++) {
        const float *q = a->q + t * a->ld_qk, *k = a->k + t * a->ld_qk, *v = a->v + t * a->ld_v + j;
        const vf decay = splat(a->decay[t * a->ld_gates]), beta = splat(a->beta[t * a->ld_gates]);
        vf d[8], o[8];
        float *s = a->state + j;
        UNROLL for (int c = 0; c < vecs; c++) d[c] = o[c] = (vf) { 0 };
        for (size_t i = 0; i < dk; i++, s += dv) {
            const vf ki = splat(k[i]);
            UNROLL for (int c = 0; c < vecs; c++) d[c] = FMA(load(s + c * W) * decay, ki, d[c]);
        }
        UNROLL for (int c = 0; c < vecs; c++) d[c] = (load(v + c * W) - d[c]) * beta;
        s = a->state + j;
        for (size_t i = 0; i < dk; i++, s += dv) {
            const vf ki = splat(k[i]), qi = splat(q[i]);
            UNROLL for (int c = 0; c < vecs; c++) {
                const vf x = FMA(ki, d[c], load(s + c * W) * decay);
                store(s + c * W, x);
                o[c] = FMA(x, qi, o[c]);
            }
        }
        UNROLL for (int c = 0; c < vecs; c++) store(a->out + t * a->ld_out + j + c * W, o[c]);
    }
}

/* Value j alone, for those that fill no vector. */
static void delta_rest(const sg_delta_args *a, size_t j) {
    const size_t dk = a->dk, dv = a->dv;
    for (size_t t = 0; t < a->n; t++) {
        const float *q = a->q + t * a->ld_qk, *k = a->k + t * a->ld_qk;
        const float decay = a->decay[t * a->ld_gates];
        float d = 0, o = 0, *s = a->state + j;
        for (size_t i = 0; i < dk; i++) d = fmaf(s[i * dv] * decay, k[i], d);
        d = (a->v[t * a->ld_v + j] - d) * a->beta[t * a->ld_gates];
        for (size_t i = 0; i < dk; i++) {
            s[i * dv] = fmaf(k[i], d, s[i * dv] * decay);
            o = fmaf(s[i * dv], q[i], o);
        }
        a->out[t * a->ld_out + j] = o;
    }
}

/* Sums that registers hold, and enough to hide the latency of the fma. */
#define DELTA_VECS (W == 4 ? 8 : 4)

static void delta(const sg_delta_args *a) {
    size_t j = 0;
    for (; j + DELTA_VECS * W <= a->dv; j += DELTA_VECS * W) delta_tile(a, j, DELTA_VECS);
    for (; j + W <= a->dv; j += W) delta_tile(a, j, 1);
    for (; j < a->dv; j++) delta_rest(a, j);
}
