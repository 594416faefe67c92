"""Models whose experts do not fit the memory budget: the same logits to the bit at every budget, engine, prefetch setting, number of threads,
batch and type of the KV cache, for every architecture with experts; the budget is kept; faults of the drive and of the file give an error or
the right text. SG_FULL_GRID and SG_GRID_GROUP are as in test_streaming.py."""
import functools
import itertools
import os
import random
import re
import unittest

import test_streaming as base
from cli_case import GOLDENS, ROOT, Case, main, run
from gguf_file import GgufFile
from more_experts import more_experts

DEMO = ROOT / 'models' / 'demo' / 'stories-moe-25M.gguf'
# MiB above the floor, which is a quarter of the file; the last one holds everything.
ABOVE = [0.03, 0.4, 1.2, 3, 7, 60]
SAMPLE = 110
SLACK = 8  # MiB that the resident memory may be above the budget: the program, its libraries and stacks; the whole model has twice as much
GOLDEN_EXPERTS = 480  # so many of those of a golden model are more than its budget


@functools.lru_cache(maxsize=None)
def model(name):
    if name == 'moe.gguf':
        return str(DEMO)
    path = os.path.join(base.folder().name, name)
    if name.endswith('.bin'):  # of golden models most have down rows of floats
        done = run('convert', model(name.replace('.bin', '.gguf')), '-o', path, '-q')
        assert done.returncode == 0, done.stderr
    else:  # a golden model with more experts
        g = GgufFile(GOLDENS / name)
        more_experts(GOLDENS / name, path, GOLDEN_EXPERTS // g.keys[g.keys['general.architecture'] + '.expert_count'])
    return path


@functools.lru_cache(maxsize=None)
def resident(path, prompt, *args):
    got, said = base.logits(path, prompt, *args)
    assert got is not None, said
    return got


# of single tokens the first few read nothing ahead, and not all that follow
ALWAYS = ('--always-prefetch',)


class Grid(Case):
    def check_one(self, path, prompt, above, args, meaning=()):
        """meaning: arguments that change the logits. True: it read while computing."""
        faults = {'SPARSEGEN_FAULTS': base.FAULTS.format(len(args) + int(10 * above))}
        got, said = base.within(path, prompt, above, *args, *meaning, '--stats', env=faults)
        self.assertIsNotNone(got, f'{path} {args} {meaning}: {said}')
        self.assertTrue(got == resident(path, prompt, *meaning), f'{path} {prompt} {args} {meaning}: other logits than with everything in memory')
        peak, budget = map(float, re.search(r'peak resident ([0-9.]+) MiB of a budget of ([0-9.]+) MiB', said).groups())
        if not base.sanitized():
            self.assertLessEqual(peak, budget + SLACK, f'{path} {args}: {said}')
        return 'read while computing' in said

    def test_demo_models(self):
        grid = list(itertools.product(('moe.gguf', 'moe.bin'), base.PROMPTS, ABOVE, base.ENGINES, (True, False), (1, 2, 3)))
        draw = random.Random(8)
        if not os.environ.get('SG_FULL_GRID'):
            grid = draw.sample(grid, SAMPLE // 3 if base.sanitized() else SAMPLE)
        streamed = 0
        for name, text, above, engine, prefetch, threads in grid:
            args = ['--io', engine, '-t', threads, '-b', draw.choice((1, 2, 5, 128)), *(draw.choice((ALWAYS, ALWAYS, ())) if prefetch else ('--no-prefetch',)),
                    *draw.choice(((), (), ('--no-cache',)))]
            meaning = draw.choice(((), (), ('--kv', 'f32'), ('--kv', 'q8_0'), ('--precise',)))
            streamed += self.check_one(model(name), ('-p', text), above, args, meaning)
        print(f'{len(grid)} runs with the bits of everything in memory, {streamed} of them reading while computing', flush=True)
        self.assertGreater(streamed, len(grid) // 2)

    @unittest.skipIf(base.sanitized(), 'the memory of the sanitizer alone is more')
    def test_a_third_of_the_file(self):
        """Enough to tell a story."""
        for name, more in itertools.product(('moe.gguf', 'moe.bin'), ((), ('-b', 1))):
            path = model(name)
            ram = f'{os.path.getsize(path) // 3 // 1024}K'
            got, said = base.logits(path, ('-p', base.PROMPTS[2]), '--ram', ram, '--stats', *more)
            self.assertTrue(got == resident(path, ('-p', base.PROMPTS[2])), said)
            self.assertIn('read while computing', said)

    def test_every_architecture(self):
        names = sorted(p.name for p in GOLDENS.glob('*.gguf') if any('_exps.' in t for t in GgufFile(p).tensors))
        self.assertGreaterEqual(len(names), 11, names)
        ids = ('--tokens', '1 5 7 9 11 300 20 21 22 401 23 24')
        names += [name.replace('.gguf', '.bin') for name in names]
        for i, (name, (above, batch)) in enumerate(itertools.product(names, ((0.05, 1), (0.05, 128), (0.4, 5)))):
            args = ['--io', base.ENGINES[i // 2 % 3], '-t', 1 + i % 3, '-b', batch, *(ALWAYS if i % 4 else ())]
            streamed = self.check_one(model(name), ids, above, args)
            if not base.sanitized():  # their own memory moves the floor by more than such a model has
                self.assertTrue(streamed, f'{name}: all of it was in memory')

    def test_reading_ahead(self):
        """Always, never, and of a few tokens not yet: they are what says whether it pays."""
        path, prompt = model('moe.gguf'), ('-p', 'Tom saw a dog.')
        read = {}
        for more in ALWAYS, ('--no-prefetch',), ():
            _, said = base.within(path, prompt, 1.2, '-b', 1, '-t', 2, '--stats', *more)
            there = re.search(r'look-ahead had ([0-9.]+) % there and ([0-9.]+) % on the way', said)
            read[more] = float(there[1]) + float(there[2]) if there else None
        self.assertIsNone(read['--no-prefetch',])
        self.assertGreater(read[ALWAYS], 0)
        self.assertEqual(read[()] or 0, 0)
        self.fails(1, 'reading ahead cannot be asked for both always and never', 'logits', '-m', path, *prompt, '-o', self.tmp / 'out', *ALWAYS, '--no-prefetch')

    def test_without_a_cache(self):
        for name in 'moe.gguf', 'moe.bin':
            _, said = base.within(model(name), ('-p', base.PROMPTS[1]), 6, '-b', 1, '--no-cache', '--stats')
            self.assertIn('experts  0.0 % in memory, 100.0 % missing', said)
            _, said = base.within(model(name), ('-p', base.PROMPTS[1]), 6, '-b', 1, '--stats')
            self.assertNotIn('experts  0.0 % in memory', said)


class Faults(Case):
    name = 'moe.gguf'
    down = 'blk.{}.ffn_down_exps.weight'
    little, faulty, interrupted, while_running = base.Faults.little, base.Faults.faulty, base.Faults.interrupted, base.Faults.while_running

    def setUp(self):
        super().setUp()
        self.path = self.tmp / self.name
        with open(model(self.name), 'rb') as f:
            self.data = f.read()
        self.path.write_bytes(self.data)
        self.args = ['-m', self.path, '-p', base.PROMPTS[0], '--temp', 0, '-n', 24, '-t', 2, '-b', 1, '-c', 128, '--stats']
        self.log = self.tmp / 'routes'
        self.right = self.ok(*self.args, '--route-log', self.log).stdout
        self.ram = 0.001  # MiB

    def expert_at(self, layer, expert):
        """Where a byte of an expert lies that every token needs that uses it: in the down slice, or in that of a model.bin's bundle in which it
        is."""
        g = GgufFile(self.path)
        dims, _, at = g.tensors[self.down.format(layer)]
        if self.name == 'moe.gguf':
            size = g.tensor_bytes(self.down.format(layer)) // dims[2]
            return g.data + at + expert * size + size // 2
        clusters = dims[1] // 24  # of an expert
        return g.data + at + (expert * clusters + clusters - 1) * dims[0] + 100

    def routes(self):
        """The set of (layer, expert) that the text uses, and those that the first token of the answer or a later one is the first to use."""
        used, late = set(), []
        with open(self.log, encoding='ascii') as f:
            for line in f:
                if line[0].isdigit():
                    _, phase, _, layer, _, expert = map(int, line.split(',')[:6])
                    if phase == 1 and (layer, expert) not in used:
                        late.append((layer, expert))
                    used.add((layer, expert))
        return used, late

    def test_right_without_faults(self):
        code, text, said = self.faulty('seed=1')
        self.assertEqual((code, text), (0, self.right), said)

    def test_an_error_that_passes(self):
        for layer, expert in self.routes()[1][:3]:
            code, text, said = self.faulty(f'seed=1,delay=20,eio_at={self.expert_at(layer, expert)}')
            self.assertEqual((code, text), (0, self.right), said)

    def test_an_error_that_stays(self):
        """In the answer, so that some of it comes before."""
        for layer, expert in self.routes()[1][:3]:
            code, text, said = self.faulty(f'seed=1,delay=20,dead_at={self.expert_at(layer, expert)}', '--no-prefetch')
            self.assertEqual(code, 1, said)
            self.assertRegex(said, r'sparsegen: .*: reading [0-9]+ bytes at offset [0-9]+: Input/output error\n')
            self.assertTrue(self.right.startswith(text), text)
            self.assertNotEqual(text, self.right)
            code, _, said = self.faulty(f'seed=1,delay=20,dead_at={self.expert_at(layer, expert)}')
            self.assertEqual(code, 1, said)

    def test_an_error_where_nobody_reads(self):
        used = self.routes()[0]
        layer, expert = next(pair for pair in itertools.product(range(5), range(24)) if pair not in used)
        code, text, said = self.faulty(f'seed=1,delay=20,dead_at={self.expert_at(layer, expert)}', '--no-prefetch')
        self.assertEqual((code, text), (0, self.right), said)

    def test_prompts_that_fail(self):
        """All experts of a layer are needed together, by any number of threads."""
        for threads, expert, batch in itertools.product((1, 2, 3), (0, 13, 23), (5, 128)):
            got, said = base.within(self.path, ('-p', ' '.join(base.PROMPTS)), 0.1, '-b', batch, '-t', threads, '--io', 'fault',
                                    env={'SPARSEGEN_FAULTS': f'seed=1,delay=20,dead_at={self.expert_at(3, expert)}'})
            self.assertIsNone(got, (threads, expert, batch))
            self.assertIn('Input/output error', said)

    def test_truncated(self):
        code, said = self.while_running(lambda: os.truncate(self.path, len(self.data) // 2))
        self.assertEqual(code, 1)
        self.assertRegex(said, r'is truncated|was changed while it was in use')

    def change(self, keep_time):
        """Other bytes in one expert of each layer."""
        stat = os.stat(self.path)
        with open(self.path, 'r+b') as f:
            for layer in range(5):
                f.seek(self.expert_at(layer, 7))
                f.write(b'\x55' * 3000)
        if keep_time:
            os.utime(self.path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    def test_changed_in_place(self):
        code, said = self.while_running(lambda: self.change(False))
        self.assertEqual(code, 1)
        self.assertIn('was changed while it was in use', said)

    def test_changed_unseen(self):
        """With the old time of change: another text at worst."""
        code, text, said = self.interrupted(lambda: self.change(True))
        self.assertEqual(text[:4], self.right[:4])
        if code != 0:
            self.assertIn('was changed while it was in use', said)

    def test_replaced_by_name(self):
        def replace():
            other = self.tmp / 'other'
            other.write_bytes(b'\x55' * len(self.data))
            os.replace(other, self.path)
        self.assertEqual(self.while_running(replace)[0], 0)


class FaultsOfBundles(Faults):
    name = 'moe.bin'
    down = 'blk.{}.ffn_bundle'

    def test_verify(self):
        """What happens unseen, `verify` finds."""
        self.ok('verify', self.path)
        self.change(True)
        done = run('verify', self.path, '-q')
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stdout.count(b'damaged: layer '), 5)


if __name__ == '__main__':
    main()
