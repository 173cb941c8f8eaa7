"""The tables of docs/format.md are equal to those of the implementations."""

import re
from pathlib import Path

import pytest

from lifeboat_host import formats

DOC = Path(__file__).parents[2] / "docs" / "format.md"


def tables():
    """Structure name -> [(offset, size, field)], from the page.

    A field table follows a line that names its structure: ``Region header (`region`):``.
    """
    found, name = {}, None
    for line in DOC.read_text().splitlines():
        title = re.search(r"\(`(\w+)`\):$", line)
        row = re.match(r"\| (\d+) \| (\d+) \| (\w+) \|", line)
        if title:
            name = title.group(1)
            found[name] = []
        elif row and name:
            found[name].append((int(row.group(1)), int(row.group(2)), row.group(3)))
        elif line.startswith("#"):
            name = None
    return found


TABLES = tables()


def test_the_page_has_the_four_structures():
    assert set(TABLES) == {"manifest", "segment", "region", "commit"}


@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_table_of_the_page_has_neither_gap_nor_overlap(name):
    end = 0
    for offset, size, _ in TABLES[name]:
        assert offset == end
        end = offset + size


@pytest.mark.parametrize("name", sorted(TABLES))
def test_the_host_tools_have_the_tables_of_the_page(name):
    assert list(formats.LAYOUTS[name].fields) == TABLES[name]


def test_the_host_tools_have_the_constants_of_the_page():
    page = DOC.read_text()
    for magic in formats.MAGICS.values():
        assert f"`{magic.decode().encode('unicode_escape').decode()}`" in page
    assert f"`{formats.PARTITION_TYPE}`" in page
    assert f"| {formats.MANIFEST_OFFSET} | {formats.MANIFEST_LIMIT} | manifest" in page
    assert f"block `i` of the code at {formats.BLOCKS_OFFSET} + " in page
    assert f"at least {formats.SLOT_SIZE_MIN} |" in page
    assert f"at least {formats.SPARE_MIN} when made" in page
    assert f"1 to 0x{formats.GENERATION_MAX:X};" in page
    assert "; ".join(f"{i}: {kind}" for i, kind in enumerate(formats.KINDS)) in page
