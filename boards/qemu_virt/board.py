"""QEMU's riscv32 `virt` machine: code flash in pflash1, SATA disks on ich9-ahci."""

import machine

from lifeboat.drivers.ahci import AHCI
from lifeboat.drivers.cfi import CFIFlash

PRODUCT = "lifeboat-qemu-virt"
BLOCK_SIZE = 256 * 1024
UNSIGNED = True
REGION_LBAS = ()

_ahci = AHCI()
_flash = None


def start():
    _ahci.start()


# Made on first use: a chip that does not answer is to give a verdict, not a traceback.
def flash():
    global _flash
    if _flash is None:
        _flash = CFIFlash(0x22000000)
    return _flash


def disks():
    return _ahci.disks()


def retained():
    return machine.retained()
