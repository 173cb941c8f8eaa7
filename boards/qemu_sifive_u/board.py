"""QEMU's riscv32 `sifive_u` machine: code flash is an SPI NOR on QSPI0, the disk an SD card on
QSPI2."""

import machine
from policy import *  # noqa: F403 - which code runs here, and who may use the console

from lifeboat.drivers.sdspi import SDCard
from lifeboat.drivers.sifive_spi import CS, SPI
from lifeboat.drivers.spinor import SPINOR

PRODUCT = "lifeboat-qemu-sifive_u"
BLOCK_SIZE = 64 * 1024
REGION_LBAS = ()

_QSPI0 = 0x10040000
_QSPI2 = 0x10050000

_flash = None
_card = None


# An SD card needs no time to spin up.
def start():
    pass


# Made on first use: a chip that does not answer is to give a verdict, not a traceback.
def flash():
    global _flash
    if _flash is None:
        _flash = SPINOR(SPI(_QSPI0, baudrate=50_000_000), CS(_QSPI0))
    return _flash


def disks():
    global _card
    if _card is None:
        _card = SDCard(SPI(_QSPI2), CS(_QSPI2), init=False)
    return [_card]


def retained():
    return machine.retained()
