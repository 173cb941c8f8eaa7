"""A Pico's command, its operations and its console, without the emulator."""

import asyncio
import importlib.util
from types import SimpleNamespace

import pytest

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.pico import board as pico
from lifeboat_host.pico import machine
from lifeboat_host.qemu import board_spec
from lifeboat_host.qemu import machine as emulator
from lifeboat_host.qemu.board_spec import BoardSpec
from lifeboat_host.qemu.machine import Board


@pytest.fixture
def spec(tmp_path, monkeypatch):
    firmware = tmp_path / "boards" / "p-unsigned" / "firmware.bin"
    firmware.parent.mkdir(parents=True)
    firmware.write_bytes(b"boot")
    monkeypatch.setenv("LIFEBOAT_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    return BoardSpec(
        "p", "a pico", "prod", 65536, 4096, emulator=board_spec.RP2040PY, disk_kind="sd"
    )


def test_the_command_names_firmware_flash_and_card(spec):
    command = emulator.machine_arguments(spec, "/code.img", [None, "/card.img"])
    assert command[1:] == [
        *("-m", "lifeboat_host.pico", "--firmware", str(spec.firmware)),
        *("--flash", "/code.img", "--card", "/card.img"),
    ]
    assert emulator.machine_arguments(spec, "/code.img", ["/card.img"]) == command


@pytest.mark.parametrize("drives", [["a", "b"], [{"driver": "null-co"}]])
def test_what_its_slot_can_not_take_is_refused(spec, drives):
    with pytest.raises(LifeboatError):
        emulator.machine_arguments(spec, "code.img", drives)


def test_without_the_emulator_it_says_what_to_do(spec, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LifeboatError) as error:
        emulator.machine_arguments(spec, "code.img")
    assert error.value.code == "no-emulator" and "setup --board p" in error.value.hint


def test_each_board_gets_the_emulator_it_wants(spec):
    for wanted, kind in ((spec, pico.Pico), (board_spec.load("qemu_virt"), Board)):
        made = pico.make("code.img", [], spec=wanted)
        assert type(made) is kind
        made.close()


class Chip:
    """Flash of the chip with its SSI: a command is what came since the select line fell."""

    def __init__(self, size):
        self.flash = bytearray(b"\xff" * (machine.CODE_AT + size))
        self.ssi = SimpleNamespace(_write_enabled=True, _tx_buffer=b"", _apply_command=self.apply)

    def apply(self):
        command = self.ssi._tx_buffer
        at = int.from_bytes(command[1:4], "big")
        if command[0] == 0x20:
            at -= at % 4096
            self.flash[at : at + 4096] = b"\xff" * 4096
        else:
            self.flash[at : at + len(command) - 4] = command[4:]

    def command(self, code, at, data=b""):
        self.ssi._tx_buffer = bytes((code,)) + at.to_bytes(3, "big") + data
        self.ssi._apply_command()


@pytest.fixture
def code(tmp_path):
    path = tmp_path / "code.img"
    path.write_bytes(b"\x55" * 8192)
    return path


def test_the_file_follows_the_chips_flash(code, tmp_path):
    chip = Chip(8192)
    power = machine.Power(tmp_path / "trace")
    machine.FlashFile(code, chip, power)
    assert chip.flash[machine.CODE_AT :] == b"\x55" * 8192
    chip.command(0x20, machine.CODE_AT + 4100)
    chip.command(0x02, machine.CODE_AT + 4096, b"\x12" * 256)
    assert code.read_bytes() == b"\x55" * 4096 + b"\x12" * 256 + b"\xff" * 3840
    chip.command(0x02, machine.CODE_AT + 4096, b"\x03")
    chip.command(0x20, 0)
    assert (tmp_path / "trace").read_text().splitlines() == [
        "flash erase 0x1000",
        "flash program 0x1000",
        "complaint: flash: programmed without an erase at 0xa1000",
        "flash program 0x1000",
        "complaint: flash: erase outside of the code, at 0x0",
        "flash erase -0xa0000",
    ]


class Cut(BaseException):
    pass


@pytest.mark.parametrize("torn", [False, True])
def test_the_power_ends_before_an_operation_or_half_way_through(code, tmp_path, monkeypatch, torn):
    def end(status):
        assert status == machine.EXIT_CUT
        raise Cut

    monkeypatch.setattr(machine.os, "_exit", end)
    chip = Chip(8192)
    power = machine.Power(tmp_path / "trace", 2, torn)
    machine.FlashFile(code, chip, power)
    card = tmp_path / "card.img"
    card.write_bytes(bytes(1024))
    blocks = machine.CardFile(card, power)
    blocks[1] = b"\x77" * 512
    with pytest.raises(Cut):
        chip.command(0x20, machine.CODE_AT)
    half = b"\xff" * 2048 if torn else b"\x55" * 2048
    assert code.read_bytes() == half + b"\x55" * 6144
    assert blocks.get(1) == b"\x77" * 512 and blocks.get(2) == bytes(512)


def console():
    said = bytearray()
    uart = SimpleNamespace()
    cdc = SimpleNamespace(tx_fifo=SimpleNamespace(full=False), heard=bytearray())
    cdc.send_serial_byte = cdc.heard.append
    device = SimpleNamespace(mcu=SimpleNamespace(uart=[uart]), cdc=cdc)
    made = machine.Console(device, said.extend)

    def from_uart(data):
        for byte in data:
            uart.on_byte(byte)

    return made, said, from_uart, cdc


def test_the_console_goes_over_from_uart_to_usb_without_saying_anything_twice():
    made, said, uart, cdc = console()
    uart(b"report\r\napp: running\r\n>>> ")
    cdc.on_serial_data(b"running\r\n")
    cdc.on_serial_data(b">>> 1")
    uart(b"1")
    assert said == b"report\r\napp: running\r\n>>> 1"
    made.reset()
    uart(b"again")
    assert said.endswith(b">>> 1again")


def test_what_is_typed_waits_until_usb_runs():
    made, _, _, cdc = console()

    async def play():
        pump = asyncio.ensure_future(made.pump())
        made.type(b"\x01")
        await asyncio.sleep(0.01)
        assert not cdc.heard
        made.listen()
        await asyncio.sleep(0.01)
        pump.cancel()

    asyncio.run(play())
    assert cdc.heard == b"\x01"


def test_the_bus_runs_at_what_the_port_feeds_it_from():
    spi = SimpleNamespace(clock_frequency=125e6 / 240)
    mcu = SimpleNamespace(spi=[spi], clk_peri=125e6, clocks=SimpleNamespace(peri_ctrl=0x840))
    assert machine.baudrate(mcu) == 200000
    mcu.clocks.peri_ctrl = 0x800
    assert machine.baudrate(mcu) == 520833
