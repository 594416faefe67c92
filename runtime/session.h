/* What the parts of runtime/ share about open models and sessions (private side of sg_model and sg_session). */
#ifndef SG_RUNTIME_SESSION_H
#define SG_RUNTIME_SESSION_H

#include "neuron_engine/observe.h"
#include "runtime/text/tokenizer.h"
#include "sparsegen.h"

const sg_tokenizer *sg_model_tokenizer(const sg_model *model);
sg_model *sg_session_model(const sg_session *session);

/* True when a cancel was requested since the last call; consumes the request. */
bool sg_session_take_cancel(sg_session *session);

/* From now on fn looks on while feed-forward layers of neuron bundles compute (observe.h), NULL: no longer. SG_E_UNSUPPORTED when
 * the model has none. */
SG_NODISCARD sg_status sg_session_observe(sg_session *session, sg_ffn_observe_fn fn, void *user, sg_error *err);
/* The same for embeddings and the products of routers, of any model. */
void sg_session_observe_rows(sg_session *session, sg_rows_observe_fn fn, void *user);

#endif
