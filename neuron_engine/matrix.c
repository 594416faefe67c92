#include "neuron_engine/matrix.h"

#include <string.h>

size_t sg_matrix_bytes(const sg_mat_kernel *kernel, uint32_t rows, uint32_t k) {
    if (kernel->packed_bytes) return kernel->packed_bytes(rows, k);
    return (size_t)rows * sg_dtype_bytes(sg_dtype_get(kernel->type), k);
}

/* Adds the product with what the 8 bits left out, some rows and tokens at a time. */
static void add_rest(const sg_matrix *w, const sg_acts *a, float *y, size_t ldy, uint32_t row0, uint32_t row1) {
    enum { TOKENS = 32 };
    float more[TOKENS * SG_ROW_CLUSTER];
    const sg_acts rest = sg_acts_rest(a);
    for (uint32_t row = row0; row < row1; row += SG_ROW_CLUSTER)
        for (uint32_t t = 0; t < a->n; t += TOKENS) {
            const uint32_t end = row1 - row < SG_ROW_CLUSTER ? row1 : row + SG_ROW_CLUSTER, n = a->n - t < TOKENS ? a->n - t : TOKENS;
            const sg_acts part = sg_acts_rows(&rest, t, n);
            (n == 1 ? w->kernel->gemv : w->kernel->gemm)(more - row, SG_ROW_CLUSTER, w->data, &part, row, end);
            for (uint32_t i = 0; i < n; i++)
                for (uint32_t r = row; r < end; r++) y[(t + i) * ldy + r] += more[i * SG_ROW_CLUSTER + r - row];
        }
}

void sg_matrix_mul(const sg_matrix *w, const float *bias, const sg_acts *a, float *y, size_t ldy, uint32_t lo, uint32_t hi) {
    const uint32_t row0 = lo * SG_ROW_CLUSTER, row1 = hi * SG_ROW_CLUSTER < w->rows ? hi * SG_ROW_CLUSTER : w->rows;
    if (a->n == 1) w->kernel->gemv(y, ldy, w->data, a, row0, row1);
    else w->kernel->gemm(y, ldy, w->data, a, row0, row1);
    if (w->kernel->acts_q8 && a->rest_q) add_rest(w, a, y, ldy, row0, row1);
    if (!bias) return;
    for (uint32_t t = 0; t < a->n; t++)
        for (uint32_t r = row0; r < row1; r++) y[t * ldy + r] += bias[r];
}

size_t sg_matrix_item_bytes(const sg_matrix *w) { return sg_matrix_bytes(w->kernel, w->away->rows, w->k); }

void sg_matrix_mul_item(const sg_matrix *w, const float *bias, const sg_acts *a, float *y, size_t ldy, uint32_t i, const uint8_t *raw,
                        void *scratch) {
    const uint32_t row0 = i * w->away->rows, n = w->rows - row0 < w->away->rows ? w->rows - row0 : w->away->rows;
    if (w->kernel->pack) w->kernel->pack(scratch, raw, n, w->k);
    else memcpy(scratch, raw, n * w->away->row_bytes); /* a kernel wants its rows aligned */
    const sg_matrix part = { .kernel = w->kernel, .data = scratch, .rows = n, .k = w->k };
    sg_matrix_mul(&part, bias ? bias + row0 : NULL, a, y + row0, ldy, 0, sg_matrix_clusters(&part));
}

void sg_matrix_row(const sg_matrix *w, uint32_t row, float *out) {
    if (w->kernel->unpack_row) {
        w->kernel->unpack_row(out, w->data, row, w->k);
        return;
    }
    const size_t bytes = sg_dtype_bytes(sg_dtype_get(w->kernel->type), w->k);
    sg_dequantize(w->kernel->type, (const char *)w->data + row * bytes, out, w->k);
}
