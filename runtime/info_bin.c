/* What is particular to a model.bin (docs/model_bin.md). */
#include <string.h>

#include "runtime/convert/bin_writer.h"
#include "runtime/info.h"

sg_status sg_info_gather_bin(sg_file_info *info, sg_error *err) {
    const sg_gguf *g = info->g;
    info->activation = info->predictor = "";
    SG_TRY(sg_info_int_of(g, SG_BIN_VERSION_KEY, &info->bin_version, err));
    if (!info->bin_version.present) return SG_OK;
    const struct {
        const char *key;
        sg_info_int *out;
    } ints[] = {
        { "sparsegen.bundle.neurons", &info->cluster },     { "sparsegen.bundle.gate_type", &info->gate_type },
        { "sparsegen.bundle.up_type", &info->up_type },     { "sparsegen.bundle.down_type", &info->down_type },
        { "sparsegen.calibration.tokens", &info->calibrated },
    };
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) SG_TRY(sg_info_int_of(g, ints[i].key, ints[i].out, err));
    SG_TRY(sg_gguf_get_str(g, "sparsegen.ffn_activation", &info->activation, err));
    const sg_gguf_kv *kinds = sg_gguf_find(g, "sparsegen.predictor.kind");
    for (uint64_t i = 0; kinds && kinds->strings && i < kinds->n && !*info->predictor; i++)
        if (strcmp(kinds->strings[i].text, "none") != 0) info->predictor = kinds->strings[i].text;
    for (size_t i = 0; i < sg_gguf_n_tensors(g); i++) {
        const char *name = sg_gguf_tensor_at(g, i)->name;
        info->n_bundles += sg_bin_is_bundle(name, NULL) && !sg_bin_is_shexp(name); /* layers */
    }
    return SG_OK;
}

static bool ends_with(const char *s, const char *end) {
    const size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

/* Element `layer` of a key with a number per layer; `fallback` when there is none. */
static uint64_t of_layer(const sg_gguf *g, const char *key, uint64_t layer, uint64_t fallback) {
    const sg_gguf_kv *kv = sg_gguf_find(g, key);
    if (!kv || !kv->is_array || kv->type != SG_GGUF_U32 || layer >= kv->n) return fallback;
    return (uint64_t)sg_gguf_kv_number(kv, layer);
}

uint64_t sg_info_bundle_experts(const sg_file_info *info, uint64_t layer) { return of_layer(info->g, "sparsegen.bundle.experts", layer, 0); }

uint64_t sg_info_weights(const sg_file_info *info, const sg_tensor_info *t) {
    const bool hint = strncmp(t->name, "sparsegen.pregate.", 18) == 0 && !info->pregate_routes;
    if (hint || strstr(t->name, ".sparsegen.ahead.")) return 0;
    if (!info->bin_version.present) return t->n_values;
    static const char *const others[] = { SG_BIN_CHECKSUMS, ".ffn_order", ".ffn_counts", ".ffn_pred_a", ".ffn_pred_b",
                                         ".ffn_pred_scale", ".ffn_pred_bias" };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (ends_with(t->name, others[i])) return 0;
    uint32_t layer;
    if (!sg_bin_is_bundle(t->name, &layer)) return t->n_values;
    const bool shared = sg_bin_is_shexp(t->name);
    /* Without a width for each layer: that of all. One that differs by layer is not known then, and the widest would count too much. */
    const uint64_t same = info->ff.present && info->ff.lo == info->ff.hi ? info->ff.hi : 0;
    const uint64_t width = of_layer(info->g, shared ? "sparsegen.bundle_shexp.width" : "sparsegen.bundle.width", layer, shared ? 0 : same);
    const uint64_t experts = shared ? 1 : sg_info_bundle_experts(info, layer);
    uint64_t n = 0, neurons = 0;
    if (!info->embedding.present || !sg_mul_add(width, experts ? experts : 1, 0, &neurons) || !sg_mul_add(neurons, info->embedding.hi, 0, &n)) return 0;
    return sg_mul_add(n, info->up_type.present ? 3 : 2, 0, &n) ? n : 0;
}

const char *sg_info_bundle_type(const sg_info_int *type) {
    if (!type->present) return "";
    const sg_dtype_info *info = type->lo == type->hi ? sg_dtype_get(type->hi) : NULL;
    return info ? info->name : "mixed";
}
