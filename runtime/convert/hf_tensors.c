/* The tables of tensors carried out: which tensor of the files each one of the model is gathered from. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/convert/file.h"
#include "runtime/convert/hf_config.h"
#include "runtime/convert/safetensors.h"

#define MAX_NAME 160
#define BLOCK 32 /* values of an MXFP4 block */

typedef struct builder {
    const char *dir;
    const sg_hf_config *c;
    sg_st_set *set;
    sg_conv_model *m;
    char prefix[64];
} builder;

/* A rule with the numbers of its layer and expert. */
typedef struct place {
    const sg_hf_tensor *rule;
    uint32_t layer, expert;
} place;

static uint64_t value(const builder *b, uint8_t v) { return b->c->v[v] > 0 ? (uint64_t)b->c->v[v] : 0; }

/* The name with its numbers in place of '#'. */
static void expand(char *out, size_t size, const char *prefix, const char *pattern, const uint32_t number[2]) {
    size_t at = (size_t)snprintf(out, size, "%s", prefix), k = 0;
    for (const char *p = pattern; *p && at + 12 < size; p++) {
        if (*p == '#' && k < 2)
            at += (size_t)snprintf(out + at, size - at, "%u", number[k++]);
        else
            out[at++] = *p;
    }
    out[at < size ? at : size - 1] = 0;
}

static void source_name(const builder *b, const place *p, char *out, size_t size) {
    const uint32_t number[2] = { p->layer, p->expert };
    const bool whole = p->rule->hf[0] == '/';
    expand(out, size, whole ? "" : b->prefix, p->rule->hf + whole, number);
}

/* "[4, 5]" */
static void print_shape(char *out, size_t size, const uint64_t *dims, uint32_t n) {
    size_t at = (size_t)snprintf(out, size, "[");
    for (uint32_t i = 0; i < n && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%llu", i ? ", " : "", (unsigned long long)dims[i]);
    if (at < size) snprintf(out + at, size - at, "]");
}

static sg_status check_shape(const sg_st_tensor *s, const uint64_t *dims, uint32_t n, sg_error *err) {
    if (s->n_dims == n && memcmp(s->dims, dims, n * sizeof *dims) == 0) return SG_OK;
    char found[200], expected[120];
    print_shape(found, sizeof found, s->dims, s->n_dims);
    print_shape(expected, sizeof expected, dims, n);
    return sg_fail(err, SG_E_FORMAT, "%s: tensor %s has the shape %s, %s is needed", s->path, s->name, found, expected);
}

/* The shape that a source must have, outermost first: what the rule says, else the output's; of one expert without the last
 * dimension of that. */
static uint32_t wanted_shape(const builder *b, const sg_hf_tensor *r, bool experts, uint64_t dims[4]) {
    uint32_t n = 0;
    if (r->shape[0]) {
        while (n < 4 && r->shape[n]) {
            dims[n] = value(b, r->shape[n]);
            n++;
        }
        return n;
    }
    for (int k = experts ? 1 : 2; k >= 0; k--)
        if (r->ne[k]) dims[n++] = value(b, r->ne[k]);
    return n;
}

static sg_status find(builder *b, const char *name, sg_st_tensor **out, sg_error *err) {
    *out = sg_st_find(b->set, name);
    if (!*out) return sg_fail(err, SG_E_FORMAT, "%s: tensor %s is missing", b->dir, name);
    (*out)->used = true;
    return SG_OK;
}

/* Where blocks and scales lie. `dims` are those of the values; the last one is cut into blocks of 16 bytes. */
static sg_status find_blocks(builder *b, const char *name, const uint64_t *dims, uint32_t n, sg_conv_part *from, sg_error *err) {
    char full[MAX_NAME + 8];
    sg_st_tensor *blocks, *scales;
    uint64_t want[6];
    memcpy(want, dims, n * sizeof *dims);
    if (dims[n - 1] % BLOCK)
        return sg_fail(err, SG_E_FORMAT, "%s: rows of %llu values cannot be MXFP4 blocks", b->dir, (unsigned long long)dims[n - 1]);
    want[n - 1] = dims[n - 1] / BLOCK;
    want[n] = BLOCK / 2;
    snprintf(full, sizeof full, "%s_blocks", name);
    SG_TRY(find(b, full, &blocks, err));
    snprintf(full, sizeof full, "%s_scales", name);
    SG_TRY(find(b, full, &scales, err));
    SG_TRY(check_shape(blocks, want, n + 1, err));
    SG_TRY(check_shape(scales, want, n, err));
    if (strcmp(blocks->dtype, "U8") != 0 || strcmp(scales->dtype, "U8") != 0)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: tensor %s has dtype %s, MXFP4 is U8", blocks->path, name, blocks->dtype);
    *from = (sg_conv_part) { .path = blocks->path, .scale_path = scales->path, .offset = blocks->offset,
                             .scale_offset = scales->offset, .src = SG_CONV_SRC_MXFP4 };
    return SG_OK;
}

/* Fills `from` with file, place and type; the shape is checked. */
static sg_status find_source(builder *b, const place *p, const uint64_t *dims, uint32_t n, sg_conv_part *from, sg_error *err) {
    char name[MAX_NAME];
    sg_st_tensor *s;
    source_name(b, p, name, sizeof name);
    if (p->rule->when & SG_HF_MXFP4) return find_blocks(b, name, dims, n, from, err);
    SG_TRY(find(b, name, &s, err));
    SG_TRY(check_shape(s, dims, n, err));
    static const struct { const char *name; sg_conv_src src; } types[] = { { "F32", SG_CONV_SRC_F32 }, { "F16", SG_CONV_SRC_F16 },
                                                                           { "BF16", SG_CONV_SRC_BF16 } };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (strcmp(types[i].name, s->dtype) != 0) continue;
        *from = (sg_conv_part) { .path = s->path, .offset = s->offset, .src = types[i].src };
        return SG_OK;
    }
    return sg_fail(err, SG_E_UNSUPPORTED, "%s: tensor %s has dtype %s (F32, F16 and BF16 are known)", s->path, name, s->dtype);
}

/* The part begins `first` values into its source. */
static void move_on(sg_conv_part *p, uint64_t first) {
    const uint64_t bytes = p->src == SG_CONV_SRC_F32 ? 4 : 2;
    if (p->src == SG_CONV_SRC_MXFP4) {
        p->offset += first / 2;
        p->scale_offset += first / BLOCK;
    } else {
        p->offset += first * bytes;
    }
}

/* Axes of the output from a pattern. False when it does not fit into a source of `total` values, or blocks would be cut. */
static bool set_axes(const builder *b, const sg_hf_part *pattern, uint64_t total, sg_conv_part *out) {
    uint64_t size[SG_HF_AXES], stride[SG_HF_AXES], first, last, at = 1;
    const size_t n = strlen(pattern->from);
    for (size_t k = n; k-- > 0;) {
        stride[k] = at;
        size[k] = value(b, pattern->size[k]);
        if (size[k] == 0 || !sg_mul_add(at, size[k], 0, &at)) return false;
    }
    first = value(b, pattern->skip) * size[n - 1];
    for (size_t k = 0; k < n; k++) {
        if (pattern->from[k] != pattern->cut) continue;
        const uint64_t from = value(b, pattern->cut_at), many = value(b, pattern->cut_n);
        if (many == 0 || from + many > size[k]) return false;
        first += from * stride[k];
        size[k] = many;
    }
    last = first;
    for (size_t k = 0; k < n; k++) last += (size[k] - 1) * stride[k];
    if (last >= total) return false;
    out->n_axes = 0;
    for (size_t i = strlen(pattern->to); i-- > 0;) {
        const size_t k = (size_t)(strchr(pattern->from, pattern->to[i]) - pattern->from);
        out->axis[out->n_axes].n = size[k];
        out->axis[out->n_axes++].stride = stride[k];
    }
    move_on(out, first);
    sg_conv_part_merge(out);
    return out->src != SG_CONV_SRC_MXFP4 || (first % BLOCK == 0 && out->axis[0].stride == 1);
}

static sg_status add_parts(builder *b, const place *p, sg_conv_tensor *t, const uint64_t *dims, uint32_t n, sg_error *err) {
    const sg_hf_tensor *r = p->rule;
    const uint32_t count = r->n_parts ? r->n_parts : 1;
    sg_conv_part from = { 0 };
    uint64_t total = 1, sum = 0;
    for (uint32_t k = 0; k < n; k++) total *= dims[k]; /* no overflow: it is the size of a tensor in a file */
    SG_TRY(find_source(b, p, dims, n, &from, err));
    sg_conv_part *parts = sg_conv_set_parts(t, count);
    if (!parts) return sg_fail(err, SG_E_NOMEM, "%s: no memory for the list of tensors", b->dir);
    for (uint32_t i = 0; i < count; i++) {
        parts[i] = from;
        parts[i].n_axes = 1;
        parts[i].axis[0].n = total;
        parts[i].axis[0].stride = 1;
        if (r->n_parts && !set_axes(b, &r->parts[i], total, &parts[i])) sum = UINT64_MAX / 2;
        sum += sg_conv_part_values(&parts[i]);
    }
    uint64_t want;
    if (sg_mul_add(t->ne[0], t->ne[1], 0, &want) && sg_mul_add(want, t->ne[2], 0, &want) && sum == want) return SG_OK;
    return sg_fail(err, SG_E_FORMAT, "%s: the sizes in config.json do not fit tensor %s", b->dir, t->name);
}

static sg_status add_experts(builder *b, place p, sg_conv_tensor *t, const uint64_t *dims, uint32_t n, sg_error *err) {
    const uint32_t count = (uint32_t)t->ne[2];
    sg_conv_part *parts = sg_conv_set_parts(t, count);
    if (!parts) return sg_fail(err, SG_E_NOMEM, "%s: no memory for the list of tensors", b->dir);
    for (p.expert = 0; p.expert < count; p.expert++) {
        sg_conv_part *part = &parts[p.expert];
        SG_TRY(find_source(b, &p, dims, n, part, err));
        part->n_axes = 1;
        part->axis[0].n = t->ne[0] * t->ne[1];
        part->axis[0].stride = 1;
    }
    return SG_OK;
}

static bool is_needed(const builder *b, const place *p, bool in_layer) {
    const sg_hf_tensor *r = p->rule;
    const uint8_t kind = in_layer ? b->c->layers[p->layer] : 0;
    if (r->flag && b->c->v[r->flag] == 0) return false;
    if ((r->when & (SG_HF_ATT | SG_HF_REC)) && !(r->when & kind & (SG_HF_ATT | SG_HF_REC))) return false;
    if ((r->when & (SG_HF_MOE | SG_HF_MLP)) && !(r->when & kind & (SG_HF_MOE | SG_HF_MLP))) return false;
    if (!(r->when & SG_HF_OPTIONAL)) return true;
    char name[MAX_NAME];
    source_name(b, p, name, sizeof name);
    return sg_st_find(b->set, name) != NULL;
}

static sg_status add_tensor(builder *b, const place *p, sg_error *err) {
    const sg_hf_tensor *r = p->rule;
    const char *first = strchr(r->hf, '#');
    if (!is_needed(b, p, first != NULL)) return SG_OK;
    const bool experts = first && strchr(first + 1, '#');
    char name[64];
    const uint32_t number[2] = { p->layer, 0 };
    uint64_t dims[4];
    const uint32_t n = wanted_shape(b, r, experts, dims);
    expand(name, sizeof name, "", r->gguf, number);
    for (int k = 0; k < 3; k++)
        if (r->ne[k] && value(b, r->ne[k]) == 0)
            return sg_fail(err, SG_E_FORMAT, "%s: the sizes in config.json leave nothing of tensor %s", b->dir, name);
    if (b->m->n_tensors && strcmp(b->m->tensors[b->m->n_tensors - 1].name, name) == 0) return SG_OK;
    sg_conv_tensor *t = sg_conv_add_tensor(b->m, value(b, r->ne[0]), value(b, r->ne[1]), value(b, r->ne[2]), "%s", name);
    if (!t) return sg_fail(err, SG_E_NOMEM, "%s: no memory for the list of tensors", b->dir);
    t->op = r->op == SG_HF_PLUS_ONE ? SG_CONV_PLUS_ONE : r->op == SG_HF_NEG_EXP ? SG_CONV_NEG_EXP : SG_CONV_COPY;
    t->keep_f32 = r->when & SG_HF_F32;
    return experts ? add_experts(b, *p, t, dims, n, err) : add_parts(b, p, t, dims, n, err);
}

/* Rules of layers that follow each other are carried out layer by layer. */
static sg_status add_all(builder *b, sg_error *err) {
    const sg_hf_arch *a = b->c->arch;
    for (size_t i = 0; i < a->n_tensors;) {
        size_t end = i;
        while (end < a->n_tensors && strchr(a->tensors[end].hf, '#')) end++;
        for (uint32_t l = 0; end > i && l < b->m->hp.n_layer; l++)
            for (size_t k = i; k < end; k++) SG_TRY(add_tensor(b, &(place) { &a->tensors[k], l, 0 }, err));
        if (end == i) {
            SG_TRY(add_tensor(b, &(place) { &a->tensors[i], 0, 0 }, err));
            end++;
        }
        i = end;
    }
    return SG_OK;
}

/* ---- names -------------------------------------------------------------------------------------------------------- */

/* The prefix under which the first tensor of the table is there. */
static void choose_prefix(builder *b) {
    const char *alternatives = b->c->arch->prefix;
    for (const char *at = alternatives; at; at = strchr(at, '|') ? strchr(at, '|') + 1 : NULL) {
        char name[MAX_NAME];
        snprintf(b->prefix, sizeof b->prefix, "%.*s", (int)strcspn(at, "|"), at);
        snprintf(name, sizeof name, "%s%s", b->prefix, b->c->arch->tensors[0].hf);
        if (sg_st_find(b->set, name)) return;
    }
    snprintf(b->prefix, sizeof b->prefix, "%.*s", (int)strcspn(alternatives, "|"), alternatives);
}

static bool is_ignored(const builder *b, const char *name) {
    char part[64];
    for (const char *at = b->c->arch->ignore; at; at = strchr(at, '|') ? strchr(at, '|') + 1 : NULL) {
        snprintf(part, sizeof part, "%.*s", (int)strcspn(at, "|"), at);
        if (strstr(name, part)) return true;
    }
    const char *layer = strstr(name, "layers.");
    if (layer && b->c->v[SG_H_NEXTN] > 0) {
        const unsigned long l = strtoul(layer + 7, NULL, 10);
        if (l >= b->m->hp.n_layer && l < b->m->hp.n_layer + value(b, SG_H_NEXTN)) return true;
    }
    return strstr(name, ".rotary_emb.inv_freq") != NULL; /* computed from the configuration */
}

static bool is_output(const char *name) {
    const size_t n = strlen(name), k = strlen("lm_head.weight");
    return n >= k && strcmp(name + n - k, "lm_head.weight") == 0;
}

/* Leaving a tensor out would give wrong text, so every one must be accounted for. */
static sg_status check_leftovers(const builder *b, const sg_log *log, sg_error *err) {
    size_t ignored = 0;
    for (size_t i = 0; i < b->set->n; i++) {
        const sg_st_tensor *t = &b->set->tensors[i];
        if (t->used || (b->c->tied && is_output(t->name))) continue;
        if (!is_ignored(b, t->name))
            return sg_fail(err, SG_E_UNSUPPORTED, "%s: tensor %.100s is not part of %s", t->path, t->name, b->c->arch->name);
        ignored++;
    }
    if (ignored) sg_log_line(log, SG_LOG_INFO, "%s: %zu tensors that text does not need are left out", b->dir, ignored);
    return SG_OK;
}

sg_status sg_hf_add_tensors(const char *dir, sg_hf_config *c, sg_st_set *set, sg_conv_model *m, const sg_log *log, sg_error *err) {
    builder b = { .dir = dir, .c = c, .set = set, .m = m };
    if (!c->says_tied && !sg_st_find(set, "lm_head.weight")) {
        c->tied = true;
        sg_log_line(log, SG_LOG_INFO, "%s: has no lm_head.weight, so the output shares the embedding", dir);
    }
    c->v[SG_H_UNTIED] = !c->tied;
    choose_prefix(&b);
    SG_TRY(add_all(&b, err));
    return check_leftovers(&b, log, err);
}
