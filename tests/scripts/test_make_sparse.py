"""scripts/make_sparse.py: rates, overlaps and bytes of what it makes, by a forward pass in numpy that knows nothing of how they
were made. Needs numpy, else skipped. Seeds are fixed; the bounds are some four standard deviations wide."""
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(os.environ.get("SG_SOURCE_ROOT", pathlib.Path(__file__).parents[2]))
SCRIPT = ROOT / "scripts" / "make_sparse.py"
sys.path.insert(0, str(ROOT / "scripts"))
sys.dont_write_bytecode = True
try:
    import numpy as np
except ImportError:
    print("numpy is missing")
    sys.exit(77)
import gguf_forward  # noqa: E402
import make_sparse  # noqa: E402


def make(*args):
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, args)], capture_output=True, text=True, check=False)


class MakeSparse(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = str(pathlib.Path(folder.name) / "tiny.gguf")

    def made(self, *args, kind="q4_0", tokens=120):
        done = make("tiny", kind, self.path, "--rank", 64, *args)
        self.assertEqual(done.returncode, 0, done.stderr)
        layers = make_sparse.measure(self.path, tokens)
        self.assertEqual(len(layers), 2)
        return layers

    def test_rates(self):
        """Each type, both activations, few and many active neurons; in the second layer too."""
        for kind, act, active in (("q4_0", "drelu", 0.1), ("q8_0", "drelu", 0.03), ("f16", "relu", 0.1), ("q4_0", "relu", 0.5),
                                  ("q4_0", "drelu", 0.9)):
            with self.subTest(kind=kind, act=act, active=active):
                for layer in self.made("--active", active, "--act", act, kind=kind):
                    self.assertAlmostEqual(layer["active"], active, delta=0.05 * active + 0.002)
                    if act == "relu":
                        self.assertAlmostEqual(layer["gate"], layer["active"], delta=1e-3)
                    else:
                        said = gguf_forward.Gguf(self.path).keys["sparsegen.synthetic.gate_positive"]
                        self.assertGreater(said, active + 0.03)
                        self.assertAlmostEqual(layer["gate"], said, delta=0.05 * said)
                    self.assertAlmostEqual(layer["correlation"], 0.26, delta=0.06)

    def test_all_active(self):
        for layer in self.made("--active", 1):
            self.assertGreater(layer["active"], 0.999)

    def test_each_neuron(self):
        """Every neuron has its own bias: over many tokens the hottest quarter gives what was asked for, whatever it is."""
        for skew in (0.4, 0.8):
            self.made("--skew", skew, "--persistence", 0)
            model = gguf_forward.Forward(gguf_forward.Gguf(self.path))
            counts = []
            model.run(range(0, 512, 2), lambda i, gate, up, h: counts.append((h != 0).mean(0)))
            for rates in counts:
                self.assertAlmostEqual(make_sparse.share_of_hottest(rates), skew, delta=0.06)
                order = np.corrcoef(np.sort(rates), rates)[0, 1]
                self.assertLess(abs(order), 0.2)  # the neurons lie in random order

    def test_persistence(self):
        none, half, nearly = (self.made("--persistence", p)[1] for p in (0, 0.5, 0.95))
        self.assertAlmostEqual(none["same"], none["other"], delta=0.05)
        self.assertGreater(half["same"], half["other"] + 0.1)
        self.assertGreater(nearly["same"], half["same"] + 0.15)
        self.assertAlmostEqual(nearly["other"], none["other"], delta=0.08)

    def test_metadata(self):
        self.made("--active", 0.2, "--persistence", 0.25, "--seed", 7, "--act", "relu", tokens=4)
        keys = gguf_forward.Gguf(self.path).keys
        self.assertEqual(keys["sparsegen.ffn_activation"], "relu")
        self.assertAlmostEqual(keys["sparsegen.synthetic.active"], 0.2, places=6)
        self.assertAlmostEqual(keys["sparsegen.synthetic.gate_positive"], 0.2, places=4)
        self.assertAlmostEqual(keys["sparsegen.synthetic.persistence"], 0.25)
        self.assertEqual(keys["sparsegen.synthetic.rank"], 64)
        self.assertEqual(keys["sparsegen.synthetic.topics"], 64)
        self.assertIn("ynthetic", keys["general.description"])

    def test_stream_keeps_its_bias(self):
        """The first block of the stream is 1 in all embeddings, and no layer changes it."""
        for kind in make_sparse.KINDS:
            self.made(kind=kind, tokens=4)
            model = gguf_forward.Forward(gguf_forward.Gguf(self.path))
            stream = model.run([3, 300, 7], lambda *_: None)
            np.testing.assert_allclose(stream[:, :32], 1, atol=1e-4, err_msg=kind)
            self.assertAlmostEqual(float((stream[:, 32:] ** 2).mean()), 1, delta=0.3)

    def test_blocks_as_ggml(self):
        """quantise and unpack against vectors of an independent implementation (make_quant_vectors.py)."""
        raw, at, seen = (ROOT / "tests" / "data" / "quant_vectors.bin").read_bytes(), 0, set()
        names = {number: name for name, number in make_sparse.KINDS.items()}
        while at < len(raw):
            to_bytes, kind, n, size = struct.unpack_from("<4I", raw, at)
            values = np.frombuffer(raw, "<f4", n, at + 16)
            data = np.frombuffer(raw, np.uint8, size, at + 16 + 4 * n)
            at += 16 + 4 * n + size
            if kind in names:
                seen.add((kind, to_bytes))
                with np.errstate(all="ignore"):
                    if to_bytes:
                        got = make_sparse.quantise(names[kind], values.reshape(1, -1)).reshape(-1)
                        np.testing.assert_array_equal(got, data)
                    else:
                        np.testing.assert_array_equal(gguf_forward.unpack(data, kind), values)
        self.assertEqual(len(seen), 6)

    def test_wrong_arguments(self):
        for args in (["--active", 0], ["--active", 1.5], ["--rank", 0], ["--rank", 225], ["--skew", 0.1], ["--layers", 0],
                     ["--persistence", -1], ["--seed", -1]):
            self.assertEqual(make("tiny", "q4_0", self.path, *args).returncode, 2, args)
        self.assertEqual(make("tiny", "q4_k", self.path).returncode, 2)
        done = make("tiny", "q4_0", self.path + "/no/such/folder")
        self.assertEqual(done.returncode, 1)
        self.assertIn("make_sparse: cannot write", done.stderr)
        self.assertEqual(os.listdir(os.path.dirname(self.path)), [])


class Demo(unittest.TestCase):
    def test_demo_model(self):
        """The figures that make_sparse.py imitates, on the demo model; few tokens, so wide bounds."""
        model = gguf_forward.Forward(gguf_forward.Gguf(str(ROOT / "models" / "demo" / "stories-drelu-5M.gguf")))
        figures = []
        ids = [1, 434, 410, 286, 261, 364, 497, 623, 713, 316, 261, 600, 654, 1992, 282, 497, 286, 392, 391, 268, 517, 269, 345]
        model.run(ids, lambda i, *products: figures.append(gguf_forward.describe(*products)))
        self.assertEqual(len(figures), 5)
        for d in figures:
            self.assertTrue(0.08 < d["active"] < 0.25 and 0.3 < d["active_of_gate"] < 0.5, d)
            self.assertTrue(0.15 < d["correlation"] < 0.4, d)


if __name__ == "__main__":
    unittest.main()
