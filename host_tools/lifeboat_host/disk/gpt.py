"""GPT (UEFI 2.10 section 5.3) and MBR: read both, add and remove partitions of a GPT."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lifeboat_host.base.crc import crc32
from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.disk.disk import Disk

_HEADER = struct.Struct("<8sIIII QQQQ 16s QIII")  # signature .. CRC of the entries
_CRC_AT, _ENTRIES_CRC_AT = 16, 88
_ENTRY = struct.Struct("<16s16sQQQ72s")
_ENTRIES_LIMIT = 1 << 20  # bytes; sixty-four times what is usual
_ENTRY_SIZES = [128 << k for k in range(6)]  # up to 4096
_NEW_ENTRIES = 128  # of 128 bytes: the least that UEFI allows
_MBR_ENTRY = struct.Struct("<B3sB3sII")
_MBR_PROTECTIVE = 0xEE
_MBR_EXTENDED = (0x05, 0x0F, 0x85)
_LOGICAL_LIMIT = 256  # a longer chain is a loop

# What to write, (byte offset, bytes); a flush of the disk's cache stands between two steps.
Steps = tuple[tuple[tuple[int, bytes], ...], ...]


class Sectors(Protocol):
    """What a GPT is read from: a Disk, or what one would be."""

    size: int
    lba_size: int

    def read(self, offset: int, size: int) -> bytes: ...


@dataclass(frozen=True)
class Partition:
    """first and last are LBAs, both inclusive; type is a GUID in upper case or an MBR type.

    unique: the partition's own GUID in upper case; empty in an MBR.
    """

    number: int
    type: str
    first: int
    last: int
    name: str
    unique: str = ""

    def __str__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        return f"partition {self.number}{name}, LBA {self.first} to {self.last}"

    def overlaps(self, first: int, last: int) -> bool:
        return self.first <= last and self.last >= first


@dataclass(frozen=True)
class Copy:
    """One valid copy of a GPT, as it stands on the disk; own, other, ...: LBAs."""

    # Whole sectors: fields that we do not know, and what follows, are written back as they were.
    sector: bytes
    entry_sectors: bytes
    header_size: int
    own: int
    other: int
    first_usable: int
    last_usable: int
    entries_lba: int
    count: int
    entry_size: int

    @property
    def entries(self) -> bytes:
        return self.entry_sectors[: self.count * self.entry_size]

    @property
    def partitions(self) -> tuple[Partition, ...]:
        found = []
        for index in range(self.count):
            kind, unique, first, last, _, name = _ENTRY.unpack_from(
                self.entries, index * self.entry_size
            )
            if any(kind):
                text = name.decode("utf-16-le", "replace").split("\0")[0]
                found.append(Partition(index + 1, _guid(kind), first, last, text, _guid(unique)))
        return tuple(found)

    @property
    def entries_end(self) -> int:
        """The LBA after the entries."""
        return self.entries_lba + len(self.entry_sectors) // len(self.sector)

    def with_entry(self, index: int, entry: bytes) -> tuple[tuple[int, bytes], ...]:
        """What to write for this copy to have that entry, of at most entry_size bytes."""
        entries = bytearray(self.entry_sectors)
        at = index * self.entry_size
        entries[at : at + self.entry_size] = entry.ljust(self.entry_size, b"\0")
        sector = bytearray(self.sector)
        crc = crc32(bytes(entries[: self.count * self.entry_size]))
        struct.pack_into("<I", sector, _ENTRIES_CRC_AT, crc)
        lba_size = len(sector)
        header = _sealed(sector, self.header_size)
        return (self.entries_lba * lba_size, bytes(entries)), (self.own * lba_size, header)


@dataclass(frozen=True)
class Mbr:
    """protective: it has an entry for a GPT; broken: what is wrong with it, or empty.

    primaries: what its four entries say, also where that is not on the disk.
    """

    partitions: tuple[Partition, ...]
    protective: bool
    broken: str = ""
    primaries: tuple[Partition, ...] = ()


@dataclass(frozen=True)
class Table:
    """A GPT that is valid (docs/format.md, "Finding the region"); kind: `gpt` or `gpt backup`."""

    kind: str
    partitions: tuple[Partition, ...]


def _guid(data: bytes) -> str:
    return str(uuid.UUID(bytes_le=data)).upper()


def _sealed(sector: bytearray, header_size: int) -> bytes:
    struct.pack_into("<I", sector, _CRC_AT, 0)
    struct.pack_into("<I", sector, _CRC_AT, crc32(bytes(sector[:header_size])))
    return bytes(sector)


# --- reading -------------------------------------------------------------------------------


def read_table(disk: Disk) -> Table | None:
    """The disk's GPT, or None; the backup counts when the primary is not valid.

    Raises LifeboatError table-unknown for one that is too large to be read.
    """
    sectors = disk.size // disk.lba_size
    for kind, lba in (("gpt", 1), ("gpt backup", sectors - 1)):
        copy = read_copy(disk, lba)
        if copy:
            partitions = (part for part in copy.partitions if part.first <= part.last)
            return Table(kind, tuple(partitions))
        if _too_large(disk, lba):
            raise LifeboatError(
                "table-unknown",
                f"{disk.path}: the GPT has entries of more than {_ENTRIES_LIMIT} bytes, "
                "so nobody can tell what they claim",
                "use another disk, or partition this one anew with fewer entries",
            )
    return None


def _header(disk: Sectors, lba: int) -> tuple[bytes, tuple[Any, ...]] | None:
    """The sector and the fields of a valid header at that LBA, its entries not looked at."""
    if not 0 < lba < disk.size // disk.lba_size:
        return None
    sector = disk.read(lba * disk.lba_size, disk.lba_size)
    fields = _HEADER.unpack_from(sector)
    magic, _, size, crc, _, own = fields[:6]
    if magic != b"EFI PART" or not _HEADER.size <= size <= disk.lba_size or own != lba:
        return None
    if crc32(sector[:_CRC_AT] + bytes(4) + sector[_CRC_AT + 4 : size]) != crc:
        return None
    entry_size = fields[12]
    if entry_size not in _ENTRY_SIZES:
        return None
    return sector, fields


def _too_large(disk: Disk, lba: int) -> bool:
    found = _header(disk, lba)
    return found is not None and found[1][11] * found[1][12] > _ENTRIES_LIMIT


def read_copy(disk: Sectors, lba: int) -> Copy | None:
    """The copy of a GPT whose header is at that LBA, or None when there is no valid one."""
    found = _header(disk, lba)
    if not found:
        return None
    sector, fields = found
    _, _, size, _, _, own, other, first, last, _, at, count, entry_size, entries_crc = fields
    length = count * entry_size
    if length > _ENTRIES_LIMIT or at + -(-length // disk.lba_size) > disk.size // disk.lba_size:
        return None
    entries = disk.read(at * disk.lba_size, length + -length % disk.lba_size)
    if crc32(entries[:length]) != entries_crc:
        return None
    return Copy(sector, entries, size, own, other, first, last, at, count, entry_size)


def read_mbr(disk: Disk) -> Mbr | None:
    """The MBR with its logical partitions; None when LBA 0 does not look like one."""
    sectors = disk.size // disk.lba_size
    rows = _mbr_rows(disk.read(0, 512))
    if rows is None:
        return None
    partitions = []
    primaries = []
    broken = ""
    for number, (kind, first, count) in enumerate(rows, 1):
        if not kind or not count or kind == _MBR_PROTECTIVE:
            continue
        primaries.append(Partition(number, f"0x{kind:02x}", first, first + count - 1, ""))
        if not first or first >= sectors:
            broken = f"its partition {number} is not on the disk"
            continue
        last = min(first + count, sectors) - 1
        partitions.append(Partition(number, f"0x{kind:02x}", first, last, ""))
        if kind in _MBR_EXTENDED:
            try:
                partitions += _logical(disk, partitions[-1])
            except LifeboatError as error:
                broken = error.message
    protective = any(row[0] == _MBR_PROTECTIVE for row in rows)
    return Mbr(tuple(partitions), protective, broken, tuple(primaries))


def _mbr_rows(sector: bytes) -> list[tuple[int, int, int]] | None:
    """(type, first, count) of the four entries; None: this is not a partition table."""
    if sector[510:512] != b"\x55\xaa":
        return None
    rows = []
    for index in range(4):
        boot, _, kind, _, first, count = _MBR_ENTRY.unpack_from(sector, 446 + 16 * index)
        if boot not in (0, 0x80):
            return None  # a file system's boot sector
        rows.append((kind, first, count))
    return rows


def _logical(disk: Disk, extended: Partition) -> list[Partition]:
    """The partitions of a chain of extended boot records."""
    found: list[Partition] = []
    at = extended.first
    for _ in range(_LOGICAL_LIMIT):
        rows = _mbr_rows(disk.read(at * disk.lba_size, 512))
        if rows is None:
            raise LifeboatError("mbr-damaged", f"no extended boot record at LBA {at}")
        kind, first, count = rows[0]
        if kind and count:
            first, last = at + first, at + first + count - 1
            if last > extended.last:
                raise LifeboatError("mbr-damaged", f"a logical partition leaves {extended}")
            found.append(Partition(5 + len(found), f"0x{kind:02x}", first, last, ""))
        kind, first, count = rows[1]
        if not kind or not count:
            return found
        at = extended.first + first
        if at > extended.last:
            break
    raise LifeboatError("mbr-damaged", f"the chain of logical partitions in {extended} is broken")


# --- a GPT as a whole ----------------------------------------------------------------------


@dataclass(frozen=True)
class Gpt:
    """Both copies; problem: what keeps it from being changed safely, empty when it is whole."""

    primary: Copy | None
    backup: Copy | None
    problem: str

    @property
    def copy(self) -> Copy | None:
        """The copy that counts."""
        return self.primary or self.backup


def read(disk: Disk, mbr: Mbr | None) -> Gpt | None:
    """The disk's GPT, or None when nothing hints at one."""
    last = disk.size // disk.lba_size - 1
    primary, backup = read_copy(disk, 1), read_copy(disk, last)
    if _too_large(disk, 1) or _too_large(disk, last):
        return Gpt(primary, backup, f"its entries take more than {_ENTRIES_LIMIT} bytes")
    if not (primary or backup or (mbr and mbr.protective)):
        return None
    return Gpt(primary, backup, _problem(primary, backup, mbr, last))


def _problem(primary: Copy | None, backup: Copy | None, mbr: Mbr | None, last: int) -> str:
    if not primary and not backup:
        return "there is a protective MBR, but no GPT"
    if not primary:
        return "its primary copy is damaged"
    if not backup:
        moved = f" (the primary copy says LBA {primary.other})" if primary.other != last else ""
        return f"its backup copy at the disk's end is missing or damaged{moved}"
    if not (mbr and mbr.protective):
        return "it has no protective MBR"
    fields = [(c.entries, c.first_usable, c.last_usable, c.entry_size) for c in (primary, backup)]
    if fields[0] != fields[1] or primary.other != last or backup.other != 1:
        return "its two copies differ"
    if not primary.first_usable <= primary.last_usable < last:
        return "its usable range is not on the disk"
    if not 1 < primary.entries_lba < primary.entries_end <= primary.first_usable:
        return "its usable range covers the table itself"
    if not primary.last_usable < backup.entries_lba < backup.entries_end <= last:
        return "its usable range covers the table itself"
    return _overlap(primary)


def _overlap(copy: Copy) -> str:
    end = copy.first_usable
    for partition in sorted(copy.partitions, key=lambda partition: partition.first):
        if not end <= partition.first <= partition.last <= copy.last_usable:
            return f"{partition} overlaps another one or the table"
        end = partition.last + 1
    return ""


# --- changing ------------------------------------------------------------------------------


def _steps(primary: Copy, backup: Copy, index: int, entry: bytes) -> Steps:
    """The backup copy first. Power may be cut at any point:

    - while the backup is written: it is broken, the primary is as before;
    - between the two: both are whole, and readers take the primary, which is as before;
    - while the primary is written: it is broken, the backup has the change.
    """
    return backup.with_entry(index, entry), primary.with_entry(index, entry)


def add_partition(
    table: Gpt, type_guid: str, unique: str, first: int, last: int, name: str
) -> Steps:
    """What to write for the table to have that partition too. Raises LifeboatError gpt-full."""
    assert table.primary and table.backup  # a table with a problem is not changed
    taken = {partition.number for partition in table.primary.partitions}
    for index in range(table.primary.count):
        if index + 1 not in taken:
            entry = _entry(type_guid, unique, first, last, name)
            return _steps(table.primary, table.backup, index, entry)
    raise LifeboatError(
        "gpt-full",
        f"all {table.primary.count} entries of the GPT are taken",
        "delete a partition that is not needed",
    )


def remove_partition(table: Gpt, number: int) -> Steps:
    """What to write for the table to be without that partition."""
    assert table.primary and table.backup
    return _steps(table.primary, table.backup, number - 1, b"")


def _entry(type_guid: str, unique: str, first: int, last: int, name: str) -> bytes:
    kind, own = uuid.UUID(type_guid).bytes_le, uuid.UUID(unique).bytes_le
    return _ENTRY.pack(kind, own, first, last, 0, name.encode("utf-16-le"))


def new_usable(disk: Disk) -> tuple[int, int]:
    """The usable range of a GPT that new_table() makes."""
    entries = _NEW_ENTRIES * _ENTRY.size // disk.lba_size
    return 2 + entries, disk.size // disk.lba_size - 2 - entries


def new_table(disk: Disk, type_guid: str, unique: str, first: int, last: int, name: str) -> Steps:
    """What to write for a blank disk to have a GPT with that one partition.

    The protective MBR, without which no system looks for a GPT, comes last: a power cut before
    leaves a disk that is blank for others.
    """
    lba_size, sectors = disk.lba_size, disk.size // disk.lba_size
    usable_first, usable_last = new_usable(disk)
    entries = _entry(type_guid, unique, first, last, name).ljust(_NEW_ENTRIES * _ENTRY.size, b"\0")
    guid = uuid.uuid4().bytes_le
    copies = []
    for own, other, at in ((sectors - 1, 1, usable_last + 1), (1, sectors - 1, 2)):
        sector = bytearray(lba_size)
        _HEADER.pack_into(
            sector, 0, b"EFI PART", 0x10000, _HEADER.size, 0, 0, own, other,
            usable_first, usable_last, guid, at, _NEW_ENTRIES, _ENTRY.size, crc32(entries),
        )  # fmt: skip
        header = _sealed(sector, _HEADER.size)
        copies.append(((at * lba_size, entries), (own * lba_size, header)))
    mbr = bytearray(lba_size)
    length = min(sectors - 1, 0xFFFFFFFF)
    _MBR_ENTRY.pack_into(mbr, 446, 0, b"\0\2\0", _MBR_PROTECTIVE, b"\xff\xff\xff", 1, length)
    mbr[510:512] = b"\x55\xaa"
    return copies[0], copies[1], ((0, bytes(mbr)),)


def write(disk: Disk, steps: Sequence[Sequence[tuple[int, bytes]]]) -> None:
    """Write the steps, a flush after each, and read back. Raises disk-write, gpt-readback."""
    for step in steps:
        for offset, data in step:
            disk.write(offset, data)
        disk.flush()
    for step in steps:
        for offset, data in step:
            if disk.read(offset, len(data)) != data:
                raise LifeboatError(
                    "gpt-readback",
                    f"{disk.path}, offset 0x{offset:x}: reads back otherwise than it was written",
                    "do not trust this disk",
                )
