"""A GGUF file with many times the experts of a small one: so much that it does not fit a budget."""
import math
import struct
import sys

from cli_case import ROOT

sys.path.insert(0, str(ROOT / 'scripts'))
import gguf_file  # noqa: E402  pylint: disable=wrong-import-position

# Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q5_K, IQ4_NL, MXFP4
BLOCKS = {**gguf_file.BLOCKS, 3: (32, 20), 6: (32, 22), 7: (32, 24), 10: (256, 84), 11: (256, 110), 13: (256, 176), 20: (32, 18), 39: (32, 17)}


def turned(data, by):
    by %= len(data)
    return data[by:] + data[:by]


def raw(g, name):
    """The bytes of a tensor."""
    dims, kind, at = g.tensors[name]
    values, size = BLOCKS[kind]
    total = math.prod(dims) // values * size
    return bytes(g.map[g.data + at:g.data + at + total])


def write(target, head, tensors, align):
    """head: everything before the tensors, their number included. tensors: name to (dimensions, type, bytes)."""
    infos, data = bytearray(), bytearray()
    for name, (dims, kind, values) in tensors.items():
        data += bytes(-len(data) % align)
        infos += struct.pack('<Q', len(name)) + name.encode() + struct.pack(f'<I{len(dims)}QIQ', len(dims), *dims, kind, len(data))
        data += values
    head += infos
    head += bytes(-len(head) % align)
    with open(target, 'wb') as f:
        f.write(head + data)


def more_experts(source, target, times):
    """Copy k of an expert has its rows turned by k; copy k of a router's row its values, so that each is chosen by other tokens."""
    g = gguf_file.GgufFile(source)
    arch = g.keys['general.architecture']
    count = g.keys[f'{arch}.expert_count']
    align = g.keys.get('general.alignment', 32)
    g.at = 16
    head = bytearray(g.map[:24])
    for _ in range(g.scalar('<Q')):
        begin = g.at
        name = g.text()
        g.value(g.scalar('<I'))
        pair = bytearray(g.map[begin:g.at])
        if name == f'{arch}.expert_count':
            struct.pack_into('<I', pair, len(pair) - 4, count * times)
        head += pair
    made = {}
    for name, (dims, kind, _) in g.tensors.items():
        data = raw(g, name)
        if '_exps.' in name or 'ffn_gate_inp.' in name or 'exp_probs_b' in name:
            assert dims[-1] == count, (name, dims)
            each = len(data) // count
            values, size = BLOCKS[kind]
            by = dims[0] // values * size if len(dims) == 3 else 4 * ('ffn_gate_inp.weight' in name)
            data = b''.join(turned(data[e * each:(e + 1) * each], by * k) for k in range(times) for e in range(count))
            dims = [*dims[:-1], count * times]
        made[name] = (dims, kind, data)
    write(target, head, made, align)
