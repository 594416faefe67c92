/* A folder for one test program, removed with everything in it. */
#ifndef SG_TESTS_IO_TEMP_H
#define SG_TESTS_IO_TEMP_H

#include <dirent.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct temp_dir {
    char path[512];
} temp_dir;

static inline void temp_open(temp_dir *t) {
    const char *base = getenv("TMPDIR");
    memset(t, 0, sizeof *t);
    snprintf(t->path, sizeof t->path, "%s/sgtest-XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(t->path)) {
        perror(t->path);
        exit(99);
    }
}

/* Valid until eight more were asked for. */
static inline const char *temp_path(const temp_dir *t, const char *name) {
    static char names[8][1024];
    static unsigned next;
    char *out = names[next++ % 8];
    snprintf(out, sizeof names[0], "%s/%s", t->path, name);
    return out;
}

static inline unsigned temp_count(const temp_dir *t) {
    unsigned n = 0;
    DIR *d = opendir(t->path);
    for (struct dirent *e; d && (e = readdir(d));) n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    if (d) closedir(d);
    return n;
}

static inline void temp_close(temp_dir *t) {
    DIR *d = opendir(t->path);
    for (struct dirent *e; d && (e = readdir(d));) {
        char name[1024];
        snprintf(name, sizeof name, "%.500s/%s", t->path, e->d_name);
        unlink(name);
    }
    if (d) closedir(d);
    rmdir(t->path);
}

static inline bool temp_write(const char *path, const void *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    const bool ok = f && (n == 0 || fwrite(bytes, 1, n, f) == n);
    return (!f || fclose(f) == 0) && ok;
}

/* Whole file, malloc'd; NULL when it cannot be read. */
static inline uint8_t *temp_read(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    uint8_t *bytes = malloc(*n + 1);
    if (bytes && fread(bytes, 1, *n, f) != *n) {
        free(bytes);
        bytes = NULL;
    }
    fclose(f);
    return bytes;
}

#endif
