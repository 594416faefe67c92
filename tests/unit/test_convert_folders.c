/* model.bin from Hugging Face folders whose matrices are gathered: every neuron, however little memory there is. The linker leads the project's
 * calls for memory through the functions below (--wrap). */
#include <malloc.h>
#include <stdatomic.h>

#include "tests/unit/bin_fixture.h"
#include "tests/unit/moe_folder.h"

static atomic_size_t held, most_held;

/* clang-format off */
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
int __real_posix_memalign(void **p, size_t align, size_t n);
void __real_free(void *p);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
int __wrap_posix_memalign(void **p, size_t align, size_t n);
void __wrap_free(void *p);
/* clang-format on */

static void *count(void *p) {
    const size_t n = p ? malloc_usable_size(p) : 0, now = atomic_fetch_add(&held, n) + n;
    size_t most = atomic_load(&most_held);
    while (now > most && !atomic_compare_exchange_weak(&most_held, &most, now)) {}
    return p;
}
void __wrap_free(void *p) {
    if (p) atomic_fetch_sub(&held, malloc_usable_size(p));
    __real_free(p);
}
void *__wrap_malloc(size_t n) { return count(__real_malloc(n)); }
void *__wrap_calloc(size_t n, size_t size) { return count(__real_calloc(n, size)); }
void *__wrap_realloc(void *p, size_t n) {
    if (p) atomic_fetch_sub(&held, malloc_usable_size(p));
    return count(__real_realloc(p, n));
}
int __wrap_posix_memalign(void **p, size_t align, size_t n) {
    const int e = __real_posix_memalign(p, align, n);
    if (e == 0) count(*p);
    return e;
}

#define F32 SG_DTYPE_F32
#define F16 SG_DTYPE_F16
#define Q8 SG_DTYPE_Q8_0
#define Q4 SG_DTYPE_Q4_0

static const struct {
    folder_shape f;
    const char *type, *down_type;
    bin_types want;
} cases[] = {
    { { MIXTRAL, "F32", 96, 300, 3, 40 }, "f32", NULL, { F32, F32, F32 } },
    { { MIXTRAL, "BF16", 96, 300, 3, 40 }, "q8_0", NULL, { Q8, Q8, Q8 } },
    { { GRANITE, "F16", 96, 300, 3, 40 }, NULL, NULL, { F16, F16, F16 } },
    { { GRANITE, "F32", 352, 75, 4, 40 }, "q4_0", "q8_0", { Q4, Q4, Q8 } },
    { { GPT2, "F32", 96, 300, 0, 40 }, "f32", NULL, { F32, F32, F32 } },
    { { GPT2, "BF16", 352, 300, 0, 40 }, "q8_0", "q4_0", { Q8, Q8, Q4 } },
};

static shape shape_of(const folder_shape *f) {
    return (shape) { .n_embd = f->n_embd, .n_ff = f->n_ff, .n_layer = LAYERS, .n_expert = f->n_expert, .ungated = f->kind == GPT2 };
}

/* The bundles of model.bin against the GGUF file with F32 values. */
static void expect_neurons(const char *folder, const folder_shape *f, bin_types want) {
    const shape s = shape_of(f);
    sg_gguf *plain = converted(folder, "f32"), *bin = open_bin();
    size_t n;
    uint8_t *file = temp_read(in_dir(BIN), &n);
    for (unsigned l = 0; l < LAYERS; l++) expect_layer(plain, bin, file, l, &s, want);
    free(file);
    sg_gguf_close(&plain);
    sg_gguf_close(&bin);
    unlink(in_dir(OUT));
    ok(sg_verify(in_dir(BIN), NULL, NULL, err));
}

START_TEST(every_neuron) {
    write_folder(&cases[_i].f);
    sg_convert_options o = bin_options(dir.path);
    o.type = cases[_i].type;
    o.down_type = cases[_i].down_type;
    for (unsigned cluster = 0; cluster < 128; cluster += 64) {
        o.cluster = cluster;
        ok(sg_convert(&o, err));
        expect_neurons(dir.path, &cases[_i].f, cases[_i].want);
    }
    ck_assert(!strstr(logged.data, "written as F16")); /* rows of down matrices are no whole blocks in the folder; here they lie along n_embd */
}
END_TEST

static uint64_t least_of(sg_convert_options *o) {
    sg_error e;
    o->ram_bytes = 1024;
    ck_assert_int_eq(sg_convert(o, &e), SG_E_ARG);
    const char *at = strstr(e.message, "this model, ");
    ck_assert_msg(at != NULL, "%s", e.message);
    return strtoull(at + 12, NULL, 10) << 10;
}

/* Keys and the writer's own buffer, which are there besides. */
#define WRITER 600000u

/* The same bytes, and no more memory taken than was said. The embedding is many times larger than that. */
START_TEST(little_memory) {
    static const folder_shape folders[] = { { MIXTRAL, "F32", 96, 768, 3, 5000 }, { GRANITE, "BF16", 96, 768, 5, 5000 },
                                            { GPT2, "F32", 96, 768, 0, 5000 } };
    write_folder(&folders[_i]);
    sg_convert_options o = bin_options(dir.path);
    o.type = "q8_0";
    o.cluster = 96;
    ok(sg_convert(&o, err));
    size_t n = 0, m, vocabulary;
    uint8_t *whole = temp_read(in_dir(BIN), &n);
    const uint64_t least = least_of(&o);
    vocabulary = atomic_load(&held);
    atomic_store(&most_held, vocabulary);
    ck_assert_int_eq(sg_convert(&o, NULL), SG_E_ARG); /* what is there before there are buffers */
    const size_t before = atomic_load(&most_held) - vocabulary;
    for (int i = 0; i < 4; i++) {
        o.ram_bytes = least + (uint64_t[]) { 0, 20000, 100000, 400000 }[i];
        atomic_store(&most_held, atomic_load(&held));
        const size_t base = atomic_load(&held);
        ok(sg_convert(&o, err));
        const size_t took = atomic_load(&most_held) - base;
        ck_assert_msg(took <= o.ram_bytes + before + WRITER, "%zu bytes were taken, with %zu before the buffers and %llu allowed", took, before,
                      (unsigned long long)o.ram_bytes);
        uint8_t *part = temp_read(in_dir(BIN), &m);
        ck_assert_msg(m == n && memcmp(part, whole, n) == 0, "%llu bytes of memory give another file", (unsigned long long)o.ram_bytes);
        free(part);
    }
    o.ram_bytes = least - 1024;
    fails(sg_convert(&o, err), SG_E_ARG, "too little");
    free(whole);
    expect_neurons(dir.path, &folders[_i], (bin_types) { Q8, Q8, Q8 });
}
END_TEST

/* Values that are no numbers are refused, also where their type stays. */
START_TEST(no_numbers) {
    write_folder(&cases[_i].f);
    char path[1024];
    snprintf(path, sizeof path, "%s", in_dir(cases[_i].f.kind == MIXTRAL ? "model-2.safetensors" : "model.safetensors"));
    static const char *const names[] = { "model.layers.1.block_sparse_moe.experts.2.w2", "model.layers.1.block_sparse_moe.input_linear",
                                         "h.1.mlp.c_fc" };
    size_t n = 0;
    uint8_t *file = temp_read(path, &n);
    uint64_t head;
    memcpy(&head, file, 8);
    const char *at = memmem(file, 8 + head, names[cases[_i].f.kind], strlen(names[cases[_i].f.kind]));
    ck_assert(at != NULL);
    const size_t begin = 8 + head + strtoull(strstr(at, "offsets\":[") + 10, NULL, 10), size = strcmp(cases[_i].f.dtype, "F32") == 0 ? 4 : 2;
    memcpy(file + begin + 1234 * size, size == 4 ? "\0\0\xc0\x7f" : "\xff\x7f", size);
    ck_assert(temp_write(path, file, n));
    free(file);
    sg_convert_options o = bin_options(dir.path);
    o.type = size == 4 ? "f32" : "f16";
    fails(sg_convert(&o, err), SG_E_FORMAT, "no finite numbers");
    ck_assert(access(in_dir(BIN), F_OK) != 0);
}
END_TEST

int main(void) {
    Suite *s = suite_create("convert_folders");
    TCase *c = tcase_create("convert_folders");
    tcase_set_timeout(c, 60);
    tcase_add_checked_fixture(c, fixture_setup, fixture_teardown);
    tcase_add_loop_test(c, every_neuron, 0, sizeof cases / sizeof *cases);
    tcase_add_loop_test(c, little_memory, 0, 3);
    tcase_add_loop_test(c, no_numbers, 0, sizeof cases / sizeof *cases);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
