#include "runtime/convert/hf_config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/convert/file.h"

#define MAX_FILE (16u << 20)
#define FACTOR_MAX 1e6

static const sg_hf_arch archs[] = {
    { "LlamaForCausalLM", "llama", true, false, false, 0 },
    { "MistralForCausalLM", "llama", true, false, false, 0 },
    { "Qwen2ForCausalLM", "qwen2", false, true, false, 0 },
    { "Qwen3ForCausalLM", "qwen3", false, false, true, 128 },
};
static const char known[] = "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM";

typedef struct config {
    const cJSON *json;
    const char *path;
    const sg_log *log;
} config;

static sg_status find_arch(const config *f, const sg_hf_arch **out, sg_error *err) {
    const char *name = cJSON_GetStringValue(cJSON_GetArrayItem(sg_json_get(f->json, "architectures"), 0));
    if (!name) return sg_fail(err, SG_E_FORMAT, "%s: \"architectures\" is missing", f->path);
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++) {
        if (strcmp(archs[i].name, name) == 0) {
            *out = &archs[i];
            return SG_OK;
        }
    }
    return sg_fail(err, SG_E_UNSUPPORTED, "%s: the architecture %.80s cannot be converted (%s can)", f->path, name,
                   known);
}

static sg_status read_activation(const config *f, sg_conv_hparams *hp, sg_error *err) {
    const char *act = sg_json_str(f->json, "hidden_act");
    hp->ffn_act = NULL;
    if (!act || strcmp(act, "silu") == 0 || strcmp(act, "swish") == 0) return SG_OK;
    if (strcmp(act, "relu") == 0)
        hp->ffn_act = "relu";
    else if (strcmp(act, "drelu") == 0)
        hp->ffn_act = "drelu";
    else
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: the activation %.40s is not known (silu, relu, drelu)", f->path,
                       act);
    return SG_OK;
}

/* Inside the window full attention gives the same result, so the context ends there. */
static sg_status read_window(const config *f, const sg_hf_arch *arch, sg_conv_hparams *hp, sg_error *err) {
    bool uses = strcmp(arch->name, "MistralForCausalLM") == 0;
    uint32_t window = 0;
    if (strncmp(arch->name, "Qwen", 4) == 0) SG_TRY(sg_json_bool(f->json, f->path, "use_sliding_window", &uses, err));
    SG_TRY(sg_json_u32(f->json, f->path, "sliding_window", 1, UINT32_MAX, false, &window, err));
    if (!uses || window == 0 || window >= hp->n_ctx) return SG_OK;
    sg_log_line(f->log, SG_LOG_WARN, "%s: the context is set to the attention window of %u tokens (from %u)", f->path,
                window, hp->n_ctx);
    hp->n_ctx = window;
    return SG_OK;
}

static sg_status read_dims(const config *f, const sg_hf_arch *arch, sg_conv_hparams *hp, sg_error *err) {
    const cJSON *j = f->json;
    SG_TRY(sg_json_u32(j, f->path, "hidden_size", 1, SG_CONV_MAX_DIM, true, &hp->n_embd, err));
    SG_TRY(sg_json_u32(j, f->path, "intermediate_size", 1, SG_CONV_MAX_DIM, true, &hp->n_ff, err));
    SG_TRY(sg_json_u32(j, f->path, "num_hidden_layers", 1, SG_CONV_MAX_LAYERS, true, &hp->n_layer, err));
    SG_TRY(sg_json_u32(j, f->path, "num_attention_heads", 1, 65536, true, &hp->n_head, err));
    hp->n_head_kv = hp->n_head;
    SG_TRY(sg_json_u32(j, f->path, "num_key_value_heads", 1, 65536, false, &hp->n_head_kv, err));
    SG_TRY(sg_json_u32(j, f->path, "vocab_size", 1, SG_CONV_MAX_VOCAB, true, &hp->n_vocab, err));
    SG_TRY(sg_json_u32(j, f->path, "max_position_embeddings", 1, INT32_MAX, true, &hp->n_ctx, err));
    SG_TRY(sg_json_f32(j, f->path, "rms_norm_eps", 1e-12, 1.0, true, &hp->norm_eps, err));
    hp->head_dim = arch->head_dim;
    SG_TRY(sg_json_u32(j, f->path, "head_dim", 1, 65536, false, &hp->head_dim, err));
    if (hp->n_head % hp->n_head_kv)
        return sg_fail(err, SG_E_FORMAT, "%s: %u heads are no multiple of %u key/value heads", f->path, hp->n_head,
                       hp->n_head_kv);
    if (hp->head_dim == 0 && hp->n_embd % hp->n_head)
        return sg_fail(err, SG_E_FORMAT, "%s: hidden_size %u is no multiple of %u heads", f->path, hp->n_embd,
                       hp->n_head);
    if (hp->head_dim == 0) hp->head_dim = hp->n_embd / hp->n_head;
    if (hp->head_dim % 2) return sg_fail(err, SG_E_FORMAT, "%s: the head size %u is odd", f->path, hp->head_dim);
    return read_window(f, arch, hp, err);
}

/* ---- rotary scaling -----------------------------------------------------------------------------------------------
 */

/* Llama 3.1: low frequencies are divided by `factor`, high ones kept, those between blended. Method: llama-models,
 * reference model.py, apply_scaling; the result is stored as a divisor for each frequency (rope_freqs.weight), as
 * llama.cpp does. */
static sg_status llama3_freqs(const config *f, const cJSON *rope, sg_conv_hparams *hp, sg_error *err) {
    float factor = 8, low = 1, high = 4;
    uint32_t original = 8192;
    SG_TRY(sg_json_f32(rope, f->path, "factor", 1, FACTOR_MAX, true, &factor, err));
    SG_TRY(sg_json_f32(rope, f->path, "low_freq_factor", 1e-6, FACTOR_MAX, false, &low, err));
    SG_TRY(sg_json_f32(rope, f->path, "high_freq_factor", 1e-6, FACTOR_MAX, false, &high, err));
    SG_TRY(sg_json_u32(rope, f->path, "original_max_position_embeddings", 1, INT32_MAX, false, &original, err));
    if (high <= low)
        return sg_fail(err, SG_E_FORMAT, "%s: high_freq_factor %g is not above low_freq_factor %g", f->path, high, low);
    const uint32_t n = hp->head_dim / 2;
    hp->rope_freqs = malloc(n * sizeof *hp->rope_freqs);
    if (!hp->rope_freqs) return sg_fail(err, SG_E_NOMEM, "%s: no memory", f->path);
    for (uint32_t i = 0; i < n; i++) {
        const double freq = pow(hp->rope_base, -2.0 * i / hp->head_dim), wavelength = 2 * 3.14159265358979323846 / freq;
        const double smooth = (original / wavelength - low) / ((double)high - low);
        double divisor = 1;
        if (wavelength > original / (double)low)
            divisor = factor;
        else if (wavelength >= original / (double)high)
            divisor = 1 / ((1 - smooth) / factor + smooth);
        hp->rope_freqs[i] = (float)divisor;
    }
    return SG_OK;
}

/* YaRN scales cos and sin by attention_factor, 0.1 ln(factor) + 1 unless the file says otherwise (arXiv 2309.00071,
 * equation 22). In GGUF that default is implied and attn_factor multiplies it. */
static sg_status read_yarn(const config *f, const cJSON *rope, sg_conv_hparams *hp, sg_error *err) {
    float attention = 0, mscale = 0, mscale_all = 0;
    bool truncate = true;
    hp->rope = SG_CONV_ROPE_YARN;
    hp->n_ctx_orig = hp->n_ctx;
    SG_TRY(sg_json_f32(rope, f->path, "factor", 1, FACTOR_MAX, true, &hp->rope_factor, err));
    SG_TRY(sg_json_u32(rope, f->path, "original_max_position_embeddings", 1, INT32_MAX, false, &hp->n_ctx_orig, err));
    SG_TRY(sg_json_f32(rope, f->path, "beta_fast", 1e-3, FACTOR_MAX, false, &hp->beta_fast, err));
    SG_TRY(sg_json_f32(rope, f->path, "beta_slow", 1e-3, FACTOR_MAX, false, &hp->beta_slow, err));
    SG_TRY(sg_json_f32(rope, f->path, "attention_factor", 1e-3, FACTOR_MAX, false, &attention, err));
    SG_TRY(sg_json_f32(rope, f->path, "mscale", 0, FACTOR_MAX, false, &mscale, err));
    SG_TRY(sg_json_f32(rope, f->path, "mscale_all_dim", 0, FACTOR_MAX, false, &mscale_all, err));
    SG_TRY(sg_json_bool(rope, f->path, "truncate", &truncate, err));
    if (!truncate) return sg_fail(err, SG_E_UNSUPPORTED, "%s: YaRN with truncate = false is not known", f->path);
    const float step = 0.1f * logf(hp->rope_factor);
    if (attention == 0 && mscale > 0 && mscale_all > 0) attention = (mscale * step + 1) / (mscale_all * step + 1);
    if (attention > 0) hp->rope_attn_factor = attention / (step + 1);
    return SG_OK;
}

/* Up to version 4 of the library: rope_theta and rope_scaling; from 5 on both in rope_parameters. */
static sg_status read_rope(const config *f, sg_conv_hparams *hp, sg_error *err) {
    const cJSON *rope = sg_json_get(f->json, "rope_parameters");
    if (!rope) rope = sg_json_get(f->json, "rope_scaling");
    if (rope && !cJSON_IsObject(rope))
        return sg_fail(err, SG_E_FORMAT, "%s: the rotary parameters are no object", f->path);
    hp->rope_base = 10000.0f;
    SG_TRY(sg_json_f32(f->json, f->path, "rope_theta", 1, 1e12, false, &hp->rope_base, err));
    SG_TRY(sg_json_f32(rope, f->path, "rope_theta", 1, 1e12, false, &hp->rope_base, err));
    float partial = 1;
    SG_TRY(sg_json_f32(f->json, f->path, "partial_rotary_factor", 0, 1, false, &partial, err));
    SG_TRY(sg_json_f32(rope, f->path, "partial_rotary_factor", 0, 1, false, &partial, err));
    if (partial != 1)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: partial_rotary_factor %g is not known, only 1", f->path, partial);
    const char *type = sg_json_str(rope, "rope_type");
    if (!type) type = sg_json_str(rope, "type");
    if (!type || strcmp(type, "default") == 0) return SG_OK;
    if (strcmp(type, "llama3") == 0) return llama3_freqs(f, rope, hp, err);
    if (strcmp(type, "yarn") == 0) return read_yarn(f, rope, hp, err);
    if (strcmp(type, "linear") == 0) {
        hp->rope = SG_CONV_ROPE_LINEAR;
        return sg_json_f32(rope, f->path, "factor", 1e-3, FACTOR_MAX, true, &hp->rope_factor, err);
    }
    return sg_fail(err, SG_E_UNSUPPORTED, "%s: the rotary scaling %.40s is not known (default, linear, yarn, llama3)",
                   f->path, type);
}

static sg_status read_flags(const config *f, sg_hf_config *c, sg_error *err) {
    bool attention_bias = false, mlp_bias = false;
    const cJSON *quant = sg_json_get(f->json, "quantization_config");
    if (quant) {
        const char *method = sg_json_str(quant, "quant_method");
        return sg_fail(err, SG_E_UNSUPPORTED,
                       "%s: the weights are quantised (%.40s); convert the model they were made from", f->path,
                       method ? method : "quantization_config");
    }
    SG_TRY(sg_json_bool(f->json, f->path, "attention_bias", &attention_bias, err));
    SG_TRY(sg_json_bool(f->json, f->path, "mlp_bias", &mlp_bias, err));
    if (mlp_bias)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: biases in the feed-forward block (mlp_bias) are not known", f->path);
    c->qkv_bias = c->arch->qkv_bias || attention_bias;
    c->o_bias = !c->arch->qkv_bias && attention_bias;
    c->says_tied = sg_json_get(f->json, "tie_word_embeddings") != NULL;
    return sg_json_bool(f->json, f->path, "tie_word_embeddings", &c->tied, err);
}

sg_status sg_hf_config_read(const char *path, const sg_log *log, sg_hf_config *c, sg_conv_hparams *hp, sg_error *err) {
    cJSON *json = NULL;
    SG_TRY(sg_json_read(path, MAX_FILE, &json, err));
    const config f = { json, path, log };
    sg_status status = find_arch(&f, &c->arch, err);
    if (status == SG_OK) hp->arch = c->arch->gguf;
    if (status == SG_OK) status = read_flags(&f, c, err);
    if (status == SG_OK) status = read_dims(&f, c->arch, hp, err);
    if (status == SG_OK) status = read_activation(&f, hp, err);
    if (status == SG_OK) status = read_rope(&f, hp, err);
    cJSON_Delete(json);
    return status;
}
