/* sg_convert to model.bin when something goes wrong: what it says, and that nothing is left behind. */
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "tests/unit/bin_fixture.h"
#include "tests/unit/moe_folder.h"

static const shape usual = { 256, 3008, 2, SG_DTYPE_Q4_0, SG_DTYPE_Q4_0, SG_DTYPE_Q4_0 };

static sg_convert_options usual_job(void) {
    make_gguf("in.gguf", &usual);
    sg_convert_options o = bin_options(in_dir("in.gguf"));
    o.overwrite = false;
    return o;
}

/* The same from a folder with experts in two shards; *files: how many it has. */
static sg_convert_options folder_job(unsigned *files) {
    write_folder(&(folder_shape) { MIXTRAL, "BF16", 256, 520, 4, 300 });
    *files = temp_count(&dir);
    sg_convert_options o = bin_options(dir.path);
    o.overwrite = false;
    return o;
}

static bool exists(const char *name) { return access(in_dir(name), F_OK) == 0; }

START_TEST(overwrite) {
    sg_convert_options o = usual_job();
    write_text(BIN, "mine");
    fails(sg_convert(&o, err), SG_E_EXISTS, "exists already");
    size_t n;
    uint8_t *kept = temp_read(in_dir(BIN), &n);
    ck_assert(n == 4 && memcmp(kept, "mine", 4) == 0);
    free(kept);
    o.overwrite = true;
    ok(sg_convert(&o, err));
    ok(sg_verify(in_dir(BIN), NULL, NULL, err));
    ck_assert_uint_eq(temp_count(&dir), 2);
    o.output = o.input;
    o.format = SG_CONVERT_BIN;
    fails(sg_convert(&o, err), SG_E_ARG, "same file");
}
END_TEST

/* The share of the work, in percent, at which it is cancelled or killed. */
static int stop_at;
static bool cancel(void *user, uint64_t done, uint64_t total) { return done * 100 < total * (uint64_t)stop_at; }
static bool die(void *user, uint64_t done, uint64_t total) {
    if (done * 100 >= total * (uint64_t)stop_at) raise(SIGKILL);
    return true;
}

START_TEST(cancelled) {
    unsigned files = 1;
    sg_convert_options o = _i < 4 ? usual_job() : folder_job(&files);
    stop_at = (int[]) { 0, 30, 70, 100 }[_i % 4];
    o.progress = cancel;
    fails(sg_convert(&o, err), SG_E_CANCELLED, "cancelled");
    ck_assert_uint_eq(temp_count(&dir), files);
}
END_TEST

START_TEST(killed) {
    unsigned files = 1;
    sg_convert_options o = _i ? folder_job(&files) : usual_job();
    stop_at = 50;
    o.progress = die;
    const pid_t child = fork();
    if (child == 0) {
        (void)!sg_convert(&o, NULL);
        _exit(0);
    }
    int status;
    ck_assert(waitpid(child, &status, 0) == child);
    ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    ck_assert(!exists(BIN));
    ck_assert_uint_eq(temp_count(&dir), files + 1); /* the input and the piece under its temporary name */
}
END_TEST

/* Progress rises, and ends at the size of all tensors. */
typedef struct progress {
    uint64_t done, total;
    unsigned calls;
} progress;
static bool watch(void *user, uint64_t done, uint64_t total) {
    progress *p = user;
    ck_assert(done >= p->done && done <= total && (p->calls == 0 || total == p->total));
    *p = (progress) { done, total, p->calls + 1 };
    return true;
}

START_TEST(progress_of_a_folder) {
    unsigned files;
    sg_convert_options o = folder_job(&files);
    progress p = { 0 };
    o.progress = watch;
    o.user = &p;
    o.log = NULL;
    o.ram_bytes = 3 << 20;
    ok(sg_convert(&o, err));
    ck_assert(p.done == p.total && p.calls > 20);
    uint64_t bytes = 0;
    sg_gguf *bin = open_bin();
    for (size_t i = 0; i < sg_gguf_n_tensors(bin); i++)
        if (strcmp(sg_gguf_tensor_at(bin, i)->name, "sparsegen.checksums") != 0) bytes += sg_gguf_tensor_at(bin, i)->n_bytes;
    sg_gguf_close(&bin);
    ck_assert_uint_eq(p.total, bytes);
    ck_assert_uint_eq(temp_count(&dir), files + 1);
}
END_TEST

/* The largest file that the process may write stands for a full drive, anywhere between header and end. */
START_TEST(file_too_large) {
    unsigned files = 1;
    sg_convert_options o = _i < 3 ? usual_job() : folder_job(&files);
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit) { (rlim_t[]) { 100, 100000, 1500000 }[_i % 3], RLIM_INFINITY });
    fails(sg_convert(&o, err), SG_E_IO, "out.bin: cannot write");
    ck_assert_uint_eq(temp_count(&dir), files);
}
END_TEST

/* A shard that becomes shorter while it is read. */
static bool cut_short(void *user, uint64_t done, uint64_t total) {
    if (done * 2 >= total) ck_assert(truncate(user, 1000) == 0);
    return true;
}

START_TEST(shrinking_source) {
    unsigned files;
    sg_convert_options o = folder_job(&files);
    char shard[1024];
    snprintf(shard, sizeof shard, "%s", in_dir("model-2.safetensors"));
    o.progress = cut_short;
    o.user = shard;
    o.log = NULL;
    o.ram_bytes = _i ? 2 << 20 : 0;
    fails(sg_convert(&o, err), SG_E_FORMAT, "model-2.safetensors: ");
    ck_assert_uint_eq(temp_count(&dir), files);
}
END_TEST

/* Mounting needs root and namespaces; without them file_too_large has to do. */
START_TEST(full_disk) {
    sg_convert_options o = usual_job();
    char input[1024], mount_at[1024], out[1100];
    snprintf(input, sizeof input, "%s", o.input);
    snprintf(mount_at, sizeof mount_at, "%s", in_dir("small"));
    snprintf(out, sizeof out, "%s/out.bin", mount_at);
    ck_assert(mkdir(mount_at, 0700) == 0);
    const bool mounted = unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
                         mount("tmpfs", mount_at, "tmpfs", 0, "size=1m") == 0;
    if (mounted) {
        o.input = input;
        o.output = out;
        fails(sg_convert(&o, err), SG_E_IO, "No space left");
        temp_dir small = { 0 };
        snprintf(small.path, sizeof small.path, "%.500s", mount_at);
        ck_assert_uint_eq(temp_count(&small), 0);
        umount(mount_at);
    } else {
        printf("no small file system can be mounted, the test of a full one is left out\n");
    }
    rmdir(mount_at);
}
END_TEST

START_TEST(refused) {
    sg_convert_options o = usual_job();
    static const struct {
        shape s;
        sg_status status;
        const char *words;
    } sources[] = {
        { { 64, 32, 1, SG_DTYPE_F32, SG_DTYPE_F32, SG_DTYPE_F32, .powerinfer = "starcoder" }, SG_E_UNSUPPORTED, "\"starcoder\"" },
        { { 64, 32, 2, SG_DTYPE_F32, SG_DTYPE_F32, SG_DTYPE_F32, .first = 2, .end = 2 }, SG_E_UNSUPPORTED, "no feed-forward layer" },
    };
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        make_gguf("in.gguf", &sources[i].s);
        fails(sg_convert(&o, err), sources[i].status, sources[i].words);
    }
    make_gguf("in.gguf", &usual);
    o.type = "bf16";
    fails(sg_convert(&o, err), SG_E_ARG, "no bf16");
    o.type = "q4_k";
    fails(sg_convert(&o, err), SG_E_ARG, "q4_k");
    o.type = NULL;
    o.cluster = 48;
    fails(sg_convert(&o, err), SG_E_ARG, "48");
    o.cluster = 0;
    o.output = in_dir("out.gguf");
    fails(sg_convert(&o, err), SG_E_UNSUPPORTED, "GGUF file already");
    o.format = SG_CONVERT_BIN;
    ok(sg_convert(&o, err));
    o.input = in_dir("out.gguf");
    o.output = in_dir(BIN);
    fails(sg_convert(&o, err), SG_E_UNSUPPORTED, "model.bin already");
    o.format = SG_CONVERT_GGUF;
    o.down_type = "q8_0";
    write_llama_folder();
    o.input = dir.path;
    fails(sg_convert(&o, err), SG_E_ARG, "only model.bin");
    ck_assert(!exists(BIN));
}
END_TEST

/* Tensors of a layer that do not belong together. */
static void make_odd(const char *stem, unsigned ne0, unsigned ne1) {
    static const char *const stems[] = { "ffn_gate", "ffn_up", "ffn_down" };
    sg_gguf_writer *w;
    ok(sg_gguf_writer_create(in_dir("in.gguf"), 32, true, &w, err));
    sg_gguf_writer_str(w, "general.architecture", "llama");
    sg_gguf_writer_u32(w, "llama.block_count", 1);
    for (int pass = 0; pass < 2; pass++) {
        if (pass) ok(sg_gguf_writer_begin_data(w, err));
        for (int i = 0; i < 3; i++) {
            char name[64];
            const bool odd = strcmp(stems[i], stem) == 0;
            snprintf(name, sizeof name, "blk.0.%s.weight", stems[i]);
            if (odd && ne0 == 0) continue;
            put_tensor(w, name, SG_DTYPE_F32, 1, odd ? ne0 : i < 2 ? 32 : 64, odd ? ne1 : i < 2 ? 64 : 32, pass == 1);
        }
    }
    ok(sg_gguf_writer_finish(w, err));
    sg_gguf_writer_abort(&w);
}

START_TEST(odd_layers) {
    sg_convert_options o = bin_options(in_dir("in.gguf"));
    make_odd("", 0, 0);
    ok(sg_convert(&o, err));
    unlink(in_dir(BIN));
    make_odd("ffn_gate", 32, 65);
    fails(sg_convert(&o, err), SG_E_FORMAT, "blk.0.ffn_gate.weight is 32 x 65, expected 32 x 64");
    make_odd("ffn_down", 32, 64);
    fails(sg_convert(&o, err), SG_E_FORMAT, "blk.0.ffn_down.weight is 32 x 64, expected 64 x 32");
    make_odd("ffn_down", 0, 0);
    fails(sg_convert(&o, err), SG_E_FORMAT, "blk.0.ffn_down.weight is missing");
    make_odd("ffn_up", 0, 0);
    fails(sg_convert(&o, err), SG_E_FORMAT, "blk.0.ffn_up.weight is missing");
    make_odd("ffn_up", 2000000, 1);
    fails(sg_convert(&o, err), SG_E_FORMAT, "no matrix");
    ck_assert(!exists(BIN));
}
END_TEST

/* Experts that do not belong together: ne2 of the three, 0: missing; a dense gate beside them. */
static void make_odd_experts(const unsigned ne2[3], bool dense) {
    static const char *const stems[] = { "ffn_gate", "ffn_up", "ffn_down" };
    sg_gguf_writer *w;
    ok(sg_gguf_writer_create(in_dir("in.gguf"), 32, true, &w, err));
    sg_gguf_writer_str(w, "general.architecture", "llama");
    sg_gguf_writer_u32(w, "llama.block_count", 1);
    for (int pass = 0; pass < 2; pass++) {
        if (pass) ok(sg_gguf_writer_begin_data(w, err));
        for (int i = 0; i < 3; i++) {
            char name[64];
            snprintf(name, sizeof name, "blk.0.%s_exps.weight", stems[i]);
            if (ne2[i] > 0) put_tensor3(w, name, SG_DTYPE_F32, 1, i < 2 ? 32 : 64, i < 2 ? 64 : 32, ne2[i], pass == 1);
            snprintf(name, sizeof name, "blk.0.%s.weight", stems[i]);
            if (dense) put_tensor(w, name, SG_DTYPE_F32, 1, i < 2 ? 32 : 64, i < 2 ? 64 : 32, pass == 1);
        }
    }
    ok(sg_gguf_writer_finish(w, err));
    sg_gguf_writer_abort(&w);
}

START_TEST(odd_experts) {
    sg_convert_options o = bin_options(in_dir("in.gguf"));
    make_odd_experts((unsigned[]) { 4, 4, 4 }, false);
    ok(sg_convert(&o, err));
    unlink(in_dir(BIN));
    make_odd_experts((unsigned[]) { 4, 3, 4 }, false);
    fails(sg_convert(&o, err), SG_E_FORMAT, "blk.0.ffn_up_exps.weight is for 3 experts, others of the layer for 4");
    make_odd_experts((unsigned[]) { 4, 4, 0 }, false);
    fails(sg_convert(&o, err), SG_E_FORMAT, "blk.0.ffn_down_exps.weight is missing");
    make_odd_experts((unsigned[]) { 4, 4, 4 }, true);
    fails(sg_convert(&o, err), SG_E_UNSUPPORTED, "layer 0 has a dense feed-forward part and experts");
    ck_assert(!exists(BIN));
}
END_TEST

static uint64_t state; /* xorshift64 (Marsaglia 2003) */
static void next_state(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
}

typedef struct tally {
    unsigned converted, refused;
} tally;

/* Of what was damaged at byte `at`. */
static void try_damaged(const sg_convert_options *o, size_t at, tally *t) {
    sg_error e = { 0 };
    unlink(in_dir(BIN));
    const sg_status status = sg_convert(o, &e);
    ck_assert_msg((status == SG_OK) == exists(BIN), "byte %zu: %s", at, e.message);
    if (status == SG_OK) {
        t->converted++;
        ok(sg_verify(in_dir(BIN), NULL, NULL, err));
    } else {
        t->refused++;
        ck_assert_msg(e.message[0] != 0 && status != SG_E_INTERNAL && status != SG_E_NOMEM, "byte %zu: %s", at, e.message);
    }
}

/* Any byte of the header changed: converted or refused with a sentence, never a crash, and never half a file. */
START_TEST(damaged_source) {
    const shape s = { 64, 96, 2, SG_DTYPE_Q4_0, SG_DTYPE_F16, SG_DTYPE_Q8_0, .rank = _i < 2 ? 24 : 0,
                      .powerinfer = _i == 1 ? "bamboo" : NULL, .n_expert = _i == 2 ? 3 : 0, .n_shared = _i == 2 ? 64 : 0 };
    make_gguf("in.gguf", &s);
    sg_convert_options o = bin_options(in_dir("in.gguf"));
    size_t n = 0;
    uint8_t *file = temp_read(in_dir("in.gguf"), &n);
    tally t = { 0 };
    state = 88172645463325252u;
    for (unsigned i = 0; i < 150; i++) {
        next_state();
        const size_t at = 4 + state % 1200;
        const uint8_t was = file[at];
        file[at] ^= (uint8_t)(1u << (state >> 40) % 8);
        ck_assert(temp_write(in_dir("in.gguf"), file, n));
        try_damaged(&o, at, &t);
        file[at] = was;
    }
    free(file);
    ck_assert_uint_le(temp_count(&dir), 2);
    ck_assert_msg(t.converted > 5 && t.refused > 20, "%u, %u", t.converted, t.refused);
}
END_TEST

/* The same of a folder: its configuration and the header of its weights. */
START_TEST(damaged_folder) {
    write_folder(&(folder_shape) { (folder_kind[]) { MIXTRAL, GRANITE, GPT2 }[_i], "BF16", 64, 75, 3, 40 });
    const unsigned files = temp_count(&dir);
    sg_convert_options o = bin_options(dir.path);
    char out[1024]; /* in_dir keeps eight names only */
    snprintf(out, sizeof out, "%s", o.output);
    o.output = out;
    tally t = { 0 };
    state = 88172645463325252u;
    for (unsigned i = 0; i < 150; i++) {
        next_state();
        char path[1024];
        snprintf(path, sizeof path, "%s", in_dir(i % 3 == 0 ? "config.json" : _i ? "model.safetensors" : "model-2.safetensors"));
        size_t n = 0;
        uint8_t *file = temp_read(path, &n);
        const size_t at = state % (i % 3 == 0 ? n : 1800);
        file[at] ^= (uint8_t)(1u << (state >> 40) % 4);
        ck_assert(temp_write(path, file, n));
        try_damaged(&o, at, &t);
        file[at] ^= (uint8_t)(1u << (state >> 40) % 4);
        ck_assert(temp_write(path, file, n));
        free(file);
    }
    ck_assert_uint_le(temp_count(&dir), files + 1);
    ck_assert_msg(t.converted > 5 && t.refused > 20, "%u, %u", t.converted, t.refused);
}
END_TEST

int main(void) {
    Suite *s = suite_create("convert_bin_faults");
    TCase *c = tcase_create("convert_bin_faults");
    tcase_set_timeout(c, 60);
    tcase_add_checked_fixture(c, fixture_setup, fixture_teardown);
    tcase_add_test(c, overwrite);
    tcase_add_loop_test(c, cancelled, 0, 8);
    tcase_add_loop_test(c, killed, 0, 2);
    tcase_add_test(c, progress_of_a_folder);
    tcase_add_loop_test(c, shrinking_source, 0, 2);
    tcase_add_loop_test(c, file_too_large, 0, 6);
    tcase_add_test(c, full_disk);
    tcase_add_test(c, refused);
    tcase_add_test(c, odd_layers);
    tcase_add_test(c, odd_experts);
    tcase_add_loop_test(c, damaged_source, 0, 3);
    tcase_add_loop_test(c, damaged_folder, 0, 3);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
