/* Experts that are not all in RAM: where they lie in the file, and the memory for those that are. */
#include <stdlib.h>

#include "runtime/streaming_private.h"
#include "runtime/weights_private.h"

/* The tensor of a weight of a layer. */
static const sg_load_job *job_of(const sg_loader *l, const sg_weight *w) {
    for (size_t i = 0; i < l->n_jobs; i++)
        if (l->jobs[i].part == SG_LOAD_EXPERTS && l->jobs[i].dst == w) return &l->jobs[i];
    return NULL;
}

static bool bundle_home(const sg_weights *w, const sg_loader *l, uint32_t unit, sg_expert_home *h) {
    const sg_bundle_layout *lay = &w->ffn[unit].bundle.l;
    const size_t bytes = lay->per_expert * lay->cluster_bytes;
    for (size_t i = 0; i < l->n_jobs && h->n_expert == 0; i++) {
        const sg_load_job *j = &l->jobs[i];
        if (j->part != SG_LOAD_EXPERTS || j->raw != &w->ffn[unit].bundle.data) continue;
        *h = (sg_expert_home) { .n_expert = lay->n_expert, .in_place = true };
        h->slice[0] = (sg_expert_slice) { .offset = j->info->offset, .apart = bytes, .bytes = bytes, .file = j->info->file };
    }
    return h->n_expert > 0;
}

bool sg_streaming_expert_home(const sg_weights *w, const sg_loader *l, uint32_t layer, sg_expert_home *h, size_t *land_bytes) {
    static const sg_layer_slot slots[SG_EXPERT_SLICES] = { [SG_EXPERT_GATE] = SG_L_GATE_EXPS, [SG_EXPERT_UP] = SG_L_UP_EXPS,
                                                           [SG_EXPERT_DOWN] = SG_L_DOWN_EXPS };
    *h = (sg_expert_home) { 0 };
    if (w->n_units > 0 && w->units[layer].main != SG_NO_UNIT && bundle_home(w, l, w->units[layer].main, h)) {
        *land_bytes = sg_expert_home_init(h);
        h->slot_bytes = *land_bytes;
        return true;
    }
    for (int i = 0; i < SG_EXPERT_SLICES; i++) {
        const sg_weight *weight = &w->layers[layer][slots[i]];
        const sg_load_job *j = weight->m.kernel ? job_of(l, weight) : NULL;
        if (!j) continue;
        h->n_expert = weight->m.n > 0 ? weight->m.n : 1;
        const size_t bytes = (size_t)(j->info->n_bytes / h->n_expert);
        h->slice[i] = (sg_expert_slice) { .offset = j->info->offset, .apart = bytes, .bytes = bytes, .file = j->info->file,
                                          .packed = sg_matrix_bytes(weight->m.kernel, weight->m.rows, weight->m.k) };
    }
    *land_bytes = sg_expert_home_init(h);
    return h->n_expert > 0;
}

/* Where the slots of each layer are; base NULL: only measures. */
static size_t lay_out_slots(sg_expert_store *x, uint8_t *base) {
    size_t used = 0;
    for (uint32_t i = 0; i < x->n_homes; i++) {
        used = (used + SG_STREAM_BLOCK - 1) / SG_STREAM_BLOCK * SG_STREAM_BLOCK;
        if (base) x->homes[i].arena = base + used;
        used += x->homes[i].cache.n_slots * x->homes[i].slot_bytes;
    }
    return used;
}

static sg_status make_tables(sg_streaming *s, sg_expert_store *x, sg_error *err) {
    sg_carver c = { 0 };
    sg_expert_store_lay_out(x, &c);
    SG_TRY(sg_region_create(&s->expert_tables, c.used, "tables of experts", err));
    c = (sg_carver) { s->expert_tables.data, 0 };
    sg_expert_store_lay_out(x, &c);
    return SG_OK;
}

static sg_status make_memory(sg_streaming *s, sg_expert_store *x, sg_error *err) {
    SG_TRY(sg_region_create(&s->slots, lay_out_slots(x, NULL) + SG_CACHE_LINE, "experts in memory", err)); /* never empty */
    sg_region_large_pages(&s->slots);
    lay_out_slots(x, s->slots.data);
    SG_TRY(sg_region_create(&s->landing, x->n_reads * x->land_bytes, "experts that are being read", err));
    for (uint32_t i = 0; i < x->n_reads; i++) x->reads[i].memory = (uint8_t *)s->landing.data + i * x->land_bytes;
    sg_stream_register(s->stream, s->landing.data, s->landing.size);
    return SG_OK;
}

sg_status sg_streaming_make_experts(sg_streaming *s, const sg_residency *r, sg_weights *w, const sg_loader *l, sg_error *err) {
    sg_expert_home home;
    sg_expert_store *x = s->experts = calloc(1, sizeof *x);
    w->experts = calloc(l->n_layer, sizeof *w->experts);
    if (!x || !w->experts) return sg_fail(err, SG_E_NOMEM, "out of memory");
    x->stream = s->stream;
    x->n_reads = r->n_expert_reads;
    x->homes = calloc(l->n_layer, sizeof *x->homes);
    if (!x->homes) return sg_fail(err, SG_E_NOMEM, "out of memory");
    for (uint32_t i = 0; i < l->n_layer; i++) {
        size_t land;
        if (!sg_streaming_expert_home(w, l, i, &home, &land)) continue;
        home.cache.n_slots = r->n_expert_slots < home.n_expert ? r->n_expert_slots : home.n_expert;
        if (land > x->land_bytes) x->land_bytes = land;
        w->experts[i] = &x->homes[x->n_homes];
        if (home.in_place) w->ffn[w->units[i].main].experts = w->experts[i];
        x->homes[x->n_homes++] = home;
    }
    for (uint32_t i = 0; i < x->n_homes; i++)
        if (x->homes[i].in_place) x->homes[i].slot_bytes = x->land_bytes; /* memory of slots and areas changes places */
    SG_TRY(make_tables(s, x, err));
    SG_TRY(make_memory(s, x, err));
    sg_expert_store_clear(x);
    return SG_OK;
}

void sg_streaming_drop_experts(sg_streaming *s) {
    if (s->experts) free(s->experts->homes);
    free(s->experts);
    sg_region_destroy(&s->slots);
    sg_region_destroy(&s->landing);
    sg_region_destroy(&s->expert_tables);
}
