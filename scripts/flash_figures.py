# SPDX-License-Identifier: MIT
"""The arithmetic of bench_flash.py: budgets, token ids, what --stats says, and the bound that the drive and the processor set."""
import random
import re

from gguf_file import BLOCKS

MIB = 1 << 20
PIECE = MIB   # bytes of a read of a matrix
SECTOR = 512  # a read is rounded to these
FFN = (".ffn_gate.", ".ffn_up.", ".ffn_down.", ".ffn_bundle")

# What runtime/cli/common.c prints: names of the numbers of a line, in their order.
NUMBER = r"(\d+(?:\.\d+)?)"
LINES = {
    r"decode +N tokens +N s +N tokens/s": ("tokens", "seconds", "speed"),
    r"ms a token: P50 N, P90 N, P99 N": ("p50", "p90", "p99"),
    r"memory +weights N MiB, KV cache N MiB, buffers N MiB; peak resident N MiB": ("weights", "kv", "buffers", "peak"),
    r"of a budget of N MiB": ("budget",),
    r"cache +of the neurons that fired N % were in hot clusters, N % in the cache, N % read ahead \(N % late\), N % missed, "
    r"N % without room": ("hot", "cached", "ahead", "late", "missed", "passed"),
    r"reads +N MiB in N demands, N MiB in N ahead; N MiB and N reads a token; waiting N % of the time":
        ("demand_mib", "demands", "ahead_mib", "aheads", "token_mib", "token_reads", "waiting"),
}


def parse_stats(text):
    """The numbers in what --stats prints; those of lines that are missing are missing."""
    found = {}
    for pattern, names in LINES.items():
        match = re.search(re.sub(r"\bN\b", lambda _: NUMBER, pattern), text)
        if match:
            found.update(zip(names, map(float, match.groups())))
    return found


def reads_a_token(whole, short=None):
    """(bytes, reads) a token. short: the numbers of the same run broken off earlier, so that the filling of the caches is left out."""
    def totals(stats):
        return stats["demand_mib"] + stats["ahead_mib"], stats["demands"] + stats["aheads"], stats["tokens"]
    if "demands" not in whole:
        return 0.0, 0.0
    mib, reads, tokens = totals(whole)
    if short and "demands" in short and short["tokens"] < tokens:
        before = totals(short)
        mib, reads, tokens = max(0.0, mib - before[0]), max(0.0, reads - before[1]), tokens - before[2]
    return mib * MIB / tokens, reads / tokens


def split_reads(size, reads, record):
    """(bytes read in order, reads of one record): the mix of 1 MiB pieces and of records that has these bytes and reads a token."""
    if record >= PIECE:
        return size, 0.0
    single = min(reads, max(0.0, (reads * PIECE - size) / (PIECE - record)))
    return max(0.0, size - single * record), single


def least_seconds(size, reads, record, drive, compute):
    """The time of a token if the drive or the processor, whichever is slower, were all that held it up; None when no speed is known.
    Without a rate of random reads every byte counts as read in order."""
    if not drive or not drive["sequential"]:
        return None
    if not drive["iops"]:
        return max(size / drive["sequential"], compute)
    in_order, single = split_reads(size, reads, record)
    return max(in_order / drive["sequential"] + single / drive["iops"], compute)


def ffn_bytes(model):
    """Bytes of the feed-forward weights of an open GGUF or model.bin."""
    return sum(model.tensor_bytes(name) for name in model.tensors if any(part in name for part in FFN) and name.endswith(("weight", "bundle")))


def record_bytes(model):
    """Bytes of the up and down rows of one neuron in a model.bin, rounded as a read of them is; 4096 when there are no bundles."""
    width = model.tensors["token_embd.weight"][0][0]
    sizes = [0]
    for up, down in zip(model.keys.get("sparsegen.bundle.up_type", []), model.keys.get("sparsegen.bundle.down_type", [])):
        if up in BLOCKS and down in BLOCKS:
            sizes.append(sum(width // BLOCKS[kind][0] * BLOCKS[kind][1] for kind in (up, down)))
    return -(-max(sizes) // SECTOR) * SECTOR or 4096


def budgets(text, ffn_text, size, ffn):
    """[(label, bytes)] of --ram and --ffn-share; size: of the model, ffn: of its feed-forward weights. ValueError when not understood."""
    out = []
    for word in filter(None, (text or "").split(",")):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(%|[MG]?)", word.strip())
        if not match or float(match[1]) == 0:
            raise ValueError(f"'{word}' is neither a share as 50% nor a size as 600M or 2G")
        number = float(match[1])
        label = f"{number:g} %" if match[2] == "%" else f"{word.strip()}{'' if match[2] else 'M'}"
        out.append((label, size * number / 100 if match[2] == "%" else number * MIB * (1024 if match[2] == "G" else 1)))
    for word in filter(None, (ffn_text or "").split(",")):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)%", word.strip())
        if not match or float(match[1]) > 100:
            raise ValueError(f"'{word}' is no share as 50%")
        out.append((f"FFN {float(match[1]):g} %", size - ffn * (1 - float(match[1]) / 100)))
    return [(label, int(wanted) // MIB * MIB) for label, wanted in out]


def token_ids(count, vocabulary, topics, length, seed):
    """Ids for a run: those of one topic (id modulo topics) for a geometric number of tokens with mean `length`, then of another one. Without
    topics any id."""
    numbers, out, topic = random.Random(seed), [], None
    while len(out) < count:
        if not topics:
            out.append(numbers.randrange(vocabulary))
            continue
        if topic is None or numbers.random() * length < 1:
            topic = numbers.randrange(topics)
        out.append(topic + topics * numbers.randrange((vocabulary - topic + topics - 1) // topics))
    return out
