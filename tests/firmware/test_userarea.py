"""userarea.user_area(): the disk as the application gets it, without the region."""

import shutil
import struct
import subprocess
from errno import EIO, EPERM

import pytest

import lifeboat
from fakes import board as sim
from fakes import gpt
from lifeboat import running
from lifeboat.errors import LifeboatError
from lifeboat.userarea import user_area
from sim.disk import RamDisk

SECTOR = 512
SECTORS = sim.REGION // SECTOR


def disk_with(start, count=None, **kwargs):
    disk = RamDisk("disk0", count or start + SECTORS, **kwargs)
    sim.make_region(disk, start)
    return disk


def refused(area, block, length, offset=None):
    args = () if offset is None else (offset,)
    writes, reads = area._dev._dev.writes, area._dev._dev.reads
    for method in (area.readblocks, area.writeblocks):
        with pytest.raises(OSError) as caught:
            method(block, bytearray(length), *args)
        assert caught.value.errno == EPERM
    assert (area._dev._dev.writes, area._dev._dev.reads) == (writes, reads)


def written(area, block, data, *offset):
    """Write through the area; return whether it was allowed, having checked the disk."""
    disk = area._dev._dev
    before = disk.writes
    try:
        area.writeblocks(block, data, *offset)
    except OSError as error:
        assert error.errno == EPERM and disk.writes == before
        return False
    assert disk.writes == before + 1
    return True


def test_a_region_at_the_end_makes_the_disk_end_before_it():
    disk = disk_with(1000)
    area = user_area(disk)
    assert area.ioctl(4, 0) == 1000 and area.ioctl(5, 0) == SECTOR
    area.writeblocks(999, b"x" * SECTOR)
    assert disk.cache[-1][1:] == (999, b"x" * SECTOR)
    for block, length, offset in ((1000, 512, None), (999, 1024, None), (999, 2, 511), (0, 4, -1)):
        refused(area, block, length, offset)
    refused(area, -1, SECTOR)
    refused(area, 0, SECTOR, 1000 * SECTOR)


def test_the_rest_of_the_last_unit_is_not_worth_a_disk():
    disk = disk_with(1000, count=1000 + SECTORS + 7)
    assert user_area(disk).ioctl(4, 0) == 1000


def test_a_region_inside_is_a_hole_and_all_else_keeps_its_place():
    disk = RamDisk("disk0", 4000)
    end = 504 + SECTORS
    sim.make_region(disk, 504)
    area = user_area(disk, (504,))
    assert area.ioctl(4, 0) == 4000
    buf = bytearray(SECTOR)
    disk.sectors[end] = b"b" * SECTOR
    area.readblocks(end, buf)
    assert buf == b"b" * SECTOR
    area.readblocks(503, buf)
    refused(area, 503, 2 * SECTOR)
    refused(area, 504, SECTOR)
    refused(area, end - 1, SECTOR)
    refused(area, 0, 4000 * SECTOR)
    refused(area, 503, 16, 510)
    area.writeblocks(end, b"y" * 8, 8)
    assert disk.cache[-1][1:] == (end, b"b" * 8 + b"y" * 8 + b"b" * 496)


def test_a_gpt_disk_keeps_its_tables_and_partitions():
    disk = RamDisk("disk0", 6000)
    sim.make_region(disk, 2048)
    gpt.both(
        disk,
        [(gpt.LIFEBOAT, 2048, 2048 + SECTORS - 1), (gpt.LINUX, 5000, 5500)],
    )
    area = user_area(disk)
    assert area.ioctl(4, 0) == 6000
    buf = bytearray(SECTOR)
    area.readblocks(5999, buf)
    assert buf[:8] == b"EFI PART"
    refused(area, 2048, SECTOR)
    area.writeblocks(5000, buf)


# What leads to the region


@pytest.fixture
def table_disk():
    """A disk of 6000 sectors with both tables: LBA 1 and 2..33, 5967..5998 and 5999."""
    disk = RamDisk("disk0", 6000)
    sim.make_region(disk, 2048)
    gpt.both(disk, [(gpt.LIFEBOAT, 2048, 2048 + SECTORS - 1), (gpt.LINUX, 5000, 5500)])
    return disk


@pytest.mark.parametrize(
    "block, sectors, allowed",
    [
        (0, 1, False), (1, 1, False), (2, 1, False), (33, 1, False), (34, 1, True), (33, 2, False),
        (5966, 1, True), (5966, 2, False), (5967, 1, False), (5998, 1, False), (5999, 1, False),
        (5000, 501, True), (40, 2008, True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("damaged", [(), (1,), (5,), (5999,), (5970,)], ids=str)
def test_both_tables_of_a_gpt_are_out_of_reach(table_disk, damaged, block, sectors, allowed):
    """Where one is damaged, too: its place is known from the other one."""
    for lba in damaged:
        table_disk.sectors[lba] = b"x" * SECTOR
    area = user_area(table_disk)
    assert written(area, block, b"y" * SECTOR * sectors) == allowed
    if sectors == 1:
        assert written(area, block, b"y", 511) == allowed
        assert written(area, 0, b"y", block * SECTOR + 300) == allowed
    area.readblocks(block, bytearray(SECTOR * sectors))


def test_a_table_in_an_unusual_place_is_out_of_reach():
    disk = RamDisk("disk0", 6000)
    sim.make_region(disk, 2048)
    parts = [(gpt.LIFEBOAT, 2048, 2048 + SECTORS - 1)]
    gpt.table(disk, parts, entries_lba=4000)
    gpt.table(disk, parts, lba=5999)
    area = user_area(disk)
    assert [written(area, lba, b"y" * SECTOR) for lba in (3999, 4000, 4031, 4032)] == [
        True, False, False, True,
    ]  # fmt: skip


def test_the_sector_of_a_table_that_can_not_be_read_keeps_nothing_from_working(table_disk):
    table_disk.fault = lambda op, lba, n: EIO if op == "read" and lba <= 1 < lba + n else None
    area = user_area(table_disk)
    assert not written(area, 1, b"y" * SECTOR)
    assert written(area, 5000, b"y" * SECTOR)


def mbr(first, length, kind=0x83, active=0, size=SECTOR):
    sector = bytearray(size)
    struct.pack_into("<BxxxBxxxII", sector, 446 + 16, active, kind, first, length)
    sector[510:512] = b"\x55\xaa"
    return bytes(sector)


def boot_sector(total, code=b""):
    """The first sector of a FAT file system that fills a disk of so many sectors, by hand."""
    sector = bytearray(b"\xeb\x3c\x90MSDOS5.0")
    sector += struct.pack("<HBHBHHBHHHII", 512, 4, 1, 2, 512, total, 0xF8, 16, 63, 255, 0, 0)
    sector += b"\x80\0\x29" + b"ID##" + b"NO NAME    FAT16   " + code
    return bytes(sector.ljust(510, b"\0")) + b"\x55\xaa"


@pytest.mark.parametrize("size", [512, 4096])
@pytest.mark.parametrize(
    "first, length, kind, active, allowed",
    [
        (64, 192, 0x83, 0, True), (64, 193, 0x83, 0, False), (0, 257, 0x83, 0x80, False),
        (0, 0xFFFFFFFF, 0x0C, 0x80, False), (64, 193, 0xEE, 0, True), (64, 193, 0, 0, True),
        (300, 0, 0x83, 0, True), (64, 193, 0x83, 0x41, True), ("last", 1, 0x83, 0, False),
        ("end", 1, 0x83, 0, True),
    ],
)  # fmt: skip
def test_no_mbr_is_written_whose_partition_reaches_into_the_region(
    size, first, length, kind, active, allowed
):
    disk = RamDisk("disk0", 4096 * 1024 // size, size=size)
    sim.make_region(disk, 256)
    end = 256 + sim.REGION // size
    first = {"last": end - 1, "end": end}.get(first, first)
    area = user_area(disk, (256,))
    sector = mbr(first, length, kind, active, size)
    assert written(area, 0, sector) == allowed
    # As one of several blocks, and a piece at a time.
    assert written(area, 0, sector + b"z" * 2 * size) == allowed
    assert written(area, 0, bytes(size))
    assert written(area, 0, sector[:510], 0)
    assert written(area, 0, sector[510:512], 510) == allowed
    assert written(area, 0, bytes(size))
    assert written(area, 0, sector[500:], 500)
    assert written(area, 0, sector[440:478], 440) == allowed


@pytest.mark.parametrize("lba, allowed", [(1, False), (2, True), (3998, True), (3999, False)])
def test_no_gpt_header_is_written_where_one_is_looked_for(lba, allowed):
    disk = RamDisk("disk0", 4000)
    sim.make_region(disk, 504)
    area = user_area(disk, (504,))
    header = b"EFI PART".ljust(SECTOR, b"h")
    assert written(area, lba, header) == allowed
    start = lba - 1 if lba > 3000 else 0
    both = (b"o" * SECTOR * (lba - start)) + header
    assert written(area, start, both) == allowed
    assert written(area, lba, b"EFI PARS" + header[8:])
    assert written(area, lba, b"T", 7) == allowed
    assert written(area, lba - 1, b"EFI PART", SECTOR) == allowed


def test_a_write_whose_surroundings_can_not_be_read_fails():
    disk = RamDisk("disk0", 4000)
    sim.make_region(disk, 504)
    area = user_area(disk, (504,))
    disk.fault = lambda op, lba, n: EIO if op == "read" and lba == 0 else None
    with pytest.raises(OSError):
        area.writeblocks(0, b"x", 100)
    assert disk.writes == 0


def test_a_file_system_on_the_whole_disk_may_have_its_boot_sector():
    area = user_area(disk_with(1000))
    for code in (b"", b"\xfa\x33\xc0" * 128, b"\x0e\x1f\xbe\x5b\x7c" * 80):
        assert written(area, 0, boot_sector(1000, code))
    assert written(area, 0, b"\xeb".ljust(510, b"\xff") + b"\x55\xaa")


@pytest.mark.skipif(not shutil.which("mkfs.fat"), reason="no mkfs.fat")
@pytest.mark.parametrize("kind", [12, 16])
def test_a_file_system_of_mkfs_fat_can_be_written(kind, tmp_path):
    sectors = {12: 1000, 16: 20000}[kind]
    image = tmp_path / "fat"
    image.write_bytes(bytes(sectors * SECTOR))
    subprocess.run(["mkfs.fat", "-F", str(kind), str(image)], check=True, capture_output=True)
    content = image.read_bytes()
    assert content[510:512] == b"\x55\xaa"
    disk = disk_with(sectors)
    area = user_area(disk)
    for at in range(0, sectors, 8):
        assert written(area, at, content[at * SECTOR : (at + 8) * SECTOR])
    area.ioctl(3, 0)
    assert sim.get(disk, 0, len(content)) == content
    assert user_area(disk).ioctl(4, 0) == sectors


def test_where_the_memory_says_that_the_region_is_there_it_is(monkeypatch):
    """Without a word of the tables, or of the configuration."""
    disk = disk_with(504, count=4000)
    assert user_area(disk).ioctl(4, 0) == 4000
    assert user_area(disk).writeblocks(504, b"x" * SECTOR) is None
    disk = disk_with(504, count=4000)
    place = b"S" * 16, b"\1" * 16, 504, SECTORS
    monkeypatch.setattr(running, "places", (place,))
    refused(user_area(disk), 504, SECTOR)
    gpt.both(disk, [(gpt.LINUX, 500, 600)])  # claimed, but still somebody's backup
    refused(user_area(disk), 504, SECTOR)


def test_each_call_counts_while_it_is_under_way():
    disk = disk_with(1000)
    area = user_area(disk)
    seen = []

    def watched(method):
        real = getattr(disk, method)
        setattr(disk, method, lambda *args: (seen.append(running.disk_calls), real(*args))[1])

    for method in ("readblocks", "writeblocks", "ioctl"):
        watched(method)
    disk.readblocks = lambda *args, real=disk.readblocks: real(*args) and None
    disk.writeblocks = lambda *args, real=disk.writeblocks: real(*args) and None
    area.readblocks(5, bytearray(SECTOR))
    area.writeblocks(5, bytes(SECTOR))
    area.ioctl(3, 0)
    assert seen == [1, 1, 1] and running.disk_calls == 0
    disk.readblocks = None  # whatever goes wrong
    with pytest.raises(OSError):
        area.readblocks(5, bytearray(SECTOR))
    assert running.disk_calls == 0


def test_a_disk_without_a_region_is_all_the_applications():
    area = user_area(RamDisk("disk0", 500))
    assert area.ioctl(4, 0) == 500
    area.writeblocks(499, bytes(SECTOR))
    refused(area, 500, SECTOR)


def test_a_doubtful_region_is_refused():
    disk = disk_with(1000)
    for lba in (1000, disk.count - 16, disk.count - 8):
        unit = bytearray(sim.get(disk, lba * SECTOR, SECTOR))
        unit[20] ^= 1
        disk.sectors[lba] = bytes(unit)
    with pytest.raises(LifeboatError) as caught:
        user_area(disk)
    assert caught.value.code == "region-crc"


def test_sync_reaches_the_disk_and_erase_does_nothing():
    disk = disk_with(1000)
    area = user_area(disk)
    area.writeblocks(1, b"z" * SECTOR)
    assert area.ioctl(6, 1) == 0 and 1 not in disk.sectors
    area.ioctl(3, 0)
    assert disk.sectors[1] == b"z" * SECTOR


def test_an_application_that_fills_its_disk_leaves_the_backup_alone():
    board = sim.SimBoard(bytearray(sim.image(seed=1)))
    lifeboat.power_on(board)
    for disk in board.drives:
        area = user_area(disk)
        for block in range(area.ioctl(4, 0)):
            area.writeblocks(block, b"\xa5" * SECTOR)
        with pytest.raises(OSError):
            area.writeblocks(area.ioctl(4, 0), b"\xa5" * SECTOR)
        area.ioctl(3, 0)
    board.nor.data[:] = b"\xff" * len(board.nor.data)
    assert lifeboat.power_on(board).verdict == "RUN"
    assert board.nor.data == sim.image(seed=1)
