/* Calibration of a whole model.bin: no row is lost or changed, whatever the order, and the file is good. */
#include <fcntl.h>

#include "neuron_engine/bundle.h"
#include "runtime/calibrate/calibrate.h"
#include "tests/io/expect.h"
#include "tests/unit/convert_fixture.h"

#define MOE "smallthinker." /* keys of the demo mixture */

static char *story; /* a text of some hundred tokens, then another one */
static size_t story_len;

static void setup(void) {
    fixture_setup();
    static const char *const parts[] = { "Once upon a time, there was a little girl named Lily. She loved to play in the park with her red ball. ",
                                         "One day, a big dog came and took the ball. Lily was sad. Her mom said, \"Do not cry, we will find it.\" ",
                                         "Tom and his friend went to the lake to see the ducks. The ducks were happy and swam around in the water. " };
    sg_str s = { 0 };
    for (unsigned i = 0; i < 24; i++) sg_str_puts(&s, parts[(i * i + i / 5) % 3]);
    ck_assert(!s.failed);
    story = s.data;
    story_len = s.len;
    char path[1024];
    snprintf(path, sizeof path, "%s/models/demo/stories-drelu-5M.gguf", getenv("SG_SOURCE_ROOT"));
    sg_convert_options o = SG_CONVERT_OPTIONS_INIT;
    o.input = path;
    o.output = in_dir("in.bin");
    ok(sg_convert(&o, err));
}

static void teardown(void) {
    free(story);
    fixture_teardown();
}

static sg_calibrate_options options(const char *model, const char *output) {
    sg_calibrate_options o = SG_CALIBRATE_OPTIONS_INIT;
    o.model = in_dir(model);
    o.output = output ? in_dir(output) : NULL;
    o.text = story;
    o.len = story_len;
    o.n_ctx = 128;
    o.n_threads = 2;
    return o;
}

typedef struct bin {
    sg_gguf *g;
    uint8_t *bytes;
    sg_bundle_layout l;
} bin;

static uint32_t number(const sg_gguf *g, const char *key) {
    const sg_gguf_kv *kv = sg_gguf_find(g, key);
    return kv ? (uint32_t)sg_gguf_kv_number(kv, 0) : 0;
}

static bin open_file(const char *name) {
    bin b = { 0 };
    ok(sg_gguf_open(in_dir(name), &b.g, err));
    const uint64_t size = sg_gguf_file_size(b.g, 0);
    b.bytes = malloc(size);
    FILE *f = fopen(in_dir(name), "rb");
    ck_assert(f && fread(b.bytes, 1, size, f) == size);
    fclose(f);
    const bool dense = sg_gguf_find(b.g, "llama.feed_forward_length");
    b.l = (sg_bundle_layout){ .n_neurons = number(b.g, dense ? "llama.feed_forward_length" : MOE "expert_feed_forward_length"),
                              .k = number(b.g, dense ? "llama.embedding_length" : MOE "embedding_length"),
                              .n_expert = number(b.g, MOE "expert_count"),
                              .per_cluster = number(b.g, "sparsegen.bundle.neurons"), .gated = true,
                              .gate_type = (sg_dtype)number(b.g, "sparsegen.bundle.gate_type"),
                              .up_type = (sg_dtype)number(b.g, "sparsegen.bundle.up_type"),
                              .down_type = (sg_dtype)number(b.g, "sparsegen.bundle.down_type") };
    ck_assert(sg_bundle_layout_init(&b.l));
    return b;
}

static void close_file(bin *b) {
    sg_gguf_close(&b->g);
    free(b->bytes);
}

/* Bytes of blk.LAYER.STEM; NULL without. */
static const uint8_t *data(const bin *b, uint32_t layer, const char *stem) {
    char name[64];
    snprintf(name, sizeof name, "blk.%u.%s", layer, stem);
    const sg_tensor_info *t = sg_gguf_tensor(b->g, name);
    return t ? b->bytes + t->offset : NULL;
}

static uint32_t neurons(const bin *b) { return b->l.n_neurons * (b->l.n_expert ? b->l.n_expert : 1); }

/* place: of all experts, one after the other. */
static uint32_t source_of(const bin *b, uint32_t layer, uint32_t place) {
    const uint8_t *order = data(b, layer, "ffn_order");
    uint32_t v = place % b->l.n_neurons;
    if (order) memcpy(&v, order + 4 * (size_t)place, 4);
    return v;
}

static const uint8_t *cluster(const bin *b, uint32_t layer, uint32_t i) {
    const uint32_t n = b->l.n_neurons;
    return data(b, layer, "ffn_bundle") + (i / n * b->l.per_expert + i % n / b->l.per_cluster) * b->l.cluster_bytes;
}
static const uint8_t *gate(const bin *b, uint32_t layer, uint32_t i) {
    return cluster(b, layer, i) + i % b->l.n_neurons % b->l.per_cluster * b->l.gate_row;
}
static const uint8_t *record(const bin *b, uint32_t layer, uint32_t i) {
    return cluster(b, layer, i) + b->l.records_at + i % b->l.n_neurons % b->l.per_cluster * b->l.record;
}

/* Every neuron of the source once, in its expert, with its rows, in falling order of the counts; the other tensors as they were. */
static void expect_same_neurons(const bin *old, const bin *new, uint32_t n_layer) {
    for (uint32_t l = 0; l < n_layer; l++) {
        const uint8_t *counts = data(new, l, "ffn_counts");
        uint8_t *seen = calloc(neurons(new), 1);
        uint32_t last = UINT32_MAX, moved = 0;
        ck_assert(counts != NULL);
        for (uint32_t i = 0; i < neurons(new); i++) {
            const uint32_t in_expert = source_of(new, l, i), source = i - i % new->l.n_neurons + in_expert;
            uint32_t count;
            if (i % new->l.n_neurons == 0) last = UINT32_MAX;
            memcpy(&count, counts + 4 * (size_t)i, 4);
            ck_assert(in_expert < new->l.n_neurons && !seen[source]);
            seen[source] = 1;
            moved += source != i;
            ck_assert_msg(memcmp(gate(new, l, i), gate(old, l, source), old->l.gate_row) == 0, "layer %u place %u: another gate row", l, i);
            ck_assert_msg(memcmp(record(new, l, i), record(old, l, source), old->l.record) == 0, "layer %u place %u: other rows", l, i);
            ck_assert_msg(count <= last, "layer %u place %u: %u after %u", l, i, count, last);
            last = count;
        }
        ck_assert_uint_gt(moved, neurons(new) / 2);
        free(seen);
    }
    for (size_t i = 0; i < sg_gguf_n_tensors(old->g); i++) {
        const sg_tensor_info *t = sg_gguf_tensor_at(old->g, i), *u = sg_gguf_tensor(new->g, t->name);
        if (strstr(t->name, "ffn_bundle") || strcmp(t->name, "sparsegen.checksums") == 0) continue;
        ck_assert_msg(u && u->n_bytes == t->n_bytes && memcmp(old->bytes + t->offset, new->bytes + u->offset, t->n_bytes) == 0,
                      "tensor %s is not as it was", t->name);
    }
}

/* Predictors lie in the new order: the signs are those of the gate rows beside them. */
static void expect_predictors(const bin *b, uint32_t n_layer) {
    float *row = malloc(b->l.k * sizeof *row);
    for (uint32_t l = 0; l < n_layer; l++) {
        const uint8_t *signs = data(b, l, "ffn_pred_a");
        ck_assert(signs != NULL && data(b, l, "ffn_pred_bias") && !data(b, l, "ffn_pred_b"));
        for (uint32_t i = 0; i < b->l.n_neurons; i++) {
            sg_dot_row_unpack(b->l.gate_type, row, gate(b, l, i), b->l.k);
            for (uint32_t j = 0; j < b->l.k; j++)
                ck_assert_uint_eq(signs[(size_t)i * b->l.k / 8 + j / 8] >> (j % 8) & 1, row[j] < 0);
        }
    }
    free(row);
}

/* The likeliest continuation, in `ram` bytes (0: as many as it takes), and how many neurons were active. */
typedef struct outcome {
    int32_t text[24];
    uint64_t active;
} outcome;

static outcome run(const char *name, uint64_t ram, float threshold) {
    outcome out;
    sg_model_options mo = SG_MODEL_OPTIONS_INIT;
    sg_session_options so = SG_SESSION_OPTIONS_INIT;
    sg_model *m = NULL;
    sg_session *s = NULL;
    mo.ram = ram;
    mo.session = &so;
    so.n_ctx = 64;
    so.lossy_threshold = threshold;
    ok(sg_model_open(in_dir(name), &mo, &m, err));
    ok(sg_session_create(m, &so, &s, err));
    ok(sg_session_feed_text(s, "Once upon a time", 16, err));
    const size_t n_vocab = sg_model_get_info(m)->n_vocab;
    for (size_t i = 0; i < sizeof out.text / sizeof *out.text; i++) {
        const float *row = sg_session_logits(s, 0);
        int32_t best = 0;
        for (size_t t = 1; t < n_vocab; t++)
            if (row[t] > row[best]) best = (int32_t)t;
        out.text[i] = best;
        ok(sg_session_feed(s, &best, 1, 1, err));
    }
    out.active = sg_session_get_stats(s).neurons_active;
    sg_session_destroy(&s);
    sg_model_close(&m);
    return out;
}

START_TEST(whole) {
    char *report = NULL, *plot = NULL;
    sg_calibrate_options o = options("in.bin", "one.bin");
    ok(sg_calibrate(&o, &report, &plot, err));
    ok(sg_verify(in_dir("one.bin"), NULL, NULL, err));
    ck_assert(strstr(report, "5 layers of 1024 neurons") && strstr(report, "activity of the neurons") && strstr(report, "sign"));
    ck_assert(strncmp(plot, "<svg ", 5) == 0 && strstr(plot, "</svg>\n") && strstr(plot, "polyline"));
    sg_free(report);
    sg_free(plot);
    bin in = open_file("in.bin"), one = open_file("one.bin");
    expect_same_neurons(&in, &one, 5);
    const sg_gguf_kv *kinds = sg_gguf_find(one.g, "sparsegen.predictor.kind"), *shares = sg_gguf_find(one.g, "sparsegen.calibration.thresholds");
    ck_assert(kinds && kinds->n == 5 && shares && shares->n == 5 * SG_CAL_SHARES);
    for (uint32_t l = 0; l < 5; l++) /* thresholds rise with the shares */
        for (uint32_t i = 1; i < SG_CAL_SHARES; i++)
            ck_assert(sg_gguf_kv_number(shares, l * SG_CAL_SHARES + i) >= sg_gguf_kv_number(shares, l * SG_CAL_SHARES + i - 1));
    const outcome before = run("in.bin", 0, 0), after = run("one.bin", 0, 0);
    ck_assert_msg(memcmp(before.text, after.text, sizeof before.text) == 0, "the text has changed");
    close_file(&in);
    close_file(&one);
}
END_TEST

/* Twice, the second time in place and with another text: the order is still that of the source. */
START_TEST(again) {
    sg_calibrate_options o = options("in.bin", "one.bin");
    o.no_predictors = true;
    ok(sg_calibrate(&o, NULL, NULL, err));
    o = options("one.bin", NULL);
    o.len = story_len / 3;
    o.budget = 1; /* of which some remain, and everything that was learned before goes */
    ok(sg_calibrate(&o, NULL, NULL, err));
    ok(sg_verify(in_dir("one.bin"), NULL, NULL, err));
    bin in = open_file("in.bin"), one = open_file("one.bin");
    expect_same_neurons(&in, &one, 5);
    close_file(&in);
    close_file(&one);
}
END_TEST

/* A mixture, twice: every expert is sorted by itself; thresholds leave neurons out, in memory and where experts are read. */
START_TEST(experts) {
    char path[1024], *report = NULL;
    snprintf(path, sizeof path, "%s/models/demo/stories-moe-25M.gguf", getenv("SG_SOURCE_ROOT"));
    sg_convert_options conv = SG_CONVERT_OPTIONS_INIT;
    conv.input = path;
    conv.output = in_dir("moe.bin");
    ok(sg_convert(&conv, err));
    sg_calibrate_options o = options("moe.bin", "one.bin");
    o.only = "sign";
    fails(sg_calibrate(&o, NULL, NULL, err), SG_E_UNSUPPORTED, "gets no predictors");
    o.only = NULL;
    ok(sg_calibrate(&o, NULL, NULL, err));
    o = options("one.bin", NULL);
    o.len = story_len / 3;
    ok(sg_calibrate(&o, &report, NULL, err));
    ck_assert(strstr(report, "5 layers of 24 experts of 256 neurons") && strstr(report, "clusters touched") && strstr(report, "no predictors"));
    sg_free(report);
    ok(sg_verify(in_dir("one.bin"), NULL, NULL, err));
    bin in = open_file("moe.bin"), one = open_file("one.bin");
    ck_assert_uint_eq(in.l.n_expert, 24);
    expect_same_neurons(&in, &one, 5);
    const sg_tensor_info *counts = sg_gguf_tensor(one.g, "blk.0.ffn_counts");
    ck_assert(counts && counts->ne[0] == 256 && counts->ne[1] == 24);
    close_file(&in);
    close_file(&one);
    const outcome before = run("moe.bin", 0, 0), after = run("one.bin", 0, 0), less = run("one.bin", 0, 0.9f), away = run("one.bin", 9 << 20, 0.9f);
    ck_assert_msg(memcmp(before.text, after.text, sizeof before.text) == 0, "the text has changed");
    ck_assert_uint_eq(before.active, after.active);
    ck_assert_uint_lt(2 * less.active, after.active);
    ck_assert_uint_eq(less.active, away.active);
    ck_assert(memcmp(less.text, away.text, sizeof less.text) == 0);
}
END_TEST

/* As many passes as layers give the same file as one. */
START_TEST(passes) {
    sg_calibrate_options o = options("in.bin", "one.bin");
    ok(sg_calibrate(&o, NULL, NULL, err));
    o.output = in_dir("two.bin");
    o.ram_bytes = 1 << 20;
    ok(sg_calibrate(&o, NULL, NULL, err));
    bin one = open_file("one.bin"), two = open_file("two.bin");
    ck_assert_uint_eq(sg_gguf_file_size(one.g, 0), sg_gguf_file_size(two.g, 0));
    ck_assert(memcmp(one.bytes, two.bytes, sg_gguf_file_size(one.g, 0)) == 0);
    close_file(&one);
    close_file(&two);
}
END_TEST

static bool stop(void *user, uint64_t done, uint64_t total) { return false; }

START_TEST(refused) {
    sg_calibrate_options o = options("in.bin", "one.bin");
    char path[1024];
    snprintf(path, sizeof path, "%s/models/demo/stories-drelu-5M.gguf", getenv("SG_SOURCE_ROOT"));
    o.model = path;
    fails(sg_calibrate(&o, NULL, NULL, err), SG_E_UNSUPPORTED, "only a model.bin");
    o = options("none.bin", "one.bin");
    fails(sg_calibrate(&o, NULL, NULL, err), SG_E_NOT_FOUND, "none.bin");
    o = options("in.bin", "one.bin");
    o.len = 20;
    fails(sg_calibrate(&o, NULL, NULL, err), SG_E_ARG, "tokens");
    o = options("in.bin", "in.bin");
    fails(sg_calibrate(&o, NULL, NULL, err), SG_E_EXISTS, "in.bin");
    o = options("in.bin", "one.bin");
    o.ram_bytes = 100;
    fails(sg_calibrate(&o, NULL, NULL, err), SG_E_ARG, "memory");
    o = options("in.bin", "one.bin");
    o.budget = NAN;
    fails(sg_calibrate(&o, NULL, NULL, err), SG_E_ARG, "budget");
    o = options("in.bin", "one.bin");
    o.progress = stop;
    fails(sg_calibrate(&o, NULL, NULL, err), SG_E_CANCELLED, "cancelled");
    o = options("in.bin", "one.bin");
    o.dry_run = true;
    ok(sg_calibrate(&o, NULL, NULL, err));
    ck_assert_uint_eq(temp_count(&dir), 1); /* in.bin, and nothing half written */
}
END_TEST

/* The kind that needs no LAPACK, whose rows can be recognised. */
START_TEST(signs) {
    sg_calibrate_options o = options("in.bin", "one.bin");
    o.budget = 0.2;
    o.only = "sign";
    ok(sg_calibrate(&o, NULL, NULL, err));
    bin one = open_file("one.bin");
    expect_predictors(&one, 5);
    close_file(&one);
}
END_TEST

int main(void) {
    Suite *s = suite_create("calibrate_bin");
    TCase *t = tcase_create("calibrate_bin");
    tcase_set_timeout(t, 250);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, whole);
    tcase_add_test(t, again);
    tcase_add_test(t, experts);
    tcase_add_test(t, passes);
    tcase_add_test(t, refused);
    tcase_add_test(t, signs);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
