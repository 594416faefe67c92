#include "runtime/text/merge.h"

#include <stdlib.h>

sg_status sg_merger_begin(sg_merger *m, size_t n, sg_error *err) {
    m->n = m->n_queue = 0;
    if (n <= m->cap) return SG_OK;
    if (n > INT32_MAX / 4) return sg_fail(err, SG_E_ARG, "text of %zu characters is too long for the tokenizer", n);
    size_t cap = n + n / 2;
    free(m->symbols);
    free(m->queue);
    /* n - 1 neighbours at the beginning and two more for each of at most n - 1 joins */
    m->symbols = malloc(cap * sizeof *m->symbols);
    m->queue = malloc(3 * cap * sizeof *m->queue);
    m->cap = m->symbols && m->queue ? cap : 0;
    m->queue_cap = 3 * m->cap;
    return m->cap ? SG_OK : sg_fail(err, SG_E_NOMEM, "out of memory for tokenizing %zu characters", n);
}

void sg_merger_add(sg_merger *m, uint32_t start, uint32_t len, int32_t id) {
    const int32_t i = (int32_t)m->n++;
    m->symbols[i] = (sg_symbol) { .start = start, .len = len, .id = id, .prev = i - 1, .next = -1 };
    if (i > 0) m->symbols[i - 1].next = i;
}

static bool before(const sg_candidate *a, const sg_candidate *b) {
    return a->order < b->order || (a->order == b->order && a->left < b->left);
}

static void push(sg_merger *m, sg_candidate c) {
    size_t i = m->n_queue++;
    while (i > 0 && before(&c, &m->queue[(i - 1) / 2])) {
        m->queue[i] = m->queue[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    m->queue[i] = c;
}

static sg_candidate pop(sg_merger *m) {
    const sg_candidate top = m->queue[0], last = m->queue[--m->n_queue];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= m->n_queue) break;
        if (child + 1 < m->n_queue && before(&m->queue[child + 1], &m->queue[child])) child++;
        if (!before(&m->queue[child], &last)) break;
        m->queue[i] = m->queue[child];
        i = child;
    }
    m->queue[i] = last;
    return top;
}

static void consider(sg_merger *m, int32_t left, int32_t right, sg_pair_fn pair, const void *arg) {
    if (left < 0 || right < 0) return;
    sg_candidate c = { .left = left, .right = right, .len = m->symbols[left].len + m->symbols[right].len };
    if (pair(arg, &m->symbols[left], &m->symbols[right], &c.order, &c.id)) push(m, c);
}

void sg_merger_run(sg_merger *m, sg_pair_fn pair, const void *arg) {
    for (size_t i = 1; i < m->n; i++) consider(m, (int32_t)i - 1, (int32_t)i, pair, arg);
    while (m->n_queue > 0) {
        const sg_candidate c = pop(m);
        sg_symbol *a = &m->symbols[c.left], *b = &m->symbols[c.right];
        if (a->len == 0 || b->len == 0 || a->len + b->len != c.len) continue; /* one of the two was joined meanwhile */
        a->len = c.len;
        a->id = c.id;
        a->next = b->next;
        b->len = 0;
        if (a->next >= 0) m->symbols[a->next].prev = c.left;
        consider(m, a->prev, c.left, pair, arg);
        consider(m, c.left, a->next, pair, arg);
    }
}

void sg_merger_free(sg_merger *m) {
    free(m->symbols);
    free(m->queue);
    *m = (sg_merger) { 0 };
}
