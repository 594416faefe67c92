#include "runtime/convert/vocab_out.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

sg_status sg_conv_vocab_init(sg_conv_vocab *v, uint32_t n, sg_error *err) {
    *v = (sg_conv_vocab) { .pre = "default", .n = n, .bos = -1, .eos = -1, .unk = -1, .pad = -1 };
    v->text = calloc(n, sizeof *v->text);
    v->scores = calloc(n, sizeof *v->scores);
    v->types = calloc(n, sizeof *v->types);
    if (v->text && v->scores && v->types) return SG_OK;
    sg_conv_vocab_finish(v);
    return sg_fail(err, SG_E_NOMEM, "no memory for a vocabulary of %u tokens", n);
}

void sg_conv_vocab_finish(sg_conv_vocab *v) {
    if (v->text)
        for (uint32_t i = 0; i < v->n; i++) free(v->text[i]);
    for (size_t i = 0; i < v->n_merges; i++) free((char *)v->merges[i].text);
    free(v->text);
    free(v->scores);
    free(v->types);
    free(v->merges);
    free(v->chat_template);
    *v = (sg_conv_vocab) { 0 };
}

bool sg_conv_vocab_set(sg_conv_vocab *v, uint32_t id, const char *text, size_t len, float score, int32_t type) {
    char *copy = strndup(text, len);
    if (!copy) return false;
    free(v->text[id]);
    v->text[id] = copy;
    v->scores[id] = score;
    v->types[id] = type;
    return true;
}

int32_t sg_conv_vocab_find(const sg_conv_vocab *v, const char *text) {
    for (uint32_t i = 0; i < v->n; i++)
        if (v->text[i] && strcmp(v->text[i], text) == 0) return (int32_t)i;
    return -1;
}

/* Ids beyond the file's tokens exist where an embedding is padded to a round number of rows. */
static bool fill_gaps(sg_conv_vocab *v) {
    for (uint32_t i = 0; i < v->n; i++) {
        if (v->text[i]) continue;
        char name[24];
        const int len = snprintf(name, sizeof name, "[PAD%u]", i);
        if (!sg_conv_vocab_set(v, i, name, (size_t)len, -10000.0f, SG_TOK_UNUSED)) return false;
    }
    return true;
}

static void write_id(sg_gguf_writer *w, const char *key, int32_t id) {
    if (id >= 0) sg_gguf_writer_u32(w, key, (uint32_t)id);
}

sg_status sg_conv_vocab_write(sg_conv_vocab *v, sg_gguf_writer *w, sg_error *err) {
    sg_gguf_string *tokens = malloc(v->n * sizeof *tokens);
    if (!tokens || !fill_gaps(v)) {
        free(tokens);
        return sg_fail(err, SG_E_NOMEM, "no memory for a vocabulary of %u tokens", v->n);
    }
    for (uint32_t i = 0; i < v->n; i++) tokens[i] = (sg_gguf_string) { v->text[i], strlen(v->text[i]) };
    sg_gguf_writer_str(w, "tokenizer.ggml.model", v->byte_level ? "gpt2" : "llama");
    sg_gguf_writer_str(w, "tokenizer.ggml.pre", v->pre);
    sg_gguf_writer_strings(w, "tokenizer.ggml.tokens", tokens, v->n);
    if (!v->byte_level) sg_gguf_writer_array(w, "tokenizer.ggml.scores", SG_GGUF_F32, v->scores, v->n);
    sg_gguf_writer_array(w, "tokenizer.ggml.token_type", SG_GGUF_I32, v->types, v->n);
    if (v->byte_level) sg_gguf_writer_strings(w, "tokenizer.ggml.merges", v->merges, v->n_merges);
    write_id(w, "tokenizer.ggml.bos_token_id", v->bos);
    write_id(w, "tokenizer.ggml.eos_token_id", v->eos);
    write_id(w, "tokenizer.ggml.unknown_token_id", v->unk);
    write_id(w, "tokenizer.ggml.padding_token_id", v->pad);
    sg_gguf_writer_bool(w, "tokenizer.ggml.add_bos_token", v->add_bos);
    sg_gguf_writer_bool(w, "tokenizer.ggml.add_eos_token", v->add_eos);
    if (!v->byte_level) sg_gguf_writer_bool(w, "tokenizer.ggml.add_space_prefix", v->add_space_prefix);
    if (v->chat_template) sg_gguf_writer_str(w, "tokenizer.chat_template", v->chat_template);
    free(tokens);
    return SG_OK;
}
