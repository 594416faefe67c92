/* The new file: everything as it was, except for the order of the neurons and what was learned. A row is copied as it is; only its
 * place changes. One expert, or layer without experts, is in memory at a time. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/calibrate/calibrate.h"
#include "runtime/convert/bin_writer.h"
#include "runtime/convert/file.h"

#define COPY_BYTES ((size_t)1 << 20)

typedef struct rewrite {
    const sg_cal *c;
    sg_bin_writer *w;
    int fd;
    uint8_t *chunk;  /* COPY_BYTES */
    uint8_t *expert; /* the largest expert, or layer without experts */
    uint8_t *cluster;
} rewrite;

static bool begins(const char *s, const char *prefix) { return strncmp(s, prefix, strlen(prefix)) == 0; }

/* A tensor that is made anew, or left out: blk.N.ffn_order, ffn_counts, ffn_pred_*, what names experts ahead; the checksums. */
static bool is_ours(const sg_cal *c, const char *name) {
    uint32_t layer;
    int end = 0;
    if (strcmp(name, SG_BIN_CHECKSUMS) == 0) return true;
    if (begins(name, SG_CAL_PREGATE)) return !c->routes.keep_pre;
    if (sscanf(name, "blk.%" SCNu32 ".%n", &layer, &end) != 1 || end == 0) return false;
    const char *stem = name + end;
    if (begins(stem, SG_CAL_AHEAD)) return !c->routes.keep_ahead;
    return strcmp(stem, "ffn_order") == 0 || strcmp(stem, "ffn_counts") == 0 || begins(stem, "ffn_pred_");
}

/* ---- keys --------------------------------------------------------------------------------------------------------- */

/* values[n_layer][n] from the member of each layer that `get` returns. */
static sg_status grid(const sg_cal *c, sg_gguf_writer *w, const char *x_key, const char *key, const float *x, uint32_t n,
                      const float *(*get)(const sg_cal_layer *), sg_error *err) {
    float *v = malloc((size_t)c->n_layer * n * sizeof *v);
    if (!v) return sg_fail(err, SG_E_NOMEM, "%s: no memory for the keys", c->path);
    for (uint32_t i = 0; i < c->n_layer; i++) memcpy(v + (size_t)i * n, get(&c->layers[i]), n * sizeof *v);
    sg_gguf_writer_array(w, x_key, SG_GGUF_F32, x, n);
    sg_gguf_writer_array(w, key, SG_GGUF_F32, v, (uint64_t)c->n_layer * n);
    free(v);
    return SG_OK;
}

static const float *shares_of(const sg_cal_layer *l) { return l->shares; }
static const float *thresholds_of(const sg_cal_layer *l) { return l->chosen.threshold; }

static sg_status write_keys(const rewrite *r, sg_error *err) {
    const sg_cal *c = r->c;
    sg_gguf_writer *w = sg_bin_writer_gguf(r->w);
    for (size_t i = 0; i < sg_gguf_n_kv(c->gguf); i++) {
        const sg_gguf_kv *kv = sg_gguf_kv_at(c->gguf, i);
        if (strcmp(kv->key, SG_BIN_VERSION_KEY) == 0 || begins(kv->key, "sparsegen.calibration.") || begins(kv->key, "sparsegen.predictor."))
            continue;
        sg_gguf_writer_copy(w, kv);
    }
    sg_gguf_writer_u64(w, "sparsegen.calibration.tokens", c->n_tokens);
    SG_TRY(grid(c, w, "sparsegen.calibration.threshold_shares", "sparsegen.calibration.thresholds", sg_cal_shares, SG_CAL_SHARES, shares_of,
                err));
    bool any = false;
    for (uint32_t i = 0; i < c->n_layer; i++) any = any || c->layers[i].pred.kind != SG_PRED_NONE;
    if (!any) return SG_OK;
    sg_gguf_string *kinds = calloc(c->n_layer, sizeof *kinds);
    if (!kinds) return sg_fail(err, SG_E_NOMEM, "%s: no memory for the keys", c->path);
    for (uint32_t i = 0; i < c->n_layer; i++) {
        const char *name = sg_predictor_names[c->layers[i].pred.kind];
        kinds[i] = (sg_gguf_string){ name, strlen(name) };
    }
    sg_gguf_writer_strings(w, "sparsegen.predictor.kind", kinds, c->n_layer);
    free(kinds);
    return grid(c, w, "sparsegen.predictor.recalls", "sparsegen.predictor.thresholds", sg_cal_recalls, SG_CAL_RECALLS, thresholds_of, err);
}

/* ---- tensors ------------------------------------------------------------------------------------------------------ */

static sg_status declare(const rewrite *r, uint32_t layer, const char *stem, sg_dtype type, uint64_t ne0, uint64_t ne1, sg_error *err) {
    char name[64];
    const uint64_t ne[2] = { ne0, ne1 };
    snprintf(name, sizeof name, "blk.%" PRIu32 ".%s", layer, stem);
    return sg_bin_writer_tensor(r->w, name, type, ne1 ? 2 : 1, ne, err);
}

static sg_status declare_learned(const rewrite *r, uint32_t i, sg_error *err) {
    const sg_cal *c = r->c;
    const sg_cal_pred *p = &c->layers[i].pred;
    const uint64_t experts = c->layers[i].n_expert > 1 ? c->layers[i].n_expert : 0;
    SG_TRY(declare(r, i, "ffn_order", SG_DTYPE_I32, c->layers[i].n, experts, err));
    SG_TRY(declare(r, i, "ffn_counts", SG_DTYPE_I32, c->layers[i].n, experts, err));
    if (p->scale) SG_TRY(declare(r, i, "ffn_pred_scale", SG_DTYPE_F32, c->n_ff, 0, err));
    if (p->bias) SG_TRY(declare(r, i, "ffn_pred_bias", SG_DTYPE_F32, c->n_ff, 0, err));
    if (p->kind == SG_PRED_SIGN) return declare(r, i, "ffn_pred_a", SG_DTYPE_I8, c->k / 8, c->n_ff, err);
    if (p->kind == SG_PRED_NONE) return SG_OK;
    SG_TRY(declare(r, i, "ffn_pred_a", p->type, c->k, p->rank, err));
    return declare(r, i, "ffn_pred_b", p->type, p->rank, c->n_ff, err);
}

/* What names experts: n rows and n offsets. */
static sg_status declare_hint(const rewrite *r, const sg_cal_hint *h, const char *name, uint32_t n, sg_error *err) {
    const uint64_t ne[2] = { r->c->k, n };
    char full[96];
    if (!h->rows) return SG_OK;
    snprintf(full, sizeof full, "%sweight", name);
    SG_TRY(sg_bin_writer_tensor(r->w, full, h->type, 2, ne, err));
    snprintf(full, sizeof full, "%sbias", name);
    return sg_bin_writer_tensor(r->w, full, SG_DTYPE_F32, 1, &ne[1], err);
}

static sg_status declare_hints(const rewrite *r, sg_error *err) {
    const sg_cal_routes *t = &r->c->routes;
    for (uint32_t i = 0; i < t->n; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%" PRIu32 "." SG_CAL_AHEAD, t->layer[i].layer);
        SG_TRY(declare_hint(r, &t->layer[i].ahead, name, t->n_expert, err));
    }
    return declare_hint(r, &t->pre, SG_CAL_PREGATE, t->n * t->n_expert, err);
}

static sg_status write_hint(const rewrite *r, const sg_cal_hint *h, uint32_t n, sg_error *err) {
    if (!h->rows) return SG_OK;
    SG_TRY(sg_bin_writer_data(r->w, h->rows, h->bytes, err));
    return sg_bin_writer_data(r->w, h->bias, n * sizeof *h->bias, err);
}

static sg_status write_hints(const rewrite *r, sg_error *err) {
    const sg_cal_routes *t = &r->c->routes;
    for (uint32_t i = 0; i < t->n; i++) SG_TRY(write_hint(r, &t->layer[i].ahead, t->n_expert, err));
    return write_hint(r, &t->pre, t->n * t->n_expert, err);
}

/* Order of the file: what is not cut, what was learned, the bundles. */
static sg_status declare_all(const rewrite *r, sg_error *err) {
    const sg_cal *c = r->c;
    for (int bundles = 0; bundles < 2; bundles++) {
        for (size_t i = 0; i < sg_gguf_n_tensors(c->gguf); i++) {
            const sg_tensor_info *t = sg_gguf_tensor_at(c->gguf, i);
            if (!is_ours(c, t->name) && sg_bin_is_bundle(t->name, NULL) == bundles)
                SG_TRY(sg_bin_writer_tensor(r->w, t->name, t->type, t->n_dims, t->ne, err));
        }
        for (uint32_t i = 0; !bundles && i < c->n_layer; i++) SG_TRY(declare_learned(r, i, err));
        if (!bundles) SG_TRY(declare_hints(r, err));
    }
    return SG_OK;
}

static sg_status copy(const rewrite *r, const sg_tensor_info *t, sg_error *err) {
    for (uint64_t at = 0; at < t->n_bytes;) {
        const size_t n = t->n_bytes - at < COPY_BYTES ? (size_t)(t->n_bytes - at) : COPY_BYTES;
        SG_TRY(sg_file_read_at(r->fd, r->c->path, r->chunk, n, t->offset + at, err));
        posix_fadvise(r->fd, (off_t)(t->offset + at), (off_t)n, POSIX_FADV_DONTNEED);
        SG_TRY(sg_bin_writer_data(r->w, r->chunk, n, err));
        at += n;
    }
    return SG_OK;
}

static uint32_t neurons(const sg_cal_layer *l) { return l->n_expert * l->n; }

/* A row of `bytes` for each neuron, in the new order. */
static sg_status write_rows(const rewrite *r, uint32_t layer, const uint8_t *rows, size_t bytes, sg_error *err) {
    const sg_cal_layer *l = &r->c->layers[layer];
    for (uint32_t i = 0; i < neurons(l); i++)
        SG_TRY(sg_bin_writer_data(r->w, rows + ((size_t)i / l->n * l->n + l->order[i]) * bytes, bytes, err));
    return SG_OK;
}

/* The neurons of the source: through the order that the file has already. */
static sg_status write_order(const rewrite *r, uint32_t layer, sg_error *err) {
    const sg_cal *c = r->c;
    const uint32_t n = neurons(&c->layers[layer]);
    char name[64];
    snprintf(name, sizeof name, "blk.%" PRIu32 ".ffn_order", layer);
    const sg_tensor_info *t = sg_gguf_tensor(c->gguf, name);
    if (t && (t->type != SG_DTYPE_I32 || t->n_values != n)) return sg_fail(err, SG_E_FORMAT, "%s: tensor %s is not %u numbers", c->path, name, n);
    uint32_t *old = malloc(n * sizeof *old);
    if (!old) return sg_fail(err, SG_E_NOMEM, "%s: no memory for the order of the neurons", c->path);
    for (uint32_t i = 0; i < n; i++) old[i] = i % c->layers[layer].n;
    sg_status s = t ? sg_file_read_at(r->fd, c->path, old, n * sizeof *old, t->offset, err) : SG_OK;
    if (s == SG_OK) s = write_rows(r, layer, (const uint8_t *)old, sizeof *old, err);
    free(old);
    return s;
}

static sg_status write_learned(const rewrite *r, uint32_t i, sg_error *err) {
    const sg_cal *c = r->c;
    const sg_cal_layer *l = &c->layers[i];
    SG_TRY(write_order(r, i, err));
    SG_TRY(write_rows(r, i, (const uint8_t *)l->counts, sizeof *l->counts, err));
    if (l->pred.scale) SG_TRY(write_rows(r, i, (const uint8_t *)l->pred.scale, sizeof *l->pred.scale, err));
    if (l->pred.bias) SG_TRY(write_rows(r, i, (const uint8_t *)l->pred.bias, sizeof *l->pred.bias, err));
    if (l->pred.kind == SG_PRED_NONE) return SG_OK;
    if (l->pred.kind == SG_PRED_SIGN) return write_rows(r, i, l->pred.a, c->k / 8, err);
    SG_TRY(sg_bin_writer_data(r->w, l->pred.a, l->pred.a_bytes, err));
    return write_rows(r, i, l->pred.b, l->pred.b_bytes / c->n_ff, err);
}

/* Expert by expert; a layer without experts is one. */
static sg_status write_bundle(const rewrite *r, const sg_tensor_info *t, uint32_t layer, sg_error *err) {
    const sg_bundle_layout *b = &r->c->layouts[layer];
    const sg_cal_layer *l = &r->c->layers[layer];
    const size_t bytes = b->per_expert * b->cluster_bytes;
    for (uint32_t e = 0; e < l->n_expert; e++) {
        const uint32_t *order = l->order + (size_t)e * l->n;
        SG_TRY(sg_file_read_at(r->fd, r->c->path, r->expert, bytes, t->offset + e * bytes, err));
        posix_fadvise(r->fd, (off_t)(t->offset + e * bytes), (off_t)bytes, POSIX_FADV_DONTNEED);
        for (uint32_t c = 0; c < b->per_expert; c++) {
            memset(r->cluster, 0, b->cluster_bytes);
            for (uint32_t i = 0; i < b->per_cluster && c * b->per_cluster + i < b->n_neurons; i++) {
                const uint32_t from = order[c * b->per_cluster + i], j = from % b->per_cluster;
                const uint8_t *old = r->expert + from / b->per_cluster * b->cluster_bytes;
                memcpy(r->cluster + i * b->gate_row, old + j * b->gate_row, b->gate_row);
                memcpy(r->cluster + b->records_at + i * b->record, old + b->records_at + j * b->record, b->record);
            }
            SG_TRY(sg_bin_writer_data(r->w, r->cluster, b->cluster_bytes, err));
        }
    }
    return SG_OK;
}

/* The layer of a bias with a value per neuron; false for other tensors. */
static bool is_neuron_bias(const char *name, uint32_t *layer) {
    int end = 0;
    if (sscanf(name, "blk.%" SCNu32 ".%n", layer, &end) != 1 || end == 0) return false;
    static const char *const biases[] = { "ffn_gate.bias", "ffn_up.bias", "ffn_gate_exps.bias", "ffn_up_exps.bias" };
    for (size_t i = 0; i < sizeof biases / sizeof *biases; i++)
        if (strcmp(name + end, biases[i]) == 0) return true;
    return false;
}

/* Such a bias, in the order of the neurons. */
static sg_status write_bias(const rewrite *r, const sg_tensor_info *t, uint32_t layer, sg_error *err) {
    const uint32_t n = layer < r->c->n_layer ? neurons(&r->c->layers[layer]) : 0;
    if (n == 0 || t->n_values != n || t->n_bytes / t->n_values * t->n_values != t->n_bytes)
        return sg_fail(err, SG_E_FORMAT, "%s: tensor %s is not %u numbers", r->c->path, t->name, n);
    uint8_t *values = malloc((size_t)t->n_bytes);
    if (!values) return sg_fail(err, SG_E_NOMEM, "%s: no memory for tensor %s", r->c->path, t->name);
    sg_status s = sg_file_read_at(r->fd, r->c->path, values, (size_t)t->n_bytes, t->offset, err);
    if (s == SG_OK) s = write_rows(r, layer, values, (size_t)(t->n_bytes / t->n_values), err);
    free(values);
    return s;
}

static sg_status write_all(const rewrite *r, sg_error *err) {
    const sg_cal *c = r->c;
    uint32_t layer;
    for (size_t i = 0; i < sg_gguf_n_tensors(c->gguf); i++) {
        const sg_tensor_info *t = sg_gguf_tensor_at(c->gguf, i);
        if (is_ours(c, t->name) || sg_bin_is_bundle(t->name, NULL)) continue;
        SG_TRY(is_neuron_bias(t->name, &layer) ? write_bias(r, t, layer, err) : copy(r, t, err));
    }
    for (uint32_t i = 0; i < c->n_layer; i++) SG_TRY(write_learned(r, i, err));
    SG_TRY(write_hints(r, err));
    for (size_t i = 0; i < sg_gguf_n_tensors(c->gguf); i++) {
        const sg_tensor_info *t = sg_gguf_tensor_at(c->gguf, i);
        if (!sg_bin_is_bundle(t->name, &layer)) continue;
        SG_TRY(sg_bin_is_shexp(t->name) ? copy(r, t, err) : write_bundle(r, t, layer, err));
        if (c->step && !c->step(c->step_user, (double)c->n_tokens / 8 / c->n_layer))
            return sg_fail(err, SG_E_CANCELLED, "%s: the calibration was cancelled", c->path);
    }
    return SG_OK;
}

sg_status sg_cal_rewrite(const sg_cal *c, const char *output, bool overwrite, sg_error *err) {
    rewrite r = { .c = c, .fd = -1 };
    size_t expert = 0, cluster = 0;
    uint64_t size;
    for (uint32_t i = 0; i < c->n_layer; i++) {
        const sg_bundle_layout *b = &c->layouts[i];
        if (b->per_expert * b->cluster_bytes > expert) expert = b->per_expert * b->cluster_bytes;
        if (b->cluster_bytes > cluster) cluster = b->cluster_bytes;
    }
    r.chunk = malloc(COPY_BYTES);
    r.expert = malloc(expert);
    r.cluster = malloc(cluster);
    sg_status s = r.chunk && r.expert && r.cluster ? SG_OK : sg_fail(err, SG_E_NOMEM, "%s: no memory to write the model", output);
    if (s == SG_OK) s = sg_file_open(c->path, &r.fd, &size, err);
    if (s == SG_OK) s = sg_bin_writer_create(output, overwrite, &r.w, err);
    if (s == SG_OK) s = write_keys(&r, err);
    if (s == SG_OK) s = declare_all(&r, err);
    if (s == SG_OK) s = sg_bin_writer_begin_data(r.w, err);
    if (s == SG_OK) s = write_all(&r, err);
    if (s == SG_OK) s = sg_bin_writer_finish(r.w, err);
    sg_bin_writer_abort(&r.w);
    if (r.fd >= 0) close(r.fd);
    free(r.chunk);
    free(r.expert);
    free(r.cluster);
    return s;
}
