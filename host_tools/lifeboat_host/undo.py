"""The recovery file: what a reservation changes on a disk, written before anything is changed.

JSON. For each part of the disk that changes (`table`: sectors of the partition table; `headers`:
the units of the region's header copies; `body`: the rest of the region) it holds `old`, what was
there, and `new`, what was written. Both are lists of ranges of bytes: `offset`, `size`, and for
one that is not all zeros `data` (deflate, then base64) and `sha256` (of the bytes themselves).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lifeboat_host import gpt, region
from lifeboat_host.diskmap import DiskMap
from lifeboat_host.disks import Disk
from lifeboat_host.errors import LifeboatError
from lifeboat_host.formats import PARTITION_TYPE, UNIT, RegionHeader, parse_region
from lifeboat_host.image import PathLike, Progress
from lifeboat_host.reserve import Place

_VERSION = 1
_STEP = 1 << 20
_PARTS = ("table", "headers", "body")


@dataclass(frozen=True)
class Extent:
    """Bytes of the disk; data=None: all of them are zero."""

    offset: int
    size: int
    data: bytes | None = None

    @property
    def end(self) -> int:
        return self.offset + self.size

    @property
    def content(self) -> bytes:
        return bytes(self.size) if self.data is None else self.data

    def cut(self) -> Iterator[Extent]:
        """The same in pieces that are small enough to handle in memory."""
        for at in range(0, self.size, _STEP):
            data = None if self.data is None else self.data[at : at + _STEP]
            yield Extent(self.offset + at, min(_STEP, self.size - at), data)


@dataclass(frozen=True)
class Part:
    """old covers the part without gaps; new: what was written, in the order of writing."""

    old: tuple[Extent, ...] = ()
    new: tuple[Extent, ...] = ()


@dataclass(frozen=True)
class Undo:
    """What a recovery file says. partition: the GUID of the entry that was added, or empty."""

    disk: str
    size: int
    lba_size: int
    region_id: bytes
    start: int
    end: int
    partition: str
    parts: dict[str, Part] = field(default_factory=dict)

    @property
    def copies(self) -> tuple[int, int, int]:
        """Byte offsets of the region's header copies."""
        return self.start, self.end - 2 * UNIT, self.end - UNIT


def file_name(disk: Disk, region_id: bytes) -> str:
    """The usual name of a recovery file."""
    return f"lifeboat-undo-{disk.path.name}-{region_id.hex()[:8]}.json"


# --- taking down ---------------------------------------------------------------------------


def take(disk: Disk, place: Place, header: RegionHeader, progress: Progress | None = None) -> Undo:
    """Read what the reservation is going to change. Raises LifeboatError disk-read."""
    fresh = region.fresh_units(header)
    written: dict[str, list[Extent]] = {
        "table": [Extent(at, len(data), data) for step in place.table for at, data in step],
        "headers": [Extent(at, UNIT, fresh[at]) for at in reversed(header.copies)],
        "body": [Extent(at, UNIT) for at in fresh if at not in header.copies],
    }
    head, tail, _ = header.copies
    ranges = {
        "table": [(extent.offset, extent.end) for extent in written["table"]],
        "headers": [(at, at + UNIT) for at in header.copies],
        "body": [(head + UNIT, tail)],
    }
    parts = {
        name: Part(
            tuple(x for start, end in ranges[name] for x in _read(disk, start, end, progress)),
            tuple(written[name]),
        )
        for name in _PARTS
    }
    return Undo(
        str(disk.path), disk.size, disk.lba_size, header.region_id, header.start, header.end,
        place.partition, parts,
    )  # fmt: skip


def _read(disk: Disk, start: int, end: int, progress: Progress | None) -> Iterator[Extent]:
    at = start
    while at < end:
        found = disk.first_nonzero(at, end)
        data_at = end if found is None else found - found % disk.lba_size
        if data_at > at:
            yield Extent(at, data_at - at)
        at = data_at
        if at < end:
            size = min(_STEP, end - at)
            yield Extent(at, size, disk.read(at, size))
            at += size
        if progress:
            progress(at - start, end - start)


def _pack(extent: Extent) -> dict[str, Any]:
    place: dict[str, Any] = {"offset": extent.offset, "size": extent.size}
    if extent.data is None:
        return place
    return {
        **place,
        "sha256": hashlib.sha256(extent.data).hexdigest(),
        "data": base64.b64encode(zlib.compress(extent.data)).decode("ascii"),
    }


def save(undo: Undo, path: PathLike) -> None:
    """Write the file and have it on the medium; an existing file is not overwritten.

    Raises LifeboatError undo-write.
    """
    content = {
        "lifeboat-undo": _VERSION,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "disk": {"path": undo.disk, "size": undo.size, "lba_size": undo.lba_size},
        "region": {
            "region_id": undo.region_id.hex(),
            "start": undo.start,
            "end": undo.end,
            "partition": undo.partition,
        },
        "parts": {
            name: {"old": [_pack(x) for x in part.old], "new": [_pack(x) for x in part.new]}
            for name, part in undo.parts.items()
        },
    }
    try:
        with open(path, "x", encoding="ascii") as file:
            json.dump(content, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        folder = os.open(Path(path).parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise LifeboatError(
            "undo-write",
            f"{path}: {error.strerror}; the disk was not changed",
            "name another place for the recovery file with --undo",
        ) from None


def load(path: PathLike) -> Undo:
    """Read and check a recovery file. Raises LifeboatError undo-read, undo-broken."""
    try:
        content = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise LifeboatError("undo-read", f"{path}: {error.strerror}") from None
    except ValueError:
        raise _broken(path, "it is not JSON") from None
    try:
        if content["lifeboat-undo"] != _VERSION:
            raise ValueError(f"its version is {content['lifeboat-undo']}, not {_VERSION}")
        disk, place = content["disk"], content["region"]
        parts = {
            name: Part(
                _unpack(content["parts"][name]["old"]), _unpack(content["parts"][name]["new"])
            )
            for name in _PARTS
        }
        undo = Undo(
            str(disk["path"]), int(disk["size"]), int(disk["lba_size"]),
            bytes.fromhex(place["region_id"]), int(place["start"]), int(place["end"]),
            str(place["partition"]), parts,
        )  # fmt: skip
        _check(undo)
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        raise _broken(path, str(error)) from None
    return undo


def _broken(path: PathLike, why: str) -> LifeboatError:
    return LifeboatError(
        "undo-broken",
        f"{path}: this is no whole recovery file: {why}",
        "look for another copy of it; without one: lifeboat region remove, without --undo",
    )


def _unpack(rows: Iterable[dict[str, Any]]) -> tuple[Extent, ...]:
    extents = []
    for row in rows:
        offset, size, data = int(row["offset"]), int(row["size"]), None
        if "data" in row:
            data = zlib.decompress(base64.b64decode(row["data"], validate=True))
            if len(data) != size or hashlib.sha256(data).hexdigest() != row["sha256"]:
                raise ValueError(f"the bytes of offset {offset} do not have their SHA-256")
        extents.append(Extent(offset, size, data))
    return tuple(extents)


def _check(undo: Undo) -> None:
    """The region's parts are just the region, and nothing leaves the disk."""
    if not 0 < undo.start <= undo.end - 3 * UNIT or undo.end > undo.size:
        raise ValueError("the region is not on the disk")
    inside = [x for name in ("headers", "body") for x in undo.parts[name].old]
    at = undo.start
    for extent in sorted(inside, key=lambda extent: extent.offset):
        if extent.offset != at or extent.size <= 0:
            raise ValueError("the region's old content has gaps")
        at = extent.end
    if at != undo.end:
        raise ValueError("the region's old content has gaps")
    for extent in undo.parts["table"].old:
        if extent.size <= 0 or not 0 <= extent.offset <= extent.end <= undo.size:
            raise ValueError("the partition table is not on the disk")


# --- putting back --------------------------------------------------------------------------

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
    entry, others = None, list(map(str, found.claims))
    for partition in found.partitions:
        first, last = undo.start // disk.lba_size, undo.end // disk.lba_size - 1
        if partition.type == PARTITION_TYPE and (partition.first, partition.last) == (first, last):
            entry = partition if partition.unique == undo.partition else entry
        elif partition.overlaps(first, last):
            others.append(str(partition))
    if not others and not (entry or _header_there(disk, undo) or _only_ours(disk, undo)):
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
        return Way(VERBATIM, "the partition table is as we left it: it is put back as it was")
    if not entry:
        return Way(NOTHING, "the partition table has changed and no longer has our partition")
    if found.refusal:
        raise found.refusal
    return Way(
        ENTRY, "the partition table has changed since: only our partition is deleted", entry.number
    )


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
                start, end = max(extent.offset, piece.offset), min(extent.end, piece.end)
                if start < end:
                    data = extent.content[start - extent.offset : end - extent.offset]
                    new[start - piece.offset : end - piece.offset] = data
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
