"""Run the scripts of tests/unix/device on a Cortex-M3: QEMU's mps2-an385, over the raw REPL."""

import os
import shutil
from pathlib import Path

import pytest

from lifeboat_host.qemu.board_spec import BoardSpec
from lifeboat_host.qemu.machine import Board

TESTS = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("LIFEBOAT_CACHE", TESTS.parent / ".lifeboat"))
FIRMWARE = CACHE / "mps2_an385" / "firmware.elf"
QEMU = "qemu-system-arm"
SPEC = BoardSpec("mps2_an385", "Cortex-M3", "sim", 0, 0, QEMU, ("-machine", "mps2-an385"))


class Arm(Board):
    """The board without any media: its devices are fakes in its RAM."""

    def __init__(self):
        super().__init__("", spec=SPEC)

    def arguments(self):
        console = ["-display", "none", "-monitor", "none", "-semihosting", "-serial", "stdio"]
        return [QEMU, *self.spec.machine, *console, "-kernel", str(FIRMWARE)]


def run(script, *args, timeout=300):
    """Run a device script; return its output lines. It fails when the script does."""
    if not FIRMWARE.exists():
        pytest.skip("no %s: ./lifeboat setup builds it" % FIRMWARE)
    if not shutil.which(QEMU):
        pytest.skip("%s is not installed: ./lifeboat setup installs it" % QEMU)
    source = (TESTS / "unix" / "device" / script).read_text()
    with Arm() as board:
        board.repl()
        out, err = board.run("import sys\nsys.argv[:] = %r" % [script, *args])
        assert not err, err
        out, err = board.run(source, timeout)
    tail = "\n".join(out.splitlines()[-20:])
    assert not err, "%s\n%s\n%s" % (script, tail, err)
    return out.splitlines()
