# SPDX-License-Identifier: MIT
"""Cache policies for replay_cache.py, written to be compared, not to be fast in C. Needs numpy.

A cache has `slots` places for some of `units` units. touch(token, ids, following) is one layer of one token: the set `ids`, without
doubles, is needed at once. It returns how many of them were there. Of the set none is evicted on behalf of another: it is pinned
until the layer is done. What does not fit is used once from a buffer beside the cache and forgotten. A policy with *bypass* does
so too with a missed unit that ranks no higher than what it would replace. `following`: the step at which each is needed again
(Belady only). Per-unit state is kept for absent units too: there are only so many neurons.
"""
import math
from collections import deque

import numpy as np


NONE = np.zeros(0, np.int64)


class Cache:
    """No policy: what every one of them has. Subclasses fill in note() and place()."""

    def __init__(self, units, slots):
        self.units, self.slots, self.used, self.step = units, slots, 0, 0
        self.inside, self.pinned = np.zeros(units, bool), np.zeros(units, bool)

    def touch(self, token, ids, following):
        self.step += 1
        here = self.inside[ids]
        self.note(token, ids, following, here)
        missed = ids[~here]
        if len(missed):
            self.pinned[ids] = True
            self.place(missed)
            self.pinned[ids] = False
        return len(ids) - len(missed)

    def note(self, token, ids, following, here):
        """All of the set, before anything is placed. here: which of them are inside."""

    def place(self, missed):
        """Bring in those of the missed units that are to be kept."""

    def put(self, new, old=NONE):
        self.inside[old] = False
        self.inside[new] = True
        self.used += len(new) - len(old)

    def fill(self, missed):
        """Free slots are filled; returns the rest."""
        n = min(self.slots - self.used, len(missed))
        self.put(missed[:n])
        return missed[n:]


class Ranked(Cache):
    """Evicts what has the lowest rank. Subclasses keep self.rank in note()."""
    pins = True

    def __init__(self, units, slots, bypass=False):
        super().__init__(units, slots)
        self.rank, self.bypass = np.zeros(units), bypass

    def place(self, missed):
        missed = missed[np.argsort(-self.rank[missed], kind="stable")]
        missed = self.fill(missed)
        old = np.flatnonzero(self.inside & ~self.pinned if self.pins else self.inside)
        n = min(len(missed), len(old))
        if n == 0:
            return
        if n < len(old):
            old = old[np.argpartition(self.rank[old], n - 1)[:n]]
        old, new = old[np.argsort(self.rank[old], kind="stable")], missed[:n]
        better = self.admitted(new, old)
        self.put(new[better], old[better])

    def admitted(self, new, old):
        return self.rank[new] > self.rank[old] if self.bypass else np.ones(len(new), bool)


class Belady(Ranked):
    """Evicts what is needed again last. With bypass: keeps the best of what was there and of the set, once the layer is done;
    nothing can hit more often."""

    def __init__(self, units, slots, bypass=False):
        super().__init__(units, slots, bypass)
        self.pins = not bypass

    def note(self, token, ids, following, here):
        self.rank[ids] = -following


class Fifo(Ranked):
    def note(self, token, ids, following, here):
        new = ids[~here]
        self.rank[new] = self.step + np.arange(len(new)) / self.units


class Lru(Ranked):
    def note(self, token, ids, following, here):
        self.rank[ids] = self.step + np.arange(len(ids)) / self.units


class Slru(Ranked):
    """Two LRU lists: a unit that is used again moves to the protected one (80 % of the slots), whose oldest fall back."""
    PROTECTED = 1e9

    def note(self, token, ids, following, here):
        order = self.step + np.arange(len(ids)) / self.units
        self.rank[ids] = order + here * self.PROTECTED
        safe = np.flatnonzero(self.inside & (self.rank >= self.PROTECTED))
        over = len(safe) - self.slots * 4 // 5
        if over > 0:
            old = safe[np.argpartition(self.rank[safe], over - 1)[:over]]
            self.rank[old] = self.step + (self.rank[old] - self.PROTECTED) / self.PROTECTED


class Lfu(Ranked):
    """Counts, halved every `every` tokens (0: never); of equals the one used longest ago goes."""

    def __init__(self, units, slots, every, bypass=False):
        super().__init__(units, slots, bypass)
        self.every, self.epoch, self.count, self.last = every, 0, np.zeros(units), np.zeros(units)

    def note(self, token, ids, following, here):
        if self.every and token // self.every > self.epoch:
            self.epoch = token // self.every
            self.count /= 2
            self.rank = self.count + self.last
        self.count[ids] += 1
        self.last[ids] = (self.step + np.arange(len(ids)) / self.units) * 1e-9
        self.rank[ids] = self.count[ids] + self.last[ids]


class TinyLfu(Lru):
    """LRU that lets a missed unit in only when its halved count (as in Lfu) is above that of the unit it would replace."""

    def __init__(self, units, slots, every):
        super().__init__(units, slots)
        self.every, self.epoch, self.count = every, 0, np.zeros(units)

    def note(self, token, ids, following, here):
        super().note(token, ids, following, here)
        if token // self.every > self.epoch:
            self.epoch = token // self.every
            self.count /= 2
        self.count[ids] += 1

    def admitted(self, new, old):
        return self.count[new] > self.count[old]


class Decay(Ranked):
    """Rank: sum of 2 ** (-age / half) over all uses, age in tokens (LRFU; Lee et al., 2001). Kept as sums that grow with time."""

    def __init__(self, units, slots, half, bypass=False):
        super().__init__(units, slots, bypass)
        self.half, self.base = half, 0

    def note(self, token, ids, following, here):
        if token - self.base > 500 * self.half:
            self.rank *= 2.0 ** ((self.base - token) / self.half)
            self.base = token
        self.rank[ids] += 2.0 ** ((token - self.base) / self.half)


class Clock(Cache):
    """A hand goes over the slots and takes the first unit whose mark is 0; of the others it takes 1 off. A hit adds 1, up to `most`;
    units come in with 0."""

    def __init__(self, units, slots, most=1):
        super().__init__(units, slots)
        self.mark, self.most, self.slot, self.hand = np.zeros(units, np.int64), most, np.zeros(slots, np.int64), 0

    def note(self, token, ids, following, here):
        self.mark[ids] = np.where(here, np.minimum(self.mark[ids] + 1, self.most), 0)

    def turn(self):
        """The slots in the order in which the hand will see them."""
        return np.concatenate([np.arange(self.hand, self.slots), np.arange(self.hand)])

    def replace(self, new, at):
        """Puts units into the slots `at`, the hand goes behind the last."""
        self.put(new, self.slot[at])
        self.slot[at] = new
        self.hand = int(at[-1] + 1) % self.slots

    def fill(self, missed):
        first = self.used
        rest = super().fill(missed)
        self.slot[first:self.used] = missed[:self.used - first]
        return rest

    def place(self, missed):
        missed = self.fill(missed)
        while len(missed):
            turn = self.turn()
            there = self.slot[turn]
            loose = ~self.pinned[there]
            ready = np.flatnonzero(loose & (self.mark[there] == 0))[:len(missed)]
            passed = there[:ready[-1] + 1 if len(ready) == len(missed) else self.slots]
            passed = passed[~self.pinned[passed]]
            self.mark[passed] = np.maximum(self.mark[passed] - 1, 0)
            if len(ready):
                self.replace(missed[:len(ready)], turn[ready])
                missed = missed[len(ready):]
            elif not loose.any():
                break


class Hand(Clock):
    """The cheap form of Decay: a counter of `bits` for every unit, present or not. A use adds `add`; every `every` tokens all are halved
    (lazily in C: shifting by the number of halvings since the counter was last looked at gives the same). The hand takes the first
    unit whose counter is not above `low`; only after a whole turn without one `low` becomes the lowest counter seen, plus `slack`.
    It is halved as the counters are. The missed units of a set come in by falling counters (256 buckets in C); those that are not above
    `low` only while fewer than `fresh`, a share of the slots, came in; the others cost no search. fresh 0: bypass, 1: none."""

    def __init__(self, units, slots, every, add, slack=0, fresh=1.0, bits=8):
        super().__init__(units, slots)
        self.count, self.low, self.slack, self.fresh = np.zeros(units, np.int64), 0, slack, math.ceil(fresh * slots)
        self.every, self.add, self.highest, self.epoch = every, add, (1 << bits) - 1, 0
        self.looked = self.evicted = 0  # slots that the hand looked at, units that it took

    def note(self, token, ids, following, here):
        if token // self.every > self.epoch:
            self.epoch = token // self.every
            self.count >>= 1
            self.low >>= 1
        self.count[ids] = np.minimum(self.count[ids] + self.add, self.highest)

    def place(self, missed):
        missed = self.fill(missed)
        missed, fresh = missed[np.argsort(-self.count[missed], kind="stable")], self.fresh
        while len(missed):
            missed = missed[:max(fresh, int((self.count[missed] > self.low).sum()))]
            turn = self.turn()
            there = self.slot[turn]
            loose = ~self.pinned[there]
            if not len(missed) or not loose.any():
                break
            ready = np.flatnonzero(loose & (self.count[there] <= self.low))[:len(missed)]
            self.looked += int(ready[-1]) + 1 if len(ready) == len(missed) else self.slots
            self.evicted += len(ready)
            if len(ready):
                self.replace(missed[:len(ready)], turn[ready])
                fresh = max(0, fresh - len(ready))
                missed = missed[len(ready):]
            else:
                self.low = int(self.count[there][loose].min()) + self.slack


class Slots(Cache):
    """What neuron_engine/neuron_cache.c does, use for use: heat of every unit, 16 more for a use, 255 at most, halved every `every`
    runs; a unit that is missed takes the slot of the coldest of the next `look` that may go behind a hand. look 0 (`exact` there): of
    all that may go the coldest, of equals that used longest ago, then the first; heat grows without a slot, too. What is used in
    this run may not go. Missed units come in ascending order; hottest_first: by falling heat."""
    USE, MOST = 16, 255

    def __init__(self, units, slots, every=32, look=8, hottest_first=False):
        super().__init__(units, slots)
        self.every, self.look, self.hottest_first, self.runs, self.token = every, look, hottest_first, 0, -1
        self.heat, self.last = np.zeros(units, np.int64), np.full(units, -1)
        self.slot, self.hand = np.zeros(slots, np.int64), 0

    def warm(self, ids):
        self.heat[ids] = np.minimum(self.heat[ids] + self.USE, self.MOST)

    def note(self, token, ids, following, here):
        if token != self.token:  # with one cache for all layers a run begins at the first
            self.token, self.runs = token, self.runs + 1
            if self.runs == self.every:
                self.runs = 0
                self.heat //= 2
        self.last[ids[here]] = token
        self.warm(ids[here])

    def place(self, missed):
        if self.hottest_first:
            missed = missed[np.argsort(-self.heat[missed], kind="stable")]
        first = self.used
        rest = self.fill(missed)
        self.slot[first:self.used] = missed[:self.used - first]
        at = self.coldest(len(rest)) if self.look == 0 else self.behind_hand(len(rest))
        new = rest[:len(at)]
        self.put(new, self.slot[at])
        self.slot[at] = new
        self.last[missed] = self.token
        self.warm(missed if self.look == 0 else missed[:len(missed) - len(rest) + len(at)])

    def coldest(self, n):
        there = self.slot[:self.used]
        loose = np.flatnonzero(~self.pinned[there])
        return loose[np.lexsort((self.last[there[loose]], self.heat[there[loose]]))[:n]]

    def behind_hand(self, n):
        heat, loose, taken = self.heat[self.slot].tolist(), (~self.pinned[self.slot]).tolist(), []
        for _ in range(n):
            seen = good = 0
            best, least = None, self.MOST + 1
            while seen < self.slots and good < self.look:
                at, self.hand, seen = self.hand, (self.hand + 1) % self.slots, seen + 1
                good += loose[at]
                if loose[at] and heat[at] < least:
                    best, least = at, heat[at]
            if best is None:
                break
            loose[best] = False  # what comes into it is used in this run
            taken.append(best)
        return np.array(taken, np.int64)


class S3Fifo(Cache):
    """Yang et al., 2023: a small queue (10 %), a main one, and a list of what left the small one unused, as long as the main one."""

    def __init__(self, units, slots):
        super().__init__(units, slots)
        self.small, self.main, self.uses = deque(), deque(), np.zeros(units, np.int8)
        self.target = max(1, slots // 10)
        self.left, self.gone = np.full(units, -(1 << 40)), 0  # the how manieth to leave the small queue

    def note(self, token, ids, following, here):
        self.uses[ids] = np.where(here, np.minimum(self.uses[ids] + 1, 3), 0)

    def evict_small(self):
        for _ in range(len(self.small)):
            u = self.small.popleft()
            if self.pinned[u]:
                self.small.append(u)
            elif self.uses[u] > 1:
                self.uses[u] = 0
                self.main.append(u)
            else:
                self.gone += 1
                self.left[u] = self.gone
                return u
        return None

    def evict_main(self):
        for _ in range(4 * len(self.main)):
            u = self.main.popleft()
            if not self.pinned[u] and self.uses[u] == 0:
                return u
            if not self.pinned[u]:
                self.uses[u] -= 1
            self.main.append(u)
        return None

    def place(self, missed):
        for u in missed.tolist():
            remembered = self.gone - self.left[u] < self.slots - self.target
            if self.used == self.slots:
                first, second = (self.evict_small, self.evict_main)[::1 if len(self.small) >= self.target else -1]
                old = first()
                old = second() if old is None else old
                old = self.evict_main() if old is None else old  # the small queue may have moved all of it to the main one
                if old is None:
                    return
                self.put(NONE, [old])
            (self.main if remembered else self.small).append(u)
            self.put([u])


class Static(Cache):
    """The units with the highest counts, for good; the other slots, if any, are a cache of their own, made by rest(units, slots)."""

    def __init__(self, units, slots, counts, share=1.0, rest=None):
        super().__init__(units, slots)
        fixed = min(round(slots * share), units)
        self.put(np.argsort(-counts, kind="stable")[:fixed])
        self.rest = rest(units, slots - fixed) if rest and fixed < slots else None

    def touch(self, token, ids, following):
        here = self.inside[ids]
        hits = int(here.sum())
        return hits + self.rest.touch(token, ids[~here], following[~here]) if self.rest else hits
