/* The parts of calibration on made-up observations whose answer is known. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "neuron_engine/quant.h"
#include "runtime/calibrate/calibrate.h"
#include "tests/io/expect.h"

#define K 64u
#define NFF 320u /* more than the pieces that counting works in */

static uint64_t state;

static double draw(void) { /* 0 .. 1 */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (double)(state >> 11) / 9007199254740992.0;
}
static double normal(void) { return sqrt(-2 * log(draw() + 1e-300)) * cos(2 * 3.14159265358979 * draw()); }

/* A calibration of one or two layers without a file. */
typedef struct rig {
    sg_cal c;
    sg_kernels kernels;
    sg_cal_layer layers[2];
    sg_bundle_layout layouts[2];
    sg_cal_unit units[3]; /* the last one is the shared experts of layer 1 */
} rig;

static void rig_init(rig *r, uint64_t tokens, uint32_t samples) {
    memset(r, 0, sizeof *r);
    state = 88172645463325252u;
    sg_kernels_init(&r->kernels, sg_cpu_detect());
    for (int i = 0; i < 2; i++) {
        r->layouts[i] = (sg_bundle_layout){ .n_neurons = NFF, .k = K, .per_cluster = 64, .gated = true, .gate_type = SG_DTYPE_Q8_0,
                                            .up_type = SG_DTYPE_Q8_0, .down_type = SG_DTYPE_Q8_0 };
        ck_assert(sg_bundle_layout_init(&r->layouts[i]));
        r->layers[i].n_expert = 1;
        r->layers[i].n = NFF;
        r->units[i] = (sg_cal_unit) { (uint32_t)i, true };
    }
    r->units[2].layer = 1;
    r->c = (sg_cal){ .path = "made up", .kernels = &r->kernels, .act = SG_ACT_RELU, .n_layer = 2, .k = K, .n_ff = NFF, .words = (NFF + 63) / 64,
                     .n_tokens = tokens, .n_train = tokens * 4 / 5, .most_samples = samples, .budget = 1, .layers = r->layers,
                     .layouts = r->layouts, .units = r->units, .predictors = true };
    ok(sg_team_create(2, &r->c.team, err));
    ok(sg_cal_begin(&r->c, 0, 2, err));
}

static void rig_finish(rig *r) {
    sg_cal_end_samples(&r->c);
    for (int i = 0; i < 2; i++) {
        free(r->layers[i].counts);
        free(r->layers[i].order);
        sg_cal_pred_finish(&r->layers[i].pred);
    }
    sg_team_destroy(&r->c.team);
}

static float gate_at(uint64_t token, uint32_t i) { return (float)((token * 31 + i * 17) % 101) - 80.0f + (float)(i % 7); }

START_TEST(counts) {
    enum { TOKENS = 1000, BATCH = 7 };
    rig r;
    rig_init(&r, TOKENS, 100);
    float x[BATCH * K], gate[BATCH * (NFF + 5)], h[BATCH * (NFF + 5)];
    for (uint64_t at = 0; at < TOKENS; at += BATCH) {
        const uint32_t n = TOKENS - at < BATCH ? (uint32_t)(TOKENS - at) : BATCH;
        for (uint32_t t = 0; t < n; t++) {
            for (uint32_t i = 0; i < K; i++) x[t * K + i] = (float)(at + t);
            for (uint32_t i = 0; i < NFF; i++) {
                gate[t * (NFF + 5) + i] = gate_at(at + t, i);
                h[t * (NFF + 5) + i] = gate_at(at + t, i) > 5 ? 1.5f : 0.0f;
            }
        }
        const sg_ffn_sample s = { .unit = 1, .n = n, .k = K, .n_neurons = NFF, .ld = NFF + 5, .n_used = 1, .apart = NFF, .x = x, .residual = x, .gate = gate, .h = h };
        sg_cal_observe(&r.c, &s);
    }
    const sg_cal_layer *l = &r.layers[1];
    uint64_t active = 0, positive = 0;
    for (uint32_t i = 0; i < NFF; i++) {
        uint32_t want = 0;
        for (uint64_t t = 0; t < TOKENS; t++) {
            want += gate_at(t, i) > 5;
            positive += gate_at(t, i) > 0;
        }
        ck_assert_uint_eq(l->counts[i], want);
        active += want;
    }
    ck_assert_uint_eq(l->active, active);
    ck_assert_uint_eq(l->positive, positive);
    ck_assert_uint_eq(l->tokens, TOKENS);
    ck_assert_uint_eq(r.layers[0].tokens, 0);
    /* every tenth token, the first four fifths of them for fitting */
    ck_assert_uint_eq(l->n_samples, 100);
    ck_assert_uint_eq(l->n_train, 80);
    for (uint32_t s = 0; s < 100; s++) {
        ck_assert(sg_f16_to_f32(l->x[s * K + 3]) == (float)(10 * s));
        for (uint32_t i = 0; i < NFF; i++)
            ck_assert_uint_eq(l->bits[s * r.c.words + i / 64] >> (i % 64) & 1, gate_at(10 * s, i) > 5);
    }
    rig_finish(&r);
}
END_TEST

/* Two of three experts a token; the neurons that fire are known from token, expert and place: of expert 1 the first ones more often, of the others
 * the last ones. */
static bool fires(uint64_t token, uint32_t expert, uint32_t i) { return (token * 37 + i * 11 + expert * 5) % 70 < (expert == 1 ? 69 - i : i) / 2; }

START_TEST(experts) {
    enum { TOKENS = 300, N = 70, E = 3, APART = 128, LD = 2 * APART + 3 };
    rig r;
    rig_init(&r, TOKENS, 30);
    r.layouts[1].n_neurons = N;
    r.layouts[1].n_expert = E;
    ck_assert(sg_bundle_layout_init(&r.layouts[1]));
    sg_cal_layer *l = &r.layers[1];
    l->n_expert = E;
    l->n = N;
    r.c.predictors = false;
    sg_cal_end_samples(&r.c);
    for (int i = 0; i < 2; i++) {
        free(r.layers[i].counts);
        free(r.layers[i].order);
    }
    ok(sg_cal_begin(&r.c, 0, 2, err));
    float x[3 * K] = { 0 }, gate[3 * LD] = { 0 }, h[3 * LD];
    uint32_t want[E][N] = { { 0 } };
    uint64_t all = 0;
    for (uint64_t at = 0; at < TOKENS; at += 3) {
        uint32_t expert[6];
        for (uint32_t t = 0; t < 3; t++)
            for (uint32_t u = 0; u < 2; u++) {
                const uint32_t e = expert[2 * t + u] = (uint32_t)(at + t) % 2 + u; /* 0 1, 1 2 in turns */
                for (uint32_t i = 0; i < N; i++) {
                    const bool on = fires(at + t, e, i);
                    h[t * LD + u * APART + i] = on ? -2.0f : 0.0f;
                    gate[t * LD + u * APART + i] = 4.0f;
                    want[e][i] += on;
                    all += on;
                }
            }
        const sg_ffn_sample s = { .unit = 1, .n = 3, .k = K, .n_neurons = N, .ld = LD, .expert = expert, .n_used = 2, .apart = APART,
                                  .x = x, .residual = x, .gate = gate, .h = h };
        sg_cal_observe(&r.c, &s);
    }
    ck_assert(memcmp(l->counts, want, sizeof want) == 0);
    ck_assert_uint_eq(l->active, all);
    ck_assert_uint_eq(l->tokens, TOKENS);
    ck_assert_uint_eq(l->uses, 2 * TOKENS);
    ck_assert_double_eq_tol(sg_cal_density(l, l->active), (double)all / (2.0 * TOKENS * N), 1e-12);
    ck_assert_float_eq_tol(sg_cal_quantile(l->magnitudes, 0.5), 4, 0.1f);
    /* a sample every ten tokens, of its first and its second expert in turns */
    ck_assert_uint_eq(l->n_samples, 30);
    for (uint32_t s = 0; s < 30; s++) {
        ck_assert_uint_eq(l->expert[s], s % 2);
        for (uint32_t i = 0; i < N; i++) ck_assert_uint_eq(l->bits[s * r.c.words + i / 64] >> (i % 64) & 1, fires(10 * s, s % 2, i));
    }
    /* each expert by itself; the hottest half of the neurons of each has more than half of what is active */
    for (uint32_t e = 0; e < E; e++) sg_cal_order(l->counts + e * N, N, l->order + e * N);
    uint64_t top = 0;
    for (uint32_t e = 0; e < E; e++)
        for (uint32_t i = 0; i < N / 2; i++) {
            top += want[e][l->order[e * N + i]];
            ck_assert_uint_ge(want[e][l->order[e * N + i]], want[e][l->order[e * N + i + 1]]);
        }
    ck_assert_double_eq_tol(sg_cal_covered(l, 0.5), (double)top / (double)all, 1e-12);
    sg_cal_coactivity(&r.c, 1);
    ck_assert(isnan(l->together));
    /* of the two clusters of an expert the second has 6 neurons: how many tokens touch it depends on which lie there */
    double before = 0, after = 0;
    for (uint32_t s = 0; s < 30; s++) {
        bool old = false, new = false;
        for (uint32_t i = 64; i < N; i++) {
            old = old || fires(10 * s, s % 2, i);
            new = new || fires(10 * s, s % 2, l->order[s % 2 * N + i]);
        }
        before += 1 + old;
        after += 1 + new;
    }
    ck_assert_double_eq_tol(l->touched_before, before / 60, 1e-12);
    ck_assert_double_eq_tol(l->touched_after, after / 60, 1e-12);
    /* shared experts: only their magnitudes, here as many again and a hundred times as small */
    for (uint32_t i = 0; i < 2 * N; i++) gate[i] = 0.04f;
    for (uint64_t t = 0; t < TOKENS; t++) {
        const sg_ffn_sample s = { .unit = 2, .n = 1, .k = K, .n_neurons = 2 * N, .ld = LD, .n_used = 1, .apart = 2 * N,
                                  .x = x, .residual = x, .gate = gate, .h = h };
        sg_cal_observe(&r.c, &s);
    }
    ck_assert_uint_eq(l->tokens, TOKENS);
    ck_assert(memcmp(l->counts, want, sizeof want) == 0);
    ck_assert_float_eq_tol(sg_cal_quantile(l->magnitudes, 0.45), 0.04f, 0.001f);
    ck_assert_float_eq_tol(sg_cal_quantile(l->magnitudes, 0.55), 4, 0.1f);
    rig_finish(&r);
}
END_TEST

START_TEST(order) {
    const uint32_t fired[] = { 3, 9, 0, 9, 4, 3, 9 }, want[] = { 1, 3, 6, 4, 0, 5, 2 };
    uint32_t got[7];
    sg_cal_order(fired, 7, got);
    ck_assert(memcmp(got, want, sizeof want) == 0);
}
END_TEST

/* |act(g)| of known distribution: quantiles within the width of a bin. */
START_TEST(quantiles) {
    static const sg_neuron_act acts[] = { SG_ACT_RELU, SG_ACT_RELU2, SG_ACT_SILU };
    for (int a = 0; a < 3; a++) {
        enum { TOKENS = 500 };
        rig r;
        rig_init(&r, TOKENS, 10);
        r.c.act = acts[a];
        float x[K] = { 0 }, h[NFF] = { 0 }, *all = malloc(TOKENS * NFF * sizeof *all), gate[NFF];
        for (uint32_t t = 0; t < TOKENS; t++) {
            for (uint32_t i = 0; i < NFF; i++) {
                const float g = gate[i] = (float)normal();
                const float v = acts[a] == SG_ACT_SILU ? fabsf(g / (1 + expf(-g))) : g > 0 ? (acts[a] == SG_ACT_RELU ? g : g * g) : 0;
                all[t * NFF + i] = v;
            }
            const sg_ffn_sample s = { .unit = 0, .n = 1, .k = K, .n_neurons = NFF, .ld = NFF, .n_used = 1, .apart = NFF, .x = x, .residual = x, .gate = gate, .h = h };
            sg_cal_observe(&r.c, &s);
        }
        for (uint32_t i = 0; i < SG_CAL_SHARES; i++) {
            const float v = sg_cal_quantile(r.layers[0].magnitudes, (double)sg_cal_shares[i]);
            uint64_t below = 0, close = 0;
            for (uint32_t j = 0; j < TOKENS * NFF; j++) {
                below += all[j] < v * 0.984f;
                close += all[j] <= v * 1.017f;
            }
            const double wanted = (double)sg_cal_shares[i] * TOKENS * NFF;
            ck_assert_msg((double)below <= wanted + 1 && wanted <= (double)close + 1, "act %d share %g: %g, %g of values below, %g at it", a,
                          (double)sg_cal_shares[i], (double)v, (double)below / (TOKENS * NFF), (double)close / (TOKENS * NFF));
        }
        free(all);
        rig_finish(&r);
    }
}
END_TEST

START_TEST(score_bins) {
    state = 88172645463325252u;
    float edges[] = { 0.0f, -0.0f, 1e-45f, -1e-45f, 1.0f, -1.0f, 3e38f, -3e38f, 1.00390625f };
    for (int i = 0; i < 20000; i++) {
        const float v = i < 9 ? edges[i] : (float)(normal() * pow(10, 8 * draw() - 4));
        const uint32_t b = sg_cal_score_bin(v);
        ck_assert_msg(v > sg_cal_bin_threshold(b), "%g is in bin %u and not above %g", (double)v, b, (double)sg_cal_bin_threshold(b));
        if (b < 0xff7f) ck_assert_msg(!(v > sg_cal_bin_threshold(b + 1)), "%g is in bin %u and above %g", (double)v, b, (double)sg_cal_bin_threshold(b + 1));
    }
}
END_TEST

START_TEST(judge) {
    sg_cal_hist *train = calloc(2, sizeof *train), *test = train + 1;
    /* 100 active scores 1 .. 100, and 100 inactive ones -99 .. 0: recall 90 % needs everything above 10 */
    for (int i = 1; i <= 100; i++)
        for (int h = 0; h < 2; h++) {
            train[h].all[sg_cal_score_bin((float)i)]++;
            train[h].active[sg_cal_score_bin((float)i)]++;
            train[h].all[sg_cal_score_bin((float)(1 - i))]++;
        }
    for (int i = 0; i < 50; i++) test->all[sg_cal_score_bin(90)]++; /* 50 false ones in the text for measuring */
    sg_cal_score s = { 0 };
    sg_cal_judge(train, test, &s);
    ck_assert_float_eq(sg_cal_recalls[1], 0.90f);
    ck_assert(s.threshold[1] < 11 && s.threshold[1] > 10);
    ck_assert_double_eq_tol(s.recall[1], 0.90, 1e-12);
    ck_assert_double_eq_tol(s.precision[1], 90.0 / 140, 1e-12);
    ck_assert_double_eq_tol(s.recall_twice, 1, 1e-12);
    free(train);
}
END_TEST

/* Two normal distributions with a known distance: the log odds are those of theory. */
START_TEST(log_odds) {
    enum { SAMPLES = 40000 };
    static const double share[] = { 0.1, 0.3, 0.05 }, mean[] = { 2, -1, 0 }, gap[] = { 1, 3, 0 }, sigma[] = { 0.5, 2, 1 };
    sg_cal_moments m[4] = { 0 };
    state = 88172645463325252u;
    for (int j = 0; j < 3; j++)
        for (int i = 0; i < SAMPLES; i++) {
            const int a = draw() < share[j];
            const double v = mean[j] + gap[j] * a + sigma[j] * normal();
            m[j].n[a]++;
            m[j].sum[a] += v;
            m[j].squares[a] += v * v;
        }
    for (int i = 0; i < SAMPLES; i++) m[3].n[0]++; /* never fires and always scores 0 */
    float scale[4], bias[4];
    sg_cal_log_odds(m, 4, scale, bias);
    for (int j = 0; j < 3; j++) {
        const double slope = gap[j] / (sigma[j] * sigma[j]), offset = log(share[j] / (1 - share[j])) - slope * (mean[j] + gap[j] / 2);
        ck_assert_msg(fabs((double)scale[j] - slope) < 0.1 + 0.03 * slope, "scale %d: %g, not %g", j, (double)scale[j], slope);
        ck_assert_msg(fabs((double)bias[j] - offset) < 0.1 + 0.03 * fabs(offset), "bias %d: %g, not %g", j, (double)bias[j], offset);
    }
    ck_assert(isfinite(scale[3]) && isfinite(bias[3]));
}
END_TEST

/* Gates of rank 8 under inputs that are far from independent: a pair of rank 8 gives them back. */
START_TEST(lowrank) {
    enum { RANK = 8, INPUTS = 600 };
    sg_linalg la;
    if (!sg_linalg_open(&la, 2)) return; /* no LAPACK on this machine */
    state = 88172645463325252u;
    float *g = malloc(NFF * K * sizeof *g), p[NFF * RANK], q[RANK * K];
    uint16_t *x = malloc(INPUTS * K * sizeof *x);
    for (uint32_t i = 0; i < NFF * RANK; i++) p[i] = (float)normal();
    for (uint32_t i = 0; i < RANK * K; i++) q[i] = (float)normal();
    for (uint32_t i = 0; i < NFF; i++)
        for (uint32_t j = 0; j < K; j++) {
            double sum = 0;
            for (int r = 0; r < RANK; r++) sum += (double)p[i * RANK + r] * (double)q[r * K + j];
            g[i * K + j] = (float)sum * (float)(1 + i % 5);
        }
    for (uint32_t s = 0; s < INPUTS; s++) {
        const double common = normal();
        for (uint32_t j = 0; j < K; j++) x[s * K + j] = sg_f32_to_f16((float)((common * (j % 3) + normal() * (1 + j % 4)) / 4));
    }
    float *kept = malloc(NFF * K * sizeof *kept);
    memcpy(kept, g, NFF * K * sizeof *kept);
    for (int rank = 4; rank <= RANK; rank += 4) {
        sg_cal_factors f;
        memcpy(g, kept, NFF * K * sizeof *g);
        ok(sg_cal_fit_lowrank(&la, g, NULL, NFF, K, x, INPUTS, (uint32_t)rank, &f, err));
        double wrong = 0;
        for (uint32_t s = 0; s < INPUTS; s++) {
            double z[RANK] = { 0 };
            for (int r = 0; r < rank; r++)
                for (uint32_t j = 0; j < K; j++) z[r] += (double)f.a[(uint32_t)r * K + j] * (double)sg_f16_to_f32(x[s * K + j]);
            for (uint32_t i = 0; i < NFF; i++) {
                double want = 0, got = 0;
                for (uint32_t j = 0; j < K; j++) want += (double)kept[i * K + j] * (double)sg_f16_to_f32(x[s * K + j]);
                for (int r = 0; r < rank; r++) got += (double)f.b[i * (uint32_t)rank + (uint32_t)r] * z[r];
                wrong += (got > 0) != (want > 0);
            }
        }
        const double share = wrong / (INPUTS * NFF);
        /* half the rank is wrong in a fair part of the cases, but far from guessing */
        ck_assert_msg(rank == RANK ? share < 0.002 : share > 0.02 && share < 0.4, "rank %d: %g of the signs are wrong", rank, share);
        sg_cal_factors_finish(&f);
    }
    free(kept);
    free(g);
    free(x);
    sg_linalg_close(&la);
}
END_TEST

/* Rows for gate and up, each one coordinate of independent inputs: both count, in the proportion that theory gives. */
START_TEST(both_above_zero) {
    enum { INPUTS = 20000, N = 8, DIM = 16 };
    sg_linalg la;
    if (!sg_linalg_open(&la, 2)) return;
    state = 88172645463325252u;
    float g[N * DIM] = { 0 }, u[N * DIM] = { 0 };
    uint16_t *x = malloc(INPUTS * DIM * sizeof *x);
    for (uint32_t i = 0; i < N; i++) {
        g[i * DIM + i] = 2.0f;
        u[i * DIM + N + i] = 0.5f;
    }
    /* gates have mean 0; ups have mean -0.5 and deviation 0.5 after the weight: one deviation below zero */
    for (uint32_t s = 0; s < INPUTS; s++)
        for (uint32_t j = 0; j < DIM; j++) x[s * DIM + j] = sg_f32_to_f16((float)(normal() - (j < N ? 0 : 1)));
    sg_cal_factors f;
    ok(sg_cal_fit_lowrank(&la, g, u, N, DIM, x, INPUTS, DIM, &f, err));
    /* phi(0) / s_g * Phi(-1) for a gate of deviation 2 against phi(-1) / s_u * Phi(0) for an up of deviation 0.5 */
    const double wg = 0.398942 / 2 * 0.158655 * 2, wu = 0.241971 / 0.5 * 0.5 * 0.5;
    for (uint32_t i = 0; i < N; i++) {
        double w[DIM] = { 0 };
        for (uint32_t j = 0; j < DIM; j++)
            for (uint32_t r = 0; r < DIM; r++) w[j] += (double)f.b[i * DIM + r] * (double)f.a[r * DIM + j];
        ck_assert_msg(w[i] > 0 && fabs(w[N + i] / w[i] / (wu / wg) - 1) < 0.05, "neuron %u: %g for up, %g for gate, a ratio of %g wanted", i,
                      w[N + i], w[i], wu / wg);
        for (uint32_t j = 0; j < DIM; j++) ck_assert(j == i || j == N + i || fabs(w[j]) < 0.03 * w[i]);
    }
    sg_cal_factors_finish(&f);
    free(x);
    sg_linalg_close(&la);
}
END_TEST

START_TEST(sign_bits) {
    float g[3 * K];
    uint8_t bits[3 * K / 8];
    state = 88172645463325252u;
    for (uint32_t i = 0; i < 3 * K; i++) g[i] = (float)normal();
    g[5] = 0.0f;
    sg_cal_fit_sign(g, 3, K, bits);
    for (uint32_t i = 0; i < 3 * K; i++) ck_assert_uint_eq(bits[i / 8] >> (i % 8) & 1, g[i] < 0);
}
END_TEST

/* Neurons 0 .. 9 always fire together, in every second token: twice as often as by chance. */
START_TEST(together) {
    enum { TOKENS = 200 };
    rig r;
    rig_init(&r, TOKENS, TOKENS);
    float x[K] = { 0 }, gate[NFF] = { 0 }, h[NFF];
    for (uint32_t t = 0; t < TOKENS; t++) {
        for (uint32_t i = 0; i < NFF; i++) h[i] = i % 32 == 0 && t % 2 == 0 ? 1.0f : 0.0f; /* ten neurons, two in each cluster */
        const sg_ffn_sample s = { .unit = 0, .n = 1, .k = K, .n_neurons = NFF, .ld = NFF, .n_used = 1, .apart = NFF, .x = x, .residual = x, .gate = gate, .h = h };
        sg_cal_observe(&r.c, &s);
    }
    sg_cal_order(r.layers[0].counts, NFF, r.layers[0].order);
    sg_cal_coactivity(&r.c, 0);
    ck_assert_double_eq_tol(r.layers[0].together, 2, 1e-9);
    ck_assert_double_eq_tol(r.layers[0].touched_before, 0.5, 1e-9);
    ck_assert_double_eq_tol(r.layers[0].touched_after, 0.1, 1e-9);
    rig_finish(&r);
}
END_TEST

/* 100 active neurons, gate rows of 10 bytes. */
START_TEST(better) {
    sg_cal_score none = { 0 }, poor = { .kind = SG_PRED_SIGN, .fits = true, .bytes = 10, .recall_twice = 0.9 };
    sg_cal_score large = { .kind = SG_PRED_LOWRANK, .fits = true, .bytes = 2000, .recall_twice = 0.99 }, small = large;
    poor.recall[SG_CAL_USUAL] = large.recall[SG_CAL_USUAL] = small.recall[SG_CAL_USUAL] = 1;
    poor.precision[SG_CAL_USUAL] = 1;
    large.precision[SG_CAL_USUAL] = 0.8; /* names 125: 3250 bytes */
    small.precision[SG_CAL_USUAL] = 0.5; /* names 200 */
    small.recall_twice = 0.96;
    small.bytes = 1240; /* 3240 */
    ck_assert(sg_cal_better(&poor, &none, 100, 10));
    ck_assert(sg_cal_better(&small, &large, 100, 10) && !sg_cal_better(&large, &small, 100, 10));
    small.bytes = 1260; /* 3260 */
    ck_assert(sg_cal_better(&large, &small, 100, 10) && !sg_cal_better(&small, &large, 100, 10));
    ck_assert(sg_cal_better(&small, &poor, 100, 10) && !sg_cal_better(&poor, &small, 100, 10)); /* however cheap */
    small.fits = false;
    ck_assert(!sg_cal_better(&small, &poor, 100, 10) && !sg_cal_better(&small, &none, 100, 10));
}
END_TEST

START_TEST(ranks) {
    /* a row of a: 64 values, 68 bytes; a row of b: 32 values and a bias, 38 bytes */
    ck_assert_uint_eq(sg_cal_rank(64, 100, SG_DTYPE_Q8_0, 32 * 68 + 100 * 38), 32);
    ck_assert_uint_eq(sg_cal_rank(64, 100, SG_DTYPE_Q8_0, 32 * 68 + 100 * 38 - 1), 0);
    ck_assert_uint_eq(sg_cal_rank(64, 100, SG_DTYPE_Q8_0, 1 << 30), 64);
}
END_TEST

int main(void) {
    Suite *s = suite_create("calibrate");
    TCase *t = tcase_create("calibrate");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, counts);
    tcase_add_test(t, experts);
    tcase_add_test(t, order);
    tcase_add_test(t, quantiles);
    tcase_add_test(t, score_bins);
    tcase_add_test(t, judge);
    tcase_add_test(t, log_odds);
    tcase_add_test(t, lowrank);
    tcase_add_test(t, both_above_zero);
    tcase_add_test(t, sign_bits);
    tcase_add_test(t, together);
    tcase_add_test(t, better);
    tcase_add_test(t, ranks);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
