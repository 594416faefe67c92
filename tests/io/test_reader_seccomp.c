/* The automatic choice of an engine where io_uring is forbidden, by the reader and by the stream. Android's filter kills a process
 * that calls io_uring_setup; containers answer with an error. Each filter is put on a child of this program. Skipped (77) where
 * seccomp is missing. */
#include "io/reader.h"
#include "io/stream.h"
#include "sg_config.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SECCOMP_RET_KILL_PROCESS
#define SECCOMP_RET_KILL_PROCESS 0x80000000U
#endif

enum { PASSED = 0, FAILED = 1, SKIPPED = 77 };

static bool forbid_io_uring(unsigned action) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = { sizeof code / sizeof *code, code };
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static int n_lines;
static sg_log_level last_level;
static char last_line[512];

static void keep_line(void *user, sg_log_level level, const char *line) {
    n_lines++;
    last_level = level;
    snprintf(last_line, sizeof last_line, "%s", line);
}

#define EXPECT(cond)                                                                        \
    do {                                                                                    \
        if (!(cond)) {                                                                      \
            printf("line %d: %s does not hold; log: %s\n", __LINE__, #cond, last_line);     \
            return FAILED;                                                                  \
        }                                                                                   \
    } while (0)

/* The same for what streams. */
static int stream_under_filter(const char *path, sg_io_engine engine, const char *reason) {
    const sg_log log = { keep_line, NULL };
    const sg_stream_options o = { .engine = engine, .buffered = true };
    sg_stream *s = NULL;
    sg_error err = { 0 };
    n_lines = 0;
    EXPECT(sg_stream_create(&o, &log, &s, &err) == SG_OK);
    EXPECT(strcmp(sg_stream_engine_name(s), "pread") == 0);
    EXPECT(n_lines == 1);
    EXPECT(last_level == (engine == SG_IO_URING ? SG_LOG_WARN : SG_LOG_INFO));
    EXPECT(strncmp(last_line, "streaming with pread: io_uring: ", 32) == 0);
    EXPECT(strstr(last_line, reason));
    char got[6] = "";
    sg_fetch f = { .offset = 1, .size = 5, .dst = got }, *const list = &f;
    EXPECT(sg_stream_open(s, &path, 1, &err) == SG_OK);
    sg_stream_submit(s, &list, 1, false);
    sg_stream_wait(s, &f);
    EXPECT(sg_fetch_get(&f) == SG_FETCH_DONE && strcmp(got, "12345") == 0);
    sg_stream_destroy(&s);
    return PASSED;
}

/* Runs in the child. `reason` must be in the one line that is logged. */
static int read_under_filter(const char *path, sg_io_engine engine, unsigned action, const char *reason) {
    if (!forbid_io_uring(action)) {
        printf("no seccomp filter here: %s\n", strerror(errno));
        return SKIPPED;
    }
    const sg_log log = { keep_line, NULL };
    sg_reader *r = NULL;
    sg_error err = { 0 };
    EXPECT(sg_reader_create(engine, &log, &r, &err) == SG_OK);
    EXPECT(strcmp(sg_reader_engine_name(r), "pread") == 0);
    EXPECT(n_lines == 1);
    EXPECT(last_level == (engine == SG_IO_URING ? SG_LOG_WARN : SG_LOG_INFO));
    EXPECT(strncmp(last_line, "reading with pread: io_uring: ", 30) == 0);
    EXPECT(strstr(last_line, reason));
    uint32_t f;
    char got[6] = "";
    EXPECT(sg_reader_add_file(r, path, &f, &err) == SG_OK);
    const sg_read read = { f, 1, got, 5 };
    EXPECT(sg_reader_read_all(r, &read, 1, NULL, NULL, &err) == SG_OK);
    EXPECT(strcmp(got, "12345") == 0);
    sg_reader_destroy(&r);
    printf("ok: %s\n", last_line);
    return stream_under_filter(path, engine, reason);
}

static int in_child(const char *path, sg_io_engine engine, unsigned action, const char *reason) {
    fflush(stdout);
    const pid_t pid = fork();
    if (pid == 0) {
        const int result = read_under_filter(path, engine, action, reason);
        fflush(stdout);
        _exit(result);
    }
    int status = 0;
    if (pid < 0 || waitpid(pid, &status, 0) != pid) return FAILED;
    if (WIFSIGNALED(status)) printf("the whole process was killed by signal %d\n", WTERMSIG(status));
    return WIFEXITED(status) ? WEXITSTATUS(status) : FAILED;
}

int main(void) {
#ifdef SYS_io_uring_setup
    char path[300];
    const char *tmp = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/sg-seccomp-XXXXXX", tmp ? tmp : "/tmp");
    const int fd = mkstemp(path);
    if (fd < 0 || write(fd, "0123456789", 10) != 10) return FAILED;
    close(fd);
    const char *killed = SG_HAVE_LIBURING ? "killed by signal 31" : "built without it";
    const char *refused = SG_HAVE_LIBURING ? strerror(EPERM) : "built without it";
    const int results[] = {
        in_child(path, SG_IO_AUTO, SECCOMP_RET_KILL_PROCESS, killed),
        in_child(path, SG_IO_URING, SECCOMP_RET_KILL_PROCESS, killed),
        in_child(path, SG_IO_AUTO, SECCOMP_RET_TRAP, killed),
        in_child(path, SG_IO_AUTO, SECCOMP_RET_ERRNO | EPERM, refused),
    };
    unlink(path);
    int worst = PASSED;
    for (size_t i = 0; i < sizeof results / sizeof *results; i++) {
        if (results[i] == FAILED || (results[i] != PASSED && results[i] != SKIPPED)) return FAILED;
        if (results[i] == SKIPPED) worst = SKIPPED;
    }
    return worst;
#else
    printf("the system's headers do not know io_uring\n");
    return SKIPPED;
#endif
}
