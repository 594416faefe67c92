/* What a GGUF file holds, from its header alone. */
#include "runtime/info.h"
#include "runtime/base/utf8.h"
#include "runtime/text/chat.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const sg_info_part_names[SG_PART_COUNT] = {
    [SG_PART_EMBEDDING] = "embedding", [SG_PART_ATTENTION] = "attention",
    [SG_PART_RECURRENT] = "recurrent", [SG_PART_FFN] = "ffn",
    [SG_PART_EXPERTS] = "experts",     [SG_PART_SHARED] = "shared_experts",
    [SG_PART_ROUTER] = "router",       [SG_PART_NORMS] = "norms",
    [SG_PART_OUTPUT] = "output",       [SG_PART_OTHER] = "other",
};

/* "blk.12.attn_q.weight" -> 12 and "attn_q.weight"; other names -> false and the whole name. */
static bool split_name(const char *name, uint64_t *layer, const char **rest) {
    *rest = name;
    if (strncmp(name, "blk.", 4) != 0 || name[4] < '0' || name[4] > '9') return false;
    uint64_t v = 0;
    const char *p = name + 4;
    for (; *p >= '0' && *p <= '9'; p++) {
        v = v * 10 + (uint64_t)(*p - '0');
        if (v > UINT32_MAX) return false;
    }
    if (*p != '.') return false;
    *layer = v;
    *rest = p + 1;
    return true;
}

static bool begins(const char *s, const char *prefix) { return strncmp(s, prefix, strlen(prefix)) == 0; }

/* Early mixture files hold one tensor per expert: "ffn_up.3.weight". */
static bool is_single_expert(const char *rest) {
    static const char *const stems[] = { "ffn_gate.", "ffn_up.", "ffn_down." };
    for (size_t i = 0; i < sizeof stems / sizeof stems[0]; i++) {
        const char *after = rest + strlen(stems[i]);
        if (begins(rest, stems[i]) && *after >= '0' && *after <= '9') return true;
    }
    return false;
}

/* Tensor names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#standardized-tensor-names */
static sg_info_part part_of(const sg_file_info *info, const char *name) {
    uint64_t layer = 0;
    const char *rest;
    const bool block = split_name(name, &layer, &rest);
    if (begins(rest, "ssm_") || begins(rest, "shortconv") || begins(rest, "time_mix")) return SG_PART_RECURRENT;
    if (strstr(rest, "norm")) return SG_PART_NORMS;
    if (begins(rest, "sparsegen.pregate.") || begins(rest, "sparsegen.ahead.")) return SG_PART_ROUTER;
    if (!block) {
        if (begins(rest, "token_embd") || begins(rest, "position_embd") || begins(rest, "token_types"))
            return SG_PART_EMBEDDING;
        return begins(rest, "output") ? SG_PART_OUTPUT : SG_PART_OTHER;
    }
    if (begins(rest, "ffn_gate_inp") || begins(rest, "exp_probs_b")) return SG_PART_ROUTER;
    if (strstr(rest, "_exps") || is_single_expert(rest)) return SG_PART_EXPERTS;
    if (strcmp(rest, "ffn_bundle") == 0 && sg_info_bundle_experts(info, layer) > 0) return SG_PART_EXPERTS;
    if (strstr(rest, "_shexp")) return SG_PART_SHARED;
    if (begins(rest, "ffn_")) return SG_PART_FFN;
    return begins(rest, "attn_") ? SG_PART_ATTENTION : SG_PART_OTHER;
}

sg_status sg_info_int_of(const sg_gguf *g, const char *key, sg_info_int *out, sg_error *err) {
    const sg_gguf_kv *kv = sg_gguf_find(g, key);
    if (!kv || kv->n == 0) return SG_OK;
    if (!kv->is_array) {
        SG_TRY(sg_gguf_get_u32(g, key, &out->lo, err));
        out->hi = out->lo;
        out->present = true;
        return SG_OK;
    }
    for (uint64_t i = 0; i < kv->n; i++) {
        const double v = sg_gguf_kv_number(kv, i);
        if (!(v >= 0 && v <= UINT32_MAX))
            return sg_fail(err, SG_E_FORMAT, "%s: element %" PRIu64 " of key %.80s is no count", sg_gguf_path(g, 0), i,
                           key);
        const uint32_t u = (uint32_t)v;
        if (i == 0 || u < out->lo) out->lo = u;
        if (i == 0 || u > out->hi) out->hi = u;
    }
    out->present = true;
    return SG_OK;
}

/* "ARCHITECTURE.suffix"; false when it would be too long to be a key of that kind. */
static bool arch_key(const sg_file_info *info, const char *suffix, char key[160]) {
    return snprintf(key, 160, "%s.%s", info->architecture, suffix) < 160;
}

static sg_status gather_hyper(sg_file_info *info, sg_error *err) {
    const struct {
        const char *suffix;
        sg_info_int *out;
    } ints[] = {
        { "context_length", &info->context },
        { "embedding_length", &info->embedding },
        { "block_count", &info->layers },
        { "nextn_predict_layers", &info->nextn },
        { "attention.head_count", &info->heads },
        { "attention.head_count_kv", &info->kv_heads },
        { "attention.key_length", &info->key_length },
        { "attention.value_length", &info->value_length },
        { "attention.kv_lora_rank", &info->kv_lora },
        { "attention.sliding_window", &info->window },
        { "feed_forward_length", &info->ff },
        { "expert_feed_forward_length", &info->expert_ff },
        { "expert_count", &info->experts },
        { "expert_used_count", &info->experts_used },
        { "expert_shared_count", &info->experts_shared },
        { "rope.dimension_count", &info->rope_dims },
    };
    char key[160];
    for (size_t i = 0; i < sizeof ints / sizeof ints[0]; i++)
        if (arch_key(info, ints[i].suffix, key)) SG_TRY(sg_info_int_of(info->g, key, ints[i].out, err));
    if (arch_key(info, "rope.freq_base", key)) {
        info->has_rope_base = sg_gguf_find(info->g, key) != NULL;
        SG_TRY(sg_gguf_get_f32(info->g, key, &info->rope_base, err));
    }
    if (arch_key(info, "rope.scaling.factor", key)) {
        info->has_rope_factor = sg_gguf_find(info->g, key) != NULL;
        SG_TRY(sg_gguf_get_f32(info->g, key, &info->rope_factor, err));
    }
    if (arch_key(info, "rope.scaling.type", key)) SG_TRY(sg_gguf_get_str(info->g, key, &info->rope_scaling, err));
    return SG_OK;
}

static sg_status gather_texts(sg_file_info *info, sg_error *err) {
    const sg_gguf *g = info->g;
    info->architecture = info->name = info->tokenizer = info->pre = info->rope_scaling = "";
    SG_TRY(sg_gguf_get_str(g, "general.architecture", &info->architecture, err));
    SG_TRY(sg_gguf_get_str(g, "general.name", &info->name, err));
    SG_TRY(sg_gguf_get_str(g, "tokenizer.ggml.model", &info->tokenizer, err));
    SG_TRY(sg_gguf_get_str(g, "tokenizer.ggml.pre", &info->pre, err));
    SG_TRY(sg_gguf_get_str(g, "tokenizer.chat_template", &info->chat_template, err));
    info->chat_family = sg_chat_family_name(sg_chat_recognise(info->chat_template));
    SG_TRY(sg_info_int_of(g, "tokenizer.ggml.bos_token_id", &info->bos, err));
    SG_TRY(sg_info_int_of(g, "tokenizer.ggml.eos_token_id", &info->eos, err));
    const sg_gguf_kv *tokens = sg_gguf_find(g, "tokenizer.ggml.tokens");
    info->has_vocab = tokens && tokens->is_array && tokens->strings;
    info->n_vocab = info->has_vocab ? tokens->n : 0;
    return SG_OK;
}

/* Layers from block_count - nextn on predict further tokens and take no part in ordinary decoding. */
static bool is_extra_layer(const sg_file_info *info, uint64_t layer) {
    return info->layers.present && layer + info->nextn.hi >= info->layers.hi && info->nextn.hi > 0;
}

/* KV heads of a layer: one number for all, or one per layer. */
static uint64_t kv_heads_of(const sg_file_info *info, uint64_t layer) {
    char key[160];
    if (!info->kv_heads.present) return info->heads.present ? info->heads.hi : 0;
    const sg_gguf_kv *kv = arch_key(info, "attention.head_count_kv", key) ? sg_gguf_find(info->g, key) : NULL;
    if (!kv || !kv->is_array) return info->kv_heads.hi;
    return layer < kv->n ? (uint64_t)sg_gguf_kv_number(kv, layer) : 0;
}

/* True for the one tensor by which a layer with a KV cache is known. */
static bool marks_attention(const sg_file_info *info, uint64_t layer, const char *rest) {
    if (strcmp(rest, "attn_k.weight") == 0 || strcmp(rest, "attn_kv_a_mqa.weight") == 0) return true;
    if (strcmp(rest, "attn_qkv.weight") != 0) return false;
    char name[64]; /* linear attention uses that name too, beside a state */
    snprintf(name, sizeof name, "blk.%" PRIu64 ".ssm_out.weight", layer);
    return sg_gguf_tensor(info->g, name) == NULL;
}

static void add_kv_cache(sg_file_info *info, uint64_t layer) {
    uint64_t per_layer;
    if (info->kv_lora.present && info->rope_dims.present) {
        info->kv_compressed = true;
        per_layer = 2 * (uint64_t)info->kv_lora.hi + info->rope_dims.hi; /* the latent vector is part of the key, and the value */
    } else {
        const uint64_t head =
            info->heads.present && info->heads.hi && info->embedding.present ? info->embedding.hi / info->heads.hi : 0;
        const uint64_t k = info->key_length.present ? info->key_length.hi : head;
        const uint64_t v = info->value_length.present ? info->value_length.hi : head;
        if (!sg_mul_add(kv_heads_of(info, layer), k + v, 0, &per_layer)) per_layer = 0;
    }
    if (per_layer) info->n_attention++;
    if (!sg_mul_add(per_layer, 2, info->kv_bytes, &info->kv_bytes)) info->kv_bytes = 0;
}

/* Every tensor has bytes of its own inside a file, so only sparse files of exabytes could make a sum wrap around. */
static void add_to(sg_info_sum *s, const sg_tensor_info *t, uint64_t weights) {
    s->n++;
    s->values += weights;
    s->bytes += t->n_bytes;
}

/* Layers of experts: those with a router; where the pre-gate is the router, those that it is for. */
static void gather_routers(sg_file_info *info) {
    const sg_tensor_info *pregate = sg_gguf_tensor(info->g, "sparsegen.pregate.weight");
    for (size_t i = 0; i < sg_gguf_n_tensors(info->g); i++) {
        uint64_t layer = 0;
        const char *rest;
        if (!split_name(sg_gguf_tensor_at(info->g, i)->name, &layer, &rest) || is_extra_layer(info, layer)) continue;
        info->n_moe += strcmp(rest, "ffn_gate_inp.weight") == 0;
        info->n_ahead += strcmp(rest, "sparsegen.ahead.weight") == 0;
    }
    if (!pregate || !info->experts.hi) return;
    info->n_pregate = pregate->ne[1] / info->experts.hi;
    info->pregate_routes = info->n_moe == 0;
    if (info->pregate_routes) info->n_moe = info->n_pregate;
}

static void gather_tensors(sg_file_info *info) {
    const uint64_t experts = info->experts.hi, used = info->experts_used.hi < experts ? info->experts_used.hi : experts;
    info->tied_output = sg_gguf_tensor(info->g, "token_embd.weight") && !sg_gguf_tensor(info->g, "output.weight");
    uint64_t all_experts = 0;
    for (size_t i = 0; i < sg_gguf_n_tensors(info->g); i++) {
        const sg_tensor_info *t = sg_gguf_tensor_at(info->g, i);
        const sg_info_part part = part_of(info, t->name);
        uint64_t layer = 0;
        const char *rest;
        const bool block = split_name(t->name, &layer, &rest);
        const uint64_t weights = sg_info_weights(info, t);
        add_to(&info->total, t, weights);
        add_to(&info->by_type[t->type], t, weights);
        add_to(&info->by_part[part], t, weights);
        if (block && is_extra_layer(info, layer)) continue;
        if (block && marks_attention(info, layer, rest)) add_kv_cache(info, layer);
        if (part == SG_PART_EXPERTS && experts > 0) {
            const bool single = is_single_expert(rest);
            /* of a stack of experts (the last dimension) `used` are read; of single ones that share on average */
            info->active_values += single ? (uint64_t)((double)weights * (double)used / (double)experts) : weights / experts * used;
            info->routed_bytes +=
                single ? (uint64_t)((double)t->n_bytes * (double)used / (double)experts) : t->n_bytes / experts * used;
            all_experts += t->n_bytes;
        } else {
            info->active_values += weights;
        }
    }
    if (info->n_moe && experts) info->expert_bytes = all_experts / experts / info->n_moe;
}

sg_status sg_file_info_from_gguf(sg_gguf *g, sg_file_info **out, sg_error *err) {
    *out = NULL;
    sg_file_info *info = calloc(1, sizeof *info);
    if (!info) {
        sg_gguf_close(&g);
        return sg_fail(err, SG_E_NOMEM, "no memory to describe the file");
    }
    info->g = g;
    sg_status status = gather_texts(info, err);
    if (status == SG_OK) status = gather_hyper(info, err);
    if (status == SG_OK) status = sg_info_gather_bin(info, err);
    if (status == SG_OK) {
        gather_routers(info);
        gather_tensors(info);
        *out = info;
    } else {
        sg_file_info_close(&info);
    }
    return status;
}

sg_status sg_file_info_open(const char *path, sg_file_info **out, sg_error *err) {
    if (!out || !path) return sg_fail(err, SG_E_ARG, "sg_file_info_open: path and out must not be NULL");
    sg_gguf *g;
    *out = NULL;
    SG_TRY(sg_gguf_open(path, &g, err));
    return sg_file_info_from_gguf(g, out, err);
}

void sg_file_info_close(sg_file_info **info) {
    if (!info || !*info) return;
    sg_gguf_close(&(*info)->g);
    free(*info);
    *info = NULL;
}

sg_status sg_file_info_text(const sg_file_info *info, bool json, char **out, sg_error *err) {
    if (!info || !out) return sg_fail(err, SG_E_ARG, "sg_file_info_text: info and out must not be NULL");
    sg_str s = { 0 };
    *out = NULL;
    if (json)
        sg_file_info_write_json(info, &s);
    else
        sg_file_info_write_text(info, &s);
    if (s.failed || !s.data) {
        free(s.data);
        return sg_fail(err, SG_E_NOMEM, "%s: no memory for the description", sg_gguf_path(info->g, 0));
    }
    *out = s.data;
    return SG_OK;
}

void sg_info_put_clean(sg_str *out, const char *text, size_t max) {
    const size_t n = strlen(text);
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        const size_t k = sg_utf8_next(text + i, n - i, &cp);
        if (i + (k ? k : 1) > max) {
            sg_str_puts(out, "...");
            return;
        }
        if (k == 0 || cp < 0x20 || (cp >= 0x7f && cp < 0xa0))
            sg_str_puts(out, "?");
        else
            sg_str_append(out, text + i, k);
        i += k ? k : 1;
    }
}
