/* Training of predictors by gradient descent: Adam (arXiv 1412.6980) over mini-batches, the logistic loss of "this neuron is active",
 * active neurons weighted more, since a missed one costs quality and a named one only time. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "neuron_engine/quant.h"
#include "runtime/calibrate/calibrate.h"

#define BATCH 64u
#define EPOCHS 12u
/* Size of the first steps, relative to the root mean square of what they change; it falls to 0 on a straight line. */
#define RATE 0.03f
#define BETA1 0.9f
#define BETA2 0.99f
#define MOST_WEIGHT 4.0f

/* One trained array and its running moments. */
typedef struct param {
    float *v, *grad, *mean, *square;
    size_t n;
    float rate;
} param;

typedef struct trainer {
    const sg_linalg *la;
    const uint16_t *x;
    const uint64_t *bits;
    uint32_t n, k, rank, words, n_x;
    bool relu;
    float weight;         /* of active neurons */
    param a, b, bias;     /* [rank][k], [n][rank], [n] */
    float *in, *z, *s, *dz; /* of a batch: [BATCH][k], [rank], [n], [rank] */
    uint32_t *turn;       /* [n_x], the samples in the order of this epoch */
} trainer;

static bool init_param(param *p, size_t n) {
    *p = (param){ .n = n };
    p->v = calloc(n, sizeof *p->v);
    p->grad = calloc(n, sizeof *p->grad);
    p->mean = calloc(n, sizeof *p->mean);
    p->square = calloc(n, sizeof *p->square);
    return p->v && p->grad && p->mean && p->square;
}

static void finish_param(param *p) {
    free(p->v);
    free(p->grad);
    free(p->mean);
    free(p->square);
}

static float rms(const float *v, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)v[i] * v[i];
    return n ? (float)sqrt(sum / (double)n) : 0;
}

/* correct: what makes up for moments that began at zero. */
static void adam(param *p, float rate, float correct1, float correct2) {
    const float step = p->rate * rate;
    for (size_t i = 0; i < p->n; i++) {
        const float g = p->grad[i];
        p->mean[i] = BETA1 * p->mean[i] + (1 - BETA1) * g;
        p->square[i] = BETA2 * p->square[i] + (1 - BETA2) * g * g;
        p->v[i] -= step * (p->mean[i] * correct1) / (sqrtf(p->square[i] * correct2) + 1e-8f);
    }
}

/* s becomes the derivative of the loss of one token by its scores. */
static void slope(const trainer *t, const uint64_t *bits, float *s) {
    for (uint32_t i = 0; i < t->n; i++) {
        const float p = 1 / (1 + expf(-(s[i] + t->bias.v[i])));
        s[i] = bits[i / 64] >> (i % 64) & 1 ? t->weight * (p - 1) : p;
    }
}

/* Row-major [m][c] is Fortran's c x m: products are written for the transposes. */
static void batch(trainer *t, const uint32_t *which, uint32_t count) {
    const float one = 1, zero = 0;
    const int n = (int)t->n, k = (int)t->k, r = (int)t->rank, m = (int)count;
    for (uint32_t j = 0; j < count; j++)
        for (uint32_t i = 0; i < t->k; i++) t->in[(size_t)j * t->k + i] = sg_f16_to_f32(t->x[(size_t)which[j] * t->k + i]);
    t->la->sgemm("T", "N", &r, &m, &k, &one, t->a.v, &k, t->in, &k, &zero, t->z, &r, 1, 1);
    for (size_t i = 0; t->relu && i < (size_t)m * r; i++) t->z[i] = t->z[i] > 0 ? t->z[i] : 0;
    t->la->sgemm("T", "N", &n, &m, &r, &one, t->b.v, &r, t->z, &r, &zero, t->s, &n, 1, 1);
    for (uint32_t j = 0; j < count; j++) slope(t, t->bits + (size_t)which[j] * t->words, t->s + (size_t)j * t->n);
    t->la->sgemm("N", "N", &r, &m, &n, &one, t->b.v, &r, t->s, &n, &zero, t->dz, &r, 1, 1);
    for (size_t i = 0; t->relu && i < (size_t)m * r; i++) t->dz[i] = t->z[i] > 0 ? t->dz[i] : 0;
    const float mean = 1.0f / (float)count;
    t->la->sgemm("N", "T", &r, &n, &m, &mean, t->z, &r, t->s, &n, &zero, t->b.grad, &r, 1, 1);
    t->la->sgemm("N", "T", &k, &r, &m, &mean, t->in, &k, t->dz, &r, &zero, t->a.grad, &k, 1, 1);
    memset(t->bias.grad, 0, t->n * sizeof *t->bias.grad);
    for (uint32_t j = 0; j < count; j++)
        for (uint32_t i = 0; i < t->n; i++) t->bias.grad[i] += mean * t->s[(size_t)j * t->n + i];
}

/* The same sequence in every run: results are to be repeatable. */
static uint32_t draw(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

static void train(trainer *t) {
    const uint32_t per_epoch = (t->n_x + BATCH - 1) / BATCH;
    uint64_t state = 1;
    float power1 = 1, power2 = 1;
    for (uint32_t epoch = 0, step = 0; epoch < EPOCHS; epoch++) {
        for (uint32_t i = t->n_x; i > 1; i--) { /* Fisher and Yates */
            const uint32_t j = draw(&state) % i, other = t->turn[j];
            t->turn[j] = t->turn[i - 1];
            t->turn[i - 1] = other;
        }
        for (uint32_t i = 0; i < t->n_x; i += BATCH, step++) {
            batch(t, t->turn + i, t->n_x - i < BATCH ? t->n_x - i : BATCH);
            power1 *= BETA1;
            power2 *= BETA2;
            const float rate = RATE * (1 - (float)step / (float)(per_epoch * EPOCHS));
            adam(&t->a, rate, 1 / (1 - power1), 1 / (1 - power2));
            adam(&t->b, rate, 1 / (1 - power1), 1 / (1 - power2));
            adam(&t->bias, rate, 1 / (1 - power1), 1 / (1 - power2));
        }
    }
}

/* MLP: relu(z) - relu(-z) = z, so the first half of the components, each with its negative, gives what they alone give; training
 * goes on from there. */
static void begin(trainer *t, const sg_cal_factors *from) {
    const uint32_t half = t->relu ? t->rank / 2 : t->rank;
    for (uint32_t r = 0; r < t->rank; r++) {
        const uint32_t source = r % half;
        const float sign = r < half ? 1 : -1;
        for (uint32_t i = 0; i < t->k; i++) t->a.v[(size_t)r * t->k + i] = sign * from->a[(size_t)source * t->k + i];
        for (uint32_t i = 0; i < t->n; i++) t->b.v[(size_t)i * t->rank + r] = sign * from->b[(size_t)i * from->rank + source];
    }
    /* Biases and weight from how often neurons are active. */
    double active = 0;
    for (uint32_t i = 0; i < t->n; i++) {
        uint32_t count = 0;
        for (uint32_t j = 0; j < t->n_x; j++) count += t->bits[(size_t)j * t->words + i / 64] >> (i % 64) & 1;
        const float p = ((float)count + 0.5f) / ((float)t->n_x + 1);
        t->bias.v[i] = logf(p / (1 - p));
        active += p;
    }
    active /= t->n;
    const float weight = sqrtf((float)((1 - active) / active));
    t->weight = weight < 1 ? 1 : weight > MOST_WEIGHT ? MOST_WEIGHT : weight;
    for (uint32_t i = 0; i < t->n_x; i++) t->turn[i] = i;
    t->a.rate = rms(t->a.v, t->a.n);
    t->b.rate = rms(t->b.v, t->b.n);
    t->bias.rate = 1;
}

double sg_cal_train_flops(uint32_t n, uint32_t k, uint32_t n_x, uint32_t rank) {
    return 6.0 * EPOCHS * n_x * rank * ((double)n + k);
}

sg_status sg_cal_train(const sg_linalg *la, const sg_cal_factors *from, uint32_t n, uint32_t k, const uint16_t *x, const uint64_t *bits,
                       uint32_t n_x, uint32_t rank, bool relu, sg_cal_factors *out, sg_error *err) {
    trainer t = { .la = la, .x = x, .bits = bits, .n = n, .k = k, .rank = rank, .words = (n + 63) / 64, .n_x = n_x, .relu = relu };
    *out = (sg_cal_factors){ .rank = rank };
    if (n_x == 0 || rank < 2 || from->rank < (relu ? rank / 2 : rank)) return sg_fail(err, SG_E_INTERNAL, "nothing to train a predictor from");
    bool ok = init_param(&t.a, (size_t)rank * k);
    ok = init_param(&t.b, (size_t)n * rank) && ok;
    ok = init_param(&t.bias, n) && ok;
    t.in = malloc((size_t)BATCH * k * sizeof *t.in);
    t.z = malloc((size_t)BATCH * rank * sizeof *t.z);
    t.s = malloc((size_t)BATCH * n * sizeof *t.s);
    t.dz = malloc((size_t)BATCH * rank * sizeof *t.dz);
    t.turn = malloc(n_x * sizeof *t.turn);
    ok = ok && t.in && t.z && t.s && t.dz && t.turn;
    if (ok) {
        begin(&t, from);
        train(&t);
        out->a = t.a.v;
        out->b = t.b.v;
        out->bias = t.bias.v;
        t.a.v = t.b.v = t.bias.v = NULL;
    }
    finish_param(&t.a);
    finish_param(&t.b);
    finish_param(&t.bias);
    free(t.in);
    free(t.z);
    free(t.s);
    free(t.dz);
    free(t.turn);
    return ok ? SG_OK : sg_fail(err, SG_E_NOMEM, "out of memory to train predictors");
}
