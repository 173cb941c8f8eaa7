"""PortFlash: what a port's flash object is handed, and the unit that is programmed once."""

import pytest
from conformance.flash import flash_checks

from fakes.board import ERASE, SimBoard, image
from fakes.ecc import EccPort
from lifeboat import boot
from lifeboat.drivers.portflash import PortFlash
from sim.power import Power, PowerCut

SIZE = 4096


class Port:
    """A port's flash of four blocks that notes what it was handed to program."""

    def __init__(self):
        self.data = bytearray(b"\xff" * 4 * SIZE)
        self.programs = []

    def ioctl(self, op, arg):
        if op == 6:
            self.data[arg * SIZE : (arg + 1) * SIZE] = b"\xff" * SIZE
        return {4: 4, 5: SIZE}.get(op, 0)

    def readblocks(self, block, buf, offset):
        at = block * SIZE + offset
        buf[:] = self.data[at : at + len(buf)]

    def writeblocks(self, block, buf, offset):
        at = block * SIZE + offset
        self.programs.append((at, len(buf)))
        self.data[at : at + len(buf)] = bytes(a & b for a, b in zip(self.data[at:], buf))


def test_a_page_that_must_be_aligned_is_no_unit_that_is_programmed_once():
    assert PortFlash(Port()).program_size == 1
    assert PortFlash(Port(), page=256).program_size == 1


@pytest.mark.parametrize("unit", [8, 32, 512])
def test_a_unit_with_error_correction_is_told_and_kept_whole(unit):
    port = Port()
    flash = PortFlash(port, unit=unit)
    assert flash.program_size == unit
    flash.writeblocks(1, bytes(1024), 512)
    assert port.programs == [(SIZE + 512, 1024)]
    flash.writeblocks(2, b"\x55", unit + 1)
    assert port.programs[1:] == [(2 * SIZE + unit, unit)]
    assert port.data[2 * SIZE : 3 * SIZE].strip(b"\xff") == b"\x55"


# Flash with error correction (fakes/ecc.py), under a whole board.

UNITS = [8, 16, 32]
TOTAL = 16  # six blocks of code, eight of the memory, one of the manifest, one that is free
CODE = 6


class EccBoard(SimBoard):
    """A SimBoard whose code flash, with the memory in it, is such flash."""

    def __init__(self, unit, power=None, endurance=0):
        content = image(blocks=CODE, total=TOTAL, memory=8)
        super().__init__(content, power=power, remembers="flash", journal=8)
        self.genuine = bytes(content)
        self.port = EccPort(content, ERASE, unit, self.power, endurance)

    def flash(self):
        return PortFlash(self.port, unit=self.port.unit)

    def supply(self, power):
        super().supply(power)
        self.port.power = power

    def on(self, unlimited=False):
        self.kept[:] = bytes(len(self.kept))
        return boot.power_on(self, unlimited=unlimited)

    # The parts that are equal whatever the memory holds.
    def whole(self):
        code, manifest = slice(0, CODE * ERASE), slice((TOTAL - 1) * ERASE, None)
        wrong = [n for n, bits in self.port.wrong.items() if bits > 1]
        ends = CODE * ERASE // self.port.unit, (TOTAL - 1) * ERASE // self.port.unit
        assert not [n for n in wrong if n < ends[0] or n >= ends[1]]
        return all(self.port.data[part] == self.genuine[part] for part in (code, manifest))

    def rot(self, *addresses):
        for at in addresses:
            self.port.wrong[at // self.port.unit] = 2


@pytest.mark.parametrize("unit", UNITS)
def test_flash_with_error_correction_passes_the_conformance_suite(unit):
    port = EccPort(bytearray(b"\xff" * 4 * SIZE), SIZE, unit)
    assert len(list(flash_checks(PortFlash(port, unit=unit), 1, 2))) > 9


@pytest.mark.parametrize("unit", UNITS)
def test_a_board_remembers_and_repairs_without_programming_a_unit_twice(unit):
    board = EccBoard(unit)
    report = board.on()
    assert report.verdict == "RUN" and report.data["memory"] == "ok"
    programmed = len(board.port.programmed)
    assert board.on().verdict == "RUN" and len(board.port.programmed) == programmed
    board.port.wrong[7] = 1  # one bit: corrected, no matter
    assert board.on().data["bad"] == []
    board.rot(100, 3 * ERASE + 8, (TOTAL - 1) * ERASE + 64)
    report = board.on()
    assert report.verdict == "RUN" and report.data["erases"] == 3 and board.whole()
    assert board.on().data["reasons"] == []


@pytest.mark.parametrize("unit", UNITS)
def test_records_that_can_not_be_read_are_written_anew(unit):
    board = EccBoard(unit)
    board.on()
    board.rot(*range(CODE * ERASE + ERASE, CODE * ERASE + ERASE + 2048, unit))
    for _ in range(3):
        report = board.on()
    assert report.verdict == "RUN" and report.data["memory"] == "ok" and not report.data["reasons"]


@pytest.mark.parametrize("unit", UNITS)
def test_an_erased_board_is_restored(unit):
    board = EccBoard(unit)
    board.on()
    for block in range(TOTAL):
        board.port.ioctl(6, block)
    assert board.on().verdict == "RUN" and board.whole()
    report = board.on()
    assert report.verdict == "RUN" and report.data["memory"] == "ok" and board.whole()


def ends(board, cut, torn):
    """A power-on that is cut; whether it came to its end. There is power again afterwards."""
    board.supply(Power(cut, torn))
    try:
        board.on()
        return True
    except PowerCut:
        return False
    finally:
        board.supply(Power())


def repair(unit, cut, torn):
    """A repair of two blocks and the manifest that is cut; whether it came to its end."""
    board = EccBoard(unit)
    board.on()
    board.rot(100, 3 * ERASE + 8, (TOTAL - 1) * ERASE + 64)
    if ends(board, cut, torn):
        return True
    assert board.on().verdict == "RUN" and board.whole()
    assert board.on().data["memory"] == "ok"
    return False


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("unit", UNITS)
def test_a_repair_may_be_cut_anywhere(unit, torn):
    cut = 1
    while not repair(unit, cut, torn):
        cut += 37 if unit < 32 else 11
    assert cut > 100


def first_power_on(unit, cut, torn):
    """A first power-on, which begins the memory, that is cut; whether it came to its end."""
    board = EccBoard(unit)
    if ends(board, cut, torn):
        return True
    for _ in range(2):
        report = board.on()
    assert report.verdict == "RUN" and report.data["memory"] == "ok" and board.whole()
    return False


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("unit", UNITS)
def test_the_beginning_of_the_memory_may_be_cut_anywhere(unit, torn):
    cut = 1
    while not first_power_on(unit, cut, torn):
        cut += 13 if unit < 32 else 5
    assert cut > 50


@pytest.mark.parametrize("unit", UNITS)
def test_a_worn_block_is_told_and_left_alone_after_three_tries(unit):
    board = EccBoard(unit, endurance=1)
    board.on()
    board.port.erases[2] = 1
    board.rot(2 * ERASE + 100)
    codes = set()
    for _ in range(6):
        report = board.on()
        codes |= {code for code, _, _ in report.data["reasons"]}
        assert report.verdict == "RESCUE"
    assert board.port.erases[2] == 4 and "repair-limit" in codes
    assert codes & {"flash-failed", "flash-verify"}


# The fake itself.


def test_the_fake_does_not_take_a_part_of_a_unit_or_a_unit_twice():
    port = EccPort(bytearray(b"\xff" * 2 * SIZE), SIZE, 16)
    flash = PortFlash(port)  # a board that does not say unit=16
    with pytest.raises(AssertionError, match="a part of a unit"):
        flash.writeblocks(0, b"x", 0)
    flash.writeblocks(0, b"\xff" * 16, 0)
    with pytest.raises(AssertionError, match="twice"):
        flash.writeblocks(0, b"x" * 16, 0)
    flash.ioctl(6, 0)
    flash.writeblocks(0, b"x" * 16, 0)


def test_the_fake_tears_a_unit_so_that_it_can_not_be_read():
    port = EccPort(bytearray(b"\xff" * SIZE), SIZE, 16, Power(2, torn=True))
    flash = PortFlash(port, unit=16)
    with pytest.raises(PowerCut):
        flash.writeblocks(0, b"x" * 64, 0)
    buf = bytearray(16)
    flash.readblocks(0, buf, 0)
    assert buf == b"x" * 16
    with pytest.raises(OSError):
        flash.readblocks(0, buf, 16)
    flash.readblocks(0, buf, 32)
    assert buf == b"\xff" * 16
