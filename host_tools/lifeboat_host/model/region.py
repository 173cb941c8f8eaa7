"""Backup regions on member disks: find, inspect, verify, create."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Union

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.base.types import Progress
from lifeboat_host.disk import gpt
from lifeboat_host.disk.disk import Disk
from lifeboat_host.model.formats import (
    CANDIDATE,
    EVIDENCE,
    MAGICS,
    MANIFEST_AREA,
    MANIFEST_OFFSET,
    PARITY,
    PARTITION_TYPE,
    REGION,
    SLOT_SIZE_MIN,
    STATE,
    TAIL_UNITS,
    UNIT,
    Commit,
    Extent,
    Manifest,
    RegionHeader,
    manifest_size_max,
    pack_directory,
    parity_groups,
    parse_commit,
    parse_manifest,
    parse_region,
)

TAIL = "tail"
GPT = "gpt"
JOURNAL_UNITS = 32
STATE_UNITS = 2
BLOCK_SIZE_MAX = 262144  # of the boards here; room for one block is left where none is named
Where = Union[str, int]  # TAIL, GPT, or the LBA the region starts at

_ALIGN = 65536  # of slots: no large page of an SD card or SSD holds parts of two
_SPARE_HALF = 524288  # of evidence (and one block) and of parity
_PARTITIONS_MAX = 16  # of lifeboat's type that are looked at
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

    @property
    def agreed(self) -> bool:
        """Whether a board without a memory of the set may write to it."""
        head, *tails = (copy.state == "ok" for copy in self.copies)
        return head and any(tails)


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
    """The places of the page's list, in its order. Raises LifeboatError table-unknown."""
    table, mbr = gpt.read_table(disk), gpt.read_mbr(disk)
    theirs = mbr.primaries if mbr else ()
    ours = [part for part in table.partitions if part.type == PARTITION_TYPE] if table else []
    for partition in ours[:_PARTITIONS_MAX]:
        start, end = partition.first * disk.lba_size, (partition.last + 1) * disk.lba_size
        offsets = (start, end - 2 * UNIT, end - UNIT)
        yield _Candidate(f"partition {partition.number}", offsets, start, end)
    if not table:  # else the end of the disk is the backup table's
        end = units_end(disk)
        yield _Candidate(TAIL, (end - 2 * UNIT, end - UNIT), end=end, others=theirs)
    theirs += table.partitions if table else ()
    for lba in lbas:
        yield _Candidate(f"LBA {lba}", (lba * disk.lba_size,), others=theirs)


def units_end(disk: Disk) -> int:
    """The byte offset where the disk's last whole unit ends."""
    return disk.size // UNIT * UNIT


# What is seen at the place of a header copy: a header and its record, or why there is none.
_Seen = Union[tuple[RegionHeader, bytes], LifeboatError]


def _read_header(disk: Disk, offset: int) -> RegionHeader:
    return _read_copy(disk, offset)[0]


def _read_copy(disk: Disk, offset: int) -> tuple[RegionHeader, bytes]:
    """A header copy, and the bytes of its record."""
    if not 0 <= offset <= disk.size - UNIT:
        raise LifeboatError("region-place", f"{disk.path}: no room for a header at {offset}")
    data = disk.read(offset, UNIT)
    size, sector = disk.size, disk.lba_size
    header = parse_region(data, lba_size=sector, disk_size=size, found_at=offset)
    return header, data[: REGION.size]


def find(disk: Disk, lbas: Iterable[int] = ()) -> Found:
    """The disk's region: GPT partition, tail, then `lbas`, as docs/format.md orders them.

    Raises LifeboatError: region-none, whose message names headers that are there but damaged;
    region-version when there is none but one of a newer format; table-unknown.
    """
    misses = []
    newer: LifeboatError | None = None
    for candidate in _candidates(disk, lbas):
        first: RegionHeader | None = None  # its range is the region, whatever the others name
        for offset in candidate.offsets:
            try:
                header = _read_header(disk, offset)
            except LifeboatError as error:
                if error.code == "region-version":
                    newer = newer or error.located(f"{disk.path}, offset 0x{offset:x}")
                if error.code != "region-magic":
                    misses.append(f"offset 0x{offset:x}: {error.message}")
                continue
            why = candidate.miss(header)
            if why:
                misses.append(f"offset 0x{offset:x}: region: {why}")
            else:
                first = first or header
        if first:
            return _audit(disk, candidate.how, first)
    if newer:
        raise newer
    detail = f" ({'; '.join(misses)})" if misses else ""
    raise LifeboatError(
        "region-none",
        f"{disk.path}: no backup region{detail}",
        "create one with `lifeboat region create`, or give --lba if it is at a fixed place",
    )


def headers(disks: Iterable[Disk], lbas: Sequence[int] = ()) -> dict[str, RegionHeader]:
    """The region headers of the disks that have one, by the disks' names."""
    found = {}
    for disk in disks:
        try:
            found[str(disk.path)] = find(disk, lbas).header
        except LifeboatError as error:
            if error.code != "region-none":
                raise
    return found


def _audit(disk: Disk, how: str, first: RegionHeader) -> Found:
    """The region of that header: the valid copy with the highest serial counts, of equal ones
    the first; others are `ok` when they have the same bytes."""
    seen: list[_Seen] = []
    counting: tuple[RegionHeader, bytes] | None = None
    for offset in first.copies:
        try:
            copy = _read_copy(disk, offset)
        except LifeboatError as error:
            seen.append(error)
            continue
        seen.append(copy)
        same_place = (copy[0].start, copy[0].end) == (first.start, first.end)
        if same_place and (not counting or copy[0].header_serial > counting[0].header_serial):
            counting = copy
    # A disk that no longer gives what it gave before leaves none.
    header = counting[0] if counting else first
    copies = tuple(
        HeaderCopy(name, offset, _state(one, counting))
        for name, offset, one in zip(_COPY_NAMES, first.copies, seen)
    )
    return Found(header, how, copies)


def _state(seen: _Seen, counting: tuple[RegionHeader, bytes] | None) -> str:
    if isinstance(seen, LifeboatError):
        return seen.code
    return "ok" if counting and seen[1] == counting[1] else "differs"


# --- looking at slots ----------------------------------------------------------------------


@dataclass(frozen=True)
class Slot:
    """A slot; committed when it has a manifest, else `why` is the code that makes it free.

    candidate: the manifest of an update's candidate, which is free, too (`commit-candidate`).
    blocks: the byte offset of the code's first block on the disk.
    """

    index: int
    offset: int
    blocks: int
    commit: Commit | None = None
    manifest: Manifest | None = None
    why: str = ""
    candidate: Manifest | None = None

    @property
    def newer(self) -> bool:
        """Whether it is of a newer format: neither used nor given up."""
        return self.why.endswith("-version")

    @property
    def read_only(self) -> bool:
        """Whether it must be neither mended nor given up by this version."""
        parts = (self.commit, self.manifest)
        return any(part is not None and part.read_only for part in parts)

    def block(self, number: int) -> int:
        """Byte offset of a block of the copy on the disk."""
        assert self.manifest
        return self.blocks + number * self.manifest.block_size


@dataclass
class CopyCheck:
    """Outcome of reading a whole backup copy; bad: block numbers.

    xors: for each group of parity the XOR of its blocks, as integers.
    """

    slot: Slot
    manifest: Manifest
    bad: list[int] = field(default_factory=list)
    xors: list[int] = field(default_factory=list)


def read_slots(disk: Disk, header: RegionHeader) -> list[Slot]:
    """All slots of the region."""
    return [_read_slot(disk, header, index) for index in range(header.slot_count)]


def _read_slot(disk: Disk, header: RegionHeader, index: int) -> Slot:
    offset = header.slot(index)
    blocks = offset + header.blocks_offset
    try:
        record = disk.read(offset, UNIT)
        candidate = record.startswith(CANDIDATE)
        commit = parse_commit(record, region=header, slot=index, candidate=candidate)
        manifest = parse_manifest(disk.read(offset + MANIFEST_OFFSET, commit.manifest_size))
    except LifeboatError as error:
        return Slot(index, offset, blocks, why=error.code)
    if not commit.describes(manifest):
        return Slot(index, offset, blocks, why="commit-mismatch")
    if candidate:
        return Slot(index, offset, blocks, why="commit-candidate", candidate=manifest)
    return Slot(index, offset, blocks, commit, manifest)


def newest(slots: Iterable[Slot]) -> Slot | None:
    """The committed slot with the newest generation."""
    committed = [(slot.commit.age, slot) for slot in slots if slot.commit]
    return max(committed, key=lambda item: item[0])[1] if committed else None


def verify(disk: Disk, slots: Iterable[Slot], progress: Progress | None = None) -> list[CopyCheck]:
    """Read every block of every committed slot and hold it against the copy's manifest."""
    checks = [CopyCheck(slot, slot.manifest) for slot in slots if slot.manifest]
    total = sum(check.manifest.block_count for check in checks)
    done = 0
    for check in checks:
        manifest = check.manifest
        check.xors = [0] * parity_groups(manifest.block_count)
        for block in range(manifest.block_count):
            data = _good_block(disk, check.slot, manifest, block)
            if data is None:
                check.bad.append(block)
            else:
                check.xors[block % len(check.xors)] ^= int.from_bytes(data, "little")
            done += 1
            if progress:
                progress(done, total)
    return checks


def block_offset(
    slot_offset: int, manifest: Manifest, block: int, manifest_room: int = MANIFEST_AREA
) -> int:
    """Where a block of the copy in that slot is on the disk."""
    return slot_offset + MANIFEST_OFFSET + manifest_room + block * manifest.block_size


def _good_block(disk: Disk, slot: Slot, manifest: Manifest, block: int) -> bytes | None:
    try:
        data = disk.read(slot.block(block), manifest.block_size)
    except LifeboatError:
        return None  # a sector that cannot be read is damage to report, not a reason to stop
    return data if all(manifest.block_matches(block, data)) else None


# --- creating ------------------------------------------------------------------------------


def manifest_area_for(flash_size: int, block_size: int) -> int:
    """Bytes that a slot needs for the manifest of the largest image of such a flash."""
    size = manifest_size_max(flash_size // block_size - 1)
    return max(MANIFEST_AREA, size + -size % MANIFEST_AREA)


def slot_size_for(flash_size: int, block_size: int) -> int:
    """Bytes of a slot that holds the largest image of such a flash."""
    area = manifest_area_for(flash_size, block_size)
    return MANIFEST_OFFSET + area + flash_size - block_size


def _behind_slots(block_size: int) -> int:
    """Bytes of journal, extents and tail copies."""
    units = JOURNAL_UNITS + STATE_UNITS + TAIL_UNITS
    return units * UNIT + 2 * _SPARE_HALF + block_size + -block_size % UNIT


def size_for(slot_size: int, slots: int, block_size: int = BLOCK_SIZE_MAX) -> int:
    """Bytes of a region with that many slots, for code in blocks of that size."""
    return _ALIGN + slots * (slot_size + -slot_size % _ALIGN) + _behind_slots(block_size)


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
    block_size: int = BLOCK_SIZE_MAX,
    manifest_area: int = MANIFEST_AREA,
    product: str = "",
) -> list[RegionHeader]:
    """Headers of a new set, one per disk in that order; writes nothing.

    size: bytes of the region (default: just enough). The rest: see new_headers().
    """
    if not 2 <= slots <= 16:
        raise LifeboatError("region-field", f"{slots} slots", "a region has 2 to 16 slots")
    size = size or size_for(need, slots, block_size)
    return new_headers(
        disks,
        [place(disk, where, size) for disk in disks],
        slots=slots,
        need=need,
        block_size=block_size,
        manifest_area=manifest_area,
        product=product,
    )


def new_headers(
    disks: Sequence[Disk],
    places: Sequence[tuple[int, int]],
    *,
    slots: int,
    need: int,
    block_size: int = BLOCK_SIZE_MAX,
    manifest_area: int = MANIFEST_AREA,
    product: str = "",
) -> list[RegionHeader]:
    """Headers of a new set at these places, each (start_lba, sectors); writes nothing.

    need: least bytes of a slot. block_size: of the code, for which room is left as evidence.
    """
    set_id = os.urandom(16)
    headers = []
    for index, (disk, (start_lba, sectors)) in enumerate(zip(disks, places)):
        room = sectors * disk.lba_size
        slot_size = (room - _ALIGN - _behind_slots(block_size)) // slots // _ALIGN * _ALIGN
        if slot_size < max(need, SLOT_SIZE_MIN):
            raise LifeboatError(
                "region-small",
                f"{disk.path}: {room} bytes are too few for {slots} slots of {need} bytes",
                f"the region needs {size_for(need, slots, block_size)} bytes",
            )
        journal = _ALIGN + slots * slot_size
        header = RegionHeader(
            lba_size=disk.lba_size,
            set_id=set_id,
            region_id=os.urandom(16),
            start_lba=start_lba,
            sectors=sectors,
            member_index=index,
            member_count=len(disks),
            slot_count=slots,
            slot_size=slot_size,
            journal_offset=journal,
            journal_units=JOURNAL_UNITS,
            product=product,
            manifest_area=0 if manifest_area == MANIFEST_AREA else manifest_area,
            slots_offset=_ALIGN,
            directory=_new_directory(journal + JOURNAL_UNITS * UNIT, block_size),
        )
        header.check()
        headers.append(header)
    return headers


def _new_directory(offset: int, block_size: int) -> bytes:
    """The extents of a new region, from that offset on."""
    extents = []
    block_units = -(-block_size // UNIT)
    half = _SPARE_HALF // UNIT
    for kind, units in ((STATE, STATE_UNITS), (EVIDENCE, half + block_units), (PARITY, half)):
        extents.append(Extent(kind, 0, units, offset))
        offset = extents[-1].end
    return pack_directory(extents)


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
    if member.read_only:
        raise read_only_error(member)
    size = sectors * disk.lba_size if sectors else member.size
    start_lba, sectors = place(disk, where, size)
    header = replace(
        member,
        lba_size=disk.lba_size,
        region_id=os.urandom(16),
        start_lba=start_lba,
        sectors=sectors,
        member_index=index,
        header_serial=0,
    )
    header.check()
    # What does not fit behind the slots of a smaller region is not there.
    if header.journal is None:
        header = replace(header, journal_offset=0, journal_units=0)
    return replace(header, directory=pack_directory(header.extents))


def read_only_error(header: RegionHeader) -> LifeboatError:
    """The error for a region that this version may only read."""
    return LifeboatError(
        "region-version",
        f"the region at LBA {header.start_lba} has a feature of a newer format: "
        "this version only reads it",
        "use a lifeboat release that knows this format; do not overwrite it",
    )


def fresh_units(header: RegionHeader) -> dict[int, bytes]:
    """What makes a range that region: byte offsets of units, and what to write there.

    First what frees the slots, the journal and the extents' beginnings, then the header copies,
    the head copy last.
    """
    units = [header.slot(index) for index in range(header.slot_count)]
    if header.journal:
        journal, count = header.journal
        units += [journal + index * UNIT for index in range(count)]
    for extent in header.extents:
        first = header.start + extent.offset
        units += [first + index * UNIT for index in range(min(extent.units, STATE_UNITS))]
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
    write_units(disk, {at: data for at, data in fresh.items() if at not in header.copies})
    write_units(disk, {at: data for at, data in fresh.items() if at in header.copies})


def retire(disk: Disk, header: RegionHeader) -> None:
    """Make the range no region any more: its commit records and header copies become zeros.

    What stands in their places and is neither stays: somebody else has written it.
    Raises LifeboatError: disk-write, disk-read, region-readback; region-version when this version
    may not write there.
    """
    if header.read_only:
        raise read_only_error(header)
    disk.allow([(header.start, header.end)])
    slots = [header.slot(index) for index in range(header.slot_count)]
    records = (MAGICS["commit"], CANDIDATE)
    for offsets, magics in ((slots, records), (header.copies, (MAGICS["region"],))):
        ours = [at for at in offsets if _unreadable_or(magics, disk, at)]
        write_units(disk, dict.fromkeys(ours, bytes(UNIT)))


def _unreadable_or(magics: tuple[bytes, ...], disk: Disk, offset: int) -> bool:
    try:
        return disk.read(offset, UNIT).startswith(magics)
    except LifeboatError:
        return True  # nothing is lost by writing there, and it may be readable again later


def write_units(disk: Disk, units: dict[int, bytes]) -> None:
    """Write bytes at byte offsets, flush, and read all of it back.

    Raises LifeboatError: disk-write, disk-read, region-readback.
    """
    for offset, data in units.items():
        disk.write(offset, data)
    disk.flush()
    for offset, data in units.items():
        if disk.read(offset, len(data)) != data:
            raise LifeboatError(
                "region-readback",
                f"{disk.path}, offset 0x{offset:x}: reads back otherwise than it was written",
                "do not trust this disk",
            )
