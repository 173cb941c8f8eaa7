"""QEMU's riscv32 `virt` machine: code flash in pflash1, SATA disks on ich9-ahci, USB disks on
pci-ohci where there is one."""

import machine
from policy import *  # noqa: F403 - which code runs here, and who may use the console

from lifeboat.drivers.ahci import AHCI
from lifeboat.drivers.cfi import CFIFlash

PRODUCT = "lifeboat-qemu-virt"
BLOCK_SIZE = 256 * 1024
REGION_LBAS = ()

_ECAM = 0x30000000
_CLASS_USB = 0x0C03
_AHCI_WORDS = 12 * 1792  # of machine.dma(): room for two controllers with six ports each

_ahci = AHCI(_ECAM, memory=machine.dma()[:_AHCI_WORDS])
_ohci = None
_usb = []
_flash = None


def start():
    _ahci.start()
    _start_usb()


# A machine without USB does without its drivers, which would take up heap. Half of the class word
# is a small number, with which the look costs next to nothing.
def _start_usb():
    global _ohci
    _usb.clear()
    mem16 = machine.mem16
    for register in range(_ECAM + 10, _ECAM + (32 << 15), 1 << 15):
        if mem16[register] == _CLASS_USB:
            break
    else:
        return
    from lifeboat.drivers.ohci import OHCI

    _ohci = _ohci or OHCI(_ECAM, memory=machine.dma()[_AHCI_WORDS:])
    _ohci.start()


# A port has the same disk object until the next start().
def _usb_disks():
    from lifeboat.drivers.usbmsc import USBDisk

    for port in _ohci.ports():
        if not any(disk.name == port.name for disk in _usb):
            _usb.append(USBDisk(port))
    return _usb


# Made on first use: a chip that does not answer is to give a verdict, not a traceback.
def flash():
    global _flash
    if _flash is None:
        _flash = CFIFlash(0x22000000)
    return _flash


def disks():
    found = _ahci.disks()
    return found + _usb_disks() if _ohci else found


# What QEMU's -uuid says, by fw_cfg (docs/specs/fw_cfg of QEMU): the id of this one machine.
def uid():
    machine.mem16[0x10100008] = 0x0200  # item 2, big-endian
    found = bytes([machine.mem8[0x10100000] for _ in range(16)])
    return found if any(found) else b""


def retained():
    return machine.retained()
