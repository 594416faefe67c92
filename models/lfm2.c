/* LFM2: most layers mix tokens by a short gated convolution, the others by attention; LFM2-MoE has experts behind leading dense layers.
 * Source: arXiv 2511.23404. */
#include "models/rules.h"

#define LFM2_TENSORS                                                                                  \
    SG_MAT(SG_T_TOKEN_EMBD, "token_embd.weight", SG_D_EMBD, SG_D_VOCAB, SG_ALWAYS),                   \
    SG_VEC(SG_T_OUTPUT_NORM, "token_embd_norm.weight", SG_D_EMBD, SG_ALWAYS),                         \
    SG_OPT_MAT(SG_T_OUTPUT, "output.weight", SG_D_EMBD, SG_D_VOCAB, SG_ALWAYS), SG_TENSORS_ATTENTION, \
    SG_TENSORS_HEAD_NORMS, SG_MAT(SG_L_CONV_IN, "blk.%u.shortconv.in_proj.weight", SG_D_EMBD, SG_D_CONV3, SG_IN_CONV), \
    SG_VECS(SG_L_CONV, "blk.%u.shortconv.conv.weight", SG_D_TAPS, SG_D_EMBD, SG_IN_CONV),             \
    SG_MAT(SG_L_CONV_OUT, "blk.%u.shortconv.out_proj.weight", SG_D_EMBD, SG_D_EMBD, SG_IN_CONV), SG_TENSORS_FFN_NORM, SG_TENSORS_GATED

static const sg_tensor_rule lfm2_tensors[] = { LFM2_TENSORS };
static const sg_tensor_rule lfm2moe_tensors[] = { LFM2_TENSORS, SG_TENSORS_EXPERTS, SG_TENSORS_SELECT };

const sg_arch sg_arch_lfm2 = { .name = "lfm2", SG_ARCH_TENSORS(lfm2_tensors), .rope_pairing = SG_ROPE_HALVES, .mixers = SG_MIXERS_CONV };
const sg_arch sg_arch_lfm2moe = { .name = "lfm2moe", SG_ARCH_TENSORS(lfm2moe_tensors), .rope_pairing = SG_ROPE_HALVES,
                                  .mixers = SG_MIXERS_CONV, .scores = SG_SCORES_SIGMOID, .weights_norm = true };
