"""ESP32 with 4 MB flash and an SD card on SPI 2 (VSPI). Never run on hardware."""

import esp32
from machine import SPI, Pin

from lifeboat.drivers.portflash import PortFlash
from lifeboat.drivers.sdspi import SDCard

PRODUCT = "lifeboat-esp32_sd"
BLOCK_SIZE = 16 * 1024  # small: the heap of 100 KB has to hold one
UNSIGNED = True
REGION_LBAS = ()

_flash = None
_card = None


# An SD card needs no time to spin up.
def start():
    pass


# The partition of this name in partitions.csv; no other can be reached through it.
def flash():
    global _flash
    if _flash is None:
        _flash = PortFlash(esp32.Partition("lifeboat"))
    return _flash


def disks():
    global _card
    if _card is None:
        spi = SPI(2, sck=Pin(18), mosi=Pin(23), miso=Pin(19))
        _card = SDCard(spi, Pin(5, Pin.OUT, value=1), baudrate=10_000_000, init=False)
    return [_card]


# RTC memory is only to be had as a copy, not in place: each soft reset inspects again.
def retained():
    return None
