"""Tiny Hugging Face folders (tests/data/hf): convert, then logits and tokens against what transformers computed.

The first three folders and their expected values are written by scripts/check_convert_hf.py --fixtures, the others by
scripts/make_hf_refs.py. Of every folder the tokens and the logits are compared,
the latter also of a model.bin made from it; test_hf_tensors.py compares the converted tensors of all of them, test_hf_bin.py the bundles.
"""
import array
import json
import os
import pathlib
import subprocess
import sys
import tempfile

EXE = os.environ["SG_BIN"]
FOLDERS = pathlib.Path(os.environ["SG_SOURCE_ROOT"]) / "tests" / "data" / "hf"
BOUND = 1e-8  # F32 weights, activations and KV cache
def run(*args):
    done = subprocess.run([EXE, *map(str, args)], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"{args}: exit {done.returncode}: {done.stderr.decode()}")
    return done.stdout.decode()


def floats(path):
    values = array.array("f")
    values.frombytes(path.read_bytes())
    return values


def nmse(got, want):
    if len(got) != len(want):
        sys.exit(f"{len(got)} logits instead of {len(want)}")
    return sum((a - b) ** 2 for a, b in zip(got, want)) / sum(b * b for b in want)


def check(folder, tmp):
    expected = json.loads((folder / "expected.json").read_text())
    gguf, out = tmp / f"{folder.name}.gguf", tmp / f"{folder.name}.f32"
    run("convert", folder, "-o", gguf, "--type", "f32")
    cut = tmp / f"{folder.name}.bin"
    run("convert", folder, "-o", cut, "--type", "f32")
    ids = [int(i) for i in run("tokenize", "-m", gguf, "-p", expected["text"]).split()]
    errors = []
    for model in (gguf, cut):
        run("logits", "-m", model, "--tokens", " ".join(map(str, expected["ids"])), "--kv", "f32", "-o", out)
        errors.append(nmse(floats(out), floats(folder / "expected.f32")))
    print(f"{folder.name}: NMSE {errors[0]:.1e} as GGUF, {errors[1]:.1e} as model.bin, {len(ids)} token ids", flush=True)
    if not max(errors) <= BOUND:
        sys.exit(f"{folder.name}: NMSE {max(errors):.3g} is above {BOUND:g}")
    if ids != expected["text_ids"]:
        sys.exit(f"{folder.name}: token ids {ids} instead of {expected['text_ids']}")


def main():
    folders = sorted(p for p in FOLDERS.iterdir() if p.is_dir())
    if len(folders) < 33:
        sys.exit(f"only {len(folders)} folders in {FOLDERS}")
    with tempfile.TemporaryDirectory() as tmp:
        for folder in folders:
            check(folder, pathlib.Path(tmp))


if __name__ == "__main__":
    main()
