#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/calibrate/calibrate.h"

#define HOTTEST 256u

static bool fires(const sg_cal *c, const sg_cal_layer *l, uint32_t s, uint32_t place) {
    return l->bits[(size_t)s * c->words + place / 64] >> (place % 64) & 1;
}

/* How many samples each pair of the n hottest neurons has in common against what their shares would give if they knew nothing of
 * each other: sum of the former over sum of the latter. Pairs i < j. With f fires in a sample, f (f - 1) / 2 pairs are common to it,
 * so pairs need not be looked at one by one. */
static double likelier(const sg_cal *c, const sg_cal_layer *l, uint32_t n) {
    double common = 0, sum = 0, sum_squares = 0;
    uint32_t count[HOTTEST] = { 0 };
    for (uint32_t s = 0; s < l->n_samples; s++) {
        uint32_t f = 0;
        for (uint32_t i = 0; i < n; i++) {
            const uint32_t is_active = fires(c, l, s, l->order[i]);
            f += is_active;
            count[i] += is_active;
        }
        common += 0.5 * f * (f - 1.0);
    }
    for (uint32_t i = 0; i < n; i++) {
        const double share = count[i] / (double)l->n_samples;
        sum += share;
        sum_squares += share * share;
    }
    const double expected = 0.5 * (sum * sum - sum_squares) * l->n_samples;
    return expected > 0 ? common / expected : NAN;
}

/* Mean share of the clusters (of an expert that is used) in which a neuron fires; order NULL: as they lie. */
static double touched(const sg_cal *c, const sg_cal_layer *l, const sg_bundle_layout *b, const uint32_t *order) {
    uint64_t n = 0;
    for (uint32_t s = 0; s < l->n_samples; s++) {
        const uint32_t *places = order ? order + (size_t)l->expert[s] * l->n : NULL;
        for (uint32_t first = 0; first < b->n_neurons; first += b->per_cluster) {
            const uint32_t end = first + b->per_cluster < b->n_neurons ? first + b->per_cluster : b->n_neurons;
            uint32_t i = first;
            while (i < end && !fires(c, l, s, places ? places[i] : i)) i++;
            n += i < end;
        }
    }
    return l->n_samples ? (double)n / ((double)l->n_samples * b->per_expert) : NAN;
}

void sg_cal_coactivity(const sg_cal *c, uint32_t layer) {
    sg_cal_layer *l = &c->layers[layer];
    l->together = l->n_expert > 1 ? NAN : likelier(c, l, l->n < HOTTEST ? l->n : HOTTEST); /* of an expert there are too few samples */
    l->touched_before = touched(c, l, &c->layouts[layer], NULL);
    l->touched_after = touched(c, l, &c->layouts[layer], l->order);
}
