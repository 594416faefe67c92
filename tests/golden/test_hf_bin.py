"""Tiny Hugging Face folders (tests/data/hf): the model.bin that is cut from the folder itself is, to the byte, the one that is cut from the
GGUF file of the folder. test_hf_tensors.py says that this GGUF file is right, test_hf.py what the model.bin computes.
"""
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(os.environ["SG_SOURCE_ROOT"])
sys.path.insert(0, str(ROOT / "scripts"))
sys.dont_write_bytecode = True
from gguf_file import GgufFile  # noqa: E402
from hf_folders import copy, move_scales  # noqa: E402

EXE = os.environ["SG_BIN"]
FOLDERS = ROOT / "tests" / "data" / "hf"
# Of the folder to GGUF, of GGUF to model.bin, of the folder to model.bin; whether all tensors are the same, or the bundles alone.
WAYS = {
    "f32": (["--type", "f32"], [], ["--type", "f32"], True),
    "default": ([], [], [], True),
    "q8_0": (["--type", "f32"], ["--type", "q8_0"], ["--type", "q8_0"], False),
    "small clusters": (["--type", "f32"], ["--type", "q4_0", "--down-type", "f16", "--cluster", "32"],
                       ["--type", "q4_0", "--down-type", "f16", "--cluster", "32"], False),
}


def convert(source, out, *options):
    done = subprocess.run([EXE, "convert", source, "-o", out, "-f", "-q", *options], stdin=subprocess.DEVNULL, capture_output=True,
                          check=False)
    if done.returncode:
        sys.exit(f"{source} {options}: exit {done.returncode}: {done.stderr.decode()}")


def part(g, name):
    at = g.data + g.tensors[name][2]
    return g.map[at:at + g.tensor_bytes(name)]


def is_bundle(name):
    return name.endswith((".ffn_bundle", ".ffn_bundle_shexp"))


def compare(what, direct, through, everything):
    """Number of bundles."""
    names = [n for n in through.tensors if is_bundle(n) or (everything and n != "sparsegen.checksums")]
    if list(direct.tensors) != list(through.tensors):
        sys.exit(f"{what}: tensors {sorted(set(direct.tensors) ^ set(through.tensors))} are on one side only, or in another order")
    for name in names:
        if direct.tensors[name][:2] != through.tensors[name][:2]:
            sys.exit(f"{what}: {name} is {direct.tensors[name][:2]}, {through.tensors[name][:2]} expected")
        if part(direct, name) != part(through, name):
            a, b = part(direct, name), part(through, name)
            sys.exit(f"{what}: {name} differs in {sum(x != y for x, y in zip(a, b))} of {len(a)} bytes")
    keys = [k for k in through.keys if everything or k.startswith("sparsegen.")]
    for key in keys:
        if direct.keys.get(key) != through.keys[key]:
            sys.exit(f"{what}: {key} is {direct.keys.get(key)}, {through.keys[key]} expected")
    if everything and set(direct.keys) != set(through.keys):
        sys.exit(f"{what}: keys {sorted(set(direct.keys) ^ set(through.keys))} are on one side only")
    return sum(map(is_bundle, names))


def main():
    folders = sorted(p for p in FOLDERS.iterdir() if p.is_dir())
    if len(folders) < 33:
        sys.exit(f"only {len(folders)} folders in {FOLDERS}")
    with tempfile.TemporaryDirectory() as tmp:
        gguf, through, direct = (pathlib.Path(tmp) / name for name in ("model.gguf", "through.bin", "direct.bin"))
        folders.append(move_scales(copy(FOLDERS / "gpt-oss-mxfp4", pathlib.Path(tmp) / "mxfp4-apart")))
        for folder in folders:
            counts = []
            for way, (to_gguf, to_bin, straight, everything) in WAYS.items():
                # Q8_0 holds MXFP4's values exactly, and only who sees the blocks knows
                convert(folder, gguf, *([] if way == "q8_0" and "mxfp4" in folder.name else to_gguf))
                convert(gguf, through, *to_bin)
                convert(folder, direct, *straight)
                counts.append(compare(f"{folder.name}, {way}", GgufFile(direct), GgufFile(through), everything))
            if min(counts) == 0:
                sys.exit(f"{folder.name}: nothing was cut")
            print(f"{folder.name}: {counts[0]} bundles", flush=True)


if __name__ == "__main__":
    main()
