"""Bytes of the controller's memory as format.md section 6 has them, made by hand, and a flash
that takes records."""

import zlib
from struct import pack

from sim.nor import RamFlash


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
    """A RamFlash that takes whole records only, a page in one call, and can fail to read.

    lazy: pages whose programs do nothing; unreadable: addresses whose reads fail.
    """

    def __init__(self, data, erase, power=None, tears="half", unit=0, mapped=True, seed=0):
        super().__init__(data, erase, power, mapped, unit and max(unit, 256), tears, seed)
        self.program_size = unit or 1
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
        assert not self.unit or len(buf) == self.unit, "not one whole page"
        if at not in self.lazy:
            super().writeblocks(block, buf, offset)
