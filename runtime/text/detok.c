#include "runtime/base/utf8.h"
#include "runtime/text/tokenizer.h"

#include <string.h>

#define REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD */

void sg_detok_init(sg_detok *d, const sg_tokenizer *t, bool at_start, bool show_special) {
    *d = (sg_detok) { .t = t, .at_start = at_start, .show_special = show_special };
}

/* Writes what pending holds as far as it is decided, and keeps an unfinished character. */
static void settle(sg_detok *d, sg_str *out) {
    while (d->n_pending > 0) {
        size_t n = sg_utf8_next(d->pending, d->n_pending, NULL);
        if (n > 0) {
            sg_str_append(out, d->pending, n);
        } else if (sg_utf8_missing(d->pending, d->n_pending) > 0) {
            return;
        } else {
            /* One U+FFFD for the longest beginning of a character (Unicode, chapter 3.9). Bytes come one by one, so it
             * is the last one that does not fit. */
            n = d->n_pending > 1 ? d->n_pending - 1 : 1;
            sg_str_puts(out, REPLACEMENT);
        }
        d->n_pending -= n;
        memmove(d->pending, d->pending + n, d->n_pending);
    }
}

void sg_detok_feed(sg_detok *d, int32_t id, sg_str *out) {
    size_t n;
    const char *s = sg_tokenizer_piece(d->t, id, d->show_special, &n);
    if (n == 0) return;
    if (d->at_start && s[0] == ' ' && sg_tokenizer_drops_space(d->t, id)) {
        s++;
        n--;
    }
    d->at_start = false;
    while (n > 0) {
        if (d->n_pending == 0) {
            const size_t good = sg_utf8_check(s, n);
            sg_str_append(out, s, good);
            s += good;
            n -= good;
            if (n == 0) return;
        }
        d->pending[d->n_pending++] = *s++;
        n--;
        settle(d, out);
    }
}

void sg_detok_finish(sg_detok *d, sg_str *out) {
    if (d->n_pending > 0) sg_str_puts(out, REPLACEMENT); /* always the beginning of one character */
    d->n_pending = 0;
}
