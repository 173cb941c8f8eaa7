"""The first table of docs/recovery.md, run row by row: whose disks, which builds (I9, I10)."""

import itertools

import pytest

import lifeboat
from cpython_floor import ROOT
from fakes import board as sim
from fakes import gpt, scenarios
from sim.power import Power

PAGE = ROOT / "docs" / "recovery.md"
RAN = sim.image(seed=1, version="2.0")
NEVER_RAN = sim.image(seed=7, version="6.6")
DAMAGED = 3
OTHER_SET = b"X" * 16


def rows():
    section = PAGE.read_text().split("## Whose disks, which builds")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    head = next(i for i, line in enumerate(lines) if line.startswith("| memory | disks |"))
    return [tuple(c.strip() for c in line.strip("|").split("|")) for line in lines[head + 2 :]]


def fill(board, image):
    """Let a controller without a memory, one that has only these disks, make the copies."""
    other = sim.SimBoard(bytearray(image), members=0, remembers=None)
    for disk in board.drives:
        other.drives = [disk]
        assert lifeboat.power_on(other).runs
    board.supply(Power())


def as_set(disk, set_id, member=0, members=1):
    """Make the region at the end of a disk one of another set, with its copies."""
    kept = dict(disk.sectors)
    sim.make_region(disk, set_id=set_id, member=member, members=members)
    fresh = {lba: data for lba, data in disk.sectors.items() if data[:8] == b"LBREGION"}
    disk.sectors = {**kept, **fresh}


def prepare(memory, disks, flash, copies):
    remembers = {"ok": "set", "empty": "nothing", "lost": "nothing", "none": None}[memory]
    board = sim.SimBoard(bytearray(RAN), members=1, remembers=remembers, extra=600)
    (disk,) = board.drives
    if memory == "ok":
        board.chip.data[4 * 256 : 5 * 256] = b"\xff" * 256
        pages = sim.build_record(3, RAN[scenarios.MANIFEST_AT :][: scenarios.MANIFEST_SIZE])
        for mirror in (0, sim.MIRROR):
            board.chip.data[mirror + 3 * 256 : mirror + 4 * 256] = pages
    if memory == "lost":
        for mirror in (0, sim.MIRROR):
            board.chip.data[mirror : mirror + 512] = b"rot!" * 128
    if disks == "two":
        second = sim.RamDisk("disk1", disk.count, board.power)
        sim.make_region(second, set_id=OTHER_SET)
        board.drives.append(second)
    if copies != "-":
        fill(board, {"known": RAN, "unknown": NEVER_RAN}[copies])
    at = scenarios.region_of(disk)
    if disks == "other":
        as_set(disk, OTHER_SET)
    if disks == "new":
        # The same region, moved: its first LBA is another one now.
        content = sim.get(disk, at, sim.REGION)
        disk.sectors, disk.count = {}, disk.count + 80
        sim.put(disk, scenarios.region_of(disk), content)
        as_set(disk, b"S" * 16)
    if disks == "claimed":
        gpt.table(disk, [(gpt.LINUX, 40, disk.count - 100)])
    if disks == "torn":
        sim.put(disk, at, bytes(512))
    if flash != "intact":
        board.nor.data[DAMAGED * sim.ERASE + 9] ^= 2
    if flash == "bare":
        board.nor.data[scenarios.MANIFEST_AT + 60] ^= 1
    return board


def test_the_table_has_every_combination():
    flashes = [("intact", "-")]
    flashes += itertools.product(("damaged", "bare"), ("known", "unknown"))
    sets = [("ok", disks) for disks in ("own", "other", "new", "claimed")]
    sets += itertools.product(("empty", "lost", "none"), ("one", "two", "torn"))
    want = {(*a, *b) for a in sets for b in flashes}
    assert {row[:4] for row in rows()} == want and len(rows()) == len(want)


@pytest.mark.parametrize("row", rows(), ids="-".join)
def test_row(row):
    memory, disks, flash, copies, comes_back, written, told = row
    board = prepare(memory, disks, flash, copies)
    before = bytes(board.nor.data)
    media = [dict(disk.sectors) for disk in board.drives]
    report = lifeboat.power_on(board)
    want = {"same": RAN, "other": NEVER_RAN, "-": before}[comes_back]
    assert board.nor.data == want, report.data
    assert report.runs == (flash == "intact" or comes_back != "-")
    codes = {code for code, _, _ in report.data["reasons"]} - {"backup-none"}
    if flash == "bare" and comes_back == "-":
        codes -= {"manifest-crc"}
    assert codes == set(told.split(", ")) - {"-"}
    changed = [disk.sectors != old for disk, old in zip(board.drives, media)]
    assert any(changed) == (written == "yes")
    assert all(changed) or not any(changed)
