"""Backup regions on member disks: find, inspect, verify, create."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Union

from lifeboat_host import gpt
from lifeboat_host.disks import Disk
from lifeboat_host.errors import LifeboatError
from lifeboat_host.formats import (
    BLOCKS_OFFSET,
    MAGICS,
    MANIFEST_LIMIT,
    MANIFEST_OFFSET,
    PARTITION_TYPE,
    SLOT_SIZE_MIN,
    SPARE_MIN,
    TAIL_UNITS,
    UNIT,
    Commit,
    Manifest,
    RegionHeader,
    parse_commit,
    parse_manifest,
    parse_region,
)
from lifeboat_host.image import Progress

TAIL = "tail"
GPT = "gpt"
JOURNAL_UNITS = SPARE_MIN // UNIT
Where = Union[str, int]  # TAIL, GPT, or the LBA the region starts at

_OVERHEAD = (1 + TAIL_UNITS) * UNIT + SPARE_MIN
_COPY_NAMES = ("head", "first tail", "second tail")


# --- finding -------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeaderCopy:
    """state: `ok`, `differs` (valid, but not the header that counts), or an error code."""

    name: str
    offset: int
    state: str


@dataclass(frozen=True)
class Found:
    """A region; how: `partition N`, `tail` or `LBA N`."""

    header: RegionHeader
    how: str
    copies: tuple[HeaderCopy, ...]

    @property
    def headers_ok(self) -> bool:
        return all(copy.state == "ok" for copy in self.copies)


@dataclass
class _Candidate:
    """A place to look at: header copies at these offsets, of a region in these bounds.

    others: partitions that must not reach into it.
    """

    how: str
    offsets: Sequence[int]
    start: int | None = None
    end: int | None = None
    others: Sequence[gpt.Partition] = ()

    def miss(self, header: RegionHeader) -> str:
        """Why a region with that header is not used; empty when it is."""
        if self.start not in (None, header.start) or self.end not in (None, header.end):
            return f"not of this {self.how}"
        last = header.start_lba + header.sectors - 1
        for partition in self.others:
            if partition.overlaps(header.start_lba, last):
                return f"{partition} reaches into it"
        return ""


def _candidates(disk: Disk, lbas: Iterable[int]) -> Iterator[_Candidate]:
    table, mbr = gpt.read_table(disk), gpt.read_mbr(disk)
    theirs = mbr.partitions if mbr else ()
    for partition in table.partitions if table else ():
        if partition.type == PARTITION_TYPE:
            start, end = partition.first * disk.lba_size, (partition.last + 1) * disk.lba_size
            offsets = (start, end - 2 * UNIT, end - UNIT)
            yield _Candidate(f"partition {partition.number}", offsets, start, end)
    if not table or table.kind == "mbr":  # else the end of the disk is the backup table's
        end = units_end(disk)
        yield _Candidate(TAIL, (end - 2 * UNIT, end - UNIT), end=end, others=theirs)
    theirs += table.partitions if table else ()
    for lba in lbas:
        yield _Candidate(f"LBA {lba}", (lba * disk.lba_size,), others=theirs)


def units_end(disk: Disk) -> int:
    """The byte offset where the disk's last whole unit ends."""
    return disk.size // UNIT * UNIT


def _read_header(disk: Disk, offset: int) -> RegionHeader:
    if not 0 <= offset <= disk.size - UNIT:
        raise LifeboatError("region-place", f"{disk.path}: no room for a header at {offset}")
    data = disk.read(offset, UNIT)
    return parse_region(data, lba_size=disk.lba_size, disk_size=disk.size, found_at=offset)


def find(disk: Disk, lbas: Iterable[int] = ()) -> Found:
    """The disk's region: GPT partition, tail, then `lbas`, as docs/format.md orders them.

    Raises LifeboatError region-none; its message names headers that are there but damaged.
    """
    misses = []
    for candidate in _candidates(disk, lbas):
        for offset in candidate.offsets:
            try:
                header = _read_header(disk, offset)
            except LifeboatError as error:
                if error.code != "region-magic":
                    misses.append(f"offset 0x{offset:x}: {error.message}")
                continue
            why = candidate.miss(header)
            if not why:
                return Found(header, candidate.how, _header_copies(disk, header))
            misses.append(f"offset 0x{offset:x}: region: {why}")
    detail = f" ({'; '.join(misses)})" if misses else ""
    raise LifeboatError(
        "region-none",
        f"{disk.path}: no backup region{detail}",
        "create one with `lifeboat region create`, or give --lba if it is at a fixed place",
    )


def _header_copies(disk: Disk, header: RegionHeader) -> tuple[HeaderCopy, ...]:
    copies = []
    for name, offset in zip(_COPY_NAMES, header.copies):
        try:
            state = "ok" if _read_header(disk, offset) == header else "differs"
        except LifeboatError as error:
            state = error.code
        copies.append(HeaderCopy(name, offset, state))
    return tuple(copies)


# --- looking at slots ----------------------------------------------------------------------


@dataclass(frozen=True)
class Slot:
    """A slot; committed when it has a manifest, else `why` is the code that makes it free."""

    index: int
    offset: int
    commit: Commit | None = None
    manifest: Manifest | None = None
    why: str = ""


@dataclass
class CopyCheck:
    """Outcome of reading a whole backup copy; bad: block numbers."""

    slot: Slot
    manifest: Manifest
    bad: list[int] = field(default_factory=list)


def read_slots(disk: Disk, header: RegionHeader) -> list[Slot]:
    """All slots of the region."""
    return [_read_slot(disk, header, index) for index in range(header.slot_count)]


def _read_slot(disk: Disk, header: RegionHeader, index: int) -> Slot:
    offset = header.slot(index)
    try:
        commit = parse_commit(disk.read(offset, UNIT), region=header, slot=index)
        manifest = parse_manifest(disk.read(offset + MANIFEST_OFFSET, MANIFEST_LIMIT))
    except LifeboatError as error:
        return Slot(index, offset, why=error.code)
    if not commit.describes(manifest):
        return Slot(index, offset, why="commit-mismatch")
    return Slot(index, offset, commit, manifest)


def newest(slots: Iterable[Slot]) -> Slot | None:
    """The committed slot with the highest generation."""
    committed = [slot for slot in slots if slot.commit]
    return max(
        committed, key=lambda slot: slot.commit.generation if slot.commit else 0, default=None
    )


def verify(disk: Disk, slots: Iterable[Slot], progress: Progress | None = None) -> list[CopyCheck]:
    """Read every block of every committed slot and hold it against the copy's manifest."""
    checks = [CopyCheck(slot, slot.manifest) for slot in slots if slot.manifest]
    total = sum(check.manifest.block_count for check in checks)
    done = 0
    for check in checks:
        manifest = check.manifest
        for block in range(manifest.block_count):
            if not _block_good(disk, check.slot.offset, manifest, block):
                check.bad.append(block)
            done += 1
            if progress:
                progress(done, total)
    return checks


def _block_good(disk: Disk, slot_offset: int, manifest: Manifest, block: int) -> bool:
    try:
        data = disk.read(block_offset(slot_offset, manifest, block), manifest.block_size)
    except LifeboatError:
        return False  # a sector that cannot be read is damage to report, not a reason to stop
    return all(manifest.block_matches(block, data))


def block_offset(slot_offset: int, manifest: Manifest, block: int) -> int:
    """Where a block of the copy in that slot is on the disk."""
    return slot_offset + BLOCKS_OFFSET + block * manifest.block_size


# --- creating ------------------------------------------------------------------------------


def slot_size_for(flash_size: int, block_size: int) -> int:
    """Bytes of a slot that holds the largest image of such a flash."""
    return BLOCKS_OFFSET + flash_size - block_size


def size_for(slot_size: int, slots: int) -> int:
    """Bytes of a region with that many slots."""
    return _OVERHEAD + slots * (slot_size + -slot_size % UNIT)


def place(disk: Disk, where: Where, size: int) -> tuple[int, int]:
    """(start_lba, sectors) of a region of at least `size` bytes, rounded up to whole units.

    where=GPT: the partition of lifeboat's type, whatever its size. Raises region-place.
    """
    size += -size % UNIT
    if where == GPT:
        table = gpt.read_table(disk)
        for partition in table.partitions if table else ():
            if partition.type == PARTITION_TYPE:
                start = partition.first * disk.lba_size
                size = (partition.last + 1) * disk.lba_size - start
                break
        else:
            raise LifeboatError(
                "region-place",
                f"{disk.path}: no GPT partition of type {PARTITION_TYPE}",
                "make one with a partitioning tool, or leave --gpt out",
            )
    elif where == TAIL:
        start = units_end(disk) - size
    else:
        start = int(where) * disk.lba_size
    if start <= 0 or start + size > disk.size or start % UNIT or size % UNIT:
        raise LifeboatError(
            "region-place",
            f"{disk.path}: {size} bytes at byte {start} are not on the disk in whole "
            f"{UNIT} byte units (the disk has {disk.size} bytes)",
            "choose another --lba or --size; start and end are multiples of 4096 bytes",
        )
    return start // disk.lba_size, size // disk.lba_size


def new_set(
    disks: Sequence[Disk],
    where: Where,
    *,
    slots: int = 2,
    size: int | None = None,
    need: int = SLOT_SIZE_MIN,
) -> list[RegionHeader]:
    """Headers of a new set, one per disk in that order; writes nothing.

    size: bytes of the region (default: just enough). need: least bytes of a slot.
    """
    if not 2 <= slots <= 16:
        raise LifeboatError("region-field", f"{slots} slots", "a region has 2 to 16 slots")
    places = [place(disk, where, size or size_for(need, slots)) for disk in disks]
    return new_headers(disks, places, slots=slots, need=need)


def new_headers(
    disks: Sequence[Disk], places: Sequence[tuple[int, int]], *, slots: int, need: int
) -> list[RegionHeader]:
    """Headers of a new set at these places, each (start_lba, sectors); writes nothing."""
    set_id = os.urandom(16)
    headers = []
    for index, (disk, (start_lba, sectors)) in enumerate(zip(disks, places)):
        room = sectors * disk.lba_size
        slot_size = (room - _OVERHEAD) // slots // UNIT * UNIT
        if slot_size < need:
            raise LifeboatError(
                "region-small",
                f"{disk.path}: {room} bytes are too few for {slots} slots of {need} bytes",
                f"the region needs {size_for(need, slots)} bytes",
            )
        headers.append(
            _header(
                disk,
                set_id=set_id,
                start_lba=start_lba,
                sectors=sectors,
                member_index=index,
                member_count=len(disks),
                slot_count=slots,
                slot_size=slot_size,
            )
        )
    return headers


def joining(
    member: RegionHeader,
    disk: Disk,
    where: Where,
    index: int | None,
    sectors: int | None = None,
) -> RegionHeader:
    """Header of a new member for the set of `member`; writes nothing.

    index: which member it replaces; may be None in a set of two. sectors: the length, where it
    is not the member's.
    """
    if index is None and member.member_count == 2:
        index = 1 - member.member_index
    if index is None or not 0 <= index < member.member_count or index == member.member_index:
        raise LifeboatError(
            "region-member",
            f"{disk.path}: which of the {member.member_count} members is it to be?",
            f"give --member, 0 to {member.member_count - 1}, not {member.member_index}",
        )
    size = sectors * disk.lba_size if sectors else member.size
    start_lba, sectors = place(disk, where, size)
    return _header(
        disk,
        set_id=member.set_id,
        start_lba=start_lba,
        sectors=sectors,
        member_index=index,
        member_count=member.member_count,
        slot_count=member.slot_count,
        slot_size=member.slot_size,
    )


def _header(
    disk: Disk, *, set_id: bytes, slot_count: int, slot_size: int, **rest: int
) -> RegionHeader:
    """A header of its own id; the journal is right after the slots, where there is room."""
    journal = UNIT + slot_count * slot_size
    room = rest["sectors"] * disk.lba_size - TAIL_UNITS * UNIT - journal
    units = JOURNAL_UNITS if room >= JOURNAL_UNITS * UNIT else 0
    header = RegionHeader(
        lba_size=disk.lba_size,
        set_id=set_id,
        region_id=os.urandom(16),
        slot_count=slot_count,
        slot_size=slot_size,
        journal_offset=journal if units else 0,
        journal_units=units,
        **rest,
    )
    header.check()
    return header


def fresh_units(header: RegionHeader) -> dict[int, bytes]:
    """What makes a range that region: byte offsets of units, and what to write there.

    First what frees the slots and the journal, then the header copies, the head copy last.
    """
    units = [header.slot(index) for index in range(header.slot_count)]
    journal = header.start + header.journal_offset
    units += [journal + index * UNIT for index in range(header.journal_units)]
    packed = header.pack()
    return {
        **dict.fromkeys(units, bytes(UNIT)),
        **dict.fromkeys(reversed(header.copies), packed),
    }


def create(disk: Disk, header: RegionHeader) -> None:
    """Write the region: all slots are freed, the journal is emptied. Reads everything back.

    Writes nowhere else, and looks at nothing that is there: `reserve` does.
    Raises LifeboatError: disk-write, disk-read, region-readback.
    """
    disk.allow([(header.start, header.end)])
    fresh = fresh_units(header)
    _write_units(disk, {at: data for at, data in fresh.items() if at not in header.copies})
    _write_units(disk, {at: data for at, data in fresh.items() if at in header.copies})


def retire(disk: Disk, header: RegionHeader) -> None:
    """Make the range no region any more: its commit records and header copies become zeros.

    What stands in their places and is neither stays: somebody else has written it.
    Raises LifeboatError: disk-write, disk-read, region-readback.
    """
    disk.allow([(header.start, header.end)])
    slots = [header.slot(index) for index in range(header.slot_count)]
    for offsets, magic in ((slots, MAGICS["commit"]), (header.copies, MAGICS["region"])):
        ours = [at for at in offsets if _unreadable_or(magic, disk, at)]
        _write_units(disk, dict.fromkeys(ours, bytes(UNIT)))


def _unreadable_or(magic: bytes, disk: Disk, offset: int) -> bool:
    try:
        return disk.read(offset, UNIT).startswith(magic)
    except LifeboatError:
        return True  # nothing is lost by writing there, and it may be readable again later


def _write_units(disk: Disk, units: dict[int, bytes]) -> None:
    for offset, data in units.items():
        disk.write(offset, data)
    disk.flush()
    for offset, data in units.items():
        if disk.read(offset, UNIT) != data:
            raise LifeboatError(
                "region-readback",
                f"{disk.path}, offset 0x{offset:x}: reads back otherwise than it was written",
                "do not trust this disk",
            )
