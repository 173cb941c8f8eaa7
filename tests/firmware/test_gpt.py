"""Partitions are found in tables as UEFI 2.10 says, and in nothing else."""

import struct
import zlib
from errno import EIO

import pytest

from fakes import board as sim
from fakes import gpt as tables
from fakes.disk import RamDisk, dead
from lifeboat import gpt

OURS, OTHER = tables.LIFEBOAT, tables.LINUX


def disk(size=512):
    return RamDisk("d", 4000, size=size)


def find(d):
    return gpt.find(d, lambda kind, first, last: kind == OURS)


@pytest.mark.parametrize("size", [512, 4096])
@pytest.mark.parametrize("entry_size", [128, 256, 512])
@pytest.mark.parametrize("place", [0, 3, 7])
def test_the_partition_is_found_by_its_type(size, entry_size, place):
    d = disk(size)
    parts = [(OTHER, 100 + 10 * i, 109 + 10 * i) for i in range(8)]
    parts[place] = (OURS, 1000, 1999)
    tables.both(d, parts, entry_size=entry_size)
    assert find(d) == (1000, 1000)


def test_the_first_of_several_counts():
    d = disk()
    tables.both(d, [(OURS, 200, 299), (OURS, 100, 199)])
    assert find(d) == (200, 100)


def test_the_match_sees_every_used_entry():
    d = disk()
    tables.both(d, [(OTHER, 100, 199), (bytes(16), 0, 0), (OURS, 300, 300)])
    seen = []
    assert gpt.find(d, lambda *entry: seen.append(entry)) == ()
    assert seen == [(OTHER, 100, 199), (OURS, 300, 300)]


def test_a_table_without_it_is_told_from_no_table():
    d = disk()
    assert find(d) is None
    tables.both(d, [(OTHER, 100, 199)])
    assert find(d) == ()


def test_the_backup_table_counts_when_the_primary_is_damaged():
    for at in (512, 512 + 16, 512 + 80, 1024 + 130):
        d = disk()
        tables.both(d, [(OTHER, 50, 60), (OURS, 1000, 1999)])
        sector = bytearray(sim.get(d, at // 512 * 512, 512))
        sector[at % 512] ^= 1
        sim.put(d, at // 512 * 512, sector)
        assert find(d) == (1000, 1000)


def test_a_valid_primary_table_counts_alone():
    d = disk()
    tables.table(d, [(OTHER, 100, 199)])
    tables.table(d, [(OURS, 1000, 1999)], lba=3999)
    assert find(d) == ()


@pytest.mark.parametrize(
    "first, last", [(0, 10), (20, 19), (3999, 4000), (100, 1 << 40), (1 << 63, (1 << 64) - 1)]
)
def test_a_partition_outside_the_disk_is_none(first, last):
    d = disk()
    tables.both(d, [(OURS, first, last)])
    assert find(d) == ()


def bend(d, offset, form, value):
    """Change a field of the primary header and make its CRC right again."""
    head = bytearray(sim.get(d, 512, 512))
    struct.pack_into(form, head, offset, value)
    size = min(512, struct.unpack_from("<I", head, 12)[0])
    head[16:20] = bytes(4)
    struct.pack_into("<I", head, 16, zlib.crc32(head[:size]))
    sim.put(d, 512, head)


@pytest.mark.parametrize(
    "offset, form, value",
    [
        (0, "<Q", 0), (12, "<I", 91), (12, "<I", 513), (12, "<I", 0xFFFFFFFF), (24, "<Q", 2),
        (72, "<Q", 3990), (72, "<Q", (1 << 64) - 1), (80, "<I", 0), (80, "<I", 1025),
        (80, "<I", 0xFFFFFFFF), (84, "<I", 0), (84, "<I", 127), (84, "<I", 257),
        (84, "<I", 0x80000080), (88, "<I", 1),
    ],
)  # fmt: skip
def test_a_hostile_header_is_no_table_and_costs_little(offset, form, value):
    d = disk()
    tables.table(d, [(OURS, 1000, 1999)])
    bend(d, offset, form, value)
    d.reads = 0
    assert find(d) is None
    assert d.reads <= 2 + 128 * 128 // 512


def test_the_most_entries_that_are_read():
    d = disk()
    tables.table(d, [(OURS, 1000, 1999)], entries=256, entry_size=512)
    assert find(d) == (1000, 1000)
    assert d.reads == 1 + 256


def test_errors_of_the_disk_are_raised():
    d = disk()
    d.fault = dead
    with pytest.raises(OSError) as caught:
        find(d)
    assert caught.value.args[0] == EIO


def mbr(d, entries, code=b""):
    """Write an MBR; entries: (active flag, type, first LBA, sectors)."""
    sector = bytearray(512)
    sector[: len(code)] = code
    for i, (active, kind, first, sectors) in enumerate(entries):
        struct.pack_into("<BxxxBxxxII", sector, 446 + 16 * i, active, kind, first, sectors)
    sector[510:] = b"\x55\xaa"
    sim.put(d, 0, bytes(sector))


@pytest.mark.parametrize("code", [b"", b"\xeb\x63\x90", b"\xfa\x33\xc0"], ids=["", "jump", "cli"])
@pytest.mark.parametrize(
    "first, sectors, claims",
    [(100, 900, False), (100, 901, True), (2000, 5, False), (1999, 5, True), (1500, 1, True),
     (0, 0xFFFFFFFF, True), (0xFFFFFFFF, 0xFFFFFFFF, False)],
)  # fmt: skip
def test_a_partition_of_the_mbr_claims_what_it_reaches_into(code, first, sectors, claims):
    d = disk()
    mbr(d, [(0, 0, 0, 0), (0x80, 0x83, first, sectors)], code)
    assert gpt.mbr_claims(d, 1000, 2000, bytearray(4096)) == claims


def test_a_boot_sector_of_a_file_system_is_no_mbr():
    d = disk()
    mbr(d, [(0x41, 0x83, 0, 4000)], b"\xeb\x3c\x90MSDOS5.0")
    assert gpt.mbr(d, bytearray(512)) is None
    assert not gpt.mbr_claims(d, 1000, 2000, bytearray(512))


def test_a_protective_mbr_claims_nothing():
    d = disk()
    mbr(d, [(0, 0xEE, 1, 0xFFFFFFFF)])
    assert not gpt.mbr_claims(d, 1000, 2000, bytearray(512))
    assert gpt.mbr(d, bytearray(512)) == [(0xEE, 1, 0xFFFFFFFF)]
