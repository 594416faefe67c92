/* Hugging Face folders whose feed-forward matrices do not lie in one piece each. */
#ifndef SG_TESTS_MOE_FOLDER_H
#define SG_TESTS_MOE_FOLDER_H

#include "tests/unit/convert_fixture.h"

/* MIXTRAL: every expert a tensor of its own, in two shards. GRANITE: gate and up of all experts in one tensor. GPT2: turned, no experts. */
typedef enum folder_kind { MIXTRAL, GRANITE, GPT2 } folder_kind;

typedef struct folder_shape {
    folder_kind kind;
    const char *dtype;
    unsigned n_embd, n_ff, n_expert, n_vocab;
} folder_shape;

/* dims: one to three, then 0. */
static inline void st_put(st_file *f, const char *dtype, unsigned seed, const size_t dims[3], const char *name) {
    st_add(f, name, dtype, dims[1] ? dims[0] * (dims[2] ? dims[1] : 1) : 0, dims[2] ? dims[2] : dims[1] ? dims[1] : dims[0], seed);
    if (!dims[2]) return;
    /* the shape again, with three dimensions of the same number of values */
    char two[64], three[64];
    const int a = snprintf(two, sizeof two, "[%zu,%zu]", dims[0] * dims[1], dims[2]);
    const int b = snprintf(three, sizeof three, "[%zu,%zu,%zu]", dims[0], dims[1], dims[2]);
    char *at = NULL;
    for (char *p = f->header.data; (p = strstr(p, two)); p++) at = p;
    ck_assert(at != NULL);
    char *rest = strdup(at + a);
    f->header.len = (size_t)(at - f->header.data);
    sg_str_append(&f->header, three, (size_t)b);
    sg_str_puts(&f->header, rest);
    free(rest);
}

#define PUT(seed, d0, d1, d2, ...)                                                                                                        \
    do {                                                                                                                                   \
        char name_[128];                                                                                                                   \
        snprintf(name_, sizeof name_, __VA_ARGS__);                                                                                        \
        st_put(f, s->dtype, (seed) + 100 * l, (const size_t[3]) { d0, d1, d2 }, name_);                                                    \
    } while (0)

static inline void put_gpt2_layer(st_file *f, const folder_shape *s, unsigned l) {
    const size_t d = s->n_embd;
    for (unsigned i = 1; i <= 2; i++) {
        PUT(S_ANORM + i, d, 0, 0, "h.%u.ln_%u.weight", l, i);
        PUT(S_QN + i, d, 0, 0, "h.%u.ln_%u.bias", l, i);
    }
    PUT(S_Q, d, 3 * d, 0, "h.%u.attn.c_attn.weight", l);
    PUT(S_QB, 3 * d, 0, 0, "h.%u.attn.c_attn.bias", l);
    PUT(S_O, d, d, 0, "h.%u.attn.c_proj.weight", l);
    PUT(S_KB, d, 0, 0, "h.%u.attn.c_proj.bias", l);
    PUT(S_UP, d, s->n_ff, 0, "h.%u.mlp.c_fc.weight", l);
    PUT(S_VB, s->n_ff, 0, 0, "h.%u.mlp.c_fc.bias", l);
    PUT(S_DOWN, s->n_ff, d, 0, "h.%u.mlp.c_proj.weight", l);
    PUT(S_KN, d, 0, 0, "h.%u.mlp.c_proj.bias", l);
}

static inline void put_moe_layer(st_file *f, const folder_shape *s, unsigned l) {
    const size_t d = s->n_embd, ff = s->n_ff;
    PUT(S_ANORM, d, 0, 0, "model.layers.%u.input_layernorm.weight", l);
    PUT(S_FNORM, d, 0, 0, "model.layers.%u.post_attention_layernorm.weight", l);
    PUT(S_Q, d, d, 0, "model.layers.%u.self_attn.q_proj.weight", l);
    PUT(S_K, d / 2, d, 0, "model.layers.%u.self_attn.k_proj.weight", l);
    PUT(S_V, d / 2, d, 0, "model.layers.%u.self_attn.v_proj.weight", l);
    PUT(S_O, d, d, 0, "model.layers.%u.self_attn.o_proj.weight", l);
    if (s->kind == GRANITE) {
        PUT(S_KN, s->n_expert, d, 0, "model.layers.%u.block_sparse_moe.router.layer.weight", l);
        PUT(S_GATE, s->n_expert, 2 * ff, d, "model.layers.%u.block_sparse_moe.input_linear.weight", l);
        PUT(S_DOWN, s->n_expert, d, ff, "model.layers.%u.block_sparse_moe.output_linear.weight", l);
        return;
    }
    PUT(S_KN, s->n_expert, d, 0, "model.layers.%u.block_sparse_moe.gate.weight", l);
    for (unsigned e = 0; e < s->n_expert; e++) {
        PUT(S_GATE + 20 * e, ff, d, 0, "model.layers.%u.block_sparse_moe.experts.%u.w1.weight", l, e);
        PUT(S_DOWN + 20 * e, d, ff, 0, "model.layers.%u.block_sparse_moe.experts.%u.w2.weight", l, e);
        PUT(S_UP + 20 * e, ff, d, 0, "model.layers.%u.block_sparse_moe.experts.%u.w3.weight", l, e);
    }
}

/* The file, and its tensors for the index. */
static inline void write_shard(st_file *f, const char *name, sg_str *map) {
    for (const char *p = f->header.data; (p = strchr(p, '"'));) { /* the names are the keys before an object */
        const char *end = strchr(p + 1, '"');
        if (strncmp(end, "\":{", 3) == 0) sg_str_printf(map, "%s%.*s\":\"%s\"", map->len ? "," : "", (int)(end - p), p, name);
        p = end + 1;
    }
    st_write(f, name);
}

static inline void write_folder(const folder_shape *s) {
    st_file file = { 0 }, *f = &file;
    sg_str map = { 0 }, index = { 0 };
    char more[400];
    const bool gpt2 = s->kind == GPT2;
    unsigned l = 0;
    PUT(S_EMBD, s->n_vocab, s->n_embd, 0, gpt2 ? "wte.weight" : "model.embed_tokens.weight");
    if (gpt2) PUT(S_K, CTX, s->n_embd, 0, "wpe.weight");
    for (; l < LAYERS; l++) {
        if (gpt2) put_gpt2_layer(f, s, l);
        else put_moe_layer(f, s, l);
        if (l == 0 && s->kind == MIXTRAL) write_shard(f, "model-1.safetensors", &map);
    }
    l = 0;
    PUT(S_NORM, s->n_embd, 0, 0, gpt2 ? "ln_f.weight" : "model.norm.weight");
    if (gpt2) PUT(S_GATE, s->n_embd, 0, 0, "ln_f.bias");
    if (s->kind == MIXTRAL) {
        write_shard(f, "model-2.safetensors", &map);
        sg_str_printf(&index, "{\"weight_map\":{%s}}", map.data);
        write_str("model.safetensors.index.json", index);
    } else {
        st_write(f, "model.safetensors");
    }
    free(map.data);
    snprintf(more, sizeof more,
             "\"hidden_size\":%u,\"intermediate_size\":%u,\"num_local_experts\":%u,\"num_experts_per_tok\":1,\"vocab_size\":%u,"
             "\"n_embd\":%u,\"n_inner\":%u,\"n_layer\":%d,\"n_head\":%d,\"n_positions\":%d,\"tie_word_embeddings\":true,",
             s->n_embd, s->n_ff, s->n_expert, s->n_vocab, s->n_embd, s->n_ff, LAYERS, HEADS, CTX);
    static const char *const classes[] = { "MixtralForCausalLM", "GraniteMoeForCausalLM", "GPT2LMHeadModel" };
    write_config(classes[s->kind], more);
    write_text("tokenizer.json", gpt2 ? BYTES_JSON : SPM_JSON);
}
#undef PUT

#endif
