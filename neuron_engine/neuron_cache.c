#include "neuron_engine/neuron_cache.h"

#include <string.h>

void sg_neuron_cache_lay_out(sg_neuron_cache *c, sg_carver *carver) {
    c->slot_of = sg_carve(carver, c->n_places, sizeof *c->slot_of);
    c->heat = sg_carve(carver, c->n_places, sizeof *c->heat);
    c->place_of = sg_carve(carver, c->n_slots, sizeof *c->place_of);
    c->used = sg_carve(carver, c->n_slots, sizeof *c->used);
    c->flight = sg_carve(carver, c->n_slots, sizeof *c->flight);
}

void sg_neuron_cache_clear(sg_neuron_cache *c) {
    for (uint32_t i = 0; i < c->n_places; i++) c->slot_of[i] = SG_SLOT_NONE;
    for (uint32_t i = 0; i < c->n_slots; i++) c->place_of[i] = SG_SLOT_NONE;
    memset(c->used, 0, c->n_slots * sizeof *c->used);
    memset(c->flight, 0, c->n_slots * sizeof *c->flight);
    c->hand = c->free_from = 0;
}

void sg_neuron_cache_begin(sg_neuron_cache *c) {
    if (++c->runs < (c->halve_after > 0 ? c->halve_after : SG_HEAT_TOKENS)) return;
    c->runs = 0;
    for (uint32_t i = 0; i < c->n_places; i++) c->heat[i] /= 2;
}

static bool may_go(const sg_neuron_cache *c, uint32_t slot, uint32_t run) { return c->used[slot] != run && c->flight[slot] == 0; }

/* The coldest of the next few slots that may go; looks further only while there is none. */
static uint32_t coldest(sg_neuron_cache *c, uint32_t run) {
    uint32_t best = SG_SLOT_NONE, heat = 256;
    for (uint32_t seen = 0, good = 0; seen < c->n_slots && good < SG_HEAT_LOOK; seen++) {
        const uint32_t slot = c->hand;
        c->hand = slot + 1 < c->n_slots ? slot + 1 : 0;
        if (!may_go(c, slot, run)) continue;
        good++;
        const uint32_t h = c->place_of[slot] == SG_SLOT_NONE ? 0 : c->heat[c->place_of[slot]];
        if (h >= heat) continue;
        heat = h;
        best = slot;
    }
    return best;
}

uint32_t sg_neuron_cache_coldest(const sg_neuron_cache *c, uint32_t run) {
    uint32_t best = SG_SLOT_NONE, heat = UINT32_MAX;
    for (uint32_t slot = 0; slot < c->n_slots; slot++) {
        if (!may_go(c, slot, run)) continue;
        const uint32_t place = c->place_of[slot];
        if (place == SG_SLOT_NONE) return slot;
        const uint32_t h = sg_neuron_cache_soon(c, place) << 8 | c->heat[place];
        if (h > heat || (h == heat && c->used[slot] >= c->used[best])) continue;
        heat = h;
        best = slot;
    }
    return best;
}

uint32_t sg_neuron_cache_take(sg_neuron_cache *c, uint32_t place, uint32_t run, bool sure) {
    const uint32_t slot = c->free_from < c->n_slots ? c->free_from++ : c->exact ? sg_neuron_cache_coldest(c, run) : coldest(c, run);
    if (slot == SG_SLOT_NONE) {
        if (c->exact && sure) sg_neuron_cache_warm(c, place);
        return SG_SLOT_NONE;
    }
    const uint32_t old = c->place_of[slot];
    if (old != SG_SLOT_NONE) c->slot_of[old] = SG_SLOT_NONE;
    c->slot_of[place] = slot;
    c->place_of[slot] = place;
    c->used[slot] = run; /* also what is only expected: it should not go before it could be used */
    if (sure) sg_neuron_cache_use(c, slot, run);
    return slot;
}

void sg_neuron_cache_forget(sg_neuron_cache *c, uint32_t slot) {
    if (c->place_of[slot] != SG_SLOT_NONE) c->slot_of[c->place_of[slot]] = SG_SLOT_NONE;
    c->place_of[slot] = SG_SLOT_NONE;
    c->flight[slot] = 0;
    c->used[slot] = 0;
}
