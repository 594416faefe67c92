"""Models larger than the memory budget: the same logits to the bit at every budget, engine, prefetch setting and number of threads;
the budget is kept; faults of the drive and of the file give an error or the right text.

SG_FULL_GRID=1 runs every combination of model, prompt, budget, engine, prefetch setting and threads instead of a sample (ten minutes), each with
a batch and a way of computing that are drawn. SG_GRID_MODEL and SG_GRID_IDS name one more model and a file of token ids for it; SG_GRID_RAM
budgets for it, as --ram takes them. SG_GRID_GROUP=1 runs everything that has a budget in a memory cgroup of that budget and 64 MiB (needs
root)."""
import functools
import itertools
import os
import random
import re
import subprocess
import sys
import tempfile
import unittest

from cli_case import EXE, ROOT, TIMEOUT, Case, main, run, sanitized

sys.path.insert(0, str(ROOT / 'scripts'))
import memory_group  # noqa: E402  pylint: disable=wrong-import-position

DEMO = ROOT / 'models' / 'demo' / 'stories-drelu-5M.gguf'
PROMPTS = ['Once upon a time, there was a little girl named Sue.', 'Tom saw a big dog. The dog',
           'One day a boy went to the park with his mom and they saw a bird in a tree. The bird was sad because it']
# Above the floor, in MiB; the last one holds everything.
ABOVE = [0.3, 0.8, 1.6, 2.6, 60]
ENGINES = ['uring', 'pread', 'fault']
SLACK = 32  # MiB that the resident memory may be above the budget
GROUP_SLACK = 64  # MiB that a group of processes may use beyond it
SAMPLE = 160
FAULTS = 'seed={},delay=40,reorder=8,short=20,eio=10'


@functools.lru_cache(maxsize=None)
def folder():
    return tempfile.TemporaryDirectory()


@functools.lru_cache(maxsize=None)
def model(name):
    """A file of each form: dense and in bundles, sparse and not, calibrated."""
    path = os.path.join(folder().name, name)
    if name == 'silu.gguf':  # with the key that says "drelu" out of the way, the architecture's own activation counts
        data = DEMO.read_bytes()
        assert data.count(b'sparsegen.ffn_activation') == 1
        with open(path, 'wb') as f:
            f.write(data.replace(b'sparsegen.ffn_activation', b'sparsegen.not_activation'))
    elif name == 'drelu.gguf':
        return str(DEMO)
    elif name == 'calibrated.bin':
        text = os.path.join(folder().name, 'text')
        with open(text, 'w', encoding='utf-8') as f:
            f.write(' '.join(PROMPTS * 6))
        done = run('calibrate', '-m', model('drelu.bin'), '-f', text, '-o', path, '--tokens', 200, '-q')
        assert done.returncode == 0, done.stderr
    else:  # small.bin: many clusters in a layer, so that threads work on groups of them
        small = ['--cluster', 32] if name == 'small.bin' else []
        done = run('convert', model('drelu.gguf' if small else name.replace('.bin', '.gguf')), '-o', path, '-q', *small)
        assert done.returncode == 0, done.stderr
    return path


def limited(command, budget, env):
    """Runs it in a group with the budget and GROUP_SLACK; exit status and what was said."""
    size = int(budget[:-1]) << {'K': 10, 'M': 20, 'G': 30}[budget[-1]]
    with memory_group.Group(memory_group.find(), size + (GROUP_SLACK << 20)) as group:
        command = ['/usr/bin/env', *(f'{key}={value}' for key, value in env.items()), *command]
        done = memory_group.run(command, TIMEOUT, group)
    return done['code'], f"{done['err']}{done['kills']} kills in a group of {budget} and {GROUP_SLACK} MiB, exit status {done['code']}\n"


def logits(path, prompt, *args, env=None):
    """The bytes of the logits and what was said."""
    out = os.path.join(folder().name, 'out.f32')
    args = ['logits', '-m', path, *prompt, '-o', out, *map(str, args)]
    if '--ram' in args and os.environ.get('SG_GRID_GROUP'):
        code, said = limited([EXE, *args], args[args.index('--ram') + 1], env or {})
    else:
        done = run(*args, env={**os.environ, **(env or {})})
        code, said = done.returncode, done.stderr.decode()
    if code:
        return None, said
    with open(out, 'rb') as f:
        return f.read(), said


def clusters_of(path, layer):
    """Where the clusters of a layer begin in a model.bin, which is where their gate rows lie."""
    from gguf_file import GgufFile
    g = GgufFile(path)
    (size, count), _, at = g.tensors[f'blk.{layer}.ffn_bundle']
    return [g.data + at + i * size for i in range(count)]


def within(path, prompt, above, *args, env=None):
    """Logits with a budget so many MiB above the floor, and what was said. The floor holds memory that was measured, so it is not the
    same to the byte each time (under the sanitizers not even to the MiB): a refusal says the new one."""
    ram = 0.001
    for _ in range(8):
        got, said = logits(path, prompt, *args, '--ram', f'{int(1024 * ram)}K', env=env)
        found = re.search(r'at least ([0-9.]+) MiB', said)
        if got is not None or not found:
            return got, said
        ram = float(found.group(1)) + above
    return None, said


@functools.lru_cache(maxsize=None)
def resident(path, prompt):
    got, said = logits(path, prompt)
    assert got is not None, said
    return got


class Grid(Case):
    def check_one(self, path, prompt, budget, engine, prefetch, threads, batch, more=()):
        """budget: as --ram takes it, or a number of MiB above the floor."""
        args = ['--io', engine, '-t', threads, '-b', batch, '--stats', *more, *([] if prefetch else ['--no-prefetch'])]
        env = {'SPARSEGEN_FAULTS': FAULTS.format(threads + batch)}
        if isinstance(budget, str):
            got, said = logits(path, prompt, *args, '--ram', budget, env=env)
        else:
            got, said = within(path, prompt, budget, *args, env=env)
        self.assertIsNotNone(got, f'{path} {args}: {said}')
        self.assertTrue(got == resident(path, prompt), f'{path} {prompt} {args}: other logits than with everything in memory')
        peak, budget = re.search(r'peak resident ([0-9.]+) MiB(?: of a budget of ([0-9.]+) MiB)?', said).groups()
        self.assertIsNotNone(budget, said)
        if not sanitized():
            self.assertLessEqual(float(peak), float(budget) + SLACK, f'{path} {args}: {said}')
        return 'read while computing' in said

    def test_demo_models(self):
        names = ['drelu.gguf', 'silu.gguf', 'drelu.bin', 'calibrated.bin', 'silu.bin', 'small.bin']
        ways = [(), ('--ffn', 'dense')]
        grid = list(itertools.product(names, PROMPTS, ABOVE, ENGINES, (True, False), (1, 2, 3)))
        draw = random.Random(7)
        if not os.environ.get('SG_FULL_GRID'):
            grid = draw.sample(grid, SAMPLE // 3 if sanitized() else SAMPLE)
        streamed = 0
        for name, text, above, engine, prefetch, threads in grid:
            path, prompt = model(name), ('-p', text)
            streamed += self.check_one(path, prompt, above, engine, prefetch, threads, draw.choice((1, 3, 128)), draw.choice(ways))
        print(f'{len(grid)} runs with the bits of everything in memory, {streamed} of them reading while computing', flush=True)
        self.assertGreater(streamed, len(grid) // 3)

    @unittest.skipUnless(os.environ.get('SG_GRID_MODEL'), 'no further model was named')
    def test_another_model(self):
        path, count = os.environ['SG_GRID_MODEL'], 0
        with open(os.environ['SG_GRID_IDS'], encoding='ascii') as f:
            ids = f.read().split()
        for i, ram in itertools.product(range(3), os.environ['SG_GRID_RAM'].split(',')):
            prompt = ('--tokens', ' '.join(ids[20 * i:20 * i + 6]))
            for engine, prefetch, threads in itertools.product(ENGINES, (True, False), (1, 2, 3)):
                batch = (1, 128)[(i + threads) % 2]
                self.check_one(path, prompt, ram, engine, prefetch, threads, batch)
                count += 1
                print(f'{count}: {ram} {engine} prefetch {prefetch}, {threads} threads, batch {batch}: same bits', flush=True)

    def test_parts_switched_off(self):
        for batch, threads, more in itertools.product((1, 128), (1, 2, 3), (('--no-cache',), ('--no-pipeline',), ('--no-cache', '--no-pipeline', '--no-prefetch'))):
            self.assertTrue(self.check_one(model('small.bin'), ('-p', PROMPTS[1]), 0.5, 'uring', True, threads, batch, more))
        _, said = within(model('small.bin'), ('-p', PROMPTS[1]), 0.5, '-b', 1, '--no-cache', '--stats')
        self.assertRegex(said, r' 0\.0 % in the cache, 0\.0 % read ahead')

    def test_lossy_choices(self):
        path, prompt = model('calibrated.bin'), ('-p', PROMPTS[2])
        for more in ('--lossy', 'topk=100'), ('--lossy', 'threshold=0.3'), ('--lossy', 'predict=0.9'), ('--lossy', 'predict=0.9', '--ffn', 'sparse'):
            want, said = logits(path, prompt, *more)
            self.assertIsNotNone(want, said)
            for batch, threads in (1, 2), (128, 2), (3, 1):
                got, said = within(path, prompt, 0.4, *more, '-b', batch, '-t', threads, '--stats')
                self.assertTrue(got == want, f'{more} {batch}: {said}')
                self.assertIn('read while computing', said)

    def test_top_k_of_whole_layers(self):
        """Right, or refused: the gates of a layer are needed before the rest, and the belt may not hold both."""
        path, prompt, more = model('calibrated.bin'), ('-p', PROMPTS[0]), ('--lossy', 'topk=100', '--ffn', 'dense', '-b', 1)
        want, said = logits(path, prompt, *more)
        self.assertIsNotNone(want, said)
        got, said = within(path, prompt, 0.3, *more)
        self.assertIsNone(got)
        self.assertIn('lossy top-k of layers', said)
        got, said = within(path, prompt, 60, *more)
        self.assertTrue(got == want, said)

    def test_every_weight_type(self):
        """Rows are packed as they come: every type that a GGUF file can have."""
        goldens = sorted(p for p in (ROOT / 'tests' / 'data' / 'goldens').glob('*.gguf') if '00002' not in p.name)
        for path in goldens:
            want, said = logits(str(path), ('--tokens', '1 5 7 9 11'))
            self.assertIsNotNone(want, said)
            got, said = within(str(path), ('--tokens', '1 5 7 9 11'), 0.2)
            self.assertTrue(got == want, f'{path}: {said}')

    def test_refusals(self):
        self.fails(1, 'too small: at least', 'logits', '-m', model('drelu.bin'), '-p', 'x', '-o', self.tmp / 'x', '--ram', '1M')
        self.fails(2, '--ram', 'logits', '-m', model('drelu.bin'), '-p', 'x', '-o', self.tmp / 'x', '--ram', 'much')


class Faults(Case):
    """With a budget that keeps little, every token reads from the file."""

    def setUp(self):
        super().setUp()
        self.path = self.tmp / 'm.bin'
        with open(model('drelu.bin'), 'rb') as f:
            self.data = f.read()
        self.path.write_bytes(self.data)
        self.args = ['-m', self.path, '-p', PROMPTS[0], '--temp', 0, '-n', 24, '-t', 2, '-b', 1, '-c', 128, '--stats']
        self.right = self.ok(*self.args).stdout
        self.ram = 0.001  # MiB
        # in the feed-forward part of the last layer, which is needed for every token
        self.within = len(self.data) * 9 // 10

    def little(self, go):
        """go(more arguments) returns (exit status, text, what was said); again with another budget until it read while computing. The
        floor holds memory that was measured, which differs from run to run, under the sanitizers by MiB."""
        for _ in range(12):
            code, text, said = go('--ram', f'{int(1024 * self.ram)}K')
            least = re.search(r'at least ([0-9.]+) MiB', said)
            if least:
                self.ram = float(least.group(1)) + 0.6
            elif code == 0 and 'read while computing' not in said:
                self.ram -= 0.4
            else:
                return code, text, said
        self.fail(f'no budget was found that leaves something on the drive: {said}')

    def faulty(self, faults, *args):
        def go(*more):
            done = run(*self.args, *more, *args, '--io', 'fault', env={**os.environ, 'SPARSEGEN_FAULTS': faults})
            return done.returncode, done.stdout, done.stderr.decode()
        return self.little(go)

    def test_right_without_faults(self):
        code, text, said = self.faulty('seed=1')
        self.assertEqual((code, text), (0, self.right), said)

    def test_an_error_that_passes(self):
        code, text, said = self.faulty(f'seed=1,delay=20,eio_at={self.within}')
        self.assertEqual((code, text), (0, self.right), said)

    def test_an_error_that_stays(self):
        code, text, said = self.faulty(f'seed=1,delay=20,dead_at={self.within}')
        self.assertEqual(code, 1, said)
        self.assertIn('Input/output error', said)
        self.assertTrue(self.right.startswith(text), text)

    def test_a_gate_that_is_dead(self):
        """Threads that wait behind the failed part have to hear of it, at every place in a group."""
        path = model('small.bin')
        places = clusters_of(path, 2)
        for threads, cluster in itertools.product((1, 2, 3), (2, 13, len(places) - 2)):
            got, said = within(path, ('-p', PROMPTS[1]), 0.1, '-b', 1, '-t', threads, '--io', 'fault',
                               env={'SPARSEGEN_FAULTS': f'seed=1,delay=20,dead_at={places[cluster] + 100}'})
            self.assertIsNone(got, (threads, cluster))
            self.assertIn('Input/output error', said)

    def interrupted(self, change):
        """Starts, waits for the first text, changes the file, and collects the rest."""
        def go(*more):
            self.path.write_bytes(self.data)
            p = subprocess.Popen([EXE, *map(str, self.args), *more, '--io', 'fault'], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, env={**os.environ, 'SPARSEGEN_FAULTS': 'seed=1,delay=700'})
            with p:
                text = p.stdout.read(4)
                if text:
                    change()
                text += p.stdout.read()
                said = p.stderr.read().decode()
            return p.wait(), text, said
        return self.little(go)

    def while_running(self, change):
        code, text, said = self.interrupted(change)
        self.assertTrue(self.right.startswith(text), (text, said))
        self.assertIn(code, (0, 1), said)
        if code == 0:
            self.assertEqual(text, self.right)
        return code, said

    def test_truncated(self):
        code, said = self.while_running(lambda: os.truncate(self.path, len(self.data) // 2))
        self.assertEqual(code, 1)
        self.assertRegex(said, 'truncated|changed')

    def test_rewritten_in_place(self):
        def rewrite():
            with open(self.path, 'r+b') as f:
                f.seek(len(self.data) // 3)
                f.write(b'\x55' * (len(self.data) // 2))
        code, said = self.while_running(rewrite)
        self.assertEqual(code, 1)
        self.assertIn('was changed', said)

    def test_replaced_by_name(self):
        def replace():
            other = self.tmp / 'other'
            other.write_bytes(b'\x55' * len(self.data))
            os.replace(other, self.path)
        self.assertEqual(self.while_running(replace)[0], 0)

    def test_trace(self):
        trace = self.tmp / 'trace.json'
        self.assertEqual(self.faulty('seed=1', '--trace', trace)[0], 0)
        text = trace.read_text()
        for word in '"traceEvents"', 'feed-forward', '"X"':
            self.assertIn(word, text)
        self.fails(1, 'all of the model is in memory', *self.args, '--trace', trace)


if __name__ == '__main__':
    main()
