"""S2: members and their states, which set is home, and disks that misbehave while asked."""

import zlib
from errno import EIO, ENODEV, ETIMEDOUT

import pytest

import lifeboat
from fakes import board as sim
from fakes import disk as disks
from fakes import scenarios
from fakes.disk import RamDisk
from lifeboat.checking import check, choose_home, survey
from lifeboat.manifest import Manifest
from lifeboat.report import Report

NEW = sim.manifest(bytes(scenarios.NEW[: 6 * sim.ERASE]), version="2.0")
BUILD = Manifest(NEW).build


def backed_up(members=2, image=None, set_id=None):
    """Return disks that hold a backup made by a power-on."""
    board = sim.SimBoard(bytearray(image or scenarios.NEW), members=members)
    if set_id:
        for i, disk in enumerate(board.drives):
            sim.make_region(disk, member=i, members=members, set_id=set_id)
    assert lifeboat.power_on(board).verdict == "RUN"
    for disk in board.drives:
        disk.reads = disk.read_sectors = disk.writes = 0
        disk.written.clear()
    return board.drives


def run(drives, build=BUILD):
    """Return (members, report) after S2."""
    report = Report()
    members = survey(drives, (), report)
    choose_home(members, build, report)
    check(members, Manifest(NEW))
    return members, report


def codes(report):
    return [code for code, _, _ in report.data["reasons"]]


def test_a_member_with_the_backup_is_level_and_no_block_of_it_is_read():
    drives = backed_up()
    members, report = run(drives)
    assert [m.state for m in members] == ["level", "level"] and codes(report) == []
    for disk in drives:
        # two GPT headers, a tail copy twice (found, then audited with the others), two commit
        # records, one piece of manifest
        assert disk.reads <= 2 + 1 + 1 + 3 + 2 + 1
        assert disk.read_sectors <= 3 + 7 * 8
        assert disk.writes == 0


def test_healthy_states():
    older, empty, none = backed_up(1, scenarios.OLD)[0], backed_up(1)[0], RamDisk("c", 900)
    sim.put(empty, scenarios.slot_of(empty, 0), bytes(512))
    members, report = run([older, empty, none])
    assert [m.state for m in members] == ["stale", "stale", "no-region"]
    assert members[0].newest.generation == 1 and members[1].newest is None


def test_a_damaged_manifest_in_the_newest_slot_is_no_backup():
    drives = backed_up()
    sim.put(drives[0], scenarios.slot_of(drives[0], 0) + 4096, b"x" * 512)
    assert [m.state for m in run(drives)[0]] == ["stale", "level"]


@pytest.mark.parametrize("field", [68, 72, 76], ids=["manifest_size", "block_size", "block_count"])
def test_a_record_with_other_sizes_than_its_manifest_is_no_backup(field):
    drives = backed_up()
    at = scenarios.slot_of(drives[0], 0)
    record = bytearray(sim.get(drives[0], at, 512))
    size = int.from_bytes(record[field : field + 4], "little")
    record[field : field + 4] = {68: size - 1, 72: 8192, 76: 1}[field].to_bytes(4, "little")
    if field == 72:
        record[76:80] = (1).to_bytes(4, "little")
    record[508:] = zlib.crc32(record[:508]).to_bytes(4, "little")
    sim.put(drives[0], at, record)
    members, _ = run(drives)
    assert [m.state for m in members] == ["stale", "level"]
    assert members[0].records[0] is not None


# Disks that fail


@pytest.mark.parametrize(
    "fault, code",
    [(disks.dead, "disk-failed"), (disks.hung, "disk-timeout"), (disks.gone, "disk-failed")],
)
def test_a_failing_disk_is_named_and_the_others_are_used(fault, code):
    drives = backed_up()
    drives[0].fault = fault
    members, report = run(drives)
    assert [m.state for m in members] == ["failed", "level"]
    assert [code, "disk0"] in [r[:2] for r in report.data["reasons"]]


@pytest.mark.parametrize("errno", [ETIMEDOUT, ENODEV])
@pytest.mark.parametrize("after", range(9))
def test_a_disk_that_stops_answering_is_not_asked_again(errno, after):
    drives = backed_up(1)
    asked = []

    def fault(op, lba, count):
        asked.append(op)
        return errno if len(asked) > after else None

    drives[0].fault = fault
    members, report = run(drives)
    assert members[0].state == "failed" and len(asked) == after + 1
    assert not members[0].usable and not members[0].home


def unreadable(disk, offset):
    lba = offset // 512
    disk.fault = lambda op, at, n: EIO if op == "read" and at <= lba < at + n else None


def test_an_unreadable_commit_record_does_not_take_the_other_slot_out_of_use():
    drives = backed_up(1)
    unreadable(drives[0], scenarios.slot_of(drives[0], 1))
    members, report = run(drives)
    assert members[0].state == "level" and codes(report) == ["disk-failed"]


def test_an_unreadable_manifest_makes_a_stale_member_not_a_failed_one():
    drives = backed_up(1)
    unreadable(drives[0], scenarios.slot_of(drives[0], 0) + 4096)
    members, report = run(drives)
    assert members[0].state == "stale" and members[0].home and codes(report) == ["disk-failed"]


def test_a_damaged_commit_record_is_told():
    drives = backed_up(1)
    at = scenarios.slot_of(drives[0], 0)
    record = bytearray(sim.get(drives[0], at, 512))
    record[40] ^= 1
    sim.put(drives[0], at, record)
    members, report = run(drives)
    assert members[0].state == "stale" and codes(report) == ["commit-crc"]


# Which set is home


def mixed(*groups):
    out = []
    for group in groups:
        for disk in group:
            disk.name = "disk%d" % len(out)
            out.append(disk)
    return out


def test_the_set_with_the_build_in_flash_is_home_though_others_have_more_members():
    drives = mixed(backed_up(3, scenarios.OLD, b"X" * 16), backed_up(1))
    members, _ = run(drives)
    assert [m.state for m in members] == ["foreign"] * 3 + ["level"]
    assert [m.home for m in members] == [False] * 3 + [True]
    assert all(m.usable for m in members)


def test_without_the_build_the_set_with_most_members_is_home():
    drives = mixed(backed_up(1, scenarios.NEW, b"X" * 16), backed_up(2, scenarios.OLD))
    members, _ = run(drives, None)
    assert [m.state for m in members] == ["foreign", "stale", "stale"]


def test_among_equal_sets_the_one_with_the_newest_copy_is_home():
    board = sim.SimBoard(bytearray(scenarios.OLD), members=1)
    lifeboat.power_on(board)
    board.nor.data[:] = scenarios.NEW
    lifeboat.power_on(board)
    drives = mixed(backed_up(1, scenarios.OLD, b"X" * 16), board.drives)
    members, _ = run(drives, None)
    assert [m.state for m in members] == ["foreign", "level"]


def test_no_set_is_written_when_it_may_be_another_controllers():
    """After an update no set holds the code in flash, and the visitor has more generations."""
    visitor = sim.SimBoard(bytearray(scenarios.OLD), members=1, journal=2)
    size = sim.region_size(sim.SLOT, journal=2)
    sim.make_region(visitor.drives[0], set_id=b"X" * 16, size=size, journal=2)
    lifeboat.power_on(visitor)
    visitor.nor.data[:] = scenarios.NEW
    lifeboat.power_on(visitor)
    board = sim.SimBoard(bytearray(sim.image(seed=3, version="3.0")), members=1, journal=2)
    lifeboat.power_on(board)
    own, other = board.drives = mixed(board.drives, visitor.drives)
    other.power = board.power
    assert [m["state"] for m in lifeboat.power_on(board).data["members"]] == ["level", "foreign"]
    board.nor.data[:] = sim.image(seed=4, version="4.0")
    before = dict(own.sectors), dict(other.sectors)
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN_DEGRADED" and "set-unclear" in codes(report)
    assert [m["state"] for m in report.data["members"]] == ["foreign", "foreign"]
    assert (own.sectors, other.sectors) == before
    board.drives = [own]
    assert lifeboat.power_on(board).data["members"][0]["state"] == "created"
    # Now its set holds the code, and the visitor is one again.
    board.drives = [own, other]
    report = lifeboat.power_on(board)
    assert [m["state"] for m in report.data["members"]] == ["level", "foreign"]
    assert report.verdict == "RUN" and not codes(report)


def test_two_sets_with_the_code_in_flash_need_nothing():
    drives = mixed(backed_up(1, scenarios.NEW, b"X" * 16), backed_up(1))
    members, report = run(drives)
    assert [m.state for m in members] == ["level", "foreign"] and not codes(report)


def test_a_missing_member_is_named_by_its_number():
    drives = backed_up(3)
    _, report = run([drives[0], drives[2]])
    assert ["member-missing", "member 2/3", ""] in report.data["reasons"]
    assert report.data["members"] == [{"disk": None, "state": "missing", "generation": None}]


def test_six_members_are_all_level():
    members, report = run(backed_up(6))
    assert [m.state for m in members] == ["level"] * 6 and not report.data["reasons"]


def test_no_disks_at_all():
    assert run([])[0] == []
