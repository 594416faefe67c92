/* GGUF files, also split sets, and PowerInfer's, as source of a model.bin.
 *
 * PowerInfer (https://github.com/SJTU-IPADS/PowerInfer, convert.py, convert-hf-to-powerinfer-gguf.py and llama.cpp there) stores down
 * matrices turned (ffn_down_t: a row is a neuron) and a predictor per layer, fc1 [n_embd, r] and fc2 [r, n_ff] with ReLU between, whose
 * input is the residual stream before the norm. All of its models have ReLU; "bamboo" is a llama with dReLU. The learned positions of its
 * OPT files begin with two rows that no token uses. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/convert/bin_model.h"
#include "runtime/convert/file.h"

typedef struct source {
    const sg_conv_job *job;
    const sg_gguf *g;
    int *fds; /* of the files of the set */
    bool powerinfer;
    const char *from_arch, *to_arch, *activation; /* of PowerInfer's files */
    uint32_t unused_positions;                    /* rows at the beginning of position_embd */
    float threshold;
    sg_bin_model m;
    bool *cut;        /* of each tensor: it becomes a part of a bundle or a predictor */
    bool *has_pred;   /* of each layer */
} source;

static sg_status open_files(source *s, sg_error *err) {
    const uint32_t n = sg_gguf_n_files(s->g);
    struct stat out = { 0 }, in;
    const bool there = stat(s->job->output, &out) == 0;
    s->fds = malloc(n * sizeof *s->fds);
    if (!s->fds) return sg_fail(err, SG_E_NOMEM, "%s: no memory", s->m.path);
    for (uint32_t i = 0; i < n; i++) s->fds[i] = -1;
    for (uint32_t i = 0; i < n; i++) {
        const char *path = sg_gguf_path(s->g, i);
        uint64_t size;
        SG_TRY(sg_file_open(path, &s->fds[i], &size, err));
        if (there && fstat(s->fds[i], &in) == 0 && in.st_dev == out.st_dev && in.st_ino == out.st_ino)
            return sg_fail(err, SG_E_ARG, "%s: input and output are the same file", path);
        posix_fadvise(s->fds[i], 0, 0, POSIX_FADV_SEQUENTIAL);
    }
    return SG_OK;
}

/* Takes the tensor blk.LAYER.STEM as a matrix; out->name stays NULL when it is not there. n_expert: NULL, or the experts whose matrices it holds
 * one after the other: 0 before the first such tensor of a layer. */
static sg_status take(source *s, uint32_t layer, const char *stem, sg_bin_matrix *out, uint32_t *n_expert, sg_error *err) {
    char name[64];
    snprintf(name, sizeof name, "blk.%" PRIu32 ".%s.weight", layer, stem);
    const sg_tensor_info *t = sg_gguf_tensor(s->g, name);
    if (!t) return SG_OK;
    const char *path = sg_gguf_path(s->g, t->file);
    if ((t->ne[2] != 1 && !n_expert) || t->ne[3] != 1 || t->ne[0] > SG_CONV_MAX_DIM || t->ne[1] > SG_CONV_MAX_DIM ||
        t->ne[2] > SG_BIN_MAX_EXPERTS || t->ne[1] * t->ne[2] > UINT32_MAX)
        return sg_fail(err, SG_E_FORMAT, "%s: tensor %s is no matrix of a size that a model has", path, name);
    if (n_expert && *n_expert != 0 && *n_expert != t->ne[2])
        return sg_fail(err, SG_E_FORMAT, "%s: tensor %s is for %" PRIu64 " experts, others of the layer for %" PRIu32, path, name, t->ne[2],
                       *n_expert);
    if (t->type == SG_DTYPE_I8 || t->type == SG_DTYPE_I32)
        return sg_fail(err, SG_E_FORMAT, "%s: tensor %s has type %s, which is none for weights", path, name,
                       sg_dtype_get((uint32_t)t->type)->name);
    if (n_expert) *n_expert = (uint32_t)t->ne[2];
    *out = (sg_bin_matrix) { .name = t->name, .path = path, .fd = s->fds[t->file], .type = t->type, .offset = t->offset,
                             .rows = (uint32_t)(t->ne[1] * t->ne[2]), .cols = (uint32_t)t->ne[0] };
    for (size_t i = 0; i < sg_gguf_n_tensors(s->g); i++)
        if (sg_gguf_tensor_at(s->g, i) == t) s->cut[i] = true;
    return SG_OK;
}

static sg_status take_layer(source *s, uint32_t i, sg_error *err) {
    static const char *const stems[] = { "ffn_gate", "ffn_up", "ffn_down" };
    sg_bin_layer units[SG_BIN_UNITS] = { 0 };
    for (int u = 0; u < SG_BIN_UNITS; u++) {
        sg_bin_layer *b = &units[u];
        sg_bin_matrix *const out[] = { &b->gate, &b->up, &b->down };
        for (int part = 0; part < 3; part++) {
            char stem[32];
            snprintf(stem, sizeof stem, "%s%s", part == 2 && s->m.down_stem ? s->m.down_stem : stems[part], sg_bin_ends[u]);
            SG_TRY(take(s, i, stem, out[part], u == SG_BIN_EXPERTS ? &b->n_expert : NULL, err));
        }
        b->down_is_rows = s->powerinfer;
    }
    return sg_bin_set_layer(&s->m, i, units, err);
}

/* One half of a predictor: rows and columns that are ranks are filled up with zeros to a multiple of 32. */
static sg_status add_half(source *s, uint32_t layer, char half, const sg_bin_matrix *from, uint64_t ne0, uint64_t ne1, sg_dtype type,
                          sg_error *err) {
    char name[64];
    snprintf(name, sizeof name, "blk.%" PRIu32 ".ffn_pred_%c", layer, half);
    sg_bin_tensor *t = sg_bin_add_tensor(&s->m, name);
    if (!t) return sg_fail(err, SG_E_NOMEM, "%s: no memory for the list of tensors", s->m.path);
    t->matrix = *from;
    t->type = type;
    t->n_dims = 2;
    t->ne[0] = ne0;
    t->ne[1] = ne1;
    return SG_OK;
}

static sg_status take_predictor(source *s, uint32_t i, sg_error *err) {
    const sg_bin_layer *b = &s->m.layers[i];
    sg_bin_matrix fc1 = { 0 }, fc2 = { 0 };
    SG_TRY(take(s, i, "fc1", &fc1, NULL, err));
    SG_TRY(take(s, i, "fc2", &fc2, NULL, err));
    if (!fc1.name && !fc2.name) return SG_OK;
    if (!b->up.name || !fc1.name || !fc2.name || fc1.cols != b->up.cols || fc2.cols != fc1.rows || fc2.rows != b->up.rows)
        return sg_fail(err, SG_E_FORMAT, "%s: blk.%" PRIu32 ".fc1.weight and fc2.weight are no predictor of this layer", s->m.path, i);
    const sg_dtype type = fc1.cols % 32 ? SG_DTYPE_F16 : SG_DTYPE_Q8_0; /* both quantised or both not */
    const uint64_t rank = ((uint64_t)fc1.rows + 31) / 32 * 32;
    SG_TRY(add_half(s, i, 'a', &fc1, fc1.cols, rank, type, err));
    SG_TRY(add_half(s, i, 'b', &fc2, rank, fc2.rows, type, err));
    s->has_pred[i] = true;
    return SG_OK;
}

/* Learned positions without the rows that no token uses. */
static sg_status take_positions(source *s, size_t i, sg_error *err) {
    const sg_tensor_info *from = sg_gguf_tensor_at(s->g, i);
    sg_bin_tensor *t = sg_bin_add_tensor(&s->m, from->name);
    if (!t) return sg_fail(err, SG_E_NOMEM, "%s: no memory for the list of tensors", s->m.path);
    const bool plain = from->type == SG_DTYPE_F32 || from->type == SG_DTYPE_F16;
    if (!plain || from->n_dims != 2 || from->ne[1] <= s->unused_positions || from->ne[1] > SG_CONV_MAX_DIM || from->ne[0] > SG_CONV_MAX_DIM)
        return sg_fail(err, SG_E_FORMAT, "%s: tensor %s is no table of positions in F32 or F16", sg_gguf_path(s->g, from->file), from->name);
    const uint64_t row = from->n_bytes / from->ne[1];
    t->matrix = (sg_bin_matrix) { .name = from->name, .path = sg_gguf_path(s->g, from->file), .fd = s->fds[from->file], .type = from->type,
                                  .offset = from->offset + s->unused_positions * row, .rows = (uint32_t)from->ne[1] - s->unused_positions,
                                  .cols = (uint32_t)from->ne[0] };
    t->type = from->type;
    t->n_dims = 2;
    t->ne[0] = from->ne[0];
    t->ne[1] = t->matrix.rows;
    return SG_OK;
}

/* PowerInfer calls the bias of a turned matrix by the matrix's name. */
static void plain_name(const source *s, const char *from, char name[65]) {
    const char *turned = s->powerinfer ? strstr(from, ".ffn_down_t.bias") : NULL;
    if (turned) snprintf(name, 65, "%.*s.ffn_down.bias", (int)(turned - from), from);
    else snprintf(name, 65, "%s", from);
}

/* Everything else is copied byte by byte. */
static sg_status take_rest(source *s, sg_error *err) {
    for (size_t i = 0; i < sg_gguf_n_tensors(s->g); i++) {
        if (s->cut[i]) continue;
        const sg_tensor_info *from = sg_gguf_tensor_at(s->g, i);
        if (s->unused_positions > 0 && strcmp(from->name, "position_embd.weight") == 0) {
            SG_TRY(take_positions(s, i, err));
            continue;
        }
        char name[65];
        plain_name(s, from->name, name);
        sg_bin_tensor *t = sg_bin_add_tensor(&s->m, name);
        if (!t) return sg_fail(err, SG_E_NOMEM, "%s: no memory for the list of tensors", s->m.path);
        t->type = from->type;
        t->n_dims = from->n_dims;
        memcpy(t->ne, from->ne, sizeof t->ne);
        t->from = from;
        t->fd = s->fds[from->file];
        t->path = sg_gguf_path(s->g, from->file);
    }
    return SG_OK;
}

/* PowerInfer's architectures, as what they are written and with which activation. */
static sg_status find_powerinfer(source *s, const char *arch, sg_error *err) {
    static const struct { const char *from, *to, *activation; uint32_t unused_positions; } known[] = {
        { "llama", "llama", "relu", 0 }, { "bamboo", "llama", "drelu", 0 }, { "falcon", "falcon", "relu", 0 }, { "opt", "opt", "relu", 2 }
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(arch, known[i].from) != 0) continue;
        s->from_arch = known[i].from;
        s->to_arch = known[i].to;
        s->activation = known[i].activation;
        s->unused_positions = known[i].unused_positions;
        return SG_OK;
    }
    return sg_fail(err, SG_E_UNSUPPORTED, "%s: PowerInfer's architecture \"%s\" is not known (llama, bamboo, falcon, opt)", s->m.path, arch);
}

static sg_status describe(source *s, sg_error *err) {
    const char *arch = NULL;
    SG_TRY(sg_gguf_get_str(s->g, "general.architecture", &arch, err));
    if (!arch) return sg_fail(err, SG_E_FORMAT, "%s: key general.architecture is missing", s->m.path);
    s->m.fused = sg_bin_is_fused(arch);
    if (s->powerinfer) s->m.down_stem = "ffn_down_t";
    if (s->powerinfer) SG_TRY(find_powerinfer(s, arch, err));
    SG_TRY(sg_gguf_get_f32(s->g, "powerinfer.sparse_threshold", &s->threshold, err));
    char key[160];
    if (snprintf(key, sizeof key, "%s.block_count", arch) >= (int)sizeof key)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: the name of the architecture is too long", s->m.path);
    SG_TRY(sg_gguf_get_u32(s->g, key, &s->m.n_layer, err));
    if (s->m.n_layer == 0 || s->m.n_layer > SG_CONV_MAX_LAYERS)
        return sg_fail(err, SG_E_FORMAT, "%s: %s is missing or not between 1 and %u", s->m.path, key, SG_CONV_MAX_LAYERS);
    s->m.layers = calloc(s->m.n_layer, sizeof *s->m.layers);
    s->has_pred = calloc(s->m.n_layer, sizeof *s->has_pred);
    s->cut = calloc(sg_gguf_n_tensors(s->g) + 1, sizeof *s->cut);
    if (!s->m.layers || !s->has_pred || !s->cut) return sg_fail(err, SG_E_NOMEM, "%s: no memory for the layers", s->m.path);
    for (uint32_t i = 0; i < s->m.n_layer; i++) {
        SG_TRY(take_layer(s, i, err));
        if (s->powerinfer) SG_TRY(take_predictor(s, i, err));
    }
    return take_rest(s, err);
}

/* ---- keys --------------------------------------------------------------------------------------------------------- */

static bool begins(const char *s, const char *prefix) { return strncmp(s, prefix, strlen(prefix)) == 0; }

static sg_status predictor_keys(const source *s, sg_gguf_writer *w, sg_error *err) {
    bool any = false;
    for (uint32_t i = 0; i < s->m.n_layer; i++) any = any || s->has_pred[i];
    if (!any) return SG_OK;
    sg_gguf_string *kinds = calloc(s->m.n_layer, sizeof *kinds);
    float *thresholds = calloc(s->m.n_layer, sizeof *thresholds);
    if (kinds && thresholds) {
        for (uint32_t i = 0; i < s->m.n_layer; i++) {
            kinds[i] = s->has_pred[i] ? (sg_gguf_string) { "mlp", 3 } : (sg_gguf_string) { "none", 4 };
            thresholds[i] = s->threshold;
        }
        const float recall = 0; /* not measured */
        sg_gguf_writer_strings(w, "sparsegen.predictor.kind", kinds, s->m.n_layer);
        sg_gguf_writer_str(w, "sparsegen.predictor.input", "residual");
        sg_gguf_writer_array(w, "sparsegen.predictor.recalls", SG_GGUF_F32, &recall, 1);
        sg_gguf_writer_array(w, "sparsegen.predictor.thresholds", SG_GGUF_F32, thresholds, s->m.n_layer);
    }
    const bool ok = kinds && thresholds;
    free(kinds);
    free(thresholds);
    return ok ? SG_OK : sg_fail(err, SG_E_NOMEM, "%s: no memory for the keys", s->m.path);
}

/* A key of PowerInfer's under the name of the architecture that is written. */
static sg_status copy_renamed(const source *s, const sg_gguf_kv *kv, sg_gguf_writer *w, sg_error *err) {
    const size_t n = strlen(s->from_arch);
    if (begins(kv->key, "powerinfer.") || strcmp(kv->key, "sparsegen.ffn_activation") == 0) return SG_OK;
    if (strcmp(kv->key, "general.architecture") == 0) {
        sg_gguf_writer_str(w, kv->key, s->to_arch);
        return SG_OK;
    }
    if (!begins(kv->key, s->from_arch) || kv->key[n] != '.') {
        sg_gguf_writer_copy(w, kv);
        return SG_OK;
    }
    sg_str key = { 0 };
    sg_str_printf(&key, "%s%s", s->to_arch, kv->key + n);
    if (key.failed) {
        free(key.data);
        return sg_fail(err, SG_E_NOMEM, "%s: no memory for the keys", s->m.path);
    }
    sg_status status = SG_OK;
    if (s->unused_positions > 0 && strcmp(kv->key + n, ".context_length") == 0) {
        uint32_t n_ctx = 0;
        status = sg_gguf_get_u32(s->g, kv->key, &n_ctx, err);
        sg_gguf_writer_u32(w, key.data, n_ctx - s->unused_positions);
    } else {
        sg_gguf_kv renamed = *kv;
        renamed.key = key.data;
        sg_gguf_writer_copy(w, &renamed);
    }
    free(key.data);
    return status;
}

static sg_status write_keys(void *arg, sg_gguf_writer *w, sg_error *err) {
    const source *s = arg;
    for (size_t i = 0; i < sg_gguf_n_kv(s->g); i++) {
        const sg_gguf_kv *kv = sg_gguf_kv_at(s->g, i);
        if (s->powerinfer) SG_TRY(copy_renamed(s, kv, w, err));
        else sg_gguf_writer_copy(w, kv);
    }
    if (!s->powerinfer) return SG_OK;
    sg_gguf_writer_str(w, "sparsegen.ffn_activation", s->activation);
    return predictor_keys(s, w, err);
}

sg_status sg_bin_from_gguf(const sg_conv_job *job, sg_gguf *g, sg_error *err) {
    source s = { .job = job, .g = g, .powerinfer = sg_gguf_is_powerinfer(g), .m = { .path = job->input } };
    sg_status status = SG_OK;
    if (sg_gguf_find(g, SG_BIN_VERSION_KEY))
        status = sg_fail(err, SG_E_UNSUPPORTED, "%s: is a model.bin already; convert the file that it was made from", job->input);
    if (status == SG_OK) status = open_files(&s, err);
    if (status == SG_OK) status = describe(&s, err);
    if (status == SG_OK) status = sg_bin_choose(job, &s.m, err);
    if (status == SG_OK) status = sg_bin_write(job, &s.m, write_keys, &s, err);
    for (uint32_t i = 0; s.fds && i < sg_gguf_n_files(g); i++)
        if (s.fds[i] >= 0) close(s.fds[i]);
    free(s.fds);
    free(s.cut);
    free(s.has_pred);
    sg_bin_model_finish(&s.m);
    return status;
}
