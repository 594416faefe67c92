/* What calibration fits to routers: on made-up streams whose answer is known, and on a whole model. */
#include <math.h>

#include "neuron_engine/quant.h"
#include "runtime/calibrate/calibrate.h"
#include "runtime/session_private.h"
#include "tests/io/expect.h"
#include "tests/unit/convert_fixture.h"

enum { K = 32, EXPERTS = 8, USED = 2, TOKENS = 3000, BATCH = 7 };

static uint64_t state;

static float draw(void) { /* about normal */
    double sum = 0;
    for (int i = 0; i < 12; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        sum += (double)(state >> 11) / 9007199254740992.0;
    }
    return (float)(sum - 6);
}

static void fill(float *x, size_t n, float scale) {
    for (size_t i = 0; i < n; i++) x[i] = scale * draw();
}

static sg_linalg la;

static void begin(void) {
    state = 88172645463325252u;
    ck_assert(sg_linalg_open(&la, 2));
}

/* ---- least squares ---- */

START_TEST(linear_relation) {
    begin();
    float w[EXPERTS * K], offset[EXPERTS], rows[EXPERTS * K], bias[EXPERTS], scratch[K * K], *y = calloc(TOKENS * EXPERTS, sizeof *y);
    uint16_t *x = malloc(TOKENS * K * sizeof *x);
    fill(w, EXPERTS * K, 1);
    fill(offset, EXPERTS, 3);
    for (uint32_t i = 0; i < TOKENS * K; i++) x[i] = sg_f32_to_f16(draw() * (float)(1 + i % 3) + (float)(i % K % 5)); /* far from 0 in the mean */
    ok(sg_cal_apply(&la, w, offset, x, TOKENS, K, EXPERTS, y, err));
    for (uint32_t s = 0; s < TOKENS; s += 977)
        for (uint32_t e = 0; e < EXPERTS; e++) {
            double want = (double)offset[e];
            for (uint32_t i = 0; i < K; i++) want += (double)w[e * K + i] * (double)sg_f16_to_f32(x[s * K + i]);
            ck_assert_double_eq_tol((double)y[s * EXPERTS + e], want, 1e-4);
        }
    sg_cal_normal p;
    ok(sg_cal_normal_make(&la, x, y, TOKENS, K, EXPERTS, &p, err));
    ck_assert(sg_cal_normal_solve(&la, &p, 1e-6, rows, bias, scratch));
    for (uint32_t i = 0; i < EXPERTS * K; i++) ck_assert_float_eq_tol(rows[i], w[i], 2e-3f);
    for (uint32_t e = 0; e < EXPERTS; e++) ck_assert_float_eq_tol(bias[e], offset[e], 2e-2f);
    /* a huge ridge leaves the mean */
    ck_assert(sg_cal_normal_solve(&la, &p, 1e6, rows, bias, scratch));
    for (uint32_t i = 0; i < EXPERTS * K; i++) ck_assert(fabsf(rows[i]) < 1e-4f);
    for (uint32_t e = 0; e < EXPERTS; e++) ck_assert_float_eq_tol(bias[e], p.my[e], 1e-2f);
    sg_cal_normal_finish(&p);
    /* nothing varies: there is no fit */
    for (uint32_t i = 0; i < TOKENS * K; i++) x[i] = sg_f32_to_f16(1);
    ok(sg_cal_normal_make(&la, x, y, TOKENS, K, EXPERTS, &p, err));
    ck_assert(!sg_cal_normal_solve(&la, &p, 1, rows, bias, scratch));
    sg_cal_normal_finish(&p);
    free(x);
    free(y);
    sg_linalg_close(&la);
}
END_TEST

/* ---- layers ---- */

/* Layers 1, 2 and 3 have experts. The stream of layer 1 is what layer 2 sees; layer 3 sees that of layer 2, turned a little. */
typedef struct rig {
    sg_kernels kernels;
    sg_cal_routes r;
    float w[3][EXPERTS * K], turn[EXPERTS * K], norm[K], from_token[EXPERTS * K];
} rig;

static float *copy_of(const float *x, size_t n) {
    float *out = malloc(n * sizeof *out);
    memcpy(out, x, n * sizeof *out);
    return out;
}

static void rig_init(rig *g) {
    memset(g, 0, sizeof *g);
    sg_kernels_init(&g->kernels, sg_cpu_detect());
    g->r = (sg_cal_routes) { .n = 3, .n_expert = EXPERTS, .k = K, .path = "made up", .vec = &g->kernels.vec, .norm = SG_NORM_RMS, .eps = 1e-6f,
                             .n_tokens = TOKENS, .n_train = TOKENS * 4 / 5, .most_samples = 1500,
                             .router = { .kind = SG_ROUTER_SOFTMAX, .n_expert = EXPERTS, .n_used = USED, .normalise = true, .scale = 1 } };
    g->r.layer = calloc(3, sizeof *g->r.layer);
    for (uint32_t i = 0; i < K; i++) g->norm[i] = 1 + 0.5f * (float)(i % 3);
    fill(g->turn, EXPERTS * K, 0.7f);
    fill(g->from_token, EXPERTS * K, 1);
    for (uint32_t i = 0; i < 3; i++) {
        sg_cal_route *l = &g->r.layer[i];
        fill(g->w[i], EXPERTS * K, 1);
        l->layer = i + 1;
        l->follows = i > 0;
        l->norm = g->norm;
        l->w = copy_of(g->w[i], EXPERTS * K);
        for (int s = 0; s < SG_CAL_GUESSES; s++) l->share[s] = -1;
    }
}

static void product(const float *w, const float *x, float *y) {
    for (uint32_t e = 0; e < EXPERTS; e++)
        for (uint32_t i = 0; i < K; i++) y[e] += w[e * K + i] * x[i];
}

/* The text passes by. Layer 1 routes by the token alone (and the stream has nothing to do with it), layer 2 by what its router says of the stream of
 * layer 1, layer 3 by what its router and `turn` say of the stream of layer 2. */
static void pass(rig *g, float noise) {
    for (uint32_t at = 0; at < TOKENS; at += BATCH) {
        const uint32_t n = TOKENS - at < BATCH ? TOKENS - at : BATCH;
        float e[BATCH * (K + 3)], x[2][BATCH * K], y[3][BATCH * (EXPERTS + 1)] = { { 0 } };
        for (uint32_t t = 0; t < n; t++) {
            float seen[K];
            fill(e + t * (K + 3), K, 5); /* its size must not matter */
            g->kernels.vec.rmsnorm(seen, e + t * (K + 3), g->r.ones, K, 1e-6f);
            product(g->from_token, seen, y[0] + t * (EXPERTS + 1));
            for (int l = 0; l < 2; l++) {
                fill(x[l] + t * K, K, 2);
                g->kernels.vec.rmsnorm(seen, x[l] + t * K, g->norm, K, 1e-6f);
                product(g->w[l + 1], seen, y[l + 1] + t * (EXPERTS + 1));
                if (l == 1) product(g->turn, seen, y[2] + t * (EXPERTS + 1));
            }
            for (int l = 0; l < 3; l++)
                for (uint32_t i = 0; i < EXPERTS; i++) y[l][t * (EXPERTS + 1) + i] += noise * draw();
        }
        sg_cal_see_rows(&g->r, SG_SEEN_EMBEDDED, 0, e, K + 3, n);
        for (uint32_t l = 0; l < 3; l++) {
            sg_cal_see_rows(&g->r, SG_SEEN_ROUTER, l + 1, y[l], EXPERTS + 1, n);
            if (l < 2) sg_cal_see_stream(&g->r, l + 1, x[l], K, n);
        }
    }
}

static void rig_run(rig *g, uint32_t per_pass) {
    for (uint32_t first = 0; first < 4; first += per_pass) {
        const uint64_t before = state;
        ok(sg_cal_routes_begin(&g->r, first, first + per_pass, err));
        pass(g, 0);
        for (uint32_t l = first; l < first + per_pass; l++) ok(sg_cal_fit_layer(&g->r, l, &la, err));
        sg_cal_routes_end_samples(&g->r, first, first + per_pass);
        if (first + per_pass < 4) state = before; /* the same text again */
    }
    ok(sg_cal_choose_hints(&g->r, err));
}

START_TEST(known_layers) {
    begin();
    rig g;
    rig_init(&g);
    rig_run(&g, _i == 0 ? 4 : 2);
    const sg_cal_route *one = &g.r.layer[0], *two = &g.r.layer[1], *three = &g.r.layer[2];
    ck_assert(one->share[SG_CAL_GUESS_ROUTER] < 0 && one->share[SG_CAL_GUESS_AHEAD] < 0 && !one->wanted && !one->ahead.rows);
    ck_assert_msg(one->share[SG_CAL_GUESS_PRE] > 0.98, "layer 1, pre-gate: %g", one->share[SG_CAL_GUESS_PRE]);
    ck_assert(one->share[SG_CAL_GUESS_USED] > 0.15 && one->share[SG_CAL_GUESS_USED] < 0.4);
    /* there is nothing to correct, and so nothing is written */
    ck_assert_msg(two->share[SG_CAL_GUESS_ROUTER] > 0.99, "layer 2, router: %g", two->share[SG_CAL_GUESS_ROUTER]);
    ck_assert(two->share[SG_CAL_GUESS_AHEAD] > 0.99 && !two->wanted && !two->ahead.rows);
    ck_assert(two->share[SG_CAL_GUESS_PRE] < 0.4); /* by chance: a quarter */
    ck_assert_msg(three->share[SG_CAL_GUESS_ROUTER] < 0.85, "layer 3, router: %g", three->share[SG_CAL_GUESS_ROUTER]);
    ck_assert_msg(three->share[SG_CAL_GUESS_AHEAD] > 0.98, "layer 3, corrected: %g", three->share[SG_CAL_GUESS_AHEAD]);
    ck_assert(three->wanted && three->ahead.type == SG_DTYPE_F16 && three->ahead.bytes == EXPERTS * K * 2);
    for (uint32_t i = 0; i < EXPERTS * K; i++) { /* W + D */
        uint16_t v;
        memcpy(&v, three->ahead.rows + 2 * i, 2);
        ck_assert_float_eq_tol(sg_f16_to_f32(v), g.w[2][i] + g.turn[i], 0.02f);
    }
    /* what names nothing but the first layer is worth it, for nothing else does that; rows of all layers, in their order */
    ck_assert(g.r.pre.rows && g.r.pre.bytes == 3 * EXPERTS * K * 2);
    for (uint32_t i = 0; i < EXPERTS * K; i++) {
        uint16_t v;
        memcpy(&v, g.r.pre.rows + 2 * i, 2);
        ck_assert_float_eq_tol(sg_f16_to_f32(v), g.from_token[i], 0.02f);
    }
    sg_str report = { 0 };
    sg_cal_routes_report(&g.r, &report);
    ck_assert(strstr(report.data, "    1") && strstr(report.data, "correction written") && strstr(report.data, "embedding, written"));
    free(report.data);
    sg_cal_routes_finish(&g.r);
    sg_linalg_close(&la);
}
END_TEST

/* When the pre-gate is worth its bytes: with nothing to compare, in the mean against look-ahead, by a margin; ahead likewise. */
START_TEST(choice) {
    static const struct { float used, pre_first, router, ahead, pre; bool wants_ahead, wants_pre; } c[] = {
        { 0.2f, 0.6f, 0.8f, 0.83f, 0.3f, true, true },   { 0.2f, 0.49f, 0.8f, 0.81f, 0.3f, false, false },
        { 0.59f, 0.6f, 0.8f, 0.7f, 0.3f, false, false }, { 0.2f, 0.3f, 0.5f, 0.6f, 0.63f, true, true },
        { 0.2f, 0.3f, 0.5f, 0.6f, 0.61f, true, false },  { 0.2f, 0.3f, 0.5f, 0.51f, 0.53f, false, true } };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        rig g;
        rig_init(&g);
        for (uint32_t l = 0; l < 3; l++) {
            sg_cal_route *t = &g.r.layer[l];
            t->pre = calloc(EXPERTS * K, sizeof *t->pre);
            t->pre_bias = calloc(EXPERTS, sizeof *t->pre_bias);
            t->share[SG_CAL_GUESS_USED] = (double)c[i].used;
            t->share[SG_CAL_GUESS_PRE] = (double)(l ? c[i].pre : c[i].pre_first);
            if (l == 0) continue;
            t->share[SG_CAL_GUESS_ROUTER] = (double)c[i].router;
            t->share[SG_CAL_GUESS_AHEAD] = (double)c[i].ahead;
            ck_assert(sg_cal_hint_make(&t->ahead, SG_DTYPE_F16, t->pre, t->pre_bias, EXPERTS, K));
        }
        ok(sg_cal_choose_hints(&g.r, err));
        ck_assert_msg((g.r.pre.rows != NULL) == c[i].wants_pre, "case %zu: the pre-gate", i);
        for (uint32_t l = 1; l < 3; l++) ck_assert_msg(g.r.layer[l].wanted == c[i].wants_ahead && (g.r.layer[l].ahead.rows != NULL) == c[i].wants_ahead, "case %zu", i);
        sg_cal_routes_finish(&g.r);
    }
    ck_assert(sg_cal_hint_type(128, 4096) == SG_DTYPE_F16 && sg_cal_hint_type(48 * 128, 2048) == SG_DTYPE_Q8_0 && sg_cal_hint_type(48 * 128, 2040) == SG_DTYPE_F16);
}
END_TEST

/* ---- a whole model ---- */

static const char *demo(void) {
    static char path[1024];
    snprintf(path, sizeof path, "%s/models/demo/stories-moe-25M.gguf", getenv("SG_SOURCE_ROOT"));
    return path;
}

static sg_str story;

static void setup(void) {
    fixture_setup();
    static const char *const parts[] = { "Once upon a time, there was a little girl named Lily. She loved to play in the park with her red ball. ",
                                         "One day, a big dog came and took the ball. Lily was sad. Her mom said, \"Do not cry, we will find it.\" ",
                                         "Tom and his friend went to the lake to see the ducks. The ducks were happy and swam around in the water. " };
    story = (sg_str) { 0 };
    for (unsigned i = 0; i < 24; i++) sg_str_puts(&story, parts[(i * i + i / 5) % 3]);
    sg_convert_options o = SG_CONVERT_OPTIONS_INIT;
    o.input = demo();
    o.output = in_dir("in.bin");
    ok(sg_convert(&o, err));
}

static void teardown(void) {
    free(story.data);
    fixture_teardown();
}

static void calibrate(const char *from, const char *to, bool no_ahead, uint64_t ram) {
    sg_calibrate_options o = SG_CALIBRATE_OPTIONS_INIT;
    o.model = in_dir(from);
    o.output = to ? in_dir(to) : NULL;
    o.text = story.data;
    o.len = story.len;
    o.n_ctx = 128;
    o.n_threads = 2;
    o.no_ahead = no_ahead;
    o.ram_bytes = ram;
    ok(sg_calibrate(&o, NULL, NULL, err));
}

/* What is seen is what the model routes by. */
typedef struct witness {
    const sg_model *m;
    uint32_t token, embedded, routed, streams;
    float products[24];
} witness;

static void see_rows(void *user, sg_seen what, uint32_t layer, const float *rows, size_t ld, uint32_t n) {
    witness *w = user;
    ck_assert_uint_eq(n, 1);
    if (what == SG_SEEN_ROUTER) {
        memcpy(w->products, rows, sizeof w->products);
        return;
    }
    float want[256];
    sg_matrix_row(&w->m->weights.globals[SG_T_TOKEN_EMBD].m, w->token, want);
    ck_assert(memcmp(rows, want, sizeof want) == 0);
    w->embedded++;
}

static void see_route(void *user, uint32_t layer, const sg_ffn_route *route) {
    witness *w = user;
    float lowest = INFINITY;
    for (uint32_t i = 0; i < route->n_used; i++) lowest = fminf(lowest, w->products[route->expert[i]]);
    for (uint32_t e = 0; e < 24; e++)
        ck_assert_msg(w->products[e] <= lowest || e == route->expert[0] || e == route->expert[1], "layer %u, token %u: expert %u has %g, those of the route %g",
                      layer, w->token, e, (double)w->products[e], (double)lowest);
    w->routed++;
}

static void see_unit(void *user, const sg_ffn_sample *s) {
    ck_assert(s->expert && s->n_used == 2 && s->n == 1);
    ((witness *)user)->streams++;
}

START_TEST(what_is_seen) {
    sg_model *m = NULL;
    sg_session *s = NULL;
    ok(sg_model_open(in_dir("in.bin"), NULL, &m, err));
    ok(sg_session_create(m, NULL, &s, err));
    witness w = { .m = m };
    sg_session_observe_rows(s, see_rows, &w);
    ok(sg_session_observe(s, see_unit, &w, err));
    s->exec.on_route = see_route;
    s->exec.on_route_user = &w;
    for (w.token = 300; w.token < 312; w.token++) ok(sg_session_feed(s, &(int32_t) { (int32_t)w.token }, 1, 1, err));
    ck_assert_uint_eq(w.embedded, 12);
    ck_assert_uint_eq(w.routed, 12 * 5);
    ck_assert_uint_eq(w.streams, 12 * 5);
    sg_session_observe_rows(s, NULL, NULL);
    s->exec.on_route = NULL;
    ok(sg_session_feed(s, &(int32_t) { 300 }, 1, 1, err));
    ck_assert_uint_eq(w.embedded, 12);
    sg_session_destroy(&s);
    sg_model_close(&m);
}
END_TEST

/* What an observer sees of all units: sums by which any difference shows. */
typedef struct seen_sums {
    uint64_t gates, h, experts, residual;
    uint32_t units, tokens;
} seen_sums;

static uint64_t add_bits(uint64_t sum, const void *x, size_t n) {
    const uint32_t *v = x;
    for (size_t i = 0; i < n; i++) sum = (sum ^ v[i]) * 0x9e3779b97f4a7c15u + (sum >> 29);
    return sum;
}

static void sum_up(void *user, const sg_ffn_sample *s) {
    seen_sums *t = user;
    for (uint32_t i = 0; i < s->n; i++) {
        for (uint32_t u = 0; u < s->n_used; u++) {
            t->gates = add_bits(t->gates, s->gate + (size_t)i * s->ld + (size_t)u * s->apart, s->n_neurons);
            t->h = add_bits(t->h, s->h + (size_t)i * s->ld + (size_t)u * s->apart, s->n_neurons);
        }
        t->experts = add_bits(t->experts, s->expert + (size_t)i * s->n_used, s->n_used);
        t->residual = add_bits(t->residual, s->residual + (size_t)i * s->k, s->k);
    }
    t->units++;
    t->tokens += s->n;
}

static seen_sums observe(uint64_t ram, uint32_t batch) {
    sg_model_options mo = SG_MODEL_OPTIONS_INIT;
    sg_session_options so = SG_SESSION_OPTIONS_INIT;
    sg_model *m = NULL;
    sg_session *s = NULL;
    seen_sums t = { 0 };
    int32_t ids[30];
    for (int i = 0; i < 30; i++) ids[i] = 300 + 37 * i;
    so.n_ctx = 64;
    so.n_batch = batch;
    so.n_threads = 2;
    mo.ram = ram;
    mo.session = &so;
    ok(sg_model_open(in_dir("in.bin"), &mo, &m, err));
    ok(sg_session_create(m, &so, &s, err));
    ok(sg_session_observe(s, sum_up, &t, err));
    ok(sg_session_feed(s, ids, 30, 1, err));
    if (ram) ck_assert(sg_session_get_stats(s).experts.missed > 0);
    sg_session_destroy(&s);
    sg_model_close(&m);
    return t;
}

/* A model larger than memory is observed like any other. */
START_TEST(observed_away) {
    static const uint32_t batches[] = { 1, 16 };
    for (int i = 0; i < 2; i++) {
        const seen_sums in_ram = observe(0, batches[i]), from_file = observe(9u << 20, batches[i]);
        ck_assert_uint_eq(from_file.tokens, 5 * 30);
        ck_assert(memcmp(&in_ram, &from_file, sizeof in_ram) == 0);
    }
}
END_TEST

static const sg_tensor_info *find(const sg_gguf *g, const char *name) { return sg_gguf_tensor(g, name); }

static void expect_same_bytes(const char *a, const char *b) {
    FILE *fa = fopen(in_dir(a), "rb"), *fb = fopen(in_dir(b), "rb");
    static char x[1 << 16], y[1 << 16];
    size_t n;
    ck_assert(fa && fb);
    do {
        n = fread(x, 1, sizeof x, fa);
        ck_assert(fread(y, 1, sizeof y, fb) == n && memcmp(x, y, n) == 0);
    } while (n > 0);
    fclose(fa);
    fclose(fb);
}

/* Logits of a text, of a whole batch. */
static float *logits(const char *name, float threshold, uint64_t ram, size_t *n) {
    sg_model_options mo = SG_MODEL_OPTIONS_INIT;
    sg_session_options so = SG_SESSION_OPTIONS_INIT;
    sg_model *m = NULL;
    sg_session *s = NULL;
    int32_t *ids = NULL;
    size_t tokens;
    mo.ram = ram;
    so.n_ctx = 128;
    so.n_batch = 16;
    so.n_threads = 2;
    so.lossy_threshold = threshold;
    mo.session = &so;
    ok(sg_model_open(in_dir(name), &mo, &m, err));
    ok(sg_session_create(m, &so, &s, err));
    ok(sg_tokenize(m, story.data + 200, 150, SG_TOKENIZE_BOS, &ids, &tokens, err));
    *n = tokens * sg_model_get_info(m)->n_vocab;
    float *out = malloc(*n * sizeof *out);
    ok(sg_session_feed(s, ids, tokens, tokens, err));
    memcpy(out, sg_session_logits(s, 0), *n * sizeof *out);
    if (ram) ck_assert(sg_session_get_stats(s).experts.missed > 0);
    sg_free(ids);
    sg_session_destroy(&s);
    sg_model_close(&m);
    return out;
}

static double nmse(const float *a, const float *b, size_t n) {
    double error = 0, sum = 0;
    for (size_t i = 0; i < n; i++) {
        error += (double)(a[i] - b[i]) * (double)(a[i] - b[i]);
        sum += (double)b[i] * (double)b[i];
    }
    return error / sum;
}

START_TEST(written) {
    sg_gguf *g = NULL;
    calibrate("in.bin", "one.bin", false, 0);
    ok(sg_verify(in_dir("one.bin"), NULL, NULL, err));
    ok(sg_gguf_open(in_dir("one.bin"), &g, err));
    sg_linalg there;
    if (sg_linalg_open(&there, 1)) {
        const sg_tensor_info *pre = find(g, "sparsegen.pregate.weight"), *bias = find(g, "sparsegen.pregate.bias");
        const sg_tensor_info *ahead = find(g, "blk.1.sparsegen.ahead.weight"), *offset = find(g, "blk.1.sparsegen.ahead.bias");
        ck_assert(pre && pre->type == SG_DTYPE_F16 && pre->ne[0] == 256 && pre->ne[1] == 24 * 5 && pre->n_dims == 2);
        ck_assert(bias && bias->type == SG_DTYPE_F32 && bias->ne[0] == 24 * 5 && bias->n_dims == 1);
        ck_assert(ahead && ahead->type == SG_DTYPE_F16 && ahead->ne[0] == 256 && ahead->ne[1] == 24 && ahead->n_dims == 2);
        ck_assert(offset && offset->type == SG_DTYPE_F32 && offset->ne[0] == 24 && offset->n_dims == 1);
        ck_assert(!find(g, "blk.0.sparsegen.ahead.weight"));
        sg_linalg_close(&there);
    }
    sg_gguf_close(&g);
    /* the same in as many passes as layers, and when it is done again; gone when they are not wanted */
    calibrate("in.bin", "two.bin", false, 1 << 20);
    calibrate("one.bin", "three.bin", false, 0);
    calibrate("one.bin", "none.bin", true, 0);
    sg_gguf *three = NULL, *none = NULL;
    ok(sg_gguf_open(in_dir("one.bin"), &g, err));
    ok(sg_gguf_open(in_dir("three.bin"), &three, err));
    ok(sg_gguf_open(in_dir("none.bin"), &none, err));
    ck_assert_uint_eq(sg_gguf_n_tensors(g), sg_gguf_n_tensors(three));
    expect_same_bytes("one.bin", "two.bin");
    size_t n_ours = 0;
    for (size_t i = 0; i < sg_gguf_n_tensors(g); i++) {
        const char *name = sg_gguf_tensor_at(g, i)->name;
        const bool ours = strstr(name, "sparsegen.ahead.") || strstr(name, "sparsegen.pregate.");
        n_ours += ours;
        ck_assert_msg(find(three, name) && (find(none, name) != NULL) == !ours, "tensor %s", name);
    }
    ck_assert_uint_eq(sg_gguf_n_tensors(none), sg_gguf_n_tensors(g) - n_ours);
    sg_gguf_close(&g);
    sg_gguf_close(&three);
    sg_gguf_close(&none);
}
END_TEST

/* Neurons that were sorted give the same up to the rounding of other sums; a threshold leaves out, in RAM and from the file alike. */
START_TEST(same_text) {
    size_t n, m;
    calibrate("in.bin", "one.bin", false, 0);
    float *before = logits("in.bin", 0, 0, &n), *after = logits("one.bin", 0, 0, &m);
    ck_assert_uint_eq(n, m);
    ck_assert_msg(nmse(after, before, n) < 1e-4, "sorted: NMSE %g", nmse(after, before, n));
    float *away = logits("one.bin", 0, 9u << 20, &m);
    ck_assert(memcmp(after, away, n * sizeof *after) == 0);
    free(away);
    double last = 0;
    for (int i = 0; i < 3; i++) {
        static const float share[] = { 0.8f, 0.9f, 0.97f };
        float *less = logits("one.bin", share[i], 0, &m);
        away = logits("one.bin", share[i], 9u << 20, &m);
        ck_assert_msg(memcmp(less, away, n * sizeof *less) == 0, "threshold %g: other logits when experts are read", (double)share[i]);
        ck_assert_msg(nmse(less, after, n) > 1.5 * last + 1e-5, "threshold %g: NMSE %g", (double)share[i], nmse(less, after, n));
        last = nmse(less, after, n);
        free(away);
        free(less);
    }
    free(before);
    free(after);
}
END_TEST

int main(void) {
    Suite *s = suite_create("calibrate_routes");
    TCase *t = tcase_create("fits"), *whole = tcase_create("whole");
    const bool fits = sg_linalg_open(&la, 1); /* else there is no OpenBLAS on this machine */
    if (fits) {
        sg_linalg_close(&la);
        tcase_add_test(t, linear_relation);
        tcase_add_loop_test(t, known_layers, 0, 2);
    }
    tcase_add_test(t, choice);
    suite_add_tcase(s, t);
    tcase_set_timeout(t, 120);
    tcase_set_timeout(whole, 250);
    tcase_add_checked_fixture(whole, setup, teardown);
    tcase_add_test(whole, what_is_seen);
    tcase_add_test(whole, observed_away);
    tcase_add_test(whole, written);
    tcase_add_test(whole, same_text);
    suite_add_tcase(s, whole);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : fits ? EXIT_SUCCESS : 77;
}
