#include "runtime/text/chat.h"

#include <string.h>

/* How one family writes a conversation. A system message in a family without a form for it (`system` empty) goes in
 * front of the first user message, followed by an empty line. Sources: the chat_template of the models named, on
 * huggingface.co. */
typedef struct family {
    const char *name;
    const char *system[2], *user[2], *assistant[2]; /* before and after the text; system[0] NULL: none */
    const char *open;                               /* starts an answer */
    const char *turn_end;
    const char *next_user; /* instead of user[0] after an assistant's message, NULL: the same */
    bool trim;             /* white space around a text is taken away */
} family;

static const family families[] = {
    /* Qwen2-7B-Instruct and many others, without its default system message */
    [SG_CHAT_CHATML] = { "chatml",
                         { "<|im_start|>system\n", "<|im_end|>\n" },
                         { "<|im_start|>user\n", "<|im_end|>\n" },
                         { "<|im_start|>assistant\n", "<|im_end|>\n" },
                         "<|im_start|>assistant\n",
                         "<|im_end|>\n",
                         NULL,
                         false },
    /* Llama-2-7b-chat-hf; every user message but the first begins a sequence of its own */
    [SG_CHAT_LLAMA2] = { "llama-2",
                         { "<<SYS>>\n", "\n<</SYS>>\n\n" },
                         { "[INST] ", " [/INST]" },
                         { " ", " </s>" },
                         "",
                         " </s><s>",
                         "<s>[INST] ",
                         true },
    /* Meta-Llama-3-8B-Instruct */
    [SG_CHAT_LLAMA3] = { "llama-3",
                         { "<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>" },
                         { "<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>" },
                         { "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>" },
                         "<|start_header_id|>assistant<|end_header_id|>\n\n",
                         "<|eot_id|>",
                         NULL,
                         true },
    /* The model card of Mistral-7B-Instruct-v0.2; the templates of its versions differ in their spaces */
    [SG_CHAT_MISTRAL] = { "mistral",
                          { NULL, NULL },
                          { "[INST] ", " [/INST]" },
                          { " ", "</s>" },
                          "",
                          "</s>",
                          NULL,
                          false },
    /* gemma-2-9b-it; the place of the system message is that of gemma-3 */
    [SG_CHAT_GEMMA] = { "gemma",
                        { NULL, NULL },
                        { "<start_of_turn>user\n", "<end_of_turn>\n" },
                        { "<start_of_turn>model\n", "<end_of_turn>\n" },
                        "<start_of_turn>model\n",
                        "<end_of_turn>\n",
                        NULL,
                        true },
    /* Phi-3-mini-4k-instruct */
    [SG_CHAT_PHI3] = { "phi-3",
                       { "<|system|>\n", "<|end|>\n" },
                       { "<|user|>\n", "<|end|>\n" },
                       { "<|assistant|>\n", "<|end|>\n" },
                       "<|assistant|>\n",
                       "<|end|>\n",
                       NULL,
                       false },
    /* zephyr-7b-beta */
    [SG_CHAT_ZEPHYR] = { "zephyr",
                         { "<|system|>\n", "</s>\n" },
                         { "<|user|>\n", "</s>\n" },
                         { "<|assistant|>\n", "</s>\n" },
                         "<|assistant|>\n",
                         "</s>\n",
                         NULL,
                         false },
    /* gpt-oss-20b, without the date; a system message becomes the developer's */
    [SG_CHAT_HARMONY] = { "harmony",
                          { "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
                            "Knowledge cutoff: 2024-06\n\nReasoning: medium\n\n# Valid channels: analysis, commentary, final. "
                            "Channel must be included for every message.<|end|><|start|>developer<|message|># Instructions\n\n",
                            "\n\n<|end|>" },
                          { "<|start|>user<|message|>", "<|end|>" },
                          { "<|start|>assistant<|channel|>final<|message|>", "<|end|>" },
                          "<|start|>assistant",
                          "<|end|>",
                          NULL,
                          false },
    /* granite-3.0-8b-instruct, without its default system message */
    [SG_CHAT_GRANITE] = { "granite",
                          { "<|start_of_role|>system<|end_of_role|>", "<|end_of_text|>\n" },
                          { "<|start_of_role|>user<|end_of_role|>", "<|end_of_text|>\n" },
                          { "<|start_of_role|>assistant<|end_of_role|>", "<|end_of_text|>\n" },
                          "<|start_of_role|>assistant<|end_of_role|>",
                          "<|end_of_text|>\n",
                          NULL,
                          false },
    /* DeepSeek-V2-Lite-Chat */
    [SG_CHAT_DEEPSEEK2] = { "deepseek-2",
                            { "", "\n\n" },
                            { "User: ", "\n\n" },
                            { "Assistant: ", "<\uff5cend\u2581of\u2581sentence\uff5c>" },
                            "Assistant:",
                            "<\uff5cend\u2581of\u2581sentence\uff5c>",
                            NULL,
                            false },
    /* DeepSeek-V3 */
    [SG_CHAT_DEEPSEEK3] = { "deepseek-3",
                            { "", "" },
                            { "<\uff5cUser\uff5c>", "" },
                            { "<\uff5cAssistant\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>" },
                            "<\uff5cAssistant\uff5c>",
                            "<\uff5cend\u2581of\u2581sentence\uff5c>",
                            NULL,
                            false },
    /* glm-4-9b-chat-hf; [gMASK]<sop> in front of all is left to the tokenizer */
    [SG_CHAT_GLM4] = { "glm-4",
                       { "<|system|>\n", "" },
                       { "<|user|>\n", "" },
                       { "<|assistant|>\n", "" },
                       "<|assistant|>",
                       "",
                       NULL,
                       false },
    /* ERNIE-4.5-21B-A3B-PT */
    [SG_CHAT_ERNIE] = { "ernie",
                        { "", "\n" },
                        { "User: ", "\n" },
                        { "Assistant: ", "<|end_of_sentence|>" },
                        "Assistant: ",
                        "<|end_of_sentence|>",
                        NULL,
                        false },
    /* OLMoE-1B-7B-0924-Instruct; Falcon3-7B-Instruct has the same */
    [SG_CHAT_TULU] = { "tulu",
                       { "<|system|>\n", "\n" },
                       { "<|user|>\n", "\n" },
                       { "<|assistant|>\n", "<|endoftext|>\n" },
                       "<|assistant|>\n",
                       "<|endoftext|>\n",
                       NULL,
                       false },
    /* Nemotron-Mini-4B-Instruct, without its empty system message */
    [SG_CHAT_NEMOTRON] = { "nemotron",
                           { "<extra_id_0>System\n", "\n\n" },
                           { "<extra_id_1>User\n", "\n" },
                           { "<extra_id_1>Assistant\n", "\n" },
                           "<extra_id_1>Assistant\n",
                           "\n",
                           NULL,
                           true },
    /* falcon-180B-chat */
    [SG_CHAT_FALCON] = { "falcon",
                         { "System: ", "\n" },
                         { "User: ", "\n" },
                         { "Falcon: ", "\n" },
                         "Falcon:",
                         "\n",
                         NULL,
                         false },
};

static bool has(const char *text, const char *what) { return strstr(text, what) != NULL; }

/* Zephyr's templates end a user's text with the EOS token; other users of <|user|> do not. */
static bool is_zephyr(const char *jinja) {
    const char *user = strstr(jinja, "<|user|>");
    const char *end = user ? strstr(user, "}}") : NULL;
    const char *eos = user ? strstr(user, "eos_token") : NULL;
    const char *literal = user ? strstr(user, "</s>") : NULL;
    return has(jinja, "<|assistant|>") && end && ((eos && eos < end) || (literal && literal < end));
}

/* Families that one piece of text tells apart from all others. */
static const struct { const char *mark; sg_chat_family family; } marks[] = {
    { "<|channel|>", SG_CHAT_HARMONY },
    { "<|start_of_role|>", SG_CHAT_GRANITE },
    { "<\uff5cUser\uff5c>", SG_CHAT_DEEPSEEK3 },
    { "[gMASK]", SG_CHAT_GLM4 },
    { "<extra_id_1>User", SG_CHAT_NEMOTRON },
    { "Falcon:", SG_CHAT_FALCON },
};

/* Roles in plain words. ERNIE ends an answer with the separator token, DeepSeek with the EOS token. */
static sg_chat_family in_words(const char *jinja) {
    if (!has(jinja, "User: ") || !has(jinja, "Assistant: ")) return SG_CHAT_NONE;
    if (has(jinja, "sep_token") || has(jinja, "<|end_of_sentence|>")) return SG_CHAT_ERNIE;
    return has(jinja, "eos_token") || has(jinja, "<\uff5cend\u2581of\u2581sentence\uff5c>") ? SG_CHAT_DEEPSEEK2 : SG_CHAT_NONE;
}

sg_chat_family sg_chat_recognise(const char *jinja) {
    if (!jinja) return SG_CHAT_NONE;
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
        if (has(jinja, marks[i].mark)) return marks[i].family;
    if (has(jinja, "<|im_start|>")) return has(jinja, "<|im_sep|>") ? SG_CHAT_NONE : SG_CHAT_CHATML; /* Phi-4 differs */
    if (has(jinja, "[INST]")) return has(jinja, "<<SYS>>") ? SG_CHAT_LLAMA2 : SG_CHAT_MISTRAL;
    if (has(jinja, "<|start_header_id|>") && has(jinja, "<|end_header_id|>")) return SG_CHAT_LLAMA3;
    if (has(jinja, "<start_of_turn>")) return SG_CHAT_GEMMA;
    if (has(jinja, "<|assistant|>") && has(jinja, "<|end|>")) return SG_CHAT_PHI3;
    if (is_zephyr(jinja)) return SG_CHAT_ZEPHYR;
    if (has(jinja, "<|user|>") && has(jinja, "<|assistant|>") && has(jinja, "eos_token")) return SG_CHAT_TULU;
    return in_words(jinja);
}

const char *sg_chat_family_name(sg_chat_family f) {
    return f > SG_CHAT_NONE && f < SG_CHAT_FAMILIES ? families[f].name : NULL;
}

static const family *family_of(sg_chat_family f) {
    return &families[f > SG_CHAT_NONE && f < SG_CHAT_FAMILIES ? f : SG_CHAT_CHATML];
}

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static void put_text(const char *text, bool trim_left, bool trim_right, sg_str *out) {
    size_t n = strlen(text);
    while (trim_left && n > 0 && is_space(*text)) {
        text++;
        n--;
    }
    while (trim_right && n > 0 && is_space(text[n - 1])) n--;
    sg_str_append(out, text, n);
}

static void put_message(const family *f, const char *const around[2], const char *text, sg_str *out) {
    sg_str_puts(out, around[0]);
    put_text(text, f->trim, f->trim, out);
    sg_str_puts(out, around[1]);
}

/* A user message that carries the system message in it. */
static void put_first_user(sg_chat_family kind, const family *f, const char *system, const char *text, sg_str *out) {
    sg_str_puts(out, f->user[0]);
    if (kind == SG_CHAT_LLAMA2) {
        sg_str_puts(out, f->system[0]);
        sg_str_puts(out, system);
        sg_str_puts(out, f->system[1]);
        put_text(text, false, true, out); /* its template trims the two together */
    } else {
        sg_str_puts(out, system);
        sg_str_puts(out, "\n\n");
        put_text(text, f->trim, f->trim, out);
    }
    sg_str_puts(out, f->user[1]);
}

/* Role as 's', 'u' or 'a'. */
static sg_status check(const sg_chat_message *m, size_t i, char *role, sg_error *err) {
    if (!m->role || !m->text) return sg_fail(err, SG_E_ARG, "chat message %zu has no %s", i, m->role ? "text" : "role");
    if (strcmp(m->role, "system") && strcmp(m->role, "user") && strcmp(m->role, "assistant"))
        return sg_fail(err, SG_E_ARG,
                       "chat message %zu has the unknown role '%.64s' (system, user and assistant are known)", i,
                       m->role);
    *role = m->role[0];
    return SG_OK;
}

sg_status sg_chat_write(sg_chat_family kind, const sg_chat_message *messages, size_t n, bool open_assistant,
                        sg_str *out, sg_error *err) {
    const family *f = family_of(kind);
    const bool inside_user =
        kind == SG_CHAT_LLAMA2 || !f->system[0]; /* system text is part of the first user message */
    const char *system = NULL;
    for (size_t i = 0; i < n; i++) {
        char role = 0, next = 0;
        SG_TRY(check(&messages[i], i, &role, err));
        if (role == 's' && inside_user) {
            if (i + 1 < n) SG_TRY(check(&messages[i + 1], i + 1, &next, err));
            if (i > 0 || next != 'u')
                return sg_fail(err, SG_E_ARG,
                               "chat message %zu: role 'system' in the %s format must come first and before a 'user'",
                               i, f->name);
            system = messages[i].text;
        } else if (role == 's') {
            put_message(f, f->system, messages[i].text, out);
        } else if (role == 'a') {
            put_message(f, f->assistant, messages[i].text, out);
        } else if (system) {
            put_first_user(kind, f, system, messages[i].text, out);
            system = NULL;
        } else {
            const bool again = f->next_user && i > 0;
            const char *const around[2] = { again ? f->next_user : f->user[0], f->user[1] };
            put_message(f, around, messages[i].text, out);
        }
    }
    if (open_assistant) sg_str_puts(out, f->open);
    return out->failed ? sg_fail(err, SG_E_NOMEM, "out of memory for the chat text") : SG_OK;
}

const char *sg_chat_turn_end(sg_chat_family f) { return family_of(f)->turn_end; }
