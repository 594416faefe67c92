/* Walks the steps of a plan for a batch of tokens with a team of threads. Owns the working buffers of a session. */
#ifndef SG_RUNTIME_EXEC_H
#define SG_RUNTIME_EXEC_H

#include <stdatomic.h>

#include "neuron_engine/attention.h"
#include "neuron_engine/experts.h"
#include "neuron_engine/recurrent.h"
#include "neuron_engine/rope.h"
#include "neuron_engine/router.h"
#include "runtime/base/team.h"
#include "runtime/streaming.h"

/* Rotary embeddings of a model: of layers that see all, while the context is not longer than the original one, and beyond (with the
 * divisors for long contexts, if the file has them); of layers with a window. n_rot 0: there is none of the kind. */
typedef enum sg_rope_kind { SG_ROPES_MAIN, SG_ROPES_LONG, SG_ROPES_WINDOW, SG_ROPES } sg_rope_kind;

/* What an executor reads of a model; immutable. */
typedef struct sg_exec_model {
    const sg_hparams *hp;
    const sg_layer_params *layer; /* [n_layer] */
    const sg_weights *weights;
    const sg_plan *plan;
    const sg_kernels *kernels;
    const sg_rope *ropes;         /* [SG_ROPES] */
    sg_norm_kind norm;
    bool gated_attention, value_heads_mod; /* as in sg_arch */
    bool pred_residual;           /* as in sg_model_desc */
    const float *ffn_threshold;   /* [n_layer] or NULL, likewise */
    sg_streaming *streaming;      /* of a model that is not all in RAM, else NULL */
} sg_exec_model;

typedef struct sg_exec_options {
    uint32_t n_threads, n_batch, n_ctx;
    bool precise;         /* activations in 16 bits (neuron_engine/acts.h) */
    sg_ffn_policy policy; /* of layers made of neuron bundles; its arrays must outlive the executor */
    uint32_t n_experts;   /* of a token; 0: as many as the model says, which is the most */
    float route_drop, route_prefer; /* as in sg_route_policy */
    const float *ahead_cut; /* [n_layer], scores above which a neuron is read before it is known to be needed; NULL: none is */
} sg_exec_options;

/* Of a batch so many tokens are asked for what experts the next layer will need. */
#define SG_EXPECT_TOKENS 16u

typedef struct sg_exec {
    sg_exec_model m;
    sg_attention *att;             /* [n_layer], owned */
    sg_team *team;
    uint32_t n_batch, n_ctx;
    bool precise;
    sg_region memory;              /* everything below lies in it */
    float *f32[SG_BUFS];           /* [n_batch][width]; LOGITS is set per run */
    sg_acts acts[SG_BUFS];         /* 8-bit form of the acts buffers */
    const sg_rope *rope[2];        /* of layers without and with a window */
    float *rope_table[2];          /* [n_batch][2 * n_rot] */
    sg_attention_scratch *attention; /* [threads] */
    float *attention_parts;        /* of one token, see sg_attention_part */
    sg_acts *head_acts;            /* [threads], inputs of one head; where there are steps of that kind */
    float *delta_gates;            /* [2][n_batch][n_value_heads] */
    const float *ones;             /* [n_embd], where there is a pre-gate */
    sg_router router;
    uint32_t *route_expert;        /* [n_batch][n_expert_used] */
    float *route_weight, *route_scratch;
    float route_drop, route_prefer;
    sg_route_range *route_range;   /* [n_layer], of the tokens so far */
    double *route_spread;          /* [n_batch] */
    /* Which experts of a layer are in memory, [n_expert]; asked at the beginning of the layer, by every thread, and must stay until all threads have
     * routed. NULL: all. The function: set by the owner; NULL: those that the layer's home has in slots, all where there is no home. */
    const uint8_t *(*resident)(void *user, uint32_t layer);
    void *resident_user;
    sg_rows_observe_fn on_rows; /* set by the owner, NULL: nobody looks on */
    void *on_rows_user;
    void (*on_route)(void *user, uint32_t layer, const sg_ffn_route *route); /* set by the owner, NULL: nobody looks on */
    void *on_route_user;
    sg_experts experts;            /* when they are matrices */
    sg_ffn ffn;                    /* when the model has neuron bundles */
    /* when not all is in RAM */
    uint8_t *scratch;              /* [threads][scratch_bytes], packed rows of an item */
    size_t scratch_bytes;
    uint8_t *rows;                 /* rows of the embedding table on their way */
    sg_acts ahead;                 /* [SG_EXPECT_TOKENS], input of SG_OP_EXPECT, and of SG_OP_AHEAD, of one token */
    float *expect_scores, *expect_weight; /* [SG_EXPECT_TOKENS][n_expert], [n_expert_used], of SG_OP_EXPECT */
    uint32_t *expect_expert, *expect_uses; /* [n_expert] in the order of their uses, and how many */
    /* What follows the tokens of the run, as far as it is known: those of the next one. Set by the owner before each run. */
    const int32_t *next;
    uint32_t n_next;               /* at most n_batch */
    float *pregate;                /* [SG_EXPECT_TOKENS][n_expert * n_expert_layer], what SG_OP_PREGATE asks for */
    float *pregate_scores;         /* [threads][n_expert + n_expert_used], of a route: products, weights */
    uint32_t *pregate_experts;     /* [threads][2 * n_expert + n_expert_used]: uses, experts by uses, those of a route */
    float *kept_rows;              /* [SG_EXPECT_TOKENS][n_embd], embeddings of the next tokens, as in the file, where that holds them */
    int32_t kept[SG_EXPECT_TOKENS]; /* of these */
    uint32_t n_kept;
    const float *ahead_cut;
    sg_waited *waited;             /* [threads] */
} sg_exec;

/* Bytes that an executor will take; m: weights without data will do, streaming is looked at for being there only. */
uint64_t sg_exec_bytes(const sg_exec_model *m, const sg_exec_options *o);
SG_NODISCARD sg_status sg_exec_init(sg_exec *e, const sg_exec_model *m, const sg_exec_options *o, sg_error *err);
void sg_exec_finish(sg_exec *e);

/* What the layers keep of the past: attention[n_layer] (sg_kv_init), recurrent[n_layer] (sg_recurrent_init). */
void sg_exec_attention_layers(const sg_exec_model *m, sg_attention *out);
void sg_exec_recurrent_layers(const sg_exec_model *m, sg_recurrent_shape *out);

/* Evaluates tokens[0..n), n <= n_batch, at positions pos .. pos + n - 1; keys and values go into `kv`, recurrent layers go on from
 * `state`. The logits of the last n_keep tokens are written to logits[n_keep][n_vocab] (n_keep may be 0). `cancel` is looked at once per
 * layer: SG_E_CANCELLED, like any failure, leaves the positions before `pos` in the cache as they were, and a state that is of no use.
 * Ids must be below n_vocab. */
SG_NODISCARD sg_status sg_exec_run(sg_exec *e, sg_kv_cache *kv, sg_recurrent_state *state, const int32_t *tokens, uint32_t n, uint32_t pos,
                                   uint32_t n_keep, float *logits, atomic_bool *cancel, sg_error *err);

#endif
