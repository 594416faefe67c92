"""scripts/bench_sparse.py against stand-ins for sparsegen and llama.cpp that answer at once with made-up speeds: what is called, in which
order, and what is computed from the answers. Nothing is timed."""
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

ROOT = pathlib.Path(os.environ.get("SG_SOURCE_ROOT", pathlib.Path(__file__).parents[2]))
SCRIPT = ROOT / "scripts" / "bench_sparse.py"

# Stands in for sparsegen and for the Python that runs make_sparse.py and llama_cpp_bench.py.
STAND_IN = """#!{python}
import json, os, shutil, sys
folder, args = os.path.dirname(os.path.abspath(__file__)), sys.argv[1:]
with open(folder + "/calls", "a") as f:
    f.write(json.dumps(args) + "\\n")
line = " ".join(args)
if "--versions" in args:
    print(json.dumps({{"llama.cpp": "stand-in"}}))
elif args == ["--version"]:
    print("sparsegen stand-in")
elif "make_sparse.py" in line:
    shutil.copy(folder + "/ready.gguf", args[3])
elif args[0] == "convert":
    shutil.copy(folder + "/ready.bin", args[3])
elif args[0] == "calibrate":
    words = open(args[args.index("-f") + 1]).read().split()
    sys.exit(0 if len(words) == 50 and os.path.exists(args[2]) else 1)
elif "--limits-only" in args:
    row = {{"limit_" + name: 1e9 for name in ("read", "read_plain", "read_median", "int8", "int8_sum", "f32")}}
    print(json.dumps([{{"test": "limits", **row}}]))
else:
    speeds = json.load(open(folder + "/speeds"))
    run = ("llama.cpp" if "llama_cpp_bench.py" in line else "predicted" if "--lossy" in args else "forced" if "--ffn" in args
           else "dense" if line.count(".gguf") else "lossless")
    speed = speeds[run].pop(0)
    json.dump(speeds, open(folder + "/speeds", "w"))
    if speed < 0:
        sys.exit("the stand-in fails")
    print(json.dumps([{{"test": "tg8", "tokens": 8, "seconds": 8 / speed, "kv_bytes_per_token": 1000}}]))
"""


def text(words):
    return struct.pack("<Q", len(words)) + words.encode()


def write_gguf(path, tensors, **said):
    """A GGUF file without data: tensors name to (dimensions, number of the type); said: keys sparsegen.synthetic.*."""
    pairs = [text("sparsegen.synthetic." + key) + struct.pack("<If", 6, value) for key, value in said.items()]
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs)
    for name, (dims, kind) in tensors.items():
        out += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, 0)
    path.write_bytes(out)


DENSE = {"token_embd.weight": ((32, 100), 2), "blk.0.attn_norm.weight": ((32,), 0), "blk.0.attn_q.weight": ((32, 32), 2),
         "blk.0.attn_output.weight": ((32, 32), 8), "blk.0.ffn_norm.weight": ((32,), 0), "blk.0.ffn_gate.weight": ((32, 64), 2),
         "blk.0.ffn_up.weight": ((32, 64), 2), "blk.0.ffn_down.weight": ((64, 32), 8), "output_norm.weight": ((32,), 0),
         "output.weight": ((32, 100), 2)}
BIN = {"blk.0.ffn_bundle": ((4096, 2), 24), "blk.0.ffn_pred_a": ((32, 4), 1), "blk.0.ffn_pred_b": ((4, 64), 1)}
REST = 32 * 18 + 32 * 34 + 100 * 18 + 1000           # attention, output matrix, KV cache
GATE, UP, DOWN = 64 * 18, 64 * 18, 64 * 34
UP_DOWN = UP + DOWN
PREDICTOR = 2 * (32 * 4 + 4 * 64)


class BenchSparse(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.tmp = pathlib.Path(folder.name)
        self.tool = self.tmp / "tool"
        self.tool.write_text(STAND_IN.format(python=sys.executable))
        self.tool.chmod(0o755)
        write_gguf(self.tmp / "ready.gguf", DENSE, active=0.25, gate_positive=0.5)
        write_gguf(self.tmp / "ready.bin", BIN)

    def run_script(self, speeds, *args):
        (self.tmp / "speeds").write_text(json.dumps(speeds))
        (self.tmp / "calls").write_text("")
        done = subprocess.run([sys.executable, "-B", str(SCRIPT), "--sparsegen", str(self.tool), "--python", str(self.tool), "--threads",
                               "2", "--decode", "8", "--json", str(self.tmp / "out.json"), *map(str, args)],
                              capture_output=True, text=True, check=False)
        calls = [json.loads(line) for line in (self.tmp / "calls").read_text().splitlines()]
        return done, calls

    def both(self):
        return "--gguf", self.tmp / "ready.gguf", "--bin", self.tmp / "ready.bin"

    def test_table(self):
        speeds = {"dense": [10, 30, 20], "llama.cpp": [8, 10, 12], "lossless": [50, 40, 60], "predicted": [80, 80, 70],
                  "forced": [20, 20, 20]}
        done, calls = self.run_script(speeds, *self.both(), "--repeat", 3, "--recall", 0.95)
        self.assertEqual(done.returncode, 0, done.stderr)
        runs = json.loads((self.tmp / "out.json").read_text())["results"][0]["runs"]
        self.assertEqual({name: run["median"] for name, run in runs.items()},
                         {"dense": 20, "llama.cpp": 10, "lossless": 50, "predicted": 80, "forced": 20})
        need = {name: run["bytes"] for name, run in runs.items()}
        self.assertEqual(need, {"dense": REST + GATE + UP_DOWN, "llama.cpp": REST + GATE + UP_DOWN, "forced": REST + GATE + UP_DOWN,
                                "lossless": REST + GATE + UP / 2 + DOWN / 4, "predicted": REST + PREDICTOR + (GATE + UP_DOWN) / 4})
        self.assertAlmostEqual(runs["lossless"]["share"], 50 * need["lossless"] / 1e9)
        rows = {line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]] for line in done.stdout.splitlines()
                if line.startswith("|")}
        self.assertEqual(rows["lossless"][:3], ["50.00 (40.00-60.00)", "2.50", "5.00"])
        self.assertEqual(rows["llama.cpp"][1:3], ["0.50", "1.00"])
        measured = [" ".join(map(str, call)) for call in calls if "-m" in call]
        self.assertEqual(len(measured), 15)
        for turn in range(3):  # A B C D E A B C D E ...
            one = measured[5 * turn:5 * turn + 5]
            self.assertTrue(one[0].startswith("bench --no-limits") and "ready.gguf" in one[0], one)
            self.assertIn("llama_cpp_bench.py", one[1])
            self.assertTrue("ready.bin" in one[2] and "--lossy" not in one[2] and "--ffn" not in one[2], one)
            self.assertTrue("ready.bin" in one[3] and "--lossy predict=0.95" in one[3], one)
            self.assertTrue("ready.bin" in one[4] and "--ffn dense" in one[4], one)
            self.assertTrue(all("-p 0 -n 8 -t 2 -r 1 -o json" in call for call in one), one)
        self.assertEqual(sum("--limits-only" in call for call in calls), 4)

    def test_active_is_asked_for(self):
        write_gguf(self.tmp / "ready.gguf", DENSE)
        done, _ = self.run_script({}, *self.both())
        self.assertEqual(done.returncode, 1)
        self.assertIn("give --active", done.stderr)
        done, _ = self.run_script({"lossless": [1]}, *self.both(), "--active", 0.5, "--repeat", 1, "--runs", "lossless")
        self.assertEqual(done.returncode, 0, done.stderr)
        run = json.loads((self.tmp / "out.json").read_text())["results"][0]["runs"]["lossless"]
        self.assertEqual(run["bytes"], REST + GATE + UP_DOWN / 2)
        done, _ = self.run_script({"lossless": [1]}, *self.both(), "--active", 0.5, "--gate-fires", 0.75, "--repeat", 1, "--runs", "lossless")
        self.assertEqual(done.returncode, 0, done.stderr)
        run = json.loads((self.tmp / "out.json").read_text())["results"][0]["runs"]["lossless"]
        self.assertEqual(run["bytes"], REST + GATE + UP * 3 / 4 + DOWN / 2)

    def test_tied_embeddings(self):
        write_gguf(self.tmp / "ready.gguf", {name: t for name, t in DENSE.items() if name != "output.weight"}, active=0.25)
        done, _ = self.run_script({"dense": [1]}, "--gguf", self.tmp / "ready.gguf", "--repeat", 1, "--runs", "dense")
        self.assertEqual(done.returncode, 0, done.stderr)
        run = json.loads((self.tmp / "out.json").read_text())["results"][0]["runs"]["dense"]
        self.assertEqual(run["bytes"], REST + GATE + UP_DOWN)

    def test_sweep(self):
        speeds = {"dense": [10, 20], "llama.cpp": [5, 5], "lossless": [10, 60], "predicted": [9, 80]}
        done, calls = self.run_script(speeds, "--sweep", "--inactive", "0,90", "--repeat", 1, "--calibrate-words", 50, "--layers", 2,
                                      "--svg", self.tmp / "out.svg", "--folder", self.tmp)
        self.assertEqual(done.returncode, 0, done.stderr)
        made = [call for call in calls if "make_sparse.py" in call[0]]
        self.assertEqual([call[call.index("--active") + 1] for call in made], ["1", "0.1"])
        self.assertEqual([call[-2:] for call in made], [["--layers", "2"]] * 2)
        self.assertEqual([call[0] for call in calls if call[0] in ("convert", "calibrate")], ["convert", "calibrate"] * 2)
        svg = xml.etree.ElementTree.parse(self.tmp / "out.svg").getroot()
        lines = svg.findall("{http://www.w3.org/2000/svg}polyline")
        self.assertEqual(len(lines), 5)
        ends = {t.text for t in svg.iter("{http://www.w3.org/2000/svg}text")}
        self.assertTrue({"dense 1.00", "llama.cpp 0.25", "lossless 3.00", "predicted 4.00"} <= ends, ends)
        heights = [float(line.get("points").split()[-1].split(",")[1]) for line in lines]
        self.assertEqual(sorted(heights[:4], reverse=True), [heights[i] for i in (1, 0, 2, 3)])
        self.assertEqual(sorted(os.listdir(self.tmp)), ["calls", "out.json", "out.svg", "ready.bin", "ready.gguf", "speeds", "tool"])

    def test_failures(self):
        done, _ = self.run_script({"dense": [-1]}, *self.both())
        self.assertEqual(done.returncode, 1)
        self.assertIn("the stand-in fails", done.stderr)
        (self.tmp / "ready.gguf").write_bytes(b"GGUF\3\0\0\0" + b"\0" * 3)
        done, _ = self.run_script({"dense": [1]}, *self.both(), "--active", 0.5)
        self.assertEqual(done.returncode, 1)
        self.assertIn("bench_sparse: unusable file", done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        done, _ = self.run_script({}, "--gguf", self.tmp / "none.gguf")
        self.assertEqual(done.returncode, 2)
        done, _ = self.run_script({}, "--gguf", self.tmp / "none.gguf", "--runs", "dense")
        self.assertEqual(done.returncode, 1)
        self.assertIn("none.gguf: No such file", done.stderr)
        for args in (["--sweep", "--active", "0.1"], ["--svg", "x"], ["--sweep", "--runs", "lossless"], ["--sweep", "--inactive", "100"],
                     [*self.both(), "--runs", "sparse"], [*self.both(), "--repeat", "0"], [*self.both(), "--recall", "2"]):
            self.assertEqual(self.run_script({}, *args)[0].returncode, 2, args)


if __name__ == "__main__":
    unittest.main()
