/* JSON from untrusted files on top of cJSON, which bounds the nesting but neither checks UTF-8 nor bounds the number of
 * values. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/utf8.h"
#include "runtime/convert/file.h"

/* A parsed value costs about 64 bytes and may stand for two bytes of text. The largest vocabularies in use (260
 * thousand tokens, 580 thousand merges as pairs) have two million values. */
#define MAX_VALUES (8u << 20)

/* Every value but the first follows one of , [ { : (those inside strings count too, which does no harm). */
static bool too_many_values(const char *text, size_t len) {
    size_t n = 0;
    for (size_t i = 0; i < len; i++) n += text[i] == ',' || text[i] == '[' || text[i] == '{';
    return n > MAX_VALUES;
}

sg_status sg_json_parse(const char *text, size_t len, const char *path, cJSON **out, sg_error *err) {
    *out = NULL;
    const size_t bad = sg_utf8_check(text, len);
    if (bad != len) return sg_fail(err, SG_E_FORMAT, "%s: the JSON text is not valid UTF-8 at byte %zu", path, bad);
    if (too_many_values(text, len)) return sg_fail(err, SG_E_FORMAT, "%s: the JSON text holds too many values", path);
    const char *end = NULL;
    *out = cJSON_ParseWithLengthOpts(text, len, &end, false);
    if (!*out)
        return sg_fail(err, SG_E_FORMAT, "%s: is no valid JSON near byte %zu", path,
                       end >= text ? (size_t)(end - text) : 0);
    size_t rest = (size_t)(end - text);
    while (rest < len && strchr(" \t\r\n", text[rest]) && text[rest]) rest++;
    if (rest == len && cJSON_IsObject(*out)) return SG_OK;
    cJSON_Delete(*out);
    *out = NULL;
    if (rest != len)
        return sg_fail(err, SG_E_FORMAT, "%s: there is more after the end of the JSON text at byte %zu", path, rest);
    return sg_fail(err, SG_E_FORMAT, "%s: the JSON text is no object", path);
}

sg_status sg_json_read(const char *path, uint64_t limit, cJSON **out, sg_error *err) {
    sg_str text;
    *out = NULL;
    sg_status status = sg_file_read(path, limit, &text, err);
    if (status == SG_OK) status = sg_json_parse(text.data, text.len, path, out, err);
    free(text.data);
    return status;
}

const cJSON *sg_json_get(const cJSON *obj, const char *key) {
    /* cJSON would look into an array too. */
    const cJSON *v = cJSON_IsObject(obj) ? cJSON_GetObjectItemCaseSensitive(obj, key) : NULL;
    return v && !cJSON_IsNull(v) ? v : NULL;
}

const char *sg_json_str(const cJSON *obj, const char *key) { return cJSON_GetStringValue(sg_json_get(obj, key)); }

/* *found is false when the field is absent and need not be there. */
static sg_status number(const cJSON *obj, const char *path, const char *key, double lo, double hi, bool required,
                        double *out, bool *found, sg_error *err) {
    const cJSON *v = sg_json_get(obj, key);
    *found = v != NULL;
    if (!v && required) return sg_fail(err, SG_E_FORMAT, "%s: \"%s\" is missing", path, key);
    if (!v) return SG_OK;
    if (!cJSON_IsNumber(v)) return sg_fail(err, SG_E_FORMAT, "%s: \"%s\" is no number", path, key);
    *out = v->valuedouble;
    if (!(*out >= lo && *out <= hi))
        return sg_fail(err, SG_E_FORMAT, "%s: \"%s\" is %g, not between %g and %g", path, key, *out, lo, hi);
    return SG_OK;
}

sg_status sg_json_u32(const cJSON *obj, const char *path, const char *key, uint32_t lo, uint32_t hi, bool required,
                      uint32_t *out, sg_error *err) {
    double d = 0;
    bool found;
    SG_TRY(number(obj, path, key, lo, hi, required, &d, &found, err));
    if (!found) return SG_OK;
    if (d != floor(d)) return sg_fail(err, SG_E_FORMAT, "%s: \"%s\" is %g, no whole number", path, key, d);
    *out = (uint32_t)d;
    return SG_OK;
}

sg_status sg_json_f32(const cJSON *obj, const char *path, const char *key, double lo, double hi, bool required,
                      float *out, sg_error *err) {
    double d = 0;
    bool found;
    SG_TRY(number(obj, path, key, lo, hi, required, &d, &found, err));
    if (found) *out = (float)d;
    return SG_OK;
}

sg_status sg_json_bool(const cJSON *obj, const char *path, const char *key, bool *out, sg_error *err) {
    const cJSON *v = sg_json_get(obj, key);
    if (!v) return SG_OK;
    if (!cJSON_IsBool(v)) return sg_fail(err, SG_E_FORMAT, "%s: \"%s\" is neither true nor false", path, key);
    *out = cJSON_IsTrue(v);
    return SG_OK;
}
