/* The keys and tensors that a model.bin has in the place of feed-forward matrices (docs/model_bin.md). */
#include "models/model.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_SIZE 64

/* What belongs to a layer besides; `order` and `counts` are for people and for calibration. */
static const char *const layer_names[] = { "ffn_bundle", "ffn_order", "ffn_counts", "ffn_pred_a", "ffn_pred_b",
                                          "ffn_pred_scale", "ffn_pred_bias", "ffn_bundle_shexp" };
enum { BUNDLE, ORDER, COUNTS, PRED_A, PRED_B, PRED_SCALE, PRED_BIAS, SHEXP, LAYER_NAMES };

/* A number per layer; an absent key leaves `out` alone. */
static sg_status per_layer_u32(const sg_gguf *g, const char *key, uint32_t n, const sg_gguf_kv **out, sg_error *err) {
    *out = sg_gguf_find(g, key);
    if (!*out) return SG_OK;
    if ((*out)->type != SG_GGUF_U32 || (*out)->n != n)
        return sg_fail(err, SG_E_FORMAT, "%s: key %s is not %u numbers of type uint32, one per layer", sg_gguf_path(g, 0), key, n);
    return SG_OK;
}

/* n finite numbers of type float32, n the product of two counts; *out is allocated, NULL when the key is absent. */
static sg_status floats(const sg_gguf *g, const char *key, uint64_t n, float **out, sg_error *err) {
    const sg_gguf_kv *kv = sg_gguf_find(g, key);
    *out = NULL;
    if (!kv) return SG_OK;
    if (kv->type != SG_GGUF_F32 || kv->n != n)
        return sg_fail(err, SG_E_FORMAT, "%s: key %s is not %" PRIu64 " numbers of type float32", sg_gguf_path(g, 0), key, n);
    for (uint64_t i = 0; i < n; i++)
        if (!isfinite(sg_gguf_kv_number(kv, i)))
            return sg_fail(err, SG_E_FORMAT, "%s: key %s holds a value that is no finite number", sg_gguf_path(g, 0), key);
    *out = malloc(n * sizeof **out);
    if (!*out) return sg_fail(err, SG_E_NOMEM, "%s: out of memory", sg_gguf_path(g, 0));
    memcpy(*out, kv->data, n * sizeof **out);
    return SG_OK;
}

static sg_status grid(const sg_gguf *g, const char *x_key, const char *key, uint32_t n_layer, sg_threshold_grid *out, sg_error *err) {
    const sg_gguf_kv *kv = sg_gguf_find(g, x_key);
    if (!kv) return SG_OK;
    if (!kv->is_array || kv->n == 0 || kv->n > 1000 || !sg_gguf_find(g, key))
        return sg_fail(err, SG_E_FORMAT, "%s: keys %s and %s do not belong together", sg_gguf_path(g, 0), x_key, key);
    const uint32_t n = (uint32_t)kv->n;
    SG_TRY(floats(g, x_key, n, &out->x, err));
    SG_TRY(floats(g, key, (uint64_t)n * n_layer, &out->thresholds, err));
    out->n = n;
    for (uint32_t i = 1; i < n; i++)
        if (out->x[i] <= out->x[i - 1]) return sg_fail(err, SG_E_FORMAT, "%s: key %s is not rising", sg_gguf_path(g, 0), x_key);
    return SG_OK;
}

static sg_status thresholds(const sg_gguf *g, sg_model_desc *d, sg_error *err) {
    const sg_hparams *hp = &d->hp;
    if (hp->ffn_act == SG_FFN_FATRELU) {
        SG_TRY(floats(g, "sparsegen.ffn_threshold", hp->n_layer, &d->ffn_threshold, err));
        if (!d->ffn_threshold)
            return sg_fail(err, SG_E_FORMAT, "%s: key sparsegen.ffn_threshold is missing", sg_gguf_path(g, 0));
        for (uint32_t l = 0; l < hp->n_layer; l++)
            if (d->ffn_threshold[l] < 0)
                return sg_fail(err, SG_E_FORMAT, "%s: sparsegen.ffn_threshold of layer %u is below 0", sg_gguf_path(g, 0), l);
    }
    SG_TRY(grid(g, "sparsegen.calibration.threshold_shares", "sparsegen.calibration.thresholds", hp->n_layer, &d->shares, err));
    SG_TRY(grid(g, "sparsegen.predictor.recalls", "sparsegen.predictor.thresholds", hp->n_layer, &d->recalls, err));
    const sg_gguf_kv *tokens = sg_gguf_find(g, "sparsegen.calibration.tokens");
    if (tokens && !tokens->is_array && sg_gguf_kv_number(tokens, 0) >= 1) d->calibration_tokens = (uint64_t)sg_gguf_kv_number(tokens, 0);
    const char *input = "norm";
    SG_TRY(sg_gguf_get_str(g, "sparsegen.predictor.input", &input, err));
    d->pred_residual = strcmp(input, "residual") == 0;
    if (!d->pred_residual && strcmp(input, "norm") != 0)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: sparsegen.predictor.input \"%s\" is not known (norm, residual)", sg_gguf_path(g, 0),
                       input);
    return SG_OK;
}

static const sg_tensor_info *find(const sg_gguf *g, int which, uint32_t layer, size_t *n_bound) {
    char name[NAME_SIZE];
    snprintf(name, sizeof name, "blk.%u.%s", layer, layer_names[which]);
    const sg_tensor_info *t = sg_gguf_tensor(g, name);
    *n_bound += t != NULL;
    return t;
}

/* which: BUNDLE or SHEXP. */
static sg_status clusters(const sg_gguf *g, int which, uint32_t l, const sg_tensor_info **out, size_t *n_bound, sg_error *err) {
    const sg_tensor_info *t = *out = find(g, which, l, n_bound);
    const char *path = sg_gguf_path(g, 0);
    if (!t) return sg_fail(err, SG_E_FORMAT, "%s: tensor blk.%u.%s is missing", path, l, layer_names[which]);
    if (t->type != SG_DTYPE_I8 || t->ne[2] != 1 || t->ne[3] != 1)
        return sg_fail(err, SG_E_FORMAT, "%s: tensor %s is not clusters of bytes", path, t->name);
    return SG_OK;
}

static sg_status layer(const sg_gguf *g, const sg_model_desc *d, uint32_t l, size_t *n_bound, sg_error *err) {
    sg_bundle_desc *b = &d->bundles[l];
    if (b->per_cluster > 0) SG_TRY(clusters(g, BUNDLE, l, &b->clusters, n_bound, err));
    b->order = find(g, ORDER, l, n_bound);
    b->counts = find(g, COUNTS, l, n_bound);
    b->pred_a = find(g, PRED_A, l, n_bound);
    b->pred_b = find(g, PRED_B, l, n_bound);
    b->pred_scale = find(g, PRED_SCALE, l, n_bound);
    b->pred_bias = find(g, PRED_BIAS, l, n_bound);
    return SG_OK;
}

static sg_status predictors(const sg_gguf *g, const sg_model_desc *d, sg_error *err) {
    const sg_gguf_kv *kinds = sg_gguf_find(g, "sparsegen.predictor.kind");
    const uint32_t n = d->hp.n_layer;
    if (kinds && (kinds->type != SG_GGUF_STRING || kinds->n != n))
        return sg_fail(err, SG_E_FORMAT, "%s: key sparsegen.predictor.kind is not %u strings, one per layer", sg_gguf_path(g, 0), n);
    for (uint32_t l = 0; l < n; l++) {
        d->bundles[l].predictor = kinds ? kinds->strings[l].text : "none";
        if (strcmp(d->bundles[l].predictor, "none") == 0) continue;
        if (d->layer[l].experts)
            return sg_fail(err, SG_E_UNSUPPORTED, "%s: layer %u has a predictor for neurons of experts, which is not known", sg_gguf_path(g, 0), l);
        if (!d->bundles[l].pred_a || d->recalls.n == 0)
            return sg_fail(err, SG_E_FORMAT, "%s: the predictor of layer %u has no tensors or no thresholds", sg_gguf_path(g, 0), l);
    }
    return SG_OK;
}

/* What the keys sparsegen.NAME.* say about every layer, into units[n]. */
static sg_status units(const sg_gguf *g, const char *name, sg_bundle_desc *out, uint32_t n, sg_error *err) {
    enum { NEURONS, GATE, UP, DOWN, WIDTH, EXPERTS, KEYS };
    static const char *const stems[] = { "neurons", "gate_type", "up_type", "down_type", "width", "experts" };
    const uint32_t *v[KEYS] = { NULL };
    const char *path = sg_gguf_path(g, 0);
    for (int key = 0; key < KEYS; key++) {
        char full[NAME_SIZE];
        const sg_gguf_kv *kv;
        snprintf(full, sizeof full, "sparsegen.%s.%s", name, stems[key]);
        SG_TRY(per_layer_u32(g, full, n, &kv, err));
        if (kv) v[key] = kv->data;
    }
    if (!v[NEURONS] || !v[GATE] || !v[DOWN]) return sg_fail(err, SG_E_FORMAT, "%s: the keys sparsegen.%s.* are not complete", path, name);
    for (uint32_t l = 0; l < n; l++) {
        sg_bundle_desc *b = &out[l];
        const uint32_t types[3] = { v[GATE][l], (v[UP] ? v[UP] : v[GATE])[l], v[DOWN][l] };
        for (int i = 0; i < 3; i++)
            if (!sg_dtype_get(types[i])) return sg_fail(err, SG_E_FORMAT, "%s: layer %u has bundles of an unknown type", path, l);
        b->per_cluster = v[NEURONS][l];
        b->gated = v[UP] != NULL;
        b->gate_type = (sg_dtype)types[0];
        b->up_type = (sg_dtype)types[1];
        b->down_type = (sg_dtype)types[2];
        b->n_neurons = v[WIDTH] ? v[WIDTH][l] : 0;
        b->n_expert = v[EXPERTS] ? v[EXPERTS][l] : 0;
        b->predictor = "none";
    }
    return SG_OK;
}

static sg_status shared_experts(const sg_gguf *g, sg_model_desc *d, size_t *n_bound, sg_error *err) {
    const uint32_t n = d->hp.n_layer;
    if (!sg_gguf_find(g, "sparsegen.bundle_shexp.neurons")) return SG_OK;
    d->bundles_shexp = calloc(n, sizeof *d->bundles_shexp);
    if (!d->bundles_shexp) return sg_fail(err, SG_E_NOMEM, "%s: out of memory for the layer table", sg_gguf_path(g, 0));
    SG_TRY(units(g, "bundle_shexp", d->bundles_shexp, n, err));
    for (uint32_t l = 0; l < n; l++) {
        sg_bundle_desc *b = &d->bundles_shexp[l];
        if (b->per_cluster > 0) SG_TRY(clusters(g, SHEXP, l, &b->clusters, n_bound, err));
        if (b->gated != d->bundles[l].gated || b->n_expert > 0)
            return sg_fail(err, SG_E_FORMAT, "%s: the keys sparsegen.bundle_shexp.* do not fit those of the layers", sg_gguf_path(g, 0));
    }
    return SG_OK;
}

sg_status sg_bundles_describe(const sg_gguf *g, sg_model_desc *d, size_t *n_bound, sg_error *err) {
    const char *path = sg_gguf_path(g, 0);
    const uint32_t n = d->hp.n_layer;
    uint32_t version = 0;
    SG_TRY(thresholds(g, d, err));
    SG_TRY(sg_gguf_get_u32(g, SG_BIN_VERSION_KEY, &version, err));
    if (version == 0) return SG_OK;
    if (version != SG_BIN_VERSION)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: model.bin format %u is not known (%u is)", path, version, SG_BIN_VERSION);
    d->bundles = calloc(n, sizeof *d->bundles);
    if (!d->bundles) return sg_fail(err, SG_E_NOMEM, "%s: out of memory for the layer table", path);
    SG_TRY(units(g, "bundle", d->bundles, n, err));
    for (uint32_t l = 0; l < n; l++) SG_TRY(layer(g, d, l, n_bound, err));
    SG_TRY(shared_experts(g, d, n_bound, err));
    *n_bound += sg_gguf_tensor(g, SG_BIN_CHECKSUMS) != NULL;
    return predictors(g, d, err);
}

bool sg_bundles_know(const sg_model_desc *d, const char *tensor) {
    unsigned l;
    int at = 0;
    if (!d->bundles) return false;
    if (strcmp(tensor, SG_BIN_CHECKSUMS) == 0) return true;
    if (sscanf(tensor, "blk.%u.%n", &l, &at) != 1 || at == 0 || l >= d->hp.n_layer) return false;
    for (int i = 0; i < LAYER_NAMES; i++)
        if (strcmp(tensor + at, layer_names[i]) == 0) return i != SHEXP || (d->bundles_shexp && d->bundles_shexp[l].clusters);
    return false;
}
