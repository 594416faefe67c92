/* What stays in RAM under a budget, and what is read while computing. Arithmetic only: the caller says what there is, this says where it
 * goes.
 *
 * A token uses every matrix and every gate part once, so what of them does not fit costs its bytes at the drive's sequential speed,
 * whichever part it is. A neuron's record costs a small read whenever the neuron fires and is not in RAM: on the drives measured, as much
 * as 30 KB read in sequence (docs/performance.md), so that a record of 4.6 KB is worth its room before a gate part is when the neuron
 * fires in more than 15 % of the tokens. Hence the order: vectors, the least that is needed at all, slots for the hottest 15 % of the neurons,
 * matrices, gate parts, predictors, then slots with the rest. Experts are used by few tokens each and come in large reads: they get slots last. */
#ifndef SG_RUNTIME_RESIDENCY_H
#define SG_RUNTIME_RESIDENCY_H

#include "neuron_engine/bundle.h"

/* A model, in bytes. */
typedef struct sg_residency_need {
    uint64_t ram;      /* the budget */
    uint64_t outside;  /* tokenizer, tables and what else is there already */
    uint64_t kv, buffers; /* of the session that is to fit */
    uint64_t vectors;  /* always in RAM */
    const uint64_t *matrices; /* [n_matrices] in the order of use, without the embedding table where there is an output matrix */
    uint32_t n_matrices;
    uint64_t embedding;  /* the embedding table, when only single rows of it are used; else 0 */
    uint64_t predictors; /* of all layers; wanted, or kept_predictors: needed */
    bool keep_predictors;
    uint32_t largest_item; /* bytes of a piece of a matrix on the belt */
    /* sparse layers */
    uint32_t n_layer;                /* 0: none */
    const sg_bundle_layout *layouts; /* [n_layer] */
    size_t slot_bytes;
    bool by_neurons;      /* runs of one token leave neurons out */
    /* experts (expert_store.h) */
    uint32_t n_expert_layer, n_expert, n_expert_used; /* n_expert_layer 0: none */
    uint64_t expert_slots; /* one slot in each layer */
    uint64_t expert_land;  /* a landing area */
    bool experts_together; /* those that a token uses of a layer have to be in RAM at the same time */
} sg_residency_need;

typedef struct sg_residency {
    bool streams;       /* false: everything is in RAM, and nothing below matters */
    bool predictors;
    bool embedding_away;
    bool *away;         /* [n_matrices], owned */
    uint32_t n_gates, n_hot, n_slots; /* of every layer */
    size_t slot_bytes;  /* that n_slots was counted with */
    uint32_t round;     /* see sg_ffn_home */
    size_t ring;        /* bytes of the belt's memory */
    uint32_t n_fetches; /* reads of neurons at a time */
    uint32_t n_expert_slots; /* of each layer; all may be in RAM although other things are not */
    uint32_t n_expert_reads; /* landing areas */
    uint64_t overhead;  /* tables */
    uint64_t floor;     /* the least budget */
    uint64_t used;      /* bytes of the budget */
    uint64_t away_bytes; /* of weights that are not in RAM (slots not counted) */
} sg_residency;

/* SG_E_NOMEM with a sentence when the budget is below the floor; r->floor is set also then. */
SG_NODISCARD sg_status sg_residency_decide(const sg_residency_need *need, sg_residency *r, sg_error *err);
void sg_residency_finish(sg_residency *r);

#endif
