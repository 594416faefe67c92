/* A layer's clusters (docs/model_bin.md). Gate and up rows are read as they lie. A down row is a column of the source: tiles of 32
 * rows are read, turned, and quantised, since 32 values along n_embd are one block; what comes out is collected in a slab of
 * memory, of the whole layer or, where that is too large, of as many clusters as fit, in several passes over the source. Experts are
 * made one after the other. */
#include <string.h>

#include "neuron_engine/quant.h"
#include "runtime/convert/bin_model.h"

typedef void (*pack_fn)(sg_dtype type, void *dst, const void *src, uint32_t k);

typedef struct layer_job {
    const sg_bin_layer *layer;
    size_t raw_bytes;
    uint8_t *slab;
    uint32_t expert;     /* whose turn it is, 0 without experts; what follows counts from its first row or neuron */
    uint32_t first, end; /* neurons whose down rows are in the slab */
} layer_job;

/* Rows row .. row + n - 1 of the matrix, packed as `type`, to dst, dst + stride, ... */
static sg_status pack_rows(const sg_bin_matrix *m, sg_dtype type, pack_fn pack, uint32_t row, uint32_t n, sg_bin_scratch *s,
                           size_t raw_bytes, uint8_t *dst, size_t stride, sg_error *err) {
    const size_t bytes = sg_bin_matrix_bytes(m, m->cols);
    const uint32_t step = raw_bytes / bytes < n ? (uint32_t)(raw_bytes / bytes) : n;
    const bool same = m->type == type && !m->is_int8;
    for (uint32_t i = 0; i < n; i += step) {
        const uint32_t rows = n - i < step ? n - i : step;
        SG_TRY(sg_bin_matrix_load(m, row + i, rows, 0, m->cols, s->raw, err));
        for (uint32_t r = 0; r < rows; r++, dst += stride) {
            const uint8_t *raw = s->raw + r * bytes;
            if (!same || m->unknown) {
                sg_bin_matrix_values(m, raw, (uint64_t)(row + i + r) * m->cols, m->cols, s->values);
                SG_TRY(sg_bin_matrix_check(m, s->values, m->cols, type, err));
            }
            if (same) {
                pack(type, dst, raw, m->cols);
                continue;
            }
            if (type != SG_DTYPE_Q8_0 || m->is_int8 || !sg_to_q8_0_exact(m->type, raw, s->packed, m->cols))
                sg_quantize(type, s->values, s->packed, m->cols);
            pack(type, dst, s->packed, m->cols);
        }
    }
    return SG_OK;
}

/* Columns col .. col + n - 1 of a loaded tile of `rows` rows, `apart` bytes from each other, into block `i0 / 32` of their slab rows. */
static sg_status turn(const layer_job *j, const uint8_t *raw, size_t apart, uint32_t i0, uint32_t rows, uint32_t col, uint32_t n,
                      float *values, sg_error *err) {
    const sg_bin_matrix *m = &j->layer->down;
    const sg_bundle_layout *l = &j->layer->l;
    float *turned = values + SG_BIN_TILE_ROWS * SG_BIN_TILE_COLS;
    for (uint32_t r = 0; r < rows; r++) {
        float *row = values + r * SG_BIN_TILE_COLS;
        sg_bin_matrix_values(m, raw + r * apart, ((uint64_t)j->expert * l->k + i0 + r) * m->cols + col, n, row);
        SG_TRY(sg_bin_matrix_check(m, row, n, l->down_type, err));
    }
    for (uint32_t c = 0; c < n; c++)
        for (uint32_t r = 0; r < rows; r++) turned[c * SG_BIN_TILE_ROWS + r] = values[r * SG_BIN_TILE_COLS + c];
    const size_t at = (size_t)sg_dtype_bytes(sg_dtype_get((uint32_t)l->down_type), i0);
    const uint32_t from = col < j->first ? j->first : col, to = col + n < j->end ? col + n : j->end;
    for (uint32_t c = from; c < to; c++)
        sg_quantize(l->down_type, turned + (c - col) * SG_BIN_TILE_ROWS, j->slab + (c - j->first) * l->down_row + at, rows);
    return SG_OK;
}

/* Tile row `item` of the down matrix (of the expert): 32 source rows, the columns of the slab. */
static sg_status fill_slab(void *arg, sg_bin_scratch *s, uint32_t item, uint8_t *dst, sg_error *err) {
    const layer_job *j = arg;
    const sg_bin_matrix *m = &j->layer->down;
    const uint32_t block = sg_bin_matrix_block(m), i0 = item * SG_BIN_TILE_ROWS;
    const uint32_t k = j->layer->l.k, rows = k - i0 < SG_BIN_TILE_ROWS ? k - i0 : SG_BIN_TILE_ROWS;
    const uint32_t begin = j->first / block * block, end = (j->end + block - 1) / block * block;
    const size_t unit_bytes = sg_bin_matrix_bytes(m, SG_BIN_TILE_COLS);
    const size_t units = j->raw_bytes / (SG_BIN_TILE_ROWS * unit_bytes);
    uint32_t step = units < m->cols / SG_BIN_TILE_COLS ? (uint32_t)units * SG_BIN_TILE_COLS : m->cols;
    if (m->is_int8) step = SG_BIN_TILE_COLS; /* its scales lie behind the codes of a stretch, so a stretch is not cut up */
    for (uint32_t col = begin; col < end; col += step) {
        const uint32_t n = end - col < step ? end - col : step;
        SG_TRY(sg_bin_matrix_load(m, j->expert * k + i0, rows, col, n, s->raw, err));
        const size_t apart = sg_bin_matrix_bytes(m, n);
        for (uint32_t c = 0; c < n; c += SG_BIN_TILE_COLS) {
            const uint32_t width = n - c < SG_BIN_TILE_COLS ? n - c : SG_BIN_TILE_COLS;
            SG_TRY(turn(j, s->raw + (c ? sg_bin_matrix_bytes(m, c) : 0), apart, i0, rows, col + c, width, s->values, err));
        }
    }
    return SG_OK;
}

static sg_status make_cluster(void *arg, sg_bin_scratch *s, uint32_t item, uint8_t *dst, sg_error *err) {
    const layer_job *j = arg;
    const sg_bin_layer *layer = j->layer;
    const sg_bundle_layout *l = &layer->l;
    const uint32_t first = (item - j->expert * l->per_expert) * l->per_cluster, row = j->expert * l->n_neurons + first;
    const uint32_t n = sg_bundle_neurons(l, item);
    memset(dst, 0, l->cluster_bytes);
    const sg_bin_matrix *gate = l->gated ? &layer->gate : &layer->up;
    SG_TRY(pack_rows(gate, l->gate_type, sg_dot_row_pack, row, n, s, j->raw_bytes, dst, l->gate_row, err));
    dst += l->records_at;
    if (l->gated)
        SG_TRY(pack_rows(&layer->up, l->up_type, sg_dot_row_pack, row, n, s, j->raw_bytes, dst, l->record, err));
    dst += l->up_row;
    if (layer->down_is_rows)
        return pack_rows(&layer->down, l->down_type, sg_down_row_pack, row, n, s, j->raw_bytes, dst, l->record, err);
    for (uint32_t i = 0; i < n; i++)
        sg_down_row_pack(l->down_type, dst + i * l->record, j->slab + (first + i - j->first) * l->down_row, l->k);
    return SG_OK;
}

/* All clusters of j->expert, as many at a time as the slab holds. */
static sg_status write_expert(sg_bin_pump *p, layer_job *j, uint32_t step, sg_error *err) {
    const sg_bin_layer *layer = j->layer;
    const sg_bundle_layout *l = &layer->l;
    for (uint32_t c = 0; c < l->per_expert; c += step) {
        const uint32_t n = l->per_expert - c < step ? l->per_expert - c : step;
        j->first = c * l->per_cluster;
        j->end = (c + n) * l->per_cluster < l->n_neurons ? (c + n) * l->per_cluster : l->n_neurons;
        if (!layer->down_is_rows) {
            SG_TRY(sg_bin_pump_each(p, (l->k + SG_BIN_TILE_ROWS - 1) / SG_BIN_TILE_ROWS, fill_slab, j, err));
            if (n < l->per_expert) sg_bin_matrix_drop(&layer->down);
        }
        SG_TRY(sg_bin_pump_write(p, j->expert * l->per_expert + c, n, l->cluster_bytes, l->cluster_bytes, make_cluster, j, err));
    }
    return SG_OK;
}

static void drop_sources(const sg_bin_layer *layer) {
    if (layer->l.gated) sg_bin_matrix_drop(&layer->gate);
    sg_bin_matrix_drop(&layer->up);
    sg_bin_matrix_drop(&layer->down);
}

sg_status sg_bin_write_layer(sg_bin_pump *p, const sg_bin_layer *layer, uint8_t *slab, size_t slab_bytes, sg_error *err) {
    const sg_bundle_layout *l = &layer->l;
    layer_job j = { .layer = layer, .raw_bytes = p->raw_bytes, .slab = slab };
    const size_t fit = layer->down_is_rows ? l->per_expert : slab_bytes / (l->per_cluster * l->down_row);
    const uint32_t step = fit < l->per_expert ? (uint32_t)fit : l->per_expert;
    if (step == 0) return sg_fail(err, SG_E_INTERNAL, "%s: no memory for one cluster", layer->up.name);
    for (; j.expert < (l->n_expert ? l->n_expert : 1); j.expert++) {
        SG_TRY(write_expert(p, &j, step, err));
        /* what is read in small pieces is not dropped piece by piece, and a layer of experts may be large */
        if (layer->up.gather) drop_sources(layer);
    }
    drop_sources(layer);
    return SG_OK;
}

/* Row `item` of a tensor whose rows are padded. */
static sg_status make_row(void *arg, sg_bin_scratch *s, uint32_t item, uint8_t *dst, sg_error *err) {
    const sg_bin_tensor *t = arg;
    const sg_bin_matrix *m = &t->matrix;
    memset(s->values, 0, t->ne[0] * sizeof *s->values);
    if (item < m->rows) {
        SG_TRY(sg_bin_matrix_load(m, item, 1, 0, m->cols, s->raw, err));
        sg_bin_matrix_values(m, s->raw, (uint64_t)item * m->cols, m->cols, s->values);
        SG_TRY(sg_bin_matrix_check(m, s->values, m->cols, t->type, err));
    }
    sg_quantize(t->type, s->values, dst, t->ne[0]);
    return SG_OK;
}

sg_status sg_bin_write_matrix(sg_bin_pump *p, const sg_bin_tensor *t, sg_error *err) {
    const size_t row = (size_t)sg_dtype_bytes(sg_dtype_get((uint32_t)t->type), t->ne[0]);
    SG_TRY(sg_bin_pump_write(p, 0, (uint32_t)t->ne[1], row, row, make_row, (void *)t, err));
    sg_bin_matrix_drop(&t->matrix);
    return SG_OK;
}
