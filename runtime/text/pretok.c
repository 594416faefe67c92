#include "runtime/text/pretok.h"

#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#define MAX_STAGES 6

/* The expressions are those of the models' published tokenizer.json files (pre_tokenizer: Split, Digits, Punctuation,
 * ByteLevel) on huggingface.co; the names and which models share an expression are those of llama.cpp
 * (src/llama-vocab.cpp). "default", which stands for no published model, is llama.cpp's. \s is spelled out as Unicode's
 * White_Space, because PCRE2's own \s also has U+180E. Every expression is linear on every text. */
#define WS "\\x{9}-\\x{D} \\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"
#define S "[" WS "]"
#define SPACES S "+(?=" S "|\\z)|" S "+" /* \s+(?!\S)|\s+ */
#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define SYMBOLS " ?[^" WS "\\p{L}\\p{N}]+"
#define NEWLINES S "*[\\r\\n]+"

/* https://github.com/openai/gpt-2/blob/master/src/encoder.py; also what ByteLevel(use_regex) stands for */
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+|" SYMBOLS "|" SPACES
/* cl100k of https://github.com/openai/tiktoken, as taken over by Llama 3; digits in groups or one by one */
#define CL100K(digits) CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "|" SYMBOLS "[\\r\\n]*|" NEWLINES "|" SPACES
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
/* o200k of tiktoken; Tekken has no contractions and single digits */
#define O200K(suffix, digits)                                                                                          \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" suffix "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" suffix           \
    "|" digits "|" SYMBOLS "[\\r\\n/]*|" NEWLINES "|" SPACES
#define QWEN35                                                                                                         \
    CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^" WS "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" NEWLINES      \
                "|" SPACES
/* Ling / Bailing */
#define BAILING                                                                                                        \
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^" WS "\\p{L}\\p{N}]++[\\r\\n]*|" S                \
    "*[\\r\\n]|" SPACES
#define SEED CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^" WS "\\p{L}\\p{N}\\r\\n]+|" NEWLINES "|" SPACES
#define DEEPSEEK3                                                                                                      \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"                \
    "| ?[\\p{P}\\p{S}]+[\\r\\n]*|" NEWLINES "|" SPACES
/* DeepSeek LLM: letters with case */
#define CASED                                                                                                          \
    "A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}\\x{1C4}-\\x{293}\\x{295}-\\x{2AF}"   \
    "\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}\\x{386}\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}"     \
    "\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}"       \
    "\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{"    \
    "1D9A}"                                                                                                            \
    "\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{"     \
    "1F5B}"                                                                                                            \
    "\\x{1F5D}\\x{1F5F}-\\x{1F7D}\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}\\x{1FC6}-\\x{"     \
    "1FCC}"                                                                                                            \
    "\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{"     \
    "2107}"                                                                                                            \
    "\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}\\x{2126}\\x{2128}\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}" \
    "\\x{2139}\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}" \
    "\\x{2CEB}-\\x{2CEE}\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}\\x{A771}-\\x{"     \
    "A787}"                                                                                                            \
    "\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{"    \
    "FF5A}"                                                                                                            \
    "\\x{10400}-\\x{1044F}\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}"        \
    "\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}"
/* BLOOM and its relatives: everything up to a space or one of these marks */
#define BLOOM " ?[^(" WS "|.,!?\\x{2026}\\x{3002}\\x{FF0C}\\x{3001}\\x{964}\\x{6D4}\\x{60C})]+"
#define PUNCTUATION "[\\p{P}\\$\\+<=>\\^~\\|`]+"

enum { IGNORE_MERGES = 1, ADD_BOS = 2 };

typedef struct scheme {
    const char *names; /* separated and surrounded by blanks */
    unsigned flags;
    const char *stages[MAX_STAGES]; /* applied one after the other, NULL ends */
} scheme;

static const scheme schemes[] = {
    { " default ", 0, { "[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]" } },
    { " gpt-2 phi-2 gigachat mellum a.x-4.0 modern-bert exaone4 mpt olmo jais trillion granite-docling jina-es jina-de "
      "jina-v1-en jina-v2-es jina-v2-de jina-v2-code roberta-bpe ",
      0,
      { GPT2 } },
    { " llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano ",
      IGNORE_MERGES | ADD_BOS,
      { CL100K("\\p{N}{1,3}") } },
    { " dbrx smaug-bpe chatglm-bpe glm4 ", 0, { CL100K("\\p{N}{1,3}") } },
    { " qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2 ", 0, { CL100K("\\p{N}") } },
    { " qwen35 ", 0, { QWEN35 } },
    { " starcoder refact command-r smollm codeshell exaone minerva-7b mellum2 ", 0, { "\\p{N}", GPT2 } },
    { " falcon ", 0, { PUNCTUATION, GPT2, "[0-9][0-9][0-9]" } },
    { " gpt-4o llama4 kanana2 talkie minimax-m2 ", 0, { O200K(CONTRACTION "?", "\\p{N}{1,3}") } },
    { " tekken ", IGNORE_MERGES | ADD_BOS, { O200K("", "\\p{N}") } },
    { " deepseek-v3 hunyuan-dense joyai-llm ",
      0,
      { "\\p{N}{1,3}", "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+", DEEPSEEK3 } },
    /* the last white space of a piece: the look-behind and ++ keep the published \s+$ linear */
    { " deepseek-llm ",
      0,
      { "[\\r\\n]", S "?[" CASED "]+",
        S "?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}]+",
        "(?<!" S ")" S "++\\z", "[\\x{4E00}-\\x{9FA5}\\x{800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+", "\\p{N}+" } },
    { " deepseek-coder ",
      0,
      { "[\\r\\n]", S "?\\p{L}+", S "?\\p{P}+", "[\\x{4E00}-\\x{9FA5}\\x{800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+",
        "\\p{N}" } },
    { " poro-chat bloom gpt3-finnish ", 0, { BLOOM } },
    { " viking ", 0, { BLOOM, "\\p{N}" } },
    { " bailingmoe bailingmoe2 llada-moe ", 0, { BAILING } },
    { " seed-coder ", 0, { SEED } },
};

struct sg_pretok {
    unsigned flags;
    size_t n;
    pcre2_code *code[MAX_STAGES];
};

static const scheme *find_scheme(const char *name) {
    const size_t len = strlen(name);
    if (len == 0 || strchr(name, ' ')) return NULL;
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++)
        for (const char *at = schemes[i].names; (at = strstr(at, name)); at++)
            if (at[-1] == ' ' && at[len] == ' ') return &schemes[i];
    return NULL;
}

bool sg_pretok_known(const char *name) { return find_scheme(name) != NULL; }
bool sg_pretok_ignores_merges(const sg_pretok *p) { return p->flags & IGNORE_MERGES; }
bool sg_pretok_adds_bos(const sg_pretok *p) { return p->flags & ADD_BOS; }

void sg_pretok_destroy(sg_pretok **p) {
    if (!*p) return;
    for (size_t i = 0; i < (*p)->n; i++) pcre2_code_free((*p)->code[i]);
    free(*p);
    *p = NULL;
}

sg_status sg_pretok_create(const char *name, const sg_log *log, sg_pretok **out, sg_error *err) {
    *out = NULL;
    const scheme *s = find_scheme(name);
    if (!s) {
        sg_log_line(log, SG_LOG_WARN,
                    "tokenizer.ggml.pre '%.64s' is not known; text is cut as for 'default', which may be wrong", name);
        s = &schemes[0];
    }
    sg_pretok *p = calloc(1, sizeof *p);
    if (!p) return sg_fail(err, SG_E_NOMEM, "out of memory for the tokenizer");
    p->flags = s->flags;
    for (; p->n < MAX_STAGES && s->stages[p->n]; p->n++) {
        int code = 0;
        PCRE2_SIZE at = 0;
        p->code[p->n] =
            pcre2_compile((PCRE2_SPTR)s->stages[p->n], PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
        if (!p->code[p->n]) {
            sg_pretok_destroy(&p);
            return sg_fail(err, code == PCRE2_ERROR_NOMEMORY ? SG_E_NOMEM : SG_E_INTERNAL,
                           "expression for tokenizer.ggml.pre '%.64s' is not accepted by PCRE2 (error %d at %zu)", name,
                           code, at);
        }
        (void)pcre2_jit_compile(p->code[p->n], PCRE2_JIT_COMPLETE); /* without it the same matches are found, slower */
    }
    *out = p;
    return SG_OK;
}

static sg_status put(sg_pretok_work *w, size_t start, size_t len, sg_error *err) {
    if (len == 0) return SG_OK;
    if (w->n_next == w->next_cap) {
        const size_t cap = w->next_cap ? w->next_cap + w->next_cap / 2 : 64;
        sg_span *p = realloc(w->next, cap * sizeof *p);
        if (!p) return sg_fail(err, SG_E_NOMEM, "out of memory for cutting text into words");
        w->next = p;
        w->next_cap = cap;
    }
    w->next[w->n_next++] = (sg_span) { start, len };
    return SG_OK;
}

static int match(const pcre2_code *code, const char *s, size_t n, size_t from, pcre2_match_data *data,
                 pcre2_match_context *context) {
    int rc = pcre2_match(code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK, data, context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data, context);
    return rc;
}

/* Cuts one piece: matches and gaps become pieces of the next stage. */
static sg_status cut(const pcre2_code *code, const char *text, sg_span piece, pcre2_match_data *data,
                     pcre2_match_context *context, sg_pretok_work *w, sg_error *err) {
    const char *s = text + piece.start;
    size_t done = 0;
    while (done < piece.len) {
        const int rc = match(code, s, piece.len, done, data, context);
        if (rc == PCRE2_ERROR_NOMEMORY) return sg_fail(err, SG_E_NOMEM, "out of memory for cutting text into words");
        if (rc < 0) break; /* no more matches, or a limit was hit: the rest stays whole */
        const PCRE2_SIZE *o = pcre2_get_ovector_pointer(data);
        if (o[1] <= o[0]) break; /* no expression here matches nothing */
        SG_TRY(put(w, piece.start + done, o[0] - done, err));
        SG_TRY(put(w, piece.start + o[0], o[1] - o[0], err));
        done = o[1];
    }
    return put(w, piece.start + done, piece.len - done, err);
}

static void swap(sg_pretok_work *w) {
    sg_span *const spans = w->spans;
    const size_t cap = w->cap;
    w->spans = w->next;
    w->n = w->n_next;
    w->cap = w->next_cap;
    w->next = spans;
    w->next_cap = cap;
    w->n_next = 0;
}

sg_status sg_pretok_split(const sg_pretok *p, const char *text, size_t n, sg_pretok_work *w, sg_error *err) {
    w->n_next = 0;
    SG_TRY(put(w, 0, n, err));
    swap(w);
    sg_status st = SG_OK;
    pcre2_match_data *data = pcre2_match_data_create(1, NULL);
    pcre2_match_context *context = pcre2_match_context_create(NULL);
    if (!data || !context) {
        st = sg_fail(err, SG_E_NOMEM, "out of memory for cutting text into words");
        goto done;
    }
    /* one match may look at its whole piece a few times, so the limit grows with the text */
    pcre2_set_match_limit(context, (uint32_t)(n < UINT32_MAX / 16 ? 1000000 + 8 * n : UINT32_MAX));
    for (size_t stage = 0; stage < p->n && st == SG_OK; stage++) {
        for (size_t i = 0; i < w->n && st == SG_OK; i++)
            st = cut(p->code[stage], text, w->spans[i], data, context, w, err);
        swap(w);
    }
done:
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
    return st;
}

void sg_pretok_work_free(sg_pretok_work *w) {
    free(w->spans);
    free(w->next);
    *w = (sg_pretok_work) { 0 };
}
