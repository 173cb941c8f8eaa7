"""USB disks over a device that holds the driver to Bulk-Only and SCSI, one fault at a time."""

import errno
import struct

import pytest
from conformance.disk import disk_checks

from fakes import usbdisk
from fakes.rng import Rng
from fakes.usbdisk import LoopHost, UsbDisk, fails
from lifeboat.drivers import usbmsc
from lifeboat.drivers.usbmsc import USBDisk
from lifeboat_host.pico.sdcard import Clock

EROFS = 30
TIB = 1 << 40
ONE = Rng("usb").bytes(512)

KINDS = {
    "512": {},
    "4Kn": {"size": 4096},
    "last-of-10": {"sectors": (1 << 32) - 1},
    "full-32-bit": {"sectors": 1 << 32},
    "beyond-2-TiB": {"sectors": 8 * TIB // 512},
    "4Kn-beyond-16-TiB": {"sectors": 32 * TIB // 4096, "size": 4096},
    "small-packets": {"packet": 8, "ep0": 8},
    "odd-endpoints": {"packet": 32, "ep0": 16, "endpoints": (0x8F, 0x0F)},
}


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(usbmsc, "ticks_ms", made.ticks_ms)
    monkeypatch.setattr(usbmsc, "sleep_ms", made.sleep_ms)
    return made


def connect(sectors=1 << 20, **kind):
    """(the driver, initialised; the device; the host between them)"""
    device = UsbDisk(sectors, **kind)
    host = LoopHost(device)
    disk = USBDisk(host)
    disk.ioctl(1, 0)
    device.commands.clear()
    device.requests.clear()
    return disk, device, host


def works(disk, lba=100):
    data = Rng(lba).bytes(disk.ioctl(5, 0))
    disk.writeblocks(lba, data)
    disk.ioctl(3, 0)
    back = bytearray(len(data))
    disk.readblocks(lba, back)
    return back == data


def out_of_use(disk):
    return {
        fails(disk.readblocks, 0, bytearray(4096)),
        fails(disk.writeblocks, 0, bytearray(4096)),
        fails(disk.ioctl, 3, 0),
        fails(disk.ioctl, 4, 0),
        fails(disk.power_cycles),
    } == {"ENODEV"}


def opcodes(device):
    return [block[0] for block in device.commands]


# Disks that behave.


@pytest.mark.parametrize("kind", KINDS)
def test_the_driver_passes_the_conformance_suite(kind):
    disk, _, _ = connect(**KINDS[kind])
    assert len(list(disk_checks(disk, disk.ioctl(4, 0) - 64, 64, 1 << 18))) > 9


def test_sectors_of_a_size_that_no_region_can_have_are_still_an_application_s():
    disk, _, _ = connect(size=2048)
    assert disk.ioctl(5, 0) == 2048 and works(disk)


@pytest.mark.parametrize("naks", [1, 7])
def test_a_device_may_ask_for_patience(naks):
    device = UsbDisk(1 << 16)
    device.naks = naks
    disk = USBDisk(LoopHost(device))
    disk.ioctl(1, 0)
    assert works(disk)


def test_a_disk_says_who_it_is():
    disk, _, _ = connect(serial="WD-1234")
    assert (disk.name, disk.model, disk.serial) == ("usb0", "LIFEBOATDisk of a test", "WD-1234")
    assert USBDisk(LoopHost(), "stick").name == "stick"


def test_a_disk_without_a_serial_number_is_one_too():
    disk, _, _ = connect(serial="")
    assert disk.serial == "" and works(disk)


def test_commands_are_chosen_by_size():
    for sectors, codes in ((1 << 20, [0x2A, 0x28]), ((1 << 32) + 5, [0x8A, 0x88])):
        disk, device, _ = connect(sectors)
        disk.writeblocks(sectors - 1, ONE)
        disk.readblocks(sectors - 1, bytearray(512))
        assert opcodes(device) == codes
        assert device.blocks == {sectors - 1: ONE}


def test_large_transfers_are_cut_to_what_bridges_know():
    disk, device, _ = connect()
    disk.readblocks(0, bytearray(300 * 1024))
    counts = [struct.unpack(">H", block[7:9])[0] for block in device.commands]
    assert counts == [240, 240, 120] and disk.reads == 3


def test_the_flush_is_synchronize_cache():
    disk, device, _ = connect()
    assert disk.ioctl(3, 0) == 0
    assert opcodes(device) == [0x35] and disk.flushes == 1


def test_a_disk_that_knows_no_flush_has_no_cache():
    disk, device, _ = connect()
    device.flushes = False
    assert disk.ioctl(3, 0) == 0 and works(disk)


def test_a_flush_that_fails_is_an_error():
    disk, device, _ = connect()
    device.refuse[0x35] = usbdisk.WRITE_ERROR
    assert fails(disk.ioctl, 3, 0) == "EIO" and disk.sense == 0x030C00
    device.refuse.clear()
    assert works(disk)


def test_a_healthy_disk_is_not_initialised_twice():
    disk, device, _ = connect()
    before = device.resets
    assert disk.ioctl(1, 0) == 0
    assert (device.resets, device.commands) == (before, [])


def test_nothing_is_sent_for_what_lies_outside():
    disk, device, _ = connect()
    assert fails(disk.readblocks, (1 << 20) - 1, bytearray(1024)) == "EINVAL"
    assert fails(disk.writeblocks, -1, ONE) == "EINVAL"
    assert not device.commands


def test_an_object_without_ioctl_1_touches_nothing():
    device = UsbDisk(1 << 20)
    disk = USBDisk(LoopHost(device))
    assert out_of_use(disk) and not device.requests and device.resets == 1


# SMART.


def test_power_cycles_are_told_where_the_bridge_passes_the_question_on():
    disk, device, _ = connect()
    device.power_cycles = 4711
    assert [disk.power_cycles(), disk.power_cycles()] == [4711, 4711]


def test_a_bridge_without_ata_commands_is_asked_once():
    disk, device, _ = connect()
    assert [disk.power_cycles(), disk.power_cycles()] == [0, 0]
    assert opcodes(device).count(0x85) == 1 and works(disk)


def test_a_bridge_that_hangs_at_ata_commands_is_brought_back():
    disk, device, _ = connect()
    device.power_cycles = 3
    device.hang.add(0x85)
    assert disk.power_cycles() == 0 and works(disk)
    assert disk.power_cycles() == 0 and opcodes(device).count(0x85) == 1


# Write protection.


def test_a_protected_disk_is_read_and_not_written():
    device = UsbDisk(1 << 20)
    device.protected = True
    disk = USBDisk(LoopHost(device))
    disk.ioctl(1, 0)
    device.commands.clear()
    assert fails(disk.writeblocks, 0, ONE) == "EROFS" and not device.commands
    disk.readblocks(0, bytearray(512))


def test_protection_that_comes_later_or_untold_is_erofs():
    disk, device, _ = connect()
    device.protected = True
    assert fails(disk.writeblocks, 0, ONE) == "EROFS" and disk.sense == 0x072700
    disk.readblocks(0, bytearray(512))


def test_a_disk_without_mode_pages_counts_as_writable():
    device = UsbDisk(1 << 20)
    device.mode_sense = False
    disk = USBDisk(LoopHost(device))
    disk.ioctl(1, 0)
    assert works(disk)


# Errors of the disk.


def test_a_bad_sector_is_eio_and_the_disk_works_on():
    disk, device, _ = connect()
    device.bad.add(7)
    assert fails(disk.readblocks, 0, bytearray(8 * 512)) == "EIO"
    assert disk.sense == 0x031100
    disk.readblocks(8, bytearray(512))
    assert works(disk)


@pytest.mark.parametrize("sense", [0x020401, 0x040000, 0x0B4700, 0x010000])
def test_other_sense_is_eio(sense):
    disk, device, _ = connect()
    device.refuse[0x28] = sense
    assert fails(disk.readblocks, 0, bytearray(512)) == "EIO"
    assert disk.sense == sense
    device.refuse.clear()
    assert works(disk)


# The transport.


def test_a_stalled_data_stage_is_cleared():
    disk, device, _ = connect()
    for code, call in ((0x28, disk.readblocks), (0x2A, disk.writeblocks)):
        device.stall.add(code)
        assert fails(call, 0, bytearray(512)) == "EIO"
        device.stall.clear()
        assert works(disk)
    assert (2, 1, 0, 0x81) in device.requests and (2, 1, 0, 0x02) in device.requests
    assert (0x21, 0xFF, 0, 0) not in device.requests


def test_a_status_that_stalls_once_is_asked_for_again():
    disk, device, _ = connect()
    device.stall_csw = 1
    assert works(disk)
    assert (0x21, 0xFF, 0, 0) not in device.requests


RECOVERED = {
    "the status stalls twice": lambda d: setattr(d, "stall_csw", 2),
    "the command stalls": lambda d: setattr(d, "stall_cbw", 1),
}


@pytest.mark.parametrize("fault", RECOVERED)
def test_what_needs_it_is_recovered_by_a_reset(fault):
    disk, device, _ = connect()
    RECOVERED[fault](device)
    assert fails(disk.readblocks, 0, bytearray(512)) == "EIO" and disk.sense == 0
    assert device.requests[-3:] == [(0x21, 0xFF, 0, 0), (2, 1, 0, 0x81), (2, 1, 0, 0x02)]
    assert works(disk)


def test_a_phase_error_is_recovered_by_a_reset():
    disk, device, _ = connect()
    device.phase.add(0x28)
    assert fails(disk.readblocks, 0, bytearray(512)) == "EIO"
    device.phase.clear()
    assert (0x21, 0xFF, 0, 0) in device.requests and works(disk)


STATUS = {
    "another signature": lambda right: b"USBC" + right[4:],
    "another tag": lambda right: right[:4] + b"\xff" + right[5:],
    "short": lambda right: right[:12],
    "empty": lambda right: b"",
    "a residue beyond the data": lambda right: right[:8] + b"\xff\xff\xff\xff" + right[12:],
    "a status out of range": lambda right: right[:12] + b"\x03",
}


@pytest.mark.parametrize("fault", STATUS)
def test_a_status_that_is_none_is_eio(fault):
    disk, device, _ = connect()
    once = [STATUS[fault]]
    device.csw = lambda right: once.pop()(right) if once else right
    assert fails(disk.readblocks, 0, bytearray(512)) == "EIO"
    assert works(disk)


def test_a_status_of_too_many_bytes_is_eio():
    disk, device, _ = connect()
    once = [1]
    device.csw = lambda right: right + b"more" if once and once.pop() else right
    assert fails(disk.readblocks, 0, bytearray(512)) == "EIO"
    assert works(disk)


@pytest.mark.parametrize("lie", [False, True])
@pytest.mark.parametrize("n", [0, 64, 100, 448])
def test_data_that_ends_early_is_eio(n, lie):
    disk, device, _ = connect()
    device.short[0x28] = n
    device.lie = lie
    assert fails(disk.readblocks, 0, bytearray(512)) == "EIO"
    device.short.clear()
    assert works(disk)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_errors_of_the_bus_are_recovered_from(number):
    disk, device, host = connect()
    host.errors.add(host.bulks + number)
    assert fails(disk.writeblocks, 0, ONE) == "EIO"
    assert works(disk)


def test_a_dead_device_is_out_of_use():
    disk, device, _ = connect()
    device.dead = True
    assert fails(disk.readblocks, 0, bytearray(512)) == "EIO"
    assert out_of_use(disk)
    device.dead = False
    assert disk.ioctl(1, 0) == 0 and works(disk)


@pytest.mark.parametrize("code", [0x28, 0x2A, 0x35])
def test_a_device_that_hangs_is_out_of_use_until_it_is_initialised(code):
    disk, device, _ = connect()
    call = {0x28: disk.readblocks, 0x2A: disk.writeblocks, 0x35: disk.ioctl}[code]
    device.hang.add(code)
    assert fails(call, 3, 0 if code == 0x35 else bytearray(512)) == "ETIMEDOUT"
    assert out_of_use(disk)
    device.hang.clear()
    assert disk.ioctl(1, 0) == 0 and works(disk)


# Getting ready.


def initialise(device):
    disk = USBDisk(LoopHost(device))
    disk.ioctl(1, 0)
    return disk


def test_unit_attentions_at_power_on_are_taken_note_of():
    device = UsbDisk(1 << 20)
    device.attention = [usbdisk.WAS_RESET, usbdisk.CHANGED, 0x062A01, 0x063F0E]
    assert works(initialise(device))


def test_attentions_without_end_are_not_followed():
    device = UsbDisk(1 << 20)
    device.attention = [usbdisk.WAS_RESET] * 99
    assert fails(initialise, device) == "ENODEV"


@pytest.mark.parametrize("sense", [usbdisk.BECOMING_READY, usbdisk.NEEDS_START])
def test_a_disk_that_spins_up_is_waited_for(sense):
    device = UsbDisk(1 << 20)
    device.attention = [sense] * 20
    assert works(initialise(device))
    assert (0x1B in opcodes(device)) is (sense == usbdisk.NEEDS_START)


def test_a_disk_that_never_spins_up_is_given_up(clock):
    device = UsbDisk(1 << 20)
    device.refuse[0] = usbdisk.BECOMING_READY
    assert fails(initialise, device) == "ETIMEDOUT"
    assert 10000 <= clock.ticks_ms() < 12000


@pytest.mark.parametrize("sense", [usbdisk.NO_MEDIUM, 0x044400])
def test_a_reader_without_a_card_and_a_broken_disk_are_none(sense):
    device = UsbDisk(1 << 20)
    device.refuse[0] = sense
    assert fails(initialise, device) == "ENODEV"


def test_an_empty_port_is_no_disk():
    disk = USBDisk(LoopHost())
    assert fails(disk.ioctl, 1, 0) == "ENODEV"


# Descriptors are not trusted.

DEVICE = struct.pack("<BBHBBBBHHHBBBB", 18, 1, 0x200, 0, 0, 0, 64, 1, 2, 3, 0, 0, 0, 1)
OURS = bytes.fromhex("090400000208065000") + bytes.fromhex("07058102400000 07050202400000")
OTHER = bytes.fromhex("090401000203010100")


def config(body, total=None):
    return struct.pack("<BBHBBBBB", 9, 2, total or 9 + len(body), 1, 1, 0, 0x80, 50) + body


REFUSED = {
    "no bytes": {"device": b""},
    "half a descriptor": {"device": DEVICE[:9]},
    "another descriptor": {"device": b"\x12\x02" + DEVICE[2:]},
    "packets of 7 bytes": {"device": DEVICE[:7] + b"\x07" + DEVICE[8:]},
    "no configuration": {"config": b""},
    "an empty one": {"config": config(b"")},
    "one of strings": {"config": b"\x09\x03" + config(OURS)[2:]},
    "no mass storage": {"config": config(OURS.replace(b"\x08\x06\x50", b"\x03\x01\x01"))},
    "UAS only": {"config": config(OURS.replace(b"\x08\x06\x50", b"\x08\x06\x62"))},
    "one endpoint": {"config": config(OURS[:16])},
    "endpoints of another interface": {"config": config(OURS[:9] + OTHER + OURS[9:])},
    "an alternate setting": {"config": config(OURS[:3] + b"\x01" + OURS[4:])},
    "interrupt endpoints": {"config": config(OURS.replace(b"\x02\x40", b"\x03\x40"))},
    "packets of 512 bytes": {"config": config(OURS.replace(b"\x40\0", b"\0\x02"))},
    "a length of zero": {"config": config(b"\0" + OURS)},
    "a length beyond the end": {"config": config(b"\xff\x24" + OURS)},
    "endpoint 0": {"config": config(OURS.replace(b"\x81", b"\x80"))},
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_a_device_that_is_no_disk_is_refused(fault):
    device = UsbDisk(1 << 20)
    vars(device).update(REFUSED[fault])
    assert fails(initialise, device) == "ENODEV"


def test_other_descriptors_are_passed_over():
    device = UsbDisk(1 << 20)
    device.before = bytes.fromhex(
        "0904000001030101000721000101 0000 0705830308000a".replace(" ", "")
    )
    device.interface = 1
    device.after = bytes.fromhex("09040101040806620007058302400000")
    assert works(initialise(device))


@pytest.mark.parametrize("seed", range(100))
def test_no_descriptor_brings_the_driver_down(seed):
    """It finds a disk or it doesn't; endpoints that aren't there say nothing."""
    rng = Rng(seed)
    device = UsbDisk(1 << 20)
    whole = bytearray(config(OURS))
    for _ in range(1 + rng.below(4)):
        whole[rng.below(len(whole))] = rng.below(256)
    device.config = bytes(whole)
    device.strict = False
    disk = USBDisk(LoopHost(device))
    try:
        disk.ioctl(1, 0)
    except OSError as error:
        assert error.args[0] in (errno.ENODEV, errno.EIO, errno.ETIMEDOUT)
        assert out_of_use(disk)
    else:
        assert works(disk)


@pytest.mark.parametrize(
    "sectors, size", [(1 << 20, 520), (1 << 20, 0), (1 << 20, 8192), (1 << 62, 512)]
)
def test_capacities_that_cannot_be_are_refused(sectors, size):
    assert fails(initialise, UsbDisk(sectors, size=size)) == "ENODEV"


@pytest.mark.parametrize("kind", [5, 0x0D, 0x1F, 0x60])
def test_what_is_no_disk_is_refused(kind):
    device = UsbDisk(1 << 20)
    device.kind = kind
    assert fails(initialise, device) == "ENODEV"


@pytest.mark.parametrize("code", [0x12, 0x25])
def test_half_an_answer_is_refused(code):
    device = UsbDisk(1 << 20)
    device.short[code] = 7
    assert fails(initialise, device) == "ENODEV"


# Removal.


def test_a_disk_that_is_gone_is_enodev_and_the_same_one_comes_back():
    disk, device, host = connect()
    disk.writeblocks(3, ONE)
    host.insert(None)
    assert fails(disk.readblocks, 3, bytearray(512)) == "ENODEV"
    assert out_of_use(disk) and fails(disk.ioctl, 1, 0) == "ENODEV"
    host.insert(device)
    device.attention = [usbdisk.WAS_RESET]
    assert out_of_use(disk)
    assert disk.ioctl(1, 0) == 0
    back = bytearray(512)
    disk.readblocks(3, back)
    assert back == ONE


def test_a_disk_pulled_and_put_back_between_two_commands_is_noticed():
    disk, device, host = connect()
    host.insert(device)
    assert fails(disk.writeblocks, 3, ONE) == "ENODEV" and not device.blocks


@pytest.mark.parametrize("other", [{"serial": "B0002"}, {"sectors": 999}, {"size": 4096}])
def test_another_disk_is_refused_until_the_first_is_forgotten(other):
    disk, _, host = connect()
    device = UsbDisk(**{"sectors": 1 << 20, **other})
    host.insert(device)
    assert fails(disk.readblocks, 0, bytearray(4096)) == "ENODEV"
    for _ in range(2):
        assert fails(disk.ioctl, 1, 0) == "ENODEV"
        assert out_of_use(disk)
    assert not device.blocks
    assert disk.ioctl(2, 0) == 0 and disk.ioctl(1, 0) == 0 and works(disk)


@pytest.mark.parametrize("sense", [usbdisk.WAS_RESET, usbdisk.CHANGED])
def test_a_disk_that_lost_power_or_its_medium_is_enodev(sense):
    disk, device, _ = connect()
    device.attention = [sense]
    assert fails(disk.writeblocks, 0, ONE) == "ENODEV" and disk.sense == sense
    assert out_of_use(disk) and not device.blocks
    assert disk.ioctl(1, 0) == 0 and works(disk)


def test_a_medium_that_changes_during_recovery_is_enodev():
    disk, device, host = connect()
    host.errors.add(host.bulks + 2)
    device.attention_after_reset = [usbdisk.WAS_RESET, usbdisk.CHANGED]
    assert fails(disk.readblocks, 0, bytearray(512)) == "ENODEV"
    assert out_of_use(disk)
    assert disk.ioctl(1, 0) == 0 and works(disk)


def test_a_reset_by_the_recovery_itself_is_no_news():
    disk, device, host = connect()
    host.errors.add(host.bulks + 2)
    device.attention_after_reset = [usbdisk.WAS_RESET]
    assert fails(disk.readblocks, 0, bytearray(512)) == "EIO"
    assert works(disk)


def test_an_interrupted_command_leaves_the_disk_out_of_use():
    disk, device, host = connect()

    def interrupted(*_):
        raise KeyboardInterrupt

    bulk, host.bulk = host.bulk, interrupted
    with pytest.raises(KeyboardInterrupt):
        disk.readblocks(0, bytearray(512))
    host.bulk = bulk
    assert out_of_use(disk)
    assert disk.ioctl(1, 0) == 0 and works(disk)
