#include "runtime/base/dtype.h"

#include <strings.h>

static const sg_dtype_info types[SG_DTYPE_LIMIT] = {
    [SG_DTYPE_F32] = { "F32", 1, 4 },         [SG_DTYPE_F16] = { "F16", 1, 2 },
    [SG_DTYPE_Q4_0] = { "Q4_0", 32, 18 },     [SG_DTYPE_Q4_1] = { "Q4_1", 32, 20 },
    [SG_DTYPE_Q5_0] = { "Q5_0", 32, 22 },     [SG_DTYPE_Q5_1] = { "Q5_1", 32, 24 },
    [SG_DTYPE_Q8_0] = { "Q8_0", 32, 34 },     [SG_DTYPE_Q2_K] = { "Q2_K", 256, 84 },
    [SG_DTYPE_Q3_K] = { "Q3_K", 256, 110 },   [SG_DTYPE_Q4_K] = { "Q4_K", 256, 144 },
    [SG_DTYPE_Q5_K] = { "Q5_K", 256, 176 },   [SG_DTYPE_Q6_K] = { "Q6_K", 256, 210 },
    [SG_DTYPE_IQ4_NL] = { "IQ4_NL", 32, 18 }, [SG_DTYPE_BF16] = { "BF16", 1, 2 },
    [SG_DTYPE_MXFP4] = { "MXFP4", 32, 17 },   [SG_DTYPE_I8] = { "I8", 1, 1 },
    [SG_DTYPE_I32] = { "I32", 1, 4 },
};

const sg_dtype_info *sg_dtype_get(uint32_t type) {
    return type < SG_DTYPE_LIMIT && types[type].name ? &types[type] : NULL;
}

bool sg_dtype_by_name(const char *name, sg_dtype *out) {
    for (uint32_t i = 0; i < SG_DTYPE_LIMIT; i++) {
        if (types[i].name && strcasecmp(types[i].name, name) == 0) {
            *out = (sg_dtype)i;
            return true;
        }
    }
    return false;
}
