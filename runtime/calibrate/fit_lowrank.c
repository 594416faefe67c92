#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "neuron_engine/quant.h"
#include "runtime/calibrate/calibrate.h"

#define CHUNK 256u /* inputs widened at a time */
/* Added to the diagonal of the covariance, times its mean: few samples leave directions unseen, which then count a little. */
#define RIDGE 1e-3f

void sg_cal_factors_finish(sg_cal_factors *f) {
    free(f->a);
    free(f->b);
    free(f->bias);
    *f = (sg_cal_factors){ 0 };
}

size_t sg_cal_lowrank_bytes(uint32_t k, uint32_t n, uint32_t rank) {
    const size_t square = (size_t)k * k;
    /* covariance, Gram matrix, workspace; eigenvectors; gate rows; the result */
    return (2 * square + 64u * k + (size_t)k * rank + (size_t)n * k + (size_t)rank * (k + n) + (size_t)CHUNK * k) * sizeof(float);
}

/* c[k][k] = lower half of E[x x^T] + ridge; mean[k], zeroed before, = E[x]. */
static sg_status covariance(const sg_linalg *la, const uint16_t *x, uint32_t n_x, int k, float *c, float *mean, sg_error *err) {
    float *wide = malloc((size_t)CHUNK * k * sizeof *wide);
    if (!wide) return sg_fail(err, SG_E_NOMEM, "out of memory to fit predictors");
    const float alpha = 1.0f / (float)n_x;
    for (uint32_t at = 0; at < n_x; at += CHUNK) {
        const int n = (int)(n_x - at < CHUNK ? n_x - at : CHUNK);
        const float beta = at == 0 ? 0 : 1;
        for (size_t i = 0; i < (size_t)n * k; i++) wide[i] = sg_f16_to_f32(x[(size_t)at * k + i]);
        for (size_t i = 0; i < (size_t)n * k; i++) mean[i % k] += alpha * wide[i];
        la->ssyrk("L", "N", &k, &n, &alpha, wide, &k, &beta, c, &k, 1, 1);
    }
    free(wide);
    double trace = 0;
    for (int i = 0; i < k; i++) trace += c[(size_t)i * k + i];
    const float ridge = RIDGE * (float)(trace / k) + 1e-20f;
    for (int i = 0; i < k; i++) c[(size_t)i * k + i] += ridge;
    return SG_OK;
}

/* v: the `rank` eigenvectors of w (lower half, destroyed) with the largest eigenvalues, in rising order of them; as columns of k. */
static sg_status eigenvectors(const sg_linalg *la, float *w, int k, int rank, float *v, sg_error *err) {
    const int first = k - rank + 1;
    const float none = 0, tol = 0;
    int found = 0, info = 0, lwork = -1, liwork = -1, iwork_size = 0;
    float work_size = 0;
    float *values = malloc(k * sizeof *values);
    int *support = malloc(2 * (size_t)k * sizeof *support);
    la->ssyevr("V", "I", "L", &k, w, &k, &none, &none, &first, &k, &tol, &found, values, v, &k, support, &work_size, &lwork, &iwork_size,
               &liwork, &info, 1, 1, 1);
    lwork = (int)work_size + 1;
    liwork = iwork_size > 0 ? iwork_size : 1;
    float *work = malloc((size_t)lwork * sizeof *work);
    int *iwork = malloc((size_t)liwork * sizeof *iwork);
    sg_status s = SG_OK;
    if (!values || !support || !work || !iwork) s = sg_fail(err, SG_E_NOMEM, "out of memory to fit predictors");
    if (s == SG_OK) {
        la->ssyevr("V", "I", "L", &k, w, &k, &none, &none, &first, &k, &tol, &found, values, v, &k, support, work, &lwork, iwork, &liwork,
                   &info, 1, 1, 1);
        if (info != 0 || found != rank) s = sg_fail(err, SG_E_INTERNAL, "LAPACK found no eigenvectors (ssyevr: %d)", info);
    }
    free(values);
    free(support);
    free(work);
    free(iwork);
    return s;
}

/* Every row to length 1, which is that of its product with an input on the average: all neurons count the same. */
static void normalise(float *g, uint32_t n, uint32_t k) {
    for (uint32_t i = 0; i < n; i++) {
        float *row = g + (size_t)i * k;
        double sum = 0;
        for (uint32_t j = 0; j < k; j++) sum += (double)row[j] * (double)row[j];
        const float factor = sum > 0 ? (float)(1 / sqrt(sum)) : 0;
        for (uint32_t j = 0; j < k; j++) row[j] *= factor;
    }
}

/* Mean of every product with an input; before g becomes G L. */
static void means(const float *g, uint32_t n, uint32_t k, const float *mean_x, double *out) {
    for (uint32_t i = 0; i < n; i++) {
        out[i] = 0;
        for (uint32_t j = 0; j < k; j++) out[i] += (double)g[(size_t)i * k + j] * (double)mean_x[j];
    }
}

/* Mean over deviation; the mean square of the products of a row of G L is its length squared. */
static double standardised(const float *row, uint32_t k, double mean, double *deviation) {
    double sum = 0;
    for (uint32_t j = 0; j < k; j++) sum += (double)row[j] * (double)row[j];
    *deviation = sqrt(fmax(sum - mean * mean, 1e-3 * sum) + 1e-30);
    return mean / *deviation;
}

/* Rows of G L and U L, which have the means mg and mu, to the weights that tell whether both are above 0, in g. */
static void combine(float *g, const float *u, uint32_t n, uint32_t k, const double *mg, const double *mu) {
    for (uint32_t i = 0; i < n; i++) {
        float *row = g + (size_t)i * k;
        const float *other = u + (size_t)i * k;
        double sg, su;
        const double tg = standardised(row, k, mg[i], &sg), tu = standardised(other, k, mu[i], &su);
        const float wg = (float)(exp(-0.5 * tg * tg) * 0.5 * erfc(-tu / sqrt(2)) / sg), wu = (float)(exp(-0.5 * tu * tu) * 0.5 * erfc(-tg / sqrt(2)) / su);
        for (uint32_t j = 0; j < k; j++) row[j] = wg * row[j] + wu * other[j];
    }
}

/* The products with the transposed Cholesky factor c, which weigh a direction as much as inputs go into it: g becomes G L, with u as well
 * what tells of both. */
static sg_status weigh(const sg_linalg *la, float *g, float *u, int n, int k, const float *c, const float *mean_x, sg_error *err) {
    const float one = 1;
    double *m = u ? malloc(2 * (size_t)n * sizeof *m) : NULL;
    if (u && !m) return sg_fail(err, SG_E_NOMEM, "out of memory to fit predictors");
    if (u) means(g, (uint32_t)n, (uint32_t)k, mean_x, m);
    if (u) means(u, (uint32_t)n, (uint32_t)k, mean_x, m + n);
    la->strmm("L", "L", "T", "N", &k, &n, &one, c, &k, g, &k, 1, 1, 1, 1); /* (G L)^T = L^T G^T */
    if (u) la->strmm("L", "L", "T", "N", &k, &n, &one, c, &k, u, &k, 1, 1, 1, 1);
    if (u) combine(g, u, (uint32_t)n, (uint32_t)k, m, m + n);
    free(m);
    return SG_OK;
}

/* Row-major rows of k values are Fortran's columns: what is [n][k] here is its matrix of k rows and n columns, the transpose. */
static sg_status solve(const sg_linalg *la, float *g, float *u, int n, int k, float *c, const float *mean_x, float *w, float *v,
                       sg_cal_factors *out, sg_error *err) {
    const float one = 1, zero = 0;
    const int rank = (int)out->rank;
    int info = 0;
    la->spotrf("L", &k, c, &k, &info, 1);
    if (info != 0) return sg_fail(err, SG_E_FORMAT, "the inputs of a layer have no covariance that can be used (spotrf: %d)", info);
    SG_TRY(weigh(la, g, u, n, k, c, mean_x, err));
    normalise(g, (uint32_t)n, (uint32_t)k);
    la->ssyrk("L", "N", &k, &n, &one, g, &k, &zero, w, &k, 1, 1);
    SG_TRY(eigenvectors(la, w, k, rank, v, err));
    /* the largest first */
    for (int r = 0; r < rank; r++) memcpy(out->a + (size_t)r * k, v + (size_t)(rank - 1 - r) * k, (size_t)k * sizeof(float));
    la->sgemm("T", "N", &rank, &n, &k, &one, out->a, &k, g, &k, &zero, out->b, &rank, 1, 1); /* B^T = V^T (G L)^T */
    la->strsm("L", "L", "T", "N", &k, &rank, &one, c, &k, out->a, &k, 1, 1, 1, 1);            /* A^T = L^-T V */
    for (size_t i = 0; i < (size_t)rank * k; i++)
        if (!isfinite(out->a[i])) return sg_fail(err, SG_E_FORMAT, "the inputs of a layer have values that are not finite");
    return SG_OK;
}

sg_status sg_cal_fit_lowrank(const sg_linalg *la, float *g, float *u, uint32_t n, uint32_t k, const uint16_t *x, uint32_t n_x, uint32_t rank,
                             sg_cal_factors *out, sg_error *err) {
    *out = (sg_cal_factors){ .rank = rank };
    if (n_x == 0 || rank == 0 || rank > k) return sg_fail(err, SG_E_INTERNAL, "no samples or an impossible rank to fit");
    const size_t square = (size_t)k * k;
    float *c = malloc(square * sizeof *c), *w = malloc(square * sizeof *w), *v = malloc((size_t)k * rank * sizeof *v);
    float *mean_x = calloc(k, sizeof *mean_x);
    out->a = malloc((size_t)k * rank * sizeof *out->a);
    out->b = malloc((size_t)n * rank * sizeof *out->b);
    sg_status s = SG_OK;
    if (!c || !w || !v || !mean_x || !out->a || !out->b) s = sg_fail(err, SG_E_NOMEM, "out of memory to fit predictors");
    if (s == SG_OK) s = covariance(la, x, n_x, (int)k, c, mean_x, err);
    if (s == SG_OK) s = solve(la, g, u, (int)n, (int)k, c, mean_x, w, v, out, err);
    free(mean_x);
    free(c);
    free(w);
    free(v);
    if (s != SG_OK) sg_cal_factors_finish(out);
    return s;
}

void sg_cal_fit_sign(const float *g, uint32_t n, uint32_t k, uint8_t *bits) {
    memset(bits, 0, (size_t)n * (k / 8));
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < k; j++) bits[(size_t)i * (k / 8) + j / 8] |= (uint8_t)((g[(size_t)i * k + j] < 0) << (j % 8));
}
