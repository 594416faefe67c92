# SPDX-License-Identifier: MIT
"""The header of a GGUF v3 file that a program of ours wrote: for scripts, which trust it. Nothing beyond Python is needed."""
import mmap
import struct

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
# Number of a type: values in a block, bytes of a block.
BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 8: (32, 34), 12: (256, 144), 14: (256, 210), 24: (1, 1), 26: (1, 4), 30: (1, 2)}


class GgufFile:
    """`keys`: name to value. `tensors`: name to (dimensions with the row length first, type, offset from `data`). `map`: the file."""

    def __init__(self, path):
        with open(path, "rb") as f:
            if f.read(8) != b"GGUF\3\0\0\0":
                raise ValueError("no GGUF v3 file")
            self.map = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        self.at = 8
        count, pairs = self.scalar("<Q"), self.scalar("<Q")
        self.keys, self.tensors = {}, {}
        for _ in range(pairs):
            name = self.text()
            self.keys[name] = self.value(self.scalar("<I"))
        for _ in range(count):
            name = self.text()
            dims = [self.scalar("<Q") for _ in range(self.scalar("<I"))]
            self.tensors[name] = dims, self.scalar("<I"), self.scalar("<Q")
        align = self.keys.get("general.alignment", 32)
        self.data = (self.at + align - 1) // align * align

    def scalar(self, form):
        value, = struct.unpack_from(form, self.map, self.at)
        self.at += struct.calcsize(form)
        return value

    def text(self):
        size = self.scalar("<Q")
        self.at += size
        return self.map[self.at - size:self.at].decode()

    def value(self, code):
        if code == 9:
            kind = self.scalar("<I")
            return [self.value(kind) for _ in range(self.scalar("<Q"))]
        return self.text() if code == 8 else self.scalar(SCALARS[code])

    def tensor_bytes(self, name):
        """Bytes of a tensor's data."""
        dims, kind, _ = self.tensors[name]
        if kind not in BLOCKS:
            raise ValueError(f"{name} has type {kind}, which the scripts do not know")
        count = 1
        for n in dims:
            count *= n
        return count // BLOCKS[kind][0] * BLOCKS[kind][1]
