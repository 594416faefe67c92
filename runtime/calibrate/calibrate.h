/* Inside of sg_calibrate: what a model.bin (docs/model_bin.md) learns from text.
 *
 *   stats.c          what the session shows of each layer becomes counts, histograms and samples
 *   fit_*.c          candidates for a predictor, from the samples and the gate rows
 *   evaluate.c       what a candidate finds (recall) and what it names besides (precision), on text that it was not fitted to
 *   choose.c         candidates of a layer: made, measured, the best one kept
 *   coactivity.c     which neurons fire together, which clusters a token touches
 *   routes.h         what names experts before their layer is there
 *   report.c, plot.c tables and curves
 *   rewrite.c        the new file
 *
 * Layers are independent. When their samples do not fit into memory together, the text passes through the model several times,
 * each time for the next few layers. Neurons are named by their place in the file being calibrated; the new order is applied
 * when the new file is written. Experts are sorted each by itself. */
#ifndef SG_CALIBRATE_H
#define SG_CALIBRATE_H

#include "io/gguf.h"
#include "neuron_engine/ffn.h"
#include "runtime/base/mem.h"
#include "runtime/calibrate/routes.h"

/* Histogram of |act(gate)| by the upper bits of the float: 64 bins from one power of two to the next, so a quantile is right within
 * 1.6 %. Bin 0 also holds zero. Anything not finite is in the last. */
#define SG_CAL_SHIFT 17u
#define SG_CAL_BINS ((0x7f800000u >> SG_CAL_SHIFT) + 1)
/* Histogram of scores: sign, exponent and 7 bits, in the order of the values. */
#define SG_CAL_SCORE_BINS 65536u

#define SG_CAL_SHARES 22u /* of --lossy threshold */
#define SG_CAL_RECALLS 5u /* of --lossy predict */
#define SG_CAL_USUAL 3u   /* of these, for comparisons: 0.98 */
#define SG_CAL_CANDIDATES 24u /* sign; pairs of two types: closed forms, trained, MLP */
extern const float sg_cal_shares[SG_CAL_SHARES], sg_cal_recalls[SG_CAL_RECALLS];

/* A predictor as it is stored: GGUF rows of `type` (SIGN: bytes, no b), rows of b, signs, scales and biases by place. */
typedef struct sg_cal_pred {
    sg_predictor_kind kind;
    sg_dtype type;
    uint32_t rank;
    uint8_t *a, *b; /* owned */
    size_t a_bytes, b_bytes;
    float *scale, *bias; /* [n_ff], owned; NULL: 1, 0 */
} sg_cal_pred;
size_t sg_cal_pred_bytes(const sg_cal_pred *p, uint32_t n_ff);
void sg_cal_pred_finish(sg_cal_pred *p);

/* What a candidate was measured to do. */
typedef struct sg_cal_score {
    sg_predictor_kind kind;
    sg_dtype type;
    uint32_t rank;
    bool trained; /* LOWRANK: not the closed form */
    size_t bytes;
    bool fits;                         /* into the budget */
    double micros;                     /* a token on one thread */
    float threshold[SG_CAL_RECALLS];   /* found on one half of the text for measuring */
    double recall[SG_CAL_RECALLS];     /* and what they give on the other: share of the active neurons named, */
    double precision[SG_CAL_RECALLS];  /* share of the named that are active */
    double recall_twice;               /* recall when as many are named as twice the active ones */
} sg_cal_score;

/* One layer. */
typedef struct sg_cal_layer {
    uint32_t n_expert, n;  /* experts, 1: the layer has none; neurons of one */
    uint32_t *counts;      /* [n_expert][n] tokens for which each neuron was active (h != 0), by place */
    uint64_t *magnitudes;  /* [SG_CAL_BINS] of all neurons that were computed, shared experts included */
    uint64_t tokens, uses; /* all tokens, and experts that they used; without experts the same */
    uint64_t active, positive; /* sums over the uses: active neurons, positive gates */
    /* Samples, only while the layer is worked on: uses. */
    uint32_t n_samples, n_train; /* the first n_train are for fitting, the others for measuring */
    uint16_t *x;                 /* [n_samples][k] input of the layer, F16; NULL when no predictors are wanted */
    uint64_t *bits;              /* [n_samples][words] active neurons */
    uint32_t *expert;            /* [n_samples] */
    /* Results. */
    uint32_t *order; /* [n_expert][n] place in the old file's expert of the neuron at each new place */
    float shares[SG_CAL_SHARES];
    sg_cal_pred pred; /* kind NONE: none was good enough or fitted */
    sg_cal_score chosen, scores[SG_CAL_CANDIDATES];
    uint32_t n_scores;
    double together;                       /* how much likelier than by chance two of the hottest fire together; NaN: unknown */
    double touched_before, touched_after;  /* mean share of the clusters with an active neuron */
} sg_cal_layer;

/* A unit of neuron bundles. */
typedef struct sg_cal_unit {
    uint32_t layer;
    bool main; /* else the shared experts, whose neurons stay where they are */
} sg_cal_unit;

typedef struct sg_cal {
    const char *path;
    const sg_gguf *gguf;
    const sg_kernels *kernels;
    sg_neuron_act act;
    const float *fat_threshold; /* [n_layer] or NULL */
    uint32_t n_layer, k, words; /* words of 64 neurons, for the most of a layer */
    uint32_t n_ff;              /* neurons of every layer, where predictors are wanted */
    bool experts;               /* some layer has them; then there are no predictors */
    const sg_cal_unit *units;
    uint64_t n_tokens, n_train;       /* of the text: all, those for fitting */
    uint32_t most_samples;            /* of a layer */
    double budget;                    /* share of the bytes of the bundles that predictors may have */
    bool predictors;
    sg_predictor_kind only; /* NONE: all kinds */
    uint32_t first, end; /* the layers that this pass collects */
    sg_cal_layer *layers; /* [n_layer] */
    sg_cal_routes routes;
    const sg_bundle_layout *layouts; /* [n_layer] of the main units */
    sg_team *team;
    sg_log log;
    bool (*step)(void *user, double work); /* progress; false: cancelled */
    void *step_user;
} sg_cal;

/* ---- stats.c ---- */

/* Memory for the layers first .. end - 1, and its release; counts and results stay. */
SG_NODISCARD sg_status sg_cal_begin(sg_cal *c, uint32_t first, uint32_t end, sg_error *err);
void sg_cal_end_samples(sg_cal *c);
size_t sg_cal_sample_bytes(const sg_cal *c); /* of one layer */
/* A sg_ffn_observe_fn; user: sg_cal. */
void sg_cal_observe(void *user, const sg_ffn_sample *s);
/* Place i of order[n] gets the place of the neuron with the i-th highest count, ties by place. */
void sg_cal_order(const uint32_t *counts, uint32_t n, uint32_t *order);
/* The value below which `share` of what is in the histogram lies. */
float sg_cal_quantile(const uint64_t *bins, double share);

/* ---- coactivity.c ---- */
/* together and touched_* of a layer whose samples and order are there. */
void sg_cal_coactivity(const sg_cal *c, uint32_t layer);

/* ---- linalg.c: LAPACK, opened at run time ---- */

/* Single precision, Fortran's conventions: matrices by columns, counts as 32-bit numbers. Several threads inside. */
typedef struct sg_linalg {
    void *lib, *lib2;
    void (*ssyrk)(const char *uplo, const char *trans, const int *n, const int *k, const float *alpha, const float *a, const int *lda,
                  const float *beta, float *c, const int *ldc, size_t, size_t);
    void (*strmm)(const char *side, const char *uplo, const char *trans, const char *diag, const int *m, const int *n, const float *alpha,
                  const float *a, const int *lda, float *b, const int *ldb, size_t, size_t, size_t, size_t);
    void (*strsm)(const char *side, const char *uplo, const char *trans, const char *diag, const int *m, const int *n, const float *alpha,
                  const float *a, const int *lda, float *b, const int *ldb, size_t, size_t, size_t, size_t);
    void (*sgemm)(const char *ta, const char *tb, const int *m, const int *n, const int *k, const float *alpha, const float *a, const int *lda,
                  const float *b, const int *ldb, const float *beta, float *c, const int *ldc, size_t, size_t);
    void (*spotrf)(const char *uplo, const int *n, float *a, const int *lda, int *info, size_t);
    void (*ssyevr)(const char *jobz, const char *range, const char *uplo, const int *n, float *a, const int *lda, const float *vl,
                   const float *vu, const int *il, const int *iu, const float *tol, int *m, float *w, float *z, const int *ldz, int *isuppz,
                   float *work, const int *lwork, int *iwork, const int *liwork, int *info, size_t, size_t, size_t);
} sg_linalg;
/* False when no library with all of these is there. threads: at most so many, where the library can be told. */
bool sg_linalg_open(sg_linalg *l, uint32_t threads);
void sg_linalg_close(sg_linalg *l);

/* ---- fits ---- */

/* A fitted pair: score = B (A x), for MLP B max(A x, 0). */
typedef struct sg_cal_factors {
    uint32_t rank;
    float *a, *b; /* [rank][k], [n_ff][rank]; owned */
    float *bias;  /* [n_ff], added to the scores; owned; NULL: none */
} sg_cal_factors;
void sg_cal_factors_finish(sg_cal_factors *f);

/* The gate rows of a layer, or its up rows, as values, [n_ff][k] by place; free(). */
SG_NODISCARD sg_status sg_cal_rows(const sg_cal *c, uint32_t layer, bool up, float **out, sg_error *err);

/* The pair of this rank with the least E |G x - B A x|^2, the rows of G scaled such that each product has the mean square 1; G [n][k] (destroyed), x[n_x][k] (F16) the inputs. With C = E[x x^T] = L L^T,
 * the error is |G L - B A L|^2, so B A L is the truncated singular value decomposition of G L (Eckart-Young): B = G L V, A = V^T L^-1 with
 * V the first eigenvectors of (G L)^T (G L). Components come in falling order, so any first ones are the best pair of their rank.
 *
 * u[n][k] (destroyed), NULL: nothing else matters; else the rows of up, which must be above 0 as well for a neuron to fire (dReLU). Then G is
 * replaced by what best tells both linearly: for normally distributed inputs the best linear guess at a function f(g, u) has the weights
 * E[df/dg] and E[df/du] (Stein's lemma). With f = 1 where both are above 0, m and s their means and deviations, phi and Phi the normal
 * density and distribution, and g and u taken as independent, these are phi(m_g / s_g) / s_g * Phi(m_u / s_u), and the same with g and u
 * changed. */
SG_NODISCARD sg_status sg_cal_fit_lowrank(const sg_linalg *la, float *g, float *u, uint32_t n, uint32_t k, const uint16_t *x, uint32_t n_x,
                                          uint32_t rank, sg_cal_factors *out, sg_error *err);
/* Bytes that it needs besides its input. */
size_t sg_cal_lowrank_bytes(uint32_t k, uint32_t n, uint32_t rank);
/* A pair of `rank`, with max(A x, 0) when `relu`, trained to score active neurons high: bits[n_x][(n + 63) / 64] says which are active for
 * which of x[n_x][k] (F16). Starts from the closed form `from`, of at least that rank (relu: half of it). Repeatable: the same input
 * gives the same result with the same library. Scores are log odds (of a loss that weights active neurons more). */
SG_NODISCARD sg_status sg_cal_train(const sg_linalg *la, const sg_cal_factors *from, uint32_t n, uint32_t k, const uint16_t *x,
                                    const uint64_t *bits, uint32_t n_x, uint32_t rank, bool relu, sg_cal_factors *out, sg_error *err);
double sg_cal_train_flops(uint32_t n, uint32_t k, uint32_t n_x, uint32_t rank); /* floating-point operations of that */
/* bits [n][k / 8]: set where g is negative (docs/model_bin.md, sign). */
void sg_cal_fit_sign(const float *g, uint32_t n, uint32_t k, uint8_t *bits);

/* ---- evaluate.c ---- */

/* How many scores fall into each bin: of all neurons, of the active ones. */
typedef struct sg_cal_hist {
    uint64_t all[SG_CAL_SCORE_BINS], active[SG_CAL_SCORE_BINS];
} sg_cal_hist;

/* Scores of one neuron: how many of them, their sum and sum of squares, while it is inactive [0] and active [1]. */
typedef struct sg_cal_moments {
    double n[2], sum[2], squares[2];
} sg_cal_moments;

/* The bin of a score, and the largest score below a bin: a score is in bin b or higher just when it is above that. */
uint32_t sg_cal_score_bin(float score);
float sg_cal_bin_threshold(uint32_t bin);
/* Scores of `p` for the samples s0 .. s1 - 1 of a layer, by all threads of the team: into *out, or (out NULL) into moments[n_ff].
 * *micros: a token on one thread. */
SG_NODISCARD sg_status sg_cal_measure(const sg_cal *c, const sg_cal_layer *l, const sg_cal_pred *p, uint32_t s0, uint32_t s1,
                                      sg_cal_hist *out, sg_cal_moments *moments, double *micros, sg_error *err);
/* scale[n], bias[n] that make log odds of the scores of each neuron: linear discriminant analysis in one dimension. With p the share
 * of the tokens in which it fires, m1 and m0 the mean scores of those tokens and of the others, and v the variance around them, the odds
 * are p / (1 - p) times the ratio of two normal densities, whose logarithm is (m1 - m0) / v * (score - (m1 + m0) / 2). What a neuron that
 * hardly ever fires lacks in observations comes from the mean over all neurons. */
void sg_cal_log_odds(const sg_cal_moments *m, uint32_t n, float *scale, float *bias);
/* Thresholds from `train`, and what they give in `test`. */
void sg_cal_judge(const sg_cal_hist *train, const sg_cal_hist *test, sg_cal_score *out);

/* ---- choose.c ---- */

/* Fits, measures and chooses for a layer whose samples are there. la: NULL without LAPACK. */
SG_NODISCARD sg_status sg_cal_choose(sg_cal *c, uint32_t layer, const sg_linalg *la, sg_error *err);
/* Whether a candidate is to be kept instead of another (kind NONE: instead of none). It has to fit. Of two that find nearly all when
 * they name twice as many neurons as are active (`active` a token), the one with the fewer bytes to read, its own and those of the gate
 * rows that it names at the recall SG_CAL_USUAL; else the one that finds more. */
bool sg_cal_better(const sg_cal_score *s, const sg_cal_score *than, double active, size_t gate_row);
/* Rank of a pair of matrices of this type that fits into `bytes`, a multiple of 32; 0: none does. */
uint32_t sg_cal_rank(uint32_t k, uint32_t n, sg_dtype type, size_t bytes);
size_t sg_cal_budget(const sg_cal *c, uint32_t layer);

/* ---- report.c, plot.c ---- */

void sg_cal_report(const sg_cal *c, sg_str *out);
void sg_cal_plot(const sg_cal *c, sg_str *out);
/* Share of all activity that the hottest `share` of the neurons (of each expert) have; share of the neurons that `fired`, a sum over the
 * uses, is. */
double sg_cal_covered(const sg_cal_layer *l, double share);
double sg_cal_density(const sg_cal_layer *l, uint64_t fired);

/* ---- rewrite.c ---- */
SG_NODISCARD sg_status sg_cal_rewrite(const sg_cal *c, const char *output, bool overwrite, sg_error *err);

#endif
