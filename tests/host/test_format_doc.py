"""The tables of docs/format.md are equal to those of the implementations."""

import re
import struct
import uuid
from pathlib import Path

import pytest

import lifeboat
from fakes import board as sim
from fakes import scenarios
from lifeboat import evidence as firmware_evidence
from lifeboat import journal as firmware_journal
from lifeboat import manifest as firmware_manifest
from lifeboat import memory as firmware_memory
from lifeboat import parity as firmware_parity
from lifeboat import partitioning
from lifeboat import records as firmware_records
from lifeboat import region as firmware_region
from lifeboat_host.model import evidence, formats, memory, parity, region
from sim.disk import RamDisk

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


HOST = {**formats.LAYOUTS, **memory.LAYOUTS}
HOST.update(parity=parity.PARITY, evidence=evidence.EVIDENCE)
MAGICS = {**formats.MAGICS, **memory.MAGICS}
MAGICS.update(parity=parity.MAGIC, evidence=evidence.MAGIC)
STRUCTURES = {
    "manifest",
    "segment",
    "region",
    "commit",
    "journal",
    "entry",
    "memory",
    "record",
    "trial",
    "parity",
    "evidence",
}

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
    assert set(TABLES) == STRUCTURES


@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_table_of_the_page_has_neither_gap_nor_overlap(name):
    end = 0
    for offset, size, _ in TABLES[name]:
        assert offset == end
        end = offset + size


@pytest.mark.parametrize("name", sorted(TABLES))
def test_the_host_tools_have_the_tables_of_the_page(name):
    assert list(HOST[name].fields) == TABLES[name]


def test_the_host_tools_have_the_constants_of_the_page():
    page = DOC.read_text()
    for magic in MAGICS.values():
        assert f"`{magic.decode().encode('unicode_escape').decode()}`" in page
    assert f"the magic `{formats.CANDIDATE.decode()}`" in page
    assert f"`{formats.PARTITION_TYPE}`" in page
    assert f"is at most {formats.MANIFEST_LIMIT} and" in page
    assert f"together are at most {formats.SIGNED_MAX};" in page
    assert f"| {formats.MANIFEST_OFFSET} | `manifest_area` | manifest" in page
    assert f"at most {formats.MANIFEST_LIMIT}; 0: {formats.MANIFEST_AREA} (since" in page
    assert f"a multiple of {formats.UNIT}; 0: {formats.SLOTS_OFFSET} (since" in page
    assert f"at least {formats.UNIT} + `manifest_area` + {formats.UNIT} |" in page
    assert f"one of 0x{formats.GENERATION_OLD:X} or more counts as older" in page
    kinds = (memory.MEMBER, memory.SET, memory.BUILD, memory.REJECTED, memory.FAILED)
    names = ("member", "set", "build", "rejected", "failed", "counter", "keys", "lock", "trial")
    others = (memory.COUNTER, memory.KEYS, memory.LOCK, memory.TRIAL)
    for kind, name in zip(kinds + others, names):
        assert f"| {kind} | `{name}` |" in page
    assert f"that holds {memory.PAGES} pages" in page
    assert f"at least {memory.HEADER_SIZE}. `M`" in page
    assert f"block 0x{memory.ALL_BLOCKS:X}: all counts" in page
    assert f"`c` is 1 to {memory.MEMBERS_MAX}." in page
    assert "1 state of a trial, 2 evidence (below), 3 parity" in page
    assert f"ceil(`block_count` / {formats.PARITY_BLOCKS}) groups" in page
    assert f"`G` is more than {parity.GROUPS_MAX}." in page
    assert f"of which the first {evidence.UNITS_MAX} count" in page
    assert f"| serial | 1 to 0x{evidence.SERIAL_MAX:X}; the next" in page
    assert f"at most {evidence.LISTED_MAX}: the first" in page
    assert (formats.STATE, formats.EVIDENCE, formats.PARITY) == (1, 2, 3)
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
    slot = 69632 + 4096
    sectors = (4096 + 2 * slot + 2 * 4096 + 8192) // 512
    header = formats.RegionHeader(
        512, b"S" * 16, b"R" * 16, 8, sectors, 0, 1, 2, slot, 4096 + 2 * slot, 2
    )
    commit = formats.Commit(0, b"R" * 16, b"B" * 32, 1, len(manifest), 4096, 1)
    entry = formats.Entry(1, 1, 0, 0, 0, "power-on", "RUN", "", 0, 0)
    page = formats.pack_page(formats.Page(1, (entry,)), header)
    build = memory.Build(b"B" * 32, 0, "1")
    mirror = memory.pack_mirror(memory.records_of(builds=[build]), mirror_size=16384)
    return {
        "manifest": manifest,
        "segment": manifest[128:],
        "region": header.pack(),
        "commit": commit.pack(),
        "journal": page,
        "entry": page[64:],
        "memory": mirror,
        "record": mirror[256:],
    }


def written_by_the_firmware():
    board = sim.SimBoard(sim.image(), members=1, journal=2, remembers="nothing")
    lifeboat.power_on(board)
    (disk,) = board.drives
    start = scenarios.region_of(disk, journal=2)
    header = bytearray(4096)
    partitioning.make_header(
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
        "memory": bytes(board.chip.data[:256]),
        "record": bytes(board.chip.data[256:512]),
    }


@pytest.mark.parametrize("records", [written_by_the_host_tools, written_by_the_firmware])
def test_what_is_written_has_the_values_of_the_page(records):
    for name, record in records().items():
        for offset, value in literals(name):
            assert record[offset : offset + len(value)] == value, (name, offset)


def test_the_page_says_what_the_fixed_fields_hold():
    for name in set(MAGICS) - {"record"}:
        assert [offset for offset, _ in literals(name)][:4] == [0, 8, 9, 10], name
        assert dict(literals(name))[9] == bytes([formats.MINOR])
    assert literals("record")[0] == (0, memory.MAGICS["record"])
    for name in ("manifest", "region", "commit", "journal", "memory", "parity", "evidence"):
        fields = {field for _, _, field in TABLES[name]}
        assert {"incompat", "ro_compat"} <= fields, name


def firmware_sizes(layout):
    """Sizes of the fields of one of the firmware's struct formats, all of them little-endian."""
    assert layout[0] == "<"
    return [
        struct.calcsize("<" + code) for code in re.findall(r"\d+[sx]|[BHIQ]", layout.lstrip("<"))
    ]


@pytest.mark.parametrize(
    "name, layout",
    [
        ("manifest", firmware_manifest._HEADER),
        ("segment", firmware_manifest._SEGMENT),
        ("region", firmware_records.HEADER),
        ("commit", firmware_records._COMMIT),
        ("journal", firmware_journal.PAGE),
        ("entry", firmware_journal.ENTRY),
        ("memory", firmware_memory._HEADER),
        ("parity", firmware_parity.RECORD),
        ("evidence", firmware_evidence.ENTRY),
    ],
)
def test_the_firmware_has_the_tables_of_the_page(name, layout):
    sizes = firmware_sizes(layout)
    rows = TABLES[name]
    assert sizes == [size for _, size, _ in rows[: len(sizes)]]
    # What is cut off or left out is nothing that decides.
    rest = {field for _, _, field in rows[len(sizes) :]}
    others = {"crcs", "differences"}
    assert rest <= {"reserved", "crc", "directory", "security_counter"} | others


def test_the_firmware_has_the_constants_of_the_page():
    page = DOC.read_text()
    assert firmware_region.TYPE_GUID == uuid.UUID(formats.PARTITION_TYPE).bytes_le
    assert f"1 to 0x{firmware_records._GENERATION_LIMIT:X};" in page
    assert f"is at most {firmware_manifest._MAX_SIZE} and" in page


@pytest.mark.parametrize("block_size", [4096, 16384, 65536, 262144])
def test_a_new_region_has_the_size_of_its_parts(block_size):
    flash = 16 * block_size
    slot = region.slot_size_for(flash, block_size)
    slots = 2 * (slot + -slot % 65536)
    # Slots' offset, slots, journal, state, tail copies, evidence and parity.
    size = 65536 + slots + (32 + 2 + 2) * 4096 + (1 << 20) + block_size
    assert region.size_for(slot, 2, block_size) == size
    assert partitioning.region_size(flash - block_size, 2, block_size) == size


def test_the_firmware_makes_new_regions_as_the_host_tools_do(monkeypatch):
    monkeypatch.setattr(lifeboat.running, "attended", False)
    board = sim.SimBoard(sim.image(), members=0)
    board.drives = [RamDisk("a", 8192)]
    partitioning.create(board, ("a",))
    (disk,) = board.drives
    data = sim.get(disk, disk.count * 512 - 4096, 4096)
    made = formats.parse_region(
        data, lba_size=512, disk_size=8192 * 512, found_at=8192 * 512 - 4096
    )
    slot = region.slot_size_for(sim.BLOCKS * sim.ERASE, sim.ERASE)
    assert made.slots_offset == 65536
    assert made.slot_size == slot + -slot % 65536
    assert made.size == region.size_for(slot, 2, sim.ERASE)
    assert made.journal == (made.start + made.slots_end, 32)
    kinds = [(extent.kind, extent.units) for extent in made.extents]
    assert kinds == [(1, 2), (2, 128 + sim.ERASE // 4096), (3, 128)]


def test_the_host_tools_read_the_memory_that_the_firmware_writes():
    board = sim.SimBoard(sim.image(), members=2, remembers="nothing")
    assert lifeboat.power_on(board).verdict == "RUN"
    data = bytes(board.chip.data)
    found = memory.parse(data[: sim.MIRROR], data[sim.MIRROR : 2 * sim.MIRROR], 256)
    assert (found.state, found.damage) == (memory.OK, ())
    assert [member.index for member in found.members] == [0, 1]
    assert {member.set_id for member in found.members} == {found.set_id}
    (build,) = found.builds
    raw = bytes(sim.image())[-sim.ERASE :]
    size = int.from_bytes(raw[12:16], "little")
    assert build.build_id == formats.parse_manifest(raw[:size]).build_id
