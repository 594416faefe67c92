#include "neuron_engine/kernels/kernels.h"

#include "neuron_engine/kernels/ref/ref.h"
#include "sg_config.h"

void sg_kernels_init(sg_kernels *out, uint32_t flags) { sg_kernels_ref(out); }
