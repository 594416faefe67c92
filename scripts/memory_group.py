# SPDX-License-Identifier: MIT
"""Run a program within a limit of memory, page cache included: a memory cgroup of its own, version 1 or 2.

Page cache belongs to the group that touched a page first, so what was cached earlier has to be dropped before. A group is a
child of the one that this process is in, which only narrows what it inherits; with version 2, where a group that holds
processes cannot have limited children, a child of the nearest one above that can.
"""
import os
import shlex
import subprocess
import sys
import tempfile
import threading

FILES = {1: {"limit": "memory.limit_in_bytes", "swap": "memory.memsw.limit_in_bytes", "peak": "memory.max_usage_in_bytes",
             "kills": "memory.oom_control"},
         2: {"limit": "memory.max", "swap": "memory.swap.max", "peak": "memory.peak", "kills": "memory.events"}}


def words_of(path):
    """The words of a small file, none when it cannot be read."""
    try:
        with open(path) as f:
            return f.read().split()
    except OSError:
        return []


def find(root="/sys/fs/cgroup", own="/proc/self/cgroup"):
    """(version, folder) below which a group with a limit of memory can be made, or None. own: the file of one's groups."""
    try:
        with open(own) as f:
            lines = [line.rstrip("\n").split(":", 2) for line in f]
    except OSError:
        return None
    for _, controllers, path in lines:
        if "memory" in controllers.split(","):
            return next(((1, folder) for folder in up(os.path.join(root, "memory"), path)
                         if os.path.exists(os.path.join(folder, FILES[1]["limit"]))), None)
    for number, controllers, path in lines:
        if number == "0" and not controllers:
            return next(((2, folder) for folder in up(root, path)
                         if "memory" in words_of(os.path.join(folder, "cgroup.subtree_control"))), None)
    return None


def up(root, path):
    """The folder of a group and those above it, up to the root. In a container the inner ones may be missing."""
    parts = [part for part in path.split("/") if part and part != ".."]
    while True:
        yield os.path.join(root, *parts)
        if not parts:
            return
        parts.pop()


class Group:
    """A group with a limit in bytes, for `with`; OSError when it cannot be made."""

    def __init__(self, place, limit):
        self.version, parent = place
        self.files = FILES[self.version]
        self.folder = os.path.join(parent, f"bench_flash.{os.getpid()}")
        self.limit = limit

    def put(self, name, value):
        with open(os.path.join(self.folder, name), "w") as f:
            f.write(str(value))

    def __enter__(self):
        os.mkdir(self.folder)
        try:
            self.put(self.files["limit"], self.limit)
            if os.path.exists(os.path.join(self.folder, self.files["swap"])):
                self.put(self.files["swap"], self.limit if self.version == 1 else 0)
        except OSError:
            os.rmdir(self.folder)
            raise
        return self

    def __exit__(self, *_):
        try:
            if self.version == 1:
                self.put("memory.force_empty", 0)  # else its page cache moves to the parent
            os.rmdir(self.folder)
        except OSError:
            pass  # an empty group does no harm

    def command(self, command):
        """The command that enters the group first."""
        return ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', os.path.join(self.folder, "cgroup.procs")] + command

    def peak(self):
        """Most bytes used, page cache included; None when the kernel does not say."""
        words = words_of(os.path.join(self.folder, self.files["peak"]))
        return int(words[0]) if words else None

    def kills(self):
        """Processes that the kernel killed for lack of memory."""
        words = words_of(os.path.join(self.folder, self.files["kills"]))
        return int(words[words.index("oom_kill") + 1]) if "oom_kill" in words else 0


def drop_caches(paths, whole):
    """Drop what the page cache holds of these files; whole: of all files, which only root may. False when that was refused."""
    os.sync()
    for path in paths:
        with open(path, "rb") as f:
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if whole:
        try:
            with open("/proc/sys/vm/drop_caches", "w") as f:
                f.write("3\n")
        except OSError:
            return False
    return True


def run(command, seconds, group=None):
    """Run a command for `seconds` at most; returns a dict: code (negative: the signal), late, out, err, peak (resident bytes), kills,
    and group_peak (bytes with page cache, None without a group)."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(group.command(command) if group else command, stdout=out, stderr=err, stdin=subprocess.DEVNULL)
        late = threading.Event()
        timer = threading.Timer(seconds, lambda: (late.set(), child.kill()))
        timer.start()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        timer.cancel()
        out.seek(0), err.seek(0)
        return {"code": child.returncode, "late": late.is_set() and child.returncode != 0, "out": out.read().decode(errors="replace"),
                "err": err.read().decode(errors="replace"), "peak": usage.ru_maxrss * 1024,
                "kills": group.kills() if group else 0, "group_peak": group.peak() if group else None}


def read_whole(path):
    """Into the page cache, as far as it goes."""
    with open(path, "rb", buffering=0) as f:
        buffer = memoryview(bytearray(4 << 20))
        while f.readinto(buffer):
            pass


def run_cold(command, args, place, limit, read=None):
    """Run a command as a script with options --gguf, --bin, --drop and --limit (and args.told, false at first) wants it: with its models out of the page
    cache, except `read`, which is read into it (a mapped model that is to be in memory), in a group of `limit` bytes (0, or no place for one: in
    none). Returns run's dict and the reason of a failure, None without one."""
    if not drop_caches({args.gguf, args.bin} - {None}, args.drop == "all") and not args.told:
        args.told = True
        print("only root may drop the whole page cache; the models are dropped from it", file=sys.stderr)
    if read:
        read_whole(read)
    try:
        if place and limit:
            with Group(place, limit) as group:
                done = run(command, args.limit, group)
        else:
            done = run(command, args.limit)
    except OSError as error:
        sys.exit(f"cannot run {shlex.join(command)}: {error}")
    if not done["code"]:
        return done, None
    last = (done["err"].strip().splitlines() or ["nothing said"])[-1]
    return done, f"over {args.limit:g} s" if done["late"] else "out of memory" if done["kills"] else f"code {done['code']}: {last[:100]}"
