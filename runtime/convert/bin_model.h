/* A model on its way to model.bin: what its layers are cut from, and what is taken over beside them. */
#ifndef SG_CONVERT_BIN_MODEL_H
#define SG_CONVERT_BIN_MODEL_H

#include "neuron_engine/bundle.h"
#include "runtime/convert/bin_matrix.h"
#include "runtime/convert/bin_pump.h"

/* The feed-forward matrices of one layer, or of its shared experts. up.name NULL: there are none, and nothing is cut. gate.name NULL: ungated.
 * With experts the rows of the one follow those of the other. */
typedef struct sg_bin_layer {
    sg_bin_matrix gate, up; /* [n_ff rows][n_embd] */
    sg_bin_matrix down;     /* [n_embd rows][n_ff], or as the others: */
    bool down_is_rows;
    uint32_t n_expert;      /* 0: no experts */
    sg_bundle_layout l;
} sg_bin_layer;

/* A tensor that is not cut. Exactly one of from, conv and matrix.name is set. */
typedef struct sg_bin_tensor {
    char name[65];
    sg_dtype type;
    uint32_t n_dims;
    uint64_t ne[4];
    const sg_tensor_info *from; /* bytes of an open GGUF file, as they are, read from fd */
    const char *path;
    int fd;
    const sg_conv_tensor *conv; /* streamed by sg_conv_stream */
    sg_bin_matrix matrix;       /* written in `type`, zeros behind its rows and columns */
} sg_bin_tensor;

/* What a layer may have, and the ends of the names of their matrices: "blk.3.ffn_up" END ".weight". */
enum { SG_BIN_DENSE = 0, SG_BIN_EXPERTS, SG_BIN_SHARED, SG_BIN_UNITS };
extern const char *const sg_bin_ends[SG_BIN_UNITS];
#define SG_BIN_MAX_EXPERTS (1u << 16)

typedef struct sg_bin_model {
    const char *path; /* for messages */
    uint32_t n_layer;
    bool fused;             /* up holds the rows of the gate and then those of up */
    const char *down_stem;  /* for messages, NULL: "ffn_down" */
    sg_bin_layer *layers; /* [n_layer], owned */
    sg_bin_layer *shexp;  /* [n_layer], owned: shared experts; NULL: no layer has any */
    sg_bin_tensor *tensors; /* owned, without the bundles */
    size_t n_tensors, cap_tensors;
    bool gated;
} sg_bin_model;

/* What is cut, in the order of the file, i < 2 * n_layer: each layer, then its shared experts; NULL where there is nothing to cut. */
static inline sg_bin_layer *sg_bin_unit(const sg_bin_model *m, uint32_t i) {
    sg_bin_layer *const of = i % 2 ? m->shexp : m->layers;
    return of && of[i / 2].up.name ? &of[i / 2] : NULL;
}

/* Whether files of an architecture have gate and up in one matrix. */
bool sg_bin_is_fused(const char *arch);
/* Layer i is what `units` hold, of which several may be empty. up.name NULL where a matrix is missing is refused, and so are layers that are both
 * dense and of experts. m->layers is there already. */
SG_NODISCARD sg_status sg_bin_set_layer(sg_bin_model *m, uint32_t i, sg_bin_layer units[SG_BIN_UNITS], sg_error *err);

sg_bin_tensor *sg_bin_add_tensor(sg_bin_model *m, const char *name); /* zeroed; NULL when there is no memory */
void sg_bin_model_finish(sg_bin_model *m);

/* Checks the shapes and chooses the types and the clusters of all layers: those that the job names, else by the types of the
 * source. BF16 that F16 cannot hold becomes F32; rows that are no whole blocks become F16, with a warning. */
SG_NODISCARD sg_status sg_bin_choose(const sg_conv_job *job, sg_bin_model *m, sg_error *err);

/* Writes the keys that are not about the bundles. */
typedef sg_status (*sg_bin_keys_fn)(void *arg, sg_gguf_writer *w, sg_error *err);
/* Writes the file: first the tensors in their order, then the bundles layer by layer. Memory: job->ram. */
SG_NODISCARD sg_status sg_bin_write(const sg_conv_job *job, sg_bin_model *m, sg_bin_keys_fn keys, void *arg, sg_error *err);

/* The bundle of one layer through the pump. slab: memory for down rows in GGUF's form, for whole clusters, one at least. */
SG_NODISCARD sg_status sg_bin_write_layer(sg_bin_pump *p, const sg_bin_layer *layer, uint8_t *slab, size_t slab_bytes,
                                          sg_error *err);
/* A tensor of `matrix`. */
SG_NODISCARD sg_status sg_bin_write_matrix(sg_bin_pump *p, const sg_bin_tensor *t, sg_error *err);

/* Of the tile that down matrices are turned in: rows and most columns. A pump's n_values are at least two of them. */
#define SG_BIN_TILE_ROWS 32u
#define SG_BIN_TILE_COLS 256u

/* Sources: job->input to job->output. */
SG_NODISCARD sg_status sg_bin_from_gguf(const sg_conv_job *job, sg_gguf *g, sg_error *err);
SG_NODISCARD sg_status sg_bin_from_conv(const sg_conv_job *job, sg_conv_model *m, sg_error *err);
/* Whether sg_bin_from_conv cuts t into neurons. */
bool sg_bin_cuts(const sg_conv_model *m, const sg_conv_tensor *t);

#endif
