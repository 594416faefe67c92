/* config.json of a Hugging Face folder. */
#ifndef SG_CONVERT_HF_CONFIG_H
#define SG_CONVERT_HF_CONFIG_H

#include "runtime/convert/convert.h"

/* What differs between the architectures that are known. */
typedef struct sg_hf_arch {
    const char *name; /* "LlamaForCausalLM", as in config.json */
    const char *gguf;
    bool pairs_rows; /* rows of Q and K are reordered for GGUF, see n_pair_heads */
    bool qkv_bias;   /* Q, K, V have biases whatever the configuration says */
    bool qk_norm;
    uint32_t head_dim; /* when the configuration gives none; 0: hidden_size / heads */
} sg_hf_arch;

typedef struct sg_hf_config {
    const sg_hf_arch *arch;
    bool qkv_bias, o_bias;
    bool tied;      /* the output shares the embedding */
    bool says_tied; /* the configuration has tie_word_embeddings at all */
} sg_hf_config;

/* Reads and checks config.json at `path`. hp->rope_freqs may be allocated, on failure too. */
SG_NODISCARD sg_status sg_hf_config_read(const char *path, const sg_log *log, sg_hf_config *c, sg_conv_hparams *hp,
                                         sg_error *err);

#endif
