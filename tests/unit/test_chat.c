/* Chat formats. The expected strings are what Jinja2 makes of the published templates of the models named in chat.c
 * (with trim_blocks and lstrip_blocks, without the first BOS); mistral follows the model card of Mistral-7B-Instruct.
 */
#include "runtime/text/chat.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static const sg_chat_message dialogue[] = {
    { "system", "Be terse." }, { "user", " Hi? " }, { "assistant", " Yes. " }, { "user", "More\n" }
};

static const struct {
    sg_chat_family family;
    const char *name, *full, *no_system;
} expected[] = {
    { SG_CHAT_CHATML, "chatml",
      "<|im_start|>system\nBe terse.<|im_end|>\n<|im_start|>user\n Hi? <|im_end|>\n<|im_start|>assistant\n Yes. "
      "<|im_end|>\n"
      "<|im_start|>user\nMore\n<|im_end|>\n<|im_start|>assistant\n",
      "<|im_start|>user\n Hi? <|im_end|>\n<|im_start|>assistant\n Yes. <|im_end|>\n"
      "<|im_start|>user\nMore\n<|im_end|>\n<|im_start|>assistant\n" },
    { SG_CHAT_LLAMA2, "llama-2", "[INST] <<SYS>>\nBe terse.\n<</SYS>>\n\n Hi? [/INST] Yes. </s><s>[INST] More [/INST]",
      "[INST] Hi? [/INST] Yes. </s><s>[INST] More [/INST]" },
    { SG_CHAT_LLAMA3, "llama-3",
      "<|start_header_id|>system<|end_header_id|>\n\nBe "
      "terse.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi?<|eot_id|>"
      "<|start_header_id|>assistant<|end_header_id|>\n\nYes.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nMore<"
      "|eot_id|>"
      "<|start_header_id|>assistant<|end_header_id|>\n\n",
      "<|start_header_id|>user<|end_header_id|>\n\nHi?<|eot_id|>"
      "<|start_header_id|>assistant<|end_header_id|>\n\nYes.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nMore<"
      "|eot_id|>"
      "<|start_header_id|>assistant<|end_header_id|>\n\n" },
    { SG_CHAT_MISTRAL, "mistral", "[INST] Be terse.\n\n Hi?  [/INST]  Yes. </s>[INST] More\n [/INST]",
      "[INST]  Hi?  [/INST]  Yes. </s>[INST] More\n [/INST]" },
    { SG_CHAT_GEMMA, "gemma",
      "<start_of_turn>user\nBe terse.\n\nHi?<end_of_turn>\n<start_of_turn>model\nYes.<end_of_turn>\n"
      "<start_of_turn>user\nMore<end_of_turn>\n<start_of_turn>model\n",
      "<start_of_turn>user\nHi?<end_of_turn>\n<start_of_turn>model\nYes.<end_of_turn>\n"
      "<start_of_turn>user\nMore<end_of_turn>\n<start_of_turn>model\n" },
    { SG_CHAT_PHI3, "phi-3",
      "<|system|>\nBe terse.<|end|>\n<|user|>\n Hi? <|end|>\n<|assistant|>\n Yes. <|end|>\n<|user|>\nMore\n<|end|>\n"
      "<|assistant|>\n",
      "<|user|>\n Hi? <|end|>\n<|assistant|>\n Yes. <|end|>\n<|user|>\nMore\n<|end|>\n<|assistant|>\n" },
    { SG_CHAT_ZEPHYR, "zephyr",
      "<|system|>\nBe terse.</s>\n<|user|>\n Hi? </s>\n<|assistant|>\n Yes. "
      "</s>\n<|user|>\nMore\n</s>\n<|assistant|>\n",
      "<|user|>\n Hi? </s>\n<|assistant|>\n Yes. </s>\n<|user|>\nMore\n</s>\n<|assistant|>\n" },
    /* gpt-oss-20b; the system block, which its template always writes, comes with a system message only */
    { SG_CHAT_HARMONY, "harmony",
      "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n\n"
      "Reasoning: medium\n\n# Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|>"
      "<|start|>developer<|message|># Instructions\n\nBe terse.\n\n<|end|>"
      "<|start|>user<|message|> Hi? <|end|><|start|>assistant<|channel|>final<|message|> Yes. <|end|>"
      "<|start|>user<|message|>More\n<|end|><|start|>assistant",
      "<|start|>user<|message|> Hi? <|end|><|start|>assistant<|channel|>final<|message|> Yes. <|end|>"
      "<|start|>user<|message|>More\n<|end|><|start|>assistant" },
    { SG_CHAT_GRANITE, "granite", /* granite-3.0-8b-instruct */
      "<|start_of_role|>system<|end_of_role|>Be terse.<|end_of_text|>\n<|start_of_role|>user<|end_of_role|> Hi? <|end_of_text|>\n"
      "<|start_of_role|>assistant<|end_of_role|> Yes. <|end_of_text|>\n<|start_of_role|>user<|end_of_role|>More\n<|end_of_text|>\n"
      "<|start_of_role|>assistant<|end_of_role|>",
      "<|start_of_role|>user<|end_of_role|> Hi? <|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|> Yes. <|end_of_text|>\n"
      "<|start_of_role|>user<|end_of_role|>More\n<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>" },
    { SG_CHAT_DEEPSEEK2, "deepseek-2", /* DeepSeek-V2-Lite-Chat */
      "Be terse.\n\nUser:  Hi? \n\nAssistant:  Yes. <\uff5cend\u2581of\u2581sentence\uff5c>User: More\n\n\nAssistant:",
      "User:  Hi? \n\nAssistant:  Yes. <\uff5cend\u2581of\u2581sentence\uff5c>User: More\n\n\nAssistant:" },
    { SG_CHAT_DEEPSEEK3, "deepseek-3", /* DeepSeek-V3 */
      "Be terse.<\uff5cUser\uff5c> Hi? <\uff5cAssistant\uff5c> Yes. <\uff5cend\u2581of\u2581sentence\uff5c>"
      "<\uff5cUser\uff5c>More\n<\uff5cAssistant\uff5c>",
      "<\uff5cUser\uff5c> Hi? <\uff5cAssistant\uff5c> Yes. <\uff5cend\u2581of\u2581sentence\uff5c>"
      "<\uff5cUser\uff5c>More\n<\uff5cAssistant\uff5c>" },
    { SG_CHAT_GLM4, "glm-4", /* glm-4-9b-chat-hf */
      "<|system|>\nBe terse.<|user|>\n Hi? <|assistant|>\n Yes. <|user|>\nMore\n<|assistant|>",
      "<|user|>\n Hi? <|assistant|>\n Yes. <|user|>\nMore\n<|assistant|>" },
    { SG_CHAT_ERNIE, "ernie", /* ERNIE-4.5-21B-A3B-PT */
      "Be terse.\nUser:  Hi? \nAssistant:  Yes. <|end_of_sentence|>User: More\n\nAssistant: ",
      "User:  Hi? \nAssistant:  Yes. <|end_of_sentence|>User: More\n\nAssistant: " },
    { SG_CHAT_TULU, "tulu", /* OLMoE-1B-7B-0924-Instruct */
      "<|system|>\nBe terse.\n<|user|>\n Hi? \n<|assistant|>\n Yes. <|endoftext|>\n<|user|>\nMore\n\n<|assistant|>\n",
      "<|user|>\n Hi? \n<|assistant|>\n Yes. <|endoftext|>\n<|user|>\nMore\n\n<|assistant|>\n" },
    { SG_CHAT_NEMOTRON, "nemotron", /* Nemotron-Mini-4B-Instruct */
      "<extra_id_0>System\nBe terse.\n\n<extra_id_1>User\nHi?\n<extra_id_1>Assistant\nYes.\n<extra_id_1>User\nMore\n"
      "<extra_id_1>Assistant\n",
      "<extra_id_1>User\nHi?\n<extra_id_1>Assistant\nYes.\n<extra_id_1>User\nMore\n<extra_id_1>Assistant\n" },
    { SG_CHAT_FALCON, "falcon", /* falcon-180B-chat */
      "System: Be terse.\nUser:  Hi? \nFalcon:  Yes. \nUser: More\n\nFalcon:",
      "User:  Hi? \nFalcon:  Yes. \nUser: More\n\nFalcon:" },
};
/* What answers of a family begin with, behind what opens them. */
static const char *begins(sg_chat_family f) {
    switch (f) {
    case SG_CHAT_LLAMA2:
    case SG_CHAT_MISTRAL:
    case SG_CHAT_DEEPSEEK2:
    case SG_CHAT_FALCON: return " ";
    case SG_CHAT_GLM4: return "\n";
    case SG_CHAT_HARMONY: return "<|channel|>final<|message|>";
    default: return "";
    }
}
#define N_FAMILIES ((int)(sizeof expected / sizeof *expected))

static char *write_chat(sg_chat_family f, const sg_chat_message *m, size_t n, bool open) {
    sg_str s = { 0 };
    sg_error err;
    sg_str_puts(&s, "");
    ck_assert_msg(sg_chat_write(f, m, n, open, &s, &err) == SG_OK, "%s", err.message);
    return s.data;
}

START_TEST(as_the_templates) {
    char *full = write_chat(expected[_i].family, dialogue, 4, true);
    ck_assert_str_eq(full, expected[_i].full);
    free(full);
    char *rest = write_chat(expected[_i].family, dialogue + 1, 3, true);
    ck_assert_str_eq(rest, expected[_i].no_system);
    free(rest);
    ck_assert_str_eq(sg_chat_family_name(expected[_i].family), expected[_i].name);
}
END_TEST

/* A session that holds the first turn, the answer and turn_end needs only the new messages. */
START_TEST(turn_by_turn) {
    static const sg_chat_message talk[] = { { "user", "One" }, { "assistant", "Two" }, { "user", "Three" } };
    const sg_chat_family f = expected[_i].family;
    char *whole = write_chat(f, talk, 3, true), *first = write_chat(f, talk, 1, true),
         *next = write_chat(f, talk + 2, 1, true);
    sg_str s = { 0 };
    sg_str_puts(&s, first);
    sg_str_puts(&s, begins(f));
    sg_str_puts(&s, "Two");
    sg_str_puts(&s, sg_chat_turn_end(f));
    sg_str_puts(&s, next);
    ck_assert_str_eq(s.data, whole);
    free(s.data);
    free(whole);
    free(first);
    free(next);
}
END_TEST

START_TEST(none_is_chatml) {
    char *a = write_chat(SG_CHAT_NONE, dialogue, 4, false), *b = write_chat(SG_CHAT_CHATML, dialogue, 4, false);
    ck_assert_str_eq(a, b);
    free(a);
    free(b);
    ck_assert_ptr_null(sg_chat_family_name(SG_CHAT_NONE));
    char *nothing = write_chat(SG_CHAT_LLAMA2, NULL, 0, true);
    ck_assert_str_eq(nothing, "");
    free(nothing);
}
END_TEST

static void refused(sg_chat_family f, const sg_chat_message *m, size_t n, const char *names) {
    sg_str s = { 0 };
    sg_error err = { 0 };
    ck_assert_int_eq(sg_chat_write(f, m, n, true, &s, &err), SG_E_ARG);
    ck_assert_msg(strstr(err.message, names), "%s", err.message);
    free(s.data);
}

START_TEST(refuses) {
    static const sg_chat_message tool[] = { { "user", "x" }, { "tool", "y" } };
    static const sg_chat_message late[] = { { "user", "x" }, { "system", "y" }, { "user", "z" } };
    static const sg_chat_message alone[] = { { "system", "y" } };
    static const sg_chat_message wrong[] = { { "system", "y" }, { "assistant", "z" } };
    static const sg_chat_message no_role[] = { { NULL, "y" } }, no_text[] = { { "user", NULL } };
    for (int i = 0; i < N_FAMILIES; i++) refused(expected[i].family, tool, 2, "'tool'");
    refused(SG_CHAT_CHATML, no_role, 1, "role");
    refused(SG_CHAT_CHATML, no_text, 1, "text");
    static const sg_chat_family inside[] = { SG_CHAT_LLAMA2, SG_CHAT_MISTRAL, SG_CHAT_GEMMA };
    for (int i = 0; i < 3; i++) {
        refused(inside[i], late, 3, "'system'");
        refused(inside[i], alone, 1, "'system'");
        refused(inside[i], wrong, 2, "'system'");
    }
    free(write_chat(SG_CHAT_LLAMA3, late, 3, true)); /* this one has a form for it */
}
END_TEST

START_TEST(recognises) {
    static const struct {
        const char *jinja;
        sg_chat_family family;
    } t[] = {
        { NULL, SG_CHAT_NONE },
        { "", SG_CHAT_NONE },
        { "{% for message in messages %}{{ message['content'] }}{% endfor %}", SG_CHAT_NONE },
        { "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' "
          "+ '\n'}}"
          "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
          SG_CHAT_CHATML },
        { "{{'<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>'}}", SG_CHAT_NONE },
        { "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
          "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}",
          SG_CHAT_LLAMA2 },
        { "{{ '[INST] ' + message['content'] + ' [/INST]' }}", SG_CHAT_MISTRAL },
        { "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | "
          "trim + "
          "'<|eot_id|>' %}",
          SG_CHAT_LLAMA3 },
        { "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}", SG_CHAT_GEMMA },
        { "{{'<|user|>' + '\n' + message['content'] + '<|end|>' + '\n' + '<|assistant|>' + '\n'}}", SG_CHAT_PHI3 },
        { "{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n{% endif %}"
          "{{ '<|assistant|>' }}",
          SG_CHAT_ZEPHYR },
        /* OLMoE, Falcon 3: the same marks, but nothing after the user's text */
        { "{{ '<|user|>\n' + message['content'] + '\n' }}{{ '<|assistant|>\n' + message['content'] + eos_token }}",
          SG_CHAT_TULU },
        { "{{ '<|user|>\n' + message['content'] }}{{ '<|assistant|>\n' + message['content'] }}", SG_CHAT_NONE },
        { "[gMASK]<sop>{% if m.role == 'user' %}<|user|>\n{{ m.content }}{% endif %}<|assistant|>", SG_CHAT_GLM4 },
        { "{{- \"<|start|>assistant<|channel|>final<|message|>\" + message.content + \"<|end|>\" }}", SG_CHAT_HARMONY },
        { "{{ '<|start_of_role|>user<|end_of_role|>' + message['content'] + '<|end_of_text|>\n' }}", SG_CHAT_GRANITE },
        { "{{ 'User: ' + message['content'] + '\n\n' }}{{ 'Assistant: ' + message['content'] + eos_token }}", SG_CHAT_DEEPSEEK2 },
        { "{{'<\uff5cUser\uff5c>' + message['content']}}{{'<\uff5cAssistant\uff5c>' + message['content']}}", SG_CHAT_DEEPSEEK3 },
        { "{{- cls_token -}}{{- \"User: \" + message[\"content\"] + \"\n\" }}{{- \"Assistant: \" + message[\"content\"] + sep_token }}",
          SG_CHAT_ERNIE },
        { "{{ 'User: ' + message['content'] }}{{ 'Assistant: ' + message['content'] }}", SG_CHAT_NONE },
        { "{{'<extra_id_0>System'}}{{ '<extra_id_1>User\n' + message['content'].strip() + '\n' }}", SG_CHAT_NEMOTRON },
        { "{% elif message['role'] == 'assistant' %}{{ 'Falcon: ' }}{% endif %}{{ message['content'] }}{{ '\n' + 'Falcon:' }}",
          SG_CHAT_FALCON },
        /* LFM2 and SmallThinker write what many do */
        { "{{- bos_token -}}{{- \"<|im_start|>\" + message[\"role\"] + \"\n\" + content + \"<|im_end|>\n\" -}}", SG_CHAT_CHATML },
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        ck_assert_msg(sg_chat_recognise(t[i].jinja) == t[i].family, "template %zu: %d", i,
                      (int)sg_chat_recognise(t[i].jinja));
}
END_TEST

int main(void) {
    Suite *s = suite_create("chat");
    TCase *tc = tcase_create("chat");
    tcase_add_loop_test(tc, as_the_templates, 0, N_FAMILIES);
    tcase_add_loop_test(tc, turn_by_turn, 0, N_FAMILIES);
    tcase_add_test(tc, none_is_chatml);
    tcase_add_test(tc, refuses);
    tcase_add_test(tc, recognises);
    suite_add_tcase(s, tc);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
