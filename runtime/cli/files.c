/* Reading texts and writing results. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/cli/cli.h"

#define MAX_TEXT ((size_t)1 << 30)

static int read_all(FILE *f, const char *path, char **text, size_t *len) {
    size_t cap = 4096, n = 0;
    char *data = malloc(cap);
    while (data) {
        n += fread(data + n, 1, cap - n, f);
        if (n < cap) break;
        if (cap >= MAX_TEXT) {
            free(data);
            return cli_fail("%s: longer than 1 GiB of text", path);
        }
        cap *= 2;
        char *more = realloc(data, cap);
        if (!more) free(data);
        data = more;
    }
    if (!data) return cli_fail("%s: out of memory", path);
    if (ferror(f)) {
        const int e = errno;
        free(data);
        return cli_fail("%s: cannot be read: %s", path, strerror(e));
    }
    *text = data;
    *len = n;
    return CLI_OK;
}

int cli_read_file(const char *path, char **text, size_t *len) {
    *text = NULL;
    *len = 0;
    if (strcmp(path, "-") == 0) return read_all(stdin, "standard input", text, len);
    FILE *f = fopen(path, "rbe");
    if (!f) return cli_fail("%s: cannot be opened: %s", path, strerror(errno));
    const int r = read_all(f, path, text, len);
    fclose(f);
    return r;
}

int cli_output_open(cli_output *o, const char *path) {
    *o = (cli_output) { .path = path };
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        /* A pipe or device: renaming over it would replace it. */
        o->f = fopen(path, "wbe");
        return o->f ? CLI_OK : cli_fail("%s: cannot be written: %s", path, strerror(errno));
    }
    const size_t size = strlen(path) + 48;
    o->temp = malloc(size);
    if (!o->temp) return cli_fail("%s: out of memory", path);
    /* A run that was killed leaves its file, and process ids come again: so names are counted. io/gguf_file.c does the
     * same; the code is here once more since the program sees nothing of the library but sparsegen.h. */
    int fd = -1;
    for (unsigned i = 0; fd < 0 && i < 10000; i++) {
        snprintf(o->temp, size, "%s.tmp-%ld-%u", path, (long)getpid(), i);
        fd = open(o->temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd < 0 && errno != EEXIST) break;
    }
    if (fd >= 0) o->f = fdopen(fd, "wb");
    if (o->f) return CLI_OK;
    const int e = errno;
    if (fd >= 0) {
        close(fd);
        unlink(o->temp);
    }
    free(o->temp);
    o->temp = NULL;
    return cli_fail("%s: cannot be written: %s", path, strerror(e));
}

int cli_output_close(cli_output *o, bool ok) {
    if (!o->f) return ok ? CLI_OK : CLI_FAILED;
    errno = 0;
    bool written = !ferror(o->f);
    written = fclose(o->f) == 0 && written;
    int e = errno;
    if (o->temp && ok && written && rename(o->temp, o->path) != 0) {
        written = false;
        e = errno;
    }
    if (o->temp && !(ok && written)) unlink(o->temp);
    free(o->temp);
    if (ok && !written) return cli_fail("%s: cannot be written: %s", o->path, strerror(e ? e : EIO));
    return ok ? CLI_OK : CLI_FAILED;
}
