"""scripts/model_bytes.py against what the authors publish, and docs/models.md against it and against the tree."""
import os
import pathlib
import re
import subprocess
import sys
import unittest

ROOT = pathlib.Path(os.environ.get("SG_SOURCE_ROOT", pathlib.Path(__file__).parents[2]))
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")

# Parameters in the files that the authors publish; of LFM2 without the biases for choosing experts, which they do not count.
PARAMETERS = {"OLMoE-1B-7B": 6919161856, "LFM2-8B-A1B": 8339929856 + 22 * 32, "DeepSeek-V2-Lite": 15706484224, "gpt-oss-20b": 20914757184,
              "Qwen3-30B-A3B": 30532122624, "Mixtral-8x7B": 46702792704, "Qwen3-Next-80B-A3B": 79674391296, "gpt-oss-120b": 116829156672}
# In billions, as the models' pages say.
ABOUT = {"SmallThinker-4B-A0.6B": 4, "SmallThinker-21B-A3B": 21.5, "Qwen3.5-35B-A3B, 3.6": 35, "TurboSparse-Mixtral-47B": 47, "GLM-4.5-Air": 106,
         "Granite-4.0-H-Tiny": 7, "Gemma-4-26B-A4B": 25.2}


def run(*args):
    return subprocess.run([sys.executable, "-B", str(ROOT / "scripts" / "model_bytes.py"), *args], capture_output=True, check=True,
                          encoding="utf-8", env={**os.environ, "PYTHONIOENCODING": "utf-8"}).stdout


def architectures():
    """Rows of the first table of the page: name, models, special, golden, folders."""
    rows = re.findall(r"^\| `([^`]+)` \|([^|]*)\|([^|]*)\| ([0-9–]+) \|([^|]*)\|$", PAGE, re.M)
    return {name: (golden, re.findall(r"`([^`]+)`", folders)) for name, _, _, golden, folders in rows}


class Sizes(unittest.TestCase):
    def test_page_has_the_table(self):
        table = run()
        self.assertGreater(table.count("\n"), 10)
        for line in table.splitlines():
            self.assertIn("\n" + line + "\n", PAGE)
        self.assertIn("\n\n" + table + "\n", PAGE)

    def test_parameters(self):
        found = dict(line.rsplit(": ", 1) for line in run("--parameters").splitlines())
        self.assertEqual(set(found), set(PARAMETERS) | set(ABOUT))
        for name, want in PARAMETERS.items():
            self.assertEqual(int(found[name]), want, name)
        for name, want in ABOUT.items():
            self.assertAlmostEqual(int(found[name]) / 1e9 / want, 1, delta=0.012, msg=name)

    def test_by_hand(self):
        """OLMoE: 16 layers; Qwen3-Next: 12 of attention with 2 heads of 256, 36 with a state."""
        cells = {line.split(" | ")[0][2:]: line.split(" | ") for line in run().splitlines()}
        self.assertEqual(int(cells["OLMoE-1B-7B"][5]), 16 * 8 * 3 * 2048 * 1024 * 18 // 32 >> 20)
        self.assertEqual(int(cells["OLMoE-1B-7B"][6]), 16 * 2 * 16 * 128 * 2 >> 10)
        self.assertEqual(int(cells["OLMoE-1B-7B"][7]), 16 * 2 * 16 * 128 * 2 * 8192 >> 20)
        self.assertEqual(int(cells["Qwen3-Next-80B-A3B"][6]), 12 * 2 * 2 * 256 * 2 >> 10)
        self.assertAlmostEqual(float(cells["Qwen3-Next-80B-A3B"][8].rstrip(" |")), 36 * 4 * (3 * 8192 + 32 * 128 * 128) / (1 << 20), 1)
        # a window of 128 keeps 384 rows, and the other half of the layers all 8192
        self.assertEqual(int(cells["gpt-oss-20b"][7]), round(12 * (384 + 8192) * 2 * 8 * 64 * 2 / (1 << 20)))


class Page(unittest.TestCase):
    def test_architectures(self):
        """Every one that the program knows has a row, and only those."""
        source = (ROOT / "models" / "registry.c").read_text(encoding="utf-8")
        self.assertEqual(set(architectures()), set(re.findall(r'X\(\w+, "([^"]+)"\)', source)))

    def test_folders(self):
        """Every folder of tests/data/hf is named once."""
        named = [f for _, folders in architectures().values() for f in folders]
        self.assertEqual(sorted(named), sorted(p.name for p in (ROOT / "tests" / "data" / "hf").iterdir() if p.is_dir()))

    def test_goldens(self):
        self.assertEqual(sum(int(golden) for golden, _ in architectures().values() if golden != "–"), 62)
        self.assertIn(f"{len(list((ROOT / 'tests' / 'data' / 'goldens').glob('*.json')))} of them are in `tests/data/goldens`", " ".join(PAGE.split()))


if __name__ == "__main__":
    unittest.main()
