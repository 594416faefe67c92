/* The open model behind sg_model. */
#ifndef SG_RUNTIME_MODEL_H
#define SG_RUNTIME_MODEL_H

#include <stdatomic.h>

#include "runtime/exec.h"
#include "runtime/session.h"
#include "runtime/text/chat.h"

struct sg_model {
    sg_model_desc desc; /* its tensor pointers are void once the file is closed; hp, layer and arch stay */
    sg_kernels kernels;
    sg_weights weights;
    sg_plan plan;
    sg_rope ropes[SG_ROPES];
    sg_tokenizer *tokenizer;
    sg_chat_family chat;
    char *name, *arch;
    uint64_t id; /* sg_model_identify */
    bool vocab_only;
    bool prefetch;
    uint64_t ram;              /* budget, 0: none */
    uint64_t away_bytes;       /* of weights that are not in RAM */
    uint32_t n_ctx, n_batch;   /* defaults of sessions */
    uint64_t session_bytes;    /* that the budget keeps free for sessions; 0: no budget */
    atomic_uint_fast64_t sessions; /* bytes that sessions have taken */
    sg_model_info info;
};

/* runtime/model_weights.c: decides what stays in RAM, reads it, and makes the plan. base: resident bytes before the file was opened. */
SG_NODISCARD sg_status sg_model_open_weights(sg_model *m, const sg_gguf *g, const sg_model_options *o, uint64_t base, sg_error *err);
SG_NODISCARD sg_status sg_model_open_ropes(sg_model *m, sg_error *err);
/* What an executor reads of a model. */
sg_exec_model sg_model_for_exec(const sg_model *m);
/* runtime/model_id.c: a number that differs between files that compute differently; the same for copies and other splits of a file. */
SG_NODISCARD sg_status sg_model_identify(const sg_gguf *g, const char *arch, uint64_t *id, sg_error *err);
/* Tokens of context and of a batch that a session with these options gets. */
uint32_t sg_session_n_ctx(const sg_model *m, const sg_session_options *o);
uint32_t sg_session_n_batch(const sg_model *m, const sg_session_options *o);
uint32_t sg_session_n_threads(const sg_session_options *o);
uint32_t sg_session_n_copies(const sg_session_options *o);

#endif
