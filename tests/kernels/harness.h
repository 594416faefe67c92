/* What the kernel tests share: seeded random numbers, the tiers of this machine, comparison bit by bit, failure
 * counting. Shape after dav1d's checkasm. No test framework, so that the same files also build alone for another
 * processor.
 *
 * SG_SEED=n repeats a run; the seed is printed with the first failure. */
#ifndef SG_TEST_HARNESS_H
#define SG_TEST_HARNESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "neuron_engine/kernels/kernels.h"
#include "neuron_engine/kernels/peak.h"

/* Reads SG_SEED (a fixed seed else) and starts the sequence; call first. */
void h_init(const char *program);
/* "PROGRAM: n checks, m failures"; returns the exit status of the program. */
int h_finish(void);

uint64_t h_random(void);
uint32_t h_below(uint32_t n); /* 0 .. n-1 */
float h_uniform(float lo, float hi);
float h_normal(void);
void h_bytes(void *p, size_t n); /* n random bytes */

/* Counts one check; when `ok` is false prints the sentence and counts a failure. Returns ok. */
bool h_check(bool ok, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* First index where a and b differ in bits (two NaN of any payload are equal), n when none. */
size_t h_differ(const float *a, const float *b, size_t n);
/* |got - want| in units of the last place of want. */
double h_ulps(float got, double want);

/* n bytes at `misalign` behind a 64-byte boundary, followed by a guard page's worth of nothing: the block ends where
 * the bytes end, so that a sanitizer sees a read behind it. Exits when out of memory. Release with h_free. */
void *h_alloc(size_t n, size_t misalign);
void h_free(void *p, size_t misalign);

/* The tiers of this machine and this build, in rising order, the reference first. Returns how many. */
#define H_MAX_TIERS 8
int h_tiers(sg_kernels out[H_MAX_TIERS]);

/* For --bench only: monotonic seconds, and the limits of one core to compare with (neuron_engine/kernels/peak.h), the best of
 * several passes: operations a second of a tier, bytes a second read from memory that no cache holds by one or four streams. */
double h_seconds(void);
double h_peak(const char *tier, sg_peak what);
double h_read_rate(bool four);

/* Random blocks of n values of `type` with scales that keep every product finite. mode 0: random codes; 1: all bytes
 * zero; 2: all code bits set; 3: extreme codes at random. */
#define H_BLOCK_MODES 4
void h_blocks(sg_dtype type, void *dst, size_t n, int mode);

/* Activations: allocates all arrays for n tokens of k values. mode 0: normal values; 1: zeros; 2: every |q| 127, random
 * signs; 3: values of very different size, subnormal and large blocks. Quantises with `vec` when k % 32 == 0. */
#define H_ACT_MODES 4
sg_acts h_acts(uint32_t n, uint32_t k, int mode, const sg_vec_fns *vec);
void h_acts_free(sg_acts *a);

#endif
