/* What generation and tests need of the sampler beyond the public functions. */
#ifndef SG_RUNTIME_SAMPLER_H
#define SG_RUNTIME_SAMPLER_H

#include "sparsegen.h"

/* Logits per row that the sampler was made for. */
uint32_t sg_sampler_n_vocab(const sg_sampler *sampler);

/* e^x for x <= 0, within 2 units of the last place, the same bits on every machine; 0 below -708 and for NaN. */
double sg_sampler_exp(double x);

#endif
