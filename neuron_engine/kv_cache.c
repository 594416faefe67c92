#include <stdlib.h>

#include "neuron_engine/attention.h"
#include "neuron_engine/kernels/tile.h"
#include "neuron_engine/matrix.h"

static const sg_dtype dtypes[SG_KV_TYPES] = { [SG_KV_F16] = SG_DTYPE_F16, [SG_KV_F32] = SG_DTYPE_F32, [SG_KV_Q8_0] = SG_DTYPE_Q8_0 };

static uint64_t whole_blocks(uint64_t rows) { return (rows + SG_KEY_BLOCK - 1) / SG_KEY_BLOCK * SG_KEY_BLOCK; }

/* What a layer will have, behind *k and *v bytes of those before it, which grow by its own. False: more than memory can hold. */
static bool measure(sg_kv_layer *l, const sg_dtype_info *info, const sg_attention *a, uint32_t n_ctx, uint32_t n_batch,
                    uint64_t *k, uint64_t *v) {
    *l = (sg_kv_layer){ 0 };
    if (a->n_head == 0) return true;
    /* The last block of keys is computed whole. */
    const uint64_t all = whole_blocks(n_ctx), ring = whole_blocks((uint64_t)a->window + n_batch + SG_KV_SLACK);
    const bool is_ring = a->window > 0 && ring < all;
    const uint64_t rows = is_ring ? ring : all, values = is_ring ? ring : n_ctx;
    const uint64_t k_row = sg_dtype_bytes(info, a->head_dim_k), v_row = sg_dtype_bytes(info, a->head_dim_v), k_at = *k, v_at = *v;
    uint64_t k_bytes, v_bytes;
    if (!sg_mul_add(rows, k_row, 0, &k_bytes) || !sg_mul_add(values, v_row, 0, &v_bytes) ||
        !sg_mul_add(a->n_head_kv, k_bytes, k_at, k) || !sg_mul_add(a->n_head_kv, v_bytes, v_at, v) || *k > SIZE_MAX / 4 ||
        *v > SIZE_MAX / 4)
        return false;
    *l = (sg_kv_layer){ a->n_head_kv,     a->window,       (size_t)rows, (size_t)k_row, (size_t)v_row,
                        (size_t)k_bytes, (size_t)v_bytes, (size_t)k_at, (size_t)v_at };
    return true;
}

static sg_status init(sg_kv_cache *c, const sg_attention *layers, uint32_t n_batch, sg_error *err) {
    const sg_dtype_info *info = sg_dtype_get(c->dtype);
    uint64_t k = 0, v = 0;
    c->layers = calloc(c->n_layer ? c->n_layer : 1, sizeof *c->layers);
    if (!c->layers) return sg_fail(err, SG_E_NOMEM, "out of memory");
    for (uint32_t i = 0; i < c->n_layer; i++) {
        const sg_attention *a = &layers[i];
        if (a->n_head && (a->head_dim_k % info->block_values || a->head_dim_v % info->block_values))
            return sg_fail(err, SG_E_ARG, "a KV cache of type %s needs heads of a multiple of %u values, this model has %u and %u",
                           info->name, info->block_values, a->head_dim_k, a->head_dim_v);
        if (!measure(&c->layers[i], info, a, c->n_ctx, n_batch, &k, &v))
            return sg_fail(err, SG_E_NOMEM, "the KV cache of %u positions is too large", c->n_ctx);
    }
    SG_TRY(sg_region_create(&c->k, (size_t)k, "the KV cache (a smaller context, -c, needs less)", err));
    return sg_region_create(&c->v, (size_t)v, "the KV cache (a smaller context, -c, needs less)", err);
}

sg_status sg_kv_init(sg_kv_cache *c, sg_kv_type type, const sg_kernels *kernels, const sg_attention *layers, uint32_t n_layer,
                     uint32_t n_ctx, uint32_t n_batch, sg_error *err) {
    *c = (sg_kv_cache){ .n_layer = n_layer, .n_ctx = n_ctx, .type = type, .dtype = dtypes[type] };
    c->kernel = kernels->mat[c->dtype];
    const sg_status s = init(c, layers, n_batch, err);
    if (s != SG_OK) sg_kv_finish(c);
    return s;
}

uint64_t sg_kv_bytes(sg_kv_type type, const sg_attention *layers, uint32_t n_layer, uint32_t n_ctx, uint32_t n_batch) {
    uint64_t k = 0, v = 0;
    sg_kv_layer unused;
    for (uint32_t i = 0; i < n_layer; i++)
        if (!measure(&unused, sg_dtype_get(dtypes[type]), &layers[i], n_ctx, n_batch, &k, &v)) return UINT64_MAX / 2;
    return k + v;
}

void sg_kv_finish(sg_kv_cache *c) {
    free(c->layers);
    c->layers = NULL;
    sg_region_destroy(&c->k);
    sg_region_destroy(&c->v);
}

/* dst = x[n] in the cache's type, as one row. */
static void to_row(const sg_kv_cache *c, const sg_vec_fns *vec, void *dst, const float *x, uint32_t n) {
    if (c->type == SG_KV_F16) vec->f32_to_f16(dst, x, n);
    else sg_quantize(c->dtype, x, dst, n);
}

void sg_kv_store(const sg_attention *a, sg_kv_cache *c, const sg_vec_fns *vec, uint32_t layer, uint32_t pos, uint32_t kv_head,
                 const float *k, const float *v) {
    const sg_kv_layer *l = &c->layers[layer];
    const size_t at_row = pos % l->capacity;
    char *keys = (char *)c->k.data + l->k_at + kv_head * l->k_bytes, *values = (char *)c->v.data + l->v_at + kv_head * l->v_bytes;
    /* A key's granules go to their places in the tile of its position; by pieces that the stack holds. */
    enum { PIECE = 256 };
    uint8_t row[PIECE * sizeof(float)];
    for (uint32_t at = 0, n; at < a->head_dim_k; at += n) {
        n = a->head_dim_k - at < PIECE ? a->head_dim_k - at : PIECE;
        to_row(c, vec, row, k + at, n);
        sg_tile_put_row(c->dtype, c->kernel->mr, keys, row, (uint32_t)at_row, a->head_dim_k, at, n);
    }
    to_row(c, vec, values + at_row * l->v_row, v, a->head_dim_v);
}

uint32_t sg_kv_intact_from(const sg_kv_cache *c, uint32_t high) {
    uint32_t from = 0;
    for (uint32_t i = 0; i < c->n_layer; i++) {
        const sg_kv_layer *l = &c->layers[i];
        if (l->window <= 1 || high <= l->capacity) continue; /* a window of 1 needs nothing of the past */
        const uint32_t n = high - (uint32_t)l->capacity + l->window - 1;
        if (n > from) from = n;
    }
    return from;
}

bool sg_kv_can_rewind(const sg_kv_cache *c, uint32_t high, uint32_t n) {
    return n <= high && (n == 0 || n >= sg_kv_intact_from(c, high));
}

/* Positions from .. to-1 of one part of one head, of which `capacity` have a row. */
static bool give_rows(char *part, size_t row, size_t capacity, uint64_t from, uint64_t to, sg_kv_range_fn fn, void *user) {
    for (uint64_t n; from < to; from += n) {
        const size_t at = (size_t)(from % capacity);
        n = to - from < capacity - at ? to - from : capacity - at;
        if (!fn(user, part + at * row, (size_t)n * row)) return false;
    }
    return true;
}

bool sg_kv_ranges(const sg_kv_cache *c, uint32_t from, uint32_t n, sg_kv_range_fn fn, void *user) {
    const uint64_t mr = c->kernel->mr;
    for (uint32_t i = 0; i < c->n_layer; i++) {
        const sg_kv_layer *l = &c->layers[i];
        const uint32_t lo = l->window && from >= l->window ? from - l->window + 1 : 0;
        for (uint32_t h = 0; h < l->n_head_kv; h++)
            if (!give_rows((char *)c->k.data + l->k_at + h * l->k_bytes, l->k_row, l->capacity, lo / mr * mr, (n + mr - 1) / mr * mr, fn, user) ||
                !give_rows((char *)c->v.data + l->v_at + h * l->v_bytes, l->v_row, l->capacity, lo, n, fn, user))
                return false;
    }
    return true;
}

static bool count(void *user, void *p, size_t bytes) {
    (void)p;
    *(uint64_t *)user += bytes;
    return true;
}

uint64_t sg_kv_range_bytes(const sg_kv_cache *c, uint32_t from, uint32_t n) {
    uint64_t bytes = 0;
    (void)sg_kv_ranges(c, from, n, count, &bytes);
    return bytes;
}

/* FNV-1a over 64-bit words; it tells apart what differs by chance, not by malice. */
static void mix(uint64_t *id, uint64_t word) { *id = (*id ^ word) * 1099511628211u; }

uint64_t sg_kv_layout_id(const sg_kv_cache *c) {
    uint64_t id = 14695981039346656037u;
    mix(&id, (uint64_t)c->type);
    mix(&id, c->kernel->layout);
    mix(&id, c->n_layer);
    for (uint32_t i = 0; i < c->n_layer; i++) {
        const sg_kv_layer *l = &c->layers[i];
        mix(&id, l->n_head_kv);
        mix(&id, l->k_row);
        mix(&id, l->v_row);
        mix(&id, l->window);
    }
    return id;
}
