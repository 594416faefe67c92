"""PowerInfer's files: written here from tests/data/hf in the form that PowerInfer's converters give them, cut into a model.bin, and its logits
against what transformers computed (OPT, Falcon) or llama_forward.py does (llama with ReLU, bamboo with dReLU).

The form, from https://github.com/SJTU-IPADS/PowerInfer (convert.py, convert-hf-to-powerinfer-gguf.py): the magic number PWRI; ffn_down is turned
and called ffn_down_t, also in the name of its bias; a predictor per layer, fc1 and fc2; OPT's table of positions with the two rows that no
token uses, which the context length counts too; no key says the activation, and few are there besides the sizes.
"""
import array
import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(os.environ["SG_SOURCE_ROOT"])
sys.path.insert(0, str(ROOT / "scripts"))
sys.dont_write_bytecode = True
from gguf_file import GgufFile  # noqa: E402
from llama_forward import forward  # noqa: E402

EXE = os.environ["SG_BIN"]
FOLDERS = ROOT / "tests" / "data" / "hf"
BOUND = 1e-8  # also as F16, which holds the values of these folders
RANK = 20  # of the predictors; no multiple of 32
SIZES = ["embedding_length", "block_count", "feed_forward_length", "attention.head_count"]
# Keys of each architecture besides SIZES, general.* and tokenizer.*
KEYS = {"opt": [], "falcon": ["context_length", "attention.head_count_kv", "attention.layer_norm_epsilon"],
        "llama": ["context_length", "attention.head_count_kv", "attention.layer_norm_rms_epsilon", "rope.dimension_count", "rope.freq_base"]}


def run(*args):
    done = subprocess.run([EXE, *map(str, args)], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"{args}: exit {done.returncode}: {done.stderr.decode()}")


# ---- the writer ----

def text(s):
    raw = s.encode() if isinstance(s, str) else s
    return struct.pack("<Q", len(raw)) + raw


def key_value(v):
    """Type and bytes."""
    if isinstance(v, bool):
        return 7, struct.pack("<?", v)
    if isinstance(v, int):
        return 4, struct.pack("<I", v)
    if isinstance(v, float):
        return 6, struct.pack("<f", v)
    if isinstance(v, str):
        return 8, text(v)
    kind = 8 if isinstance(v[0], str) else 6 if isinstance(v[0], float) else 5
    return 9, struct.pack("<IQ", kind, len(v)) + b"".join(text(e) if kind == 8 else struct.pack("<f" if kind == 6 else "<i", e) for e in v)


def write(path, keys, tensors):
    """tensors: name to (dimensions, type, bytes)."""
    out = [b"PWRI", struct.pack("<IQQ", 3, len(tensors), len(keys))]
    for name, v in keys.items():
        kind, raw = key_value(v)
        out += [text(name), struct.pack("<I", kind), raw]
    at, data = 0, []
    for name, (dims, kind, raw) in tensors.items():
        out += [text(name), struct.pack("<I", len(dims)), struct.pack(f"<{len(dims)}Q", *dims), struct.pack("<IQ", kind, at)]
        data.append(raw + bytes(-len(raw) % 32))
        at += len(data[-1])
    header = b"".join(out)
    path.write_bytes(header + bytes(-len(header) % 32) + b"".join(data))


def turned(values, rows, cols):
    return array.array("f", [values[r * cols + c] for c in range(cols) for r in range(rows)])


def tensors_of(g, arch, half):
    out = {}
    for name, (dims, kind, at) in g.tensors.items():
        if kind != 0:
            sys.exit(f"{name} is no F32")
        v = array.array("f", g.map[g.data + at:g.data + at + g.tensor_bytes(name)])
        if ".ffn_down." in name:
            name = name.replace("ffn_down", "ffn_down_t")
            if name.endswith(".weight"):
                v, dims = turned(v, dims[1], dims[0]), dims[::-1]
        if arch == "opt" and name == "position_embd.weight":
            v, dims = array.array("f", [9.0] * (2 * dims[0])) + v, [dims[0], dims[1] + 2]
        to_half = half and len(dims) == 2 and name.endswith(".weight")
        out[name] = dims, int(to_half), struct.pack(f"<{len(v)}e", *v) if to_half else v.tobytes()
    return out


def add_predictors(out, g, arch, noise):
    n_embd, n_ff = g.keys[f"{arch}.embedding_length"], g.keys[f"{arch}.feed_forward_length"]
    for layer in range(g.keys[f"{arch}.block_count"]):
        for name, dims in (("fc1", (n_embd, RANK)), ("fc2", (RANK, n_ff))):
            n = dims[0] * dims[1]
            out[f"blk.{layer}.{name}.weight"] = list(dims), 1, struct.pack(f"<{n}e", *(noise.uniform(-1, 1) for _ in range(n)))


def write_powerinfer(g, path, called, half=False, threshold=0.0):
    """g: the plain GGUF file of the folder, F32. `called`: the architecture's name in the file, which is bamboo for a llama with dReLU."""
    arch = g.keys["general.architecture"]
    keys = {"general.architecture": called, "general.name": "PowerInfer", "general.file_type": int(half)}
    for name in SIZES + KEYS[arch]:
        keys[f"{called}.{name}"] = g.keys[f"{arch}.{name}"]
    if arch == "opt":
        keys["opt.context_length"] = g.keys["opt.context_length"] + 2
    if arch == "falcon":
        keys["falcon.tensor_data_layout"] = "jploski"
        if g.keys["falcon.rope.freq_base"] != 10000:  # not as theirs: another base than the usual one cannot be said there
            keys["falcon.rope.freq_base"] = g.keys["falcon.rope.freq_base"]
    keys["powerinfer.sparse_threshold"] = threshold
    keys |= {k: v for k, v in g.keys.items() if k.startswith("tokenizer.")}
    out = tensors_of(g, arch, half)
    add_predictors(out, g, arch, random.Random(4))
    write(path, keys, out)


# ---- the checks ----

def logits(model, ids, out, *options):
    run("logits", "-m", model, "--tokens", " ".join(map(str, ids)), "--kv", "f32", "-o", out, *options)
    v = array.array("f")
    v.frombytes(out.read_bytes())
    return v


def nmse(got, want):
    if len(got) != len(want):
        sys.exit(f"{len(got)} logits instead of {len(want)}")
    return sum((a - b) ** 2 for a, b in zip(got, want)) / sum(b * b for b in want)


def check(what, error, bound):
    print(f"{what}: NMSE {error:.1e}", flush=True)
    if not error <= bound:
        sys.exit(f"{what}: NMSE {error:.3g} is above {bound:g}")


def check_activation(model, arch, act):
    keys = GgufFile(model).keys
    if keys["general.architecture"] != arch or keys.get("sparsegen.ffn_activation") != act:
        sys.exit(f"{model.name}: {keys['general.architecture']} with {keys.get('sparsegen.ffn_activation')}, not {arch} with {act}")


def check_case(name, called, act, tmp):
    folder = FOLDERS / name
    expected = json.loads((folder / "expected.json").read_text())
    ids = expected["ids"]
    plain, theirs, cut, out = (tmp / f"{called}.{end}" for end in ("gguf", "pwri", "bin", "f32"))
    run("convert", folder, "-o", plain, "-f", "--type", "f32")
    g = GgufFile(plain)
    want = array.array("f")
    want.frombytes((folder / "expected.f32").read_bytes())
    if act != g.keys.get("sparsegen.ffn_activation", "relu" if called == "opt" else None):
        check(f"llama_forward.py on {name}", nmse(forward(g, ids, "silu"), want), 1e-9)  # before it is trusted with another activation
        want = forward(g, ids, act)
    for half in (False, True):
        # thresholds below and above every score: all neurons are predicted, or none
        for threshold in (-1e9, 1e9):
            write_powerinfer(g, theirs, called, half, threshold)
            run("convert", theirs, "-o", cut, "-f")
            check_activation(cut, "llama" if called == "bamboo" else called, act)
            exact = logits(cut, ids, out)
            check(f"{name} as {called}, {'F16' if half else 'F32'}", nmse(exact, want), BOUND)
            predicted = logits(cut, ids, out, "--lossy", "predict=0.9")
            if (nmse(predicted, exact) < 1e-10) != (threshold < 0):
                sys.exit(f"{name} as {called}: with a threshold of {threshold:g} the NMSE of what is predicted is {nmse(predicted, exact):.3g}")


def main():
    with tempfile.TemporaryDirectory() as tmp:
        for name, called, act in (("opt", "opt", "relu"), ("falcon-relu", "falcon", "relu"), ("falcon-mqa", "falcon", "relu"),
                                  ("llama", "llama", "relu"), ("llama", "bamboo", "drelu")):
            check_case(name, called, act, pathlib.Path(tmp))


if __name__ == "__main__":
    main()
