#include "neuron_engine/kernels/x86/simd_avx512vnni.h"

#include "neuron_engine/kernels/tile_tmpl.h"
#include "neuron_engine/kernels/x86/x86.h"

void sg_kernels_avx512vnni(sg_kernels *out) {
    out->tier = "avx512vnni";
    out->vec = sg_vec_avx512;
    set_tile_kernels(out->mat);
}
