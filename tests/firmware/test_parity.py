"""Parity: a block that is bad in flash and in every copy is made again, or nothing is touched."""

import struct
from binascii import crc32
from errno import EIO
from types import SimpleNamespace

import pytest

import lifeboat
from fakes import board as sim
from fakes.scenarios import codes
from lifeboat import parity, running
from lifeboat.scrub import Scrubber
from sim.power import Power

SIZE = sim.ERASE
BLOCKS = 40  # three groups
TOTAL = 48
SLOT = sim.slot_size(TOTAL)
CODE = bytes(sim.image(blocks=BLOCKS, total=TOTAL))
RAW = CODE[(TOTAL - 1) * SIZE :]
BUILD = sim.build_id(RAW[: struct.unpack_from("<I", RAW, 12)[0]])


def xored(blocks):
    """The XOR of blocks of the image, by arithmetic of long integers."""
    total = 0
    for block in blocks:
        total ^= int.from_bytes(CODE[block * SIZE : block * SIZE + SIZE], "little")
    return total.to_bytes(SIZE, "little")


def slot(disk, number=0):
    return disk.count * disk.size - sim.region_size(SLOT) + 4096 + number * SLOT


def block_at(disk, block):
    return slot(disk) + 69632 + block * SIZE


def record_at(disk):
    return block_at(disk, BLOCKS)


def sealed(unit):
    return unit[:4092] + struct.pack("<I", crc32(unit[:4092]))


@pytest.fixture
def board():
    it = sim.SimBoard(bytearray(CODE))
    assert lifeboat.power_on(it).verdict == "RUN"
    it.supply(Power())
    return it


def spoil(board, *blocks, disks=None):
    """Rot in flash and on these disks, in other bytes each."""
    for block in blocks:
        board.nor.data[block * SIZE + 7] ^= 4
        for i, disk in enumerate(board.drives if disks is None else disks):
            spoil_at(disk, block_at(disk, block) + 512 * i)


def spoil_at(disk, at):
    sim.put(disk, at, bytes(x ^ 0x10 for x in sim.get(disk, at, 512)))


def words(report):
    return [member.get("parity") for member in report.data["members"]]


def test_it_is_what_the_format_says(board):
    for disk in board.drives:
        record = sim.get(disk, record_at(disk), 4096)
        (lba, region) = disk.count - sim.region_size(SLOT) // 512, bytes([1 + int(disk.name[-1])])
        assert sim.get(disk, lba * 512, 8192)[32:48] == region * 16
        want = b"LBPARITY" + struct.pack("<BBHI", 1, 2, 128, 0) + region * 16 + BUILD
        want += struct.pack("<IIII", 3, SIZE, 0, 0) + bytes(48)
        for group in range(3):
            data = xored(range(group, BLOCKS, 3))
            assert sim.get(disk, record_at(disk) + 4096 + group * SIZE, SIZE) == data
            want += struct.pack("<I", crc32(data))
        assert record == sealed(want + bytes(4096 - len(want)))


def test_a_healthy_power_on_writes_nothing(board):
    report = lifeboat.power_on(board)
    assert words(report) == ["level", "level"] and board.power.log == []
    assert report.data["reasons"] == []


@pytest.mark.parametrize("block", [0, 1, 2, 17, 38, 39])
def test_a_block_that_is_bad_everywhere_is_made_again(board, block):
    spoil(board, block)
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and bytes(board.nor.data) == CODE
    assert report.data["erases"] == 1 and report.data["repaired"] == [[block, 1, "disk0"]]
    assert ["parity-used", "disk0", str(block)] in report.data["reasons"]
    # The copies are whole again, too.
    for disk in board.drives:
        want = CODE[block * SIZE : block * SIZE + SIZE]
        assert sim.get(disk, block_at(disk, block), SIZE) == want
    board.supply(Power())
    assert lifeboat.power_on(board).data["reasons"] == [] and board.power.log == []


def test_neighbours_are_made_again_since_they_are_in_different_groups(board):
    spoil(board, 9, 10, 11)
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and bytes(board.nor.data) == CODE
    assert ["parity-used", "disk0", "9 10 11"] in report.data["reasons"]


def test_two_of_a_group_are_lost_and_nothing_is_touched(board):
    spoil(board, 9, 12)
    before = bytes(board.nor.data)
    report = lifeboat.power_on(board)
    assert report.verdict == "RESCUE" and report.data["lost"] == [[9, 1], [12, 1]]
    assert bytes(board.nor.data) == before and board.nor.erases == 0


def test_one_that_a_copy_has_helps(board):
    """12 is bad in flash and on one disk."""
    spoil(board, 9)
    spoil(board, 12, disks=board.drives[:1])
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and bytes(board.nor.data) == CODE
    assert sorted(report.data["repaired"]) == [[9, 1, "disk0"], [12, 1, "disk1"]]


def test_the_other_disks_parity_will_do(board):
    spoil(board, 9)
    spoil_at(board.drives[0], record_at(board.drives[0]) + 4096)  # of block 9's group
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and report.data["repaired"] == [[9, 1, "disk1"]]


@pytest.mark.parametrize("what", ["record", "parity"])
def test_without_good_parity_it_is_lost(board, what):
    spoil(board, 9)
    for disk in board.drives:
        spoil_at(disk, record_at(disk) + (0 if what == "record" else 4096))
    before = bytes(board.nor.data)
    report = lifeboat.power_on(board)
    assert report.verdict == "RESCUE" and bytes(board.nor.data) == before
    assert report.data["lost"] == [[9, 1]] and board.nor.erases == 0


def test_forged_parity_only_proposes(board):
    """Somebody who writes all disks makes it well-formed, for other bytes."""
    spoil(board, 9)
    for disk in board.drives:
        data = sim.noise(5, SIZE)
        sim.put(disk, record_at(disk) + 4096, data)
        record = bytearray(sim.get(disk, record_at(disk), 4096))
        record[128:132] = struct.pack("<I", crc32(data))
        sim.put(disk, record_at(disk), sealed(bytes(record)))
    before = bytes(board.nor.data)
    assert lifeboat.power_on(board).verdict == "RESCUE"
    assert bytes(board.nor.data) == before and board.nor.erases == 0


def test_the_manifest_in_flash_may_be_gone_too(board):
    spoil(board, 9)
    board.nor.data[(TOTAL - 1) * SIZE :] = b"\xff" * SIZE
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and bytes(board.nor.data) == CODE


def test_a_disk_that_fails_meanwhile_leaves_it_to_the_other(board):
    spoil(board, 9)
    first = (record_at(board.drives[0]) + 4096) // 512

    def fault(op, lba, count):
        if op == "read" and lba >= first:
            raise OSError(EIO)

    board.drives[0].fault = fault
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and report.data["repaired"] == [[9, 1, "disk1"]]


# --- when it is made -----------------------------------------------------------------------


def test_a_slot_without_room_has_none():
    it = sim.SimBoard(sim.image(blocks=7))
    report = lifeboat.power_on(it)
    assert report.verdict == "RUN" and words(report) == ["none", "none"]
    it.supply(Power())
    assert words(lifeboat.power_on(it)) == ["none", "none"] and it.power.log == []


def test_a_backup_from_before_gets_it(monkeypatch):
    it = sim.SimBoard(bytearray(CODE))
    with monkeypatch.context() as without:
        without.setattr("lifeboat.extended.parity", None)
        assert words(lifeboat.power_on(it)) == [None, None]
    report = lifeboat.power_on(it)
    assert words(report) == ["created", "created"] and report.verdict == "RUN"
    assert [member["state"] for member in report.data["members"]] == ["level", "level"]


def test_behind_a_new_backup_it_is_made_anew(board):
    """A record that is whole may stand before parity blocks that something has overwritten."""
    disk = board.drives[0]
    good = sim.get(disk, record_at(disk), 4096 + 3 * SIZE)
    sim.put(disk, record_at(disk) + 4096 + SIZE, bytes(SIZE))
    sim.put(disk, slot(disk), bytes(512))  # its commit record
    report = lifeboat.power_on(board)
    assert report.data["members"][0]["state"] == "created" and words(report)[0] == "created"
    # The other slot may have been taken.
    again = [sim.get(disk, record_at(disk) + n * SLOT, 4096 + 3 * SIZE) for n in range(2)]
    assert good in again or good[4096:] in [found[4096:] for found in again]


FIELDS = [(0, b"X"), (8, b"\2"), (10, b"\0"), (12, b"\1"), (16, b"X"), (32, b"X"), (64, b"\4")]


@pytest.mark.parametrize("at, data", [*FIELDS, (68, b"\1"), (4092, b"X")])
def test_a_record_that_breaks_a_rule_is_none(board, at, data):
    disk = board.drives[0]
    whole = sim.get(disk, record_at(disk), 4096)
    record = bytearray(whole)
    assert record[at : at + 1] != data
    record[at : at + 1] = data
    newer = at == 8
    sim.put(disk, record_at(disk), bytes(record) if at == 4092 else sealed(bytes(record)))
    assert words(lifeboat.power_on(board)) == ["none" if newer else "created", "level"]
    assert (sim.get(disk, record_at(disk), 4096) == whole) is not newer


@pytest.mark.parametrize("at", [72, 76])
def test_a_newer_one_is_neither_used_nor_touched(board, at):
    for disk in board.drives:
        record = bytearray(sim.get(disk, record_at(disk), 4096))
        record[at] = 1
        sim.put(disk, record_at(disk), sealed(bytes(record)))
    spoil(board, 9)
    assert lifeboat.power_on(board).verdict == "RESCUE"
    board.nor.data[:] = CODE
    board.supply(Power())
    assert words(lifeboat.power_on(board)) == ["none", "none"] and board.power.log == []


def test_a_disk_that_lies_is_told(monkeypatch):
    it = sim.SimBoard(bytearray(CODE))
    disk = it.drives[0]
    write = disk.writeblocks

    def writeblocks(lba, buf, *rest):
        if lba * 512 != record_at(disk) + 4096:
            write(lba, buf, *rest)

    disk.writeblocks = writeblocks
    report = lifeboat.power_on(it)
    assert ["disk-lies", "disk0", "parity"] in report.data["reasons"]
    assert words(report) == ["none", "created"] and report.verdict == "RUN"
    assert not any(sim.get(disk, record_at(disk), 4096))


def test_code_that_rots_while_it_is_made_is_not_in_it(monkeypatch):
    it = sim.SimBoard(bytearray(CODE), members=1)
    make = parity.Parity.make

    def make_late(*args):
        it.nor.data[5] ^= 1
        return make(*args)

    monkeypatch.setattr(parity.Parity, "make", make_late)
    report = lifeboat.power_on(it)
    assert "flash-changed" in codes(report) and words(report) == ["none"]
    assert not any(sim.get(it.drives[0], record_at(it.drives[0]), 4096))


def test_what_hostile_copies_cost_is_bounded(board):
    """I11: all blocks bad in flash and in every copy, with parity that is well-formed."""
    running.power_on = False
    spoil(board, *range(BLOCKS))
    read = [0, 0]
    for i, disk in enumerate(board.drives):

        def count(op, lba, count, i=i):
            read[i] += 512 * count if op == "read" else 0

        disk.fault = count
    assert lifeboat.power_on(board).verdict == "RESCUE"
    # Four times all copies and once more for parity, and records that don't grow with the code.
    assert sum(read) <= (4 + 1) * 2 * TOTAL * SIZE + 2 * (100 << 10)


# --- the scrubber --------------------------------------------------------------------------


def scrubbed(board, passes=1):
    """Run a scrubber for so many passes; return it."""
    running.attended = False
    scrubber = Scrubber(board, start=0)
    for _ in range(100000):
        if scrubber.passes >= passes:
            return scrubber
        scrubber.step(5)
    raise AssertionError("no end")


def test_the_scrubber_makes_what_is_missing(monkeypatch):
    it = sim.SimBoard(bytearray(CODE))
    with monkeypatch.context() as without:
        without.setattr("lifeboat.extended.parity", None)
        lifeboat.power_on(it)
    scrubbed(it)
    it.supply(Power())
    assert words(lifeboat.power_on(it)) == ["level", "level"] and it.power.log == []


def test_the_scrubber_reads_it_and_makes_it_anew(board):
    report = lifeboat.power_on(board)
    good = [sim.get(disk, record_at(disk), 4096 + 3 * SIZE) for disk in board.drives]
    spoil_at(board.drives[1], record_at(board.drives[1]) + 4096 + SIZE)
    scrubbed(board)
    assert good == [sim.get(disk, record_at(disk), 4096 + 3 * SIZE) for disk in board.drives]
    assert ["parity-bad", "disk1", ""] in report.data["reasons"]
    assert ["mended", "parity", "disk1", 0, 0] in report.data["operation"]


def test_a_sector_that_can_not_be_read_is_written_again(board):
    lifeboat.power_on(board)
    disk = board.drives[0]
    at = (record_at(disk) + 4096 + 2 * SIZE) // 512
    written = []

    def fault(op, lba, count):
        if op == "write" and lba <= at < lba + count:
            written.append(lba)
        if op == "read" and lba <= at < lba + count and not written:
            raise OSError(EIO)

    disk.fault = fault
    scrubbed(board)
    assert written


def test_a_scrubber_that_only_reports_leaves_it(board):
    report = lifeboat.power_on(board)
    disk = board.drives[0]
    spoil_at(disk, record_at(disk) + 4096)
    bad = sim.get(disk, record_at(disk) + 4096, SIZE)
    running.attended = False
    scrubber = Scrubber(board, policy="report", start=0)
    for _ in range(1000):
        scrubber.step(5)
    assert sim.get(disk, record_at(disk) + 4096, SIZE) == bad
    assert ["parity-bad", "disk0", ""] in report.data["reasons"]


@pytest.mark.parametrize(("groups", "room"), [(960, True), (961, False)])
def test_a_record_has_room_for_so_many_groups(groups, room):
    """format.md section 3, "Parity": the sums of all groups stand in one unit."""
    region = SimpleNamespace(
        block_at=lambda slot, block, size: 69632 + block * size,
        slot_at=lambda slot: slot * (1 << 40),
    )
    copy = SimpleNamespace(member=SimpleNamespace(region=region), slot=0)
    manifest = SimpleNamespace(block_size=4096, block_count=16 * groups)
    assert parity.Parity(copy, manifest).room == room
