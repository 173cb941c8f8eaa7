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
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lifeboat_host.base import files
from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.base.inflate import inflate
from lifeboat_host.base.types import PathLike, Progress
from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import region
from lifeboat_host.model.formats import UNIT, RegionHeader
from lifeboat_host.reserve.place import Place

_VERSION = 1
_STEP = 1 << 20
_PARTS = ("table", "headers", "body")
_FILE_MAX = 512 << 20
_DISK_MAX = 1 << 63


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

    def lay_over(self, data: bytearray, offset: int) -> None:
        """Put what is in both into bytes of the disk that begin at that offset."""
        start, end = max(self.offset, offset), min(self.end, offset + len(data))
        if start < end:
            inside = slice(start - self.offset, end - self.offset)
            data[start - offset : end - offset] = (
                bytes(end - start) if self.data is None else self.data[inside]
            )

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

    def used(self, *names: str) -> tuple[int, int] | None:
        """The first and last LBA of these parts that was not zero."""
        old = [x for name in names for x in self.parts[name].old if x.data and any(x.data)]
        if not old:
            return None
        first = min(x.end - len(x.content.lstrip(b"\0")) for x in old)
        last = max(x.offset + len(x.content.rstrip(b"\0")) for x in old) - 1
        return first // self.lba_size, last // self.lba_size


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

    It has its name only when it is whole. Raises LifeboatError undo-write.
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
        files.create_whole(Path(path), (json.dumps(content, indent=1) + "\n").encode("ascii"))
    except OSError as error:
        raise LifeboatError(
            "undo-write",
            f"{path}: {error.strerror}; the disk was not changed",
            "name another place for the recovery file with --undo",
        ) from None


def load(path: PathLike) -> Undo:
    """Read and check a recovery file. Raises LifeboatError undo-read, undo-broken."""
    text, _ = files.read(Path(path), _FILE_MAX, "undo-read", "name the recovery file")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
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
            str(disk["path"]), _number(disk["size"]), _number(disk["lba_size"]),
            bytes.fromhex(place["region_id"]), _number(place["start"]), _number(place["end"]),
            str(place["partition"]), parts,
        )  # fmt: skip
        _check(undo)
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        raise _broken(path, str(error)) from None
    return undo


def _number(value: Any) -> int:
    """A count of bytes on a disk. Raises ValueError."""
    if type(value) is not int or not 0 <= value < _DISK_MAX:
        raise ValueError(f"{str(value)[:30]} is no number of bytes on a disk")
    return value


def _broken(path: PathLike, why: str) -> LifeboatError:
    return LifeboatError(
        "undo-broken",
        f"{path}: this is no whole recovery file: {why}",
        "look for another copy of it; without one: lifeboat region remove, without --undo",
    )


def _unpack(rows: Iterable[dict[str, Any]]) -> tuple[Extent, ...]:
    extents = []
    for row in rows:
        offset, size, data = _number(row["offset"]), _number(row["size"]), None
        if "data" in row:
            if size > _STEP:
                raise ValueError(f"the bytes of offset {offset} are more than {_STEP} at once")
            packed = base64.b64decode(row["data"], validate=True)
            data = inflate(packed, size)
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
    for name in ("headers", "body"):
        for extent in undo.parts[name].new:
            if not undo.start <= extent.offset <= extent.end <= undo.end:
                raise ValueError("what was written is not in the region")
    table = undo.parts["table"]
    for extent in (*table.old, *table.new):
        if extent.size <= 0 or extent.end > undo.size:
            raise ValueError("the partition table is not on the disk")
    for part in table.old, table.new:
        order = sorted(part, key=lambda extent: extent.offset)
        if any(one.end > two.offset for one, two in zip(order, order[1:])):
            raise ValueError("parts of the partition table overlap")
    if bool(table.old) != bool(table.new) or bool(table.old) != bool(undo.partition):
        raise ValueError("a partition table without our partition")
