"""scripts/replay_cache.py: traces small enough to count by hand, the bounds that must hold on random ones, reading and recording.
Needs numpy, else skipped."""
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
from xml.etree import ElementTree

ROOT = pathlib.Path(os.environ.get("SG_SOURCE_ROOT", pathlib.Path(__file__).parents[2]))
SCRIPT = ROOT / "scripts" / "replay_cache.py"
sys.path.insert(0, str(ROOT / "scripts"))
sys.dont_write_bytecode = True
try:
    import numpy as np
except ImportError:
    print("numpy is missing")
    sys.exit(77)
import cache_chart  # noqa: E402
import cache_policies as p  # noqa: E402
import cache_rates as rates  # noqa: E402
import cache_trace as t  # noqa: E402
import replay_cache as r  # noqa: E402


def trace_of(steps, layers=1, units=8):
    """A trace from a list of sets, one for each step."""
    return t.Trace("made by hand", layers, units, [i for s in steps for i in s], [len(s) for s in steps])


def hits(cache, steps):
    """How many of each set were there."""
    trace = trace_of(steps, units=cache.units)
    following = np.split(trace.following(), trace.starts[1:-1])
    return [cache.touch(i, np.array(s, np.int64), f) for i, (s, f) in enumerate(zip(steps, following))]


def random_trace(seed, tokens=60, layers=3, units=24):
    """Units of uneven popularity, some kept from token to token; sets of 0 to 9."""
    rng = np.random.default_rng(seed)
    weight = rng.random(units) ** 3
    steps = []
    for step in range(tokens * layers):
        ids = set(rng.choice(units, rng.integers(6), replace=False, p=weight / weight.sum()))
        if step >= layers:
            ids |= {i for i in steps[step - layers] if rng.random() < 0.4}
        steps.append(sorted(ids)[:9])
    return trace_of(steps, layers, units)


class Counted(unittest.TestCase):
    def check(self, cache, text, want):
        """text: a letter for each unit, sets divided by blanks."""
        self.assertEqual(hits(cache, [[ord(c) - ord("a") for c in word] for word in text.split()]), want)

    def test_lru_and_fifo(self):
        self.check(p.Lru(8, 2), "a b a c a b", [0, 0, 1, 0, 1, 0])
        self.check(p.Fifo(8, 2), "a b a c a b", [0, 0, 1, 0, 0, 0])

    def test_sets(self):
        """a and b are pinned while c comes in; what does not fit is not kept."""
        self.check(p.Lru(8, 3), "abd abc d abc", [0, 2, 0, 2])
        self.check(p.Lru(8, 2), "abc abc abc", [0, 2, 2])

    def test_cliff(self):
        """A cycle longer than the cache never hits with LRU; the best without bypass keeps some, with bypass all but one."""
        cycle = "a b c " * 4
        self.assertEqual(sum(hits(p.Lru(8, 2), [[ord(c) - 97] for c in cycle.split()])), 0)
        self.check(p.Belady(8, 2), cycle, [0, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1])
        self.check(p.Belady(8, 1, bypass=True), "a ab b", [0, 1, 1])  # b takes the place of a when the layer is done
        self.check(p.Belady(8, 2, bypass=True), cycle, [0, 0, 0, 1, 1, 0, 1, 1, 0, 1, 1, 0])

    def test_clock(self):
        """a is marked, so the hand takes b, and a loses its mark; with marks to 3 it lasts two rounds."""
        self.check(p.Clock(8, 2), "a b a c a d c", [0, 0, 1, 0, 1, 0, 0])
        self.check(p.Clock(8, 2), "a b a c d a", [0, 0, 1, 0, 0, 0])
        self.check(p.Clock(8, 2, 3), "a b a a c d a", [0, 0, 1, 1, 0, 0, 1])

    def test_slru(self):
        """Two uses protect a from a scan, which LRU does not survive."""
        self.check(p.Slru(8, 3), "a a b c d e a", [0, 1, 0, 0, 0, 0, 1])
        self.check(p.Lru(8, 3), "a a b c d e a", [0, 1, 0, 0, 0, 0, 0])
        cache = p.Slru(16, 10)  # of nine used twice only eight stay protected: a falls back, before j comes
        self.check(cache, "a a b b c c d d e e f f g g h h i i j k a", [0, 1] * 9 + [0, 0, 0])

    def test_s3_fifo(self):
        """a, used twice more, moves on, used once more not; b leaves unused, and comes back to the main queue since it is remembered."""
        self.check(p.S3Fifo(8, 3), "a a b c d a", [0, 1, 0, 0, 0, 0])
        self.check(p.S3Fifo(8, 3), "a a a b c d e a b f g b", [0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 1])

    def test_lfu(self):
        self.check(p.Lfu(8, 2, 0), "a a a b c b a", [0, 1, 1, 0, 0, 0, 1])
        self.check(p.Lfu(8, 2, 0, bypass=True), "a a b b c b a c c b c", [0, 1, 0, 1, 0, 1, 1, 0, 0, 0, 1])
        aged = "a a a a b b c c c b"  # after the halvings the uses of a count less than two
        self.check(p.Lfu(8, 2, 0), aged, [0, 1, 1, 1, 0, 1, 0, 1, 1, 0])
        self.check(p.Lfu(8, 2, 2), aged, [0, 1, 1, 1, 0, 1, 0, 1, 1, 1])

    def test_tiny_lfu(self):
        self.check(p.TinyLfu(8, 1, 100), "a a b b b b a", [0, 1, 0, 0, 0, 1, 0])

    def test_decay(self):
        """With half lives of one token three uses long ago weigh less than one now; with long ones more."""
        text = "a a a b b c c c c a"
        self.check(p.Decay(8, 2, 1), text, [0, 1, 1, 0, 1, 0, 1, 1, 1, 0])
        self.check(p.Decay(8, 2, 1000), text, [0, 1, 1, 0, 1, 0, 1, 1, 1, 1])

    def test_decay_long(self):
        """The sums are scaled down before they overflow."""
        cache = p.Decay(8, 2, 1)
        for token in range(3000):
            cache.touch(token, np.array([token % 3]), np.array([0]))
        self.assertTrue(np.isfinite(cache.rank).all())
        self.assertEqual(int(cache.inside.sum()), 2)

    def test_hand(self):
        """The counters: a 8, b 4, c 4 when d comes; low is 0, so after a turn it becomes 4, and the hand takes b, then c."""
        cache = p.Hand(8, 3, 1000, 4)
        self.check(cache, "a a b c d", [0, 1, 0, 0, 0])
        self.assertEqual((cache.low, cache.looked, cache.evicted, cache.hand), (4, 3 + 2, 1, 2))
        self.assertEqual(np.flatnonzero(cache.inside).tolist(), [0, 2, 3])
        cache.touch(5, np.array([4]), np.array([0]))
        self.assertEqual(np.flatnonzero(cache.inside).tolist(), [0, 3, 4])

    def test_hand_counters(self):
        """Halved every two tokens, never above the highest; slack lets it take what is nearly the lowest."""
        cache = p.Hand(8, 2, 2, 100)
        hits(cache, [[0], [0], [0], [0, 1], [0], [1]])
        self.assertEqual(cache.count[:2].tolist(), [(255 >> 1) + 100, (100 >> 1) + 100])
        cache = p.Hand(8, 2, 4, 4)
        hits(cache, [[0], [1], [2], [3], [4]])
        self.assertEqual((cache.low, cache.count[:5].tolist()), (2, [2, 2, 2, 2, 4]))
        exact, loose = p.Hand(8, 2, 1000, 4), p.Hand(8, 2, 1000, 4, slack=4)
        for cache, left in ((exact, [0, 2]), (loose, [1, 2])):
            hits(cache, [[0], [0], [1], [2]])
            self.assertEqual(np.flatnonzero(cache.inside).tolist(), left)

    def test_hand_bypass(self):
        """A unit used once does not replace one used once; the second time it does."""
        self.check(p.Hand(8, 1, 1000, 4, fresh=0), "a b b b a", [0, 0, 0, 1, 0])

    def test_hand_fresh(self):
        """`low` is 8. With one new unit to a set: 5, then 6, which has 8 and 4 has 4, then 7, which has 12, and so 8 is not kept."""
        for fresh, left in ((1 / 4, [3, 5, 6, 7]), (0, [1, 2, 3, 7]), (1, [4, 6, 7, 8])):
            cache = p.Hand(9, 4, 1000, 4, fresh=fresh)
            hits(cache, [[0, 1, 2, 3], [0, 1, 2, 3], [5, 6, 7], [4, 6, 7], [8, 7]])
            self.assertEqual(np.flatnonzero(cache.inside).tolist(), left)
        cache = p.Hand(9, 4, 1000, 4, fresh=1 / 4)  # in the end 7 and 8 have 12: 7 takes the last below that, 8 is one too many
        hits(cache, [[0, 1, 2, 3], [1, 2, 3], [1, 2, 3], [6, 7], [7, 8], [6, 8], [7, 8]])
        self.assertEqual((np.flatnonzero(cache.inside).tolist(), cache.low), ([1, 2, 3, 7], 12))

    def test_slots_look(self):
        """The coldest of the next two behind the hand: of a (32), b (16) and c (16) b goes for d, then the hand is at c, which goes for e."""
        cache = p.Slots(9, 3, 1000, 2)
        self.check(cache, "a a b c d", [0, 1, 0, 0, 0])
        self.assertEqual((cache.slot.tolist(), cache.hand), ([0, 3, 2], 2))
        cache.touch(5, np.array([4]), np.array([0]))
        self.assertEqual((cache.slot.tolist(), cache.hand), ([0, 3, 4], 1))
        cache = p.Slots(9, 2, 1000, 2)  # all are in use: a third finds no slot and is no hotter
        self.check(cache, "abc", [0])
        self.assertEqual(cache.heat[:4].tolist(), [16, 16, 0, 0])

    def test_slots_exact(self):
        """The coldest of all; of equals that used longest ago, then the first."""
        cache = p.Slots(9, 4, 1000, 0)
        self.check(cache, "a b c d c b", [0, 0, 0, 0, 1, 1])
        self.check(cache, "e", [0])
        self.assertEqual(cache.slot.tolist(), [4, 1, 2, 3])
        cache.last[[4, 3]] = 7, 6
        cache.touch(8, np.array([5]), np.array([0]))
        self.assertEqual(cache.slot.tolist(), [4, 1, 2, 5])
        cache.last[[4, 5]] = 8
        cache.touch(9, np.array([6]), np.array([0]))
        self.assertEqual(cache.slot.tolist(), [6, 1, 2, 5])
        cache = p.Slots(9, 2, 1000, 0)  # the third finds no slot and is hotter all the same; then it is the hottest and stays
        self.check(cache, "abc abc bc", [0, 2, 1])
        self.assertEqual(cache.heat[:4].tolist(), [32, 48, 48, 0])
        self.assertEqual(cache.slot.tolist(), [2, 1])
        cache = p.Slots(9, 2, 1000, 0, hottest_first=True)
        self.check(cache, "c c d abc", [0, 1, 0, 1])
        cache = p.Slots(9, 1, 1000, 0, hottest_first=True)
        cache.heat[2] = 100
        self.check(cache, "abc", [0])
        self.assertEqual(cache.slot.tolist(), [2])

    def test_slots_runs(self):
        """Heat is halved when a run begins, also where one cache serves several layers; never above 255."""
        cache = p.Slots(4, 2, 3, 0)
        for token in range(3):
            for _ in range(5):
                cache.touch(token, np.array([1]), np.array([0]))
            self.assertEqual(cache.heat[1], (80, 160, 80 + 80)[token])
        for token in range(3, 5):
            for _ in range(9):
                cache.touch(token, np.array([1]), np.array([0]))
        self.assertEqual(cache.heat[1], 255)

    def test_slots_as_the_program(self):
        """tests/unit/test_neuron_cache.c has the same sets and sums: what is replayed is what the program does."""
        for slots, exact, want in ((20, False, (1589, 2970208076)), (20, True, (1615, 2617773166)), (3, False, (341, 3735969173)),
                                   (3, True, (341, 3189681766))):
            cache = rates.policies()[rates.EXPERTS if exact else rates.NEURONS](64, slots, None, None)
            state, found, total = 7, 0, 0

            def rnd():
                nonlocal state  # xorshift64
                state ^= state << 13 & (1 << 64) - 1
                state ^= state >> 7
                state ^= state << 17 & (1 << 64) - 1
                return state
            for token in range(1, 501):
                pairs = [(rnd() % 64, rnd() % 64) for _ in range(6)]
                ids = sorted({(a * b // 64 + token // 100 * 10) % 64 for a, b in pairs})
                found += cache.touch(token, np.array(ids), None)
                for value in (cache.heat + cache.inside).tolist():
                    total = (total * 31 + value) % (1 << 32)
            self.assertEqual((found, total), want)

    def test_static(self):
        counts = np.array([5, 1, 9, 0, 0, 0, 0, 0])
        self.check(p.Static(8, 2, counts), "a b c a", [1, 0, 1, 1])
        self.check(p.Static(8, 2, counts, 0.5, p.Lru), "a b c b a c", [0, 0, 1, 1, 0, 1])


class Bounds(unittest.TestCase):
    def test_belady_is_best(self):
        """Nothing that starts empty hits more often, counted from the start; bypass is never worse."""
        made = {name: make for name, make in rates.policies().items() if "static" not in name}
        for seed in range(4):
            trace = random_trace(seed)
            trace.first = 0
            for slots, one in ((3, False), (10, False), (3, True), (10, True)):
                rate = {name: rates.replay(trace, make, slots, one)[0] for name, make in made.items()}
                with self.subTest(seed=seed, slots=slots, one=one):
                    self.assertEqual(max(rate.values()), rate["Belady, bypass"])
                    if slots == 10 or one:  # every set fits
                        self.assertEqual(max(v for k, v in rate.items() if "bypass" not in k and "Tiny" not in k), rate["Belady"])
                    self.assertGreater(rate["LRU"], 0)

    def test_belady_is_optimal(self):
        """Against a search through all that a cache of three could hold."""
        for seed in range(4):
            trace = random_trace(seed, tokens=14, layers=1, units=6)
            trace.first = 0
            for bypass in (False, True):
                states = {frozenset(): 0}
                for step in range(trace.tokens):
                    need = frozenset(trace.ids[trace.starts[step]:trace.starts[step + 1]].tolist()[:3])
                    new = {}
                    for held, count in states.items():
                        for kept in subsets(held | need, 3):
                            if bypass or need <= kept:
                                new[kept] = max(new.get(kept, 0), count + len(held & need))
                    states = new
                short = trace_of([trace.ids[trace.starts[i]:trace.starts[i + 1]].tolist()[:3] for i in range(trace.tokens)], units=6)
                got = sum(hits(p.Belady(6, 3, bypass), [short.ids[short.starts[i]:short.starts[i + 1]].tolist()
                                                        for i in range(short.tokens)]))
                self.assertEqual(got, max(states.values()), (seed, bypass))

    def test_pinned(self):
        """No policy evicts a unit of the set at hand, holds more than its slots, or keeps what it did not read."""
        for name, make in rates.policies().items():
            for seed, slots in ((1, 4), (2, 12)):
                trace = random_trace(seed, layers=1)
                cache = make(trace.units, slots, trace.uses(trace.first)[0], trace.uses(trace.tokens)[0])
                parts = [cache, cache.rest] if isinstance(cache, p.Static) and cache.rest else [cache]
                following = trace.following()
                for step in range(trace.tokens):
                    part = slice(trace.starts[step], trace.starts[step + 1])
                    before = np.any([c.inside for c in parts], axis=0)
                    got = cache.touch(step, trace.ids[part], following[part])
                    after = np.any([c.inside for c in parts], axis=0)
                    with self.subTest(policy=name, step=step):
                        self.assertEqual(got, before[trace.ids[part]].sum())
                        self.assertLessEqual(after.sum(), slots)
                        self.assertLessEqual(set(np.flatnonzero(after & ~before)), set(trace.ids[part]))
                        if name != "Belady, bypass":  # which chooses when the layer is done
                            self.assertTrue(after[trace.ids[part]][before[trace.ids[part]]].all())


def subsets(items, most):
    """All sets of up to `most` of them."""
    out = [frozenset()]
    for item in sorted(items):
        out += [s | {item} for s in out if len(s) < most]
    return out


class Traces(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def test_layers(self):
        """Layers have caches of their own, or share one; the first quarter is not counted."""
        trace = trace_of([[0], [0]] * 4 + [[1], [0]], layers=2)
        lru = rates.policies()["LRU"]
        self.assertEqual(trace.following().tolist(), [2, 3, 4, 5, 6, 7, t.NEVER, 9, t.NEVER, t.NEVER])
        self.assertEqual(rates.replay(trace, lru, 1, False)[0], 7 / 8)
        self.assertEqual(rates.replay(trace, lru, 1, True)[0], 7 / 8)
        self.assertEqual(trace.uses(5).tolist()[0][:2], [4, 1])

    def test_route(self):
        path = self.folder / "a.csv"
        rows = ["0,0,0,0,0,3,0.5,0,10", "0,0,0,0,1,1,0.5,0,10", "0,0,1,0,0,2,0.5,0,10", "0,0,0,1,0,0,1,0,10", "0,1,2,0,0,3,1,1,10",
                "0,1,2,1,0,2,1,1,10"]
        path.write_text("\n".join(["# route_trace v1", "# model=/x/m.gguf arch=a n_layer=2 n_expert=4 n_expert_used=2",
                                   "turn,phase,step,layer,slot,expert,weight,residency,expert_bytes", *rows]) + "\n", encoding="utf-8")
        trace = t.load(str(path))
        self.assertEqual((trace.name, trace.layers, trace.units, trace.tokens), ("m.gguf", 2, 4, 3))
        self.assertEqual(trace.ids.tolist(), [1, 3, 0, 2, 3, 2])
        self.assertEqual(trace.counts.tolist(), [2, 1, 1, 0, 1, 1])

        self.assertEqual((trace.bytes, trace.answer.tolist()), (None, [False, False, True]))
        self.assertEqual((trace.most.tolist(), trace.counted("all").sum(), trace.counted("answer").sum()), ([2, 1], 3, 1))
        sized = path.read_text(encoding="utf-8").replace("turn,", "# layer=0 expert_bytes=10 dense_bytes=0\n# layer=1 expert_bytes=30 "
                                                         "dense_bytes=0\nturn,", 1)
        path.write_text(sized, encoding="utf-8")
        self.assertEqual(t.load(str(path)).bytes.tolist(), [10, 30])
        path.write_text("turn,phase\n", encoding="utf-8")
        self.assertRaises(ValueError, t.load, str(path))

    def test_batched(self):
        """Tokens of a prompt together, those of an answer alone."""
        trace = t.Trace("made by hand", 2, 8, [0, 1, 0, 2, 3, 1, 4, 5, 0, 1, 2, 3], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], [5, 6],
                        [False, False, False, True, True, False])
        two = trace.batched(2)
        self.assertEqual(two.counts.tolist(), [1, 2, 1, 1, 1, 1, 1, 1, 1, 1])
        self.assertEqual(two.ids.tolist(), [0, 1, 2, 3, 1, 4, 5, 0, 1, 2, 3])
        self.assertEqual((two.answer.tolist(), two.first, two.bytes.tolist()), ([False, False, True, True, False], 0, [5, 6]))
        self.assertEqual(two.most.tolist(), [1, 1])
        self.assertEqual(trace.batched(9).counts.tolist(), [2, 2, 1, 1, 1, 1, 1, 1])
        self.assertEqual(trace.batched(1).ids.tolist(), trace.ids.tolist())

    def test_topics(self):
        ids = np.array(r.topic_ids(np.random.default_rng(1), 4000, 515, 64, 20))
        self.assertTrue((ids >= 0).all() and (ids < 515).all())
        stays = (ids[1:] % 64 == ids[:-1] % 64).mean()
        self.assertAlmostEqual(stays, 1 - 1 / 20 * 63 / 64, delta=0.015)

    def test_describe(self):
        active, kept, hottest, ever = r.describe(trace_of([[0, 1], [0, 2], [0, 2], [0, 5]], units=8))
        self.assertEqual((active, kept, hottest, ever), (0.25, 4 / 6, 6 / 8, 0.5))

    def test_programs(self):
        """Recorded twice the same; gates fire more often than neurons are active; the table is printed."""
        def run(*args):
            return subprocess.run([sys.executable, str(SCRIPT), *map(str, args)], capture_output=True, text=True, check=True).stdout
        model, ids = ROOT / "models" / "demo" / "stories-drelu-5M.gguf", self.folder / "ids"
        ids.write_text("1 434 410 286 261 364 497 623 713 316 261 600", encoding="utf-8")
        traces = []
        for i, touch in enumerate(("gate", "gate", "active")):
            path = self.folder / f"{i}.npz"
            run("record", model, path, "--ids", ids, "--window", 8, "--touch", touch)
            traces.append(t.load(str(path)))
        self.assertEqual((traces[0].tokens, traces[0].layers, traces[0].units), (12, 5, 1024))
        self.assertEqual(traces[0].ids.tolist(), traces[1].ids.tolist())
        self.assertGreater(traces[0].counts.sum(), 1.5 * traces[2].counts.sum())
        out = run("replay", self.folder / "2.npz", "--sizes", 50, "--only", "LRU$")
        self.assertIn("| Belady, bypass | ", out)
        self.assertRegex(out, r"\n\| LRU \| [0-9.]+ \([0-9.]+\) \| [0-9.]+ \([0-9.]+\) \| \|\n")
        self.assertIn("12 tokens, 5 layers of 1024 units", run("show", self.folder / "0.npz"))
        out = run("replay", self.folder / "2.npz", "--ram", "100K", "200K", "--expert-bytes", 100, "--only", "^LRU$", "--drive", "1M",
                  "--count", "all")
        self.assertRegex(out, r"Floor of a global LRU: 5 layers x \d+ used x 100 bytes = ")
        self.assertRegex(out, r"\n\| LRU \| global \| [0-9.]+ \([0-9.]+\), [0-9.]+/s \| [0-9.]+ \([0-9.]+\), [0-9.]+/s \|\n")
        bare = subprocess.run([sys.executable, str(SCRIPT), "replay", str(self.folder / "2.npz"), "--ram", "1G"], capture_output=True, text=True)
        self.assertEqual(bare.returncode, 1)
        self.assertIn("--expert-bytes", bare.stderr)
        for name, words in (("nowhere.csv", "No such file"), ("0.npz.csv", "no trace")):
            (self.folder / "0.npz.csv").write_text("turn\n1\n2\n", encoding="utf-8")
            gone = subprocess.run([sys.executable, str(SCRIPT), "show", str(self.folder / name)], capture_output=True, text=True)
            self.assertEqual((gone.returncode, words in gone.stderr), (1, True), gone.stderr)
        run("draw", self.folder / "a.svg", self.folder / "2.npz", "--expert-bytes", "1M", "--most", "1G")
        ElementTree.parse(self.folder / "a.svg")


class Bytes(unittest.TestCase):
    def test_sizes(self):
        self.assertEqual([rates.parse_size(x) for x in ("7", "2K", "3m", "2G", "1T")], [7, 2048, 3 << 20, 2 << 30, 1 << 40])
        for wrong in ("", "G", "2GB", "-1", "1.5G", "2X"):
            self.assertRaises(ValueError, rates.parse_size, wrong)

    def test_shares(self):
        """Equal bytes, what is over to the first; a layer without units gets nothing, none gets more than it has."""
        trace = trace_of([[0, 1], [2], [], [3]] * 3, layers=4)
        trace.bytes = np.array([10, 10, 0, 25])
        self.assertEqual(rates.shares(trace, 90), [3, 3, 0, 1])
        self.assertEqual(rates.shares(trace, 95), [4, 3, 0, 1])  # 10 are over
        self.assertEqual(rates.shares(trace, 84), [3, 2, 0, 1])
        self.assertEqual(rates.shares(trace, 10000), [8, 8, 0, 8])
        self.assertEqual(rates.floor(trace), (4, 10 + 10 + 10 + 25))
        self.assertEqual((rates.mean_bytes(trace), rates.pool(trace, 28)), (55 / 4, 2))

    def test_cliff(self):
        """Every token uses the same: a global LRU hits from all but what comes before in the set on; another never hits."""
        self.assertEqual(rates.cliff(trace_of([[0, 1], [2, 3], [4, 5]] * 4, layers=3)), 5)
        self.assertEqual(rates.cliff(trace_of([[0], [1], [2]], layers=1)), 0)
        trace = trace_of([[0, 1], [2, 3], [4, 5]] * 4, layers=3)
        lru = rates.policies()["LRU"]
        self.assertEqual([int(rates.run(trace, lru, n)[0].sum()) for n in (4, 5, 6)], [0, 9, 18])

    def test_rate(self):
        """One slot of two hits every time but the first, the other layer never: bytes count by layer, tokens by what is counted."""
        trace = trace_of([[0], [0], [0], [1]] * 2, layers=2)
        trace.bytes, lru = np.array([10, 40]), rates.policies()["LRU"]
        for which, percent, missed in (("all", 3 / 8, (10 + 40 * 4) / 4), ("warm", 3 / 6, 40)):
            got, speed = rates.rate(trace, lru, 100, False, which, 1000)
            self.assertAlmostEqual(got, 100 * percent)
            self.assertAlmostEqual(speed, 1000 / missed)
        trace.answer[:3] = False
        self.assertEqual(rates.rate(trace, lru, 100, False, "answer", 0)[0], 50)

    def test_picture(self):
        """One line for each of LINES and trace, the floor, and the marks that are within."""
        trace = random_trace(1)
        trace.bytes = np.array([rates.GIB // 16] * 3)
        drawn = cache_chart.lines(trace, 3 * rates.GIB, "warm")
        out = cache_chart.svg([drawn, drawn], 3 * rates.GIB)
        ElementTree.fromstring(out)
        self.assertEqual([out.count(f"<{x}") for x in ("polyline", 'path class="floor"', 'path class="mark"', 'path class="legend"')],
                         [2 * len(cache_chart.LINES), 2, 4, len(cache_chart.LINES)])
        self.assertIn(f"{rates.floor(trace)[1] / rates.GIB:.2f} GiB", out)
        best, lru = (dict(points) for points in (drawn[1][0], drawn[1][7]))
        self.assertTrue(all(best[size] >= lru[size] for size in lru))
        edge = rates.cliff(trace)
        hit = dict(drawn[1][8])
        self.assertTrue(all((y > 0) == (x * 16 >= edge) for x, y in hit.items()) and len(set(hit)) > 8)
        self.assertEqual(sum(abs(x * 16 - edge) < 0.01 for x in hit), 2)  # drawn on both sides


if __name__ == "__main__":
    unittest.main()
