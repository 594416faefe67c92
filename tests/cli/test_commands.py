#!/usr/bin/env python3
"""The results of tokenize, logits, perplexity, bench, info and convert. The models were made with llama.cpp, so their token ids
and logits check the whole way."""
import array
import csv
import io
import json
import math
import pathlib
import platform
import re
import struct
import subprocess
import sys
import unittest

from cli_case import EXE, GOLDEN, GOLDENS, MODEL, MODEL_FLOATS, ROOT, TIMEOUT, Case, main, run, sanitized


class Tokenize(Case):
    def test_golden_ids(self):
        want = ' '.join(map(str, GOLDEN['prompt_ids'])) + '\n'
        self.assertEqual(self.ok('tokenize', '-m', MODEL, '-p', GOLDEN['prompt']).stdout.decode(), want)
        path = self.tmp / 'text'
        path.write_text(GOLDEN['prompt'])
        self.assertEqual(self.ok('tokenize', '-m', MODEL, '-f', path).stdout.decode(), want)
        self.assertEqual(self.ok('tokenize', '-m', MODEL, '-f', '-', stdin=path.read_bytes()).stdout.decode(), want)
        self.assertEqual(self.ok('tokenize', '-m', MODEL, '-p', GOLDEN['prompt'], '--no-bos').stdout.decode(), want[2:])

    def test_file_is_taken_as_it_is(self):
        path = self.tmp / 'text'
        path.write_text('a\n')
        self.assertNotEqual(self.ok('tokenize', '-m', MODEL, '-f', path).stdout, self.ok('tokenize', '-m', MODEL, '-p', 'a').stdout)

    def test_special(self):
        plain = self.ok('tokenize', '-m', MODEL, '-p', '</s>', '--no-bos').stdout
        parsed = self.ok('tokenize', '-m', MODEL, '-p', '</s>', '--no-bos', '--parse-special').stdout
        self.assertNotEqual(plain, parsed)
        self.assertIn(b'2', parsed.split())

    def test_empty(self):
        self.assertEqual(self.ok('tokenize', '-m', MODEL, '-p', '', '--no-bos').stdout, b'\n')

    def test_invalid(self):
        self.fails(1, 'UTF-8', 'tokenize', '-m', MODEL, '-f', '-', stdin=b'\xc0\x80')


class Gpu(Case):
    def test_list(self):
        done = self.ok('gpu')
        for line in done.stdout.decode().splitlines():
            self.assertRegex(line, r'^(OpenCL|Vulkan)  (other|discrete|integrated|software) .* MiB .* MiB  \S')
        if not done.stdout:
            self.assertIn(b'no GPU found', done.stderr)

    def test_takes_no_names(self):
        self.fails(2, 'unexpected', 'gpu', 'x')


class Logits(Case):
    def logits(self, *args):
        path = self.tmp / 'out.f32'
        self.ok('logits', '-o', path, *args)
        data = array.array('f', path.read_bytes())
        if sys.byteorder == 'big':
            data.byteswap()
        self.assertEqual(list(self.tmp.iterdir()), [path])  # no temporary file stays
        return data

    def test_against_llama_cpp(self):
        for name in 'llama-rope3', 'llama-q8_0':
            golden = json.loads((GOLDENS / (name + '.json')).read_text())
            want = array.array('f', (GOLDENS / (name + '.f32')).read_bytes())[:8 * golden['n_vocab']]
            got = self.logits('-m', GOLDENS / (name + '.gguf'), '-p', golden['prompt'], '--last', '8', '--kv', 'f32')
            self.assertEqual(len(got), len(want))
            error = sum((a - b)**2 for a, b in zip(got, want)) / sum(b * b for b in want)
            bound = golden['bound']['quantised_activations'] or golden['bound']['fp32']
            self.assertLess(error, bound, name)

    def test_settings_do_not_change_a_bit(self):
        base = ['-m', MODEL, '-p', GOLDEN['prompt']]
        want = self.logits(*base)
        rows = len(GOLDEN['prompt_ids'])
        self.assertEqual(len(want), rows * GOLDEN['n_vocab'])
        ids = ' '.join(map(str, GOLDEN['prompt_ids']))
        self.assertEqual(self.logits('-m', MODEL, '--tokens', ids), want)
        self.assertEqual(self.logits('-m', MODEL, '--tokens', ids.replace(' ', ',')), want)
        self.assertEqual(self.logits(*base, '--last', '3'), want[-3 * GOLDEN['n_vocab']:])
        self.assertEqual(self.logits(*base, '--last', '1000'), want)
        for more in ['-t', '1'], ['-t', '3'], ['-b', '1'], ['-b', '4']:
            self.assertEqual(self.logits(*base, *more), want, more)

    def test_bad_tokens(self):
        out = self.tmp / 'out'
        for ids in 'a', '1 2x', '-1', '1.5', '99999999999':
            self.fails(2, 'is not a token id', 'logits', '-m', '/nowhere/model', '--tokens', ids, '-o', out)  # before opening
        self.fails(1, 'vocabulary', 'logits', '-m', MODEL, '--tokens', '1 512', '-o', out)
        self.fails(1, 'no tokens', 'logits', '-m', MODEL, '--tokens', ' ', '-o', out)
        self.assertEqual(list(self.tmp.iterdir()), [])

    def test_output(self):
        out = self.tmp / 'out'
        out.write_bytes(b'old')
        self.ok('logits', '-m', MODEL, '--tokens', '1', '-o', out)
        self.assertEqual(out.stat().st_size, 4 * GOLDEN['n_vocab'])
        self.fails(1, 'cannot be written', 'logits', '-m', MODEL, '--tokens', '1', '-o', '/nowhere/out')
        self.fails(1, 'directory', 'logits', '-m', MODEL, '--tokens', '1', '-o', self.tmp)
        self.fails(1, 'No space left', 'logits', '-m', MODEL, '--tokens', '1', '-o', '/dev/full')
        self.assertTrue(pathlib.Path('/dev/full').is_char_device())  # written to, not replaced
        self.assertEqual(len(self.ok('logits', '-m', MODEL, '--tokens', '1', '-o', '/dev/stdout').stdout), 4 * GOLDEN['n_vocab'])

    def test_leftover_of_a_killed_run(self):
        """A temporary file of an earlier process with the same id is in the way: not of the new run, and nobody removes it."""
        out = self.tmp / 'out'
        script = 'for i in 0 1 2; do echo old > "$1.tmp-$$-$i"; done; exec "$0" logits -m "$2" --tokens 1 -o "$1"'
        done = subprocess.run(['sh', '-c', script, EXE, out, MODEL], stderr=subprocess.PIPE, timeout=TIMEOUT, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(out.stat().st_size, 4 * GOLDEN['n_vocab'])
        self.assertEqual(sorted(p.read_bytes() for p in self.tmp.iterdir() if p != out), [b'old\n'] * 3)


class PromptCache(Case):

    def text(self, model, prompt, *more):
        done = self.ok('-m', model, '-p', prompt, '-n', '12', '--temp', '0', '--ignore-eos', '--stats', *more)
        return done.stdout, done.stderr.decode()

    def evaluated(self, stderr):
        return int(re.search(r'prompt\D+(\d+) tokens', stderr).group(1))

    def test_same_text(self):
        """Whatever the file holds: nothing, this prompt, its beginning, another one, another model."""
        prompt, longer = GOLDEN['prompt'], GOLDEN['prompt'] + ' and then some more'
        for model in MODEL, str(GOLDENS / 'lfm2moe.gguf'), str(GOLDENS / 'gpt-oss.gguf'):
            cache = self.tmp / 'cache'
            if model == MODEL:
                self.assertFalse(cache.exists())
            for text in prompt, prompt, longer, longer, 'Something else', prompt:
                want, plain = self.text(model, text)
                got, noted = self.text(model, text, '--prompt-cache', cache)
                self.assertEqual(got, want, (model, text))
                self.assertEqual([p.name for p in self.tmp.iterdir()], ['cache'])
                last, all_of = self.evaluated(noted), self.evaluated(plain)
                self.assertLessEqual(last, all_of + 1)
            got, noted = self.text(model, prompt, '--prompt-cache', cache)
            self.assertLess(self.evaluated(noted), 3, noted)  # the last token, and what the recurrent state of before it takes
        noted = self.text(MODEL, prompt, '--prompt-cache', cache)[1]
        self.assertIn('the prompt cache is not used: ', noted)
        self.assertIn('another model', noted)

    def test_unwritable(self):
        self.fails(1, '/nonexistent/cache', '-m', MODEL, '-p', 'a b c', '-n', '2', '--prompt-cache', '/nonexistent/cache')

    def test_unwritable_in_a_chat(self):
        """Said once, and the chat goes on."""
        base = ['-m', MODEL, '-i', '-n', '6', '--temp', '0']
        done = run(*base, '--prompt-cache', '/nonexistent/cache', stdin=b'hello\nworld\n')
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stderr.count(b'/nonexistent/cache'), 1)
        self.assertEqual(done.stdout, self.ok(*base, stdin=b'hello\nworld\n').stdout)

    def test_not_a_session(self):
        """A file of something else is not used, and then replaced; what is no file is left alone."""
        cache = self.tmp / 'cache'
        want, _ = self.text(MODEL, 'hello')
        for data in b'', b'SGSESS1', b'x' * 100000:
            cache.write_bytes(data)
            got, noted = self.text(MODEL, 'hello', '--prompt-cache', cache)
            self.assertEqual(got, want)
            self.assertIn('the prompt cache is not used: ', noted)
            self.assertTrue(cache.read_bytes().startswith(b'SGSESS1'))
            self.assertGreater(cache.stat().st_size, 48)
        self.fails(1, 'regular file', '-m', MODEL, '-p', 'a b c', '-n', '2', '--prompt-cache', self.tmp)
        self.fails(1, 'regular file', '-q', '-m', MODEL, '-p', 'a b c', '-n', '2', '--prompt-cache', '/dev/null')

    def test_other_settings(self):
        cache = self.tmp / 'cache'
        for model in MODEL, str(GOLDENS / 'gemma3.gguf'):
            self.text(model, 'hello you', '--prompt-cache', cache)
            for more, used in [(['-b', '3', '-t', '3', '-c', '300'], True), (['--kv', 'f32'], False), (['--precise'], False)]:
                want, _ = self.text(model, 'hello you', *more)
                got, noted = self.text(model, 'hello you', '--prompt-cache', cache, *more)
                self.assertEqual(got, want)
                self.assertEqual('is not used' not in noted, used, (model, more, noted))
                self.text(model, 'hello you', '--prompt-cache', cache)

    def test_copies_where_they_help(self):
        """A recurrent state is copied in chats, which return to earlier prompts, and nowhere else."""
        base = ['-m', GOLDENS / 'qwen3next.gguf', '-n', '2', '--temp', '0', '--stats', '-c', '32']
        sizes = [float(re.search(r'KV cache ([\d.]+) MiB', self.ok(*base, *more, stdin=b'').stderr.decode()).group(1)) for more in (['-p', 'a'], ['-i'])]
        self.assertLess(sizes[0], sizes[1])

    def test_chat_again(self):
        """The first message of a chat that is there already costs a token."""
        cache = self.tmp / 'cache'
        for model in 'lfm2moe', 'qwen3next', 'gemma3':
            base = ['-m', GOLDENS / (model + '.gguf'), '-i', '-p', 'hello', '-n', '6', '--temp', '0', '--ignore-eos', '--stats', '--prompt-cache', cache]
            first, again = self.ok(*base), self.ok(*base)
            self.assertEqual(first.stdout, again.stdout)
            self.assertEqual(self.evaluated(again.stderr.decode()) + int(re.search(r'decode\D+(\d+) tokens', again.stderr.decode()).group(1)), 7)
            cache.unlink()

    def test_chat(self):
        cache = self.tmp / 'cache'
        chats = [self.ok('-m', MODEL, '-i', '-n', '6', '--temp', '0', *more, stdin=b'hello\nworld\n').stdout
                 for more in ((), ('--prompt-cache', cache), ('--prompt-cache', cache))]
        self.assertEqual(chats[0], chats[1])
        self.assertEqual(chats[0], chats[2])
        self.assertTrue(cache.exists())


class Perplexity(Case):
    TEXT = ('They kept looking at it, hoping to see some. Once upon a time there was a little dog. ' * 20).strip()

    def test_by_hand(self):
        """The figure from the logits of each window, by the method in --help."""
        path = self.tmp / 'text'
        path.write_text(self.TEXT)
        ids = list(map(int, self.ok('tokenize', '-m', MODEL_FLOATS, '-f', path).stdout.split()))
        n_ctx, n_vocab, losses = 32, GOLDEN['n_vocab'], []
        for start in range(0, 4 * n_ctx, n_ctx):
            window = ids[start:start + n_ctx]
            out = self.tmp / 'logits'
            self.ok('logits', '-m', MODEL_FLOATS, '--tokens', ' '.join(map(str, [ids[0]] + window[1:])), '-o', out)
            rows = array.array('f', out.read_bytes())
            for i in range(n_ctx // 2, n_ctx - 1):
                row = rows[i * n_vocab:(i + 1) * n_vocab]
                top = max(row)
                losses.append(math.log(sum(math.exp(x - top) for x in row)) + top - row[window[i + 1]])
        mean = sum(losses) / len(losses)
        variance = sum(x * x for x in losses) / len(losses) - mean * mean
        want = math.exp(mean)
        done = self.ok('perplexity', '-m', MODEL_FLOATS, '-f', path, '-c', n_ctx, '--chunks', '4')
        line = done.stdout.decode()
        value, error = map(float, re.match(r'perplexity ([\d.]+) \+- ([\d.]+) \(4 windows of 32 tokens, 60 predictions\)\n$', line).groups())
        self.assertAlmostEqual(value / want, 1.0, places=6)
        self.assertAlmostEqual(error / (want * math.sqrt(variance / (len(losses) - 1))), 1.0, places=5)
        self.assertEqual(len(done.stderr.decode().splitlines()), 4)
        self.assertTrue(done.stderr.decode().splitlines()[3].startswith('[4/4] ' + str(value)))

    def test_all_windows(self):
        path = self.tmp / 'text'
        path.write_text(self.TEXT)
        n = len(self.ok('tokenize', '-m', MODEL, '-f', path).stdout.split())
        done = self.ok('perplexity', '-q', '-m', MODEL, '-f', path, '-c', '64')
        self.assertIn(f'({n // 64} windows', done.stdout.decode())
        self.assertEqual(done.stderr, b'')

    def test_too_short(self):
        self.fails(1, 'a window of 512', 'perplexity', '-m', MODEL, '-f', '-', stdin=b'short')
        self.fails(1, 'No such file', 'perplexity', '-m', MODEL, '-f', self.tmp / 'none')


class Experts(Case):
    """Lossy choices of experts. What they choose is for the unit tests; here that they arrive, and what is refused."""
    MOE = str(ROOT / 'models/demo/stories-moe-25M.gguf')
    TEXT = 'One day a boy went to the park with his mom and they saw a bird in a tree. The bird was sad because it could not fly. ' * 3

    def value(self, *args):
        path = self.tmp / 'text'
        path.write_text(self.TEXT)
        done = self.ok('perplexity', '-q', '-m', self.MOE, '-f', path, '-c', '32', '--chunks', '2', *args)
        return re.match(r'perplexity [\d.]+ ', done.stdout.decode()).group()

    def test_fewer(self):
        all_of_them = self.value()
        self.assertEqual(self.value('--experts', '2'), all_of_them)
        one = self.value('--experts', '1')
        self.assertNotEqual(one, all_of_them)
        for more in ('-b', '1'), ('-b', '5', '-t', '3'), ('--ram', '9M'), ('--ram', '9M', '-b', '1', '--lossy', 'drop=0.9'):  # never the last one
            self.assertEqual(self.value('--experts', '1', *more), one, more)

    @unittest.skipIf(sanitized(), 'the memory of the sanitizer alone is most of the budget')
    def test_where_not_all_are_in_memory(self):
        """Everything in memory: nothing is given up. Else more of the experts that are used are there."""
        whole = self.value()
        self.assertEqual(self.value('--ram', '9M', '-b', '1'), whole)
        for lossy in ('drop=0.6',), ('cache-route=1',), ('drop=0.5', 'cache-route=0.2'):
            args = [word for x in lossy for word in ('--lossy', x)]
            self.assertEqual(self.value(*args), whole, lossy)
            self.assertNotEqual(self.value(*args, '--ram', '9M', '-b', '1'), whole, lossy)
        shares = []
        for more in (), ('--lossy', 'drop=0.6'), ('--lossy', 'cache-route=1'):
            done = self.ok('-m', self.MOE, '-p', self.TEXT, '-n', '8', '-b', '1', '--temp', '0', '--ignore-eos', '--ram', '9M', '--stats', *more)
            shares.append(float(re.search(r'experts +([\d.]+) % in memory', done.stderr.decode()).group(1)))
        self.assertGreater(shares[1], shares[0] + 5)
        self.assertGreater(shares[2], shares[0] + 20)

    def test_bundles(self):
        path = self.tmp / 'moe.bin'
        self.ok('convert', self.MOE, '-o', path, '-q')
        text = []
        for more in (), ('--experts', '1'), ('--lossy', 'drop=0.6'), ('--lossy', 'drop=0.6', '--ram', '12M'), ('--lossy', 'cache-route=1', '--ram', '12M'):
            done = self.ok('-q', '-m', path, '-p', self.TEXT, '-n', '30', '-b', '1', '--temp', '0', '--ignore-eos', *more)
            text.append(done.stdout)
        self.assertEqual(text[0], text[2])
        for other in text[1], text[3], text[4]:
            self.assertNotEqual(other, text[0])

    def test_log_of_routes(self):
        """What was dropped is not in it; the weights that are left sum to one as all do."""
        log = self.tmp / 'routes.csv'
        ram = '12M' if sanitized() else '9M'  # some experts in memory, and not all: the sanitizer's own memory, which varies, counts
        self.value('--ram', ram, '-b', '1', '--lossy', 'drop=0.6', '--route-log', log)
        sums = {}
        with open(log, encoding='utf-8') as f:
            for row in csv.DictReader(line for line in f if not line.startswith('#')):
                self.assertGreater(float(row['weight']), 0)
                sums.setdefault((row['step'], row['layer']), []).append(float(row['weight']))
        self.assertEqual({len(x) for x in sums.values()}, {1, 2})
        for weights in sums.values():
            self.assertAlmostEqual(sum(weights), 1, places=5)

    def test_other_choices_do_not_share_a_prompt_cache(self):
        cache = self.tmp / 'cache'
        base = ['-m', self.MOE, '-p', self.TEXT, '-n', '2', '--prompt-cache', cache]
        for more, used in ((), True), (('--experts', '2'), True), (('--experts', '1'), False), (('--lossy', 'drop=0.1'), False), \
                (('--lossy', 'cache-route=0.1'), False):
            self.ok(*base)
            self.assertEqual(b'is not used' not in self.ok(*base, *more).stderr, used, more)

    def test_refused(self):
        for args in ('--experts', '1'), ('--lossy', 'drop=0.5'), ('--lossy', 'cache-route=1'):
            self.fails(1, 'the model has no experts', '-m', MODEL, '-p', 'a', *args)
        self.fails(1, 'the model uses 2', '-m', self.MOE, '-p', 'a', '--experts', '3')
        self.fails(2, 'from 1 to', '-m', self.MOE, '-p', 'a', '--experts', '0')
        for lossy in 'drop=0', 'drop=1', 'drop=x', 'drop=0.99999999999', 'drop=', 'cache-route=0', 'cache-route=1.01', 'cache-route=-1':
            self.fails(1, 'is not a number between 0 and 1', '-m', self.MOE, '-p', 'a', '--lossy', lossy)
        self.fails(1, 'cache-route=LAMBDA', '-m', self.MOE, '-p', 'a', '--lossy', 'cache=1')


class Bench(Case):
    SHORT = ['bench', '-m', MODEL, '-r', '1', '--no-limits']
    LIMITS = ['limit_read', 'limit_read_plain', 'limit_read_median', 'limit_int8', 'limit_int8_sum', 'limit_f32']

    def rows(self, *args):
        return json.loads(self.ok(*args, '-o', 'json').stdout)

    def test_formats(self):
        base = ['bench', '-m', MODEL, '-p', '24', '-n', '5', '-t', '2', '-r', '4', '--no-limits']
        rows = self.rows(*base)
        self.assertEqual([(r['test'], r['tokens'], r['n_threads']) for r in rows], [('pp24', 24, 2), ('tg5', 5, 2)])
        for r in rows:
            self.assertAlmostEqual(r['tokens_per_second'] * r['seconds'] / r['tokens'], 1.0, places=6)
            self.assertTrue(0 < r['seconds_min'] <= r['seconds'] <= r['seconds_max'])
            self.assertEqual((r['repeats'], r['depth'], r['share_of_limit']), (4, 0, None))
            self.assertEqual([r[x] for x in self.LIMITS], [None] * 6)
        lines = list(csv.DictReader(io.StringIO(self.ok(*base, '-o', 'csv').stdout.decode())))
        self.assertEqual(list(lines[0]), list(rows[0]))
        self.assertEqual(list(lines[0])[:5], ['test', 'n_threads', 'tokens', 'seconds', 'tokens_per_second'])
        self.assertEqual([(r['test'], r['tokens'], r['share_of_limit'], r['limit_read']) for r in lines],
                         [('pp24', '24', '', ''), ('tg5', '5', '', '')])
        table = [line for line in self.ok(*base).stdout.decode().splitlines() if line.startswith('|')]
        self.assertEqual({len(line) for line in table}, {len(table[0])})
        self.assertEqual([line.split('|')[2].strip() for line in table], ['test', ':--------------', 'pp24', 'tg5'])

    def test_one_kind(self):
        self.assertEqual([r['test'] for r in self.rows(*self.SHORT, '-p', '0', '-n', '3')], ['tg3'])
        self.assertEqual([r['test'] for r in self.rows(*self.SHORT, '-p', '3', '-n', '0')], ['pp3'])

    def test_lists(self):
        rows = self.rows(*self.SHORT, '-p', '4,0,6', '-n', '2', '-n', '3', '-t', '2,1', '-d', '0,20')
        self.assertEqual([(r['n_threads'], r['depth'], r['test']) for r in rows],
                         [(t, d, test) for t in (2, 1) for d in (0, 20) for test in ('pp4', 'pp6', 'tg2', 'tg3')])
        table = self.ok(*self.SHORT, '-p', '4', '-n', '0', '-d', '20').stdout.decode()
        self.assertIn('| pp4 @ d20 ', table)

    def parts(self, path):
        facts = json.loads(self.ok('info', path, '--json').stdout)
        part = facts['tensors_by_part']
        body = {x: part['attention'][x] + part['ffn'][x] for x in ('parameters', 'bytes')}
        return body, part['embedding' if facts['tied_output'] else 'output']

    def test_work(self):
        """Bytes and operations of a token against what the file holds."""
        for path in (MODEL, str(GOLDENS / 'llama-k-mix.gguf')):
            body, output = self.parts(path)
            base = ['bench', '-m', path, '-r', '1', '--no-limits', '-p', '8', '-n', '2']
            prompt, decode = self.rows(*base)
            self.assertEqual(decode['int8_ops_per_token'], 2 * (body['parameters'] + output['parameters']))
            self.assertEqual(prompt['int8_ops_per_token'], 2 * (body['parameters'] + output['parameters'] / 8))  # one row of logits
            self.assertEqual(decode['weight_bytes_per_token'], body['bytes'] + output['bytes'])
            self.assertIsNone(prompt['weight_bytes_per_token'])
            self.assertEqual([r['f32_ops_per_token'] for r in (prompt, decode)], [0, 0])
            self.assertGreater(self.rows(*base, '-d', '15')[1]['kv_bytes_per_token'], decode['kv_bytes_per_token'])
        body, output = self.parts(MODEL_FLOATS)
        ops = 2 * (body['parameters'] + output['parameters'])
        floats = self.rows('bench', '-m', MODEL_FLOATS, '-p', '0', '-n', '2', '-r', '1', '--no-limits')[0]
        self.assertEqual((floats['int8_ops_per_token'], floats['f32_ops_per_token']), (0, ops))

    def test_work_of_experts(self):
        """Of a stack of experts those that a token uses are read; of a prompt as many as it can use."""
        path = str(GOLDENS / 'qwen3moe-q4_0.gguf')
        facts = json.loads(self.ok('info', path, '--json').stdout)
        part = facts['tensors_by_part']
        output = part['embedding' if facts['tied_output'] else 'output']
        decode = self.rows('bench', '-m', path, '-r', '1', '--no-limits', '-p', '0', '-n', '2')[0]
        share = facts['experts']['used'] / facts['experts']['count']
        self.assertEqual(decode['weight_bytes_per_token'], part['attention']['bytes'] + part['router']['bytes'] + output['bytes'] +
                         part['experts']['bytes'] * share)

    def test_times_of_tokens(self):
        prompt, decode = self.rows(*self.SHORT, '-p', '4', '-n', '6')
        self.assertEqual([prompt[x] for x in ('token_p50', 'token_p90', 'token_p99')], [None] * 3)
        self.assertTrue(0 < decode['token_p50'] <= decode['token_p90'] <= decode['token_p99'] < decode['seconds'])
        self.assertEqual([r['read_bytes_per_token'] for r in (prompt, decode)], [0, 0])

    def test_ids(self):
        """Every run takes the next ids of the file, and at its end the first again: seen by the experts that they choose."""
        path, ids, log = str(GOLDENS / 'qwen3moe-q4_0.gguf'), self.tmp / 'ids', self.tmp / 'log'
        ids.write_text('11 12 13\n14 15 16 17 18 19 20\n')

        def routes(*args):
            self.ok(*args, '-m', path, '-q', '--route-log', log)
            lines = [line.split(',') for line in log.read_text().splitlines() if line[0].isdigit()]
            return [(r[3], r[5], r[6]) for r in sorted(lines, key=lambda r: [int(x) for x in r[2:5]])]  # token by token

        def of(*runs):
            return [row for run in runs for row in routes('logits', '--tokens', run, '-o', self.tmp / 'logits')]

        base = ['bench', '--no-limits', '--ids', ids]
        self.assertEqual(routes(*base, '-p', '2', '-n', '2', '-r', '2'), of('11 12', '13 14', '15 16', '17', '18 19', '20 11'))
        self.assertEqual(routes(*base, '-p', '0', '-n', '2', '-r', '1', '--warm', '3'), of('11 12 13 14 15'))
        self.assertEqual(routes(*base, '-p', '0', '-n', '2', '-r', '1', '-d', '9'), of('11 12 13 14 15 16 17 18 19 20') + of(
            '11 12 13 14 15 16 17 18 19 11 12')[-len(of('11 12')):])
        for text, words in (('1 x', "'x' is no token id"), (' \n', 'there are no token ids'), ('99999999', 'is no token id')):
            ids.write_text(text)
            self.fails(1, words, *base, '-m', path, '-p', '2', '-n', '0')

    def test_limits(self):
        rows = self.rows('bench', '--limits-only', '-t', '1,2')
        self.assertEqual([(r['test'], r['n_threads'], r['tokens']) for r in rows], [('limits', 1, None), ('limits', 2, None)])
        for r in rows:
            self.assertTrue(all(r[x] > 0 for x in self.LIMITS), r)
            self.assertGreaterEqual(r['limit_read'], r['limit_read_plain'])
            self.assertGreaterEqual(r['limit_read'], r['limit_read_median'])
        self.assertIn('| limits, threads |', self.ok('bench', '--limits-only', '-t', '1', '--cpu-mask', 'ref').stdout.decode())
        self.fails(1, 'lacks the instruction set', 'bench', '--limits-only', '--cpu-mask', self.other_tier())

    def test_share(self):
        prompt, decode = self.rows('bench', '-m', MODEL, '-p', '8', '-n', '2', '-t', '1', '-r', '1')
        self.assertAlmostEqual(prompt['share_of_limit'],
                               prompt['int8_ops_per_token'] * prompt['tokens_per_second'] / prompt['limit_int8'], places=6)
        read = decode['weight_bytes_per_token'] + decode['kv_bytes_per_token']
        self.assertAlmostEqual(decode['share_of_limit'], read * decode['tokens_per_second'] / decode['limit_read'], places=6)
        self.assertEqual([prompt[x] for x in self.LIMITS], [decode[x] for x in self.LIMITS])

    @staticmethod
    def other_tier():
        return 'avx2' if platform.machine() in ('aarch64', 'arm64') else 'neon'


class Info(Case):
    def test_text_and_json(self):
        text = self.ok('info', MODEL).stdout.decode()
        self.assertIn('llama', text)
        self.assertTrue(text.endswith('\n'))
        facts = json.loads(self.ok('info', MODEL, '--json').stdout)
        self.assertEqual(facts['architecture'], 'llama')

    def test_damaged(self):
        path = self.tmp / 'bad.gguf'
        path.write_bytes(b'GGUF')
        self.fails(1, str(path), 'info', path)


class Convert(Case):
    def checkpoint(self):
        """A llama2.c checkpoint (version 0) and its tokenizer: layout of llama2.c's export.py and tokenizer.py."""
        dim, hidden, layers, heads, vocab, seq = 32, 64, 1, 4, 300, 64
        sizes = [vocab * dim, layers * dim] + [layers * dim * dim] * 4 + [layers * dim] + [layers * dim * hidden] * 3 + [dim]
        sizes += [seq * (dim // heads // 2)] * 2
        state, values = 1, array.array('f')
        for _ in range(sum(sizes)):
            state = (state * 1664525 + 1013904223) & 0xffffffff
            values.append((state >> 8) / 2.0**24 - 0.5)
        path = self.tmp / 'tiny.bin'
        path.write_bytes(struct.pack('<7i', dim, hidden, layers, heads, heads, vocab, seq) + values.tobytes())
        pieces = [b'<unk>', b'\n<s>\n', b'\n</s>\n'] + [b'<0x%02X>' % i for i in range(256)]
        pieces += [bytes([c]) for c in range(ord('a'), ord('z') + 1)] + [b' '] + [b' word%d' % i for i in range(14)]
        tokens = self.tmp / 'tokenizer.bin'
        tokens.write_bytes(struct.pack('<i', 8) + b''.join(struct.pack('<fi', -float(i), len(p)) + p for i, p in enumerate(pieces)))
        self.assertEqual(len(pieces), vocab)
        return path, tokens

    def test_llama2c(self):
        source, tokens = self.checkpoint()
        out = self.tmp / 'out.gguf'
        self.ok('convert', source, '-o', out, '--tokenizer', tokens)
        self.assertEqual(json.loads(self.ok('info', out, '--json').stdout)['architecture'], 'llama')
        text = self.ok('-m', out, '-p', 'abc', '-n', '8', '--temp', '0', '--ignore-eos').stdout
        self.assertGreater(len(text), 0)
        self.fails(1, str(out), 'convert', source, '-o', out)  # is there already
        self.ok('convert', source, '-o', out, '-f', '--type', 'q8_0')
        self.assertEqual(sorted(p.name for p in self.tmp.iterdir()), ['out.gguf', 'tiny.bin', 'tokenizer.bin'])

    def test_bin_and_verify(self):
        demo = ROOT / 'models/demo/stories-drelu-5M.gguf'
        out = self.tmp / 'model.bin'
        r = self.ok('convert', demo, '-o', out, '--ram', '2M')
        self.assertEqual(r.stdout, b'')
        info = json.loads(self.ok('info', out, '--json').stdout)
        source = json.loads(self.ok('info', demo, '--json').stdout)
        self.assertEqual(info['bundles']['layers'], 5)
        self.assertEqual([info['bundles'][t + '_type'] for t in ('gate', 'up', 'down')], ['Q4_0', 'Q4_0', 'Q8_0'])
        self.assertEqual(info['bundles']['activation'], 'drelu')
        self.assertIsNone(source['bundles'])
        self.assertEqual(info['parameters'], source['parameters'])
        self.assertEqual(info['tensors_by_part']['ffn']['parameters'], source['tensors_by_part']['ffn']['parameters'])
        self.assertIn(b'model.bin version 1', self.ok('info', out).stdout)
        n = out.stat().st_size
        self.assertRegex(self.ok('verify', out).stdout.decode(), rf'^{re.escape(str(out))}: good, \d+ checksums over {n} bytes\n$')
        self.assertEqual(self.ok('verify', out, '-q').stdout, b'')
        with open(out, 'r+b') as f:  # every cluster is damaged: only the first are named
            for at in range(n - 4096 * 600, n - 8192, 4096):
                f.seek(at)
                byte = f.read(1)
                f.seek(at)
                f.write(bytes([byte[0] ^ 4]))
        r = run('verify', out)
        self.assertEqual(r.returncode, 1)
        self.assertRegex(r.stderr.decode(), r'^sparsegen: .* is damaged: \d+ of \d+ parts do not match their checksums\n$')
        lines = r.stdout.decode().splitlines()
        self.assertRegex(lines[0], r'^damaged: layer \d, cluster \d \(bytes \d+ to \d+\)$')
        self.assertLessEqual(len(lines), 21)
        self.fails(1, 'no checksums', 'verify', demo)
        self.fails(2, 'FILE', 'verify')

    def test_bin_options(self):
        demo = ROOT / 'models/demo/stories-drelu-5M.gguf'
        out = self.tmp / 'model.bin'
        self.ok('convert', demo, '-o', out, '--type', 'q4_0', '--down-type', 'f16', '--cluster', '96')
        bundles = json.loads(self.ok('info', out, '--json').stdout)['bundles']
        self.assertEqual((bundles['gate_type'], bundles['down_type'], bundles['neurons_per_cluster']), ('Q4_0', 'F16', 96))
        self.fails(1, 'exists already', 'convert', demo, '-o', out)
        self.fails(1, 'already', 'convert', out, '-o', self.tmp / 'again.bin')
        self.fails(1, 'too little', 'convert', demo, '-o', out, '-f', '--ram', '1K')
        self.fails(1, 'multiples of 32', 'convert', demo, '-o', out, '-f', '--cluster', '33')
        self.fails(1, 'GGUF', 'convert', demo, '-o', self.tmp / 'x.gguf')
        self.ok('convert', demo, '-o', self.tmp / 'x.gguf', '--format', 'bin')
        self.ok('verify', self.tmp / 'x.gguf')
        source, tokens = self.checkpoint()
        self.ok('convert', source, '-o', self.tmp / 'tiny', '--format', 'gguf', '--tokenizer', tokens)
        self.fails(1, 'no checksums', 'verify', self.tmp / 'tiny')
        self.assertEqual([p.name for p in self.tmp.iterdir() if '.part' in p.name], [])

    def test_failures(self):
        source, _ = self.checkpoint()
        out = self.tmp / 'out.gguf'
        self.fails(1, '/nowhere/in.bin', 'convert', '/nowhere/in.bin', '-o', out)
        self.fails(2, 'f32, f16, bf16, q8_0, q4_0', 'convert', source, '-o', out, '--type', 'q9_z')
        self.fails(1, '/nowhere/out', 'convert', source, '-o', '/nowhere/out')
        source.write_bytes(source.read_bytes()[:-5])
        self.fails(1, str(source), 'convert', source, '-o', out)
        self.assertFalse(out.exists())


if __name__ == '__main__':
    main()
