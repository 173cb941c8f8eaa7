"""USB disks behind a model of the MAX3421E that holds the driver to the programming guide."""

import machine
import pytest
from conformance.disk import disk_checks

from cpython_floor import ROOT
from fakes import max3421 as model
from fakes import usbdisk
from fakes.max3421 import Chip
from fakes.rng import Rng
from fakes.usbdisk import UsbDisk, fails
from lifeboat.drivers import max3421, usbmsc
from lifeboat.drivers.max3421 import MAX3421E
from lifeboat.drivers.usbmsc import USBDisk
from lifeboat_host.pico.sdcard import Clock

ONE = Rng("max3421").bytes(512)
REVISIONS = [0x01, 0x12, 0x13]


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    for module in max3421, usbmsc:
        monkeypatch.setattr(module, "ticks_ms", made.ticks_ms)
        monkeypatch.setattr(module, "sleep_ms", made.sleep_ms)
    return made


@pytest.fixture
def connect(clock):
    """connect(...) -> (the driver, initialised; the device; the chip between them)"""

    def connect(revision=0x13, naks=0, **kind):
        device = UsbDisk(**{"sectors": 1 << 20, **kind})
        device.naks = naks
        chip = Chip(clock, device, revision)
        port = MAX3421E(chip.spi, chip.cs)
        port.start()
        disk = USBDisk(port)
        disk.ioctl(1, 0)
        chip.packets.clear()
        return disk, device, chip

    return connect


def works(disk, lba=100):
    data = Rng(lba).bytes(4 * disk.ioctl(5, 0))
    disk.writeblocks(lba, data)
    disk.ioctl(3, 0)
    back = bytearray(len(data))
    disk.readblocks(lba, back)
    return back == data


KINDS = {
    "512": {},
    "beyond-2-TiB": {"sectors": 1 << 33},
    "small-packets": {"packet": 16, "ep0": 8},
    "slow, revision 2": {"naks": 1, "revision": 0x12},
    "revision 1": {"revision": 0x01},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_driver_passes_the_conformance_suite(connect, kind):
    disk, _, _ = connect(**KINDS[kind])
    assert len(list(disk_checks(disk, disk.ioctl(4, 0) - 64, 64, 1 << 14))) > 9


@pytest.mark.parametrize("mode", [(0, 0), (1, 1)])
def test_both_modes_of_the_bus(clock, mode):
    chip = Chip(clock, UsbDisk(1 << 20), polarity=mode[0], phase=mode[1], baudrate=26000000)
    disk = USBDisk(MAX3421E(chip.spi, chip.cs, "bridge"))
    disk.ioctl(1, 0)
    assert works(disk) and disk.name == "bridge"


def test_the_next_packet_is_received_while_one_is_read(connect):
    disk, _, chip = connect()
    disk.readblocks(0, bytearray(4096))
    ins = [packet for packet in chip.packets if packet[:2] == (0, 1)]
    assert len(ins) == 64 + 1 and chip.overlapped > 32


def test_no_packet_is_asked_for_that_need_not_come(connect):
    disk, _, chip = connect()
    disk.readblocks(0, bytearray(512))
    assert [p for p in chip.packets if p[:2] == (0, 1)] == [(0, 1, 0)] * 9


def test_the_example_of_the_page_is_a_board_with_a_disk(clock, monkeypatch):
    chip = Chip(clock, UsbDisk(1 << 20))

    def spi(number, baudrate, **pins):
        assert number == 0 and baudrate <= 26000000 and set(pins) == {"sck", "mosi", "miso"}
        return chip.spi

    def pin(number, *out, value=None):
        return chip.cs

    pin.OUT = 1
    monkeypatch.setattr(machine, "SPI", spi, raising=False)
    monkeypatch.setattr(machine, "Pin", pin, raising=False)
    page = (ROOT / "docs" / "usb.md").read_text()
    board = {}
    exec(page.split("```python\n")[1].split("```")[0], board)
    board["start"]()
    (disk,) = board["disks"]()
    disk.ioctl(1, 0)
    assert works(disk)


# Packets that go wrong.

LOST = [model.CRCERR, model.KERR, model.JERR, model.TIMEOUT, 0x7, 0x9, 0xA]


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize("result", LOST)
def test_a_packet_that_got_lost_is_sent_again(connect, result, revision):
    disk, device, chip = connect(revision)
    for number in range(12):
        chip.results = [None] * number + [result, result]
        assert works(disk, number), number
        assert not chip.results
    assert (0x21, 0xFF, 0, 0) not in device.requests


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_handshake_that_got_lost_doubles_nothing(connect, revision):
    """The device has the packet, and gets it again with the same toggle."""
    disk, _, chip = connect(revision)
    for number in range(12):
        chip.results = [None] * number + [model.SUCCESS + 0x100]
        assert works(disk, number), number


@pytest.mark.parametrize("result", LOST)
def test_three_in_a_row_are_eio_and_the_disk_works_on(connect, result):
    disk, device, chip = connect()
    for number in range(4):
        chip.results = [None] * number + [result] * 3
        assert fails(disk.readblocks, 0, bytearray(512)) == "EIO"
        chip.results = []
        assert works(disk, number)
    assert (0x21, 0xFF, 0, 0) in device.requests


def test_naks_are_no_errors(connect):
    disk, _, _ = connect(naks=9, revision=0x12)
    assert works(disk)


@pytest.mark.parametrize("code, call", [(0x28, "readblocks"), (0x2A, "writeblocks")])
def test_naks_without_end_are_a_timeout(connect, clock, code, call):
    disk, device, chip = connect()
    chip.nak_ns = 10000000
    device.hang.add(code)
    before = clock.ticks_ms()
    assert fails(getattr(disk, call), 0, bytearray(512)) == "ETIMEDOUT"
    assert 5000 <= clock.ticks_ms() - before < 5100
    device.hang.clear()
    assert fails(disk.readblocks, 0, bytearray(512)) == "ENODEV"
    assert disk.ioctl(1, 0) == 0 and works(disk)


def test_stalls_are_cleared(connect):
    disk, device, _ = connect()
    for code, call in ((0x28, disk.readblocks), (0x2A, disk.writeblocks)):
        device.stall.add(code)
        assert fails(call, 0, bytearray(512)) == "EIO"
        device.stall.clear()
        assert works(disk)
    device.bad.add(9)
    assert fails(disk.readblocks, 8, bytearray(1024)) == "EIO" and disk.sense == 0x031100
    assert works(disk)


def test_more_than_was_asked_for_is_eio(connect):
    disk, device, _ = connect()
    once = [1]
    device.csw = lambda right: right + bytes(40) if once and once.pop() else right
    assert fails(disk.readblocks, 0, bytearray(512)) == "EIO"
    assert works(disk)


def test_a_short_transfer_ends_early(connect):
    disk, device, _ = connect()
    for n in (0, 64, 100):
        device.short[0x28] = n
        assert fails(disk.readblocks, 0, bytearray(512)) == "EIO"
        device.short.clear()
        assert works(disk)


# The chip.


def test_a_chip_that_hangs_is_reset(connect):
    disk, _, chip = connect()
    chip.hung = True
    assert fails(disk.readblocks, 0, bytearray(512)) == "ETIMEDOUT"
    chip.hung = False
    assert disk.ioctl(1, 0) == 0 and works(disk)


@pytest.mark.parametrize("level", [0x00, 0xFF, 0xA5])
def test_no_chip_is_no_disk(clock, level):
    chip = Chip(clock)
    chip.absent = level
    port = MAX3421E(chip.spi, chip.cs)
    port.start()
    before = clock.ticks_ms()
    assert fails(USBDisk(port).ioctl, 1, 0) == "ENODEV"
    assert clock.ticks_ms() - before < 200


def test_a_chip_without_a_crystal_is_no_disk(clock):
    chip = Chip(clock, UsbDisk(1 << 20))
    chip.oscillates = False
    assert fails(USBDisk(MAX3421E(chip.spi, chip.cs)).ioctl, 1, 0) == "ENODEV"


def test_an_unknown_revision_is_refused(clock):
    chip = Chip(clock, UsbDisk(1 << 20), revision=0x21)
    assert fails(USBDisk(MAX3421E(chip.spi, chip.cs)).ioctl, 1, 0) == "ENODEV"


def test_no_device_and_a_slow_one_are_no_disks(clock):
    chip = Chip(clock)
    disk = USBDisk(MAX3421E(chip.spi, chip.cs))
    assert fails(disk.ioctl, 1, 0) == "ENODEV"
    chip.insert(UsbDisk(1 << 20))
    chip.low_speed = True
    assert fails(disk.ioctl, 1, 0) == "ENODEV"
    chip.low_speed = False
    assert disk.ioctl(1, 0) == 0 and works(disk)


def test_a_disk_that_is_gone_and_comes_back(connect):
    disk, device, chip = connect()
    disk.writeblocks(3, ONE)
    chip.insert(None)
    assert fails(disk.readblocks, 3, bytearray(512)) == "ENODEV"
    assert fails(disk.ioctl, 1, 0) == "ENODEV"
    device.attention = [usbdisk.WAS_RESET]
    chip.insert(device)
    assert fails(disk.readblocks, 3, bytearray(512)) == "ENODEV"
    assert disk.ioctl(1, 0) == 0
    back = bytearray(512)
    disk.readblocks(3, back)
    assert back == ONE


def test_a_disk_pulled_in_the_middle_of_a_transfer_is_enodev(connect):
    disk, device, chip = connect()
    get = device.get

    def pulled(*args):
        chip.insert(None)
        return get(*args)

    device.get = pulled
    assert fails(disk.readblocks, 3, bytearray(4096)) == "ENODEV"


def test_another_disk_in_its_place_is_refused(connect):
    disk, _, chip = connect()
    chip.insert(UsbDisk(1 << 20, serial="other"))
    assert fails(disk.readblocks, 3, bytearray(512)) == "ENODEV"
    assert fails(disk.ioctl, 1, 0) == "ENODEV"


@pytest.mark.parametrize("at", range(20, 400, 17))
def test_an_interrupted_transfer_leaves_the_bus_free_and_nothing_behind(connect, at):
    disk, _, chip = connect()
    spi, real = chip.spi, chip.spi.readinto
    left = [at]

    def readinto(buf, write=0):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        real(buf, write)

    spi.readinto = readinto
    try:
        disk.readblocks(0, bytearray(4096))
    except KeyboardInterrupt:
        assert not chip._selected
    spi.readinto = real
    disk.ioctl(1, 0)
    assert works(disk)


def test_a_healthy_chip_is_not_begun_anew(connect):
    disk, device, chip = connect()
    resets = device.resets
    disk.ioctl(1, 0)
    assert device.resets == resets and len(chip.packets) < 20 and works(disk)


@pytest.mark.parametrize(("revision", "again"), [(0x12, True), (0x13, False)])
def test_only_older_chips_are_given_the_first_byte_again(connect, monkeypatch, revision, again):
    disk, device, chip = connect(revision)
    sizes = []
    access = MAX3421E._access

    def noted(self, command, out, into=None):
        if command == max3421._SNDFIFO | max3421._WRITE:
            sizes.append(len(out))
        return access(self, command, out, into)

    monkeypatch.setattr(MAX3421E, "_access", noted)
    for number in range(12):
        chip.results = [None] * number + [model.TIMEOUT]
        assert works(disk, number)
    assert (1 in sizes) == again
