/* DeepSeek-V2 and V3 (also Kimi-K2, GLM-4.7-Flash and others of their form): latent attention, leading dense layers, then experts beside
 * shared ones. attn_kv_b is the older layout of attn_k_b and attn_v_b; the Lite form does not compress its queries. Sources: arXiv
 * 2405.04434, arXiv 2412.19437. */
#include "models/rules.h"

static const sg_tensor_rule deepseek2_tensors[] = {
    SG_TENSORS_EMBEDDING,
    SG_VEC(SG_L_ATTN_NORM, "blk.%u.attn_norm.weight", SG_D_EMBD, SG_ALWAYS),
    SG_OPT_MAT(SG_L_Q, "blk.%u.attn_q.weight", SG_D_EMBD, SG_D_Q, SG_IN_LATENT),
    SG_OPT_MAT(SG_L_Q_A, "blk.%u.attn_q_a.weight", SG_D_EMBD, SG_D_Q_LORA, SG_IN_LATENT),
    SG_OPT_VEC(SG_L_Q_A_NORM, "blk.%u.attn_q_a_norm.weight", SG_D_Q_LORA, SG_IN_LATENT),
    SG_OPT_MAT(SG_L_Q_B, "blk.%u.attn_q_b.weight", SG_D_Q_LORA, SG_D_Q, SG_IN_LATENT),
    SG_MAT(SG_L_KV_A, "blk.%u.attn_kv_a_mqa.weight", SG_D_EMBD, SG_D_KV_A, SG_IN_LATENT),
    SG_VEC(SG_L_KV_A_NORM, "blk.%u.attn_kv_a_norm.weight", SG_D_KV_LORA, SG_IN_LATENT),
    SG_OPT_MATS(SG_L_K_B, "blk.%u.attn_k_b.weight", SG_D_NOPE, SG_D_KV_LORA, SG_D_HEADS, SG_IN_LATENT),
    SG_OPT_MATS(SG_L_V_B, "blk.%u.attn_v_b.weight", SG_D_KV_LORA, SG_D_VALUE, SG_D_HEADS, SG_IN_LATENT),
    SG_OPT_MAT(SG_L_KV_B, "blk.%u.attn_kv_b.weight", SG_D_KV_LORA, SG_D_KV_B, SG_IN_LATENT),
    SG_MAT(SG_L_O, "blk.%u.attn_output.weight", SG_D_ATT, SG_D_EMBD, SG_IN_LATENT),
    SG_TENSORS_FFN_NORM, SG_TENSORS_GATED, SG_TENSORS_EXPERTS, SG_TENSORS_SELECT, SG_TENSORS_SHARED,
};

const sg_arch sg_arch_deepseek2 = { .name = "deepseek2", SG_ARCH_TENSORS(deepseek2_tensors), .mixers = SG_MIXERS_LATENT, .yarn_scores = true };
