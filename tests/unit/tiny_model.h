/* A tiny random llama written with the project's own GGUF writer, and ways to spoil it. */
#ifndef TESTS_TINY_MODEL_H
#define TESTS_TINY_MODEL_H

#include <stdbool.h>
#include <stdint.h>

typedef struct tiny_model {
    const char *arch;         /* "llama" */
    const char *activation;   /* sparsegen.ffn_activation, or NULL */
    const char *rope_type;    /* rope.scaling.type, or NULL */
    const char *skip_key;     /* metadata key to leave out, or NULL */
    const char *skip_tensor;  /* tensor to leave out, or NULL */
    const char *odd_tensor;   /* tensor whose rows are one too many, or NULL */
    const char *extra_tensor; /* a tensor that llama does not have, or NULL */
    uint32_t n_embd, n_layer, n_head, n_head_kv, n_ff, n_rot, n_expert;
    float eps, freq_base;
    float rope_factor, scale_linear; /* rope.scaling.factor, rope.scale_linear; 0: not written */
    bool add_eos;
    uint32_t n_tokens; /* in the vocabulary; the embedding has TINY_VOCAB rows */
} tiny_model;

#define TINY_VOCAB 300
#define TINY_MODEL_INIT { "llama", 0, 0, 0, 0, 0, 0, 64, 2, 4, 2, 96, 16, 0, 1e-5f, 10000.0f, 0, 0, false, TINY_VOCAB }

/* Writes the model to `path` (replacing it); weights are seeded, F32. Fails the running check test on errors. */
void tiny_model_write(const tiny_model *t, const char *path);

#endif
