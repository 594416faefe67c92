"""scripts/make_moe.py: the routes and the neurons of tiny models, as the program logs them; ids, keys, wrong arguments. Needs numpy, else
skipped. Seeds are fixed."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(os.environ.get("SG_SOURCE_ROOT", pathlib.Path(__file__).parents[2]))
SPARSEGEN = os.environ.get("SG_BIN", str(ROOT / "build" / "runtime" / "cli" / "sparsegen"))
SCRIPT = ROOT / "scripts" / "make_moe.py"
sys.path.insert(0, str(ROOT / "scripts"))
sys.dont_write_bytecode = True
try:
    import numpy as np
except ImportError:
    print("numpy is missing")
    sys.exit(77)
import cache_trace  # noqa: E402
import gguf_forward  # noqa: E402
import make_moe  # noqa: E402

TOKENS = 600


def make(*args):
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, args)], capture_output=True, text=True, check=False)


def same(a, b):
    """Share of the experts of a that b has too; both bool [..., experts]."""
    return (a & b).sum() / a.sum()


class MakeMoe(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.tmp = pathlib.Path(folder.name)
        self.path, self.ids_file = str(self.tmp / "tiny.gguf"), str(self.tmp / "tiny.ids")

    def made(self, shape, *args, kind="q4_0"):
        done = make(shape, kind, self.path, "--ids", TOKENS, self.ids_file, *args)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.ids = np.array([int(i) for i in pathlib.Path(self.ids_file).read_text().split()])
        self.assertEqual(len(self.ids), TOKENS)
        return gguf_forward.Gguf(self.path)

    def program(self, *args):
        done = subprocess.run([SPARSEGEN, *map(str, args)], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def routes(self):
        """Which experts the program used, bool [tokens, layers, experts]."""
        self.program("logits", "-m", self.path, "--tokens", " ".join(map(str, self.ids)), "-o", self.tmp / "logits", "--route-log", self.tmp / "r.csv")
        trace = cache_trace.read_route(self.tmp / "r.csv")
        table = np.zeros((trace.tokens, trace.layers, trace.units), bool)
        table[trace.steps // trace.layers, trace.steps % trace.layers, trace.ids] = True
        return table

    def test_routes(self):
        """The program takes the routes that embeddings and routers alone give, in the last layer too, whatever the type."""
        for shape, kind in (("tiny-qwen3moe", "q4_0"), ("tiny-qwen3moe", "q8_0"), ("tiny-smallthinker", "q4_0"), ("tiny-smallthinker", "f16")):
            with self.subTest(shape=shape, kind=kind):
                model = self.made(shape, "--layers", 6, kind=kind)
                got = self.routes()
                used = got.sum(2)
                self.assertEqual((used.min(), used.max()), (4, 4))
                x = np.concatenate([model.rows("token_embd.weight", i, 1) for i in self.ids])
                np.testing.assert_allclose(x[:, :32], 1, atol=1e-4)
                self.assertAlmostEqual(float((x ** 2).mean()), 1, delta=0.1)
                for layer in range(6):
                    scores = model.times(f"blk.{layer}.ffn_gate_inp.weight", x)
                    meant = scores > np.sort(scores, axis=1)[:, [-5]]
                    self.assertGreater(same(got[:, layer], meant), 0.9, layer)

    def test_pregate(self):
        """The pre-gate is the routers, and names nearly the routes that they take; without them exactly its own, whatever is in memory."""
        for shape in ("tiny-qwen3moe", "tiny-smallthinker"):
            with self.subTest(shape=shape):
                plain = self.made(shape, "--layers", 4)
                routers = np.concatenate([plain.rows(f"blk.{i}.ffn_gate_inp.weight", 0, make_moe.SHAPES[shape].experts) for i in range(4)])
                got = self.routes()
                model = self.made(shape, "--layers", 4, "--pregate")
                np.testing.assert_array_equal(model.rows("sparsegen.pregate.weight", 0, len(routers)), routers)
                np.testing.assert_array_equal(self.routes(), got)
                x = np.concatenate([model.rows("token_embd.weight", i, 1) for i in self.ids])
                x /= np.sqrt((x ** 2).mean(1, keepdims=True))
                scores = (x @ routers.T).reshape(len(x), 4, -1)
                self.assertGreater(same(got, scores > np.sort(scores, axis=2)[:, :, [-5]]), 0.9)
                model = self.made(shape, "--layers", 4, "--pregate-routes")
                self.assertEqual([name for name in model.tensors if "gate_inp" in name], [])
                own = self.routes()
                self.assertGreater(same(own, scores > np.sort(scores, axis=2)[:, :, [-5]]), 0.999)
                said = self.program("bench", "-m", self.path, "--ids", self.ids_file, "-p", 0, "-n", 60, "-r", 1, "--no-limits", "--stats").stderr
                self.assertNotIn("pre-gate", said)  # all is in memory

    def test_like_the_trace(self):
        """Uneven, steady within a topic, less so across topics; every layer chooses for itself. Bounds: of 32 experts by chance 12.5 %."""
        self.made("tiny-qwen3moe", "--layers", 8, "--topic-length", 60)
        got = self.routes()[:, 2:]  # the first layers choose nearly evenly
        topic = self.ids % 16
        near = same(got[:-1][topic[1:] == topic[:-1]], got[1:][topic[1:] == topic[:-1]])
        far = same(got[:-200][topic[200:] != topic[:-200]], got[200:][topic[200:] != topic[:-200]])
        self.assertTrue(0.45 < near < 0.62, near)
        self.assertTrue(0.2 < far < near - 0.12, (far, near))
        uses = -np.sort(-got.sum(0), axis=1)
        self.assertTrue(0.6 < uses[:, :8].sum() / uses.sum() < 0.85)
        self.assertLess(same(got[:, 1], got[:, 2]), 0.3)
        subtopic = self.ids // 16 % 8
        kept = [same(got[:-1][where], got[1:][where]) for where in ((topic[1:] == topic[:-1]) & (subtopic[1:] == subtopic[:-1]),
                                                                    (topic[1:] == topic[:-1]) & (subtopic[1:] != subtopic[:-1]))]
        self.assertGreater(kept[0], kept[1] + 0.08)

    def test_writers(self):
        """Nothing is added to the 32 values that stay 1, by no expert, and little to the others."""
        for kind in make_moe.sparse.KINDS:
            model = self.made("tiny-qwen3moe", kind=kind)
            for first in (0, 256, 31 * 256):
                rows = model.rows("blk.1.ffn_down_exps.weight", first, 256)
                self.assertEqual((np.abs(rows[:32]).max(), np.abs(rows[32:]).max(axis=1).min() > 0), (0, True), kind)
            rows = model.rows("blk.1.attn_output.weight", 0, 256)
            self.assertEqual(np.abs(rows[:32]).max(), 0)
            self.assertLess((rows ** 2).sum(1).mean(), 0.02)

    def test_first_layers(self):
        made = make_moe.Maker(make_moe.argparse.Namespace(type="q4_0", seed=1, active=0.4), make_moe.SHAPES["qwen3-30b-a3b"], 48)
        self.assertLess(made.gains[0], 0.6 * np.mean(made.gains[8:]))
        self.assertAlmostEqual(float(np.mean(made.gains[8:])), 1.03, delta=0.12)

    def test_neurons(self):
        """ReGLU neurons fire at the rate asked for, in the experts that tokens use."""
        for active, kind in ((0.4, "q4_0"), (0.1, "q4_0"), (0.4, "q8_0")):
            with self.subTest(active=active, kind=kind):
                self.made("tiny-smallthinker", "--active", active, "--expert-width", 256, kind=kind)
                binary = self.tmp / f"{kind}-{active}.bin"
                self.program("convert", self.path, "-o", binary, "--type", kind)
                said = self.program("bench", "-m", binary, "--ids", self.ids_file, "-p", 0, "-n", 200, "-r", 1, "--no-limits", "--stats")
                found = float(re.search(r"active ([\d.]+) %", said.stderr)[1]) / 100
                self.assertAlmostEqual(found, active, delta=0.03)

    def test_hot_neurons(self):
        """Within each expert some fire far more often than others, and not in the order of their rows."""
        shape = make_moe.SHAPES["tiny-smallthinker"]
        model = self.made("tiny-smallthinker", "--active", 0.2, "--expert-width", 256)
        x = np.concatenate([model.rows("token_embd.weight", i, 1) for i in range(0, shape.vocab, 4)])
        for expert in (0, 7, 15):
            rates = (x @ model.rows("blk.1.ffn_gate_exps.weight", 256 * expert, 256).T > 0).mean(0)
            self.assertAlmostEqual(float(rates.mean()), 0.2, delta=0.03)
            self.assertGreater(np.sort(rates)[::-1][:64].sum() / rates.sum(), 0.6)
            self.assertLess(abs(np.corrcoef(np.sort(rates), rates)[0, 1]), 0.2)

    def test_ids(self):
        shape = make_moe.SHAPES["qwen3-30b-a3b"]
        ids = np.array(make_moe.topic_ids(shape, 40000, 50, 3))
        self.assertEqual(list(ids[:100]), make_moe.topic_ids(shape, 100, 50, 3))
        self.assertNotEqual(list(ids[:100]), make_moe.topic_ids(shape, 100, 50, 4))
        self.assertTrue(0 <= ids.min() and ids.max() < shape.vocab and len(set(ids)) > 30000)
        for values, length in ((ids % 64, 50), (ids // 64 % 64, 2)):
            self.assertAlmostEqual((values[1:] != values[:-1]).mean() * length, 1 - 1 / 64, delta=0.1)
            self.assertEqual(len(set(values)), 64)

    def test_file(self):
        keys = self.made("tiny-smallthinker", "--layers", 3, "--experts", 8, "--active", 0.25, "--seed", 5).keys
        self.assertEqual(os.path.getsize(self.path) % 4096, 0)
        self.assertEqual([keys["smallthinker." + name] for name in ("block_count", "expert_count", "expert_used_count", "expert_gating_func")], [3, 8, 4, 2])
        self.assertEqual([keys["sparsegen.synthetic." + name] for name in ("topics", "subtopics", "active", "seed")], [16, 8, 0.25, "5"])
        self.assertIn("ynthetic", keys["general.description"])

    def test_sizes(self):
        """The real shapes have as many weights as their authors say, and all of them are listed."""
        for name, billions in (("qwen3-30b-a3b", 30.53), ("smallthinker-21b", 21.51)):
            s = make_moe.SHAPES[name]
            self.assertAlmostEqual(make_moe.base.count_weights(make_moe.list_tensors(s, s.layers, "q4_0")) / 1e9, billions, delta=0.02)

    def test_wrong_arguments(self):
        for args in (["--layers", 0], ["--experts", 3], ["--active", 0], ["--active", 1.5], ["--seed", -1], ["--ids", 0, self.ids_file],
                     ["--ids", "x", self.ids_file], ["--topic-length", 0.5], ["--expert-width", 40]):
            self.assertEqual(make("tiny-smallthinker", "q4_0", self.path, *args).returncode, 2, args)
        self.assertEqual(make("tiny-smallthinker", "q4_k", self.path).returncode, 2)
        done = make("tiny-smallthinker", "q4_0", self.path + "/no/such/folder")
        self.assertEqual(done.returncode, 1)
        self.assertIn("make_moe: cannot write", done.stderr)
        self.assertEqual(os.listdir(self.tmp), [])


if __name__ == "__main__":
    unittest.main()
