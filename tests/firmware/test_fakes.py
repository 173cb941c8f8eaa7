"""The fakes are block devices as the conformance suite wants them, and fail as they should."""

import pytest
from conformance.disk import disk_checks
from conformance.flash import flash_checks

from fakes.disk import RamDisk
from fakes.flash import RamFlash
from fakes.power import Power, PowerCut


@pytest.mark.parametrize("size", [512, 4096])
def test_the_fake_disk_passes_the_conformance_suite(size):
    assert len(list(disk_checks(RamDisk("d", 1000, size=size), 100, 64, 1 << 20))) > 5


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("size", [4096, 65536])
def test_the_fake_flash_passes_the_conformance_suite(size, mapped):
    nor = RamFlash(bytearray(b"\xff" * (8 * size)), size, mapped=mapped)
    assert len(list(flash_checks(nor, 2, 3))) > 5


def test_programming_without_an_erase_is_noticed():
    nor = RamFlash(bytearray(4096), 4096)
    with pytest.raises(AssertionError, match="without erase"):
        nor.writeblocks(0, b"\x01", 5)


@pytest.mark.parametrize(
    "keep, want", [("none", b"aaa"), ("all", b"bcd"), ("last", b"aad")], ids=lambda v: str(v)
)
def test_a_power_cut_leaves_what_was_flushed_and_a_part_of_the_rest(keep, want):
    d = RamDisk("d", 10)
    d.writeblocks(0, b"a" * 1536)
    d.ioctl(3, 0)
    for lba, byte in enumerate((b"b", b"c", b"d")):
        d.writeblocks(lba, byte * 512)
    d.settle(keep)
    assert b"".join(d.sectors[i][:1] for i in range(3)) == want


def test_a_torn_write_leaves_half():
    d = RamDisk("d", 10, Power(1, torn=True))
    with pytest.raises(PowerCut):
        d.writeblocks(0, b"x" * 2048)
    d.settle("all")
    assert d.sectors[0] == d.sectors[1] == b"x" * 512
    assert d.sectors[2] == b"x" * 256 + bytes(256) and 3 not in d.sectors


def test_nothing_works_without_power():
    power = Power(1)
    d, nor = RamDisk("d", 10, power), RamFlash(bytearray(4096), 4096, power)
    for _ in range(2):
        with pytest.raises(PowerCut):
            d.writeblocks(0, bytes(512))
    with pytest.raises(PowerCut):
        nor.ioctl(6, 0)
    assert power.count == 1 and not d.cache
