/* A feed-forward layer made of neuron bundles, computed for the neurons that matter.
 *
 * The threads of a team go through a layer together:
 *   1. gate, up   some clusters at a time, whoever is free takes the next: gates of all neurons (or of those that are predicted),
 *                 the lists of the live ones, their up products, h
 *   2. down       sums of h times down row over the lists, integers, each thread its own; then added up and scaled
 * Neurons that the activation makes zero are left out, which changes no bit of the result (kernels/neuron.h): with ReLU and its
 * kin sparsity is exact. What else may be left out is policy, and lossy.
 *
 * Sums do not depend on the number of threads or on who computed what: a row's product is computed by one thread; the scale of
 * the integer sums comes from values kept per cluster and combined in the order of the clusters. */
#ifndef SG_NE_FFN_H
#define SG_NE_FFN_H

#include <stdatomic.h>

#include "neuron_engine/bundle.h"
#include "neuron_engine/observe.h"
#include "neuron_engine/predictor.h"
#include "runtime/base/mem.h"
#include "runtime/base/team.h"

/* h of a neuron with gate product g and up product u (ungated: g is the up product, u is 1). */
typedef enum sg_neuron_act {
    SG_ACT_SILU,    /* silu(g) * u */
    SG_ACT_RELU,    /* max(g, 0) * u */
    SG_ACT_DRELU,   /* max(g, 0) * max(u, 0) */
    SG_ACT_FATRELU, /* g * u where g > threshold, else 0 */
    SG_ACT_RELU2    /* max(g, 0)^2 * u */
} sg_neuron_act;

/* a[n] = act(g), what u is multiplied with; threshold: of FATRELU. NaN stays NaN. a may be g. */
void sg_neuron_activate(const sg_kernels *kernels, sg_neuron_act act, float threshold, const float *g, float *a, size_t n);

/* One layer of a model; immutable. */
typedef struct sg_ffn_layer {
    sg_bundle bundle;
    sg_predictor predictor;
    float fat_threshold; /* FATRELU */
    struct sg_ffn_home *home; /* where its parts lie when not all are in RAM (ffn_home.h), not owned; NULL: bundle.data has all */
} sg_ffn_layer;

/* What a session leaves out. All zero: nothing that the activation does not make zero. */
typedef struct sg_ffn_policy {
    sg_ffn_mode mode;          /* AUTO: dense_share of sg_ffn decides */
    bool predict;              /* neurons that are not predicted */
    const float *score_cut;    /* [n_layer] predicted: score above; with predict */
    const float *cut;          /* [n_layer] those with |act(g)| not above, or NULL */
    uint32_t top_k;            /* all but the K with the largest |act(g)| of a layer (and ties with the last); 0: off */
} sg_ffn_policy;

/* Neurons counted over all tokens of a layer. */
typedef struct sg_ffn_count {
    uint64_t neurons, gates, ups, active; /* all; gate computed; up computed; h != 0 */
} sg_ffn_count;

/* Clusters that are worked on together, at most; reads of neurons without a slot at a time, per thread (ffn_neurons.c). */
#define SG_FFN_GROUP 8u
#define SG_FFN_PASS 16u
enum { SG_FFN_GROUP_NEW, SG_FFN_GROUP_OPEN /* reads are awaited */, SG_FFN_GROUP_DONE, SG_FFN_GROUP_BROKEN };

/* What a thread spent waiting for reads, on a cache line of its own. */
typedef struct sg_waited {
    double seconds;
    char pad[56];
} sg_waited;

/* Working memory of a session; the members are for neuron_engine/ffn*.c, except as noted. */
typedef struct sg_ffn {
    const sg_kernels *kernels;
    const sg_ffn_layer *layers; /* [n_layer] */
    sg_neuron_act act;
    sg_ffn_policy policy;
    sg_ffn_observe_fn observe; /* set by the owner, NULL: nobody looks on */
    void *observe_user;
    uint32_t n_layer, n_batch, n_threads, k;
    bool pred_residual;  /* predictors read the residual stream instead of the layer's input */
    uint32_t ld;         /* values of a token in gate, h, at: the most clusters * neurons per cluster of a layer */
    uint32_t ld_cluster; /* most clusters of a layer */
    size_t sum_words;    /* words of one down sum: sum[k], bias[k / 32], padded to cache lines */
    float dense_share;   /* live share of a cluster above which all its up rows are computed */
    sg_lane_acts x;      /* input of the layer, filled by the owner (sg_lane_acts_fill) when x.q is set */
    sg_acts residual;    /* 8-bit form of the residual stream, for predictors that read it; k 0 otherwise */
    sg_acts z;           /* what the predictor's first half gives */
    float *gate;         /* [n_batch][ld] */
    float *h;            /* [n_batch][ld], of the live neurons of a cluster, packed from the cluster's first place on */
    uint32_t *at;        /* [n_batch][ld], places of the live neurons in the cluster; in the end bytes from the base of the cluster's
                          * place to their down rows */
    uint32_t *live;      /* [n_batch][ld_cluster], how many */
    float *peak, *mass;  /* [n_batch][ld_cluster], largest and sum of |h| * largest |d| of the down row */
    float *up;           /* [n_threads][n_batch][SG_CLUSTER_MAX] */
    float *token_cut;    /* [n_batch], top_k */
    float *unit;         /* [n_batch], see sg_down_unit */
    int32_t *sums;       /* [max(n_threads, n_batch)][sum_words] */
    /* for layers with a home (ffn_home.h); by neurons only one token is computed, and lists are as in at[] and h[] */
    const struct sg_ffn_store *store; /* set by the owner, NULL: every layer is in RAM */
    size_t slot_bytes;   /* the most of a layer; set by the owner */
    bool float_downs;    /* some layer has down rows of floats, which are added in the order of the neurons, not of their arrival */
    sg_waited *waited;   /* [n_threads], set by the owner */
    sg_cluster_place *places; /* [ld_cluster], of a layer with a home: where the clusters lie at the moment */
    float *u, *row_max;          /* [ld], up product and largest |d| of the down row */
    uint32_t *up_at, *down_at;   /* [ld], bytes from the arena to the rows, or SG_AWAY */
    struct sg_fetch **wait_for;  /* [ld], what brings the record, NULL: no slot */
    uint32_t *pending, *n_pending; /* [ld] positions that are awaited, and how many; per group of clusters */
    atomic_uint *group_state;      /* per group */
    uint8_t *pass;                 /* [n_threads][pass_bytes], records without a slot */
    size_t pass_bytes;
    float *observed;     /* [n_batch][ld], h by places; set by the owner before `observe` */
    sg_ffn_count *counts; /* [n_threads][n_layer] */
} sg_ffn;

/* Sizes of *f from its first members (kernels .. pred_residual, set by the caller), and its memory from `c`: call with a measuring
 * carver first. */
void sg_ffn_lay_out(sg_ffn *f, sg_carver *c);
/* Measures dense_share: what an up row costs in a list and among all rows of its cluster. Changes speed, never results. f->x.x and
 * the layers' weights must be there. */
void sg_ffn_measure(sg_ffn *f);

/* y[t][0 .. k) = the layer's output for tokens t of x (x->n tokens, x->x and, where a kernel reads it, the 8-bit form; f->x must
 * hold the same tokens). residual: [n][k], for predictors that read it and for observation. Called by every thread of the team;
 * all of y is there after the next barrier. */
void sg_ffn_run(sg_ffn *f, uint32_t layer, const sg_acts *x, const float *residual, float *y, size_t ldy, sg_team *team,
                uint32_t thread);

/* Counts over all layers and threads so far. Between runs. */
sg_ffn_count sg_ffn_total(const sg_ffn *f);

/* ---- parts ---- */

/* Place of a down row that is not in RAM, in at[]. */
#define SG_AWAY UINT32_MAX

static inline sg_cluster_place sg_ffn_place(const sg_ffn *f, const sg_ffn_layer *l, uint32_t c) {
    return l->home ? f->places[c] : sg_bundle_place(&l->bundle, c);
}

/* The factor of h for integer down sums of one token (kernels/neuron.h): such that every |a| <= 32767 and no sum leaves 32 bits.
 * peak, mass: as in sg_ffn, of the n clusters; type: of the down rows. 0 when all h are zero, NaN when one is not finite. */
float sg_down_unit(const float *peak, const float *mass, uint32_t n, sg_dtype type);
/* Gates of clusters c0 .. c1 - 1 for n tokens into f->gate, 0 for those that are not predicted. seen: what the predictor reads. */
void sg_ffn_gates(sg_ffn *f, const sg_ffn_layer *l, uint32_t layer, uint32_t n, const sg_acts *seen, uint32_t c0, uint32_t c1,
                  uint32_t thread);
/* From the gates: the list of live neurons of a cluster; then, from the lists of clusters: up products, h, peak and mass. */
void sg_ffn_choose(sg_ffn *f, const sg_ffn_layer *l, uint32_t layer, uint32_t n, uint32_t c);
void sg_ffn_ups(sg_ffn *f, const sg_ffn_layer *l, uint32_t layer, uint32_t n, uint32_t c0, uint32_t c1, uint32_t thread);
/* sg_ffn_run_neurons: h, peak and mass of a cluster whose u, row_max and down_at are there. at[] becomes bytes to the down rows; where
 * that is SG_AWAY, down_at[] becomes the neuron's place. */
void sg_ffn_finish_found(sg_ffn *f, const sg_ffn_layer *l, uint32_t c, uint64_t *active);
/* The predictor's first half for all tokens, by every thread. Returns what the second half reads besides f->z. */
const sg_acts *sg_ffn_project(sg_ffn *f, const sg_ffn_layer *l, const sg_acts *x, const float *residual, sg_team *team, uint32_t thread);
/* Lets the observer look, if there is one; by every thread, gates and h being there. */
void sg_ffn_observe(sg_ffn *f, uint32_t layer, const sg_acts *x, const float *residual, sg_team *team, uint32_t thread);
/* The cut of token t for policy.top_k; scratch: [ld] words. */
float sg_ffn_top_k_cut(const sg_ffn *f, const sg_ffn_layer *l, uint32_t t, uint32_t *scratch);
/* Down: see sg_ffn_run; and in parts: begin, clusters from 0 on in rising order with barriers in between, end. */
void sg_ffn_down(sg_ffn *f, const sg_ffn_layer *l, uint32_t n, float *y, size_t ldy, sg_team *team, uint32_t thread);
void sg_ffn_down_begin(sg_ffn *f, const sg_ffn_layer *l, uint32_t n, sg_team *team, uint32_t thread);
void sg_ffn_down_clusters(sg_ffn *f, const sg_ffn_layer *l, uint32_t n, uint32_t c0, uint32_t c1, float *y, size_t ldy, sg_team *team,
                          uint32_t thread);
void sg_ffn_down_end(sg_ffn *f, const sg_ffn_layer *l, uint32_t n, float *y, size_t ldy, sg_team *team);

#endif
