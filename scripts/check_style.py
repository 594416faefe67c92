#!/usr/bin/env python3
"""Checks what a formatter does not: file sizes, stray characters, names.

    check_style.py [ROOT]                            check a source tree (default: the one this script lies in)
    check_style.py --symbols LIBRARY HEADER [--complete]
                                                     the shared library exports only what the header declares; --complete:
                                                     and all of it. Exits 77 (skip) where nm is missing
    check_style.py --self-test                       check the checker on made-up trees
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unicodedata

MOST_LINES, LONG_LINES, REASON_WITHIN = 1000, 600, 10
REASON = re.compile(r'(/\*|#)\s*long file: \S')
# Tables written by a script, exempt from the size rules.
GENERATED = set()
CODE = ('.c', '.h', '.inc', '.cc', '.cpp', '.hpp', '.py', '.sh')
TEXT = CODE + ('.md', '.build', '.yml', '.yaml', '.cl', '.comp')
NAMES = {'meson_options.txt', '.clang-format', '.editorconfig', '.gitignore', 'LICENSE', '.ci/run'}
HIDDEN_FOLDERS = {'.ci', '.github'}
DATA = ('tests/data/', 'models/demo/')  # inputs, kept byte for byte
# Back ends mirror each other's file names (docs/architecture.md).
MIRRORED = ('gpu/opencl/', 'gpu/vulkan/')
# Letters without a shape, besides the Unicode categories below: fillers, variation selectors, the soft hyphen's kin.
INVISIBLE = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0} | set(range(0xFE00, 0xFE10))
# What linkers and sanitizers put into every shared library.
NOT_OURS = re.compile(r'^(_init|_fini|__bss_start|_edata|_end|__end__|__(odr_asan|asan|tsan|ubsan|sancov|llvm|gcov).*)$')


def files_of(root):
    for folder, names, files in os.walk(root):
        at = os.path.relpath(folder, root).replace(os.sep, '/')
        names[:] = sorted(n for n in names if (not n.startswith('.') or n in HIDDEN_FOLDERS) and n != '__pycache__'
                          and not (at == '.' and n.startswith('build')))
        for f in sorted(files):
            path = f if at == '.' else at + '/' + f
            if (f.endswith(TEXT) or path in NAMES) and not path.startswith(DATA):
                yield path


def invisible(c):
    if ord(c) < 128:
        return unicodedata.category(c) == 'Cc' and c not in '\n\t'
    return unicodedata.category(c) in ('Cc', 'Cf', 'Zs', 'Zl', 'Zp', 'Co', 'Cn') or ord(c) in INVISIBLE


def check_text(path, raw):
    """Yields (line number or 0, sentence) for one file."""
    try:
        text = raw.decode('utf-8')
    except UnicodeDecodeError as e:
        yield 0, f'byte {e.start} is not UTF-8'
        return
    if text and not text.endswith('\n'):
        yield 0, 'no newline at the end of the file'
    if text.endswith('\n\n'):
        yield 0, 'empty lines at the end of the file'
    lines = text.split('\n')
    for number, line in enumerate(lines, 1):
        if '\t' in line:
            yield number, 'tab'
        if line != line.rstrip(' \t\r'):
            yield number, 'blanks at the end of the line'
        for c in line.rstrip('\r'):
            if invisible(c):
                yield number, f'invisible character U+{ord(c):04X}'
    count = len(lines) - 1
    if path.endswith(CODE) and path not in GENERATED:
        if count > MOST_LINES:
            yield 0, f'{count} lines, more than {MOST_LINES}'
        elif count > LONG_LINES and not any(REASON.search(line) for line in lines[:REASON_WITHIN]):
            yield 0, f'{count} lines, more than {LONG_LINES} and no "long file: reason" near the top'


def check(root):
    problems, stems = [], {}
    for path in files_of(root):
        with open(os.path.join(root, path), 'rb') as f:
            raw = f.read()
        problems += [f'{path}:{n}: {what}' if n else f'{path}: {what}' for n, what in check_text(path, raw)]
        if path.endswith('.c') and not path.startswith(MIRRORED):
            stems.setdefault(os.path.basename(path), []).append(path)
    problems += [f'{" and ".join(p)}: same file name' for p in stems.values() if len(p) > 1]
    return problems


def declared(header):
    """Names of the functions that the text of a header marks SG_API."""
    text = re.sub(r'/\*.*?\*/', ' ', header, flags=re.S)
    return {m.group(1) for m in re.finditer(r'\bSG_API\b[^;{}()]*?\b(sg_\w+)\s*\(', text)}


def check_symbols(exported, header, complete):
    known = declared(header)
    ours = {s for s in exported if not NOT_OURS.match(s)}
    problems = [f'{s}: exported, but the header does not declare it' for s in sorted(ours - known)]
    if complete:
        problems += [f'{s}: declared, but not exported' for s in sorted(known - ours)]
    return problems


def symbols(library, header, complete):
    nm = shutil.which(os.environ.get('NM', 'nm')) or shutil.which('llvm-nm')
    if not nm:
        print('nm is missing')
        return 77
    out = subprocess.run([nm, '-D', '--defined-only', library], check=True, capture_output=True, text=True).stdout
    exported = {line.split()[-1].split('@')[0] for line in out.splitlines() if line.strip()}
    with open(header, encoding='utf-8') as f:
        problems = check_symbols(exported, f.read(), complete)
    for p in problems:
        print(p)
    print(f'{len(exported)} exported symbols, {len(problems)} problems')
    return 1 if problems or not exported else 0


def self_test():
    cases = [  # files, words that the one problem must contain (None: no problem)
        ({'a.c': b'int a;\n', 'b/c.py': '# caf\u00e9 \u2462\n'.encode(), 'd.md': b''}, None),
        ({'a.c': b'int a;\n' * 600}, None),
        ({'a.c': b'int a;\n' * 601}, 'more than 600'),
        ({'a.c': b'/* long file: one table */\n' + b'int a;\n' * 999}, None),
        ({'a.c': b'/* long file: one table */\n' + b'int a;\n' * 1000}, 'more than 1000'),
        ({'a.py': b'# long file: many rules\n' + b'a = 1\n' * 700}, None),
        ({'a.py': b'a = 1\n' * 700 + b'# long file: too late\n'}, 'more than 600'),
        ({'a.md': b'word\n' * 2000}, None),
        ({'a.c': b'int\ta;\n'}, 'tab'),
        ({'a.c': b'int a; \n'}, 'blanks at the end'),
        ({'a.c': b'int a;\r\n'}, 'blanks at the end'),
        ({'a.c': b'int a;'}, 'no newline'),
        ({'a.c': b'int a;\n\n'}, 'empty lines'),
        ({'a.c': b'int a; /* \xff */\n'}, 'not UTF-8'),
        ({'a.c': b'int a; /* \x1b */\n'}, 'U+001B'),
        ({'a.c': 'int a; /* \u200b */\n'.encode()}, 'U+200B'),
        ({'a.c': 'int a; /* \u202e */\n'.encode()}, 'U+202E'),
        ({'a.c': 'int a; /*\u00a0*/\n'.encode()}, 'U+00A0'),
        ({'a.c': '\ufeffint a;\n'.encode()}, 'U+FEFF'),
        ({'a.c': 'int \u3164;\n'.encode()}, 'U+3164'),
        ({'.ci/run': b'echo \n'}, 'blanks at the end'),
        ({'io/a.c': b'int a;\n', 'runtime/a.c': b'int b;\n'}, 'same file name'),
        ({'io/a.h': b'int a;\n', 'runtime/a.h': b'int b;\n'}, None),
        ({'gpu/opencl/a.c': b'int a;\n', 'gpu/vulkan/a.c': b'int b;\n'}, None),
        ({'tests/data/a.c': b'\t \n\n', 'build/a.c': b'\t\n', '.git/a.c': b'\t\n'}, None),
    ]
    failures = 0
    for files, words in cases:
        with tempfile.TemporaryDirectory() as root:
            for path, raw in files.items():
                os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
                with open(os.path.join(root, path), 'wb') as f:
                    f.write(raw)
            found = check(root)
        if found if words is None else len(found) != 1 or words not in found[0]:
            failures += 1
            print(f'{list(files)}: expected {words!r}, found {found}')
    header = '/* sg_old() */ SG_API SG_NODISCARD sg_status sg_a(int x,\n  int y); SG_API void\n sg_b(void); void sg_c(void);'
    for exported, complete, expected in (({'sg_a', 'sg_b', '_init', '__odr_asan.x'}, True, 0), ({'sg_a'}, False, 0), ({'sg_a'}, True, 1),
                                         ({'sg_a', 'sg_c'}, False, 1), ({'sg_a', 'sg_old'}, False, 1), ({'helper'}, False, 1)):
        found = check_symbols(exported, header, complete)
        if len(found) != expected:
            failures += 1
            print(f'symbols {sorted(exported)}: expected {expected} problems, found {found}')
    print(f'{len(cases) + 6} made-up cases, {failures} judged wrongly')
    return 1 if failures else 0


def main():
    args = sys.argv[1:]
    if args == ['--self-test']:
        return self_test()
    if args[:1] == ['--symbols']:
        return symbols(args[1], args[2], '--complete' in args[3:])
    root = args[0] if args else os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    count = sum(1 for _ in files_of(root))
    problems = check(root)
    for p in problems:
        print(p)
    print(f'{count} files, {len(problems)} problems')
    return 1 if problems or not count else 0


if __name__ == '__main__':
    sys.exit(main())
