/* Tables for people. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "runtime/calibrate/calibrate.h"

double sg_cal_covered(const sg_cal_layer *l, double share) {
    const uint32_t n = (uint32_t)(share * l->n + 0.5);
    uint64_t sum = 0;
    for (size_t e = 0; e < l->n_expert; e++)
        for (uint32_t i = 0; i < n && i < l->n; i++) sum += l->counts[e * l->n + l->order[e * l->n + i]];
    return l->active ? (double)sum / (double)l->active : 0;
}

double sg_cal_density(const sg_cal_layer *l, uint64_t fired) { return l->uses ? (double)fired / ((double)l->uses * l->n) : 0; }

static void layers(const sg_cal *c, sg_str *out) {
    static const double hottest[] = { 0.05, 0.10, 0.20, 0.26, 0.50 };
    sg_str_puts(out, "activity of the neurons, %\n"
                     "layer  active  gate>0 | of all activity, by the hottest | together | clusters touched\n"
                     "                      |    5    10    20    26    50 %  |          | before  after\n");
    for (uint32_t i = 0; i < c->n_layer; i++) {
        const sg_cal_layer *l = &c->layers[i];
        sg_str_printf(out, "%5u  %6.2f  %6.2f |", i, 100 * sg_cal_density(l, l->active), 100 * sg_cal_density(l, l->positive));
        for (int j = 0; j < 5; j++) sg_str_printf(out, " %5.1f", 100 * sg_cal_covered(l, hottest[j]));
        if (l->n_expert > 1) sg_str_puts(out, "   |        - |");
        else sg_str_printf(out, "   | %7.2fx |", l->together);
        sg_str_printf(out, " %6.1f %6.1f\n", 100 * l->touched_before, 100 * l->touched_after);
    }
    sg_str_puts(out, "together: two of the 256 hottest fire in the same token so many times as often as by chance\n");
    if (c->experts) sg_str_puts(out, "of experts: of those that tokens use, the hottest of each, and its clusters\n");
}

static void magnitudes(const sg_cal *c, sg_str *out) {
    static const uint32_t at[] = { 5, 9, 13, 15, 17, 18 };
    sg_str_puts(out, "\nmagnitude of the activated gate below which a share of the neurons lies\nlayer");
    for (int j = 0; j < 6; j++) sg_str_printf(out, "     %2.0f %%", 100.0 * (double)sg_cal_shares[at[j]]);
    for (uint32_t i = 0; i < c->n_layer; i++) {
        sg_str_printf(out, "\n%5u", i);
        for (int j = 0; j < 6; j++) sg_str_printf(out, " %8.3g", (double)c->layers[i].shares[at[j]]);
    }
    sg_str_puts(out, "\n");
}

static void predictor(const sg_cal_score *s, bool chosen, sg_str *out) {
    char form[32] = "1 bit";
    if (s->rank) snprintf(form, sizeof form, "%u %s%s", s->rank, sg_dtype_get((uint32_t)s->type)->name, s->trained ? " *" : "");
    sg_str_printf(out, "%-8s %-10s %9.1f %8.1f |", sg_predictor_names[s->kind], form, (double)s->bytes / 1024, s->micros);
    for (uint32_t i = 1; i < SG_CAL_RECALLS; i++) sg_str_printf(out, "  %5.1f %5.1f", 100 * s->recall[i], 100 * s->precision[i]);
    sg_str_printf(out, " | %5.1f%s\n", 100 * s->recall_twice, chosen ? "  chosen" : s->fits ? "" : "  too large");
}

static void predictors(const sg_cal *c, sg_str *out) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n_layer; i++) n += c->layers[i].n_scores;
    if (n == 0) return;
    sg_str_puts(out, "\npredictors: recall and precision, %, on the last tenth of the text, at thresholds that gave it on the tenth before\n"
                     "layer  kind     rank, type       KiB       us | recall 90    95           98           99          | at 2x\n");
    for (uint32_t i = 0; i < c->n_layer; i++) {
        const sg_cal_layer *l = &c->layers[i];
        for (uint32_t j = 0; j < l->n_scores; j++) {
            const sg_cal_score *s = &l->scores[j];
            const bool chosen = l->pred.kind == s->kind && l->chosen.rank == s->rank && l->chosen.type == s->type &&
                                l->chosen.trained == s->trained;
            sg_str_printf(out, "%5u  ", i);
            predictor(s, chosen, out);
        }
    }
    sg_str_puts(out, "at 2x: recall when twice as many neurons are named as are active. us: a token on one thread.\n*: trained, the others are closed forms\n");
}

void sg_cal_report(const sg_cal *c, sg_str *out) {
    uint64_t bytes = 0, all = 0;
    uint32_t with = 0;
    sg_str_printf(out, "%" PRIu64 " tokens, %u layers of ", c->n_tokens, c->n_layer);
    const sg_cal_layer *last = &c->layers[c->n_layer - 1];
    if (c->experts) sg_str_printf(out, "%u experts of ", last->n_expert);
    sg_str_printf(out, "%u neurons\n\n", last->n);
    layers(c, out);
    magnitudes(c, out);
    predictors(c, out);
    if (c->experts) {
        sg_str_puts(out, "\nno predictors: a router says which neurons of experts are needed\n");
        sg_cal_routes_report(&c->routes, out);
        return;
    }
    for (uint32_t i = 0; i < c->n_layer; i++) {
        const sg_cal_layer *l = &c->layers[i];
        all += (uint64_t)c->layouts[i].n_clusters * c->layouts[i].cluster_bytes;
        with += l->pred.kind != SG_PRED_NONE;
        bytes += sg_cal_pred_bytes(&l->pred, c->n_ff);
    }
    sg_str_printf(out, "\n%u of %u layers have a predictor, %.2f MiB together: %.1f %% of the neurons' bytes\n", with, c->n_layer,
                  (double)bytes / (1 << 20), 100.0 * (double)bytes / (double)all);
}
