/* A belt: reads that are known beforehand, brought into a ring of memory in the order in which they will be used.
 *
 * A program is a list of items (ranges of a file) that every run uses once, from the first to the last; then it begins again. The belt
 * keeps reading ahead as far as the ring has room, beyond the end of the run into the next one. Whoever computes gets item i (waiting
 * until it is there) and releases it when done; the room of an item is free again when it and all before it are released. So the ring
 * must hold what is kept at the same time, and whoever holds an item must not wait for one that does not fit behind it.
 *
 * Thread-safe, except begin and end. */
#ifndef SG_IO_BELT_H
#define SG_IO_BELT_H

#include "io/stream.h"

typedef struct sg_belt sg_belt;

typedef struct sg_belt_item {
    uint64_t offset;
    uint32_t file, size; /* bytes, SG_BELT_MOST at most */
} sg_belt_item;

#define SG_BELT_PARTS 16u
#define SG_BELT_MOST ((uint32_t)(SG_BELT_PARTS - 1) * (uint32_t)SG_STREAM_MOST)

/* Room that an item takes in the ring. */
static inline size_t sg_belt_room(size_t item) { return (item + 2 * SG_STREAM_BLOCK - 1) / SG_STREAM_BLOCK * SG_STREAM_BLOCK; }
/* Bytes besides the ring. */
size_t sg_belt_overhead(void);

/* memory: the ring, aligned to SG_STREAM_BLOCK; not owned, like the stream. It holds at least two of the largest item (sg_belt_room): one that
 * does not fit behind the last needs room from the beginning on. */
SG_NODISCARD sg_status sg_belt_create(sg_stream *s, void *memory, size_t size, sg_belt **out, sg_error *err);
/* Waits for reads under way. */
void sg_belt_destroy(sg_belt **b);

/* Starts a run over items[0 .. n): goes on with what was read ahead when the list is the one of the last run (its end may differ),
 * else drops it. The list must live until another one takes its place. n may be 0. */
void sg_belt_begin(sg_belt *b, const sg_belt_item *items, uint32_t n);
/* Ends the run. Items that were not released (a run that was broken off) make the belt start afresh. */
void sg_belt_end(sg_belt *b);
/* Stops reading ahead and waits until no read is under way. */
void sg_belt_stop(sg_belt *b);

/* The bytes of item i of this run, there until it is released; NULL: a read failed (sg_stream_failure says so, unless that was forgotten
 * during the run, which nobody may do). It has to be released then, too. Any number of threads may get an item. *waited is increased by the seconds of waiting. */
const uint8_t *sg_belt_get(sg_belt *b, uint32_t i, double *waited);
/* Once per item. */
void sg_belt_release(sg_belt *b, uint32_t i);
/* Reads that sg_stream_drop took out of the queue go back into it. */
void sg_belt_renew(sg_belt *b);

#endif
