"""What is fuzzed, and what must hold whatever the bytes are.

A target is a function of bytes; it fails by an exception. Those of whole power-ons take the bytes
as a list of changes to devices that hold good records, and make checksums right again, so that
they come past them. Bytes are read by Reader, which never runs out: zeros follow.
"""

from __future__ import annotations

import contextlib
import io
import json
import struct
import tempfile
from binascii import crc32
from functools import lru_cache, partial
from pathlib import Path

import fakes.deflate  # noqa: F401 - the agent needs it
import lifeboat
from fakes import board as boards
from fakes import gpt, scenarios, signer, updates
from fakes import memory as records
from fakes.scenarios import NEW, OLD
from lifeboat import journal, lms, running, trial
from lifeboat import line as lines
from lifeboat import region as regions
from lifeboat.agent import Agent
from lifeboat.blockdev import Window
from lifeboat.errors import LifeboatError
from lifeboat.manifest import Manifest
from lifeboat.memory import Memory
from lifeboat.owner import KeySet
from lifeboat_host.commands.main import main
from sim.disk import RamDisk
from sim.nor import RamFlash
from sim.power import Power

BLOCKS = boards.BLOCKS - 1


class Reader:
    """Values out of the bytes of an input."""

    def __init__(self, data):
        self._data, self._at = data, 0

    def bytes(self, size):
        found = self._data[self._at : self._at + size]
        self._at += size
        return found + bytes(size - len(found))

    def number(self, below):
        size = max(1, (below.bit_length() + 7) // 8)
        return int.from_bytes(self.bytes(size), "little") % below

    def choice(self, items):
        return items[self.number(len(items))]

    @property
    def rest(self):
        return self._data[self._at :]

    @property
    def empty(self):
        return self._at >= len(self._data)


@contextlib.contextmanager
def quiet():
    """What is printed is of no use here."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        yield said
    running.attended = trial.staging = False
    running.disk_calls = 0


def change(reader, data, crc_at=None):
    """Return bytes with a few fields changed; crc_at: where the CRC-32 of all before it stands."""
    data = bytearray(data)
    for _ in range(1 + reader.number(4)):
        size = (1, 2, 4, 8, 16)[reader.number(5)]
        at = reader.number(max(1, min(len(data) - size, 512)))
        data[at : at + size] = (reader.bytes(size), b"\xff" * size, bytes(size))[reader.number(3)]
    if crc_at and reader.number(8):
        struct.pack_into("<I", data, crc_at, crc32(data[:crc_at]))
    return bytes(data)


# --- the device's parsers ------------------------------------------------------------------


def manifest(data):
    """A manifest: any bytes, or a good one with changes and right sums."""
    reader = Reader(data)
    if reader.number(4):
        raw = change(reader, reader.choice(_manifests()))
    else:
        raw = reader.rest
    summed = raw[:-4] + struct.pack("<I", crc32(raw[:-4])) if len(raw) > 4 else raw
    for one in (raw, summed):
        with contextlib.suppress(LifeboatError):
            found = Manifest(bytes(one))
            assert crc32(one[:-4]) == int.from_bytes(one[-4:], "little")
            assert found.block_count * found.block_size <= 1 << 48
            assert 128 + 36 * found.block_count < len(one)
            for segment in found.segments:
                assert len(segment) == 4


@lru_cache(None)
def _manifests():
    plain = updates.manifest_of(NEW)
    two = boards.manifest(bytes(8192), version="3.0", memory=8)
    return (
        plain,
        two,
        signer.key(1).manifest(plain, signer.key_set(1, (signer.ALL, signer.key(1)))),
    )


def region(data):
    """The search for a region, and its records, on a disk of 1 MB."""
    reader = Reader(data)
    disk = _media()[0]
    disk = RamDisk("d", disk.count, size=disk.size)
    disk.sectors = dict(_media()[0].sectors)
    first = scenarios.region_of(disk) // 512
    places = [first, disk.count - 16, disk.count - 8, 0, 1, 2, first + 8]
    for _ in range(1 + reader.number(3)):
        lba = reader.choice(places)
        old = disk.sectors.get(lba, bytes(512))
        disk.sectors[lba] = change(reader, old, 508)
    lbas = [reader.number(disk.count)]
    with contextlib.suppress(LifeboatError):
        found = regions.find(disk, lbas, bytearray(4096), ())
        if found:
            assert 0 < found.start < found.end <= disk.count
            for slot in range(found.slots):
                found.commit(slot, bytearray(4096))
    assert not disk.written


def partitions(data):
    """A partition table: any bytes, or a good one with changes and right sums."""
    reader = Reader(data)
    disk = RamDisk("d", 4096)
    if reader.number(4):
        gpt.both(disk, [(gpt.LINUX, 64, 127), (gpt.LIFEBOAT, 256, 511)])
        for _ in range(1 + reader.number(3)):
            lba = reader.choice((0, 1, 2, 3, disk.count - 1))
            disk.sectors[lba] = change(reader, disk.sectors.get(lba, bytes(512)))
        for lba in (1, disk.count - 1):
            _sum_table(disk, lba)
    else:
        rest = reader.rest
        for lba in range(min(40, len(rest) // 512 + 1)):
            piece = rest[lba * 512 : (lba + 1) * 512]
            disk.sectors[lba] = piece + bytes(512 - len(piece))
    for match in (lambda *_: True, lambda *_: False):
        regions.partitions(disk, match, bytearray(4096))
    regions.reaches(disk.sectors.get(0, bytes(512)), 64, 128)
    with contextlib.suppress(LifeboatError):
        regions.find(disk, (), bytearray(4096), ())
    assert not disk.written


# Make the sum of a table's header right.
def _sum_table(disk, lba):
    header = bytearray(disk.sectors.get(lba, bytes(512)))
    size = struct.unpack_from("<I", header, 12)[0]
    if 16 < size <= 512:
        struct.pack_into("<I", header, 16, 0)
        struct.pack_into("<I", header, 16, crc32(header[:size]))
    disk.sectors[lba] = bytes(header)


def memory(data):
    """The controller's memory: pages of records, with right sums and without."""
    reader = Reader(data)
    pages = [records.header()]
    while not reader.empty and len(pages) < 60:
        kind = 1 + reader.number(12)
        payload = reader.bytes(reader.choice((0, 4, 36, 88, 240)))
        page = records.record(kind, reader.number(70), payload[:240])
        pages.append(change(reader, page, 252) if reader.number(2) else page)
    one = records.mirror(pages)
    two = one if reader.number(2) else change(reader, one[:512]) + one[512:]
    nor = RamFlash(bytearray(one + two), 4096)
    found = Memory(Window(nor, 0, len(nor.data) // nor.size), 256)
    for _ in found.verify():
        pass
    if found.state == "ok":
        with contextlib.suppress(LifeboatError):
            found.heal()
            found.add([(6, (1,))])
    trial.Trial(found).describe()


def journals(data):
    """Pages of a journal."""
    reader = Reader(data)
    board = _journalled()
    disk = RamDisk("d", board.drives[0].count)
    disk.sectors = dict(board.drives[0].sectors)
    at = scenarios.slot_of(disk, 2, journal=4)
    for page in range(4):
        old = boards.get(disk, at + page * 4096, 4096)
        if reader.number(3):
            boards.put(disk, at + page * 4096, change(reader, old, 4092))
    found = regions.find(disk, (), bytearray(4096), ())
    for _ in journal.entries(found, bytearray(4096)):
        pass


def keys(data):
    """Key sets, and signatures under a key that is right."""
    with contextlib.suppress(ValueError):
        KeySet(data)
    reader = Reader(data)
    public = signer.key(1).public
    if reader.number(2):
        public = change(reader, public)
    assert (
        not lms.verify(public, reader.rest, b"nobody signed this")
        or public != signer.key(1).public
    )


class End(BaseException):
    """There is nothing more on the line."""


class Typed(lines.Line):
    """A line with all that the host has typed."""

    def __init__(self, data):
        self.left = data

    def guard(self, on):
        pass

    def read(self, buf):
        if len(self.left) < len(buf):
            raise End
        buf[:] = self.left[: len(buf)]
        self.left = self.left[len(buf) :]

    def write(self, data):
        pass

    def drain(self):
        self.left = b""


CALLS = (
    "identify", "code", "compare", "used", "offer", "blocks", "finish", "members", "check_copy",
    "adopt", "drill", "show", "log", "disks", "disk_allow", "disk_read", "disk_write",
    "disk_flush", "disk_first_nonzero", "memory", "remember", "rollback", "stage", "gather",
    "needed", "put", "commit", "arm", "trial", "accept", "confirm", "reject",
)  # fmt: skip


def agent(data):
    """A session of the host: calls with any arguments, then whatever comes on the line."""
    reader = Reader(data)
    board = boards.SimBoard(bytearray(NEW))
    for disk, held in zip(board.drives, _media()):
        disk.sectors = dict(held.sectors)
    good = {bytes(NEW[at : at + boards.ERASE]) for at in range(0, len(NEW), boards.ERASE)}
    calls = [
        (reader.choice(CALLS), [_argument(reader) for _ in range(reader.number(5))])
        for _ in range(1 + reader.number(4))
    ]
    session = Agent(board, Typed(reader.rest))
    flashing = any(name in ("blocks", "finish", "drill", "rollback") for name, _ in calls)
    for name, arguments in calls:
        try:
            session.call(name, *arguments)
        except (End, ValueError, TypeError, LookupError, AttributeError, KeyboardInterrupt):
            pass  # the host ends such a session
    if not flashing:
        content = board.nor.data
        assert all(
            bytes(content[at : at + boards.ERASE]) in good
            for at in range(0, len(content), boards.ERASE)
        )
    allowed = any(name == "disk_allow" for name, _ in calls)
    for disk in board.drives:
        first = scenarios.region_of(disk) // 512
        assert allowed or all(lba >= first for lba in disk.written)


def _argument(reader):
    return reader.choice(
        (
            lambda: reader.number(256),
            lambda: reader.number(1 << 32),
            lambda: -1,
            lambda: "disk0",
            lambda: reader.bytes(reader.number(20)).decode("latin-1"),
            lambda: None,
            lambda: [[reader.number(2000), reader.number(2000)]],
            lambda: "53" * 16,
        )
    )()


# --- whole power-ons -----------------------------------------------------------------------


@lru_cache(None)
def _media():
    with quiet():
        return updates.running_old(NEW).drives


@lru_cache(None)
def _journalled():
    with quiet():
        return updates.running_old(NEW, journal=4)


@lru_cache(None)
def _bases():
    with quiet():
        plain = updates.running_old()
        both = updates.running_old()
        both.nor.data[:] = NEW
        lifeboat.power_on(both)
        armed = updates.running_old()
        updates.stage_new(armed)
        tried = updates.running_old()
        updates.stage_new(tried)
        tried.supply(Power())
        lifeboat.power_on(tried)
    return [
        (bytes(b.nor.data), bytes(b.chip.data), [dict(d.sectors) for d in b.drives])
        for b in (plain, both, armed, tried)
    ]


def _machine(reader):
    flash, chip, media = reader.choice(_bases())
    board = boards.SimBoard(bytearray(flash), remembers="nothing")
    board.chip.data[:] = chip
    for disk, held in zip(board.drives, media):
        disk.sectors = dict(held)
    return board


_KNOWN = {
    (at // boards.ERASE, bytes(image[at : at + boards.ERASE]))
    for image in (OLD, NEW)
    for at in range(0, len(image), boards.ERASE)
}


def _code(content):
    """Return what of a flash is code or manifest; the two blocks between are nobody's."""
    return bytes(content[: 6 * boards.ERASE] + content[scenarios.MANIFEST_AT :])


BUILDS = (_code(OLD), _code(NEW))


def power_on(data):
    """Any state of disks and flash: a verdict, nothing unknown in flash, nothing worse (I1-I12).

    The memory is the controller's own, and whole.
    """
    reader = Reader(data)
    board = _machine(reader)
    kind = reader.number(4)
    if kind & 1:
        _hurt_flash(reader, board)
    for disk in board.drives[: 1 + reader.number(2)]:
        _hurt_disk(reader, disk)
    before = bytes(board.nor.data)
    for disk in board.drives:
        disk.written = set()
        scenarios.bound_reads(disk)
    with quiet():
        report = lifeboat.power_on(board)
    after = bytes(board.nor.data)
    assert "internal" not in [code for code, _, _ in report.data["reasons"]], report.data
    size = boards.ERASE
    for n in range(boards.BLOCKS):
        was, now = before[n * size : (n + 1) * size], after[n * size : (n + 1) * size]
        if was != now:
            assert (n, now) in _KNOWN, f"block {n} holds what no known build has"
    if not report.runs:
        # Not worse: a block that was of a build still is.
        for n in range(boards.BLOCKS):
            was, now = before[n * size : (n + 1) * size], after[n * size : (n + 1) * size]
            assert (n, was) not in _KNOWN or (n, now) in _KNOWN, f"block {n} was good"
    else:
        # A manifest that was changed with right sums is another build of the same code.
        at = scenarios.MANIFEST_AT
        assert _code(after) in BUILDS or after[at:] == before[at:], "what runs is no build"
    if _code(before) in BUILDS:
        assert report.runs, report.data  # I6
    for disk in board.drives:
        first = scenarios.region_of(disk) // 512
        assert all(lba >= first for lba in disk.written), "a write outside the region (I3)"
        disk.fault = None


def _hurt_flash(reader, board):
    for _ in range(reader.number(4)):
        at = reader.number(len(board.nor.data) - 8)
        size = 1 + reader.number(8)
        board.nor.data[at : at + size] = reader.bytes(size)
    if reader.number(8) == 1:
        block = reader.number(boards.BLOCKS)
        at = block * boards.ERASE
        board.nor.data[at : at + boards.ERASE] = b"\xff" * boards.ERASE
    if reader.number(8) == 1:
        at = scenarios.MANIFEST_AT
        size = scenarios.MANIFEST_SIZE
        raw = change(reader, board.nor.data[at : at + size], size - 4)
        board.nor.data[at : at + size] = raw


def _hurt_disk(reader, disk):
    start = scenarios.region_of(disk)
    for _ in range(reader.number(5)):
        slot = reader.number(2)
        at = scenarios.slot_of(disk, slot)
        what = reader.number(7)
        if what == 0:
            copies = [start, start + boards.REGION - 8192, start + boards.REGION - 4096]
            unit = change(reader, boards.get(disk, start, 512), 508)
            for place in copies[: 1 + reader.number(3)]:
                boards.put(disk, place, unit)
        elif what == 1:
            boards.put(disk, at, change(reader, boards.get(disk, at, 512), 508))
        elif what == 2:
            size = scenarios.MANIFEST_SIZE
            raw = change(reader, boards.get(disk, at + 4096, 4096)[:size], size - 4)
            boards.put(disk, at + 4096, raw + bytes(4096 - size))
        elif what == 3:
            lba = (at + 69632) // 512 + reader.number(BLOCKS * 8)
            disk.sectors[lba] = change(reader, disk.sectors.get(lba, bytes(512)))
        elif what == 4:  # a slot of the other kind or place
            other = scenarios.slot_of(disk, 1 - slot)
            boards.put(disk, at, boards.get(disk, other, boards.SLOT))
        elif what == 5:  # what parity could be
            place = at + 69632 + 6 * boards.ERASE
            boards.put(disk, place, change(reader, boards.get(disk, place, 512), 508))
        else:
            disk.sectors[reader.number(disk.count)] = reader.bytes(512)


def torn_power_on(data):
    """The same, and a power cut in it; the next power-on makes it right."""
    reader = Reader(data)
    board = _machine(reader)
    if reader.number(2):
        block = reader.number(6)
        board.nor.data[block * boards.ERASE + reader.number(boards.ERASE)] ^= 1 + reader.number(
            255
        )
    with quiet():
        for _ in range(1 + reader.number(3)):
            shape = reader.choice(("half", "front", "begun", "bits", "slow", "weak", False))
            board.supply(Power(1 + reader.number(80), shape))
            with contextlib.suppress(BaseException):
                lifeboat.power_on(board)
            for disk in board.drives:
                disk.settle(reader.choice(("none", "all", "last", "first", "random")), len(data))
        board.supply(Power())
        report = lifeboat.power_on(board)
    assert report.runs, report.data
    assert _code(bytes(board.nor.data)) in BUILDS


# --- the host's commands -------------------------------------------------------------------


@lru_cache(None)
def _folder():
    return Path(tempfile.mkdtemp(prefix="lifeboat-fuzz."))


@lru_cache(None)
def _disk_image():
    disk = _journalled().drives[0]
    raw = bytearray(disk.count * disk.size)
    for lba, data in disk.sectors.items():
        raw[lba * 512 : (lba + 1) * 512] = data
    return bytes(raw)


def command(*arguments):
    """Run a command on a file; it ends with a code, and prints nothing odd."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(map(str, arguments)))
        except SystemExit as stop:
            code = stop.code
        out.flush(), err.flush()
    said = (out.buffer.getvalue() + err.buffer.getvalue()).decode()
    assert code in (0, 1, 3), (arguments, code, said)
    assert "Traceback" not in said
    assert all(c.isprintable() or c in "\n\u00a0\u3000" for c in said), said
    if "--json" in arguments and code in (0, 3):
        json.loads(said)


def host_image(data):
    """An image of a code flash."""
    reader = Reader(data)
    raw = bytearray(NEW)
    at, size = scenarios.MANIFEST_AT, scenarios.MANIFEST_SIZE
    if reader.number(4):
        raw[at : at + size] = change(reader, raw[at : at + size], size - 4)
    else:
        raw = bytearray(reader.rest)
    path = _folder() / "image"
    path.write_bytes(raw)
    command("image", reader.choice(("inspect", "verify")), path, *(("--json",) * reader.number(2)))


def host_region(data):
    """A member disk: its region, copies, journal."""
    reader = Reader(data)
    raw = bytearray(_disk_image())
    start = len(raw) - boards.region_size(boards.SLOT, 2, 4)
    slots = [start + 4096 + k * boards.SLOT for k in range(2)]
    pages = [start + 4096 + 2 * boards.SLOT + k * 4096 for k in range(4)]
    places = [(at, 508) for at in (start, len(raw) - 4096, len(raw) - 8192, *slots)]
    places += [(at + 4096, scenarios.MANIFEST_SIZE - 4) for at in slots] + [
        (p, 4092) for p in pages
    ]
    for _ in range(1 + reader.number(4)):
        at, crc_at = reader.choice(places)
        raw[at : at + crc_at + 4] = change(reader, raw[at : at + crc_at + 4], crc_at)
    path = _folder() / "disk"
    path.write_bytes(raw)
    what = reader.choice((("region", "inspect"), ("region", "verify"), ("log",)))
    command(*what, path, *(("--json",) * reader.number(2)))


def host_report(data):
    """A console log with a report in it."""
    reader = Reader(data)
    text = json.dumps(lifeboat.report().data).encode() if lifeboat.report() else b"{}"
    if reader.number(2):
        text = change(reader, text)
    else:
        text = reader.rest
    path = _folder() / "log"
    path.write_bytes(b"noise\nlifeboat: " + text + b"\n")
    command("report", path, *(("--json",) * reader.number(2)))


def _guarded(target, data):
    with quiet():
        target(data)


TARGETS = {
    function.__name__: partial(_guarded, function)
    for function in (
        manifest, region, partitions, memory, journals, keys, agent, power_on, torn_power_on,
        host_image, host_region, host_report,
    )
}  # fmt: skip
