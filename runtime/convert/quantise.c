/* Values of one tensor from source to output, a few MiB at a time. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "neuron_engine/quant.h"
#include "runtime/convert/convert.h"
#include "runtime/convert/file.h"

#define CHUNK_VALUES (1u << 20) /* 4 MiB as F32; at least one row */

typedef struct stream {
    const sg_conv_tensor *t;
    uint64_t cols, rows; /* as ne, but a vector whose values change places counts as rows of one value */
    int fd;
    uint8_t *raw;  /* source bytes of one chunk */
    float *scales; /* INT8: scales of one chunk */
    float *values; /* the chunk as F32 */
    uint8_t *out;  /* the chunk as written */
} stream;

static uint64_t src_bytes(sg_conv_src src) { return src == SG_CONV_SRC_F32 ? 4 : src == SG_CONV_SRC_INT8 ? 1 : 2; }

/* Row of the source for row r of the output; see n_pair_heads. */
static uint64_t source_row(const stream *s, uint64_t r) {
    const uint64_t head = s->rows / s->t->n_pair_heads, in_head = r % head;
    return r - in_head + in_head % 2 * (head / 2) + in_head / 2;
}

/* values[n] from source values first .. first + n, which lie together. */
static sg_status load(stream *s, float *values, uint64_t first, size_t n, sg_error *err) {
    const sg_conv_tensor *t = s->t;
    const uint64_t unit = src_bytes(t->src);
    if (t->src == SG_CONV_SRC_F32) return sg_file_read_at(s->fd, t->path, values, n * 4, t->offset + first * 4, err);
    SG_TRY(sg_file_read_at(s->fd, t->path, s->raw, n * unit, t->offset + first * unit, err));
    if (t->src == SG_CONV_SRC_INT8) {
        const uint64_t group = first / t->group, groups = (first + n - 1) / t->group - group + 1;
        SG_TRY(sg_file_read_at(s->fd, t->path, s->scales, groups * 4, t->scale_offset + group * 4, err));
        for (size_t i = 0; i < n; i++) values[i] = (float)(int8_t)s->raw[i] * s->scales[(first + i) / t->group - group];
    } else {
        sg_dequantize(t->src == SG_CONV_SRC_F16 ? SG_DTYPE_F16 : SG_DTYPE_BF16, s->raw, values, n);
    }
    return SG_OK;
}

static sg_status load_rows(stream *s, uint64_t row, uint64_t rows, sg_error *err) {
    if (s->t->n_pair_heads == 0) return load(s, s->values, row * s->cols, rows * s->cols, err);
    for (uint64_t i = 0; i < rows; i++)
        SG_TRY(load(s, s->values + i * s->cols, source_row(s, row + i) * s->cols, s->cols, err));
    return SG_OK;
}

sg_status sg_conv_check(const char *path, const char *name, const float *values, size_t n, sg_dtype type, sg_error *err) {
    uint32_t max = 0; /* magnitudes as integers have the order of the numbers, and NaN and infinity come last */
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        bits &= 0x7fffffffu;
        max = bits > max ? bits : max;
    }
    if (max >= 0x7f800000u)
        return sg_fail(err, SG_E_FORMAT, "%s: tensor %s holds values that are no finite numbers", path, name);
    float largest;
    memcpy(&largest, &max, sizeof largest);
    const float limit = type == SG_DTYPE_Q8_0 ? 65504.0f * 127 : type == SG_DTYPE_Q4_0 ? 65504.0f * 8 : 65504.0f;
    if (type != SG_DTYPE_F32 && type != SG_DTYPE_BF16 && largest > limit)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: tensor %s holds %g, too large for %s; choose f32", path, name,
                       (double)largest, sg_dtype_get(type)->name);
    return SG_OK;
}

/* *step: rows of a chunk. */
static sg_status stream_open(stream *s, const sg_conv_tensor *t, uint64_t *step, sg_error *err) {
    const bool by_value = t->n_dims == 1 && t->n_pair_heads;
    *s = (stream) { .t = t, .cols = by_value ? 1 : t->ne[0], .rows = by_value ? t->ne[0] : t->ne[1], .fd = -1 };
    *step = CHUNK_VALUES / s->cols;
    *step = *step == 0 ? 1 : *step > s->rows ? s->rows : *step;
    const size_t n = *step * s->cols;
    s->values = malloc(n * sizeof *s->values);
    s->out = malloc(sg_dtype_bytes(sg_dtype_get(t->type), n));
    if (!t->values && t->src != SG_CONV_SRC_F32) s->raw = malloc(n * src_bytes(t->src));
    if (!t->values && t->src == SG_CONV_SRC_INT8) s->scales = malloc((n / t->group + 2) * sizeof *s->scales);
    if (!s->values || !s->out || (!t->values && t->src != SG_CONV_SRC_F32 && !s->raw) ||
        (!t->values && t->src == SG_CONV_SRC_INT8 && !s->scales))
        return sg_fail(err, SG_E_NOMEM, "no memory to convert tensor %s", t->name);
    uint64_t size;
    return t->values ? SG_OK : sg_file_open(t->path, &s->fd, &size, err);
}

static void stream_close(stream *s) {
    if (s->fd >= 0) close(s->fd);
    free(s->raw);
    free(s->scales);
    free(s->values);
    free(s->out);
}

sg_status sg_conv_stream(const sg_conv_job *job, const sg_conv_tensor *t, sg_gguf_writer *w, uint64_t *done,
                         uint64_t total, sg_error *err) {
    uint64_t step;
    stream s;
    sg_status status = stream_open(&s, t, &step, err);
    for (uint64_t row = 0; status == SG_OK && row < s.rows; row += step) {
        const uint64_t rows = s.rows - row < step ? s.rows - row : step;
        const size_t n = rows * s.cols, bytes = sg_dtype_bytes(sg_dtype_get(t->type), n);
        if (t->values)
            memcpy(s.values, t->values + row * s.cols, n * sizeof *s.values);
        else
            status = load_rows(&s, row, rows, err);
        if (status == SG_OK) status = sg_conv_check(t->path ? t->path : "", t->name, s.values, n, t->type, err);
        if (status != SG_OK) break;
        sg_quantize(t->type, s.values, s.out, n);
        status = sg_gguf_writer_data(w, s.out, bytes, err);
        *done += bytes;
        if (status == SG_OK && job->progress && !job->progress(job->user, *done, total))
            status = sg_fail(err, SG_E_CANCELLED, "%s: the conversion was cancelled", job->output);
    }
    stream_close(&s);
    return status;
}
