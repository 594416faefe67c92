/* Memory limits as the kernel shows them, from folders made by the test. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/memavail.h"

static char root[256];

static void put(const char *path, const char *text) {
    char full[1024], command[1200];
    snprintf(full, sizeof full, "%s%s", root, path);
    snprintf(command, sizeof command, "mkdir -p \"$(dirname '%s')\"", full);
    ck_assert_int_eq(system(command), 0);
    FILE *f = fopen(full, "w");
    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    fclose(f);
}

static void setup(void) {
    snprintf(root, sizeof root, "%s/sg-memavail-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(root));
}

static void teardown(void) {
    char command[300];
    snprintf(command, sizeof command, "rm -r '%s'", root);
    ck_assert_int_eq(system(command), 0);
}

START_TEST(nothing_known) { ck_assert(sg_mem_available(root) == UINT64_MAX); }
END_TEST

START_TEST(machine) {
    put("/proc/meminfo", "MemTotal: 9000 kB\nMemFree: 1 kB\nMemAvailable:    5000 kB\nSwapFree:  24 kB\n");
    ck_assert(sg_mem_available(root) == 5024ull * 1024);
}
END_TEST

START_TEST(cgroup_v2) {
    put("/proc/meminfo", "MemAvailable: 5000000 kB\n");
    put("/proc/self/cgroup", "0::/a/b\n");
    put("/sys/fs/cgroup/a/b/memory.max", "max\n");
    ck_assert(sg_mem_available(root) == 5000000ull * 1024);
    put("/sys/fs/cgroup/a/memory.max", "1000000\n"); /* the limit of the group above */
    put("/sys/fs/cgroup/a/memory.current", "700000\n");
    put("/sys/fs/cgroup/a/memory.stat", "anon 600000\nfile 100000\n");
    ck_assert(sg_mem_available(root) == 400000);
    put("/sys/fs/cgroup/a/b/memory.max", "500000\n");
    put("/sys/fs/cgroup/a/b/memory.current", "600000\n");
    ck_assert(sg_mem_available(root) == 0);
}
END_TEST

START_TEST(cgroup_v1) {
    put("/proc/self/cgroup", "4:cpu:/x\n3:memory:/x\n");
    put("/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "2000000\n");
    put("/sys/fs/cgroup/memory/x/memory.usage_in_bytes", "1500000\n");
    put("/sys/fs/cgroup/memory/x/memory.stat", "cache 1\ntotal_cache 500000\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    ck_assert(sg_mem_available(root) == 1000000);
}
END_TEST

START_TEST(this_machine) { ck_assert(sg_mem_available("") > 1 << 20); }
END_TEST

int main(void) {
    Suite *s = suite_create("memavail");
    TCase *t = tcase_create("memavail");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, nothing_known);
    tcase_add_test(t, machine);
    tcase_add_test(t, cgroup_v2);
    tcase_add_test(t, cgroup_v1);
    tcase_add_test(t, this_machine);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
