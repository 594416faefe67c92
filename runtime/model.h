/* The open model behind sg_model. */
#ifndef SG_RUNTIME_MODEL_H
#define SG_RUNTIME_MODEL_H

#include "neuron_engine/rope.h"
#include "runtime/plan.h"
#include "runtime/session.h"
#include "runtime/text/chat.h"

struct sg_model {
    sg_model_desc desc; /* its tensor pointers are void once the file is closed; hp and arch stay */
    sg_kernels kernels;
    sg_weights weights;
    sg_plan plan;
    sg_rope rope;
    sg_tokenizer *tokenizer;
    sg_chat_family chat;
    char *name, *arch;
    bool vocab_only;
    sg_model_info info;
};

#endif
