/* A vocabulary on its way into a GGUF file (tokenizer.ggml.*), and the readers that fill it. */
#ifndef SG_CONVERT_VOCAB_OUT_H
#define SG_CONVERT_VOCAB_OUT_H

#include "io/gguf.h"
#include "runtime/base/mem.h"

/* tokenizer.ggml.token_type; SentencePiece uses the same numbers. */
enum {
    SG_TOK_NORMAL = 1,
    SG_TOK_UNKNOWN = 2,
    SG_TOK_CONTROL = 3,
    SG_TOK_USER_DEFINED = 4,
    SG_TOK_UNUSED = 5,
    SG_TOK_BYTE = 6
};

/* Owns all its strings. Tokens that nobody set are written as "[PAD<id>]", unused. */
typedef struct sg_conv_vocab {
    bool byte_level; /* true: "gpt2" with merges, false: "llama" with scores */
    const char *pre; /* tokenizer.ggml.pre, static */
    uint32_t n;
    char **text; /* [n], NULL: not set */
    float *scores;
    int32_t *types;
    sg_gguf_string *merges; /* "a b", best first */
    size_t n_merges;
    int32_t bos, eos, unk, pad; /* -1: none */
    bool add_bos, add_eos, add_space_prefix;
    char *chat_template; /* or NULL */
} sg_conv_vocab;

/* n must have been checked against the data of the model. */
SG_NODISCARD sg_status sg_conv_vocab_init(sg_conv_vocab *v, uint32_t n, sg_error *err);
void sg_conv_vocab_finish(sg_conv_vocab *v); /* accepts a zeroed vocabulary */
/* Copies the text; replaces what the id had. id < v->n. False without memory. */
SG_NODISCARD bool sg_conv_vocab_set(sg_conv_vocab *v, uint32_t id, const char *text, size_t len, float score,
                                    int32_t type);
int32_t sg_conv_vocab_find(const sg_conv_vocab *v, const char *text); /* -1; linear */

/* Writes tokenizer.ggml.* and tokenizer.chat_template. */
SG_NODISCARD sg_status sg_conv_vocab_write(sg_conv_vocab *v, sg_gguf_writer *w, sg_error *err);

/* Readers. v was initialised for the number of rows of the embedding; a file with more tokens than that is refused. */
SG_NODISCARD sg_status sg_conv_vocab_read_llama2c(sg_conv_vocab *v, const char *path, sg_error *err);
SG_NODISCARD sg_status sg_conv_vocab_read_spm(sg_conv_vocab *v, const char *path, sg_error *err);
SG_NODISCARD sg_status sg_conv_vocab_read_hf_json(sg_conv_vocab *v, const char *path, const sg_log *log, sg_error *err);
/* What lies in a Hugging Face folder: tokenizer.json or tokenizer.model (or the file `tokenizer`),
 * tokenizer_config.json, config.json, chat_template.jinja. */
SG_NODISCARD sg_status sg_conv_vocab_read_hf_folder(sg_conv_vocab *v, const char *dir, const char *tokenizer,
                                                    const sg_log *log, sg_error *err);

#endif
