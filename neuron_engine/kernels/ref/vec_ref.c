#include "neuron_engine/kernels/ref/ref.h"

#define VEC_TABLE sg_vec_ref
#define W 4
#include "neuron_engine/kernels/vec_tmpl.h"
