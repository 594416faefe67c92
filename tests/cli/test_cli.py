#!/usr/bin/env python3
"""The sparsegen program from outside: flags, exit codes, what goes to stdout and what to stderr, bad input, Ctrl-C, chat."""
import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import termios
import time
import unittest

from cli_case import EXE, GOLDEN, MODEL, ROOT, TIMEOUT, Case, main, run

COMMANDS = ['info', 'tokenize', 'logits', 'perplexity', 'convert', 'calibrate', 'verify', 'bench', 'gpu']
# runs until it is stopped
ENDLESS = ['-n', '-1', '-c', '200000', '--ignore-eos', '--temp', '1', '-s', '1', '-t', '1']


class Help(Case):
    def test_no_arguments(self):
        done = run()
        self.assertEqual(done.returncode, 2)
        self.assertEqual(done.stdout, b'')
        for command in COMMANDS:
            self.assertIn(command, done.stderr.decode())

    def test_help_of_everything(self):
        for command in [[]] + [[c] for c in COMMANDS]:
            for flag in '--help', '-h':
                done = self.ok(*command, flag)
                self.assertTrue(done.stdout.decode().startswith('usage: ' + ' '.join(['sparsegen'] + command)))
                self.assertEqual(done.stderr, b'')
                self.assertLessEqual(max(map(len, done.stdout.decode().splitlines())), 130)

    def test_help_is_complete(self):
        text = self.ok('--help').stdout.decode()
        for flag in ('-m -p -f -n -c -t -b -s -i --temp --top-k --top-p --min-p --repeat-penalty --repeat-last-n --presence-penalty '
                     '--frequency-penalty --system --ignore-eos --color --stop --pin --kv --io --cpu-mask --stats -q --version -h').split():
            self.assertRegex(text, r'(?m)^ +(-\w, )?' + re.escape(flag) + r'\b')
        text = self.ok('perplexity', '--help').stdout.decode()
        self.assertIn('llama.cpp', text)

    def test_documented(self):
        """docs/cli.md names every option of every command, and no other."""
        page = (ROOT / 'docs' / 'cli.md').read_text()
        known = {'--help'}
        for command in [[]] + [[c] for c in COMMANDS]:
            known |= set(re.findall(r'(?m)^ +(?:-\w, )?(--[a-z-]+)', self.ok(*command, '--help').stdout.decode()))
        self.assertEqual(set(re.findall(r'(?<![\w-])--[a-z][a-z-]+', page)), known)

    def test_version(self):
        for args in ['--version'], ['-q', '--version']:
            self.assertRegex(self.ok(*args).stdout.decode(), r'^sparsegen \d+\.\d+\.\d+\n$')


class Usage(Case):
    def test_wrong_usage(self):
        for word, args in [
                ("'--nonsense'", ['--nonsense']),
                ("'-Z'", ['-Z']),
                ("unknown command 'frobnicate'", ['frobnicate']),
                ('-m FILE is missing', ['-p', 'x']),
                ('a prompt is missing', ['-m', MODEL]),
                ("'-m' needs a value", ['-p', 'x', '-m']),
                ("'--temp' needs a value", ['-m', MODEL, '-p', 'x', '--temp']),
                ('--temp', ['-m', MODEL, '-p', 'x', '--temp', 'hot']),
                ('--temp', ['-m', MODEL, '-p', 'x', '--temp', '-1']),
                ('--temp', ['-m', MODEL, '-p', 'x', '--temp', 'nan']),
                ('--top-p', ['-m', MODEL, '-p', 'x', '--top-p', '1.5']),
                ('--top-k', ['-m', MODEL, '-p', 'x', '--top-k', '4x']),
                ('--predict', ['-m', MODEL, '-p', 'x', '-n', '-2']),
                ('--predict', ['-m', MODEL, '-p', 'x', '-n', '']),
                ('--ctx-size', ['-m', MODEL, '-p', 'x', '-c', '99999999999999999999']),
                ('--threads', ['-m', MODEL, '-p', 'x', '-t', '-1']),
                ('to 1024', ['-m', MODEL, '-p', 'x', '-t', '1025']),
                ("--cpu-mask: 'zap'", ['-m', MODEL, '-p', 'x', '--cpu-mask', 'zap']),
                ('--seed', ['-m', MODEL, '-p', 'x', '-s', '-1']),
                ('f16, f32, q8_0', ['-m', MODEL, '-p', 'x', '--kv', 'q8']),
                ('auto, uring, pread', ['-m', MODEL, '-p', 'x', '--io', 'mmap']),
                ('takes no value', ['-m', MODEL, '-p', 'x', '--stats=1']),
                ('exclude each other', ['-m', MODEL, '-p', 'x', '-f', 'y']),
                ('exclude each other', ['-m', MODEL, '-p', 'x', '-']),
                ('standard input', ['-m', MODEL, '-i', '-']),
                ("'word'", ['-m', MODEL, '-p', 'x', 'word']),
                ('--stop', ['-m', MODEL, '-p', 'x', '--stop', '']),
                ('FILE is missing', ['info']),
                ("unexpected argument 'b'", ['info', 'a', 'b']),
                ('-m FILE is missing', ['tokenize', '-p', 'x']),
                ('one of -p TEXT and -f FILE', ['tokenize', '-m', MODEL]),
                ('one of -p TEXT and -f FILE', ['tokenize', '-m', MODEL, '-p', 'x', '-f', 'y']),
                ('-o FILE is missing', ['logits', '-m', MODEL, '-p', 'x']),
                ('one of -p TEXT and --tokens', ['logits', '-m', MODEL, '-o', 'x']),
                ('-f FILE is missing', ['perplexity', '-m', MODEL]),
                ('IN is missing', ['convert', '-o', 'x']),
                ('-o FILE is missing', ['convert', 'x']),
                ('nothing to measure', ['bench', '-m', MODEL, '-p', '0', '-n', '0']),
                ('nothing to measure', ['bench', '-m', MODEL, '-p', '0,0', '-n', '0']),
                ('table, json, csv', ['bench', '-m', MODEL, '-o', 'xml']),
                ("--prompt-tokens: '' is not", ['bench', '-m', MODEL, '-p', '1,,2']),
                ("--prompt-tokens: '' is not", ['bench', '-m', MODEL, '-p', '1,']),
                ("--prompt-tokens: '' is not", ['bench', '-m', MODEL, '-p', '']),
                ("--decode-tokens: '2x' is not", ['bench', '-m', MODEL, '-n', '1,2x,3']),
                ("--decode-tokens: ' 2' is not", ['bench', '-m', MODEL, '-n', '1, 2']),
                ('--decode-tokens', ['bench', '-m', MODEL, '-n', '9' * 40]),
                ("--depth: '-1' is not", ['bench', '-m', MODEL, '-d', '0,-1']),
                ('--depth', ['bench', '-m', MODEL, '-d', '16777217']),
                ('from 0 to 1024', ['bench', '-m', MODEL, '-t', '1,1025']),
                ('--threads: at most 32', ['bench', '-m', MODEL, '-t', ','.join(['1'] * 33)]),
                ('--repeats', ['bench', '-m', MODEL, '-r', '1,2']),
                ('exclude each other', ['bench', '--no-limits', '--limits-only']),
                ('-m FILE is missing', ['bench', '-p', '1']),
        ]:
            with self.subTest(args=args):
                self.fails(2, word, *args)

    def test_too_many_stops(self):
        self.fails(2, '--stop', '-m', MODEL, '-p', 'x', *['--stop', 'a'] * 17)


class BadModels(Case):
    def check(self, path, word):
        for command in (['-p', 'x'], ['tokenize', '-p', 'x'], ['bench', '-p', '1', '-n', '0', '--no-limits'],
                        ['logits', '--tokens', '1', '-o', self.tmp / 'out'], ['perplexity', '-f', __file__]):
            args = command + ['-m', path]
            self.fails(1, word, *args)
        self.assertFalse((self.tmp / 'out').exists())

    def test_missing(self):
        self.check('/nowhere/model.gguf', '/nowhere/model.gguf')
        self.fails(1, '/nowhere/model.gguf', 'info', '/nowhere/model.gguf')

    def test_directory(self):
        self.check(self.tmp, str(self.tmp))
        self.fails(1, str(self.tmp), 'info', self.tmp)

    @unittest.skipIf(os.geteuid() == 0, 'root may read everything')
    def test_no_permission(self):
        path = self.tmp / 'secret.gguf'
        path.write_bytes(pathlib.Path(MODEL).read_bytes())
        path.chmod(0)
        self.check(path, 'Permission denied')

    def test_damaged(self):
        whole = pathlib.Path(MODEL).read_bytes()
        path = self.tmp / 'bad.gguf'
        for data in b'', b'GG', b'NOPE' + whole[4:], whole[:100], whole[:len(whole) // 2], whole[:-1]:
            path.write_bytes(data)
            self.check(path, str(path))


class Generate(Case):
    base = ['-m', MODEL, '-p', GOLDEN['prompt'], '-n', '16', '--ignore-eos']

    def greedy(self, *more):
        return self.ok(*self.base, '--temp', '0', *more).stdout

    def test_greedy_text_is_that_of_the_golden_tokens(self):
        """Our text has the pieces of llama.cpp's tokens; the bytes that form no UTF-8 became U+FFFD."""
        text = self.greedy('-n', '3')
        self.assertEqual(text.decode()[:3], ' it')  # tokens 312 and the following of greedy_ids
        text.decode()  # strict

    def test_same_text_with_every_setting(self):
        want = self.greedy()
        self.assertGreater(len(want), 15)
        for more in ['-t', '1'], ['-t', '3'], ['-b', '1'], ['-b', '7'], ['--io', 'pread'], ['--cpu-mask', 'ref'], ['-c', '64'], ['-q']:
            self.assertEqual(self.greedy(*more), want, more)

    def test_prompt_sources(self):
        want = self.greedy()
        base = ['-m', MODEL, '-n', '16', '--ignore-eos', '--temp', '0']
        path = self.tmp / 'prompt'
        path.write_text(GOLDEN['prompt'] + '\n')  # one newline at the end is not meant
        self.assertEqual(self.ok(*base, '-f', path).stdout, want)
        for dash in ['-'], ['-f', '-']:
            self.assertEqual(self.ok(*base, *dash, stdin=path.read_bytes()).stdout, want)
        path.write_text(GOLDEN['prompt'] + '\n\n')
        self.assertNotEqual(self.ok(*base, '-f', path).stdout, want)

    def test_nothing_but_text_on_stdout(self):
        done = self.ok(*self.base, '--temp', '0', '--stats', '--color')
        self.assertEqual(done.stdout, self.greedy())
        err = done.stderr.decode()
        for word in 'prompt', 'decode', 'tokens/s', 'weights', 'KV cache', 'peak resident', 'kernels':
            self.assertIn(word, err)
        self.assertIn(f"{len(GOLDEN['prompt_ids'])} tokens", err)

    def test_quiet(self):
        self.assertEqual(self.ok(*self.base, '-q').stderr, b'')

    def test_seed(self):
        first = self.ok(*self.base)
        seed = re.search(r'seed (\d+)', first.stderr.decode()).group(1)
        again = self.ok(*self.base, '-s', seed)
        self.assertEqual(again.stdout, first.stdout)
        self.assertNotIn('seed', again.stderr.decode())
        others = {self.ok(*self.base, '--seed', s).stdout for s in range(5)}
        self.assertGreater(len(others), 1)
        self.assertNotIn('seed', self.ok(*self.base, '--temp', '0').stderr.decode())  # nothing is drawn

    def test_sampling_flags_reach_the_sampler(self):
        want = self.greedy()
        for more in ['--top-k', '1'], ['--top-p', '0'], ['--min-p', '1'], ['--temp', '0.000001']:
            self.assertEqual(self.ok(*self.base, '-s', '1', *more).stdout, want, more)
        plain = self.ok(*self.base, '--temp', '0', '-n', '200', '-c', '256').stdout
        for more in ['--repeat-penalty', '5'], ['--presence-penalty', '50'], ['--frequency-penalty', '50']:
            changed = self.ok(*self.base, '--temp', '0', '-n', '200', '-c', '256', *more).stdout
            self.assertNotEqual(changed, plain, more)
            off = self.ok(*self.base, '--temp', '0', '-n', '200', '-c', '256', *more, '--repeat-last-n', '0').stdout
            self.assertEqual(off, plain, more)

    def test_length(self):
        self.assertEqual(self.greedy('-n', '0'), b'')
        self.assertTrue(self.greedy().startswith(self.greedy('-n', '1').rstrip('\ufffd'.encode())))
        done = self.ok('-m', MODEL, '-p', GOLDEN['prompt'], '--ignore-eos', '-c', '64', '--temp', '0')
        self.assertIn('context is full', done.stderr.decode())
        self.assertGreater(len(done.stdout), 30)

    def test_stop(self):
        whole = self.greedy().decode()
        stop = whole[4:7]
        want = whole[:whole.index(stop)].encode()
        self.assertEqual(self.greedy('--stop', stop), want)
        self.assertEqual(self.greedy('--stop', 'never', '--stop', stop), want)
        self.assertEqual(self.greedy('--stop', stop + '\x01').decode(), whole)

    def test_empty_prompt(self):
        self.assertGreater(len(self.ok('-m', MODEL, '-p', '', '-n', '8', '--temp', '0', '--ignore-eos').stdout), 0)

    def test_system_makes_a_question(self):
        done = self.ok(*self.base, '--temp', '0', '--system', 'Be kind.', '-c', '256')
        self.assertNotEqual(done.stdout, self.greedy())

    def test_bad_prompts(self):
        self.fails(1, 'UTF-8', '-m', MODEL, '-p', b'\xff\xfe'.decode('utf-8', 'surrogateescape'))
        path = self.tmp / 'prompt'
        path.write_bytes(b'fine \xc3')
        self.fails(1, 'UTF-8', '-m', MODEL, '-f', path)
        path.write_bytes(b'fi\0ne')
        for more in ['-i'], ['-i', '--system', 'x'], ['--system', 'x']:  # messages are C strings, the rest would be lost
            self.fails(1, 'zero byte', '-m', MODEL, '-f', path, *more)
        self.fails(1, 'No such file', '-m', MODEL, '-f', self.tmp / 'none')
        self.fails(1, 'directory', '-m', MODEL, '-f', self.tmp)
        self.fails(1, 'do not fit', '-m', MODEL, '-p', GOLDEN['prompt'], '-c', '8')
        path.write_text('word ' * 50000)
        self.fails(1, 'do not fit', '-m', MODEL, '-f', path)

    def test_odd_settings(self):
        self.ok('-m', MODEL, '-p', 'a', '-n', '2', '-t', '64', '-b', '65536')

    def test_tiers(self):
        """The names that the program takes are those that the library knows; one that the processor lacks is no wrong usage."""
        base = ['-m', MODEL, '-p', 'a', '-n', '1', '--cpu-mask']
        names = re.search(r'is not one of (.*)', run(*base, 'zap').stderr.decode()).group(1)
        lacking = 0
        for name in names.split(', '):
            done = run(*base, name)
            if done.returncode != 0:
                lacking += 1
                self.fails(1, f'lacks the instruction set {name} (names: {names})', *base, name)
        self.assertGreater(lacking, 0)  # no processor has both AVX2 and NEON

    def test_stdout_that_fails(self):
        with open('/dev/full', 'wb') as full:
            self.fails(1, 'No space left', *self.base, stdout=full)
            self.fails(1, 'No space left', '--help', stdout=full)
            self.fails(1, 'No space left', 'tokenize', '-m', MODEL, '-p', 'x', stdout=full)
        reader, writer = os.pipe()
        os.close(reader)
        self.fails(1, 'Broken pipe', *self.base, '-q', stdout=writer)
        os.close(writer)


class Interrupt(Case):
    def start(self, *args):
        p = subprocess.Popen([EXE, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
        self.addCleanup(p.kill)
        return p

    def test_generate(self):
        p = self.start('-m', MODEL, '-p', 'a', *ENDLESS)
        first = p.stdout.read(1)
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=TIMEOUT)
        self.assertEqual(p.returncode, 130, err)
        (first + out).decode()  # no half characters
        self.assertNotIn(b'sparsegen:', err)

    def test_prompt(self):
        path = self.tmp / 'long'
        path.write_text('word ' * 100000)
        p = self.start('perplexity', '-m', MODEL, '-f', str(path), '-c', '4', '-t', '1')
        p.stderr.readline()
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=TIMEOUT)
        self.assertEqual((p.returncode, out), (130, b''), err)

    def test_nothing_half_written(self):
        out = self.tmp / 'out.f32'
        p = self.start('logits', '-m', MODEL, '--tokens', '1 ' * 60000, '-o', str(out), '-t', '1')
        while p.poll() is None and not any(self.tmp.iterdir()):
            pass
        p.send_signal(signal.SIGINT)
        p.communicate(timeout=TIMEOUT)
        self.assertEqual(p.returncode, 130)
        self.assertEqual(list(self.tmp.iterdir()), [])

    def test_chat_answer(self):
        p = self.start('-i', '-m', MODEL, *ENDLESS)
        p.stdin.write(b'hello\n')
        p.stdin.flush()
        p.stdout.read(1)
        p.send_signal(signal.SIGINT)
        line = b''
        while b'interrupted' not in line:
            line = p.stderr.readline()
            self.assertNotEqual(line, b'')
        _, err = p.communicate(b'/quit\n', timeout=TIMEOUT)
        self.assertEqual(p.returncode, 0, err)


class Chat(Case):
    def chat(self, lines, *more):
        return self.ok('-i', '-m', MODEL, '--temp', '0', '-n', '6', '--ignore-eos', *more, stdin=lines.encode())

    def test_turns(self):
        one = self.chat('hello\n').stdout
        two = self.chat('hello\nand more\n').stdout
        self.assertTrue(one.endswith(b'\n'))
        self.assertTrue(two.startswith(one))
        self.assertGreater(len(two), len(one))

    def test_first_message(self):
        self.assertEqual(self.chat('', '-p', 'hello').stdout, self.chat('hello\n').stdout)
        self.assertEqual(self.chat('more\n', '-p', 'hello').stdout, self.chat('hello\nmore\n').stdout)

    def test_reset_and_quit(self):
        one = self.chat('hello\n').stdout
        self.assertEqual(self.chat('hello\n/reset\nhello\n').stdout, one + one)
        self.assertEqual(self.chat('hello\n/quit\nhello\n').stdout, one)
        self.assertEqual(self.chat('\n\nhello').stdout, one)
        self.assertEqual(self.chat('').stdout, b'')

    def test_reuses_what_was_evaluated(self):
        """Each turn evaluates its new tokens; the answers before it are on the timeline already, up to other tokens for the
        same text."""
        def prompt_tokens(lines):
            err = self.chat(lines, '--stats', '-c', '2048').stderr.decode()
            return int(re.search(r'prompt +(\d+) tokens', err).group(1))
        long = 'a story about a dog and a cat ' * 10
        first = prompt_tokens(long + '\n')
        self.assertLess(prompt_tokens(long + '\nyes\n'), first + 120)
        self.assertGreater(first, 150)

    def test_context_full(self):
        done = self.chat('tell me something\n' * 6, '-c', '96')
        self.assertIn('forgot the oldest', done.stderr.decode())
        self.assertEqual(self.chat('tell me something\n' * 6, '-c', '96').stdout, done.stdout)

    def test_message_too_long(self):
        done = self.chat('word ' * 300 + '\nhi\n', '-c', '96')
        self.assertIn('do not fit', done.stderr.decode())
        self.assertEqual(done.stdout, self.chat('hi\n', '-c', '96').stdout)

    def test_bad_line(self):
        done = self.ok('-i', '-m', MODEL, '--temp', '0', '-n', '6', '--ignore-eos', stdin=b'\xff\nhello\n')
        self.assertIn('UTF-8', done.stderr.decode())
        self.assertEqual(done.stdout, self.chat('hello\n').stdout)

    def test_system(self):
        self.assertNotEqual(self.chat('hello\n', '--system', 'Be kind.').stdout, self.chat('hello\n').stdout)

    def test_stdout_fails(self):
        with open('/dev/full', 'wb') as full:
            self.fails(1, 'No space left', '-i', '-q', '-m', MODEL, '-n', '6', '--ignore-eos', stdin=b'a\nb\n', stdout=full)


class Terminal(Case):
    """Chat in a pseudo terminal: prompt, editing, Ctrl-C, Ctrl-D."""

    def start(self, *args):
        try:
            pid, fd = pty.fork()
        except OSError as error:  # a container without /dev/pts
            self.skipTest(str(error))
        if pid == 0:
            os.environ.update(TERM='xterm', NO_COLOR='1')
            os.execv(EXE, [EXE, *args])
        self.seen = b''
        self.addCleanup(os.close, fd)
        return pid, fd

    def until(self, fd, pattern):
        """Reads until the pattern is there; returns all that came up to its end."""
        while not (found := re.search(pattern, self.seen)):
            self.assertTrue(select.select([fd], [], [], TIMEOUT)[0], self.seen)
            try:
                data = os.read(fd, 4096)
            except OSError:
                data = b''
            self.assertNotEqual(data, b'', f'ended before {pattern}: {self.seen}')
            self.seen += data
        before, self.seen = self.seen[:found.end()], self.seen[found.end():]
        return before

    def prompt(self, fd):
        """Waits for the prompt, and for line editing to have taken the terminal: keys typed before would change their meaning."""
        self.until(fd, rb'> ')
        for _ in range(200):
            if not termios.tcgetattr(fd)[3] & termios.ICANON:
                break
            time.sleep(0.01)

    def finish(self, pid, fd):
        while True:
            try:
                if not os.read(fd, 4096):
                    break
            except OSError:
                break
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def test_ctrl_d(self):
        pid, fd = self.start('-i', '-m', MODEL, '--temp', '0', '-n', '4', '--ignore-eos')
        self.prompt(fd)
        os.write(fd, b'helxx\x7f\x7flo\r')
        self.until(fd, rb'\n')
        self.prompt(fd)
        os.write(fd, b'\x04')
        self.assertEqual(self.finish(pid, fd), 0)

    def test_ctrl_c_at_the_prompt(self):
        pid, fd = self.start('-i', '-m', MODEL)
        before = termios.tcgetattr(fd)
        self.prompt(fd)
        os.write(fd, b'\x03')
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT) is None:
            pass
        self.assertEqual(termios.tcgetattr(fd)[3], before[3])  # echo and line mode are back
        self.assertEqual(self.finish(pid, fd), 130)

    def test_ctrl_c_in_an_answer(self):
        pid, fd = self.start('-i', '-m', MODEL, *ENDLESS)
        self.prompt(fd)
        os.write(fd, b'hello\r')
        self.until(fd, rb'hello.*\n.')
        os.kill(pid, signal.SIGINT)
        self.until(fd, rb'interrupted')
        self.prompt(fd)
        os.write(fd, b'/quit\r')
        self.assertEqual(self.finish(pid, fd), 0)

    def test_newline_at_the_end(self):
        pid, fd = self.start('-q', '-m', MODEL, '-p', 'a', '-n', '4', '--ignore-eos', '--temp', '0')
        text = self.until(fd, rb'\r\n$')
        self.assertGreater(len(text), 2)
        self.assertEqual(self.finish(pid, fd), 0)


if __name__ == '__main__':
    main()
