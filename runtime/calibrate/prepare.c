/* The routers of an open model, for what is fitted to them. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "neuron_engine/quant.h"
#include "runtime/calibrate/prepare.h"
#include "runtime/convert/file.h"

static sg_status no_memory(const sg_cal *c, sg_error *err) { return sg_fail(err, SG_E_NOMEM, "%s: out of memory", c->path); }

/* The values of a layer's tensor of the file, for a slot; NULL when it has none. */
static sg_status read_values(const sg_cal *c, const sg_model *m, uint32_t layer, sg_layer_slot slot, uint64_t n, float **out, sg_error *err) {
    const sg_tensor_rule *rule = sg_arch_rule(m->desc.arch, true, slot);
    char stem[64], name[96];
    *out = NULL;
    if (!rule || sscanf(rule->name, "blk.%%u.%63s", stem) != 1) return SG_OK;
    snprintf(name, sizeof name, "blk.%" PRIu32 ".%s", layer, stem);
    const sg_tensor_info *t = sg_gguf_tensor(c->gguf, name);
    if (!t) return SG_OK;
    if (t->n_values != n) return sg_fail(err, SG_E_FORMAT, "%s: tensor %s is not %" PRIu64 " values", c->path, name, n);
    int fd = -1;
    uint64_t size;
    uint8_t *bytes = malloc((size_t)t->n_bytes);
    float *v = malloc((size_t)n * sizeof *v);
    sg_status s = bytes && v ? sg_file_open(c->path, &fd, &size, err) : no_memory(c, err);
    if (s == SG_OK) s = sg_file_read_at(fd, c->path, bytes, (size_t)t->n_bytes, t->offset, err);
    if (s == SG_OK) sg_dequantize((sg_dtype)t->type, bytes, v, (size_t)n);
    if (fd >= 0) close(fd);
    free(bytes);
    if (s == SG_OK) *out = v;
    else free(v);
    return s;
}

static sg_status prepare_layer(const sg_cal *c, const sg_model *m, sg_cal_route *l, sg_error *err) {
    const sg_hparams *hp = &m->desc.hp;
    const sg_weight *w = m->weights.layers[l->layer];
    l->follows = l->layer > 0 && m->desc.layer[l->layer - 1].experts && m->weights.units[l->layer - 1].main != SG_NO_UNIT;
    for (int g = 0; g < SG_CAL_GUESSES; g++) l->share[g] = -1;
    if (!m->desc.arch->router_before) {
        l->norm = w[SG_L_FFN_NORM].v;
        l->norm_bias = w[SG_L_FFN_NORM_BIAS].v;
    }
    l->select_bias = w[SG_L_ROUTER_SELECT].v;
    SG_TRY(read_values(c, m, l->layer, SG_L_ROUTER, (uint64_t)hp->n_embd * hp->n_expert, &l->w, err));
    SG_TRY(read_values(c, m, l->layer, SG_L_ROUTER_BIAS, hp->n_expert, &l->b, err));
    return SG_OK;
}

sg_status sg_cal_prepare_routes(sg_cal *c, const sg_model *m, const sg_router *router, bool wanted, bool can, sg_error *err) {
    const sg_hparams *hp = &m->desc.hp;
    sg_cal_routes *r = &c->routes;
    const bool own = !m->desc.pregate_routes, fits = wanted && can && own;
    *r = (sg_cal_routes) { .n_expert = hp->n_expert, .k = hp->n_embd, .router = *router, .path = c->path, .vec = &c->kernels->vec,
                           .norm = m->desc.arch->norm, .eps = hp->norm_eps, .n_tokens = c->n_tokens, .n_train = c->n_train, .most_samples = c->most_samples };
    if (hp->n_expert == 0) return SG_OK;
    /* A pre-gate that is the only router there is no hint that could be made anew. */
    r->keep_pre = !own || (wanted && !can);
    r->keep_ahead = wanted && !fits;
    if (!fits) return SG_OK;
    r->layer = calloc(hp->n_layer, sizeof *r->layer);
    if (!r->layer) return no_memory(c, err);
    for (uint32_t i = 0; i < hp->n_layer; i++) {
        if (!m->desc.layer[i].experts) continue;
        sg_cal_route *l = &r->layer[r->n++];
        l->layer = i;
        SG_TRY(prepare_layer(c, m, l, err));
    }
    return SG_OK;
}
