#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Time prefill and decode of llama.cpp through llama-cpp-python, with the arguments and JSON of `sparsegen bench`.

Used by bench_peers.py, and by itself. llama.cpp's defaults hold (mmap, repacking at load, flash attention auto, F16
KV cache), but for --mmap. Each test starts behind the same number of tokens (-d) after a warm-up (one whole prompt; one token) and is
fed random tokens, or those of --ids, every run the next ones: prefill in one batch, decode one by one, with the logits of each batch's
last token and no sampling. read_bytes_per_token: what this process had the drive read, read-ahead included.
"""
import argparse
import ctypes
import glob
import itertools
import json
import math
import os
import random
import re
import resource
import sys
import time

import llama_cpp as lc


def versions():
    """Versions of llama-cpp-python, of the llama.cpp in it, and of the compiler that made it."""
    folder = os.path.join(os.path.dirname(lc.__file__), "lib")

    def call(library, name):
        try:
            function = getattr(ctypes.CDLL(glob.glob(os.path.join(folder, library + ".*"))[0]), name)
            function.restype = ctypes.c_char_p
            return function().decode()
        except (AttributeError, IndexError, OSError):
            return "?"

    compiler = None
    for path in glob.glob(os.path.join(folder, "libggml-cpu.*"))[:1]:
        with open(path, "rb") as f:
            compiler = re.search(rb"GCC: \([^)]*\) [\d.]+|clang version [\d.]+", f.read())
    return {"llama-cpp-python": lc.__version__, "llama.cpp": call("libllama", "llama_version"),
            "ggml": f"{call('libggml-base', 'ggml_version')} ({call('libggml-base', 'ggml_commit')})",
            "llama.cpp compiler": compiler.group().decode() if compiler else "?",
            "llama.cpp system": lc.llama_print_system_info().decode().strip(" |\n")}


def load(path, threads, context_tokens, prompt, mapped):
    """Load the model on the CPU and make a context for so many tokens; returns it, the batch and the vocabulary."""
    model_params, params = lc.llama_model_default_params(), lc.llama_context_default_params()
    model_params.n_gpu_layers = 0
    if mapped:
        model_params.load_mode, model_params.use_extra_bufts = lc.LLAMA_LOAD_MODE_MMAP, False
    params.n_ctx = context_tokens
    params.n_batch = max(params.n_batch, prompt)
    params.n_threads = params.n_threads_batch = threads
    model = lc.llama_model_load_from_file(path.encode(), model_params)
    context = lc.llama_init_from_model(model, params) if model else None
    if not context:
        sys.exit(f"llama.cpp cannot load {path}")
    return context, lc.llama_n_batch(context), lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(model))


def feed(context, depth, ids, batch):
    """Evaluate the tokens, `batch` at a time, behind the first `depth`; returns seconds, those of each batch, and the last logits."""
    if not lc.llama_memory_seq_rm(lc.llama_get_memory(context), 0, depth, -1):
        sys.exit("llama.cpp cannot shorten the context")
    batches = [ids[i:i + batch] for i in range(0, len(ids), batch)]
    batches = [((lc.llama_token * len(b))(*b), len(b)) for b in batches]
    times = [time.perf_counter()]
    for tokens, count in batches:
        if lc.llama_decode(context, lc.llama_batch_get_one(tokens, count)):
            sys.exit("llama_decode failed")
        lc.llama_synchronize(context)
        times.append(time.perf_counter())
    return times[-1] - times[0], [b - a for a, b in zip(times, times[1:])], lc.llama_get_logits_ith(context, -1)


def source_of_ids(path, seed, vocabulary):
    """A function that gives the next n token ids: random ones, or those of a file, again from the beginning at its end."""
    if path is None:
        numbers = random.Random(seed)
        return lambda n: [numbers.randrange(vocabulary) for _ in range(n)]
    try:
        with open(path, encoding="utf-8") as f:
            ids = [int(word) for word in f.read().split()]
    except (OSError, ValueError) as error:
        sys.exit(f"llama_cpp_bench: {path}: {error}")
    if not ids or not all(0 <= i < vocabulary for i in ids):
        sys.exit(f"llama_cpp_bench: {path} has no token ids, or some that the model does not know")
    endless = itertools.cycle(ids)
    return lambda n: list(itertools.islice(endless, n))


def bytes_read():
    """Bytes that the drive has read for this process."""
    return 512 * resource.getrusage(resource.RUSAGE_SELF).ru_inblock


def measure(args, context, vocabulary, take, name, count, batch):
    """One test; returns its row."""
    together, depth = name == "pp", args.d
    feed(context, depth, take(count if together else max(1, args.warm)), batch)  # to warm up
    if not together:
        depth += args.warm
    runs, before = [], bytes_read()
    for _ in range(args.r):
        runs.append(feed(context, depth, take(count), batch))
    if not all(math.isfinite(x) for x in runs[-1][2][:vocabulary]):
        sys.exit(f"llama.cpp's logits after {name}{count} are not finite")
    seconds = sorted(run[0] for run in runs)[args.r // 2]
    each = sorted(time for run in runs for time in run[1])
    row = {"test": f"{name}{count}", "n_threads": args.t, "depth": depth, "tokens": count, "seconds": seconds,
           "tokens_per_second": count / seconds, "read_bytes_per_token": (bytes_read() - before) / (args.r * count)}
    return row | {f"token_p{p}": None if together else each[(len(each) - 1) * p // 100] for p in (50, 90, 99)}


def main():
    """Read the command line, run the tests, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("-m", metavar="FILE", help="GGUF model")
    add("-p", type=int, default=512, metavar="N", help="tokens of the prompt, 0 for none (default %(default)s)")
    add("-n", type=int, default=32, metavar="N", help="tokens to decode, 0 for none (default %(default)s)")
    add("-d", type=int, default=0, metavar="N", help="tokens in the context before each test (default %(default)s)")
    add("-t", type=int, default=os.cpu_count(), metavar="T", help="threads (default: all cores)")
    add("-r", type=int, default=1, metavar="N", help="times to run each test; the median counts (default %(default)s)")
    add("-o", choices=["json"], default="json", help="form of the output")
    add("--ids", metavar="FILE", help="token ids to feed, numbers between blanks, again from the beginning at the end (default: random ones)")
    add("--warm", type=int, default=0, metavar="N", help="tokens fed one by one before those that are timed so (default: 1, fed again)")
    add("--seed", type=int, default=1, help="seed of the random tokens (default %(default)s)")
    add("--mmap", action="store_true", help="map the file and do not repack the weights, for a model larger than memory")
    add("--versions", action="store_true", help="print versions as JSON and stop")
    args = parser.parse_args()
    if args.versions:
        return print(json.dumps(versions()))
    if not args.m or min(args.t, args.r) < 1 or min(args.p, args.n, args.d, args.warm) < 0:
        parser.error("-m is needed, -t and -r must be at least 1, -p, -n, -d and --warm at least 0")
    lc.llama_backend_init()
    context, most, vocabulary = load(args.m, args.t, args.d + max(args.p, args.n + args.warm, 32), args.p, args.mmap)
    take = source_of_ids(args.ids, args.seed, vocabulary)
    if args.d:
        feed(context, 0, take(args.d), most)
    results = [measure(args, context, vocabulary, take, name, count, batch) for name, count, batch in (("pp", args.p, args.p), ("tg", args.n, 1)) if count]
    print(json.dumps(results))


if __name__ == "__main__":
    main()
