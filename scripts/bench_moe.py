#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measure a mixture of experts in memory and under limits of memory: sparsegen beside llama.cpp with mmap.

    bench_moe.py --gguf MODEL.gguf --ids MODEL.ids --ram 50%,25%           shares of the GGUF's size, or sizes as 600M, 2G
    bench_moe.py --gguf MODEL.gguf --bin model.bin --ids MODEL.ids --ram 8G --with 'no prefetch=--no-prefetch'

make_moe.py makes such models and ids: experts are used as unevenly and steadily as in a trained model. Every run is a process of its own in a
memory cgroup of budget + --slack MiB, page cache included; its files are dropped from the page cache before (with the rest of the page
cache, when this is root and not --drop files). Runs take turns; medians count.
  sparsegen        on model.bin if there is one, else on the GGUF, with --ram; each --with LABEL=ARGS is one more such run
  llama.cpp        on the GGUF through llama_cpp_bench.py, mapped and not repacked, with the read-ahead that the drive has
  llama.cpp 128K   the same through a read-only loop device with direct I/O that reads 128 KiB ahead; only root can make one
The first rows have no budget and no limit: everything is in memory (the file of llama.cpp is read into the page cache before). "times llama.cpp"
takes the faster of its two runs at the same budget.

Prefill is a prompt of --prefill tokens after another one to warm up; decode, in a process of its own, --decode tokens one by one after --warm,
of llama.cpp --llama-decode after --llama-warm since it may be slow. Both programs get the ids of the file in their order. ms: of the tokens of
all turns' medians. MiB a token: read from the drive while decoding; of llama.cpp as the kernel counts it, read-ahead included. Peak:
resident memory, of llama.cpp with the interpreter and with the mapped pages. Kills: by the kernel, for lack of memory. Of drive's bound: the
decode speed as a share of what the drive alone would allow, for the bytes that were read a token (256 KiB anywhere, as fast as fio read them right before
and after that process, the mean, nothing without fio: a shared drive's speed changes within minutes); of either: of what the slower of the drive and of decoding with everything
in memory would.
"""
import argparse
import contextlib
import json
import os
import shlex
import statistics
import subprocess
import sys

import bench_peers as peers
import drive_speed
import flash_figures as figures
import memory_group

MIB = figures.MIB
READ_AHEAD = 128  # KiB
BLOCK = "/sys/block"
HEAD = ("run", "budget, MiB", "decode, tokens/s (min-max)", "of resident", "times llama.cpp", "ms P50 / P90 / P99", "MiB a token",
        "prefill, tokens/s (min-max)", "times llama.cpp", "peak, MiB", "kills", "drive, MB/s", "of drive's / of either bound")
BLOCK_READ = 256 << 10  # as the experts are read


def say(text):
    print(f"bench_moe: {text}", file=sys.stderr)


@contextlib.contextmanager
def loop_device(path):
    """A read-only block device of a file that reads READ_AHEAD ahead; None when it cannot be made."""
    device = None
    try:
        done = subprocess.run(["losetup", "-r", "--direct-io=on", "-f", "--show", path], capture_output=True, text=True, check=True)
        device = done.stdout.strip()
        with open(f"{BLOCK}/{os.path.basename(device)}/queue/read_ahead_kb", "w") as f:
            f.write(str(READ_AHEAD))
        usable = True
    except (OSError, subprocess.CalledProcessError) as error:
        say(f"no loop device, llama.cpp reads as far ahead as the drive does: {(getattr(error, 'stderr', None) or str(error)).strip()}")
        usable = False
    try:
        yield device if usable else None
    finally:
        if device:
            subprocess.run(["losetup", "-d", device], check=False)


def drive(args):
    """Bytes a second that the drive gives now; None when that is not to be measured or cannot be."""
    iops = args.drive_seconds and drive_speed.anywhere(args.bin or args.gguf, BLOCK_READ, args.drive_seconds, 1)
    return iops * BLOCK_READ if iops else None


class Run:
    """One row: a program, what it reads and its budget (0: none), and what came of it."""

    def __init__(self, name, peer, model, label, budget, more=()):
        self.name, self.peer, self.model, self.label, self.budget, self.more = name, peer, model, label, budget, list(more)
        self.rows, self.failed, self.peaks, self.kills = {"pp": [], "tg": []}, {}, [], 0

    def __str__(self):
        return f"{self.name}, {self.label or 'everything in memory'}"

    def command(self, args, test):
        """test: "pp" or "tg"."""
        decode, warm = (args.llama_decode, args.llama_warm) if self.peer else (args.decode, args.warm)
        command = [args.python, peers.LLAMA_BENCH, "--mmap"] if self.peer else [args.sparsegen, "bench", "--no-limits"]
        command += ["-m", self.model, "--ids", args.ids, "-t", str(args.threads), "-r", "1", "-o", "json"]
        command += ["-p", str(args.prefill), "-n", "0"] if test == "pp" else ["-p", "0", "-n", str(decode), "--warm", str(warm)]
        if self.budget and not self.peer:
            command += ["--ram", f"{self.budget // MIB}M"]
        return command + self.more

    def measure(self, args, place, test):
        """One process. A test that fails is not repeated; the reason is kept for the row."""
        command, timed = self.command(args, test), test == "tg" and self.budget and not self.peer
        before = drive(args) if timed else None
        done, failed = memory_group.run_cold(command, args, place, self.budget and self.budget + args.slack * MIB,
                                               self.model if self.peer and not self.budget else None)
        self.kills += done["kills"]
        if failed:
            self.failed[test] = failed
            say(f"{self}, {test}: {failed}")
            return
        row = next(iter(peers.parse_rows(command, done["out"]).values()), None)
        if not row or not row["seconds"] > 0:
            sys.exit(f"bench_moe: {shlex.join(command)}\nprinted no usable results")
        if before and row.get("read_bytes_per_token"):
            after = drive(args)
            row["drive"] = (before + after) / 2 if after else before
        self.rows[test].append(row)
        self.peaks.append(done["peak"])
        say(f"{self}, {row['test']}: {row['tokens'] / row['seconds']:.2f} tokens/s")

    def speeds(self, test):
        return [row["tokens"] / row["seconds"] for row in self.rows[test]]

    def speed(self, test):
        """The median speed, None when there is none."""
        return statistics.median(self.speeds(test)) if self.rows[test] else None

    def middle(self, name):
        """The median over the turns of a number of the decode rows."""
        values = [row[name] for row in self.rows["tg"] if row.get(name) is not None]
        return statistics.median(values) if values else None


def runs_of(args, budgets, device):
    """The rows in their order."""
    out = []
    for label, budget in [("", 0)] + budgets:
        own = args.bin or args.gguf
        out.append(Run("sparsegen", False, own, label, budget, shlex.split(args.sparsegen_args)))
        for name, more in args.with_:
            out.append(Run(f"sparsegen, {name}", False, own, label, budget, shlex.split(args.sparsegen_args) + shlex.split(more)))
        if args.llama_decode:
            out.append(Run("llama.cpp", True, args.gguf, label, budget))
            if device and budget:
                out.append(Run(f"llama.cpp {READ_AHEAD}K", True, device, label, budget))
    return out


def best_peer(runs, run, test):
    """Speed of the faster run of llama.cpp at a run's budget."""
    return max((r.speed(test) for r in runs if r.peer and r.budget == run.budget and r.rows[test]), default=None)


def shares_of_bounds(run, resident):
    """Medians over the turns: of the drive's and of the slower of the drive's and the processor's; "" where nothing is read, or the drive's speed is
    not known."""
    rows = [(row["tokens"] / row["seconds"], row["read_bytes_per_token"] / row["drive"]) for row in run.rows["tg"] if row.get("drive")]
    if not rows:
        return ""
    of_drive = statistics.median(speed * seconds for speed, seconds in rows)
    return f"{of_drive:.1%} / " + (f"{statistics.median(speed * max(seconds, 1 / resident) for speed, seconds in rows):.1%}" if resident else "")


def cells_of(run, runs):
    """The cells of a row."""
    def speed(test):
        if not run.rows[test]:
            return run.failed.get(test, "")
        speeds = run.speeds(test)
        return f"{run.speed(test):.2f} ({min(speeds):.2f}-{max(speeds):.2f})" + (f", then {run.failed[test]}" if test in run.failed else "")

    def times(test):
        peer = best_peer(runs, run, test)
        return f"{run.speed(test) / peer:.2f}" if peer and run.rows[test] else ""

    resident = next((r.speed("tg") for r in runs if r.name == run.name.removesuffix(f" {READ_AHEAD}K") and not r.budget), None)
    read, mb = run.middle("read_bytes_per_token"), run.middle("drive")
    slow = [run.middle(f"token_p{p}") for p in (50, 90, 99)]
    return [run.name, f"{run.budget / MIB:.0f}{f' ({run.label})' if run.label.endswith('%') else ''}" if run.budget else "none", speed("tg"),
            f"{run.speed('tg') / resident:.1%}" if resident and run.rows["tg"] else "", times("tg"),
            "" if None in slow else " / ".join(f"{1e3 * t:.0f}" for t in slow), "" if read is None else f"{read / MIB:.1f}",
            speed("pp"), times("pp"), f"{max(run.peaks) / MIB:.0f}" if run.peaks else "", str(run.kills),
            "" if mb is None else f"{mb / 1e6:.0f}", shares_of_bounds(run, resident)]


def usable_place():
    """Where memory cgroups can be made, or None, which is said."""
    place = memory_group.find()
    try:
        if place:
            with memory_group.Group(place, 64 * MIB) as group:
                place = place if memory_group.run(["/bin/true"], 60, group)["code"] == 0 else None
    except OSError:
        place = None
    if not place:
        say("no memory cgroup can be made: nothing limits the page cache, and llama.cpp is not held to the budgets")
    return place


def measure(args, runs, place, save):
    """All turns; save() after each, since a whole run may take hours."""
    tests = [test for test, count in (("tg", args.decode), ("pp", args.prefill)) if count]
    for _ in range(args.repeat):
        for run in runs:
            for test in tests:
                if test not in run.failed:
                    run.measure(args, place, test)
        save()


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--gguf", required=True, metavar="FILE", help="the model")
    add("--bin", metavar="FILE", help="the model.bin made from it, for sparsegen")
    add("--ids", required=True, metavar="FILE", help="token ids to feed, separated by blanks")
    add("--ram", metavar="B[,B...]", help="budgets: shares of the GGUF as 50%%, sizes as 600M or 2G (default: only everything in memory)")
    add("--with", dest="with_", action="append", default=[], metavar="LABEL=ARGS", help="one more run of sparsegen with these arguments; may be repeated")
    add("--sparsegen-args", default="", metavar="'ARGS'", help="more arguments for all runs of sparsegen")
    add("--prefill", "-p", type=int, default=512, metavar="N", help="tokens of the prompt, 0 for none (default %(default)s)")
    add("--decode", "-n", type=int, default=128, metavar="N", help="tokens to decode, 0 for none (default %(default)s)")
    add("--warm", type=int, default=64, metavar="N", help="tokens before them (default %(default)s)")
    add("--llama-decode", type=int, metavar="N", help="tokens of llama.cpp, 0 to leave it out (default: as --decode)")
    add("--llama-warm", type=int, metavar="N", help="tokens before them (default: as --warm)")
    add("--repeat", type=int, default=3, metavar="N", help="turns (default %(default)s)")
    add("--limit", type=float, default=1800, metavar="S", help="seconds that a process may take (default %(default)s)")
    add("--slack", type=int, default=32, metavar="MIB", help="room of the cgroup beyond the budget (default %(default)s)")
    add("--drive-seconds", type=float, default=5, metavar="S", help="time of each measurement of the drive, before and after a process, 0 for none (default %(default)s)")
    add("--no-loop", action="store_true", help="llama.cpp only with the read-ahead that the drive has")
    add("--threads", type=int, default=os.cpu_count(), metavar="T", help="threads (default: all cores)")
    add("--drop", choices=["all", "files"], default="all", help="what is dropped from the page cache (default %(default)s)")
    add("--sparsegen", default=peers.SPARSEGEN, metavar="FILE", help="the program (default %(default)s)")
    add("--python", default=sys.executable, metavar="FILE", help="interpreter that has llama_cpp (default: this one)")
    add("--json", metavar="OUT", help="also write every row to this file")
    args = parser.parse_args()
    args.llama_decode = args.decode if args.llama_decode is None else args.llama_decode
    args.llama_warm = args.warm if args.llama_warm is None else args.llama_warm
    args.with_ = [text.partition("=") for text in args.with_]
    if not all(name and more for name, _, more in args.with_):
        parser.error("--with takes LABEL=ARGS")
    args.with_ = [(name, more) for name, _, more in args.with_]
    if min(args.repeat, args.threads, args.limit) < 1 or min(args.prefill, args.decode, args.warm, args.llama_decode, args.llama_warm, args.slack) < 0:
        parser.error("--repeat, --threads and --limit must be at least 1, the other numbers at least 0")
    if args.prefill + args.decode == 0:
        parser.error("--prefill and --decode are both 0: nothing to measure")
    args.told = False
    return args, parser


def main():
    """Measure and print."""
    args, parser = arguments()
    for path in filter(None, (args.gguf, args.bin, args.ids)):
        if not os.path.exists(path):
            sys.exit(f"bench_moe: there is no {path}")
    try:
        budgets = figures.budgets(args.ram, None, os.path.getsize(args.gguf), 0)
    except ValueError as error:
        parser.error(str(error))
    info = peers.describe(args, bool(args.llama_decode))
    place = usable_place() if budgets else None
    with loop_device(args.gguf) if budgets and args.llama_decode and not args.no_loop else contextlib.nullcontext() as device:
        runs = runs_of(args, budgets, device)

        def save():
            if args.json:
                with open(args.json, "w") as f:
                    json.dump({"info": info, "limited": bool(place), "runs": [vars(run) for run in runs]}, f, indent=1)

        measure(args, runs, place, save)
    for key, value in info.items():
        print(f"- {key}: {value}")
    if budgets:
        print(f"- memory limited by a cgroup: {f'budget + {args.slack} MiB' if place else 'no'}")
    print(f"- prompts of {args.prefill} tokens; decode: {args.warm} tokens to warm up, {args.decode} timed; llama.cpp {args.llama_warm} and {args.llama_decode}")
    print("\n| " + " | ".join(HEAD) + " |\n|" + "|".join("---:" if i else "---" for i in range(len(HEAD))) + "|")
    for run in runs:
        print("| " + " | ".join(cells_of(run, runs)) + " |")


if __name__ == "__main__":
    main()
