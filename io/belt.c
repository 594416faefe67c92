#include "io/belt.h"

#include <pthread.h>
#include <stdlib.h>

/* Items in the ring at most. */
#define ENTRIES 512u
/* Fetches that are handed to the stream at a time. */
#define SUBMIT 64u

typedef struct entry {
    size_t end; /* of its room, counted on for ever: position in the ring modulo its size */
    uint8_t *data;
    uint32_t n_parts;
    bool released;
    sg_fetch *parts[SG_BELT_PARTS];
} entry;

struct sg_belt {
    sg_stream *stream;
    uint8_t *memory;
    size_t size;
    pthread_mutex_t lock; /* guards everything below */
    pthread_cond_t room;  /* an item was brought on its way */
    const sg_belt_item *items;
    uint32_t n;
    uint64_t run;          /* number of the first item of this run; items are numbered on for ever */
    uint64_t first, next;  /* items [first, next) are in the ring */
    uint32_t next_index;   /* of `next`, in the list */
    size_t head, tail;     /* of the bytes in use, counted on for ever */
    uint32_t released;     /* in this run */
    sg_fetch *fetches, *free_fetches; /* [ENTRIES], linked through `part` */
    uint32_t n_free;
    entry entries[ENTRIES];
};

size_t sg_belt_overhead(void) { return sizeof(sg_belt) + ENTRIES * sizeof(sg_fetch); }

static void free_all_fetches(sg_belt *b) {
    b->free_fetches = NULL;
    b->n_free = ENTRIES;
    for (uint32_t i = 0; i < ENTRIES; i++) {
        b->fetches[i].part = b->free_fetches;
        b->free_fetches = &b->fetches[i];
    }
}

sg_status sg_belt_create(sg_stream *s, void *memory, size_t size, sg_belt **out, sg_error *err) {
    *out = NULL;
    sg_belt *b = calloc(1, sizeof *b);
    if (b) b->fetches = calloc(ENTRIES, sizeof *b->fetches);
    if (!b || !b->fetches) {
        free(b);
        return sg_fail(err, SG_E_NOMEM, "out of memory for reading ahead");
    }
    b->stream = s;
    b->memory = memory;
    b->size = size / SG_STREAM_BLOCK * SG_STREAM_BLOCK;
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->room, NULL);
    free_all_fetches(b);
    *out = b;
    return SG_OK;
}

void sg_belt_destroy(sg_belt **belt) {
    sg_belt *b = *belt;
    if (!b) return;
    sg_belt_stop(b);
    pthread_mutex_destroy(&b->lock);
    pthread_cond_destroy(&b->room);
    free(b->fetches);
    free(b);
    *belt = NULL;
}

static entry *at(sg_belt *b, uint64_t number) { return &b->entries[number % ENTRIES]; }

/* Finds room for `need` bytes in one piece: where it begins, or false. */
static bool find_room(const sg_belt *b, size_t need, size_t *begin) {
    size_t from = b->head;
    const size_t to_wrap = b->size - from % b->size;
    if (need > to_wrap) from += to_wrap;
    *begin = from;
    return from + need - b->tail <= b->size;
}

/* Brings the next item on its way: its fetches into list[]; false when there is no room. Reads begin on whole blocks of the file, so
 * that all parts but the last are whole blocks and lie behind each other. */
static bool start_next(sg_belt *b, sg_fetch **list, size_t *n_list) {
    const sg_belt_item *item = &b->items[b->next_index];
    const uint64_t lo = item->offset / SG_STREAM_BLOCK * SG_STREAM_BLOCK, end = item->offset + item->size;
    const uint32_t n_parts = (uint32_t)((end - lo + SG_STREAM_MOST - 1) / SG_STREAM_MOST);
    size_t begin;
    if (b->next - b->first == ENTRIES || n_parts > b->n_free || !find_room(b, sg_belt_room(item->size), &begin)) return false;
    uint8_t *memory = b->memory + begin % b->size;
    entry *e = at(b, b->next);
    *e = (entry) { .end = begin + sg_belt_room(item->size), .data = memory + (item->offset - lo), .n_parts = n_parts };
    for (uint32_t i = 0; i < n_parts; i++) {
        sg_fetch *f = b->free_fetches;
        b->free_fetches = f->part;
        const uint64_t from = lo + i * (uint64_t)SG_STREAM_MOST;
        *f = (sg_fetch) { .offset = from, .dst = memory + i * SG_STREAM_MOST, .file = item->file,
                          .size = (uint32_t)(end - from < SG_STREAM_MOST ? end - from : SG_STREAM_MOST) };
        e->parts[i] = list[(*n_list)++] = f;
    }
    b->n_free -= n_parts;
    b->head = e->end;
    b->next++;
    if (++b->next_index >= b->n) b->next_index = 0;
    return true;
}

/* Reads ahead as far as there is room. */
static void pump(sg_belt *b) {
    sg_fetch *list[SUBMIT + SG_BELT_PARTS];
    size_t n = 0;
    bool any = false;
    while (b->n > 0 && start_next(b, list, &n)) {
        any = true;
        if (n < SUBMIT) continue;
        sg_stream_submit(b->stream, list, n, true);
        n = 0;
    }
    if (n > 0) sg_stream_submit(b->stream, list, n, true);
    if (any) pthread_cond_broadcast(&b->room);
}

/* Reads that were dropped go into the queue again; `failed`: those that failed too. */
static void renew(sg_belt *b, bool failed) {
    for (uint64_t i = b->first; i < b->next; i++) {
        entry *e = at(b, i);
        for (uint32_t p = 0; !e->released && p < e->n_parts; p++) {
            const sg_fetch_state s = sg_fetch_get(e->parts[p]);
            if (s == SG_FETCH_DROPPED || (failed && s == SG_FETCH_FAILED)) sg_stream_submit(b->stream, &e->parts[p], 1, true);
        }
    }
}

void sg_belt_renew(sg_belt *b) {
    pthread_mutex_lock(&b->lock);
    renew(b, false);
    pthread_mutex_unlock(&b->lock);
}

void sg_belt_stop(sg_belt *b) {
    sg_stream_drain(b->stream);
    pthread_mutex_lock(&b->lock);
    free_all_fetches(b);
    b->items = NULL;
    b->n = b->next_index = 0;
    b->first = b->next;
    b->tail = b->head = 0;
    pthread_mutex_unlock(&b->lock);
}

void sg_belt_begin(sg_belt *b, const sg_belt_item *items, uint32_t n) {
    const uint64_t ahead = b->next - b->first;
    /* what was read ahead may reach beyond the end of the one or the other */
    if (items != b->items || (n != b->n && (ahead > n || ahead > b->n))) sg_belt_stop(b);
    pthread_mutex_lock(&b->lock);
    b->items = items;
    b->n = n;
    b->next_index = n > 0 ? (uint32_t)((b->next - b->first) % n) : 0;
    b->run = b->first;
    b->released = 0;
    renew(b, true); /* a failure between the runs belongs to neither: try again, and fail in this one if it must */
    pump(b);
    pthread_mutex_unlock(&b->lock);
}

void sg_belt_end(sg_belt *b) {
    if (b->released != b->n) sg_belt_stop(b);
}

const uint8_t *sg_belt_get(sg_belt *b, uint32_t i, double *waited) {
    double begin = 0;
    pthread_mutex_lock(&b->lock);
    const uint64_t number = b->run + i;
    while (number >= b->next) {
        if (begin == 0) begin = sg_trace_now();
        pthread_cond_wait(&b->room, &b->lock);
    }
    entry *e = at(b, number);
    pthread_mutex_unlock(&b->lock);
    bool good = true;
    for (uint32_t p = 0; p < e->n_parts; p++) {
        sg_fetch_state s = sg_fetch_get(e->parts[p]);
        if (s == SG_FETCH_DONE) continue;
        if (begin == 0) begin = sg_trace_now();
        do { /* another thread may drop it between the two */
            sg_belt_renew(b);
            sg_stream_wait(b->stream, e->parts[p]);
            s = sg_fetch_get(e->parts[p]);
        } while (s == SG_FETCH_DROPPED);
        good = good && s == SG_FETCH_DONE;
    }
    if (begin != 0) *waited += sg_trace_now() - begin;
    return good ? e->data : NULL;
}

void sg_belt_release(sg_belt *b, uint32_t i) {
    pthread_mutex_lock(&b->lock);
    at(b, b->run + i)->released = true;
    b->released++;
    const uint64_t first = b->first;
    for (; b->first < b->next && at(b, b->first)->released; b->first++) {
        entry *e = at(b, b->first);
        b->tail = e->end;
        for (uint32_t p = 0; p < e->n_parts; p++) {
            e->parts[p]->part = b->free_fetches;
            b->free_fetches = e->parts[p];
        }
        b->n_free += e->n_parts;
    }
    if (b->first != first) pump(b);
    pthread_mutex_unlock(&b->lock);
    sg_stream_poll(b->stream);
}
