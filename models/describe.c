/* Binds the tensors of a file to the slots of its architecture. */
#include "models/model.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_SIZE 128

/* Finds the tensor of one rule; *out NULL when it is absent and optional. l: NULL for globals. */
static sg_status bind(const sg_gguf *g, const sg_hparams *hp, const sg_layer_params *l, const sg_tensor_rule *rule, const char *name,
                      const sg_tensor_info **out, sg_error *err) {
    const char *path = sg_gguf_path(g, 0);
    const sg_tensor_info *t = sg_gguf_tensor(g, name);
    *out = t;
    if (!t) {
        if (rule->optional) return SG_OK;
        return sg_fail(err, SG_E_FORMAT, "%s: tensor %s is missing", path, name);
    }
    const uint64_t want[3] = { sg_dim_value(hp, l, rule->ne[0]), sg_dim_value(hp, l, rule->ne[1]), sg_dim_value(hp, l, rule->ne[2]) };
    if (t->ne[0] != want[0] || t->ne[1] != want[1] || t->ne[2] != want[2] || t->ne[3] != 1)
        return sg_fail(err, SG_E_FORMAT, "%s: tensor %s is %" PRIu64 " x %" PRIu64 " x %" PRIu64 ", expected %" PRIu64 " x %" PRIu64 " x %" PRIu64,
                       path, name, t->ne[0], t->ne[1], t->ne[2] * t->ne[3], want[0], want[1], want[2]);
    return SG_OK;
}

static bool is_layer_rule(const sg_tensor_rule *rule) { return strstr(rule->name, "%u") != NULL; }

static void layer_name(char name[NAME_SIZE], const sg_tensor_rule *rule, uint32_t layer) {
    /* The table's format holds exactly one %u: split by hand rather than trusting a format from data. */
    const char *at = strstr(rule->name, "%u");
    snprintf(name, NAME_SIZE, "%.*s%u%s", (int)(at - rule->name), rule->name, layer, at + 2);
}

/* In a model.bin bundles stand in the place of these. */
static bool is_bundled(const sg_model_desc *d, const sg_tensor_rule *rule, uint32_t layer) {
    if (!d->bundles || !is_layer_rule(rule)) return false;
    switch (rule->slot) {
    case SG_L_GATE: case SG_L_UP: case SG_L_DOWN: case SG_L_GATE_UP:
    case SG_L_GATE_EXPS: case SG_L_UP_EXPS: case SG_L_DOWN_EXPS: return d->bundles[layer].clusters != NULL;
    case SG_L_GATE_SHEXP: case SG_L_UP_SHEXP: case SG_L_DOWN_SHEXP: return d->bundles_shexp && d->bundles_shexp[layer].clusters != NULL;
    default: return false;
    }
}

/* Whether a layer may have the tensor of a rule. */
static bool applies(const sg_tensor_rule *rule, const sg_layer_params *l) {
    switch (rule->when) {
    case SG_ALWAYS: return true;
    case SG_IN_ATTENTION: return l->mixer == SG_MIX_ATTENTION;
    case SG_IN_LATENT: return l->mixer == SG_MIX_LATENT;
    case SG_IN_CONV: return l->mixer == SG_MIX_CONV;
    case SG_IN_DELTA: return l->mixer == SG_MIX_DELTA;
    case SG_IN_DENSE: return !l->experts;
    case SG_IN_EXPERTS: return l->experts;
    }
    return false;
}

static sg_status bind_all(const sg_gguf *g, sg_model_desc *d, size_t *n_bound, sg_error *err) {
    for (size_t i = 0; i < d->arch->n_tensors; i++) {
        const sg_tensor_rule *rule = &d->arch->tensors[i];
        if (!is_layer_rule(rule)) {
            SG_TRY(bind(g, &d->hp, NULL, rule, rule->name, &d->globals[rule->slot], err));
            if (d->globals[rule->slot]) ++*n_bound;
            continue;
        }
        for (uint32_t l = 0; l < d->hp.n_layer; l++) {
            if (!applies(rule, &d->layer[l]) || is_bundled(d, rule, l)) continue;
            char name[NAME_SIZE];
            layer_name(name, rule, l);
            SG_TRY(bind(g, &d->hp, &d->layer[l], rule, name, &d->layers[l][rule->slot], err));
            if (d->layers[l][rule->slot]) ++*n_bound;
        }
    }
    return SG_OK;
}

static sg_status missing(const sg_gguf *g, const sg_model_desc *d, bool per_layer, uint32_t slot, uint32_t layer, sg_error *err) {
    const sg_tensor_rule *rule = sg_arch_rule(d->arch, per_layer, slot);
    char name[NAME_SIZE];
    if (per_layer) layer_name(name, rule, layer);
    else snprintf(name, sizeof name, "%s", rule->name);
    return sg_fail(err, SG_E_FORMAT, "%s: tensor %s is missing", sg_gguf_path(g, 0), name);
}

/* Optional tensors of which a layer has all or none, or one group or another. */
static sg_status check_groups(const sg_gguf *g, const sg_model_desc *d, sg_error *err) {
    static const struct { sg_when when; uint8_t n; sg_layer_slot slots[4]; bool needed; sg_layer_slot or_else; } groups[] = {
        { SG_IN_EXPERTS, 3, { SG_L_GATE_SHEXP, SG_L_UP_SHEXP, SG_L_DOWN_SHEXP }, false, SG_L_SLOTS },
        { SG_IN_LATENT, 2, { SG_L_K_B, SG_L_V_B }, true, SG_L_KV_B },
        { SG_IN_LATENT, 3, { SG_L_Q_A, SG_L_Q_A_NORM, SG_L_Q_B }, true, SG_L_Q },
    };
    for (uint32_t l = 0; l < d->hp.n_layer; l++)
        for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
            if (!applies(&(sg_tensor_rule) { .when = groups[i].when }, &d->layer[l])) continue;
            const bool other = groups[i].or_else < SG_L_SLOTS && d->layers[l][groups[i].or_else];
            uint32_t n = 0, absent = 0;
            for (uint32_t k = 0; k < groups[i].n; k++) {
                if (d->layers[l][groups[i].slots[k]]) n++;
                else absent = groups[i].slots[k];
            }
            if (n == groups[i].n || (n == 0 && (other || !groups[i].needed))) continue;
            return missing(g, d, true, absent, l, err);
        }
    return SG_OK;
}

/* Every layer of experts has a router, or none has one and the pre-gate is the router of all. Biases come with what they belong to. */
static sg_status check_routers(const sg_gguf *g, sg_model_desc *d, sg_error *err) {
    const bool biased = sg_arch_rule(d->arch, true, SG_L_ROUTER_BIAS) != NULL;
    uint32_t routers = 0;
    for (uint32_t l = 0; l < d->hp.n_layer; l++) routers += d->layers[l][SG_L_ROUTER] != NULL;
    d->pregate_routes = routers == 0 && d->globals[SG_T_PREGATE] != NULL;
    if (d->globals[SG_T_PREGATE_BIAS] && !d->globals[SG_T_PREGATE]) return missing(g, d, false, SG_T_PREGATE, 0, err);
    for (uint32_t l = 0; l < d->hp.n_layer; l++) {
        if (!d->layer[l].experts) continue;
        const sg_tensor_info *const *t = d->layers[l];
        if (!t[SG_L_ROUTER] && (!d->pregate_routes || t[SG_L_ROUTER_BIAS])) return missing(g, d, true, SG_L_ROUTER, l, err);
        if (biased && t[SG_L_ROUTER] && !t[SG_L_ROUTER_BIAS]) return missing(g, d, true, SG_L_ROUTER_BIAS, l, err);
        if (t[SG_L_AHEAD_BIAS] && !t[SG_L_AHEAD]) return missing(g, d, true, SG_L_AHEAD, l, err);
    }
    return SG_OK;
}

/* True when some rule and layer stand for this tensor name. */
static bool known_tensor(const sg_model_desc *d, const char *tensor) {
    uint32_t layer = 0;
    const bool in_block = sscanf(tensor, "blk.%u.", &layer) == 1;
    if (in_block && layer >= d->hp.n_layer && layer - d->hp.n_layer < d->hp.n_layer_left_out) return true;
    for (size_t i = 0; i < d->arch->n_tensors; i++) {
        const sg_tensor_rule *rule = &d->arch->tensors[i];
        char name[NAME_SIZE];
        if (is_layer_rule(rule)) {
            if (!in_block || layer >= d->hp.n_layer || !applies(rule, &d->layer[layer]) || is_bundled(d, rule, layer)) continue;
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
    d->layer = calloc(d->hp.n_layer, sizeof *d->layer);
    size_t n_bound = 0;
    sg_status s = d->layers && d->layer ? sg_layers_read(g, d->arch, &d->hp, d->layer, err)
                                        : sg_fail(err, SG_E_NOMEM, "%s: out of memory for the layer table", path);
    if (s == SG_OK) s = sg_bundles_describe(g, d, &n_bound, err);
    if (s == SG_OK) s = bind_all(g, d, &n_bound, err);
    if (s == SG_OK) s = check_groups(g, d, err);
    if (s == SG_OK) s = check_routers(g, d, err);
    if (s == SG_OK && n_bound != sg_gguf_n_tensors(g)) s = refuse_unknown(g, d, err);
    if (s != SG_OK) sg_model_desc_finish(d);
    return s;
}

void sg_model_desc_finish(sg_model_desc *d) {
    free(d->layers);
    free(d->layer);
    free(d->bundles);
    free(d->bundles_shexp);
    free(d->ffn_threshold);
    free(d->shares.x);
    free(d->shares.thresholds);
    free(d->recalls.x);
    free(d->recalls.thresholds);
    *d = (sg_model_desc){ 0 };
}
