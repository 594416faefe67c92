#include "neuron_engine/predictor.h"

#include <math.h>
#include <string.h>

const char *const sg_predictor_names[SG_PRED_KINDS] = { "none", "mlp", "sign", "lowrank" };

uint32_t sg_predictor_clusters(const sg_predictor *p) {
    return p->kind == SG_PRED_MLP || p->kind == SG_PRED_LOWRANK ? sg_matrix_clusters(&p->a) : 0;
}

void sg_predictor_project(const sg_predictor *p, const sg_acts *x, float *z, uint32_t lo, uint32_t hi) {
    sg_matrix_mul(&p->a, NULL, x, z, p->rank, lo, hi);
    if (p->kind != SG_PRED_MLP) return;
    const uint32_t end = hi * SG_ROW_CLUSTER < p->rank ? hi * SG_ROW_CLUSTER : p->rank;
    for (uint32_t i = lo * SG_ROW_CLUSTER; i < end; i++) z[i] = z[i] > 0 ? z[i] : 0;
}

/* One neuron: in each block of 32 the codes whose weight is negative count twice, taken off the sum of all. */
static float sign_score(const uint8_t *signs, const sg_acts *x) {
    float score = 0;
    for (uint32_t b = 0; b < x->n_blocks; b++, signs += 4) {
        const int8_t *q = x->q + 32 * b;
        uint32_t bits;
        memcpy(&bits, signs, sizeof bits);
        int32_t negative = 0;
        for (uint32_t i = 0; i < 32; i++) negative += q[i] & -(int32_t)(bits >> i & 1);
        score = fmaf((float)(x->sums[2 * b] + x->sums[2 * b + 1] - 2 * negative), x->d[b], score);
    }
    return score;
}

void sg_predictor_scores(const sg_predictor *p, const sg_acts *x, const sg_acts *z, float *scores, uint32_t n0, uint32_t n1) {
    if (p->kind == SG_PRED_SIGN) {
        for (uint32_t n = n0; n < n1; n++) scores[n - n0] = sign_score(p->signs + (size_t)n * (p->k / 8), x);
        return;
    }
    /* y + n0 would lie in front of the array: give the rows of this range as a matrix of their own. */
    const uint32_t lo = n0 / SG_ROW_CLUSTER, hi = (n1 + SG_ROW_CLUSTER - 1) / SG_ROW_CLUSTER;
    sg_matrix part = p->b;
    part.data = (const char *)p->b.data + sg_matrix_bytes(p->b.kernel, n0, p->b.k);
    part.rows = n1 - n0;
    sg_matrix_mul(&part, NULL, z, scores, part.rows, 0, hi - lo);
}
