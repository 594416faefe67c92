/* Results of sparsegen bench and their three forms: a table for people, JSON and CSV for programs. */
#ifndef SG_CLI_BENCH_H
#define SG_CLI_BENCH_H

#include "runtime/cli/cli.h"

enum { BENCH_TABLE, BENCH_JSON, BENCH_CSV };

typedef struct bench_row {
    char test[32];    /* "pp512", "tg32"; "limits" when there is no test and only the limits are filled in */
    sg_limits limits; /* n_threads 0: not measured */
    uint32_t n_threads;
    size_t tokens, depth;
    int64_t repeats;
    double seconds, seconds_min, seconds_max; /* of one run; the first is the median */
    double weight_bytes, kv_bytes;            /* read for a token, on average; 0: batches share what they read */
    double int8_ops, f32_ops;                 /* of a token's matrix products, on average */
    double token_p50, token_p90, token_p99;   /* seconds of the tokens that were fed one by one, of all runs; else 0 */
    double read_bytes;                        /* read from the file while computing, a token on average */
} bench_row;

typedef struct bench_printer {
    int format;
    const sg_model_info *model; /* NULL: only limits are printed */
    size_t n_rows;              /* printed so far */
} bench_printer;

/* Share of what the limits allow: decode by the bytes read, prefill by the operations; negative when they are not
 * known. */
double bench_share(const bench_row *row);
/* Prints one row to stdout, the first one with what comes above it. */
void bench_print(bench_printer *p, const bench_row *row);
/* What comes below the last row; in the table form that is a table of the n limits. */
void bench_print_end(bench_printer *p, const sg_limits *limits, size_t n);

#endif
