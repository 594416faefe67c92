/* Looking on while a feed-forward layer computes: what calibration counts and fits. */
#ifndef SG_NE_OBSERVE_H
#define SG_NE_OBSERVE_H

#include <stdint.h>

/* n tokens in one bundled layer; neurons by their place in the bundle. Valid during the call. */
typedef struct sg_ffn_sample {
    uint32_t layer, n, k, n_neurons, ld; /* ld: values from one token to the next in gate and h, >= n_neurons */
    const float *x;        /* [n][k], the normalised input of the layer */
    const float *residual; /* [n][k], the residual stream before the norm */
    const float *gate;     /* [n][ld], gate products before the activation (ungated: the up products) */
    const float *h;        /* [n][ld], what multiplies the down rows: 0 where the neuron is inactive */
} sg_ffn_sample;

/* Called on one thread, layer by layer, in the order of the tokens. */
typedef void (*sg_ffn_observe_fn)(void *user, const sg_ffn_sample *sample);

#endif
