#include "neuron_engine/attention.h"

#include <math.h>
#include <string.h>

#include "neuron_engine/matrix.h"
#include "neuron_engine/quant.h"

#define ROWS 32u /* most queries of a tile */

static uint32_t min_u(uint32_t a, uint32_t b) { return a < b ? a : b; }
static uint32_t group_of(const sg_attention *a) { return a->n_head / a->n_head_kv; }

/* A group of more than ROWS heads is cut into parts of equal size, but for the last one. */
static uint32_t parts_of(const sg_attention *a) { return (group_of(a) + ROWS - 1) / ROWS; }
static uint32_t part_heads(const sg_attention *a) { return (group_of(a) + parts_of(a) - 1) / parts_of(a); }

uint32_t sg_attention_units(const sg_attention *a) { return a->n_head ? a->n_head_kv * parts_of(a) : 0; }
uint32_t sg_attention_unit_tokens(const sg_attention *a) { return a->n_head ? ROWS / part_heads(a) : 1; }

/* First key that is seen from `pos`. */
static uint32_t first_key(const sg_attention *a, uint32_t pos) {
    return a->window && pos >= a->window ? pos - a->window + 1 : 0;
}

/* One tile at work. Row r is head `head` + r % heads of token r / heads. */
typedef struct tile {
    const sg_attention *a;
    const sg_vec_fns *vec;
    const sg_kv_cache *c;
    const sg_kv_layer *layer;
    sg_attention_scratch *s;
    const char *k, *v;    /* of the layer and kv head */
    uint32_t pos, n;      /* first token, tokens */
    uint32_t head, heads; /* of the unit */
    uint32_t rows;
} tile;

static void set_heads(tile *t, uint32_t unit) {
    const uint32_t group = group_of(t->a), parts = parts_of(t->a), from = unit % parts * part_heads(t->a);
    t->head = unit / parts * group + from;
    t->heads = min_u(part_heads(t->a), group - from);
    t->rows = t->n * t->heads;
}

size_t sg_attention_scratch_init(sg_attention_scratch *s, const sg_attention *layers, uint32_t n_layer, void *base) {
    size_t rows = 0, q = 0, v = 0; /* the most of any layer */
    for (uint32_t i = 0; i < n_layer; i++) {
        const sg_attention *a = &layers[i];
        if (a->n_head == 0) continue;
        const size_t r = (size_t)sg_attention_unit_tokens(a) * part_heads(a);
        if (r > rows) rows = r;
        if (r * a->head_dim_k > q) q = r * a->head_dim_k;
        if (r * a->head_dim_v > v) v = r * a->head_dim_v;
    }
    sg_carver c = { base, 0 };
    s->q = (sg_acts){ .x = sg_carve(&c, q, sizeof(float)) };
    s->q.q = sg_carve(&c, q, 1);
    s->q.d = sg_carve(&c, q / 32, sizeof *s->q.d);
    s->q.sums = sg_carve(&c, q / 32, 2 * sizeof *s->q.sums);
    s->q.dsum = sg_carve(&c, q / 32, sizeof *s->q.dsum);
    s->scores = sg_carve(&c, rows * SG_KEY_BLOCK, sizeof(float));
    float **const sums[] = { &s->acc, &s->all }, **const one[] = { &s->max, &s->sum, &s->keep, &s->all_max, &s->all_sum };
    for (size_t i = 0; i < sizeof sums / sizeof *sums; i++) *sums[i] = sg_carve(&c, v, sizeof(float));
    for (size_t i = 0; i < sizeof one / sizeof *one; i++) *one[i] = sg_carve(&c, rows, sizeof(float));
    return c.used;
}

static tile make_tile(const sg_attention *a, const sg_kv_cache *c, const sg_vec_fns *vec, sg_attention_scratch *s, uint32_t layer,
                      uint32_t unit, uint32_t pos, uint32_t n) {
    const sg_kv_layer *l = &c->layers[layer];
    const size_t kv_head = unit / parts_of(a);
    tile t = { .a = a, .vec = vec, .c = c, .layer = l, .s = s, .k = (char *)c->k.data + l->k_at + kv_head * l->k_bytes,
               .v = (char *)c->v.data + l->v_at + kv_head * l->v_bytes, .pos = pos, .n = n };
    set_heads(&t, unit);
    return t;
}

static void load_queries(const tile *t, const float *q, size_t ldq) {
    const uint32_t dk = t->a->head_dim_k;
    const size_t stride = t->a->q_stride ? t->a->q_stride : dk;
    sg_acts *acts = &t->s->q;
    float *x = (float *)acts->x;
    acts->n = t->rows;
    acts->k = dk;
    acts->n_blocks = dk / 32;
    for (uint32_t i = 0; i < t->n; i++)
        for (uint32_t h = 0; h < t->heads; h++, x += dk) {
            const float *from = q + i * ldq + (t->head + h) * stride;
            for (uint32_t j = 0; j < dk; j++) x[j] = from[j] * t->a->scale;
        }
    if (t->c->kernel->acts_q8)
        for (uint32_t r = 0; r < t->rows; r++) t->vec->quantize_acts(acts, r);
}

/* Scores of all rows against the keys from `key` on, so many that the last token finds its own. Those that a row does not see
 * mean nothing. */
static void block_scores(const tile *t, uint32_t key, uint32_t n_keys) {
    const sg_mat_kernel *kernel = t->c->kernel;
    const uint32_t rows = (n_keys + kernel->mr - 1) / kernel->mr * kernel->mr;
    const char *k = t->k + key % t->layer->capacity * t->layer->k_row;
    (t->rows == 1 ? kernel->gemv : kernel->gemm)(t->s->scores, SG_KEY_BLOCK, k, &t->s->q, 0, rows);
}

/* Keys from .. from + n_keys-1 of the block at `key` join the sums of rows first .. first + rows-1, which see them all. */
static void weigh_block(const tile *t, uint32_t key, uint32_t from, uint32_t n_keys, uint32_t first, uint32_t rows) {
    const sg_attention_scratch *s = t->s;
    const uint32_t dv = t->a->head_dim_v;
    const sg_attend_fns *attend = &t->vec->attend;
    float *scores = s->scores + (size_t)first * SG_KEY_BLOCK + from;
    for (uint32_t r = 0; r < rows; r++) {
        float *x = scores + (size_t)r * SG_KEY_BLOCK;
        if (t->a->softcap != 0) t->vec->softcap(x, n_keys, t->a->softcap);
        s->keep[first + r] = attend->softmax(x, n_keys, &s->max[first + r], &s->sum[first + r]);
    }
    attend->weigh[t->c->type](s->acc + (size_t)first * dv, s->keep + first, scores, SG_KEY_BLOCK, rows,
                              t->v + (key % t->layer->capacity + from) * t->layer->v_row, n_keys, dv);
}

/* Neighbouring tokens that see the block whole are weighed together, others one by one. */
static void block(const tile *t, uint32_t key) {
    block_scores(t, key, min_u(SG_KEY_BLOCK, t->pos + t->n - key));
    for (uint32_t i = 0, tokens; i < t->n; i += tokens) {
        const uint32_t pos = t->pos + i, begin = first_key(t->a, pos);
        tokens = 1;
        if (pos < key || begin >= key + SG_KEY_BLOCK) continue; /* it sees none of them: too early in the tile, or too late */
        const uint32_t from = begin > key ? begin - key : 0, to = min_u(SG_KEY_BLOCK, pos + 1 - key);
        if (from == 0 && to == SG_KEY_BLOCK)
            while (i + tokens < t->n && first_key(t->a, pos + tokens) <= key) tokens++;
        weigh_block(t, key, from, to - from, i * t->heads, tokens * t->heads);
    }
}

static void start_sums(float *acc, float *max, float *sum, uint32_t rows, uint32_t dv) {
    memset(acc, 0, (size_t)rows * dv * sizeof *acc);
    memset(sum, 0, rows * sizeof *sum);
    for (uint32_t r = 0; r < rows; r++) max[r] = -INFINITY;
}

/* Segment g of the context, from the first block on of which the first token sees something. */
static void segment(const tile *t, uint32_t g) {
    const sg_attention_scratch *s = t->s;
    const uint32_t end = min_u((g + 1) * SG_KEY_SEGMENT, t->pos + t->n), seen = first_key(t->a, t->pos) / SG_KEY_BLOCK * SG_KEY_BLOCK;
    start_sums(s->acc, s->max, s->sum, t->rows, t->a->head_dim_v);
    uint32_t key = g * SG_KEY_SEGMENT;
    for (key = key > seen ? key : seen; key < end; key += SG_KEY_BLOCK) block(t, key);
}

/* *all_max takes in `max`; what was summed up before is to be multiplied by *before, and what has the maximum `max` by *here. */
static void rescale(const sg_vec_fns *vec, float max, float *all_max, float *before, float *here) {
    const float now = max > *all_max ? max : *all_max;
    float pair[2] = { *all_max - now, max - now }, unused_max = 0, unused_sum = 0;
    vec->attend.softmax(pair, 2, &unused_max, &unused_sum); /* e^x of both, since the maximum is 0 */
    *before = pair[0];
    *here = pair[1];
    *all_max = now;
}

/* Joins one row's segment (acc, max, sum) into what came before it. A segment without any weight changes nothing. */
static void join(const sg_vec_fns *vec, uint32_t dv, const float *acc, float max, float sum, float *all, float *all_max, float *all_sum) {
    float before, here;
    if (max == -INFINITY) return;
    rescale(vec, max, all_max, &before, &here);
    for (uint32_t i = 0; i < dv; i++) all[i] = all[i] * before + acc[i] * here;
    *all_sum = *all_sum * before + sum * here;
}

/* The result of row r of the sums over all segments, which is head h. */
static void finish_row(const sg_attention *a, const sg_vec_fns *vec, sg_attention_scratch *s, uint32_t r, uint32_t h, float *out) {
    const uint32_t dv = a->head_dim_v;
    float *all = s->all + (size_t)r * dv;
    if (a->sinks && a->sinks[h] != -INFINITY) {
        float before, here;
        rescale(vec, a->sinks[h], &s->all_max[r], &before, &here);
        for (uint32_t i = 0; i < dv; i++) all[i] *= before;
        s->all_sum[r] = s->all_sum[r] * before + here;
    }
    const float inverse = s->all_sum[r] == 0 ? 0 : 1 / s->all_sum[r]; /* no weight anywhere: zeros */
    for (uint32_t i = 0; i < dv; i++) out[i] = all[i] * inverse;
}

void sg_attention_run(const sg_attention *a, const sg_kv_cache *c, const sg_vec_fns *vec, sg_attention_scratch *s, uint32_t layer,
                      uint32_t unit, uint32_t pos, uint32_t n, const float *q, size_t ldq, float *out, size_t ldo) {
    const tile t = make_tile(a, c, vec, s, layer, unit, pos, n);
    const uint32_t dv = a->head_dim_v, last = (pos + n - 1) / SG_KEY_SEGMENT;
    load_queries(&t, q, ldq);
    start_sums(s->all, s->all_max, s->all_sum, t.rows, dv);
    for (uint32_t g = first_key(a, pos) / SG_KEY_SEGMENT; g <= last; g++) {
        segment(&t, g);
        for (uint32_t r = 0; r < t.rows; r++)
            join(vec, dv, s->acc + (size_t)r * dv, s->max[r], s->sum[r], s->all + (size_t)r * dv, &s->all_max[r], &s->all_sum[r]);
    }
    for (uint32_t r = 0; r < t.rows; r++) {
        const uint32_t h = t.head + r % t.heads;
        finish_row(a, vec, s, r, h, out + r / t.heads * ldo + (size_t)h * dv);
    }
}

uint32_t sg_attention_segments(const sg_attention *a, uint32_t pos) {
    return pos / SG_KEY_SEGMENT - first_key(a, pos) / SG_KEY_SEGMENT + 1;
}

/* window keys touch most segments when the first one is the last of its segment. */
uint32_t sg_attention_most_segments(const sg_attention *a, uint32_t n_ctx) {
    if (a->n_head == 0 || n_ctx == 0) return 0;
    const uint32_t all = (n_ctx - 1) / SG_KEY_SEGMENT + 1;
    return a->window && a->window < n_ctx ? min_u((a->window + SG_KEY_SEGMENT - 2) / SG_KEY_SEGMENT + 1, all) : all;
}

/* acc, max, sum; a whole number of cache lines, since neighbours belong to different threads. */
size_t sg_attention_part_floats(const sg_attention *a) {
    const size_t line = SG_CACHE_LINE / sizeof(float);
    return (a->head_dim_v + 2 + line - 1) / line * line;
}

void sg_attention_part(const sg_attention *a, const sg_kv_cache *c, const sg_vec_fns *vec, sg_attention_scratch *s,
                       uint32_t layer, uint32_t unit, uint32_t pos, uint32_t g, const float *q, float *parts) {
    const tile t = make_tile(a, c, vec, s, layer, unit, pos, 1);
    const uint32_t dv = a->head_dim_v;
    load_queries(&t, q, 0);
    segment(&t, first_key(a, pos) / SG_KEY_SEGMENT + g);
    for (uint32_t r = 0; r < t.rows; r++) {
        float *part = parts + ((size_t)g * a->n_head + t.head + r) * sg_attention_part_floats(a);
        memcpy(part, s->acc + (size_t)r * dv, dv * sizeof *part);
        part[dv] = s->max[r];
        part[dv + 1] = s->sum[r];
    }
}

void sg_attention_join(const sg_attention *a, const sg_vec_fns *vec, sg_attention_scratch *s, uint32_t unit, uint32_t pos,
                       const float *parts, float *out) {
    tile t = { .a = a, .n = 1 };
    set_heads(&t, unit);
    const uint32_t dv = a->head_dim_v, segments = sg_attention_segments(a, pos);
    start_sums(s->all, s->all_max, s->all_sum, t.rows, dv);
    for (uint32_t r = 0; r < t.rows; r++) {
        const size_t h = t.head + r;
        for (uint32_t g = 0; g < segments; g++) {
            const float *part = parts + ((size_t)g * a->n_head + h) * sg_attention_part_floats(a);
            join(vec, dv, part, part[dv], part[dv + 1], s->all + (size_t)r * dv, &s->all_max[r], &s->all_sum[r]);
        }
        finish_row(a, vec, s, r, (uint32_t)h, out + h * dv);
    }
}
