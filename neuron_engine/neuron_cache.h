/* Neurons of one layer that are kept in RAM one by one: slots of one record each, and who may stay.
 *
 * Who may stay: every neuron of the layer has a heat, a small number that grows when the neuron is used and is halved every
 * SG_HEAT_TOKENS tokens; a new neuron takes the slot of the coldest among the next SG_HEAT_LOOK slots behind a hand that goes round.
 * Compared with other rules in docs/cache.md. What was used in the present run, and what is being read, never goes.
 *
 * Of experts there are few, large, and needed in bursts: for them the owner sets `exact` and `halve_after`. Then the coldest of all slots
 * gives way, of equals the one whose last use is longest ago, and heat is kept by uses that found no slot, too. Where the owner knows what comes
 * next (`soon`), what is used least then gives way, and heat decides among equals (after Belady, IBM Systems Journal 5-2, 1966).
 *
 * Not thread-safe: the owner has a lock. */
#ifndef SG_NE_NEURON_CACHE_H
#define SG_NE_NEURON_CACHE_H

#include "runtime/base/mem.h"

#define SG_SLOT_NONE UINT32_MAX
#define SG_HEAT_TOKENS 32u
#define SG_HEAT_LOOK 8u
#define SG_HEAT_USE 16u /* added by a use */
#define SG_HEAT_TOKENS_EXPERTS 8u /* instead of SG_HEAT_TOKENS, where places are experts */

typedef struct sg_neuron_cache {
    uint32_t n_slots, n_places;
    uint32_t *slot_of;  /* [n_places], or SG_SLOT_NONE */
    uint8_t *heat;      /* [n_places] */
    uint32_t *place_of; /* [n_slots], or SG_SLOT_NONE */
    uint32_t *used;     /* [n_slots], run of the last use */
    uint16_t *flight;   /* [n_slots], number of the read that fills it, or 0: it is there */
    uint32_t hand, free_from; /* slots from free_from on were never used */
    uint32_t runs;            /* since the last halving */
    uint32_t halve_after;     /* runs; 0: SG_HEAT_TOKENS. This and the next are set by the owner before the first use */
    bool exact;
    const uint16_t *soon; /* [n_places], uses that are to come, of exact caches; NULL: not known. The owner's, at any time */
} sg_neuron_cache;

/* The arrays from a carver, sizes from n_slots and n_places; sg_neuron_cache_clear before the first use. */
void sg_neuron_cache_lay_out(sg_neuron_cache *c, sg_carver *carver);
/* Forgets all slots, not the heat. */
void sg_neuron_cache_clear(sg_neuron_cache *c);
/* A token begins. */
void sg_neuron_cache_begin(sg_neuron_cache *c);

/* The slot of a neuron, or SG_SLOT_NONE. */
static inline uint32_t sg_neuron_cache_find(const sg_neuron_cache *c, uint32_t place) { return c->slot_of[place]; }
/* A neuron is used: it is hotter. */
static inline void sg_neuron_cache_warm(sg_neuron_cache *c, uint32_t place) {
    uint8_t *heat = &c->heat[place];
    *heat = *heat > 255 - SG_HEAT_USE ? 255 : (uint8_t)(*heat + SG_HEAT_USE);
}
/* The neuron in this slot is used in this run: it stays until the next. */
static inline void sg_neuron_cache_use(sg_neuron_cache *c, uint32_t slot, uint32_t run) {
    c->used[slot] = run;
    sg_neuron_cache_warm(c, c->place_of[slot]);
}
/* A slot for a neuron that has none, whose former holder is forgotten. Either way it stays until the next run.
 * `sure`: it is used in this one, else only expected to be, which makes it no hotter. SG_SLOT_NONE: all are in use (exact: it is hotter
 * all the same, so this is called once for a use). */
uint32_t sg_neuron_cache_take(sg_neuron_cache *c, uint32_t place, uint32_t run, bool sure);
/* Uses that are to come; 0 where nothing is known. */
static inline uint32_t sg_neuron_cache_soon(const sg_neuron_cache *c, uint32_t place) { return c->soon ? c->soon[place] : 0; }
/* The slot that an exact cache would give away: of those that may go the one that is used least soon, then the coldest, then the one used longest
 * ago, then the first; an empty one before any other. SG_SLOT_NONE: all are in use. */
uint32_t sg_neuron_cache_coldest(const sg_neuron_cache *c, uint32_t run);
/* The neuron in this slot is not there after all. */
void sg_neuron_cache_forget(sg_neuron_cache *c, uint32_t slot);

#endif
