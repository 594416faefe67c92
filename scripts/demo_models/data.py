"""Stories and tokens for the demo models.

Two ways of writing stories down are understood, told apart per file: stories
ended by ``<|endoftext|>``, and stories set one after another, where a line that
follows no blank line starts a new story.
"""

import hashlib
import json
import os
import random
import re

import numpy as np
import sentencepiece as spm

UNK, BOS, EOS = 0, 1, 2

# Typographic marks become ASCII; the first group is UTF-8 that was once read as CP1252.
_MARKS = [
    ("\u00e2\u20ac\u0153", '"'), ("\u00e2\u20ac\u2122", "'"), ("\u00e2\u20ac\u201c", "-"),
    ("\u00e2\u20ac\u02dc", "'"), ("\u00e2\u20ac", '"'),
    ("\u201c", '"'), ("\u201d", '"'), ("\u2018", "'"), ("\u2019", "'"),
    ("\u2013", "-"), ("\u2014", "-"), ("\u2122", ""), ("\u0153", ""),
]


def clean(text):
    """One story: ASCII marks, single blanks, one newline between paragraphs."""
    for old, new in _MARKS:
        text = text.replace(old, new)
    lines = (re.sub(r"[ \t]+", " ", line).strip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def split_stories(text):
    if "<|endoftext|>" in text:
        return text.split("<|endoftext|>")
    stories, blank_before = [], False
    for line in text.split("\n"):
        if not line.strip():
            blank_before = True
            continue
        if stories and blank_before:
            stories[-1] += "\n" + line
        else:
            stories.append(line)
        blank_before = False
    return stories


def read_stories(paths, min_chars=120):
    """Clean stories of all files without doubles, in order of appearance."""
    seen, out = set(), []
    for path in paths:
        with open(path, encoding="utf-8") as f:
            text = f.read()
        if path.endswith(".jsonl"):  # GSM8K: the questions only
            parts = [json.loads(line)["question"] for line in text.splitlines() if line]
        else:
            parts = split_stories(text)
        for part in map(clean, parts):
            key = re.sub(r"\W+", " ", part.lower())
            if len(part) >= min_chars and key not in seen:
                seen.add(key)
                out.append(part)
    return out


def split_heldout(stories, share=0.03):
    """By a hash of the story, so that a story stays on its side when files change."""
    train, held = [], []
    for s in stories:
        h = int(hashlib.sha256(s.encode()).hexdigest()[:8], 16) / 2.0**32
        (held if h < share else train).append(s)
    return train, held


def tokenizer(path, stories, vocab_size=2048):
    """SentencePiece BPE as Llama uses it; trained once, then read from `path`."""
    if not os.path.exists(path):
        lines = (line for s in stories for line in s.split("\n"))
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_prefix=path[: -len(".model")],
            model_type="bpe", vocab_size=vocab_size, byte_fallback=True,
            unk_id=UNK, bos_id=BOS, eos_id=EOS, pad_id=-1,
            character_coverage=1.0, split_digits=True, add_dummy_prefix=True,
            normalization_rule_name="identity", remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=False, max_sentence_length=20000,
            num_threads=2, minloglevel=1)
    return spm.SentencePieceProcessor(model_file=path)


def encode(sp, stories):
    return [np.array([BOS] + sp.encode(s) + [EOS], dtype=np.int64) for s in stories]


class Batches:
    """Endless training batches. Every epoch shuffles the stories into one stream
    and cuts it into rows of `ctx` tokens; every other row is moved to the nearest
    story start, so that a story at position 0 is a common sight."""

    def __init__(self, stories, ctx, rows, seed=1):
        self.stories, self.ctx, self.rows = stories, ctx, rows
        self.rng = random.Random(seed)
        self.epoch, self.queue = 0, []

    def _refill(self):
        order = list(range(len(self.stories)))
        self.rng.shuffle(order)
        stream = np.concatenate([self.stories[i] for i in order])
        starts = np.flatnonzero(stream[: -self.ctx - 1] == BOS)
        cuts = list(range(self.rng.randrange(self.ctx), len(stream) - self.ctx - 1, self.ctx))
        for k in range(0, len(cuts), 2):
            cuts[k] = int(starts[np.abs(starts - cuts[k]).argmin()])
        self.rng.shuffle(cuts)
        self.queue = [stream[c: c + self.ctx + 1] for c in cuts]
        self.epoch += 1

    def next(self):
        while len(self.queue) < self.rows:
            self._refill()
        rows, self.queue = self.queue[: self.rows], self.queue[self.rows:]
        a = np.stack(rows)
        return a[:, :-1], a[:, 1:]


def padded(stories, ctx, rows):
    """Held-out stories from their start, cut after `ctx` tokens; targets of padding are -1."""
    stories = sorted((s[: ctx + 1] for s in stories), key=len)
    for i in range(0, len(stories), rows):
        part = stories[i: i + rows]
        n = len(part[-1]) - 1
        x = np.full((len(part), n), EOS, dtype=np.int64)
        y = np.full((len(part), n), -1, dtype=np.int64)
        for r, s in enumerate(part):
            x[r, : len(s) - 1] = s[:-1]
            y[r, : len(s) - 1] = s[1:]
        yield x, y
