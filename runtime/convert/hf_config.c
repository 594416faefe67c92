#include "runtime/convert/hf_config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/convert/file.h"

#define MAX_FILE (16u << 20)

const cJSON *sg_hf_get(const cJSON *obj, const char *names, char *name, size_t size) {
    for (const char *at = names; at; at = strchr(at, '|') ? strchr(at, '|') + 1 : NULL) {
        const size_t n = strcspn(at, "|");
        snprintf(name, size, "%.*s", (int)n, at);
        const cJSON *v = sg_json_get(obj, name);
        if (v) return v;
    }
    snprintf(name, size, "%.*s", (int)strcspn(names, "|"), names);
    return NULL;
}

static sg_status find_arch(const sg_hf_json *f, const sg_hf_arch **out, sg_error *err) {
    const char *name = cJSON_GetStringValue(cJSON_GetArrayItem(sg_json_get(f->root, "architectures"), 0));
    if (!name) return sg_fail(err, SG_E_FORMAT, "%s: \"architectures\" is missing", f->path);
    *out = sg_hf_find(name);
    if (*out) return SG_OK;
    sg_str known = { 0 };
    const sg_hf_arch *a;
    for (size_t i = 0; (a = sg_hf_at(i)); i++) sg_str_printf(&known, "%s%s", i ? ", " : "", a->name);
    const sg_status status = sg_fail(err, SG_E_UNSUPPORTED, "%s: the architecture %.80s cannot be converted (%s can)",
                                     f->path, name, known.data ? known.data : "");
    free(known.data);
    return status;
}

/* ---- keys --------------------------------------------------------------------------------------------------------- */

static sg_status read_key(const sg_hf_json *f, const sg_hf_key *k, double *out, sg_error *err) {
    char name[64];
    *out = k->fallback;
    (void)sg_hf_get(f->text, k->json, name, sizeof name);
    if (k->kind == SG_HK_BOOL) {
        bool b = k->fallback != 0;
        SG_TRY(sg_json_bool(f->text, f->path, name, &b, err));
        *out = b;
    } else if (k->kind == SG_HK_F32) {
        float v = (float)k->fallback;
        SG_TRY(sg_json_f32(f->text, f->path, name, k->lo, k->hi, k->required, &v, err));
        *out = v;
    } else {
        uint32_t v = (uint32_t)k->fallback;
        SG_TRY(sg_json_u32(f->text, f->path, name, k->lo < 0 ? 0 : (uint32_t)k->lo,
                           k->hi > UINT32_MAX ? UINT32_MAX : (uint32_t)k->hi, k->required, &v, err));
        *out = v;
    }
    if (!k->only || *out == (k->kind == SG_HK_F32 ? (float)k->fallback : k->fallback)) return SG_OK;
    return sg_fail(err, SG_E_UNSUPPORTED, "%s: \"%s\" is %g, only %g is known for this architecture", f->path, name, *out,
                   k->fallback);
}

static sg_status compute(const sg_hf_json *f, const sg_hf_key *k, double a, double b, double *out, sg_error *err) {
    switch (k->kind) {
    case SG_HK_MUL: *out = a * b; break;
    case SG_HK_ADD: *out = a + b; break;
    case SG_HK_SUB: *out = a - b; break;
    case SG_HK_OR: *out = a != 0 ? a : b; break;
    case SG_HK_POWER: *out = a > 0 ? pow(a, k->fallback) : 0; break;
    case SG_HK_FLOOR: *out = b != 0 ? floor(a / b) : 0; break;
    case SG_HK_UP: *out = b != 0 ? ceil(a / b) * b : a; break;
    case SG_HK_NOT: *out = a == 0; break;
    case SG_HK_IF: *out = b != 0 ? a : *out; break;
    case SG_HK_SAME:
        if (a == b) break;
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: \"%s\" stands for %g, only %g is known here", f->path, k->json, a, b);
    case SG_HK_DIV:
        if (b == 0 || fmod(a, b) != 0)
            return sg_fail(err, SG_E_FORMAT, "%s: its sizes do not fit: %g is no multiple of %g", f->path, a, b);
        *out = a / b;
        break;
    default: break;
    }
    if (!(*out >= -1e15 && *out <= 1e15)) return sg_fail(err, SG_E_FORMAT, "%s: its sizes are impossible", f->path);
    return SG_OK;
}

static sg_status write_key(const sg_hf_json *f, const sg_hf_key *k, double v, sg_conv_hparams *hp, sg_error *err) {
    const bool always = k->gguf[0] == '!';
    const char *name = k->gguf + always;
    if (v == 0 && !always) return SG_OK;
    const sg_hf_kind as = k->kind == SG_HK_PUT ? k->as : k->kind;
    if (as == SG_HK_BOOL) {
        sg_conv_set_bool(hp, name, v != 0);
    } else if (as == SG_HK_F32 || as == SG_HK_POWER) {
        sg_conv_set_f32(hp, name, (float)v);
    } else {
        if (!(v >= 0 && v <= UINT32_MAX))
            return sg_fail(err, SG_E_FORMAT, "%s: its sizes do not fit: %s would be %g", f->path, name, v);
        sg_conv_set_u32(hp, name, (uint32_t)v);
    }
    return SG_OK;
}

static sg_status read_keys(const sg_hf_json *f, sg_hf_config *c, sg_conv_hparams *hp, sg_error *err) {
    for (size_t i = 0; i < c->arch->n_keys; i++) {
        const sg_hf_key *k = &c->arch->keys[i];
        double v = c->v[k->value];
        if (k->kind <= SG_HK_BOOL)
            SG_TRY(read_key(f, k, &v, err));
        else
            SG_TRY(compute(f, k, c->v[k->a], c->v[k->b], &v, err));
        if (k->value != SG_H_NONE) c->v[k->value] = v;
        if (k->gguf) SG_TRY(write_key(f, k, v, hp, err));
    }
    return SG_OK;
}

/* The sizes of heads that the table left open. */
static sg_status finish_heads(const sg_hf_json *f, sg_hf_config *c, sg_conv_hparams *hp, sg_error *err) {
    double *v = c->v;
    v[SG_H_FF2] = 2 * v[SG_H_FF];
    v[SG_H_EXPERT_FF2] = 2 * v[SG_H_EXPERT_FF];
    const uint32_t n_head = (uint32_t)v[SG_H_HEADS], n_kv = (uint32_t)v[SG_H_KV_HEADS], n_embd = (uint32_t)v[SG_H_EMBD];
    if (n_head == 0 || n_kv == 0) return sg_fail(err, SG_E_FORMAT, "%s: has no attention heads", f->path);
    if (n_head % n_kv)
        return sg_fail(err, SG_E_FORMAT, "%s: %u heads are no multiple of %u key/value heads", f->path, n_head, n_kv);
    if (v[SG_H_V_HEAD] != 0) return SG_OK; /* latent attention: the table has it all */
    if (v[SG_H_HEAD] == 0 && n_embd % n_head)
        return sg_fail(err, SG_E_FORMAT, "%s: hidden_size %u is no multiple of %u heads", f->path, n_embd, n_head);
    if (v[SG_H_HEAD] == 0) v[SG_H_HEAD] = n_embd / n_head;
    const uint32_t head = (uint32_t)v[SG_H_HEAD];
    if (head % 2) return sg_fail(err, SG_E_FORMAT, "%s: the head size %u is odd", f->path, head);
    v[SG_H_HALF_HEAD] = head / 2;
    v[SG_H_Q] = (double)n_head * head;
    v[SG_H_K] = (double)n_kv * head;
    v[SG_H_Q2] = 2 * v[SG_H_Q];
    v[SG_H_QKV] = v[SG_H_Q] + 2 * v[SG_H_K];
    sg_conv_set_u32(hp, "attention.key_length", head);
    sg_conv_set_u32(hp, "attention.value_length", head);
    return SG_OK;
}

/* ---- layers ------------------------------------------------------------------------------------------------------- */

static bool is_experts(const double *v, uint32_t l) {
    if (v[SG_H_EXPERTS] == 0 || l < v[SG_H_DENSE] || (v[SG_H_MOE_END] > 0 && l > v[SG_H_MOE_END])) return false;
    return v[SG_H_STEP] <= 1 || (l + 1) % (uint32_t)v[SG_H_STEP] == 0;
}

/* Whether layer l is recurrent by the numbers alone: all but every n-th, or all but those that are named. */
static bool recurrent_by_number(const sg_hf_json *f, const sg_hf_config *c, uint32_t l) {
    const cJSON *full = sg_json_get(f->text, "full_attn_idxs"), *e;
    if (!cJSON_IsArray(full)) return c->v[SG_H_INTERVAL] > 0 && (l + 1) % (uint32_t)c->v[SG_H_INTERVAL] != 0;
    cJSON_ArrayForEach(e, full)
        if (cJSON_IsNumber(e) && e->valuedouble == l) return false;
    return true;
}

/* What layer_types says must be what the GGUF architecture does by itself; where layers are recurrent it decides. */
static sg_status check_type(const sg_hf_json *f, const sg_hf_config *c, uint32_t l, const char *type, bool windows, bool *rec,
                            sg_error *err) {
    const sg_hf_arch *a = c->arch;
    const bool full = strcmp(type, "full_attention") == 0, window = strcmp(type, "sliding_attention") == 0;
    *rec = a->recurrent && strcmp(type, a->recurrent) == 0;
    if (*rec || full || window) {
        if (a->pattern == 0 && !window && (c->v[SG_H_INTERVAL] == 0 || *rec == recurrent_by_number(f, c, l))) return SG_OK;
        if (a->pattern == 0 && window && !windows) return SG_OK;
        if (a->pattern && full == ((l + 1) % a->pattern == 0)) return SG_OK;
    }
    return sg_fail(err, SG_E_UNSUPPORTED, "%s: layer %u is of type %.40s, which is not known for %s there", f->path, l, type,
                   a->name);
}

/* `windows`: windows count, where the class does not know them. */
static sg_status read_layers(const sg_hf_json *f, sg_hf_config *c, bool windows, sg_error *err) {
    const uint32_t n = (uint32_t)c->v[SG_H_LAYERS];
    const cJSON *types = sg_json_get(f->text, "layer_types"), *only = sg_json_get(f->text, "mlp_only_layers"), *e;
    if (cJSON_GetArraySize(only) > 0)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: \"mlp_only_layers\" is not empty, which is not known", f->path);
    if (types && (!cJSON_IsArray(types) || cJSON_GetArraySize(types) < (int)n))
        return sg_fail(err, SG_E_FORMAT, "%s: \"layer_types\" is no list of %u layers", f->path, n);
    c->layers = calloc(n, 1);
    if (!c->layers) return sg_fail(err, SG_E_NOMEM, "%s: no memory for the layers", f->path);
    e = types ? types->child : NULL;
    for (uint32_t l = 0; l < n; l++) {
        bool rec = c->arch->recurrent && recurrent_by_number(f, c, l);
        if (e) {
            const char *type = cJSON_GetStringValue(e);
            if (!type) return sg_fail(err, SG_E_FORMAT, "%s: \"layer_types\" is no list of strings", f->path);
            SG_TRY(check_type(f, c, l, type, windows, &rec, err));
            e = e->next;
        }
        c->layers[l] = (uint8_t)((rec ? SG_HF_REC : SG_HF_ATT) | (is_experts(c->v, l) ? SG_HF_MOE : SG_HF_MLP));
    }
    return SG_OK;
}

static sg_status write_kv_list(const sg_hf_json *f, const sg_hf_config *c, sg_conv_hparams *hp, sg_error *err) {
    uint32_t *list = calloc(hp->n_layer, sizeof *list);
    if (!list) return sg_fail(err, SG_E_NOMEM, "%s: no memory for the layers", f->path);
    for (uint32_t l = 0; l < hp->n_layer; l++) list[l] = c->layers[l] & SG_HF_ATT ? (uint32_t)c->v[SG_H_KV_HEADS] : 0;
    sg_conv_set_list(hp, "attention.head_count_kv", list, hp->n_layer);
    free(list);
    return SG_OK;
}

/* Where the architecture has no windows: inside of it full attention gives the same result, so the context ends there. */
static sg_status read_window(const sg_hf_json *f, sg_hf_config *c, bool *windows, sg_error *err) {
    bool uses = c->arch->flags & SG_HF_CLIPS;
    uint32_t window = 0;
    *windows = !(c->arch->flags & (SG_HF_CLIPS | SG_HF_CLIPS_IF_USED));
    if (*windows) return SG_OK;
    if (c->arch->flags & SG_HF_CLIPS_IF_USED)
        SG_TRY(sg_json_bool(f->text, f->path, "use_sliding_window", &uses, err));
    SG_TRY(sg_json_u32(f->text, f->path, "sliding_window", 0, UINT32_MAX, false, &window, err));
    if (!uses || window == 0 || window >= c->v[SG_H_CTX]) return SG_OK;
    sg_log_line(f->log, SG_LOG_WARN, "%s: the context is set to the attention window of %u tokens (from %u)", f->path, window,
                (uint32_t)c->v[SG_H_CTX]);
    c->v[SG_H_CTX] = window;
    return SG_OK;
}

/* SmallThinker names the layers that turn and those with a window. In GGUF either none has a window and all turn, or all but every
 * fourth, beginning with the first, do both, with a window of 4096. */
static sg_status read_layouts(const sg_hf_json *f, const sg_hf_config *c, sg_conv_hparams *hp, sg_error *err) {
    static const char *const names[2] = { "sliding_window_layout", "rope_layout" };
    bool plain = true, fourth = true;
    for (int k = 0; k < 2; k++) {
        const cJSON *list = sg_json_get(f->text, names[k]), *e;
        uint32_t l = 0;
        if (!list) continue;
        if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != (int)hp->n_layer)
            return sg_fail(err, SG_E_FORMAT, "%s: \"%s\" is no list of %u layers", f->path, names[k], hp->n_layer);
        cJSON_ArrayForEach(e, list) {
            const bool on = cJSON_IsTrue(e) || (cJSON_IsNumber(e) && e->valuedouble != 0);
            plain = plain && on == (k == 1);
            fourth = fourth && on == (l++ % 4 != 0);
        }
    }
    if (plain) return SG_OK;
    uint32_t window = 4096;
    SG_TRY(sg_json_u32(f->text, f->path, "sliding_window_size", 0, INT32_MAX, false, &window, err));
    if (!fourth || window != 4096 || !sg_json_get(f->text, names[0]) || !sg_json_get(f->text, names[1]))
        return sg_fail(err, SG_E_UNSUPPORTED,
                       "%s: this arrangement of windows (%u tokens) and rotary layers is not known, only 4096 in all but every "
                       "fourth layer", f->path, window);
    sg_conv_set_u32(hp, "attention.sliding_window", window);
    return SG_OK;
}

/* ---- activation, flags -------------------------------------------------------------------------------------------- */

static sg_status read_activation(const sg_hf_json *f, const sg_hf_arch *a, sg_conv_hparams *hp, sg_error *err) {
    static const struct { const char *hf, *ours; } acts[] = {
        { "silu", "silu" },   { "swish", "silu" },   { "relu", "relu" },    { "drelu", "drelu" },
        { "relu2", "relu2" }, { "gelu", "gelu_erf" }, { "gelu_new", "gelu" }, { "gelu_pytorch_tanh", "gelu" },
        { "gelu_fast", "gelu" },
    };
    char name[64];
    const char *act = cJSON_GetStringValue(
                   sg_hf_get(f->text, "hidden_act|hidden_activation|activation_function|activation", name, sizeof name)),
               *ours = NULL;
    if (a->flags & SG_HF_RENAMES_ACT) {
        sg_conv_set_str(hp, "sparsegen.ffn_activation", a->act);
        return SG_OK;
    }
    if (!act) act = a->act_unsaid;
    if (!act) return SG_OK;
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++)
        if (strcmp(acts[i].hf, act) == 0) ours = acts[i].ours;
    if (ours && (a->flags & SG_HF_GELU_TANH) && strcmp(ours, "gelu_erf") == 0) ours = "gelu";
    if (ours && strcmp(a->act, "oai") == 0) ours = strcmp(ours, "silu") == 0 ? "oai" : NULL; /* its form of SiLU */
    if (!ours)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: the activation %.40s is not known for %s (silu, relu, drelu, relu2, gelu)",
                       f->path, act, a->name);
    if (strcmp(ours, a->act) != 0) sg_conv_set_str(hp, "sparsegen.ffn_activation", ours);
    return SG_OK;
}

static sg_status read_flags(const sg_hf_json *f, sg_hf_config *c, sg_error *err) {
    const cJSON *quant = sg_json_get(f->root, "quantization_config");
    c->v[SG_H_ONE] = 1;
    c->v[SG_H_TWO] = 2;
    c->v[SG_H_THREE] = 3;
    c->v[SG_H_FOUR] = 4;
    if (quant) {
        const char *method = sg_json_str(quant, "quant_method");
        c->v[SG_H_BLOCKS] = method && strcmp(method, "mxfp4") == 0 && (c->arch->flags & SG_HF_KNOWS_MXFP4);
        if (c->v[SG_H_BLOCKS] == 0)
            return sg_fail(err, SG_E_UNSUPPORTED,
                           "%s: the weights are quantised (%.40s); convert the model they were made from", f->path,
                           method ? method : "quantization_config");
    }
    c->v[SG_H_NO_BLOCKS] = c->v[SG_H_BLOCKS] == 0;
    c->tied = c->arch->flags & SG_HF_TIED;
    c->says_tied = c->tied;
    char name[64];
    const cJSON *from[2] = { f->root, f->text };
    for (int i = 0; i < 2; i++) {
        if (!sg_hf_get(from[i], "tie_word_embeddings|tie_embedding", name, sizeof name)) continue;
        c->says_tied = true;
        SG_TRY(sg_json_bool(from[i], f->path, name, &c->tied, err));
    }
    return SG_OK;
}

void sg_hf_config_finish(sg_hf_config *c) {
    free(c->layers);
    c->layers = NULL;
}

static sg_status read_all(sg_hf_json *f, sg_hf_config *c, sg_conv_model *m, sg_error *err) {
    bool windows;
    SG_TRY(find_arch(f, &c->arch, err));
    const cJSON *text = sg_json_get(f->root, "text_config");
    f->text = cJSON_IsObject(text) ? text : f->root;
    m->hp.arch = c->arch->gguf;
    SG_TRY(read_flags(f, c, err));
    SG_TRY(read_keys(f, c, &m->hp, err));
    m->hp.n_layer = (uint32_t)c->v[SG_H_LAYERS];
    m->hp.n_vocab = (uint32_t)c->v[SG_H_VOCAB];
    SG_TRY(finish_heads(f, c, &m->hp, err));
    SG_TRY(read_window(f, c, &windows, err));
    sg_conv_set_u32(&m->hp, "context_length", (uint32_t)c->v[SG_H_CTX]);
    SG_TRY(read_layers(f, c, windows, err));
    if (c->arch->flags & SG_HF_KV_LIST) SG_TRY(write_kv_list(f, c, &m->hp, err));
    if (c->arch->flags & SG_HF_LAYOUTS) SG_TRY(read_layouts(f, c, &m->hp, err));
    SG_TRY(read_activation(f, c->arch, &m->hp, err));
    return sg_hf_rope_read(f, c, m, err);
}

sg_status sg_hf_config_read(const char *path, const sg_log *log, sg_hf_config *c, sg_conv_model *m, sg_error *err) {
    cJSON *json = NULL;
    SG_TRY(sg_json_read(path, MAX_FILE, &json, err));
    sg_hf_json f = { json, json, path, log };
    const sg_status status = read_all(&f, c, m, err);
    cJSON_Delete(json);
    return status;
}
