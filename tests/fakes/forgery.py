"""What somebody writes who can write any sector: records with right sums, by format.md alone."""

import hashlib
import struct
from binascii import crc32

from fakes import board as sim

# An image that leaves room for a memory in its flash: mirrors of four blocks before the manifest.
FLASH_TOTAL = 17
FLASH_MEMORY = 8

# The fields of a commit record, in their order.
COMMIT = (
    "magic", "major", "minor", "header_size", "slot", "region_id", "build", "generation",
    "manifest_size", "block_size", "block_count", "incompat", "ro_compat", "counter",
)  # fmt: skip


def pad(data, size, fill=b"\0"):
    """Return data with fill behind it, of so many bytes: bytes.ljust, which MicroPython lacks."""
    return bytes(data) + fill * (size - len(data))


def image(seed, version, remembers="set", blocks=6):
    """Return an image for a SimBoard whose memory is as remembers says."""
    if remembers == "flash":
        return sim.image(seed, blocks, version, total=FLASH_TOTAL, memory=FLASH_MEMORY)
    return sim.image(seed, blocks, version, total=blocks + 3)


def parts(image):
    """Return (code, manifest) of an image of blocks of 4096 bytes."""
    at = len(image) - sim.ERASE
    size, _, blocks = struct.unpack_from("<III", image, at + 12)
    return bytes(image[: blocks * sim.ERASE]), bytes(image[at : at + size])


def install(board, image):
    """Put code and manifest into the flash as a person does: what lies between them stays."""
    code, manifest = parts(image)
    data = board.nor.data
    data[: len(code)] = code
    data[-sim.ERASE :] = pad(manifest, sim.ERASE, b"\xff")


def sealed(record):
    """Return a record of 512 bytes with the right CRC."""
    record = pad(bytes(record)[:508], 508)
    return record + struct.pack("<I", crc32(record))


class Place:
    """Where things lie in the region at the end of a disk, as SimBoard makes it."""

    def __init__(self, disk, total=sim.BLOCKS, slots=2, journal=0):
        self.disk = disk
        self.slots = slots
        self.pages = journal
        self.slot_size = sim.slot_size(total)
        self.size = sim.region_size(self.slot_size, slots, journal)
        self.start = disk.count * disk.size - self.size
        self.headers = self.start, self.start + self.size - 8192, self.start + self.size - 4096

    def slot(self, slot):
        return self.start + 4096 + slot * self.slot_size

    def manifest(self, slot):
        return self.slot(slot) + 4096

    def block(self, slot, block):
        return self.slot(slot) + 69632 + block * sim.ERASE

    def page(self, page):
        return self.slot(self.slots) + page * 4096

    def get(self, at, size=512):
        return sim.get(self.disk, at, size)

    def put(self, at, data):
        sim.put(self.disk, at, bytes(data) + bytes(-len(data) % self.disk.size))

    def spoil(self, slot, *blocks):
        """Destroy blocks of a copy."""
        for block in blocks:
            self.put(self.block(slot, block), b"spoilt" * 100)

    def record(self, number, manifest, generation, **fields):
        """Return a commit record for a slot; fields: what is to be another value."""
        size, block_size, blocks = struct.unpack_from("<III", manifest, 12)
        value = {
            "magic": b"LBCOMMIT", "major": 1, "minor": 2, "header_size": 512, "slot": number,
            "region_id": self.get(self.start)[32:48], "build": sim.build_id(manifest),
            "generation": generation, "manifest_size": size, "block_size": block_size,
            "block_count": blocks, "incompat": 0, "ro_compat": 0,
            "counter": struct.unpack_from("<I", manifest, 32)[0],
        }  # fmt: skip
        value.update(fields)
        return sealed(struct.pack("<8sBBHI16s32sIIIIIII", *[value[name] for name in COMMIT]))

    def plant(self, slot, image, generation, code=None, **fields):
        """Write a committed copy of an image into a slot; code: other bytes than its own."""
        its, manifest = parts(image)
        self.put(self.slot(slot), self.record(slot, manifest, generation, **fields))
        self.put(self.manifest(slot), pad(manifest, 65536))
        self.put(self.block(slot, 0), its if code is None else code)

    def header(self, **fields):
        """Change fields (offset=bytes as "f64") of all header copies, with the right CRC."""
        for at in self.headers:
            raw = bytearray(self.get(at))
            for name, value in fields.items():
                offset = int(name[1:])
                raw[offset : offset + len(value)] = value
            self.put(at, pad(sealed(raw), 4096))

    def journal_page(self, page, serial, entries=1, number=1, major=1, event=b"reason"):
        """Write a valid page of the journal."""
        out = struct.pack("<8sBBHI", b"LBJOURNL", major, 2, 64, serial)
        out += self.get(self.start)[32:48] + struct.pack("<III", entries, 0, 0) + bytes(20)
        for i in range(entries):
            out += struct.pack("<IIIIB11s16s12sII", number + i, 1, 0, 0, 0, event, b"", b"", 0, 0)
        out = pad(out, 4092)
        self.put(self.page(page), out + struct.pack("<I", crc32(out)))

    def generation(self, slot):
        return struct.unpack_from("<I", self.get(self.slot(slot)), 64)[0]

    def holds(self, slot, image):
        """Whether a slot is committed and holds all of an image."""
        code, manifest = parts(image)
        record = self.record(slot, manifest, self.generation(slot))
        return (
            self.get(self.slot(slot)) == record
            and self.get(self.manifest(slot), 8192)[: len(manifest)] == manifest
            and self.get(self.block(slot, 0), len(code)) == code
        )


def lying_manifest(seed, blocks=6, memory=0):
    """Return (manifest, code by its CRCs, code by its SHA-256s), which are not the same."""
    crcs, shas = sim.noise(seed, blocks * 4096), sim.noise(seed + 1, blocks * 4096)
    raw = bytearray(sim.manifest(crcs, version="9.9", memory=memory))
    at = 128 + 48 + 4 * blocks
    for i in range(blocks):
        digest = hashlib.sha256(shas[4096 * i : 4096 * i + 4096]).digest()
        raw[at + 32 * i : at + 32 * i + 32] = digest
    return bytes(raw[:-4]) + struct.pack("<I", crc32(raw[:-4])), crcs, shas


def same_crc(good, bad_at=100):
    """Return another block with the CRC-32 of good: the four bytes after bad_at make up for it."""
    data = bytearray(good)
    data[bad_at] ^= 1
    at = bad_at + 1
    base = crc32(data)
    want = crc32(good) ^ base
    rows = []
    for bit in range(32):
        data[at + bit // 8] ^= 1 << bit % 8
        rows.append((crc32(data) ^ base, 1 << bit))
        data[at + bit // 8] ^= 1 << bit % 8
    solution = 0
    for pivot in range(32):
        i = next(i for i, (value, _) in enumerate(rows) if value >> pivot & 1)
        value, mask = rows.pop(i)
        rows = [(v ^ value, m ^ mask) if v >> pivot & 1 else (v, m) for v, m in rows]
        if want >> pivot & 1:
            want ^= value
            solution ^= mask
    for i in range(4):
        data[at + i] ^= solution >> 8 * i & 0xFF
    assert crc32(data) == crc32(good) and bytes(data) != bytes(good)
    return bytes(data)


def large_manifest(version, blocks=6, size=12288, flash=sim.BLOCKS):
    """Return a valid manifest of size bytes (a multiple of 4096) of code that is nowhere."""
    raw = bytearray(sim.manifest(sim.noise(version, blocks * 4096), version=version)[:-4])
    fill = size - len(raw) - 4
    raw[9] = 2
    struct.pack_into("<I", raw, 12, size)
    struct.pack_into("<HI", raw, 26, 1, fill)
    struct.pack_into("<H", raw, 106, size // 4096)
    raw += bytes(fill)
    assert blocks + size // 4096 <= flash
    return bytes(raw) + struct.pack("<I", crc32(raw))
