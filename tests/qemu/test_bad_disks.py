"""I6: no absent, slow, hung or lying disk keeps healthy code from running."""

import time

import pytest

from lifeboat_host.qemu import faulty_media
from qemu.rig import DISK, MB, extents

# docs/operations.md: the bound on a healthy power-on, beyond the inspection, for each disk.
PER_DISK_MS = 7000


def codes(report):
    return [r[0] for r in report["reasons"]]


def states(report):
    """Of the disks that are here; the controller remembers others."""
    return [m["state"] for m in report["members"] if m["disk"]]


def break_flash(rig):
    rig.damage((1000, b"broken"))


@pytest.fixture(params=["healthy", "damaged"])
def condition(request, rig8):
    if request.param == "damaged":
        break_flash(rig8)
    return request.param


def hold_reads(rig, export, seconds):
    """Let reads hang. To cancel one on USB, QEMU stops the machine until the host has answered."""
    return export.hold("read", seconds=6 if rig.spec.disk_kind == "usb" else seconds)


def frozen(rig, drives):
    """The board, stopped before its first instruction: QEMU's own look at the disks is over."""
    return rig.board(drives, extra=["-S"])


def check(report, condition, *reasons):
    assert report["verdict"] == ("RUN_DEGRADED" if condition == "healthy" else "RESCUE")
    assert set(reasons) <= set(codes(report))
    assert ("backup-none" if condition == "healthy" else "block-lost") in codes(report)


def test_no_disk(rig8, condition):
    before = rig8.hashes()
    report, _ = rig8.power_on([])
    check(report, condition)
    # An SD slot is there without its card; a SATA or USB port without its disk is nothing.
    absent = ["failed"] if rig8.spec.disk_kind == "sd" else []
    assert states(report) == absent and rig8.hashes() == before


def test_a_disk_without_region(rig8, condition):
    rig8.drives = []
    rig8.blank_disk()
    before = rig8.hashes()
    report, _ = rig8.power_on()
    check(report, condition)
    assert states(report) == ["no-region"] and rig8.hashes() == before


@pytest.mark.sata
def test_errors_on_every_read(rig8, condition):
    with faulty_media.Lab() as lab:
        export = lab.export("disk", faulty_media.FileStore(rig8.drives[0]))
        with frozen(rig8, [export]) as board:
            fault = export.fail("read")
            board.qmp("cont")
            report = board.power_on_report()
        assert fault.hits
    check(report, condition, "disk-failed")
    assert states(report) == ["failed"]
    assert report["ms"]["total"] <= PER_DISK_MS


@pytest.mark.sata
def test_commands_that_never_complete(rig8, condition):
    """The disk stops answering; the server's answer comes long after the board has decided."""
    with faulty_media.Lab() as lab:
        export = lab.export("disk", faulty_media.FileStore(rig8.drives[0]))
        with frozen(rig8, [export]) as board:
            held = hold_reads(rig8, export, 30)
            began = time.monotonic()
            board.qmp("cont")
            report = board.power_on_report()
            elapsed = time.monotonic() - began
            if condition == "healthy":
                board.wait_for("app: running")
            held.release()
            board.repl()
            assert board.run("print(6 * 7)")[0].strip() == "42"
        assert held.hits and elapsed < 30
    check(report, condition, "disk-timeout")
    assert states(report) == ["failed"]
    assert report["ms"]["total"] <= PER_DISK_MS + report["ms"]["inspect"]


@pytest.mark.sata
def test_a_hung_disk_does_not_keep_the_other_from_healing(rig8):
    break_flash(rig8)
    with faulty_media.Lab() as lab:
        export = lab.export("disk", faulty_media.FileStore(rig8.drives[0]))
        with frozen(rig8, [export, rig8.drives[1]]) as board:
            held = hold_reads(rig8, export, 20)
            board.qmp("cont")
            report = board.power_on_report()
            board.wait_for("app: running")
        assert held.hits
    assert rig8.content() == rig8.good
    assert (report["verdict"], states(report)) == ("RUN", ["failed", "level"])


@pytest.mark.sata
def test_a_disk_that_vanishes_while_the_backup_is_made(empty_rig):
    empty_rig.make_image(2 * MB)
    empty_rig.add_disks(2)
    with faulty_media.Lab() as lab:
        exports = [lab.export(p.stem, faulty_media.FileStore(p)) for p in empty_rig.drives]
        exports[0].fail("write", "flush", after=6)
        report = empty_rig.heal(drives=exports)
        assert states(report) == ["stale", "created"]
    assert states(empty_rig.heal()) == ["created", "level"]


def test_a_disk_that_drops_writes_is_found_out(empty_rig):
    """The write is acknowledged and goes nowhere; the read-back tells."""
    empty_rig.make_image(2 * MB)
    empty_rig.add_disks()

    class Forgetful(faulty_media.FileStore):
        def write(self, offset, data):
            pass

    with faulty_media.Lab() as lab:
        lazy = lab.export("lazy", Forgetful(empty_rig.drives[0]), volatile=False)
        report, console = empty_rig.power_on([lazy, *empty_rig.drives[1:]])
    assert states(report) == ["stale", "created"][: len(empty_rig.drives)]
    assert "disk-lies" in codes(report) and "app: running" in console


def test_no_write_outside_the_region(empty_rig):
    """I3, by comparison of whole disks.

    SATA, USB: two members, one of 4 TiB with its region beyond LBA 2^32. SD: a card of 64 GiB.
    """
    rig = empty_rig
    rig.make_image(4 * MB)
    card = rig.spec.disk_kind == "sd"
    rig.add_disks(sizes=[64 << 30] if card else [4 << 40, DISK])
    starts = [rig.region_range(path)[0] for path in rig.drives]
    assert card or starts[0] // 512 > 1 << 32
    for path, start in zip(rig.drives, starts):
        with open(path, "r+b") as f:
            for place in (0, start // 2, start - 40960):
                f.seek(place - place % 4096)
                f.write(b"user data " * 4096)
    outside = [snapshot(path, rig.region_range(path)) for path in rig.drives]
    assert all(len(found) >= 30 for found in outside)
    assert set(states(rig.heal())) == {"created"}
    rig.damage((0, b"\xff" * rig.spec.flash_size))
    assert rig.heal()["erases"] == rig.blocks + 1
    rig.make_image(4 * MB, version="2.0", seed=3)
    assert set(states(rig.heal())) == {"created"}
    assert [snapshot(path, rig.region_range(path)) for path in rig.drives] == outside


def snapshot(path, region):
    """All data of a sparse disk outside its region: {offset: bytes} of non-zero 4 KiB pieces."""
    found = {}
    with open(path, "rb") as f:
        for first, last in extents(path):
            for offset in range(first - first % 4096, last, 4096):
                if not region[0] <= offset < region[1]:
                    f.seek(offset)
                    piece = f.read(4096)
                    if piece.strip(b"\0"):
                        found[offset] = piece
    return found
