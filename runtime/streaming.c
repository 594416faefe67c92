#include "runtime/streaming.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/streaming_private.h"
#include "runtime/weights_private.h"

/* ---- creating ---- */

uint32_t sg_streaming_item_rows(const sg_weights *w, size_t row_bytes) {
    const size_t rows = w->item_bytes / row_bytes / SG_ROW_CLUSTER * SG_ROW_CLUSTER;
    return rows < SG_ROW_CLUSTER ? SG_ROW_CLUSTER : (uint32_t)rows;
}

/* Tells every matrix that is away where its rows are. */
static sg_status note_aways(sg_weights *w, const sg_loader *l, sg_error *err) {
    size_t n = 0;
    w->aways = calloc(l->n_jobs + 1, sizeof *w->aways);
    if (!w->aways) return sg_fail(err, SG_E_NOMEM, "out of memory for the table of weights");
    for (size_t i = 0; i < l->n_jobs; i++) {
        const sg_load_job *j = &l->jobs[i];
        if (!j->away || (j->part != SG_LOAD_MATRIX && j->part != SG_LOAD_EMBEDDING)) continue;
        sg_matrix_away *a = &w->aways[n++];
        const size_t row = (size_t)(j->info->n_bytes / j->info->ne[1]);
        *a = (sg_matrix_away){ .offset = j->info->offset, .file = j->info->file, .row_bytes = row, .rows = sg_streaming_item_rows(w, row) };
        j->dst->m.away = a;
    }
    return SG_OK;
}

static sg_status open_stream(sg_streaming *s, const sg_gguf *g, const sg_weights_options *o, sg_error *err) {
    const uint32_t n = sg_gguf_n_files(g);
    const char **paths = calloc(n, sizeof *paths);
    if (!paths) return sg_fail(err, SG_E_NOMEM, "out of memory");
    for (uint32_t i = 0; i < n; i++) paths[i] = sg_gguf_path(g, i);
    const sg_stream_options so = { .engine = o->io, .faults = o->faults };
    sg_status status = sg_stream_create(&so, o->log, &s->stream, err);
    if (status == SG_OK) status = sg_stream_open(s->stream, paths, n, err);
    free(paths);
    return status;
}

/* The homes of the sparse layers, and where in the arenas they are; base NULL: only measures. */
static size_t lay_out_homes(sg_streaming *s, const sg_residency *r, const sg_weights *w, const sg_model_desc *d, size_t slot_bytes, char *base) {
    size_t used = 0;
    for (uint32_t i = 0; i < w->n_units; i++) {
        if (!sg_unit_streams(w, i)) continue;
        sg_ffn_home *h = &s->store.homes[i];
        const sg_bundle_layout *l = &w->ffn[i].bundle.l;
        const sg_tensor_info *clusters = sg_unit_bundle(w, d, i)->clusters;
        const uint32_t places = l->n_clusters * l->per_cluster;
        *h = (sg_ffn_home){ .store = &s->store, .n_gates = r->n_gates < l->n_clusters ? r->n_gates : l->n_clusters,
                            .n_hot = r->n_hot < l->n_clusters ? r->n_hot : l->n_clusters, .slot_bytes = slot_bytes,
                            .offset = clusters->offset, .file = clusters->file };
        /* slots were counted before the drive told its alignment, which can make them larger */
        const uint64_t slots = slot_bytes > r->slot_bytes ? (uint64_t)r->n_slots * r->slot_bytes / slot_bytes : r->n_slots;
        h->cache.n_slots = slots < places ? (uint32_t)slots : places;
        h->cache.n_places = places;
        h->hot_at = h->n_gates * l->records_at;
        h->slots_at = h->hot_at + h->n_hot * sg_ffn_hot_bytes(l);
        if (base) h->arena = (uint8_t *)base + used;
        if (r->round) h->round = r->round;
        const size_t bytes = h->slots_at + h->cache.n_slots * slot_bytes;
        if (bytes >= UINT32_MAX) return SIZE_MAX;
        used += (bytes + SG_BUNDLE_ALIGN - 1) / SG_BUNDLE_ALIGN * SG_BUNDLE_ALIGN;
    }
    return used;
}

static void lay_out_tables(sg_streaming *s, uint32_t n, sg_carver *c) {
    sg_ffn_store_lay_out(&s->store, c);
    for (uint32_t i = 0; i < n; i++) sg_neuron_cache_lay_out(&s->store.homes[i].cache, c);
}

static sg_status make_homes(sg_streaming *s, const sg_residency *r, sg_weights *w, const sg_model_desc *d, size_t slot_bytes, sg_error *err) {
    const uint32_t n = w->n_units;
    s->store.homes = calloc(n + 1, sizeof *s->store.homes);
    if (!s->store.homes) return sg_fail(err, SG_E_NOMEM, "out of memory");
    s->store.n_fetches = r->n_fetches;
    const size_t bytes = lay_out_homes(s, r, w, d, slot_bytes, NULL);
    if (bytes == SIZE_MAX) return sg_fail(err, SG_E_UNSUPPORTED, "more than 4 GiB of a layer would be in memory; a smaller budget works");
    SG_TRY(sg_region_create(&s->arenas, bytes + SG_BUNDLE_ALIGN, "neurons in memory", err)); /* never empty: places are counted from it */
    sg_region_large_pages(&s->arenas);
    lay_out_homes(s, r, w, d, slot_bytes, s->arenas.data);
    sg_carver c = { 0 };
    lay_out_tables(s, n, &c);
    SG_TRY(sg_region_create(&s->tables, c.used, "tables of neurons", err));
    c = (sg_carver){ s->tables.data, 0 };
    lay_out_tables(s, n, &c);
    sg_ffn_store_clear(&s->store);
    for (uint32_t i = 0; i < n; i++) {
        if (!sg_unit_streams(w, i)) continue;
        sg_neuron_cache_clear(&s->store.homes[i].cache);
        w->ffn[i].home = &s->store.homes[i];
    }
    return SG_OK;
}

sg_status sg_streaming_create(sg_streaming **out, const sg_residency *r, sg_weights *w, const sg_loader *l, const sg_model_desc *d,
                              const sg_weights_options *o, sg_error *err) {
    sg_streaming *s = *out = calloc(1, sizeof *s);
    if (!s) return sg_fail(err, SG_E_NOMEM, "out of memory");
    pthread_mutex_init(&s->runs, NULL);
    pthread_mutex_init(&s->store.lock, NULL);
    SG_TRY(note_aways(w, l, err));
    SG_TRY(open_stream(s, l->g, o, err));
    SG_TRY(sg_region_create(&s->ring, r->ring, "reading ahead", err));
    SG_TRY(sg_belt_create(s->stream, s->ring.data, s->ring.size, &s->belt, err));
    s->store.stream = s->stream;
    s->store.belt = s->belt;
    s->store.belt_memory = s->ring.data;
    if (r->n_expert_reads > 0) SG_TRY(sg_streaming_make_experts(s, r, w, l, err));
    if (w->n_units == 0) return SG_OK;
    size_t slot = 0;
    for (uint32_t i = 0; i < w->n_units; i++) {
        if (!sg_unit_streams(w, i)) continue;
        const size_t bytes = sg_ffn_slot_bytes(&w->ffn[i].bundle.l, sg_unit_bundle(w, d, i)->clusters->offset, sg_stream_align(s->stream));
        if (bytes > slot) slot = bytes;
    }
    SG_TRY(make_homes(s, r, w, d, slot, err));
    sg_stream_register(s->stream, s->ring.data, s->ring.size); /* the small one first: each call registers all again */
    sg_stream_register(s->stream, s->arenas.data, s->arenas.size);
    SG_TRY(sg_streaming_fill(s, w, d, o, err));
    s->filled = sg_stream_get_counts(s->stream);
    return SG_OK;
}

void sg_streaming_destroy(sg_streaming **streaming) {
    sg_streaming *s = *streaming;
    if (!s) return;
    if (s->stream) sg_stream_drain(s->stream);
    sg_belt_destroy(&s->belt);
    sg_stream_destroy(&s->stream);
    sg_trace_destroy(&s->trace);
    for (int i = 0; i < SG_WAYS; i++) free(s->items[i]);
    free(s->store.homes);
    sg_streaming_drop_experts(s);
    sg_region_destroy(&s->ring);
    sg_region_destroy(&s->arenas);
    sg_region_destroy(&s->tables);
    pthread_mutex_destroy(&s->runs);
    pthread_mutex_destroy(&s->store.lock);
    free(s);
    *streaming = NULL;
}

/* ---- programs ---- */

static void add(sg_belt_item *items, uint32_t *n, uint32_t file, uint64_t offset, size_t size) {
    if (items) items[*n] = (sg_belt_item){ .offset = offset, .file = file, .size = (uint32_t)size };
    ++*n;
}

static void add_matrix(const sg_matrix *m, sg_way way, sg_belt_item *items, uint32_t *n) {
    sg_matrix_away *a = (sg_matrix_away *)(uintptr_t)m->away; /* ours to fill */
    if (!a) return;
    a->item[way] = *n;
    for (uint32_t row = 0; row < m->rows; row += a->rows) {
        const uint32_t rows = m->rows - row < a->rows ? m->rows - row : a->rows;
        add(items, n, a->file, a->offset + row * (uint64_t)a->row_bytes, rows * a->row_bytes);
    }
}

static void add_layer(sg_ffn_home *h, const sg_bundle_layout *l, sg_way way, sg_belt_item *items, uint32_t *n) {
    const size_t hot = sg_ffn_hot_bytes(l);
    if (way == SG_WAY_NEURONS) {
        h->item = *n;
        for (uint32_t c = h->n_gates; c < l->n_clusters; c++) add(items, n, h->file, h->offset + c * l->cluster_bytes, l->per_cluster * l->gate_row);
        return;
    }
    h->whole_item = *n;
    for (uint32_t c = h->n_hot; c < l->n_clusters; c++) {
        const bool gates = c >= h->n_gates;
        add(items, n, h->file, h->offset + c * l->cluster_bytes + (gates ? 0 : l->records_at), gates ? l->cluster_bytes : hot);
    }
    h->again_item = *n;
    for (uint32_t c = h->n_hot; h->round && c < l->n_clusters; c++) add(items, n, h->file, h->offset + c * l->cluster_bytes + l->records_at, hot);
}

static uint32_t program(sg_streaming *s, const sg_plan *p, const sg_weights *w, sg_way way, sg_belt_item *items) {
    uint32_t n = 0;
    s->n_before[way] = UINT32_MAX;
    for (uint32_t i = 0; i < p->n_steps; i++) {
        const sg_step *step = &p->steps[i];
        if (step->last_only && s->n_before[way] == UINT32_MAX) s->n_before[way] = n;
        for (uint32_t k = 0; k < step->n_products; k++) add_matrix(&step->product[k].w->m, way, items, &n);
        if (step->op == SG_OP_FFN && w->ffn[step->unit].home) add_layer(w->ffn[step->unit].home, &w->ffn[step->unit].bundle.l, way, items, &n);
    }
    if (s->n_before[way] == UINT32_MAX) s->n_before[way] = n;
    return n;
}

sg_status sg_streaming_program(sg_streaming *s, const sg_plan *p, const sg_weights *w, sg_error *err) {
    for (sg_way way = 0; way < SG_WAYS; way++) {
        const uint32_t n = program(s, p, w, way, NULL);
        s->items[way] = calloc(n + 1, sizeof *s->items[way]);
        if (!s->items[way]) return sg_fail(err, SG_E_NOMEM, "out of memory for a list of %u reads", n);
        s->n_items[way] = program(s, p, w, way, s->items[way]);
        for (uint32_t i = 0; i < n; i++)
            if (s->items[way][i].size > SG_BELT_MOST || sg_belt_room(s->items[way][i].size) > s->ring.size / 2)
                return sg_fail(err, SG_E_UNSUPPORTED, "pieces of %u bytes are too large to be read while computing", s->items[way][i].size);
    }
    return SG_OK;
}

/* ---- runs ---- */

/* Until nothing is under way, and nobody counts on what was. */
static void stop(sg_streaming *s) {
    sg_belt_stop(s->belt); /* drains the stream */
    if (s->store.homes) sg_ffn_store_recover(&s->store);
    if (s->experts) sg_expert_recover(s->experts);
}

void sg_streaming_begin(sg_streaming *s, sg_way way, bool single, bool logits) {
    pthread_mutex_lock(&s->runs);
    /* A read ahead may have failed since the last run. That may be forgotten only when nothing is under way: a read that fails later would
     * leave a piece that is not there and no failure that says so. */
    if (sg_stream_failure(s->stream, NULL) != SG_OK) {
        stop(s);
        sg_stream_recover(s->stream);
    }
    if (s->store.homes) sg_ffn_store_begin(&s->store, way == SG_WAY_NEURONS);
    if (s->experts) sg_expert_begin(s->experts, single);
    s->single = single;
    s->began = sg_trace_now();
    sg_belt_begin(s->belt, s->items[way], logits ? s->n_items[way] : s->n_before[way]);
}

sg_status sg_streaming_end(sg_streaming *s, bool broken_off, sg_error *err) {
    sg_status status = sg_stream_failure(s->stream, err);
    if (status == SG_OK) status = sg_stream_check_files(s->stream, err);
    if (status != SG_OK || broken_off) stop(s);
    else sg_belt_end(s->belt);
    if (s->experts && s->single) sg_expert_time(s->experts, sg_trace_now() - s->began);
    pthread_mutex_unlock(&s->runs);
    return status;
}

sg_status sg_streaming_trace(sg_streaming *s, size_t events, sg_error *err) {
    pthread_mutex_lock(&s->runs);
    stop(s); /* the lanes look at the trace */
    sg_stream_set_trace(s->stream, NULL);
    sg_trace_destroy(&s->trace);
    s->trace = events > 0 ? sg_trace_create(events) : NULL;
    s->store.trace = s->trace;
    sg_stream_set_trace(s->stream, s->trace);
    pthread_mutex_unlock(&s->runs);
    return events == 0 || s->trace ? SG_OK : sg_fail(err, SG_E_NOMEM, "out of memory for a trace of %zu spans", events);
}

sg_status sg_streaming_write_trace(sg_streaming *s, const char *path, sg_error *err) {
    pthread_mutex_lock(&s->runs);
    stop(s);
    const sg_status status = sg_trace_write(s->trace, path, err);
    pthread_mutex_unlock(&s->runs);
    return status;
}

/* ---- rows ---- */

size_t sg_streaming_row_room(const sg_matrix *m) { return sg_belt_room(m->away->row_bytes); }

bool sg_streaming_rows(sg_streaming *s, const sg_matrix *m, const int32_t *rows, uint32_t n, uint8_t *buffer, float *out, size_t ld) {
    const sg_matrix_away *a = m->away;
    const size_t room = sg_streaming_row_room(m);
    for (uint32_t from = 0; from < n; from += SG_ROWS_AT_ONCE) {
        const uint32_t k = n - from < SG_ROWS_AT_ONCE ? n - from : SG_ROWS_AT_ONCE;
        sg_fetch fetches[SG_ROWS_AT_ONCE], *list[SG_ROWS_AT_ONCE];
        for (uint32_t i = 0; i < k; i++) {
            fetches[i] = (sg_fetch){ .offset = a->offset + (uint64_t)rows[from + i] * a->row_bytes, .dst = buffer + i * room,
                                     .size = (uint32_t)a->row_bytes, .file = a->file };
            list[i] = &fetches[i];
        }
        sg_stream_submit(s->stream, list, k, false);
        bool good = true;
        for (uint32_t i = 0; i < k; i++) {
            sg_stream_wait(s->stream, list[i]);
            good = good && sg_fetch_get(list[i]) == SG_FETCH_DONE;
            const uint8_t *row = buffer + i * room + fetches[i].offset % sg_stream_align(s->stream);
            if (good) sg_dequantize(m->kernel->type, row, out + (from + i) * ld, m->k);
        }
        if (!good) return false;
    }
    return true;
}
