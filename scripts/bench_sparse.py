#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measure what sparse feed-forward layers bring: decode of one model, dense and sparse, in turns of one run.

    bench_sparse.py --gguf MODEL.gguf --bin model.bin [--active A]        a table for one model
    bench_sparse.py --sweep --svg FILE.svg [--shape S] [--layers N]       speed over the share of inactive neurons

The runs:
  dense      sparsegen on the GGUF
  llama.cpp  llama.cpp on the GGUF, through llama_cpp_bench.py (a model of make_sparse.py is an ordinary dense one for it)
  lossless   sparsegen on model.bin: all gates, then only the neurons that fire
  predicted  sparsegen on model.bin with --lossy predict=RECALL
  forced     sparsegen on model.bin with --ffn dense
Each is a process of its own; they take turns, and the limits of the machine are measured before and after every turn; medians
count. "must read" are the bytes of weights and KV cache that a token cannot do without: attention, norms aside, and the output
matrix; of the feed-forward layers all (dense), all gates and the up rows whose gate fires and the down rows of active
neurons (lossless), or the predictor and the active neurons (predicted: a predictor that names more reads more). "of limit": these
bytes times tokens a second over the best rate of the read loop. --active and --gate-fires are by default what the GGUF says
(sparsegen.synthetic.active and .gate_positive). Where a gate alone decides, as with ReLU, they are the same.

The sweep makes models with make_sparse.py in a temporary folder one after the other, converts each with `sparsegen convert`, all rows
of the same type, prepares it with --calibrate (for `predicted` only, which is left out where no predictor is kept; {bin} and {text} stand for the model.bin and a text of random words that
the model's vocabulary knows), and draws speeds as multiples of dense. Nothing is ever measured while another thing runs.
"""
import argparse
import json
import os
import random
import statistics
import struct
import sys
import tempfile

import bench_peers as peers
import sparse_chart
from gguf_file import GgufFile

RUNS = ("dense", "llama.cpp", "lossless", "predicted", "forced")
SWEPT = ("dense", "llama.cpp", "lossless", "predicted")
INACTIVE = [0, 25, 50, 70, 80, 90, 95, 97]


def command_of(args, run, gguf, model_bin):
    """The command of one run."""
    tail = ["-p", "0", "-n", str(args.decode), "-t", str(args.threads), "-r", "1", "-o", "json"]
    if run == "llama.cpp":
        return [args.python, peers.LLAMA_BENCH, "-m", gguf] + tail
    more = {"predicted": ["--lossy", f"predict={args.recall:g}"], "forced": ["--ffn", "dense"]}.get(run, [])
    return [args.sparsegen, "bench", "--no-limits", "-m", gguf if run == "dense" else model_bin] + tail + more


def bytes_by_run(gguf, model_bin, active, fires, kv):
    """Bytes that a token cannot do without, for each run. active, fires: shares of the neurons that are, whose gate does."""
    g = GgufFile(gguf)

    def add_up(*parts):
        return sum(g.tensor_bytes(name) for name in g.tensors if len(g.tensors[name][0]) > 1 and any(p in name for p in parts))

    rest = add_up(".attn_", "token_embd" if "output.weight" not in g.tensors else "output.weight") + kv
    # attn_output.weight holds the words "output.weight" too, but a sum counts each tensor once.
    gates, ups, downs = add_up(".ffn_gate."), add_up(".ffn_up."), add_up(".ffn_down.")
    need = {"dense": rest + gates + ups + downs, "lossless": rest + gates + fires * ups + active * downs}
    need["llama.cpp"] = need["forced"] = need["dense"]
    if model_bin:
        b = GgufFile(model_bin)
        need["predicted"] = (rest + active * (gates + ups + downs)
                             + sum(b.tensor_bytes(name) for name in b.tensors if ".ffn_pred_" in name))
    return need


def measure(args, label, gguf, model_bin, runs, active, fires):
    """All turns of the runs on one model; returns {"limits", "active", run: {"median", "all", "bytes", "share", ...}}."""
    for path in {gguf, model_bin} - {None}:
        with open(path, "rb") as f:  # into the page cache
            while f.read(1 << 20):
                pass
    test, speeds, kv = f"tg{args.decode}", {run: [] for run in runs}, 0.0
    others, limits = 0.0, peers.measure_limits(args, args.threads, {})
    for turn in range(args.repeat):
        for run in runs:
            command = command_of(args, run, gguf, model_bin)
            out, _, busy = peers.run_child(command)
            row = peers.parse_rows(command, out).get(test)
            if not row or not row["seconds"] > 0:
                sys.exit(f"bench_sparse: {' '.join(command)}\nprinted no usable results")
            kv, others = row.get("kv_bytes_per_token") or kv, max(others, busy)
            speeds[run].append(row["tokens"] / row["seconds"])
            print(f"{label}, turn {turn + 1}/{args.repeat}, {run}: {speeds[run][-1]:.2f} tokens/s", file=sys.stderr)
        limits = peers.measure_limits(args, args.threads, limits)
    need = bytes_by_run(gguf, model_bin, active, fires, kv)
    result = {"label": label, "active": active, "gate_fires": fires, "limits": limits, "others_cpu": others, "runs": {}}
    for run in runs:
        median = statistics.median(speeds[run])
        result["runs"][run] = {"median": median, "all": speeds[run], "bytes": need[run],
                               "share": median * need[run] / limits["read"]}
    return result


def table(result):
    """The Markdown lines of one model."""
    runs = result["runs"]
    lines = ["| run | tokens/s (min-max) | times dense | times llama.cpp | must read, MB a token | of limit |",
             "|---|---|---:|---:|---:|---:|"]
    for name, run in runs.items():
        ratios = [f"{run['median'] / runs[to]['median']:.2f}" if to in runs else "" for to in ("dense", "llama.cpp")]
        lines.append(f"| {name} | {run['median']:.2f} ({min(run['all']):.2f}-{max(run['all']):.2f}) | {' | '.join(ratios)} | "
                     f"{run['bytes'] / 1e6:.0f} | {run['share']:.1%} |")
    limits = result["limits"]
    return lines + ["", f"{result['label']}: {result['active']:.1%} of the neurons active, {result['gate_fires']:.1%} of the gates fire; read limit {limits['read'] / 1e9:.1f} GB/s "
                    f"(typical {statistics.median(limits['read_medians']) / 1e9:.1f}); others used {result['others_cpu']:.2f} CPUs at worst"]


def shares_of(gguf, active, fires):
    """The shares of active neurons and of gates that fire: as given, or as the file says; without a word, they are equal."""
    keys = GgufFile(gguf).keys
    if active is None:
        active = keys.get("sparsegen.synthetic.active")
        fires = keys.get("sparsegen.synthetic.gate_positive") if fires is None else fires
    if active is None:
        sys.exit(f"bench_sparse: {gguf} does not say how many neurons are active; give --active")
    return active, active if fires is None else fires


def write_words(path, count):
    """A text of random words of one to three letters, which the vocabulary of a synthetic model holds as pieces."""
    numbers = random.Random(1)
    with open(path, "w") as f:
        f.write(" ".join("".join(numbers.choices("abcdefghijklmnopqrstuvwxyz", k=numbers.choice((1, 2, 2, 3, 3, 3))))
                         for _ in range(count)) + "\n")


def sweep(args):
    """Yields the results of the sweep, one per share of inactive neurons; the files of each are deleted before the next."""
    here = os.path.dirname(os.path.abspath(__file__))
    with tempfile.TemporaryDirectory(prefix="bench_sparse.", dir=args.folder) as folder:
        gguf, model_bin, text = (os.path.join(folder, name) for name in ("model.gguf", "model.bin", "words.txt"))
        write_words(text, args.calibrate_words)
        for percent in args.inactive:
            make = [args.python, os.path.join(here, "make_sparse.py"), args.shape, args.type, gguf, "--active",
                    f"{1 - percent / 100:g}"] + args.make_args.split() + (["--layers", str(args.layers)] if args.layers else [])
            print(peers.run_child(make)[0], end="", file=sys.stderr)
            peers.run_child([args.sparsegen, "convert", gguf, "-o", model_bin, "--type", args.type])
            if "predicted" in args.runs:
                peers.run_child([args.sparsegen] + [word.format(bin=model_bin, text=text) for word in args.calibrate.split()])
            foreseen = any(".ffn_pred_" in name for name in GgufFile(model_bin).tensors)  # none is stored where most neurons fire
            runs = [run for run in args.runs if foreseen or run != "predicted"]
            yield {"inactive": percent,
                   **measure(args, f"{percent:g} % inactive", gguf, model_bin, runs, *shares_of(gguf, None, None))}
            os.unlink(gguf)
            os.unlink(model_bin)


def draw(results, args):
    """The chart of a sweep, as SVG: multiples of the dense speed, and what the bytes alone would allow."""
    lines = {}
    for run in args.runs:
        lines[run] = [(r["inactive"], r["runs"][run]["median"] / r["runs"]["dense"]["median"]) for r in results if run in r["runs"]]
    if "lossless" in args.runs:
        lines["bytes, lossless"] = [(r["inactive"], r["runs"]["dense"]["bytes"] / r["runs"]["lossless"]["bytes"]) for r in results]
    layers = f", {args.layers} layers" if args.layers else ""
    return sparse_chart.svg(f"Decode, {args.shape} {args.type}{layers}, {args.threads} threads", "inactive neurons, %",
                            "speed as a multiple of dense", lines)


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--gguf", metavar="FILE", help="the model as an ordinary GGUF")
    add("--bin", metavar="FILE", help="its model.bin, made by `sparsegen convert` and prepared by `sparsegen calibrate`")
    add("--active", type=float, metavar="A", help="share of the neurons that are active (default: what the GGUF says)")
    add("--gate-fires", type=float, metavar="G", help="share of the gates that are positive (default: likewise, else as --active)")
    add("--runs", type=lambda text: text.split(","), metavar="R[,R...]", help=f"which runs (default: {','.join(RUNS)}; sweep: "
        f"{','.join(SWEPT)})")
    add("--recall", type=float, default=0.98, help="recall of the predicted run (default %(default)s)")
    add("--threads", type=int, default=os.cpu_count(), metavar="T", help="threads (default: all cores)")
    add("--decode", type=int, default=32, metavar="N", help="tokens of a run (default %(default)s)")
    add("--repeat", type=int, default=5, metavar="N", help="turns (default %(default)s)")
    add("--sparsegen", default=peers.SPARSEGEN, metavar="FILE", help="the program (default %(default)s)")
    add("--python", default=sys.executable, metavar="FILE", help="interpreter with numpy and llama_cpp (default: this one)")
    add("--json", metavar="OUT", help="also write every sample to this file")
    add("--sweep", action="store_true", help="make models and measure speed over the share of inactive neurons")
    add("--svg", metavar="FILE", help="sweep: draw the curve into this file")
    add("--inactive", type=lambda text: [float(x) for x in text.split(",")], default=INACTIVE, metavar="P[,P...]",
        help=f"sweep: shares in percent (default {','.join(map(str, INACTIVE))})")
    add("--shape", default="mistral-7b", help="sweep: sizes of the model, see make_sparse.py (default %(default)s)")
    add("--type", default="q4_0", help="sweep: type of the weights (default %(default)s)")
    add("--layers", type=int, metavar="N", help="sweep: only so many layers, to save time (default: all)")
    add("--make-args", default="", metavar="'ARGS'", help="sweep: more arguments for make_sparse.py, in one string")
    add("--calibrate", default="calibrate -m {bin} -f {text}", metavar="'ARGS'",
        help="sweep: arguments of sparsegen that prepare a model.bin (default '%(default)s')")
    add("--calibrate-words", type=int, default=2048, metavar="N", help="sweep: words of the text (default %(default)s)")
    add("--folder", metavar="DIR", help="sweep: where the temporary folder is made")
    args = parser.parse_args()
    args.runs = args.runs or list(SWEPT if args.sweep else RUNS)
    if set(args.runs) - set(RUNS):
        parser.error(f"--runs may name {', '.join(RUNS)}")
    if args.sweep and (args.gguf or args.bin or args.active is not None) or not args.sweep and (not args.gguf or args.svg):
        parser.error("give --gguf (and --bin), or --sweep (and --svg)")
    if not args.sweep and not args.bin and set(args.runs) - {"dense", "llama.cpp"}:
        parser.error("--bin is missing; without it only the runs dense and llama.cpp are possible")
    if args.sweep and "dense" not in args.runs:
        parser.error("a sweep needs the run dense")
    if min(args.threads, args.decode, args.repeat) < 1 or not 0 < args.recall <= 1 or args.calibrate_words < 1:
        parser.error("--threads, --decode, --repeat and --calibrate-words must be at least 1, --recall above 0 and at most 1")
    if not all(0 <= p < 100 for p in args.inactive) or not all(0 <= s <= 1 for s in (args.active, args.gate_fires) if s is not None):
        parser.error("--inactive must be 0 to below 100, --active and --gate-fires 0 to 1")
    return args


def main():
    """Measure, print the tables, draw."""
    args = arguments()
    info, results = peers.describe(args, "llama.cpp" in args.runs), []
    for key, value in info.items():
        print(f"- {key}: {value}")
    try:
        if args.sweep:
            each = sweep(args)
        else:
            shares = shares_of(args.gguf, args.active, args.gate_fires)
            each = [measure(args, os.path.basename(args.gguf), args.gguf, args.bin, args.runs, *shares)]
        for result in each:
            results.append(result)
            print("\n" + "\n".join(table(result)), flush=True)
            if args.json:  # what there is so far, since a sweep takes long
                with open(args.json, "w") as f:
                    json.dump({"info": info, "results": results}, f, indent=1)
        if args.svg:
            with open(args.svg, "w") as f:
                f.write(draw(results, args))
    except OSError as error:
        sys.exit(f"bench_sparse: {error.filename}: {error.strerror}")
    except (ValueError, struct.error, KeyError, IndexError) as error:
        sys.exit(f"bench_sparse: unusable file: {error}")


if __name__ == "__main__":
    main()
