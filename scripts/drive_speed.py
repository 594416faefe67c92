# SPDX-License-Identifier: MIT
"""How fast a file can be read past the page cache: in order by 1 MiB, and blocks of one size anywhere.

fio measures both. Without it Python measures reading in order only: its reads of some KiB cost more than those of a good drive.
"""
import json
import mmap
import os
import shutil
import subprocess
import time

PIECE = 1 << 20
DEPTH = 64  # reads in flight


def fio(path, seconds, jobs, *more):
    """The part "read" of fio's answer, or None when it fails."""
    for engine, depth in (("io_uring", DEPTH), ("libaio", DEPTH), ("psync", 1)):
        command = ["fio", "--name=read", f"--filename={path}", "--readonly", "--direct=1", f"--ioengine={engine}", f"--numjobs={jobs}",
                   "--group_reporting", f"--runtime={seconds:g}", "--time_based", "--output-format=json", f"--iodepth={depth}", *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        try:
            read = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]["read"]
        except (ValueError, KeyError, IndexError):
            continue
        if done.returncode == 0 and read["iops"] > 0:
            return read
    return None


def python_in_order(path, seconds):
    """Bytes a second of 1 MiB reads one after the other; None when the file system has no direct reads."""
    buffer = mmap.mmap(-1, PIECE)
    try:
        file = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        return None
    try:
        at, total, start = 0, 0, time.monotonic()
        while time.monotonic() - start < seconds:
            n = os.preadv(file, [buffer], at)
            total += n
            at = at + n if n == PIECE else 0  # again from the beginning
            if n == 0 and total == 0:
                return None
        return total / (time.monotonic() - start)
    except OSError:
        return None
    finally:
        os.close(file)


def anywhere(path, block, seconds, jobs):
    """Random reads of `block` bytes a second, None when fio is not there or fails. Other places every time: below a virtual drive may be a cache."""
    read = fio(path, seconds, jobs, "--rw=randread", f"--bs={block}", "--norandommap", "--randrepeat=0") if shutil.which("fio") else None
    return float(read["iops"]) if read else None


def measure(path, block, seconds, jobs):
    """{"sequential": bytes a second, "iops": random reads of `block` bytes a second, "how": the program}; None for what is not known."""
    if shutil.which("fio"):
        in_order = fio(path, seconds, 1, "--rw=read", "--bs=1M")
        iops = anywhere(path, block, seconds, jobs)
        if in_order and iops:
            return {"sequential": float(in_order["bw_bytes"]), "iops": iops, "how": "fio"}
    return {"sequential": python_in_order(path, seconds), "iops": None, "how": "python"}


def better(a, b):
    """The better values of two measurements; a may be None."""
    if a is None:
        return b
    most = {key: max((d[key] for d in (a, b) if d[key] is not None), default=None) for key in ("sequential", "iops")}
    return {**most, "how": b["how"]}
