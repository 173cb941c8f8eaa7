"""S4: only damaged blocks, from any good copy anywhere, verified by SHA-256 (I1), counted (I8)."""

import struct
import zlib
from errno import EIO, ENODEV, ETIMEDOUT

import pytest

import lifeboat
from fakes import board as sim
from fakes import scenarios
from fakes.forgery import same_crc

NEW, OLD = scenarios.NEW, scenarios.OLD
SIZE = sim.ERASE


class Setup(sim.SimBoard):
    """A board whose members hold backups of the images, the last of which is in flash."""

    def __init__(self, *images, **kwargs):
        super().__init__(bytearray(images[-1]), **kwargs)
        for image in images:
            self.nor.data[:] = image
            assert lifeboat.power_on(self).verdict == "RUN"
        self.nor.erases = 0
        for disk in self.drives:
            disk.reads = disk.writes = 0
            disk.written.clear()

    def damage(self, *blocks):
        for block in blocks:
            self.nor.data[block * self.BLOCK_SIZE + 11] ^= 0x40

    def run(self):
        return lifeboat.power_on(self)


def spoil(disk, *blocks, slot=0, slots=2):
    for block in blocks:
        sim.put(disk, scenarios.slot_of(disk, slot, slots) + 69632 + block * SIZE, b"x" * 512)


def reasons(report):
    return [code for code, _, _ in report.data["reasons"]]


# Damaged blocks only


@pytest.mark.parametrize("blocks", [(0,), (5,), (1, 2), (0, 3, 5), (0, 1, 2, 3, 4, 5)], ids=str)
def test_damaged_blocks_and_no_others_are_erased(blocks):
    board = Setup(NEW)
    board.damage(*blocks)
    report = board.run()
    assert report.verdict == "RUN" and board.nor.data == NEW
    assert board.nor.erases == report.data["erases"] == len(blocks)
    assert sum(n for _, n in report.data["bad"]) == len(blocks)
    assert sum(n for _, n, _ in report.data["repaired"]) == len(blocks)
    assert report.data["lost"] == [] and report.data["reasons"] == []
    assert all(disk.writes == 0 for disk in board.drives)


@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "unmapped"])
@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("erase, block", [(4096, 4096), (4096, 8192), (4096, 20480)])
@pytest.mark.parametrize("members, slots", [(1, 2), (2, 3), (6, 2)])
def test_every_geometry_heals(erase, block, sector, mapped, members, slots):
    shape = {"erase": erase, "block": block, "sector": sector, "mapped": mapped,
             "members": members, "slots": slots}  # fmt: skip
    image = sim.image(seed=5, block=block)
    board = Setup(sim.image(seed=6, block=block, version="0.9"), image, **shape)
    board.damage(0, 2, 5)
    board.nor.data[8 * block + 50] ^= 1
    report = board.run()
    assert report.verdict == "RUN" and board.nor.data == image
    assert report.data["erases"] == 4 and board.nor.erases == 4 * block // erase
    board.nor.data[:] = b"\xff" * len(image)
    assert board.run().verdict == "RUN" and board.nor.data == image


# Sources


def test_each_block_comes_from_whichever_member_has_it():
    board = Setup(NEW, members=6)
    blocks = range(6)
    for i, disk in enumerate(board.drives):
        spoil(disk, *(b for b in blocks if b != 5 - i))
    board.damage(*blocks)
    report = board.run()
    assert report.verdict == "RUN" and board.nor.data == NEW
    assert report.data["repaired"] == [[b, 1, "disk%d" % (5 - b)] for b in blocks]
    # what was found bad on the way was mended, and the next repair finds it good
    board.damage(0)
    assert board.run().data["repaired"] == [[0, 1, "disk0"]]


def test_an_uncommitted_slot_gives_blocks_too():
    board = Setup(NEW, members=1)
    disk = board.drives[0]
    sim.put(disk, scenarios.slot_of(disk, 0), bytes(512))
    board.damage(1, 4)
    report = board.run()
    assert report.verdict == "RUN" and board.nor.data == NEW
    assert report.data["members"][0]["state"] == "created"


def test_a_block_that_two_builds_share_comes_from_either():
    shared = bytearray(OLD)
    shared[:SIZE] = NEW[:SIZE]
    code = bytes(shared[: 6 * SIZE])
    m = sim.manifest(code, version="1.0")
    shared[8 * SIZE : 8 * SIZE + len(m)] = m
    board = Setup(shared, NEW, members=1)
    spoil(board.drives[0], 0, slot=1)
    board.damage(0)
    report = board.run()
    assert (
        report.verdict == "RUN" and board.nor.data == NEW and "older-build" not in reasons(report)
    )


def test_a_foreign_set_heals_but_is_never_written():
    board = Setup(NEW, members=2)
    stranger = board.drives[1]
    sim.make_region(stranger, set_id=b"X" * 16, member=1, members=2)
    spoil(board.drives[0], 3)
    spoil(stranger, 4)
    board.damage(3, 4)
    before = dict(stranger.sectors)
    report = board.run()
    assert report.verdict == "RUN" and board.nor.data == NEW
    assert report.data["repaired"] == [[3, 1, "disk1"], [4, 1, "disk0"]]
    assert stranger.sectors == before and stranger.writes == 0
    assert [m["state"] for m in report.data["members"][:2]] == ["mended", "foreign"]


def test_the_own_set_comes_before_a_foreign_one_with_a_newer_copy():
    other = sim.SimBoard(bytearray(OLD), members=1)
    sim.make_region(other.drives[0], set_id=b"X" * 16)
    for image in (OLD, NEW):
        other.nor.data[:] = image
        lifeboat.power_on(other)
    board = Setup(OLD, members=2)
    board.drives.append(other.drives[0])
    board.nor.data[:] = b"\xff" * len(NEW)
    report = board.run()
    assert board.nor.data == OLD and report.data["version"] == "1.0"
    assert report.data["members"][2]["state"] == "foreign"


def test_the_newest_of_three_builds_is_restored():
    third = sim.image(seed=3, version="3.0")
    board = Setup(OLD, NEW, third, slots=3)
    board.nor.data[:] = b"\xff" * len(NEW)
    assert board.run().data["version"] == "3.0" and board.nor.data == third


@pytest.mark.usefixtures("no_parity")
def test_an_older_build_is_restored_when_the_newest_is_not_whole_anywhere():
    board = Setup(OLD, NEW)
    for disk in board.drives:
        spoil(disk, 2, slot=1)
    board.damage(2)
    report = board.run()
    assert report.verdict == "RUN" and board.nor.data == OLD
    assert reasons(report) == ["older-build"] and report.data["version"] == "1.0"
    assert all("1.0" in scenarios.whole_copies(disk) for disk in board.drives)


@pytest.mark.usefixtures("no_parity")
def test_nothing_is_written_when_a_block_is_lost():
    board = Setup(NEW)
    for disk in board.drives:
        spoil(disk, 2)
    board.damage(1, 2)
    before = bytes(board.nor.data)
    report = board.run()
    assert report.verdict == "RESCUE" and board.nor.data == before
    assert report.data["lost"] == [[2, 1]] and report.data["bad"] == [[1, 2]]
    assert "block-lost" in reasons(report)
    assert board.nor.erases == 0 and all(disk.writes == 0 for disk in board.drives)


# I1


def put_forged(disk, block, slot=0):
    at = scenarios.slot_of(disk, slot) + 69632 + block * SIZE
    sim.put(disk, at, same_crc(NEW[block * SIZE : (block + 1) * SIZE]))


def test_a_block_with_the_right_crc_and_a_wrong_digest_is_not_used():
    board = Setup(NEW)
    put_forged(board.drives[0], 3)
    board.damage(3)
    report = board.run()
    assert report.verdict == "RUN" and board.nor.data == NEW
    assert report.data["repaired"] == [[3, 1, "disk1"]]
    assert ["copy-bad", "disk0", "block 3"] in report.data["reasons"]


@pytest.mark.usefixtures("no_parity")
def test_forged_everywhere_is_lost_and_said_so():
    board = Setup(NEW)
    for disk in board.drives:
        put_forged(disk, 3)
    board.damage(3)
    before = bytes(board.nor.data)
    report = board.run()
    assert report.verdict == "RESCUE" and board.nor.data == before
    assert report.data["lost"] == [[3, 1]] and reasons(report).count("block-lost") == 1


@pytest.mark.usefixtures("no_parity")
def test_bytes_that_change_between_the_two_reads_are_not_programmed():
    """What is hashed is what is programmed, not what was looked at before."""
    board = Setup(NEW, members=1)
    disk = board.drives[0]
    lba = (scenarios.slot_of(disk, 0) + 69632 + 3 * SIZE) // 512
    board.damage(3)
    seen = []

    def fault(op, at, count):
        if op == "read" and at == lba:
            seen.append(at)
            if len(seen) == 2:
                put_forged(disk, 3)

    disk.fault = fault
    before = bytes(board.nor.data)
    assert board.run().verdict == "RESCUE"
    assert len(seen) >= 2 and board.nor.data == before


def test_a_record_with_a_small_lie_about_sizes_does_not_lead_a_repair_out_of_its_slot():
    """A claim on this build whose slots are too small for its blocks."""
    board = Setup(NEW, members=2)
    disk = board.drives[0]
    small = 69632 + SIZE
    disk.sectors.clear()
    sim.make_region(disk, member=0, members=2, slot=small)
    record = bytearray(sim.get(board.drives[1], scenarios.slot_of(board.drives[1], 0), 512))
    record[16:32] = b"\1" * 16
    record[76:80] = struct.pack("<I", 1)
    record[508:] = struct.pack("<I", zlib.crc32(record[:508]))
    at = scenarios.region_of(disk)
    sim.put(disk, at + 4096, record)
    before = dict(disk.sectors)
    board.damage(1, 5)
    report = board.run()
    assert report.verdict == "RUN" and board.nor.data == NEW
    assert disk.sectors == before and report.data["members"][0]["state"] == "stale"


# Disks that fail on the way


def fail_in(disk, slot, blocks, errno=EIO):
    start = (scenarios.slot_of(disk, slot) + 69632) // 512
    bad = {start + b * SIZE // 512 for b in blocks}
    disk.fault = lambda op, at, n: errno if op == "read" and bad & set(range(at, at + n)) else None


def test_bad_sectors_cost_a_block_not_the_disk():
    board = Setup(NEW)
    fail_in(board.drives[0], 0, (1,))
    fail_in(board.drives[1], 0, (4,))
    board.damage(1, 2, 4)
    report = board.run()
    assert board.nor.data == NEW
    assert report.data["repaired"] == [[1, 2, "disk1"], [4, 1, "disk0"]]
    # The sectors stay bad when they are rewritten: no disk alone has a whole backup any more in
    # its first slot, so the second one gets it.
    assert report.verdict == "RUN"
    assert [m["state"] for m in report.data["members"]] == ["created", "created"]
    for disk in board.drives:
        disk.fault = None
        records = [sim.get(disk, scenarios.slot_of(disk, slot), 512)[:8] for slot in (0, 1)]
        assert records == [bytes(8), b"LBCOMMIT"]
    again = board.run()
    assert again.verdict == "RUN" and not again.data["reasons"] and not again.data["disk_writes"]


@pytest.mark.parametrize("errno", [ENODEV, ETIMEDOUT])
@pytest.mark.parametrize("after", range(5, 24))
def test_a_disk_that_vanishes_in_the_middle_leaves_the_rest_to_the_other(errno, after):
    board = Setup(NEW)
    board.damage(0, 1, 2, 3, 4, 5)
    asked = []

    def fault(op, at, n):
        asked.append(op)
        return errno if len(asked) > after else None

    board.drives[0].fault = fault
    report = board.run()
    assert report.verdict == "RUN" and board.nor.data == NEW
    assert len(asked) <= after + 1


def test_all_disks_vanishing_in_the_middle_give_rescue_and_the_next_power_on_heals():
    for after in range(4, 30):
        board = Setup(NEW, members=1)
        board.damage(0, 1, 2, 3, 4, 5)
        left = [after]

        def fault(op, at, n, left=left):
            left[0] -= 1
            return ENODEV if left[0] < 0 else None

        board.drives[0].fault = fault
        report = board.run()
        if left[0] < 0 and report.verdict == "RESCUE":
            assert "disk-failed" in reasons(report)
        board.drives[0].fault = None
        report = board.run()
        assert report.runs and board.nor.data == NEW


# Flash that fails


@pytest.mark.parametrize("block", [2, 8])
def test_a_block_that_can_not_be_erased_is_a_failed_flash(block):
    board = Setup(NEW)
    board.nor.fail_erase = (block,)
    board.damage(block)
    report = board.run()
    assert report.verdict == "RESCUE"
    assert ["flash-failed", "flash", "5"] in report.data["reasons"]
    assert report.data["bad"] == [[block, 1]]


def test_a_stuck_bit_in_the_code_is_told_and_gives_rescue():
    board = Setup(NEW)
    board.damage(2)
    board.nor.stuck = (2 * SIZE + 11,)
    report = board.run()
    assert report.verdict == "RESCUE"
    assert ["flash-verify", "flash", "2"] in report.data["reasons"]


def test_a_stuck_bit_in_the_manifest_is_told_and_gives_rescue():
    board = Setup(NEW)
    board.nor.data[scenarios.MANIFEST_AT + 40] ^= 1
    board.nor.stuck = (scenarios.MANIFEST_AT + 40,)
    report = board.run()
    assert report.verdict == "RESCUE" and not report.data["lost"]
    assert ["flash-verify", "flash", "manifest"] in report.data["reasons"]


def test_a_stuck_bit_after_the_manifest_does_not_keep_intact_code_from_running():
    board = Setup(NEW)
    board.nor.data[-1] = 0
    board.nor.stuck = (len(NEW) - 1,)
    report = board.run()
    assert report.verdict == "RUN" and "flash-verify" in reasons(report)


def test_a_flash_that_can_not_be_read_gives_rescue():
    board = Setup(NEW)

    def fail(*args):
        raise OSError(EIO, "flash")

    board.nor.ioctl = fail
    report = board.run()
    assert report.verdict == "RESCUE" and reasons(report) == ["flash-failed"]
