#include "runtime/route_log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sg_route_log {
    FILE *file;
    char *path;
    uint32_t n_layer, n_expert, n_used;
    uint64_t *expert_bytes; /* [n_layer] */
    uint64_t step;          /* tokens so far */
    uint32_t turn, n;       /* portions of text so far; tokens of the present run */
    bool prompt, was_prompt;
    sg_str rows;            /* of the present run */
};

/* The form is that of BigMoeOnEdge's route traces (https://github.com/Helldez/BigMoeOnEdge), so that one reader serves both. */
sg_status sg_route_log_open(sg_route_log **out, const char *path, const char *model, const char *arch, const sg_hparams *hp,
                            const uint64_t *expert_bytes, sg_error *err) {
    sg_route_log *log = *out = calloc(1, sizeof *log);
    if (log) {
        log->path = strdup(path);
        log->expert_bytes = malloc((hp->n_layer + 1) * sizeof *log->expert_bytes);
    }
    if (!log || !log->path || !log->expert_bytes) return sg_fail(err, SG_E_NOMEM, "out of memory for a log of routes");
    memcpy(log->expert_bytes, expert_bytes, hp->n_layer * sizeof *expert_bytes);
    log->n_layer = hp->n_layer;
    log->n_expert = hp->n_expert;
    log->n_used = hp->n_expert_used;
    log->file = fopen(path, "we");
    if (!log->file) return sg_fail_errno(err, errno, path, "cannot be created");
    fprintf(log->file, "# route_trace v1\n# model=%s arch=%s n_layer=%u n_expert=%u n_expert_used=%u\n", *model ? model : "model", arch, hp->n_layer,
            hp->n_expert, hp->n_expert_used);
    for (uint32_t l = 0; l < hp->n_layer; l++) fprintf(log->file, "# layer=%u expert_bytes=%" PRIu64 " dense_bytes=0\n", l, expert_bytes[l]);
    fprintf(log->file, "turn,phase,step,layer,slot,expert,weight,residency,expert_bytes\n");
    return SG_OK;
}

void sg_route_log_begin(sg_route_log *log, uint32_t n) {
    log->prompt = n > 1;
    if (log->prompt && !log->was_prompt && log->step > 0) log->turn++;
    log->n = n;
    log->rows.len = 0;
}

void sg_route_log_add(sg_route_log *log, uint32_t layer, const sg_ffn_route *route, const uint8_t *kept) {
    for (uint32_t t = 0; t < log->n; t++)
        for (uint32_t s = 0; s < route->n_used; s++) {
            const size_t i = (size_t)t * route->n_used + s;
            const uint32_t e = route->expert[i];
            if (sg_route_skips(route, i)) continue;
            sg_str_printf(&log->rows, "%u,%d,%" PRIu64 ",%u,%u,%u,%.6f,%d,%" PRIu64 "\n", log->turn, log->prompt ? 0 : 1, log->step + t, layer, s, e,
                          (double)route->weight[i], kept ? kept[e] : 1, log->expert_bytes[layer]);
        }
}

sg_status sg_route_log_end(sg_route_log *log, sg_error *err) {
    log->was_prompt = log->prompt;
    log->step += log->n;
    if (log->rows.failed) return sg_fail(err, SG_E_NOMEM, "%s: out of memory for a log of routes", log->path);
    if (log->rows.len > 0 && fwrite(log->rows.data, 1, log->rows.len, log->file) != log->rows.len)
        return sg_fail_errno(err, errno, log->path, "cannot be written");
    return SG_OK;
}

sg_status sg_route_log_close(sg_route_log **out, sg_error *err) {
    sg_route_log *log = *out;
    *out = NULL;
    if (!log) return SG_OK;
    const bool good = !log->file || fclose(log->file) == 0;
    const sg_status s = good ? SG_OK : sg_fail_errno(err, errno, log->path, "cannot be written");
    free(log->rows.data);
    free(log->path);
    free(log->expert_bytes);
    free(log);
    return s;
}
