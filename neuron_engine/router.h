/* Which experts a token uses, and with which weights. */
#ifndef SG_NE_ROUTER_H
#define SG_NE_ROUTER_H

#include "neuron_engine/kernels/kernels.h"

typedef enum sg_router_kind {
    SG_ROUTER_SOFTMAX,       /* scores are the softmax of the products over all experts */
    SG_ROUTER_SIGMOID,
    SG_ROUTER_SOFTMAX_CHOSEN /* scores are the products; weights are their softmax over the chosen ones */
} sg_router_kind;

typedef struct sg_router {
    sg_router_kind kind;
    uint32_t n_expert, n_used;
    uint32_t n_group, n_group_used; /* n_group 0: no groups. Else only experts of the best groups are looked at; a group's score is the sum
                                     * of its two best (arXiv 2412.19437, section 2.1.2) */
    bool normalise;                 /* weights are divided by their sum */
    float scale;                    /* and multiplied by this */
} sg_router;

/* The range of the values that a layer's experts are ordered by, over the tokens so far: running mean. All zero: no token yet. */
typedef struct sg_route_range {
    double sum;
    uint64_t n;
} sg_route_range;

/* What is given up of a route, so that fewer experts have to be read. All zero: nothing. */
typedef struct sg_route_policy {
    const uint8_t *resident; /* [n_expert], 1: in memory; NULL: all are, and nothing is given up */
    float drop;   /* 0 .. 1: of the chosen experts that are not in memory those of the least weight get weight 0, as long as their weights sum to at
                   * most this share of all; never all experts. The rest makes up for them in sum where weights are shares of the chosen experts
                   * (normalise, SOFTMAX_CHOSEN) */
    float prefer; /* 0 .. 1: experts in memory are preferred, but for the SG_ROUTE_KEEP best ones: for the choice, prefer * mean range is added to
                   * what they are ordered by (cache-prior re-ranking, arXiv 2412.00099) */
    double range; /* that mean, see sg_route_range_mean */
} sg_route_policy;
#define SG_ROUTE_KEEP 1u

/* The experts of a token: expert[n_used] in ascending order with weight[n_used], from products[n_expert] (overwritten by scores) and
 * select_bias[n_expert], which is added to the scores only to choose (NULL: none). Of equal scores the lower number is chosen. policy: NULL:
 * nothing is given up. scratch: sg_route_scratch floats. NaN scores are never better than others, so that there are always n_used different
 * experts.
 *
 * With policy->prefer, experts are ordered by their products, those with a bias by score + bias; groups are chosen as without it. */
void sg_route(const sg_router *r, const sg_vec_fns *vec, float *products, const float *select_bias, const sg_route_policy *policy, uint32_t *expert,
              float *weight, float *scratch);
static inline size_t sg_route_scratch(const sg_router *r) { return 2 * (size_t)r->n_expert + r->n_group; }

/* Largest less smallest of what a token's experts are ordered by, values that are no numbers or huge left out; -1: there are no others. scratch:
 * [n_expert]. */
double sg_route_spread(const sg_router *r, const sg_vec_fns *vec, const float *products, const float *select_bias, float *scratch);
static inline void sg_route_range_add(sg_route_range *range, double spread) {
    if (!(spread >= 0)) return;
    range->sum += spread;
    range->n++;
}
static inline double sg_route_range_mean(const sg_route_range *range) { return range->n > 0 ? range->sum / (double)range->n : 0; }

/* The entries expert[0 .. n) of a route in the order of their experts, equal ones in that of their places: entry[]. Those of expert e are
 * entry[start[e] .. start[e + 1]), start[n_expert + 1]. hit[n_expert]: the experts that have any, ascending; returns how many. weight[n]: entries
 * of weight 0 are left out; NULL: none are. */
uint32_t sg_route_index(const uint32_t *expert, const float *weight, uint32_t n, uint32_t n_expert, uint32_t *start, uint32_t *entry, uint32_t *hit);

#endif
