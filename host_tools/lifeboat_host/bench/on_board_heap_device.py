# mypy: ignore-errors
"""The part of the bench's half on the board that any board can run: how little heap a power-on
needs. It is typed into the raw REPL. Functions print what they found as one line of JSON.
"""

import gc
import json
import sys

from machine import mem32
from micropython import const

_GHC = const(0x40000004)  # of the AHCI controller, where the board's driver puts it
_HBA_RESET = const(0x80000001)


def say(value):
    print(json.dumps(value))


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
    import lifeboat.running

    board = new_board()
    for block in erased:
        eraser(board)(block)
    board = new_board()
    lifeboat.running.report = None
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
