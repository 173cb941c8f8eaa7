"""The AHCI driver on a controller that holds it to AHCI 1.3.1, register by register."""

import errno
import zlib

import machine
import pytest
import uctypes
from conformance.disk import disk_checks

from cpython_floor import Clock
from fakes import ahci as model
from fakes.ahci import BSY, DF, DRDY, DRQ, ERR, UNC, Disk, Outcome
from fakes.rng import Rng
from lifeboat import mmio
from lifeboat.drivers import ahci, ahci_plain
from lifeboat.drivers.ahci import AHCI

US_PER_ACCESS = 50
FATAL = {"TFES": model.TFES, "HBFS": model.HBFS, "HBDS": model.HBDS, "IFS": model.IFS}
NON_FATAL = {"INFS": model.INFS, "OFS": model.OFS}
HANG = Outcome(ms=None)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock(machine.mem32, US_PER_ACCESS)
    clock.rule(monkeypatch, ahci, mmio)
    return clock


@pytest.fixture
def pci(clock):
    machine.mem32.clear()
    uctypes.memory.clear()
    yield model.Pci(machine.mem32, uctypes.memory, clock)
    machine.mem32.clear()
    uctypes.memory.clear()


@pytest.fixture
def connect(pci):
    """connect(disk) -> (its driver, the port) on the first port of a controller."""

    def connect(disk=None):
        port = pci.controller().connect(0, disk or Disk())
        hba = AHCI()
        hba.start()
        (device,) = hba.disks()
        return device, port

    return connect


@pytest.fixture
def ready(connect):
    """As connect, with the disk initialised and its commands so far forgotten."""

    def ready(disk=None):
        device, port = connect(disk)
        device.ioctl(1, 0)
        port.commands.clear()
        return device, port

    return ready


def refuses(error, call, *args):
    with pytest.raises(OSError) as caught:
        call(*args)
    assert errno.errorcode[caught.value.args[0]] == errno.errorcode[error]


def works(device, lba=100):
    """The disk takes a sector and gives it back."""
    data = Rng(lba).bytes(device.ioctl(5, 0))
    device.writeblocks(lba, bytearray(data))
    back = bytearray(len(data))
    device.readblocks(lba, back)
    device.ioctl(3, 0)
    assert back == data


KINDS = {
    "512": {},
    "4Kn": {"size": 4096},
    "28-bit": {"lba48": False, "count": 1 << 22},
    "beyond-32-bit": {"size": 4096, "count": 1 << 40},
    "full-28-bit": {"lba48": False, "count": (1 << 28) - 1},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_driver_passes_the_conformance_suite(connect, kind):
    device, _ = connect(Disk(**KINDS[kind]))
    device.ioctl(1, 0)
    first = device.ioctl(4, 0) - 700
    assert len(list(disk_checks(device, first, 600, 1 << 20))) > 9
    assert device.ioctl(1, 0) == 0 and device.ioctl(2, 0) == 0


def test_sectors_of_a_size_that_no_region_can_have_are_still_an_application_s(connect):
    device, _ = connect(Disk(size=1024))
    device.ioctl(1, 0)
    assert device.ioctl(5, 0) == 1024
    works(device)


# Finding disks.


def test_ports_and_controllers_are_found_and_named(pci):
    first, second, third = pci.controller(1), pci.controller(5, 0), pci.controller(31)
    for hba, ports in ((first, (0, 5)), (second, (3,)), (third, ())):
        for n in ports:
            hba.connect(n, Disk())
    hba = AHCI()
    hba.start()
    devices = hba.disks()
    assert [d.name for d in devices] == ["sata0", "sata5", "sata1.3"]
    for device in devices:
        device.ioctl(1, 0)
        works(device)
    assert hba.disks() == devices


def test_functions_of_a_device_are_looked_at(pci):
    pci.bridge(3, many=True)
    pci.controller(3, 2).connect(1, Disk())
    pci.bridge(4)
    pci.controller(4, 2).connect(1, Disk())  # not there: device 4 has a single function
    hba = AHCI()
    hba.start()
    assert [d.name for d in hba.disks()] == ["sata1"]


def test_controllers_get_addresses_unless_they_have_one(pci):
    first, second = pci.controller(1), pci.controller(2)
    second.bar = 0x50000000
    hba = AHCI(bar=0x48000000)
    hba.start()
    assert (first.bar, second.bar) == (0x48000000, 0x50000000)
    for function in first, second:
        assert function.command & 0x406 == 0x406, "memory space, bus master, no interrupt"
        assert function.status == 0x4000, "the status half was written to"


def test_no_controller_is_no_disk(pci):
    hba = AHCI()
    hba.start()
    assert hba.disks() == []


def test_start_does_not_wait_for_disks(pci, clock):
    hba = pci.controller()
    for n in range(6):
        hba.connect(n, Disk()).link_ms = 1e9
    driver = AHCI()
    driver.start()
    assert clock.ticks_ms() < 50


@pytest.mark.parametrize("signature", [model.ATAPI, model.BRIDGE, model.MULTIPLIER], ids=hex)
def test_what_is_no_disk_is_skipped(pci, signature):
    hba = pci.controller()
    hba.connect(0, Disk(signature=signature)).disk.spin_up_ms = 0
    hba.connect(1, Disk())
    driver = AHCI()
    driver.start()
    pci.clock.sleep_ms(50)
    driver.disks()  # the first look lets the signature in
    pci.clock.sleep_ms(50)
    assert [d.name for d in driver.disks()] == ["sata1"]


def test_what_turns_out_to_be_no_disk_is_refused(pci):
    port = pci.controller().connect(0, Disk(signature=model.ATAPI))
    driver = AHCI()
    driver.start()
    for device in driver.disks():
        refuses(errno.ENODEV, device.ioctl, 1, 0)
    assert port.commands == []


def named(error, words, call, *args):
    """The call fails with this errno, and says why in words."""
    with pytest.raises(OSError) as caught:
        call(*args)
    assert caught.value.args[0] == error and words in caught.value.args[1]


OTHERS = [
    (model.ATAPI, "ATAPI device"),
    (model.MULTIPLIER, "SATA port multiplier"),
    (model.BRIDGE, "no SATA disk"),
]


@pytest.mark.parametrize("signature, words", OTHERS, ids=lambda v: v if type(v) is str else "")
def test_what_is_no_disk_is_named(pci, signature, words):
    port = pci.controller().connect(0, Disk(signature=signature))
    driver = AHCI()
    driver.start()
    (device,) = driver.disks()
    named(errno.ENODEV, words, device.ioctl, 1, 0)
    assert port.commands == []


def test_a_port_whose_disk_is_gone_is_named(ready):
    device, port = ready()
    port.pull()
    named(errno.ENODEV, "no SATA link", device.ioctl, 1, 0)


def test_a_disk_that_stays_busy_after_comreset_is_named(ready):
    device, port = ready()
    port.disk.spin_up_ms = 1e9
    port.plan = [HANG]
    refuses(errno.ETIMEDOUT, device.readblocks, 0, bytearray(512))
    resets = port.resets
    named(errno.ETIMEDOUT, "disk busy after reset", device.ioctl, 1, 0)
    assert port.resets == resets + 1


def test_a_command_that_fails_says_what_the_disk_said(ready):
    device, port = ready()
    port.plan = [Outcome(status=DRDY | ERR, error=UNC)]
    named(errno.EIO, "ATA status 41, error 40", device.readblocks, 0, bytearray(512))
    works(device)


# ATA8-ACS 4.18: power-up in standby.


def standby(word, **more):
    disk = Disk()
    disk.standby = word
    vars(disk).update(more)
    return disk


@pytest.mark.parametrize("word", [0x37C8, 0x738C, 0x8C73], ids=hex)
def test_a_disk_in_standby_since_power_up_is_woken(connect, word):
    device, port = connect(standby(word))
    device.ioctl(1, 0)
    assert [c.code for c in port.commands] == [0xEC, 0xEF, 0xEC]
    assert device.model == "Model of a disk"
    works(device)


def test_a_disk_that_spins_gets_no_command_to(connect):
    device, port = connect()
    device.ioctl(1, 0)
    assert [c.code for c in port.commands] == [0xEC]


def test_waking_a_disk_takes_as_long_as_spinning_up(connect, clock):
    device, port = connect(standby(0x37C8))
    port.plan = [Outcome(), Outcome(ms=9000)]
    device.ioctl(1, 0)
    works(device)


@pytest.mark.parametrize(
    "plan, error",
    [([], errno.EIO), ([Outcome(), HANG], errno.ETIMEDOUT)],
    ids=["aborts", "hangs"],
)
def test_a_disk_that_does_not_wake_is_named(connect, plan, error):
    device, port = connect(standby(0x37C8, deaf=True))
    port.plan = plan
    named(error, "standby", device.ioctl, 1, 0)
    assert port.read(0x18) & 0xC011 == 0, "the port is stopped"


def test_a_disk_that_says_it_woke_and_did_not_is_named(connect):
    device, port = connect(standby(0x37C8))
    port.disk.execute, execute = (
        lambda c, m: (DRDY, 0, 0) if c.code == 0xEF else execute(c, m),
        port.disk.execute,
    )
    named(errno.EOPNOTSUPP, "standby", device.ioctl, 1, 0)


# ATA8-ACS 4.20: security.


def test_a_disk_that_is_locked_is_named(connect):
    device, port = connect(standby(0, locked=True))
    named(errno.EOPNOTSUPP, "ATA security locked", device.ioctl, 1, 0)
    assert [c.code for c in port.commands] == [0xEC]
    port.disk.locked = False
    device.ioctl(1, 0)
    works(device)


@pytest.mark.parametrize("word", [0, 0x0021, 0x0029, 0x0023, 0xFFFF], ids=hex)
def test_security_that_is_not_locked_does_not_matter(connect, word):
    disk = Disk()
    disk.checksum, disk.words = False, {128: word}
    device, _ = connect(disk)
    device.ioctl(1, 0)
    works(device)


# AHCI 1.3.1, 10.1.1: staggered spin-up.


def test_disks_spin_up_at_once(pci):
    ports = pci.controller().ports
    for port in ports:
        port.disk = Disk()
    AHCI().start()
    assert max(p.spun_up_at for p in ports) - min(p.spun_up_at for p in ports) < 20000


def test_disks_spin_up_one_after_another(pci):
    ports = pci.controller().ports
    for n in (0, 2, 3, 5):
        ports[n].disk = Disk()
    driver = AHCI(stagger=700)
    driver.start()
    assert [p.spun_up_at for p in ports] == [None] * 6
    devices = driver.disks()
    assert [d.name for d in devices] == ["sata0", "sata2", "sata3", "sata5"]
    at = [ports[n].spun_up_at for n in (0, 2, 3, 5)]
    assert all(b - a >= 700000 for a, b in zip(at, at[1:]))
    for device in devices:
        device.ioctl(1, 0)
        works(device)
    # They spin: nothing is waited for any more.
    began = pci.clock.ticks_ms()
    assert driver.disks() == devices
    again = AHCI(stagger=700)
    again.start()
    assert len(again.disks()) == 4 and pci.clock.ticks_ms() - began < 700


@pytest.mark.parametrize("det, limit", [(0, 100), (1, 1200), (4, 100)])
def test_the_wait_for_a_link_is_bounded(pci, clock, det, limit):
    pci.controller().connect(0, Disk()).det = det
    driver = AHCI()
    driver.start()
    began = clock.ticks_ms()
    assert driver.disks() == []
    assert clock.ticks_ms() - began <= limit


def test_a_disk_may_take_its_time_to_spin_up(connect, clock):
    disk = Disk()
    disk.spin_up_ms = 9000
    device, _ = connect(disk)
    assert clock.ticks_ms() < 1000
    device.ioctl(1, 0)
    works(device)


def test_a_disk_that_does_not_become_ready_ends_the_wait(connect, clock):
    disk = Disk()
    disk.spin_up_ms = 1e9
    device, port = connect(disk)
    began = clock.ticks_ms()
    refuses(errno.ETIMEDOUT, device.ioctl, 1, 0)
    assert 10000 <= clock.ticks_ms() - began <= 11500
    assert port.commands == []
    disk.spin_up_ms = 50
    device.ioctl(1, 0)
    works(device)


# What a port was used for before.


def test_a_port_that_was_never_used_needs_no_reset(connect):
    device, port = connect()
    device.ioctl(1, 0)
    assert port.resets == 0


@pytest.mark.parametrize("hung", [False, True])
def test_a_port_in_use_is_reset_first(connect, hung):
    """As after a soft reset, with or without a command in flight."""
    device, port = connect()
    device.ioctl(1, 0)
    if hung:
        interrupt(device, port, HANG, bytearray(512))
    fresh = AHCI()
    fresh.start()
    (device,) = fresh.disks()
    resets = port.resets
    device.ioctl(1, 0)
    assert port.resets == resets + 1
    works(device)


# Objects of before.


def again(hba):
    hba.start()
    return hba.disks()[0]


def another(hba):
    return again(AHCI())


def gone(device):
    """Every command of a disk object fails, and no register is touched."""
    accesses = machine.mem32.accesses
    for call in calls(device):
        refuses(errno.ENODEV, *call)
    for op in range(1, 6):
        refuses(errno.ENODEV, device.ioctl, op, 0)
    refuses(errno.ENODEV, device.power_cycles)
    assert machine.mem32.accesses == accesses


@pytest.fixture
def two(pci):
    """A controller with one disk: its driver, the disk's object, the port."""
    port = pci.controller().connect(0, Disk())
    hba = AHCI()
    hba.start()
    (device,) = hba.disks()
    device.ioctl(1, 0)
    return hba, device, port


@pytest.mark.parametrize("restart", [again, another])
@pytest.mark.parametrize("used", [False, True], ids=["never initialised", "in use"])
def test_a_disk_object_of_before_the_start_is_gone_for_good(two, restart, used):
    hba, old, port = two
    if not used:
        hba.start()
        (old,) = hba.disks()
    new = restart(hba)
    assert new is not old
    gone(old)
    new.ioctl(1, 0)
    works(new)
    port.commands.clear()
    gone(old)
    assert port.commands == []
    works(new)


def test_an_object_without_a_port_finds_no_disks_and_leaves_the_port_running(two):
    hba, _, _ = two
    new = another(hba)
    new.ioctl(1, 0)
    assert hba.disks() == []
    hba.deinit()
    works(new)


def test_a_disk_that_hung_before_the_start_is_gone_too(two):
    hba, old, port = two
    port.plan = [HANG]
    refuses(errno.ETIMEDOUT, old.readblocks, 0, bytearray(512))
    new = again(hba)
    gone(old)
    new.ioctl(1, 0)
    works(new)


def test_deinit_stops_the_ports_for_good(two):
    hba, device, port = two
    hba.deinit()
    assert port.read(0x18) & 0xC011 == 0, "ST, FRE, FR and CR"
    assert hba.disks() == []
    gone(device)
    new = again(hba)
    new.ioctl(1, 0)
    works(new)


@pytest.fixture
def interrupted(monkeypatch, two):
    """interrupted(step, use, call, *args) -> (errno of the call or 0, the new disk object).

    After the driver has waited, looked at the clock or ordered its accesses `step` times, the
    controllers are started anew, as a callback may do between any two jumps. use: it then writes
    sector 7. The new object is None when the call ended before.
    """
    hba, _, _ = two

    def interrupted(step, use, call, *args):
        new = None

        def then(function):
            def called(*args):
                nonlocal step, new
                result = function(*args)
                step -= 1
                if step == -1:
                    new = again(hba)
                    if use:
                        new.ioctl(1, 0)
                        new.writeblocks(7, bytearray(b"\x77" * 512))
                return result

            return called

        with monkeypatch.context() as patched:
            for name in ("poll32", "wait32", "sleep_ms", "ticks_diff"):
                patched.setattr(ahci, name, then(getattr(ahci, name)))
            patched.setattr(ahci_plain, "fence", then(ahci_plain.fence))
            try:
                call(*args)
            except OSError as error:
                return error.args[0], new
            return 0, new

    return interrupted


@pytest.mark.parametrize("use", [False, True], ids=["starts", "starts and writes"])
@pytest.mark.parametrize("which", range(4), ids=["read", "write", "part", "flush"])
def test_a_command_that_a_start_interrupts_fails(two, interrupted, which, use):
    """Wherever it was; and what it had not written by then is not written afterwards."""
    _, old, port = two
    for step in range(100):
        port.disk.sectors.clear()
        port.plan = [Outcome(ms=100)]  # longer than the first polls
        call, *args = calls(old)[which]
        failed, new = interrupted(step, use, call, *args)
        if new is None:
            assert step > 5 and not failed
            return
        assert failed == errno.ENODEV, step
        gone(old)
        if use:
            assert port.disk.sectors[7] == b"\x77" * 512
        commands = len(port.commands)
        new.ioctl(1, 0)
        if not use:
            assert [c.code for c in port.commands[commands:]] == [Disk.IDENTIFY]
        works(new, 200)
        old = new
    raise AssertionError("never without a start")


@pytest.mark.parametrize("use", [False, True], ids=["starts", "starts and writes"])
def test_an_init_that_a_start_interrupts_fails(two, interrupted, use):
    _, old, port = two
    for step in range(200):
        old.ioctl(2, 0)
        failed, new = interrupted(step, use, old.ioctl, 1, 0)
        if new is None:
            assert step > 5 and not failed
            return
        assert failed == errno.ENODEV, step
        gone(old)
        if use:
            works(new)  # still in use
        new.ioctl(1, 0)
        works(new)
        old = new
    raise AssertionError("never without a start")


# Memory for DMA.

ROOM = 7168  # bytes a port


@pytest.fixture
def room(pci):
    """room(ports) -> memory for so many, full of noise, and the addresses of its bytes."""
    uctypes.memory.align = 1024

    def room(ports):
        memory = memoryview(bytearray(Rng("room").bytes(ports * ROOM))).cast("I")
        start = uctypes.addressof(memory)
        return memory, range(start, start + ports * ROOM)

    yield room
    uctypes.memory.align = 16


@pytest.mark.parametrize("size", [512, 4096])
def test_all_memory_of_the_driver_is_where_it_was_told(pci, room, size):
    hba = pci.controller()
    ports = {n: hba.connect(n, Disk(size=size)) for n in (0, 5)}
    for port in ports.values():
        port.disk.power_cycles = 9
    memory, places = room(6)
    driver = AHCI(memory=memory)
    for _ in range(3):
        driver.start()
        for device, n in zip(driver.disks(), ports):
            device.ioctl(1, 0)
            works(device)
            assert device.power_cycles() == 9
            own = places[n * ROOM : (n + 1) * ROOM]
            assert ports[n]._list in own and ports[n]._fis in own
            ports[n].commands.clear()
            device.readblocks(3, bytearray(5), 1)
            device.writeblocks(3, bytearray(5), 1)
            pieces = [piece for c in ports[n].commands for piece in c.pieces]
            assert len(pieces) == 3
            for at, length in pieces:
                assert at in own and at + length - 1 in own


def test_ports_beyond_the_memory_use_the_heap(pci, room):
    hba = pci.controller()
    ports = [hba.connect(n, Disk()) for n in range(3)]
    memory, places = room(2)
    driver = AHCI(memory=memory[: 2 * ROOM // 4 - 1])
    driver.start()
    for device in driver.disks():
        device.ioctl(1, 0)
        works(device)
    assert [p._list in places for p in ports] == [True, False, False]


def interrupt(device, port, outcome, buf):
    """Ctrl-C while a read is on its way."""
    read = port.read

    def interrupting(register):
        if port.commands and port.commands[-1].code == Disk.READ_EXT:
            port.read = read
            raise KeyboardInterrupt
        return read(register)

    port.commands.clear()
    port.plan = [outcome]
    port.read = interrupting
    with pytest.raises(KeyboardInterrupt):
        device.readblocks(0, buf)


def test_ctrl_c_stops_the_port(ready):
    device, port = ready()
    port.disk.sectors[0] = b"\xee" * 512
    buf = bytearray(512)
    interrupt(device, port, Outcome(ms=20), buf)
    pci_idle(port)
    assert buf == bytes(512), "DMA after the call"
    refuses(errno.ENODEV, device.readblocks, 0, buf)
    device.ioctl(1, 0)
    works(device)


def pci_idle(port):
    """Let a second pass for the port."""
    port._clock.sleep_ms(1000)
    port.read(0)


# What a disk is.


def test_identify_names_the_disk(connect):
    disk = Disk(count=123456)
    disk.model, disk.serial = "ACME 4.0 TB", " 0123\x07\xe9z"
    device, _ = connect(disk)
    assert (device.model, device.serial) == ("", "")
    device.ioctl(1, 0)
    assert (device.model, device.serial) == ("ACME 4.0 TB", "0123  z")
    assert (device.ioctl(4, 0), device.ioctl(5, 0)) == (123456, 512)


def test_the_disks_own_count_of_power_cycles_is_read(ready):
    disk = Disk()
    disk.power_cycles = 0x01020304
    device, port = ready(disk)
    assert device.power_cycles() == 0x01020304
    assert port.commands[-1].code == 0xB0


def test_a_disk_that_does_not_count_power_cycles_stays_in_use(ready):
    device, port = ready(Disk())
    assert device.power_cycles() == 0 and not port.commands
    # It has SMART, but refuses: the command has ended, and so has nothing else.
    disk = Disk()
    disk.power_cycles = 5
    device, port = ready(disk)
    disk.power_cycles = None
    assert device.power_cycles() == 0
    works(device)


def test_identify_with_a_bad_checksum_is_refused(connect):
    disk = Disk()
    disk.words = {60: 0x1234}
    device, port = connect(disk)
    refuses(errno.EIO, device.ioctl, 1, 0)
    refuses(errno.ENODEV, device.readblocks, 0, bytearray(512))
    disk.words = {}
    device.ioctl(1, 0)
    works(device)


def test_identify_may_have_no_checksum(connect):
    disk = Disk()
    disk.checksum = False
    device, _ = connect(disk)
    device.ioctl(1, 0)
    works(device)


@pytest.mark.parametrize(
    "words",
    [{0: 0x8000}, {106: 0x5000, 117: 264}, {106: 0x5000, 117: 4096}, {100: 0, 101: 0}],
    ids=["no ATA disk", "528 bytes", "8192 bytes", "no sectors"],
)
def test_disks_of_other_kinds_are_refused(connect, words):
    disk = Disk()
    disk.checksum = False
    disk.words = words
    device, _ = connect(disk)
    refuses(errno.ENODEV, device.ioctl, 1, 0)
    refuses(errno.ENODEV, device.ioctl, 4, 0)


def test_words_without_their_mark_of_validity_do_not_count(connect):
    disk = Disk(lba48=False)
    disk.checksum = False
    disk.words = {83: 0xFFFF, 106: 0xFFFF, 117: 0x7777}
    device, port = connect(disk)
    device.ioctl(1, 0)
    assert device.ioctl(5, 0) == 512
    works(device)
    assert [c.code for c in port.commands] == [Disk.IDENTIFY, Disk.WRITE, Disk.READ, Disk.FLUSH]


@pytest.mark.parametrize("lba48, flush_ext, code", [(1, 1, 0xEA), (1, 0, 0xE7), (0, 0, 0xE7)])
def test_the_flush_is_one_that_the_disk_has(ready, lba48, flush_ext, code):
    device, port = ready(Disk(lba48=bool(lba48), flush_ext=bool(flush_ext)))
    device.ioctl(3, 0)
    assert [c.code for c in port.commands] == [code]
    assert device.flushes == 1


def test_init_of_a_healthy_disk_costs_nothing(ready):
    device, port = ready()
    accesses = machine.mem32.accesses
    device.ioctl(1, 0)
    assert machine.mem32.accesses - accesses <= 2
    assert port.commands == [] and port.resets == 0


def test_shutdown_stops_the_port(ready):
    device, port = ready()
    device.ioctl(2, 0)
    assert port.read(0x18) & 0xC011 == 0, "ST, FRE, FR and CR"
    refuses(errno.ENODEV, device.ioctl, 3, 0)
    device.ioctl(1, 0)
    works(device)


# Transfers.


def test_large_transfers_are_cut_into_commands_and_pieces(ready):
    device, port = ready(Disk(count=1 << 33))
    n = 65536 + 9000
    device.readblocks(7 << 30, bytearray(n * 512))
    assert [(c.code, c.lba, c.count) for c in port.commands] == [
        (Disk.READ_EXT, 7 << 30, 0),
        (Disk.READ_EXT, (7 << 30) + 65536, 9000),
    ]
    pieces = port.commands[0].pieces
    assert [n for _, n in pieces] == [1 << 22] * 8
    assert all(a + (1 << 22) == b for (a, _), (b, _) in zip(pieces, pieces[1:]))
    assert [n for _, n in port.commands[1].pieces] == [1 << 22, 9000 * 512 - (1 << 22)]


def test_28_bit_commands_carry_256_sectors(ready):
    device, port = ready(Disk(lba48=False, count=(1 << 28) - 1))
    device.readblocks(0xABCDEF0, bytearray(300 * 512))
    assert [(c.code, c.lba, c.count) for c in port.commands] == [
        (Disk.READ, 0xABCDEF0, 0),
        (Disk.READ, 0xABCDEF0 + 256, 44),
    ]


def test_what_a_large_write_carries_arrives(ready):
    device, port = ready(Disk(size=4096))
    data = bytearray(Rng("large").bytes(1 << 16) * 96)
    for i in range(0, len(data), 4096):
        data[i : i + 4] = i.to_bytes(4, "little")
    device.writeblocks(5, data)
    assert len(port.commands) == 1 and len(port.commands[0].pieces) == 2
    sectors = port.disk.sectors
    assert sorted(sectors) == list(range(5, 5 + len(data) // 4096))
    assert zlib.crc32(b"".join(sectors[lba] for lba in sorted(sectors))) == zlib.crc32(data)


@pytest.mark.parametrize("shift", range(0, 1024, 92))
def test_the_memory_of_a_port_is_aligned_wherever_the_heap_is(pci, connect, shift):
    uctypes.memory.align, uctypes.memory.shift = 1024, shift
    try:
        device, _ = connect()
        device.ioctl(1, 0)
        works(device)
    finally:
        uctypes.memory.align, uctypes.memory.shift = 16, 0


@pytest.mark.parametrize("start", [2, 3, 4, 7])
@pytest.mark.parametrize("size", [512, 4096])
def test_dma_stays_in_the_buffer(ready, size, start):
    device, port = ready(Disk(size=size))
    content = {lba: Rng(lba).bytes(size) for lba in range(10, 14)}
    port.disk.sectors.update(content)
    around = bytearray(b"\xaa" * (3 * size + 16))
    device.readblocks(10, memoryview(around)[start : start + 3 * size])
    want = content[10] + content[11] + content[12]
    assert around == b"\xaa" * start + want + b"\xaa" * (16 - start)
    device.writeblocks(20, memoryview(around)[start : start + 3 * size])
    assert [port.disk.sectors[lba] for lba in (20, 21, 22)] == [content[n] for n in (10, 11, 12)]
    assert port.disk.sectors.keys() == {*range(10, 14), 20, 21, 22}
    sectors = 1 if start % 2 else 3
    assert {c.count for c in port.commands} == {sectors}, "only odd addresses need a bounce"


@pytest.mark.parametrize("size", [512, 4096])
@pytest.mark.parametrize("offset, n", [(0, 1), (3, 7), (-1, 2), (0, 512), (5, 4096), (-2, 8195)])
def test_parts_of_sectors_keep_their_neighbours(ready, size, offset, n):
    device, port = ready(Disk(size=size))
    lbas = range(50, 70)
    old = b"".join(Rng(lba).bytes(size) for lba in lbas)
    for i, lba in enumerate(lbas):
        port.disk.sectors[lba] = old[i * size : (i + 1) * size]
    at = offset % size
    data = Rng("new").bytes(n)
    device.writeblocks(50, bytearray(data), at)
    now = b"".join(port.disk.sectors[lba] for lba in lbas)
    assert now == old[:at] + data + old[at + n :]
    back = bytearray(n + 2)
    device.readblocks(50, memoryview(back)[1:-1], at)
    assert back == b"\0" + data + b"\0"


def test_nothing_is_asked_for_an_empty_buffer(ready):
    device, port = ready()
    device.readblocks(0, bytearray(0))
    device.writeblocks(0, bytearray(0), 5)
    device.readblocks(port.disk.count, bytearray(0))
    assert port.commands == []


@pytest.mark.parametrize("lba48", [True, False])
def test_what_lies_outside_is_refused_before_any_register_is_touched(ready, lba48):
    device, port = ready(Disk(count=1000, lba48=lba48))
    accesses = machine.mem32.accesses
    for call in (device.readblocks, device.writeblocks):
        for args in (
            (-1, bytearray(512)),
            (1000, bytearray(512)),
            (999, bytearray(1024)),
            (1 << 28, bytearray(512)),
            (1 << 48, bytearray(512)),
            (0, bytearray(511)),
            (0, bytearray(513)),
            (999, bytearray(2), 511),
            (0, bytearray(1), 512000),
            (0, bytearray(1), -1),
            (5, bytearray(1), -1),
            (-1, bytearray(1), 512),
        ):
            refuses(errno.EINVAL, call, *args)
    assert machine.mem32.accesses == accesses and port.commands == []
    works(device, 999)


def test_commands_are_counted(ready):
    device, port = ready()
    device.readblocks(0, bytearray(1024))
    device.writeblocks(0, bytearray(512))
    device.writeblocks(0, bytearray(1), 1)
    device.ioctl(3, 0)
    port.plan = [Outcome(status=DRDY | ERR, error=UNC)]
    refuses(errno.EIO, device.readblocks, 0, bytearray(512))
    assert (device.reads, device.writes, device.flushes) == (3, 2, 1)


# Errors.


def calls(device):
    return [
        (device.readblocks, 0, bytearray(1024)),
        (device.writeblocks, 0, bytearray(1024)),
        (device.writeblocks, 0, bytearray(1), 1),
        (device.ioctl, 3, 0),
    ]


@pytest.mark.parametrize("which", range(4), ids=["read", "write", "part", "flush"])
def test_an_error_of_the_disk_is_reported_and_the_port_goes_on(ready, which):
    device, port = ready()
    port.plan = [Outcome(status=DRDY | ERR, error=UNC)]
    refuses(errno.EIO, *calls(device)[which])
    assert (device.status, device.error, device.serr) == (DRDY | ERR, UNC, 0)
    assert len(port.commands) == 1, "nothing is tried again behind the caller's back"
    works(device)
    assert port.resets == 0


@pytest.mark.parametrize("name", [*FATAL, *NON_FATAL])
@pytest.mark.parametrize("which", range(4), ids=["read", "write", "part", "flush"])
def test_every_error_bit_is_an_error_and_the_port_goes_on(ready, which, name):
    device, port = ready()
    port.plan = [Outcome(interrupts={**FATAL, **NON_FATAL}[name], serr=0x400)]
    refuses(errno.EIO, *calls(device)[which])
    assert device.serr == 0x400
    works(device)
    assert port.read(0x30) == 0, "PxSERR was cleared"


def test_a_late_error_is_seen_long_before_the_deadline(ready, clock):
    device, port = ready()
    port.plan = [Outcome(ms=300, status=DRDY | ERR, error=UNC)]
    began = clock.ticks_ms()
    refuses(errno.EIO, device.readblocks, 0, bytearray(512))
    assert 300 <= clock.ticks_ms() - began < 500


def test_a_device_fault_without_error_bit_is_an_error(ready):
    device, port = ready()
    port.plan = [Outcome(status=DRDY | DF)]
    refuses(errno.EIO, device.writeblocks, 0, bytearray(512))
    assert device.status == DRDY | DF
    works(device)


# A buffer may hold what was written before: only the count tells a read that brought nothing.
@pytest.mark.parametrize("counted", [0, 512, 1022])
@pytest.mark.parametrize("which", [0, 2], ids=["read", "part"])
def test_a_read_that_ends_early_is_an_error_though_the_disk_says_well(ready, which, counted):
    device, port = ready()
    works(device)  # the count of a command before does not stand in
    port.plan = [Outcome(counted=counted if which == 0 else counted // 4)]
    before = len(port.commands)
    refuses(errno.EIO, *calls(device)[which])
    assert (device.status, len(port.commands) - before) == (DRDY, 1)
    works(device)
    assert port.resets == 0


def test_identify_that_ends_early_is_an_error(connect):
    device, port = connect()
    port.plan = [Outcome(counted=256)]
    refuses(errno.EIO, device.ioctl, 1, 0)
    device.ioctl(1, 0)
    works(device)


def test_writes_may_be_miscounted(ready):
    device, port = ready()
    port.plan = [Outcome(counted=0)]
    works(device)


@pytest.mark.parametrize("busy", [BSY, DRQ], ids=["BSY", "DRQ"])
def test_a_disk_that_stays_busy_after_an_error_is_reset(ready, busy):
    device, port = ready()
    port.plan = [Outcome(status=DRDY | ERR | busy, error=0x04)]
    refuses(errno.EIO, device.readblocks, 0, bytearray(512))
    assert port.resets == 1
    works(device)


def test_a_port_that_does_not_stop_is_reset(ready, clock):
    device, port = ready()
    port.plan = [Outcome(interrupts=model.HBDS, stuck=True)]
    began = clock.ticks_ms()
    refuses(errno.EIO, device.readblocks, 0, bytearray(512))
    assert port.resets == 1 and clock.ticks_ms() - began < 2500
    works(device)


def test_a_disk_that_fails_again_while_it_is_reset_stays_out(ready):
    device, port = ready()
    failed = Outcome(status=DRDY | ERR | BSY, error=0x04)
    port.plan = [failed] * 5
    refuses(errno.EIO, device.readblocks, 0, bytearray(512))
    assert [c.code for c in port.commands] == [Disk.READ_EXT, Disk.IDENTIFY]
    refuses(errno.ENODEV, device.readblocks, 0, bytearray(512))
    port.plan = []
    device.ioctl(1, 0)
    works(device)


# Disks that do not answer.


@pytest.mark.parametrize("stuck", [False, True], ids=["stops", "CR stays set"])
@pytest.mark.parametrize(
    "which, ms", [(0, 5000), (1, 5000), (2, 5000), (3, 30000)],
    ids=["read", "write", "part", "flush"],
)  # fmt: skip
def test_a_hung_command_ends_the_use_of_the_disk_until_it_is_reset(ready, clock, which, ms, stuck):
    device, port = ready()
    port.plan = [Outcome(ms=None, stuck=stuck)]
    began = clock.ticks_ms()
    refuses(errno.ETIMEDOUT, *calls(device)[which])
    assert ms <= clock.ticks_ms() - began <= ms + 700
    if not stuck:
        assert port.read(0x18) & 0xC011 == 0, "ST, FRE, FR and CR"
    assert port.resets == 0 and len(port.commands) == 1
    accesses = machine.mem32.accesses
    for call in calls(device):
        refuses(errno.ENODEV, *call)
    for op in (4, 5):
        refuses(errno.ENODEV, device.ioctl, op, 0)
    assert machine.mem32.accesses == accesses
    device.ioctl(1, 0)
    assert port.resets == 1
    works(device)


def test_a_slow_command_is_waited_for(ready):
    device, port = ready()
    port.plan = [Outcome(ms=4800), Outcome(ms=29000)]
    port.disk.sectors[3] = b"\x33" * 512
    buf = bytearray(512)
    device.readblocks(3, buf)
    assert buf == b"\x33" * 512
    device.ioctl(3, 0)
    works(device)
    assert port.resets == 0


def test_a_command_that_ends_too_late_reaches_no_memory(ready):
    device, port = ready()
    port.disk.sectors[0] = b"\xee" * 512
    port.plan = [Outcome(ms=6500)]
    buf = bytearray(512)
    refuses(errno.ETIMEDOUT, device.readblocks, 0, buf)
    for _ in range(2):
        pci_idle(port)
    assert buf == bytes(512)
    device.ioctl(1, 0)
    device.readblocks(0, buf)
    assert buf == b"\xee" * 512


def test_a_hung_identify_can_be_tried_again(connect):
    device, port = connect()
    port.plan = [HANG, HANG]
    for _ in range(2):
        refuses(errno.ETIMEDOUT, device.ioctl, 1, 0)
    device.ioctl(1, 0)
    assert port.resets == 2
    works(device)


# Links that come and go.


def test_an_exchanged_disk_is_not_taken_for_the_old_one(ready):
    device, port = ready()
    other = Disk(count=2000)
    other.serial = "SN 0002"
    port.exchange(other)
    port._clock.sleep_ms(100)
    for call in calls(device):
        refuses(errno.ENODEV, *call)
    assert port.commands == [] and other.sectors == {}
    device.ioctl(1, 0)
    assert (device.serial, device.ioctl(4, 0)) == ("SN 0002", 2000)
    works(device)


def test_init_notices_an_exchanged_disk(ready):
    device, port = ready()
    other = Disk()
    other.serial = "SN 0002"
    port.exchange(other)
    port._clock.sleep_ms(100)
    device.ioctl(1, 0)
    assert device.serial == "SN 0002"


def test_a_pulled_disk_is_gone_and_may_come_back(ready):
    device, port = ready()
    disk = port.pull()
    refuses(errno.ENODEV, device.readblocks, 0, bytearray(512))
    for _ in range(2):
        refuses(errno.ENODEV, device.ioctl, 1, 0)
    port.push(disk)
    device.ioctl(1, 0)
    works(device)


def test_a_disk_pulled_during_a_command_ends_it(ready, clock):
    device, port = ready()
    port.plan = [HANG]
    port._after(100, port.pull)
    refuses(errno.ETIMEDOUT, device.readblocks, 0, bytearray(512))
    refuses(errno.ENODEV, device.ioctl, 1, 0)


def test_a_part_of_a_sector_whose_port_was_taken_meanwhile_is_not_believed(ready, monkeypatch):
    """Who has the port then uses the same buffer."""
    device, _ = ready()
    command = type(device)._command

    def taken(self, *args):
        command(self, *args)
        self._live = False

    monkeypatch.setattr(type(device), "_command", taken)
    with pytest.raises(OSError) as caught:
        device.readblocks(5, bytearray(7), 3)
    assert caught.value.args[0] == errno.ENODEV
