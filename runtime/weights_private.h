/* The tensors of a file on their way into RAM; shared by weights*.c, and by what decides which of them stay away. */
#ifndef SG_RUNTIME_WEIGHTS_PRIVATE_H
#define SG_RUNTIME_WEIGHTS_PRIVATE_H

#include "runtime/weights.h"

/* FIXED: matrices that always stay in RAM: those of heads, learned positions, what names experts ahead. EXPERTS: matrices or bundles. */
typedef enum sg_load_part {
    SG_LOAD_VECTOR, SG_LOAD_MATRIX, SG_LOAD_EMBEDDING, SG_LOAD_PREDICTOR, SG_LOAD_BUNDLE, SG_LOAD_FIXED, SG_LOAD_EXPERTS
} sg_load_part;

/* Rows of a tensor that become the matrices of a weight: `n` times `rows` rows, the first at row `from`, `apart` rows from one matrix to
 * the next. turn: matrix i is the transpose of them. */
typedef struct sg_load_rows {
    uint32_t n, rows, from, apart;
    bool turn;
} sg_load_rows;

typedef struct sg_load_job {
    sg_load_part part;
    bool away;                   /* stays in the file; set by the owner before sg_weights_load */
    const sg_tensor_info *info;
    sg_weight *dst;
    const uint8_t **raw;         /* instead of dst: bytes, kept as they are */
    const sg_mat_kernel *kernel; /* NULL: values, kept as F32, or bytes */
    sg_load_rows rows;           /* with a kernel */
    size_t bytes, offset;        /* of its place in the region */
    size_t order;                /* of use */
} sg_load_job;

struct sg_loader {
    const sg_gguf *g;
    const sg_kernels *kernels;
    sg_load_job *jobs; /* owned, in the order of use */
    size_t n_jobs;
    uint32_t n_layer;
    size_t total; /* bytes of the region */
    size_t chunk;
    const sg_weights_options *options;
    uint64_t done, to_read; /* bytes of the file, for progress */
};

/* Finds what the model needs, and fills *w with everything but data: kernels, shapes, layouts. w is the caller's to finish, also on failure. */
SG_NODISCARD sg_status sg_loader_init(sg_loader *l, sg_weights *w, const sg_gguf *g, const sg_model_desc *d, const sg_kernels *kernels,
                                      sg_error *err);
void sg_loader_finish(sg_loader *l);

#endif
