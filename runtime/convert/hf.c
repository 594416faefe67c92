/* Hugging Face folder: config.json, model.safetensors or shards with model.safetensors.index.json, tokenizer files. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/convert/file.h"
#include "runtime/convert/hf_config.h"
#include "runtime/convert/safetensors.h"

#define MAX_INDEX (64u << 20)
#define MAX_SHARDS 4096

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

sg_status sg_conv_hf(const sg_conv_job *job, sg_error *err) {
    const char *dir = job->input;
    sg_hf_config c = { 0 };
    sg_st_set set = { 0 };
    sg_conv_model m = { 0 };
    char *config = sg_file_join(dir, "config.json");
    if (!config) return sg_fail(err, SG_E_NOMEM, "%s: no memory", dir);
    sg_status status = sg_hf_config_read(config, &job->log, &c, &m, err);
    free(config);
    if (status == SG_OK) status = open_weights(&set, dir, err);
    if (status == SG_OK) status = sg_hf_add_tensors(dir, &c, &set, &m, &job->log, err);
    if (status == SG_OK) status = sg_conv_vocab_init(&m.vocab, m.hp.n_vocab, err);
    if (status == SG_OK) status = sg_conv_vocab_read_hf_folder(&m.vocab, dir, job->tokenizer, &job->log, err);
    if (status == SG_OK) status = sg_conv_write(job, &m, err);
    sg_conv_model_finish(&m);
    sg_st_finish(&set);
    sg_hf_config_finish(&c);
    return status;
}
