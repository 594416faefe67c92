#include "neuron_engine/acts.h"

#include <math.h>
#include <string.h>

void sg_acts_lay_out(sg_acts *a, sg_carver *c, size_t n, uint32_t k, bool values, bool rest) {
    const size_t blocks = n * (k / 32);
    *a = (sg_acts) { .n = (uint32_t)n, .k = k, .n_blocks = k / 32 };
    if (values) a->x = sg_carve(c, n * k, sizeof(float));
    a->q = sg_carve(c, n * k, 1);
    a->d = sg_carve(c, blocks, sizeof *a->d);
    a->sums = sg_carve(c, blocks, 2 * sizeof *a->sums);
    a->dsum = sg_carve(c, blocks, sizeof *a->dsum);
    if (!rest) return;
    a->rest_q = sg_carve(c, n * k, 1);
    a->rest_d = sg_carve(c, blocks, sizeof *a->d);
    a->rest_sums = sg_carve(c, blocks, 2 * sizeof *a->sums);
    a->rest_dsum = sg_carve(c, blocks, sizeof *a->dsum);
}

void sg_lane_acts_lay_out(sg_lane_acts *a, sg_carver *c, size_t n, bool rest) {
    const size_t groups = n * a->n_groups;
    a->q = sg_carve(c, groups, SG_LANES * 32);
    a->d = sg_carve(c, groups, SG_LANES * sizeof(float));
    a->sum = sg_carve(c, groups, SG_LANES * sizeof(int32_t));
    if (!rest) return;
    a->rest_q = sg_carve(c, groups, SG_LANES * 32);
    a->rest_d = sg_carve(c, groups, SG_LANES * sizeof(float));
    a->rest_sum = sg_carve(c, groups, SG_LANES * sizeof(int32_t));
}

#define PIECE 256u

/* What the 8 bits of values at .. at + n - 1 leave out, n <= PIECE. */
static void quantise_rest(const sg_vec_fns *vec, const sg_acts *a, size_t value, size_t block, uint32_t n) {
    float rest[PIECE];
    for (uint32_t i = 0; i < n; i++) {
        const float r = fmaf(-(float)a->q[value + i], a->d[block + i / 32], a->x[value + i]);
        rest[i] = r;
    }
    sg_acts part = { 1, n, n / 32, rest, a->rest_q + value, a->rest_d + block, a->rest_sums + 2 * block, a->rest_dsum + block, NULL, NULL, NULL, NULL };
    vec->quantize_acts(&part, 0);
}

void sg_acts_quantise_part(const sg_vec_fns *vec, const sg_acts *a, uint32_t t, uint32_t at, uint32_t n) {
    const size_t value = (size_t)t * a->k + at, block = (size_t)t * a->n_blocks + at / 32;
    sg_acts part = { 1, n, n / 32, a->x + value, a->q + value, a->d + block, a->sums + 2 * block, a->dsum + block, NULL, NULL, NULL, NULL };
    vec->quantize_acts(&part, 0);
    for (uint32_t i = 0; a->rest_q && i < n; i += PIECE) quantise_rest(vec, a, value + i, block + i / 32, n - i < PIECE ? n - i : PIECE);
}

void sg_acts_quantise(const sg_vec_fns *vec, sg_acts *a, uint32_t t) { sg_acts_quantise_part(vec, a, t, 0, a->n_blocks * 32); }

void sg_acts_copy(const sg_acts *to, uint32_t t, const sg_acts *from, uint32_t from_t, bool q8) {
    const size_t tv = (size_t)t * to->k, tb = (size_t)t * to->n_blocks, fv = (size_t)from_t * from->k, fb = (size_t)from_t * from->n_blocks;
    const size_t blocks = to->n_blocks;
    memcpy((float *)(uintptr_t)to->x + tv, from->x + fv, to->k * sizeof *to->x);
    if (!q8) return;
    memcpy(to->q + tv, from->q + fv, to->k);
    memcpy(to->d + tb, from->d + fb, blocks * sizeof *to->d);
    memcpy(to->sums + 2 * tb, from->sums + 2 * fb, blocks * 2 * sizeof *to->sums);
    memcpy(to->dsum + tb, from->dsum + fb, blocks * sizeof *to->dsum);
    if (!to->rest_q || !from->rest_q) return;
    memcpy(to->rest_q + tv, from->rest_q + fv, to->k);
    memcpy(to->rest_d + tb, from->rest_d + fb, blocks * sizeof *to->d);
    memcpy(to->rest_sums + 2 * tb, from->rest_sums + 2 * fb, blocks * 2 * sizeof *to->sums);
    memcpy(to->rest_dsum + tb, from->rest_dsum + fb, blocks * sizeof *to->dsum);
}

void sg_lane_acts_fill_both(sg_lane_acts *to, const sg_acts *from, uint32_t t) {
    sg_lane_acts_fill(to, from, t);
    if (!to->rest_q || !from->rest_q) return;
    sg_lane_acts rest = sg_lane_acts_rest(to);
    const sg_acts source = sg_acts_rest(from);
    sg_lane_acts_fill(&rest, &source, t);
}

void sg_lane_dot(const sg_neuron_kernel *k, float *y, const uint8_t *w, size_t stride, const uint32_t *rows, uint32_t n, const sg_lane_acts *a,
                 uint32_t t) {
    k->dot(y, w, stride, rows, n, a, t);
    if (!k->quantised || !a->rest_q) return;
    float more[SG_DOT_MOST];
    const sg_lane_acts rest = sg_lane_acts_rest(a);
    k->dot(more, w, stride, rows, n, &rest, t);
    for (uint32_t i = 0; i < n; i++) y[i] += more[i];
}

void sg_lane_dot_tokens(const sg_neuron_kernel *k, float *y, size_t ldy, const uint8_t *w, size_t stride, uint32_t n, const sg_lane_acts *a) {
    k->dot_tokens(y, ldy, w, stride, n, a);
    if (!k->quantised || !a->rest_q) return;
    float more[SG_DOT_MOST];
    const sg_lane_acts rest = sg_lane_acts_rest(a);
    for (uint32_t t = 0; t < a->n; t++) {
        k->dot(more, w, stride, NULL, n, &rest, t);
        for (uint32_t i = 0; i < n; i++) y[t * ldy + i] += more[i];
    }
}
