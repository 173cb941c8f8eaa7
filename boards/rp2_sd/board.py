"""Raspberry Pi Pico (RP2040, 2 MB flash) with an SD card on SPI 0. Never run on hardware."""

import rp2
from machine import SPI, Pin
from micropython import const

from lifeboat.drivers.portflash import PortFlash
from lifeboat.drivers.sdspi import SDCard

PRODUCT = "lifeboat-rp2_sd"
BLOCK_SIZE = 16 * 1024  # small: the heap of 190 KB has to hold one
UNSIGNED = True
REGION_LBAS = ()

# Bytes for embedded code, from where the port's storage area begins. rp2.Flash can not reach the
# firmware below it.
_CODE = const(1024 * 1024)

_flash = None
_card = None


# An SD card needs no time to spin up.
def start():
    pass


def flash():
    global _flash
    if _flash is None:
        _flash = PortFlash(rp2.Flash(start=0, len=_CODE), page=256)
    return _flash


def disks():
    global _card
    if _card is None:
        spi = SPI(0, sck=Pin(18), mosi=Pin(19), miso=Pin(16))
        _card = SDCard(spi, Pin(17, Pin.OUT, value=1), baudrate=10_000_000, init=False)
    return [_card]


# No memory survives a soft reset for certain: each one inspects again.
def retained():
    return None
