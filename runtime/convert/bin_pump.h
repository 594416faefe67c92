/* Work that fills the output piece by piece: a team of threads makes the next pieces while the first thread writes the last ones. */
#ifndef SG_CONVERT_BIN_PUMP_H
#define SG_CONVERT_BIN_PUMP_H

#include "runtime/base/team.h"
#include "runtime/convert/bin_writer.h"
#include "runtime/convert/convert.h"

/* Memory of one thread. */
typedef struct sg_bin_scratch {
    uint8_t *raw;    /* raw_bytes of the pump */
    float *values;   /* n_values of the pump */
    uint8_t *packed; /* the values of one row in GGUF's form, packed_bytes of the pump */
} sg_bin_scratch;

typedef struct sg_bin_pump {
    const sg_conv_job *job;
    sg_team *team;
    sg_bin_writer *w;
    uint32_t n_threads;
    sg_bin_scratch *scratch; /* [n_threads] */
    size_t raw_bytes, n_values, packed_bytes;
    uint8_t *buffer[2];
    size_t buffer_bytes; /* of each */
    uint64_t done, total; /* bytes written, for the progress */
} sg_bin_pump;

/* Makes item `i`: writes all of its bytes to dst. Called on any thread of the team. */
typedef sg_status (*sg_bin_make_fn)(void *arg, sg_bin_scratch *s, uint32_t i, uint8_t *dst, sg_error *err);

/* What the pump allocates in all. */
size_t sg_bin_pump_bytes(const sg_bin_pump *p);
/* Allocates; job, w, n_threads and the sizes are set before. The caller calls finish whatever the result. */
SG_NODISCARD sg_status sg_bin_pump_init(sg_bin_pump *p, sg_error *err);
void sg_bin_pump_finish(sg_bin_pump *p);

/* Makes items first .. first + n - 1 of item_bytes each (the last one of last_bytes) and writes them in order. item_bytes <=
 * buffer_bytes. Of several failures the one of the lowest item is reported. SG_E_CANCELLED when the progress function says so. */
SG_NODISCARD sg_status sg_bin_pump_write(sg_bin_pump *p, uint32_t first, uint32_t n, size_t item_bytes, size_t last_bytes,
                                         sg_bin_make_fn make, void *arg, sg_error *err);
/* The same with nothing to write: dst is NULL. */
SG_NODISCARD sg_status sg_bin_pump_each(sg_bin_pump *p, uint32_t n, sg_bin_make_fn make, void *arg, sg_error *err);
/* Asks the progress function; what has been done is done + `more` bytes. */
SG_NODISCARD sg_status sg_bin_pump_progress(const sg_bin_pump *p, uint64_t more, sg_error *err);

#endif
