#include <inttypes.h>

#include "runtime/cli/cli.h"

#define MOST_SHOWN 20 /* damaged parts; there can be as many as clusters */

typedef struct verify_state {
    cli_progress progress;
    uint64_t n_bad;
} verify_state;

static bool step(void *user, uint64_t done, uint64_t total) {
    verify_state *s = user;
    return cli_progress_step(&s->progress, done, total);
}

static void on_bad(void *user, const sg_bad_part *part) {
    verify_state *s = user;
    if (s->n_bad++ >= MOST_SHOWN) return;
    cli_progress_end(&s->progress);
    printf("damaged: %s\n", part->text);
    fflush(stdout);
}

int cmd_verify(int argc, char **argv) {
    bool quiet = false;
    const cli_opt opts[] = { { "quiet", 'q', CLI_FLAG, &quiet, NULL, "no progress on stderr, and nothing on stdout when all is well" } };
    static const char *const names[] = { "FILE" };
    const cli_syntax syntax = {
        .name = "sparsegen verify",
        .synopsis = "FILE [-q]",
        .about = "Checks every byte of a model.bin against the checksums in it, and names what is damaged.",
        .opts = opts,
        .n_opts = 1,
        .min_args = 1,
        .max_args = 1,
        .arg_names = names,
    };
    const char *path;
    int n;
    const int r = cli_parse(&syntax, argc, argv, &path, &n);
    if (r != CLI_GO) return r;
    verify_state state = { 0 };
    cli_catch_interrupts();
    cli_progress_start(&state.progress, "checking", quiet);
    sg_verify_options o = SG_VERIFY_OPTIONS_INIT;
    o.progress = step;
    o.on_bad = on_bad;
    o.user = &state;
    sg_verify_report report;
    sg_error err;
    const sg_status s = sg_verify(path, &o, &report, &err);
    cli_progress_end(&state.progress);
    if (state.n_bad > MOST_SHOWN) printf("damaged: %" PRIu64 " more\n", state.n_bad - MOST_SHOWN);
    if (s != SG_OK) return cli_fail_error(&err);
    if (!quiet) printf("%s: good, %" PRIu64 " checksums over %" PRIu64 " bytes\n", path, report.n_parts, report.n_bytes);
    return CLI_OK;
}
