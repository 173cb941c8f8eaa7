"""Writes the golden files, byte by byte from docs/format.md: python tests/golden/make.py FOLDER.

Shares no code with the host tools, the firmware or their tests. Run it into a folder of its own
and compare: a golden file that changes is a format that changed.
"""

import base64
import hashlib
import json
import struct
import sys
import zlib
from pathlib import Path

B = 4096
UNIT = 4096
SECTOR = 512
PRODUCT = b"sim"
SET_ID = bytes(range(0x10, 0x20))
REGION_ID = bytes(range(0x20, 0x30))
START_LBA = 2048  # of the region; it ends with the disk
TIME = 1767225600  # 2026-01-01 00:00:00 UTC

# Text compresses well; every block is different.
CODE = [(b"block %d of the golden code\n" % i * 200)[:B] for i in range(6)]


def u16(value):
    return struct.pack("<H", value)


def u32(value):
    return struct.pack("<I", value)


def u64(value):
    return struct.pack("<Q", value)


def text(value, size):
    return value.ljust(size, b"\0")


def with_crc(body):
    return body + u32(zlib.crc32(body))


# --- section 2: manifest -------------------------------------------------------------------


def manifest(version):
    minor = 2 if version == "1.2" else 0  # 1.1 changed nothing in it
    segments = [(b"os", 1, 0, 3 * B - 100), (b"app", 2, 3 * B, 3 * B)]
    total = 128 + 48 * len(segments) + (4 + 32) * len(CODE) + 4
    out = b"LBMANIF\n" + bytes([1, minor]) + u16(128)
    out += u32(total) + u32(B) + u32(len(CODE)) + u16(len(segments))
    out += u16(0) + u32(0)  # no signature
    out += u32(3)  # security_counter
    out += u32(0)  # extension_size, reserved before 1.2
    out += text(PRODUCT, 32) + text(b"golden " + version.encode(), 24)
    if version == "1.2":
        out += u32(0) + u32(0)  # incompat, ro_compat
        out += u16(8) + u16(1)  # memory_blocks, manifest_blocks
        out += bytes(20)
    else:
        out += bytes(32)
    for name, kind, offset, size in segments:
        out += text(name, 24) + u32(kind) + u32(offset) + u32(size) + bytes(12)
    out += b"".join(u32(zlib.crc32(block)) for block in CODE)
    out += b"".join(hashlib.sha256(block).digest() for block in CODE)
    return with_crc(out)


def build_id(version):
    body = bytearray(manifest(version)[:-4])  # everything before the signature, which is empty
    if version == "1.2":
        body[12:16] = bytes(4)  # total_size
        body[26:28] = bytes(2)  # signature_type
        body[28:32] = bytes(4)  # signature_size
    return hashlib.sha256(body).digest()


# --- section 6: the controller's memory ----------------------------------------------------


def record(kind, sequence, payload):
    return with_crc(b"LBMR" + bytes([kind, 0, 0, 0]) + u32(sequence) + payload.ljust(240, b"\0"))


def mirror(size):
    header = b"LBMEMORY" + bytes([1, 2]) + u16(256)
    header += u32(1) + u32(256) + u32(size)  # epoch, page_size, mirror_size
    header += u32(0) + u32(0)  # incompat, ro_compat
    header += bytes(1 + 32)  # the board has no id
    header = with_crc(header.ljust(252, b"\0"))
    member = SET_ID + REGION_ID + u64(START_LBA) + u64(region_size("1.2") // SECTOR)
    member += u32(SECTOR) + u16(0) + u16(1)  # bytes of a sector, member index, member count
    member = (member + text(b"sata0", 24)).ljust(240, b"\0")
    closing = SET_ID + u16(1) + u16(0) + u32(zlib.crc32(member))
    known = build_id("1.2") + u32(3) + text(b"golden 1.2", 24)
    pages = [header, record(1, 1, member), record(2, 2, closing), record(3, 3, known)]
    return b"".join(pages).ljust(size, b"\xff")


# --- section 1: code flash -----------------------------------------------------------------


def image(version):
    flash = b"".join(CODE).ljust(8 * B, b"\xff")  # six blocks of code, two that nobody uses
    if version == "1.2":
        flash += mirror(4 * B) + mirror(4 * B)  # 64 pages of 256 bytes each
    return flash + manifest(version).ljust(B, b"\xff")


# --- section 3: backup region --------------------------------------------------------------

JOURNAL_UNITS = 32


def layout(version):
    """(slots_offset, slot_size, end of the slots), in bytes from the region's start."""
    need = UNIT + 65536 + 8 * B  # commit record, manifest area, the largest code of 1.0
    if version == "1.2":
        start, size = 65536, -(-need // 65536) * 65536
    else:
        start, size = UNIT, need
    return start, size, start + 2 * size


def extents():
    """(type, flags, units, offset) of the directory: state, evidence, parity."""
    offset = layout("1.2")[2] + JOURNAL_UNITS * UNIT
    out = []
    for kind, units in ((1, 2), (2, 128 + B // UNIT), (3, 128)):
        out.append((kind, 0, units, offset))
        offset += units * UNIT
    return out


def region_size(version):
    end = layout(version)[2]
    if version == "1.1":
        end += JOURNAL_UNITS * UNIT
    if version == "1.2":
        _, _, units, offset = extents()[-1]
        end = offset + units * UNIT
    return end + 2 * UNIT


def region_header(version):
    start, size, end = layout(version)
    out = b"LBREGION" + bytes([1, int(version[-1])]) + u16(512)
    out += u32(SECTOR) + SET_ID + REGION_ID + u64(START_LBA) + u64(region_size(version) // SECTOR)
    out += u16(0) + u16(1) + u32(2) + u64(size)  # member 0 of 1, two slots
    if version != "1.0":
        out += u64(end) + u32(JOURNAL_UNITS)
    if version == "1.2":
        out += u32(0) + u32(0) + u32(0)  # incompat, ro_compat, header_serial
        out += text(PRODUCT, 32)
        out += u32(0) + u32(start)  # manifest_area: 65536; slots_offset
        out += bytes(124)
        out += b"".join(struct.pack("<HHIQ", *extent) for extent in extents())
    return with_crc(out.ljust(508, b"\0")).ljust(UNIT, b"\0")


def commit(version):
    raw = manifest(version)
    out = b"LBCOMMIT" + bytes([1, 2 if version == "1.2" else 0]) + u16(512)
    out += u32(0) + REGION_ID + build_id(version)  # slot 0
    out += u32(1) + u32(len(raw)) + u32(B) + u32(len(CODE))  # generation 1
    if version == "1.2":
        out += u32(0) + u32(0) + u32(3)  # incompat, ro_compat, security_counter
    return with_crc(out.ljust(508, b"\0")).ljust(UNIT, b"\0")


def entry(number, event, code, where, first, count):
    out = u32(number) + u32(1) + u32(TIME) + u32(250) + bytes([0])  # session 1, at power-on
    return out + text(event, 11) + text(code, 16) + text(where, 12) + u32(first) + u32(count)


def journal_page(version):
    """Section 5: what the power-on told that made the copy."""
    entries = entry(1, b"power-on", b"RUN", b"golden " + version.encode(), 0, 0)
    entries += entry(2, b"created", b"", b"sata0", 1, len(CODE))
    out = b"LBJOURNL" + bytes([1, 2 if version == "1.2" else 0]) + u16(64)
    out += u32(1) + REGION_ID + u32(2)  # serial 1, two entries
    return with_crc((out.ljust(64, b"\0") + entries).ljust(UNIT - 4, b"\0"))


def disk(version):
    start, _, end = layout(version)
    size = region_size(version)
    region = bytearray(size)

    def put(at, data):
        region[at : at + len(data)] = data

    for at in (0, size - 2 * UNIT, size - UNIT):
        put(at, region_header(version))
    put(start, commit(version))
    put(start + UNIT, manifest(version))
    put(start + UNIT + 65536, b"".join(CODE))
    if version != "1.0":
        put(end, journal_page(version))
    return bytes(START_LBA * SECTOR) + bytes(region)


# --- the files -----------------------------------------------------------------------------


def packed(data):
    return base64.b64encode(zlib.compress(data, 9)).decode()


def runs(data):
    """[first sector, content] of all sectors that are not zero, neighbours together."""
    found = []
    for lba in range(len(data) // SECTOR):
        sector = data[lba * SECTOR : (lba + 1) * SECTOR]
        if not any(sector):
            continue
        if found and found[-1][0] + len(found[-1][1]) // SECTOR == lba:
            found[-1][1] += sector
        else:
            found.append([lba, bytearray(sector)])
    return [[first, packed(bytes(content))] for first, content in found]


def saved(version):
    content = disk(version)
    return {
        "image": packed(image(version)),
        "disk": {"sectors": len(content) // SECTOR, "runs": runs(content)},
    }


if __name__ == "__main__":
    for version in ("1.0", "1.1", "1.2"):
        path = Path(sys.argv[1], "%s.json" % version)
        path.write_text(json.dumps(saved(version), indent=1) + "\n")
