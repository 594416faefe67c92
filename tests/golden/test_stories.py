"""stories260K (llama2.c's test model): converted from its .bin, 200 greedy steps must give llama2.c's own text, byte for byte.

Needs material outside the project ($SG_SHARED/data/models/stories260K); without it the test is skipped (exit 77).
"""
import os
import pathlib
import subprocess
import sys
import tempfile

EXE = os.environ["SG_BIN"]
FOLDER = pathlib.Path(os.environ.get("SG_SHARED", "")) / "data" / "models" / "stories260K"
TIERS = ("ref", "avx2", "avxvnni", "avx512", "avx512vnni", "neon", "dotprod", "i8mm")


def run(*args, may_lack=False):
    """stdout and stderr; with may_lack None when the processor lacks the instruction set that was asked for."""
    done = subprocess.run([EXE, *map(str, args)], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    err = done.stderr.decode()
    if may_lack and done.returncode and "lacks the instruction set" in err:
        return None
    if done.returncode:
        sys.exit(f"{args}: exit {done.returncode}: {err}")
    return done.stdout, err


def main():
    if not (FOLDER / "stories260K.bin").exists():
        print("stories260K is not at hand: skipped")
        return 77
    want = (FOLDER / "expected_greedy_200.txt").read_bytes()
    with tempfile.TemporaryDirectory() as tmp:
        gguf = pathlib.Path(tmp) / "stories260K.gguf"
        run("convert", FOLDER / "stories260K.bin", "--tokenizer", FOLDER / "tok512.bin", "--type", "f32", "-o", gguf)
        prompt = ("-m", gguf, "-p", "", "-n", 200, "--temp", 0, "--stats")
        ways = ([], ["-t", "3"], ["--pin"], ["--kv", "f32"], *(["--cpu-mask", tier] for tier in TIERS))
        tiers = []
        for extra in ways:
            done = run(*prompt, *extra, may_lack="--cpu-mask" in extra)
            if done is None:
                continue
            if done[0].rstrip(b"\n") != want.rstrip(b"\n"):
                sys.exit(f"text differs with {extra}:\n--- expected\n{want!r}\n--- got\n{done[0]!r}")
            if "--cpu-mask" in extra and f" {extra[1]} kernels" in done[1]:  # else this build lacks it
                tiers.append(extra[1])
    print(f"{len(want)} bytes equal to llama2.c's; tiers: {' '.join(tiers)}")
    if "ref" not in tiers:
        sys.exit("the tier ref did not run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
