"""What CPython lacks of MicroPython, so that firmware/ runs on it unchanged.

install() adds the modules micropython, machine and uctypes, and time.ticks_*. MMIO goes to the
devices of a test by address (machine.mem32), and addresses of buffers are made up.
"""

import sys
import time
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Mmio:
    """machine.mem32: words by address, each handled by the device attached there."""

    def __init__(self):
        self._devices = []

    def attach(self, base, size, device):
        """Let device.read32(offset) and device.write32(offset, value) serve an address range."""
        self._devices.append((base, size, device))

    def clear(self):
        self._devices.clear()

    def _find(self, address):
        for base, size, device in self._devices:
            if base <= address < base + size:
                return device, address - base
        raise AssertionError("access to unmapped address %#x" % address)

    def __getitem__(self, address):
        device, offset = self._find(address)
        return device.read32(offset)

    def __setitem__(self, address, value):
        device, offset = self._find(address)
        device.write32(offset, value & 0xFFFFFFFF)


def install():
    """Install the stand-ins; harmless when called twice."""
    if "micropython" in sys.modules:
        return
    micropython = types.ModuleType("micropython")
    micropython.const = lambda value: value
    machine = types.ModuleType("machine")
    machine.mem32 = Mmio()
    machine.PWRON_RESET, machine.HARD_RESET, machine.SOFT_RESET = 1, 2, 5
    machine.reset_cause = lambda: machine.PWRON_RESET
    uctypes = types.ModuleType("uctypes")
    sys.modules.update(micropython=micropython, machine=machine, uctypes=uctypes)
    time.ticks_ms = lambda: time.monotonic_ns() // 1000000
    time.ticks_us = lambda: time.monotonic_ns() // 1000
    time.ticks_diff = lambda a, b: a - b
    time.ticks_add = lambda a, b: a + b
    time.sleep_ms = lambda ms: time.sleep(ms / 1000)
    sys.path.insert(0, str(ROOT / "firmware"))
