"""I13: every finding reaches the report, the console and the journal, under one code.

Also the worst ones: a flash that is dead, a refusal, a fault of lifeboat's own. The disks are
healthy then, and are what is left to tell of it.
"""

from errno import ENODEV, ETIMEDOUT

import pytest

import lifeboat
from fakes import board as sim
from fakes import scenarios
from lifeboat import journal, poweron
from lifeboat.errors import LifeboatError
from lifeboat.scrub import Scrubber

PAGES = 4


def backed_up(**kwargs):
    board = sim.SimBoard(bytearray(scenarios.NEW), journal=PAGES, **kwargs)
    assert lifeboat.power_on(board).verdict == "RUN"
    return board


def told_on(disk):
    """The reason codes of the last session in a disk's journal, by format.md alone."""
    found = {}
    for i in range(PAGES):
        at = scenarios.slot_of(disk, 2, journal=PAGES) + 4096 * i
        page = sim.get(disk, at, 4096)
        if page[:8] == b"LBJOURNL":
            for e in range(1, 1 + int.from_bytes(page[32:36], "little")):
                entry = page[64 * e : 64 * e + 64]
                number = int.from_bytes(entry[:4], "little")
                found[number] = [f.rstrip(b"\0").decode() for f in (entry[17:28], entry[28:44])]
    session = []
    for number in sorted(found):
        if found[number][0] == "power-on":
            session = []
        session.append(found[number])
    return session


def dead_flash(board, monkeypatch):
    def ioctl(op, arg):
        raise OSError(ETIMEDOUT, "flash")

    board.nor.ioctl = ioctl


def no_flash(board, monkeypatch):
    def flash():
        raise OSError(ENODEV, "no chip answers")

    board.flash = flash


def refusal(board, monkeypatch):
    board.UNSIGNED = False


def fault(board, monkeypatch):
    def inspect(*args):
        raise ValueError("a fault")

    monkeypatch.setattr(poweron, "inspect", inspect)


WORST = {
    dead_flash: "flash-failed",
    no_flash: "flash-failed",
    refusal: "policy",
    fault: "internal",
}


@pytest.mark.parametrize("remembers", ["set", "nothing", None])
@pytest.mark.parametrize("trouble", WORST, ids=lambda f: f.__name__)
def test_the_worst_is_told_on_every_healthy_disk(trouble, remembers, monkeypatch, capsys):
    board = backed_up(remembers=remembers)
    code = WORST[trouble]
    trouble(board, monkeypatch)
    capsys.readouterr()
    report = lifeboat.power_on(board)
    console = capsys.readouterr().out
    assert report.verdict == "RESCUE"
    assert code in [r[0] for r in report.data["reasons"]] and "[lifeboat] %s" % code in console
    assert [m["disk"] for m in report.data["members"]] == ["disk0", "disk1"]
    for disk in board.drives:
        session = told_on(disk)
        assert session[0] == ["power-on", "RESCUE"] and ["reason", code] in session
    # It lasts: the next power-on tells it on the console, and writes nothing.
    before = [dict(disk.sectors) for disk in board.drives]
    assert code in [r[0] for r in lifeboat.power_on(board).data["reasons"]]
    assert [disk.sectors for disk in board.drives] == before


def test_a_dead_flash_is_told_when_a_disk_fails_too(monkeypatch):
    board = backed_up()
    dead_flash(board, monkeypatch)
    board.drives[0].fault = lambda op, lba, n: ENODEV
    report = lifeboat.power_on(board)
    assert [m["state"] for m in report.data["members"]][:1] == ["failed"]
    assert ["reason", "flash-failed"] in told_on(board.drives[1])


def test_the_journal_has_the_order_in_which_things_happened():
    board = backed_up()
    block = scenarios.slot_of(board.drives[0], 0, journal=PAGES) + 69632 + 2 * sim.ERASE
    sim.put(board.drives[0], block, b"x" * 512)
    board.nor.data[2 * sim.ERASE] ^= 1
    lifeboat.power_on(board)
    assert [event for event, _ in told_on(board.drives[1])] == [
        "power-on", "found", "repaired", "reason", "mended",
    ]  # fmt: skip


def test_reasons_in_report_console_and_journal_are_the_same(capsys):
    board = backed_up(members=3)
    sim.put(board.drives[0], scenarios.region_of(board.drives[0], 2, PAGES), bytes(512))
    board.drives[1].fault = lambda op, lba, n: ETIMEDOUT if op == "read" else None
    capsys.readouterr()
    report = lifeboat.power_on(board)
    codes = [r[0] for r in report.data["reasons"]]
    assert {"header-bad", "disk-timeout"} <= set(codes)
    lines = [line.split()[1] for line in capsys.readouterr().out.splitlines()[: len(codes)]]
    assert lines == codes
    assert [code for event, code in told_on(board.drives[2]) if event == "reason"] == codes


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_disks_that_can_not_be_had_do_not_keep_the_scrubber_from_the_flash(error):
    board = backed_up()

    def disks():
        raise error("the controller of the disks")

    board.disks = disks
    scrubber = Scrubber(board)
    for _ in range(100):
        scrubber.step(5)
    assert scrubber.passes
    assert "disks-failed" in [r[0] for r in lifeboat.report().data["reasons"]]


def test_two_builds_are_the_same_only_when_all_of_their_ids_are(monkeypatch):
    board = backed_up()
    report = lifeboat.report()
    forged = report.build_id[:12] + "0" * 52
    monkeypatch.setattr(report, "build_id", forged)
    for use in (lambda: list(lifeboat.segments(board)), lambda: Scrubber(board)):
        with pytest.raises(LifeboatError) as caught:
            use()
        assert caught.value.code == "flash-changed"


def test_what_can_not_be_journalled_is_told_all_the_same(monkeypatch):
    board = backed_up()

    def record(members, report):
        raise ValueError("a fault")

    monkeypatch.setattr(poweron, "record", record)
    board.nor.data[5] ^= 1
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN"
    assert ["internal", "journal"] in [r[:2] for r in report.data["reasons"]]
    assert journal.record is not record
