#include "runtime/base/memavail.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_SIZE 1024

/* First number of a file, UINT64_MAX when there is none ("max", no such file). */
static uint64_t number_in(const char *root, const char *folder, const char *name) {
    char path[3 * PATH_SIZE];
    uint64_t v = UINT64_MAX;
    snprintf(path, sizeof path, "%s%s/%s", root, folder, name);
    FILE *f = fopen(path, "re");
    if (!f) return v;
    if (fscanf(f, "%" SCNu64, &v) != 1) v = UINT64_MAX;
    fclose(f);
    return v;
}

/* Number behind `key` at the beginning of a line, 0 when there is none. */
static uint64_t field(const char *root, const char *file, const char *key) {
    char path[3 * PATH_SIZE], line[256];
    snprintf(path, sizeof path, "%s%s", root, file);
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    uint64_t v = 0;
    const size_t n = strlen(key);
    while (fgets(line, sizeof line, f)) {
        if (strncmp(line, key, n) != 0) continue;
        v = strtoull(line + n, NULL, 10);
        break;
    }
    fclose(f);
    return v;
}

/* What one cgroup folder leaves. */
static uint64_t left_in(const char *root, const char *folder, const char *limit_name, const char *usage_name,
                        const char *cache_key) {
    const uint64_t limit = number_in(root, folder, limit_name);
    if (limit == UINT64_MAX) return UINT64_MAX;
    uint64_t usage = number_in(root, folder, usage_name);
    if (usage == UINT64_MAX) usage = 0;
    char stat[2 * PATH_SIZE];
    snprintf(stat, sizeof stat, "%s/memory.stat", folder);
    const uint64_t cache = field(root, stat, cache_key);
    usage = usage > cache ? usage - cache : 0;
    return limit > usage ? limit - usage : 0;
}

/* The cgroup and all above it: the tightest counts. A container may see its own cgroup at the mount's root. */
static uint64_t left_upwards(const char *root, const char *mount, const char *path, const char *limit_name,
                             const char *usage_name, const char *cache_key) {
    char folder[PATH_SIZE + 64];
    uint64_t least = UINT64_MAX;
    snprintf(folder, sizeof folder, "%s%s", mount, path);
    for (;;) {
        const uint64_t left = left_in(root, folder, limit_name, usage_name, cache_key);
        if (left < least) least = left;
        char *slash = strrchr(folder, '/');
        if (!slash || strlen(folder) <= strlen(mount)) return least;
        *slash = 0;
    }
}

static uint64_t cgroup_left(const char *root) {
    char path[PATH_SIZE], line[PATH_SIZE];
    uint64_t least = UINT64_MAX;
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "re");
    if (!f) return least;
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        char *colon = strchr(line, ':'), *second = colon ? strchr(colon + 1, ':') : NULL;
        if (!second) continue;
        *second = 0;
        uint64_t left = UINT64_MAX;
        if (colon[1] == 0) /* v2: "0::/path" */
            left = left_upwards(root, "/sys/fs/cgroup", second + 1, "memory.max", "memory.current", "file ");
        else if (strcmp(colon + 1, "memory") == 0) /* v1: "7:memory:/path" */
            left = left_upwards(root, "/sys/fs/cgroup/memory", second + 1, "memory.limit_in_bytes", "memory.usage_in_bytes",
                                "total_cache ");
        if (left < least) least = left;
    }
    fclose(f);
    return least;
}

uint64_t sg_mem_available(const char *root) {
    const uint64_t free_kib = field(root, "/proc/meminfo", "MemAvailable:") + field(root, "/proc/meminfo", "SwapFree:");
    const uint64_t machine = free_kib ? free_kib * 1024 : UINT64_MAX, group = cgroup_left(root);
    return machine < group ? machine : group;
}

uint64_t sg_mem_resident(void) {
    return 1024 * field("", "/proc/self/status", "VmRSS:");
}
