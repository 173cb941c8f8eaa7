"""board.py for an ESP32, an RP2040 or any port with machine.SPI: serial NOR flash for the embedded
code and an SD card, on one SPI bus. Change pins, sizes and PRODUCT; docs/porting.md has the rest.
"""

from machine import SPI, Pin

from lifeboat.drivers.sdspi import SDCard
from lifeboat.drivers.spinor import SPINOR

PRODUCT = "my-controller"
BLOCK_SIZE = 64 * 1024  # an erase block of the flash
UNSIGNED = True  # or KEYS: docs/keys.md
REGION_LBAS = ()

_bus = SPI(0, baudrate=20_000_000, sck=Pin(18), mosi=Pin(19), miso=Pin(16))
_flash = SPINOR(_bus, Pin(17, Pin.OUT, value=1), baudrate=20_000_000)
_card = SDCard(_bus, Pin(13, Pin.OUT, value=1), baudrate=20_000_000, init=False)


def start():
    pass  # nothing has to spin up


def flash():
    return _flash


def disks():
    return [_card]


def retained():
    return None  # or a bytearray that survives resets
