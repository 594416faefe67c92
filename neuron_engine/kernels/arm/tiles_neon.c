#include "neuron_engine/kernels/arm/simd_neon.h"

#define TIER neon
#include "neuron_engine/kernels/arm/arm.h"
#include "neuron_engine/kernels/tile_tmpl.h"

void sg_kernels_neon(sg_kernels *out) {
    out->tier = "neon";
    out->vec = sg_vec_neon;
    set_tile_kernels(out->mat);
    sg_neuron_kernels_neon(out);
}
