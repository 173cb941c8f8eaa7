"""A board out of fakes, and images and regions made for it without any code under test."""

import hashlib
import struct
from binascii import crc32

from fakes.disk import RamDisk
from fakes.flash import RamFlash
from fakes.power import Power
from fakes.rng import Rng

PRODUCT = "sim"
ERASE = 4096
BLOCKS = 9  # eight for code, one for the manifest


def slot_size(blocks=BLOCKS, block=ERASE):
    """Return the slot size for a code flash of so many blocks."""
    return 69632 + (blocks - 1) * block


def region_size(slot, slots=2, journal=0):
    """Return the size of a region with so many journal pages and no spare room."""
    return 4096 + slots * slot + journal * 4096 + 8192


SLOT = slot_size()
REGION = region_size(SLOT)


def noise(seed, size):
    """Return pseudo-random bytes that depend on seed only."""
    return Rng(seed).bytes(size)


def pad(text, size):
    text = text.encode()
    return text + bytes(size - len(text))


def manifest(code, block=ERASE, product=PRODUCT, version="1.0"):
    """Return the manifest of format.md section 2 for whole blocks of code, one segment."""
    blocks = [code[i : i + block] for i in range(0, len(code), block)]
    n = len(blocks)
    total = 128 + 48 + 36 * n + 4
    out = b"LBMANIF\n" + struct.pack("<BBHIIIHHIII", 1, 0, 128, total, block, n, 1, 0, 0, 0, 0)
    out += pad(product, 32) + pad(version, 24) + bytes(32)
    out += pad("app", 24) + struct.pack("<III", 0, 0, len(code)) + bytes(12)
    for b in blocks:
        out += struct.pack("<I", crc32(b))
    for b in blocks:
        out += hashlib.sha256(b).digest()
    return out + struct.pack("<I", crc32(out))


def image(seed=1, blocks=6, version="1.0", block=ERASE, total=BLOCKS):
    """Return the content of a code flash."""
    code = noise(seed, blocks * block)
    flash = bytearray(b"\xff" * (total * block))
    flash[: len(code)] = code
    m = manifest(code, block, version=version)
    flash[(total - 1) * block : (total - 1) * block + len(m)] = m
    return flash


def put(disk, offset, data):
    """Put bytes (whole sectors) straight onto the medium of a RamDisk."""
    size = disk.size
    for i in range(0, len(data), size):
        disk.sectors[(offset + i) // size] = bytes(data[i : i + size])


def get(disk, offset, length):
    """Return bytes (whole sectors) of the medium."""
    size = disk.size
    zeros = bytes(size)
    return b"".join(disk.sectors.get((offset + i) // size, zeros) for i in range(0, length, size))


def header(
    disk, start, member=0, members=1, set_id=b"S" * 16, slots=2, slot=SLOT, size=REGION, journal=0
):
    """Return the region header of format.md section 3 as a unit; journal: its pages."""
    out = b"LBREGION" + struct.pack("<BBHI", 1, 1, 512, disk.size)
    out += set_id + bytes([member + 1] * 16)
    out += struct.pack("<QQHHIQ", start, size // disk.size, member, members, slots, slot)
    out += struct.pack("<QI", 4096 + slots * slot if journal else 0, journal)
    out += bytes(508 - len(out))
    return out + struct.pack("<I", crc32(out)) + bytes(4096 - 512)


def make_region(disk, start=None, **kwargs):
    """Write an empty region onto a RamDisk, at its end unless start (LBA) is given."""
    size = kwargs.get("size", REGION)
    if start is None:
        start = disk.count - size // disk.size
    unit = header(disk, start, **kwargs)
    for offset in (0, size - 8192, size - 4096):
        put(disk, start * disk.size + offset, unit)
    return start


class SimBoard:
    """A board as lifeboat.boot describes it, out of one RamFlash and some RamDisks.

    content: of the flash; members: how many disks, each with a region at its end; extra: sectors
    before the region; sector: bytes; block: lifeboat's block size, a multiple of erase; journal:
    pages of each region's journal.
    """

    PRODUCT = PRODUCT
    UNSIGNED = True
    REGION_LBAS = ()

    def __init__(
        self, content, members=2, power=None, extra=40, block=ERASE, erase=ERASE, mapped=True,
        sector=512, slots=2, journal=0,
    ):  # fmt: skip
        self.BLOCK_SIZE = block
        self.power = power or Power()
        self.nor = RamFlash(content, erase, self.power, mapped)
        self.drives = []
        slot = slot_size(len(content) // block, block)
        size = region_size(slot, slots, journal)
        for i in range(members):
            disk = RamDisk("disk%d" % i, size // sector + extra, self.power, sector)
            make_region(
                disk, member=i, members=members, slot=slot, slots=slots, size=size, journal=journal
            )
            self.drives.append(disk)
        self.kept = bytearray(2048)

    def start(self):
        pass

    def flash(self):
        return self.nor

    def disks(self):
        return self.drives

    def retained(self):
        return self.kept

    def supply(self, power):
        """Put every device on another power supply: the next power-on."""
        self.power = self.nor.power = power
        for disk in self.drives:
            disk.power = power
