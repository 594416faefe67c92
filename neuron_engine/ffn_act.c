/* The activations of neurons. */
#include "neuron_engine/ffn.h"

typedef void (*gated_fn)(float *out, const float *gate, const float *up, size_t n);

/* The curved ones: a kernel, and the up products that leave act(g) as it is. */
static gated_fn curved(const sg_kernels *kernels, sg_neuron_act act, const float **neutral) {
    static const float ones[SG_CLUSTER_MAX] = { [0 ... SG_CLUSTER_MAX - 1] = 1 }, zeros[SG_CLUSTER_MAX] = { 0 };
    *neutral = act == SG_ACT_OAI ? zeros : ones;
    switch (act) {
    case SG_ACT_SILU: return kernels->vec.silu_mul;
    case SG_ACT_GELU: return kernels->vec.gelu_mul;
    case SG_ACT_GELU_ERF: return kernels->vec.gelu_erf_mul;
    case SG_ACT_OAI: return kernels->vec.oai_mul;
    default: return NULL;
    }
}

void sg_neuron_activate(const sg_kernels *kernels, sg_neuron_act act, float threshold, const float *g, float *a, size_t n) {
    const float *neutral;
    const gated_fn fn = curved(kernels, act, &neutral);
    if (fn) {
        for (size_t i = 0; i < n; i += SG_CLUSTER_MAX) fn(a + i, g + i, neutral, n - i < SG_CLUSTER_MAX ? n - i : SG_CLUSTER_MAX);
        return;
    }
    const float above = act == SG_ACT_FATRELU ? threshold : 0;
    for (size_t i = 0; i < n; i++) a[i] = g[i] <= above ? 0 : act == SG_ACT_RELU2 ? g[i] * g[i] : g[i];
}
