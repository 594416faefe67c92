#include "runtime/convert/bin_gather.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "neuron_engine/quant.h"
#include "runtime/convert/file.h"

#define WORTH_DROPPING ((size_t)64 << 10)
#define SPAN_BYTES ((size_t)16 << 10) /* of a source, on the stack */
#define BLOCK 32u                     /* values of an MXFP4 block */
#define BLOCK_BYTES 17u

static const sg_dtype types[] = { [SG_CONV_SRC_F32] = SG_DTYPE_F32, [SG_CONV_SRC_F16] = SG_DTYPE_F16, [SG_CONV_SRC_BF16] = SG_DTYPE_BF16,
                                  [SG_CONV_SRC_INT8] = SG_DTYPE_I8, [SG_CONV_SRC_MXFP4] = SG_DTYPE_MXFP4 };

static size_t bytes_of(sg_dtype type, uint64_t n) { return (size_t)sg_dtype_bytes(sg_dtype_get((uint32_t)type), n); }

/* ---- description -------------------------------------------------------------------------------------------------- */

/* Whether each row begins where an axis begins, or within one whose values lie evenly: then value (row, column) lies at the place of (row, 0)
 * plus that of (0, column). */
static bool rows_are_whole(const sg_conv_part *p, uint64_t cols) {
    for (uint32_t k = 0; k < p->n_axes && cols > 1; k++) {
        if (cols < p->axis[k].n) return p->axis[k].n % cols == 0;
        if (cols % p->axis[k].n) return false;
        cols /= p->axis[k].n;
    }
    return cols == 1;
}

static bool part_is_turned(const sg_conv_part *p, const sg_conv_tensor *t) {
    return p->n_axes >= 2 && p->axis[0].stride != 1 && p->axis[0].n == t->ne[0] && p->axis[1].n == t->ne[1];
}

bool sg_bin_gather_is_turned(const sg_conv_tensor *t) {
    for (uint32_t i = 0; i < t->n_parts; i++)
        if (!part_is_turned(sg_conv_parts(t) + i, t)) return false;
    return true;
}

static void turn_part(sg_conv_part *p) {
    const uint64_t n = p->axis[0].n, stride = p->axis[0].stride;
    p->axis[0] = p->axis[1];
    p->axis[1].n = n;
    p->axis[1].stride = stride;
    sg_conv_part_merge(p);
}

static sg_status add_piece(sg_bin_gather *g, uint32_t i, bool turned, uint64_t *rows, sg_error *err) {
    sg_conv_part *p = &g->pieces[i].from;
    if (turned) turn_part(p);
    const uint64_t n = sg_conv_part_values(p);
    /* a table of a family would have to be wrong */
    if (p->values || p->src == SG_CONV_SRC_INT8 || !rows_are_whole(p, g->cols))
        return sg_fail(err, SG_E_INTERNAL, "tensor %s cannot be cut into neurons", g->name);
    if (p->axis[0].stride != 1) g->turned = true;
    const sg_dtype type = types[p->src];
    if (i == 0) g->type = type;
    if (type != g->type) {
        if (type == SG_DTYPE_MXFP4 || g->type == SG_DTYPE_MXFP4)
            return sg_fail(err, SG_E_INTERNAL, "tensor %s is of blocks in part", g->name);
        g->type = SG_DTYPE_F32;
    }
    *rows += n / g->cols;
    g->pieces[i].end = (uint32_t)*rows;
    g->pieces[i].fd = g->pieces[i].scale_fd = -1;
    return SG_OK;
}

sg_status sg_bin_gather_init(sg_bin_gather *g, const sg_conv_tensor *t, bool turned, sg_error *err) {
    *g = (sg_bin_gather) { .name = t->name, .cols = (uint32_t)t->ne[turned], .rows = (uint32_t)(t->ne[!turned] * t->ne[2]),
                           .n_pieces = t->n_parts };
    g->pieces = calloc(g->n_pieces, sizeof *g->pieces);
    if (!g->pieces) return sg_fail(err, SG_E_NOMEM, "no memory for the parts of tensor %s", t->name);
    uint64_t rows = 0;
    for (uint32_t i = 0; i < g->n_pieces; i++) {
        g->pieces[i].from = sg_conv_parts(t)[i];
        SG_TRY(add_piece(g, i, turned, &rows, err));
    }
    if (rows != g->rows || t->op != SG_CONV_COPY) return sg_fail(err, SG_E_INTERNAL, "tensor %s cannot be cut into neurons", t->name);
    return SG_OK;
}

void sg_bin_gather_finish(sg_bin_gather *g) {
    free(g->pieces);
    *g = (sg_bin_gather) { 0 };
}

/* ---- reading ------------------------------------------------------------------------------------------------------ */

/* The piece that row `row` is in. */
static const sg_bin_piece *piece_of(const sg_bin_gather *g, uint32_t row) {
    uint32_t lo = 0, hi = g->n_pieces - 1;
    while (lo < hi) {
        const uint32_t mid = lo + (hi - lo) / 2;
        if (row < g->pieces[mid].end) hi = mid;
        else lo = mid + 1;
    }
    return &g->pieces[lo];
}

static sg_status read_blocks(const sg_bin_gather *g, const sg_bin_piece *s, uint64_t at, size_t n, uint8_t *dst, sg_error *err) {
    enum { MOST = SPAN_BYTES * 2 / BLOCK * BLOCK };
    const sg_conv_part *p = &s->from;
    uint8_t codes[MOST / 2], scales[MOST / BLOCK];
    for (size_t done = 0; done < n; done += MOST) {
        const size_t now = n - done < MOST ? n - done : MOST;
        SG_TRY(sg_file_read_at(s->fd, p->path, codes, now / 2, p->offset + (at + done) / 2, err));
        SG_TRY(sg_file_read_at(s->scale_fd, p->scale_path, scales, now / BLOCK, p->scale_offset + (at + done) / BLOCK, err));
        SG_TRY(sg_conv_pack_mxfp4(p->path, g->name, codes, scales, now, dst + done / BLOCK * BLOCK_BYTES, err));
    }
    return SG_OK;
}

/* n values that lie together, from number `at` of the source. */
static sg_status read_run(const sg_bin_gather *g, const sg_bin_piece *s, uint64_t at, size_t n, uint8_t *dst, sg_error *err) {
    const sg_conv_part *p = &s->from;
    const sg_dtype type = types[p->src];
    if (type == SG_DTYPE_MXFP4) return read_blocks(g, s, at, n, dst, err);
    const size_t size = bytes_of(type, 1);
    if (type == g->type) {
        const uint64_t begin = p->offset + at * size;
        SG_TRY(sg_file_read_at(s->fd, p->path, dst, n * size, begin, err));
        if (n * size >= WORTH_DROPPING) posix_fadvise(s->fd, (off_t)begin, (off_t)(n * size), POSIX_FADV_DONTNEED);
        return SG_OK;
    }
    uint8_t raw[SPAN_BYTES];
    const size_t most = sizeof raw / size;
    for (size_t done = 0; done < n; done += most) {
        const size_t now = n - done < most ? n - done : most;
        SG_TRY(sg_file_read_at(s->fd, p->path, raw, now * size, p->offset + (at + done) * size, err));
        sg_dequantize(type, raw, (float *)dst + done, now);
    }
    return SG_OK;
}

/* Values first .. first + n - 1 of a piece whose innermost axis is read along the file. */
static sg_status load_runs(const sg_bin_gather *g, const sg_bin_piece *s, uint64_t first, uint64_t n, uint8_t *dst, sg_error *err) {
    const uint64_t run = s->from.axis[0].n;
    while (n > 0) {
        const uint64_t in_run = first % run, now = run - in_run < n ? run - in_run : n;
        SG_TRY(read_run(g, s, sg_conv_part_at(&s->from, 1, first / run) + in_run, (size_t)now, dst, err));
        dst += bytes_of(g->type, now);
        first += now;
        n -= now;
    }
    return SG_OK;
}

/* A rectangle of a piece whose rows lie across the file: of each column the values of as many rows as lie evenly are read at once. */
static sg_status load_turned(const sg_bin_gather *g, const sg_bin_piece *s, uint64_t row, uint32_t n_rows, uint32_t col, uint32_t n_cols,
                             uint8_t *dst, sg_error *err) {
    const sg_conv_part *p = &s->from;
    const sg_dtype type = types[p->src];
    const size_t size = bytes_of(type, 1), out = bytes_of(g->type, 1);
    uint8_t span[SPAN_BYTES];
    for (uint32_t r = 0, n; r < n_rows; r += n) {
        const uint64_t at = sg_conv_part_at(p, 0, (row + r) * g->cols);
        const uint64_t apart = r + 1 < n_rows ? sg_conv_part_at(p, 0, (row + r + 1) * g->cols) - at : 1;
        /* rows that go backwards are as far apart as can be */
        for (n = 1; r + n < n_rows && apart < SPAN_BYTES && (n * apart + 1) * size <= SPAN_BYTES; n++)
            if (sg_conv_part_at(p, 0, (row + r + n) * g->cols) != at + n * apart) break;
        for (uint32_t c = 0; c < n_cols; c++) {
            const uint64_t from = at + sg_conv_part_at(p, 0, col + c);
            SG_TRY(sg_file_read_at(s->fd, p->path, span, ((n - 1) * apart + 1) * size, p->offset + from * size, err));
            for (uint32_t i = 0; i < n; i++) {
                const uint8_t *value = span + i * apart * size;
                uint8_t *to = dst + ((size_t)(r + i) * n_cols + c) * out;
                if (type == g->type) memcpy(to, value, size);
                else sg_dequantize(type, value, (float *)to, 1);
            }
        }
    }
    return SG_OK;
}

sg_status sg_bin_gather_load(const sg_bin_gather *g, uint32_t row, uint32_t n_rows, uint32_t col, uint32_t n_cols, uint8_t *raw,
                             sg_error *err) {
    const size_t bytes = bytes_of(g->type, n_cols);
    while (n_rows > 0) {
        const sg_bin_piece *s = piece_of(g, row);
        const uint32_t begin = s == g->pieces ? 0 : s[-1].end, many = s->end - row < n_rows ? s->end - row : n_rows;
        const uint64_t first = (uint64_t)(row - begin) * g->cols;
        if (s->from.axis[0].stride != 1) {
            SG_TRY(load_turned(g, s, row - begin, many, col, n_cols, raw, err));
        } else if (n_cols == g->cols) {
            SG_TRY(load_runs(g, s, first, (uint64_t)many * n_cols, raw, err));
        } else {
            for (uint32_t i = 0; i < many; i++)
                SG_TRY(load_runs(g, s, first + (uint64_t)i * g->cols + col, n_cols, raw + i * bytes, err));
        }
        raw += many * bytes;
        row += many;
        n_rows -= many;
    }
    return SG_OK;
}

void sg_bin_gather_drop(const sg_bin_gather *g) {
    for (uint32_t i = 0; i < g->n_pieces; i++) {
        const sg_bin_piece *s = &g->pieces[i];
        if (i > 0 && s->fd == s[-1].fd && s->scale_fd == s[-1].scale_fd) continue; /* pieces of one file follow each other */
        posix_fadvise(s->fd, 0, 0, POSIX_FADV_DONTNEED);
        if (s->scale_fd >= 0) posix_fadvise(s->scale_fd, 0, 0, POSIX_FADV_DONTNEED);
    }
}
