/* Values of one tensor from source to output, a few MiB at a time. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "neuron_engine/quant.h"
#include "runtime/convert/convert.h"
#include "runtime/convert/file.h"

#define CHUNK_VALUES (1u << 20) /* 4 MiB as F32; at least one row */
#define TURNED_VALUES (4u << 20) /* of a part whose rows are columns of the source: each column is a read of its own */
#define VALUE_BYTES 14u          /* of memory, at most: the source's, a scale, F32, the output's */

typedef struct stream {
    const sg_conv_tensor *t;
    const sg_conv_part *p;
    int fd, scale_fd;
    const char *open, *scale_open; /* the files that they are of; NULL: none */
    uint8_t *raw;     /* source bytes of one chunk */
    float *scales;    /* INT8: scales of one chunk */
    float *values;    /* the chunk as F32 */
    uint8_t *out;     /* the chunk as written */
    bool blocks;      /* MXFP4 to MXFP4: raw bytes go through `out` unchanged in value */
} stream;

#define BLOCK 32u       /* values of an MXFP4 block */
#define BLOCK_BYTES 17u /* in GGUF: the scale, then codes i and i + 16 in byte i */

static uint64_t src_bytes(sg_conv_src src) { return src == SG_CONV_SRC_F32 ? 4 : src == SG_CONV_SRC_INT8 ? 1 : 2; }

sg_status sg_conv_pack_mxfp4(const char *path, const char *name, const uint8_t *codes, const uint8_t *scales, size_t n, uint8_t *out,
                             sg_error *err) {
    for (size_t b = 0; b < n / BLOCK; b++, codes += BLOCK / 2, out += BLOCK_BYTES) {
        if (scales[b] == 255) return sg_fail(err, SG_E_FORMAT, "%s: tensor %s holds values that are no finite numbers", path, name);
        out[0] = scales[b];
        for (size_t i = 0; i < BLOCK / 2; i++) {
            const unsigned lo = codes[i / 2] >> (i % 2 * 4) & 15, hi = codes[8 + i / 2] >> (i % 2 * 4) & 15;
            out[1 + i] = (uint8_t)(lo | hi << 4);
        }
    }
    return SG_OK;
}

static sg_status load_mxfp4(stream *s, float *values, uint64_t first, size_t n, sg_error *err) {
    const sg_conv_part *p = s->p;
    uint8_t *scales = s->raw + n / 2, *packed = scales + n / BLOCK;
    SG_TRY(sg_file_read_at(s->fd, p->path, s->raw, n / 2, p->offset + first / 2, err));
    SG_TRY(sg_file_read_at(s->scale_fd, p->scale_path, scales, n / BLOCK, p->scale_offset + first / BLOCK, err));
    if (s->blocks) packed = s->out + (size_t)(values - s->values) / BLOCK * BLOCK_BYTES;
    SG_TRY(sg_conv_pack_mxfp4(p->path, s->t->name, s->raw, scales, n, packed, err));
    if (!s->blocks) sg_dequantize(SG_DTYPE_MXFP4, packed, values, n);
    return SG_OK;
}

/* values[n] from source values first .. first + n, which lie together. */
static sg_status load(stream *s, float *values, uint64_t first, size_t n, sg_error *err) {
    const sg_conv_part *p = s->p;
    const uint64_t unit = src_bytes(p->src);
    if (p->values) {
        memcpy(values, p->values + first, n * sizeof *values);
        return SG_OK;
    }
    if (p->src == SG_CONV_SRC_F32) return sg_file_read_at(s->fd, p->path, values, n * 4, p->offset + first * 4, err);
    if (p->src == SG_CONV_SRC_MXFP4) return load_mxfp4(s, values, first, n, err);
    SG_TRY(sg_file_read_at(s->fd, p->path, s->raw, n * unit, p->offset + first * unit, err));
    if (p->src == SG_CONV_SRC_INT8) {
        const uint64_t group = first / p->group, groups = (first + n - 1) / p->group - group + 1;
        SG_TRY(sg_file_read_at(s->fd, p->path, s->scales, groups * 4, p->scale_offset + group * 4, err));
        for (size_t i = 0; i < n; i++) values[i] = (float)(int8_t)s->raw[i] * s->scales[(first + i) / p->group - group];
    } else {
        sg_dequantize(p->src == SG_CONV_SRC_F16 ? SG_DTYPE_F16 : SG_DTYPE_BF16, s->raw, values, n);
    }
    return SG_OK;
}

/* Values first .. first + n of a part whose innermost axis is read along the file. */
static sg_status load_runs(stream *s, uint64_t first, size_t n, sg_error *err) {
    const uint64_t run = s->p->axis[0].n;
    for (size_t done = 0; done < n;) {
        const uint64_t i = first + done, in_run = i % run;
        const size_t now = run - in_run < n - done ? (size_t)(run - in_run) : n - done;
        SG_TRY(load(s, s->values + done, sg_conv_part_at(s->p, 1, i / run) + in_run, now, err));
        done += now;
    }
    return SG_OK;
}

/* Turned: the axis whose values lie closest together, which is not the innermost one. */
static uint32_t fast_axis(const sg_conv_part *p) {
    uint32_t best = 0;
    for (uint32_t k = 1; k < p->n_axes; k++)
        if (p->axis[k].stride < p->axis[best].stride) best = k;
    return best;
}

static uint64_t inner_values(const sg_conv_part *p, uint32_t axis) {
    uint64_t n = 1;
    for (uint32_t k = 0; k < axis; k++) n *= p->axis[k].n;
    return n;
}

/* Values first .. first + n: `many` places of the fast axis, with all that is inside of it. Each inner value is read for all
 * of them at once and put in its place. */
static sg_status load_turned(stream *s, uint32_t fast, uint64_t first, size_t n, float *column, sg_error *err) {
    const uint64_t inner = inner_values(s->p, fast), stride = s->p->axis[fast].stride, from = sg_conv_part_at(s->p, fast, first / inner);
    const size_t many = n / inner;
    for (uint64_t i = 0; i < inner; i++) {
        uint64_t at = from, rest = i;
        for (uint32_t k = 0; k < fast; k++) {
            at += rest % s->p->axis[k].n * s->p->axis[k].stride;
            rest /= s->p->axis[k].n;
        }
        SG_TRY(load(s, column, at, (many - 1) * stride + 1, err));
        for (size_t k = 0; k < many; k++) s->values[k * inner + i] = column[k * stride];
    }
    return SG_OK;
}

static void apply(sg_conv_op op, float *v, size_t n) {
    if (op == SG_CONV_PLUS_ONE)
        for (size_t i = 0; i < n; i++) v[i] += 1.0f;
    if (op == SG_CONV_NEG_EXP)
        for (size_t i = 0; i < n; i++) v[i] = (float)-exp(v[i]);
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

static void stream_close(stream *s) {
    if (s->fd >= 0) close(s->fd);
    if (s->scale_fd >= 0) close(s->scale_fd);
    free(s->raw);
    free(s->scales);
    free(s->values);
    free(s->out);
}

/* Memory for chunks of n values, of which a turned part also needs columns of `column` values. */
static sg_status stream_room(stream *s, size_t n, size_t column, sg_error *err) {
    const size_t most = n > column ? n : column;
    free(s->raw);
    free(s->scales);
    free(s->values);
    free(s->out);
    s->scales = NULL;
    s->values = malloc((n + column) * sizeof *s->values);
    s->out = malloc(sg_dtype_bytes(sg_dtype_get(s->t->type), n));
    s->raw = malloc(most * 2);
    const bool int8 = s->p->src == SG_CONV_SRC_INT8 && !s->p->values;
    if (int8) s->scales = malloc((most / s->p->group + 2) * sizeof *s->scales);
    if (s->values && s->out && s->raw && (!int8 || s->scales)) return SG_OK;
    return sg_fail(err, SG_E_NOMEM, "no memory to convert tensor %s", s->t->name);
}

typedef struct sink {
    const sg_conv_job *job;
    sg_gguf_writer *w;
    uint64_t *done, total;
} sink;

static sg_status put(stream *s, const sink *k, size_t n, sg_error *err) {
    const sg_conv_tensor *t = s->t;
    const size_t bytes = sg_dtype_bytes(sg_dtype_get(t->type), n);
    if (!s->blocks) {
        apply(t->op, s->values, n);
        SG_TRY(sg_conv_check(s->p->path ? s->p->path : "", t->name, s->values, n, t->type, err));
        sg_quantize(t->type, s->values, s->out, n);
    }
    SG_TRY(sg_gguf_writer_data(k->w, s->out, bytes, err));
    *k->done += bytes;
    if (k->job->progress && !k->job->progress(k->job->user, *k->done, k->total))
        return sg_fail(err, SG_E_CANCELLED, "%s: the conversion was cancelled", k->job->output);
    return SG_OK;
}

/* What is converted at once: whole rows, of a turned part whole blocks of its fast axis; columns of it take as much again. */
static uint64_t unit_values(const sg_conv_tensor *t, const sg_conv_part *p) {
    return p->axis[0].stride == 1 ? t->ne[0] : inner_values(p, fast_axis(p)) + p->axis[fast_axis(p)].stride;
}

size_t sg_conv_stream_least(const sg_conv_tensor *t) {
    uint64_t most = 0;
    for (uint32_t i = 0; i < t->n_parts; i++) {
        const uint64_t n = unit_values(t, sg_conv_parts(t) + i);
        most = n > most ? n : most;
    }
    return (size_t)(most + 2) * VALUE_BYTES;
}

static sg_status stream_part(stream *s, const sink *k, size_t room, sg_error *err) {
    const sg_conv_part *p = s->p;
    const bool turned = p->axis[0].stride != 1;
    const uint32_t fast = turned ? fast_axis(p) : 0;
    const uint64_t total = sg_conv_part_values(p), unit = turned ? inner_values(p, fast) : s->t->ne[0], units = total / unit;
    const uint64_t stride = p->axis[fast].stride, wanted = turned ? TURNED_VALUES / unit / stride : CHUNK_VALUES / unit;
    const uint64_t fit = room / VALUE_BYTES / unit_values(s->t, p), limit = fit < wanted ? fit : wanted;
    /* a turned chunk must not reach over the end of the fast axis */
    const uint64_t along = turned ? p->axis[fast].n : units, step = limit == 0 ? 1 : limit > along ? along : limit;
    if (unit % sg_dtype_get(s->t->type)->block_values)
        return sg_fail(err, SG_E_INTERNAL, "tensor %s cannot be gathered", s->t->name);
    const size_t column = turned ? (step - 1) * stride + 1 : 0;
    SG_TRY(stream_room(s, step * unit, column, err));
    for (uint64_t at = 0; at < units;) {
        const uint64_t left = turned ? along - at % along : units - at, many = left < step ? left : step;
        if (turned)
            SG_TRY(load_turned(s, fast, at * unit, many * unit, s->values + step * unit, err));
        else
            SG_TRY(load_runs(s, at * unit, many * unit, err));
        SG_TRY(put(s, k, many * unit, err));
        at += many;
    }
    return SG_OK;
}

static sg_status open_file(const char *path, int *fd, const char **open, sg_error *err) {
    if (!path || (*open && strcmp(*open, path) == 0)) return SG_OK;
    if (*fd >= 0) close(*fd);
    *fd = -1;
    *open = NULL;
    uint64_t size;
    SG_TRY(sg_file_open(path, fd, &size, err));
    *open = path;
    return SG_OK;
}

sg_status sg_conv_stream(const sg_conv_job *job, const sg_conv_tensor *t, sg_gguf_writer *w, size_t room, uint64_t *done,
                         uint64_t total, sg_error *err) {
    const sink k = { job, w, done, total };
    stream s = { .t = t, .fd = -1, .scale_fd = -1 };
    sg_status status = SG_OK;
    for (uint32_t i = 0; status == SG_OK && i < t->n_parts; i++) {
        s.p = sg_conv_parts(t) + i;
        s.blocks = s.p->src == SG_CONV_SRC_MXFP4 && t->type == SG_DTYPE_MXFP4;
        if (!s.p->values) status = open_file(s.p->path, &s.fd, &s.open, err);
        if (status == SG_OK) status = open_file(s.p->scale_path, &s.scale_fd, &s.scale_open, err);
        if (status == SG_OK) status = stream_part(&s, &k, room, err);
    }
    stream_close(&s);
    return status;
}
