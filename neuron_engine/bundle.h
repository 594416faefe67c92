/* Neuron bundles: the feed-forward weights of a layer, cut into clusters of neurons (docs/model_bin.md).
 *
 * Neuron i of out = down(act(gate x, up x)) is row i of gate, row i of up and column i of down. A cluster is a run of `per_cluster`
 * neurons: first the gate rows of all of them, so that they can be read alone; from the next 4096-byte boundary on, a record
 * {up row, down row} per neuron. Ungated layers (out = down(act(up x))) have their up rows in the place of the gate. Clusters
 * begin on 4096-byte boundaries; neurons beyond n_neurons in the last one are zero and never fire.
 *
 * The experts of a layer lie one after the other in one bundle, each of n_neurons neurons in clusters of its own. */
#ifndef SG_NE_BUNDLE_H
#define SG_NE_BUNDLE_H

#include "neuron_engine/kernels/kernels.h"

#define SG_BUNDLE_ALIGN 4096u
#define SG_CLUSTER_MAX 256u /* neurons */

/* Sizes and offsets, all derived from the first eight members. */
typedef struct sg_bundle_layout {
    uint32_t n_neurons, k; /* n_neurons: of one expert, if there are any; k: values of a row, n_embd */
    uint32_t per_cluster;  /* 32 .. SG_CLUSTER_MAX, a multiple of 32 */
    bool gated;
    sg_dtype gate_type, up_type, down_type; /* F32, F16, Q8_0, Q4_0; ungated: up_type == gate_type, no up rows in the records */
    uint32_t n_expert;   /* 0: no experts */
    uint32_t per_expert; /* clusters of an expert, or of all */
    uint32_t n_clusters;
    size_t gate_row, up_row, down_row; /* bytes; up_row is 0 when ungated */
    size_t record;                     /* up_row + down_row */
    size_t records_at;                 /* from the beginning of a cluster: gate rows, padded */
    size_t cluster_bytes;
    /* Where up and down row 0 of a cluster lie, and from one row to the next: as in the file, or after sg_bundle_split. */
    size_t ups_at, up_stride, downs_at, down_stride;
} sg_bundle_layout;

/* Fills in what follows from the first eight. False when they are out of range or the types cannot be bundled. */
bool sg_bundle_layout_init(sg_bundle_layout *l);
/* Neurons per cluster for rows of this size: the fewest of 64, 128 and 256 whose gate rows reach 128 KiB, so that reading one from
 * flash is worth the request. */
uint32_t sg_bundle_per_cluster(size_t gate_row_bytes);

/* Turns the records of n_clusters clusters at `data` into all up rows, then all down rows of a cluster, and *l with them: a layer that
 * stays in RAM is read in longer stretches that way (rows of the file lie together so that one neuron is one read). False, and
 * nothing changed, when there is no memory for one cluster. */
bool sg_bundle_split(sg_bundle_layout *l, uint8_t *data);

/* The same for the records of one cluster, at `records`; copy: as many bytes of scratch memory. *l stays: the rows lie at 0 and at
 * per_cluster * up_row from `records` then. */
void sg_bundle_split_records(const sg_bundle_layout *l, uint8_t *records, uint8_t *copy);

/* Neurons of a cluster that are no padding. */
static inline uint32_t sg_bundle_neurons(const sg_bundle_layout *l, uint32_t cluster) {
    const uint32_t at = (l->n_expert ? cluster % l->per_expert : cluster) * l->per_cluster;
    return l->n_neurons - at < l->per_cluster ? l->n_neurons - at : l->per_cluster;
}

/* A bundled layer in RAM. data: n_clusters * cluster_bytes, not owned. */
typedef struct sg_bundle {
    sg_bundle_layout l;
    const uint8_t *data; /* NULL: the layer has none */
    const sg_neuron_kernel *gate, *up, *down;
    const float *down_max; /* [n_clusters * per_cluster] of quantised down rows, as down->down_max gives it, so that a row need not be
                            * touched for it; NULL: not at hand. Not owned */
} sg_bundle;

/* Where a cluster lies while a layer is computed. Rows are named by 32-bit numbers of bytes from `base`, which several clusters share. */
typedef struct sg_cluster_place {
    const uint8_t *gates; /* gate row 0 */
    const uint8_t *base;
    uint32_t ups, downs;  /* from base to up and down row 0; from one row to the next: */
    uint32_t up_stride, down_stride;
} sg_cluster_place;

/* The place of a cluster of an expert, or of a dense bundle, that lies at `base` as a whole. */
static inline sg_cluster_place sg_bundle_place_at(const sg_bundle_layout *l, const uint8_t *base, uint32_t cluster) {
    const size_t at = cluster * l->cluster_bytes;
    return (sg_cluster_place) { base + at, base, (uint32_t)(at + l->ups_at), (uint32_t)(at + l->downs_at), (uint32_t)l->up_stride, (uint32_t)l->down_stride };
}
/* The place of a cluster of a bundle that is in RAM as a whole. The clusters of an expert have one base, so that all experts together may be
 * larger than 4 GiB. */
static inline sg_cluster_place sg_bundle_place(const sg_bundle *b, uint32_t cluster) {
    const uint32_t in_expert = b->l.n_expert ? cluster % b->l.per_expert : cluster;
    return sg_bundle_place_at(&b->l, b->data + (cluster - in_expert) * b->l.cluster_bytes, in_expert);
}

#endif
