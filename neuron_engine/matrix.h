/* A weight matrix in RAM: packed for the kernel that computes with it. */
#ifndef SG_NE_MATRIX_H
#define SG_NE_MATRIX_H

#include "neuron_engine/acts.h"
#include "neuron_engine/quant.h"

/* Where the rows of a matrix lie that is not in RAM: in the file, in the file's form. They come on the belt, some rows at a time. */
typedef struct sg_matrix_away {
    uint64_t offset;
    uint32_t file;
    size_t row_bytes;
    uint32_t rows;    /* of an item; a multiple of SG_ROW_CLUSTER */
    uint32_t item[2]; /* first item in each of the belt's programs */
} sg_matrix_away;

/* y = W x. `data` is not owned (it lies in the model's region), 64-byte aligned. Tensors of experts and of heads hold n of them. */
typedef struct sg_matrix {
    const sg_mat_kernel *kernel; /* NULL: no such matrix */
    const void *data;
    uint32_t rows, k;
    uint32_t n;                 /* matrices of the tensor; 0 stands for 1 */
    size_t apart;               /* bytes from one to the next */
    const sg_matrix_away *away; /* not NULL: data is */
} sg_matrix;

/* Bytes of the matrix as `kernel` wants it. */
size_t sg_matrix_bytes(const sg_mat_kernel *kernel, uint32_t rows, uint32_t k);
/* Matrix i of a tensor that holds several. */
static inline sg_matrix sg_matrix_at(const sg_matrix *w, uint32_t i) {
    return (sg_matrix) { .kernel = w->kernel, .data = (const char *)w->data + i * w->apart, .rows = w->rows, .k = w->k };
}

/* Rows are handed to threads in clusters of so many; a multiple of every kernel's tile. */
#define SG_ROW_CLUSTER 32u
static inline uint32_t sg_matrix_items(const sg_matrix *w) { return (w->rows + w->away->rows - 1) / w->away->rows; }
static inline uint32_t sg_matrix_clusters(const sg_matrix *w) { return (w->rows + SG_ROW_CLUSTER - 1) / SG_ROW_CLUSTER; }

/* Clusters lo .. hi-1 of y[t][..] = W a[t] + bias for all tokens of a; y has ldy values per token, bias[rows] may be NULL. */
void sg_matrix_mul(const sg_matrix *w, const float *bias, const sg_acts *a, float *y, size_t ldy, uint32_t lo, uint32_t hi);

/* The same for the rows of item i of a matrix that is away, which lie at `raw` as in the file. scratch: sg_matrix_item_bytes, 64-byte
 * aligned. */
size_t sg_matrix_item_bytes(const sg_matrix *w);
void sg_matrix_mul_item(const sg_matrix *w, const float *bias, const sg_acts *a, float *y, size_t ldy, uint32_t i, const uint8_t *raw,
                        void *scratch);

/* Row `row` unpacked to out[k] (a token's embedding). */
void sg_matrix_row(const sg_matrix *w, uint32_t row, float *out);

#endif
