"""Guards that are easily lost: each test here fails when one of them is taken away."""

import errno

import micropython
import pytest

import lifeboat
from fakes import board as sim
from fakes import scenarios
from fakes.scenarios import codes, states
from lifeboat import boot, running
from lifeboat.blockdev import Window
from lifeboat.scrub import Scrubber

NEW, OLD = scenarios.NEW, scenarios.OLD
OLDEST = sim.image(seed=3, version="0.9")


def board_after(*images, **kwargs):
    """A board that was powered on with each of these images in turn."""
    board = sim.SimBoard(bytearray(images[0]), **kwargs)
    for image in images:
        board.nor.data[:] = image
        assert lifeboat.power_on(board).verdict == "RUN"
    return board


# I3 for erases: the only way in which the code flash is erased for a repair.


class Blocks:
    """A device of 10 blocks; notes what it is to erase."""

    def __init__(self):
        self.erased = []

    def ioctl(self, op, arg):
        if op == 6:
            self.erased.append((arg, 1))
        return {4: 10, 5: 16}.get(op, 0)


class ManyAtOnce(Blocks):
    def erase_blocks(self, first, count):
        self.erased.append((first, count))


@pytest.mark.parametrize("kind", [Blocks, ManyAtOnce])
@pytest.mark.parametrize(
    "first, count", [(-1, 1), (-3, 3), (4, 1), (3, 2), (0, 5), (5, 1), (1 << 70, 1), (0, 99)]
)
def test_a_window_refuses_to_erase_what_is_outside(kind, first, count):
    device = kind()
    window = Window(device, 3, 4)
    with pytest.raises(OSError) as caught:
        window.erase_blocks(first, count)
    assert caught.value.args[0] == errno.EPERM
    assert device.erased == []


@pytest.mark.parametrize("kind, want", [(Blocks, [(5, 1), (6, 1)]), (ManyAtOnce, [(5, 2)])])
def test_a_window_erases_what_is_inside(kind, want):
    device = kind()
    window = Window(device, 3, 4)
    window.erase_blocks(2, 2)
    assert device.erased == want


# A read that timed out may still reach its buffer, whenever the disk pleases.


class Late:
    """Makes reads of a RamDisk time out that touch one of these bytes; arrive() lets their data
    come all the same, and it is not what the disk was asked for."""

    def __init__(self, disk, start, end):
        self._read = disk.readblocks
        self._sectors = range(start // disk.size, end // disk.size)
        self.buffers = []
        disk.readblocks = self._readblocks

    def _readblocks(self, lba, buf, offset=None):
        if lba in self._sectors:
            self.buffers.append(buf)
            raise OSError(errno.ETIMEDOUT, "late")
        return self._read(lba, buf) if offset is None else self._read(lba, buf, offset)

    def arrive(self):
        for buf in self.buffers:
            buf[:] = b"\x5e" * len(buf)


@pytest.mark.parametrize("mapped", [True, False])
def test_what_a_disk_sends_too_late_does_not_reach_the_flash(mapped):
    board = board_after(NEW, mapped=mapped)
    disk = board.drives[0]
    blocks = scenarios.slot_of(disk, 0) + 69632
    late = Late(disk, blocks, blocks + 6 * sim.ERASE)
    board.nor.data[5] ^= 1
    # The last moment for it: the other disk's block was found right, the flash is being erased.
    ioctl = board.nor.ioctl

    def erase(op, arg):
        if op == 6:
            late.arrive()
        return ioctl(op, arg)

    board.nor.ioctl = erase
    report = lifeboat.power_on(board)
    assert late.buffers
    assert report.verdict == "RUN" and board.nor.data == NEW
    assert report.data["repaired"] == [[0, 1, "disk1"]]
    assert states(report) == ["failed", "level"]


@pytest.mark.parametrize("what", ["header", "commit"])
def test_what_a_disk_sends_too_late_is_not_taken_for_another_disks_record(what):
    board = board_after(NEW)
    first, second = board.drives
    at = scenarios.region_of(first) if what == "header" else scenarios.slot_of(first, 0)
    late = Late(first, at, at + 512)
    read = second.readblocks

    def readblocks(*args):
        read(*args)
        late.arrive()

    second.readblocks = readblocks
    report = lifeboat.power_on(board)
    assert late.buffers
    assert report.verdict == "RUN" and states(report) == ["failed", "level"]
    assert codes(report) == ["disk-timeout"]


# The order in which slots are given up.


def test_a_slot_that_can_not_be_read_is_left_alone_while_another_is_free():
    """It may hold a good copy, as it does here."""
    board = board_after(OLD, members=1, slots=3)
    (disk,) = board.drives
    assert copies(disk, 3) == [b"LBCOMMIT", bytes(8), bytes(8)]
    start = scenarios.slot_of(disk, 0, slots=3)
    before = sim.get(disk, start, sim.SLOT)
    sector = start // 512
    disk.fault = lambda op, lba, n: errno.EIO if op == "read" and lba <= sector < lba + n else None
    disk.written.clear()
    board.nor.data[:] = NEW
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and states(report) == ["created"]
    assert not disk.written & set(range(sector, sector + sim.SLOT // 512))
    assert sim.get(disk, start, sim.SLOT) == before
    assert sorted(copies(disk, 3)) == [bytes(8), b"LBCOMMIT", b"LBCOMMIT"]


def copies(disk, slots):
    """The first bytes of each slot's commit record."""
    return [sim.get(disk, scenarios.slot_of(disk, i, slots), 512)[:8] for i in range(slots)]


# Code that turned out to be damaged takes no backup copy's place.


def test_after_the_flash_has_changed_the_second_member_keeps_its_slots():
    board = board_after(OLDEST, OLD)
    first, second = board.drives
    board.nor.data[:] = NEW
    write = first.writeblocks

    def writeblocks(*args):
        write(*args)
        board.nor.data[3 * sim.ERASE] = NEW[3 * sim.ERASE] ^ 1

    first.writeblocks = writeblocks
    second.written.clear()
    report = lifeboat.power_on(board)
    assert "flash-changed" in codes(report)
    assert second.written == set()
    assert sorted(scenarios.whole_copies(second)) == ["0.9", "1.0"]


# How long a power-on waits for a disk (docs/operations.md, "Bounds").


class Slow:
    """A fault: the first so many attempts to initialise a disk time out."""

    def __init__(self, times):
        self.left, self.waits = times, 0

    def __call__(self, op, lba, count):
        if op == "init" and self.left:
            self.left -= 1
            self.waits += 1
            return errno.ETIMEDOUT
        return None


@pytest.mark.parametrize("times", [0, 1, 2])
def test_damaged_code_waits_three_times_for_its_only_disk(times):
    board = board_after(NEW, members=1)
    board.nor.data[5] ^= 1
    board.drives[0].fault = slow = Slow(times)
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and board.nor.data == NEW
    assert slow.waits == times and codes(report) == []


def test_damaged_code_does_not_wait_a_fourth_time():
    board = board_after(NEW, members=1)
    board.nor.data[5] ^= 1
    board.drives[0].fault = slow = Slow(99)
    report = lifeboat.power_on(board)
    assert report.verdict == "RESCUE" and slow.waits == 3
    assert "disk-timeout" in codes(report)


def test_intact_code_waits_once():
    board = board_after(NEW, members=1)
    board.drives[0].fault = slow = Slow(99)
    report = lifeboat.power_on(board)
    assert report.runs and slow.waits == 1


# A person at work.


def test_a_repair_that_is_scheduled_does_not_run_in_a_persons_session(monkeypatch):
    waiting = []
    monkeypatch.setattr(micropython, "schedule", lambda *call: waiting.append(call))

    def attend(yes):
        monkeypatch.setattr(running, "attended", yes)
        if hasattr(boot, "attended"):
            monkeypatch.setattr(boot, "attended", yes)

    board = board_after(NEW)
    scrubber = Scrubber(board)
    board.nor.data[5] ^= 1
    damaged = bytes(board.nor.data)
    for _ in range(1000):
        if waiting:
            break
        assert scrubber.step(1)
    attend(True)
    (call,) = waiting
    waiting.clear()
    call[0](*call[1:])
    assert board.nor.data == damaged and not scrubber.step(1)
    attend(False)
    for _ in range(1000):
        assert scrubber.step(1)
        while waiting:
            function, argument = waiting.pop()
            function(argument)
        if board.nor.data == NEW:
            return
    raise AssertionError("not repaired afterwards")
