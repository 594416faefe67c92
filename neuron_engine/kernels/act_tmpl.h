/* The part of vec_tmpl.h with the activations and what else is computed from e^x: elementwise, so a lane knows nothing of its
 * neighbours. Coefficients without a source in a comment are minimax fits (Lawson's weights) rounded to F32. */

INL vf abs_v(vf x) { return (vf)((vi)x & 0x7fffffff); }
INL vf with_sign(vf size, vf sign) { return (vf)((vi)size | ((vi)sign & INT32_MIN)); } /* size >= 0 */

INL vf sigmoid_times(vf g, vf x) { return x / (1.0f + exp_v(-g)); }
INL vf silu(vf g) { return g / (1.0f + exp_v(-g)); }

/* 0.5 g (1 + tanh(z)) = g / (1 + e^-2z), z = sqrt(2/pi) (g + 0.044715 g^3) (arXiv 1606.08415, section 2). */
INL vf gelu(vf g) {
    const float SCALE = 0x1.988454p-1f;
    const vf z = (g + g * g * g * 0.044715f) * SCALE;
    return g / (1.0f + exp_v(z * -2.0f));
}
INL vf relu(vf g) { return (vf)(~(g <= 0) & (vi)g); } /* NaN stays */

/* g Phi(g) (arXiv 1606.08415, section 2), Phi being the normal distribution, as max(g, 0) - |g| Q with the tail
 * Q = Phi(-|g|): nothing cancels where Q is small, so small results keep their digits. Q = 0.5 - a R(a^2) up to 1,
 * e^(-a^2 / 2) t P(t) with t = 1 / (1 + 0.4 a) beyond; from 40 on it is 0 in F32, and infinity does not become inf * 0. */
INL vf gelu_erf(vf g) {
    vf a = abs_v(g);
    a = select_v(a > 40.0f, splat(40.0f), a);
    const vf z = a * a, t = 1.0f / (1.0f + a * 0.4f);
    vf r = splat(-0x1.00d526p-17f);
    r = r * z + 0x1.dbff1p-14f;
    r = r * z - 0x1.36fd42p-10f;
    r = r * z + 0x1.46ce4cp-7f;
    r = r * z - 0x1.105832p-4f;
    r = r * z + 0x1.988454p-2f;
    vf p = splat(0x1.1705e8p-4f);
    p = p * t - 0x1.7dcd4cp-3f;
    p = p * t + 0x1.af8ffp-4f;
    p = p * t + 0x1.c6fe66p-5f;
    p = p * t + 0x1.1cad24p-3f;
    p = p * t + 0x1.45d63ap-3f;
    p = p * t + 0x1.46da28p-3f;
    const vf tail = select_v(a < 1.0f, 0.5f - a * r, exp_v(z * -0.5f) * (t * p));
    return relu(g) - a * tail;
}

/* min(g, 7) sigmoid(1.702 g) (clamp(u, -7, 7) + 1): the model card and reference code of gpt-oss. */
INL vf oai(vf g, vf u) {
    g = select_v(g > 7.0f, splat(7.0f), g);
    u = select_v(u > 7.0f, splat(7.0f), u);
    u = select_v(u < -7.0f, splat(-7.0f), u);
    return g / (1.0f + exp_v(g * -1.702f)) * (u + 1.0f);
}

/* Odd polynomial up to 0.75, where 1 - e^-2x would cancel. */
INL vf tanh_v(vf x) {
    const vf a = abs_v(x), z = a * a, e = exp_v(a * -2.0f);
    vf p = splat(0x1.c753b4p-10f);
    p = p * z - 0x1.f5d366p-8f;
    p = p * z + 0x1.5f785ap-6f;
    p = p * z - 0x1.b97d3cp-5f;
    p = p * z + 0x1.110db8p-3f;
    p = p * z - 0x1.55554ap-2f;
    return with_sign(select_v(a < 0.75f, a + a * (z * p), (1.0f - e) / (1.0f + e)), x);
}

/* log(1 + e^x) = max(x, 0) + log(1 + e) with e = e^-|x|, log(1 + e) = 2 artanh(s), s = e / (2 + e) <= 1/3: no digit of a small
 * e is lost. From 20 on the second term is less than half a unit of x in the last place. */
INL vf softplus_v(vf x) {
    const vf e = exp_v(-abs_v(x)), s = e / (2.0f + e), z = s * s;
    vf p = splat(0x1.1ef878p-3f);
    p = p * z + 0x1.1eb61p-3f;
    p = p * z + 0x1.99d27cp-3f;
    p = p * z + 0x1.5555p-2f;
    return relu(x) + 2.0f * (s + s * (z * p));
}

/* out = EXPR of vectors g and u, for all n. LOAD_U(i) and REST_U(i): values i.. of `up`. */
#define GATED_LOOP(EXPR, LOAD_U, REST_U)                                                                               \
    {                                                                                                                  \
        size_t i = 0;                                                                                                  \
        for (; i + W <= n; i += W) {                                                                                   \
            const vf g = load(gate + i), u = LOAD_U;                                                                   \
            store(out + i, EXPR);                                                                                      \
        }                                                                                                              \
        if (i < n) {                                                                                                   \
            const vf g = load_n(gate + i, n - i, 0), u = REST_U;                                                       \
            store_n(out + i, EXPR, n - i);                                                                             \
        }                                                                                                              \
    }

/* A function of gate and up; without `up` a loop of its own, in which the product with 1 is gone. */
#define GATED(NAME, EXPR)                                                                                              \
    static void NAME(float *out, const float *gate, const float *up, size_t n) {                                       \
        if (up) GATED_LOOP(EXPR, load(up + i), load_n(up + i, n - i, 0))                                               \
        else GATED_LOOP(EXPR, splat(1.0f), splat(1.0f))                                                                \
    }

GATED(silu_mul, silu(g) * u)
GATED(gelu_mul, gelu(g) * u)
GATED(relu_mul, relu(g) * u)
GATED(drelu_mul, relu(g) * relu(u))
GATED(gelu_erf_mul, gelu_erf(g) * u)
GATED(oai_mul, oai(g, u))
GATED(sigmoid_mul, sigmoid_times(g, u))

/* A function of x alone. */
#define EACH(NAME, EXPR)                                                                                               \
    static void NAME(float *out, const float *x, size_t n) {                                                           \
        size_t i = 0;                                                                                                  \
        for (; i + W <= n; i += W) store(out + i, EXPR(load(x + i)));                                                  \
        if (i < n) store_n(out + i, EXPR(load_n(x + i, n - i, 0)), n - i);                                             \
    }

EACH(exp_all, exp_v)
EACH(softplus, softplus_v)

static void softcap(float *x, size_t n, float cap) {
    size_t i = 0;
    for (; i + W <= n; i += W) store(x + i, tanh_v(load(x + i) / cap) * cap);
    if (i < n) store_n(x + i, tanh_v(load_n(x + i, n - i, 0) / cap) * cap, n - i);
}
