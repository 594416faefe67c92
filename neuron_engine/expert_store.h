/* Experts that are not all in RAM: which are kept, which are on their way, what a layer does about those that it needs.
 *
 * An expert lies in the file in up to three slices (gate, up, down; of neuron bundles one). Of every layer some experts are in RAM in
 * slots, in the form in which they are computed with; a cache decides which (neuron_cache.h, its places being experts). A read brings an
 * expert in the file's form, in pieces, into a landing area; whoever computes with a piece moves it into the expert's slot on the way, if
 * it got one. Landing areas are shared by all layers.
 *
 * Neuron bundles need no other form (in_place): there a landing area becomes the expert's slot, and the memory of the slot a landing area.
 *
 * One layer at a time: sg_expert_demand starts the reads of what is missing, in the order of use; the experts in slots can be
 * computed with at once, those that are read follow, group by group, as landing areas allow (half of them being computed with, half being filled).
 * sg_expert_expect starts reads for a layer that comes later: behind all demands, into areas that are free, and given up when they were wrong.
 * What layers will need is said by the router of a layer over the stream of one before (look-ahead), or of all layers at once by the pre-gate, over
 * the embedding; which of the two is believed of a layer is measured. Of several layers the nearest is read first, and what is expected of a farther
 * one gives its area to a nearer one.
 *
 * Everything here is called by one thread of a team at a time (the first), except sg_expert_get, and where it is said. */
#ifndef SG_NE_EXPERT_STORE_H
#define SG_NE_EXPERT_STORE_H

#include "io/stream.h"
#include "neuron_engine/neuron_cache.h"

enum { SG_EXPERT_GATE, SG_EXPERT_UP, SG_EXPERT_DOWN, SG_EXPERT_SLICES };
/* Bytes of a piece: large enough for the drive, small enough that work begins early. */
#define SG_EXPERT_PIECE ((size_t)256 << 10)

/* A slice of every expert of a layer. */
typedef struct sg_expert_slice {
    uint64_t offset, apart; /* of expert 0 in the file, and from one to the next */
    size_t bytes;           /* 0: there is none */
    size_t packed;          /* in a slot */
    uint32_t file;
    size_t slot_at, land_at; /* in a slot, 64-byte aligned; in a landing area, aligned to SG_STREAM_BLOCK. From sg_expert_home_init */
} sg_expert_slice;

/* Where the experts were found that tokens or batches used, since the beginning. */
typedef struct sg_expert_finds {
    uint64_t slots;        /* in RAM */
    uint64_t ahead, late;  /* read because they were expected: there, still on the way */
    uint64_t missed;       /* read on demand */
    uint64_t kept;         /* of those that were read: got a slot */
    uint64_t guessed, right; /* look-ahead from the layer before: experts that were named, and those of them that were used */
    uint64_t foreseen, came; /* the pre-gate, likewise, of the first token of a run */
    uint64_t expected, unused; /* both: reads that were started, and those nobody needed */
} sg_expert_finds;

/* How many layers of experts look-ahead may be ahead. */
#define SG_EXPERT_DEPTH 2u
/* Who names experts of a layer before its router does, the pre-gate, or look-ahead from so many layers before. Judged by those that were not in slots. */
enum { SG_EXPERT_PREGATE, SG_EXPERT_NAMERS = SG_EXPERT_DEPTH + 1 };
typedef struct sg_expert_namer {
    uint8_t *named;        /* [n_expert], 1: for the run; by the pre-gate for its first token */
    uint32_t run;          /* the last one that he was asked about */
    float trust;           /* share of them that was needed lately */
    uint32_t judged;       /* how many there were, as far as it matters for the next step of trust */
    uint32_t right, wrong; /* since the last look at them began, see sg_expert_looks_ahead */
} sg_expert_namer;

/* The experts of one layer. */
typedef struct sg_expert_home {
    struct sg_expert_store *store;
    sg_expert_slice slice[SG_EXPERT_SLICES];
    uint32_t n_expert;
    bool in_place;         /* slots hold what the file holds; one slice, whose offsets are multiples of SG_STREAM_BLOCK apart */
    uint8_t *arena;        /* slots, 64-byte aligned; in place: aligned to SG_STREAM_BLOCK, and used up, see slot_memory */
    size_t slot_bytes;     /* in place: that of a landing area */
    sg_neuron_cache cache; /* n_slots of n_expert places */
    uint8_t *resident;     /* [n_expert], 1: in a slot */
    uint8_t **slot_memory; /* [n_slots], in place */
    const uint8_t **at;    /* [n_expert], in place: where an expert is, or is being read to; NULL: nowhere */
    uint32_t *named, n_named, named_at; /* [n_expert], what is expected in the order of its reads; those that were looked at */
    uint16_t *soon;        /* [n_expert], tokens of the next batch that will need it */
    bool apart;            /* those of the last batch did not fit into RAM together; set by the owner */
    float misses;          /* of a token lately */
    sg_expert_namer namer[SG_EXPERT_NAMERS];
    sg_expert_finds finds;
} sg_expert_home;

/* A landing area and what is in it. */
typedef struct sg_expert_read {
    sg_expert_home *home;  /* NULL: free */
    uint32_t expert;
    uint32_t due;          /* expected: the run in which it is needed */
    bool wanted;           /* the layer that is being computed needs it */
    uint8_t *memory;       /* 4096-byte aligned */
    sg_fetch *piece;       /* [n_pieces of the store] */
    uint32_t first[SG_EXPERT_SLICES + 1]; /* pieces of each slice */
} sg_expert_read;

/* What is done about experts that will probably be needed, see sg_expert_looks_ahead. */
typedef enum sg_expert_phase {
    SG_EXPERT_LOOK,  /* they are named, and not read */
    SG_EXPERT_TRIAL, /* read and not read, in turns */
    SG_EXPERT_REST   /* as was found to be faster */
} sg_expert_phase;

/* What the layers of a model share. */
typedef struct sg_expert_store {
    sg_stream *stream;
    sg_expert_home *homes; /* [n_homes] */
    uint32_t n_homes, n_expert; /* most of a layer */
    sg_expert_read *reads; /* [n_reads] */
    uint32_t n_reads, n_pieces;
    size_t land_bytes;     /* of an area */
    bool no_ahead;         /* nothing is read because it is expected */
    bool always_ahead;     /* without finding out whether that pays */
    bool no_cache;         /* every run begins with empty slots */
    struct {
        sg_expert_phase phase;
        bool on;                 /* what is named is read */
        bool better;             /* what the last trial said */
        bool looked;             /* what holds now was said by a look, of names that come true */
        uint32_t tried;          /* tokens for which the last trial held; 0: there was none */
        uint32_t at, rest;       /* single tokens of this phase; how many of them it has, if it is SG_EXPERT_REST */
        uint32_t missing;        /* a look: experts that were not in slots */
        double busy, busy_before; /* a look: the drive's share of the time of a token, sum over tokens; of the stream, when this token began */
        uint32_t rounds;         /* of this trial */
        double seconds[2];       /* of this round, without and with */
        double saved, squares;   /* by look-ahead, of all time of a round: sum over rounds, and of its square */
        double usual;            /* seconds of a token lately */
    } ahead;
    bool single;           /* the run is of one token */
    uint32_t run;          /* tokens or batches so far, from 1 */
    sg_fetch **list;       /* [n_pieces] */
    /* the layer that is being computed */
    sg_expert_home *home;
    uint32_t n_tokens;
    uint32_t *expert;      /* [n_expert] in the order of work: those in slots, then those that are read */
    uint32_t *slot;        /* [n_expert] of each, or SG_SLOT_NONE */
    uint32_t *index;       /* [n_expert] of each, its place in hit[] */
    sg_expert_read **read; /* [n_expert] of each, NULL: in a slot, or not started */
    const uint32_t *count; /* as in sg_expert_demand */
    uint32_t n, n_here;    /* all, those in slots */
    uint32_t started;      /* position of the next that has to be read */
    uint32_t lo, hi;       /* the present group */
    bool more;             /* there was one */
} sg_expert_store;

/* Sizes of slots and landing from the slices; bytes of a slot in home->slot_bytes, of a landing area as returned. */
size_t sg_expert_home_init(sg_expert_home *h);
/* Tables, from n_homes, homes[].n_expert and cache.n_slots, n_reads, land_bytes (which sets n_pieces); a measuring carver first. Then
 * sg_expert_store_clear, after the memory of slots and areas was set. */
void sg_expert_store_lay_out(sg_expert_store *s, sg_carver *c);
void sg_expert_store_clear(sg_expert_store *s);

/* A run begins; single: of one token. */
void sg_expert_begin(sg_expert_store *s, bool single);
/* After a failed or broken run, nothing being under way any more: what was not finished is forgotten. */
void sg_expert_recover(sg_expert_store *s);

/* The layer needs experts hit[n], ascending; expert e for count[e + 1] - count[e] of n_tokens (as sg_route_index has it), NULL: one each. Starts
 * reads. */
void sg_expert_demand(sg_expert_store *s, sg_expert_home *h, const uint32_t *hit, uint32_t n, const uint32_t *count, uint32_t n_tokens);
/* The next group of those that are read: positions lo .. hi - 1; false: there is none. Empty when areas have to become free first. */
bool sg_expert_group(sg_expert_store *s);
/* How many of hit[n], from the first on, can be in RAM at the same time, at least one: for layers that need them together, which then have
 * only one group. */
uint32_t sg_expert_together(const sg_expert_store *s, const sg_expert_home *h, const uint32_t *hit, uint32_t n);
/* Positions lo .. hi - 1 were computed with: their areas are free, further reads are started. */
void sg_expert_done(sg_expert_store *s, uint32_t lo, uint32_t hi);
/* All positions are done. */
void sg_expert_end(sg_expert_store *s);

/* Bytes from .. to - 1 of a slice of the expert at a position that is read, there as they lie in the file; waits. NULL: reading failed, and the run
 * will end with an error. Any thread; *waited grows by the seconds of waiting. */
const uint8_t *sg_expert_get(sg_expert_store *s, uint32_t position, int slice, size_t from, size_t to, double *waited);

/* Whether to look ahead for a layer, from so many before: not where almost everything is in slots, since asking the router costs time, too; not where too
 * few of the experts that it names, and that would be read, are needed (a probe now and then looks whether that is still so); not where who is asked earlier
 * is nearly as right, nor where who is asked later is more right than that; not in batches whose experts come part by part, since there is no room for
 * more; and not while it makes tokens slower.
 *
 * First a look: in SG_EXPERT_LOOK_TOKENS single tokens experts are named, and not read. That says who is to be trusted, which share of the time the drive
 * is busy without reading ahead, and how much more it would read in vain. Where it would be busy for more than SG_EXPERT_ROOM of the time then, or nothing
 * right is named, there is nothing to gain, and SG_EXPERT_HOPELESS tokens go without (then comes a trial, since a drive that is busy may have room for more).
 *
 * Else it is tried: rounds of four tokens go with, without, without, with it, until the difference is SG_EXPERT_CLEAR times its standard error, at least
 * SG_EXPERT_ROUNDS of them and at most SG_EXPERT_MOST_ROUNDS: where it is too small to be seen it matters little. Tokens then go as it was faster,
 * SG_EXPERT_REST_TOKENS of them, twice as many whenever a trial clearly says the same again, up to SG_EXPERT_MOST_REST: so trials cost next to nothing. Then
 * it is tried again; where it was slower, after another look. */
#define SG_EXPERT_LOOK_TOKENS 8u
#define SG_EXPERT_ROOM 0.9
#define SG_EXPERT_HOPELESS 1024u
#define SG_EXPERT_CLEAR 3.0
#define SG_EXPERT_ROUNDS 6u
#define SG_EXPERT_MOST_ROUNDS 32u
#define SG_EXPERT_REST_TOKENS 512u
#define SG_EXPERT_MOST_REST 4096u
#define SG_EXPERT_PROBE 32u
#define SG_EXPERT_TRUE 0.4f
#define SG_EXPERT_FEW 0.05f /* missing experts of a token in a layer */
bool sg_expert_looks_ahead(const sg_expert_store *s, const sg_expert_home *h, uint32_t distance);
/* Nothing that is known to be needed, or expected, waits for its read to start: the drive will be idle. */
bool sg_expert_idle(const sg_expert_store *s);
/* A run of a single token took so long. */
void sg_expert_time(sg_expert_store *s, double seconds);
/* Look-ahead: the layer will probably need experts named[n] in this run, the surest first. It is judged by that; where it is
 * believed, and this is no look, reads of those that are nowhere start, now and as areas become free, in the place of what was named before. */
void sg_expert_expect(sg_expert_store *s, sg_expert_home *h, uint32_t distance, const uint32_t *named, uint32_t n);

/* The pre-gate, at the beginning of a run, before any layer. Whether to ask it what to read for a layer: as with look-ahead. */
bool sg_expert_foresees(const sg_expert_store *s, const sg_expert_home *h);
/* It names first[n_first] for the first token, which is what it is judged by, and named[n] for the run, the surest first. Several threads at a time,
 * each for other layers; reads begin with sg_expert_start_named. */
void sg_expert_foresee(sg_expert_home *h, const uint32_t *first, uint32_t n_first, const uint32_t *named, uint32_t n);
void sg_expert_start_named(sg_expert_store *s);
/* The first token of the run uses these: how good was it? Before sg_expert_demand. */
void sg_expert_judge_foreseen(const sg_expert_store *s, sg_expert_home *h, const uint32_t *used, uint32_t n);
/* What the next batch will need decides who stays, where it is known and the pre-gate is believed: whether to count that for a layer (`probing`: also
 * where it is only to be judged), and that h->soon holds it now, until the next run begins: without effect for layers not to count for. Any thread. */
bool sg_expert_weighs(const sg_expert_store *s, const sg_expert_home *h, bool probing);
void sg_expert_weighed(const sg_expert_store *s, sg_expert_home *h);

/* Where a slice of the expert in a slot lies. */
static inline uint8_t *sg_expert_in_slot(const sg_expert_home *h, uint32_t slot, int slice) {
    return h->arena + slot * h->slot_bytes + h->slice[slice].slot_at;
}

#endif
