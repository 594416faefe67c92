/* What generation needs to know about a sampler beyond the public functions. */
#ifndef SG_RUNTIME_SAMPLER_H
#define SG_RUNTIME_SAMPLER_H

#include "sparsegen.h"

/* Logits per row that the sampler was made for. */
uint32_t sg_sampler_n_vocab(const sg_sampler *sampler);

#endif
