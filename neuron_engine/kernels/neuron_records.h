/* The records of a tier's neuron kernels, made once for all instruction sets. Included after a header that defines TIER, FLOATS (0:
 * float rows stay with the tier below, which gains nothing there) and, with the type as a constant in front,
 *
 *     dot_any(type, y, w, stride, rows, n, a, t)    `dot` of neuron.h
 *     dot_all(type, y, ldy, w, stride, n, a)        `dot_tokens`, for several tokens
 *     down_add, down_end, down_floats               as in neuron.h
 *     down_max                                      without a type: of all quantised ones */
#define STRING(x) STRING_(x)
#define STRING_(x) #x

#define DOT(type_, lower)                                                                                              \
    static void dot_##lower(float *restrict y, const uint8_t *restrict w, size_t stride, const uint32_t *restrict rows, \
                            uint32_t n, const sg_lane_acts *restrict a, uint32_t t) {                                  \
        dot_any(type_, y, w, stride, rows, n, a, t);                                                                   \
    }                                                                                                                  \
    static void dot_tokens_##lower(float *restrict y, size_t ldy, const uint8_t *restrict w, size_t stride, uint32_t n, \
                                   const sg_lane_acts *restrict a) {                                                   \
        if (a->n == 1) dot_any(type_, y, w, stride, NULL, n, a, 0);                                                    \
        else dot_all(type_, y, ldy, w, stride, n, a);                                                                  \
    }

#define BLOCK_KERNEL(type_, lower)                                                                                     \
    DOT(type_, lower)                                                                                                  \
    static void down_add_##lower(int32_t *restrict sum, const uint8_t *restrict w, size_t stride,                      \
                                 const uint32_t *restrict rows, const float *restrict hs, uint32_t n, uint32_t k) {    \
        down_add(type_, sum, w, stride, rows, hs, n, k);                                                               \
    }                                                                                                                  \
    static void down_end_##lower(float *restrict y, const int32_t *restrict sum, size_t apart, uint32_t parts, uint32_t k, \
                                 uint32_t b0, uint32_t b1, float scale) {                                              \
        down_end(type_, y, sum, apart, parts, k, b0, b1, scale);                                                       \
    }                                                                                                                  \
    static const sg_neuron_kernel kernel_##lower = {                                                                   \
        .name = #lower "_" STRING(TIER), .type = type_, .quantised = true, .dot = dot_##lower,                         \
        .dot_tokens = dot_tokens_##lower, .down_max = down_max, .down_add = down_add_##lower, .down_end = down_end_##lower \
    };

BLOCK_KERNEL(SG_DTYPE_Q8_0, q8_0)
BLOCK_KERNEL(SG_DTYPE_Q4_0, q4_0)

#if FLOATS
#define FLOAT_KERNEL(type_, lower)                                                                                     \
    DOT(type_, lower)                                                                                                  \
    static void down_float_##lower(float *restrict y, const uint8_t *restrict w, size_t stride,                        \
                                   const uint32_t *restrict rows, const float *restrict h, uint32_t n, uint32_t i0,    \
                                   uint32_t i1) {                                                                      \
        down_floats(type_, y, w, stride, rows, h, n, i0, i1);                                                          \
    }                                                                                                                  \
    static const sg_neuron_kernel kernel_##lower = {                                                                   \
        .name = #lower "_" STRING(TIER), .type = type_, .dot = dot_##lower, .dot_tokens = dot_tokens_##lower,          \
        .down_float = down_float_##lower                                                                               \
    };

FLOAT_KERNEL(SG_DTYPE_F32, f32)
FLOAT_KERNEL(SG_DTYPE_F16, f16)
#endif

static void set_neuron_kernels(const sg_neuron_kernel *neuron[SG_DTYPE_LIMIT]) {
#if FLOATS
    neuron[SG_DTYPE_F32] = &kernel_f32;
    neuron[SG_DTYPE_F16] = &kernel_f16;
#endif
    neuron[SG_DTYPE_Q8_0] = &kernel_q8_0;
    neuron[SG_DTYPE_Q4_0] = &kernel_q4_0;
}
