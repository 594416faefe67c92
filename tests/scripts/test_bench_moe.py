"""scripts/bench_moe.py against stand-ins for sparsegen, llama.cpp and losetup that answer at once. Nothing is timed."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

ROOT = pathlib.Path(os.environ.get("SG_SOURCE_ROOT", pathlib.Path(__file__).parents[2]))
SCRIPT = ROOT / "scripts" / "bench_moe.py"
sys.path.insert(0, str(ROOT / "scripts"))
sys.dont_write_bytecode = True

import bench_moe  # noqa: E402

MIB = 1 << 20

# Answers with the seconds of its kind and test; the n-th call of a kind takes the n-th number.
STAND_IN = """#!{python}
import json, os, sys
folder, args = os.path.dirname(os.path.abspath(__file__)), sys.argv[1:]
with open(folder + "/calls", "a") as f:
    f.write(json.dumps(args) + "\\n")
if "--versions" in args:
    print(json.dumps({{"llama.cpp": "stand-in"}}))
elif args == ["--version"]:
    print("sparsegen stand-in")
else:
    said = json.load(open(folder + "/said"))
    p, n = (int(args[args.index(x) + 1]) for x in ("-p", "-n"))
    peer = "llama_cpp_bench.py" in args[0]
    kind = "llama" if peer and "--mmap" in args else "sparsegen"
    budget = "ram" if "--ram" in args else "none"
    times = said[f"{{kind}} {{'pp' if p else 'tg'}}" + ("" if peer else " " + budget)]
    seconds = times.pop(0) if len(times) > 1 else times[0]
    json.dump(said, open(folder + "/said", "w"))
    if seconds < 0:
        sys.exit("the stand-in fails")
    row = {{"test": f"pp{{p}}" if p else f"tg{{n}}", "tokens": p or n, "seconds": seconds, "read_bytes_per_token": 3 << 20}}
    print(json.dumps([row | {{f"token_p{{q}}": None if p else seconds / n * q / 50 for q in (50, 90, 99)}}]))
"""

FIO = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/fio.calls"
iops=300
[ $(($(wc -l < "$(dirname "$0")/fio.calls") % 2)) = 0 ] && iops=500
echo '{"jobs": [{"read": {"iops": '$iops', "bw_bytes": 1000000}}]}'
"""

LOSETUP = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/losetup.calls"
[ "$1" = -r ] && echo /dev/no-such-loop
exit {code}
"""


class Script(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.tmp = pathlib.Path(folder.name)
        self.tool = self.tmp / "tool"
        self.tool.write_text(STAND_IN.format(python=sys.executable))
        self.tool.chmod(0o755)
        self.losetup(1)
        (self.tmp / "m.gguf").write_bytes(b"")
        os.truncate(self.tmp / "m.gguf", 200 * MIB)
        (self.tmp / "m.bin").write_bytes(b"")
        (self.tmp / "m.ids").write_text("1 2 3\n")
        self.said = {"sparsegen tg none": [0.5], "sparsegen pp none": [0.1], "sparsegen tg ram": [1, 4, 2], "sparsegen pp ram": [0.2],
                     "llama tg": [2], "llama pp": [0.4]}

    def losetup(self, code):
        (self.tmp / "losetup").write_text(LOSETUP.format(code=code))
        (self.tmp / "losetup").chmod(0o755)

    def run_script(self, *args):
        (self.tmp / "said").write_text(json.dumps(self.said))
        (self.tmp / "calls").write_text("")
        done = subprocess.run([sys.executable, "-B", str(SCRIPT), "--sparsegen", str(self.tool), "--python", str(self.tool), "--threads", "2",
                               "-n", "8", "--warm", "4", "-p", "16", "--drop", "files", "--drive-seconds", "0", "--gguf", str(self.tmp / "m.gguf"),
                               "--ids", str(self.tmp / "m.ids"), *map(str, args)], capture_output=True, text=True, check=False,
                              env={**os.environ, "PATH": f"{self.tmp}:{os.environ['PATH']}"})
        calls = [json.loads(line) for line in (self.tmp / "calls").read_text().splitlines()]
        rows = [[c.strip() for c in line.split("|")[1:-1]] for line in done.stdout.splitlines() if line.startswith("|")][2:]
        return done, [" ".join(call) for call in calls if "-m" in call], rows

    def test_table(self):
        (self.tmp / "fio").write_text(FIO)
        (self.tmp / "fio").chmod(0o755)
        done, runs, rows = self.run_script("--ram", "50%", "--repeat", 3, "--bin", self.tmp / "m.bin", "--json", self.tmp / "out.json",
                                           "--drive-seconds", 1)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([row[:2] for row in rows], [["sparsegen", "none"], ["llama.cpp", "none"], ["sparsegen", "100 (50 %)"], ["llama.cpp", "100 (50 %)"]])
        self.assertEqual(rows[0][2:9], ["16.00 (16.00-16.00)", "100.0%", "4.00", "62 / 112 / 124", "3.0", "160.00 (160.00-160.00)", "4.00"])
        self.assertEqual(rows[2][2:9], ["4.00 (2.00-8.00)", "25.0%", "1.00", "250 / 450 / 495", "3.0", "80.00 (80.00-80.00)", "2.00"])
        self.assertEqual(rows[3][3:5], ["100.0%", "1.00"])
        # 3 MiB are 12 reads, 30 ms at 300 a second before and 500 after: 4 tokens a second are 12 % of that, and 25 % of what is reached in memory
        self.assertEqual([row[11:] for row in rows], [["", ""], ["", ""], ["105", "12.0% / 25.0%"], ["", ""]])
        self.assertEqual((self.tmp / "fio.calls").read_text().count("--rw=randread --bs=262144 --norandommap --randrepeat=0\n"), 6)
        self.assertEqual(len(runs), 3 * 4 * 2)
        for turn in (runs[:8], runs[8:16], runs[16:]):
            self.assertTrue(all(f"--ids {self.tmp}/m.ids -t 2 -r 1 -o json" in run for run in turn), turn)
            self.assertTrue(all("-p 0 -n 8 --warm 4" in run for run in turn[::2]) and all("-p 16 -n 0" in run for run in turn[1::2]), turn)
            self.assertTrue(all("m.bin" in turn[i] and "bench --no-limits" in turn[i] for i in (0, 1, 4, 5)), turn)
            self.assertTrue(all("llama_cpp_bench.py --mmap" in turn[i] and "m.gguf" in turn[i] for i in (2, 3, 6, 7)), turn)
            self.assertEqual(["--ram 100M" in run for run in turn], [False] * 4 + [True] * 2 + [False] * 2)
        said = json.loads((self.tmp / "out.json").read_text())
        self.assertEqual([row["seconds"] for row in said["runs"][2]["rows"]["tg"]], [1, 4, 2])

    def test_variants(self):
        done, runs, rows = self.run_script("--ram", "50M,100M", "--repeat", 1, "--with", "no prefetch=--no-prefetch", "--with", "lossy=--lossy a=0.9",
                                           "--sparsegen-args=--io pread", "--llama-decode", 2, "--llama-warm", 1)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([row[0] for row in rows], ["sparsegen", "sparsegen, no prefetch", "sparsegen, lossy", "llama.cpp"] * 3)
        self.assertEqual(sum("--no-prefetch" in run for run in runs), 6)
        self.assertEqual(sum("--io pread" in run for run in runs), 18)
        self.assertEqual(sum("--lossy a=0.9" in run for run in runs), 6)
        self.assertEqual(sum("-n 2 --warm 1" in run for run in runs), 3)
        self.assertTrue(all("m.gguf" in run for run in runs))
        rows = self.run_script("--ram", "50M", "--repeat", 1, "--llama-decode", 0)[2]
        self.assertEqual([row[0] for row in rows], ["sparsegen"] * 2)
        rows = self.run_script("--repeat", 1, "-p", 0)[2]
        self.assertEqual([(row[0], row[7]) for row in rows], [("sparsegen", ""), ("llama.cpp", "")])

    def test_failures(self):
        self.said["llama tg"] = [-1]
        done, runs, rows = self.run_script("--ram", "50%", "--repeat", 3)
        self.assertEqual(done.returncode, 0, done.stderr)  # the other rows count
        self.assertEqual(rows[3][2], "code 1: the stand-in fails")
        self.assertEqual((rows[2][4], rows[2][8], rows[3][7]), ("", "2.00", "40.00 (40.00-40.00)"))
        self.assertEqual(sum("llama_cpp_bench.py" in run and "-p 0" in run for run in runs), 2)
        for args in (["--ram", "x"], ["--repeat", 0], ["-p", 0, "-n", 0], ["--with", "x"], ["--warm", -1]):
            self.assertEqual(self.run_script(*args)[0].returncode, 2, args)
        done, _, _ = self.run_script("--bin", self.tmp / "none")
        self.assertEqual((done.returncode, done.stderr), (1, f"bench_moe: there is no {self.tmp}/none\n"))

    def test_losetup(self):
        """A device whose read-ahead cannot be set is given back and not used."""
        self.losetup(0)
        done, _, rows = self.run_script("--ram", "50%", "--repeat", 1)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("no loop device", done.stderr)
        self.assertEqual(len(rows), 4)
        self.assertEqual((self.tmp / "losetup.calls").read_text().splitlines(),
                         [f"-r --direct-io=on -f --show {self.tmp}/m.gguf", "-d /dev/no-such-loop"])


class Parts(unittest.TestCase):
    def test_mapped_in_memory(self):
        """Only the mapped model that is to be in memory is read before."""
        args = mock.Mock(ids="i", threads=2, prefill=1, decode=1, warm=1, llama_decode=1, llama_warm=1, slack=1)
        failed = ({"kills": 0}, "fails")
        for peer, budget, read in ((True, 0, "m"), (True, MIB, None), (False, 0, None)):
            with mock.patch.object(bench_moe.memory_group, "run_cold", return_value=failed) as cold, mock.patch.object(bench_moe, "say"):
                bench_moe.Run("r", peer, "m", "", budget).measure(args, None, "tg")
            self.assertEqual(cold.call_args.args[4], read)
        with tempfile.NamedTemporaryFile() as f, mock.patch("os.sync"):
            f.write(bytes(9 << 20))
            f.flush()
            with mock.patch.object(bench_moe.memory_group, "read_whole") as read:
                bench_moe.memory_group.run_cold(["true"], mock.Mock(gguf=f.name, bin=None, drop="files", limit=9), None, 0, f.name)
            read.assert_called_once_with(f.name)
            bench_moe.memory_group.read_whole(f.name)

    def test_loop_device(self):
        with tempfile.TemporaryDirectory() as folder:
            block, tool = pathlib.Path(folder, "no-such-loop", "queue"), pathlib.Path(folder, "losetup")
            block.mkdir(parents=True)
            tool.write_text(LOSETUP.format(code=0))
            tool.chmod(0o755)
            with mock.patch.object(bench_moe, "BLOCK", folder), mock.patch.dict(os.environ, {"PATH": f"{folder}:{os.environ['PATH']}"}):
                with bench_moe.loop_device("/some/file") as device:
                    self.assertEqual((device, (block / "read_ahead_kb").read_text()), ("/dev/no-such-loop", "128"))
                    self.assertEqual(len(pathlib.Path(folder, "losetup.calls").read_text().splitlines()), 1)
                self.assertEqual(pathlib.Path(folder, "losetup.calls").read_text().splitlines()[1], "-d /dev/no-such-loop")

    def test_best_of_both(self):
        """With a device llama.cpp runs twice under a budget, and the faster one counts."""
        args = mock.Mock(bin=None, gguf="m.gguf", with_=[], sparsegen_args="", llama_decode=4)
        runs = bench_moe.runs_of(args, [("50M", 50 * MIB)], "/dev/x")
        self.assertEqual([(run.name, run.budget // MIB, run.model) for run in runs],
                         [("sparsegen", 0, "m.gguf"), ("llama.cpp", 0, "m.gguf"), ("sparsegen", 50, "m.gguf"), ("llama.cpp", 50, "m.gguf"),
                          ("llama.cpp 128K", 50, "/dev/x")])
        for run, seconds in zip(runs, (1, 2, 4, 16, 8)):
            run.rows["tg"] = [{"tokens": 8, "seconds": seconds}]
        cells = [bench_moe.cells_of(run, runs) for run in runs]
        self.assertEqual([c[4] for c in cells], ["2.00", "1.00", "2.00", "0.50", "1.00"])
        self.assertEqual([c[3] for c in cells], ["100.0%", "100.0%", "25.0%", "12.5%", "25.0%"])


if __name__ == "__main__":
    unittest.main()
