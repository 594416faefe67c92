#ifndef SG_RUNTIME_STREAMING_PRIVATE_H
#define SG_RUNTIME_STREAMING_PRIVATE_H

#include "runtime/streaming.h"

/* Reads what of the bundles stays in RAM, and fills the slots with the neurons that were counted most often. */
SG_NODISCARD sg_status sg_streaming_fill(sg_streaming *s, const sg_weights *w, const sg_model_desc *d, const sg_weights_options *o,
                                         sg_error *err);

#endif
