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


def run(*args):
    done = subprocess.run([EXE, *map(str, args)], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"{args}: exit {done.returncode}: {done.stderr.decode()}")
    return done.stdout


def main():
    if not (FOLDER / "stories260K.bin").exists():
        print("stories260K is not at hand: skipped")
        return 77
    want = (FOLDER / "expected_greedy_200.txt").read_bytes()
    with tempfile.TemporaryDirectory() as tmp:
        gguf = pathlib.Path(tmp) / "stories260K.gguf"
        run("convert", FOLDER / "stories260K.bin", "--tokenizer", FOLDER / "tok512.bin", "--type", "f32", "-o", gguf)
        for extra in ([], ["-t", "3"], ["--pin"], ["--kv", "f32"], ["--cpu-mask", "ref"]):
            got = run("-m", gguf, "-p", "", "-n", 200, "--temp", 0, *extra)
            if got.rstrip(b"\n") != want.rstrip(b"\n"):
                sys.exit(f"text differs with {extra}:\n--- expected\n{want!r}\n--- got\n{got!r}")
    print(f"{len(want)} bytes equal to llama2.c's, 4 ways")
    return 0


if __name__ == "__main__":
    sys.exit(main())
