/* Where a model's bytes go under budgets from nothing to more than all: never over the budget, never less for more. Loop variable: the
 * model. */
#include "runtime/residency.h"

#include "io/belt.h"
#include "tests/io/expect.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define MIB ((uint64_t)1 << 20)
#define RING_ITEMS 4u /* largest items that the belt holds at least */
#define MOST_MATRICES 260u
#define MOST_LAYERS 120u

/* An assertion of the framework costs a system call: in loops only what is wrong makes one. */
#define must(cond, ...)                                                                                                \
    do {                                                                                                               \
        if (!(cond)) ck_abort_msg(__VA_ARGS__);                                                                        \
    } while (0)

/* ---- models ---- */

typedef struct model {
    sg_residency_need need;
    uint64_t matrices[MOST_MATRICES];
    sg_bundle_layout layouts[MOST_LAYERS];
} model;

static void add_matrices(model *m, uint32_t n, uint64_t bytes) {
    for (uint32_t i = 0; i < n; i++) m->matrices[m->need.n_matrices++] = bytes;
}

static void add_layers(model *m, uint32_t n, uint32_t neurons, uint32_t k, uint32_t per_cluster, bool gated, sg_dtype type) {
    for (uint32_t i = 0; i < n; i++) {
        sg_bundle_layout *l = &m->layouts[m->need.n_layer++];
        *l = (sg_bundle_layout){ .n_neurons = neurons, .k = k, .per_cluster = per_cluster, .gated = gated, .gate_type = type, .up_type = type,
                                 .down_type = type };
        ck_assert(sg_bundle_layout_init(l));
        const size_t slot = (l->record + 511) / 512 * 512 + 512;
        if (slot > m->need.slot_bytes) m->need.slot_bytes = slot;
    }
}

enum { DENSE, NEURONS_7B, KEPT_7B, CLUSTERS_7B, CLUSTERS_KEPT_7B, SMALL, SMALL_DEEP, UNEVEN, TINY, TINY_CLUSTERS, EXPERTS, EXPERTS_FEW, EXPERTS_MANY,
       EXPERTS_TOGETHER, EXPERTS_AND_NEURONS, EXPERTS_TINY, MODELS };
static const char *const names[MODELS] = { "dense", "7B by neurons", "7B with predictors kept", "7B by clusters", "7B by clusters, kept", "small", "small and deep",
                                           "uneven layers", "tiny", "tiny by clusters", "experts", "few experts, one layer", "many small experts",
                                           "experts together", "experts, and neurons", "tiny experts" };

/* Slices of an expert begin anywhere in a block. */
static void add_experts(model *m, uint32_t n_layer, uint32_t n, uint32_t n_used, uint64_t bytes, bool together) {
    sg_residency_need *need = &m->need;
    need->n_expert_layer = n_layer;
    need->n_expert = n;
    need->n_expert_used = n_used;
    need->expert_land = (bytes + 4095) / 4096 * 4096 + (together ? 1 : 3) * 4096;
    need->expert_slots = n_layer * (together ? need->expert_land : (bytes + 63) / 64 * 64);
    need->experts_together = together;
}

static model *make(int which) {
    model *m = calloc(1, sizeof *m);
    ck_assert_ptr_nonnull(m);
    sg_residency_need *n = &m->need;
    *n = (sg_residency_need){ .outside = 9 * MIB, .kv = 64 * MIB, .buffers = 11 * MIB, .vectors = MIB, .largest_item = 512 << 10, .by_neurons = true };
    switch (which) {
    case DENSE:
        for (int i = 0; i < 28; i++) {
            add_matrices(m, 2, 3 * MIB + 777);
            add_matrices(m, 3, 17 * MIB);
        }
        add_matrices(m, 1, 300 * MIB);
        n->embedding = 297 * MIB;
        n->by_neurons = false;
        break;
    case NEURONS_7B:
    case KEPT_7B:
    case CLUSTERS_7B:
    case CLUSTERS_KEPT_7B:
        add_matrices(m, 128, 9 * MIB);
        add_matrices(m, 1, 70 * MIB);
        add_layers(m, 32, 11008, 4096, 64, true, SG_DTYPE_Q4_0);
        n->embedding = 70 * MIB;
        n->predictors = 200 * MIB;
        n->keep_predictors = which == KEPT_7B || which == CLUSTERS_KEPT_7B;
        n->by_neurons = which != CLUSTERS_7B && which != CLUSTERS_KEPT_7B;
        break;
    case SMALL:
        add_matrices(m, 24, 300000);
        add_layers(m, 6, 1000, 288, 64, true, SG_DTYPE_Q8_0);
        n->largest_item = 8 << 10;
        n->kv = n->buffers = n->vectors = n->outside = 100000;
        n->embedding = 9 * MIB;
        n->predictors = 50001;
        break;
    case SMALL_DEEP: /* the least slots of all layers are more than the belt */
        add_matrices(m, 240, 100000);
        add_layers(m, 120, 4096, 96, 32, false, SG_DTYPE_Q4_0);
        n->largest_item = 4 << 10;
        n->kv = n->buffers = n->vectors = n->outside = 100000;
        break;
    case UNEVEN:
        add_matrices(m, 10, 5 * MIB);
        add_matrices(m, 1, 200 * MIB);
        add_matrices(m, 9, 12345);
        add_layers(m, 3, 300, 2048, 128, true, SG_DTYPE_F16);
        add_layers(m, 1, 20000, 2048, 128, true, SG_DTYPE_Q8_0);
        add_layers(m, 2, 128, 2048, 128, false, SG_DTYPE_Q4_0);
        break;
    case EXPERTS:
        for (int i = 0; i < 24; i++) add_matrices(m, 4, 3 * MIB + 777);
        add_matrices(m, 1, 150 * MIB);
        add_experts(m, 24, 64, 8, 3 * MIB / 2 + 32, false);
        n->embedding = 150 * MIB;
        n->by_neurons = false;
        break;
    case EXPERTS_FEW: /* an area costs more than a slot */
        add_matrices(m, 6, MIB / 2);
        add_experts(m, 1, 4, 2, 300000, false);
        n->by_neurons = false;
        break;
    case EXPERTS_MANY:
        add_matrices(m, 9, MIB / 3);
        add_experts(m, 2, 512, 10, 9001, false);
        n->by_neurons = false;
        break;
    case EXPERTS_TOGETHER:
        for (int i = 0; i < 16; i++) add_matrices(m, 4, 2 * MIB);
        add_experts(m, 16, 32, 4, 2 * MIB, true);
        n->by_neurons = false;
        break;
    case EXPERTS_AND_NEURONS: /* some layers are dense, the others have experts */
        add_matrices(m, 20, 2 * MIB);
        add_layers(m, 4, 4096, 1024, 64, true, SG_DTYPE_Q4_0);
        add_experts(m, 12, 16, 2, 2 * MIB, true);
        n->predictors = 10 * MIB;
        break;
    case EXPERTS_TINY:
        add_matrices(m, 8, 8192);
        add_experts(m, 2, 6, 2, 3000, false);
        n->largest_item = 4096;
        n->kv = n->buffers = n->vectors = n->outside = 1000;
        n->by_neurons = false;
        break;
    default:
        add_matrices(m, 8, 8192);
        add_layers(m, 2, 96, 64, 32, true, SG_DTYPE_Q8_0);
        n->largest_item = 4096;
        n->kv = n->buffers = n->vectors = n->outside = 1000;
        n->by_neurons = which == TINY;
    }
    n->matrices = m->matrices;
    n->layouts = m->layouts;
    return m;
}

/* ---- sums ---- */

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

static uint64_t cluster_bytes(const sg_residency_need *n) {
    uint64_t most = 0;
    for (uint32_t i = 0; i < n->n_layer; i++)
        if (n->layouts[i].cluster_bytes > most) most = n->layouts[i].cluster_bytes;
    return most;
}

static uint64_t largest_room(const sg_residency_need *n) {
    const uint64_t a = sg_belt_room(n->largest_item), b = n->n_layer ? sg_belt_room(cluster_bytes(n)) : 0;
    return a > b ? a : b;
}

/* All that is wanted, and what is in RAM of the weights: real layers, not the largest of them. */
static uint64_t weights(const sg_residency_need *n) {
    uint64_t sum = n->embedding + n->predictors + n->n_expert * n->expert_slots;
    for (uint32_t i = 0; i < n->n_matrices; i++) sum += n->matrices[i];
    for (uint32_t i = 0; i < n->n_layer; i++)
        sum += n->layouts[i].n_clusters * (n->layouts[i].cluster_bytes + n->layouts[i].per_cluster * (uint64_t)sizeof(float));
    return sum;
}

static uint64_t fixed(const sg_residency_need *n) { return n->outside + n->kv + n->buffers + n->vectors; }

static uint64_t matrices_in_ram(const sg_residency_need *n, const sg_residency *r) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n->n_matrices; i++) sum += r->away[i] ? 0 : n->matrices[i];
    return sum;
}

static uint64_t in_matrices(const sg_residency_need *n) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n->n_matrices; i++) sum += n->matrices[i];
    return sum;
}

static uint64_t resident(const sg_residency_need *n, const sg_residency *r) {
    uint64_t sum = matrices_in_ram(n, r) + (r->predictors ? n->predictors : 0) + (r->embedding_away ? 0 : n->embedding);
    sum += r->n_expert_slots * n->expert_slots + r->n_expert_reads * n->expert_land;
    for (uint32_t i = 0; i < n->n_layer; i++) {
        const sg_bundle_layout *l = &n->layouts[i];
        sum += least(r->n_gates, l->n_clusters) * l->records_at + least(r->n_hot, l->n_clusters) * (l->cluster_bytes - l->records_at) +
               least(r->n_slots, (uint64_t)l->n_clusters * l->per_cluster) * n->slot_bytes;
    }
    return sum;
}

/* ---- one answer ---- */

static bool decide(model *m, uint64_t ram, sg_residency *r) {
    sg_error e = { 0 };
    m->need.ram = ram;
    const sg_status status = sg_residency_decide(&m->need, r, &e);
    must(status == SG_OK || status == SG_E_NOMEM, "%" PRIu64 " bytes: %s", ram, e.message);
    must((status == SG_OK) == (ram >= r->floor), "%" PRIu64 " bytes, floor %" PRIu64 ": %s", ram, r->floor, sg_status_str(status));
    if (status == SG_OK) return true;
    char want[64];
    snprintf(want, sizeof want, "at least %.1f MiB are needed", (double)r->floor / (double)MIB);
    must(strstr(e.message, want), "\"%s\" lacks \"%s\"", e.message, want);
    must(r->away == NULL, "a refusal leaves memory behind");
    sg_residency_finish(r);
    return false;
}

/* Experts: landing areas that are needed, those that are of use, slots with the rest, and nothing for them before all matrices have their place. */
static void check_experts(const sg_residency_need *n, const sg_residency *r) {
    if (n->n_expert_layer == 0) {
        must(r->n_expert_slots == 0 && r->n_expert_reads == 0, "%u slots, %u areas for no experts", r->n_expert_slots, r->n_expert_reads);
        return;
    }
    const uint64_t needed = n->experts_together && n->n_expert_used > 2 ? n->n_expert_used : 2;
    must(r->n_expert_reads >= needed && r->n_expert_reads <= (needed > n->n_expert ? needed : n->n_expert), "%u areas of %" PRIu64 " to %u", r->n_expert_reads,
         needed, n->n_expert);
    must(n->experts_together || r->n_expert_reads <= 2 * n->n_expert_used, "%u areas for %u experts of a token", r->n_expert_reads, n->n_expert_used);
    must(r->n_expert_slots <= n->n_expert, "%u slots for %u experts", r->n_expert_slots, n->n_expert);
    uint64_t away = 0, largest = 0;
    for (uint32_t i = 0; i < n->n_matrices; i++) {
        away += r->away[i];
        if (r->away[i] && n->matrices[i] > largest) largest = n->matrices[i];
    }
    const uint64_t rest = r->n_expert_slots * n->expert_slots + (r->n_expert_reads - needed) * n->expert_land;
    must(away == 0 || rest <= 2 * largest, "%" PRIu64 " bytes for experts, and a matrix of %" PRIu64 " is away", rest, largest);
    const uint64_t slot = n->expert_slots + n->n_expert_layer * 64;
    must(r->n_expert_slots == n->n_expert || n->ram - r->used < slot, "%" PRIu64 " bytes are left, a slot takes %" PRIu64, n->ram - r->used, slot);
    must(r->n_expert_slots == n->n_expert || 8 * (r->n_expert_reads - needed) * n->expert_land <= rest + slot, "%u areas, and only %u slots",
         r->n_expert_reads, r->n_expert_slots);
    must(r->away_bytes >= (n->n_expert - r->n_expert_slots) * n->expert_slots, "experts that are away do not count");
}

/* What a budget that is not enough for all must hold to. */
static void check_streams(const model *m, const sg_residency *r) {
    const sg_residency_need *n = &m->need;
    const uint64_t room = largest_room(n), cluster = n->n_layer ? sg_belt_room(cluster_bytes(n)) : 0;
    must(r->ring >= RING_ITEMS * room, "a ring of %zu bytes for items of %" PRIu64, r->ring, room);
    must(r->embedding_away == (n->embedding > 0), "the embedding table goes first");
    must(!n->keep_predictors || r->predictors, "predictors that are needed are away");
    must(n->by_neurons || n->keep_predictors || !r->predictors, "predictors for layers that leave nothing out");
    uint64_t clusters = 0, hot = 0, places = 0;
    for (uint32_t i = 0; i < n->n_layer; i++) {
        const sg_bundle_layout *l = &n->layouts[i];
        if (l->n_clusters > clusters) clusters = l->n_clusters;
        if (l->cluster_bytes - l->records_at > hot) hot = l->cluster_bytes - l->records_at;
        if (l->n_clusters * l->per_cluster > places) places = l->n_clusters * l->per_cluster;
    }
    must(r->n_hot <= r->n_gates && r->n_gates <= clusters, "%u hot clusters, %u gate parts of %" PRIu64, r->n_hot, r->n_gates, clusters);
    must(r->n_slots <= places, "%u slots for %" PRIu64 " neurons", r->n_slots, places);
    if (n->n_layer && n->by_neurons) must(r->n_slots >= least(32, places), "%u slots are too few", r->n_slots);
    if (r->round) {
        must(r->round * (uint64_t)sg_belt_room(hot) + sg_belt_room(hot) <= r->ring, "%u clusters at a time do not fit", r->round);
        must(n->by_neurons || r->ring <= 48 * MIB || r->ring == RING_ITEMS * room, "a large ring that holds no layer");
    } else if (n->n_layer) {
        must((clusters - r->n_hot + 1) * cluster <= r->ring, "the belt cannot hold a layer, and there is no round");
    }
    must(r->n_fetches >= 2 && r->n_fetches <= 65535, "%u reads at a time", r->n_fetches);
    /* what it says of itself, and what it comes to */
    must(r->used <= n->ram, "%" PRIu64 " bytes used of %" PRIu64, r->used, n->ram);
    const uint64_t sum = fixed(n) + r->ring + r->overhead + resident(n, r);
    must(sum <= r->used, "%" PRIu64 " bytes needed, %" PRIu64 " said", sum, r->used);
    uint64_t away = n->embedding;
    for (uint32_t i = 0; i < n->n_matrices; i++) away += r->away[i] ? n->matrices[i] : 0;
    must(r->away_bytes >= away, "%" PRIu64 " bytes away, %" PRIu64 " said", away, r->away_bytes);
    check_experts(n, r);
}

/* ---- tests ---- */

/* Budgets in order: small steps where something changes, from nothing to more than all. */
static uint64_t next_budget(uint64_t ram, uint64_t floor, uint64_t all) {
    const uint64_t marks[] = { floor, all }, step = 1 + all / 1500;
    uint64_t next = ram + step;
    for (int i = 0; i < 2; i++) {
        if (ram + 20 < marks[i] && next + 20 >= marks[i]) next = marks[i] - 20;
        else if (ram + 21 > marks[i] && ram < marks[i] + 20) next = ram + 1;
    }
    return next;
}

START_TEST(all_budgets) {
    model *m = make(_i);
    const sg_residency_need *n = &m->need;
    sg_residency r;
    const uint64_t all = fixed(n) + weights(n), room = largest_room(n);
    uint64_t before = 0, said = 0, largest = 0, worst = 0, in_parts = 0, floor;
    uint32_t slots = 0, reads = 0; /* of experts, with a smaller budget */
    bool most = false;             /* all matrices are in RAM */
    for (uint32_t i = 0; i < n->n_matrices; i++)
        if (n->matrices[i] > largest) largest = n->matrices[i];
    ck_assert(!decide(m, 0, &r));
    floor = r.floor;
    ck_assert(floor > 0 && floor <= all);
    for (uint64_t ram = 1; ram < all + all / 4; ram = next_budget(ram, floor, all)) {
        const bool good = decide(m, ram, &r);
        must(r.floor == floor, "the floor moves from %" PRIu64 " to %" PRIu64, floor, r.floor);
        if (!good) continue;
        must(r.streams == (ram < all), "%s: %" PRIu64 " bytes of %" PRIu64, names[_i], ram, all);
        if (!r.streams) {
            must(r.used == all && r.away == NULL && (r.predictors || !n->predictors), "%" PRIu64 " bytes used of %" PRIu64, r.used, all);
            continue;
        }
        check_streams(m, &r);
        const uint64_t now = resident(n, &r) + r.ring;
        if (now < before && before - now > worst) worst = before - now;
        if (now > before) before = now;
        if (r.used > said) said = r.used;
        /* A landing area more may cost slots, else nothing does once the matrices have their place. */
        must(r.n_expert_reads >= reads || !most, "%u areas, and %u with less", r.n_expert_reads, reads);
        const uint64_t dearer = n->n_expert_layer ? (r.n_expert_reads - reads) * (n->expert_land + 65536) / n->expert_slots : 0;
        must(!most || r.n_expert_slots + (r.n_expert_reads > reads ? dearer + 1 : 0) >= slots, "%u slots, %u areas; with less %u, %u", r.n_expert_slots,
             r.n_expert_reads, slots, reads);
        most = matrices_in_ram(n, &r) == in_matrices(n);
        slots = r.n_expert_slots;
        reads = r.n_expert_reads;
        in_parts++;
        sg_residency_finish(&r);
        ck_assert_ptr_null(r.away);
    }
    /* Tiny models need less as a whole than in parts. What is lost by a step up: one matrix goes for another one, one gate part or one
     * slot of every layer, the belt by an item of the largest. */
    ck_assert_int_eq(in_parts > 0, _i != TINY && _i != TINY_CLUSTERS && _i != EXPERTS_TINY);
    const uint64_t may = largest + n->n_layer * (cluster_bytes(n) + n->slot_bytes) + room + n->expert_slots + n->expert_land;
    ck_assert_msg(worst <= may, "%s: %" PRIu64 " bytes fewer for more budget, %" PRIu64 " may be", names[_i], worst, may);
    printf("%-24s floor %8.1f of %8.1f MiB, %4" PRIu64 " budgets, most lost by a step %.2f MiB\n", names[_i], (double)floor / (double)MIB,
           (double)all / (double)MIB, in_parts, (double)worst / (double)MIB);
    free(m);
}
END_TEST

/* Every budget of a model of a few matrices, byte by byte where a matrix fits or does not. */
START_TEST(to_the_byte) {
    static const uint64_t some[][4] = { { 1, 0, 0, 0 }, { 5, 3, 8, 2 }, { 1000, 1, 1000, 1 }, { 7, 7, 7, 7 }, { 0, 90, 0, 5 } };
    model *m = make(DENSE);
    sg_residency r;
    m->need.embedding = 10 * MIB; /* so that it is worth going in parts */
    m->need.largest_item = 1;
    for (size_t k = 0; k < sizeof some / sizeof *some; k++) {
        m->need.matrices = some[k];
        m->need.n_matrices = 4;
        uint64_t sum = 0;
        for (int i = 0; i < 4; i++) sum += some[k][i];
        ck_assert(!decide(m, 0, &r));
        const uint64_t floor = r.floor;
        for (uint64_t more = 0; more < sum + 5; more++) {
            ck_assert(decide(m, floor + more, &r));
            ck_assert(r.streams);
            check_streams(m, &r);
            const uint64_t stay = matrices_in_ram(&m->need, &r);
            must(stay <= more, "%" PRIu64 " bytes stay in %" PRIu64, stay, more);
            must(more < sum + 1 || stay == sum, "%" PRIu64 " bytes stay of %" PRIu64 ", %" PRIu64 " fit", stay, sum, more);
            sg_residency_finish(&r);
        }
    }
    free(m);
}
END_TEST

/* Numbers as large as they come, and larger. */
START_TEST(huge) {
    static const uint64_t budgets[] = { 0, 1, MIB, (uint64_t)1 << 40, (uint64_t)1 << 52, (uint64_t)1 << 60, UINT64_MAX - 1, UINT64_MAX };
    static const uint64_t sizes[] = { (uint64_t)1 << 33, (uint64_t)1 << 40, ((uint64_t)1 << 50) + 1, ((uint64_t)1 << 53) + 12345 };
    for (int part = 0; part < 7; part++)
        for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
            model *m = make(_i);
            sg_residency r;
            uint64_t *const to[] = { &m->need.kv, &m->need.buffers, &m->need.vectors, &m->matrices[0], &m->matrices[3], &m->need.expert_slots, &m->need.expert_land };
            if (part >= 5 && m->need.n_expert_layer == 0) {
                free(m);
                continue;
            }
            *to[part] = sizes[k];
            const uint64_t all = fixed(&m->need) + weights(&m->need);
            for (size_t b = 0; b < sizeof budgets / sizeof *budgets; b++) {
                if (!decide(m, budgets[b], &r)) continue;
                must(r.streams == (budgets[b] < all), "%" PRIu64 " bytes of %" PRIu64, budgets[b], all);
                if (r.streams) check_streams(m, &r);
                sg_residency_finish(&r);
            }
            for (uint64_t less = 1; less < all / 2; less *= 3) {
                if (!decide(m, all - less, &r)) continue;
                ck_assert(r.streams);
                check_streams(m, &r);
                sg_residency_finish(&r);
            }
            free(m);
        }
}
END_TEST

/* At the floor and a little above it, for many shapes. */
START_TEST(any_shape_at_its_floor) {
    static const uint32_t layers[] = { 1, 2, 30, 90, MOST_LAYERS }, sizes[] = { 32, 64, 576, 2048 }, pers[] = { 32, 64, 256 };
    uint32_t streams = 0;
    for (int i = 0; i < 5 * 4 * 3 * 2 * 2; i++) {
        model *m = make(UNEVEN);
        sg_residency r;
        m->need.n_layer = 0;
        m->need.slot_bytes = 0;
        m->need.largest_item = 8192;
        m->need.by_neurons = i / 120;
        add_layers(m, layers[i % 5], 1111, sizes[i / 5 % 4], pers[i / 20 % 3], i / 60 % 2, SG_DTYPE_Q8_0);
        ck_assert(!decide(m, 0, &r));
        const uint64_t floor = r.floor;
        ck_assert(!decide(m, floor - 1, &r));
        for (uint64_t more = 0; more < 64 * MIB; more += more / 2 + 1) {
            ck_assert(decide(m, floor + more, &r));
            if (r.streams) check_streams(m, &r);
            streams += r.streams;
            sg_residency_finish(&r);
        }
        free(m);
    }
    ck_assert_uint_gt(streams, 3000);
}
END_TEST

int main(void) {
    Suite *s = suite_create("residency");
    TCase *tc = tcase_create("budgets");
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, all_budgets, 0, MODELS);
    tcase_add_test(tc, to_the_byte);
    tcase_add_loop_test(tc, huge, 0, MODELS);
    tcase_add_test(tc, any_shape_at_its_floor);
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    const int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
