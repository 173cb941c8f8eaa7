"""The fakes are block devices as the conformance suite wants them, and fail as they should."""

import pytest
from conformance.disk import disk_checks
from conformance.flash import flash_checks

from fakes import board as sim
from fakes import memory as hand
from fakes.memory import Nor
from sim.disk import RamDisk
from sim.nor import RamFlash
from sim.power import Power, PowerCut


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


# The memory that a fake board has


@pytest.mark.parametrize("tears", ["half", "bits", "begun", "weak"])
def test_the_fake_flash_with_unpleasant_ways_passes_the_conformance_suite(tears):
    nor = Nor(bytearray(b"\xff" * 32768), 4096, tears=tears, unit=0)
    nor.writeblocks = RamFlash.writeblocks.__get__(nor)  # its own takes whole pages only
    assert len(list(flash_checks(nor, 2, 3))) > 5


@pytest.mark.parametrize("tears", ["half", "bits", "begun", "weak"])
def test_a_torn_program_leaves_neither_the_old_nor_the_new(tears):
    page = sim.noise(3, 256)
    nor = Nor(bytearray(b"\xff" * 4096), 4096, Power(1, torn=True), tears=tears)
    with pytest.raises(PowerCut):
        nor.writeblocks(0, page, 512)
    assert nor.data[512:768] not in (page, b"\xff" * 256)
    assert all(n & p == p for n, p in zip(nor.data[512:768], page))  # no bit too many is cleared
    assert nor.data[:512] + nor.data[768:] == b"\xff" * 3840


@pytest.mark.parametrize("page", [256, 1024])
def test_two_hands_have_made_the_same_memory(page):
    """fakes.board and fakes.memory, each by format.md section 6 alone."""
    set_id, members = (
        b"S" * 16,
        [(b"%016d" % i, 64 + i, 128, 512, i, "disk%d" % i) for i in (0, 1)],
    )
    raw = sim.manifest(sim.noise(1, 4096), version="1.0")
    pages = sim.set_records(set_id, members, page=page) + [sim.build_record(4, raw, page)]
    made = sim.memory(pages, page, 64 * page, uid=b"me")
    records = [
        hand.member(1 + i, set_id, m[0], 64 + i, 128, 512, i, 2, m[5].encode())
        for i, m in enumerate(members)
    ]
    records += [hand.closing(3, set_id, records), hand.build(4, sim.build_id(raw))]
    head = hand.header(page=page, mirror=64 * page, uid=b"me")
    assert made == 2 * hand.mirror([head, *records], page)


@pytest.mark.parametrize(
    "remembers, begins",
    [("set", b"LBMEMORY"), ("nothing", b"\xff" * 8), (None, None), ("flash", 0)],
)
def test_what_a_fake_board_remembers(remembers, begins):
    board = sim.SimBoard(sim.image(), remembers=remembers)
    assert hasattr(board, "memory") == (remembers != "flash")
    if begins is None:
        assert board.memory() is None
    elif begins:
        assert board.memory().data[:8] == begins == board.memory().data[sim.MIRROR :][:8]


def test_a_fake_board_remembers_the_regions_where_they_lie():
    board = sim.SimBoard(sim.image(), members=2)
    for i, disk in enumerate(board.drives):
        record = bytes(board.chip.data[256 * (1 + i) :][:256])
        first = disk.count - sim.REGION // 512
        assert sim.get(disk, first * 512, 512)[:8] == b"LBREGION"
        want = hand.member(
            1 + i,
            b"S" * 16,
            bytes([i + 1] * 16),
            first,
            sim.REGION // 512,
            512,
            i,
            2,
            b"disk%d" % i,
        )
        assert record == want
