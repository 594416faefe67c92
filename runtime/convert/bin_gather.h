/* A matrix whose rows a reader gathers from pieces of its files: an expert here and an expert there, every second row, a matrix that is
 * stored the other way round, MXFP4 with its scales apart. model.bin is cut from it without a file between. */
#ifndef SG_CONVERT_BIN_GATHER_H
#define SG_CONVERT_BIN_GATHER_H

#include "runtime/convert/convert.h"

/* One part of the tensor, whole rows. */
typedef struct sg_bin_piece {
    sg_conv_part from; /* paths borrowed */
    int fd, scale_fd;  /* borrowed */
    uint32_t end;      /* the row behind its last one */
} sg_bin_piece;

typedef struct sg_bin_gather {
    const char *name;  /* borrowed */
    uint32_t rows, cols;
    sg_dtype type;     /* of what is loaded: that of the sources (MXFP4 as blocks of GGUF); F32 where they differ */
    bool turned;       /* neighbours in a row lie apart: many rows at once cost little more than one */
    uint32_t n_pieces;
    sg_bin_piece *pieces; /* owned */
} sg_bin_gather;

/* Of all matrices of t, one behind the other. `turned`: of each of them the transposed one, which sg_bin_gather_is_turned allows. The caller
 * sets the files' fds before anything is loaded, and calls finish whatever the result. */
SG_NODISCARD sg_status sg_bin_gather_init(sg_bin_gather *g, const sg_conv_tensor *t, bool turned, sg_error *err);
void sg_bin_gather_finish(sg_bin_gather *g);
/* Whether the matrices of t lie in their files the other way round, so that their columns are rows there. */
bool sg_bin_gather_is_turned(const sg_conv_tensor *t);

/* Reads columns col .. col + n_cols - 1 (whole blocks) of rows row .. row + n_rows - 1, one row after the other. Thread-safe. */
SG_NODISCARD sg_status sg_bin_gather_load(const sg_bin_gather *g, uint32_t row, uint32_t n_rows, uint32_t col, uint32_t n_cols, uint8_t *raw,
                                          sg_error *err);
/* Lets the page cache forget the files. */
void sg_bin_gather_drop(const sg_bin_gather *g);

#endif
