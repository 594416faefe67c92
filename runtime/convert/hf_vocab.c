/* The vocabulary of a Hugging Face folder: which file holds it, and what tokenizer_config.json says about it. */
#include "runtime/convert/hf_vocab.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/utf8.h"
#include "runtime/convert/file.h"

#define MAX_JSON (128u << 20)
#define MAX_TEMPLATE (4u << 20)

typedef struct folder {
    sg_conv_vocab *v;
    const char *dir;
    const sg_log *log;
} folder;

/* Path of `name` in the folder, allocated; *there tells whether it exists. */
static sg_status locate(const folder *f, const char *name, char **path, bool *there, sg_error *err) {
    *path = sg_file_join(f->dir, name);
    *there = *path && sg_file_exists(*path);
    return *path ? SG_OK : sg_fail(err, SG_E_NOMEM, "%s: no memory", f->dir);
}

/* JSON of `name` in the folder; *out NULL when there is none. *path is allocated. */
static sg_status optional_json(const folder *f, const char *name, char **path, cJSON **out, sg_error *err) {
    bool there;
    *out = NULL;
    SG_TRY(locate(f, name, path, &there, err));
    return there ? sg_json_read(*path, MAX_JSON, out, err) : SG_OK;
}

/* A SentencePiece model begins with the tag of its first piece; files of that name by tiktoken are text. */
static bool looks_like_spm(const char *path) {
    int fd;
    uint64_t size;
    uint8_t first = 0;
    if (sg_file_open(path, &fd, &size, NULL) != SG_OK) return false;
    const bool ok = sg_file_read_at(fd, path, &first, 1, 0, NULL) == SG_OK && first == 0x0A;
    close(fd);
    return ok;
}

/* added_tokens_decoder of tokenizer_config.json: {"32000": {"content": .., "special": ..}}. */
static sg_status add_decoder_tokens(const folder *f, const cJSON *config, const char *path, sg_error *err) {
    const cJSON *e;
    cJSON_ArrayForEach(e, sg_json_get(config, "added_tokens_decoder")) {
        char *end;
        const double id = e->string ? strtod(e->string, &end) : -1;
        bool special = false;
        SG_TRY(sg_json_bool(e, path, "special", &special, err));
        SG_TRY(sg_conv_vocab_add_token(f->v, e->string && *e->string && !*end ? id : -1, sg_json_get(e, "content"),
                                       special, path, f->log, err));
    }
    return SG_OK;
}

/* Tokens that were added to a SentencePiece model are in the JSON files beside it. */
static sg_status add_to_spm(const folder *f, sg_error *err) {
    char *path = NULL;
    cJSON *json = NULL;
    sg_status status = optional_json(f, "tokenizer.json", &path, &json, err);
    if (status == SG_OK && json) status = sg_conv_vocab_add_json_tokens(f->v, json, path, f->log, err);
    const bool done = json != NULL;
    cJSON_Delete(json);
    free(path);
    if (status != SG_OK || done) return status;
    status = optional_json(f, "tokenizer_config.json", &path, &json, err);
    if (status == SG_OK && json) status = add_decoder_tokens(f, json, path, err);
    cJSON_Delete(json);
    free(path);
    return status;
}

/* "bos_token": a string, or an object with its "content". */
static void named_token(const folder *f, const cJSON *config, const char *key, int32_t *id) {
    const char *text = sg_json_str(config, key);
    if (!text) text = sg_json_str(sg_json_get(config, key), "content");
    const int32_t found = text ? sg_conv_vocab_find(f->v, text) : -1;
    if (found >= 0) *id = found;
}

/* Special tokens of the older form are ordinary ones in vocab.json; the settings name them. */
static void mark_special(const folder *f, const cJSON *config) {
    static const char *const keys[] = { "bos_token", "eos_token", "unk_token", "pad_token" };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        int32_t id = -1;
        named_token(f, config, keys[i], &id);
        if (id >= 0) f->v->types[id] = SG_TOK_CONTROL;
    }
}

/* vocab.json with merges.txt, and what tokenizer_config.json adds. *done: they are there. */
static sg_status read_pair(const folder *f, bool *done, sg_error *err) {
    char *vocab = NULL, *merges = NULL, *path = NULL;
    cJSON *json = NULL;
    bool has_vocab = false, has_merges = false;
    sg_status status = locate(f, "vocab.json", &vocab, &has_vocab, err);
    if (status == SG_OK) status = locate(f, "merges.txt", &merges, &has_merges, err);
    *done = has_vocab && has_merges;
    if (status == SG_OK && *done) status = optional_json(f, "tokenizer_config.json", &path, &json, err);
    const char *class = sg_json_str(json, "tokenizer_class");
    if (status == SG_OK && *done && class && strncmp(class, "GPT2", 4) != 0)
        status = sg_fail(err, SG_E_UNSUPPORTED, "%s: vocab.json of a %.60s is not known without a tokenizer.json", f->dir, class);
    if (status == SG_OK && *done) status = sg_conv_vocab_read_hf_pair(f->v, vocab, merges, f->log, err);
    if (status == SG_OK && *done) status = add_decoder_tokens(f, json, path, err);
    if (status == SG_OK && *done) mark_special(f, json);
    if (status == SG_OK && *done) sg_log_line(f->log, SG_LOG_INFO, "vocabulary from %s and merges.txt", vocab);
    cJSON_Delete(json);
    free(path);
    free(merges);
    free(vocab);
    return status;
}

static sg_status read_any(const folder *f, const char *spm, bool has_spm, const char *json, bool has_json,
                          sg_error *err) {
    if (has_spm && looks_like_spm(spm)) {
        SG_TRY(sg_conv_vocab_read_spm(f->v, spm, err));
        SG_TRY(add_to_spm(f, err));
        sg_log_line(f->log, SG_LOG_INFO, "vocabulary from %s", spm);
        return SG_OK;
    }
    if (has_json) {
        SG_TRY(sg_conv_vocab_read_hf_json(f->v, json, f->log, err));
        sg_log_line(f->log, SG_LOG_INFO, "vocabulary from %s", json);
        return SG_OK;
    }
    bool done = false;
    SG_TRY(read_pair(f, &done, err));
    if (done) return SG_OK;
    if (has_spm)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: is no SentencePiece model, and there is no tokenizer.json", spm);
    return sg_fail(err, SG_E_NOT_FOUND, "%s: holds neither tokenizer.json nor tokenizer.model", f->dir);
}

static sg_status find_vocab(const folder *f, sg_error *err) {
    char *spm = NULL, *json = NULL;
    bool has_spm, has_json;
    sg_status status = locate(f, "tokenizer.model", &spm, &has_spm, err);
    if (status == SG_OK) status = locate(f, "tokenizer.json", &json, &has_json, err);
    if (status == SG_OK) status = read_any(f, spm, has_spm, json, has_json, err);
    free(spm);
    free(json);
    return status;
}

/* "eos_token_id" of config.json: a number or a list of them; used where the tokenizer names none. */
static void numbered_token(const folder *f, const cJSON *config, const char *key, int32_t *id) {
    const cJSON *v = sg_json_get(config, key);
    if (cJSON_IsArray(v)) v = v->child;
    if (*id < 0 && cJSON_IsNumber(v) && v->valuedouble >= 0 && v->valuedouble < f->v->n) *id = (int32_t)v->valuedouble;
}

/* A string, or a list of {"name": .., "template": ..} with one named "default". */
static const char *chat_template(const cJSON *config) {
    const cJSON *v = sg_json_get(config, "chat_template"), *e;
    if (!cJSON_IsArray(v)) return cJSON_GetStringValue(v);
    cJSON_ArrayForEach(e, v) {
        const char *name = sg_json_str(e, "name");
        if (name && strcmp(name, "default") == 0) return sg_json_str(e, "template");
    }
    return NULL;
}

static sg_status read_template(const folder *f, const cJSON *config, sg_error *err) {
    char *path = NULL;
    bool there;
    sg_status status = locate(f, "chat_template.jinja", &path, &there, err);
    if (status == SG_OK && there) {
        sg_str text;
        status = sg_file_read(path, MAX_TEMPLATE, &text, err);
        if (status == SG_OK && (memchr(text.data, 0, text.len) || sg_utf8_check(text.data, text.len) != text.len))
            status = sg_fail(err, SG_E_FORMAT, "%s: is no UTF-8 text", path);
        if (status != SG_OK)
            free(text.data);
        else
            f->v->chat_template = text.data;
    } else if (status == SG_OK) {
        const char *text = chat_template(config);
        f->v->chat_template = text ? strdup(text) : NULL;
        if (text && !f->v->chat_template) status = sg_fail(err, SG_E_NOMEM, "%s: no memory", f->dir);
    }
    free(path);
    return status;
}

static sg_status read_settings(const folder *f, sg_error *err) {
    char *path = NULL;
    cJSON *json = NULL;
    sg_conv_vocab *v = f->v;
    sg_status status = optional_json(f, "tokenizer_config.json", &path, &json, err);
    if (status == SG_OK && json) {
        named_token(f, json, "bos_token", &v->bos);
        named_token(f, json, "eos_token", &v->eos);
        named_token(f, json, "unk_token", &v->unk);
        named_token(f, json, "pad_token", &v->pad);
        status = sg_json_bool(json, path, "add_bos_token", &v->add_bos, err);
        if (status == SG_OK) status = sg_json_bool(json, path, "add_eos_token", &v->add_eos, err);
    }
    if (status == SG_OK) status = read_template(f, json, err);
    cJSON_Delete(json);
    free(path);
    if (status != SG_OK) return status;
    status = optional_json(f, "config.json", &path, &json, err);
    if (status == SG_OK && json) {
        numbered_token(f, json, "bos_token_id", &v->bos);
        numbered_token(f, json, "eos_token_id", &v->eos);
        numbered_token(f, json, "pad_token_id", &v->pad);
        const cJSON *text = sg_json_get(json, "text_config"); /* of a model that also sees */
        numbered_token(f, text, "bos_token_id", &v->bos);
        numbered_token(f, text, "eos_token_id", &v->eos);
    }
    cJSON_Delete(json);
    free(path);
    v->add_bos = v->add_bos && v->bos >= 0;
    v->add_eos = v->add_eos && v->eos >= 0;
    return status;
}

sg_status sg_conv_vocab_read_hf_folder(sg_conv_vocab *v, const char *dir, const char *tokenizer, const sg_log *log,
                                       sg_error *err) {
    const folder f = { v, dir, log };
    if (!tokenizer)
        SG_TRY(find_vocab(&f, err));
    else if (looks_like_spm(tokenizer))
        SG_TRY(sg_conv_vocab_read_spm(v, tokenizer, err));
    else
        SG_TRY(sg_conv_vocab_read_hf_json(v, tokenizer, log, err));
    return read_settings(&f, err);
}
