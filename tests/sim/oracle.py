"""What must hold after a power cut (I1 to I13), by docs/format.md and nothing of firmware/."""

from __future__ import annotations

import hashlib
import struct
from binascii import crc32
from typing import NamedTuple

from fakes.board import build_id

MOST_BLOCKS = 1 << 16


class Rules(NamedTuple):
    """What may come of a scenario.

    images: the code flash of each version that may run afterwards, without the blocks of a memory
    in it. keeps: versions of which each member that held one whole, before, holds one at any
    time. steady: whether a power-on after the next one changes nothing. covered: whether each
    member holds the running version after the next one. outside: sectors that nobody may change,
    as {LBA: bytes} for each disk.
    """

    images: dict
    keeps: frozenset
    steady: bool = True
    covered: bool = True
    outside: tuple = ()


def region(disk):
    """Return (offset, slots offset, slots, slot size, manifest area) of a disk's region, or None.

    By its highest serial, as format.md section 3 has it.
    """
    best = None
    for lba, raw in disk.sectors.items():
        if raw[:8] != b"LBREGION" or crc32(raw[:508]) != struct.unpack_from("<I", raw, 508)[0]:
            continue
        start, sectors = struct.unpack_from("<QQ", raw, 48)
        slots, size = struct.unpack_from("<IQ", raw, 68)
        serial = struct.unpack_from("<I", raw, 100)[0]
        area, first = struct.unpack_from("<II", raw, 136)
        unit = 4096 // disk.size
        if lba not in (start, start + sectors - unit, start + sectors - 2 * unit):
            continue
        found = serial, start * disk.size, first or 4096, slots, size, area or 65536
        if best is None or found > best:
            best = found
    return best and best[1:]


def whole_copies(disk):
    """Return the versions of the committed copies on a disk whose every byte is right."""
    place = region(disk)
    found = []
    if place:
        at, first, slots, size, area = place
        for slot in range(slots):
            version = _copy(disk, at + first + slot * size, area)
            if version is not None:
                found.append(version)
    return found


def _copy(disk, at, area):
    record = _get(disk, at, 4096)[:512]
    if record[:8] != b"LBCOMMIT" or crc32(record[:508]) != int.from_bytes(record[508:], "little"):
        return None
    size, block, count = struct.unpack_from("<III", record, 68)
    if size > area or count > MOST_BLOCKS:
        return None
    manifest = _get(disk, at + 4096, -(-size // 4096) * 4096)[:size]
    if crc32(manifest[:-4]) != int.from_bytes(manifest[-4:], "little"):
        return None
    if build_id(manifest) != record[32:64]:
        return None
    digests = size - 4 - 32 * count
    for i in range(count):
        data = _get(disk, at + 4096 + area + i * block, block)
        if hashlib.sha256(data).digest() != manifest[digests + 32 * i : digests + 32 * i + 32]:
            return None
    return manifest[72:96].rstrip(b"\0").decode()


def _get(disk, offset, length):
    size, zeros = disk.size, bytes(disk.size)
    first = offset // size
    sectors = range(first, first + length // size)
    if disk.pending and any(lba in disk.pending for lba in sectors):
        return b"\1" * length  # can't be read: it fits nothing
    return b"".join([disk.sectors.get(lba, zeros) for lba in sectors])


def before(rules, board, held):
    """Judge what a cut left; held: the whole copies that each disk had at first."""
    for disk, had in zip(board.drives, held):
        if had and not disk.lies:
            assert rules.keeps & set(whole_copies(disk)), f"{disk.name} lost its copies of {had}"


def after(rules, board, report, held):
    """Judge a power-on; held as for before()."""
    data = report.data
    codes = [code for code, _, _ in data["reasons"]]
    assert report.runs, f"verdict {report.verdict}: {data}"
    assert "internal" not in codes, data
    version = data["version"]
    assert version in rules.images, f"{version} runs"
    image = rules.images[version]
    assert _code(board.nor.data, image, board) == _code(image, image, board), "flash"
    for disk, had in zip(board.drives, held):
        copies = whole_copies(disk)
        if rules.covered and not disk.lies:
            assert version in copies, f"{disk.name} has {copies}: {data}"
        if had and not disk.lies:
            assert rules.keeps & set(copies), f"{disk.name} has {copies}, had {had}"
    for disk, sectors in zip(board.drives, rules.outside):
        for lba, content in sectors.items():
            assert disk.sectors.get(lba) == content, f"{disk.name}: LBA {lba} is not lifeboat's"


# A flash without the memory for which an image leaves room.
def _code(content, image, board):
    size = board.BLOCK_SIZE
    memory = struct.unpack_from("<H", image, len(image) - size + 104)[0] * size
    return bytes(content[: len(image) - size - memory] + content[len(image) - size :])
