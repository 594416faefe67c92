#include <inttypes.h>
#include <string.h>

#include "runtime/cli/bench.h"

double bench_share(const bench_row *r) {
    const sg_limits *l = &r->limits;
    if (l->n_threads == 0 || r->tokens == 0) return -1;
    const double least =
        r->weight_bytes > 0 ? (r->weight_bytes + r->kv_bytes) / l->read : r->int8_ops / l->int8 + r->f32_ops / l->f32;
    return least * (double)r->tokens / r->seconds;
}

/* ---- JSON and CSV: the same names and values ---- */

/* One value under its name. JSON: `, "name": value`, null when there is none; CSV: the name in the first line. */
typedef struct cells {
    int format;
    bool names; /* print the names of CSV instead of the values */
    size_t n;
} cells;

static void cell(cells *c, const char *name, bool quoted, bool there, const char *value) {
    const char *quote = quoted && c->format == BENCH_JSON ? "\"" : "";
    if (c->format == BENCH_JSON)
        printf("%s\"%s\": %s%s%s", c->n ? ", " : "{", name, quote, there ? value : "null", quote);
    else
        printf("%s%s", c->n ? "," : "", c->names ? name : there ? value : "");
    c->n++;
}

static void text_cell(cells *c, const char *name, const char *text) { cell(c, name, true, true, text); }

static void count_cell(cells *c, const char *name, bool there, uint64_t n) {
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, n);
    cell(c, name, false, there, text);
}

static void real_cell(cells *c, const char *name, bool there, double v) {
    char text[32];
    snprintf(text, sizeof text, "%.9g", v);
    cell(c, name, false, there, text);
}

static void print_cells(cells *c, const bench_row *r) {
    const sg_limits *l = &r->limits;
    const bool test = r->tokens > 0, decode = test && r->weight_bytes > 0, limits = l->n_threads > 0;
    const double n = (double)r->tokens;
    text_cell(c, "test", r->test);
    count_cell(c, "n_threads", true, test ? r->n_threads : l->n_threads);
    count_cell(c, "tokens", test, r->tokens);
    real_cell(c, "seconds", test, r->seconds);
    real_cell(c, "tokens_per_second", test, n / r->seconds);
    real_cell(c, "seconds_min", test, r->seconds_min);
    real_cell(c, "seconds_max", test, r->seconds_max);
    count_cell(c, "repeats", test, (uint64_t)r->repeats);
    count_cell(c, "depth", test, r->depth);
    real_cell(c, "weight_bytes_per_token", decode, r->weight_bytes);
    real_cell(c, "kv_bytes_per_token", decode, r->kv_bytes);
    real_cell(c, "int8_ops_per_token", test, r->int8_ops);
    real_cell(c, "f32_ops_per_token", test, r->f32_ops);
    real_cell(c, "token_p50", decode, r->token_p50);
    real_cell(c, "token_p90", decode, r->token_p90);
    real_cell(c, "token_p99", decode, r->token_p99);
    real_cell(c, "read_bytes_per_token", test, r->read_bytes);
    real_cell(c, "share_of_limit", test && limits, bench_share(r));
    real_cell(c, "limit_read", limits, l->read);
    real_cell(c, "limit_read_plain", limits, l->read_plain);
    real_cell(c, "limit_read_median", limits, l->read_median);
    real_cell(c, "limit_int8", limits, l->int8);
    real_cell(c, "limit_int8_sum", limits, l->int8_sum);
    real_cell(c, "limit_f32", limits, l->f32);
}

/* ---- table, in the form of llama-bench's ---- */

static void print_table_head(const sg_model_info *m) {
    printf("%s, %" PRIu64 " weights, %.2f MiB, %s kernels\n\n", m->architecture, m->n_params,
           (double)m->n_bytes / (1 << 20), m->kernel_tier);
    printf("| threads | %-15s |  tokens/s |       min |       max | of limit |\n", "test");
    printf("| ------: | :-------------- | --------: | --------: | --------: | -------: |\n");
}

static void print_table_row(const bench_row *r) {
    char test[64], share[16] = "";
    snprintf(test, sizeof test, r->depth ? "%s @ d%zu" : "%s", r->test, r->depth);
    if (bench_share(r) >= 0) snprintf(share, sizeof share, "%.1f %%", 100 * bench_share(r));
    const double n = (double)r->tokens;
    printf("| %7u | %-15s | %9.2f | %9.2f | %9.2f | %8s |\n", r->n_threads, test, n / r->seconds, n / r->seconds_max,
           n / r->seconds_min, share);
}

static void print_limits(const sg_limits *limits, size_t n) {
    printf("| limits, threads | read GB/s | typical | one stream | int8 GOP/s | summed in 32 bits | F32 GFLOP/s |\n");
    printf("| --------------: | --------: | ------: | ---------: | ---------: | ----------------: | ----------: |\n");
    for (size_t i = 0; i < n; i++)
        printf("| %15u | %9.2f | %7.2f | %10.2f | %10.1f | %17.1f | %11.1f |\n", limits[i].n_threads, limits[i].read * 1e-9,
               limits[i].read_median * 1e-9, limits[i].read_plain * 1e-9, limits[i].int8 * 1e-9, limits[i].int8_sum * 1e-9, limits[i].f32 * 1e-9);
}

/* ---- rows ---- */

void bench_print(bench_printer *p, const bench_row *row) {
    cells c = { p->format, false, 0 };
    if (p->format == BENCH_TABLE) {
        if (row->tokens == 0) return; /* bench_print_end has the limits */
        if (p->n_rows == 0) print_table_head(p->model);
        print_table_row(row);
    } else {
        if (p->format == BENCH_JSON) fputs(p->n_rows ? ",\n " : "[", stdout);
        if (p->format == BENCH_CSV && p->n_rows == 0) {
            print_cells(&(cells) { p->format, true, 0 }, row);
            putchar('\n');
        }
        print_cells(&c, row);
        putchar(p->format == BENCH_JSON ? '}' : '\n');
    }
    p->n_rows++;
    fflush(stdout); /* the next one may be minutes away */
}

void bench_print_end(bench_printer *p, const sg_limits *limits, size_t n) {
    if (p->format == BENCH_JSON && p->n_rows > 0) puts("]");
    if (p->format != BENCH_TABLE || n == 0) return;
    if (p->n_rows > 0) putchar('\n');
    print_limits(limits, n);
}
