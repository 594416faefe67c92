#!/usr/bin/env python3
"""Checks from the #include lines that no layer reaches into one it must not know (docs/architecture.md, layers).

    check_layers.py [ROOT]       check a source tree (default: the one this script lies in)
    check_layers.py --self-test  check the checker on made-up trees
"""
import os
import re
import sys
import tempfile

# Longest prefix wins.
AREAS = {
    'runtime/include/': 'public',
    'runtime/base/': 'base',
    'runtime/cli/': 'cli',
    'runtime/': 'runtime',
    'models/': 'models',
    'neuron_engine/': 'neuron_engine',
    'gpu/': 'gpu',
    'io/': 'io',
    'examples/': 'examples',
    'tests/': 'tests',
}
LIBRARY = {'public', 'base', 'io', 'models', 'neuron_engine', 'gpu', 'runtime'}
MAY_INCLUDE = {
    'public': {'public'},
    'base': {'public', 'base'},
    'io': {'public', 'base', 'io'},
    'models': {'public', 'base', 'io', 'models'},
    'neuron_engine': {'public', 'base', 'io', 'neuron_engine'},
    'gpu': {'public', 'base', 'io', 'gpu'},
    'runtime': LIBRARY,
    'cli': {'public', 'cli'},
    'examples': {'public', 'examples'},
    'tests': LIBRARY | {'cli', 'tests'},
}
# Headers of other projects and the areas that may use them (tests: all). Everything else in <> is the C library's.
FOREIGN = {
    'omp.h': {'base'},
    'liburing.h': {'io'},
    'pcre2.h': {'runtime'},
    'cjson/cJSON.h': {'runtime', 'io'},
    'xxhash.h': {'runtime'},
    'cJSON.h': set(),  # spelled <cjson/cJSON.h>, which needs no -I of its own
    'editline/readline.h': {'cli'},
    'histedit.h': {'cli'},
    'CL/cl.h': {'gpu'},
    'vulkan/vulkan.h': {'gpu'},
    'check.h': set(),
    'simde/x86/avx512.h': set(),
}
GENERATED = {'sg_config.h'}  # made by Meson, visible to all
INCLUDE = re.compile(r'^\s*#\s*include\s*(<[^>]*>|"[^"]*"|\S+)')


def sources(root):
    for folder, names, files in os.walk(root):
        at = os.path.relpath(folder, root).replace(os.sep, '/')
        names[:] = sorted(n for n in names if not n.startswith('.') and not (at == '.' and n.startswith('build')))
        for f in sorted(files):
            if f.endswith(('.c', '.h', '.inc', '.cc', '.cpp', '.hpp')):
                yield f if at == '.' else at + '/' + f


def area_of(path):
    best = max((p for p in AREAS if path.startswith(p)), key=len, default=None)
    return AREAS.get(best)


def check_include(root, path, area, what):
    """Returns what is wrong with one include of `path`, or None."""
    name = what[1:-1]
    if what.startswith('<'):
        allowed = FOREIGN.get(name)
        if allowed is not None and area not in allowed and area != 'tests':
            return f'{area} must not use {what}'
        return None
    if not what.startswith('"'):
        return f'an include through the macro {what} cannot be checked'
    if name in GENERATED:
        return None
    if name == 'sparsegen.h':
        target = 'public'
    elif os.path.isfile(os.path.join(root, name)) and '..' not in name.split('/'):
        target = area_of(name)
    else:
        return f'{what} does not name a file from the root of the tree'
    if target not in MAY_INCLUDE[area]:
        return f'{area} must not include {what} ({target})'
    return None


def check(root):
    problems = []
    for path in sources(root):
        area = area_of(path)
        if area is None:
            problems.append(f'{path}: belongs to no layer')
            continue
        with open(os.path.join(root, path), encoding='utf-8', errors='replace') as f:
            for number, line in enumerate(f, 1):
                m = INCLUDE.match(line)
                wrong = m and check_include(root, path, area, m.group(1))
                if wrong:
                    problems.append(f'{path}:{number}: {wrong}')
    return problems


def self_test():
    headers = ['runtime/include/sparsegen.h', 'runtime/base/mem.h', 'runtime/session.h', 'runtime/cli/args.h', 'io/gguf.h',
               'models/model.h', 'neuron_engine/quant.h', 'gpu/gpu.h', 'tests/kernels/harness.h']
    good = [('runtime/a.c', '"models/model.h"'), ('runtime/a.c', '"neuron_engine/quant.h"'), ('runtime/a.c', '"gpu/gpu.h"'),
            ('runtime/a.c', '<pcre2.h>'), ('neuron_engine/a.c', '"io/gguf.h"'), ('models/a.c', '"runtime/base/mem.h"'),
            ('runtime/cli/main.c', '"sparsegen.h"'), ('runtime/cli/main.c', '"runtime/cli/args.h"'),
            ('runtime/cli/main.c', '<stdio.h>'), ('runtime/cli/main.c', '"sg_config.h"'), ('io/a.c', '<liburing.h>'),
            ('tests/io/test_a.c', '"io/gguf.h"'), ('tests/io/test_a.c', '<check.h>'), ('examples/a.c', '"sparsegen.h"')]
    bad = [('runtime/base/a.c', '"io/gguf.h"'), ('io/a.c', '"models/model.h"'), ('io/a.c', '"runtime/session.h"'),
           ('models/a.c', '"neuron_engine/quant.h"'), ('models/a.c', '"gpu/gpu.h"'), ('models/a.c', '"runtime/session.h"'),
           ('neuron_engine/a.c', '"gpu/gpu.h"'), ('neuron_engine/a.c', '"models/model.h"'),
           ('gpu/a.c', '"neuron_engine/quant.h"'), ('gpu/a.c', '"models/model.h"'), ('runtime/a.c', '"runtime/cli/args.h"'),
           ('runtime/a.c', '"tests/kernels/harness.h"'), ('runtime/cli/main.c', '"runtime/session.h"'),
           ('runtime/cli/main.c', '"runtime/base/mem.h"'), ('runtime/cli/main.c', '<cjson/cJSON.h>'),
           ('runtime/include/sparsegen.h', '"runtime/base/mem.h"'), ('examples/a.c', '"io/gguf.h"'),
           ('neuron_engine/a.c', '<omp.h>'), ('runtime/a.c', '"session.h"'), ('io/a.c', '"../models/model.h"'),
           ('io/a.c', 'HEADER'), ('io/sub/a.c', '"io/none.h"'), ('stray/a.c', '<stdio.h>')]
    failures = 0
    for cases, expected in ((good, 0), (bad, 1)):
        for path, what in cases:
            with tempfile.TemporaryDirectory() as root:
                for h in headers:
                    os.makedirs(os.path.join(root, os.path.dirname(h)), exist_ok=True)
                    open(os.path.join(root, h), 'w').close()
                os.makedirs(os.path.join(root, os.path.dirname(path)), exist_ok=True)
                with open(os.path.join(root, path), 'w') as f:
                    f.write(f'/* a comment */\n  #  include {what} // why\n')
                found = check(root)
            if len(found) != expected:
                failures += 1
                print(f'{path} with #include {what}: expected {expected} problems, found {found}')
    print(f'{len(good) + len(bad)} made-up trees, {failures} judged wrongly')
    return 1 if failures else 0


def main():
    if sys.argv[1:] == ['--self-test']:
        return self_test()
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    count = sum(1 for _ in sources(root))
    problems = check(root)
    for p in problems:
        print(p)
    print(f'{count} files, {len(problems)} problems')
    return 1 if problems or not count else 0


if __name__ == '__main__':
    sys.exit(main())
