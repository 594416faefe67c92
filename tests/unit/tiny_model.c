#include "tests/unit/tiny_model.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/gguf.h"

typedef struct tensor {
    char name[64];
    uint64_t ne[2];
    uint32_t n_dims;
    bool norm;
} tensor;

typedef struct list {
    const tiny_model *t;
    tensor v[64];
    int n;
} list;

static void add(list *l, const char *name, uint64_t ne0, uint64_t ne1) {
    if (l->t->skip_tensor && strcmp(l->t->skip_tensor, name) == 0) return;
    tensor *x = &l->v[l->n++];
    snprintf(x->name, sizeof x->name, "%s", name);
    if (l->t->odd_tensor && strcmp(l->t->odd_tensor, name) == 0) ne1 ? ne1++ : ne0++;
    x->ne[0] = ne0;
    x->ne[1] = ne1;
    x->n_dims = ne1 ? 2 : 1;
    x->norm = strstr(name, "norm") != NULL;
}

static void add_tensors(list *l) {
    const tiny_model *t = l->t;
    const uint64_t d = t->n_embd, head = t->n_head ? d / t->n_head : 1, kv = head * t->n_head_kv;
    add(l, "token_embd.weight", d, TINY_VOCAB);
    add(l, "output_norm.weight", d, 0);
    for (uint32_t i = 0; i < t->n_layer && i < 4; i++) {
        const struct { const char *name; uint64_t ne0, ne1; } layer[] = {
            { "attn_norm", d, 0 },   { "attn_q", d, d },        { "attn_k", d, kv },       { "attn_v", d, kv }, { "attn_output", d, d },
            { "ffn_norm", d, 0 },    { "ffn_gate", d, t->n_ff }, { "ffn_up", d, t->n_ff }, { "ffn_down", t->n_ff, d },
        };
        for (size_t k = 0; k < sizeof layer / sizeof *layer; k++) {
            char name[64];
            snprintf(name, sizeof name, "blk.%u.%s.weight", i, layer[k].name);
            add(l, name, layer[k].ne0, layer[k].ne1);
        }
    }
    if (t->extra_tensor) add(l, t->extra_tensor, 32, 0);
}

static bool skipped(const tiny_model *t, const char *key) { return t->skip_key && strcmp(t->skip_key, key) == 0; }

static void u32(sg_gguf_writer *w, const tiny_model *t, const char *suffix, uint32_t v) {
    char key[128];
    snprintf(key, sizeof key, "%s.%s", t->arch, suffix);
    if (!skipped(t, key)) sg_gguf_writer_u32(w, key, v);
}

static void add_vocabulary(sg_gguf_writer *w, const tiny_model *t) {
    static char text[TINY_VOCAB][16];
    static sg_gguf_string tokens[TINY_VOCAB];
    static float scores[TINY_VOCAB];
    static int32_t types[TINY_VOCAB];
    for (uint32_t i = 0; i < TINY_VOCAB; i++) {
        if (i < 3) snprintf(text[i], sizeof text[i], "%s", i == 0 ? "<unk>" : i == 1 ? "<s>" : "</s>");
        else if (i < 259) snprintf(text[i], sizeof text[i], "<0x%02X>", i - 3);
        else snprintf(text[i], sizeof text[i], "%s%c", i - 259 < 26 ? "" : "\xE2\x96\x81", 'a' + (int)(i - 259) % 26);
        tokens[i] = (sg_gguf_string){ text[i], strlen(text[i]) };
        scores[i] = -(float)i;
        types[i] = i == 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1;
    }
    if (!skipped(t, "tokenizer.ggml.model")) sg_gguf_writer_str(w, "tokenizer.ggml.model", "llama");
    if (!skipped(t, "tokenizer.ggml.tokens")) sg_gguf_writer_strings(w, "tokenizer.ggml.tokens", tokens, t->n_tokens);
    sg_gguf_writer_array(w, "tokenizer.ggml.scores", SG_GGUF_F32, scores, t->n_tokens);
    sg_gguf_writer_array(w, "tokenizer.ggml.token_type", SG_GGUF_I32, types, t->n_tokens);
    sg_gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", 1);
    sg_gguf_writer_u32(w, "tokenizer.ggml.eos_token_id", 2);
}

/* Uniform in [-1, 1), the same on every machine. */
static float noise(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) / 8388608.0f - 1.0f;
}

static void write_tensors(sg_gguf_writer *w, const list *l, sg_error *err) {
    uint32_t state = 1;
    for (int i = 0; i < l->n; i++) {
        const tensor *x = &l->v[i];
        const size_t n = x->ne[0] * (x->ne[1] ? x->ne[1] : 1);
        float *v = malloc(n * sizeof *v);
        for (size_t k = 0; k < n; k++) v[k] = x->norm ? 1.0f + 0.2f * noise(&state) : 0.3f * noise(&state);
        ck_assert_msg(sg_gguf_writer_data(w, v, n * sizeof *v, err) == SG_OK, "%s", err->message);
        free(v);
    }
}

void tiny_model_write(const tiny_model *t, const char *path) {
    sg_error err = { 0 };
    sg_gguf_writer *w = NULL;
    ck_assert_msg(sg_gguf_writer_create(path, 32, true, &w, &err) == SG_OK, "%s", err.message);
    if (!skipped(t, "general.architecture")) sg_gguf_writer_str(w, "general.architecture", t->arch);
    sg_gguf_writer_str(w, "general.name", "tiny");
    u32(w, t, "context_length", 128);
    u32(w, t, "embedding_length", t->n_embd);
    u32(w, t, "block_count", t->n_layer);
    u32(w, t, "feed_forward_length", t->n_ff);
    u32(w, t, "attention.head_count", t->n_head);
    u32(w, t, "attention.head_count_kv", t->n_head_kv);
    u32(w, t, "rope.dimension_count", t->n_rot);
    if (t->n_expert) u32(w, t, "expert_count", t->n_expert);
    char key[128];
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", t->arch);
    sg_gguf_writer_f32(w, key, t->eps);
    snprintf(key, sizeof key, "%s.rope.freq_base", t->arch);
    sg_gguf_writer_f32(w, key, t->freq_base);
    if (t->rope_type) {
        snprintf(key, sizeof key, "%s.rope.scaling.type", t->arch);
        sg_gguf_writer_str(w, key, t->rope_type);
    }
    if (t->rope_factor != 0) {
        snprintf(key, sizeof key, "%s.rope.scaling.factor", t->arch);
        sg_gguf_writer_f32(w, key, t->rope_factor);
    }
    if (t->scale_linear != 0) {
        snprintf(key, sizeof key, "%s.rope.scale_linear", t->arch);
        sg_gguf_writer_f32(w, key, t->scale_linear);
    }
    if (t->add_eos) sg_gguf_writer_bool(w, "tokenizer.ggml.add_eos_token", true);
    if (t->activation) sg_gguf_writer_str(w, "sparsegen.ffn_activation", t->activation);
    add_vocabulary(w, t);
    list l = { .t = t };
    add_tensors(&l);
    for (int i = 0; i < l.n; i++) sg_gguf_writer_tensor(w, l.v[i].name, SG_DTYPE_F32, l.v[i].n_dims, l.v[i].ne);
    ck_assert_msg(sg_gguf_writer_begin_data(w, &err) == SG_OK, "%s", err.message);
    write_tensors(w, &l, &err);
    ck_assert_msg(sg_gguf_writer_finish(w, &err) == SG_OK, "%s", err.message);
    sg_gguf_writer_abort(&w);
}
