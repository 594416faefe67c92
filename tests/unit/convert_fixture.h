/* Small models in the forms that sg_convert reads, written into a folder of their own; and a look at what came out. */
#ifndef SG_TESTS_CONVERT_FIXTURE_H
#define SG_TESTS_CONVERT_FIXTURE_H

#include <check.h>
#include <math.h>

#include "io/gguf.h"
#include "neuron_engine/quant.h"
#include "runtime/base/mem.h"
#include "tests/io/temp.h"

#define OUT "out.gguf"

/* One model shape for all tests. Embedding and feed-forward rows are whole blocks of 32. */
enum {
    EMBD = 32,
    FF = 64,
    LAYERS = 2,
    HEADS = 4,
    KV = 2,
    HD = 8,
    QDIM = HEADS * HD,
    KDIM = KV * HD,
    VOCAB = 16,
    CTX = 24
};

static temp_dir dir;
static sg_str logged; /* lines of the log, each ended by a line feed */

static inline void fixture_setup(void) {
    temp_open(&dir);
    logged = (sg_str) { 0 };
    sg_str_append(&logged, "", 0);
}
static inline void fixture_teardown(void) {
    temp_close(&dir);
    free(logged.data);
}
static inline const char *in_dir(const char *name) { return temp_path(&dir, name); }
static inline void write_text(const char *name, const char *text) {
    ck_assert(temp_write(in_dir(name), text, strlen(text)));
}

/* Value i of tensor `seed`: exact in F32, F16 and BF16, and different from neighbour to neighbour. */
static inline float value(unsigned seed, uint64_t i) {
    return ((int)((i * 37 + seed * 11 + i / 255) % 255) - 127) / 64.0f;
}

/* ---- llama2.c -----------------------------------------------------------------------------------------------------
 */

static inline void put_values(sg_str *s, unsigned seed, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const float v = value(seed, i);
        sg_str_append(s, (const char *)&v, 4);
    }
}

/* int8 values and, for each `group`, a scale of (number of the group + 1) / 8. */
static inline void put_int8(sg_str *s, unsigned seed, size_t n, unsigned group) {
    for (size_t i = 0; i < n; i++) {
        const int8_t q = (int8_t)(value(seed, i) * 64);
        sg_str_append(s, (const char *)&q, 1);
    }
    for (size_t i = 0; i < n / group; i++) {
        const float scale = (float)(i + 1) / 8;
        sg_str_append(s, (const char *)&scale, 4);
    }
}

/* Seeds of the tensors; layer l adds 100 * l. */
enum {
    S_EMBD = 1,
    S_ANORM,
    S_Q,
    S_K,
    S_V,
    S_O,
    S_FNORM,
    S_GATE,
    S_DOWN,
    S_UP,
    S_NORM,
    S_OUT,
    S_QB,
    S_KB,
    S_VB,
    S_QN,
    S_KN
};
static const size_t sizes[] = { 0,    VOCAB *EMBD, EMBD,     QDIM *EMBD, KDIM *EMBD, KDIM *EMBD, EMBD *QDIM,
                                EMBD, FF *EMBD,    EMBD *FF, FF *EMBD,   EMBD,       VOCAB *EMBD };

static inline void put_kind(sg_str *s, int kind, unsigned layers, unsigned group) {
    for (unsigned l = 0; l < layers; l++) {
        if (group)
            put_int8(s, (unsigned)kind + 100 * l, sizes[kind], group);
        else
            put_values(s, (unsigned)kind + 100 * l, sizes[kind]);
    }
}

/* Version 0, 1 or 2 of the format; see runtime/convert/llama2c.c. */
static inline sg_str make_bin(unsigned version, bool tied) {
    sg_str s = { 0 };
    const int32_t p[7] = { EMBD, FF, LAYERS, HEADS, KV, version == 0 && !tied ? -VOCAB : VOCAB, CTX };
    const unsigned group = version == 2 ? 16 : 0;
    if (version > 0) {
        const uint32_t head[2] = { 0x616b3432, version }, size = group;
        const char flag = tied;
        sg_str_append(&s, (const char *)head, 8);
        sg_str_append(&s, (const char *)p, sizeof p);
        sg_str_append(&s, &flag, 1);
        sg_str_append(&s, (const char *)&size, 4);
        while (s.len < 256) sg_str_append(&s, "", 1);
        put_kind(&s, S_ANORM, LAYERS, 0);
        put_kind(&s, S_FNORM, LAYERS, 0);
        put_kind(&s, S_NORM, 1, 0);
        put_kind(&s, S_EMBD, 1, group);
        for (int kind = S_Q; kind <= S_O; kind++) put_kind(&s, kind, LAYERS, group);
        for (int kind = S_GATE; kind <= S_UP; kind++) put_kind(&s, kind, LAYERS, group);
    } else {
        sg_str_append(&s, (const char *)p, sizeof p);
        put_kind(&s, S_EMBD, 1, 0);
        for (int kind = S_ANORM; kind <= S_UP; kind++) put_kind(&s, kind, LAYERS, 0);
        put_kind(&s, S_NORM, 1, 0);
        put_values(&s, 99, CTX * HD); /* rotary tables that nobody needs */
    }
    if (!tied) put_kind(&s, S_OUT, 1, group);
    ck_assert(!s.failed);
    return s;
}

static const char *const bin_pieces[VOCAB] = {
    "<unk>", "\n<s>\n", "\n</s>\n", "<0x00>", "<0x0A>",   " ",  "a",  "b",
    "c",     " a",      "ab",       " ab",    "\xc3\xa9", " b", "bc", "abc"
};

static inline sg_str make_tokenizer_bin(void) {
    sg_str s = { 0 };
    const int32_t longest = 7;
    sg_str_append(&s, (const char *)&longest, 4);
    for (int i = 0; i < VOCAB; i++) {
        const float score = (float)-i;
        const int32_t len = (int32_t)strlen(bin_pieces[i]);
        sg_str_append(&s, (const char *)&score, 4);
        sg_str_append(&s, (const char *)&len, 4);
        sg_str_append(&s, bin_pieces[i], (size_t)len);
    }
    return s;
}

static inline void write_str(const char *name, sg_str s) {
    ck_assert(!s.failed && temp_write(in_dir(name), s.data, s.len));
    free(s.data);
}

/* ---- Hugging Face -------------------------------------------------------------------------------------------------
 */

typedef struct st_file {
    sg_str header, data;
} st_file;

/* rows == 0: a vector */
static inline void st_add(st_file *f, const char *name, const char *dtype, size_t rows, size_t cols, unsigned seed) {
    const size_t n = (rows ? rows : 1) * cols, begin = f->data.len;
    for (size_t i = 0; i < n; i++) {
        const float v = value(seed, i);
        const uint16_t h = strcmp(dtype, "BF16") == 0 ? sg_f32_to_bf16(v) : sg_f32_to_f16(v);
        if (strcmp(dtype, "F32") == 0)
            sg_str_append(&f->data, (const char *)&v, 4);
        else
            sg_str_append(&f->data, (const char *)&h, 2);
    }
    char shape[64];
    if (rows)
        snprintf(shape, sizeof shape, "[%zu,%zu]", rows, cols);
    else
        snprintf(shape, sizeof shape, "[%zu]", cols);
    sg_str_printf(&f->header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
                  f->header.len ? "," : "{", name, dtype, shape, begin, f->data.len);
}

static inline void st_write(st_file *f, const char *name) {
    sg_str s = { 0 };
    sg_str_puts(&f->header, "}");
    const uint64_t n = f->header.len;
    sg_str_append(&s, (const char *)&n, 8);
    sg_str_append(&s, f->header.data, f->header.len);
    sg_str_append(&s, f->data.data, f->data.len);
    write_str(name, s);
    free(f->header.data);
    free(f->data.data);
    *f = (st_file) { 0 };
}

typedef struct hf_shape {
    const char *dtype;
    bool bias, qk_norm, lm_head;
} hf_shape;

static inline void st_add_layer(st_file *f, unsigned l, const hf_shape *h) {
    const struct {
        const char *name;
        size_t rows, cols;
        unsigned seed;
        bool there;
    } all[] = {
        { "input_layernorm.weight", 0, EMBD, S_ANORM, true },
        { "self_attn.q_proj.weight", QDIM, EMBD, S_Q, true },
        { "self_attn.k_proj.weight", KDIM, EMBD, S_K, true },
        { "self_attn.v_proj.weight", KDIM, EMBD, S_V, true },
        { "self_attn.o_proj.weight", EMBD, QDIM, S_O, true },
        { "self_attn.q_proj.bias", 0, QDIM, S_QB, h->bias },
        { "self_attn.k_proj.bias", 0, KDIM, S_KB, h->bias },
        { "self_attn.v_proj.bias", 0, KDIM, S_VB, h->bias },
        { "self_attn.q_norm.weight", 0, HD, S_QN, h->qk_norm },
        { "self_attn.k_norm.weight", 0, HD, S_KN, h->qk_norm },
        { "post_attention_layernorm.weight", 0, EMBD, S_FNORM, true },
        { "mlp.gate_proj.weight", FF, EMBD, S_GATE, true },
        { "mlp.up_proj.weight", FF, EMBD, S_UP, true },
        { "mlp.down_proj.weight", EMBD, FF, S_DOWN, true },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char name[96];
        snprintf(name, sizeof name, "model.layers.%u.%s", l, all[i].name);
        if (all[i].there) st_add(f, name, h->dtype, all[i].rows, all[i].cols, all[i].seed + 100 * l);
    }
}

/* "shards": two files and an index; the second one holds layer 1 and the rest. */
static inline void write_weights(const hf_shape *h, bool shards) {
    st_file f = { 0 };
    st_add(&f, "model.embed_tokens.weight", h->dtype, VOCAB, EMBD, S_EMBD);
    st_add_layer(&f, 0, h);
    sg_str map = { 0 };
    if (shards) {
        for (const char *p = f.header.data; (p = strstr(p, "\"model."));) {
            const char *end = strchr(p + 1, '"');
            sg_str_printf(&map, "%.*s\":\"model-1.safetensors\",", (int)(end - p), p);
            p = end;
        }
        st_write(&f, "model-1.safetensors");
    }
    st_add_layer(&f, 1, h);
    st_add(&f, "model.norm.weight", h->dtype, 0, EMBD, S_NORM);
    if (h->lm_head) st_add(&f, "lm_head.weight", h->dtype, VOCAB, EMBD, S_OUT);
    if (!shards) {
        st_write(&f, "model.safetensors");
        return;
    }
    for (const char *p = f.header.data; (p = strchr(p, '"'));) { /* the names are the keys before an object */
        const char *end = strchr(p + 1, '"');
        if (strncmp(end, "\":{", 3) == 0) sg_str_printf(&map, "%.*s\":\"model-2.safetensors\",", (int)(end - p), p);
        p = end + 1;
    }
    st_write(&f, "model-2.safetensors");
    map.data[map.len - 1] = 0;
    sg_str index = { 0 };
    sg_str_printf(&index, "{\"metadata\":{\"total_size\":1},\"weight_map\":{%s}}", map.data);
    write_str("model.safetensors.index.json", index);
    free(map.data);
}

/* config.json; `more` is added before the rest, so that it can also replace a field. */
static inline void write_config(const char *arch, const char *more) {
    sg_str s = { 0 };
    sg_str_printf(
        &s,
        "{%s\"architectures\":[\"%s\"],\"hidden_size\":%d,\"intermediate_size\":%d,\"num_hidden_layers\":%d,"
        "\"num_attention_heads\":%d,\"num_key_value_heads\":%d,\"vocab_size\":%d,\"max_position_embeddings\":%d,"
        "\"rms_norm_eps\":1e-06,\"rope_theta\":500.0,\"hidden_act\":\"silu\",\"torch_dtype\":\"float32\","
        "\"bos_token_id\":1,\"eos_token_id\":[2,5]}",
        more, arch, EMBD, FF, LAYERS, HEADS, KV, VOCAB, CTX);
    write_str("config.json", s);
}

/* SentencePiece-like; the last two ids are left free. */
#define SPM_JSON                                                                                                       \
    "{\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\",\"special\":true},{\"id\":1,\"content\":\"<s>\",\"special\":"  \
    "true},"                                                                                                           \
    "{\"id\":2,\"content\":\"</s>\",\"special\":true},{\"id\":13,\"content\":\"<tool>\",\"special\":false}],"          \
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\u2581\"},"            \
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\u2581\"}]},\"pre_tokenizer\":null,"           \
    "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}" \
    "},"                                                                                                               \
    "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}]},"                                                                   \
    "\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"byte_fallback\":true,\"vocab\":{\"<unk>\":0,\"<s>\":1,\"</" \
    "s>\":2,"                                                                                                          \
    "\"<0x00>\":3,\"<0x0A>\":4,\"\u2581\":5,\"a\":6,\"b\":7,\"c\":8,\"\u2581a\":9,\"ab\":10,\"\u2581ab\":11,\"bc\":"   \
    "12},"                                                                                                             \
    "\"merges\":[\"\u2581 a\",\"a b\",\"\u2581 ab\",\"\u2581a b\",\"b c\"]}}"

/* Byte-level with the expression of Qwen2, merges as pairs. */
#define BYTES_JSON                                                                                                     \
    "{\"added_tokens\":[{\"id\":10,\"content\":\"<|end|>\",\"special\":true},"                                         \
    "{\"id\":11,\"content\":\"<think>\",\"special\":false},{\"id\":99,\"content\":\"<far>\",\"special\":true}],"       \
    "\"normalizer\":{\"type\":\"NFC\"},"                                                                               \
    "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"          \
    "\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}| "                                \
    "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*"                                                                          \
    "|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":\"Isolated\",\"invert\":false},"                      \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]},"                                       \
    "\"post_processor\":{\"type\":\"ByteLevel\"},"                                                                     \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"\u0120\":3,\"\u0120a\":4,\"ab\":5,\"bc\":6,"     \
    "\"abc\":7,"                                                                                                       \
    "\"\u0120ab\":8,\"d\":9},\"merges\":[[\"\u0120\",\"a\"],[\"a\",\"b\"],[\"b\",\"c\"],[\"a\",\"bc\"],[\"\u0120a\","  \
    "\"b\"]]}}"

/* A whole good folder. */
static inline void write_llama_folder(void) {
    write_config("LlamaForCausalLM", "");
    write_weights(&(hf_shape) { .dtype = "F32", .lm_head = true }, false);
    write_text("tokenizer.json", SPM_JSON);
}

/* ---- results ------------------------------------------------------------------------------------------------------
 */

static inline void on_log(void *user, sg_log_level level, const char *line) { sg_str_printf(&logged, "%s\n", line); }

static inline sg_status convert(const char *input, const char *type, sg_error *err) {
    sg_convert_options o = SG_CONVERT_OPTIONS_INIT;
    o.input = input;
    o.output = in_dir(OUT);
    o.type = type;
    o.log = on_log;
    return sg_convert(&o, err);
}

/* Converts and opens the result. */
static inline sg_gguf *converted(const char *input, const char *type) {
    sg_error err = { 0 };
    sg_gguf *g = NULL;
    ck_assert_msg(convert(input, type, &err) == SG_OK, "%s", err.message);
    ck_assert_msg(sg_gguf_open(in_dir(OUT), &g, &err) == SG_OK, "%s", err.message);
    return g;
}

/* The tensor as F32; free(). */
static inline float *tensor_values(const sg_gguf *g, const char *name, const sg_tensor_info **info) {
    const sg_tensor_info *t = sg_gguf_tensor(g, name);
    ck_assert_msg(t != NULL, "no tensor %s", name);
    size_t n = 0;
    uint8_t *file = temp_read(sg_gguf_path(g, t->file), &n);
    float *v = malloc(t->n_values * sizeof *v);
    ck_assert(file && v);
    sg_dequantize(t->type, file + t->offset, v, t->n_values);
    free(file);
    *info = t;
    return v;
}

/* ne1 == 0: a vector. Value (r, c) must be that of row `row(r)` of tensor `seed`, within `tolerance`. */
static inline void expect_rows(const sg_gguf *g, const char *name, size_t ne0, size_t ne1, unsigned seed,
                               size_t (*row)(size_t), float tolerance) {
    const sg_tensor_info *t;
    float *v = tensor_values(g, name, &t);
    ck_assert_uint_eq(t->ne[0], ne0);
    ck_assert_uint_eq(t->n_dims, ne1 ? 2 : 1);
    ck_assert_uint_eq(t->ne[1], ne1 ? ne1 : 1);
    const size_t rows = ne1 ? ne1 : ne0, cols = ne1 ? ne0 : 1;
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++) {
            const float want = value(seed, (row ? row(r) : r) * cols + c), got = v[r * cols + c];
            ck_assert_msg(fabsf(want - got) <= tolerance, "%s row %zu column %zu: %g, not %g", name, r, c, got, want);
        }
    free(v);
}

static inline uint32_t u32_of(const sg_gguf *g, const char *key) {
    uint32_t v = UINT32_MAX;
    ck_assert_int_eq(sg_gguf_get_u32(g, key, &v, NULL), SG_OK);
    return v;
}
static inline float f32_of(const sg_gguf *g, const char *key) {
    float v = -1;
    ck_assert_int_eq(sg_gguf_get_f32(g, key, &v, NULL), SG_OK);
    return v;
}
static inline const char *str_of(const sg_gguf *g, const char *key) {
    const char *v = "";
    ck_assert_int_eq(sg_gguf_get_str(g, key, &v, NULL), SG_OK);
    return v;
}
static inline bool bool_of(const sg_gguf *g, const char *key) {
    bool v = false;
    ck_assert_msg(sg_gguf_find(g, key) != NULL, "%s is missing", key);
    ck_assert_int_eq(sg_gguf_get_bool(g, key, &v, NULL), SG_OK);
    return v;
}
static inline const char *token_of(const sg_gguf *g, unsigned id) {
    const sg_gguf_kv *kv = sg_gguf_find(g, "tokenizer.ggml.tokens");
    ck_assert(kv && kv->n == VOCAB);
    return kv->strings[id].text;
}
static inline double number_of(const sg_gguf *g, const char *key, unsigned i) {
    const sg_gguf_kv *kv = sg_gguf_find(g, key);
    ck_assert(kv && i < kv->n);
    return sg_gguf_kv_number(kv, i);
}

#endif
