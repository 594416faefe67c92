#include "neuron_engine/attention.h"

#include <math.h>
#include <string.h>

#include "neuron_engine/matrix.h"
#include "neuron_engine/quant.h"

#define ROWS 32u /* queries wanted in a tile; more when a kv head serves more heads than that */

static uint32_t min_u(uint32_t a, uint32_t b) { return a < b ? a : b; }
static uint32_t group_of(const sg_attention *a) { return a->n_head / a->n_head_kv; }

uint32_t sg_attention_tokens(const sg_attention *a) { return group_of(a) < ROWS ? ROWS / group_of(a) : 1; }

/* One tile at work. */
typedef struct tile {
    const sg_attention *a;
    const sg_vec_fns *vec;
    const sg_kv_cache *c;
    sg_attention_scratch *s;
    const char *k, *v; /* of the layer and kv head */
    uint32_t pos, n;   /* first token, tokens */
    uint32_t group, rows;
} tile;

size_t sg_attention_scratch_init(sg_attention_scratch *s, const sg_attention *a, void *base) {
    const size_t rows = (size_t)sg_attention_tokens(a) * group_of(a), dk = a->head_dim_k, dv = a->head_dim_v;
    sg_carver c = { base, 0 };
    s->q = (sg_acts){ .k = a->head_dim_k, .n_blocks = a->head_dim_k / 32 };
    s->q.x = sg_carve(&c, rows * dk, sizeof(float));
    s->q.q = sg_carve(&c, rows * dk, 1);
    s->q.d = sg_carve(&c, rows * s->q.n_blocks, sizeof *s->q.d);
    s->q.sums = sg_carve(&c, rows * s->q.n_blocks, 2 * sizeof *s->q.sums);
    s->q.dsum = sg_carve(&c, rows * s->q.n_blocks, sizeof *s->q.dsum);
    s->scores = sg_carve(&c, rows * SG_KEY_BLOCK, sizeof(float));
    float **const sums[] = { &s->acc, &s->all }, **const one[] = { &s->max, &s->sum, &s->keep, &s->all_max, &s->all_sum };
    for (size_t i = 0; i < sizeof sums / sizeof *sums; i++) *sums[i] = sg_carve(&c, rows * dv, sizeof(float));
    for (size_t i = 0; i < sizeof one / sizeof *one; i++) *one[i] = sg_carve(&c, rows, sizeof(float));
    return c.used;
}

static tile make_tile(const sg_attention *a, const sg_kv_cache *c, const sg_vec_fns *vec, sg_attention_scratch *s, uint32_t layer,
                      uint32_t kv_head, uint32_t pos, uint32_t n) {
    const size_t head = (size_t)layer * c->n_head_kv + kv_head;
    return (tile){ .a = a, .vec = vec, .c = c, .s = s, .k = (char *)c->k.data + head * c->k_bytes,
                   .v = (char *)c->v.data + head * c->v_bytes, .pos = pos, .n = n, .group = group_of(a), .rows = n * group_of(a) };
}

/* Row r of the tile is head r % group of token r / group. */
static void load_queries(tile *t, uint32_t kv_head, const float *q, size_t ldq) {
    const uint32_t dk = t->a->head_dim_k;
    sg_acts *acts = &t->s->q;
    float *x = (float *)acts->x;
    acts->n = t->rows;
    for (uint32_t i = 0; i < t->n; i++, x += (size_t)t->group * dk) {
        const float *from = q + i * ldq + (size_t)kv_head * t->group * dk;
        for (size_t j = 0; j < (size_t)t->group * dk; j++) x[j] = from[j] * t->a->scale;
    }
    if (t->c->kernel->acts_q8)
        for (uint32_t r = 0; r < t->rows; r++) t->vec->quantize_acts(acts, r);
}

/* Scores of all rows against the keys from `key` on, so many that the last token finds its own. Those behind a row's own
 * position mean nothing. */
static void block_scores(const tile *t, uint32_t key, uint32_t n_keys) {
    const sg_mat_kernel *kernel = t->c->kernel;
    const uint32_t rows = (n_keys + kernel->mr - 1) / kernel->mr * kernel->mr;
    (t->rows == 1 ? kernel->gemv : kernel->gemm)(t->s->scores, SG_KEY_BLOCK, t->k + key * t->c->k_row, &t->s->q, 0, rows);
}

/* A block that all rows see whole, or that the only token sees in part, is weighed at once; else token by token. */
static void block(const tile *t, uint32_t key) {
    const sg_attention_scratch *s = t->s;
    const uint32_t dv = t->a->head_dim_v;
    const sg_attend_fns *attend = &t->vec->attend;
    block_scores(t, key, min_u(SG_KEY_BLOCK, t->pos + t->n - key));
    for (uint32_t i = 0, r = 0; i < t->n; i++) {
        if (t->pos + i < key) { /* an earlier token of the tile sees none of them */
            r += t->group;
            continue;
        }
        const uint32_t n_keys = min_u(SG_KEY_BLOCK, t->pos + i + 1 - key);
        const uint32_t tokens = n_keys == SG_KEY_BLOCK ? t->n - i : 1; /* so many see the same keys */
        const uint32_t first = r, rows = tokens * t->group;
        for (; r < first + rows; r++)
            s->keep[r] = attend->softmax(s->scores + (size_t)r * SG_KEY_BLOCK, n_keys, &s->max[r], &s->sum[r]);
        attend->weigh[t->c->type](s->acc + (size_t)first * dv, s->keep + first, s->scores + (size_t)first * SG_KEY_BLOCK,
                                  SG_KEY_BLOCK, rows, t->v + key * t->c->v_row, n_keys, dv);
        i += tokens - 1;
    }
}

static void start_sums(float *acc, float *max, float *sum, uint32_t rows, uint32_t dv) {
    memset(acc, 0, (size_t)rows * dv * sizeof *acc);
    memset(sum, 0, rows * sizeof *sum);
    for (uint32_t r = 0; r < rows; r++) max[r] = -INFINITY;
}

static void segment(const tile *t, uint32_t g) {
    const sg_attention_scratch *s = t->s;
    const uint32_t end = min_u((g + 1) * SG_KEY_SEGMENT, t->pos + t->n);
    start_sums(s->acc, s->max, s->sum, t->rows, t->a->head_dim_v);
    for (uint32_t key = g * SG_KEY_SEGMENT; key < end; key += SG_KEY_BLOCK) block(t, key);
}

/* Joins one row's segment (acc, max, sum) into what came before it. A segment without any weight changes nothing. */
static void join(const sg_vec_fns *vec, uint32_t dv, const float *acc, float max, float sum, float *all, float *all_max, float *all_sum) {
    if (max == -INFINITY) return;
    const float now = max > *all_max ? max : *all_max;
    float pair[2] = { *all_max - now, max - now }, unused_max = 0, unused_sum = 0;
    vec->attend.softmax(pair, 2, &unused_max, &unused_sum); /* e^x of both, since the maximum is 0 */
    const float before = pair[0], here = pair[1];
    for (uint32_t i = 0; i < dv; i++) all[i] = all[i] * before + acc[i] * here;
    *all_max = now;
    *all_sum = *all_sum * before + sum * here;
}

static void finish_row(uint32_t dv, const float *all, float sum, float *out) {
    const float inverse = sum == 0 ? 0 : 1 / sum; /* no weight anywhere: zeros */
    for (uint32_t i = 0; i < dv; i++) out[i] = all[i] * inverse;
}

void sg_attention_run(const sg_attention *a, const sg_kv_cache *c, const sg_vec_fns *vec, sg_attention_scratch *s, uint32_t layer,
                      uint32_t kv_head, uint32_t pos, uint32_t n, const float *q, size_t ldq, float *out, size_t ldo) {
    tile t = make_tile(a, c, vec, s, layer, kv_head, pos, n);
    const uint32_t dv = a->head_dim_v;
    load_queries(&t, kv_head, q, ldq);
    start_sums(s->all, s->all_max, s->all_sum, t.rows, dv);
    for (uint32_t g = 0; g < sg_attention_segments(pos + n - 1); g++) {
        segment(&t, g);
        for (uint32_t r = 0; r < t.rows; r++)
            join(vec, dv, s->acc + (size_t)r * dv, s->max[r], s->sum[r], s->all + (size_t)r * dv, &s->all_max[r], &s->all_sum[r]);
    }
    for (uint32_t r = 0; r < t.rows; r++)
        finish_row(dv, s->all + (size_t)r * dv, s->all_sum[r],
                   out + r / t.group * ldo + ((size_t)kv_head * t.group + r % t.group) * dv);
}

uint32_t sg_attention_segments(uint32_t pos) { return pos / SG_KEY_SEGMENT + 1; }

/* acc, max, sum; a whole number of cache lines, since neighbours belong to different threads. */
size_t sg_attention_part_floats(const sg_attention *a) {
    const size_t line = SG_CACHE_LINE / sizeof(float);
    return (a->head_dim_v + 2 + line - 1) / line * line;
}

void sg_attention_part(const sg_attention *a, const sg_kv_cache *c, const sg_vec_fns *vec, sg_attention_scratch *s,
                       uint32_t layer, uint32_t kv_head, uint32_t pos, uint32_t g, const float *q, float *parts) {
    tile t = make_tile(a, c, vec, s, layer, kv_head, pos, 1);
    const uint32_t dv = a->head_dim_v;
    load_queries(&t, kv_head, q, 0);
    segment(&t, g);
    for (uint32_t r = 0; r < t.rows; r++) {
        float *part = parts + ((size_t)g * a->n_head + (size_t)kv_head * t.group + r) * sg_attention_part_floats(a);
        memcpy(part, s->acc + (size_t)r * dv, dv * sizeof *part);
        part[dv] = s->max[r];
        part[dv + 1] = s->sum[r];
    }
}

void sg_attention_join(const sg_attention *a, const sg_vec_fns *vec, sg_attention_scratch *s, uint32_t kv_head, uint32_t pos,
                       const float *parts, float *out) {
    const uint32_t dv = a->head_dim_v, group = group_of(a);
    start_sums(s->all, s->all_max, s->all_sum, group, dv);
    for (uint32_t r = 0; r < group; r++) {
        const size_t h = (size_t)kv_head * group + r;
        for (uint32_t g = 0; g < sg_attention_segments(pos); g++) {
            const float *part = parts + ((size_t)g * a->n_head + h) * sg_attention_part_floats(a);
            join(vec, dv, part, part[dv], part[dv + 1], s->all + (size_t)r * dv, &s->all_max[r], &s->all_sum[r]);
        }
        finish_row(dv, s->all + (size_t)r * dv, s->all_sum[r], out + h * dv);
    }
}
