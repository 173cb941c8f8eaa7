"""The conformance suite on the serial NOR flash driver, over the fake of its bus."""

from conformance.flash import check_flash

from fakes.spinor import Bus, Chip, Select
from lifeboat.drivers import spinor
from lifeboat.drivers.spinor import SPINOR


# A millisecond passes at each look: on a slow machine the fake of the bus takes longer than real
# time allows the chip.
class Clock:
    ms = 0

    def ticks_ms(self):
        self.ms += 1
        return self.ms


spinor.ticks_ms = Clock().ticks_ms

MICRON = (0x70, 0x10, 0x20, 0x02, 0x50)

for chip in (
    Chip(),
    Chip(
        ident=b"\x20\xba\x19",
        opcodes4=False,
        mode4=1,
        outcome=MICRON,
        bp=lambda chip: (0, 0),
    ),
):
    flash = SPINOR(Bus(chip), Select(chip))
    check_flash(flash, flash.ioctl(4, 0) - 3, 2)
    assert not chip.misuse, chip.misuse

# Errors have the same numbers as on CPython.
chip.fault = "wren"
try:
    flash.ioctl(6, 0)
except OSError as e:
    print("errno", e.errno)
