"""Putting a disk back as a recovery file says it was, and nothing that came later to harm."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.base.types import Progress
from lifeboat_host.disk import gpt
from lifeboat_host.disk.disk import Disk
from lifeboat_host.model.formats import UNIT, parse_region
from lifeboat_host.reserve.disk_map import DiskMap
from lifeboat_host.reserve.recovery_file import Extent, Part, Undo

VERBATIM, ENTRY, NOTHING = "verbatim", "entry", "nothing"


@dataclass(frozen=True)
class Way:
    """table: put back verbatim, delete only our entry, or do nothing; why: for people."""

    table: str
    why: str
    number: int = 0


def assess(disk: Disk, found: DiskMap, undo: Undo) -> Way:
    """What can be put back on that disk, of which `found` is the map; writes nothing.

    Raises LifeboatError: undo-disk (another disk), undo-stale (the range is no longer ours),
    gpt-damaged.
    """
    if (disk.size, disk.lba_size) != (undo.size, undo.lba_size):
        raise LifeboatError(
            "undo-disk",
            f"{disk.path}: {disk.size} bytes, sectors of {disk.lba_size}; the recovery file is "
            f"for a disk of {undo.size} bytes, sectors of {undo.lba_size}",
            f"it was made for {undo.disk}",
        )
    first, last = undo.start // disk.lba_size, undo.end // disk.lba_size - 1
    own = found.own_partition(first, last)
    entry = own if own and own.unique == undo.partition else None
    others = [str(part) for part in found.partitions if part != own and part.overlaps(first, last)]
    if not others and not (_header_there(disk, undo) or _only_ours(disk, undo)):
        # Our partition says so, too, when the headers were cleared and nothing was made since.
        if not (entry and _cleared(disk, undo)) or found.data_at(first, last):
            others.append("something that lifeboat has not written")
    if others:
        raise LifeboatError(
            "undo-stale",
            f"{disk.path}: the range of the recovery file now holds {'; '.join(others)}",
            "it is not touched; is this the right disk?",
        )
    if not undo.parts["table"].old:
        return Way(NOTHING, "the partition table was not changed")
    if _mixed(disk, undo.parts["table"]):
        _check_table(disk, found, undo)
        return Way(VERBATIM, "the partition table is as we left it: it is put back as it was")
    if not entry:
        return Way(NOTHING, "the partition table has changed and no longer has our partition")
    if found.refusal:
        raise found.refusal
    return Way(
        ENTRY, "the partition table has changed since: only our partition is deleted", entry.number
    )


class _AsWritten:
    """The disk with the partition table that the recovery file says was written."""

    def __init__(self, disk: Disk, extents: Iterable[Extent]) -> None:
        self.size, self.lba_size = disk.size, disk.lba_size
        self._disk, self._extents = disk, tuple(extents)

    def read(self, offset: int, size: int) -> bytes:
        data = bytearray(self._disk.read(offset, size))
        for extent in self._extents:
            extent.lay_over(data, offset)
        return bytes(data)


def _check_table(disk: Disk, found: DiskMap, undo: Undo) -> None:
    """Raise LifeboatError undo-broken unless all of the table's part is a partition table's.

    A recovery file is no more than a file: it could name any bytes of the disk. What it says was
    written has to be a GPT with our partition, what was there the same one without it, or nothing;
    and only that GPT's own sectors may change.
    """
    ours = (undo.partition, undo.start // disk.lba_size, undo.end // disk.lba_size - 1)
    table = undo.parts["table"]
    was, now = _AsWritten(disk, table.old), _AsWritten(disk, table.new)
    fresh = not any(extent.data for extent in table.old)
    own: list[tuple[int, int]] = []
    for at in (1, disk.size // disk.lba_size - 1):
        copy, before = gpt.read_copy(now, at), gpt.read_copy(was, at)
        rest = _names(copy) - {ours}
        if (
            copy
            and rest != _names(copy)
            and (not rest if fresh else before and rest == _names(before))
        ):
            entries = copy.entries_lba * disk.lba_size
            own += [
                (at * disk.lba_size, (at + 1) * disk.lba_size),
                (entries, entries + len(copy.entry_sectors)),
            ]
    if own and fresh and not any(now.read(0, 440)):
        own.append((0, disk.lba_size))  # its protective MBR, without a boot loader
    taken = [
        (part.first * disk.lba_size, (part.last + 1) * disk.lba_size) for part in found.partitions
    ]
    for extent in (*table.old, *table.new):
        inside = any(start <= extent.offset and extent.end <= end for start, end in own)
        if not inside or any(start < extent.end and extent.offset < end for start, end in taken):
            raise LifeboatError(
                "undo-broken",
                f"the recovery file would change bytes {extent.offset} to {extent.end - 1} of "
                f"{disk.path}, and that is not what takes our partition out of its table; nothing "
                "was changed",
                "who made this file? without it: lifeboat region remove, without --undo",
            )


def _names(copy: gpt.Copy | None) -> set[tuple[str, int, int]]:
    return {(p.unique, p.first, p.last) for p in copy.partitions} if copy else set()


def _header_there(disk: Disk, undo: Undo) -> bool:
    for offset in undo.copies:
        try:
            header = parse_region(
                disk.read(offset, UNIT),
                lba_size=disk.lba_size,
                disk_size=disk.size,
                found_at=offset,
            )
        except LifeboatError:
            continue
        if (header.region_id, header.start, header.end) == (undo.region_id, undo.start, undo.end):
            return True
    return False


def _cleared(disk: Disk, undo: Undo) -> bool:
    return all(disk.first_nonzero(at, at + UNIT) is None for at in undo.copies)


def _only_ours(disk: Disk, undo: Undo) -> bool:
    return _mixed(disk, undo.parts["headers"]) and _mixed(disk, undo.parts["body"])


def _mixed(disk: Disk, part: Part) -> bool:
    """Whether each byte is as it was or as it was written: nobody else has been here since.

    Power cuts leave such a mixture, torn sectors included.
    """
    for old in part.old:
        for piece in old.cut():
            if _same(disk, piece):
                continue
            now, was = disk.read(piece.offset, piece.size), piece.content
            new = bytearray(was)
            for extent in part.new:
                extent.lay_over(new, piece.offset)
            for at in range(0, piece.size, UNIT):
                unit = slice(at, at + UNIT)
                if now[unit] not in (was[unit], new[unit]) and any(
                    a not in (b, c) for a, b, c in zip(now[unit], was[unit], new[unit])
                ):
                    return False
    return True


def _same(disk: Disk, piece: Extent) -> bool:
    if piece.data is None:
        return disk.first_nonzero(piece.offset, piece.end) is None
    return disk.read(piece.offset, piece.size) == piece.data


def restore(disk: Disk, undo: Undo, way: Way, progress: Progress | None = None) -> None:
    """Put back what was there, as `assess` said; reads everything back.

    The body first, then the headers, then the table: cut short, the headers still tell that the
    range is ours, or all of it is as it was, and the same can be done again.
    Raises LifeboatError: disk-write, disk-read, undo-readback, gpt-readback.
    """
    disk.allow([(undo.start, undo.end)])
    _put_back(disk, undo.parts["body"].old, progress)
    _put_back(disk, undo.parts["headers"].old)
    if way.table == VERBATIM:
        # The copy of the table that was written last goes back first: one is whole at any time.
        extents = undo.parts["table"].old
        disk.allow([(extent.offset, extent.end) for extent in extents])
        for extent in reversed(extents):
            _put_back(disk, [extent])
    elif way.table == ENTRY:
        remove_entry(disk, way.number)


def remove_entry(disk: Disk, number: int) -> None:
    """Delete a partition from the disk's GPT. Raises LifeboatError gpt-damaged, gpt-readback."""
    table = gpt.read(disk, gpt.read_mbr(disk))
    if table is None or table.problem:
        raise LifeboatError(
            "gpt-damaged",
            f"{disk.path}: the GPT is damaged: {table.problem if table else 'it is gone'}",
            "repair it with gdisk or sgdisk first",
        )
    steps = gpt.remove_partition(table, number)
    disk.allow([(offset, offset + len(data)) for step in steps for offset, data in step])
    gpt.write(disk, steps)


def _put_back(disk: Disk, extents: Iterable[Extent], progress: Progress | None = None) -> None:
    pieces = [piece for extent in extents for piece in extent.cut()]
    total = 2 * len(pieces)
    for done, piece in enumerate(pieces, 1):
        if not _same(disk, piece):  # holes of files stay holes, and disks are not worn
            disk.write(piece.offset, piece.content)
        if progress:
            progress(done, total)
    disk.flush()
    for done, piece in enumerate(pieces, 1 + len(pieces)):
        if not _same(disk, piece):
            raise LifeboatError(
                "undo-readback",
                f"{disk.path}, offset 0x{piece.offset:x}: reads back otherwise than written",
                "do not trust this disk; keep the recovery file",
            )
        if progress:
            progress(done, total)
