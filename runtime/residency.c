#include "runtime/residency.h"

#include <stdlib.h>

#include "neuron_engine/expert_store.h"
#include "neuron_engine/ffn_home.h"

#define MIB(x) ((double)(x) / (1 << 20))
/* Share of the neurons whose slots come before matrices and gates, see residency.h. */
#define FIRST_SLOTS 0.15
/* The belt's memory: so many of the largest items at least; a larger one makes reads overlap better, up to a point. */
#define RING_ITEMS 4u
#define RING_GOOD ((uint64_t)48 << 20)
/* Slots of a layer at least. */
#define SLOTS_LEAST 32u
/* Landing areas for experts: at least; so many times what a token needs of a layer is good (one is computed with, one comes). */
#define READS_LEAST 2u
#define READS_GOOD 2u
/* Tables of an expert in a layer, of a slot, of a piece that is read. */
#define EXPERT_TABLES 24u
/* Lists of the stream and of items, stacks of its threads. */
#define TABLES ((uint64_t)768 << 10)

/* One layer in the worst case over all layers. */
typedef struct shape {
    uint64_t neurons, clusters, gate_part, hot, cluster;
} shape;

static shape largest(const sg_residency_need *n) {
    shape s = { 0 };
    for (uint32_t i = 0; i < n->n_layer; i++) {
        const sg_bundle_layout *l = &n->layouts[i];
        const uint64_t places = (uint64_t)l->n_clusters * l->per_cluster;
        if (places > s.neurons) s.neurons = places;
        if (l->n_clusters > s.clusters) s.clusters = l->n_clusters;
        if (l->records_at > s.gate_part) s.gate_part = l->records_at;
        if (sg_ffn_hot_bytes(l) > s.hot) s.hot = sg_ffn_hot_bytes(l);
        if (l->cluster_bytes > s.cluster) s.cluster = l->cluster_bytes;
    }
    return s;
}

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }
static uint64_t most(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* What a slot costs in all layers, its tables included (neuron_cache.h). */
static uint64_t slot_cost(const sg_residency_need *n) { return n->n_layer * (n->slot_bytes + 10); }

/* Marks matrices as away, spread evenly over the run, so that at most `room` bytes stay. Returns the bytes that stay. */
static uint64_t spread(const sg_residency_need *n, uint64_t room, bool *away) {
    uint64_t total = 0, stay = 0;
    for (uint32_t i = 0; i < n->n_matrices; i++) total += n->matrices[i];
    uint64_t seen = 0;
    for (uint32_t i = 0; i < n->n_matrices; i++) {
        seen += n->matrices[i];
        const double allowed = total <= room ? (double)seen : (double)room * ((double)seen / (double)total);
        away[i] = stay + n->matrices[i] > room || (double)(stay + n->matrices[i]) > allowed + 1;
        if (!away[i]) stay += n->matrices[i];
    }
    return stay;
}

/* Layers that leave nothing out: as many whole clusters as fit beside a belt that holds the others of a layer until the down sums. */
static uint64_t place_clusters(const sg_residency_need *n, const shape *s, uint64_t room, sg_residency *r) {
    const uint64_t item = sg_belt_room(s->cluster), ring = r->ring;
    for (uint64_t h = s->clusters; h-- > 0;) {
        const uint64_t hold = most(ring, (s->clusters - h) * item * 5 / 4 + 2 * item), all = h * s->cluster * n->n_layer + hold - ring;
        if (all > room) continue;
        r->n_gates = r->n_hot = (uint32_t)h;
        r->ring = hold;
        return all;
    }
    const uint64_t h = least(room / (s->cluster * n->n_layer), s->clusters - 1); /* the belt cannot hold a layer */
    r->n_gates = r->n_hot = (uint32_t)h;
    return h * s->cluster * n->n_layer;
}

static uint64_t place_neurons(const sg_residency_need *n, const shape *s, uint64_t room, uint64_t first, sg_residency *r) {
    uint64_t used = first;
    r->n_gates = (uint32_t)least((room - used) / (s->gate_part * n->n_layer), s->clusters);
    used += r->n_gates * s->gate_part * n->n_layer;
    r->predictors = n->predictors > 0 && (n->keep_predictors || (r->n_gates == s->clusters && room - used > 2 * n->predictors));
    if (r->predictors && !n->keep_predictors) used += n->predictors;
    r->n_slots = (uint32_t)least((room - used + first) / slot_cost(n), s->neurons);
    return used - first + r->n_slots * slot_cost(n);
}

/* What a slot for an expert costs in all layers. */
static uint64_t expert_slot_cost(const sg_residency_need *n) { return n->expert_slots + n->n_expert_layer * EXPERT_TABLES; }
static uint64_t expert_read_cost(const sg_residency_need *n) {
    return n->expert_land + (n->expert_land / SG_EXPERT_PIECE + 2 * SG_EXPERT_SLICES) * (sizeof(sg_fetch) + sizeof(sg_fetch *)) + sizeof(sg_expert_read);
}

static uint64_t reads_least(const sg_residency_need *n) { return n->experts_together && n->n_expert_used > READS_LEAST ? n->n_expert_used : READS_LEAST; }

/* More landing areas, and slots with what is left. */
static uint64_t place_experts(const sg_residency_need *n, uint64_t room, sg_residency *r) {
    if (n->n_expert_layer == 0) return 0;
    const uint64_t at_least = reads_least(n), wish = n->experts_together ? n->n_expert : READS_GOOD * n->n_expert_used;
    const uint64_t good = least(wish, n->n_expert), more = good > at_least ? good - at_least : 0;
    const uint64_t reads = least(more, room / 8 / expert_read_cost(n));
    r->n_expert_reads = (uint32_t)(at_least + reads);
    r->n_expert_slots = (uint32_t)least(n->n_expert, (room - reads * expert_read_cost(n)) / expert_slot_cost(n));
    return reads * expert_read_cost(n) + r->n_expert_slots * expert_slot_cost(n);
}

static sg_status refuse(const sg_residency_need *n, const sg_residency *r, sg_error *err) {
    return sg_fail(err, SG_E_NOMEM,
                   "a memory budget of %.1f MiB is too small: at least %.1f MiB are needed (KV cache %.1f, working buffers %.1f, what else must stay "
                   "in memory %.1f); a shorter context, a KV cache of 8 bits and smaller batches lower that",
                   MIB(n->ram), MIB(r->floor), MIB(n->kv), MIB(n->buffers), MIB(r->floor - n->kv - n->buffers));
}

sg_status sg_residency_decide(const sg_residency_need *n, sg_residency *r, sg_error *err) {
    *r = (sg_residency) { .predictors = n->predictors > 0, .n_fetches = 2, .slot_bytes = n->slot_bytes };
    const shape s = largest(n);
    uint64_t matrices = 0, bundles = 0;
    for (uint32_t i = 0; i < n->n_matrices; i++) matrices += n->matrices[i];
    for (uint32_t i = 0; i < n->n_layer; i++)
        bundles += (uint64_t)n->layouts[i].n_clusters * (n->layouts[i].cluster_bytes + n->layouts[i].per_cluster * sizeof(float));
    const uint64_t fixed = n->outside + n->kv + n->buffers + n->vectors, experts = n->n_expert * n->expert_slots;
    r->used = fixed + matrices + n->embedding + n->predictors + bundles + experts;
    const uint64_t item = most(sg_belt_room(n->largest_item), s.cluster ? sg_belt_room(s.cluster) : 0);
    r->ring = RING_ITEMS * item;
    r->n_fetches = n->by_neurons ? (uint32_t)least(32768, most(1024, s.neurons / 4)) : 2;
    r->overhead = TABLES + sg_belt_overhead() + r->n_fetches * (sizeof(sg_fetch) + 16) + n->n_layer * (s.neurons * 5 + 4096) +
                  n->n_expert_layer * (n->n_expert * EXPERT_TABLES + sizeof(sg_expert_home));
    const uint64_t slots = n->by_neurons ? least(SLOTS_LEAST, s.neurons) * slot_cost(n) : 0, kept = n->keep_predictors ? n->predictors : 0;
    const uint64_t landing = n->n_expert_layer > 0 ? reads_least(n) * expert_read_cost(n) : 0;
    const uint64_t parts = fixed + r->overhead + r->ring + slots + kept + landing;
    r->floor = parts;
    r->floor = least(r->floor, r->used); /* a small model may need less as a whole than in parts */
    if (r->used <= n->ram) return SG_OK;
    r->streams = true;
    r->embedding_away = n->embedding > 0;
    if (parts > n->ram) return refuse(n, r, err);
    r->away = calloc(n->n_matrices + 1, sizeof *r->away);
    if (!r->away) return sg_fail(err, SG_E_NOMEM, "out of memory");
    uint64_t room = n->ram - (parts - r->ring - slots);
    r->ring = most(r->ring, least(RING_GOOD, least(room / 16, room - slots)));
    room -= r->ring;
    const uint64_t lists = n->n_layer * s.clusters * s.gate_part;
    if (n->by_neurons && matrices + lists + slots + RING_GOOD / 4 < room) { /* only prompts will need the belt */
        room += r->ring;
        r->ring = most(RING_ITEMS * item, RING_GOOD / 4);
        room -= r->ring;
    }
    if (n->n_layer == 0 && matrices + RING_ITEMS * item <= room + r->ring) { /* nothing will need the belt */
        room += r->ring - RING_ITEMS * item;
        r->ring = RING_ITEMS * item;
    }
    const uint64_t first = n->by_neurons ? most(slots, least(room / 2, (uint64_t)(FIRST_SLOTS * (double)s.neurons) * slot_cost(n))) : 0;
    const uint64_t stay = spread(n, room - first, r->away);
    uint64_t used = stay;
    if (n->n_layer > 0) used += n->by_neurons ? place_neurons(n, &s, room - stay, first, r) : place_clusters(n, &s, room - stay, r);
    if (!n->by_neurons) r->predictors = n->keep_predictors;
    used += place_experts(n, room - used, r);
    const uint64_t piece = sg_belt_room(s.hot), away = s.clusters - r->n_hot;
    if (n->n_layer > 0 && away * sg_belt_room(s.cluster) + 2 * sg_belt_room(s.cluster) > r->ring)
        r->round = (uint32_t)(r->ring / piece - 1);
    r->used = n->ram - room + used;
    r->away_bytes = matrices - stay + n->embedding + (n->n_expert - r->n_expert_slots) * n->expert_slots + n->n_layer * ((s.clusters - r->n_gates) * s.gate_part + away * s.hot);
    return SG_OK;
}

void sg_residency_finish(sg_residency *r) {
    free(r->away);
    r->away = NULL;
}
