/* Keys and values of past positions, and grouped-query attention over them. */
#ifndef SG_NE_ATTENTION_H
#define SG_NE_ATTENTION_H

#include "neuron_engine/kernels/kernels.h"
#include "runtime/base/mem.h"

/* K and V of every layer: [layer][position][kv head][head dim], F16 or F32. Positions 0 .. n_ctx-1. One writer and many
 * readers per position: a position is written before it is read (a barrier between). */
typedef struct sg_kv_cache {
    uint32_t n_layer, n_ctx, k_len, v_len; /* k_len = n_head_kv * head_dim_k values per position, v_len likewise */
    sg_kv_type type;
    sg_region k, v;
} sg_kv_cache;

SG_NODISCARD sg_status sg_kv_init(sg_kv_cache *c, sg_kv_type type, uint32_t n_layer, uint32_t n_ctx, uint32_t k_len,
                                  uint32_t v_len, sg_error *err);
void sg_kv_finish(sg_kv_cache *c);

typedef struct sg_attention {
    uint32_t n_head, n_head_kv, head_dim_k, head_dim_v;
    float scale; /* of the scores */
} sg_attention;

/* Writes k[head_dim_k] and v[head_dim_v] of one kv head at one position of a layer, rounded to the cache's type. */
void sg_kv_store(const sg_attention *a, sg_kv_cache *c, const sg_vec_fns *vec, uint32_t layer, uint32_t pos, uint32_t kv_head,
                 const float *k, const float *v);

/* out[head_dim_v] of query head h at position pos: softmax over keys 0 .. pos in ascending order. q: [head_dim_k] of that head.
 * scores: scratch for pos + 1 floats. Thread-safe for different scratch and out. */
void sg_attention_head(const sg_attention *a, const sg_kv_cache *c, const sg_vec_fns *vec, uint32_t layer, uint32_t pos,
                       uint32_t h, const float *q, float *scores, float *out);

#endif
