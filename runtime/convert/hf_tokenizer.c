/* tokenizer.json of the Hugging Face "tokenizers" library, model type BPE, in its two forms:
 *   byte-level (pre_tokenizer ByteLevel)          -> "gpt2": tokens, merges and the name of the pre-tokenizer
 *   with byte fallback (converted SentencePiece)  -> "llama": tokens and scores, which follow the order of the merges
 * Format: https://github.com/huggingface/tokenizers, documentation of the components. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/utf8.h"
#include "runtime/convert/file.h"
#include "runtime/convert/hf_vocab.h"
#include "runtime/text/vocab.h"

#define MAX_FILE (128u << 20)
#define GPT2_WORDS "<byte-level>" /* stands for ByteLevel with use_regex in a list of stages */

#define PUNCTUATION "<punctuation>"    /* stands for Punctuation that keeps runs together */
#define ANY "\001"                     /* stands for any text, where an expression lists thousands of letters */

/* Expressions of published tokenizer.json files (Meta-Llama-3-8B, Qwen2-7B, Qwen3.5, Mistral-Nemo, gpt-oss-20b, DeepSeek-V3,
 * deepseek-llm-7b, falcon-7b, granite-3.0) and the names that llama.cpp gave them. Stages are separated by line feeds. */
#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define REST "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" ENDS
#define ENDS "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CASES(suffix) \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" suffix "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" suffix
static const struct {
    const char *stages;
    const char *pre, *pre_ignoring_merges; /* the second when model.ignore_merges is set */
} pre_names[] = {
    { GPT2_WORDS, "gpt-2", "gpt-2" },
    { CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}" REST, "smaug-bpe", "llama-bpe" },
    { CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" REST, "qwen2", "qwen2" },
    { CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*" ENDS, "qwen35", "qwen35" },
    { "\\p{N}\n" GPT2_WORDS, "smollm", "smollm" },
    { CASES("") "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" ENDS, "tekken", "tekken" },
    { CASES(CONTRACTIONS "?") "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" ENDS, "gpt-4o", "gpt-4o" },
    { "\\p{N}{1,3}\n[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+\n"
      "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*" ENDS,
      "deepseek-v3", "deepseek-v3" },
    { "[\r\n]\n\\s?[A-Za-z\u00b5" ANY "]+\n\\s?[!-/:-~" ANY "]+\n\\s+$\n[\u4e00-\u9fa5" ANY "]+\n\\p{N}", "deepseek-llm", "deepseek-llm" },
    { PUNCTUATION "\n" GPT2_WORDS "\n\\p{N}+\n[0-9][0-9][0-9]", "falcon", "falcon" },
};
static const char known_pre[] = "gpt-2, llama-3, qwen2, qwen35, smollm, tekken, gpt-4o, deepseek-v3, deepseek-llm, falcon";

/* `pattern` is `text`; ANY in it stands for whatever there is up to what follows it. */
static bool fits(const char *pattern, const char *text) {
    for (;;) {
        const size_t n = strcspn(pattern, ANY);
        if (strncmp(pattern, text, n) != 0) return false;
        pattern += n;
        text += n;
        if (!*pattern) return !*text;
        char next[64]; /* what follows ANY, which does not occur in the lists */
        pattern++;
        snprintf(next, sizeof next, "%.*s", (int)strcspn(pattern, ANY), pattern);
        if (!(text = strstr(text, next))) return false;
    }
}

typedef struct tokenizer {
    sg_conv_vocab *v;
    const char *path;
    const cJSON *root, *model;
    const sg_log *log;
} tokenizer;

static bool is_type(const cJSON *part, const char *type) {
    const char *t = sg_json_str(part, "type");
    return t && strcmp(t, type) == 0;
}

/* The parts of a component: itself, or the list inside a Sequence. *i is 0 at the beginning; NULL ends. */
static const cJSON *next_part(const cJSON *component, const char *list, const cJSON **at) {
    if (!component) return NULL;
    if (!is_type(component, "Sequence")) {
        const cJSON *first = *at ? NULL : component;
        *at = component;
        return first;
    }
    const cJSON *items = sg_json_get(component, list);
    if (!cJSON_IsArray(items)) return NULL;
    *at = *at ? (*at)->next : items->child;
    return *at;
}

static bool has_part(const cJSON *component, const char *list, const char *type) {
    const cJSON *at = NULL, *part;
    while ((part = next_part(component, list, &at)))
        if (is_type(part, type)) return true;
    return false;
}

/* ---- vocabulary ---------------------------------------------------------------------------------------------------
 */

static sg_status read_tokens(tokenizer *t, sg_error *err) {
    const cJSON *vocab = sg_json_get(t->model, "vocab"), *e;
    const char *unk = sg_json_str(t->model, "unk_token");
    if (!cJSON_IsObject(vocab)) return sg_fail(err, SG_E_FORMAT, "%s: model.vocab is missing or no object", t->path);
    cJSON_ArrayForEach(e, vocab) {
        const double id = cJSON_IsNumber(e) ? e->valuedouble : -1;
        if (!(id >= 0 && id < t->v->n) || id != (double)(uint32_t)id)
            return sg_fail(err, SG_E_FORMAT, "%s: token \"%.60s\" has no id below %u, the rows of the embedding",
                           t->path, e->string, t->v->n);
        const uint32_t i = (uint32_t)id;
        if (t->v->text[i]) return sg_fail(err, SG_E_FORMAT, "%s: two tokens have the id %u", t->path, i);
        int32_t type = SG_TOK_NORMAL;
        if (!t->v->byte_level && sg_byte_token(e->string, strlen(e->string)) >= 0) type = SG_TOK_BYTE;
        if (unk && strcmp(unk, e->string) == 0) {
            t->v->unk = (int32_t)i;
            if (!t->v->byte_level) type = SG_TOK_UNKNOWN;
        }
        if (!sg_conv_vocab_set(t->v, i, e->string, strlen(e->string), 0.0f, type))
            return sg_fail(err, SG_E_NOMEM, "%s: no memory", t->path);
    }
    return SG_OK;
}

/* One merge as "a b", allocated in s; it comes as that string or as a pair. */
static sg_status read_merge(const tokenizer *t, const cJSON *e, size_t i, sg_str *s, sg_error *err) {
    const char *a = NULL, *b = NULL, *text = cJSON_GetStringValue(e);
    if (cJSON_IsArray(e) && cJSON_GetArraySize(e) == 2) {
        a = cJSON_GetStringValue(cJSON_GetArrayItem(e, 0));
        b = cJSON_GetStringValue(cJSON_GetArrayItem(e, 1));
    }
    if (text)
        sg_str_puts(s, text);
    else if (a && b)
        sg_str_printf(s, "%s %s", a, b);
    else
        return sg_fail(err, SG_E_FORMAT, "%s: merge %zu is neither a string nor a pair of strings", t->path, i);
    if (s->failed) return sg_fail(err, SG_E_NOMEM, "%s: no memory", t->path);
    const char *blank = strchr(s->data, ' ');
    if (!blank || blank == s->data || !blank[1] || strchr(blank + 1, ' '))
        return sg_fail(err, SG_E_FORMAT, "%s: merge %zu (\"%.40s\") does not have two parts", t->path, i, s->data);
    return SG_OK;
}

static sg_status read_merges(tokenizer *t, sg_error *err) {
    const cJSON *merges = sg_json_get(t->model, "merges"), *e;
    if (!cJSON_IsArray(merges)) return sg_fail(err, SG_E_FORMAT, "%s: model.merges is missing or no list", t->path);
    const size_t n = (size_t)cJSON_GetArraySize(merges);
    t->v->merges = calloc(n + 1, sizeof *t->v->merges);
    if (!t->v->merges) return sg_fail(err, SG_E_NOMEM, "%s: no memory for %zu merges", t->path, n);
    cJSON_ArrayForEach(e, merges) {
        sg_str s = { 0 };
        const sg_status status = read_merge(t, e, t->v->n_merges, &s, err);
        if (status != SG_OK) {
            free(s.data);
            return status;
        }
        t->v->merges[t->v->n_merges++] = (sg_gguf_string) { s.data, s.len };
    }
    return SG_OK;
}

typedef struct entry {
    const char *text;
    uint32_t id;
} entry;
static int by_text(const void *a, const void *b) { return strcmp(((const entry *)a)->text, ((const entry *)b)->text); }

/* SentencePiece merges the pair whose piece has the best score; in tokenizer.json the earliest merge wins. So a piece
 * gets minus the place of its first merge, and a piece that no merge makes comes last. */
static sg_status scores_from_merges(tokenizer *t, sg_error *err) {
    sg_conv_vocab *v = t->v;
    entry *sorted = malloc(v->n * sizeof *sorted);
    if (!sorted) return sg_fail(err, SG_E_NOMEM, "%s: no memory", t->path);
    size_t n = 0;
    for (uint32_t i = 0; i < v->n; i++) {
        if (!v->text[i]) continue;
        if (v->types[i] == SG_TOK_NORMAL) v->scores[i] = -(float)(v->n_merges + 1);
        sorted[n++] = (entry) { v->text[i], i };
    }
    qsort(sorted, n, sizeof *sorted, by_text);
    sg_status status = SG_OK;
    for (size_t i = v->n_merges; i-- > 0;) { /* the first one of a piece is written last */
        char *joined = strdup(v->merges[i].text);
        if (!joined) {
            status = sg_fail(err, SG_E_NOMEM, "%s: no memory", t->path);
            break;
        }
        char *blank = strchr(joined, ' ');
        memmove(blank, blank + 1, strlen(blank));
        const entry key = { joined, 0 }, *found = bsearch(&key, sorted, n, sizeof *sorted, by_text);
        free(joined);
        if (!found) {
            status =
                sg_fail(err, SG_E_FORMAT, "%s: merge %zu (\"%.40s\") makes no token", t->path, i, v->merges[i].text);
            break;
        }
        v->scores[found->id] = -(float)i;
    }
    free(sorted);
    return status;
}

/* ---- what happens before and after ---------------------------------------------------------------------------------
 */

/* The stages that cut text into words, as a string to compare. */
static sg_status word_stages(const tokenizer *t, sg_str *out, sg_error *err) {
    const cJSON *at = NULL, *part;
    while ((part = next_part(sg_json_get(t->root, "pre_tokenizer"), "pretokenizers", &at))) {
        const char *regex = sg_json_str(sg_json_get(part, "pattern"), "Regex");
        const char *stage = NULL;
        bool flag = true;
        if (is_type(part, "Split") && regex) {
            stage = regex;
        } else if (is_type(part, "Digits")) {
            flag = false;
            SG_TRY(sg_json_bool(part, t->path, "individual_digits", &flag, err));
            stage = flag ? "\\p{N}" : "\\p{N}+";
        } else if (is_type(part, "Punctuation")) {
            const char *behaviour = sg_json_str(part, "behavior");
            if (!behaviour || strcmp(behaviour, "Contiguous") != 0)
                return sg_fail(err, SG_E_UNSUPPORTED, "%s: Punctuation that is not contiguous is not known", t->path);
            stage = PUNCTUATION;
        } else if (is_type(part, "ByteLevel")) {
            SG_TRY(sg_json_bool(part, t->path, "add_prefix_space", &flag, err));
            if (flag)
                return sg_fail(err, SG_E_UNSUPPORTED, "%s: ByteLevel with add_prefix_space is not known", t->path);
            flag = true;
            SG_TRY(sg_json_bool(part, t->path, "use_regex", &flag, err));
            stage = flag ? GPT2_WORDS : NULL;
        } else {
            const char *type = sg_json_str(part, "type");
            return sg_fail(err, SG_E_UNSUPPORTED, "%s: the pre-tokenizer %.40s is not known", t->path,
                           type ? type : "without type");
        }
        if (stage) sg_str_printf(out, "%s%s", out->len ? "\n" : "", stage);
    }
    if (out->failed) return sg_fail(err, SG_E_NOMEM, "%s: no memory", t->path);
    return SG_OK;
}

static sg_status choose_pre(tokenizer *t, sg_error *err) {
    bool ignore_merges = false;
    SG_TRY(sg_json_bool(t->model, t->path, "ignore_merges", &ignore_merges, err));
    sg_str stages = { 0 };
    sg_status status = word_stages(t, &stages, err);
    const char *pre = NULL, *text = stages.data ? stages.data : "";
    for (size_t i = 0; i < sizeof pre_names / sizeof *pre_names; i++)
        if (fits(pre_names[i].stages, text))
            pre = ignore_merges ? pre_names[i].pre_ignoring_merges : pre_names[i].pre;
    if (status == SG_OK && !pre)
        status = sg_fail(err, SG_E_UNSUPPORTED,
                         "%s: the pre-tokenizer \"%.200s\" is not known (%s)", t->path, text,
                         known_pre);
    if (pre) t->v->pre = pre;
    free(stages.data);
    return status;
}

/* Byte-level: NFC (Qwen) is left out, as llama.cpp does. SentencePiece: U+2581 in front and for spaces. */
static sg_status read_normalizer(tokenizer *t, sg_error *err) {
    const cJSON *at = NULL, *part;
    bool prefix = false;
    while ((part = next_part(sg_json_get(t->root, "normalizer"), "normalizers", &at))) {
        const char *type = sg_json_str(part, "type");
        if (t->v->byte_level && is_type(part, "NFC")) {
            sg_log_line(t->log, SG_LOG_INFO, "%s: Unicode normalisation NFC is left to the caller", t->path);
        } else if (!t->v->byte_level && is_type(part, "Prepend")) {
            prefix = true;
        } else if (t->v->byte_level || !is_type(part, "Replace")) {
            return sg_fail(err, SG_E_UNSUPPORTED, "%s: the normalizer %.40s is not known", t->path,
                           type ? type : "without type");
        }
    }
    at = NULL;
    while ((part = next_part(sg_json_get(t->root, "pre_tokenizer"), "pretokenizers", &at))) {
        if (!is_type(part, "Metaspace")) continue;
        const char *scheme = sg_json_str(part, "prepend_scheme");
        bool add = true;
        SG_TRY(sg_json_bool(part, t->path, "add_prefix_space", &add, err));
        prefix = prefix || (scheme ? strcmp(scheme, "never") != 0 : add);
    }
    t->v->add_space_prefix = prefix;
    return SG_OK;
}

/* TemplateProcessing: special tokens before and after the text. */
static void read_post_processor(tokenizer *t) {
    const cJSON *at = NULL, *part, *post = sg_json_get(t->root, "post_processor");
    t->v->add_bos = !post && !t->v->byte_level;
    while ((part = next_part(post, "processors", &at))) {
        const cJSON *single = sg_json_get(part, "single"), *e;
        if (!is_type(part, "TemplateProcessing") || !cJSON_IsArray(single)) continue;
        bool after = false;
        cJSON_ArrayForEach(e, single) {
            const char *id = sg_json_str(sg_json_get(e, "SpecialToken"), "id");
            if (!id) {
                after = true;
                continue;
            }
            *(after ? &t->v->add_eos : &t->v->add_bos) = true;
            *(after ? &t->v->eos : &t->v->bos) = sg_conv_vocab_find(t->v, id);
        }
    }
}

static sg_status read_model(tokenizer *t, sg_error *err) {
    t->model = sg_json_get(t->root, "model");
    if (!cJSON_IsObject(t->model)) return sg_fail(err, SG_E_FORMAT, "%s: has no \"model\"", t->path);
    const char *type = sg_json_str(t->model, "type");
    if (type && strcmp(type, "BPE") != 0)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: the tokenizer model %.40s is not known, only BPE", t->path, type);
    bool fallback = false;
    SG_TRY(sg_json_bool(t->model, t->path, "byte_fallback", &fallback, err));
    t->v->byte_level = has_part(sg_json_get(t->root, "pre_tokenizer"), "pretokenizers", "ByteLevel");
    if (!t->v->byte_level && !fallback)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: the BPE is neither byte-level nor has byte_fallback", t->path);
    SG_TRY(read_tokens(t, err));
    SG_TRY(read_merges(t, err));
    if (t->v->byte_level)
        SG_TRY(choose_pre(t, err));
    else
        SG_TRY(scores_from_merges(t, err));
    return read_normalizer(t, err);
}

sg_status sg_conv_vocab_add_token(sg_conv_vocab *v, double id, const cJSON *content, bool special, const char *path,
                                  const sg_log *log, sg_error *err) {
    const char *text = cJSON_GetStringValue(content);
    if (!text || !(id >= 0 && id < 4294967296.0) || id != (double)(uint32_t)id)
        return sg_fail(err, SG_E_FORMAT, "%s: an added token has no text or no valid id", path);
    if (id >= v->n) {
        sg_log_line(log, SG_LOG_WARN, "%s: token %u (%.60s) is left out, the model has %u rows", path, (uint32_t)id,
                    text, v->n);
        return SG_OK;
    }
    const uint32_t i = (uint32_t)id;
    int32_t type = special ? SG_TOK_CONTROL : SG_TOK_USER_DEFINED;
    if (v->text[i] && v->types[i] == SG_TOK_UNKNOWN) type = SG_TOK_UNKNOWN;
    if (!sg_conv_vocab_set(v, i, text, strlen(text), 0.0f, type))
        return sg_fail(err, SG_E_NOMEM, "%s: no memory", path);
    return SG_OK;
}

sg_status sg_conv_vocab_add_json_tokens(sg_conv_vocab *v, const cJSON *root, const char *path, const sg_log *log,
                                        sg_error *err) {
    const cJSON *e, *list = sg_json_get(root, "added_tokens");
    if (list && !cJSON_IsArray(list)) return sg_fail(err, SG_E_FORMAT, "%s: added_tokens is no list", path);
    cJSON_ArrayForEach(e, list) {
        const cJSON *id = sg_json_get(e, "id");
        bool special = false;
        SG_TRY(sg_json_bool(e, path, "special", &special, err));
        SG_TRY(sg_conv_vocab_add_token(v, cJSON_IsNumber(id) ? id->valuedouble : -1, sg_json_get(e, "content"), special,
                                       path, log, err));
    }
    return SG_OK;
}

sg_status sg_conv_vocab_read_hf_json(sg_conv_vocab *v, const char *path, const sg_log *log, sg_error *err) {
    cJSON *root = NULL;
    SG_TRY(sg_json_read(path, MAX_FILE, &root, err));
    tokenizer t = { .v = v, .path = path, .root = root, .log = log };
    sg_status status = read_model(&t, err);
    if (status == SG_OK) status = sg_conv_vocab_add_json_tokens(v, root, path, log, err);
    if (status == SG_OK) read_post_processor(&t);
    cJSON_Delete(root);
    return status;
}

/* Lines of merges.txt as a list of JSON strings; the first line may be a comment. */
static cJSON *merge_list(char *text) {
    cJSON *list = cJSON_CreateArray();
    for (char *line = text; list && *line;) {
        const size_t n = strcspn(line, "\n");
        const bool last = line[n] == 0;
        line[n] = 0;
        if (n && line[n - 1] == '\r') line[n - 1] = 0;
        cJSON *e = *line && strncmp(line, "#version", 8) != 0 ? cJSON_CreateString(line) : NULL;
        if (e && !cJSON_AddItemToArray(list, e)) cJSON_Delete(e);
        line += n + !last;
    }
    return list;
}

/* The older form of the same becomes the newer one: GPT-2's way to cut text is the only one that goes without saying. */
sg_status sg_conv_vocab_read_hf_pair(sg_conv_vocab *v, const char *vocab, const char *merges, const sg_log *log, sg_error *err) {
    cJSON *tokens = NULL;
    sg_str text = { 0 };
    sg_status status = sg_json_read(vocab, MAX_FILE, &tokens, err);
    if (status == SG_OK) status = sg_file_read(merges, MAX_FILE, &text, err);
    if (status == SG_OK && (memchr(text.data, 0, text.len) || sg_utf8_check(text.data, text.len) != text.len))
        status = sg_fail(err, SG_E_FORMAT, "%s: is no UTF-8 text", merges);
    if (status == SG_OK) {
        static const char before[] = "{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},\"model\":{\"type\":\"BPE\"}}";
        cJSON *root = cJSON_Parse(before), *list = merge_list(text.data), *model = cJSON_GetObjectItem(root, "model");
        if (model && list && cJSON_AddItemToObject(model, "merges", list)) list = NULL;
        if (model && !list && cJSON_AddItemToObject(model, "vocab", tokens)) tokens = NULL;
        tokenizer t = { .v = v, .path = vocab, .root = root, .log = log };
        status = list || tokens ? sg_fail(err, SG_E_NOMEM, "%s: no memory", vocab) : read_model(&t, err);
        cJSON_Delete(list);
        cJSON_Delete(root);
    }
    cJSON_Delete(tokens);
    free(text.data);
    return status;
}
