"""What file systems, RAID members, volumes and partition tables a disk says it holds.

Asked of the host's own tools: `wipefs`, which lists every signature and not just the likeliest,
for a whole disk; `blkid -p` for a partition. A few that libblkid passes over are added.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.base.types import Progress
from lifeboat_host.disk.disk import Disk

TABLE = "partition-table"  # libblkid's name for this kind of signature

_ADMIN_FOLDERS = "/usr/sbin:/sbin"  # not in everybody's PATH
_BLKID_NOTHING, _BLKID_AMBIVALENT = 2, 8

_PIECE = 1 << 20  # copied from each end of a disk and of its partitions
# Copied too: where libblkid looks deeper into a disk (VMFS, LUKS2's second header, Btrfs mirrors).
_DEEP = (1 << 20, 2 << 20, 4 << 20, 64 << 20, 256 << 30)
_DEEP_SIZE = 8192

# ZFS on-disk format: four labels of 256 KiB, two at each end of the device; in each a name-value
# list at 16 KiB and a ring of uberblocks from 128 KiB on.
_ZFS_LABEL = 256 << 10
_ZFS_LIST, _ZFS_RING = 16 << 10, 128 << 10
_ZFS_LIST_START = bytes((0, 0, 0, 0, 0, 0, 0, 1))  # version 0, unique names, after 4 bytes of XDR
_ZFS_UBERBLOCK = 0x00BAB10C
_ZFS_UBERBLOCK_STEP = 1024

# RAID metadata at sectors counted from the disk's end. libblkid knows both, but takes sectors for
# 512 bytes in a file, and passes over DDF whose other parts are gone.
_RAID_TAILS = (
    (1, b"\xde\x11\xde\x11", "ddf_raid_member"),
    (2, b"Intel Raid ISM Cfg Sig. ", "isw_raid_member"),
)


# FreeBSD's GEOM classes (mirror, ELI, label, stripe, ...) keep theirs in the last sector.
_GEOM = b"GEOM::"
# In the last 4 KiB that begin at a multiple of that: DRBD's internal metadata (versions 8 and 9: a
# number, big-endian, at byte 60); Apple's software RAID.
_LAST_UNIT = 4096
_DRBD_AT, _DRBD = 60, (0x83740267, 0x8374026B, 0x8374026D)
_APPLE_RAID = b"AppleRAIDHeader"
# Windows' Logical Disk Manager: private headers in sector 6 and in the last one, a database in the
# last 1 MiB, whose second and third sector are its table of contents.
_LDM = ((6 * 512, b"PRIVHEAD"), (-512, b"PRIVHEAD"), (512 - (1 << 20), b"TOCBLOCK"))


@dataclass(frozen=True)
class Signature:
    """type and usage: libblkid's names; offset: in bytes from the start of the disk."""

    type: str
    usage: str
    offset: int
    label: str = ""

    def __str__(self) -> str:
        label = f" {self.label!r}" if self.label else ""
        return f"{self.type}{label} (signature at byte {self.offset})"


@contextmanager
def probe_path(
    disk: Disk, ranges: Sequence[tuple[int, int]], progress: Progress | None = None
) -> Iterator[Path]:
    """A path that the host's tools can look at: the disk's, or a sparse copy of its ends.

    ranges: byte ranges [start, end) whose ends matter too.
    """
    if disk.local:
        yield disk.path
        return
    with tempfile.TemporaryDirectory(prefix="lifeboat-") as folder:
        path = Path(folder) / disk.path.name
        with open(path, "wb") as file:
            file.truncate(disk.size)
            wanted = list(_pieces(disk.size, ranges))
            total = sum(end - start for start, end in wanted)
            done = 0
            for start, end in wanted:
                at = disk.first_nonzero(start, end)
                if at is not None:
                    at -= at % disk.lba_size
                    file.seek(at)
                    file.write(disk.read(at, end - at))
                done += end - start
                if progress:
                    progress(done, total)
        yield path


def _pieces(size: int, ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for start, end in ((0, size), *ranges):
        yield start, min(start + _PIECE, end)
        if end - start > _PIECE:
            yield max(end - _PIECE, start + _PIECE), end
    for start in _DEEP:
        if start + _DEEP_SIZE <= size:
            yield start, start + _DEEP_SIZE


def find_tool(name: str) -> str | None:
    """Where a tool is that looks at disks: also in the administrators' folders."""
    return shutil.which(name) or shutil.which(name, path=_ADMIN_FOLDERS)


def _run(tool: str, *arguments: str, ok: Sequence[int] = (0,)) -> subprocess.CompletedProcess[str]:
    path = find_tool(tool)
    if path is None:
        raise LifeboatError(
            "tool-missing",
            f"{tool} is not installed: without it nobody can say what is on a disk",
            "install util-linux",
        )
    run = subprocess.run(
        [path, *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )
    if run.returncode not in ok:
        why = run.stderr.strip() or f"exit code {run.returncode}"
        raise LifeboatError("probe", f"{tool}: {why}", "look at the disk by hand first")
    return run


def of_disk(disk: Disk, path: Path, covered: Sequence[tuple[int, int]]) -> list[Signature]:
    """Every signature of the whole disk. covered: byte ranges [start, end) of its partitions.

    Raises LifeboatError: tool-missing, probe, disk-read.
    """
    columns = "OFFSET,TYPE,USAGE,LABEL"
    text = _run("wipefs", "--no-act", "--json", "--output", columns, str(path)).stdout
    try:
        rows = json.loads(text)["signatures"] if text.strip() else []
        found = [
            Signature(row["type"], row["usage"] or "", int(row["offset"], 16), row["label"] or "")
            for row in rows
        ]
    except (ValueError, KeyError, TypeError):
        raise LifeboatError("probe", f"wipefs: not understood: {text[:200]!r}") from None
    known = {signature.type for signature in found}
    return found + [extra for extra in _passed_over(disk, covered) if extra.type not in known]


def of_partition(path: Path, start: int, size: int) -> str:
    """libblkid's name of what fills that range of bytes; empty when it does not know."""
    run = _run(
        "blkid", "--probe", "--output", "export", "--offset", str(start), "--size", str(size),
        str(path), ok=(0, _BLKID_NOTHING, _BLKID_AMBIVALENT),
    )  # fmt: skip
    if run.returncode == _BLKID_AMBIVALENT:
        return "several signatures"
    values = dict(line.split("=", 1) for line in run.stdout.splitlines() if "=" in line)
    return values.get("TYPE") or values.get("PTTYPE", "")


def _passed_over(disk: Disk, covered: Sequence[tuple[int, int]]) -> Iterator[Signature]:
    for back, magic, name in _RAID_TAILS:
        at = disk.size - back * disk.lba_size
        if at > 0 and disk.read(at, len(magic)) == magic:
            yield Signature(name, "raid", at)
    yield from _others_tails(disk)
    # libblkid wants four uberblocks: a young pool has fewer, and a destroyed one none.
    if disk.size < 4 * _ZFS_LABEL:
        return
    end = disk.size - disk.size % _ZFS_LABEL
    for at in (0, _ZFS_LABEL, end - 2 * _ZFS_LABEL, end - _ZFS_LABEL):
        inside = any(start < at + _ZFS_LABEL and at < stop for start, stop in covered)
        if not inside and _is_zfs_label(disk, at):
            yield Signature("zfs_member", "filesystem", at)
            return


def _others_tails(disk: Disk) -> Iterator[Signature]:
    """Metadata that its owner keeps at the end of a disk."""
    if disk.size < 2 << 20:
        return
    at = disk.size - disk.lba_size
    last = disk.read(at, disk.lba_size)
    if last.startswith(_GEOM):
        name = last[len(_GEOM) : 16].split(b"\0")[0].decode("ascii", "replace")
        yield Signature(f"geom_{name.lower()}", "raid", at)
    at = disk.size - disk.size % _LAST_UNIT - _LAST_UNIT
    unit = disk.read(at, _LAST_UNIT)
    if int.from_bytes(unit[_DRBD_AT : _DRBD_AT + 4], "big") in _DRBD:
        yield Signature("drbd", "raid", at + _DRBD_AT)
    if unit.startswith(_APPLE_RAID):
        yield Signature("apple_raid_member", "raid", at)
    for offset, magic in _LDM:
        at = offset % disk.size
        if disk.read(at, len(magic)) == magic:
            yield Signature("ldm_member", "raid", at)
            return


def _is_zfs_label(disk: Disk, at: int) -> bool:
    if disk.first_nonzero(at, at + _ZFS_LABEL) is None:
        return False
    label = disk.read(at, _ZFS_LABEL)
    pairs = label[_ZFS_LIST:_ZFS_RING]
    if pairs[4:12] == _ZFS_LIST_START and b"pool_guid" in pairs:
        return True
    magics = [_ZFS_UBERBLOCK.to_bytes(8, order) for order in ("little", "big")]
    ring = range(_ZFS_RING, _ZFS_LABEL, _ZFS_UBERBLOCK_STEP)
    return any(label[step : step + 8] in magics for step in ring)
