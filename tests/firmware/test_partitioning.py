"""Reserving a region at the REPL: what is somebody's is refused, and nothing else is written."""

import struct
import zlib

import pytest

import lifeboat
from fakes import board as sim
from fakes.disk import RamDisk, dead
from lifeboat import boot, partitioning
from lifeboat.errors import LifeboatError

SECTORS = 4096
# One head unit, two slots of 69632 bytes and eight blocks, 128 KiB spare, two tail units.
SIZE = 4096 + 2 * (69632 + 8 * sim.ERASE) + 131072 + 8192
TYPE = bytes.fromhex("c2903618 0985 ae4d a160 c2b9cf3b0828".replace(" ", ""))


@pytest.fixture(autouse=True)
def unattended(monkeypatch):
    monkeypatch.setattr(boot, "attended", False)


def board(*disks):
    made = sim.SimBoard(sim.image(), members=0)
    made.drives = list(disks)
    return made


def refused(disk):
    """Why a region is refused on a disk; also asserts that nothing was written."""
    before = dict(disk.sectors)
    with pytest.raises(LifeboatError) as caught:
        partitioning.create(board(disk), (disk.name,))
    assert disk.sectors == before and disk.writes == 0
    return caught.value


def mbr(disk, *partitions):
    sector = bytearray(512)
    for i, (kind, start, count) in enumerate(partitions):
        struct.pack_into("<B3xII", sector, 446 + 16 * i + 4, kind, start, count)
    sector[510:] = b"\x55\xaa"
    sim.put(disk, 0, sector)


def gpt(disk, first, last, kind):
    """A primary GPT (UEFI 2.10, 5.3.2) with one partition."""
    entries = bytearray(128 * 128)
    entries[:16], entries[16:32] = kind, b"U" * 16
    struct.pack_into("<QQ", entries, 32, first, last)
    head = bytearray(b"EFI PART" + struct.pack("<IIII", 0x10000, 92, 0, 0))
    head += struct.pack("<QQQQ", 1, disk.count - 1, 34, disk.count - 34) + b"D" * 16
    head += struct.pack("<QIII", 2, 128, 128, zlib.crc32(entries))
    struct.pack_into("<I", head, 16, zlib.crc32(head))
    mbr(disk, (0xEE, 1, disk.count - 1))
    sim.put(disk, 512, bytes(head).ljust(512, b"\0"))
    sim.put(disk, 1024, entries)


@pytest.mark.parametrize("size", [512, 4096])
def test_the_tail_of_blank_disks_becomes_a_set_that_the_next_power_on_uses(size, capsys):
    count = SECTORS * 512 // size
    made = board(RamDisk("a", count, size=size), RamDisk("b", count, size=size))
    partitioning.show(made)
    start = count - SIZE // size
    assert capsys.readouterr().out.splitlines() == [
        "%s - LBA %d, %d sectors" % (name, start, SIZE // size) for name in "ab"
    ]
    partitioning.create(made, ("a", "b"))
    for disk in made.drives:
        assert all(lba >= start for lba in disk.sectors)
    assert lifeboat.power_on(made).verdict == "RUN"
    again = lifeboat.power_on(made)
    assert [m["state"] for m in again.data["members"]] == ["level", "level"]
    sets = {bytes(d.sectors[start][16:32]) for d in made.drives}
    regions = {bytes(d.sectors[start][32:48]) for d in made.drives}
    assert len(sets) == 1 and len(regions) == 2


def test_the_rest_of_the_disk_stays_as_it_is():
    disk = RamDisk("a", SECTORS)
    mbr(disk, (0x83, 64, 512))
    sim.put(disk, 64 * 512, b"user".ljust(512, b"."))
    before = dict(disk.sectors)
    partitioning.create(board(disk), ("a",))
    assert all(disk.sectors[lba] == data for lba, data in before.items())
    assert min(disk.written) == SECTORS - SIZE // 512


def test_a_partition_that_reaches_into_the_range_is_refused():
    disk = RamDisk("a", SECTORS)
    mbr(disk, (0x83, 64, SECTORS - SIZE // 512 - 63))
    assert refused(disk).code == "disk-in-use"


def test_data_in_the_range_is_refused_and_the_place_is_named():
    disk = RamDisk("a", SECTORS)
    sim.put(disk, (SECTORS - 100) * 512, b"x" * 512)
    error = refused(disk)
    assert error.code == "disk-in-use" and "LBA" in error.detail


@pytest.mark.parametrize("place", [0, 2, 255])
def test_a_file_system_without_partition_table_is_refused(place):
    disk = RamDisk("a", SECTORS)
    sim.put(disk, place * 512, b"\xeb".ljust(510, b"f") + b"\x55\xaa")
    assert refused(disk).code == "disk-in-use"


def test_a_disk_that_has_a_region_is_refused():
    disk = RamDisk("a", SECTORS)
    partitioning.create(board(disk), ("a",))
    disk.writes = 0
    assert "region" in refused(disk).detail


def test_a_gpt_without_our_partition_is_refused_and_one_with_it_is_filled():
    disk = RamDisk("a", SECTORS)
    gpt(disk, 2048, 2055, b"\x01" * 16)
    assert refused(disk).code == "disk-in-use"
    disk = RamDisk("a", SECTORS)
    gpt(disk, 1024, 1024 + 2048 - 1, TYPE)
    partitioning.create(board(disk), ("a",))
    assert min(disk.written) == 1024 and max(disk.written) == 1024 + 2048 - 1
    report = lifeboat.power_on(board(disk))
    assert report.data["members"][0]["state"] == "created"


@pytest.mark.parametrize(
    "first, last", [(1025, 3072), (1024, 1024 + SIZE // 512 - 9), (1024, 3070)]
)
def test_a_partition_of_ours_that_does_not_fit_is_refused(first, last):
    disk = RamDisk("a", SECTORS)
    gpt(disk, first, last, TYPE)
    assert refused(disk).code == "disk-in-use"


def test_too_small_a_disk_is_refused():
    assert "small" in refused(RamDisk("a", SIZE // 512 + 100)).detail


def test_a_second_disk_that_is_refused_leaves_the_first_untouched():
    good, full = RamDisk("a", SECTORS), RamDisk("b", SECTORS)
    sim.put(full, (SECTORS - 9) * 512, b"x" * 512)
    with pytest.raises(LifeboatError):
        partitioning.create(board(good, full), ("a", "b"))
    assert good.writes == full.writes == 0


def test_an_unknown_name_is_refused():
    with pytest.raises(LifeboatError):
        partitioning.create(board(RamDisk("a", SECTORS)), ("a", "zz"))


def test_a_disk_that_drops_writes_is_found_out():
    disk = RamDisk("a", SECTORS)
    disk.lose = range(SECTORS)
    with pytest.raises(LifeboatError) as caught:
        partitioning.create(board(disk), ("a",))
    assert caught.value.code == "disk-lies"


def test_show_goes_on_after_a_disk_that_fails(capsys):
    bad, good = RamDisk("bad", SECTORS), RamDisk("good", SECTORS)
    bad.fault = dead
    partitioning.show(board(bad, good))
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "bad - fails with error 5" and out[1].startswith("good - LBA")
