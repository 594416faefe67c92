/* Experts as matrices against plain code, and the same bits in batches, alone, and with any number of threads; activations in 16 bits. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "neuron_engine/experts.h"
#include "neuron_engine/quant.h"

enum { K = 64, FF = 96, EXPERTS = 6, USED = 3, TOKENS = 11 };

static sg_kernels kernels;

static float noise(void) { return (float)rand() / (float)RAND_MAX * 2 - 1; }

/* n matrices of rows x k of a type, packed; values: what they hold, [n][rows][k]. */
static sg_matrix make(sg_dtype type, uint32_t n, uint32_t rows, uint32_t k, float *values) {
    const sg_mat_kernel *kernel = kernels.mat[type];
    const size_t row = (size_t)sg_dtype_bytes(sg_dtype_get(type), k), apart = (sg_matrix_bytes(kernel, rows, k) + 63) / 64 * 64;
    uint8_t *data = aligned_alloc(64, apart * n), *raw = malloc(row * rows);
    for (uint32_t i = 0; i < n; i++) {
        float *v = values + (size_t)i * rows * k;
        for (uint32_t j = 0; j < rows * k; j++) v[j] = noise();
        for (uint32_t r = 0; r < rows; r++) {
            sg_quantize(type, v + r * k, raw + r * row, k);
            sg_dequantize(type, raw + r * row, v + r * k, k);
        }
        if (kernel->pack) kernel->pack(data + i * apart, raw, rows, k);
        else memcpy(data + i * apart, raw, row * rows);
    }
    free(raw);
    return (sg_matrix) { .kernel = kernel, .data = data, .rows = rows, .k = k, .n = n, .apart = apart };
}

typedef struct problem {
    sg_matrix gate, up, down;
    float *g, *u, *d; /* their values */
    float gate_bias[EXPERTS * FF], up_bias[EXPERTS * FF], down_bias[EXPERTS * K];
    float x[TOKENS * K], weight[TOKENS * USED];
    uint32_t expert[TOKENS * USED];
    bool lossy;
} problem;

static problem *create(sg_dtype type) {
    problem *p = calloc(1, sizeof *p);
    p->g = malloc(sizeof(float) * EXPERTS * FF * K);
    p->u = malloc(sizeof(float) * EXPERTS * FF * K);
    p->d = malloc(sizeof(float) * EXPERTS * K * FF);
    p->gate = make(type, EXPERTS, FF, K, p->g);
    p->up = make(type, EXPERTS, FF, K, p->u);
    p->down = make(type, EXPERTS, K, FF, p->d);
    for (int i = 0; i < EXPERTS * FF; i++) {
        p->gate_bias[i] = noise();
        p->up_bias[i] = noise();
    }
    for (int i = 0; i < EXPERTS * K; i++) p->down_bias[i] = noise();
    for (int i = 0; i < TOKENS * K; i++) p->x[i] = noise();
    for (int t = 0; t < TOKENS; t++) {
        bool taken[EXPERTS] = { false };
        for (int n = 0; n < USED;) {
            const int e = rand() % (t % 3 == 0 ? USED : EXPERTS); /* some experts are used by many tokens, one perhaps by none */
            n += !taken[e];
            taken[e] = true;
        }
        for (uint32_t e = 0, n = 0; e < EXPERTS; e++)
            if (taken[e]) p->expert[t * USED + n++] = e;
        for (int n = 0; n < USED; n++) p->weight[t * USED + n] = noise();
    }
    return p;
}

static void destroy(problem *p) {
    free((void *)(uintptr_t)p->gate.data);
    free((void *)(uintptr_t)p->up.data);
    free((void *)(uintptr_t)p->down.data);
    free(p->g);
    free(p->u);
    free(p->d);
    free(p);
}

typedef struct job {
    sg_experts *e;
    const sg_experts_layer *l;
    sg_ffn_route route;
    sg_acts x;
    float *y;
    sg_team *team;
} job;

static void work(void *arg, uint32_t thread) {
    job *j = arg;
    sg_experts_run(j->e, j->l, &j->route, &j->x, j->y, K, j->team, thread);
}

/* y[TOKENS][K], `batch` tokens at a time. */
static void run(const problem *p, sg_neuron_act act, uint32_t batch, uint32_t threads, bool precise, float *y) {
    sg_experts e = { .kernels = &kernels, .act = act, .precise = precise, .n_expert = EXPERTS, .n_used = USED, .n_batch = batch, .k = K, .n_ff = FF };
    sg_carver c = { 0 };
    sg_acts x;
    sg_experts_lay_out(&e, &c);
    sg_acts_lay_out(&x, &c, batch, K, false, precise);
    char *memory = aligned_alloc(64, (c.used + 63) / 64 * 64);
    c = (sg_carver) { memory, 0 };
    sg_experts_lay_out(&e, &c);
    sg_acts_lay_out(&x, &c, batch, K, false, precise);
    const sg_experts_layer l = { &p->gate, &p->up, &p->down, p->gate_bias, p->up_bias, p->down_bias };
    sg_team *team;
    ck_assert_int_eq(sg_team_create(threads, &team, NULL), SG_OK);
    for (uint32_t t = 0; t < TOKENS; t += batch) {
        job j = { &e, &l, { USED, p->expert + t * USED, p->weight + t * USED, p->lossy }, x, y + t * K, team };
        j.x.n = TOKENS - t < batch ? TOKENS - t : batch;
        j.x.x = p->x + t * K;
        for (uint32_t i = 0; i < j.x.n; i++) sg_acts_quantise(&kernels.vec, &j.x, i);
        sg_team_run(team, work, &j);
        uint32_t pairs = 0;
        for (uint32_t i = 0; i < j.x.n * USED; i++) pairs += !sg_route_skips(&j.route, i);
        ck_assert_uint_eq(e.start[EXPERTS], pairs);
    }
    sg_team_destroy(&team);
    free(memory);
}

static double silu(double g) { return g / (1 + exp(-g)); }

static double act_of(sg_neuron_act act, double g, double u) {
    if (act == SG_ACT_SILU) return silu(g) * u;
    if (act == SG_ACT_RELU) return (g > 0 ? g : 0) * u;
    const double m = g > 7 ? 7 : g, v = u < -7 ? -7 : u > 7 ? 7 : u;
    return m / (1 + exp(-1.702 * m)) * (v + 1);
}

/* The largest difference to plain code in double, relative to the largest value. */
static double difference(const problem *p, sg_neuron_act act, const float *y) {
    double worst = 0, top = 0;
    for (int t = 0; t < TOKENS; t++) {
        double out[K] = { 0 };
        for (int n = 0; n < USED; n++) {
            const uint32_t e = p->expert[t * USED + n];
            double h[FF];
            for (int f = 0; f < FF; f++) {
                double g = (double)p->gate_bias[e * FF + f], u = (double)p->up_bias[e * FF + f];
                for (int i = 0; i < K; i++) {
                    g += (double)p->g[(e * FF + f) * K + i] * (double)p->x[t * K + i];
                    u += (double)p->u[(e * FF + f) * K + i] * (double)p->x[t * K + i];
                }
                h[f] = act_of(act, g, u);
            }
            for (int i = 0; i < K; i++) {
                double d = (double)p->down_bias[e * K + i];
                for (int f = 0; f < FF; f++) d += (double)p->d[(e * K + i) * FF + f] * h[f];
                out[i] += (double)p->weight[t * USED + n] * d;
            }
        }
        for (int i = 0; i < K; i++) {
            worst = fmax(worst, fabs(out[i] - (double)y[t * K + i]));
            top = fmax(top, fabs(out[i]));
        }
    }
    return worst / top;
}

static const sg_dtype types[] = { SG_DTYPE_F32, SG_DTYPE_F16, SG_DTYPE_BF16, SG_DTYPE_Q8_0, SG_DTYPE_Q4_0 };
static const sg_neuron_act acts[] = { SG_ACT_SILU, SG_ACT_RELU, SG_ACT_OAI };

START_TEST(values) {
    const sg_dtype type = types[_i];
    problem *p = create(type);
    float y[TOKENS * K];
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++) {
        const bool exact = !kernels.mat[type]->acts_q8;
        run(p, acts[i], TOKENS, 2, false, y);
        const double plain = difference(p, acts[i], y);
        ck_assert_msg(plain < (exact ? 1e-5 : 2e-2), "%s: %g off", kernels.mat[type]->name, plain);
        run(p, acts[i], TOKENS, 2, true, y);
        const double precise = difference(p, acts[i], y);
        ck_assert_msg(precise < (exact ? 1e-5 : 2e-4), "%s, precise: %g off", kernels.mat[type]->name, precise);
    }
    destroy(p);
}
END_TEST

START_TEST(bits) {
    problem *p = create(types[_i]);
    float want[TOKENS * K], y[TOKENS * K];
    for (int precise = 0; precise < 2; precise++) {
        run(p, SG_ACT_SILU, 1, 1, precise, want);
        static const uint32_t ways[][2] = { { TOKENS, 1 }, { TOKENS, 3 }, { 4, 2 }, { 1, 2 }, { 7, 8 } };
        for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
            run(p, SG_ACT_SILU, ways[i][0], ways[i][1], precise, y);
            ck_assert_msg(memcmp(y, want, sizeof y) == 0, "batch %u, %u threads%s: other bits", ways[i][0], ways[i][1], precise ? ", precise" : "");
        }
    }
    destroy(p);
}
END_TEST

/* What a lossy route leaves out has no pair, and adds nothing. A route that is not lossy computes with weights that are 0. */
START_TEST(left_out) {
    problem *p = create(types[_i]);
    const uint32_t away = EXPERTS - 1;
    float want[TOKENS * K], y[TOKENS * K];
    bool uses[TOKENS] = { false };
    int n = 0;
    for (int i = 0; i < TOKENS * USED; i++) { /* one expert, and some pairs of others, but for the first of each token */
        if (i % USED == 0 || (p->expert[i] != away && i % 5 != 1)) continue;
        p->weight[i] = i % 2 ? 0 : -0.0f;
        uses[i / USED] = uses[i / USED] || p->expert[i] == away;
        n += p->expert[i] == away;
    }
    ck_assert_int_gt(n, 0);
    run(p, SG_ACT_SILU, 1, 1, false, want); /* adds zero times finite values */
    for (int i = 0; i < K; i++) p->down_bias[away * K + (uint32_t)i] = NAN;
    static const uint32_t ways[][2] = { { 1, 1 }, { TOKENS, 1 }, { TOKENS, 3 }, { 4, 2 }, { 1, 3 } };
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        p->lossy = true;
        run(p, SG_ACT_SILU, ways[w][0], ways[w][1], w % 2, y);
        if (w % 2 == 0) ck_assert_msg(memcmp(y, want, sizeof y) == 0, "batch %u, %u threads: other bits", ways[w][0], ways[w][1]);
        for (int i = 0; i < TOKENS * K; i++) ck_assert(!isnan(y[i]));
        p->lossy = false;
        run(p, SG_ACT_SILU, ways[w][0], ways[w][1], false, y);
        for (int t = 0; t < TOKENS; t++) ck_assert(isnan(y[t * K]) == uses[t]);
    }
    destroy(p);
}
END_TEST

int main(void) {
    sg_kernels_init(&kernels, sg_cpu_detect());
    srand(11);
    Suite *s = suite_create("experts");
    TCase *t = tcase_create("experts");
    tcase_set_timeout(t, 0);
    tcase_add_loop_test(t, values, 0, sizeof types / sizeof *types);
    tcase_add_loop_test(t, bits, 0, sizeof types / sizeof *types);
    tcase_add_loop_test(t, left_out, 0, sizeof types / sizeof *types);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK); /* OpenMP teams do not survive a fork */
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
