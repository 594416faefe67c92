/* A model on its way: its keys, its tensors and the parts they are gathered from. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/convert/convert.h"

/* A second value for a name replaces the first. */
static sg_conv_key *add_key(sg_conv_hparams *hp, const char *name, sg_gguf_type type) {
    sg_conv_key *k = NULL;
    for (size_t i = 0; i < hp->n_keys && !k; i++)
        if (strcmp(hp->keys[i].name, name) == 0) k = &hp->keys[i];
    if (!k) {
        if (hp->n_keys == hp->cap_keys) {
            const size_t cap = hp->cap_keys ? 2 * hp->cap_keys : 32;
            sg_conv_key *p = realloc(hp->keys, cap * sizeof *p);
            if (!p) {
                hp->failed = true;
                return NULL;
            }
            hp->keys = p;
            hp->cap_keys = cap;
        }
        k = &hp->keys[hp->n_keys++];
        *k = (sg_conv_key) { 0 };
        snprintf(k->name, sizeof k->name, "%s", name);
    }
    free(k->list);
    k->list = NULL;
    k->type = type;
    return k;
}

void sg_conv_set_u32(sg_conv_hparams *hp, const char *name, uint32_t v) {
    sg_conv_key *k = add_key(hp, name, SG_GGUF_U32);
    if (k) k->number = v;
}
void sg_conv_set_f32(sg_conv_hparams *hp, const char *name, float v) {
    sg_conv_key *k = add_key(hp, name, SG_GGUF_F32);
    if (k) k->number = v;
}
void sg_conv_set_bool(sg_conv_hparams *hp, const char *name, bool v) {
    sg_conv_key *k = add_key(hp, name, SG_GGUF_BOOL);
    if (k) k->number = v;
}
void sg_conv_set_str(sg_conv_hparams *hp, const char *name, const char *v) {
    sg_conv_key *k = add_key(hp, name, SG_GGUF_STRING);
    if (k) k->text = v;
}
void sg_conv_set_list(sg_conv_hparams *hp, const char *name, const uint32_t *v, uint32_t n) {
    sg_conv_key *k = add_key(hp, name, SG_GGUF_U32);
    if (!k) return;
    k->list = malloc((n ? n : 1) * sizeof *k->list);
    if (!k->list) {
        hp->failed = true;
        return;
    }
    memcpy(k->list, v, n * sizeof *v);
    k->n = n;
}

sg_conv_tensor *sg_conv_add_tensor(sg_conv_model *m, uint64_t ne0, uint64_t ne1, uint64_t ne2, const char *fmt, ...) {
    if (m->n_tensors == m->cap_tensors) {
        const size_t cap = m->cap_tensors ? m->cap_tensors * 2 : 64;
        sg_conv_tensor *p = realloc(m->tensors, cap * sizeof *p);
        if (!p) return NULL;
        m->tensors = p;
        m->cap_tensors = cap;
    }
    sg_conv_tensor *t = &m->tensors[m->n_tensors++];
    *t = (sg_conv_tensor) { .n_dims = ne2 ? 3 : ne1 ? 2 : 1, .ne = { ne0, ne1 ? ne1 : 1, ne2 ? ne2 : 1 }, .n_parts = 1 };
    t->one.n_axes = 1;
    t->one.axis[0].n = t->ne[0] * t->ne[1] * t->ne[2];
    t->one.axis[0].stride = 1;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(t->name, sizeof t->name, fmt, ap);
    va_end(ap);
    return t;
}

sg_conv_part *sg_conv_set_parts(sg_conv_tensor *t, uint32_t n) {
    free(t->many);
    t->many = NULL;
    t->n_parts = n;
    t->one = (sg_conv_part) { 0 };
    if (n <= 1) return &t->one;
    t->many = calloc(n, sizeof *t->many);
    return t->many;
}

const sg_conv_part *sg_conv_parts(const sg_conv_tensor *t) { return t->many ? t->many : &t->one; }

void sg_conv_part_merge(sg_conv_part *p) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->n_axes; i++) {
        if (p->axis[i].n == 1) continue;
        if (n && p->axis[i].stride == p->axis[n - 1].n * p->axis[n - 1].stride)
            p->axis[n - 1].n *= p->axis[i].n;
        else
            p->axis[n++] = p->axis[i];
    }
    if (n == 0) {
        p->axis[0].n = p->axis[0].stride = 1;
        n = 1;
    }
    p->n_axes = n;
}

uint64_t sg_conv_part_values(const sg_conv_part *p) {
    uint64_t n = 1;
    for (uint32_t i = 0; i < p->n_axes; i++) n *= p->axis[i].n;
    return n;
}

uint64_t sg_conv_part_at(const sg_conv_part *p, uint32_t from, uint64_t i) {
    uint64_t at = 0;
    for (uint32_t k = from; k < p->n_axes; k++) {
        at += i % p->axis[k].n * p->axis[k].stride;
        i /= p->axis[k].n;
    }
    return at;
}

bool sg_conv_is_plain(const sg_conv_tensor *t) {
    return t->n_parts == 1 && t->op == SG_CONV_COPY && !t->one.values && t->one.src != SG_CONV_SRC_MXFP4 && t->one.n_axes == 1 &&
           t->one.axis[0].stride == 1;
}

void sg_conv_model_finish(sg_conv_model *m) {
    for (size_t i = 0; i < m->hp.n_keys; i++) free(m->hp.keys[i].list);
    for (size_t i = 0; i < m->n_tensors; i++) free(m->tensors[i].many);
    for (size_t i = 0; i < sizeof m->owned / sizeof *m->owned; i++) free(m->owned[i]);
    free(m->hp.keys);
    sg_conv_vocab_finish(&m->vocab);
    free(m->tensors);
    *m = (sg_conv_model) { 0 };
}
