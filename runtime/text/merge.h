/* The greedy merging that both kinds of BPE share: a chain of symbols, and a queue of the neighbours that may be
 * joined, best first. O(n log n). */
#ifndef SG_TEXT_MERGE_H
#define SG_TEXT_MERGE_H

#include "runtime/base/mem.h"

typedef struct sg_symbol {
    uint32_t start, len; /* bytes of the text; len 0: joined to its left neighbour */
    int32_t id;          /* token, or -1 */
    int32_t prev, next;  /* neighbours in the chain, -1: none */
} sg_symbol;

typedef struct sg_candidate {
    double order; /* smallest first; equal ones from left to right */
    int32_t left, right, id;
    uint32_t len; /* of the joined symbol: tells a candidate that is out of date */
} sg_candidate;

/* Memory that is kept between words. Zeroed at the beginning; one thread at a time. */
typedef struct sg_merger {
    sg_symbol *symbols;
    size_t n, cap;
    sg_candidate *queue;
    size_t n_queue, queue_cap;
} sg_merger;

/* May a and b be joined: the token they make and its order. */
typedef bool (*sg_pair_fn)(const void *arg, const sg_symbol *a, const sg_symbol *b, double *order, int32_t *id);

/* Empties the chain and makes room for n symbols (at most INT32_MAX / 4). */
SG_NODISCARD sg_status sg_merger_begin(sg_merger *m, size_t n, sg_error *err);
/* Appends a symbol; no more than was asked for. */
void sg_merger_add(sg_merger *m, uint32_t start, uint32_t len, int32_t id);
/* Joins until nothing can be joined. What is left: symbols[0], then along .next. */
void sg_merger_run(sg_merger *m, sg_pair_fn pair, const void *arg);
void sg_merger_free(sg_merger *m);

#endif
