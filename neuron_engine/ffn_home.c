#include "neuron_engine/ffn_home.h"

#include <string.h>

size_t sg_ffn_slot_bytes(const sg_bundle_layout *l, uint64_t offset, uint32_t align) {
    const size_t exact = (l->record + align - 1) / align * align;
    const bool aligned = l->record % align == 0 && (offset + l->records_at) % align == 0;
    return aligned ? l->record : exact + align;
}

uint32_t sg_ffn_slot_at(const sg_ffn_home *home, const sg_bundle_layout *l, uint32_t place, uint32_t slot, uint32_t align) {
    return (uint32_t)(home->slots_at + slot * home->slot_bytes + sg_ffn_record_offset(home, l, place) % align);
}

sg_cluster_place sg_ffn_home_place(const sg_ffn_home *home, const sg_bundle_layout *l, uint32_t c) {
    const uint32_t at = (uint32_t)(home->hot_at + c * sg_ffn_hot_bytes(l));
    return (sg_cluster_place) { home->arena + c * l->records_at, home->arena, at, at + (uint32_t)(l->per_cluster * l->up_row), (uint32_t)l->up_row,
                                (uint32_t)l->down_row };
}

void sg_ffn_store_lay_out(sg_ffn_store *s, sg_carver *c) {
    s->fetches = sg_carve(c, s->n_fetches, sizeof *s->fetches);
    s->owner = sg_carve(c, s->n_fetches, sizeof *s->owner);
    s->slot = sg_carve(c, s->n_fetches, sizeof *s->slot);
    s->active = sg_carve(c, s->n_fetches, sizeof *s->active);
    s->spare = sg_carve(c, s->n_fetches, sizeof *s->spare);
}

void sg_ffn_store_clear(sg_ffn_store *s) {
    s->n_active = s->n_spare = 0;
    for (uint32_t i = s->n_fetches - 1; i > 0; i--) s->spare[s->n_spare++] = i;
}

bool sg_ffn_by_neurons(const sg_ffn *f) {
    const bool sparse = sg_neuron_sparse(f->act) || f->policy.cut || f->policy.top_k > 0 || f->policy.predict;
    return sparse && f->policy.mode != SG_FFN_DENSE && !f->float_downs;
}

static void judge_ahead(sg_ffn_store *s) {
    const uint64_t useful = s->finds.ahead + s->finds.late;
    const bool was_trial = s->ahead.until > 0 && !s->ahead.rests;
    if (s->no_cache) s->ahead.rests = true;
    if (s->no_cache || s->always_ahead || s->run < s->ahead.until) return;
    s->ahead.rests = was_trial && (double)(useful - s->ahead.useful) < SG_AHEAD_TRUE * (double)(s->finds.predicted - s->ahead.predicted);
    s->ahead.until = s->run + (s->ahead.rests ? SG_AHEAD_REST : SG_AHEAD_TRIAL);
    s->ahead.predicted = s->finds.predicted;
    s->ahead.useful = useful;
}

void sg_ffn_store_begin(sg_ffn_store *s, bool by_neurons) {
    s->run++;
    if (by_neurons) judge_ahead(s);
    for (uint32_t i = 0; by_neurons && s->homes[i].store; i++) {
        sg_neuron_cache_begin(&s->homes[i].cache);
        if (s->no_cache && s->n_active == 0) sg_neuron_cache_clear(&s->homes[i].cache); /* nothing is on its way into a slot */
    }
}

void sg_ffn_store_sweep(sg_ffn_store *s) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < s->n_active; i++) {
        const uint32_t n = s->active[i];
        if (sg_fetch_pending(&s->fetches[n])) {
            s->active[kept++] = n;
            continue;
        }
        sg_neuron_cache *c = &s->homes[s->owner[n]].cache;
        if (sg_fetch_get(&s->fetches[n]) == SG_FETCH_DONE) c->flight[s->slot[n]] = 0;
        else sg_neuron_cache_forget(c, s->slot[n]);
        s->spare[s->n_spare++] = n;
    }
    s->n_active = kept;
}

void sg_ffn_store_recover(sg_ffn_store *s) {
    pthread_mutex_lock(&s->lock);
    sg_ffn_store_sweep(s);
    pthread_mutex_unlock(&s->lock);
}

uint32_t sg_ffn_store_fetch(sg_ffn_store *s, sg_ffn_home *home, const sg_bundle_layout *l, uint32_t place, uint32_t slot) {
    if (s->n_spare == 0) return 0;
    const uint32_t n = s->spare[--s->n_spare];
    s->active[s->n_active++] = n;
    s->owner[n] = (uint32_t)(home - s->homes);
    s->slot[n] = slot;
    s->fetches[n] = (sg_fetch) { .offset = sg_ffn_record_offset(home, l, place),
                                 .dst = home->arena + home->slots_at + slot * home->slot_bytes,
                                 .size = (uint32_t)l->record, .file = home->file };
    home->cache.flight[slot] = (uint16_t)n;
    return n;
}

void sg_ffn_waited(sg_ffn *f, const sg_ffn_store *s, uint32_t layer, uint32_t thread, double begin) {
    const double end = sg_trace_now();
    f->waited[thread].seconds += end - begin;
    sg_trace_add(s->trace, SG_TRACE_WAIT, NULL, thread, begin, end, layer);
}

const uint8_t *sg_ffn_get(sg_ffn *f, const sg_ffn_store *s, uint32_t layer, uint32_t thread, uint32_t item) {
    double seconds = 0;
    const uint8_t *data = sg_belt_get(s->belt, item, &seconds);
    if (seconds > 0) sg_ffn_waited(f, s, layer, thread, sg_trace_now() - seconds);
    return data;
}
