/* Keys and values of past positions, and grouped-query attention over them.
 *
 * THE RULE of kernels.h holds here too: what a query gets depends on its position and on the keys before it only, not on how
 * many queries are evaluated together, nor on threads. For one query head at position `pos`:
 *   - scores s_j = (q * scale) . k_j by the matrix kernel of the cache's type, keys being the rows of a matrix (for Q8_0 the
 *     query is quantised to 8 bit like any activation);
 *   - the keys are cut at multiples of SG_KEY_SEGMENT into segments and these into blocks of SG_KEY_BLOCK. Inside a segment an
 *     online softmax walks the blocks in ascending order (attend.softmax, attend.weigh; FlashAttention, arXiv 2205.14135,
 *     algorithm 1);
 *   - the segments' results are joined in ascending order, so that threads can share a long context even when only one token
 *     is evaluated (as in Flash-Decoding). */
#ifndef SG_NE_ATTENTION_H
#define SG_NE_ATTENTION_H

#include "neuron_engine/kernels/kernels.h"
#include "runtime/base/mem.h"

#define SG_KEY_BLOCK 64u
#define SG_KEY_SEGMENT 1024u

typedef struct sg_attention {
    uint32_t n_head, n_head_kv, head_dim_k, head_dim_v; /* n_head is a multiple of n_head_kv */
    float scale;                                        /* of the scores */
} sg_attention;

/* Per layer and kv head: the keys as a packed matrix (one row per position) of the tier's kernel, and the values as rows one
 * behind the other. Positions 0 .. n_ctx-1. One writer and many readers per position: it is written before it is read (a
 * barrier between). */
typedef struct sg_kv_cache {
    uint32_t n_layer, n_ctx, n_head_kv;
    sg_kv_type type;
    sg_dtype dtype;               /* the same */
    const sg_mat_kernel *kernel;  /* of the keys; not owned */
    size_t k_bytes, v_bytes;      /* of one layer and kv head */
    size_t k_row, v_row;          /* of one position */
    sg_region k, v;
} sg_kv_cache;

/* `kernels` must outlive the cache. SG_E_ARG when the heads do not fit the type. */
SG_NODISCARD sg_status sg_kv_init(sg_kv_cache *c, sg_kv_type type, const sg_kernels *kernels, const sg_attention *a,
                                  uint32_t n_layer, uint32_t n_ctx, sg_error *err);
void sg_kv_finish(sg_kv_cache *c);
/* Bytes that sg_kv_init would take. */
uint64_t sg_kv_bytes(sg_kv_type type, const sg_attention *a, uint32_t n_layer, uint32_t n_ctx);

/* Writes k[head_dim_k] and v[head_dim_v] of one kv head at one position of a layer, rounded to the cache's type. Thread-safe for
 * different heads or positions. */
void sg_kv_store(const sg_attention *a, sg_kv_cache *c, const sg_vec_fns *vec, uint32_t layer, uint32_t pos, uint32_t kv_head,
                 const float *k, const float *v);

/* Queries that are computed together: the heads of one kv head for up to sg_attention_tokens neighbouring tokens, so that every
 * key and value that is read serves all of them. */
uint32_t sg_attention_tokens(const sg_attention *a);

/* Working memory of one thread, 64-byte aligned pieces of `base`; base NULL only measures. Returns the bytes. */
typedef struct sg_attention_scratch {
    sg_acts q;                       /* [rows][head_dim_k], scaled */
    float *scores;                   /* [rows][SG_KEY_BLOCK] */
    float *acc, *max, *sum, *keep;   /* of a segment: [rows][head_dim_v], [rows].. */
    float *all, *all_max, *all_sum;  /* of the segments so far */
} sg_attention_scratch;
size_t sg_attention_scratch_init(sg_attention_scratch *s, const sg_attention *a, void *base);

/* Attention of tokens at positions pos .. pos + n - 1, n <= sg_attention_tokens, for the heads of kv_head, over the keys
 * 0 .. their own position. q: head h of token t at q[t*ldq + h*head_dim_k], h counted over all heads; out likewise with
 * head_dim_v and ldo. Thread-safe for different scratch and out. */
void sg_attention_run(const sg_attention *a, const sg_kv_cache *c, const sg_vec_fns *vec, sg_attention_scratch *s, uint32_t layer,
                      uint32_t kv_head, uint32_t pos, uint32_t n, const float *q, size_t ldq, float *out, size_t ldo);

/* The same for one token in parts: any thread computes any segment < sg_attention_segments(pos) into `parts`, and after a barrier
 * one joins them. parts: sg_attention_part_floats() floats per (segment, head), head h of segment g at
 * parts[(g*n_head + h) * ..]. */
uint32_t sg_attention_segments(uint32_t pos);
size_t sg_attention_part_floats(const sg_attention *a);
void sg_attention_part(const sg_attention *a, const sg_kv_cache *c, const sg_vec_fns *vec, sg_attention_scratch *s,
                       uint32_t layer, uint32_t kv_head, uint32_t pos, uint32_t segment, const float *q, float *parts);
void sg_attention_join(const sg_attention *a, const sg_vec_fns *vec, sg_attention_scratch *s, uint32_t kv_head, uint32_t pos,
                       const float *parts, float *out);

#endif
