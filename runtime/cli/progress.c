#include <stdio.h>
#include <unistd.h>

#include "runtime/cli/cli.h"

void cli_progress_start(cli_progress *p, const char *what, bool quiet) {
    *p = (cli_progress) { .what = what, .on = !quiet && isatty(STDERR_FILENO), .permille = -1 };
}

bool cli_progress_step(void *progress, uint64_t done, uint64_t total) {
    cli_progress *p = progress;
    if (cli_interrupted()) return false;
    if (!p->on) return true;
    double share = total ? (double)done / (double)total : 1.0;
    if (share > 1.0) share = 1.0;
    const int permille = (int)(share * 1000.0);
    if (permille == p->permille) return true;
    p->permille = permille;
    p->drawn = true;
    static const char hashes[] = "##############################", dots[] = "..............................";
    const int full = permille * 30 / 1000;
    fprintf(stderr, "\r%s [%.*s%.*s] %3d %%", p->what, full, hashes, 30 - full, dots, permille / 10);
    fflush(stderr);
    return true;
}

void cli_progress_end(cli_progress *p) {
    if (p->drawn) fputs("\r\033[K", stderr);
    p->drawn = false;
}
