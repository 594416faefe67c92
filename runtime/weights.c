#include "runtime/weights.h"

#include <stdlib.h>
#include <string.h>

#include "io/reader.h"
#include "runtime/streaming.h"
#include "runtime/weights_private.h"

/* Read at a time when rows have to be packed: large enough for the drive, small enough not to matter in RAM. */
#define DEFAULT_CHUNK_BYTES ((size_t)8 << 20)

/* Passes bytes of one read on as bytes of the whole load. */
static bool report(void *user, uint64_t done, uint64_t total) {
    (void)total;
    const sg_loader *l = user;
    const sg_weights_options *o = l->options;
    return !o->progress || o->progress(o->user, l->done + done, l->to_read);
}

static bool is_direct(const sg_load_job *j) {
    return j->raw || (j->kernel ? !j->kernel->pack : j->info->type == SG_DTYPE_F32);
}

/* Tensors that are used as they lie in the file: straight into the region, all in flight together. */
static sg_status load_direct(sg_loader *l, sg_reader *r, char *base, sg_error *err) {
    sg_read *reads = calloc(l->n_jobs, sizeof *reads);
    if (!reads) return sg_fail(err, SG_E_NOMEM, "out of memory for the list of reads");
    size_t n = 0;
    uint64_t bytes = 0;
    for (size_t i = 0; i < l->n_jobs; i++) {
        const sg_load_job *j = &l->jobs[i];
        if (j->away || !is_direct(j)) continue;
        reads[n++] = (sg_read){ j->info->file, j->info->offset, base + j->offset, j->info->n_bytes };
        bytes += j->info->n_bytes;
    }
    const sg_status s = sg_reader_read_all(r, reads, n, report, l, err);
    l->done += bytes;
    free(reads);
    return s;
}

/* Tensors that change their form: some rows at a time through a bounce buffer. */
static sg_status load_packed(sg_loader *l, sg_reader *r, const sg_load_job *j, char *bounce, char *dst, sg_error *err) {
    const uint32_t k = (uint32_t)j->info->ne[0], rows = (uint32_t)j->info->ne[1];
    const size_t row_bytes = j->info->n_bytes / rows;
    const uint32_t mr = j->kernel ? j->kernel->mr : 1;
    uint32_t step = (uint32_t)(l->chunk / row_bytes) / mr * mr;
    if (step == 0) step = mr;
    for (uint32_t row = 0; row < rows; row += step) {
        const uint32_t n = rows - row < step ? rows - row : step;
        const sg_read read = { j->info->file, j->info->offset + row * row_bytes, bounce, n * row_bytes };
        SG_TRY(sg_reader_read_all(r, &read, 1, report, l, err));
        l->done += read.size;
        if (j->kernel) j->kernel->pack(dst + sg_matrix_bytes(j->kernel, row, k), bounce, n, k);
        else sg_dequantize(j->info->type, bounce, (float *)(void *)dst, k);
    }
    return SG_OK;
}

/* Bytes of the bounce buffer: the largest single step of load_packed. */
static size_t bounce_bytes(const sg_loader *l) {
    size_t most = 0;
    for (size_t i = 0; i < l->n_jobs; i++) {
        const sg_load_job *j = &l->jobs[i];
        if (j->away || is_direct(j)) continue;
        const size_t row = j->info->n_bytes / j->info->ne[1], tile = row * (j->kernel ? j->kernel->mr : 1);
        size_t need = tile > l->chunk ? tile : l->chunk;
        if (need > j->info->n_bytes) need = j->info->n_bytes;
        if (need > most) most = need;
    }
    return most;
}

static sg_status load_all(sg_loader *l, char *base, sg_error *err) {
    sg_reader *r = NULL;
    char *bounce = NULL;
    SG_TRY(sg_reader_create(l->options->io, l->options->log, &r, err));
    sg_status s = SG_OK;
    for (uint32_t f = 0; s == SG_OK && f < sg_gguf_n_files(l->g); f++) {
        uint32_t number; /* files are added in order, so numbers agree with the gguf's */
        s = sg_reader_add_file(r, sg_gguf_path(l->g, f), &number, err);
    }
    if (s == SG_OK) s = load_direct(l, r, base, err);
    const size_t need = bounce_bytes(l);
    if (s == SG_OK && need > 0 && !(bounce = sg_aligned_calloc(4096, need, 1)))
        s = sg_fail(err, SG_E_NOMEM, "out of memory for a buffer of %zu bytes to load through", need);
    for (size_t i = 0; s == SG_OK && i < l->n_jobs; i++)
        if (!l->jobs[i].away && !is_direct(&l->jobs[i])) s = load_packed(l, r, &l->jobs[i], bounce, base + l->jobs[i].offset, err);
    free(bounce);
    sg_reader_destroy(&r);
    return s;
}

/* The largest scale of every quantised down row, as they lie in the file. */
static sg_status find_down_max(sg_weights *w, uint32_t n_layer, sg_error *err) {
    size_t total = 0;
    for (uint32_t i = 0; i < n_layer; i++) total += (size_t)w->ffn[i].bundle.l.n_clusters * w->ffn[i].bundle.l.per_cluster;
    float *max = w->down_max = malloc(total * sizeof *max);
    if (!max) return sg_fail(err, SG_E_NOMEM, "out of memory for a table of %zu neurons", total);
    for (uint32_t i = 0; i < n_layer; i++) {
        sg_bundle *b = &w->ffn[i].bundle;
        const sg_bundle_layout *l = &b->l;
        if (!b->down->quantised) continue;
        b->down_max = max;
        for (uint32_t c = 0; c < l->n_clusters; c++)
            for (uint32_t n = 0; n < l->per_cluster; n++)
                *max++ = b->down->down_max(b->data + c * l->cluster_bytes + l->downs_at + n * l->down_stride, l->k);
    }
    return SG_OK;
}

/* Gives every tensor that stays in RAM its place. */
static void place_all(sg_loader *l) {
    l->total = 0;
    l->done = l->to_read = 0;
    for (size_t i = 0; i < l->n_jobs; i++) {
        sg_load_job *j = &l->jobs[i];
        if (j->away) continue;
        j->offset = l->total;
        l->to_read += j->info->n_bytes;
        l->total += (j->bytes + SG_CACHE_LINE - 1) / SG_CACHE_LINE * SG_CACHE_LINE;
    }
}

sg_status sg_weights_load(sg_weights *w, sg_loader *l, const sg_model_desc *d, const sg_weights_options *options, sg_error *err) {
    l->options = options;
    l->chunk = options->chunk_bytes ? options->chunk_bytes : DEFAULT_CHUNK_BYTES;
    place_all(l);
    SG_TRY(sg_region_create(&w->region, l->total, "the weights", err));
    sg_region_large_pages(&w->region);
    SG_TRY(load_all(l, w->region.data, err));
    bool bundles = w->ffn != NULL;
    for (size_t i = 0; i < l->n_jobs; i++) {
        const sg_load_job *j = &l->jobs[i];
        const void *data = (const char *)w->region.data + j->offset;
        if (j->away) {
            bundles = bundles && j->part != SG_LOAD_BUNDLE;
            if (j->part == SG_LOAD_PREDICTOR && j->dst) *j->dst = (sg_weight){ 0 };
        } else if (j->raw) *j->raw = data;
        else if (j->kernel) j->dst->m.data = data;
        else j->dst->v = data;
    }
    if (bundles) SG_TRY(find_down_max(w, d->hp.n_layer, err));
    for (uint32_t i = 0; w->ffn && i < d->hp.n_layer; i++) {
        sg_predictor *p = &w->ffn[i].predictor;
        /* without memory for it the layer stays as it is, only slower */
        if (bundles) (void)sg_bundle_split(&w->ffn[i].bundle.l, (uint8_t *)(uintptr_t)w->ffn[i].bundle.data);
        p->a = w->predictors[i][0].m;
        p->b = w->predictors[i][1].m;
        p->scale = w->predictors[i][2].v;
        p->bias = w->predictors[i][3].v;
        if (!p->signs && !p->a.data) p->kind = SG_PRED_NONE;
    }
    return SG_OK;
}

uint64_t sg_weights_bytes(const sg_weights *w) {
    return w->region.size + (w->streaming ? w->streaming->ring.size + w->streaming->arenas.size + w->streaming->tables.size : 0);
}

void sg_weights_finish(sg_weights *w) {
    sg_streaming_destroy(&w->streaming);
    free(w->aways);
    free(w->layers);
    free(w->ffn);
    free(w->predictors);
    free(w->down_max);
    sg_region_destroy(&w->region);
    *w = (sg_weights){ 0 };
}
