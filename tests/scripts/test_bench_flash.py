"""The parts of scripts/bench_flash.py: what is read from --stats, token ids, budgets, the bound, cgroups on a made-up tree; and the whole
script against stand-ins for sparsegen and llama.cpp that answer at once. Nothing is timed."""
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(os.environ.get("SG_SOURCE_ROOT", pathlib.Path(__file__).parents[2]))
SCRIPT = ROOT / "scripts" / "bench_flash.py"
sys.path.insert(0, str(ROOT / "scripts"))
sys.dont_write_bytecode = True

import drive_speed  # noqa: E402
import flash_figures as figures  # noqa: E402
import memory_group  # noqa: E402

STATS = """[577 MiB of weights are read while computing, within a budget of 600 MiB]
prompt          0 tokens      0.000 s       0.00 tokens/s
decode   {tokens:8} tokens      2.305 s       5.21 tokens/s; ms a token: P50 168.4, P90 213.2, P99 219.1
memory   weights 589.6 MiB, KV cache 1.2 MiB, buffers 5.4 MiB; peak resident 600.2 MiB of a budget of 600.0 MiB
neurons  gates 100.0 %, ups 10.6 % computed; active 10.2 %
cache    of the neurons that fired 20.0 % were in hot clusters, 40.2 % in the cache, 5.5 % read ahead (1.5 % late), 34.0 % missed, \
0.3 % without room; 12 predicted a token
reads    {demand:.1f} MiB in {reads} demands, 30.0 MiB in 300 ahead; 35.31 MiB and 6420 reads a token; waiting 66.6 % of the time
machine  2 threads, avx2 kernels
"""
RESIDENT = """decode          12 tokens      0.500 s      24.00 tokens/s; ms a token: P50 40.0, P90 41.0, P99 42.0
memory   weights 1000.0 MiB, KV cache 1.2 MiB, buffers 5.4 MiB; peak resident 1010.0 MiB
"""

STAND_IN = """#!{python}
import json, os, sys
folder, args = os.path.dirname(os.path.abspath(__file__)), sys.argv[1:]
with open(folder + "/calls", "a") as f:
    f.write(json.dumps(args) + "\\n")
    if "--ids" in args:
        f.write(json.dumps(open(args[args.index("--ids") + 1]).read().split()) + "\\n")
if "--versions" in args:
    print(json.dumps({{"llama.cpp": "stand-in"}}))
elif args == ["--version"]:
    print("sparsegen stand-in")
else:
    said = json.load(open(folder + "/said"))
    run = ("llama.cpp" if "llama_cpp_bench.py" in args[0] else "resident" if "--ram" not in args and "--lossy" not in args
           else "fewer" if "--ram" not in args else "dense" if ".gguf" in " ".join(args) else "bundles" if "--no-cache" in args
           else "cache" if "--no-pipeline" in args else "no prefetch" if "--no-prefetch" in args
           else "predicted" if "--lossy" in args else "lossless")
    n = int(args[args.index("-n") + 1])
    seconds, whole, short = said[run]
    if seconds < 0:
        sys.exit("the stand-in fails")
    sys.stderr.write(short if n == 1 else whole)
    print(json.dumps([{{"test": f"tg{{n}}", "tokens": n, "seconds": seconds}}]))
"""


def text(words):
    return struct.pack("<Q", len(words)) + words.encode()


def write_model(path, size, tensors, topics=None):
    """A GGUF file of that many bytes: the tensors, their data not there, and the keys that count."""
    pairs = [text("sparsegen.bundle." + name) + struct.pack("<IIQI", 9, 4, 1, 2) for name in ("up_type", "down_type")]
    pairs += [text("sparsegen.synthetic.topics") + struct.pack("<II", 4, topics)] if topics else []
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs)
    for name, (dims, kind) in tensors.items():
        out += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, 0)
    with open(path, "wb") as f:
        f.write(out)
        f.truncate(size)


MIB = 1 << 20
BIN = {"token_embd.weight": ((4096, 1000), 2), "blk.0.ffn_norm.weight": ((4096,), 0), "blk.0.ffn_bundle": ((4 * MIB, 2), 24)}
GGUF = {"blk.0.ffn_gate.weight": ((32, 32), 2), "blk.0.ffn_norm.weight": ((32,), 0), "blk.0.attn_q.weight": ((32, 32), 2)}


class Figures(unittest.TestCase):
    def test_stats(self):
        self.assertEqual(figures.parse_stats(STATS.format(tokens=12, demand=385.1, reads=76766)), {
            "tokens": 12, "seconds": 2.305, "speed": 5.21, "p50": 168.4, "p90": 213.2, "p99": 219.1, "weights": 589.6, "kv": 1.2,
            "buffers": 5.4, "peak": 600.2, "budget": 600, "hot": 20, "cached": 40.2, "ahead": 5.5, "late": 1.5, "missed": 34, "passed": 0.3,
            "demand_mib": 385.1, "demands": 76766, "ahead_mib": 30, "aheads": 300, "token_mib": 35.31, "token_reads": 6420, "waiting": 66.6})
        resident = figures.parse_stats(RESIDENT)
        self.assertEqual((resident["peak"], resident["p99"]), (1010, 42))
        self.assertFalse({"budget", "hot", "demands"} & set(resident))

    def test_stats_are_those_of_the_program(self):
        source = (ROOT / "runtime" / "cli" / "common.c").read_text()
        for words in ("; peak resident %.1f MiB", " of a budget of %.1f MiB", "of the neurons that fired %.1f %% were in hot clusters",
                      "reads    %.1f MiB in %llu demands, %.1f MiB in %llu ahead; %.2f MiB and %.0f reads a token; waiting %.1f %%"):
            self.assertIn(words, source)

    def test_reads_a_token(self):
        whole, short = (figures.parse_stats(STATS.format(tokens=n, demand=d, reads=r)) for n, d, r in ((12, 170.0, 5700), (2, 70.0, 1700)))
        self.assertEqual(figures.reads_a_token(whole), (200 * MIB / 12, 500))
        self.assertEqual(figures.reads_a_token(whole, short), (10 * MIB, 400))
        self.assertEqual(figures.reads_a_token(figures.parse_stats(RESIDENT), short), (0, 0))

    def test_bound(self):
        size, reads = 3 * MIB + 100 * 4608, 103
        self.assertEqual(figures.split_reads(size, reads, 4608), (3 * MIB, 100))
        self.assertEqual(figures.split_reads(100 * 4608, 100, 4608), (0, 100))
        self.assertEqual(figures.split_reads(50 * 4608, 100, 4608), (0, 100))  # smaller reads: each costs as much
        self.assertEqual(figures.split_reads(9 * MIB, 3, 4608), (9 * MIB, 0))
        drive = {"sequential": 3 * MIB, "iops": 1000}
        self.assertAlmostEqual(figures.least_seconds(size, reads, 4608, drive, 0.5), 1.1)
        self.assertEqual(figures.least_seconds(size, reads, 4608, drive, 2), 2)
        self.assertAlmostEqual(figures.least_seconds(6 * MIB, 9, 4608, {"sequential": 3 * MIB, "iops": None}, 0.5), 2)
        self.assertIsNone(figures.least_seconds(size, reads, 4608, {"sequential": None, "iops": None}, 1))
        self.assertIsNone(figures.least_seconds(size, reads, 4608, None, 1))
        self.assertEqual(drive_speed.better({"sequential": 2, "iops": None, "how": "a"}, {"sequential": 1, "iops": 5, "how": "b"}),
                         {"sequential": 2, "iops": 5, "how": "b"})
        unknown = {"sequential": None, "iops": None, "how": "a"}
        self.assertEqual(drive_speed.better(unknown, unknown), unknown)

    def test_budgets(self):
        self.assertEqual(figures.budgets("50%,600M,2G,7", "25%", 100 * MIB, 40 * MIB),
                         [("50 %", 50 * MIB), ("600M", 600 * MIB), ("2G", 2048 * MIB), ("7M", 7 * MIB), ("FFN 25 %", 70 * MIB)])
        for words in (("x", None), ("0", None), ("-5%", None), (None, "5"), (None, "101%")):
            with self.assertRaises(ValueError):
                figures.budgets(*words, 100, 50)

    def test_ids(self):
        ids = figures.token_ids(20000, 1003, 50, 40, 1)
        self.assertEqual(ids, figures.token_ids(20000, 1003, 50, 40, 1))
        self.assertEqual(ids[:500], figures.token_ids(500, 1003, 50, 40, 1))
        self.assertNotEqual(ids, figures.token_ids(20000, 1003, 50, 40, 2))
        self.assertTrue(all(0 <= i < 1003 for i in ids))
        changes = sum(a % 50 != b % 50 for a, b in zip(ids, ids[1:]))
        self.assertTrue(350 < changes < 650, changes)  # 20000 / 40, one in 50 goes on with its own topic
        self.assertEqual(len({i % 50 for i in ids}), 50)
        self.assertGreater(len(set(ids)), 900)
        free = figures.token_ids(2000, 1003, 0, 40, 1)
        self.assertGreater(sum(a % 50 != b % 50 for a, b in zip(free, free[1:])), 1900)


class Groups(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.tmp = pathlib.Path(folder.name)

    def find(self, own, **files):
        for name, content in files.items():
            path = self.tmp / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        (self.tmp / "own").write_text(own)
        found = memory_group.find(str(self.tmp / "fs"), str(self.tmp / "own"))
        return found and (found[0], os.path.relpath(found[1], self.tmp / "fs"))

    def test_version_1(self):
        own = "9:name=systemd:/\n4:memory:/a/b\n0::/\n"
        self.assertIsNone(self.find(own))
        self.assertEqual(self.find(own, fs__memory__memory_DOT_limit_in_bytes="1"), (1, "memory"))  # inside a container
        self.assertEqual(self.find(own, fs__memory__a__b__memory_DOT_limit_in_bytes="1"), (1, "memory/a/b"))

    def test_version_2(self):
        own = "0::/a/b\n"
        self.assertIsNone(self.find(own, fs__cgroup_DOT_subtree_control="cpu\n"))
        self.assertEqual(self.find(own, fs__cgroup_DOT_subtree_control="cpu memory\n"), (2, "."))
        self.assertEqual(self.find(own, fs__a__cgroup_DOT_subtree_control="memory\n"), (2, "a"))
        self.assertEqual(self.find(own, fs__a__b__cgroup_DOT_subtree_control=""), (2, "a"))  # holds processes itself
        self.assertIsNone(self.find("0::/../..\n", fs__cgroup_DOT_subtree_control=""))
        self.assertIsNone(memory_group.find(str(self.tmp), str(self.tmp / "none")))

    def test_numbers(self):
        self.assertEqual([memory_group.FILES[v]["limit"] for v in (1, 2)], ["memory.limit_in_bytes", "memory.max"])
        for version, kills in ((1, "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), (2, "low 0\noom 4\noom_kill 3\n")):
            group = memory_group.Group((version, str(self.tmp)), 1000)
            self.assertEqual((group.peak(), group.kills()), (None, 0))
            os.mkdir(group.folder)
            names = memory_group.FILES[version]
            pathlib.Path(group.folder, names["kills"]).write_text(kills)
            pathlib.Path(group.folder, names["peak"]).write_text("900\n")
            self.assertEqual((group.peak(), group.kills()), (900, 3))
            for name in os.listdir(group.folder):
                os.unlink(os.path.join(group.folder, name))
            os.rmdir(group.folder)
            with group as made:  # an ordinary folder takes any file; that it is not removed then does no harm
                self.assertEqual(pathlib.Path(made.folder, names["limit"]).read_text(), "1000")
                done = memory_group.run(["/bin/echo", "two words"], 60, made)
                self.assertEqual((done["code"], done["out"], done["late"]), (0, "two words\n", False))
                self.assertGreater(int(pathlib.Path(made.folder, "cgroup.procs").read_text()), 0)
            for name in os.listdir(group.folder):
                os.unlink(os.path.join(group.folder, name))
            os.rmdir(group.folder)

    def test_late(self):
        done = memory_group.run(["/bin/sleep", "600"], 0.01)
        self.assertTrue(done["late"])
        self.assertEqual(done["code"], -9)


class Script(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.tmp = pathlib.Path(folder.name)
        self.tool = self.tmp / "tool"
        self.tool.write_text(STAND_IN.format(python=sys.executable))
        self.tool.chmod(0o755)
        write_model(self.tmp / "m.bin", 100 * MIB, BIN, topics=10)
        write_model(self.tmp / "m.gguf", 100 * MIB, GGUF)
        whole, short = (STATS.format(tokens=n, demand=d, reads=r) for n, d, r in ((12, 77.0, 5900), (5, 70.0, 1700)))
        self.said = {"resident": [0.5, RESIDENT, ""], "fewer": [0.4, RESIDENT, ""], "llama.cpp": [8, "", ""],
                     "dense": [4, whole, short], "bundles": [3.2, whole, short], "cache": [2.5, whole, short], "no prefetch": [2, whole, short],
                     "lossless": [1, whole, short], "predicted": [0.8, whole, short]}

    def run_script(self, *args):
        (self.tmp / "said").write_text(json.dumps(self.said))
        (self.tmp / "calls").write_text("")
        done = subprocess.run([sys.executable, "-B", str(SCRIPT), "--sparsegen", str(self.tool), "--python", str(self.tool), "--threads", "2",
                               "-n", "8", "--warm", "4", "--drop", "files", "--drive", "100,1000", "--bin", str(self.tmp / "m.bin"),
                               *map(str, args)], capture_output=True, text=True, check=False)
        calls = [json.loads(line) for line in (self.tmp / "calls").read_text().splitlines()]
        rows = [[c.strip() for c in line.split("|")[1:-1]] for line in done.stdout.splitlines() if line.startswith("|")][2:]
        return done, calls, rows

    def test_table(self):
        done, calls, rows = self.run_script("--gguf", self.tmp / "m.gguf", "--ram", "50%", "--repeat", 2, "--lossy", "predict=0.9")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([row[0] for row in rows], ["resident", "resident predict=0.9", "llama.cpp", "lossless", "predicted predict=0.9"])
        # 600 reads of 1 MiB together take 0.6 s at 1000 a second, which is 4.8 times what the stand-in said it took.
        self.assertEqual(rows[3], ["lossless", "50 (50 %)", "8.00 (8.00-8.00)", "50.0%", "16.00", "1.00", "600", "60.2 / 5.5", "66.6",
                                   "168.4 / 213.2 / 219.1", "600", "0", "480.0%"])
        self.assertEqual(rows[0][1:5], ["none", "16.00 (16.00-16.00)", "100.0%", ""])
        self.assertEqual(rows[4][2:5], ["10.00 (10.00-10.00)", "50.0%", "20.00"])  # of the resident run that predicts too
        self.assertEqual(rows[2][2:5], ["0.50 (0.50-0.50)", "3.1%", "1.00"])
        ids = [call for call in calls if call[0].isdigit()]
        self.assertTrue(all(line == ids[0] and len(line) == 12 for line in ids))
        runs = [" ".join(call) for call in calls if "-m" in call]
        self.assertEqual(len(runs), 2 + 2 * 5)
        self.assertTrue(all("-n 1 " in run and "--ram 50M" in run for run in runs[:2]), runs)
        for turn in (runs[2:7], runs[7:]):
            self.assertTrue("--ram" not in turn[0] and "--lossy predict=0.9" in turn[1], turn)
            self.assertTrue("llama_cpp_bench.py --mmap" in turn[2] and "m.gguf" in turn[2] and "-n 4 " in turn[2], turn)
            self.assertTrue("m.bin" in turn[3] and "-n 8 -t 2 -r 1 -o json --warm 4" in turn[3] and "--ram 50M" in turn[3], turn)
            self.assertTrue("--lossy predict=0.9" in turn[4] and "--ram 50M" in turn[4], turn)

    def test_ablation(self):
        done, calls, rows = self.run_script("--gguf", self.tmp / "m.gguf", "--ablation", "--repeat", 1)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([row[0].split(".")[0] for row in rows], ["resident", "a", "a", "b", "c", "d", "e"])
        self.assertEqual({row[1] for row in rows[1:]}, {"96 (FFN 50 %)"})
        self.assertEqual([row[2].split()[0] for row in rows], ["16.00", "0.50", "2.00", "2.50", "3.20", "4.00", "8.00"])
        self.assertEqual(sum("--no-prefetch" in call for call in calls), 6)
        self.assertEqual(sum("--no-pipeline" in call for call in calls), 4)
        self.assertEqual(sum("--no-cache" in call for call in calls), 2)

    def test_failures(self):
        self.said["llama.cpp"][0] = -1
        done, calls, rows = self.run_script("--gguf", self.tmp / "m.gguf", "--ram", "50%", "--repeat", 3)
        self.assertEqual(done.returncode, 0, done.stderr)  # the other rows count
        self.assertEqual(rows[1][2], "code 1: the stand-in fails")
        self.assertEqual(sum("llama_cpp_bench.py" in call[0] and "-m" in call for call in calls), 1)
        self.assertEqual(rows[2][4], "")
        for args in ([], ["--ram", "x"], ["--ram", "5%,6%", "--ablation"], ["--ram", "5%", "--repeat", "0"], ["--ram", "5%", "--drive", "5"]):
            self.assertEqual(self.run_script(*args)[0].returncode, 2, args)
        (self.tmp / "m.bin").write_bytes(b"GGUF\3\0\0\0" + b"\0" * 3)
        done, _, _ = self.run_script("--ram", "50M")
        self.assertEqual(done.returncode, 1)
        self.assertIn("bench_flash: unusable file", done.stderr)


if __name__ == "__main__":
    unittest.main()
