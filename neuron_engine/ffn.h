/* Feed-forward layers made of neuron bundles, computed for the neurons that matter.
 *
 * A unit is what is computed at a time: a dense layer, all experts of a layer, or a layer's shared experts. A model layer has one or two.
 * The threads of a team go through a unit together:
 *   1. gate, up   some clusters at a time, whoever is free takes the next: gates of all neurons (or of those that are predicted),
 *                 the lists of the live ones, their up products, h
 *   2. down       sums of h times down row over the lists, integers, each thread its own; then added up and scaled
 * Neurons that the activation makes zero are left out, which changes no bit of the result (kernels/neuron.h): with ReLU and its
 * kin sparsity is exact. What else may be left out is policy, and lossy.
 *
 * Experts are nothing but neurons that a route chooses before: the clusters of a token's experts, in the order of its route, are its
 * clusters, as those of a dense unit are, and one sum goes over all of them. The experts' weights are in h, since down is linear.
 *
 * The definition: g = fl(gate product + gate_bias), u = fl(up product + up_bias), h = fl(act(g) * u) (ungated: act(fl(up product +
 * up_bias))), then, where there is a route, h = fl(h * weight); the down sums as in kernels/neuron.h over all neurons of the token; then,
 * where there is a down bias, for the experts of the route in its order y = fl(y + fl(weight * down_bias)), weight being 1 without a route.
 *
 * Sums do not depend on the number of threads or on who computed what: a row's product is computed by one thread; the scale of
 * the integer sums comes from values kept per cluster and combined in the order of the clusters. */
#ifndef SG_NE_FFN_H
#define SG_NE_FFN_H

#include <stdatomic.h>

#include "neuron_engine/acts.h"
#include "neuron_engine/bundle.h"
#include "neuron_engine/expert_store.h"
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
    SG_ACT_RELU2,   /* max(g, 0)^2 * u */
    SG_ACT_GELU,    /* gelu(g) * u, the tanh form */
    SG_ACT_GELU_ERF, /* gelu(g) * u by the error function */
    SG_ACT_OAI      /* m * sigmoid(1.702 m) * (clamp(u, -7, 7) + 1), m = min(g, 7) */
} sg_neuron_act;

/* a[n] = act(g), what u is multiplied with; threshold: of FATRELU. NaN stays NaN. a may be g. */
void sg_neuron_activate(const sg_kernels *kernels, sg_neuron_act act, float threshold, const float *g, float *a, size_t n);
/* What act(g) is multiplied with. NaN stays NaN. */
static inline float sg_neuron_up(sg_neuron_act act, float u) {
    if (act == SG_ACT_DRELU) return u <= 0 ? 0 : u;
    return act == SG_ACT_OAI ? (u < -7 ? -7 : u > 7 ? 7 : u) + 1 : u;
}
/* True for activations that make a good part of the neurons exactly zero. */
static inline bool sg_neuron_sparse(sg_neuron_act act) { return act >= SG_ACT_RELU && act <= SG_ACT_RELU2; }

/* One unit of a model; immutable. Biases are vectors that are always in RAM, NULL: none. */
typedef struct sg_ffn_layer {
    sg_bundle bundle;        /* l.n_expert > 0: experts */
    sg_predictor predictor;  /* of experts: none */
    float fat_threshold;     /* FATRELU */
    uint32_t n_used;         /* experts of a token at most; 0 without experts */
    const float *gate_bias;  /* [n_neurons], or [n_expert][n_neurons], by place; gated units */
    const float *up_bias;    /* the same; of an ungated unit what is added before the activation */
    const float *down_bias;  /* [k] or [n_expert][k] */
    struct sg_ffn_home *home; /* where its parts lie when not all are in RAM (ffn_home.h), not owned; NULL: bundle.data has all */
    sg_expert_home *experts;  /* of experts the same (expert_store.h) */
} sg_ffn_layer;

/* Whether the members agree and are in the range of 32-bit numbers and sums: up to 4 GiB of a dense unit or an expert, 2^20 neurons of a
 * token. To be asked when a model is opened, since nothing below checks it. */
bool sg_ffn_layer_valid(const sg_ffn_layer *l);

/* Which experts the tokens of a run use and with which weights, both [n tokens][n_used]; the experts of a token ascending and distinct,
 * below n_expert, 1 <= n_used <= that of the unit. A dense unit may have one too, for a factor of each token: n_used 1, expert NULL. */
typedef struct sg_ffn_route {
    uint32_t n_used;
    const uint32_t *expert;
    const float *weight;
    bool lossy; /* experts were dropped: what has weight 0 is not computed, nor read. Of every token at least one has another weight */
} sg_ffn_route;

/* Whether place t * n_used + i of a route, expert i of token t, is left out. */
static inline bool sg_route_skips(const sg_ffn_route *r, size_t entry) { return r->lossy && r->weight[entry] == 0; }

/* What a session leaves out. All zero: nothing that the activation does not make zero. */
typedef struct sg_ffn_policy {
    sg_ffn_mode mode;          /* AUTO: dense_share of sg_ffn decides */
    bool predict;              /* neurons that are not predicted */
    const float *score_cut;    /* [n_unit] predicted: score above; with predict. Not asked where a unit has no predictor */
    const float *cut;          /* [n_unit] those with |act(g)| not above, or NULL */
    uint32_t top_k;            /* all but the K with the largest |act(g)| of a token in a unit (and ties with the last); 0: off */
} sg_ffn_policy;

/* Neurons counted over all tokens of a unit; of experts those that a token uses. */
typedef struct sg_ffn_count {
    uint64_t neurons, gates, ups, active; /* all; gate computed; up computed; h != 0 */
} sg_ffn_count;

/* Clusters that are worked on together, at most; reads of neurons without a slot at a time, per thread (ffn_neurons.c). */
#define SG_FFN_GROUP 8u
#define SG_FFN_PASS 16u
/* Tokens of an expert whose activations are laid side by side, at most; even, so that each thread's stay aligned. */
#define SG_FFN_TILE 32u
enum { SG_FFN_GROUP_NEW, SG_FFN_GROUP_OPEN /* reads are awaited */, SG_FFN_GROUP_DONE, SG_FFN_GROUP_BROKEN };

/* What a thread spent waiting for reads, on a cache line of its own. */
typedef struct sg_waited {
    double seconds;
    char pad[56];
} sg_waited;

/* Working memory of a session; the members are for neuron_engine/ffn*.c, except as noted. */
typedef struct sg_ffn {
    const sg_kernels *kernels;
    const sg_ffn_layer *layers; /* [n_unit], the units, numbered by the owner */
    sg_neuron_act act;
    sg_ffn_policy policy;
    sg_ffn_observe_fn observe; /* set by the owner, NULL: nobody looks on */
    void *observe_user;
    uint32_t n_unit, n_batch, n_threads, k;
    bool precise;        /* gates and ups see activations in 16 bits (acts.h) */
    bool pred_residual;  /* predictors read the residual stream instead of the layer's input */
    uint32_t ld;         /* values of a token in gate, h, at: the most clusters * neurons per cluster that a token has in a unit */
    uint32_t ld_cluster; /* most clusters that a token has in a unit */
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
    /* for several tokens in units with experts (ffn_experts.c): the places expert[] of the route sorted by expert, in each by token */
    uint32_t *entries;   /* [n_batch][most n_used] */
    uint32_t *entry_of;  /* [most n_expert + 1], where those of an expert begin */
    uint32_t *hit, *n_hit; /* [most n_expert] experts that somebody uses, and how many */
    uint32_t *hit_lo, *hit_hi; /* of those, the ones that are in memory at the moment */
    sg_lane_acts tile;   /* [n_threads][SG_FFN_TILE] tokens side by side; x only when some expert's rows are floats */
    sg_ffn_route *one;   /* for one token in units with experts: a lossy route without what it leaves out */
    uint32_t *one_expert; /* [most n_used] of it */
    float *one_weight;
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
    sg_ffn_count *counts; /* [n_threads][n_unit] */
} sg_ffn;

/* Sizes of *f from its first members (kernels .. pred_residual, set by the caller), and its memory from `c`: call with a measuring
 * carver first. */
void sg_ffn_lay_out(sg_ffn *f, sg_carver *c);
/* Measures dense_share: what an up row costs in a list and among all rows of its cluster. Changes speed, never results. f->x.x and
 * the layers' weights must be there. */
void sg_ffn_measure(sg_ffn *f);

/* y[t][0 .. k) = the unit's output for tokens t of x (x->n tokens, x->x and, where a kernel reads it, the 8-bit form; f->x must
 * hold the same tokens). residual: [n][k], for predictors that read it and for observation. route: see there; NULL for dense units without
 * a factor. Called by every thread of the team; all of y is there after the next barrier. */
void sg_ffn_run(sg_ffn *f, uint32_t unit, const sg_acts *x, const float *residual, const sg_ffn_route *route, float *y, size_t ldy,
                sg_team *team, uint32_t thread);

/* Units whose experts are not all in RAM: which of them the route needs is known; starts reads. By one thread, before sg_ffn_run with the same
 * route; a barrier in between. */
void sg_ffn_demand(sg_ffn *f, uint32_t unit, const sg_ffn_route *route, uint32_t n);

/* Counts over all units and threads so far. Between runs. */
sg_ffn_count sg_ffn_total(const sg_ffn *f);

/* ---- parts ---- */

/* Place of a down row that is not in RAM, in at[]. */
#define SG_AWAY UINT32_MAX

/* One run of a unit, as one thread sees it. Clusters v of a token t are numbered through its experts: cluster v % per_expert of the expert
 * at place v / per_expert of its route; in a dense unit they are the unit's. gate[], h[], at[], live[], peak[], mass[] go by v. */
typedef struct sg_ffn_task {
    const sg_ffn_layer *l;
    const sg_ffn_route *route; /* or NULL */
    uint32_t unit, thread;
    uint32_t n;          /* tokens */
    uint32_t n_clusters; /* of a token */
} sg_ffn_task;

/* The number in expert[] and weight[] of cluster v of token t. */
static inline uint32_t sg_ffn_entry(const sg_ffn_task *k, uint32_t t, uint32_t v) {
    return t * k->route->n_used + (k->route->expert ? v / k->l->bundle.l.per_expert : 0);
}
/* Which cluster of the bundle that is. */
static inline uint32_t sg_ffn_cluster(const sg_ffn_task *k, uint32_t t, uint32_t v) {
    const sg_bundle_layout *l = &k->l->bundle.l;
    return l->n_expert ? k->route->expert[sg_ffn_entry(k, t, v)] * l->per_expert + v % l->per_expert : v;
}
static inline sg_cluster_place sg_ffn_place_of(const sg_ffn_layer *l, uint32_t cluster) {
    if (!l->experts) return sg_bundle_place(&l->bundle, cluster);
    return sg_bundle_place_at(&l->bundle.l, l->experts->at[cluster / l->bundle.l.per_expert], cluster % l->bundle.l.per_expert);
}
static inline sg_cluster_place sg_ffn_place(const sg_ffn *f, const sg_ffn_task *k, uint32_t t, uint32_t v) {
    return k->l->home ? f->places[v] : sg_ffn_place_of(k->l, sg_ffn_cluster(k, t, v));
}
/* A cluster's part of a bias by neurons, or NULL. */
static inline const float *sg_ffn_bias(const sg_bundle_layout *l, const float *bias, uint32_t cluster) {
    if (!bias) return NULL;
    return bias + (size_t)(l->n_expert ? cluster / l->per_expert : 0) * l->n_neurons +
           (size_t)(l->n_expert ? cluster % l->per_expert : cluster) * l->per_cluster;
}
static inline sg_ffn_count *sg_ffn_counts(const sg_ffn *f, const sg_ffn_task *k) { return &f->counts[(size_t)k->thread * f->n_unit + k->unit]; }

/* Tokens of a dense unit, 0 .. n - 1, or of an expert: entries of the route. acts: theirs, side by side. */
typedef struct sg_ffn_some {
    const uint32_t *entry; /* NULL: dense */
    uint32_t n;
    sg_lane_acts acts;
} sg_ffn_some;
/* The i-th of them and its number of cluster c of the expert (of the unit). */
static inline uint32_t sg_ffn_some_at(const sg_ffn_task *k, const sg_ffn_some *s, uint32_t i, uint32_t c, uint32_t *v) {
    *v = s->entry ? s->entry[i] % k->route->n_used * k->l->bundle.l.per_expert + c : c;
    return s->entry ? s->entry[i] / k->route->n_used : i;
}

/* The factor of h for integer down sums of one token (kernels/neuron.h): such that every |a| <= 32767 and no sum leaves 32 bits.
 * peak, mass: as in sg_ffn, of the n clusters; type: of the down rows. 0 when all h are zero, NaN when one is not finite. */
float sg_down_unit(const float *peak, const float *mass, uint32_t n, sg_dtype type);
/* Gates of clusters c0 .. c1 - 1 into f->gate, 0 for those that are not predicted: of one token, or of all tokens of a dense unit. seen:
 * what the predictor reads. */
void sg_ffn_gates(sg_ffn *f, const sg_ffn_task *k, const sg_acts *seen, uint32_t c0, uint32_t c1);
/* g[n] += the gate bias of a cluster of the bundle, if there is one. */
void sg_ffn_add_gate_bias(const sg_ffn_layer *l, uint32_t cluster, float *g, uint32_t n);
/* From the gates: the list of live neurons of a cluster of one token; then, from the lists of clusters, as for sg_ffn_gates: up products,
 * h, peak and mass; of one cluster for some tokens. */
void sg_ffn_choose(sg_ffn *f, const sg_ffn_task *k, uint32_t t, uint32_t v);
void sg_ffn_ups(sg_ffn *f, const sg_ffn_task *k, uint32_t c0, uint32_t c1);
void sg_ffn_ups_of(sg_ffn *f, const sg_ffn_task *k, const sg_ffn_some *some, uint32_t c);
/* sg_ffn_run_neurons: h, peak and mass of a cluster whose u, row_max and down_at are there. at[] becomes bytes to the down rows; where
 * that is SG_AWAY, down_at[] becomes the neuron's place. */
void sg_ffn_finish_found(sg_ffn *f, const sg_ffn_task *k, uint32_t c);
/* f->one from the route of one token; by one thread. */
void sg_ffn_close_ranks(sg_ffn *f, const sg_ffn_route *route);
/* Several tokens: no neuron of what the route leaves out is live; by every thread, each its part. */
void sg_ffn_clear_skipped(sg_ffn *f, const sg_ffn_task *k, uint32_t threads);
/* Several tokens in a unit with experts: all up to h; the index of who uses which expert is there from the first barrier on. Ends with a
 * barrier. */
void sg_ffn_run_experts(sg_ffn *f, const sg_ffn_task *k, sg_team *team);
/* The same for cluster c of an expert; with_gates, with_ups: which half. */
void sg_ffn_visit(sg_ffn *f, const sg_ffn_task *k, uint32_t expert, uint32_t c, bool with_gates, bool with_ups);
/* Experts that are not all in RAM (ffn_experts_away.c); as sg_ffn_run, called by it. */
void sg_ffn_run_away(sg_ffn *f, const sg_ffn_task *k, const sg_acts *seen, const float *residual, float *y, size_t ldy, sg_team *team);
/* The predictor's first half for all tokens, by every thread. Returns what the second half reads besides f->z. */
const sg_acts *sg_ffn_project(sg_ffn *f, const sg_ffn_layer *l, const sg_acts *x, const float *residual, sg_team *team, uint32_t thread);
/* Lets the observer look, if there is one; by every thread, gates and h being there. */
void sg_ffn_observe(sg_ffn *f, const sg_ffn_task *k, const sg_acts *x, const float *residual, sg_team *team);
/* The cuts of the tokens for policy.top_k, by every thread, gates being there. Ends with a barrier. */
void sg_ffn_top_k(sg_ffn *f, const sg_ffn_task *k, sg_team *team);
/* Down: see sg_ffn_run; and in parts: begin, clusters from 0 on in rising order with barriers in between, end. Of several tokens with experts all
 * clusters at once, of those experts that are in memory (hit_lo, hit_hi), which come in rising order likewise. */
void sg_ffn_down(sg_ffn *f, const sg_ffn_task *k, float *y, size_t ldy, sg_team *team);
void sg_ffn_down_begin(sg_ffn *f, const sg_ffn_task *k, sg_team *team);
void sg_ffn_down_clusters(sg_ffn *f, const sg_ffn_task *k, uint32_t c0, uint32_t c1, float *y, size_t ldy, sg_team *team);
void sg_ffn_down_end(sg_ffn *f, const sg_ffn_task *k, float *y, size_t ldy, sg_team *team);

#endif
