/* The file: keys, tensors, bundles; and how the memory is shared out. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/cpu.h"
#include "runtime/base/memavail.h"
#include "runtime/convert/bin_model.h"
#include "runtime/convert/file.h"

#define DEFAULT_RAM ((uint64_t)512 << 20)
#define COPY_BYTES ((size_t)1 << 20) /* read and written at once */
#define MOST_THREADS 8u              /* more wait for the drive */

sg_bin_tensor *sg_bin_add_tensor(sg_bin_model *m, const char *name) {
    if (m->n_tensors == m->cap_tensors) {
        const size_t cap = m->cap_tensors ? 2 * m->cap_tensors : 256;
        sg_bin_tensor *p = realloc(m->tensors, cap * sizeof *p);
        if (!p) return NULL;
        m->tensors = p;
        m->cap_tensors = cap;
    }
    sg_bin_tensor *t = &m->tensors[m->n_tensors++];
    *t = (sg_bin_tensor) { .fd = -1 };
    snprintf(t->name, sizeof t->name, "%s", name);
    return t;
}

void sg_bin_model_finish(sg_bin_model *m) {
    free(m->layers);
    free(m->shexp);
    free(m->tensors);
    *m = (sg_bin_model) { 0 };
}

/* ---- memory ------------------------------------------------------------------------------------------------------- */

static size_t most(size_t a, size_t b) { return a > b ? a : b; }
static size_t within(size_t v, size_t lo, size_t hi) { return v > hi ? most(lo, hi) : most(v, lo); }

/* What the largest pieces of the model need. */
typedef struct needs {
    size_t raw, values, packed; /* of a thread: bytes, values, bytes */
    size_t item;                /* the largest cluster, or row of a padded tensor */
    size_t slab, slab_all;      /* down rows of one cluster, of a layer or expert */
    size_t stream;              /* what sg_conv_stream needs, before there is a slab */
} needs;

static void need_rows(needs *n, const sg_bin_matrix *m, size_t values, size_t packed) {
    n->raw = most(n->raw, sg_bin_matrix_batch(m) * sg_bin_matrix_bytes(m, m->cols));
    n->values = most(n->values, values);
    n->packed = most(n->packed, packed);
}

static needs measure(const sg_bin_model *m) {
    needs n = { .values = 2 * SG_BIN_TILE_ROWS * SG_BIN_TILE_COLS, .packed = SG_CACHE_LINE, .raw = SG_CACHE_LINE, .item = 4096 };
    for (uint32_t i = 0; i < 2 * m->n_layer; i++) {
        const sg_bin_layer *b = sg_bin_unit(m, i);
        if (!b) continue;
        const sg_bundle_layout *l = &b->l;
        n.item = most(n.item, l->cluster_bytes);
        if (l->gated) need_rows(&n, &b->gate, l->k, (size_t)l->k * 4);
        need_rows(&n, &b->up, l->k, (size_t)l->k * 4);
        if (b->down_is_rows) {
            need_rows(&n, &b->down, l->k, (size_t)l->k * 4);
            continue;
        }
        n.raw = most(n.raw, SG_BIN_TILE_ROWS * sg_bin_matrix_bytes(&b->down, SG_BIN_TILE_COLS));
        n.slab = most(n.slab, l->per_cluster * l->down_row);
        n.slab_all = most(n.slab_all, (size_t)l->per_expert * l->per_cluster * l->down_row);
    }
    for (size_t i = 0; i < m->n_tensors; i++) {
        const sg_bin_tensor *t = &m->tensors[i];
        if (t->conv) n.stream = most(n.stream, sg_conv_stream_least(t->conv));
        if (!t->matrix.name) continue;
        need_rows(&n, &t->matrix, t->ne[0], SG_CACHE_LINE);
        n.item = most(n.item, t->ne[0] * 4);
    }
    return n;
}

/* Sets the sizes of the pump; *rest gets what is left, for the slab or for what comes before there is one. Everything grows with the budget
 * between what is needed and what is of use. */
static sg_status share_out(const sg_conv_job *job, const needs *n, sg_bin_pump *p, size_t *rest, sg_error *err) {
    uint64_t ram = job->ram ? job->ram : DEFAULT_RAM;
    const size_t least_rest = most(n->slab, n->stream);
    const uint64_t available = sg_mem_available("");
    if (!job->ram && available / 2 < ram) ram = available / 2;
    const uint32_t cores = sg_cpu_count();
    p->n_values = n->values;
    p->packed_bytes = n->packed;
    for (p->n_threads = cores < MOST_THREADS ? cores : MOST_THREADS;; p->n_threads--) {
        p->raw_bytes = within(ram / 16 / p->n_threads, n->raw, COPY_BYTES);
        p->buffer_bytes = within(ram / 8, n->item, most(8 * COPY_BYTES, 2 * p->n_threads * n->item));
        if (sg_bin_pump_bytes(p) + least_rest <= ram) break;
        p->raw_bytes = n->raw;
        p->buffer_bytes = n->item;
        const uint64_t least = sg_bin_pump_bytes(p) + least_rest;
        if (least <= ram || (p->n_threads == 1 && !job->ram)) {
            ram = most(ram, least);
            break;
        }
        if (p->n_threads == 1)
            return sg_fail(err, SG_E_ARG, "%s: %" PRIu64 " KiB of memory are too little for this model, %" PRIu64 " are needed",
                           job->output, ram >> 10, (least + 1023) >> 10);
    }
    *rest = (size_t)(ram - sg_bin_pump_bytes(p));
    return SG_OK;
}

/* ---- keys and tensors --------------------------------------------------------------------------------------------- */

/* The keys of the layers, or of their shared experts. */
static sg_status unit_keys(const sg_bin_model *m, const sg_bin_layer *units, const char *name, bool sizes, sg_gguf_writer *w, sg_error *err) {
    enum { NEURONS, GATE, UP, DOWN, WIDTH, EXPERTS, KEYS };
    static const char *const stems[] = { "neurons", "gate_type", "up_type", "down_type", "width", "experts" };
    uint32_t *v = calloc(m->n_layer, KEYS * sizeof *v);
    if (!v) return sg_fail(err, SG_E_NOMEM, "%s: no memory for the keys", m->path);
    for (uint32_t i = 0; i < m->n_layer; i++) {
        const sg_bundle_layout *l = &units[i].l;
        const uint32_t values[] = { l->per_cluster, l->gate_type, l->up_type, l->down_type, l->n_neurons, l->n_expert };
        for (int key = 0; key < KEYS; key++) v[(size_t)key * m->n_layer + i] = values[key];
    }
    for (int key = 0; key < KEYS; key++) {
        char full[64];
        if ((key == UP && !m->gated) || (key >= WIDTH && !sizes) || (key == EXPERTS && units == m->shexp)) continue;
        snprintf(full, sizeof full, "sparsegen.%s.%s", name, stems[key]);
        sg_gguf_writer_array(w, full, SG_GGUF_U32, v + (size_t)key * m->n_layer, m->n_layer);
    }
    free(v);
    return SG_OK;
}

static sg_status bundle_keys(const sg_bin_model *m, sg_gguf_writer *w, sg_error *err) {
    bool experts = m->shexp != NULL;
    for (uint32_t i = 0; i < m->n_layer; i++) experts = experts || m->layers[i].n_expert > 0;
    SG_TRY(unit_keys(m, m->layers, "bundle", experts, w, err));
    return m->shexp ? unit_keys(m, m->shexp, "bundle_shexp", true, w, err) : SG_OK;
}

static sg_status declare(const sg_bin_model *m, sg_bin_writer *w, uint64_t *total, sg_error *err) {
    *total = 0;
    for (size_t i = 0; i < m->n_tensors; i++) {
        const sg_bin_tensor *t = &m->tensors[i];
        uint64_t n = 1;
        for (uint32_t d = 0; d < t->n_dims; d++) n *= t->ne[d];
        *total += sg_dtype_bytes(sg_dtype_get((uint32_t)t->type), n);
        SG_TRY(sg_bin_writer_tensor(w, t->name, t->type, t->n_dims, t->ne, err));
    }
    for (uint32_t i = 0; i < 2 * m->n_layer; i++) {
        const sg_bin_layer *b = sg_bin_unit(m, i);
        if (!b) continue;
        char name[64];
        const uint64_t ne[2] = { b->l.cluster_bytes, b->l.n_clusters };
        snprintf(name, sizeof name, "blk.%" PRIu32 ".ffn_bundle%s", i / 2, i % 2 ? "_shexp" : "");
        *total += ne[0] * ne[1];
        SG_TRY(sg_bin_writer_tensor(w, name, SG_DTYPE_I8, 2, ne, err));
    }
    return SG_OK;
}

typedef struct copy_job {
    const sg_bin_tensor *t;
    size_t piece;
} copy_job;

static sg_status make_copy(void *arg, sg_bin_scratch *s, uint32_t item, uint8_t *dst, sg_error *err) {
    const copy_job *c = arg;
    const uint64_t at = (uint64_t)item * c->piece, left = c->t->from->n_bytes - at, begin = c->t->from->offset + at;
    const size_t n = left < c->piece ? (size_t)left : c->piece;
    SG_TRY(sg_file_read_at(c->t->fd, c->t->path, dst, n, begin, err));
    posix_fadvise(c->t->fd, (off_t)begin, (off_t)n, POSIX_FADV_DONTNEED);
    return SG_OK;
}

static sg_status write_tensor(sg_bin_pump *p, const sg_bin_tensor *t, size_t room, sg_error *err) {
    if (t->matrix.name) return sg_bin_write_matrix(p, t, err);
    if (t->conv) return sg_conv_stream(p->job, t->conv, sg_bin_writer_gguf(p->w), room, &p->done, p->total, err);
    copy_job c = { t, p->buffer_bytes < COPY_BYTES ? p->buffer_bytes : COPY_BYTES };
    const uint64_t n = (t->from->n_bytes + c.piece - 1) / c.piece, last = t->from->n_bytes - (n - 1) * c.piece;
    if (n > UINT32_MAX) return sg_fail(err, SG_E_UNSUPPORTED, "%s: tensor %s is too large", t->path, t->name);
    SG_TRY(sg_bin_pump_write(p, 0, (uint32_t)n, c.piece, (size_t)last, make_copy, &c, err));
    /* the page cache keeps large folios that a piece covered in part only, and what was read ahead */
    if (t->from->n_bytes >= COPY_BYTES) posix_fadvise(t->fd, 0, 0, POSIX_FADV_DONTNEED);
    return SG_OK;
}

sg_status sg_bin_write(const sg_conv_job *job, sg_bin_model *m, sg_bin_keys_fn keys, void *arg, sg_error *err) {
    sg_bin_pump p = { .job = job };
    const needs n = measure(m);
    size_t rest = 0;
    uint8_t *slab = NULL;
    SG_TRY(share_out(job, &n, &p, &rest, err));
    const size_t slab_bytes = rest < n.slab_all ? rest : n.slab_all;
    sg_status status = sg_bin_pump_init(&p, err);
    if (status == SG_OK) status = sg_bin_writer_create(job->output, job->overwrite, &p.w, err);
    if (status == SG_OK) status = keys(arg, sg_bin_writer_gguf(p.w), err);
    if (status == SG_OK) status = bundle_keys(m, sg_bin_writer_gguf(p.w), err);
    if (status == SG_OK) status = declare(m, p.w, &p.total, err);
    if (status == SG_OK) status = sg_bin_pump_progress(&p, 0, err);
    if (status == SG_OK) status = sg_bin_writer_begin_data(p.w, err);
    for (size_t i = 0; status == SG_OK && i < m->n_tensors; i++) status = write_tensor(&p, &m->tensors[i], rest, err);
    if (status == SG_OK && slab_bytes && !(slab = malloc(slab_bytes)))
        status = sg_fail(err, SG_E_NOMEM, "%s: no memory for the buffers of the conversion", job->output);
    for (uint32_t i = 0; status == SG_OK && i < 2 * m->n_layer; i++)
        if (sg_bin_unit(m, i)) status = sg_bin_write_layer(&p, sg_bin_unit(m, i), slab, slab_bytes, err);
    if (status == SG_OK) status = sg_bin_writer_finish(p.w, err);
    sg_bin_writer_abort(&p.w);
    sg_bin_pump_finish(&p);
    free(slab);
    return status;
}
