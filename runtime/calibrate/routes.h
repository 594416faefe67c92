/* What names the experts of a layer before it is its turn, fitted to a text (docs/model_bin.md, Tensors that name experts ahead):
 *
 *   ahead     router of layer N for the stream of the layer before, as look-ahead sees it (exec_ffn.c, sg_exec_expect): W + D, where W is the
 *             router and D, with an offset, is fitted to what W misses. The ridge pulls D to 0.
 *   pre-gate  the routers of all layers from the token's embedding.
 *
 * Both are least squares with a ridge over the first four fifths of the samples; one half of the others chooses the ridge, by the share of the
 * used experts that are named, and the other half says what that is worth. */
#ifndef SG_CAL_ROUTES_H
#define SG_CAL_ROUTES_H

#include "models/model.h"
#include "neuron_engine/observe.h"
#include "neuron_engine/router.h"
#include "runtime/base/mem.h"

/* What names them. */
typedef enum sg_cal_guess { SG_CAL_GUESS_USED, SG_CAL_GUESS_ROUTER, SG_CAL_GUESS_AHEAD, SG_CAL_GUESS_PRE, SG_CAL_GUESSES } sg_cal_guess;

/* A gain in share that is worth a matrix; what the pre-gate has to name where nothing else names any. */
#define SG_CAL_GAIN 0.02
#define SG_CAL_PRE_SHARE 0.5

/* Names of the tensors, the former behind "blk.N.", without "weight" and "bias". */
#define SG_CAL_AHEAD "sparsegen.ahead."
#define SG_CAL_PREGATE "sparsegen.pregate."

/* rows of k values as F16, or Q8_0 when there are many, and an offset each. */
typedef struct sg_cal_hint {
    sg_dtype type;
    uint8_t *rows; /* owned; NULL: none */
    size_t bytes;
    float *bias;   /* owned */
} sg_cal_hint;

/* A layer with experts. */
typedef struct sg_cal_route {
    uint32_t layer;
    bool follows; /* the layer before it has experts, too: there is look-ahead */
    const float *norm, *norm_bias, *select_bias; /* of the stream; for the choice; NULL: none */
    float *w, *b;      /* the router [n_expert][k], its offsets [n_expert] */
    /* samples, only while the layer is worked on */
    uint64_t seen, streams;       /* tokens so far */
    uint32_t n, n_train, n_x;     /* samples; the first n_train are for fitting */
    float *logits;                /* [n][n_expert], of the router where it belongs */
    uint16_t *x;                  /* [n_x][k], F16, the stream of the layer before; NULL without one */
    /* results */
    double share[SG_CAL_GUESSES]; /* of the used experts that are named; below 0: not measured */
    bool wanted;                  /* ahead is good enough to be written */
    sg_cal_hint ahead;
    float *pre, *pre_bias;        /* [n_expert][k], [n_expert]; rows of the pre-gate */
} sg_cal_route;

struct sg_linalg;

typedef struct sg_cal_routes {
    uint32_t n, n_expert, k;  /* layers with experts; n 0: nothing is to be fitted */
    sg_cal_route *layer;      /* [n], owned */
    sg_router router;
    const char *path;
    const sg_vec_fns *vec;
    sg_norm_kind norm;
    float eps;
    uint64_t n_tokens, n_train; /* of the text */
    uint32_t most_samples;
    bool keep_ahead, keep_pre;  /* what the file has stays: nothing can be fitted; its layers have no other router */
    uint32_t first, end;
    float *ones, *row;          /* [k], owned; scratch */
    uint64_t embedded;          /* tokens so far */
    uint32_t n_e;
    uint16_t *e;                /* [n_e][k], F16, embeddings with mean square 1; owned; of all passes */
    sg_cal_hint pre;            /* written when there */
    double pre_share, ahead_share; /* mean over the layers that have look-ahead */
    double pre_first, used_first;  /* over the others */
} sg_cal_routes;

/* Samples lie evenly over the text: whether token number `token` of n_tokens is the next one, of at most `most`, when there are n. */
static inline bool sg_cal_takes(uint64_t token, uint64_t n_tokens, uint32_t n, uint32_t most) { return token * most / n_tokens == n && n < most; }

/* Bytes of samples of a layer. */
size_t sg_cal_route_bytes(const sg_cal_routes *r);
/* Samples of layers first .. end - 1. */
SG_NODISCARD sg_status sg_cal_routes_begin(sg_cal_routes *r, uint32_t first, uint32_t end, sg_error *err);
void sg_cal_routes_end_samples(sg_cal_routes *r, uint32_t first, uint32_t end);
void sg_cal_routes_finish(sg_cal_routes *r);

/* The stream of a layer with experts, rows of k values. */
void sg_cal_see_stream(sg_cal_routes *r, uint32_t layer, const float *x, uint32_t k, uint32_t n);
/* A sg_rows_observe_fn; user: sg_cal_routes. */
void sg_cal_see_rows(void *user, sg_seen what, uint32_t layer, const float *rows, size_t ld, uint32_t n);

/* Fits for a layer whose samples are there; without experts or without la nothing happens. */
SG_NODISCARD sg_status sg_cal_fit_layer(sg_cal_routes *r, uint32_t layer, const struct sg_linalg *la, sg_error *err);
/* Once all layers are fitted: what is to be written. */
SG_NODISCARD sg_status sg_cal_choose_hints(sg_cal_routes *r, sg_error *err);
void sg_cal_routes_report(const sg_cal_routes *r, sg_str *out);

/* ---- parts ---- */

/* The type for so many rows; *h from rows[n][k] and bias[n], false: no memory. */
sg_dtype sg_cal_hint_type(uint32_t rows, uint32_t k);
bool sg_cal_hint_make(sg_cal_hint *h, sg_dtype type, const float *rows, const float *bias, uint32_t n, uint32_t k);

/* Least squares of y[n][m] over x[n][k] (F16): sums from which every ridge gives its rows. */
typedef struct sg_cal_normal {
    uint32_t k, m;
    float *a, *b;   /* sum of x x^T, of y x^T, [k][k] (upper triangle by columns) and [m][k]; both less the means; owned */
    float *mx, *my; /* means; owned */
} sg_cal_normal;
SG_NODISCARD sg_status sg_cal_normal_make(const struct sg_linalg *la, const uint16_t *x, const float *y, uint32_t n, uint32_t k, uint32_t m,
                                          sg_cal_normal *out, sg_error *err);
/* rows[m][k], bias[m] with the least |y - rows x - bias|^2 + ridge |rows|^2, ridge in units of the mean square of x. False: not to be had. */
SG_NODISCARD bool sg_cal_normal_solve(const struct sg_linalg *la, const sg_cal_normal *p, double ridge, float *rows, float *bias, float *scratch);
void sg_cal_normal_finish(sg_cal_normal *p);
/* y[n][m] += rows x + bias of samples x[n][k]. */
SG_NODISCARD sg_status sg_cal_apply(const struct sg_linalg *la, const float *rows, const float *bias, const uint16_t *x, uint32_t n, uint32_t k,
                                    uint32_t m, float *y, sg_error *err);
/* Share of the experts that `truth` gives to n tokens which `guess` gives to them too; both [n][n_expert] products of a router. */
double sg_cal_named(const sg_cal_routes *r, const sg_cal_route *l, const float *truth, const float *guess, uint32_t n);

#endif
