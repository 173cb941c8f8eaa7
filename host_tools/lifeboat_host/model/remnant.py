"""A backup region that is not where anybody looks for one: its disk has shrunk or grown since, or
the table that named it is gone."""

from __future__ import annotations

from collections.abc import Iterator

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.disk.disk import Disk
from lifeboat_host.model.formats import MAGICS, UNIT, RegionHeader, parse_region

_REACH = 256 << 20  # from the disk's end, and from where a GPT says that it was
_STEP = 1 << 20
_ANY = 1 << 63  # larger than disks are


def find(disk: Disk, ends: tuple[int, ...] = ()) -> RegionHeader | None:
    """The header of such a region, sought before the disk's end; ends: bytes where it was once.

    Only of disks that this machine reads itself.
    """
    if not disk.local:
        return None
    seen: list[tuple[int, int]] = []
    for end in (disk.size, *ends):
        start = max(0, min(end, disk.size) - _REACH)
        span = (start - start % UNIT, min(end, disk.size))
        if span not in seen:
            seen.append(span)
            for header in _headers(disk, *span):
                return header
    return None


def _headers(disk: Disk, start: int, end: int) -> Iterator[RegionHeader]:
    at = disk.first_nonzero(start, end)
    while at is not None:
        at -= at % UNIT
        data = disk.read(at, min(_STEP, end - at))
        for unit in range(0, len(data) - UNIT + 1, UNIT):
            if data.startswith(MAGICS["region"], unit):
                try:
                    yield parse_region(
                        data[unit : unit + UNIT],
                        lba_size=disk.lba_size,
                        disk_size=_ANY,
                        found_at=at + unit,
                    )
                except LifeboatError:
                    continue  # something else that looks like one
        at = disk.first_nonzero(at + len(data), end) if at + len(data) < end else None


def moved(disk: Disk, header: RegionHeader, ends: tuple[int, ...] = ()) -> LifeboatError:
    """The error that says where it was, and the way back; ends: as for find()."""
    last = header.start_lba + header.sectors - 1
    where = f"{disk.path}: a backup region was at LBA {header.start_lba} to {last}"
    sectors = disk.size // disk.lba_size
    if last >= sectors:
        was = max(last + 1, *(end // disk.lba_size for end in ends), 0)
        return LifeboatError(
            "region-moved",
            f"{where}, and the disk ends at LBA {sectors - 1}: it has shrunk by "
            f"{was - sectors} sectors or more",
            f"has a firmware hidden them (HPA)? hdparm -N shows and changes that; with {was} "
            "sectors the region is whole again. If its backups may go, overwrite its first and "
            "last 8 KiB with zeros yourself",
        )
    return LifeboatError(
        "region-moved",
        f"{where}, where nobody looks for one: the disk has grown, or the table that named it is "
        "gone",
        f"lifeboat region inspect --lba {header.start_lba} {disk.path} shows it; if its backups "
        f"may go: lifeboat region remove --lba {header.start_lba} {disk.path}",
    )
