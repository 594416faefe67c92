#include "runtime/cli/cli.h"

typedef struct convert_state {
    cli_progress progress;
    bool quiet;
} convert_state;

static void log_line(void *user, sg_log_level level, const char *line) {
    const convert_state *s = user;
    cli_note(s->quiet, "%s", line);
}

static bool step(void *user, uint64_t done, uint64_t total) {
    convert_state *s = user;
    return cli_progress_step(&s->progress, done, total);
}

int cmd_convert(int argc, char **argv) {
    sg_convert_options o = SG_CONVERT_OPTIONS_INIT;
    static const char *const types[] = { "f32", "f16", "bf16", "q8_0", "q4_0", NULL };
    int type = -1;
    bool overwrite = false;
    convert_state state = { 0 };
    const cli_opt opts[] = {
        { "output", 'o', CLI_STR, &o.output, "FILE", "the GGUF file to write; it appears when it is complete" },
        { "type", 0, CLI_CHOICE, &type, "TYPE", "f32, f16, bf16, q8_0 or q4_0 (default: f16 for folders, f32 for .bin)",
          0, 0, types },
        { "tokenizer", 0, CLI_STR, &o.tokenizer, "FILE", "tokenizer, where there is none beside the input" },
        { "force", 'f', CLI_FLAG, &overwrite, NULL, "replace an output that is there already" },
        { "quiet", 'q', CLI_FLAG, &state.quiet, NULL, "no notes or progress on stderr, only errors" },
    };
    static const char *const names[] = { "IN" };
    const cli_syntax syntax = {
        .name = "sparsegen convert",
        .synopsis = "IN -o FILE [--type TYPE] [--tokenizer FILE] [-f]",
        .about = "Makes a GGUF file from a llama2.c .bin file or a Hugging Face folder.",
        .opts = opts,
        .n_opts = sizeof opts / sizeof opts[0],
        .min_args = 1,
        .max_args = 1,
        .arg_names = names,
    };
    int n;
    const int r = cli_parse(&syntax, argc, argv, &o.input, &n);
    if (r != CLI_GO) return r;
    if (!o.output) return cli_usage_error(&syntax, "-o FILE is missing");
    cli_catch_interrupts();
    cli_progress_start(&state.progress, "converting", state.quiet);
    if (type >= 0) o.type = types[type];
    o.overwrite = overwrite;
    o.log = log_line;
    o.progress = step;
    o.user = &state;
    sg_error err;
    const sg_status s = sg_convert(&o, &err);
    cli_progress_end(&state.progress);
    return s == SG_OK ? CLI_OK : cli_fail_error(&err);
}
