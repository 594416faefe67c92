#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cli/cli.h"

static int tokenize(const cli_model *m, const char *text, size_t len, unsigned flags) {
    int32_t *ids = NULL;
    size_t n = 0;
    sg_error err;
    if (sg_tokenize(m->model, text, len, flags, &ids, &n, &err) != SG_OK) return cli_fail_error(&err);
    for (size_t i = 0; i < n; i++) printf("%s%" PRId32, i ? " " : "", ids[i]);
    putchar('\n');
    sg_free(ids);
    return CLI_OK;
}

int cmd_tokenize(int argc, char **argv) {
    cli_model m = { .vocab_only = true };
    const char *prompt = NULL, *file = NULL;
    bool no_bos = false, special = false;
    const cli_opt opts[] = {
        { "prompt", 'p', CLI_STR, &prompt, "TEXT", "the text" },
        { "file", 'f', CLI_STR, &file, "FILE", "read the text from FILE as it is (- is standard input)" },
        { "no-bos", 0, CLI_FLAG, &no_bos, NULL, "leave out beginning and end tokens that the model asks for" },
        { "parse-special", 0, CLI_FLAG, &special, NULL, "text such as <|im_end|> is that control token" },
        CLI_MODEL_OPTS(&m),
    };
    const cli_syntax syntax = {
        .name = "sparsegen tokenize",
        .synopsis = "-m FILE (-p TEXT | -f FILE) [options]",
        .about = "Prints the token ids of a text on one line, separated by blanks.",
        .opts = opts,
        .n_opts = sizeof opts / sizeof opts[0],
    };
    int n;
    int r = cli_parse(&syntax, argc, argv, NULL, &n);
    if (r != CLI_GO) return r;
    if (!m.path) return cli_usage_error(&syntax, "-m FILE is missing");
    if (!prompt == !file) return cli_usage_error(&syntax, "one of -p TEXT and -f FILE is needed");

    char *text = NULL;
    size_t len = prompt ? strlen(prompt) : 0;
    r = file ? cli_read_file(file, &text, &len) : CLI_OK;
    cli_catch_interrupts();
    if (r == CLI_OK) r = cli_open_model(&m, 0);
    if (r == CLI_OK)
        r = tokenize(&m, prompt ? prompt : text, len,
                     (no_bos ? 0u : SG_TOKENIZE_SPECIAL) | (special ? SG_TOKENIZE_PARSE_SPECIAL : 0u));
    free(text);
    cli_close(&m);
    return r;
}
