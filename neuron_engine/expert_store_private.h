/* Reads of experts, for neuron_engine/expert_*.c. */
#ifndef SG_NE_EXPERT_STORE_PRIVATE_H
#define SG_NE_EXPERT_STORE_PRIVATE_H

#include "neuron_engine/expert_store.h"

/* The read of an expert that is, or will be, in a landing area; NULL: there is none. */
sg_expert_read *sg_expert_find(const sg_expert_store *s, const sg_expert_home *h, uint32_t expert);
bool sg_expert_pending(const sg_expert_read *r);
/* Starts to read an expert into an area that is free. */
void sg_expert_start(sg_expert_store *s, sg_expert_read *r, sg_expert_home *h, uint32_t expert, bool prefetch);
/* What was only expected is needed: in front of the queue, and once more if it was given up. */
void sg_expert_claim(sg_expert_store *s, sg_expert_read *r);
/* An area that nobody needs and nothing is being read into; else NULL. When nothing else is there, also one of what is expected of a later layer, the
 * latest first: for a demand (`expected` NULL) of any, else of a later one than `expected`, or of that one when it is not named any more. */
sg_expert_read *sg_expert_free_area(const sg_expert_store *s, const sg_expert_home *expected);
/* For what is expected of a layer, when there is no such area: one whose read, for a later layer, did not begin; else NULL. */
sg_expert_read *sg_expert_displace(const sg_expert_store *s, const sg_expert_home *expected);
/* For a demand: waits until something that is not wanted is there; NULL: everything is. */
sg_expert_read *sg_expert_wait_for_area(const sg_expert_store *s);

/* Look-ahead: whether the run that begins, of a single token, does it (expert_ahead.c). */
void sg_expert_judge_ahead(sg_expert_store *s);
/* What was named of layers up to this one (NULL: of all) does not matter any more. */
void sg_expert_forget_named(sg_expert_store *s, const sg_expert_home *upto);
/* Experts hit[n] of the layer that is being computed are needed: how good was the guess? Before their reads start. */
void sg_expert_judge_guess(sg_expert_store *s, const uint32_t *hit, uint32_t n);

#endif
