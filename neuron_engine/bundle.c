#include "neuron_engine/bundle.h"

#include <stdlib.h>
#include <string.h>

static size_t padded(size_t n) { return (n + SG_BUNDLE_ALIGN - 1) / SG_BUNDLE_ALIGN * SG_BUNDLE_ALIGN; }

static bool fits(sg_dtype type, uint32_t k) {
    const bool quantised = type == SG_DTYPE_Q8_0 || type == SG_DTYPE_Q4_0;
    return sg_dot_row_bytes(type, k) > 0 && (!quantised || k % 32 == 0);
}

uint32_t sg_bundle_per_cluster(size_t gate_row_bytes) {
    uint32_t n = 64;
    while (n < SG_CLUSTER_MAX && n * gate_row_bytes < (size_t)128 << 10) n *= 2;
    return n;
}

bool sg_bundle_layout_init(sg_bundle_layout *l) {
    if (l->n_neurons == 0 || l->k == 0 || l->n_neurons > 1u << 20 || l->k > 1u << 20) return false;
    if (l->per_cluster == 0 || l->per_cluster > SG_CLUSTER_MAX || l->per_cluster % 32) return false;
    if (!l->gated) l->up_type = l->gate_type;
    if (!fits(l->gate_type, l->k) || !fits(l->up_type, l->k) || !fits(l->down_type, l->k)) return false;
    l->per_expert = (l->n_neurons + l->per_cluster - 1) / l->per_cluster;
    const uint64_t clusters = (uint64_t)l->per_expert * (l->n_expert ? l->n_expert : 1);
    if (l->n_expert > 1u << 16 || clusters * l->per_cluster > 1u << 28) return false;
    l->n_clusters = (uint32_t)clusters;
    l->gate_row = sg_dot_row_bytes(l->gate_type, l->k);
    l->up_row = l->gated ? sg_dot_row_bytes(l->up_type, l->k) : 0;
    l->down_row = sg_down_row_bytes(l->down_type, l->k);
    l->record = l->up_row + l->down_row;
    l->records_at = padded(l->per_cluster * l->gate_row);
    l->cluster_bytes = l->records_at + padded(l->per_cluster * l->record);
    l->ups_at = l->records_at;
    l->downs_at = l->records_at + l->up_row;
    l->up_stride = l->down_stride = l->record;
    return true;
}

void sg_bundle_split_records(const sg_bundle_layout *l, uint8_t *records, uint8_t *copy) {
    uint8_t *up = records, *down = up + l->per_cluster * l->up_row;
    const uint8_t *from = copy;
    if (l->up_row == 0) return; /* down rows alone lie together already */
    memcpy(copy, records, l->per_cluster * l->record);
    for (uint32_t i = 0; i < l->per_cluster; i++, from += l->record, up += l->up_row, down += l->down_row) {
        memcpy(up, from, l->up_row);
        memcpy(down, from + l->up_row, l->down_row);
    }
}

bool sg_bundle_split(sg_bundle_layout *l, uint8_t *data) {
    if (l->up_row == 0) return true;
    uint8_t *copy = malloc(l->per_cluster * l->record);
    if (!copy) return false;
    for (uint32_t c = 0; c < l->n_clusters; c++) sg_bundle_split_records(l, data + c * l->cluster_bytes + l->records_at, copy);
    free(copy);
    l->downs_at = l->records_at + l->per_cluster * l->up_row;
    l->up_stride = l->up_row;
    l->down_stride = l->down_row;
    return true;
}
