"""The shipped models against PyTorch (tests/data/demo, written by scripts/export_demo.py): token ids, logits, greedy text.

The reference unpacks the weights to F32 and rounds no activation; sparsegen rounds them to 8 bits, hence the bound, or to 16. A wrong gate
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
BOUND, PRECISE = 1e-3, 1e-8


def run(*args):
    done = subprocess.run([EXE, *map(str, args)], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"{args}: exit {done.returncode}: {done.stderr.decode()}")
    return done.stdout.decode()


def floats(path):
    values = array.array("f")
    values.frombytes(path.read_bytes())
    return values


def logits(model, want, *options):
    with tempfile.TemporaryDirectory() as tmp:
        out = pathlib.Path(tmp) / "out.f32"
        run("logits", "-m", model, "-p", want["prompt"], "--last", want["logits"]["rows"], "-o", out, *options)
        return floats(out)


def check(data, name):
    want = json.loads((data / f"{name}.json").read_text())
    model = ROOT / want["model"]
    ids = [int(i) for i in run("tokenize", "-m", model, "-p", want["prompt"]).split()]
    if ids != want["prompt_ids"]:
        sys.exit(f"{name}: token ids {ids} instead of {want['prompt_ids']}")
    ref, errors = floats(data / want["logits"]["file"]), []
    for options, bound in ((), BOUND), (("--precise", "--kv", "f32"), PRECISE):
        got = logits(model, want, *options)
        if len(got) != len(ref):
            sys.exit(f"{name}: {len(got)} logits instead of {len(ref)}")
        errors.append(sum((a - b) ** 2 for a, b in zip(got, ref)) / sum(b * b for b in ref))
        if not errors[-1] <= bound:
            sys.exit(f"{name}: NMSE {errors[-1]:.2g} is above {bound:g}")
    text = run("-m", model, "-p", want["prompt"], "-n", len(want["greedy_ids"]), "--temp", 0, "--ignore-eos")
    print(f"{name}: NMSE {errors[0]:.1e}, bound {BOUND:g}, precise {errors[1]:.1e}; text: {text!r}")
    if text.strip() != want["greedy_text"].strip():
        sys.exit(f"expected {want['greedy_text']!r}")
    if '"architecture"' not in run("info", model, "--json"):
        sys.exit(f"info says nothing about {name}")


def main():
    for name in "stories-drelu-5M", "stories-moe-25M":
        check(ROOT / "tests" / "data" / "demo", name)


if __name__ == "__main__":
    main()
