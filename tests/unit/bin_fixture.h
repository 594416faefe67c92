/* Small GGUF files to make a model.bin from, and a look at every neuron of what came out. */
#ifndef SG_TESTS_BIN_FIXTURE_H
#define SG_TESTS_BIN_FIXTURE_H

#include <fcntl.h>
#include <sys/wait.h>

#include "neuron_engine/bundle.h"
#include "runtime/convert/bin_writer.h"
#include "tests/io/expect.h"
#include "tests/unit/convert_fixture.h"

#define BIN "out.bin"

typedef struct shape {
    unsigned n_embd, n_ff, n_layer;
    sg_dtype gate, up, down; /* of the source */
    bool ungated;
    unsigned rank; /* of PowerInfer's predictors; 0: none */
    const char *powerinfer; /* architecture, or NULL: ordinary GGUF */
    unsigned first, end;    /* layers that go into this file, end 0: all */
    unsigned n_expert, n_dense; /* experts of n_ff neurons in all but the first n_dense layers */
    unsigned n_shared;          /* neurons of the shared experts there */
    unsigned dense_ff;          /* neurons of the dense layers then */
    bool biases, phi3;          /* phi3: gate and up in one matrix */
    unsigned split_no, split_count;
} shape;

/* ne2 0: a matrix; ne1 0: a vector. */
static inline void put_tensor3(sg_gguf_writer *w, const char *name, sg_dtype type, unsigned seed, unsigned ne0, unsigned ne1, unsigned ne2,
                               bool data) {
    const uint64_t ne[3] = { ne0, ne1, ne2 };
    if (!data) {
        sg_gguf_writer_tensor(w, name, type, ne2 ? 3 : ne1 ? 2 : 1, ne);
        return;
    }
    const size_t n = (size_t)ne0 * (ne1 ? ne1 : 1) * (ne2 ? ne2 : 1), bytes = sg_dtype_bytes(sg_dtype_get(type), n);
    float *v = malloc(n * sizeof *v);
    uint8_t *q = malloc(bytes);
    for (size_t i = 0; i < n; i++) v[i] = value(seed, i * 7 + i / ne0);
    if (type == SG_DTYPE_Q2_K) { /* any bytes, but finite scales: the last two halves of 84 bytes */
        for (size_t i = 0; i < bytes; i++) q[i] = i % 84 == 81 || i % 84 == 83 ? 0x2c : (uint8_t)(i * 151 + i / 256);
    } else {
        sg_quantize(type, v, q, n);
    }
    ok(sg_gguf_writer_data(w, q, bytes, err));
    free(v);
    free(q);
}

static inline void put_tensor(sg_gguf_writer *w, const char *name, sg_dtype type, unsigned seed, unsigned ne0, unsigned ne1, bool data) {
    put_tensor3(w, name, type, seed, ne0, ne1, 0, data);
}

static inline bool has_experts(const shape *s, unsigned layer) { return s->n_expert && layer >= s->n_dense; }
/* Neurons of a layer, or of an expert of it. */
static inline unsigned width_of(const shape *s, unsigned layer) {
    return s->n_expert && layer < s->n_dense ? s->dense_ff : s->n_ff;
}

/* The matrices of one unit, and its biases. */
static inline void put_unit(sg_gguf_writer *w, const shape *s, unsigned l, const char *end, unsigned seed, unsigned n_ff, unsigned experts,
                            bool data) {
    static const char *const stems[] = { "ffn_up", "ffn_down", "ffn_gate" };
    const sg_dtype types[] = { s->up, s->down, s->gate };
    char name[64];
    for (unsigned i = 0; i < (s->ungated || s->phi3 ? 2 : 3); i++) {
        const unsigned out = i == 1 ? s->n_embd : s->phi3 && i == 0 ? 2 * n_ff : n_ff;
        snprintf(name, sizeof name, "blk.%u.%s%s.weight", l, stems[i], end);
        put_tensor3(w, name, types[i], seed + i + 10 * l, i == 1 ? n_ff : s->n_embd, out, experts, data);
        if (!s->biases) continue;
        snprintf(name, sizeof name, "blk.%u.%s%s.bias", l, stems[i], end);
        put_tensor3(w, name, SG_DTYPE_F32, seed + i + 5 + 10 * l, out, experts, 0, data);
    }
}

static inline void put_tensors(sg_gguf_writer *w, const shape *s, bool data) {
    char name[64];
    const unsigned end = s->end ? s->end : s->n_layer;
    if (s->first == 0) put_tensor(w, "token_embd.weight", SG_DTYPE_Q8_0, 1, 32, 70, data);
    for (unsigned l = s->first; l < end; l++) {
#define PUT(stem, type, seed, ne0, ne1)                                                                                \
    snprintf(name, sizeof name, "blk.%u." stem ".weight", l);                                                          \
    put_tensor(w, name, type, (seed) + 10 * l, ne0, ne1, data)
        PUT("attn_norm", SG_DTYPE_F32, 3, s->n_embd, 1);
        if (s->powerinfer) {
            PUT("ffn_up", s->up, 4, s->n_embd, s->n_ff);
            PUT("ffn_down_t", s->down, 5, s->n_embd, s->n_ff);
            PUT("ffn_gate", s->gate, 6, s->n_embd, s->n_ff);
        } else if (!has_experts(s, l)) {
            put_unit(w, s, l, "", 4, width_of(s, l), 0, data);
        } else {
            PUT("ffn_gate_inp", SG_DTYPE_F32, 7, s->n_embd, s->n_expert);
            put_unit(w, s, l, "_exps", 4, s->n_ff, s->n_expert, data);
            if (s->n_shared) put_unit(w, s, l, "_shexp", 40, s->n_shared, 0, data);
        }
        if (s->rank) {
            PUT("fc1", SG_DTYPE_F16, 7, s->n_embd, s->rank);
            PUT("fc2", SG_DTYPE_F16, 8, s->rank, s->n_ff);
        }
#undef PUT
    }
}

static inline void make_gguf(const char *file, const shape *s) {
    static const sg_gguf_string words[] = { { "a", 1 }, { "b\0c", 3 } };
    const char *arch = s->powerinfer ? s->powerinfer : s->phi3 ? "phi3" : "llama", *path = in_dir(file);
    char key[64];
    sg_gguf_writer *w;
    ok(sg_gguf_writer_create(path, 64, true, &w, err));
    if (s->split_count) {
        sg_gguf_writer_u32(w, "split.no", s->split_no);
        sg_gguf_writer_u32(w, "split.count", s->split_count);
    }
    sg_gguf_writer_str(w, "general.architecture", arch);
    snprintf(key, sizeof key, "%s.block_count", arch);
    sg_gguf_writer_u32(w, key, s->n_layer);
    sg_gguf_writer_strings(w, "tokenizer.ggml.tokens", words, 2);
    if (s->powerinfer) {
        sg_gguf_writer_f32(w, "powerinfer.sparse_threshold", 0.25f);
        sg_gguf_writer_u64(w, "split.vram_capacity", 0);
    }
    put_tensors(w, s, false);
    ok(sg_gguf_writer_begin_data(w, err));
    put_tensors(w, s, true);
    ok(sg_gguf_writer_finish(w, err));
    sg_gguf_writer_abort(&w);
    if (!s->powerinfer) return;
    const int fd = open(path, O_WRONLY);
    ck_assert(fd >= 0 && pwrite(fd, "PWRI", 4, 0) == 4);
    close(fd);
}

static inline sg_convert_options bin_options(const char *input) {
    sg_convert_options o = SG_CONVERT_OPTIONS_INIT;
    o.input = input;
    o.output = in_dir(BIN);
    o.log = on_log;
    o.overwrite = true;
    return o;
}

static inline sg_gguf *open_bin(void) {
    sg_gguf *g = NULL;
    ok(sg_gguf_open(in_dir(BIN), &g, err));
    return g;
}

/* What a matrix becomes: types of the bundle. */
typedef struct bin_types {
    sg_dtype gate, up, down;
} bin_types;

/* What `type` makes of x[k]. */
static inline void rounded(sg_dtype type, const float *x, float *out, unsigned k) {
    uint8_t *q = malloc((size_t)k * 4);
    sg_quantize(type, x, q, k);
    sg_dequantize(type, q, out, k);
    free(q);
}

static inline void expect_row(const char *what, unsigned layer, unsigned neuron, const float *got, const float *want, unsigned k) {
    for (unsigned i = 0; i < k; i++) /* an assertion is a system call: only those that fail */
        if (memcmp(&got[i], &want[i], 4) != 0 && (got[i] != 0 || want[i] != 0))
            ck_abort_msg("layer %u neuron %u %s[%u]: %g, not %g", layer, neuron, what, i, got[i], want[i]);
}

static inline void expect_zeros(const uint8_t *p, size_t n, const char *what) {
    for (size_t i = 0; i < n; i++)
        if (p[i] != 0) ck_abort_msg("%s: byte %zu of %zu is %u", what, i, n, p[i]);
}

/* What is cut: a layer, or its shared experts. */
typedef struct unit_of {
    const char *end, *bundle; /* of the names of its matrices, the name of its keys */
    unsigned n_ff, n_expert;
} unit_of;

static inline sg_bundle_layout layout_of(const sg_gguf *bin, unsigned layer, const shape *s, unit_of u) {
    sg_bundle_layout l = { .n_neurons = u.n_ff, .k = s->n_embd, .gated = !s->ungated, .n_expert = u.n_expert };
    char key[64];
#define NUMBER(stem) (snprintf(key, sizeof key, "sparsegen.%s." stem, u.bundle), (uint32_t)number_of(bin, key, layer))
    l.per_cluster = NUMBER("neurons");
    l.gate_type = (sg_dtype)NUMBER("gate_type");
    if (l.gated) l.up_type = (sg_dtype)NUMBER("up_type");
    else ck_assert(!sg_gguf_find(bin, "sparsegen.bundle.up_type"));
    l.down_type = (sg_dtype)NUMBER("down_type");
    if (s->n_expert) ck_assert_uint_eq(NUMBER("width"), u.n_ff);
    if (s->n_expert && !strstr(u.bundle, "_shexp")) ck_assert_uint_eq(NUMBER("experts"), u.n_expert);
    if (!s->n_expert) ck_assert(!sg_gguf_find(bin, "sparsegen.bundle.width") && !sg_gguf_find(bin, "sparsegen.bundle.experts"));
#undef NUMBER
    ck_assert(sg_bundle_layout_init(&l));
    return l;
}

/* A matrix of the source. */
typedef struct src_matrix {
    float *v; /* row by row */
    sg_dtype type;
} src_matrix;

/* Types whose codes are integers of at most 8 bits with a scale: Q8_0 holds their values as they are. */
static inline bool fits_q8_0(sg_dtype type) {
    return type == SG_DTYPE_Q4_0 || type == SG_DTYPE_Q5_0 || type == SG_DTYPE_IQ4_NL || type == SG_DTYPE_MXFP4;
}

/* Row i of the source as `type`: the same values when it has that type already, or when nothing is lost. */
static inline void expected_row(const src_matrix *m, sg_dtype type, unsigned i, float *want, unsigned k) {
    if (m->type == type || (type == SG_DTYPE_Q8_0 && fits_q8_0(m->type))) memcpy(want, m->v + (size_t)i * k, k * sizeof *want);
    else rounded(type, m->v + (size_t)i * k, want, k);
}

static inline void expect_neuron(const sg_bundle_layout *l, const uint8_t *cluster, unsigned layer, unsigned i, const src_matrix src[3],
                                 bool down_is_rows) {
    const unsigned k = l->k, j = i % l->per_cluster;
    const uint8_t *record = cluster + l->records_at + j * l->record;
    float *got = malloc(3 * (size_t)k * sizeof *got), *want = got + k, *column = want + k;
    sg_dot_row_unpack(l->gate_type, got, cluster + j * l->gate_row, k);
    expected_row(&src[l->gated ? 0 : 1], l->gate_type, i, want, k);
    expect_row("gate", layer, i, got, want, k);
    if (l->gated) {
        sg_dot_row_unpack(l->up_type, got, record, k);
        expected_row(&src[1], l->up_type, i, want, k);
        expect_row("up", layer, i, got, want, k);
    }
    for (unsigned d = 0; d < k && !down_is_rows; d++) column[d] = src[2].v[(size_t)d * l->n_neurons + i];
    sg_down_row_unpack(l->down_type, got, record + l->up_row, k);
    if (down_is_rows) expected_row(&src[2], l->down_type, i, want, k);
    else rounded(l->down_type, column, want, k);
    expect_row("down", layer, i, got, want, k);
    free(got);
}

/* One unit: every neuron, and zeros everywhere else. */
static inline void expect_unit(const sg_gguf *src, const sg_gguf *bin, const uint8_t *file, unsigned layer, const shape *s, bin_types t,
                               unit_of u) {
    char name[4][64];
    const bool turned = s->powerinfer != NULL;
    const sg_bundle_layout l = layout_of(bin, layer, s, u);
    ck_assert_int_eq(l.gate_type, s->ungated ? t.up : t.gate);
    if (l.gated) ck_assert_int_eq(l.up_type, t.up);
    ck_assert_int_eq(l.down_type, t.down);
    snprintf(name[0], 64, "blk.%u.ffn_gate%s.weight", layer, u.end);
    snprintf(name[1], 64, "blk.%u.ffn_up%s.weight", layer, u.end);
    snprintf(name[2], 64, "blk.%u.%s%s.weight", layer, turned ? "ffn_down_t" : "ffn_down", u.end);
    snprintf(name[3], 64, "blk.%u.ffn_%s", layer, u.bundle);
    for (int i = 0; i < 3; i++) ck_assert_msg(!sg_gguf_tensor(bin, name[i]), "%s is still there", name[i]);
    const sg_tensor_info *b = sg_gguf_tensor(bin, name[3]), *info;
    ck_assert_msg(b && b->type == SG_DTYPE_I8 && b->n_dims == 2, "%s", name[3]);
    ck_assert_uint_eq(b->ne[0], l.cluster_bytes);
    ck_assert_uint_eq(b->ne[1], l.n_clusters);
    ck_assert_uint_eq(b->offset % 4096, 0);
    src_matrix v[3] = { 0 };
    for (int i = s->ungated || s->phi3 ? 1 : 0; i < 3; i++) {
        v[i].v = tensor_values(src, name[i], &info);
        v[i].type = info->type;
    }
    float *const whole[3] = { v[0].v, v[1].v, v[2].v };
    if (s->phi3) { /* gate rows, then up rows */
        v[0] = v[1];
        v[1].v += (size_t)l.n_neurons * l.k;
    }
    for (unsigned c = 0; c < l.n_clusters; c++) {
        const uint8_t *cluster = file + b->offset + c * l.cluster_bytes;
        const unsigned first = c % l.per_expert * l.per_cluster, n = sg_bundle_neurons(&l, c);
        const size_t skip = (size_t)(c / l.per_expert) * l.n_neurons * l.k;
        src_matrix mine[3];
        for (int i = 0; i < 3; i++) mine[i] = (src_matrix) { v[i].v ? v[i].v + skip : NULL, v[i].type };
        for (unsigned i = 0; i < n; i++) expect_neuron(&l, cluster, layer, first + i, mine, turned);
        expect_zeros(cluster + n * l.gate_row, l.records_at - n * l.gate_row, "behind the gates");
        const size_t end = l.records_at + n * l.record;
        expect_zeros(cluster + end, l.cluster_bytes - end, "behind the records");
    }
    for (int i = 0; i < 3; i++) free(whole[i]);
}

static inline void expect_layer(const sg_gguf *src, const sg_gguf *bin, const uint8_t *file, unsigned layer, const shape *s,
                                bin_types t) {
    const bool experts = has_experts(s, layer);
    expect_unit(src, bin, file, layer, s, t, (unit_of) { experts ? "_exps" : "", "bundle", width_of(s, layer), experts ? s->n_expert : 0 });
    if (experts && s->n_shared) expect_unit(src, bin, file, layer, s, t, (unit_of) { "_shexp", "bundle_shexp", s->n_shared, 0 });
    else if (s->n_shared) ck_assert_uint_eq((unsigned)number_of(bin, "sparsegen.bundle_shexp.neurons", layer), 0);
}

static inline bool is_cut(const char *name) {
    static const char *const stems[] = { ".ffn_gate.", ".ffn_up.", ".ffn_down.", ".ffn_down_t.", ".fc1.", ".fc2.",
                                         "_exps.", "_shexp." };
    if (strstr(name, ".bias")) return false;
    for (size_t i = 0; i < sizeof stems / sizeof *stems; i++)
        if (strstr(name, stems[i])) return true;
    return false;
}

/* Everything that is not feed-forward: the same bytes. */
static inline void expect_copies(const sg_gguf *src, const sg_gguf *bin, const uint8_t *file) {
    for (size_t i = 0; i < sg_gguf_n_tensors(src); i++) {
        const sg_tensor_info *t = sg_gguf_tensor_at(src, i), *u = sg_gguf_tensor(bin, t->name);
        if (is_cut(t->name)) continue;
        ck_assert_msg(u && u->type == t->type && u->n_dims == t->n_dims && u->n_bytes == t->n_bytes, "%s", t->name);
        size_t n;
        uint8_t *from = temp_read(sg_gguf_path(src, t->file), &n);
        ck_assert_msg(from && memcmp(from + t->offset, file + u->offset, t->n_bytes) == 0, "%s has changed", t->name);
        free(from);
    }
}

/* The whole file against its source. */
static inline void expect_bin(const char *source, const shape *s, bin_types t) {
    sg_gguf *src = NULL, *bin = open_bin();
    size_t n;
    uint8_t *file = temp_read(in_dir(BIN), &n);
    ok(sg_gguf_open(source, &src, err));
    ck_assert(file != NULL);
    ck_assert_uint_eq(n % 4096, 0);
    ck_assert_uint_eq(u32_of(bin, "sparsegen.format_version"), 1);
    ck_assert_uint_eq(u32_of(bin, "general.alignment"), 4096);
    for (unsigned l = 0; l < s->n_layer; l++) expect_layer(src, bin, file, l, s, t);
    expect_copies(src, bin, file);
    free(file);
    sg_gguf_close(&src);
    sg_gguf_close(&bin);
}

#endif
