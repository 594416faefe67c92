"""scripts/trace_picture.py on a trace made by hand: which token, which rectangles and where."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

ROOT = pathlib.Path(os.environ.get("SG_SOURCE_ROOT", pathlib.Path(__file__).parents[2]))
SCRIPT = ROOT / "scripts" / "trace_picture.py"
SVG = "{http://www.w3.org/2000/svg}"
LEFT, INNER = 90, 990  # of the picture


def span(cat, lane, begin, end, name=None, **args):
    """In ms."""
    return {"ph": "X", "pid": 1, "name": name or cat, "cat": cat, "tid": lane, "ts": begin * 1e3, "dur": (end - begin) * 1e3, "args": args}


TRACE = [{"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "sparsegen"}},
         span("token", 0, 0, 30, position=0), span("token", 0, 30, 40, position=1), span("token", 0, 40, 60, position=2),
         span("step", 0, 31, 33, "matmul", layer=0), span("step", 1, 31, 34, "feed-forward", layer=0), span("step", 0, 33, 36, "<new>", layer=0),
         span("wait", 0, 34, 36, layer=0), span("step", 0, 50, 55, "matmul", layer=1),
         span("read", 1000, 34, 36, bytes=4608), span("read", 1001, 34, 35, bytes=4608), span("read", 1001, 35.0001, 36, bytes=4608),
         span("prefetch", 1002, 20, 35, bytes=1 << 20), span("prefetch", 1000, 39, 45, bytes=1 << 20), span("read", 1000, 45, 50, bytes=1)]


class TracePicture(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.tmp = pathlib.Path(folder.name)

    def draw(self, content, *args):
        (self.tmp / "t.json").write_text(content if isinstance(content, str) else json.dumps({"traceEvents": content}))
        return subprocess.run([sys.executable, "-B", str(SCRIPT), str(self.tmp / "t.json"), str(self.tmp / "t.svg"), *args],
                              capture_output=True, text=True, check=False)

    def rects(self, kind):
        """(x in ms, width in ms, fill) of the rectangles of a kind, from left to right, and their y."""
        root = xml.etree.ElementTree.parse(self.tmp / "t.svg").getroot()
        found = sorted(((float(r.get("x")), float(r.get("width")), r.get("fill"), float(r.get("y"))) for r in root.iter(SVG + "rect")
                        if r.get("class") == kind), key=lambda r: (r[0], r[3]))
        return [(x, w, fill) for x, w, fill, _ in found], [y for _, _, _, y in found]

    def at(self, found, begin, end, total=10):
        self.assertAlmostEqual(found[0], LEFT + INNER * begin / total, 1)
        self.assertAlmostEqual(found[1], INNER * (end - begin) / total, 1)

    def test_token(self):
        done = self.draw(TRACE, "--token", "1")
        self.assertEqual(done.returncode, 0, done.stderr)
        steps, lanes = self.rects("step")
        self.assertEqual(len(steps), 3)
        for found, (begin, end) in zip(steps, ((1, 3), (1, 4), (3, 6))):
            self.at(found, begin, end)
        self.assertEqual(len({fill for _, _, fill in steps}), 3)
        self.assertTrue(lanes[0] == lanes[2] < lanes[1], lanes)
        waits, wait_lanes = self.rects("wait")
        self.assertEqual(([fill for _, _, fill in waits], wait_lanes), (["url(#wait)"], [lanes[0]]))
        self.at(waits[0], 4, 6)
        reads, read_lanes = self.rects("read")
        self.assertEqual(len(reads), 2)  # two of them lie so close together that they are one
        self.at(reads[0], 4, 6)
        self.at(reads[1], 4, 6)
        self.assertNotEqual(*read_lanes)
        ahead, _ = self.rects("prefetch")
        self.assertEqual(len(ahead), 2)  # cut at the token's ends
        self.at(ahead[0], 0, 5)
        self.at(ahead[1], 9, 10)
        self.assertNotEqual(reads[0][2], ahead[0][2])
        words = [t.text for t in xml.etree.ElementTree.parse(self.tmp / "t.svg").getroot().iter(SVG + "text")]
        self.assertTrue({"thread 0", "thread 1", "ms", "matmul", "feed-forward", "other steps", "waiting for reads", "read on demand",
                         "read ahead", "(top: 3)"} <= set(words), words)
        self.assertIn("Token 1, 10.0 ms: 3 x read on demand, 0.0 MiB, 2 x read ahead, 2.0 MiB", words)

    def test_median(self):
        self.assertEqual(self.draw(TRACE).returncode, 0)
        steps, _ = self.rects("step")
        self.assertEqual(len(steps), 1)  # token 2 of 20 ms is between those of 10 and 30
        self.at(steps[0], 10, 15, 20)

    def test_nothing_read(self):
        done = self.draw([span("token", 0, 0, 1), span("step", 0, 0, 1, "norm")])
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(self.rects("step")[0]), 1)

    def test_failures(self):
        for content, args, words in ((TRACE, ["--token", "3"], "there are 3 tokens"), ([], [], "there are 0 tokens"), ("[]", [], "no trace"),
                                     ("{", [], "t.json"), ([{"ph": "X"}], [], "no trace")):
            done = self.draw(content, *args)
            self.assertEqual(done.returncode, 1, words)
            self.assertIn(words, done.stderr)
            self.assertNotIn("Traceback", done.stderr)
        (self.tmp / "t.json").unlink()
        done = subprocess.run([sys.executable, "-B", str(SCRIPT), str(self.tmp / "t.json"), "x"], capture_output=True, text=True, check=False)
        self.assertIn("No such file", done.stderr)


if __name__ == "__main__":
    unittest.main()
