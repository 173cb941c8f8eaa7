"""An emulated Pico with the model of a MAX3421E on SPI 1, and a USB disk behind it. The options
are those of lifeboat_host.pico.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fakes.max3421 import Chip  # noqa: E402
from fakes.usbdisk import UsbDisk  # noqa: E402
from lifeboat_host.pico import machine  # noqa: E402


class EmulatedTime:
    """The chip's time is the emulator's, in which the bits on the bus take theirs already."""

    def __init__(self, mcu):
        self._mcu = mcu

    @property
    def ns(self):
        return int(self._mcu.clock.nanos)

    @ns.setter
    def ns(self, value):
        pass


_SPI, _CS = 1, 13


def chip(firmware):
    """What machine._chip() makes, with the chip wired to it."""
    device = made(firmware)
    mcu = device.mcu
    disk = UsbDisk(1 << 20)
    disk.power_cycles = 4711
    model = Chip(EmulatedTime(mcu), disk)
    spi, low = mcu.spi[_SPI], machine._low()
    selected = False

    def transmit(value):
        spi.complete_transmit(model.byte(value) if selected else 0xFF)

    def chip_select(new, old):
        nonlocal selected
        if selected != (new == low):
            selected = new == low
            model.cs(0 if selected else 1)

    spi.on_transmit = transmit
    mcu.gpio[_CS].add_listener(chip_select)
    return device


made, machine._chip = machine._chip, chip
sys.exit(machine.main())
