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
                                          "ffn_pred_scale", "ffn_pred_bias" };
enum { BUNDLE, ORDER, COUNTS, PRED_A, PRED_B, PRED_SCALE, PRED_BIAS, LAYER_NAMES };

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

static sg_status layer(const sg_gguf *g, const sg_model_desc *d, uint32_t l, size_t *n_bound, sg_error *err) {
    sg_bundle_desc *b = &d->bundles[l];
    const char *path = sg_gguf_path(g, 0);
    b->clusters = find(g, BUNDLE, l, n_bound);
    if (!b->clusters) return sg_fail(err, SG_E_FORMAT, "%s: tensor blk.%u.ffn_bundle is missing", path, l);
    if (b->clusters->type != SG_DTYPE_I8 || b->clusters->ne[2] != 1 || b->clusters->ne[3] != 1)
        return sg_fail(err, SG_E_FORMAT, "%s: tensor blk.%u.ffn_bundle is not clusters of bytes", path, l);
    (void)find(g, ORDER, l, n_bound);
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
        if (strcmp(d->bundles[l].predictor, "none") != 0 && (!d->bundles[l].pred_a || d->recalls.n == 0))
            return sg_fail(err, SG_E_FORMAT, "%s: the predictor of layer %u has no tensors or no thresholds", sg_gguf_path(g, 0), l);
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
    const sg_gguf_kv *neurons = NULL, *gate = NULL, *up = NULL, *down = NULL;
    SG_TRY(per_layer_u32(g, "sparsegen.bundle.neurons", n, &neurons, err));
    SG_TRY(per_layer_u32(g, "sparsegen.bundle.gate_type", n, &gate, err));
    SG_TRY(per_layer_u32(g, "sparsegen.bundle.up_type", n, &up, err));
    SG_TRY(per_layer_u32(g, "sparsegen.bundle.down_type", n, &down, err));
    if (!neurons || !gate || !down) return sg_fail(err, SG_E_FORMAT, "%s: the keys sparsegen.bundle.* are not complete", path);
    d->bundles = calloc(n, sizeof *d->bundles);
    if (!d->bundles) return sg_fail(err, SG_E_NOMEM, "%s: out of memory for the layer table", path);
    for (uint32_t l = 0; l < n; l++) {
        sg_bundle_desc *b = &d->bundles[l];
        const uint32_t types[3] = { ((const uint32_t *)gate->data)[l], ((const uint32_t *)(up ? up : gate)->data)[l],
                                    ((const uint32_t *)down->data)[l] };
        for (int i = 0; i < 3; i++)
            if (!sg_dtype_get(types[i])) return sg_fail(err, SG_E_FORMAT, "%s: layer %u has bundles of an unknown type", path, l);
        b->per_cluster = ((const uint32_t *)neurons->data)[l];
        b->gated = up != NULL;
        b->gate_type = (sg_dtype)types[0];
        b->up_type = (sg_dtype)types[1];
        b->down_type = (sg_dtype)types[2];
        SG_TRY(layer(g, d, l, n_bound, err));
    }
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
        if (strcmp(tensor + at, layer_names[i]) == 0) return true;
    return false;
}
