/* Sparse layers that are not all in RAM: where their parts lie, and the two ways of computing them.
 *
 * Of every layer some clusters' gate parts are in RAM for good (the first n_gates), and some clusters' records (the first n_hot, the
 * hot ones when the file is sorted). What else is needed comes from the file:
 *
 *   by neurons  (one token, an activation that leaves neurons out; ffn_neurons.c) The other gate parts come on the belt. The record of a
 *               live neuron is in a slot of the layer's cache, or is being read since a prediction, or is read now. Its up product is
 *               computed when it is there, by whoever is free: no barrier between gates and ups.
 *   by clusters (several tokens, or nothing is left out; ffn_clusters.c) Every cluster that is not hot comes on the belt, once if the
 *               belt can hold them until the down sums, else a second time for them.
 *
 * Both give the bits of a layer that is in RAM. */
#ifndef SG_NE_FFN_HOME_H
#define SG_NE_FFN_HOME_H

#include <pthread.h>

#include "io/belt.h"
#include "neuron_engine/ffn.h"
#include "neuron_engine/neuron_cache.h"

/* Where neurons were found, since the beginning. */
typedef struct sg_ffn_finds {
    uint64_t hot, cold;      /* live neurons in hot clusters, in slots */
    uint64_t ahead, late;    /* read since a prediction: there in time, still on the way */
    uint64_t missed, passed; /* read on demand: into a slot; twice through a small buffer, for want of a slot */
    uint64_t predicted;      /* reads started by predictions */
} sg_ffn_finds;

struct sg_ffn_home;

/* What the layers of a model share. One run at a time. */
typedef struct sg_ffn_store {
    sg_stream *stream;
    sg_belt *belt;
    const uint8_t *belt_memory;
    sg_trace *trace; /* or NULL */
    pthread_mutex_t lock; /* guards the caches and what follows */
    struct sg_ffn_home *homes; /* [n_layer] */
    sg_fetch *fetches;         /* [n_fetches], of neurons; number 0 is nobody's */
    uint32_t *owner;           /* [n_fetches], number of the home */
    uint32_t *slot;            /* [n_fetches] */
    uint32_t *active, n_active; /* [n_fetches], numbers of those in use */
    uint32_t *spare, n_spare;   /* [n_fetches], numbers of the others */
    uint32_t n_fetches;
    uint32_t run; /* tokens so far, from 1 */
    bool no_cache, no_pipeline; /* see sparsegen.h */
    bool always_ahead;          /* without trials */
    sg_ffn_finds finds;
    struct {
        uint32_t until;             /* run with which the present trial or rest ends */
        bool rests;
        uint64_t predicted, useful; /* of finds, when it began */
    } ahead; /* see sg_ffn_store_begin */
} sg_ffn_store;

/* Reading ahead from predictions pays when most of them come true: else the drive is kept from what is needed, and a core from its work.
 * Trials of so many tokens; where fewer came true, so many tokens of rest before the next. */
#define SG_AHEAD_TRIAL 16u
#define SG_AHEAD_REST 240u
#define SG_AHEAD_TRUE 0.67

/* One layer. */
typedef struct sg_ffn_home {
    sg_ffn_store *store;
    uint8_t *arena;       /* n_gates gate parts; n_hot records, split as by sg_bundle_split; slots. 4096-byte aligned, below 4 GiB */
    uint32_t n_gates, n_hot; /* n_hot <= n_gates */
    size_t hot_at, slots_at, slot_bytes;
    uint64_t offset;      /* of cluster 0 in the file */
    uint32_t file;
    uint32_t item;        /* by neurons: belt item of cluster n_gates; the others follow */
    uint32_t whole_item;  /* by clusters: of cluster n_hot */
    uint32_t again_item;  /* by clusters, where they come again for the down sums: of cluster n_hot */
    uint32_t round;       /* clusters that the belt can hold then; 0: it can hold all */
    sg_neuron_cache cache;
} sg_ffn_home;

/* Bytes of a slot for records of this layout, at a file offset with this remainder of the alignment. */
size_t sg_ffn_slot_bytes(const sg_bundle_layout *l, uint64_t offset, uint32_t align);
/* Bytes of hot records of a cluster. */
static inline size_t sg_ffn_hot_bytes(const sg_bundle_layout *l) { return l->cluster_bytes - l->records_at; }
/* Sizes and memory of the table of reads of neurons; a measuring carver first. n_fetches: 2 .. 65535. */
void sg_ffn_store_lay_out(sg_ffn_store *s, sg_carver *c);
void sg_ffn_store_clear(sg_ffn_store *s);

/* True when a run of one token goes by neurons. */
bool sg_ffn_by_neurons(const sg_ffn *f);

/* Begins a run; nobody else is in one. Decides whether it reads ahead from predictions (ahead.rests). */
void sg_ffn_store_begin(sg_ffn_store *s, bool by_neurons);
/* After a failed run: nothing is under way any more, slots that were being filled are empty. The stream must be drained. */
void sg_ffn_store_recover(sg_ffn_store *s);
/* What became of reads that ended; under the lock, and while nobody looks for neurons. */
void sg_ffn_store_sweep(sg_ffn_store *s);
/* A read of the record of `place` into a slot; 0 when there is none left. Under the lock; the caller submits it. */
uint32_t sg_ffn_store_fetch(sg_ffn_store *s, sg_ffn_home *home, const sg_bundle_layout *l, uint32_t place, uint32_t slot);
/* Where a neuron's record lies in the file. */
static inline uint64_t sg_ffn_record_offset(const sg_ffn_home *home, const sg_bundle_layout *l, uint32_t place) {
    return home->offset + place / l->per_cluster * l->cluster_bytes + l->records_at + place % l->per_cluster * l->record;
}
/* By neurons: the cluster with which a layer begins. The rest follows, then those before it; gates that are away come in the order of the
 * file. */
static inline uint32_t sg_ffn_first_cluster(const sg_ffn_home *home, const sg_bundle_layout *l) {
    const uint32_t kept = home->n_hot + home->cache.n_slots / l->per_cluster, most = home->n_gates < l->n_clusters ? home->n_gates : l->n_clusters - 1;
    return kept < most ? kept : most;
}
/* The place of cluster c in the arena: gates where c < n_gates, rows where c < n_hot. */
sg_cluster_place sg_ffn_home_place(const sg_ffn_home *home, const sg_bundle_layout *l, uint32_t c);
/* Bytes from the arena to the record in a slot. */
uint32_t sg_ffn_slot_at(const sg_ffn_home *home, const sg_bundle_layout *l, uint32_t place, uint32_t slot, uint32_t align);

/* As sg_ffn_run, called by it. seen: what the predictor reads. */
void sg_ffn_run_neurons(sg_ffn *f, const sg_ffn_task *k, const sg_acts *x, const sg_acts *seen, const float *residual, float *y, size_t ldy,
                        sg_team *team);
void sg_ffn_run_clusters(sg_ffn *f, const sg_ffn_task *k, const sg_acts *x, const sg_acts *seen, const float *residual, float *y, size_t ldy,
                         sg_team *team);
/* Starts reads of the neurons that the predictor of a layer names, those that score above `cut`, from a guess of the layer's input (one
 * token, 8-bit form included where the predictor wants it). Called by every thread; a barrier after it. */
void sg_ffn_look_ahead(sg_ffn *f, uint32_t layer, const sg_acts *x, float cut, sg_team *team, uint32_t thread);

/* A wait of a thread for reads, from `begin` on. */
void sg_ffn_waited(sg_ffn *f, const sg_ffn_store *s, uint32_t layer, uint32_t thread, double begin);
/* sg_belt_get, the waiting noted. NULL: a read failed, and the run ends with an error; the item has to be released all the same, or threads
 * that wait for one behind it would wait for ever. */
const uint8_t *sg_ffn_get(sg_ffn *f, const sg_ffn_store *s, uint32_t layer, uint32_t thread, uint32_t item);

#endif
