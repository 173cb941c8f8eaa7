"""The code flash as a picture: one character per block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lifeboat_host.model.formats import Manifest

_PER_LINE = 32


class Cell(Enum):
    """What a block is: (name, character, plain character, style)."""

    OK = ("ok", "■", "#", "green")
    DAMAGED = ("damaged", "✗", "X", "bold red")
    REPAIRED = ("repaired", "◆", "R", "bold cyan")
    MANIFEST = ("manifest", "▣", "M", "blue")
    MEMORY = ("memory", "▤", "m", "magenta")
    FREE = ("not used", "·", ".", "dim")

    @property
    def label(self) -> str:
        return self.value[0]

    def text(self, plain: bool) -> Text:
        _, character, ascii_character, style = self.value
        return Text(ascii_character) if plain else Text(character, style=style)


def cells(
    manifest: Manifest,
    flash_size: int,
    damaged: Iterable[int] = (),
    repaired: Iterable[int] = (),
) -> list[Cell]:
    """One cell per block of the flash; block numbers as in the report line."""
    total = flash_size // manifest.block_size
    result = [Cell.OK] * manifest.block_count
    rest, memory = manifest.manifest_blocks - 1, manifest.memory_blocks
    result += [Cell.FREE] * (total - 1 - rest - memory - manifest.block_count)
    result += [Cell.MANIFEST] * rest + [Cell.MEMORY] * memory + [Cell.MANIFEST]
    for block in repaired:
        result[block] = Cell.REPAIRED
    for block in damaged:
        result[block] = Cell.DAMAGED
    return result


def _lines(*pictures: Sequence[Cell], block_size: int, ascii_only: bool) -> Table:
    """Maps side by side; each line starts with the offset of its first block."""
    table = Table.grid(padding=(0, 2))
    for first in range(0, len(pictures[0]), _PER_LINE):
        rows = [
            Text("", no_wrap=True).join(
                cell.text(ascii_only) for cell in picture[first : first + _PER_LINE]
            )
            for picture in pictures
        ]
        table.add_row(f"{first * block_size:#010x}", *rows)
    return table


def flash_map(picture: Sequence[Cell], block_size: int, ascii_only: bool) -> RenderableType:
    """A map of the flash with its legend."""
    table = _lines(picture, block_size=block_size, ascii_only=ascii_only)
    return Group(table, legend(picture, ascii_only))


def legend(pictures: Iterable[Cell], ascii_only: bool) -> Text:
    """The meaning of each kind of cell that occurs."""
    occurring = set(pictures)
    parts = [
        Text.assemble(cell.text(ascii_only), f" {cell.label}")
        for cell in Cell
        if cell in occurring
    ]
    return Text("   ").join(parts)


def before_after(
    before: Sequence[Cell], after: Sequence[Cell], block_size: int, ascii_only: bool
) -> RenderableType:
    """Two maps side by side, with a legend; 80 columns wide."""
    table = _lines(before, after, block_size=block_size, ascii_only=ascii_only)
    for column, title in zip(table.columns, ("", "before", "after")):
        column.header = title
    table.show_header = True
    return Group(table, legend([*before, *after], ascii_only))
