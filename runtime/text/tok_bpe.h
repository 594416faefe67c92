/* Byte-level BPE: inside each word neighbours are joined in the order of the list of merges. */
#ifndef SG_TEXT_TOK_BPE_H
#define SG_TEXT_TOK_BPE_H

#include "runtime/text/merge.h"
#include "runtime/text/pretok.h"
#include "runtime/text/vocab.h"

typedef struct sg_bpe_merge {
    uint32_t left, right; /* tokens */
    uint32_t rank;        /* place in the list + 1; 0: free entry of the table */
    int32_t id;           /* what they make */
} sg_bpe_merge;

/* Owns its parts; release with sg_bpe_free. Immutable after loading. */
typedef struct sg_bpe {
    sg_pretok *pretok;
    sg_bpe_merge *table; /* open addressing by (left, right) */
    uint32_t mask;
} sg_bpe;

/* *b must be zeroed. `pre`: tokenizer.ggml.pre. */
SG_NODISCARD sg_status sg_bpe_load(sg_bpe *b, const sg_vocab *v, const sg_gguf *g, const char *pre, const sg_log *log,
                                   sg_error *err);
void sg_bpe_free(sg_bpe *b);

/* Memory that is kept between fragments of one text. Zeroed at the beginning. */
typedef struct sg_bpe_work {
    sg_pretok_work pretok;
    sg_str word;
} sg_bpe_work;
void sg_bpe_work_free(sg_bpe_work *w);

/* Appends the tokens of valid UTF-8 text[0..n). A byte that the vocabulary lacks is dropped, as llama.cpp does. */
SG_NODISCARD sg_status sg_bpe_encode(const sg_bpe *b, const sg_vocab *v, const char *text, size_t n, sg_merger *m,
                                     sg_bpe_work *w, sg_ids *out, sg_error *err);

#endif
