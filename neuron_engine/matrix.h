/* A weight matrix in RAM: packed for the kernel that computes with it. */
#ifndef SG_NE_MATRIX_H
#define SG_NE_MATRIX_H

#include "neuron_engine/kernels/kernels.h"
#include "neuron_engine/quant.h"

/* y = W x. `data` is not owned (it lies in the model's region), 64-byte aligned. */
typedef struct sg_matrix {
    const sg_mat_kernel *kernel; /* NULL: no such matrix */
    const void *data;
    uint32_t rows, k;
} sg_matrix;

/* Bytes of the matrix as `kernel` wants it. */
size_t sg_matrix_bytes(const sg_mat_kernel *kernel, uint32_t rows, uint32_t k);

/* This thread's share of y[t][..] = W a[t] + bias for all tokens of a; y has ldy values per token, bias[rows] may be NULL. */
void sg_matrix_mul_share(const sg_matrix *w, const float *bias, const sg_acts *a, float *y, size_t ldy, uint32_t thread,
                         uint32_t n_threads);

/* Row `row` unpacked to out[k] (a token's embedding). */
void sg_matrix_row(const sg_matrix *w, uint32_t row, float *out);

#endif
