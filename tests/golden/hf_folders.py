"""Changed copies of Hugging Face folders."""
import json
import struct


def copy(folder, to, **config):
    """A folder with some things in its configuration changed."""
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    (to / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | config))
    return to


def move_scales(folder):
    """Puts the scales of MXFP4 into a shard of their own."""
    raw = (folder / "model.safetensors").read_bytes()
    n, = struct.unpack_from("<Q", raw)
    shards, where = {"a.safetensors": {}, "b.safetensors": {}}, {}
    for name, t in json.loads(raw[8:8 + n]).items():
        if name != "__metadata__":
            where[name] = "b.safetensors" if name.endswith("_scales") else "a.safetensors"
            shards[where[name]][name] = t, raw[8 + n + t["data_offsets"][0]:8 + n + t["data_offsets"][1]]
    for file, tensors in shards.items():
        header, data = {}, b""
        for name, (t, part) in tensors.items():
            header[name] = t | {"data_offsets": [len(data), len(data) + len(part)]}
            data += part
        text = json.dumps(header).encode()
        (folder / file).write_bytes(struct.pack("<Q", len(text)) + text + data)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return folder
