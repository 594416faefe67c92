/* Stands in for reader_uring.c in builds without liburing. */
#include "io/reader_engine.h"

#include <stdio.h>

bool sg_reader_uring_probe(char *why, size_t size) {
    snprintf(why, size, "built without it");
    return false;
}

/* Never reached, since the probe says no. */
static sg_status none_create(void **impl, sg_error *err) { return sg_fail(err, SG_E_INTERNAL, "built without io_uring"); }
static void none_destroy(void *impl) {}
static sg_status none_run(void *impl, sg_io_batch *b, sg_error *err) {
    return sg_fail(err, SG_E_INTERNAL, "built without io_uring");
}

const sg_reader_engine sg_reader_uring = { "io_uring", none_create, none_destroy, none_run };
