/* One run of the executor, for runtime/exec*.c. */
#ifndef SG_RUNTIME_EXEC_PRIVATE_H
#define SG_RUNTIME_EXEC_PRIVATE_H

#include "runtime/exec.h"

/* The arguments of sg_exec_run as its threads see them. */
typedef struct sg_exec_turn {
    sg_exec *e;
    sg_kv_cache *kv;
    sg_recurrent_state *state;
    const int32_t *tokens;
    uint32_t n, pos, n_keep;
    atomic_bool *cancel;
    sg_way way;   /* of what is not in RAM */
    bool stop[2]; /* written by thread 0 before the barrier that ends a step, read by all right after it; two in turns, for thread 0 may
                   * already be at the end of the next step by then */
} sg_exec_turn;

static inline float *sg_exec_row(const sg_exec *e, sg_buf b, uint32_t t) { return e->f32[b] + (size_t)t * e->m.plan->width[b]; }

/* The rows of an acts buffer, k values each, for n tokens. */
static inline sg_acts sg_exec_acts(const sg_exec *e, sg_buf b, uint32_t k, uint32_t n) {
    sg_acts a = e->acts[b];
    a.n = n;
    a.k = k;
    a.n_blocks = k / 32;
    return a;
}
/* Row t of them. */
static inline float *sg_exec_acts_row(const sg_acts *a, uint32_t t) { return (float *)(uintptr_t)a->x + (size_t)t * a->k; }

/* out[n] = the model's norm of x, or x itself without a weight. */
void sg_exec_norm(const sg_exec *e, float *out, const float *x, const float *w, const float *b, uint32_t n);

/* Steps; each is called by every thread of the team, and a barrier follows. */
void sg_exec_rope(const sg_exec_turn *r, const sg_step *s, uint32_t thread, uint32_t threads);
void sg_exec_latent(const sg_exec_turn *r, const sg_step *s, uint32_t thread, uint32_t threads);
void sg_exec_heads(const sg_exec_turn *r, const sg_step *s, uint32_t thread, uint32_t threads);
void sg_exec_attention(const sg_exec_turn *r, const sg_step *s, uint32_t thread, uint32_t threads);
void sg_exec_conv(const sg_exec_turn *r, const sg_step *s, uint32_t thread, uint32_t threads);
void sg_exec_delta(const sg_exec_turn *r, const sg_step *s, uint32_t thread, uint32_t threads);
void sg_exec_activate(const sg_exec_turn *r, const sg_step *s, uint32_t thread, uint32_t threads);
void sg_exec_route(const sg_exec_turn *r, const sg_step *s, uint32_t thread, uint32_t threads);
void sg_exec_experts(const sg_exec_turn *r, const sg_step *s, uint32_t thread);
void sg_exec_combine(const sg_exec_turn *r, const sg_step *s, uint32_t thread, uint32_t threads);
void sg_exec_ffn(const sg_exec_turn *r, const sg_step *s, uint32_t thread);
void sg_exec_expect(const sg_exec_turn *r, const sg_step *s, uint32_t thread);
void sg_exec_pregate(const sg_exec_turn *r, const sg_step *s, uint32_t thread);
void sg_exec_look_ahead(const sg_exec_turn *r, const sg_step *s, uint32_t thread);

/* The embeddings of tokens[0 .. n) at positions pos .., n <= n_batch, scaled, as rows of out, ld values apart. Called by every thread; rows are there
 * behind a barrier. BRANCH is overwritten where positions are learned. keep: rows that come from the file are kept for the next run. */
void sg_exec_embed(const sg_exec_turn *r, const int32_t *tokens, uint32_t n, uint32_t pos, float *out, size_t ld, bool keep, uint32_t thread);

/* What the session gives up of a layer's routes. */
sg_route_policy sg_exec_route_policy(const sg_exec *e, uint32_t layer);
/* The experts that were counted, most uses (at most `most`) first, equals in the order of their numbers. Returns how many. */
uint32_t sg_exec_by_uses(const uint32_t *uses, uint32_t n_expert, uint32_t most, uint32_t *out);

/* The delta net of a layer. */
sg_delta sg_exec_delta_of(const sg_exec_model *m, uint32_t layer);
/* Memory of an executor whose m, options and team are set; base NULL: only measures. */
size_t sg_exec_lay_out(sg_exec *e, char *base);

#endif
