#include "runtime/weights.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "io/reader.h"
#include "runtime/base/memavail.h"

/* Read at a time when rows have to be packed: large enough for the drive, small enough not to matter in RAM. */
#define DEFAULT_CHUNK_BYTES ((size_t)8 << 20)

/* One tensor on its way into the region. */
typedef struct load_job {
    const sg_tensor_info *info;
    sg_weight *dst;
    const uint8_t **raw;         /* instead of dst: bytes, kept as they are */
    const sg_mat_kernel *kernel; /* NULL: a vector, kept as F32, or bytes */
    size_t bytes, offset;        /* of its place in the region */
} load_job;

typedef struct loader {
    const sg_gguf *g;
    const sg_kernels *kernels;
    load_job *jobs;
    size_t n_jobs, cap;
    size_t total; /* bytes of the region */
    size_t chunk;
    const sg_weights_options *options;
    uint64_t done, to_read; /* bytes of the file, for progress */
} loader;

static void place(loader *l, load_job *job) {
    job->offset = l->total;
    l->to_read += job->info->n_bytes;
    l->total += (job->bytes + SG_CACHE_LINE - 1) / SG_CACHE_LINE * SG_CACHE_LINE;
}

/* Bytes that are used as they lie in the file. */
static void add_raw(loader *l, const sg_tensor_info *info, const uint8_t **dst) {
    load_job *job = &l->jobs[l->n_jobs++];
    *job = (load_job){ .info = info, .raw = dst, .bytes = info->n_bytes };
    place(l, job);
}

/* Gives a tensor its place in the region. */
static sg_status add_job(loader *l, const sg_tensor_info *info, sg_weight *dst, bool vector, sg_error *err) {
    const char *path = sg_gguf_path(l->g, info->file);
    const sg_dtype_info *type = sg_dtype_get(info->type);
    load_job *job = &l->jobs[l->n_jobs++];
    *job = (load_job){ .info = info, .dst = dst };
    if (info->ne[0] > UINT32_MAX || info->ne[1] > UINT32_MAX)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: tensor %s is too large", path, info->name);
    if (vector) {
        if (info->type == SG_DTYPE_I8 || info->type == SG_DTYPE_I32)
            return sg_fail(err, SG_E_UNSUPPORTED, "%s: tensor %s of type %s holds no weights", path, info->name, type->name);
        job->bytes = info->ne[0] * sizeof(float);
    } else {
        job->kernel = l->kernels->mat[info->type];
        if (!job->kernel)
            return sg_fail(err, SG_E_UNSUPPORTED, "%s: no kernel for tensor %s of type %s", path, info->name, type->name);
        job->bytes = sg_matrix_bytes(job->kernel, (uint32_t)info->ne[1], (uint32_t)info->ne[0]);
    }
    place(l, job);
    return SG_OK;
}

/* The layout of a layer's bundles, checked against the tensor. */
static sg_status bundle(loader *l, const sg_model_desc *d, uint32_t layer, sg_ffn_layer *out, sg_error *err) {
    const sg_bundle_desc *b = &d->bundles[layer];
    const sg_tensor_info *t = b->clusters;
    const char *path = sg_gguf_path(l->g, t->file);
    sg_bundle_layout *lay = &out->bundle.l;
    *lay = (sg_bundle_layout){ .n_neurons = d->hp.n_ff, .k = d->hp.n_embd, .per_cluster = b->per_cluster, .gated = b->gated,
                               .gate_type = b->gate_type, .up_type = b->up_type, .down_type = b->down_type };
    if (!sg_bundle_layout_init(lay))
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: tensor %s: clusters of %u neurons with rows of %s, %s and %s cannot be used", path, t->name,
                       b->per_cluster, sg_dtype_get(b->gate_type)->name, sg_dtype_get(b->up_type)->name, sg_dtype_get(b->down_type)->name);
    if (t->ne[0] != lay->cluster_bytes || t->ne[1] != lay->n_clusters)
        return sg_fail(err, SG_E_FORMAT, "%s: tensor %s is %" PRIu64 " clusters of %" PRIu64 " bytes, expected %u of %zu", path, t->name,
                       t->ne[1], t->ne[0], lay->n_clusters, lay->cluster_bytes);
    if (t->n_bytes > UINT32_MAX) return sg_fail(err, SG_E_UNSUPPORTED, "%s: tensor %s is larger than 4 GiB", path, t->name);
    out->bundle.gate = l->kernels->neuron[lay->gate_type];
    out->bundle.up = l->kernels->neuron[lay->up_type];
    out->bundle.down = l->kernels->neuron[lay->down_type];
    out->fat_threshold = d->ffn_threshold ? d->ffn_threshold[layer] : 0;
    add_raw(l, t, &out->bundle.data);
    return SG_OK;
}

static sg_predictor_kind kind_of(const char *name) {
    int k = 0;
    while (k < SG_PRED_KINDS && strcmp(sg_predictor_names[k], name) != 0) k++;
    return (sg_predictor_kind)k;
}

/* A value per neuron, if there is such a tensor. */
static sg_status per_neuron(loader *l, const sg_tensor_info *t, uint64_t n, sg_weight *out, sg_error *err) {
    if (!t) return SG_OK;
    if (t->type != SG_DTYPE_F32 || t->n_dims != 1 || t->ne[0] != n)
        return sg_fail(err, SG_E_FORMAT, "%s: tensor %s is not %" PRIu64 " values of type F32", sg_gguf_path(l->g, t->file), t->name, n);
    return add_job(l, t, out, true, err);
}

static sg_status predictor(loader *l, const sg_model_desc *d, uint32_t layer, sg_predictor *p, sg_weight w[4], sg_error *err) {
    const sg_bundle_desc *b = &d->bundles[layer];
    const sg_tensor_info *ta = b->pred_a, *tb = b->pred_b;
    const char *path = sg_gguf_path(l->g, 0);
    const uint64_t k = d->hp.n_embd, n = d->hp.n_ff;
    *p = (sg_predictor){ .kind = kind_of(b->predictor), .k = d->hp.n_embd, .n_neurons = d->hp.n_ff };
    if (p->kind == SG_PRED_KINDS)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: layer %u has a predictor of the unknown kind \"%s\"", path, layer, b->predictor);
    if (p->kind == SG_PRED_NONE) return SG_OK;
    SG_TRY(per_neuron(l, b->pred_scale, n, &w[2], err));
    SG_TRY(per_neuron(l, b->pred_bias, n, &w[3], err));
    bool good;
    if (p->kind == SG_PRED_SIGN) {
        good = ta->type == SG_DTYPE_I8 && k % 32 == 0 && ta->ne[0] == k / 8 && ta->ne[1] == n && ta->ne[2] * ta->ne[3] == 1;
        if (good) add_raw(l, ta, &p->signs);
    } else {
        good = tb && ta->ne[0] == k && tb->ne[0] == ta->ne[1] && tb->ne[1] == n && ta->ne[1] % 32 == 0 && ta->ne[1] <= 1u << 16 &&
               ta->ne[2] * ta->ne[3] * tb->ne[2] * tb->ne[3] == 1;
        if (good) {
            p->rank = (uint32_t)ta->ne[1];
            SG_TRY(add_job(l, ta, &w[0], false, err));
            SG_TRY(add_job(l, tb, &w[1], false, err));
        }
    }
    if (!good) return sg_fail(err, SG_E_FORMAT, "%s: the predictor of layer %u has not the shape of kind %s", path, layer, b->predictor);
    return SG_OK;
}

static sg_status plan_jobs(loader *l, sg_weights *w, const sg_model_desc *d, sg_error *err) {
    const size_t most = SG_T_GLOBALS + (size_t)d->hp.n_layer * (SG_L_SLOTS + 5);
    l->jobs = calloc(most, sizeof *l->jobs);
    w->layers = calloc(d->hp.n_layer, sizeof *w->layers);
    if (!l->jobs || !w->layers) return sg_fail(err, SG_E_NOMEM, "out of memory for the table of weights");
    for (size_t i = 0; i < d->arch->n_tensors; i++) {
        const sg_tensor_rule *rule = &d->arch->tensors[i];
        const bool per_layer = strstr(rule->name, "%u") != NULL;
        for (uint32_t layer = 0; layer < (per_layer ? d->hp.n_layer : 1); layer++) {
            const sg_tensor_info *info = per_layer ? d->layers[layer][rule->slot] : d->globals[rule->slot];
            sg_weight *dst = per_layer ? &w->layers[layer][rule->slot] : &w->globals[rule->slot];
            if (info) SG_TRY(add_job(l, info, dst, rule->ne1 == SG_D_ONE, err));
        }
    }
    if (!d->bundles) return SG_OK;
    w->ffn = calloc(d->hp.n_layer, sizeof *w->ffn);
    w->predictors = calloc(d->hp.n_layer, sizeof *w->predictors);
    if (!w->ffn || !w->predictors) return sg_fail(err, SG_E_NOMEM, "out of memory for the table of weights");
    for (uint32_t i = 0; i < d->hp.n_layer; i++) {
        SG_TRY(bundle(l, d, i, &w->ffn[i], err));
        SG_TRY(predictor(l, d, i, &w->ffn[i].predictor, w->predictors[i], err));
    }
    return SG_OK;
}

/* Passes bytes of one read on as bytes of the whole load. */
static bool report(void *user, uint64_t done, uint64_t total) {
    (void)total;
    const loader *l = user;
    const sg_weights_options *o = l->options;
    return !o->progress || o->progress(o->user, l->done + done, l->to_read);
}

static bool is_direct(const load_job *j) {
    return j->raw || (j->kernel ? !j->kernel->pack : j->info->type == SG_DTYPE_F32);
}

/* Tensors that are used as they lie in the file: straight into the region, all in flight together. */
static sg_status load_direct(loader *l, sg_reader *r, char *base, sg_error *err) {
    sg_read *reads = calloc(l->n_jobs, sizeof *reads);
    if (!reads) return sg_fail(err, SG_E_NOMEM, "out of memory for the list of reads");
    size_t n = 0;
    uint64_t bytes = 0;
    for (size_t i = 0; i < l->n_jobs; i++) {
        const load_job *j = &l->jobs[i];
        if (!is_direct(j)) continue;
        reads[n++] = (sg_read){ j->info->file, j->info->offset, base + j->offset, j->info->n_bytes };
        bytes += j->info->n_bytes;
    }
    const sg_status s = sg_reader_read_all(r, reads, n, report, l, err);
    l->done += bytes;
    free(reads);
    return s;
}

/* Tensors that change their form: some rows at a time through a bounce buffer. */
static sg_status load_packed(loader *l, sg_reader *r, const load_job *j, char *bounce, char *dst, sg_error *err) {
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
static size_t bounce_bytes(const loader *l) {
    size_t most = 0;
    for (size_t i = 0; i < l->n_jobs; i++) {
        const load_job *j = &l->jobs[i];
        if (is_direct(j)) continue;
        const size_t row = j->info->n_bytes / j->info->ne[1], tile = row * (j->kernel ? j->kernel->mr : 1);
        size_t need = tile > l->chunk ? tile : l->chunk;
        if (need > j->info->n_bytes) need = j->info->n_bytes;
        if (need > most) most = need;
    }
    return most;
}

static sg_status load_all(loader *l, char *base, sg_error *err) {
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
        if (!is_direct(&l->jobs[i])) s = load_packed(l, r, &l->jobs[i], bounce, base + l->jobs[i].offset, err);
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

sg_status sg_weights_load(sg_weights *w, const sg_gguf *g, const sg_model_desc *d, const sg_kernels *kernels,
                          const sg_weights_options *options, sg_error *err) {
    *w = (sg_weights){ 0 };
    loader l = { .g = g, .kernels = kernels, .options = options };
    l.chunk = options->chunk_bytes ? options->chunk_bytes : DEFAULT_CHUNK_BYTES;
    sg_status s = plan_jobs(&l, w, d, err);
    /* A mapping would succeed and the process be killed later, when the pages are written. */
    const uint64_t available = sg_mem_available("");
    if (s == SG_OK && l.total > available)
        s = sg_fail(err, SG_E_NOMEM, "%s: the weights need %.1f MiB of memory, %.1f MiB are available", sg_gguf_path(g, 0),
                    (double)l.total / (1 << 20), (double)available / (1 << 20));
    if (s == SG_OK) s = sg_region_create(&w->region, l.total, "the weights", err);
    sg_region_large_pages(&w->region);
    if (s == SG_OK) s = load_all(&l, w->region.data, err);
    for (size_t i = 0; s == SG_OK && i < l.n_jobs; i++) {
        const load_job *j = &l.jobs[i];
        const void *data = (const char *)w->region.data + j->offset;
        if (j->raw) *j->raw = data;
        else if (j->kernel) j->dst->m = (sg_matrix){ j->kernel, data, (uint32_t)j->info->ne[1], (uint32_t)j->info->ne[0] };
        else j->dst->v = data;
    }
    if (s == SG_OK && w->ffn) s = find_down_max(w, d->hp.n_layer, err);
    for (uint32_t i = 0; s == SG_OK && w->ffn && i < d->hp.n_layer; i++) {
        /* without memory for it the layer stays as it is, only slower */
        (void)sg_bundle_split(&w->ffn[i].bundle.l, (uint8_t *)(uintptr_t)w->ffn[i].bundle.data);
        w->ffn[i].predictor.a = w->predictors[i][0].m;
        w->ffn[i].predictor.b = w->predictors[i][1].m;
        w->ffn[i].predictor.scale = w->predictors[i][2].v;
        w->ffn[i].predictor.bias = w->predictors[i][3].v;
    }
    free(l.jobs);
    if (s != SG_OK) sg_weights_finish(w);
    return s;
}

void sg_weights_finish(sg_weights *w) {
    free(w->layers);
    free(w->ffn);
    free(w->predictors);
    free(w->down_max);
    sg_region_destroy(&w->region);
    *w = (sg_weights){ 0 };
}
