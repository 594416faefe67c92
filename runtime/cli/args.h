/* Command lines as tables: each command lists its options once, and parsing, error messages and --help come from that
 * list. */
#ifndef SG_CLI_ARGS_H
#define SG_CLI_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum cli_kind {
    CLI_FLAG,   /* bool */
    CLI_STR,    /* const char *, points into argv */
    CLI_LIST,   /* cli_list, the option may be repeated */
    CLI_INT,    /* int64_t between min and max */
    CLI_INTS,   /* cli_ints between min and max, separated by commas; the option may be repeated */
    CLI_U64,    /* uint64_t */
    CLI_REAL,   /* double between min and max */
    CLI_SIZE,   /* uint64_t bytes: digits and K, M, G or T (powers of 1024) */
    CLI_CHOICE, /* int, index into choices */
} cli_kind;

#define CLI_LIST_MAX 16
typedef struct cli_list {
    const char *v[CLI_LIST_MAX];
    size_t n;
} cli_list;

#define CLI_INTS_MAX 32
typedef struct cli_ints {
    int64_t v[CLI_INTS_MAX];
    size_t n;
} cli_ints;

typedef struct cli_opt {
    const char *name; /* "top-k"; a NULL name makes a heading of `help` */
    char letter;      /* 0: none */
    cli_kind kind;
    void *dest;
    const char *value; /* what --help calls the value, NULL for flags */
    const char *help;
    double min, max;            /* INT, INTS, REAL: both needed */
    const char *const *choices; /* CHOICE: NULL-terminated */
    bool *given;                /* set when the option was there; may be NULL */
} cli_opt;

typedef struct cli_syntax {
    const char *name;     /* "sparsegen bench" */
    const char *synopsis; /* what follows the name on the usage line */
    const char *about;    /* sentences above the options */
    const cli_opt *opts;  /* --help and -h are added to it */
    size_t n_opts;
    int min_args, max_args;       /* arguments that are no options */
    const char *const *arg_names; /* [min_args], for messages about missing ones */
    const char *more;             /* sentences below the options, or NULL */
} cli_syntax;

#define CLI_GO (-1)

/* Parses argv[1..argc). Returns CLI_GO when the command may go on, with args[0..*n_args) the arguments that are no
 * options (args holds max_args), or the exit code: 0 after --help, 2 after an error, which was printed with the usage
 * line. */
int cli_parse(const cli_syntax *syntax, int argc, char **argv, const char **args, int *n_args);

/* Prints "NAME: message" and the usage line to stderr; returns 2. */
int cli_usage_error(const cli_syntax *syntax, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Whole text as a number; false when it is none or outside of what the type holds. */
bool cli_parse_int(const char *text, int64_t *out);
bool cli_parse_u64(const char *text, uint64_t *out);
bool cli_parse_real(const char *text, double *out); /* finite */
bool cli_parse_size(const char *text, uint64_t *out);

#endif
