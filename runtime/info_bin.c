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

uint64_t sg_info_weights(const sg_file_info *info, const sg_tensor_info *t) {
    if (!info->bin_version.present) return t->n_values;
    static const char *const others[] = { SG_BIN_CHECKSUMS, ".ffn_order", ".ffn_counts", ".ffn_pred_a", ".ffn_pred_b",
                                         ".ffn_pred_scale", ".ffn_pred_bias" };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (ends_with(t->name, others[i])) return 0;
    if (!sg_bin_is_bundle(t->name, NULL)) return t->n_values;
    uint64_t n = 0; /* a width that differs by layer is not known here: the widest would count too much */
    const bool known = info->ff.present && info->ff.lo == info->ff.hi && info->embedding.present;
    if (!known || !sg_mul_add((uint64_t)info->ff.hi * info->embedding.hi, info->up_type.present ? 3 : 2, 0, &n)) return 0;
    return n;
}

const char *sg_info_bundle_type(const sg_info_int *type) {
    if (!type->present) return "";
    const sg_dtype_info *info = type->lo == type->hi ? sg_dtype_get(type->hi) : NULL;
    return info ? info->name : "mixed";
}
