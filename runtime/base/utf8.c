#include "runtime/base/utf8.h"

/* Number of bytes that the lead byte announces, and the allowed range of the second byte (RFC 3629, section 4). */
static size_t lead(uint8_t b, uint8_t *lo, uint8_t *hi) {
    *lo = 0x80;
    *hi = 0xBF;
    if (b < 0x80) return 1;
    if (b >= 0xC2 && b <= 0xDF) return 2;
    if (b >= 0xE0 && b <= 0xEF) {
        if (b == 0xE0) *lo = 0xA0; /* no overlong forms */
        if (b == 0xED) *hi = 0x9F; /* no surrogates */
        return 3;
    }
    if (b >= 0xF0 && b <= 0xF4) {
        if (b == 0xF0) *lo = 0x90;
        if (b == 0xF4) *hi = 0x8F; /* nothing above U+10FFFF */
        return 4;
    }
    return 0;
}

size_t sg_utf8_next(const char *s, size_t n, uint32_t *cp) {
    if (n == 0) return 0;
    uint8_t lo, hi;
    const uint8_t *b = (const uint8_t *)s;
    const size_t len = lead(b[0], &lo, &hi);
    if (len == 0 || len > n) return 0;
    static const uint8_t mask[5] = { 0, 0x7F, 0x1F, 0x0F, 0x07 };
    uint32_t c = b[0] & mask[len];
    for (size_t i = 1; i < len; i++) {
        if (b[i] < lo || b[i] > hi) return 0;
        c = c << 6 | (b[i] & 0x3F);
        lo = 0x80;
        hi = 0xBF;
    }
    if (cp) *cp = c;
    return len;
}

size_t sg_utf8_check(const char *s, size_t n) {
    size_t i = 0;
    while (i < n) {
        const size_t len = sg_utf8_next(s + i, n - i, NULL);
        if (len == 0) return i;
        i += len;
    }
    return n;
}

size_t sg_utf8_put(uint32_t cp, char out[4]) {
    if (cp > 0x10FFFF || (cp >= 0xD800 && cp <= 0xDFFF)) cp = 0xFFFD;
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xC0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xE0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3F));
        out[2] = (char)(0x80 | (cp & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3F));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3F));
    out[3] = (char)(0x80 | (cp & 0x3F));
    return 4;
}

size_t sg_utf8_missing(const char *s, size_t n) {
    if (n == 0) return 0;
    uint8_t lo, hi;
    const uint8_t *b = (const uint8_t *)s;
    const size_t len = lead(b[0], &lo, &hi);
    if (len == 0 || len <= n) return 0;
    for (size_t i = 1; i < n; i++) {
        if (b[i] < lo || b[i] > hi) return 0;
        lo = 0x80;
        hi = 0xBF;
    }
    return len - n;
}
