#include "runtime/cli/args.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_OPTS 48
#define LONG_BASE 256 /* getopt's value of the long option i is LONG_BASE + i */

bool cli_parse_int(const char *text, int64_t *out) {
    char *end;
    errno = 0;
    const long long v = strtoll(text, &end, 10);
    if (end == text || *end || errno || isspace((unsigned char)*text)) return false;
    *out = v;
    return true;
}

bool cli_parse_u64(const char *text, uint64_t *out) {
    char *end;
    if (!isdigit((unsigned char)*text)) return false; /* strtoull would take "-1" */
    errno = 0;
    const unsigned long long v = strtoull(text, &end, 10);
    if (*end || errno) return false;
    *out = v;
    return true;
}

bool cli_parse_real(const char *text, double *out) {
    char *end;
    const double v = strtod(text, &end);
    if (end == text || *end || !isfinite(v) || isspace((unsigned char)*text)) return false;
    *out = v;
    return true;
}

bool cli_parse_size(const char *text, uint64_t *out) {
    static const char units[] = "KMGT";
    char *end;
    if (!isdigit((unsigned char)*text)) return false;
    errno = 0;
    const unsigned long long v = strtoull(text, &end, 10);
    if (errno) return false;
    unsigned shift = 0;
    if (*end) {
        const char *unit = strchr(units, toupper((unsigned char)*end));
        if (!unit || end[1]) return false;
        shift = 10 * (unsigned)(unit - units + 1);
    }
    if (v > UINT64_MAX >> shift) return false;
    *out = (uint64_t)v << shift;
    return true;
}

static void print_usage(const cli_syntax *x, FILE *f) { fprintf(f, "usage: %s %s\n", x->name, x->synopsis); }

int cli_usage_error(const cli_syntax *x, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fputs("sparsegen: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    print_usage(x, stderr);
    fprintf(stderr, "try '%s --help'\n", x->name);
    return 2;
}

/* One option, its help wrapped at 100 columns beside it. */
static void print_option(const cli_opt *o) {
    enum { COLUMN = 28, WIDTH = 100 };
    if (!o->name) {
        printf("\n%s\n", o->help);
        return;
    }
    char left[80];
    const char letter[5] = { '-', o->letter, ',', ' ', '\0' };
    int at = snprintf(left, sizeof left, "  %s--%s%s%s", o->letter ? letter : "    ", o->name, o->value ? " " : "",
                      o->value ? o->value : "");
    printf("%s", left);
    if (at >= COLUMN) {
        putchar('\n');
        at = 0;
    }
    printf("%*s", COLUMN - at, "");
    at = COLUMN;
    for (const char *p = o->help; *p;) {
        const size_t word = strcspn(p, " ");
        if (at > COLUMN && at + 1 + (int)word > WIDTH) {
            printf("\n%*s", COLUMN, "");
            at = COLUMN;
        } else if (at > COLUMN) {
            putchar(' ');
            at++;
        }
        printf("%.*s", (int)word, p);
        at += (int)word;
        p += word + (p[word] == ' ');
    }
    putchar('\n');
}

static int print_help(const cli_syntax *x) {
    print_usage(x, stdout);
    printf("\n%s\n", x->about);
    if (x->n_opts == 0 || x->opts[0].name) putchar('\n');
    for (size_t i = 0; i < x->n_opts; i++) print_option(&x->opts[i]);
    print_option(&(cli_opt) { "help", 'h', CLI_FLAG, NULL, NULL, "show this text" });
    if (x->more) printf("\n%s\n", x->more);
    return 0;
}

/* The message for a value that does not fit; `what` says what would. */
static int bad_value(const cli_syntax *x, const cli_opt *o, const char *text, const char *what) {
    return cli_usage_error(x, "--%s: '%s' is not %s", o->name, text, what);
}

/* What a number must be, for messages; bounds too high to mean anything are left out. */
static void describe_range(const cli_opt *o, char *out, size_t size) {
    const char *kind = o->kind == CLI_REAL ? "a number" : "a whole number";
    if (o->max >= 1e9)
        snprintf(out, size, "%s from %g up", kind, o->min);
    else
        snprintf(out, size, "%s from %.10g to %.10g", kind, o->min, o->max);
}

static int set_number(const cli_syntax *x, const cli_opt *o, const char *text) {
    char range[80];
    describe_range(o, range, sizeof range);
    if (o->kind == CLI_REAL) {
        double v;
        if (!cli_parse_real(text, &v) || v < o->min || v > o->max) return bad_value(x, o, text, range);
        *(double *)o->dest = v;
    } else {
        int64_t v;
        if (!cli_parse_int(text, &v) || (double)v < o->min || (double)v > o->max) return bad_value(x, o, text, range);
        *(int64_t *)o->dest = v;
    }
    return CLI_GO;
}

/* Appends the numbers of a list such as "128,512". */
static int add_numbers(const cli_syntax *x, const cli_opt *o, const char *text) {
    cli_ints *list = o->dest;
    char range[80], word[32];
    describe_range(o, range, sizeof range);
    for (const char *p = text;; p++) {
        const size_t len = strcspn(p, ",");
        int64_t v;
        snprintf(word, sizeof word, "%.*s", len < sizeof word ? (int)len : (int)sizeof word - 1, p);
        if (len >= sizeof word || !cli_parse_int(word, &v) || (double)v < o->min || (double)v > o->max)
            return bad_value(x, o, word, range);
        if (list->n == CLI_INTS_MAX) return cli_usage_error(x, "--%s: at most %d are possible", o->name, CLI_INTS_MAX);
        list->v[list->n++] = v;
        p += len;
        if (!*p) return CLI_GO;
    }
}

static int set_choice(const cli_syntax *x, const cli_opt *o, const char *text) {
    char all[160] = "one of";
    for (int i = 0; o->choices[i]; i++) {
        if (strcmp(o->choices[i], text) == 0) {
            *(int *)o->dest = i;
            return CLI_GO;
        }
        const size_t len = strlen(all);
        snprintf(all + len, sizeof all - len, "%s %s", i ? "," : "", o->choices[i]);
    }
    return bad_value(x, o, text, all);
}

static int set(const cli_syntax *x, const cli_opt *o, const char *text) {
    if (o->given) *o->given = true;
    switch (o->kind) {
    case CLI_FLAG: *(bool *)o->dest = true; break;
    case CLI_STR: *(const char **)o->dest = text; break;
    case CLI_LIST: {
        cli_list *list = o->dest;
        if (list->n == CLI_LIST_MAX) return cli_usage_error(x, "--%s: at most %d are possible", o->name, CLI_LIST_MAX);
        list->v[list->n++] = text;
        break;
    }
    case CLI_U64:
        if (!cli_parse_u64(text, o->dest))
            return bad_value(x, o, text, "a whole number from 0 to 18446744073709551615");
        break;
    case CLI_SIZE:
        if (!cli_parse_size(text, o->dest)) return bad_value(x, o, text, "a size such as 512M or 2G");
        break;
    case CLI_INTS: return add_numbers(x, o, text);
    case CLI_INT:
    case CLI_REAL: return set_number(x, o, text);
    case CLI_CHOICE: return set_choice(x, o, text);
    }
    return CLI_GO;
}

/* getopt's own tables. long_opts has room for all options, help and the end. */
static void build(const cli_syntax *x, char *letters, struct option *long_opts) {
    size_t n = 0;
    *letters++ = ':'; /* tell a missing value (':') from an unknown option ('?') */
    for (size_t i = 0; i < x->n_opts; i++) {
        const cli_opt *o = &x->opts[i];
        if (!o->name) continue;
        const int has_value = o->kind == CLI_FLAG ? no_argument : required_argument;
        long_opts[n++] = (struct option) { o->name, has_value, NULL, LONG_BASE + (int)i };
        if (!o->letter) continue;
        *letters++ = o->letter;
        if (has_value == required_argument) *letters++ = ':';
    }
    *letters++ = 'h';
    *letters = '\0';
    long_opts[n++] = (struct option) { "help", no_argument, NULL, 'h' };
    long_opts[n] = (struct option) { 0 };
}

static const cli_opt *find(const cli_syntax *x, int c) {
    if (c >= LONG_BASE) return &x->opts[c - LONG_BASE];
    for (size_t i = 0; i < x->n_opts; i++)
        if (x->opts[i].name && c && x->opts[i].letter == c) return &x->opts[i];
    return NULL;
}

static int unknown(const cli_syntax *x, char **argv) {
    const char *word = argv[optind - 1];
    if (optopt >= LONG_BASE) return cli_usage_error(x, "option '--%s' takes no value", find(x, optopt)->name);
    if (optopt) return cli_usage_error(x, "unknown option '-%c'", optopt);
    return cli_usage_error(x, "unknown option '%s'", word);
}

int cli_parse(const cli_syntax *x, int argc, char **argv, const char **args, int *n_args) {
    char letters[2 * MAX_OPTS + 3];
    struct option long_opts[MAX_OPTS + 2];
    if (x->n_opts > MAX_OPTS) return cli_usage_error(x, "the table of options is too long");
    build(x, letters, long_opts);
    opterr = 0;
    optind = 1;
    for (;;) {
        const int c = getopt_long(argc, argv, letters, long_opts, NULL);
        if (c == -1) break;
        if (c == 'h') return print_help(x);
        if (c == '?') return unknown(x, argv);
        if (c == ':') {
            const cli_opt *o = find(x, optopt);
            return cli_usage_error(x, "option '%s' needs a value (%s)", argv[optind - 1],
                                   o && o->value ? o->value : "");
        }
        const int r = set(x, find(x, c), optarg);
        if (r != CLI_GO) return r;
    }
    *n_args = 0;
    for (int i = optind; i < argc; i++) {
        if (*n_args == x->max_args) return cli_usage_error(x, "unexpected argument '%s'", argv[i]);
        args[(*n_args)++] = argv[i];
    }
    if (*n_args < x->min_args) return cli_usage_error(x, "%s is missing", x->arg_names[*n_args]);
    return CLI_GO;
}
