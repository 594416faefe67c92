/* The model as a GGUF file: keys and tensor names as llama.cpp writes them. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/utf8.h"
#include "runtime/convert/bin_model.h"
#include "runtime/convert/convert.h"

#define ALIGNMENT 32 /* GGUF's default */

sg_conv_tensor *sg_conv_add_tensor(sg_conv_model *m, uint64_t ne0, uint64_t ne1, const char *fmt, ...) {
    if (m->n_tensors == m->cap_tensors) {
        const size_t cap = m->cap_tensors ? m->cap_tensors * 2 : 64;
        sg_conv_tensor *p = realloc(m->tensors, cap * sizeof *p);
        if (!p) return NULL;
        m->tensors = p;
        m->cap_tensors = cap;
    }
    sg_conv_tensor *t = &m->tensors[m->n_tensors++];
    *t = (sg_conv_tensor) { .n_dims = ne1 ? 2 : 1, .ne = { ne0, ne1 ? ne1 : 1 } };
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(t->name, sizeof t->name, fmt, ap);
    va_end(ap);
    return t;
}

void sg_conv_model_finish(sg_conv_model *m) {
    free(m->hp.rope_freqs);
    sg_conv_vocab_finish(&m->vocab);
    free(m->tensors);
    *m = (sg_conv_model) { 0 };
}

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

/* The key "ARCH.SUFFIX". */
typedef struct key {
    char text[96];
} key;
static key make_key(const sg_conv_hparams *hp, const char *suffix) {
    key k;
    snprintf(k.text, sizeof k.text, "%s.%s", hp->arch, suffix);
    return k;
}
static void u32(sg_gguf_writer *w, const sg_conv_hparams *hp, const char *suffix, uint32_t v) {
    sg_gguf_writer_u32(w, make_key(hp, suffix).text, v);
}
static void f32(sg_gguf_writer *w, const sg_conv_hparams *hp, const char *suffix, float v) {
    sg_gguf_writer_f32(w, make_key(hp, suffix).text, v);
}

static void write_rope(sg_gguf_writer *w, const sg_conv_hparams *hp) {
    u32(w, hp, "rope.dimension_count", hp->head_dim);
    f32(w, hp, "rope.freq_base", hp->rope_base);
    if (hp->rope == SG_CONV_ROPE_PLAIN) return;
    sg_gguf_writer_str(w, make_key(hp, "rope.scaling.type").text, hp->rope == SG_CONV_ROPE_YARN ? "yarn" : "linear");
    f32(w, hp, "rope.scaling.factor", hp->rope_factor);
    if (hp->n_ctx_orig) u32(w, hp, "rope.scaling.original_context_length", hp->n_ctx_orig);
    if (hp->rope_attn_factor > 0) f32(w, hp, "rope.scaling.attn_factor", hp->rope_attn_factor);
    if (hp->beta_fast > 0) f32(w, hp, "rope.scaling.yarn_beta_fast", hp->beta_fast);
    if (hp->beta_slow > 0) f32(w, hp, "rope.scaling.yarn_beta_slow", hp->beta_slow);
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

sg_status sg_conv_write_metadata(const sg_conv_job *job, const sg_conv_hparams *hp, sg_gguf_writer *w, sg_error *err) {
    char *name = sg_conv_model_name(job->input);
    if (!name) return sg_fail(err, SG_E_NOMEM, "%s: no memory", job->input);
    sg_gguf_writer_str(w, "general.architecture", hp->arch);
    if (*name) sg_gguf_writer_str(w, "general.name", name);
    free(name);
    sg_gguf_writer_u32(w, "general.file_type", file_type(job->type));
    sg_gguf_writer_u32(w, "general.quantization_version", 2);
    if (!job->to_bin) sg_gguf_writer_u32(w, "general.alignment", ALIGNMENT); /* model.bin: its writer does it */
    u32(w, hp, "context_length", hp->n_ctx);
    u32(w, hp, "embedding_length", hp->n_embd);
    u32(w, hp, "block_count", hp->n_layer);
    u32(w, hp, "feed_forward_length", hp->n_ff);
    u32(w, hp, "attention.head_count", hp->n_head);
    u32(w, hp, "attention.head_count_kv", hp->n_head_kv);
    u32(w, hp, "attention.key_length", hp->head_dim);
    u32(w, hp, "attention.value_length", hp->head_dim);
    f32(w, hp, "attention.layer_norm_rms_epsilon", hp->norm_eps);
    u32(w, hp, "vocab_size", hp->n_vocab);
    write_rope(w, hp);
    if (hp->ffn_act) sg_gguf_writer_str(w, "sparsegen.ffn_activation", hp->ffn_act);
    return SG_OK;
}

/* Vectors (norms, biases, frequencies) stay F32; rows that are no whole blocks become F16. */
static uint64_t choose_types(const sg_conv_job *job, sg_conv_model *m) {
    const sg_dtype_info *info = sg_dtype_get(job->type);
    uint64_t total = 0;
    size_t fallen = 0;
    const char *example = "";
    for (size_t i = 0; i < m->n_tensors; i++) {
        sg_conv_tensor *t = &m->tensors[i];
        t->type = t->n_dims == 1 ? SG_DTYPE_F32 : job->type;
        if (t->n_dims > 1 && t->ne[0] % info->block_values) {
            t->type = SG_DTYPE_F16;
            if (fallen++ == 0) example = t->name;
        }
        total += sg_dtype_bytes(sg_dtype_get(t->type), t->ne[0] * t->ne[1]);
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
        status = sg_conv_stream(job, &m->tensors[i], w, &done, total, err);
    if (status == SG_OK) status = sg_gguf_writer_finish(w, err);
    sg_gguf_writer_abort(&w);
    return status;
}
