"""A disk as a picture: a proportional bar, and its ranges as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lifeboat_host.reserve.disk_map import (
    CLAIM,
    FREE,
    GAP,
    PARTITION,
    REGION,
    TABLE,
    DiskMap,
    Piece,
)

_WIDTH = 64
_TABLE_WIDTH = 72  # of the table of ranges, with its owners
_NEW = "proposed"
# (character, plain character, style) of each kind; the first one that a cell touches is shown.
_CELLS = {
    _NEW: ("◆", "N", "bold cyan"),
    REGION: ("▣", "L", "blue"),
    TABLE: ("▒", "T", "yellow"),
    PARTITION: ("█", "P", "green"),
    CLAIM: ("█", "C", "red"),
    FREE: ("·", ".", "dim"),
    GAP: ("-", "-", "dim"),
}


def size_text(size: int) -> str:
    """Bytes for people: at most three digits before the unit."""
    value, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1000 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if value == int(value) else f"{value:.1f} {unit}"


def disk_map(
    found: DiskMap, proposed: tuple[int, int] | None, ascii_only: bool, width: int = 80
) -> RenderableType:
    """The map of a disk, in so many columns. proposed: first and last LBA of a region that is to
    be."""
    pieces = list(found.pieces)
    if proposed:
        pieces.append(Piece(*proposed, _NEW, "the backup region would be here"))
        pieces.sort(key=lambda piece: (piece.first, -piece.last))
    bar = _bar(pieces, found.sectors, ascii_only, max(8, min(_WIDTH, width - 2)))
    if width < _TABLE_WIDTH:
        return Group(bar, "", *_narrow(pieces, found.lba_size, ascii_only))
    table = Table.grid(padding=(0, 2))
    for _ in range(3):
        table.add_column(justify="right")
    table.add_row("first LBA", "last LBA", "size", "", "")
    for piece in pieces:
        size = size_text((piece.last - piece.first + 1) * found.lba_size)
        cell = _cell(piece.kind, ascii_only)
        table.add_row(str(piece.first), str(piece.last), size, cell, Text(piece.owner))
    return Group(bar, "", table)


def _narrow(pieces: Sequence[Piece], lba_size: int, ascii_only: bool) -> Iterator[Text]:
    """Two lines a range, for a terminal on a small screen."""
    for piece in pieces:
        size = size_text((piece.last - piece.first + 1) * lba_size)
        yield Text.assemble(_cell(piece.kind, ascii_only), f" {piece.first}-{piece.last}, {size}")
        yield Text(f"    {piece.owner}")


def _cell(kind: str, ascii_only: bool) -> Text:
    character, plain, style = _CELLS[kind]
    return Text(plain) if ascii_only else Text(character, style=style)


def _bar(pieces: Sequence[Piece], sectors: int, ascii_only: bool, width: int) -> Text:
    order = list(_CELLS)
    cells = []
    for index in range(width):
        first, end = index * sectors // width, (index + 1) * sectors // width
        touched = {p.kind for p in pieces if p.first < max(end, first + 1) and p.last >= first}
        cells.append(_cell(min(touched, key=order.index), ascii_only))
    return Text.assemble("[", *cells, "]", no_wrap=True)
