/* Hugging Face folder: config.json, model.safetensors or shards with model.safetensors.index.json, tokenizer files. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/convert/file.h"
#include "runtime/convert/hf_config.h"
#include "runtime/convert/safetensors.h"

#define MAX_INDEX (64u << 20)
#define MAX_SHARDS 4096

/* ---- weights ------------------------------------------------------------------------------------------------------
 */

static bool plain_name(const char *s) {
    return s && *s && !strchr(s, '/') && strcmp(s, "..") != 0 && strcmp(s, ".") != 0;
}

/* Adds the shard unless an earlier entry of the index named it already. */
static sg_status add_shard(sg_st_set *set, const char *dir, const char *name, sg_error *err) {
    char *path = sg_file_join(dir, name);
    if (!path) return sg_fail(err, SG_E_NOMEM, "%s: no memory", dir);
    sg_status status = SG_OK;
    bool known = false;
    for (size_t i = 0; i < set->n_paths && !known; i++) known = strcmp(set->paths[i], path) == 0;
    if (!known && set->n_paths == MAX_SHARDS)
        status = sg_fail(err, SG_E_UNSUPPORTED, "%s: more than %d shards", dir, MAX_SHARDS);
    else if (!known)
        status = sg_st_add_file(set, path, err);
    free(path);
    return status;
}

/* {"weight_map": {"tensor": "shard"}}: opens the shards; each tensor must be in the one that is named. */
static sg_status open_shards(sg_st_set *set, const char *dir, const char *index, sg_error *err) {
    cJSON *json = NULL;
    SG_TRY(sg_json_read(index, MAX_INDEX, &json, err));
    const cJSON *map = sg_json_get(json, "weight_map"), *e;
    sg_status status = SG_OK;
    if (!cJSON_IsObject(map) || !map->child) status = sg_fail(err, SG_E_FORMAT, "%s: has no weight_map", index);
    const char *last = "";
    cJSON_ArrayForEach(e, map) {
        const char *name = cJSON_GetStringValue(e);
        if (!plain_name(name))
            status = sg_fail(err, SG_E_FORMAT, "%s: tensor %.100s is in no valid file name", index, e->string);
        else if (strcmp(name, last) != 0)
            status = add_shard(set, dir, name, err);
        if (status != SG_OK) break;
        last = name;
    }
    if (status == SG_OK) status = sg_st_sort(set, err);
    if (status == SG_OK) {
        cJSON_ArrayForEach(e, map) {
            const sg_st_tensor *t = sg_st_find(set, e->string);
            const char *slash = t ? strrchr(t->path, '/') : NULL;
            if (slash && strcmp(slash + 1, e->valuestring) == 0) continue;
            status = sg_fail(err, SG_E_FORMAT, "%s: tensor %.100s is not in %.100s", index, e->string, e->valuestring);
            break;
        }
    }
    cJSON_Delete(json);
    return status;
}

static sg_status open_weights(sg_st_set *set, const char *dir, sg_error *err) {
    char *single = sg_file_join(dir, "model.safetensors"), *index = sg_file_join(dir, "model.safetensors.index.json");
    char *torch = sg_file_join(dir, "pytorch_model.bin");
    sg_status status;
    if (!single || !index || !torch) {
        status = sg_fail(err, SG_E_NOMEM, "%s: no memory", dir);
    } else if (sg_file_exists(single)) {
        status = sg_st_add_file(set, single, err);
        if (status == SG_OK) status = sg_st_sort(set, err);
    } else if (sg_file_exists(index)) {
        status = open_shards(set, dir, index, err);
    } else if (sg_file_exists(torch)) {
        status = sg_fail(err, SG_E_UNSUPPORTED,
                         "%s: holds weights as pytorch_model.bin; save them as safetensors first", dir);
    } else {
        status =
            sg_fail(err, SG_E_NOT_FOUND, "%s: holds neither model.safetensors nor model.safetensors.index.json", dir);
    }
    free(single);
    free(index);
    free(torch);
    return status;
}

/* ---- tensors ------------------------------------------------------------------------------------------------------
 */

typedef enum need { ALWAYS, IF_QKV_BIAS, IF_O_BIAS, IF_QK_NORM } need;
typedef enum dim { ONE, EMBD, FF, VOCAB, QUERY, KEY, HEAD } dim;

typedef struct rule {
    const char *hf, *gguf; /* what follows "model.layers.N." and "blk.N." */
    dim rows, cols;        /* rows == ONE: a vector of `cols` */
    need need;
} rule;

static const rule layer_rules[] = {
    { "input_layernorm.weight", "attn_norm.weight", ONE, EMBD, ALWAYS },
    { "self_attn.q_proj.weight", "attn_q.weight", QUERY, EMBD, ALWAYS },
    { "self_attn.q_proj.bias", "attn_q.bias", ONE, QUERY, IF_QKV_BIAS },
    { "self_attn.k_proj.weight", "attn_k.weight", KEY, EMBD, ALWAYS },
    { "self_attn.k_proj.bias", "attn_k.bias", ONE, KEY, IF_QKV_BIAS },
    { "self_attn.v_proj.weight", "attn_v.weight", KEY, EMBD, ALWAYS },
    { "self_attn.v_proj.bias", "attn_v.bias", ONE, KEY, IF_QKV_BIAS },
    { "self_attn.q_norm.weight", "attn_q_norm.weight", ONE, HEAD, IF_QK_NORM },
    { "self_attn.k_norm.weight", "attn_k_norm.weight", ONE, HEAD, IF_QK_NORM },
    { "self_attn.o_proj.weight", "attn_output.weight", EMBD, QUERY, ALWAYS },
    { "self_attn.o_proj.bias", "attn_output.bias", ONE, EMBD, IF_O_BIAS },
    { "post_attention_layernorm.weight", "ffn_norm.weight", ONE, EMBD, ALWAYS },
    { "mlp.gate_proj.weight", "ffn_gate.weight", FF, EMBD, ALWAYS },
    { "mlp.up_proj.weight", "ffn_up.weight", FF, EMBD, ALWAYS },
    { "mlp.down_proj.weight", "ffn_down.weight", EMBD, FF, ALWAYS },
};

typedef struct builder {
    const char *dir;
    sg_hf_config config;
    sg_st_set set;
    sg_conv_model m;
} builder;

static uint64_t dim_value(const sg_conv_hparams *hp, dim d) {
    switch (d) {
    case ONE: return 1;
    case EMBD: return hp->n_embd;
    case FF: return hp->n_ff;
    case VOCAB: return hp->n_vocab;
    case QUERY: return (uint64_t)hp->n_head * hp->head_dim;
    case KEY: return (uint64_t)hp->n_head_kv * hp->head_dim;
    case HEAD: return hp->head_dim;
    }
    return 0;
}

static bool needed(const sg_hf_config *c, need n) {
    switch (n) {
    case ALWAYS: return true;
    case IF_QKV_BIAS: return c->qkv_bias;
    case IF_O_BIAS: return c->o_bias;
    case IF_QK_NORM: return c->arch->qk_norm;
    }
    return false;
}

/* "[4, 5]" */
static void print_shape(char *out, size_t size, const uint64_t *dims, uint32_t n) {
    size_t at = (size_t)snprintf(out, size, "[");
    for (uint32_t i = 0; i < n && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%llu", i ? ", " : "", (unsigned long long)dims[i]);
    if (at < size) snprintf(out + at, size - at, "]");
}

static sg_status add_tensor(builder *b, const rule *r, const char *hf_name, const char *gguf_name, sg_error *err) {
    const uint64_t want[2] = { dim_value(&b->m.hp, r->rows), dim_value(&b->m.hp, r->cols) };
    const uint32_t n_dims = r->rows == ONE ? 1 : 2;
    const uint64_t *wanted = want + 2 - n_dims;
    sg_st_tensor *s = sg_st_find(&b->set, hf_name);
    if (!s) return sg_fail(err, SG_E_FORMAT, "%s: tensor %s is missing", b->dir, hf_name);
    if (s->n_dims != n_dims || memcmp(s->dims, wanted, n_dims * sizeof *wanted) != 0) {
        char found[200], expected[64];
        print_shape(found, sizeof found, s->dims, s->n_dims);
        print_shape(expected, sizeof expected, wanted, n_dims);
        return sg_fail(err, SG_E_FORMAT, "%s: tensor %s has the shape %s, %s is needed", s->path, hf_name, found,
                       expected);
    }
    sg_conv_tensor *t = sg_conv_add_tensor(&b->m, want[1], n_dims == 2 ? want[0] : 0, "%s", gguf_name);
    if (!t) return sg_fail(err, SG_E_NOMEM, "%s: no memory for the list of tensors", b->dir);
    if (strcmp(s->dtype, "F32") == 0)
        t->src = SG_CONV_SRC_F32;
    else if (strcmp(s->dtype, "F16") == 0)
        t->src = SG_CONV_SRC_F16;
    else if (strcmp(s->dtype, "BF16") == 0)
        t->src = SG_CONV_SRC_BF16;
    else
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: tensor %s has dtype %s (F32, F16 and BF16 are known)", s->path,
                       hf_name, s->dtype);
    t->path = s->path;
    t->offset = s->offset;
    s->used = true;
    return SG_OK;
}

static sg_status add_layer(builder *b, uint32_t layer, sg_error *err) {
    for (size_t i = 0; i < sizeof layer_rules / sizeof *layer_rules; i++) {
        const rule *r = &layer_rules[i];
        if (!needed(&b->config, r->need)) continue;
        char hf[96], gguf[64];
        snprintf(hf, sizeof hf, "model.layers.%u.%s", layer, r->hf);
        snprintf(gguf, sizeof gguf, "blk.%u.%s", layer, r->gguf);
        SG_TRY(add_tensor(b, r, hf, gguf, err));
        sg_conv_tensor *t = &b->m.tensors[b->m.n_tensors - 1];
        if (!b->config.arch->pairs_rows) continue;
        if (strncmp(r->gguf, "attn_q.", 7) == 0) t->n_pair_heads = b->m.hp.n_head;
        if (strncmp(r->gguf, "attn_k.", 7) == 0) t->n_pair_heads = b->m.hp.n_head_kv;
    }
    return SG_OK;
}

/* Leaving a tensor out would give wrong text, so every one must be accounted for. */
static sg_status check_leftovers(const builder *b, sg_error *err) {
    for (size_t i = 0; i < b->set.n; i++) {
        const sg_st_tensor *t = &b->set.tensors[i];
        const char *inv = strstr(t->name, ".rotary_emb.inv_freq"); /* computed from the configuration */
        if (t->used || inv || (b->config.tied && strcmp(t->name, "lm_head.weight") == 0)) continue;
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: tensor %.100s is not part of %s", t->path, t->name,
                       b->config.arch->name);
    }
    return SG_OK;
}

static sg_status add_all(builder *b, const sg_log *log, sg_error *err) {
    static const rule embedding = { NULL, NULL, VOCAB, EMBD, ALWAYS }, norm = { NULL, NULL, ONE, EMBD, ALWAYS };
    if (!b->config.says_tied && !sg_st_find(&b->set, "lm_head.weight")) {
        b->config.tied = true;
        sg_log_line(log, SG_LOG_INFO, "%s: has no lm_head.weight, so the output shares the embedding", b->dir);
    }
    SG_TRY(add_tensor(b, &embedding, "model.embed_tokens.weight", "token_embd.weight", err));
    if (b->m.hp.rope_freqs) {
        sg_conv_tensor *t = sg_conv_add_tensor(&b->m, b->m.hp.head_dim / 2, 0, "rope_freqs.weight");
        if (!t) return sg_fail(err, SG_E_NOMEM, "%s: no memory for the list of tensors", b->dir);
        t->values = b->m.hp.rope_freqs;
    }
    for (uint32_t l = 0; l < b->m.hp.n_layer; l++) SG_TRY(add_layer(b, l, err));
    SG_TRY(add_tensor(b, &norm, "model.norm.weight", "output_norm.weight", err));
    if (!b->config.tied) SG_TRY(add_tensor(b, &embedding, "lm_head.weight", "output.weight", err));
    return check_leftovers(b, err);
}

sg_status sg_conv_hf(const sg_conv_job *job, sg_error *err) {
    builder b = { .dir = job->input };
    char *config = sg_file_join(b.dir, "config.json");
    if (!config) return sg_fail(err, SG_E_NOMEM, "%s: no memory", b.dir);
    sg_status status = sg_hf_config_read(config, &job->log, &b.config, &b.m.hp, err);
    free(config);
    if (status == SG_OK) status = open_weights(&b.set, b.dir, err);
    if (status == SG_OK) status = add_all(&b, &job->log, err);
    if (status == SG_OK) status = sg_conv_vocab_init(&b.m.vocab, b.m.hp.n_vocab, err);
    if (status == SG_OK) status = sg_conv_vocab_read_hf_folder(&b.m.vocab, b.dir, job->tokenizer, &job->log, err);
    if (status == SG_OK) status = sg_conv_write(job, &b.m, err);
    sg_conv_model_finish(&b.m);
    sg_st_finish(&b.set);
    return status;
}
