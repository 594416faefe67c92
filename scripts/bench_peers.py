#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measure sparsegen and llama.cpp side by side: the same GGUF, the same threads, one run, one machine.

Each measurement is a process of its own, and the peers take turns (A B A B), so a busy neighbour hits both.
Load time is not counted, nor is the first evaluation of each test. Prefill (pp) is one prompt of random tokens,
decode (tg) is random tokens one by one, each behind --depth tokens that are already in the context, without sampling.
llama.cpp runs through llama_cpp_bench.py.

The limits of the machine (`sparsegen bench --limits-only`) are measured before and after every turn; the best counts
("of limit"). "of typical", decode only, sets each turn against the median pass of the read loop right before and right
after it, and takes the median of the turns: pairs in time, as speeds are medians and neighbours come and go.
"of limit" is for decode the bytes of weights and KV cache that a token reads, times tokens a second, over the memory
read rate; for prefill the operations of the matrix products a second over the peak of the int8 multiply instruction.
Both peers do the same work, so both are compared with the same limit. "others' CPUs" is what other processes used at
worst, in CPUs: distrust a run where it is not near 0. Peak memory counts the mapped file too, and for llama.cpp the
Python interpreter around it.
"""
import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SPARSEGEN = os.path.normpath(os.path.join(HERE, "..", "build", "runtime", "cli", "sparsegen"))
LLAMA_BENCH = os.path.join(HERE, "llama_cpp_bench.py")
PEERS = ("sparsegen", "llama.cpp")
PROGRAM = os.path.splitext(os.path.basename(sys.argv[0]))[0]  # bench_sparse.py uses these functions too

LIMITS = ("read", "read_plain", "int8", "int8_sum", "f32")


def run_child(command):
    """Run a command; returns its standard output, its peak resident bytes, and the CPUs that others used meanwhile.

    The kernel never reports a smaller peak for a child than its parent had, so this program has to stay small.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start, busy = time.monotonic(), busy_seconds()
        try:
            child = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL)
        except OSError as error:
            sys.exit(f"{PROGRAM}: cannot run {command[0]}: {error.strerror}")
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        others = (busy_seconds() - busy - usage.ru_utime - usage.ru_stime) / (time.monotonic() - start)
        out.seek(0), err.seek(0)
        if child.returncode:
            detail = err.read().decode(errors="replace").strip().splitlines()[-5:]
            sys.exit(f"{PROGRAM}: {' '.join(command)}\nended with {child.returncode}:\n" + "\n".join(detail))
        return out.read().decode(), usage.ru_maxrss * 1024, max(0.0, others)


def busy_seconds():
    """CPU seconds that the whole machine has spent on work since it started."""
    with open("/proc/stat") as f:
        fields = [int(x) for x in f.readline().split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")  # without idle and iowait


def parse_rows(command, out):
    """The rows that a peer printed as JSON."""
    try:
        rows = json.loads(out)
        return {row["test"]: row for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        sys.exit(f"{PROGRAM}: {' '.join(command)}\nprinted no usable results ({error!r})")


def measure_limits(args, threads, best):
    """Measure the limits of the machine; returns the better ones of `best` and these, and all medians of reading."""
    command = [args.sparsegen, "bench", "--limits-only", "-t", str(threads), "-o", "json"]
    row = parse_rows(command, run_child(command)[0])["limits"]
    limits = {name: max(row["limit_" + name], best.get(name, 0)) for name in LIMITS}
    return {**limits, "read_medians": best.get("read_medians", []) + [row["limit_read_median"]]}


def run_peer(args, peer, model, threads, depth):
    """One process of a peer; returns its rows by test, peak resident bytes, CPU share of others."""
    command = {"sparsegen": [args.sparsegen, "bench", "--no-limits"] + args.sparsegen_args.split(),
               "llama.cpp": [args.python, LLAMA_BENCH, "--seed", str(args.seed)]}[peer]
    command += ["-m", model, "-p", str(args.prefill), "-n", str(args.decode), "-d", str(depth)]
    command += ["-t", str(threads), "-r", "1", "-o", "json"]
    out, peak, others = run_child(command)
    rows = parse_rows(command, out)
    if set(tests_of(args)) - set(rows) or not all(row["seconds"] > 0 for row in rows.values()):
        sys.exit(f"{PROGRAM}: {' '.join(command)}\nprinted no usable results")
    return rows, peak, others


def tests_of(args):
    """Names of the tests asked for."""
    return [f"{name}{count}" for name, count in (("pp", args.prefill), ("tg", args.decode)) if count]


def least_seconds(row, limits):
    """The time of one token of a test if a limit were all that held it up; `row` is sparsegen's."""
    if row["weight_bytes_per_token"] is not None:
        return (row["weight_bytes_per_token"] + row["kv_bytes_per_token"]) / limits["read"]
    return row["int8_ops_per_token"] / limits["int8"] + row["f32_ops_per_token"] / limits["f32"]


def typical_share(row, speeds, medians):
    """Median over the turns of the share of what the read loop typically gave around the turn; None for prefill."""
    if row["weight_bytes_per_token"] is None:
        return None
    return statistics.median(speed * least_seconds(row, {"read": (before + after) / 2})
                             for speed, before, after in zip(speeds, medians, medians[1:], strict=False))


def compiler_of(path):
    """The compiler that a binary says it was made with."""
    with open(path, "rb") as f:
        found = re.search(rb"GCC: \([^)]*\) [\d.]+|clang version [\d.]+", f.read())
    return found.group().decode() if found else "?"


def describe(args, peer=True):
    """Where it was measured, and with which versions; without llama.cpp's when it is no peer."""
    with open("/proc/cpuinfo") as f:
        names = re.findall(r"model name\s*:\s*(.*)", f.read())
    info = {"cpu": names[0] if names else platform.machine(), "cores": os.cpu_count(),
            "kernel": f"{platform.system()} {platform.release()}", "load average": round(os.getloadavg()[0], 2)}
    if peer:
        info.update(json.loads(run_child([args.python, LLAMA_BENCH, "--versions"])[0]))
    info["sparsegen"] = run_child([args.sparsegen, "--version"])[0].strip()
    info["sparsegen compiler"] = compiler_of(args.sparsegen)
    info["repeats"] = args.repeat
    return info


def measure_model(args, name, model):
    """All runs with one model; returns a list of results, one per test, depth and thread count."""
    results = []
    with open(model, "rb") as f:  # into the page cache
        while f.read(1 << 20):
            pass
    for threads in args.threads:
        for depth in args.depth:
            runs, limits = {p: [] for p in PEERS}, measure_limits(args, threads, {})
            for turn in range(args.repeat):
                for peer in PEERS:
                    runs[peer].append(run_peer(args, peer, model, threads, depth))
                    speeds = ", ".join(f"{test} {speed_of(row):.2f}" for test, row in runs[peer][-1][0].items())
                    print(f"{name}, depth {depth}, {threads} threads, turn {turn + 1}/{args.repeat}, {peer}: {speeds} "
                          "tokens/s", file=sys.stderr)
                limits = measure_limits(args, threads, limits)
            results += [summarise(name, test, depth, threads, runs, limits) for test in tests_of(args)]
    return results


def speed_of(row):
    """Tokens a second of one row of a peer."""
    return row["tokens"] / row["seconds"]


def summarise(name, test, depth, threads, runs, limits):
    """One result: medians, shares of the limit and ratios of a test."""
    work = runs["sparsegen"][0][0][test]
    result = {"model": name, "test": test, "depth": depth, "threads": threads, "limits": limits,
              "work": {key: value for key, value in work.items() if key.endswith("_per_token")}}
    for peer in PEERS:
        speeds = [speed_of(rows[test]) for rows, _, _ in runs[peer]]
        result[peer] = {"median": statistics.median(speeds), "best": max(speeds), "all": speeds,
                        "share": statistics.median(speeds) * least_seconds(work, limits),
                        "share_of_typical": typical_share(work, speeds, limits["read_medians"]),
                        "peak_bytes": max(peak for _, peak, _ in runs[peer]),
                        "others_cpu": max(others for _, _, others in runs[peer])}
    result["ratio"] = result["sparsegen"]["median"] / result["llama.cpp"]["median"]
    result["ratio_best"] = result["sparsegen"]["best"] / result["llama.cpp"]["best"]
    return result


def print_report(info, results, markdown):
    """The description and one line per result, as aligned text or as Markdown."""
    for key, value in info.items():
        print(f"- {key}: {value}" if markdown else f"{key}: {value}")
    rows = [["model", "test", "threads"]
            + [f"{p} {what}" for what in ("tok/s (min-max)", "of limit", "of typical", "peak MiB") for p in PEERS]
            + ["ratio", "ratio of best", "read GB/s (typical, one stream)", "int8 GOP/s", "others' CPUs"]]
    for r in results:
        cells = [[f"{r[p]['median']:.2f} ({min(r[p]['all']):.2f}-{r[p]['best']:.2f})" for p in PEERS],
                 [f"{r[p]['share']:.1%}" for p in PEERS],
                 ["" if r[p]["share_of_typical"] is None else f"{r[p]['share_of_typical']:.1%}" for p in PEERS],
                 [f"{r[p]['peak_bytes'] / 2**20:.0f}" for p in PEERS]]
        test = f"{r['test']} @ d{r['depth']}" if r["depth"] else r["test"]
        rows.append([r["model"], test, str(r["threads"])] + sum(cells, []) + [
            f"{r['ratio']:.2f}", f"{r['ratio_best']:.2f}",
            f"{r['limits']['read'] / 1e9:.1f} ({statistics.median(r['limits']['read_medians']) / 1e9:.1f}, "
            f"{r['limits']['read_plain'] / 1e9:.1f})",
            f"{r['limits']['int8'] / 1e9:.0f}", f"{max(r[p]['others_cpu'] for p in PEERS):.2f}"])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    print()
    for i, row in enumerate(rows):
        line = (" | " if markdown else "  ").join(c.ljust(w) for c, w in zip(row, widths))
        print(f"| {line} |" if markdown else line.rstrip())
        if markdown and i == 0:
            print("|" + "|".join("-" * (w + 2) for w in widths) + "|")


def models_of(args, folder):
    """Yields (name, path) of the models; those that are made for this run go once the next one is asked for."""
    for path in args.model:
        yield os.path.basename(path), path
    for shape in args.shape:
        for kind in args.type:
            name = f"{shape} {kind}"
            path = os.path.join(folder, f"{shape}-{kind}.gguf")
            command = [args.python, os.path.join(HERE, "make_synthetic.py"), shape, kind, path]
            print(run_child(command + (["--layers", args.layers] if args.layers else []))[0], end="", file=sys.stderr)
            yield name, path
            os.unlink(path)


def main():
    """Read the command line, find or make the models, measure, report."""
    def words(text):
        return text.split(",")

    def numbers(text):
        return [int(x) for x in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", action="append", default=[], metavar="FILE", help="GGUF to measure with; may be repeated")
    add("--shape", type=words, default=[], metavar="S[,S...]",
        help="make models of these shapes in a temporary folder instead (see make_synthetic.py)")
    add("--type", type=words, default=["q4_0"], metavar="T[,T...]", help="types of their weights (default q4_0)")
    add("--layers", help="only so many of their layers (for a quick test)")
    add("--threads", type=numbers, default=[os.cpu_count()], metavar="T[,T...]",
        help="thread counts, each measured by itself (default: all cores)")
    add("--depth", type=numbers, default=[0], metavar="N[,N...]",
        help="tokens in the context before a test, evaluated by both peers but not timed (default 0)")
    add("--prefill", type=int, default=512, metavar="N", help="tokens of the prompt, 0 for none (default %(default)s)")
    add("--decode", type=int, default=32, metavar="N", help="tokens to decode, 0 for none (default %(default)s)")
    add("--repeat", type=int, default=5, metavar="N", help="turns of each peer (default %(default)s)")
    add("--seed", type=int, default=1, help="seed of the random tokens (default %(default)s)")
    add("--sparsegen", default=SPARSEGEN, metavar="FILE", help="the program (default %(default)s)")
    add("--sparsegen-args", default="", metavar="'ARGS'", help="more arguments for `sparsegen bench`, in one string")
    add("--python", default=sys.executable, metavar="FILE",
        help="interpreter that has llama_cpp and numpy (default: this one)")
    add("--json", metavar="OUT", help="also write every sample to this file")
    add("--markdown", action="store_true", help="print the report as Markdown")
    args = parser.parse_args()
    if bool(args.model) == bool(args.shape):
        parser.error("give either --model or --shape")
    if min(args.threads + [args.repeat]) < 1 or min([args.prefill, args.decode] + args.depth) < 0:
        parser.error("--threads and --repeat must be at least 1, --prefill, --decode and --depth at least 0")
    if args.prefill + args.decode == 0:
        parser.error("--prefill and --decode are both 0: nothing to measure")
    info, results = describe(args), []
    with tempfile.TemporaryDirectory(prefix="bench_peers.") as folder:
        for name, path in models_of(args, folder):
            try:
                results += measure_model(args, name, path)
            except OSError as error:
                sys.exit(f"{PROGRAM}: cannot read {path}: {error.strerror}")
            if args.json:  # what there is so far, since a whole run may take hours
                with open(args.json, "w") as f:
                    json.dump({"info": info, "results": results}, f, indent=1)
    print_report(info, results, args.markdown)


if __name__ == "__main__":
    main()
