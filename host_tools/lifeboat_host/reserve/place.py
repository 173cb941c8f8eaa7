"""Reserving a range of a disk for a backup region: decide where, then do it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import Union

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.base.types import Progress
from lifeboat_host.disk import gpt
from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import region
from lifeboat_host.model.formats import (
    MAGICS,
    PARTITION_TYPE,
    UNIT,
    RegionHeader,
    newer_region,
)
from lifeboat_host.reserve.disk_map import DiskMap, Piece

AUTO = "auto"
Way = Union[str, int]  # AUTO, region.TAIL, region.GPT, or an LBA

PARTITION_NAME = "lifeboat"
_ALIGN = 1 << 20  # what partitioning tools align to
_STEP = 1 << 20
_LOADERS = 64 << 20  # bytes


@dataclass(frozen=True)
class Place:
    """A range that can be had, in LBAs. table: what to write for it to be a partition.

    how: for people. used: the first and last LBA in it that is not zero. beside: an LBA of
    somebody unknown in the same free range. partition: its own GUID when the table gets a new
    entry.
    """

    first: int
    sectors: int
    how: str
    table: gpt.Steps = ()
    partition: str = ""
    used: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    beside: int | None = None

    @property
    def last(self) -> int:
        return self.first + self.sectors - 1

    @property
    def asked(self) -> tuple[int, int] | None:
        """The first and last LBA that a person has to name before it is taken, if any."""
        return self.used if self.beside is None else (self.first, self.last)


def choose(
    disk: Disk, found: DiskMap, way: Way, size: int, progress: Progress | None = None
) -> Place:
    """Where a region of `size` bytes goes on that disk; writes nothing.

    Raises LifeboatError with why not: disk-claimed, disk-unknown, table-unknown, table-mbr,
    gpt-damaged, gpt-full, mbr-damaged, region-exists, region-version, region-overlap, region-room,
    region-place.
    """
    if found.refusal:
        raise found.refusal
    if found.region:
        raise LifeboatError(
            "region-exists",
            f"{disk.path}: it has a backup region already ({found.region.how})",
            "give it up first: lifeboat region remove",
        )
    size += -size % UNIT
    if way == AUTO:
        way = region.GPT if found.table == "gpt" else region.TAIL
        _refuse_unknown(disk, found)
    if way == region.GPT:
        place = _in_gpt(disk, found, size)
    else:
        place = _in_the_open(disk, found, way, size)
    return replace(place, used=_used(disk, place, progress))


def _refuse_unknown(disk: Disk, found: DiskMap) -> None:
    if found.unknown is not None:
        raise LifeboatError(
            "disk-unknown",
            f"{disk.path}: it is not blank (LBA {found.unknown} is not zero) and holds nothing "
            "that is recognised: whose is it?",
            "use another disk; if what is there keeps off the disk's end, say so with --tail",
        )


def _in_the_open(disk: Disk, found: DiskMap, way: Way, size: int) -> Place:
    """At the disk's end or at a given LBA, outside of any partition."""
    first, sectors = region.place(disk, way, size)
    last = first + sectors - 1
    others = found.holding(first, last)
    if others:
        room = max((piece.last - piece.first + 1 for piece in found.free), default=0)
        raise LifeboatError(
            "region-overlap",
            f"{disk.path}: LBA {first} to {last} overlaps {'; '.join(map(str, others))}",
            f"the largest free range has {room * disk.lba_size} bytes"
            + ("; leave --tail and --lba out to have a partition" if found.table == "gpt" else ""),
        )
    notes = []
    if way != region.TAIL:
        # The last unit's header copy makes up for a damaged one in the first.
        copies = f"{first} and {last + 1 - UNIT // disk.lba_size}"
        notes.append(f"boards look there only when board.py has REGION_LBAS name {copies}")
    if found.table != "none":
        notes.append("the partition table does not show it: keep new partitions off this range")
    if found.unknown is not None:
        notes.append(
            f"something that is not recognised is on this disk from LBA {found.unknown} on: "
            "be sure that it never uses this range"
        )
    how = "tail of the disk" if way == region.TAIL else f"LBA {first}"
    return Place(first, sectors, how, notes=tuple(notes))


def _in_gpt(disk: Disk, found: DiskMap, size: int) -> Place:
    if found.table == "mbr":
        raise LifeboatError(
            "table-mbr",
            f"{disk.path}: it has an MBR, not a GPT",
            "leave --gpt out, or convert it with sgdisk --mbrtogpt",
        )
    if found.gpt is None:
        return _in_new_gpt(disk, found, size)
    for part in found.partitions:
        if part.type == PARTITION_TYPE:
            if found.contents[part.number]:
                raise LifeboatError(
                    "region-overlap",
                    f"{disk.path}: {part} has lifeboat's type, but holds "
                    f"{found.contents[part.number]}",
                    "give it the type of what it holds",
                )
            size = (part.last - part.first + 1) * disk.lba_size
            first, sectors = region.place(disk, part.first, size)
            return Place(first, sectors, f"partition {part.number}, which is there")
    # From the disk's end: what is free stays in one piece for others.
    # A gap with a boot loader in it only when there is no other, and when a person says so.
    loaders = {piece: _loader(disk, piece) for piece in found.free}
    for piece in sorted(found.free, key=lambda piece: (bool(loaders[piece]), -piece.first)):
        fit = _fit(disk, piece.first, piece.last, size)
        if fit is not None:
            sectors = size // disk.lba_size
            loader = loaders[piece] if fit * disk.lba_size < _LOADERS else None
            own = str(uuid.uuid4()).upper()
            steps = gpt.add_partition(
                found.gpt, PARTITION_TYPE, own, fit, fit + sectors - 1, PARTITION_NAME
            )
            new = Place(fit, sectors, "a new partition in the GPT", steps, own)
            if loader is not None:
                text = f"the same free range has something at LBA {loader}: is it a boot loader's?"
                new = replace(new, beside=loader, notes=(text,))
            return new
    raise _no_room(disk, found, size)


def _loader(disk: Disk, piece: Piece) -> int | None:
    """The first LBA of a free range that is not zero, where boot loaders live outside of any
    partition (Rockchip's begin at LBA 64 and 16384)."""
    start, end = piece.first * disk.lba_size, (piece.last + 1) * disk.lba_size
    at = disk.first_nonzero(start, min(end, _LOADERS)) if start < _LOADERS else None
    return None if at is None else at // disk.lba_size


def _in_new_gpt(disk: Disk, found: DiskMap, size: int) -> Place:
    _refuse_unknown(disk, found)
    low, high = gpt.new_usable(disk)
    first = _fit(disk, low, high, size)
    if first is None:
        raise _no_room(disk, found, size)
    if disk.first_nonzero((high + 1) * disk.lba_size, disk.size) is not None:
        raise LifeboatError(
            "disk-unknown",
            f"{disk.path}: LBA {high + 1} and up are not zero, where the GPT's backup copy goes",
            "leave --gpt out, or clear the disk's end first",
        )
    sectors = size // disk.lba_size
    own = str(uuid.uuid4()).upper()
    steps = gpt.new_table(disk, PARTITION_TYPE, own, first, first + sectors - 1, PARTITION_NAME)
    return Place(first, sectors, "the only partition of a new GPT", steps, own)


def _fit(disk: Disk, low: int, high: int, size: int) -> int | None:
    """The highest aligned LBA from which `size` bytes fit into [low, high]."""
    end = (high + 1) * disk.lba_size - size
    for align in (_ALIGN, UNIT):
        start = end - end % align
        if start >= max(low * disk.lba_size, UNIT):
            return start // disk.lba_size
    return None


def _no_room(disk: Disk, found: DiskMap, size: int) -> LifeboatError:
    room = max((piece.last - piece.first + 1 for piece in found.free), default=0)
    return LifeboatError(
        "region-room",
        f"{disk.path}: no free range has room for {size} bytes "
        f"(the largest has {room * disk.lba_size})",
        "make a partition smaller, use another disk, or a smaller --size",
    )


def _used(disk: Disk, place: Place, progress: Progress | None) -> tuple[int, int] | None:
    """The first and last LBA of the place that is not zero.

    Raises LifeboatError region-version for a region of a newer format that begins or ends there.
    """
    start, end = place.first * disk.lba_size, (place.last + 1) * disk.lba_size
    at = disk.first_nonzero(start, end, progress)
    if at is None:
        return None
    first = last = at
    while at is not None:
        at -= at % UNIT  # headers stand at the beginning of units
        size = min(_STEP, end - at)
        data = disk.read(at, size)
        last = at + len(data.rstrip(b"\0")) - 1
        for unit in range(0, size, UNIT):
            if data.startswith(MAGICS["region"], unit):
                newer = newer_region(data[unit : unit + UNIT])
                if newer:
                    raise newer.located(f"{disk.path}, offset 0x{at + unit:x}")
        at = disk.first_nonzero(at + size, end)
        if progress:
            progress(last - start, end - start)
    return first // disk.lba_size, last // disk.lba_size


def carry_out(disk: Disk, place: Place, header: RegionHeader) -> None:
    """Write what `choose` said, then look whether the region is found. The caller has consent.

    The region first: a power cut before the table names it leaves a range that nobody uses.
    Raises LifeboatError: disk-write, disk-read, region-readback, gpt-readback, region-none.
    """
    disk.allow([(offset, offset + len(data)) for step in place.table for offset, data in step])
    region.create(disk, header)
    gpt.write(disk, place.table)
    region.find(disk, [header.start_lba])
