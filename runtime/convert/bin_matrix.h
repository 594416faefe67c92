/* A matrix in a source file, of whatever kind, as what model.bin is made from: rows of raw bytes or of values. */
#ifndef SG_CONVERT_BIN_MATRIX_H
#define SG_CONVERT_BIN_MATRIX_H

#include "runtime/convert/bin_gather.h"

typedef struct sg_bin_matrix {
    const char *name, *path; /* for messages, borrowed; name NULL: there is no such matrix */
    int fd;                  /* borrowed */
    sg_dtype type;
    bool is_int8; /* llama2.c: int8 values and F32 scales, one per `group` consecutive values, at scale_offset; `type` is I8 */
    uint64_t offset, scale_offset;
    uint32_t group;
    uint32_t rows, cols; /* cols: whole blocks */
    const sg_bin_gather *gather; /* NULL: the rows lie one behind the other from `offset` on; else in pieces, whose fds count (borrowed) */
    uint32_t first;              /* row of `gather` that is row 0 */
    bool unknown;                /* values may be no numbers: they are looked at even where they are not converted */
} sg_bin_matrix;

/* Bytes that sg_bin_matrix_load writes for n_cols values of a row. */
size_t sg_bin_matrix_bytes(const sg_bin_matrix *m, uint32_t n_cols);
/* Rows that are as quickly read together as one. */
uint32_t sg_bin_matrix_batch(const sg_bin_matrix *m);
/* Rows first .. first + n - 1 as a matrix. */
sg_bin_matrix sg_bin_matrix_rows(const sg_bin_matrix *m, uint32_t first, uint32_t n);
/* Columns that can only be read together. */
uint32_t sg_bin_matrix_block(const sg_bin_matrix *m);

/* Reads columns col .. col + n_cols - 1 (whole blocks) of rows row .. row + n_rows - 1, one row after the other. What was read in
 * one piece leaves the page cache. Thread-safe. */
SG_NODISCARD sg_status sg_bin_matrix_load(const sg_bin_matrix *m, uint32_t row, uint32_t n_rows, uint32_t col, uint32_t n_cols,
                                          uint8_t *raw, sg_error *err);
/* The values of one loaded row. `first` = row * cols + col, the number of the first value in the matrix. */
void sg_bin_matrix_values(const sg_bin_matrix *m, const uint8_t *raw, uint64_t first, uint32_t n_cols, float *out);
/* Lets the page cache forget the file: the matrix, and what was read ahead of it. */
void sg_bin_matrix_drop(const sg_bin_matrix *m);

/* Refuses values that are no finite numbers, or too large for `type` (sg_conv_check). */
SG_NODISCARD sg_status sg_bin_matrix_check(const sg_bin_matrix *m, const float *values, size_t n, sg_dtype type, sg_error *err);

#endif
