"""A board out of fakes, and images and regions made for it without any code under test."""

import hashlib
import struct
from binascii import crc32

from fakes.rng import Rng
from sim.disk import RamDisk
from sim.nor import RamFlash
from sim.power import Power

PRODUCT = "sim"
ERASE = 4096
BLOCKS = 9  # eight for code, one for the manifest


# bytes.ljust(), which MicroPython has not.
def _fill(data, size, byte=b"\xff"):
    return data + byte * (size - len(data))


def slot_size(blocks=BLOCKS, block=ERASE):
    """Return the slot size for a code flash of so many blocks."""
    return 69632 + (blocks - 1) * block


def region_size(slot, slots=2, journal=0):
    """Return the size of a region with so many journal pages and no spare room."""
    return 4096 + slots * slot + journal * 4096 + 8192


SLOT = slot_size()
REGION = region_size(SLOT)

# Of the memory (format.md section 6), for flash that programs any byte.
PAGE = 256
MIRROR = 64 * PAGE


def noise(seed, size):
    """Return pseudo-random bytes that depend on seed only."""
    return Rng(seed).bytes(size)


def pad(text, size):
    text = text.encode()
    return text + bytes(size - len(text))


def manifest(code, block=ERASE, product=PRODUCT, version="1.0", memory=0):
    """Return the manifest of format.md section 2 for whole blocks of code, one segment.

    memory: how many blocks it leaves for the memory; 0: as format 1.1 has it.
    """
    blocks = [code[i : i + block] for i in range(0, len(code), block)]
    n = len(blocks)
    total = 128 + 48 + 36 * n + 4
    minor = 2 if memory else 0
    out = b"LBMANIF\n" + struct.pack("<BBHIIIHHIII", 1, minor, 128, total, block, n, 1, 0, 0, 0, 0)
    out += pad(product, 32) + pad(version, 24) + struct.pack("<IIHH", 0, 0, memory, 0) + bytes(20)
    out += pad("app", 24) + struct.pack("<III", 0, 0, len(code)) + bytes(12)
    for b in blocks:
        out += struct.pack("<I", crc32(b))
    for b in blocks:
        out += hashlib.sha256(b).digest()
    return out + struct.pack("<I", crc32(out))


def build_id(raw):
    """Return the build id of a manifest."""
    end = len(raw) - 4 - struct.unpack_from("<I", raw, 28)[0]
    if raw[9] >= 2:
        raw = raw[:12] + bytes(4) + raw[16:26] + bytes(6) + raw[32:]
    return hashlib.sha256(raw[:end]).digest()


def memory_header(epoch=1, page=PAGE, mirror=MIRROR, uid=b""):
    """Return the header of a mirror as a page."""
    out = b"LBMEMORY" + struct.pack("<BBHIIIII", 1, 2, 256, epoch, page, mirror, 0, 0)
    out += bytes([len(uid)]) + uid
    out += bytes(252 - len(out))
    return _fill(out + struct.pack("<I", crc32(out)), page)


def record(kind, sequence, payload, page=PAGE):
    """Return a record of the memory as a page."""
    out = b"LBMR" + bytes([kind, 0, 0, 0]) + struct.pack("<I", sequence) + payload
    out += bytes(252 - len(out))
    return _fill(out + struct.pack("<I", crc32(out)), page)


def set_records(set_id, members, sequence=1, page=PAGE):
    """Return the pages that remember a set; members: (region id, first LBA, sectors, bytes of a
    sector, index, name) each."""
    payloads = [
        set_id + region + struct.pack("<QQIHH", lba, sectors, size, index, len(members))
        + pad(name, 24)
        for region, lba, sectors, size, index, name in members
    ]  # fmt: skip
    pages = [record(1, sequence + i, p, page) for i, p in enumerate(payloads)]
    sums = crc32(b"".join(_fill(p, 240, b"\0") for p in payloads))
    closing = set_id + struct.pack("<HHI", len(members), 0, sums)
    return pages + [record(2, sequence + len(members), closing, page)]


def build_record(sequence, raw, page=PAGE):
    """Return the page that remembers the build of a manifest."""
    return record(3, sequence, build_id(raw) + raw[32:36] + raw[72:96], page)


def memory(pages, page=PAGE, mirror=MIRROR, **kwargs):
    """Return both mirrors of a memory with these pages."""
    one = memory_header(page=page, mirror=mirror, **kwargs) + b"".join(pages)
    return bytearray(2 * _fill(one, mirror))


def image(seed=1, blocks=6, version="1.0", block=ERASE, total=BLOCKS, memory=0):
    """Return the content of a code flash."""
    code = noise(seed, blocks * block)
    flash = bytearray(b"\xff" * (total * block))
    flash[: len(code)] = code
    m = manifest(code, block, version=version, memory=memory)
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
    pages of each region's journal; unit: bytes that the flash and the memory's chip program in one
    piece; place: of the regions, at the "end" of a disk or after `extra` sectors at its "start".

    remembers: "set": the memory is a chip of its own and knows the set, as after provisioning;
    "nothing": such a chip, empty; "flash": it is in the code flash, where the image leaves room;
    None: the board has no memory.
    """

    PRODUCT = PRODUCT
    UNSIGNED = True
    REGION_LBAS = ()

    def __init__(
        self, content, members=2, power=None, extra=40, block=ERASE, erase=ERASE, mapped=True,
        sector=512, slots=2, journal=0, remembers="set", unit=0, place="end",
    ):  # fmt: skip
        self.BLOCK_SIZE = block
        self.power = power or Power()
        self.nor = RamFlash(content, erase, self.power, mapped, unit)
        self.drives = []
        slot = slot_size(len(content) // block, block)
        size = region_size(slot, slots, journal)
        for i in range(members):
            disk = RamDisk("disk%d" % i, size // sector + extra, self.power, sector)
            make_region(
                disk, extra if place == "start" else None, member=i, members=members, slot=slot,
                slots=slots, size=size, journal=journal,
            )  # fmt: skip
            self.drives.append(disk)
        self.kept = bytearray(2048)
        self.chip = None
        if remembers != "flash":
            if remembers:
                page = max(unit, PAGE)
                size = -(-64 * page // erase) * erase
                blank = bytearray(b"\xff" * (2 * size))
                self.chip = RamFlash(blank, erase, self.power, unit=page if unit else 0)
                self.chip.program_size = unit or 1
            self.memory = lambda: self.chip
        if remembers == "set" and members:
            self.remember(self.drives)

    def mirror(self):
        """Return the size of a record's page and of a mirror of the chip."""
        return max(self.chip.unit, PAGE), len(self.chip.data) // 2

    def remember(self, drives, set_id=b"S" * 16):
        """Let the memory know a set made of the regions at the ends of these disks."""
        members = []
        for i, disk in enumerate(drives):
            at = max(lba for lba in disk.sectors if disk.sectors[lba][:8] == b"LBREGION")
            raw = disk.sectors[at]
            start, sectors = struct.unpack_from("<QQ", raw, 48)
            members.append((raw[32:48], start, sectors, disk.size, i, disk.name))
        page, size = self.mirror()
        self.chip.data[:] = memory(set_records(set_id, members, page=page), page, size)

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
        if self.chip:
            self.chip.power = power
        for disk in self.drives:
            disk.power = power
