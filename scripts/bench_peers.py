#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measure sparsegen and llama.cpp side by side: the same GGUF, the same threads, one run, one machine.

Each measurement is a process of its own, and the peers take turns (A B A B), so a busy neighbour hits both.
Load time is not counted. Prefill (pp) is one prompt of random tokens, decode (tg) is random tokens one by one, each
from an empty context, without sampling. llama.cpp runs through llama_cpp_bench.py. "of limit" is the weight bytes that
a token reads, times tokens a second, over the best memory read rate measured before and after every turn. "others'
CPUs" is what other processes used at worst, in CPUs: distrust a run where it is not near 0. Peak memory counts the
mapped file too, and for llama.cpp the Python interpreter around it.
"""
import argparse
import json
import os
import platform
import re
import statistics
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
LLAMA_BENCH = os.path.join(HERE, "llama_cpp_bench.py")
PEERS = ("sparsegen", "llama.cpp")

BANDWIDTH_C = r"""
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
int main(int n_args, char **argv) {
    if (n_args != 3) return 1;
    size_t n = strtoull(argv[1], NULL, 10) / 8;
    omp_set_num_threads(atoi(argv[2]));
    uint64_t *a = mmap(NULL, n * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), sum = 0;
    if (a == MAP_FAILED) return 1;
    madvise(a, n * 8, MADV_HUGEPAGE);
    #pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++) a[i] = i;
    for (int pass = 0; pass < 5; pass++) {
        double t = omp_get_wtime();
        #pragma omp parallel for simd schedule(static) reduction(+:sum)
        for (size_t i = 0; i < n; i++) sum += a[i];
        printf("%.0f\n", n * 8 / (omp_get_wtime() - t));
    }
    return sum == 42;
}
"""


def run_child(command):
    """Run a command; returns its standard output, its peak resident bytes, and the CPUs that others used meanwhile.

    The kernel never reports a smaller peak for a child than its parent had, so this program has to stay small.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start, busy = time.monotonic(), busy_seconds()
        try:
            child = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL)
        except OSError as error:
            sys.exit(f"bench_peers: cannot run {command[0]}: {error.strerror}")
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        others = (busy_seconds() - busy - usage.ru_utime - usage.ru_stime) / (time.monotonic() - start)
        out.seek(0), err.seek(0)
        if child.returncode:
            detail = err.read().decode(errors="replace").strip().splitlines()[-5:]
            sys.exit(f"bench_peers: {' '.join(command)}\nended with {child.returncode}:\n" + "\n".join(detail))
        return out.read().decode(), usage.ru_maxrss * 1024, max(0.0, others)


def busy_seconds():
    """CPU seconds that the whole machine has spent on work since it started."""
    with open("/proc/stat") as f:
        fields = [int(x) for x in f.readline().split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")  # without idle and iowait


def build_bandwidth_probe(folder, compiler):
    """Compile the read loop; returns the path of the program."""
    source, program = os.path.join(folder, "bandwidth.c"), os.path.join(folder, "bandwidth")
    with open(source, "w") as f:
        f.write(BANDWIDTH_C)
    run_child([compiler, "-O3", "-march=native", "-fopenmp", source, "-o", program])
    return program


def measure_bandwidth(program, threads):
    """Best of five passes of reading 2 GiB (or a quarter of what is free), in bytes a second."""
    with open("/proc/meminfo") as f:
        free = int(re.search(r"MemAvailable:\s+(\d+)", f.read()).group(1)) * 1024
    return max(float(x) for x in run_child([program, str(min(2 << 30, free // 4)), str(threads)])[0].split())


def read_gguf(path):
    """The metadata of a GGUF file without its arrays, and its tensors as {name: bytes}, taken from the offsets."""
    scalars = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
    with open(path, "rb") as f:
        def get(fmt):
            return struct.unpack(fmt, f.read(struct.calcsize(fmt)))[0]

        def value(kind):
            if kind == 8:
                return f.read(get("<Q")).decode(errors="replace")
            if kind == 9:
                kind, count = get("<I"), get("<Q")
                for _ in range(count):
                    value(kind)
                return None
            return get(scalars[kind])

        if f.read(4) != b"GGUF" or get("<I") not in (2, 3):
            raise ValueError("not a GGUF file of version 2 or 3")
        tensors, pairs = get("<Q"), get("<Q")
        meta = {}
        for _ in range(pairs):
            key = value(8)
            meta[key] = value(get("<I"))
        offsets = []
        for _ in range(tensors):
            name = value(8)
            f.seek(8 * get("<I") + 4, 1)
            offsets.append((get("<Q"), name))
        align = meta.get("general.alignment", 32)
        end = os.path.getsize(path) - (f.tell() + align - 1) // align * align
    offsets.sort()
    ends = [start for start, _ in offsets[1:]] + [end]
    return meta, {name: stop - start for (start, name), stop in zip(offsets, ends)}


def bytes_per_token(path):
    """Bytes of weights that one decoded token reads: no embedding table unless it is the output matrix too; of the
    experts, those used."""
    meta, tensors = read_gguf(path)
    arch = meta["general.architecture"]
    experts = meta.get(arch + ".expert_count", 0)
    used = meta.get(arch + ".expert_used_count", 0) / experts if experts else 1
    tied = "output.weight" not in tensors
    return sum(size * (used if "_exps." in name else 1) for name, size in tensors.items()
               if tied or name != "token_embd.weight")


def run_peer(args, peer, model, threads):
    """One process of a peer; returns {test: tokens a second}, peak resident bytes, CPU share of others."""
    command = {"sparsegen": [args.sparsegen, "bench"] + args.sparsegen_args.split(),
               "llama.cpp": [args.python, LLAMA_BENCH, "--seed", str(args.seed)]}[peer]
    command += ["-m", model, "-p", str(args.prefill), "-n", str(args.decode), "-t", str(threads), "-r", "1"]
    command += ["-o", "json"]
    out, peak, others = run_child(command)
    try:
        speeds = {r["test"]: r["tokens"] / r["seconds"] for r in json.loads(out)}
        return {test: speeds[test] for test in tests_of(args)}, peak, others
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        sys.exit(f"bench_peers: {' '.join(command)}\nprinted no usable results ({error!r})")


def tests_of(args):
    """Names of the tests asked for."""
    return [f"{name}{count}" for name, count in (("pp", args.prefill), ("tg", args.decode)) if count]


def compiler_of(path):
    """The compiler that a binary says it was made with."""
    with open(path, "rb") as f:
        found = re.search(rb"GCC: \([^)]*\) [\d.]+|clang version [\d.]+", f.read())
    return found.group().decode() if found else "?"


def describe(args, model, touched):
    """What was measured, where, and with which versions."""
    with open("/proc/cpuinfo") as f:
        names = re.findall(r"model name\s*:\s*(.*)", f.read())
    info = {"cpu": names[0] if names else platform.machine(), "cores": os.cpu_count(),
            "kernel": f"{platform.system()} {platform.release()}", "load average": round(os.getloadavg()[0], 2),
            "compiler": run_child([args.cc, "--version"])[0].splitlines()[0]}
    info.update(json.loads(run_child([args.python, LLAMA_BENCH, "--versions"])[0]))
    try:
        version = subprocess.run([args.sparsegen, "--version"], stdin=subprocess.DEVNULL,
                                 capture_output=True, text=True)
    except OSError as error:
        sys.exit(f"bench_peers: cannot run {args.sparsegen}: {error.strerror}")
    info["sparsegen"] = version.stdout.strip().split("\n")[0] if version.returncode == 0 else "?"
    info["sparsegen compiler"] = compiler_of(args.sparsegen)
    info.update({"model": os.path.basename(model), "model bytes": os.path.getsize(model),
                 "weight bytes per token": round(touched), "repeats": args.repeat})
    return info


def measure(args, model, touched, folder):
    """All runs; returns a list of results, one per test and thread count."""
    probe, results = build_bandwidth_probe(folder, args.cc), []
    with open(model, "rb") as f:  # into the page cache
        while f.read(1 << 20):
            pass
    for threads in args.threads:
        runs, rates = {p: [] for p in PEERS}, [measure_bandwidth(probe, threads)]
        for turn in range(args.repeat):
            for peer in PEERS:
                runs[peer].append(run_peer(args, peer, model, threads))
                print(f"{threads} threads, turn {turn + 1}/{args.repeat}, {peer}: " + ", ".join(
                    f"{k} {v:.2f}" for k, v in runs[peer][-1][0].items()) + " tokens/s", file=sys.stderr)
            rates.append(measure_bandwidth(probe, threads))
        for test in tests_of(args):
            row = {"test": test, "threads": threads, "bandwidth": max(rates)}
            for peer in PEERS:
                speeds = [r[0][test] for r in runs[peer]]
                row[peer] = {"median": statistics.median(speeds), "best": max(speeds), "all": speeds,
                             "peak_bytes": max(r[1] for r in runs[peer]), "others_cpu": max(r[2] for r in runs[peer])}
                if test.startswith("tg"):
                    row[peer]["share"] = row[peer]["median"] * touched / max(rates)
            row["ratio"] = row["sparsegen"]["median"] / row["llama.cpp"]["median"]
            row["ratio_best"] = row["sparsegen"]["best"] / row["llama.cpp"]["best"]
            results.append(row)
    return results


def print_report(info, results, markdown):
    """The description and one line per result, as aligned text or as Markdown."""
    for key, value in info.items():
        print(f"- {key}: {value}" if markdown else f"{key}: {value}")
    rows = [["test", "threads"] + [f"{p} {what}" for what in ("tok/s (min-max)", "of limit", "peak MiB") for p in PEERS]
            + ["ratio", "ratio of best", "read GB/s", "others' CPUs"]]
    for r in results:
        cells = [[f"{r[p]['median']:.2f} ({min(r[p]['all']):.2f}-{r[p]['best']:.2f})" for p in PEERS],
                 [f"{r[p]['share']:.0%}" if "share" in r[p] else "" for p in PEERS],
                 [f"{r[p]['peak_bytes'] / 2**20:.0f}" for p in PEERS]]
        rows.append([r["test"], str(r["threads"])] + sum(cells, []) + [
            f"{r['ratio']:.2f}", f"{r['ratio_best']:.2f}", f"{r['bandwidth'] / 1e9:.1f}",
            f"{max(r[p]['others_cpu'] for p in PEERS):.2f}"])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    print()
    for i, row in enumerate(rows):
        line = (" | " if markdown else "  ").join(c.ljust(w) for c, w in zip(row, widths))
        print(f"| {line} |" if markdown else line.rstrip())
        if markdown and i == 0:
            print("|" + "|".join("-" * (w + 2) for w in widths) + "|")


def main():
    """Read the command line, find or make the model, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", metavar="FILE", help="GGUF to measure with")
    add("--shape", help="make a model of this shape in a temporary folder instead (see make_synthetic.py)")
    add("--type", default="q4_0", help="type of its weights (default %(default)s)")
    add("--layers", help="only so many of its layers (for a quick test)")
    add("--threads", type=lambda s: [int(x) for x in s.split(",")], default=[os.cpu_count()], metavar="T[,T...]",
        help="thread counts, each measured by itself (default: all cores)")
    add("--prefill", type=int, default=512, metavar="N", help="tokens of the prompt, 0 for none (default %(default)s)")
    add("--decode", type=int, default=32, metavar="N", help="tokens to decode, 0 for none (default %(default)s)")
    add("--repeat", type=int, default=5, metavar="N", help="turns of each peer (default %(default)s)")
    add("--seed", type=int, default=1, help="seed of the random tokens (default %(default)s)")
    add("--sparsegen", default="build/runtime/sparsegen", metavar="FILE", help="the program (default %(default)s)")
    add("--sparsegen-args", default="", metavar="'ARGS'", help="more arguments for `sparsegen bench`, in one string")
    add("--python", default=sys.executable, metavar="FILE",
        help="interpreter that has llama_cpp and numpy (default: this one)")
    add("--cc", default="cc", help="compiler of the memory bandwidth probe (default %(default)s)")
    add("--json", metavar="OUT", help="also write every sample to this file")
    add("--markdown", action="store_true", help="print the report as Markdown")
    args = parser.parse_args()
    if bool(args.model) == bool(args.shape):
        parser.error("give either --model or --shape")
    if min(args.threads + [args.repeat]) < 1 or min(args.prefill, args.decode) < 0 or args.prefill + args.decode == 0:
        parser.error("--threads and --repeat must be at least 1, and one of --prefill and --decode above 0")
    with tempfile.TemporaryDirectory(prefix="bench_peers.") as folder:
        model = args.model
        if args.shape:
            model = os.path.join(folder, f"{args.shape}-{args.type}.gguf")
            command = [args.python, os.path.join(HERE, "make_synthetic.py"), args.shape, args.type, model]
            print(run_child(command + (["--layers", args.layers] if args.layers else []))[0], end="", file=sys.stderr)
        try:
            touched = bytes_per_token(model)
        except (OSError, ValueError, KeyError, struct.error) as error:
            sys.exit(f"bench_peers: cannot read {model}: {error}")
        info = describe(args, model, touched)
        results = measure(args, model, touched, folder)
    print_report(info, results, args.markdown)
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"info": info, "results": results}, f, indent=1)


if __name__ == "__main__":
    main()
