"""Partitions are found in tables as UEFI 2.10 says, and in nothing else."""

import struct
import zlib
from errno import EIO

import pytest

from fakes import board as sim
from fakes import gpt as tables
from lifeboat import region as gpt
from sim.disk import RamDisk, dead

OURS, OTHER = tables.LIFEBOAT, tables.LINUX


def disk(size=512):
    return RamDisk("d", 4000, size=size)


def find(d, match=lambda kind, first, last: kind == OURS):
    return gpt.partitions(d, match, bytearray(4096))[:2]


NOTHING = gpt._NONE, []


@pytest.mark.parametrize("size", [512, 4096])
@pytest.mark.parametrize("entry_size", [128, 256, 512, 1024, 2048, 4096])
@pytest.mark.parametrize("place", [0, 3, 7])
def test_the_partition_is_found_by_its_type(size, entry_size, place):
    d = disk(size)
    parts = [(OTHER, 100 + 10 * i, 109 + 10 * i) for i in range(8)]
    parts[place] = (OURS, 1000, 1999)
    tables.both(d, parts, entries=16, entry_size=entry_size)
    assert find(d) == (gpt._VALID, [(1000, 1000)])


def test_all_of_our_type_are_found_in_the_order_of_the_table_up_to_a_limit():
    d = disk()
    tables.both(d, [(OURS, 200, 299), (OTHER, 300, 399), (OURS, 100, 199), (OURS, 400, 499)])
    assert find(d) == (gpt._VALID, [(200, 100), (100, 100), (400, 100)])
    parts = [(OURS, 1000 - i, 1000 - i) for i in range(17)]
    tables.both(d, parts)
    assert find(d) == (gpt._VALID, [(first, 1) for _, first, _ in parts[:16]])


def test_the_match_sees_every_used_entry():
    d = disk()
    tables.both(d, [(OTHER, 100, 199), (bytes(16), 0, 0), (OURS, 300, 300)])
    seen = []
    assert find(d, lambda *entry: seen.append(entry)) == (gpt._VALID, [])
    assert seen == [(OTHER, 100, 199), (OURS, 300, 300)]


def test_a_table_without_it_is_told_from_no_table():
    d = disk()
    assert find(d) == NOTHING
    tables.both(d, [(OTHER, 100, 199)])
    assert find(d) == (gpt._VALID, [])


def test_the_backup_table_counts_when_the_primary_is_damaged():
    for at in (512, 512 + 16, 512 + 80, 1024 + 130):
        d = disk()
        tables.both(d, [(OTHER, 50, 60), (OURS, 1000, 1999)])
        sector = bytearray(sim.get(d, at // 512 * 512, 512))
        sector[at % 512] ^= 1
        sim.put(d, at // 512 * 512, sector)
        assert find(d) == (gpt._VALID, [(1000, 1000)])


def test_what_a_damaged_table_held_does_not_count():
    d = disk()
    tables.table(d, [(OURS, 1000, 1999)])
    tables.table(d, [(OTHER, 100, 199)], lba=3999)
    d.sectors[2 + 31] = b"x" * 512  # the last entries
    assert find(d) == (gpt._VALID, [])
    d.sectors[3999 - 1] = b"x" * 512
    assert find(d) == NOTHING


def test_a_valid_primary_table_counts_alone():
    d = disk()
    tables.table(d, [(OTHER, 100, 199)])
    tables.table(d, [(OURS, 1000, 1999)], lba=3999)
    assert find(d) == (gpt._VALID, [])


@pytest.mark.parametrize("first, last", [(20, 19), ((1 << 64) - 1, 0)])
def test_a_partition_that_ends_before_it_begins_is_none(first, last):
    d = disk()
    tables.both(d, [(OURS, first, last)])
    assert find(d) == (gpt._VALID, [])


@pytest.mark.parametrize("first, last", [(0, 10), (3999, 4000), (100, (1 << 64) - 1)])
def test_a_partition_that_leaves_the_disk_reaches_all_the_same(first, last):
    """The disk may have been cut (HPA) since: its partitions are somebody's still."""
    d = disk()
    tables.both(d, [(OURS, first, last)])
    assert find(d) == (gpt._VALID, [(first, last - first + 1)])


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
        (72, "<Q", 3990), (72, "<Q", (1 << 64) - 1), (80, "<I", 0), (84, "<I", 0),
        (84, "<I", 64), (84, "<I", 127), (84, "<I", 257), (84, "<I", 384), (84, "<I", 8192),
        (84, "<I", 0x80000080), (88, "<I", 1),
    ],
)  # fmt: skip
def test_a_hostile_header_is_no_table_and_costs_little(offset, form, value):
    d = disk()
    tables.table(d, [(OURS, 1000, 1999)])
    bend(d, offset, form, value)
    d.reads = 0
    assert find(d) == NOTHING
    assert d.reads <= 2 + 128 * 128 // 4096


@pytest.mark.parametrize("entries, size", [(512, 128), (8192, 128), (256, 4096), (1, 128)])
def test_a_table_of_up_to_1_mib_is_read_a_piece_at_a_time(entries, size):
    d = disk()
    tables.table(d, [(OURS, 1000, 1999)], entries=entries, entry_size=size)
    assert find(d) == (gpt._VALID, [(1000, 1000)])
    assert d.reads == 1 + -(-entries * size // 4096)


@pytest.mark.parametrize("lba", [1, 3999])
@pytest.mark.parametrize(
    "entries, size", [(8193, 128), (257, 4096), (0xFFFFFFFF, 128), (0xFFFFFFFF, 4096)]
)
def test_a_larger_table_is_unknown_and_costs_nothing(lba, entries, size):
    d = disk()
    tables.table(d, [(OURS, 1000, 1999)], lba=lba)
    head = bytearray(sim.get(d, lba * 512, 512))
    struct.pack_into("<II", head, 80, entries, size)
    head[16:20] = bytes(4)
    struct.pack_into("<I", head, 16, zlib.crc32(head[:92]))
    sim.put(d, lba * 512, head)
    assert find(d) == (gpt._UNKNOWN, [])
    assert d.reads <= 2


def test_the_worst_that_two_tables_cost():
    """Both full and both wrong: 1 MiB of entries each, and their headers."""
    d = RamDisk("d", 8192)
    for lba in (1, 8191):
        tables.table(d, [(OURS, 5000, 5100)], lba=lba, entries=8192)
        d.sectors[lba + 2047 if lba == 1 else lba - 1] = b"x" * 512
    assert find(d) == NOTHING
    assert d.read_sectors == 2 * (1 + 2048)


def test_where_a_table_lies_is_told():
    d = disk()
    tables.both(d, [(OURS, 1000, 1999)], entries=100)
    unit = bytearray(4096)
    for lba, first in ((1, 2), (3999, 3999 - 25)):
        assert gpt.table(d, lba, lambda *_: False, unit) == (gpt._VALID, [], first, 25)
    assert gpt.table(d, 5, None, unit)[0] == gpt._NONE


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
    sim.put(d, 0, bytes(sector).ljust(d.size, b"\0"))


def claims(d, start=1000, end=2000):
    return gpt.reaches(sim.get(d, 0, d.size), start, end)


@pytest.mark.parametrize("code", [b"", b"\xeb\x63\x90", b"\xfa\x33\xc0"], ids=["", "jump", "cli"])
@pytest.mark.parametrize(
    "first, sectors, claimed",
    [(100, 900, False), (100, 901, True), (2000, 5, False), (1999, 5, True), (1500, 1, True),
     (0, 0xFFFFFFFF, True), (0, 1001, True), (0, 1000, False), (1500, 0, False),
     (0xFFFFFFFF, 0xFFFFFFFF, False)],
)  # fmt: skip
@pytest.mark.parametrize("size", [512, 4096])
def test_a_partition_of_the_mbr_claims_what_it_reaches_into(size, code, first, sectors, claimed):
    d = disk(size)
    mbr(d, [(0, 0, 0, 0), (0x80, 0x83, first, sectors)], code)
    assert claims(d) == claimed


def test_an_entry_without_a_type_claims_nothing():
    d = disk()
    mbr(d, [(0, 0, 1500, 100)])
    assert not claims(d)


def test_a_boot_sector_of_a_file_system_is_no_mbr():
    d = disk()
    mbr(d, [(0, 0x83, 0, 4000), (0x41, 0x83, 0, 4000)], b"\xeb\x3c\x90MSDOS5.0")
    assert not claims(d)


@pytest.mark.parametrize("at", [510, 511])
def test_a_sector_without_its_signature_is_no_mbr(at):
    d = disk()
    mbr(d, [(0, 0x83, 0, 4000)])
    sector = bytearray(d.sectors[0])
    sector[at] ^= 1
    d.sectors[0] = bytes(sector)
    assert not claims(d)


def test_a_protective_mbr_claims_nothing():
    d = disk()
    mbr(d, [(0, 0xEE, 1, 0xFFFFFFFF)])
    assert not claims(d) and not claims(d, 0, 1 << 64)
    mbr(d, [(0, 0xEE, 1, 0xFFFFFFFF), (0, 0x83, 1500, 1)])
    assert claims(d)
