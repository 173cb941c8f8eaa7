"""region.user_area(): the disk as the application gets it, without the region."""

from errno import EPERM

import pytest

import lifeboat
from fakes import board as sim
from fakes import gpt
from fakes.disk import RamDisk
from lifeboat.errors import LifeboatError
from lifeboat.region import user_area

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
