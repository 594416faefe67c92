/* Reading a line from the person at the keyboard, or from a file in their place. */
#ifndef SG_CLI_LINE_H
#define SG_CLI_LINE_H

#include <stdbool.h>
#include <stddef.h>

typedef struct cli_line cli_line;

/* Line editing and history when stdin and stderr are terminals and libedit is there. NULL when out of memory. */
cli_line *cli_line_create(const char *prompt);
void cli_line_destroy(cli_line *line);
/* The next line without its end, living until the next call; NULL at the end of input. */
const char *cli_line_read(cli_line *line);

#endif
