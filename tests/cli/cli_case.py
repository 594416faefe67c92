"""What the tests of the sparsegen program share."""
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(os.environ['SG_SOURCE_ROOT'])
EXE = os.environ['SG_BIN']
GOLDENS = ROOT / 'tests' / 'data' / 'goldens'
# Tiny models with random weights: their text means nothing, only how it is handled does.
MODEL = str(GOLDENS / 'llama-q8_0.gguf')
MODEL_FLOATS = str(GOLDENS / 'llama-rope3.gguf')
GOLDEN = json.loads((GOLDENS / 'llama-q8_0.json').read_text())
TIMEOUT = 300  # seconds; only against hanging


def run(*args, stdin=b'', **more):
    more.setdefault('stdout', subprocess.PIPE)
    return subprocess.run([EXE, *map(str, args)], input=stdin, stderr=subprocess.PIPE, timeout=TIMEOUT, check=False, **more)


@functools.lru_cache(maxsize=None)
def sanitized():
    """Whether the program was built with memory of its own for checks, which belongs to no budget."""
    with open(EXE, 'rb') as f:
        return b'__asan_init' in f.read()


def main():
    """Runs the tests of the calling program; the closing line tells how many."""
    result = unittest.main(verbosity=1, exit=False).result
    print(f'{result.testsRun} tests, {len(result.failures)} failures, {len(result.errors)} errors, {len(result.skipped)} skipped',
          flush=True)
    sys.exit(not result.wasSuccessful())


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.tmp = pathlib.Path(folder.name)

    def ok(self, *args, **more):
        done = run(*args, **more)
        self.assertEqual(done.returncode, 0, f'{args}: {done.stderr.decode()}')
        return done

    def fails(self, code, word, *args, **more):
        """Exit code, and one sentence on stderr that names the trouble; nothing on stdout."""
        done = run(*args, **more)
        err = done.stderr.decode()
        self.assertEqual(done.returncode, code, f'{args}: {err}')
        first = [line for line in err.splitlines() if not line.startswith('[')][0]
        self.assertTrue(first.startswith('sparsegen: '), err)
        self.assertIn(word, first)
        self.assertFalse(first.endswith('.'), err)
        self.assertEqual('usage: sparsegen' in err, code == 2, err)
        self.assertNotIn('\033', err)  # no color: stderr is no terminal
        if done.stdout is not None:
            self.assertEqual(done.stdout, b'', args)
        return done
