# mypy: ignore-errors
# What on_board_heap_device has defined is there.
# ruff: noqa: F821
"""The half of `lifeboat bench` that runs on the board, typed into its raw REPL after
on_board_heap_device.

Time is counted in guest instructions: with QEMU's `-icount shift=0` one takes 1 ns, so a tick of
a 10 MHz clock is 100 of them; setup() tells how many. The polls for the end of an AHCI command are
not counted: an emulated disk answers when the host gets to it. Functions print what they found as
one line of JSON.
"""

import gc
import sys

from machine import mem32
from micropython import const
from uctypes import addressof, bytearray_at

_MTIME = const(0x0200BFF8)
_PORT = const(0x40000100)
_RAM = 0x84000000  # free memory, away from the heap
_PXCI = const(0x38)  # of an AHCI port
_INIT = const(1)
_SIZE = const(5)

_tick = 0
_quiet = None


def setup(tick):
    """Say first how many instructions a tick of the clock is."""
    global _tick, _quiet
    _tick = tick
    if "lifeboat.drivers.ahci" in sys.modules:
        _quiet = Quiet(sys.modules["lifeboat.drivers.ahci"])
    say(None)


class Quiet:
    """While entered, the AHCI driver finds each command ended when it looks; ticks: the waits."""

    def __init__(self, driver):
        from lifeboat.kernels import poll32

        self._driver, self._ended, self._poll = driver, driver.ended, poll32
        self._own = 0
        # What this costs besides the wait: told with a port whose command has ended long ago.
        args = _PORT, bytearray(8), bytearray(16)
        times = []
        for call in self._ended, self.ended:
            self.ticks = 0
            start = mem32[_MTIME]
            for _ in range(100):
                call(*args)
            times.append(mem32[_MTIME] - start - self.ticks)
        self._own = (times[1] - times[0]) / 100

    def ended(self, port, memory, own):
        start = mem32[_MTIME]
        self._poll(port + _PXCI, 1, 0, 1 << 28)
        self.ticks += mem32[_MTIME] - start + self._own
        return self._ended(port, memory, own)

    def __enter__(self):
        self.ticks = 0
        self._driver.ended = self.ended
        return self

    def __exit__(self, *_):
        self._driver.ended = self._ended


def cost(call, *args):
    """Return the instructions that a call takes; the heap was swept before."""
    gc.collect()
    if not _quiet:
        start = mem32[_MTIME]
        call(*args)
        return (mem32[_MTIME] - start & 0xFFFFFFFF) * _tick
    with _quiet:
        start = mem32[_MTIME]
        call(*args)
        return ((mem32[_MTIME] - start & 0xFFFFFFFF) - _quiet.ticks) * _tick


class Opened:
    """A board after its survey: what the steps of a power-on hand to each other."""

    def __init__(self):
        from lifeboat.checking import choose_own
        from lifeboat.codeflash import CodeFlash
        from lifeboat.members import survey
        from lifeboat.report import Report
        from lifeboat.trust import Trust

        board = new_board()
        board.start()
        self.driver = board.flash()
        self.erase = eraser(board)
        self.units = board.BLOCK_SIZE // self.driver.ioctl(_SIZE, 0)
        self.flash = CodeFlash(self.driver, board.BLOCK_SIZE)
        self.trust = Trust(board, self.flash).recall()
        self.memory = self.trust.memory
        self.manifest = self.flash.manifest(self.trust)[0]
        self.blocks = range(self.manifest.block_count)
        self.size = len(self.blocks) * board.BLOCK_SIZE
        self.members = survey(board.disks(), (), Report())
        choose_own(self.members, self.trust, Report())
        if any(m.copies for m in self.members):  # an SD socket is there without a card, too
            self.slot = [c.slot for c in self.members[0].copies if c.commit or not c.slot][-1]
        self.buf = memoryview(bytearray(board.BLOCK_SIZE))

    def each(self, call):
        """Return the instructions of call(block) for every block, the loop not counted."""
        return sum(cost(call, block) for block in self.blocks)


# Boot inspection, and its floor: every word is read and does something.


def inspection():
    from lifeboat.inspecting import inspect

    o = Opened()
    say({"insn": cost(inspect, o.flash, o.trust), "bytes": o.size})


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
    from hashlib import sha256

    o = Opened()
    size = len(o.buf)

    def matches(i, data):
        return sha256(data).digest() == o.manifest.digest(i)

    say({"insn": sum(cost(matches, i, o.flash.map(i * size, size)) for i in o.blocks)})


# What signed boards do beside.


def signature(key, signed, message):
    """A verification, and its floor: as many hashes of as many bytes."""
    from hashlib import sha256

    from lifeboat import lms

    hashes = {}  # bytes -> how often

    class Counted:
        def __init__(self, data):
            self._hash, self._size = sha256(data), len(data)

        def update(self, data):
            self._hash.update(data)
            self._size += len(data)

        def digest(self):
            hashes[self._size] = hashes.get(self._size, 0) + 1
            return self._hash.digest()

    lms.sha256 = Counted
    right = lms.verify(key, signed, message)
    lms.sha256 = sha256
    assert right and not lms.verify(key, signed, message[:-1])

    def alone(view, count):
        for _ in range(count):
            sha256(view).digest()

    # The least of several: a sweep of the heap in between is not what is looked for.
    floor = 0
    for size in hashes:
        view = memoryview(message)[:size]
        floor += min([cost(alone, view, hashes[size]) for _ in range(3)])
    insn = min([cost(lms.verify, key, signed, message) for _ in range(3)])
    say({"insn": insn, "floor": floor, "hashes": sum(hashes.values())})


def paranoid():
    from lifeboat.inspecting import damaged_blocks
    from lifeboat.owner import hashed

    o = Opened()
    o.flash.look = lambda manifest, blocks, bad: [
        i for i in blocks if not hashed(o.flash, i, manifest)
    ]
    say({"insn": cost(damaged_blocks, o.flash, o.manifest)})


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


def phases():
    """Say how many instructions each phase of a power-on takes, and when the application began."""
    import lifeboat.running
    from lifeboat import members, poweron
    from lifeboat.report import Report
    from lifeboat.romfs import mount

    application = lifeboat.running.application * _tick
    board = new_board()
    found = {}

    def counted(owner, name, phase):
        call = getattr(owner, name)
        setattr(owner, name, lambda *args: measured(call, phase, args))
        return owner, name, call

    # What waits is not counted here, either.
    def measured(call, phase, args):
        waited = _quiet.ticks if _quiet else 0
        start = mem32[_MTIME]
        result = call(*args)
        ticks = mem32[_MTIME] - start
        if _quiet:
            ticks -= _quiet.ticks - waited
        found[phase] = found.get(phase, 0) + ticks * _tick
        return result

    changed = [
        counted(board, "start", "bus"),
        counted(board, "disks", "links"),
        counted(poweron, "inspect", "inspection"),
        counted(members, "survey", "survey"),
        counted(Report, "show", "report"),
        counted(Report, "keep", "report"),
    ]
    total = cost(lifeboat.power_on, board)
    for owner, name, call in changed:
        setattr(owner, name, call)
    if lifeboat.report().verdict == "RESCUE":
        raise RuntimeError(lifeboat.report().data)
    found["rest"] = total - sum(found.values())
    import vfs

    vfs.umount("/app")
    found["mount"] = cost(mount, board)
    found["application"] = application
    say(found)


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


def commands():
    """What the driver takes for a command, whatever its length: the mean of a hundred."""
    board = new_board()
    board.start()
    disk = board.disks()[0]
    disk.ioctl(_INIT, 0)
    unit = bytearray(4096)

    def read():
        for _ in range(100):
            disk.readblocks(64, unit)

    read()
    say({"insn": cost(read) / 100})


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
    found = inspect(o.flash, o.trust)
    scratch = Scratch(len(o.buf))

    def heal():
        plan = assess(o.flash, found, o.members, o.trust, scratch)
        act(o.flash, plan, scratch, Report(), o.memory)

    say({"insn": cost(heal)})


def restore_parts():
    """Each part of a restore on its own; the flash is whole again at the end."""
    from lifeboat.recovery import damaged_blocks

    o = Opened()
    buf, driver, member = o.buf, o.driver, o.members[0]
    region, slot = member.region, o.slot

    def read(i):
        region.read(region.block_at(slot, i, len(buf)), buf)

    # Before anything is erased each block is looked for: CRC-32 of what a copy has.
    def look(i):
        read(i)
        o.manifest.crc_matches(i, buf)

    def verify(i):
        o.manifest.right(i, buf)

    def program(i):
        driver.writeblocks(i * o.units, buf, 0)

    found = {}
    for i in o.blocks:
        for name, call in (
            ("look", look),
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
    from lifeboat.blockdev import Scratch
    from lifeboat.creating import create
    from lifeboat.kernels import crc32

    o = Opened()
    buf, flash, member = o.buf, o.flash, o.members[0]
    region = member.region
    free = 1 - o.slot

    def read_flash(i):
        flash.read(i, buf)
        o.manifest.right(i, buf)

    def write(i):
        region.write(region.block_at(free, i, len(buf)), buf)

    def read_back(i):
        region.read(region.block_at(free, i, len(buf)), buf)
        crc32(buf)

    found = {"read flash": o.each(read_flash), "write": o.each(write)}
    found["read back"] = o.each(read_back)

    scratch = Scratch(len(buf))

    def whole():
        for _ in create(flash, o.manifest, member, 2, o.trust, scratch):
            pass

    for name in "free slot", "old slot":
        found[name] = cost(whole)
    say(found)


def parity():
    """Parity made for a copy, and a block made from it."""
    from lifeboat.blockdev import Scratch
    from lifeboat.parity import Parity

    o = Opened()
    copy = [c for c in o.members[0].copies if c.claims(o.manifest)][0]
    its = Parity(copy, o.manifest)
    scratch = Scratch(len(o.buf))

    def make():
        for _ in its.make(o.flash, o.buf):
            pass

    found = {"make": cost(make), "group": len(its.group_of(0))}
    found["rebuild"] = cost(its.rebuild, 0, scratch, o.flash, ())
    assert o.manifest.right(0, scratch.get())
    say(found)
