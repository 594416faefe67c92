#include "neuron_engine/act.h"

void sg_act_mul(const sg_kernels *kernels, sg_neuron_act act, float threshold, float *out, const float *gate, const float *up, size_t n) {
    const sg_vec_fns *vec = &kernels->vec;
    switch (act) {
    case SG_ACT_SILU: vec->silu_mul(out, gate, up, n); return;
    case SG_ACT_RELU: vec->relu_mul(out, gate, up, n); return;
    case SG_ACT_DRELU: vec->drelu_mul(out, gate, up, n); return;
    case SG_ACT_GELU: vec->gelu_mul(out, gate, up, n); return;
    case SG_ACT_GELU_ERF: vec->gelu_erf_mul(out, gate, up, n); return;
    case SG_ACT_OAI: vec->oai_mul(out, gate, up, n); return;
    case SG_ACT_FATRELU:
        for (size_t i = 0; i < n; i++) out[i] = (gate[i] <= threshold ? 0 : gate[i]) * (up ? up[i] : 1);
        return;
    case SG_ACT_RELU2:
        for (size_t i = 0; i < n; i++) {
            const float g = gate[i] <= 0 ? 0 : gate[i] * gate[i];
            out[i] = up ? g * up[i] : g;
        }
        return;
    }
}

void sg_neuron_activate(const sg_kernels *kernels, sg_neuron_act act, float threshold, const float *g, float *a, size_t n) {
    if (act != SG_ACT_OAI) {
        sg_act_mul(kernels, act, threshold, a, g, NULL, n);
        return;
    }
    static const float zeros[SG_CLUSTER_MAX] = { 0 }; /* it multiplies with u + 1 */
    for (size_t i = 0; i < n; i += SG_CLUSTER_MAX) kernels->vec.oai_mul(a + i, g + i, zeros, n - i < SG_CLUSTER_MAX ? n - i : SG_CLUSTER_MAX);
}
