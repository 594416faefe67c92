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
    if (j->raw) return true;
    if (!j->kernel) return j->info->type == SG_DTYPE_F32;
    const bool whole = j->rows.n == 1 || j->dst->m.apart == sg_dtype_bytes(sg_dtype_get(j->info->type), j->info->ne[0]) * j->rows.rows;
    return !j->kernel->pack && !j->rows.turn && j->rows.apart == j->rows.rows && whole;
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

/* Reads rows row .. row + n - 1 of a tensor into the bounce buffer. */
static sg_status read_rows(sg_loader *l, sg_reader *r, const sg_load_job *j, size_t row_bytes, uint32_t row, uint32_t n, char *bounce, sg_error *err) {
    const sg_read read = { j->info->file, j->info->offset + row * (uint64_t)row_bytes, bounce, n * row_bytes };
    SG_TRY(sg_reader_read_all(r, &read, 1, report, l, err));
    l->done += read.size;
    return SG_OK;
}

static size_t row_bytes_of(const sg_load_job *j) { return (size_t)(j->info->n_bytes / (j->info->ne[1] * j->info->ne[2])); }

/* Matrix i of a tensor, turned: its rows are all in the bounce buffer, and become columns of a matrix of halves or floats. */
static sg_status turn(const sg_load_job *j, const char *bounce, size_t row_bytes, char *dst, sg_error *err) {
    const uint32_t n_in = (uint32_t)j->info->ne[0], n = j->rows.rows;
    const sg_mat_kernel *kernel = j->kernel;
    float *row = malloc((n_in + (size_t)n_in * n) * sizeof *row), *turned = row + n_in;
    uint8_t *raw = malloc((size_t)sg_dtype_bytes(sg_dtype_get(kernel->type), n) * n_in);
    if (row && raw) {
        for (uint32_t r = 0; r < n; r++) {
            sg_dequantize(j->info->type, bounce + r * row_bytes, row, n_in);
            for (uint32_t c = 0; c < n_in; c++) turned[(size_t)c * n + r] = row[c];
        }
        sg_quantize(kernel->type, turned, raw, (size_t)n_in * n);
        if (kernel->pack) kernel->pack(dst, raw, n_in, n);
        else memcpy(dst, raw, (size_t)sg_dtype_bytes(sg_dtype_get(kernel->type), n) * n_in);
    }
    free(raw);
    const bool good = row && raw;
    free(row);
    return good ? SG_OK : sg_fail(err, SG_E_NOMEM, "out of memory to turn tensor %s", j->info->name);
}

/* Tensors that change their form: some rows at a time through a bounce buffer. */
static sg_status load_packed(sg_loader *l, sg_reader *r, const sg_load_job *j, char *bounce, char *dst, sg_error *err) {
    const uint32_t k = (uint32_t)j->info->ne[0];
    const size_t row_bytes = row_bytes_of(j);
    if (!j->kernel) {
        const uint32_t rows = (uint32_t)(j->info->ne[1] * j->info->ne[2]), most = l->chunk / row_bytes > 0 ? (uint32_t)(l->chunk / row_bytes) : 1;
        for (uint32_t row = 0; row < rows; row += most) {
            const uint32_t n = rows - row < most ? rows - row : most;
            SG_TRY(read_rows(l, r, j, row_bytes, row, n, bounce, err));
            for (uint32_t i = 0; i < n; i++) sg_dequantize(j->info->type, bounce + i * row_bytes, (float *)(void *)dst + (size_t)(row + i) * k, k);
        }
        return SG_OK;
    }
    const uint32_t mr = j->kernel->mr;
    uint32_t step = (uint32_t)(l->chunk / row_bytes) / mr * mr;
    if (step == 0) step = mr;
    if (j->rows.turn) step = j->rows.rows;
    for (uint32_t i = 0; i < j->rows.n; i++, dst += j->dst->m.apart)
        for (uint32_t row = 0; row < j->rows.rows; row += step) {
            const uint32_t n = j->rows.rows - row < step ? j->rows.rows - row : step;
            SG_TRY(read_rows(l, r, j, row_bytes, j->rows.from + i * j->rows.apart + row, n, bounce, err));
            char *at = j->rows.turn ? dst : dst + sg_matrix_bytes(j->kernel, row, k);
            if (j->rows.turn) SG_TRY(turn(j, bounce, row_bytes, at, err));
            else if (j->kernel->pack) j->kernel->pack(at, bounce, n, k);
            else memcpy(at, bounce, n * row_bytes);
        }
    return SG_OK;
}

/* Bytes of the bounce buffer: the largest single step of load_packed. */
static size_t bounce_bytes(const sg_loader *l) {
    size_t most = 0;
    for (size_t i = 0; i < l->n_jobs; i++) {
        const sg_load_job *j = &l->jobs[i];
        if (j->away || is_direct(j)) continue;
        const size_t row = row_bytes_of(j), tile = row * (!j->kernel ? 1 : j->rows.turn ? j->rows.rows : j->kernel->mr);
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

/* The largest scale of every quantised down row of the units that are in RAM, as they lie in the file. */
static sg_status find_down_max(sg_weights *w, sg_error *err) {
    size_t total = 0;
    for (uint32_t i = 0; i < w->n_units; i++)
        if (w->ffn[i].bundle.data) total += (size_t)w->ffn[i].bundle.l.n_clusters * w->ffn[i].bundle.l.per_cluster;
    float *max = w->down_max = malloc((total + 1) * sizeof *max);
    if (!max) return sg_fail(err, SG_E_NOMEM, "out of memory for a table of %zu neurons", total);
    for (uint32_t i = 0; i < w->n_units; i++) {
        sg_bundle *b = &w->ffn[i].bundle;
        const sg_bundle_layout *l = &b->l;
        if (!b->down->quantised || !b->data) continue;
        b->down_max = max;
        for (uint32_t c = 0; c < l->n_clusters; c++)
            for (uint32_t n = 0; n < l->per_cluster; n++)
                *max++ = b->down->down_max(b->data + c * l->cluster_bytes + l->downs_at + n * l->down_stride, l->k);
    }
    return SG_OK;
}

/* What units take from weights that were read: biases, which every layer has as vectors, and predictors. */
static void finish_units(sg_weights *w, uint32_t n_layer) {
    for (uint32_t i = 0; i < n_layer && w->n_units > 0; i++) {
        const sg_weight *v = w->layers[i];
        if (w->units[i].main == SG_NO_UNIT) continue;
        sg_ffn_layer *u = &w->ffn[w->units[i].main];
        const bool experts = u->bundle.l.n_expert > 0;
        u->gate_bias = v[experts ? SG_L_GATE_EXPS_BIAS : SG_L_GATE_BIAS].v;
        u->up_bias = v[experts ? SG_L_UP_EXPS_BIAS : SG_L_UP_BIAS].v;
        u->down_bias = v[experts ? SG_L_DOWN_EXPS_BIAS : SG_L_DOWN_BIAS].v;
    }
    for (uint32_t i = 0; i < w->n_units; i++) {
        sg_predictor *p = &w->ffn[i].predictor;
        /* without memory for it the layer stays as it is, only slower */
        if (w->ffn[i].bundle.data) (void)sg_bundle_split(&w->ffn[i].bundle.l, (uint8_t *)(uintptr_t)w->ffn[i].bundle.data);
        p->a = w->predictors[i][0].m;
        p->b = w->predictors[i][1].m;
        p->scale = w->predictors[i][2].v;
        p->bias = w->predictors[i][3].v;
        if (!p->signs && !p->a.data) p->kind = SG_PRED_NONE;
    }
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

sg_status sg_weights_load(sg_weights *w, sg_loader *l, const sg_weights_options *options, sg_error *err) {
    l->options = options;
    l->chunk = options->chunk_bytes ? options->chunk_bytes : DEFAULT_CHUNK_BYTES;
    place_all(l);
    SG_TRY(sg_region_create(&w->region, l->total, "the weights", err));
    sg_region_large_pages(&w->region);
    SG_TRY(load_all(l, w->region.data, err));
    for (size_t i = 0; i < l->n_jobs; i++) {
        const sg_load_job *j = &l->jobs[i];
        const void *data = (const char *)w->region.data + j->offset;
        if (j->away) {
            if (j->part == SG_LOAD_PREDICTOR && j->dst) *j->dst = (sg_weight){ 0 };
        } else if (j->raw) *j->raw = data;
        else if (j->kernel) j->dst->m.data = data;
        else j->dst->v = data;
    }
    if (w->n_units > 0) SG_TRY(find_down_max(w, err));
    finish_units(w, l->n_layer);
    return SG_OK;
}

uint64_t sg_weights_bytes(const sg_weights *w) {
    const sg_streaming *s = w->streaming;
    if (!s) return w->region.size;
    return w->region.size + s->ring.size + s->arenas.size + s->tables.size + s->slots.size + s->landing.size + s->expert_tables.size;
}

void sg_weights_finish(sg_weights *w) {
    sg_streaming_destroy(&w->streaming);
    free(w->aways);
    free(w->experts);
    free(w->layers);
    free(w->ffn);
    free(w->units);
    free(w->predictors);
    free(w->down_max);
    sg_region_destroy(&w->region);
    *w = (sg_weights){ 0 };
}
