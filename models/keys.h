/* Reading metadata keys of an architecture; for hparams.c and layers.c. */
#ifndef SG_MODELS_KEYS_H
#define SG_MODELS_KEYS_H

#include "models/model.h"

/* Larger than any model, small enough that products of three of them cannot overflow 64 bits. */
#define SG_MAX_DIM (1u << 20)
#define SG_MAX_HEAD 65536u
#define SG_MAX_EXPERTS 65536u
#define SG_MAX_TAPS 64u

typedef struct sg_keys {
    const sg_gguf *g;
    const char *prefix; /* "llama" */
    char key[160];
} sg_keys;

/* "llama.suffix", in k->key until the next call. */
const char *sg_key(sg_keys *k, const char *suffix);
bool sg_has_key(sg_keys *k, const char *suffix);
/* An integer that must be there (`fallback` == 0) or has a default, and lies in 1 .. max. */
SG_NODISCARD sg_status sg_key_dim(sg_keys *k, const char *suffix, uint32_t fallback, uint32_t max, uint32_t *out, sg_error *err);
/* The same with 0 allowed. */
SG_NODISCARD sg_status sg_key_count(sg_keys *k, const char *suffix, uint32_t fallback, uint32_t max, uint32_t *out, sg_error *err);

#endif
