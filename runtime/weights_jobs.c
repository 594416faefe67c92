/* Which tensors of a file a model needs, and in which form. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/weights_private.h"

/* Bytes that are used as they lie in the file. */
static void add_raw(sg_loader *l, sg_load_part part, const sg_tensor_info *info, const uint8_t **dst) {
    sg_load_job *job = &l->jobs[l->n_jobs++];
    *job = (sg_load_job){ .part = part, .info = info, .raw = dst, .bytes = info->n_bytes };
}

static sg_status check_size(const sg_loader *l, const sg_tensor_info *info, sg_error *err) {
    const bool fits = info->ne[0] <= UINT32_MAX && info->ne[1] <= UINT32_MAX && info->ne[2] <= UINT32_MAX && info->ne[1] * info->ne[2] <= UINT32_MAX;
    return fits ? SG_OK : sg_fail(err, SG_E_UNSUPPORTED, "%s: tensor %s is too large", sg_gguf_path(l->g, info->file), info->name);
}

/* Numbers, kept as F32. */
static sg_status add_values(sg_loader *l, sg_load_part part, const sg_tensor_info *info, sg_weight *dst, sg_error *err) {
    SG_TRY(check_size(l, info, err));
    if (info->type == SG_DTYPE_I8 || info->type == SG_DTYPE_I32)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: tensor %s of type %s holds no weights", sg_gguf_path(l->g, info->file), info->name,
                       sg_dtype_get(info->type)->name);
    sg_load_job *job = &l->jobs[l->n_jobs++];
    *job = (sg_load_job){ .part = part, .info = info, .dst = dst, .bytes = info->n_values * sizeof(float) };
    return SG_OK;
}

/* Matrices, packed for a kernel; of the tensor's type unless they are turned, which whole blocks would not survive. */
static sg_status add_matrices(sg_loader *l, sg_load_part part, const sg_tensor_info *info, sg_load_rows rows, sg_weight *dst, sg_error *err) {
    SG_TRY(check_size(l, info, err));
    const bool wide = info->type == SG_DTYPE_F32 || info->type == SG_DTYPE_BF16;
    const sg_dtype type = rows.turn ? (wide ? SG_DTYPE_F32 : SG_DTYPE_F16) : info->type;
    const sg_mat_kernel *kernel = l->kernels->mat[type];
    if (!kernel)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: no kernel for tensor %s of type %s", sg_gguf_path(l->g, info->file), info->name,
                       sg_dtype_get(info->type)->name);
    const uint32_t n_in = (uint32_t)info->ne[0], out = rows.turn ? n_in : rows.rows, k = rows.turn ? rows.rows : n_in;
    const size_t bytes = sg_matrix_bytes(kernel, out, k), apart = (bytes + SG_CACHE_LINE - 1) / SG_CACHE_LINE * SG_CACHE_LINE;
    uint64_t all;
    if (!sg_mul_add(apart, rows.n, 0, &all) || all > SIZE_MAX / 2)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: tensor %s is too large", sg_gguf_path(l->g, info->file), info->name);
    sg_load_job *job = &l->jobs[l->n_jobs++];
    *job = (sg_load_job){ .part = part, .info = info, .dst = dst, .kernel = kernel, .rows = rows, .bytes = rows.n > 1 ? (size_t)all : bytes };
    dst->m = (sg_matrix){ .kernel = kernel, .rows = out, .k = k, .n = rows.n, .apart = apart };
    return SG_OK;
}

static sg_load_rows all_rows(const sg_tensor_info *info) {
    return (sg_load_rows) { .n = (uint32_t)info->ne[2], .rows = (uint32_t)info->ne[1], .apart = (uint32_t)info->ne[1] };
}

/* A tensor as the architecture's table sees it. */
static sg_status add_tensor(sg_loader *l, const sg_tensor_rule *rule, const sg_tensor_info *info, bool per_layer, sg_weight *dst, sg_error *err) {
    if (rule->values) return add_values(l, SG_LOAD_VECTOR, info, dst, err);
    const bool table = !per_layer && rule->slot == SG_T_TOKEN_EMBD, hint = rule->slot == (per_layer ? (uint32_t)SG_L_AHEAD : (uint32_t)SG_T_PREGATE);
    const bool fixed = info->ne[2] > 1 || hint || (!per_layer && rule->slot == SG_T_POS_EMBD);
    const bool experts = per_layer && (rule->slot == SG_L_GATE_EXPS || rule->slot == SG_L_UP_EXPS || rule->slot == SG_L_DOWN_EXPS);
    const sg_load_part part = experts ? SG_LOAD_EXPERTS : table ? SG_LOAD_EMBEDDING : fixed ? SG_LOAD_FIXED : SG_LOAD_MATRIX;
    return add_matrices(l, part, info, all_rows(info), dst, err);
}

/* attn_kv_b: per head the rows of K, then those of V. K is turned, so that it brings queries to the latent vectors. */
static sg_status add_latent(sg_loader *l, const sg_hparams *hp, const sg_tensor_info *info, sg_weight w[SG_L_SLOTS], sg_error *err) {
    const uint32_t nope = hp->head_dim_k - hp->rope.n_rot, both = nope + hp->head_dim_v;
    const sg_load_rows k = { .n = hp->n_head, .rows = nope, .apart = both, .turn = true };
    const sg_load_rows v = { .n = hp->n_head, .rows = hp->head_dim_v, .from = nope, .apart = both };
    SG_TRY(add_matrices(l, SG_LOAD_FIXED, info, k, &w[SG_L_K_B], err));
    return add_matrices(l, SG_LOAD_FIXED, info, v, &w[SG_L_V_B], err);
}

/* The layout of a unit's bundles, checked against the tensor. */
static sg_status bundle_layout(const sg_loader *l, const sg_model_desc *d, const sg_bundle_desc *b, uint32_t layer, bool shared, sg_ffn_layer *out,
                               sg_error *err) {
    const sg_hparams *hp = &d->hp;
    const sg_tensor_info *t = b->clusters;
    const char *path = sg_gguf_path(l->g, t->file);
    const bool experts = d->layer[layer].experts && !shared;
    sg_bundle_layout *lay = &out->bundle.l;
    *lay = (sg_bundle_layout){ .n_neurons = shared ? hp->n_ff_shexp : experts ? hp->n_ff_exp : hp->n_ff, .k = hp->n_embd,
                               .per_cluster = b->per_cluster, .gated = b->gated, .gate_type = b->gate_type, .up_type = b->up_type,
                               .down_type = b->down_type, .n_expert = experts ? hp->n_expert : 0 };
    out->n_used = experts ? hp->n_expert_used : 0;
    if ((b->n_neurons && b->n_neurons != lay->n_neurons) || b->n_expert != lay->n_expert)
        return sg_fail(err, SG_E_FORMAT, "%s: tensor %s is of %u experts of %u neurons, expected %u of %u", path, t->name, b->n_expert, b->n_neurons,
                       lay->n_expert, lay->n_neurons);
    if (!sg_bundle_layout_init(lay) || !sg_ffn_layer_valid(out))
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: tensor %s: clusters of %u neurons with rows of %s, %s and %s cannot be used", path, t->name,
                       b->per_cluster, sg_dtype_get(b->gate_type)->name, sg_dtype_get(b->up_type)->name, sg_dtype_get(b->down_type)->name);
    if (t->ne[0] != lay->cluster_bytes || t->ne[1] != lay->n_clusters)
        return sg_fail(err, SG_E_FORMAT, "%s: tensor %s is %" PRIu64 " clusters of %" PRIu64 " bytes, expected %u of %zu", path, t->name,
                       t->ne[1], t->ne[0], lay->n_clusters, lay->cluster_bytes);
    if (!experts && t->n_bytes > UINT32_MAX) return sg_fail(err, SG_E_UNSUPPORTED, "%s: tensor %s is larger than 4 GiB", path, t->name);
    return SG_OK;
}

static sg_status bundle(sg_loader *l, const sg_model_desc *d, uint32_t layer, bool shared, sg_ffn_layer *out, sg_error *err) {
    const sg_bundle_desc *b = shared ? &d->bundles_shexp[layer] : &d->bundles[layer];
    SG_TRY(bundle_layout(l, d, b, layer, shared, out, err));
    const sg_bundle_layout *lay = &out->bundle.l;
    out->bundle.gate = l->kernels->neuron[lay->gate_type];
    out->bundle.up = l->kernels->neuron[lay->up_type];
    out->bundle.down = l->kernels->neuron[lay->down_type];
    out->fat_threshold = d->ffn_threshold ? d->ffn_threshold[layer] : 0;
    add_raw(l, lay->n_expert ? SG_LOAD_EXPERTS : SG_LOAD_BUNDLE, b->clusters, &out->bundle.data);
    return SG_OK;
}

static sg_predictor_kind kind_of(const char *name) {
    int k = 0;
    while (k < SG_PRED_KINDS && strcmp(sg_predictor_names[k], name) != 0) k++;
    return (sg_predictor_kind)k;
}

/* A value per neuron, if there is such a tensor. */
static sg_status per_neuron(sg_loader *l, const sg_tensor_info *t, uint64_t n, sg_weight *out, sg_error *err) {
    if (!t) return SG_OK;
    if (t->type != SG_DTYPE_F32 || t->n_dims != 1 || t->ne[0] != n)
        return sg_fail(err, SG_E_FORMAT, "%s: tensor %s is not %" PRIu64 " values of type F32", sg_gguf_path(l->g, t->file), t->name, n);
    return add_values(l, SG_LOAD_PREDICTOR, t, out, err);
}

static sg_status predictor(sg_loader *l, const sg_model_desc *d, uint32_t layer, sg_predictor *p, sg_weight w[4], sg_error *err) {
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
        if (good) add_raw(l, SG_LOAD_PREDICTOR, ta, &p->signs);
    } else {
        good = tb && ta->ne[0] == k && tb->ne[0] == ta->ne[1] && tb->ne[1] == n && ta->ne[1] % 32 == 0 && ta->ne[1] <= 1u << 16 &&
               ta->ne[2] * ta->ne[3] * tb->ne[2] * tb->ne[3] == 1;
        if (good) {
            p->rank = (uint32_t)ta->ne[1];
            SG_TRY(add_matrices(l, SG_LOAD_PREDICTOR, ta, all_rows(ta), &w[0], err));
            SG_TRY(add_matrices(l, SG_LOAD_PREDICTOR, tb, all_rows(tb), &w[1], err));
        }
    }
    if (!good) return sg_fail(err, SG_E_FORMAT, "%s: the predictor of layer %u has not the shape of kind %s", path, layer, b->predictor);
    return SG_OK;
}

/* Numbers the units of bundles; returns how many. */
static uint32_t count_units(const sg_model_desc *d, sg_unit_of *units) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < d->hp.n_layer; i++) {
        units[i] = SG_NO_UNITS;
        if (d->bundles[i].clusters) units[i].main = n++;
        if (d->bundles_shexp && d->bundles_shexp[i].clusters) units[i].shared = n++;
    }
    return n;
}

const sg_bundle_desc *sg_unit_bundle(const sg_weights *w, const sg_model_desc *d, uint32_t unit) {
    for (uint32_t i = 0; i < d->hp.n_layer; i++) {
        if (w->units[i].main == unit) return &d->bundles[i];
        if (w->units[i].shared == unit) return &d->bundles_shexp[i];
    }
    return NULL;
}

static sg_status plan_units(sg_loader *l, sg_weights *w, const sg_model_desc *d, sg_error *err) {
    w->units = calloc(d->hp.n_layer, sizeof *w->units);
    if (!w->units) return sg_fail(err, SG_E_NOMEM, "out of memory for the table of weights");
    w->n_units = count_units(d, w->units);
    w->ffn = calloc(w->n_units + 1, sizeof *w->ffn);
    w->predictors = calloc(w->n_units + 1, sizeof *w->predictors);
    if (!w->ffn || !w->predictors) return sg_fail(err, SG_E_NOMEM, "out of memory for the table of weights");
    for (uint32_t i = 0; i < d->hp.n_layer; i++) {
        const sg_unit_of u = w->units[i];
        if (u.main != SG_NO_UNIT) {
            SG_TRY(bundle(l, d, i, false, &w->ffn[u.main], err));
            SG_TRY(predictor(l, d, i, &w->ffn[u.main].predictor, w->predictors[u.main], err));
        }
        if (u.shared != SG_NO_UNIT) SG_TRY(bundle(l, d, i, true, &w->ffn[u.shared], err));
    }
    return SG_OK;
}

static sg_status plan_jobs(sg_loader *l, sg_weights *w, const sg_model_desc *d, sg_error *err) {
    const size_t most = SG_T_GLOBALS + (size_t)d->hp.n_layer * (SG_L_SLOTS + 8);
    l->jobs = calloc(most, sizeof *l->jobs);
    w->layers = calloc(d->hp.n_layer, sizeof *w->layers);
    if (!l->jobs || !w->layers) return sg_fail(err, SG_E_NOMEM, "out of memory for the table of weights");
    for (size_t i = 0; i < d->arch->n_tensors; i++) {
        const sg_tensor_rule *rule = &d->arch->tensors[i];
        const bool per_layer = strstr(rule->name, "%u") != NULL;
        for (uint32_t layer = 0; layer < (per_layer ? d->hp.n_layer : 1); layer++) {
            const sg_tensor_info *info = per_layer ? d->layers[layer][rule->slot] : d->globals[rule->slot];
            sg_weight *dst = per_layer ? &w->layers[layer][rule->slot] : &w->globals[rule->slot];
            if (!info) continue;
            if (per_layer && rule->slot == SG_L_KV_B) SG_TRY(add_latent(l, &d->hp, info, w->layers[layer], err));
            else SG_TRY(add_tensor(l, rule, info, per_layer, dst, err));
        }
    }
    return d->bundles ? plan_units(l, w, d, err) : SG_OK;
}

/* In the order in which a run uses them: matrices of the layers, then what comes once. */
static int by_use(const void *a, const void *b) {
    const sg_load_job *x = a, *y = b;
    if (x->order != y->order) return x->order < y->order ? -1 : 1;
    return 0;
}

sg_status sg_loader_init(sg_loader *l, sg_weights *w, const sg_gguf *g, const sg_model_desc *d, const sg_kernels *kernels, sg_error *err) {
    *l = (sg_loader){ .g = g, .kernels = kernels, .n_layer = d->hp.n_layer };
    *w = (sg_weights){ 0 };
    const sg_status s = plan_jobs(l, w, d, err);
    if (s != SG_OK) return s;
    for (size_t i = 0; i < l->n_jobs; i++) {
        sg_load_job *j = &l->jobs[i];
        j->order = (SIZE_MAX >> 1) + (size_t)j->info->offset; /* behind the layers, as in the file */
        for (uint32_t layer = 0; layer < d->hp.n_layer; layer++)
            if (j->dst >= w->layers[layer] && j->dst < w->layers[layer] + SG_L_SLOTS)
                j->order = (size_t)layer * SG_L_SLOTS + (size_t)(j->dst - w->layers[layer]);
    }
    qsort(l->jobs, l->n_jobs, sizeof *l->jobs, by_use);
    return SG_OK;
}

void sg_loader_finish(sg_loader *l) {
    free(l->jobs);
    l->jobs = NULL;
}
