"""picture.py: the map of the flash."""

import io

import handmade
import pytest
from rich.console import Console

from lifeboat_host.model import formats
from lifeboat_host.ui import flash_picture, output
from lifeboat_host.ui.flash_picture import Cell

MANIFEST = formats.parse_manifest(handmade.manifest())


def drawn(renderable):
    console = Console(file=io.StringIO(), width=80)
    console.print(renderable)
    return console.file.getvalue()


def test_every_block_has_one_cell_of_the_right_kind():
    cells = flash_picture.cells(MANIFEST, 6 * 4096, damaged=[1, 5], repaired=[0])
    assert cells == [Cell.REPAIRED, Cell.DAMAGED, Cell.OK, Cell.FREE, Cell.FREE, Cell.DAMAGED]
    assert flash_picture.cells(MANIFEST, 6 * 4096)[5] is Cell.MANIFEST


def test_the_memory_and_a_long_manifest_have_cells_of_their_own():
    blocks = [bytes(4096)] * 200
    raw = handmade.manifest(blocks, ((b"os", 1, 0, 16),), memory_blocks=8)
    cells = flash_picture.cells(formats.parse_manifest(raw), 211 * 4096)
    rest = [Cell.FREE, Cell.MANIFEST, *[Cell.MEMORY] * 8, Cell.MANIFEST]
    assert cells == [Cell.OK] * 200 + rest


def test_a_map_has_lines_with_offsets():
    cells = flash_picture.cells(MANIFEST, 40 * 4096, damaged=[1])
    lines = drawn(flash_picture.flash_map(cells, 4096, True)).splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["0x00000000", "#X#" + "." * 29],
        ["0x00020000", "." * 7 + "M"],
    ]


def test_characters_differ_without_colour():
    assert len({cell.text(True).plain for cell in Cell}) == len(Cell)
    assert len({cell.text(False).plain for cell in Cell}) == len(Cell)
    assert all(cell.text(True).plain.isascii() for cell in Cell)


def test_before_and_after_stand_side_by_side_with_a_legend_of_what_occurs():
    before = flash_picture.cells(MANIFEST, 5 * 4096, damaged=[2])
    after = flash_picture.cells(MANIFEST, 5 * 4096, repaired=[2])
    text = drawn(flash_picture.before_after(before, after, 4096, True))
    assert text.splitlines()[0].split() == ["before", "after"]
    assert text.splitlines()[1].split() == ["0x00000000", "##X.M", "##R.M"]
    assert "X damaged" in text and "R repaired" in text


@pytest.mark.parametrize(
    ("encoding", "no_color", "expected"),
    [("utf-8", False, False), ("utf-8", True, True), ("ascii", False, True)],
)
def test_plain_characters_when_the_terminal_wants_them(monkeypatch, encoding, no_color, expected):
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    console = Console(file=io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert output.plain(console) is expected
