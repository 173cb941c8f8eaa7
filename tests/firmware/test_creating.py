"""S3: which slot is given up (I2), what is written in which order, from intact code only (I7)."""

import hashlib
import struct
import zlib
from errno import EIO

import pytest

import lifeboat
from fakes import board as sim
from fakes import scenarios
from lifeboat.checking import check, choose_home, survey
from lifeboat.codeflash import CodeFlash
from lifeboat.creating import create, generation_for, mend
from lifeboat.errors import LifeboatError
from lifeboat.recovery import Copy
from lifeboat.report import Report

A, B, C, D = (sim.image(seed=s, version="%d.0" % s) for s in (1, 2, 3, 4))


class Setup:
    """Members as power-ons with these images left them; flash holds the last image."""

    def __init__(self, *images, **kwargs):
        self.board = sim.SimBoard(bytearray(images[0]), **kwargs)
        for image in images[:-1]:
            self.hold(image)
            assert lifeboat.power_on(self.board).verdict == "RUN"
        self.hold(images[-1])
        self.look()

    def hold(self, image):
        self.board.nor.data[:] = image

    def look(self):
        """Read the members anew."""
        self.flash = CodeFlash(self.board.flash(), self.board.BLOCK_SIZE)
        self.manifest = self.flash.manifest()[0]
        self.report = Report()
        self.members = survey(self.board.drives, (), self.report)
        choose_home(self.members, self.manifest.build, self.report)
        check(self.members, self.manifest)
        self.buf = memoryview(bytearray(self.board.BLOCK_SIZE))
        return self.members

    def create(self, member=0):
        generation = generation_for(self.members, self.manifest)
        create(self.flash, self.manifest, self.members[member], generation, self.buf)

    def fails(self, member=0):
        with pytest.raises(LifeboatError) as caught:
            self.create(member)
        return caught.value.code


def record(disk, slot, slots=2):
    """Return (generation, build id) of a valid commit record, or None."""
    raw = sim.get(disk, scenarios.slot_of(disk, slot, slots), 512)
    if raw[:8] != b"LBCOMMIT" or zlib.crc32(raw[:508]) != struct.unpack("<I", raw[508:])[0]:
        return None
    return struct.unpack_from("<I", raw, 64)[0], raw[32:64]


def build(image):
    size = struct.unpack_from("<I", image, scenarios.MANIFEST_AT + 12)[0]
    raw = image[scenarios.MANIFEST_AT : scenarios.MANIFEST_AT + size]
    return hashlib.sha256(raw[:-4]).digest()


def spoil_block(disk, slot, block=2):
    sim.put(disk, scenarios.slot_of(disk, slot) + 69632 + block * sim.ERASE, b"x" * 512)


def test_a_slot_holds_the_whole_copy_as_specified():
    setup = Setup(A, members=1)
    disk = setup.board.drives[0]
    setup.create()
    at = scenarios.slot_of(disk, 0)
    raw = bytes(A[scenarios.MANIFEST_AT : scenarios.MANIFEST_AT + len(setup.manifest.raw)])
    assert sim.get(disk, at + 4096, 65536) == raw + bytes(65536 - len(raw))
    assert sim.get(disk, at + 69632, 6 * sim.ERASE) == A[: 6 * sim.ERASE]
    assert record(disk, 0) == (1, build(A)) and record(disk, 1) is None
    assert disk.cache == []


def test_writes_and_flushes_come_in_the_specified_order():
    setup = Setup(A, members=1)
    setup.board.power.log.clear()
    setup.create()
    at = scenarios.slot_of(setup.board.drives[0], 0) // 512
    log = [("flush" if op == "flush" else lba - at) for _, op, lba in setup.board.power.log]
    first, second = log.index("flush"), log.index("flush", 2)
    assert log[:first] == [0]
    assert all(lba >= 8 for lba in log[first + 1 : second])
    assert log[second:] == ["flush", 0, "flush"]


# The victim


@pytest.mark.parametrize("slots", [2, 3, 16])
def test_free_slots_are_filled_before_any_is_given_up(slots):
    images = [sim.image(seed=s, version=str(s)) for s in range(1, slots + 1)]
    setup = Setup(*images, images[0], members=1, slots=slots)
    records = setup.members[0].records
    assert [r.generation for r in records] == list(range(1, slots + 1))
    assert [r.build for r in records] == [build(image) for image in images]


def test_the_oldest_is_given_up_when_the_newest_is_whole():
    setup = Setup(A, B, C, members=1)
    setup.create()
    disk = setup.board.drives[0]
    assert record(disk, 0) == (3, build(C)) and record(disk, 1) == (2, build(B))
    setup.hold(D)
    setup.look()
    setup.create()
    assert record(disk, 0) == (3, build(C)) and record(disk, 1) == (4, build(D))


def test_the_newest_is_given_up_when_it_is_not_whole():
    setup = Setup(A, B, C, members=1)
    disk = setup.board.drives[0]
    spoil_block(disk, 1)
    setup.create()
    assert record(disk, 0) == (1, build(A)) and record(disk, 1) == (3, build(C))


def test_the_newest_is_given_up_when_a_sector_of_it_can_not_be_read():
    setup = Setup(A, B, C, members=1)
    disk = setup.board.drives[0]
    lba = (scenarios.slot_of(disk, 1) + 69632) // 512
    bad = {lba}

    # As real disks do it: a sector that can't be read works again after it was written.
    def fault(op, at, count):
        if op == "write":
            bad.difference_update(range(at, at + count))
        return EIO if op == "read" and bad & set(range(at, at + count)) else None

    disk.fault = fault
    setup.look()
    setup.create()
    assert record(disk, 0) == (1, build(A)) and record(disk, 1) == (3, build(C))


def test_a_free_slot_with_a_bad_sector_is_passed_over():
    setup = Setup(A, B, members=1, slots=3)
    disk = setup.board.drives[0]
    bad = (scenarios.slot_of(disk, 1, 3) + 69632) // 512
    disk.fault = lambda op, at, n: EIO if op == "read" and at <= bad < at + n else None
    setup.create()
    disk.fault = None
    assert record(disk, 0, 3) == (1, build(A)) and record(disk, 2, 3) == (2, build(B))
    assert record(disk, 1, 3) is None


def test_a_copy_of_another_block_size_is_not_read_and_not_given_up_first():
    """It can't be this board's code, and may claim any size."""
    setup = Setup(A, B, C, members=1)
    disk = setup.board.drives[0]
    code = sim.noise(9, 4 * 8192)
    manifest = sim.manifest(code, block=8192)
    at = scenarios.slot_of(disk, 1)
    raw = bytearray(sim.get(disk, at, 512))
    raw[32:64] = hashlib.sha256(manifest[:-4]).digest()
    struct.pack_into("<IIII", raw, 64, 2, len(manifest), 8192, 4)
    struct.pack_into("<I", raw, 508, zlib.crc32(raw[:508]))
    sim.put(disk, at, raw)
    sim.put(disk, at + 4096, manifest + bytes(-len(manifest) % 512))
    setup.look()
    assert setup.members[0].newest_slot == 1
    blocks = range((at + 69632) // 512, (at + sim.SLOT) // 512)
    asked = []
    disk.fault = lambda op, lba, n: asked.append(lba) if op == "read" and lba in blocks else None
    setup.create()
    assert not asked
    assert record(disk, 0) == (3, build(C)) and record(disk, 1) == (2, raw[32:64])


@pytest.mark.parametrize("damage", ["manifest", "build", "block_count"])
def test_a_slot_that_is_not_committed_by_all_rules_is_free(damage):
    setup = Setup(A, B, C, members=1)
    disk = setup.board.drives[0]
    at = scenarios.slot_of(disk, 1)
    if damage == "manifest":
        sim.put(disk, at + 4096, b"x" * 512)
    else:
        raw = bytearray(sim.get(disk, at, 512))
        raw[{"build": 32, "block_count": 76}[damage]] -= 1
        struct.pack_into("<I", raw, 508, zlib.crc32(raw[:508]))
        sim.put(disk, at, raw)
    setup.look()
    setup.create()
    assert record(disk, 0) == (1, build(A)) and record(disk, 1) == (3, build(C))


def make_newer(disk, slot, slots=2):
    """Turn a commit record into one of major version 2."""
    at = scenarios.slot_of(disk, slot, slots)
    raw = bytearray(sim.get(disk, at, 512))
    raw[8] = 2
    struct.pack_into("<I", raw, 508, zlib.crc32(raw[:508]))
    sim.put(disk, at, raw)


def test_a_slot_of_a_newer_format_is_not_overwritten():
    setup = Setup(A, B, C, members=1, slots=3)
    disk = setup.board.drives[0]
    make_newer(disk, 0, slots=3)
    at = scenarios.slot_of(disk, 0, slots=3)
    before = sim.get(disk, at, sim.SLOT)
    for image in (C, D, A, B):
        setup.hold(image)
        setup.look()
        setup.create()
    assert sim.get(disk, at, sim.SLOT) == before


@pytest.mark.parametrize("newer", [(0,), (1,), (0, 1)], ids=str)
def test_no_good_copy_is_given_up_for_want_of_another_slot(newer):
    setup = Setup(A, B, C, members=1)
    disk = setup.board.drives[0]
    for slot in newer:
        make_newer(disk, slot)
    before = dict(disk.sectors)
    setup.look()
    assert setup.fails() == "commit-version"
    assert disk.sectors == before


# The generation


def test_all_members_get_one_generation():
    setup = Setup(A, B, members=3)
    for member in range(3):
        setup.create(member)
    assert [record(d, 1) for d in setup.board.drives] == [(2, build(B))] * 3


def test_a_member_that_comes_late_gets_the_generation_of_the_others():
    setup = Setup(A, B, B, members=2)
    disk = setup.board.drives[1]
    for slot in (0, 1):
        sim.put(disk, scenarios.slot_of(disk, slot), bytes(512))
    setup.look()
    setup.create(1)
    assert record(disk, 0) == (2, build(B))


def set_generation(disk, slot, value):
    at = scenarios.slot_of(disk, slot)
    raw = bytearray(sim.get(disk, at, 512))
    struct.pack_into("<I", raw, 64, value)
    struct.pack_into("<I", raw, 508, zlib.crc32(raw[:508]))
    sim.put(disk, at, raw)


def test_the_last_generation_is_used_and_then_no_more():
    setup = Setup(A, B, members=1)
    disk = setup.board.drives[0]
    set_generation(disk, 0, 0xFFFFFFEE)
    setup.look()
    setup.create()
    assert record(disk, 1) == (0xFFFFFFEF, build(B))
    setup.hold(C)
    setup.look()
    before = dict(disk.sectors)
    assert setup.fails() == "generation-limit"
    assert disk.sectors == before


def test_a_foreign_generation_does_not_count():
    setup = Setup(A, B, members=2)
    stranger = setup.board.drives[1]
    set_generation(stranger, 0, 1000)
    sectors = dict(stranger.sectors)
    sim.make_region(stranger, set_id=b"X" * 16)
    setup.look()
    home = [m.home for m in setup.members]
    stranger.sectors = sectors
    assert home.count(True) == 1
    own = setup.members[home.index(True)]
    assert generation_for(setup.members, setup.manifest) == own.newest.generation + 1


def test_diverged_members_come_level_and_stay_so():
    """Two members of one set with different builds under the same generation."""
    one, two = Setup(A, B, members=2), Setup(A, C, members=2)
    for setup in (one, two):
        lifeboat.power_on(setup.board)
    board = one.board
    board.drives[1].sectors = two.board.drives[1].sectors
    for _ in range(2):
        assert lifeboat.power_on(board).verdict == "RUN"
    report = lifeboat.power_on(board)
    assert [m["state"] for m in report.data["members"]] == ["level", "level"]
    assert report.data["disk_writes"] == 0
    assert all("2.0" in scenarios.whole_copies(disk) for disk in board.drives)


# Refusals


def test_code_that_does_not_fit_is_refused_before_any_write():
    setup = Setup(A, members=1)
    disk = setup.board.drives[0]
    sim.make_region(disk, slot=69632 + 5 * sim.ERASE)
    setup.look()
    before = dict(disk.sectors)
    assert setup.fails() == "slot-small"
    assert disk.sectors == before and disk.writes == 0


def test_code_that_just_fits_is_stored():
    setup = Setup(A, members=1)
    disk = setup.board.drives[0]
    sim.make_region(disk, slot=69632 + 6 * sim.ERASE)
    setup.look()
    setup.create()
    assert setup.members[0].newest.generation == 1


@pytest.mark.parametrize("block", [0, 3, 5])
def test_flash_that_changes_under_the_backup_gives_no_backup(block):
    setup = Setup(A, B, members=1)
    disk = setup.board.drives[0]
    setup.board.nor.data[block * sim.ERASE + 9] ^= 4
    assert setup.fails() == "flash-changed"
    assert record(disk, 0) == (1, build(A)) and record(disk, 1) is None


# What a disk can forget, as sectors from a slot's start.
LOSSES = {"block": 136 + 3 * 8, "last sector": 136 + 6 * 8 - 1, "manifest": 8, "record": 0}


@pytest.mark.parametrize("what", LOSSES)
def test_a_disk_that_forgets_what_it_acknowledged_has_no_backup(what):
    setup = Setup(A, B, members=1)
    disk = setup.board.drives[0]
    disk.lose = (scenarios.slot_of(disk, 1) // 512 + LOSSES[what],)
    assert setup.fails() == "disk-lies"
    assert record(disk, 0) == (1, build(A)) and record(disk, 1) is None


def test_the_others_get_their_backup_when_one_disk_lies():
    board = sim.SimBoard(bytearray(A), members=3)
    board.drives[1].lose = range(board.drives[1].count)
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN"
    assert [m["state"] for m in report.data["members"]] == ["created", "stale", "created"]
    assert ["disk-lies", "disk1"] in [r[:2] for r in report.data["reasons"]]


# Mending


def test_one_block_of_a_copy_is_rewritten_and_nothing_else():
    setup = Setup(A, A, members=1)
    disk = setup.board.drives[0]
    good = dict(disk.sectors)
    spoil_block(disk, 0, 4)
    mend(setup.flash, setup.manifest, Copy(setup.members[0], 0), 4, setup.buf)
    assert disk.sectors == good and disk.cache == []


def test_mending_from_flash_that_changed_writes_nothing():
    setup = Setup(A, A, members=1)
    disk = setup.board.drives[0]
    setup.board.nor.data[4 * sim.ERASE] ^= 1
    writes = disk.writes
    with pytest.raises(LifeboatError) as caught:
        mend(setup.flash, setup.manifest, Copy(setup.members[0], 0), 4, setup.buf)
    assert caught.value.code == "flash-changed" and disk.writes == writes


def test_mending_a_disk_that_lies_is_told():
    setup = Setup(A, A, members=1)
    disk = setup.board.drives[0]
    spoil_block(disk, 0, 4)
    disk.lose = range(disk.count)
    with pytest.raises(LifeboatError) as caught:
        mend(setup.flash, setup.manifest, Copy(setup.members[0], 0), 4, setup.buf)
    assert caught.value.code == "disk-lies"
