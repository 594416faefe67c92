#define TIER dotprod
#include "neuron_engine/kernels/arm/arm.h"
#include "neuron_engine/kernels/arm/neuron_arm.h"

void sg_neuron_kernels_dotprod(sg_kernels *out) { set_neuron_kernels(out->neuron); }
