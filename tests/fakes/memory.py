"""Bytes of the controller's memory as format.md section 6 has them, made by hand, and a flash
whose torn operations leave worse than half a page."""

import zlib
from struct import pack

from fakes.flash import RamFlash
from fakes.rng import Rng


def sealed(head):
    """256 bytes that end with the CRC of the others."""
    head += bytes(252 - len(head))
    return head + pack("<I", zlib.crc32(head))


def header(epoch=1, page=256, mirror=16384, uid=b"", major=1, size=256, incompat=0, ro_compat=0):
    fixed = b"LBMEMORY" + pack(
        "<BBHIIIII", major, 2, size, epoch, page, mirror, incompat, ro_compat
    )
    return sealed(fixed + pack("<B32s", len(uid), uid))


def record(kind, sequence, payload):
    return sealed(b"LBMR" + pack("<BBHI", kind, 0, 0, sequence) + payload)


def member(
    sequence, set_id, region_id, first=64, sectors=128, size=512, index=0, count=1, name=b""
):
    fields = pack("<QQIHH24s", first, sectors, size, index, count, name)
    return record(1, sequence, set_id + region_id + fields)


def closing(sequence, set_id, members):
    """The record that closes a set; members: their records, in order."""
    crc = 0
    for page in members:
        crc = zlib.crc32(page[12:252], crc)
    return record(2, sequence, set_id + pack("<HHI", len(members), 0, crc))


def build(sequence, name, counter=0, version=b"1.0"):
    return record(3, sequence, name + pack("<I24s", counter, version))


def rejected(sequence, name):
    return record(4, sequence, name)


def failed(sequence, block, count):
    return record(5, sequence, pack("<II", block, count))


def counter(sequence, value):
    return record(6, sequence, pack("<I", value))


def mirror_size(page, erase):
    """The smallest multiple of an erase block that holds 64 pages."""
    return -(-64 * page // erase) * erase


def mirror(pages, page=256, erase=4096):
    """The bytes of a mirror with these pages, None for a blank one, and nothing after them."""
    data = b"".join((p or b"").ljust(page, b"\xff") for p in pages)
    return data.ljust(mirror_size(page, erase), b"\xff")


class Nor(RamFlash):
    """A RamFlash with unpleasant ways.

    tears: "half" as RamFlash; "bits": a torn program leaves some of its zeros unprogrammed, a
    torn erase some of the old bytes; "begun": hardly any of them happened; "weak": almost all of
    a torn program happened, and all of a torn erase but a byte. unit: page that is programmed
    once between erases, in one call; 0: as one likes. lazy: pages whose programs do nothing.
    """

    def __init__(self, data, erase, power=None, tears="half", unit=0, mapped=True, seed=0):
        super().__init__(data, erase, power, mapped)
        self.tears = tears
        self.unit = unit
        self.program_size = unit or 1
        self.rng = Rng("nor/%s" % seed)
        self.done = set()
        self.lazy = ()
        self.unreadable = ()
        self.reads = 0

    def readblocks(self, block, buf, offset=None):
        at = block * self.size + (offset or 0)
        self.reads += 1
        if any(at <= bad < at + len(buf) for bad in self.unreadable):
            raise OSError(5, "unreadable")
        super().readblocks(block, buf, offset)

    def writeblocks(self, block, buf, offset=None):
        at = self._at(block, offset, len(buf))
        assert offset is not None and at % 256 == 0
        if self.unit:
            page = max(self.unit, 256)
            assert at % page == 0 and len(buf) == page, "not one whole page"
            assert at not in self.done or self.data[at : at + page] == b"\xff" * page, "twice"
        data = bytes(buf)
        self.power.operation("flash", "program", at, lambda: self._torn_program(at, data))
        self.done.add(at)
        if at not in self.lazy:
            self._program(at, data)

    def _torn_program(self, at, data):
        self.done.add(at)
        if self.tears == "half":
            data = data[: len(data) // 2]
        else:
            old = self.data[at : at + len(data)]
            every = {"bits": 2, "begun": 40, "weak": 40}[self.tears]
            pick = self.rng.bytes(len(data))
            more = self.rng.bytes(len(data))
            if self.tears == "weak":
                data = bytes(
                    (n | (1 << m % 8) & o) if p % every == 0 else n
                    for n, o, p, m in zip(data, old, pick, more)
                )
            else:
                data = bytes(
                    o & (n | m) if p % every == 0 else o
                    for n, o, p, m in zip(data, old, pick, more)
                )
        self._program(at, data)

    def ioctl(self, op, arg):
        if op != 6:
            return super().ioctl(op, arg)
        at = self._at(arg, 0, self.size)
        if arg in self.fail_erase:
            raise OSError(5)
        self.power.operation("flash", "erase", at, lambda: self._torn_erase(at))
        self.erases += 1
        self.done = {a for a in self.done if not at <= a < at + self.size}
        self._store(at, b"\xff" * self.size)
        return 0

    def _torn_erase(self, at):
        old = bytes(self.data[at : at + self.size])
        self.done = {a for a in self.done if not at <= a < at + self.size}
        if self.tears == "half":
            torn = b"\xff\xa5" * (self.size // 2)
        elif self.tears == "bits":
            cells = self.rng.bytes(self.size)
            torn = bytes(o | c for o, c in zip(old, cells))
        elif self.tears == "begun":
            torn = bytearray(old)
            for _ in range(4):
                torn[self.rng.below(self.size)] |= 0x55
        else:
            torn = bytearray(b"\xff" * self.size)
            torn[self.rng.below(self.size)] = 0xFB
        self._store(at, bytes(torn))
