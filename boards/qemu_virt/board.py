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


# The watchdog, where QEMU has `-device i6300esb` (Intel 6300ESB, section 16: two stages of about a
# millisecond a count). A new build that is tried is watched for so long.
TRIAL_MS = 600000

_WATCHDOG = 0x25AB8086  # device and vendor
_WATCHDOG_BAR = 0x42000000
_RELOAD = _WATCHDOG_BAR + 0x0C


# Its configuration space, with its registers mapped; None where there is none.
def _find_watchdog():
    mem32 = machine.mem32
    for config in range(_ECAM, _ECAM + (32 << 15), 1 << 15):
        if mem32[config] == _WATCHDOG:
            mem32[config + 0x10] = _WATCHDOG_BAR
            machine.mem16[config + 4] = 2  # memory space
            return config
    return None


# Each write wants the register unlocked anew.
def _unlock():
    machine.mem16[_RELOAD] = 0x80
    machine.mem16[_RELOAD] = 0x86


# Reset the board in so many milliseconds; 0: no more.
def watchdog(ms):
    config = _find_watchdog()
    if config is None:
        return
    machine.mem8[config + 0x68] = 0  # off
    if ms:
        machine.mem16[config + 0x60] = 0  # count milliseconds, then reset
        for stage in 0, 4:
            _unlock()
            machine.mem32[_WATCHDOG_BAR + stage] = min(ms // 2, 0xFFFFF)
        _unlock()
        machine.mem16[_RELOAD] = 0x300  # begin, and forget the last reset
        machine.mem8[config + 0x68] = 2  # on


# Whether it was the watchdog that reset the board.
def barked():
    return _find_watchdog() is not None and bool(machine.mem16[_RELOAD] & 0x200)
