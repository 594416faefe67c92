#include "models/hf.h"

#include <string.h>

static const sg_hf_family *const families[] = { &sg_hf_llama, &sg_hf_qwen, &sg_hf_qwen_next, &sg_hf_moe, &sg_hf_deepseek, &sg_hf_gpt_oss,
                                              &sg_hf_gemma, &sg_hf_granite, &sg_hf_lfm2, &sg_hf_gpt2, &sg_hf_opt, &sg_hf_falcon,
                                              &sg_hf_nemotron, &sg_hf_phi3, &sg_hf_smallthinker };

const sg_hf_arch *sg_hf_at(size_t i) {
    for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
        if (i < families[f]->n) return &families[f]->archs[i];
        i -= families[f]->n;
    }
    return NULL;
}

const sg_hf_arch *sg_hf_find(const char *name) {
    const sg_hf_arch *a;
    for (size_t i = 0; (a = sg_hf_at(i)); i++)
        if (strcmp(a->name, name) == 0) return a;
    return NULL;
}

const sg_hf_part sg_hf_pairs_q[1] = { { "htpc", "hptc", { SG_H_HEADS, SG_H_TWO, SG_H_HALF_HEAD, SG_H_EMBD } } };
const sg_hf_part sg_hf_pairs_k[1] = { { "htpc", "hptc", { SG_H_KV_HEADS, SG_H_TWO, SG_H_HALF_HEAD, SG_H_EMBD } } };
const sg_hf_part sg_hf_pairs_q_bias[1] = { { "htp", "hpt", { SG_H_HEADS, SG_H_TWO, SG_H_HALF_HEAD } } };
const sg_hf_part sg_hf_pairs_k_bias[1] = { { "htp", "hpt", { SG_H_KV_HEADS, SG_H_TWO, SG_H_HALF_HEAD } } };
const sg_hf_part sg_hf_experts_1st[1] = { { "esfd", "efd", { SG_H_EXPERTS, SG_H_TWO, SG_H_EXPERT_FF, SG_H_EMBD }, 's', SG_H_NONE, SG_H_ONE } };
const sg_hf_part sg_hf_experts_2nd[1] = { { "esfd", "efd", { SG_H_EXPERTS, SG_H_TWO, SG_H_EXPERT_FF, SG_H_EMBD }, 's', SG_H_ONE, SG_H_ONE } };
