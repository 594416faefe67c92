/* UTF-8 as RFC 3629 defines it. */
#ifndef SG_BASE_UTF8_H
#define SG_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Length 1..4 of the well-formed character at s[0..n), 0 when the bytes there are not one. *cp (may be NULL) its code point. */
size_t sg_utf8_next(const char *s, size_t n, uint32_t *cp);
/* Offset of the first byte that is not well-formed, or n. */
size_t sg_utf8_check(const char *s, size_t n);
/* Bytes written to out[4] for a code point (U+FFFD when it is none). */
size_t sg_utf8_put(uint32_t cp, char out[4]);
/* How many more bytes the unfinished character at s[0..n) needs: 0 when s holds a whole or an impossible one. */
size_t sg_utf8_missing(const char *s, size_t n);

#endif
