#include "runtime/convert/bin_matrix.h"

#include <fcntl.h>
#include <string.h>

#include "neuron_engine/quant.h"
#include "runtime/convert/file.h"

#define WORTH_DROPPING ((size_t)64 << 10)
#define BATCH 32u

uint32_t sg_bin_matrix_block(const sg_bin_matrix *m) { return m->is_int8 ? 1 : sg_dtype_get(m->type)->block_values; }

uint32_t sg_bin_matrix_batch(const sg_bin_matrix *m) {
    if (!m->gather || !m->gather->turned) return 1;
    return m->rows < BATCH ? m->rows : BATCH;
}

sg_bin_matrix sg_bin_matrix_rows(const sg_bin_matrix *m, uint32_t first, uint32_t n) {
    sg_bin_matrix out = *m;
    out.rows = n;
    if (m->gather) out.first += first;
    else out.offset += (uint64_t)first * sg_bin_matrix_bytes(m, m->cols);
    return out;
}

/* int8: the codes, then, from a multiple of four on, all scales that they touch. */
static size_t int8_scales_at(uint32_t n_cols) { return ((size_t)n_cols + 3) / 4 * 4; }

size_t sg_bin_matrix_bytes(const sg_bin_matrix *m, uint32_t n_cols) {
    if (!m->is_int8) return (size_t)sg_dtype_bytes(sg_dtype_get(m->type), n_cols);
    return int8_scales_at(n_cols) + 4 * ((size_t)n_cols / m->group + 2);
}

static sg_status load_int8(const sg_bin_matrix *m, uint64_t first, uint32_t n, uint8_t *raw, sg_error *err) {
    const uint64_t group = first / m->group, groups = (first + n - 1) / m->group - group + 1;
    SG_TRY(sg_file_read_at(m->fd, m->path, raw, n, m->offset + first, err));
    return sg_file_read_at(m->fd, m->path, raw + int8_scales_at(n), groups * 4, m->scale_offset + group * 4, err);
}

static sg_status load_piece(const sg_bin_matrix *m, uint8_t *raw, size_t n, uint64_t offset, sg_error *err) {
    SG_TRY(sg_file_read_at(m->fd, m->path, raw, n, offset, err));
    if (n >= WORTH_DROPPING) posix_fadvise(m->fd, (off_t)offset, (off_t)n, POSIX_FADV_DONTNEED);
    return SG_OK;
}

sg_status sg_bin_matrix_load(const sg_bin_matrix *m, uint32_t row, uint32_t n_rows, uint32_t col, uint32_t n_cols, uint8_t *raw,
                             sg_error *err) {
    const size_t bytes = sg_bin_matrix_bytes(m, n_cols);
    if (m->gather) return sg_bin_gather_load(m->gather, m->first + row, n_rows, col, n_cols, raw, err);
    if (m->is_int8) {
        for (uint32_t i = 0; i < n_rows; i++)
            SG_TRY(load_int8(m, (uint64_t)(row + i) * m->cols + col, n_cols, raw + i * bytes, err));
        return SG_OK;
    }
    const uint64_t stride = sg_bin_matrix_bytes(m, m->cols), begin = m->offset + row * stride + sg_bin_matrix_bytes(m, col);
    if (n_cols == m->cols) return load_piece(m, raw, n_rows * bytes, begin, err);
    for (uint32_t i = 0; i < n_rows; i++) SG_TRY(sg_file_read_at(m->fd, m->path, raw + i * bytes, bytes, begin + i * stride, err));
    return SG_OK;
}

void sg_bin_matrix_values(const sg_bin_matrix *m, const uint8_t *raw, uint64_t first, uint32_t n_cols, float *out) {
    if (!m->is_int8) {
        sg_dequantize(m->type, raw, out, n_cols);
        return;
    }
    const uint8_t *scales = raw + int8_scales_at(n_cols);
    for (uint32_t i = 0; i < n_cols; i++) {
        float scale;
        memcpy(&scale, scales + 4 * ((first + i) / m->group - first / m->group), 4);
        out[i] = (float)(int8_t)raw[i] * scale;
    }
}

void sg_bin_matrix_drop(const sg_bin_matrix *m) {
    if (m->gather) sg_bin_gather_drop(m->gather);
    else posix_fadvise(m->fd, 0, 0, POSIX_FADV_DONTNEED);
}

sg_status sg_bin_matrix_check(const sg_bin_matrix *m, const float *values, size_t n, sg_dtype type, sg_error *err) {
    return sg_conv_check(m->path, m->name, values, n, type, err);
}
