#include <string.h>

#include "runtime/cli/cli.h"

int cmd_info(int argc, char **argv) {
    bool json = false;
    const cli_opt opts[] = { { "json", 0, CLI_FLAG, &json, NULL, "as one JSON object" } };
    static const char *const names[] = { "FILE" };
    const cli_syntax syntax = {
        .name = "sparsegen info",
        .synopsis = "FILE [--json]",
        .about = "Shows what a GGUF file or split set holds: metadata and tensors. Reads no weights.",
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

    sg_error err;
    sg_file_info *info = NULL;
    char *text = NULL;
    sg_status s = sg_file_info_open(path, &info, &err);
    if (s == SG_OK) s = sg_file_info_text(info, json, &text, &err);
    if (s == SG_OK) {
        const size_t len = strlen(text);
        if (cli_write(text, len) && (len == 0 || text[len - 1] != '\n')) cli_write("\n", 1);
    }
    sg_free(text);
    sg_file_info_close(&info);
    return s == SG_OK ? CLI_OK : cli_fail_error(&err);
}
