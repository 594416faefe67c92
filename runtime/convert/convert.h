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
    bool keep_blocks;   /* nobody named a type: blocks of the source (MXFP4) stay as they are; in bundles, which have none, they become Q8_0 */
    bool keep_down;     /* the same of down matrices */
    bool to_bin;        /* model.bin */
    int gate_type, down_type; /* sg_dtype of the bundles: gate and up, down; -1: by the source */
    uint32_t cluster;   /* neurons; 0: by the size of a gate row */
    uint64_t ram;       /* bytes for buffers; 0: choose */
    bool overwrite;
    sg_log log;
    sg_progress_fn progress;
    void *user;
} sg_conv_job;

/* One metadata entry that a reader found: "ARCH.NAME" in the file; a name that begins with "sparsegen." stays as it is. */
typedef struct sg_conv_key {
    char name[64];
    sg_gguf_type type; /* U32, F32, BOOL, STRING; with `list` an array of U32 */
    double number;
    const char *text; /* static */
    uint32_t *list;   /* [n], owned */
    uint32_t n;
} sg_conv_key;

typedef struct sg_conv_hparams {
    const char *arch; /* GGUF architecture, "llama" */
    uint32_t n_layer, n_vocab;
    sg_conv_key *keys; /* owned */
    size_t n_keys, cap_keys;
    bool failed; /* there was no memory for a key; sg_conv_write_metadata says so */
} sg_conv_hparams;

void sg_conv_set_u32(sg_conv_hparams *hp, const char *name, uint32_t v);
void sg_conv_set_f32(sg_conv_hparams *hp, const char *name, float v);
void sg_conv_set_bool(sg_conv_hparams *hp, const char *name, bool v);
void sg_conv_set_str(sg_conv_hparams *hp, const char *name, const char *v); /* v: static */
void sg_conv_set_list(sg_conv_hparams *hp, const char *name, const uint32_t *v, uint32_t n); /* copies */

typedef enum sg_conv_src {
    SG_CONV_SRC_F32 = 0,
    SG_CONV_SRC_F16,
    SG_CONV_SRC_BF16,
    SG_CONV_SRC_INT8, /* int8 values; F32 scales, one per `group` consecutive values, at scale_offset (llama2.c version
                         2) */
    SG_CONV_SRC_MXFP4 /* codes of 4 bits, value 2i in the low half of byte i; a scale byte per 32 values at scale_offset
                         (gpt-oss; the code of a value and the scale are those of OCP MXFP4) */
} sg_conv_src;

/* What is done with a value after it was read. */
typedef enum sg_conv_op { SG_CONV_COPY = 0, SG_CONV_PLUS_ONE, SG_CONV_NEG_EXP } sg_conv_op;

/* How consecutive values of the output lie in a source: value (i0, i1, ..) of a part is number i0 * stride0 + i1 * stride1 ..
 * of the source. axis[0] is the innermost; axes are merged where they can be (sg_conv_part_merge), so a part that is read
 * from end to end has one axis of stride 1. Sources in blocks (INT8, MXFP4) have stride 1 in whole blocks. */
#define SG_CONV_AXES 6
typedef struct sg_conv_part {
    const float *values; /* in memory (borrowed), or NULL: */
    const char *path;    /* file with the values (borrowed) */
    const char *scale_path; /* file with the scales of MXFP4 (borrowed) */
    uint64_t offset, scale_offset; /* of value 0 of the part */
    uint32_t group;
    sg_conv_src src;
    uint32_t n_axes;
    struct { uint64_t n, stride; } axis[SG_CONV_AXES];
} sg_conv_part;

/* One tensor of the output and where its values are: whole rows of each part, one part after the other. */
typedef struct sg_conv_tensor {
    char name[64];
    uint32_t n_dims; /* 1 to 3 */
    uint64_t ne[3];  /* values of a row, rows (1 for a vector), matrices */
    sg_dtype type;   /* to be written; set by sg_conv_write */
    bool keep_f32;   /* small and delicate (routers, convolutions): F32 whatever the job says */
    sg_conv_op op;
    uint32_t n_parts;
    sg_conv_part one, *many; /* one part, or (n_parts > 1) owned */
} sg_conv_tensor;

typedef struct sg_conv_model {
    sg_conv_hparams hp;
    sg_conv_vocab vocab;
    sg_conv_tensor *tensors;
    size_t n_tensors, cap_tensors;
    float *owned[2]; /* values that tensors borrow; free() */
} sg_conv_model;

/* Appends a zeroed tensor with its name (printf) and shape; ne1 == 0: a vector, ne2 == 0: a matrix. It has one part: all
 * values from end to end, of which the caller sets the source. NULL when there is no memory. */
sg_conv_tensor *sg_conv_add_tensor(sg_conv_model *m, uint64_t ne0, uint64_t ne1, uint64_t ne2, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
/* Makes room for n zeroed parts; NULL when there is no memory. */
sg_conv_part *sg_conv_set_parts(sg_conv_tensor *t, uint32_t n);
const sg_conv_part *sg_conv_parts(const sg_conv_tensor *t);
void sg_conv_part_merge(sg_conv_part *p);
uint64_t sg_conv_part_values(const sg_conv_part *p);
/* Where value i of the axes from .. n_axes - 1 lies, counted in values of the source. */
uint64_t sg_conv_part_at(const sg_conv_part *p, uint32_t from, uint64_t i);
/* One part of a file that is read from end to end and not changed; no MXFP4, whose blocks are not those of GGUF. */
bool sg_conv_is_plain(const sg_conv_tensor *t);
/* Releases what the model owns; accepts a zeroed model. */
void sg_conv_model_finish(sg_conv_model *m);

/* Readers: build the model from job->input and write it. */
SG_NODISCARD sg_status sg_conv_llama2c(const sg_conv_job *job, sg_error *err);
SG_NODISCARD sg_status sg_conv_hf(const sg_conv_job *job, sg_error *err);

/* Keys of the hyper-parameters. */
SG_NODISCARD sg_status sg_conv_write_metadata(const sg_conv_job *job, const sg_conv_hparams *hp, sg_gguf_writer *w, sg_error *err);

/* Chooses the types, writes metadata, vocabulary and tensors to job->output. */
SG_NODISCARD sg_status sg_conv_write(const sg_conv_job *job, sg_conv_model *m, sg_error *err);

/* Streams the values of t into the writer, through at most `room` bytes of memory, sg_conv_stream_least at least. *done counts bytes
 * written over all tensors, of `total`. */
SG_NODISCARD sg_status sg_conv_stream(const sg_conv_job *job, const sg_conv_tensor *t, sg_gguf_writer *w, size_t room, uint64_t *done,
                                      uint64_t total, sg_error *err);
size_t sg_conv_stream_least(const sg_conv_tensor *t);

/* Blocks of GGUF from n / 2 bytes of MXFP4 codes, of which neighbours share a byte, and n / 32 scales. Refuses scales that are no numbers. */
SG_NODISCARD sg_status sg_conv_pack_mxfp4(const char *path, const char *name, const uint8_t *codes, const uint8_t *scales, size_t n,
                                          uint8_t *out, sg_error *err);

/* Refuses values that are no finite numbers, or that `type` (F16 and the scales of the quantised types) cannot hold: the model would
 * write nonsense. */
SG_NODISCARD sg_status sg_conv_check(const char *path, const char *name, const float *values, size_t n, sg_dtype type,
                                     sg_error *err);

/* Name for general.name: the last part of the path without its ending, "" when that is not UTF-8. free() it. */
char *sg_conv_model_name(const char *path);

#endif
