/* Binds the tensors of a file to the slots of its architecture. */
#include "models/model.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_SIZE 128

/* Finds the tensor of one rule; *out NULL when it is absent and optional. */
static sg_status bind(const sg_gguf *g, const sg_hparams *hp, const sg_tensor_rule *rule, const char *name,
                      const sg_tensor_info **out, sg_error *err) {
    const char *path = sg_gguf_path(g, 0);
    const sg_tensor_info *t = sg_gguf_tensor(g, name);
    *out = t;
    if (!t) {
        if (rule->optional) return SG_OK;
        return sg_fail(err, SG_E_FORMAT, "%s: tensor %s is missing", path, name);
    }
    const uint64_t ne0 = sg_dim_value(hp, rule->ne0), ne1 = sg_dim_value(hp, rule->ne1);
    if (t->ne[0] != ne0 || t->ne[1] != ne1 || t->ne[2] != 1 || t->ne[3] != 1)
        return sg_fail(err, SG_E_FORMAT, "%s: tensor %s is %" PRIu64 " x %" PRIu64 " x %" PRIu64 ", expected %" PRIu64 " x %" PRIu64,
                       path, name, t->ne[0], t->ne[1], t->ne[2] * t->ne[3], ne0, ne1);
    return SG_OK;
}

static bool is_layer_rule(const sg_tensor_rule *rule) { return strstr(rule->name, "%u") != NULL; }

static void layer_name(char name[NAME_SIZE], const sg_tensor_rule *rule, uint32_t layer) {
    /* The table's format holds exactly one %u: split by hand rather than trusting a format from data. */
    const char *at = strstr(rule->name, "%u");
    snprintf(name, NAME_SIZE, "%.*s%u%s", (int)(at - rule->name), rule->name, layer, at + 2);
}

/* In a model.bin bundles stand in the place of these. */
static bool is_bundled(const sg_model_desc *d, const sg_tensor_rule *rule) {
    return d->bundles && is_layer_rule(rule) && (rule->slot == SG_L_GATE || rule->slot == SG_L_UP || rule->slot == SG_L_DOWN);
}

static sg_status bind_all(const sg_gguf *g, sg_model_desc *d, size_t *n_bound, sg_error *err) {
    for (size_t i = 0; i < d->arch->n_tensors; i++) {
        const sg_tensor_rule *rule = &d->arch->tensors[i];
        if (is_bundled(d, rule)) continue;
        const bool per_layer = is_layer_rule(rule);
        for (uint32_t l = 0; l < (per_layer ? d->hp.n_layer : 1); l++) {
            char name[NAME_SIZE];
            if (per_layer) layer_name(name, rule, l);
            else snprintf(name, sizeof name, "%s", rule->name);
            const sg_tensor_info **slot = per_layer ? &d->layers[l][rule->slot] : &d->globals[rule->slot];
            SG_TRY(bind(g, &d->hp, rule, name, slot, err));
            if (*slot) ++*n_bound;
        }
    }
    return SG_OK;
}

/* True when some rule and layer stand for this tensor name. */
static bool known_tensor(const sg_model_desc *d, const char *tensor) {
    uint32_t layer = 0;
    const bool in_layer = sscanf(tensor, "blk.%u.", &layer) == 1 && layer < d->hp.n_layer;
    for (size_t i = 0; i < d->arch->n_tensors; i++) {
        const sg_tensor_rule *rule = &d->arch->tensors[i];
        char name[NAME_SIZE];
        if (is_bundled(d, rule)) continue;
        if (is_layer_rule(rule)) {
            if (!in_layer) continue;
            layer_name(name, rule, layer);
        } else {
            snprintf(name, sizeof name, "%s", rule->name);
        }
        if (strcmp(name, tensor) == 0) return true;
    }
    return sg_bundles_know(d, tensor);
}

static sg_status refuse_unknown(const sg_gguf *g, const sg_model_desc *d, sg_error *err) {
    for (size_t i = 0; i < sg_gguf_n_tensors(g); i++) {
        const char *name = sg_gguf_tensor_at(g, i)->name;
        if (!known_tensor(d, name))
            return sg_fail(err, SG_E_UNSUPPORTED, "%s: tensor %s is not part of architecture %s as sparsegen knows it",
                           sg_gguf_path(g, 0), name, d->arch->name);
    }
    return SG_OK;
}

sg_status sg_model_describe(const sg_gguf *g, sg_model_desc *d, sg_error *err) {
    *d = (sg_model_desc){ 0 };
    const char *path = sg_gguf_path(g, 0), *arch = NULL;
    SG_TRY(sg_gguf_get_str(g, "general.architecture", &arch, err));
    if (!arch) return sg_fail(err, SG_E_FORMAT, "%s: key general.architecture is missing", path);
    d->arch = sg_arch_find(arch);
    if (!d->arch)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: architecture \"%s\" is not known (%s)", path, arch, sg_arch_names());
    SG_TRY(sg_hparams_read(g, d->arch, &d->hp, err));

    const sg_tensor_info *embd = sg_gguf_tensor(g, "token_embd.weight");
    if (!embd) return sg_fail(err, SG_E_FORMAT, "%s: tensor token_embd.weight is missing", path);
    if (embd->ne[1] > INT32_MAX)
        return sg_fail(err, SG_E_FORMAT, "%s: a vocabulary of %" PRIu64 " tokens is too large", path, embd->ne[1]);
    d->hp.n_vocab = (uint32_t)embd->ne[1];

    d->layers = calloc(d->hp.n_layer, sizeof *d->layers);
    if (!d->layers) return sg_fail(err, SG_E_NOMEM, "%s: out of memory for the layer table", path);
    size_t n_bound = 0;
    sg_status s = sg_bundles_describe(g, d, &n_bound, err);
    if (s == SG_OK) s = bind_all(g, d, &n_bound, err);
    if (s == SG_OK && n_bound != sg_gguf_n_tensors(g)) s = refuse_unknown(g, d, err);
    if (s != SG_OK) sg_model_desc_finish(d);
    return s;
}

void sg_model_desc_finish(sg_model_desc *d) {
    free(d->layers);
    free(d->bundles);
    free(d->bundles_shexp);
    free(d->ffn_threshold);
    free(d->shares.x);
    free(d->shares.thresholds);
    free(d->recalls.x);
    free(d->recalls.thresholds);
    *d = (sg_model_desc){ 0 };
}
