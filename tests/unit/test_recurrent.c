/* Recurrent layers against plain double-precision computations written apart from them, and to the bit against themselves:
 * tokens in any portions, heads and channels in any ranges, a state that was saved and restored. */
#include "neuron_engine/recurrent.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint32_t seed = 7;
static float noise(void) {
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8) / 8388608.0f - 1.0f;
}

static float *noise_array(size_t n, float scale) {
    float *x = malloc(n * sizeof *x);
    ck_assert_ptr_nonnull(x);
    for (size_t i = 0; i < n; i++) x[i] = scale * noise();
    return x;
}

static float *copy_of(const float *x, size_t n) {
    float *y = malloc(n * sizeof *y);
    ck_assert_ptr_nonnull(y);
    return memcpy(y, x, n * sizeof *y);
}

static double silu(double x) { return x / (1 + exp(-x)); }

static sg_kernels best(void) {
    sg_kernels k;
    sg_kernels_init(&k, sg_cpu_detect());
    return k;
}

/* One delta-rule layer and what it computes from N tokens. */
enum { N = 11, LD_MORE = 3 };
typedef struct layer {
    sg_delta d;
    uint32_t channels, values; /* of a token */
    float *qkv, *alpha, *beta, *z, *weights[4];
    size_t ld, ld_z;
} layer;

static layer layer_new(uint32_t n_key, uint32_t per_key, uint32_t dk, uint32_t dv, uint32_t taps, bool key_modulo) {
    layer l = { .d = { .n_key = n_key, .n_value = n_key * per_key, .dk = dk, .dv = dv, .taps = taps, .key_modulo = key_modulo, .eps = 1e-3f } };
    l.channels = (uint32_t)sg_delta_channels(&l.d);
    ck_assert_uint_eq(l.channels, 2 * n_key * dk + n_key * per_key * dv);
    l.values = l.d.n_value * dv;
    l.ld = l.channels + LD_MORE;
    l.ld_z = l.values + LD_MORE;
    l.qkv = noise_array(N * l.ld, 2);
    l.z = noise_array(N * l.ld_z, 2);
    l.alpha = noise_array(N * (size_t)l.d.n_value, 3);
    l.beta = noise_array(N * (size_t)l.d.n_value, 3);
    l.d.conv = l.weights[0] = noise_array((size_t)l.channels * taps, 1);
    l.d.a = l.weights[1] = noise_array(l.d.n_value, 1);
    l.d.dt_bias = l.weights[2] = noise_array(l.d.n_value, 1);
    l.d.norm = l.weights[3] = noise_array(dv, 1);
    for (uint32_t h = 0; h < l.d.n_value; h++) l.weights[1][h] = -0.05f - fabsf(l.weights[1][h]);
    return l;
}

static void layer_free(layer *l) {
    free(l->qkv), free(l->alpha), free(l->beta), free(l->z);
    for (int i = 0; i < 4; i++) free(l->weights[i]);
}

/* x = (values before the first token) convolved, activated, its queries and keys made of length 1. */
static double *slow_prepared(const layer *l) {
    const sg_delta *d = &l->d;
    double *y = calloc((size_t)N * l->channels, sizeof *y);
    ck_assert_ptr_nonnull(y);
    for (int t = 0; t < N; t++) {
        double *row = y + (size_t)t * l->channels;
        for (uint32_t c = 0; c < l->channels; c++) {
            for (int j = 0; j < (int)d->taps; j++) {
                const int from = t - (int)d->taps + 1 + j;
                if (from >= 0) row[c] += (double)l->qkv[(size_t)from * l->ld + c] * d->conv[c * d->taps + (uint32_t)j];
            }
            row[c] = silu(row[c]);
        }
        for (uint32_t h = 0; h < 2 * d->n_key; h++) {
            double square = 0, by;
            for (uint32_t i = 0; i < d->dk; i++) square += row[h * d->dk + i] * row[h * d->dk + i];
            by = 1 / fmax(sqrt(square), d->eps);
            if (h < d->n_key) by /= sqrt(d->dk);
            for (uint32_t i = 0; i < d->dk; i++) row[h * d->dk + i] *= by;
        }
    }
    return y;
}

/* The layer in the words of the paper: S = S (a (I - b k k^T)) + b v k^T, with S transposed here. out: [N][values]. */
static double *slow_layer(const layer *l) {
    const sg_delta *d = &l->d;
    const uint32_t dk = d->dk, dv = d->dv, per_key = d->n_value / d->n_key;
    double *x = slow_prepared(l), *out = malloc((size_t)N * l->values * sizeof *out), *s = malloc((size_t)dk * dv * sizeof *s);
    ck_assert(out && s);
    for (uint32_t h = 0; h < d->n_value; h++) {
        memset(s, 0, (size_t)dk * dv * sizeof *s);
        for (uint32_t t = 0; t < N; t++) {
            const double *row = x + (size_t)t * l->channels, *q = row + (d->key_modulo ? h % d->n_key : h / per_key) * dk;
            const double *k = q + d->n_key * dk, *v = row + 2 * d->n_key * dk + h * dv;
            const double step = log1p(exp((double)l->alpha[t * d->n_value + h] + d->dt_bias[h]));
            const double decay = exp(d->a[h] * step), beta = 1 / (1 + exp(-(double)l->beta[t * d->n_value + h]));
            double square = 0;
            double *o = out + (size_t)t * l->values + h * dv;
            for (uint32_t j = 0; j < dv; j++) {
                double kv = 0;
                for (uint32_t i = 0; i < dk; i++) kv += k[i] * s[i * dv + j];
                o[j] = 0;
                for (uint32_t i = 0; i < dk; i++) {
                    s[i * dv + j] = decay * (s[i * dv + j] - beta * k[i] * kv) + beta * v[j] * k[i];
                    o[j] += s[i * dv + j] * q[i];
                }
                square += o[j] * o[j];
            }
            for (uint32_t j = 0; j < dv; j++)
                o[j] *= d->norm[j] / sqrt(square / dv + d->eps) * silu(l->z[t * l->ld_z + h * dv + j]);
        }
    }
    free(x), free(s);
    return out;
}

/* The layer, `portion` tokens at a time and `heads` heads at a time (the last first); returns [N][values]. */
static float *run_layer(const layer *l, const sg_vec_fns *vec, sg_recurrent_state *s, uint32_t first, uint32_t end, uint32_t portion,
                        uint32_t heads) {
    float *qkv = copy_of(l->qkv, N * l->ld), *alpha = copy_of(l->alpha, N * (size_t)l->d.n_value);
    float *beta = copy_of(l->beta, N * (size_t)l->d.n_value), *out = noise_array((size_t)N * l->values, 1);
    for (uint32_t t = first, n; t < end; t += n) {
        n = end - t < portion ? end - t : portion;
        for (uint32_t to = sg_delta_parts(&l->d), from; to > 0; to = from) {
            from = to > heads ? to - heads : 0;
            sg_delta_prepare(&l->d, vec, s->layers[1].conv, qkv + t * l->ld, l->ld, n, from, to);
        }
        const sg_delta_io io = { .qkv = qkv + t * l->ld, .alpha = alpha + t * l->d.n_value, .beta = beta + t * l->d.n_value,
                                 .z = l->z + t * l->ld_z, .out = out + t * l->values, .ld_qkv = l->ld, .ld_z = l->ld_z, .ld_out = l->values };
        for (uint32_t to = l->d.n_value, from; to > 0; to = from) {
            from = to > heads ? to - heads : 0;
            sg_delta_run(&l->d, vec, s->layers[1].delta, &io, n, from, to);
        }
    }
    for (uint32_t t = 0; t < N; t++)
        for (uint32_t c = l->channels; c < l->ld; c++) /* between the rows nothing changes */
            if (qkv[t * l->ld + c] != l->qkv[t * l->ld + c]) ck_abort_msg("token %u: value %u changed", t, c);
    free(qkv), free(alpha), free(beta);
    return out;
}

static sg_recurrent_state state_for(const layer *l) {
    const sg_recurrent_shape shapes[] = { { .taps = 3, .channels = 5 }, sg_delta_shape(&l->d), { 0 } };
    sg_recurrent_state s;
    sg_error err = { 0 };
    ck_assert_int_eq(sg_recurrent_init(&s, shapes, 3, &err), SG_OK);
    return s;
}

static void check_same(const float *a, const float *b, size_t n, const char *what) {
    for (size_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a) != 0) ck_abort_msg("%s: value %zu is %a, not %a", what, i, b[i], a[i]);
}

static void check_layer(uint32_t n_key, uint32_t per_key, uint32_t dk, uint32_t dv, uint32_t taps, bool key_modulo) {
    const sg_kernels kernels = best();
    sg_kernels ref;
    sg_kernels_init(&ref, 0);
    layer l = layer_new(n_key, per_key, dk, dv, taps, key_modulo);
    sg_recurrent_state s = state_for(&l), s2 = state_for(&l);
    float *whole = run_layer(&l, &kernels.vec, &s, 0, N, N, UINT32_MAX);
    double *want = slow_layer(&l);
    for (size_t i = 0; i < (size_t)N * l.values; i++)
        if (!(fabs(whole[i] - want[i]) < 2e-5 * (1 + fabs(want[i])))) ck_abort_msg("value %zu is %g, not %g", i, whole[i], want[i]);
    const struct { uint32_t portion, heads; const sg_vec_fns *vec; } ways[] = {
        { 1, UINT32_MAX, &kernels.vec }, { 2, 1, &kernels.vec }, { 4, 3, &kernels.vec }, { N, 2, &kernels.vec }, { 3, 2, &ref.vec } };
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        sg_recurrent_clear(&s2);
        float *parts = run_layer(&l, ways[i].vec, &s2, 0, N, ways[i].portion, ways[i].heads);
        check_same(whole, parts, (size_t)N * l.values, "in parts");
        check_same(s.values, s2.values, s.n_values, "the state in parts");
        free(parts);
    }
    free(whole), free(want);
    sg_recurrent_finish(&s);
    sg_recurrent_finish(&s2);
    layer_free(&l);
}

START_TEST(delta_layers) {
    check_layer(1, 1, 4, 3, 4, false);
    check_layer(2, 2, 16, 16, 4, false);
    check_layer(2, 3, 32, 24, 4, false); /* dv is no multiple of 16 */
    check_layer(2, 3, 32, 24, 4, true);
    check_layer(3, 2, 7, 130, 2, true);
    check_layer(2, 1, 128, 128, 8, false);
    check_layer(2, 2, 8, 8, 1, false); /* no state of the convolution */
}
END_TEST

/* Both gates from one matrix: what head h gets is at its own place among those of its key head. */
START_TEST(split_gates) {
    const sg_delta d = { .n_key = 3, .n_value = 6 };
    float ba[2 * 12], beta[12], alpha[12];
    for (int t = 0; t < 2; t++)
        for (int h = 0; h < 6; h++) {
            ba[t * 12 + h / 2 * 4 + h % 2] = (float)(100 * t + h);
            ba[t * 12 + h / 2 * 4 + 2 + h % 2] = (float)(1000 + 100 * t + h);
        }
    sg_delta_split_gates(&d, ba, beta, alpha, 2);
    for (int t = 0; t < 2; t++)
        for (int h = 0; h < 6; h++) {
            ck_assert(beta[t * 6 + h] == (float)(100 * t + h));
            ck_assert(alpha[t * 6 + h] == (float)(1000 + 100 * t + h));
        }
}
END_TEST

/* y = c * conv(b * x), whole, by tokens and by ranges of channels. */
START_TEST(short_convolution) {
    enum { WIDTH = 53, TAPS = 3, LD = 3 * WIDTH + 2 };
    const sg_kernels kernels = best();
    float *w = noise_array(WIDTH * TAPS, 1), *in = noise_array(N * LD, 1);
    const sg_short_conv c = { WIDTH, TAPS, w };
    float state[2][(TAPS - 1) * WIDTH] = { { 0 } }, *out[2];
    for (int way = 0; way < 2; way++) {
        float *bcx = copy_of(in, N * LD);
        out[way] = noise_array(N * WIDTH, 1);
        if (way == 0) sg_short_conv_run(&c, &kernels.vec, state[0], bcx, LD, out[0], WIDTH, N, 0, WIDTH);
        for (uint32_t t = 0, n; way == 1 && t < N; t += n) {
            n = t % 3 + 1 < N - t ? t % 3 + 1 : N - t;
            for (uint32_t at = 0; at < WIDTH; at += 20)
                sg_short_conv_run(&c, &kernels.vec, state[1], bcx + t * LD, LD, out[1] + t * WIDTH, WIDTH, n, at, at + 20 < WIDTH ? at + 20 : WIDTH);
        }
        free(bcx);
    }
    check_same(out[0], out[1], N * WIDTH, "in parts");
    check_same(state[0], state[1], (TAPS - 1) * WIDTH, "the state in parts");
    for (int t = 0; t < N; t++)
        for (int i = 0; i < WIDTH; i++) {
            double y = 0;
            for (int j = 0; j < TAPS; j++) {
                const float *b = in + (t + j - TAPS + 1) * LD + i;
                if (t + j - TAPS + 1 >= 0) y += (double)b[0] * b[2 * WIDTH] * w[i * TAPS + j];
            }
            y *= in[t * LD + WIDTH + i];
            if (!(fabs(y - out[0][t * WIDTH + i]) < 1e-6)) ck_abort_msg("token %d channel %d: %g, not %g", t, i, out[0][t * WIDTH + i], y);
        }
    for (int j = 0; j < TAPS - 1; j++)
        for (int i = 0; i < WIDTH; i++) {
            const float *b = in + (N - TAPS + 1 + j) * LD + i;
            ck_assert(state[0][j * WIDTH + i] == b[0] * b[2 * WIDTH]);
        }
    free(w), free(in), free(out[0]), free(out[1]);
}
END_TEST

/* A copy made after some tokens brings the rest to the same bits, in another session as well. */
START_TEST(save_and_restore) {
    const sg_kernels kernels = best();
    layer l = layer_new(2, 2, 24, 20, 4, false);
    sg_recurrent_state s = state_for(&l), other = state_for(&l);
    free(run_layer(&l, &kernels.vec, &s, 0, 6, 6, UINT32_MAX));
    const size_t bytes = sg_recurrent_flat_bytes(&s);
    ck_assert_uint_ge(bytes, sizeof(float) * (2 * 5 + 3 * l.channels + l.d.n_value * 24 * 20));
    void *flat = malloc(bytes);
    ck_assert_ptr_nonnull(flat);
    sg_recurrent_save(&s, flat);
    float *rest = run_layer(&l, &kernels.vec, &s, 6, N, N, UINT32_MAX);
    free(run_layer(&l, &kernels.vec, &other, 0, 3, 3, UINT32_MAX)); /* something else before */
    for (int again = 0; again < 2; again++) {
        sg_recurrent_restore(again ? &other : &s, flat);
        float *y = run_layer(&l, &kernels.vec, again ? &other : &s, 6, N, 2, UINT32_MAX);
        check_same(rest + 6 * l.values, y + 6 * l.values, (N - 6) * (size_t)l.values, "after a restored state");
        free(y);
    }
    sg_recurrent_clear(&s);
    for (size_t i = 0; i < s.n_values; i++)
        if (s.values[i] != 0) ck_abort_msg("value %zu is not cleared", i);
    free(flat), free(rest);
    sg_recurrent_finish(&s);
    sg_recurrent_finish(&other);
    layer_free(&l);
}
END_TEST

/* Sizes, layers without a state, and numbers that no memory could hold. */
START_TEST(state_of_layers) {
    const sg_recurrent_shape shapes[] = { { 0 }, { .taps = 4, .channels = 33 }, { .n_heads = 3, .dk = 5, .dv = 7 },
                                          { .taps = 1, .channels = 9 }, { .taps = 2, .channels = 1, .n_heads = 1, .dk = 1, .dv = 1 } };
    sg_recurrent_state s;
    sg_error err = { 0 };
    ck_assert_int_eq(sg_recurrent_init(&s, shapes, 5, &err), SG_OK);
    ck_assert_uint_eq(s.memory.size, sg_recurrent_bytes(shapes, 5));
    ck_assert(!s.layers[0].conv && !s.layers[0].delta && !s.layers[1].delta && !s.layers[2].conv && !s.layers[3].conv);
    ck_assert_ptr_eq(s.layers[1].conv, s.values);
    ck_assert_int_ge(s.layers[2].delta - s.layers[1].conv, 3 * 33);
    ck_assert_int_ge(s.layers[4].conv - s.layers[2].delta, 3 * 5 * 7);
    ck_assert_int_ge(s.layers[4].delta - s.layers[4].conv, 1);
    ck_assert_int_ge(s.values + s.n_values - s.layers[4].delta, 1);
    ck_assert_ptr_eq((char *)(s.values + s.n_values), (char *)s.memory.data + s.memory.size);
    sg_recurrent_finish(&s);
    sg_recurrent_finish(&s);
    ck_assert_int_eq(sg_recurrent_init(&s, NULL, 0, &err), SG_OK);
    ck_assert_uint_eq(sg_recurrent_flat_bytes(&s), 0);
    sg_recurrent_clear(&s);
    sg_recurrent_finish(&s);

    const sg_recurrent_shape huge[] = { { .n_heads = UINT32_MAX, .dk = UINT32_MAX, .dv = 1 }, { .n_heads = 1u << 31, .dk = 1u << 31, .dv = 4 } };
    for (uint32_t i = 0; i < 2; i++) {
        ck_assert_int_eq(sg_recurrent_init(&s, huge + i, 1, &err), SG_E_NOMEM);
        ck_assert(sg_recurrent_bytes(huge + i, 1) == UINT64_MAX);
    }
    const sg_recurrent_shape taps[] = { { .taps = SG_CONV_TAPS_MAX + 1, .channels = 1 }, { .taps = 0, .channels = 1 } };
    for (uint32_t i = 0; i < 2; i++) {
        ck_assert_int_eq(sg_recurrent_init(&s, taps + i, 1, &err), SG_E_UNSUPPORTED);
        ck_assert_ptr_nonnull(strstr(err.message, "layer 0"));
        sg_recurrent_finish(&s);
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("recurrent");
    TCase *tc = tcase_create("recurrent");
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, delta_layers);
    tcase_add_test(tc, split_gates);
    tcase_add_test(tc, short_convolution);
    tcase_add_test(tc, save_and_restore);
    tcase_add_test(tc, state_of_layers);
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_ENV);
    const int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
