"""A GGUF file with tensors more and less: pre-gates made of a model's own routers. Floats only: nothing beyond Python is needed."""
import array
import struct
import sys

from cli_case import ROOT
from more_experts import raw, write

sys.path.insert(0, str(ROOT / 'scripts'))
import gguf_file  # noqa: E402  pylint: disable=wrong-import-position


def with_tensors(source, target, more, without=()):
    """more: name to (dimensions, bytes of F32). without: names that are left out."""
    g = gguf_file.GgufFile(source)
    align = g.keys.get('general.alignment', 32)
    tensors = {name: (*t[:2], raw(g, name)) for name, t in g.tensors.items() if name not in without and name not in more}
    tensors |= {name: (dims, 0, data) for name, (dims, data) in more.items()}
    g.at = 16
    pairs = g.scalar('<Q')
    begin = g.at
    for _ in range(pairs):
        g.text()
        g.value(g.scalar('<I'))
    head = struct.pack('<4sIQQ', b'GGUF', 3, len(tensors), pairs) + bytes(g.map[begin:g.at])
    write(target, head, tensors, align)


def floats(g, name):
    """The values of an F32 tensor."""
    assert g.tensors[name][1] == 0, name
    return array.array('f', raw(g, name))


def routers(g):
    """Names of the routers, in the order of the layers."""
    return sorted((name for name in g.tensors if name.endswith('.ffn_gate_inp.weight')), key=lambda name: int(name.split('.')[1]))


def pregate(g):
    """Rows of a pre-gate: those of the routers times the weights of the norms before them, where there are such; and its dimensions."""
    out, count = array.array('f'), 0
    for name in routers(g):
        rows, width = floats(g, name), g.tensors[name][0][0]
        norm = name.replace('ffn_gate_inp', 'ffn_norm')
        scale = floats(g, norm if norm in g.tensors else name.replace('ffn_gate_inp', 'post_attention_norm'))
        plain = g.keys['general.architecture'] == 'smallthinker'  # its routers read the stream itself
        out.extend(rows if plain else (value * scale[i % width] for i, value in enumerate(rows)))
        count += len(rows) // width
    return [width, count], out.tobytes()
