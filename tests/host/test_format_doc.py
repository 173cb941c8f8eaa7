"""The tables of docs/format.md are equal to those of the implementations."""

import re
import struct
import uuid
from pathlib import Path

import pytest

import lifeboat
from fakes import board as sim
from fakes import scenarios
from lifeboat import journal as firmware_journal
from lifeboat import manifest as firmware_manifest
from lifeboat import partitioning
from lifeboat import region as firmware_region
from lifeboat_host import formats

DOC = Path(__file__).parents[2] / "docs" / "format.md"


def tables():
    """Structure name -> [(offset, size, field, value)], from the page.

    A field table follows a line that names its structure: ``Region header (`region`):``.
    """
    found, name = {}, None
    for line in DOC.read_text().splitlines():
        title = re.search(r"\(`(\w+)`\):$", line)
        row = re.match(r"\| (\d+) \| (\d+) \| (\w+) \| (.*) \|$", line)
        if title:
            name = title.group(1)
            found[name] = []
        elif row and name:
            found[name].append((int(row.group(1)), int(row.group(2)), row.group(3), row.group(4)))
        elif line.startswith("#"):
            name = None
    return found


ROWS = tables()
TABLES = {name: [row[:3] for row in rows] for name, rows in ROWS.items()}


def literals(name):
    """[(offset, bytes)] of a structure's fields that always have the value on the page."""
    found = []
    for offset, size, field, value in ROWS[name]:
        if value.isdigit():
            found.append((offset, int(value).to_bytes(size, "little")))
        elif field == "magic":
            found.append((offset, value.strip("`").replace("\\n", "\n").encode()))
    return found


def test_the_page_has_all_structures():
    assert set(TABLES) == {"manifest", "segment", "region", "commit", "journal", "entry"}


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
    assert f"1 to 0x{formats.GENERATION_MAX:X};" in page
    assert f"| serial | 1 to 0x{formats.SERIAL_MAX:X}," in page
    assert f"| entry_count | 1 to {formats.PAGE_ENTRIES} |" in page
    assert "; ".join(f"{i}: {kind}" for i, kind in enumerate(formats.KINDS)) in page


def written_by_the_host_tools():
    code = sim.noise(1, 4096)
    manifest = formats.pack_manifest(
        product="p",
        version="1",
        block_size=4096,
        segments=[formats.Segment("app", 0, 0, 4096)],
        blocks=[code],
    )
    sectors = sim.region_size(sim.SLOT, journal=2) // 512
    header = formats.RegionHeader(
        512, b"S" * 16, b"R" * 16, 8, sectors, 0, 1, 2, sim.SLOT, 4096 + 2 * sim.SLOT, 2
    )
    commit = formats.Commit(0, b"R" * 16, b"B" * 32, 1, len(manifest), 4096, 1)
    entry = formats.Entry(1, 1, 0, 0, 0, "power-on", "RUN", "", 0, 0)
    page = formats.pack_page(formats.Page(1, (entry,)), header)
    return {
        "manifest": manifest,
        "segment": manifest[128:],
        "region": header.pack(),
        "commit": commit.pack(),
        "journal": page,
        "entry": page[64:],
    }


def written_by_the_firmware():
    board = sim.SimBoard(sim.image(), members=1, journal=2)
    lifeboat.power_on(board)
    (disk,) = board.drives
    start = scenarios.region_of(disk, journal=2)
    header = bytearray(4096)
    firmware_region.make_header(
        header, 512, b"S" * 16, b"R" * 16, start // 512, disk.count - start // 512, 0, 1, 2,
        sim.SLOT, 2,
    )  # fmt: skip
    pages = [sim.get(disk, start + 4096 + 2 * sim.SLOT + at, 4096) for at in (0, 4096)]
    (page,) = [page for page in pages if any(page)]
    return {
        "region": bytes(header),
        "commit": sim.get(disk, scenarios.slot_of(disk, 0, journal=2), 512),
        "journal": page,
        "entry": page[64:],
    }


@pytest.mark.parametrize("records", [written_by_the_host_tools, written_by_the_firmware])
def test_what_is_written_has_the_values_of_the_page(records):
    for name, record in records().items():
        for offset, value in literals(name):
            assert record[offset : offset + len(value)] == value, (name, offset)


def test_the_page_says_what_the_fixed_fields_hold():
    for name in formats.MAGICS:
        assert [offset for offset, _ in literals(name)][:4] == [0, 8, 9, 10], name
        minor = dict(literals(name))[9]
        assert minor == bytes([formats.LAYOUTS[name].minor])


def firmware_sizes(layout):
    """Sizes of the fields of one of the firmware's struct formats, all of them little-endian."""
    assert layout[0] == "<"
    return [
        struct.calcsize("<" + code) for code in re.findall(r"\d+[sx]|[BHIQ]", layout.lstrip("<"))
    ]


@pytest.mark.parametrize(
    "name, layout",
    [
        ("manifest", firmware_manifest.HEADER),
        ("segment", firmware_manifest.SEGMENT),
        ("region", firmware_region.HEADER),
        ("commit", firmware_region.COMMIT),
        ("journal", firmware_journal.PAGE),
        ("entry", firmware_journal.ENTRY),
    ],
)
def test_the_firmware_has_the_tables_of_the_page(name, layout):
    sizes = firmware_sizes(layout)
    rows = TABLES[name]
    assert sizes == [size for _, size, _ in rows[: len(sizes)]]
    assert {field for _, _, field in rows[len(sizes) :]} <= {"reserved", "crc"}


def test_the_firmware_has_the_constants_of_the_page():
    page = DOC.read_text()
    assert firmware_region.TYPE_GUID == uuid.UUID(formats.PARTITION_TYPE).bytes_le
    assert f"1 to 0x{firmware_region.GENERATION_LIMIT:X};" in page
    assert f"block `i` of the code at {firmware_region.SLOT_DATA} + " in page
    assert f"is at most {firmware_manifest.MAX_SIZE} and" in page
    size = partitioning.region_size(1 << 20, 2)
    slot = firmware_region.SLOT_DATA + (1 << 20)
    assert size == firmware_region.UNIT * 3 + 2 * slot + partitioning._SPARE
