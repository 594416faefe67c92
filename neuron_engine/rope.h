/* Rotary position embedding (arXiv 2104.09864) with the extensions of models in use: linear scaling, YaRN (arXiv 2309.00071),
 * and per-frequency factors (Llama 3). */
#ifndef SG_NE_ROPE_H
#define SG_NE_ROPE_H

#include "runtime/base/error.h"

typedef struct sg_rope {
    uint32_t n_rot;   /* values of a head that turn */
    bool adjacent;    /* pairs (2i, 2i+1); else (i, i + n_rot/2) */
    float magnitude;  /* cos and sin are multiplied by it */
    double *inv_freq; /* [n_rot/2] radians per position, owned */
} sg_rope;

typedef struct sg_rope_config {
    uint32_t n_rot;
    bool adjacent;
    double freq_base;
    double scale;         /* positions are divided by it (linear and, for low frequencies, YaRN); 1: none */
    bool yarn;
    double beta_fast, beta_slow, ext_factor;
    float magnitude;      /* of cos and sin */
    uint32_t n_ctx_orig;
    const float *factors; /* [n_rot/2] divisors of the frequencies, or NULL */
} sg_rope_config;

SG_NODISCARD sg_status sg_rope_init(sg_rope *r, const sg_rope_config *c, sg_error *err);
void sg_rope_finish(sg_rope *r);

/* table[2 * n_rot] for one position, as vec.rope wants it: per value of a head the factor of itself, then per value the factor
 * of its partner (cos and sin times magnitude, sin with the sign of the rotation). */
void sg_rope_table(const sg_rope *r, uint32_t pos, float *table);

#endif
