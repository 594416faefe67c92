/* The vocabulary of a tokenizer: texts, types and scores of the tokens, look-up by text, and the search for special
 * tokens in a text. Immutable after loading: thread-safe. */
#ifndef SG_TEXT_VOCAB_H
#define SG_TEXT_VOCAB_H

#include "io/gguf.h"
#include "runtime/base/mem.h"

/* Values of tokenizer.ggml.token_type (GGUF specification). */
typedef enum sg_token_type {
    SG_TOKEN_NORMAL = 1,
    SG_TOKEN_UNKNOWN = 2,
    SG_TOKEN_CONTROL = 3,
    SG_TOKEN_USER_DEFINED = 4,
    SG_TOKEN_UNUSED = 5,
    SG_TOKEN_BYTE = 6
} sg_token_type;

enum {
    SG_TOKEN_EOG = 1,   /* ends a generation */
    SG_TOKEN_RSTRIP = 2 /* swallows the white space that follows it */
};

typedef struct sg_vocab {
    uint32_t n;
    bool byte_level;      /* texts are written in GPT-2's byte alphabet */
    size_t max_len;       /* longest text in bytes */
    char *text;           /* texts as the file has them, one after the other; text_at[i] .. text_at[i + 1] */
    size_t *text_at;      /* n + 1 */
    char *piece;          /* what each token stands for in running text; piece_at as above */
    size_t *piece_at;     /* n + 1 */
    uint8_t *type;        /* sg_token_type */
    uint8_t *flags;       /* SG_TOKEN_EOG, .. */
    float *score;         /* zeros when the file has none */
    int32_t byte_id[256]; /* token of a single byte, -1: none */

    /* open addressing, keyed by text; ids + 1, 0 is free. The seed is random, so that no file can be made to collide.
     */
    uint32_t *table;
    uint32_t mask;
    uint64_t seed;

    /* special tokens (control, user-defined, unknown) sorted by text, without doubles */
    uint32_t *special;
    uint32_t n_special;
    bool special_first[256]; /* some special token begins with this byte */
    bool user_first[256];    /* .. a user-defined one */
} sg_vocab;

/* Special tokens longer than this are not looked for in a text: it bounds the time per byte. The longest in use have
 * about 50. */
#define SG_SPECIAL_MAX_LEN 512

/* Reads tokens, token types and scores. *v must be zeroed; release it with sg_vocab_free also after a failure. */
SG_NODISCARD sg_status sg_vocab_load(sg_vocab *v, const sg_gguf *g, bool byte_level, sg_error *err);
/* Builds what depends on token types and flags: call once, after the last change of them. */
SG_NODISCARD sg_status sg_vocab_index_special(sg_vocab *v, sg_error *err);
void sg_vocab_free(sg_vocab *v);

static inline const char *sg_vocab_text(const sg_vocab *v, uint32_t id, size_t *len) {
    *len = v->text_at[id + 1] - v->text_at[id];
    return v->text + v->text_at[id];
}

/* Id of a text, -1 when there is none. Of equal texts the last one counts, as in llama.cpp. */
int32_t sg_vocab_find(const sg_vocab *v, const char *text, size_t len);

/* The same for what plain text may become: no control, unknown or byte token, so that "</s>" in a prompt stays text
 * even where its pieces could be joined (as in SentencePiece; llama.cpp joins them). */
int32_t sg_vocab_find_plain(const sg_vocab *v, const char *text, size_t len);

/* Longest special token at the beginning of s[0..n): its id and length, or -1. `all`: control and unknown tokens too,
 * not only user-defined ones. */
int32_t sg_vocab_special_at(const sg_vocab *v, const char *s, size_t n, bool all, size_t *len);

/* GPT-2's byte alphabet: each byte is written as one printable character (U+0021 .. U+0143). */
uint32_t sg_byte_to_char(uint8_t byte);
int sg_char_to_byte(uint32_t cp); /* -1 when the character is not of the alphabet */

/* The byte that a token of SentencePiece stands for, written "<0x0A>": two hexadecimal digits of either case; -1 when it
 * is not written so. */
int sg_byte_token(const char *text, size_t len);

/* Mixes 64 bits; the base of the hash tables here. */
static inline uint64_t sg_hash_mix(uint64_t a, uint64_t b) {
    const unsigned __int128 m = (unsigned __int128)(a ^ 0x9E3779B97F4A7C15u) * (b ^ 0xD1B54A32D192ED03u);
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

#endif
