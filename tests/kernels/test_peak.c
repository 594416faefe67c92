/* The loops that speeds are measured against: that they run in every tier, count what they do, and read what they
 * should. How fast they are is no test's business. */
#include <string.h>

#include "neuron_engine/kernels/peak.h"
#include "tests/kernels/harness.h"

static void check_counts(const char *tier) {
    for (sg_peak what = 0; what < SG_PEAKS; what++) {
        const uint64_t one = sg_peak_run(tier, what, 1), many = sg_peak_run(tier, what, 1000);
        h_check(one > 0 && one % 2 == 0, "%s loop %d: %llu operations", tier, (int)what, (unsigned long long)one);
        h_check(many == 1000 * one, "%s loop %d: 1000 rounds are not 1000 times one", tier, (int)what);
        h_check(sg_peak_run(tier, what, 0) == 0, "%s loop %d: operations in no round", tier, (int)what);
    }
}

static void check_read(void) {
    enum { N = 300 };
    const uint32_t flags[] = { 0, sg_cpu_detect(), sg_cpu_detect() & ~(uint32_t)SG_CPU_AVX512 };
    for (uint32_t n = 0; n <= N; n++) {
        uint64_t *p = h_alloc(n * sizeof *p, 8), want = 0;
        h_bytes(p, n * sizeof *p / 8 * 8);
        for (uint32_t i = 0; i < n; i++) want += p[i];
        for (size_t f = 0; f < 2 * sizeof flags / sizeof *flags; f++)
            h_check(sg_read_words(p, n, f % 2, flags[f / 2]) == want, "the sum of %u words is wrong (flags %u)", n,
                    flags[f / 2]);
        h_free(p, 8);
    }
}

int main(void) {
    h_init("peak");
    sg_kernels tiers[H_MAX_TIERS];
    const int n_tiers = h_tiers(tiers);
    for (int t = 0; t < n_tiers; t++) {
        check_counts(tiers[t].tier);
        /* A tier without loops of its own would be measured against plain C. */
        const bool own = sg_peak_run(tiers[t].tier, SG_PEAK_INT8, 1) != sg_peak_run("ref", SG_PEAK_INT8, 1);
        h_check(own == (t > 0) || sizeof(void *) < 8, "tier %s has no loops of its own", tiers[t].tier);
    }
    check_read();
    return h_finish();
}
