/* What happened when, for pictures: spans of time on lanes (threads of computation, lanes of reading), kept in memory and written
 * as a Chrome trace. Nobody pays for it who has none: every function accepts NULL and does nothing. */
#ifndef SG_BASE_TRACE_H
#define SG_BASE_TRACE_H

#include "runtime/base/error.h"

typedef struct sg_trace sg_trace;

typedef enum sg_trace_kind {
    SG_TRACE_TOKEN,    /* a run; arg: its first position */
    SG_TRACE_STEP,     /* a step on one thread; name says which; arg: the layer */
    SG_TRACE_WAIT,     /* a thread waits for reads; arg: the layer */
    SG_TRACE_READ,     /* a demand read; arg: bytes */
    SG_TRACE_PREFETCH, /* a prefetch read; arg: bytes */
    SG_TRACE_KINDS
} sg_trace_kind;

/* Lanes: 0 .. 999 threads of the team, from SG_TRACE_READS on the reads in flight. */
#define SG_TRACE_READS 1000u

/* Room for `events` spans; what comes later is counted and left out. NULL when there is no memory. */
sg_trace *sg_trace_create(size_t events);
void sg_trace_destroy(sg_trace **t);
size_t sg_trace_bytes(const sg_trace *t);
void sg_trace_clear(sg_trace *t); /* while nobody adds */

double sg_trace_now(void); /* seconds of a clock that only goes forward */
/* Thread-safe. name: a constant string, or NULL for the kind's own name. */
void sg_trace_add(sg_trace *t, sg_trace_kind kind, const char *name, uint32_t lane, double begin, double end, uint64_t arg);
/* All spans in the Trace Event Format (JSON object with "traceEvents", complete events "X", microseconds), lanes named; while
 * nobody adds. SG_E_IO when PATH cannot be written. */
SG_NODISCARD sg_status sg_trace_write(const sg_trace *t, const char *path, sg_error *err);

#endif
