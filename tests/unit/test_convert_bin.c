/* sg_convert to model.bin: every neuron of every layer against its source, for all kinds of sources. */
#include "tests/unit/bin_fixture.h"

#define F32 SG_DTYPE_F32
#define F16 SG_DTYPE_F16
#define BF16 SG_DTYPE_BF16
#define Q8 SG_DTYPE_Q8_0
#define Q4 SG_DTYPE_Q4_0

static const char *from_root(const char *name) {
    static char path[1024];
    const char *root = getenv("SG_SOURCE_ROOT");
    snprintf(path, sizeof path, "%s/%s", root ? root : ".", name);
    return path;
}

static const struct {
    shape s;
    const char *type, *down_type;
    unsigned cluster;
    bin_types want;
} cases[] = {
    /* types chosen by the source */
    { { 64, 160, 2, F32, F32, F32 }, NULL, NULL, 64, { F32, F32, F32 } },
    { { 64, 200, 2, F16, F16, F16 }, NULL, NULL, 64, { F16, F16, F16 } },
    { { 64, 77, 1, BF16, F32, BF16 }, NULL, NULL, 32, { F16, F32, F16 } },
    { { 288, 96, 2, Q8, Q8, Q8 }, NULL, NULL, 64, { Q8, Q8, Q8 } },
    { { 96, 160, 2, Q4, Q4, Q4 }, NULL, NULL, 96, { Q4, Q4, Q8 } },
    /* asked for */
    { { 96, 160, 1, Q4, Q4, Q4 }, "q4_0", NULL, 64, { Q4, Q4, Q4 } },
    { { 64, 130, 1, F32, F32, F32 }, "q4_0", "f16", 64, { Q4, Q4, F16 } },
    { { 64, 130, 1, F16, F16, F16 }, "q8_0", NULL, 0, { Q8, Q8, Q8 } },
    { { 64, 130, 1, F16, F16, F16 }, NULL, "q4_0", 256, { F16, F16, Q4 } },
    { { 320, 64, 1, Q4, Q8, Q4 }, "f32", NULL, 32, { F32, F32, F32 } },
    /* rows that are no whole blocks; fewer values than a tile, fewer neurons than a cluster */
    { { 40, 160, 1, F32, F32, F32 }, "q8_0", NULL, 64, { F16, F16, F16 } },
    { { 5, 3, 2, F32, F32, F32 }, NULL, NULL, 0, { F32, F32, F32 } },
    { { 1000, 65, 1, F16, F16, F16 }, NULL, NULL, 32, { F16, F16, F16 } },
    /* no gate */
    { { 64, 160, 2, F16, Q8, F16, .ungated = true }, NULL, NULL, 64, { Q8, Q8, F16 } },
    /* experts: of every layer; behind a dense layer and beside shared ones; one alone; where nothing is whole blocks; with biases */
    { { 64, 96, 2, Q8, Q8, Q8, .n_expert = 5 }, NULL, NULL, 64, { Q8, Q8, Q8 } },
    { { 64, 75, 3, F16, F16, F16, .n_expert = 4, .n_dense = 1, .dense_ff = 170, .n_shared = 130 }, NULL, NULL, 32, { F16, F16, F16 } },
    { { 96, 160, 2, Q4, Q4, Q4, .n_expert = 3, .n_shared = 64 }, NULL, NULL, 0, { Q4, Q4, Q8 } },
    { { 64, 33, 1, F32, BF16, F32, .n_expert = 1 }, "q8_0", "q4_0", 32, { Q8, Q8, Q4 } },
    { { 40, 50, 2, F16, F16, F16, .n_expert = 3, .n_shared = 7 }, "q4_0", NULL, 0, { F16, F16, F16 } },
    { { 64, 96, 2, F16, Q8, F16, .ungated = true, .n_expert = 3, .biases = true }, NULL, NULL, 64, { Q8, Q8, F16 } },
    { { 64, 96, 2, F16, F16, F16, .n_expert = 3, .n_dense = 1, .dense_ff = 64, .biases = true }, NULL, NULL, 64, { F16, F16, F16 } },
    { { 64, 96, 2, F16, F16, F16, .biases = true }, NULL, NULL, 64, { F16, F16, F16 } },
    /* gate and up in one */
    { { 64, 96, 2, Q8, Q8, Q8, .phi3 = true }, NULL, NULL, 64, { Q8, Q8, Q8 } },
};

START_TEST(every_neuron) {
    const shape *s = &cases[_i].s;
    make_gguf("in.gguf", s);
    sg_convert_options o = bin_options(in_dir("in.gguf"));
    o.type = cases[_i].type;
    o.down_type = cases[_i].down_type;
    o.cluster = cases[_i].cluster;
    ok(sg_convert(&o, err));
    expect_bin(in_dir("in.gguf"), s, cases[_i].want);
    sg_gguf *bin = open_bin();
    if (o.cluster) ck_assert_uint_eq((unsigned)number_of(bin, "sparsegen.bundle.neurons", 0), o.cluster);
    ck_assert(sg_gguf_find(bin, "tokenizer.ggml.tokens")->strings[1].len == 3);
    ck_assert(!sg_gguf_find(bin, "sparsegen.predictor.kind"));
    sg_gguf_close(&bin);
    ck_assert((strstr(logged.data, "F16") != NULL) == (s->n_embd == 40));
}
END_TEST

/* Types that sparsegen reads but does not write, from the golden files. */
START_TEST(other_types) {
    static const struct {
        const char *file;
        shape s;
        bin_types want;
    } files[] = {
        { "k-mix", { 0 }, { Q8, Q8, Q8 } },  { "q5_1", { 0 }, { Q8, Q8, Q8 } },  { "iq4_nl", { 0 }, { Q8, Q8, Q8 } },
        { "mxfp4", { 0 }, { Q8, Q8, Q8 } },  { "odd", { 0 }, { F16, F16, F16 } },
    };
    char name[64];
    snprintf(name, sizeof name, "tests/data/goldens/llama-%s.gguf", files[_i].file);
    sg_gguf *g;
    ok(sg_gguf_open(from_root(name), &g, err));
    const sg_tensor_info *up = sg_gguf_tensor(g, "blk.0.ffn_up.weight");
    const shape s = { .n_embd = (unsigned)up->ne[0], .n_ff = (unsigned)up->ne[1], .n_layer = u32_of(g, "llama.block_count") };
    sg_gguf_close(&g);
    sg_convert_options o = bin_options(from_root(name));
    if (strcmp(files[_i].file, "odd") == 0) o.type = "f16";
    ok(sg_convert(&o, err));
    expect_bin(from_root(name), &s, files[_i].want);
}
END_TEST

/* The same bytes however little memory there is; the least is what the refusal names. */
START_TEST(little_memory) {
    const char *demo = from_root("models/demo/stories-drelu-5M.gguf");
    const shape s = { .n_embd = 256, .n_ff = 1024, .n_layer = 5 };
    sg_convert_options o = bin_options(demo);
    o.cluster = 32;
    ok(sg_convert(&o, err));
    expect_bin(demo, &s, (bin_types) { Q4, Q4, Q8 });
    size_t n = 0, m;
    uint8_t *whole = temp_read(in_dir(BIN), &n);
    sg_error e;
    o.ram_bytes = 1024;
    ck_assert_int_eq(sg_convert(&o, &e), SG_E_ARG);
    const char *at = strstr(e.message, "this model, ");
    ck_assert_msg(at != NULL, "%s", e.message);
    const uint64_t least = strtoull(at + 12, NULL, 10) << 10;
    for (int i = 0; i < 4; i++) {
        o.ram_bytes = least + (uint64_t[]) { 0, 20000, 50000, 150000 }[i];
        ok(sg_convert(&o, err));
        uint8_t *part = temp_read(in_dir(BIN), &m);
        ck_assert_msg(m == n && memcmp(part, whole, n) == 0, "%llu bytes of memory give another file", (unsigned long long)o.ram_bytes);
        free(part);
    }
    o.ram_bytes = least - 1024;
    fails(sg_convert(&o, err), SG_E_ARG, "too little");
    free(whole);
}
END_TEST

/* Passes over blocks of 256 values that reach into two slabs: of a cluster each, and of several. */
START_TEST(little_memory_k) {
    const shape s = { 96, 768, 2, F16, F16, SG_DTYPE_Q2_K };
    make_gguf("in.gguf", &s);
    sg_convert_options o = bin_options(in_dir("in.gguf"));
    o.cluster = 96;
    sg_error e;
    o.ram_bytes = 1024;
    ck_assert_int_eq(sg_convert(&o, &e), SG_E_ARG);
    const uint64_t least = strtoull(strstr(e.message, "this model, ") + 12, NULL, 10) << 10;
    o.ram_bytes = least + (_i ? 25000 : 0);
    ok(sg_convert(&o, err));
    expect_bin(in_dir("in.gguf"), &s, (bin_types) { F16, F16, Q8 });
}
END_TEST

/* One expert at a time: 128 need no more memory than one does. */
START_TEST(little_memory_experts) {
    shape s = { 96, 768, 1, F16, F16, SG_DTYPE_Q2_K, .n_expert = 1 };
    sg_convert_options o;
    uint64_t least[2];
    sg_error e;
    for (int i = 0; i < 2; i++) {
        s.n_expert = i ? 24 : 1;
        make_gguf("in.gguf", &s);
        o = bin_options(in_dir("in.gguf"));
        o.cluster = 96;
        o.ram_bytes = 1024;
        ck_assert_int_eq(sg_convert(&o, &e), SG_E_ARG);
        least[i] = strtoull(strstr(e.message, "this model, ") + 12, NULL, 10) << 10;
    }
    ck_assert_uint_eq(least[0], least[1]);
    for (int i = 0; i < 3; i++) {
        o.ram_bytes = i < 2 ? least[1] + (unsigned)i * 25000 : 0;
        ok(sg_convert(&o, err));
        expect_bin(in_dir("in.gguf"), &s, (bin_types) { F16, F16, Q8 });
    }
}
END_TEST

/* What the reader of model descriptions finds, and that every cluster has a checksum. */
START_TEST(experts_described) {
    const shape s = { 64, 75, 3, F16, F16, F16, .n_expert = 4, .n_dense = 1, .dense_ff = 170, .n_shared = 130 };
    make_gguf("in.gguf", &s);
    sg_convert_options o = bin_options(in_dir("in.gguf"));
    ok(sg_convert(&o, err));
    sg_gguf *bin = open_bin();
    sg_model_desc d = { .hp.n_layer = 3 };
    size_t bound = 0;
    ok(sg_bundles_describe(bin, &d, &bound, err));
    ck_assert_uint_eq(bound, 3 + 2 + 1);
    for (unsigned l = 0; l < 3; l++) {
        const sg_bundle_desc *b = &d.bundles[l], *sh = &d.bundles_shexp[l];
        ck_assert(b->clusters && b->gated && b->gate_type == F16 && b->n_neurons == (l ? 75 : 170) && b->n_expert == (l ? 4 : 0));
        ck_assert((sh->clusters != NULL) == (l > 0) && sh->n_neurons == (l ? 130 : 0) && sh->gated && sh->n_expert == 0);
        /* 75 neurons: 128 and 64 in a cluster would leave too many places empty */
        ck_assert_uint_eq(b->per_cluster, l ? 32 : 256);
        if (l) ck_assert_uint_eq(b->clusters->ne[1], 4 * 3);
    }
    ck_assert(sg_bundles_know(&d, "blk.1.ffn_bundle_shexp") && !sg_bundles_know(&d, "blk.0.ffn_bundle_shexp"));
    ck_assert(sg_bin_is_shexp("blk.1.ffn_bundle_shexp") && !sg_bin_is_shexp("blk.1.ffn_bundle") && !sg_bin_is_shexp("x.ffn_bundle_shexp"));
    const uint64_t hashes = sg_gguf_tensor(bin, "sparsegen.checksums")->ne[1];
    uint64_t clusters = 0, others = 0;
    for (size_t i = 0; i < sg_gguf_n_tensors(bin); i++) {
        const sg_tensor_info *t = sg_gguf_tensor_at(bin, i);
        if (sg_bin_is_bundle(t->name, NULL)) clusters += t->ne[1];
        else others += strcmp(t->name, "sparsegen.checksums") != 0;
    }
    ck_assert_uint_eq(hashes, 2 + clusters + others);
    sg_model_desc_finish(&d);
    const uint64_t at = sg_gguf_tensor(bin, "blk.2.ffn_bundle_shexp")->offset + 3;
    sg_gguf_close(&bin);
    ok(sg_verify(in_dir(BIN), NULL, NULL, err));
    const int fd = open(in_dir(BIN), O_WRONLY);
    ck_assert(pwrite(fd, "damage", 6, (off_t)at) == 6);
    close(fd);
    sg_verify_report report;
    sg_error e;
    ck_assert_int_eq(sg_verify(in_dir(BIN), NULL, &report, &e), SG_E_FORMAT);
    ck_assert_uint_eq(report.n_bad, 1);
}
END_TEST

START_TEST(split_set) {
    shape s = { 64, 160, 3, F16, F16, F16, .split_count = 2, .end = 1 };
    make_gguf("m-00001-of-00002.gguf", &s);
    shape rest = s;
    rest.split_no = 1;
    rest.first = 1;
    rest.end = 3;
    make_gguf("m-00002-of-00002.gguf", &rest);
    const char *in = in_dir("m-00001-of-00002.gguf");
    sg_convert_options o = bin_options(in);
    ok(sg_convert(&o, err));
    expect_bin(in, &s, (bin_types) { F16, F16, F16 });
    sg_gguf *bin = open_bin();
    ck_assert(!sg_gguf_find(bin, "split.count"));
    sg_gguf_close(&bin);
    o.output = in_dir("m-00002-of-00002.gguf");
    o.format = SG_CONVERT_BIN;
    fails(sg_convert(&o, err), SG_E_ARG, "same file");
    o.input = in_dir("m-00002-of-00002.gguf");
    o.output = in_dir(BIN);
    fails(sg_convert(&o, err), SG_E_UNSUPPORTED, "open the first part");
}
END_TEST

/* Row r of a predictor half: the source's values, zeros behind. */
static void expect_half(const sg_gguf *src, const sg_gguf *bin, const char *from, const char *to, sg_dtype type, unsigned ne0,
                        unsigned ne1) {
    const sg_tensor_info *a, *b;
    float *want = tensor_values(src, from, &a), *got = tensor_values(bin, to, &b);
    ck_assert_uint_eq(b->ne[0], ne0);
    ck_assert_uint_eq(b->ne[1], ne1);
    ck_assert_int_eq(b->type, type);
    float *row = calloc(2 * ne0, sizeof *row);
    for (unsigned r = 0; r < ne1; r++) {
        memset(row, 0, ne0 * sizeof *row);
        if (r < a->ne[1]) memcpy(row, want + r * a->ne[0], a->ne[0] * sizeof *row);
        rounded(type, row, row + ne0, ne0);
        expect_row(to, 0, r, got + r * ne0, row + ne0, ne0);
    }
    free(row);
    free(want);
    free(got);
}

START_TEST(powerinfer) {
    const bool bamboo = _i == 1;
    const shape s = { 64, 160, 2, Q4, Q4, Q4, .rank = _i == 2 ? 0 : 40, .powerinfer = bamboo ? "bamboo" : "llama" };
    make_gguf("in.gguf", &s);
    sg_convert_options o = bin_options(in_dir("in.gguf"));
    ok(sg_convert(&o, err));
    expect_bin(in_dir("in.gguf"), &s, (bin_types) { Q4, Q4, Q4 }); /* down rows are blocks already */
    sg_gguf *src, *bin = open_bin();
    ok(sg_gguf_open(in_dir("in.gguf"), &src, err));
    ck_assert(sg_gguf_is_powerinfer(src) && !sg_gguf_is_powerinfer(bin));
    ck_assert_str_eq(str_of(bin, "general.architecture"), "llama");
    ck_assert_uint_eq(u32_of(bin, "llama.block_count"), 2);
    ck_assert_str_eq(str_of(bin, "sparsegen.ffn_activation"), bamboo ? "drelu" : "relu");
    static const char *const gone[] = { "split.vram_capacity", "powerinfer.sparse_threshold", "bamboo.block_count" };
    for (int i = 0; i < 3; i++) ck_assert_msg(!sg_gguf_find(bin, gone[i]), "%s is still there", gone[i]);
    if (s.rank) {
        expect_half(src, bin, "blk.1.fc1.weight", "blk.1.ffn_pred_a", Q8, 64, 64);
        expect_half(src, bin, "blk.1.fc2.weight", "blk.1.ffn_pred_b", Q8, 64, 160);
        ck_assert_str_eq(sg_gguf_find(bin, "sparsegen.predictor.kind")->strings[1].text, "mlp");
        ck_assert_str_eq(str_of(bin, "sparsegen.predictor.input"), "residual");
        ck_assert(number_of(bin, "sparsegen.predictor.thresholds", 1) == 0.25);
        ck_assert_uint_eq(sg_gguf_find(bin, "sparsegen.predictor.recalls")->n, 1);
    } else {
        ck_assert(!sg_gguf_find(bin, "sparsegen.predictor.kind"));
    }
    sg_gguf_close(&src);
    sg_gguf_close(&bin);
}
END_TEST

/* From folders and llama2.c files the same values come out as in the GGUF file that is made from them. */
START_TEST(from_others) {
    const shape s = { .n_embd = EMBD, .n_ff = FF, .n_layer = LAYERS };
    char in[1024];
    const char *type = _i == 1 ? "q8_0" : NULL;
    const sg_dtype want = _i == 1 ? Q8 : _i == 0 ? F16 : F32;
    snprintf(in, sizeof in, "%s", _i < 2 ? dir.path : in_dir("m.bin"));
    if (_i < 2) {
        write_llama_folder();
    } else {
        write_str("m.bin", make_bin(_i == 2 ? 0 : 2, false));
        write_str("tokenizer.bin", make_tokenizer_bin());
    }
    sg_convert_options o = bin_options(in);
    o.type = type;
    ok(sg_convert(&o, err));
    sg_gguf *plain = converted(in, _i < 2 ? "f32" : NULL), *bin = open_bin();
    size_t n;
    uint8_t *file = temp_read(in_dir(BIN), &n);
    for (unsigned l = 0; l < LAYERS; l++) expect_layer(plain, bin, file, l, &s, (bin_types) { want, want, want });
    sg_gguf_close(&plain);
    unlink(in_dir(OUT));
    plain = converted(in, type);
    expect_copies(plain, bin, file);
    for (size_t i = 0; i < sg_gguf_n_kv(plain); i++) ck_assert(sg_gguf_find(bin, sg_gguf_kv_at(plain, i)->key));
    free(file);
    sg_gguf_close(&plain);
    sg_gguf_close(&bin);
}
END_TEST

/* A BF16 value that F16 cannot hold makes the matrix F32; one that nobody can hold is refused. */
START_TEST(values_out_of_range) {
    const shape s = { 64, 32, 1, BF16, BF16, BF16 };
    make_gguf("in.gguf", &s);
    sg_gguf *g;
    ok(sg_gguf_open(in_dir("in.gguf"), &g, err));
    const uint64_t at = sg_gguf_tensor(g, "blk.0.ffn_up.weight")->offset + 1000;
    sg_gguf_close(&g);
    const int fd = open(in_dir("in.gguf"), O_WRONLY);
    uint16_t v = sg_f32_to_bf16(-1e6f);
    ck_assert(pwrite(fd, &v, 2, (off_t)at) == 2);
    sg_convert_options o = bin_options(in_dir("in.gguf"));
    ok(sg_convert(&o, err));
    expect_bin(in_dir("in.gguf"), &s, (bin_types) { F16, F32, F16 });
    o.type = "f16";
    fails(sg_convert(&o, err), SG_E_UNSUPPORTED, "too large for F16");
    v = 0x7f80;
    ck_assert(pwrite(fd, &v, 2, (off_t)at) == 2);
    o.type = NULL;
    fails(sg_convert(&o, err), SG_E_FORMAT, "no finite numbers");
    close(fd);
}
END_TEST

int main(void) {
    Suite *s = suite_create("convert_bin");
    TCase *c = tcase_create("convert_bin");
    tcase_set_timeout(c, 60);
    tcase_add_checked_fixture(c, fixture_setup, fixture_teardown);
    tcase_add_loop_test(c, every_neuron, 0, sizeof cases / sizeof *cases);
    tcase_add_loop_test(c, other_types, 0, 5);
    tcase_add_test(c, little_memory);
    tcase_add_loop_test(c, little_memory_k, 0, 2);
    tcase_add_test(c, little_memory_experts);
    tcase_add_test(c, experts_described);
    tcase_add_test(c, split_set);
    tcase_add_loop_test(c, powerinfer, 0, 3);
    tcase_add_loop_test(c, from_others, 0, 4);
    tcase_add_test(c, values_out_of_range);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
