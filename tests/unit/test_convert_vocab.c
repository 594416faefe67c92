/* Vocabularies on their way into GGUF: tokenizer.json in both forms, SentencePiece models, settings of a folder. */
#include "tests/unit/convert_fixture.h"

static void expect_merges(const sg_gguf *g, size_t n, const char *const *merges) {
    const sg_gguf_kv *kv = sg_gguf_find(g, "tokenizer.ggml.merges");
    ck_assert(kv && kv->n == n);
    for (size_t i = 0; i < n; i++) ck_assert_str_eq(kv->strings[i].text, merges[i]);
}

START_TEST(byte_level) {
    write_llama_folder();
    write_text("tokenizer.json", BYTES_JSON);
    write_text("tokenizer_config.json",
               "{\"add_bos_token\":false,\"bos_token\":null,\"eos_token\":\"<|end|>\",\"pad_token\":"
               "\"<think>\",\"chat_template\":[{\"name\":\"rag\",\"template\":\"R\"},"
               "{\"name\":\"default\",\"template\":\"D\"}]}");
    sg_gguf *g = converted(dir.path, NULL);
    ck_assert_str_eq(str_of(g, "tokenizer.ggml.model"), "gpt2");
    ck_assert_str_eq(str_of(g, "tokenizer.ggml.pre"), "qwen2");
    ck_assert(!sg_gguf_find(g, "tokenizer.ggml.scores"));
    expect_merges(g, 5, (const char *const[]) { "\u0120 a", "a b", "b c", "a bc", "\u0120a b" });
    static const int types[VOCAB] = { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 4, 5, 5, 5, 5 };
    for (unsigned i = 0; i < VOCAB; i++) ck_assert_int_eq((int)number_of(g, "tokenizer.ggml.token_type", i), types[i]);
    ck_assert_str_eq(token_of(g, 8), "\u0120ab");
    ck_assert_str_eq(token_of(g, 10), "<|end|>");
    ck_assert_str_eq(token_of(g, 15), "[PAD15]");
    ck_assert(!bool_of(g, "tokenizer.ggml.add_bos_token"));
    ck_assert_uint_eq(u32_of(g, "tokenizer.ggml.eos_token_id"), 10);
    ck_assert_uint_eq(u32_of(g, "tokenizer.ggml.padding_token_id"), 11);
    ck_assert_str_eq(str_of(g, "tokenizer.chat_template"), "D");
    ck_assert_msg(strstr(logged.data, "token 99 (<far>) is left out") != NULL, "log: %s", logged.data);
    sg_gguf_close(&g);
}
END_TEST

/* vocab.json and merges.txt, without a tokenizer.json. */
START_TEST(older_form) {
    write_llama_folder();
    unlink(in_dir("tokenizer.json"));
    write_text("vocab.json", "{\"a\":0,\"b\":1,\"c\":2,\"ab\":3,\"</s>\":4,\"abc\":5}");
    write_text("merges.txt", "#version: 0.2\na b\r\nab c");
    write_text("tokenizer_config.json", "{\"tokenizer_class\":\"GPT2Tokenizer\",\"bos_token\":{\"content\":\"</s>\"},\"add_bos_token\":true,"
                                        "\"added_tokens_decoder\":{\"7\":{\"content\":\"<x>\",\"special\":true}}}");
    sg_gguf *g = converted(dir.path, NULL);
    ck_assert_str_eq(str_of(g, "tokenizer.ggml.model"), "gpt2");
    ck_assert_str_eq(str_of(g, "tokenizer.ggml.pre"), "gpt-2");
    const sg_gguf_kv *merges = sg_gguf_find(g, "tokenizer.ggml.merges");
    ck_assert(merges && merges->n == 2);
    ck_assert_str_eq(merges->strings[0].text, "a b");
    ck_assert_str_eq(merges->strings[1].text, "ab c");
    ck_assert_uint_eq(u32_of(g, "tokenizer.ggml.bos_token_id"), 4);
    ck_assert(bool_of(g, "tokenizer.ggml.add_bos_token"));
    ck_assert_int_eq((int)number_of(g, "tokenizer.ggml.token_type", 4), 3);
    ck_assert_int_eq((int)number_of(g, "tokenizer.ggml.token_type", 3), 1);
    ck_assert_str_eq(token_of(g, 7), "<x>");
    sg_gguf_close(&g);
    unlink(in_dir(OUT));
    static const char *const wrong[][2] = { { "merges.txt", "a b c" }, { "merges.txt", "a\xff b" }, { "vocab.json", "{\"a\":-1}" },
                                            { "vocab.json", "[" }, { "vocab.json", "{\"a\":0,\"b\":0}" } };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        write_text("vocab.json", "{\"a\":0,\"b\":1}");
        write_text("merges.txt", "");
        write_text(wrong[i][0], wrong[i][1]);
        ck_assert_int_eq(convert(dir.path, NULL, NULL), SG_E_FORMAT);
    }
    write_text("tokenizer_config.json", "{\"tokenizer_class\":\"Qwen2Tokenizer\"}");
    ck_assert_int_eq(convert(dir.path, NULL, NULL), SG_E_UNSUPPORTED);
}
END_TEST

#define SPLIT(regex) "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex "\"}},"
#define CL100K(digits)                                                                                                 \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|" digits                                     \
    "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
static const struct {
    const char *stages, *model, *pre; /* pre NULL: refused */
} pres[] = {
    { "", "", "gpt-2" },
    { "{\"type\":\"Digits\",\"individual_digits\":true},", "", "smollm" },
    { SPLIT(CL100K("\\\\p{N}{1,3}")), "\"ignore_merges\":true,", "llama-bpe" },
    { SPLIT(CL100K("\\\\p{N}{1,3}")), "", "smaug-bpe" },
    { SPLIT(CL100K("\\\\p{N}")), "", "qwen2" },
    { SPLIT("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?[\\\\p{L}\\\\p{M}]+|\\\\p{N}| ?[^\\\\s\\\\p{L}\\\\p{M}\\\\p{N}]+[\\\\r\\\\n]*"
            "|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"),
      "", "qwen35" },
    /* deepseek-llm, its letters shortened; and with something else after them */
    { SPLIT("[\\r\\n]") SPLIT("\\\\s?[A-Za-z\u00b5\u00c0-\u00d6]+") SPLIT("\\\\s?[!-/:-~\uff01-\uff0f]+") SPLIT("\\\\s+$")
          SPLIT("[\u4e00-\u9fa5\u0800-\u4e00]+") "{\"type\":\"Digits\",\"individual_digits\":true},",
      "", "deepseek-llm" },
    { SPLIT("[\\r\\n]") SPLIT("\\\\s?[A-Za-z\u00b5\u00c0-\u00d6]+") SPLIT("\\\\s?[!-/:-~\uff01-\uff0f]+") SPLIT("\\\\s+$")
          SPLIT("[\u4e00-\u9fa5\u0800-\u4e00]+") "{\"type\":\"Digits\",\"individual_digits\":false},",
      "", NULL },
    { "{\"type\":\"Punctuation\",\"behavior\":\"Isolated\"},", "", NULL },
    { "{\"type\":\"Digits\",\"individual_digits\":false},", "", NULL },
    { SPLIT("[0-9]+"), "", NULL },
};

START_TEST(pre_tokenizers) {
    sg_str s = { 0 };
    sg_str_printf(
        &s,
        "{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[%s{\"type\":\"ByteLevel\",\"add_prefix_space\":"
        "false%s}]},\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},"
        "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"c\"}},{\"Sequence\":{\"id\":\"A\"}}]}"
        "]},"
        "\"model\":{\"type\":\"BPE\",%s\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"ab\":3},\"merges\":[\"a b\"]}}",
        pres[_i].stages, strstr(pres[_i].stages, "Split") ? ",\"use_regex\":false" : "", pres[_i].model);
    write_llama_folder();
    write_str("tokenizer.json", s);
    if (!pres[_i].pre) {
        ck_assert_int_eq(convert(dir.path, NULL, NULL), SG_E_UNSUPPORTED);
        return;
    }
    sg_gguf *g = converted(dir.path, NULL);
    ck_assert_str_eq(str_of(g, "tokenizer.ggml.pre"), pres[_i].pre);
    ck_assert(bool_of(g, "tokenizer.ggml.add_bos_token"));
    ck_assert_uint_eq(u32_of(g, "tokenizer.ggml.bos_token_id"), 2);
    ck_assert_uint_eq(u32_of(g, "tokenizer.ggml.eos_token_id"), 2); /* the first of config.json's list */
    sg_gguf_close(&g);
}
END_TEST

START_TEST(with_byte_fallback) {
    write_llama_folder();
    write_text("chat_template.jinja", "J");
    sg_gguf *g = converted(dir.path, NULL);
    ck_assert_str_eq(str_of(g, "tokenizer.ggml.model"), "llama");
    ck_assert(!sg_gguf_find(g, "tokenizer.ggml.merges"));
    static const int types[VOCAB] = { 2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1, 1, 1, 4, 5, 5 };
    for (unsigned i = 0; i < VOCAB; i++) ck_assert_int_eq((int)number_of(g, "tokenizer.ggml.token_type", i), types[i]);
    /* minus the place of the first merge that makes the piece: "▁ab" is made by merges 2 and 3; letters by none */
    ck_assert(number_of(g, "tokenizer.ggml.scores", 9) == 0 && number_of(g, "tokenizer.ggml.scores", 10) == -1);
    ck_assert(number_of(g, "tokenizer.ggml.scores", 11) == -2 && number_of(g, "tokenizer.ggml.scores", 12) == -4);
    ck_assert(number_of(g, "tokenizer.ggml.scores", 6) == -6);
    ck_assert(bool_of(g, "tokenizer.ggml.add_bos_token") && bool_of(g, "tokenizer.ggml.add_space_prefix"));
    ck_assert(!bool_of(g, "tokenizer.ggml.add_eos_token"));
    ck_assert_uint_eq(u32_of(g, "tokenizer.ggml.bos_token_id"), 1);
    ck_assert_uint_eq(u32_of(g, "tokenizer.ggml.eos_token_id"), 2);
    ck_assert_str_eq(str_of(g, "tokenizer.chat_template"), "J");
    sg_gguf_close(&g);
}
END_TEST

/* ---- SentencePiece ------------------------------------------------------------------------------------------------
 */

static void put_message(sg_str *s, unsigned field, const sg_str *body) {
    ck_assert(body->len < 128);
    const char head[2] = { (char)(field << 3 | 2), (char)body->len };
    sg_str_append(s, head, 2);
    sg_str_append(s, body->data, body->len);
}

static void put_piece(sg_str *s, const char *text, float score, int type) {
    sg_str body = { 0 };
    const sg_str t = { .data = (char *)text, .len = strlen(text) };
    put_message(&body, 1, &t);
    sg_str_append(&body, "\x15", 1);
    sg_str_append(&body, (const char *)&score, 4);
    const char kind[2] = { 0x18, (char)type };
    if (type != 1) sg_str_append(&body, kind, 2);
    put_message(s, 1, &body);
    free(body.data);
}

static sg_str make_spm(int model_type, bool dummy_prefix) {
    sg_str s = { 0 }, trainer = { 0 }, normalizer = { 0 };
    put_piece(&s, "<unk>", 0, 2);
    put_piece(&s, "<s>", 0, 3);
    put_piece(&s, "</s>", 0, 3);
    put_piece(&s, "<0x41>", 0, 6);
    put_piece(&s, "\u2581a", -1.5f, 1);
    put_piece(&s, "<tool>", 0, 4);
    put_piece(&s, "old", 0, 5);
    const char type[2] = { 0x18, (char)model_type };
    sg_str_append(&trainer, type, 2);
    sg_str_append(&trainer, "\xc8\x02\x01", 3);                                      /* 41: bos_id = 1 */
    sg_str_append(&trainer, "\xd8\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12); /* 43: pad_id = -1 */
    put_message(&s, 2, &trainer);
    const char prefix[2] = { 0x18, (char)dummy_prefix };
    sg_str_append(&normalizer,
                  "\x0a\x03"
                  "nfk",
                  5);
    sg_str_append(&normalizer, prefix, 2);
    put_message(&s, 3, &normalizer);
    free(trainer.data);
    free(normalizer.data);
    return s;
}

START_TEST(sentencepiece) {
    write_llama_folder();
    write_str("tokenizer.model", make_spm(2, _i)); /* is preferred to tokenizer.json, which adds <tool> as 13 */
    sg_gguf *g = converted(dir.path, NULL);
    ck_assert_str_eq(str_of(g, "tokenizer.ggml.model"), "llama");
    static const int types[VOCAB] = { 2, 3, 3, 6, 1, 4, 5, 5, 5, 5, 5, 5, 5, 4, 5, 5 };
    for (unsigned i = 0; i < VOCAB; i++) ck_assert_int_eq((int)number_of(g, "tokenizer.ggml.token_type", i), types[i]);
    ck_assert_str_eq(token_of(g, 4), "\u2581a");
    ck_assert_str_eq(token_of(g, 13), "<tool>");
    ck_assert(number_of(g, "tokenizer.ggml.scores", 4) == -1.5);
    ck_assert(bool_of(g, "tokenizer.ggml.add_space_prefix") == _i && bool_of(g, "tokenizer.ggml.add_bos_token"));
    ck_assert(!sg_gguf_find(g, "tokenizer.ggml.padding_token_id"));
    sg_gguf_close(&g);
}
END_TEST

START_TEST(added_tokens_decoder) {
    write_llama_folder();
    unlink(in_dir("tokenizer.json"));
    write_str("tokenizer.model", make_spm(2, true));
    write_text("tokenizer_config.json",
               "{\"added_tokens_decoder\":{\"8\":{\"content\":\"<|im_end|>\",\"special\":true}},"
               "\"eos_token\":\"<|im_end|>\",\"add_bos_token\":false}");
    sg_gguf *g = converted(dir.path, NULL);
    ck_assert_str_eq(token_of(g, 8), "<|im_end|>");
    ck_assert_int_eq((int)number_of(g, "tokenizer.ggml.token_type", 8), 3);
    ck_assert_uint_eq(u32_of(g, "tokenizer.ggml.eos_token_id"), 8);
    ck_assert(!bool_of(g, "tokenizer.ggml.add_bos_token"));
    sg_gguf_close(&g);
}
END_TEST

/* A checkpoint of llama2.c with the tokenizer files of others. */
START_TEST(named_tokenizer) {
    sg_convert_options o = SG_CONVERT_OPTIONS_INIT;
    write_str("m.bin", make_bin(0, true));
    write_str("x.model", make_spm(2, true));
    write_text("x.json", SPM_JSON);
    o.input = in_dir("m.bin");
    o.output = in_dir(OUT);
    o.tokenizer = in_dir(_i ? "x.json" : "x.model");
    sg_error err = { 0 };
    ck_assert_msg(sg_convert(&o, &err) == SG_OK, "%s", err.message);
    sg_gguf *g = NULL;
    ck_assert_int_eq(sg_gguf_open(in_dir(OUT), &g, &err), SG_OK);
    ck_assert_str_eq(token_of(g, _i ? 11 : 4), _i ? "\u2581ab" : "\u2581a");
    sg_gguf_close(&g);
}
END_TEST

START_TEST(sentencepiece_refused) {
    sg_error err = { 0 };
    write_llama_folder();
    write_str("tokenizer.model", make_spm(1, true));
    ck_assert_int_eq(convert(dir.path, NULL, &err), SG_E_UNSUPPORTED);
    ck_assert_msg(strstr(err.message, "only BPE") != NULL, "%s", err.message);
    sg_str whole = make_spm(2, true);
    const size_t normalizer = 9; /* a model without this last message is well-formed */
    for (size_t n = 1; n < whole.len; n++) {
        if (n == whole.len - normalizer) continue;
        unlink(in_dir(OUT));
        ck_assert(temp_write(in_dir("tokenizer.model"), whole.data, n));
        const sg_status status = convert(dir.path, NULL, &err);
        ck_assert_msg(status == SG_E_FORMAT || status == SG_E_UNSUPPORTED, "%zu bytes: %d", n, status);
        ck_assert_msg(strstr(err.message, "tokenizer.model") != NULL, "%s", err.message);
        ck_assert_uint_eq(temp_count(&dir), 4);
    }
    free(whole.data);
}
END_TEST

int main(void) {
    Suite *s = suite_create("convert_vocab");
    TCase *c = tcase_create("convert_vocab");
    tcase_add_checked_fixture(c, fixture_setup, fixture_teardown);
    tcase_add_test(c, byte_level);
    tcase_add_test(c, older_form);
    tcase_add_loop_test(c, pre_tokenizers, 0, sizeof pres / sizeof *pres);
    tcase_add_test(c, with_byte_fallback);
    tcase_add_loop_test(c, sentencepiece, 0, 2);
    tcase_add_test(c, added_tokens_decoder);
    tcase_add_loop_test(c, named_tokenizer, 0, 2);
    tcase_add_test(c, sentencepiece_refused);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
