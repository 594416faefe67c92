/* Layers that look back through a state of fixed size instead of keys and values of all positions: short convolutions, and the
 * gated delta rule (arXiv 2412.06464, section 3) behind one.
 *
 * THE RULE of kernels.h holds: what a token gets does not depend on the portions in which tokens come, nor on how threads share
 * channels and heads (sums: sg_conv_args, sg_delta_args). A state knows only its present: who wants to go back keeps a copy. */
#ifndef SG_NE_RECURRENT_H
#define SG_NE_RECURRENT_H

#include "neuron_engine/kernels/kernels.h"
#include "runtime/base/mem.h"

/* State of one layer: the last taps-1 inputs of each channel, and a matrix [dk][dv] for each of n_heads. What a layer lacks is
 * 0; all 0: no recurrent layer. */
typedef struct sg_recurrent_shape {
    uint32_t taps, channels;
    uint32_t n_heads, dk, dv;
} sg_recurrent_shape;

/* All layers of a session. One writer per channel and head at a time. */
typedef struct sg_recurrent_state {
    uint32_t n_layer;
    struct sg_recurrent_place { float *conv, *delta; } *layers; /* [n_layer], in `memory`; NULL for what a layer lacks */
    float *values;                                              /* of all layers, n_values; their layout is the same every time */
    size_t n_values;
    sg_region memory;
} sg_recurrent_state;

/* Zeroed. SG_E_UNSUPPORTED when a convolution has more than SG_CONV_TAPS_MAX taps, or none. */
SG_NODISCARD sg_status sg_recurrent_init(sg_recurrent_state *s, const sg_recurrent_shape *layers, uint32_t n_layer, sg_error *err);
void sg_recurrent_finish(sg_recurrent_state *s); /* accepts a zeroed one */
/* Bytes that sg_recurrent_init would take; UINT64_MAX when they cannot be counted. */
uint64_t sg_recurrent_bytes(const sg_recurrent_shape *layers, uint32_t n_layer);

/* Before the first token. */
void sg_recurrent_clear(sg_recurrent_state *s);
/* To and from a flat copy of sg_recurrent_flat_bytes bytes. It fits any state with the same shapes. */
size_t sg_recurrent_flat_bytes(const sg_recurrent_state *s);
void sg_recurrent_save(const sg_recurrent_state *s, void *flat);
void sg_recurrent_restore(sg_recurrent_state *s, const void *flat);

/* A gated short convolution, y = c * conv(b * x), for n tokens and the channels from .. to-1 of `width`. bcx: [n][ld], of each token
 * b, c, x of `width` values each; b is overwritten. out: [n][ld_out]; not bcx. w: [width][taps]; state: the layer's conv.
 * Thread-safe for disjoint channels. */
typedef struct sg_short_conv {
    uint32_t width, taps;
    const float *w;
} sg_short_conv;
void sg_short_conv_run(const sg_short_conv *c, const sg_vec_fns *vec, float *state, float *bcx, size_t ld, float *out, size_t ld_out,
                       uint32_t n, uint32_t from, uint32_t to);

/* A layer of the gated delta rule. Of each token, `qkv` holds the query heads, the key heads and the value heads one behind the
 * other: sg_delta_channels values. The numbers have been compared with tensors that exist: no product of them overflows. */
typedef struct sg_delta {
    uint32_t n_key, n_value, dk, dv, taps; /* heads of queries and keys; heads of values, a multiple of it; their sizes */
    bool key_modulo;                       /* value head h has key head h % n_key; else h / (n_value / n_key) */
    float eps;                             /* of all norms */
    const float *conv;                     /* [channels][taps] */
    const float *a, *dt_bias;              /* [n_value]; a is -exp(A_log) */
    const float *norm;                     /* [dv] */
} sg_delta;

static inline uint64_t sg_delta_channels(const sg_delta *d) {
    return 2 * (uint64_t)d->n_key * d->dk + (uint64_t)d->n_value * d->dv;
}
sg_recurrent_shape sg_delta_shape(const sg_delta *d);

/* First step, in place: convolution and SiLU, then q = q / |q| / sqrt(dk), k = k / |k| (lengths at least eps), for n tokens and the
 * heads from .. to-1, counted through: n_key of queries, n_key of keys, n_value of values. qkv: [n][ld]; state: the layer's conv.
 * Thread-safe for disjoint heads. */
static inline uint32_t sg_delta_parts(const sg_delta *d) { return 2 * d->n_key + d->n_value; }
void sg_delta_prepare(const sg_delta *d, const sg_vec_fns *vec, float *state, float *qkv, size_t ld, uint32_t n, uint32_t from,
                      uint32_t to);

/* Separates what one matrix gives for both gates: ba[n][2 * n_value], per key head the betas of its value heads, then the alphas.
 * beta, alpha: [n][n_value]. Only where value heads of a key head are neighbours (not key_modulo). */
void sg_delta_split_gates(const sg_delta *d, const float *ba, float *beta, float *alpha, uint32_t n);

/* What goes into the second step and comes out. */
typedef struct sg_delta_io {
    const float *qkv;   /* [n][ld_qkv], prepared */
    float *alpha, *beta; /* [n][n_value], before softplus and sigmoid; overwritten by the decay and the sigmoid */
    const float *z;     /* [n][ld_z], head h at h * dv */
    float *out;         /* [n][ld_out], likewise; none of the above */
    size_t ld_qkv, ld_z, ld_out;
} sg_delta_io;
/* For the value heads from .. to-1, n tokens one after the other: decay = exp(a * softplus(alpha + dt_bias)), beta = sigmoid(beta),
 * o = delta rule (sg_delta_args), out = rmsnorm(o) * norm * silu(z). state: the layer's delta. Needs what sg_delta_prepare makes
 * of all three kinds of heads (a barrier between). Thread-safe for disjoint heads. */
void sg_delta_run(const sg_delta *d, const sg_vec_fns *vec, float *state, const sg_delta_io *io, uint32_t n, uint32_t from, uint32_t to);

#endif
