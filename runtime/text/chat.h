/* Chat template families, recognised from the text of tokenizer.chat_template. sparsegen does not run Jinja: it knows
 * the families that almost every model uses and writes them itself. */
#ifndef SG_TEXT_CHAT_H
#define SG_TEXT_CHAT_H

#include "runtime/base/mem.h"

typedef enum sg_chat_family {
    SG_CHAT_NONE = 0,
    SG_CHAT_CHATML,
    SG_CHAT_LLAMA2,
    SG_CHAT_LLAMA3,
    SG_CHAT_MISTRAL,
    SG_CHAT_GEMMA,
    SG_CHAT_PHI3,
    SG_CHAT_ZEPHYR,
    SG_CHAT_HARMONY,
    SG_CHAT_GRANITE,
    SG_CHAT_DEEPSEEK2,
    SG_CHAT_DEEPSEEK3,
    SG_CHAT_GLM4,
    SG_CHAT_ERNIE,
    SG_CHAT_TULU,
    SG_CHAT_NEMOTRON,
    SG_CHAT_FALCON,
    SG_CHAT_FAMILIES /* how many, with NONE */
} sg_chat_family;

/* `jinja` may be NULL (gives NONE). */
sg_chat_family sg_chat_recognise(const char *jinja);
const char *sg_chat_family_name(sg_chat_family f); /* NULL for NONE */

/* Appends the messages; NONE is written as chatml. BOS is not written (the tokenizer adds it). SG_E_ARG for an unknown
 * role or for roles that the family cannot express, naming it. A system message in a family without one (gemma,
 * mistral) is put before the first user message. */
SG_NODISCARD sg_status sg_chat_write(sg_chat_family f, const sg_chat_message *messages, size_t n, bool open_assistant,
                                     sg_str *out, sg_error *err);

/* Text that ends an assistant's turn in this family ("<|im_end|>\n"): what a session must hold before the next user
 * turn. */
const char *sg_chat_turn_end(sg_chat_family f);

#endif
