#include "neuron_engine/attention.h"
#include "neuron_engine/kernels/tile.h"
#include "neuron_engine/matrix.h"

static const sg_dtype dtypes[SG_KV_TYPES] = { [SG_KV_F16] = SG_DTYPE_F16, [SG_KV_F32] = SG_DTYPE_F32, [SG_KV_Q8_0] = SG_DTYPE_Q8_0 };

sg_status sg_kv_init(sg_kv_cache *c, sg_kv_type type, const sg_kernels *kernels, const sg_attention *a, uint32_t n_layer,
                     uint32_t n_ctx, sg_error *err) {
    *c = (sg_kv_cache){ .n_layer = n_layer, .n_ctx = n_ctx, .n_head_kv = a->n_head_kv, .type = type, .dtype = dtypes[type] };
    c->kernel = kernels->mat[c->dtype];
    const sg_dtype_info *info = sg_dtype_get(c->dtype);
    if (a->head_dim_k % info->block_values || a->head_dim_v % info->block_values)
        return sg_fail(err, SG_E_ARG, "a KV cache of type %s needs heads of a multiple of %u values, this model has %u and %u",
                       info->name, info->block_values, a->head_dim_k, a->head_dim_v);
    c->k_row = (size_t)sg_dtype_bytes(info, a->head_dim_k);
    c->v_row = (size_t)sg_dtype_bytes(info, a->head_dim_v);
    /* The last block of keys is computed whole. */
    const uint64_t rows = ((uint64_t)n_ctx + SG_KEY_BLOCK - 1) / SG_KEY_BLOCK * SG_KEY_BLOCK;
    uint64_t heads, k_head, v_head, k_all, v_all;
    if (!sg_mul_add(n_layer, a->n_head_kv, 0, &heads) || !sg_mul_add(rows, c->k_row, 0, &k_head) ||
        !sg_mul_add(n_ctx, c->v_row, 0, &v_head) || !sg_mul_add(heads, k_head, 0, &k_all) ||
        !sg_mul_add(heads, v_head, 0, &v_all) || k_all > SIZE_MAX / 2 || v_all > SIZE_MAX / 2)
        return sg_fail(err, SG_E_NOMEM, "the KV cache of %u positions is too large", n_ctx);
    c->k_bytes = (size_t)k_head;
    c->v_bytes = (size_t)v_head;
    SG_TRY(sg_region_create(&c->k, (size_t)k_all, "the KV cache (a smaller context, -c, needs less)", err));
    const sg_status s = sg_region_create(&c->v, (size_t)v_all, "the KV cache (a smaller context, -c, needs less)", err);
    if (s != SG_OK) sg_kv_finish(c);
    return s;
}

uint64_t sg_kv_bytes(sg_kv_type type, const sg_attention *a, uint32_t n_layer, uint32_t n_ctx) {
    const sg_dtype_info *info = sg_dtype_get(dtypes[type]);
    const uint64_t rows = ((uint64_t)n_ctx + SG_KEY_BLOCK - 1) / SG_KEY_BLOCK * SG_KEY_BLOCK;
    return (uint64_t)n_layer * a->n_head_kv * (rows * sg_dtype_bytes(info, a->head_dim_k) + n_ctx * sg_dtype_bytes(info, a->head_dim_v));
}

void sg_kv_finish(sg_kv_cache *c) {
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
    const size_t head = (size_t)layer * c->n_head_kv + kv_head;
    /* A key's granules go to their places in the tile of its position; by pieces that the stack holds. */
    enum { PIECE = 256 };
    uint8_t row[PIECE * sizeof(float)];
    for (uint32_t at = 0, n; at < a->head_dim_k; at += n) {
        n = a->head_dim_k - at < PIECE ? a->head_dim_k - at : PIECE;
        to_row(c, vec, row, k + at, n);
        sg_tile_put_row(c->dtype, c->kernel->mr, (char *)c->k.data + head * c->k_bytes, row, pos, a->head_dim_k, at, n);
    }
    to_row(c, vec, (char *)c->v.data + head * c->v_bytes + pos * c->v_row, v, a->head_dim_v);
}
