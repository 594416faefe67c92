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

/* Four signs to a mask of four bytes. */
#define BYTE(bits, i) ((uint32_t)((bits) >> (i) & 1) * 0xffu << (8 * (i)))
#define MASK(bits) (BYTE(bits, 0) | BYTE(bits, 1) | BYTE(bits, 2) | BYTE(bits, 3))
static const uint32_t sign_masks[16] = { MASK(0), MASK(1), MASK(2),  MASK(3),  MASK(4),  MASK(5),  MASK(6),  MASK(7),
                                         MASK(8), MASK(9), MASK(10), MASK(11), MASK(12), MASK(13), MASK(14), MASK(15) };

/* Sum of the codes q[32] (as they are, plus 128: bytes without sign) whose bit is set; eight codes are added in one word. */
static int32_t sum_negative(const uint8_t *q, uint32_t bits) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < 4; i++) {
        uint64_t word;
        memcpy(&word, q + 8 * i, sizeof word);
        word &= (uint64_t)sign_masks[bits >> (8 * i + 4) & 15] << 32 | sign_masks[bits >> (8 * i) & 15];
        sum += (word & 0x00ff00ff00ff00ffu) + (word >> 8 & 0x00ff00ff00ff00ffu); /* four sums of 16 bits, at most 8 * 255 each */
    }
    return (int32_t)(sum * 0x0001000100010001u >> 48) - 128 * __builtin_popcount(bits);
}

/* Blocks that are made bytes without sign at a time; the sums of all neurons wait in `scores` in between. */
#define SIGN_BLOCKS 32u

/* In each block of 32 the codes whose weight is negative count twice, taken off the sum of all. */
static void sign_scores(const sg_predictor *p, const sg_acts *x, float *scores, uint32_t n0, uint32_t n1) {
    uint8_t q[SIGN_BLOCKS * 32];
    for (uint32_t n = n0; n < n1; n++) scores[n - n0] = 0;
    for (uint32_t first = 0; first < x->n_blocks; first += SIGN_BLOCKS) {
        const uint32_t end = x->n_blocks - first < SIGN_BLOCKS ? x->n_blocks : first + SIGN_BLOCKS;
        for (uint32_t i = 0; i < 32 * (end - first); i++) q[i] = (uint8_t)(x->q[32 * first + i] + 128);
        for (uint32_t n = n0; n < n1; n++) {
            const uint8_t *signs = p->signs + (size_t)n * (p->k / 8);
            float score = scores[n - n0];
            for (uint32_t b = first; b < end; b++) {
                uint32_t bits = 0;
                for (uint32_t i = 0; i < 4; i++) bits |= (uint32_t)signs[4 * b + i] << (8 * i);
                const int32_t negative = sum_negative(q + 32 * (b - first), bits);
                score = fmaf((float)(x->sums[2 * b] + x->sums[2 * b + 1] - 2 * negative), x->d[b], score);
            }
            scores[n - n0] = score;
        }
    }
}

static void pair_scores(const sg_predictor *p, const sg_acts *z, float *scores, uint32_t n0, uint32_t n1) {
    /* y + n0 would lie in front of the array: give the rows of this range as a matrix of their own. */
    const uint32_t lo = n0 / SG_ROW_CLUSTER, hi = (n1 + SG_ROW_CLUSTER - 1) / SG_ROW_CLUSTER;
    sg_matrix part = p->b;
    part.data = (const char *)p->b.data + sg_matrix_bytes(p->b.kernel, n0, p->b.k);
    part.rows = n1 - n0;
    sg_matrix_mul(&part, NULL, z, scores, part.rows, 0, hi - lo);
}

void sg_predictor_scores(const sg_predictor *p, const sg_acts *x, const sg_acts *z, float *scores, uint32_t n0, uint32_t n1) {
    if (p->kind == SG_PRED_SIGN) sign_scores(p, x, scores, n0, n1);
    else pair_scores(p, z, scores, n0, n1);
    if (!p->scale && !p->bias) return;
    for (uint32_t n = n0; n < n1; n++)
        scores[n - n0] = fmaf(scores[n - n0], p->scale ? p->scale[n] : 1.0f, p->bias ? p->bias[n] : 0.0f);
}
