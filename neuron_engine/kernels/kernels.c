#include "neuron_engine/kernels/kernels.h"

#include "neuron_engine/kernels/arm/arm.h"
#include "neuron_engine/kernels/ref/ref.h"
#include "neuron_engine/kernels/x86/x86.h"
#include "sg_config.h"

/* Rising order: a tier that the machine lacks ends the climb, since each of its family needs the ones below. */
void sg_kernels_init(sg_kernels *out, uint32_t flags) {
    sg_kernels_ref(out);
#if SG_ISA_AVX2
    if (!(flags & SG_CPU_AVX2)) return;
    sg_kernels_avx2(out);
#endif
#if SG_ISA_AVXVNNI /* a side branch: processors with AVX-512 VNNI may lack it */
    if (flags & SG_CPU_AVXVNNI) sg_kernels_avxvnni(out);
#endif
#if SG_ISA_AVX512
    if (!(flags & SG_CPU_AVX512)) return;
    sg_kernels_avx512(out);
#endif
#if SG_ISA_AVX512VNNI
    if (!(flags & SG_CPU_AVX512VNNI)) return;
    sg_kernels_avx512vnni(out);
#endif
#if SG_ISA_NEON
    if (!(flags & SG_CPU_NEON)) return;
    sg_kernels_neon(out);
#endif
#if SG_ISA_DOTPROD
    if (!(flags & SG_CPU_DOTPROD)) return;
    sg_kernels_dotprod(out);
#endif
#if SG_ISA_I8MM
    if (!(flags & SG_CPU_I8MM)) return;
    sg_kernels_i8mm(out);
#endif
}
