"""Drivers and media at their worst: the ecosystem's ways to fail, and trouble in the middle."""

import errno
import struct

import pytest

import lifeboat
from fakes import board as sim
from fakes import scenarios
from fakes.scenarios import codes, states
from lifeboat.blockdev import Checked, Window
from sim.disk import RamDisk

NEW, OLD = scenarios.NEW, scenarios.OLD
PADDING = len(NEW) - 2


def backed_up(**kwargs):
    board = sim.SimBoard(bytearray(NEW), **kwargs)
    assert lifeboat.power_on(board).verdict == "RUN"
    return board


class Returning:
    """A device that returns its errors, as os.AbstractBlockDev allows."""

    def __init__(self, dev, answers):
        self.dev, self.name, self.answers = dev, dev.name, answers

    def readblocks(self, *args):
        return self.answers.get("read", self.dev.readblocks(*args))

    def writeblocks(self, *args):
        if "write" in self.answers:
            return self.answers["write"]
        return self.dev.writeblocks(*args)

    def ioctl(self, op, arg):
        if op in self.answers:
            return self.answers[op]
        return self.dev.ioctl(op, arg)


@pytest.mark.parametrize(
    "answers, state",
    [({3: -5}, "stale"), ({3: False}, "stale"), ({"write": False}, "stale"),
     ({"write": -5}, "stale"), ({1: -19}, "failed"), ({"read": False}, "failed")],
)  # fmt: skip
def test_errors_that_are_returned_are_errors(answers, state):
    board = sim.SimBoard(bytearray(NEW))
    board.drives[0] = Returning(board.drives[0], answers)
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and states(report)[:2] == [state, "created"]


@pytest.mark.parametrize("answer", [None, 0, True])
def test_success_may_be_returned_in_three_ways(answer):
    class Dev:
        def readblocks(self, block, buf):
            return answer

    assert Checked(Dev()).readblocks(0, bytearray(1)) is None


def test_a_block_size_that_is_not_told_is_512():
    class Dev:
        def ioctl(self, op, arg):
            return {4: 8}.get(op)

    assert Window(Dev(), 0, 8).size == 512


@pytest.mark.parametrize("error", [ValueError, MemoryError, KeyError])
def test_a_driver_that_raises_anything_does_not_keep_the_other_disk_from_healing(error):
    board = backed_up()

    def fault(op, lba, count):
        raise error("from the driver")

    board.drives[0].fault = fault
    board.nor.data[5] ^= 1
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and board.nor.data == NEW
    assert states(report)[:2] == ["failed", "level"] and "internal" not in codes(report)


def test_a_disk_without_a_name_gets_one():
    board = backed_up()
    del board.drives[1].name
    assert [m["disk"] for m in lifeboat.power_on(board).data["members"]] == ["disk0", "disk1"]


def test_a_read_only_disk_does_not_keep_the_others_from_being_brought_level():
    class ReadOnly:
        def __init__(self, dev):
            self.readblocks, self.ioctl, self.name = dev.readblocks, dev.ioctl, dev.name

    board = sim.SimBoard(bytearray(NEW))
    board.drives[0] = ReadOnly(board.drives[0])
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and states(report) == ["failed", "created"]


@pytest.mark.parametrize("mapped", [True, False])
def test_a_window_may_be_the_code_flash(mapped):
    board = backed_up(mapped=mapped)
    flash = board.nor
    board.flash = lambda: Window(Window(flash, 0, sim.BLOCKS), 0, sim.BLOCKS)
    board.nor.data[5] ^= 1
    assert lifeboat.power_on(board).verdict == "RUN" and board.nor.data == NEW


def test_a_manifest_block_that_can_not_be_rewritten_is_no_code_to_run():
    board = backed_up()
    board.nor.data[PADDING] = 0
    board.nor.stuck = (PADDING,)
    assert lifeboat.power_on(board).verdict == "RUN"  # the padding stays, the code is there
    board.nor.stuck = (len(NEW) - sim.ERASE + 20,)
    board.nor.data[-sim.ERASE :] = NEW[-sim.ERASE :]
    board.nor.data[PADDING] = 0
    stuck = board.nor.data[board.nor.stuck[0]]
    erase = board.nor.ioctl

    def torn(op, arg):
        result = erase(op, arg)
        if op == 6:
            board.nor.data[board.nor.stuck[0]] = stuck ^ 1
        return result

    board.nor.ioctl = torn
    report = lifeboat.power_on(board)
    assert report.verdict == "RESCUE"
    assert set(codes(report)) & {"flash-verify", "flash-failed"}


def test_a_report_that_can_not_be_printed_does_not_keep_code_from_running(monkeypatch, capsys):
    board = backed_up()

    def no_memory(*_):
        raise MemoryError

    monkeypatch.setattr("json.dumps", no_memory)
    assert lifeboat.power_on(board).verdict == "RUN"
    assert "RUN" in capsys.readouterr().out


def test_a_header_copy_that_stays_bad_does_not_make_the_backup_worthless():
    board = backed_up()
    disk = board.drives[0]
    head = disk.count - sim.REGION // 512
    sim.put(disk, head * 512, bytes(512))
    disk.fault = lambda op, lba, n: errno.EIO if op == "write" and lba == head else None
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and states(report) == ["level", "level"]
    assert "header-bad" in codes(report)


def test_a_free_slot_is_taken_before_one_that_can_not_be_read():
    slots = 3
    size = sim.region_size(sim.SLOT, slots)
    disk = RamDisk("d", size // 512 + 40)
    sim.make_region(disk, slots=slots, size=size)
    board = sim.SimBoard(bytearray(NEW), members=0)
    board.drives = [disk]
    board.remember([disk])
    first = disk.count - size // 512 + 8
    disk.fault = lambda op, lba, n: errno.EIO if op != "init" and lba == first else None
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and states(report) == ["created"]
    assert lifeboat.power_on(board).data["disk_writes"] == 0


def test_a_slot_whose_manifest_is_of_a_newer_format_is_not_given_up():
    board = backed_up(members=1)
    disk = board.drives[0]
    at = (disk.count * 512 - sim.REGION) + 4096 + 4096
    size = struct.unpack_from("<I", NEW, len(NEW) - sim.ERASE + 12)[0]
    raw = bytearray(sim.get(disk, at, 4096))
    raw[8] = 2
    struct.pack_into("<I", raw, size - 4, sim.crc32(bytes(raw[: size - 4])))
    sim.put(disk, at, raw)
    board.nor.data[:] = OLD
    report = lifeboat.power_on(board)
    assert states(report) == ["created"] and sim.get(disk, at, 4096) == bytes(raw)


def test_a_block_of_flash_that_reads_with_an_error_is_repaired():
    board = backed_up(mapped=False)
    read, erased = board.nor.readblocks, []
    ioctl = board.nor.ioctl

    def readblocks(block, buf, offset=0):
        if block == 2 and not erased:
            raise OSError(errno.EIO, "ECC")
        return read(block, buf, offset)

    def count(op, arg):
        if op == 6 and arg == 2:
            erased.append(arg)
        return ioctl(op, arg)

    board.nor.readblocks, board.nor.ioctl = readblocks, count
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and report.data["repaired"] == [[2, 1, "disk0"]]


def test_flash_that_changes_while_it_is_copied_is_not_intact():
    board = backed_up()
    sim.put(board.drives[0], board.drives[0].count * 512 - sim.REGION + 4096, bytes(512))
    real, reads = board.nor.readblocks, []

    def readblocks(block, buf, offset=0):
        reads.append(block)
        if block == 3:
            board.nor.data[3 * sim.ERASE] ^= 1
        return real(block, buf, offset)

    board.nor.readblocks = readblocks
    report = lifeboat.power_on(board)
    assert "flash-changed" in codes(report) and report.verdict == "RESCUE"


@pytest.mark.usefixtures("no_parity")
def test_an_older_build_is_reported_when_the_manifest_was_gone_too():
    board = backed_up()
    board.nor.data[:] = OLD
    assert lifeboat.power_on(board).verdict == "RUN"
    for disk in board.drives:
        at = scenarios.slot_of(disk, 1) + 69632
        sim.put(disk, at, b"x" * 512)
    board.nor.data[:] = b"\xff" * len(NEW)
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and board.nor.data == NEW
    assert "older-build" in codes(report)


def test_padding_alone_does_not_wait_for_slow_disks():
    board = backed_up()
    board.nor.data[PADDING] = 0
    asked = []

    def fault(op, lba, count):
        asked.append(op)
        return errno.ETIMEDOUT

    board.drives[0].fault = fault
    assert lifeboat.power_on(board).verdict == "RUN"
    assert asked == ["init"]


@pytest.mark.usefixtures("no_parity")
def test_one_bad_block_does_not_make_hopeless_backups_be_read_whole():
    """Many backups, each of which lacks a block: the work stays linear in what has to be read."""
    board = backed_up()
    for disk in board.drives:
        for slot in range(2):
            sim.put(disk, scenarios.slot_of(disk, slot) + 69632, b"x" * 512)
        disk.reads = 0
    board.nor.data[0] ^= 1
    assert lifeboat.power_on(board).verdict == "RESCUE"
    assert all(disk.reads < 40 for disk in board.drives)


# What a driver says in words.


def refusing(dev, *args):
    """Let the device's ioctl(1) fail like this."""
    ioctl = dev.ioctl

    def refuse(op, arg):
        if op == 1:
            raise OSError(*args)
        return ioctl(op, arg)

    dev.ioctl = refuse


@pytest.mark.parametrize(
    "args, code, detail",
    [
        ((errno.EOPNOTSUPP, "ATA security locked"), "disk-refused", "ATA security locked"),
        ((errno.ENODEV, "ATAPI device"), "disk-failed", "ATAPI device"),
        ((errno.ETIMEDOUT, "disk busy after reset"), "disk-timeout", "disk busy after reset"),
        ((errno.EIO,), "disk-failed", str(errno.EIO)),
        ((), "disk-failed", "OSError()"),
    ],
    ids=str,
)
def test_why_a_disk_is_refused_is_told(args, code, detail):
    board = backed_up()
    refusing(board.drives[1], *args)
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and [code, "disk1", detail] in report.data["reasons"]


def test_why_there_is_no_flash_is_told():
    board = backed_up()

    def flash():
        raise OSError(errno.ENODEV, "spinor: unknown flash, id 016019")

    board.flash = flash
    report = lifeboat.power_on(board)
    assert report.verdict == "RESCUE"
    why = ["flash-failed", "flash", "spinor: unknown flash, id 016019"]
    assert why in report.data["reasons"]


def test_an_error_without_any_words_is_an_error():
    board = backed_up()

    def flash():
        raise OSError

    board.flash = flash
    report = lifeboat.power_on(board)
    assert report.verdict == "RESCUE" and codes(report) == ["flash-failed"]


def test_why_flash_is_locked_is_told():
    board = backed_up()
    board.nor.data[sim.ERASE + 5] ^= 1
    ioctl = board.nor.ioctl

    def protected(op, arg):
        if op == 6:
            raise OSError(30, "SPI NOR global protection")
        return ioctl(op, arg)

    board.nor.ioctl = protected
    report = lifeboat.power_on(board)
    assert report.verdict == "RESCUE"
    why = ["flash-locked", "flash", "1, SPI NOR global protection"]
    assert why in report.data["reasons"]


def test_what_a_disk_that_works_lacks_is_told_once():
    board = backed_up()
    board.drives[1].note = "no CRC (CMD59)"
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and states(report) == ["level", "level"]
    assert report.data["reasons"] == [["disk-limited", "disk1", "no CRC (CMD59)"]]
