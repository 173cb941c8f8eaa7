"""USB disks in MicroPython: behind the plainest host, and behind the model of a MAX3421E."""

from conformance.disk import check_disk

from fakes.max3421 import Chip
from fakes.usbdisk import LoopHost, UsbDisk
from lifeboat.drivers import max3421, usbmsc
from lifeboat.drivers.max3421 import MAX3421E
from lifeboat.drivers.usbmsc import USBDisk
from lifeboat_host.pico.sdcard import Clock

clock = Clock()
for module in max3421, usbmsc:
    module.ticks_ms = clock.ticks_ms
    module.sleep_ms = clock.sleep_ms


def error(name, call, *args):
    try:
        call(*args)
        print("error", name, 0)
    except OSError as e:
        print("error", name, e.errno)


for sectors, size in ((1 << 20, 512), (1 << 33, 512), (1 << 20, 4096)):
    device = UsbDisk(sectors, size=size)
    device.power_cycles = 4711
    disk = USBDisk(LoopHost(device))
    disk.ioctl(1, 0)
    check_disk(disk, sectors - 64, 64, 1 << 16)
    assert (disk.model, disk.serial) == ("LIFEBOATDisk of a test", "A0001")
    assert disk.power_cycles() == 4711

device = UsbDisk(1 << 20)
chip = Chip(clock, device, 0x12)
disk = USBDisk(MAX3421E(chip.spi, chip.cs))
disk.ioctl(1, 0)
check_disk(disk, 1000, 64, 1 << 14)

buf = bytearray(512)
device.bad.add(7)
error("bad", disk.readblocks, 7, buf)
device.phase.add(0x28)
error("phase", disk.readblocks, 0, buf)
device.phase.clear()
device.protected = True
error("protected", disk.writeblocks, 0, buf)
chip.nak_ns = 10000000
device.hang.add(0x28)
error("hang", disk.readblocks, 0, buf)
error("after", disk.readblocks, 0, buf)
device.hang.clear()
error("again", disk.ioctl, 1, 0)
chip.insert(UsbDisk(1 << 20, serial="B"))
error("other", disk.ioctl, 1, 0)
print("done")
