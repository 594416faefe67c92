/* What a model needs at run time when not all of its weights are in RAM: the stream, the belt and its programs, the homes of sparse
 * layers. One run at a time; sessions of the same model wait for each other. */
#ifndef SG_RUNTIME_STREAMING_H
#define SG_RUNTIME_STREAMING_H

#include "neuron_engine/ffn_home.h"
#include "runtime/plan.h"
#include "runtime/residency.h"

/* The two orders in which a run uses what is not in RAM. */
typedef enum sg_way { SG_WAY_NEURONS, SG_WAY_CLUSTERS, SG_WAYS } sg_way;

typedef struct sg_streaming {
    sg_stream *stream;
    sg_belt *belt;
    sg_region ring, arenas, tables;
    sg_expert_store *experts; /* owned; NULL: experts are all in RAM, or there are none */
    sg_region slots, landing, expert_tables;
    sg_ffn_store store; /* homes NULL: no sparse layers */
    sg_belt_item *items[SG_WAYS];
    uint32_t n_items[SG_WAYS];    /* of a whole run */
    uint32_t n_before[SG_WAYS];   /* of a run that ends before the logits */
    pthread_mutex_t runs;         /* held during a run */
    bool single;   /* the run that is under way is of one token, */
    double began;  /* since then */
    sg_trace *trace;
    sg_stream_counts filled; /* reads before the first run */
} sg_streaming;

/* Opens the files, lays out the memory as decided in r, reads what stays in RAM of the bundles, makes the homes (w->ffn[].home) and the
 * places on the belt of every matrix that is away. */
SG_NODISCARD sg_status sg_streaming_create(sg_streaming **out, const sg_residency *r, sg_weights *w, const sg_loader *l,
                                           const sg_model_desc *d, const sg_weights_options *o, sg_error *err);
/* Rows of a matrix that come together. */
uint32_t sg_streaming_item_rows(const sg_weights *w, size_t row_bytes);
/* The programs of the belt, from the steps of the final plan. */
SG_NODISCARD sg_status sg_streaming_program(sg_streaming *s, const sg_plan *p, const sg_weights *w, sg_error *err);
void sg_streaming_destroy(sg_streaming **s);

/* A run begins (waits until no other one is under way; single: of one token) and ends: its failure, or that of a file that changed meanwhile. */
void sg_streaming_begin(sg_streaming *s, sg_way way, bool single, bool logits);
SG_NODISCARD sg_status sg_streaming_end(sg_streaming *s, bool broken_off, sg_error *err);

/* Begins, or ends (events 0), to keep what happens; writes what was kept. */
SG_NODISCARD sg_status sg_streaming_trace(sg_streaming *s, size_t events, sg_error *err);
SG_NODISCARD sg_status sg_streaming_write_trace(sg_streaming *s, const char *path, sg_error *err);

/* Rows of a matrix that is away, as they lie in the file, unpacked: out[i * k ..] = row rows[i], i < n. buffer: SG_ROWS_AT_ONCE rows of
 * sg_streaming_row_room bytes, aligned to SG_STREAM_BLOCK. */
#define SG_ROWS_AT_ONCE 16u
size_t sg_streaming_row_room(const sg_matrix *m);
bool sg_streaming_rows(sg_streaming *s, const sg_matrix *m, const int32_t *rows, uint32_t n, uint8_t *buffer, float *out, size_t ld);

#endif
