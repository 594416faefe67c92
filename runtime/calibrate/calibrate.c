/* Calibration from one end to the other: the text goes through the model, layers are counted and fitted, the file is written. */
#include <stdlib.h>
#include <string.h>

#include "runtime/calibrate/prepare.h"
#include "runtime/session_private.h"

#define WINDOW 512u
#define SAMPLES 8192u               /* of a layer: for a rank of some hundred, many more than unknowns in its eigenvectors */
#define TRAIN_SHARE 0.8             /* of the text, its beginning: for fitting */
#define LEAST_TOKENS 32u
#define DEFAULT_RAM ((uint64_t)1 << 30)
#define DEFAULT_BUDGET 0.05
#define FIT_WORK 0.25               /* of the time of the text, as the progress counts it */
#define WRITE_WORK 0.125            /* see rewrite.c */

typedef struct calibration {
    const sg_calibrate_options *o;
    sg_cal c;
    sg_model *model;
    sg_session *session;
    sg_gguf *gguf;
    sg_bundle_layout *layouts;
    sg_cal_unit *units;
    float *fat_threshold;
    sg_kernels kernels;
    sg_linalg la;
    bool have_la;
    int32_t *tokens;
    size_t n; /* tokens used */
    size_t n_ctx;
    double done, total; /* work, in tokens */
} calibration;

static bool step(void *user, double work) {
    calibration *k = user;
    k->done += work;
    const double total = k->total > 1 ? k->total : 1, done = k->done < total ? k->done : total;
    return !k->o->progress || k->o->progress(k->o->user, (uint64_t)done, (uint64_t)total);
}

static sg_status cancelled(const calibration *k, sg_error *err) {
    return sg_fail(err, SG_E_CANCELLED, "%s: the calibration was cancelled", k->o->model);
}

/* ---- preparation -------------------------------------------------------------------------------------------------- */

/* What lies where in a layer. */
static void take_layer(calibration *k, const sg_model *m, uint32_t i) {
    sg_cal *c = &k->c;
    const sg_unit_of u = m->weights.units[i];
    const sg_bundle_layout *b = &m->weights.ffn[u.main].bundle.l;
    const uint32_t words = (b->n_neurons + 63) / 64;
    k->layouts[i] = *b;
    k->units[u.main] = (sg_cal_unit) { i, true };
    if (u.shared != SG_NO_UNIT) k->units[u.shared] = (sg_cal_unit) { i, false };
    c->layers[i].n_expert = b->n_expert > 0 ? b->n_expert : 1;
    c->layers[i].n = b->n_neurons;
    c->experts = c->experts || b->n_expert > 0 || u.shared != SG_NO_UNIT;
    if (words > c->words) c->words = words;
}

static sg_status open_model(calibration *k, sg_error *err) {
    const sg_calibrate_options *o = k->o;
    sg_model_options mo = SG_MODEL_OPTIONS_INIT;
    mo.io = o->io;
    mo.cpu_mask = o->cpu_mask;
    mo.log = o->log;
    mo.user = o->user;
    SG_TRY(sg_gguf_open(o->model, &k->gguf, err));
    if (!sg_gguf_find(k->gguf, "sparsegen.bundle.neurons"))
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: only a model.bin can be calibrated (sparsegen convert makes one)", o->model);
    SG_TRY(sg_model_open(o->model, &mo, &k->model, err));
    const sg_model *m = k->model;
    const sg_hparams *hp = &m->desc.hp;
    sg_cal *c = &k->c;
    for (uint32_t i = 0; i < hp->n_layer; i++)
        if (m->weights.units[i].main == SG_NO_UNIT)
            return sg_fail(err, SG_E_UNSUPPORTED, "%s: layer %u has no neuron bundles, so there is nothing to sort", o->model, i);
    k->kernels = m->kernels;
    k->layouts = calloc(hp->n_layer, sizeof *k->layouts);
    k->units = calloc(m->weights.n_units, sizeof *k->units);
    c->layers = calloc(hp->n_layer, sizeof *c->layers);
    if (m->desc.ffn_threshold) k->fat_threshold = malloc(hp->n_layer * sizeof *k->fat_threshold);
    if (!k->layouts || !k->units || !c->layers || (m->desc.ffn_threshold && !k->fat_threshold)) return sg_fail(err, SG_E_NOMEM, "%s: out of memory", o->model);
    for (uint32_t i = 0; i < hp->n_layer; i++) take_layer(k, m, i);
    if (k->fat_threshold) memcpy(k->fat_threshold, m->desc.ffn_threshold, hp->n_layer * sizeof *k->fat_threshold);
    c->gguf = k->gguf;
    c->kernels = &k->kernels;
    c->fat_threshold = k->fat_threshold;
    c->layouts = k->layouts;
    c->units = k->units;
    c->n_layer = hp->n_layer;
    c->k = hp->n_embd;
    c->n_ff = hp->n_ff;
    if (c->experts && c->predictors && c->only != SG_PRED_NONE)
        return sg_fail(err, SG_E_UNSUPPORTED, "%s: a model with experts gets no predictors, so none of the kind %s: a router says what is needed", o->model, o->only);
    c->predictors = c->predictors && !c->experts;
    return SG_OK;
}

/* The tokens of the text, its windows, and which of them are for fitting. */
static sg_status read_text(calibration *k, sg_error *err) {
    const sg_calibrate_options *o = k->o;
    const sg_model_info *info = sg_model_get_info(k->model);
    SG_TRY(sg_tokenize(k->model, o->text, o->len, SG_TOKENIZE_SPECIAL, &k->tokens, &k->n, err));
    if (o->max_tokens && k->n > o->max_tokens) k->n = (size_t)o->max_tokens;
    if (k->n < LEAST_TOKENS) return sg_fail(err, SG_E_ARG, "the text has %zu tokens, calibration needs %u at least", k->n, LEAST_TOKENS);
    k->n_ctx = o->n_ctx ? o->n_ctx : info->n_ctx_train < WINDOW ? info->n_ctx_train : WINDOW;
    if (k->n_ctx > k->n) k->n_ctx = k->n;
    sg_cal *c = &k->c;
    c->n_tokens = k->n;
    c->n_train = (uint64_t)(TRAIN_SHARE * (double)k->n);
    /* where a window ends, so that nothing of the rest was seen */
    if (c->n_train > k->n_ctx) c->n_train = c->n_train / k->n_ctx * k->n_ctx;
    c->most_samples = k->n < SAMPLES ? (uint32_t)k->n : SAMPLES;
    return SG_OK;
}

static sg_status start(calibration *k, sg_error *err) {
    const sg_calibrate_options *o = k->o;
    sg_cal *c = &k->c;
    sg_session_options so = SG_SESSION_OPTIONS_INIT;
    so.n_ctx = (uint32_t)k->n_ctx;
    so.n_threads = o->n_threads;
    SG_TRY(sg_session_create(k->model, &so, &k->session, err));
    SG_TRY(sg_session_observe(k->session, sg_cal_observe, c, err));
    c->act = sg_plan_act(k->model->desc.hp.ffn_act);
    SG_TRY(sg_team_create(sg_session_get_stats(k->session).n_threads, &c->team, err));
    const bool routes = k->model->desc.hp.n_expert > 0 && !o->no_ahead;
    k->have_la = (c->predictors || routes) && sg_linalg_open(&k->la, sg_team_size(c->team));
    if (!k->have_la && c->predictors) sg_log_line(&c->log, SG_LOG_WARN, "no LAPACK (libopenblas.so.0): predictors of the kind \"sign\" only");
    if (!k->have_la && routes) sg_log_line(&c->log, SG_LOG_WARN, "no LAPACK (libopenblas.so.0): what names experts ahead stays as it is");
    SG_TRY(sg_cal_prepare_routes(c, k->model, &k->session->exec.router, routes, k->have_la, err));
    sg_session_observe_rows(k->session, sg_cal_see_rows, &c->routes);
    return SG_OK;
}

/* ---- the text ----------------------------------------------------------------------------------------------------- */

/* Feeds the whole text, window by window, each from the beginning token on. */
static sg_status feed_text(calibration *k, sg_error *err) {
    const sg_model_info *info = sg_model_get_info(k->model);
    const size_t batch = 128;
    for (size_t at = 0; at < k->n; at += k->n_ctx) {
        const size_t n = k->n - at < k->n_ctx ? k->n - at : k->n_ctx;
        const int32_t first = k->tokens[at];
        if (info->adds_bos && info->bos >= 0) k->tokens[at] = info->bos;
        sg_status s = sg_session_rewind(k->session, 0, err);
        for (size_t i = 0; s == SG_OK && i < n; i += batch) {
            const size_t m = n - i < batch ? n - i : batch;
            s = sg_session_feed(k->session, k->tokens + at + i, m, 1, err);
            if (s == SG_OK && !step(k, (double)m)) s = cancelled(k, err);
        }
        k->tokens[at] = first;
        SG_TRY(s);
    }
    return SG_OK;
}

static sg_status work_on_layer(calibration *k, uint32_t layer, sg_error *err) {
    sg_cal *c = &k->c;
    sg_cal_layer *l = &c->layers[layer];
    for (size_t e = 0; e < l->n_expert; e++) sg_cal_order(l->counts + e * l->n, l->n, l->order + e * l->n);
    for (uint32_t i = 0; i < SG_CAL_SHARES; i++) l->shares[i] = sg_cal_quantile(l->magnitudes, sg_cal_shares[i]);
    sg_cal_coactivity(c, layer);
    const sg_linalg *la = k->have_la ? &k->la : NULL;
    if (c->predictors) SG_TRY(sg_cal_choose(c, layer, la, err));
    SG_TRY(sg_cal_fit_layer(&c->routes, layer, la, err));
    return step(k, FIT_WORK * (double)k->n / c->n_layer) ? SG_OK : cancelled(k, err);
}

/* As many layers at a time as have room for their samples. */
static sg_status walk_layers(calibration *k, sg_error *err) {
    sg_cal *c = &k->c;
    const uint64_t ram = k->o->ram_bytes ? k->o->ram_bytes : DEFAULT_RAM;
    uint64_t at_once = ram / sg_cal_sample_bytes(c);
    if (at_once == 0) { /* fewer samples, then */
        c->most_samples = (uint32_t)(c->most_samples * (double)ram / (double)sg_cal_sample_bytes(c));
        if (c->most_samples < LEAST_TOKENS)
            return sg_fail(err, SG_E_ARG, "%s: samples of a layer need more than %llu bytes of memory", c->path, (unsigned long long)ram);
        c->routes.most_samples = c->most_samples;
        at_once = 1;
    }
    const uint32_t n = at_once < c->n_layer ? (uint32_t)at_once : c->n_layer, passes = (c->n_layer + n - 1) / n;
    k->total = (double)k->n * (passes + FIT_WORK + (k->o->dry_run ? 0 : WRITE_WORK));
    if (passes > 1) sg_log_line(&c->log, SG_LOG_INFO, "the text passes through the model %u times, for %u layers at a time", passes, n);
    for (uint32_t first = 0; first < c->n_layer; first += n) {
        const uint32_t end = c->n_layer - first < n ? c->n_layer : first + n;
        sg_status s = sg_cal_begin(c, first, end, err);
        if (s == SG_OK) s = feed_text(k, err);
        for (uint32_t i = first; s == SG_OK && i < end; i++) s = work_on_layer(k, i, err);
        sg_cal_end_samples(c);
        SG_TRY(s);
    }
    return sg_cal_choose_hints(&c->routes, err);
}

/* ---- all of it ---------------------------------------------------------------------------------------------------- */

static void finish(calibration *k) {
    sg_cal *c = &k->c;
    sg_session_destroy(&k->session);
    sg_model_close(&k->model);
    sg_gguf_close(&k->gguf);
    sg_team_destroy(&c->team);
    sg_linalg_close(&k->la);
    sg_cal_routes_finish(&c->routes);
    for (uint32_t i = 0; c->layers && i < c->n_layer; i++) {
        free(c->layers[i].counts);
        free(c->layers[i].order);
        sg_cal_pred_finish(&c->layers[i].pred);
    }
    free(c->layers);
    free(k->layouts);
    free(k->units);
    free(k->fat_threshold);
    sg_free(k->tokens);
}

/* Hands a text over; NULL in `out`: nobody wants it. */
static sg_status hand_over(const sg_cal *c, void (*make)(const sg_cal *, sg_str *), char **out, sg_error *err) {
    if (!out) return SG_OK;
    sg_str s = { 0 };
    make(c, &s);
    if (s.failed) {
        free(s.data);
        return sg_fail(err, SG_E_NOMEM, "out of memory for the report");
    }
    *out = s.data;
    return SG_OK;
}

static sg_status run(calibration *k, char **report, char **plot, sg_error *err) {
    const sg_calibrate_options *o = k->o;
    sg_cal *c = &k->c;
    SG_TRY(open_model(k, err));
    SG_TRY(read_text(k, err));
    SG_TRY(start(k, err));
    SG_TRY(walk_layers(k, err));
    sg_session_destroy(&k->session);
    sg_model_close(&k->model); /* its memory, before the file is written */
    SG_TRY(hand_over(c, sg_cal_report, report, err));
    SG_TRY(hand_over(c, sg_cal_plot, plot, err));
    if (o->dry_run) return SG_OK;
    return sg_cal_rewrite(c, o->output ? o->output : o->model, o->overwrite || !o->output, err);
}

sg_status sg_calibrate(const sg_calibrate_options *options, char **report, char **plot, sg_error *err) {
    sg_calibrate_options o = SG_CALIBRATE_OPTIONS_INIT;
    if (report) *report = NULL;
    if (plot) *plot = NULL;
    if (options) memcpy(&o, options, options->struct_size < sizeof o ? options->struct_size : sizeof o);
    if (!o.model || !o.text) return sg_fail(err, SG_E_ARG, "sg_calibrate: no model or no text");
    if (!(o.budget >= 0 && o.budget <= 1)) return sg_fail(err, SG_E_ARG, "the budget of the predictors is %g, not between 0 and 1", o.budget);
    sg_predictor_kind only = SG_PRED_NONE;
    while (o.only && only < SG_PRED_KINDS && strcmp(o.only, sg_predictor_names[only]) != 0) only++;
    if (only == SG_PRED_KINDS || (o.only && only == SG_PRED_NONE))
        return sg_fail(err, SG_E_ARG, "\"%s\" is no kind of predictor (mlp, sign, lowrank)", o.only);
    calibration k = { .o = &o };
    k.c = (sg_cal){ .path = o.model, .predictors = !o.no_predictors, .only = only, .budget = o.budget > 0 ? o.budget : DEFAULT_BUDGET,
                    .log = { o.log, o.user }, .step = step, .step_user = &k };
    const sg_status s = run(&k, report, plot, err);
    finish(&k);
    if (s != SG_OK) {
        if (report) sg_free(*report);
        if (plot) sg_free(*plot);
        if (report) *report = NULL;
        if (plot) *plot = NULL;
    }
    return s;
}
