#define TIER avx512vnni
#include "neuron_engine/kernels/x86/neuron_x86.h"
#include "neuron_engine/kernels/x86/x86.h"

void sg_neuron_kernels_avx512vnni(sg_kernels *out) { set_neuron_kernels(out->neuron); }
