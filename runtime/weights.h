/* The weights of a model: in RAM in one region, every matrix packed for its kernel, vectors as F32; or away, in the file. */
#ifndef SG_RUNTIME_WEIGHTS_H
#define SG_RUNTIME_WEIGHTS_H

#include "models/model.h"
#include "neuron_engine/expert_store.h"
#include "neuron_engine/ffn.h"
#include "neuron_engine/matrix.h"
#include "runtime/base/mem.h"

/* A tensor of the model: a matrix (m.kernel set) or a vector (v set); neither: the model has none. */
typedef struct sg_weight {
    sg_matrix m;
    const float *v;
} sg_weight;

/* The feed-forward units of a layer among sg_weights.ffn: its dense block or its routed experts, and its shared experts. */
typedef struct sg_unit_of {
    uint32_t main, shared;
} sg_unit_of;
#define SG_NO_UNIT UINT32_MAX
#define SG_NO_UNITS ((sg_unit_of) { SG_NO_UNIT, SG_NO_UNIT })

typedef struct sg_weights {
    sg_region region;
    sg_weight globals[SG_T_GLOBALS];
    sg_weight (*layers)[SG_L_SLOTS]; /* [n_layer], owned */
    sg_ffn_layer *ffn;               /* [n_units], owned; NULL: the feed-forward weights are matrices */
    uint32_t n_units;
    sg_unit_of *units;               /* [n_layer], owned; with ffn */
    float *down_max;                 /* of all bundles, see there; owned */
    sg_weight (*predictors)[4];      /* [n_units], owned: a, b, scale and bias; NULL like ffn */
    sg_expert_home **experts;        /* [n_layer], where experts are that are not all in RAM; owned, NULL: there are none. What they point to is not */
    sg_matrix_away *aways;           /* of the matrices that are not in RAM, owned */
    size_t item_bytes;               /* of rows of a matrix that come together when it is away */
    struct sg_streaming *streaming;  /* owned; NULL: everything is in RAM */
} sg_weights;

typedef struct sg_weights_options {
    sg_io_engine io;
    const sg_log *log;
    sg_progress_fn progress;
    void *user;
    const char *faults; /* as in sg_stream_options */
    size_t chunk_bytes; /* read at a time of a tensor that has to be packed; 0: 8 MiB */
} sg_weights_options;

/* The description of a unit's bundles. */
const sg_bundle_desc *sg_unit_bundle(const sg_weights *w, const sg_model_desc *d, uint32_t unit);
/* Units that have a home for their neurons when they are not in RAM: all but routed experts. */
static inline bool sg_unit_streams(const sg_weights *w, uint32_t unit) { return w->ffn[unit].bundle.l.n_expert == 0; }

/* Reads and packs every tensor that is not marked as away. w was begun by sg_loader_init (weights_private.h) and is the caller's to
 * finish, also on failure. */
typedef struct sg_loader sg_loader;
SG_NODISCARD sg_status sg_weights_load(sg_weights *w, sg_loader *l, const sg_weights_options *options, sg_error *err);
uint64_t sg_weights_bytes(const sg_weights *w); /* in RAM */
void sg_weights_finish(sg_weights *w);

#endif
