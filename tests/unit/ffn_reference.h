/* What a layer of neuron bundles gives, in double, and how far off its floats and integers may be. */
#ifndef SG_TESTS_FFN_REFERENCE_H
#define SG_TESTS_FFN_REFERENCE_H

#include "tests/unit/ffn_fixture.h"

/* A value and how far off it may be. */
typedef struct about {
    double v, err;
} about;

/* A product: eight float lanes. */
static inline about product(sg_dtype type, const uint8_t *raw, const sg_acts *x, uint32_t t) {
    float w[K];
    double sum = 0, size = 0;
    sg_dequantize(type, raw, w, K);
    for (uint32_t j = 0; j < K; j++) {
        const size_t at = (size_t)t * K + j;
        const double v = quantised(type) ? (double)x->q[at] * (double)x->d[at / 32] : (double)x->x[at];
        sum += (double)w[j] * v;
        size += fabs((double)w[j] * v);
    }
    return (about) { sum, size * 0x1p-24 * (K / (quantised(type) ? 256.0 : 8.0) + 8) };
}

static inline about plus(about a, const float *bias, size_t i) {
    if (!bias) return a;
    const double sum = a.v + (double)bias[i];
    return (about) { sum, a.err + fabs(sum) * 0x1p-24 };
}

static inline about activated(const setup *s, about g) {
    const double v = g.v, fat = (double)s->fat_threshold, m = fmin(v, 7);
    switch (s->act) {
    case SG_ACT_SILU: return (about) { v / (1 + exp(-v)), 1.1 * g.err + 1e-6 * fabs(v) };
    case SG_ACT_GELU: return (about) { 0.5 * v * (1 + tanh(0.7978845608028654 * (v + 0.044715 * v * v * v))), 1.2 * g.err + 1e-6 * fabs(v) };
    case SG_ACT_GELU_ERF: return (about) { 0.5 * v * (1 + erf(v * M_SQRT1_2)), 1.2 * g.err + 1e-6 * fabs(v) };
    case SG_ACT_OAI: return (about) { m / (1 + exp(-1.702 * m)), 1.2 * g.err + 1e-6 * fabs(m) };
    case SG_ACT_FATRELU: /* it may be either on the threshold */
        return (about) { v > fat ? v : 0, fabs(v - fat) <= g.err ? fabs(v) + g.err : v > fat ? g.err : 0 };
    case SG_ACT_RELU2: return (about) { v > 0 ? v * v : 0, v > -g.err ? (2 * fabs(v) + g.err) * g.err + v * v * 0x1p-23 : 0 };
    default: return (about) { v > 0 ? v : 0, v > -g.err ? g.err : 0 };
    }
}

/* h of row i of the raw rows. */
static inline about factor(const net *m, const setup *s, const sg_acts *x, uint32_t t, uint32_t i, double weight) {
    const bool gated = m->shape.gated;
    about a = activated(s, plus(product(m->shape.gate_type, m->raw[0] + i * m->row[0], x, t), gated ? s->gate_bias : s->up_bias, i));
    if (gated) {
        about u = plus(product(m->shape.up_type, m->raw[1] + i * m->row[1], x, t), s->up_bias, i);
        if (s->act == SG_ACT_DRELU && u.v < 0) u.v = 0;
        if (s->act == SG_ACT_OAI) u = (about) { fmax(fmin(u.v, 7), -7) + 1, u.err + 8 * 0x1p-24 };
        a = (about) { a.v * u.v, fabs(a.v) * u.err + fabs(u.v) * a.err + a.err * u.err + fabs(a.v * u.v) * 0x1p-23 };
    }
    if (!s->weight) return a;
    return (about) { a.v * weight, a.err * fabs(weight) + fabs(a.v * weight) * 0x1p-24 };
}

typedef struct sums {
    double sum[K], err[K], size[K], peak, mass, n;
} sums;

/* Row i of the raw rows of gate, up and down, into the sums. */
static inline void add_neuron(sums *to, const net *m, const setup *s, const sg_acts *x, uint32_t t, uint32_t i, double weight) {
    const sg_dtype down = m->shape.down_type;
    const uint8_t *raw = m->raw[2] + i * m->row[2];
    const about h = factor(m, s, x, t, i, weight);
    float w[K], top = 0;
    sg_dequantize(down, raw, w, K);
    for (uint32_t j = 0; j < K; j++) {
        to->sum[j] += h.v * (double)w[j];
        to->size[j] += fabs(h.v * (double)w[j]);
        to->err[j] += h.err * fabs((double)w[j]);
    }
    for (uint32_t b = 0; b < K / 32 && quantised(down); b++) {
        uint16_t d;
        memcpy(&d, raw + b * (size_t)sg_dtype_get((uint32_t)down)->block_bytes, sizeof d);
        top = fmaxf(top, fabsf(sg_f16_to_f32(d)));
    }
    to->peak = fmax(to->peak, (fabs(h.v) + h.err) * (double)top);
    to->mass += fabs(h.v) * (double)top;
    to->n += h.v != 0 || h.err > 0;
}

/* y of token t of x, whose route (if there is one) is that of token t too. */
static inline void check_token(const net *m, const setup *s, const sg_acts *x, uint32_t t, const float *y) {
    const double most = m->shape.down_type == SG_DTYPE_Q4_0 ? 8 : 128;
    const uint32_t n = m->shape.n_neurons, parts = m->shape.n_expert ? s->n_used : 1;
    sums to = { .n = 0 };
    for (uint32_t p = 0; p < parts; p++) {
        const uint32_t e = m->shape.n_expert ? s->expert[t * parts + p] : 0;
        const double weight = s->weight ? (double)s->weight[t * parts + p] : 1;
        for (uint32_t i = 0; i < n; i++) add_neuron(&to, m, s, x, t, e * n + i, weight);
        for (uint32_t j = 0; j < K && s->down_bias; j++) {
            to.sum[j] += weight * (double)s->down_bias[e * K + j];
            to.size[j] += fabs(weight * (double)s->down_bias[e * K + j]);
        }
    }
    /* integers: each neuron is off by half a step of a at most, times a code */
    const bool q = quantised(m->shape.down_type);
    const double step = q ? 0.51 * to.n * most * fmax(to.peak / 32000, to.mass * most / 2e9) : 0;
    for (uint32_t j = 0; j < K; j++) {
        const double bound = to.err[j] + step + to.size[j] * 0x1p-24 * (q ? 8 : to.n + 4);
        ck_assert_msg(fabs((double)y[j] - to.sum[j]) <= bound, "act %d, token %u: y[%u] is %.9g, not %.9g within %.2g", (int)s->act,
                      t, j, (double)y[j], to.sum[j], bound);
        ck_assert_msg(bound < 5e-3 * to.size[j], "a bound of %.2g shows nothing about %.2g", bound, to.size[j]);
    }
}

#endif
