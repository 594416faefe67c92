/* Checkpoints of llama2.c, versions 0 (F32, no magic number), 1 (F32) and 2 (int8 with a scale per group, flattened).
 * Layout: https://github.com/karpathy/llama2.c, export.py. Rotary pairs are neighbours there, as in GGUF: nothing is
 * permuted. Fixed by the program: RMS epsilon 1e-5, rotary base 10000, SiLU. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/convert/convert.h"
#include "runtime/convert/file.h"

#define MAGIC 0x616b3432u /* "ak42" */
#define HEADER_V0 28u
#define HEADER_V1 256u

enum { TOK, ATTN_NORM, Q, K, V, O, FFN_NORM, W1, W2, W3, NORM, OUT, KINDS };

/* Kinds in the order of the file; all layers of one kind follow each other. Version 0 has two tables of rotary factors
 * before the last one, which the model does not need. */
static const uint8_t order_v0[KINDS] = { TOK, ATTN_NORM, Q, K, V, O, FFN_NORM, W1, W2, W3, NORM, OUT };
static const uint8_t order_v1[KINDS] = { ATTN_NORM, FFN_NORM, NORM, TOK, Q, K, V, O, W1, W2, W3, OUT };
/* ... and in the order they are written. */
static const uint8_t layer_order[] = { ATTN_NORM, Q, K, V, O, FFN_NORM, W1, W3, W2 };

static const char *const names[KINDS] = {
    "token_embd.weight",      "blk.%u.attn_norm.weight",   "blk.%u.attn_q.weight",   "blk.%u.attn_k.weight",
    "blk.%u.attn_v.weight",   "blk.%u.attn_output.weight", "blk.%u.ffn_norm.weight", "blk.%u.ffn_gate.weight",
    "blk.%u.ffn_down.weight", "blk.%u.ffn_up.weight",      "output_norm.weight",     "output.weight",
};

typedef struct dims {
    uint32_t n_embd, n_ff, n_layer, n_head, n_head_kv, head_dim, n_vocab, n_ctx;
} dims;

typedef struct checkpoint {
    const char *path;
    uint64_t size; /* of the file */
    uint32_t version, group;
    bool tied;
    uint64_t ne[KINDS][2]; /* shape, ne[1] == 0: a vector */
    uint64_t base[KINDS];  /* offset of the first one in the file */
} checkpoint;

static bool per_layer(int kind) { return kind != TOK && kind != NORM && kind != OUT; }
static uint64_t n_values(const checkpoint *c, int kind) {
    return c->ne[kind][0] * (c->ne[kind][1] ? c->ne[kind][1] : 1);
}
static bool is_int8(const checkpoint *c, int kind) { return c->version == 2 && c->ne[kind][1] > 0; }

static uint64_t n_bytes(const checkpoint *c, int kind) {
    const uint64_t n = n_values(c, kind);
    return is_int8(c, kind) ? n + n / c->group * 4 : n * 4;
}

static sg_status check_dims(const char *path, const int32_t p[7], dims *hp, bool *tied, sg_error *err) {
    static const char *const what[7] = { "dim",        "hidden_dim", "n_layers", "n_heads",
                                         "n_kv_heads", "vocab_size", "seq_len" };
    static const uint32_t most[7] = { SG_CONV_MAX_DIM,   SG_CONV_MAX_DIM, SG_CONV_MAX_LAYERS, 65536, 65536,
                                      SG_CONV_MAX_VOCAB, 1u << 24 };
    for (int i = 0; i < 7; i++) {
        const int64_t v = i == 5 && p[i] < 0 ? -(int64_t)p[i] : p[i];
        if (v < 1 || v > most[i])
            return sg_fail(err, SG_E_FORMAT, "%s: is no llama2.c checkpoint: %s would be %d", path, what[i], p[i]);
    }
    *tied = *tied && p[5] > 0;
    *hp = (dims) { .n_embd = (uint32_t)p[0],
                   .n_ff = (uint32_t)p[1],
                   .n_layer = (uint32_t)p[2],
                   .n_head = (uint32_t)p[3],
                   .n_head_kv = (uint32_t)p[4],
                   .n_vocab = (uint32_t)abs(p[5]),
                   .n_ctx = (uint32_t)p[6] };
    hp->head_dim = hp->n_embd / hp->n_head;
    if (hp->n_embd % hp->n_head || hp->n_head % hp->n_head_kv || hp->head_dim % 2)
        return sg_fail(err, SG_E_FORMAT,
                       "%s: is no llama2.c checkpoint: dim %u, %u heads and %u key/value heads do not fit", path,
                       hp->n_embd, hp->n_head, hp->n_head_kv);
    return SG_OK;
}

static sg_status read_header(checkpoint *c, int fd, dims *hp, sg_error *err) {
    uint8_t raw[45] = { 0 };
    int32_t p[7];
    uint32_t magic;
    if (c->size < HEADER_V0) return sg_fail(err, SG_E_FORMAT, "%s: is too short for a llama2.c checkpoint", c->path);
    SG_TRY(sg_file_read_at(fd, c->path, raw, c->size < sizeof raw ? c->size : sizeof raw, 0, err));
    memcpy(&magic, raw, 4);
    if (magic != MAGIC) {
        memcpy(p, raw, sizeof p);
        c->tied = true; /* unless vocab_size is negative */
        return check_dims(c->path, p, hp, &c->tied, err);
    }
    memcpy(&c->version, raw + 4, 4);
    if (c->version != 1 && c->version != 2)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: is a llama2.c checkpoint of version %u (0, 1 and 2 are known)",
                       c->path, c->version);
    if (c->size < HEADER_V1) return sg_fail(err, SG_E_FORMAT, "%s: ends inside its header", c->path);
    memcpy(p, raw + 8, sizeof p);
    c->tied = raw[36] != 0;
    memcpy(&c->group, raw + 37, 4);
    if (c->version == 2 && (c->group < 1 || c->group > SG_CONV_MAX_DIM))
        return sg_fail(err, SG_E_FORMAT, "%s: the group size %u is impossible", c->path, c->group);
    if (p[5] < 0) p[5] = 0; /* the sign means something in version 0 only */
    return check_dims(c->path, p, hp, &c->tied, err);
}

/* Finds every tensor in the file; its size must be exactly right. */
static sg_status lay_out(checkpoint *c, const dims *hp, sg_error *err) {
    const uint64_t d = hp->n_embd, ff = hp->n_ff, kv = (uint64_t)hp->n_head_kv * hp->head_dim;
    const uint64_t shapes[KINDS][2] = {
        [TOK] = { d, hp->n_vocab },
        [ATTN_NORM] = { d, 0 },
        [Q] = { d, d },
        [K] = { d, kv },
        [V] = { d, kv },
        [O] = { d, d },
        [FFN_NORM] = { d, 0 },
        [W1] = { d, ff },
        [W2] = { ff, d },
        [W3] = { d, ff },
        [NORM] = { d, 0 },
        [OUT] = { d, hp->n_vocab },
    };
    memcpy(c->ne, shapes, sizeof shapes);
    uint64_t at = c->version == 0 ? HEADER_V0 : HEADER_V1;
    for (int i = 0; i < KINDS; i++) {
        const int kind = c->version == 0 ? order_v0[i] : order_v1[i];
        if (is_int8(c, kind) && n_values(c, kind) % c->group)
            return sg_fail(err, SG_E_FORMAT, "%s: the group size %u does not divide a tensor of %llu values", c->path,
                           c->group, (unsigned long long)n_values(c, kind));
        if (kind == OUT && c->version == 0) at += (uint64_t)hp->n_ctx * hp->head_dim * 4;
        c->base[kind] = at;
        if (kind != OUT || !c->tied) at += n_bytes(c, kind) * (per_layer(kind) ? hp->n_layer : 1);
    }
    if (at != c->size)
        return sg_fail(err, SG_E_FORMAT, "%s: has %llu bytes, a llama2.c checkpoint with this header has %llu", c->path,
                       (unsigned long long)c->size, (unsigned long long)at);
    return SG_OK;
}

static bool add(sg_conv_model *m, const checkpoint *c, int kind, uint32_t layer) {
    char name[64];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(name, sizeof name, names[kind], layer);
#pragma GCC diagnostic pop
    sg_conv_tensor *t = sg_conv_add_tensor(m, c->ne[kind][0], c->ne[kind][1], 0, "%s", name);
    if (!t) return false;
    sg_conv_part *p = &t->one;
    p->path = c->path;
    p->offset = c->base[kind] + layer * n_bytes(c, kind);
    p->src = is_int8(c, kind) ? SG_CONV_SRC_INT8 : SG_CONV_SRC_F32;
    p->group = c->group;
    p->scale_offset = p->offset + n_values(c, kind);
    return true;
}

static sg_status add_all(sg_conv_model *m, const checkpoint *c, sg_error *err) {
    bool ok = add(m, c, TOK, 0);
    for (uint32_t l = 0; l < m->hp.n_layer; l++)
        for (size_t i = 0; i < sizeof layer_order; i++) ok = ok && add(m, c, layer_order[i], l);
    ok = ok && add(m, c, NORM, 0);
    if (!c->tied) ok = ok && add(m, c, OUT, 0);
    return ok ? SG_OK : sg_fail(err, SG_E_NOMEM, "%s: no memory for the list of tensors", c->path);
}

static void set_keys(const dims *d, sg_conv_hparams *hp) {
    hp->arch = "llama";
    hp->n_layer = d->n_layer;
    hp->n_vocab = d->n_vocab;
    sg_conv_set_u32(hp, "context_length", d->n_ctx);
    sg_conv_set_u32(hp, "embedding_length", d->n_embd);
    sg_conv_set_u32(hp, "block_count", d->n_layer);
    sg_conv_set_u32(hp, "feed_forward_length", d->n_ff);
    sg_conv_set_u32(hp, "attention.head_count", d->n_head);
    sg_conv_set_u32(hp, "attention.head_count_kv", d->n_head_kv);
    sg_conv_set_u32(hp, "attention.key_length", d->head_dim);
    sg_conv_set_u32(hp, "attention.value_length", d->head_dim);
    sg_conv_set_f32(hp, "attention.layer_norm_rms_epsilon", 1e-5f);
    sg_conv_set_u32(hp, "vocab_size", d->n_vocab);
    sg_conv_set_u32(hp, "rope.dimension_count", d->head_dim);
    sg_conv_set_f32(hp, "rope.freq_base", 10000.0f);
}

static bool ends_with(const char *s, const char *end) {
    const size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

/* The first that exists beside the checkpoint: tok512.bin (named after the vocabulary, as llama2.c's trainer does),
 * tokenizer.bin, tokenizer.model. Allocated. */
static sg_status find_tokenizer(const sg_conv_job *job, uint32_t n_vocab, char **out, sg_error *err) {
    char *dir = strdup(job->input), numbered[32];
    if (!dir) return sg_fail(err, SG_E_NOMEM, "%s: no memory", job->input);
    char *slash = strrchr(dir, '/');
    if (slash == dir)
        slash[1] = 0;
    else if (slash)
        *slash = 0;
    snprintf(numbered, sizeof numbered, "tok%u.bin", n_vocab);
    const char *const candidates[] = { numbered, "tokenizer.bin", "tokenizer.model" };
    *out = NULL;
    for (size_t i = 0; i < sizeof candidates / sizeof *candidates; i++) {
        *out = sg_file_join(slash ? dir : ".", candidates[i]);
        if (!*out || sg_file_exists(*out)) break;
        free(*out);
        *out = NULL;
    }
    free(dir);
    if (*out) return SG_OK;
    return sg_fail(err, SG_E_NOT_FOUND,
                   "%s: there is no %s, tokenizer.bin or tokenizer.model beside it; name a tokenizer file", job->input,
                   numbered);
}

static sg_status read_vocab(const sg_conv_job *job, sg_conv_model *m, sg_error *err) {
    SG_TRY(sg_conv_vocab_init(&m->vocab, m->hp.n_vocab, err));
    char *path = NULL;
    if (job->tokenizer)
        path = strdup(job->tokenizer);
    else
        SG_TRY(find_tokenizer(job, m->hp.n_vocab, &path, err));
    if (!path) return sg_fail(err, SG_E_NOMEM, "%s: no memory", job->input);
    sg_status status;
    if (ends_with(path, ".model"))
        status = sg_conv_vocab_read_spm(&m->vocab, path, err);
    else if (ends_with(path, ".json"))
        status = sg_conv_vocab_read_hf_json(&m->vocab, path, &job->log, err);
    else
        status = sg_conv_vocab_read_llama2c(&m->vocab, path, err);
    if (status == SG_OK) sg_log_line(&job->log, SG_LOG_INFO, "vocabulary from %s", path);
    free(path);
    return status;
}

sg_status sg_conv_llama2c(const sg_conv_job *job, sg_error *err) {
    sg_conv_model m = { 0 };
    checkpoint c = { .path = job->input };
    dims d = { 0 };
    int fd;
    SG_TRY(sg_file_open(c.path, &fd, &c.size, err));
    sg_status status = read_header(&c, fd, &d, err);
    close(fd);
    if (status == SG_OK) status = lay_out(&c, &d, err);
    if (status == SG_OK) set_keys(&d, &m.hp);
    if (status == SG_OK) status = add_all(&m, &c, err);
    if (status == SG_OK) status = read_vocab(job, &m, err);
    if (status == SG_OK) status = sg_conv_write(job, &m, err);
    sg_conv_model_finish(&m);
    return status;
}
