/* The model as a GGUF file: keys and tensor names as llama.cpp writes them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/utf8.h"
#include "runtime/convert/bin_model.h"
#include "runtime/convert/convert.h"

#define ALIGNMENT 32 /* GGUF's default */

char *sg_conv_model_name(const char *path) {
    char *full = realpath(path, NULL);
    const char *p = full ? full : path;
    const char *slash = strrchr(p, '/');
    const char *base = slash ? slash + 1 : p;
    size_t n = strlen(base);
    if (n > 4 && strcmp(base + n - 4, ".bin") == 0) n -= 4;
    char *name = strndup(sg_utf8_check(base, n) == n ? base : "", n);
    free(full);
    return name;
}

/* llama_ftype of llama.cpp: what most tensors of the file are. */
static uint32_t file_type(sg_dtype type) {
    switch (type) {
    case SG_DTYPE_F16: return 1;
    case SG_DTYPE_Q4_0: return 2;
    case SG_DTYPE_Q8_0: return 7;
    case SG_DTYPE_BF16: return 32;
    default: return 0;
    }
}

static void write_key(sg_gguf_writer *w, const sg_conv_hparams *hp, const sg_conv_key *k) {
    char name[128];
    const bool own = strncmp(k->name, "sparsegen.", 10) == 0;
    snprintf(name, sizeof name, "%s%s%s", own ? "" : hp->arch, own ? "" : ".", k->name);
    if (k->list)
        sg_gguf_writer_array(w, name, SG_GGUF_U32, k->list, k->n);
    else if (k->type == SG_GGUF_STRING)
        sg_gguf_writer_str(w, name, k->text);
    else if (k->type == SG_GGUF_F32)
        sg_gguf_writer_f32(w, name, (float)k->number);
    else if (k->type == SG_GGUF_BOOL)
        sg_gguf_writer_bool(w, name, k->number != 0);
    else
        sg_gguf_writer_u32(w, name, (uint32_t)k->number);
}

sg_status sg_conv_write_metadata(const sg_conv_job *job, const sg_conv_hparams *hp, sg_gguf_writer *w, sg_error *err) {
    char *name = sg_conv_model_name(job->input);
    if (!name) return sg_fail(err, SG_E_NOMEM, "%s: no memory", job->input);
    sg_gguf_writer_str(w, "general.architecture", hp->arch);
    if (*name) sg_gguf_writer_str(w, "general.name", name);
    free(name);
    sg_gguf_writer_u32(w, "general.file_type", file_type(job->type));
    sg_gguf_writer_u32(w, "general.quantization_version", 2);
    if (!job->to_bin) sg_gguf_writer_u32(w, "general.alignment", ALIGNMENT); /* model.bin: its writer does it */
    for (size_t i = 0; i < hp->n_keys; i++) write_key(w, hp, &hp->keys[i]);
    return hp->failed ? sg_fail(err, SG_E_NOMEM, "%s: no memory for the keys", job->input) : SG_OK;
}

static bool is_blocks(const sg_conv_tensor *t) {
    return sg_conv_parts(t)->src == SG_CONV_SRC_MXFP4 && !sg_conv_parts(t)->values && t->op == SG_CONV_COPY;
}

/* Vectors (norms, biases, frequencies) stay F32; rows that are no whole blocks become F16. */
static uint64_t choose_types(const sg_conv_job *job, sg_conv_model *m) {
    const sg_dtype_info *info = sg_dtype_get(job->type);
    uint64_t total = 0;
    size_t fallen = 0;
    const char *example = "";
    for (size_t i = 0; i < m->n_tensors; i++) {
        sg_conv_tensor *t = &m->tensors[i];
        if (job->to_bin && sg_bin_cuts(m, t)) continue; /* sg_bin_choose does it */
        t->type = t->n_dims == 1 || t->keep_f32 ? SG_DTYPE_F32 : job->type;
        if (job->keep_blocks && is_blocks(t)) {
            t->type = SG_DTYPE_MXFP4;
        } else if (t->type != SG_DTYPE_F32 && t->ne[0] % info->block_values) {
            t->type = SG_DTYPE_F16;
            if (fallen++ == 0) example = t->name;
        }
        total += sg_dtype_bytes(sg_dtype_get(t->type), t->ne[0] * t->ne[1] * t->ne[2]);
    }
    if (fallen)
        sg_log_line(&job->log, SG_LOG_WARN,
                    "%zu tensors (%s first) are written as F16: their rows are no multiple of %u values", fallen,
                    example, info->block_values);
    return total;
}

sg_status sg_conv_write(const sg_conv_job *job, sg_conv_model *m, sg_error *err) {
    const uint64_t total = choose_types(job, m);
    if (job->to_bin) return sg_bin_from_conv(job, m, err);
    uint64_t done = 0;
    if (job->progress && !job->progress(job->user, 0, total))
        return sg_fail(err, SG_E_CANCELLED, "%s: the conversion was cancelled", job->output);
    sg_gguf_writer *w = NULL;
    sg_status status = sg_gguf_writer_create(job->output, ALIGNMENT, job->overwrite, &w, err);
    if (status != SG_OK) return status;
    status = sg_conv_write_metadata(job, &m->hp, w, err);
    if (status == SG_OK) status = sg_conv_vocab_write(&m->vocab, w, err);
    for (size_t i = 0; status == SG_OK && i < m->n_tensors; i++) {
        const sg_conv_tensor *t = &m->tensors[i];
        sg_gguf_writer_tensor(w, t->name, t->type, t->n_dims, t->ne);
    }
    if (status == SG_OK) status = sg_gguf_writer_begin_data(w, err);
    for (size_t i = 0; status == SG_OK && i < m->n_tensors; i++)
        status = sg_conv_stream(job, &m->tensors[i], w, SIZE_MAX, &done, total, err);
    if (status == SG_OK) status = sg_gguf_writer_finish(w, err);
    sg_gguf_writer_abort(&w);
    return status;
}
