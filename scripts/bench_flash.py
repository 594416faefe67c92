#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measure decode of a model that is larger than the memory it may take, beside llama.cpp with mmap under the same limit.

    bench_flash.py --bin model.bin --gguf MODEL.gguf --ram 50%,25%       shares of model.bin's size, or sizes as 600M, 2G
    bench_flash.py --bin model.bin --gguf MODEL.gguf --ffn-share 50%     all but the feed-forward weights, and this share of these
    bench_flash.py --bin model.bin --gguf MODEL.gguf --ablation          what each part of the method brings, at one budget

Every run is a process of its own in a memory cgroup of budget + --slack MiB, page cache included; its files are dropped from the
page cache before (with the rest of the page cache, when this is root and not --drop files). Runs take turns; medians count.
  resident   sparsegen on model.bin, everything in memory and no limit
  lossless   sparsegen on model.bin with --ram
  predicted  the same with --lossy, when given; its resident run is measured too
  llama.cpp  on the GGUF through llama_cpp_bench.py, mapped and not repacked, after one token to warm up; few tokens, since it may
             be slow
  dense      sparsegen on the GGUF with --ram, only with --ablation
Token ids have topics that persist, as text has: topic = id modulo what the file says (make_sparse.py), for a geometric number of
tokens; without topics in the file any id follows any other. --warm tokens come before those that are timed.

The columns. MiB and reads a token: without the warm-up, from the difference to a run that ends after one token. In RAM / ahead: of
the neurons that fired, with the warm-up as all that follows. Waiting: share of the threads' time. Peak: resident memory, of
llama.cpp with the interpreter. Kills: by the kernel, for lack of memory. Of bound: measured speed times the larger of two times: what the
drive needs for these reads (1 MiB pieces in order and records of one neuron, at speeds measured before and after the turns),
and the time of a resident token. Times llama.cpp: at the same budget.
"""
import argparse
import json
import os
import statistics
import struct
import sys
import tempfile

import bench_peers as peers
import drive_speed
import flash_figures as figures
import memory_group
from gguf_file import GgufFile

MIB = figures.MIB
HEAD = ("run", "budget, MiB", "tokens/s (min-max)", "of resident", "times llama.cpp", "MiB a token", "reads a token", "in RAM / ahead, %",
        "waiting, %", "ms P50 / P90 / P99", "peak, MiB", "kills", "of bound")
ABLATION = {"llama.cpp": "a. llama.cpp, mmap", "dense": "a. whole matrices streamed", "bundles": "b. + bundles", "cache": "c. + cache", "no prefetch": "d. + pipeline",
            "lossless": "e. + prefetch", "predicted": "f. + predicted neurons only"}
SWITCHES = {"bundles": ["--no-cache", "--no-pipeline", "--no-prefetch"], "cache": ["--no-pipeline", "--no-prefetch"], "no prefetch": ["--no-prefetch"]}


class Run:
    """One row: what is run, and what came of it."""

    def __init__(self, kind, label, budget, lossy=None):
        self.kind, self.label, self.budget, self.lossy = kind, label, budget, lossy
        self.speeds, self.stats, self.short, self.peaks, self.kills, self.failed = [], [], None, [], 0, None

    def __str__(self):
        return self.kind + (f" {self.lossy}" if self.lossy else "") + (f", {self.label}" if self.label else "")

    def command(self, args, ids, tokens):
        if self.kind == "llama.cpp":
            return [args.python, peers.LLAMA_BENCH, "--mmap", "-m", args.gguf, "-p", "0", "-n", str(args.llama_tokens),
                    "-t", str(args.threads), "-r", "1", "-o", "json"]
        command = [args.sparsegen, "bench", "--no-limits", "--stats", "-m", args.gguf if self.kind == "dense" else args.bin, "-p", "0",
                   "-n", str(tokens), "-t", str(args.threads), "-r", "1", "-o", "json", "--warm", str(args.warm), "--ids", ids]
        command += ["--ram", f"{self.budget // MIB}M"] if self.budget else []
        command += SWITCHES.get(self.kind, [])
        return command + (["--lossy", self.lossy] if self.lossy else []) + (["--io", args.io] if args.io else [])

    def measure(self, args, place, ids, short=False):
        """One process. A run that fails is not repeated; the reason is kept for its row."""
        tokens = 1 if short else args.decode
        command = self.command(args, ids, tokens)
        done, self.failed = memory_group.run_cold(command, args, place, self.budget and self.budget + args.slack * MIB,
                                                  args.gguf if self.kind == "llama.cpp" and not self.budget else None)
        self.kills += done["kills"]
        if self.failed:
            print(f"{self}: {self.failed}", file=sys.stderr)
            return
        stats = figures.parse_stats(done["err"])
        if short:
            self.short = stats
            return
        row = next(iter(peers.parse_rows(command, done["out"]).values()), None)
        if not row or not row["seconds"] > 0:
            sys.exit(f"bench_flash: {' '.join(command)}\nprinted no usable results")
        self.speeds.append(row["tokens"] / row["seconds"])
        self.stats.append(stats)
        self.peaks.append(stats["peak"] * MIB if "peak" in stats else done["peak"])

    def middle(self, name):
        """The median of a number of --stats, None where it is not printed."""
        values = [stats[name] for stats in self.stats if name in stats]
        return statistics.median(values) if values else None

    def reads(self):
        """Medians of bytes and reads a token."""
        pairs = [figures.reads_a_token(stats, self.short) for stats in self.stats]
        return tuple(statistics.median(side) for side in zip(*pairs))


def row_of(run, runs, record, drive, name):
    """The cells of a run."""
    budget = f"{run.budget / MIB:.0f}{f' ({run.label})' if run.label.endswith('%') else ''}" if run.budget else "none"
    if not run.speeds:
        return [name, budget, run.failed or "not run"] + [""] * 8 + [str(run.kills), ""]
    speed = statistics.median(run.speeds)

    def ratio(kind, same):
        other = next((r for r in runs if r.kind == kind and same(r) and r.speeds), None)
        return speed / statistics.median(other.speeds) if other else None

    resident = ratio("resident", lambda r: r.lossy == run.lossy)
    peer = ratio("llama.cpp", lambda r: r.budget == run.budget)
    cells = [name, budget, f"{speed:.2f} ({min(run.speeds):.2f}-{max(run.speeds):.2f})" + (f", then {run.failed}" if run.failed else ""),
             "" if resident is None else f"{resident:.1%}", "" if peer is None or not run.budget else f"{peer:.2f}"]
    size, reads = run.reads()
    hot, ahead = run.middle("hot"), run.middle("ahead")
    streams = run.middle("demands") is not None
    least = figures.least_seconds(size, reads, record, drive, resident / speed) if streams and resident else None
    cells += [f"{size / MIB:.2f}", f"{reads:.0f}"] if streams else ["", ""]
    cells += ["" if hot is None else f"{hot + run.middle('cached'):.1f} / {ahead:.1f}",
              f"{run.middle('waiting'):.1f}" if streams else "",
              " / ".join(f"{run.middle(p):.1f}" for p in ("p50", "p90", "p99")) if run.middle("p50") is not None else "",
              f"{max(run.peaks) / MIB:.0f}", str(run.kills), "" if least is None else f"{speed * least:.1%}"]
    return cells


def runs_of(args, budgets):
    """The runs of a turn, in their order."""
    out = [Run("resident", "", 0)] + [Run("resident", "", 0, lossy) for lossy in args.lossy]
    for label, budget in budgets:
        if args.gguf and args.llama_tokens:
            out.append(Run("llama.cpp", label, budget))
        if args.ablation:
            out += [Run("dense", label, budget)] if args.gguf else []
            out += [Run(kind, label, budget) for kind in SWITCHES]
        out.append(Run("lossless", label, budget))
        out += [Run("predicted", label, budget, lossy) for lossy in args.lossy]
    return out


def measure(args, runs, record):
    """All turns; returns the speed of the drive."""
    place = memory_group.find()
    if place:
        try:
            with memory_group.Group(place, 64 * MIB) as group:
                usable = memory_group.run(["/bin/true"], 60, group)["code"] == 0
        except OSError:
            usable = False
        if not usable:
            print(f"bench_flash: no memory cgroup can be made and entered in {place[1]}", file=sys.stderr)
            place = None
    if not place:
        print("bench_flash: nothing limits the page cache: llama.cpp is not held to the budgets", file=sys.stderr)
    args.limited = bool(place)

    def drive(best):
        if args.drive:
            return {"sequential": args.drive[0] * 1e6, "iops": args.drive[1], "how": "as given"}
        return drive_speed.better(best, drive_speed.measure(args.bin, record, args.drive_seconds, args.threads)) if args.drive_seconds else None

    speed = drive(None)
    with tempfile.NamedTemporaryFile("w", prefix="bench_flash.", suffix=".ids") as f:
        f.write("\n".join(map(str, args.ids)) + "\n")
        f.flush()
        for run in runs:
            if run.budget and run.kind != "llama.cpp" and args.decode > 1:
                run.measure(args, place, f.name, short=True)
        for turn in range(args.repeat):
            for run in runs:
                if run.failed:
                    continue
                run.measure(args, place, f.name)
                if not run.failed:
                    print(f"turn {turn + 1}/{args.repeat}, {run}: {run.speeds[-1]:.2f} tokens/s", file=sys.stderr)
    return drive(speed)


def report(args, runs, record, drive):
    """The Markdown table and what belongs to it."""
    print("\n| " + " | ".join(HEAD) + " |\n|" + "|".join("---:" if i else "---" for i in range(len(HEAD))) + "|")
    for run in runs:
        name = ABLATION.get(run.kind, run.kind) if args.ablation else run.kind
        print("| " + " | ".join(row_of(run, runs, record, drive, name + (f" {run.lossy}" if run.lossy else ""))) + " |")
    if drive and drive["sequential"]:
        more = f", {drive['iops']:.0f} random reads of {record} bytes a second" if drive["iops"] else ""
        print(f"\ndrive ({drive['how']}): {drive['sequential'] / 1e6:.0f} MB/s in order{more}")


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--bin", required=True, metavar="FILE", help="the model.bin")
    add("--gguf", metavar="FILE", help="the GGUF that it was made from, for llama.cpp")
    add("--ram", metavar="B[,B...]", help="budgets: shares as 50%%, sizes as 600M or 2G")
    add("--ffn-share", metavar="S[,S...]", help="budgets by the share of the feed-forward weights that fits (--ablation: default 50%%)")
    add("--lossy", action="append", default=[], metavar="predict=R", help="also measure with this; may be repeated")
    add("--ablation", action="store_true", help="the steps of the method at one budget instead")
    add("--decode", "-n", type=int, default=64, metavar="N", help="tokens of a run (default %(default)s)")
    add("--warm", type=int, default=64, metavar="N", help="tokens before them (default %(default)s)")
    add("--llama-tokens", type=int, default=4, metavar="N", help="tokens of llama.cpp, 0 to leave it out (default %(default)s)")
    add("--repeat", type=int, default=5, metavar="N", help="turns (default %(default)s)")
    add("--limit", type=float, default=600, metavar="S", help="seconds that a run may take (default %(default)s)")
    add("--slack", type=int, default=64, metavar="MIB", help="room of the cgroup beyond the budget (default %(default)s)")
    add("--topic-length", type=float, default=64, metavar="N", help="mean tokens of a topic (default %(default)s)")
    add("--seed", type=int, default=1, help="seed of the token ids (default %(default)s)")
    add("--threads", type=int, default=os.cpu_count(), metavar="T", help="threads (default: all cores)")
    add("--io", choices=["auto", "uring", "pread"], help="how sparsegen reads")
    add("--drop", choices=["all", "files"], default="all", help="what is dropped from the page cache (default %(default)s)")
    add("--drive-seconds", type=float, default=5, metavar="S", help="time of each measurement of the drive, 0 for none (default %(default)s)")
    add("--drive", type=lambda text: [float(x) for x in text.split(",")], metavar="MB/S,IOPS", help="the drive's speeds, not to be measured")
    add("--sparsegen", default=peers.SPARSEGEN, metavar="FILE", help="the program (default %(default)s)")
    add("--python", default=sys.executable, metavar="FILE", help="interpreter that has llama_cpp (default: this one)")
    add("--json", metavar="OUT", help="also write every sample to this file")
    args = parser.parse_args()
    if args.ablation and not args.ram and not args.ffn_share:
        args.ffn_share = "50%"
    if not args.ram and not args.ffn_share:
        parser.error("give --ram or --ffn-share")
    if min(args.decode, args.repeat, args.threads, args.topic_length, args.limit) < 1 or min(args.warm, args.llama_tokens, args.slack) < 0:
        parser.error("--decode, --repeat, --threads, --topic-length and --limit must be at least 1, the others at least 0")
    if args.drive and (len(args.drive) != 2 or min(args.drive) <= 0):
        parser.error("--drive takes MB/s and reads a second")
    args.told = False
    return args, parser


def main():
    """Measure and print."""
    args, parser = arguments()
    try:
        model = GgufFile(args.bin)
        budgets = figures.budgets(args.ram, args.ffn_share, os.path.getsize(args.bin), figures.ffn_bytes(model))
        record, vocabulary = figures.record_bytes(model), model.tensors["token_embd.weight"][0][-1]
        topics = model.keys.get("sparsegen.synthetic.topics", 0)
    except OSError as error:
        sys.exit(f"bench_flash: {args.bin}: {error.strerror}")
    except (struct.error, KeyError, IndexError) as error:
        sys.exit(f"bench_flash: unusable file: {error}")
    except ValueError as error:
        parser.error(str(error))
    if args.ablation and len(budgets) != 1:
        parser.error("--ablation takes one budget")
    args.ids = figures.token_ids(args.warm + args.decode, vocabulary, topics, args.topic_length, args.seed)
    runs = runs_of(args, budgets)
    info = peers.describe(args, any(run.kind == "llama.cpp" for run in runs))
    for key, value in info.items():
        print(f"- {key}: {value}")
    drive = measure(args, runs, record)
    print(f"- memory limited by a cgroup: {'budget + ' + str(args.slack) + ' MiB' if args.limited else 'no'}")
    print(f"- token ids: {f'{topics} topics, {args.topic_length:g} tokens each' if topics else 'any'}; {args.warm} to warm up, {args.decode} timed")
    report(args, runs, record, drive)
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"info": info, "drive": drive, "record": record, "runs": [vars(run) for run in runs]}, f, indent=1)


if __name__ == "__main__":
    main()
