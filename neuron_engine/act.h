/* Activations of feed-forward blocks over whole vectors. */
#ifndef SG_NE_ACT_H
#define SG_NE_ACT_H

#include "neuron_engine/ffn.h"

/* out[n] = act(gate, up) as sg_neuron_act defines it; up NULL: no gate, `gate` being the up products. threshold: of FATRELU. out may be
 * gate or up. */
void sg_act_mul(const sg_kernels *kernels, sg_neuron_act act, float threshold, float *out, const float *gate, const float *up, size_t n);

#endif
