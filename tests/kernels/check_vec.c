#include "tests/kernels/check_vec.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/kernels/harness.h"

static double exact_gelu(double g) { return 0.5 * g * erfc(-g / sqrt(2)); }
static double exact_sigmoid(double g) { return 1 / (1 + exp(-g)); }
static double exact_softplus(double x) { return fmax(x, 0) + log1p(exp(-fabs(x))); }
static double exact_oai(double g, double u) {
    g = fmin(g, 7);
    return g * exact_sigmoid((double)1.702f * g) * (fmax(fmin(u, 7), -7) + 1);
}

/* A number of random sign and size, 2^lo to 2^hi. */
static float wide(int lo, int hi) {
    const float x = ldexpf(h_uniform(1, 2), lo + (int)h_below((uint32_t)(hi - lo)));
    return h_below(2) ? -x : x;
}

static void check_accuracy(const sg_vec_fns *v) {
    double cap = 0, erf_off = 0, gelu = 0, sigmoid = 0, plus = 0, power = 0, oai = 0;
    for (int i = 0; i < 200000; i++) {
        const float x = i % 2 ? wide(-40, 4) : h_uniform(-12, 12), u = h_uniform(-10, 10);
        float y = x;
        v->softcap(&y, 1, 1);
        cap = fmax(cap, h_ulps(y, tanh((double)x)));
        y = x * 30;
        v->softcap(&y, 1, 30);
        h_check(h_ulps(y, 30 * tanh((double)(x * 30) / 30)) <= 6, "softcap of %a by 30 is %a", x * 30, y);
        v->gelu_erf_mul(&y, &x, NULL, 1);
        erf_off = fmax(erf_off, fabs(2 * ((double)y / x) - 1 - erf(x / sqrt(2))));
        if (x > -3) gelu = fmax(gelu, h_ulps(y, exact_gelu(x)));
        h_check(fabs(y - exact_gelu(x)) <= fabs(exact_gelu(x)) * 1e-5 + 1e-37, "gelu_erf of %a is %a", x, y);
        v->sigmoid_mul(&y, &x, NULL, 1);
        sigmoid = fmax(sigmoid, h_ulps(y, exact_sigmoid(x)));
        v->softplus(&y, &x, 1);
        plus = fmax(plus, h_ulps(y, exact_softplus(x)));
        v->exp(&y, &x, 1);
        power = fmax(power, h_ulps(y, exp((double)x)));
        v->oai_mul(&y, &x, &u, 1);
        oai = fmax(oai, fabs(y - exact_oai(x, u)) / (fabs(exact_oai(x, u)) + 1e-6));
    }
    h_check(cap <= 4, "tanh is off by %.2f ulp", cap);
    h_check(erf_off <= 2e-7, "erf is off by %.2g", erf_off);
    h_check(gelu <= 16, "gelu_erf is off by %.2f ulp", gelu);
    h_check(sigmoid <= 4, "sigmoid is off by %.2f ulp", sigmoid);
    h_check(plus <= 4, "softplus is off by %.2f ulp", plus);
    h_check(power <= 2, "exp is off by %.2f ulp", power);
    h_check(oai <= 2e-6, "oai is off by %.2g", oai);
    printf("tanh within %.2f ulp, erf within %.2g, gelu_erf %.2f ulp, sigmoid %.2f ulp, softplus %.2f ulp, oai %.2g\n", cap, erf_off,
           gelu, sigmoid, plus, oai);
}

/* Values at the ends. */
static void check_ends(const sg_vec_fns *v) {
    float x[] = { INFINITY, -INFINITY, FLT_MAX, -FLT_MAX, 0.0f, -0.0f, 1e-40f, NAN }, y[8];
    const float cap[] = { 50, -50, 50, -50, 0.0f, -0.0f }, plus[] = { INFINITY, 0, FLT_MAX, 0 }, gelu[] = { INFINITY, 0, FLT_MAX, 0, 0, 0 };
    memcpy(y, x, sizeof x);
    v->softcap(y, 8, 50);
    h_check(memcmp(y, cap, sizeof cap) == 0 && y[6] > 0 && y[6] < 2e-40f && y[7] != y[7], "softcap at the ends");
    v->softplus(y, x, 8);
    h_check(memcmp(y, plus, sizeof plus) == 0 && y[4] == logf(2) && y[7] != y[7], "softplus at the ends");
    v->gelu_erf_mul(y, x, NULL, 8);
    for (int i = 0; i < 6; i++) h_check(y[i] == gelu[i], "gelu_erf of %g is %g", x[i], y[i]);
    h_check(y[7] != y[7], "gelu_erf of NaN is %g", y[7]);
    v->exp(y, x, 8);
    h_check(y[0] == INFINITY && y[1] == 0 && y[4] == 1 && y[5] == 1 && y[7] != y[7], "exp at the ends");
    v->oai_mul(y, x, x, 8);
    h_check(fabsf(y[0] - 56) < 1e-3f && y[0] == y[2] && y[7] != y[7], "oai at the ends: %g", y[0]);
    for (float s = 20; s < 200; s += 0.37f) {
        v->softplus(y, &s, 1);
        h_check(y[0] == s, "softplus of %g is %g", s, y[0]);
    }
}

void check_functions(const sg_vec_fns *v) {
    check_accuracy(v);
    check_ends(v);
}

enum { MOST = 300 };

static void fill(float *x, size_t n, float middle) {
    for (size_t i = 0; i < n; i++) x[i] = middle + h_normal();
}

/* The sum over 16 lanes as kernels.h has it. */
static float lanes_sum(const float *x, size_t n) {
    float t[16] = { 0 };
    for (size_t i = 0; i < n; i++) t[i % 16] += x[i];
    for (int w = 8; w > 0; w /= 2)
        for (int i = 0; i < w; i++) t[i] += t[i + w];
    return t[0];
}

/* layernorm in the words of kernels.h, and both against double precision. */
static void check_layernorm(const sg_vec_fns *v, const float *x, const float *w, const float *b, size_t n) {
    float out[MOST], d[MOST];
    const float mean = lanes_sum(x, n) / (float)n;
    for (size_t i = 0; i < n; i++) d[i] = (x[i] - mean) * (x[i] - mean);
    const float factor = 1.0f / sqrtf(lanes_sum(d, n) / (float)n + 1e-3f);
    double m = 0, var = 0, off = 0;
    for (size_t i = 0; i < n; i++) m += (double)x[i] / (double)n;
    for (size_t i = 0; i < n; i++) var += ((double)x[i] - m) * ((double)x[i] - m) / (double)n;
    v->layernorm(out, x, w, b, n, 1e-3f);
    bool same = true;
    for (size_t i = 0; i < n; i++) {
        float y = (x[i] - mean) * factor;
        if (w) y = y * w[i];
        if (b) y = y + b[i];
        same &= out[i] == y;
        const double want = ((double)x[i] - m) / sqrt(var + 1e-3) * (w ? w[i] : 1) + (b ? b[i] : 0);
        off = fmax(off, fabs(out[i] - want));
    }
    h_check(same, "layernorm n %zu: another order", n);
    h_check(off < 1e-4, "layernorm n %zu is off by %g", n, off);
}

void check_sums(const sg_vec_fns *v) {
    float a[MOST], b[MOST], c[MOST], out[MOST];
    for (int round = 0; round < 60; round++) {
        const size_t n = 1 + h_below(MOST);
        fill(a, n, round % 3 ? 0 : 5);
        fill(b, n, 0);
        fill(c, n, 0);
        check_layernorm(v, a, round & 1 ? b : NULL, round & 2 ? c : NULL, n);
        double square = 0, off = 0;
        for (size_t i = 0; i < n; i++) square += (double)a[i] * a[i];
        const float eps = round % 4 == 3 ? 1000 : 1e-6f;
        v->l2norm(out, a, n, eps);
        for (size_t i = 0; i < n; i++) off = fmax(off, fabs(out[i] - a[i] / fmax(sqrt(square), eps)));
        h_check(off < 1e-6, "l2norm n %zu is off by %g", n, off);
        bool same = true;
        memcpy(out, a, sizeof out);
        v->axpy(out, b, n, c[0]);
        for (size_t i = 0; i < n; i++) same &= out[i] == fmaf(b[i], c[0], a[i]);
        memcpy(out, a, sizeof out);
        v->scale(out, n, c[0]);
        for (size_t i = 0; i < n; i++) same &= out[i] == a[i] * c[0];
        v->mul(out, a, b, n);
        for (size_t i = 0; i < n; i++) same &= out[i] == a[i] * b[i];
        h_check(same, "axpy, scale or mul n %zu", n);
    }
    memset(a, 0, sizeof a);
    v->l2norm(out, a, MOST, 1e-6f);
    h_check(out[0] == 0 && out[MOST - 1] == 0, "l2norm of zeros");
}

static float *values(size_t n) {
    float *x = h_alloc(n * sizeof *x, 4);
    for (size_t i = 0; i < n; i++) x[i] = h_normal();
    return x;
}

static float *copy_of(const float *x, size_t n) { return memcpy(h_alloc(n * sizeof *x, 4), x, n * sizeof *x); }

/* What conv promises, a value at a time: past inputs and those of the call one behind the other in `all`. */
static void slow_conv(const sg_conv_args *a, const float *all, float *out, double *exact) {
    const float *w = a->w;
    for (uint32_t t = 0; t < a->n; t++)
        for (uint32_t c = 0; c < a->channels; c++) {
            float acc = 0;
            double sum = 0;
            for (uint32_t j = 0; j < a->taps; j++) {
                acc = fmaf(all[(size_t)(t + j) * a->channels + c], w[c * a->taps + j], acc);
                sum += (double)all[(size_t)(t + j) * a->channels + c] * w[c * a->taps + j];
            }
            out[(size_t)t * a->channels + c] = acc;
            exact[(size_t)t * a->channels + c] = a->silu ? sum * exact_sigmoid(sum) : sum;
        }
}

static void check_conv(const sg_vec_fns *ref, const sg_vec_fns *v, const char *tier, int round) {
    const uint32_t taps = round % 3 == 2 ? 1 + h_below(SG_CONV_TAPS_MAX) : 3 + (uint32_t)round % 2, n = 1 + h_below(round % 4 ? 9 : 2);
    const uint32_t m = 1 + h_below(300), ld = m + h_below(5), past = taps - 1;
    float *x = values((size_t)n * ld), *s = values((size_t)past * ld + 1), *w = values((size_t)m * taps);
    float *all = h_alloc((size_t)(past + n) * m * 4, 0), *want = values((size_t)n * m);
    double *exact = h_alloc((size_t)n * m * sizeof *exact, 0);
    for (uint32_t i = 0; i < past + n; i++)
        for (uint32_t c = 0; c < m; c++) all[(size_t)i * m + c] = i < past ? s[(size_t)i * ld + c] : x[(size_t)(i - past) * ld + c];
    float *x2 = copy_of(x, (size_t)n * ld), *s2 = copy_of(s, (size_t)past * ld + 1);
    const float after = s[(size_t)past * ld];
    sg_conv_args a = { .out = x, .x = x, .state = s, .w = w, .ld_out = ld, .ldx = ld, .ld_state = ld, .n = n, .channels = m,
                       .taps = taps, .silu = round % 2 };
    slow_conv(&a, all, want, exact);
    ref->conv(&a); /* in place */
    float *other = values((size_t)n * m);
    a.out = other, a.ld_out = m, a.x = x2, a.state = s2;
    v->conv(&a);
    bool same = true, words = true, close = true, state = s[(size_t)past * ld] == after && s2[(size_t)past * ld] == after;
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t c = 0; c < m; c++) {
            const size_t i = (size_t)t * m + c;
            const float y = x[(size_t)t * ld + c];
            same &= y == other[i];
            words &= a.silu || y == want[i];
            close &= fabs(y - exact[i]) < 1e-5;
        }
    for (uint32_t j = 0; j < past; j++)
        for (uint32_t c = 0; c < m; c++) {
            const float y = all[(size_t)(n + j) * m + c];
            state &= s[(size_t)j * ld + c] == y && s2[(size_t)j * ld + c] == y;
        }
    for (uint32_t t = 0; t < n; t++) /* between the rows nothing changes */
        for (uint32_t c = m; c < ld; c++) same &= x[(size_t)t * ld + c] == x2[(size_t)t * ld + c];
    h_check(same, "%s conv taps %u channels %u tokens %u differs", tier, taps, m, n);
    h_check(words && close && state, "%s conv taps %u channels %u tokens %u: order %d, value %d, state %d", tier, taps, m, n, words,
            close, state);
    h_free(x, 4), h_free(s, 4), h_free(w, 4), h_free(all, 0), h_free(want, 4), h_free(exact, 0), h_free(x2, 4), h_free(s2, 4);
    h_free(other, 4);
}

/* One token of delta in double precision. */
static void slow_delta(const sg_delta_args *a, uint32_t t, double *s, double *out) {
    const float *q = a->q + t * a->ld_qk, *k = a->k + t * a->ld_qk, *v = a->v + t * a->ld_v;
    for (uint32_t j = 0; j < a->dv; j++) {
        double d = 0;
        out[j] = 0;
        for (uint32_t i = 0; i < a->dk; i++) d += (s[i * a->dv + j] *= a->decay[t * a->ld_gates]) * k[i];
        d = (v[j] - d) * a->beta[t * a->ld_gates];
        for (uint32_t i = 0; i < a->dk; i++) out[j] += (s[i * a->dv + j] += k[i] * d) * q[i];
    }
}

static void check_delta(const sg_vec_fns *ref, const sg_vec_fns *v, const char *tier, int round) {
    const uint32_t n = 1 + h_below(4), dk = 1 + h_below(70), dv = round % 3 ? 1 + h_below(200) : 16 * (1 + h_below(9));
    const size_t ld_qk = dk + h_below(3), ld_v = dv + h_below(3), ld_gates = 1 + h_below(3), cells = (size_t)dk * dv;
    float *q = values(n * ld_qk), *k = values(n * ld_qk), *x = values(n * ld_v), *gates = values(2 * n * ld_gates);
    float *s = values(cells), *s2 = copy_of(s, cells), *out = values(n * ld_v), *x2 = copy_of(x, n * ld_v);
    double *exact = h_alloc(cells * sizeof *exact, 0), *y = h_alloc(dv * sizeof *y, 0);
    for (size_t i = 0; i < 2 * n * ld_gates; i++) gates[i] = h_uniform(0, 1);
    for (size_t i = 0; i < n * ld_qk; i++) q[i] /= sqrtf((float)dk), k[i] /= sqrtf((float)dk);
    for (size_t i = 0; i < cells; i++) exact[i] = s[i];
    sg_delta_args a = { .state = s, .out = out, .q = q, .k = k, .v = x, .decay = gates, .beta = gates + n * ld_gates, .ld_out = ld_v,
                        .ld_qk = ld_qk, .ld_v = ld_v, .ld_gates = ld_gates, .n = n, .dk = dk, .dv = dv };
    ref->delta(&a);
    bool close = true;
    for (uint32_t t = 0; t < n; t++) {
        slow_delta(&a, t, exact, y);
        for (uint32_t j = 0; j < dv; j++) close &= fabs(out[t * ld_v + j] - y[j]) < 2e-5;
    }
    for (size_t i = 0; i < cells; i++) close &= fabs(s[i] - exact[i]) < 2e-5;
    h_check(close, "delta of the reference is off: dk %u dv %u", dk, dv);
    bool same = true;
    for (uint32_t t = 0; t < n; t++) { /* token by token, out on v */
        sg_delta_args b = a;
        b.state = s2, b.v = b.out = x2 + t * ld_v, b.n = 1;
        b.q += t * ld_qk, b.k += t * ld_qk, b.decay += t * ld_gates, b.beta += t * ld_gates;
        v->delta(&b);
        same &= h_differ(out + t * ld_v, x2 + t * ld_v, dv) == dv;
        for (size_t j = dv; j < ld_v; j++) same &= x2[t * ld_v + j] == x[t * ld_v + j];
    }
    same &= h_differ(s, s2, cells) == cells;
    h_check(same, "%s delta dk %u dv %u tokens %u differs", tier, dk, dv, n);
    h_free(q, 4), h_free(k, 4), h_free(x, 4), h_free(gates, 4), h_free(s, 4), h_free(s2, 4), h_free(out, 4), h_free(x2, 4);
    h_free(exact, 0), h_free(y, 0);
}

/* Its sums in the words of kernels.h, for one small head. */
static void check_delta_order(const sg_vec_fns *v, const char *tier) {
    enum { DK = 37, DV = 19 };
    float s[DK * DV], s2[DK * DV], q[DK], k[DK], x[DV], out[DV];
    for (int i = 0; i < DK * DV; i++) s[i] = s2[i] = h_normal();
    for (int i = 0; i < DK; i++) q[i] = h_normal(), k[i] = h_normal();
    for (int i = 0; i < DV; i++) x[i] = h_normal();
    const float decay = 0.8125f, beta = h_uniform(0, 1);
    const sg_delta_args a = { .state = s, .out = out, .q = q, .k = k, .v = x, .decay = &decay, .beta = &beta, .n = 1, .dk = DK, .dv = DV };
    v->delta(&a);
    bool same = true;
    for (int j = 0; j < DV; j++) {
        float d = 0, o = 0;
        for (int i = 0; i < DK; i++) d = fmaf(s2[i * DV + j] *= decay, k[i], d);
        d = (x[j] - d) * beta;
        for (int i = 0; i < DK; i++) {
            s2[i * DV + j] = fmaf(k[i], d, s2[i * DV + j]);
            o = fmaf(s2[i * DV + j], q[i], o);
            same &= s2[i * DV + j] == s[i * DV + j];
        }
        same &= o == out[j];
    }
    h_check(same, "%s delta: another order", tier);
}

void check_recurrent(const sg_vec_fns *ref, const sg_vec_fns *v, const char *tier) {
    for (int round = 0; round < 60; round++) {
        check_conv(ref, v, tier, round);
        check_delta(ref, v, tier, round);
    }
    check_delta_order(v, tier);
}
