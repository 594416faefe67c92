/* The session behind sg_session. */
#ifndef SG_RUNTIME_SESSION_PRIVATE_H
#define SG_RUNTIME_SESSION_PRIVATE_H

#include <stdatomic.h>

#include "runtime/model.h"
#include "runtime/past.h"
#include "runtime/route_log.h"
#include "runtime/session.h"

struct sg_session {
    sg_model *model;
    sg_exec exec;
    sg_past past;
    int32_t *tokens; /* [n_ctx], the timeline */
    uint32_t n, n_ctx;
    float *logits; /* [logits_rows][n_vocab] */
    size_t logits_rows, logits_cap;
    atomic_bool cancel;
    sg_stats stats;
    float *cut, *score_cut; /* [n_unit], of sg_ffn_policy */
    float *ahead_cut;       /* [n_layer], of sg_exec_options */
    float *times;           /* [TIMES], seconds of tokens fed one by one, the last ones */
    uint64_t settings;      /* sg_session_settings */
    uint64_t taken;         /* bytes of the model's session_bytes */
    float *observed;
    sg_route_log *routes; /* or NULL */
};

/* What the model cannot remember of the timeline is evaluated again. */
SG_NODISCARD sg_status sg_session_catch_up(sg_session *s, sg_error *err);
/* A number that differs between sessions whose keys and values must not be mixed. */
uint64_t sg_session_settings(const sg_session *s, const sg_session_options *o);

#endif
