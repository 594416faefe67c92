/* What the parts of runtime/ share about open models and sessions (private side of sg_model and sg_session). */
#ifndef SG_RUNTIME_SESSION_H
#define SG_RUNTIME_SESSION_H

#include "runtime/text/tokenizer.h"
#include "sparsegen.h"

const sg_tokenizer *sg_model_tokenizer(const sg_model *model);
sg_model *sg_session_model(const sg_session *session);

/* True when a cancel was requested since the last call; consumes the request. */
bool sg_session_take_cancel(sg_session *session);

#endif
