#include "runtime/cli/line.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/cli/cli.h"

#if SG_HAVE_LIBEDIT
#include <histedit.h>
#endif

struct cli_line {
    const char *prompt;
    bool terminal; /* someone sees the prompt */
    char *text;
    size_t cap;
#if SG_HAVE_LIBEDIT
    EditLine *edit; /* NULL: plain reading */
    History *history;
#endif
};

#if SG_HAVE_LIBEDIT
static char *edit_prompt(EditLine *edit) {
    cli_line *line;
    el_get(edit, EL_CLIENTDATA, &line);
    return (char *)line->prompt; /* libedit's type lacks the const */
}

static void open_editor(cli_line *line) {
    HistEvent event;
    /* The editor draws on stderr: stdout carries the answers only. */
    line->edit = el_init("sparsegen", stdin, stderr, stderr);
    line->history = history_init();
    if (!line->edit) return;
    el_set(line->edit, EL_CLIENTDATA, line);
    el_set(line->edit, EL_PROMPT, edit_prompt);
    el_set(line->edit, EL_EDITOR, "emacs");
    if (line->history) {
        history(line->history, &event, H_SETSIZE, 200);
        el_set(line->edit, EL_HIST, history, line->history);
    }
}

static const char *read_edited(cli_line *line) {
    int n = 0;
    const char *text = el_gets(line->edit, &n);
    if (!text || n <= 0) return NULL;
    HistEvent event;
    if (line->history && n > 1) history(line->history, &event, H_ENTER, text);
    free(line->text);
    line->text = strdup(text);
    return line->text;
}
#endif

cli_line *cli_line_create(const char *prompt) {
    cli_line *line = calloc(1, sizeof *line);
    if (!line) return NULL;
    line->prompt = prompt;
    line->terminal = isatty(STDIN_FILENO) && isatty(STDERR_FILENO);
#if SG_HAVE_LIBEDIT
    if (line->terminal) open_editor(line);
#endif
    return line;
}

void cli_line_destroy(cli_line *line) {
    if (!line) return;
#if SG_HAVE_LIBEDIT
    if (line->history) history_end(line->history);
    if (line->edit) el_end(line->edit);
#endif
    free(line->text);
    free(line);
}

static const char *read_plain(cli_line *line) {
    if (line->terminal) {
        fputs(line->prompt, stderr);
        fflush(stderr);
    }
    return getline(&line->text, &line->cap, stdin) < 0 ? NULL : line->text;
}

const char *cli_line_read(cli_line *line) {
    const char *text;
    cli_at_prompt(true);
#if SG_HAVE_LIBEDIT
    text = line->edit ? read_edited(line) : read_plain(line);
#else
    text = read_plain(line);
#endif
    cli_at_prompt(false);
    if (text) line->text[strcspn(line->text, "\r\n")] = '\0';
    return text;
}
