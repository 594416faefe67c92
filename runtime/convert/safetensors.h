/* Reader of safetensors headers for untrusted files.
 * Format: https://huggingface.co/docs/safetensors, section "Format": 8 bytes length, JSON header, values. */
#ifndef SG_CONVERT_SAFETENSORS_H
#define SG_CONVERT_SAFETENSORS_H

#include "runtime/base/error.h"

#define SG_ST_MAX_DIMS 8
#define SG_ST_MAX_HEADER (100u * 1000 * 1000) /* the limit of the format's own reader */

typedef struct sg_st_tensor {
    char *name;     /* owned */
    char dtype[12]; /* "BF16" */
    uint32_t n_dims;
    uint64_t dims[SG_ST_MAX_DIMS]; /* outermost first */
    const char *path;              /* file that holds it; owned by the set */
    uint64_t offset, n_bytes;      /* in that file; checked to lie inside */
    bool used;                     /* for the user of the set */
} sg_st_tensor;

/* The tensors of one file or of several shards, sorted by name. Zero-initialise. */
typedef struct sg_st_set {
    sg_st_tensor *tensors;
    size_t n, cap;
    char **paths;
    size_t n_paths;
} sg_st_set;

/* Adds the tensors of one file. After a success every tensor lies inside the file, its size is that of its shape, none
 * overlap and together they fill the file. Call sg_st_sort when all files are added. */
SG_NODISCARD sg_status sg_st_add_file(sg_st_set *set, const char *path, sg_error *err);
/* Sorts by name; SG_E_FORMAT when two tensors share one. */
SG_NODISCARD sg_status sg_st_sort(sg_st_set *set, sg_error *err);
sg_st_tensor *sg_st_find(const sg_st_set *set, const char *name); /* NULL when absent */
void sg_st_finish(sg_st_set *set);

#endif
