"""What is on a disk: partition table, partitions, signatures, our region, and what is free.

Only looks. `reserve` decides by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.base.types import Progress
from lifeboat_host.disk import gpt, signatures
from lifeboat_host.disk.disk import Disk
from lifeboat_host.disk.gpt import Gpt, Mbr, Partition
from lifeboat_host.disk.signatures import Signature
from lifeboat_host.model import region, remnant
from lifeboat_host.model.formats import PARTITION_TYPE, RegionHeader

TABLE, PARTITION, CLAIM, REGION, GAP, FREE = (
    "table", "partition", "claim", "lifeboat", "gap", "free",
)  # fmt: skip

_HEAD = 1 << 20  # where a disk that is not blank shows it

_LDM_TYPE = "0x42"
_SECTOR_SIZES = 512 + 4096  # of a disk's size and the other one

_DAMAGED_HINT = "repair it first, with gdisk; `sgdisk --verify` says more; or leave the disk alone"
_NOT_AT_THE_END_HINT = (
    "either the disk has grown, or what is behind the table is somebody else's: a RAID "
    "controller's, a mirror's (gmirror), a volume manager's. Only when you are sure that it is "
    "nobody's let a partitioning tool move the table to the end; or leave the disk alone"
)


@dataclass(frozen=True)
class Piece:
    """A range of LBAs, both inclusive, and whose it is.

    kind: `table` (the partition table's own), `partition`, `claim` (the whole disk is something
    else's), `lifeboat` (a backup region), `gap` (nobody's, not offered) or `free`.
    """

    first: int
    last: int
    kind: str
    owner: str

    def __str__(self) -> str:
        return f"{self.owner}, LBA {self.first} to {self.last}"


@dataclass(frozen=True)
class DiskMap:
    """table: `gpt`, `mbr` or `none`. contents: what fills each partition, by number.

    unknown: the first LBA of something that is not recognised, on a disk without a table.
    remnant: the header of a region that is not where one is looked for. refusal: why nothing can
    be reserved here.
    """

    sectors: int
    lba_size: int
    table: str
    gpt: Gpt | None
    partitions: tuple[Partition, ...]
    contents: dict[int, str]
    claims: tuple[Signature, ...]
    region: region.Found | None
    remnant: RegionHeader | None
    unknown: int | None
    pieces: tuple[Piece, ...]
    refusal: LifeboatError | None = field(compare=False)

    @property
    def free(self) -> list[Piece]:
        return [piece for piece in self.pieces if piece.kind == FREE]

    def holding(self, first: int, last: int) -> list[Piece]:
        """What is recognised in that range of LBAs."""
        return [
            piece
            for piece in self.pieces
            if piece.kind != FREE and piece.first <= last and piece.last >= first
        ]

    def own_partition(self, first: int, last: int) -> Partition | None:
        """The partition of lifeboat's type that is just that range of LBAs."""
        for part in self.partitions:
            if part.type == PARTITION_TYPE and (part.first, part.last) == (first, last):
                return part
        return None

    def data_at(self, first: int, last: int) -> str:
        """What may have data in a region in that range of LBAs; empty: nothing that is known.

        It claims the whole disk, or was made in lifeboat's partition.
        """
        part = self.own_partition(first, last)
        inside = part and self.contents[part.number]
        return ", ".join([*map(str, self.claims), *([f"{inside} in {part}"] if inside else [])])


def look(disk: Disk, lbas: Iterable[int] = (), progress: Progress | None = None) -> DiskMap:
    """The map of a disk. lbas: where a backup region may start besides the usual places.

    Raises LifeboatError: tool-missing, probe, disk-read.
    """
    mbr = gpt.read_mbr(disk)
    table = gpt.read(disk, mbr)
    ours, unusable = _region(disk, lbas)
    sectors = disk.size // disk.lba_size
    partitions = _partitions(table, mbr, sectors)
    ranges = [(part.first * disk.lba_size, (part.last + 1) * disk.lba_size) for part in partitions]
    with signatures.probe_path(disk, ranges, progress) as path:
        found = signatures.of_disk(disk, path, ranges)
        contents = {
            part.number: signatures.of_partition(path, start, end - start)
            for part, (start, end) in zip(partitions, ranges)
        }
    tables = {signature.type for signature in found if signature.usage == signatures.TABLE}
    claims = _without_repeats(found)
    # A boot sector alone, or a file system's, can pass for an MBR: libblkid knows them apart.
    kind = "gpt" if table else "mbr" if mbr and (mbr.partitions or "dos" in tables) else "none"
    left = None if ours or claims else _remnant(disk, table, partitions)
    lost = remnant.moved(disk, left, _ends(disk, table)) if left else None
    refusal = unusable or lost or _refusal(disk, table, mbr, tables, claims)
    if kind == "mbr" and not refusal and not all(contents.values()):
        refusal = _mbr_of_other_sectors(disk, partitions, contents)
    unknown = None
    if not claims and not ours and (kind == "none" or (kind == "mbr" and not partitions)):
        # Behind an MBR that names nothing: somebody's who does without it, a PC-98's table.
        start = disk.lba_size if kind == "mbr" else 0
        at = disk.first_nonzero(start, min(_HEAD, disk.size))
        unknown = None if at is None else at // disk.lba_size
    pieces = _owned(sectors, kind, table, partitions, contents, claims, ours, refusal)
    return DiskMap(
        sectors=sectors,
        lba_size=disk.lba_size,
        table=kind,
        gpt=table,
        partitions=partitions,
        contents=contents,
        claims=claims,
        region=ours,
        remnant=left,
        unknown=unknown,
        pieces=tuple(sorted(pieces, key=lambda piece: (piece.first, -piece.last))),
        refusal=refusal,
    )


def _remnant(
    disk: Disk, table: Gpt | None, partitions: Sequence[Partition]
) -> RegionHeader | None:
    """A region that a smaller or larger disk had, unless a partition of others is there now."""
    header = remnant.find(disk, _ends(disk, table))
    if header is None:
        return None
    first, last = header.start_lba, header.start_lba + header.sectors - 1
    others = [part for part in partitions if part.type != PARTITION_TYPE]
    return None if any(part.overlaps(first, last) for part in others) else header


def _ends(disk: Disk, table: Gpt | None) -> tuple[int, ...]:
    """Where the disk ended when its GPT was made, in bytes."""
    copies = [copy for copy in (table.primary, table.backup) if copy] if table else []
    return tuple((max(copy.own, copy.other) + 1) * disk.lba_size for copy in copies)


def _region(disk: Disk, lbas: Iterable[int]) -> tuple[region.Found | None, LifeboatError | None]:
    """The region that is there; and why none may be made, when one of a newer format is."""
    try:
        return region.find(disk, lbas), None
    except LifeboatError as error:
        return None, error if error.code == "region-version" else None


def look_again(
    disk: Disk, before: DiskMap, lbas: Iterable[int] = (), progress: Progress | None = None
) -> None:
    """Raise LifeboatError disk-changed unless the disk's map is still the one that was shown."""
    if look(disk, lbas, progress) != before:
        raise changed(disk)


def changed(disk: Disk) -> LifeboatError:
    """The error of a disk on which somebody else has written since a person agreed."""
    return LifeboatError(
        "disk-changed",
        f"{disk.path}: the disk has changed since it was looked at; nothing was written",
        "see to it that nothing else uses the disk, then run the same command again",
    )


def _partitions(table: Gpt | None, mbr: Mbr | None, sectors: int) -> tuple[Partition, ...]:
    """All partitions; those of a hybrid MBR count where the GPT does not have them.

    One that is not on the disk is left out: its GPT has a problem, and is refused for that.
    """
    inside = table.copy.partitions if table and table.copy else ()
    found = [part for part in inside if part.first <= part.last < sectors]
    known = {(part.first, part.last) for part in found}
    number = max((part.number for part in found), default=0)
    for part in mbr.partitions if mbr else ():
        if (part.first, part.last) not in known:
            number = number + 1 if table else part.number
            found.append(Partition(number, part.type, part.first, part.last, part.name))
    return tuple(found)


def _without_repeats(found: Sequence[Signature]) -> tuple[Signature, ...]:
    """The first signature of each type that is not a partition table's."""
    first: dict[str, Signature] = {}
    for signature in found:
        if signature.usage != signatures.TABLE:
            first.setdefault(signature.type, signature)
    return tuple(first.values())


def _refusal(
    disk: Disk,
    table: Gpt | None,
    mbr: Mbr | None,
    tables: set[str],
    claims: Sequence[Signature],
) -> LifeboatError | None:
    """Why nothing on this disk is to be touched, whatever the range."""
    other = sorted(tables - {"gpt", "PMBR", "dos"})
    if other:
        return LifeboatError(
            "table-unknown",
            f"{disk.path}: a partition table of a kind that lifeboat does not know: {other[0]}",
            "use another disk, or partition this one anew with a GPT",
        )
    if mbr and any(part.type == _LDM_TYPE for part in mbr.partitions) and not claims:
        return LifeboatError(
            "disk-claimed",
            f"{disk.path}: the whole disk belongs to Windows' dynamic volumes (partition type "
            f"{_LDM_TYPE}), whose database is in its last 1 MiB",
            "use another disk",
        )
    if claims:
        text = ", ".join(str(claim) for claim in claims)
        return LifeboatError(
            "disk-claimed",
            f"{disk.path}: the whole disk belongs to {text}",
            "use another disk; if that is a leftover, remove it yourself: wipefs --offset",
        )
    if table and table.problem:
        return LifeboatError(
            "gpt-damaged",
            f"{disk.path}: the GPT is damaged: {table.problem}",
            _other_sector_size(disk)
            or (_NOT_AT_THE_END_HINT if _ends_before(disk, table) else _DAMAGED_HINT),
        )
    if mbr and mbr.broken:
        return LifeboatError(
            "mbr-damaged",
            f"{disk.path}: the MBR is damaged: {mbr.broken}",
            "if --lba-size is right, repair the table with sfdisk or fdisk first",
        )
    return None


def _ends_before(disk: Disk, table: Gpt) -> bool:
    """Whether the table was made for a smaller disk."""
    last = disk.size // disk.lba_size - 1
    return table.backup is None and table.primary is not None and table.primary.other < last


def _other_sector_size(disk: Disk) -> str:
    other = _SECTOR_SIZES - disk.lba_size
    if disk.size >= 2 * other and disk.read(other, 8) == b"EFI PART":
        return _other_hint(other)
    return ""


def _other_hint(other: int) -> str:
    return f"it looks like a disk of {other} byte sectors: give --lba-size {other}"


def _mbr_of_other_sectors(
    disk: Disk, partitions: Sequence[Partition], contents: dict[int, str]
) -> LifeboatError | None:
    """A refusal when more of the partitions hold something known if LBAs are of the other size.

    Nothing else tells: an MBR does not say for which size it was made.
    """
    other = _SECTOR_SIZES - disk.lba_size
    ranges = [
        (part.first * other, min((part.last + 1) * other, disk.size))
        for part in partitions
        if part.first * other < disk.size
    ]
    with signatures.probe_path(disk, ranges) as path:
        hits = [signatures.of_partition(path, start, end - start) for start, end in ranges]
    if len(list(filter(None, hits))) <= len(list(filter(None, contents.values()))):
        return None
    return LifeboatError(
        "mbr-damaged",
        f"{disk.path}: the MBR is not for sectors of {disk.lba_size} bytes: "
        "its partitions begin elsewhere",
        _other_hint(other),
    )


# --- pieces --------------------------------------------------------------------------------


def _owned(
    sectors: int,
    kind: str,
    table: Gpt | None,
    partitions: Sequence[Partition],
    contents: dict[int, str],
    claims: Sequence[Signature],
    ours: region.Found | None,
    refusal: LifeboatError | None,
) -> list[Piece]:
    if claims:
        names = ", ".join(claim.type for claim in claims)
        pieces = [Piece(0, sectors - 1, CLAIM, f"claimed by {names}")]
    else:
        pieces = _table_pieces(sectors, kind, table)
    for part in partitions:
        pieces.append(Piece(part.first, part.last, PARTITION, _describe(part, contents)))
    if ours:
        first, last = ours.header.start_lba, ours.header.start_lba + ours.header.sectors - 1
        pieces = [piece for piece in pieces if (piece.first, piece.last) != (first, last)]
        pieces.append(Piece(first, last, REGION, f"backup region ({ours.how})"))
    usable = _usable(sectors, kind, table, partitions)
    for first, last in _holes(sectors, pieces):
        inside = usable and not refusal
        for start, end, name in _cut(first, last, *usable) if inside else [(first, last, GAP)]:
            owner = "free" if name == FREE else "not in use, not offered"
            pieces.append(Piece(start, end, name, owner))
    return pieces


def _describe(part: Partition, contents: dict[int, str]) -> str:
    name = f" {part.name!r}" if part.name else ""
    kind = "lifeboat's type" if part.type == PARTITION_TYPE else f"type {part.type[:8]}"
    return f"partition {part.number}{name}, {contents[part.number] or kind}"


def _table_pieces(sectors: int, kind: str, table: Gpt | None) -> list[Piece]:
    if kind == "mbr":
        return [Piece(0, 0, TABLE, "MBR")]
    if kind == "none":
        return []
    pieces = [Piece(0, 0, TABLE, "protective MBR")]
    primary, backup = (table.primary, table.backup) if table else (None, None)
    if primary:
        pieces.append(Piece(1, primary.entries_end - 1, TABLE, "GPT"))
    if backup:
        pieces.append(Piece(backup.entries_lba, sectors - 1, TABLE, "GPT, backup copy"))
    return pieces


def _usable(
    sectors: int, kind: str, table: Gpt | None, partitions: Sequence[Partition]
) -> tuple[int, int]:
    """The range of LBAs in which holes are free, not just gaps."""
    if table and table.copy:
        return table.copy.first_usable, table.copy.last_usable
    if kind == "mbr":
        # Boot loaders live before the first partition, and boards take a region that stands
        # before a partition for one that it reaches into.
        return max((part.last for part in partitions), default=0) + 1, sectors - 1
    return 0, sectors - 1


def _holes(sectors: int, pieces: Iterable[Piece]) -> Iterable[tuple[int, int]]:
    at = 0
    for piece in sorted(pieces, key=lambda piece: piece.first):
        if piece.first > at:
            yield at, piece.first - 1
        at = max(at, piece.last + 1)
    if at < sectors:
        yield at, sectors - 1


def _cut(first: int, last: int, low: int, high: int) -> Iterable[tuple[int, int, str]]:
    """The parts of a hole that are below, in and above the usable range."""
    parts = (
        (first, min(last, low - 1), GAP),
        (max(first, low), min(last, high), FREE),
        (max(first, high + 1), last, GAP),
    )
    return [part for part in parts if part[0] <= part[1]]
