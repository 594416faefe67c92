/* Inside of sg_convert: other model files become one GGUF file. A reader (llama2c.c, hf.c) fills an sg_conv_model:
 * hyper-parameters, vocabulary, and for every tensor where its values lie. emit.c writes it; quantise.c streams the
 * values through a buffer of a few MiB, so a model of any size converts in little memory.
 *
 * Everything read here is untrusted. Values are read with pread, so a file that shrinks meanwhile is an error, no
 * signal. */
#ifndef SG_CONVERT_H
#define SG_CONVERT_H

#include "io/gguf.h"
#include "runtime/base/mem.h"
#include "runtime/convert/vocab_out.h"

/* Larger than any model, small enough that products of three cannot overflow 64 bits; the same as in models/hparams.c.
 */
#define SG_CONV_MAX_DIM (1u << 20)
#define SG_CONV_MAX_VOCAB (1u << 24)
#define SG_CONV_MAX_LAYERS 4096u

/* The request: options with their defaults filled in. */
typedef struct sg_conv_job {
    const char *input, *output, *tokenizer;
    sg_dtype type;      /* of plain GGUF, and of what is beside the bundles where the source is no GGUF */
    bool to_bin;        /* model.bin */
    int gate_type, down_type; /* sg_dtype of the bundles: gate and up, down; -1: by the source */
    uint32_t cluster;   /* neurons; 0: by the size of a gate row */
    uint64_t ram;       /* bytes for buffers; 0: choose */
    bool overwrite;
    sg_log log;
    sg_progress_fn progress;
    void *user;
} sg_conv_job;

typedef enum sg_conv_rope { SG_CONV_ROPE_PLAIN = 0, SG_CONV_ROPE_LINEAR, SG_CONV_ROPE_YARN } sg_conv_rope;

typedef struct sg_conv_hparams {
    const char *arch; /* GGUF architecture, "llama" */
    uint32_t n_embd, n_ff, n_layer, n_head, n_head_kv, head_dim, n_vocab, n_ctx;
    float norm_eps, rope_base;
    const char *ffn_act; /* "relu" or "drelu"; NULL: silu, for which no key is written */
    sg_conv_rope rope;
    float rope_factor, rope_attn_factor; /* rope_attn_factor 0: not written; the same for the next three */
    float beta_fast, beta_slow;
    uint32_t n_ctx_orig;
    float *rope_freqs; /* [head_dim / 2] divisors of the rotary frequencies (Llama 3.1), or NULL; free() */
} sg_conv_hparams;

typedef enum sg_conv_src {
    SG_CONV_SRC_F32 = 0,
    SG_CONV_SRC_F16,
    SG_CONV_SRC_BF16,
    SG_CONV_SRC_INT8 /* int8 values; F32 scales, one per `group` consecutive values, at scale_offset (llama2.c version
                        2) */
} sg_conv_src;

/* One tensor of the output and where its values are. Sources hold rows one after the other, as GGUF does. */
typedef struct sg_conv_tensor {
    char name[64];
    uint32_t n_dims;     /* 1 or 2 */
    uint64_t ne[2];      /* values of a row, rows (1 for a vector) */
    sg_dtype type;       /* to be written; set by sg_conv_write */
    const float *values; /* in memory (borrowed), or NULL: */
    const char *path;    /* file with the values (borrowed) */
    uint64_t offset, scale_offset;
    uint32_t group;
    sg_conv_src src;
    /* 0, or the number of heads that the rows (of a vector: the values) belong to. In the source, row i of a head turns
     * with row i + head_dim/2; in the output neighbours turn, so row i goes to 2i and row i + head_dim/2 to 2i + 1. */
    uint32_t n_pair_heads;
} sg_conv_tensor;

typedef struct sg_conv_model {
    sg_conv_hparams hp;
    sg_conv_vocab vocab;
    sg_conv_tensor *tensors;
    size_t n_tensors, cap_tensors;
} sg_conv_model;

/* Appends a zeroed tensor with its name (printf) and shape; ne1 == 0: a vector. NULL when there is no memory. */
sg_conv_tensor *sg_conv_add_tensor(sg_conv_model *m, uint64_t ne0, uint64_t ne1, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* Releases what the model owns; accepts a zeroed model. */
void sg_conv_model_finish(sg_conv_model *m);

/* Readers: build the model from job->input and write it. */
SG_NODISCARD sg_status sg_conv_llama2c(const sg_conv_job *job, sg_error *err);
SG_NODISCARD sg_status sg_conv_hf(const sg_conv_job *job, sg_error *err);

/* Keys of the hyper-parameters. */
SG_NODISCARD sg_status sg_conv_write_metadata(const sg_conv_job *job, const sg_conv_hparams *hp, sg_gguf_writer *w, sg_error *err);

/* Chooses the types, writes metadata, vocabulary and tensors to job->output. */
SG_NODISCARD sg_status sg_conv_write(const sg_conv_job *job, sg_conv_model *m, sg_error *err);

/* Streams the values of t into the writer. *done counts bytes written over all tensors, of `total`. */
SG_NODISCARD sg_status sg_conv_stream(const sg_conv_job *job, const sg_conv_tensor *t, sg_gguf_writer *w,
                                      uint64_t *done, uint64_t total, sg_error *err);

/* Refuses values that are no finite numbers, or that `type` (F16 and the scales of the quantised types) cannot hold: the model would
 * write nonsense. */
SG_NODISCARD sg_status sg_conv_check(const char *path, const char *name, const float *values, size_t n, sg_dtype type,
                                     sg_error *err);

/* Name for general.name: the last part of the path without its ending, "" when that is not UTF-8. free() it. */
char *sg_conv_model_name(const char *path);

#endif
