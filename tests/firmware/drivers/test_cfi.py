"""The CFI flash driver on two chips that hold it to their command sets, cycle by cycle."""

import errno

import machine
import pytest
from conformance.flash import flash_checks

from cpython_floor import Clock
from fakes.cfi import ERASE_FAILED, LOCKED, NO_VPP, PROGRAM_FAILED, READY, Chip, Pair, Query
from fakes.rng import Rng
from lifeboat import mmio
from lifeboat.drivers.cfi import CFIFlash

BASE = 0x22000000
SIZE = 4096  # a block of both chips
BUFFER = 64  # a write buffer of both chips
US_PER_ACCESS = 20


@pytest.fixture
def clock(monkeypatch):
    clock = Clock(machine.mem32, US_PER_ACCESS)
    clock.rule(monkeypatch, mmio)
    return clock


@pytest.fixture
def chips(clock):
    """chips(**query) -> (the driver, both chips)."""
    machine.mem32.clear()

    def chips(**query):
        pair = Pair(machine.mem32, clock, BASE, Query(**query))
        return CFIFlash(BASE), pair

    yield chips
    machine.mem32.clear()


def refuses(error, call, *args):
    with pytest.raises(OSError) as caught:
        call(*args)
    assert errno.errorcode[caught.value.args[0]] == errno.errorcode[error]


def at_rest(pair):
    return [chip.idle for chip in pair.chips] == [True, True]


def works(flash, pair, block=5):
    data = Rng(block).bytes(SIZE)
    flash.writeblocks(block, data)
    assert bytes(flash.view(block * SIZE, SIZE)) == data and at_rest(pair)


KINDS = {
    "0001": {},
    "0001 without buffer": {"buffer": 0},
    "0001 locked at power-up": {"features": 0x20},
    "0001 buffer of a block": {"buffer": 11},
    "0001 buffer larger than a block": {"buffer": 12},
    "0001 smallest buffer": {"buffer": 2},
    "0003": {"command_set": 3, "buffer": 0, "typical": (4, 0, 10)},
    "0003 with buffer": {"command_set": 3},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_driver_passes_the_conformance_suite(chips, kind):
    flash, pair = chips(**KINDS[kind])
    assert at_rest(pair)
    assert len(list(flash_checks(flash, 2, 4))) > 9
    assert at_rest(pair)
    others = pair.content[: 2 * SIZE] + pair.content[6 * SIZE :]
    assert others == b"\xff" * len(others), "written outside the blocks given"


# What the chips say of themselves.


@pytest.mark.parametrize("blocks, size", [(8, 2048), (32, 128), (1, 1 << 16), (2, 256)])
def test_the_geometry_is_the_chips(chips, blocks, size):
    flash, _ = chips(regions=((blocks, size),))
    assert (flash.ioctl(4, 0), flash.ioctl(5, 0)) == (blocks, 2 * size)


def test_many_blocks_have_a_number_of_two_bytes(chips):
    flash, _ = chips(regions=((512, 512),))
    assert flash.ioctl(4, 0) == 512


@pytest.mark.parametrize(
    "query",
    [
        {"command_set": 2},
        {"command_set": 0},
        {"command_set": 0x101},
        {"regions": ((4, 2048), (16, 512))},
        {"size": 15},
        {"size": 13},
    ],
    ids=str,
)
def test_chips_that_it_can_not_handle_are_refused(chips, query):
    with pytest.raises(OSError) as caught:
        chips(**query)
    assert caught.value.args[0] == errno.EOPNOTSUPP
    assert "cfi: " in caught.value.args[1]


@pytest.mark.parametrize(
    "error, words, query",
    [
        (errno.EOPNOTSUPP, "erase regions differ, top boot", {"regions": ((7, 2048), (4, 512))}),
        (
            errno.EOPNOTSUPP,
            "erase regions differ, bottom boot",
            {"regions": ((4, 512), (7, 2048))},
        ),
        (
            errno.EOPNOTSUPP,
            "erase regions differ, bottom boot",
            {"regions": ((4, 512), (6, 2048), (4, 512))},
        ),
        (errno.EOPNOTSUPP, "x8 chips", {"width": 0}),
        (errno.EOPNOTSUPP, "command set 2", {"command_set": 2}),
        (errno.ENODEV, "no chips", {"signature": b"\0\0\0"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("content", [0xFF, 0x00])
def test_why_chips_are_refused_is_named(clock, error, words, query, content):
    machine.mem32.clear()
    pair = Pair(machine.mem32, clock, BASE, Query(**query))
    for chip in pair.chips:
        chip.cells = [content * 0x101] * len(chip.cells)
    with pytest.raises(OSError) as caught:
        CFIFlash(BASE)
    assert caught.value.args == (error, "cfi: " + words)
    assert all(chip.idle for chip in pair.chips)
    machine.mem32.clear()


def test_chips_that_may_be_x8_are_x16_here(chips):
    flash, pair = chips(width=2)
    works(flash, pair)


@pytest.mark.parametrize(
    "bit, words", [(LOCKED, "cfi: block locked"), (NO_VPP, "cfi: no programming voltage")]
)
def test_why_nothing_can_be_written_is_named(chips, bit, words):
    flash, pair = chips()
    pair.chips[1].fail = bit | ERASE_FAILED
    with pytest.raises(OSError) as caught:
        flash.ioctl(6, 1)
    assert caught.value.args == (30, words)


def test_the_fake_erases_just_a_block_of_a_region(clock):
    chip = Chip(Query(regions=((2, 2048), (4, 512))), clock)
    chip.cells = [0] * len(chip.cells)
    chip.write(2048 + 256, 0x20)
    chip.write(2048 + 256, 0xD0)
    blank = [i for i, cell in enumerate(chip.cells) if cell]
    assert blank == list(range(2048 + 256, 2048 + 512))


def test_a_refused_chip_is_left_readable(clock):
    machine.mem32.clear()
    pair = Pair(machine.mem32, clock, BASE, Query(command_set=2))
    with pytest.raises(OSError):
        CFIFlash(BASE)
    assert at_rest(pair)
    machine.mem32.clear()


@pytest.mark.parametrize("signature", [b"\0\0\0", b"QRX", b"PRI"])
def test_no_chips_are_told_from_others(chips, signature):
    with pytest.raises(OSError) as caught:
        chips(signature=signature)
    assert caught.value.args[0] == errno.ENODEV


def test_one_chip_on_half_of_the_bus_is_none(clock):
    machine.mem32.clear()
    pair = Pair(machine.mem32, clock, BASE)
    pair.chips[1]._query = bytes(128)
    with pytest.raises(OSError) as caught:
        CFIFlash(BASE)
    assert caught.value.args == (errno.ENODEV, "cfi: chip on half of the bus") and at_rest(pair)
    machine.mem32.clear()


# Programs and erases.


def test_a_byte_can_be_programmed_by_itself_and_again(chips):
    flash, _ = chips()
    assert flash.program_size == 1
    flash.ioctl(6, 1)
    flash.writeblocks(1, b"\xf0", 7)
    flash.writeblocks(1, b"\x30", 7)
    assert bytes(flash.view(SIZE + 6, 3)) == b"\xff\x30\xff"


def test_blank_buffers_are_skipped(chips):
    flash, pair = chips()
    flash.writeblocks(0, b"\xff" * SIZE)
    assert (flash.erases, flash.programs) == (1, 0)
    data = bytearray(b"\xff" * SIZE)
    data[BUFFER] = 0
    data[3 * BUFFER - 1] = 0
    data[SIZE - 1] = 0x7F
    flash.writeblocks(0, data)
    assert (flash.erases, flash.programs) == (2, 3)
    assert pair.content[:SIZE] == data


def test_a_program_without_erase_clears_bits_only(chips):
    flash, pair = chips()
    flash.writeblocks(0, b"\x0f" * 8, 0)
    flash.writeblocks(0, b"\x3c" * 8, 0)
    assert pair.content[:9] == b"\x0c" * 8 + b"\xff"
    assert flash.erases == 0


@pytest.mark.parametrize("buffer", [5, 0], ids=["buffered", "by words"])
@pytest.mark.parametrize(
    "offset, n",
    [
        (0, 1),
        (1, 1),
        (3, 1),
        (1, 2),
        (2, 4),
        (3, 6),
        (61, 7),
        (60, 200),
        (SIZE - 1, 2),
        (127, 130),
    ],
)
def test_writes_of_any_place_and_length_keep_their_neighbours(chips, buffer, offset, n):
    flash, pair = chips(buffer=buffer)
    old = Rng("old").bytes(3 * SIZE)
    old = old[:offset] + b"\xff" * n + old[offset + n :]
    pair.content = old + b"\xff" * (pair.size - len(old))
    data = Rng("new").bytes(n)
    flash.writeblocks(0, data, offset)
    assert pair.content[: 3 * SIZE] == old[:offset] + data + old[offset + n :]
    assert flash.erases == 0 and at_rest(pair)


def test_locked_blocks_are_unlocked_where_chips_lock_them_at_power_up(chips):
    flash, pair = chips(features=0x20)
    flash.ioctl(6, 3)
    flash.writeblocks(4, b"abcd", 8)
    assert [chip.locked for chip in pair.chips] == [{0, 1, 2, 5, 6, 7}] * 2
    works(flash, pair)


def operations(flash):
    return {
        "erase": (flash.ioctl, 6, 3),
        "program": (flash.writeblocks, 3, b"abcdefgh", 8),
        "piece of a word": (flash.writeblocks, 3, b"a", 9),
        "block": (flash.writeblocks, 3, bytes(SIZE)),
    }


OPERATIONS = ["erase", "program", "piece of a word", "block"]
CHIPS = {"low": (0,), "high": (1,), "both": (0, 1)}


@pytest.mark.parametrize("buffer", [5, 0], ids=["buffered", "by words"])
@pytest.mark.parametrize("which", CHIPS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_locked_block_is_read_only(chips, name, which, buffer):
    flash, pair = chips(buffer=buffer)
    for i in CHIPS[which]:
        pair.chips[i].locked = {3}
    refuses(errno.EROFS, *operations(flash)[name])
    assert flash.status & (READY | LOCKED) == READY | LOCKED
    assert at_rest(pair)
    works(flash, pair)


ERRORS = {
    ERASE_FAILED: errno.EIO,
    PROGRAM_FAILED: errno.EIO,
    ERASE_FAILED | PROGRAM_FAILED: errno.EIO,  # command sequence
    NO_VPP | PROGRAM_FAILED: errno.EROFS,
    NO_VPP | ERASE_FAILED: errno.EROFS,
    LOCKED | ERASE_FAILED: errno.EROFS,
}


@pytest.mark.parametrize("buffer", [5, 0], ids=["buffered", "by words"])
@pytest.mark.parametrize("which", CHIPS)
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("status", ERRORS, ids=hex)
def test_every_error_of_either_chip_is_reported(chips, status, name, which, buffer):
    flash, pair = chips(buffer=buffer)
    before = pair.content
    for i in CHIPS[which]:
        pair.chips[i].fail = status
    refuses(ERRORS[status], *operations(flash)[name])
    assert flash.status == READY | status
    assert at_rest(pair)
    assert bytes(flash.view(0, 3 * SIZE)) == before[: 3 * SIZE]
    for chip in pair.chips:
        chip.fail = 0
    works(flash, pair)


def test_nothing_is_written_after_an_error(chips):
    flash, pair = chips()
    pair.chips[0].fail = PROGRAM_FAILED
    refuses(errno.EIO, flash.writeblocks, 0, bytes(2 * SIZE), 0)
    assert (flash.erases, flash.programs) == (0, 1)
    refuses(errno.EIO, flash.writeblocks, 0, bytes(2 * SIZE))
    assert (flash.erases, flash.programs) == (1, 1)


# Time.


@pytest.mark.parametrize("which", CHIPS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_hung_chip_ends_the_wait(chips, clock, name, which):
    flash, pair = chips(typical=(7, 7, 9), longest=(2, 2, 2))  # an erase takes 2048 ms at most
    for i in CHIPS[which]:
        pair.chips[i].hang = True
    for _ in range(2):
        began = clock.ticks_ms()
        refuses(errno.ETIMEDOUT, *operations(flash)[name])
        assert clock.ticks_ms() - began < 2 * 2048 + 500
        assert flash.status & ~READY == 0
    for chip in pair.chips:
        chip.hang = False
        chip._busy_until = 0
    works(flash, pair)


def test_an_erase_may_take_as_long_as_the_chips_say(chips):
    flash, pair = chips(typical=(7, 7, 10), longest=(2, 2, 2))
    for chip in pair.chips:
        chip.erase_us = 4000000
        chip.program_us = 400
    works(flash, pair)


def test_the_slower_chip_is_waited_for(chips):
    flash, pair = chips()
    pair.chips[1].erase_us, pair.chips[1].program_us = 500000, 20000
    works(flash, pair)
    pair.chips[1].fail = PROGRAM_FAILED
    refuses(errno.EIO, flash.writeblocks, 0, b"abcd", 0)


def test_a_buffer_that_does_not_become_free_ends_the_wait(chips, clock):
    flash, pair = chips()
    for chip in pair.chips:
        chip.buffer_free = False
    began = clock.ticks_ms()
    refuses(errno.ETIMEDOUT, flash.writeblocks, 0, b"abcd", 0)
    assert clock.ticks_ms() - began < 5000
    assert pair.content[:4] == b"\xff" * 4 and at_rest(pair)
    for chip in pair.chips:
        chip.buffer_free = True
    works(flash, pair)


# Limits.


def test_what_lies_outside_is_refused_before_the_flash_is_touched(chips):
    flash, pair = chips()
    accesses = machine.mem32.accesses
    for call in (flash.readblocks, flash.writeblocks):
        for args in (
            (-1, bytearray(SIZE)),
            (8, bytearray(SIZE)),
            (7, bytearray(2 * SIZE)),
            (1 << 40, bytearray(SIZE)),
            (0, bytearray(3)),
            (0, bytearray(SIZE + 4)),
            (7, bytearray(2), SIZE - 1),
            (0, bytearray(1), 8 * SIZE),
            (8, bytearray(1), 0),
            (5, bytearray(1), -1),
            (-1, bytearray(1), SIZE),
        ):
            refuses(errno.EINVAL, call, *args)
    for block in (-1, 8):
        refuses(errno.EINVAL, flash.ioctl, 6, block)
    for offset, n in ((-1, 1), (8 * SIZE, 1), (0, 8 * SIZE + 1), (4, -1)):
        refuses(errno.EINVAL, flash.view, offset, n)
    assert machine.mem32.accesses == accesses


def test_the_last_block_is_a_block(chips):
    flash, pair = chips()
    works(flash, pair, block=7)


def test_reads_write_nothing(chips):
    flash, pair = chips()
    pair.content = Rng("x").bytes(pair.size)
    writes = pair.writes
    buf = bytearray(3 * SIZE)
    flash.readblocks(2, buf)
    assert buf == pair.content[2 * SIZE : 5 * SIZE]
    flash.readblocks(0, buf, 17)
    assert buf == pair.content[17 : 17 + 3 * SIZE]
    assert pair.writes == writes


# Ctrl-C.


@pytest.mark.parametrize("name", OPERATIONS)
def test_ctrl_c_between_commands_leaves_the_flash_readable(chips, name, monkeypatch):
    for n in (0, 1, 2, 3, 5, 8, 13, 40, 300):
        flash, pair = chips()
        read, left = Pair.read32, n

        def interrupting(self, offset, read=read):
            nonlocal left
            left -= 1
            if left < 0 and all(chip.interruptible for chip in self.chips):
                left = 1000000
                raise KeyboardInterrupt
            return read(self, offset)

        call, *args = operations(flash)[name]
        monkeypatch.setattr(Pair, "read32", interrupting)
        try:
            call(*args)
        except KeyboardInterrupt:
            pass
        monkeypatch.setattr(Pair, "read32", read)
        assert at_rest(pair), n
        works(flash, pair)
        machine.mem32.clear()
