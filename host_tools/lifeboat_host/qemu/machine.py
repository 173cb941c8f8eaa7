"""QEMU boards: start, cut the power, talk to the console and to QMP.

    with Board("code.img", ["disk0.img", "disk1.img"]) as board:
        report = board.power_on_report()
        board.repl(interrupt=True)
        out, err = board.run("print(1 + 1)")
        board.cycle()

The vocabulary is labgrid's: on, off (a power cut), cycle, reset. Nothing sleeps: every wait is
for something and has a deadline in seconds.
"""

from __future__ import annotations

import codecs
import contextlib
import importlib.util
import json
import os
import select
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Union

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.model.report import parse_line
from lifeboat_host.qemu import board_spec
from lifeboat_host.qemu.board_spec import BoardSpec
from lifeboat_host.qemu.faulty_media import Export

# A raw image file, an NBD export, or the -blockdev description of anything else.
Medium = Union[str, "os.PathLike[str]", Export, Mapping[str, Any]]

_PORTS = 6  # of one ich9-ahci
_USB_PORTS = 15  # of one pci-ohci, at most
_TAIL = 400  # characters of console output shown with a failure


@dataclass
class Sata:
    """A SATA disk. options: further properties of QEMU's ide-hd, such as {"serial": "A1"}."""

    medium: Medium
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Usb:
    """A USB disk. options: further properties of QEMU's usb-storage."""

    medium: Medium
    options: Mapping[str, str] = field(default_factory=dict)


# A disk, or None for a port with nothing on it.
Drive = Union[Sata, Usb, Medium, None]


def boot_image(spec: BoardSpec) -> Path:
    """The boot stage padded to the size of its flash, as QEMU wants it; made when outdated."""
    firmware = spec.firmware
    image = firmware.with_name("pflash0.img")
    if not image.is_file() or image.stat().st_mtime_ns < firmware.stat().st_mtime_ns:
        scratch = image.with_name(f".{image.name}.{os.getpid()}")
        shutil.copyfile(firmware, scratch)
        os.truncate(scratch, spec.flash_size)
        os.replace(scratch, image)
    return image


def machine_arguments(
    spec: BoardSpec,
    flash: Medium,
    drives: Sequence[Drive] = (),
    icount: str | None = None,
    extra: Sequence[str] = (),
) -> list[str]:
    """The emulator's command for a board with these media, all but console and monitor.

    icount: value of QEMU's -icount, such as `shift=0`. extra: further arguments. Raises
    LifeboatError: no-firmware, board-drives, board-medium, no-emulator.
    """
    if spec.emulator == board_spec.RP2040PY:
        return [*_pico(spec, flash, drives), *extra]
    arguments = [spec.qemu, *spec.machine, "-display", "none", "-monitor", "none", "-nodefaults"]
    if spec.boot_base is None:
        arguments += ["-drive", _drive("pflash,unit=0", boot_image(spec)) + ",readonly=on"]
    else:
        boot = f"file={_escape(spec.firmware)},addr={spec.boot_base:#x}"
        arguments += ["-device", f"loader,{boot},force-raw=on"]
    interface = "pflash,unit=1" if spec.flash_kind == "pflash" else spec.flash_kind
    arguments += ["-drive", _drive(interface, flash)]
    if spec.disk_kind == "sd":
        arguments += _sd_card(spec, drives)
    else:
        usual: type[Sata] | type[Usb] = Usb if spec.disk_kind == "usb" else Sata
        sata: list[Sata | None] = []
        usb: list[Usb | None] = []
        for drive in drives:
            disk = usual(drive) if drive and not isinstance(drive, (Sata, Usb)) else drive
            if isinstance(disk, Sata):
                sata.append(disk)
            elif isinstance(disk, Usb):
                usb.append(disk)
            else:
                (sata if usual is Sata else usb).append(None)
        arguments += _sata(sata) + _usb(usb)
    if icount:
        arguments += ["-icount", icount]
    return [*arguments, *extra]


def _pico(spec: BoardSpec, flash: Medium, drives: Sequence[Drive] = ()) -> list[str]:
    """The emulator's command for a Pico with these media. Raises LifeboatError no-emulator."""
    if importlib.util.find_spec("rp2040py") is None:
        raise LifeboatError(
            "no-emulator",
            "the emulator rp2040py is not installed; it needs x86_64 and Python 3.11 or newer",
            f"run ./lifeboat setup --board {spec.id} in the source tree",
        )
    cards = [drive for drive in drives if drive is not None]
    if len(cards) > 1 or any(isinstance(card, Sata) for card in cards):
        raise LifeboatError(
            "board-drives",
            f"{spec.id} has one slot for an SD card and no SATA",
            "give it one disk image",
        )
    command = [sys.executable, "-m", "lifeboat_host.pico", "--firmware", str(spec.firmware)]
    for option, medium in (("--flash", flash), *(("--card", card) for card in cards)):
        if not isinstance(medium, (str, os.PathLike)):
            raise LifeboatError("board-medium", f"{spec.id}: {option} takes a file only")
        command += [option, os.path.abspath(medium)]
    return command


def _sata(disks: Sequence[Sata | None]) -> list[str]:
    arguments = []
    for controller in range((len(disks) + _PORTS - 1) // _PORTS or 1):
        arguments += ["-device", f"ich9-ahci,id=ahci{controller}"]
    for number, disk in enumerate(disks):
        if disk:
            bus = f"ahci{number // _PORTS}.{number % _PORTS}"
            options = {"bus": bus, "serial": f"LB{number:04}", **disk.options}
            arguments += _disk("ide-hd", f"disk{number}", disk.medium, options)
    return arguments


def _usb(disks: Sequence[Usb | None]) -> list[str]:
    if not disks:
        return []
    if len(disks) > _USB_PORTS:
        what = f"{len(disks)} USB disks, the controller has {_USB_PORTS} ports"
        raise LifeboatError("board-drives", what, "give it fewer")
    arguments = ["-device", f"pci-ohci,id=usb,num-ports={max(len(disks), 3)}"]
    for number, disk in enumerate(disks):
        if disk:
            node = f"usb{number}"
            place = {"id": f"{node}-disk", "bus": "usb.0", "port": str(number + 1)}
            options = {**place, "serial": f"LU{number:04}", **disk.options}
            arguments += _disk("usb-storage", node, disk.medium, options)
    return arguments


def _disk(device: str, node: str, medium: Medium, options: Mapping[str, str]) -> list[str]:
    """A disk that tells its errors to the board."""
    blockdev = {"driver": "raw", "node-name": node, "file": _protocol(medium)}
    properties = {"drive": node, "werror": "report", "rerror": "report", **options}
    device += "".join(f",{key}={_escape(value)}" for key, value in properties.items())
    return ["-blockdev", json.dumps(blockdev), "-device", device]


def _sd_card(spec: BoardSpec, drives: Sequence[Drive]) -> list[str]:
    cards = [drive for drive in drives if drive is not None]
    if not cards:
        return []
    (card,) = cards[:1]
    if len(cards) > 1 or isinstance(card, (Sata, Usb)):
        raise LifeboatError(
            "board-drives",
            f"{spec.id} has one slot for an SD card, no SATA and no USB",
            "give it one disk image",
        )
    if isinstance(card, (str, os.PathLike)) and os.path.isfile(card):
        size = os.path.getsize(card)
        if size & (size - 1) or not size:
            raise LifeboatError(
                "board-drives",
                f"{os.fspath(card)}: {size} bytes, but QEMU wants a power of two for an SD card",
                "make it larger with `truncate`, then make the region at its end anew",
            )
    return ["-drive", _drive("sd", card)]


def _protocol(medium: Medium) -> dict[str, Any]:
    """A -blockdev description of the bytes themselves."""
    if isinstance(medium, Export):
        return {"driver": "nbd", "server": {"type": "unix", "path": medium.path}}
    if isinstance(medium, Mapping):
        return dict(medium)
    return {"driver": "file", "filename": os.path.abspath(medium)}


def _drive(interface: str, medium: Medium) -> str:
    """A -drive value: devices that are soldered to the machine take no -blockdev."""

    def flat(prefix: str, node: object) -> str:
        if isinstance(node, bool):
            node = "on" if node else "off"
        if isinstance(node, Mapping):
            return "".join(flat(f"{prefix}.{key}", value) for key, value in node.items())
        if isinstance(node, (list, tuple)):
            return "".join(flat(f"{prefix}.{i}", value) for i, value in enumerate(node))
        return f",{prefix}={_escape(node)}"

    return f"if={interface},format=raw{flat('file', _protocol(medium))}"


def _escape(value: object) -> str:
    return str(value).replace(",", ",,")


class Qmp:
    """A QMP connection; `events` collects what QEMU says unasked."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(60)
        self._connection = connection
        self._file = connection.makefile("rb")
        self.events: list[dict[str, Any]] = []
        self._file.readline()  # the greeting
        self("qmp_capabilities")

    def __call__(self, command: str, **arguments: Any) -> Any:
        """Execute a command and return its result. Raises LifeboatError qmp."""
        message = {"execute": command, "arguments": arguments}
        try:
            self._connection.sendall(json.dumps(message).encode() + b"\n")
            while True:
                line = self._file.readline()
                if not line:
                    raise LifeboatError("qmp", f"{command}: QEMU closed the connection")
                answer = json.loads(line)
                if "return" in answer:
                    return answer["return"]
                if "error" in answer:
                    raise LifeboatError("qmp", f"{command}: {answer['error']['desc']}")
                self.events.append(answer)
        except OSError as error:
            raise LifeboatError("qmp", f"{command}: {error}") from None

    def close(self) -> None:
        self._file.close()
        self._connection.close()


class Board(AbstractContextManager["Board"]):
    """A QEMU board with its console on pipes. Switched on when entered as a context manager.

    flash: the code flash's medium. drives: the ports of the board's kind of disk in order, None
    for an empty one, among them disks of another kind; or the one SD card.
    `flash`, `drives`, `icount` and `extra` may be changed while the board is off.
    """

    def __init__(
        self,
        flash: Medium,
        drives: Sequence[Drive] = (),
        *,
        spec: BoardSpec | None = None,
        icount: str | None = None,
        extra: Sequence[str] = (),
    ) -> None:
        self.spec = spec or board_spec.load()
        self.flash = flash
        self.drives = list(drives)
        self.icount = icount
        self.extra = list(extra)
        self.console = ""  # all output since the board was switched on
        self._read_to = 0  # how far wait_for() has got in it
        self._folder = Path(tempfile.mkdtemp(prefix="lifeboat-qemu."))
        self._process: subprocess.Popen[bytes] | None = None
        self._qmp: Qmp | None = None

    def arguments(self) -> list[str]:
        """QEMU's command as it is, without the monitor."""
        console = ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
        machine = machine_arguments(self.spec, self.flash, self.drives, self.icount, self.extra)
        return machine + console

    def command_line(self) -> str:
        """The command for use by hand, quoted for a shell."""
        return shlex.join(self.arguments())

    # power

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process number of the running QEMU. Raises LifeboatError board-off."""
        return self._running().pid

    def on(self) -> None:
        """Start QEMU. Returns as soon as its monitor answers; the board is booting then."""
        if self.running:
            return
        self.off()
        path = str(self._folder / "qmp")
        monitor = ["-chardev", f"socket,id=qmp,path={path}", "-mon", "chardev=qmp,mode=control"]
        with socket.socket(socket.AF_UNIX) as listener, open(self._stderr_path, "wb") as stderr:
            listener.bind(path)
            listener.listen(1)
            try:
                process = self._spawn(self.arguments() + monitor, stderr)
                while not select.select([listener], [], [], 0.1)[0]:
                    if process.poll() is not None:
                        raise self._failure("qemu", "QEMU ended at once")
                self._qmp = Qmp(listener.accept()[0])
            except OSError as error:
                hint = "run ./lifeboat setup, or install QEMU for riscv32"
                raise LifeboatError("qemu", f"{self.spec.qemu}: {error.strerror}", hint) from None
            except LifeboatError:
                self.off()
                raise
            finally:
                os.unlink(path)

    def _spawn(self, command: Sequence[str], stderr: BinaryIO) -> subprocess.Popen[bytes]:
        self.console, self._read_to = "", 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, bufsize=0
        )
        return self._process

    def kill(self) -> None:
        """Cut the power from any thread: a wait for the console then ends as board-ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def off(self) -> None:
        """Cut the power: QEMU is killed. What it printed is still in `console`.

        What the devices said they have taken is in their media then, but for those of a lab,
        which decides that itself.
        """
        if self._process is None:
            return
        self._drain()
        self.kill()
        while self._read(0):
            pass
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                stream.close()
        self._process = None
        if self._qmp:
            self._qmp.close()
            self._qmp = None

    def _drain(self) -> None:
        """Stop the machine and let QEMU end its writes: its SPI flash says "done" before they are.

        Not with media of a lab: a drain would wait for a request that is never answered.
        """
        media = [d.medium if isinstance(d, (Sata, Usb)) else d for d in self.drives]
        if self._qmp and self.running and not any(isinstance(m, Export) for m in media):
            with contextlib.suppress(LifeboatError):
                self._qmp("stop")

    def cycle(self) -> None:
        """Power off and on again."""
        self.off()
        self.on()

    def reset(self) -> None:
        """Press the reset button: RAM keeps its content."""
        self.qmp("system_reset")

    def close(self) -> None:
        """Off, and nothing is left behind."""
        self.off()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Board:  # noqa: PYI034 (Self is not in Python 3.9)
        self.on()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # monitor

    def qmp(self, command: str, **arguments: Any) -> Any:
        """Execute a QMP command and return its result."""
        self._running()
        assert self._qmp is not None
        return self._qmp(command, **arguments)

    def hmp(self, line: str) -> str:
        """Execute a line of the human monitor."""
        return str(self.qmp("human-monitor-command", **{"command-line": line}))

    # console

    def send(self, text: str | bytes) -> None:
        """Type on the console."""
        process = self._running()
        assert process.stdin is not None
        process.stdin.write(text.encode() if isinstance(text, str) else text)

    def wait_for(self, text: str, timeout: float = 30) -> str:
        """Console output from where the last wait ended up to and including `text`.

        Raises LifeboatError: board-timeout, or board-ended when QEMU is gone.
        """
        deadline = time.monotonic() + timeout
        while True:
            at = self.console.find(text, self._read_to)
            if at >= 0:
                start, self._read_to = self._read_to, at + len(text)
                return self.console[start : self._read_to]
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._failure("board-timeout", f"no {text!r} after {timeout} seconds")
            if self._read(left) is None:
                raise self._failure("board-ended", f"QEMU ended before it said {text!r}")

    def power_on_report(self, timeout: float = 300) -> dict[str, Any]:
        """Wait for the report line of this power-on and return its object."""
        deadline = time.monotonic() + timeout
        while True:
            line = self.wait_for("\n", max(deadline - time.monotonic(), 0))
            report = parse_line(line)
            if report:
                return report

    def repl(self, interrupt: bool = False, timeout: float = 30) -> None:
        """Enter the raw REPL. interrupt: stop the application first, by Ctrl-C."""
        if interrupt:
            self.send("\r\x03\x03")
        self.wait_for(">>> ", timeout)
        self.send("\r\x01")
        self.wait_for("raw REPL; CTRL-B to exit\r\n>", timeout)

    def run(self, code: str, timeout: float = 60) -> tuple[str, str]:
        """Run Python code in the raw REPL; (what it printed, its traceback or "")."""
        self.send(code.encode() + b"\x04")
        self.wait_for("OK", timeout)
        out = self.wait_for("\x04", timeout)[:-1]
        err = self.wait_for("\x04", timeout)[:-1]
        self.wait_for(">", timeout)
        return out, err

    def _read(self, timeout: float) -> int | None:
        """Bytes that the board printed within that time; None when QEMU has ended."""
        assert self._process is not None and self._process.stdout is not None
        stream = self._process.stdout.fileno()
        if not select.select([stream], [], [], timeout)[0]:
            return 0
        data = os.read(stream, 65536)
        self.console += self._decoder.decode(data)
        return len(data) or None

    # failures

    @property
    def _stderr_path(self) -> Path:
        return self._folder / "stderr"

    @property
    def stderr(self) -> str:
        """What QEMU itself had to say."""
        return self._stderr_path.read_text(errors="replace").strip()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise LifeboatError("board-off", "the board is off", "switch it on first")
        return self._process

    def _failure(self, code: str, what: str) -> LifeboatError:
        message = (
            f"{what}; console ends with {self.console[-_TAIL:]!r}; "
            f"QEMU said {self.stderr or 'nothing'!r}"
        )
        return LifeboatError(code, message, f"by hand: {self.command_line()}")
