/* Cuts text into words before byte-level BPE, by the regular expressions that belong to a name (tokenizer.ggml.pre). */
#ifndef SG_TEXT_PRETOK_H
#define SG_TEXT_PRETOK_H

#include "runtime/base/mem.h"

typedef struct sg_pretok sg_pretok;

typedef struct sg_span {
    size_t start, len;
} sg_span;

/* Memory that is kept between calls. Zeroed at the beginning; one thread at a time. After a split: the words, in order,
 * without gaps. */
typedef struct sg_pretok_work {
    sg_span *spans;
    size_t n, cap;
    sg_span *next; /* the stage that is being written */
    size_t n_next, next_cap;
} sg_pretok_work;

/* A name that is not known gets the default expressions, with one log line, as llama.cpp did until it refused such
 * files. Immutable: thread-safe. */
SG_NODISCARD sg_status sg_pretok_create(const char *name, const sg_log *log, sg_pretok **out, sg_error *err);
void sg_pretok_destroy(sg_pretok **p);
bool sg_pretok_ignores_merges(const sg_pretok *p); /* a word that is a token is taken as it is */
bool sg_pretok_adds_bos(const sg_pretok *p);       /* when the file does not say */
/* True when `name` has expressions of its own. */
bool sg_pretok_known(const char *name);

/* text must be valid UTF-8. Each expression cuts the pieces that the one before it left, so that matches and what lies
 * between them become pieces of their own. Linear in n: where a match runs into its limit, the rest of its piece stays
 * whole. */
SG_NODISCARD sg_status sg_pretok_split(const sg_pretok *p, const char *text, size_t n, sg_pretok_work *w,
                                       sg_error *err);
void sg_pretok_work_free(sg_pretok_work *w);

#endif
