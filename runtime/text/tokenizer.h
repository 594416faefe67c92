/* Text to tokens and back. Two families, chosen by tokenizer.ggml.model:
 *
 *   "llama"  SentencePiece-type BPE: merges the pair whose piece has the best score; byte fallback (tok_spm.c)
 *   "gpt2"   byte-level BPE: a regular expression, chosen by tokenizer.ggml.pre, cuts the text into words (pretok.c);
 *            merges by rank inside each word (tok_bpe.c)
 *
 * Special tokens (control, user-defined) are found before either. A tokenizer is immutable after creation: thread-safe.
 */
#ifndef SG_TEXT_TOKENIZER_H
#define SG_TEXT_TOKENIZER_H

#include "io/gguf.h"
#include "runtime/base/mem.h"

typedef struct sg_tokenizer sg_tokenizer;

/* Reads the tokenizer.ggml.* keys. `g` may be closed afterwards. A model may have more ids than the vocabulary (padding
 * of its embedding): they decode to "". Fails when the vocabulary is missing or contradicts itself; what can be lived
 * with (an unknown pre-tokenizer, merges of unknown pieces, ids out of range) is told to `log`. */
SG_NODISCARD sg_status sg_tokenizer_create(const sg_gguf *g, const sg_log *log, sg_tokenizer **out, sg_error *err);
void sg_tokenizer_destroy(sg_tokenizer **t);

/* Appends the tokens of text[0..len) to *out. flags: SG_TOKENIZE_*. The text must be valid UTF-8 (SG_E_UTF8 else).
 * Special tokens are taken from left to right, the longest at each place: user-defined ones always, control tokens only
 * with PARSE_SPECIAL; without it no text gives a control token. SentencePiece's space is put before the first words
 * and again after each special token, as llama.cpp does. */
SG_NODISCARD sg_status sg_tokenizer_encode(const sg_tokenizer *t, const char *text, size_t len, unsigned flags,
                                           sg_ids *out, sg_error *err);

/* Bytes of one token as they appear in running text: byte tokens give their byte, control tokens nothing unless
 * `show_special`. The leading space that SentencePiece adds is NOT removed here (see the detokenizer). Returns a
 * pointer that lives as long as the tokenizer; *len its length. Unknown ids give "". */
const char *sg_tokenizer_piece(const sg_tokenizer *t, int32_t id, bool show_special, size_t *len);

/* True when a space at the beginning of this token, as the first of a text, is the one that SentencePiece put there. */
bool sg_tokenizer_drops_space(const sg_tokenizer *t, int32_t id);

uint32_t sg_tokenizer_n_vocab(const sg_tokenizer *t);
int32_t sg_tokenizer_bos(const sg_tokenizer *t); /* -1: none */
int32_t sg_tokenizer_eos(const sg_tokenizer *t);
bool sg_tokenizer_adds_bos(const sg_tokenizer *t);
bool sg_tokenizer_is_eog(const sg_tokenizer *t, int32_t id);
int32_t sg_tokenizer_find(const sg_tokenizer *t, const char *piece); /* id of an exact vocabulary entry, -1 */
const char *sg_tokenizer_model(const sg_tokenizer *t);               /* "llama" or "gpt2" */
const char *sg_tokenizer_pre(const sg_tokenizer *t);                 /* "llama-bpe", "" for SentencePiece */

/* Turns tokens into text as they come, holding back an unfinished UTF-8 character (never half a character). At the
 * beginning of a text the space that SentencePiece put before the first word is dropped. */
typedef struct sg_detok {
    const sg_tokenizer *t;
    bool at_start; /* nothing fed yet */
    bool show_special;
    char pending[4]; /* first bytes of an unfinished character */
    size_t n_pending;
} sg_detok;
void sg_detok_init(sg_detok *d, const sg_tokenizer *t, bool at_start, bool show_special);
/* Appends the text that is complete now. Bytes that cannot become UTF-8 any more come out as U+FFFD. */
void sg_detok_feed(sg_detok *d, int32_t id, sg_str *out);
/* Appends what was held back (as U+FFFD when it is not a whole character). */
void sg_detok_finish(sg_detok *d, sg_str *out);

#endif
