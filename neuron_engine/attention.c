#include "neuron_engine/attention.h"

#include <string.h>

static size_t value_bytes(sg_kv_type t) { return t == SG_KV_F32 ? sizeof(float) : sizeof(uint16_t); }

sg_status sg_kv_init(sg_kv_cache *c, sg_kv_type type, uint32_t n_layer, uint32_t n_ctx, uint32_t k_len, uint32_t v_len,
                     sg_error *err) {
    *c = (sg_kv_cache){ .n_layer = n_layer, .n_ctx = n_ctx, .k_len = k_len, .v_len = v_len, .type = type };
    uint64_t positions, k_bytes, v_bytes;
    if (!sg_mul_add(n_layer, n_ctx, 0, &positions) || !sg_mul_add(positions, k_len * value_bytes(type), 0, &k_bytes) ||
        !sg_mul_add(positions, v_len * value_bytes(type), 0, &v_bytes) || k_bytes > SIZE_MAX / 2 || v_bytes > SIZE_MAX / 2)
        return sg_fail(err, SG_E_NOMEM, "the KV cache of %u positions is too large", n_ctx);
    SG_TRY(sg_region_create(&c->k, k_bytes, "the KV cache (a smaller context, -c, needs less)", err));
    const sg_status s = sg_region_create(&c->v, v_bytes, "the KV cache (a smaller context, -c, needs less)", err);
    if (s != SG_OK) sg_kv_finish(c);
    return s;
}

void sg_kv_finish(sg_kv_cache *c) {
    sg_region_destroy(&c->k);
    sg_region_destroy(&c->v);
}

/* Address of value `i` of a position. */
static void *at(const sg_kv_cache *c, const sg_region *r, uint32_t len, uint32_t layer, uint32_t pos, uint32_t i) {
    return (char *)r->data + (((size_t)layer * c->n_ctx + pos) * len + i) * value_bytes(c->type);
}

void sg_kv_store(const sg_attention *a, sg_kv_cache *c, const sg_vec_fns *vec, uint32_t layer, uint32_t pos, uint32_t kv_head,
                 const float *k, const float *v) {
    void *const kd = at(c, &c->k, c->k_len, layer, pos, kv_head * a->head_dim_k);
    void *const vd = at(c, &c->v, c->v_len, layer, pos, kv_head * a->head_dim_v);
    if (c->type == SG_KV_F32) {
        memcpy(kd, k, a->head_dim_k * sizeof *k);
        memcpy(vd, v, a->head_dim_v * sizeof *v);
    } else {
        vec->f32_to_f16(kd, k, a->head_dim_k);
        vec->f32_to_f16(vd, v, a->head_dim_v);
    }
}

void sg_attention_head(const sg_attention *a, const sg_kv_cache *c, const sg_vec_fns *vec, uint32_t layer, uint32_t pos,
                       uint32_t h, const float *q, float *scores, float *out) {
    const uint32_t group = h / (a->n_head / a->n_head_kv);
    const uint32_t k0 = group * a->head_dim_k, v0 = group * a->head_dim_v;
    for (uint32_t j = 0; j <= pos; j++) {
        const void *k = at(c, &c->k, c->k_len, layer, j, k0);
        const float dot = c->type == SG_KV_F32 ? vec->dot_f32(q, k, a->head_dim_k) : vec->dot_f16(q, k, a->head_dim_k);
        scores[j] = dot * a->scale;
    }
    vec->softmax(scores, pos + 1);
    memset(out, 0, a->head_dim_v * sizeof *out);
    for (uint32_t j = 0; j <= pos; j++) {
        const void *v = at(c, &c->v, c->v_len, layer, j, v0);
        if (c->type == SG_KV_F32) vec->axpy_f32(out, scores[j], v, a->head_dim_v);
        else vec->axpy_f16(out, scores[j], v, a->head_dim_v);
    }
}
