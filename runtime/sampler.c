/* Choosing the next token. Every step is defined by IEEE 754 operations in a fixed order, on data in a fixed order, so
 * that a seed gives the same tokens on every machine: no libm, no qsort, no rand of the libc.
 *
 * Order among tokens, wherever one is needed: higher logit first, among equals the lower id first.
 *   top-k   keeps the k first
 *   top-p   keeps the shortest run of first tokens whose probabilities reach p (the token that crosses p belongs to it)
 *   min-p   keeps tokens whose probability is at least min_p times that of the first
 * Probabilities are those after top-k and temperature. top-p and min-p both keep a beginning of the same order, so the
 * order in which the two are applied does not matter, and min-p goes first here because it needs no sorting.
 *
 * NaN counts as minus infinity. Where every logit is minus infinity all tokens are equal. If any is plus infinity, only
 * those are possible. */
#include "runtime/sampler.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/error.h"

/* Wider intermediate results (x87) would give other bits. */
_Static_assert(FLT_EVAL_METHOD == 0, "sampling needs float and double arithmetic without excess precision");

/* Windows longer than this are pointless, and the bound keeps the ring's memory small. */
#define MAX_LAST_N (1 << 20)

typedef struct candidate {
    double weight; /* e^((logit - best) / temperature) */
    float logit;   /* after penalties */
    int32_t id;
} candidate;

struct sg_sampler {
    sg_sampler_options o;
    uint32_t n_vocab;
    uint64_t rng[4];
    candidate *cand; /* [n_vocab], scratch of one call */
    uint32_t *count; /* [n_vocab] occurrences in the window; NULL when no penalty is on */
    int32_t *ring;   /* [penalty_last_n], the window; NULL when it is unlimited */
    uint32_t ring_len, ring_next;
};

/* ---- random numbers: xoshiro256** 1.0, seeded by SplitMix64 (Blackman and Vigna, https://prng.di.unimi.it/)
 * --------------- */

static uint64_t splitmix64(uint64_t *x) {
    uint64_t z = *x += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static uint64_t rotl(uint64_t x, int k) { return x << k | x >> (64 - k); }

static uint64_t xoshiro256ss(uint64_t s[4]) {
    const uint64_t result = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return result;
}

/* 53 bits, in [0, 1). */
static double uniform(uint64_t s[4]) { return (double)(xoshiro256ss(s) >> 11) * 0x1.0p-53; }

/* ---- exp ---- */

/* x = k ln 2 + r with |r| <= ln 2 / 2, then the Taylor sum of e^r (the first term left out is below 2^-60). ln 2 is
 * split so that k * hi is exact. */
double sg_sampler_exp(double x) {
    if (!(x >= -708.0)) return 0.0;
    const double ln2_hi = 0x1.62e42feep-1, ln2_lo = 0x1.a39ef35793c76p-33, inv_ln2 = 0x1.71547652b82fep0;
    const int k = (int)(x * inv_ln2 - 0.5); /* rounds to nearest: the cast cuts towards zero and x is not positive */
    const double r = (x - (double)k * ln2_hi) - (double)k * ln2_lo;
    double sum = 1.0;
    for (int i = 14; i >= 1; i--) sum = 1.0 + r / i * sum;
    const uint64_t bits = (uint64_t)(1023 + k) << 52;
    double scale;
    memcpy(&scale, &bits, sizeof scale);
    return sum * scale;
}

/* ---- order ---- */

static bool before(const candidate *a, const candidate *b) {
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

/* Restores the heap c[0..n) whose root is the LAST in order, below position i. */
static void sift(candidate *c, uint32_t n, uint32_t i) {
    const candidate moving = c[i];
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= n) break;
        if (child + 1 < n && before(&c[child], &c[child + 1])) child++;
        if (!before(&moving, &c[child])) break;
        c[i] = c[child];
        i = child;
    }
    c[i] = moving;
}

static void heapify(candidate *c, uint32_t n) {
    for (uint32_t i = n / 2; i-- > 0;) sift(c, n, i);
}

/* Moves the k first in order to c[0..k), in no particular order. */
static void select_first(candidate *c, uint32_t n, uint32_t k) {
    heapify(c, k);
    for (uint32_t i = k; i < n; i++) {
        if (!before(&c[i], &c[0])) continue;
        c[0] = c[i];
        sift(c, k, 0);
    }
}

static void sort(candidate *c, uint32_t n) {
    heapify(c, n);
    while (n > 1) {
        n--;
        const candidate last = c[0];
        c[0] = c[n];
        c[n] = last;
        sift(c, n, 0);
    }
}

/* ---- creation ---- */

static bool penalties_on(const sg_sampler_options *o) {
    return o->penalty_last_n != 0 &&
           (o->repeat_penalty != 1.0f || o->presence_penalty != 0.0f || o->frequency_penalty != 0.0f);
}

static sg_status check_options(const sg_sampler_options *o, sg_error *err) {
    if (!(o->temperature >= 0.0f) || isinf(o->temperature))
        return sg_fail(err, SG_E_ARG, "temperature %g is not a number from 0 up", (double)o->temperature);
    if (o->top_k < 0) return sg_fail(err, SG_E_ARG, "top_k %d is negative", (int)o->top_k);
    if (!(o->top_p >= 0.0f && o->top_p <= 1.0f))
        return sg_fail(err, SG_E_ARG, "top_p %g is not between 0 and 1", (double)o->top_p);
    if (!(o->min_p >= 0.0f && o->min_p <= 1.0f))
        return sg_fail(err, SG_E_ARG, "min_p %g is not between 0 and 1", (double)o->min_p);
    if (!(o->repeat_penalty > 0.0f) || isinf(o->repeat_penalty))
        return sg_fail(err, SG_E_ARG, "repeat_penalty %g is not a number above 0", (double)o->repeat_penalty);
    if (!isfinite(o->presence_penalty) || !isfinite(o->frequency_penalty))
        return sg_fail(err, SG_E_ARG, "presence_penalty or frequency_penalty is not a finite number");
    if (o->penalty_last_n < -1 || o->penalty_last_n > MAX_LAST_N)
        return sg_fail(err, SG_E_ARG, "penalty_last_n %d is not between -1 and %d", (int)o->penalty_last_n, MAX_LAST_N);
    return SG_OK;
}

sg_status sg_sampler_create(const sg_sampler_options *options, uint32_t n_vocab, sg_sampler **out, sg_error *err) {
    if (!out) return sg_fail(err, SG_E_ARG, "sg_sampler_create: out is NULL");
    *out = NULL;
    if (n_vocab == 0 || n_vocab > INT32_MAX)
        return sg_fail(err, SG_E_ARG, "sg_sampler_create: a vocabulary of %u tokens is impossible", n_vocab);
    sg_sampler_options o = SG_SAMPLER_OPTIONS_INIT;
    if (options) memcpy(&o, options, options->struct_size < sizeof o ? options->struct_size : sizeof o);
    SG_TRY(check_options(&o, err));

    sg_sampler *s = calloc(1, sizeof *s);
    if (!s) return sg_fail(err, SG_E_NOMEM, "out of memory");
    s->o = o;
    s->n_vocab = n_vocab;
    uint64_t seed = o.seed;
    for (int i = 0; i < 4; i++) s->rng[i] = splitmix64(&seed);
    s->cand = calloc(n_vocab, sizeof *s->cand);
    bool ok = s->cand != NULL;
    if (penalties_on(&o)) {
        s->count = calloc(n_vocab, sizeof *s->count);
        ok = ok && s->count;
        if (o.penalty_last_n > 0) {
            s->ring = calloc((size_t)o.penalty_last_n, sizeof *s->ring);
            ok = ok && s->ring;
        }
    }
    if (!ok) {
        sg_sampler_destroy(&s);
        return sg_fail(err, SG_E_NOMEM, "out of memory for a sampler over %u tokens", n_vocab);
    }
    *out = s;
    return SG_OK;
}

void sg_sampler_destroy(sg_sampler **sampler) {
    if (!sampler || !*sampler) return;
    free((*sampler)->cand);
    free((*sampler)->count);
    free((*sampler)->ring);
    free(*sampler);
    *sampler = NULL;
}

uint32_t sg_sampler_n_vocab(const sg_sampler *s) { return s->n_vocab; }

/* ---- one token ---- */

void sg_sampler_accept(sg_sampler *s, int32_t token) {
    if (!s || !s->count || token < 0 || (uint32_t)token >= s->n_vocab) return;
    if (s->ring) {
        if (s->ring_len == (uint32_t)s->o.penalty_last_n)
            s->count[s->ring[s->ring_next]]--;
        else
            s->ring_len++;
        s->ring[s->ring_next] = token;
        s->ring_next = (s->ring_next + 1) % (uint32_t)s->o.penalty_last_n;
    }
    if (s->count[token] < UINT32_MAX) s->count[token]++;
}

/* The same formulas as in llama.cpp (and, for presence and frequency, the OpenAI API). */
static float penalise(const sg_sampler_options *o, float logit, uint32_t count) {
    logit = logit > 0.0f ? logit / o->repeat_penalty : logit * o->repeat_penalty;
    return logit - ((float)count * o->frequency_penalty + o->presence_penalty);
}

/* Fills cand[] and returns the first in order. */
static candidate load(sg_sampler *s, const float *logits) {
    candidate best = { 0.0, -INFINITY, 0 };
    for (uint32_t i = 0; i < s->n_vocab; i++) {
        float x = logits[i];
        if (s->count && s->count[i] > 0) x = penalise(&s->o, x, s->count[i]);
        if (isnan(x)) x = -INFINITY;
        s->cand[i] = (candidate) { 0.0, x, (int32_t)i };
        if (x > best.logit) best = s->cand[i];
    }
    return best;
}

/* Sets the weights of c[0..n) and returns their sum. */
static double weigh(candidate *c, uint32_t n, float best, double temperature) {
    double total = 0.0;
    for (uint32_t i = 0; i < n; i++) {
        /* equality first: infinity minus infinity is no number */
        c[i].weight = c[i].logit == best ? 1.0 : sg_sampler_exp(((double)c[i].logit - (double)best) / temperature);
        total += c[i].weight;
    }
    return total;
}

static int32_t draw(sg_sampler *s, candidate *c, uint32_t n, double total) {
    const double min_p = (double)s->o.min_p;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++)
        if (c[i].weight >= min_p && c[i].weight > 0.0) c[kept++] = c[i];
    sort(c, kept);

    double sum = 0.0;
    const bool cut = s->o.top_p < 1.0f;
    uint32_t m = 0;
    while (m < kept) {
        sum += c[m++].weight;
        if (cut && sum >= (double)s->o.top_p * total) break;
    }
    const double target = uniform(s->rng) * sum;
    sum = 0.0;
    for (uint32_t i = 0; i < m; i++) {
        sum += c[i].weight;
        if (target < sum) return c[i].id;
    }
    return c[m - 1].id; /* m >= 1: the best has weight 1 */
}

int32_t sg_sampler_sample(sg_sampler *s, const float *logits) {
    if (!s || !logits) return -1;
    const candidate best = load(s, logits);
    int32_t id = best.id;
    if (s->o.temperature > 0.0f) {
        uint32_t n = s->n_vocab;
        if (s->o.top_k > 0 && (uint32_t)s->o.top_k < n) {
            select_first(s->cand, n, (uint32_t)s->o.top_k);
            n = (uint32_t)s->o.top_k;
        }
        const double total = weigh(s->cand, n, best.logit, (double)s->o.temperature);
        id = draw(s, s->cand, n, total);
    }
    sg_sampler_accept(s, id);
    return id;
}
