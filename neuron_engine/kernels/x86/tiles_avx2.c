#include "neuron_engine/kernels/x86/simd_avx2.h"

#include "neuron_engine/kernels/tile_tmpl.h"
#include "neuron_engine/kernels/x86/x86.h"

void sg_kernels_avx2(sg_kernels *out) {
    out->tier = "avx2";
    out->vec = sg_vec_avx2;
    set_tile_kernels(out->mat);
    sg_neuron_kernels_avx2(out);
}
