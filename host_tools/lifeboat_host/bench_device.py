# mypy: ignore-errors
"""The half of `lifeboat bench` that runs on the board, typed into its raw REPL.

Time is counted in guest instructions: with QEMU's `-icount shift=0` one takes 1 ns, so a tick of
a 10 MHz clock is 100 of them; setup() tells how many. Functions print what they found as one line
of JSON.
"""

import gc
import json
import sys

from machine import mem32
from micropython import const
from uctypes import addressof, bytearray_at

_MTIME = const(0x0200BFF8)
_GHC = const(0x40000004)  # of the AHCI controller, where the board's driver puts it
_HBA_RESET = const(0x80000001)
_RAM = 0x84000000  # free memory, away from the heap
_SIZE = const(5)

_tick = 0


def setup(tick):
    """Say first how many instructions a tick of the clock is."""
    global _tick
    _tick = tick
    say(None)


def say(value):
    print(json.dumps(value))


def cost(call, *args):
    """Return the instructions that a call takes; the heap was swept before."""
    gc.collect()
    start = mem32[_MTIME]
    call(*args)
    return (mem32[_MTIME] - start & 0xFFFFFFFF) * _tick


def reset_disks():
    """Put the disk controller into the state it has after power-on (AHCI 1.3.1, 10.4.3).

    An SD card needs nothing: a power-on identifies it anew, whatever state it is in.
    """
    if "lifeboat.drivers.ahci" not in sys.modules:
        return
    mem32[_GHC] = _HBA_RESET
    while mem32[_GHC] & 1:
        pass


def forget(*packages):
    for name in list(sys.modules):
        if name.split(".")[0] in packages:
            del sys.modules[name]
    gc.collect()


def new_board():
    """Return the board module with new drivers and a disk controller fresh from reset."""
    reset_disks()
    forget("board")
    import board

    return board


def eraser(board):
    """Return a function that erases one block of the board's code flash."""
    from lifeboat.blockdev import Window, geometry

    driver = board.flash()
    count, size = geometry(driver)
    window = Window(driver, 0, count)
    units = board.BLOCK_SIZE // size
    return lambda block: window.erase_blocks(block * units, units)


class Opened:
    """A board after its survey: what the steps of a power-on hand to each other."""

    def __init__(self):
        from lifeboat.checking import survey
        from lifeboat.codeflash import CodeFlash
        from lifeboat.report import Report

        board = new_board()
        board.start()
        self.driver = board.flash()
        self.erase = eraser(board)
        self.units = board.BLOCK_SIZE // self.driver.ioctl(_SIZE, 0)
        self.flash = CodeFlash(self.driver, board.BLOCK_SIZE)
        self.manifest = self.flash.manifest()[0]
        self.blocks = range(self.manifest.block_count)
        self.size = len(self.blocks) * board.BLOCK_SIZE
        self.product = board.PRODUCT
        self.members = survey(board.disks(), (), Report())
        self.buf = memoryview(bytearray(board.BLOCK_SIZE))

    def each(self, call):
        """Return the instructions of call(block) for every block, the loop not counted."""
        return sum(cost(call, block) for block in self.blocks)


# Boot inspection, and its floor: every word is read and does something.


def inspection():
    from lifeboat.inspecting import inspect

    o = Opened()
    say({"insn": cost(inspect, o.flash, o.product), "bytes": o.size})


def every_word():
    import micropython

    lines = ["@micropython.asm_rv32", "def xor(a0, a1):", " li(a2, 0)", " label(loop)"]
    for at in range(0, 64, 4):
        lines += [" lw(t0, %d(a0))" % at, " xor(a2, a2, t0)"]
    lines += [" addi(a0, a0, 64)", " bne(a0, a1, loop)", " mv(a0, a2)"]
    names = {"micropython": micropython}
    exec("\n".join(lines), names)
    o = Opened()
    start = addressof(o.flash.map(0, 4))
    say({"insn": cost(names["xor"], start, start + o.size)})


def digests():
    o = Opened()
    size = len(o.buf)
    say({"insn": sum(cost(o.manifest.matches, i, o.flash.map(i * size, size)) for i in o.blocks)})


# What a serial flash's inspection is made of.


def serial_parts():
    from lifeboat.kernels import crc32

    o = Opened()
    found = {
        "bus": cost(o.driver._spi.readinto, o.buf, 0xFF),  # no chip is selected
        "crc32": cost(crc32, o.buf),
        "readblocks": cost(o.driver.readblocks, 0, o.buf),
    }
    say({name: insn / len(o.buf) for name, insn in found.items()})


# Whole power-ons.


def power_on():
    import lifeboat

    board = new_board()
    insn = cost(lifeboat.power_on, board)
    commands = [disk.reads for disk in board.disks()]
    say({"insn": insn, "commands": commands, "report": lifeboat.report().data})


def bytes_read():
    """Power on, and say how many bytes the disks' drivers were asked for."""
    import lifeboat

    board = new_board()
    board.start()
    driver = type(board.disks()[0])
    readblocks = driver.readblocks
    total = 0

    def counted(self, block, buf, *offset):
        nonlocal total
        total += len(buf)
        return readblocks(self, block, buf, *offset)

    driver.readblocks = counted
    try:
        lifeboat.power_on(new_board())
    finally:
        driver.readblocks = readblocks
    say(total)


def erase(*blocks):
    import board

    for block in blocks:
        eraser(board)(block)
    say(None)


def small_reads(count):
    """The floor of a survey: as many commands, and nothing made of what they read."""
    o = Opened()
    region = o.members[0].region
    unit = bytearray(4096)

    def read():
        for _ in range(count):
            region.read(0, unit)

    say({"insn": cost(read)})


def large_reads(size, total):
    o = Opened()
    disk = o.members[0].disk
    first = o.members[0].region.start
    sectors = size // 512
    buffers = [bytearray_at(_RAM + at, size) for at in range(0, total, size)]

    def read():
        lba = first
        for buf in buffers:
            disk.readblocks(lba, buf)
            lba += sectors

    read()  # the host's cache is warm from here on
    say({"insn": cost(read)})


def restore():
    """Everything between the survey and whole flash, for the blocks that are bad."""
    from lifeboat.blockdev import Scratch
    from lifeboat.inspecting import inspect
    from lifeboat.recovery import act, assess
    from lifeboat.report import Report

    o = Opened()
    found = inspect(o.flash, o.product)
    scratch = Scratch(len(o.buf))

    def heal():
        act(o.flash, assess(o.flash, found, o.members, o.product, scratch), scratch, Report())

    say({"insn": cost(heal)})


def restore_parts():
    """Each part of a restore on its own; the flash is whole again at the end."""
    from lifeboat.inspecting import damaged_blocks

    o = Opened()
    buf, driver, member = o.buf, o.driver, o.members[0]
    region, slot = member.region, member.newest_slot

    def read(i):
        region.read(region.block_at(slot, i, len(buf)), buf)

    def verify(i):
        o.manifest.matches(i, buf)

    def program(i):
        driver.writeblocks(i * o.units, buf, 0)

    found = {}
    for i in o.blocks:
        for name, call in (
            ("read", read),
            ("verify", verify),
            ("erase", o.erase),
            ("program", program),
        ):
            found[name] = found.get(name, 0) + cost(call, i)
    found["read back"] = cost(damaged_blocks, o.flash, o.manifest)
    say(found)


def backup():
    """A backup into a free slot, its parts alone, and a backup where both slots are in use."""
    from lifeboat.creating import create
    from lifeboat.kernels import crc32

    o = Opened()
    buf, flash, member = o.buf, o.flash, o.members[0]
    region = member.region
    free = 1 - member.newest_slot

    def read_flash(i):
        flash.read(i, buf)
        crc32(buf)

    def write(i):
        region.write(region.block_at(free, i, len(buf)), buf)

    def read_back(i):
        region.read(region.block_at(free, i, len(buf)), buf)
        crc32(buf)

    found = {"read flash": o.each(read_flash), "write": o.each(write)}
    found["read back"] = o.each(read_back)
    for name in "free slot", "old slot":
        found[name] = cost(create, flash, o.manifest, member, 2, buf)
    say(found)


# How little heap a power-on needs.


def fill_heap(free):
    """Return ballast that leaves one piece of `free` bytes of the heap."""
    ballast = [None] * 400
    gc.collect()
    room = bytearray(free)
    size = gc.mem_free()
    i = 0
    while size >= 16:
        try:
            ballast[i] = bytearray(size)
            i += 1
        except MemoryError:
            size //= 2
    del room
    gc.collect()
    return ballast


def try_heap(free, erased=()):
    """Power on with `free` bytes of heap, after the modules were imported; says the report."""
    import lifeboat.boot

    board = new_board()
    for block in erased:
        eraser(board)(block)
    board = new_board()
    lifeboat.boot._last = None
    ballast = fill_heap(free)
    try:
        found = lifeboat.power_on(board).data
    except MemoryError:
        found = None
    del ballast
    gc.collect()
    say(found)


def modules():
    """Say what the modules of lifeboat and the board take of the heap before any call."""
    reset_disks()
    forget("board", "lifeboat")
    before = gc.mem_alloc()
    import board  # noqa: F401

    import lifeboat  # noqa: F401

    gc.collect()
    say(gc.mem_alloc() - before)
