/* sg_file_info for programs: one object. Names stay; what a file does not say is null or left out of a table. */
#include "runtime/info.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

/* cJSON passes bytes through as they are, so text is made well-formed first. Every add may fail for want of memory; *ok
 * collects that. */
typedef struct json {
    cJSON *at;
    bool *ok;
} json;

static void put_text(json j, const char *name, const char *text) {
    sg_str clean = { 0 };
    if (text) {
        sg_str_puts(&clean, "");
        sg_info_put_clean(&clean, text, 4096);
    }
    const cJSON *item =
        clean.data ? cJSON_AddStringToObject(j.at, name, clean.data) : cJSON_AddNullToObject(j.at, name);
    if (!item || clean.failed) *j.ok = false;
    free(clean.data);
}

static void put_number(json j, const char *name, double v) {
    if (!cJSON_AddNumberToObject(j.at, name, v)) *j.ok = false;
}

static void put_null(json j, const char *name) {
    if (!cJSON_AddNullToObject(j.at, name)) *j.ok = false;
}

static void put_bool(json j, const char *name, bool v) {
    if (!cJSON_AddBoolToObject(j.at, name, v)) *j.ok = false;
}

static json put_object(json j, const char *name) {
    json inner = { cJSON_AddObjectToObject(j.at, name), j.ok };
    if (!inner.at) *j.ok = false;
    return inner;
}

/* A number; [least, most] when it differs by layer. */
static void put_int(json j, const char *name, const sg_info_int *v) {
    if (!v->present) {
        put_null(j, name);
    } else if (v->lo == v->hi) {
        put_number(j, name, v->lo);
    } else {
        const double both[] = { v->lo, v->hi };
        cJSON *list = cJSON_CreateDoubleArray(both, 2);
        if (!list || !cJSON_AddItemToObject(j.at, name, list)) {
            cJSON_Delete(list);
            *j.ok = false;
        }
    }
}

static void put_sum(json j, const char *name, const sg_info_sum *sum, uint64_t all) {
    const json o = put_object(j, name);
    put_number(o, "tensors", (double)sum->n);
    put_number(o, "parameters", (double)sum->values);
    put_number(o, "bytes", (double)sum->bytes);
    put_number(o, "share", all ? (double)sum->bytes / (double)all : 0.0);
}

static void put_files(json j, const sg_gguf *g) {
    cJSON *list = cJSON_AddArrayToObject(j.at, "files");
    if (!list) *j.ok = false;
    for (uint32_t i = 0; list && i < sg_gguf_n_files(g); i++) {
        json o = { cJSON_CreateObject(), j.ok };
        if (!o.at || !cJSON_AddItemToArray(list, o.at)) {
            cJSON_Delete(o.at);
            *j.ok = false;
            return;
        }
        put_text(o, "path", sg_gguf_path(g, i));
        put_number(o, "bytes", (double)sg_gguf_file_size(g, i));
    }
}

static void put_hyper(json j, const sg_file_info *info) {
    const json h = put_object(j, "hyperparameters");
    put_int(h, "context", &info->context);
    put_int(h, "embedding", &info->embedding);
    put_int(h, "layers", &info->layers);
    put_int(h, "heads", &info->heads);
    put_int(h, "kv_heads", &info->kv_heads);
    put_int(h, "key_length", &info->key_length);
    put_int(h, "value_length", &info->value_length);
    put_int(h, "sliding_window", &info->window);
    put_int(h, "feed_forward", &info->ff);
    put_int(h, "rope_dimensions", &info->rope_dims);
    if (info->has_rope_base)
        put_number(h, "rope_base", (double)info->rope_base);
    else
        put_null(h, "rope_base");
    put_text(h, "rope_scaling", *info->rope_scaling ? info->rope_scaling : NULL);
    if (info->has_rope_factor)
        put_number(h, "rope_factor", (double)info->rope_factor);
    else
        put_null(h, "rope_factor");
}

static void put_experts(json j, const sg_file_info *info) {
    if (!info->experts.present || info->experts.hi == 0) {
        put_null(j, "experts");
        return;
    }
    const json e = put_object(j, "experts");
    put_int(e, "count", &info->experts);
    put_int(e, "used", &info->experts_used);
    put_int(e, "shared", &info->experts_shared);
    put_int(e, "feed_forward", &info->expert_ff);
    put_number(e, "layers", (double)info->n_moe);
    put_number(e, "bytes_of_one", (double)info->expert_bytes);
    put_number(e, "routed_bytes_per_token", (double)info->routed_bytes);
    put_number(e, "pregate_layers", (double)info->n_pregate);
    put_bool(e, "pregate_routes", info->pregate_routes);
    put_number(e, "ahead_layers", (double)info->n_ahead);
}

static void put_bin(json j, const sg_file_info *info) {
    if (!info->bin_version.present) {
        put_null(j, "bundles");
        return;
    }
    const json b = put_object(j, "bundles");
    put_number(b, "format_version", info->bin_version.hi);
    put_number(b, "layers", (double)info->n_bundles);
    put_int(b, "neurons_per_cluster", &info->cluster);
    put_text(b, "gate_type", info->up_type.present ? sg_info_bundle_type(&info->gate_type) : NULL);
    put_text(b, "up_type", sg_info_bundle_type(info->up_type.present ? &info->up_type : &info->gate_type));
    put_text(b, "down_type", sg_info_bundle_type(&info->down_type));
    put_text(b, "activation", *info->activation ? info->activation : NULL);
    put_text(b, "predictor", *info->predictor ? info->predictor : NULL);
    put_int(b, "calibration_tokens", &info->calibrated);
}

static void put_tokenizer(json j, const sg_file_info *info) {
    const json t = put_object(j, "tokenizer");
    put_text(t, "model", *info->tokenizer ? info->tokenizer : NULL);
    put_text(t, "pre", *info->pre ? info->pre : NULL);
    put_number(t, "vocabulary", (double)info->n_vocab);
    put_int(t, "bos", &info->bos);
    put_int(t, "eos", &info->eos);
    put_bool(t, "chat_template", info->chat_template != NULL);
    put_text(t, "chat_family", info->chat_family);
}

static void put_all(json j, const sg_file_info *info) {
    const sg_gguf *g = info->g;
    put_files(j, g);
    put_number(j, "gguf_version", sg_gguf_version(g));
    put_number(j, "alignment", (double)sg_gguf_alignment(g));
    put_text(j, "architecture", *info->architecture ? info->architecture : NULL);
    put_text(j, "name", *info->name ? info->name : NULL);
    put_number(j, "parameters", (double)info->total.values);
    put_number(j, "active_parameters", (double)info->active_values);
    put_number(j, "weight_bytes", (double)info->total.bytes);
    if (info->total.values)
        put_number(j, "bits_per_weight", 8.0 * (double)info->total.bytes / (double)info->total.values);
    else
        put_null(j, "bits_per_weight");
    put_bool(j, "tied_output", info->tied_output);
    if (info->kv_bytes)
        put_number(j, "kv_bytes_per_token_f16", (double)info->kv_bytes);
    else
        put_null(j, "kv_bytes_per_token_f16");
    put_bool(j, "kv_compressed", info->kv_compressed);
    put_number(j, "attention_layers", (double)info->n_attention);
    put_hyper(j, info);
    put_experts(j, info);
    put_bin(j, info);
    put_tokenizer(j, info);
    const json types = put_object(j, "tensors_by_type");
    for (uint32_t i = 0; i < SG_DTYPE_LIMIT; i++)
        if (info->by_type[i].n) put_sum(types, sg_dtype_get(i)->name, &info->by_type[i], info->total.bytes);
    const json parts = put_object(j, "tensors_by_part");
    for (uint32_t i = 0; i < SG_PART_COUNT; i++)
        put_sum(parts, sg_info_part_names[i], &info->by_part[i], info->total.bytes);
}

void sg_file_info_write_json(const sg_file_info *info, sg_str *out) {
    bool ok = true;
    cJSON *root = cJSON_CreateObject();
    char *text = NULL;
    if (root) {
        put_all((json) { root, &ok }, info);
        if (ok) text = cJSON_Print(root);
    }
    if (text) {
        sg_str_puts(out, text);
        sg_str_puts(out, "\n");
    } else {
        out->failed = true;
    }
    cJSON_free(text);
    cJSON_Delete(root);
}
