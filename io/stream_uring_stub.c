/* Stands in for stream_uring.c in builds without liburing. Never reached, since the probe says no. */
#include "io/stream_engine.h"

static sg_status none_create(sg_stream *s, const sg_stream_options *o, void **impl, sg_error *err) {
    return sg_fail(err, SG_E_INTERNAL, "built without io_uring");
}
static void none_destroy(void *impl) {}
static void none_submit(void *impl) {}
static void none_lead(void *impl, bool wait) {}
static uint64_t none_memory(const void *impl) { return 0; }

const sg_stream_engine sg_stream_uring = { .name = "io_uring", .create = none_create, .destroy = none_destroy, .submit = none_submit,
                                           .lead = none_lead, .memory = none_memory };
