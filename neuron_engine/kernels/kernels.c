#include "neuron_engine/kernels/kernels.h"

#include "neuron_engine/kernels/ref/ref.h"
#include "neuron_engine/kernels/x86/x86.h"
#include "sg_config.h"

void sg_kernels_init(sg_kernels *out, uint32_t flags) {
    sg_kernels_ref(out);
#if SG_ISA_AVX2
    if (!(flags & SG_CPU_AVX2)) return;
    sg_kernels_avx2(out);
#endif
#if SG_ISA_AVX512VNNI
    if (!(flags & SG_CPU_AVX512VNNI)) return;
    sg_kernels_avx512vnni(out);
#endif
}
