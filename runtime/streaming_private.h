#ifndef SG_RUNTIME_STREAMING_PRIVATE_H
#define SG_RUNTIME_STREAMING_PRIVATE_H

#include "runtime/streaming.h"

/* Reads what of the bundles stays in RAM, and fills the slots with the neurons that were counted most often. */
SG_NODISCARD sg_status sg_streaming_fill(sg_streaming *s, const sg_weights *w, const sg_model_desc *d, const sg_weights_options *o,
                                         sg_error *err);

/* Makes the homes of experts and what they share (w->experts). */
SG_NODISCARD sg_status sg_streaming_make_experts(sg_streaming *s, const sg_residency *r, sg_weights *w, const sg_loader *l, sg_error *err);
void sg_streaming_drop_experts(sg_streaming *s);
/* Slices and slots of the experts of a layer whose matrices stay in the file; false: it has none. */
bool sg_streaming_expert_home(const sg_weights *w, const sg_loader *l, uint32_t layer, sg_expert_home *h, size_t *land_bytes);

#endif
