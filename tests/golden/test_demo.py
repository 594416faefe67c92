"""The shipped dReLU model against PyTorch (tests/data/demo, written by scripts/export_demo.py): token ids, logits, greedy text.

The reference unpacks the weights to F32 and rounds no activation; sparsegen rounds them to 8 bits, hence the bound. A wrong gate
activation (SiLU for dReLU) gives an error near 1, so it cannot hide below it.
"""
import array
import json
import os
import pathlib
import subprocess
import sys
import tempfile

EXE = os.environ["SG_BIN"]
ROOT = pathlib.Path(os.environ["SG_SOURCE_ROOT"])
BOUND = 1e-3


def run(*args):
    done = subprocess.run([EXE, *map(str, args)], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"{args}: exit {done.returncode}: {done.stderr.decode()}")
    return done.stdout.decode()


def floats(path):
    values = array.array("f")
    values.frombytes(path.read_bytes())
    return values


def main():
    data = ROOT / "tests" / "data" / "demo"
    want = json.loads((data / "stories-drelu-5M.json").read_text())
    model = ROOT / want["model"]
    ids = [int(i) for i in run("tokenize", "-m", model, "-p", want["prompt"]).split()]
    if ids != want["prompt_ids"]:
        sys.exit(f"token ids {ids} instead of {want['prompt_ids']}")
    with tempfile.TemporaryDirectory() as tmp:
        out = pathlib.Path(tmp) / "out.f32"
        run("logits", "-m", model, "-p", want["prompt"], "--last", want["logits"]["rows"], "-o", out)
        got, ref = floats(out), floats(data / want["logits"]["file"])
    if len(got) != len(ref):
        sys.exit(f"{len(got)} logits instead of {len(ref)}")
    error = sum((a - b) ** 2 for a, b in zip(got, ref)) / sum(b * b for b in ref)
    text = run("-m", model, "-p", want["prompt"], "-n", len(want["greedy_ids"]), "--temp", 0, "--ignore-eos")
    print(f"NMSE {error:.1e}, bound {BOUND:g}; text: {text!r}")
    if not error <= BOUND:
        sys.exit("the logits are too far from the reference")
    if text.strip() != want["greedy_text"].strip():
        sys.exit(f"expected {want['greedy_text']!r}")
    for name in "stories-drelu-5M", "stories-moe-25M":
        if '"architecture"' not in run("info", ROOT / "models" / "demo" / f"{name}.gguf", "--json"):
            sys.exit(f"info says nothing about {name}")


if __name__ == "__main__":
    main()
