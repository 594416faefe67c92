/* Reading of whole small files, of parts of large ones, and of JSON, all untrusted. */
#ifndef SG_CONVERT_FILE_H
#define SG_CONVERT_FILE_H

#include <cjson/cJSON.h>

#include "runtime/base/mem.h"

/* True for a regular file. */
bool sg_file_exists(const char *path);
/* "DIR/NAME", allocated; NULL without memory. */
char *sg_file_join(const char *dir, const char *name);

/* Opens a regular file for reading (never blocks on a pipe). The caller closes *fd. */
SG_NODISCARD sg_status sg_file_open(const char *path, int *fd, uint64_t *size, sg_error *err);
/* Exactly n bytes from `offset`; SG_E_FORMAT when the file ends before. */
SG_NODISCARD sg_status sg_file_read_at(int fd, const char *path, void *dst, size_t n, uint64_t offset, sg_error *err);
/* The whole file, at most `limit` bytes, zero-terminated. out->data: free(), on failure too. */
SG_NODISCARD sg_status sg_file_read(const char *path, uint64_t limit, sg_str *out, sg_error *err);

/* Parses text[0..len), which must be UTF-8. `path` names it in errors. cJSON_Delete(*out). */
SG_NODISCARD sg_status sg_json_parse(const char *text, size_t len, const char *path, cJSON **out, sg_error *err);
SG_NODISCARD sg_status sg_json_read(const char *path, uint64_t limit, cJSON **out, sg_error *err);

/* Fields of an object. A field that is null counts as absent. Absent: SG_OK and *out untouched, or SG_E_FORMAT when
 * `required`. Of the wrong kind or outside lo .. hi (NaN too): SG_E_FORMAT naming file and field. */
SG_NODISCARD sg_status sg_json_u32(const cJSON *obj, const char *path, const char *key, uint32_t lo, uint32_t hi,
                                   bool required, uint32_t *out, sg_error *err);
SG_NODISCARD sg_status sg_json_f32(const cJSON *obj, const char *path, const char *key, double lo, double hi,
                                   bool required, float *out, sg_error *err);
SG_NODISCARD sg_status sg_json_bool(const cJSON *obj, const char *path, const char *key, bool *out, sg_error *err);
/* A string, or NULL when the field is absent or no string. `obj` may be NULL. */
const char *sg_json_str(const cJSON *obj, const char *key);
/* A field that is neither absent nor null; else NULL. `obj` may be NULL. */
const cJSON *sg_json_get(const cJSON *obj, const char *key);

#endif
