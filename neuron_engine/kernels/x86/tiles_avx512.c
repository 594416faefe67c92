#include "neuron_engine/kernels/x86/simd_avx512.h"

#include "neuron_engine/kernels/tile_tmpl.h"
#include "neuron_engine/kernels/x86/x86.h"

#ifdef __AVX512VNNI__
#error "this file is for processors without AVX-512 VNNI"
#endif

void sg_kernels_avx512(sg_kernels *out) {
    out->tier = "avx512";
    out->vec = sg_vec_avx512;
    set_tile_kernels(out->mat);
}
