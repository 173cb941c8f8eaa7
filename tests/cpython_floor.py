"""What CPython lacks of MicroPython, so that firmware/ runs on it unchanged.

LIFEBOAT_FIRMWARE names another folder in its place, for mutants of it.

install() adds the modules micropython, machine and uctypes, and time.ticks_*. MMIO goes to the
devices of a test by address (machine.mem32); addresses of buffers are made up (uctypes), and
devices find the buffers behind them (Memory.at).
"""

import ctypes
import os
import sys
import time
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Mmio:
    """machine.mem32: words by address, each handled by the device attached there."""

    def __init__(self):
        self._devices = []
        self.accesses = 0

    def attach(self, base, size, device):
        """Let device.read32(offset) and device.write32(offset, value) serve an address range.

        A device that can be read as memory also has memory(offset, length) -> memoryview.
        """
        self._devices.append((base, size, device))

    def clear(self):
        self._devices.clear()

    def find(self, address):
        """The device at an address, and the offset in it."""
        for base, size, device in self._devices:
            if base <= address < base + size:
                return device, address - base
        raise AssertionError("access to unmapped address %#x" % address)

    def __getitem__(self, address):
        self.accesses += 1
        device, offset = self.find(address)
        return device.read32(offset)

    def __setitem__(self, address, value):
        self.accesses += 1
        device, offset = self.find(address)
        device.write32(offset, value & 0xFFFFFFFF)


class _PyBuffer(ctypes.Structure):
    """Py_buffer up to its second field: where the bytes of an object are."""

    _fields_ = [("buf", ctypes.c_void_p), ("obj", ctypes.c_void_p), ("rest", ctypes.c_char * 80)]


def _place(buf):
    raw = _PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(buf), ctypes.byref(raw), 0)
    place = raw.buf
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(raw))
    return place or 0


class Memory:
    """Addresses for buffers, as 32-bit RAM would have them.

    Every object gets a range of its own at its first addressof(), with a gap around it, and keeps
    it until clear(). Objects begin at multiples of `align`, plus `shift`.
    """

    def __init__(self, mmio):
        self._mmio = mmio
        self.align, self.shift = 16, 0
        self.clear()

    def clear(self):
        self._ranges = {}  # id of an object -> (address, memoryview of it)
        self._next = 0x80000000

    def addressof(self, buf):
        view = memoryview(buf)
        root = view.obj
        if id(root) not in self._ranges:
            address = self._next + -self._next % self.align + self.shift
            whole = memoryview(root).cast("B")  # keeps the object, and its id, alive
            self._ranges[id(root)] = address, whole
            self._next = address + len(whole) + 64
        return self._ranges[id(root)][0] + _place(view) - _place(root)

    def at(self, address, length):
        """The memory of a range, which must lie within one object."""
        for start, whole in self._ranges.values():
            if start <= address and address + length <= start + len(whole):
                return whole[address - start : address - start + length]
        raise AssertionError("no buffer has the %d bytes at %#x" % (length, address))

    def bytearray_at(self, address, length):
        if address >= 0x80000000:
            return self.at(address, length)
        device, offset = self._mmio.find(address)
        return device.memory(offset, length)


class Clock:
    """Time that passes only by register accesses, `us_per_access` each, and by sleeping."""

    def __init__(self, mmio, us_per_access):
        self._mmio = mmio
        self._us_per_access = us_per_access
        self._start = mmio.accesses
        self._slept = 0

    @property
    def us(self):
        return self._slept + (self._mmio.accesses - self._start) * self._us_per_access

    def ticks_ms(self):
        return self.us // 1000

    def sleep_ms(self, ms):
        self._slept += ms * 1000

    def rule(self, monkeypatch, *modules):
        """Make it the clock of these modules of the firmware, until the test ends."""
        for module in modules:
            for name in ("ticks_ms", "sleep_ms"):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, getattr(self, name))


def install():
    """Install the stand-ins; harmless when called twice."""
    if "micropython" in sys.modules:
        return
    micropython = types.ModuleType("micropython")
    micropython.const = lambda value: value
    micropython.schedule = lambda function, argument: function(argument)
    machine = types.ModuleType("machine")
    machine.mem32 = Mmio()
    machine.PWRON_RESET, machine.HARD_RESET, machine.SOFT_RESET = 1, 2, 5
    machine.reset_cause = lambda: machine.PWRON_RESET
    uctypes = types.ModuleType("uctypes")
    uctypes.memory = Memory(machine.mem32)
    uctypes.addressof = uctypes.memory.addressof
    uctypes.bytearray_at = uctypes.memory.bytearray_at
    sys.modules.update(micropython=micropython, machine=machine, uctypes=uctypes)
    time.ticks_ms = lambda: time.monotonic_ns() // 1000000
    time.ticks_us = lambda: time.monotonic_ns() // 1000
    time.ticks_diff = lambda a, b: a - b
    time.ticks_add = lambda a, b: a + b
    time.sleep_ms = lambda ms: time.sleep(ms / 1000)
    sys.path.insert(0, os.environ.get("LIFEBOAT_FIRMWARE", str(ROOT / "firmware")))
