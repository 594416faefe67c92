/* What is in RAM before the first token. */
#include <stdlib.h>

#include "runtime/streaming_private.h"

/* Fetches under way at a time. */
#define AT_ONCE 256u

/* A number of fetches that are started together and awaited together. */
typedef struct batch {
    sg_streaming *s;
    const sg_weights_options *o;
    sg_fetch *fetches;
    uint32_t n;
    uint64_t done, total; /* bytes */
} batch;

static sg_status flush(batch *b, sg_error *err) {
    sg_fetch *list[AT_ONCE];
    for (uint32_t i = 0; i < b->n; i++) list[i] = &b->fetches[i];
    sg_stream_submit(b->s->stream, list, b->n, false);
    for (uint32_t i = 0; i < b->n; i++) {
        sg_stream_wait(b->s->stream, list[i]);
        b->done += list[i]->size;
    }
    b->n = 0;
    SG_TRY(sg_stream_failure(b->s->stream, err));
    if (b->o->progress && !b->o->progress(b->o->user, b->done < b->total ? b->done : b->total, b->total))
        return sg_fail(err, SG_E_CANCELLED, "reading was cancelled");
    return SG_OK;
}

/* size bytes at a whole block of a file. */
static sg_status read_range(batch *b, uint32_t file, uint64_t offset, uint8_t *dst, size_t size, sg_error *err) {
    while (size > 0) {
        const size_t n = size < SG_STREAM_MOST ? size : SG_STREAM_MOST;
        b->fetches[b->n++] = (sg_fetch){ .file = file, .offset = offset, .dst = dst, .size = (uint32_t)n };
        if (b->n == AT_ONCE) SG_TRY(flush(b, err));
        offset += n;
        dst += n;
        size -= n;
    }
    return SG_OK;
}

/* Gate parts and hot clusters. */
static sg_status fill_clusters(batch *b, sg_ffn_home *h, const sg_bundle_layout *l, sg_error *err) {
    for (uint32_t c = 0; c < h->n_gates; c++)
        SG_TRY(read_range(b, h->file, h->offset + c * l->cluster_bytes, h->arena + c * l->records_at, l->records_at, err));
    for (uint32_t c = 0; c < h->n_hot; c++)
        SG_TRY(read_range(b, h->file, h->offset + c * l->cluster_bytes + l->records_at, h->arena + h->hot_at + c * sg_ffn_hot_bytes(l),
                          sg_ffn_hot_bytes(l), err));
    if (h->n_hot == 0) return SG_OK;
    SG_TRY(flush(b, err));
    uint8_t *copy = malloc(l->per_cluster * l->record);
    if (!copy) return sg_fail(err, SG_E_NOMEM, "out of memory to sort rows");
    for (uint32_t c = 0; c < h->n_hot; c++) sg_bundle_split_records(l, h->arena + h->hot_at + c * sg_ffn_hot_bytes(l), copy);
    free(copy);
    return SG_OK;
}

/* How often the neurons of a layer fire, as heat that would not change (SG_HEAT_USE in a share p of the tokens, halved every
 * SG_HEAT_TOKENS of them). A file that was not calibrated has no counts: nothing is known then. */
static sg_status warm(batch *b, sg_ffn_home *h, const sg_tensor_info *counts, uint64_t tokens, sg_error *err) {
    const size_t room = (size_t)counts->n_bytes + 2 * SG_STREAM_BLOCK;
    if (room > SG_STREAM_MOST) return SG_OK;
    uint8_t *buffer = sg_aligned_calloc(SG_STREAM_BLOCK, room, 1);
    if (!buffer) return sg_fail(err, SG_E_NOMEM, "out of memory for counts of neurons");
    b->fetches[b->n++] = (sg_fetch){ .file = counts->file, .offset = counts->offset, .dst = buffer, .size = (uint32_t)counts->n_bytes };
    const sg_status s = flush(b, err);
    const int32_t *n = (const int32_t *)(const void *)(buffer + counts->offset % sg_stream_align(b->s->stream));
    for (uint64_t i = 0; s == SG_OK && i < counts->ne[0] && i < h->cache.n_places; i++) {
        const double heat = 2.0 * SG_HEAT_TOKENS * SG_HEAT_USE * (double)n[i] / (double)tokens;
        h->cache.heat[i] = heat > 255 ? 255 : heat > 0 ? (uint8_t)heat : 0;
    }
    free(buffer);
    return s;
}

/* The hottest neurons behind the hot clusters into the slots: the file is sorted. */
static sg_status fill_slots(batch *b, sg_ffn_home *h, const sg_bundle_layout *l, sg_error *err) {
    sg_ffn_store *st = &b->s->store;
    const uint32_t first = h->n_hot * l->per_cluster;
    for (uint32_t i = 0; i < h->cache.n_slots && first + i < l->n_neurons; i++) {
        const uint32_t slot = sg_neuron_cache_take(&h->cache, first + i, 0, false);
        if (slot == SG_SLOT_NONE) break;
        const uint32_t n = sg_ffn_store_fetch(st, h, l, first + i, slot);
        b->fetches[b->n++] = st->fetches[n];
        h->cache.flight[slot] = 0;
        st->spare[st->n_spare++] = n; /* only its form was wanted */
        st->n_active--;
        if (b->n == AT_ONCE) SG_TRY(flush(b, err));
    }
    return SG_OK;
}

sg_status sg_streaming_fill(sg_streaming *s, const sg_weights *w, const sg_model_desc *d, const sg_weights_options *o, sg_error *err) {
    batch b = { .s = s, .o = o, .fetches = calloc(AT_ONCE, sizeof *b.fetches) };
    if (!b.fetches) return sg_fail(err, SG_E_NOMEM, "out of memory");
    sg_status status = SG_OK;
    b.total = s->arenas.size;
    for (uint32_t i = 0; status == SG_OK && i < w->n_units; i++) {
        if (!sg_unit_streams(w, i)) continue;
        sg_ffn_home *h = &s->store.homes[i];
        const sg_bundle_layout *l = &w->ffn[i].bundle.l;
        status = fill_clusters(&b, h, l, err);
        const sg_tensor_info *counts = sg_unit_bundle(w, d, i)->counts;
        if (status != SG_OK || d->calibration_tokens == 0 || !counts || counts->type != SG_DTYPE_I32 || counts->ne[0] != l->n_neurons) continue;
        status = warm(&b, h, counts, d->calibration_tokens, err);
        if (status == SG_OK) status = fill_slots(&b, h, l, err);
    }
    if (status == SG_OK) status = flush(&b, err);
    else sg_stream_drain(s->stream);
    free(b.fetches);
    return status;
}
