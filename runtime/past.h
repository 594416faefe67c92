/* What a session keeps of the past: keys and values, and the states of recurrent layers with copies to go back to. */
#ifndef SG_RUNTIME_PAST_H
#define SG_RUNTIME_PAST_H

#include "runtime/exec.h"

typedef struct sg_past_copy {
    uint32_t pos;  /* tokens before it */
    uint64_t when; /* 0: empty */
    uint8_t *data;
} sg_past_copy;

typedef struct sg_past {
    sg_kv_cache kv;
    sg_recurrent_state state;
    bool recurrent;
    uint32_t high; /* positions that were ever written, see sg_kv_can_rewind */
    uint32_t held; /* of these, the first that are of the timeline: behind them stands what was dropped, or half of a run that failed */
    uint32_t from; /* before it windows lack what they would need, 0: nothing is missing; see sg_past_load */
    uint32_t at;   /* position that `state` stands at, SG_PAST_LOST when it is of no use */
    sg_past_copy *copies; /* [n_copies] */
    uint32_t n_copies;
    uint64_t clock;
    sg_region memory; /* of the copies */
} sg_past;
#define SG_PAST_LOST UINT32_MAX

SG_NODISCARD sg_status sg_past_init(sg_past *p, const sg_exec_model *m, sg_kv_type type, uint32_t n_ctx, uint32_t n_batch, uint32_t n_copies,
                                    sg_error *err);
void sg_past_finish(sg_past *p);
/* Bytes of memory that sg_past_init takes. */
SG_NODISCARD sg_status sg_past_need(const sg_exec_model *m, sg_kv_type type, uint32_t n_ctx, uint32_t n_batch, uint32_t n_copies, uint64_t *bytes,
                                    sg_error *err);
uint64_t sg_past_bytes(const sg_past *p);

/* To go on at position n: makes the past that of the first m <= n tokens and returns m; the tokens m .. n-1 have to be evaluated again.
 * Recurrent layers can go back to copies only, windows as far as their ring reaches. What stands behind n counts as forgotten. */
uint32_t sg_past_go_to(sg_past *p, uint32_t n);
/* A run from where sg_past_go_to or the run before ended up to position `end` succeeded, or it did not. */
void sg_past_wrote(sg_past *p, uint32_t end, bool good);
/* Keeps a copy of the state as it stands, in the place of the oldest one. */
void sg_past_keep(sg_past *p);

/* What goes into a file: all that is needed to go on at from .. n, and the state as it was at `copy`, 0: no copy. */
typedef struct sg_past_mark {
    uint32_t n, from, copy;
} sg_past_mark;
/* Of a past that stands at n (sg_past_go_to returned n). */
sg_past_mark sg_past_get_mark(const sg_past *p, uint32_t n);
bool sg_past_mark_is_valid(const sg_past *p, const sg_past_mark *m);
uint64_t sg_past_mark_bytes(const sg_past *p, const sg_past_mark *m);
/* Pasts with equal layouts hand the same bytes, in the same order, to `move`, which copies them out or in; false when move said so.
 * Before sg_past_load, and after it failed: sg_past_go_to(p, 0). */
uint64_t sg_past_layout(const sg_past *p);
bool sg_past_save(sg_past *p, const sg_past_mark *m, sg_kv_range_fn move, void *user);
bool sg_past_load(sg_past *p, const sg_past_mark *m, sg_kv_range_fn move, void *user);

#endif
