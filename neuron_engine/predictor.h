/* Predictors: a cheap guess at which neurons of a layer will fire, before their gates are computed. One interface, several kinds
 * (docs/model_bin.md, predictors); which one a layer has was decided by `sparsegen calibrate`, by recall at its cost. */
#ifndef SG_NE_PREDICTOR_H
#define SG_NE_PREDICTOR_H

#include "neuron_engine/matrix.h"

typedef enum sg_predictor_kind { SG_PRED_NONE = 0, SG_PRED_MLP, SG_PRED_SIGN, SG_PRED_LOWRANK, SG_PRED_KINDS } sg_predictor_kind;
extern const char *const sg_predictor_names[SG_PRED_KINDS]; /* "none", "mlp", "sign", "lowrank" */

/* The predictor of one layer; immutable, the weights are not owned. */
typedef struct sg_predictor {
    sg_predictor_kind kind;
    uint32_t k, rank, n_neurons; /* rank: of MLP and LOWRANK, a multiple of 32 */
    sg_matrix a, b;              /* MLP, LOWRANK: [rank][k] and [n_neurons][rank]; both quantised or both float */
    const uint8_t *signs;        /* SIGN: [n_neurons][k / 8]; bit i % 8 of byte i / 8 set: gate weight i is negative */
    const float *scale, *bias;   /* [n_neurons]: the score is fmaf(product, scale, bias); NULL: 1, 0 */
} sg_predictor;

/* First half, for one token: z[rank] = A x (MLP: then max(z, 0)), rows in clusters of SG_ROW_CLUSTER: clusters lo .. hi - 1 of
 * sg_predictor_clusters. SIGN has none and needs no call. Thread-safe for disjoint ranges. */
uint32_t sg_predictor_clusters(const sg_predictor *p);
void sg_predictor_project(const sg_predictor *p, const sg_acts *x, float *z, uint32_t lo, uint32_t hi);
/* Second half: scores[0 .. n1 - n0) of the neurons n0 .. n1 - 1, both multiples of SG_ROW_CLUSTER unless n1 is the end. z: the
 * first half as activations (quantised by the caller when b wants it); x: the layer's input, 8-bit form for SIGN. Bits of the
 * result do not depend on n0, n1. */
void sg_predictor_scores(const sg_predictor *p, const sg_acts *x, const sg_acts *z, float *scores, uint32_t n0, uint32_t n1);

#endif
