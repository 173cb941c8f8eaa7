"""Parity in the slots (docs/format.md, section 3): is it there, and does it fit its copy?"""

from __future__ import annotations

from lifeboat_host.base.crc import Buffer, crc32
from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.disk.disk import Disk
from lifeboat_host.model.formats import (
    UNIT,
    Layout,
    Manifest,
    RegionHeader,
    check_seal,
    check_start,
    newer,
    parity_groups,
)
from lifeboat_host.model.region import CopyCheck, Slot

GROUPS_MAX = 960
_HEADER_SIZE = 128

PARITY = Layout(
    "parity",
    (
        (0, 8, "magic"),
        (8, 1, "major"),
        (9, 1, "minor"),
        (10, 2, "header_size"),
        (12, 4, "slot"),
        (16, 16, "region_id"),
        (32, 32, "build_id"),
        (64, 4, "group_count"),
        (68, 4, "block_size"),
        (72, 4, "incompat"),
        (76, 4, "ro_compat"),
        (80, 48, "reserved"),
        (128, 3964, "crcs"),
        (4092, 4, "crc"),
    ),
    raw=("crcs",),
)
MAGIC = b"LBPARITY"

# What is known of it.
NO_ROOM, NONE, NEWER, WHOLE, DAMAGED = "no-room", "none", "newer", "whole", "damaged"


def offset(header: RegionHeader, slot: Slot, manifest: Manifest) -> int | None:
    """Byte offset of the parity record on the disk; None: the slot has no room for parity."""
    groups = parity_groups(manifest.block_count)
    start = slot.blocks + manifest.block_count * manifest.block_size
    end = start + UNIT + groups * manifest.block_size
    if groups > GROUPS_MAX or end > header.slot(slot.index + 1):
        return None
    return start


def parse(data: Buffer, header: RegionHeader, slot: Slot, manifest: Manifest) -> list[int]:
    """The CRC-32 of each parity block, from the record in `data`.

    Raises LifeboatError: parity-magic, -version, -crc or -field.
    """
    check_start(PARITY, data, MAGIC)
    check_seal(PARITY, data[:UNIT])
    fields = PARITY.unpack(data)
    if fields["ro_compat"]:
        raise newer(PARITY, "that this tool only reads")
    groups = parity_groups(manifest.block_count)
    rules = {
        "header_size": _HEADER_SIZE,
        "slot": slot.index,
        "region_id": header.region_id,
        "build_id": manifest.build_id,
        "group_count": groups,
        "block_size": manifest.block_size,
    }
    for field, wanted in rules.items():
        if fields[field] != wanted:
            raise PARITY.broken(field, f"{fields[field]!r} is not allowed here")
    crcs = fields["crcs"]
    return [int.from_bytes(crcs[4 * i : 4 * i + 4], "little") for i in range(groups)]


def state(disk: Disk, header: RegionHeader, check: CopyCheck) -> str:
    """What is known of the parity of a copy whose blocks were read.

    Every parity block is read, and held against its CRC-32 and, where all blocks of the group are
    good, against these.
    """
    slot, manifest = check.slot, check.manifest
    start = offset(header, slot, manifest)
    if start is None:
        return NO_ROOM
    try:
        crcs = parse(disk.read(start, UNIT), header, slot, manifest)
        size = manifest.block_size
        for group, crc in enumerate(crcs):
            data = disk.read(start + UNIT + group * size, size)
            whole = not any(block % len(crcs) == group for block in check.bad)
            fits = int.from_bytes(data, "little") == check.xors[group]
            if crc32(data) != crc or (whole and not fits):
                return DAMAGED
    except LifeboatError as error:
        if error.code == "disk-read":
            return DAMAGED
        if not error.code.startswith("parity-"):
            raise
        return NEWER if error.code.endswith("-version") else NONE
    return WHOLE
