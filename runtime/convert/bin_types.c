/* Shapes and types of the bundles. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "neuron_engine/quant.h"
#include "runtime/convert/bin_model.h"

const char *const sg_bin_ends[SG_BIN_UNITS] = { "", "_exps", "_shexp" };

bool sg_bin_is_fused(const char *arch) {
    const sg_arch *a = sg_arch_find(arch);
    return a && sg_arch_rule(a, true, SG_L_GATE_UP);
}

/* One matrix for gate and up is taken apart. */
static void split_fused(sg_bin_layer *b) {
    const uint32_t n_ff = b->down_is_rows ? b->down.rows : b->down.cols;
    if (b->gate.name || !b->up.name || !b->down.name || b->n_expert || b->up.rows != 2 * (uint64_t)n_ff) return;
    b->gate = sg_bin_matrix_rows(&b->up, 0, n_ff);
    b->up = sg_bin_matrix_rows(&b->up, n_ff, n_ff);
}

sg_status sg_bin_set_layer(sg_bin_model *m, uint32_t i, sg_bin_layer units[SG_BIN_UNITS], sg_error *err) {
    for (int u = 0; u < SG_BIN_UNITS; u++) {
        sg_bin_layer *b = &units[u];
        if (m->fused) split_fused(b);
        const char *missing = !b->up.name ? "ffn_up" : !b->down.name ? m->down_stem ? m->down_stem : "ffn_down" : NULL;
        if (missing && (b->gate.name || b->up.name || b->down.name))
            return sg_fail(err, SG_E_FORMAT, "%s: tensor blk.%" PRIu32 ".%s%s.weight is missing", m->path, i, missing, sg_bin_ends[u]);
    }
    if (units[SG_BIN_DENSE].up.name && units[SG_BIN_EXPERTS].up.name)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: layer %" PRIu32 " has a dense feed-forward part and experts", m->path, i);
    m->layers[i] = units[units[SG_BIN_EXPERTS].up.name ? SG_BIN_EXPERTS : SG_BIN_DENSE];
    if (!units[SG_BIN_SHARED].up.name) return SG_OK;
    if (!m->shexp && !(m->shexp = calloc(m->n_layer, sizeof *m->shexp)))
        return sg_fail(err, SG_E_NOMEM, "%s: no memory for the layers", m->path);
    m->shexp[i] = units[SG_BIN_SHARED];
    return SG_OK;
}

static sg_status wrong_shape(const sg_bin_matrix *m, uint32_t rows, uint32_t cols, sg_error *err) {
    return sg_fail(err, SG_E_FORMAT, "%s: tensor %s is %" PRIu32 " x %" PRIu32 ", expected %" PRIu32 " x %" PRIu32, m->path,
                   m->name, m->cols, m->rows, cols, rows);
}

static sg_status check_shapes(const sg_bin_layer *b, sg_error *err) {
    const uint32_t experts = b->n_expert ? b->n_expert : 1, n_ff = b->up.rows / experts, n_embd = b->up.cols;
    const uint64_t down_rows = (uint64_t)experts * (b->down_is_rows ? n_ff : n_embd);
    const uint32_t down_cols = b->down_is_rows ? n_embd : n_ff;
    if (down_rows > UINT32_MAX)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: tensor %s has too many experts", b->up.path, b->up.name);
    if (b->gate.name && (b->gate.rows != b->up.rows || b->gate.cols != n_embd)) return wrong_shape(&b->gate, b->up.rows, n_embd, err);
    if (b->down.rows != down_rows || b->down.cols != down_cols) return wrong_shape(&b->down, (uint32_t)down_rows, down_cols, err);
    return SG_OK;
}

/* Whether all values of a BF16 matrix are in F16's range; those that are no numbers are refused when they are converted. */
static sg_status fits_f16(const sg_bin_matrix *m, bool *fits, sg_error *err) {
    const size_t bytes = sg_bin_matrix_bytes(m, m->cols);
    const uint32_t many = bytes < (1u << 20) ? (uint32_t)((1u << 20) / bytes) : 1, step = many < m->rows ? many : m->rows;
    uint16_t *raw = malloc(step * bytes), max = 0;
    if (!raw) return sg_fail(err, SG_E_NOMEM, "%s: no memory to look at tensor %s", m->path, m->name);
    sg_status status = SG_OK;
    for (uint32_t row = 0; status == SG_OK && row < m->rows; row += step) {
        const uint32_t n = m->rows - row < step ? m->rows - row : step;
        status = sg_bin_matrix_load(m, row, n, 0, m->cols, (uint8_t *)raw, err);
        for (size_t i = 0; status == SG_OK && i < (size_t)n * m->cols; i++) {
            const uint16_t a = raw[i] & 0x7fff;
            max = a > max ? a : max;
        }
    }
    free(raw);
    *fits = sg_bf16_to_f32(max) <= 65504.0f;
    return status;
}

/* What a matrix becomes when nobody says. `turned`: its blocks do not lie along n_embd, so quantised values must be rounded again. */
static sg_status natural_type(const sg_bin_matrix *m, bool turned, sg_dtype *out, sg_error *err) {
    switch (m->type) {
    case SG_DTYPE_F32:
    case SG_DTYPE_F16:
    case SG_DTYPE_Q8_0: *out = m->type; return SG_OK;
    case SG_DTYPE_Q4_0: *out = turned ? SG_DTYPE_Q8_0 : SG_DTYPE_Q4_0; return SG_OK;
    case SG_DTYPE_BF16: {
        bool fits = false;
        SG_TRY(fits_f16(m, &fits, err));
        *out = fits ? SG_DTYPE_F16 : SG_DTYPE_F32;
        return SG_OK;
    }
    default: *out = SG_DTYPE_Q8_0; return SG_OK;
    }
}

/* What is asked for, -1: nothing. A default of all matrices does not count for blocks: Q8_0 holds them and is smaller. */
static int asked_type(const sg_bin_matrix *m, int type, bool keep) { return keep && m->type == SG_DTYPE_MXFP4 ? -1 : type; }

static sg_status choose(const sg_bin_matrix *m, int asked, bool turned, uint32_t n_embd, const char **fallen, sg_dtype *out,
                        sg_error *err) {
    if (asked >= 0) *out = (sg_dtype)asked;
    else SG_TRY(natural_type(m, turned, out, err));
    if (n_embd % sg_dtype_get((uint32_t)*out)->block_values == 0) return SG_OK;
    *out = SG_DTYPE_F16;
    if (!*fallen) *fallen = m->name;
    return SG_OK;
}

/* Experts have few neurons: clusters small enough that the last one of each is no great loss. */
static uint32_t expert_clusters(uint32_t per_cluster, uint32_t n) {
    for (; per_cluster > 32; per_cluster /= 2) {
        const uint32_t padded = (n + per_cluster - 1) / per_cluster * per_cluster;
        if (padded - n <= n / 16) break;
    }
    return per_cluster;
}

static sg_status choose_layer(const sg_conv_job *job, sg_bin_layer *b, const char **fallen, sg_error *err) {
    sg_bundle_layout *l = &b->l;
    *l = (sg_bundle_layout) { .n_neurons = b->up.rows / (b->n_expert ? b->n_expert : 1), .k = b->up.cols, .gated = b->gate.name != NULL,
                              .n_expert = b->n_expert };
    const sg_bin_matrix *gate = l->gated ? &b->gate : &b->up;
    SG_TRY(choose(gate, asked_type(gate, job->gate_type, job->keep_blocks), false, l->k, fallen, &l->gate_type, err));
    l->up_type = l->gate_type;
    if (l->gated) SG_TRY(choose(&b->up, asked_type(&b->up, job->gate_type, job->keep_blocks), false, l->k, fallen, &l->up_type, err));
    SG_TRY(choose(&b->down, asked_type(&b->down, job->down_type, job->keep_down), !b->down_is_rows, l->k, fallen, &l->down_type, err));
    l->per_cluster = job->cluster ? job->cluster : sg_bundle_per_cluster(sg_dot_row_bytes(l->gate_type, l->k));
    if (!job->cluster && b->n_expert) l->per_cluster = expert_clusters(l->per_cluster, l->n_neurons);
    if (!sg_bundle_layout_init(l))
        return sg_fail(err, SG_E_UNSUPPORTED,
                       "%s: tensor %s (%" PRIu32 " neurons of %" PRIu32 " values) cannot be cut into clusters of %" PRIu32, b->up.path,
                       b->up.name, l->n_neurons, l->k, l->per_cluster);
    return SG_OK;
}

sg_status sg_bin_choose(const sg_conv_job *job, sg_bin_model *m, sg_error *err) {
    const char *fallen = NULL;
    uint32_t n = 0;
    for (uint32_t i = 0; i < 2 * m->n_layer; i++) {
        sg_bin_layer *b = sg_bin_unit(m, i);
        if (!b) continue;
        SG_TRY(check_shapes(b, err));
        const bool gated = b->gate.name != NULL;
        if (n++ == 0) m->gated = gated;
        if (gated != m->gated)
            return sg_fail(err, SG_E_UNSUPPORTED, "%s: layer %" PRIu32 " has %s gate, the layers before have %s", m->path, i / 2,
                           gated ? "a" : "no", gated ? "none" : "one");
        SG_TRY(choose_layer(job, b, &fallen, err));
    }
    if (n == 0)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: has no feed-forward layer that could be cut into neurons", m->path);
    if (fallen)
        sg_log_line(&job->log, SG_LOG_WARN,
                    "feed-forward weights (%s first) are written as F16: their rows are no multiple of 32 values", fallen);
    return SG_OK;
}
