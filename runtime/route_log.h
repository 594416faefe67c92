/* Which experts the tokens of a session used, written as a table that scripts/replay_cache.py reads. */
#ifndef SG_RUNTIME_ROUTE_LOG_H
#define SG_RUNTIME_ROUTE_LOG_H

#include "runtime/exec.h"

typedef struct sg_route_log sg_route_log;

/* Begins a file: comments about the model, then a row per token, layer and expert. */
SG_NODISCARD sg_status sg_route_log_open(sg_route_log **out, const char *path, const char *model, const char *arch, const sg_hparams *hp,
                                         const uint64_t *expert_bytes /* [n_layer] */, sg_error *err);
/* A run of n tokens begins; one of several tokens is a prompt. */
void sg_route_log_begin(sg_route_log *log, uint32_t n);
/* Routes of a layer for all of its tokens; kept[n_expert] tells which were in RAM, NULL: all. */
void sg_route_log_add(sg_route_log *log, uint32_t layer, const sg_ffn_route *route, const uint8_t *kept);
/* The run ended well; of one that did not, all is dropped when the next begins. SG_E_IO. */
SG_NODISCARD sg_status sg_route_log_end(sg_route_log *log, sg_error *err);
SG_NODISCARD sg_status sg_route_log_close(sg_route_log **log, sg_error *err);

#endif
