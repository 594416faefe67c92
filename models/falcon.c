/* Falcon: attention and feed-forward block side by side, both behind LayerNorm; 7B with one norm for both, 40B with one for each. The GGUF
 * name attn_norm is that of the feed-forward block then. ReLU versions (PowerInfer) name their activation. Source: arXiv 2311.16867. */
#include "models/rules.h"

static const sg_tensor_rule falcon_tensors[] = {
    SG_TENSORS_EMBEDDING,
    SG_OPT_VEC(SG_T_OUTPUT_NORM_BIAS, "output_norm.bias", SG_D_EMBD, SG_ALWAYS),
    SG_VEC(SG_L_FFN_NORM, "blk.%u.attn_norm.weight", SG_D_EMBD, SG_ALWAYS),
    SG_OPT_VEC(SG_L_FFN_NORM_BIAS, "blk.%u.attn_norm.bias", SG_D_EMBD, SG_ALWAYS),
    SG_OPT_VEC(SG_L_ATTN_NORM, "blk.%u.attn_norm_2.weight", SG_D_EMBD, SG_ALWAYS),
    SG_OPT_VEC(SG_L_ATTN_NORM_BIAS, "blk.%u.attn_norm_2.bias", SG_D_EMBD, SG_ALWAYS),
    SG_MAT(SG_L_QKV, "blk.%u.attn_qkv.weight", SG_D_EMBD, SG_D_QKV, SG_IN_ATTENTION),
    SG_OPT_VEC(SG_L_QKV_BIAS, "blk.%u.attn_qkv.bias", SG_D_QKV, SG_IN_ATTENTION),
    SG_TENSORS_OUTPUT, SG_TENSORS_UNGATED,
};

const sg_arch sg_arch_falcon = { .name = "falcon", SG_ARCH_TENSORS(falcon_tensors), .rope_pairing = SG_ROPE_HALVES, .norm = SG_NORM_LAYER,
                                 .ffn_act = SG_FFN_GELU, .parallel = true };
