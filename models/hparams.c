/* Metadata keys to hyper-parameters. */
#include "models/model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "models/keys.h"

const char *sg_key(sg_keys *k, const char *suffix) {
    snprintf(k->key, sizeof k->key, "%s.%s", k->prefix, suffix);
    return k->key;
}

bool sg_has_key(sg_keys *k, const char *suffix) { return sg_gguf_find(k->g, sg_key(k, suffix)) != NULL; }

sg_status sg_key_dim(sg_keys *k, const char *suffix, uint32_t fallback, uint32_t max, uint32_t *out, sg_error *err) {
    *out = fallback;
    SG_TRY(sg_gguf_get_u32(k->g, sg_key(k, suffix), out, err));
    const char *path = sg_gguf_path(k->g, 0);
    if (*out == 0 && !sg_gguf_find(k->g, k->key)) return sg_fail(err, SG_E_FORMAT, "%s: key %s is missing", path, k->key);
    if (*out == 0 || *out > max)
        return sg_fail(err, SG_E_FORMAT, "%s: %s = %u is not between 1 and %u", path, k->key, *out, max);
    return SG_OK;
}

sg_status sg_key_count(sg_keys *k, const char *suffix, uint32_t fallback, uint32_t max, uint32_t *out, sg_error *err) {
    *out = fallback;
    SG_TRY(sg_gguf_get_u32(k->g, sg_key(k, suffix), out, err));
    if (*out > max) return sg_fail(err, SG_E_FORMAT, "%s: %s = %u is above %u", sg_gguf_path(k->g, 0), k->key, *out, max);
    return SG_OK;
}

static sg_status positive(sg_keys *k, const char *suffix, float fallback, float *out, sg_error *err) {
    *out = fallback;
    SG_TRY(sg_gguf_get_f32(k->g, sg_key(k, suffix), out, err));
    if (!(*out > 0 && *out < INFINITY)) return sg_fail(err, SG_E_FORMAT, "%s: %s = %g is not above 0", sg_gguf_path(k->g, 0), k->key, *out);
    return SG_OK;
}

/* A factor or cap: 0 (or absent) stands for `none`. */
static sg_status factor(sg_keys *k, const char *suffix, float none, float *out, sg_error *err) {
    *out = 0;
    SG_TRY(sg_gguf_get_f32(k->g, sg_key(k, suffix), out, err));
    if (!(*out >= 0 && *out < INFINITY)) return sg_fail(err, SG_E_FORMAT, "%s: %s = %g is not 0 or above", sg_gguf_path(k->g, 0), k->key, *out);
    if (*out == 0) *out = none;
    return SG_OK;
}

static sg_status read_rope(sg_keys *k, const sg_arch *arch, sg_hparams *hp, sg_error *err) {
    sg_rope_params *r = &hp->rope;
    const char *path = sg_gguf_path(k->g, 0);
    r->pairing = arch->rope_pairing;
    if (r->pairing == SG_ROPE_NONE) return SG_OK;
    SG_TRY(sg_key_dim(k, "rope.dimension_count", hp->head_dim_k, hp->head_dim_k, &r->n_rot, err));
    if (r->n_rot % 2) return sg_fail(err, SG_E_FORMAT, "%s: rope.dimension_count = %u is odd", path, r->n_rot);
    SG_TRY(positive(k, "rope.freq_base", 10000.0f, &r->freq_base, err));
    /* llama.cpp's rule: a factor without a type is linear. */
    const char *kind = "linear";
    SG_TRY(sg_gguf_get_str(k->g, sg_key(k, "rope.scaling.type"), &kind, err));
    /* Files from before rope.scaling.* give a linear factor alone. */
    float old_factor = 1.0f, attn_factor;
    SG_TRY(positive(k, "rope.scale_linear", 1.0f, &old_factor, err));
    SG_TRY(positive(k, "rope.scaling.factor", old_factor, &r->factor, err));
    if (strcmp(kind, "yarn") == 0) r->scaling = SG_ROPE_YARN;
    else if (strcmp(kind, "linear") == 0) r->scaling = SG_ROPE_LINEAR;
    else if (strcmp(kind, "none") == 0 || strcmp(kind, "longrope") == 0) r->scaling = SG_ROPE_PLAIN; /* the file has rope_factors_* */
    else return sg_fail(err, SG_E_UNSUPPORTED, "%s: rope.scaling.type \"%s\" is not known (none, linear, yarn, longrope)", path, kind);
    if (r->scaling == SG_ROPE_YARN && r->factor < 1.0f)
        return sg_fail(err, SG_E_FORMAT, "%s: YaRN factor %g is below 1", path, r->factor);
    SG_TRY(sg_key_dim(k, "rope.scaling.original_context_length", hp->n_ctx_train, UINT32_MAX, &r->n_ctx_orig, err));
    SG_TRY(positive(k, "rope.scaling.yarn_beta_fast", 32.0f, &r->beta_fast, err));
    SG_TRY(positive(k, "rope.scaling.yarn_beta_slow", 1.0f, &r->beta_slow, err));
    SG_TRY(positive(k, "rope.scaling.yarn_ext_factor", 1.0f, &r->ext_factor, err));
    SG_TRY(positive(k, "rope.scaling.attn_factor", 1.0f, &attn_factor, err));
    r->magnitude = attn_factor;
    if (r->scaling != SG_ROPE_YARN) return SG_OK;
    if (!arch->yarn_scores) {
        r->magnitude = (float)(attn_factor * (1 + 0.1 * log(r->factor)));
        return SG_OK;
    }
    /* The file has 0.1 times the factor of the paper. */
    float multiplier;
    SG_TRY(factor(k, "rope.scaling.yarn_log_multiplier", 0, &multiplier, err));
    const double m = 1 + (double)multiplier * log(r->factor);
    hp->attn_scale = (float)(hp->attn_scale * m * m);
    return SG_OK;
}

static sg_status read_activation(sg_keys *k, const sg_arch *arch, sg_hparams *hp, sg_error *err) {
    static const char *const acts[SG_FFN_ACTS] = { [SG_FFN_SILU] = "silu",       [SG_FFN_RELU] = "relu",   [SG_FFN_DRELU] = "drelu",
                                                   [SG_FFN_FATRELU] = "fatrelu", [SG_FFN_RELU2] = "relu2", [SG_FFN_GELU] = "gelu",
                                                   [SG_FFN_GELU_ERF] = "gelu_erf", [SG_FFN_OAI] = "oai" };
    const char *name = acts[arch->ffn_act];
    SG_TRY(sg_gguf_get_str(k->g, "sparsegen.ffn_activation", &name, err));
    for (int i = 0; i < SG_FFN_ACTS; i++) {
        if (strcmp(acts[i], name) == 0) {
            hp->ffn_act = (sg_ffn_act)i;
            return SG_OK;
        }
    }
    return sg_fail(err, SG_E_UNSUPPORTED,
                   "%s: sparsegen.ffn_activation \"%s\" is not known (silu, relu, drelu, fatrelu, relu2, gelu, gelu_erf, oai)",
                   sg_gguf_path(k->g, 0), name);
}

static sg_status read_router(sg_keys *k, const sg_arch *arch, sg_hparams *hp, sg_error *err) {
    uint32_t kind = 0;
    const char *path = sg_gguf_path(k->g, 0);
    SG_TRY(sg_key_count(k, "expert_gating_func", 0, UINT32_MAX, &kind, err));
    hp->scores = arch->scores;
    if (kind == 1) hp->scores = SG_SCORES_SOFTMAX;
    else if (kind == 2) hp->scores = SG_SCORES_SIGMOID;
    else if (kind == 3) hp->scores = SG_SCORES_SOFTMAX_CHOSEN;
    else if (kind != 0)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: %s %u is not a known form of router (1 softmax, 2 sigmoid, 3 softmax over the chosen)", path,
                       k->key, kind);
    hp->weights_norm = arch->weights_norm;
    SG_TRY(sg_gguf_get_bool(k->g, sg_key(k, "expert_weights_norm"), &hp->weights_norm, err));
    SG_TRY(factor(k, "expert_weights_scale", 1, &hp->weights_scale, err));
    SG_TRY(sg_key_count(k, "expert_group_count", 0, hp->n_expert, &hp->n_expert_group, err));
    SG_TRY(sg_key_count(k, "expert_group_used_count", hp->n_expert_group, hp->n_expert_group, &hp->n_expert_group_used, err));
    if (hp->n_expert_group <= 1) hp->n_expert_group = hp->n_expert_group_used = 0;
    if (hp->n_expert_group == 0) return SG_OK;
    if (hp->n_expert % hp->n_expert_group || hp->n_expert_group_used == 0 ||
        hp->n_expert / hp->n_expert_group * hp->n_expert_group_used < hp->n_expert_used)
        return sg_fail(err, SG_E_FORMAT, "%s: %u of %u experts cannot be chosen from %u of %u groups", path, hp->n_expert_used, hp->n_expert,
                       hp->n_expert_group_used, hp->n_expert_group);
    return SG_OK;
}

static sg_status read_experts(sg_keys *k, const sg_arch *arch, sg_hparams *hp, sg_error *err) {
    uint32_t shared = 0;
    const char *path = sg_gguf_path(k->g, 0);
    SG_TRY(sg_key_count(k, "expert_count", 0, SG_MAX_EXPERTS, &hp->n_expert, err));
    if (hp->n_expert == 0 && !sg_arch_rule(arch, true, SG_L_DOWN))
        return sg_fail(err, SG_E_FORMAT, "%s: %s is missing or 0, but %s has no dense layers", path, k->key, arch->name);
    if (hp->n_expert == 0) return SG_OK;
    if (!sg_arch_rule(arch, true, SG_L_ROUTER))
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: %s with %u experts is not known, only without", path, arch->name, hp->n_expert);
    SG_TRY(sg_key_dim(k, "expert_used_count", 0, hp->n_expert, &hp->n_expert_used, err));
    SG_TRY(sg_key_dim(k, "expert_feed_forward_length", hp->n_ff, SG_MAX_DIM, &hp->n_ff_exp, err));
    SG_TRY(sg_key_count(k, "expert_shared_count", 0, 1024, &shared, err));
    SG_TRY(sg_key_count(k, "expert_shared_feed_forward_length", shared ? shared * hp->n_ff_exp : hp->n_ff, SG_MAX_DIM, &hp->n_ff_shexp, err));
    return read_router(k, arch, hp, err);
}

/* Compressed attention and recurrent layers. */
static sg_status read_mixers(sg_keys *k, const sg_arch *arch, sg_hparams *hp, sg_error *err) {
    const char *path = sg_gguf_path(k->g, 0);
    if (arch->mixers == SG_MIXERS_LATENT) {
        SG_TRY(sg_key_count(k, "attention.q_lora_rank", 0, SG_MAX_DIM, &hp->n_q_lora, err));
        SG_TRY(sg_key_dim(k, "attention.kv_lora_rank", 0, SG_MAX_DIM, &hp->n_kv_lora, err));
        /* The other keys have the sizes in the cache in newer files. */
        SG_TRY(sg_key_dim(k, "attention.key_length_mla", hp->head_dim_k, SG_MAX_HEAD, &hp->head_dim_k, err));
        SG_TRY(sg_key_dim(k, "attention.value_length_mla", hp->head_dim_v, SG_MAX_HEAD, &hp->head_dim_v, err));
    } else if (arch->mixers == SG_MIXERS_CONV) {
        SG_TRY(sg_key_dim(k, "shortconv.l_cache", 0, SG_MAX_TAPS, &hp->n_taps, err));
    } else if (arch->mixers == SG_MIXERS_DELTA) {
        uint32_t inner;
        SG_TRY(sg_key_dim(k, "ssm.conv_kernel", 0, SG_MAX_TAPS, &hp->n_taps, err));
        SG_TRY(sg_key_dim(k, "ssm.group_count", 0, 65536, &hp->n_key_heads, err));
        SG_TRY(sg_key_dim(k, "ssm.time_step_rank", 0, 65536, &hp->n_value_heads, err));
        SG_TRY(sg_key_dim(k, "ssm.state_size", 0, SG_MAX_HEAD, &hp->delta_dim_k, err));
        SG_TRY(sg_key_dim(k, "ssm.inner_size", 0, SG_MAX_DIM, &inner, err));
        if (hp->n_value_heads % hp->n_key_heads || inner % hp->n_value_heads)
            return sg_fail(err, SG_E_FORMAT, "%s: %u values of %u heads with %u key heads are no delta net", path, inner, hp->n_value_heads,
                           hp->n_key_heads);
        hp->delta_dim_v = inner / hp->n_value_heads;
    }
    return SG_OK;
}

static sg_status read_scales(sg_keys *k, const sg_arch *arch, sg_hparams *hp, sg_error *err) {
    const bool wide = arch->wide_layers && hp->n_layer == arch->wide_layers;
    const double width = wide ? (double)hp->n_embd / hp->n_head : hp->head_dim_k;
    SG_TRY(factor(k, "attention.scale", 1.0f / sqrtf((float)width), &hp->attn_scale, err));
    SG_TRY(factor(k, "attn_logit_softcapping", 0, &hp->attn_softcap, err));
    SG_TRY(factor(k, "final_logit_softcapping", 0, &hp->final_softcap, err));
    SG_TRY(factor(k, "embedding_scale", arch->embd_sqrt ? sqrtf((float)hp->n_embd) : 1, &hp->embd_scale, err));
    SG_TRY(factor(k, "residual_scale", 1, &hp->residual_scale, err));
    /* Granite divides by it. */
    SG_TRY(factor(k, "logit_scale", 1, &hp->logit_scale, err));
    hp->logit_scale = 1 / hp->logit_scale;
    return SG_OK;
}

sg_status sg_hparams_read(const sg_gguf *g, const sg_arch *arch, sg_hparams *hp, sg_error *err) {
    sg_keys k = { .g = g, .prefix = arch->name };
    const char *path = sg_gguf_path(g, 0);
    *hp = (sg_hparams){ 0 };
    SG_TRY(sg_key_dim(&k, "context_length", 2048, INT32_MAX, &hp->n_ctx_train, err));
    SG_TRY(sg_key_dim(&k, "embedding_length", 0, SG_MAX_DIM, &hp->n_embd, err));
    SG_TRY(sg_key_dim(&k, "block_count", 0, 4096, &hp->n_layer, err));
    SG_TRY(sg_key_count(&k, "nextn_predict_layers", 0, hp->n_layer - 1, &hp->n_layer_left_out, err));
    hp->n_layer -= hp->n_layer_left_out;
    SG_TRY(sg_key_dim(&k, "feed_forward_length", 0, SG_MAX_DIM, &hp->n_ff, err));
    SG_TRY(sg_key_dim(&k, "attention.head_count", 0, 65536, &hp->n_head, err));
    if (hp->n_embd % hp->n_head && !sg_has_key(&k, "attention.key_length"))
        return sg_fail(err, SG_E_FORMAT, "%s: embedding length %u is no multiple of %u heads", path, hp->n_embd, hp->n_head);
    const uint32_t head = hp->n_embd / hp->n_head;
    SG_TRY(sg_key_dim(&k, "attention.key_length", head, SG_MAX_HEAD, &hp->head_dim_k, err));
    SG_TRY(sg_key_dim(&k, "attention.value_length", head, SG_MAX_HEAD, &hp->head_dim_v, err));
    SG_TRY(positive(&k, arch->norm == SG_NORM_LAYER ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", 1e-5f, &hp->norm_eps, err));
    SG_TRY(read_mixers(&k, arch, hp, err));
    SG_TRY(read_scales(&k, arch, hp, err));
    SG_TRY(read_rope(&k, arch, hp, err));
    if (arch->mixers == SG_MIXERS_LATENT && hp->rope.n_rot >= hp->head_dim_k)
        return sg_fail(err, SG_E_FORMAT, "%s: all %u values of a head are rotary", path, hp->head_dim_k);
    SG_TRY(read_experts(&k, arch, hp, err));
    return read_activation(&k, arch, hp, err);
}
