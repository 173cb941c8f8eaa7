"""The machine: rp2040py's chip, its flash and an SD card in files, the console on stdio or a pty.

    python -m lifeboat_host.pico --firmware firmware.bin --flash code.img --card card.img

--flash is the part of the chip's flash that holds embedded code; MicroPython lies below it. The
card is on SPI 0. What the board says before its USB runs comes from UART 0, what it says later
from its USB serial port, which also takes what is typed. SIGTERM switches the board off, SIGHUP
presses its reset button.

Every erase and program of the flash and every block written to the card is an operation. --trace
names a file that has a line for each, and for each complaint of the card; --cut N ends the power
at the N-th, before it or, with --torn, half-way through it.

The chip's flash has no timing or wear, and no write protection. Only one core runs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import pty
import signal
import struct
import sys
import tempfile
import tty
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lifeboat_host.pico.sdcard import Card

CODE_AT = 0xA0000  # where rp2.Flash(start=0) of the board begins
EXIT_CUT = 75
_SPI, _CS = 0, 17
_XIP = 0x10000000
_SECTOR_ERASE, _BLOCK_ERASE, _PAGE_PROGRAM = 0x20, 0xD8, 0x02
_FROM_PLL_USB = 2  # CLK_PERI_CTRL.AUXSRC
_UART_SENT = 1 << 5  # interrupt
_UNREAD = 1 << 20  # bytes kept for who reads the pty slowly
_TAIL = 4096  # bytes from the UART in which the first ones from USB are looked for


class Power:
    """Counts operations, and fails at the chosen one."""

    def __init__(self, trace: Path | None, cut_at: int = 0, torn: bool = False) -> None:
        self._trace = open(trace, "w", buffering=1) if trace else None  # noqa: SIM115 (for good)
        self._cut_at, self._torn, self._count = cut_at, torn, 0

    def note(self, line: str) -> None:
        if self._trace:
            self._trace.write(line + "\n")

    def operation(self, what: str, half: Callable[[], None]) -> None:
        """Account for an operation; half() does half of it, and is called when it is torn."""
        self._count += 1
        self.note(what)
        if self._count == self._cut_at:
            if self._torn:
                half()
            sys.stderr.write(f"power cut at operation {self._count}: {what}\n")
            sys.stderr.flush()
            os._exit(EXIT_CUT)


class FlashFile:
    """Keeps a file equal to the chip's flash from CODE_AT on."""

    def __init__(self, path: Path, mcu: Any, power: Power) -> None:
        self._file = os.open(path, os.O_RDWR)
        self._size = os.fstat(self._file).st_size
        self._mcu, self._power = mcu, power
        mcu.flash[CODE_AT : CODE_AT + self._size] = os.pread(self._file, self._size, 0)
        self._ssi = mcu.ssi
        self._apply = self._ssi._apply_command
        self._ssi._apply_command = self._command

    # The chip has got a whole command: its select line rises.
    def _command(self) -> None:
        command = self._ssi._tx_buffer
        code = command[0] if command else 0
        if code not in (_SECTOR_ERASE, _BLOCK_ERASE, _PAGE_PROGRAM) or len(command) < 4:
            self._apply()
            return
        if not self._ssi._write_enabled:
            self._power.note("complaint: flash: no write enable")
            self._apply()
            return
        at = int.from_bytes(command[1:4], "big")
        size = {_SECTOR_ERASE: 4096, _BLOCK_ERASE: 65536}.get(code, len(command) - 4)
        name = "program" if code == _PAGE_PROGRAM else "erase"
        if code != _PAGE_PROGRAM:
            at -= at % size
        if not CODE_AT <= at <= at + size <= CODE_AT + self._size:
            self._power.note(f"complaint: flash: {name} outside of the code, at {at:#x}")
        before = bytes(self._mcu.flash[at : at + size])
        wanted = command[4:] if code == _PAGE_PROGRAM else b""
        if any(new & ~old for new, old in zip(wanted, before)):
            self._power.note(f"complaint: flash: programmed without an erase at {at:#x}")

        def half() -> None:
            self._apply()
            middle = at + size // 2
            self._mcu.flash[middle : at + size] = before[size // 2 :]
            self._save(at, size)

        self._power.operation(f"flash {name} {at - CODE_AT:#x}", half)
        self._apply()
        self._save(at, size)

    def _save(self, at: int, size: int) -> None:
        start, end = max(at, CODE_AT), min(at + size, CODE_AT + self._size)
        if start < end:
            os.pwrite(self._file, self._mcu.flash[start:end], start - CODE_AT)


class CardFile:
    """The medium of a card: its blocks by number, in a file."""

    def __init__(self, path: Path, power: Power) -> None:
        self._file = os.open(path, os.O_RDWR)
        self.sectors: int = os.fstat(self._file).st_size // 512
        self._power = power

    def get(self, lba: int, default: bytes = b"") -> bytes:
        return os.pread(self._file, 512, lba * 512).ljust(512, b"\0")

    def __setitem__(self, lba: int, data: bytes) -> None:
        half = data[:256] + self.get(lba)[256:]
        self._power.operation(f"card write {lba}", lambda: self._put(lba, half))
        self._put(lba, data)

    def _put(self, lba: int, data: bytes) -> None:
        os.pwrite(self._file, data, lba * 512)


class _Complaints(list[str]):
    def __init__(self, power: Power) -> None:
        super().__init__()
        self._power = power

    def append(self, complaint: str) -> None:
        super().append(complaint)
        self._power.note(f"complaint: card: {complaint}")


class _Clock:
    """The chip's time, for the card."""

    def __init__(self, mcu: Any) -> None:
        self._mcu = mcu

    @property
    def ns(self) -> int:
        return int(self._mcu.clock.nanos)


def baudrate(mcu: Any) -> int:
    """Hz of SPI 0. The port feeds it from the USB PLL; the emulator thinks of 125 MHz always."""
    spi = mcu.spi[_SPI]
    usb = mcu.clocks.peri_ctrl >> 5 & 7 == _FROM_PLL_USB
    return int(spi.clock_frequency * (48e6 / mcu.clk_peri if usb else 1))


def put_card(mcu: Any, path: Path, power: Power) -> None:
    """Put a card into the slot at SPI 0."""
    blocks = CardFile(path, power)
    card: Any = Card("sdhc", blocks.sectors, _Clock(mcu))  # type: ignore[no-untyped-call]
    card.blocks, card.complaints = blocks, _Complaints(power)
    spi, low = mcu.spi[_SPI], _low()
    selected = False

    def transmit(value: int) -> None:
        if selected:
            spi.complete_transmit(card.byte(value, baudrate(mcu)))
        else:
            card.idle_clocks(8)
            spi.complete_transmit(0xFF)

    def chip_select(new: Any, old: Any) -> None:
        nonlocal selected
        if selected != (new == low):
            selected = new == low
            card.selected(selected)

    spi.on_transmit = transmit
    mcu.gpio[_CS].add_listener(chip_select)


def mend_uart(uart: Any) -> None:
    """The emulator's UART can always send, and says so by an interrupt that never ends."""

    def check_interrupts() -> None:
        uart._interrupt_status &= ~_UART_SENT
        pending = uart._interrupt_status & uart._interrupt_mask
        uart.rp2040.set_interrupt(uart.irq, bool(pending))

    uart.check_interrupts = check_interrupts


def _low() -> Any:
    from rp2040py.gpio_pin import GPIOPinState

    return GPIOPinState.LOW


class Console:
    """What the board says, in one stream; and what is typed, on its way to the board."""

    def __init__(self, device: Any, say: Callable[[bytes], None]) -> None:
        self._cdc = device.cdc
        self._say = say
        self._typed = bytearray()
        self.to_usb: Callable[[bytes], None] = lambda data: None
        self.reset()
        device.mcu.uart[0].on_byte = self._from_uart
        device.cdc.on_serial_data = self._from_usb

    def reset(self) -> None:
        """The board begins anew: its USB does not run."""
        self._listens = self._usb = False
        self._tail = bytearray()
        self._skip = 0
        self._typed.clear()

    def _from_uart(self, byte: int) -> None:
        if not self._usb:
            self._tail.append(byte)
            del self._tail[:-_TAIL]
            self._say(bytes((byte,)))

    # USB begins with what it kept until somebody listened, and the UART has said that already.
    def _from_usb(self, buffer: bytes) -> None:
        data = bytes(buffer)
        self.to_usb(data)
        if not self._usb:
            self._usb = True
            at = self._tail.rfind(data)
            self._skip = len(self._tail) - at if at >= 0 else 0
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        self._say(data[skipped:])

    def listen(self) -> None:
        """USB runs: the board can hear what is typed."""
        self._listens = True

    def type(self, data: bytes) -> None:
        self._typed += data

    async def pump(self) -> None:
        """Hand over what was typed as fast as the board takes it."""
        while True:
            while self._typed and self._listens and not self._cdc.tx_fifo.full:
                self._cdc.send_serial_byte(self._typed.pop(0))
            await asyncio.sleep(0)


class Port:
    """The pty that stands for the board's USB port: it goes when the board begins anew, and comes
    back under the same name, a link, when its USB runs again."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, path: Path, typed: Callable[[bytes], None]
    ) -> None:
        self.path = path
        self._loop, self._typed = loop, typed
        self._ends: tuple[int, int] | None = None
        self._unread = bytearray()
        self.open()

    def open(self) -> None:
        """Nothing happens when it is open."""
        if self._ends:
            return
        master, slave = self._ends = pty.openpty()
        tty.setraw(slave)
        os.set_blocking(master, False)
        self._loop.add_reader(master, lambda: self._typed(os.read(master, 4096)))
        scratch = self.path.with_name(self.path.name + ".new")
        scratch.unlink(missing_ok=True)
        scratch.symlink_to(os.ttyname(slave))
        scratch.replace(self.path)

    def close(self) -> None:
        """Whoever has it open finds it gone."""
        if self._ends:
            self._loop.remove_reader(self._ends[0])
            self._loop.remove_writer(self._ends[0])
            self.path.unlink(missing_ok=True)
            for end in self._ends:
                os.close(end)
        self._ends = None
        self._unread.clear()

    def send(self, data: bytes) -> None:
        self._unread.extend(data)
        del self._unread[:-_UNREAD]  # nobody reads: then what is old is lost
        self._flush()

    def _flush(self) -> None:
        if not self._ends:
            return
        master = self._ends[0]
        try:
            while self._unread:
                del self._unread[: os.write(master, self._unread[:4096])]
        except BlockingIOError:
            self._loop.add_writer(master, self._flush)
            return
        self._loop.remove_writer(master)


def _uf2(data: bytes) -> bytes:
    """The only form in which the emulator takes a program."""
    pieces = [data[at : at + 256].ljust(256, b"\0") for at in range(0, len(data), 256)]
    out = bytearray()
    for number, piece in enumerate(pieces):
        words = (0x0A324655, 0x9E5D5157, 0x2000, _XIP + 256 * number, 256, number, len(pieces))
        out += struct.pack("<8I", *words, 0xE48BFF56) + piece.ljust(476, b"\0")
        out += struct.pack("<I", 0x0AB16F30)
    return bytes(out)


def _chip(firmware: Path) -> Any:
    """The emulator with this firmware in its flash."""
    from rp2040py.boards import BoardSpec
    from rp2040py.device.base_device import BaseDevice

    with tempfile.NamedTemporaryFile(suffix=".uf2") as file:
        file.write(_uf2(firmware.read_bytes()))
        file.flush()
        return BaseDevice(board=BoardSpec(image=file.name))


async def _run(args: argparse.Namespace) -> int:
    power = Power(args.trace, args.cut, args.torn)
    device = _chip(args.firmware)
    FlashFile(args.flash, device.mcu, power)
    mend_uart(device.mcu.uart[0])
    if args.card:
        put_card(device.mcu, args.card, power)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def say(data: bytes) -> None:
        while data:
            data = data[os.write(1, data) :]

    console = Console(device, say)
    port: Port | None = None
    if args.pty:
        port = Port(loop, args.pty.with_name("tty"), console.type)
        console.to_usb = port.send
        scratch = args.pty.with_name(args.pty.name + ".new")
        scratch.write_text(str(port.path))
        scratch.replace(args.pty)
    else:

        def typed() -> None:
            data = os.read(0, 4096)
            console.type(data)
            if not data:
                loop.remove_reader(0)

        loop.add_reader(0, typed)

    def begin_anew() -> None:
        console.reset()
        if port:
            port.close()

    def usb_runs() -> None:
        if port:
            port.open()
        console.listen()

    def press_reset() -> None:
        begin_anew()
        device.hard_reset()

    device.mcu.watchdog.on_watchdog_trigger = _both(
        begin_anew, device.mcu.watchdog.on_watchdog_trigger
    )
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    loop.add_signal_handler(signal.SIGHUP, press_reset)
    pump = loop.create_task(console.pump())
    starting = loop.create_task(device.astart(None))
    await asyncio.sleep(0)
    await _first(ended.wait(), starting)
    if not ended.is_set():
        usb_runs()
        device.cdc.on_device_connected = usb_runs  # after a reset
        await device.simulator.wait_for(ended, None)  # or until the emulator fails
    device.stop()
    pump.cancel()
    return 0


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def call() -> None:
        first()
        second()

    return call


async def _first(*waits: Any) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


def main() -> int:
    """Run the machine until it is switched off. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lifeboat_host.pico", description=__doc__)
    parser.add_argument("--firmware", type=Path, required=True)
    parser.add_argument("--flash", type=Path, required=True)
    parser.add_argument("--card", type=Path)
    parser.add_argument("--pty", type=Path, help="file that gets the name of the console's pty")
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--cut", type=int, default=0)
    parser.add_argument("--torn", action="store_true")
    return asyncio.run(_run(parser.parse_args()))
