"""The OHCI driver on a controller that holds it to OpenHCI 1.0a, with USB disks behind it."""

from array import array

import machine
import pytest
import uctypes
from conformance.disk import disk_checks

from fakes import ohci as model
from fakes.ohci import Pci
from fakes.rng import Rng
from fakes.usbdisk import WAS_RESET, UsbDisk, fails
from lifeboat import mmio
from lifeboat.drivers import ohci, usbmsc
from lifeboat.drivers.ohci import OHCI
from lifeboat.drivers.usbmsc import USBDisk


@pytest.fixture
def clock(monkeypatch):
    made = model.Clock()
    for module in ohci, usbmsc, mmio:
        for name in ("ticks_ms", "sleep_ms"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, getattr(made, name))
    monkeypatch.setattr(mmio, "_SPINS", 2)
    monkeypatch.setattr(ohci, "_SPINS", 2)
    return made


@pytest.fixture
def pci(clock):
    machine.mem32.clear()
    uctypes.memory.clear()
    ohci._owners.clear()
    yield Pci(machine.mem32, uctypes.memory, clock)
    machine.mem32.clear()
    uctypes.memory.clear()


@pytest.fixture
def connect(pci):
    """connect(...) -> (the driver, initialised; the device; the controller)"""

    def connect(**kind):
        controller = pci.controller(2)
        device = UsbDisk(**{"sectors": 1 << 20, **kind})
        controller.connect(0, device)
        host = OHCI()
        host.start()
        (port,) = host.ports()
        disk = USBDisk(port)
        disk.ioctl(1, 0)
        return disk, device, controller

    return connect


def works(disk, lba=100, shift=0):
    data = Rng(lba).bytes(40 * 512 + 64)
    source = memoryview(bytearray(data))[shift : shift + 40 * 512]
    disk.writeblocks(lba, source)
    disk.ioctl(3, 0)
    back = memoryview(bytearray(len(data)))[shift : shift + 40 * 512]
    disk.readblocks(lba, back)
    return back == source


KINDS = {
    "512": {},
    "4Kn": {"size": 4096},
    "beyond-2-TiB": {"sectors": 1 << 33},
    "small-packets": {"packet": 8, "ep0": 8},
    "odd-endpoints": {"packet": 32, "ep0": 16, "endpoints": (0x8F, 0x0F)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_driver_passes_the_conformance_suite(connect, kind):
    disk, _, _ = connect(**KINDS[kind])
    assert len(list(disk_checks(disk, disk.ioctl(4, 0) - 64, 64, 1 << 17))) > 9


@pytest.mark.parametrize("place", range(0, 4096, 509))
def test_buffers_wherever_they_lie_in_their_pages(connect, place):
    disk, _, _ = connect()
    uctypes.memory.shift = place
    try:
        assert works(disk, shift=0) and works(disk, shift=13)
    finally:
        uctypes.memory.shift = 0


def test_a_transfer_of_more_than_one_list(connect, monkeypatch):
    disk, _, _ = connect()
    monkeypatch.setattr(ohci, "_TD_COUNT", 2)
    assert works(disk)


# Finding ports.


def test_controllers_and_ports_are_found_and_named(pci):
    first, second = pci.controller(1), pci.controller(30, ports=2)
    for controller, port in ((first, 0), (first, 2), (second, 1)):
        controller.connect(port, UsbDisk(1 << 20))
    host = OHCI()
    host.start()
    ports = host.ports()
    assert [port.name for port in ports] == ["usb0", "usb2", "usb1.1"]
    disks = [USBDisk(port) for port in ports]
    for disk in disks:
        disk.ioctl(1, 0)
    assert all(works(disk) for disk in disks)
    assert len({disk._port.address for disk in disks[:2]}) == 2
    assert host.ports() == ports


def test_an_empty_bus_and_empty_ports(pci, clock):
    host = OHCI()
    host.start()
    assert host.ports() == []
    pci.controller(4)
    host.start()
    assert host.ports() == []


def test_a_device_of_low_speed_is_not_for_us(pci):
    controller = pci.controller(4)
    controller.connect(1, UsbDisk(1 << 20))
    controller.slow.add(1)
    host = OHCI()
    host.start()
    assert host.ports() == []


def test_a_controller_that_does_not_come_to_rest_is_left_alone(pci):
    pci.controller(4).deaf = True
    good = pci.controller(5)
    good.connect(0, UsbDisk(1 << 20))
    host = OHCI()
    host.start()
    assert [port.name for port in host.ports()] == ["usb1.0"]


def test_the_address_of_a_firmware_stays(pci):
    controller = pci.controller(4)
    controller.config[0x10] = model.WINDOW + 0x7000
    controller.connect(0, UsbDisk(1 << 20))
    host = OHCI()
    host.start()
    assert len(host.ports()) == 1 and controller.config[0x10] == model.WINDOW + 0x7000


def test_the_memory_handed_in_is_used(pci):
    pci.controller(4).connect(0, UsbDisk(1 << 20))
    memory = array("I", [0xA5A5A5A5] * 256)
    uctypes.memory.align = 1024
    try:
        host = OHCI(memory=memoryview(memory))
        host.start()
        disk = USBDisk(host.ports()[0])
        disk.ioctl(1, 0)
        assert works(disk)
        assert uctypes.addressof(memory) == pci.functions[4, 0].registers[0x18]
    finally:
        uctypes.memory.align = 16


# Transfers that go wrong.

CODES = {"CRC": 1, "bit stuffing": 2, "toggle": 3, "no answer": 5, "PID": 6, "overrun": 8}


@pytest.mark.parametrize("code", CODES)
def test_errors_of_the_bus_are_eio_and_the_disk_works_on(connect, code):
    disk, device, controller = connect()
    for number in range(3):
        controller.codes = [None] * number + [CODES[code]]
        assert fails(disk.readblocks, 0, bytearray(512)) == "EIO"
        assert disk._port.code == CODES[code]
        assert works(disk)


def test_stalls_are_cleared(connect):
    disk, device, _ = connect()
    device.stall.add(0x28)
    assert fails(disk.readblocks, 0, bytearray(512)) == "EIO"
    device.stall.clear()
    device.bad.add(9)
    assert works(disk)
    assert fails(disk.readblocks, 8, bytearray(1024)) == "EIO" and disk.sense == 0x031100
    assert works(disk)


@pytest.mark.parametrize("n", [0, 64, 100, 8192, 8200, 16384])
def test_data_that_ends_early_is_eio_wherever_it_does(connect, n):
    disk, device, _ = connect()
    device.short[0x28] = n
    assert fails(disk.readblocks, 0, bytearray(32768)) == "EIO"
    device.short.clear()
    assert works(disk)


def test_a_hung_device_is_a_timeout_and_nothing_is_moved_afterwards(connect, clock):
    disk, device, controller = connect()
    device.hang.add(0x28)
    before = clock.ticks_ms()
    buf = bytearray(512)
    assert fails(disk.readblocks, 0, buf) == "ETIMEDOUT"
    assert 5000 <= clock.ticks_ms() - before < 5100
    device.hang.clear()
    device.blocks[0] = b"late" * 128
    clock.sleep_ms(100)
    assert buf == bytes(512)
    assert disk.ioctl(1, 0) == 0 and works(disk)


def test_a_controller_that_stands_still_is_a_timeout(connect):
    disk, _, controller = connect()
    controller.stuck = True
    assert fails(disk.readblocks, 0, bytearray(512)) == "ETIMEDOUT"
    controller.stuck = False
    assert disk.ioctl(1, 0) == 0 and works(disk)


def test_an_interrupted_transfer_moves_nothing_afterwards(connect, clock, monkeypatch):
    disk, device, controller = connect()
    buf = bytearray(4096)
    device.blocks[0] = b"late" * 128
    calls = []

    def finish(*_):
        calls.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(ohci.OHCIPort, "_finish", finish)
    with pytest.raises(KeyboardInterrupt):
        disk._port.bulk(0x81, buf, clock.ticks_ms() + 1000)
    monkeypatch.undo()
    clock.sleep_ms(50)
    assert calls and buf == bytes(4096)


# Removal.


def test_a_disk_that_is_gone_and_comes_back(connect):
    disk, device, controller = connect()
    controller.connect(0, None)
    assert fails(disk.readblocks, 0, bytearray(512)) == "ENODEV"
    assert fails(disk.ioctl, 1, 0) == "ENODEV"
    device.attention = [WAS_RESET]
    controller.connect(0, device)
    assert fails(disk.readblocks, 0, bytearray(512)) == "ENODEV"
    assert disk.ioctl(1, 0) == 0 and works(disk)


def test_a_disk_pulled_in_the_middle_of_a_transfer_is_enodev(connect):
    disk, device, controller = connect()
    get = device.get

    def pulled(*args):
        controller.connect(0, None)
        return get(*args)

    device.get = pulled
    assert fails(disk.readblocks, 0, bytearray(8192)) == "ENODEV"


def test_another_disk_in_its_place_is_refused(connect):
    disk, _, controller = connect()
    controller.connect(0, UsbDisk(1 << 20, serial="other"))
    assert fails(disk.readblocks, 0, bytearray(512)) == "ENODEV"
    assert fails(disk.ioctl, 1, 0) == "ENODEV"


# Starting anew.


def test_ports_of_before_a_start_are_gone_and_touch_nothing(pci):
    controller = pci.controller(4)
    controller.connect(0, UsbDisk(1 << 20))
    first, second = OHCI(), OHCI()
    first.start()
    old = USBDisk(first.ports()[0])
    old.ioctl(1, 0)
    second.start()
    before = machine.mem32.accesses
    assert fails(old.readblocks, 0, bytearray(512)) == "ENODEV"
    assert fails(old.ioctl, 1, 0) == "ENODEV"
    assert first.ports() == [] and machine.mem32.accesses == before
    new = USBDisk(second.ports()[0])
    new.ioctl(1, 0)
    assert works(new)


def test_a_start_in_the_middle_of_a_transfer_is_enodev(connect, monkeypatch):
    disk, _, controller = connect()
    finish = ohci.OHCIPort._finish

    def start(self, *args):
        monkeypatch.setattr(ohci.OHCIPort, "_finish", finish)
        OHCI().start()
        return self._finish(*args)

    monkeypatch.setattr(ohci.OHCIPort, "_finish", start)
    assert fails(disk.writeblocks, 0, bytearray(512)) == "ENODEV"


def test_after_deinit_nothing_runs(pci, clock):
    controller = pci.controller(4)
    controller.connect(0, UsbDisk(1 << 20))
    host = OHCI()
    host.start()
    disk = USBDisk(host.ports()[0])
    disk.ioctl(1, 0)
    host.deinit()
    assert not controller.running and host.ports() == []
    assert fails(disk.readblocks, 0, bytearray(512)) == "ENODEV"
