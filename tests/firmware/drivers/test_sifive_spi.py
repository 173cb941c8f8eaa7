"""The SPI bus class on a controller that holds it to SiFive's manual, register by register."""

import errno

import machine
import pytest

from fakes import sifive_spi as model
from fakes.sifive_spi import Controller, Recorder
from lifeboat.drivers import sifive_spi_plain
from lifeboat.drivers.sifive_spi import CS, SPI

BASE = 0x10040000
LENGTHS = [0, 1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 300]


@pytest.fixture(params=[0, 5], ids=["instant", "slow"])
def controller(request):
    machine.mem32.clear()
    controller = Controller(Recorder(), request.param)
    machine.mem32.attach(BASE, 0x1000, controller)
    yield controller
    machine.mem32.clear()


@pytest.fixture
def spi(controller):
    return SPI(BASE)


@pytest.fixture
def cs(controller):
    return CS(BASE)


@pytest.fixture
def selected(spi, cs):
    cs(0)
    return spi


def answers(n, first=0):
    return bytes(Recorder.answer(i) for i in range(first, first + n))


# transfers


@pytest.mark.parametrize("n", LENGTHS)
def test_read_sends_the_fill_byte_and_returns_what_came(controller, selected, n):
    assert selected.read(n, 0xA5) == answers(n)
    assert controller.device.sent == n
    assert sum(controller.device.frames, []) == [0xA5] * n


def test_read_sends_zeros_unless_told(controller, selected):
    selected.read(3)
    selected.readinto(bytearray(2))
    assert controller.device.frames == [[0, 0, 0, 0, 0]]


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("start", [0, 1, 3])
def test_readinto_fills_the_slice_and_nothing_else(selected, n, start):
    buf = bytearray(b"\xee" * 310)
    assert selected.readinto(memoryview(buf)[start : start + n], 0xFF) is None
    want = bytearray(b"\xee" * 310)
    want[start : start + n] = answers(n)
    assert buf == want


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_write_sends_the_bytes_and_leaves_nothing_behind(controller, selected, n, kind):
    data = bytes(i * 11 & 0xFF for i in range(n))
    assert selected.write(kind(data)) is None
    assert bytes(sum(controller.device.frames, [])) == data
    assert selected.read(2) == answers(2, n)


@pytest.mark.parametrize("n", LENGTHS)
def test_write_readinto_does_both(controller, selected, n):
    data = bytes(i * 11 & 0xFF for i in range(n))
    into = bytearray(n)
    assert selected.write_readinto(data, into) is None
    assert into == answers(n)
    assert bytes(sum(controller.device.frames, [])) == data


def test_write_readinto_may_use_one_buffer_twice(controller, selected):
    buf = bytearray(b"0123456789")
    selected.write_readinto(buf, buf)
    assert buf == answers(10)
    assert bytes(controller.device.frames[0]) == b"0123456789"


def test_write_readinto_wants_equal_lengths(controller, selected):
    with pytest.raises(ValueError, match="same length"):
        selected.write_readinto(b"12", bytearray(3))
    assert controller.device.sent == 0


# waits


@pytest.mark.parametrize("works", [0, 1, 8, 12])
@pytest.mark.parametrize(
    "transfer",
    [
        lambda spi: spi.read(20),
        lambda spi: spi.write(bytes(20)),
        lambda spi: spi.write_readinto(bytes(20), bytearray(20)),
        lambda spi: spi.packets(bytearray(24), 24, 0xFF & Recorder.answer(0), bytearray(3)),
        lambda spi: spi.put(b"", bytes(20), b""),
    ],
    ids=["read", "write", "write_readinto", "packets", "put"],
)
def test_a_controller_that_stops_clocking_is_a_timeout(
    controller, selected, monkeypatch, transfer, works
):
    monkeypatch.setattr(sifive_spi_plain, "_SPINS", 50)
    controller.stuck = works
    with pytest.raises(OSError) as caught:
        transfer(selected)
    assert caught.value.args[0] == errno.ETIMEDOUT
    assert controller.device.sent == works


# set-up


def test_the_clock_is_never_faster_than_asked(controller):
    for baudrate in (400000, 1000000, 3000000, 25000000, 250000000, 10**9):
        SPI(BASE, baudrate, clock=500000000)
        divider = controller.regs[model.SCKDIV]
        made = 500000000 // (2 * (divider + 1))
        assert made <= baudrate
        assert divider == 0 or 500000000 / (2 * divider) > baudrate
    SPI(BASE, 1)
    assert controller.regs[model.SCKDIV] == 0xFFF


@pytest.mark.parametrize(
    ("polarity", "phase", "mode"), [(0, 0, 0), (0, 1, 1), (1, 0, 2), (1, 1, 3)]
)
def test_polarity_and_phase_make_the_mode(controller, polarity, phase, mode):
    SPI(BASE, polarity=polarity, phase=phase)
    assert controller.regs[model.SCKMODE] == mode


def test_init_changes_only_what_it_is_given(controller):
    spi = SPI(BASE, 1000000, polarity=1, phase=1, firstbit=SPI.LSB)
    before = dict(controller.regs)
    spi.init()
    assert controller.regs == before
    spi.init(baudrate=400000, phase=0)
    before.update({model.SCKDIV: 624, model.SCKMODE: 2})
    assert controller.regs == before
    assert controller.regs[model.FMT] == 0x80004


@pytest.mark.parametrize("wrong", [{"bits": 16}, {"baudrate": 0}])
def test_what_the_controller_can_not_do_is_refused(spi, wrong):
    with pytest.raises(ValueError):
        spi.init(**wrong)


def test_init_takes_the_bus_over_from_whoever_used_it(controller):
    controller.regs[model.FCTRL] = 0
    for byte in b"left":
        controller.write32(model.TXDATA, byte)
    for _ in range(100):
        controller.read32(model.IP)
    controller.regs.update({model.FCTRL: 1, model.IE: 3})
    spi = SPI(BASE)
    assert spi.read(2) == answers(2, 4)
    assert controller.regs[model.IE] == 0
    spi.deinit()


# chip select


def test_a_selected_device_sees_one_frame_until_it_is_released(controller, spi, cs):
    cs(0)
    spi.write(b"ab")
    spi.read(1)
    cs(1)
    cs(0)
    spi.write(b"c")
    cs(1)
    assert controller.device.frames == [[97, 98, 0], [99]]


def test_chip_select_is_shaped_like_a_pin(controller):
    controller.regs[model.CSMODE] = model.HOLD
    cs = CS(BASE)
    assert cs() == cs.value() == 1 and controller.regs[model.CSMODE] == model.AUTO
    cs.init(cs.OUT, value=0)
    assert cs() == 0 and controller.regs[model.CSMODE] == model.HOLD
    cs.value(1)
    cs.init(cs.OUT)
    assert cs() == 1 and controller.regs[model.CSMODE] == model.AUTO


@pytest.mark.parametrize("n", LENGTHS)
def test_a_whole_transaction_is_one_frame(controller, spi, cs, n):
    buf = bytearray(n)
    spi.transact(cs, b"\x9f\x00", b"", buf)
    spi.transact(cs, b"\x02", bytes(range(n % 256)), b"")
    assert controller.device.frames == [[0x9F, 0] + [0] * n, [2, *range(n % 256)]]
    assert buf == answers(n, 2) and cs() == 1
    assert controller.regs[model.CSMODE] == model.AUTO


class Sends:
    """A device that answers with these bytes, then with 0xFF."""

    def __init__(self, data):
        self.data = list(data)
        self.got = []

    def select(self):
        pass

    release = select

    def exchange(self, byte):
        self.got.append(byte)
        return self.data.pop(0) if self.data else 0xFF


@pytest.mark.parametrize("idle", [0, 1, 15])
def test_packets_come_after_their_tokens(controller, selected, idle):
    one, two = bytes(range(16)), bytes(range(100, 116))
    before = b"\xff" * idle + b"\xfe"
    controller.device = Sends(before + one + b"AB" + before + two + b"CD")
    buf, sums = bytearray(32), bytearray(5)
    assert selected.packets(buf, 16, 0xFE, sums) == 2
    assert buf == one + two and sums == b"ABCD\0"
    assert set(controller.device.got) == {0xFF}


@pytest.mark.parametrize("other", [0x08, 0xFF])
def test_packets_end_with_another_byte(controller, selected, other):
    controller.device = Sends(b"\xfe" + bytes(16) + b"AB" + bytes([other]) * 16)
    sums = bytearray(5)
    assert selected.packets(bytearray(32), 16, 0xFE, sums) == 1
    assert sums[:3] == b"AB" + bytes([other])


@pytest.mark.parametrize("later", [0, 3, 15, 16])
def test_put_returns_the_answer(controller, selected, later):
    data = bytes(range(100))
    controller.device = Sends(b"\x77" * 104 + b"\xff" * later + b"\xe5")
    assert selected.put(b"\xff\xfe", data, b"AB") == (0xE5 if later < 16 else 0xFF)
    assert bytes(controller.device.got[:104]) == b"\xff\xfe" + data + b"AB"
    assert set(controller.device.got[104:]) == {0xFF}
