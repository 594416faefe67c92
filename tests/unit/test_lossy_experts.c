/* Lossy choices of experts in whole models, with a made-up set of experts in memory: the routes that come out, and the same bits whatever the threads and
 * the batches, for experts as matrices and as neuron bundles. What a route is by definition: test_router.c. */
#include <math.h>
#include <unistd.h>

#include "runtime/session_private.h"
#include "tests/unit/past_fixture.h"

enum { TOKENS = 40, MOST_LAYERS = 4, MOST = 8 };

/* Softmax and sigmoid scores, with a bias for the choice, in groups, softmax over the chosen ones; normalised and not. */
static const char *const moe[] = { "qwen3moe-q4_0", "olmoe-q", "glm4moe", "deepseek2", "gpt-oss", "lfm2moe" };
enum { N_MOE = sizeof moe / sizeof *moe };

/* Which experts are in memory: a third, others in each layer; or all, or none. */
typedef struct shelf {
    uint8_t some[MOST_LAYERS][MOST];
    int which; /* 0: some, 1: all, 2: none, 3: nothing is known */
    float weight[TOKENS][MOST_LAYERS][MOST]; /* of the routes that were used, by expert; NaN: not chosen */
    uint32_t token, n_used;
    bool lossy;
} shelf;

static const uint8_t all[MOST] = { 1, 1, 1, 1, 1, 1, 1, 1 }, none[MOST];

static const uint8_t *resident(void *user, uint32_t layer) {
    const shelf *s = user;
    const uint8_t *const sets[] = { s->some[layer], all, none, NULL };
    return sets[s->which];
}

/* Of tokens that are fed one by one. */
static void on_route(void *user, uint32_t layer, const sg_ffn_route *route) {
    shelf *s = user;
    ck_assert_uint_lt(layer, MOST_LAYERS);
    s->n_used = route->n_used;
    s->lossy = route->lossy;
    for (int e = 0; e < MOST; e++) s->weight[s->token][layer][e] = NAN;
    for (uint32_t i = 0; i < route->n_used; i++) s->weight[s->token][layer][route->expert[i]] = route->weight[i];
}

static void fill(shelf *s) {
    memset(s, 0, sizeof *s);
    for (int l = 0; l < MOST_LAYERS; l++)
        for (int e = 0; e < MOST; e++) {
            s->some[l][e] = (e + l) % 3 == 0;
            for (int t = 0; t < TOKENS; t++) s->weight[t][l][e] = NAN;
        }
}

static sg_session *lossy(sg_model *m, uint32_t experts, float drop, float prefer, uint32_t batch, uint32_t threads, shelf *s) {
    sg_session_options o = SG_SESSION_OPTIONS_INIT;
    sg_session *out = NULL;
    sg_error err = { 0 };
    o.n_ctx = TOKENS;
    o.n_batch = batch;
    o.n_threads = threads;
    o.n_experts = experts;
    o.lossy_drop = drop;
    o.lossy_cache_route = prefer;
    ck_assert_msg(sg_session_create(m, &o, &out, &err) == SG_OK, "%s", err.message);
    out->exec.resident = resident;
    out->exec.resident_user = s;
    return out;
}

/* Logits of all tokens, fed at once; caller frees. */
static float *logits(sg_model *m, uint32_t experts, float drop, float prefer, uint32_t batch, uint32_t threads, shelf *s) {
    const size_t bytes = (size_t)TOKENS * sg_model_get_info(m)->n_vocab * sizeof(float);
    sg_session *session = lossy(m, experts, drop, prefer, batch, threads, s);
    int32_t tokens[TOKENS];
    sg_error err = { 0 };
    for (uint32_t i = 0; i < TOKENS; i++) tokens[i] = (int32_t)((i * 2654435761u >> 8) % sg_model_get_info(m)->n_vocab);
    ck_assert_msg(sg_session_feed(session, tokens, TOKENS, TOKENS, &err) == SG_OK, "%s", err.message);
    float *out = malloc(bytes);
    memcpy(out, sg_session_logits(session, 0), bytes);
    sg_session_destroy(&session);
    return out;
}

/* The routes of the same tokens, one by one. */
static void routes(sg_model *m, uint32_t experts, float drop, float prefer, shelf *s) {
    sg_session *session = lossy(m, experts, drop, prefer, 1, 2, s);
    session->exec.on_route = on_route;
    session->exec.on_route_user = s;
    for (s->token = 0; s->token < TOKENS; s->token++)
        feed(session, &(int32_t){ (int32_t)((s->token * 2654435761u >> 8) % sg_model_get_info(m)->n_vocab) }, 1);
    sg_session_destroy(&session);
}

static char bin[128];

/* A golden model, or what convert makes of it: neuron bundles. */
static sg_model *open_form(const char *name, bool bundles) {
    sg_error err = { 0 };
    sg_model *m = NULL;
    if (!bundles) return open_model(name);
    sg_convert_options o = SG_CONVERT_OPTIONS_INIT;
    snprintf(bin, sizeof bin, "/tmp/sg-lossy-experts-%d.bin", (int)getpid());
    o.input = golden_path(name);
    o.output = bin;
    o.overwrite = true;
    ck_assert_msg(sg_convert(&o, &err) == SG_OK, "%s", err.message);
    ck_assert_msg(sg_model_open(bin, NULL, &m, &err) == SG_OK, "%s", err.message);
    unlink(bin);
    return m;
}

typedef struct choice {
    uint32_t experts;
    float drop, prefer;
} choice;
static const choice choices[] = { { 1, 0, 0 }, { 0, 0.6f, 0 }, { 0, 0, 0.3f }, { 0, 0.5f, 0.2f }, { 2, 0, 1 } };
enum { N_CHOICES = sizeof choices / sizeof *choices };

START_TEST(same_bits_every_way) {
    static const uint32_t ways[][2] = { { 1, 3 }, { 7, 2 }, { TOKENS, 1 }, { TOKENS, 4 } };
    sg_model *m = open_form(moe[_i / 2], _i % 2);
    const size_t bytes = (size_t)TOKENS * sg_model_get_info(m)->n_vocab * sizeof(float);
    shelf s;
    fill(&s);
    float *lossless = logits(m, 0, 0, 0, TOKENS, 2, &s);
    for (int c = 0; c < N_CHOICES; c++) {
        const choice *k = &choices[c];
        s.which = 0;
        float *want = logits(m, k->experts, k->drop, k->prefer, 1, 1, &s);
        ck_assert_msg(memcmp(want, lossless, bytes) != 0, "choice %d changes nothing", c);
        for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
            float *out = logits(m, k->experts, k->drop, k->prefer, ways[i][0], ways[i][1], &s);
            ck_assert_msg(memcmp(out, want, bytes) == 0, "choice %d, batch %u, %u threads: other bits", c, ways[i][0], ways[i][1]);
            free(out);
        }
        free(want);
        s.which = c % 2 ? 1 : 3; /* everything is in memory */
        float *here = logits(m, 0, k->drop, k->prefer, 7, 2, &s);
        ck_assert_msg(memcmp(here, lossless, bytes) == 0, "choice %d changes something where all experts are in memory", c);
        free(here);
    }
    free(lossless);
    sg_model_close(&m);
}
END_TEST

static int first_layer(const shelf *s) {
    for (int l = 0; l < MOST_LAYERS; l++)
        for (int e = 0; e < MOST; e++)
            if (!isnan(s->weight[0][l][e])) return l;
    return -1;
}

static bool uses(const shelf *s, uint32_t t, int l, int e) { return !isnan(s->weight[t][l][e]); }

/* The first layer with experts sees the same whatever is given up of routes. */
START_TEST(routes_are_as_chosen) {
    sg_model *m = open_form(moe[_i / 2], _i % 2);
    shelf plain, one, drops, prefers;
    int dropped = 0, here = 0, was_here = 0;
    fill(&plain);
    plain.which = 3;
    routes(m, 0, 0, 0, &plain);
    fill(&one);
    routes(m, 1, 0, 0, &one);
    fill(&drops);
    routes(m, 0, 0.6f, 0, &drops);
    fill(&prefers);
    routes(m, 0, 0, 1, &prefers);
    ck_assert(plain.n_used == 2 && one.n_used == 1 && drops.n_used == 2 && prefers.n_used == 2);
    ck_assert(drops.lossy && !plain.lossy && !one.lossy && !prefers.lossy); /* else what has weight 0 would be read */
    const int l = first_layer(&plain);
    ck_assert_int_ge(l, 0);
    for (uint32_t t = 0; t < TOKENS; t++) {
        int both = 0;
        for (int e = 0; e < MOST; e++) {
            ck_assert(!uses(&one, t, l, e) || uses(&plain, t, l, e));
            ck_assert(uses(&drops, t, l, e) == uses(&plain, t, l, e));
            dropped += drops.weight[t][l][e] == 0;
            ck_assert(drops.weight[t][l][e] != 0 || !drops.some[l][e]);
            both += uses(&prefers, t, l, e) && uses(&plain, t, l, e);
            here += uses(&prefers, t, l, e) && prefers.some[l][e];
            was_here += uses(&plain, t, l, e) && plain.some[l][e];
        }
        ck_assert_int_ge(both, 1); /* the best one */
    }
    ck_assert_int_gt(dropped, 5);
    ck_assert_int_gt(here, was_here + 5);
    sg_model_close(&m);
}
END_TEST

START_TEST(refused) {
    static const struct {
        const char *model;
        choice c;
        sg_status status;
        const char *words;
    } cases[] = {
        { "llama-q4_0", { 1, 0, 0 }, SG_E_UNSUPPORTED, "has no experts" },
        { "llama-q4_0", { 0, 0.5f, 0 }, SG_E_UNSUPPORTED, "has no experts" },
        { "llama-q4_0", { 0, 0, 0.5f }, SG_E_UNSUPPORTED, "has no experts" },
        { "olmoe-q", { 3, 0, 0 }, SG_E_ARG, "the model uses 2" },
        { "olmoe-q", { 0, 1, 0 }, SG_E_ARG, "share of dropped experts" },
        { "olmoe-q", { 0, -0.1f, 0 }, SG_E_ARG, "share of dropped experts" },
        { "olmoe-q", { 0, NAN, 0 }, SG_E_ARG, "share of dropped experts" },
        { "olmoe-q", { 0, 0, 1.1f }, SG_E_ARG, "preference for experts" },
        { "olmoe-q", { 0, 0, NAN }, SG_E_ARG, "preference for experts" },
        { "olmoe-q", { 0, 0, -1 }, SG_E_ARG, "preference for experts" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sg_model *m = open_model(cases[i].model);
        sg_session_options o = SG_SESSION_OPTIONS_INIT;
        sg_session *s = NULL;
        sg_error err = { 0 };
        o.n_experts = cases[i].c.experts;
        o.lossy_drop = cases[i].c.drop;
        o.lossy_cache_route = cases[i].c.prefer;
        ck_assert_int_eq(sg_session_create(m, &o, &s, &err), cases[i].status);
        ck_assert_msg(strstr(err.message, cases[i].words), "%s", err.message);
        sg_model_close(&m);
    }
}
END_TEST

/* A program that was built before these options were there hands over a shorter struct, whatever lies behind it. */
START_TEST(older_programs) {
    sg_model *m = open_model("llama-q4_0");
    sg_session_options o = SG_SESSION_OPTIONS_INIT;
    sg_session *s = NULL;
    o.struct_size = offsetof(sg_session_options, n_experts);
    o.n_experts = 7;
    o.lossy_drop = o.lossy_cache_route = NAN;
    ck_assert_int_eq(sg_session_create(m, &o, &s, NULL), SG_OK);
    sg_session_destroy(&s);
    sg_model_close(&m);
}
END_TEST

int main(void) {
    if (!getenv("SG_SOURCE_ROOT")) return 77;
    Suite *suite = suite_create("lossy_experts");
    TCase *t = tcase_create("lossy_experts");
    tcase_set_timeout(t, 300);
    tcase_add_loop_test(t, same_bits_every_way, 0, 2 * N_MOE);
    tcase_add_loop_test(t, routes_are_as_chosen, 0, 2 * N_MOE);
    tcase_add_test(t, refused);
    tcase_add_test(t, older_programs);
    suite_add_tcase(suite, t);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_ENV);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
