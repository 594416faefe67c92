/* The tensors of a pre-norm decoder layer with gated feed-forward block: what the llama family is made of and most others
 * add to; UNGATED without the gate, out = down(act(up x)). Names are those of GGUF files as llama.cpp writes them. */
#ifndef SG_MODELS_DECODER_TENSORS_H
#define SG_MODELS_DECODER_TENSORS_H

#include "models/model.h"

#define SG_DECODER_TENSORS_UNGATED                                                \
    { SG_T_TOKEN_EMBD, "token_embd.weight", SG_D_EMBD, SG_D_VOCAB, false },   \
    { SG_T_OUTPUT_NORM, "output_norm.weight", SG_D_EMBD, SG_D_ONE, false },   \
    { SG_T_OUTPUT, "output.weight", SG_D_EMBD, SG_D_VOCAB, true },            \
    { SG_T_ROPE_FREQS, "rope_freqs.weight", SG_D_ROT, SG_D_ONE, true },       \
    { SG_L_ATTN_NORM, "blk.%u.attn_norm.weight", SG_D_EMBD, SG_D_ONE, false }, \
    { SG_L_Q, "blk.%u.attn_q.weight", SG_D_EMBD, SG_D_Q, false },             \
    { SG_L_K, "blk.%u.attn_k.weight", SG_D_EMBD, SG_D_K, false },             \
    { SG_L_V, "blk.%u.attn_v.weight", SG_D_EMBD, SG_D_V, false },             \
    { SG_L_Q_BIAS, "blk.%u.attn_q.bias", SG_D_Q, SG_D_ONE, true },            \
    { SG_L_K_BIAS, "blk.%u.attn_k.bias", SG_D_K, SG_D_ONE, true },            \
    { SG_L_V_BIAS, "blk.%u.attn_v.bias", SG_D_V, SG_D_ONE, true },            \
    { SG_L_O, "blk.%u.attn_output.weight", SG_D_ATT, SG_D_EMBD, false },      \
    { SG_L_O_BIAS, "blk.%u.attn_output.bias", SG_D_EMBD, SG_D_ONE, true },    \
    { SG_L_FFN_NORM, "blk.%u.ffn_norm.weight", SG_D_EMBD, SG_D_ONE, false },  \
    { SG_L_UP, "blk.%u.ffn_up.weight", SG_D_EMBD, SG_D_FF, false },           \
    { SG_L_DOWN, "blk.%u.ffn_down.weight", SG_D_FF, SG_D_EMBD, false }

#define SG_DECODER_TENSORS SG_DECODER_TENSORS_UNGATED, { SG_L_GATE, "blk.%u.ffn_gate.weight", SG_D_EMBD, SG_D_FF, false }

#endif
