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

/* The experts of a token: expert[n_used] in ascending order with weight[n_used], from products[n_expert] (overwritten by scores) and
 * select_bias[n_expert], which is added to the scores only to choose (NULL: none). Of equal scores the lower number is chosen. scratch:
 * [n_expert + n_group] floats. NaN scores are never better than others, so that there are always n_used different experts. */
void sg_route(const sg_router *r, const sg_vec_fns *vec, float *products, const float *select_bias, uint32_t *expert, float *weight,
              float *scratch);

/* The entries expert[0 .. n) of a route in the order of their experts, equal ones in that of their places: entry[n]. Those of expert e are
 * entry[start[e] .. start[e + 1]), start[n_expert + 1]. hit[n_expert]: the experts that have any, ascending; returns how many. */
uint32_t sg_route_index(const uint32_t *expert, uint32_t n, uint32_t n_expert, uint32_t *start, uint32_t *entry, uint32_t *hit);

#endif
