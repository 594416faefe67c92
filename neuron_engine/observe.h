/* Looking on while a feed-forward layer computes: what calibration counts and fits. */
#ifndef SG_NE_OBSERVE_H
#define SG_NE_OBSERVE_H

#include <stddef.h>
#include <stdint.h>

/* n tokens in one bundled unit; neurons by their place in the bundle, or in that of their expert. Valid during the call. */
typedef struct sg_ffn_sample {
    uint32_t unit, n, k, n_neurons, ld; /* n_neurons: of an expert, if there are any. ld: values from one token to the next in gate and h */
    const uint32_t *expert; /* [n][n_used], those of each token; NULL: no experts */
    uint32_t n_used, apart; /* without experts 1; values from one expert of a token to the next in gate and h, >= n_neurons */
    const float *x;        /* [n][k], the normalised input of the layer */
    const float *residual; /* [n][k], the residual stream before the norm */
    const float *gate;     /* [n][ld], gate products before the activation (ungated: the up products) */
    const float *h;        /* [n][ld], what multiplies the down rows, for experts weight included: 0 where the neuron is inactive */
} sg_ffn_sample;

/* Called on one thread, layer by layer, in the order of the tokens. */
typedef void (*sg_ffn_observe_fn)(void *user, const sg_ffn_sample *sample);

/* What other steps make of n tokens: rows[n], `ld` values apart. Valid during the call, on one thread, in the order of the tokens. */
typedef enum sg_seen {
    SG_SEEN_EMBEDDED, /* the stream before the first layer */
    SG_SEEN_ROUTER    /* the products of a layer's router, its bias included */
} sg_seen;
typedef void (*sg_rows_observe_fn)(void *user, sg_seen what, uint32_t layer, const float *rows, size_t ld, uint32_t n);

#endif
