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

static sg_status as_matrix(source *s, const sg_conv_tensor *t, sg_bin_matrix *out, sg_error *err) {
    const sg_conv_part *p = sg_conv_parts(t);
    static const sg_dtype types[] = { [SG_CONV_SRC_F32] = SG_DTYPE_F32, [SG_CONV_SRC_F16] = SG_DTYPE_F16,
                                      [SG_CONV_SRC_BF16] = SG_DTYPE_BF16, [SG_CONV_SRC_INT8] = SG_DTYPE_I8 };
    *out = (sg_bin_matrix) { .name = t->name, .path = p->path, .type = types[p->src], .is_int8 = p->src == SG_CONV_SRC_INT8,
                             .offset = p->offset, .scale_offset = p->scale_offset, .group = p->group,
                             .rows = (uint32_t)t->ne[1], .cols = (uint32_t)t->ne[0] };
    return file_of(s, p->path, &out->fd, err);
}

/* The place of a feed-forward matrix, or NULL for other tensors. */
static sg_bin_matrix *place(source *s, const char *name) {
    uint32_t layer;
    int end = 0;
    if (sscanf(name, "blk.%" SCNu32 ".%n", &layer, &end) != 1 || end == 0 || layer >= s->m.n_layer) return NULL;
    sg_bin_layer *b = &s->m.layers[layer];
    if (strcmp(name + end, "ffn_gate.weight") == 0) return &b->gate;
    if (strcmp(name + end, "ffn_up.weight") == 0) return &b->up;
    return strcmp(name + end, "ffn_down.weight") == 0 ? &b->down : NULL;
}

static sg_status describe(source *s, sg_error *err) {
    s->m.n_layer = s->conv->hp.n_layer;
    s->m.layers = calloc(s->m.n_layer, sizeof *s->m.layers);
    if (!s->m.layers) return sg_fail(err, SG_E_NOMEM, "%s: no memory for the layers", s->m.path);
    for (size_t i = 0; i < s->conv->n_tensors; i++) {
        const sg_conv_tensor *t = &s->conv->tensors[i];
        sg_bin_matrix *m = sg_conv_is_plain(t) && t->n_dims == 2 ? place(s, t->name) : NULL;
        if (m) {
            SG_TRY(as_matrix(s, t, m, err));
            continue;
        }
        sg_bin_tensor *b = sg_bin_add_tensor(&s->m, t->name);
        if (!b) return sg_fail(err, SG_E_NOMEM, "%s: no memory for the list of tensors", s->m.path);
        b->type = t->type;
        b->n_dims = t->n_dims;
        b->ne[0] = t->ne[0];
        b->ne[1] = t->ne[1];
        b->ne[2] = t->ne[2];
        b->conv = t;
    }
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
    free(s.fds);
    free(s.paths);
    sg_bin_model_finish(&s.m);
    return status;
}
