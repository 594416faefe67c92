#include "gpu/gpu.h"

#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_DEVICES 16

/* What the child sends back in one write. */
typedef struct report {
    size_t n;
    char why[160];
    sg_gpu_device devices[MAX_DEVICES];
} report;

void *sg_gpu_open_library(const char *const *names, char *why, size_t why_size) {
    for (; *names; names++) {
        void *lib = dlopen(*names, RTLD_NOW | RTLD_LOCAL);
        if (lib) return lib;
    }
    snprintf(why, why_size, "no loader library is installed");
    return NULL;
}

static void child(sg_gpu_list_fn list, int fd) {
    report r = { 0 };
    r.n = list(r.devices, MAX_DEVICES, r.why, sizeof r.why);
    const char *p = (const char *)&r;
    size_t left = sizeof r;
    while (left > 0) {
        const ssize_t n = write(fd, p, left);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        p += n;
        left -= (size_t)n;
    }
    _exit(left == 0 ? 0 : 1); /* no exit handlers: they belong to the parent */
}

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* True when the whole report came before the deadline. */
static bool receive(int fd, report *r, int64_t deadline) {
    size_t got = 0;
    while (got < sizeof *r) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        const int64_t left = deadline - now_ms();
        if (left <= 0) return false;
        const int ready = poll(&p, 1, (int)left);
        if (ready < 0 && errno == EINTR) continue;
        if (ready <= 0) return false;
        const ssize_t n = read(fd, (char *)r + got, sizeof *r - got);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        got += (size_t)n;
    }
    return true;
}

size_t sg_gpu_discover(sg_gpu_list_fn list, sg_gpu_device *out, size_t cap, int timeout_ms, char *why, size_t why_size) {
    int fds[2];
    why[0] = 0;
    if (pipe(fds) != 0) {
        snprintf(why, why_size, "cannot make a pipe: %s", strerror(errno));
        return 0;
    }
    const pid_t pid = fork();
    if (pid == 0) {
        close(fds[0]);
        child(list, fds[1]);
    }
    close(fds[1]);
    if (pid < 0) {
        snprintf(why, why_size, "cannot fork: %s", strerror(errno));
        close(fds[0]);
        return 0;
    }
    report *r = calloc(1, sizeof *r);
    const int64_t deadline = now_ms() + timeout_ms;
    const bool whole = r && receive(fds[0], r, deadline);
    close(fds[0]);
    if (!whole) kill(pid, SIGKILL);
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    size_t n = 0;
    if (whole) {
        n = r->n < cap ? r->n : cap;
        memcpy(out, r->devices, n * sizeof *out);
        snprintf(why, why_size, "%s", r->why);
    } else if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL) {
        snprintf(why, why_size, "the driver crashed (signal %d)", WTERMSIG(status));
    } else if (WIFEXITED(status)) {
        snprintf(why, why_size, "the driver ended the process (exit code %d)", WEXITSTATUS(status));
    } else {
        snprintf(why, why_size, "the driver did not answer in %d ms", timeout_ms);
    }
    free(r);
    return n;
}

sg_status sg_gpu_list(sg_gpu_device **out, size_t *n, const sg_log_fn log, void *user, sg_error *err) {
    if (!out || !n) return sg_fail(err, SG_E_ARG, "sg_gpu_list: an argument is NULL");
    static const struct { const char *name; sg_gpu_list_fn list; } apis[] = { { "OpenCL", sg_gpu_cl_list }, { "Vulkan", sg_gpu_vk_list } };
    const sg_log l = { log, user };
    *n = 0;
    *out = calloc(2 * MAX_DEVICES, sizeof **out);
    if (!*out) return sg_fail(err, SG_E_NOMEM, "out of memory");
    for (size_t i = 0; i < sizeof apis / sizeof *apis; i++) {
        char why[160];
        const size_t found = sg_gpu_discover(apis[i].list, *out + *n, MAX_DEVICES, 20000, why, sizeof why);
        if (found == 0) sg_log_line(&l, SG_LOG_INFO, "%s: no device: %s", apis[i].name, why[0] ? why : "the loader reports none");
        *n += found;
    }
    return SG_OK;
}
