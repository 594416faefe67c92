/* What each layer is made of, and the sizes that names in the tables of tensors stand for. */
#include <math.h>

#include "models/keys.h"

/* attention.head_count_kv: a number, or one per layer. */
static sg_status read_kv_heads(sg_keys *k, const sg_arch *arch, const sg_hparams *hp, sg_layer_params *layer, sg_error *err) {
    const sg_gguf_kv *kv = sg_gguf_find(k->g, sg_key(k, "attention.head_count_kv"));
    const char *path = sg_gguf_path(k->g, 0);
    if (kv && kv->is_array && kv->n < hp->n_layer)
        return sg_fail(err, SG_E_FORMAT, "%s: key %s has %llu numbers for %u layers", path, k->key, (unsigned long long)kv->n, hp->n_layer);
    for (uint32_t l = 0; l < hp->n_layer; l++) {
        const double n = kv ? sg_gguf_kv_number(kv, kv->is_array ? l : 0) : hp->n_head;
        const bool none = n == 0 && arch->mixers == SG_MIXERS_CONV;
        if (!none && !(n >= 1 && n <= hp->n_head && n == floor(n)))
            return sg_fail(err, SG_E_FORMAT, "%s: %s = %g is not between 1 and %u", path, k->key, n, hp->n_head);
        layer[l].n_head_kv = (uint32_t)n;
        if (!none && hp->n_head % layer[l].n_head_kv)
            return sg_fail(err, SG_E_FORMAT, "%s: %u heads are no multiple of %u key/value heads", path, hp->n_head, layer[l].n_head_kv);
    }
    return SG_OK;
}

static sg_status read_kinds(sg_keys *k, const sg_arch *arch, const sg_hparams *hp, sg_layer_params *layer, sg_error *err) {
    uint32_t interval = 1, dense = 0, step = 1;
    if (arch->mixers == SG_MIXERS_DELTA) SG_TRY(sg_key_dim(k, "full_attention_interval", 4, hp->n_layer + 1, &interval, err));
    SG_TRY(sg_key_count(k, "leading_dense_block_count", 0, hp->n_layer, &dense, err));
    SG_TRY(sg_key_dim(k, "interleave_moe_layer_step", 1, 4096, &step, err));
    for (uint32_t l = 0; l < hp->n_layer; l++) {
        sg_layer_params *p = &layer[l];
        p->experts = hp->n_expert > 0 && l >= dense && (l + 1) % step == 0;
        switch (arch->mixers) {
        case SG_MIXERS_ATTENTION: p->mixer = SG_MIX_ATTENTION; break;
        case SG_MIXERS_LATENT: p->mixer = SG_MIX_LATENT; break;
        case SG_MIXERS_CONV: p->mixer = p->n_head_kv == 0 ? SG_MIX_CONV : SG_MIX_ATTENTION; break;
        case SG_MIXERS_DELTA: p->mixer = (l + 1) % interval == 0 ? SG_MIX_ATTENTION : SG_MIX_DELTA; break;
        }
    }
    return SG_OK;
}

static sg_status read_windows(sg_keys *k, const sg_arch *arch, sg_hparams *hp, sg_layer_params *layer, sg_error *err) {
    const sg_window_rule *w = &arch->window;
    uint32_t period = w->period;
    for (uint32_t l = 0; l < hp->n_layer; l++) layer[l].rope = arch->rope_pairing != SG_ROPE_NONE;
    if (!w->used) return SG_OK;
    SG_TRY(sg_key_count(k, "attention.sliding_window", 0, UINT32_MAX, &hp->window, err));
    if (hp->window == 0) return SG_OK;
    hp->window_rope_base = w->rope_base;
    SG_TRY(sg_gguf_get_f32(k->g, sg_key(k, "rope.freq_base_swa"), &hp->window_rope_base, err));
    const sg_gguf_kv *pattern = sg_gguf_find(k->g, sg_key(k, "attention.sliding_window_pattern"));
    if (pattern && pattern->is_array && pattern->n < hp->n_layer)
        return sg_fail(err, SG_E_FORMAT, "%s: key %s has fewer entries than layers", sg_gguf_path(k->g, 0), k->key);
    for (uint32_t l = 0; l < hp->n_layer; l++) {
        bool full = period > 0 && l % period == w->full;
        if (pattern && pattern->is_array) full = sg_gguf_kv_number(pattern, l) == 0; /* which layers have the window */
        if (full && w->full_without_rope) layer[l].rope = false;
        if (full) continue;
        layer[l].window = hp->window;
        layer[l].window_rope = hp->window_rope_base > 0;
    }
    return SG_OK;
}

sg_status sg_layers_read(const sg_gguf *g, const sg_arch *arch, sg_hparams *hp, sg_layer_params *layer, sg_error *err) {
    sg_keys k = { .g = g, .prefix = arch->name };
    SG_TRY(read_kv_heads(&k, arch, hp, layer, err));
    SG_TRY(read_kinds(&k, arch, hp, layer, err));
    SG_TRY(read_windows(&k, arch, hp, layer, err));
    for (uint32_t l = 0; l < hp->n_layer; l++) {
        if (layer[l].n_head_kv > hp->n_head_kv) hp->n_head_kv = layer[l].n_head_kv;
        hp->n_expert_layer += layer[l].experts;
    }
    return SG_OK;
}

uint64_t sg_dim_value(const sg_hparams *hp, const sg_layer_params *l, sg_dim d) {
    const uint64_t heads = hp->n_head, kv = l ? l->n_head_kv : hp->n_head_kv, key = hp->head_dim_k, value = hp->head_dim_v;
    const uint64_t delta_k = (uint64_t)hp->n_key_heads * hp->delta_dim_k, delta_v = (uint64_t)hp->n_value_heads * hp->delta_dim_v;
    switch (d) {
    case SG_D_ONE: return 1;
    case SG_D_VOCAB: return hp->n_vocab;
    case SG_D_EMBD: return hp->n_embd;
    case SG_D_CTX: return hp->n_ctx_train;
    case SG_D_FF: return hp->n_ff;
    case SG_D_FF2: return 2 * (uint64_t)hp->n_ff;
    case SG_D_Q: return heads * key;
    case SG_D_Q2: return 2 * heads * key;
    case SG_D_K: return kv * key;
    case SG_D_V: return kv * value;
    case SG_D_QKV: return heads * key + kv * key + kv * value;
    case SG_D_ATT: return heads * value;
    case SG_D_HEAD: return key;
    case SG_D_HEADS: return heads;
    case SG_D_ROT: return hp->rope.n_rot / 2;
    case SG_D_Q_LORA: return hp->n_q_lora;
    case SG_D_KV_LORA: return hp->n_kv_lora;
    case SG_D_KV_A: return (uint64_t)hp->n_kv_lora + hp->rope.n_rot;
    case SG_D_NOPE: return key - hp->rope.n_rot;
    case SG_D_VALUE: return value;
    case SG_D_KV_B: return heads * (key - hp->rope.n_rot + value);
    case SG_D_EXPERTS: return hp->n_expert;
    case SG_D_ROUTES: return (uint64_t)hp->n_expert * hp->n_expert_layer;
    case SG_D_FF_EXP: return hp->n_ff_exp;
    case SG_D_FF_SHEXP: return hp->n_ff_shexp;
    case SG_D_TAPS: return hp->n_taps;
    case SG_D_CONV3: return 3 * (uint64_t)hp->n_embd;
    case SG_D_DELTA_QKV: return 2 * delta_k + delta_v;
    case SG_D_DELTA_V: return delta_v;
    case SG_D_DELTA_VDIM: return hp->delta_dim_v;
    case SG_D_DELTA_HEADS: return hp->n_value_heads;
    case SG_D_DELTA_HEADS2: return 2 * (uint64_t)hp->n_value_heads;
    case SG_DIMS: break;
    }
    return 0;
}
