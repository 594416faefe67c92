#include "neuron_engine/rope.h"

#include <math.h>
#include <stdlib.h>

static const double pi = 3.14159265358979323846;

/* Index of the pair whose wave turns `turns` times over the original context (YaRN, section 3.2, "NTK-by-parts"). */
static double yarn_pair(const sg_rope_config *c, double turns) {
    return c->n_rot * log(c->n_ctx_orig / (turns * 2 * pi)) / (2 * log(c->freq_base));
}

sg_status sg_rope_init(sg_rope *r, const sg_rope_config *c, sg_error *err) {
    *r = (sg_rope){ .n_rot = c->n_rot, .adjacent = c->adjacent, .magnitude = c->magnitude };
    const uint32_t n = c->n_rot / 2;
    r->inv_freq = malloc((n ? n : 1) * sizeof *r->inv_freq);
    if (!r->inv_freq) return sg_fail(err, SG_E_NOMEM, "out of memory for the rotary frequencies");
    double low = 0, high = 0;
    if (c->yarn) {
        /* The ramp's ends are rounded outwards to whole pairs, as llama.cpp and the YaRN reference code do. */
        low = fmax(0, floor(yarn_pair(c, c->beta_fast)));
        high = fmin(c->n_rot - 1.0, ceil(yarn_pair(c, c->beta_slow)));
    }
    for (uint32_t i = 0; i < n; i++) {
        double f = pow(c->freq_base, -2.0 * i / c->n_rot);
        if (c->factors) f /= c->factors[i];
        double keep = 0; /* share of the frequency that is not interpolated */
        if (c->yarn) {
            const double ramp = fmin(1, fmax(0, (i - low) / fmax(0.001, high - low)));
            keep = (1 - ramp) * c->ext_factor;
        }
        r->inv_freq[i] = f / c->scale * (1 - keep) + f * keep;
    }
    return SG_OK;
}

void sg_rope_finish(sg_rope *r) {
    free(r->inv_freq);
    *r = (sg_rope){ 0 };
}

void sg_rope_table(const sg_rope *r, uint32_t pos, float *table) {
    const uint32_t n = r->n_rot / 2, step = r->adjacent ? 2 : 1, apart = r->adjacent ? 1 : n;
    float *const cosines = table, *const sines = table + r->n_rot;
    /* In double, rounded once: the last bit of libm's float functions differs between C libraries. */
    for (uint32_t i = 0; i < n; i++) {
        const double angle = pos * r->inv_freq[i];
        const uint32_t a = i * step, b = a + apart;
        cosines[a] = cosines[b] = (float)(cos(angle) * r->magnitude);
        sines[b] = (float)(sin(angle) * r->magnitude);
        sines[a] = -sines[b];
    }
}
