/* Keys and values of past positions, and grouped-query attention over them.
 *
 * THE RULE of kernels.h holds here too: what a query gets depends on its position and on the keys that it sees only, not on how
 * many queries are evaluated together, nor on threads. For one query head at position `pos`:
 *   - it sees the keys `first` .. pos; first is 0, or pos - window + 1 in a layer with a window;
 *   - scores s_j = (q * scale) . k_j by the matrix kernel of the cache's type, keys being the rows of a matrix (for Q8_0 the
 *     query is quantised to 8 bit like any activation); with a cap c they become c * tanh(s_j / c) (vec.softcap);
 *   - the keys are cut at multiples of SG_KEY_SEGMENT into segments and these into blocks of SG_KEY_BLOCK, both counted from
 *     position 0 whatever the window is. Inside a segment an online softmax walks the blocks in ascending order
 *     (attend.softmax, attend.weigh; FlashAttention, arXiv 2205.14135, algorithm 1). Of the first and the last block only the
 *     scores of keys that are seen take part, the first of them in lane 0;
 *   - the segments' results are joined in ascending order, so that threads can share a long context even when only one token
 *     is evaluated (as in Flash-Decoding);
 *   - at the very end a sink is joined like a segment with one key that has no value. */
#ifndef SG_NE_ATTENTION_H
#define SG_NE_ATTENTION_H

#include "neuron_engine/kernels/kernels.h"
#include "runtime/base/mem.h"

#define SG_KEY_BLOCK 64u
#define SG_KEY_SEGMENT 1024u

/* Attention of one layer. */
typedef struct sg_attention {
    uint32_t n_head;     /* a multiple of n_head_kv; 0: the layer has no attention, and nothing in the cache */
    uint32_t n_head_kv, head_dim_k, head_dim_v;
    float scale;         /* of the scores */
    uint32_t window;     /* key j is seen from position i when i - j < window; 0: all are */
    float softcap;       /* of the scaled scores; 0: none */
    const float *sinks;  /* [n_head], each one more logit in the softmax of its head, without a value; NULL: none. Not owned */
    uint32_t q_stride;   /* from one head to the next in the query of a token, >= head_dim_k; 0: head_dim_k */
} sg_attention;

/* What a layer has in the cache; all 0 when it has no attention. */
typedef struct sg_kv_layer {
    uint32_t n_head_kv, window;
    size_t capacity;         /* rows of keys, a multiple of SG_KEY_BLOCK: position p lies in row p % capacity */
    size_t k_row, v_row;     /* bytes of one position of one head */
    size_t k_bytes, v_bytes; /* of one head, all positions */
    size_t k_at, v_at;       /* of the first head in the regions */
} sg_kv_layer;

/* Per layer and kv head: the keys as a packed matrix (one row per position) of the tier's kernel, and the values as rows one
 * behind the other. A layer without a window, or with one that is not much shorter than the context, holds the positions
 * 0 .. n_ctx-1. Any other holds the last ones in a ring, so many that a batch never writes over what its first token sees, and
 * SG_KV_SLACK more, to which a session may go back. A block of SG_KEY_BLOCK keys never wraps. One writer and many readers per
 * position: it is written before it is read (a barrier between). */
#define SG_KV_SLACK 128u
typedef struct sg_kv_cache {
    uint32_t n_layer, n_ctx;
    sg_kv_type type;
    sg_dtype dtype;              /* the same */
    const sg_mat_kernel *kernel; /* of the keys; not owned */
    sg_kv_layer *layers;         /* [n_layer] */
    sg_region k, v;
} sg_kv_cache;

/* For layers[n_layer], contexts of n_ctx positions and at most n_batch tokens that are evaluated together. `kernels` must outlive
 * the cache, `layers` need not. SG_E_ARG when the heads do not fit the type. */
SG_NODISCARD sg_status sg_kv_init(sg_kv_cache *c, sg_kv_type type, const sg_kernels *kernels, const sg_attention *layers,
                                  uint32_t n_layer, uint32_t n_ctx, uint32_t n_batch, sg_error *err);
void sg_kv_finish(sg_kv_cache *c);
/* Bytes that sg_kv_init would take; UINT64_MAX / 2 for what it refuses as too large. */
uint64_t sg_kv_bytes(sg_kv_type type, const sg_attention *layers, uint32_t n_layer, uint32_t n_ctx, uint32_t n_batch);

/* Writes k[head_dim_k] and v[head_dim_v] of one kv head at one position of a layer, rounded to the cache's type. Thread-safe for
 * different heads or positions. */
void sg_kv_store(const sg_attention *a, sg_kv_cache *c, const sg_vec_fns *vec, uint32_t layer, uint32_t pos, uint32_t kv_head,
                 const float *k, const float *v);

/* Going back. `high`: one more than the highest position that was ever written, also by a run that was cancelled or failed
 * (its whole batch counts) and also when the session has gone back since; it may start anew at 0 only when the session does.
 * A layer holds the keys of positions >= high - capacity. To go on at n, it needs n - window + 1 .. n - 1.
 * sg_kv_intact_from: the lowest n that all layers can go back to without evaluating anything again, apart from 0, to which they
 * always can. */
uint32_t sg_kv_intact_from(const sg_kv_cache *c, uint32_t high);
bool sg_kv_can_rewind(const sg_kv_cache *c, uint32_t high, uint32_t n);

/* Saving and restoring: calls `fn` for each range of bytes that holds what is needed to go on at from .. n (all positions < n; of a layer
 * with a window those that are seen from `from` on), in a fixed order, and stops when it returns false (as sg_kv_ranges then does).
 * fn may read the bytes or write them. Keys lie in tiles of the kernel (kernel->mr rows): whole tiles are given, whose other rows mean
 * nothing. n - from <= SG_KV_SAVED, so that they fit any ring without one tile coming upon another; sg_kv_intact_from says whether
 * `from` is there. After restoring, `high` is n. Not while something is evaluated. */
#define SG_KV_SAVED (SG_KV_SLACK / 2)
typedef bool (*sg_kv_range_fn)(void *user, void *p, size_t bytes);
bool sg_kv_ranges(const sg_kv_cache *c, uint32_t from, uint32_t n, sg_kv_range_fn fn, void *user);
/* Bytes of all ranges. */
uint64_t sg_kv_range_bytes(const sg_kv_cache *c, uint32_t from, uint32_t n);
/* The bytes of a cache's ranges may be copied into those of another one when both give the same number here (and n fits the context of
 * the other): type, layout of tiles, heads, windows. Contexts and batches may differ. */
uint64_t sg_kv_layout_id(const sg_kv_cache *c);

/* Work is cut into units and tokens. A unit: the query heads of one kv head, or equal parts of them where they are many
 * (> 32), so that threads share them and the scratch memory stays small. Unit u has heads that lie side by side, all units
 * together have every head once: 0 <= u < sg_attention_units(a), which is n_head_kv where no kv head serves more than 32 heads. */
uint32_t sg_attention_units(const sg_attention *a);
/* Most neighbouring tokens that are computed together for a unit, so that every key and value that is read serves all of them. */
uint32_t sg_attention_unit_tokens(const sg_attention *a);

/* Working memory of one thread, for any of layers[n_layer]: 64-byte aligned pieces of `base`; base NULL only measures. Returns the
 * bytes. */
typedef struct sg_attention_scratch {
    sg_acts q;                       /* [rows][head_dim_k], scaled */
    float *scores;                   /* [rows][SG_KEY_BLOCK] */
    float *acc, *max, *sum, *keep;   /* of a segment: [rows][head_dim_v], [rows].. */
    float *all, *all_max, *all_sum;  /* of the segments so far */
} sg_attention_scratch;
size_t sg_attention_scratch_init(sg_attention_scratch *s, const sg_attention *layers, uint32_t n_layer, void *base);

/* Attention of tokens at positions pos .. pos + n - 1, n <= sg_attention_unit_tokens, for the heads of a unit. q: head h of token t
 * at q[t*ldq + h*q_stride], h counted over all heads; out likewise with head_dim_v and ldo. Thread-safe for different scratch and
 * out. */
void sg_attention_run(const sg_attention *a, const sg_kv_cache *c, const sg_vec_fns *vec, sg_attention_scratch *s, uint32_t layer,
                      uint32_t unit, uint32_t pos, uint32_t n, const float *q, size_t ldq, float *out, size_t ldo);

/* The same for one token in parts: any thread computes any segment < sg_attention_segments(a, pos) into `parts`, and after a
 * barrier one joins them. Segments are counted from the first one that the token sees something of. parts:
 * sg_attention_part_floats() floats per (segment, head), head h of segment g at parts[(g*n_head + h) * ..]. */
uint32_t sg_attention_segments(const sg_attention *a, uint32_t pos);
/* The most of them at any position of a context. */
uint32_t sg_attention_most_segments(const sg_attention *a, uint32_t n_ctx);
size_t sg_attention_part_floats(const sg_attention *a);
void sg_attention_part(const sg_attention *a, const sg_kv_cache *c, const sg_vec_fns *vec, sg_attention_scratch *s,
                       uint32_t layer, uint32_t unit, uint32_t pos, uint32_t segment, const float *q, float *parts);
void sg_attention_join(const sg_attention *a, const sg_vec_fns *vec, sg_attention_scratch *s, uint32_t unit, uint32_t pos,
                       const float *parts, float *out);

#endif
