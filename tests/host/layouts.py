"""Disk layouts made by the real tools, for test_layouts.py and test_undo.py."""

import os
import shutil
import struct
import subprocess
from pathlib import Path

import layouts_raw as raw
import pytest

SIZE = 320 << 20  # the least that mkfs.xfs takes is 300 MiB; the files are sparse
ADMIN = "/usr/sbin:/sbin"
PACKAGES = Path(__file__).parents[2] / "host_tools/packages-test.txt"


def tool(name):
    """Where a tool is; skips the test when it is not installed."""
    path = shutil.which(name) or shutil.which(name, path=ADMIN)
    if not path:
        pytest.skip(f"{name} is not installed: install the packages of {PACKAGES}")
    return path


def run(name, *arguments, stdin=None):
    """Run a tool; it must succeed. Gives its output."""
    command = [tool(name), *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{name} {arguments}: {done.stdout}{done.stderr}"
    return done.stdout


def blank(path, size=SIZE):
    with open(path, "wb") as file:
        file.truncate(size)


def put(path, parts):
    with open(path, "r+b") as file:
        for at, data in parts:
            file.seek(at)
            file.write(data)


def sfdisk(label, script=""):
    def make(path):
        blank(path)
        run("sfdisk", "--quiet", path, stdin=f"label: {label}\n{script}")

    return make


def sgdisk(*arguments):
    def make(path):
        blank(path)
        run("sgdisk", "--clear", *arguments, path)

    return make


def parted(*arguments):
    def make(path):
        blank(path)
        run("parted", "--script", path, *arguments)

    return make


def mkfs(*command):
    def make(path):
        blank(path)
        run(*command, path)

    return make


def luks(version):
    def make(path):
        blank(path)
        key = path.with_suffix(".key")
        key.write_text("secret")
        kdf = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]
        run("cryptsetup", "luksFormat", "-q", "--type", version, *kdf, path, key)

    return make


def raw_parts(function, *arguments, **keywords):
    def make(path):
        blank(path)
        put(path, function(SIZE, *arguments, **keywords))

    return make


def disk_file(path, drive):
    """What a simulated disk of tests/fakes holds, as an image."""
    with open(path, "wb") as file:
        file.truncate(drive.count * drive.size)
        for lba, data in drive.sectors.items():
            file.seek(lba * drive.size)
            file.write(bytes(data))


def then(*steps):
    """Do all, one after the other."""

    def make(path):
        for step in steps:
            step(path)

    return make


def also_sgdisk(*arguments):
    """Change the table that is there."""
    return lambda path: run("sgdisk", *arguments, path)


def shrunk(count):
    """The disk without its last bytes."""

    def make(path):
        with open(path, "r+b") as file:
            file.truncate(SIZE - count)

    return make


def garbage(*places):
    """(byte offset, size): random bytes there; a negative offset counts from the end."""

    def make(path):
        size = path.stat().st_size
        put(path, [(at % size, os.urandom(length - 1) + b"x") for at, length in places])

    return make


def zeroed(*places):
    def make(path):
        size = path.stat().st_size
        put(path, [(at % size, bytes(length)) for at, length in places])

    return make


def mkfs_in(partition_lba, sectors, *command):
    """Make a file system in a partition: in a file of its own, then copied."""

    def make(path):
        part = path.with_suffix(".part")
        blank(part, sectors * 512)
        run(*command, part)
        put(path, [(partition_lba * 512, part.read_bytes())])

    return make


def mbr_entry(index, kind, first, count):
    entry = struct.pack("<B3sB3sII", 0, b"", kind, b"", first, count)
    return lambda path: put(path, [(446 + 16 * index, entry), (510, b"\x55\xaa")])


def grown(path):
    with open(path, "r+b") as file:
        file.truncate(SIZE + (64 << 20))


MBR_ONE = sfdisk("dos", "2048,40960,83\n")
GPT_ROOM = sfdisk("gpt", "2048,81920\n83968,40960\n")
LINUX = raw.LINUX
