"""Files with a pre-gate, or with corrections for look-ahead (docs/model_bin.md): as hints they change no bit, whatever they say; as the router of all
layers they give the same bits resident and streamed, as GGUF and as model.bin, with any batch and number of threads; what they name is counted; a prompt
whose next tokens are known reads less; what does not fit is refused."""
import array
import functools
import itertools
import json
import math
import os
import random
import re

import test_streaming as base
from cli_case import GOLDENS, Case, main, run
from gguf_file import GgufFile
from more_experts import more_experts, raw
from test_streaming_experts import ALWAYS, DEMO, GOLDEN_EXPERTS
from with_tensors import pregate, routers, with_tensors

WEIGHT, BIAS = 'sparsegen.pregate.weight', 'sparsegen.pregate.bias'
PROMPT = ('-p', ' '.join(base.PROMPTS))
IDS = ('--tokens', '1 5 7 9 11 300 20 21 22 401 23 24')
ARCHITECTURES = ['qwen3moe-q4_0', 'smallthinker-q', 'gpt-oss', 'deepseek2', 'glm4moe', 'qwen2moe', 'lfm2moe']


def garbage(dims, seed=1):
    draw = random.Random(seed)
    return dims, array.array('f', (draw.gauss(0, 1) for _ in range(dims[0] * (dims[1] if len(dims) > 1 else 1)))).tobytes()


@functools.lru_cache(maxsize=None)
def source(name):
    """The demo model, or a golden one with more experts."""
    if name == 'moe':
        return str(DEMO)
    path = os.path.join(base.folder().name, name + '.gguf')
    g = GgufFile(GOLDENS / (name + '.gguf'))
    more_experts(GOLDENS / (name + '.gguf'), path, GOLDEN_EXPERTS // g.keys[g.keys['general.architecture'] + '.expert_count'])
    return path


@functools.lru_cache(maxsize=None)
def model(name, kind, form='gguf'):
    """kind: plain; own: a pre-gate made of the routers; garbage; routes: no routers; biased: the same with a bias of the pre-gate; ahead: garbage as
    corrections."""
    path = os.path.join(base.folder().name, f'{name}-{kind}.{form}')
    if form == 'bin':
        done = run('convert', model(name, kind), '-o', path, '-q')
        assert done.returncode == 0, done.stderr
        return path
    if kind == 'plain':
        return source(name)
    g = GgufFile(source(name))
    dims, rows = pregate(g)
    more = {WEIGHT: garbage(dims) if kind == 'garbage' else (dims, rows)}
    if kind == 'biased':
        more[BIAS] = garbage(dims[1:], 2)
    if kind == 'ahead':
        more = {r.replace('ffn_gate_inp', 'sparsegen.ahead'): garbage(g.tensors[r][0], i) for i, r in enumerate(routers(g))}
    without = [t for t in g.tensors if 'ffn_gate_inp.' in t] if kind in ('routes', 'biased') else ()
    with_tensors(source(name), path, more, without)
    return path


@functools.lru_cache(maxsize=None)
def resident(path, prompt, *args):
    got, said = base.logits(path, prompt, *args)
    assert got is not None, said
    return got


def named_right(said, who):
    """Percent, in all and by layer."""
    found = re.search(rf'^{who} +([\d.]+) % of the experts named right; by layer ([-\d ]+)$', said, re.MULTILINE)
    return float(found[1]), [int(n) if n != '-' else None for n in found[2].split()]


def difference(a, b):
    """Of logits: root of the mean square, of that of one of them."""
    a, b = array.array('f', a), array.array('f', b)
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b)) / sum(x * x for x in a))


def demands(args, ram):
    """Experts of a layer in memory (None: all), reads on demand, the least budget in MiB (of one that is too small, which has no reads)."""
    said = run(*args, '-t', 1, '--ram', f'{int(1024 * ram)}K').stderr.decode()
    least, slots, reads = (re.search(form, said) for form in (r'at least ([0-9.]+) MiB', r'of each layer (\d+) of', r'in (\d+) demands'))
    return slots and int(slots[1]), reads and int(reads[1]), least and float(least[1])


def alike(first, second):
    """Reads of both where as many experts are in memory: what else takes memory is measured, so budgets alone do not tell. Two such pairs, or what is
    found."""
    found, pairs = ({}, {}), []
    floors = [reads(0.001)[2] for reads in (first, second)]
    for step in range(2, 16):
        for which, reads in enumerate((first, second)):
            slots, n, _ = reads(floors[which] + 0.3 * step)
            if slots and slots < 24:
                found[which][slots] = n
        pairs = [(found[0][slots], found[1][slots]) for slots in sorted(found[0].keys() & found[1].keys())]
        if len(pairs) > 1:
            break
    assert pairs, found
    return pairs


class Hints(Case):
    def check(self, name, kind, form, prompt, above, *args):
        got, said = base.within(model(name, kind, form), prompt, above, *args, '--stats', env={'SPARSEGEN_FAULTS': base.FAULTS.format(5)})
        self.assertIsNotNone(got, said)
        self.assertTrue(got == resident(model(name, 'plain', form), prompt), f'{name} {kind} {form} {above} {args}: other logits than without')
        return said

    def test_no_bit_changes(self):
        grid = list(itertools.product(('own', 'garbage', 'ahead'), ('gguf', 'bin'), (0.05, 1.2, 60), (1, 2, 5, 128), (1, 3), (ALWAYS, ('--no-prefetch',), ('--no-cache',))))
        draw = random.Random(3)
        for kind, form, above, batch, threads, more in draw.sample(grid, 40):
            said = self.check('moe', kind, form, PROMPT, above, '-b', batch, '-t', threads, '--io', draw.choice(base.ENGINES), *more)
            if above < 1 and batch == 1 and kind != 'ahead' and more == ALWAYS:
                self.assertIn('pre-gate', said)

    def test_every_architecture(self):
        for name, kind, batch in itertools.product(ARCHITECTURES, ('own', 'garbage'), (1, 5)):
            self.check(name, kind, 'gguf', IDS, 0.05, '-b', batch, '-t', 2, *ALWAYS)

    def test_the_text_stays(self):
        args = ['-p', base.PROMPTS[0], '--temp', 0, '-n', 40, '-t', 2, '-c', 128]
        want = self.ok('-m', model('moe', 'plain'), *args).stdout
        self.assertGreater(len(want), 60)
        size = f"{os.path.getsize(DEMO) * 2 // 5 // 1024 + base.sanitized() * 400000}K"
        for kind, more in itertools.product(('own', 'garbage', 'ahead'), ((), ('--no-prefetch',), ('-b', 1), ('--ram', size), ('--ram', size, '-b', 1), ('--ram', size, *ALWAYS))):
            self.assertEqual(self.ok('-m', model('moe', kind), *args, *more).stdout, want, (kind, more))

    def test_accuracy(self):
        """Of the first layer the embedding says all; of the others of the demo model little, as random numbers say of each."""
        said = self.check('moe', 'own', 'gguf', PROMPT, 0.4, '-b', 1, *ALWAYS)
        named, layers = named_right(said, 'pre-gate')
        self.assertGreater(layers[0], 85, said)
        self.assertEqual(len(layers), 5)
        self.assertLess(named_right(self.check('moe', 'garbage', 'gguf', PROMPT, 0.4, '-b', 1, *ALWAYS), 'pre-gate')[0], 25)
        self.assertLess(max(layers[1:]), named)

    def test_corrections_are_asked(self):
        """In the place of the routers, by the layer before: what they say is what is named."""
        right = named_right(self.check('moe', 'plain', 'gguf', PROMPT, 2, '-b', 1, *ALWAYS), 'ahead')  # routers in memory, else they are not asked
        wrong = named_right(self.check('moe', 'ahead', 'gguf', PROMPT, 2, '-b', 1, *ALWAYS), 'ahead')
        self.assertIsNone(right[1][0])
        self.assertGreater(min(right[1][2:]), 40)
        self.assertLess(max(wrong[1][2:]), 40)
        self.assertLess(wrong[0], right[0] / 2)

    def test_garbage_is_not_believed(self):
        """It does not say who stays in memory, but for the first tokens: as many reads as without."""
        def reads(kind, ram):
            return demands(['logits', '-m', model('moe', kind), *PROMPT, '-o', self.tmp / 'out', '-b', 1, '--no-prefetch', '--stats'], ram)
        for plain, other in alike(functools.partial(reads, 'plain'), functools.partial(reads, 'garbage')):
            self.assertLess(other, 1.1 * plain)


class Routes(Case):
    def test_same_bits(self):
        """Whatever is in memory, in which batches, by how many threads."""
        grid = list(itertools.product(('routes', 'biased'), ('gguf', 'bin'), (0.05, 1.2, 60), (1, 2, 5, 128), (1, 2, 3), (ALWAYS, ('--no-prefetch',), ('--no-cache',))))
        draw = random.Random(4)
        for kind, form, above, batch, threads, more in draw.sample(grid, 40):
            path, args = model('moe', kind, form), ['-b', batch, '-t', threads, '--io', draw.choice(base.ENGINES), *more]
            got, said = base.within(path, PROMPT, above, *args, '--stats', env={'SPARSEGEN_FAULTS': base.FAULTS.format(7)})
            self.assertTrue(got is not None and got == resident(path, PROMPT), f'{path} {above} {args}: {said}')
            if above < 1 and more == ALWAYS and (form, batch) != ('bin', 128):
                self.assertEqual(named_right(said, 'pre-gate'), (100, [100] * 5))
                self.assertNotIn('\nahead ', said)
        bits = {resident(model('moe', kind), PROMPT) for kind in ('plain', 'routes', 'biased')}
        self.assertEqual(len(bits), 3)
        for batch, threads in ((1, 1), (7, 2), (128, 3)):
            self.assertIn(resident(model('moe', 'routes'), PROMPT, '-b', batch, '-t', threads), bits)

    def test_every_architecture(self):
        for name, form in (*((name, 'gguf') for name in ARCHITECTURES), ('smallthinker-q', 'bin'), ('gpt-oss', 'bin'), ('glm4moe', 'bin')):
            path = model(name, 'routes', form)
            want = resident(path, IDS)
            if form == 'gguf':
                self.assertNotEqual(want, resident(model(name, 'plain'), IDS))
            else:  # the same routes, other rounding
                self.assertLess(difference(want, resident(model(name, 'routes'), IDS)), 0.03, name)
            for batch, above in ((1, 0.05), (5, 0.1), (128, 0.05)):
                got, said = base.within(path, IDS, above, '-b', batch, '-t', 2, '--stats', *ALWAYS)
                self.assertTrue(got == want, f'{path} {batch}: {said}')
                if not base.sanitized():
                    self.assertIn('read while computing', said)

    def test_each_layer_has_its_rows(self):
        """A bias that is large for two experts of one layer: that layer uses these, the others do not."""
        g = GgufFile(DEMO)
        dims, rows = pregate(g)
        for layer in 0, 3, 4:
            bias = array.array('f', [0] * dims[1])
            bias[layer * 24 + 7] = bias[layer * 24 + 20] = 1e6
            path, log = str(self.tmp / 'made.gguf'), self.tmp / 'routes'
            with_tensors(DEMO, path, {WEIGHT: (dims, rows), BIAS: (dims[1:], bias.tobytes())}, routers(g))
            used = {}
            self.ok('logits', '-m', path, *PROMPT, '-o', self.tmp / 'out', '--route-log', log, '-b', 3)
            with open(log, encoding='ascii') as f:
                for line in f:
                    if line[0].isdigit():
                        of, _, expert = map(int, line.split(',')[3:6])
                        used.setdefault(of, set()).add(expert)
            self.assertEqual(used[layer], {7, 20})
            for of in set(range(5)) - {layer}:
                self.assertGreater(len(used[of]), 4)

    def test_precise_and_lossy(self):
        path = model('moe', 'routes')
        for args in (('--precise',), ('--experts', 1)):
            got, said = base.within(path, PROMPT, 0.4, '-b', 3, *args)
            self.assertTrue(got == resident(path, PROMPT, *args), said)
        for lossy in 'drop=0.3', 'cache-route=0.5':
            got, said = base.within(path, PROMPT, 0.4, '-b', 1, '--lossy', lossy, '--stats')
            self.assertIsNotNone(got, said)

    def test_nothing_is_read_in_vain(self):
        for form in 'gguf', 'bin':
            _, said = base.within(model('moe', 'routes', form), PROMPT, 0.4, '-b', 1, '--stats', *ALWAYS)
            self.assertRegex(said, r'; 0\.0 % of what it read was not needed')

    def test_what_comes_next_stays(self):
        """The same tokens: as prompts, whose next token is known, and one by one, where it is not."""
        ids = self.tmp / 'ids'
        draw = random.Random(5)
        ids.write_text(' '.join(str(draw.randrange(3, 2048)) for _ in range(200)))

        def reads(form, feed, ram):
            return demands(['bench', '-m', model('moe', 'routes', form), '--ids', ids, *feed, '-b', 1, '-r', 1, '--stats', '--no-prefetch', '--no-limits'], ram)
        for form in 'gguf', 'bin':
            known, one_by_one = (functools.partial(reads, form, feed) for feed in (('-p', 100, '-n', 0), ('-p', 0, '-n', 199)))
            for with_next, without in alike(known, one_by_one):
                self.assertLess(with_next, without, form)


class Files(Case):
    def make(self, more, without=()):
        path = str(self.tmp / 'made.gguf')
        with_tensors(DEMO, path, more, without)
        return path

    def refused(self, word, more, without=()):
        path = self.make(more, without)
        self.fails(1, word, 'logits', '-m', path, *PROMPT, '-o', self.tmp / 'out')

    def test_refused(self):
        g = GgufFile(DEMO)
        names, (dims, rows) = routers(g), pregate(g)
        self.refused('sparsegen.pregate.weight is 256 x 119 x 1, expected 256 x 120 x 1', {WEIGHT: ([256, 119], rows[:-1024])})
        self.refused('sparsegen.pregate.weight is 120 x 256 x 1, expected 256 x 120 x 1', {WEIGHT: ([120, 256], rows)})
        self.refused('sparsegen.pregate.bias is 24 x 1 x 1, expected 120 x 1 x 1', {WEIGHT: (dims, rows), BIAS: ([24], bytes(96))})
        self.refused('sparsegen.pregate.weight is missing', {BIAS: ([120], bytes(480))})
        self.refused('sparsegen.pregate.weight is missing', {BIAS: ([120], bytes(480))}, names)
        self.refused('blk.0.ffn_gate_inp.weight is missing', {}, names)
        self.refused('blk.2.ffn_gate_inp.weight is missing', {WEIGHT: (dims, rows)}, names[2:3])
        self.refused('blk.3.sparsegen.ahead.weight is 256 x 23 x 1, expected 256 x 24 x 1', {'blk.3.sparsegen.ahead.weight': ([256, 23], bytes(1024 * 23))})
        self.refused('blk.3.sparsegen.ahead.weight is missing', {'blk.3.sparsegen.ahead.bias': ([24], bytes(96))})

    def test_the_only_router_stays(self):
        """Calibration writes hints anew or leaves them out, but not a pre-gate that routes."""
        path, text, out = model('moe', 'routes', 'bin'), self.tmp / 'text', str(self.tmp / 'new.bin')
        text.write_text(' '.join(base.PROMPTS) * 3)
        want = raw(GgufFile(path), WEIGHT)
        for more in (), ('--no-ahead',):
            self.ok('calibrate', '-m', path, '-f', text, '-o', out, '--force', *more)
            self.assertEqual(raw(GgufFile(out), WEIGHT), want)
            self.assertLess(difference(resident(path, IDS), self.logits_of(out)), 0.03)

    def logits_of(self, path):
        got, said = base.logits(path, IDS)
        self.assertIsNotNone(got, said)
        return got

    def test_info(self):
        for name, form in ('moe', 'gguf'), ('moe', 'bin'), ('qwen2moe', 'gguf'):
            said = {kind: self.ok('info', model(name, kind, form)).stdout.decode() for kind in ('plain', 'own', 'routes', 'ahead')}
            facts = {kind: json.loads(self.ok('info', model(name, kind, form), '--json').stdout) for kind in said}
            n = facts['plain']['experts']['layers']
            self.assertIn(f'pre-gate           of {n} layers\n', said['own'])
            self.assertIn(f'pre-gate           of {n} layers, which have no routers of their own\n', said['routes'])
            self.assertIn(f'look-ahead         corrected in {n} layers\n', said['ahead'])
            for word in 'pre-gate', 'look-ahead':
                self.assertNotIn(word, said['plain'])
            got = {kind: tuple(f['experts'][key] for key in ('layers', 'pregate_layers', 'pregate_routes', 'ahead_layers')) for kind, f in facts.items()}
            self.assertEqual(got, {'plain': (n, 0, False, 0), 'own': (n, n, False, 0), 'routes': (n, n, True, 0), 'ahead': (n, 0, False, n)})
            for kind in 'own', 'routes', 'ahead':
                for key in 'parameters', 'active_parameters':  # hints are none; as the router they are as many as the routers were
                    self.assertEqual(facts[kind][key], facts['plain'][key], kind)
                self.assertEqual(facts[kind]['experts']['bytes_of_one'], facts['plain']['experts']['bytes_of_one'])


if __name__ == '__main__':
    main()
