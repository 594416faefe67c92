/* What the readers of Hugging Face folders and llama2.c files found, as source of a model.bin. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/convert/bin_model.h"
#include "runtime/convert/file.h"

typedef struct source {
    const sg_conv_job *job;
    sg_conv_model *conv;
    sg_bin_model m;
    sg_bin_layer (*units)[SG_BIN_UNITS]; /* [n_layer], as the tensors are found */
    sg_bin_gather *gathers;              /* [n_gathers], for as many as there are tensors */
    size_t n_gathers;
    const char **paths; /* of the opened files, borrowed */
    int *fds;
    size_t n_files;
} source;

/* Tensors of one file follow each other, so the last one opened is nearly always the right one. */
static sg_status file_of(source *s, const char *path, int *fd, sg_error *err) {
    for (size_t i = s->n_files; i-- > 0;) {
        if (s->paths[i] != path && strcmp(s->paths[i], path) != 0) continue;
        *fd = s->fds[i];
        return SG_OK;
    }
    const char **paths = realloc(s->paths, (s->n_files + 1) * sizeof *paths);
    if (paths) s->paths = paths;
    int *fds = realloc(s->fds, (s->n_files + 1) * sizeof *fds);
    if (fds) s->fds = fds;
    if (!paths || !fds) return sg_fail(err, SG_E_NOMEM, "%s: no memory", s->m.path);
    uint64_t size;
    SG_TRY(sg_file_open(path, fd, &size, err));
    s->paths[s->n_files] = path;
    s->fds[s->n_files++] = *fd;
    return SG_OK;
}

/* A tensor that lies in its file from end to end. */
static sg_status as_plain(source *s, const sg_conv_tensor *t, sg_bin_matrix *out, sg_error *err) {
    const sg_conv_part *p = sg_conv_parts(t);
    static const sg_dtype types[] = { [SG_CONV_SRC_F32] = SG_DTYPE_F32, [SG_CONV_SRC_F16] = SG_DTYPE_F16,
                                      [SG_CONV_SRC_BF16] = SG_DTYPE_BF16, [SG_CONV_SRC_INT8] = SG_DTYPE_I8 };
    *out = (sg_bin_matrix) { .name = t->name, .path = p->path, .type = types[p->src], .is_int8 = p->src == SG_CONV_SRC_INT8,
                             .offset = p->offset, .scale_offset = p->scale_offset, .group = p->group,
                             .rows = (uint32_t)(t->ne[1] * t->ne[2]), .cols = (uint32_t)t->ne[0], .unknown = true };
    return file_of(s, p->path, &out->fd, err);
}

static sg_status as_gather(source *s, const sg_conv_tensor *t, bool turned, sg_bin_matrix *out, sg_error *err) {
    sg_bin_gather *g = &s->gathers[s->n_gathers++];
    SG_TRY(sg_bin_gather_init(g, t, turned, err));
    for (uint32_t i = 0; i < g->n_pieces; i++) {
        sg_bin_piece *p = &g->pieces[i];
        SG_TRY(file_of(s, p->from.path, &p->fd, err));
        if (p->from.scale_path) SG_TRY(file_of(s, p->from.scale_path, &p->scale_fd, err));
    }
    *out = (sg_bin_matrix) { .name = t->name, .path = g->pieces[0].from.path, .fd = g->pieces[0].fd, .type = g->type, .rows = g->rows,
                             .cols = g->cols, .gather = g, .unknown = true };
    return SG_OK;
}

/* The layer, unit and part (0: gate, 1: up, 2: down) that a feed-forward matrix is; false for other tensors. */
static bool place_of(const sg_conv_model *m, const char *name, uint32_t *layer, int *unit, int *part) {
    static const char *const stems[] = { "ffn_gate", "ffn_up", "ffn_down" };
    int end = 0;
    if (sscanf(name, "blk.%" SCNu32 ".%n", layer, &end) != 1 || end == 0 || *layer >= m->hp.n_layer) return false;
    for (*unit = 0; *unit < SG_BIN_UNITS; ++*unit) {
        for (*part = 0; *part < 3; ++*part) {
            char full[32];
            snprintf(full, sizeof full, "%s%s.weight", stems[*part], sg_bin_ends[*unit]);
            if (strcmp(name + end, full) == 0) return true;
        }
    }
    return false;
}

bool sg_bin_cuts(const sg_conv_model *m, const sg_conv_tensor *t) {
    uint32_t layer;
    int unit, part;
    return place_of(m, t->name, &layer, &unit, &part);
}

/* Down matrices that are stored the other way round are taken as they lie: a row is a neuron. */
static sg_status take(source *s, const sg_conv_tensor *t, uint32_t layer, int unit, int part, sg_error *err) {
    sg_bin_layer *b = &s->units[layer][unit];
    const uint32_t n_expert = unit == SG_BIN_EXPERTS ? (uint32_t)t->ne[2] : 0;
    if (t->ne[2] > SG_BIN_MAX_EXPERTS || t->ne[0] > SG_CONV_MAX_DIM || t->ne[1] > SG_CONV_MAX_DIM || t->ne[0] * t->ne[2] > UINT32_MAX ||
        t->ne[1] * t->ne[2] > UINT32_MAX || (unit != SG_BIN_EXPERTS && t->ne[2] != 1))
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: tensor %s is too large to be cut into neurons", s->m.path, t->name);
    if (b->n_expert != 0 && b->n_expert != n_expert)
        return sg_fail(err, SG_E_FORMAT, "%s: tensor %s is for %" PRIu32 " experts, others of the layer for %" PRIu32, s->m.path, t->name,
                       n_expert, b->n_expert);
    b->n_expert = n_expert;
    sg_bin_matrix *const out = part == 0 ? &b->gate : part == 1 ? &b->up : &b->down;
    if (sg_conv_is_plain(t)) return as_plain(s, t, out, err);
    const bool turned = part == 2 && sg_bin_gather_is_turned(t);
    if (turned) b->down_is_rows = true;
    return as_gather(s, t, turned, out, err);
}

static sg_status add_other(source *s, const sg_conv_tensor *t, sg_error *err) {
    sg_bin_tensor *b = sg_bin_add_tensor(&s->m, t->name);
    if (!b) return sg_fail(err, SG_E_NOMEM, "%s: no memory for the list of tensors", s->m.path);
    b->type = t->type;
    b->n_dims = t->n_dims;
    for (int i = 0; i < 3; i++) b->ne[i] = t->ne[i];
    b->conv = t;
    return SG_OK;
}

static sg_status describe(source *s, sg_error *err) {
    s->m.n_layer = s->conv->hp.n_layer;
    s->m.fused = sg_bin_is_fused(s->conv->hp.arch);
    s->m.layers = calloc(s->m.n_layer, sizeof *s->m.layers);
    s->units = calloc(s->m.n_layer, sizeof *s->units);
    s->gathers = calloc(s->conv->n_tensors + 1, sizeof *s->gathers);
    if (!s->m.layers || !s->units || !s->gathers) return sg_fail(err, SG_E_NOMEM, "%s: no memory for the layers", s->m.path);
    for (size_t i = 0; i < s->conv->n_tensors; i++) {
        const sg_conv_tensor *t = &s->conv->tensors[i];
        uint32_t layer;
        int unit, part;
        if (place_of(s->conv, t->name, &layer, &unit, &part)) SG_TRY(take(s, t, layer, unit, part, err));
        else SG_TRY(add_other(s, t, err));
    }
    for (uint32_t i = 0; i < s->m.n_layer; i++) SG_TRY(sg_bin_set_layer(&s->m, i, s->units[i], err));
    return SG_OK;
}

static sg_status write_keys(void *arg, sg_gguf_writer *w, sg_error *err) {
    const source *s = arg;
    SG_TRY(sg_conv_write_metadata(s->job, &s->conv->hp, w, err));
    return sg_conv_vocab_write(&s->conv->vocab, w, err);
}

sg_status sg_bin_from_conv(const sg_conv_job *job, sg_conv_model *m, sg_error *err) {
    source s = { .job = job, .conv = m, .m = { .path = job->input } };
    sg_status status = describe(&s, err);
    if (status == SG_OK) status = sg_bin_choose(job, &s.m, err);
    if (status == SG_OK) status = sg_bin_write(job, &s.m, write_keys, &s, err);
    for (size_t i = 0; i < s.n_files; i++) close(s.fds[i]);
    for (size_t i = 0; i < s.n_gathers; i++) sg_bin_gather_finish(&s.gathers[i]);
    free(s.gathers);
    free(s.units);
    free(s.fds);
    free(s.paths);
    sg_bin_model_finish(&s.m);
    return status;
}
