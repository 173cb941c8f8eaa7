"""Partition tables, read only: GPT (UEFI 2.10 section 5.3) and MBR."""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass

from lifeboat_host.disks import Disk
from lifeboat_host.errors import LifeboatError
from lifeboat_host.formats import crc32

_HEADER = struct.Struct("<8sIIII QQQQ 16s QIII")  # signature .. CRC of the entries
_ENTRY = struct.Struct("<16s16sQQQ72s")
_ENTRIES_LIMIT = 1 << 20  # bytes; sixty-four times what is usual
_MBR_ENTRY = struct.Struct("<B3sB3sII")
_MBR_PROTECTIVE = 0xEE


@dataclass(frozen=True)
class Partition:
    """first and last are LBAs, both inclusive; type is a GUID in upper case or an MBR type."""

    number: int
    type: str
    first: int
    last: int
    name: str

    def __str__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        return f"partition {self.number}{name}, LBA {self.first} to {self.last}"


@dataclass(frozen=True)
class Table:
    """kind: `gpt`, `gpt backup` or `mbr`; sectors outside [first_usable, last_usable] are its."""

    kind: str
    partitions: tuple[Partition, ...]
    first_usable: int
    last_usable: int


def read_table(disk: Disk) -> Table | None:
    """The disk's partition table, or None. A GPT's backup counts when the primary is broken."""
    last = disk.size // disk.lba_size - 1
    return _read_gpt(disk, "gpt", 1) or _read_gpt(disk, "gpt backup", last) or _read_mbr(disk)


def _read_gpt(disk: Disk, kind: str, lba: int) -> Table | None:
    sectors = disk.size // disk.lba_size
    if not 0 < lba < sectors:
        return None
    sector = disk.read(lba * disk.lba_size, disk.lba_size)
    (magic, _, size, crc, _, own, _, first, last, _, entries, count, entry_size, entries_crc) = (
        _HEADER.unpack_from(sector)
    )
    if magic != b"EFI PART" or not _HEADER.size <= size <= disk.lba_size or own != lba:
        return None
    if crc32(sector[:16] + bytes(4) + sector[20:size]) != crc:
        return None
    length = count * entry_size
    if entry_size < _ENTRY.size or length > _ENTRIES_LIMIT or first > last or last >= sectors:
        return None
    try:
        data = disk.read(entries * disk.lba_size, length)
    except (LifeboatError, OverflowError):
        return None
    if crc32(data) != entries_crc:
        return None
    partitions = []
    for index in range(count):
        type_guid, _, start, end, _, name = _ENTRY.unpack_from(data, index * entry_size)
        if any(type_guid) and first <= start <= end <= last:
            text = name.decode("utf-16-le", "replace").split("\0")[0]
            guid = str(uuid.UUID(bytes_le=type_guid)).upper()
            partitions.append(Partition(index + 1, guid, start, end, text))
    return Table(kind, tuple(partitions), first, last)


def _read_mbr(disk: Disk) -> Table | None:
    sectors = disk.size // disk.lba_size
    sector = disk.read(0, 512)
    if sector[510:] != b"\x55\xaa":
        return None
    partitions = []
    for index in range(4):
        boot, _, kind, _, first, count = _MBR_ENTRY.unpack_from(sector, 446 + 16 * index)
        if boot not in (0, 0x80):
            return None  # a file system's boot sector, not a partition table
        if kind and count:
            name = "protective, its GPT is broken" if kind == _MBR_PROTECTIVE else ""
            end = min(first + count, sectors) - 1
            partitions.append(Partition(index + 1, f"0x{kind:02x}", first, end, name))
    return Table("mbr", tuple(partitions), 1, sectors - 1)
