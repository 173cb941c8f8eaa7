"""Evidence of damage in the regions (docs/format.md, section 3): read it, and say what it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lifeboat_host.base.crc import Buffer, crc32
from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.base.types import Progress
from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import formats
from lifeboat_host.model.formats import (
    UNIT,
    Layout,
    Manifest,
    RegionHeader,
    check_seal,
    check_start,
)

UNITS_MAX = 1024  # of a ring, that count
SERIAL_MAX = 0xFEFFFFFF
LISTED_MAX = 483
_HEADER_SIZE = 224
_BLOCK_MAX = 16 << 20  # no erase block is larger: a raw block is read at once

EVIDENCE = Layout(
    "evidence",
    (
        (0, 8, "magic"),
        (8, 1, "major"),
        (9, 1, "minor"),
        (10, 2, "header_size"),
        (12, 4, "serial"),
        (16, 16, "region_id"),
        (32, 32, "build_id"),
        (64, 4, "sum"),
        (68, 4, "block"),
        (72, 4, "block_size"),
        (76, 4, "time"),
        (80, 4, "session"),
        (84, 12, "reason"),
        (96, 4, "ones"),
        (100, 4, "zeros"),
        (104, 4, "changed"),
        (108, 4, "blank"),
        (112, 4, "first"),
        (116, 4, "last"),
        (120, 4, "listed"),
        (124, 4, "raw_units"),
        (128, 4, "incompat"),
        (132, 4, "ro_compat"),
        (136, 88, "reserved"),
        (224, 3868, "differences"),
        (4092, 4, "crc"),
    ),
    text=("reason",),
    raw=("differences",),
    strict=False,
)
MAGIC = b"LBEVIDEN"

# What kind of damage it was.
OTHER_BUILD = "other-build"
CHARGE_LOST = "charge-lost"
ERASE_TORN = "erase-torn"
PROGRAM_TORN = "program-torn"
BITS = "bits"
OVERWRITTEN = "overwritten"

# So many bytes are single cells that failed; more of them have one cause.
_FEW = 64


@dataclass(frozen=True)
class Difference:
    """A byte of the damaged block: what stood there, and what should have."""

    offset: int
    was: int
    right: int


@dataclass(frozen=True)
class Evidence:
    """A damaged block as a repair found it; counts as in the bytes. disks: that tell of it.

    raw: all bytes of the block, where they are kept.
    """

    serial: int
    build_id: bytes
    sum: int
    block: int
    block_size: int
    time: int
    session: int
    reason: str
    ones: int
    zeros: int
    changed: int
    blank: int
    first: int
    last: int
    differences: tuple[Difference, ...]
    raw: bytes | None = None
    disks: list[str] = field(default_factory=list)

    @property
    def key(self) -> tuple[int, bytes, int]:
        """What makes two entries tell of the same damage."""
        return self.block, self.build_id, self.sum

    @property
    def complete(self) -> bool:
        """Whether every byte of the damaged block is known."""
        return self.raw is not None or len(self.differences) == self.changed


def ring(header: RegionHeader) -> tuple[int, int] | None:
    """(byte offset on the disk, units) of the region's ring, or None."""
    for extent in header.extents:
        if extent.kind == formats.EVIDENCE:
            return header.start + extent.offset, min(extent.units, UNITS_MAX)
    return None


def _parse(data: Buffer, header: RegionHeader, place: int, units: int) -> dict[str, Any]:
    check_start(EVIDENCE, data, MAGIC)
    check_seal(EVIDENCE, data[:UNIT])
    fields = EVIDENCE.unpack(data)
    raw = fields["raw_units"]
    rules = (
        ("header_size", fields["header_size"] == _HEADER_SIZE),
        ("serial", 1 <= fields["serial"] <= SERIAL_MAX),
        ("region_id", fields["region_id"] == header.region_id),
        ("raw_units", raw in (0, fields["block_size"] // UNIT)),
        ("raw_units", place + 1 + raw <= units),
        ("listed", fields["listed"] <= LISTED_MAX),
    )
    for name, kept in rules:
        if not kept:
            raise EVIDENCE.broken(name, f"{fields[name]!r} is not allowed here")
    return fields


def _differences(data: bytes, count: int) -> tuple[Difference, ...]:
    items = (data[at : at + 8] for at in range(0, 8 * count, 8))
    return tuple(Difference(int.from_bytes(x[:4], "little"), x[4], x[5]) for x in items)


def read(disk: Disk, header: RegionHeader, progress: Progress | None = None) -> list[Evidence]:
    """All entries of a region that count, oldest first; none where it has no ring."""
    place = ring(header)
    if not place:
        return []
    start, units = place
    seen: list[tuple[int, dict[str, Any]]] = []
    for index in range(units):
        try:
            seen.append(
                (index, _parse(disk.read(start + index * UNIT, UNIT), header, index, units))
            )
        except LifeboatError as error:
            if error.code.startswith("link-"):
                raise
        if progress:
            progress(index + 1, units)
    found: list[Evidence] = []
    covered: set[int] = set()
    for index, fields in sorted(seen, key=lambda item: -item[1]["serial"]):
        if index in covered:
            continue
        raw_units = fields["raw_units"]
        covered.update(range(index + 1, index + 1 + raw_units))
        raw = _raw(disk, start + (index + 1) * UNIT, fields) if raw_units else None
        differences = _differences(fields["differences"], fields["listed"])
        names = ("magic", "major", "minor", "header_size", "region_id", "listed", "raw_units")
        for name in (*names, "incompat", "ro_compat", "differences", "crc"):
            del fields[name]
        found.append(Evidence(**fields, differences=differences, raw=raw, disks=[str(disk.path)]))
    return found[::-1]


def _raw(disk: Disk, offset: int, fields: Mapping[str, Any]) -> bytes | None:
    if fields["block_size"] > _BLOCK_MAX:
        return None
    try:
        data = disk.read(offset, fields["block_size"])
    except LifeboatError as error:
        if error.code != "disk-read":
            raise
        return None
    return data if crc32(data) == fields["sum"] else None


def merge(lists: Iterable[Iterable[Evidence]]) -> list[Evidence]:
    """What several members tell, each damage once, in the order of its time."""
    found: dict[tuple[int, bytes, int], Evidence] = {}
    for entries in lists:
        for entry in entries:
            known = found.get(entry.key)
            if known:
                disks, raw = known.disks + entry.disks, known.raw or entry.raw
                entry = replace(known, disks=disks, raw=raw)
            found[entry.key] = entry
    return sorted(found.values(), key=lambda entry: (entry.session, entry.time, entry.block))


# --- what it was ---------------------------------------------------------------------------


def kind(entry: Evidence, builds: Iterable[Manifest]) -> tuple[str, str]:
    """(a word of this module, the same in a sentence for people).

    builds: manifests whose blocks may have stood there.
    """
    if entry.sum == crc32(b"\xff" * min(entry.block_size, _BLOCK_MAX)):
        return PROGRAM_TORN, "it was blank: erased, and not programmed again"
    for manifest in builds:
        if manifest.block_size != entry.block_size:
            continue
        for block, crc in enumerate(manifest.crcs):
            if crc == entry.sum:
                what = f"block {block} of version {manifest.version}, build {manifest.build}"
                return OTHER_BUILD, f"it held {what}"
    span = f"bytes {entry.first:#x} to {entry.last:#x}"
    if not entry.zeros:
        if entry.changed <= _FEW:
            its = "its" if entry.ones == 1 else "their"
            return CHARGE_LOST, f"{_bits(entry.ones)} lost {its} charge (0 became 1)"
        if entry.raw and (blank := _blank_tail(entry.raw)):
            at = entry.block_size - blank
            if entry.first >= at:
                return PROGRAM_TORN, f"erased, and programmed up to byte {at:#x} only"
        if entry.blank == entry.changed:
            return PROGRAM_TORN, f"erased, and not programmed all the way: {span} are blank"
        return ERASE_TORN, f"an erase was interrupted: {_bits(entry.ones)} are 1, {span}"
    if not entry.ones:
        if entry.changed <= _FEW:
            return BITS, f"{_bits(entry.zeros)} became 0: disturbed by neighbours"
        return OVERWRITTEN, f"programmed over without an erase, {span}"
    if entry.changed <= _FEW:
        both = f"{_bits(entry.ones)} became 1, {entry.zeros} became 0"
        return BITS, f"{both}: weak cells, a weak supply, or bad reads"
    return OVERWRITTEN, f"other bytes were written there, {span}"


def _bits(count: int) -> str:
    return "1 bit" if count == 1 else f"{count} bits"


def _blank_tail(data: bytes) -> int:
    return len(data) - len(data.rstrip(b"\xff"))


def strip(entry: Evidence, cells: int = 16) -> str:
    """Where in the block it was damaged, as a line of so many cells; between differences that are
    not known one by one all counts as damaged."""
    size = max(entry.block_size, 1)
    offsets = [difference.offset for difference in entry.differences]
    damaged = {offset * cells // size for offset in offsets}
    if len(offsets) < entry.changed:
        after = offsets[-1] if offsets else entry.first
        damaged.update(range(after * cells // size, min(entry.last, size) * cells // size + 1))
    return "".join("#" if cell in damaged else "." for cell in range(cells))
