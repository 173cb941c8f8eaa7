"""A rig: a QEMU board with its own copies of flash and disks, and what tests do to them."""

import hashlib
import os
import random
import re
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fakes import signer
from lifeboat_host.base import tree
from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import evidence, image, region
from lifeboat_host.pico.board import make
from lifeboat_host.qemu import board_spec
from lifeboat_host.qemu.machine import machine_arguments

MB = 1 << 20
DISK = 256 * MB  # SD cards want a power of two

APP = """
import os
print("app: running in", os.getcwd())
"""


def firmware_bytes(size, seed):
    """Real firmware bytes of that size where set-up fetched some, in an order of its own."""
    payload = tree.cache() / "payload" / "os.bin"
    rng = random.Random(seed)
    if not payload.is_file():
        return rng.randbytes(size)
    data = payload.read_bytes()
    out = bytearray()
    while len(out) < size:
        start = rng.randrange(len(data) // 2)
        out += rng.randbytes(16) + data[start:]
    return bytes(out[:size])


class Rig:
    """Media in a folder. blocks and code tell what the image takes up in the flash."""

    def __init__(self, spec, folder):
        self.spec = spec
        self.folder = Path(folder)
        self.flash = self.folder / "flash.img"
        self.drives = []
        self.app_source = APP
        self.good = b""
        self.blocks = 0

    @property
    def small(self):
        """A board whose code flash is a part of a microcontroller's: sizes shrink as it is."""
        return self.spec.flash_kind == "port"

    @property
    def most_disks(self):
        """How many disks the tests attach where any number will do: two, or all that fit."""
        return 1 if self.spec.disk_kind == "sd" else 2

    def disk_name(self, i):
        """What the board calls its disk number i."""
        return f"{self.spec.disk_kind}{i}"

    @property
    def manifest_block(self):
        return self.spec.flash_size // self.spec.block_size - 1

    @property
    def manifest_at(self):
        """Byte offset of the manifest block."""
        return self.manifest_block * self.spec.block_size

    @property
    def memory_range(self):
        """Bytes [start, end) of the controller's memory in the flash: two mirrors."""
        block = self.spec.block_size
        mirror = (64 * 256 + block - 1) // block * block
        return self.manifest_at - 2 * mirror, self.manifest_at

    def content(self):
        """The flash without the memory, which is the controller's own: blank in its place."""
        data = bytearray(self.flash.read_bytes())
        start, end = self.memory_range
        data[start:end] = b"\xff" * (end - start)
        return data

    def make_image(self, size, version="1.0", seed=1, blank_blocks=()):
        """Put an image with about `size` bytes of embedded code into the flash."""
        app = self.folder / "app"
        app.mkdir(exist_ok=True)
        (app / "main.py").write_text(self.app_source)
        block = self.spec.block_size
        if self.small:
            # Its emulator runs some three million instructions a second.
            size = max(size // 64, 3 * block)
        os_size = min(size, self.memory_range[0]) - block
        os_bytes = bytearray(firmware_bytes(os_size, seed))
        for i in blank_blocks:
            os_bytes[i * block : (i + 1) * block] = b"\xff" * block
        (self.folder / "os.bin").write_bytes(os_bytes)
        made = image.build(
            [
                image.Source("os", self.folder / "os.bin"),
                image.Source("rom", app),
            ],
            self.flash,
            product=self.spec.product,
            version=version,
            flash_size=self.spec.flash_size,
            block_size=block,
        )
        if self.spec.policy == board_spec.SIGNED:
            self.sign()
        self.good = self.flash.read_bytes()
        self.blocks = made.block_count
        return made

    def sign(self, key=None, **what):
        """Sign the image in the flash; key: the demo's, if absent; what: as Key.manifest() has."""
        data = bytearray(self.flash.read_bytes())
        raw = data[self.manifest_at :]
        total, signature = (int.from_bytes(raw[at : at + 4], "little") for at in (12, 28))
        raw = bytes(raw[: total - 4 - signature]) + bytes(4)
        raw = (key or signer.demo_key("code")).manifest(raw, **what)
        assert len(raw) <= self.spec.block_size
        data[self.manifest_at :] = raw.ljust(self.spec.block_size, b"\xff")
        self.flash.write_bytes(data)

    def add_disks(self, count=None, sizes=(DISK,)):
        """Add disks (default: most_disks) with regions of one set; sizes: used in turn."""
        count = count or self.most_disks
        paths = [self.blank_disk(sizes[i % len(sizes)]) for i in range(count)]
        need = region.slot_size_for(self.spec.flash_size, self.spec.block_size)
        with ExitStack() as stack:
            opened = [stack.enter_context(Disk(p, write=True)) for p in paths]
            headers = region.new_set(opened, region.TAIL, need=need)
            for disk, header in zip(opened, headers):
                region.create(disk, header)

    def blank_disk(self, size=DISK):
        """Add a sparse disk full of zeros."""
        path = self.folder / f"disk{len(self.drives)}.img"
        with open(path, "wb") as f:
            f.truncate(size)
        self.drives.append(path)
        return path

    def board(self, drives=None, flash=None, **kwargs):
        """The board with these media, off."""
        drives = self.drives if drives is None else drives
        if self.small:
            if any(d is not None and not isinstance(d, (str, os.PathLike)) for d in drives):
                pytest.skip("this emulator takes disks in files only")
            if "icount" in kwargs:
                pytest.skip("this emulator does not count instructions")
        return make(flash or self.flash, drives, spec=self.spec, **kwargs)

    def power_on(self, drives=None, app=True, **kwargs):
        """One power-on up to the application or the prompt; its report, and the console."""
        with self.board(drives, **kwargs) as board:
            report = board.power_on_report()
            board.wait_for("app: running" if app and report["verdict"] != "RESCUE" else ">>> ")
            if self.small:
                assert board.complaints() == []
            return report, board.console

    def heal(self, **kwargs):
        """A power-on that must end with the original code running. Returns the report."""
        report, console = self.power_on(**kwargs)
        assert report["verdict"] == "RUN", report
        assert self.content() == self.good
        assert "app: running" in console
        return report

    def damage(self, *changes):
        """Overwrite flash: (offset, bytes)...; returns the blocks that now differ."""
        with open(self.flash, "r+b") as f:
            for offset, data in changes:
                f.seek(offset)
                f.write(data)
        return self.differing()

    def differing(self):
        """Blocks in which the flash is not the original image."""
        size = self.spec.block_size
        now = self.content()
        return [
            i for i in range(len(now) // size)
            if now[i * size : (i + 1) * size] != self.good[i * size : (i + 1) * size]
        ]  # fmt: skip

    def hashes(self):
        """SHA-256 of the data of every medium."""
        return [data_hash(path) for path in [self.flash, *self.drives]]

    def hashes_but_journals(self):
        """The same without the journals and the evidence of what a power-on found and refused."""
        members = [data_hash(path, self.journal_range(path)) for path in self.drives]
        return [data_hash(self.flash), *members]

    def journal_range(self, path):
        """Bytes [start, end) of the journal on a disk and of the evidence behind it; nothing when
        it has no region."""
        with Disk(path) as disk:
            try:
                header = region.find(disk).header
            except LifeboatError:
                return 0, 0
            start, pages = header.journal
            end = start + pages * 4096
            ring = evidence.ring(header)
            return start, ring[0] + ring[1] * 4096 if ring else end

    def copies(self, path):
        """What the host tools find on a disk: the committed slots, and the bad blocks of each."""
        with Disk(path) as disk:
            slots = region.read_slots(disk, region.find(disk).header)
            checks = region.verify(disk, slots)
        return {check.manifest.version: check.bad for check in checks}

    def block_place(self, path, block):
        """Byte offset on a disk of a block of its newest copy."""
        with Disk(path) as disk:
            newest = region.newest(region.read_slots(disk, region.find(disk).header))
            return region.block_offset(newest.offset, newest.manifest, block)

    def rot(self, path, block, data=b"rotten"):
        """Damage a block of the newest copy on a disk."""
        place = self.block_place(path, block)
        with open(path, "r+b") as f:
            f.seek(place + 1000)
            f.write(data)

    def region_range(self, path):
        """Bytes [start, end) of the region on a disk."""
        with Disk(path) as disk:
            header = region.find(disk).header
            start = header.start_lba * header.lba_size
            return start, start + header.size

    def copy_to(self, folder):
        """A rig with copies of all media."""
        other = Rig(self.spec, folder)
        other.good, other.blocks = self.good, self.blocks
        for path in [self.flash, *self.drives]:
            copy = other.folder / path.name
            subprocess.run(["cp", "--sparse=always", str(path), str(copy)], check=True)
        other.drives = [other.folder / path.name for path in self.drives]
        return other


@contextmanager
def pty_board(rig):
    """Start the rig's board with its console on a pty; gives (the pty's path, the process)."""
    if rig.small:
        with pico_pty(rig) as started:
            yield started
        return
    command = machine_arguments(rig.spec, rig.flash, rig.drives)
    process = subprocess.Popen(
        [*command, "-serial", "pty"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield re.search(r"/dev/\S+", process.stdout.readline()).group(), process
    finally:
        process.terminate()  # unlike kill(), it lets QEMU end its writes
        process.wait()
        process.stdout.close()


@contextmanager
def pico_pty(rig, timeout=120):
    """The same for a Pico, when it listens: mpremote waits ten seconds for an answer."""
    name, log = rig.folder / "pty", rig.folder / "console.log"
    name.unlink(missing_ok=True)
    command = machine_arguments(rig.spec, rig.flash, rig.drives)
    with open(log, "wb") as file:
        process = subprocess.Popen([*command, "--pty", str(name)], stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + timeout
        while b">>> " not in log.read_bytes():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield name.read_text(), process
    finally:
        process.terminate()
        process.wait()


def extents(path):
    """(start, end) of the parts of a sparse file that may hold data."""
    with open(path, "rb") as f:
        size = os.fstat(f.fileno()).st_size
        end = 0
        while end < size:
            try:
                start = os.lseek(f.fileno(), end, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(f.fileno(), start, os.SEEK_HOLE)
            yield start, end


def data_hash(path, but=(0, 0)):
    """SHA-256 over offset and content of every 4 KiB piece that is not zero.

    but: bytes [start, end) that do not count.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        for start, end in extents(path):
            f.seek(start)
            for offset in range(start, end, 4096):
                piece = f.read(min(4096, end - offset))
                if piece.strip(b"\0") and not but[0] <= offset < but[1]:
                    digest.update(b"%d:" % offset + piece)
    return digest.hexdigest()
