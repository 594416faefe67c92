"""The llama architecture in plain Python and double precision, for models of a few thousand weights: what test_powerinfer.py compares with."""
import array
import math


class Tensors:
    """F32 tensors of a GGUF file, by name: lists of rows."""

    def __init__(self, g):
        self.g = g

    def __getitem__(self, name):
        dims, kind, at = self.g.tensors[name]
        assert kind == 0, name
        n = math.prod(dims)
        values = array.array("f", self.g.map[self.g.data + at:self.g.data + at + 4 * n]).tolist()
        return [values[i:i + dims[0]] for i in range(0, n, dims[0])]


def times(matrix, x):
    return [[math.sumprod(row, v) if hasattr(math, "sumprod") else sum(map(float.__mul__, row, v)) for row in matrix] for v in x]


def norm(x, weight, eps):
    return [[a * w / math.sqrt(sum(b * b for b in v) / len(v) + eps) for a, w in zip(v, weight)] for v in x]


def rotate(v, at, size, base, divisors):
    """Neighbours of a head turn together."""
    out = list(v)
    for first in range(0, len(v), size):
        for i in range(size // 2):
            angle = at * base ** (-2 * i / size) / divisors[i]
            a, b = v[first + 2 * i], v[first + 2 * i + 1]
            out[first + 2 * i] = a * math.cos(angle) - b * math.sin(angle)
            out[first + 2 * i + 1] = a * math.sin(angle) + b * math.cos(angle)
    return out


def attend(q, k, v, heads, kv_heads, size):
    out = []
    for i, query in enumerate(q):
        row = []
        for h in range(heads):
            at = h * kv_heads // heads * size
            scores = [sum(map(float.__mul__, query[h * size:(h + 1) * size], k[j][at:at + size])) / math.sqrt(size) for j in range(i + 1)]
            most = max(scores)
            p = [math.exp(s - most) for s in scores]
            row += [sum(p[j] * v[j][at + c] for j in range(i + 1)) / sum(p) for c in range(size)]
        out.append(row)
    return out


ACTIVATIONS = {
    "silu": lambda g, u: g / (1 + math.exp(-g)) * u,
    "relu": lambda g, u: max(g, 0.0) * u,
    "drelu": lambda g, u: max(g, 0.0) * max(u, 0.0),
}


def forward(g, ids, act):
    """Logits of a GGUF file (GgufFile), one position after the other, as one flat list."""
    t, key = Tensors(g), lambda name: g.keys["llama." + name]
    heads, kv_heads, eps = key("attention.head_count"), key("attention.head_count_kv"), key("attention.layer_norm_rms_epsilon")
    size, base = key("embedding_length") // heads, key("rope.freq_base")
    divisors = t["rope_freqs.weight"][0] if "rope_freqs.weight" in g.tensors else [1.0] * (size // 2)
    embedding = t["token_embd.weight"]
    x = [embedding[i] for i in ids]
    for layer in range(key("block_count")):
        def w(name, layer=layer):
            return t[f"blk.{layer}.{name}.weight"]

        y = norm(x, w("attn_norm")[0], eps)
        q, k, v = (times(w("attn_" + name), y) for name in "qkv")
        q, k = ([rotate(r, at, size, base, divisors) for at, r in enumerate(m)] for m in (q, k))
        x = [list(map(float.__add__, a, b)) for a, b in zip(x, times(w("attn_output"), attend(q, k, v, heads, kv_heads, size)))]
        y = norm(x, w("ffn_norm")[0], eps)
        h = [list(map(ACTIVATIONS[act], a, b)) for a, b in zip(times(w("ffn_gate"), y), times(w("ffn_up"), y))]
        x = [list(map(float.__add__, a, b)) for a, b in zip(x, times(w("ffn_down"), h))]
    output = t["output.weight"] if "output.weight" in g.tensors else embedding
    return [logit for row in times(output, norm(x, t["output_norm.weight"][0], eps)) for logit in row]
