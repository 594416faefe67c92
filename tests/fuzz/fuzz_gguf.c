/* GGUF headers: open the bytes, walk everything, describe the file as text and as JSON. */
#include "runtime/info.h"
#include "tests/io/gguf_walk.h"

#include <cjson/cJSON.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void describe(const sg_file_info *info) {
    char *text = NULL;
    WALK_CHECK(sg_file_info_text(info, false, &text, NULL) == SG_OK && text &&
               sg_utf8_check(text, strlen(text)) == strlen(text));
    sg_free(text);
    WALK_CHECK(sg_file_info_text(info, true, &text, NULL) == SG_OK && text);
    cJSON *json = cJSON_Parse(text);
    WALK_CHECK(cJSON_IsObject(json));
    cJSON_Delete(json);
    sg_free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    sg_error err = { 0 };
    sg_gguf *g = NULL;
    if (sg_gguf_open_memory(data, size, "fuzz", &g, &err) != SG_OK) {
        WALK_CHECK(!g && err.code != SG_OK && strncmp(err.message, "fuzz: ", 6) == 0);
        return 0;
    }
    (void)walk_gguf(g);
    sg_file_info *info = NULL;
    if (sg_file_info_from_gguf(g, &info, &err) == SG_OK) describe(info);
    sg_file_info_close(&info);
    return 0;
}
